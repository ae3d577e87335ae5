//! What the operations on queues mean.
//!
//! - What a few bytes of a message make the log write beyond those that it brought, is counted against its turn: leases, removals, and the
//!   values of what is moved to another queue.
//! - A pull ends at its limit, at a page's bytes, or where the turn ends; one item always fits in a message of its own.

use kvbroker_protocol::{
    Answer, Delivery, ErrorCode, Failure, ItemId, ItemState, Overflow, Progress, Pull, Push, QueueAnswer, QueueOperation,
    Receipt, Scope, limits,
};

use super::expire::{die, give_back, take_back};
use super::overlay::{QueueOverlay, SeenItem, View};
use super::record::{ItemRecord, cut};
use super::{Life, Options, Queue, Queues, Stage, lease_lost, no_item, no_queue, read};
use crate::decide::{Stamp, Turn};

/// Bytes that a lease, a return or a removal makes the log write, roughly.
pub(super) const CHANGE_LOG_BYTES: usize = 96;
/// Looking through what is known of items that have ended, in units of a turn's work.
const ENDS_WORK: usize = limits::QUEUE_ENDS_MAX / 64;
/// Most items that are dropped to make room for one.
const DROPPED_MAX: usize = limits::QUEUE_ITEMS_MAX;

/// Does one operation: alone, or as part of a transaction.
pub(crate) fn operate(
    base: &Queues,
    overlay: &mut QueueOverlay,
    scope: &Scope,
    operation: QueueOperation,
    stamp: Stamp,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    let mut view = overlay.view(base, stamp);
    match operation {
        QueueOperation::Declare { queue, options } => {
            if options.must_exist && view.options(&queue).is_none() {
                return Err(no_queue());
            }
            let before = view.options(&queue).cloned().unwrap_or_default();
            let is_other = options.transient.is_some_and(|transient| transient != before.transient);
            let options = before.with(options);
            let (items, _) = view.size(&queue);
            if is_other && items > 0 {
                let message = format!("the queue has {items} items, and whether it is transient is decided while it has none");
                return Err(Failure::new(ErrorCode::Conflict, message));
            }
            leads_somewhere(&view, &queue, &options)?;
            view.declare(&queue, options)?;
            Ok(Answer::Done)
        }
        QueueOperation::Drop { queue } => drop_queue(&mut view, &queue),
        QueueOperation::Push(push) => {
            let transient = view.options(&push.queue).is_some_and(|options| options.transient);
            let item = self::push(&mut view, push, None, turn)?;
            Ok(Answer::Queue(QueueAnswer::Pushed { item, transient }))
        }
        QueueOperation::Pull(pull) => self::pull(&mut view, &pull, turn),
        QueueOperation::Ack { queue, receipt } => {
            let (priority, bytes) = leased(&view, &queue, receipt)?;
            view.remove_known(&queue, receipt.item, priority, bytes, Progress::Done)?;
            Ok(Answer::Done)
        }
        QueueOperation::Nack { queue, receipt, delay_ms, unused: true, .. } => {
            leased(&view, &queue, receipt)?;
            take_log_bytes(turn, CHANGE_LOG_BYTES)?;
            take_back(&mut view, &queue, receipt.item, delay_ms)?;
            Ok(Answer::Done)
        }
        QueueOperation::Nack { queue, receipt, delay_ms, reason, unused: false } => {
            leased(&view, &queue, receipt)?;
            take_log_bytes(turn, CHANGE_LOG_BYTES)?;
            give_back(&mut view, &queue, receipt.item, delay_ms, &reason, Some(turn))?;
            Ok(Answer::Done)
        }
        QueueOperation::Bury { queue, item, token, reason } => bury(&mut view, &queue, item, token, &reason, turn),
        QueueOperation::Kick { queue, item, limit } => kick(&mut view, &queue, item, limit, turn),
        QueueOperation::Purge { queue, state, limit } => purge(&mut view, &queue, state, limit, turn),
        QueueOperation::Peek { queue, state, limit, cursor } => read::peek(base, &queue, state, limit, cursor, turn),
        QueueOperation::Track { queue, item, .. } => {
            let tracked = base.track(&queue, item, stamp.revision.saturating_sub(1))?;
            turn.examine(0);
            if tracked.progress.is_end() {
                turn.work_left = turn.work_left.saturating_sub(ENDS_WORK);
            }
            Ok(Answer::Queue(QueueAnswer::Tracked(tracked)))
        }
        QueueOperation::Queues { queue, prefix, cursor, limit } => {
            read::queues(base, scope, queue.as_deref(), &prefix, cursor.as_deref(), limit, turn)
        }
        QueueOperation::Extend { .. } => Err(Failure::new(ErrorCode::Internal, "this operation is answered before the table")),
    }
}

