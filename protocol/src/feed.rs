//! The plain feed: what a bare subscriber receives, and what the publisher sends it.
//!
//! - A message is two frames: a topic and a MessagePack map. A topic is `k` and the key's bytes for a change, `h` for the heartbeat.
//! - The feed is best effort: a subscriber that reads too slowly loses messages without any sign. Heartbeats only show that the
//!   publisher is there and how far it is.
//! - Fields that a reader does not know are passed over: later brokers may say more.

use crate::error::Failure;
use crate::limits::DEPTH_MAX;
use crate::msgpack::{self, Cursor, Malformed, Token, write};
use crate::reply::VersionKind;
use crate::value::{Key, Stored, ValueKind};

/// First byte of the topics of changes; the key's bytes follow.
pub const FEED_CHANGE_TOPIC: u8 = b'k';
/// The topic of heartbeats.
pub const FEED_HEARTBEAT_TOPIC: &[u8] = b"h";
/// Pause between two heartbeats, milliseconds.
pub const FEED_HEARTBEAT_MS: u64 = 1_000;
/// Without a heartbeat for this long a subscriber gives its connection up, milliseconds.
pub const FEED_SILENCE_MS: u64 = 3_000;

/// One message of the plain feed.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedMessage {
    /// A key was put or removed, or has expired.
    Change {
        /// The log's epoch; compared for equality only.
        epoch: u64,
        /// The revision that made the change.
        revision: u64,
        /// The key.
        key: Key,
        /// What became of the key.
        kind: VersionKind,
    },
    /// The publisher is there.
    Heartbeat {
        /// The log's epoch.
        epoch: u64,
        /// The last revision that was published.
        revision: u64,
    },
}

/// The topic to subscribe to for the changes of all keys with this prefix, and of a change's message with the whole key.
pub fn feed_topic(prefix: &[u8]) -> Vec<u8> {
    [&[FEED_CHANGE_TOPIC], prefix].concat()
}

impl FeedMessage {
    /// The first frame.
    pub fn topic(&self) -> Vec<u8> {
        match self {
            FeedMessage::Change { key, .. } => feed_topic(key),
            FeedMessage::Heartbeat { .. } => FEED_HEARTBEAT_TOPIC.to_vec(),
        }
    }

