//! Sorted runs: pieces of a merge, in memory ([`Piece`]) or as a file ([`RunOutput`], [`Run`]), and [`Sources`], which gives the
//! records of many of them in one order.
//!
//! - A run holds each key once, with the newest record of its piece; deletes are records like others.
//! - Sources are numbered from the oldest to the newest. Of one key the newest record is given, the others are passed over.
//! - A run file has the blocks of a checkpoint, end block included: what comes back is checked like one.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use super::RUN_PREFIX;
use super::block_output::BlockOutput;
use super::blocks::{BlockCursor, BlockInput};
use super::format::{BLOCK_HEADER_BYTES, BLOCK_PAYLOAD_BYTES, BlockKind, RunRecord, push_record, record_bytes, split_run_record};
use super::spool::Sorted;
use super::terms::MergeError;
use crate::error::LogError;
use crate::storage::Storage;

/// Least that is read ahead in a run, in bytes: one ordinary block.
pub(super) const READ_AHEAD_MIN: usize = BLOCK_HEADER_BYTES + BLOCK_PAYLOAD_BYTES;
/// Most that is read ahead in a run, in bytes.
pub(super) const READ_AHEAD_MAX: usize = 1 << 20;
/// Most runs that are merged at once: each has a file open.
const FAN_IN_MAX: usize = 64;
/// A piece's records are found by 32 bits; the longest record may stand behind this.
const PIECE_BYTES_MAX: usize = 1 << 30;

/// Records in memory on their way to a run.
pub(super) struct Piece {
    records: Vec<u8>,
    entries: Vec<Entry>,
    bytes_max: usize,
    /// How many bytes all keys begin with alike.
    common: usize,
}

struct Entry {
    /// Once sorted: the key's bytes behind those that all keys share. Decides most comparisons without a look at the record.
    prefix: u64,
    /// Where the record starts.
    start: u32,
}

impl Piece {
    /// An empty piece that is full at about `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { records: Vec::new(), entries: Vec::new(), bytes_max: bytes_max.min(PIECE_BYTES_MAX), common: 0 }
    }

    /// Adds a record; false if there is no room for it. The first one always finds room.
    pub fn add(&mut self, key: &[u8], value: Option<&[u8]>, revision: u64) -> bool {
        let bytes = record_bytes(key, value.unwrap_or_default());
        let held = self.records.len() + self.entries.len() * size_of::<Entry>();
        if held + bytes + size_of::<Entry>() > self.bytes_max && !self.entries.is_empty() {
            return false;
        }
        if let Some(first) = self.get(0) {
            self.common = common_bytes(first.key, &key[..key.len().min(self.common)]);
        } else {
            self.common = key.len();
            // Taken once, instead of by doubling: what is not written to costs no memory.
            self.records.reserve_exact(self.bytes_max.max(bytes));
            self.entries.reserve_exact(self.bytes_max / size_of::<Entry>() + 1);
        }
        let start = u32::try_from(self.records.len()).expect("a piece has at most PIECE_BYTES_MAX bytes");
        self.entries.push(Entry { prefix: 0, start });
        push_record(&mut self.records, key, value, revision);
        true
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts the records in order and drops all but the newest of each key.
    pub fn sort(&mut self) {
        let (records, common) = (&self.records, self.common);
        for entry in &mut self.entries {
            let different = &record_at(records, entry).key[common..];
            let mut prefix = [0; 8];
            let count = different.len().min(prefix.len());
            prefix[..count].copy_from_slice(&different[..count]);
            entry.prefix = u64::from_be_bytes(prefix);
        }
        let key = |entry: &Entry| record_at(records, entry).key;
        // The newest first among equal keys. In place: a stable sort would need half as much memory again.
        self.entries.sort_unstable_by(|one, other| {
            one.prefix
                .cmp(&other.prefix)
                .then_with(|| key(one).cmp(key(other)))
                .then_with(|| Reverse(one.start).cmp(&Reverse(other.start)))
        });
        self.entries.dedup_by(|later, first| later.prefix == first.prefix && key(later) == key(first));
    }

    /// The record at `index` of the sorted piece.
    pub fn get(&self, index: usize) -> Option<RunRecord<'_>> {
        self.entries.get(index).map(|entry| record_at(&self.records, entry))
    }
}

