//! [`SegmentInput`]: the batches of a range of sealed segments, one after the other, for a merge.
//!
//! - Every batch is checked as in a recovery, and every segment must continue the one before it.
//! - A segment is read up to the batch that the next one starts with: what a cut left behind is never read.
//! - At the end it tells what was covered.

use std::sync::Arc;

use uuid::Uuid;

use super::format::Covers;
use crate::error::LogError;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use crate::history::start_of;
use crate::reader::{Batch, BatchReader, Chain, Stop};
use crate::segment::open_segment;
use crate::storage::{Storage, StorageFile};

/// Reads sealed segments in order.
pub(super) struct SegmentInput {
    storage: Arc<dyn Storage>,
    /// The segment that is read, or comes next.
    number: u64,
    /// What it must go on from; `None` if whatever it says is believed.
    chain: Option<Chain>,
    /// The log that all segments must belong to.
    uuid: Option<Uuid>,
    open: Option<OpenSegment>,
}

struct OpenSegment {
    reader: BatchReader<Box<dyn StorageFile>>,
    /// First batch of the next segment.
    limit: u64,
}

impl SegmentInput {
    /// Segments from `first` on, which must go on from `chain` and belong to log `uuid`, where these are known.
    pub fn new(storage: Arc<dyn Storage>, first: u64, chain: Option<Chain>, uuid: Option<Uuid>) -> Self {
        Self { storage, number: first, chain, uuid, open: None }
    }

    /// The next batch of the segments before `end`, `None` behind the last one.
    pub fn next(&mut self, end: u64) -> Result<Option<Batch<'_>>, LogError> {
        while self.open.as_ref().is_none_or(|open| open.reader.chain().next_sequence >= open.limit) {
            if let Some(open) = self.open.take() {
                self.chain = Some(open.reader.chain());
                self.number += 1;
            }
            if self.number >= end {
                return Ok(None);
            }
            let (file, header) = self.enter(self.number)?;
            let chain = self.chain.unwrap_or_else(|| start_of(&header));
            let (_, next) = open_segment(&*self.storage, self.number + 1)?;
            let reader = BatchReader::new(file, header.salt, SEGMENT_HEADER_BYTES as u64, chain);
            self.open = Some(OpenSegment { reader, limit: next.first_sequence });
        }
        let open = self.open.as_mut().expect("a segment was opened");
        let path = || self.storage.path(&segment_name(self.number));
        let (sequence, offset) = (open.reader.chain().next_sequence, open.reader.offset());
        let damaged = |what| Err(LogError::Damaged { file: path(), offset, what });
        match open.reader.next().map_err(|source| LogError::io("read", path(), source))? {
            Ok(batch) => Ok(Some(batch)),
            Err(Stop::Bad(what)) => {
                damaged(format!("{what}; it should be batch {sequence}, and the next segment starts at batch {}", open.limit))
            }
            Err(Stop::Malformed(what)) => damaged(format!("{what}, although its checksum is right")),
            Err(Stop::Newer(found)) => {
                Err(LogError::NewerFormat { file: path(), found, supported: "none of that kind".to_owned() })
            }
        }
    }

    /// Behind the last batch before segment `end`: what was covered.
    pub fn covers(&self, end: u64) -> Result<Covers, LogError> {
        let (_, header) = self.enter(end)?;
        Ok(Covers {
            uuid: header.uuid,
            next_segment: end,
            next_sequence: header.first_sequence,
            revision: header.base_revision,
            stamp_ms: header.stamp_ms,
            previous_crc: header.previous_crc,
        })
    }

    /// Opens segment `number`, which must go on where the input stands.
    fn enter(&self, number: u64) -> Result<(Box<dyn StorageFile>, SegmentHeader), LogError> {
        let (file, header) = open_segment(&*self.storage, number)?;
        let path = || self.storage.path(&segment_name(number));
        if let Some(uuid) = self.uuid
            && uuid != header.uuid
        {
            let what = format!("it belongs to log {}, what comes before it to log {uuid}", header.uuid);
            return Err(LogError::Foreign { path: path(), what });
        }
        if let Some(chain) = &self.chain
            && (header.first_sequence, header.base_revision, header.previous_crc)
                != (chain.next_sequence, chain.last_revision, chain.previous_crc)
        {
            let what = format!(
                "it starts at batch {} behind revision {}, but batch {} behind revision {} comes next",
                header.first_sequence, header.base_revision, chain.next_sequence, chain.last_revision
            );
            return Err(LogError::Damaged { file: path(), offset: 0, what });
        }
        Ok((file, header))
    }
}
