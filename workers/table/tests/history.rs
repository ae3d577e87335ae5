//! `history`: a worker over a log of small segments, and the log's reader beside it, against a plain list of what was done.

#![allow(clippy::unwrap_used)]

#[path = "history/catch_up.rs"]
mod catch_up;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker_core::{History, SessionBounds, Snapshots, State};
use kvbroker_log::{FileLog, GroupRef, LogOptions, SeededEntropy, SimStorage, SyncMode};
use kvbroker_protocol::{
    Access, Answer, BrokerId, ErrorCode, Form, Header, Operation, Operations, Outcome, Request, Role, Stored, Txn, Version,
    VersionKind, limits,
};
use kvbroker_table::{
    AccessBook, Account, Behind, Call, Checkpoints, Clock, Envelope, EventQueue, Facts, Followers, Historian, Histories, Intake,
    NoDoorbell, Outbox, Parked, ReplyOut, SimClock, Stamper, Stopped, Worker, replay_into,
};

const WALL_MS: u64 = 1_700_000_000_000;

/// One life of a broker's inside on a disk.
struct Life {
    disk: SimStorage,
    intake: Arc<Intake>,
    replies: Arc<Outbox<Vec<ReplyOut>>>,
    histories: Arc<Histories>,
    access: Arc<AccessBook>,
    user: &'static str,
    clock: Arc<SimClock>,
    worker: JoinHandle<Result<(), Stopped>>,
    outcomes: BTreeMap<u64, Outcome>,
    asked: u64,
}

impl Life {
    fn begin(disk: &SimStorage, segment_bytes: u64, history_bytes_max: usize) -> Life {
        let mut options = LogOptions::new(SyncMode::Always);
        options.segment_bytes = segment_bytes;
        options.allocate_bytes = 512;
        options.entropy = Box::new(SeededEntropy::new(1));
        let (mut state, mut history) = (State::new(), History::with_bytes_max(history_bytes_max));
        let (log, report) = FileLog::open(Arc::new(disk.clone()), options, &mut |group: GroupRef<'_>| {
            Ok(replay_into(&mut state, &mut history, &group)?)
        })
        .unwrap();
        let clock = Arc::new(SimClock::new(WALL_MS * 1_000));
        let (stamper, _) = Stamper::start(report.last_stamp_ms, clock.now());
        let (intake, histories, access): (Arc<Intake>, Arc<Histories>, Arc<AccessBook>) = Default::default();
        let replies = Arc::new(Outbox::new(limits::RELEASE_BYTES_MAX, Arc::new(NoDoorbell)));
        let worker = Worker {
            state,
            history,
            snapshots: Snapshots::default(),
            parked: Parked::default(),
            followers: Followers::default(),
            histories: histories.clone(),
            checkpoints: Arc::new(Checkpoints::none(intake.clone(), Behind::default)),
            log,
            clock: Box::new(clock.clone()),
            stamper,
            access: access.clone(),
            access_calls: Arc::default(),
            intake: intake.clone(),
            replies: replies.clone(),
            events: Arc::new(EventQueue::new(1, Arc::new(NoDoorbell))),
            events_wanted: Arc::default(),
            events_dropped: Arc::default(),
            counters: Arc::default(),
            facts: Facts {
                project: "zoo".into(),
                owner: "netid".into(),
                version: "0.0.0".into(),
                broker: BrokerId([1; 16]),
                epoch: 1,
                instance: BrokerId([2; 16]),
                pub_port: Arc::default(),
                durability: "always".into(),
                stats: Arc::new(|_| {}),
            },
            sync_interval: None,
            entropy: Box::new(|| 7),
            session_bounds: SessionBounds::default(),
            scratch: Vec::new(),
        };
        let worker = std::thread::spawn(move || worker.run());
        let user = "owner";
        Life { disk: disk.clone(), intake, replies, histories, access, user, clock, worker, outcomes: BTreeMap::new(), asked: 0 }
    }

    /// The log's reader, on a thread of its own.
    fn reader(&self) -> JoinHandle<()> {
        let (calls, replies) = (self.histories.clone(), self.replies.clone());
        let speaker = self.access.speaker();
        let historian = Historian { storage: Arc::new(self.disk.clone()), calls, replies, speaker };
        std::thread::spawn(move || historian.run())
    }

    fn ask(&mut self, operation: Operation) -> u64 {
        self.asked += 1;
        let header = Header { id: Some(self.asked), ..Header::default() };
        let call = Call {
            client: 1,
            account: Account::alone(1),
            user: self.user.into(),
            envelope: Envelope { routing_id: self.asked.to_be_bytes()[..].into(), frames: vec![] },
            request: Request { header, form: Form::Compact, operations: Operations::One(operation) },
            bytes: 100,
        };
        assert_eq!(self.intake.push(&mut VecDeque::from([call])), Ok(()));
        self.asked
    }

    fn collect(&mut self) {
        while let Some(batch) = self.replies.pop() {
            for ReplyOut { envelope, reply, request_bytes, .. } in batch {
                let id = reply.id.unwrap();
                assert_eq!((envelope.routing_id, request_bytes), (id.to_be_bytes()[..].into(), 100));
                let outcome = reply.outcomes.as_slice()[0].clone();
                assert!(self.outcomes.insert(id, outcome).is_none(), "{id} was answered twice");
            }
        }
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Life) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < deadline, "not within 60 s: {what}");
            self.collect();
            std::thread::yield_now();
        }
    }

    fn outcome(&mut self, id: u64) -> Outcome {
        self.until("the reply is there", |life| life.outcomes.contains_key(&id));
        self.outcomes[&id].clone()
    }

    fn done(&mut self, operation: Operation) -> Outcome {
        let id = self.ask(operation);
        self.outcome(id)
    }

    fn history(&mut self, operation: Operation) -> (Vec<Version>, bool, u64) {
        match self.done(operation).result.unwrap() {
            Answer::History { versions, more, oldest } => (versions, more, oldest),
            other => panic!("{other:?}"),
        }
    }

    fn end(self, reader: JoinHandle<()>) {
        self.end_with(Some(reader));
    }

    fn end_with(self, reader: Option<JoinHandle<()>>) {
        self.intake.close();
        self.worker.join().unwrap().unwrap();
        reader.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(self.histories.is_empty());
    }
}

