//! The byte layout of a checkpoint: the one description, mirrored by `docs/storage.md`.
//!
//! - Pure: bytes in, values out.
//! - Integers are little-endian, checksums CRC32C. Magic, version and the place of the header's CRC are those of a segment's header
//!   and stay in every format version.
//! - A block's header carries the file's salt and its own offset, so that bytes inside of values are never taken for one.

use uuid::Uuid;

use super::CheckpointRecord;
use crate::format::{FORMAT_VERSION, MAX_BATCH_BYTES, array_at, put_at, u32_at, u64_at};
use crate::reader::Chain;

/// The first format version that has checkpoints.
pub(crate) const CHECKPOINT_VERSION_OLDEST: u32 = 2;
const _: () = assert!(CHECKPOINT_VERSION_OLDEST <= FORMAT_VERSION);

pub(crate) const CHECKPOINT_HEADER_BYTES: usize = 4096;
pub(crate) const CHECKPOINT_MAGIC: [u8; 8] = *b"KVBCKP\r\n";
pub(crate) const CHECKPOINT_MAGIC_AT: usize = 0;
pub(crate) const CHECKPOINT_VERSION_AT: usize = 8;
pub(crate) const CHECKPOINT_HEADER_BYTES_AT: usize = 12;
pub(crate) const CHECKPOINT_UUID_AT: usize = 16;
pub(crate) const CHECKPOINT_SALT_AT: usize = 32;
pub(crate) const CHECKPOINT_NEXT_SEGMENT_AT: usize = 40;
pub(crate) const CHECKPOINT_NEXT_SEQUENCE_AT: usize = 48;
pub(crate) const CHECKPOINT_REVISION_AT: usize = 56;
pub(crate) const CHECKPOINT_STAMP_AT: usize = 64;
pub(crate) const CHECKPOINT_PREVIOUS_CRC_AT: usize = 72;
pub(crate) const CHECKPOINT_RESERVED_AT: usize = 76;
pub(crate) const CHECKPOINT_CRC_AT: usize = CHECKPOINT_HEADER_BYTES - 4;

pub(crate) const BLOCK_HEADER_BYTES: usize = 44;
pub(crate) const BLOCK_MAGIC: [u8; 4] = *b"kvC\x01";
pub(crate) const BLOCK_MAGIC_AT: usize = 0;
pub(crate) const BLOCK_KIND_AT: usize = 4;
pub(crate) const BLOCK_RESERVED_AT: usize = 5;
pub(crate) const BLOCK_SALT_AT: usize = 8;
pub(crate) const BLOCK_OFFSET_AT: usize = 16;
pub(crate) const BLOCK_PAYLOAD_BYTES_AT: usize = 24;
pub(crate) const BLOCK_RECORDS_AT: usize = 28;
pub(crate) const BLOCK_PREVIOUS_CRC_AT: usize = 32;
pub(crate) const BLOCK_PAYLOAD_CRC_AT: usize = 36;
pub(crate) const BLOCK_CRC_AT: usize = 40;

/// A block is closed before a record that would make its payload longer than this. A longer record has a block of its own.
pub(crate) const BLOCK_PAYLOAD_BYTES: usize = 64 << 10;
/// Longest payload that any writer makes: one record as long as a batch.
pub(crate) const MAX_BLOCK_PAYLOAD_BYTES: usize = MAX_BATCH_BYTES;
const _: () = assert!(BLOCK_PAYLOAD_BYTES <= MAX_BLOCK_PAYLOAD_BYTES && MAX_BLOCK_PAYLOAD_BYTES < u32::MAX as usize);

pub(crate) const RECORD_HEADER_BYTES: usize = 16;
pub(crate) const RECORD_KEY_BYTES_AT: usize = 0;
pub(crate) const RECORD_VALUE_BYTES_AT: usize = 4;
pub(crate) const RECORD_REVISION_AT: usize = 8;
/// Stands for the length of the value in a sorted run: the record is deleted. Never in a checkpoint.
pub(crate) const RUN_DELETED: u32 = u32::MAX;

pub(crate) const END_PAYLOAD_BYTES: usize = 76;
/// A sorted run ends with the totals alone.
pub(crate) const RUN_END_PAYLOAD_BYTES: usize = 24;
pub(crate) const END_RECORDS_AT: usize = 0;
pub(crate) const END_BYTES_AT: usize = 8;
pub(crate) const END_DIGEST_AT: usize = 16;
pub(crate) const END_UUID_AT: usize = RUN_END_PAYLOAD_BYTES;
pub(crate) const END_NEXT_SEGMENT_AT: usize = 40;
pub(crate) const END_NEXT_SEQUENCE_AT: usize = 48;
pub(crate) const END_REVISION_AT: usize = 56;
pub(crate) const END_STAMP_AT: usize = 64;
pub(crate) const END_PREVIOUS_CRC_AT: usize = 72;

