//! What makes checkpoints, as the thread sees it: the log's [`Checkpointer`], and in tests one that fails as it is told to.

use kvbroker_log::{CheckpointError, Checkpointer, Merging, Progress};

use super::slices::MemoryBase;

/// Makes checkpoints in steps and trims the history; see [`Checkpointer`], whose errors leave nothing behind.
pub(crate) trait Maker {
    /// A checkpoint that is being made.
    type Merging;

    /// True if enough of the log is sealed for the next one.
    fn is_due(&self) -> bool;

    /// Begins one from the checkpoint in force and the sealed segments behind it.
    fn begin(&mut self) -> Result<Self::Merging, CheckpointError>;

    /// Begins one from slices of the table.
    fn begin_from_memory(&mut self, base: MemoryBase) -> Result<Self::Merging, CheckpointError>;

    /// Reads and writes about so many bytes.
    fn advance(&mut self, merging: &mut Self::Merging, bytes: u64) -> Result<Progress, CheckpointError>;

    /// Removes what an unfinished one has left.
    fn give_up(&mut self, merging: Self::Merging) -> Result<(), CheckpointError>;

    /// True while the disk has too little room, so that history goes before its time.
    fn is_low(&self) -> bool;

    /// Deletes what the history does not need any more at this time of the stamps; gives the number of segments.
    fn trim(&mut self, now_ms: u64) -> Result<u64, CheckpointError>;
}

impl Maker for Checkpointer {
    type Merging = Merging;

    fn is_due(&self) -> bool {
        Checkpointer::is_due(self)
    }

    fn begin(&mut self) -> Result<Merging, CheckpointError> {
        Checkpointer::begin(self)
    }

    fn begin_from_memory(&mut self, base: MemoryBase) -> Result<Merging, CheckpointError> {
        let first_segment = base.first_segment();
        Checkpointer::begin_from_memory(self, Box::new(base), first_segment)
    }

    fn advance(&mut self, merging: &mut Merging, bytes: u64) -> Result<Progress, CheckpointError> {
        Checkpointer::advance(self, merging, bytes)
    }

    fn give_up(&mut self, merging: Merging) -> Result<(), CheckpointError> {
        Checkpointer::give_up(self, merging)
    }

    fn is_low(&self) -> bool {
        Checkpointer::is_low(self)
    }

    fn trim(&mut self, now_ms: u64) -> Result<u64, CheckpointError> {
        Checkpointer::trim(self, now_ms)
    }
}
