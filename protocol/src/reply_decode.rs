//! Reading a compact reply: what our own clients receive.

use crate::access::{GrantInfo, Role};
use crate::conversion::{self, ConversionExpect};
use crate::error::{ErrorCode, Failure, Status};
use crate::events::{read_epoch, read_events};
use crate::fast;
use crate::header::Form;
use crate::limits::DEPTH_MAX;
use crate::msgpack::{self, Cursor, Malformed, Token};
use crate::operation::{Operation, Operations};
use crate::queue::{self, QueueExpect};
use crate::reply::{Answer, Deadline, Fate, Found, HelloAnswer, Outcome, Outcomes, Reply, Row, StatValue, Version, VersionKind};
use crate::reply_named::named_outcome;
use crate::routing::{self, RoutingExpect};
use crate::value::{Key, Stored, ValueKind};

/// A reply that does not follow the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reply is not one of this protocol: {0}")]
pub struct ReplyError(pub(crate) String);

impl From<Malformed> for ReplyError {
    fn from(error: Malformed) -> Self {
        ReplyError(error.to_string())
    }
}

/// What the answer to an operation looks like; kept by the client until the reply arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Done, or the removed value.
    Done,
    /// A value with its revisions.
    Value,
    /// A number of keys.
    Size,
    /// So many values.
    Values(usize),
    /// True or false.
    Exists,
    /// An integer.
    Integer,
    /// A page.
    Rows,
    /// A page of keys.
    Keys,
    /// A deadline.
    Ttl,
    /// How many keys were removed.
    Deleted,
    /// What became of a mutation.
    Result,
    /// A key's versions.
    History,
    /// Changes, after a wait of so many milliseconds at most.
    Events(u64),
    /// A transaction's results: those of `then`, or those of `else`.
    Txn(Box<[Vec<Expect>; 2]>),
    /// What a queue answers.
    Queue(QueueExpect),
    /// What the routing answers.
    Routing(RoutingExpect),
    /// What rules and conversions answer.
    Conversion(ConversionExpect),
    /// Whether a user was let in before.
    Granted,
    /// The users that were let in.
    Who,
    /// Who the broker is.
    Hello,
    /// Counters.
    Stats,
}

impl Operation {
    /// What a successful answer to this operation looks like.
    pub fn expects(&self) -> Expect {
        match self {
            Operation::Ping
            | Operation::Put { .. }
            | Operation::Del { .. }
            | Operation::Expire { .. }
            | Operation::Persist { .. }
            | Operation::Noop
            | Operation::End
            | Operation::Revoke { .. } => Expect::Done,
            Operation::Authorize { .. } => Expect::Granted,
            Operation::Who => Expect::Who,
            Operation::Ttl { .. } => Expect::Ttl,
            Operation::DelPrefix { .. } => Expect::Deleted,
            Operation::Result { .. } => Expect::Result,
            Operation::History { .. } => Expect::History,
            Operation::Events(events) => Expect::Events(events.wait_ms),
            Operation::List(_) => Expect::Keys,
            Operation::Get { .. } => Expect::Value,
            Operation::Size => Expect::Size,
            Operation::Mget { keys } => Expect::Values(keys.len()),
            Operation::Exists { .. } => Expect::Exists,
            Operation::Incr { .. } => Expect::Integer,
            Operation::Scan(scan) | Operation::Query { scan, .. } if scan.keys_only => Expect::Keys,
            Operation::Scan(_) | Operation::Query { .. } => Expect::Rows,
            Operation::Txn(txn) => {
                let expects = |operations: &[Operation]| operations.iter().map(Operation::expects).collect();
                Expect::Txn(Box::new([expects(&txn.then), expects(&txn.otherwise)]))
            }
            Operation::Queue(queue) => match queue.expects() {
                QueueExpect::Done => Expect::Done,
                QueueExpect::Purged => Expect::Deleted,
                expects => Expect::Queue(expects),
            },
            Operation::Routing(routing) => match routing.expects() {
                RoutingExpect::Done => Expect::Done,
                expects => Expect::Routing(expects),
            },
            Operation::Conversion(conversion) => match conversion.expects() {
                ConversionExpect::Done => Expect::Done,
                expects => Expect::Conversion(expects),
            },
            Operation::Converted(converted) => converted.operation.expects(),
            Operation::Hello { .. } => Expect::Hello,
            Operation::Stats => Expect::Stats,
        }
    }
}

