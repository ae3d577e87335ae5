//! etcd's Put and Range over gRPC: as much of HTTP/2 (RFC 9113) as calls with one small message each way need, on a blocking stream.
//!
//! - A call is a stream of its own; answers may come in any order. Range is etcd's linearizable read, its default.
//! - What the server says in headers is not decoded (we tell it to use no table, so nothing depends on it): a call that fails ends without a
//!   message, and that is how it is told.
//!
//! Why by hand: the crates for it bring an asynchronous runtime, and then the generator would be of another shape than the others.

use std::collections::HashMap;
use std::io::{Read, Write};

use super::input::Input;
use super::{Ask, Kind, Lane};
use crate::Failed;
use crate::payload::{self, KEY_BYTES, VALUE_BYTES};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// HEADER_TABLE_SIZE 0, ENABLE_PUSH 0.
const OUR_SETTINGS: &[u8] = &[0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
const FRAME_HEAD_BYTES: usize = 9;
/// The largest frame a peer may send, as long as nobody has asked for more.
const FRAME_BYTES_MAX: usize = 16 << 10;
/// What may be sent, or received, on a connection before the other side gives leave for more.
const WINDOW_BYTES: usize = 65_535;
/// Leave is given again after so much.
const GIVE_BYTES: usize = WINDOW_BYTES / 4;
const MESSAGE_HEAD_BYTES: usize = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Of settings and pings; the same bit ends a stream in DATA and HEADERS.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const PUT_PATH: &str = "/etcdserverpb.KV/Put";
const RANGE_PATH: &str = "/etcdserverpb.KV/Range";

/// One connection.
pub struct Grpc<S> {
    stream: S,
    input: Input,
    out: Vec<u8>,
    put_headers: Vec<u8>,
    range_headers: Vec<u8>,
    next_stream: u32,
    calls: HashMap<u32, Call>,
    /// Bytes of messages that may be sent, and those that were received and not given leave for again.
    may_send: usize,
    received: usize,
}

struct Call {
    kind: Kind,
    key: u32,
    message: Vec<u8>,
}

impl<S: Read + Write + Send> Grpc<S> {
    /// With a stream that is connected (and encrypted, if it is to be).
    pub fn new(stream: S, authority: &str, scheme: Scheme) -> Result<Grpc<S>, Failed> {
        let [put_headers, range_headers] = [PUT_PATH, RANGE_PATH].map(|path| headers(path, authority, scheme));
        let mut grpc = Grpc {
            stream,
            input: Input::new(),
            out: PREFACE.to_vec(),
            put_headers,
            range_headers,
            next_stream: 1,
            calls: HashMap::new(),
            may_send: WINDOW_BYTES,
            received: 0,
        };
        push_frame(&mut grpc.out, SETTINGS, 0, 0, OUR_SETTINGS);
        grpc.flush()?;
        Ok(grpc)
    }

    /// True if the next frame is here as a whole.
    fn has_frame(&self) -> bool {
        let here = self.input.here();
        here.len() >= FRAME_HEAD_BYTES
            && here.len() - FRAME_HEAD_BYTES >= u32::from_be_bytes([0, here[0], here[1], here[2]]) as usize
    }

    /// Takes the next frame, waits for it if it must; true if a call has ended well.
    fn frame(&mut self) -> Result<bool, Failed> {
        let head = self.input.at_least(&mut self.stream, FRAME_HEAD_BYTES)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} bytes").into());
        }
        let whole = FRAME_HEAD_BYTES + length;
        let body = &self.input.at_least(&mut self.stream, whole)?[FRAME_HEAD_BYTES..whole];
        let mut has_ended = false;
        match kind {
            DATA if flags & PADDED == 0 => {
                let call = self.calls.get_mut(&number).ok_or("an answer to a call that was not made")?;
                call.message.extend(body);
                self.received += length;
                has_ended = flags & END_STREAM != 0;
            }
            HEADERS => has_ended = flags & END_STREAM != 0,
            SETTINGS if flags & ACK == 0 => push_frame(&mut self.out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => push_frame(&mut self.out, PING, ACK, 0, body),
            WINDOW_UPDATE if number == 0 => {
                let more = body.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
                self.may_send = self.may_send.saturating_add(more);
            }
            RST_STREAM | GOAWAY => return Err(format!("etcd has ended a call: {:?}", String::from_utf8_lossy(body)).into()),
            SETTINGS | PING | WINDOW_UPDATE | CONTINUATION => {}
            _ => return Err(format!("a frame of the kind {kind}, flags {flags}").into()),
        }
        self.input.skip(whole);
        if self.received >= GIVE_BYTES {
            push_frame(&mut self.out, WINDOW_UPDATE, 0, 0, &(self.received as u32).to_be_bytes());
            self.received = 0;
        }
        if has_ended {
            let call = self.calls.remove(&number).ok_or("the end of a call that was not made")?;
            if !call.is_good() {
                return Err(format!("a {:?} is answered {:02x?}", call.kind, call.message).into());
            }
        }
        Ok(has_ended)
    }
}

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// It is not.
    Http,
    /// It is.
    Https,
}

