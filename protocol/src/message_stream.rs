//! Streams of published messages: all messages about subjects of one pattern, as a chain in which nothing can be lost without being seen.
//!
//! - The chain is that of [streams of changes](crate::StreamMessage): a message of the stream is complete for its pattern from `prev`
//!   (exclusive) to `rev` (inclusive). A listener who has everything up to `prev` or beyond has everything up to `rev` after it; one who
//!   has less has missed what may have been published in between. Nobody keeps that, so that it can't be asked for.
//! - Of a revision it tells all messages of the pattern or none, in the order in which they were published there.
//! - What is read is checked, as there: revisions in order and within the span, and subjects of this pattern alone.

use crate::error::Failure;
use crate::events::{elements, pass_over};
use crate::msgpack::{Cursor, Token, write};
use crate::reply_decode::{ReplyError, needed_key, stored, uint};
use crate::routing::{subject_matches, subject_name, subject_pattern};
use crate::stream::{
    Span, StreamKind, decode_body, encode_stream_message, encode_stream_revision, name_in_topic, topic_of, wrong,
};
use crate::value::{Key, Stored, StoredRef};

/// First byte of the topics of streams of messages; the pattern's length in 16 bits, big-endian, and the pattern follow.
pub const MESSAGE_STREAM_TOPIC: u8 = b'm';
/// Most places that are made ready before anything was read.
const ROOM_MAX: usize = 64;

/// A message that was published.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectMessage {
    /// What it is about.
    pub subject: Key,
    /// The value.
    pub value: Stored,
}

/// What one revision published about subjects of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionMessages {
    /// The revision.
    pub revision: u64,
    /// When it was made, by the broker's time, milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// In the order in which they were published; never none.
    pub messages: Vec<SubjectMessage>,
}

/// One message of a stream: everything that was published about subjects of the pattern after `prev` and up to `revision`.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedMessages {
    /// The log's epoch; compared for equality only.
    pub epoch: u64,
    /// What is told begins after this revision.
    pub prev: u64,
    /// And ends with this one.
    pub revision: u64,
    /// The revisions in between that published something, in order, each whole; empty: a bookmark.
    pub revisions: Vec<RevisionMessages>,
}

/// The topic of a pattern's stream: no other stream's topic begins with it.
///
/// # Panics
/// If the pattern is longer than a key may be.
pub fn message_stream_topic(pattern: &[u8]) -> Vec<u8> {
    topic_of(MESSAGE_STREAM_TOPIC, pattern)
}

/// The pattern whose stream has this topic; None if it is not such a stream's, or not a whole one, or no pattern.
pub fn pattern_of_message_topic(topic: &[u8]) -> Option<&[u8]> {
    let pattern = name_in_topic(MESSAGE_STREAM_TOPIC, topic)?;
    subject_pattern(pattern.to_vec()).ok().map(|_| pattern)
}

/// Appends one message, `[subject, value]`: a part for [`encode_stream_revision`].
pub fn encode_subject_message(subject: &[u8], value: StoredRef<'_>, out: &mut Vec<u8>) {
    write::array(out, 2);
    write::key(out, subject);
    value.write_msgpack(out);
}

impl PublishedMessages {
    /// Whether it tells of no message.
    pub fn is_bookmark(&self) -> bool {
        self.revisions.is_empty()
    }

    /// Appends the second frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (mut revisions, mut messages) = (Vec::new(), Vec::new());
        for told in &self.revisions {
            messages.clear();
            for SubjectMessage { subject, value } in &told.messages {
                encode_subject_message(subject, value.lent(), &mut messages);
            }
            encode_stream_revision(told.revision, told.time_ms, told.messages.len(), [messages.as_slice()], &mut revisions);
        }
        let span = (self.prev, self.revision);
        encode_stream_message(StreamKind::Messages, self.epoch, span, self.revisions.len(), &revisions, out);
    }

    /// Reads one message of a stream and its pattern. `None` for topics that are not such a stream's.
    ///
    /// # Errors
    /// `invalid` when the body does not follow the protocol.
    pub fn decode(topic: &[u8], body: &[u8]) -> Result<Option<(Key, PublishedMessages)>, Failure> {
        let Some(pattern) = pattern_of_message_topic(topic) else { return Ok(None) };
        let mut revisions = Vec::new();
        let Span { epoch, prev, revision } = decode_body(body, "messages", |cursor| {
            revisions = read_revisions(cursor)?;
            Ok(())
        })?;
        let message = PublishedMessages { epoch, prev, revision, revisions };
        check(pattern, &message)?;
        Ok(Some((pattern.to_vec(), message)))
    }
}

