//! Reads a checkpoint, or a segment, on a thread of its own, while the caller does something with what is in it.
//!
//! - Checking checksums and waiting for the disk take as long as they do beside the caller's work, not before it.
//! - A few blocks, or pieces of some batches, are on their way at a time; memory is bounded by them, that is, by the largest batch.
//! - What the caller was given is checked, but only the end tells that it was the whole checkpoint, or how the segment ends.

use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::checkpoint::{BlockRecords, CheckpointReader};
use crate::error::LogError;
use crate::reader::{Batch, BatchCopies, BatchReader, Stop};
use crate::replay::CheckpointRecord;
use crate::storage::StorageFile;

/// Blocks between the two threads.
const BLOCKS: usize = 8;

/// A checkpoint or segment shorter than this is read by the caller's thread: starting another one takes longer. In bytes.
const WORTH_A_THREAD: u64 = 2 << 20;

/// Batches are handed over in pieces of about so many bytes: there may be a million small ones.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces between the two threads. There may be one more at either end, and one batch may be as long as a batch can be.
const PIECES: usize = 1;

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

/// Reader of a file of its own.
pub(crate) type OwnReader = BatchReader<Box<dyn StorageFile>>;

/// Gives every batch before batch `limit` to `take`, in order. `file_bytes` is how long the segment is. Gives the reader back, and why it
/// stopped before the limit, if it did.
///
/// # Errors
/// What `take` returns.
pub(crate) fn read_batches(
    mut reader: OwnReader,
    limit: Option<u64>,
    file_bytes: u64,
    take: &mut dyn FnMut(Batch<'_>) -> Result<(), LogError>,
) -> Result<(OwnReader, io::Result<Option<Stop>>), LogError> {
    let is_before = move |reader: &OwnReader| limit.is_none_or(|limit| reader.chain().next_sequence < limit);
    if file_bytes < WORTH_A_THREAD {
        while is_before(&reader) {
            match reader.next() {
                Ok(Ok(batch)) => take(batch)?,
                Ok(Err(stop)) => return Ok((reader, Ok(Some(stop)))),
                Err(error) => return Ok((reader, Err(error))),
            }
        }
        return Ok((reader, Ok(None)));
    }
    let (pieces, taken) = sync_channel::<BatchCopies>(PIECES);
    thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut piece = BatchCopies::default();
            let mut stopped = Ok(None);
            while is_before(&reader) {
                match reader.next() {
                    Ok(Ok(batch)) => piece.push(&batch),
                    Ok(Err(stop)) => {
                        stopped = Ok(Some(stop));
                        break;
                    }
                    Err(error) => {
                        stopped = Err(error);
                        break;
                    }
                }
                if piece.bytes() >= PIECE_BYTES && pieces.send(std::mem::take(&mut piece)).is_err() {
                    // The caller has refused something, and says so itself.
                    return (reader, Ok(None));
                }
            }
            // As above, if nobody takes it.
            let _ = pieces.send(piece);
            (reader, stopped)
        });
        let result = taken.iter().try_for_each(|piece| piece.iter().try_for_each(&mut *take));
        // The reader waits for room otherwise.
        drop(taken);
        let read = reading.join().unwrap_or_else(|panic| resume_unwind(panic));
        result.map(|()| read)
    })
}
