//! [`LogReader`]: reads old groups back while the log is in service, outside of the worker.
//!
//! - It reads up to a [`Persisted`] revision and not a byte further, so it never meets a batch that is being written.
//! - It holds no lock and no state of the log: it may run on any thread.
//! - A revision is given whole: the visitor can stop only between groups, and goes on there the next time.
//! - The oldest segments may be removed at any time. A segment that isn't there was removed exactly if no older one is there either, but
//!   a newer one: they go oldest first. That is [`ReadEnd::Gone`], or `None`; a hole anywhere else is damage. A segment that is open
//!   can be read to its end, removed or not.
//! - Where a reader stands can be kept as a [`LogPlace`], and gone on from later: a few bytes, no open file. Whoever reads the log page by
//!   page reads each batch about once.
//!
//! Caveat: bookkeeping groups are passed over; they make no events.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::checkpoint::{CHECKPOINT_FILE, CheckpointReader};
use crate::error::LogError;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use crate::log::Persisted;
use crate::payload::GroupRef;
use crate::reader::{BatchReader, Chain, Stop};
use crate::segment::{list_segments, open_segment};
use crate::storage::{Storage, StorageFile};

/// Why [`LogReader::read`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// Everything up to the proof was given.
    Through,
    /// The visitor broke.
    Broken,
    /// As many bytes were read as were to be; there is more.
    Paused,
    /// The segment that goes on here was removed: it is older than what is kept.
    Gone,
}

/// A place in the log that moves forward.
pub struct LogReader {
    storage: Arc<dyn Storage>,
    header: SegmentHeader,
    file: Box<dyn StorageFile>,
    offset: u64,
    chain: Chain,
    after: u64,
    read_bytes: u64,
}

/// The start of a batch in the log, where a reader can go on. Good in the life of the log in which it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    segment: u64,
    salt: u64,
    offset: u64,
    chain: Chain,
}

impl LogPlace {
    /// The last revision before it: whoever reads behind this revision, or a later one, can begin here.
    pub fn revision(&self) -> u64 {
        self.chain.last_revision
    }
}

impl LogReader {
    /// Where the log can be entered: for each segment the revision that it goes on behind, ascending. The first is where what is kept
    /// begins; [`LogReader::after`] with the last one reads only the newest segment.
    ///
    /// # Errors
    /// When the segments can't be read.
    pub fn starts(storage: &dyn Storage) -> Result<Vec<u64>, LogError> {
        let mut starts = Vec::new();
        let mut entries = Entries::new(storage)?;
        while let Some((_, header)) = entries.older()? {
            starts.push(header.base_revision);
        }
        starts.reverse();
        // A segment without a revision is passed over by whoever enters there.
        starts.dedup();
        Ok(starts)
    }

    /// A reader that starts behind `revision`. `None` if what is kept of the log begins later.
    ///
    /// # Errors
    /// When the segments can't be read.
    pub fn after(storage: Arc<dyn Storage>, revision: u64) -> Result<Option<Self>, LogError> {
        let mut entries = Entries::new(&*storage)?;
        while let Some((file, header)) = entries.older()? {
            if header.base_revision <= revision {
                return Ok(Some(Self {
                    chain: start_of(&header),
                    offset: SEGMENT_HEADER_BYTES as u64,
                    storage,
                    header,
                    file,
                    after: revision,
                    read_bytes: 0,
                }));
            }
        }
        Ok(None)
    }

    /// A reader that starts behind `revision`, at a place before it. `None` if that is of no use: the segment was removed, or a later
    /// one begins before the revision.
    ///
    /// # Errors
    /// When the segment can't be read.
    pub fn at(storage: Arc<dyn Storage>, place: &LogPlace, revision: u64) -> Result<Option<Self>, LogError> {
        let is_beyond = match find(&*storage, place.segment + 1)? {
            Found::Segment(_, next) => next.base_revision <= revision,
            Found::Removed => true,
            Found::Missing => false,
        };
        if is_beyond || place.revision() > revision {
            return Ok(None);
        }
        let Found::Segment(file, header) = find(&*storage, place.segment)? else { return Ok(None) };
        if header.salt != place.salt {
            return Ok(None);
        }
        Ok(Some(Self { storage, header, file, offset: place.offset, chain: place.chain, after: revision, read_bytes: 0 }))
    }

    /// Where the batch begins that it goes on in.
    pub fn place(&self) -> LogPlace {
        LogPlace { segment: self.header.number, salt: self.header.salt, offset: self.offset, chain: self.chain }
    }

    /// How much it has read, in whole batches, bytes.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// An error that says where it stands.
    pub fn damaged(&self, what: String) -> LogError {
        let file = self.storage.path(&segment_name(self.header.number));
        LogError::Damaged { file, offset: self.offset, what }
    }

    /// The last revision that was given to a visitor, or where the reader started.
    pub fn revision(&self) -> u64 {
        self.after
    }

