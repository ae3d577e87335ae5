//! [`Merge`]: makes a checkpoint out of a base and sealed segments, a slice at a time.
//!
//! - External merge sort. Pieces of the segments are sorted in memory; if there is more than one, they go to run files, which are
//!   then merged with the base in the order of the keys. Of one key the newest record wins, and a delete leaves nothing.
//! - Memory is bounded by [`MergeOptions::memory_bytes`], the longest batch of the log and the longest record, however long the log is
//!   and however large the base.
//! - All state is in the value: no thread, no clock, no randomness of its own. The same input gives the same file.
//! - Every checksum of the input is checked on the way. Nothing but temporary files is written before the rename.
//!
//! Caveats: after an error a merge can only be dropped; its files go with [`super::remove_checkpoint_temporaries`]. One call of
//! [`Merge::advance`] may do more than it was asked for: a batch, the sorting of a piece and a sync are not divided.

use std::sync::Arc;

use super::format::RunRecord;
use super::input::SegmentInput;
use super::reader::CheckpointReader;
use super::runs::{Piece, READ_AHEAD_MAX, READ_AHEAD_MIN, Run, RunOutput, Source, Sources, fan_in};
use super::spool::{Spool, Spooled};
use super::terms::{Advance, BaseRecords, BaseStep, MergeBase, MergeError, MergeOptions, MergeState};
use super::writer::{CheckpointWriter, Finishing};
use super::{CheckpointRecord, CheckpointSummary};
use crate::error::LogError;
use crate::format::BATCH_HEADER_BYTES;
use crate::payload::{Groups, RecordRef};
use crate::reader::Chain;
use crate::storage::Storage;

/// A merge under way.
pub struct Merge {
    storage: Arc<dyn Storage>,
    options: MergeOptions,
    input: SegmentInput,
    end_segment: Option<u64>,
    base: Base,
    /// The run that the base is read from, if it is one.
    base_run: Option<Run>,
    /// Runs of the segments, from the oldest to the newest.
    runs: Vec<Run>,
    /// Runs of the next level, when there are too many for one merge.
    merged: Vec<Run>,
    next_run: u64,
    phase: Phase,
}

enum Base {
    Nothing,
    Checkpoint(Box<CheckpointReader>),
    /// Of records from elsewhere.
    Spooled(Spooled),
}

/// What is left of a batch that didn't fit into a piece.
struct Rest {
    payload: Vec<u8>,
    /// How many of its records were taken.
    taken: usize,
}

enum Phase {
    /// Records from elsewhere are put aside.
    Spool {
        records: Box<dyn BaseRecords>,
        spool: Spool,
    },
    /// Batches become a piece.
    Collect {
        piece: Piece,
        rest: Option<Rest>,
    },
    /// A sorted piece becomes a run.
    WriteRun {
        piece: Piece,
        next: usize,
        out: RunOutput,
        rest: Option<Rest>,
        is_last: bool,
    },
    /// Some runs become one.
    MergeRuns {
        sources: Sources,
        out: RunOutput,
        used: Vec<Run>,
    },
    /// Everything becomes the checkpoint.
    Write {
        sources: Sources,
        writer: Box<CheckpointWriter>,
    },
    Finish(Box<Finishing>),
    Done(CheckpointSummary),
    Failed,
}

impl Merge {
    /// Prepares a merge: of the segments from the base's first one on, up to the one that [`Merge::set_end`] names.
    ///
    /// # Errors
    /// When a run file can't be made.
    pub fn new(storage: Arc<dyn Storage>, base: MergeBase, options: MergeOptions) -> Result<Self, MergeError> {
        let segments = |first, chain, uuid| SegmentInput::new(storage.clone(), first, chain, uuid);
        let collect = Phase::Collect { piece: Piece::new(options.memory_bytes), rest: None };
        let mut next_run = 1;
        let (input, base, phase) = match base {
            MergeBase::Nothing => (segments(1, Some(Chain::START), None), Base::Nothing, collect),
            MergeBase::Checkpoint(reader) => {
                let covers = reader.covers();
                let input = segments(covers.next_segment, Some(covers.chain()), Some(covers.uuid));
                (input, Base::Checkpoint(reader), collect)
            }
            MergeBase::Records { records, first_segment } => {
                let spool = Spool::new(Arc::clone(&storage), next_run, options.memory_bytes / 2, options);
                next_run += 1;
                (segments(first_segment, None, None), Base::Nothing, Phase::Spool { records, spool })
            }
        };
        let (runs, merged) = (Vec::new(), Vec::new());
        Ok(Self { storage, options, input, end_segment: None, base, base_run: None, runs, merged, next_run, phase })
    }

