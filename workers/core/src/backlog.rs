//! [`Backlog`]: changes that a start reads from the log, made to the table in the order of their keys.
//!
//! - A log has its changes in the order of time, which in a large table is one wait for memory after the other. So those of the table are
//!   collected, sorted, and made piece by piece from the first key to the last: what is next to each other in the table is changed together. Of
//!   several changes of one key in a piece only the last is made: each record says all of what its key is afterwards.
//! - Sessions are changed at once, in the order of the log. They are apart from the table.
//! - Memory is bounded by [`BYTES_MAX`] and one record.
//!
//! Caveats: until [`Backlog::settle`] the table is behind the state's revision. What a change replaces is told to nobody: this is for changes that
//! are older than any history which is kept.

use std::cmp::Reverse;

use crate::change::{Change, ChangeError, Space};
use crate::state::State;

/// Records and what sorts them, in bytes: as much as a checkpoint's sorting takes.
const BYTES_MAX: usize = 32 << 20;
/// So many keys are looked for together.
const TOGETHER: usize = 64;

/// Changes of the table that were not made yet.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Keys and values, one behind the other.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// How many bytes all keys begin with alike.
    common: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Once sorted: the key's bytes behind those that all keys share.
    prefix: u64,
    start: u32,
    key_bytes: u32,
    /// None: the key is deleted.
    value_bytes: Option<u32>,
    revision: u64,
}

fn length(part: &[u8]) -> u32 {
    u32::try_from(part.len()).expect("a record is shorter than a batch of the log, and that is far below 4 GiB")
}

impl Backlog {
    /// Nothing yet.
    pub fn new() -> Backlog {
        Backlog::default()
    }

    /// Takes the next record of the log. The state has its revision from now on.
    ///
    /// # Errors
    /// [`ChangeError`] for a record that this version does not know, or that is none. It was not taken.
    pub fn take(&mut self, state: &mut State, record_key: &[u8], value: Option<&[u8]>, revision: u64) -> Result<(), ChangeError> {
        let (space, key) = Change::check_record(record_key, value)?;
        if space != Space::Table {
            state.apply_beside(space, key, value, revision);
            return Ok(());
        }
        state.goes_to(revision);
        if self.bytes.len() + self.entries.len() * size_of::<Entry>() >= BYTES_MAX {
            self.settle(state);
        }
        self.common = match self.entries.first() {
            Some(first) => {
                let shared = self.key(first).iter().zip(key).take(self.common);
                shared.take_while(|(one, other)| one == other).count()
            }
            None => key.len(),
        };
        self.entries.push(Entry {
            prefix: 0,
            start: u32::try_from(self.bytes.len()).expect("it is settled far below 4 GiB"),
            key_bytes: length(key),
            value_bytes: value.map(length),
            revision,
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }

    /// Makes all changes that were taken.
    pub fn settle(&mut self, state: &mut State) {
        self.sort();
        for entries in self.entries.chunks(TOGETHER) {
            self.touch(entries);
            state.warm(entries.iter().map(|entry| self.key(entry)));
            for entry in entries {
                state.table.change(self.key(entry), self.value(entry), entry.revision);
            }
        }
        self.entries.clear();
        self.bytes.clear();
    }

    /// Reads something of each, side by side: sorted, they lie here and there in memory.
    fn touch(&self, entries: &[Entry]) {
        let ends = entries.iter().map(|entry| {
            let last = (entry.start + entry.key_bytes + entry.value_bytes.unwrap_or_default()).saturating_sub(1);
            [entry.start, last].map(|at| self.bytes.get(at as usize).copied().unwrap_or_default())
        });
        std::hint::black_box(ends.fold(0, |mixed, [first, last]| mixed ^ first ^ last));
    }

    /// In the order of the keys, of each the last change.
    fn sort(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        for entry in &mut entries {
            let different = &self.key(entry)[self.common..];
            let mut prefix = [0; 8];
            let count = different.len().min(prefix.len());
            prefix[..count].copy_from_slice(&different[..count]);
            entry.prefix = u64::from_be_bytes(prefix);
        }
        entries.sort_unstable_by(|one, other| {
            one.prefix
                .cmp(&other.prefix)
                .then_with(|| self.key(one).cmp(self.key(other)))
                .then_with(|| Reverse(one.start).cmp(&Reverse(other.start)))
        });
        entries.dedup_by(|later, first| later.prefix == first.prefix && self.key(later) == self.key(first));
        self.entries = entries;
    }

    fn key(&self, entry: &Entry) -> &[u8] {
        let start = entry.start as usize;
        &self.bytes[start..start + entry.key_bytes as usize]
    }

    fn value(&self, entry: &Entry) -> Option<&[u8]> {
        let start = (entry.start + entry.key_bytes) as usize;
        entry.value_bytes.map(|bytes| &self.bytes[start..start + bytes as usize])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A record of the table whose value says its revision.
    fn put(key: &str, revision: u64, bytes: usize) -> Change {
        let value = [&[1][..], &revision.to_be_bytes().repeat(bytes.div_ceil(8))[..bytes], &[0]].concat();
        Change { space: Space::Table, key: key.as_bytes().to_vec(), value: Some(value) }
    }

    fn give(backlog: &mut Backlog, state: &mut State, change: &Change, revision: u64) {
        let mut key = Vec::new();
        change.write_record_key(&mut key);
        backlog.take(state, &key, change.value.as_deref(), revision).unwrap();
    }

    #[test]
    fn the_table_is_what_the_changes_in_their_order_make_of_it() {
        let (mut state, mut expected, mut backlog) = (State::new(), State::new(), Backlog::new());
        let mut settled = 0;
        for revision in 1..300_000_u64 {
            let number = revision.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            // Keys that share nothing, or much, or are the beginning of others; some often, some once.
            let key = match number % 4 {
                0 => format!("key/{}", number % 1_000),
                1 => format!("key/{:020}", number % 50_000),
                2 => "key/".repeat(1 + number as usize % 3),
                _ => format!("{number}"),
            };
            let mut change = put(&key, revision, number as usize % 200);
            if number % 7 == 0 {
                change.value = None;
            }
            let before = backlog.entries.len();
            give(&mut backlog, &mut state, &change, revision);
            settled += u32::from(backlog.entries.len() < before);
            assert_eq!(state.revision(), revision);
            expected.apply(change, revision);
        }
        assert!(settled > 0 && backlog.bytes.capacity() <= 2 * BYTES_MAX, "{settled} pieces");
        assert!(state != expected, "the last piece is not made yet");
        backlog.settle(&mut state);
        assert!(state == expected && expected.keys() > 10_000);
        // Nothing is left of them.
        backlog.settle(&mut state);
        assert!(state == expected);
    }

    #[test]
    fn what_is_no_record_is_refused_and_sessions_are_changed_at_once() {
        let (mut state, mut backlog) = (State::new(), Backlog::new());
        assert_eq!(backlog.take(&mut state, b"", None, 1), Err(ChangeError::NoKey));
        assert_eq!(backlog.take(&mut state, b"tkey", Some(b"\x09"), 1), Err(ChangeError::NotOfItsSpace(Space::Table)));
        assert_eq!(state.revision(), 0);
        let record_key = [&b"s"[..], &[7; 16]].concat();
        let record = [&[1][..], &5_u64.to_le_bytes(), &0_u64.to_le_bytes(), b"user"].concat();
        backlog.take(&mut state, &record_key, Some(&record), 1).unwrap();
        assert_eq!((state.revision(), state.sessions()), (1, 1));
    }
}