    /// Gives the groups up to `through` to `visitor`, until it breaks. The group it breaks at counts as given.
    ///
    /// # Errors
    /// `Damaged` when a batch that `through` covers can't be read back.
    pub fn read(
        &mut self,
        through: &Persisted,
        visitor: &mut dyn FnMut(GroupRef<'_>) -> ControlFlow<()>,
    ) -> Result<ReadEnd, LogError> {
        self.read_some(through, u64::MAX, visitor)
    }

    /// As [`LogReader::read`], but pauses behind the batch with which it has read `bytes` of the log: visited or not, groups or
    /// bookkeeping.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read_some(
        &mut self,
        through: &Persisted,
        bytes: u64,
        visitor: &mut dyn FnMut(GroupRef<'_>) -> ControlFlow<()>,
    ) -> Result<ReadEnd, LogError> {
        let mut left = bytes;
        while self.after < through.revision() {
            if self.read_segment(through.revision(), &mut left, visitor)?.is_break() {
                return Ok(ReadEnd::Broken);
            }
            if self.after < through.revision() && left == 0 {
                return Ok(ReadEnd::Paused);
            }
            if self.after < through.revision() && !self.next_segment()? {
                return Ok(ReadEnd::Gone);
            }
        }
        Ok(ReadEnd::Through)
    }

    /// Reads until `through`, the end of the segment, the last of the bytes that are left or the visitor's break.
    fn read_segment(
        &mut self,
        through: u64,
        left: &mut u64,
        visitor: &mut dyn FnMut(GroupRef<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, LogError> {
        let path = self.storage.path(&segment_name(self.header.number));
        let mut reader = BatchReader::new(&*self.file, self.header.salt, self.offset, self.chain);
        while self.after < through && *left > 0 {
            let batch = match reader.next().map_err(|source| LogError::io("read", path.clone(), source))? {
                Ok(batch) => batch,
                // The end of a segment looks like this; whether it is the end, the next segment says.
                Err(Stop::Bad(_)) => break,
                Err(Stop::Malformed(what)) => {
                    return Err(LogError::Damaged { file: path, offset: reader.offset(), what: what.to_owned() });
                }
                Err(Stop::Newer(found)) => {
                    return Err(LogError::NewerFormat { file: path, found, supported: "none of that kind".to_owned() });
                }
            };
            for group in batch.groups() {
                if group.revision <= self.after || group.revision > through || !group.cause.takes_revision() {
                    continue;
                }
                self.after = group.revision;
                if visitor(group).is_break() {
                    // The place stays before this batch: what was given is skipped by its revision.
                    return Ok(ControlFlow::Break(()));
                }
            }
            *left = left.saturating_sub(reader.offset() - self.offset);
            self.read_bytes += reader.offset() - self.offset;
            self.offset = reader.offset();
            self.chain = reader.chain();
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Goes on in the next segment; false if it was removed.
    fn next_segment(&mut self) -> Result<bool, LogError> {
        let number = self.header.number + 1;
        let (file, header) = match find(&*self.storage, number)? {
            Found::Segment(file, header) => (file, header),
            Found::Removed => return Ok(false),
            Found::Missing => {
                let what = format!("the log ends with revision {}, but later ones were acknowledged", self.after);
                return Err(self.damaged(what));
            }
        };
        if header.first_sequence != self.chain.next_sequence || header.previous_crc != self.chain.previous_crc {
            return Err(self.damaged(format!("the next segment doesn't continue at batch {}", self.chain.next_sequence)));
        }
        self.chain = start_of(&header);
        self.offset = SEGMENT_HEADER_BYTES as u64;
        self.file = file;
        self.header = header;
        Ok(true)
    }
}

type OpenSegment = (Box<dyn StorageFile>, SegmentHeader);

enum Found {
    Segment(Box<dyn StorageFile>, SegmentHeader),
    /// It was removed, as everything before it.
    Removed,
    Missing,
}

/// Opens segment `number`, if it is there.
fn find(storage: &dyn Storage, number: u64) -> Result<Found, LogError> {
    match open_segment(storage, number) {
        Ok((file, header)) => return Ok(Found::Segment(file, header)),
        Err(LogError::Io { action: "open", source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Listed only now: it may have been removed since an earlier listing.
    let oldest = list_segments(storage)?.first().copied();
    Ok(if oldest.is_some_and(|oldest| oldest > number) { Found::Removed } else { Found::Missing })
}

/// The segments of use from the newest to the oldest.
struct Entries<'s> {
    storage: &'s dyn Storage,
    /// What was listed and not given yet, ascending.
    left: Vec<u64>,
    newest: Option<u64>,
    /// The first segment that no checkpoint covers.
    uncovered: u64,
}

impl<'s> Entries<'s> {
    fn new(storage: &'s dyn Storage) -> Result<Self, LogError> {
        // The checkpoint first: whatever is covered then, stays covered.
        let checkpoint = CheckpointReader::open_if_there(storage, CHECKPOINT_FILE)?;
        let uncovered = checkpoint.map_or(1, |checkpoint| checkpoint.covers().next_segment);
        Ok(Self { storage, left: list_segments(storage)?, newest: None, uncovered })
    }

    /// The next older one; `None` where what is kept begins.
    fn older(&mut self) -> Result<Option<OpenSegment>, LogError> {
        let Some(number) = self.left.pop() else { return Ok(None) };
        let newer = self.newest.replace(number);
        if newer.is_some_and(|newer| newer != number + 1) {
            // What is before a gap among covered segments is a leftover; see `Past`.
            let missing = newer.map_or(number, |newer| newer - 1);
            return if missing < self.uncovered { Ok(None) } else { Err(missing_segment(self.storage, missing)) };
        }
        match find(self.storage, number) {
            Ok(Found::Segment(file, header)) => Ok(Some((file, header))),
            Ok(Found::Removed) => Ok(None),
            Ok(Found::Missing) => Err(missing_segment(self.storage, number)),
            // The start said so already, and went on: the checkpoint stands for it.
            Err(LogError::Damaged { .. }) if number < self.uncovered => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn missing_segment(storage: &dyn Storage, number: u64) -> LogError {
    LogError::Damaged { file: storage.path(&segment_name(number)), offset: 0, what: "the segment is missing".to_owned() }
}

/// What the first batch of a segment fits on to, as its header says.
pub(crate) fn start_of(header: &SegmentHeader) -> Chain {
    Chain {
        next_sequence: header.first_sequence,
        previous_crc: header.previous_crc,
        last_revision: header.base_revision,
        last_stamp_ms: header.stamp_ms,
        writer: None,
    }
}
