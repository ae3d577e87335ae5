//! A bare DEALER in the compact shape of docs/protocol.md, one operation per message; for the broker and for the echo.
//!
//! - All that counts in front of a frame's key has a fixed width, so the echo gets the same bytes as the broker and answers with as many.
//! - Numbered mutations belong to a session and acknowledge what was read, as those of the client library do.

use std::collections::VecDeque;

use serde_json::Value;
use zmq::{DONTWAIT, Message, Socket};

use super::{Ask, Kind, Lane};
use crate::Failed;
use crate::payload::{self, KEY_BYTES, VALUE_BYTES};
use kvbroker_tests::PATIENCE;

/// What is in front of the operation in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Mutations have a number in a session.
    Numbered,
    /// They have none.
    Plain,
}

/// How requests look and answers are checked.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    frames: Frames,
    session: [u8; SESSION_BYTES],
    is_echo: bool,
}

const SESSION_BYTES: usize = 16;
const UINT_BYTES: usize = 5;
const NIL: u8 = 0xc0;
const UINT32: u8 = 0xce;
const BIN8: u8 = 0xc4;
/// A text of 15 bytes.
const KEY_HEAD: u8 = 0xa0 | KEY_BYTES as u8;
/// The first request's id; all have the same width.
const FIRST_ID: u32 = 1 << 16;

impl Frames {
    /// Bytes of a put.
    pub fn put_bytes(self) -> usize {
        let dialect = Dialect { frames: self, session: [0; SESSION_BYTES], is_echo: true };
        let mut frame = Vec::new();
        dialect.write(&mut frame, FIRST_ID, 1, 0, Ask { kind: Kind::Put, key: 0, stamp: 0 });
        frame.len()
    }
}

impl Dialect {
    /// Both requests and answers begin with version and id, in so many bytes.
    pub const HEAD_BYTES: usize = 2 + UINT_BYTES;

    /// For the echo.
    pub fn echo(frames: Frames) -> Dialect {
        Dialect { frames, session: [7; SESSION_BYTES], is_echo: true }
    }

    /// For what answers puts as the broker does, and nothing else.
    pub fn floor(frames: Frames) -> Dialect {
        Dialect { frames, session: [7; SESSION_BYTES], is_echo: false }
    }

    /// Bytes of the broker's answer to a put: head, retry_safe, the result's array, status, a revision above 65,535.
    pub fn put_reply_bytes() -> usize {
        Self::HEAD_BYTES + 3 + UINT_BYTES
    }

    /// Of the one to a get: the same, with a value and two more revisions.
    pub fn get_reply_bytes() -> usize {
        Self::put_reply_bytes() + 2 + VALUE_BYTES + 2 * UINT_BYTES
    }

    fn write(&self, frame: &mut Vec<u8>, id: u32, seq: u32, ack: u32, ask: Ask) {
        frame.clear();
        // [1, id, broker, session, seq, ack, got, operation]
        frame.extend([0x98, 1]);
        push_uint(frame, id);
        frame.push(NIL);
        if self.frames == Frames::Numbered && ask.kind == Kind::Put {
            frame.extend([BIN8, SESSION_BYTES as u8]);
            frame.extend(self.session);
            push_uint(frame, seq);
            push_uint(frame, ack);
            frame.push(NIL);
        } else {
            frame.extend([NIL; 4]);
        }
        match ask.kind {
            Kind::Put => frame.extend(b"\x93\xa3put"),
            Kind::Get => frame.extend(b"\x92\xa3get"),
        }
        frame.push(KEY_HEAD);
        frame.extend(payload::key(ask.key));
        if ask.kind == Kind::Put {
            frame.extend([BIN8, VALUE_BYTES as u8]);
            frame.extend(payload::value(ask.key, ask.stamp));
        }
    }

