//! Pulls that wait: what a turn brings into a queue, it hands out.

use kvbroker_protocol::{Pull, Push, QueueAnswer, QueueOperation, Receipt};

use super::*;

pub fn push(value: &str) -> Operation {
    let value = Stored::text(value).unwrap();
    let push = Push { queue: key("jobs"), value, priority: 0, delay_ms: 0, ttl_ms: None, content_type: None };
    Operation::Queue(Box::new(QueueOperation::Push(push)))
}

pub fn pull(limit: usize) -> Operation {
    let pull = Pull { queue: key("jobs"), limit, lease_ms: None, wait_ms: 60_000, no_ack: false };
    Operation::Queue(Box::new(QueueOperation::Pull(pull)))
}

pub fn ack(receipt: Receipt) -> Operation {
    Operation::Queue(Box::new(QueueOperation::Ack { queue: key("jobs"), receipt }))
}

/// The values that were pulled, and what to show for them.
pub fn pulled(outcome: &Outcome) -> (Vec<String>, Vec<Receipt>) {
    let Ok(Answer::Queue(QueueAnswer::Pulled { items, .. })) = &outcome.result else { panic!("{outcome:?}") };
    items.iter().map(|item| (item.value.as_text().unwrap(), item.receipt)).unzip()
}

#[test]
fn what_a_turn_brings_is_handed_out_in_that_turn_to_whoever_came_first() {
    let mut bench = Bench::new();
    let (first, second, third) = (bench.one(pull(1)), bench.one(pull(9)), bench.one(pull(1)));
    let pushes = ["a", "b", "c"].map(|value| bench.one(push(value)));
    bench.run_to_end().unwrap();
    assert_eq!([first, second].map(|id| pulled(&bench.outcomes(id)[0]).0), [vec!["a"], vec!["b", "c"]]);
    assert!(pushes.into_iter().all(|id| bench.outcomes(id)[0].result.is_ok()));
    // One who was left waits on, and is told at the end that the broker stops.
    assert_eq!(code(&bench.outcomes(third)[0]), Some(ErrorCode::ShuttingDown));
    // The log was written and synced once for all of them.
    let appends = bench.shared.seen().appends.iter().map(|(_, revision)| *revision).collect::<Vec<_>>();
    assert_eq!(appends, [5]);
}
