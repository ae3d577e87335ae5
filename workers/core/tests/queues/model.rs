//! A plain model of work queues: lists that are searched from end to end, and no index, record or overlay.

use std::collections::{BTreeMap, VecDeque};

use kvbroker_protocol::{
    Answer, Declaration, Delivery, ErrorCode, ItemId, ItemState, Overflow, Peeked, Progress, Pull, Push, QueueAnswer,
    QueueOperation, Receipt, Stored, Tracked, limits,
};

#[derive(Clone, Debug)]
pub struct Options {
    pub lease_ms: u64,
    pub max_deliveries: u32,
    pub retry_ms: u64,
    pub ttl_ms: u64,
    pub max_items: u64,
    pub max_bytes: u64,
    pub overflow: Overflow,
    pub dead: Vec<u8>,
    pub paused: bool,
    pub transient: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    Waiting { ready_ms: u64, stays: bool },
    Leased { token: u64, period_ms: u64, until_ms: u64 },
    Dead { since_ms: u64 },
}

#[derive(Clone, Debug)]
pub struct Item {
    pub id: ItemId,
    pub value: Stored,
    pub priority: i8,
    pub pushed_ms: u64,
    pub expires_ms: Option<u64>,
    pub content_type: Option<String>,
    pub stage: Stage,
    pub deliveries: u32,
    pub reason: String,
    /// What is shown while there is no other reason.
    pub from: String,
}

#[derive(Clone, Debug)]
pub struct Queue {
    /// In the order in which queues were made.
    pub made: ItemId,
    pub options: Options,
    pub items: Vec<Item>,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub queues: BTreeMap<Vec<u8>, Queue>,
    pub now_ms: u64,
    pub revision: u64,
    pushed: u16,
    declared: u16,
    /// How the last few items ended: queue, item, end.
    ended: VecDeque<(ItemId, ItemId, Progress)>,
}

type Outcome = Result<Answer, ErrorCode>;

impl Item {
    pub fn state(&self, now_ms: u64) -> ItemState {
        match self.stage {
            Stage::Waiting { ready_ms, .. } if ready_ms > now_ms => ItemState::Delayed,
            Stage::Waiting { .. } => ItemState::Ready,
            Stage::Leased { .. } => ItemState::Leased,
            Stage::Dead { .. } => ItemState::Dead,
        }
    }

    /// When time does something to it.
    pub fn due_ms(&self) -> Option<u64> {
        match self.stage {
            Stage::Waiting { stays: false, .. } => self.expires_ms,
            Stage::Leased { until_ms, .. } => Some(until_ms),
            _ => None,
        }
    }
}

impl Queue {
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.value.as_bytes().len() as u64).sum()
    }

    fn takes(&self, items: u64, bytes: u64) -> bool {
        let Options { max_items, max_bytes, .. } = self.options;
        (max_items == 0 || items <= max_items) && (max_bytes == 0 || bytes <= max_bytes)
    }

    /// Items of a state in its order.
    pub fn in_order(&self, state: ItemState, now_ms: u64) -> Vec<&Item> {
        let mut items: Vec<&Item> = self.items.iter().filter(|item| item.state(now_ms) == state).collect();
        items.sort_by_key(|item| {
            let first = match item.stage {
                Stage::Waiting { ready_ms, .. } if state == ItemState::Delayed => ready_ms,
                Stage::Leased { until_ms, .. } => until_ms,
                Stage::Waiting { .. } => (127 - i64::from(item.priority)) as u64,
                Stage::Dead { .. } => 0,
            };
            (first, item.id)
        });
        items
    }

    fn at(&mut self, id: ItemId) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.id == id)
    }
}

fn defaults() -> Options {
    Options {
        lease_ms: limits::QUEUE_LEASE_MS_DEFAULT,
        max_deliveries: limits::QUEUE_DELIVERIES_DEFAULT,
        retry_ms: 0,
        ttl_ms: 0,
        max_items: 0,
        max_bytes: 0,
        overflow: Overflow::Reject,
        dead: vec![],
        paused: false,
        transient: false,
    }
}

impl Model {
    /// Begins the decision that takes this revision.
    pub fn begin(&mut self, revision: u64) {
        (self.revision, self.pushed, self.declared) = (revision, 0, 0);
    }

