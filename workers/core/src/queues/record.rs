//! The records of queues, byte by byte (docs/storage.md says the same). Integers are little-endian, except in keys.
//!
//! - Queue, space `q`: key = name; value = id (u64), lease, retry, ttl (u64 ms each; ttl 0: none), most deliveries (u32), most items and
//!   bytes (u64 each; 0: no limit), flags (bit 0: paused, bit 1: drops the oldest, bit 2: transient), name of the queue for what is dead (the rest).
//! - Item, space `x`: key = queue's id, item's id (u64 big-endian each); value = type byte, document, then what the flags say, last the
//!   time of the push (u64 ms) and the flags. Bit 0: priority (i8). Bit 1: the end of its delay (u64 ms). Bit 2: its deadline (u64 ms).
//!   Bit 3: content type and its length (u8). Bit 4: where it was dead before: reason, its length (u16), deliveries (u32), item (u64),
//!   queue, its length (u8). Bit 5: subject and its length (u8). They stand in this order, each before the next; what is of a length that varies has it behind.
//! - State of an item, space `y`: key as the item's; value = stage (1 waiting, 2 leased, 3 dead, 4 waiting and not subject to its
//!   deadline), deliveries (u32), then of 1 and 4 the end of its delay (u64 ms, 0: none), of 2 token, begin and period (u64 each), of 3
//!   since when (u64 ms); last a reason (the rest). An item without one is as it was pushed.

use kvbroker_protocol::{ItemId, Overflow, Stored, limits};

use super::{Life, Options, QueueId, Stage};
use crate::change::{Change, Space};

const QUEUE_PAUSED: u8 = 1;
const QUEUE_DROPS_OLDEST: u8 = 2;
const QUEUE_TRANSIENT: u8 = 4;
const QUEUE_FLAGS: u8 = QUEUE_PAUSED | QUEUE_DROPS_OLDEST | QUEUE_TRANSIENT;

const ITEM_PRIORITY: u8 = 1;
const ITEM_READY: u8 = 2;
const ITEM_EXPIRES: u8 = 4;
const ITEM_TYPE: u8 = 8;
const ITEM_ORIGIN: u8 = 16;
const ITEM_SUBJECT: u8 = 32;
const ITEM_FLAGS: u8 = ITEM_PRIORITY | ITEM_READY | ITEM_EXPIRES | ITEM_TYPE | ITEM_ORIGIN | ITEM_SUBJECT;

const WAITING: u8 = 1;
const LEASED: u8 = 2;
const DEAD: u8 = 3;
const WAITING_STAYS: u8 = 4;

/// Takes a number off the front.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

fn short_number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

/// Takes bytes off the back.
fn tail<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (rest, tail) = bytes.split_at_checked(bytes.len().checked_sub(length)?)?;
    *bytes = rest;
    Some(tail)
}

fn tail_number(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(tail(bytes, 8)?.try_into().ok()?))
}

// ---- queues ----

/// Reads a queue's record.
pub(crate) fn read_queue(mut value: &[u8]) -> Option<(QueueId, Options)> {
    let rest = &mut value;
    let id = ItemId::from_bytes(number(rest)?.to_be_bytes());
    let (lease_ms, retry_ms, ttl_ms) = (number(rest)?, number(rest)?, number(rest)?);
    let max_deliveries = short_number(rest)?;
    let (max_items, max_bytes) = (number(rest)?, number(rest)?);
    let (&flags, dead) = rest.split_first()?;
    if flags & !QUEUE_FLAGS != 0 || dead.len() > limits::QUEUE_NAME_BYTES_MAX {
        return None;
    }
    let overflow = if flags & QUEUE_DROPS_OLDEST != 0 { Overflow::DropOldest } else { Overflow::Reject };
    let paused = flags & QUEUE_PAUSED != 0;
    let transient = flags & QUEUE_TRANSIENT != 0;
    let dead = dead.into();
    Some((id, Options { lease_ms, retry_ms, ttl_ms, max_deliveries, max_items, max_bytes, overflow, paused, transient, dead }))
}

