//! What time and failures make of items: leases that end, deadlines that pass, and what is dead.
//!
//! - Each goes at a revision of its own, and the worker decides how many before a batch.
//! - Nothing is lost by dying: an item for which its queue names no other one, or whose other one has no room, is set aside where it is.

use kvbroker_protocol::{ErrorCode, Failure, ItemId, Progress};

use super::ends::Ended;
use super::overlay::{QueueOverlay, View};
use super::record::{ItemRecord, Origin, cut};
use super::{Life, Queue, QueueId, Queues, Stage};
use crate::change::Change;
use crate::decide::{Stamp, Turn};

/// An item for which time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueItem {
    at_ms: u64,
    queue: QueueId,
    item: ItemId,
}

impl Queues {
    /// Items whose lease or deadline is over, the earliest first within a queue; `max` at most.
    pub(crate) fn due(&self, time_ms: u64, max: usize) -> Vec<DueItem> {
        let last = ItemId::from_bytes([0xff; 8]);
        let mut due = Vec::new();
        for (_, id) in self.alarms.range(..=(time_ms, last)) {
            let Some(queue) = self.known.get(id) else { continue };
            let both = [&queue.leased, &queue.dying];
            let over = both.map(|by_time| by_time.range(..=(time_ms, last)).take(max));
            due.extend(over.into_iter().flatten().map(|(at_ms, item)| DueItem { at_ms: *at_ms, queue: *id, item: *item }));
            if due.len() >= max {
                break;
            }
        }
        due.sort_unstable();
        due.truncate(max);
        due
    }
}

/// The changes that time brings about for an item, and how items ended by them. None where there is nothing to do any more.
pub(crate) fn expire(queues: &Queues, due: DueItem, stamp: Stamp) -> (Vec<Change>, Vec<Ended>) {
    let (mut changes, mut ended) = (Vec::new(), Vec::new());
    let Some(queue) = queues.known.get(&due.queue) else { return (changes, ended) };
    let mut overlay = QueueOverlay::default();
    // It fails only where no id can be made, and then the item stays as it is.
    if decide(queues, queue, due.item, &mut overlay, stamp).is_ok() {
        ended = std::mem::take(&mut overlay.ended);
        overlay.into_changes(queues, &mut changes);
    }
    (changes, ended)
}

fn decide(queues: &Queues, queue: &Queue, id: ItemId, overlay: &mut QueueOverlay, stamp: Stamp) -> Result<(), Failure> {
    let Some(item) = queue.items.get(&id) else { return Ok(()) };
    let view = &mut overlay.view(queues, stamp);
    match item.life.stage {
        Stage::Leased { .. } if item.until_ms <= stamp.time_ms => give_back(view, &queue.name, id, None, "the lease ended", None),
        Stage::Waiting { .. } if item.dies_ms().is_some_and(|at_ms| at_ms <= stamp.time_ms) => {
            let goes_elsewhere = !queue.options.dead.is_empty() && *queue.options.dead != *queue.name;
            if goes_elsewhere && elsewhere(view, &queue.name, id, "its deadline passed", None)? {
                return Ok(());
            }
            view.remove(&queue.name, id, Progress::Expired)
        }
        Stage::Leased { .. } | Stage::Waiting { .. } | Stage::Dead { .. } => Ok(()),
    }
}

/// An item that a consumer had waits again, or is dead if this was often enough.
pub(super) fn give_back(
    view: &mut View<'_>,
    queue: &[u8],
    id: ItemId,
    delay_ms: Option<u64>,
    reason: &str,
    turn: Option<&mut Turn>,
) -> Result<(), Failure> {
    let Some((deliveries, options)) = view.item(queue, id).map(|seen| seen.life.deliveries).zip(view.options(queue)) else {
        return Ok(());
    };
    let (most, rest_ms) = (options.max_deliveries, delay_ms.unwrap_or(options.retry_ms));
    let reason = cut(reason);
    if most > 0 && deliveries >= most {
        let why = if reason.is_empty() { String::new() } else { format!("; the last time: {reason}") };
        return die(view, queue, id, &format!("delivered {deliveries} times{why}"), turn);
    }
    let ready_ms = if rest_ms > 0 { view.stamp.time_ms.saturating_add(rest_ms) } else { 0 };
    view.set(queue, id, Life { stage: Stage::Waiting { ready_ms, stays: false }, deliveries, reason: reason.into() })
}

/// An item that its consumer has not begun waits again, as if it had not been delivered.
pub(super) fn take_back(view: &mut View<'_>, queue: &[u8], id: ItemId, delay_ms: Option<u64>) -> Result<(), Failure> {
    let Some(deliveries) = view.item(queue, id).map(|seen| seen.life.deliveries.saturating_sub(1)) else { return Ok(()) };
    let ready_ms = delay_ms.filter(|ms| *ms > 0).map_or(0, |ms| view.stamp.time_ms.saturating_add(ms));
    let stage = Stage::Waiting { ready_ms, stays: false };
    view.set(queue, id, Life { stage, deliveries, reason: "".into() })
}

/// An item is dead: it goes to the queue that its own one names, or is set aside.
pub(super) fn die(view: &mut View<'_>, queue: &[u8], id: ItemId, reason: &str, turn: Option<&mut Turn>) -> Result<(), Failure> {
    let Some(options) = view.options(queue) else { return Ok(()) };
    if !options.dead.is_empty() && *options.dead != *queue && elsewhere(view, queue, id, reason, turn)? {
        return Ok(());
    }
    let deliveries = view.item(queue, id).map_or(0, |seen| seen.life.deliveries);
    let stage = Stage::Dead { since_ms: view.stamp.time_ms };
    view.set(queue, id, Life { stage, deliveries, reason: cut(reason).into() })
}

/// Moves an item to the queue for what is dead. False if there is no room.
fn elsewhere(view: &mut View<'_>, queue: &[u8], id: ItemId, reason: &str, turn: Option<&mut Turn>) -> Result<bool, Failure> {
    let Some(target) = view.options(queue).map(|options| options.dead.clone()) else { return Ok(false) };
    let Some(seen) = view.item(queue, id) else { return Ok(false) };
    let bytes = seen.record.stored.len();
    let (items, held) = view.size(&target);
    let takes = view.options(&target).is_none_or(|options| options.take(items + 1, held + bytes as u64));
    if !takes {
        return Ok(false);
    }
    if turn.is_some_and(|turn| !turn.take_log_bytes(bytes)) {
        let message = "the values that this message moves are too large together; ask for this operation in another one";
        return Err(Failure::new(ErrorCode::ReplyFull, message));
    }
    let origin = Origin { queue, item: id, deliveries: seen.life.deliveries, reason: cut(reason) };
    let record = ItemRecord {
        stored: &[],
        ready_ms: 0,
        expires_ms: None,
        origin: Some(origin),
        pushed_ms: view.stamp.time_ms,
        ..seen.record
    };
    let record = record.with_value(seen.record.value());
    // Where no further queue can be made, it stays.
    if view.push(&target, record).is_err() {
        return Ok(false);
    }
    view.remove(queue, id, Progress::Dead)?;
    Ok(true)
}