    /// Appends the second frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, length: usize, epoch: u64, revision: u64| {
            write::map(out, length);
            write::text(out, "epoch");
            write::text(out, &format!("{epoch:016x}"));
            write::text(out, "rev");
            write::uint(out, revision);
        };
        match self {
            FeedMessage::Heartbeat { epoch, revision } => head(out, 2, *epoch, *revision),
            FeedMessage::Change { epoch, revision, key, kind } => {
                let value = match kind {
                    VersionKind::Put(value) => Some(value),
                    VersionKind::Remove | VersionKind::Expire => None,
                };
                head(out, if value.is_some() { 5 } else { 4 }, *epoch, *revision);
                write::text(out, "key");
                write::key(out, key);
                write::text(out, "kind");
                write::text(out, kind.name());
                if let Some(value) = value {
                    write::text(out, "value");
                    value.write_msgpack(out);
                }
            }
        }
    }

    /// Reads one message. `None` for topics and kinds of change that this version does not know.
    ///
    /// # Errors
    /// `invalid` when the body does not follow the protocol.
    pub fn decode(topic: &[u8], body: &[u8]) -> Result<Option<FeedMessage>, Failure> {
        let is_heartbeat = topic == FEED_HEARTBEAT_TOPIC;
        if !is_heartbeat && topic.first() != Some(&FEED_CHANGE_TOPIC) {
            return Ok(None);
        }
        let wrong = |what: &str| Failure::invalid(format!("a notification {what}"));
        let malformed = |error: Malformed| wrong(&format!("is malformed: {error}"));
        msgpack::check(body, DEPTH_MAX + 2).map_err(malformed)?;
        let mut cursor = Cursor::new(body);
        let Token::Map(length) = cursor.token().map_err(malformed)? else { return Err(wrong("is not a map")) };
        let (mut epoch, mut revision, mut key, mut kind, mut value) = (None, None, None, None, None);
        for _ in 0..length {
            let name = cursor.token().map_err(malformed)?;
            let at = cursor.offset();
            let field = match cursor.raw() {
                Ok(_) => Cursor::new(&body[at..cursor.offset()]).token().map_err(malformed)?,
                Err(error) => return Err(malformed(error)),
            };
            match (name, field) {
                (Token::Str("epoch"), Token::Str(digits)) => epoch = u64::from_str_radix(digits, 16).ok(),
                (Token::Str("rev"), Token::UInt(number)) => revision = Some(number),
                (Token::Str("key"), Token::Str(text)) => key = Some(text.as_bytes().to_vec()),
                (Token::Str("key"), Token::Bin(bytes)) => key = Some(bytes.to_vec()),
                (Token::Str("kind"), Token::Str(text)) => kind = Some(text),
                (Token::Str("value"), _) => value = Some(Stored::unbounded(ValueKind::MessagePack, &body[at..cursor.offset()])),
                _ => {}
            }
        }
        let epoch = epoch.ok_or_else(|| wrong("has no epoch"))?;
        let revision = revision.ok_or_else(|| wrong("has no rev"))?;
        if is_heartbeat {
            return Ok(Some(FeedMessage::Heartbeat { epoch, revision }));
        }
        let key = key.ok_or_else(|| wrong("of a change has no key"))?;
        let kind = match kind.ok_or_else(|| wrong("of a change has no kind"))? {
            "put" => VersionKind::Put(value.ok_or_else(|| wrong("of a put has no value"))?),
            "remove" => VersionKind::Remove,
            "expire" => VersionKind::Expire,
            _ => return Ok(None),
        };
        Ok(Some(FeedMessage::Change { epoch, revision, key, kind }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn samples() -> [FeedMessage; 4] {
        let epoch = u64::MAX - 1;
        let put = VersionKind::Put(Stored::text("v").unwrap());
        [
            FeedMessage::Change { epoch, revision: 300, key: b"a/b".to_vec(), kind: put },
            FeedMessage::Change { epoch, revision: 1, key: vec![0xff, 0], kind: VersionKind::Remove },
            FeedMessage::Change { epoch, revision: 2, key: b"a".to_vec(), kind: VersionKind::Expire },
            FeedMessage::Heartbeat { epoch, revision: 0 },
        ]
    }

    #[test]
    fn every_message_reads_back_and_no_truncation_panics() {
        for message in samples() {
            let mut body = Vec::new();
            message.encode(&mut body);
            assert_eq!(FeedMessage::decode(&message.topic(), &body).unwrap(), Some(message.clone()));
            for length in 0..body.len() {
                assert!(FeedMessage::decode(&message.topic(), &body[..length]).is_err());
            }
        }
    }

    #[test]
    fn a_prefix_subscribes_to_its_keys_and_not_to_heartbeats() {
        let [change, _, _, heartbeat] = samples();
        assert!(change.topic().starts_with(&feed_topic(b"a/")));
        assert!(change.topic().starts_with(&feed_topic(b"")));
        assert!(!heartbeat.topic().starts_with(&feed_topic(b"")));
    }

    #[test]
    fn what_later_versions_say_is_passed_over() {
        assert_eq!(FeedMessage::decode(b"s\0\0", b"\x80").unwrap(), None);
        let mut body = Vec::new();
        write::map(&mut body, 5);
        for (name, value) in [("epoch", "1f"), ("key", "k"), ("kind", "lease"), ("more", "x")] {
            write::text(&mut body, name);
            write::text(&mut body, value);
        }
        write::text(&mut body, "rev");
        write::uint(&mut body, 1);
        assert_eq!(FeedMessage::decode(b"kk", &body).unwrap(), None);
        assert!(FeedMessage::decode(b"kk", b"\x80").is_err());
        assert!(FeedMessage::decode(b"h", b"\x01").is_err());
    }
}
