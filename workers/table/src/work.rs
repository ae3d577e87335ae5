//! What calls cost the worker: guessed before they run, counted afterwards.
//!
//! - The unit is that of [`limits::TURN_WORK_MAX`]: 0.1 µs at worst. Nothing here is measured, so the same calls cost the same
//!   everywhere.
//! - A guess is what a call may cost by what it asks for; only the count knows what the table made of it. A scan of a prefix that
//!   turns out to have three keys was guessed dear, a `get` of 8 MiB cheap.

use kvbroker_core::Turn;
use kvbroker_protocol::{
    Answer, Events, Operation, Outcome, Predicate, QueueAnswer, QueueOperation, Request, RoutingAnswer, RoutingOperation, limits,
};

/// An operation on one key, its record and its reply included.
const OPERATION_WORK: usize = 10;
/// A key that a scan looks at, its row included.
const KEY_WORK: usize = 4;
// So `events` without a predicate need not be guessed: they are cheap, whatever they find.
const _: () = assert!(OPERATION_WORK + limits::EVENTS_CHANGES_MAX * KEY_WORK < limits::DEAR_WORK_MIN);
/// A key that is removed: its record is written to the log.
const REMOVED_KEY_WORK: usize = 10;
/// How much dearer an operation is whose values are converted.
const CONVERTED_TIMES: usize = 4;
/// Bytes that are copied into a reply, or written and synced, for one unit.
const BYTES_PER_UNIT: usize = 128;

/// What a request may cost, with this many bytes of its message.
pub(crate) fn guess(request: &Request, bytes: usize) -> usize {
    request.operations.as_slice().iter().map(guess_operation).sum::<usize>() + bytes / BYTES_PER_UNIT
}

fn guess_operation(operation: &Operation) -> usize {
    let keys = |limit: Option<usize>| limit.unwrap_or(usize::MAX).min(limits::EXAMINED_KEYS_MAX);
    let beyond = match operation {
        Operation::Scan(scan) if scan.pattern.is_none() && scan.filter.is_none() => keys(scan.limit) * KEY_WORK,
        // What is not found is looked at all the same.
        Operation::Scan(_) | Operation::Query { .. } | Operation::List(_) => limits::EXAMINED_KEYS_MAX * KEY_WORK,
        Operation::Events(Events { where_: Some(filter), .. }) => limits::EXAMINED_KEYS_MAX * KEY_WORK + filter.compile_work(),
        Operation::DelPrefix { limit, .. } => keys(*limit) * REMOVED_KEY_WORK,
        Operation::Mget { keys } => keys.len() * OPERATION_WORK,
        Operation::Queue(queue) => guess_queue(queue),
        Operation::Routing(routing) => match routing.as_ref() {
            RoutingOperation::Bindings { limit, .. } => keys(*limit) * KEY_WORK,
            RoutingOperation::Bind { where_, .. } => where_.as_ref().map_or(0, Predicate::compile_work),
            // How many queues want it is known only when it is done.
            RoutingOperation::Publish(_) | RoutingOperation::Unbind { .. } => 0,
        },
        // What is converted is gone through, and made anew.
        Operation::Converted(converted) => CONVERTED_TIMES * guess_operation(&converted.operation),
        Operation::Txn(txn) => txn.compares.len() * OPERATION_WORK + txn.operations().map(guess_operation).sum::<usize>(),
        _ => 0,
    };
    OPERATION_WORK + beyond
}

/// By what is asked for: most pulls of many find few.
fn guess_queue(operation: &QueueOperation) -> usize {
    let items = |limit: Option<usize>| limit.unwrap_or(limits::QUEUE_ITEMS_MAX).min(limits::QUEUE_ITEMS_MAX);
    match operation {
        QueueOperation::Pull(pull) => items(Some(pull.limit)) * KEY_WORK,
        QueueOperation::Peek { limit, .. } | QueueOperation::Queues { limit, .. } => items(*limit) * KEY_WORK,
        QueueOperation::Track { .. } => limits::QUEUE_ENDS_MAX / 64,
        QueueOperation::Kick { limit, .. } | QueueOperation::Purge { limit, .. } => items(*limit) * REMOVED_KEY_WORK,
        _ => 0,
    }
}

/// What looking at so many changes has cost.
pub(crate) fn examined(changes: usize) -> usize {
    changes * KEY_WORK
}

