//! The byte layout of segments, batches, groups and records: the one description, mirrored by `docs/storage.md`.
//!
//! - Pure: bytes in, values out. Nothing here reads a file.
//! - All integers are little-endian. Every structure is covered by a CRC32C.
//! - Decoding never trusts a length before the checksum over it was verified.
//! - The first 16 bytes and the last 4 of a segment header mean the same in every format version, so that an old program
//!   can say "newer" instead of "damaged".
//!
//! Caveat: a CRC finds accidents, not forgers. Whoever can write the files can write valid batches.

use uuid::Uuid;

use crate::log::SyncMode;

/// Version of the data files that this program writes and the newest that it reads.
///
/// Version 2: the log may begin with a checkpoint, and a segment header names the sync mode of its process.
pub const FORMAT_VERSION: u32 = 2;

/// The oldest version that this program reads.
pub const OLDEST_FORMAT_VERSION: u32 = 1;

/// Largest batch, header included, that may be appended: what a reader must be ready to hold in memory. In bytes.
pub const MAX_BATCH_BYTES: usize = 256 << 20;

/// Start of every segment name; the segment's number follows in at least eight decimal digits.
pub(crate) const SEGMENT_PREFIX: &str = "table.txn.";
/// A segment that is being made, before it gets its name.
pub(crate) const SEGMENT_TEMPORARY: &str = "table.txn.tmp";

/// Size of a segment's header block. A page of its own, so that no append rewrites a sector of it.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 4096;
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"KVBTXN\r\n";

pub(crate) const SEGMENT_MAGIC_AT: usize = 0;
pub(crate) const SEGMENT_VERSION_AT: usize = 8;
pub(crate) const SEGMENT_HEADER_BYTES_AT: usize = 12;
pub(crate) const SEGMENT_UUID_AT: usize = 16;
pub(crate) const SEGMENT_EPOCH_AT: usize = 32;
pub(crate) const SEGMENT_SALT_AT: usize = 40;
pub(crate) const SEGMENT_NUMBER_AT: usize = 48;
pub(crate) const SEGMENT_FIRST_SEQUENCE_AT: usize = 56;
pub(crate) const SEGMENT_BASE_REVISION_AT: usize = 64;
pub(crate) const SEGMENT_STAMP_AT: usize = 72;
pub(crate) const SEGMENT_PREVIOUS_CRC_AT: usize = 80;
pub(crate) const SEGMENT_REASON_AT: usize = 84;
pub(crate) const SEGMENT_MODE_AT: usize = 85;
pub(crate) const SEGMENT_RESERVED_AT: usize = 86;
pub(crate) const SEGMENT_CRC_AT: usize = SEGMENT_HEADER_BYTES - 4;

pub(crate) const BATCH_HEADER_BYTES: usize = 84;
pub(crate) const BATCH_MAGIC: [u8; 4] = *b"kvB\x01";

pub(crate) const BATCH_MAGIC_AT: usize = 0;
pub(crate) const BATCH_KIND_AT: usize = 4;
pub(crate) const BATCH_MODE_AT: usize = 5;
pub(crate) const BATCH_RESERVED_AT: usize = 6;
pub(crate) const BATCH_SALT_AT: usize = 8;
pub(crate) const BATCH_WRITER_AT: usize = 16;
pub(crate) const BATCH_SEQUENCE_AT: usize = 24;
pub(crate) const BATCH_SYNCED_THROUGH_AT: usize = 32;
pub(crate) const BATCH_FIRST_REVISION_AT: usize = 40;
pub(crate) const BATCH_STAMP_AT: usize = 48;
pub(crate) const BATCH_OFFSET_AT: usize = 56;
pub(crate) const BATCH_PAYLOAD_BYTES_AT: usize = 64;
pub(crate) const BATCH_GROUPS_AT: usize = 68;
pub(crate) const BATCH_PREVIOUS_CRC_AT: usize = 72;
pub(crate) const BATCH_PAYLOAD_CRC_AT: usize = 76;
pub(crate) const BATCH_CRC_AT: usize = 80;

pub(crate) const GROUP_HEADER_BYTES: usize = 20;
pub(crate) const GROUP_BODY_BYTES_AT: usize = 0;
pub(crate) const GROUP_RECORDS_AT: usize = 4;
pub(crate) const GROUP_REVISION_AT: usize = 8;
pub(crate) const GROUP_CAUSE_AT: usize = 16;
pub(crate) const GROUP_FLAGS_AT: usize = 17;
pub(crate) const GROUP_RESERVED_AT: usize = 18;
/// Group flag: a session id and a sequence number stand before the records.
pub(crate) const GROUP_FLAG_SESSION: u8 = 1;
pub(crate) const GROUP_SESSION_BYTES: usize = 24;

