//! `events`: what has changed behind a revision, all of it, or the next change.

use std::time::{Duration, Instant};

use kvbroker::client::Client;
use kvbroker::exit::Exit;
use kvbroker_protocol::{KeyEvent, RevisionEvents, key_to_json_text, key_to_line_text};

use crate::history::rfc3339;
use crate::output::{Output, Print};
use crate::{Global, Trouble, remark};

/// What was asked for.
pub(crate) struct Wanted {
    pub(crate) prefix: Vec<u8>,
    /// None: from now on.
    pub(crate) after: Option<u64>,
    /// Most revisions.
    pub(crate) limit: Option<u64>,
    /// For the first change; None: not at all.
    pub(crate) wait: Option<Duration>,
}

pub(crate) fn run(global: &Global, client: &Client, wanted: Wanted, out: &mut Output) -> Result<Exit, Trouble> {
    let Wanted { prefix, mut after, limit, wait } = wanted;
    let start = Instant::now();
    let mut left = limit.map_or(usize::MAX, |revisions| usize::try_from(revisions).unwrap_or(usize::MAX));
    let mut any = false;
    let through = loop {
        let wait_left = wait.filter(|_| !any).unwrap_or_default().saturating_sub(start.elapsed());
        let page = client.events(&prefix, after, limit.map(|_| left), wait_left)?;
        for revision in &page.events {
            for change in &revision.changes {
                out.item(&Line { revision, change })?;
            }
        }
        // Whoever reads along sees each page when it is there.
        out.flush()?;
        any |= !page.events.is_empty();
        left = left.saturating_sub(page.events.len());
        after = Some(page.through);
        if left == 0 || (!page.more && (any || wait_left.is_zero())) {
            break page.through;
        }
    };
    if out.is_json() {
        out.line(&format!("{{\"through\":{through}}}"))?;
    } else {
        remark(global, &format!("these are all changes up to revision {through}; for those behind it: --after {through}"));
    }
    Ok(if any || wait.is_none() { Exit::Ok } else { Exit::NotFound })
}

/// One change of one key.
struct Line<'a> {
    revision: &'a RevisionEvents,
    change: &'a KeyEvent,
}

impl Print for Line<'_> {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        let Line { revision: RevisionEvents { revision, time_ms, .. }, change: KeyEvent { key, kind, .. } } = self;
        let name = kind.name();
        if json {
            line.extend_from_slice(format!("{{\"rev\":{revision},\"time\":{time_ms},\"event\":\"{name}\",\"key\":").as_bytes());
            key_to_json_text(line, key);
        } else {
            line.extend_from_slice(format!("{revision}\t{}\t{name}\t", rfc3339(*time_ms)).as_bytes());
            key_to_line_text(line, key);
        }
        if let Some(value) = kind.value() {
            line.extend_from_slice(if json { b",\"value\":" } else { b"\t" });
            value.write_json(line);
        }
        if json {
            line.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::{ChangeKind, Stored};

    use super::*;

    #[test]
    fn a_change_is_a_line() {
        let shown = |json, kind| {
            let change = KeyEvent { key: b"a\tb".to_vec(), kind, before: None };
            let revision = RevisionEvents { revision: 7, time_ms: 1_700_000_000_123, changes: vec![], origin: None };
            let mut line = Vec::new();
            Line { revision: &revision, change: &change }.print(json, &mut line);
            String::from_utf8(line).unwrap()
        };
        let put = || ChangeKind::Put(Stored::text("x\n").unwrap());
        assert_eq!(shown(false, put()), "7\t2023-11-14T22:13:20.123Z\tput\t\"a\\tb\"\t\"x\\n\"");
        assert_eq!(shown(true, put()), r#"{"rev":7,"time":1700000000123,"event":"put","key":"a\tb","value":"x\n"}"#);
        assert_eq!(shown(false, ChangeKind::Expire), "7\t2023-11-14T22:13:20.123Z\texpire\t\"a\\tb\"");
        assert_eq!(shown(true, ChangeKind::Remove), r#"{"rev":7,"time":1700000000123,"event":"remove","key":"a\tb"}"#);
    }
}
