//! Blocks of records in a file, read one after the other: the body of a checkpoint and of a sorted run.
//!
//! - Records ascend strictly by key, over all blocks; others are taken for damage.
//! - The end block carries the totals, in a checkpoint also what its header says of the log; the file ends right behind it. A file that stops anywhere else is damaged.
//! - Memory is bounded by the read-ahead and the longest record, whatever a header claims.

use std::ops::Range;
use std::path::PathBuf;

use super::CheckpointRecord;
use super::block_output::Running;
use super::format::{
    BLOCK_HEADER_BYTES, BLOCK_MAGIC, BlockHeader, BlockKind, CHECKPOINT_HEADER_BYTES, CheckpointEnd, CheckpointHeader, Covers,
    MAX_BLOCK_PAYLOAD_BYTES, RECORD_HEADER_BYTES, RunRecord, Totals, split_record, split_run_record,
};
use crate::error::LogError;
use crate::storage::StorageFile;

/// A block that was read and checked.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Where its header stands in the file.
    pub offset: u64,
    /// Number of its records.
    pub records: u32,
    payload: &'a [u8],
}

impl<'a> Block<'a> {
    /// Its records, ascending.
    pub fn records(&self) -> BlockRecords<'a> {
        BlockRecords { rest: self.payload }
    }

    /// Bytes of its records.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Iterator over the records of a block.
#[derive(Clone, Debug)]
pub struct BlockRecords<'a> {
    rest: &'a [u8],
}

impl<'a> BlockRecords<'a> {
    /// The records of a block's payload, which was checked when it was read.
    pub(crate) fn over(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }
}

impl<'a> Iterator for BlockRecords<'a> {
    type Item = CheckpointRecord<'a>;

    fn next(&mut self) -> Option<CheckpointRecord<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (record, rest) = split_record(self.rest).expect("the block was checked");
        self.rest = rest;
        Some(record)
    }
}

/// Reads blocks.
pub(super) struct BlockInput {
    file: Box<dyn StorageFile>,
    path: PathBuf,
    kind: BlockKind,
    salt: u64,
    /// What the end block must say of the log; `None` in a run.
    covers: Option<Covers>,
    /// Where the next block starts.
    offset: u64,
    previous_crc: u32,
    last_key: Option<Vec<u8>>,
    running: Running,
    ended: Option<Totals>,
    /// Blocks were passed over: the chain and the totals prove nothing any more.
    gaps: bool,
    buffer: Vec<u8>,
    /// How much of it was read. It is not cut to that: filling it with zeros each time would cost as much as the checksums.
    filled: usize,
    /// File offset of `buffer[0]`.
    buffer_offset: u64,
    read_ahead: usize,
}

impl BlockInput {
    /// The blocks of a sorted run. `read_ahead` bytes are read at once.
    pub fn of_run(file: Box<dyn StorageFile>, path: PathBuf, salt: u64, read_ahead: usize) -> Self {
        Self::new(file, path, BlockKind::Run, salt, None, 0, read_ahead)
    }

    /// The blocks of a checkpoint with this header.
    pub fn of_checkpoint(file: Box<dyn StorageFile>, path: PathBuf, header: &CheckpointHeader, read_ahead: usize) -> Self {
        let offset = CHECKPOINT_HEADER_BYTES as u64;
        Self::new(file, path, BlockKind::Records, header.salt, Some(header.covers), offset, read_ahead)
    }

    fn new(
        file: Box<dyn StorageFile>,
        path: PathBuf,
        kind: BlockKind,
        salt: u64,
        covers: Option<Covers>,
        offset: u64,
        read_ahead: usize,
    ) -> Self {
        Self {
            file,
            path,
            kind,
            salt,
            covers,
            offset,
            previous_crc: 0,
            last_key: None,
            running: Running::new(),
            ended: None,
            gaps: false,
            buffer: Vec::new(),
            filled: 0,
            buffer_offset: offset,
            read_ahead,
        }
    }

    /// Where the next block starts; behind the end block, the length of the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What the end block said, once it was read.
    pub fn ended(&self) -> Option<Totals> {
        self.ended
    }

