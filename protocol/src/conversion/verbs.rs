//! The verbs of rules, read and written; and the options with which a read asks for a conversion.

use super::rule::{RULE_FIELDS, content_type};
use super::{ContentType, ConversionOperation, Converted, Rule, Wanted, rule_name};
use crate::encode::write_operation;
use crate::error::Failure;
use crate::field::Raw;
use crate::grammar::{Fields, Verb};
use crate::limits;
use crate::msgpack::{Cursor, Token, write};
use crate::operation::Operation;
use crate::queue::QueueOperation;
use crate::value::Key;

pub(crate) static CONVERSION_VERBS: &[Verb] = &[
    Verb {
        names: &["declare_rule"],
        positional: &[RULE_FIELDS[0]],
        options: RULE_FIELDS.split_at(1).1,
        build: |fields| Ok(one(ConversionOperation::Declare(Rule::of(|at| fields.given(at))?.check()?))),
    },
    Verb {
        names: &["drop_rule"],
        positional: &["rule"],
        options: &[],
        build: |fields| Ok(one(ConversionOperation::Drop { rule: named(fields.needed(0)?)? })),
    },
    Verb {
        names: &["rules"],
        positional: &["prefix"],
        options: &["rule", "cursor", "limit"],
        build: |fields| {
            let limit = match fields.given(3).map(|raw| raw.uint("limit")).transpose()? {
                Some(0) => return Err(Failure::invalid("`limit` is at least 1")),
                limit => limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            };
            Ok(one(ConversionOperation::Rules {
                rule: fields.given(1).map(named).transpose()?,
                prefix: fields.given(0).map(|raw| raw.key("prefix")).transpose()?.unwrap_or_default(),
                cursor: fields.given(2).map(|raw| raw.key("cursor")).transpose()?,
                limit,
            }))
        },
    },
    Verb {
        names: &["convert"],
        positional: &["value"],
        options: &["rule", "from", "as"],
        build: |fields| {
            let operation = ConversionOperation::Convert {
                value: fields.needed(0)?.stored()?,
                rule: fields.given(1).map(named).transpose()?,
                from: fields.given(2).map(|raw| content_type(raw, "from")).transpose()?,
                to: fields.given(3).map(|raw| content_type(raw, "as")).transpose()?,
            };
            match operation {
                ConversionOperation::Convert { rule: None, to: None, .. } => {
                    Err(Failure::invalid("`convert` needs `as`, a type, or a `rule`"))
                }
                operation => Ok(one(operation)),
            }
        },
    },
];

fn one(operation: ConversionOperation) -> Operation {
    Operation::Conversion(Box::new(operation))
}

fn named(raw: Raw<'_>) -> Result<Key, Failure> {
    raw.key("rule").and_then(rule_name)
}

/// Reads the options `as` and `consumer`, which stand at these places. Without either the operation stays what it is.
pub(crate) fn wanted(fields: &Fields<'_>, at: usize, operation: Operation) -> Result<Operation, Failure> {
    let to = fields.given(at).map(|raw| content_type(raw, "as")).transpose()?;
    let consumer = match fields.given(at + 1).map(|raw| raw.text("consumer")).transpose()? {
        Some(name) if name.is_empty() => return Err(Failure::invalid("`consumer` is a name; leave it out for none")),
        Some(name) if name.len() > limits::RULE_CONSUMER_BYTES_MAX => {
            let message = format!("`consumer` has {} bytes; at most {} are taken", name.len(), limits::RULE_CONSUMER_BYTES_MAX);
            return Err(Failure::limit(message));
        }
        name => name,
    };
    if to.is_none() && consumer.is_none() {
        return Ok(operation);
    }
    if matches!(&operation, Operation::Scan(scan) | Operation::Query { scan, .. } if scan.keys_only) {
        return Err(Failure::invalid("a page of keys alone has no values to be converted; leave `keys_only` out, or `as`"));
    }
    Ok(Operation::Converted(Box::new(Converted { operation, wanted: Wanted { to, consumer } })))
}

/// The options of a compact operation, each encoded already.
#[derive(Default)]
struct Options(Vec<u8>, usize);

impl Options {
    fn with<T>(mut self, name: &str, value: Option<T>, write: impl FnOnce(&mut Vec<u8>, T)) -> Options {
        if let Some(value) = value {
            write::text(&mut self.0, name);
            write(&mut self.0, value);
            self.1 += 1;
        }
        self
    }

