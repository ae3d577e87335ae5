//! Writing a reply in its request's shape.
//!
//! Compact: `[version, id, retry_safe, result-or-results]` with `[0, rev, …]` for success and
//! `[status, rev, code, message, retry_after_ms]` otherwise, with the original's outcome behind it where a number was used twice, and
//! behind that (nil where there is none) the oldest revision that is still known where an older one was asked for. Map and JSON say
//! the same by name.

use crate::PROTOCOL_VERSION;
use crate::access::GrantInfo;
use crate::conversion;
use crate::error::{Failure, Status};
use crate::events::{epoch_text, write_events};
use crate::header::Form;
use crate::msgpack::write;
use crate::queue;
use crate::reply::{Answer, Fate, Found, HelloAnswer, Outcome, Outcomes, Reply, StatValue, Version, VersionKind};
use crate::routing;
use crate::sink::Sink;
use crate::value::Key;

/// Appends a reply in its request's shape.
pub fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    match reply.form {
        Form::Compact => compact(reply, out),
        Form::Map => named(reply, &mut Sink { json: false, comma: false, out }),
        Form::Json => named(reply, &mut Sink { json: true, comma: false, out }),
    }
}

// ---- compact ----

fn compact(reply: &Reply, out: &mut Vec<u8>) {
    write::array(out, 4);
    write::uint(out, u64::from(PROTOCOL_VERSION));
    write::optional_uint(out, reply.id);
    write::optional(out, reply.retry_safe, write::boolean);
    match &reply.outcomes {
        Outcomes::One(outcome) => compact_outcome(outcome, out),
        Outcomes::Many(outcomes) => {
            write::array(out, outcomes.len());
            outcomes.iter().for_each(|outcome| compact_outcome(outcome, out));
        }
    }
}

/// Appends one outcome as a MessagePack map: the form that says by itself what it is, for whoever does not have the request.
pub fn encode_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    outcome_map(outcome, &mut Sink { json: false, comma: false, out });
}

