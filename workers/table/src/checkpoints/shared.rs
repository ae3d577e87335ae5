//! [`Checkpoints`]: what the worker, the checkpointer and `stats` share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvbroker_core::State;
use kvbroker_log::{CheckpointPolicy, Log, LogError, Segments};
use kvbroker_protocol::{Failure, limits};

use super::pace::Behind;
use super::slices::Slices;
use crate::intake::Intake;

/// What the checkpointer is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing is due.
    #[default]
    Nothing,
    /// A checkpoint is being made from the one before and the log.
    Merging,
    /// A checkpoint is being made from the table, because that is small beside the log, or the files can't be read.
    FromMemory,
    /// The last attempt failed; this is why, and it will be tried again.
    Failing(String),
}

/// For [`Checkpoints::table_bytes`].
const UNKNOWN: u64 = u64::MAX;
/// What a record has in a checkpoint beside its key and value, about.
const RECORD_BYTES: u64 = 17;
/// The table is small if it is not more than this part of the log that would be merged: its slices cost the worker some time, and the merge
/// would read, sort and write all of the log beside it.
const SMALL_PART: u64 = 2;
/// Log up to this is laid over sooner than a segment is sealed for it. Bytes.
const SEAL_WORTH: u64 = 4 << 20;

/// How things stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) doing: Doing,
    /// Of the checkpoint that is being made.
    pub(crate) percent: u64,
    /// Published since the start.
    pub(crate) made: u64,
    /// Attempts that failed since the start.
    pub(crate) failures: u64,
    /// How long the last one took that was published since the start.
    pub(crate) last_ms: u64,
    /// What could not be read back since the start, if anything.
    pub(crate) damage: Option<String>,
}

/// What the worker, the checkpointer and `stats` share.
pub struct Checkpoints {
    behind: Box<dyn Fn() -> Behind + Send + Sync>,
    segments: Option<Arc<Segments>>,
    pub(crate) slices: Slices,
    /// About what a checkpoint of the table would have; [`UNKNOWN`] before the worker said it.
    table_bytes: AtomicU64,
    standing: Mutex<Standing>,
    stopping: AtomicBool,
}

impl Checkpoints {
    /// For the log of these segments.
    pub fn new(intake: Arc<Intake>, segments: Arc<Segments>, policy: CheckpointPolicy) -> Checkpoints {
        let measured = Arc::clone(&segments);
        Checkpoints::over(intake, Some(segments), move || Behind {
            bytes: measured.log_bytes(),
            sealed_bytes: measured.sealed_bytes(),
            due_bytes: policy.due_bytes(&measured),
            bytes_max: policy.log_bytes_max(&measured),
        })
    }

    /// For a log of these segments. `behind` says how long it is.
    pub(crate) fn over(
        intake: Arc<Intake>,
        segments: Option<Arc<Segments>>,
        behind: impl Fn() -> Behind + Send + Sync + 'static,
    ) -> Checkpoints {
        Checkpoints {
            behind: Box::new(behind),
            segments,
            slices: Slices::new(intake),
            table_bytes: AtomicU64::new(UNKNOWN),
            standing: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// For a log that makes no checkpoints and is so long behind the one that it does not have; tests say how long.
    pub fn none(intake: Arc<Intake>, behind: impl Fn() -> Behind + Send + Sync + 'static) -> Checkpoints {
        Checkpoints::over(intake, None, behind)
    }

    /// What the log consists of.
    pub(crate) fn segments(&self) -> Option<&Segments> {
        self.segments.as_deref()
    }

    /// A panic of another thread ends the process; until then the content is whole.
    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the log behind the checkpoint is.
    pub fn behind(&self) -> Behind {
        (self.behind)()
    }

    /// Why mutations are refused now; to be asked while [`Behind::is_too_long`].
    pub(crate) fn busy(&self, behind: Behind) -> Failure {
        let why = match &self.standing().doing {
            Doing::Failing(why) => format!("no checkpoint could be made ({why})"),
            _ => "the checkpoint is being made".to_owned(),
        };
        let message = format!(
            "the log is {} MiB ahead of its checkpoint, more than the {} MiB that it may be: {why}; try again later",
            behind.bytes >> 20,
            behind.bytes_max >> 20
        );
        Failure::busy(message, limits::RETRY_AFTER_MS)
    }

    /// The checkpointer begins.
    pub(crate) fn begins(&self, doing: Doing) {
        let mut standing = self.standing();
        standing.doing = doing;
        standing.percent = 0;
    }

    /// A checkpoint is published.
    pub(crate) fn made(&self, took_ms: u64) {
        let mut standing = self.standing();
        standing.doing = Doing::Nothing;
        standing.made += 1;
        standing.last_ms = took_ms;
    }

    /// An attempt, or trimming the history, failed.
    pub(crate) fn failed(&self, why: &dyn std::fmt::Display, is_damage: bool) {
        let mut standing = self.standing();
        standing.doing = Doing::Failing(why.to_string());
        standing.failures += 1;
        if is_damage {
            standing.damage = Some(why.to_string());
        }
    }

    /// About what a checkpoint of the table would have in bytes, as the worker said last.
    pub(crate) fn table_bytes(&self) -> Option<u64> {
        Some(self.table_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }

    /// True if a checkpoint is cheaper made of the table than of the log.
    pub(crate) fn is_table_small(&self) -> bool {
        self.table_bytes().is_some_and(|bytes| bytes < self.behind().sealed_bytes / SMALL_PART)
    }

    /// True if so much of the log is in the segment that is being written that this is better sealed before the first slice.
    pub(crate) fn is_seal_worth(&self) -> bool {
        let Behind { bytes, sealed_bytes, .. } = self.behind();
        bytes.saturating_sub(sealed_bytes) > SEAL_WORTH
    }

    /// Between two turns of the worker: answers the checkpointer if it waits for a slice of the table.
    pub(crate) fn serve(&self, state: &State, log: &mut impl Log) -> Result<(), LogError> {
        let records = (state.keys() + state.queue_items()) as u64;
        let bytes = state.bytes() + state.remembered_bytes() as u64 + state.queue_bytes() + RECORD_BYTES * records;
        self.table_bytes.store(bytes, Ordering::Relaxed);
        self.slices.serve(state, log, || self.segments.as_ref().map_or(0, |segments| segments.open_segment()))
    }

    /// Ends the checkpointer: what it is making is dropped.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.slices.close();
        if let Some(segments) = &self.segments {
            segments.wake();
        }
    }

    /// True once [`Checkpoints::stop`] was called.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
