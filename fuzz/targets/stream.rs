//! What must hold for any message of a stream.
//!
//! - Nothing panics. What is taken is a link of a chain: revisions in order, within its span, each with changes, and of its prefix alone.
//! - It says the same once it was encoded anew.

use kvbroker_protocol::{StreamMessage, prefix_of_stream_topic, stream_topic};

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
            return Became::NoStream;
        }
        Ok(Some((prefix, message))) => {
            assert_eq!(stream_topic(&prefix), topic);
            check(&prefix, &message);
            message
        }
        Err(failure) => {
            assert!(failure.message.len() <= 600 && !failure.message.chars().any(char::is_control), "{:?}", failure.message);
            return Became::Refused;
        }
    };
    let mut again = Vec::new();
    message.encode(&mut again);
    let again = StreamMessage::decode(topic, &again).expect("what was taken can be told").expect("the topic is the same");
    assert_eq!(again.1, message);
    if message.is_bookmark() { Became::Bookmark } else { Became::Changes }
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