/// The change that makes a queue, or changes its settings.
pub(super) fn put_queue(name: &[u8], id: QueueId, options: &Options) -> Change {
    let Options { lease_ms, retry_ms, ttl_ms, max_deliveries, max_items, max_bytes, overflow, paused, transient, dead } = options;
    let mut value = u64::from_be_bytes(id.to_bytes()).to_le_bytes().to_vec();
    [lease_ms, retry_ms, ttl_ms].iter().for_each(|ms| value.extend_from_slice(&ms.to_le_bytes()));
    value.extend_from_slice(&max_deliveries.to_le_bytes());
    [max_items, max_bytes].iter().for_each(|most| value.extend_from_slice(&most.to_le_bytes()));
    let drops = if *overflow == Overflow::DropOldest { QUEUE_DROPS_OLDEST } else { 0 };
    let transient = if *transient { QUEUE_TRANSIENT } else { 0 };
    value.push(drops | transient | if *paused { QUEUE_PAUSED } else { 0 });
    value.extend_from_slice(dead);
    Change { space: Space::Queue, key: name.to_vec(), value: Some(value) }
}

/// The change that removes a queue.
pub(super) fn delete_queue(name: &[u8]) -> Change {
    Change { space: Space::Queue, key: name.to_vec(), value: None }
}

// ---- items ----

/// The key of an item's records.
pub(super) fn item_key(queue: QueueId, item: ItemId) -> Vec<u8> {
    [queue.to_bytes(), item.to_bytes()].concat()
}

/// The queue and the item of a key.
pub(crate) fn split_item_key(key: &[u8]) -> Option<(QueueId, ItemId)> {
    let (queue, item) = key.split_first_chunk()?;
    Some((ItemId::from_bytes(*queue), ItemId::from_bytes(item.try_into().ok()?)))
}

/// Where an item was dead before it came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    pub(crate) queue: &'a [u8],
    pub(crate) item: ItemId,
    pub(crate) deliveries: u32,
    pub(crate) reason: &'a str,
}

/// An item's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ItemRecord<'a> {
    /// Type byte and document.
    pub(crate) stored: &'a [u8],
    pub(crate) priority: i8,
    /// 0: it has no delay.
    pub(crate) ready_ms: u64,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) origin: Option<Origin<'a>>,
    /// Of a copy of a message.
    pub(crate) subject: Option<&'a [u8]>,
    pub(crate) pushed_ms: u64,
}

