//! [`BlockOutput`]: writes blocks of records one after the other: the body of a checkpoint, or a sorted run.
//!
//! - A block leaves in one write. A record out of order, or longer than any reader takes, is refused.
//! - The end block carries the totals of all records, in a checkpoint also what that covers.

use std::hash::Hasher;
use std::path::PathBuf;

use twox_hash::XxHash64;

use super::format::{
    BLOCK_HEADER_BYTES, BLOCK_PAYLOAD_BYTES, BlockHeader, BlockKind, CheckpointEnd, Covers, MAX_BLOCK_PAYLOAD_BYTES, Totals,
    push_record, record_bytes,
};
use crate::error::LogError;
use crate::storage::StorageFile;

/// Counts what goes through.
pub(super) struct Running {
    records: u64,
    bytes: u64,
    digest: XxHash64,
}

impl Running {
    pub fn new() -> Self {
        Self { records: 0, bytes: 0, digest: XxHash64::with_seed(0) }
    }

    pub fn add(&mut self, payload: &[u8], records: u32) {
        self.records += u64::from(records);
        self.bytes += payload.len() as u64;
        self.digest.write(payload);
    }

    pub fn totals(&self) -> Totals {
        Totals { records: self.records, bytes: self.bytes, digest: self.digest.finish() }
    }
}

/// Writes blocks.
pub(super) struct BlockOutput {
    pub file: Box<dyn StorageFile>,
    pub path: PathBuf,
    kind: BlockKind,
    salt: u64,
    /// Where the block under construction will stand.
    offset: u64,
    previous_crc: u32,
    /// Room for the header, then the payload.
    block: Vec<u8>,
    records: u32,
    last_key: Option<Vec<u8>>,
    running: Running,
    /// The longest block so far, header included.
    longest: usize,
}

impl BlockOutput {
    /// Blocks of `kind` from `offset` of `file` on, which `path` names in errors.
    pub fn new(file: Box<dyn StorageFile>, path: PathBuf, kind: BlockKind, salt: u64, offset: u64) -> Self {
        Self {
            file,
            path,
            kind,
            salt,
            offset,
            previous_crc: 0,
            block: vec![0; BLOCK_HEADER_BYTES],
            records: 0,
            last_key: None,
            running: Running::new(),
            longest: 0,
        }
    }

    /// Bytes in the file so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The longest block so far in bytes: what a reader needs at once.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Adds a record; no value means a delete.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>, revision: u64) -> Result<(), LogError> {
        let bytes = record_bytes(key, value.unwrap_or_default());
        if bytes > MAX_BLOCK_PAYLOAD_BYTES {
            return Err(LogError::BadRecord(format!("it has {bytes} bytes")));
        }
        match &mut self.last_key {
            None => self.last_key = Some(key.to_vec()),
            Some(last) if last.as_slice() < key => {
                last.clear();
                last.extend_from_slice(key);
            }
            Some(_) => return Err(LogError::BadRecord("its key doesn't follow the key before it".to_owned())),
        }
        if self.block.len() + bytes > BLOCK_HEADER_BYTES + BLOCK_PAYLOAD_BYTES {
            self.flush()?;
        }
        push_record(&mut self.block, key, value, revision);
        self.records += 1;
        Ok(())
    }

    /// Writes the records collected so far as a block.
    fn flush(&mut self) -> Result<(), LogError> {
        if self.records == 0 {
            return Ok(());
        }
        self.running.add(&self.block[BLOCK_HEADER_BYTES..], self.records);
        self.write_block(self.kind)
    }

    fn write_block(&mut self, kind: BlockKind) -> Result<(), LogError> {
        let payload = &self.block[BLOCK_HEADER_BYTES..];
        let mut header = BlockHeader {
            kind: kind as u8,
            reserved: [0; 3],
            salt: self.salt,
            offset: self.offset,
            payload_bytes: u32::try_from(payload.len()).expect("a block is shorter than 4 GiB"),
            records: self.records,
            previous_crc: self.previous_crc,
            payload_crc: crc32c::crc32c(payload),
            crc: 0,
        };
        header.encode_into(&mut self.block);
        self.file.write_at(&self.block, self.offset).map_err(|source| LogError::io("write", self.path.clone(), source))?;
        self.offset += self.block.len() as u64;
        self.longest = self.longest.max(self.block.len());
        self.previous_crc = header.crc;
        self.records = 0;
        self.block.truncate(BLOCK_HEADER_BYTES);
        // The room that one huge record took is given back.
        self.block.shrink_to(2 * BLOCK_PAYLOAD_BYTES);
        Ok(())
    }

    /// Writes the last records and the end block, with what a checkpoint covers. Nothing may be pushed afterwards.
    pub fn end(&mut self, covers: Option<Covers>) -> Result<Totals, LogError> {
        self.flush()?;
        let totals = self.running.totals();
        match covers {
            Some(covers) => self.block.extend_from_slice(&CheckpointEnd { totals, covers }.encode()),
            None => self.block.extend_from_slice(&totals.encode()),
        }
        self.write_block(BlockKind::End)?;
        Ok(totals)
    }

    /// Has what was written since `from` begin its way to the disk.
    pub fn begin_writing(&self, from: u64) {
        self.file.begin_writing(from, self.offset);
    }

    pub fn sync(&self) -> Result<(), LogError> {
        self.file.sync().map_err(|source| LogError::io("sync", self.path.clone(), source))
    }
}
