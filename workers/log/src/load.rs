//! Reads a checkpoint on a thread of its own, while the caller does something with the records.
//!
//! - Checking checksums and waiting for the disk take as long as they do beside the caller's work, not before it.
//! - A few blocks are on their way at a time; memory is bounded by them.
//! - What the caller was given is checked, but only the end tells that it was the whole checkpoint.

use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::checkpoint::{BlockRecords, CheckpointReader};
use crate::error::LogError;
use crate::replay::CheckpointRecord;

/// Blocks between the two threads.
const BLOCKS: usize = 8;

/// A checkpoint shorter than this is read by the caller's thread: starting another one takes longer. In bytes.
const WORTH_A_THREAD: u64 = 1 << 20;

/// Gives every record to `take`, with the offset of its block, in order. `file_bytes` is how long the checkpoint is.
///
/// # Errors
/// The first of what the reader finds and what `take` returns.
pub(crate) fn read_records(
    mut reader: CheckpointReader,
    file_bytes: u64,
    take: &mut dyn FnMut(CheckpointRecord<'_>, u64) -> Result<(), LogError>,
) -> Result<CheckpointReader, LogError> {
    if file_bytes < WORTH_A_THREAD {
        while let Some(block) = reader.next_block()? {
            block.records().try_for_each(|record| take(record, block.offset))?;
        }
        return Ok(reader);
    }
    let (blocks, taken) = sync_channel::<(u64, Vec<u8>)>(BLOCKS);
    thread::scope(|scope| {
        let reading = scope.spawn(move || {
            while let Some(block) = reader.next_block()? {
                if blocks.send((block.offset, block.payload().to_vec())).is_err() {
                    // The caller has refused something, and says so itself.
                    break;
                }
            }
            Ok(reader)
        });
        let result = taken
            .iter()
            .try_for_each(|(offset, payload)| BlockRecords::over(&payload).try_for_each(|record| take(record, offset)));
        // The reader waits for room otherwise.
        drop(taken);
        let reader = reading.join().unwrap_or_else(|panic| resume_unwind(panic));
        result.and(reader)
    })
}