    fn made(&mut self, name: &[u8]) -> &mut Queue {
        if !self.queues.contains_key(name) {
            let made = ItemId::new(self.revision, self.declared).unwrap();
            self.declared += 1;
            self.queues.insert(name.to_vec(), Queue { made, options: defaults(), items: vec![] });
        }
        self.queues.get_mut(name).unwrap()
    }

    fn append(&mut self, name: &[u8], item: Item) -> ItemId {
        let id = ItemId::new(self.revision, self.pushed).unwrap();
        self.pushed += 1;
        self.made(name).items.push(Item { id, ..item });
        id
    }

    pub fn operate(&mut self, operation: &QueueOperation) -> Outcome {
        let now_ms = self.now_ms;
        match operation {
            QueueOperation::Declare { queue, options } => {
                let old = self.queues.get(queue).map_or_else(defaults, |queue| queue.options.clone());
                let Declaration {
                    lease_ms,
                    max_deliveries,
                    retry_ms,
                    ttl_ms,
                    max_items,
                    max_bytes,
                    overflow,
                    dead,
                    paused,
                    transient,
                    must_exist,
                } = options.clone();
                if must_exist && !self.queues.contains_key(queue) {
                    return Err(ErrorCode::NotFound);
                }
                let is_other = transient.is_some_and(|transient| transient != old.transient);
                if is_other && self.queues.get(queue).is_some_and(|queue| !queue.items.is_empty()) {
                    return Err(ErrorCode::Conflict);
                }
                if self.comes_back(queue, dead.as_ref().unwrap_or(&old.dead)) {
                    return Err(ErrorCode::Conflict);
                }
                self.made(queue).options = Options {
                    lease_ms: lease_ms.unwrap_or(old.lease_ms),
                    max_deliveries: max_deliveries.unwrap_or(old.max_deliveries),
                    retry_ms: retry_ms.unwrap_or(old.retry_ms),
                    ttl_ms: ttl_ms.unwrap_or(old.ttl_ms),
                    max_items: max_items.unwrap_or(old.max_items),
                    max_bytes: max_bytes.unwrap_or(old.max_bytes),
                    overflow: overflow.unwrap_or(old.overflow),
                    dead: dead.unwrap_or(old.dead),
                    paused: paused.unwrap_or(old.paused),
                    transient: transient.unwrap_or(old.transient),
                };
                Ok(Answer::Done)
            }
            QueueOperation::Drop { queue } => match self.queues.get(queue) {
                None => Err(ErrorCode::NotFound),
                Some(found) if !found.items.is_empty() => Err(ErrorCode::Conflict),
                Some(_) => {
                    self.queues.remove(queue);
                    Ok(Answer::Done)
                }
            },
            QueueOperation::Push(push) => self.push(push),
            QueueOperation::Pull(pull) => Ok(self.pull(pull)),
            QueueOperation::Ack { queue, receipt } => {
                self.leased(queue, *receipt)?;
                self.take(queue, receipt.item, Progress::Done);
                Ok(Answer::Done)
            }
            QueueOperation::Nack { queue, receipt, delay_ms, unused: true, .. } => {
                let item = self.leased(queue, *receipt)?;
                item.deliveries -= 1;
                item.reason.clear();
                let ready_ms = delay_ms.filter(|ms| *ms > 0).map_or(0, |ms| now_ms + ms);
                item.stage = Stage::Waiting { ready_ms, stays: false };
                Ok(Answer::Done)
            }
            QueueOperation::Nack { queue, receipt, delay_ms, reason, unused: false } => {
                self.leased(queue, *receipt)?;
                self.give_back(queue, receipt.item, *delay_ms, reason);
                Ok(Answer::Done)
            }
            QueueOperation::Extend { queue, receipt, lease_ms } => {
                let item = self.leased(queue, *receipt)?;
                if let Stage::Leased { period_ms, until_ms, .. } = &mut item.stage {
                    *until_ms = now_ms + lease_ms.unwrap_or(*period_ms);
                }
                Ok(Answer::Done)
            }
            QueueOperation::Bury { queue, item, token, reason } => {
                self.queues.get(queue).ok_or(ErrorCode::NotFound)?;
                if let Some(token) = token {
                    self.leased(queue, Receipt { item: *item, token: *token })?;
                }
                let found = self.queues.get_mut(queue).and_then(|queue| queue.at(*item)).ok_or(ErrorCode::NotFound)?;
                match found.stage {
                    Stage::Dead { .. } => return Ok(Answer::Done),
                    Stage::Leased { .. } if token.is_none() => return Err(ErrorCode::Conflict),
                    _ => {}
                }
                self.die(queue, *item, if reason.is_empty() { "buried" } else { reason });
                Ok(Answer::Done)
            }
            QueueOperation::Kick { queue, item, limit } => {
                let found = self.queues.get_mut(queue).ok_or(ErrorCode::NotFound)?;
                let dead: Vec<ItemId> = found.in_order(ItemState::Dead, now_ms).iter().map(|item| item.id).collect();
                let ids = match item {
                    Some(item) if found.at(*item).is_none() => return Err(ErrorCode::NotFound),
                    Some(item) if !dead.contains(item) => return Err(ErrorCode::Conflict),
                    Some(item) => vec![*item],
                    None => dead.iter().copied().take(limit.unwrap_or(1_000).min(1_000)).collect(),
                };
                for id in &ids {
                    let item = found.at(*id).unwrap();
                    (item.stage, item.deliveries) = (Stage::Waiting { ready_ms: 0, stays: true }, 0);
                    item.reason.clear();
                }
                let more = item.is_none() && ids.len() < dead.len();
                Ok(Answer::Queue(QueueAnswer::Kicked { kicked: ids.len() as u64, more }))
            }
            QueueOperation::Purge { queue, state, limit } => {
                let found = self.queues.get(queue).ok_or(ErrorCode::NotFound)?;
                let states = [ItemState::Ready, ItemState::Delayed, ItemState::Dead];
                let wanted = states.into_iter().filter(|one| state.is_none_or(|state| state == *one));
                let ids: Vec<ItemId> = wanted.flat_map(|state| found.in_order(state, now_ms)).map(|item| item.id).collect();
                let limit = limit.unwrap_or(1_000).min(1_000);
                ids.iter().take(limit).for_each(|id| self.take(queue, *id, Progress::Removed));
                Ok(Answer::Deleted { removed: ids.len().min(limit) as u64, more: ids.len() > limit })
            }
            QueueOperation::Peek { queue, state, limit, .. } => {
                let found = self.queues.get(queue).ok_or(ErrorCode::NotFound)?;
                let all = found.in_order(*state, now_ms);
                let limit = limit.unwrap_or(1_000).min(1_000);
                let items: Vec<Peeked> = all.iter().take(limit).map(|item| shown(item, *state)).collect();
                let cursor = items.last().map(|item| item.item).filter(|_| all.len() > limit);
                Ok(Answer::Queue(QueueAnswer::Peeked { items, cursor }))
            }
            QueueOperation::Track { .. } | QueueOperation::Queues { .. } => unreachable!("told apart in the walk"),
        }
    }

