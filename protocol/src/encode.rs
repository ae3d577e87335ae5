//! Writing a request as a compact MessagePack message: what our own clients send.

use crate::PROTOCOL_VERSION;
use crate::conversion::{write_conversion_operation, write_converted};
use crate::events::epoch_text;
use crate::header::Header;
use crate::msgpack::write;
use crate::operation::{Condition, Events, List, Operation, Operations, Scan};
use crate::queue::write_queue_operation;
use crate::routing::write_routing_operation;
use crate::txn::Compare;
use crate::value::Stored;

/// Appends the compact form of a message.
pub fn encode_request(header: &Header, operations: &Operations, out: &mut Vec<u8>) {
    write_header(header, out);
    match operations {
        Operations::One(operation) => write_operation(operation, out),
        Operations::Many(operations) => write_operations(operations, out),
    }
}

/// Appends the compact form of one operation, to be put into a message by [`encode_message`].
pub fn encode_operation(operation: &Operation, out: &mut Vec<u8>) {
    write_operation(operation, out);
}

/// Appends the compact form of a get, for whoever has no [`Operation`] and needs none.
pub fn encode_get(key: &[u8], out: &mut Vec<u8>) {
    write_head("get", 2, out);
    write::key(out, key);
}

/// Appends the compact form of a put without condition and time to live.
pub fn encode_put(key: &[u8], value: &Stored, out: &mut Vec<u8>) {
    write_head("put", 3, out);
    write::key(out, key);
    value.write_msgpack(out);
}

fn write_head(verb: &str, length: usize, out: &mut Vec<u8>) {
    write::array(out, length);
    write::text(out, verb);
}

/// Appends the compact form of a message of operations that are encoded already: a single one by itself, others as an array.
pub fn encode_message<'a>(header: &Header, operations: impl ExactSizeIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    encode_message_head(header, operations.len(), out);
    operations.for_each(|operation| out.extend_from_slice(operation));
}

/// Appends what comes before the operations in the message that [`encode_message`] makes of so many.
pub fn encode_message_head(header: &Header, operations: usize, out: &mut Vec<u8>) {
    write_header(header, out);
    if operations != 1 {
        write::array(out, operations);
    }
}

fn write_header(header: &Header, out: &mut Vec<u8>) {
    write::array(out, 8);
    write::uint(out, u64::from(PROTOCOL_VERSION));
    write::optional_uint(out, header.id);
    write::optional(out, header.broker, |out, id| write::bytes(out, &id.0));
    write::optional(out, header.session, |out, id| write::bytes(out, &id.0));
    write::optional_uint(out, header.seq);
    write::optional_uint(out, header.ack);
    write::optional_uint(out, header.got);
}

fn write_operations(operations: &[Operation], out: &mut Vec<u8>) {
    write::array(out, operations.len());
    operations.iter().for_each(|operation| write_operation(operation, out));
}

