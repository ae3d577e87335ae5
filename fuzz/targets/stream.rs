//! What must hold for any message of a stream.
//!
//! - Nothing panics. What is taken is a link of a chain: revisions in order, within its span, each with changes, and of its prefix alone; or
//!   each with messages, and of its pattern alone.
//! - It says the same once it was encoded anew.

use kvbroker_protocol::{
    PublishedMessages, StreamMessage, message_stream_topic, pattern_of_message_topic, prefix_of_stream_topic, stream_topic,
    subject_matches,
};

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Became {
    /// Its topic is no stream's.
    NoStream,
    /// It is no message of one.
    Refused,
    /// It tells of no change.
    Bookmark,
    /// It tells of changes.
    Changes,
    /// It tells of published messages.
    Messages,
}

/// A message as it arrives: one byte that says how long the topic is, the topic, the body.
///
/// # Panics
/// If a rule is broken.
pub fn stream(input: &[u8]) -> Became {
    let Some((length, rest)) = input.split_first() else { return Became::NoStream };
    let (topic, body) = rest.split_at(usize::from(*length).min(rest.len()));
    let message = match StreamMessage::decode(topic, body) {
        Ok(None) => {
            assert_eq!(prefix_of_stream_topic(topic), None);
            return published(topic, body);
        }
        Ok(Some((prefix, message))) => {
            assert_eq!(stream_topic(&prefix), topic);
            check(&prefix, &message);
            message
        }
        Err(failure) => return refused(&failure.message),
    };
    let mut again = Vec::new();
    message.encode(&mut again);
    let again = StreamMessage::decode(topic, &again).expect("what was taken can be told").expect("the topic is the same");
    assert_eq!(again.1, message);
    if message.is_bookmark() { Became::Bookmark } else { Became::Changes }
}

fn refused(sentence: &str) -> Became {
    assert!(sentence.len() <= 600 && !sentence.chars().any(char::is_control), "{sentence:?}");
    Became::Refused
}

/// The same for streams of published messages.
fn published(topic: &[u8], body: &[u8]) -> Became {
    let (pattern, message) = match PublishedMessages::decode(topic, body) {
        Ok(None) => {
            assert_eq!(pattern_of_message_topic(topic), None);
            return Became::NoStream;
        }
        Ok(Some(read)) => read,
        Err(failure) => return refused(&failure.message),
    };
    assert_eq!(message_stream_topic(&pattern), topic);
    let mut before = message.prev;
    for told in &message.revisions {
        assert!(before < told.revision && !told.messages.is_empty());
        assert!(told.messages.iter().all(|one| subject_matches(&pattern, &one.subject)));
        before = told.revision;
    }
    assert!(before <= message.revision);
    let mut again = Vec::new();
    message.encode(&mut again);
    let again = PublishedMessages::decode(topic, &again).expect("what was taken can be told").expect("the topic is the same");
    assert_eq!(again.1, message);
    if message.is_bookmark() { Became::Bookmark } else { Became::Messages }
}

fn check(prefix: &[u8], message: &StreamMessage) {
    let mut before = message.prev;
    for events in &message.events {
        assert!(before < events.revision && !events.changes.is_empty());
        assert!(events.changes.iter().all(|change| change.key.starts_with(prefix)));
        before = events.revision;
    }
    assert!(before <= message.revision);
}
