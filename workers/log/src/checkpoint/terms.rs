//! What a merge starts from, how it is done, and what can come of it.

use super::CheckpointRecord;
use super::reader::CheckpointReader;
use crate::error::LogError;

/// Why a merge failed.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The old checkpoint or a segment can't be read as it was written. The next checkpoint must come from memory, and nothing may be
    /// removed.
    #[error("a checkpoint can't be made from what is on the disk: {0}")]
    Input(#[source] LogError),
    /// The new checkpoint can't be written. A full disk is worth another try later; after a failed sync nothing on this disk is.
    #[error("a checkpoint can't be written: {0}")]
    Output(#[source] LogError),
}

impl MergeError {
    /// The log's error, whichever side it came from.
    pub fn into_source(self) -> LogError {
        match self {
            Self::Input(source) | Self::Output(source) => source,
        }
    }
}

/// What [`BaseRecords::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseStep {
    /// A record, which [`BaseRecords::current`] gives.
    Record,
    /// Nothing yet: call again later.
    Pending,
    /// The end.
    End,
}

/// Records to start from that are in no checkpoint: slices of the table in memory.
///
/// A slice may be of a later state than the ones before it, as long as the segments of the merge begin before the first slice was
/// taken and end behind the last one.
pub trait BaseRecords: Send {
    /// Goes to the next record. Keys ascend strictly.
    fn advance(&mut self) -> BaseStep;

    /// The record that `advance` went to.
    fn current(&self) -> CheckpointRecord<'_>;

    /// About how many bytes all of them have, if that is known: for the progress that is told.
    fn bytes(&self) -> Option<u64> {
        None
    }
}

/// What a merge starts from.
pub enum MergeBase {
    /// Nothing: the segments begin with segment 1.
    Nothing,
    /// A checkpoint, at its beginning; the segments begin with the first that it doesn't cover.
    Checkpoint(Box<CheckpointReader>),
    /// Records from elsewhere. They are put aside first, in memory or as a run, so that the segments may grow meanwhile.
    Records {
        /// The records.
        records: Box<dyn BaseRecords>,
        /// The first segment.
        first_segment: u64,
    },
}

/// How a merge is done.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// How much memory pieces, and later the read-ahead of all runs, may take. In bytes.
    pub memory_bytes: usize,
    /// Output begins its way to the disk each time after so many bytes.
    pub piece_bytes: u64,
    /// Random: the salt of the files.
    pub salt: u64,
}

/// What [`Merge::advance`](super::Merge::advance) came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeState {
    /// There is more to do.
    Working,
    /// It can't go on: the base has no record yet, or the end is not known.
    Waiting,
    /// The checkpoint has its name, durably: [`Merge::done`](super::Merge::done).
    Done,
}

/// Result of [`Merge::advance`](super::Merge::advance).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Bytes read and written.
    pub bytes: u64,
    /// What comes next.
    pub state: MergeState,
}