    /// True if this is the good answer to that.
    fn is_answer(&self, reply: &[u8], id: u32, ask: (Kind, u32)) -> bool {
        let [head, 1, UINT32, given @ ..] = reply else { return false };
        let Some((given, rest)) = given.split_first_chunk::<4>() else { return false };
        if u32::from_be_bytes(*given) != id {
            return false;
        }
        if self.is_echo {
            return *head == 0x98;
        }
        // [1, id, retry_safe, [0, revision, …]]
        let (kind, key) = ask;
        match (kind, rest) {
            (Kind::Put, [retry_safe, 0x92, 0, revision @ ..]) => {
                let expected = if self.frames == Frames::Numbered { 0xc3 } else { 0xc2 };
                *head == 0x94 && *retry_safe == expected && skip_uint(revision).is_some_and(<[u8]>::is_empty)
            }
            (Kind::Get, [NIL, 0x95, 0, found @ ..]) => skip_uint(found).is_some_and(|found| match found {
                [BIN8, length, value @ ..] if usize::from(*length) == VALUE_BYTES => {
                    value.split_at_checked(VALUE_BYTES).is_some_and(|(value, rest)| {
                        payload::is_value_of(key, value) && skip_uint(rest).and_then(skip_uint).is_some_and(<[u8]>::is_empty)
                    })
                }
                _ => false,
            }),
            _ => false,
        }
    }
}

fn push_uint(frame: &mut Vec<u8>, number: u32) {
    frame.push(UINT32);
    frame.extend(number.to_be_bytes());
}

/// What stands behind a whole number.
fn skip_uint(bytes: &[u8]) -> Option<&[u8]> {
    let (head, rest) = bytes.split_first()?;
    let width = match head {
        0..=0x7f => 0,
        0xcc => 1,
        0xcd => 2,
        0xce => 4,
        0xcf => 8,
        _ => return None,
    };
    rest.get(width..)
}

/// One connection.
pub struct Dealer {
    socket: Socket,
    dialect: Dialect,
    frame: Vec<u8>,
    reply: Message,
    id: u32,
    /// The last mutation's number, and the last one whose answer was read.
    seq: u32,
    ack: u32,
    waiting: VecDeque<(Kind, u32)>,
}

impl Dealer {
    /// A socket that is not connected yet.
    pub fn socket(context: &zmq::Context) -> Result<Socket, Failed> {
        let socket = context.socket(zmq::DEALER)?;
        socket.set_linger(0)?;
        socket.set_sndhwm(0)?;
        socket.set_rcvhwm(0)?;
        socket.set_rcvtimeo(i32::try_from(PATIENCE.as_millis())?)?;
        Ok(socket)
    }

    /// With a socket that is connected.
    pub fn new(socket: Socket, dialect: Dialect) -> Dealer {
        Dealer {
            socket,
            dialect,
            frame: Vec::new(),
            reply: Message::new(),
            id: FIRST_ID,
            seq: 0,
            ack: 0,
            waiting: VecDeque::new(),
        }
    }

    /// With a socket that is connected to a broker: takes the session that Hello offers.
    pub fn greet(socket: Socket, frames: Frames) -> Result<Dealer, Failed> {
        socket.send(r#"{"op": "hello"}"#, 0)?;
        let reply: Value = serde_json::from_slice(&socket.recv_bytes(0)?)?;
        let text = reply["session"].as_str().ok_or_else(|| format!("hello is answered {reply}"))?;
        let session = u128::from_str_radix(text, 16)?.to_be_bytes();
        Ok(Dealer::new(socket, Dialect { frames, session, is_echo: false }))
    }

    fn check(&mut self) -> Result<(), Failed> {
        let ask = self.waiting.pop_front().ok_or("an answer without a question")?;
        let id = self.id - self.waiting.len() as u32 - 1;
        if self.reply.get_more() || !self.dialect.is_answer(&self.reply, id, ask) {
            let reply = kvbroker_tests::json(&self.reply);
            return Err(format!("message {id}, {ask:?}, is answered {reply}").into());
        }
        self.ack += u32::from(ask.0 == Kind::Put);
        Ok(())
    }
}

impl Lane for Dealer {
    fn ask(&mut self, ask: Ask) -> Result<(), Failed> {
        self.seq += u32::from(ask.kind == Kind::Put);
        self.dialect.write(&mut self.frame, self.id, self.seq, self.ack, ask);
        self.id += 1;
        self.waiting.push_back((ask.kind, ask.key));
        Ok(self.socket.send(&self.frame, 0)?)
    }