    fn number(self, name: &str, number: Option<usize>) -> Options {
        self.with(name, number, |out, number| write::uint(out, number as u64))
    }

    fn content_type(self, name: &str, of: Option<ContentType>) -> Options {
        self.with(name, of, |out, of| write::text(out, of.name()))
    }

    fn key(self, name: &str, key: Option<&Key>) -> Options {
        self.with(name, key, |out, key| write::key(out, key))
    }

    fn finish(self, out: &mut Vec<u8>) {
        write::map(out, self.1);
        out.extend_from_slice(&self.0);
    }
}

fn head(verb: &str, length: usize, out: &mut Vec<u8>) {
    write::array(out, length);
    write::text(out, verb);
}

/// The entries of an encoded map, and how many they are.
fn entries(map: &[u8]) -> (&[u8], usize) {
    let mut cursor = Cursor::new(map);
    match cursor.token() {
        Ok(Token::Map(length)) => (&map[cursor.offset()..], length),
        _ => (&[], 0),
    }
}

/// Appends the compact form of an operation on rules.
pub(crate) fn write_conversion_operation(operation: &ConversionOperation, out: &mut Vec<u8>) {
    let verb = operation.verb();
    match operation {
        ConversionOperation::Declare(rule) => {
            let record = rule.to_record();
            let (fields, count) = entries(&record);
            // The first field is the name, which stands by its place.
            let mut cursor = Cursor::new(fields);
            let name = cursor.raw().and_then(|_| cursor.raw());
            let rest = name.map_or(fields, |_| &fields[cursor.offset()..]);
            head(verb, 3, out);
            write::key(out, &rule.name);
            Options(rest.to_vec(), count.saturating_sub(1)).finish(out);
        }
        ConversionOperation::Drop { rule } => {
            head(verb, 2, out);
            write::key(out, rule);
        }
        ConversionOperation::Rules { rule, prefix, cursor, limit } => {
            head(verb, 3, out);
            write::key(out, prefix);
            Options::default().key("rule", rule.as_ref()).key("cursor", cursor.as_ref()).number("limit", *limit).finish(out);
        }
        ConversionOperation::Convert { value, rule, from, to } => {
            head(verb, 3, out);
            value.write_msgpack(out);
            let options = Options::default().key("rule", rule.as_ref());
            options.content_type("from", *from).content_type("as", *to).finish(out);
        }
    }
}

/// Appends the compact form of a read with its conversion: that of the read, with one or two options more.
pub(crate) fn write_converted(converted: &Converted, out: &mut Vec<u8>) {
    let Converted { operation, wanted: Wanted { to, consumer } } = converted;
    let mut plain = Vec::new();
    write_operation(operation, &mut plain);
    let mut cursor = Cursor::new(&plain);
    let length = match cursor.token() {
        Ok(Token::Array(length)) => length,
        _ => 0,
    };
    let arguments = 1 + Verb::named(operation.verb()).map_or(0, |verb| verb.positional.len());
    let first = cursor.offset();
    for _ in 0..arguments.min(length) {
        // What was just written is whole.
        let _ = cursor.raw();
    }
    let (given, count) = entries(&plain[cursor.offset()..]);
    write::array(out, arguments + 1);
    out.extend_from_slice(&plain[first..cursor.offset()]);
    let options = Options(given.to_vec(), count).content_type("as", *to);
    options.with("consumer", consumer.as_deref(), write::text).finish(out);
}

impl Converted {
    /// The pull, if it is one.
    pub fn is_pull(&self) -> bool {
        matches!(&self.operation, Operation::Queue(queue) if queue.is_pull())
    }

