//! How a record looks in a line of text and as JSON.
//!
//! - A line stays a line whatever keys and values contain.
//! - In text a value is cut after [`SHOWN_CHARACTERS`] unless whole values are wanted; JSON always has them whole.
//! - A record that this program does not understand is shown as bytes and counted by the caller.

use kvbroker_core::{ChangeError, RecordName, RecordView, TableRecord, view_record};
use kvbroker_protocol::{
    Form, Outcome, Outcomes, Reply, SessionId, Stored, encode_reply, key_to_json_text, key_to_line_text, msgpack_to_json,
};

use crate::tools::json_line::JsonLine;
use crate::tools::out::rfc3339;

/// So much of a value is shown in a line of text.
const SHOWN_CHARACTERS: usize = 100;

/// A record of the log or of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// Record key, space byte first.
    pub(crate) key: &'a [u8],
    /// None: the record is deleted.
    pub(crate) value: Option<&'a [u8]>,
    /// Its group's.
    pub(crate) revision: u64,
}

/// A document as it is stored: type byte, then the document. `None` if it is none, though its record looks like one.
pub(crate) fn document(stored: &[u8]) -> Option<Stored> {
    match stored.split_first()? {
        (1, document) => Stored::from_msgpack(document).ok(),
        (2, document) => Stored::from_json(document).ok(),
        _ => None,
    }
}

