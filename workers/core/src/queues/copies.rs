//! What routing needs of queues: their ids and names, and room for copies of messages.

use std::ops::Bound;

use kvbroker_protocol::{Failure, ItemId, Key, Push, limits};

use super::operate::push;
use super::overlay::QueueOverlay;
use super::{QueueId, Queues};
use crate::decide::{Stamp, Turn};

impl Queues {
    /// A queue's id.
    pub(crate) fn id_of(&self, name: &[u8]) -> Option<QueueId> {
        self.by_name.get(name).copied()
    }

    /// Names of queues and their ids, in the order of the names.
    pub(crate) fn names_from(&self, from: Bound<&[u8]>) -> impl Iterator<Item = (&[u8], QueueId)> {
        self.by_name.range::<[u8], _>((from, Bound::Unbounded)).map(|(name, id)| (&**name, *id))
    }
}

impl QueueOverlay {
    /// A queue's id, if it is there.
    pub(crate) fn id_of(&mut self, base: &Queues, name: &[u8], stamp: Stamp) -> Option<QueueId> {
        self.view(base, stamp).id(name)
    }

    /// A queue's id; it is made if it is not there.
    ///
    /// # Errors
    /// `limit` if there are too many queues.
    pub(crate) fn make(&mut self, base: &Queues, name: &[u8], stamp: Stamp) -> Result<QueueId, Failure> {
        self.view(base, stamp).make(name)
    }

    /// Appends a copy of a message about this subject.
    ///
    /// # Errors
    /// As a push.
    pub(crate) fn push_copy(
        &mut self,
        base: &Queues,
        copy: Push,
        subject: &[u8],
        stamp: Stamp,
        turn: &mut Turn,
    ) -> Result<ItemId, Failure> {
        push(&mut self.view(base, stamp), copy, Some(subject), turn)
    }

    /// True of a queue whose items live in memory alone.
    pub(crate) fn is_transient(&mut self, base: &Queues, name: &[u8], stamp: Stamp) -> bool {
        self.view(base, stamp).options(name).is_some_and(|options| options.transient)
    }

    /// The name of the queue with this id.
    pub(crate) fn name_of(&self, base: &Queues, id: QueueId) -> Option<Key> {
        base.name_of(id).or_else(|| self.made(id)).map(<[u8]>::to_vec)
    }

    /// How many items can still be made at this revision.
    pub(crate) fn items_left(&self) -> usize {
        limits::TXN_OPERATIONS_MAX.saturating_sub(self.pushed())
    }
}
