//! A life: turns of a worker with queues, drawn from a seed, and what its clients were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kvbroker_core::State;
use kvbroker_log::{CrashChoice, LogError, SimStorage, SyncMode};
use kvbroker_protocol::{
    Answer, Declaration, ItemId, Operation, Operations, Pull, Push, QueueAnswer, QueueOperation, Receipt, Stored, Txn,
};
use kvbroker_table::SimClock;
use serde_json::json;

use super::{Config, PlantedBug, Stop};
use crate::watch_sim::PlantedBug as WatchBug;
use crate::watch_sim::process::{Process, Settings, Token};
use crate::{Dice, operation};

/// Wall-clock time at the beginning, microseconds.
const WALL_US: u64 = 1_700_000_000_000_000;
/// How long a lease runs.
pub(super) const LEASE_MS: u64 = 1_000;
/// Queues: two whose items die into the second one. The last one is transient.
pub(super) const QUEUES: [&str; 3] = ["jobs", "jobs.dead", TRANSIENT];
/// The transient one.
pub(super) const TRANSIENT: &str = "live";
/// Deliveries that are not over are remembered up to so many.
const KNOWN_MAX: usize = 12;

/// What clients were told in one epoch.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Items.
    pub pushed: BTreeSet<ItemId>,
    /// Deliveries.
    pub receipts: BTreeSet<Receipt>,
    /// How many transactions were done.
    pub transactions: u64,
}

/// A life that was lived, to its end or until it was stopped.
pub(super) struct Life {
    pub(super) mode: SyncMode,
    pub(super) disk: SimStorage,
    pub(super) clock: Arc<SimClock>,
    /// The state after each turn.
    pub(super) states: Vec<State>,
    /// Of this epoch.
    pub(super) epoch: u64,
    pub(super) told: Told,
    /// Something that must not be.
    pub(super) trouble: Option<String>,
    /// Items that time has removed or taken back.
    pub(super) expired: u64,
    /// Transactions over the transient queue and what is kept.
    pub(super) mixed: u64,
    bug: Option<PlantedBug>,
    seed: u64,
    dice: Dice,
    process: Option<Process>,
    stop: Option<(u64, Stop)>,
    /// Operations on disks before the last power failure.
    spent: u64,
    starts: u64,
    next_token: Token,
    /// Deliveries that a client may have.
    known: Vec<(usize, Receipt)>,
    /// From which queue each pull under way is.
    pulled_from: BTreeMap<Token, usize>,
}

pub(super) fn queue(operation: QueueOperation) -> Operation {
    Operation::Queue(Box::new(operation))
}

impl Life {
    /// Lives it: to its end, or until it is stopped at this operation on its disks.
    pub(super) fn live(seed: u64, config: &Config, mode: SyncMode, stop: Option<(u64, Stop)>) -> Life {
        let mut life = Life {
            mode,
            disk: SimStorage::new(),
            clock: Arc::new(SimClock::new(WALL_US)),
            states: Vec::new(),
            epoch: 0,
            told: Told::default(),
            trouble: None,
            expired: 0,
            mixed: 0,
            bug: config.bug,
            seed,
            dice: Dice::new(seed),
            process: None,
            stop,
            spent: 0,
            starts: 0,
            next_token: 0,
            known: Vec::new(),
            pulled_from: BTreeMap::new(),
        };
        life.arm();
        let mut result = life.start();
        for turn in 0..config.turns {
            if result.is_ok() {
                result = life.turn(turn);
            }
        }
        if let Err(error) = result {
            let is_stopped = life.disk.is_stopped();
            let has_struck = matches!(stop, Some((_, Stop::By(_)))) && !life.disk.fault_is_waiting();
            if !is_stopped && !has_struck {
                life.trouble = Some(format!("the broker ended: {error}"));
            }
        }
        life
    }

    /// Items that the transient queue would have handed out at the end: a crash loses them.
    pub(super) fn transient_items(&self) -> usize {
        self.states.last().map_or(0, |state| state.ready_items(TRANSIENT.as_bytes()))
    }

    /// Operations on all disks of this life.
    pub(super) fn operations(&self) -> u64 {
        self.spent + self.disk.operations()
    }

    fn arm(&self) {
        match self.stop {
            Some((at, Stop::At)) => self.disk.stop_at(at.saturating_sub(self.spent)),
            Some((at, Stop::By(fault))) => self.disk.inject(at.saturating_sub(self.spent), fault),
            None => {}
        }
    }

    fn start(&mut self) -> Result<(), LogError> {
        self.starts += 1;
        let settings = settings(self.mode, self.bug);
        let seed = self.seed.wrapping_add(self.starts);
        let (process, _) = Process::start(&self.disk, &settings, &self.clock, seed, self.epoch)?;
        if process.epoch != self.epoch {
            (self.epoch, self.told) = (process.epoch, Told::default());
        }
        self.states.push(process.state().clone());
        self.process = Some(process);
        Ok(())
    }

