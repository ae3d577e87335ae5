//! What the table was before: its latest changes in memory, each with the entry that it replaced.
//!
//! - A ring of groups by revision, without a hole up to the table's revision. Old entries are moved here out of the table, not copied; only
//!   where an open snapshot needs one too, that gets a copy.
//! - New values stand nowhere but where they are needed anyway: with the next change of the key, as the entry which that one
//!   replaced, or in the table. Each change knows the revision of the next one.
//! - Every change that is here knows what was before it. Of what is not here any more nothing is said: it is never called absent.
//! - Bounded in bytes; the oldest groups go first. A group that is larger than the bound by itself takes everything with it, itself
//!   included: what is here is always whole groups.
//! - Live traffic and a start's replay fill it through the same [`History::apply`]. So it reaches as far back over restarts as the
//!   log behind the checkpoint does. It is beside the [`State`] and no part of it: nothing that is decided depends on it.
//!
//! Caveat: no key changes twice in a group that is here. The core makes none that does; should a log hold one, the history begins
//! behind it.

mod read;

use std::collections::{BTreeMap, VecDeque};

use kvbroker_protocol::{SessionId, limits};

use crate::change::{Change, Space};
use crate::snapshots::Snapshots;
use crate::state::State;
use crate::table::Entry;

pub use read::{Before, PastChange, PastGroup, PastVersion, Versions};

/// Why a group that took a revision was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A client asked for it.
    Request,
    /// A deadline came.
    Expiry,
    /// The broker did it by itself.
    Internal,
}

/// Where a group comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Why it was made.
    pub cause: Cause,
    /// The stamp, wall-clock ms.
    pub stamp_ms: u64,
    /// The session of the mutation and its number there, if it had one.
    pub name: Option<(SessionId, u64)>,
}

/// The latest changes of the table. See the module.
#[derive(Debug)]
pub struct History {
    bytes_max: usize,
    bytes: usize,
    /// False where a change belongs to no group that is here: in bookkeeping, and behind what could not be kept.
    is_open: bool,
    /// The revision of the first group that is here, or of the next one that comes.
    first_revision: u64,
    groups: VecDeque<Group>,
    /// How many changes were dropped before the first one that is here.
    dropped: u64,
    changes: VecDeque<Past>,
    /// Keys that are not in the table, and the revision at which they were removed, if that is here.
    removed: BTreeMap<Box<[u8]>, u64>,
}

#[derive(Debug)]
struct Group {
    origin: Origin,
    /// How many changes came before its first one, dropped ones included.
    begin: u64,
}

/// A change of the table.
#[derive(Debug)]
struct Past {
    key: Box<[u8]>,
    /// What it replaced.
    old: Option<Entry>,
    /// Where there was nothing to replace: the revision of the removal before, 0 if none is known.
    removed_at: u64,
    is_put: bool,
    /// The revision of the key's next change, where there is one and this is a put; else 0.
    next: u64,
}

/// Bytes of a change beside its key and old record: itself, and what two allocations take.
const CHANGE_BYTES: usize = size_of::<Past>() + 32;
/// Bytes of a group beside its changes.
const GROUP_BYTES: usize = size_of::<Group>();
/// Bytes of a removal in the index beside its key.
const REMOVAL_BYTES: usize = 64;

impl Past {
    fn bytes(&self) -> usize {
        let removal = if self.is_put { 0 } else { self.key.len() + REMOVAL_BYTES };
        CHANGE_BYTES + self.key.len() + self.old.as_ref().map_or(0, |old| old.record.len()) + removal
    }
}

impl Default for History {
    /// Nothing yet, with the usual bound.
    fn default() -> History {
        History::with_bytes_max(limits::HISTORY_MEMORY_BYTES_MAX)
    }
}

