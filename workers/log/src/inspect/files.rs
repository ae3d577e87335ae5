//! What each file of a data directory is, by its name.

use crate::checkpoint::{CHECKPOINT_FILE, CHECKPOINT_TEMPORARY, RUN_PREFIX};
use crate::error::LogError;
use crate::format::{MARK_FILE, SEGMENT_PREFIX, SEGMENT_TEMPORARY, segment_number};
use crate::storage::Storage;

const LOCK_FILE: &str = "lock";
const LOCK_TEMPORARY_PREFIX: &str = "lock.";

/// What a file is, by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// The checkpoint.
    Checkpoint,
    /// The log's segment of this number.
    Segment(u64),
    /// The mark.
    Mark,
    /// Who uses the directory.
    Lock,
    /// Something that was being made when its process ended; the next start removes it, or it may be deleted.
    Leftover,
    /// A name like a segment's that this program doesn't give: a start refuses it.
    Foreign,
    /// Not the log's.
    Other,
}

impl FileKind {
    /// The kind of a file with this name.
    pub fn of(name: &str) -> Self {
        match name {
            CHECKPOINT_FILE => Self::Checkpoint,
            MARK_FILE => Self::Mark,
            LOCK_FILE => Self::Lock,
            SEGMENT_TEMPORARY | CHECKPOINT_TEMPORARY => Self::Leftover,
            _ if name.starts_with(RUN_PREFIX) || name.starts_with(LOCK_TEMPORARY_PREFIX) => Self::Leftover,
            _ => match segment_number(name) {
                Some(number) => Self::Segment(number),
                None if name.starts_with(SEGMENT_PREFIX) => Self::Foreign,
                None => Self::Other,
            },
        }
    }
}

/// A file of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Its name in the directory.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Its length in bytes, room allocated ahead included; `None` for files that are not the log's.
    pub bytes: Option<u64>,
}

impl DataFile {
    /// The segment's number, if it is one.
    pub fn number(&self) -> Option<u64> {
        match self.kind {
            FileKind::Segment(number) => Some(number),
            _ => None,
        }
    }
}

/// All files, the checkpoint first, then the segments by number, then the rest by name. A file that goes away meanwhile (a broker
/// that runs removes old segments) is left out.
///
/// # Errors
/// When the directory or a file of the log can't be read.
pub fn list_files(storage: &dyn Storage) -> Result<Vec<DataFile>, LogError> {
    let names = storage.list().map_err(|source| LogError::io("list", storage.path(""), source))?;
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let kind = FileKind::of(&name);
        let bytes = match kind {
            FileKind::Other | FileKind::Foreign => None,
            _ => match storage.open(&name).and_then(|file| file.length()) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(LogError::io("open", storage.path(&name), source)),
            },
        };
        files.push(DataFile { name, kind, bytes });
    }
    files.sort_by_key(|file| match file.kind {
        FileKind::Checkpoint => (0, 0),
        FileKind::Segment(number) => (1, number),
        _ => (2, 0),
    });
    Ok(files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::SimStorage;

    #[test]
    fn files_are_known_by_their_names_and_in_the_order_of_reading() {
        let storage = SimStorage::new();
        let names = ["table.txn.00000010", "table.txn.00000002", "table.ckpt", "table.mark", "lock", "lock.7.x", "table.txn.tmp"];
        for name in names.into_iter().chain(["table.ckpt.tmp", "table.run.00000001", "table.txn.2", "ports.json"]) {
            storage.create(name).unwrap().write_at(b"x", 0).unwrap();
        }
        let files = list_files(&storage).unwrap();
        let kinds: Vec<FileKind> = files.iter().map(|file| file.kind).collect();
        assert_eq!(kinds[..3], [FileKind::Checkpoint, FileKind::Segment(2), FileKind::Segment(10)]);
        let count = |kind| kinds.iter().filter(|found| **found == kind).count();
        assert_eq!((count(FileKind::Leftover), count(FileKind::Foreign), count(FileKind::Other)), (4, 1, 1));
        assert!(files.iter().all(|file| file.bytes.is_some() == !matches!(file.kind, FileKind::Foreign | FileKind::Other)));
    }
}
