//! The worker's loop. All meaning is in the core; this file moves calls, batches and proofs. What one call is answered is in
//! `answer.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker_core::{History, Message, SessionBounds, Snapshots, State, Turn};
use kvbroker_log::{BatchBuilder, Log, LogError, Persisted};
use kvbroker_protocol::{ErrorCode, Failure, Operations, limits};

use crate::access_book::{AccessBook, Speaker};
use crate::access_calls::{AccessCall, AccessCalls};
use crate::agenda::Agenda;
use crate::call::Call;
use crate::checkpoints::Checkpoints;
use crate::clock::Clock;
use crate::credit::Charge;
use crate::event_queue::EventQueue;
use crate::facts::Facts;
use crate::followers::Followers;
use crate::histories::{EventsCall, Histories, HistoryCall};
use crate::intake::{Collected, Intake};
use crate::outbox::Outbox;
use crate::parked::{self, Parked};
use crate::released::{Event, EventBatch, Publication, Released, ReplyOut};
use crate::seat::Seat;
use crate::stamper::Stamper;
use crate::{events, versions, work};

/// Counters of the worker, readable by other threads.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Batches of calls, those without changes included.
    pub batches: AtomicU64,
    /// Of these, turns of small calls that the thread which brought them did.
    pub small_turns: AtomicU64,
    /// Operations decided.
    pub operations: AtomicU64,
    /// Keys removed because their deadline had come.
    pub expired: AtomicU64,
    /// Panics while deciding, answered `internal`.
    pub internal_errors: AtomicU64,
    /// Mutations answered `busy` because the log was too far ahead of its checkpoint.
    pub throttled: AtomicU64,
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
    /// What the table was before, as far back as memory goes.
    pub history: History,
    /// Old entries that open snapshots still need.
    pub snapshots: Snapshots,
    /// Calls that wait for changes.
    pub parked: Parked,
    /// Who asked for changes lately.
    pub followers: Followers,
    /// Calls for the log's reader.
    pub histories: Arc<Histories>,
    /// What is shared with the checkpointer.
    pub checkpoints: Arc<Checkpoints>,
    /// The log.
    pub log: L,
    /// The time.
    pub clock: Box<dyn Clock>,
    /// Makes stamps of it.
    pub stamper: Stamper,
    /// Who may do what now.
    pub access: Arc<AccessBook>,
    /// Calls for the gatekeeper.
    pub access_calls: Arc<AccessCalls>,
    /// Where calls come from.
    pub intake: Arc<Intake>,
    /// Where replies go.
    pub replies: Arc<Outbox<Vec<ReplyOut>>>,
    /// Where events go.
    pub events: Arc<EventQueue>,
    /// False while nobody watches keys: events are then not built.
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
    /// How many sessions are remembered, and for how long at least.
    pub session_bounds: SessionBounds,
    /// For encodings that are hashed; kept between requests.
    pub scratch: Vec<u8>,
}

/// What a worker has in hand between two steps of its loop.
pub struct Course {
    batch: BatchBuilder,
    pub(crate) agenda: Agenda,
    speaker: Speaker,
    last_append: Instant,
    /// How long a step waits for calls at most.
    pub(crate) wait: Duration,
}

/// So many calls have their keys fetched together.
const WARMED: usize = 64;
/// How long without calls until a marker vouches for the last batch.
const IDLE: Duration = Duration::from_secs(1);
// A batch is flushed once it is this large; one more message of the largest size, each of its operations a record and each key that
// it may remove another, must still fit, with what it makes the log write again.
const _: () = assert!(
    limits::BATCH_BYTES_MAX
        + limits::MESSAGE_BYTES_MAX
        + limits::TURN_LOG_BYTES_MAX
        // Remembered replies: a JSON value in them may be larger as MessagePack, by less than two times (`.5,` is nine bytes).
        + 3 * limits::ARRAY_REPLY_BYTES_MAX
        // Each operation has a group, its record and its remembered reply; each key of a del_prefix and each place of a window a delete.
        + limits::ARRAY_OPERATIONS_MAX * 512
        + (limits::EXAMINED_KEYS_MAX + limits::SESSION_WINDOW) * 64
        + limits::EXPIRIES_PER_BATCH_MAX * (limits::KEY_BYTES_MAX + 128)
        <= kvbroker_log::MAX_BATCH_BYTES,
    "the log takes every batch that the worker makes"
);
/// A client that has not read its replies, and has asked for more than can wait until it does.
fn without_credit(call: Call) -> ReplyOut {
    let message = format!(
        "{} bytes of replies to this client have not left the broker, and too many requests wait for that; read the replies, then try again",
        call.account.owes()
    );
    ReplyOut::refusal(call, Failure::busy(message, limits::RETRY_AFTER_MS))
}