    /// Whether what goes from a queue to `dead` can be back there some time.
    fn comes_back(&self, queue: &[u8], dead: &[u8]) -> bool {
        let mut seen = vec![dead.to_vec()];
        while let Some(next) = self.queues.get(seen.last().unwrap()).map(|found| found.options.dead.clone()) {
            if next.is_empty() || seen.contains(&next) {
                break;
            }
            seen.push(next);
        }
        dead != queue && seen.iter().any(|name| name == queue)
    }

    fn leased(&mut self, queue: &[u8], receipt: Receipt) -> Result<&mut Item, ErrorCode> {
        let item = self.queues.get_mut(queue).and_then(|queue| queue.at(receipt.item));
        item.filter(|item| matches!(item.stage, Stage::Leased { token, .. } if token == receipt.token))
            .ok_or(ErrorCode::LeaseLost)
    }

    fn take(&mut self, queue: &[u8], id: ItemId, end: Progress) {
        let found = self.queues.get_mut(queue).unwrap();
        found.items.retain(|item| item.id != id);
        let made = found.made;
        self.note(made, id, end);
    }

    fn note(&mut self, made: ItemId, id: ItemId, end: Progress) {
        self.ended.push_back((made, id, end));
        if self.ended.len() > 40 {
            self.ended.pop_front();
        }
    }

