//! Streams: all changes under one prefix as a chain of messages, in which nothing can be lost without being seen.
//!
//! - A message is two frames: a topic that only this prefix has, and a MessagePack map. It is complete for its prefix from `prev`
//!   (exclusive) to `rev` (inclusive). A reader who has everything up to `prev` or beyond has everything up to `rev` after it; one who
//!   has less has missed something, and asks `events` for it.
//! - A message may tell of several revisions and never of a part of one. Without any it is a bookmark.
//! - What is read is checked: a message whose revisions are out of order or outside of its span, or that tells of other keys, is refused.
//! - Fields that a reader does not know are passed over: later brokers may say more.
//!
//! Streams of published messages ([`PublishedMessages`](crate::PublishedMessages)) are chains of the same form, with topics of their own.

use crate::error::Failure;
use crate::events::{KeyEvent, RevisionEvents, epoch_from_text, epoch_text, read_events};
use crate::limits::{DEPTH_MAX, KEY_BYTES_MAX};
use crate::message_stream::{message_stream_topic, pattern_of_message_topic};
use crate::msgpack::{self, Cursor, Malformed, Token, write};
use crate::reply::VersionKind;
use crate::reply_decode::ReplyError;
use crate::value::{Key, Stored};

/// First byte of the topics of streams; the prefix's length in 16 bits, big-endian, and the prefix follow.
pub const STREAM_TOPIC: u8 = b's';
/// Arrays and maps around a value in a message: the map itself, the revisions, a revision, its changes, a change.
const LEVELS: usize = 5;

/// What a stream tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// All changes under a prefix.
    Changes,
    /// All published messages about subjects of a pattern.
    Messages,
}

impl StreamKind {
    /// The stream with this topic: its kind, and its prefix or its pattern. None if it is no stream's, or not a whole one, or what is in it
    /// is no pattern.
    pub fn of_topic(topic: &[u8]) -> Option<(StreamKind, &[u8])> {
        let changes = || prefix_of_stream_topic(topic).map(|prefix| (StreamKind::Changes, prefix));
        let messages = || pattern_of_message_topic(topic).map(|pattern| (StreamKind::Messages, pattern));
        changes().or_else(messages)
    }

    /// The topic of the stream with this prefix, or with this pattern.
    ///
    /// # Panics
    /// If that is longer than a key may be.
    pub fn topic(self, name: &[u8]) -> Vec<u8> {
        match self {
            StreamKind::Changes => stream_topic(name),
            StreamKind::Messages => message_stream_topic(name),
        }
    }

    /// The field of the body that has what it tells.
    fn field(self) -> &'static str {
        match self {
            StreamKind::Changes => "events",
            StreamKind::Messages => "messages",
        }
    }
}

/// One message of a stream: everything under the prefix after `prev` and up to `revision`.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamMessage {
    /// The log's epoch; compared for equality only.
    pub epoch: u64,
    /// What is told begins after this revision.
    pub prev: u64,
    /// And ends with this one.
    pub revision: u64,
    /// The revisions in between that changed something under the prefix, in order, each whole; empty: a bookmark.
    pub events: Vec<RevisionEvents>,
}

/// The topic of a prefix's stream: no other prefix's topic begins with it.
///
/// # Panics
/// If the prefix is longer than a key may be.
pub fn stream_topic(prefix: &[u8]) -> Vec<u8> {
    topic_of(STREAM_TOPIC, prefix)
}

pub(crate) fn topic_of(kind: u8, name: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).expect("a prefix is no longer than a key, and a pattern is shorter");
    let mut topic = Vec::with_capacity(3 + name.len());
    topic.push(kind);
    topic.extend_from_slice(&length.to_be_bytes());
    topic.extend_from_slice(name);
    topic
}

/// The prefix whose stream has this topic; None if it is not a stream's, or not a whole one.
pub fn prefix_of_stream_topic(topic: &[u8]) -> Option<&[u8]> {
    name_in_topic(STREAM_TOPIC, topic)
}

pub(crate) fn name_in_topic(kind: u8, topic: &[u8]) -> Option<&[u8]> {
    let (head, name) = topic.split_at_checked(3)?;
    let [first, high, low] = *head else { return None };
    (first == kind && name.len() == usize::from(u16::from_be_bytes([high, low]))).then_some(name)
}