fn stopping() -> Failure {
    let message = "the broker is stopping; this request waited for replies to be read, and was not looked at";
    Failure::new(ErrorCode::ShuttingDown, message)
}

/// What a turn does with keys whose deadline has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Expires,
    /// Until the worker's own thread wakes for it.
    Waits,
}

/// No interval of syncs makes the worker spin.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// What a batch will say once it is durable.
#[derive(Default)]
pub(crate) struct Saying {
    pub(crate) replies: Vec<ReplyOut>,
    /// Rough bytes of the replies in memory.
    pub(crate) reply_bytes: usize,
    /// The last revision before it.
    base: u64,
    /// None: nobody wants them.
    pub(crate) events: Option<Vec<Event>>,
    /// None: some were published while nobody listened.
    messages: Option<Vec<Publication>>,
    /// For the log's reader.
    histories: Vec<HistoryCall>,
    pub(crate) far_behind: Vec<EventsCall>,
    /// For the gatekeeper.
    access_calls: Vec<AccessCall>,
    /// What the last call cost the table.
    spent: usize,
    /// It is said by the worker's own thread, which may wait for room.
    may_wait: bool,
    /// What mutations are refused with in this turn, if they are.
    pub(crate) refusal: Option<Failure>,
    /// Whoever has the last call made is not alone.
    pub(crate) has_company: bool,
}

impl Saying {
    /// What a call has spent of the turn that it was given.
    pub(crate) fn count(&mut self, given: &Turn, spent: &Turn) {
        self.spent = work::count(given, spent);
    }

    /// Takes in what a revision published.
    pub(crate) fn publish(&mut self, revision: u64, messages: Vec<Message>, has_listeners: bool) {
        if !has_listeners && !messages.is_empty() {
            self.messages = None;
        }
        if let Some(all) = &mut self.messages {
            all.extend(messages.into_iter().map(|message| Publication { revision, message }));
        }
    }
}

impl<L: Log> Worker<L> {
    /// Runs until the intake is closed and empty; then the log is closed cleanly.
    ///
    /// # Errors
    /// [`Stopped`] if the log failed. Nothing of the failed batch was released.
    pub fn run(self) -> Result<(), Stopped> {
        Seat::alone(self).run()
    }

    /// What [`Worker::step`] needs from one time to the next; there is one for a worker.
    pub fn begin(&mut self) -> Course {
        // Nobody could renew a lease, or say that an item is done, while there was no broker.
        let stamp_ms = self.stamp_ms();
        self.state.renew_leases(stamp_ms);
        Course {
            batch: BatchBuilder::new(),
            agenda: self.intake.agenda(),
            speaker: self.access.speaker(),
            last_append: Instant::now(),
            wait: self.sync_interval.map_or(IDLE, |interval| (interval / 2).clamp(WAIT_MIN, IDLE)),
        }
    }

    /// One time through the loop: waits for calls, but no longer than `wait_max`, and does one turn. False once the intake is closed
    /// and nothing is left in it. A simulation takes these steps itself, without waiting.
    ///
    /// # Errors
    /// [`Stopped`] if the log failed. Nothing of the failed batch was released, and the worker is of no use any more.
    pub fn step(&mut self, course: &mut Course, wait_max: Duration) -> Result<bool, Stopped> {
        let wait = self.prepare(course);
        self.intake.wait(wait.min(wait_max));
        self.go_on(course)
    }

    /// What comes before the wait for calls; gives how long that may be.
    pub(crate) fn prepare(&mut self, course: &mut Course) -> Duration {
        if !self.snapshots.is_empty() {
            let stamp_ms = self.stamp_ms();
            self.snapshots.tend(stamp_ms);
        }
        self.tend_parked(&mut course.agenda);
        if !course.agenda.is_empty() {
            return Duration::ZERO;
        }
        if self.snapshots.is_clearing() {
            return WAIT_MIN;
        }
        let wait = self.wait(course.wait);
        self.wait_beside_parked(wait)
    }

