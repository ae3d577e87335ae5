//! What an operation answers and changes.

use kvbroker_protocol::{Answer, ErrorCode, Failure, Fate, Operation, Outcome, Scope, SessionId, limits, request_hash};

use crate::change::Change;
use crate::del_prefix::del_prefix;
use crate::expire;
use crate::list::list;
use crate::overlay::Overlay;
use crate::point;
use crate::queues::{DueItem, Ended, expire as expire_due};
use crate::routing::Message;
use crate::scan::pages;
use crate::sessions::{Admission, Numbered, SessionBounds, admit, end, fate, remember};
use crate::size::size;
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
    /// Bytes that operations may still make the log write beyond those that their message brought (see [`limits::TURN_LOG_BYTES_MAX`]).
    pub log_bytes_left: usize,
    /// Bytes of keys and values that the reply may still take; None for a single operation, whose page has its own bound.
    pub reply_bytes_left: Option<usize>,
}

/// What a look into a map costs, in units of [`limits::TURN_WORK_MAX`].
const PIECE_WORK: usize = 10;

impl Turn {
    /// The turn of a message with one operation.
    pub fn one() -> Turn {
        Turn {
            examined_left: limits::EXAMINED_KEYS_MAX,
            work_left: limits::TURN_WORK_MAX,
            log_bytes_left: limits::TURN_LOG_BYTES_MAX,
            reply_bytes_left: None,
        }
    }

    /// The turn of an array.
    pub fn many() -> Turn {
        Turn { reply_bytes_left: Some(limits::ARRAY_REPLY_BYTES_MAX), ..Turn::one() }
    }

    /// The same for a page whose reader is not alone: shorter, so that the others don't wait for long.
    #[must_use]
    pub fn in_company(self) -> Turn {
        Turn { examined_left: self.examined_left.min(limits::EXAMINED_IN_COMPANY_MAX), ..self }
    }

    /// True when no further key may be examined.
    pub(crate) fn is_used_up(&self) -> bool {
        self.examined_left == 0 || self.work_left == 0
    }

    /// Counts the comparison of two values of so many bytes together.
    pub(crate) fn compare(&mut self, bytes: usize) {
        self.work_left = self.work_left.saturating_sub(bytes / limits::QUERY_BYTES_PER_UNIT);
    }

    /// Counts a key as examined at this price. The last one may cost more than was left.
    pub(crate) fn examine(&mut self, work: usize) {
        self.examined_left = self.examined_left.saturating_sub(1);
        self.work_left = self.work_left.saturating_sub(work);
    }

    /// Counts the looks into the pieces of a range that lie in a scope, each in so many maps. The whole table is one piece, and free.
    ///
    /// # Errors
    /// `reply_full` if the array of this operation has used up its turn: pieces without a key, which cost no turn, are looked for, too.
    pub(crate) fn enter(&mut self, scope: &Scope, maps: usize) -> Result<(), Failure> {
        if scope.is_all() {
            return Ok(());
        }
        if self.is_used_up() {
            let message = "this array has used up its turn; ask for this operation in a message of its own";
            return Err(Failure::new(ErrorCode::ReplyFull, message));
        }
        // A message of its own always gets on.
        let work = scope.list().len().saturating_mul(maps).saturating_mul(PIECE_WORK).min(limits::TURN_WORK_MAX / 2);
        self.work_left = self.work_left.saturating_sub(work);
        Ok(())
    }

