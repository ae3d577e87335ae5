//! The table of the sweep: a few keys, changed by groups that are told apart by a serial number, and what a start gives of them.
//!
//! - All that a group does follows from its serial number: which key it puts, and which it deletes.
//! - A state is what the first so many groups lead to. What a start gives must be one of these states, and say which.

use std::collections::BTreeMap;

use crate::batch::BatchBuilder;
use crate::payload::{Cause, GroupRef, RecordRef};
use crate::replay::{CheckpointRecord, Replay};
use crate::report::VisitError;

/// Few, so that records of one key meet in a merge.
const KEYS: u64 = 5;

/// One group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub revision: u64,
    pub bookkeeping: bool,
    /// No two groups ever appended have the same; 0 stands for contents that nobody appended.
    pub serial: u64,
    /// Length of its value.
    pub bytes: usize,
}

/// The number of a key to serial number, length and revision of the group that put it.
pub(super) type Table = BTreeMap<u64, (u64, usize, u64)>;

/// Its last byte says which one it is.
pub(super) fn key(number: u64) -> [u8; 4] {
    [b't', b'k', b'/', b'0' + (number % KEYS) as u8]
}

fn key_number(key_bytes: &[u8]) -> Option<u64> {
    (0..KEYS).find(|&number| key(number) == key_bytes)
}

/// The bytes of a value: they differ between any two groups, at every offset that matters.
pub(super) fn value(serial: u64, bytes: usize) -> Vec<u8> {
    serial.to_le_bytes().into_iter().cycle().take(bytes.max(8)).enumerate().map(|(at, byte)| byte ^ (at >> 3) as u8).collect()
}

/// The serial number of the group that put this value; 0 if none did.
fn serial_of(found: &[u8]) -> u64 {
    let serial = found.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if found == value(serial, found.len()) { serial } else { 0 }
}

impl Entry {
    /// The key that it puts.
    fn put(&self) -> u64 {
        self.serial * 3 % KEYS
    }

    /// The key that it deletes, if any: perhaps one that is not there.
    fn delete(&self) -> Option<u64> {
        let other = (self.serial + 1) % KEYS;
        (self.serial.is_multiple_of(2) && other != self.put()).then_some(other)
    }

    /// Adds it to a batch.
    pub fn append(&self, batch: &mut BatchBuilder) {
        let cause = if self.bookkeeping { Cause::Bookkeeping } else { Cause::Request };
        batch.group(self.revision, cause, None);
        batch.put(&key(self.put()), &value(self.serial, self.bytes));
        if let Some(number) = self.delete() {
            batch.delete(&key(number));
        }
    }

    /// Reads it back; contents that no append made are an entry that equals none.
    pub fn of(group: &GroupRef<'_>) -> Self {
        let mut records = group.records();
        let mut entry = Self { revision: group.revision, bookkeeping: group.cause == Cause::Bookkeeping, serial: 0, bytes: 0 };
        if let Some(RecordRef::Put { key: put, value }) = records.next() {
            (entry.serial, entry.bytes) = (serial_of(value), value.len());
            let deleted = records.next().map(|record| match record {
                RecordRef::Delete { key } => key_number(key),
                RecordRef::Put { .. } => None,
            });
            let right = key(entry.put()) == put && deleted == entry.delete().map(Some) && records.next().is_none();
            entry.serial = if right { entry.serial } else { 0 };
        }
        entry
    }
}

/// The state that these groups lead to.
pub(super) fn state(history: &[Entry]) -> Table {
    let mut table = Table::new();
    for entry in history {
        table.insert(entry.put(), (entry.serial, entry.bytes, entry.revision));
        if let Some(number) = entry.delete() {
            table.remove(&number);
        }
    }
    table
}

/// What a start gave.
#[derive(Debug, Default)]
pub(super) struct Given {
    table: Table,
    /// Of the checkpoint, if there was one.
    covered_revision: Option<u64>,
    groups: Vec<Entry>,
}

impl Replay for Given {
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        let number = key_number(record.key).ok_or("a checkpoint holds a key that was never put")?;
        if self.table.last_key_value().is_some_and(|(last, _)| *last >= number) {
            return Err("the records of a checkpoint are out of order".into());
        }
        self.table.insert(number, (serial_of(record.value), record.value.len(), record.revision));
        Ok(())
    }

    fn checkpoint_read(&mut self, revision: u64) -> Result<(), VisitError> {
        self.covered_revision = Some(revision);
        Ok(())
    }

    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        self.groups.push(Entry::of(&group));
        Ok(())
    }
}

impl Given {
    /// How many groups of `history` a start gave, if what it gave is the state that the first so many lead to; else which is the first
    /// that can't be right.
    pub fn prefix_of(&self, history: &[Entry]) -> Result<usize, usize> {
        let Some(revision) = self.covered_revision else {
            let wrong = (0..self.groups.len()).find(|&at| history.get(at) != Some(&self.groups[at]));
            return wrong.map_or(Ok(self.groups.len()), Err);
        };
        // Bookkeeping repeats a revision, so there may be several states of one.
        let candidates = (0..=history.len()).filter(|&count| last_revision(&history[..count]) == revision);
        let mut closest = 0;
        for covered in candidates {
            closest = covered;
            if history[covered..].starts_with(&self.groups) && state(&history[..covered]) == self.table {
                return Ok(covered + self.groups.len());
            }
        }
        Err(closest)
    }
}

pub(super) fn last_revision(history: &[Entry]) -> u64 {
    history.last().map_or(0, |entry| entry.revision)
}