/// What a checkpoint holds: all that the log says up to here, and where the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covers {
    /// Names the log.
    pub uuid: Uuid,
    /// Number of the first segment that is not covered.
    pub next_segment: u64,
    /// Sequence of the first batch that is not covered: the first one of that segment.
    pub next_sequence: u64,
    /// Last revision covered.
    pub revision: u64,
    /// Highest stamp covered, wall-clock ms.
    pub stamp_ms: u64,
    /// Header CRC of the last batch covered; 0 if there is none.
    pub previous_crc: u32,
}

impl Covers {
    /// What the first batch that is not covered must fit on to.
    pub(crate) fn chain(&self) -> Chain {
        Chain {
            next_sequence: self.next_sequence,
            previous_crc: self.previous_crc,
            last_revision: self.revision,
            last_stamp_ms: self.stamp_ms,
            writer: None,
        }
    }

    fn is_possible(&self) -> bool {
        self.next_segment != 0 && self.next_sequence != 0
    }
}

/// The block at the start of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// Random per file.
    pub salt: u64,
    /// What the checkpoint holds.
    pub covers: Covers,
}

/// Why a checkpoint's header could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Newer(u32),
    Damaged(&'static str),
}

impl CheckpointHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; CHECKPOINT_HEADER_BYTES];
        let bytes = block.as_mut_slice();
        put_at(bytes, CHECKPOINT_MAGIC_AT, &CHECKPOINT_MAGIC);
        put_at(bytes, CHECKPOINT_VERSION_AT, &FORMAT_VERSION.to_le_bytes());
        put_at(bytes, CHECKPOINT_HEADER_BYTES_AT, &(CHECKPOINT_HEADER_BYTES as u32).to_le_bytes());
        put_at(bytes, CHECKPOINT_UUID_AT, self.covers.uuid.as_bytes());
        put_at(bytes, CHECKPOINT_SALT_AT, &self.salt.to_le_bytes());
        put_at(bytes, CHECKPOINT_NEXT_SEGMENT_AT, &self.covers.next_segment.to_le_bytes());
        put_at(bytes, CHECKPOINT_NEXT_SEQUENCE_AT, &self.covers.next_sequence.to_le_bytes());
        put_at(bytes, CHECKPOINT_REVISION_AT, &self.covers.revision.to_le_bytes());
        put_at(bytes, CHECKPOINT_STAMP_AT, &self.covers.stamp_ms.to_le_bytes());
        put_at(bytes, CHECKPOINT_PREVIOUS_CRC_AT, &self.covers.previous_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CHECKPOINT_CRC_AT]);
        put_at(bytes, CHECKPOINT_CRC_AT, &crc.to_le_bytes());
        block
    }

    /// Decodes the first [`CHECKPOINT_HEADER_BYTES`] of a file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        if bytes.len() < CHECKPOINT_HEADER_BYTES {
            return Err(HeaderFault::Damaged("the file ends inside the header"));
        }
        if bytes[..CHECKPOINT_VERSION_AT] != CHECKPOINT_MAGIC {
            return Err(HeaderFault::Damaged("it doesn't start like a checkpoint"));
        }
        if u32_at(bytes, CHECKPOINT_CRC_AT) != crc32c::crc32c(&bytes[..CHECKPOINT_CRC_AT]) {
            return Err(HeaderFault::Damaged("the checksum of the header is wrong"));
        }
        let version = u32_at(bytes, CHECKPOINT_VERSION_AT);
        if version > FORMAT_VERSION {
            return Err(HeaderFault::Newer(version));
        }
        if version < CHECKPOINT_VERSION_OLDEST {
            return Err(HeaderFault::Damaged("its format version had no checkpoints"));
        }
        if u32_at(bytes, CHECKPOINT_HEADER_BYTES_AT) as usize != CHECKPOINT_HEADER_BYTES {
            return Err(HeaderFault::Damaged("its header has an unknown size"));
        }
        if bytes[CHECKPOINT_RESERVED_AT..CHECKPOINT_CRC_AT].iter().any(|&byte| byte != 0) {
            return Err(HeaderFault::Damaged("its reserved bytes are not zero"));
        }
        let covers = Covers {
            uuid: Uuid::from_bytes(array_at(bytes, CHECKPOINT_UUID_AT)),
            next_segment: u64_at(bytes, CHECKPOINT_NEXT_SEGMENT_AT),
            next_sequence: u64_at(bytes, CHECKPOINT_NEXT_SEQUENCE_AT),
            revision: u64_at(bytes, CHECKPOINT_REVISION_AT),
            stamp_ms: u64_at(bytes, CHECKPOINT_STAMP_AT),
            previous_crc: u32_at(bytes, CHECKPOINT_PREVIOUS_CRC_AT),
        };
        if !covers.is_possible() {
            return Err(HeaderFault::Damaged("the segment or batch that goes on behind it has the number 0"));
        }
        Ok(Self { salt: u64_at(bytes, CHECKPOINT_SALT_AT), covers })
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockKind {
    /// Records of a checkpoint.
    Records = 1,
    /// The totals; the last block.
    End = 2,
    /// Records of a sorted run, deletes among them.
    Run = 3,
}

