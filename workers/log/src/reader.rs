//! [`BatchReader`]: reads one segment batch by batch, for replay and for later readers of the log.
//!
//! - Memory is bounded by the read-ahead and the largest batch, not by the segment.
//! - A batch is given out only if header, chain and payload all agree; otherwise the reader says where it stopped and why,
//!   and what that means is for the caller to decide.

use std::io;
use std::ops::Deref;

use crate::format::{BATCH_HEADER_BYTES, BatchHeader, BatchKind, MAX_BATCH_BYTES};
use crate::payload::{Groups, PayloadFault, validate};
use crate::storage::StorageFile;

/// How much is read ahead, bytes.
const READ_AHEAD: usize = 1 << 20;

/// What the next batch must fit on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub next_sequence: u64,
    pub previous_crc: u32,
    pub last_revision: u64,
    pub last_stamp_ms: u64,
    /// Writer id of the batch before; `None` where only an opening batch or any writer may follow (start of the log).
    pub writer: Option<u64>,
}

impl Chain {
    /// What an empty log continues from.
    pub const START: Self = Self { next_sequence: 1, previous_crc: 0, last_revision: 0, last_stamp_ms: 0, writer: None };
}

/// A batch that was read whole and checked.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub header: BatchHeader,
    pub kind: BatchKind,
    pub records: u64,
    payload: &'a [u8],
    /// Header and payload, as in the file.
    pub bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    pub fn groups(&self) -> Groups<'a> {
        Groups::new(self.payload, self.header.stamp_ms)
    }
}

/// Copies of batches, one behind the other, to be handed to another thread.
#[derive(Debug, Default)]
pub(crate) struct BatchCopies {
    bytes: Vec<u8>,
    /// Each with its records, and where it ends.
    batches: Vec<(BatchHeader, BatchKind, u64, usize)>,
}

impl BatchCopies {
    pub fn push(&mut self, batch: &Batch<'_>) {
        self.bytes.extend_from_slice(batch.bytes);
        self.batches.push((batch.header.clone(), batch.kind, batch.records, self.bytes.len()));
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = Batch<'_>> {
        let mut start = 0;
        self.batches.iter().map(move |(header, kind, records, end)| {
            let bytes = &self.bytes[std::mem::replace(&mut start, *end)..*end];
            let payload = &bytes[BATCH_HEADER_BYTES..];
            Batch { header: header.clone(), kind: *kind, records: *records, payload, bytes }
        })
    }
}

