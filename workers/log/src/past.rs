//! The segments that a checkpoint covers: history for those who ask what was, of no use for what is.
//!
//! - Only headers are read. Of use is what is numbered without a gap up to the checkpoint; whatever is older is a *leftover*: its
//!   removal came back with a crash, or its header, or one behind it, can't be read.
//! - No leftover stops a start: the checkpoint stands for it.

use std::path::PathBuf;

use uuid::Uuid;

use crate::error::LogError;
use crate::format::segment_name;
use crate::segment::{foreign_segment, open_segment};
use crate::segments::{Leftover, SegmentInfo};
use crate::storage::Storage;

/// What is there of the covered segments.
pub(crate) struct Past {
    /// Without a gap, ascending.
    pub segments: Vec<SegmentInfo>,
    /// Older ones, ascending.
    pub leftovers: Vec<Leftover>,
    /// Which could not be read, and why.
    pub damaged: Vec<(PathBuf, String)>,
}

/// Looks at the segments `numbers`, ascending, all covered by the checkpoint of log `uuid`.
pub(crate) fn read_past(storage: &dyn Storage, numbers: &[u64], uuid: Uuid) -> Result<Past, LogError> {
    let mut past = Past { segments: Vec::new(), leftovers: Vec::new(), damaged: Vec::new() };
    let mut next = None;
    for &number in numbers.iter().rev() {
        let (file, header) = match open_segment(storage, number) {
            Ok((file, header)) => (file, Some(header)),
            Err(LogError::Damaged { file, what, .. }) => {
                past.damaged.push((file, what));
                let name = segment_name(number);
                (storage.open(&name).map_err(|source| LogError::io("open", storage.path(&name), source))?, None)
            }
            Err(error) => return Err(error),
        };
        let length =
            file.length().map_err(|source| LogError::io("read the length of", storage.path(&segment_name(number)), source))?;
        match header {
            Some(header) if header.uuid != uuid => return Err(foreign_segment(storage, &header, uuid)),
            Some(header) if past.leftovers.is_empty() && next.is_none_or(|next| number + 1 == next) => {
                past.segments.push(SegmentInfo::new(&header, length));
            }
            _ => past.leftovers.push(Leftover { number, bytes: length }),
        }
        next = Some(number);
    }
    past.segments.reverse();
    past.leftovers.reverse();
    past.damaged.reverse();
    Ok(past)
}
