//! What is behind a damage: as far as it can be read, and as far as something else tells.

use crate::error::LogError;
use crate::format::{BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, MAX_BATCH_BYTES, SegmentHeader, segment_name};
use crate::payload::{GroupRef, Groups, validate};
use crate::reader::Chain;
use crate::storage::Storage;

/// How much is read at a time, bytes.
const PIECE: usize = 1 << 20;

/// What would be lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// First and last batch, as far as anything tells of them; None if nothing is known to be lost.
    pub batches: Option<(u64, u64)>,
    /// How many of them can still be read.
    pub readable_batches: u64,
    /// First revision that would be lost, and the last one that can be read.
    pub revisions: Option<(u64, u64)>,
    /// First and last stamp in the batches that can be read, wall-clock ms.
    pub stamps_ms: Option<(u64, u64)>,
    /// Groups in them.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    first_batch: u64,
    first_revision: u64,
}

impl Loss {
    /// Nothing yet, behind `chain`.
    pub(super) fn behind(chain: &Chain) -> Self {
        Self { first_batch: chain.next_sequence, first_revision: chain.last_revision.saturating_add(1), ..Self::default() }
    }

    /// Something says that batches up to `sequence` were synced.
    pub(super) fn vouched(&mut self, sequence: Option<u64>) {
        let Some(sequence) = sequence.filter(|&sequence| sequence >= self.first_batch) else { return };
        let last = self.batches.map_or(sequence, |(_, last)| last.max(sequence));
        self.batches = Some((self.first_batch, last));
    }

    /// Reads what is whole in a segment from `from` on, however much around it is damaged.
    pub(super) fn read(
        &mut self,
        storage: &dyn Storage,
        segment: &SegmentHeader,
        from: u64,
        lost: &mut dyn FnMut(&GroupRef<'_>),
    ) -> Result<(), LogError> {
        let name = segment_name(segment.number);
        let failed = |action| move |source| LogError::io(action, storage.path(&segment_name(segment.number)), source);
        self.vouched(segment.first_sequence.checked_sub(1));
        let file = storage.open(&name).map_err(failed("open"))?;
        let length = file.length().map_err(failed("read the length of"))?;
        let mut piece = vec![0; PIECE];
        let mut at = from;
        while at + BATCH_HEADER_BYTES as u64 <= length {
            let read = file.read_at(&mut piece, at).map_err(failed("read"))?;
            let bytes = &piece[..read];
            let Some((header, index)) = find_header(bytes, segment.salt, at) else {
                // Overlap, so that a header across two pieces is seen.
                at += read.saturating_sub(BATCH_HEADER_BYTES - 1).max(1) as u64;
                continue;
            };
            self.vouched(Some(header.synced_through));
            at += index as u64;
            let payload_bytes = header.payload_bytes as usize;
            let fits = payload_bytes <= MAX_BATCH_BYTES && header.end() <= length;
            let mut payload = vec![0; if fits { payload_bytes } else { 0 }];
            if fits {
                let start = header.offset + BATCH_HEADER_BYTES as u64;
                let read = file.read_at(&mut payload, start).map_err(failed("read"))?;
                if read == payload.len() && self.batch(&header, &payload, lost) {
                    at = header.end();
                    continue;
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// Counts a batch; false if its payload is damaged.
    fn batch(&mut self, header: &BatchHeader, payload: &[u8], lost: &mut dyn FnMut(&GroupRef<'_>)) -> bool {
        if crc32c::crc32c(payload) != header.payload_crc || header.sequence < self.first_batch {
            return false;
        }
        let Ok(summary) = validate(payload, header.groups, header.first_revision.wrapping_sub(1)) else { return false };
        self.readable_batches += 1;
        self.vouched(Some(header.sequence));
        self.records += summary.records;
        self.groups += u64::from(header.groups);
        if summary.last_revision >= self.first_revision {
            let last = self.revisions.map_or(summary.last_revision, |(_, last)| last.max(summary.last_revision));
            self.revisions = Some((self.first_revision, last));
        }
        if header.groups > 0 {
            let (first, last) = self.stamps_ms.unwrap_or((header.stamp_ms, header.stamp_ms));
            self.stamps_ms = Some((first.min(header.stamp_ms), last.max(header.stamp_ms)));
        }
        Groups::new(payload, header.stamp_ms).for_each(|group| lost(&group));
        true
    }
}

/// The first valid batch header in `bytes`, which were read at `at`, and where in them it stands.
fn find_header(bytes: &[u8], salt: u64, at: u64) -> Option<(BatchHeader, usize)> {
    bytes
        .windows(BATCH_HEADER_BYTES)
        .enumerate()
        .filter(|(_, window)| window[..BATCH_MAGIC.len()] == BATCH_MAGIC)
        .find_map(|(index, window)| Some((BatchHeader::decode(window, salt, at + index as u64)?, index)))
}