fn read_revisions(cursor: &mut Cursor<'_>) -> Result<Vec<RevisionMessages>, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no revisions".into())) };
    let mut revisions = Vec::with_capacity(count.min(ROOM_MAX));
    for _ in 0..count {
        let length = elements(cursor, 3, "a revision's messages")?;
        let (revision, time_ms) = (uint(cursor)?, uint(cursor)?);
        let Token::Array(count) = cursor.token()? else { return Err(ReplyError("a revision has no messages".into())) };
        let mut messages = Vec::with_capacity(count.min(ROOM_MAX));
        for _ in 0..count {
            let length = elements(cursor, 2, "a message")?;
            let (subject, value) = (needed_key(cursor)?, stored(cursor)?);
            pass_over(cursor, length - 2)?;
            messages.push(SubjectMessage { subject, value });
        }
        pass_over(cursor, length - 3)?;
        revisions.push(RevisionMessages { revision, time_ms, messages });
    }
    Ok(revisions)
}

/// A listener relies on all of this when it decides what it has missed.
fn check(pattern: &[u8], message: &PublishedMessages) -> Result<(), Failure> {
    let mut before = message.prev;
    for told in &message.revisions {
        if told.revision <= before || told.revision > message.revision {
            return Err(wrong("has revisions out of order or outside of its span"));
        }
        before = told.revision;
        if told.messages.is_empty() {
            return Err(wrong("has a revision without messages"));
        }
        for SubjectMessage { subject, .. } in &told.messages {
            // In this order: a subject that is none may match.
            if subject_name(subject.clone()).is_err() || !subject_matches(pattern, subject) {
                return Err(wrong("tells of a subject of another pattern"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::convert::json_to_msgpack;
    use crate::stream::stream_topic;

    fn about(subject: &str, json: &str) -> SubjectMessage {
        let document = json_to_msgpack(json.as_bytes()).unwrap();
        SubjectMessage { subject: subject.into(), value: Stored::from_msgpack(&document).unwrap() }
    }

    fn sample() -> PublishedMessages {
        let revision = |revision, messages| RevisionMessages { revision, time_ms: 1_700_000_000_000 + revision, messages };
        PublishedMessages {
            epoch: 0x0123_4567_89ab_cdef,
            prev: 3,
            revision: 300,
            revisions: vec![
                revision(4, vec![about("orders.new", r#"{"deep":[1,2]}"#), about("orders.\u{fc}", "7")]),
                revision(299, vec![about("orders.new", "null")]),
            ],
        }
    }

    fn body(message: &PublishedMessages) -> Vec<u8> {
        let mut body = Vec::new();
        message.encode(&mut body);
        body
    }

    #[test]
    fn every_message_reads_back_and_no_truncation_panics() {
        let bookmark = PublishedMessages { epoch: u64::MAX, prev: 7, revision: 7, revisions: vec![] };
        for message in [sample(), bookmark] {
            let (topic, body) = (message_stream_topic(b"orders.*"), body(&message));
            assert_eq!(PublishedMessages::decode(&topic, &body).unwrap(), Some((b"orders.*".to_vec(), message.clone())));
            for length in 0..body.len() {
                assert!(PublishedMessages::decode(&topic, &body[..length]).is_err());
            }
        }
    }

    /// The bytes that listeners in other languages rely on.
    #[test]
    fn on_the_wire_it_is_as_documented() {
        assert_eq!(message_stream_topic(b"orders.*"), b"m\0\x08orders.*");
        let revisions = vec![RevisionMessages { revision: 9, time_ms: 5, messages: vec![about("orders.new", "7")] }];
        let message = PublishedMessages { epoch: 0x1f, prev: 7, revision: 12, revisions };
        let expected = b"\x84\xa5epoch\xb0000000000000001f\xa4prev\x07\xa3rev\x0c\
            \xa8messages\x91\x93\x09\x05\x91\x92\xaaorders.new\x07";
        assert_eq!(body(&message), expected);
        let bookmark = PublishedMessages { revisions: vec![], ..message };
        assert_eq!(body(&bookmark), b"\x83\xa5epoch\xb0000000000000001f\xa4prev\x07\xa3rev\x0c");
    }

    #[test]
    fn a_topic_belongs_to_one_pattern_and_to_streams_of_messages_alone() {
        for pattern in [b"a".as_slice(), b"a.*", b"#", b"*.#.z"] {
            let topic = message_stream_topic(pattern);
            assert_eq!(pattern_of_message_topic(&topic), Some(pattern));
            assert_eq!(StreamKind::of_topic(&topic), Some((StreamKind::Messages, pattern)));
            assert_eq!(StreamKind::Messages.topic(pattern), topic);
        }
        assert!(!message_stream_topic(b"ab").starts_with(&message_stream_topic(b"a")));
        let long = message_stream_topic(&[b'x'; 256]);
        for topic in
            [&b""[..], b"m", b"m\0", b"m\0\0", b"m\0\x02a", b"m\0\x01ab", b"m\0\x02a*", b"m\0\x02a.", &long, &stream_topic(b"a")]
        {
            assert_eq!(pattern_of_message_topic(topic), None, "{topic:?}");
            assert_eq!(PublishedMessages::decode(topic, b"\x80").unwrap(), None);
        }
        assert_eq!(StreamKind::of_topic(&stream_topic(b"a.*")), Some((StreamKind::Changes, b"a.*".as_slice())));
    }

    #[test]
    fn what_a_chain_may_not_say_is_refused() {
        let refused = |change: fn(&mut PublishedMessages), pattern: &[u8]| {
            let mut message = sample();
            change(&mut message);
            PublishedMessages::decode(&message_stream_topic(pattern), &body(&message)).unwrap_err().message
        };
        assert!(refused(|_| {}, b"orders.new").contains("another pattern"));
        assert!(
            refused(|message| message.revisions[0].messages[0].subject = b"orders.*".to_vec(), b"orders.*").contains("pattern")
        );
        assert!(refused(|message| message.prev = 301, b"orders.*").contains("before it begins"));
        assert!(refused(|message| message.prev = 4, b"orders.*").contains("out of order"));
        assert!(refused(|message| message.revision = 298, b"orders.*").contains("out of order"));
        assert!(refused(|message| message.revisions.reverse(), b"orders.*").contains("out of order"));
        assert!(refused(|message| message.revisions[0].messages.clear(), b"orders.*").contains("without messages"));
    }

    #[test]
    fn what_later_versions_say_is_passed_over() {
        let longer = json_to_msgpack(
            br#"{"later":[1],"epoch":"000000000000001f","prev":1,"rev":3,"messages":[[2,5,[["a.b",7,"more"]],{}]]}"#,
        );
        let revisions = vec![RevisionMessages { revision: 2, time_ms: 5, messages: vec![about("a.b", "7")] }];
        let message = PublishedMessages { epoch: 0x1f, prev: 1, revision: 3, revisions };
        let read = PublishedMessages::decode(&message_stream_topic(b"a.#"), &longer.unwrap()).unwrap();
        assert_eq!(read, Some((b"a.#".to_vec(), message)));
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let (topic, mut seed) = (message_stream_topic(b"orders.*"), 0x9e37_79b9_7f4a_7c15_u64);
        let good = body(&sample());
        for _ in 0..20_000 {
            let mut damaged = good.clone();
            for _ in 0..=seed % 4 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = seed as usize % damaged.len();
                damaged[at] = (seed >> 32) as u8;
            }
            let _ = PublishedMessages::decode(&topic, &damaged);
        }
    }
}
