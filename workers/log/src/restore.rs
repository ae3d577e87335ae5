//! Making a data directory from a backup.
//!
//! - The files come in any way that keeps their order (a directory, a stream); nothing of them is believed before all of them were
//!   read back, verified as a recovery would, and compared with the manifest.
//! - The restored log is another log: it gets a new uuid (in the header block of every file, and in the end block of a checkpoint) and, in a new last segment, a new epoch. Since
//!   the backup was made the old one may have acknowledged more, even under the same revisions, and may still run.
//! - Built in a directory that no broker looks at; giving it its place, in one step, is for the caller.
//!
//! Caveat: the batches themselves are kept byte for byte. They name their segment by its salt, which stays.

use std::io;
use std::path::Path;

use uuid::Uuid;

use crate::backup::{
    BackupError, BackupSource, LogEnd, MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, ManifestFault, ManifestFile,
};
use crate::checkpoint::end::EndBlock;
use crate::checkpoint::format::{CHECKPOINT_CRC_AT, CHECKPOINT_HEADER_BYTES, CHECKPOINT_UUID_AT, HeaderFault};
use crate::checkpoint::{CHECKPOINT_FILE, CheckpointHeader};
use crate::entropy::{Entropy, random_u64, random_uuid};
use crate::error::LogError;
use crate::format::{
    SEGMENT_CRC_AT, SEGMENT_HEADER_BYTES, SEGMENT_UUID_AT, SegmentFault, SegmentHeader, SegmentReason, put_at, segment_name,
    segment_number, versions,
};
use crate::log::SyncMode;
use crate::mark::{Mark, MarkFile};
use crate::segment::create_segment;
use crate::storage::{Storage, StorageFile};

const _: () = assert!(CHECKPOINT_HEADER_BYTES == SEGMENT_HEADER_BYTES, "every file starts with a block of one size");

/// Why a backup can't be restored. Nothing that a broker looks at was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// What there is doesn't look like a backup.
    #[error("this is not a backup made by kvbroker: {0}")]
    NotABackup(String),
    /// It ends before its end, or files are missing.
    #[error("the backup is not complete: {0}. Nothing was restored; use another backup.")]
    Incomplete(String),
    /// It holds other bytes than were written.
    #[error("the backup is damaged: {name} at byte {offset}: {what}. Nothing was restored; use another backup.")]
    Damaged {
        /// The file in the backup.
        name: String,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// A newer program made it.
    #[error("the backup holds {found}, this program knows {supported}: restore it with a newer program. Nothing was restored.")]
    Newer {
        /// What it holds.
        found: String,
        /// What this program can read.
        supported: String,
    },
    /// The new directory can't be written.
    #[error(transparent)]
    Target(#[from] LogError),
}

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// Name of the restored log.
    pub uuid: Uuid,
    /// Name of the log that was backed up.
    pub from: Uuid,
    /// Last revision in it.
    pub revision: u64,
    /// Highest stamp in it, wall-clock ms.
    pub stamp_ms: u64,
    /// Files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A restore under way: takes the backup's files one by one.
pub struct Restore<'s> {
    storage: &'s dyn Storage,
    entropy: Box<dyn Entropy>,
    uuid: Uuid,
    done: Vec<ManifestFile>,
    open: Option<Part>,
    manifest: Option<Manifest>,
}

struct Part {
    file: Box<dyn StorageFile>,
    expected: u64,
    at: u64,
    crc: u32,
    /// The header block, until it is whole.
    head: Vec<u8>,
}

