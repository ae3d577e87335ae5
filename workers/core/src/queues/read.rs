//! Looking at queues without changing them: their items, and what there is to tell of them.

use std::ops::Bound;

use kvbroker_protocol::{
    Answer, ErrorCode, Failure, ItemId, ItemState, Peeked, QueueAnswer, QueueInfo, Scope, StatValue, limits,
};

use super::{Item, ItemRecord, Life, Queue, Queues, Stage, no_item, no_queue, rank};
use crate::decide::Turn;

/// Shows items of one state in its order: of those that are ready or dead the next one first, of the others whose time comes first.
///
/// # Errors
/// `not_found` for a queue, or a cursor's item, that is not there in this state; `reply_full` in an array that is full.
pub(super) fn peek(
    queues: &Queues,
    name: &[u8],
    state: ItemState,
    limit: Option<usize>,
    cursor: Option<ItemId>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    let (_, queue) = queues.named(name).ok_or_else(no_queue)?;
    let limit = limit.unwrap_or(limits::QUEUE_ITEMS_MAX).min(limits::QUEUE_ITEMS_MAX);
    let mut bytes_left = limits::PAGE_BYTES_MAX;
    let mut items: Vec<Peeked> = Vec::new();
    let mut last = None;
    for id in behind(queue, state, cursor)? {
        let Some(item) = queue.items.get(&id) else { continue };
        let bytes = item.record().stored.len();
        let fits = items.is_empty() || bytes <= bytes_left;
        if items.len() == limit || !fits || turn.is_used_up() || !turn.take_reply_bytes(bytes) {
            last = items.last().map(|item| item.item);
            if last.is_none() {
                let message =
                    "this array has used up its turn, or its reply is full; ask for this operation in a message of its own";
                return Err(Failure::new(ErrorCode::ReplyFull, message));
            }
            break;
        }
        turn.examine(0);
        bytes_left = bytes_left.saturating_sub(bytes);
        items.push(shown(id, item, state));
    }
    Ok(Answer::Queue(QueueAnswer::Peeked { items, cursor: last }))
}

fn behind(queue: &Queue, state: ItemState, cursor: Option<ItemId>) -> Result<Box<dyn Iterator<Item = ItemId> + '_>, Failure> {
    let gone = || Failure::new(ErrorCode::NotFound, "the cursor's item is not in this state any more; begin again");
    let item = |id: ItemId| queue.items.get(&id).ok_or_else(no_item);
    Ok(match state {
        ItemState::Ready => {
            let from = match cursor {
                None => Bound::Unbounded,
                Some(id) => Bound::Excluded((rank(item(id)?.record().priority), id)),
            };
            Box::new(queue.ready.range((from, Bound::Unbounded)).map(|(_, id)| *id))
        }
        ItemState::Dead => {
            let from = cursor.map_or(Bound::Unbounded, Bound::Excluded);
            Box::new(queue.dead.range((from, Bound::Unbounded)).copied())
        }
        ItemState::Delayed | ItemState::Leased => {
            let from = match cursor.map(|id| Ok::<_, Failure>((id, item(id)?))).transpose()? {
                None => Bound::Unbounded,
                Some((id, item)) => match (state, item.life.stage) {
                    (ItemState::Delayed, Stage::Waiting { ready_ms: at_ms @ 1.., .. }) => Bound::Excluded((at_ms, id)),
                    (ItemState::Leased, Stage::Leased { .. }) => Bound::Excluded((item.until_ms, id)),
                    _ => return Err(gone()),
                },
            };
            let by_time = if state == ItemState::Delayed { &queue.delayed } else { &queue.leased };
            Box::new(by_time.range((from, Bound::Unbounded)).map(|(_, id)| *id))
        }
    })
}

/// Why an item came back, or why it is dead or where dead ones are; empty: none of these.
pub(super) fn reason(life: &Life, record: &ItemRecord<'_>) -> String {
    match (&*life.reason, &record.origin) {
        ("", Some(origin)) => {
            let queue = String::from_utf8_lossy(origin.queue);
            format!("from {queue}, item {}: {}", origin.item, origin.reason)
        }
        (reason, _) => reason.to_owned(),
    }
}

