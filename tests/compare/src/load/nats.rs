//! JetStream's key-value bucket in NATS' text protocol (docs.nats.io, "Client Protocol"): a put is a message that the stream acknowledges, a get
//! reads the last message of a subject from the stream.
//!
//! - Every request has an inbox of its own, whose last parts are the numbers of its connection and of itself: answers may come in any order.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::input::Input;
use super::{Ask, Kind, Lane};
use crate::Failed;
use crate::payload::{self, VALUE_BYTES};

/// Connections of this program so far.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

const BUCKET: &str = "load";
const STREAM: &str = "KV_load";

/// One connection.
pub struct Nats<S> {
    wire: Wire<S>,
    out: Vec<u8>,
    /// What all inboxes of this connection begin with; no other connection's do.
    inbox: String,
    number: u64,
    waiting: HashMap<u64, (Kind, u32)>,
}

/// What has come on a connection, message by message.
pub(super) struct Wire<S> {
    pub(super) stream: S,
    input: Input,
}

/// Where the parts of a message are that has come whole; [`Wire::here`] has its bytes.
pub(super) struct Said {
    pub(super) subject: Range<usize>,
    /// Where an answer is to go, if there is to be one.
    pub(super) reply: Range<usize>,
    pub(super) headers: Range<usize>,
    pub(super) payload: Range<usize>,
    /// Bytes to skip for it.
    whole: usize,
}

impl<S: Read + Write + Send> Nats<S> {
    /// With a stream that is connected and has said its `INFO` (and is encrypted, if it is to be).
    pub fn new(stream: S) -> Result<Nats<S>, Failed> {
        let inbox = inbox();
        let wire = Wire::connect(stream, &format!("{inbox}*"))?;
        Ok(Nats { wire, out: Vec::new(), inbox, number: 0, waiting: HashMap::new() })
    }

    /// Makes the bucket: a stream in files that keeps the last message of each subject.
    pub fn make_bucket(&mut self) -> Result<(), Failed> {
        let stream = json!({
            "name": STREAM, "subjects": [format!("$KV.{BUCKET}.>")], "storage": "file", "num_replicas": 1, "retention": "limits", "discard": "new",
            "max_msgs_per_subject": 1, "allow_direct": true, "allow_rollup_hdrs": true, "deny_delete": true,
        });
        self.wire.ask(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &format!("{}0", self.inbox), &stream)
    }
}

/// What all inboxes of a new connection begin with; no other connection's do.
pub(super) fn inbox() -> String {
    format!("I.{}.", CONNECTIONS.fetch_add(1, Ordering::Relaxed))
}

/// The number behind an inbox's beginning.
pub(super) fn number_of(subject: &[u8], inbox: &str) -> Option<u64> {
    std::str::from_utf8(subject.strip_prefix(inbox.as_bytes())?).ok()?.parse().ok()
}

impl<S: Read + Write> Wire<S> {
    /// With a stream that is connected and has said its `INFO`: says who connects and what it subscribes to, and waits until that is
    /// understood.
    pub(super) fn connect(mut stream: S, subject: &str) -> Result<Wire<S>, Failed> {
        let options =
            json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true, "lang": "rust", "version": "0"});
        stream.write_all(format!("CONNECT {options}\r\nSUB {subject} 1\r\nPING\r\n").as_bytes())?;
        stream.flush()?;
        let mut wire = Wire { stream, input: Input::new() };
        let (line, whole) = wire.input.line(&mut wire.stream)?;
        if line != b"PONG" {
            return Err(format!("NATS greets with {:?}", String::from_utf8_lossy(line)).into());
        }
        wire.input.skip(whole);
        Ok(wire)
    }

    /// Asks the server's API for something and waits for its answer; nothing else may be on its way.
    pub(super) fn ask(&mut self, subject: &str, inbox: &str, what: &Value) -> Result<(), Failed> {
        let what = what.to_string();
        write!(self.stream, "PUB {subject} {inbox} {}\r\n{what}\r\n", what.len())?;
        self.stream.flush()?;
        let said = self.said()?;
        let answer: Value = serde_json::from_slice(&self.here()[said.payload.clone()])?;
        self.skip(&said);
        if answer["error"].is_null() { Ok(()) } else { Err(format!("NATS answers {subject} with {answer}").into()) }
    }

    /// The bytes that messages are found in.
    pub(super) fn here(&self) -> &[u8] {
        self.input.here()
    }

    /// A message was taken.
    pub(super) fn skip(&mut self, said: &Said) {
        self.input.skip(said.whole);
    }

    /// Waits until more has come, as long as the stream's timeout lets it; false: nothing came.
    pub(super) fn read_within(&mut self) -> Result<bool, Failed> {
        self.input.read_within(&mut self.stream)
    }

    /// Waits for the next message.
    pub(super) fn said(&mut self) -> Result<Said, Failed> {
        loop {
            if let Some(said) = self.said_already()? {
                return Ok(said);
            }
            self.input.read(&mut self.stream)?;
        }
    }

    /// The next message, if it is here whole; pings before it are answered.
    pub(super) fn said_already(&mut self) -> Result<Option<Said>, Failed> {
        while let Some((line, head)) = self.input.line_here() {
            if line == b"PING" {
                self.input.skip(head);
                self.stream.write_all(b"PONG\r\n")?;
                continue;
            }
            let said = parse(line).ok_or_else(|| format!("NATS says {:?}", String::from_utf8_lossy(line)))?;
            return Ok(Some(said).filter(|said| self.input.here().len() >= said.whole));
        }
        Ok(None)
    }
}

