//! Batches that nothing vouches for, written again: the last step that makes a recovered log durable.
//!
//! - The same bytes at the same place: a crash in the middle leaves what was there.
//! - Read anew, so checked anew: what is written here becomes the truth.

use std::collections::VecDeque;

use crate::error::LogError;
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, SegmentHeader, segment_name};
use crate::storage::{Storage, StorageFile};

/// Writes the batches that nothing vouches for again, the same bytes at the same place; returns how many bytes.
pub(crate) fn rewrite(
    storage: &dyn Storage,
    file: &dyn StorageFile,
    header: &SegmentHeader,
    unvouched: &VecDeque<(u64, u64)>,
    end: u64,
) -> Result<u64, LogError> {
    let path = || storage.path(&segment_name(header.number));
    let failed = |action| move |source| LogError::io(action, path(), source);
    let mut buffer = Vec::new();
    let mut written = 0;
    for (index, &(_, offset)) in unvouched.iter().enumerate() {
        let next = unvouched.get(index + 1).map_or(end, |&(_, offset)| offset);
        buffer.resize(usize::try_from(next - offset).expect("a batch that was replayed fits memory"), 0);
        let read = file.read_at(&mut buffer, offset).map_err(failed("read"))?;
        let intact = read == buffer.len()
            && BatchHeader::decode(&buffer, header.salt, offset)
                .is_some_and(|batch| batch.end() == next && crc32c::crc32c(&buffer[BATCH_HEADER_BYTES..]) == batch.payload_crc);
        if !intact {
            return Err(LogError::Damaged {
                file: path(),
                offset,
                what: "a second read gave other bytes than the first".to_owned(),
            });
        }
        file.write_at(&buffer, offset).map_err(failed("write"))?;
        written += buffer.len() as u64;
    }
    Ok(written)
}
