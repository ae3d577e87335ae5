//! Reads one segment by itself: its header, then batch by batch, behind damage too if that is wanted.
//!
//! - A segment's header says what its first batch continues, so each can be read without those before it.
//! - Where the next segment begins is the caller's to say: up to there every batch must be there, and what stands behind was cut.
//! - Without a next segment the end is judged as a start of the log judges it: what a later header vouches for is damage, anything
//!   else that is no batch is a torn tail.

use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::error::LogError;
use crate::format::{BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, BatchKind, SEGMENT_HEADER_BYTES, segment_name};
use crate::inspect::facts::open;
use crate::log::SyncMode;
use crate::payload::GroupRef;
use crate::reader::{self, BatchReader, Chain, Stop, scan_tail};
use crate::storage::{Storage, StorageFile};

/// How much is read at once when the next valid batch behind damage is looked for, bytes.
const SEARCH_BYTES: usize = 1 << 20;

/// A batch as it stands in a segment.
#[derive(Debug)]
pub struct BatchView<'a> {
    /// Where it starts in its file, bytes.
    pub offset: u64,
    /// Its length, header included, bytes.
    pub bytes: u64,
    /// +1 per batch over the whole log.
    pub sequence: u64,
    /// What it is for.
    pub purpose: BatchPurpose,
    /// Sync mode of its process: `always`, `interval` or `never`.
    pub mode: &'static str,
    /// Last batch whose sync had returned when this one was written.
    pub synced_through: u64,
    /// The revision that its first group takes, or would take.
    pub first_revision: u64,
    /// The last revision up to its end.
    pub last_revision: u64,
    /// Wall-clock ms.
    pub stamp_ms: u64,
    /// Its groups.
    pub groups: u32,
    /// Records in them.
    pub records: u64,
    batch: reader::Batch<'a>,
}

impl<'a> BatchView<'a> {
    /// The groups, in order.
    pub fn groups(&self) -> impl Iterator<Item = GroupRef<'a>> + use<'a> {
        self.batch.groups()
    }
}

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchPurpose {
    /// Groups of records.
    Data,
    /// The first batch of a process.
    Opening,
    /// Vouches for the one before.
    Marker,
    /// The last batch of an orderly end.
    CleanStop,
}

impl BatchPurpose {
    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Opening => "opening",
            Self::Marker => "marker",
            Self::CleanStop => "clean stop",
        }
    }
}

/// What is met in a segment.
#[derive(Debug)]
pub enum Found<'a> {
    /// A batch, read whole and checked.
    Batch(BatchView<'a>),
    /// Something that can't be read although it must be there. Reading goes on at `resumes`, if anything valid follows.
    Damage {
        /// Where the batch should stand, bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        what: String,
        /// Start of the next batch that can be read.
        resumes: Option<u64>,
    },
}

/// How a segment ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentEnd {
    /// The next segment begins here. What stands behind is room or was cut.
    Next,
    /// The log ends here: only zeros follow.
    Log,
    /// The log ends here: what follows is no batch, and nothing says that it was ever synced. A start would cut it.
    Torn {
        /// Bytes up to the last one that is not zero.
        bytes: u64,
        /// Why it is no batch.
        why: &'static str,
    },
    /// Damage, and nothing that can be read behind it.
    Damaged,
    /// The visitor had enough.
    Stopped,
}

/// What reading a segment came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRead {
    /// How it ends.
    pub end: SegmentEnd,
    /// Where, bytes from the start of the file.
    pub offset: u64,
    /// Sequence that the next batch has.
    pub next_sequence: u64,
    /// Last revision up to the end.
    pub last_revision: u64,
    /// Highest stamp up to the end, wall-clock ms.
    pub last_stamp_ms: u64,
    /// Checksum of the header of the last batch up to the end.
    pub last_crc: u32,
    /// Batches read.
    pub batches: u64,
    /// Groups in them.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Purpose and sync mode of the last batch.
    pub last_batch: Option<(BatchPurpose, &'static str)>,
    /// Pieces that can't be read although they must be there.
    pub damages: u64,
}

