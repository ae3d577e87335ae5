//! The transaction log: batches of records grouped by revision, made durable before anyone hears of them.
//!
//! - The log knows records (key bytes, value bytes) and revisions, never what they mean.
//! - [`Persisted`] is the proof that a revision reached the level the sync mode promises; only this crate can make one.
//! - Every byte goes through the small [`Storage`] trait: [`DiskStorage`] is real, [`SimStorage`] can crash.
//! - A [`Checkpointer`] merges the checkpoint with sealed segments into the next one, beside the log and without the table; a start reads
//!   the checkpoint and what is behind it.
//! - Recovery cuts a torn tail, refuses damage to anything that was once durable, and never guesses which of the two it sees:
//!   the rule and its reasons are in `docs/storage.md`.
//! - An I/O error is final. The log refuses every later call, and the caller ends the process.
//!
//! Caveat: nothing here has a thread. Without somebody who drives a [`Checkpointer`], the log grows and a start replays all of it.

mod backup;
mod batch;
mod checkpoint;
mod checkpointer;
mod disk;
mod entropy;
mod error;
mod file_log;
mod filesystem;
mod format;
mod history;
pub mod inspect;
mod load;
mod lock;
mod log;
mod mark;
mod memory;
mod past;
mod payload;
mod reader;
mod recovery;
mod repair;
mod replay;
mod report;
mod restore;
mod rewrite;
mod segment;
mod segments;
mod sim;
mod storage;
pub mod sweep;
mod walk;

pub use backup::{
    BackupError, BackupReport, BackupSink, BackupSource, MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, ManifestFile, StorageSink,
};
pub use batch::BatchBuilder;
pub use checkpoint::{
    Advance, BaseRecords, BaseStep, Block, BlockRecords, CHECKPOINT_FILE, CHECKPOINT_TEMPORARY, CheckpointHeader,
    CheckpointReader, CheckpointSummary, CheckpointWriter, Covers, FinishStep, Finishing, Merge, MergeBase, MergeError,
    MergeOptions, MergeState, remove_checkpoint_temporaries,
};
pub use checkpointer::{CheckpointError, CheckpointPolicy, Checkpointer, Merging, Progress};
pub use disk::DiskStorage;
pub use entropy::{Entropy, OsEntropy, SeededEntropy};
pub use error::LogError;
pub use file_log::{FileLog, LogOptions};
pub use filesystem::{FileSystem, Medium};
pub use format::{FORMAT_VERSION, MAX_BATCH_BYTES, OLDEST_FORMAT_VERSION};
pub use history::{LogPlace, LogReader, ReadEnd};
pub use lock::{DirLock, LockError, LockHolder, LockOutcome};
pub use log::{Log, LogStats, PersistLevel, Persisted, SyncMode};
pub use memory::MemoryLog;
pub use payload::{Cause, GroupRef, RecordRef, Records, SessionRef};
pub use repair::{Additions, Damage, Gap, Loss, Remains, Remedy, RepairError, RepairPlan, SalvageRules, Verdict, examine};
pub use replay::{CheckpointRecord, Replay};
pub use report::{Cut, EpochReason, HistoryReport, RecoveryReport, VisitError};
pub use restore::{Restore, RestoreError, RestoreReport};
pub use segments::{CheckpointInfo, GivenUp, Leftover, SegmentInfo, Segments};
pub use sim::{CrashChoice, Fault, SimStorage, Tear, TearDetail};
pub use storage::{Storage, StorageFile};
