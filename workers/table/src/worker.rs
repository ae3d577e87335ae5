//! The worker's loop. All meaning is in the core; this file moves calls, batches and proofs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker_core::{Change, Decision, Space, Stamp, State, Turn, decide, split_table_record};
use kvbroker_log::{BatchBuilder, Cause, Log, LogError, Persisted, SessionRef};
use kvbroker_protocol::{Answer, ErrorCode, Failure, Operation, Operations, Outcome, Outcomes, Reply, SessionId, Stored, limits};

use crate::call::{Call, ClientId};
use crate::clock::Clock;
use crate::facts::Facts;
use crate::intake::{Collected, Intake};
use crate::outbox::Outbox;
use crate::released::{Event, EventKind, Released, ReplyOut};
use crate::sizes::{EVENTS_OVERHEAD_BYTES, event_bytes, reply_bytes};
use crate::stamper::Stamper;
use crate::trace::Trace;

/// Counters of the worker, readable by other threads.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Batches of calls, those without changes included.
    pub batches: AtomicU64,
    /// Operations decided.
    pub operations: AtomicU64,
    /// Panics while deciding, answered `internal`.
    pub internal_errors: AtomicU64,
}

/// Why the worker ended.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The log failed: nothing more may be acknowledged and the process must end.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The worker: owns the state and the log.
pub struct Worker<L> {
    /// What the table knows.
    pub state: State,
    /// The log.
    pub log: L,
    /// The time.
    pub clock: Box<dyn Clock>,
    /// Makes stamps of it.
    pub stamper: Stamper,
    /// Where calls come from.
    pub intake: Arc<Intake>,
    /// Where replies go.
    pub replies: Arc<Outbox<Vec<ReplyOut>>>,
    /// Where events go: with the last revision of each batch.
    pub events: Arc<Outbox<(Vec<Event>, u64)>>,
    /// False while nobody subscribes: events are then not built.
    pub events_wanted: Arc<AtomicBool>,
    /// Batches of events dropped because the publisher was behind.
    pub events_dropped: Arc<AtomicU64>,
    /// Counters.
    pub counters: Arc<WorkerCounters>,
    /// For Hello and stats.
    pub facts: Facts,
    /// With interval syncs: the interval.
    pub sync_interval: Option<Duration>,
    /// Random bits for session ids.
    pub entropy: Box<dyn Fn() -> u64 + Send>,
}

/// How long without calls until a marker vouches for the last batch.
const IDLE: Duration = Duration::from_secs(1);
// A batch is flushed once it is this large; one more message of the largest size, each of its operations a record, must still fit.
const _: () = assert!(
    limits::BATCH_BYTES_MAX + limits::MESSAGE_BYTES_MAX + limits::ARRAY_OPERATIONS_MAX * 128 <= kvbroker_log::MAX_BATCH_BYTES,
    "the log takes every batch that the worker makes"
);
/// No interval of syncs makes the worker spin.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// What a batch will say once it is durable.
#[derive(Default)]
struct Saying {
    replies: Vec<ReplyOut>,
    /// Rough bytes of the replies in memory.
    reply_bytes: usize,
    events: Vec<Event>,
    /// Keys that its scans and queries examined, and their work.
    examined: usize,
    work: usize,
}

impl Saying {
    /// What fits into a batch of requests may ask for far more than a batch of replies: a few bytes for a value of megabytes, or for
    /// ten thousand keys to be looked at. Whoever came before should not wait for all of it.
    fn is_enough(&self) -> bool {
        self.reply_bytes >= limits::BATCH_BYTES_MAX
            || self.examined >= limits::EXAMINED_KEYS_MAX
            || self.work >= limits::TURN_WORK_MAX
    }

    fn count(&mut self, turn: &Turn) {
        self.examined += limits::EXAMINED_KEYS_MAX - turn.examined_left;
        self.work += limits::TURN_WORK_MAX - turn.work_left;
    }
}

