//! The records of sessions, byte by byte (docs/storage.md says the same). Integers are little-endian, except in keys.
//!
//! - Session, space `s`: key = session id (16 bytes); value = state (1 open, 2 ended), time used (u64 ms), highest number decided
//!   when it was written (u64), owner (the rest).
//! - Window, space `w`: key = session id, place (u16 big-endian) = number modulo [`limits::SESSION_WINDOW`]; value = number (u64),
//!   request hash (u64), how far the acknowledged number was behind it (u16), time (u64 ms), then the reply: 0 = done at the
//!   group's revision; 1 and a MessagePack integer = that integer at the group's revision; 2 and an outcome in map form; 3 and a place (u16)
//!   = an item of a queue, of the group's revision and this place; 4 and a count (u16) = a transaction that succeeded at the group's
//!   revision, of whose so many operations each was done and told nothing else; 5 and a place (u16) = as 3, of a transient queue.
//! - Floor, space `f`: key = owner, empty for everybody; value = born (u64 ms): unknown sessions born then or before are not new.

use kvbroker_protocol::{
    Answer, ItemId, Outcome, QueueAnswer, SessionId, Stored, decode_kept_outcome, encode_kept_outcome, integer_of, limits,
};

use crate::change::{Change, Space};

const OPEN: u8 = 1;
const ENDED: u8 = 2;

const REPLY_DONE: u8 = 0;
const REPLY_INTEGER: u8 = 1;
const REPLY_OUTCOME: u8 = 2;
const REPLY_PUSHED: u8 = 3;
const REPLY_ALL_DONE: u8 = 4;
const REPLY_PUSHED_TRANSIENT: u8 = 5;

/// A session record's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionRecord<'a> {
    pub(crate) ended: bool,
    pub(crate) used_ms: u64,
    pub(crate) highest: u64,
    pub(crate) owner: &'a [u8],
}

impl<'a> SessionRecord<'a> {
    pub(crate) fn read(value: &'a [u8]) -> Option<Self> {
        let (&state, rest) = value.split_first()?;
        let (used_ms, rest) = rest.split_first_chunk()?;
        let (highest, owner) = rest.split_first_chunk()?;
        let ended = match state {
            OPEN => false,
            ENDED => true,
            _ => return None,
        };
        Some(SessionRecord { ended, used_ms: u64::from_le_bytes(*used_ms), highest: u64::from_le_bytes(*highest), owner })
    }

    pub(super) fn change(&self, id: SessionId) -> Change {
        let state = if self.ended { ENDED } else { OPEN };
        let value = [&[state][..], &self.used_ms.to_le_bytes(), &self.highest.to_le_bytes(), self.owner].concat();
        Change { space: Space::Session, key: id.0.to_vec(), value: Some(value) }
    }
}

/// The change that forgets a session.
pub(super) fn forget_session(id: SessionId) -> Change {
    Change { space: Space::Session, key: id.0.to_vec(), value: None }
}

/// The changes that free the places of a session's window.
pub(super) fn free_window(id: SessionId, highest: u64) -> impl Iterator<Item = Change> {
    let window = limits::SESSION_WINDOW as u64;
    let first = highest.saturating_sub(window) + 1;
    (first..=highest).map(move |seq| Change { space: Space::Window, key: window_key(id, seq), value: None })
}

/// The change that raises an owner's floor.
pub(super) fn raise_floor(owner: &[u8], born_ms: u64) -> Change {
    Change { space: Space::Floor, key: owner.to_vec(), value: Some(born_ms.to_le_bytes().to_vec()) }
}

/// The owner whose floor is everybody's; no user is called so.
pub(super) const EVERYBODY: &[u8] = b"";

/// The change that raises the floor of everybody.
pub(crate) fn raise_floor_of_all(born_ms: u64) -> Change {
    raise_floor(EVERYBODY, born_ms)
}

/// The session of a session record's key.
pub(crate) fn session_of(key: &[u8]) -> Option<SessionId> {
    Some(SessionId(key.try_into().ok()?))
}

/// The session of a window record's key.
pub(crate) fn window_session_of(key: &[u8]) -> Option<SessionId> {
    let (id, place) = key.split_first_chunk()?;
    (place.len() == 2).then_some(SessionId(*id))
}