    /// Names the first segment that the checkpoint will not cover. It exists, and all before it are sealed.
    pub fn set_end(&mut self, segment: u64) {
        self.end_segment = Some(segment);
    }

    /// True once all records of [`MergeBase::Records`] were taken, and for other bases: the end may be named.
    pub fn has_base(&self) -> bool {
        !matches!(self.phase, Phase::Spool { .. })
    }

    /// The checkpoint, once the merge is done.
    pub fn done(&self) -> Option<&CheckpointSummary> {
        match &self.phase {
            Phase::Done(summary) => Some(summary),
            _ => None,
        }
    }

    /// True while it may write more than it has written.
    pub(crate) fn needs_room(&self) -> bool {
        !matches!(self.phase, Phase::Finish(_) | Phase::Done(_) | Phase::Failed)
    }

    /// Reads and writes about `bytes` bytes.
    ///
    /// # Errors
    /// See [`MergeError`]. After one the merge fails for good.
    pub fn advance(&mut self, bytes: u64) -> Result<Advance, MergeError> {
        let mut worked = 0;
        while worked < bytes.max(1) {
            let phase = std::mem::replace(&mut self.phase, Phase::Failed);
            let (step, phase) = self.step(phase)?;
            self.phase = phase;
            match step {
                Step::Worked(more) => worked += more,
                Step::Waiting => return Ok(Advance { bytes: worked, state: MergeState::Waiting }),
            }
            if self.done().is_some() {
                return Ok(Advance { bytes: worked, state: MergeState::Done });
            }
        }
        Ok(Advance { bytes: worked, state: MergeState::Working })
    }

    fn step(&mut self, phase: Phase) -> Result<(Step, Phase), MergeError> {
        match phase {
            Phase::Spool { records, spool } => self.spool(records, spool),
            Phase::Collect { piece, rest } => self.collect(piece, rest),
            Phase::WriteRun { piece, next, out, rest, is_last } => self.write_run(piece, next, out, rest, is_last),
            Phase::MergeRuns { sources, out, used } => self.merge_runs(sources, out, used),
            Phase::Write { sources, writer } => self.write(sources, writer),
            Phase::Finish(finishing) => Self::finish(finishing),
            Phase::Done(summary) => Ok((Step::Worked(0), Phase::Done(summary))),
            Phase::Failed => Err(MergeError::Output(LogError::OutOfService("the merge failed before".to_owned()))),
        }
    }

    fn spool(&mut self, mut records: Box<dyn BaseRecords>, mut spool: Spool) -> Result<(Step, Phase), MergeError> {
        let begun = spool.bytes();
        while spool.bytes() - begun < READ_AHEAD_MIN as u64 {
            match records.advance() {
                BaseStep::Record => {
                    let CheckpointRecord { key, value, revision } = records.current();
                    spool.put(RunRecord { key, value: Some(value), revision }).map_err(MergeError::Output)?;
                }
                BaseStep::Pending => return Ok((Step::Waiting, Phase::Spool { records, spool })),
                BaseStep::End => {
                    self.base = Base::Spooled(spool.finish().map_err(MergeError::Output)?);
                    return Ok((Step::Worked(1), self.collect_next(None)));
                }
            }
        }
        Ok((Step::Worked(spool.bytes() - begun), Phase::Spool { records, spool }))
    }

    /// Memory for what stands beside the base.
    fn memory_bytes(&self) -> usize {
        let base_bytes = match &self.base {
            Base::Spooled(spooled) => spooled.memory_bytes(),
            _ => 0,
        };
        self.options.memory_bytes.saturating_sub(base_bytes)
    }

    fn collect_next(&self, rest: Option<Rest>) -> Phase {
        Phase::Collect { piece: Piece::new(self.memory_bytes()), rest }
    }

