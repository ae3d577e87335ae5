//! [`CheckpointWriter`]: makes a checkpoint in `table.ckpt.tmp`, and [`Finishing`]: gives it its name when it is safe to rely on.
//!
//! - The old checkpoint is untouched until the rename; the segments are the caller's to remove, after the last step.
//! - What is written begins its way to the disk every so many bytes, so that the sync of a batch never queues behind all of it, nor behind
//!   a sync of a piece.
//! - The file gets its name only after it was synced, read back past the page cache, and found to be what was written.
//!
//! Caveat: after an error the temporary file stays. [`super::remove_checkpoint_temporaries`] removes it; a failed *sync* means that
//! the disk is not to be trusted with anything.

use std::sync::Arc;

use super::block_output::BlockOutput;
use super::format::{BlockKind, CHECKPOINT_HEADER_BYTES, CheckpointHeader, Covers};
use super::reader::CheckpointReader;
use super::{CHECKPOINT_FILE, CHECKPOINT_TEMPORARY, CheckpointRecord, CheckpointSummary};
use crate::error::LogError;
use crate::storage::Storage;

/// A checkpoint under construction.
pub struct CheckpointWriter {
    storage: Arc<dyn Storage>,
    out: BlockOutput,
    salt: u64,
    piece_bytes: u64,
    /// Up to here it is on its way to the disk.
    begun: u64,
}

impl CheckpointWriter {
    /// Begins `table.ckpt.tmp`, which is emptied if it is there. `salt` is random; each `piece_bytes` of output begin
    /// their way to the disk when they are there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(storage: Arc<dyn Storage>, salt: u64, piece_bytes: u64) -> Result<Self, LogError> {
        let path = storage.path(CHECKPOINT_TEMPORARY);
        let file = storage.create(CHECKPOINT_TEMPORARY).map_err(|source| LogError::io("create", path.clone(), source))?;
        // The header comes last: what it says may not be known before, and a file without it can't be taken for a checkpoint.
        let offset = CHECKPOINT_HEADER_BYTES as u64;
        Ok(Self { storage, out: BlockOutput::new(file, path, BlockKind::Records, salt, offset), salt, piece_bytes, begun: 0 })
    }

    /// Adds a record. Keys ascend strictly.
    ///
    /// # Errors
    /// `BadRecord` for a key out of order or a record out of bounds; else what the disk says.
    pub fn put(&mut self, record: CheckpointRecord<'_>) -> Result<(), LogError> {
        self.out.push(record.key, Some(record.value), record.revision)?;
        if self.out.offset() - self.begun >= self.piece_bytes {
            self.out.begin_writing(self.begun);
            self.begun = self.out.offset();
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.out.offset()
    }

    /// All records were put: what is left to do, step by step.
    pub fn finish(self, covers: Covers) -> Finishing {
        let header = CheckpointHeader { salt: self.salt, covers };
        Finishing { storage: self.storage, out: self.out, header, state: State::End }
    }
}

/// The step that [`Finishing::advance`] does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishStep {
    /// The last block, the end block and the header are written.
    End,
    /// The file is synced.
    Sync,
    /// It is read back past the page cache and compared.
    Verify,
    /// It gets its name.
    Rename,
    /// The directory is synced: from then on the segments that it covers may go.
    SyncDirectory,
    /// Nothing is left to do.
    Done,
}

enum State {
    End,
    Sync { written: CheckpointSummary },
    Verify { written: CheckpointSummary, reader: Option<Box<CheckpointReader>> },
    Rename { written: CheckpointSummary },
    SyncDirectory { written: CheckpointSummary },
    Done { written: CheckpointSummary },
}

/// A checkpoint whose records were all put, on its way to its name.
pub struct Finishing {
    storage: Arc<dyn Storage>,
    out: BlockOutput,
    header: CheckpointHeader,
    state: State,
}

impl Finishing {
    /// What comes next.
    pub fn step(&self) -> FinishStep {
        match self.state {
            State::End => FinishStep::End,
            State::Sync { .. } => FinishStep::Sync,
            State::Verify { .. } => FinishStep::Verify,
            State::Rename { .. } => FinishStep::Rename,
            State::SyncDirectory { .. } => FinishStep::SyncDirectory,
            State::Done { .. } => FinishStep::Done,
        }
    }

    /// The checkpoint, once it is done.
    pub fn done(&self) -> Option<&CheckpointSummary> {
        match &self.state {
            State::Done { written } => Some(written),
            _ => None,
        }
    }

    /// Does one step, or about `bytes` of the verification. Gives the bytes that it read or wrote.
    ///
    /// # Errors
    /// What the disk says, and `Damaged` if what is on it isn't what was written. After an error nothing more can be done with it.
    pub fn advance(&mut self, bytes: u64) -> Result<u64, LogError> {
        match &mut self.state {
            State::End => {
                let begun = self.out.offset();
                let written = self.write_end()?;
                self.state = State::Sync { written };
                Ok(written.file_bytes - begun)
            }
            State::Sync { written } => {
                self.out.sync()?;
                self.state = State::Verify { written: *written, reader: None };
                Ok(0)
            }
            State::Verify { written, reader } => {
                let reader = match reader {
                    Some(reader) => reader,
                    None => reader.insert(Box::new(CheckpointReader::open_past_cache(&*self.storage, CHECKPOINT_TEMPORARY)?)),
                };
                let from = reader.offset();
                while reader.offset() - from < bytes.max(1) {
                    if reader.next_block()?.is_none() {
                        let read = reader.offset() - from;
                        if reader.summary() != Some(*written) {
                            return Err(LogError::Damaged {
                                file: self.out.path.clone(),
                                offset: 0,
                                what: "what was read back is another checkpoint than the one that was written".to_owned(),
                            });
                        }
                        self.state = State::Rename { written: *written };
                        return Ok(read);
                    }
                }
                Ok(reader.offset() - from)
            }
            State::Rename { written } => {
                self.storage
                    .rename(CHECKPOINT_TEMPORARY, CHECKPOINT_FILE)
                    .map_err(|source| LogError::io("rename", self.out.path.clone(), source))?;
                self.state = State::SyncDirectory { written: *written };
                Ok(0)
            }
            State::SyncDirectory { written } => {
                self.storage.sync_directory().map_err(|source| LogError::io("sync", self.storage.path(""), source))?;
                self.state = State::Done { written: *written };
                Ok(0)
            }
            State::Done { .. } => Ok(0),
        }
    }

    /// Does all that is left.
    ///
    /// # Errors
    /// As [`Finishing::advance`].
    pub fn run(mut self) -> Result<CheckpointSummary, LogError> {
        loop {
            if let Some(written) = self.done() {
                return Ok(*written);
            }
            self.advance(u64::MAX)?;
        }
    }

    fn write_end(&mut self) -> Result<CheckpointSummary, LogError> {
        let totals = self.out.end(Some(self.header.covers))?;
        let block = self.header.encode();
        self.out.file.write_at(&block, 0).map_err(|source| LogError::io("write", self.out.path.clone(), source))?;
        Ok(CheckpointSummary {
            header: self.header,
            records: totals.records,
            record_bytes: totals.bytes,
            digest: totals.digest,
            file_bytes: self.out.offset(),
        })
    }
}
