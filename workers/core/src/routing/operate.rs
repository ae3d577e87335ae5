//! What the operations of routing mean.
//!
//! - A message is published to all queues that want it, or to none: one that is full, and does not let older items go, refuses it for all.
//! - What a publisher may not use it is not told of: it hears how many copies there are, and the names of its own queues.

use std::collections::BTreeSet;
use std::ops::Bound as Edge;
use std::sync::Arc;

use kvbroker_protocol::{
    Answer, Binding, ErrorCode, Failure, Key, MessageCopy, Predicate, Publish, Push, RoutingAnswer, RoutingOperation, Subject,
    limits, retained_key, subject_matches,
};

use super::{Bound, Message};
use crate::decide::Turn;
use crate::overlay::Overlay;
use crate::queues::QueueId;
use crate::state::State;

/// Does one operation: alone, or as part of a transaction.
pub(crate) fn operate(overlay: &mut Overlay<'_>, operation: RoutingOperation, turn: &mut Turn) -> Result<Answer, Failure> {
    let base = &overlay.state().routing;
    match operation {
        RoutingOperation::Bind { queue, pattern, where_ } => {
            let filter = where_.as_ref().map_or("", Predicate::as_str);
            let no_matcher = || Failure::new(ErrorCode::Internal, "the predicate can't be compiled; nothing was changed");
            let bound = Bound::new(&pattern, filter).ok_or_else(no_matcher)?;
            let id = overlay.make_queue(&queue)?;
            overlay.routing_mut().bind(base, id, bound)?;
            Ok(Answer::Done)
        }
        RoutingOperation::Unbind { queue, pattern } => {
            let no_queue = || Failure::new(ErrorCode::NotFound, "there is no such queue");
            let id = overlay.queue_id(&queue).ok_or_else(no_queue)?;
            overlay.routing_mut().unbind(base, id, &pattern)?;
            Ok(Answer::Done)
        }
        RoutingOperation::Bindings { queue, cursor, limit } => bindings(overlay, queue.as_deref(), cursor, limit, turn),
        RoutingOperation::Publish(publish) => self::publish(overlay, publish, turn),
    }
}

fn bindings(
    overlay: &Overlay<'_>,
    queue: Option<&[u8]>,
    cursor: Option<(Key, Key)>,
    limit: Option<usize>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    /// What a binding takes in a reply beside its texts.
    const BINDING_BYTES: usize = 32;
    let State { queues, routing, .. } = overlay.state();
    if let Some(queue) = queue
        && queues.id_of(queue).is_none()
    {
        return Err(Failure::new(ErrorCode::NotFound, "there is no such queue"));
    }
    let limit = limit.unwrap_or(limits::QUEUE_ITEMS_MAX).min(limits::QUEUE_ITEMS_MAX);
    let from = queue.unwrap_or_default().max(cursor.as_ref().map_or(&[], |(queue, _)| queue.as_slice()));
    let is_behind = |name: &[u8], pattern: &[u8]| {
        cursor.as_ref().is_none_or(|(last_queue, last)| (name, pattern) > (last_queue.as_slice(), last.as_slice()))
    };
    let mut told: Vec<Binding> = Vec::new();
    let mut bytes_left = limits::PAGE_BYTES_MAX;
    for (name, id) in queues.names_from(Edge::Included(from)) {
        if queue.is_some_and(|queue| queue != name) {
            break;
        }
        if !overlay.scope().contains(name) {
            continue;
        }
        for bound in routing.of(id, b"").filter(|bound| is_behind(name, &bound.pattern)) {
            let bytes = name.len() + bound.pattern.len() + bound.filter().len() + BINDING_BYTES;
            let fits = bytes <= bytes_left && !turn.is_used_up() && turn.take_reply_bytes(bytes);
            if told.len() == limit || !fits {
                let Some(last) = told.last() else {
                    let message =
                        "this array has used up its turn, or its reply is full; ask for this operation in a message of its own";
                    return Err(Failure::new(ErrorCode::ReplyFull, message));
                };
                let cursor = Some((last.queue.clone(), last.pattern.clone()));
                return Ok(Answer::Routing(RoutingAnswer::Bindings { bindings: told, cursor }));
            }
            turn.examine(0);
            bytes_left -= bytes;
            let where_ = Some(bound.filter()).filter(|filter| !filter.is_empty()).map(str::to_owned);
            told.push(Binding { queue: name.to_vec(), pattern: bound.pattern.to_vec(), where_ });
        }
    }
    Ok(Answer::Routing(RoutingAnswer::Bindings { bindings: told, cursor: None }))
}

