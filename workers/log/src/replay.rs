//! [`Replay`]: who takes what a start of the log reads.
//!
//! - The order is: every record of the checkpoint (ascending by key), then [`Replay::checkpoint_read`] once, then every group of the
//!   segments behind it. Without a checkpoint there are only groups.
//! - A refusal ends the start before anything was written.
//!
//! Caveat: a closure over groups is a `Replay` that refuses a checkpoint: enough for a log that never had one.

use crate::payload::GroupRef;
use crate::report::VisitError;

/// One record of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRecord<'a> {
    /// Record key.
    pub key: &'a [u8],
    /// Record value.
    pub value: &'a [u8],
    /// Revision of the group that put it.
    pub revision: u64,
}

/// Takes the contents of a log when it is opened.
pub trait Replay {
    /// A record of the checkpoint. They come in strictly ascending order of their keys.
    ///
    /// # Errors
    /// Ends the start: the data is intact, but not understood.
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError>;

    /// All records of the checkpoint were given; it holds everything up to `revision`.
    ///
    /// # Errors
    /// As [`Replay::record`].
    fn checkpoint_read(&mut self, revision: u64) -> Result<(), VisitError>;

    /// The groups that come have so many bytes of log, or fewer: those of the next batch and all behind them.
    fn log_left(&mut self, bytes: u64) {
        let _ = bytes;
    }

    /// These groups come next: for who takes less time when it knows. There may be others behind them.
    fn coming<'g>(&mut self, groups: &mut dyn Iterator<Item = GroupRef<'g>>) {
        let _ = groups;
    }

    /// A group behind the checkpoint, in order.
    ///
    /// # Errors
    /// As [`Replay::record`].
    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError>;
}

impl<F: FnMut(GroupRef<'_>) -> Result<(), VisitError>> Replay for F {
    fn record(&mut self, _record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        Err("the log has a checkpoint, and this reader takes groups only".into())
    }

    fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
        Err("the log has a checkpoint, and this reader takes groups only".into())
    }

    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        self(group)
    }
}
