//! What an operation answers and changes.

use kvbroker_protocol::{Answer, ErrorCode, Failure, Operation, Outcome, field_equals, limits};

use crate::change::Change;
use crate::list::list;
use crate::overlay::Overlay;
use crate::point;
use crate::scan::scan;
use crate::state::State;

/// The core's only source of order and time for one decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The revision that a mutation decided now takes.
    pub revision: u64,
    /// Milliseconds since 1970-01-01 UTC; never goes back.
    pub time_ms: u64,
}

/// What the operations of one message may still spend, so that no message stalls the others or builds an endless reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Keys that scans and queries may still examine.
    pub examined_left: usize,
    /// Units of [`limits::TURN_WORK_MAX`] that matching keys and looking into values may still take.
    pub work_left: usize,
    /// Bytes of keys and values that the reply may still take; None for a single operation, whose page has its own bound.
    pub reply_bytes_left: Option<usize>,
}

impl Turn {
    /// The turn of a message with one operation.
    pub fn one() -> Turn {
        Turn { examined_left: limits::EXAMINED_KEYS_MAX, work_left: limits::TURN_WORK_MAX, reply_bytes_left: None }
    }

    /// The turn of an array.
    pub fn many() -> Turn {
        Turn { reply_bytes_left: Some(limits::ARRAY_REPLY_BYTES_MAX), ..Turn::one() }
    }

    /// True when no further key may be examined.
    pub(crate) fn is_used_up(&self) -> bool {
        self.examined_left == 0 || self.work_left == 0
    }

    /// Counts a key as examined at this price. The last one may cost more than was left.
    pub(crate) fn examine(&mut self, work: usize) {
        self.examined_left = self.examined_left.saturating_sub(1);
        self.work_left = self.work_left.saturating_sub(work);
    }

    /// Takes bytes of the reply; false if they don't fit.
    pub(crate) fn take_reply_bytes(&mut self, bytes: usize) -> bool {
        match &mut self.reply_bytes_left {
            None => true,
            Some(left) => match left.checked_sub(bytes) {
                Some(rest) => {
                    *left = rest;
                    true
                }
                None => false,
            },
        }
    }
}

/// An operation decided: its outcome, and the changes to log and apply. Without changes there is no revision either.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to answer once the changes are durable.
    pub outcome: Outcome,
    /// What to log and apply, all of one revision.
    pub changes: Vec<Change>,
}

impl Decision {
    fn read(state: &State, result: Result<Answer, Failure>) -> Decision {
        Decision { outcome: Outcome { revision: Some(state.revision()), result }, changes: Vec::new() }
    }
}

/// Decides one operation. `Hello` and `Stats` are the table worker's and answered `internal` here.
pub fn decide(state: &State, operation: Operation, stamp: Stamp, turn: &mut Turn) -> Decision {
    let mut overlay = Overlay::new(state, stamp.revision);
    let result = operate(&mut overlay, operation, turn);
    if result.is_err() {
        return Decision::read(state, result);
    }
    let changes = overlay.into_changes();
    if changes.is_empty() {
        return Decision::read(state, result);
    }
    Decision { outcome: Outcome { revision: Some(stamp.revision), result }, changes }
}

/// Does one operation on the overlay: alone, or as part of a transaction.
pub(crate) fn operate(overlay: &mut Overlay<'_>, operation: Operation, turn: &mut Turn) -> Result<Answer, Failure> {
    match operation {
        Operation::Ping => Ok(Answer::Done),
        Operation::Size => Ok(Answer::Size(overlay.keys() as u64)),
        Operation::Get { key } => point::get(overlay, &key, turn),
        Operation::Mget { keys } => point::mget(overlay, &keys, turn),
        Operation::Exists { key } => Ok(Answer::Exists(overlay.get(&key).is_some())),
        Operation::Put { key, value, condition, .. } => point::put(overlay, key, value, condition.as_ref()),
        Operation::Del { key, return_old, condition } => point::del(overlay, key, return_old, condition.as_ref(), turn),
        Operation::Incr { key, by } => point::incr(overlay, key, by),
        Operation::Txn(txn) => crate::txn::txn(overlay, *txn, turn),
        Operation::Scan(wanted) => scan(overlay, &wanted, None, turn),
        Operation::Query { subkey, subvalue, scan: wanted } => {
            scan(overlay, &wanted, Some(&|value| field_equals(value, &subkey, &subvalue)), turn)
        }
        Operation::List(wanted) => list(overlay, &wanted, turn),
        Operation::Noop => Ok(Answer::Done),
        Operation::Expire { .. }
        | Operation::Persist { .. }
        | Operation::Ttl { .. }
        | Operation::DelPrefix { .. }
        | Operation::History { .. }
        | Operation::Result { .. }
        | Operation::End
        | Operation::Hello { .. }
        | Operation::Stats => Err(Failure::new(ErrorCode::Internal, "this operation is answered before the table")),
    }
}