impl<'s> Restore<'s> {
    /// Restores into `storage`, which must be empty.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    pub fn new(storage: &'s dyn Storage, mut entropy: Box<dyn Entropy>) -> Result<Self, RestoreError> {
        let uuid =
            random_uuid(&mut *entropy).map_err(|source| LogError::io("draw random numbers for", storage.path(""), source))?;
        Ok(Self { storage, entropy, uuid, done: Vec::new(), open: None, manifest: None })
    }

    /// Takes one file of the backup, `bytes` long, from `source`.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn file(&mut self, name: &str, bytes: u64, source: &mut dyn io::Read) -> Result<(), RestoreError> {
        if self.manifest.is_some() {
            return Err(RestoreError::NotABackup(format!("{name} follows behind its end")));
        }
        if name == MANIFEST_FILE {
            return self.take_manifest(bytes, source);
        }
        if segment_number(name).is_none() && name != CHECKPOINT_FILE {
            return Err(RestoreError::NotABackup(format!("it has a file {name:?}")));
        }
        if self.done.iter().any(|file| file.name == name) {
            return Err(RestoreError::NotABackup(format!("{name} comes twice")));
        }
        let file = self.storage.create(name).map_err(|source| self.failed("create", name, source))?;
        self.open = Some(Part { file, expected: bytes, at: 0, crc: 0, head: Vec::new() });
        let mut buffer = vec![0; 1 << 20];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.take(name, &buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(RestoreError::Incomplete(format!("{name} can't be read: {error}"))),
            }
        }
        self.end_file(name)
    }

    fn failed(&self, action: &'static str, name: &str, source: io::Error) -> RestoreError {
        LogError::io(action, self.storage.path(name), source).into()
    }

    fn take_manifest(&mut self, bytes: u64, source: &mut dyn io::Read) -> Result<(), RestoreError> {
        let max = MANIFEST_BYTES_MAX;
        if bytes > max as u64 {
            return Err(RestoreError::NotABackup(format!("{MANIFEST_FILE} has {bytes} bytes, more than {max}")));
        }
        let mut text = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(source, bytes), &mut text)
            .map_err(|error| RestoreError::Incomplete(format!("{MANIFEST_FILE} can't be read: {error}")))?;
        if (text.len() as u64) < bytes {
            return Err(RestoreError::Incomplete(format!("it ends inside {MANIFEST_FILE}")));
        }
        self.manifest = Some(Manifest::decode(&text).map_err(|fault| match fault {
            ManifestFault::Newer(found, supported) => RestoreError::Newer { found, supported },
            ManifestFault::Damaged(what) => {
                RestoreError::Damaged { name: MANIFEST_FILE.to_owned(), offset: 0, what: what.to_owned() }
            }
        })?);
        Ok(())
    }

    /// The next bytes of the open file. The header block is written when it is whole, under the new uuid.
    fn take(&mut self, name: &str, bytes: &[u8]) -> Result<(), RestoreError> {
        let uuid = self.uuid;
        let part = self.open.as_mut().expect("a file is open");
        part.crc = crc32c::crc32c_append(part.crc, bytes);
        let mut rest = bytes;
        if part.at == 0 {
            let (head, after) = rest.split_at(rest.len().min(SEGMENT_HEADER_BYTES - part.head.len()));
            part.head.extend_from_slice(head);
            rest = after;
            if part.head.len() < SEGMENT_HEADER_BYTES {
                return Ok(());
            }
            rename_block(name, &mut part.head, uuid)?;
            part.file.write_at(&part.head, 0).map_err(|source| LogError::io("write", self.storage.path(name), source))?;
            part.at = SEGMENT_HEADER_BYTES as u64;
        }
        part.file.write_at(rest, part.at).map_err(|source| LogError::io("write", self.storage.path(name), source))?;
        part.at += rest.len() as u64;
        Ok(())
    }

    fn end_file(&mut self, name: &str) -> Result<(), RestoreError> {
        let part = self.open.take().expect("a file is open");
        let bytes = if part.at == 0 { part.head.len() as u64 } else { part.at };
        if bytes != part.expected || part.at == 0 {
            return Err(RestoreError::Incomplete(format!("it ends inside {name}")));
        }
        if name == CHECKPOINT_FILE {
            // One that can't be read is found when all files are verified.
            let end = EndBlock::find(&*part.file).map_err(|source| self.failed("read", name, source))?;
            if let Some(end) = end {
                end.rename(&*part.file, self.uuid).map_err(|source| self.failed("write", name, source))?;
            }
        }
        part.file.sync().map_err(|source| self.failed("sync", name, source))?;
        self.done.push(ManifestFile { name: name.to_owned(), bytes, crc: part.crc });
        Ok(())
    }

    /// Verifies all that came, and makes it a log of its own.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn finish(mut self) -> Result<RestoreReport, RestoreError> {
        let Some(manifest) = self.manifest.take() else {
            let what = if self.done.is_empty() { "it is empty" } else { "its last file is missing: it was cut short" };
            return Err(RestoreError::Incomplete(format!("{what} ({MANIFEST_FILE})")));
        };
        let came = |name: &str| self.done.iter().any(|file| file.name == name);
        if let Some(missing) = manifest.files.iter().find(|file| !came(&file.name)) {
            return Err(RestoreError::Incomplete(format!("{} is missing", missing.name)));
        }
        // What was damaged is told by its place in the file where that can be found, and by the whole file otherwise.
        let end = BackupSource::open(self.storage).and_then(|source| Ok(source.verify()?)).map_err(of_verification)?;
        self.compare(&manifest, &end)?;
        let [epoch, salt] = [random_u64(&mut *self.entropy), random_u64(&mut *self.entropy)];
        let random = |source| LogError::io("draw random numbers for", self.storage.path(""), source);
        let header = SegmentHeader {
            uuid: self.uuid,
            epoch: epoch.map_err(random)?,
            salt: salt.map_err(random)?,
            number: end.segment + 1,
            first_sequence: end.chain.next_sequence,
            base_revision: end.chain.last_revision,
            stamp_ms: end.chain.last_stamp_ms,
            previous_crc: end.chain.previous_crc,
            reason: SegmentReason::Restored as u8,
            mode: SyncMode::ALWAYS_BYTE,
        };
        create_segment(self.storage, &header, None)?;
        let mark = Mark { uuid: self.uuid, sequence: end.chain.next_sequence - 1, segment: header.number };
        MarkFile::open(self.storage)?.write(self.storage, &mark)?;
        self.storage.sync_directory().map_err(|source| self.failed("sync", "", source))?;
        Ok(RestoreReport {
            uuid: self.uuid,
            from: manifest.uuid,
            revision: manifest.revision,
            stamp_ms: manifest.stamp_ms,
            files: manifest.files.len() as u64,
            bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        })
    }

    /// The files must be those of the manifest, byte for byte.
    fn compare(&self, manifest: &Manifest, end: &LogEnd) -> Result<(), RestoreError> {
        let damaged = |name: &str, what: String| Err(RestoreError::Damaged { name: name.to_owned(), offset: 0, what });
        for (index, file) in manifest.files.iter().enumerate() {
            match self.done.get(index) {
                Some(found) if found == file => {}
                None => return Err(RestoreError::Incomplete(format!("{} is missing", file.name))),
                Some(found) if found.name != file.name => {
                    return damaged(&file.name, format!("{} stands in its place", found.name));
                }
                Some(found) if found.bytes != file.bytes => {
                    return damaged(&file.name, format!("it has {} bytes instead of {}", found.bytes, file.bytes));
                }
                Some(_) => return damaged(&file.name, "the checksum of the whole file is wrong".to_owned()),
            }
        }
        let is_end = manifest.sequence + 1 == end.chain.next_sequence && manifest.revision == end.chain.last_revision;
        if self.done.len() != manifest.files.len() || !is_end {
            return damaged(MANIFEST_FILE, "it is not the one of these files".to_owned());
        }
        Ok(())
    }
}