/// The header block of a call, every field without compression (RFC 7541).
fn headers(path: &str, authority: &str, scheme: Scheme) -> Vec<u8> {
    // Fields of the static table: POST is 3, http 6, https 7; names: path 4, authority 1, content-type 31.
    let mut block = vec![0x80 | 3, 0x80 | if scheme == Scheme::Http { 6 } else { 7 }];
    let mut field = |name: &[u8], value: &str| {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    };
    field(&[4], path);
    field(&[1], authority);
    // An index above 14 takes two bytes.
    field(&[0x0f, 31 - 15], "application/grpc");
    field(b"\0\x02te", "trailers");
    block
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    out.extend(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(body);
}

/// A field of protobuf that has a length of one byte.
fn push_field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.extend([number << 3 | 2, bytes.len() as u8]);
    message.extend(bytes);
}

/// The fields of a protobuf message that have a length.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
    std::iter::from_fn(move || {
        loop {
            let tag = varint(&mut message)?;
            match tag & 7 {
                0 => drop(varint(&mut message)?),
                2 => {
                    let length = usize::try_from(varint(&mut message)?).ok()?;
                    let (bytes, rest) = message.split_at_checked(length)?;
                    message = rest;
                    return Some((tag >> 3, bytes));
                }
                _ => return None,
            }
        }
    })
}

impl Call {
    fn is_good(&self) -> bool {
        const HEADER: u64 = 1;
        const PAIRS: u64 = 2;
        const KEY: u64 = 1;
        const VALUE: u64 = 5;
        // Not compressed, and so many bytes.
        let Some((head, message)) = self.message.split_at_checked(MESSAGE_HEAD_BYTES) else { return false };
        if head[0] != 0 || !head[1..].iter().eq((message.len() as u32).to_be_bytes().iter()) {
            return false;
        }
        let find = |message, number| fields(message).find(|(field, _)| *field == number).map(|(_, bytes)| bytes);
        match self.kind {
            Kind::Put => find(message, HEADER).is_some(),
            Kind::Get => find(message, PAIRS).is_some_and(|pair| {
                find(pair, KEY) == Some(&payload::key(self.key))
                    && find(pair, VALUE).is_some_and(|value| payload::is_value_of(self.key, value))
            }),
        }
    }
}

