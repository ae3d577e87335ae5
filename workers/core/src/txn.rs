//! Transactions: all or nothing, at one revision.
//!
//! - Every comparison is made before anything changes; each operation sees the effects of those before it.
//! - A change that fails (a condition of its own, a wrong type, a key to remove that is not there) fails the transaction as a whole,
//!   with the place and the reason. A `get` or `ttl` of a key that is not there is no such failure: it is one of the results.

use kvbroker_protocol::{Answer, Compare, ErrorCode, Failure, Operation, Outcome, Txn, limits};

use crate::decide::{Turn, operate};
use crate::overlay::Overlay;
use crate::point;

pub(crate) fn txn(overlay: &mut Overlay<'_>, txn: Txn, turn: &mut Turn) -> Result<Answer, Failure> {
    // Its results share one reply, as those of an array do.
    turn.reply_bytes_left.get_or_insert(limits::ARRAY_REPLY_BYTES_MAX);
    let succeeded = {
        let mut holds = |Compare { key, condition }: &Compare| point::holds(condition, overlay.get(key).as_ref(), turn);
        txn.compares.iter().all(&mut holds)
    };
    let (operations, list) = if succeeded { (txn.then, "then") } else { (txn.otherwise, "else") };
    let mut results = Vec::with_capacity(operations.len());
    for (at, operation) in operations.into_iter().enumerate() {
        let is_read = matches!(operation, Operation::Get { .. } | Operation::Ttl { .. });
        match operate(overlay, operation, turn) {
            Err(failure) if !(is_read && failure.code == ErrorCode::NotFound) => {
                let message = format!("`{list}`[{at}]: {}; nothing of the transaction was done", failure.message);
                return Err(Failure { message, ..failure });
            }
            result => results.push(Outcome { revision: None, result }),
        }
    }
    Ok(Answer::Txn { succeeded, results })
}
