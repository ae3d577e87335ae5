//! How many keys there are.
//!
//! - The whole table's number is known. Who has only some of the keys has them counted, one by one: a number that was known would
//!   tell of the others.
//! - Counting is bounded by the message's turn. It is not gone on with later: a sum over several revisions is no size.

use kvbroker_protocol::{Answer, ErrorCode, Failure, limits};

use crate::decide::Turn;
use crate::overlay::Overlay;
use crate::table::KeyRange;

/// Counts the keys of the scope.
///
/// # Errors
/// `limit` with more keys than a turn examines, `reply_full` if the array of this operation has used up its turn.
pub(crate) fn size(overlay: &Overlay<'_>, turn: &mut Turn) -> Result<Answer, Failure> {
    if overlay.scope().is_all() {
        return Ok(Answer::Size(overlay.keys() as u64));
    }
    turn.enter(overlay.scope(), 1)?;
    let mut keys = 0;
    for _ in overlay.range(&KeyRange::prefix(b""), false) {
        if turn.is_used_up() {
            return Err(too_many(keys));
        }
        turn.examine(0);
        keys += 1;
    }
    Ok(Answer::Size(keys as u64))
}

fn too_many(counted: usize) -> Failure {
    if counted < limits::EXAMINED_KEYS_MAX {
        let message = "this array has used up its turn; ask for this operation in a message of its own";
        return Failure::new(ErrorCode::ReplyFull, message);
    }
    Failure::limit(format!(
        "this client may use only some of the keys, and has more than {} of them, which are not counted in one go; count them page by \
         page with `scan` and `keys_only`",
        limits::EXAMINED_KEYS_MAX
    ))
}