pub(crate) const RECORD_PUT: u8 = 1;
pub(crate) const RECORD_DELETE: u8 = 2;
/// Kind, key length, value length.
pub(crate) const RECORD_PUT_HEADER_BYTES: usize = 9;
/// Kind, key length.
pub(crate) const RECORD_DELETE_HEADER_BYTES: usize = 5;

/// The mark file: two slots, written in turn, each in a sector of its own.
pub(crate) const MARK_FILE: &str = "table.mark";
/// The mark's own: its layout never changed.
pub(crate) const MARK_VERSION: u32 = 1;
pub(crate) const MARK_SLOT_BYTES: usize = 512;
pub(crate) const MARK_MAGIC: [u8; 8] = *b"KVBMRK\r\n";
pub(crate) const MARK_MAGIC_AT: usize = 0;
pub(crate) const MARK_VERSION_AT: usize = 8;
pub(crate) const MARK_RESERVED_AT: usize = 12;
pub(crate) const MARK_UUID_AT: usize = 16;
pub(crate) const MARK_SEQUENCE_AT: usize = 32;
pub(crate) const MARK_SEGMENT_AT: usize = 40;
pub(crate) const MARK_CRC_AT: usize = 48;
pub(crate) const MARK_BYTES: usize = 52;

/// Little-endian reads at offsets that the caller has checked against the slice.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has exactly N bytes")
}
pub(crate) fn put_at(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// How messages call a file's format version, and what this program reads.
pub(crate) fn versions(found: u32) -> (String, String) {
    (format!("format version {found}"), format!("format versions {OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}"))
}

/// Name of segment `number`.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{SEGMENT_PREFIX}{number:08}")
}

/// The number in a segment's name; `None` unless the name is exactly the one this program would give.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(SEGMENT_PREFIX)?;
    let number = digits.parse().ok()?;
    (number > 0 && segment_name(number) == name).then_some(number)
}

/// The header block at the start of a segment. It vouches for every batch before `first_sequence`: it is written only after
/// all of them were synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Names the log; made with the data directory and kept.
    pub uuid: Uuid,
    /// Compared for equality only; new whenever released revisions may have been dropped.
    pub epoch: u64,
    /// Random per segment: bytes of another file, or of a copy of this one inside a value, are never taken for batches.
    pub salt: u64,
    pub number: u64,
    pub first_sequence: u64,
    /// Last revision before this segment.
    pub base_revision: u64,
    /// Stamp of the last batch before this segment, wall-clock ms.
    pub stamp_ms: u64,
    /// Header CRC of the last batch before this segment; 0 if there is none.
    pub previous_crc: u32,
    /// Why this segment was begun, see [`SegmentReason`].
    pub reason: u8,
    /// Sync mode of the process that began it, see `SyncMode`: what it may have lost if no batch is there. 0 in version 1.
    pub mode: u8,
}

/// Why a segment was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SegmentReason {
    NewDirectory = 1,
    Full = 2,
    WeakerMode = 3,
    Cut = 4,
    /// Everything from its first batch on was given up by a repair.
    Repaired = 5,
    /// The log before it came out of a backup.
    Restored = 6,
}

impl SegmentReason {
    /// The reason, if a segment begun for it ends the one before it for good, whatever follows there.
    pub fn of_a_decision(byte: u8) -> Option<Self> {
        [Self::Repaired, Self::Restored].into_iter().find(|&reason| reason as u8 == byte)
    }
}