impl<L: Log> Worker<L> {
    /// Runs until the intake is closed and empty; then the log is closed cleanly.
    ///
    /// # Errors
    /// [`Stopped`] if the log failed. Nothing of the failed batch was released.
    pub fn run(mut self) -> Result<(), Stopped> {
        let mut batch = BatchBuilder::new();
        let mut calls = Vec::new();
        let mut last_append = Instant::now();
        let wait = self.sync_interval.map_or(IDLE, |interval| (interval / 2).clamp(WAIT_MIN, IDLE));
        loop {
            match self.intake.collect(&mut calls, wait) {
                Collected::Calls => {
                    if self.turn(&mut calls, &mut batch)? {
                        last_append = Instant::now();
                    }
                }
                Collected::Idle => {}
                Collected::Closed => break,
            }
            // Not only when no call came: somebody may read all the time, and the last write still wants a voucher.
            if last_append.elapsed() >= IDLE && self.log.needs_marker() {
                let stamp_ms = self.stamp_ms();
                self.log.mark(stamp_ms)?;
            }
            if self.sync_interval.is_some() {
                self.log.tick(self.clock.now().boot_us / 1_000)?;
            }
        }
        let stamp_ms = self.stamp_ms();
        self.log.close(stamp_ms)?;
        Ok(())
    }

    fn stamp_ms(&mut self) -> u64 {
        self.stamper.stamp_ms(self.clock.now())
    }

    /// Decides, applies, logs and releases one batch of calls; true if something was appended to the log.
    fn turn(&mut self, calls: &mut Vec<Call>, batch: &mut BatchBuilder) -> Result<bool, Stopped> {
        let time_ms = self.stamp_ms();
        batch.begin(time_ms);
        let mut appended = false;
        let mut saying = Saying::default();
        tracing::debug!(calls = calls.len(), "collected a batch");
        for call in calls.drain(..) {
            let reply = self.answer(call, time_ms, batch, &mut saying);
            saying.reply_bytes += reply_bytes(&reply);
            saying.replies.push(reply);
            if batch.bytes() >= limits::BATCH_BYTES_MAX || saying.is_enough() {
                appended |= self.persist(std::mem::take(&mut saying), batch)?;
                batch.begin(time_ms);
            }
        }
        if !saying.replies.is_empty() {
            appended |= self.persist(saying, batch)?;
        }
        Ok(appended)
    }

    /// Makes the batch durable and releases what it says; without changes the log's present proof is enough. True if there were some.
    fn persist(&mut self, saying: Saying, batch: &mut BatchBuilder) -> Result<bool, Stopped> {
        let appends = !batch.is_empty();
        let proof: Persisted = if appends { self.log.append(batch)? } else { self.log.persisted() };
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.release(Released::new(&proof, self.state.revision(), saying.replies, saying.events), saying.reply_bytes);
        Ok(appends)
    }