impl Operations {
    /// What the answers look like, in order.
    pub fn expects(&self) -> Vec<Expect> {
        self.as_slice().iter().map(Operation::expects).collect()
    }
}

/// The id of a compact reply, to find the request that it answers.
pub fn reply_id(body: &[u8]) -> Result<Option<u64>, ReplyError> {
    let mut cursor = Cursor::new(body);
    head(&mut cursor)
}

fn head(cursor: &mut Cursor<'_>) -> Result<Option<u64>, ReplyError> {
    if cursor.token()? != Token::Array(4) {
        return Err(ReplyError("it is not an array of 4".into()));
    }
    match cursor.token()? {
        Token::UInt(version) if version == u64::from(crate::PROTOCOL_VERSION) => {}
        other => return Err(ReplyError(format!("its version is {other:?}"))),
    }
    optional_uint(cursor)
}

/// Decodes a compact reply to operations with these expected answers.
///
/// # Errors
/// [`ReplyError`] if the bytes don't follow the protocol or don't fit what was asked.
pub fn decode_reply(body: &[u8], expects: &[Expect]) -> Result<Reply, ReplyError> {
    decode_reply_to(body, expects.iter())
}

/// As [`decode_reply`], for whoever has no slice of what is expected.
///
/// # Errors
/// As there.
pub fn decode_reply_to<'e>(body: &[u8], expects: impl ExactSizeIterator<Item = &'e Expect> + Clone) -> Result<Reply, ReplyError> {
    match fast::reply(body, expects.clone()) {
        Some(reply) => Ok(reply),
        None => decode_generally(body, expects),
    }
}

/// The whole protocol, which [`fast`] knows a part of.
pub(crate) fn decode_generally<'e>(
    body: &[u8],
    mut expects: impl ExactSizeIterator<Item = &'e Expect>,
) -> Result<Reply, ReplyError> {
    msgpack::check(body, REPLY_DEPTH_MAX)?;
    let mut cursor = Cursor::new(body);
    let id = head(&mut cursor)?;
    let retry_safe = match cursor.token()? {
        Token::Nil => None,
        Token::Bool(safe) => Some(safe),
        other => return Err(ReplyError(format!("retry_safe is {other:?}"))),
    };
    let Token::Array(length) = cursor.token()? else {
        return Err(ReplyError("no result".into()));
    };
    let first_at = cursor.offset();
    let outcomes = if matches!(cursor.token()?, Token::UInt(_)) {
        cursor.seek(first_at);
        let operations = expects.len();
        let outcome = outcome_of(&mut cursor, length, expects.next().unwrap_or(&Expect::Done))?;
        // A refusal of the whole message answers an array with one result; a success can't.
        if operations > 1 && outcome.result.is_ok() {
            return Err(ReplyError(format!("one result for {operations} operations")));
        }
        Outcomes::One(outcome)
    } else {
        cursor.seek(first_at);
        Outcomes::Many(outcomes_of(&mut cursor, length, expects)?)
    };
    Ok(Reply { id, form: Form::Compact, retry_safe, outcomes })
}

pub(crate) fn optional_uint(cursor: &mut Cursor<'_>) -> Result<Option<u64>, ReplyError> {
    match cursor.token()? {
        Token::Nil => Ok(None),
        Token::UInt(value) => Ok(Some(value)),
        other => Err(ReplyError(format!("{other:?} where a number was expected"))),
    }
}

pub(crate) fn uint(cursor: &mut Cursor<'_>) -> Result<u64, ReplyError> {
    optional_uint(cursor)?.ok_or_else(|| ReplyError("nil where a number was expected".into()))
}

pub(crate) fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, ReplyError> {
    match cursor.token()? {
        Token::Bool(value) => Ok(value),
        other => Err(ReplyError(format!("{other:?} where true or false was expected"))),
    }
}

pub(crate) fn text(cursor: &mut Cursor<'_>) -> Result<String, ReplyError> {
    match cursor.token()? {
        Token::Str(text) => Ok(text.to_owned()),
        other => Err(ReplyError(format!("{other:?} where a text was expected"))),
    }
}

