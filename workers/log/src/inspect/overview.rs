//! A quick look: headers, the end of the checkpoint, and the segment that was written last. Everything else is not read.

use std::ops::ControlFlow;

use crate::checkpoint::end::EndBlock;
use crate::checkpoint::{CHECKPOINT_FILE, CheckpointReader, Covers};
use crate::error::LogError;
use crate::inspect::facts::SegmentFacts;
use crate::inspect::files::DataFile;
use crate::inspect::segment::{SegmentRead, read_segment};
use crate::mark::read_mark;
use crate::storage::Storage;

/// A checkpoint's header and, if its end is whole, its totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFacts {
    /// What it holds.
    pub covers: Covers,
    /// Length of the file, bytes.
    pub bytes: u64,
    /// Records, bytes of all records, digest; `None` if the end block can't be read.
    pub totals: Option<(u64, u64, u64)>,
}

/// What is in a data directory at a glance.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// The checkpoint, if there is one that can be read.
    pub checkpoint: Option<CheckpointFacts>,
    /// Segments whose header can be read, ascending.
    pub segments: Vec<SegmentFacts>,
    /// The last of them, read to its end.
    pub last: Option<SegmentRead>,
    /// True if something in the last segment can't be read.
    pub last_is_damaged: bool,
    /// The batch that the mark says is synced.
    pub marked_sequence: Option<u64>,
    /// What could not be read.
    pub troubles: Vec<String>,
}

impl Overview {
    /// Looks at the files of `storage`, listed before.
    pub fn of(storage: &dyn Storage, files: &[DataFile]) -> Self {
        let mut overview = Self::default();
        match read_mark(storage) {
            Ok(mark) => overview.marked_sequence = mark.map(|mark| mark.sequence),
            Err(error) => overview.troubles.push(error.to_string()),
        }
        match checkpoint_facts(storage) {
            Ok(facts) => overview.checkpoint = facts,
            Err(error) => overview.troubles.push(error.to_string()),
        }
        for number in files.iter().filter_map(DataFile::number) {
            match SegmentFacts::read(storage, number) {
                Ok(facts) => overview.segments.push(facts),
                // A broker that runs removed it since it was listed.
                Err(LogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => overview.troubles.push(error.to_string()),
            }
        }
        if let Some(last) = overview.segments.last() {
            let read = read_segment(storage, last.number, None, &mut |_| ControlFlow::Continue(()));
            match read {
                Ok(read) => {
                    overview.last_is_damaged = read.damages > 0;
                    overview.last = Some(read);
                }
                Err(error) => overview.troubles.push(error.to_string()),
            }
        }
        overview
    }

    /// The first segment that the checkpoint does not cover.
    pub fn first_behind(&self) -> u64 {
        self.checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.covers.next_segment)
    }

    /// Last revision and highest stamp (wall-clock ms) that are known.
    pub fn reached(&self) -> (u64, u64) {
        let checkpoint = self.checkpoint.as_ref().map(|checkpoint| (checkpoint.covers.revision, checkpoint.covers.stamp_ms));
        self.last.as_ref().map(|last| (last.last_revision, last.last_stamp_ms)).or(checkpoint).unwrap_or_default()
    }
}

/// The checkpoint's header and totals, without reading its records.
fn checkpoint_facts(storage: &dyn Storage) -> Result<Option<CheckpointFacts>, LogError> {
    let Some(reader) = CheckpointReader::open_if_there(storage, CHECKPOINT_FILE)? else { return Ok(None) };
    let failed = |source| LogError::io("read", storage.path(CHECKPOINT_FILE), source);
    let file = storage.open(CHECKPOINT_FILE).map_err(failed)?;
    let bytes = file.length().map_err(failed)?;
    let end = EndBlock::find(&*file).map_err(failed)?;
    let end = end.filter(|found| found.salt() == reader.header().salt && found.end.covers == *reader.covers());
    let totals = end.map(|found| (found.end.totals.records, found.end.totals.bytes, found.end.totals.digest));
    Ok(Some(CheckpointFacts { covers: *reader.covers(), bytes, totals }))
}
