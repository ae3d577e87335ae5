//! How the table gets into a checkpoint that is made from memory: the checkpointer asks, the worker answers between its turns.
//!
//! - One request at a time, and an answer is bounded: requests of clients wait for a slice as they would for a small turn.
//! - The worker seals the log after the last slice; before the first one too where the segment that is being written is long, or not to be
//!   believed. What changed meanwhile is in the segments from the one on that was being written at the first slice; laid over the slices
//!   they give the table as of the last seal, whatever each slice had seen: of each record the last change in them counts, and what is not
//!   in them has not changed.
//! - An attempt that failed may leave a call behind, which the worker answers while the next attempt asks already. Calls are numbered,
//!   and an answer to any but the last one is dropped: taken for the first slice, it would be a table without its beginning.
//! - Whoever waits goes on when the other side ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvbroker_core::{Slice, State, StateRecord};
use kvbroker_log::{BaseRecords, BaseStep, CheckpointRecord, Log, LogError};

use super::shared::Checkpoints;
use crate::intake::Intake;

/// Bytes of a slice in memory: with small records this takes the worker about a millisecond.
const SLICE_BYTES: usize = 256 << 10;

/// How long to wait for the worker before looking again; it is woken as soon as there is an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the checkpointer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceCall {
    /// The last record key of the slice before; None: this is the first one.
    after: Option<Vec<u8>>,
    /// The log is sealed before this slice.
    seals: bool,
}

/// What the worker answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SliceAnswer {
    /// Records in ascending order of their keys.
    pub(crate) slice: Slice,
    /// The segment being written when the slice was taken. With the first slice: everything before this segment is in the slices.
    pub(crate) segment: u64,
}

#[derive(Default)]
struct Exchange {
    call: Option<SliceCall>,
    /// How many calls there were: the number of the last one.
    calls: u64,
    answer: Option<SliceAnswer>,
    closed: bool,
}

/// The place where they meet; shared by the worker and the checkpointer.
pub(crate) struct Slices {
    exchange: Mutex<Exchange>,
    answered: Condvar,
    /// True while a call waits: the worker looks here in each turn.
    is_asked: AtomicBool,
    /// True from the first call to the last answer: the log grows meanwhile, and all of that is to be laid over.
    is_under_way: AtomicBool,
    /// Wakes the worker.
    intake: Arc<Intake>,
}

impl Slices {
    /// For the worker of this intake.
    pub(crate) fn new(intake: Arc<Intake>) -> Slices {
        Slices {
            exchange: Mutex::default(),
            answered: Condvar::new(),
            is_asked: AtomicBool::new(false),
            is_under_way: AtomicBool::new(false),
            intake,
        }
    }

    /// A panic of another thread ends the process; until then the content is whole.
    fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while a checkpoint takes slices: it should not take long.
    pub(crate) fn are_under_way(&self) -> bool {
        self.is_under_way.load(Ordering::Relaxed)
    }

    /// Asks for the records behind a record key (None: the first ones); `seals`: the log is sealed before.
    fn ask(&self, after: Option<Vec<u8>>, seals: bool) {
        let mut exchange = self.lock();
        exchange.answer = None;
        exchange.call = Some(SliceCall { after, seals });
        exchange.calls += 1;
        drop(exchange);
        self.is_asked.store(true, Ordering::Release);
        self.intake.nudge();
    }

    /// Takes the answer, if it is there.
    fn take(&self) -> Option<SliceAnswer> {
        self.lock().answer.take()
    }