/// Reads the first line of a message: `MSG subject sid [reply] bytes`, or `HMSG subject sid [reply] header-bytes bytes`.
fn parse(line: &[u8]) -> Option<Said> {
    let mut words = [const { 0..0 }; 6];
    let mut count = 0;
    let mut from = 0;
    for word in line.split(|byte| *byte == b' ') {
        *words.get_mut(count)? = from..from + word.len();
        (count, from) = (count + 1, from + word.len() + 1);
    }
    let number = |word: &Range<usize>| std::str::from_utf8(&line[word.clone()]).ok()?.parse::<usize>().ok();
    let (subject, reply, headers, total) = match (&line[words[0].clone()], count) {
        (b"MSG", 4) => (words[1].clone(), 0..0, 0, number(&words[3])?),
        (b"MSG", 5) => (words[1].clone(), words[3].clone(), 0, number(&words[4])?),
        (b"HMSG", 5) => (words[1].clone(), 0..0, number(&words[3])?, number(&words[4])?),
        (b"HMSG", 6) => (words[1].clone(), words[3].clone(), number(&words[4])?, number(&words[5])?),
        _ => return None,
    };
    let head = line.len() + 2;
    let (between, end) = (head.checked_add(headers)?, head.checked_add(total)?);
    (headers <= total).then(|| Said { subject, reply, headers: head..between, payload: between..end, whole: end + 2 })
}

fn is_good(headers: &[u8], payload: &[u8], kind: Kind, key: u32) -> bool {
    match kind {
        // {"stream":"KV_load","seq":42}
        Kind::Put => headers.is_empty() && payload.starts_with(b"{\"stream\":\"KV_load\","),
        // A status in the first line of headers is a failure.
        Kind::Get => headers.starts_with(b"NATS/1.0\r\n") && payload::is_value_of(key, payload),
    }
}

impl<S: Read + Write + Send> Lane for Nats<S> {
    fn ask(&mut self, ask: Ask) -> Result<(), Failed> {
        self.number += 1;
        let (number, key) = (self.number, payload::key(ask.key));
        match ask.kind {
            Kind::Put => {
                self.out.extend(b"PUB $KV.load.");
                self.out.extend(key);
                write!(self.out, " {}{number} {VALUE_BYTES}\r\n", self.inbox)?;
                self.out.extend(payload::value(ask.key, ask.stamp));
            }
            Kind::Get => {
                self.out.extend(b"PUB $JS.API.DIRECT.GET.KV_load.$KV.load.");
                self.out.extend(key);
                write!(self.out, " {}{number} 0\r\n", self.inbox)?;
            }
        }
        self.out.extend(b"\r\n");
        self.waiting.insert(number, (ask.kind, ask.key));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failed> {
        if !self.out.is_empty() {
            self.wire.stream.write_all(&self.out)?;
            self.wire.stream.flush()?;
            self.out.clear();
        }
        Ok(())
    }

    fn take(&mut self) -> Result<usize, Failed> {
        let mut taken = 0;
        while taken == 0 || !self.wire.here().is_empty() {
            let said = self.wire.said()?;
            let here = self.wire.here();
            let [subject, headers, payload] = [&said.subject, &said.headers, &said.payload].map(|part| &here[part.clone()]);
            let number = number_of(subject, &self.inbox);
            let told = || format!("{} {:?}", String::from_utf8_lossy(headers), String::from_utf8_lossy(payload));
            let verdict = number.and_then(|number| Some((number, *self.waiting.get(&number)?)));
            let (number, (kind, key)) = verdict.ok_or_else(|| format!("NATS answers what nobody asked: {}", told()))?;
            if !is_good(headers, payload, kind, key) {
                return Err(format!("a {kind:?} is answered {}", told()).into());
            }
            self.waiting.remove(&number);
            self.wire.skip(&said);
            taken += 1;
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::net::UnixStream;

    use super::*;

    fn connected() -> (Nats<UnixStream>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"PONG\r\n").unwrap();
        (Nats::new(ours).unwrap(), theirs)
    }

    #[test]
    fn answers_come_in_any_order() {
        let (mut nats, mut theirs) = connected();
        nats.ask(Ask { kind: Kind::Put, key: 7, stamp: 0 }).unwrap();
        nats.ask(Ask { kind: Kind::Get, key: 8, stamp: 0 }).unwrap();
        nats.flush().unwrap();
        let value = payload::value(8, 1);
        write!(theirs, "PING\r\nHMSG {}2 1 12 76\r\nNATS/1.0\r\n\r\n", nats.inbox).unwrap();
        theirs.write_all(&value).unwrap();
        write!(theirs, "\r\nMSG {}1 1 28\r\n{{\"stream\":\"KV_load\",\"seq\":9}}\r\n", nats.inbox).unwrap();
        let mut taken = 0;
        while taken < 2 {
            taken += nats.take().unwrap();
        }
    }

    #[test]
    fn failures_are_told() {
        let (mut nats, mut theirs) = connected();
        nats.ask(Ask { kind: Kind::Get, key: 8, stamp: 0 }).unwrap();
        write!(theirs, "HMSG {}1 1 32 32\r\nNATS/1.0 404 Message Not ...\r\n\r\n\r\n", nats.inbox).unwrap();
        let told = nats.take().unwrap_err().to_string();
        assert!(told.starts_with("a Get is answered") && told.contains("404"), "{told}");
        let (mut nats, mut theirs) = connected();
        nats.ask(Ask { kind: Kind::Put, key: 8, stamp: 0 }).unwrap();
        write!(theirs, "MSG {}1 1 25\r\n{{\"error\":{{\"code\":503}}   }}\r\n", nats.inbox).unwrap();
        let told = nats.take().unwrap_err().to_string();
        assert!(told.starts_with("a Put is answered") && told.contains("503"), "{told}");
    }
}