    /// The queue that is read, if it is one.
    pub fn queue(&self) -> Option<&QueueOperation> {
        match &self.operation {
            Operation::Queue(queue) => Some(queue),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::conversion::rule::samples;
    use crate::decode::decode_request;
    use crate::encode::encode_request;
    use crate::header::Header;
    use crate::operation::{Operations, Scan};
    use crate::predicate::Scalar;
    use crate::queue::{ItemState, Pull};
    use crate::value::Stored;

    fn reads() -> Vec<Operation> {
        let key = vec![0xff, b'k'];
        let pull = Pull { queue: key.clone(), limit: 1, lease_ms: None, wait_ms: 0, no_ack: false };
        let queue = |operation| Operation::Queue(Box::new(operation));
        vec![
            Operation::Get { key: key.clone() },
            Operation::Mget { keys: vec![key.clone(), b"a".to_vec()] },
            Operation::Scan(Scan::default()),
            Operation::Scan(Scan { limit: Some(3), prefix: b"p".to_vec(), ..Scan::default() }),
            Operation::Query { subkey: "w".into(), subvalue: Scalar::Int(1), scan: Scan::default() },
            queue(QueueOperation::Pull(pull.clone())),
            queue(QueueOperation::Pull(Pull { wait_ms: 9, limit: 4, ..pull })),
            queue(QueueOperation::Peek { queue: key, state: ItemState::Ready, limit: None, cursor: None }),
        ]
    }

    #[test]
    fn every_operation_reads_back() {
        let value = Stored::text("v").unwrap();
        let rule = Some(b"r".to_vec());
        let rules =
            |rule: Option<Key>, cursor: Option<Key>, limit| ConversionOperation::Rules { rule, prefix: vec![], cursor, limit };
        let to = Some(ContentType::Csv);
        let mut operations: Vec<Operation> = samples().into_iter().map(|rule| one(ConversionOperation::Declare(rule))).collect();
        operations.extend(
            [
                ConversionOperation::Drop { rule: b"r".to_vec() },
                rules(None, None, None),
                rules(rule.clone(), rule.clone(), Some(3)),
                ConversionOperation::Convert { value: value.clone(), rule: None, from: None, to },
                ConversionOperation::Convert { value, rule, from: Some(ContentType::Json), to: None },
            ]
            .map(one),
        );
        let wanted = [
            Wanted { to, consumer: None },
            Wanted { to: None, consumer: Some("billing".into()) },
            Wanted { to, consumer: Some("billing".into()) },
        ];
        for wanted in wanted {
            operations.extend(
                reads()
                    .into_iter()
                    .map(|operation| Operation::Converted(Box::new(Converted { operation, wanted: wanted.clone() }))),
            );
        }
        for operation in operations {
            let operations = Operations::One(operation);
            let mut body = Vec::new();
            encode_request(&Header::default(), &operations, &mut body);
            assert_eq!(decode_request(&body).unwrap().operations, operations);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            (r#"{"op":"get","key":"k","as":"xml"}"#, "one of msgpack, json, text, csv, bytes"),
            (r#"{"op":"get","key":"k","consumer":""}"#, "leave it out"),
            (r#"{"op":"convert","value":1}"#, "needs `as`"),
            (r#"{"op":"declare_rule","rule":"r","as":"csv"}"#, "one source"),
            (r#"{"op":"declare_rule","rule":"r","queue":"q","prefix":"p","as":"csv"}"#, "one source"),
            (r#"{"op":"declare_rule","rule":"","queue":"q","as":"csv"}"#, "at least one byte"),
            (r#"{"op":"declare_rule","rule":"r","queue":"q"}"#, "needs a target"),
            (r#"{"op":"declare_rule","rule":"r","queue":"q","into":"q"}"#, "another queue"),
            (r#"{"op":"declare_rule","rule":"r","prefix":"q","into":"p"}"#, "is a `queue`"),
            (r#"{"op":"declare_rule","rule":"r","queue":"q","as":"csv","time_limit":5}"#, "is a program's"),
            (r#"{"op":"declare_rule","rule":"r","queue":"q","into":"p","time_limit":1}"#, "`time_limit` is"),
            (r#"{"op":"declare_rule","rule":"r","queue":"q","as":"csv","steps":{"pick":["a..b"]}}"#, "no path"),
            (r#"{"op":"declare_rule","rule":"r","queue":"q","as":"csv","steps":{"keep":["a"]}}"#, "pick, drop, rename"),
            (r#"{"op":"declare_rule","rule":"r","queue":"q","as":"csv","steps":[1]}"#, "must be a map"),
            (r#"{"op":"txn","then":[{"op":"get","key":"k","as":"csv"}]}"#, "part of a transaction"),
            (r#"{"op":"scan","keys_only":true,"as":"csv"}"#, "no values"),
            (r#"[{"op":"size"},{"op":"pull","queue":"q","wait":1,"as":"csv"}]"#, "stands alone"),
        ];
        for (text, part) in cases {
            let message = decode_request(text.as_bytes()).unwrap_err().failure.message;
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
