//! What queues answer, in all shapes: written for the broker, read for clients and for what is remembered.
//!
//! - A delivery is `[item, token, value, deliveries, priority, pushed, type]`, an item that is shown
//!   `[item, value, state, deliveries, priority, pushed, type, due, reason]`; both are the same in every shape. A copy of a message has its
//!   subject behind that. A delivery that has a reason has it behind the subject, which is null there where there is none.
//! - A push into a transient queue is answered with `true` behind the item's id; without it the queue is a persistent one.
//! - A queue is a map of its name and its figures.

use super::{Delivery, ItemId, ItemState, Peeked, Progress, QueueAnswer, QueueInfo, QueueOperation, Receipt, Tracked};
use crate::msgpack::{Cursor, Token, write};
use crate::reply_decode::{ReplyError, boolean, key, needed_key, optional_uint, stat_value, stored, text, uint};
use crate::reply_encode::stat;
use crate::sink::Sink;
use crate::value::Stored;

/// What a successful answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueExpect {
    /// Nothing beyond the revision.
    Done,
    /// An item's id.
    Pushed,
    /// Deliveries, after a wait of so many milliseconds at most.
    Pulled(u64),
    /// How many are ready again.
    Kicked,
    /// How many were removed.
    Purged,
    /// Items.
    Peeked,
    /// How far an item has come, after a wait of so many milliseconds at most.
    Tracked(u64),
    /// Queues.
    Queues,
}

impl QueueOperation {
    /// What a successful answer to this operation looks like.
    pub(crate) fn expects(&self) -> QueueExpect {
        match self {
            QueueOperation::Declare { .. }
            | QueueOperation::Drop { .. }
            | QueueOperation::Ack { .. }
            | QueueOperation::Nack { .. }
            | QueueOperation::Extend { .. }
            | QueueOperation::Bury { .. } => QueueExpect::Done,
            QueueOperation::Push(_) => QueueExpect::Pushed,
            QueueOperation::Pull(pull) => QueueExpect::Pulled(pull.wait_ms),
            QueueOperation::Kick { .. } => QueueExpect::Kicked,
            QueueOperation::Purge { .. } => QueueExpect::Purged,
            QueueOperation::Peek { .. } => QueueExpect::Peeked,
            QueueOperation::Track { wait_ms, .. } => QueueExpect::Tracked(*wait_ms),
            QueueOperation::Queues { .. } => QueueExpect::Queues,
        }
    }
}

/// Elements of the compact form behind status and revision.
pub(crate) fn compact_length(answer: &QueueAnswer) -> usize {
    match answer {
        QueueAnswer::Pushed { transient, .. } => 1 + usize::from(*transient),
        QueueAnswer::Pulled { .. }
        | QueueAnswer::Kicked { .. }
        | QueueAnswer::Peeked { .. }
        | QueueAnswer::Tracked(_)
        | QueueAnswer::Queues { .. } => 2,
    }
}

pub(crate) fn write_compact(answer: &QueueAnswer, out: &mut Vec<u8>) {
    let sink = &mut Sink { json: false, comma: false, out };
    match answer {
        QueueAnswer::Pushed { item, transient } => {
            item_text(*item, sink);
            if *transient {
                sink.boolean(true);
            }
        }
        QueueAnswer::Pulled { items, lease_ms } => {
            deliveries(items, sink);
            sink.uint(*lease_ms);
        }
        QueueAnswer::Kicked { kicked, more } => {
            sink.uint(*kicked);
            sink.boolean(*more);
        }
        QueueAnswer::Peeked { items, cursor } => {
            peeked(items, sink);
            write::optional(sink.out, *cursor, |out, item| write::text(out, &item.to_string()));
        }
        QueueAnswer::Tracked(Tracked { progress, deliveries }) => {
            sink.text(progress.name());
            sink.uint(u64::from(*deliveries));
        }
        QueueAnswer::Queues { queues, cursor } => {
            infos(queues, sink);
            write::optional(sink.out, cursor.as_deref(), write::key);
        }
    }
}

/// Fields of the named forms.
pub(crate) fn field_count(answer: &QueueAnswer) -> usize {
    match answer {
        QueueAnswer::Pushed { transient, .. } => 1 + usize::from(*transient),
        QueueAnswer::Pulled { .. } | QueueAnswer::Kicked { .. } | QueueAnswer::Tracked(_) => 2,
        QueueAnswer::Peeked { cursor, .. } => 1 + usize::from(cursor.is_some()),
        QueueAnswer::Queues { cursor, .. } => 1 + usize::from(cursor.is_some()),
    }
}