fn publish(overlay: &mut Overlay<'_>, publish: Publish, turn: &mut Turn) -> Result<Answer, Failure> {
    let is_whole = turn.work_left == limits::TURN_WORK_MAX && turn.log_bytes_left == limits::TURN_LOG_BYTES_MAX;
    let queues = wanted_by(overlay, &publish, turn, is_whole)?;
    let Publish { subject, value, priority, ttl_ms, content_type, retain, must_route } = publish;
    if queues.is_empty() && must_route {
        let message = "no queue wants this message; nothing was published";
        return Err(Failure::new(ErrorCode::Unroutable, message));
    }
    // The message brought the value once.
    let more = (queues.len() + usize::from(retain)).saturating_sub(1);
    if !turn.take_log_bytes(value.as_bytes().len().saturating_mul(more)) {
        let message = format!("{} copies of this message are too many bytes together", more + 1);
        return Err(too_dear(message, is_whole));
    }
    let mut copies = Vec::new();
    let routed = queues.len() as u64;
    for (_, queue) in queues {
        let value = value.clone();
        let is_own = overlay.scope().contains(&queue);
        let content_type = content_type.clone();
        let push = Push { queue: queue.clone(), value, priority, delay_ms: 0, ttl_ms, content_type };
        let item = overlay.push_copy(push, &subject, turn).map_err(|failure| refused_by(&queue, is_own, failure))?;
        if is_own && copies.len() < limits::PUBLISH_COPIES_TOLD_MAX {
            let transient = overlay.is_transient(&queue);
            copies.push(MessageCopy { queue, item, transient });
        }
    }
    if retain {
        let expires_ms = ttl_ms.map(|ms| overlay.time_ms().saturating_add(ms));
        overlay.put(retained_key(&subject), value.clone(), expires_ms);
    }
    let own = overlay.routing_mut();
    own.counts.published += 1;
    own.counts.unroutable += u64::from(routed == 0);
    own.messages.push(Message { subject, value });
    Ok(Answer::Routing(RoutingAnswer::Published { routed, copies }))
}

/// The queues that want a message, each once.
fn wanted_by(
    overlay: &mut Overlay<'_>,
    publish: &Publish,
    turn: &mut Turn,
    is_whole: bool,
) -> Result<Vec<(QueueId, Key)>, Failure> {
    let Publish { subject, value, .. } = publish;
    let revision = overlay.revision();
    let base = &overlay.state().routing;
    let Some(found) = base.trie.find(subject, limits::ROUTE_STEPS_MAX) else {
        return Err(Failure::limit(
            "there are too many patterns with `#` or `*` to look through for this subject; `unbind` some",
        ));
    };
    let own = &overlay.routing_mut().own;
    let found = found.entries.into_iter().map(|(queue, bound)| (*queue, bound));
    let found = found.filter(|(queue, bound)| !own.contains_key(&(*queue, bound.pattern.clone())));
    let added = own.iter().filter_map(|((queue, _), bound)| Some((*queue, bound.as_ref()?)));
    let all: Vec<(QueueId, Arc<Bound>)> = found
        .chain(added.filter(|(_, bound)| subject_matches(&bound.pattern, subject)))
        .map(|(queue, bound)| (queue, Arc::clone(bound)))
        .collect();
    let mut ids = BTreeSet::new();
    let asked = Subject { key: subject, stored: Some(value.as_bytes()), modified: revision, created: revision };
    for (queue, bound) in all {
        if ids.contains(&queue) {
            continue;
        }
        if let Some((_, matcher)) = &bound.filter {
            if turn.is_used_up() {
                return Err(too_dear("the predicates of its bindings take too long for this message".into(), is_whole));
            }
            let verdict = matcher.judge(&asked);
            turn.examine(verdict.work);
            if !verdict.holds {
                continue;
            }
        }
        ids.insert(queue);
    }
    // A binding whose queue's record was lost leads nowhere.
    let queues: Vec<(QueueId, Key)> = ids.into_iter().filter_map(|id| Some((id, overlay.queue_name(id)?))).collect();
    if queues.len() > limits::PUBLISH_COPIES_MAX.min(overlay.items_left()) {
        let message = format!(
            "{} queues want this message; one message, or one transaction with all that it publishes and pushes, makes at most {} items",
            queues.len(),
            limits::PUBLISH_COPIES_MAX
        );
        return Err(Failure::limit(message));
    }
    Ok(queues)
}

/// More than a message may take: for good, or because of what stands beside it.
fn too_dear(message: String, is_whole: bool) -> Failure {
    if is_whole {
        Failure::limit(format!("{message}; nothing was published"))
    } else {
        Failure::new(ErrorCode::ReplyFull, format!("{message}; ask for this operation in a message of its own"))
    }
}

fn refused_by(queue: &[u8], is_own: bool, failure: Failure) -> Failure {
    if failure.code != ErrorCode::QueueFull {
        return failure;
    }
    let message = if is_own {
        format!("the queue {} is full, and so nothing was published: {}", String::from_utf8_lossy(queue), failure.message)
    } else {
        "a queue that wants this message is full, and so nothing was published; try again later".to_owned()
    };
    Failure { message, ..failure }
}