/// Appends one change of a revision, `[key, "put", value]`, `[key, "remove"]` or `[key, "expire"]`: a part for [`encode_stream_revision`].
pub fn encode_stream_change(key: &[u8], kind: &VersionKind, out: &mut Vec<u8>) {
    let value = match kind {
        VersionKind::Put(value) => Some(value),
        VersionKind::Remove | VersionKind::Expire => None,
    };
    encode_change(key, kind.name(), value, out);
}

fn encode_change(key: &[u8], name: &str, value: Option<&Stored>, out: &mut Vec<u8>) {
    write::array(out, if value.is_some() { 3 } else { 2 });
    write::key(out, key);
    write::text(out, name);
    if let Some(value) = value {
        value.write_msgpack(out);
    }
}

/// Appends one revision with its changes, or its messages: `count` of them, in pieces as [`encode_stream_change`] or
/// [`encode_subject_message`](crate::encode_subject_message) has written them. A part for [`encode_stream_message`].
pub fn encode_stream_revision<'a>(
    revision: u64,
    time_ms: u64,
    count: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) {
    write::array(out, 3);
    write::uint(out, revision);
    write::uint(out, time_ms);
    write::array(out, count);
    pieces.into_iter().for_each(|piece| out.extend_from_slice(piece));
}

/// Appends the body of a message of such a stream, of `count` revisions as [`encode_stream_revision`] has written them; none: a bookmark.
pub fn encode_stream_message(
    kind: StreamKind,
    epoch: u64,
    (prev, revision): (u64, u64),
    count: usize,
    revisions: &[u8],
    out: &mut Vec<u8>,
) {
    write::map(out, if count > 0 { 4 } else { 3 });
    write::text(out, "epoch");
    write::text(out, &epoch_text(epoch));
    write::text(out, "prev");
    write::uint(out, prev);
    write::text(out, "rev");
    write::uint(out, revision);
    if count > 0 {
        write::text(out, kind.field());
        write::array(out, count);
        out.extend_from_slice(revisions);
    }
}

impl StreamMessage {
    /// Whether it tells of no change.
    pub fn is_bookmark(&self) -> bool {
        self.events.is_empty()
    }

    /// Appends the second frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (mut revisions, mut changes) = (Vec::new(), Vec::new());
        for events in &self.events {
            changes.clear();
            for KeyEvent { key, kind, .. } in &events.changes {
                encode_change(key, kind.name(), kind.value(), &mut changes);
            }
            encode_stream_revision(events.revision, events.time_ms, events.changes.len(), [changes.as_slice()], &mut revisions);
        }
        let span = (self.prev, self.revision);
        encode_stream_message(StreamKind::Changes, self.epoch, span, self.events.len(), &revisions, out);
    }

    /// Reads one message and its stream's prefix. `None` for topics that are not a stream's.
    ///
    /// # Errors
    /// `invalid` when the body does not follow the protocol.
    pub fn decode(topic: &[u8], body: &[u8]) -> Result<Option<(Key, StreamMessage)>, Failure> {
        let Some(prefix) = prefix_of_stream_topic(topic) else { return Ok(None) };
        let mut events = Vec::new();
        let Span { epoch, prev, revision } = decode_body(body, "events", |cursor| {
            events = read_events(cursor)?;
            Ok(())
        })?;
        let message = StreamMessage { epoch, prev, revision, events };
        check(prefix, &message)?;
        Ok(Some((prefix.to_vec(), message)))
    }
}

/// What every message of a stream says, whatever it tells.
pub(crate) struct Span {
    pub(crate) epoch: u64,
    pub(crate) prev: u64,
    pub(crate) revision: u64,
}

pub(crate) fn wrong(what: &str) -> Failure {
    Failure::invalid(format!("a message of a stream {what}"))
}