    fn take(&mut self) -> Result<usize, Failed> {
        let mut taken = 0;
        loop {
            let flags = if taken == 0 { 0 } else { DONTWAIT };
            match self.socket.recv(&mut self.reply, flags) {
                Ok(()) => {
                    self.check()?;
                    taken += 1;
                }
                Err(zmq::Error::EINTR) => {}
                Err(zmq::Error::EAGAIN) if taken > 0 => return Ok(taken),
                Err(error) => return Err(format!("no answer came: {error}").into()),
            }
        }
    }
}

impl Drop for Dealer {
    fn drop(&mut self) {
        if !self.dialect.is_echo && self.dialect.frames == Frames::Numbered && self.seq > 0 {
            let session = u128::from_be_bytes(self.dialect.session);
            // So that the broker need not remember it; nobody waits for the answer.
            let _ = self.socket.set_linger(1_000);
            let _ = self.socket.send(&format!(r#"{{"op": "end", "session": "{session:032x}", "ack": {}}}"#, self.ack), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kvbroker_tests::unpack;
    use serde_json::json;

    use super::*;

    fn written(frames: Frames, kind: Kind) -> Vec<u8> {
        let mut frame = Vec::new();
        let dialect = Dialect { frames, session: [1; SESSION_BYTES], is_echo: false };
        dialect.write(&mut frame, FIRST_ID, 9, 8, Ask { kind, key: 42, stamp: 0 });
        frame
    }

    #[test]
    fn frames_are_those_of_the_protocol() {
        let id = [UINT32, 0, 1, 0, 0];
        let value = payload::value(42, 0);
        let numbered = [
            &[0x98, 1][..],
            &id,
            &[NIL, BIN8, 16],
            &[1; 16],
            &[UINT32, 0, 0, 0, 9, UINT32, 0, 0, 0, 8, NIL],
            b"\x93\xa3put\xafbench/000000042\xc4\x40",
            &value,
        ];
        assert_eq!(written(Frames::Numbered, Kind::Put), numbered.concat());
        assert_eq!(Frames::Numbered.put_bytes(), numbered.concat().len());
        let plain = [&[0x98, 1][..], &id, &[NIL; 5], b"\x93\xa3put\xafbench/000000042\xc4\x40", &value];
        assert_eq!(written(Frames::Plain, Kind::Put), plain.concat());
        let get = unpack(&written(Frames::Numbered, Kind::Get));
        assert_eq!(get, json!([1, FIRST_ID, null, null, null, null, null, ["get", "bench/000000042"]]));
    }

    #[test]
    fn only_good_answers_are_taken() {
        let dialect = Dialect { frames: Frames::Numbered, session: [0; SESSION_BYTES], is_echo: false };
        let head = [0x94, 1, UINT32, 0, 1, 0, 0];
        let put = [&head[..], &[0xc3, 0x92, 0, UINT32, 0, 1, 2, 3]].concat();
        assert_eq!(put.len(), Dialect::put_reply_bytes());
        assert!(dialect.is_answer(&put, FIRST_ID, (Kind::Put, 42)));
        assert!(!dialect.is_answer(&put, FIRST_ID + 1, (Kind::Put, 42)), "another request's");
        assert!(!dialect.is_answer(&put[..14], FIRST_ID, (Kind::Put, 42)), "cut off");
        let failed = [&head[..], &[0xc3, 0x92, 1, 7]].concat();
        assert!(!dialect.is_answer(&failed, FIRST_ID, (Kind::Put, 42)), "a failure");

        let value = payload::value(42, 5);
        let revision = [UINT32, 0, 1, 2, 3];
        let get = [&head[..], &[NIL, 0x95, 0], &revision, &[BIN8, 64], &value, &revision, &revision].concat();
        assert_eq!(get.len(), Dialect::get_reply_bytes());
        assert!(dialect.is_answer(&get, FIRST_ID, (Kind::Get, 42)));
        assert!(!dialect.is_answer(&get, FIRST_ID, (Kind::Get, 43)), "another key's value");
    }
}
