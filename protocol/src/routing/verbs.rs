//! The verbs of routing: names and fields, as in the grammar's own table.

use super::{Publish, RoutingOperation, subject_name, subject_pattern};
use crate::error::Failure;
use crate::field::Raw;
use crate::grammar::{Fields, Verb};
use crate::limits;
use crate::operation::Operation;
use crate::queue::queue_name;
use crate::value::Key;

pub(crate) static ROUTING_VERBS: &[Verb] = &[
    Verb {
        names: &["bind"],
        positional: &["queue", "pattern"],
        options: &["where"],
        build: |fields| {
            let (queue, pattern) = bound(fields)?;
            let where_ = fields.given(2).map(|raw| raw.predicate("where")).transpose()?;
            Ok(one(RoutingOperation::Bind { queue, pattern, where_ }))
        },
    },
    Verb {
        names: &["unbind"],
        positional: &["queue", "pattern"],
        options: &[],
        build: |fields| bound(fields).map(|(queue, pattern)| one(RoutingOperation::Unbind { queue, pattern })),
    },
    Verb {
        names: &["bindings"],
        positional: &["queue"],
        options: &["cursor", "limit"],
        build: |fields| {
            let queue = fields.given(0).map(|raw| raw.key("queue").and_then(queue_name)).transpose()?;
            let cursor = fields.given(1).map(cursor).transpose()?;
            let limit = match fields.given(2).map(|raw| raw.uint("limit")).transpose()? {
                Some(0) => return Err(Failure::invalid("`limit` is at least 1")),
                limit => limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            };
            Ok(one(RoutingOperation::Bindings { queue, cursor, limit }))
        },
    },
    Verb {
        names: &["publish"],
        positional: &["subject", "value"],
        options: &["priority", "ttl", "type", "retain", "must_route"],
        build: |fields| {
            let priority = fields.given(2).map(|raw| raw.int("priority")).transpose()?.unwrap_or_default();
            let priority = i8::try_from(priority).map_err(|_| Failure::limit("`priority` is a number from -128 to 127"))?;
            Ok(one(RoutingOperation::Publish(Publish {
                subject: subject_name(fields.needed(0)?.key("subject")?)?,
                value: fields.needed(1)?.stored()?,
                priority,
                ttl_ms: fields.given(3).map(ttl).transpose()?,
                content_type: content_type(fields)?,
                retain: flag(fields, 5, "retain")?,
                must_route: flag(fields, 6, "must_route")?,
            })))
        },
    },
];

fn one(operation: RoutingOperation) -> Operation {
    Operation::Routing(Box::new(operation))
}

fn bound(fields: &Fields<'_>) -> Result<(Key, Key), Failure> {
    let queue = queue_name(fields.needed(0)?.key("queue")?)?;
    Ok((queue, subject_pattern(fields.needed(1)?.key("pattern")?)?))
}

fn cursor(raw: Raw<'_>) -> Result<(Key, Key), Failure> {
    let mut keys = Vec::new();
    let is_array = raw.each_element(|raw| {
        keys.push(raw.key("cursor")?);
        Ok(())
    })?;
    match (is_array, <[Key; 2]>::try_from(keys)) {
        (true, Ok([queue, pattern])) => Ok((queue, pattern)),
        _ => Err(Failure::invalid("`cursor` is the `cursor` of the page before: an array of a queue and a pattern")),
    }
}

fn ttl(raw: Raw<'_>) -> Result<u64, Failure> {
    match raw.uint("ttl")? {
        0 => Err(Failure::invalid("`ttl` is at least 1 ms; leave it out for a message that stays")),
        ms if ms > limits::TTL_MS_MAX => Err(Failure::limit(format!("`ttl` is at most {} ms", limits::TTL_MS_MAX))),
        ms => Ok(ms),
    }
}

fn content_type(fields: &Fields<'_>) -> Result<Option<String>, Failure> {
    let text = fields.given(4).map(|raw| raw.text("type")).transpose()?.filter(|text| !text.is_empty());
    match text {
        Some(text) if text.len() > limits::QUEUE_TYPE_BYTES_MAX => {
            let message = format!("`type` has {} bytes; at most {} are taken", text.len(), limits::QUEUE_TYPE_BYTES_MAX);
            Err(Failure::limit(message))
        }
        text => Ok(text),
    }
}

fn flag(fields: &Fields<'_>, at: usize, name: &str) -> Result<bool, Failure> {
    Ok(fields.given(at).map(|raw| raw.boolean(name)).transpose()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::decode_request;
    use crate::encode::encode_request;
    use crate::header::Header;
    use crate::operation::Operations;
    use crate::predicate::Predicate;
    use crate::value::Stored;

    #[test]
    fn every_operation_reads_back() {
        let (queue, pattern) = (vec![0xff, b'q'], b"a.*.#".to_vec());
        let plain = Publish {
            subject: b"a.b".to_vec(),
            value: Stored::text("v").unwrap(),
            priority: 0,
            ttl_ms: None,
            content_type: None,
            retain: false,
            must_route: false,
        };
        let content_type = Some("text/plain".into());
        let rich = Publish { priority: -5, ttl_ms: Some(9), content_type, retain: true, must_route: true, ..plain.clone() };
        let where_ = Some(Predicate::new("total > 100").unwrap());
        let samples = [
            RoutingOperation::Bind { queue: queue.clone(), pattern: pattern.clone(), where_: None },
            RoutingOperation::Bind { queue: queue.clone(), pattern: pattern.clone(), where_ },
            RoutingOperation::Unbind { queue: queue.clone(), pattern: pattern.clone() },
            RoutingOperation::Bindings { queue: None, cursor: None, limit: None },
            RoutingOperation::Bindings { queue: Some(queue.clone()), cursor: Some((queue, pattern)), limit: Some(3) },
            RoutingOperation::Publish(plain),
            RoutingOperation::Publish(rich),
        ];
        for operation in samples {
            let operations = Operations::One(one(operation));
            let mut body = Vec::new();
            encode_request(&Header::default(), &operations, &mut body);
            assert_eq!(decode_request(&body).unwrap().operations, operations);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            (r#"{"op":"bind","queue":"q","pattern":"a..b"}"#, "at least one byte"),
            (r#"{"op":"bind","queue":"q","pattern":"a*"}"#, "tokens of their own"),
            (r#"{"op":"bind","queue":"","pattern":"a"}"#, "at least one byte"),
            (r#"{"op":"bind","queue":"q","pattern":"a","where":"="}"#, "column"),
            (r#"{"op":"publish","subject":"a.*","value":1}"#, "no `*`"),
            (r#"{"op":"publish","subject":"a"}"#, "needs `value`"),
            (r#"{"op":"publish","subject":"a","value":1,"ttl":0}"#, "at least 1 ms"),
            (r#"{"op":"publish","subject":"a","value":1,"priority":128}"#, "-128 to 127"),
            (r#"{"op":"bindings","cursor":["a"]}"#, "array of a queue and a pattern"),
            (r#"{"op":"bindings","cursor":"a"}"#, "array of a queue and a pattern"),
            (r#"{"op":"bindings","limit":0}"#, "at least 1"),
            (r#"{"op":"txn","then":[{"op":"bindings"}]}"#, "part of a transaction"),
        ];
        for (text, part) in cases {
            let message = decode_request(text.as_bytes()).unwrap_err().failure.message;
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