pub(crate) fn write_operation(operation: &Operation, out: &mut Vec<u8>) {
    let head = |out: &mut Vec<u8>, length: usize| write_head(operation.verb(), length, out);
    match operation {
        Operation::Get { key } => encode_get(key, out),
        Operation::Put { key, value, condition: None, ttl_ms: None } => encode_put(key, value, out),
        Operation::Ping | Operation::Stats | Operation::Size | Operation::Noop | Operation::End | Operation::Who => head(out, 1),
        Operation::Hello { project } => {
            head(out, 2);
            write::map(out, usize::from(project.is_some()));
            if let Some(project) = project {
                write::text(out, "project");
                write::text(out, project);
            }
        }
        Operation::Put { key, value, condition, ttl_ms } => {
            let options = usize::from(condition.is_some()) + usize::from(ttl_ms.is_some());
            head(out, if options > 0 { 4 } else { 3 });
            write::key(out, key);
            value.write_msgpack(out);
            if options > 0 {
                write::map(out, options);
            }
            if let Some(condition) = condition {
                write_condition(condition, out);
            }
            if let Some(ttl_ms) = ttl_ms {
                write::text(out, "ttl");
                write::uint(out, *ttl_ms);
            }
        }
        Operation::Expire { key, ttl_ms } => {
            head(out, 3);
            write::key(out, key);
            write::uint(out, *ttl_ms);
        }
        Operation::DelPrefix { prefix, limit } => {
            head(out, if limit.is_some() { 3 } else { 2 });
            write::key(out, prefix);
            if let Some(limit) = limit {
                write::map(out, 1);
                write::text(out, "limit");
                write::uint(out, *limit as u64);
            }
        }
        Operation::Result { session, seq, settle } => {
            head(out, if *settle { 4 } else { 3 });
            write::bytes(out, &session.0);
            write::uint(out, *seq);
            if *settle {
                write::map(out, 1);
                write::text(out, "settle");
                write::boolean(out, true);
            }
        }
        Operation::List(List { prefix, delimiter, cursor, limit }) => {
            head(out, 3);
            write::key(out, prefix);
            write::map(out, 1 + usize::from(cursor.is_some()) + usize::from(limit.is_some()));
            write::text(out, "delimiter");
            write::key(out, delimiter);
            if let Some(cursor) = cursor {
                write::text(out, "cursor");
                write::key(out, cursor);
            }
            if let Some(limit) = limit {
                write::text(out, "limit");
                write::uint(out, *limit as u64);
            }
        }
        Operation::History { key, limit, before } => {
            let options = usize::from(limit.is_some()) + usize::from(before.is_some());
            head(out, if options > 0 { 3 } else { 2 });
            write::key(out, key);
            if options > 0 {
                write::map(out, options);
            }
            if let Some(limit) = limit {
                write::text(out, "limit");
                write::uint(out, *limit as u64);
            }
            if let Some(before) = before {
                write::text(out, "before");
                write::uint(out, *before);
            }
        }
        Operation::Events(events) => write_events_request(events, out),
        Operation::Queue(queue) => write_queue_operation(queue, out),
        Operation::Routing(routing) => write_routing_operation(routing, out),
        Operation::Conversion(conversion) => write_conversion_operation(conversion, out),
        Operation::Converted(converted) => write_converted(converted, out),
        Operation::Authorize { key, role, prefixes, comment } => {
            let options = usize::from(!prefixes.is_empty()) + usize::from(!comment.is_empty());
            head(out, if options > 0 { 4 } else { 3 });
            write::text(out, &key.to_string());
            write::text(out, role.name());
            if options > 0 {
                write::map(out, options);
            }
            if !prefixes.is_empty() {
                write::text(out, "prefixes");
                write::array(out, prefixes.len());
                prefixes.iter().for_each(|prefix| write::key(out, prefix));
            }
            if !comment.is_empty() {
                write::text(out, "comment");
                write::text(out, comment);
            }
        }
        Operation::Revoke { key } => {
            head(out, 2);
            write::text(out, &key.to_string());
        }
        Operation::Exists { key } | Operation::Persist { key } | Operation::Ttl { key } => {
            head(out, 2);
            write::key(out, key);
        }
        Operation::Mget { keys } => {
            head(out, 2);
            write::array(out, keys.len());
            keys.iter().for_each(|key| write::key(out, key));
        }
        Operation::Incr { key, by } => {
            head(out, if *by == 1 { 2 } else { 3 });
            write::key(out, key);
            if *by != 1 {
                write::map(out, 1);
                write::text(out, "by");
                write::int(out, *by);
            }
        }
        Operation::Del { key, return_old, condition } => {
            let options = usize::from(*return_old) + usize::from(condition.is_some());
            head(out, if options > 0 { 3 } else { 2 });
            write::key(out, key);
            if options > 0 {
                write::map(out, options);
            }
            if *return_old {
                write::text(out, "return");
                write::boolean(out, true);
            }
            if let Some(condition) = condition {
                write_condition(condition, out);
            }
        }
        Operation::Txn(txn) => {
            head(out, if txn.otherwise.is_empty() { 3 } else { 4 });
            write::array(out, txn.compares.len());
            for Compare { key, condition } in &txn.compares {
                write::map(out, 2);
                write::text(out, "key");
                write::key(out, key);
                write_condition(condition, out);
            }
            write_operations(&txn.then, out);
            if !txn.otherwise.is_empty() {
                write::map(out, 1);
                write::text(out, "else");
                write_operations(&txn.otherwise, out);
            }
        }
        Operation::Scan(scan) => {
            head(out, 2);
            write_scan(scan, out);
        }
        Operation::Query { subkey, subvalue, scan } => {
            head(out, 4);
            write::text(out, subkey);
            subvalue.write_msgpack(out);
            write_scan(scan, out);
        }
    }
}