/// Reads a body; what stands in the field with the revisions is read by `read`.
pub(crate) fn decode_body(
    body: &[u8],
    revisions: &str,
    mut read: impl FnMut(&mut Cursor<'_>) -> Result<(), ReplyError>,
) -> Result<Span, Failure> {
    let malformed = |error: Malformed| wrong(&format!("is malformed: {error}"));
    msgpack::check(body, DEPTH_MAX + LEVELS).map_err(malformed)?;
    let mut cursor = Cursor::new(body);
    let Token::Map(length) = cursor.token().map_err(malformed)? else { return Err(wrong("is not a map")) };
    let (mut epoch, mut prev, mut revision) = (None, None, None);
    for _ in 0..length {
        let at = cursor.offset();
        let name = match cursor.token().map_err(malformed)? {
            Token::Str(name) => name,
            _ => {
                // A later broker's: whatever it is, it is passed over whole.
                cursor.seek(at);
                cursor.raw().map_err(malformed)?;
                ""
            }
        };
        if name == revisions {
            read(&mut cursor).map_err(|error| wrong(&format!("has {revisions} that can't be read: {error}")))?;
            continue;
        }
        let field = cursor.raw().map_err(malformed)?;
        let number = || match Cursor::new(field).token() {
            Ok(Token::UInt(number)) => Some(number),
            _ => None,
        };
        match name {
            "epoch" => epoch = epoch_of(field),
            "prev" => prev = number(),
            "rev" => revision = number(),
            _ => {}
        }
    }
    let epoch = epoch.ok_or_else(|| wrong("has no epoch of 16 hexadecimal digits"))?;
    let prev = prev.ok_or_else(|| wrong("has no `prev`"))?;
    let revision = revision.ok_or_else(|| wrong("has no `rev`"))?;
    if prev > revision {
        return Err(wrong("ends before it begins"));
    }
    Ok(Span { epoch, prev, revision })
}

fn epoch_of(field: &[u8]) -> Option<u64> {
    let Ok(Token::Str(digits)) = Cursor::new(field).token() else { return None };
    epoch_from_text(digits)
}

/// A reader relies on all of this when it decides what it has missed.
fn check(prefix: &[u8], message: &StreamMessage) -> Result<(), Failure> {
    let mut before = message.prev;
    for events in &message.events {
        if events.revision <= before || events.revision > message.revision {
            return Err(wrong("has revisions out of order or outside of its span"));
        }
        before = events.revision;
        if events.changes.is_empty() {
            return Err(wrong("has a revision without changes"));
        }
        if events.changes.iter().any(|change| !change.key.starts_with(prefix) || change.key.len() > KEY_BYTES_MAX) {
            return Err(wrong("tells of a key of another prefix"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::events::ChangeKind;

    fn events(revision: u64, changes: Vec<(&[u8], ChangeKind)>) -> RevisionEvents {
        let changes = changes.into_iter().map(|(key, kind)| KeyEvent { key: key.to_vec(), kind, before: None }).collect();
        RevisionEvents { revision, time_ms: 1_700_000_000_000 + revision, changes, origin: None }
    }

    fn put(json: &str) -> ChangeKind {
        let mut document = Vec::new();
        Stored::from_json(json.as_bytes()).unwrap().write_msgpack(&mut document);
        ChangeKind::Put(Stored::from_msgpack(&document).unwrap())
    }

    fn samples() -> [StreamMessage; 3] {
        let epoch = 0x0123_4567_89ab_cdef;
        [
            StreamMessage {
                epoch,
                prev: 3,
                revision: 300,
                events: vec![
                    events(4, vec![(b"a/1", put(r#"{"deep":[1,2]}"#)), (b"a/2", ChangeKind::Remove)]),
                    events(299, vec![(b"a/\xff", ChangeKind::Expire)]),
                ],
            },
            StreamMessage { epoch: 1, prev: 7, revision: 7, events: vec![] },
            StreamMessage { epoch: u64::MAX, prev: 0, revision: u64::MAX, events: vec![] },
        ]
    }

    fn body(message: &StreamMessage) -> Vec<u8> {
        let mut body = Vec::new();
        message.encode(&mut body);
        body
    }

    #[test]
    fn every_message_reads_back_and_no_truncation_panics() {
        for message in samples() {
            let (topic, body) = (stream_topic(b"a/"), body(&message));
            assert_eq!(StreamMessage::decode(&topic, &body).unwrap(), Some((b"a/".to_vec(), message.clone())));
            for length in 0..body.len() {
                assert!(StreamMessage::decode(&topic, &body[..length]).is_err());
            }
        }
    }

    #[test]
    fn values_of_either_kind_arrive_as_messagepack() {
        let json = ChangeKind::Put(Stored::from_json(br#"{"deep":[1,2]}"#).unwrap());
        let message = |kind| StreamMessage { epoch: 1, prev: 0, revision: 1, events: vec![events(1, vec![(b"k", kind)])] };
        let read = StreamMessage::decode(&stream_topic(b"k"), &body(&message(json))).unwrap();
        assert_eq!(read, Some((b"k".to_vec(), message(put(r#"{"deep":[1,2]}"#)))));
    }

    #[test]
    fn a_topic_belongs_to_one_prefix() {
        let longest = vec![b'x'; KEY_BYTES_MAX];
        for prefix in [b"".as_slice(), b"a", b"a/", b"\0", &[0xff; 300], &longest] {
            assert_eq!(prefix_of_stream_topic(&stream_topic(prefix)), Some(prefix));
        }
        assert_eq!(stream_topic(b"a/"), b"s\0\x02a/");
        // A subscription is a beginning: none may begin another one's topic.
        assert!(!stream_topic(b"ab").starts_with(&stream_topic(b"a")) && !stream_topic(b"a").starts_with(&stream_topic(b"")));
        for topic in [b"".as_slice(), b"s", b"s\0", b"s\0\x02a", b"s\0\x01ab", b"h", b"kkey"] {
            assert_eq!(prefix_of_stream_topic(topic), None);
            assert_eq!(StreamMessage::decode(topic, b"\x80").unwrap(), None);
        }
    }

    #[test]
    fn what_a_chain_may_not_say_is_refused() {
        let [good, ..] = samples();
        let refused = |change: fn(&mut StreamMessage), topic: &[u8]| {
            let mut message = good.clone();
            change(&mut message);
            StreamMessage::decode(topic, &body(&message)).unwrap_err().message
        };
        let topic = stream_topic(b"a/");
        assert!(refused(|_| {}, &stream_topic(b"a/1")).contains("another prefix"));
        assert!(refused(|message| message.prev = 301, &topic).contains("before it begins"));
        assert!(refused(|message| message.prev = 4, &topic).contains("out of order"));
        assert!(refused(|message| message.revision = 298, &topic).contains("out of order"));
        assert!(refused(|message| message.events.reverse(), &topic).contains("out of order"));
        assert!(refused(|message| message.events[0].changes.clear(), &topic).contains("without changes"));
    }

    #[test]
    fn what_later_versions_say_is_passed_over_and_what_is_missing_is_named() {
        let topic = stream_topic(b"");
        let mut longer = Vec::new();
        write::map(&mut longer, 5);
        for (name, number) in [("prev", 1), ("later", 5), ("rev", 2)] {
            write::text(&mut longer, name);
            write::uint(&mut longer, number);
        }
        write::array(&mut longer, 1);
        write::text(&mut longer, "not a name");
        write::nil(&mut longer);
        write::text(&mut longer, "epoch");
        write::text(&mut longer, "000000000000001f");
        let message = StreamMessage { epoch: 0x1f, prev: 1, revision: 2, events: vec![] };
        assert_eq!(StreamMessage::decode(&topic, &longer).unwrap(), Some((vec![], message)));
        let packed = |text: &str| crate::convert::json_to_msgpack(text.as_bytes()).unwrap();
        for (text, missing) in [
            (r#"{}"#, "epoch"),
            (r#"{"epoch":"+00000000000001f","prev":1,"rev":1}"#, "epoch"),
            (r#"{"epoch":"1f","prev":1,"rev":1}"#, "epoch"),
            (r#"{"epoch":"000000000000001f","rev":1}"#, "prev"),
            (r#"{"epoch":"000000000000001f","prev":1}"#, "rev"),
            (r#"{"epoch":"000000000000001f","prev":1,"rev":-1}"#, "rev"),
            (r#"{"epoch":"000000000000001f","prev":1,"rev":2,"events":{}}"#, "events"),
            (r#"[]"#, "map"),
        ] {
            assert!(StreamMessage::decode(&topic, &packed(text)).unwrap_err().message.contains(missing), "{text}");
        }
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let (topic, mut seed) = (stream_topic(b"a/"), 0x9e37_79b9_7f4a_7c15_u64);
        let good = body(&samples()[0]);
        for _ in 0..20_000 {
            let mut damaged = good.clone();
            for _ in 0..=seed % 4 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = seed as usize % damaged.len();
                damaged[at] = (seed >> 32) as u8;
            }
            let _ = StreamMessage::decode(&topic, &damaged);
        }
    }
}