pub(crate) fn key(cursor: &mut Cursor<'_>) -> Result<Option<Key>, ReplyError> {
    match cursor.token()? {
        Token::Nil => Ok(None),
        Token::Str(text) => Ok(Some(text.as_bytes().to_vec())),
        Token::Bin(bytes) => Ok(Some(bytes.to_vec())),
        other => Err(ReplyError(format!("{other:?} where a key was expected"))),
    }
}

pub(crate) fn needed_key(cursor: &mut Cursor<'_>) -> Result<Key, ReplyError> {
    key(cursor)?.ok_or_else(|| ReplyError("nil where a key was expected".into()))
}

pub(crate) fn stored(cursor: &mut Cursor<'_>) -> Result<Stored, ReplyError> {
    // A JSON value of the largest size may be larger as MessagePack: the length is the broker's to bound.
    let raw = cursor.raw()?;
    Ok(Stored::unbounded(ValueKind::MessagePack, raw))
}

/// How deep a reply may be nested: its own arrays around a value.
pub(crate) const REPLY_DEPTH_MAX: usize = DEPTH_MAX + 8;

/// One outcome whose bytes were checked.
pub(crate) fn checked_outcome(bytes: &[u8], expect: &Expect) -> Result<Outcome, ReplyError> {
    let mut cursor = Cursor::new(bytes);
    match cursor.token()? {
        Token::Array(length) => outcome_of(&mut cursor, length, expect),
        other => Err(ReplyError(format!("a result is {other:?}"))),
    }
}

fn outcomes_of<'e>(
    cursor: &mut Cursor<'_>,
    length: usize,
    expects: impl ExactSizeIterator<Item = &'e Expect>,
) -> Result<Vec<Outcome>, ReplyError> {
    if length != expects.len() {
        return Err(ReplyError(format!("{length} results for {} operations", expects.len())));
    }
    let outcome = |expect| match cursor.token()? {
        Token::Array(length) => outcome_of(cursor, length, expect),
        other => Err(ReplyError(format!("a result is {other:?}"))),
    };
    expects.map(outcome).collect()
}

