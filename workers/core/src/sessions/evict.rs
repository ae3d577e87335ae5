//! Which sessions make room for a new one.

use kvbroker_protocol::{Failure, SessionId, limits};

use super::record::{forget_session, free_window, raise_floor};
use super::{SessionBounds, Sessions};
use crate::change::Change;

/// The changes that make room for one more session of `owner`; none where there is room.
///
/// Ended sessions go first, then those unused for longest; never one used within [`SessionBounds::keep_ms`].
///
/// # Errors
/// `busy` if every session that could go was used too recently.
pub(super) fn make_room(sessions: &Sessions, owner: &[u8], time_ms: u64, bounds: &SessionBounds) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::new();
    let victim = if sessions.owners.count(owner) >= bounds.per_owner_max {
        Some(find(sessions, Some(owner), time_ms, bounds).ok_or_else(|| too_many("of this user", bounds.per_owner_max))?)
    } else if sessions.len() >= bounds.sessions_max {
        Some(find(sessions, None, time_ms, bounds).ok_or_else(|| too_many("of all users", bounds.sessions_max))?)
    } else {
        None
    };
    changes.extend(victim.map(|id| forget(sessions, id)).unwrap_or_default());
    Ok(changes)
}

/// A session that goes for the bytes of its replies.
pub(super) struct Freed<'a> {
    pub(super) owner: &'a [u8],
    pub(super) changes: Vec<Change>,
}

/// The changes that forget the session unused for longest among those that remember replies, of one owner or of all, `but` left
/// alone; None if each was used too recently. For when the replies fill their room: clients that are gone must not keep it for ever.
pub(super) fn make_reply_room<'a>(
    sessions: &'a Sessions,
    but: SessionId,
    owner: Option<&[u8]>,
    time_ms: u64,
    bounds: &SessionBounds,
) -> Option<Freed<'a>> {
    let holds_some = |id: &SessionId| *id != but && sessions.known.get(id).is_some_and(|session| session.bytes > 0);
    let id = match owner {
        Some(_) => sessions.owners.in_order(owner).find(holds_some)?,
        None => sessions.owners.open_in_order().find(holds_some)?,
    };
    let session = sessions.known.get(&id)?;
    let may_go = session.used_ms.saturating_add(bounds.keep_ms) <= time_ms;
    may_go.then(|| Freed { owner: &session.owner, changes: forget(sessions, id) })
}

fn forget(sessions: &Sessions, id: SessionId) -> Vec<Change> {
    let Some(session) = sessions.known.get(&id) else { return Vec::new() };
    let mut changes = Vec::new();
    if !session.ended {
        changes.extend(free_window(id, session.highest));
    }
    changes.push(forget_session(id));
    // Never lower than it is: the last record alone must tell.
    let floor_ms = sessions.owners.floor_ms(&session.owner).unwrap_or_default().max(id.born_ms());
    changes.push(raise_floor(&session.owner, floor_ms));
    changes
}

fn find(sessions: &Sessions, owner: Option<&[u8]>, time_ms: u64, bounds: &SessionBounds) -> Option<SessionId> {
    let id = sessions.owners.in_order(owner).next()?;
    let session = sessions.known.get(&id)?;
    let may_go = session.ended || session.used_ms.saturating_add(bounds.keep_ms) <= time_ms;
    may_go.then_some(id)
}

fn too_many(whose: &str, max: usize) -> Failure {
    let message = format!("{max} sessions {whose} are in use, the most that are kept; end some, or try again later");
    Failure::busy(message, limits::RETRY_AFTER_MS)
}
