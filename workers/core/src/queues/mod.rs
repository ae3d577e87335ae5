//! Work queues: which items there are, whose turn it is, who has what until when.
//!
//! - All of it is records in three spaces (see `record.rs`), made by the operations and taken in by [`Queues::apply`] alone: live traffic and
//!   recovery come to the same queues. The indexes are made of the records, and nothing of them is logged.
//! - An item's value is written once. What becomes of the item afterwards is a record of its own, of a few dozen bytes.
//! - Higher priorities come first; of one priority whoever was pushed first. An item that comes back has its old id, and so its old place.
//! - A delivery is a lease with a token, the revision at which it was granted. Whoever shows another token than the last one is refused,
//!   whatever the time is: deadlines say when an item may be handed out again, and protect nothing.
//! - Time is the stamp's. That a delay is over is no change, as nothing but time decides it: [`Queues::advance`] takes note of it. That a lease
//!   or an item's own deadline is over is one, at a revision of its own (`expire.rs`).
//! - How long a lease runs may be changed by its consumer ([`Queues::extend`]) without a record. So after a start every lease runs a whole
//!   period anew ([`Queues::renew_leases`]): nobody knows what was promised, and nobody could acknowledge while nobody listened.
//!
//! - Items of a transient queue are changed as others are, and their changes take revisions; but no record has them: what would be put is
//!   logged as deleted ([`State::logged_value`](crate::State::logged_value)). So a start finds the queue, and nothing in it.
//!
//! Caveat: two states are equal if their records are; renewed leases don't count, nor whether a delay was noted to be over, nor how items
//! ended, how often what happened, nor what is in transient queues.

mod convert;
mod copies;
mod ends;
mod expire;
mod few;
mod kept;
mod operate;
mod overlay;
mod read;
mod record;
mod totals;

use std::collections::{BTreeMap, BTreeSet};

use kvbroker_protocol::{Answer, Declaration, ErrorCode, Failure, ItemId, Overflow, Receipt, limits};

pub(crate) use convert::pull_converted;
pub use ends::Ended;
use ends::Ends;
pub use expire::DueItem;
pub(crate) use expire::expire;
pub(crate) use operate::operate;
pub(crate) use overlay::QueueOverlay;
pub(crate) use record::{ItemRecord, is_record, read_life, read_queue, split_item_key};
use totals::Totals;

/// A queue's id, made as an item's is: of the revision of its declaration. A queue that is made again has another one.
pub(crate) type QueueId = ItemId;

/// A queue's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) lease_ms: u64,
    pub(crate) retry_ms: u64,
    /// 0: none.
    pub(crate) ttl_ms: u64,
    /// 0: no limit; as those below.
    pub(crate) max_deliveries: u32,
    pub(crate) max_items: u64,
    pub(crate) max_bytes: u64,
    pub(crate) overflow: Overflow,
    pub(crate) paused: bool,
    /// Its items are in no record.
    pub(crate) transient: bool,
    /// Empty: what is dead stays.
    pub(crate) dead: Box<[u8]>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            lease_ms: limits::QUEUE_LEASE_MS_DEFAULT,
            retry_ms: 0,
            ttl_ms: 0,
            max_deliveries: limits::QUEUE_DELIVERIES_DEFAULT,
            max_items: 0,
            max_bytes: 0,
            overflow: Overflow::Reject,
            paused: false,
            transient: false,
            dead: Box::default(),
        }
    }
}

impl Options {
    /// With what is declared anew.
    fn with(&self, declared: Declaration) -> Options {
        Options {
            lease_ms: declared.lease_ms.unwrap_or(self.lease_ms),
            retry_ms: declared.retry_ms.unwrap_or(self.retry_ms),
            ttl_ms: declared.ttl_ms.unwrap_or(self.ttl_ms),
            max_deliveries: declared.max_deliveries.unwrap_or(self.max_deliveries),
            max_items: declared.max_items.unwrap_or(self.max_items),
            max_bytes: declared.max_bytes.unwrap_or(self.max_bytes),
            overflow: declared.overflow.unwrap_or(self.overflow),
            paused: declared.paused.unwrap_or(self.paused),
            transient: declared.transient.unwrap_or(self.transient),
            dead: declared.dead.map_or_else(|| self.dead.clone(), Vec::into_boxed_slice),
        }
    }

    /// True if so many items with so many bytes are within the limits.
    fn take(&self, items: u64, bytes: u64) -> bool {
        (self.max_items == 0 || items <= self.max_items) && (self.max_bytes == 0 || bytes <= self.max_bytes)
    }
}

/// Where an item is in its life, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody has it.
    Waiting {
        /// When its delay is over; 0: it has none.
        ready_ms: u64,
        /// Its own deadline does not hold any more.
        stays: bool,
    },
    /// A consumer has it.
    Leased { token: u64, granted_ms: u64, lease_ms: u64 },
    /// It was set aside.
    Dead { since_ms: u64 },
}