fn compact_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    let answer = match &outcome.result {
        Ok(answer) => answer,
        Err(failure) => {
            let (has_original, has_oldest) = (failure.original.is_some(), failure.oldest.is_some());
            write::array(out, if has_oldest { 7 } else { 5 + usize::from(has_original) });
            write::uint(out, u64::from(failure.code.status().number()));
            write::optional_uint(out, outcome.revision);
            write::text(out, failure.code.name());
            write::text(out, &failure.message);
            write::optional_uint(out, failure.retry_after_ms);
            match &failure.original {
                Some(original) => encode_outcome(original, out),
                None if has_oldest => write::nil(out),
                None => {}
            }
            failure.oldest.iter().for_each(|oldest| write::uint(out, *oldest));
            return;
        }
    };
    let head = |out: &mut Vec<u8>, payload: usize| {
        write::array(out, 2 + payload);
        write::uint(out, u64::from(Status::Ok.number()));
        write::optional_uint(out, outcome.revision);
    };
    match answer {
        Answer::Done => head(out, 0),
        Answer::Removed(value) => {
            head(out, 1);
            value.write_msgpack(out);
        }
        Answer::Value { value, modified, created } => {
            head(out, 3);
            value.write_msgpack(out);
            write::uint(out, *modified);
            write::uint(out, *created);
        }
        Answer::Size(size) => {
            head(out, 1);
            write::uint(out, *size);
        }
        Answer::Exists(exists) => {
            head(out, 1);
            write::boolean(out, *exists);
        }
        Answer::Integer(integer) => {
            head(out, 1);
            write::integer(out, *integer);
        }
        Answer::Values(values) => {
            head(out, 1);
            found_values(values, &mut Sink { json: false, comma: false, out });
        }
        Answer::Keys { keys, cursor, snapshot } => {
            head(out, 2 + usize::from(snapshot.is_some()));
            write::array(out, keys.len());
            keys.iter().for_each(|key| write::key(out, key));
            write::optional(out, cursor.as_deref(), write::key);
            snapshot.iter().for_each(|revision| write::uint(out, *revision));
        }
        Answer::Rows { rows, cursor, snapshot } => {
            head(out, 2 + usize::from(snapshot.is_some()));
            write::array(out, rows.len());
            for row in rows {
                write::array(out, 3);
                write::key(out, &row.key);
                row.value.write_msgpack(out);
                write::uint(out, row.modified);
            }
            write::optional(out, cursor.as_deref(), write::key);
            snapshot.iter().for_each(|revision| write::uint(out, *revision));
        }
        Answer::Ttl(deadline) => {
            head(out, 2);
            write::optional_uint(out, deadline.map(|deadline| deadline.left_ms));
            write::optional_uint(out, deadline.map(|deadline| deadline.at_ms));
        }
        Answer::Deleted { removed, more } => {
            head(out, 2);
            write::uint(out, *removed);
            write::boolean(out, *more);
        }
        Answer::Result(fate) => {
            head(out, if matches!(fate, Fate::Decided(_)) { 2 } else { 1 });
            write::text(out, fate.name());
            if let Fate::Decided(outcome) = fate {
                encode_outcome(outcome, out);
            }
        }
        Answer::History { versions, more, oldest } => {
            head(out, 3);
            self::versions(versions, &mut Sink { json: false, comma: false, out });
            write::boolean(out, *more);
            write::uint(out, *oldest);
        }
        Answer::Events { events, through, more, epoch } => {
            head(out, 4);
            write_events(events, &mut Sink { json: false, comma: false, out });
            write::uint(out, *through);
            write::boolean(out, *more);
            write::text(out, &epoch_text(*epoch));
        }
        Answer::Granted { replaced } => {
            head(out, 1);
            write::boolean(out, *replaced);
        }
        Answer::Who(users) => {
            head(out, 1);
            self::users(users, &mut Sink { json: false, comma: false, out });
        }
        Answer::Queue(answer) => {
            head(out, queue::compact_length(answer));
            queue::write_compact(answer, out);
        }
        Answer::Routing(answer) => {
            head(out, routing::compact_length(answer));
            routing::write_compact(answer, out);
        }
        Answer::Conversion(answer) => {
            head(out, conversion::compact_length(answer));
            conversion::write_compact(answer, out);
        }
        Answer::Txn { succeeded, results } => {
            head(out, 2);
            write::boolean(out, *succeeded);
            write::array(out, results.len());
            results.iter().for_each(|outcome| compact_outcome(outcome, out));
        }
        Answer::Hello(hello) => {
            head(out, 1);
            let sink = &mut Sink { json: false, comma: false, out };
            sink.map(hello_field_count(hello));
            hello_fields(hello, sink);
            sink.end_map();
        }
        Answer::Stats(stats) => {
            head(out, 1);
            stats_map(stats, &mut Sink { json: false, comma: false, out });
        }
    }
}

// ---- map and JSON ----

fn named(reply: &Reply, sink: &mut Sink<'_>) {
    let head = usize::from(reply.id.is_some()) + usize::from(reply.retry_safe.is_some());
    match &reply.outcomes {
        Outcomes::One(outcome) => {
            sink.map(head + outcome_field_count(outcome));
            named_head(reply, sink);
            outcome_fields(outcome, sink);
        }
        Outcomes::Many(outcomes) => {
            sink.map(head + 1);
            named_head(reply, sink);
            results_field(outcomes, sink);
        }
    }
    sink.end_map();
}

fn results_field(outcomes: &[Outcome], sink: &mut Sink<'_>) {
    sink.name("results");
    sink.array(outcomes.len());
    outcomes.iter().for_each(|outcome| outcome_map(outcome, sink));
    sink.end_array();
}

fn outcome_map(outcome: &Outcome, sink: &mut Sink<'_>) {
    sink.map(outcome_field_count(outcome));
    outcome_fields(outcome, sink);
    sink.end_map();
}

fn named_head(reply: &Reply, sink: &mut Sink<'_>) {
    if let Some(id) = reply.id {
        sink.name("id");
        sink.uint(id);
    }
    if let Some(safe) = reply.retry_safe {
        sink.name("retry_safe");
        sink.boolean(safe);
    }
}