fn outcome_of(cursor: &mut Cursor<'_>, length: usize, expect: &Expect) -> Result<Outcome, ReplyError> {
    let end_of = |wanted: usize| {
        if length == wanted {
            Ok(())
        } else {
            Err(ReplyError(format!("a result of {length} elements where {wanted} were expected")))
        }
    };
    if length < 2 {
        return Err(ReplyError(format!("a result of {length} elements")));
    }
    let number = uint(cursor)?;
    let status = Status::from_number(number).ok_or_else(|| ReplyError(format!("its status is {number}")))?;
    let revision = optional_uint(cursor)?;
    if status != Status::Ok {
        if !(5..=7).contains(&length) {
            end_of(5)?;
        }
        let (name, message) = (text(cursor)?, text(cursor)?);
        let (code, message) = code_of(status, &name, message);
        let retry_after_ms = optional_uint(cursor)?;
        let original = if length > 5 { original(cursor)? } else { None };
        let oldest = if length == 7 { optional_uint(cursor)? } else { None };
        return Ok(Outcome { revision, result: Err(Failure { code, message, retry_after_ms, original, oldest }) });
    }
    let answer = match expect {
        Expect::Done if length == 3 => Answer::Removed(stored(cursor)?),
        Expect::Done => {
            end_of(2)?;
            Answer::Done
        }
        Expect::Value => {
            end_of(5)?;
            Answer::Value { value: stored(cursor)?, modified: uint(cursor)?, created: uint(cursor)? }
        }
        Expect::Size => {
            end_of(3)?;
            Answer::Size(uint(cursor)?)
        }
        Expect::Values(count) => {
            end_of(3)?;
            values(cursor, Some(*count))?
        }
        Expect::Exists => {
            end_of(3)?;
            Answer::Exists(boolean(cursor)?)
        }
        Expect::Integer => {
            end_of(3)?;
            match cursor.token()? {
                Token::UInt(value) => Answer::Integer(i128::from(value)),
                Token::Int(value) => Answer::Integer(i128::from(value)),
                other => return Err(ReplyError(format!("{other:?} where an integer was expected"))),
            }
        }
        Expect::Rows | Expect::Keys => {
            if length != 5 {
                end_of(4)?;
            }
            let (rows, keys) = if *expect == Expect::Rows { (rows(cursor)?, vec![]) } else { (vec![], keys(cursor)?) };
            let next = key(cursor)?;
            let snapshot = if length == 5 { Some(uint(cursor)?) } else { None };
            match expect {
                Expect::Rows => Answer::Rows { rows, cursor: next, snapshot },
                _ => Answer::Keys { keys, cursor: next, snapshot },
            }
        }
        Expect::Ttl => {
            end_of(4)?;
            deadline(optional_uint(cursor)?, optional_uint(cursor)?)
        }
        Expect::Deleted => {
            end_of(4)?;
            Answer::Deleted { removed: uint(cursor)?, more: boolean(cursor)? }
        }
        Expect::Result => match text(cursor)?.as_str() {
            "decided" => {
                end_of(4)?;
                Answer::Result(Fate::Decided(Box::new(named_outcome(cursor)?)))
            }
            "undecided" => Answer::Result(Fate::Undecided),
            "filled" => Answer::Result(Fate::Filled),
            "acknowledged" => Answer::Result(Fate::Acknowledged),
            other => return Err(ReplyError(format!("the state of a mutation is {other:?}"))),
        },
        Expect::History => {
            end_of(5)?;
            Answer::History { versions: versions(cursor)?, more: boolean(cursor)?, oldest: uint(cursor)? }
        }
        Expect::Events(_) => {
            end_of(6)?;
            Answer::Events {
                events: read_events(cursor)?,
                through: uint(cursor)?,
                more: boolean(cursor)?,
                epoch: read_epoch(cursor)?,
            }
        }
        Expect::Txn(expected) => {
            let [then, otherwise] = &**expected;
            end_of(4)?;
            let succeeded = boolean(cursor)?;
            let Token::Array(length) = cursor.token()? else { return Err(ReplyError("no results".into())) };
            Answer::Txn { succeeded, results: outcomes_of(cursor, length, if succeeded { then } else { otherwise }.iter())? }
        }
        Expect::Queue(expect) => {
            if !queue::is_compact_length(*expect, length - 2) {
                end_of(4)?;
            }
            Answer::Queue(queue::read_compact(cursor, *expect, length - 2)?)
        }
        Expect::Routing(expect) => {
            end_of(4)?;
            Answer::Routing(routing::read_compact(cursor, *expect)?)
        }
        Expect::Conversion(expect) => {
            end_of(if *expect == ConversionExpect::Rules { 4 } else { 3 })?;
            Answer::Conversion(conversion::read_compact(cursor, *expect)?)
        }
        Expect::Granted => {
            end_of(3)?;
            Answer::Granted { replaced: boolean(cursor)? }
        }
        Expect::Who => {
            end_of(3)?;
            Answer::Who(users(cursor)?)
        }
        Expect::Hello => {
            end_of(3)?;
            Answer::Hello(Box::new(hello(cursor)?))
        }
        Expect::Stats => {
            end_of(3)?;
            stats(cursor)?
        }
    };
    Ok(Outcome { revision, result: Ok(answer) })
}

/// The outcome of the request that used a number first; nil where there is none.
fn original(cursor: &mut Cursor<'_>) -> Result<Option<Box<Outcome>>, ReplyError> {
    let at = cursor.offset();
    if cursor.token()? == Token::Nil {
        return Ok(None);
    }
    cursor.seek(at);
    Ok(Some(Box::new(named_outcome(cursor)?)))
}

pub(crate) fn values(cursor: &mut Cursor<'_>, wanted: Option<usize>) -> Result<Answer, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no values".into())) };
    if wanted.is_some_and(|wanted| wanted != count) {
        return Err(ReplyError(format!("{count} values where others were asked for")));
    }
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(match cursor.token()? {
            Token::Nil => None,
            Token::Array(3) => Some(Found { value: stored(cursor)?, modified: uint(cursor)?, created: uint(cursor)? }),
            other => return Err(ReplyError(format!("{other:?} where a value with its revisions was expected"))),
        });
    }
    Ok(Answer::Values(values))
}

/// The code of a failure. One newer than this client: the status still says what may be concluded.
pub(crate) fn code_of(status: Status, name: &str, message: String) -> (ErrorCode, String) {
    match ErrorCode::from_name(name) {
        Some(code) => (code, message),
        None => {
            let code = match status {
                Status::Invalid => ErrorCode::Invalid,
                Status::Unknown => ErrorCode::UnknownOutcome,
                _ => ErrorCode::Internal,
            };
            (code, format!("{name}: {message}"))
        }
    }
}