/// How many bytes the two begin with alike.
fn common_bytes(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

fn record_at<'a>(records: &'a [u8], entry: &Entry) -> RunRecord<'a> {
    split_run_record(&records[entry.start as usize..]).expect("a record was put there").0
}

/// A finished run file.
#[derive(Debug)]
pub(super) struct Run {
    pub name: String,
    salt: u64,
    /// What reading it needs at once, bytes.
    longest: usize,
}

impl Run {
    fn need(&self) -> usize {
        self.longest.max(READ_AHEAD_MIN)
    }

    pub fn open(&self, storage: &dyn Storage, read_ahead: usize) -> Result<Source, MergeError> {
        let path = storage.path(&self.name);
        let file = storage.open(&self.name).map_err(|source| MergeError::Output(LogError::io("open", path.clone(), source)))?;
        let input = BlockInput::of_run(file, path, self.salt, read_ahead);
        Ok(Source::Run(BlockCursor::new(input)))
    }
}

/// How many of `runs`, from the first on, may be merged at once in so much memory. At least two.
pub(super) fn fan_in(runs: &[Run], memory_bytes: usize) -> usize {
    let mut needed = 0;
    let fitting = runs
        .iter()
        .take(FAN_IN_MAX)
        .take_while(|run| {
            needed += run.need();
            needed <= memory_bytes
        })
        .count();
    fitting.max(2).min(runs.len())
}

/// A run that is being written.
pub(super) struct RunOutput {
    name: String,
    salt: u64,
    out: BlockOutput,
    piece_bytes: u64,
    /// Up to here it is on its way to the disk.
    begun: u64,
}

impl RunOutput {
    pub fn create(storage: &Arc<dyn Storage>, number: u64, salt: u64, piece_bytes: u64) -> Result<Self, LogError> {
        let name = format!("{RUN_PREFIX}{number:08}");
        let path = storage.path(&name);
        let file = storage.create(&name).map_err(|source| LogError::io("create", path.clone(), source))?;
        let salt = salt.wrapping_add(number);
        Ok(Self { name, salt, out: BlockOutput::new(file, path, BlockKind::Run, salt, 0), piece_bytes, begun: 0 })
    }

    pub fn bytes(&self) -> u64 {
        self.out.offset()
    }

    pub fn put(&mut self, record: RunRecord<'_>) -> Result<(), LogError> {
        self.out.push(record.key, record.value, record.revision)?;
        // Nobody needs a run after a crash. But what waits to be written would stand in the way of the log's own syncs.
        if self.out.offset() - self.begun >= self.piece_bytes {
            self.out.begin_writing(self.begun);
            self.begun = self.out.offset();
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<Run, LogError> {
        self.out.end(None)?;
        Ok(Run { name: self.name, salt: self.salt, longest: self.out.longest() })
    }
}

/// One of several sorted sources.
pub(super) enum Source {
    /// The old checkpoint: what is wrong with it is wrong with the input.
    Checkpoint(BlockCursor),
    Run(BlockCursor),
    /// A sorted piece, and the index behind its current record.
    Memory(Piece, usize),
    /// Records that came sorted.
    Sorted(Sorted),
}

impl Source {
    fn advance(&mut self) -> Result<bool, MergeError> {
        match self {
            Self::Checkpoint(cursor) => cursor.advance().map_err(MergeError::Input),
            Self::Run(cursor) => cursor.advance().map_err(MergeError::Output),
            Self::Memory(piece, next) => {
                *next += 1;
                Ok(piece.get(*next - 1).is_some())
            }
            Self::Sorted(sorted) => Ok(sorted.advance()),
        }
    }

    fn current(&self) -> RunRecord<'_> {
        match self {
            Self::Checkpoint(cursor) | Self::Run(cursor) => cursor.current(),
            Self::Memory(piece, next) => piece.get(*next - 1).expect("the source advanced to it"),
            Self::Sorted(sorted) => sorted.current(),
        }
    }
}

/// Many sorted sources as one.
pub(super) struct Sources {
    /// From the oldest to the newest.
    all: Vec<Source>,
    /// A heap of those that have a record: the smallest key on top, among equal ones the newest source.
    heap: Vec<usize>,
    /// The key that was given last.
    given: Vec<u8>,
}

impl Sources {
    pub fn new(all: Vec<Source>) -> Result<Self, MergeError> {
        let mut sources = Self { heap: Vec::with_capacity(all.len()), all, given: Vec::new() };
        for index in 0..sources.all.len() {
            if sources.all[index].advance()? {
                sources.heap.push(index);
            }
        }
        for at in (0..sources.heap.len() / 2).rev() {
            sources.sift_down(at);
        }
        Ok(sources)
    }

