//! [`Spool`]: where the records of a base that is in no file wait until the log behind it was read: in memory while they are few, else
//! in a run.
//!
//! - They come sorted, and leave as a [`Source`].
//! - Memory is bounded by what [`Spool::new`] was told; a record that would be too much takes all of them into a run.

use std::sync::Arc;

use super::format::{RunRecord, push_record, record_bytes, split_run_record};
use super::runs::{READ_AHEAD_MAX, Run, RunOutput, Source};
use super::terms::{MergeError, MergeOptions};
use crate::error::LogError;
use crate::storage::Storage;

/// Sorted records, one behind the other in memory.
#[derive(Default)]
pub(super) struct Sorted {
    bytes: Vec<u8>,
    /// The record that was advanced to, and where the next one starts.
    current: usize,
    next: usize,
}

impl Sorted {
    fn push(&mut self, record: RunRecord<'_>) {
        push_record(&mut self.bytes, record.key, record.value, record.revision);
    }

    /// Goes to the next record; false at the end.
    pub fn advance(&mut self) -> bool {
        self.current = self.next;
        let Some((record, _)) = split_run_record(&self.bytes[self.next..]) else { return false };
        self.next += record_bytes(record.key, record.value.unwrap_or_default());
        true
    }

    /// The record that [`Sorted::advance`] went to.
    pub fn current(&self) -> RunRecord<'_> {
        split_run_record(&self.bytes[self.current..]).expect("it was advanced to").0
    }
}

/// Takes the records of a base, in their order.
pub(super) struct Spool {
    storage: Arc<dyn Storage>,
    options: MergeOptions,
    /// Of the run, if there will be one.
    number: u64,
    bytes_max: usize,
    /// Of all records so far.
    bytes: u64,
    held: Held,
}

enum Held {
    Memory(Sorted),
    File(Box<RunOutput>),
}

/// All of a base's records.
pub(super) enum Spooled {
    Memory(Sorted),
    File(Run),
}

impl Spool {
    /// An empty one, which takes up to so many bytes of memory; then it makes the run of this number.
    pub fn new(storage: Arc<dyn Storage>, number: u64, bytes_max: usize, options: MergeOptions) -> Self {
        Self { storage, options, number, bytes_max, bytes: 0, held: Held::Memory(Sorted::default()) }
    }

    /// Bytes of the records taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// What the disk says, and `BadRecord` for what no run takes.
    pub fn put(&mut self, record: RunRecord<'_>) -> Result<(), LogError> {
        let bytes = record_bytes(record.key, record.value.unwrap_or_default());
        self.bytes += bytes as u64;
        match &mut self.held {
            Held::Memory(sorted) => {
                if sorted.bytes.len() + bytes <= self.bytes_max {
                    sorted.push(record);
                    return Ok(());
                }
                let MergeOptions { salt, piece_bytes, .. } = self.options;
                let mut out = RunOutput::create(&self.storage, self.number, salt, piece_bytes)?;
                while sorted.advance() {
                    out.put(sorted.current())?;
                }
                out.put(record)?;
                self.held = Held::File(Box::new(out));
                Ok(())
            }
            Held::File(out) => out.put(record),
        }
    }

    /// No more records come.
    ///
    /// # Errors
    /// What the disk says.
    pub fn finish(self) -> Result<Spooled, LogError> {
        Ok(match self.held {
            Held::Memory(sorted) => Spooled::Memory(sorted),
            Held::File(out) => Spooled::File(out.finish()?),
        })
    }
}

impl Spooled {
    /// Bytes of memory that it takes before it is read.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Memory(sorted) => sorted.bytes.capacity(),
            Self::File(_) => 0,
        }
    }

    /// Its records as a source; and the run that they stand in, to be removed at the end.
    pub fn open(self, storage: &dyn Storage) -> Result<(Source, Option<Run>), MergeError> {
        Ok(match self {
            Self::Memory(sorted) => (Source::Sorted(sorted), None),
            Self::File(run) => (run.open(storage, READ_AHEAD_MAX)?, Some(run)),
        })
    }
}