pub(crate) fn write_fields(answer: &QueueAnswer, sink: &mut Sink<'_>) {
    match answer {
        QueueAnswer::Pushed { item, transient } => {
            sink.name("item");
            item_text(*item, sink);
            if *transient {
                sink.name("transient");
                sink.boolean(true);
            }
        }
        QueueAnswer::Pulled { items, lease_ms } => {
            sink.name("items");
            deliveries(items, sink);
            sink.name("lease");
            sink.uint(*lease_ms);
        }
        QueueAnswer::Kicked { kicked, more } => {
            sink.name("kicked");
            sink.uint(*kicked);
            sink.name("more");
            sink.boolean(*more);
        }
        QueueAnswer::Peeked { items, cursor } => {
            sink.name("peeked");
            peeked(items, sink);
            if let Some(cursor) = cursor {
                sink.name("cursor");
                item_text(*cursor, sink);
            }
        }
        QueueAnswer::Tracked(Tracked { progress, deliveries }) => {
            sink.name("progress");
            sink.text(progress.name());
            sink.name("deliveries");
            sink.uint(u64::from(*deliveries));
        }
        QueueAnswer::Queues { queues, cursor } => {
            sink.name("queues");
            infos(queues, sink);
            if let Some(cursor) = cursor {
                sink.name("cursor");
                sink.key(cursor);
            }
        }
    }
}

fn item_text(item: ItemId, sink: &mut Sink<'_>) {
    sink.text(&item.to_string());
}

fn optional_text(text: Option<&str>, sink: &mut Sink<'_>) {
    match text {
        Some(text) => sink.text(text),
        None => sink.nil(),
    }
}

fn deliveries(items: &[Delivery], sink: &mut Sink<'_>) {
    sink.array(items.len());
    for Delivery { receipt, value, deliveries, priority, pushed_ms, content_type, subject, reason } in items {
        let has_reason = !reason.is_empty();
        sink.array(if has_reason { 9 } else { 7 + usize::from(subject.is_some()) });
        item_text(receipt.item, sink);
        sink.uint(receipt.token);
        sink.stored(value);
        sink.uint(u64::from(*deliveries));
        sink.integer(i128::from(*priority));
        sink.uint(*pushed_ms);
        optional_text(content_type.as_deref(), sink);
        match subject {
            Some(subject) => sink.key(subject),
            None if has_reason => sink.nil(),
            None => {}
        }
        if has_reason {
            sink.text(reason);
        }
        sink.end_array();
    }
    sink.end_array();
}

fn peeked(items: &[Peeked], sink: &mut Sink<'_>) {
    sink.array(items.len());
    for Peeked { item, value, state, deliveries, priority, pushed_ms, content_type, due_ms, reason, subject } in items {
        sink.array(9 + usize::from(subject.is_some()));
        item_text(*item, sink);
        sink.stored(value);
        sink.text(state.name());
        sink.uint(u64::from(*deliveries));
        sink.integer(i128::from(*priority));
        sink.uint(*pushed_ms);
        optional_text(content_type.as_deref(), sink);
        sink.optional_uint(*due_ms);
        optional_text(Some(reason.as_str()).filter(|reason| !reason.is_empty()), sink);
        subject.iter().for_each(|subject| sink.key(subject));
        sink.end_array();
    }
    sink.end_array();
}

fn infos(queues: &[QueueInfo], sink: &mut Sink<'_>) {
    sink.array(queues.len());
    for QueueInfo { queue, facts } in queues {
        sink.map(1 + facts.len());
        sink.name("queue");
        sink.key(queue);
        for (name, value) in facts {
            sink.name(name);
            stat(value, sink);
        }
        sink.end_map();
    }
    sink.end_array();
}

/// Whether an answer of so many elements behind status and revision can be this one.
pub(crate) fn is_compact_length(expect: QueueExpect, length: usize) -> bool {
    if expect == QueueExpect::Pushed { (1..=2).contains(&length) } else { length == 2 }
}

