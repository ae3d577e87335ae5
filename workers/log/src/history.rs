//! [`LogReader`]: reads old groups back while the log is in service, outside of the worker.
//!
//! - It reads up to a [`Persisted`] revision and not a byte further, so it never meets a batch that is being written.
//! - It holds no lock and no state of the log: it may run on any thread.
//! - A revision is given whole: the visitor can stop only between groups, and goes on there the next time.
//!
//! Caveat: bookkeeping groups are passed over; they make no events.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::LogError;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use crate::log::Persisted;
use crate::payload::GroupRef;
use crate::reader::{BatchReader, Chain, Stop};
use crate::segment::{list_segments, open_segment};
use crate::storage::{Storage, StorageFile};

/// A place in the log that moves forward.
pub struct LogReader {
    storage: Arc<dyn Storage>,
    header: SegmentHeader,
    file: Box<dyn StorageFile>,
    offset: u64,
    chain: Chain,
    after: u64,
}

impl LogReader {
    /// Where the log can be entered: for each segment the revision that it goes on behind, ascending. The first is where the log
    /// begins; [`LogReader::after`] with the last one reads only the newest segment.
    ///
    /// # Errors
    /// When the segments can't be read.
    pub fn starts(storage: &dyn Storage) -> Result<Vec<u64>, LogError> {
        let mut starts = Vec::new();
        for number in list_segments(storage)? {
            starts.push(open_segment(storage, number)?.1.base_revision);
        }
        // A segment without a revision is passed over by whoever enters there.
        starts.dedup();
        Ok(starts)
    }

    /// A reader that starts behind `revision`. `None` if the log begins later.
    ///
    /// # Errors
    /// When the segments can't be read.
    pub fn after(storage: Arc<dyn Storage>, revision: u64) -> Result<Option<Self>, LogError> {
        let mut found = None;
        for number in list_segments(&*storage)?.into_iter().rev() {
            let (file, header) = open_segment(&*storage, number)?;
            if header.base_revision <= revision {
                found = Some((file, header));
                break;
            }
        }
        Ok(found.map(|(file, header)| Self {
            chain: start_of(&header),
            offset: SEGMENT_HEADER_BYTES as u64,
            storage,
            header,
            file,
            after: revision,
        }))
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
    ) -> Result<(), LogError> {
        while self.after < through.revision() {
            if self.read_segment(through.revision(), visitor)?.is_break() {
                return Ok(());
            }
            if self.after < through.revision() {
                self.next_segment()?;
            }
        }
        Ok(())
    }

    /// Reads until `through`, the end of the segment or the visitor's break.
    fn read_segment(
        &mut self,
        through: u64,
        visitor: &mut dyn FnMut(GroupRef<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, LogError> {
        let path = self.storage.path(&segment_name(self.header.number));
        let mut reader = BatchReader::new(&*self.file, self.header.salt, self.offset, self.chain);
        while self.after < through {
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
            self.offset = reader.offset();
            self.chain = reader.chain();
        }
        Ok(ControlFlow::Continue(()))
    }

    fn next_segment(&mut self) -> Result<(), LogError> {
        let number = self.header.number + 1;
        let damaged = |storage: &dyn Storage, what: String| LogError::Damaged {
            file: storage.path(&segment_name(self.header.number)),
            offset: self.offset,
            what,
        };
        if !list_segments(&*self.storage)?.contains(&number) {
            let what = format!("the log ends with revision {}, but later ones were acknowledged", self.after);
            return Err(damaged(&*self.storage, what));
        }
        let (file, header) = open_segment(&*self.storage, number)?;
        if header.first_sequence != self.chain.next_sequence || header.previous_crc != self.chain.previous_crc {
            let what = format!("the next segment doesn't continue at batch {}", self.chain.next_sequence);
            return Err(damaged(&*self.storage, what));
        }
        self.chain = start_of(&header);
        self.offset = SEGMENT_HEADER_BYTES as u64;
        self.file = file;
        self.header = header;
        Ok(())
    }
}

fn start_of(header: &SegmentHeader) -> Chain {
    Chain {
        next_sequence: header.first_sequence,
        previous_crc: header.previous_crc,
        last_revision: header.base_revision,
        last_stamp_ms: header.stamp_ms,
        writer: None,
    }
}
