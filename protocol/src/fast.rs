//! A short way through what nearly every compact message is: plain puts, gets and dels of single keys, and their answers.
//!
//! - It reads once what the general way checks first and then takes apart twice.
//! - It never decides that something is wrong. Whatever it does not know, or does not like, it leaves to the general way, which alone
//!   says what the protocol is. Where it gives a result, the general way would give the same.
//! - Nothing is allocated for a length that a message merely claims.

use crate::PROTOCOL_VERSION;
use crate::header::{BrokerId, Form, Header, SessionId};
use crate::limits::{ARRAY_OPERATIONS_MAX, DEPTH_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::msgpack::Cursor;
use crate::operation::{Operation, Operations, Request};
use crate::reply::{Answer, Outcome, Outcomes, Reply};
use crate::reply_decode::{Expect, REPLY_DEPTH_MAX, checked_outcome};
use crate::value::{Key, Stored, ValueKind};

/// The version as a MessagePack integer.
const VERSION: u8 = {
    assert!(PROTOCOL_VERSION < 0x80, "the version is one byte");
    PROTOCOL_VERSION as u8
};
/// Bytes of the shortest operation that is read here.
const OPERATION_BYTES_MIN: usize = 6;
/// Bytes of the shortest outcome.
const OUTCOME_BYTES_MIN: usize = 3;

// A key whose length takes one byte is never too long.
const _: () = assert!(u8::MAX as usize <= KEY_BYTES_MAX);

const NIL: u8 = 0xc0;

/// What is left of a message.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    /// Passes over these bytes if they come next.
    fn expect(&mut self, bytes: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(bytes)?;
        Some(())
    }

    fn uint(&mut self) -> Option<u64> {
        Some(match self.byte()? {
            small @ 0..=0x7f => u64::from(small),
            0xcc => u64::from(self.byte()?),
            0xcd => u64::from(u16::from_be_bytes(self.number()?)),
            0xce => u64::from(u32::from_be_bytes(self.number()?)),
            0xcf => u64::from_be_bytes(self.number()?),
            _ => return None,
        })
    }

    fn is_nil(&mut self) -> bool {
        self.expect(&[NIL]).is_some()
    }

    fn optional_uint(&mut self) -> Option<Option<u64>> {
        if self.is_nil() { Some(None) } else { self.uint().map(Some) }
    }

    fn optional_id(&mut self) -> Option<Option<[u8; 16]>> {
        if self.is_nil() {
            return Some(None);
        }
        self.expect(&[0xc4, 16])?;
        self.number().map(Some)
    }

    /// The length of an array; the elements follow.
    fn array(&mut self) -> Option<usize> {
        Some(match self.byte()? {
            small @ 0x90..=0x9f => usize::from(small & 0x0f),
            0xdc => usize::from(u16::from_be_bytes(self.number()?)),
            _ => return None,
        })
    }

    fn text(&mut self, length: usize) -> Option<&'a [u8]> {
        let text = self.take(length)?;
        std::str::from_utf8(text).is_ok().then_some(text)
    }

    fn key(&mut self) -> Option<Key> {
        let key = match self.byte()? {
            short @ 0xa0..=0xbf => self.text(usize::from(short & 0x1f))?,
            0xd9 => {
                let length = self.byte()?;
                self.text(usize::from(length))?
            }
            0xc4 => {
                let length = self.byte()?;
                self.take(usize::from(length))?
            }
            _ => return None,
        };
        Some(key.to_vec())
    }

    /// The bytes of one value, nested at most so deep.
    fn value(&mut self, depth_max: usize) -> Option<&'a [u8]> {
        let start = self.0;
        let whole = |length: usize| start.get(..length);
        let value = match *start {
            [0x00..=0x7f | 0xe0..=0xff | NIL | 0xc2 | 0xc3, ..] => whole(1),
            [short @ 0xa0..=0xbf, ..] => self.str(1, usize::from(short & 0x1f)),
            [0xd9, length, ..] => self.str(2, usize::from(length)),
            [0xc4, length, ..] => whole(2 + usize::from(length)),
            [0xcc | 0xd0, ..] => whole(2),
            [0xcd | 0xd1, ..] => whole(3),
            [0xce | 0xd2 | 0xca, ..] => whole(5),
            [0xcf | 0xd3 | 0xcb, ..] => whole(9),
            _ => {
                let mut cursor = Cursor::new(start);
                cursor.check_value(depth_max).ok()?;
                whole(cursor.offset())
            }
        }?;
        self.0 = &start[value.len()..];
        Some(value)
    }

    /// The bytes of a text with a head of so many bytes.
    fn str(&self, head: usize, length: usize) -> Option<&'a [u8]> {
        let whole = self.0.get(..head + length)?;
        std::str::from_utf8(&whole[head..]).is_ok().then_some(whole)
    }

    fn operation(&mut self, depth_max: usize) -> Option<Operation> {
        match *self.0 {
            [0x93, 0xa3, b'p', b'u', b't', ref rest @ ..] => {
                self.0 = rest;
                let key = self.key()?;
                let value = Stored::checked(ValueKind::MessagePack, self.value(depth_max)?).ok()?;
                Some(Operation::Put { key, value, condition: None, ttl_ms: None })
            }
            [0x92, 0xa3, b'g', b'e', b't', ref rest @ ..] => {
                self.0 = rest;
                Some(Operation::Get { key: self.key()? })
            }
            [0x92, 0xa3, b'd', b'e', b'l', ref rest @ ..] => {
                self.0 = rest;
                Some(Operation::Del { key: self.key()?, return_old: false, condition: None })
            }
            _ => None,
        }
    }

    /// One operation's outcome, nested at most so deep.
    fn outcome(&mut self, expect: &Expect, depth_max: usize) -> Option<Outcome> {
        let start = self.0;
        let short = match (expect, start) {
            (Expect::Done, [0x92, 0, rest @ ..]) => {
                self.0 = rest;
                Some(Outcome { revision: self.optional_uint()?, result: Ok(Answer::Done) })
            }
            (Expect::Value, [0x95, 0, rest @ ..]) => {
                self.0 = rest;
                let revision = self.optional_uint()?;
                let value = Stored::unbounded(ValueKind::MessagePack, self.value(depth_max.checked_sub(1)?)?);
                let (modified, created) = (self.uint()?, self.uint()?);
                Some(Outcome { revision, result: Ok(Answer::Value { value, modified, created }) })
            }
            _ => None,
        };
        if short.is_some() {
            return short;
        }
        let outcome = self.value(depth_max)?;
        checked_outcome(outcome, expect).ok()
    }
}