impl<S: Read + Write + Send> Lane for Grpc<S> {
    fn ask(&mut self, ask: Ask) -> Result<(), Failed> {
        const _: () = assert!(KEY_BYTES < 128 && VALUE_BYTES < 128);
        let mut message = vec![0; MESSAGE_HEAD_BYTES];
        push_field(&mut message, 1, &payload::key(ask.key));
        if ask.kind == Kind::Put {
            push_field(&mut message, 2, &payload::value(ask.key, ask.stamp));
        }
        let length = (message.len() - MESSAGE_HEAD_BYTES) as u32;
        message[1..MESSAGE_HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        while self.may_send < message.len() {
            self.flush()?;
            // An answer that ends here would not be counted: the window is far larger than what is ever outstanding.
            if self.frame()? {
                return Err("etcd gives no leave to send".into());
            }
        }
        self.may_send -= message.len();
        let headers = if ask.kind == Kind::Put { &self.put_headers } else { &self.range_headers };
        push_frame(&mut self.out, HEADERS, END_HEADERS, self.next_stream, headers);
        push_frame(&mut self.out, DATA, END_STREAM, self.next_stream, &message);
        self.calls.insert(self.next_stream, Call { kind: ask.kind, key: ask.key, message: Vec::new() });
        self.next_stream += 2;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failed> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out)?;
            self.stream.flush()?;
            self.out.clear();
        }
        Ok(())
    }

    fn take(&mut self) -> Result<usize, Failed> {
        let mut taken = 0;
        while taken == 0 || self.has_frame() {
            taken += usize::from(self.frame()?);
            if taken == 0 {
                self.flush()?;
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn call(kind: Kind, message: &[u8]) -> Call {
        let length = (message.len() as u32).to_be_bytes();
        Call { kind, key: 7, message: [&[0][..], &length, message].concat() }
    }

    /// The answer to a range: a header with a revision, and a pair.
    fn range(key: u32, value: &[u8]) -> Vec<u8> {
        let mut pair = Vec::new();
        push_field(&mut pair, 1, &payload::key(key));
        pair.extend([2 << 3, 0x80, 1, 3 << 3, 5]);
        push_field(&mut pair, 5, value);
        let mut message = vec![1 << 3 | 2, 2, 3 << 3, 9];
        push_field(&mut message, 2, &pair);
        message
    }

    #[test]
    fn only_good_answers_are_taken() {
        assert!(call(Kind::Put, &[1 << 3 | 2, 2, 3 << 3, 9]).is_good());
        assert!(!call(Kind::Put, &[]).is_good(), "nothing in it");
        assert!(!Call { kind: Kind::Put, key: 7, message: Vec::new() }.is_good(), "a call that ended without a message");
        assert!(call(Kind::Get, &range(7, &payload::value(7, 3))).is_good());
        assert!(!call(Kind::Get, &range(8, &payload::value(8, 3))).is_good(), "another key");
        assert!(!call(Kind::Get, &[1 << 3 | 2, 2, 3 << 3, 9]).is_good(), "no such key");
        let mut cut = call(Kind::Get, &range(7, &payload::value(7, 3)));
        cut.message.pop();
        assert!(!cut.is_good(), "cut off");
    }

    /// A server that answers two calls in another order, with a ping in between.
    #[test]
    fn answers_come_in_any_order_and_pings_are_answered() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut grpc = Grpc::new(ours, "localhost", Scheme::Http).unwrap();
        for key in [7, 8] {
            grpc.ask(Ask { kind: Kind::Get, key, stamp: 0 }).unwrap();
        }
        grpc.flush().unwrap();
        let mut said = Vec::new();
        push_frame(&mut said, SETTINGS, 0, 0, &[]);
        push_frame(&mut said, PING, 0, 0, b"12345678");
        for (stream, key) in [(3, 8), (1, 7)] {
            push_frame(&mut said, HEADERS, END_HEADERS, stream, &[0x88]);
            push_frame(&mut said, DATA, 0, stream, &call(Kind::Get, &range(key, &payload::value(key, 0))).message);
            push_frame(&mut said, HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]);
        }
        theirs.write_all(&said).unwrap();
        let mut taken = 0;
        while taken < 2 {
            taken += grpc.take().unwrap();
        }
        grpc.flush().unwrap();
        drop(grpc);
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).unwrap();
        assert!(heard.starts_with(PREFACE));
        let mut pong = Vec::new();
        push_frame(&mut pong, PING, ACK, 0, b"12345678");
        assert!(heard.windows(pong.len()).any(|window| window == pong));
    }
}