fn write_events_request(events: &Events, out: &mut Vec<u8>) {
    let Events { prefix, after, limit, wait_ms, epoch, detail, where_, lost } = events;
    let unless_0 = |number: u64| Some(number).filter(|number| *number > 0);
    let limit = limit.map(|limit| limit as u64);
    let numbers = [("after", *after), ("limit", limit), ("wait", unless_0(*wait_ms)), ("lost", unless_0(*lost))];
    let texts = [("epoch", epoch.map(epoch_text)), ("where", where_.as_ref().map(|filter| filter.as_str().to_owned()))];
    let given = numbers.iter().filter(|(_, number)| number.is_some()).count()
        + texts.iter().filter(|(_, text)| text.is_some()).count()
        + usize::from(*detail);
    write::array(out, if given > 0 { 3 } else { 2 });
    write::text(out, "events");
    write::key(out, prefix);
    if given > 0 {
        write::map(out, given);
    }
    for (name, number) in numbers {
        if let Some(number) = number {
            write::text(out, name);
            write::uint(out, number);
        }
    }
    for (name, text) in texts {
        if let Some(text) = text {
            write::text(out, name);
            write::text(out, &text);
        }
    }
    if *detail {
        write::text(out, "detail");
        write::boolean(out, true);
    }
}

fn write_condition(condition: &Condition, out: &mut Vec<u8>) {
    match condition {
        Condition::Absent => {
            write::text(out, "if_absent");
            write::boolean(out, true);
        }
        Condition::Exists => {
            write::text(out, "if_exists");
            write::boolean(out, true);
        }
        Condition::Revision(revision) => {
            write::text(out, "if_rev");
            write::uint(out, *revision);
        }
        Condition::Value(value) => {
            write::text(out, "if_value");
            value.write_msgpack(out);
        }
    }
}

