//! What goes to stdout: results as people read them, or as JSON.
//!
//! - Everything goes through one buffer and is flushed at the end, and wherever somebody may be
//!   waiting for a line.
//! - Text for people has one row a line whatever keys and values contain.
//! - JSON has the names of the wire protocol's JSON replies.

use std::io::{self, BufWriter, StdoutLock, Write};

use kvbroker::client::ClientError;
use kvbroker::lookup::LookupError;
use kvbroker_protocol::{
    Answer, Failure, Form, HelloAnswer, Key, Outcome, Outcomes, Reply, Role, Row, StatValue, Stored, encode_reply,
    key_to_json_text, key_to_line_text,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

/// True once whoever read stdout has gone: a pipe or socket without another end, a terminal that was hung up.
pub(crate) fn is_unread() -> bool {
    let stdout = io::stdout();
    // Nothing is asked for: what ends it is told in any case.
    let mut items = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut items, Some(&now)).is_ok() && items.iter().any(|item| item.revents().intersects(PollFlags::ERR | PollFlags::HUP))
}

/// Where results are written.
pub(crate) struct Output<W: Write = BufWriter<StdoutLock<'static>>> {
    out: W,
    json: bool,
}

impl Output {
    pub(crate) fn stdout(json: bool) -> Self {
        Output { out: BufWriter::with_capacity(64 << 10, io::stdout().lock()), json }
    }
}

impl<W: Write> Output<W> {
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// One outcome as a line of JSON.
    pub(crate) fn outcome_json(&mut self, outcome: &Outcome) -> io::Result<()> {
        let mut line = Vec::new();
        let reply = Reply { id: None, form: Form::Json, retry_safe: None, outcomes: Outcomes::One(outcome.clone()) };
        encode_reply(&reply, &mut line);
        line.push(b'\n');
        self.out.write_all(&line)
    }

    /// A value by itself; see [`value_as_printed`].
    pub(crate) fn value(&mut self, value: &Stored) -> io::Result<()> {
        let mut text = Vec::new();
        value_as_printed(value, &mut text);
        self.out.write_all(&text)
    }

    /// One row or key of a scan or query.
    pub(crate) fn item(&mut self, item: &impl Print) -> io::Result<()> {
        let mut line = Vec::new();
        item.print(self.json, &mut line);
        line.push(b'\n');
        self.out.write_all(&line)
    }

    pub(crate) fn hello(&mut self, hello: &HelloAnswer) -> io::Result<()> {
        if self.json {
            let answer = Answer::Hello(Box::new(hello.clone()));
            return self.outcome_json(&Outcome { revision: None, result: Ok(answer) });
        }
        let lines = [
            ("project", hello.project.clone()),
            ("owner", hello.owner.clone()),
            ("broker", hello.broker.to_string()),
            ("instance", hello.instance.to_string()),
            ("epoch", format!("{:016x}", hello.epoch)),
            ("version", hello.version.clone()),
            ("protocol", hello.protocol.to_string()),
            ("durability", hello.durability.clone()),
            ("user", hello.user.clone()),
            ("role", hello.role.map_or("not told", Role::name).to_owned()),
            ("may use", keys_of(&hello.prefixes)),
        ];
        for (name, value) in lines {
            self.line(&format!("{name:<12}{}", printable(&value)))?;
        }
        for (name, limit) in hello.limits.iter() {
            self.line(&format!("limit {:<22}{limit}", printable(name)))?;
        }
        Ok(())
    }

    pub(crate) fn stats(&mut self, stats: &[(String, StatValue)], outcome: &Outcome) -> io::Result<()> {
        if self.json {
            return self.outcome_json(outcome);
        }
        let width = stats.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 2;
        for (name, value) in stats {
            let value = match value {
                StatValue::Number(number) => number.to_string(),
                // Some are several lines, which stand below each other.
                StatValue::Text(text) => text.lines().map(printable).collect::<Vec<_>>().join(&format!("\n{:width$}", "")),
            };
            self.line(&format!("{:<width$}{value}", printable(name)))?;
        }
        Ok(())
    }
}

