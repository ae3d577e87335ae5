//! What a start of the log found and did, for the caller to show.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use uuid::Uuid;

use crate::segments::CheckpointInfo;

/// Why a visitor refuses a group.
pub type VisitError = Box<dyn Error + Send + Sync>;

/// A tail that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub file: PathBuf,
    /// Where the first dropped batch starts, bytes from the start of the file.
    pub offset: u64,
    /// How many bytes, up to the last one that is not zero, are not part of the log any more. They stay in the file.
    pub bytes: u64,
}

/// Why a start has a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochReason {
    /// The log is new.
    NewLog,
    /// The last process ran in a weaker sync mode (named by its byte in the batch headers) and did not stop cleanly.
    UncleanStop {
        /// True for `never`, false for an interval.
        never_synced: bool,
    },
    /// A tail was cut: it can't be told from an acknowledged batch that went bad.
    Cut,
}

impl fmt::Display for EpochReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NewLog => "the log is new",
            Self::UncleanStop { never_synced: false } => {
                "the last run synced at intervals and did not stop cleanly: its last acknowledged writes may be lost"
            }
            Self::UncleanStop { never_synced: true } => {
                "the last run did not sync and did not stop cleanly: its acknowledged writes may be lost"
            }
            Self::Cut => "the end of the log was cut, see there",
        })
    }
}

/// What a start found of the segments that the checkpoint covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryReport {
    /// The oldest that can be read back; `None` if the checkpoint is all there is of the past.
    pub first_segment: Option<u64>,
    /// Bytes of those that can be read back.
    pub bytes: u64,
    /// Segments whose header can't be read, and why. What is older than the last of them can't be read back either. Nothing but
    /// history is lost with them.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// What a start found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Names the log.
    pub uuid: Uuid,
    /// The epoch from now on.
    pub epoch: u64,
    /// Set if the epoch is new, with the reason.
    pub new_epoch: Option<EpochReason>,
    /// Last revision in the log, 0 if it has none.
    pub last_revision: u64,
    /// Highest stamp in the log, wall-clock ms, 0 if it has none.
    pub last_stamp_ms: u64,
    /// The checkpoint that the log begins with, if it has one.
    pub checkpoint: Option<CheckpointInfo>,
    /// What there is behind it.
    pub history: HistoryReport,
    /// Segments read, without those that are history.
    pub segments: u64,
    /// Batches replayed, opening and marker batches included.
    pub batches: u64,
    /// Groups given to the visitor.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of log read.
    pub bytes: u64,
    /// The tail that was cut, if any.
    pub cut: Option<Cut>,
    /// True if the last process closed the log, or the log is new.
    pub clean_stop: bool,
    /// Bytes of batches that nothing vouched for and that were written again.
    pub rewritten_bytes: u64,
}

impl RecoveryReport {
    /// A report of nothing yet.
    pub(crate) fn empty() -> Self {
        Self {
            uuid: Uuid::nil(),
            epoch: 0,
            new_epoch: None,
            last_revision: 0,
            last_stamp_ms: 0,
            checkpoint: None,
            history: HistoryReport::default(),
            segments: 0,
            batches: 0,
            groups: 0,
            records: 0,
            bytes: 0,
            cut: None,
            clean_stop: false,
            rewritten_bytes: 0,
        }
    }
}