/// What a call has spent of the turn that it was given.
pub(crate) fn count(whole: &Turn, spent: &Turn) -> usize {
    let examined = whole.examined_left.saturating_sub(spent.examined_left);
    let work = whole.work_left.saturating_sub(spent.work_left);
    examined * KEY_WORK + work
}

/// What a call has cost beside its turn, by what came of it: its operations, and the bytes that were logged and answered.
pub(crate) fn around(outcomes: &[Outcome], bytes: usize) -> usize {
    outcomes.iter().map(of_outcome).sum::<usize>() + bytes / BYTES_PER_UNIT
}

fn of_outcome(outcome: &Outcome) -> usize {
    let beyond = match &outcome.result {
        Ok(Answer::Deleted { removed, .. }) => usize::try_from(*removed).unwrap_or(usize::MAX).saturating_mul(REMOVED_KEY_WORK),
        Ok(Answer::Values(values)) => values.len() * OPERATION_WORK,
        Ok(Answer::Queue(QueueAnswer::Pulled { items, .. })) => items.len() * REMOVED_KEY_WORK,
        Ok(Answer::Queue(QueueAnswer::Kicked { kicked, .. })) => {
            usize::try_from(*kicked).unwrap_or(usize::MAX).saturating_mul(REMOVED_KEY_WORK)
        }
        Ok(Answer::Routing(RoutingAnswer::Published { routed, .. })) => {
            usize::try_from(*routed).unwrap_or(usize::MAX).saturating_mul(REMOVED_KEY_WORK)
        }
        Ok(Answer::Txn { results, .. }) => results.iter().map(of_outcome).sum(),
        _ => 0,
    };
    beyond.saturating_add(OPERATION_WORK)
}

#[cfg(test)]
mod tests {
    use kvbroker_protocol::{Form, Header, Operations, Predicate, Scan};

    use super::*;

    fn guess_of(operation: Operation) -> usize {
        guess(&Request { header: Header::default(), form: Form::Json, operations: Operations::One(operation) }, 100)
    }

    #[test]
    fn what_may_be_long_is_dear_and_what_every_client_does_is_not() {
        let prefix = b"p".to_vec();
        let page = |limit| Operation::Scan(Scan { prefix: prefix.clone(), limit, ..Scan::default() });
        let keys = |count| Operation::Mget { keys: vec![prefix.clone(); count] };
        for cheap in [Operation::Ping, Operation::Get { key: prefix.clone() }, page(Some(100)), keys(100)] {
            assert!(guess_of(cheap.clone()) < limits::DEAR_WORK_MIN, "{cheap:?}");
        }
        let filter = Some(Predicate::new("a = 1").expect("it is a predicate"));
        let filtered = Operation::Scan(Scan { limit: Some(1), filter, ..Scan::default() });
        let follow = |where_| Operation::Events(Events { limit: Some(1), where_, ..Events::default() });
        assert!(guess_of(follow(None)) < limits::DEAR_WORK_MIN);
        let followed = follow(Predicate::new("a = 1").ok());
        let delete = Operation::DelPrefix { prefix: prefix.clone(), limit: None };
        for dear in
            [page(None), page(Some(limits::PAGE_ROWS_MAX)), keys(limits::ARRAY_OPERATIONS_MAX), delete, filtered, followed]
        {
            assert!(guess_of(dear.clone()) >= limits::DEAR_WORK_MIN, "{dear:?}");
        }
    }

    #[test]
    fn what_came_of_it_counts() {
        let outcome = |answer| Outcome { revision: None, result: Ok(answer) };
        let removed = |removed| around(&[outcome(Answer::Deleted { removed, more: false })], 0);
        assert_eq!(removed(1_000) - removed(0), 1_000 * REMOVED_KEY_WORK);
        let values = outcome(Answer::Values(vec![None; 7]));
        let txn = outcome(Answer::Txn { succeeded: true, results: vec![values] });
        assert_eq!(around(&[txn], 10 * BYTES_PER_UNIT), 9 * OPERATION_WORK + 10);
        let spent = Turn { examined_left: limits::EXAMINED_KEYS_MAX - 5, work_left: limits::TURN_WORK_MAX - 3, ..Turn::one() };
        assert_eq!(count(&Turn::one(), &spent), 5 * KEY_WORK + 3);
    }
}
