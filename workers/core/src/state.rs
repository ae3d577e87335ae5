//! The state that all changes lead to.

use kvbroker_protocol::{Key, SessionId, limits};

use crate::change::{Change, Space};
use crate::sessions::Sessions;
use crate::table::{Replaced, Table};

/// Everything the broker knows durably, in memory. Two states are equal when the same changes led to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub(crate) table: Table,
    pub(crate) sessions: Sessions,
    revision: u64,
}

impl State {
    /// An empty table at revision 0.
    pub fn new() -> State {
        State::default()
    }

    pub(crate) fn from_parts(table: Table, sessions: Sessions, revision: u64) -> State {
        State { table, sessions, revision }
    }

    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Number of keys.
    pub fn keys(&self) -> usize {
        self.table.len()
    }

    /// Bytes of keys and records, without the index's overhead.
    pub fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    /// Number of sessions known, ended ones included.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Bytes of remembered replies.
    pub fn remembered_bytes(&self) -> usize {
        self.sessions.bytes()
    }

    /// True if the session is remembered, and is this user's.
    pub fn is_session_of(&self, session: SessionId, user: &[u8]) -> bool {
        self.sessions.is_of(session, user)
    }

    /// Number of keys with a deadline.
    pub fn deadlines(&self) -> usize {
        self.table.deadlines().len()
    }

    /// The earliest deadline of a key, milliseconds of the stamp.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.table.deadlines().next_ms()
    }

    /// Keys whose deadline is not after `time_ms`, in order of their deadlines; at most `max`, and at most
    /// [`limits::EXPIRIES_PER_BATCH_MAX`]. Each is to be deleted at a revision of its own; until then it is there for every reader.
    pub fn due(&self, time_ms: u64, max: usize) -> Vec<Key> {
        self.table.deadlines().due(time_ms, max.min(limits::EXPIRIES_PER_BATCH_MAX))
    }

    /// Says that these keys of the table are read or changed soon, in this order: a few dozen of them, since more drive each other out of
    /// the processor's cache. Changes nothing that anybody sees; it only takes less time to find them together than one by one, and once instead
    /// of each time.
    pub fn warm<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>) {
        self.table.warm(keys);
    }

    /// Makes one change of the group with this revision. The only way to change the state: live, in recovery and on a standby.
    pub fn apply(&mut self, change: Change, revision: u64) {
        self.replace(change, revision, |_| {});
    }

    /// The changes of this revision were made, or will be before anybody looks.
    pub(crate) fn goes_to(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// Makes a change of another space than the table's, which must depend on nothing of the table: a start makes it before older ones of that.
    pub(crate) fn apply_beside(&mut self, space: Space, key: &[u8], value: Option<&[u8]>, revision: u64) {
        self.revision = revision;
        match space {
            Space::Table => {}
            Space::Session => self.sessions.apply_session(key, value),
            Space::Window => self.sessions.apply_window(key, value, revision),
            Space::Floor => self.sessions.apply_floor(key, value),
        }
    }

    /// As [`State::apply`]; gives what `keep` makes of the entry of the table that is replaced or removed.
    pub(crate) fn replace<R>(&mut self, change: Change, revision: u64, keep: impl FnOnce(Replaced<'_>) -> R) -> Option<R> {
        self.revision = revision;
        match (change.space, change.value) {
            (Space::Table, Some(record)) => self.table.put(&change.key, record, revision, keep),
            (Space::Table, None) => self.table.delete(&change.key, keep),
            (space, value) => {
                self.apply_beside(space, &change.key, value.as_deref(), revision);
                None
            }
        }
    }
}