/// The header in front of a block's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub kind: u8,
    pub reserved: [u8; 3],
    pub salt: u64,
    /// Where this header stands in its file.
    pub offset: u64,
    pub payload_bytes: u32,
    pub records: u32,
    /// Header CRC of the block before it, 0 in the first; covers that block's payload too, through its payload CRC.
    pub previous_crc: u32,
    pub payload_crc: u32,
    /// CRC32C of all the fields above.
    pub crc: u32,
}

impl BlockHeader {
    /// Writes the header over the first [`BLOCK_HEADER_BYTES`] of `bytes` and notes its CRC.
    pub fn encode_into(&mut self, bytes: &mut [u8]) {
        put_at(bytes, BLOCK_MAGIC_AT, &BLOCK_MAGIC);
        bytes[BLOCK_KIND_AT] = self.kind;
        put_at(bytes, BLOCK_RESERVED_AT, &self.reserved);
        put_at(bytes, BLOCK_SALT_AT, &self.salt.to_le_bytes());
        put_at(bytes, BLOCK_OFFSET_AT, &self.offset.to_le_bytes());
        put_at(bytes, BLOCK_PAYLOAD_BYTES_AT, &self.payload_bytes.to_le_bytes());
        put_at(bytes, BLOCK_RECORDS_AT, &self.records.to_le_bytes());
        put_at(bytes, BLOCK_PREVIOUS_CRC_AT, &self.previous_crc.to_le_bytes());
        put_at(bytes, BLOCK_PAYLOAD_CRC_AT, &self.payload_crc.to_le_bytes());
        self.crc = crc32c::crc32c(&bytes[..BLOCK_CRC_AT]);
        put_at(bytes, BLOCK_CRC_AT, &self.crc.to_le_bytes());
    }

    /// Decodes the header at the start of `bytes`, which were read at `offset` of the file with `salt`. `None` unless magic, salt,
    /// the offset it names and its CRC all agree.
    pub fn decode(bytes: &[u8], salt: u64, offset: u64) -> Option<Self> {
        if bytes.len() < BLOCK_HEADER_BYTES
            || bytes[..BLOCK_KIND_AT] != BLOCK_MAGIC
            || u64_at(bytes, BLOCK_SALT_AT) != salt
            || u64_at(bytes, BLOCK_OFFSET_AT) != offset
            || u32_at(bytes, BLOCK_CRC_AT) != crc32c::crc32c(&bytes[..BLOCK_CRC_AT])
        {
            return None;
        }
        Some(Self {
            kind: bytes[BLOCK_KIND_AT],
            reserved: array_at(bytes, BLOCK_RESERVED_AT),
            salt,
            offset,
            payload_bytes: u32_at(bytes, BLOCK_PAYLOAD_BYTES_AT),
            records: u32_at(bytes, BLOCK_RECORDS_AT),
            previous_crc: u32_at(bytes, BLOCK_PREVIOUS_CRC_AT),
            payload_crc: u32_at(bytes, BLOCK_PAYLOAD_CRC_AT),
            crc: u32_at(bytes, BLOCK_CRC_AT),
        })
    }
}

/// Bytes that a record takes in a block.
pub(crate) fn record_bytes(key: &[u8], value: &[u8]) -> usize {
    RECORD_HEADER_BYTES + key.len() + value.len()
}

/// Appends a record; without a value it is a delete, which only a run may hold. The lengths were checked against
/// [`MAX_BLOCK_PAYLOAD_BYTES`].
pub(crate) fn push_record(bytes: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>, revision: u64) {
    let length = |part: &[u8]| u32::try_from(part.len()).expect("it is shorter than a block may be");
    let mut head = [0; RECORD_HEADER_BYTES];
    put_at(&mut head, RECORD_KEY_BYTES_AT, &length(key).to_le_bytes());
    put_at(&mut head, RECORD_VALUE_BYTES_AT, &value.map_or(RUN_DELETED, length).to_le_bytes());
    put_at(&mut head, RECORD_REVISION_AT, &revision.to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value.unwrap_or_default());
}

