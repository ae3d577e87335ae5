//! Operations on single keys: get, mget, put, del, incr, and the conditions on them.

use kvbroker_protocol::{Answer, Condition, ErrorCode, Failure, Found, Key, Stored, integer_of, limits, same_value};

use crate::decide::Turn;
use crate::expire::deadline_ms;
use crate::overlay::{Overlay, Seen};

/// The integers that MessagePack can say.
const INTEGERS: std::ops::RangeInclusive<i128> = i64::MIN as i128..=u64::MAX as i128;

pub(crate) fn not_found() -> Failure {
    Failure::new(ErrorCode::NotFound, "there is no such key")
}

fn reply_full() -> Failure {
    Failure::new(ErrorCode::ReplyFull, "this array's reply is full; ask for this operation in a message of its own")
}

pub(crate) fn get(overlay: &Overlay<'_>, key: &[u8], turn: &mut Turn) -> Result<Answer, Failure> {
    let seen = overlay.get(key).ok_or_else(not_found)?;
    if !turn.take_reply_bytes(seen.record.stored.len()) {
        return Err(reply_full());
    }
    Ok(Answer::Value { value: seen.record.value(), modified: seen.modified, created: seen.created() })
}

/// The values of several keys, all at one revision.
pub(crate) fn mget(overlay: &Overlay<'_>, keys: &[Key], turn: &mut Turn) -> Result<Answer, Failure> {
    let found: Vec<Option<Seen<'_>>> = keys.iter().map(|key| overlay.get(key)).collect();
    // Summed up before a value is copied: many keys with large values must not take the memory first.
    let bytes = found.iter().flatten().map(|seen| seen.record.stored.len()).sum::<usize>();
    if bytes > limits::ARRAY_REPLY_BYTES_MAX {
        let message = format!(
            "these values have {bytes} bytes together, a reply {} at most; ask for fewer keys",
            limits::ARRAY_REPLY_BYTES_MAX
        );
        return Err(Failure::new(ErrorCode::ReplyFull, message));
    }
    if !turn.take_reply_bytes(bytes) {
        return Err(reply_full());
    }
    let value = |seen: Seen<'_>| Found { value: seen.record.value(), modified: seen.modified, created: seen.created() };
    Ok(Answer::Values(found.into_iter().map(|seen| seen.map(value)).collect()))
}

/// Stores a value. Without a time to live the key stays, also where it had a deadline before.
pub(crate) fn put(
    overlay: &mut Overlay<'_>,
    key: Key,
    value: Stored,
    condition: Option<&Condition>,
    ttl_ms: Option<u64>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    if condition.is_some() {
        check(condition, overlay.get(&key).as_ref(), turn)?;
    }
    let expires_ms = ttl_ms.map(|ttl_ms| deadline_ms(overlay, ttl_ms));
    overlay.put(key, value, expires_ms);
    Ok(Answer::Done)
}

pub(crate) fn del(
    overlay: &mut Overlay<'_>,
    key: Key,
    return_old: bool,
    condition: Option<&Condition>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    let seen = overlay.get(&key).ok_or_else(not_found)?;
    check(condition, Some(&seen), turn)?;
    let answer = if return_old {
        // Refused before anything changes: a removed value must not get lost with a reply that is full.
        if !turn.take_reply_bytes(seen.record.stored.len()) {
            return Err(reply_full());
        }
        Answer::Removed(seen.record.value())
    } else {
        Answer::Done
    };
    overlay.delete(key);
    Ok(answer)
}

/// Adds to an integer; a key that is not there counts as 0. A deadline stays.
pub(crate) fn incr(overlay: &mut Overlay<'_>, key: Key, by: i64) -> Result<Answer, Failure> {
    let seen = overlay.get(&key);
    let before = match &seen {
        None => 0,
        Some(seen) => integer_of(seen.record.stored).ok_or_else(|| {
            Failure::new(ErrorCode::WrongType, "the value is not an integer (a text such as \"5\" is none); put one first")
        })?,
    };
    let after = before + i128::from(by);
    let Some(value) = INTEGERS.contains(&after).then(|| Stored::integer(after)) else {
        let message = format!("{before} {by:+} is {after}, outside the integers from -2^63 to 2^64-1");
        return Err(Failure::new(ErrorCode::OutOfRange, message));
    };
    let expires_ms = seen.and_then(|seen| seen.record.expires_ms);
    overlay.put(key, value, expires_ms);
    Ok(Answer::Integer(after))
}

/// True if the condition holds of what is seen of its key.
pub(crate) fn holds(condition: &Condition, seen: Option<&Seen<'_>>, turn: &mut Turn) -> bool {
    match (condition, seen) {
        (Condition::Absent, seen) => seen.is_none(),
        (Condition::Exists, seen) => seen.is_some(),
        // Revision 0 is before every change: the key must not be there.
        (Condition::Revision(wanted), None) => *wanted == 0,
        (Condition::Revision(wanted), Some(seen)) => seen.modified == *wanted,
        (Condition::Value(_), None) => false,
        (Condition::Value(wanted), Some(seen)) => {
            turn.compare(wanted.as_bytes().len() + seen.record.stored.len());
            same_value(wanted.as_bytes(), seen.record.stored)
        }
    }
}

fn check(condition: Option<&Condition>, seen: Option<&Seen<'_>>, turn: &mut Turn) -> Result<(), Failure> {
    let Some(condition) = condition.filter(|condition| !holds(condition, seen, turn)) else { return Ok(()) };
    let message = match (condition, seen) {
        (_, None) => "there is no such key".to_owned(),
        (Condition::Revision(wanted), Some(seen)) => {
            format!("the key was last changed at revision {}, not {wanted}", seen.modified)
        }
        (Condition::Value(_), Some(seen)) => format!("the key has another value, last changed at revision {}", seen.modified),
        (_, Some(seen)) => format!("the key is there, last changed at revision {}", seen.modified),
    };
    Err(Failure::new(ErrorCode::Conflict, message))
}
