//! Sessions: which numbers of which session were decided, and what they were answered.
//!
//! - All of it is records in three spaces (see `record.rs`), made by [`admit`], [`end`] and [`remember`] and taken in by
//!   [`Sessions::apply`] alone: live traffic and recovery come to the same state, whatever order the last records are read in.
//! - Replies live in a ring of [`limits::SESSION_WINDOW`] records per session: a later reply overwrites the record of one that was
//!   acknowledged long before, so forgetting costs no record of its own.
//! - A reply is dropped from memory when a logged `ack` passes it, and never before.
//! - What is forgotten as a whole raises the floor of its owner, so that it is never taken for new. Where nothing is known of who lost
//!   what (see [`crate::Salvage`]), everybody has a floor in common.
//!
//! Caveat: an `ack` takes effect with the next mutation or the session's end, not with reads: only what is logged may change the
//! state.

mod admit;
mod evict;
mod kept;
mod owners;
mod record;
mod replies;

use std::collections::BTreeMap;

use kvbroker_protocol::{Fate, Operation, Outcome, SessionId, limits, request_hash};

pub use admit::Numbered;
pub(crate) use admit::{Admission, admit, end, fate, remember};
use owners::Owners;
use record::Reply;
pub(crate) use record::{SessionRecord, WindowRecord, is_record, raise_floor_of_all, session_of, window_session_of};
use replies::Replies;

/// The bounds of what is remembered; a broker may be told others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionBounds {
    /// Most sessions known, ended ones included.
    pub sessions_max: usize,
    /// Most of one owner.
    pub per_owner_max: usize,
    /// A session used within this time is never forgotten, milliseconds.
    pub keep_ms: u64,
    /// Most bytes of remembered replies.
    pub reply_bytes_max: usize,
    /// Most of them of the owner that is asked for.
    pub per_owner_reply_bytes_max: usize,
}

impl Default for SessionBounds {
    fn default() -> Self {
        SessionBounds {
            sessions_max: limits::SESSIONS_MAX,
            per_owner_max: limits::SESSIONS_PER_OWNER_MAX,
            keep_ms: limits::SESSION_KEEP_MS,
            reply_bytes_max: limits::SESSIONS_REPLY_BYTES_MAX,
            per_owner_reply_bytes_max: limits::SESSIONS_REPLY_BYTES_MAX,
        }
    }
}

/// One session as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    owner: Box<[u8]>,
    /// The highest number decided.
    highest: u64,
    /// Replies up to this number were read.
    acked: u64,
    /// When it was used last, by the stamp.
    used_ms: u64,
    ended: bool,
    /// Replies behind `acked`, by number.
    replies: Replies,
    /// Bytes of the replies.
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Remembered {
    hash: u64,
    /// The revision of the record's group.
    revision: u64,
    reply: Reply,
}

/// Rough bytes of a remembered reply beside its own.
const REMEMBERED_OVERHEAD_BYTES: usize = 64;

impl Remembered {
    fn bytes(&self) -> usize {
        REMEMBERED_OVERHEAD_BYTES + self.reply.bytes()
    }

    fn outcome(&self) -> Outcome {
        self.reply.outcome(self.revision)
    }
}

/// All sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    known: BTreeMap<SessionId, Session>,
    owners: Owners,
    /// Bytes of remembered replies, all sessions together.
    bytes: usize,
}

impl Sessions {
    /// Sessions known, ended ones included.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// True if this is a session of the owner that is known.
    pub(crate) fn is_of(&self, id: SessionId, owner: &[u8]) -> bool {
        self.known.get(&id).is_some_and(|session| *session.owner == *owner)
    }

    /// Bytes of remembered replies.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A session record was put or deleted.
    pub(crate) fn apply_session(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(id) = record::session_of(key) else { return };
        let Some(record) = value.and_then(SessionRecord::read) else {
            self.forget(id);
            return;
        };
        let session = self.known.entry(id).or_insert_with(|| Session {
            owner: record.owner.into(),
            highest: 0,
            acked: 0,
            used_ms: record.used_ms,
            ended: false,
            replies: Replies::default(),
            bytes: 0,
        });
        self.owners.remove(&session.owner, session.ended, session.used_ms, id);
        session.used_ms = session.used_ms.max(record.used_ms);
        session.highest = session.highest.max(record.highest);
        if record.ended {
            session.ended = true;
            session.acked = session.highest;
            session.replies.clear();
            let bytes = std::mem::take(&mut session.bytes);
            self.bytes -= bytes;
            self.owners.count_bytes(&session.owner, bytes, 0);
        }
        self.owners.add(&session.owner, session.ended, session.used_ms, id);
    }

    fn forget(&mut self, id: SessionId) {
        if let Some(session) = self.known.remove(&id) {
            self.bytes -= session.bytes;
            self.owners.count_bytes(&session.owner, session.bytes, 0);
            self.owners.remove(&session.owner, session.ended, session.used_ms, id);
        }
    }

    /// A window record was put. Its deletion changes nothing here: it goes with the end or the forgetting of its session.
    pub(crate) fn apply_window(&mut self, key: &[u8], value: Option<&[u8]>, revision: u64) {
        let Some((session_id, record)) = record::window_session_of(key).zip(value.and_then(WindowRecord::read)) else { return };
        let Some(session) = self.known.get_mut(&session_id).filter(|session| !session.ended) else { return };
        let before = session.bytes;
        session.acknowledge(record.acked);
        session.highest = session.highest.max(record.seq);
        if record.seq > session.acked {
            let remembered = Remembered { hash: record.hash, revision, reply: record.reply };
            session.bytes += remembered.bytes();
            if let Some(old) = session.replies.insert(record.seq, remembered) {
                session.bytes -= old.bytes();
            }
        }
        self.bytes = self.bytes + session.bytes - before;
        self.owners.count_bytes(&session.owner, before, session.bytes);
        let used_ms = session.used_ms.max(record.used_ms);
        self.owners.used(&session.owner, session.used_ms, used_ms, session_id);
        session.used_ms = used_ms;
    }

    /// A floor record was put.
    pub(crate) fn apply_floor(&mut self, owner: &[u8], value: Option<&[u8]>) {
        if let Some(born_ms) = value.and_then(|value| value.try_into().ok()).map(u64::from_le_bytes) {
            self.owners.raise_floor(owner, born_ms);
        }
    }

    fn fate(&self, owner: &[u8], id: SessionId, seq: u64) -> Option<Fate> {
        let session = self.known.get(&id).filter(|session| *session.owner == *owner)?;
        Some(match session.replies.get(seq) {
            Some(remembered) if remembered.hash == request_hash(&Operation::Noop, &mut Vec::new()) => Fate::Filled,
            Some(remembered) => Fate::Decided(Box::new(remembered.outcome())),
            None if seq <= session.acked => Fate::Acknowledged,
            // An ended session takes nothing any more.
            None if session.ended => Fate::Filled,
            None => Fate::Undecided,
        })
    }
}

impl Session {
    fn acknowledge(&mut self, acked: u64) {
        if acked <= self.acked {
            return;
        }
        self.acked = acked;
        while let Some(reply) = self.replies.take_through(acked) {
            self.bytes -= reply.bytes();
        }
        self.replies.shrink();
    }

    /// The bytes that would stay remembered if `acked` were acknowledged.
    fn bytes_behind(&self, acked: u64) -> usize {
        self.bytes - self.replies.through(acked).map(Remembered::bytes).sum::<usize>()
    }
}