    /// How far an item has come; None: it ended too long ago for this model.
    pub fn track(&mut self, queue: &[u8], id: ItemId) -> Option<Tracked> {
        let now_ms = self.now_ms;
        let found = self.queues.get_mut(queue)?;
        let Some(item) = found.at(id) else {
            let made = found.made;
            let ended = self.ended.iter().rev().find(|(of, item, _)| (*of, *item) == (made, id));
            return ended.map(|(.., progress)| Tracked { progress: *progress, deliveries: 0 });
        };
        let progress = match item.state(now_ms) {
            ItemState::Ready => Progress::Ready,
            ItemState::Delayed => Progress::Delayed,
            ItemState::Leased => Progress::Leased,
            ItemState::Dead => Progress::Dead,
        };
        Some(Tracked { progress, deliveries: item.deliveries })
    }

    fn push(&mut self, push: &Push) -> Outcome {
        let Push { queue, value, priority, delay_ms, ttl_ms, content_type } = push.clone();
        let (now_ms, bytes) = (self.now_ms, value.as_bytes().len() as u64);
        let own_ttl_ms = self.queues.get(&queue).map(|queue| queue.options.ttl_ms).filter(|ms| *ms > 0);
        if delay_ms > 0 && ttl_ms.or(own_ttl_ms).is_some_and(|ttl_ms| ttl_ms <= delay_ms) {
            return Err(ErrorCode::Invalid);
        }
        let mut dropped = Vec::new();
        if let Some(found) = self.queues.get_mut(&queue) {
            while !found.takes(found.items.len() as u64 + 1, found.bytes() + bytes) {
                let ready = found.in_order(ItemState::Ready, now_ms);
                let lowest = ready.iter().map(|item| item.priority).min();
                let least = ready.iter().filter(|item| Some(item.priority) == lowest).map(|item| item.id).min();
                match least {
                    Some(least) if found.options.overflow == Overflow::DropOldest && found.takes(1, bytes) => {
                        found.items.retain(|item| item.id != least);
                        dropped.push((found.made, least));
                    }
                    _ => return Err(ErrorCode::QueueFull),
                }
            }
        }
        dropped.into_iter().for_each(|(made, id)| self.note(made, id, Progress::Removed));
        let item = Item {
            id: ItemId::MIN,
            value,
            priority,
            pushed_ms: now_ms,
            expires_ms: ttl_ms.or(own_ttl_ms).map(|ms| now_ms + ms),
            content_type,
            stage: Stage::Waiting { ready_ms: if delay_ms > 0 { now_ms + delay_ms } else { 0 }, stays: false },
            deliveries: 0,
            reason: String::new(),
            from: String::new(),
        };
        let item = self.append(&queue, item);
        let transient = self.queues.get(&queue).is_some_and(|queue| queue.options.transient);
        Ok(Answer::Queue(QueueAnswer::Pushed { item, transient }))
    }

    fn pull(&mut self, pull: &Pull) -> Answer {
        let (now_ms, token) = (self.now_ms, self.revision);
        let own_lease_ms = self.queues.get(&pull.queue).map_or(limits::QUEUE_LEASE_MS_DEFAULT, |queue| queue.options.lease_ms);
        let period_ms = pull.lease_ms.unwrap_or(own_lease_ms);
        let (mut items, mut done) = (Vec::new(), Vec::new());
        if let Some(found) = self.queues.get_mut(&pull.queue).filter(|queue| !queue.options.paused) {
            let ready = found.in_order(ItemState::Ready, now_ms);
            let ids: Vec<ItemId> = ready.iter().take(pull.limit.min(1_000)).map(|item| item.id).collect();
            for id in ids {
                let item = found.at(id).unwrap();
                item.deliveries += 1;
                item.stage = Stage::Leased { token, period_ms, until_ms: now_ms + period_ms };
                let reason = why(item);
                item.reason.clear();
                items.push(Delivery {
                    receipt: Receipt { item: id, token: if pull.no_ack { 0 } else { token } },
                    value: item.value.clone(),
                    deliveries: item.deliveries,
                    priority: item.priority,
                    pushed_ms: item.pushed_ms,
                    content_type: item.content_type.clone(),
                    subject: None,
                    reason,
                });
                if pull.no_ack {
                    found.items.retain(|item| item.id != id);
                    done.push((found.made, id));
                }
            }
        }
        done.into_iter().for_each(|(made, id)| self.note(made, id, Progress::Done));
        Answer::Queue(QueueAnswer::Pulled { items, lease_ms: if pull.no_ack { 0 } else { period_ms } })
    }

