//! The header of a segment, for those outside of the log.

use uuid::Uuid;

use crate::error::LogError;
use crate::format::{SEGMENT_VERSION_AT, SegmentHeader, segment_name};
use crate::segment::open_segment;
use crate::storage::{Storage, StorageFile};

/// A segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Its number.
    pub number: u64,
    /// Format version.
    pub version: u32,
    /// The log's name.
    pub uuid: Uuid,
    /// The epoch.
    pub epoch: u64,
    /// Sequence of its first batch.
    pub first_sequence: u64,
    /// Last revision before it.
    pub base_revision: u64,
    /// Highest stamp before it, wall-clock ms.
    pub stamp_ms: u64,
    /// Checksum of the header of the last batch before it.
    pub previous_crc: u32,
    /// Why it was begun, in words.
    pub reason: &'static str,
    /// Length of the file, room allocated ahead included, bytes.
    pub bytes: u64,
    pub(super) header: SegmentHeader,
}

impl SegmentFacts {
    /// Reads the header of segment `number`.
    ///
    /// # Errors
    /// As a start of the log: `Damaged`, `NewerFormat`, `Foreign`, or what the disk says.
    pub fn read(storage: &dyn Storage, number: u64) -> Result<Self, LogError> {
        open(storage, number).map(|(_, facts)| facts)
    }
}

/// Opens segment `number` too.
pub(super) fn open(storage: &dyn Storage, number: u64) -> Result<(Box<dyn StorageFile>, SegmentFacts), LogError> {
    let (file, header) = open_segment(storage, number)?;
    let failed = |source| LogError::io("read", storage.path(&segment_name(number)), source);
    let mut version = [0; 4];
    file.read_at(&mut version, SEGMENT_VERSION_AT as u64).map_err(failed)?;
    let facts = SegmentFacts {
        number,
        version: u32::from_le_bytes(version),
        uuid: header.uuid,
        epoch: header.epoch,
        first_sequence: header.first_sequence,
        base_revision: header.base_revision,
        stamp_ms: header.stamp_ms,
        previous_crc: header.previous_crc,
        reason: match header.reason {
            1 => "new directory",
            2 => "the one before was full",
            3 => "unclean stop in a weaker sync mode",
            4 => "a cut",
            5 => "a repair",
            6 => "a restore",
            _ => "unknown",
        },
        bytes: file.length().map_err(failed)?,
        header,
    };
    Ok((file, facts))
}