/// Reads segment `number` and gives `visitor` what is in it. `next` is the first sequence of the next segment, if there is one.
/// Damage is given to the visitor too; unless it breaks there, reading goes on with the next batch that can be read.
///
/// # Errors
/// A header that can't be used, and what the disk says. Contents of a newer format are `NewerFormat`.
pub fn read_segment(
    storage: &dyn Storage,
    number: u64,
    next: Option<u64>,
    visitor: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
) -> Result<SegmentRead, LogError> {
    let (file, facts) = open(storage, number)?;
    let chain = Chain {
        next_sequence: facts.first_sequence,
        previous_crc: facts.previous_crc,
        last_revision: facts.base_revision,
        last_stamp_ms: facts.stamp_ms,
        writer: None,
    };
    let mut walk = Walk {
        file: &*file,
        path: storage.path(&segment_name(number)),
        salt: facts.header.salt,
        next,
        read: SegmentRead {
            end: SegmentEnd::Stopped,
            offset: SEGMENT_HEADER_BYTES as u64,
            next_sequence: chain.next_sequence,
            last_revision: chain.last_revision,
            last_stamp_ms: chain.last_stamp_ms,
            last_crc: chain.previous_crc,
            batches: 0,
            groups: 0,
            records: 0,
            last_batch: None,
            damages: 0,
        },
    };
    walk.run(chain, visitor)?;
    Ok(walk.read)
}

struct Walk<'f> {
    file: &'f dyn StorageFile,
    path: PathBuf,
    salt: u64,
    next: Option<u64>,
    read: SegmentRead,
}

