//! The short way against the general one: on everything that clients send, and on what becomes of it when bytes change.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::decode::{decode_generally as request_generally, decode_request};
use crate::encode::encode_request;
use crate::error::{ErrorCode, Failure};
use crate::reply_decode::decode_generally as reply_generally;
use crate::reply_encode::encode_reply;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    fn number(&mut self) -> u64 {
        let shift = self.below(64);
        u64::MAX >> shift
    }

    fn maybe_number(&mut self) -> Option<u64> {
        self.flip().then(|| self.number())
    }

    fn id(&mut self) -> Option<[u8; 16]> {
        self.flip().then(|| [self.below(256) as u8; 16])
    }

    fn key(&mut self) -> Key {
        let length = [0, 1, 15, 31, 32, 255, 256, 300][self.below(8)];
        let byte = [b'k', 0xff, 0][self.below(3)];
        vec![byte; length]
    }

    fn value(&mut self) -> Stored {
        let nested = [&[0x91; 96][..], &[0xc0]].concat();
        let documents: [&[u8]; 16] = [
            &[0xc0],
            &[0xc3],
            &[7],
            &[0xff],
            &[0xcc, 200],
            &[0xcd, 1, 0],
            &[0xd2, 0xff, 0, 0, 0],
            &[0xcf, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0],
            &[0xa2, b'a', b'b'],
            &[0xc4, 2, 0xff, 0xfe],
            &[0xd4, 9, 1],
            &[0x82, 0xa1, b'a', 1, 0xa1, b'b', 0x92, 1, 2],
            &[0x90],
            &[0xd9, 1, b'x'],
            &nested,
        ];
        match self.below(20) {
            16 => Stored::text(&"t".repeat(self.below(70_000))).unwrap(),
            17 => Stored::bytes(&vec![0xfe; self.below(70_000)]).unwrap(),
            18 => Stored::from_json(br#"{"a":[1,2.5,null]}"#).unwrap(),
            at => Stored::from_msgpack(documents[at.min(15)]).unwrap(),
        }
    }

    fn plain(&mut self) -> Operation {
        match self.below(3) {
            0 => Operation::Put { key: self.key(), value: self.value(), condition: None, ttl_ms: None },
            1 => Operation::Get { key: self.key() },
            _ => Operation::Del { key: self.key(), return_old: false, condition: None },
        }
    }

    fn operation(&mut self) -> Operation {
        match self.below(8) {
            0 => Operation::Incr { key: self.key(), by: 1 },
            1 => Operation::Put { key: self.key(), value: self.value(), condition: None, ttl_ms: Some(5) },
            2 => Operation::Size,
            _ => self.plain(),
        }
    }

    /// Changes some bytes, or cuts some off.
    fn damage(&mut self, body: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            // Mostly where the heads are.
            let reach = if self.flip() { body.len() } else { body.len().min(80) };
            let at = self.below(reach);
            match self.below(4) {
                0 => body.truncate(at + 1),
                1 => body.insert(at, self.below(256) as u8),
                2 => body[at] = [0xc0, 0xc1, 0xc4, 0xd9, 0x90, 0x92, 0x93, 0x98, 0xa3, 0xdc, 0xdd, 0xde][self.below(12)],
                _ => body[at] = self.below(256) as u8,
            }
        }
    }
}

#[test]
fn a_request_read_the_short_way_is_the_one_that_the_general_way_reads() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut short, mut damaged_short) = (0, 0);
    for round in 0..20_000 {
        let header = Header {
            id: dice.maybe_number(),
            broker: dice.id().map(BrokerId),
            session: dice.id().map(SessionId),
            seq: dice.maybe_number(),
            ack: dice.maybe_number(),
            got: dice.maybe_number(),
        };
        let is_plain = dice.flip();
        let mut operation = || if is_plain { dice.plain() } else { dice.operation() };
        let operations = match round % 3 {
            0 => Operations::One(operation()),
            1 => Operations::Many((0..2).map(|_| operation()).collect()),
            _ => Operations::Many((0..17).map(|_| operation()).collect()),
        };
        let mut body = Vec::new();
        encode_request(&header, &operations, &mut body);
        let general = request_generally(&body);
        if let Some(request) = request(&body) {
            assert_eq!(Ok(request), general);
            short += 1;
        } else {
            let long_key = |operation: &Operation| operation.first_key().is_some_and(|key| key.len() > 255);
            assert!(!is_plain || operations.as_slice().iter().any(long_key), "{operations:?}");
        }
        assert_eq!(decode_request(&body), general);
        for _ in 0..3 {
            let mut body = body.clone();
            dice.damage(&mut body);
            if let Some(request) = request(&body) {
                assert_eq!(Ok(request), request_generally(&body), "{body:02x?}");
                damaged_short += 1;
            }
        }
    }
    assert!(short > 3_000 && damaged_short > 1_000, "{short} {damaged_short}");
}

#[test]
fn a_reply_read_the_short_way_is_the_one_that_the_general_way_reads() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let (mut short, mut damaged_short) = (0, 0);
    for round in 0..20_000 {
        let count = [1, 1, 2, 20][round % 4];
        let mut expects = Vec::new();
        let mut outcomes = Vec::new();
        for _ in 0..count {
            let (expect, answer) = match dice.below(7) {
                0 | 1 => (Expect::Done, Ok(Answer::Done)),
                2 => (Expect::Done, Ok(Answer::Removed(dice.value()))),
                3 | 4 => {
                    let (value, modified, created) = (dice.value(), dice.number(), dice.number());
                    (Expect::Value, Ok(Answer::Value { value, modified, created }))
                }
                5 => (Expect::Value, Err(Failure::new(ErrorCode::NotFound, "there is no such key"))),
                _ => (Expect::Integer, Ok(Answer::Integer(i128::from(dice.number())))),
            };
            expects.push(if dice.below(50) == 0 { Expect::Size } else { expect });
            outcomes.push(Outcome { revision: dice.maybe_number(), result: answer });
        }
        let outcomes = if count == 1 && dice.flip() { Outcomes::One(outcomes.remove(0)) } else { Outcomes::Many(outcomes) };
        let retry_safe = [None, Some(true), Some(false)][dice.below(3)];
        let mut body = Vec::new();
        encode_reply(&Reply { id: dice.maybe_number(), form: Form::Compact, retry_safe, outcomes }, &mut body);
        for at in 0..4 {
            let mut body = body.clone();
            if at > 0 {
                dice.damage(&mut body);
            }
            if let Some(reply) = reply(&body, expects.iter()) {
                assert_eq!(Ok(reply), reply_generally(&body, expects.iter()), "{body:02x?}");
                if at == 0 { short += 1 } else { damaged_short += 1 }
            }
        }
    }
    assert!(short > 10_000 && damaged_short > 1_000, "{short} {damaged_short}");
}

#[test]
fn a_length_that_is_only_claimed_is_not_believed() {
    let mut body = Vec::new();
    encode_request(&Header::default(), &Operations::One(Operation::Get { key: b"k".to_vec() }), &mut body);
    let at = body.len() - 7;
    assert_eq!(body[at], 0x92);
    body.splice(at..at, [0xdc, 0x0f, 0xff]);
    assert_eq!(request(&body), None);
    assert!(request_generally(&body).is_err());
}
