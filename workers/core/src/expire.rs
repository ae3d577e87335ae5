//! Deadlines: expire, persist, ttl.
//!
//! - A deadline is a moment of the broker's own time, fixed when it is set; it goes on while the broker is down.
//! - A key is there until its expiry is applied, whatever the time is: only `ttl` and new deadlines look at the stamp's time.
//! - The deadline is part of the key's record, so changing it writes the record again: the key keeps the revision at which it came
//!   into being and gets a new one of its last change. What a small request makes the log write in this way is bounded by the turn.

use kvbroker_protocol::{Answer, Deadline, ErrorCode, Failure, Key};

use crate::decide::Turn;
use crate::overlay::Overlay;
use crate::point::not_found;

/// The deadline of what lives so long from now on. Past the end of time is the end of time.
pub(crate) fn deadline_ms(overlay: &Overlay<'_>, ttl_ms: u64) -> u64 {
    overlay.time_ms().saturating_add(ttl_ms)
}

pub(crate) fn expire(overlay: &mut Overlay<'_>, key: Key, ttl_ms: u64, turn: &mut Turn) -> Result<Answer, Failure> {
    let expires_ms = deadline_ms(overlay, ttl_ms);
    set(overlay, key, Some(expires_ms), turn)
}

pub(crate) fn persist(overlay: &mut Overlay<'_>, key: Key, turn: &mut Turn) -> Result<Answer, Failure> {
    let seen = overlay.get(&key).ok_or_else(not_found)?;
    if seen.record.expires_ms.is_none() {
        return Ok(Answer::Done);
    }
    set(overlay, key, None, turn)
}

pub(crate) fn ttl(overlay: &Overlay<'_>, key: &[u8]) -> Result<Answer, Failure> {
    let seen = overlay.get(key).ok_or_else(not_found)?;
    let deadline = |at_ms: u64| Deadline { left_ms: at_ms.saturating_sub(overlay.time_ms()), at_ms };
    Ok(Answer::Ttl(seen.record.expires_ms.map(deadline)))
}

fn set(overlay: &mut Overlay<'_>, key: Key, expires_ms: Option<u64>, turn: &mut Turn) -> Result<Answer, Failure> {
    let seen = overlay.get(&key).ok_or_else(not_found)?;
    if !turn.take_log_bytes(key.len() + seen.record.stored.len()) {
        let message =
            "the values whose deadlines this message changes are too large together; ask for this operation in another one";
        return Err(Failure::new(ErrorCode::ReplyFull, message));
    }
    let value = seen.record.value();
    overlay.put(key, value, expires_ms);
    Ok(Answer::Done)
}