/// Why a segment header could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SegmentFault {
    Short,
    Magic,
    Newer(u32),
    Checksum,
    Field(&'static str),
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; SEGMENT_HEADER_BYTES];
        let bytes = block.as_mut_slice();
        put_at(bytes, SEGMENT_MAGIC_AT, &SEGMENT_MAGIC);
        put_at(bytes, SEGMENT_VERSION_AT, &FORMAT_VERSION.to_le_bytes());
        put_at(bytes, SEGMENT_HEADER_BYTES_AT, &(SEGMENT_HEADER_BYTES as u32).to_le_bytes());
        put_at(bytes, SEGMENT_UUID_AT, self.uuid.as_bytes());
        put_at(bytes, SEGMENT_EPOCH_AT, &self.epoch.to_le_bytes());
        put_at(bytes, SEGMENT_SALT_AT, &self.salt.to_le_bytes());
        put_at(bytes, SEGMENT_NUMBER_AT, &self.number.to_le_bytes());
        put_at(bytes, SEGMENT_FIRST_SEQUENCE_AT, &self.first_sequence.to_le_bytes());
        put_at(bytes, SEGMENT_BASE_REVISION_AT, &self.base_revision.to_le_bytes());
        put_at(bytes, SEGMENT_STAMP_AT, &self.stamp_ms.to_le_bytes());
        put_at(bytes, SEGMENT_PREVIOUS_CRC_AT, &self.previous_crc.to_le_bytes());
        bytes[SEGMENT_REASON_AT] = self.reason;
        bytes[SEGMENT_MODE_AT] = self.mode;
        let crc = crc32c::crc32c(&bytes[..SEGMENT_CRC_AT]);
        put_at(bytes, SEGMENT_CRC_AT, &crc.to_le_bytes());
        block
    }

    /// Decodes the first [`SEGMENT_HEADER_BYTES`] of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentFault> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err(SegmentFault::Short);
        }
        if bytes[..SEGMENT_VERSION_AT] != SEGMENT_MAGIC {
            return Err(SegmentFault::Magic);
        }
        if u32_at(bytes, SEGMENT_CRC_AT) != crc32c::crc32c(&bytes[..SEGMENT_CRC_AT]) {
            return Err(SegmentFault::Checksum);
        }
        let version = u32_at(bytes, SEGMENT_VERSION_AT);
        if version > FORMAT_VERSION {
            return Err(SegmentFault::Newer(version));
        }
        if version < OLDEST_FORMAT_VERSION {
            return Err(SegmentFault::Field("its format version is 0"));
        }
        if u32_at(bytes, SEGMENT_HEADER_BYTES_AT) as usize != SEGMENT_HEADER_BYTES {
            return Err(SegmentFault::Field("its header has an unknown size"));
        }
        if bytes[SEGMENT_RESERVED_AT..SEGMENT_CRC_AT].iter().any(|&byte| byte != 0) {
            return Err(SegmentFault::Field("its reserved bytes are not zero"));
        }
        let header = Self {
            uuid: Uuid::from_bytes(array_at(bytes, SEGMENT_UUID_AT)),
            epoch: u64_at(bytes, SEGMENT_EPOCH_AT),
            salt: u64_at(bytes, SEGMENT_SALT_AT),
            number: u64_at(bytes, SEGMENT_NUMBER_AT),
            first_sequence: u64_at(bytes, SEGMENT_FIRST_SEQUENCE_AT),
            base_revision: u64_at(bytes, SEGMENT_BASE_REVISION_AT),
            stamp_ms: u64_at(bytes, SEGMENT_STAMP_AT),
            previous_crc: u32_at(bytes, SEGMENT_PREVIOUS_CRC_AT),
            reason: bytes[SEGMENT_REASON_AT],
            mode: bytes[SEGMENT_MODE_AT],
        };
        if (version == 1) != (header.mode == 0) || header.mode > SyncMode::NEVER_BYTE {
            return Err(SegmentFault::Field("its sync mode is unknown"));
        }
        if header.first_sequence == 0 {
            return Err(SegmentFault::Field("its first batch sequence is 0"));
        }
        Ok(header)
    }
}

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BatchKind {
    /// Groups of records.
    Data = 1,
    /// The first batch of a process; its writer id is new. Synced before the process serves.
    Opening = 2,
    /// Empty: its header vouches for the batches before it.
    Marker = 3,
    /// The last batch of a clean stop.
    CleanStop = 4,
}

impl BatchKind {
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Data,
            2 => Self::Opening,
            3 => Self::Marker,
            4 => Self::CleanStop,
            _ => return None,
        })
    }
}

