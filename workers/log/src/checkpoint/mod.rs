//! The checkpoint: every record that there is at one revision, in one file sorted by record key, so that the log before it need
//! not be read again.
//!
//! - [`CheckpointWriter`] takes records in ascending order and leaves a file that was synced, read back past the page cache and
//!   compared before it gets its name.
//! - [`CheckpointReader`] gives nothing out that it has not checked: checksums, the chain of the blocks, order, counts, digest, and
//!   that the file ends where its end block says.
//! - [`Merge`] makes one out of an old checkpoint and sealed segments, in slices and in bounded memory.
//! - What a checkpoint covers is in its header ([`Covers`]): the log goes on with that segment, batch and chain. The end block says it
//!   again, so that a bad header costs nothing but a repair.
//!
//! The layout is in `docs/storage.md` and in [`mod@format`]; a test compares the two.

mod block_output;
mod blocks;
pub(crate) mod end;
pub(crate) mod format;
mod input;
mod merge;
mod reader;
mod runs;
mod spool;
mod terms;
mod writer;

use crate::error::LogError;
use crate::replay::CheckpointRecord;
use crate::storage::Storage;

pub use blocks::{Block, BlockRecords};
pub use format::{CheckpointHeader, Covers};
pub use merge::Merge;
pub use reader::CheckpointReader;
pub use terms::{Advance, BaseRecords, BaseStep, MergeBase, MergeError, MergeOptions, MergeState};
pub use writer::{CheckpointWriter, FinishStep, Finishing};

/// Name of the checkpoint in a data directory.
pub const CHECKPOINT_FILE: &str = "table.ckpt";
/// A checkpoint that is being made, before it gets its name.
pub const CHECKPOINT_TEMPORARY: &str = "table.ckpt.tmp";
/// Start of the name of a sorted run of a merge; a number of eight digits follows.
pub(crate) const RUN_PREFIX: &str = "table.run.";

/// A whole checkpoint in figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointSummary {
    /// Its header.
    pub header: CheckpointHeader,
    /// How many records it holds.
    pub records: u64,
    /// Bytes of all records, their headers included.
    pub record_bytes: u64,
    /// XXH64 (seed 0) over those bytes in order.
    pub digest: u64,
    /// Length of the file.
    pub file_bytes: u64,
}

/// Removes what an unfinished checkpoint left: the file that was being made, and sorted runs. Called when nothing is being made.
///
/// # Errors
/// When the directory can't be read or a file can't be removed. The removals are not synced: they may come back, and go again.
pub fn remove_checkpoint_temporaries(storage: &dyn Storage) -> Result<(), LogError> {
    let names = storage.list().map_err(|source| LogError::io("list", storage.path(""), source))?;
    for name in names.iter().filter(|name| *name == CHECKPOINT_TEMPORARY || name.starts_with(RUN_PREFIX)) {
        storage.remove(name).map_err(|source| LogError::io("remove", storage.path(name), source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
