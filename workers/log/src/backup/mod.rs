//! A consistent copy of a log, also while a broker appends to it, makes checkpoints and removes old segments.
//!
//! - All files are opened first, and then read through these handles: a file that is removed or replaced meanwhile stays readable. A set
//!   that doesn't belong together (something was published or removed between two opens) is opened again, a bounded number of times.
//! - What was acknowledged before [`BackupSource::open`] was called is in the copy: it is in a file that existed then.
//! - Every checksum is verified on the way; the bytes that are handed to the sink are the bytes that were verified.
//! - The copy ends with the last whole batch, so no group of records is ever half in it. What is not needed (history, room allocated
//!   ahead, what was cut off) is left out.
//! - The [manifest](Manifest) is written last: without it nobody takes the copy for a backup.
//!
//! Caveat: in the weaker sync modes the copy may hold more than a power failure would have left.

mod manifest;
mod sink;

use std::io;

pub(crate) use manifest::ManifestFault;
pub use manifest::{MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, ManifestFile};
pub use sink::{BackupSink, StorageSink};

use crate::checkpoint::format::{BLOCK_HEADER_BYTES, BlockHeader, BlockKind, CHECKPOINT_HEADER_BYTES, CheckpointEnd, Totals};
use crate::checkpoint::{CHECKPOINT_FILE, CheckpointHeader, CheckpointReader};
use crate::error::LogError;
use crate::format::{MARK_FILE, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use crate::mark::{Mark, read_mark};
use crate::reader::{Batch, Chain, scan_tail};
use crate::segment::{list_segments, open_segment};
use crate::storage::{Storage, StorageFile};
use crate::walk::{Walked, misfit};

/// How often the files are opened before a set that doesn't fit together counts as damaged. Each round but the last is lost to a
/// checkpoint that was published meanwhile, and those are minutes apart.
const ROUNDS: u32 = 10;
/// How often the end of a log that is being appended to is looked at again.
const END_ROUNDS: u32 = 8;

const SECOND_READ: &str = "a second read gave other bytes than the first";

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is no log in the directory.
    #[error("there is nothing to back up: {} holds no log", directory.display())]
    Nothing {
        /// The directory.
        directory: std::path::PathBuf,
    },
    /// The log can't be read, or is damaged.
    #[error(transparent)]
    Source(#[from] LogError),
    /// The copy can't be written.
    #[error("can't write the backup: {0}")]
    Sink(#[source] io::Error),
}

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// Last revision in it.
    pub revision: u64,
    /// Highest stamp in it, wall-clock ms.
    pub stamp_ms: u64,
    /// Files, the manifest not counted.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// Where a log ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogEnd {
    pub chain: Chain,
    /// Number of its last segment.
    pub segment: u64,
}

/// An open checkpoint.
struct Checkpoint {
    reader: CheckpointReader,
    /// Its header block, as it stands in the file.
    head: Vec<u8>,
    bytes: u64,
}

/// An open set of files that is one log.
pub struct BackupSource<'s> {
    storage: &'s dyn Storage,
    checkpoint: Option<Checkpoint>,
    segments: Vec<(Box<dyn StorageFile>, SegmentHeader)>,
    /// Read before anything else: all that it vouches for must be found.
    mark: Option<Mark>,
}

impl<'s> BackupSource<'s> {
    /// Opens what has to be copied.
    ///
    /// # Errors
    /// `Nothing`, or `Source` when the files can't be opened or don't fit together.
    pub fn open(storage: &'s dyn Storage) -> Result<Self, BackupError> {
        let mut round = 1;
        loop {
            match Self::open_once(storage) {
                // Not damage, perhaps, but a file that was removed or published between two looks.
                Err(LogError::Damaged { .. } | LogError::Io { action: "open", .. }) if round < ROUNDS => round += 1,
                Err(error) => return Err(error.into()),
                Ok(None) => return Err(BackupError::Nothing { directory: storage.path("") }),
                Ok(Some(source)) => return Ok(source),
            }
        }
    }