    /// The next block, `None` behind the end block. After an error it stays where it is and fails again.
    pub fn next(&mut self) -> Result<Option<Block<'_>>, LogError> {
        let offset = self.offset;
        Ok(self.next_range()?.map(|(range, records)| Block { offset, records, payload: &self.buffer[range] }))
    }

    /// [`BlockInput::next`]: where in the buffer the payload is, until the next call, and how many records it has.
    fn next_range(&mut self) -> Result<Option<(Range<usize>, u32)>, LogError> {
        if self.ended.is_some() {
            return Ok(None);
        }
        let (salt, offset) = (self.salt, self.offset);
        let previous_crc = self.previous_crc;
        let head = self.fill(BLOCK_HEADER_BYTES)?;
        let short = head.len() < BLOCK_HEADER_BYTES;
        let Some(header) = BlockHeader::decode(head, salt, offset) else {
            let what = if short { "the file ends without an end block" } else { "there is no valid block header" };
            return Err(self.damaged(what));
        };
        if header.previous_crc != previous_crc && !self.gaps {
            return Err(self.damaged("the block doesn't continue the block before it"));
        }
        let total = BLOCK_HEADER_BYTES + header.payload_bytes as usize;
        if header.payload_bytes as usize > MAX_BLOCK_PAYLOAD_BYTES {
            return Err(self.damaged("the block is longer than any writer makes it"));
        }
        let bytes = self.fill(total)?;
        if bytes.len() < total || crc32c::crc32c(&bytes[BLOCK_HEADER_BYTES..total]) != header.payload_crc {
            return Err(self.damaged("the checksum of the block's records is wrong"));
        }
        let is_end = header.kind == BlockKind::End as u8;
        if !is_end && header.kind != self.kind as u8 || header.reserved != [0; 3] {
            return Err(LogError::NewerFormat {
                file: self.path.clone(),
                found: format!("a block of kind {} with flags {:?} at byte {offset}", header.kind, header.reserved),
                supported: "none of that kind".to_owned(),
            });
        }
        if is_end {
            self.check_end(&header)?;
            self.offset += total as u64;
            return Ok(None);
        }
        let start = usize::try_from(self.offset - self.buffer_offset).expect("the block is in the buffer");
        let range = start + BLOCK_HEADER_BYTES..start + total;
        let payload = &self.buffer[range.clone()];
        match check_records(payload, header.records, self.kind, self.last_key.as_deref()) {
            Ok(last) => {
                let last_key = self.last_key.get_or_insert_default();
                last_key.clear();
                last_key.extend_from_slice(last);
            }
            Err(what) => return Err(self.damaged(what)),
        }
        self.running.add(payload, header.records);
        self.previous_crc = header.crc;
        self.offset += total as u64;
        Ok(Some((range, header.records)))
    }

    fn check_end(&mut self, header: &BlockHeader) -> Result<(), LogError> {
        let start = usize::try_from(self.offset - self.buffer_offset).expect("the block is in the buffer") + BLOCK_HEADER_BYTES;
        let payload = &self.buffer[start..start + header.payload_bytes as usize];
        let (totals, covers) = match self.covers {
            None => (Totals::decode(payload), None),
            Some(_) => CheckpointEnd::decode(payload).map(|end| (end.totals, end.covers)).unzip(),
        };
        let Some(totals) = totals.filter(|_| header.records == 0) else {
            return Err(self.damaged("the end block is none that a writer makes, although the checksum is right"));
        };
        if covers != self.covers {
            return Err(self.damaged("the end block doesn't say the same of the log as the header"));
        }
        if totals != self.running.totals() && !self.gaps {
            return Err(self.damaged("the end block's totals are not those of the records"));
        }
        let end = self.offset + (BLOCK_HEADER_BYTES + payload.len()) as u64;
        if self.file.length().map_err(|source| LogError::io("read", self.path.clone(), source))? != end {
            return Err(LogError::Damaged {
                file: self.path.clone(),
                offset: end,
                what: "the file doesn't end behind its end block".to_owned(),
            });
        }
        self.ended = Some(totals);
        Ok(())
    }

    fn damaged(&self, what: &str) -> LogError {
        LogError::Damaged { file: self.path.clone(), offset: self.offset, what: what.to_owned() }
    }

    /// Goes on behind what can't be read: at the next valid block header of this file. From then on neither the chain nor the totals
    /// are compared. Gives the bytes passed over, or `None` if no block follows.
    pub fn skip(&mut self) -> Result<Option<u64>, LogError> {
        let bad = self.offset;
        let mut at = bad + 1;
        loop {
            // Twice a header, so that each round makes progress over headers that stand across two rounds.
            self.offset = at;
            let salt = self.salt;
            let bytes = self.fill(2 * BLOCK_HEADER_BYTES)?;
            let found = bytes.windows(BLOCK_HEADER_BYTES).enumerate().find_map(|(index, window)| {
                (window[..BLOCK_MAGIC.len()] == BLOCK_MAGIC)
                    .then(|| BlockHeader::decode(window, salt, at + index as u64))
                    .flatten()
            });
            let scanned = bytes.len();
            if let Some(header) = found {
                self.gaps = true;
                self.offset = header.offset;
                return Ok(Some(header.offset - bad));
            }
            if scanned < 2 * BLOCK_HEADER_BYTES {
                self.offset = bad;
                self.filled = 0;
                self.buffer_offset = bad;
                return Ok(None);
            }
            at += (scanned - BLOCK_HEADER_BYTES + 1) as u64;
        }
    }

    /// The bytes from the reader's offset on: at least `want`, or all that are left in the file.
    fn fill(&mut self, want: usize) -> Result<&[u8], LogError> {
        let failed = |source| LogError::io("read", self.path.clone(), source);
        let mut start = usize::try_from(self.offset - self.buffer_offset).expect("the offset is not before the buffer");
        if self.filled.saturating_sub(start) < want {
            self.buffer.copy_within(start.min(self.filled)..self.filled, 0);
            self.filled = self.filled.saturating_sub(start);
            self.buffer_offset = self.offset;
            start = 0;
            // The length claimed by a header may be a lie: never hold room for bytes that the file doesn't have.
            let left = self.file.length().map_err(failed)?.saturating_sub(self.offset);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let target = want.max(self.read_ahead).min(left).max(self.filled);
            if self.buffer.len() < target {
                // Not a byte more than needed: a merge has many of these.
                self.buffer.reserve_exact(target - self.buffer.len());
                self.buffer.resize(target, 0);
            } else if target <= self.read_ahead {
                // The room that one huge record took is given back.
                self.buffer.truncate(self.read_ahead);
                self.buffer.shrink_to(self.read_ahead);
            }
            let at = self.buffer_offset + self.filled as u64;
            self.filled += self.file.read_at(&mut self.buffer[self.filled..target], at).map_err(failed)?;
        }
        Ok(&self.buffer[start..self.filled])
    }
}

