//! What the table was before: its latest changes in memory, each with the entry that it replaced.
//!
//! - A ring of groups by revision, without a hole up to the table's revision. Old entries come here out of the table: large ones as
//!   they are, small ones as a copy, one behind the other. Where an open snapshot needs one too, that gets a copy of its own.
//! - New values stand nowhere but where they are needed anyway: with the next change of the key, as the entry which that one
//!   replaced, or in the table. Each change knows the revision of the next one.
//! - That knowledge is written some changes late, for many of them together: each is a write to some other place in memory, and many that do
//!   not wait for each other take little longer than one. Until then it is looked for among these few.
//! - Every change that is here knows what was before it. Of what is not here any more nothing is said: it is never called absent.
//! - Bounded in bytes; the oldest groups go first. A group that is larger than the bound by itself takes everything with it, itself
//!   included: what is here is always whole groups.
//! - Live traffic and a start's replay fill it through the same [`History::apply`]. So it reaches as far back over restarts as the
//!   log behind the checkpoint does. It is beside the [`State`] and no part of it: nothing that is decided depends on it.
//!
//! Caveat: no key changes twice in a group that is here. The core makes none that does; should a log hold one, the history begins
//! behind it.

mod arena;
mod events;
mod fit;
mod read;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use kvbroker_protocol::{SessionId, limits};

use crate::change::{Change, Space};
use crate::snapshots::Snapshots;
use crate::state::State;
use crate::table::{Entry, EntryRef, Replaced};

use arena::{Arena, Piece};
pub use events::{EventsFor, EventsPage, EventsWanted};
pub use fit::{Earlier, Fit, Fitting};
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
    /// Without those of the arena.
    bytes: usize,
    /// False where a change belongs to no group that is here: in bookkeeping, and behind what could not be kept.
    is_open: bool,
    /// The revision of the first group that is here, or of the next one that comes.
    first_revision: u64,
    origins: VecDeque<Origin>,
    /// For each group how many changes came before its first one, dropped ones included.
    begins: VecDeque<u64>,
    /// How many changes were dropped before the first one that is here.
    dropped: u64,
    changes: VecDeque<Past>,
    /// For each change the revision of the key's next change, where there is one and this is a put; else 0. Apart from the changes: a
    /// later change writes here at any place, and finds it in the cache.
    nexts: VecDeque<u64>,
    /// The first revision whose changes do not stand in `nexts` yet.
    unlinked: u64,
    arena: Arena,
    /// Keys that are not in the table, and the revision at which they were removed, if that is here.
    removed: BTreeMap<Box<[u8]>, u64>,
}

/// A change of the table.
#[derive(Debug)]
struct Past {
    key: Piece,
    is_put: bool,
    old: Old,
}

/// What a change replaced.
#[derive(Debug)]
enum Old {
    /// Nothing; the revision of the removal before, 0 if none is known.
    Nothing { removed_at: u64 },
    /// A small record, which stood among others in the table.
    Copied { record: Piece, modified: u64 },
    /// A larger one, as it was in the table.
    Moved(Box<Entry>),
}

/// So many groups at most wait to be linked.
const UNLINKED_MAX: u64 = 64;
/// Bytes of a change beside its key and old record.
const CHANGE_BYTES: usize = size_of::<Past>() + size_of::<u64>();
/// Bytes of a group beside its changes.
const GROUP_BYTES: usize = size_of::<Origin>() + size_of::<u64>();
/// Bytes of a large record beside its own.
const MOVED_BYTES: usize = size_of::<Entry>() + 32;
/// Bytes of a removal in the index beside its key.
const REMOVAL_BYTES: usize = 64;

impl Old {
    fn is_something(&self) -> bool {
        !matches!(self, Old::Nothing { .. })
    }

    /// The revision of the change before, as far as it is known; else 0.
    fn modified(&self) -> u64 {
        match self {
            Old::Nothing { removed_at } => *removed_at,
            Old::Copied { modified, .. } => *modified,
            Old::Moved(entry) => entry.modified,
        }
    }
}