/// The key of the record that remembers a reply.
pub(super) fn window_key(id: SessionId, seq: u64) -> Vec<u8> {
    let place = (seq % limits::SESSION_WINDOW as u64) as u16;
    [&id.0[..], &place.to_be_bytes()].concat()
}

/// What an operation was answered, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Done, with the group's revision.
    Done,
    /// This integer, with the group's revision.
    Integer(i128),
    /// An outcome in map form.
    Outcome(Box<[u8]>),
    /// The item of the group's revision and this place was pushed, into a transient queue or another one.
    Pushed { place: u16, transient: bool },
    /// A transaction succeeded whose so many operations were done and tell nothing else.
    AllDone(u16),
}

/// How many operations a transaction had that succeeded, if each is answered that it was done, and nothing else.
fn all_done(answer: &Answer) -> Option<u16> {
    let Answer::Txn { succeeded: true, results } = answer else { return None };
    let is_done = |outcome: &Outcome| matches!(outcome, Outcome { revision: None, result: Ok(Answer::Done) });
    u16::try_from(results.len()).ok().filter(|_| results.iter().all(is_done))
}

impl Reply {
    /// How to keep an outcome whose group has this revision.
    pub(super) fn keep(outcome: &Outcome, revision: u64) -> Reply {
        let short = outcome.result.as_ref().ok().filter(|_| outcome.revision == Some(revision)).and_then(|answer| match answer {
            Answer::Done => Some(Reply::Done),
            Answer::Integer(integer) => Some(Reply::Integer(*integer)),
            Answer::Queue(QueueAnswer::Pushed { item, transient }) if item.revision() == revision => {
                Some(Reply::Pushed { place: item.place(), transient: *transient })
            }
            answer => all_done(answer).map(Reply::AllDone),
        });
        short.unwrap_or_else(|| {
            let mut bytes = Vec::new();
            encode_kept_outcome(outcome, &mut bytes);
            Reply::Outcome(bytes.into())
        })
    }

