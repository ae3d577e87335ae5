//! The mark file `table.mark`: which batch is known to be synced, kept outside of the segments.
//!
//! - A mark is written only after the sync of the batch it names has returned, so a log that ends before it has lost something:
//!   a truncated or zeroed tail and a missing last segment are damage, not an ordinary end.
//! - Two slots, written in turn: a torn write costs the newer mark, never both.
//! - A missing or unreadable mark proves nothing and stops nobody.
//!
//! Caveat: a mark is written when the log is opened, sealed, idle and closed, and once a second under load, not with every batch.

use std::io;

use uuid::Uuid;

use crate::error::LogError;
use crate::format::{
    MARK_BYTES, MARK_CRC_AT, MARK_FILE, MARK_MAGIC, MARK_MAGIC_AT, MARK_RESERVED_AT, MARK_SEGMENT_AT, MARK_SEQUENCE_AT,
    MARK_SLOT_BYTES, MARK_UUID_AT, MARK_VERSION, MARK_VERSION_AT, array_at, put_at, u32_at, u64_at,
};
use crate::storage::{Storage, StorageFile};

/// "Batch `sequence` of log `uuid` was synced; it stood in segment `segment` or an earlier one."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub uuid: Uuid,
    pub sequence: u64,
    pub segment: u64,
}

impl Mark {
    pub fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        put_at(&mut bytes, MARK_MAGIC_AT, &MARK_MAGIC);
        put_at(&mut bytes, MARK_VERSION_AT, &MARK_VERSION.to_le_bytes());
        put_at(&mut bytes, MARK_UUID_AT, self.uuid.as_bytes());
        put_at(&mut bytes, MARK_SEQUENCE_AT, &self.sequence.to_le_bytes());
        put_at(&mut bytes, MARK_SEGMENT_AT, &self.segment.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..MARK_CRC_AT]);
        put_at(&mut bytes, MARK_CRC_AT, &crc.to_le_bytes());
        bytes
    }

    /// `None` for a slot that is empty, torn, damaged or of another version: it proves nothing.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < MARK_BYTES
            || bytes[..MARK_VERSION_AT] != MARK_MAGIC
            || u32_at(bytes, MARK_CRC_AT) != crc32c::crc32c(&bytes[..MARK_CRC_AT])
            || u32_at(bytes, MARK_VERSION_AT) != MARK_VERSION
            || u32_at(bytes, MARK_RESERVED_AT) != 0
        {
            return None;
        }
        Some(Self {
            uuid: Uuid::from_bytes(array_at(bytes, MARK_UUID_AT)),
            sequence: u64_at(bytes, MARK_SEQUENCE_AT),
            segment: u64_at(bytes, MARK_SEGMENT_AT),
        })
    }
}

/// Reads the newest mark, if there is one.
pub(crate) fn read_mark(storage: &dyn Storage) -> Result<Option<Mark>, LogError> {
    let file = match storage.open(MARK_FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LogError::io("open", storage.path(MARK_FILE), source)),
    };
    Ok(read_slots(&*file)
        .map_err(|source| LogError::io("read", storage.path(MARK_FILE), source))?
        .into_iter()
        .flatten()
        .max_by_key(|mark| mark.sequence))
}

fn read_slots(file: &dyn StorageFile) -> io::Result<[Option<Mark>; 2]> {
    let mut slots = [None; 2];
    for (index, slot) in slots.iter_mut().enumerate() {
        let mut bytes = [0; MARK_BYTES];
        let read = file.read_at(&mut bytes, (index * MARK_SLOT_BYTES) as u64)?;
        *slot = Mark::decode(&bytes[..read]);
    }
    Ok(slots)
}

/// The open mark file of a log in service.
pub(crate) struct MarkFile {
    file: Box<dyn StorageFile>,
    /// Slot that the next mark goes to: never the newest valid one.
    next_slot: usize,
}

impl MarkFile {
    /// Opens the mark file, or makes it.
    pub fn open(storage: &dyn Storage) -> Result<Self, LogError> {
        let failed = |action| move |source| LogError::io(action, storage.path(MARK_FILE), source);
        match storage.open(MARK_FILE) {
            Ok(file) => {
                let slots = read_slots(&*file).map_err(failed("read"))?;
                let sequence = |slot: Option<Mark>| slot.map_or(0, |mark| mark.sequence);
                let next_slot = usize::from(sequence(slots[0]) > sequence(slots[1]));
                Ok(Self { file, next_slot })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = storage.create(MARK_FILE).map_err(failed("create"))?;
                file.extend(0, 2 * MARK_SLOT_BYTES as u64).map_err(failed("write"))?;
                storage.sync_directory().map_err(|source| LogError::io("sync", storage.path(""), source))?;
                Ok(Self { file, next_slot: 0 })
            }
            Err(source) => Err(failed("open")(source)),
        }
    }

    /// Writes and syncs `mark`, whose batch must have been synced.
    pub fn write(&mut self, storage: &dyn Storage, mark: &Mark) -> Result<(), LogError> {
        let failed = |action| move |source| LogError::io(action, storage.path(MARK_FILE), source);
        self.file.write_at(&mark.encode(), (self.next_slot * MARK_SLOT_BYTES) as u64).map_err(failed("write"))?;
        self.next_slot = 1 - self.next_slot;
        self.file.sync().map_err(failed("sync"))
    }
}