    /// Another disk goes on where this one was.
    fn replace_disk(&mut self, disk: SimStorage) {
        let is_armed = !matches!(self.stop, Some((_, Stop::By(_)))) || self.disk.fault_is_waiting();
        self.spent += self.disk.operations();
        self.disk = disk;
        if is_armed {
            self.arm();
        }
    }

    fn turn(&mut self, turn: usize) -> Result<(), LogError> {
        match self.dice.below(30) {
            0 if turn > 5 => {
                self.process = None;
                self.replace_disk(self.disk.after_kill());
                return self.start();
            }
            1 if turn > 5 => {
                self.process = None;
                let choice = CrashChoice::Random(self.dice.number());
                self.replace_disk(self.disk.after_power_failure(&choice));
                return self.start();
            }
            2..=6 => self.clock.advance(1_000 * self.dice.below(1_300) as u64),
            _ => {}
        }
        let asked: Vec<Operation> =
            if turn == 0 { declarations() } else { (0..self.dice.below(4)).map(|_| self.wish()).collect() };
        let care = (self.dice.below(6), 1 + self.dice.below(3_000) as u64);
        let Some(process) = &mut self.process else { return Ok(()) };
        for operation in asked {
            self.next_token += 1;
            if let Operation::Queue(pull) = &operation
                && let QueueOperation::Pull(pull) = &**pull
            {
                let at = QUEUES.iter().position(|name| name.as_bytes() == pull.queue);
                self.pulled_from.extend(at.map(|at| (self.next_token, at)));
            }
            process.ask(1, self.next_token, Operations::One(operation));
        }
        let before = process.revision();
        let result = process.step(false);
        let revisions = process.revision() - before;
        let answers = process.answers();
        // What is answered is in the log, also if what comes next fails.
        let changes = answers.iter().filter(|(_, outcome)| outcome.revision.is_some_and(|revision| revision > before)).count();
        self.expired += revisions.saturating_sub(changes as u64);
        for (token, outcome) in answers {
            // Transactions pull from the first one.
            let from = self.pulled_from.remove(&token).unwrap_or(0);
            if let Ok(answer) = outcome.result {
                self.hear(from, answer);
            }
        }
        result?;
        let stamp_ms = self.clock_ms();
        let Some(process) = &mut self.process else { return Ok(()) };
        self.states.push(process.state().clone());
        // What a checkpoint does changes no state.
        match care.0 {
            0 => process.seal(),
            1 => process.trim(stamp_ms),
            2..=4 => process.advance_checkpoint(care.1),
            _ => Ok(()),
        }
    }

    pub(super) fn bug(&self) -> Option<PlantedBug> {
        self.bug
    }

    fn clock_ms(&self) -> u64 {
        use kvbroker_table::Clock;
        self.clock.now().wall_us / 1_000
    }

    fn hear(&mut self, from: usize, answer: Answer) {
        match answer {
            Answer::Queue(QueueAnswer::Pushed { item, .. }) if self.told.pushed.insert(item) => {}
            Answer::Queue(QueueAnswer::Pushed { item, .. }) => {
                self.trouble = Some(format!("the id {item} was given out twice in an epoch"));
            }
            Answer::Queue(QueueAnswer::Pulled { items, .. }) => {
                for delivery in items {
                    if !self.told.receipts.insert(delivery.receipt) {
                        self.trouble = Some(format!("the receipt {} was given out twice in an epoch", delivery.receipt));
                    }
                    self.known.push((from, delivery.receipt));
                }
                let excess = self.known.len().saturating_sub(KNOWN_MAX);
                self.known.drain(..excess);
            }
            Answer::Txn { results, .. } => {
                let pushed = |wanted| {
                    results.iter().any(|outcome| {
                        matches!(&outcome.result,
                        Ok(Answer::Queue(QueueAnswer::Pushed { transient, .. })) if *transient == wanted)
                    })
                };
                self.mixed += u64::from(pushed(true) && pushed(false));
                for answer in results.into_iter().filter_map(|outcome| outcome.result.ok()) {
                    self.hear(from, answer);
                }
                self.told.transactions += 1;
            }
            _ => {}
        }
    }

