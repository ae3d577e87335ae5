//! Recovery: the same changes as in live traffic, and no decision again.

use kvbroker_core::{Change, ChangeError, State};
use kvbroker_log::{GroupRef, RecordRef};

/// Applies one group of the log to the state: what recovery does with each.
///
/// # Errors
/// [`ChangeError`] for records of a newer version.
pub fn replay_into(state: &mut State, group: &GroupRef<'_>) -> Result<(), ChangeError> {
    for record in group.records() {
        let change = match record {
            RecordRef::Put { key, value } => Change::from_record(key, Some(value))?,
            RecordRef::Delete { key } => Change::from_record(key, None)?,
        };
        state.apply(change, group.revision);
    }
    Ok(())
}
