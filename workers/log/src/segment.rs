//! Segments as files: making one, reading its header, listing all.
//!
//! - A segment gets its name only after its header was synced, by one rename: a file with a segment's name and a bad header is
//!   damaged, never half made.
//! - No batch is written into a segment before the directory was synced.

use uuid::Uuid;

use crate::error::LogError;
use crate::format::{
    BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES, SEGMENT_PREFIX, SEGMENT_TEMPORARY, SegmentFault, SegmentHeader, segment_name,
    segment_number, versions,
};
use crate::reader::scan_tail;
use crate::storage::{Storage, StorageFile};
use crate::sweep::PlantedBug;

/// Numbers of the segments present, ascending. A name that only looks like a segment's is refused: replaying around it could
/// lose data that its owner believes to be there.
pub(crate) fn list_segments(storage: &dyn Storage) -> Result<Vec<u64>, LogError> {
    let names = storage.list().map_err(|source| LogError::io("list", storage.path(""), source))?;
    let mut numbers = Vec::new();
    for name in names.iter().filter(|name| name.starts_with(SEGMENT_PREFIX) && *name != SEGMENT_TEMPORARY) {
        match segment_number(name) {
            Some(number) => numbers.push(number),
            None => {
                return Err(LogError::Foreign {
                    path: storage.path(name),
                    what: "the name looks like a segment of the log, but is not one that this program gives. \
                           Move the file out of the data directory."
                        .to_owned(),
                });
            }
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens segment `number` and reads its header.
pub(crate) fn open_segment(storage: &dyn Storage, number: u64) -> Result<(Box<dyn StorageFile>, SegmentHeader), LogError> {
    let name = segment_name(number);
    let file = storage.open(&name).map_err(|source| LogError::io("open", storage.path(&name), source))?;
    let mut block = vec![0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(&mut block, 0).map_err(|source| LogError::io("read", storage.path(&name), source))?;
    let damaged = |what: &str| LogError::Damaged { file: storage.path(&name), offset: 0, what: what.to_owned() };
    match SegmentHeader::decode(&block[..read]) {
        Ok(header) if header.number == number => Ok((file, header)),
        Ok(header) => Err(LogError::Foreign {
            path: storage.path(&name),
            what: format!("it is segment {} under the name of segment {number}. Give the files back their names.", header.number),
        }),
        Err(SegmentFault::Newer(version)) => {
            let (found, supported) = versions(version);
            Err(LogError::NewerFormat { file: storage.path(&name), found, supported })
        }
        Err(SegmentFault::Short) => Err(damaged("the file ends inside the segment header")),
        Err(SegmentFault::Magic) => Err(damaged("it doesn't start like a segment")),
        Err(SegmentFault::Checksum) => Err(damaged("the checksum of the segment header is wrong")),
        Err(SegmentFault::Field(what)) => Err(damaged(what)),
    }
}

/// True if nothing but zeros follows the header.
pub(crate) fn is_empty_segment(storage: &dyn Storage, header: &SegmentHeader) -> Result<bool, LogError> {
    let (file, _) = open_segment(storage, header.number)?;
    let failed = |source| LogError::io("read", storage.path(&segment_name(header.number)), source);
    let mut start = [0; BATCH_HEADER_BYTES];
    file.read_at(&mut start, SEGMENT_HEADER_BYTES as u64).map_err(failed)?;
    if start.iter().any(|&byte| byte != 0) {
        return Ok(false);
    }
    Ok(scan_tail(&*file, header.salt, SEGMENT_HEADER_BYTES as u64).map_err(failed)?.written_end.is_none())
}

/// Removes the remains of a segment that was never finished.
pub(crate) fn remove_temporary(storage: &dyn Storage) -> Result<(), LogError> {
    let names = storage.list().map_err(|source| LogError::io("list", storage.path(""), source))?;
    if names.iter().any(|name| name == SEGMENT_TEMPORARY) {
        storage.remove(SEGMENT_TEMPORARY).map_err(|source| LogError::io("remove", storage.path(SEGMENT_TEMPORARY), source))?;
    }
    Ok(())
}

/// A segment of another log than `uuid`.
pub(crate) fn foreign_segment(storage: &dyn Storage, header: &SegmentHeader, uuid: Uuid) -> LogError {
    LogError::Foreign {
        path: storage.path(&segment_name(header.number)),
        what: format!("it belongs to log {}, other segments are of log {uuid}. Move what doesn't belong here away.", header.uuid),
    }
}

/// Makes the segment that `header` describes, durably. A segment of that number that holds no batch is replaced.
///
/// `bug` is set only by the crash sweep, to show that it notices.
pub(crate) fn create_segment(
    storage: &dyn Storage,
    header: &SegmentHeader,
    bug: Option<PlantedBug>,
) -> Result<Box<dyn StorageFile>, LogError> {
    let name = segment_name(header.number);
    let temporary = || storage.path(SEGMENT_TEMPORARY);
    let file = storage.create(SEGMENT_TEMPORARY).map_err(|source| LogError::io("create", temporary(), source))?;
    file.write_at(&header.encode(), 0).map_err(|source| LogError::io("write", temporary(), source))?;
    if bug != Some(PlantedBug::RenameBeforeSync) {
        file.sync().map_err(|source| LogError::io("sync", temporary(), source))?;
    }
    storage.rename(SEGMENT_TEMPORARY, &name).map_err(|source| LogError::io("rename", temporary(), source))?;
    if bug != Some(PlantedBug::NoDirectorySync) {
        storage.sync_directory().map_err(|source| LogError::io("sync", storage.path(""), source))?;
    }
    Ok(file)
}