/// What has become of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) stage: Stage,
    /// How often it was handed out.
    pub(crate) deliveries: u32,
    /// Why it came back, or is dead.
    pub(crate) reason: Box<str>,
}

/// An item.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Its record, with its value.
    record: Box<[u8]>,
    life: Life,
    /// When its lease ends, if it has one: not before its record says, later where it was renewed.
    until_ms: u64,
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        (&self.record, &self.life) == (&other.record, &other.life)
    }
}

impl Item {
    fn record(&self) -> ItemRecord<'_> {
        ItemRecord::read(&self.record).expect("the record was checked when it was read, or made by an operation")
    }

    /// When it is to go, if nobody has it.
    fn dies_ms(&self) -> Option<u64> {
        match self.life.stage {
            Stage::Waiting { stays: false, .. } => self.record().expires_ms,
            Stage::Waiting { .. } | Stage::Leased { .. } | Stage::Dead { .. } => None,
        }
    }
}

/// The order of priorities: the highest comes first.
fn rank(priority: i8) -> u8 {
    (i16::from(i8::MAX) - i16::from(priority)) as u8
}

/// A queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    name: Box<[u8]>,
    options: Options,
    items: BTreeMap<ItemId, Item>,
    /// Bytes of the values.
    bytes: u64,
    ready: BTreeSet<(u8, ItemId)>,
    /// By the end of the delay.
    delayed: BTreeSet<(u64, ItemId)>,
    /// By the end of the lease.
    leased: BTreeSet<(u64, ItemId)>,
    dead: BTreeSet<ItemId>,
    /// Of those that nobody has, by their own deadline.
    dying: BTreeSet<(u64, ItemId)>,
    /// When time next does something here.
    alarm_ms: Option<u64>,
    /// What has happened here since the start.
    totals: Totals,
}

/// Where the items of a queue stand.
struct Places<'q> {
    ready: &'q mut BTreeSet<(u8, ItemId)>,
    delayed: &'q mut BTreeSet<(u64, ItemId)>,
    leased: &'q mut BTreeSet<(u64, ItemId)>,
    dead: &'q mut BTreeSet<ItemId>,
    dying: &'q mut BTreeSet<(u64, ItemId)>,
}

impl Places<'_> {
    fn add(&mut self, id: ItemId, item: &Item) {
        match item.life.stage {
            Stage::Waiting { ready_ms: 0, .. } => self.ready.insert((rank(item.record().priority), id)),
            Stage::Waiting { ready_ms, .. } => self.delayed.insert((ready_ms, id)),
            Stage::Leased { .. } => self.leased.insert((item.until_ms, id)),
            Stage::Dead { .. } => self.dead.insert(id),
        };
        self.dying.extend(item.dies_ms().map(|at_ms| (at_ms, id)));
    }

    fn remove(&mut self, id: ItemId, item: &Item) {
        match item.life.stage {
            Stage::Waiting { ready_ms, .. } => {
                // Its delay may have been noted to be over.
                if ready_ms == 0 || !self.delayed.remove(&(ready_ms, id)) {
                    self.ready.remove(&(rank(item.record().priority), id));
                }
            }
            Stage::Leased { .. } => {
                self.leased.remove(&(item.until_ms, id));
            }
            Stage::Dead { .. } => {
                self.dead.remove(&id);
            }
        }
        if let Some(at_ms) = item.dies_ms() {
            self.dying.remove(&(at_ms, id));
        }
    }
}

impl Queue {
    fn new(name: &[u8], options: Options) -> Queue {
        Queue {
            name: name.into(),
            options,
            items: BTreeMap::new(),
            bytes: 0,
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            leased: BTreeSet::new(),
            dead: BTreeSet::new(),
            dying: BTreeSet::new(),
            alarm_ms: None,
            totals: Totals::default(),
        }
    }

    fn put(&mut self, id: ItemId, item: Item) {
        self.bytes += item.record().stored.len() as u64;
        self.parts().1.add(id, &item);
        self.items.insert(id, item);
    }

    fn take(&mut self, id: ItemId) -> Option<Item> {
        let item = self.items.remove(&id)?;
        self.bytes -= item.record().stored.len() as u64;
        self.parts().1.remove(id, &item);
        Some(item)
    }

    /// Changes an item that is there, but not its record.
    fn alter(&mut self, id: ItemId, alter: impl FnOnce(&mut Item)) {
        let (items, mut places) = self.parts();
        let Some(item) = items.get_mut(&id) else { return };
        places.remove(id, item);
        alter(item);
        places.add(id, item);
    }