impl Record<'_> {
    /// The record in a line, without its line feed: `key greeting = "hello" (created 3)`.
    ///
    /// # Errors
    /// With the line, why the record is not understood.
    pub(crate) fn text(&self, is_whole: bool) -> (String, Option<ChangeError>) {
        let (name, view) = match view_record(self.key, self.value, self.revision) {
            Ok(parts) => parts,
            Err(error) => {
                let value = self.value.map_or(String::new(), |value| format!(" = {}", shortened(raw(value), is_whole)));
                return (format!("record {}{value} ({error})", shortened(raw(self.key), is_whole)), Some(error));
            }
        };
        let name = match name {
            RecordName::Key(key) => format!("key {}", line_key(key)),
            RecordName::Session(id) => format!("session {id}"),
            RecordName::Reply(id, place) => match &view {
                Some(RecordView::Reply { number, .. }) => format!("reply {id}:{number}"),
                _ => format!("reply {id} at place {place}"),
            },
            RecordName::Binding(queue, pattern) => format!("queue {queue} bound to {}", line_key(pattern)),
            RecordName::Messages => "messages".to_owned(),
            RecordName::Rule(name) => format!("rule {}", line_key(name)),
            RecordName::Queue(name) => format!("queue {}", line_key(name)),
            RecordName::Item(queue, item) => format!("item {item} of queue {queue}"),
            RecordName::ItemState(queue, item) => format!("state of item {item} of queue {queue}"),
            RecordName::Floor(b"") => "floor of all users".to_owned(),
            RecordName::Floor(owner) => format!("floor of {}", line_key(owner)),
        };
        let said = match view {
            None => String::new(),
            Some(RecordView::Table(record)) => table(&record, is_whole),
            Some(RecordView::Session { ended, used_ms, highest, owner }) => {
                let state = if ended { "ended" } else { "open" };
                format!(" {state}, highest number {highest}, used {}, owner {}", rfc3339(used_ms), line_key(owner))
            }
            Some(RecordView::Reply { hash, acknowledged, used_ms, outcome, .. }) => {
                let outcome = shortened(String::from_utf8_lossy(&outcome_json(&outcome)).into_owned(), is_whole);
                format!(" = {outcome} (hash {hash:016x}, acknowledged {acknowledged}, {})", rfc3339(used_ms))
            }
            Some(RecordView::Binding("")) => String::new(),
            Some(RecordView::Binding(filter)) => format!(" where {}", line_key(filter.as_bytes())),
            Some(RecordView::Messages { published, unroutable }) => format!(": {published} published, {unroutable} unroutable"),
            Some(RecordView::Rule(rule)) => {
                format!(" = {}", shortened(String::from_utf8_lossy(&rule_json(rule)).into_owned(), is_whole))
            }
            Some(RecordView::Queue { id, paused }) => format!(": id {id}{}", if paused { ", paused" } else { "" }),
            Some(RecordView::Item { stored, priority, pushed_ms }) => {
                let mut value = Vec::new();
                match document(stored) {
                    Some(stored) => stored.write_json(&mut value),
                    None => value = bytes_json(stored),
                }
                let value = shortened(String::from_utf8_lossy(&value).into_owned(), is_whole);
                format!(" = {value} (priority {priority}, pushed {})", rfc3339(pushed_ms))
            }
            Some(RecordView::ItemState { stage, deliveries, token }) => {
                let token = token.map_or(String::new(), |token| format!(", token {token}"));
                format!(": {stage}, deliveries {deliveries}{token}")
            }
            Some(RecordView::Floor(born_ms)) => format!(": sessions born up to {} are forgotten", rfc3339(born_ms)),
        };
        (format!("{name}{said}"), None)
    }

    /// Adds the record's fields to a line of JSON.
    ///
    /// # Errors
    /// With the line, why the record is not understood.
    pub(crate) fn json(&self, line: JsonLine) -> (JsonLine, Option<ChangeError>) {
        let line = line.number("revision", self.revision).text("op", if self.value.is_some() { "put" } else { "delete" });
        let (name, view) = match view_record(self.key, self.value, self.revision) {
            Ok(parts) => parts,
            Err(error) => {
                let line = line.text("space", "unknown").json("record_key", &bytes_json(self.key));
                let line = match self.value {
                    Some(value) => line.json("record_value", &bytes_json(value)),
                    None => line,
                };
                return (line.text("why", &error.to_string()), Some(error));
            }
        };
        let line = match name {
            RecordName::Key(key) => line.text("space", "table").bytes("key", key),
            RecordName::Session(id) => line.text("space", "session").text("session", &id.to_string()),
            RecordName::Reply(id, place) => {
                line.text("space", "reply").text("session", &id.to_string()).number("place", u64::from(place))
            }
            RecordName::Binding(queue, pattern) => {
                line.text("space", "binding").text("queue_id", &queue.to_string()).bytes("pattern", pattern)
            }
            RecordName::Messages => line.text("space", "messages"),
            RecordName::Rule(name) => line.text("space", "rule").bytes("rule", name),
            RecordName::Queue(name) => line.text("space", "queue").bytes("queue", name),
            RecordName::Item(queue, item) => {
                line.text("space", "item").text("queue_id", &queue.to_string()).text("item", &item.to_string())
            }
            RecordName::ItemState(queue, item) => {
                line.text("space", "item_state").text("queue_id", &queue.to_string()).text("item", &item.to_string())
            }
            RecordName::Floor(owner) => line.text("space", "floor").bytes("owner", owner),
        };
        let line = match view {
            None => line,
            Some(RecordView::Table(record)) => {
                let mut value = Vec::new();
                match document(record.stored) {
                    Some(stored) => stored.write_json(&mut value),
                    None => value = bytes_json(record.stored),
                }
                let line = line.json("value", &value).optional_number("created", record.created);
                line.optional_number("expires_ms", record.expires_ms)
            }
            Some(RecordView::Session { ended, used_ms, highest, owner }) => {
                line.flag("ended", ended).number("used_ms", used_ms).number("highest", highest).bytes("owner", owner)
            }
            Some(RecordView::Reply { number, hash, acknowledged, used_ms, outcome }) => line
                .number("number", number)
                .text("hash", &format!("{hash:016x}"))
                .number("acknowledged", acknowledged)
                .number("used_ms", used_ms)
                .json("outcome", &outcome_json(&outcome)),
            Some(RecordView::Binding(filter)) => line.text("where", filter),
            Some(RecordView::Messages { published, unroutable }) => {
                line.number("published", published).number("unroutable", unroutable)
            }
            Some(RecordView::Rule(rule)) => line.json("fields", &rule_json(rule)),
            Some(RecordView::Queue { id, paused }) => line.text("queue_id", &id.to_string()).flag("paused", paused),
            Some(RecordView::Item { stored, priority, pushed_ms }) => {
                let mut value = Vec::new();
                match document(stored) {
                    Some(stored) => stored.write_json(&mut value),
                    None => value = bytes_json(stored),
                }
                line.json("value", &value).text("priority", &priority.to_string()).number("pushed_ms", pushed_ms)
            }
            Some(RecordView::ItemState { stage, deliveries, token }) => {
                line.text("stage", stage).number("deliveries", u64::from(deliveries)).optional_number("token", token)
            }
            Some(RecordView::Floor(born_ms)) => line.number("born_ms", born_ms),
        };
        (line, None)
    }
}