    fn release(&self, released: Released, reply_bytes: usize) {
        let (replies, events, revision) = released.into_parts();
        self.replies.push(replies, reply_bytes);
        // Also without events: the heartbeat tells the last published revision.
        let tells = !events.is_empty();
        let event_bytes = EVENTS_OVERHEAD_BYTES + events.iter().map(event_bytes).sum::<usize>();
        if !self.events.try_push((events, revision), event_bytes) && tells {
            self.events_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn answer(&mut self, call: Call, time_ms: u64, batch: &mut BatchBuilder, saying: &mut Saying) -> ReplyOut {
        let Call { client, envelope, request, bytes } = call;
        let header = request.header;
        let mut sequence = Sequence { client, session: header.session, next: header.seq };
        let mutates = request.operations.as_slice().iter().any(Operation::is_mutation);
        let mut turn = match &request.operations {
            Operations::One(_) => Turn::one(),
            Operations::Many(_) => Turn::many(),
        };
        let mut run = |operation| self.operation(operation, time_ms, &mut turn, &mut sequence, batch, &mut saying.events);
        let outcomes = match request.operations {
            Operations::One(operation) => Outcomes::One(run(operation)),
            Operations::Many(operations) => Outcomes::Many(operations.into_iter().map(run).collect()),
        };
        saying.count(&turn);
        // Sessions do not remember replies yet: a mutation sent again would be done again.
        let retry_safe = mutates.then_some(false);
        let reply = Reply { id: header.id, form: request.form, retry_safe, outcomes };
        ReplyOut { client, envelope, reply, request_bytes: bytes }
    }

    fn operation(
        &mut self,
        operation: Operation,
        time_ms: u64,
        turn: &mut Turn,
        sequence: &mut Sequence,
        batch: &mut BatchBuilder,
        events: &mut Vec<Event>,
    ) -> Outcome {
        self.counters.operations.fetch_add(1, Ordering::Relaxed);
        let session = sequence.take(&operation);
        let trace = tracing::enabled!(tracing::Level::TRACE).then(|| Trace::start(sequence.client, session, &operation));
        let outcome = match operation {
            Operation::Hello { project } => self.observed(self.facts.hello(project, SessionId::new(time_ms, (self.entropy)()))),
            Operation::Stats => self.observed(Ok(self.stats())),
            operation => {
                let decision = self.decide(operation, time_ms, turn);
                self.apply(decision.changes, session, batch, events);
                decision.outcome
            }
        };
        if let Some(trace) = trace {
            trace.finish(&outcome);
        }
        outcome
    }

    fn observed(&self, result: Result<Answer, Failure>) -> Outcome {
        Outcome { revision: Some(self.state.revision()), result }
    }

    /// A panic while deciding has changed nothing: it is answered and counted, and the broker goes on.
    fn decide(&self, operation: Operation, time_ms: u64, turn: &mut Turn) -> Decision {
        let stamp = Stamp { revision: self.state.revision() + 1, time_ms };
        catch_unwind(AssertUnwindSafe(|| decide(&self.state, operation, stamp, turn))).unwrap_or_else(|_| {
            self.counters.internal_errors.fetch_add(1, Ordering::Relaxed);
            tracing::error!("an operation made the table worker panic; it was answered `internal` and changed nothing");
            let failure = Failure::new(ErrorCode::Internal, "the broker has a fault in this operation; nothing was changed");
            Decision { outcome: Outcome { revision: Some(self.state.revision()), result: Err(failure) }, changes: Vec::new() }
        })
    }

    fn apply(&mut self, changes: Vec<Change>, session: Option<SessionRef>, batch: &mut BatchBuilder, events: &mut Vec<Event>) {
        if changes.is_empty() {
            return;
        }
        let revision = self.state.revision() + 1;
        batch.group(revision, Cause::Request, session);
        let wanted = self.events_wanted.load(Ordering::Relaxed);
        let mut record_key = Vec::new();
        for change in changes {
            record_key.clear();
            change.write_record_key(&mut record_key);
            match &change.value {
                Some(value) => batch.put(&record_key, value),
                None => batch.delete(&record_key),
            }
            if wanted {
                events.extend(event_of(&change, revision));
            }
            self.state.apply(change, revision);
        }
    }

    fn stats(&self) -> Answer {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = [
            ("operations", load(&self.counters.operations)),
            ("batches", load(&self.counters.batches)),
            ("internal_errors", load(&self.counters.internal_errors)),
            ("intake_calls", self.intake.len() as u64),
            ("events_dropped", load(&self.events_dropped)),
        ];
        self.facts.stats(&self.state, &counters, self.log.stats())
    }
}

/// Numbers the mutations of one message: the i-th has the header's sequence + i; reads have none.
struct Sequence {
    client: ClientId,
    session: Option<SessionId>,
    next: Option<u64>,
}

impl Sequence {
    fn take(&mut self, operation: &Operation) -> Option<SessionRef> {
        if !operation.is_mutation() {
            return None;
        }
        let sequence = self.next?;
        self.next = sequence.checked_add(1);
        Some(SessionRef { id: self.session?.0, sequence })
    }
}

fn event_of(change: &Change, revision: u64) -> Option<Event> {
    match change.space {
        Space::Table => {
            let kind = match &change.value {
                Some(record) => EventKind::Put(Stored::from_bytes(split_table_record(record)?.stored.to_vec())?),
                None => EventKind::Remove,
            };
            Some(Event { revision, key: change.key.clone(), kind })
        }
    }
}
