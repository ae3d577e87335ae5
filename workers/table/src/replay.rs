//! Recovery: the same changes as in live traffic, and no decision again.

use kvbroker_core::{Backlog, Change, ChangeError, History, Origin, Space, State};
use kvbroker_log::{Cause, GroupRef, RecordRef, SessionRef};
use kvbroker_protocol::{EventCause, EventOrigin, SessionId};

/// A group may have thousands of keys.
const KEYS_SOON: usize = 256;

/// Applies one group of the log to the state, and takes it into the history of the table: what recovery does with each.
///
/// # Errors
/// [`ChangeError`] for records of a newer version.
pub fn replay_into(state: &mut State, history: &mut History, group: &GroupRef<'_>) -> Result<(), ChangeError> {
    history.begin_group(state, group.revision, origin(group.cause, group.stamp_ms, group.session));
    for record in group.records() {
        let change = match record {
            RecordRef::Put { key, value } => Change::from_record(key, Some(value))?,
            RecordRef::Delete { key } => Change::from_record(key, None)?,
        };
        history.replay(state, change, group.revision);
    }
    Ok(())
}

/// Takes one group of the log that is so old that the history would drop it before the end. It is in the state once `backlog` is settled.
///
/// # Errors
/// As [`replay_into`].
pub fn replay_old(state: &mut State, backlog: &mut Backlog, group: &GroupRef<'_>) -> Result<(), ChangeError> {
    group.records().try_for_each(|record| match record {
        RecordRef::Put { key, value } => backlog.take(state, key, Some(value), group.revision),
        RecordRef::Delete { key } => backlog.take(state, key, None, group.revision),
    })
}

/// To be called with groups that [`replay_into`] is given next: it takes less time then.
pub fn replay_soon<'g>(state: &mut State, groups: impl Iterator<Item = GroupRef<'g>>) {
    let keys = groups.flat_map(|group| group.records()).filter_map(|record| {
        let (RecordRef::Put { key, .. } | RecordRef::Delete { key }) = record;
        key.strip_prefix(&[Space::Table as u8])
    });
    state.warm(keys.take(KEYS_SOON));
}

/// Where a group comes from; None for bookkeeping.
pub(crate) fn origin(cause: Cause, stamp_ms: u64, session: Option<SessionRef>) -> Option<Origin> {
    let cause = match cause {
        Cause::Request => kvbroker_core::Cause::Request,
        Cause::Expiry => kvbroker_core::Cause::Expiry,
        Cause::Internal => kvbroker_core::Cause::Internal,
        Cause::Bookkeeping => return None,
    };
    Some(Origin { cause, stamp_ms, name: session.map(|session| (SessionId(session.id), session.sequence)) })
}

/// Where a group comes from, as clients are told. Whose the session is the log does not say: only who may read every key is told its name.
pub(crate) fn event_origin(group: &GroupRef<'_>, is_name_told: bool) -> EventOrigin {
    let cause = match group.cause {
        Cause::Request => EventCause::Request,
        Cause::Expiry => EventCause::Expiry,
        Cause::Internal | Cause::Bookkeeping => EventCause::Internal,
    };
    let name = group.session.filter(|_| is_name_told).map(|session| (SessionId(session.id), session.sequence));
    EventOrigin { cause, name }
}