/// The record at the start of `bytes`, and what follows. `None` if it is longer than the bytes.
pub(crate) fn split_record(bytes: &[u8]) -> Option<(CheckpointRecord<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    let (key, rest) = rest.split_at_checked(u32_at(head, RECORD_KEY_BYTES_AT) as usize)?;
    let (value, rest) = rest.split_at_checked(u32_at(head, RECORD_VALUE_BYTES_AT) as usize)?;
    Some((CheckpointRecord { key, value, revision: u64_at(head, RECORD_REVISION_AT) }, rest))
}

/// A record of a sorted run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunRecord<'a> {
    pub key: &'a [u8],
    /// `None`: deleted.
    pub value: Option<&'a [u8]>,
    pub revision: u64,
}

/// [`split_record`] for a run, where a record may be a delete.
pub(crate) fn split_run_record(bytes: &[u8]) -> Option<(RunRecord<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    if u32_at(head, RECORD_VALUE_BYTES_AT) == RUN_DELETED {
        let (key, rest) = rest.split_at_checked(u32_at(head, RECORD_KEY_BYTES_AT) as usize)?;
        return Some((RunRecord { key, value: None, revision: u64_at(head, RECORD_REVISION_AT) }, rest));
    }
    let (CheckpointRecord { key, value, revision }, rest) = split_record(bytes)?;
    Some((RunRecord { key, value: Some(value), revision }, rest))
}

/// Totals in the end block, and all that it holds in a sorted run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub records: u64,
    pub bytes: u64,
    pub digest: u64,
}

impl Totals {
    pub fn encode(&self) -> [u8; RUN_END_PAYLOAD_BYTES] {
        let mut bytes = [0; RUN_END_PAYLOAD_BYTES];
        put_at(&mut bytes, END_RECORDS_AT, &self.records.to_le_bytes());
        put_at(&mut bytes, END_BYTES_AT, &self.bytes.to_le_bytes());
        put_at(&mut bytes, END_DIGEST_AT, &self.digest.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == RUN_END_PAYLOAD_BYTES).then(|| Self {
            records: u64_at(bytes, END_RECORDS_AT),
            bytes: u64_at(bytes, END_BYTES_AT),
            digest: u64_at(bytes, END_DIGEST_AT),
        })
    }
}

/// What the end block of a checkpoint holds: the totals, and the header's fields once more, so that no page of the file is the only
/// one that tells where the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointEnd {
    pub totals: Totals,
    pub covers: Covers,
}

impl CheckpointEnd {
    pub fn encode(&self) -> [u8; END_PAYLOAD_BYTES] {
        let mut bytes = [0; END_PAYLOAD_BYTES];
        put_at(&mut bytes, END_RECORDS_AT, &self.totals.encode());
        put_at(&mut bytes, END_UUID_AT, self.covers.uuid.as_bytes());
        put_at(&mut bytes, END_NEXT_SEGMENT_AT, &self.covers.next_segment.to_le_bytes());
        put_at(&mut bytes, END_NEXT_SEQUENCE_AT, &self.covers.next_sequence.to_le_bytes());
        put_at(&mut bytes, END_REVISION_AT, &self.covers.revision.to_le_bytes());
        put_at(&mut bytes, END_STAMP_AT, &self.covers.stamp_ms.to_le_bytes());
        put_at(&mut bytes, END_PREVIOUS_CRC_AT, &self.covers.previous_crc.to_le_bytes());
        bytes
    }

    /// `None` for another length, or fields that no header can have.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != END_PAYLOAD_BYTES {
            return None;
        }
        let covers = Covers {
            uuid: Uuid::from_bytes(array_at(bytes, END_UUID_AT)),
            next_segment: u64_at(bytes, END_NEXT_SEGMENT_AT),
            next_sequence: u64_at(bytes, END_NEXT_SEQUENCE_AT),
            revision: u64_at(bytes, END_REVISION_AT),
            stamp_ms: u64_at(bytes, END_STAMP_AT),
            previous_crc: u32_at(bytes, END_PREVIOUS_CRC_AT),
        };
        let totals = Totals::decode(&bytes[..RUN_END_PAYLOAD_BYTES])?;
        covers.is_possible().then_some(Self { totals, covers })
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