fn table(record: &TableRecord<'_>, is_whole: bool) -> String {
    let value = match document(record.stored) {
        Some(stored) => {
            let mut json = Vec::new();
            stored.write_json(&mut json);
            String::from_utf8_lossy(&json).into_owned()
        }
        None => format!("{} (no document)", raw(record.stored)),
    };
    let mut text = format!(" = {}", shortened(value, is_whole));
    let created = record.created.map(|created| format!("created {created}"));
    let expires = record.expires_ms.map(|expires| format!("expires {}", rfc3339(expires)));
    let notes: Vec<String> = created.into_iter().chain(expires).collect();
    if !notes.is_empty() {
        text.push_str(&format!(" ({})", notes.join(", ")));
    }
    text
}

/// A session as groups name it, with the number of the mutation.
pub(crate) fn request(session: [u8; 16], number: u64) -> String {
    format!("{}:{number}", SessionId(session))
}

fn line_key(key: &[u8]) -> String {
    let mut text = Vec::new();
    key_to_line_text(&mut text, key);
    one_line(&String::from_utf8_lossy(&text))
}

fn outcome_json(outcome: &Outcome) -> Vec<u8> {
    let mut json = Vec::new();
    encode_reply(&Reply { id: None, form: Form::Json, retry_safe: None, outcomes: Outcomes::One(outcome.clone()) }, &mut json);
    json
}

/// A rule's fields, which its record has as MessagePack.
fn rule_json(rule: &[u8]) -> Vec<u8> {
    msgpack_to_json(rule).unwrap_or_else(|_| bytes_json(rule))
}

/// Bytes as the protocol has them in JSON: text where they are UTF-8.
fn bytes_json(bytes: &[u8]) -> Vec<u8> {
    let mut json = Vec::new();
    key_to_json_text(&mut json, bytes);
    json
}

fn raw(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes_json(bytes)).into_owned()
}

/// The beginning of a text, on one line, and how long it is where that is not all.
fn shortened(text: String, is_whole: bool) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) if !is_whole => format!("{}… ({} bytes)", one_line(&text[..end]), text.len()),
        _ => one_line(&text),
    }
}

/// White space of a document as spaces, other control characters escaped as JSON does it: nothing moves the cursor.
fn one_line(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' | '\t' => line.push(' '),
            letter if letter.is_control() => line.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => line.push(letter),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: &[u8], value: Option<&[u8]>) -> String {
        Record { key, value, revision: 3 }.text(false).0
    }

    #[test]
    fn a_record_is_a_line_whatever_it_contains() {
        assert_eq!(text(b"tk", Some(b"\x027\0")), "key k = 7");
        assert_eq!(text(b"tk", None), "key k");
        assert_eq!(text(b"ta\nb", Some(b"\x02[1,\n 2]\x05\0\0\0\0\0\0\0\x01")), "key \"a\\nb\" = [1,  2] (created 5)");
        assert_eq!(text(b"t\xff", Some(b"\x02\"\xc2\x9b31m\"\0")), "key {\"$bytes\":\"/w==\"} = \"\\u009b31m\"");
        let due = [&b"\x02null"[..], &1_800_000_000_123u64.to_le_bytes(), &[2]].concat();
        assert_eq!(text(b"tk", Some(&due)), "key k = null (expires 2027-01-15T08:00:00.123Z)");
        let long = format!("\x02\"{}\"\0", "ä".repeat(200));
        assert_eq!(text(b"tk", Some(long.as_bytes())), format!("key k = \"{}… (402 bytes)", "ä".repeat(99)));
        assert!(Record { key: b"tk", value: Some(long.as_bytes()), revision: 3 }.text(true).0.ends_with("ä\""));
    }

    #[test]
    fn what_is_not_understood_is_shown_and_told() {
        let record = Record { key: b"zk", value: Some(b"v"), revision: 3 };
        assert!(record.text(false).0.starts_with("record \"zk\" = \"v\" (") && record.text(false).1.is_some());
        let (line, error) = record.json(JsonLine::new("record"));
        let line = String::from_utf8_lossy(&line.finish()).into_owned();
        assert!(line.contains(r#""record_key":"zk","record_value":"v","why":"#) && error.is_some(), "{line}");
        // A document that is none under a type byte that is right.
        assert_eq!(text(b"tk", Some(b"\x02{\0")), "key k = \"\\u0002{\" (no document)");
    }

    #[test]
    fn json_has_the_names_of_the_manual() {
        let (line, _) =
            Record { key: b"tk", value: Some(b"\x027\x05\0\0\0\0\0\0\0\x01"), revision: 9 }.json(JsonLine::new("record"));
        let expected = r#"{"type":"record","revision":9,"op":"put","space":"table","key":"k","value":7,"created":5}"#;
        assert_eq!(String::from_utf8_lossy(&line.finish()), expected);
    }
}