fn put(key: &str, value: &str, ttl_ms: Option<u64>) -> Operation {
    Operation::Put { key: key.into(), value: Stored::text(value).unwrap(), condition: None, ttl_ms }
}

fn del(key: &str) -> Operation {
    Operation::Del { key: key.into(), return_old: false, condition: None }
}

fn history(key: &str, limit: Option<usize>, before: Option<u64>) -> Operation {
    Operation::History { key: key.into(), limit, before }
}

fn code(outcome: &Outcome) -> ErrorCode {
    outcome.result.as_ref().unwrap_err().code
}

/// Memory for no change: every answer comes from the log.
const NO_MEMORY: usize = 0;

#[test]
fn a_key_has_all_its_versions_newest_first_with_what_happened_and_when() {
    for history_bytes_max in [NO_MEMORY, limits::HISTORY_MEMORY_BYTES_MAX] {
        a_key_has_all_its_versions(history_bytes_max);
    }
}

fn a_key_has_all_its_versions(history_bytes_max: usize) {
    let mut life = Life::begin(&SimStorage::new(), 64 << 20, history_bytes_max);
    let reader = life.reader();
    assert_eq!(life.history(history("k", None, None)), (vec![], false, 1), "a log without a revision");
    life.done(put("k", "one", None));
    life.done(put("other", "x", None));
    life.clock.advance(5_000_000);
    life.done(put("k", "two", Some(1_000)));
    life.clock.advance(2_000_000);
    life.done(Operation::Ping);
    life.done(put("k", "three", None));
    life.done(del("k"));
    let (versions, more, oldest) = life.history(history("k", None, None));
    assert_eq!((more, oldest), (false, 1));
    let value = |text: &str| VersionKind::Put(Stored::text(text).unwrap());
    let expected = [
        (6, 7_000, VersionKind::Remove),
        (5, 7_000, value("three")),
        (4, 7_000, VersionKind::Expire),
        (3, 5_000, value("two")),
        (1, 0, value("one")),
    ];
    assert_eq!(versions, expected.map(|(revision, ms, kind)| Version { revision, time_ms: WALL_MS + ms, kind }));
    assert_eq!(life.done(history("k", None, None)).revision, Some(6));
    assert_eq!(life.history(history("nobody", None, None)), (vec![], false, 1));
    life.end(reader);
}

