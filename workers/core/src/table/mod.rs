//! The table in memory: keys in order, each with its record and the revision of its last change.
//!
//! Callers see entries by key and ranges in key order, nothing of the structure behind: a tree whose leaves have the entries one behind the
//! other (decision 0042).

mod branch;
mod hints;
mod leaf;
mod range;
#[cfg(test)]
mod tests;
mod tree;

use std::borrow::Cow;
use std::ops::Bound;

use crate::deadlines::Deadlines;
use crate::record::split_table_record;

pub(crate) use range::KeyRange;
use tree::Tree;

/// What the table holds for a key, standing for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Revision of the last change.
    pub(crate) modified: u64,
    /// The table record (see `record.rs`).
    pub(crate) record: Box<[u8]>,
}

/// What the table holds for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRef<'a> {
    /// Revision of the last change.
    pub(crate) modified: u64,
    /// The table record (see `record.rs`).
    pub(crate) record: &'a [u8],
}

/// An entry that leaves the table.
#[derive(Debug)]
pub(crate) enum Replaced<'a> {
    /// A small one. It is gone, or overwritten, right after it was looked at.
    Packed(EntryRef<'a>),
    /// A large one, as it was.
    Whole(Entry),
}

impl Entry {
    pub(crate) fn as_ref(&self) -> EntryRef<'_> {
        EntryRef { modified: self.modified, record: &self.record }
    }
}

impl Replaced<'_> {
    pub(crate) fn as_ref(&self) -> EntryRef<'_> {
        match self {
            Replaced::Packed(entry) => *entry,
            Replaced::Whole(entry) => entry.as_ref(),
        }
    }
}

/// Entries by key, and what follows from them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    entries: Tree,
    /// Bytes of keys and records, without the tree's own overhead.
    bytes: u64,
    /// Of the records above, no more and no fewer.
    deadlines: Deadlines,
}

/// The deadline in a table record.
fn expires_ms(record: &[u8]) -> Option<u64> {
    split_table_record(record)?.expires_ms
}

impl Table {
    pub(crate) fn get(&self, key: &[u8]) -> Option<EntryRef<'_>> {
        self.entries.get(key)
    }

    /// These keys are asked for soon: see [`Tree::warm`].
    pub(crate) fn warm<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>) {
        self.entries.warm(keys);
    }

    /// Gives what `keep` makes of the entry that was there.
    pub(crate) fn put<'r, R>(
        &mut self,
        key: &[u8],
        record: impl Into<Cow<'r, [u8]>>,
        modified: u64,
        keep: impl FnOnce(Replaced<'_>) -> R,
    ) -> Option<R> {
        let record = record.into();
        let (record_bytes, new_ms) = (record.len(), expires_ms(&record));
        let mut old = None;
        let kept = self.entries.put(key, record, modified, |replaced| {
            let record = replaced.as_ref().record;
            old = Some((record.len(), expires_ms(record)));
            keep(replaced)
        });
        self.bytes += record_bytes as u64;
        match old {
            Some((old_bytes, _)) => self.bytes -= old_bytes as u64,
            None => self.bytes += key.len() as u64,
        }
        self.deadlines.change(key, old.and_then(|(_, expires_ms)| expires_ms), new_ms);
        kept
    }

    /// Gives what `keep` makes of the entry that was there.
    pub(crate) fn delete<R>(&mut self, key: &[u8], keep: impl FnOnce(Replaced<'_>) -> R) -> Option<R> {
        let (mut old_bytes, mut old_ms) = (0, None);
        let kept = self.entries.remove(key, |replaced| {
            let record = replaced.as_ref().record;
            (old_bytes, old_ms) = (key.len() + record.len(), expires_ms(record));
            keep(replaced)
        })?;
        self.bytes -= old_bytes as u64;
        self.deadlines.change(key, old_ms, None);
        Some(kept)
    }

    /// Puts or deletes a record.
    pub(crate) fn change(&mut self, key: &[u8], record: Option<&[u8]>, modified: u64) {
        match record {
            Some(record) => self.put(key, record, modified, |_| {}).unwrap_or_default(),
            None => self.delete(key, |_| {}).unwrap_or_default(),
        }
    }

    pub(crate) fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries between two bounds, in key order; nothing if the bounds leave no room.
    pub(crate) fn range<'a>(&'a self, range: &KeyRange) -> impl DoubleEndedIterator<Item = (&'a [u8], EntryRef<'a>)> + use<'a> {
        let (from, to) = range.bounds();
        self.entries.range(from, to)
    }

    /// Entries behind a key in order; None: all.
    pub(crate) fn behind<'a>(&'a self, key: Option<&[u8]>) -> impl Iterator<Item = (&'a [u8], EntryRef<'a>)> + use<'a> {
        self.entries.range(key.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
    }
}

/// The same entries, however they came there.
impl PartialEq for Table {
    fn eq(&self, other: &Table) -> bool {
        self.len() == other.len() && self.behind(None).eq(other.behind(None)) && self.deadlines == other.deadlines
    }
}

impl Eq for Table {}

/// Makes a table of entries that come in key order, each key once.
#[derive(Debug, Default)]
pub(crate) struct TableBuilder {
    entries: Tree,
    bytes: u64,
    /// In the order of the keys.
    deadlines: Vec<(u64, Box<[u8]>)>,
}

impl TableBuilder {
    /// The next entry, of a record that ends with this deadline.
    pub(crate) fn push(&mut self, key: &[u8], record: &[u8], modified: u64) {
        self.bytes += (key.len() + record.len()) as u64;
        self.deadlines.extend(expires_ms(record).map(|at_ms| (at_ms, key.into())));
        self.entries.append(key, record, modified);
    }

    pub(crate) fn finish(mut self) -> Table {
        self.entries.end_appending();
        Table { entries: self.entries, bytes: self.bytes, deadlines: Deadlines::from_unsorted(self.deadlines) }
    }
}
