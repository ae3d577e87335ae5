//! The table in memory: keys in order, each with its record and the revision of its last change.
//!
//! Callers see entries by key and ranges in key order, nothing of the structure behind.

use std::collections::BTreeMap;
use std::ops::Bound;

/// What the table holds for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Revision of the last change.
    pub(crate) modified: u64,
    /// The table record (see `record.rs`).
    pub(crate) record: Box<[u8]>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    entries: BTreeMap<Box<[u8]>, Entry>,
    /// Bytes of keys and records, without the map's own overhead.
    bytes: u64,
}

impl Table {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, record: Vec<u8>, modified: u64) {
        self.bytes += (key.len() + record.len()) as u64;
        let key_bytes = key.len();
        let entry = Entry { modified, record: record.into_boxed_slice() };
        if let Some(old) = self.entries.insert(key.into_boxed_slice(), entry) {
            self.bytes -= (key_bytes + old.record.len()) as u64;
        }
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.entries.remove(key) {
            self.bytes -= (key.len() + old.record.len()) as u64;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries from `from` on, in key order; `behind` leaves out `from` itself.
    pub(crate) fn range_from(&self, from: &[u8], behind: bool) -> impl Iterator<Item = (&[u8], &Entry)> {
        let from = if behind { Bound::Excluded(from) } else { Bound::Included(from) };
        self.entries.range::<[u8], _>((from, Bound::Unbounded)).map(|(key, entry)| (&**key, entry))
    }
}
