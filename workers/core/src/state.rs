//! The state that all changes lead to.

use std::borrow::Cow;

use kvbroker_protocol::{Answer, Failure, ItemId, Key, Receipt, SessionId, Tracked, limits};

use crate::change::{Change, Space};
use crate::conversions::Rules;
use crate::queues::{DueItem, Ended, Queues};
use crate::routing::Routing;
use crate::sessions::Sessions;
use crate::table::{Replaced, Table};

/// Everything the broker knows durably, in memory. Two states are equal when the same changes led to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub(crate) table: Table,
    pub(crate) sessions: Sessions,
    pub(crate) queues: Queues,
    pub(crate) routing: Routing,
    pub(crate) rules: Rules,
    revision: u64,
}

impl State {
    /// An empty table at revision 0.
    pub fn new() -> State {
        State::default()
    }

    pub(crate) fn from_parts(
        table: Table,
        sessions: Sessions,
        queues: Queues,
        routing: Routing,
        rules: Rules,
        revision: u64,
    ) -> State {
        State { table, sessions, queues, routing, rules, revision }
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

    /// Number of queues.
    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Number of rules by which values are converted.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Number of items in all queues.
    pub fn queue_items(&self) -> usize {
        self.queues.items()
    }

    /// Bytes of their values.
    pub fn queue_bytes(&self) -> u64 {
        self.queues.bytes()
    }

    /// Number of bindings of queues to subjects.
    pub fn bindings(&self) -> usize {
        self.routing.len()
    }

    /// Messages that were published, and how many of them no queue wanted.
    pub fn messages(&self) -> (u64, u64) {
        let counts = self.routing.counts();
        (counts.published, counts.unroutable)
    }

    /// When time next does something to an item, milliseconds of the stamp.
    pub fn next_queue_ms(&self) -> Option<u64> {
        self.queues.next_ms()
    }

    /// Takes note of items whose delay is over, and calls `told` with the name of each queue that has one more for its consumers. True if
    /// that has to be done again. Changes no record.
    pub fn advance_queues(&mut self, time_ms: u64, told: impl FnMut(&[u8])) -> bool {
        self.queues.advance(time_ms, told)
    }

    /// Items whose lease or deadline is not after `time_ms`; at most `max`, and at most [`limits::EXPIRIES_PER_BATCH_MAX`].
    /// [`expire_item`](crate::expire_item) says for each of them what is to change, at a revision of its own.
    pub fn due_items(&self, time_ms: u64, max: usize) -> Vec<DueItem> {
        self.queues.due(time_ms, max.min(limits::EXPIRIES_PER_BATCH_MAX))
    }

    /// A consumer keeps an item for longer. Changes no record.
    ///
    /// # Errors
    /// `lease_lost` if it does not have it any more.
    pub fn extend_lease(
        &mut self,
        queue: &[u8],
        receipt: Receipt,
        lease_ms: Option<u64>,
        time_ms: u64,
    ) -> Result<Answer, Failure> {
        self.queues.extend(queue, receipt, lease_ms, time_ms)
    }

    /// Lets every lease run for a whole period from now on: for a start, when nobody could renew or acknowledge for a while.
    pub fn renew_leases(&mut self, time_ms: u64) {
        self.queues.renew_leases(time_ms);
    }

    /// Remembers how items ended, for those who ask how far one has come. Changes no record.
    pub fn note_ends(&mut self, ended: impl IntoIterator<Item = Ended>) {
        self.queues.note_ends(ended);
    }

    /// How far an item has come.
    ///
    /// # Errors
    /// `not_found` for one that was never pushed.
    pub fn track_item(&self, queue: &[u8], item: ItemId) -> Result<Tracked, Failure> {
        self.queues.track(queue, item, self.revision)
    }

    /// How many items of this queue a pull could get.
    pub fn ready_items(&self, queue: &[u8]) -> usize {
        self.queues.ready(queue)
    }

    /// The queue that a change is about, if it may have more for its consumers than before.
    pub fn queue_of<'s>(&'s self, change: &'s Change) -> Option<&'s [u8]> {
        match change.space {
            Space::Queue => Some(&change.key),
            Space::Item | Space::ItemState => self.queues.name_of(crate::queues::split_item_key(&change.key)?.0),
            Space::Binding | Space::Rule | Space::Floor | Space::Messages | Space::Session | Space::Table | Space::Window => None,
        }
    }

    /// What the log gets of a change: its value, or that the record is deleted. Items of transient queues are in no record.
    pub fn logged_value<'c>(&self, change: &'c Change) -> Option<&'c [u8]> {
        let value = change.value.as_deref()?;
        let is_kept = match change.space {
            Space::Item | Space::ItemState => {
                crate::queues::split_item_key(&change.key).is_none_or(|(queue, _)| !self.queues.is_transient(queue))
            }
            _ => true,
        };
        is_kept.then_some(value)
    }

    /// The item that a change is about.
    pub fn item_of(change: &Change) -> Option<ItemId> {
        match change.space {
            Space::Item | Space::ItemState => crate::queues::split_item_key(&change.key).map(|(_, item)| item),
            _ => None,
        }
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
            Space::Binding => self.routing.apply_binding(key, value),
            Space::Messages => self.routing.apply_counts(value),
            Space::Rule => self.rules.apply(key, value),
            Space::Queue => self.queues.apply_queue(key, value),
            Space::Item => self.queues.apply_item(key, value),
            Space::ItemState => self.queues.apply_state(key, value),
        }
    }

    /// As [`State::apply`]; gives what `keep` makes of the entry of the table that is replaced or removed.
    pub(crate) fn replace<R>(&mut self, change: Change, revision: u64, keep: impl FnOnce(Replaced<'_>) -> R) -> Option<R> {
        self.replace_by(change.space, &change.key, change.value.map(Cow::Owned), revision, keep)
    }

    /// As [`State::replace`], of a change in its parts. A record that is lent is copied.
    pub(crate) fn replace_by<R>(
        &mut self,
        space: Space,
        key: &[u8],
        value: Option<Cow<'_, [u8]>>,
        revision: u64,
        keep: impl FnOnce(Replaced<'_>) -> R,
    ) -> Option<R> {
        self.revision = revision;
        match (space, value) {
            (Space::Table, Some(record)) => self.table.put(key, record, revision, keep),
            (Space::Table, None) => self.table.delete(key, keep),
            (space, value) => {
                self.apply_beside(space, key, value.as_deref(), revision);
                None
            }
        }
    }
}
