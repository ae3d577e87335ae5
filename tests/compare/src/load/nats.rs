//! JetStream's key-value bucket in NATS' text protocol (docs.nats.io, "Client Protocol"): a put is a message that the stream acknowledges, a get
//! reads the last message of a subject from the stream.
//!
//! - Every request has an inbox of its own, whose last parts are the numbers of its connection and of itself: answers may come in any order.

use std::collections::HashMap;
use std::io::{Read, Write};
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

struct Wire<S> {
    stream: S,
    input: Input,
}

/// A message that has come.
struct Said<'a> {
    subject: &'a [u8],
    headers: &'a [u8],
    payload: &'a [u8],
    /// Bytes to skip for it.
    whole: usize,
}

impl<S: Read + Write + Send> Nats<S> {
    /// With a stream that is connected and has said its `INFO` (and is encrypted, if it is to be).
    pub fn new(stream: S) -> Result<Nats<S>, Failed> {
        let wire = Wire { stream, input: Input::new() };
        let inbox = format!("I.{}.", CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        let mut nats = Nats { wire, out: Vec::new(), inbox, number: 0, waiting: HashMap::new() };
        let options =
            json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true, "lang": "rust", "version": "0"});
        write!(nats.out, "CONNECT {options}\r\nSUB {}* 1\r\nPING\r\n", nats.inbox)?;
        nats.flush()?;
        let (line, whole) = nats.wire.input.line(&mut nats.wire.stream)?;
        if line != b"PONG" {
            return Err(format!("NATS greets with {:?}", String::from_utf8_lossy(line)).into());
        }
        nats.wire.input.skip(whole);
        Ok(nats)
    }

    /// Makes the bucket: a stream in files that keeps the last message of each subject.
    pub fn make_bucket(&mut self) -> Result<(), Failed> {
        let stream = json!({
            "name": STREAM, "subjects": [format!("$KV.{BUCKET}.>")], "storage": "file", "num_replicas": 1, "retention": "limits", "discard": "new",
            "max_msgs_per_subject": 1, "allow_direct": true, "allow_rollup_hdrs": true, "deny_delete": true,
        });
        let stream = stream.to_string();
        write!(self.out, "PUB $JS.API.STREAM.CREATE.{STREAM} {}0 {}\r\n{stream}\r\n", self.inbox, stream.len())?;
        self.flush()?;
        let said = self.wire.said()?;
        let answer: Value = serde_json::from_slice(said.payload)?;
        let whole = said.whole;
        self.wire.input.skip(whole);
        if answer["error"].is_null() { Ok(()) } else { Err(format!("NATS makes no bucket: {answer}").into()) }
    }
}

impl<S: Read + Write> Wire<S> {
    /// Waits for the next message, and answers pings before it.
    fn said(&mut self) -> Result<Said<'_>, Failed> {
        loop {
            let (line, head) = self.input.line(&mut self.stream)?;
            if line == b"PING" {
                self.input.skip(head);
                self.stream.write_all(b"PONG\r\n")?;
                continue;
            }
            let text = String::from_utf8_lossy(line).into_owned();
            // MSG subject sid [reply] bytes; HMSG subject sid [reply] header-bytes bytes
            let mut words = text.split_ascii_whitespace().rev();
            let total: Option<usize> = words.next().and_then(|word| word.parse().ok());
            let headers: Option<usize> = match text.split_ascii_whitespace().next() {
                Some("MSG") => Some(0),
                Some("HMSG") => words.next().and_then(|word| word.parse().ok()),
                _ => None,
            };
            let (Some(total), Some(headers)) = (total, headers) else { return Err(format!("NATS says {text:?}").into()) };
            let whole = head + total + 2;
            let all = self.input.at_least(&mut self.stream, whole)?;
            let subject = all[..head].split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            let (headers, payload) =
                all[head..head + total].split_at_checked(headers).ok_or("a message with more headers than bytes")?;
            return Ok(Said { subject, headers, payload, whole });
        }
    }
}

impl Said<'_> {
    fn is_good(&self, kind: Kind, key: u32) -> bool {
        match kind {
            // {"stream":"KV_load","seq":42}
            Kind::Put => self.headers.is_empty() && self.payload.starts_with(b"{\"stream\":\"KV_load\","),
            // A status in the first line of headers is a failure.
            Kind::Get => self.headers.starts_with(b"NATS/1.0\r\n") && payload::is_value_of(key, self.payload),
        }
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
        while taken == 0 || !self.wire.input.here().is_empty() {
            let said = self.wire.said()?;
            let digits = said.subject.strip_prefix(self.inbox.as_bytes());
            let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
            let whole = said.whole;
            let told = || format!("{} {:?}", String::from_utf8_lossy(said.headers), String::from_utf8_lossy(said.payload));
            let verdict = number.and_then(|number| Some((number, *self.waiting.get(&number)?)));
            let (number, (kind, key)) = verdict.ok_or_else(|| format!("NATS answers what nobody asked: {}", told()))?;
            if !said.is_good(kind, key) {
                return Err(format!("a {kind:?} is answered {}", told()).into());
            }
            self.waiting.remove(&number);
            self.wire.input.skip(whole);
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
