//! [`CheckpointReader`]: streams a checkpoint's records, each block checked before it is given out.
//!
//! - What was read is a whole checkpoint exactly if `next_block` has returned `Ok(None)`: only then were the totals compared.
//! - Memory is bounded by about 1 MiB and the longest record.
//!
//! Caveat: after [`CheckpointReader::skip_damage`] it gives what can be read, and vouches for nothing but each record.

use std::path::PathBuf;

use uuid::Uuid;

use super::CheckpointSummary;
use super::blocks::{Block, BlockCursor, BlockInput};
use super::end::EndBlock;
use super::format::{CHECKPOINT_HEADER_BYTES, CheckpointHeader, Covers, HeaderFault};
use crate::error::LogError;
use crate::format::FORMAT_VERSION;
use crate::storage::{Storage, StorageFile};

/// How much is read ahead, bytes.
const READ_AHEAD: usize = 1 << 20;

/// Reads one checkpoint from its beginning to its end.
pub struct CheckpointReader {
    header: CheckpointHeader,
    path: PathBuf,
    blocks: BlockInput,
}

impl CheckpointReader {
    /// Opens the checkpoint `name` and checks its header.
    ///
    /// # Errors
    /// `Io` with `NotFound` if there is none; `Damaged` and `NewerFormat` as the header says.
    pub fn open(storage: &dyn Storage, name: &str) -> Result<Self, LogError> {
        let file = storage.open(name).map_err(|source| LogError::io("open", storage.path(name), source))?;
        Self::from_file(file, storage.path(name))
    }

    /// [`CheckpointReader::open`], `None` if there is no such file.
    ///
    /// # Errors
    /// As [`CheckpointReader::open`].
    pub fn open_if_there(storage: &dyn Storage, name: &str) -> Result<Option<Self>, LogError> {
        match Self::open(storage, name) {
            Err(LogError::Io { action: "open", source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    /// Opens the checkpoint `name` so that it is read from the disk, not from the page cache: [`Storage::open_past_cache`].
    ///
    /// # Errors
    /// As [`CheckpointReader::open`].
    pub fn open_past_cache(storage: &dyn Storage, name: &str) -> Result<Self, LogError> {
        let file = storage.open_past_cache(name).map_err(|source| LogError::io("open", storage.path(name), source))?;
        Self::from_file(file, storage.path(name))
    }

    /// Reads a checkpoint from an open file, which errors call `path`.
    ///
    /// # Errors
    /// As [`CheckpointReader::open`].
    pub fn from_file(file: Box<dyn StorageFile>, path: PathBuf) -> Result<Self, LogError> {
        let mut block = vec![0; CHECKPOINT_HEADER_BYTES];
        let read = file.read_at(&mut block, 0).map_err(|source| LogError::io("read", path.clone(), source))?;
        let header = match CheckpointHeader::decode(&block[..read]) {
            Ok(header) => header,
            Err(HeaderFault::Damaged(what)) => {
                return Err(LogError::Damaged { file: path, offset: 0, what: what.to_owned() });
            }
            Err(HeaderFault::Newer(version)) => {
                return Err(LogError::NewerFormat {
                    file: path,
                    found: format!("format version {version}"),
                    supported: format!("format version {FORMAT_VERSION}"),
                });
            }
        };
        Ok(Self::with_header(file, path, header))
    }

    fn with_header(file: Box<dyn StorageFile>, path: PathBuf, header: CheckpointHeader) -> Self {
        let blocks = BlockInput::of_checkpoint(file, path.clone(), &header, READ_AHEAD);
        Self { header, path, blocks }
    }

    /// Opens the checkpoint `name` without looking at its header: what that should say is taken from the end block. `None` if there
    /// is none that can be read. For a repair only: a start believes no checkpoint whose header is damaged.
    ///
    /// # Errors
    /// `Io` with `NotFound` if there is no such file, and what the disk says.
    pub(crate) fn open_without_header(storage: &dyn Storage, name: &str) -> Result<Option<Self>, LogError> {
        let file = storage.open(name).map_err(|source| LogError::io("open", storage.path(name), source))?;
        let found = EndBlock::find(&*file).map_err(|source| LogError::io("read", storage.path(name), source))?;
        Ok(found.map(|found| {
            let header = CheckpointHeader { salt: found.salt(), covers: found.end.covers };
            Self::with_header(file, storage.path(name), header)
        }))
    }

    /// The header.
    pub fn header(&self) -> &CheckpointHeader {
        &self.header
    }

    /// What the checkpoint holds.
    pub fn covers(&self) -> &Covers {
        &self.header.covers
    }

    /// Refuses a checkpoint of another log than `uuid`.
    ///
    /// # Errors
    /// `Foreign`.
    pub fn expect_uuid(&self, uuid: Uuid) -> Result<(), LogError> {
        let found = self.header.covers.uuid;
        if found == uuid {
            return Ok(());
        }
        Err(LogError::Foreign {
            path: self.path.clone(),
            what: format!("it belongs to log {found}, the segments are of log {uuid}. Move what doesn't belong here away."),
        })
    }

    /// The next block of records; `None` once all were given, the totals agree and the file ends there. After an error the reader
    /// stays where it is and fails again, unless [`CheckpointReader::skip_damage`] is called.
    ///
    /// # Errors
    /// `Damaged` with the offset of the block, `NewerFormat`, or what the disk says.
    pub fn next_block(&mut self) -> Result<Option<Block<'_>>, LogError> {
        self.blocks.next()
    }

    /// Its records one by one, from where it stands.
    pub(super) fn into_cursor(self) -> BlockCursor {
        BlockCursor::new(self.blocks)
    }

    /// Where the next block starts; behind the end, the length of the file. In bytes.
    pub fn offset(&self) -> u64 {
        self.blocks.offset()
    }

    /// The whole in figures, once `next_block` has returned `None`.
    pub fn summary(&self) -> Option<CheckpointSummary> {
        let totals = self.blocks.ended()?;
        Some(CheckpointSummary {
            header: self.header,
            records: totals.records,
            record_bytes: totals.bytes,
            digest: totals.digest,
            file_bytes: self.blocks.offset(),
        })
    }

    /// After `next_block` found damage: goes on with the next block whose header is valid. Gives the bytes passed over, or `None` if
    /// no block follows. From then on the chain of the blocks and the totals are not compared any more.
    ///
    /// # Errors
    /// What the disk says.
    pub fn skip_damage(&mut self) -> Result<Option<u64>, LogError> {
        self.blocks.skip()
    }
}