fn outcome_field_count(outcome: &Outcome) -> usize {
    1 + usize::from(outcome.revision.is_some())
        + match &outcome.result {
            Err(_) => 1,
            Ok(Answer::Done) => 0,
            Ok(
                Answer::Removed(_)
                | Answer::Size(_)
                | Answer::Exists(_)
                | Answer::Integer(_)
                | Answer::Values(_)
                | Answer::Granted { .. }
                | Answer::Who(_)
                | Answer::Stats(_),
            ) => 1,
            Ok(Answer::Queue(answer)) => queue::field_count(answer),
            Ok(Answer::Routing(answer)) => routing::field_count(answer),
            Ok(Answer::Conversion(answer)) => conversion::field_count(answer),
            Ok(Answer::Value { .. }) => 3,
            Ok(Answer::Txn { .. } | Answer::Ttl(_) | Answer::Deleted { .. }) => 2,
            Ok(Answer::History { .. }) => 3,
            Ok(Answer::Events { .. }) => 4,
            Ok(Answer::Result(fate)) => {
                if matches!(fate, Fate::Decided(_)) {
                    2
                } else {
                    1
                }
            }
            Ok(Answer::Rows { cursor, snapshot, .. } | Answer::Keys { cursor, snapshot, .. }) => {
                1 + usize::from(cursor.is_some()) + usize::from(snapshot.is_some())
            }
            Ok(Answer::Hello(hello)) => hello_field_count(hello),
        }
}

fn outcome_fields(outcome: &Outcome, sink: &mut Sink<'_>) {
    sink.name("status");
    sink.text(outcome.result.as_ref().map_or_else(|failure| failure.code.status(), |_| Status::Ok).name());
    if let Some(revision) = outcome.revision {
        sink.name("rev");
        sink.uint(revision);
    }
    match &outcome.result {
        Err(failure) => failure_field(failure, sink),
        Ok(Answer::Done) => {}
        Ok(Answer::Removed(value)) => {
            sink.name("value");
            sink.stored(value);
        }
        Ok(Answer::Value { value, modified, created }) => {
            sink.name("value");
            sink.stored(value);
            sink.name("modified");
            sink.uint(*modified);
            sink.name("created");
            sink.uint(*created);
        }
        Ok(Answer::Size(size)) => {
            sink.name("size");
            sink.uint(*size);
        }
        Ok(Answer::Exists(exists)) => {
            sink.name("exists");
            sink.boolean(*exists);
        }
        Ok(Answer::Integer(integer)) => {
            sink.name("value");
            sink.integer(*integer);
        }
        Ok(Answer::Values(values)) => {
            sink.name("values");
            found_values(values, sink);
        }
        Ok(Answer::Keys { keys, cursor, snapshot }) => {
            sink.name("keys");
            sink.array(keys.len());
            keys.iter().for_each(|key| sink.key(key));
            sink.end_array();
            page_end(cursor.as_deref(), *snapshot, sink);
        }
        Ok(Answer::Rows { rows, cursor, snapshot }) => {
            sink.name("rows");
            sink.array(rows.len());
            for row in rows {
                sink.array(3);
                sink.key(&row.key);
                sink.stored(&row.value);
                sink.uint(row.modified);
                sink.end_array();
            }
            sink.end_array();
            page_end(cursor.as_deref(), *snapshot, sink);
        }
        Ok(Answer::Txn { succeeded, results }) => {
            sink.name("succeeded");
            sink.boolean(*succeeded);
            results_field(results, sink);
        }
        Ok(Answer::Ttl(deadline)) => {
            sink.name("ttl");
            sink.optional_uint(deadline.map(|deadline| deadline.left_ms));
            sink.name("expires");
            sink.optional_uint(deadline.map(|deadline| deadline.at_ms));
        }
        Ok(Answer::Deleted { removed, more }) => {
            sink.name("removed");
            sink.uint(*removed);
            sink.name("more");
            sink.boolean(*more);
        }
        Ok(Answer::Result(fate)) => {
            sink.name("state");
            sink.text(fate.name());
            if let Fate::Decided(outcome) = fate {
                sink.name("outcome");
                outcome_map(outcome, sink);
            }
        }
        Ok(Answer::History { versions, more, oldest }) => {
            sink.name("versions");
            self::versions(versions, sink);
            sink.name("more");
            sink.boolean(*more);
            sink.name("oldest");
            sink.uint(*oldest);
        }
        Ok(Answer::Events { events, through, more, epoch }) => {
            sink.name("events");
            write_events(events, sink);
            sink.name("through");
            sink.uint(*through);
            sink.name("more");
            sink.boolean(*more);
            sink.name("epoch");
            sink.text(&epoch_text(*epoch));
        }
        Ok(Answer::Granted { replaced }) => {
            sink.name("replaced");
            sink.boolean(*replaced);
        }
        Ok(Answer::Who(users)) => {
            sink.name("users");
            self::users(users, sink);
        }
        Ok(Answer::Queue(answer)) => queue::write_fields(answer, sink),
        Ok(Answer::Routing(answer)) => routing::write_fields(answer, sink),
        Ok(Answer::Conversion(answer)) => conversion::write_fields(answer, sink),
        Ok(Answer::Hello(hello)) => hello_fields(hello, sink),
        Ok(Answer::Stats(stats)) => {
            sink.name("stats");
            stats_map(stats, sink);
        }
    }
}