    /// What comes behind the wait: a turn, if there is anything to do, and what the log and the checkpoint need.
    pub(crate) fn go_on(&mut self, course: &mut Course) -> Result<bool, Stopped> {
        let has_work = match self.intake.collect(&mut course.agenda) {
            Collected::Calls => true,
            Collected::Idle => self.is_due(),
            Collected::Closed => return Ok(false),
        };
        if has_work {
            // What the turn looks up in the access book counts until its replies and events are handed over.
            let _speaking = course.speaker.begin();
            if self.turn(&mut course.agenda, &mut course.batch, Due::Expires)? {
                course.last_append = Instant::now();
            }
        }
        self.checkpoints.serve(&self.state, &mut self.log)?;
        // Not only when no call came: somebody may read all the time, and the last write still wants a voucher.
        if course.last_append.elapsed() >= IDLE && self.log.needs_marker() {
            let stamp_ms = self.stamp_ms();
            self.log.mark(stamp_ms)?;
        }
        if self.sync_interval.is_some() {
            self.log.tick(self.clock.now().boot_us / 1_000)?;
        }
        Ok(true)
    }

    /// A turn of small calls on another thread than the worker's, which sleeps: [`Seat`].
    ///
    /// # Errors
    /// [`Stopped`] if the log failed. Nothing of the failed batch was released, and the worker is of no use any more.
    pub(crate) fn small_turn(&mut self, course: &mut Course) -> Result<(), Stopped> {
        if self.intake.collect(&mut course.agenda) == Collected::Calls {
            self.counters.small_turns.fetch_add(1, Ordering::Relaxed);
            let _speaking = course.speaker.begin();
            if self.turn(&mut course.agenda, &mut course.batch, Due::Waits)? {
                course.last_append = Instant::now();
            }
        }
        Ok(())
    }

    /// True if small calls are all that such a turn would consist of; and, if some of them change something, if that has nothing in its way
    /// that is the worker's business.
    pub(crate) fn has_nothing_else(&self, course: &Course, with_changes: bool) -> bool {
        course.agenda.has_nobody()
            && !self.replies.is_full()
            && (!with_changes || (self.snapshots.is_empty() && !self.checkpoints.behind().is_too_long()))
    }

    /// The clean end: what still waits is answered, the log is closed.
    ///
    /// # Errors
    /// [`Stopped`] if the log failed.
    pub fn finish(&mut self, mut course: Course) -> Result<(), Stopped> {
        // They have changed nothing; the log's proof is as good as any.
        let held = course.agenda.give_up().map(|call| ReplyOut::refusal(call, stopping()));
        let parked = self.parked.give_up().map(|call| ReplyOut::refusal(call, events::stopping()));
        let held: Vec<ReplyOut> = held.chain(parked).collect();
        if !held.is_empty() {
            self.release(Released::new(&self.log.persisted(), self.state.revision(), held), 0, true);
        }
        let stamp_ms = self.stamp_ms();
        self.log.close(stamp_ms)?;
        self.histories.close();
        self.access_calls.close();
        Ok(())
    }

    /// The time of stamps now, milliseconds.
    pub(crate) fn stamp_ms(&mut self) -> u64 {
        self.stamper.stamp_ms(self.clock.now())
    }

    /// Decides, applies, logs and releases what is due and the calls of one turn: one batch. True if something was appended to the
    /// log.
    fn turn(&mut self, agenda: &mut Agenda, batch: &mut BatchBuilder, due: Due) -> Result<bool, Stopped> {
        let time_ms = self.stamp_ms();
        batch.begin(time_ms);
        let mut saying = self.begin_saying();
        let mut appended = false;
        saying.may_wait = due == Due::Expires;
        if due == Due::Expires {
            self.expire_due(time_ms, batch, &mut saying.events);
        }
        if batch.bytes() >= limits::BATCH_BYTES_MAX {
            appended |= self.persist(saying, batch)?;
            batch.begin(time_ms);
            saying = self.begin_saying();
            saying.may_wait = true;
        }
        saying.refusal = self.refusal()?;
        let mut cold = 0_usize;
        while let Some(call) = self.next_call(agenda) {
            if cold == 0 {
                cold = WARMED;
                self.warm(&call, agenda);
            }
            cold -= 1;
            if events::is_one(&call) && self.permits(&call) {
                self.hear(call, agenda, &mut saying);
                if saying.reply_bytes >= limits::BATCH_BYTES_MAX {
                    break;
                }
                continue;
            }
            if HistoryCall::is_one(&call) && self.permits(&call) {
                self.counters.operations.fetch_add(1, Ordering::Relaxed);
                let Some(mut call) = HistoryCall::of(call, self.state.revision()) else { continue };
                let (answer, spent) = versions::from_memory(&self.state, &self.history, &call, self.log.oldest_revision());
                match answer {
                    Some(answer) => {
                        let reply = call.reply(Ok(answer));
                        let bytes = reply.charge.as_ref().map_or(0, Charge::bytes);
                        agenda.spend(spent + work::around(reply.reply.outcomes.as_slice(), bytes));
                        saying.reply_bytes += bytes;
                        saying.replies.push(reply);
                    }
                    None => {
                        agenda.spend(spent + work::around(&[], 0));
                        call.reserve();
                        saying.histories.push(call);
                    }
                }
                if saying.reply_bytes >= limits::BATCH_BYTES_MAX {
                    break;
                }
                continue;
            }
            if AccessCall::is_one(&call) && self.permits(&call) {
                self.counters.operations.fetch_add(1, Ordering::Relaxed);
                agenda.spend(work::around(&[], 0));
                saying.access_calls.push(AccessCall::new(call, self.state.revision()));
                continue;
            }
            if self.must_wait(&call) {
                self.let_wait(call, agenda, &mut saying);
                continue;
            }
            let queue = parked::pulled(&call).map(|pull| pull.queue.clone());
            let batch_bytes = batch.bytes();
            saying.has_company = agenda.has_company();
            let mut reply = self.answer(call, time_ms, batch, &mut saying);
            let logged_bytes = batch.bytes().saturating_sub(batch_bytes);
            let reply_bytes = reply.charge(logged_bytes > 0);
            agenda.spend(saying.spent + work::around(reply.reply.outcomes.as_slice(), logged_bytes + reply_bytes));
            saying.reply_bytes += reply_bytes;
            saying.replies.push(reply);
            // It may have left something, or have taken nothing although it was woken for it.
            queue.iter().for_each(|queue| self.parked.touch(queue));
            // A few bytes can ask for a value of megabytes. The rest has its turn when this has left.
            if batch.bytes() >= limits::BATCH_BYTES_MAX || saying.reply_bytes >= limits::BATCH_BYTES_MAX {
                break;
            }
        }
        saying.replies.extend(agenda.refused().map(without_credit));
        tracing::debug!(calls = saying.replies.len(), "collected a batch");
        Ok(self.persist(saying, batch)? || appended)
    }