    fn open_once(storage: &'s dyn Storage) -> Result<Option<Self>, LogError> {
        let mark = read_mark(storage)?;
        let checkpoint = Checkpoint::open(storage)?;
        let first = checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.reader.covers().next_segment);
        let numbers = list_segments(storage)?;
        if numbers.is_empty() && checkpoint.is_none() {
            return Ok(None);
        }
        let mut segments: Vec<(Box<dyn StorageFile>, SegmentHeader)> = Vec::new();
        for number in first..=numbers.last().copied().unwrap_or(0).max(first) {
            if !numbers.contains(&number) {
                let (file, what) = (storage.path(&segment_name(number)), "the segment is missing".to_owned());
                return Err(LogError::Damaged { file, offset: 0, what });
            }
            segments.push(open_segment(storage, number)?);
        }
        let uuid = segments[0].1.uuid;
        let foreign = |name: &str| LogError::Foreign {
            path: storage.path(name),
            what: format!("it doesn't belong to log {uuid}, the rest does. Move what doesn't belong here away."),
        };
        if let Some((_, other)) = segments.iter().find(|(_, header)| header.uuid != uuid) {
            return Err(foreign(&segment_name(other.number)));
        }
        if let Some(checkpoint) = &checkpoint {
            checkpoint.reader.expect_uuid(uuid)?;
        }
        if mark.is_some_and(|mark| mark.uuid != uuid) {
            return Err(foreign(MARK_FILE));
        }
        Ok(Some(Self { storage, checkpoint, segments, mark }))
    }

    /// Bytes to read at most: for who shows progress.
    pub fn bytes_max(&self) -> u64 {
        let segments = self.segments.iter().filter_map(|(file, _)| file.length().ok());
        segments.chain(self.checkpoint.as_ref().map(|checkpoint| checkpoint.bytes)).sum()
    }

    fn start(&self) -> Chain {
        self.checkpoint.as_ref().map_or(Chain::START, |checkpoint| checkpoint.reader.covers().chain())
    }

    /// Reads and checks everything.
    pub(crate) fn verify(mut self) -> Result<LogEnd, LogError> {
        if let Some(checkpoint) = &mut self.checkpoint {
            while checkpoint.reader.next_block()?.is_some() {}
        }
        let mut end = LogEnd { chain: self.start(), segment: 0 };
        for (index, (file, header)) in self.segments.iter().enumerate() {
            let next = self.segments.get(index + 1).map(|(_, next)| next.first_sequence);
            let measured = self.measure(&**file, header, end.chain, next)?;
            end = LogEnd { chain: measured.chain, segment: header.number };
        }
        Ok(end)
    }

    /// Copies everything to `sink`; `progress` is told how many bytes were handed over so far.
    ///
    /// # Errors
    /// `Source` with file and offset when something can't be read as it was written, `Sink` when the copy can't be written. What
    /// was written so far is not a backup then: it has no manifest.
    pub fn copy(mut self, sink: &mut dyn BackupSink, progress: &mut dyn FnMut(u64)) -> Result<BackupReport, BackupError> {
        let mut writer = Writer { sink, progress, bytes: 0, files: Vec::new() };
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.copy(&mut writer)?;
        }
        let mut chain = self.start();
        for (index, (file, header)) in self.segments.iter().enumerate() {
            let next = self.segments.get(index + 1).map(|(_, next)| next.first_sequence);
            // The length comes before the bytes in a stream, so the segment is read twice; the second time from memory, mostly.
            let measured = self.measure(&**file, header, chain, next)?;
            writer.begin(&segment_name(header.number), measured.end)?;
            self.copy_segment(&**file, header, chain, &measured, &mut writer)?;
            chain = measured.chain;
        }
        let manifest = Manifest {
            uuid: self.segments[0].1.uuid,
            revision: chain.last_revision,
            sequence: chain.next_sequence - 1,
            stamp_ms: chain.last_stamp_ms,
            files: writer.files,
        };
        let text = manifest.encode();
        sink.file(MANIFEST_FILE, text.len() as u64).map_err(BackupError::Sink)?;
        sink.write(text.as_bytes()).map_err(BackupError::Sink)?;
        sink.finish().map_err(BackupError::Sink)?;
        Ok(BackupReport {
            revision: manifest.revision,
            stamp_ms: manifest.stamp_ms,
            files: manifest.files.len() as u64,
            bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        })
    }

    /// Where the segment ends, by the rules of a recovery.
    fn measure(
        &self,
        file: &dyn StorageFile,
        header: &SegmentHeader,
        chain: Chain,
        next: Option<u64>,
    ) -> Result<Walked, LogError> {
        let path = || self.storage.path(&segment_name(header.number));
        if let Some(what) = misfit(header, &chain) {
            return Err(LogError::Damaged { file: path(), offset: 0, what });
        }
        let mut walked = Walked::start(chain);
        walked.walk(file, header, next, &path, &mut |_| Ok(()))?;
        if let Some(error) = walked.fault(next, &path) {
            return Err(error);
        }
        if next.is_none() {
            self.find_end(file, header, &mut walked)?;
        }
        Ok(walked)
    }

    /// The end of the last segment, to which a broker may be appending. A batch that is being written looks damaged, and the batches
    /// behind it that are written meanwhile seem to prove it; so what they vouch for is read once more before it is believed.
    fn find_end(&self, file: &dyn StorageFile, header: &SegmentHeader, walked: &mut Walked) -> Result<(), LogError> {
        let path = || self.storage.path(&segment_name(header.number));
        let damaged = |walked: &Walked, what: String| LogError::Damaged { file: path(), offset: walked.end, what };
        for _ in 0..END_ROUNDS {
            let scan = scan_tail(file, header.salt, walked.end).map_err(|source| LogError::io("read", path(), source))?;
            let Some((through, offset)) = scan.vouched.filter(|(through, _)| *through >= walked.chain.next_sequence) else {
                break;
            };
            walked.walk(file, header, None, &path, &mut |_| Ok(()))?;
            if let Some(error) = walked.fault(None, &path) {
                return Err(error);
            }
            let sequence = walked.chain.next_sequence;
            if sequence <= through {
                let what = format!(
                    "batch {sequence} should stand here, but it can't be read; the batch at byte {offset} says that batches up to \
                     {through} were synced"
                );
                return Err(damaged(walked, what));
            }
        }
        match self.mark {
            Some(mark) if mark.sequence >= walked.chain.next_sequence => {
                let sequence = walked.chain.next_sequence;
                let what = format!(
                    "batch {sequence} should stand here; {MARK_FILE} says that batches up to {} were synced",
                    mark.sequence
                );
                Err(damaged(walked, what))
            }
            _ => Ok(()),
        }
    }

    fn copy_segment(
        &self,
        file: &dyn StorageFile,
        header: &SegmentHeader,
        chain: Chain,
        measured: &Walked,
        writer: &mut Writer<'_>,
    ) -> Result<(), BackupError> {
        let path = || self.storage.path(&segment_name(header.number));
        let mut block = vec![0; SEGMENT_HEADER_BYTES];
        file.read_at(&mut block, 0).map_err(|source| LogError::io("read", path(), source))?;
        let changed = |offset| LogError::Damaged { file: path(), offset, what: SECOND_READ.to_owned() };
        if SegmentHeader::decode(&block).ok().as_ref() != Some(header) {
            return Err(changed(0).into());
        }
        writer.write(&block)?;
        let mut walked = Walked::start(chain);
        let mut failed = None;
        walked.walk(file, header, Some(measured.chain.next_sequence), &path, &mut |batch: &Batch<'_>| {
            if failed.is_none() {
                failed = writer.write(batch.bytes).err();
            }
            Ok(())
        })?;
        match failed {
            Some(error) => Err(error),
            None if walked.stop.is_some() || walked.end != measured.end => Err(changed(walked.end).into()),
            None => Ok(()),
        }
    }
}