    fn collect(&mut self, mut piece: Piece, rest: Option<Rest>) -> Result<(Step, Phase), MergeError> {
        let Some(end) = self.end_segment else { return Ok((Step::Waiting, Phase::Collect { piece, rest })) };
        if let Some(rest) = rest {
            return match take(&mut piece, &rest.payload, rest.taken) {
                None => Ok((Step::Worked(0), Phase::Collect { piece, rest: None })),
                Some(taken) => self.begin_run(piece, Some(Rest { taken, ..rest }), false),
            };
        }
        let (bytes, left) = match self.input.next(end).map_err(MergeError::Input)? {
            Some(batch) => {
                let payload = &batch.bytes[BATCH_HEADER_BYTES..];
                let left = take(&mut piece, payload, 0).map(|taken| Rest { payload: payload.to_vec(), taken });
                (batch.bytes.len() as u64, left)
            }
            None if self.runs.is_empty() || piece.is_empty() => return self.merge(piece),
            None => return self.begin_run(piece, None, true),
        };
        if left.is_some() {
            let (_, phase) = self.begin_run(piece, left, false)?;
            return Ok((Step::Worked(bytes), phase));
        }
        Ok((Step::Worked(bytes), Phase::Collect { piece, rest: None }))
    }

    fn begin_run(&mut self, mut piece: Piece, rest: Option<Rest>, is_last: bool) -> Result<(Step, Phase), MergeError> {
        piece.sort();
        let out = self.create_run()?;
        Ok((Step::Worked(0), Phase::WriteRun { piece, next: 0, out, rest, is_last }))
    }

    fn create_run(&mut self) -> Result<RunOutput, MergeError> {
        let number = self.next_run;
        self.next_run += 1;
        RunOutput::create(&self.storage, number, self.options.salt, self.options.piece_bytes).map_err(MergeError::Output)
    }

    fn write_run(
        &mut self,
        piece: Piece,
        mut next: usize,
        mut out: RunOutput,
        rest: Option<Rest>,
        is_last: bool,
    ) -> Result<(Step, Phase), MergeError> {
        let begun = out.bytes();
        while out.bytes() == begun {
            let Some(record) = piece.get(next) else {
                self.runs.push(out.finish().map_err(MergeError::Output)?);
                // Given back whole: another piece may need its room otherwise divided.
                drop(piece);
                let phase = if is_last { self.merge(Piece::new(0))?.1 } else { self.collect_next(rest) };
                return Ok((Step::Worked(1), phase));
            };
            out.put(record).map_err(MergeError::Output)?;
            next += 1;
        }
        Ok((Step::Worked(out.bytes() - begun), Phase::WriteRun { piece, next, out, rest, is_last }))
    }

    /// All segments were read: what is left is to merge the runs, or the only piece, with the base.
    fn merge(&mut self, mut piece: Piece) -> Result<(Step, Phase), MergeError> {
        let memory_bytes = self.memory_bytes();
        if self.runs.is_empty() && self.merged.is_empty() {
            piece.sort();
            return self.begin_write(vec![Source::Memory(piece, 0)]);
        }
        // Its room is needed for reading.
        drop(piece);
        if self.merged.is_empty() && fan_in(&self.runs, memory_bytes) == self.runs.len() {
            let sources = self.open_runs(&self.runs)?;
            return self.begin_write(sources);
        }
        if self.runs.len() <= 1 {
            // The end of a level; a run that is left over stays what it is.
            let mut level = std::mem::take(&mut self.merged);
            level.append(&mut self.runs);
            self.runs = level;
            return self.merge(Piece::new(0));
        }
        let count = fan_in(&self.runs, memory_bytes);
        let used: Vec<Run> = self.runs.drain(..count).collect();
        let sources = Sources::new(self.open_runs(&used)?)?;
        let out = self.create_run()?;
        Ok((Step::Worked(0), Phase::MergeRuns { sources, out, used }))
    }

    fn open_runs(&self, runs: &[Run]) -> Result<Vec<Source>, MergeError> {
        let read_ahead = (self.memory_bytes() / runs.len().max(1)).clamp(READ_AHEAD_MIN, READ_AHEAD_MAX);
        runs.iter().map(|run| run.open(&*self.storage, read_ahead)).collect()
    }