    /// Fetches what this call and those behind it are about to look at, side by side: one after the other each would wait for memory.
    fn warm(&mut self, call: &Call, agenda: &Agenda) {
        let calls = std::iter::once(call).chain(agenda.next_ones()).take(WARMED);
        let mut keys = calls.filter_map(|call| match &call.request.operations {
            Operations::One(operation) => operation.first_key().map(Vec::as_slice),
            // Has its own keys fetched when it is its turn.
            Operations::Many(_) => None,
        });
        // One alone has nobody to wait beside.
        if let (Some(first), Some(second)) = (keys.next(), keys.next()) {
            self.state.warm([first, second].into_iter().chain(keys));
        }
    }

    /// What begins with the next change. Whether its events are wanted is asked once: a batch tells all of them, or says that it tells none.
    fn begin_saying(&self) -> Saying {
        let events = self.events_wanted.load(Ordering::Acquire).then(Vec::new);
        let messages = Some(Vec::new());
        Saying { base: self.state.revision(), events, messages, replies: self.replies.spare(), ..Saying::default() }
    }

    /// What mutations are refused with now: the log may be only so far ahead of its checkpoint.
    fn refusal(&mut self) -> Result<Option<Failure>, Stopped> {
        let behind = self.checkpoints.behind();
        if !behind.is_too_long() {
            return Ok(None);
        }
        // What is sealed may be too little for a checkpoint, and a log that nobody may write would never seal the rest.
        if behind.sealed_bytes <= behind.due_bytes {
            self.log.seal()?;
        }
        Ok(Some(self.checkpoints.busy(behind)))
    }

    /// Makes the batch durable and releases what it says; without changes the log's present proof is enough. True if there were some.
    fn persist(&mut self, mut saying: Saying, batch: &mut BatchBuilder) -> Result<bool, Stopped> {
        let appends = !batch.is_empty();
        let time_ms = batch.stamp_ms();
        let proof: Persisted = if appends { self.log.append(batch)? } else { self.log.persisted() };
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        saying.replies.extend(self.histories.take_in(saying.histories, saying.far_behind, proof));
        saying.replies.extend(self.access_calls.take_in(saying.access_calls, proof));
        let Saying { base, events, messages, may_wait, .. } = saying;
        let events = EventBatch { base, revision: self.state.revision(), time_ms, events, messages };
        self.release(Released::of_batch(&proof, saying.replies, events), saying.reply_bytes, may_wait);
        Ok(appends)
    }

    fn release(&self, released: Released, reply_bytes: usize, may_wait: bool) {
        let (replies, events) = released.into_parts();
        if !replies.is_empty() {
            let push = if may_wait { Outbox::push } else { Outbox::push_over };
            push(&self.replies, replies, reply_bytes);
        }
        if events.is_some_and(|events| !self.events.push(events)) {
            self.events_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