/// Gives a file's header block the restored log's name.
fn rename_block(name: &str, block: &mut [u8], uuid: Uuid) -> Result<(), RestoreError> {
    let damaged = |what: &str| RestoreError::Damaged { name: name.to_owned(), offset: 0, what: what.to_owned() };
    let newer = |version| {
        let (found, supported) = versions(version);
        RestoreError::Newer { found, supported }
    };
    let (uuid_at, crc_at) = if name == CHECKPOINT_FILE {
        CheckpointHeader::decode(block).map_err(|fault| match fault {
            HeaderFault::Newer(version) => newer(version),
            HeaderFault::Damaged(what) => damaged(what),
        })?;
        (CHECKPOINT_UUID_AT, CHECKPOINT_CRC_AT)
    } else {
        let header = SegmentHeader::decode(block).map_err(|fault| match fault {
            SegmentFault::Newer(version) => newer(version),
            SegmentFault::Short | SegmentFault::Magic => damaged("it doesn't start like a segment"),
            SegmentFault::Checksum => damaged("the checksum of the segment header is wrong"),
            SegmentFault::Field(what) => damaged(what),
        })?;
        if segment_name(header.number) != name {
            return Err(damaged(&format!("it is segment {}", header.number)));
        }
        (SEGMENT_UUID_AT, SEGMENT_CRC_AT)
    };
    put_at(block, uuid_at, uuid.as_bytes());
    let crc = crc32c::crc32c(&block[..crc_at]);
    put_at(block, crc_at, &crc.to_le_bytes());
    Ok(())
}

/// What reading the restored files found, in terms of the backup they came from.
fn of_verification(error: BackupError) -> RestoreError {
    match error {
        BackupError::Source(LogError::Damaged { file, offset, what }) => {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            RestoreError::Damaged { name, offset, what }
        }
        BackupError::Source(LogError::NewerFormat { found, supported, .. }) => RestoreError::Newer { found, supported },
        BackupError::Source(error) => RestoreError::Target(error),
        BackupError::Nothing { .. } => RestoreError::Incomplete("it has no log".to_owned()),
        BackupError::Sink(source) => RestoreError::Target(LogError::io("write", Path::new("").to_owned(), source)),
    }
}
