//! Writing an operation on queues in its compact form.

use super::{Declaration, Overflow, Pull, Push, QueueOperation, Until};
use crate::msgpack::write;

/// The value of an option.
pub(crate) enum Part<'a> {
    Number(u64),
    Integer(i64),
    Text(&'a str),
    Key(&'a [u8]),
    Keys([&'a [u8]; 2]),
    Flag(bool),
}

/// Writes one positional argument.
pub(crate) type Argument<'a> = &'a dyn Fn(&mut Vec<u8>);

/// Options by name; those that are not given are left out, and the map with them.
#[derive(Default)]
pub(crate) struct Options<'a>(Vec<(&'static str, Part<'a>)>);

impl<'a> Options<'a> {
    pub(crate) fn with(mut self, name: &'static str, part: Option<Part<'a>>) -> Self {
        self.0.extend(part.map(|part| (name, part)));
        self
    }

    pub(crate) fn number(self, name: &'static str, number: Option<u64>) -> Self {
        self.with(name, number.map(Part::Number))
    }

    fn size(self, name: &'static str, size: Option<usize>) -> Self {
        self.number(name, size.map(|size| size as u64))
    }

    /// Head, arguments and options of an operation.
    pub(crate) fn write(self, verb: &str, arguments: &[Argument<'_>], out: &mut Vec<u8>) {
        write::array(out, 1 + arguments.len() + usize::from(!self.0.is_empty()));
        write::text(out, verb);
        arguments.iter().for_each(|argument| argument(out));
        if !self.0.is_empty() {
            write::map(out, self.0.len());
        }
        for (name, part) in self.0 {
            write::text(out, name);
            match part {
                Part::Number(number) => write::uint(out, number),
                Part::Integer(integer) => write::int(out, integer),
                Part::Text(text) => write::text(out, text),
                Part::Key(key) => write::key(out, key),
                Part::Keys(keys) => {
                    write::array(out, keys.len());
                    keys.iter().for_each(|key| write::key(out, key));
                }
                Part::Flag(flag) => write::boolean(out, flag),
            }
        }
    }
}

/// Appends the compact form.
pub(crate) fn write_queue_operation(operation: &QueueOperation, out: &mut Vec<u8>) {
    let verb = operation.verb();
    let options = Options::default();
    let key = |key: &[u8]| {
        let key = key.to_vec();
        move |out: &mut Vec<u8>| write::key(out, &key)
    };
    match operation {
        QueueOperation::Declare { queue, options: declared } => {
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
            } = declared;
            options
                .number("lease", *lease_ms)
                .number("max_deliveries", max_deliveries.map(u64::from))
                .number("retry", *retry_ms)
                .number("ttl", *ttl_ms)
                .number("max_items", *max_items)
                .number("max_bytes", *max_bytes)
                .with("overflow", overflow.map(Overflow::name).map(Part::Text))
                .with("dead_queue", dead.as_deref().map(Part::Key))
                .with("paused", paused.map(Part::Flag))
                .with("transient", transient.map(Part::Flag))
                .with("must_exist", must_exist.then_some(Part::Flag(true)))
                .write(verb, &[&key(queue)], out);
        }
        QueueOperation::Drop { queue } => options.write(verb, &[&key(queue)], out),
        QueueOperation::Push(Push { queue, value, priority, delay_ms, ttl_ms, content_type }) => options
            .with("priority", (*priority != 0).then_some(Part::Integer(i64::from(*priority))))
            .number("delay", Some(*delay_ms).filter(|ms| *ms > 0))
            .number("ttl", *ttl_ms)
            .with("type", content_type.as_deref().map(Part::Text))
            .write(verb, &[&|out| write::key(out, queue), &|out| value.write_msgpack(out)], out),
        QueueOperation::Pull(Pull { queue, limit, lease_ms, wait_ms, no_ack }) => options
            .size("limit", Some(*limit).filter(|limit| *limit != 1))
            .number("lease", *lease_ms)
            .number("wait", Some(*wait_ms).filter(|ms| *ms > 0))
            .with("no_ack", no_ack.then_some(Part::Flag(true)))
            .write(verb, &[&key(queue)], out),
        QueueOperation::Ack { queue, receipt } => {
            let item = |out: &mut Vec<u8>| write::text(out, &receipt.item.to_string());
            options.write(verb, &[&key(queue), &item, &|out| write::uint(out, receipt.token)], out);
        }
        QueueOperation::Nack { queue, receipt, delay_ms, reason, unused } => {
            let item = |out: &mut Vec<u8>| write::text(out, &receipt.item.to_string());
            options
                .number("delay", *delay_ms)
                .with("reason", (!reason.is_empty()).then_some(Part::Text(reason)))
                .with("unused", unused.then_some(Part::Flag(true)))
                .write(verb, &[&key(queue), &item, &|out| write::uint(out, receipt.token)], out);
        }
        QueueOperation::Extend { queue, receipt, lease_ms } => {
            let item = |out: &mut Vec<u8>| write::text(out, &receipt.item.to_string());
            options.number("lease", *lease_ms).write(verb, &[&key(queue), &item, &|out| write::uint(out, receipt.token)], out);
        }
        QueueOperation::Bury { queue, item, token, reason } => options
            .number("token", *token)
            .with("reason", (!reason.is_empty()).then_some(Part::Text(reason)))
            .write(verb, &[&key(queue), &|out| write::text(out, &item.to_string())], out),
        QueueOperation::Kick { queue, item, limit } => {
            let item = item.map(|item| item.to_string());
            options.with("item", item.as_deref().map(Part::Text)).size("limit", *limit).write(verb, &[&key(queue)], out);
        }
        QueueOperation::Purge { queue, state, limit } => options
            .with("state", state.map(|state| Part::Text(state.name())))
            .size("limit", *limit)
            .write(verb, &[&key(queue)], out),
        QueueOperation::Peek { queue, state, limit, cursor } => {
            let cursor = cursor.map(|item| item.to_string());
            options
                .with("state", Some(Part::Text(state.name())))
                .size("limit", *limit)
                .with("cursor", cursor.as_deref().map(Part::Text))
                .write(verb, &[&key(queue)], out);
        }
        QueueOperation::Track { queue, item, until, wait_ms } => options
            .with("until", (*until != Until::default()).then_some(Part::Text(until.name())))
            .number("wait", Some(*wait_ms).filter(|ms| *ms > 0))
            .write(verb, &[&key(queue), &|out| write::text(out, &item.to_string())], out),
        QueueOperation::Queues { queue, prefix, cursor, limit } => options
            .with("queue", queue.as_deref().map(Part::Key))
            .with("cursor", cursor.as_deref().map(Part::Key))
            .size("limit", *limit)
            .write(verb, &[&key(prefix)], out),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::decode_request;
    use crate::encode::encode_request;
    use crate::header::Header;
    use crate::operation::{Operation, Operations};
    use crate::queue::{ItemId, ItemState, Receipt};
    use crate::value::Stored;

    pub(super) fn samples() -> Vec<QueueOperation> {
        let (queue, item) = (vec![0xff, b'q'], ItemId::new(9, 2).unwrap());
        let receipt = Receipt { item, token: 77 };
        let value = Stored::text("v").unwrap();
        let options = Declaration {
            lease_ms: Some(5_000),
            max_deliveries: Some(0),
            retry_ms: Some(3),
            ttl_ms: Some(0),
            max_items: Some(u64::MAX),
            max_bytes: Some(1),
            overflow: Some(Overflow::DropOldest),
            dead: Some(vec![]),
            paused: Some(false),
            transient: Some(true),
            must_exist: true,
        };
        let push = Push { queue: queue.clone(), value, priority: 0, delay_ms: 0, ttl_ms: None, content_type: None };
        let rich = Push { priority: -128, delay_ms: 1, ttl_ms: Some(2), content_type: Some("text/plain".into()), ..push.clone() };
        let pull = Pull { queue: queue.clone(), limit: 1, lease_ms: None, wait_ms: 0, no_ack: false };
        vec![
            QueueOperation::Declare { queue: queue.clone(), options: Declaration::default() },
            QueueOperation::Declare { queue: queue.clone(), options },
            QueueOperation::Drop { queue: queue.clone() },
            QueueOperation::Push(push),
            QueueOperation::Push(rich),
            QueueOperation::Pull(pull.clone()),
            QueueOperation::Pull(Pull { limit: 1_000, lease_ms: Some(100), wait_ms: 60_000, no_ack: true, ..pull }),
            QueueOperation::Ack { queue: queue.clone(), receipt },
            QueueOperation::Nack { queue: queue.clone(), receipt, delay_ms: None, reason: String::new(), unused: false },
            QueueOperation::Nack { queue: queue.clone(), receipt, delay_ms: None, reason: String::new(), unused: true },
            QueueOperation::Nack { queue: queue.clone(), receipt, delay_ms: Some(0), reason: "no disk".into(), unused: false },
            QueueOperation::Track { queue: queue.clone(), item, until: Until::Done, wait_ms: 0 },
            QueueOperation::Track { queue: queue.clone(), item, until: Until::Delivered, wait_ms: 60_000 },
            QueueOperation::Extend { queue: queue.clone(), receipt, lease_ms: None },
            QueueOperation::Extend { queue: queue.clone(), receipt, lease_ms: Some(100) },
            QueueOperation::Bury { queue: queue.clone(), item, token: None, reason: String::new() },
            QueueOperation::Bury { queue: queue.clone(), item, token: Some(0), reason: "bad".into() },
            QueueOperation::Kick { queue: queue.clone(), item: None, limit: None },
            QueueOperation::Kick { queue: queue.clone(), item: Some(item), limit: Some(4) },
            QueueOperation::Purge { queue: queue.clone(), state: None, limit: None },
            QueueOperation::Purge { queue: queue.clone(), state: Some(ItemState::Dead), limit: Some(1) },
            QueueOperation::Peek { queue: queue.clone(), state: ItemState::Ready, limit: None, cursor: None },
            QueueOperation::Peek { queue: queue.clone(), state: ItemState::Leased, limit: Some(2), cursor: Some(item) },
            QueueOperation::Queues { queue: None, prefix: vec![], cursor: None, limit: None },
            QueueOperation::Queues { queue: Some(queue.clone()), prefix: b"p".to_vec(), cursor: Some(queue), limit: Some(3) },
        ]
    }

    #[test]
    fn every_operation_reads_back() {
        for operation in samples() {
            let operations = Operations::One(Operation::Queue(Box::new(operation)));
            let mut body = Vec::new();
            encode_request(&Header::default(), &operations, &mut body);
            assert_eq!(decode_request(&body).unwrap().operations, operations);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = "n".repeat(crate::limits::QUEUE_NAME_BYTES_MAX + 1);
        let cases = [
            (r#"{"op":"push","queue":"","value":1}"#.to_owned(), "at least one byte"),
            (format!(r#"{{"op":"push","queue":"{long}","value":1}}"#), "256 bytes"),
            (r#"{"op":"push","queue":"q"}"#.into(), "needs `value`"),
            (r#"{"op":"push","queue":"q","value":1,"priority":128}"#.into(), "-128 to 127"),
            (r#"{"op":"push","queue":"q","value":1,"ttl":0}"#.into(), "at least 1 ms"),
            (r#"{"op":"pull","queue":"q","wait":60001}"#.into(), "at most 60000"),
            (r#"{"op":"push","queue":"q","value":1,"ttl":5,"delay":5}"#.into(), "nobody would get the item"),
            (r#"{"op":"pull","queue":"q","lease":99}"#.into(), "at least 100 ms"),
            (r#"{"op":"extend","queue":"q","item":"1","token":1,"lease":86400001}"#.into(), "`extend` again"),
            (r#"{"op":"pull","queue":"q","limit":0}"#.into(), "at least 1"),
            (r#"{"op":"ack","queue":"q","item":"1"}"#.into(), "needs `token`"),
            (r#"{"op":"track","queue":"q","item":"1","until":"never"}"#.into(), "delivered and done"),
            (r#"{"op":"track","queue":"q","item":"1","wait":60001}"#.into(), "at most 60000"),
            (r#"{"op":"ack","queue":"q","item":"01","token":1}"#.into(), "`item`: an item's id"),
            (r#"{"op":"peek","queue":"q","state":"gone"}"#.into(), "ready, delayed, leased, dead"),
            (r#"{"op":"purge","queue":"q","state":"leased"}"#.into(), "not purged"),
            (r#"{"op":"declare","queue":"q","overflow":"x"}"#.into(), "reject and drop-oldest"),
            (r#"{"op":"declare","queue":"q","max_deliveries":4294967296}"#.into(), "at most 2^32-1"),
            (r#"[{"op":"size"},{"op":"pull","queue":"q","wait":1}]"#.into(), "stands alone"),
            (r#"{"op":"txn","then":[{"op":"pull","queue":"q","wait":1}]}"#.into(), "`wait` in a transaction"),
            (r#"{"op":"txn","then":[{"op":"peek","queue":"q"}]}"#.into(), "part of a transaction"),
        ];
        for (text, part) in cases {
            let message = decode_request(text.as_bytes()).unwrap_err().failure.message;
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
