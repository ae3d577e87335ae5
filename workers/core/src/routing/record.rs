//! The records of routing, byte by byte (docs/storage.md says the same).
//!
//! - Binding, space `b`: key = queue's id (u64 big-endian), pattern; value = 0, or 1 and the text of the predicate.
//! - Messages, space `m`: one record, whose key is empty; value = how many were published, and how many of them no queue wanted (u64
//!   little-endian each).

use kvbroker_protocol::{limits, subject_pattern};

use super::{Bound, Counts};
use crate::change::{Change, Space};
use crate::queues::QueueId;

/// Every value fits.
const PLAIN: u8 = 0;
/// A predicate follows.
const FILTERED: u8 = 1;

/// The queue and the pattern of a key.
pub(crate) fn split_binding_key(key: &[u8]) -> Option<(QueueId, &[u8])> {
    let (queue, pattern) = key.split_first_chunk()?;
    Some((QueueId::from_bytes(*queue), pattern))
}

fn binding_key(queue: QueueId, pattern: &[u8]) -> Vec<u8> {
    [&queue.to_bytes()[..], pattern].concat()
}

/// The text of a binding's predicate; empty: it has none.
pub(crate) fn read_binding(value: &[u8]) -> Option<&str> {
    match value {
        [PLAIN] => Some(""),
        [FILTERED, text @ ..] if !text.is_empty() => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

/// The change that binds a queue.
pub(crate) fn put_binding(queue: QueueId, pattern: &[u8], filter: &str) -> Change {
    let kind = if filter.is_empty() { PLAIN } else { FILTERED };
    let value = [&[kind], filter.as_bytes()].concat();
    Change { space: Space::Binding, key: binding_key(queue, pattern), value: Some(value) }
}

/// The change that ends a binding.
pub(super) fn delete_binding(queue: QueueId, pattern: &[u8]) -> Change {
    Change { space: Space::Binding, key: binding_key(queue, pattern), value: None }
}

/// Reads how many messages there were.
pub(crate) fn read_counts(value: &[u8]) -> Option<Counts> {
    let (published, unroutable) = value.split_first_chunk()?;
    let unroutable = u64::from_le_bytes(unroutable.try_into().ok()?);
    Some(Counts { published: u64::from_le_bytes(*published), unroutable })
}

/// The change that counts messages.
pub(crate) fn put_counts(counts: Counts) -> Change {
    let value = [counts.published.to_le_bytes(), counts.unroutable.to_le_bytes()].concat();
    Change { space: Space::Messages, key: Vec::new(), value: Some(value) }
}

/// True if the bytes are a value of this space.
pub(crate) fn is_record(space: Space, key: &[u8], value: &[u8]) -> bool {
    match space {
        Space::Binding => split_binding_key(key).is_some_and(|(_, pattern)| {
            let is_pattern = pattern.len() <= limits::SUBJECT_BYTES_MAX && subject_pattern(pattern.to_vec()).is_ok();
            is_pattern && read_binding(value).is_some_and(|filter| Bound::new(pattern, filter).is_some())
        }),
        Space::Messages => key.is_empty() && read_counts(value).is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_read_back_and_nothing_else_does() {
        let queue = QueueId::new(7, 3).unwrap();
        for filter in ["", "total > 100"] {
            let change = put_binding(queue, b"a.#", filter);
            let value = change.value.unwrap();
            assert!(is_record(Space::Binding, &change.key, &value));
            assert_eq!((split_binding_key(&change.key), read_binding(&value)), (Some((queue, &b"a.#"[..])), Some(filter)));
        }
        let key = binding_key(queue, b"a.#");
        for bad in [&b""[..], b"\x01", b"\x02", b"\0x", b"\x01=", b"\x01\xff"] {
            assert!(!is_record(Space::Binding, &key, bad), "{bad:?}");
        }
        for bad in [&b"short"[..], &binding_key(queue, b""), &binding_key(queue, b"a*")] {
            assert!(!is_record(Space::Binding, bad, &[PLAIN]));
        }
        let counts = Counts { published: 5, unroutable: 2 };
        let change = put_counts(counts);
        let value = change.value.unwrap();
        assert!(is_record(Space::Messages, &change.key, &value) && !is_record(Space::Messages, b"x", &value));
        assert_eq!(read_counts(&value), Some(counts));
        assert!((0..value.len()).all(|length| read_counts(&value[..length]).is_none()));
    }
}
