//! docs/protocol.md tells the truth: its examples are executed in order against one fresh broker, its tables compared with the code.
//!
//! - In an example `"…"` stands for anything, a field of that name for further fields, and an error's `message` for any sentence.
//! - MessagePack is written as the JSON that says the same, or as hex digits, which are compared byte for byte.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use kvbroker_protocol::{ErrorCode, limits, reported_limits};
use kvbroker_tests::{Broker, PATIENCE, json, pack, unpack};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");
const ANYTHING: &str = "…";

/// A fenced block: its first line's words, and its text.
struct Block {
    info: &'static str,
    text: String,
    line: usize,
}

fn blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in DOCUMENT.lines().enumerate() {
        match line.strip_prefix("```") {
            Some("") if open => open = false,
            Some(info) => {
                assert!(!open, "line {}: a block in a block", index + 1);
                open = true;
                blocks.push(Block { info, text: String::new(), line: index + 1 });
            }
            None if open => {
                let block = blocks.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "the last block has an end");
    blocks
}

fn from_hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// Why `actual` is not what the example shows, and where.
fn difference(expected: &Value, actual: &Value, place: &str) -> Option<String> {
    let differs = || Some(format!("at {place} the document says {expected}, the broker {actual}"));
    match (expected, actual) {
        (Value::String(text), _) if text == ANYTHING => None,
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            let mut pairs = expected.iter().zip(actual).enumerate();
            pairs.find_map(|(at, (expected, actual))| difference(expected, actual, &format!("{place}[{at}]")))
        }
        (Value::Object(expected_fields), Value::Object(actual_fields)) => {
            let open = expected_fields.contains_key(ANYTHING);
            if !open && expected_fields.len() != actual_fields.len() {
                return differs();
            }
            expected_fields.iter().filter(|(name, _)| *name != ANYTHING).find_map(|(name, expected)| {
                match actual_fields.get(name) {
                    None => differs(),
                    Some(Value::String(sentence)) if name == "message" && !sentence.is_empty() => None,
                    Some(actual) => difference(expected, actual, &format!("{place}.{name}")),
                }
            })
        }
        _ if expected == actual => None,
        _ => differs(),
    }
}

