//! Reading one outcome in its map form, which says by itself what it is: the form of what an old request was answered, for
//! whoever does not have that request any more.
//!
//! Caveat: `value` alone is read as a removed value, also where it is the integer of an `incr`. Both look the same on the wire.

use crate::conversion::{ConversionAnswer, read_rules};
use crate::error::{Failure, Status};
use crate::events::{read_epoch, read_events};
use crate::msgpack::{Cursor, Token};
use crate::queue::{self, QueueAnswer};
use crate::reply::{Answer, Fate, Outcome};
use crate::reply_decode::{
    ReplyError, boolean, code_of, deadline, key, keys, optional_uint, rows, stored, text, uint, users, values, versions,
};
use crate::routing::{self, MessageCopy, RoutingAnswer};
use crate::value::{Key, Stored};

/// What a map said, as far as it was read.
#[derive(Default)]
struct Fields {
    status: Option<Status>,
    revision: Option<u64>,
    failure: Option<Failure>,
    answer: Option<Answer>,
    value: Option<Stored>,
    revisions: (Option<u64>, Option<u64>),
    cursor: Option<Key>,
    snapshot: Option<u64>,
    ttl: Option<(Option<u64>, Option<u64>)>,
    succeeded: Option<bool>,
    results: Option<Vec<Outcome>>,
    removed: Option<u64>,
    more: Option<bool>,
    oldest: Option<u64>,
    through: Option<u64>,
    epoch: Option<u64>,
    lease_ms: Option<u64>,
    transient: Option<bool>,
}

/// Reads one outcome from a MessagePack map of names.
///
/// # Errors
/// [`ReplyError`] if it is none.
pub fn decode_outcome(body: &[u8]) -> Result<Outcome, ReplyError> {
    crate::msgpack::check(body, crate::limits::DEPTH_MAX + 16)?;
    named_outcome(&mut Cursor::new(body))
}

pub(crate) fn named_outcome(cursor: &mut Cursor<'_>) -> Result<Outcome, ReplyError> {
    let Token::Map(length) = cursor.token()? else { return Err(ReplyError("an outcome is no map".into())) };
    let mut fields = Fields::default();
    for _ in 0..length {
        let name = text(cursor)?;
        fields.read(&name, cursor)?;
    }
    fields.outcome()
}

impl Fields {
    /// The copies of a message, if they were read already.
    fn copies(&mut self) -> Vec<MessageCopy> {
        match self.answer.take() {
            Some(Answer::Routing(RoutingAnswer::Published { copies, .. })) => copies,
            _ => Vec::new(),
        }
    }