impl History {
    /// Nothing yet; at most so many bytes. With 0 nothing is ever kept.
    pub fn with_bytes_max(bytes_max: usize) -> History {
        History {
            bytes_max,
            bytes: 0,
            is_open: false,
            first_revision: 1,
            groups: VecDeque::new(),
            dropped: 0,
            changes: VecDeque::new(),
            removed: BTreeMap::new(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest revision of this state that is here; the next one if none is.
    pub fn oldest_revision(&self, state: &State) -> u64 {
        if self.next_revision() == state.revision() + 1 { self.first_revision } else { state.revision() + 1 }
    }

    /// The revision of the group that would go on here.
    fn next_revision(&self) -> u64 {
        self.first_revision + self.groups.len() as u64
    }

    /// Begins the group of this revision. To be called before its changes are applied. Bookkeeping, which takes no revision, has no
    /// origin.
    pub fn begin_group(&mut self, state: &State, revision: u64, origin: Option<Origin>) {
        self.is_open = origin.is_some();
        let Some(origin) = origin else { return };
        if revision != state.revision() + 1 {
            return self.forget_before(revision.max(state.revision()) + 1);
        }
        if revision != self.next_revision() {
            self.forget_before(revision);
            self.is_open = true;
        }
        self.bytes += GROUP_BYTES;
        self.groups.push_back(Group { origin, begin: self.end() });
    }

    /// Makes a change of the state, in the group that was begun. Keeps what it replaces, and a copy of that with the snapshots that
    /// need it.
    pub fn apply(&mut self, state: &mut State, snapshots: &mut Snapshots, change: Change, revision: u64) {
        self.make(state, change, revision, |key, old| snapshots.keep_replaced(key, old));
    }

    /// As [`History::apply`], for a start, when there are no snapshots.
    pub fn replay(&mut self, state: &mut State, change: Change, revision: u64) {
        self.make(state, change, revision, |_, _| {});
    }

    fn make(&mut self, state: &mut State, change: Change, revision: u64, replaced: impl FnOnce(&[u8], &Entry)) {
        if change.space != Space::Table {
            return state.apply(change, revision);
        }
        let (key, is_put) = (change.key.clone().into_boxed_slice(), change.value.is_some());
        let old = state.replace(change, revision);
        if let Some(old) = &old {
            replaced(&key, old);
        }
        if !self.is_open || self.next_revision() != revision + 1 || !self.is_behind_the_last(&key) {
            return self.forget_before(revision + 1);
        }
        self.push(key, old, is_put, revision);
    }

    /// In a group the keys ascend.
    fn is_behind_the_last(&self, key: &[u8]) -> bool {
        let is_first = self.groups.back().is_some_and(|group| group.begin == self.end());
        is_first || self.changes.back().is_some_and(|last| *last.key < *key)
    }

    fn push(&mut self, key: Box<[u8]>, old: Option<Entry>, is_put: bool, revision: u64) {
        let mut removed_at = 0;
        match &old {
            Some(old) => {
                if let Some(before) = self.find(old.modified, &key) {
                    self.changes[before].next = revision;
                }
            }
            // Nearly always nothing was removed lately, and a look into nothing costs nothing.
            None => removed_at = self.removed.remove(&key).unwrap_or_default(),
        }
        if !is_put {
            self.removed.insert(key.clone(), revision);
        }
        let past = Past { key, old, removed_at, is_put, next: 0 };
        self.bytes += past.bytes();
        self.changes.push_back(past);
        while self.bytes > self.bytes_max {
            if self.groups.len() > 1 {
                self.drop_oldest();
            } else {
                self.forget_before(revision + 1);
            }
        }
    }

    fn drop_oldest(&mut self) {
        if self.groups.pop_front().is_none() {
            return;
        }
        self.bytes -= GROUP_BYTES;
        let end = self.groups.front().map_or(self.end(), |group| group.begin);
        for _ in self.dropped..end {
            let Some(past) = self.changes.pop_front() else { break };
            self.bytes -= past.bytes();
            if !past.is_put && self.removed.get(&past.key) == Some(&self.first_revision) {
                self.removed.remove(&past.key);
            }
        }
        self.dropped = end;
        self.first_revision += 1;
    }

    /// Drops everything; what comes next is expected to have this revision.
    fn forget_before(&mut self, revision: u64) {
        *self = History { first_revision: revision, ..History::with_bytes_max(self.bytes_max) };
    }

    /// How many changes there were, dropped ones included.
    fn end(&self) -> u64 {
        self.dropped + self.changes.len() as u64
    }

    /// The places of the changes of a revision.
    fn places(&self, revision: u64) -> Option<std::ops::Range<usize>> {
        let at = usize::try_from(revision.checked_sub(self.first_revision)?).ok()?;
        let begin = self.groups.get(at)?.begin;
        let end = self.groups.get(at + 1).map_or(self.end(), |group| group.begin);
        let place = |count: u64| usize::try_from(count - self.dropped).expect("a place in memory");
        Some(place(begin)..place(end))
    }

    /// The place of a key's change at a revision, if it changed there and that is here.
    fn find(&self, revision: u64, key: &[u8]) -> Option<usize> {
        let places = self.places(revision)?;
        let (mut low, mut high) = (places.start, places.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match (*self.changes[middle].key).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}