    fn merge_runs(&mut self, mut sources: Sources, mut out: RunOutput, used: Vec<Run>) -> Result<(Step, Phase), MergeError> {
        let begun = out.bytes();
        let mut read = 0;
        while out.bytes() == begun {
            let Some(record) = sources.current() else {
                self.merged.push(out.finish().map_err(MergeError::Output)?);
                drop(sources);
                self.remove(&used)?;
                let (_, phase) = self.merge(Piece::new(0))?;
                return Ok((Step::Worked(read + 1), phase));
            };
            out.put(record).map_err(MergeError::Output)?;
            read += sources.advance()?;
        }
        Ok((Step::Worked(read + out.bytes() - begun), Phase::MergeRuns { sources, out, used }))
    }

    fn begin_write(&mut self, newer: Vec<Source>) -> Result<(Step, Phase), MergeError> {
        let base = match std::mem::replace(&mut self.base, Base::Nothing) {
            Base::Nothing => None,
            Base::Checkpoint(reader) => Some(Source::Checkpoint(reader.into_cursor())),
            Base::Spooled(spooled) => {
                let (source, run) = spooled.open(&*self.storage)?;
                self.base_run = run;
                Some(source)
            }
        };
        let sources = Sources::new(base.into_iter().chain(newer).collect())?;
        let writer = CheckpointWriter::create(self.storage.clone(), self.options.salt, self.options.piece_bytes)
            .map_err(MergeError::Output)?;
        Ok((Step::Worked(0), Phase::Write { sources, writer: Box::new(writer) }))
    }

    fn write(&mut self, mut sources: Sources, mut writer: Box<CheckpointWriter>) -> Result<(Step, Phase), MergeError> {
        let begun = writer.bytes();
        let mut read = 0;
        // Deletes give no output, so the input counts as well.
        while writer.bytes() == begun && read < READ_AHEAD_MIN as u64 {
            let Some(RunRecord { key, value, revision }) = sources.current() else {
                drop(sources);
                let end = self.end_segment.expect("nothing was collected without an end");
                let covers = self.input.covers(end).map_err(MergeError::Input)?;
                let used = std::mem::take(&mut self.runs);
                self.remove(&used)?;
                if let Some(run) = self.base_run.take() {
                    self.remove(&[run])?;
                }
                return Ok((Step::Worked(read + 1), Phase::Finish(Box::new(writer.finish(covers)))));
            };
            if let Some(value) = value {
                writer.put(CheckpointRecord { key, value, revision }).map_err(MergeError::Output)?;
            }
            read += sources.advance()?;
        }
        Ok((Step::Worked(read + writer.bytes() - begun), Phase::Write { sources, writer }))
    }

    fn remove(&self, runs: &[Run]) -> Result<(), MergeError> {
        for run in runs {
            let failed = |source| MergeError::Output(LogError::io("remove", self.storage.path(&run.name), source));
            self.storage.remove(&run.name).map_err(failed)?;
        }
        Ok(())
    }

    fn finish(mut finishing: Box<Finishing>) -> Result<(Step, Phase), MergeError> {
        let bytes = finishing.advance(READ_AHEAD_MAX as u64).map_err(MergeError::Output)?;
        Ok(match finishing.done() {
            Some(summary) => (Step::Worked(bytes), Phase::Done(*summary)),
            // A step that moves no byte still counts as some work, so that each call ends.
            None => (Step::Worked(bytes.max(1)), Phase::Finish(finishing)),
        })
    }
}

enum Step {
    Worked(u64),
    Waiting,
}

/// Puts the records of a batch's groups into `piece`, without the first `taken`. `Some` if it is full: how many were taken.
fn take(piece: &mut Piece, payload: &[u8], taken: usize) -> Option<usize> {
    let records = Groups::new(payload, 0).flat_map(|group| group.records().map(move |record| (record, group.revision)));
    for (index, (record, revision)) in records.enumerate().skip(taken) {
        let (key, value) = match record {
            RecordRef::Put { key, value } => (key, Some(value)),
            RecordRef::Delete { key } => (key, None),
        };
        if !piece.add(key, value, revision) {
            return Some(index);
        }
    }
    None
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