    fn parts(&mut self) -> (&mut BTreeMap<ItemId, Item>, Places<'_>) {
        let Queue { items, ready, delayed, leased, dead, dying, .. } = self;
        (items, Places { ready, delayed, leased, dead, dying })
    }

    fn next_ms(&self) -> Option<u64> {
        let firsts = [self.delayed.first(), self.leased.first(), self.dying.first()];
        firsts.into_iter().flatten().map(|(at_ms, _)| *at_ms).min()
    }

    /// Handed out if it is asked for.
    fn is_open(&self) -> bool {
        !self.options.paused && !self.ready.is_empty()
    }
}

/// All queues.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queues {
    by_name: BTreeMap<Box<[u8]>, QueueId>,
    known: BTreeMap<QueueId, Queue>,
    /// When time next does something where.
    alarms: BTreeSet<(u64, QueueId)>,
    /// Items of all queues, and bytes of their values.
    items: usize,
    bytes: u64,
    /// How the last ones ended.
    ends: Ends,
}

impl PartialEq for Queues {
    fn eq(&self, other: &Queues) -> bool {
        let is_same = |queue: &Queue, other: &Queue| {
            (&queue.name, &queue.options) == (&other.name, &other.options)
                && (queue.options.transient || queue.items == other.items)
        };
        self.by_name == other.by_name
            && self.known.len() == other.known.len()
            && self.known.iter().zip(&other.known).all(|((id, queue), (other_id, other))| id == other_id && is_same(queue, other))
    }
}

impl Eq for Queues {}

/// How many items have their delay noted to be over in one go.
const ADVANCE_MAX: usize = 10_000;

impl Queues {
    fn named(&self, name: &[u8]) -> Option<(QueueId, &Queue)> {
        let id = self.by_name.get(name)?;
        Some((*id, self.known.get(id)?))
    }

    /// Number of queues.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Number of items.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// Bytes of the values of all items.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A queue's record was put or deleted.
    pub(crate) fn apply_queue(&mut self, name: &[u8], value: Option<&[u8]>) {
        let record = value.and_then(read_queue);
        if let Some((old, _)) = self.named(name)
            && record.as_ref().is_none_or(|(id, _)| *id != old)
        {
            self.by_name.remove(name);
            self.forget(old);
        }
        let Some((id, options)) = record else { return };
        let queue = self.known.entry(id).or_insert_with(|| Queue::new(name, options.clone()));
        queue.options = options;
        if *queue.name != *name {
            let before = std::mem::replace(&mut queue.name, name.into());
            self.by_name.remove(&before);
        }
        self.by_name.insert(name.into(), id);
    }

    fn forget(&mut self, id: QueueId) {
        let Some(queue) = self.known.remove(&id) else { return };
        self.items -= queue.items.len();
        self.bytes -= queue.bytes;
        if let Some(at_ms) = queue.alarm_ms {
            self.alarms.remove(&(at_ms, id));
        }
    }

    /// An item's record was put or deleted.
    pub(crate) fn apply_item(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some((queue, id)) = split_item_key(key) else { return };
        match value.and_then(|value| Some((value, ItemRecord::read(value)?))) {
            Some((record, read)) => {
                let item = Item { record: record.into(), life: read.first_life(), until_ms: 0 };
                self.change(queue, |queue| {
                    if queue.take(id).is_none() {
                        queue.totals.pushed += 1;
                    }
                    queue.put(id, item);
                });
            }
            None if self.known.contains_key(&queue) => self.change(queue, |queue| {
                queue.take(id);
            }),
            None => {}
        }
    }

    /// The record of an item's state was put or deleted. One of an item that is not there says nothing.
    pub(crate) fn apply_state(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some((queue, id)) = split_item_key(key) else { return };
        if !self.known.contains_key(&queue) {
            return;
        }
        let life = value.and_then(read_life);
        self.change(queue, |queue| {
            let mut after = queue.totals;
            queue.alter(id, |item| {
                let life = life.unwrap_or_else(|| item.record().first_life());
                after.note_stage(&item.life.stage, &life.stage);
                item.life = life;
                if let Stage::Leased { granted_ms, lease_ms, .. } = item.life.stage {
                    item.until_ms = granted_ms.saturating_add(lease_ms);
                }
            });
            queue.totals = after;
        });
    }