/// The header in front of a batch's payload.
///
/// `kind` and `mode` stay bytes here: a header that a newer program wrote still vouches for the batches before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub kind: u8,
    /// Sync mode of the process that wrote it, see `SyncMode`.
    pub mode: u8,
    pub reserved: u16,
    /// Salt of the segment it belongs to.
    pub salt: u64,
    /// Random per process.
    pub writer: u64,
    /// +1 per batch over the whole log, the first is 1.
    pub sequence: u64,
    /// Last batch whose sync had returned when this header was written.
    pub synced_through: u64,
    /// The revision that the batch's first group of a cause other than bookkeeping takes, or would take.
    pub first_revision: u64,
    /// The batch's stamp, wall-clock ms.
    pub stamp_ms: u64,
    /// Where this header stands in its file.
    pub offset: u64,
    pub payload_bytes: u32,
    pub groups: u32,
    /// Header CRC of the batch before it; covers that batch's payload too, through its payload CRC.
    pub previous_crc: u32,
    pub payload_crc: u32,
    /// CRC32C of all the fields above.
    pub crc: u32,
}

impl BatchHeader {
    /// Writes the header over the first [`BATCH_HEADER_BYTES`] of `bytes` and notes its CRC.
    pub fn encode_into(&mut self, bytes: &mut [u8]) {
        put_at(bytes, BATCH_MAGIC_AT, &BATCH_MAGIC);
        bytes[BATCH_KIND_AT] = self.kind;
        bytes[BATCH_MODE_AT] = self.mode;
        put_at(bytes, BATCH_RESERVED_AT, &self.reserved.to_le_bytes());
        put_at(bytes, BATCH_SALT_AT, &self.salt.to_le_bytes());
        put_at(bytes, BATCH_WRITER_AT, &self.writer.to_le_bytes());
        put_at(bytes, BATCH_SEQUENCE_AT, &self.sequence.to_le_bytes());
        put_at(bytes, BATCH_SYNCED_THROUGH_AT, &self.synced_through.to_le_bytes());
        put_at(bytes, BATCH_FIRST_REVISION_AT, &self.first_revision.to_le_bytes());
        put_at(bytes, BATCH_STAMP_AT, &self.stamp_ms.to_le_bytes());
        put_at(bytes, BATCH_OFFSET_AT, &self.offset.to_le_bytes());
        put_at(bytes, BATCH_PAYLOAD_BYTES_AT, &self.payload_bytes.to_le_bytes());
        put_at(bytes, BATCH_GROUPS_AT, &self.groups.to_le_bytes());
        put_at(bytes, BATCH_PREVIOUS_CRC_AT, &self.previous_crc.to_le_bytes());
        put_at(bytes, BATCH_PAYLOAD_CRC_AT, &self.payload_crc.to_le_bytes());
        self.crc = crc32c::crc32c(&bytes[..BATCH_CRC_AT]);
        put_at(bytes, BATCH_CRC_AT, &self.crc.to_le_bytes());
    }

    /// Decodes the header at the start of `bytes`, which were read at `offset` of the segment with `salt`. `None` unless the
    /// magic, the salt, the offset it names and its CRC all agree: then it was written here, whole, by a log writer.
    pub fn decode(bytes: &[u8], salt: u64, offset: u64) -> Option<Self> {
        if bytes.len() < BATCH_HEADER_BYTES
            || bytes[..BATCH_KIND_AT] != BATCH_MAGIC
            || u64_at(bytes, BATCH_SALT_AT) != salt
            || u64_at(bytes, BATCH_OFFSET_AT) != offset
            || u32_at(bytes, BATCH_CRC_AT) != crc32c::crc32c(&bytes[..BATCH_CRC_AT])
        {
            return None;
        }
        Some(Self {
            kind: bytes[BATCH_KIND_AT],
            mode: bytes[BATCH_MODE_AT],
            reserved: u16_at(bytes, BATCH_RESERVED_AT),
            salt,
            writer: u64_at(bytes, BATCH_WRITER_AT),
            sequence: u64_at(bytes, BATCH_SEQUENCE_AT),
            synced_through: u64_at(bytes, BATCH_SYNCED_THROUGH_AT),
            first_revision: u64_at(bytes, BATCH_FIRST_REVISION_AT),
            stamp_ms: u64_at(bytes, BATCH_STAMP_AT),
            offset,
            payload_bytes: u32_at(bytes, BATCH_PAYLOAD_BYTES_AT),
            groups: u32_at(bytes, BATCH_GROUPS_AT),
            previous_crc: u32_at(bytes, BATCH_PREVIOUS_CRC_AT),
            payload_crc: u32_at(bytes, BATCH_PAYLOAD_CRC_AT),
            crc: u32_at(bytes, BATCH_CRC_AT),
        })
    }

    /// First byte after the batch.
    pub fn end(&self) -> u64 {
        self.offset + BATCH_HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
pub(crate) mod tests;
