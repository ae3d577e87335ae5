//! Makes what covers a mutated file agree with it again: checksums, and the numbers that chain the batches.
//!
//! The layout is written down here a second time, from docs/storage.md, so that a reader with an offset wrong doesn't mend its own
//! error.

use std::hash::Hasher;

use twox_hash::XxHash64;

/// What an input asks to be mended.
#[derive(Clone, Copy, Debug)]
pub struct Mend {
    /// Checksums of the segments' headers, the marks, the blocks of a checkpoint.
    pub headers: bool,
    /// Checksums of batches and their payloads.
    pub batches: bool,
    /// Salt, offset, sequence and the checksum of the one before.
    pub chain: bool,
}

impl Mend {
    /// The lowest three bits.
    pub fn from_byte(byte: u8) -> Self {
        Self { headers: byte & 1 != 0, batches: byte & 2 != 0, chain: byte & 4 != 0 }
    }
}

/// Where the next segment goes on: sequence, header CRC of the last batch, revision.
pub type Chain = Option<(u64, u32, u64)>;

const SEGMENT_HEADER_BYTES: usize = 4096;
const BATCH_HEADER_BYTES: usize = 84;
const BLOCK_HEADER_BYTES: usize = 44;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
fn sum(bytes: &mut [u8], at: usize) {
    let crc = crc32c::crc32c(&bytes[..at]);
    put(bytes, at, &crc.to_le_bytes());
}

/// Both slots of a mark file.
pub fn mend_mark(bytes: &mut [u8], mend: Mend) {
    for slot in [0, 512] {
        if let Some(slot) = bytes.get_mut(slot..slot + 52)
            && mend.headers
        {
            sum(slot, 48);
        }
    }
}

/// A segment under this number that goes on where `chain` says, as far as its batches can be walked.
pub fn mend_segment(bytes: &mut [u8], mend: Mend, number: u64, chain: Chain) -> Chain {
    let header = bytes.get_mut(..SEGMENT_HEADER_BYTES)?;
    if mend.chain {
        put(header, 48, &number.to_le_bytes());
        if let Some((sequence, crc, revision)) = chain {
            put(header, 56, &sequence.to_le_bytes());
            put(header, 64, &revision.to_le_bytes());
            put(header, 80, &crc.to_le_bytes());
        }
    }
    if mend.headers {
        sum(header, SEGMENT_HEADER_BYTES - 4);
    }
    let salt = u64_at(header, 40);
    let (mut sequence, mut previous_crc, mut revision) = (u64_at(header, 56), u32_at(header, 80), u64_at(header, 64));
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(rest) = bytes.get_mut(at..)
        && rest.len() >= BATCH_HEADER_BYTES
        && rest[..3] == *b"kvB"
    {
        let payload_bytes = u32_at(rest, 64) as usize;
        let Some(batch) = rest.get_mut(..BATCH_HEADER_BYTES.saturating_add(payload_bytes)) else { break };
        if mend.chain {
            put(batch, 8, &salt.to_le_bytes());
            put(batch, 24, &sequence.to_le_bytes());
            put(batch, 56, &(at as u64).to_le_bytes());
            put(batch, 72, &previous_crc.to_le_bytes());
            put(batch, 40, &revision.wrapping_add(1).to_le_bytes());
        }
        if mend.batches {
            let crc = crc32c::crc32c(&batch[BATCH_HEADER_BYTES..]);
            put(batch, 76, &crc.to_le_bytes());
            sum(batch, 80);
        }
        revision = last_revision(&batch[BATCH_HEADER_BYTES..], u32_at(batch, 68)).unwrap_or(revision);
        sequence = u64_at(batch, 24).wrapping_add(1);
        previous_crc = u32_at(batch, 80);
        at += batch.len();
    }
    Some((sequence, previous_crc, revision))
}

/// The revision of the last group.
fn last_revision(mut payload: &[u8], groups: u32) -> Option<u64> {
    let mut revision = None;
    for _ in 0..groups {
        let (head, rest) = payload.split_at_checked(20)?;
        payload = rest.get(u32_at(head, 0) as usize..)?;
        revision = Some(u64_at(head, 8));
    }
    revision
}

/// A checkpoint, as far as its blocks can be walked.
pub fn mend_checkpoint(bytes: &mut [u8], mend: Mend) {
    let Some(header) = bytes.get_mut(..SEGMENT_HEADER_BYTES) else { return };
    if mend.headers {
        sum(header, SEGMENT_HEADER_BYTES - 4);
    }
    let salt = u64_at(header, 32);
    let (uuid, covers) = (header[16..32].to_vec(), header[40..76].to_vec());
    let (mut previous_crc, mut records, mut payload_bytes, mut digest) = (0, 0u64, 0u64, XxHash64::with_seed(0));
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(rest) = bytes.get_mut(at..)
        && rest.len() >= BLOCK_HEADER_BYTES
        && rest[..3] == *b"kvC"
    {
        let length = u32_at(rest, 24) as usize;
        let Some(block) = rest.get_mut(..BLOCK_HEADER_BYTES.saturating_add(length)) else { break };
        if mend.chain {
            put(block, 8, &salt.to_le_bytes());
            put(block, 16, &(at as u64).to_le_bytes());
            put(block, 32, &u32::to_le_bytes(previous_crc));
            if block[4] == 2 && length == 76 {
                put(block, BLOCK_HEADER_BYTES, &records.to_le_bytes());
                put(block, BLOCK_HEADER_BYTES + 8, &payload_bytes.to_le_bytes());
                put(block, BLOCK_HEADER_BYTES + 16, &digest.finish().to_le_bytes());
                put(block, BLOCK_HEADER_BYTES + 24, &uuid);
                put(block, BLOCK_HEADER_BYTES + 40, &covers);
            }
        }
        if mend.batches {
            let crc = crc32c::crc32c(&block[BLOCK_HEADER_BYTES..]);
            put(block, 36, &crc.to_le_bytes());
            sum(block, 40);
        }
        records += u64::from(u32_at(block, 28));
        payload_bytes += length as u64;
        digest.write(&block[BLOCK_HEADER_BYTES..]);
        previous_crc = u32_at(block, 40);
        at += block.len();
    }
}