    fn read(&mut self, name: &str, cursor: &mut Cursor<'_>) -> Result<(), ReplyError> {
        match name {
            "status" => {
                let name = text(cursor)?;
                let status =
                    [Status::Ok, Status::Failed, Status::Invalid, Status::Unknown].into_iter().find(|s| s.name() == name);
                self.status = Some(status.ok_or_else(|| ReplyError(format!("its status is {name:?}")))?);
            }
            "rev" => self.revision = Some(uint(cursor)?),
            "error" => self.failure = Some(named_failure(cursor)?),
            "value" => self.value = Some(stored(cursor)?),
            "modified" => self.revisions.0 = Some(uint(cursor)?),
            "created" => self.revisions.1 = Some(uint(cursor)?),
            "size" => self.answer = Some(Answer::Size(uint(cursor)?)),
            "exists" => self.answer = Some(Answer::Exists(boolean(cursor)?)),
            "values" => self.answer = Some(values(cursor, None)?),
            "keys" => self.answer = Some(Answer::Keys { keys: keys(cursor)?, cursor: None, snapshot: None }),
            "rows" => self.answer = Some(Answer::Rows { rows: rows(cursor)?, cursor: None, snapshot: None }),
            "versions" => {
                let versions = versions(cursor)?;
                self.answer = Some(Answer::History { versions, more: false, oldest: 0 });
            }
            "events" => {
                self.answer = Some(Answer::Events { events: read_events(cursor)?, through: 0, more: false, epoch: 0 });
            }
            "through" => self.through = Some(uint(cursor)?),
            "epoch" => self.epoch = Some(read_epoch(cursor)?),
            "replaced" => self.answer = Some(Answer::Granted { replaced: boolean(cursor)? }),
            "users" => self.answer = Some(Answer::Who(users(cursor)?)),
            "cursor" => self.cursor = key(cursor)?,
            "snapshot" => self.snapshot = Some(uint(cursor)?),
            "ttl" => self.ttl.get_or_insert_default().0 = optional_uint(cursor)?,
            "expires" => self.ttl.get_or_insert_default().1 = optional_uint(cursor)?,
            "succeeded" => self.succeeded = Some(boolean(cursor)?),
            "results" => {
                let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no results".into())) };
                self.results = Some((0..count).map(|_| named_outcome(cursor)).collect::<Result<_, _>>()?);
            }
            "rules" => {
                self.answer = Some(Answer::Conversion(ConversionAnswer::Rules { rules: read_rules(cursor)?, cursor: None }));
            }
            "converted" => self.answer = Some(Answer::Conversion(ConversionAnswer::Converted(stored(cursor)?))),
            "item" => self.answer = Some(Answer::Queue(QueueAnswer::Pushed { item: queue::item(cursor)?, transient: false })),
            "transient" => self.transient = Some(boolean(cursor)?),
            "items" => {
                let items = queue::read_deliveries(cursor)?;
                self.answer = Some(Answer::Queue(QueueAnswer::Pulled { items, lease_ms: 0 }));
            }
            "routed" => {
                let copies = self.copies();
                self.answer = Some(Answer::Routing(RoutingAnswer::Published { routed: uint(cursor)?, copies }));
            }
            "copies" => {
                let routed = match self.answer {
                    Some(Answer::Routing(RoutingAnswer::Published { routed, .. })) => routed,
                    _ => 0,
                };
                let copies = routing::read_copies(cursor)?;
                self.answer = Some(Answer::Routing(RoutingAnswer::Published { routed, copies }));
            }
            "lease" => self.lease_ms = Some(uint(cursor)?),
            "kicked" => self.answer = Some(Answer::Queue(QueueAnswer::Kicked { kicked: uint(cursor)?, more: false })),
            "removed" => self.removed = Some(uint(cursor)?),
            "more" => self.more = Some(boolean(cursor)?),
            "oldest" => self.oldest = Some(uint(cursor)?),
            "state" => {
                self.answer = Some(Answer::Result(match text(cursor)?.as_str() {
                    "acknowledged" => Fate::Acknowledged,
                    "filled" => Fate::Filled,
                    _ => Fate::Undecided,
                }));
            }
            "outcome" => self.answer = Some(Answer::Result(Fate::Decided(Box::new(named_outcome(cursor)?)))),
            // A newer broker may say more.
            _ => {
                cursor.raw()?;
            }
        }
        Ok(())
    }

    fn outcome(self) -> Result<Outcome, ReplyError> {
        let status = self.status.ok_or_else(|| ReplyError("an outcome without a status".into()))?;
        if status != Status::Ok {
            let failure = self.failure.ok_or_else(|| ReplyError("a failure without an error".into()))?;
            return Ok(Outcome { revision: self.revision, result: Err(failure) });
        }
        let more = self.more.unwrap_or_default();
        let answer = match (self.answer, self.value, self.revisions) {
            (_, Some(value), (Some(modified), Some(created))) => Answer::Value { value, modified, created },
            (_, Some(value), _) => Answer::Removed(value),
            (Some(Answer::Keys { keys, .. }), ..) => Answer::Keys { keys, cursor: self.cursor, snapshot: self.snapshot },
            (Some(Answer::Rows { rows, .. }), ..) => Answer::Rows { rows, cursor: self.cursor, snapshot: self.snapshot },
            (Some(Answer::History { versions, .. }), ..) => {
                Answer::History { versions, more, oldest: self.oldest.unwrap_or_default() }
            }
            (Some(Answer::Events { events, .. }), ..) => {
                let epoch = self.epoch.ok_or_else(|| ReplyError("events without an epoch".into()))?;
                Answer::Events { events, through: self.through.unwrap_or_default(), more, epoch }
            }
            (Some(Answer::Queue(QueueAnswer::Pushed { item, .. })), ..) => {
                Answer::Queue(QueueAnswer::Pushed { item, transient: self.transient.unwrap_or_default() })
            }
            (Some(Answer::Queue(QueueAnswer::Pulled { items, .. })), ..) => {
                Answer::Queue(QueueAnswer::Pulled { items, lease_ms: self.lease_ms.unwrap_or_default() })
            }
            (Some(Answer::Queue(QueueAnswer::Kicked { kicked, .. })), ..) => Answer::Queue(QueueAnswer::Kicked { kicked, more }),
            (Some(Answer::Conversion(ConversionAnswer::Rules { rules, .. })), ..) => {
                Answer::Conversion(ConversionAnswer::Rules { rules, cursor: self.cursor })
            }
            (Some(answer), ..) => answer,
            (None, ..) => match (self.succeeded, self.removed, self.ttl) {
                (Some(succeeded), ..) => Answer::Txn { succeeded, results: self.results.unwrap_or_default() },
                (_, Some(removed), _) => Answer::Deleted { removed, more },
                (_, _, Some((left_ms, at_ms))) => deadline(left_ms, at_ms),
                _ => Answer::Done,
            },
        };
        Ok(Outcome { revision: self.revision, result: Ok(answer) })
    }
}

