//! Messages read where they lie, against the general reader of the same bytes.

#![allow(clippy::unwrap_used)]

use crate::StreamMessage;
use crate::msgpack::write;
use crate::stream::stream_topic;
use crate::value::Stored;

use super::*;

/// Numbers that look like chance, and the longest text that is made of them.
struct Dice(u64, usize);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.roll(256) as u8).collect()
    }

    /// Any MessagePack value, as documents of tables are.
    fn document(&mut self, depth: usize, out: &mut Vec<u8>) {
        let length = [0, 1, 31, 32, 255, 256, 70_000][self.roll(7)].min(self.1);
        match self.roll(if depth == 0 { 9 } else { 11 }) {
            0 => write::nil(out),
            1 => write::boolean(out, self.roll(2) == 0),
            2 => write::uint(out, self.0 >> self.roll(64)),
            3 => write::int(out, -((self.0 >> 1 >> self.roll(63)) as i64)),
            4 => write::float(out, self.0 as f64),
            5 => {
                let bytes = self.bytes(length.min(300));
                write::bytes(out, &bytes);
            }
            6 => {
                let bytes = self.bytes(1 + length.min(299));
                write::ext(out, 7, &bytes);
            }
            7 => write::text(out, "ä"),
            8 => write::text(out, &"x".repeat(length)),
            9 => {
                let count = self.roll(20);
                write::array(out, count);
                (0..count).for_each(|_| self.document(depth - 1, out));
            }
            _ => {
                let count = self.roll(20);
                write::map(out, count);
                for name in 0..count {
                    write::uint(out, name as u64);
                    self.document(depth - 1, out);
                }
            }
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let length = [0, 1, 20, 30, 31, 32, 255, 256, 60_000][self.roll(9)].min(self.1);
        let rest = if self.roll(2) == 0 { self.bytes(length) } else { vec![b'k'; length] };
        [b"p/".as_slice(), &rest].concat()
    }

    fn message(&mut self) -> StreamMessage {
        let prev = self.0 >> 1 >> self.roll(63);
        let mut revision = prev;
        let mut events = Vec::new();
        for _ in 0..[0, 1, 1, 2, 15, 16, 40][self.roll(7)] {
            revision += 1 + self.roll(1_000) as u64;
            let changes = (0..[1, 1, 1, 2, 20][self.roll(5)]).map(|_| {
                let kind = match self.roll(4) {
                    0 => ChangeKind::Remove,
                    1 => ChangeKind::Expire,
                    _ => {
                        let mut document = Vec::new();
                        self.document(3, &mut document);
                        ChangeKind::Put(Stored::from_msgpack(&document).unwrap())
                    }
                };
                KeyEvent { key: self.key(), kind, before: None }
            });
            let changes = changes.collect();
            events.push(RevisionEvents { revision, time_ms: self.0 >> self.roll(64), changes, origin: None });
        }
        StreamMessage { epoch: self.0, prev, revision: revision + self.roll(3) as u64, events }
    }
}

fn body_of(message: &StreamMessage) -> Vec<u8> {
    let mut body = Vec::new();
    message.encode(&mut body);
    body
}

fn owned(read: &StreamBody) -> StreamMessage {
    let events = read.iter().map(RevisionEvents::from).collect();
    StreamMessage { epoch: read.epoch(), prev: read.prev(), revision: read.revision(), events }
}

/// What the general reader makes of it.
fn reference(prefix: &[u8], body: &[u8]) -> Option<StreamMessage> {
    StreamMessage::decode(&stream_topic(prefix), body).ok().flatten().map(|(_, message)| message)
}

#[test]
fn what_brokers_write_is_read_as_the_general_reader_reads_it() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15, usize::MAX);
    for _ in 0..300 {
        let message = dice.message();
        let body = body_of(&message);
        let read = StreamBody::read(b"p/", &body).unwrap();
        assert_eq!(owned(&read), message);
        assert_eq!(reference(b"p/", &body), Some(message.clone()));
        assert_eq!((read.len(), read.is_empty()), (message.events.len(), message.is_bookmark()));
        for (index, events) in message.events.iter().enumerate() {
            assert_eq!(read.count_through(events.revision), index + 1);
            assert_eq!(read.count_through(events.revision - 1), index);
            let revision = read.get(index).unwrap();
            assert_eq!((revision.len(), revision.get(events.changes.len())), (events.changes.len(), None));
        }
        assert!(read.get(message.events.len()).is_none());
    }
}

#[test]
fn nothing_is_read_that_the_general_reader_refuses_or_reads_otherwise() {
    let mut dice = Dice(0x0123_4567_89ab_cdef, 40);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..30_000 {
        let mut message = dice.message();
        message.events.truncate(3);
        message.events.iter_mut().for_each(|events| events.changes.truncate(3));
        let mut body = body_of(&message);
        for _ in 0..=dice.roll(3) {
            match dice.roll(3) {
                0 => body.truncate(dice.roll(body.len()).max(1)),
                1 => body.insert(dice.roll(body.len()), dice.roll(256) as u8),
                _ => {
                    // Most of the message's own bytes are at its beginning.
                    let at = dice.roll(body.len().min(if round % 2 == 0 { 90 } else { usize::MAX }));
                    body[at] = dice.roll(256) as u8;
                }
            }
        }
        match StreamBody::read(b"p/", &body) {
            Some(read) => {
                taken += 1;
                assert_eq!(Some(owned(&read)), reference(b"p/", &body));
            }
            None => refused += usize::from(reference(b"p/", &body).is_none()),
        }
    }
    assert!(taken > 500 && refused > 5_000, "{taken} taken, {refused} refused: this shows nothing");
}

#[test]
fn every_truncation_is_left_to_the_general_reader() {
    let body = body_of(&Dice(77, 300).message());
    for length in (0..body.len()).rev().take(5_000).chain(0..200.min(body.len())) {
        assert!(StreamBody::read(b"p/", &body[..length]).is_none());
    }
}

#[test]
fn what_is_right_but_unusual_is_left_to_the_general_reader() {
    let change = KeyEvent { key: b"p/1".to_vec(), kind: ChangeKind::Remove, before: None };
    let events = vec![RevisionEvents { revision: 2, time_ms: 1, changes: vec![change], origin: None }];
    let message = StreamMessage { epoch: 1, prev: 1, revision: 2, events };
    let usual = body_of(&message);
    assert!(StreamBody::read(b"p/", &usual).is_some());
    // Another order of the names.
    let mut other = Vec::new();
    write::map(&mut other, 3);
    for (name, number) in [("prev", 1), ("rev", 2)] {
        write::text(&mut other, name);
        write::uint(&mut other, number);
    }
    write::text(&mut other, "epoch");
    write::text(&mut other, "0000000000000001");
    // One name more.
    let mut longer = usual.clone();
    longer[0] += 1;
    write::text(&mut longer, "later");
    write::nil(&mut longer);
    for unusual in [other, longer] {
        assert!(reference(b"p/", &unusual).is_some());
        assert!(StreamBody::read(b"p/", &unusual).is_none());
    }
}

#[test]
fn what_a_message_claims_takes_no_memory() {
    let mut body = Vec::new();
    crate::encode_stream_message(crate::StreamKind::Changes, 1, (0, 9), 1, &[], &mut body);
    let head = body.len() - 1;
    for claimed in [[0xdd, 0xff, 0xff, 0xff, 0xff].as_slice(), &[0x91, 0x93, 1, 1, 0xdd, 0xff, 0xff, 0xff, 0xff]] {
        assert!(StreamBody::read(b"", &[&body[..head], claimed].concat()).is_none());
    }
}