#[test]
fn pages_over_many_segments_and_lives_are_the_list_of_what_was_done() {
    // From the log; from memory as far as it goes; and without a reader of the log from memory alone.
    for (history_bytes_max, reads) in [(NO_MEMORY, true), (30_000, true), (limits::HISTORY_MEMORY_BYTES_MAX, false)] {
        pages_are_the_list_of_what_was_done(history_bytes_max, reads);
    }
}

fn pages_are_the_list_of_what_was_done(history_bytes_max: usize, reads: bool) {
    let disk = SimStorage::new();
    let mut done: BTreeMap<String, Vec<(u64, Option<String>)>> = BTreeMap::new();
    let mut revision = 0;
    for first in [0, 400, 800] {
        let mut life = Life::begin(&disk, 6_000, history_bytes_max);
        let reader = reads.then(|| life.reader());
        for at in first..first + 400u64 {
            // Some keys change all the time, one every now and then, one only at the beginning.
            let key = match at {
                0..5 => "early".to_owned(),
                _ if at % 90 == 0 => "rare".to_owned(),
                _ => format!("k{}", at % 7),
            };
            let (operation, value) = match done.get(&key).and_then(|list| list.last()) {
                Some((_, Some(_))) if at % 5 == 0 => (del(&key), None),
                _ => {
                    let value = format!("{at}{}", "v".repeat(100));
                    (put(&key, &value, None), Some(value))
                }
            };
            let id = life.ask(operation);
            revision += 1;
            done.entry(key).or_default().push((revision, value));
            if at % 50 == 49 {
                assert_eq!(life.outcome(id).revision, Some(revision));
            }
        }
        assert!(disk.contents("table.txn.00000003").is_some());
        let mut asked = Vec::new();
        for key in done.keys().map(String::as_str).chain(["nobody"]) {
            for limit in [1, 3, 29, 1_000] {
                for before in
                    [None, Some(0), Some(1), Some(2), Some(revision / 2), Some(revision), Some(revision + 9), Some(u64::MAX)]
                {
                    asked.push((key.to_owned(), limit, before, life.ask(history(key, Some(limit), before))));
                    // The next one is asked while the log grows.
                    if asked.len() % 20 == 0 {
                        life.ask(put("growing", "x", None));
                        revision += 1;
                    }
                    // No more may wait than that.
                    life.until("there is room", |life| {
                        life.asked - life.outcomes.len() as u64 <= limits::HISTORY_CALLS_MAX as u64 / 2
                    });
                }
            }
        }
        for (key, limit, before, id) in asked {
            let outcome = life.outcome(id);
            let Ok(Answer::History { versions, more, oldest }) = outcome.result else { panic!("{outcome:?}") };
            let all = done.get(&key).into_iter().flatten().rev().filter(|(at, _)| before.is_none_or(|before| *at < before));
            let expected: Vec<_> = all.collect();
            assert_eq!(versions.len(), expected.len().min(limit), "{key} {limit} {before:?}");
            assert_eq!((more, oldest), (expected.len() > limit, 1), "{key} {limit} {before:?}");
            for (version, (at, value)) in versions.iter().zip(expected) {
                let kind = value.as_ref().map_or(VersionKind::Remove, |value| VersionKind::Put(Stored::text(value).unwrap()));
                assert_eq!((version.revision, &version.kind), (*at, &kind));
            }
        }
        life.end_with(reader);
    }
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Something that changes keys: puts, some of them large or with a deadline, removals one by one and many at once, and transactions
/// that change one key several times.
fn change(dice: &mut Dice) -> Operation {
    let key = format!("k{}", dice.below(12));
    match dice.below(12) {
        0..=4 => put(&key, &format!("{}", dice.below(1_000)), (dice.below(3) == 0).then(|| 1 + dice.below(5_000))),
        5 => put(&format!("large{}", dice.below(2)), &"v".repeat(200_000), None),
        6 | 7 => del(&key),
        8 => Operation::DelPrefix { prefix: "k1".into(), limit: Some(2) },
        9 => Operation::Expire { key: key.into(), ttl_ms: 1 + dice.below(3_000) },
        10 => Operation::Persist { key: key.into() },
        _ => {
            let count = 1 + dice.below(5);
            let one = |dice: &mut Dice| put(&format!("k{}", dice.below(4)), &format!("{}", dice.below(9)), None);
            let then = (0..count).map(|_| one(dice)).collect();
            Operation::Txn(Box::new(Txn { compares: vec![], then, otherwise: vec![] }))
        }
    }
}

#[test]
fn memory_and_log_answer_the_same() {
    for seed in 1..=2 {
        let (disk, mut dice) = (SimStorage::new(), Dice(seed));
        let keys: Vec<String> =
            (0..12).map(|at| format!("k{at}")).chain(["large0".into(), "large1".into(), "none".into()]).collect();
        let mut last = 0;
        for _ in 0..3 {
            let mut life = Life::begin(&disk, 100_000, limits::HISTORY_MEMORY_BYTES_MAX);
            for _ in 0..200 {
                life.clock.advance(dice.below(2_000_000));
                last = life.done(change(&mut dice)).revision.unwrap();
            }
            life.end_with(None);
        }
        let mut asked = Vec::new();
        for key in &keys {
            for limit in [Some(1), Some(7), None, Some(1_000)] {
                for before in [None, Some(last / 2), Some(last / 3), Some(3)] {
                    asked.push(history(key, limit, before));
                }
            }
        }
        let answers = |history_bytes_max, reads: bool| {
            let mut life = Life::begin(&disk, 100_000, history_bytes_max);
            let reader = reads.then(|| life.reader());
            let mut answers = Vec::new();
            for question in &asked {
                answers.push(life.done(question.clone()));
                // On from where the page ended.
                while let (Operation::History { key, limit, .. }, Ok(Answer::History { versions, more: true, .. })) =
                    (question, &answers.last().unwrap().result)
                {
                    let before = versions.last().map(|version| version.revision);
                    answers.push(life.done(Operation::History { key: key.clone(), limit: *limit, before }));
                }
            }
            life.end_with(reader);
            answers
        };
        let from_log = answers(NO_MEMORY, true);
        assert!(from_log.len() > asked.len() + 100, "some answers go on");
        let kinds = |wanted: fn(&VersionKind) -> bool| {
            let versions = from_log.iter().filter_map(|outcome| match &outcome.result {
                Ok(Answer::History { versions, .. }) => Some(versions),
                _ => None,
            });
            versions.flatten().filter(|version| wanted(&version.kind)).count()
        };
        assert!(kinds(|kind| *kind == VersionKind::Expire) > 50 && kinds(|kind| *kind == VersionKind::Remove) > 50);
        assert!(from_log == answers(limits::HISTORY_MEMORY_BYTES_MAX, false), "seed {seed}: from memory alone");
        assert!(from_log == answers(400_000, true), "seed {seed}: from either");
    }
}

#[test]
fn answers_and_passes_are_bounded_in_bytes_and_everybody_is_answered() {
    let mut life = Life::begin(&SimStorage::new(), 16 << 20, NO_MEMORY);
    let large = "v".repeat(1 << 20);
    for at in 0..10 {
        life.done(put("a", &format!("{at}{large}"), None));
    }
    life.done(put("huge", &"v".repeat(limits::VALUE_BYTES_MAX - 100), None));
    life.done(put("huge", "small", None));
    // All wait before the reader begins: together they ask for more than one pass may hold.
    let waiting: Vec<u64> = (0..40).map(|_| life.ask(history("a", None, None))).collect();
    let huge = life.ask(history("huge", None, None));
    let older = life.ask(history("huge", None, Some(12)));
    life.until("all wait", |life| life.histories.len() == 42);
    let reader = life.reader();
    for id in waiting {
        let Ok(Answer::History { versions, more, .. }) = life.outcome(id).result else { panic!() };
        assert_eq!(versions.iter().map(|version| version.revision).collect::<Vec<_>>(), [10, 9, 8], "a page of 4 MiB");
        assert!(more);
    }
    let mut count = |id, expected: &[u64]| {
        let Ok(Answer::History { versions, .. }) = life.outcome(id).result else { panic!() };
        assert_eq!(versions.iter().map(|version| version.revision).collect::<Vec<_>>(), expected);
    };
    count(huge, &[12]);
    count(older, &[11]);
    life.end(reader);
}

#[test]
fn more_calls_than_may_wait_are_busy_and_nobody_else_waits() {
    let mut life = Life::begin(&SimStorage::new(), 64 << 20, NO_MEMORY);
    life.done(put("k", "v", None));
    // There is no reader yet.
    let waiting: Vec<u64> = (0..limits::HISTORY_CALLS_MAX).map(|_| life.ask(history("k", None, None))).collect();
    let refused = life.done(history("k", None, None));
    assert_eq!((code(&refused), refused.result.unwrap_err().retry_after_ms), (ErrorCode::Busy, Some(limits::RETRY_AFTER_MS)));
    assert_eq!(life.done(put("k", "w", None)).revision, Some(2));
    assert!(waiting.iter().all(|id| !life.outcomes.contains_key(id)));
    let reader = life.reader();
    for id in waiting {
        let Ok(Answer::History { versions, .. }) = life.outcome(id).result else { panic!() };
        assert_eq!(versions.len(), 1, "as of the moment at which it was asked");
    }
    assert_eq!(life.history(history("k", None, None)).0.len(), 2);
    life.end(reader);
}

#[test]
fn one_user_has_only_its_part_of_the_queue() {
    let mut life = Life::begin(&SimStorage::new(), 64 << 20, NO_MEMORY);
    life.done(put("k", "v", None));
    life.access.replace([("ann".into(), Access::new(Role::Read, vec![]).unwrap())].into());
    life.user = "ann";
    let waiting: Vec<u64> = (0..limits::HISTORY_CALLS_PER_USER_MAX).map(|_| life.ask(history("k", None, None))).collect();
    assert_eq!(code(&life.done(history("k", None, None))), ErrorCode::Busy);
    life.user = "owner";
    let of_owner = life.ask(history("k", None, None));
    let reader = life.reader();
    assert!(waiting.into_iter().chain([of_owner]).all(|id| life.outcome(id).result.is_ok()));
    // What was answered leaves room again.
    life.user = "ann";
    assert!(life.done(history("k", None, None)).result.is_ok());
    life.end(reader);
}

#[test]
fn whoever_may_not_read_the_key_any_more_is_refused_while_the_call_waits() {
    let mut life = Life::begin(&SimStorage::new(), 64 << 20, NO_MEMORY);
    life.done(put("k", "v", None));
    let reads = |prefix: &str| Access::new(Role::Read, vec![prefix.into()]).unwrap();
    let reads_all = || Access::new(Role::Read, vec![]).unwrap();
    life.access.replace([("ann".into(), reads("k")), ("bob".into(), reads("k")), ("eve".into(), reads_all())].into());
    let waiting = ["ann", "bob", "eve", "owner"].map(|user| {
        life.user = user;
        life.ask(history("k", None, None))
    });
    life.until("all wait for the log's reader", |life| life.histories.len() == 4);
    life.access.replace([("bob".into(), reads("other")), ("eve".into(), reads_all())].into());
    let reader = life.reader();
    let refused = waiting.map(|id| life.outcome(id).result.err().map(|failure| failure.code));
    assert_eq!(refused, [Some(ErrorCode::Refused), Some(ErrorCode::Refused), None, None]);
    life.end(reader);
}

#[test]
fn who_waits_at_a_stop_is_told_so() {
    let mut life = Life::begin(&SimStorage::new(), 64 << 20, NO_MEMORY);
    life.done(put("k", "v", None));
    let waiting = [life.ask(history("k", None, None)), life.ask(history("k", None, None))];
    life.intake.close();
    life.until("the worker has ended", |life| life.worker.is_finished());
    let reader = life.reader();
    for id in waiting {
        assert_eq!(code(&life.outcome(id)), ErrorCode::ShuttingDown);
    }
    life.end(reader);
}

#[test]
fn what_cannot_be_read_back_fails_the_call_and_nothing_else() {
    let disk = SimStorage::new();
    let mut life = Life::begin(&disk, 6_000, NO_MEMORY);
    let reader = life.reader();
    for at in 0..100 {
        life.done(put("often", &format!("{at}{}", "v".repeat(100)), None));
    }
    assert_eq!(life.history(history("often", None, None)).0.len(), 100);
    let name = "table.txn.00000002";
    let whole = disk.contents(name).unwrap();
    let mut damaged = whole.clone();
    damaged[4_500] ^= 1;
    disk.overwrite(name, Some(damaged));
    let failed = life.done(history("often", None, None));
    assert_eq!(code(&failed), ErrorCode::Internal);
    assert!(failed.result.unwrap_err().message.contains("could not read its log back"));
    assert_eq!(life.history(history("often", Some(2), None)).0.len(), 2, "the newest segments are whole");
    assert_eq!(life.done(put("often", "again", None)).revision, Some(101));
    disk.overwrite(name, None);
    assert_eq!(code(&life.done(history("often", None, None))), ErrorCode::Internal);
    disk.overwrite(name, Some(whole));
    assert_eq!(life.history(history("often", None, None)).0.len(), 100);
    life.end(reader);
}