impl Checkpoint {
    fn open(storage: &dyn Storage) -> Result<Option<Self>, LogError> {
        let path = || storage.path(CHECKPOINT_FILE);
        let file = match storage.open(CHECKPOINT_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(|source| LogError::io("open", path(), source))?,
        };
        let failed = |source| LogError::io("read", path(), source);
        let mut head = vec![0; CHECKPOINT_HEADER_BYTES];
        let read = file.read_at(&mut head, 0).map_err(failed)?;
        let bytes = file.length().map_err(failed)?;
        let reader = CheckpointReader::from_file(file, path())?;
        if CheckpointHeader::decode(&head[..read]).ok().as_ref() != Some(reader.header()) {
            return Err(LogError::Damaged { file: path(), offset: 0, what: SECOND_READ.to_owned() });
        }
        Ok(Some(Self { reader, head, bytes }))
    }

    /// Copies it in one pass. The blocks' headers are made anew from what was verified: they come out as they were.
    fn copy(&mut self, writer: &mut Writer<'_>) -> Result<(), BackupError> {
        writer.begin(CHECKPOINT_FILE, self.bytes)?;
        writer.write(&self.head)?;
        let salt = self.reader.header().salt;
        let mut previous_crc = 0;
        let mut write = |kind: BlockKind, offset, records, payload: &[u8]| {
            let mut header = BlockHeader {
                kind: kind as u8,
                reserved: [0; 3],
                salt,
                offset,
                payload_bytes: u32::try_from(payload.len()).expect("it was read from a block"),
                records,
                previous_crc,
                payload_crc: crc32c::crc32c(payload),
                crc: 0,
            };
            let mut bytes = [0; BLOCK_HEADER_BYTES];
            header.encode_into(&mut bytes);
            previous_crc = header.crc;
            writer.write(&bytes)?;
            writer.write(payload)
        };
        while let Some(block) = self.reader.next_block().map_err(BackupError::Source)? {
            write(BlockKind::Records, block.offset, block.records, block.payload())?;
        }
        let summary = self.reader.summary().expect("the last block was read");
        let totals = Totals { records: summary.records, bytes: summary.record_bytes, digest: summary.digest };
        let end = CheckpointEnd { totals, covers: summary.header.covers }.encode();
        let offset = summary.file_bytes - (BLOCK_HEADER_BYTES + end.len()) as u64;
        write(BlockKind::End, offset, 0, &end)
    }
}

/// Hands bytes to the sink and keeps the manifest's books.
struct Writer<'w> {
    sink: &'w mut dyn BackupSink,
    progress: &'w mut dyn FnMut(u64),
    bytes: u64,
    files: Vec<ManifestFile>,
}

impl Writer<'_> {
    fn begin(&mut self, name: &str, bytes: u64) -> Result<(), BackupError> {
        self.files.push(ManifestFile { name: name.to_owned(), bytes, crc: 0 });
        self.sink.file(name, bytes).map_err(BackupError::Sink)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let file = self.files.last_mut().expect("a file was begun");
        file.crc = crc32c::crc32c_append(file.crc, bytes);
        self.sink.write(bytes).map_err(BackupError::Sink)?;
        self.bytes += bytes.len() as u64;
        (self.progress)(self.bytes);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
