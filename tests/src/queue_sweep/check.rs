//! What a new process makes of a disk that a stopped life has left.

use std::collections::BTreeSet;
use std::sync::Arc;

use kvbroker_core::State;
use kvbroker_log::SimStorage;
use kvbroker_protocol::{
    Answer, ItemId, ItemState, Operations, Peeked, Pull, Push, QueueAnswer, QueueOperation, Receipt, Stored,
};
use kvbroker_table::{Clock, SimClock};

use super::PlantedBug;
use super::life::{LEASE_MS, Life, QUEUES, TRANSIENT, queue, settings};
use crate::watch_sim::process::Process;

/// What was found.
pub(super) struct Found {
    /// Which of the states that may be there.
    pub(super) state: usize,
    pub(super) leased: usize,
    pub(super) dead: usize,
    pub(super) checkpoint: bool,
}

/// Starts on this disk and looks at everything; `allowed` are the states that may be there.
pub(super) fn check(disk: &SimStorage, life: &Life, allowed: &[&State]) -> Result<Found, String> {
    let disk = disk.after_kill();
    // The time goes on while nobody runs, so that leases would be over.
    let clock = Arc::new(SimClock::new(life.clock.now().wall_us + 700_000));
    // The error is in what was logged; what is logged from now on is right. An epoch that is kept is kept here, too.
    let bug = life.bug().filter(|bug| *bug == PlantedBug::EpochKept);
    let checkpoint = disk.contents("table.ckpt").is_some();
    let (process, _) = Process::start(&disk, &settings(life.mode, bug), &clock, !0, life.epoch)
        .map_err(|error| format!("the start was refused: {error}"))?;
    let Some(state) = allowed.iter().position(|state| *state == process.state()) else {
        return Err(format!(
            "the state at revision {} is none of {} that may be there; the last of these has revision {}",
            process.revision(),
            allowed.len(),
            allowed.last().map_or(0, |state| state.revision())
        ));
    };
    let mut broker = Broker { process, clock, next_token: 0 };
    broker.nothing_is_left_in_memory()?;
    let now_ms = broker.now_ms();
    let leased = broker.peek(ItemState::Leased)?;
    let dead = broker.peek(ItemState::Dead)?.len();
    if let Some((_, early)) = leased.iter().find(|(_, item)| item.due_ms.is_none_or(|due_ms| due_ms < now_ms + LEASE_MS)) {
        return Err(format!("the lease of {} does not run a whole period: until {:?}, now {now_ms}", early.item, early.due_ms));
    }
    let found = Found { state, leased: leased.len(), dead, checkpoint };
    broker.use_everything(life, leased.len())?;
    Ok(found)
}

struct Broker {
    process: Process,
    clock: Arc<SimClock>,
    next_token: u64,
}

impl Broker {
    fn now_ms(&self) -> u64 {
        self.clock.now().wall_us / 1_000
    }

    fn ask(&mut self, operation: QueueOperation) -> Result<Answer, String> {
        self.next_token += 1;
        let asked = format!("{operation:?}");
        self.process.ask(1, self.next_token, Operations::One(queue(operation)));
        self.process.step(false).map_err(|error| format!("{asked}: {error}"))?;
        let answer = self.process.answers().into_iter().find(|(token, _)| *token == self.next_token);
        let (_, outcome) = answer.ok_or_else(|| format!("{asked} was not answered"))?;
        outcome.result.map_err(|failure| format!("{asked}: {failure}"))
    }

    /// The transient queue is as it was declared, and has no items: whatever it had is gone.
    fn nothing_is_left_in_memory(&mut self) -> Result<(), String> {
        let asked = QueueOperation::Queues { queue: Some(TRANSIENT.into()), prefix: vec![], cursor: None, limit: None };
        let queues = match self.ask(asked) {
            Ok(Answer::Queue(QueueAnswer::Queues { queues, .. })) => queues,
            // Before it was declared.
            Err(error) if error.contains("no such queue") => return Ok(()),
            other => return Err(format!("queues: {other:?}")),
        };
        let Some(info) = queues.first() else { return Ok(()) };
        match (info.number("transient"), info.number("items")) {
            (1, 0) => Ok(()),
            (0, _) => Err("the transient queue is not transient any more".to_owned()),
            (_, items) => Err(format!("{items} items of the transient queue are there again")),
        }
    }

    /// Items of all queues in a state.
    fn peek(&mut self, state: ItemState) -> Result<Vec<(&'static str, Peeked)>, String> {
        let mut all = Vec::new();
        for name in QUEUES {
            let peek = QueueOperation::Peek { queue: name.into(), state, limit: None, cursor: None };
            match self.ask(peek) {
                Ok(Answer::Queue(QueueAnswer::Peeked { items, .. })) => all.extend(items.into_iter().map(|item| (name, item))),
                // Before the queues were declared.
                Err(error) if error.contains("no such queue") => {}
                other => return Err(format!("peek: {other:?}")),
            }
        }
        Ok(all)
    }

    /// Pushes, waits for leases to end, takes and acknowledges every item: ids and tokens are new ones, and then nothing is left.
    fn use_everything(&mut self, life: &Life, leased: usize) -> Result<(), String> {
        let is_same_epoch = self.process.epoch == life.epoch;
        for name in [QUEUES[0], TRANSIENT] {
            let value = Stored::integer(1);
            let push = Push { queue: name.into(), value, priority: 0, delay_ms: 0, ttl_ms: None, content_type: None };
            match self.ask(QueueOperation::Push(push))? {
                Answer::Queue(QueueAnswer::Pushed { item, .. }) if is_same_epoch && life.told.pushed.contains(&item) => {
                    return Err(format!("the id {item} is given out a second time"));
                }
                _ => {}
            }
        }
        // Not a moment before.
        self.clock.advance((LEASE_MS - 1) * 1_000);
        if self.peek(ItemState::Leased)?.len() < leased {
            return Err("a lease ended before its period was over".to_owned());
        }
        // And then all; what came back may have to rest for a while.
        for _ in 0..2 {
            self.clock.advance(1_000_000);
            self.peek(ItemState::Leased)?;
        }
        let mut tokens: BTreeSet<Receipt> = BTreeSet::new();
        let mut acknowledged: BTreeSet<(usize, ItemId)> = BTreeSet::new();
        for (at, name) in QUEUES.into_iter().enumerate() {
            loop {
                // One by one: each delivery takes a revision, as those of before did.
                let pull = Pull { queue: name.into(), limit: 1, lease_ms: None, wait_ms: 0, no_ack: false };
                let Answer::Queue(QueueAnswer::Pulled { items, .. }) = self.ask(QueueOperation::Pull(pull))? else {
                    return Err("a pull was answered otherwise".to_owned());
                };
                let Some(delivery) = items.first() else { break };
                let receipt = delivery.receipt;
                if is_same_epoch && life.told.receipts.contains(&receipt) || !tokens.insert(receipt) {
                    return Err(format!("the receipt {receipt} is given out a second time"));
                }
                if !acknowledged.insert((at, receipt.item)) {
                    return Err(format!("the item {} came again after it was acknowledged", receipt.item));
                }
                self.ask(QueueOperation::Ack { queue: name.into(), receipt })?;
            }
        }
        for state in [ItemState::Ready, ItemState::Delayed, ItemState::Leased] {
            let left = self.peek(state)?;
            if !left.is_empty() {
                return Err(format!("{} items are still {}", left.len(), state.name()));
            }
        }
        Ok(())
    }
}