    fn give_back(&mut self, queue: &[u8], id: ItemId, delay_ms: Option<u64>, reason: &str) {
        let now_ms = self.now_ms;
        let found = self.queues.get_mut(queue).unwrap();
        let (most, rest_ms) = (found.options.max_deliveries, delay_ms.unwrap_or(found.options.retry_ms));
        let item = found.at(id).unwrap();
        if most > 0 && item.deliveries >= most {
            let why = if reason.is_empty() { String::new() } else { format!("; the last time: {reason}") };
            let reason = format!("delivered {} times{why}", item.deliveries);
            return self.die(queue, id, &reason);
        }
        item.stage = Stage::Waiting { ready_ms: if rest_ms > 0 { now_ms + rest_ms } else { 0 }, stays: false };
        item.reason = reason.to_owned();
    }

    fn die(&mut self, queue: &[u8], id: ItemId, reason: &str) {
        if self.elsewhere(queue, id, reason) {
            return;
        }
        let since_ms = self.now_ms;
        let item = self.queues.get_mut(queue).unwrap().at(id).unwrap();
        (item.stage, item.reason) = (Stage::Dead { since_ms }, reason.to_owned());
    }

    fn elsewhere(&mut self, queue: &[u8], id: ItemId, reason: &str) -> bool {
        let target = self.queues[queue].options.dead.clone();
        let item = self.queues.get_mut(queue).unwrap().at(id).unwrap().clone();
        let bytes = item.value.as_bytes().len() as u64;
        let takes = self.queues.get(&target).is_none_or(|found| found.takes(found.items.len() as u64 + 1, found.bytes() + bytes));
        if target.is_empty() || target == queue || !takes {
            return false;
        }
        let from = format!("from {}, item {id}: {reason}", String::from_utf8_lossy(queue));
        let stage = Stage::Waiting { ready_ms: 0, stays: false };
        let (pushed_ms, reason) = (self.now_ms, String::new());
        self.append(&target, Item { stage, deliveries: 0, pushed_ms, expires_ms: None, from, reason, ..item });
        self.take(queue, id, Progress::Dead);
        true
    }

    /// What time has come for, in the order in which it is done.
    pub fn due(&self) -> Vec<(u64, ItemId, ItemId, Vec<u8>)> {
        let mut due: Vec<_> = self
            .queues
            .iter()
            .flat_map(|(name, queue)| queue.items.iter().map(move |item| (item.due_ms(), queue.made, item.id, name.clone())))
            .filter_map(|(at_ms, made, id, name)| Some((at_ms?, made, id, name)))
            .filter(|(at_ms, ..)| *at_ms <= self.now_ms)
            .collect();
        due.sort();
        due
    }

    /// Time has come for an item.
    pub fn expire(&mut self, queue: &[u8], id: ItemId) {
        let item = self.queues.get_mut(queue).unwrap().at(id).unwrap();
        match item.stage {
            Stage::Leased { .. } => self.give_back(queue, id, None, "the lease ended"),
            _ => {
                if !self.elsewhere(queue, id, "its deadline passed") {
                    self.take(queue, id, Progress::Expired);
                }
            }
        }
    }

    /// The broker was started again.
    pub fn restart(&mut self) {
        self.ended.clear();
        self.queues.values_mut().filter(|queue| queue.options.transient).for_each(|queue| queue.items.clear());
        let now_ms = self.now_ms;
        for item in self.queues.values_mut().flat_map(|queue| &mut queue.items) {
            if let Stage::Leased { period_ms, until_ms, .. } = &mut item.stage {
                *until_ms = now_ms + *period_ms;
            }
        }
    }
}

/// What is told of why it came back, or where from.
fn why(item: &Item) -> String {
    if item.reason.is_empty() { item.from.clone() } else { item.reason.clone() }
}

pub fn shown(item: &Item, state: ItemState) -> Peeked {
    let due_ms = match item.stage {
        Stage::Waiting { ready_ms, .. } => Some(ready_ms).filter(|_| state == ItemState::Delayed),
        Stage::Leased { until_ms, .. } => Some(until_ms),
        Stage::Dead { since_ms } => Some(since_ms),
    };
    Peeked {
        item: item.id,
        value: item.value.clone(),
        state,
        deliveries: item.deliveries,
        priority: item.priority,
        pushed_ms: item.pushed_ms,
        content_type: item.content_type.clone(),
        subject: None,
        due_ms,
        reason: why(item),
    }
}
