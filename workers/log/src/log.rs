//! The [`Log`] trait, the sync modes, and the proof that a log hands out.
//!
//! - [`Persisted`] can only be made in this crate, after the write (and in `always` mode the sync) it speaks of has returned.
//! - An error of any method is final: the log is out of service, and the caller ends the process.

use std::fmt;
use std::time::Duration;

use crate::batch::{BatchBuilder, Finished};
use crate::error::LogError;
use crate::reader::Chain;

/// When a batch is synced. `Display` names what each mode loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Every batch, before anything of it is released.
    Always,
    /// At this interval.
    Every(Duration),
    /// Only at a clean stop and when a segment is full.
    Never,
}

impl SyncMode {
    pub(crate) const ALWAYS_BYTE: u8 = 1;
    pub(crate) const EVERY_BYTE: u8 = 2;
    pub(crate) const NEVER_BYTE: u8 = 3;

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Always => Self::ALWAYS_BYTE,
            Self::Every(_) => Self::EVERY_BYTE,
            Self::Never => Self::NEVER_BYTE,
        }
    }
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always (an acknowledged write is on disk)"),
            Self::Every(interval) => {
                let ms = interval.as_millis();
                write!(f, "every {ms} ms (a power failure or system crash loses up to the last {ms} ms of acknowledged writes)")
            }
            Self::Never => {
                f.write_str("never (a power failure or system crash loses any of the writes acknowledged since the start)")
            }
        }
    }
}

/// How far a batch has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PersistLevel {
    /// The operating system has it: it survives the end of the process, not a power failure.
    Written,
    /// The disk has confirmed it.
    Synced,
}

/// Proof that everything up to a revision has reached the level that the sync mode promises. Only the log can make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persisted {
    level: PersistLevel,
    revision: u64,
}

impl Persisted {
    pub(crate) fn new(level: PersistLevel, revision: u64) -> Self {
        Self { level, revision }
    }

    /// The level reached.
    pub fn level(&self) -> PersistLevel {
        self.level
    }

    /// The last revision covered.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

/// Figures for `stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes of log in all segments, history included, without room allocated ahead.
    pub bytes: u64,
    /// Files of segments, history included.
    pub segments: u64,
    /// Batches appended since the start, markers included.
    pub batches: u64,
    /// Records appended since the start.
    pub records: u64,
    /// Syncs of batches since the start.
    pub syncs: u64,
    /// How long the last of them took, µs.
    pub last_sync_us: u64,
    /// How long the slowest of them took, µs.
    pub slowest_sync_us: u64,
}

/// Where batches go: the file log, or its twin in memory.
///
/// An error of any method is final. Nothing of the batch may be acknowledged, the log answers `OutOfService` from then on, and
/// the caller ends the process.
pub trait Log: Send {
    /// Appends a batch and makes it durable as the mode says. The builder may be reused afterwards. An empty batch writes nothing.
    ///
    /// # Errors
    /// See [`LogError`]; final.
    fn append(&mut self, batch: &mut BatchBuilder) -> Result<Persisted, LogError>;

    /// Proof for everything appended so far. A batch without changes needs only this.
    fn persisted(&self) -> Persisted;

    /// True if a marker would vouch for batches that nothing vouches for yet.
    fn needs_marker(&self) -> bool;

    /// Appends an empty batch whose header vouches for the last one: called when nothing was appended for about a second.
    ///
    /// # Errors
    /// See [`LogError`]; final.
    fn mark(&mut self, stamp_ms: u64) -> Result<(), LogError>;

    /// Interval mode: syncs what was appended if the interval has passed. `now_ms` is any clock that only goes forward. Called at
    /// least twice per interval. Gives the proof as [`Log::persisted`] does.
    ///
    /// # Errors
    /// See [`LogError`]; final.
    fn tick(&mut self, now_ms: u64) -> Result<Persisted, LogError>;

    /// Ends the segment that is being written and begins the next one: what was appended so far can then be taken into a checkpoint. A
    /// segment without a batch stays.
    ///
    /// # Errors
    /// See [`LogError`]; final.
    fn seal(&mut self) -> Result<(), LogError>;

    /// Clean stop: syncs, marks the log as closed and takes it out of service.
    ///
    /// # Errors
    /// See [`LogError`]; final.
    fn close(&mut self, stamp_ms: u64) -> Result<(), LogError>;

    /// The oldest revision that can be read back; the next one if there is none.
    fn oldest_revision(&self) -> u64;

    /// Figures for `stats`.
    fn stats(&self) -> LogStats;
}

/// Refuses a batch that doesn't go on where the log stands.
pub(crate) fn check_batch(batch: &Finished<'_>, chain: &Chain) -> Result<(), LogError> {
    if let Some(base) = batch.base_revision
        && base != chain.last_revision
    {
        return Err(LogError::BadBatch(format!(
            "its first group follows revision {base}, the log is at revision {}",
            chain.last_revision
        )));
    }
    if batch.stamp_ms < chain.last_stamp_ms && batch.groups > 0 {
        return Err(LogError::BadBatch(format!(
            "its stamp {} ms is behind the log's {} ms",
            batch.stamp_ms, chain.last_stamp_ms
        )));
    }
    Ok(())
}