/// Walks the records of a block, the first of which follows `before`; gives the last key.
fn check_records<'a>(payload: &'a [u8], records: u32, kind: BlockKind, before: Option<&[u8]>) -> Result<&'a [u8], &'static str> {
    let mut rest = payload;
    let mut last: Option<&'a [u8]> = None;
    for _ in 0..records {
        let split = match kind {
            BlockKind::Run => split_run_record(rest).map(|(record, rest)| (record.key, rest)),
            BlockKind::Records | BlockKind::End => split_record(rest).map(|(record, rest)| (record.key, rest)),
        };
        let (key, after) = split.ok_or("a record is longer than its block, although the checksum is right")?;
        if last.or(before).is_some_and(|last| last >= key) {
            return Err("the records are out of order, although the checksum is right");
        }
        last = Some(key);
        rest = after;
    }
    last.filter(|_| rest.is_empty()).ok_or("the block's number of records is wrong, although the checksum is right")
}

/// A place in blocks that moves from record to record.
pub(super) struct BlockCursor {
    input: BlockInput,
    /// What is left of the block, in the input's buffer.
    rest: Range<usize>,
    /// The record before it: bytes of its key, then of its value, and its revision.
    key: Range<usize>,
    value: Option<Range<usize>>,
    revision: u64,
}

impl BlockCursor {
    /// Stands before the first record.
    pub fn new(input: BlockInput) -> Self {
        Self { input, rest: 0..0, key: 0..0, value: None, revision: 0 }
    }

    /// Goes to the next record; false at the end, where all was found to be as the end block says.
    pub fn advance(&mut self) -> Result<bool, LogError> {
        if self.rest.is_empty() {
            match self.input.next_range()? {
                Some((range, _)) => self.rest = range,
                None => return Ok(false),
            }
        }
        let (record, rest) = split_run_record(&self.input.buffer[self.rest.clone()]).expect("the block was checked");
        let start = self.rest.start + RECORD_HEADER_BYTES;
        self.key = start..start + record.key.len();
        self.value = record.value.map(|value| self.key.end..self.key.end + value.len());
        self.revision = record.revision;
        self.rest.start = self.rest.end - rest.len();
        Ok(true)
    }

    /// The record that [`BlockCursor::advance`] went to.
    pub fn current(&self) -> RunRecord<'_> {
        let buffer = &self.input.buffer;
        RunRecord {
            key: &buffer[self.key.clone()],
            value: self.value.clone().map(|value| &buffer[value]),
            revision: self.revision,
        }
    }
}
