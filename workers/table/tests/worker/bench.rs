//! What the tests of the worker stand on: a worker over a log that watches it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker_core::{History, SessionBounds, Snapshots, State};
use kvbroker_log::{BatchBuilder, Cause, Log, LogError, LogStats, MemoryLog, Persisted, RecordRef};
use kvbroker_protocol::{
    Answer, BrokerId, Form, Header, Key, Operation, Operations, Outcome, Request, SessionId, StatValue, Stored, limits,
};
use kvbroker_table::{
    AccessBook, Account, Behind, Call, Checkpoints, ClientId, Clock, Envelope, EventBatch, EventQueue, Facts, Followers, Intake,
    NoDoorbell, Outbox, Parked, ReplyOut, SimClock, Stamper, Stopped, Worker, WorkerCounters,
};

pub const WALL_MS: u64 = 1_700_000_000_000;

/// What the log has seen, shared with the test.
#[derive(Default)]
pub struct Seen {
    pub log: MemoryLog,
    /// What it has no more.
    pub trimmed_through: u64,
    /// Stamp and last revision of each append that succeeded.
    pub appends: Vec<(u64, u64)>,
    pub marks: usize,
    pub seals: usize,
    pub marker_questions: usize,
    pub ticks: usize,
    /// The worker waits inside of an append.
    pub is_held: bool,
    /// Appends wait while this is set.
    pub hold: bool,
    /// How long the disk takes for an append.
    pub append_takes: Duration,
    /// Nothing is taken out at appends, as if nobody were there.
    pub leaves_all: bool,
    /// Everything that has left the worker, in order.
    pub replies: Vec<ReplyOut>,
    pub events: Vec<EventBatch>,
}

#[derive(Default)]
pub struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Shared {
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Waits until the log has seen something.
    pub fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut seen = self.seen();
        while !holds(&seen) {
            let left = deadline.checked_duration_since(Instant::now()).unwrap_or_else(|| panic!("not within 30 s: {what}"));
            seen = self.changed.wait_timeout(seen, left).unwrap().0;
        }
    }

    pub fn let_go(&self) {
        self.seen().hold = false;
        self.changed.notify_all();
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen());
        self.changed.notify_all();
    }
}

/// A log in memory that looks, at each append, whether the worker has spoken too soon.
pub struct WatchedLog {
    shared: Arc<Shared>,
    replies: Arc<Outbox<Vec<ReplyOut>>>,
    events: Arc<EventQueue>,
}

/// Takes out what has left the worker, and checks that it tells nothing beyond what the log has.
pub fn collect_said(seen: &mut Seen, replies: &Outbox<Vec<ReplyOut>>, events: &EventQueue) {
    let durable = seen.log.persisted().revision();
    while let Some(batch) = replies.pop() {
        for out in &batch {
            let told = out.reply.outcomes.as_slice().iter().filter_map(|outcome| outcome.revision).max();
            assert!(told <= Some(durable), "a reply tells of revision {told:?}, the log has {durable}");
        }
        seen.replies.extend(batch);
    }
    while let Some(batch) = events.pop() {
        assert!(batch.revision <= durable, "events tell of revision {}, the log has {durable}", batch.revision);
        let mut events = batch.events.iter().flatten();
        assert!(events.all(|event| (batch.base + 1..=batch.revision).contains(&event.revision)));
        seen.events.push(batch);
    }
}

impl Log for WatchedLog {
    fn append(&mut self, batch: &mut BatchBuilder) -> Result<Persisted, LogError> {
        let takes = self.shared.seen().append_takes;
        if !takes.is_zero() {
            std::thread::sleep(takes);
        }
        let mut seen = self.shared.seen();
        seen.is_held = seen.hold;
        self.shared.changed.notify_all();
        while seen.hold {
            seen = self.shared.changed.wait(seen).unwrap();
        }
        seen.is_held = false;
        // Now, before the batch is in the log.
        if !seen.leaves_all {
            collect_said(&mut seen, &self.replies, &self.events);
        }
        let (stamp_ms, revision) = (batch.stamp_ms(), batch.last_revision().expect("the worker appends no empty batch"));
        let proof = seen.log.append(batch)?;
        seen.appends.push((stamp_ms, revision));
        self.shared.changed.notify_all();
        Ok(proof)
    }

    fn persisted(&self) -> Persisted {
        self.shared.seen().log.persisted()
    }

    fn needs_marker(&self) -> bool {
        self.shared.note(|seen| seen.marker_questions += 1);
        self.shared.seen().log.needs_marker()
    }

