//! The log line of a request, at the most verbose level.

use std::time::Instant;

use kvbroker_log::SessionRef;
use kvbroker_protocol::{Operation, Outcome, SessionId};

use crate::call::ClientId;

/// One line per request, so that the interleaving of clients can be seen. Values never appear.
pub(crate) struct Trace {
    started: Instant,
    client: ClientId,
    session: Option<SessionRef>,
    verb: &'static str,
    key: Option<String>,
}

impl Trace {
    /// A longer key is cut in the log.
    const KEY_BYTES: usize = 80;

    pub(crate) fn start(client: ClientId, session: Option<SessionRef>, operation: &Operation) -> Trace {
        let key = operation.first_key();
        let key = key.map(|key| String::from_utf8_lossy(&key[..key.len().min(Trace::KEY_BYTES)]).into_owned());
        Trace { started: Instant::now(), client, session, verb: operation.verb(), key }
    }

    pub(crate) fn finish(self, outcome: &Outcome) {
        tracing::trace!(
            client = self.client,
            session = self.session.map(|session| SessionId(session.id).to_string()),
            sequence = self.session.map(|session| session.sequence),
            key = self.key,
            revision = outcome.revision,
            outcome = outcome.result.as_ref().map_or_else(|failure| failure.code.name(), |_| "ok"),
            us = self.started.elapsed().as_micros() as u64,
            "{}",
            self.verb
        );
    }
}

#[cfg(test)]
mod tests {
    use kvbroker_protocol::{Compare, Condition, Scan, Txn};

    use super::*;

    #[test]
    fn a_log_line_names_a_key_where_there_is_one() {
        let key = |name: &str| name.as_bytes().to_vec();
        let scan = || Scan { prefix: key("p"), ..Scan::default() };
        let incr = |name| Operation::Incr { key: key(name), by: 1 };
        let compare = Compare { key: key("c"), condition: Condition::Exists };
        let txn = |compares, then| Operation::Txn(Box::new(Txn { compares, then, otherwise: vec![incr("e")] }));
        let named = [
            (incr("n"), Some("n")),
            (Operation::Exists { key: key("x") }, Some("x")),
            (Operation::Mget { keys: vec![key("a"), key("b")] }, Some("a")),
            (Operation::Scan(scan()), Some("p")),
            (txn(vec![compare], vec![incr("t")]), Some("c")),
            (txn(vec![], vec![Operation::Size, incr("t")]), Some("t")),
            (Operation::Size, None),
        ];
        for (operation, name) in named {
            assert_eq!(operation.first_key().map(Vec::as_slice), name.map(str::as_bytes), "{operation:?}");
        }
    }
}