/// Reads what [`write_compact`] wrote: so many elements, which [`is_compact_length`] has allowed.
pub(crate) fn read_compact(cursor: &mut Cursor<'_>, expect: QueueExpect, length: usize) -> Result<QueueAnswer, ReplyError> {
    Ok(match expect {
        QueueExpect::Pushed => QueueAnswer::Pushed { item: item(cursor)?, transient: length > 1 && boolean(cursor)? },
        QueueExpect::Pulled(_) => QueueAnswer::Pulled { items: read_deliveries(cursor)?, lease_ms: uint(cursor)? },
        QueueExpect::Kicked => QueueAnswer::Kicked { kicked: uint(cursor)?, more: boolean(cursor)? },
        QueueExpect::Peeked => QueueAnswer::Peeked { items: read_peeked(cursor)?, cursor: optional_item(cursor)? },
        QueueExpect::Tracked(_) => QueueAnswer::Tracked(Tracked { progress: progress(cursor)?, deliveries: count(cursor)? }),
        QueueExpect::Queues => QueueAnswer::Queues { queues: read_infos(cursor)?, cursor: key(cursor)? },
        QueueExpect::Done | QueueExpect::Purged => return Err(ReplyError("this answer is no queue's".into())),
    })
}

pub(crate) fn item(cursor: &mut Cursor<'_>) -> Result<ItemId, ReplyError> {
    let text = text(cursor)?;
    text.parse().map_err(|_| ReplyError(format!("{text:?} is no item's id")))
}

fn progress(cursor: &mut Cursor<'_>) -> Result<Progress, ReplyError> {
    let name = text(cursor)?;
    Progress::from_name(&name).ok_or_else(|| ReplyError(format!("an item's progress is {name:?}")))
}

fn optional_item(cursor: &mut Cursor<'_>) -> Result<Option<ItemId>, ReplyError> {
    let text = read_optional_text(cursor)?;
    text.map(|text| text.parse().map_err(|_| ReplyError(format!("{text:?} is no item's id")))).transpose()
}

fn read_optional_text(cursor: &mut Cursor<'_>) -> Result<Option<String>, ReplyError> {
    match cursor.token()? {
        Token::Nil => Ok(None),
        Token::Str(text) => Ok(Some(text.to_owned())),
        other => Err(ReplyError(format!("{other:?} where a text was expected"))),
    }
}

fn priority(cursor: &mut Cursor<'_>) -> Result<i8, ReplyError> {
    let priority = match cursor.token()? {
        Token::UInt(value) => i8::try_from(value).ok(),
        Token::Int(value) => i8::try_from(value).ok(),
        _ => None,
    };
    priority.ok_or_else(|| ReplyError("a priority is none".into()))
}

fn count(cursor: &mut Cursor<'_>) -> Result<u32, ReplyError> {
    Ok(u32::try_from(uint(cursor)?).unwrap_or(u32::MAX))
}

/// Calls `read` for each element, which is an array of so many, or of up to so many more; it is told how many more.
fn each<T>(
    cursor: &mut Cursor<'_>,
    length: usize,
    most_more: usize,
    read: impl Fn(&mut Cursor<'_>, usize) -> Result<T, ReplyError>,
) -> Result<Vec<T>, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no items".into())) };
    let mut items = Vec::new();
    for _ in 0..count {
        let found = cursor.token()?;
        let more = (0..=most_more).find(|more| found == Token::Array(length + more));
        let more = more.ok_or_else(|| ReplyError(format!("an item has no {length} elements")))?;
        items.push(read(cursor, more)?);
    }
    Ok(items)
}

pub(crate) fn read_deliveries(cursor: &mut Cursor<'_>) -> Result<Vec<Delivery>, ReplyError> {
    each(cursor, 7, 2, |cursor, more| {
        Ok(Delivery {
            receipt: Receipt { item: item(cursor)?, token: uint(cursor)? },
            value: stored(cursor)?,
            deliveries: count(cursor)?,
            priority: priority(cursor)?,
            pushed_ms: uint(cursor)?,
            content_type: read_optional_text(cursor)?,
            subject: if more > 0 { key(cursor)? } else { None },
            reason: if more > 1 { text(cursor)? } else { String::new() },
        })
    })
}

fn read_peeked(cursor: &mut Cursor<'_>) -> Result<Vec<Peeked>, ReplyError> {
    each(cursor, 9, 1, |cursor, more| {
        let (item, value, name) = (item(cursor)?, stored(cursor)?, text(cursor)?);
        let state = ItemState::from_name(&name).ok_or_else(|| ReplyError(format!("an item is {name:?}")))?;
        Ok(Peeked {
            item,
            value,
            state,
            deliveries: count(cursor)?,
            priority: priority(cursor)?,
            pushed_ms: uint(cursor)?,
            content_type: read_optional_text(cursor)?,
            due_ms: optional_uint(cursor)?,
            reason: read_optional_text(cursor)?.unwrap_or_default(),
            subject: if more > 0 { Some(needed_key(cursor)?) } else { None },
        })
    })
}

