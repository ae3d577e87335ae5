//! What one client's part of the table must hold.
//!
//! - Keys are inserted and removed in the order of their numbers: a range is there. A key has a version, how often it was
//!   updated; keys that never were take no room here.
//! - Everything is noted when it is asked for, since it is done in that order. Where no answer tells whether a write was done, the
//!   key is in doubt: it may be as before, too, until a later write of it is acknowledged.

use std::collections::BTreeMap;

use crate::keyspace::KEYS_MAX;

/// What else may be true of a key whose last write was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    /// It may have a version from this one on.
    oldest: u32,
    /// It may not be there though it was inserted.
    may_be_absent: bool,
    /// It may be there though it was removed.
    may_be_there: bool,
}

/// The keys of one client.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    first: u64,
    end: u64,
    /// Of keys by their numbers; those behind the last one have version 0.
    versions: Vec<u32>,
    doubts: BTreeMap<u64, Doubt>,
    acknowledged: u64,
    unknown: u64,
}

impl Memory {
    /// Number of the first key that is there, if one is.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Behind the number of the last key that is there.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// How many are there.
    pub(crate) fn present(&self) -> u64 {
        self.end - self.first
    }

    /// Writes that were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Writes that were not answered.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown
    }

    /// The version that a key was asked to have last.
    pub(crate) fn newest(&self, number: u64) -> u32 {
        usize::try_from(number).ok().and_then(|number| self.versions.get(number)).copied().unwrap_or(0)
    }

    /// Versions that a key may have that had this one when it was asked for; that one first, if it is not in doubt.
    pub(crate) fn versions(&self, number: u64, asked: u32) -> impl Iterator<Item = u32> {
        let oldest = self.doubts.get(&number).map_or(asked, |doubt| doubt.oldest.min(asked));
        oldest..=self.newest(number).max(asked)
    }

    /// The number of a new key. None: there are so many that their numbers don't fit.
    pub(crate) fn insert(&mut self) -> Option<u64> {
        let number = self.end;
        if number >= KEYS_MAX {
            return None;
        }
        self.end += 1;
        Some(number)
    }

    /// The number of a key that goes.
    pub(crate) fn remove(&mut self) -> Option<u64> {
        let number = self.first;
        if number >= self.end {
            return None;
        }
        self.first += 1;
        Some(number)
    }

    /// The version that a key gets.
    pub(crate) fn update(&mut self, number: u64) -> u32 {
        let Ok(index) = usize::try_from(number) else { return 0 };
        if self.versions.len() <= index {
            self.versions.resize(index + 1, 0);
        }
        self.versions.get_mut(index).map_or(0, |version| {
            *version = version.saturating_add(1);
            *version
        })
    }

    /// A write's answer came; `counts` says whether it was an acknowledgement. What was in doubt before it is settled.
    pub(crate) fn acknowledge(&mut self, number: u64, counts: bool) {
        if counts {
            self.acknowledged += 1;
            if !self.doubts.is_empty() {
                self.doubts.remove(&number);
            }
        }
    }

    /// This version of a key was not acknowledged.
    pub(crate) fn doubt_put(&mut self, number: u64, version: u32) {
        self.unknown += 1;
        let doubt = self.doubt(number, version.saturating_sub(1));
        doubt.oldest = doubt.oldest.min(version.saturating_sub(1));
        doubt.may_be_absent |= version == 0;
    }

    /// The removal of a key was not acknowledged.
    pub(crate) fn doubt_del(&mut self, number: u64) {
        self.unknown += 1;
        let newest = self.newest(number);
        self.doubt(number, newest).may_be_there = true;
    }

    fn doubt(&mut self, number: u64, oldest: u32) -> &mut Doubt {
        self.doubts.entry(number).or_insert(Doubt { oldest, may_be_absent: false, may_be_there: false })
    }

    /// True if it is not certain that a key was there before it was removed, if it was.
    pub(crate) fn may_be_absent(&self, number: u64) -> bool {
        self.doubts.get(&number).is_some_and(|doubt| doubt.may_be_absent)
    }

    /// True if a key may be there.
    pub(crate) fn may_be_there(&self, number: u64) -> bool {
        (self.first..self.end).contains(&number) || self.doubts.get(&number).is_some_and(|doubt| doubt.may_be_there)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_come_and_go_in_their_order() {
        let mut memory = Memory::default();
        assert_eq!(memory.remove(), None);
        assert_eq!([memory.insert(), memory.insert(), memory.insert()], [Some(0), Some(1), Some(2)]);
        assert_eq!((memory.remove(), memory.first(), memory.end(), memory.present()), (Some(0), 1, 3, 2));
        assert!(!memory.may_be_there(0) && memory.may_be_there(1) && !memory.may_be_there(3) && !memory.may_be_absent(1));
        assert_eq!((memory.update(2), memory.update(2), memory.newest(2), memory.newest(1), memory.newest(99)), (1, 2, 2, 0, 0));
    }

    #[test]
    fn a_read_may_see_what_came_later_and_nothing_older() {
        let mut memory = Memory::default();
        memory.insert();
        (0..3).for_each(|_| {
            memory.update(0);
        });
        assert!(memory.versions(0, 1).eq(1..=3));
    }

    #[test]
    fn a_write_without_an_answer_is_in_doubt_until_a_later_one_is_acknowledged() {
        let mut memory = Memory::default();
        let number = memory.insert().unwrap();
        memory.doubt_put(number, 0);
        assert!(memory.may_be_absent(number) && memory.may_be_there(number));
        let version = memory.update(number);
        memory.doubt_put(number, version);
        assert!(memory.versions(number, version).eq(0..=1));
        assert!(memory.may_be_absent(number), "the insert is in doubt still");
        memory.update(number);
        memory.acknowledge(number, true);
        assert!(memory.versions(number, 2).eq(2..=2) && !memory.may_be_absent(number));
        memory.remove();
        memory.doubt_del(number);
        assert!(memory.may_be_there(number) && !memory.may_be_absent(number), "it was there");
        assert_eq!((memory.acknowledged(), memory.unknown()), (1, 3));
    }
}