impl Past {
    /// Without those in the arena.
    fn bytes(&self) -> usize {
        let moved = match &self.old {
            Old::Moved(entry) => entry.record.len() + MOVED_BYTES,
            Old::Nothing { .. } | Old::Copied { .. } => 0,
        };
        let removal = if self.is_put { 0 } else { self.key.len() + REMOVAL_BYTES };
        CHANGE_BYTES + moved + removal
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
            origins: VecDeque::new(),
            begins: VecDeque::new(),
            dropped: 0,
            changes: VecDeque::new(),
            nexts: VecDeque::new(),
            unlinked: 1,
            arena: Arena::default(),
            removed: BTreeMap::new(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes + self.arena.bytes_from(self.changes.front().map(|past| past.key))
    }

    /// The oldest revision of this state that is here; the next one if none is.
    pub fn oldest_revision(&self, state: &State) -> u64 {
        if self.next_revision() == state.revision() + 1 { self.first_revision } else { state.revision() + 1 }
    }

    /// The revision of the group that would go on here.
    fn next_revision(&self) -> u64 {
        self.first_revision + self.begins.len() as u64
    }

    /// Begins the group of this revision. To be called before its changes are applied. Bookkeeping, which takes no revision, has no
    /// origin.
    pub fn begin_group(&mut self, state: &State, revision: u64, origin: Option<Origin>) {
        self.is_open = origin.is_some() && self.bytes_max > 0;
        let Some(origin) = origin.filter(|_| self.is_open) else { return };
        if revision != state.revision() + 1 {
            return self.forget_before(revision.max(state.revision()) + 1);
        }
        if revision != self.next_revision() {
            self.forget_before(revision);
            self.is_open = true;
        }
        if self.next_revision() - self.unlinked >= UNLINKED_MAX {
            self.link();
        }
        self.bytes += GROUP_BYTES;
        self.origins.push_back(origin);
        self.begins.push_back(self.end());
        self.trim(revision);
    }

    /// Makes a change of the state, in the group that was begun. Keeps what it replaces, and a copy of that with the snapshots that
    /// need it.
    pub fn apply(&mut self, state: &mut State, snapshots: &mut Snapshots, change: Change, revision: u64) {
        let Change { space, key, value } = change;
        self.make(state, space, &key, value.map(Cow::Owned), revision, |key, old| snapshots.keep_replaced(key, old));
    }

    /// As [`History::apply`], for who still needs the change: the table has a copy of it.
    pub fn apply_lent(&mut self, state: &mut State, snapshots: &mut Snapshots, change: &Change, revision: u64) {
        let value = change.value.as_deref().map(Cow::Borrowed);
        self.make(state, change.space, &change.key, value, revision, |key, old| snapshots.keep_replaced(key, old));
    }

    /// As [`History::apply`], for a start, when there are no snapshots.
    pub fn replay(&mut self, state: &mut State, change: Change, revision: u64) {
        let Change { space, key, value } = change;
        self.make(state, space, &key, value.map(Cow::Owned), revision, |_, _| {});
    }

    fn make(
        &mut self,
        state: &mut State,
        space: Space,
        name: &[u8],
        value: Option<Cow<'_, [u8]>>,
        revision: u64,
        replaced: impl FnOnce(&[u8], EntryRef<'_>),
    ) {
        if space != Space::Table {
            return state.apply_beside(space, name, value.as_deref(), revision);
        }
        if !self.is_open || self.next_revision() != revision + 1 || name.len() > limits::KEY_BYTES_MAX {
            state.replace_by(space, name, value, revision, |old| replaced(name, old.as_ref()));
            return self.forget_before(revision + 1);
        }
        let (key, is_put) = (self.arena.put(name), value.is_some());
        let arena = &mut self.arena;
        let old = state.replace_by(space, name, value, revision, |old| {
            replaced(name, old.as_ref());
            match old {
                Replaced::Packed(EntryRef { modified, record }) => Old::Copied { record: arena.put(record), modified },
                Replaced::Whole(entry) => Old::Moved(Box::new(entry)),
            }
        });
        if self.is_behind_the_last(key) {
            self.push(key, old, is_put, revision);
        } else {
            self.forget_before(revision + 1);
        }
    }

    /// In a group the keys ascend.
    fn is_behind_the_last(&self, key: Piece) -> bool {
        let is_first = self.begins.back().is_some_and(|begin| *begin == self.end());
        is_first || self.changes.back().is_some_and(|last| self.arena.get(last.key) < self.arena.get(key))
    }

    fn push(&mut self, key: Piece, old: Option<Old>, is_put: bool, revision: u64) {
        let old = match old {
            Some(old) => old,
            // Nearly always nothing was removed lately, and a look into nothing costs nothing.
            None => Old::Nothing { removed_at: self.removed.remove(self.arena.get(key)).unwrap_or_default() },
        };
        if !is_put {
            self.removed.insert(self.arena.get(key).into(), revision);
        }
        let past = Past { key, is_put, old };
        self.bytes += past.bytes();
        self.changes.push_back(past);
        self.nexts.push_back(0);
        self.trim(revision);
    }

    /// Writes to each change that was replaced since the last time by which revision.
    fn link(&mut self) {
        for revision in self.unlinked.max(self.first_revision)..self.next_revision() {
            for at in self.places(revision).unwrap_or_default() {
                let past = &self.changes[at];
                let before = past.old.is_something().then(|| self.find_maker(past.old.modified(), past.key));
                if let Some(before) = before.flatten() {
                    self.nexts[before] = revision;
                }
            }
        }
        self.unlinked = self.next_revision();
    }

    /// The place of the next change of the key that was put at this place, if that is among those that were not linked.
    fn next_unlinked(&self, place: usize, key: &[u8]) -> Option<usize> {
        let mut revisions = self.unlinked.max(self.first_revision)..self.next_revision();
        revisions.find_map(|revision| self.find(revision, key).filter(|at| *at > place))
    }

    /// Drops what is too much; this group with the rest if it alone is.
    fn trim(&mut self, revision: u64) {
        while self.bytes() > self.bytes_max {
            if self.begins.len() > 1 {
                self.drop_oldest();
            } else {
                self.forget_before(revision + 1);
            }
        }
    }

    fn drop_oldest(&mut self) {
        if self.begins.pop_front().is_none() {
            return;
        }
        self.origins.pop_front();
        self.bytes -= GROUP_BYTES;
        let end = self.begins.front().copied().unwrap_or(self.end());
        for _ in self.dropped..end {
            let Some(past) = self.changes.pop_front() else { break };
            self.nexts.pop_front();
            self.bytes -= past.bytes();
            let key = self.arena.get(past.key);
            if !past.is_put && self.removed.get(key) == Some(&self.first_revision) {
                self.removed.remove(key);
            }
        }
        self.arena.drop_before(self.changes.front().map(|past| past.key));
        self.dropped = end;
        self.first_revision += 1;
    }

    /// Drops everything; what comes next is expected to have this revision.
    fn forget_before(&mut self, revision: u64) {
        self.is_open = false;
        self.first_revision = revision;
        self.unlinked = revision;
        self.bytes = 0;
        self.origins.clear();
        self.begins.clear();
        self.dropped = 0;
        self.changes.clear();
        self.nexts.clear();
        self.arena.clear();
        self.removed.clear();
    }

    /// How many changes there were, dropped ones included.
    fn end(&self) -> u64 {
        self.dropped + self.changes.len() as u64
    }

    /// The places of the changes of a revision.
    fn places(&self, revision: u64) -> Option<std::ops::Range<usize>> {
        let at = usize::try_from(revision.checked_sub(self.first_revision)?).ok()?;
        let begin = *self.begins.get(at)?;
        let end = self.begins.get(at + 1).copied().unwrap_or(self.end());
        let place = |count: u64| usize::try_from(count - self.dropped).expect("a place in memory");
        Some(place(begin)..place(end))
    }

    /// The place of a key's change at a revision, if it changed there and that is here.
    fn find(&self, revision: u64, key: &[u8]) -> Option<usize> {
        let places = self.places(revision)?;
        let (mut low, mut high) = (places.start, places.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.arena.get(self.changes[middle].key).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The place of the change that made an entry with this key, if that is here. As a key's, but a group of one change need not be
    /// looked at.
    fn find_maker(&self, revision: u64, key: Piece) -> Option<usize> {
        let places = self.places(revision)?;
        if places.len() == 1 { Some(places.start) } else { self.find(revision, self.arena.get(key)) }
    }

    /// The record that a change replaced, and the revision of the change that made it.
    fn old_of<'h>(&'h self, past: &'h Past) -> Option<(&'h [u8], u64)> {
        match &past.old {
            Old::Nothing { .. } => None,
            Old::Copied { record, modified } => Some((self.arena.get(*record), *modified)),
            Old::Moved(entry) => Some((&entry.record, entry.modified)),
        }
    }
}
