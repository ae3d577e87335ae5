//! Reading the latest changes: group by group behind a revision, or one key's versions.

use std::ops::Range;

use super::{Cause, History, Origin};
use crate::record::{TableRecord, split_table_record};
use crate::state::State;

/// A group of changes that took a revision, whole.
#[derive(Clone, Debug)]
pub struct PastGroup<'h> {
    history: &'h History,
    state: &'h State,
    places: Range<usize>,
    /// Its revision.
    pub revision: u64,
    /// Where it comes from.
    pub origin: Origin,
}

/// A change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastChange<'h> {
    /// The key.
    pub key: &'h [u8],
    /// What it was then; None: it was removed.
    pub new: Option<TableRecord<'h>>,
    /// What it was before; None: there was no such key.
    pub old: Option<Before<'h>>,
}

/// What a key was before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before<'h> {
    /// The record.
    pub record: TableRecord<'h>,
    /// The revision of the change that made it.
    pub modified: u64,
}

/// A version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastVersion<'h> {
    /// Its revision.
    pub revision: u64,
    /// Where its group comes from.
    pub origin: Origin,
    /// What the key was then; None: it was removed.
    pub record: Option<TableRecord<'h>>,
}

/// The versions of one key, the newest first, as far back as they are here.
#[derive(Debug)]
pub struct Versions<'h> {
    history: &'h History,
    state: &'h State,
    key: &'h [u8],
    /// The revision of the next one; 0 when there is none.
    next: u64,
}

impl History {
    /// The groups behind a revision, in order and without a hole; None if the first of them is not here any more.
    pub fn groups_after<'h>(&'h self, state: &'h State, revision: u64) -> Option<impl Iterator<Item = PastGroup<'h>> + use<'h>> {
        let first = revision.checked_add(1).filter(|first| *first >= self.oldest_revision(state))?;
        let revisions = first..=state.revision();
        Some(revisions.filter_map(move |revision| {
            let (places, origin) = (self.places(revision)?, self.origin(revision)?);
            Some(PastGroup { history: self, state, places, revision, origin })
        }))
    }

    /// The versions of a key that are here, from the newest; with `before`, if the key has a version of just that revision, from the
    /// one before it. Older ones than the last can be in the log, unless the log goes back no further than
    /// [`History::oldest_revision`].
    pub fn versions<'h>(&'h self, state: &'h State, key: &'h [u8], before: Option<u64>) -> Versions<'h> {
        let mut versions = Versions { history: self, state, key, next: 0 };
        if self.oldest_revision(state) <= state.revision() {
            versions.next = match before.and_then(|revision| self.find(revision, key)) {
                Some(place) => self.changes[place].old.modified(),
                None => match state.table.get(key) {
                    Some(entry) => entry.modified,
                    None => self.removed.get(key).copied().unwrap_or_default(),
                },
            };
        }
        versions
    }

    fn origin(&self, revision: u64) -> Option<Origin> {
        let at = usize::try_from(revision.checked_sub(self.first_revision)?).ok()?;
        self.origins.get(at).copied()
    }

    /// What the put at this place made: it stands with the next change, or in the table.
    fn new_at<'h>(&'h self, state: &'h State, place: usize) -> Option<TableRecord<'h>> {
        let past = &self.changes[place];
        if !past.is_put {
            return None;
        }
        let key = self.arena.get(past.key);
        let next = match self.nexts[place] {
            0 => {
                let entry = state.table.get(key);
                // Nearly always it has not changed lately.
                if let Some(entry) = entry.filter(|entry| entry.modified < self.unlinked) {
                    return split_table_record(entry.record);
                }
                match self.next_unlinked(place, key) {
                    None => return split_table_record(entry?.record),
                    Some(next) => next,
                }
            }
            next => self.find(next, key)?,
        };
        split_table_record(self.old_of(&self.changes[next])?.0)
    }
}

impl<'h> PastGroup<'h> {
    /// How many changes it has.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Its changes, in the order of their keys.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = PastChange<'h>> + use<'h> {
        let group = self.clone();
        self.places.clone().map(move |place| group.change_at(place))
    }

    /// Those of its changes whose keys start with this; the others are not looked at.
    pub fn changes_below(&self, prefix: &[u8]) -> impl ExactSizeIterator<Item = PastChange<'h>> + use<'h> {
        let from = self.first_place_not(self.places.clone(), |key| key < prefix);
        let to = self.first_place_not(from..self.places.end, |key| key.starts_with(prefix));
        let group = self.clone();
        (from..to).map(move |place| group.change_at(place))
    }

    /// Those of its changes whose keys are wanted; of the others only the key is looked at.
    pub(super) fn changes_of(&self, is_wanted: impl Fn(&[u8]) -> bool) -> impl Iterator<Item = PastChange<'h>> {
        let wanted = self.places.clone().filter(move |place| is_wanted(self.key_at(*place)));
        wanted.map(|place| self.change_at(place))
    }

    fn key_at(&self, place: usize) -> &'h [u8] {
        self.history.arena.get(self.history.changes[place].key)
    }

    fn change_at(&self, place: usize) -> PastChange<'h> {
        let old = self.history.old_of(&self.history.changes[place]);
        PastChange {
            key: self.key_at(place),
            new: self.history.new_at(self.state, place),
            old: old.and_then(|(record, modified)| Some(Before { record: split_table_record(record)?, modified })),
        }
    }

    /// The first of these places whose key is not like that; those that are stand before those that aren't.
    fn first_place_not(&self, places: Range<usize>, is_like_that: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (places.start, places.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_like_that(self.key_at(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl<'h> Iterator for Versions<'h> {
    type Item = PastVersion<'h>;

    fn next(&mut self) -> Option<PastVersion<'h>> {
        let (history, revision) = (self.history, self.next);
        let origin = history.origin(revision)?;
        let place = history.find(revision, self.key)?;
        self.next = history.changes[place].old.modified();
        Some(PastVersion { revision, origin, record: history.new_at(self.state, place) })
    }
}

impl PastVersion<'_> {
    /// True if a deadline ended the version before.
    pub fn is_expiry(&self) -> bool {
        self.record.is_none() && self.origin.cause == Cause::Expiry
    }
}
