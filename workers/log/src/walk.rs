//! Reading segments without replaying them: for who copies the log and for who judges what is left of it.
//!
//! - The same rules as in a recovery: every header, chain and payload is checked, and a segment ends where the next one begins.
//! - Nothing is written, and what a stop means is for the caller to say.

use std::path::PathBuf;

use crate::error::LogError;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::reader::{Batch, BatchReader, Chain, Stop};
use crate::storage::StorageFile;

/// Where a walk ended.
#[derive(Clone, Debug)]
pub(crate) struct Walked {
    /// What a next batch would have to continue.
    pub chain: Chain,
    /// Behind the last batch that was read, bytes from the start of the file.
    pub end: u64,
    /// Why it ended there; `None`: at the limit.
    pub stop: Option<Stop>,
}

impl Walked {
    /// The beginning of a segment that continues `chain`.
    pub fn start(chain: Chain) -> Self {
        Self { chain, end: SEGMENT_HEADER_BYTES as u64, stop: None }
    }

    /// Reads on in the segment that `header` starts, up to the batch before `limit`, and gives every batch to `each`.
    ///
    /// # Errors
    /// When the disk can't be read, or what `each` says.
    pub fn walk(
        &mut self,
        file: &dyn StorageFile,
        header: &SegmentHeader,
        limit: Option<u64>,
        path: &dyn Fn() -> PathBuf,
        each: &mut dyn FnMut(&Batch<'_>) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let mut reader = BatchReader::new(file, header.salt, self.end, self.chain);
        self.stop = None;
        while limit.is_none_or(|limit| reader.chain().next_sequence < limit) {
            match reader.next().map_err(|source| LogError::io("read", path(), source))? {
                Ok(batch) => each(&batch)?,
                Err(stop) => {
                    self.stop = Some(stop);
                    break;
                }
            }
        }
        self.chain = reader.chain();
        self.end = reader.offset();
        Ok(())
    }

    /// The error of a walk that should have reached batch `limit`, where the next segment starts; the one of every walk that met
    /// what no torn write leaves.
    pub fn fault(&self, limit: Option<u64>, path: &dyn Fn() -> PathBuf) -> Option<LogError> {
        let what = match (&self.stop, limit) {
            (None, _) | (Some(Stop::Bad(_)), None) => return None,
            (Some(Stop::Bad(what)), Some(limit)) => {
                let sequence = self.chain.next_sequence;
                format!("{what}; it should be batch {sequence}, and the next segment starts at batch {limit}")
            }
            (Some(Stop::Malformed(what)), _) => format!("{what}, although its checksum is right"),
            (Some(Stop::Newer(found)), _) => {
                let (file, found) = (path(), found.clone());
                return Some(LogError::NewerFormat { file, found, supported: "none of that kind".to_owned() });
            }
        };
        Some(LogError::Damaged { file: path(), offset: self.end, what })
    }
}

/// Why the segment that `header` starts doesn't go on where the log stands; `None` if it does.
pub(crate) fn misfit(header: &SegmentHeader, chain: &Chain) -> Option<String> {
    let (first, next) = (header.first_sequence, chain.next_sequence);
    if first > next {
        return Some(format!("it starts at batch {first}, but the segments before it end with batch {}", next - 1));
    }
    let continues = first == next && header.base_revision == chain.last_revision && header.previous_crc == chain.previous_crc;
    (!continues).then(|| "it doesn't continue the segment before it".to_owned())
}