fn read_infos(cursor: &mut Cursor<'_>) -> Result<Vec<QueueInfo>, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no queues".into())) };
    let mut queues = Vec::new();
    for _ in 0..count {
        let Token::Map(fields) = cursor.token()? else { return Err(ReplyError("a queue is no map".into())) };
        let (mut queue, mut facts) = (None, Vec::new());
        for _ in 0..fields {
            match text(cursor)? {
                name if name == "queue" => queue = Some(needed_key(cursor)?),
                name => facts.push((name, stat_value(cursor)?)),
            }
        }
        queues.push(QueueInfo { queue: queue.ok_or_else(|| ReplyError("a queue without a name".into()))?, facts });
    }
    Ok(queues)
}

/// Calls `change` for each value.
///
/// # Errors
/// Those of `change`.
pub(crate) fn each_value<E>(answer: &mut QueueAnswer, mut change: impl FnMut(&mut Stored) -> Result<(), E>) -> Result<(), E> {
    match answer {
        QueueAnswer::Pulled { items, .. } => items.iter_mut().try_for_each(|item| change(&mut item.value)),
        QueueAnswer::Peeked { items, .. } => items.iter_mut().try_for_each(|item| change(&mut item.value)),
        QueueAnswer::Pushed { .. } | QueueAnswer::Kicked { .. } | QueueAnswer::Tracked(_) | QueueAnswer::Queues { .. } => Ok(()),
    }
}

#[cfg(test)]
pub(crate) fn samples() -> Vec<(QueueExpect, QueueAnswer)> {
    use crate::reply::StatValue;
    let item = |revision, place| ItemId::new(revision, place).expect("small numbers");
    let value = || Stored::text("v").expect("a short text");
    let delivery = Delivery {
        receipt: Receipt { item: item(7, 0), token: 9 },
        value: value(),
        deliveries: 1,
        priority: -5,
        pushed_ms: 1 << 40,
        content_type: Some("text/plain".into()),
        subject: Some(b"a.b".to_vec()),
        reason: String::new(),
    };
    let plain = Delivery {
        receipt: Receipt { item: item(7, 3), token: 0 },
        priority: 127,
        content_type: None,
        subject: None,
        ..delivery.clone()
    };
    let again = Delivery { reason: "no disk".into(), ..delivery.clone() };
    let dead = Delivery { reason: "from jobs, item 7: the lease ended".into(), ..plain.clone() };
    let shown = Peeked {
        item: item(8, 1_023),
        value: value(),
        state: ItemState::Dead,
        deliveries: u32::MAX,
        priority: 0,
        pushed_ms: 3,
        content_type: None,
        due_ms: Some(4),
        reason: "no disk".into(),
        subject: Some(vec![0xff]),
    };
    let bare = Peeked {
        state: ItemState::Ready,
        due_ms: None,
        reason: String::new(),
        content_type: Some("x".into()),
        subject: None,
        ..shown.clone()
    };
    let facts = vec![("ready".to_owned(), StatValue::Number(3)), ("overflow".to_owned(), StatValue::Text("reject".into()))];
    let queues = vec![QueueInfo { queue: vec![0xff], facts }, QueueInfo { queue: b"q".to_vec(), facts: vec![] }];
    vec![
        (QueueExpect::Pushed, QueueAnswer::Pushed { item: item(300, 0), transient: false }),
        (QueueExpect::Pushed, QueueAnswer::Pushed { item: item(300, 4), transient: true }),
        (QueueExpect::Pulled(5), QueueAnswer::Pulled { items: vec![delivery, plain, again, dead], lease_ms: 30_000 }),
        (QueueExpect::Pulled(0), QueueAnswer::Pulled { items: vec![], lease_ms: 0 }),
        (QueueExpect::Kicked, QueueAnswer::Kicked { kicked: 4, more: true }),
        (QueueExpect::Peeked, QueueAnswer::Peeked { items: vec![shown, bare], cursor: Some(item(8, 1)) }),
        (QueueExpect::Peeked, QueueAnswer::Peeked { items: vec![], cursor: None }),
        (QueueExpect::Queues, QueueAnswer::Queues { queues, cursor: Some(b"c".to_vec()) }),
        (QueueExpect::Queues, QueueAnswer::Queues { queues: vec![], cursor: None }),
        (QueueExpect::Tracked(0), QueueAnswer::Tracked(Tracked { progress: Progress::Leased, deliveries: 3 })),
        (QueueExpect::Tracked(9), QueueAnswer::Tracked(Tracked { progress: Progress::Gone, deliveries: 0 })),
    ]
}