impl<'a> ItemRecord<'a> {
    pub(crate) fn read(record: &'a [u8]) -> Option<ItemRecord<'a>> {
        let (&flags, mut rest) = record.split_last()?;
        if flags & !ITEM_FLAGS != 0 {
            return None;
        }
        // From the back: what was appended last comes off first.
        let rest = &mut rest;
        let pushed_ms = tail_number(rest)?;
        let subject = if flags & ITEM_SUBJECT != 0 {
            let length = usize::from(*tail(rest, 1)?.first()?);
            Some(tail(rest, length)?)
        } else {
            None
        };
        let origin = if flags & ITEM_ORIGIN != 0 { Some(read_origin(rest)?) } else { None };
        let content_type = if flags & ITEM_TYPE != 0 {
            let length = usize::from(*tail(rest, 1)?.first()?);
            Some(std::str::from_utf8(tail(rest, length)?).ok()?)
        } else {
            None
        };
        let expires_ms = if flags & ITEM_EXPIRES != 0 { Some(tail_number(rest)?) } else { None };
        let ready_ms = if flags & ITEM_READY != 0 { tail_number(rest)? } else { 0 };
        let priority = if flags & ITEM_PRIORITY != 0 { i8::from_le_bytes(tail(rest, 1)?.try_into().ok()?) } else { 0 };
        let stored = *rest;
        matches!(stored.first(), Some(1 | 2)).then_some(ItemRecord {
            stored,
            priority,
            ready_ms,
            expires_ms,
            content_type,
            origin,
            subject,
            pushed_ms,
        })
    }

    /// The record of an item with this value; `stored` of `self` is not looked at.
    pub(super) fn with_value(&self, value: Stored) -> Vec<u8> {
        let mut record = value.into_bytes();
        let mut flags = 0;
        if self.priority != 0 {
            record.extend_from_slice(&self.priority.to_le_bytes());
            flags |= ITEM_PRIORITY;
        }
        if self.ready_ms != 0 {
            record.extend_from_slice(&self.ready_ms.to_le_bytes());
            flags |= ITEM_READY;
        }
        if let Some(expires_ms) = self.expires_ms {
            record.extend_from_slice(&expires_ms.to_le_bytes());
            flags |= ITEM_EXPIRES;
        }
        if let Some(content_type) = self.content_type {
            let length = u8::try_from(content_type.len()).expect("the grammar bounds it below 256 bytes");
            record.extend_from_slice(content_type.as_bytes());
            record.push(length);
            flags |= ITEM_TYPE;
        }
        if let Some(origin) = &self.origin {
            write_origin(origin, &mut record);
            flags |= ITEM_ORIGIN;
        }
        if let Some(subject) = self.subject {
            let length = u8::try_from(subject.len()).expect("the grammar bounds it below 256 bytes");
            record.extend_from_slice(subject);
            record.push(length);
            flags |= ITEM_SUBJECT;
        }
        record.extend_from_slice(&self.pushed_ms.to_le_bytes());
        record.push(flags);
        record
    }

    /// The value as it was written.
    pub(super) fn value(&self) -> Stored {
        Stored::from_bytes(self.stored.to_vec()).expect("`read` checked the type byte")
    }

    /// How an item is that nobody has touched since it was pushed.
    pub(super) fn first_life(&self) -> Life {
        Life { stage: Stage::Waiting { ready_ms: self.ready_ms, stays: false }, deliveries: 0, reason: "".into() }
    }
}

fn read_origin<'a>(rest: &mut &'a [u8]) -> Option<Origin<'a>> {
    let length = usize::from(*tail(rest, 1)?.first()?);
    let queue = tail(rest, length)?;
    let item = ItemId::from_bytes(tail_number(rest)?.to_be_bytes());
    let deliveries = u32::from_le_bytes(tail(rest, 4)?.try_into().ok()?);
    let length = usize::from(u16::from_le_bytes(tail(rest, 2)?.try_into().ok()?));
    Some(Origin { queue, item, deliveries, reason: std::str::from_utf8(tail(rest, length)?).ok()? })
}

fn write_origin(origin: &Origin<'_>, record: &mut Vec<u8>) {
    let reason = cut(origin.reason);
    record.extend_from_slice(reason.as_bytes());
    record.extend_from_slice(&(reason.len() as u16).to_le_bytes());
    record.extend_from_slice(&origin.deliveries.to_le_bytes());
    record.extend_from_slice(&u64::from_be_bytes(origin.item.to_bytes()).to_le_bytes());
    record.extend_from_slice(origin.queue);
    record.push(origin.queue.len() as u8);
}