pub(crate) fn deadline(left_ms: Option<u64>, at_ms: Option<u64>) -> Answer {
    Answer::Ttl(left_ms.zip(at_ms).map(|(left_ms, at_ms)| Deadline { left_ms, at_ms }))
}

pub(crate) fn keys(cursor: &mut Cursor<'_>) -> Result<Vec<Key>, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no keys".into())) };
    (0..count).map(|_| needed_key(cursor)).collect()
}

pub(crate) fn versions(cursor: &mut Cursor<'_>) -> Result<Vec<Version>, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no versions".into())) };
    let mut versions = Vec::new();
    for _ in 0..count {
        let Token::Array(length @ (3 | 4)) = cursor.token()? else {
            return Err(ReplyError("a version is not an array of 3 or 4".into()));
        };
        let (revision, time_ms, name) = (uint(cursor)?, uint(cursor)?, text(cursor)?);
        let kind = match (name.as_str(), length) {
            ("put", 4) => VersionKind::Put(stored(cursor)?),
            ("remove", 3) => VersionKind::Remove,
            ("expire", 3) => VersionKind::Expire,
            _ => return Err(ReplyError(format!("a version is {name:?} of {length}"))),
        };
        versions.push(Version { revision, time_ms, kind });
    }
    Ok(versions)
}

pub(crate) fn rows(cursor: &mut Cursor<'_>) -> Result<Vec<Row>, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no rows".into())) };
    let mut rows = Vec::new();
    for _ in 0..count {
        if cursor.token()? != Token::Array(3) {
            return Err(ReplyError("a row is not an array of 3".into()));
        }
        let key = needed_key(cursor)?;
        rows.push(Row { key, value: stored(cursor)?, modified: uint(cursor)? });
    }
    Ok(rows)
}

pub(crate) fn users(cursor: &mut Cursor<'_>) -> Result<Vec<GrantInfo>, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no users".into())) };
    (0..count).map(|_| user(cursor)).collect()
}

fn user(cursor: &mut Cursor<'_>) -> Result<GrantInfo, ReplyError> {
    let Token::Map(count) = cursor.token()? else { return Err(ReplyError("a user is no map".into())) };
    let (mut user, mut own_role, mut prefixes, mut comment) = (None, None, Vec::new(), String::new());
    for _ in 0..count {
        match text(cursor)?.as_str() {
            "key" => user = Some(text(cursor)?.parse().map_err(|_| ReplyError("a user's key is none".into()))?),
            "role" => own_role = Some(role(cursor)?),
            "prefixes" => prefixes = keys(cursor)?,
            "comment" => comment = text(cursor)?,
            // A newer broker may say more.
            _ => {
                cursor.raw()?;
            }
        }
    }
    let (Some(key), Some(role)) = (user, own_role) else { return Err(ReplyError("a user without a key or a role".into())) };
    Ok(GrantInfo { key, role, prefixes, comment })
}

fn role(cursor: &mut Cursor<'_>) -> Result<Role, ReplyError> {
    let name = text(cursor)?;
    Role::from_name(&name).ok_or_else(|| ReplyError(format!("{name:?} is no role that this program knows; a newer one may")))
}

fn stats(cursor: &mut Cursor<'_>) -> Result<Answer, ReplyError> {
    let Token::Map(count) = cursor.token()? else { return Err(ReplyError("no stats".into())) };
    let mut stats = Vec::new();
    for _ in 0..count {
        let name = text(cursor)?;
        stats.push((name, stat_value(cursor)?));
    }
    Ok(Answer::Stats(stats))
}

pub(crate) fn stat_value(cursor: &mut Cursor<'_>) -> Result<StatValue, ReplyError> {
    match cursor.token()? {
        Token::UInt(number) => Ok(StatValue::Number(number)),
        Token::Str(text) => Ok(StatValue::Text(text.to_owned())),
        other => Err(ReplyError(format!("{other:?} where a counter was expected"))),
    }
}