    /// Waits until the answer is there, nobody answers any more, or the time is over. False: nobody answers any more.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let exchange = self.lock();
        let nothing_yet = |exchange: &mut Exchange| exchange.answer.is_none() && !exchange.closed;
        let (exchange, _) =
            self.answered.wait_timeout_while(exchange, timeout, nothing_yet).unwrap_or_else(PoisonError::into_inner);
        !exchange.closed
    }

    /// Answers the call that waits, if one does.
    ///
    /// # Errors
    /// Sealing failed: the log is out of service.
    pub(crate) fn serve(&self, state: &State, log: &mut impl Log, open_segment: impl Fn() -> u64) -> Result<(), LogError> {
        if !self.is_asked.swap(false, Ordering::Acquire) {
            return Ok(());
        }
        let (call, number) = {
            let mut exchange = self.lock();
            (exchange.call.take(), exchange.calls)
        };
        let Some(SliceCall { after, seals }) = call else { return Ok(()) };
        if seals {
            log.seal()?;
        }
        let segment = open_segment();
        let slice = state.records_after(after.as_deref(), SLICE_BYTES);
        if slice.is_end {
            log.seal()?;
        }
        let mut exchange = self.lock();
        // A seal takes as long as the disk does. Who asked may have given up since, and another attempt begun.
        if exchange.calls == number {
            exchange.answer = Some(SliceAnswer { slice, segment });
            self.answered.notify_all();
        }
        Ok(())
    }

    /// No slices any more: whoever waits for one gets none.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.answered.notify_all();
    }
}

/// The table, slice by slice, for a checkpoint that is made from memory. While one slice is written, the worker is asked for the next.
pub(crate) struct MemoryBase {
    shared: Arc<Checkpoints>,
    /// Everything before this segment is in the slices.
    first_segment: u64,
    records: std::vec::IntoIter<StateRecord>,
    current: StateRecord,
    is_end: bool,
    /// What all of it has, about.
    bytes: Option<u64>,
}

/// What is under way ends with the base, however that ends.
impl Drop for MemoryBase {
    fn drop(&mut self) {
        self.shared.slices.is_under_way.store(false, Ordering::Relaxed);
    }
}

impl MemoryBase {
    /// Waits for the first slice; None at a stop. `seals`: the segment that is being written is to be none of those that are laid over.
    pub(crate) fn begin(shared: Arc<Checkpoints>, seals: bool) -> Option<MemoryBase> {
        shared.slices.ask(None, seals);
        let answer = loop {
            let is_open = shared.slices.wait(PATIENCE);
            match shared.slices.take() {
                Some(answer) => break answer,
                None if is_open => {}
                None => return None,
            }
        };
        let first_segment = answer.segment;
        let current = StateRecord { key: Vec::new(), value: Vec::new(), revision: 0 };
        shared.slices.is_under_way.store(true, Ordering::Relaxed);
        let bytes = shared.table_bytes();
        let mut base = MemoryBase { shared, first_segment, records: Vec::new().into_iter(), current, is_end: false, bytes };
        base.take_in(answer);
        Some(base)
    }

    /// Everything before this segment is in the slices.
    pub(crate) fn first_segment(&self) -> u64 {
        self.first_segment
    }

    fn take_in(&mut self, SliceAnswer { slice, .. }: SliceAnswer) {
        self.is_end = slice.is_end;
        if let Some(last) = slice.records.last().filter(|_| !self.is_end) {
            self.shared.slices.ask(Some(last.key.clone()), false);
        }
        self.records = slice.records.into_iter();
    }
}

impl BaseRecords for MemoryBase {
    fn advance(&mut self) -> BaseStep {
        loop {
            if let Some(record) = self.records.next() {
                self.current = record;
                return BaseStep::Record;
            }
            if self.is_end {
                return BaseStep::End;
            }
            match self.shared.slices.take() {
                Some(answer) => self.take_in(answer),
                None => return BaseStep::Pending,
            }
        }
    }

    fn current(&self) -> CheckpointRecord<'_> {
        let StateRecord { key, value, revision } = &self.current;
        CheckpointRecord { key, value, revision: *revision }
    }

    fn bytes(&self) -> Option<u64> {
        self.bytes
    }
}

#[cfg(test)]
#[path = "slices_tests.rs"]
mod tests;