    /// Changes a queue, and its alarm with it. One whose record is lost comes back under a name that says so.
    fn change(&mut self, id: QueueId, change: impl FnOnce(&mut Queue)) {
        let by_name = &mut self.by_name;
        let queue = self.known.entry(id).or_insert_with(|| {
            let mut name = format!("lost-{id}").into_bytes();
            while by_name.contains_key(name.as_slice()) {
                name.push(b'+');
            }
            by_name.insert(name.as_slice().into(), id);
            Queue::new(&name, Options::default())
        });
        let (items, bytes) = (queue.items.len(), queue.bytes);
        change(queue);
        self.items = self.items + queue.items.len() - items;
        self.bytes = self.bytes + queue.bytes - bytes;
        let next_ms = queue.next_ms();
        if next_ms == queue.alarm_ms {
            return;
        }
        if let Some(at_ms) = std::mem::replace(&mut queue.alarm_ms, next_ms) {
            self.alarms.remove(&(at_ms, id));
        }
        self.alarms.extend(next_ms.map(|at_ms| (at_ms, id)));
    }

    /// When time next does something, milliseconds of the stamp.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.alarms.first().map(|(at_ms, _)| *at_ms)
    }

    /// Takes note of delays that are over, and calls `told` for each queue in which there was one. True if there are more.
    pub(crate) fn advance(&mut self, time_ms: u64, mut told: impl FnMut(&[u8])) -> bool {
        let due: Vec<QueueId> = self.alarms.range(..=(time_ms, ItemId::from_bytes([0xff; 8]))).map(|(_, id)| *id).collect();
        let mut left = ADVANCE_MAX;
        for id in due {
            let mut noted = false;
            self.change(id, |queue| {
                while let Some(&(at_ms, item)) = queue.delayed.first().filter(|(at_ms, _)| *at_ms <= time_ms && left > 0) {
                    queue.delayed.remove(&(at_ms, item));
                    if let Some(found) = queue.items.get(&item) {
                        queue.ready.insert((rank(found.record().priority), item));
                    }
                    left -= 1;
                    noted = true;
                }
            });
            if let Some(queue) = self.known.get(&id).filter(|_| noted) {
                told(&queue.name);
            }
        }
        left == 0
    }

    /// A consumer keeps an item for longer: until so long from now on.
    ///
    /// # Errors
    /// `lease_lost` if it does not have it any more.
    pub(crate) fn extend(
        &mut self,
        name: &[u8],
        receipt: Receipt,
        lease_ms: Option<u64>,
        time_ms: u64,
    ) -> Result<Answer, Failure> {
        let (id, queue) = self.named(name).ok_or_else(lease_lost)?;
        let item = queue.items.get(&receipt.item).ok_or_else(lease_lost)?;
        let period_ms = match item.life.stage {
            Stage::Leased { token, lease_ms: period_ms, .. } if token == receipt.token => lease_ms.unwrap_or(period_ms),
            _ => return Err(lease_lost()),
        };
        self.set_until(id, receipt.item, time_ms.saturating_add(period_ms));
        Ok(Answer::Done)
    }

    fn set_until(&mut self, id: QueueId, item: ItemId, until_ms: u64) {
        self.change(id, |queue| queue.alter(item, |found| found.until_ms = until_ms));
    }

    /// Lets every lease run for a whole period from now on, if it would end before, and counts from 0 what happens. To be called before the
    /// first request is served.
    pub(crate) fn renew_leases(&mut self, time_ms: u64) {
        self.known.values_mut().for_each(|queue| queue.totals = Totals::default());
        let mut renewed = Vec::new();
        for (id, queue) in &self.known {
            for (until_ms, item) in &queue.leased {
                let Some(Item { life: Life { stage: Stage::Leased { lease_ms, .. }, .. }, .. }) = queue.items.get(item) else {
                    continue;
                };
                let whole_ms = time_ms.saturating_add(*lease_ms);
                if whole_ms > *until_ms {
                    renewed.push((*id, *item, whole_ms));
                }
            }
        }
        renewed.into_iter().for_each(|(id, item, until_ms)| self.set_until(id, item, until_ms));
    }

    /// How many items of a queue are handed out if they are asked for.
    pub(crate) fn ready(&self, name: &[u8]) -> usize {
        self.named(name).map_or(0, |(_, queue)| if queue.is_open() { queue.ready.len() } else { 0 })
    }

    /// True of a queue whose items live in memory alone.
    pub(crate) fn is_transient(&self, id: QueueId) -> bool {
        self.known.get(&id).is_some_and(|queue| queue.options.transient)
    }

    /// The name of the queue with this id.
    pub(crate) fn name_of(&self, id: QueueId) -> Option<&[u8]> {
        self.known.get(&id).map(|queue| &*queue.name)
    }
}

fn lease_lost() -> Failure {
    let message = "the delivery is over: its lease has ended, or the item was given back, acknowledged, buried or removed; somebody else \
                   may have it now";
    Failure::new(ErrorCode::LeaseLost, message)
}

fn no_queue() -> Failure {
    Failure::new(ErrorCode::NotFound, "there is no such queue; it comes into being with its first item, or is made by `declare`")
}

fn no_item() -> Failure {
    Failure::new(ErrorCode::NotFound, "there is no such item in the queue")
}