    /// Something that a client asks for.
    fn wish(&mut self) -> Operation {
        let dice = &mut self.dice;
        let name = || QUEUES[0].as_bytes().to_vec();
        let mut push = || Push {
            queue: QUEUES[[0, 0, 0, 0, 0, 1, 2, 2][dice.below(8)]].into(),
            value: {
                let length = 4 + 300 * (dice.below(6) / 5);
                Stored::bytes(&dice.bytes(length)).expect("it is small")
            },
            priority: [0, 0, 0, 3, -3][dice.below(5)],
            delay_ms: [0, 0, 0, 400][dice.below(4)],
            ttl_ms: (dice.below(8) == 0).then_some(900),
            content_type: (dice.below(4) == 0).then(|| "text/plain".to_owned()),
        };
        let pushed = push();
        let another = push();
        let pull = |dice: &mut Dice| Pull {
            queue: QUEUES[[0, 0, 0, 0, 1, 2, 2][dice.below(7)]].into(),
            limit: 1 + dice.below(3),
            lease_ms: None,
            wait_ms: 0,
            no_ack: dice.below(10) == 0,
        };
        let kind = dice.below(26);
        let latest = self.known.len().checked_sub(1 + dice.below(4)).and_then(|at| self.known.get(at).copied());
        match (kind, latest) {
            (0..=3, _) => queue(QueueOperation::Push(pushed)),
            // Pushed and handed out at one revision.
            (7, _) => {
                let direct = Push { queue: name(), delay_ms: 0, priority: 9, ..pushed };
                let take = Pull { queue: name(), limit: 1, lease_ms: None, wait_ms: 0, no_ack: false };
                txn(vec![queue(QueueOperation::Push(direct)), queue(QueueOperation::Pull(take)), put(dice.number())])
            }
            // What is kept and what is not, at one revision.
            (24.., _) => {
                let live = Push { queue: TRANSIENT.into(), ..pushed };
                let kept = Push { queue: name(), ..another };
                txn(vec![queue(QueueOperation::Push(live)), queue(QueueOperation::Push(kept)), put(dice.number())])
            }
            (8, _) => txn(vec![queue(QueueOperation::Push(pushed)), queue(QueueOperation::Push(another)), put(dice.number())]),
            (9, _) => match dice.below(4) {
                0 => queue(QueueOperation::Kick { queue: QUEUES[1].into(), item: None, limit: Some(2) }),
                1 => queue(QueueOperation::Purge { queue: QUEUES[dice.below(QUEUES.len())].into(), state: None, limit: Some(1) }),
                _ => {
                    let retry_ms = Some(dice.below(3) as u64 * 100);
                    queue(QueueOperation::Declare { queue: name(), options: Declaration { retry_ms, ..Declaration::default() } })
                }
            },
            (10.., Some((from, receipt))) => self.end_delivery(QUEUES[from], receipt),
            (4..=6 | 10.., _) => queue(QueueOperation::Pull(pull(dice))),
        }
    }

    /// Something that is said about a delivery.
    fn end_delivery(&mut self, name: &str, receipt: Receipt) -> Operation {
        let dice = &mut self.dice;
        let ack = QueueOperation::Ack { queue: name.into(), receipt };
        match dice.below(12) {
            0..=3 => queue(ack),
            4..=6 => {
                let (item, token, delay) = (receipt.item.to_string(), receipt.token, [0, 300][dice.below(2)]);
                operation(&json!({"op": "nack", "queue": name, "item": item, "token": token, "delay": delay, "reason": "later"}))
            }
            7 => {
                let (item, token) = (receipt.item, Some(receipt.token));
                queue(QueueOperation::Bury { queue: name.into(), item, token, reason: "never".to_owned() })
            }
            _ => txn(vec![queue(ack), put(dice.number())]),
        }
    }
}

fn put(number: u64) -> Operation {
    let key = format!("done/{}", number % 5).into_bytes();
    Operation::Put { key, value: Stored::integer(number.into()), condition: None, ttl_ms: None }
}

fn txn(then: Vec<Operation>) -> Operation {
    Operation::Txn(Box::new(Txn { compares: vec![], then, otherwise: vec![] }))
}

fn declarations() -> Vec<Operation> {
    let declare = |queue: &str, dead: Option<&str>, deliveries: u32| {
        let options = Declaration {
            lease_ms: Some(LEASE_MS),
            max_deliveries: Some(deliveries),
            dead: dead.map(Into::into),
            transient: (queue == TRANSIENT).then_some(true),
            ..Declaration::default()
        };
        self::queue(QueueOperation::Declare { queue: queue.into(), options })
    };
    vec![declare(QUEUES[0], Some(QUEUES[1]), 2), declare(QUEUES[1], None, 1), declare(TRANSIENT, Some(QUEUES[1]), 2)]
}

/// How the broker of a life is started.
pub(super) fn settings(mode: SyncMode, bug: Option<PlantedBug>) -> Settings {
    Settings {
        mode,
        history_bytes: 2_000,
        log_history_bytes: 0,
        segment_bytes: 4_096 + 3_000,
        queue_bytes: 1_000,
        bug: (bug == Some(PlantedBug::EpochKept)).then_some(WatchBug::EpochKept),
        spoil: bug.and_then(PlantedBug::spoiler),
    }
}