fn hello(cursor: &mut Cursor<'_>) -> Result<HelloAnswer, ReplyError> {
    let Token::Map(count) = cursor.token()? else { return Err(ReplyError("no hello".into())) };
    let mut hello = HelloAnswer::default();
    for _ in 0..count {
        match text(cursor)?.as_str() {
            "protocol" => hello.protocol = u32::try_from(uint(cursor)?).unwrap_or(u32::MAX),
            "shard" => hello.shard = u32::try_from(uint(cursor)?).unwrap_or(u32::MAX),
            "pub_port" => hello.pub_port = u16::try_from(uint(cursor)?).map_err(|_| ReplyError("pub_port is no port".into()))?,
            "version" => hello.version = text(cursor)?,
            "project" => hello.project = text(cursor)?,
            "owner" => hello.owner = text(cursor)?,
            "durability" => hello.durability = text(cursor)?,
            "broker" => hello.broker = id(cursor)?,
            "instance" => hello.instance = id(cursor)?,
            "session" => hello.session = id(cursor)?,
            "epoch" => {
                let digits = text(cursor)?;
                hello.epoch = u64::from_str_radix(&digits, 16).map_err(|_| ReplyError(format!("the epoch is {digits:?}")))?;
            }
            "user" => hello.user = text(cursor)?,
            // A role of a newer broker is no reason to turn away.
            "role" => hello.role = Role::from_name(&text(cursor)?),
            "prefixes" => hello.prefixes = keys(cursor)?,
            "limits" => {
                let Token::Map(count) = cursor.token()? else { return Err(ReplyError("limits are no map".into())) };
                let limits = (0..count).map(|_| Ok((text(cursor)?.into(), uint(cursor)?)));
                hello.limits = limits.collect::<Result<Vec<_>, ReplyError>>()?.into();
            }
            // A newer broker may say more.
            _ => {
                cursor.raw()?;
            }
        }
    }
    Ok(hello)
}

