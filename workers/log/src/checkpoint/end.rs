//! The end block of a checkpoint, found from the end of its file.
//!
//! - Nothing of the header is needed: the file ends right behind this block, whose size is fixed. The block's own offset and checksums
//!   must agree, and they vouch for the salt that it names.

use std::io;

use uuid::Uuid;

use super::format::{BLOCK_HEADER_BYTES, BLOCK_SALT_AT, BlockHeader, BlockKind, CheckpointEnd, END_PAYLOAD_BYTES};
use crate::format::u64_at;
use crate::storage::StorageFile;

const END_BLOCK_BYTES: usize = BLOCK_HEADER_BYTES + END_PAYLOAD_BYTES;

/// The last block of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct EndBlock {
    header: BlockHeader,
    /// What it says.
    pub end: CheckpointEnd,
}

impl EndBlock {
    /// Reads the end block; `None` if there is none that can be read where it should stand.
    ///
    /// # Errors
    /// What the disk says.
    pub fn find(file: &dyn StorageFile) -> io::Result<Option<Self>> {
        let Some(offset) = file.length()?.checked_sub(END_BLOCK_BYTES as u64) else { return Ok(None) };
        let mut bytes = [0; END_BLOCK_BYTES];
        if file.read_at(&mut bytes, offset)? < bytes.len() {
            return Ok(None);
        }
        let (head, payload) = bytes.split_at(BLOCK_HEADER_BYTES);
        let header = BlockHeader::decode(head, u64_at(head, BLOCK_SALT_AT), offset).filter(|header| {
            header.kind == BlockKind::End as u8
                && header.reserved == [0; 3]
                && header.records == 0
                && header.payload_bytes as usize == payload.len()
                && header.payload_crc == crc32c::crc32c(payload)
        });
        Ok(header.and_then(|header| Some(Self { header, end: CheckpointEnd::decode(payload)? })))
    }

    /// The salt of the file.
    pub fn salt(&self) -> u64 {
        self.header.salt
    }

    /// Gives the checkpoint in `file`, which ends with this block, another log's name there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn rename(mut self, file: &dyn StorageFile, uuid: Uuid) -> io::Result<()> {
        self.end.covers.uuid = uuid;
        let payload = self.end.encode();
        self.header.payload_crc = crc32c::crc32c(&payload);
        let mut bytes = [0; END_BLOCK_BYTES];
        bytes[BLOCK_HEADER_BYTES..].copy_from_slice(&payload);
        self.header.encode_into(&mut bytes);
        file.write_at(&bytes, self.header.offset)
    }
}
