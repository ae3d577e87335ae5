//! [`Segments`]: what a log in service consists of, shared between the log, who makes checkpoints, and who waits for either.
//!
//! - The log writes it: growth with every batch, and each new segment. The maker of checkpoints writes it: each checkpoint after it was
//!   published, each segment after it was removed.
//! - Segments are numbered without a gap; the last one is being written, all others are sealed and never change again.
//! - The lock is held for a few instructions only: never during I/O.
//!
//! Caveat: it tells what the files were when it was written. A segment may be gone when a reader opens it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::format::SegmentHeader;

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Sequence of its first batch.
    pub first_sequence: u64,
    /// Last revision before it.
    pub base_revision: u64,
    /// Highest stamp before it, wall-clock ms.
    pub stamp_ms: u64,
    /// Its header and batches, bytes.
    pub bytes: u64,
}

impl SegmentInfo {
    pub(crate) fn new(header: &SegmentHeader, bytes: u64) -> Self {
        Self {
            number: header.number,
            first_sequence: header.first_sequence,
            base_revision: header.base_revision,
            stamp_ms: header.stamp_ms,
            bytes,
        }
    }
}

/// A segment before all of use: it was removed once, or can't be read. See `docs/storage.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its number.
    pub number: u64,
    /// Length of its file.
    pub bytes: u64,
}

/// The checkpoint in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// The first segment that it doesn't cover.
    pub next_segment: u64,
    /// The last revision that it covers.
    pub revision: u64,
    /// The highest stamp that it covers, wall-clock ms.
    pub stamp_ms: u64,
    /// Its records.
    pub records: u64,
    /// Length of its file, bytes.
    pub bytes: u64,
}

/// History that was removed before its time, because the disk had too little room: since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// Segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The checkpoint and segments of a log in service.
#[derive(Debug)]
pub struct Segments {
    segment_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    checkpoint: Option<CheckpointInfo>,
    /// Older than all segments of use.
    leftovers: VecDeque<Leftover>,
    /// Never empty while the log is in service.
    segments: VecDeque<SegmentInfo>,
    /// Bytes of the segments that the checkpoint doesn't cover.
    log_bytes: u64,
    /// Bytes of those that it covers.
    history_bytes: u64,
    given_up: GivenUp,
    /// Counts seals, publications and calls of [`Segments::wake`].
    changes: u64,
}

impl State {
    fn first_behind(&self) -> u64 {
        self.checkpoint.map_or(0, |checkpoint| checkpoint.next_segment)
    }

    fn count(&mut self) {
        let first = self.first_behind();
        let sum = |behind: bool| {
            self.segments.iter().filter(|segment| (segment.number >= first) == behind).map(|segment| segment.bytes).sum()
        };
        let leftover: u64 = self.leftovers.iter().map(|leftover| leftover.bytes).sum();
        (self.log_bytes, self.history_bytes) = (sum(true), sum(false) + leftover);
    }
}

impl Segments {
    pub(crate) fn new(
        segment_bytes: u64,
        checkpoint: Option<CheckpointInfo>,
        leftovers: Vec<Leftover>,
        segments: Vec<SegmentInfo>,
    ) -> Self {
        let mut state = State { checkpoint, leftovers: leftovers.into(), segments: segments.into(), ..State::default() };
        state.count();
        Self { segment_bytes, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size at which segments are sealed, bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The checkpoint in force, if there is one.
    pub fn checkpoint(&self) -> Option<CheckpointInfo> {
        self.state().checkpoint
    }

    /// Files of segments that are of no use any more, ascending. They go first.
    pub fn leftovers(&self) -> Vec<Leftover> {
        self.state().leftovers.iter().copied().collect()
    }

    /// All segments of use, ascending. The last one is being written.
    pub fn list(&self) -> Vec<SegmentInfo> {
        self.state().segments.iter().copied().collect()
    }

    /// The oldest revision that the segments of use hold; the next one if they hold none.
    pub fn oldest_revision(&self) -> u64 {
        self.state().segments.front().map_or(0, |segment| segment.base_revision) + 1
    }

    /// Number of the segment that is being written.
    pub fn open_segment(&self) -> u64 {
        self.state().segments.back().map_or(0, |segment| segment.number)
    }

    /// Bytes of log that the checkpoint doesn't cover: what a start reads besides it.
    pub fn log_bytes(&self) -> u64 {
        self.state().log_bytes
    }

    /// The sealed part of [`Segments::log_bytes`]: what the next checkpoint can take in.
    pub fn sealed_bytes(&self) -> u64 {
        let state = self.state();
        state.log_bytes - state.segments.back().map_or(0, |segment| segment.bytes)
    }

    /// Bytes of the segments that the checkpoint covers: history, and leftovers.
    pub fn history_bytes(&self) -> u64 {
        self.state().history_bytes
    }

    /// History that had to go early.
    pub fn given_up(&self) -> GivenUp {
        self.state().given_up
    }

    /// Counts what [`Segments::wait`] waits for.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Waits until a segment was sealed, a checkpoint published or [`Segments::wake`] called since `seen`, or until `timeout`. Gives
    /// what [`Segments::changes`] is then.
    pub fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let state = self.state();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, timeout, |state| state.changes == seen)
            .unwrap_or_else(PoisonError::into_inner);
        state.changes
    }

    /// Ends every [`Segments::wait`]: at a stop, say.
    pub fn wake(&self) {
        self.change(|_| {});
    }

    /// The segment being written is now so long.
    pub(crate) fn grew(&self, bytes: u64) {
        let mut state = self.state();
        if let Some(last) = state.segments.back_mut() {
            let more = bytes.saturating_sub(last.bytes);
            last.bytes = bytes;
            // The segment being written is never covered.
            state.log_bytes += more;
        }
    }

    /// The segment being written was sealed, and `next` was begun.
    pub(crate) fn sealed(&self, next: SegmentInfo) {
        self.change(|state| {
            state.segments.push_back(next);
            state.count();
        });
    }

    /// A new checkpoint is in force.
    pub(crate) fn published(&self, checkpoint: CheckpointInfo) {
        self.change(|state| {
            state.checkpoint = Some(checkpoint);
            state.count();
        });
    }

    /// The oldest segment was removed; `given_up` are its bytes if that was before its time.
    pub(crate) fn removed(&self, number: u64, given_up: Option<u64>) {
        let mut state = self.state();
        if let Some(bytes) = given_up {
            state.given_up.segments += 1;
            state.given_up.bytes += bytes;
        }
        state.segments.retain(|segment| segment.number != number);
        state.leftovers.retain(|leftover| leftover.number != number);
        state.count();
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.changes += 1;
        drop(state);
        self.changed.notify_all();
    }
}