#[test]
fn examples_do_what_the_document_says() {
    let broker = Broker::plain();
    let client = broker.dealer();
    let subscriber = broker.subscriber(&[b"kuser/"]);
    let topics: Vec<Vec<u8>> = blocks().iter().filter(|block| block.info == "hex").map(|block| from_hex(&block.text)).collect();
    let [topic, topic_of_messages] = topics.try_into().unwrap();
    let stream_reader = broker.subscriber(&[&topic]);
    let listener = broker.subscriber(&[&topic_of_messages]);
    // The broker says so itself once the subscription has arrived. It has to come again where an example takes a key the whole table:
    // then the publisher ends all connections.
    let is_heard = || {
        kvbroker_tests::wait_until(PATIENCE, "the broker knows the subscription", || {
            // A connection that was made again sends its subscriptions only when somebody looks at the socket.
            for subscriber in [&subscriber, &stream_reader, &listener] {
                subscriber.socket().get_events().expect("a socket has events");
            }
            (broker.stat("topics") == 3).then_some(())
        });
    };
    let (mut asked, mut expires_soon) = (0, false);
    let (mut feed, mut stream, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    let mut reply: Option<(&str, Vec<u8>, usize)> = None;
    for Block { info, text, line } in blocks() {
        let words: Vec<&str> = info.split(' ').collect();
        match words[..] {
            [encoding, "request"] => {
                assert!(reply.is_none(), "line {line}: the request before it has no reply");
                let body = match encoding {
                    "json" => text.trim().as_bytes().to_vec(),
                    "msgpack" => pack(&json(text.as_bytes())),
                    "hex" => from_hex(&text),
                    other => panic!("line {line}: what is {other}?"),
                };
                is_heard();
                expires_soon = text.contains("\"user/eve\"") && text.contains("\"ttl\"");
                reply = Some((encoding, client.ask(&body), line));
                asked += 1;
            }
            [encoding, "reply"] => {
                let (asked_in, body, _) = reply.take().unwrap_or_else(|| panic!("line {line}: a reply to nothing"));
                assert_eq!(asked_in, encoding, "line {line}: a reply has its request's encoding");
                let wrong = match encoding {
                    "hex" => {
                        let expected = from_hex(&text);
                        (expected != body).then(|| format!("the document says {expected:02x?}, the broker {body:02x?}"))
                    }
                    "json" => difference(&json(text.as_bytes()), &json(&body), "the reply"),
                    _ => difference(&json(text.as_bytes()), &unpack(&body), "the reply"),
                };
                assert_eq!(wrong, None, "line {line}");
                if expires_soon {
                    // Its revision is shown, so it is the next one.
                    kvbroker_tests::wait_until(PATIENCE, "the deadline has come", || {
                        let gone = json(&client.ask(br#"{"op": "get", "key": "user/eve"}"#));
                        (gone["error"]["code"] == "not_found").then_some(())
                    });
                }
            }
            ["feed"] => feed.extend(text.lines().map(|line| json(line.as_bytes()))),
            ["stream"] => stream.extend(text.lines().map(|line| json(line.as_bytes()))),
            ["messages"] => messages.extend(text.lines().map(|line| json(line.as_bytes()))),
            _ => {}
        }
    }
    assert!(asked > 30, "only {asked} examples were found");
    assert_eq!(feed.len(), 4);
    // The examples before have put keys under this prefix, too; the last ones are those shown.
    let shown_from = feed[0]["rev"].as_u64().unwrap();
    for expected in feed {
        let actual = kvbroker_tests::wait_until(PATIENCE, "the notification has come", || {
            let (topic, body) = subscriber.try_receive(PATIENCE)?;
            let body = unpack(&body);
            assert_eq!(topic, [b"k", body["key"].as_str()?.as_bytes()].concat());
            (body["rev"].as_u64()? >= shown_from).then_some(body)
        });
        assert_eq!(difference(&expected, &actual, "the notification"), None);
    }
    assert_eq!(stream.len(), 3);
    for expected in stream {
        let first = expected["prev"].as_u64().unwrap();
        let actual = kvbroker_tests::wait_until(PATIENCE, "the stream's message has come", || {
            let (topic_of_message, body) = stream_reader.try_receive(PATIENCE)?;
            assert_eq!(topic_of_message, topic);
            let mut body = unpack(&body);
            // It may begin earlier: with the last change under the prefix, if there was no bookmark since.
            let prev = body["prev"].as_u64()?;
            body["prev"] = prev.max(first).into();
            (body["rev"].as_u64()? > first || expected.get("events").is_none()).then_some(body)
        });
        assert_eq!(difference(&expected, &actual, "the stream's message"), None);
    }
    assert_eq!(messages.len(), 2);
    for expected in messages {
        let actual = kvbroker_tests::wait_until(PATIENCE, "the published message has come", || {
            let (topic, body) = listener.try_receive(PATIENCE)?;
            assert_eq!(topic, topic_of_messages);
            let body = unpack(&body);
            body.get("messages").is_some().then_some(body)
        });
        assert_eq!(difference(&expected, &actual, "the published message"), None);
    }
}

#[test]
fn the_endpoint_file_has_the_documented_fields() {
    let block = blocks().into_iter().find(|block| block.info == "json" && block.text.contains("\"router\"")).unwrap();
    let names = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let documented = json(block.text.as_bytes());
    let broker = Broker::plain();
    assert_eq!(names(&documented), names(broker.endpoint()));
    assert_eq!(names(&documented["tcp"]), names(&broker.endpoint()["tcp"]));
    assert_eq!(broker.endpoint()["pid"], broker.pid());
    assert_eq!(broker.router_socket().parent().unwrap(), broker.runtime_directory());
}

/// The rows of the tables of a section, cells without their spaces and back-ticks; heads and rules left out.
fn tables(section: &str) -> Vec<Vec<Vec<String>>> {
    let from = DOCUMENT.find(&format!("\n## {section}\n")).unwrap() + 1;
    let rest = &DOCUMENT[from + 3..];
    let text = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
    let mut tables: Vec<Vec<Vec<String>>> = Vec::new();
    let mut previous_is_row = false;
    for line in text.lines() {
        let cells = line.strip_prefix("| ").map(|row| row.trim_end_matches(" |").split(" | "));
        let is_rule = line.starts_with("|---");
        if let Some(cells) = cells {
            if !previous_is_row {
                tables.push(Vec::new());
            }
            tables.last_mut().unwrap().push(cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect());
        }
        previous_is_row = is_rule || line.starts_with("| ");
    }
    tables.iter_mut().for_each(|table| drop(table.remove(0)));
    tables
}

#[test]
fn the_table_of_errors_is_the_codes() {
    let table = &tables("Errors")[0];
    let documented: Vec<(&str, &str)> = table.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let real: Vec<(&str, &str)> = ErrorCode::ALL.iter().map(|code| (code.name(), code.status().name())).collect();
    assert_eq!(documented, real);
    assert!(table.iter().all(|row| row[2].len() > 10));
}

#[test]
fn the_tables_of_limits_are_the_codes() {
    let tables = tables("Limits");
    let documented = |table: usize| -> BTreeMap<String, u64> {
        tables[table].iter().map(|row| (row[0].clone(), row[1].replace(',', "").parse().unwrap())).collect()
    };
    let reported = reported_limits().iter().map(|(name, value)| (name.to_string(), *value)).collect();
    assert_eq!(documented(0), reported);
    let fixed = [
        ("envelope_frames", limits::ENVELOPE_FRAMES_MAX as u64),
        ("regex_program_bytes", limits::REGEX_PROGRAM_BYTES_MAX as u64),
        ("turn_work", limits::TURN_WORK_MAX as u64),
        ("array_reply_bytes", limits::ARRAY_REPLY_BYTES_MAX as u64),
        ("intake_calls", limits::INTAKE_CALLS_MAX as u64),
        ("intake_bytes", limits::INTAKE_BYTES_MAX as u64),
        ("replies_bytes", limits::REPLIES_BYTES_MAX as u64),
        ("user_replies_bytes", limits::USER_REPLIES_BYTES_MAX as u64),
        ("small_reply_bytes", limits::SMALL_REPLY_BYTES as u64),
        ("small_credit_bytes", limits::SMALL_CREDIT_BYTES as u64),
        ("refusal_bytes", limits::REFUSAL_BYTES_MAX as u64),
        ("held_calls", limits::HELD_CALLS_MAX as u64),
        ("held_bytes", limits::HELD_BYTES_MAX as u64),
        ("connections", limits::CONNECTIONS_MAX as u64),
        ("sessions_reply_bytes", limits::SESSIONS_REPLY_BYTES_MAX as u64),
        ("sessions_reply_bytes_user", limits::SESSIONS_REPLY_BYTES_PER_USER_MAX as u64),
        ("sessions", limits::SESSIONS_MAX as u64),
        ("sessions_per_owner", limits::SESSIONS_PER_OWNER_MAX as u64),
        ("del_prefix_bytes", limits::DEL_PREFIX_BYTES_MAX as u64),
        ("turn_log_bytes", limits::TURN_LOG_BYTES_MAX as u64),
        ("delimiter_bytes", limits::DELIMITER_BYTES_MAX as u64),
        ("history_calls", limits::HISTORY_CALLS_MAX as u64),
        ("history_calls_user", limits::HISTORY_CALLS_PER_USER_MAX as u64),
        ("events_work", limits::EVENTS_WORK_MAX as u64),
        ("events_detail_bytes", limits::EVENTS_DETAIL_BYTES_MAX as u64),
        ("events_waiting_user", limits::PARKED_PER_USER_MAX as u64),
        ("events_waiting_all", limits::PARKED_MAX as u64),
        ("events_waiting_bytes", limits::PARKED_BYTES_MAX as u64),
        ("snapshots", limits::SNAPSHOTS_MAX as u64),
        ("snapshots_user", limits::SNAPSHOTS_PER_USER_MAX as u64),
        ("snapshot_bytes", limits::SNAPSHOT_BYTES_MAX as u64),
        ("predicate_terms", limits::PREDICATE_TERMS_MAX as u64),
        ("predicate_regexes", limits::PREDICATE_REGEXES_MAX as u64),
        ("predicate_depth", limits::PREDICATE_DEPTH_MAX as u64),
        ("stream_message_bytes", limits::STREAM_MESSAGE_BYTES as u64),
        ("published_unread_bytes", limits::PUBLISHED_UNREAD_BYTES_MAX as u64),
        ("published_unread", limits::PUBLISHED_UNREAD_MAX as u64),
        ("retry_after_ms", limits::RETRY_AFTER_MS),
    ];
    assert_eq!(documented(1), fixed.map(|(name, value)| (name.to_owned(), value)).into_iter().collect());
}
