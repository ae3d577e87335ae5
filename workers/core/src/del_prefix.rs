//! Removing all keys with a prefix, a bounded part at a time.
//!
//! - One call removes its keys at one revision, the first ones in key order, and says whether there are more: whoever wants them all
//!   gone asks again. Between two calls others run, so keys can come back in, and all together are not one change.
//! - A call ends at its limit, at [`limits::DEL_PREFIX_BYTES_MAX`] of keys, or where the message's turn is used up.
//! - A message of its own always gets on by at least one key.

use kvbroker_protocol::{Answer, ErrorCode, Failure, Key, limits};

use crate::decide::Turn;
use crate::overlay::Overlay;
use crate::table::KeyRange;

/// Removes what one turn allows.
///
/// # Errors
/// `reply_full` if the array of this operation has used up its turn; nothing was removed then.
pub(crate) fn del_prefix(
    overlay: &mut Overlay<'_>,
    prefix: &[u8],
    limit: Option<usize>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    let limit = limit.unwrap_or(usize::MAX);
    turn.enter(overlay.scope(), 1)?;
    let mut keys: Vec<Key> = Vec::new();
    let mut bytes = 0;
    let mut more = false;
    for (key, _) in overlay.range(&KeyRange::prefix(prefix), false) {
        let fits = keys.len() < limit && bytes + key.len() <= limits::DEL_PREFIX_BYTES_MAX;
        if !fits || turn.is_used_up() || !turn.take_log_bytes(key.len()) {
            more = true;
            break;
        }
        turn.examine(0);
        bytes += key.len();
        keys.push(key.to_vec());
    }
    // There is always room for one key but in an array that has used it up.
    if more && keys.is_empty() {
        let message = "this array has used up its turn; ask for this operation in a message of its own";
        return Err(Failure::new(ErrorCode::ReplyFull, message));
    }
    let removed = keys.len() as u64;
    keys.into_iter().for_each(|key| overlay.delete(key));
    Ok(Answer::Deleted { removed, more })
}