    pub(crate) fn outcome(&self, revision: u64) -> Outcome {
        let answer = match self {
            Reply::Done => Answer::Done,
            Reply::Integer(integer) => Answer::Integer(*integer),
            Reply::Pushed { place, transient } => {
                // No record says that where the revision has no items.
                let item = ItemId::new(revision, *place).unwrap_or(ItemId::MIN);
                Answer::Queue(QueueAnswer::Pushed { item, transient: *transient })
            }
            Reply::AllDone(count) => {
                let results = (0..*count).map(|_| Outcome { revision: None, result: Ok(Answer::Done) }).collect();
                Answer::Txn { succeeded: true, results }
            }
            Reply::Outcome(bytes) => {
                return decode_kept_outcome(bytes).expect("the record was checked when it was read, or made by `keep`");
            }
        };
        Outcome { revision: Some(revision), result: Ok(answer) }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Reply::Done | Reply::Integer(_) | Reply::Pushed { .. } | Reply::AllDone(_) => 0,
            Reply::Outcome(bytes) => bytes.len(),
        }
    }

    fn read(bytes: &[u8]) -> Option<Reply> {
        let (&kind, rest) = bytes.split_first()?;
        Some(match kind {
            REPLY_DONE if rest.is_empty() => Reply::Done,
            REPLY_INTEGER => Reply::Integer(integer_of(Stored::from_msgpack(rest).ok()?.as_bytes())?),
            REPLY_OUTCOME if decode_kept_outcome(rest).is_ok() => Reply::Outcome(rest.into()),
            REPLY_PUSHED | REPLY_PUSHED_TRANSIENT => {
                let place = short(rest).filter(|place| ItemId::new(0, *place).is_some())?;
                Reply::Pushed { place, transient: kind == REPLY_PUSHED_TRANSIENT }
            }
            REPLY_ALL_DONE => Reply::AllDone(short(rest)?),
            _ => return None,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Done => out.push(REPLY_DONE),
            Reply::Integer(integer) => {
                out.push(REPLY_INTEGER);
                Stored::integer(*integer).write_msgpack(out);
            }
            Reply::Outcome(bytes) => {
                out.push(REPLY_OUTCOME);
                out.extend_from_slice(bytes);
            }
            Reply::Pushed { place, transient } => {
                out.push(if *transient { REPLY_PUSHED_TRANSIENT } else { REPLY_PUSHED });
                out.extend_from_slice(&place.to_le_bytes());
            }
            Reply::AllDone(count) => {
                out.push(REPLY_ALL_DONE);
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
    }
}

/// A number of two bytes, and nothing else.
fn short(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

/// A window record's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WindowRecord {
    pub(crate) seq: u64,
    pub(crate) hash: u64,
    pub(crate) acked: u64,
    pub(crate) used_ms: u64,
    pub(crate) reply: Reply,
}

impl WindowRecord {
    pub(crate) fn read(value: &[u8]) -> Option<WindowRecord> {
        let (seq, rest) = value.split_first_chunk()?;
        let (hash, rest) = rest.split_first_chunk()?;
        let (behind, rest) = rest.split_first_chunk()?;
        let (used_ms, rest) = rest.split_first_chunk()?;
        let seq = u64::from_le_bytes(*seq);
        let acked = seq.checked_sub(u64::from(u16::from_le_bytes(*behind)))?;
        Some(WindowRecord {
            seq,
            hash: u64::from_le_bytes(*hash),
            acked,
            used_ms: u64::from_le_bytes(*used_ms),
            reply: Reply::read(rest)?,
        })
    }

    pub(super) fn change(&self, id: SessionId) -> Change {
        let behind = u16::try_from(self.seq - self.acked).expect("the window is checked before, and fits");
        let mut value = Vec::with_capacity(32);
        value.extend_from_slice(&self.seq.to_le_bytes());
        value.extend_from_slice(&self.hash.to_le_bytes());
        value.extend_from_slice(&behind.to_le_bytes());
        value.extend_from_slice(&self.used_ms.to_le_bytes());
        self.reply.write(&mut value);
        Change { space: Space::Window, key: window_key(id, self.seq), value: Some(value) }
    }
}

/// True if the bytes are a value of this space.
pub(crate) fn is_record(space: Space, key: &[u8], value: &[u8]) -> bool {
    match space {
        Space::Session => session_of(key).is_some() && SessionRecord::read(value).is_some(),
        Space::Window => window_session_of(key).is_some() && WindowRecord::read(value).is_some(),
        Space::Floor => value.len() == size_of::<u64>(),
        Space::Binding | Space::Rule | Space::Messages | Space::Table | Space::Queue | Space::Item | Space::ItemState => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn replies_are_what_was_kept_of_them() {
        let done = || Outcome { revision: None, result: Ok(Answer::Done) };
        let pushed = |revision, place, transient| {
            Answer::Queue(QueueAnswer::Pushed { item: ItemId::new(revision, place).unwrap(), transient })
        };
        let txn = |succeeded, results| Answer::Txn { succeeded, results };
        let read = Outcome { revision: None, result: Ok(Answer::Exists(true)) };
        let cases = [
            (Answer::Done, 1),
            (Answer::Integer(-5), 2),
            (pushed(7, 0, false), 3),
            (pushed(7, 1_023, false), 3),
            (pushed(7, 1, true), 3),
            // Of another revision, as a push without a record of its own would be.
            (pushed(8, 0, true), 30),
            (txn(true, vec![done(), done()]), 3),
            (txn(true, vec![]), 3),
            (txn(false, vec![done()]), 30),
            (txn(true, vec![done(), read]), 30),
        ];
        for (answer, most) in cases {
            let outcome = Outcome { revision: Some(7), result: Ok(answer) };
            let mut bytes = Vec::new();
            Reply::keep(&outcome, 7).write(&mut bytes);
            assert_eq!(bytes.len() > 3, most > 3, "{outcome:?}");
            assert_eq!(Reply::read(&bytes).unwrap().outcome(7), outcome);
            assert!((0..bytes.len()).all(|length| Reply::read(&bytes[..length]).is_none()), "{outcome:?}");
        }
        for kind in [REPLY_PUSHED, REPLY_PUSHED_TRANSIENT] {
            assert_eq!(Reply::read(&[kind, 0, 4]), None, "1,024 is no place");
        }
    }
}