/// A reason, no longer than one may be.
pub(super) fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(limits::QUEUE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

pub(super) fn put_item(queue: QueueId, item: ItemId, record: Vec<u8>) -> Change {
    Change { space: Space::Item, key: item_key(queue, item), value: Some(record) }
}

/// The changes that remove an item.
pub(super) fn delete_item(queue: QueueId, item: ItemId) -> [Change; 2] {
    [Space::Item, Space::ItemState].map(|space| Change { space, key: item_key(queue, item), value: None })
}

// ---- states ----

/// Reads a state's record.
pub(crate) fn read_life(mut value: &[u8]) -> Option<Life> {
    let (&stage, _) = value.split_first()?;
    let rest = &mut value;
    *rest = rest.get(1..)?;
    let deliveries = short_number(rest)?;
    let stage = match stage {
        WAITING | WAITING_STAYS => Stage::Waiting { ready_ms: number(rest)?, stays: stage == WAITING_STAYS },
        LEASED => Stage::Leased { token: number(rest)?, granted_ms: number(rest)?, lease_ms: number(rest)? },
        DEAD => Stage::Dead { since_ms: number(rest)? },
        _ => return None,
    };
    Some(Life { stage, deliveries, reason: std::str::from_utf8(rest).ok()?.into() })
}

pub(super) fn put_life(queue: QueueId, item: ItemId, life: &Life) -> Change {
    let (kind, numbers): (u8, &[u64]) = match &life.stage {
        Stage::Waiting { ready_ms, stays } => (if *stays { WAITING_STAYS } else { WAITING }, &[*ready_ms]),
        Stage::Leased { token, granted_ms, lease_ms } => (LEASED, &[*token, *granted_ms, *lease_ms]),
        Stage::Dead { since_ms } => (DEAD, &[*since_ms]),
    };
    let mut value = Vec::with_capacity(5 + numbers.len() * 8 + life.reason.len());
    value.push(kind);
    value.extend_from_slice(&life.deliveries.to_le_bytes());
    numbers.iter().for_each(|number| value.extend_from_slice(&number.to_le_bytes()));
    value.extend_from_slice(life.reason.as_bytes());
    Change { space: Space::ItemState, key: item_key(queue, item), value: Some(value) }
}

/// True if the bytes are a value of this space.
pub(crate) fn is_record(space: Space, key: &[u8], value: &[u8]) -> bool {
    match space {
        Space::Queue => (1..=limits::QUEUE_NAME_BYTES_MAX).contains(&key.len()) && read_queue(value).is_some(),
        Space::Item => split_item_key(key).is_some() && ItemRecord::read(value).is_some(),
        Space::ItemState => split_item_key(key).is_some() && read_life(value).is_some(),
        Space::Binding | Space::Rule | Space::Floor | Space::Messages | Space::Session | Space::Table | Space::Window => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(revision: u64) -> ItemId {
        ItemId::new(revision, 3).unwrap()
    }

    #[test]
    fn records_read_back_and_nothing_else_does() {
        let options = [
            Options::default(),
            Options {
                lease_ms: 1,
                retry_ms: 2,
                ttl_ms: 3,
                max_deliveries: 4,
                max_items: 5,
                max_bytes: u64::MAX,
                overflow: Overflow::DropOldest,
                paused: true,
                transient: true,
                dead: b"d".as_slice().into(),
            },
        ];
        for options in options {
            let change = put_queue(b"q", id(7), &options);
            assert_eq!(read_queue(change.value.as_deref().unwrap()), Some((id(7), options)));
        }
        let stages = [
            Stage::Waiting { ready_ms: 9, stays: false },
            Stage::Waiting { ready_ms: 0, stays: true },
            Stage::Leased { token: 5, granted_ms: 6, lease_ms: 7 },
            Stage::Dead { since_ms: 8 },
        ];
        for stage in stages {
            let life = Life { stage, deliveries: 3, reason: "é".into() };
            let change = put_life(id(7), id(8), &life);
            let value = change.value.unwrap();
            assert_eq!((split_item_key(&change.key), read_life(&value)), (Some((id(7), id(8))), Some(life)));
            // Cut anywhere but inside the reason it is none.
            assert!((0..value.len() - 2).all(|length| read_life(&value[..length]).is_none()));
        }
        assert!(read_life(&[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(split_item_key(&[0; 15]).is_none() && split_item_key(&[0; 17]).is_none());
    }

    #[test]
    fn items_have_what_they_were_made_with() {
        let origin = Origin { queue: b"jobs", item: id(3), deliveries: 9, reason: "no disk" };
        for flags in 0..64_u8 {
            let has = |bit: u8| flags & 1 << bit != 0;
            let value = Stored::text("zebra").unwrap();
            let made = ItemRecord {
                stored: value.as_bytes(),
                priority: if has(0) { -3 } else { 0 },
                ready_ms: if has(1) { 11 } else { 0 },
                expires_ms: has(2).then_some(12),
                content_type: has(3).then_some("text/plain"),
                origin: has(4).then_some(origin),
                subject: has(5).then_some(b"a.b".as_slice()),
                pushed_ms: 13,
            };
            let record = made.with_value(value.clone());
            assert_eq!(record.last(), Some(&flags));
            assert_eq!(ItemRecord::read(&record), Some(made));
            assert_eq!(made.value(), value);
        }
        for bad in [&b""[..], b"\0", b"\x01x\x40", b"\x0112345678\x01", b"\x03x12345678\0"] {
            assert_eq!(ItemRecord::read(bad), None);
        }
    }
}