/// Why the reader stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// No valid batch stands here: the end of the log, a torn tail or damage.
    Bad(&'static str),
    /// Checksums are right, contents are not: never a torn write.
    Malformed(&'static str),
    /// Checksums are right, a newer program wrote it.
    Newer(String),
}

/// Reads a segment from one offset on.
///
/// `F` is the file, borrowed or owned.
pub(crate) struct BatchReader<F> {
    file: F,
    salt: u64,
    /// Where the next batch starts.
    offset: u64,
    chain: Chain,
    buffer: Vec<u8>,
    /// File offset of `buffer[0]`.
    buffer_offset: u64,
    /// Set only by the crash sweep, to show that it notices a torn batch that is taken for a whole one.
    pub trust_payload: bool,
}

impl<F: Deref<Target: StorageFile>> BatchReader<F> {
    /// Starts at `offset`, where a batch that continues `chain` is expected.
    pub fn new(file: F, salt: u64, offset: u64, chain: Chain) -> Self {
        Self { file, salt, offset, chain, buffer: Vec::new(), buffer_offset: offset, trust_payload: false }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// The file that it reads.
    pub fn into_file(self) -> F {
        self.file
    }

    /// Reads the next batch; on `Stop` the reader stays where it is.
    pub fn next(&mut self) -> io::Result<Result<Batch<'_>, Stop>> {
        let (salt, offset) = (self.salt, self.offset);
        let Some(header) = BatchHeader::decode(self.fill(BATCH_HEADER_BYTES)?, salt, offset) else {
            return Ok(Err(Stop::Bad("there is no valid batch header")));
        };
        if let Some(stop) = self.check_header(&header) {
            return Ok(Err(stop));
        }
        let total = BATCH_HEADER_BYTES + header.payload_bytes as usize;
        if total > MAX_BATCH_BYTES {
            return Ok(Err(Stop::Malformed("a batch is larger than any writer makes it")));
        }
        let (trust_payload, last_revision) = (self.trust_payload, self.chain.last_revision);
        let bytes = self.fill(total)?;
        if bytes.len() < total || !trust_payload && crc32c::crc32c(&bytes[BATCH_HEADER_BYTES..total]) != header.payload_crc {
            return Ok(Err(Stop::Bad("the checksum of the batch's payload is wrong")));
        }
        let Some(kind) = BatchKind::from_byte(header.kind) else {
            return Ok(Err(Stop::Newer(format!("a batch of kind {}", header.kind))));
        };
        if header.mode > 3 || header.reserved != 0 {
            return Ok(Err(Stop::Newer(format!("a batch with mode {} and flags {:#06x}", header.mode, header.reserved))));
        }
        let summary = match validate(&bytes[BATCH_HEADER_BYTES..total], header.groups, last_revision) {
            Ok(summary) => summary,
            Err(PayloadFault::Newer(what)) => return Ok(Err(Stop::Newer(what))),
            Err(PayloadFault::Malformed(what)) => return Ok(Err(Stop::Malformed(what))),
        };
        self.chain = Chain {
            next_sequence: header.sequence + 1,
            previous_crc: header.crc,
            last_revision: summary.last_revision,
            last_stamp_ms: self.chain.last_stamp_ms.max(header.stamp_ms),
            writer: Some(header.writer),
        };
        self.offset = header.end();
        let start = usize::try_from(header.offset - self.buffer_offset).expect("the batch is in the buffer");
        let bytes = &self.buffer[start..start + total];
        Ok(Ok(Batch { header, kind, records: summary.records, payload: &bytes[BATCH_HEADER_BYTES..], bytes }))
    }

    /// A valid header that doesn't continue the chain is a leftover of an earlier life: as good as no header.
    fn check_header(&self, header: &BatchHeader) -> Option<Stop> {
        let chain = &self.chain;
        if header.sequence != chain.next_sequence || header.previous_crc != chain.previous_crc {
            return Some(Stop::Bad("the batch header doesn't continue the batch before it"));
        }
        if header.kind != BatchKind::Opening as u8 && chain.writer.is_some_and(|writer| writer != header.writer) {
            return Some(Stop::Bad("the batch is of another writer"));
        }
        if header.first_revision != chain.last_revision.wrapping_add(1) {
            return Some(Stop::Malformed("the batch header names the wrong revision"));
        }
        if header.synced_through >= header.sequence {
            return Some(Stop::Malformed("the batch header vouches for itself"));
        }
        None
    }

    /// Used only by the crash sweep, to show that it notices: goes on with the next valid batch, whatever is missing before it. False
    /// if there is none.
    pub fn pass_hole(&mut self) -> bool {
        let length = self.file.length().unwrap_or(0);
        for offset in self.offset + 1..length {
            let mut bytes = [0; BATCH_HEADER_BYTES];
            let read = self.file.read_at(&mut bytes, offset).unwrap_or(0);
            if let Some(header) = BatchHeader::decode(&bytes[..read], self.salt, offset) {
                self.chain.next_sequence = header.sequence;
                self.chain.previous_crc = header.previous_crc;
                self.chain.last_revision = header.first_revision.wrapping_sub(1);
                self.chain.writer = Some(header.writer);
                (self.offset, self.buffer_offset) = (offset, offset);
                self.buffer.clear();
                return true;
            }
        }
        false
    }

    /// The bytes from the reader's offset on: at least `want`, or all that are left in the file.
    fn fill(&mut self, want: usize) -> io::Result<&[u8]> {
        let mut start = usize::try_from(self.offset - self.buffer_offset).expect("the offset is within the buffer or at its end");
        if self.buffer.len() - start < want {
            self.buffer.drain(..start);
            self.buffer_offset = self.offset;
            start = 0;
            let have = self.buffer.len();
            // The length claimed by a header may be a lie: never hold room for bytes that the file doesn't have.
            let left = usize::try_from(self.file.length()?.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            let target = want.max(READ_AHEAD).min(left).max(have);
            self.buffer.resize(target, 0);
            let read = self.file.read_at(&mut self.buffer[have..], self.buffer_offset + have as u64)?;
            self.buffer.truncate(have + read);
        }
        Ok(&self.buffer[start..])
    }
}

/// What stands in a file from some offset on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TailScan {
    /// End of the last byte that is not zero, as a file offset; `None` if all are zero.
    pub written_end: Option<u64>,
    /// Highest `synced_through` in any valid batch header, and where that header stands.
    pub vouched: Option<(u64, u64)>,
}

/// Looks at every byte from `from` to the end: for the extent of what was written, and for valid batch headers at any offset.
/// Salt and own offset in a header keep bytes inside values from being taken for one.
pub(crate) fn scan_tail(file: &dyn StorageFile, salt: u64, from: u64) -> io::Result<TailScan> {
    let mut scan = TailScan::default();
    // One byte more than is left, so that the first read sees the end; more than a header, so that pieces make progress.
    let left = usize::try_from(file.length()?.saturating_sub(from)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; left.saturating_add(1).clamp(BATCH_HEADER_BYTES + 1, READ_AHEAD)];
    let mut at = from;
    loop {
        let read = file.read_at(&mut buffer, at)?;
        let bytes = &buffer[..read];
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            scan.written_end = Some(at + last as u64 + 1);
            scan_headers(bytes, salt, at, &mut scan);
        }
        if read < buffer.len() {
            return Ok(scan);
        }
        // Overlap, so that a header across two pieces is seen.
        at += (read - BATCH_HEADER_BYTES) as u64;
    }
}

fn scan_headers(bytes: &[u8], salt: u64, at: u64, scan: &mut TailScan) {
    let magic = crate::format::BATCH_MAGIC;
    for (index, window) in bytes.windows(BATCH_HEADER_BYTES).enumerate() {
        if window[..magic.len()] == magic
            && let Some(header) = BatchHeader::decode(window, salt, at + index as u64)
            && scan.vouched.is_none_or(|(through, _)| header.synced_through > through)
        {
            scan.vouched = Some((header.synced_through, header.offset));
        }
    }
}