/// A value by itself: text with a line feed, bytes as they are, the rest as JSON with a line feed.
pub(crate) fn value_as_printed(value: &Stored, out: &mut Vec<u8>) {
    if let Some(text) = value.as_text() {
        out.extend_from_slice(text.as_bytes());
    } else if let Some(bytes) = value.as_byte_string() {
        out.extend_from_slice(&bytes);
        return;
    } else {
        value.write_json(out);
    }
    out.push(b'\n');
}

/// What has a line of its own in a list.
pub(crate) trait Print {
    /// Appends it without the line feed.
    fn print(&self, json: bool, line: &mut Vec<u8>);
}

impl Print for Row {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        if json {
            line.extend_from_slice(b"{\"key\":");
            key_to_json_text(line, &self.key);
            line.extend_from_slice(b",\"value\":");
            self.value.write_json(line);
            line.extend_from_slice(format!(",\"modified\":{}}}", self.modified).as_bytes());
        } else {
            key_to_line_text(line, &self.key);
            line.push(b'\t');
            self.value.write_json(line);
        }
    }
}

impl Print for Key {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        if json {
            line.extend_from_slice(b"{\"key\":");
            key_to_json_text(line, self);
            line.push(b'}');
        } else {
            key_to_line_text(line, self);
        }
    }
}

/// What `ls` lists: a key, or what all keys of a group begin with.
pub(crate) struct Name {
    pub(crate) name: Key,
    pub(crate) is_group: bool,
}

impl Print for Name {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        if json {
            line.extend_from_slice(b"{\"name\":");
            key_to_json_text(line, &self.name);
            line.extend_from_slice(format!(",\"group\":{}}}", self.is_group).as_bytes());
        } else {
            key_to_line_text(line, &self.name);
        }
    }
}