fn write_scan(scan: &Scan, out: &mut Vec<u8>) {
    let Scan { prefix, from, to, reverse, keys_only, pattern, filter, cursor, limit, snapshot } = scan;
    let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
    let keys = [("prefix", prefix), ("from", from.as_ref()), ("to", to.as_ref()), ("cursor", cursor.as_ref())];
    let flags = [("reverse", *reverse), ("keys_only", *keys_only)];
    let given = keys.iter().filter(|(_, key)| key.is_some()).count() + flags.iter().filter(|(_, flag)| *flag).count();
    let numbers = usize::from(limit.is_some()) + usize::from(snapshot.is_some());
    let texts = usize::from(pattern.is_some()) + usize::from(filter.is_some());
    write::map(out, given + texts + numbers);
    for (name, key) in keys {
        if let Some(key) = key {
            write::text(out, name);
            write::key(out, key);
        }
    }
    for (name, _) in flags.into_iter().filter(|(_, flag)| *flag) {
        write::text(out, name);
        write::boolean(out, true);
    }
    if let Some(pattern) = pattern {
        write::text(out, "regex");
        write::text(out, pattern.as_str());
    }
    if let Some(filter) = filter {
        write::text(out, "where");
        write::text(out, filter.as_str());
    }
    if let Some(limit) = limit {
        write::text(out, "limit");
        write::uint(out, *limit as u64);
    }
    if let Some(snapshot) = snapshot {
        write::text(out, "snapshot");
        write::uint(out, *snapshot);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::access::{Role, UserKey};
    use crate::decode::decode_request;
    use crate::header::{BrokerId, Form, SessionId};
    use crate::operation::Pattern;
    use crate::predicate::{Predicate, Scalar};
    use crate::txn::Txn;
    use crate::value::Stored;

    #[test]
    fn every_operation_reads_back() {
        let key = vec![0xff, 0x00];
        let scan = Scan {
            prefix: b"p".to_vec(),
            from: Some(b"a".to_vec()),
            to: Some(vec![0xff, 0xff]),
            reverse: true,
            keys_only: true,
            pattern: Some(Pattern::new("a+").unwrap()),
            filter: Some(Predicate::new("a ~ b and has c").unwrap()),
            cursor: Some(key.clone()),
            limit: Some(5),
            snapshot: Some(9),
        };
        let nil = Stored::from_msgpack(&[0xc0]).unwrap();
        let operations = vec![
            Operation::Hello { project: Some("p".into()) },
            Operation::Hello { project: None },
            Operation::Ping,
            Operation::Stats,
            Operation::Size,
            Operation::Noop,
            Operation::End,
            Operation::Expire { key: key.clone(), ttl_ms: 1 },
            Operation::Persist { key: key.clone() },
            Operation::Ttl { key: key.clone() },
            Operation::DelPrefix { prefix: key.clone(), limit: None },
            Operation::DelPrefix { prefix: vec![], limit: Some(3) },
            Operation::Result { session: SessionId([7; 16]), seq: 9, settle: false },
            Operation::Result { session: SessionId([7; 16]), seq: 9, settle: true },
            Operation::List(List { prefix: key.clone(), delimiter: b"::".to_vec(), cursor: Some(key.clone()), limit: Some(2) }),
            Operation::List(List { prefix: vec![], delimiter: b"/".to_vec(), cursor: None, limit: None }),
            Operation::History { key: key.clone(), limit: None, before: None },
            Operation::History { key: key.clone(), limit: Some(4), before: Some(77) },
            Operation::Events(Events {
                prefix: key.clone(),
                after: Some(0),
                limit: Some(7),
                wait_ms: 60_000,
                epoch: Some(0x1f),
                detail: true,
                where_: Some(Predicate::new("a = 1 or @key ~ 'x+'").unwrap()),
                lost: 3,
            }),
            Operation::Events(Events { after: Some(9), limit: Some(0), ..Events::default() }),
            Operation::Events(Events { detail: true, ..Events::default() }),
            Operation::Events(Events::default()),
            Operation::Authorize {
                key: UserKey::from_bytes([9; 32]),
                role: Role::Write,
                prefixes: vec![b"a/".to_vec(), vec![0xff]],
                comment: "Ada".into(),
            },
            Operation::Authorize {
                key: UserKey::from_bytes([9; 32]),
                role: Role::Admin,
                prefixes: vec![],
                comment: String::new(),
            },
            Operation::Revoke { key: UserKey::from_bytes([9; 32]) },
            Operation::Who,
            Operation::Put { key: b"k".to_vec(), value: Stored::text("v").unwrap(), condition: None, ttl_ms: None },
            Operation::Put {
                key: b"k".to_vec(),
                value: Stored::text("v").unwrap(),
                condition: Some(Condition::Absent),
                ttl_ms: Some(5),
            },
            Operation::Put {
                key: b"k".to_vec(),
                value: Stored::text("v").unwrap(),
                condition: Some(Condition::Revision(7)),
                ttl_ms: Some(5),
            },
            Operation::Put {
                key: b"k".to_vec(),
                value: Stored::text("v").unwrap(),
                condition: Some(Condition::Value(nil)),
                ttl_ms: Some(5),
            },
            Operation::Txn(Box::new(Txn {
                compares: vec![
                    Compare { key: key.clone(), condition: Condition::Exists },
                    Compare { key: b"a".to_vec(), condition: Condition::Value(Stored::text("v").unwrap()) },
                ],
                then: vec![Operation::Incr { key: key.clone(), by: -5 }, Operation::Size],
                otherwise: vec![Operation::Get { key: key.clone() }],
            })),
            Operation::Txn(Box::new(Txn { compares: vec![], then: vec![Operation::Size], otherwise: vec![] })),
            Operation::Get { key: key.clone() },
            Operation::Mget { keys: vec![key.clone(), b"a".to_vec()] },
            Operation::Exists { key: key.clone() },
            Operation::Incr { key: key.clone(), by: 1 },
            Operation::Incr { key: key.clone(), by: i64::MIN },
            Operation::Del { key: key.clone(), return_old: true, condition: Some(Condition::Revision(0)) },
            Operation::Del { key: key.clone(), return_old: true, condition: None },
            Operation::Del { key, return_old: false, condition: None },
            Operation::Scan(scan.clone()),
            Operation::Scan(Scan::default()),
            Operation::Query { subkey: "w".into(), subvalue: Scalar::Float(1.5), scan },
            Operation::Query { subkey: "w".into(), subvalue: Scalar::Int(-3), scan: Scan::default() },
        ];
        let header = Header {
            id: Some(u64::MAX),
            broker: Some(BrokerId([7; 16])),
            session: Some(SessionId([8; 16])),
            seq: Some(1),
            ack: Some(0),
            got: Some(300),
        };
        let many = operations.iter().filter(|operation| !operation.stands_alone()).cloned().collect();
        for operations in operations.iter().cloned().map(Operations::One).chain([Operations::Many(many)]) {
            let mut body = Vec::new();
            encode_request(&header, &operations, &mut body);
            let request = decode_request(&body).unwrap();
            assert_eq!((request.header, request.form, &request.operations), (header.clone(), Form::Compact, &operations));
            let apart = operations.as_slice().iter().map(|operation| {
                let mut encoded = Vec::new();
                encode_operation(operation, &mut encoded);
                encoded
            });
            let (apart, mut joined): (Vec<_>, _) = (apart.collect(), Vec::new());
            encode_message(&header, apart.iter().map(Vec::as_slice), &mut joined);
            assert_eq!(joined, body, "the same message from operations encoded apart");
        }
    }
}