fn named_failure(cursor: &mut Cursor<'_>) -> Result<Failure, ReplyError> {
    let Token::Map(length) = cursor.token()? else { return Err(ReplyError("an error is no map".into())) };
    let (mut name, mut message, mut definite) = (None, String::new(), true);
    let (mut retry_after_ms, mut original, mut oldest) = (None, None, None);
    for _ in 0..length {
        match text(cursor)?.as_str() {
            "code" => name = Some(text(cursor)?),
            "message" => message = text(cursor)?,
            "definite" => definite = boolean(cursor)?,
            "retry_after_ms" => retry_after_ms = Some(uint(cursor)?),
            "original" => original = Some(Box::new(named_outcome(cursor)?)),
            "oldest" => oldest = Some(uint(cursor)?),
            _ => {
                cursor.raw()?;
            }
        }
    }
    let name = name.ok_or_else(|| ReplyError("an error without a code".into()))?;
    let (code, message) = code_of(if definite { Status::Failed } else { Status::Unknown }, &name, message);
    Ok(Failure { code, message, retry_after_ms, original, oldest })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;
    use crate::reply_encode::encode_outcome;

    #[test]
    fn outcomes_read_back_from_their_names() {
        let ok = |answer| Outcome { revision: Some(7), result: Ok(answer) };
        let value = Stored::text("v").unwrap();
        let queue = |at: usize| Answer::Queue(queue::samples()[at].1.clone());
        let results = vec![ok(Answer::Size(3)), ok(Answer::Exists(true)), ok(Answer::Done)];
        let samples = [
            ok(Answer::Done),
            ok(Answer::Removed(value.clone())),
            ok(Answer::Value { value: value.clone(), modified: 2, created: 1 }),
            ok(Answer::Values(vec![None])),
            ok(Answer::Txn { succeeded: false, results }),
            ok(Answer::Txn { succeeded: true, results: vec![] }),
            ok(Answer::Deleted { removed: 5, more: true }),
            ok(Answer::Keys { keys: vec![vec![0xff]], cursor: Some(b"k".to_vec()), snapshot: Some(3) }),
            ok(Answer::Rows { rows: vec![], cursor: None, snapshot: None }),
            ok(Answer::Ttl(None)),
            ok(deadline(Some(1), Some(2))),
            ok(Answer::History { versions: vec![], more: true, oldest: 9 }),
            ok(Answer::Events { events: vec![], through: 9, more: true, epoch: 0x1f }),
            ok(Answer::Events { events: crate::events::samples(), through: 9, more: false, epoch: u64::MAX }),
            ok(Answer::Granted { replaced: false }),
            ok(queue(0)),
            ok(queue(1)),
            ok(queue(2)),
            ok(queue(3)),
            ok(queue(4)),
            ok(Answer::Routing(routing::samples()[1].1.clone())),
            ok(Answer::Conversion(ConversionAnswer::Converted(value.clone()))),
            ok(Answer::Conversion(ConversionAnswer::Rules { rules: crate::conversion::rule_samples(), cursor: None })),
            ok(Answer::Who(vec![])),
            ok(Answer::Result(Fate::Decided(Box::new(ok(Answer::Done))))),
            Outcome { revision: None, result: Err(Failure::busy("wait", 5)) },
            Outcome { revision: Some(9), result: Err(Failure::compacted("gone", 7)) },
            Outcome { revision: Some(1), result: Err(Failure::new(ErrorCode::SessionExpired, "gone")) },
        ];
        for outcome in samples {
            let mut bytes = Vec::new();
            encode_outcome(&outcome, &mut bytes);
            assert_eq!(decode_outcome(&bytes).unwrap(), outcome);
            for length in 0..bytes.len() {
                assert!(decode_outcome(&bytes[..length]).is_err());
            }
        }
        let mut bytes = Vec::new();
        encode_outcome(&ok(Answer::Integer(5)), &mut bytes);
        assert_eq!(decode_outcome(&bytes).unwrap(), ok(Answer::Removed(Stored::integer(5))));
    }
}