    /// The next record; `None` at the end of all sources.
    pub fn current(&self) -> Option<RunRecord<'_>> {
        self.heap.first().map(|&top| self.all[top].current())
    }

    /// Goes on behind the current record and the older ones of its key. Gives the bytes passed.
    pub fn advance(&mut self) -> Result<u64, MergeError> {
        let mut bytes = 0;
        self.given.clear();
        loop {
            let Some(&top) = self.heap.first() else { return Ok(bytes) };
            let record = self.all[top].current();
            if bytes == 0 {
                self.given.extend_from_slice(record.key);
            } else if record.key != self.given.as_slice() {
                return Ok(bytes);
            }
            bytes += record_bytes(record.key, record.value.unwrap_or_default()) as u64;
            if !self.all[top].advance()? {
                self.heap.swap_remove(0);
            }
            self.sift_down(0);
        }
    }

    fn before(&self, one: usize, other: usize) -> bool {
        let (one, other) = (self.heap[one], self.heap[other]);
        match self.all[one].current().key.cmp(self.all[other].current().key) {
            Ordering::Less => true,
            Ordering::Equal => one > other,
            Ordering::Greater => false,
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut first = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.before(child, first) {
                    first = child;
                }
            }
            if first == at {
                return;
            }
            self.heap.swap(at, first);
            at = first;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn runs_are_merged_together_only_as_memory_and_files_allow() {
        let runs = |count, longest| -> Vec<Run> {
            (0..count).map(|number| Run { name: format!("{number}"), salt: 0, longest }).collect()
        };
        assert_eq!(fan_in(&runs(10, 100), 32 << 20), 10);
        assert_eq!(fan_in(&runs(1000, 100), 32 << 20), FAN_IN_MAX);
        assert_eq!(fan_in(&runs(1000, 100), 10 * READ_AHEAD_MIN), 10);
        // Records of 8 MiB: four of them are in memory at once, not one for each run.
        assert_eq!(fan_in(&runs(1000, 8 << 20), 32 << 20), 4);
        // Two are needed to come to an end at all.
        assert_eq!(fan_in(&runs(1000, 8 << 20), 1), 2);
        assert_eq!(fan_in(&runs(1, 8 << 20), 1), 1);
    }

    #[test]
    fn a_piece_holds_what_its_memory_allows_and_gives_the_newest_of_each_key_in_order() {
        let mut piece = Piece::new(1000);
        // Keys that begin alike, some of them the beginning of others.
        let keys = ["tkey000000002", "tkey0000000", "tkey000000002a", "tkey000000001", "t", "tkey000000002"];
        for (revision, key) in (1..).zip(keys) {
            assert!(piece.add(key.as_bytes(), (revision != 4).then_some(b"v"), revision));
        }
        piece.sort();
        let sorted: Vec<_> = (0..).map_while(|at| piece.get(at)).map(|record| (record.key, record.revision)).collect();
        let expected: [(&[u8], u64); 5] =
            [(b"t", 5), (b"tkey0000000", 2), (b"tkey000000001", 4), (b"tkey000000002", 6), (b"tkey000000002a", 3)];
        assert_eq!(sorted, expected);
        let mut piece = Piece::new(1000);
        let fitting = (0u32..).take_while(|number| piece.add(&number.to_be_bytes(), Some(&[0; 44]), 1)).count();
        assert_eq!(fitting, 1000 / (16 + 4 + 44 + size_of::<Entry>()));
        // One record always fits.
        assert!(Piece::new(10).add(b"key", Some(&[0; 5000]), 1));
    }
}
