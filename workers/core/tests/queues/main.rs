//! A long random walk over queues, compared step by step with a plain model.
//!
//! - The model searches lists from end to end and knows nothing of records, indexes or overlays; where it and the core differ, one of them
//!   is wrong.
//! - A twin gets only the logged changes, as recovery does, and must stay equal; now and then the state is made anew from its records, or
//!   from the twin, as by a start, and the walk goes on with that one. So does a third one by way of a [`Backlog`], which makes the changes of
//!   the table late and in another order: some transactions change keys, too.
//! - The walk is decided by a seed, which a failure prints. `KVBROKER_QUEUE_STEPS=5000000` walks so many steps in all, and
//!   `KVBROKER_QUEUE_SEED=N` begins with another seed.

#![allow(clippy::unwrap_used)]

mod model;

use kvbroker_core::{Backlog, Change, Decision, Loader, Stamp, State, Turn, decide, expire_item};
use kvbroker_protocol::{
    Answer, Declaration, ItemId, ItemState, Operation, Overflow, Pull, Push, QueueAnswer, QueueInfo, QueueOperation, Receipt,
    Scope, Stored, Txn, Until,
};

use model::{Model, Stage};

const NAMES: [&[u8]; 3] = [b"jobs", b"jobs.dead", b"other"];

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % bound as u64) as usize
    }

    fn of<T: Copy>(&mut self, several: &[T]) -> T {
        several[self.below(several.len())]
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

#[derive(Default, Debug)]
struct Seen {
    deliveries: usize,
    acks: usize,
    lost: usize,
    full: usize,
    died: usize,
    expired: usize,
    dropped: usize,
    restarts: usize,
    txns: usize,
    failed_txns: usize,
    /// Transactions with a key of the table.
    keys: usize,
    tracked_ends: usize,
    /// Changes that are in no record.
    transient: usize,
}

struct Walk {
    dice: Dice,
    state: State,
    twin: State,
    /// Behind with the changes in the backlog.
    replayed: State,
    backlog: Backlog,
    model: Model,
    /// Receipts that were handed out, old ones included.
    receipts: Vec<(Vec<u8>, Receipt)>,
    seen: Seen,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut model = Model::default();
        model.now_ms = 1_000_000;
        Walk {
            dice: Dice(seed | 1),
            state: State::new(),
            twin: State::new(),
            replayed: State::new(),
            backlog: Backlog::new(),
            model,
            receipts: vec![],
            seen: Seen::default(),
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp { revision: self.state.revision() + 1, time_ms: self.model.now_ms }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        let revision = self.state.revision() + 1;
        for change in changes {
            let mut key = Vec::new();
            change.write_record_key(&mut key);
            let logged = self.state.logged_value(&change);
            let read = Change::from_record(&key, logged).unwrap();
            assert!(read == change || logged.is_none(), "what is logged reads back");
            self.seen.transient += usize::from(read != change);
            self.backlog.take(&mut self.replayed, &key, logged, revision).unwrap();
            self.twin.apply(read, revision);
            self.state.apply(change, revision);
        }
    }

    /// Lets time go on, and does what it brings.
    fn pass(&mut self, ms: u64) {
        self.model.now_ms += ms;
        let now_ms = self.model.now_ms;
        assert!(!self.state.advance_queues(now_ms, |_| {}));
        loop {
            let (due, expected) = (self.state.due_items(now_ms, 1_000), self.model.due());
            assert_eq!(due.len(), expected.len().min(1_000));
            if due.is_empty() {
                break;
            }
            for (due, (_, _, id, name)) in due.into_iter().zip(expected) {
                let stamp = self.stamp();
                self.model.begin(stamp.revision);
                self.model.expire(&name, id);
                let (changes, ended) = expire_item(&self.state, due, stamp);
                self.state.note_ends(ended);
                assert!(!changes.is_empty(), "{due:?}");
                self.apply(changes);
                self.seen.expired += 1;
            }
        }
        assert!(self.state.next_queue_ms().is_none_or(|at_ms| at_ms > now_ms));
    }

    fn decide(&mut self, operation: Operation) -> Decision {
        decide(&self.state, &Scope::all(), operation, self.stamp(), &mut Turn::one())
    }

    fn queue(&mut self, operation: QueueOperation) -> Answer {
        self.decide(Operation::Queue(Box::new(operation))).outcome.result.unwrap()
    }

    fn name(&mut self) -> Vec<u8> {
        self.dice.of(&NAMES).to_vec()
    }

    fn receipt(&mut self) -> (Vec<u8>, Receipt) {
        if self.receipts.is_empty() || self.dice.once_in(40) {
            return (self.name(), Receipt { item: ItemId::new(3, 0).unwrap(), token: 4 });
        }
        // Mostly a late one, which may still be good.
        let from = if self.dice.once_in(8) { 0 } else { self.receipts.len().saturating_sub(12) };
        let at = from + self.dice.below(self.receipts.len() - from);
        let (name, mut receipt) = self.receipts[at].clone();
        if self.dice.once_in(30) {
            receipt.token += 1;
        }
        (name, receipt)
    }

    fn operation(&mut self) -> QueueOperation {
        let queue = self.name();
        match self.dice.below(100) {
            0..=34 => {
                let size = self.dice.of(&[1, 1, 5, 40]);
                let text = format!("{}{}", self.state.revision(), "x".repeat(size));
                QueueOperation::Push(Push {
                    queue,
                    value: Stored::text(&text).unwrap(),
                    priority: self.dice.of(&[0, 0, 0, 0, 1, -1, 127, -128]),
                    delay_ms: self.dice.of(&[0, 0, 0, 5, 300]),
                    ttl_ms: self.dice.of(&[None, None, None, Some(1), Some(400)]),
                    content_type: self.dice.once_in(5).then(|| "text/plain".to_owned()),
                })
            }
            35..=59 => QueueOperation::Pull(Pull {
                queue,
                limit: self.dice.of(&[1, 1, 1, 3, 10, 5_000]),
                lease_ms: self.dice.of(&[None, None, Some(100), Some(1_000)]),
                wait_ms: 0,
                no_ack: self.dice.once_in(12),
            }),
            60..=74 => {
                let (queue, receipt) = self.receipt();
                QueueOperation::Ack { queue, receipt }
            }
            75..=83 => {
                let ((queue, receipt), delay_ms) = (self.receipt(), self.dice.of(&[None, Some(0), Some(50)]));
                let (reason, unused) = (self.dice.of(&["", "no disk"]).to_owned(), self.dice.once_in(4));
                QueueOperation::Nack { queue, receipt, delay_ms, reason, unused }
            }
            84..=87 => {
                let (queue, receipt) = self.receipt();
                let token = self.dice.of(&[None, Some(receipt.token)]);
                QueueOperation::Bury { queue, item: receipt.item, token, reason: self.dice.of(&["", "bad"]).to_owned() }
            }
            88..=90 => {
                let (other, receipt) = self.receipt();
                let item = self.dice.once_in(2).then_some(receipt.item);
                let queue = if item.is_some() { other } else { queue };
                QueueOperation::Kick { queue, item, limit: self.dice.of(&[None, Some(1), Some(7)]) }
            }
            91 => {
                let state = self.dice.of(&[None, Some(ItemState::Ready), Some(ItemState::Delayed), Some(ItemState::Dead)]);
                QueueOperation::Purge { queue, state, limit: self.dice.of(&[Some(2), Some(9), Some(9), None]) }
            }
            92..=93 => QueueOperation::Peek {
                queue,
                state: self.dice.of(&ItemState::ALL),
                limit: self.dice.of(&[None, Some(3)]),
                cursor: None,
            },
            94..=97 => {
                let options = Declaration {
                    lease_ms: self.dice.of(&[None, Some(100), Some(700)]),
                    max_deliveries: self.dice.of(&[None, Some(0), Some(2), Some(4)]),
                    retry_ms: self.dice.of(&[None, Some(0), Some(60)]),
                    ttl_ms: self.dice.of(&[None, Some(0), Some(900)]),
                    max_items: self.dice.of(&[None, Some(0), Some(20)]),
                    max_bytes: self.dice.of(&[None, Some(0), Some(500), Some(30)]),
                    overflow: self.dice.of(&[None, Some(Overflow::Reject), Some(Overflow::DropOldest)]),
                    dead: self.dice.of(&[None, Some(&b""[..]), Some(b"jobs.dead"), Some(b"jobs")]).map(<[u8]>::to_vec),
                    paused: self.dice.of(&[None, None, Some(false), Some(false), Some(true)]),
                    transient: self.dice.of(&[None, None, None, None, Some(false), Some(false), Some(true)]),
                    must_exist: self.dice.once_in(4),
                };
                QueueOperation::Declare { queue, options }
            }
            _ => QueueOperation::Drop { queue },
        }
    }

    fn note(&mut self, operation: &QueueOperation, answer: &Answer) {
        match (operation, answer) {
            (QueueOperation::Pull(pull), Answer::Queue(QueueAnswer::Pulled { items, .. })) => {
                self.seen.deliveries += items.len();
                self.receipts.extend(items.iter().map(|item| (pull.queue.clone(), item.receipt)));
            }
            (QueueOperation::Ack { .. }, _) => self.seen.acks += 1,
            _ => {}
        }
    }

    fn step(&mut self) {
        let ms = if self.dice.once_in(3) { self.dice.of(&[1, 1, 10, 50, 200]) } else { 0 };
        self.pass(ms);
        match self.dice.below(100) {
            0..=3 => self.extend(),
            4..=6 => self.track(),
            7..=11 => self.txn(),
            _ => {
                let operation = self.operation();
                self.one(operation);
            }
        }
        if self.dice.once_in(400) {
            self.restart();
        }
    }

    fn one(&mut self, operation: QueueOperation) {
        let stamp = self.stamp();
        self.model.begin(stamp.revision);
        let before = self.model.clone();
        let expected = self.model.operate(&operation);
        let items_before: usize = before.queues.values().map(|queue| queue.items.len()).sum();
        let decision = self.decide(Operation::Queue(Box::new(operation.clone())));
        let got = decision.outcome.result.clone().map_err(|failure| failure.code);
        assert_eq!(got, expected, "{operation:?} at {stamp:?}");
        match &got {
            Ok(answer) => {
                self.note(&operation, answer);
                let items: usize = self.model.queues.values().map(|queue| queue.items.len()).sum();
                self.seen.dropped += usize::from(matches!(operation, QueueOperation::Push(_)) && items <= items_before);
            }
            Err(code) => {
                assert_eq!(decision.changes, []);
                self.model = before;
                self.seen.lost += usize::from(code.name() == "lease_lost");
                self.seen.full += usize::from(code.name() == "queue_full");
            }
        }
        self.apply(decision.changes);
        self.state.note_ends(decision.ended);
    }

    /// Several at one revision, or none.
    fn txn(&mut self) {
        let mut operations = Vec::new();
        while operations.len() < 2 + self.dice.below(6) {
            let operation = self.operation();
            if operation.fits_into_txn() {
                operations.push(operation);
            }
        }
        let stamp = self.stamp();
        self.model.begin(stamp.revision);
        let before = self.model.clone();
        let mut expected = Ok(Vec::new());
        for operation in &operations {
            let outcome = self.model.operate(operation);
            expected = expected.and_then(|mut answers: Vec<Answer>| outcome.map(|answer| answers.push(answer)).map(|()| answers));
            if expected.is_err() {
                break;
            }
        }
        let mut then: Vec<_> = operations.iter().map(|operation| Operation::Queue(Box::new(operation.clone()))).collect();
        let changes_a_key = self.dice.once_in(3);
        if changes_a_key {
            let key = format!("{}", self.dice.below(50)).into_bytes();
            then.push(match self.dice.once_in(4) {
                true => Operation::Incr { key: [b"sum", &key[..]].concat(), by: 1 },
                false => Operation::Put { key, value: Stored::integer(stamp.revision.into()), condition: None, ttl_ms: None },
            });
        }
        let decision = self.decide(Operation::Txn(Box::new(Txn { compares: vec![], then, otherwise: vec![] })));
        match (decision.outcome.result.clone(), expected) {
            (Ok(Answer::Txn { results, .. }), Ok(answers)) => {
                let mut results: Vec<Answer> = results.into_iter().map(|outcome| outcome.result.unwrap()).collect();
                results.truncate(operations.len());
                self.seen.keys += usize::from(changes_a_key);
                assert_eq!(results, answers, "{operations:?}");
                operations.iter().zip(&answers).for_each(|(operation, answer)| self.note(operation, answer));
                self.seen.txns += 1;
            }
            (Err(failure), Err(code)) => {
                assert_eq!(failure.code, code, "{operations:?}");
                assert_eq!(decision.changes, []);
                self.model = before;
                self.seen.failed_txns += 1;
            }
            other => panic!("{operations:?}: {other:?}"),
        }
        self.apply(decision.changes);
        self.state.note_ends(decision.ended);
    }

    fn track(&mut self) {
        let (queue, Receipt { item, .. }) = self.receipt();
        let got = self.state.track_item(&queue, item);
        let operation = QueueOperation::Track { queue: queue.clone(), item, until: Until::Done, wait_ms: 0 };
        let answered = self.decide(Operation::Queue(Box::new(operation))).outcome.result;
        assert_eq!(answered, got.clone().map(|tracked| Answer::Queue(QueueAnswer::Tracked(tracked))));
        match (got, self.model.track(&queue, item)) {
            (Ok(tracked), Some(expected)) => {
                assert_eq!(tracked, expected);
                self.seen.tracked_ends += usize::from(tracked.progress.is_end());
            }
            (Ok(tracked), None) => assert!(tracked.progress.is_end(), "{tracked:?}"),
            (Err(failure), expected) => assert!(expected.is_none() && item.revision() > self.state.revision(), "{failure:?}"),
        }
    }

    fn extend(&mut self) {
        let ((queue, receipt), lease_ms) = (self.receipt(), self.dice.of(&[None, Some(100), Some(5_000)]));
        let expected = self.model.operate(&QueueOperation::Extend { queue: queue.clone(), receipt, lease_ms });
        let got = self.state.extend_lease(&queue, receipt, lease_ms, self.model.now_ms);
        assert_eq!(got.map_err(|failure| failure.code), expected);
    }

    /// The state from its records, or from what was logged: as after a start.
    fn restart(&mut self) {
        assert!(self.state == self.twin, "the twin differs");
        self.backlog.settle(&mut self.replayed);
        assert!(self.state == self.replayed, "what was replayed by way of the backlog differs");
        assert_eq!(self.replayed.next_queue_ms(), self.twin.next_queue_ms());
        self.seen.restarts += 1;
        if self.dice.once_in(2) {
            let mut loader = Loader::new();
            let mut behind = None;
            loop {
                let bytes = self.dice.of(&[1, 50, 2_000, 1 << 20]);
                let slice = self.state.records_after(behind.as_deref(), bytes);
                for record in &slice.records {
                    loader.record(&record.key, &record.value, record.revision).unwrap();
                }
                behind = slice.records.last().map(|record| record.key.clone()).or(behind);
                if slice.is_end {
                    break;
                }
            }
            let loaded = loader.finish(self.state.revision()).unwrap();
            assert!(loaded == self.state, "the records differ");
            self.state = loaded;
        } else {
            self.state = self.twin.clone();
        }
        self.model.restart();
        self.state.renew_leases(self.model.now_ms);
        self.pass(0);
        self.check_whole();
    }

    fn check_whole(&mut self) {
        let names: Vec<Vec<u8>> = self.model.queues.keys().cloned().collect();
        let all = QueueOperation::Queues { queue: None, prefix: vec![], cursor: None, limit: None };
        let Answer::Queue(QueueAnswer::Queues { queues, cursor: None }) = self.queue(all) else { panic!("one page of queues") };
        assert_eq!(queues.iter().map(|info| info.queue.clone()).collect::<Vec<_>>(), names);
        let (items, bytes) = (|info: &QueueInfo| info.number("items"), |info: &QueueInfo| info.number("bytes"));
        let of_all = (queues.iter().map(items).sum::<u64>(), queues.iter().map(bytes).sum::<u64>());
        assert_eq!((self.state.queue_items() as u64, self.state.queue_bytes()), of_all);
        for (info, name) in queues.iter().zip(&names) {
            let queue = self.model.queues[name].clone();
            let count = |state| queue.in_order(state, self.model.now_ms).len() as u64;
            for state in ItemState::ALL {
                assert_eq!(info.number(state.name()), count(state), "{} in {name:?}", state.name());
            }
            assert_eq!((info.number("items"), info.number("bytes")), (queue.items.len() as u64, queue.bytes()));
            assert_eq!(self.state.ready_items(name) as u64, if queue.options.paused { 0 } else { count(ItemState::Ready) });
            for state in ItemState::ALL {
                let expected: Vec<_> =
                    queue.in_order(state, self.model.now_ms).iter().map(|item| model::shown(item, state)).collect();
                let (mut items, mut cursor) = (Vec::new(), None);
                loop {
                    let page = QueueOperation::Peek { queue: name.clone(), state, limit: Some(7), cursor };
                    let Answer::Queue(QueueAnswer::Peeked { items: some, cursor: next }) = self.queue(page) else {
                        panic!("a page")
                    };
                    items.extend(some);
                    cursor = next;
                    if cursor.is_none() {
                        break;
                    }
                }
                assert_eq!(items, expected, "{name:?}");
            }
            self.seen.died =
                self.seen.died.max(queue.items.iter().filter(|item| matches!(item.stage, Stage::Dead { .. })).count());
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

#[test]
fn queues_do_what_the_model_does() {
    const SEEDS: u64 = 8;
    let (first, steps) = (number("KVBROKER_QUEUE_SEED", 1), number("KVBROKER_QUEUE_STEPS", 160_000) / SEEDS);
    for seed in first..first + SEEDS {
        let walked = std::panic::catch_unwind(|| {
            let mut walk = Walk::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            // Later a queue is rarely empty when it would become transient.
            let options = Declaration { transient: Some(true), ..Declaration::default() };
            walk.one(QueueOperation::Declare { queue: NAMES[(seed % 3) as usize].to_vec(), options });
            for step in 0..steps {
                walk.step();
                if step % 500 == 0 {
                    walk.check_whole();
                }
            }
            walk.check_whole();
            let Seen {
                deliveries,
                acks,
                lost,
                full,
                died,
                expired,
                dropped,
                restarts,
                txns,
                failed_txns,
                keys,
                tracked_ends,
                transient,
            } = walk.seen;
            let least =
                [deliveries, acks, lost, full, expired, dropped, txns, failed_txns, keys, transient].into_iter().min().unwrap();
            assert!(
                died > 0 && restarts > 10 && tracked_ends > 0 && least as u64 > steps / 2_000,
                "the walk went nowhere: {:?}",
                walk.seen
            );
        });
        if let Err(panic) = walked {
            let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("seed {seed}: {said}");
        }
    }
}
