//! Whether a numbered mutation is done, answered again, or refused.

use kvbroker_protocol::{ErrorCode, Failure, Fate, Outcome, SessionId, limits};

use super::evict::{Freed, make_reply_room, make_room};
use super::record::{Reply, SessionRecord, WindowRecord, free_window};
use super::{Session, SessionBounds, Sessions};
use crate::change::Change;

/// A mutation's place in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered<'a> {
    /// The authenticated user.
    pub owner: &'a [u8],
    /// The session.
    pub session: SessionId,
    /// The mutation's number in it.
    pub seq: u64,
    /// Replies up to this number were read.
    pub ack: u64,
    /// The hash of what is asked (see [`kvbroker_protocol::request_hash`]).
    pub hash: u64,
}

/// What to do with a numbered mutation.
#[derive(Debug, PartialEq)]
pub(crate) enum Admission {
    /// It is new: decide it, and remember the outcome.
    New {
        /// What else to log with it: the session's first record, and what made room for it.
        changes: Vec<Change>,
        /// The number up to which replies are acknowledged from now on.
        acked: u64,
    },
    /// It was decided before: this was the answer.
    Again(Outcome),
    /// It takes no number.
    Refused(Failure),
}

/// Looks at a numbered mutation before it is decided.
pub(crate) fn admit(sessions: &Sessions, numbered: &Numbered<'_>, time_ms: u64, bounds: &SessionBounds) -> Admission {
    match admission(sessions, numbered, time_ms, bounds) {
        Ok(admission) => admission,
        Err(failure) => Admission::Refused(failure),
    }
}

fn admission(sessions: &Sessions, numbered: &Numbered<'_>, time_ms: u64, bounds: &SessionBounds) -> Result<Admission, Failure> {
    let Numbered { owner, session: id, seq, ack, hash } = *numbered;
    if seq == 0 {
        return Err(Failure::invalid("the numbers of a session start at 1"));
    }
    if ack >= seq {
        return Err(Failure::invalid(format!("`ack` {ack} says that the reply to number {seq} was read, which is sent here")));
    }
    let Some(session) = sessions.known.get(&id) else {
        is_new(sessions, owner, id, time_ms)?;
        if ack > 0 {
            return Err(expired());
        }
        if seq > 1 {
            return Err(hole(0, seq));
        }
        let mut changes = Vec::new();
        let mut is_room_made = false;
        if let Some(freed) = room_for_replies(sessions, numbered, None, 0, time_ms, bounds)? {
            // It makes room for a session as well, but not where the owner has too many of its own and another's has gone.
            is_room_made = freed.owner == owner || sessions.owners.count(owner) < bounds.per_owner_max;
            changes = freed.changes;
        }
        if !is_room_made {
            changes.extend(make_room(sessions, owner, time_ms, bounds)?);
        }
        changes.push(SessionRecord { ended: false, used_ms: time_ms, highest: 0, owner }.change(id));
        return Ok(Admission::New { changes, acked: 0 });
    };
    if *session.owner != *owner {
        return Err(Failure::new(ErrorCode::Refused, "the session belongs to another user; get one of your own from hello"));
    }
    if session.ended {
        return Err(expired());
    }
    if seq <= session.acked {
        let message = format!("the reply to number {seq} was acknowledged and is forgotten");
        return Err(Failure::new(ErrorCode::UnknownOutcome, message));
    }
    if let Some(remembered) = session.replies.get(seq) {
        let original = remembered.outcome();
        if remembered.hash == hash {
            return Ok(Admission::Again(original));
        }
        let message = format!("number {seq} of the session was used for another request");
        return Err(Failure { original: Some(Box::new(original)), ..Failure::new(ErrorCode::IdReused, message) });
    }
    if ack > session.highest {
        // The client has read replies of which nothing is known here: a weaker sync mode has lost them, or a backup came back.
        let message = format!(
            "`ack` {ack} is ahead of the session, whose last number here is {}; what came after it is lost. Get a new one from hello",
            session.highest
        );
        return Err(Failure::new(ErrorCode::SessionExpired, message));
    }
    if seq > session.highest + 1 {
        return Err(hole(session.highest, seq));
    }
    let acked = session.acked.max(ack);
    if seq - acked > limits::SESSION_WINDOW as u64 {
        let message = format!("{} replies are not acknowledged; read some, and say so in `ack`", limits::SESSION_WINDOW);
        return Err(Failure::busy(message, limits::RETRY_AFTER_MS));
    }
    let freed = room_for_replies(sessions, numbered, Some(session), acked, time_ms, bounds)?;
    Ok(Admission::New { changes: freed.map(|freed| freed.changes).unwrap_or_default(), acked })
}

