//! A view of the state with the changes of one operation on top.
//!
//! An operation reads its own earlier effects here; if it fails, the overlay is dropped and no trace is left.

use crate::change::{Change, Space};
use crate::record::{TableRecord, split_table_record};
use crate::state::State;

pub(crate) struct Overlay<'a> {
    state: &'a State,
    /// In the order made; the last one of a key counts.
    changes: Vec<Change>,
    /// The revision that the changes will have.
    revision: u64,
}

/// A key's record as an operation sees it.
pub(crate) struct Seen<'a> {
    pub(crate) record: TableRecord<'a>,
    pub(crate) modified: u64,
}

impl Seen<'_> {
    pub(crate) fn created(&self) -> u64 {
        self.record.created.unwrap_or(self.modified)
    }
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(state: &'a State, revision: u64) -> Self {
        Overlay { state, changes: Vec::new(), revision }
    }

    /// The key's record, own changes included.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Seen<'_>> {
        let own = self.changes.iter().rev().find(|change| change.space == Space::Table && change.key == key);
        let (record, modified) = match own {
            Some(change) => (change.value.as_deref()?, self.revision),
            None => self.state.table.get(key).map(|entry| (&*entry.record, entry.modified))?,
        };
        // Only whole table records get into the table: `Change::from_record` and `table_record` see to it.
        Some(Seen { record: split_table_record(record)?, modified })
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, record: Vec<u8>) {
        self.changes.push(Change { space: Space::Table, key, value: Some(record) });
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.changes.push(Change { space: Space::Table, key, value: None });
    }

    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }
}