/// What is dead in this queue does not come back to it by way of others, for it would go round for ever.
fn leads_somewhere(view: &View<'_>, queue: &[u8], options: &Options) -> Result<(), Failure> {
    let mut at: &[u8] = queue;
    let mut next: &[u8] = &options.dead;
    for _ in 0..limits::QUEUE_DEAD_CHAIN_MAX {
        // A queue that names itself keeps what is dead.
        if next.is_empty() || next == at {
            return Ok(());
        }
        if next == queue {
            // The others may be none of this user's.
            let name = String::from_utf8_lossy(queue);
            let message = format!("what is dead in {name} would come back to it by way of others, for ever; name another queue");
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        at = next;
        next = view.options(at).map_or(&[], |options| &options.dead);
    }
    let message = format!("what is dead would pass through more than {} queues", limits::QUEUE_DEAD_CHAIN_MAX);
    Err(Failure::limit(message))
}

fn take_log_bytes(turn: &mut Turn, bytes: usize) -> Result<(), Failure> {
    if turn.take_log_bytes(bytes) {
        return Ok(());
    }
    let message = "what this message makes the log write is too much together; ask for this operation in another one";
    Err(Failure::new(ErrorCode::ReplyFull, message))
}

/// The delivery is the item's last one, and goes on. Gives the item's priority, and how many bytes its value has.
fn leased(view: &View<'_>, queue: &[u8], receipt: Receipt) -> Result<(i8, u64), Failure> {
    let seen = view.item(queue, receipt.item).ok_or_else(lease_lost)?;
    match seen.life.stage {
        Stage::Leased { token, .. } if token == receipt.token => Ok((seen.record.priority, seen.record.stored.len() as u64)),
        _ => Err(lease_lost()),
    }
}

fn drop_queue(view: &mut View<'_>, queue: &[u8]) -> Result<Answer, Failure> {
    view.options(queue).ok_or_else(no_queue)?;
    let (items, _) = view.size(queue);
    if items > 0 {
        let message = format!("the queue has {items} items; `purge` it first, and wait for what consumers have");
        return Err(Failure::new(ErrorCode::Conflict, message));
    }
    view.drop_queue(queue)?;
    Ok(Answer::Done)
}

/// Appends an item; a copy of a message is about a subject.
pub(super) fn push(view: &mut View<'_>, push: Push, subject: Option<&[u8]>, turn: &mut Turn) -> Result<ItemId, Failure> {
    let Push { queue, value, priority, delay_ms, ttl_ms, content_type } = push;
    let now_ms = view.stamp.time_ms;
    let options = view.options(&queue).cloned().unwrap_or_default();
    let ttl_ms = ttl_ms.or(Some(options.ttl_ms).filter(|ms| *ms > 0));
    if let Some(own_ms) = ttl_ms.filter(|ttl_ms| delay_ms > 0 && *ttl_ms <= delay_ms) {
        let message =
            format!("items of this queue go {own_ms} ms after their push, before `delay` is over: give it a longer `ttl`");
        return Err(Failure::invalid(message));
    }
    make_room(view, &queue, &options, value.as_bytes().len() as u64, turn)?;
    let record = ItemRecord {
        stored: &[],
        priority,
        ready_ms: if delay_ms > 0 { now_ms.saturating_add(delay_ms) } else { 0 },
        expires_ms: ttl_ms.map(|ms| now_ms.saturating_add(ms)),
        content_type: content_type.as_deref(),
        origin: None,
        subject,
        pushed_ms: now_ms,
    };
    let record = record.with_value(value);
    view.push(&queue, record)
}

/// Sees to it that one more item of so many bytes is within the queue's limits.
fn make_room(view: &mut View<'_>, queue: &[u8], options: &Options, bytes: u64, turn: &mut Turn) -> Result<(), Failure> {
    for _ in 0..DROPPED_MAX {
        let (items, held) = view.size(queue);
        if options.take(items + 1, held + bytes) {
            return Ok(());
        }
        let least = if options.overflow == Overflow::DropOldest { view.least(queue) } else { None };
        let Some(least) = least.filter(|_| options.take(1, bytes)) else { break };
        take_log_bytes(turn, CHANGE_LOG_BYTES)?;
        view.remove(queue, least, Progress::Removed)?;
    }
    let (items, held) = view.size(queue);
    let (most, of) = match (options.max_items, options.max_bytes) {
        (0, most) | (_, most @ 1..) if most > 0 && held + bytes > most => (most, "bytes"),
        (most, _) => (most, "items"),
    };
    let message =
        format!("the queue has {items} items with {held} bytes, and takes {most} {of} at most; pull some, or try again later");
    Err(Failure::new(ErrorCode::QueueFull, message))
}

fn pull(view: &mut View<'_>, pull: &Pull, turn: &mut Turn) -> Result<Answer, Failure> {
    let Pull { queue, limit, lease_ms, no_ack, .. } = pull;
    let (options, stamp) = (view.options(queue).cloned().unwrap_or_default(), view.stamp);
    let lease_ms = lease_ms.unwrap_or(options.lease_ms);
    let wanted = if options.paused { 0 } else { (*limit).min(limits::QUEUE_ITEMS_MAX) };
    let mut items: Vec<Delivery> = Vec::new();
    let mut value_bytes = Vec::new();
    let mut bytes_left = limits::PAGE_BYTES_MAX;
    let mut is_refused = false;
    for (_, id) in view.ready(queue).take(wanted) {
        let Some(SeenItem { record, life }) = view.item(queue, id) else { continue };
        let bytes = record.stored.len();
        if !items.is_empty() && bytes > bytes_left {
            break;
        }
        if turn.is_used_up() || !turn.take_log_bytes(CHANGE_LOG_BYTES) || !turn.take_reply_bytes(bytes) {
            is_refused = items.is_empty();
            break;
        }
        turn.examine(0);
        bytes_left = bytes_left.saturating_sub(bytes);
        value_bytes.push(bytes as u64);
        items.push(Delivery {
            receipt: Receipt { item: id, token: if *no_ack { 0 } else { stamp.revision } },
            value: record.value(),
            deliveries: life.deliveries.saturating_add(1),
            priority: record.priority,
            pushed_ms: record.pushed_ms,
            content_type: record.content_type.map(str::to_owned),
            subject: record.subject.map(<[u8]>::to_vec),
            reason: read::reason(life, &record),
        });
    }
    if is_refused {
        let message = "this array has used up its turn, or its reply is full; ask for this operation in a message of its own";
        return Err(Failure::new(ErrorCode::ReplyFull, message));
    }
    for (&Delivery { receipt, deliveries, priority, .. }, bytes) in items.iter().zip(value_bytes) {
        if *no_ack {
            view.remove_known(queue, receipt.item, priority, bytes, Progress::Done)?;
        } else {
            let stage = Stage::Leased { token: stamp.revision, granted_ms: stamp.time_ms, lease_ms };
            view.set_known(queue, receipt.item, priority, Life { stage, deliveries, reason: "".into() })?;
        }
    }
    Ok(Answer::Queue(QueueAnswer::Pulled { items, lease_ms: if *no_ack { 0 } else { lease_ms } }))
}

fn bury(
    view: &mut View<'_>,
    queue: &[u8],
    item: ItemId,
    token: Option<u64>,
    reason: &str,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    view.options(queue).ok_or_else(no_queue)?;
    if let Some(token) = token {
        leased(view, queue, Receipt { item, token })?;
    }
    let seen = view.item(queue, item).ok_or_else(no_item)?;
    match seen.life.stage {
        Stage::Dead { .. } => return Ok(Answer::Done),
        Stage::Leased { .. } if token.is_none() => {
            let message = "a consumer has this item; only that one can bury it, by the token of its delivery";
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        Stage::Leased { .. } | Stage::Waiting { .. } => {}
    }
    take_log_bytes(turn, CHANGE_LOG_BYTES)?;
    let reason = if reason.is_empty() { "buried" } else { cut(reason) };
    die(view, queue, item, reason, Some(turn))?;
    Ok(Answer::Done)
}

fn kick(
    view: &mut View<'_>,
    queue: &[u8],
    item: Option<ItemId>,
    limit: Option<usize>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    let (_, base) = view.base.named(queue).ok_or_else(no_queue)?;
    let limit = limit.unwrap_or(limits::QUEUE_ITEMS_MAX).min(limits::QUEUE_ITEMS_MAX);
    let ids: Vec<ItemId> = match item {
        Some(item) => {
            let found = base.items.get(&item).ok_or_else(no_item)?;
            if !matches!(found.life.stage, Stage::Dead { .. }) {
                return Err(Failure::new(ErrorCode::Conflict, "the item is not dead"));
            }
            vec![item]
        }
        None => base.dead.iter().take(limit).copied().collect(),
    };
    let dead = base.dead.len();
    let mut kicked = 0;
    for id in ids {
        if turn.is_used_up() || !turn.take_log_bytes(CHANGE_LOG_BYTES) {
            break;
        }
        turn.examine(0);
        // Whatever deadline it had, whoever kicks it wants it done.
        let stage = Stage::Waiting { ready_ms: 0, stays: true };
        view.set(queue, id, Life { stage, deliveries: 0, reason: "".into() })?;
        kicked += 1;
    }
    if kicked == 0 && dead > 0 {
        return Err(used_up());
    }
    let more = item.is_none() && kicked < dead;
    Ok(Answer::Queue(QueueAnswer::Kicked { kicked: kicked as u64, more }))
}

fn used_up() -> Failure {
    let message = "this array has used up its turn; ask for this operation in a message of its own";
    Failure::new(ErrorCode::ReplyFull, message)
}

fn purge(
    view: &mut View<'_>,
    queue: &[u8],
    state: Option<ItemState>,
    limit: Option<usize>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    let (_, base) = view.base.named(queue).ok_or_else(no_queue)?;
    let limit = limit.unwrap_or(limits::QUEUE_ITEMS_MAX).min(limits::QUEUE_ITEMS_MAX);
    let mut wanted = unheld(base, state);
    let mut ids = Vec::new();
    let mut more = false;
    for id in wanted.by_ref() {
        if ids.len() == limit || turn.is_used_up() || !turn.take_log_bytes(CHANGE_LOG_BYTES) {
            more = true;
            break;
        }
        turn.examine(0);
        ids.push(id);
    }
    drop(wanted);
    if more && ids.is_empty() {
        return Err(used_up());
    }
    let removed = ids.len() as u64;
    ids.into_iter().try_for_each(|id| view.remove(queue, id, Progress::Removed))?;
    Ok(Answer::Deleted { removed, more })
}

/// Items that nobody has.
fn unheld(queue: &Queue, state: Option<ItemState>) -> Box<dyn Iterator<Item = ItemId> + '_> {
    let ready = queue.ready.iter().map(|(_, id)| *id);
    let delayed = queue.delayed.iter().map(|(_, id)| *id);
    let dead = queue.dead.iter().copied();
    match state {
        None => Box::new(ready.chain(delayed).chain(dead)),
        Some(ItemState::Ready) => Box::new(ready),
        Some(ItemState::Delayed) => Box::new(delayed),
        Some(ItemState::Dead) => Box::new(dead),
        Some(ItemState::Leased) => Box::new(std::iter::empty()),
    }
}