/// The request in a compact message of plain puts, gets and dels. None: it is something else, or wrong.
pub(crate) fn request(body: &[u8]) -> Option<Request> {
    if body.len() > MESSAGE_BYTES_MAX {
        return None;
    }
    let mut rest = Rest(body);
    rest.expect(&[0x98, VERSION])?;
    let header = Header {
        id: rest.optional_uint()?,
        broker: rest.optional_id()?.map(BrokerId),
        session: rest.optional_id()?.map(SessionId),
        seq: rest.optional_uint()?,
        ack: rest.optional_uint()?,
        got: rest.optional_uint()?,
    };
    // Around the elements of an operation stand the message and the operation, and perhaps an array.
    let operations = if let [0x90..=0x9f, 0xa0..=0xbf, ..] = rest.0 {
        Operations::One(rest.operation(DEPTH_MAX - 2)?)
    } else {
        let length = rest.array()?;
        if !(1..=ARRAY_OPERATIONS_MAX).contains(&length) || length * OPERATION_BYTES_MIN > rest.0.len() {
            return None;
        }
        let mut operations = Vec::with_capacity(length);
        for _ in 0..length {
            operations.push(rest.operation(DEPTH_MAX - 3)?);
        }
        Operations::Many(operations)
    };
    rest.0.is_empty().then_some(Request { header, form: Form::Compact, operations })
}

/// The reply to operations with these expected answers. None: it is wrong, or a refusal of a whole array.
pub(crate) fn reply<'e>(body: &[u8], expects: impl ExactSizeIterator<Item = &'e Expect>) -> Option<Reply> {
    let mut rest = Rest(body);
    rest.expect(&[0x94, VERSION])?;
    let id = rest.optional_uint()?;
    let retry_safe = match rest.byte()? {
        NIL => None,
        0xc2 => Some(false),
        0xc3 => Some(true),
        _ => return None,
    };
    let mut expects = expects;
    let outcomes = if let [0x90..=0x9f, 0..=0x7f, ..] = rest.0 {
        let (expect, 1) = (expects.next(), expects.len() + 1) else { return None };
        Outcomes::One(rest.outcome(expect?, REPLY_DEPTH_MAX - 1)?)
    } else {
        let length = rest.array()?;
        if length != expects.len() || length * OUTCOME_BYTES_MIN > rest.0.len() {
            return None;
        }
        let mut outcomes = Vec::with_capacity(length);
        for expect in expects {
            outcomes.push(rest.outcome(expect, REPLY_DEPTH_MAX - 2)?);
        }
        Outcomes::Many(outcomes)
    };
    rest.0.is_empty().then_some(Reply { id, form: Form::Compact, retry_safe, outcomes })
}

#[cfg(test)]
#[path = "fast_tests.rs"]
mod tests;
