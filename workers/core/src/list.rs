//! One page of names: keys under a prefix, those with the delimiter behind it grouped up to there, as a directory shows files.
//!
//! - A group is one examined key and a jump behind all of its keys, so its size costs nothing.
//! - The cursor is the last name. Where it is a group's, the next page goes on behind the whole group, whatever has come into
//!   it meanwhile: each name is listed once.
//! - The page has the bounds of a scan's: names, bytes, examined keys and work.

use kvbroker_protocol::{Answer, ErrorCode, Failure, Key, List, limits};

use crate::decide::Turn;
use crate::overlay::Overlay;
use crate::table::KeyRange;

/// Makes one page.
///
/// # Errors
/// `reply_full` if the array of this operation has used up its turn.
pub(crate) fn list(overlay: &Overlay<'_>, wanted: &List, turn: &mut Turn) -> Result<Answer, Failure> {
    let full =
        || Failure::new(ErrorCode::ReplyFull, "this array has used up its turn; ask for this operation in a message of its own");
    let names_max = wanted.limit.unwrap_or(usize::MAX).min(limits::PAGE_ROWS_MAX);
    turn.enter(overlay.scope(), 1)?;
    let mut range = KeyRange::prefix(&wanted.prefix);
    if let Some(cursor) = &wanted.cursor {
        match group_of(cursor, wanted) {
            Some(group) => range.starting_behind_all(group),
            None => range.starting_behind(cursor),
        }
    }
    let (mut names, mut bytes): (Vec<Key>, _) = (Vec::new(), 0);
    'seek: loop {
        for (key, _) in overlay.range(&range, false) {
            let group = group_of(key, wanted);
            let name = group.unwrap_or(key);
            let is_full = names.len() == names_max || turn.is_used_up();
            // One name always fits.
            let fits = names.is_empty() || bytes + name.len() <= limits::PAGE_BYTES_MAX;
            if is_full || !fits || !turn.take_reply_bytes(name.len()) {
                // Without a name listed here there is nowhere to go on from: the array's turn was used up before.
                let cursor = Some(names.last().ok_or_else(full)?.clone());
                return Ok(Answer::Keys { keys: names, cursor, snapshot: None });
            }
            turn.examine(work(key, wanted));
            bytes += name.len();
            names.push(name.to_vec());
            if let Some(group) = group {
                range.starting_behind_all(group);
                continue 'seek;
            }
        }
        return Ok(Answer::Keys { keys: names, cursor: None, snapshot: None });
    }
}

/// The part of a key up to the first delimiter behind the prefix, delimiter included; None if there is none there.
fn group_of<'k>(key: &'k [u8], wanted: &List) -> Option<&'k [u8]> {
    let (prefix, delimiter) = (&wanted.prefix, &wanted.delimiter);
    let rest = key.strip_prefix(prefix.as_slice())?;
    // An empty delimiter, which the grammar refuses, would be found nowhere.
    let at = rest.windows(delimiter.len().max(1)).position(|window| window == delimiter.as_slice())?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// What looking for the delimiter costs at worst, in units of [`limits::TURN_WORK_MAX`].
fn work(key: &[u8], wanted: &List) -> usize {
    key.len().saturating_mul(wanted.delimiter.len()) / limits::QUERY_BYTES_PER_UNIT
}