fn page_end(cursor: Option<&[u8]>, snapshot: Option<u64>, sink: &mut Sink<'_>) {
    if let Some(cursor) = cursor {
        sink.name("cursor");
        sink.key(cursor);
    }
    if let Some(revision) = snapshot {
        sink.name("snapshot");
        sink.uint(revision);
    }
}

/// `[rev, time, "put", value]`, or without a value `[rev, time, "remove"]` and `[rev, time, "expire"]`.
fn versions(versions: &[Version], sink: &mut Sink<'_>) {
    sink.array(versions.len());
    for version in versions {
        let value = match &version.kind {
            VersionKind::Put(value) => Some(value),
            VersionKind::Remove | VersionKind::Expire => None,
        };
        sink.array(if value.is_some() { 4 } else { 3 });
        sink.uint(version.revision);
        sink.uint(version.time_ms);
        sink.text(version.kind.name());
        if let Some(value) = value {
            sink.stored(value);
        }
        sink.end_array();
    }
    sink.end_array();
}

/// `[value, modified, created]` or nil for each key asked for.
fn found_values(values: &[Option<Found>], sink: &mut Sink<'_>) {
    sink.array(values.len());
    for value in values {
        match value {
            None => sink.nil(),
            Some(Found { value, modified, created }) => {
                sink.array(3);
                sink.stored(value);
                sink.uint(*modified);
                sink.uint(*created);
                sink.end_array();
            }
        }
    }
    sink.end_array();
}

fn failure_field(failure: &Failure, sink: &mut Sink<'_>) {
    sink.name("error");
    let further = [failure.retry_after_ms.is_some(), failure.original.is_some(), failure.oldest.is_some()];
    sink.map(3 + further.iter().filter(|is_there| **is_there).count());
    sink.name("code");
    sink.text(failure.code.name());
    sink.name("message");
    sink.text(&failure.message);
    sink.name("definite");
    sink.boolean(failure.code.is_definite());
    if let Some(ms) = failure.retry_after_ms {
        sink.name("retry_after_ms");
        sink.uint(ms);
    }
    if let Some(original) = &failure.original {
        sink.name("original");
        outcome_map(original, sink);
    }
    if let Some(oldest) = failure.oldest {
        sink.name("oldest");
        sink.uint(oldest);
    }
    sink.end_map();
}

/// A map of `key`, `role`, `prefixes` unless it is every key, and `comment` unless there is none, for each user.
fn users(users: &[GrantInfo], sink: &mut Sink<'_>) {
    sink.array(users.len());
    for GrantInfo { key, role, prefixes, comment } in users {
        sink.map(2 + usize::from(!prefixes.is_empty()) + usize::from(!comment.is_empty()));
        sink.name("key");
        sink.text(&key.to_string());
        sink.name("role");
        sink.text(role.name());
        prefixes_field(prefixes, sink);
        if !comment.is_empty() {
            sink.name("comment");
            sink.text(comment);
        }
        sink.end_map();
    }
    sink.end_array();
}

/// Left out for every key: an empty list looks like nothing at all.
fn prefixes_field(prefixes: &[Key], sink: &mut Sink<'_>) {
    if prefixes.is_empty() {
        return;
    }
    sink.name("prefixes");
    sink.array(prefixes.len());
    prefixes.iter().for_each(|prefix| sink.key(prefix));
    sink.end_array();
}