    fn mark(&mut self, stamp_ms: u64) -> Result<(), LogError> {
        self.shared.note(|seen| seen.marks += 1);
        self.shared.seen().log.mark(stamp_ms)
    }

    fn tick(&mut self, now_ms: u64) -> Result<Persisted, LogError> {
        self.shared.note(|seen| seen.ticks += 1);
        self.shared.seen().log.tick(now_ms)
    }

    fn seal(&mut self) -> Result<(), LogError> {
        let mut seen = self.shared.seen();
        seen.seals += 1;
        seen.log.seal()
    }

    fn close(&mut self, stamp_ms: u64) -> Result<(), LogError> {
        self.shared.seen().log.close(stamp_ms)
    }

    fn oldest_revision(&self) -> u64 {
        let seen = self.shared.seen();
        seen.log.oldest_revision().max(seen.trimmed_through + 1)
    }

    fn stats(&self) -> LogStats {
        self.shared.seen().log.stats()
    }
}

/// A worker and everything around it.
pub struct Bench {
    pub shared: Arc<Shared>,
    pub intake: Arc<Intake>,
    pub replies: Arc<Outbox<Vec<ReplyOut>>>,
    pub events: Arc<EventQueue>,
    pub events_wanted: Arc<AtomicBool>,
    pub events_dropped: Arc<AtomicU64>,
    pub counters: Arc<WorkerCounters>,
    pub clock: Arc<SimClock>,
    pub sync_interval: Option<Duration>,
    /// How long the log is, as the worker believes.
    pub behind: Arc<Mutex<Behind>>,
    pub history_bytes_max: usize,
    /// Who may do what.
    pub access: Arc<AccessBook>,
    /// Who asks.
    pub client: ClientId,
    pub user: &'static str,
    /// Whether the client has gone when its calls are decided.
    pub is_gone: bool,
    pub next_id: u64,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with_room(limits::RELEASE_BYTES_MAX, limits::PUBLISH_BYTES_MAX)
    }

    /// With so many bytes of replies and of events that may wait.
    pub fn with_room(reply_bytes: usize, event_bytes: usize) -> Bench {
        Bench {
            shared: Arc::default(),
            intake: Arc::default(),
            replies: Arc::new(Outbox::new(reply_bytes, Arc::new(NoDoorbell))),
            events: Arc::new(EventQueue::new(event_bytes, Arc::new(NoDoorbell))),
            events_wanted: Arc::new(AtomicBool::new(true)),
            events_dropped: Arc::default(),
            counters: Arc::default(),
            clock: Arc::new(SimClock::new(WALL_MS * 1_000)),
            sync_interval: None,
            behind: Arc::default(),
            history_bytes_max: limits::HISTORY_MEMORY_BYTES_MAX,
            access: Arc::default(),
            client: 1,
            user: "owner",
            is_gone: false,
            next_id: 0,
        }
    }

    /// A broker started again on this one's log.
    pub fn restarted(&self) -> Bench {
        self.shared.seen().log.reopen();
        Bench { shared: self.shared.clone(), clock: self.clock.clone(), next_id: self.next_id, ..Bench::new() }
    }

    pub fn worker(&self) -> Worker<WatchedLog> {
        let mut logged_ms = 0;
        self.shared.seen().log.replay(&mut |group| logged_ms = group.stamp_ms);
        let (stamper, _) = Stamper::start(logged_ms, self.clock.now());
        let (state, history) = self.recovered_with_history();
        let behind = self.behind.clone();
        Worker {
            state,
            history,
            snapshots: Snapshots::default(),
            parked: Parked::default(),
            followers: Followers::default(),
            histories: Arc::default(),
            checkpoints: Arc::new(Checkpoints::none(self.intake.clone(), move || *behind.lock().unwrap())),
            log: WatchedLog { shared: self.shared.clone(), replies: self.replies.clone(), events: self.events.clone() },
            clock: Box::new(self.clock.clone()),
            stamper,
            access: self.access.clone(),
            access_calls: Arc::default(),
            intake: self.intake.clone(),
            replies: self.replies.clone(),
            events: self.events.clone(),
            events_wanted: self.events_wanted.clone(),
            events_dropped: self.events_dropped.clone(),
            counters: self.counters.clone(),
            facts: Facts {
                project: "NETID-a5".into(),
                owner: "netid".into(),
                version: "0.0.0".into(),
                broker: BrokerId([1; 16]),
                epoch: 0xe0,
                instance: BrokerId([2; 16]),
                pub_port: Arc::new(4_711.into()),
                durability: "always".into(),
                stats: Arc::new(|stats| stats.push(("of_others".into(), StatValue::Number(7)))),
            },
            sync_interval: self.sync_interval,
            entropy: Box::new(|| 0xabcd),
            session_bounds: SessionBounds::default(),
            scratch: Vec::new(),
        }
    }

    /// Puts a message into the intake; its id counts the messages.
    pub fn ask(&mut self, header: Header, operations: Operations) -> u64 {
        let call = self.call(header, operations);
        assert_eq!(self.intake.push(&mut VecDeque::from([call])), Ok(()));
        self.next_id
    }

    /// A message on its way to the intake; its id counts the messages.
    pub fn call(&mut self, header: Header, operations: Operations) -> Call {
        self.next_id += 1;
        let header = Header { id: Some(self.next_id), ..header };
        let call = Call {
            client: self.client,
            account: Account::alone(self.client),
            user: self.user.into(),
            envelope: Envelope { routing_id: self.next_id.to_be_bytes()[..].into(), frames: vec![Vec::new()] },
            request: Request { header, form: Form::Compact, operations },
            bytes: 100,
        };
        if self.is_gone {
            call.account.give_up();
        }
        call
    }

    pub fn one(&mut self, operation: Operation) -> u64 {
        self.ask(Header::default(), Operations::One(operation))
    }

    /// Runs the worker on what is in the intake, to its end.
    pub fn run_to_end(&self) -> Result<(), Stopped> {
        self.intake.close();
        let result = self.worker().run();
        self.collect();
        result
    }

    /// Runs the worker beside the test.
    pub fn start(&self) -> JoinHandle<Result<(), Stopped>> {
        let worker = self.worker();
        std::thread::spawn(move || worker.run())
    }

    pub fn collect(&self) {
        collect_said(&mut self.shared.seen(), &self.replies, &self.events);
    }

    /// Waits until the reply with this id has left.
    pub fn until_answered(&self, id: u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.collect();
            if self.shared.seen().replies.iter().any(|out| out.reply.id == Some(id)) {
                return;
            }
            assert!(Instant::now() < deadline, "no reply to {id} within 30 s");
            std::thread::yield_now();
        }
    }

    /// The outcomes of the message with this id.
    pub fn outcomes(&self, id: u64) -> Vec<Outcome> {
        let seen = self.shared.seen();
        let out = seen.replies.iter().find(|out| out.reply.id == Some(id)).unwrap_or_else(|| panic!("no reply to {id}"));
        out.reply.outcomes.as_slice().to_vec()
    }

    /// The state that a recovery from the log gives.
    pub fn recovered(&self) -> State {
        self.recovered_with_history().0
    }

    fn recovered_with_history(&self) -> (State, History) {
        let (mut state, mut history) = (State::new(), History::with_bytes_max(self.history_bytes_max));
        let mut replay =
            |group: kvbroker_log::GroupRef<'_>| kvbroker_table::replay_into(&mut state, &mut history, &group).unwrap();
        self.shared.seen().log.replay(&mut replay);
        (state, history)
    }

    /// Revision, cause and record keys of every logged group behind a revision.
    pub fn logged_after(&self, revision: u64) -> Vec<(u64, Cause, Vec<Key>)> {
        let mut groups = Vec::new();
        self.shared.seen().log.replay(&mut |group| {
            let key = |record| match record {
                RecordRef::Put { key, .. } | RecordRef::Delete { key } => key.to_vec(),
            };
            if group.revision > revision {
                groups.push((group.revision, group.cause, group.records().map(key).collect()));
            }
        });
        groups
    }

    /// Revision, session and sequence of every logged group.
    pub fn groups(&self) -> Vec<(u64, Option<(SessionId, u64)>)> {
        let mut groups = Vec::new();
        self.shared.seen().log.replay(&mut |group| {
            groups.push((group.revision, group.session.map(|session| (SessionId(session.id), session.sequence))));
        });
        groups
    }
}

pub fn key(name: &str) -> Key {
    name.as_bytes().to_vec()
}

pub fn put(name: &str, value: &str) -> Operation {
    Operation::Put { key: key(name), value: Stored::text(value).unwrap(), condition: None, ttl_ms: None }
}

pub fn get(name: &str) -> Operation {
    Operation::Get { key: key(name) }
}

pub fn del(name: &str) -> Operation {
    Operation::Del { key: key(name), return_old: false, condition: None }
}

pub fn is_value(outcome: &Outcome, text: &str) -> bool {
    matches!(&outcome.result, Ok(Answer::Value { value, .. }) if value.as_text().as_deref() == Some(text))
}