fn id<T: std::str::FromStr>(cursor: &mut Cursor<'_>) -> Result<T, ReplyError> {
    let digits = text(cursor)?;
    digits.parse().map_err(|_| ReplyError(format!("{digits:?} is no id")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::access::UserKey;
    use crate::conversion::ConversionAnswer;
    use crate::header::{BrokerId, SessionId};
    use crate::reply::reported_limits;
    use crate::reply_encode::encode_reply;

    fn samples() -> Vec<(Expect, Outcome)> {
        let value = Stored::text("v").unwrap();
        let ok = |answer| Outcome { revision: Some(300), result: Ok(answer) };
        let hello = HelloAnswer {
            protocol: 1,
            version: "0.1.0".into(),
            project: "p".into(),
            owner: "o".into(),
            broker: BrokerId([1; 16]),
            epoch: u64::MAX - 1,
            instance: BrokerId([2; 16]),
            shard: 0,
            pub_port: 65_535,
            session: SessionId([3; 16]),
            durability: "always".into(),
            user: "kvpub1".into(),
            role: Some(Role::Read),
            prefixes: vec!["a/".into(), vec![0xff]],
            limits: reported_limits(),
        };
        let key = UserKey::from_bytes([9; 32]);
        let grants = vec![
            GrantInfo { key, role: Role::Write, prefixes: vec![b"a/".to_vec(), vec![0xff]], comment: "Ada".into() },
            GrantInfo { key, role: Role::Admin, prefixes: vec![], comment: String::new() },
        ];
        let version = |kind| Version { revision: 5, time_ms: 6, kind };
        let kinds = [VersionKind::Put(value.clone()), VersionKind::Remove, VersionKind::Expire];
        let versions = kinds.into_iter().map(version).collect();
        let rows = vec![Row { key: vec![0xff], value: value.clone(), modified: 2 }];
        let queues = queue::samples().into_iter().map(|(expect, answer)| (Expect::Queue(expect), ok(Answer::Queue(answer))));
        let rules = ConversionAnswer::Rules { rules: conversion::rule_samples(), cursor: Some(vec![0xff]) };
        let converted = ConversionAnswer::Converted(value.clone());
        let mut samples = vec![
            (Expect::Conversion(ConversionExpect::Rules), ok(Answer::Conversion(rules))),
            (Expect::Conversion(ConversionExpect::Converted), ok(Answer::Conversion(converted))),
            (Expect::Done, ok(Answer::Done)),
            (Expect::Done, ok(Answer::Removed(value.clone()))),
            (Expect::Value, ok(Answer::Value { value: value.clone(), modified: 2, created: 1 })),
            (Expect::Size, ok(Answer::Size(u64::MAX))),
            (
                Expect::Txn(Box::new([vec![Expect::Done, Expect::Size], vec![]])),
                ok(Answer::Txn { succeeded: true, results: vec![ok(Answer::Done), ok(Answer::Size(3))] }),
            ),
            (Expect::Exists, ok(Answer::Exists(false))),
            (Expect::Integer, ok(Answer::Integer(i128::from(u64::MAX)))),
            (Expect::Integer, ok(Answer::Integer(i128::from(i64::MIN)))),
            (Expect::Values(2), ok(Answer::Values(vec![None, Some(Found { value: value.clone(), modified: 2, created: 1 })]))),
            (Expect::Keys, ok(Answer::Keys { keys: vec![b"a".to_vec(), vec![0xff]], cursor: None, snapshot: None })),
            (Expect::Keys, ok(Answer::Keys { keys: vec![], cursor: None, snapshot: Some(8) })),
            (Expect::Rows, ok(Answer::Rows { rows, cursor: Some(b"k".to_vec()), snapshot: Some(7) })),
            (Expect::Rows, ok(Answer::Rows { rows: vec![], cursor: None, snapshot: None })),
            (Expect::Ttl, ok(Answer::Ttl(None))),
            (Expect::Ttl, ok(Answer::Ttl(Some(Deadline { left_ms: 5, at_ms: u64::MAX })))),
            (Expect::Deleted, ok(Answer::Deleted { removed: 10_000, more: true })),
            (Expect::Result, ok(Answer::Result(Fate::Undecided))),
            (Expect::Result, ok(Answer::Result(Fate::Filled))),
            (Expect::Result, ok(Answer::Result(Fate::Acknowledged))),
            (Expect::Result, ok(Answer::Result(Fate::Decided(Box::new(ok(Answer::Removed(value.clone()))))))),
            (Expect::History, ok(Answer::History { versions, more: true, oldest: 3 })),
            (Expect::Events(7), ok(Answer::Events { events: crate::events::samples(), through: 9, more: true, epoch: u64::MAX })),
            (Expect::Events(0), ok(Answer::Events { events: vec![], through: 0, more: false, epoch: 0 })),
            (Expect::Events(0), Outcome { revision: Some(9), result: Err(Failure::compacted("gone", 7)) }),
            (Expect::Granted, ok(Answer::Granted { replaced: true })),
            (Expect::Who, ok(Answer::Who(grants))),
            (Expect::Who, ok(Answer::Who(vec![]))),
            (Expect::Hello, ok(Answer::Hello(Box::new(HelloAnswer { role: None, prefixes: vec![], ..hello.clone() })))),
            (Expect::Hello, ok(Answer::Hello(Box::new(hello)))),
            (
                Expect::Stats,
                ok(Answer::Stats(vec![("a".into(), StatValue::Number(1)), ("b".into(), StatValue::Text("x".into()))])),
            ),
            (Expect::Value, Outcome { revision: None, result: Err(Failure::busy("wait", 100)) }),
            (
                Expect::Done,
                Outcome {
                    revision: Some(9),
                    result: Err(Failure {
                        original: Some(Box::new(ok(Answer::Done))),
                        ..Failure::new(ErrorCode::IdReused, "another request has this number")
                    }),
                },
            ),
        ];
        samples.extend(queues);
        samples.extend(
            routing::samples().into_iter().map(|(expect, answer)| (Expect::Routing(expect), ok(Answer::Routing(answer)))),
        );
        samples
    }

    #[test]
    fn every_reply_reads_back_and_no_truncation_panics() {
        let (expects, outcomes): (Vec<Expect>, Vec<Outcome>) = samples().into_iter().unzip();
        let many = Outcomes::Many(outcomes.clone());
        for (expects, outcomes) in expects
            .iter()
            .zip(&outcomes)
            .map(|(e, o)| (vec![e.clone()], Outcomes::One(o.clone())))
            .chain([(expects.clone(), many)])
        {
            let reply = Reply { id: Some(5), form: Form::Compact, retry_safe: Some(false), outcomes };
            let mut body = Vec::new();
            encode_reply(&reply, &mut body);
            assert_eq!(reply_id(&body).unwrap(), Some(5));
            assert_eq!(decode_reply(&body, &expects).unwrap(), reply);
            for length in 0..body.len() {
                assert!(decode_reply(&body[..length], &expects).is_err());
            }
        }
    }
}
