//! What a merge asks, as requests; what is answered; and what is planted in between.

use kvbroker::client::watch::merge::{Answered, Ask};
use kvbroker_protocol::{Answer, ErrorCode, Events, Operation, Outcome, Predicate, Scan};

use super::bugs::PlantedBug;
use super::subject::Subject;
use crate::Dice;

/// How long a question waits at the broker.
const WAIT_MS: u64 = 30_000;

/// What watches with a predicate want: that a value has this field,
pub const FITTING: &str = "n=1";
/// as this value has.
pub const FITTING_VALUE: &[u8] = b"\x81\xa1n\x01";
/// A value that does not fit, and looks nearly so.
pub const OTHER_VALUE: &[u8] = b"\x81\xa1n\x02";

/// What watches with a predicate want.
pub(super) fn fitting_predicate() -> Predicate {
    Predicate::new(FITTING).expect("it is a predicate")
}

/// The question as a request, and how long it may wait at the broker.
pub(super) fn operation(subject: &Subject, lag: u64, ask: Ask, bug: Option<PlantedBug>, dice: &mut Dice) -> (Operation, u64) {
    let Subject { prefix, only, fitting, detail } = subject;
    let (prefix, filter) = (prefix.clone(), fitting.as_ref().map(|_| fitting_predicate()));
    // Small pages, so that there are many.
    let limit = (dice.below(2) == 0).then(|| 1 + dice.below(6));
    match ask {
        Ask::Now => (Operation::Events(Events { prefix, limit: Some(1), ..Events::default() }), 0),
        Ask::Events { mut after, epoch, wait } => {
            let wait_ms = if wait { WAIT_MS } else { 0 };
            if bug == Some(PlantedBug::RefillOneTooLate) {
                after += u64::from(lag > 1);
            }
            let epoch = epoch.filter(|_| bug != Some(PlantedBug::EpochIgnored));
            let events = Events { prefix, after: Some(after), wait_ms, limit, epoch, detail: *detail, where_: filter, lost: 0 };
            (Operation::Events(events), wait_ms)
        }
        Ask::Rows { cursor, snapshot } => {
            let key = |key: &[u8]| (Some(key.to_vec()), Some([key, &[0]].concat()));
            let (from, to) = only.as_deref().map_or((None, None), key);
            (Operation::Scan(Scan { prefix, from, to, cursor, limit, filter, snapshot: Some(snapshot), ..Scan::default() }), 0)
        }
    }
}

pub(super) fn answered(outcome: Outcome) -> Answered {
    let Outcome { revision, result } = outcome;
    match result {
        Ok(Answer::Events { events, through, more, epoch }) => Answered::Events { events, through, more, epoch },
        Ok(Answer::Rows { rows, cursor, snapshot }) => {
            Answered::Rows { rows, cursor, snapshot: snapshot.or(revision).unwrap_or_default() }
        }
        Ok(other) => Answered::Unanswered(format!("{other:?}")),
        Err(failure) => Answered::Failed(failure, revision),
    }
}

/// Does to an answer what is planted.
pub(super) fn spoiled(mut answered: Answered, asked: &Operation, bug: Option<PlantedBug>) -> Answered {
    let after = match asked {
        Operation::Events(events) => events.after,
        _ => None,
    };
    match (bug, &mut answered) {
        (Some(PlantedBug::RefillCutInRevision), Answered::Events { events, .. }) => {
            if let Some(last) = events.last_mut().filter(|last| last.changes.len() > 1) {
                last.changes.pop();
            }
        }
        (Some(PlantedBug::SnapshotOneTooLate), Answered::Rows { snapshot, cursor: None, .. }) => *snapshot += 1,
        (Some(PlantedBug::CompactedUnsaid), Answered::Failed(failure, Some(_))) if failure.code == ErrorCode::Compacted => {
            if let (Some(oldest), Operation::Events(Events { epoch: Some(epoch), .. })) = (failure.oldest, asked) {
                let through = oldest.saturating_sub(1);
                if after.is_some_and(|after| after < through) {
                    return Answered::Events { events: Vec::new(), through, more: true, epoch: *epoch };
                }
            }
        }
        (Some(PlantedBug::RollbackIgnored), Answered::Failed(failure, Some(revision))) if failure.code == ErrorCode::Invalid => {
            if let (Some(after), Operation::Events(Events { epoch: Some(epoch), .. })) =
                (after.filter(|after| *after > *revision), asked)
            {
                return Answered::Events { events: Vec::new(), through: after, more: false, epoch: *epoch };
            }
        }
        _ => {}
    }
    answered
}