/// Three numbers, nine texts and the limits; what may be left out on top.
fn hello_field_count(hello: &HelloAnswer) -> usize {
    13 + usize::from(hello.role.is_some()) + usize::from(!hello.prefixes.is_empty())
}

fn hello_fields(hello: &HelloAnswer, sink: &mut Sink<'_>) {
    let numbers =
        [("protocol", u64::from(hello.protocol)), ("shard", u64::from(hello.shard)), ("pub_port", u64::from(hello.pub_port))];
    for (name, value) in numbers {
        sink.name(name);
        sink.uint(value);
    }
    let (broker, instance, session) = (hello.broker.to_string(), hello.instance.to_string(), hello.session.to_string());
    let texts: [(&str, &str); 9] = [
        ("version", &hello.version),
        ("project", &hello.project),
        ("owner", &hello.owner),
        ("broker", &broker),
        // Not a number: JSON readers would round a 64-bit one.
        ("epoch", &epoch_text(hello.epoch)),
        ("instance", &instance),
        ("session", &session),
        ("durability", &hello.durability),
        ("user", &hello.user),
    ];
    for (name, value) in texts {
        sink.name(name);
        sink.text(value);
    }
    if let Some(role) = hello.role {
        sink.name("role");
        sink.text(role.name());
    }
    prefixes_field(&hello.prefixes, sink);
    sink.name("limits");
    sink.map(hello.limits.len());
    for (name, value) in hello.limits.iter() {
        sink.name(name);
        sink.uint(*value);
    }
    sink.end_map();
}

fn stats_map(stats: &[(String, StatValue)], sink: &mut Sink<'_>) {
    sink.map(stats.len());
    for (name, value) in stats {
        sink.name(name);
        stat(value, sink);
    }
    sink.end_map();
}

pub(crate) fn stat(value: &StatValue, sink: &mut Sink<'_>) {
    match value {
        StatValue::Number(number) => sink.uint(*number),
        StatValue::Text(text) => sink.text(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;
    use crate::reply::Row;
    use crate::value::Stored;

    fn text(reply: &Reply) -> String {
        let mut out = Vec::new();
        encode_reply(reply, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn json_reply(outcomes: Outcomes) -> Reply {
        Reply { id: Some(7), form: Form::Json, retry_safe: None, outcomes }
    }

    #[test]
    fn json_replies_read_as_documented() {
        let value = Stored::from_json(br#"{"weight": 100}"#).unwrap();
        let got = Answer::Value { value: value.clone(), modified: 3, created: 2 };
        assert_eq!(
            text(&json_reply(Outcomes::One(Outcome { revision: Some(9), result: Ok(got) }))),
            r#"{"id":7,"status":"ok","rev":9,"value":{"weight": 100},"modified":3,"created":2}"#
        );
        let rows = Answer::Rows {
            rows: vec![
                Row { key: b"a".to_vec(), value: value.clone(), modified: 3 },
                Row { key: vec![0xff], value, modified: 4 },
            ],
            cursor: Some(b"b".to_vec()),
            snapshot: None,
        };
        let failure = Failure::busy("wait", 100);
        let many = vec![Outcome { revision: Some(9), result: Ok(rows) }, Outcome { revision: None, result: Err(failure) }];
        let mut reply = json_reply(Outcomes::Many(many));
        reply.retry_safe = Some(false);
        assert_eq!(
            text(&reply),
            concat!(
                r#"{"id":7,"retry_safe":false,"results":[{"status":"ok","rev":9,"rows":[["a",{"weight": 100},3],"#,
                r#"[{"$bytes":"/w=="},{"weight": 100},4]],"cursor":"b"},"#,
                r#"{"status":"failed","error":{"code":"busy","message":"wait","definite":true,"retry_after_ms":100}}]}"#
            )
        );
    }

    #[test]
    fn map_replies_are_the_json_ones_in_messagepack() {
        let outcome = Outcome { revision: Some(1), result: Err(Failure::new(ErrorCode::NotFound, "no such key")) };
        let mut reply = json_reply(Outcomes::One(outcome));
        let json = text(&reply);
        reply.form = Form::Map;
        let mut pack = Vec::new();
        encode_reply(&reply, &mut pack);
        assert_eq!(crate::msgpack_to_json(&pack).unwrap(), json.into_bytes());
    }
}