/// Lines of cells that stand below each other, with two blanks between and none behind.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Which keys a user has, for people.
pub(crate) fn keys_of(prefixes: &[Key]) -> String {
    if prefixes.is_empty() {
        return "every key".to_owned();
    }
    let mut text = Vec::new();
    for (at, prefix) in prefixes.iter().enumerate() {
        text.extend_from_slice(if at > 0 { b", " } else { b"" });
        key_to_line_text(&mut text, prefix);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// What a broker says, without control characters: it may be a stranger's.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// An error as the JSON that stands where a result would.
pub(crate) fn error_json(error: &ClientError) -> String {
    let (status, code) = match error {
        ClientError::Failed(failure) => return failed_json(failure),
        ClientError::Unknown { .. } => ("unknown", "unknown_outcome"),
        ClientError::TimedOut { .. } => ("failed", "timed_out"),
        ClientError::Lookup(error) => ("failed", lookup_code(error)),
        ClientError::Protocol(_) => ("failed", "bad_reply"),
        ClientError::Decode { .. } | ClientError::Encode(_) => ("invalid", "wrong_type"),
        ClientError::Broken(broken) => ("failed", broken.why().name()),
        _ => ("failed", "transport"),
    };
    let mut said = json!({"code": code, "message": error.to_string(), "definite": error.is_definite()});
    if let ClientError::Unknown { request, .. } = error {
        said["request"] = request.to_string().into();
    }
    json!({"status": status, "error": said}).to_string()
}

/// Input that can't be understood, as the JSON that stands where a result would.
pub(crate) fn invalid_json(sentence: &str) -> String {
    failed_json(&Failure::invalid(sentence))
}

fn failed_json(failure: &Failure) -> String {
    let mut line = Vec::new();
    let outcomes = Outcomes::One(Outcome { revision: None, result: Err(failure.clone()) });
    encode_reply(&Reply { id: None, form: Form::Json, retry_safe: None, outcomes }, &mut line);
    String::from_utf8_lossy(&line).into_owned()
}

fn lookup_code(error: &LookupError) -> &'static str {
    match error {
        LookupError::NotHere { .. } => "not_here",
        LookupError::NotListed { .. } => "not_listed",
        LookupError::CatalogsSilent { .. } => "catalogs_silent",
        LookupError::NotWanted { .. } => "not_wanted",
        LookupError::Unreachable { .. } | LookupError::NoSuchHost { .. } => "unreachable",
        LookupError::Unreadable { .. } => "unreadable",
        LookupError::Refused { .. } | LookupError::NoOwnKey { .. } | LookupError::AddressWithoutKey { .. } => "refused",
        LookupError::Unproven { .. } => "unproven",
        LookupError::NewKey { .. } => "new_key",
        LookupError::KeyChanged(_) => "key_changed",
        LookupError::NoKey { .. } => "no_key",
        LookupError::OtherKey { .. } => "other_key",
        LookupError::Ambiguous { .. } => "ambiguous",
        _ => "setup",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::ErrorCode;

    use super::*;

    fn written(json: bool, write: impl FnOnce(&mut Output<Vec<u8>>) -> io::Result<()>) -> String {
        let mut output = Output { out: Vec::new(), json };
        write(&mut output).unwrap();
        String::from_utf8(output.out).unwrap()
    }

    #[test]
    fn values_are_printed_as_what_they_are() {
        let shown = |value: &Stored| written(false, |out| out.value(value));
        assert_eq!(shown(&Stored::text("a\nb").unwrap()), "a\nb\n");
        assert_eq!(shown(&Stored::from_json(br#""a\u00e9""#).unwrap()), "aé\n");
        assert_eq!(shown(&Stored::bytes(b"raw").unwrap()), "raw");
        assert_eq!(shown(&Stored::from_json(br#"{"a":[1,2.5]}"#).unwrap()), "{\"a\":[1,2.5]}\n");
        assert_eq!(shown(&Stored::from_msgpack(&[0x2a]).unwrap()), "42\n");
    }

    #[test]
    fn a_row_is_a_line_whatever_it_contains() {
        let row = |key: &[u8], value: &str| Row { key: key.to_vec(), value: Stored::text(value).unwrap(), modified: 3 };
        let shown = |row: &Row| written(false, |out| out.item(row));
        assert_eq!(shown(&row(b"plain", "v")), "plain\t\"v\"\n");
        assert_eq!(shown(&row(b"a\tb\n", "x\ny")), "\"a\\tb\\n\"\t\"x\\ny\"\n");
        assert_eq!(shown(&row(b"\"quoted", "v")), "\"\\\"quoted\"\t\"v\"\n");
        assert_eq!(shown(&row(&[0xff], "v")), "{\"$bytes\":\"/w==\"}\t\"v\"\n");
        assert_eq!(written(true, |out| out.item(&row(b"k", "v"))), "{\"key\":\"k\",\"value\":\"v\",\"modified\":3}\n");
    }

    #[test]
    fn a_key_is_a_line_whatever_it_contains() {
        let shown = |json, key: &[u8]| written(json, |out| out.item(&key.to_vec()));
        assert_eq!((shown(false, b"plain"), shown(false, b"a\n")), ("plain\n".into(), "\"a\\n\"\n".into()));
        assert_eq!(
            (shown(true, b"plain"), shown(true, &[0xff])),
            ("{\"key\":\"plain\"}\n".into(), "{\"key\":{\"$bytes\":\"/w==\"}}\n".into())
        );
    }

    #[test]
    fn errors_have_the_shape_of_failed_results() {
        let failed = error_json(&ClientError::Failed(Failure::new(ErrorCode::Refused, "no")));
        let late = error_json(&ClientError::TimedOut { project: "p".into(), waited: "1 s".into(), trouble: None });
        for (text, code) in [(failed, "refused"), (late, "timed_out")] {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&value["status"], &value["error"]["code"]), (&json!("failed"), &json!(code)));
            assert_eq!(value["error"]["definite"], json!(true));
        }
    }

    #[test]
    fn strangers_texts_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }
}