impl Walk<'_> {
    fn run(&mut self, mut chain: Chain, visitor: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>) -> Result<(), LogError> {
        let mut read_again_at = None;
        loop {
            let stop = match self.batches(&mut chain, visitor)? {
                ControlFlow::Break(end) => {
                    self.read.end = end;
                    return Ok(());
                }
                ControlFlow::Continue(stop) => stop,
            };
            let what = match self.damage(stop)? {
                Ok(what) => what,
                Err(end) => {
                    self.read.end = end;
                    return Ok(());
                }
            };
            // A log in service grows between two reads: what vouches for a batch may be newer than the bytes that were read of it.
            if self.next.is_none() && read_again_at != Some(self.read.offset) {
                read_again_at = Some(self.read.offset);
                continue;
            }
            self.read.damages += 1;
            let follows = self.search(self.read.offset + 1)?;
            let resumes = follows.as_ref().map(|header| header.offset);
            if visitor(Found::Damage { offset: self.read.offset, what, resumes }).is_break() {
                return Ok(());
            }
            let Some(header) = follows else {
                self.read.end = SegmentEnd::Damaged;
                return Ok(());
            };
            self.read.offset = header.offset;
            chain = Chain {
                next_sequence: header.sequence,
                previous_crc: header.previous_crc,
                last_revision: header.first_revision.saturating_sub(1),
                last_stamp_ms: self.read.last_stamp_ms,
                writer: None,
            };
        }
    }

    /// Batches from the present offset on, up to the end (`Break`) or to where none can be read.
    fn batches(
        &mut self,
        chain: &mut Chain,
        visitor: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<SegmentEnd, Stop>, LogError> {
        let mut reader = BatchReader::new(self.file, self.salt, self.read.offset, *chain);
        loop {
            *chain = reader.chain();
            if self.next.is_some_and(|next| reader.chain().next_sequence >= next) {
                return Ok(ControlFlow::Break(SegmentEnd::Next));
            }
            let before = reader.chain();
            let batch = match reader.next().map_err(|source| LogError::io("read", self.path.clone(), source))? {
                Ok(batch) => batch,
                Err(stop) => return Ok(ControlFlow::Continue(stop)),
            };
            let header = &batch.header;
            let groups = header.groups;
            let taken = batch.groups().map(|group| group.revision).last().unwrap_or(before.last_revision);
            let view = BatchView {
                offset: header.offset,
                bytes: batch.bytes.len() as u64,
                sequence: header.sequence,
                purpose: purpose(batch.kind),
                mode: mode(header.mode),
                synced_through: header.synced_through,
                first_revision: header.first_revision,
                last_revision: taken,
                stamp_ms: header.stamp_ms,
                groups,
                records: batch.records,
                batch,
            };
            let read = &mut self.read;
            read.batches += 1;
            read.groups += u64::from(groups);
            read.records += view.records;
            read.last_batch = Some((view.purpose, view.mode));
            read.next_sequence = view.sequence + 1;
            read.last_revision = taken;
            read.last_stamp_ms = read.last_stamp_ms.max(view.stamp_ms);
            read.last_crc = view.batch.header.crc;
            read.offset = view.batch.header.end();
            if visitor(Found::Batch(view)).is_break() {
                return Ok(ControlFlow::Break(SegmentEnd::Stopped));
            }
        }
    }

    /// What it means that no batch can be read: damage in words, or the end.
    fn damage(&self, stop: Stop) -> Result<Result<String, SegmentEnd>, LogError> {
        let sequence = self.read.next_sequence;
        let why = match stop {
            Stop::Bad(why) => why,
            Stop::Malformed(what) => return Ok(Ok(format!("{what}, although its checksum is right"))),
            Stop::Newer(found) => {
                return Err(LogError::NewerFormat { file: self.path.clone(), found, supported: "none of that kind".to_owned() });
            }
        };
        if let Some(next) = self.next {
            return Ok(Ok(format!("{why}; it should be batch {sequence}, and the next segment starts at batch {next}")));
        }
        let scan = scan_tail(self.file, self.salt, self.read.offset)
            .map_err(|source| LogError::io("read", self.path.clone(), source))?;
        Ok(match (scan.vouched, scan.written_end) {
            (Some((through, offset)), _) if through >= sequence => Ok(format!(
                "batch {sequence} should stand here, but {why}; the batch at byte {offset} says that batches up to {through} were synced"
            )),
            (_, Some(end)) => Err(SegmentEnd::Torn { bytes: end - self.read.offset, why }),
            (_, None) => Err(SegmentEnd::Log),
        })
    }

    /// The first valid batch header from `from` on that belongs to this segment's part of the log.
    fn search(&self, from: u64) -> Result<Option<BatchHeader>, LogError> {
        let mut buffer = vec![0; SEARCH_BYTES];
        let mut at = from;
        loop {
            let read = self.file.read_at(&mut buffer, at).map_err(|source| LogError::io("read", self.path.clone(), source))?;
            for (index, window) in buffer[..read].windows(BATCH_HEADER_BYTES).enumerate() {
                if window[..BATCH_MAGIC.len()] == BATCH_MAGIC
                    && let Some(header) = BatchHeader::decode(window, self.salt, at + index as u64)
                    && header.sequence >= self.read.next_sequence
                    && self.next.is_none_or(|next| header.sequence < next)
                {
                    return Ok(Some(header));
                }
            }
            if read < buffer.len() {
                return Ok(None);
            }
            // Overlap, so that a header across two pieces is seen.
            at += (read - BATCH_HEADER_BYTES) as u64;
        }
    }
}

fn purpose(kind: BatchKind) -> BatchPurpose {
    match kind {
        BatchKind::Data => BatchPurpose::Data,
        BatchKind::Opening => BatchPurpose::Opening,
        BatchKind::Marker => BatchPurpose::Marker,
        BatchKind::CleanStop => BatchPurpose::CleanStop,
    }
}

fn mode(byte: u8) -> &'static str {
    match byte {
        SyncMode::ALWAYS_BYTE => "always",
        SyncMode::EVERY_BYTE => "interval",
        SyncMode::NEVER_BYTE => "never",
        _ => "unknown",
    }
}