    /// Takes bytes of the log; false if they don't fit.
    pub(crate) fn take_log_bytes(&mut self, bytes: usize) -> bool {
        let left = self.log_bytes_left.checked_sub(bytes);
        self.log_bytes_left = left.unwrap_or(self.log_bytes_left);
        left.is_some()
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

/// An operation decided: its outcome, and the changes to log and apply. Without changes there is nothing to log.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to answer once the changes are durable.
    pub outcome: Outcome,
    /// What to log and apply, all in one group.
    pub changes: Vec<Change>,
    /// True if the group takes the stamp's revision; otherwise its changes are bookkeeping and repeat the last one.
    pub takes_revision: bool,
    /// How items of queues ended by them; to be [noted](State::note_ends) with the changes, and not logged.
    pub ended: Vec<Ended>,
    /// Messages for those who listen, of the group's revision.
    pub messages: Vec<Message>,
}

impl Decision {
    pub(crate) fn read(state: &State, result: Result<Answer, Failure>) -> Decision {
        Decision::bookkeeping(state, result, Vec::new())
    }

    fn bookkeeping(state: &State, result: Result<Answer, Failure>, changes: Vec<Change>) -> Decision {
        Decision {
            outcome: Outcome { revision: Some(state.revision()), result },
            changes,
            takes_revision: false,
            ended: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// A failure that changes nothing, and takes no number either.
    pub fn refused(state: &State, failure: Failure) -> Decision {
        Decision::read(state, Err(failure))
    }
}

/// Decides one operation without a number, as on a table that has only the keys of `scope`: nothing outside is looked at by whatever
/// walks over keys. The keys that the operation names are in the scope ([`Access::check`](kvbroker_protocol::Access::check) is
/// asked before). What concerns the broker or a session is answered before, and `internal` here.
pub fn decide(state: &State, scope: &Scope, operation: Operation, stamp: Stamp, turn: &mut Turn) -> Decision {
    // One message's comparisons stop here; a message of its own always gets on.
    if turn.is_used_up() && operation.compares_values() {
        let message = "this array has used up its turn; ask for this operation in a message of its own";
        return Decision::refused(state, Failure::new(ErrorCode::ReplyFull, message));
    }
    let mut overlay = Overlay::new(state, scope, stamp);
    let result = operate(&mut overlay, operation, turn);
    if result.is_err() {
        return Decision::read(state, result);
    }
    let ended = std::mem::take(&mut overlay.queues.ended);
    let (changes, messages) = overlay.into_changes();
    if changes.is_empty() {
        return Decision::read(state, result);
    }
    Decision { outcome: Outcome { revision: Some(stamp.revision), result }, changes, takes_revision: true, ended, messages }
}

/// Decides a mutation that has a number in a session: at most once, and with the first answer each time it comes again.
pub fn decide_numbered(
    state: &State,
    scope: &Scope,
    operation: Operation,
    numbered: &Numbered<'_>,
    stamp: Stamp,
    turn: &mut Turn,
    bounds: &SessionBounds,
) -> Decision {
    match admit(&state.sessions, numbered, stamp.time_ms, bounds) {
        Admission::Refused(failure) => Decision::refused(state, failure),
        Admission::Again(outcome) => {
            Decision { outcome, changes: Vec::new(), takes_revision: false, ended: Vec::new(), messages: Vec::new() }
        }
        Admission::New { mut changes, acked } => {
            let compares = operation.compares_values();
            let decision = decide(state, scope, operation, stamp, turn);
            // Its message has used up its turn. That is no outcome to remember: the number is free, and comes again.
            if compares && turn.is_used_up() && decision.outcome.result.as_ref().is_err_and(|f| f.code == ErrorCode::ReplyFull) {
                let message = "this message has used up its turn; send the rest again";
                return Decision::refused(state, Failure::busy(message, 1));
            }
            let revision = if decision.takes_revision { stamp.revision } else { state.revision() };
            // Nearly always there is nothing else, and what was decided has room for one more.
            let mut all = decision.changes;
            if !changes.is_empty() {
                changes.append(&mut all);
                all = changes;
            }
            all.push(remember(numbered, acked, &decision.outcome, revision, stamp.time_ms));
            Decision { changes: all, ..decision }
        }
    }
}

/// Ends a session.
pub fn end_session(state: &State, owner: &[u8], session: SessionId, ack: u64, stamp: Stamp) -> Decision {
    match end(&state.sessions, owner, session, ack, stamp.time_ms) {
        Ok(changes) => Decision::bookkeeping(state, Ok(Answer::Done), changes),
        Err(failure) => Decision::refused(state, failure),
    }
}

/// The changes that time brings about for an item whose lease or deadline is over, and how items ended by them; none where there is nothing
/// to do any more.
pub fn expire_item(state: &State, due: DueItem, stamp: Stamp) -> (Vec<Change>, Vec<Ended>) {
    expire_due(&state.queues, due, stamp)
}

/// Tells what became of a mutation. With bounds it settles one that has not arrived: a noop takes its number.
pub fn result_of(
    state: &State,
    owner: &[u8],
    session: SessionId,
    seq: u64,
    stamp: Stamp,
    settle: Option<&SessionBounds>,
) -> Decision {
    let fate = fate(&state.sessions, owner, session, seq, stamp.time_ms);
    match (fate, settle) {
        (Ok(Fate::Undecided), Some(bounds)) => {
            let hash = request_hash(&Operation::Noop, &mut Vec::new());
            let numbered = Numbered { owner, session, seq, ack: 0, hash };
            let noop = decide_numbered(state, &Scope::all(), Operation::Noop, &numbered, stamp, &mut Turn::one(), bounds);
            match noop.outcome.result {
                Ok(_) => Decision::bookkeeping(state, Ok(Answer::Result(Fate::Filled)), noop.changes),
                Err(failure) => Decision::refused(state, failure),
            }
        }
        (fate, _) => Decision::read(state, fate.map(Answer::Result)),
    }
}

/// Does one operation on the overlay: alone, or as part of a transaction.
pub(crate) fn operate(overlay: &mut Overlay<'_>, operation: Operation, turn: &mut Turn) -> Result<Answer, Failure> {
    match operation {
        Operation::Ping => Ok(Answer::Done),
        Operation::Size => size(overlay, turn),
        Operation::Get { key } => point::get(overlay, &key, turn),
        Operation::Mget { keys } => point::mget(overlay, &keys, turn),
        Operation::Exists { key } => Ok(Answer::Exists(overlay.get(&key).is_some())),
        Operation::Put { key, value, condition, ttl_ms } => point::put(overlay, key, value, condition.as_ref(), ttl_ms, turn),
        Operation::Del { key, return_old, condition } => point::del(overlay, key, return_old, condition.as_ref(), turn),
        Operation::Incr { key, by } => point::incr(overlay, key, by),
        Operation::Expire { key, ttl_ms } => expire::expire(overlay, key, ttl_ms, turn),
        Operation::Persist { key } => expire::persist(overlay, key, turn),
        Operation::Ttl { key } => expire::ttl(overlay, &key),
        Operation::DelPrefix { prefix, limit } => del_prefix(overlay, &prefix, limit, turn),
        Operation::Txn(txn) => crate::txn::txn(overlay, *txn, turn),
        Operation::Scan(_) | Operation::Query { .. } if operation.snapshot().is_none() => pages(overlay, &operation, turn),
        Operation::List(wanted) => list(overlay, &wanted, turn),
        Operation::Queue(operation) => overlay.queue(*operation, turn),
        Operation::Routing(operation) => crate::routing::operate(overlay, *operation, turn),
        Operation::Conversion(operation) => overlay.conversion(*operation, turn),
        Operation::Converted(read) => crate::conversions::converted(overlay, *read, turn),
        Operation::Noop => Ok(Answer::Done),
        Operation::Scan(_)
        | Operation::Query { .. }
        | Operation::History { .. }
        | Operation::Events(_)
        | Operation::Result { .. }
        | Operation::End
        | Operation::Hello { .. }
        | Operation::Stats
        | Operation::Authorize { .. }
        | Operation::Revoke { .. }
        | Operation::Who => Err(Failure::new(ErrorCode::Internal, "this operation is answered before the table")),
    }
}