/// An unknown session must be one that was never known: born behind the floor, and not in the future.
fn is_new(sessions: &Sessions, owner: &[u8], id: SessionId, time_ms: u64) -> Result<(), Failure> {
    if id.born_ms() > time_ms.saturating_add(limits::SESSION_AHEAD_MS) {
        return Err(Failure::invalid("the session id is none of this broker's; get one from hello"));
    }
    match sessions.owners.floor_ms(owner) {
        Some(floor_ms) if id.born_ms() <= floor_ms => Err(expired()),
        _ => Ok(()),
    }
}

fn expired() -> Failure {
    let message = "the session is not known any more; what was sent in it before may have been done. Get a new one from hello";
    Failure::new(ErrorCode::SessionExpired, message)
}

fn hole(highest: u64, seq: u64) -> Failure {
    let message = format!("number {seq} came before number {}; send that one first", highest + 1);
    Failure::new(ErrorCode::OutOfOrder, message)
}

/// What makes room for one more remembered reply; None: there is room.
fn room_for_replies<'a>(
    sessions: &'a Sessions,
    numbered: &Numbered<'_>,
    session: Option<&Session>,
    acked: u64,
    time_ms: u64,
    bounds: &SessionBounds,
) -> Result<Option<Freed<'a>>, Failure> {
    let Numbered { owner, session: id, .. } = *numbered;
    let (mut total, mut of_owner) = (sessions.bytes, sessions.owners.bytes(owner));
    let is_full = |total, of_owner| total >= bounds.reply_bytes_max || of_owner >= bounds.per_owner_reply_bytes_max;
    if let Some(session) = session {
        let own_is_full = session.bytes >= limits::SESSION_REPLY_BYTES_MAX;
        // What the acknowledgement frees is summed up only where it matters.
        let behind = if own_is_full || is_full(total, of_owner) { session.bytes_behind(acked) } else { session.bytes };
        if behind >= limits::SESSION_REPLY_BYTES_MAX {
            let message = format!("the session's unacknowledged replies have {behind} bytes; read some, and say so in `ack`");
            return Err(Failure::busy(message, limits::RETRY_AFTER_MS));
        }
        total -= session.bytes - behind;
        of_owner -= session.bytes - behind;
    }
    if !is_full(total, of_owner) {
        return Ok(None);
    }
    // What the owner has too much of, nobody else makes room for.
    let whose = (of_owner >= bounds.per_owner_reply_bytes_max).then_some(owner);
    make_reply_room(sessions, id, whose, time_ms, bounds).map(Some).ok_or_else(|| {
        let whose = if whose.is_some() { "all sessions of this user" } else { "all sessions" };
        let message = format!("the unacknowledged replies of {whose} fill the room that there is for them");
        Failure::busy(message, limits::RETRY_AFTER_MS)
    })
}

/// The change that remembers an outcome, in a group of this revision.
pub(crate) fn remember(numbered: &Numbered<'_>, acked: u64, outcome: &Outcome, revision: u64, time_ms: u64) -> Change {
    let reply = Reply::keep(outcome, revision);
    let Numbered { session, seq, hash, .. } = *numbered;
    WindowRecord { seq, hash, acked, used_ms: time_ms, reply }.change(session)
}

/// The changes that end a session; none where there is nothing to end.
///
/// # Errors
/// `refused` for another user's session, `conflict` where replies were not read.
pub(crate) fn end(sessions: &Sessions, owner: &[u8], id: SessionId, ack: u64, time_ms: u64) -> Result<Vec<Change>, Failure> {
    let Some(session) = sessions.known.get(&id).filter(|session| !session.ended) else { return Ok(Vec::new()) };
    if *session.owner != *owner {
        return Err(Failure::new(ErrorCode::Refused, "the session belongs to another user"));
    }
    if ack < session.highest {
        let message =
            format!("the replies from number {} to {} were not acknowledged; the session goes on", ack + 1, session.highest);
        return Err(Failure::new(ErrorCode::Conflict, message));
    }
    let record = SessionRecord { ended: true, used_ms: time_ms, highest: session.highest, owner };
    Ok(std::iter::once(record.change(id)).chain(free_window(id, session.highest)).collect())
}

/// What became of a mutation.
///
/// # Errors
/// `session_expired` if that can't be known any more, `invalid` for a session id of somebody else.
pub(crate) fn fate(sessions: &Sessions, owner: &[u8], id: SessionId, seq: u64, time_ms: u64) -> Result<Fate, Failure> {
    match sessions.fate(owner, id, seq) {
        Some(fate) => Ok(fate),
        None => is_new(sessions, owner, id, time_ms).map(|()| Fate::Undecided),
    }
}