fn shown(id: ItemId, item: &Item, state: ItemState) -> Peeked {
    let record = item.record();
    let due_ms = match item.life.stage {
        Stage::Waiting { ready_ms, .. } => Some(ready_ms).filter(|_| state == ItemState::Delayed),
        Stage::Leased { .. } => Some(item.until_ms),
        Stage::Dead { since_ms } => Some(since_ms),
    };
    let reason = reason(&item.life, &record);
    Peeked {
        item: id,
        value: record.value(),
        state,
        deliveries: item.life.deliveries,
        priority: record.priority,
        pushed_ms: record.pushed_ms,
        content_type: record.content_type.map(str::to_owned),
        due_ms,
        reason,
        subject: record.subject.map(<[u8]>::to_vec),
    }
}

/// Tells about one queue, or about those of a prefix that lie in the scope, in the order of their names.
///
/// # Errors
/// `not_found` for one that is not there, `reply_full` in an array that has used up its turn.
pub(super) fn queues(
    queues: &Queues,
    scope: &Scope,
    exact: Option<&[u8]>,
    prefix: &[u8],
    cursor: Option<&[u8]>,
    limit: Option<usize>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    if let Some(name) = exact {
        let (_, queue) = queues.named(name).ok_or_else(no_queue)?;
        return Ok(Answer::Queue(QueueAnswer::Queues { queues: vec![told(queue)], cursor: None }));
    }
    let limit = limit.unwrap_or(limits::QUEUE_ITEMS_MAX).min(limits::QUEUE_ITEMS_MAX);
    let from = match cursor.filter(|cursor| *cursor >= prefix) {
        Some(cursor) => Bound::Excluded(cursor),
        None => Bound::Included(prefix),
    };
    let mut infos: Vec<QueueInfo> = Vec::new();
    let mut last = None;
    for (name, id) in queues.by_name.range::<[u8], _>((from, Bound::Unbounded)) {
        if !name.starts_with(prefix) {
            break;
        }
        if !scope.contains(name) {
            continue;
        }
        if infos.len() == limit || turn.is_used_up() || !turn.take_reply_bytes(name.len() + INFO_BYTES) {
            last = infos.last().map(|info| info.queue.clone());
            if last.is_none() {
                let message =
                    "this array has used up its turn, or its reply is full; ask for this operation in a message of its own";
                return Err(Failure::new(ErrorCode::ReplyFull, message));
            }
            break;
        }
        turn.examine(0);
        infos.extend(queues.known.get(id).map(told));
    }
    Ok(Answer::Queue(QueueAnswer::Queues { queues: infos, cursor: last }))
}

/// What a queue takes in a reply beside its name.
const INFO_BYTES: usize = 768;

fn told(queue: &Queue) -> QueueInfo {
    let options = &queue.options;
    let oldest = queue.items.values().next().map_or(0, |item| item.record().pushed_ms);
    let numbers = [
        ("items", queue.items.len() as u64),
        ("bytes", queue.bytes),
        ("ready", queue.ready.len() as u64),
        ("delayed", queue.delayed.len() as u64),
        ("leased", queue.leased.len() as u64),
        ("dead", queue.dead.len() as u64),
        ("oldest_pushed", oldest),
        ("lease", options.lease_ms),
        ("max_deliveries", u64::from(options.max_deliveries)),
        ("retry", options.retry_ms),
        ("ttl", options.ttl_ms),
        ("max_items", options.max_items),
        ("max_bytes", options.max_bytes),
        ("paused", u64::from(options.paused)),
        ("transient", u64::from(options.transient)),
    ];
    let mut facts: Vec<(String, StatValue)> = numbers.map(|(name, number)| (name.to_owned(), StatValue::Number(number))).into();
    let dead = String::from_utf8_lossy(&options.dead).into_owned();
    let texts = [("overflow", options.overflow.name().to_owned()), ("dead_queue", dead)];
    facts.extend(texts.map(|(name, text)| (name.to_owned(), StatValue::Text(text))));
    facts.extend(queue.totals.facts());
    QueueInfo { queue: queue.name.to_vec(), facts }
}
