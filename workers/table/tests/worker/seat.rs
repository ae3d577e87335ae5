//! Turns that the thread which brings the calls does in the worker's place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker_log::LogError;
use kvbroker_protocol::{Answer, ErrorCode, Header, Operation, Operations, Scan, limits};
use kvbroker_table::{Call, Refusal, Seat, Stopped, TakesCalls};

use crate::bench::{Bench, WatchedLog, get, is_value, key, put};
use crate::pulls::{ack, pull, pulled, push};

struct Broker {
    bench: Bench,
    seat: Arc<Seat<WatchedLog>>,
    thread: JoinHandle<Result<(), Stopped>>,
}

impl Broker {
    fn start(syncs_batches: bool) -> Broker {
        Broker::over(Bench::new(), syncs_batches)
    }

    fn over(bench: Bench, syncs_batches: bool) -> Broker {
        let seat = Arc::new(Seat::helped(bench.worker(), syncs_batches));
        let thread = std::thread::spawn({
            let seat = Arc::clone(&seat);
            move || seat.run()
        });
        Broker { bench, seat, thread }
    }

    /// Brings a message and waits for its reply.
    fn ask(&mut self, operations: Operations) -> u64 {
        let call = self.bench.call(Header::default(), operations);
        let id = self.bench.next_id;
        assert_eq!(self.seat.take(&mut VecDeque::from([call])), Ok(()));
        self.bench.until_answered(id);
        id
    }

    fn one(&mut self, operation: Operation) -> u64 {
        self.ask(Operations::One(operation))
    }

    fn small_turns(&self) -> u64 {
        self.bench.counters.small_turns.load(Ordering::Relaxed)
    }

    fn stop(self) -> Bench {
        self.bench.intake.close();
        self.thread.join().unwrap().unwrap();
        self.bench.collect();
        self.bench
    }
}

/// Until some were done in the worker's place: that depends on whether its thread happens to sleep.
fn until(mut is_enough: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_enough() {
        assert!(Instant::now() < deadline, "not within 30 s");
    }
}

#[test]
fn small_calls_are_decided_logged_and_answered_on_either_thread_alike() {
    let mut broker = Broker::start(false);
    let mut last = 0;
    until(|| {
        last += 1;
        let name = format!("k{}", last % 7);
        broker.one(put(&name, &last.to_string()));
        let id = broker.one(get(&name));
        assert!(is_value(&broker.bench.outcomes(id)[0], &last.to_string()));
        broker.small_turns() >= 20
    });
    let bench = broker.stop();
    let seen = bench.shared.seen();
    assert_eq!(seen.appends.len(), last, "each put was a batch");
    assert_eq!(seen.events.iter().map(|batch| batch.revision).max(), Some(last as u64));
    assert!(seen.log.is_closed());
}

#[test]
fn where_batches_are_synced_reads_and_changes_that_come_alone_are_done_in_the_workers_place() {
    let mut broker = Broker::start(true);
    for _ in 0..100 {
        let mut two: VecDeque<_> = (0..2).map(|_| broker.bench.call(Header::default(), Operations::One(put("a", "1")))).collect();
        assert_eq!(broker.seat.take(&mut two), Ok(()));
        broker.bench.until_answered(broker.bench.next_id);
    }
    assert_eq!(broker.small_turns(), 0, "two may become more while they are synced");
    until(|| {
        let id = broker.one(get("a"));
        assert!(is_value(&broker.bench.outcomes(id)[0], "1"));
        broker.small_turns() >= 20
    });
    let mut value = 1;
    until(|| {
        let before = broker.small_turns();
        value += 1;
        let id = broker.one(put("a", &value.to_string()));
        assert!(broker.bench.outcomes(id)[0].result.is_ok());
        broker.small_turns() >= 40 && broker.small_turns() > before
    });
    let appends = broker.bench.shared.seen().appends.len();
    broker.stop();
    assert!(appends > 100, "{appends}");
}

#[test]
fn after_a_slow_sync_the_next_ones_are_the_workers() {
    let mut broker = Broker::start(true);
    until(|| {
        broker.one(put("a", "1"));
        broker.small_turns() >= 1
    });
    until(|| {
        broker.bench.shared.seen().append_takes = Duration::from_millis(20);
        until(|| {
            let before = broker.small_turns();
            broker.one(put("a", "2"));
            broker.small_turns() > before
        });
        broker.bench.shared.seen().append_takes = Duration::ZERO;
        let (before, began) = (broker.small_turns(), Instant::now());
        (0..50).for_each(|_| _ = broker.one(put("a", "3")));
        // On a machine on which that takes longer than the pause of 20 times as long, once more.
        broker.small_turns() == before && began.elapsed() < Duration::from_millis(390)
    });
    broker.stop();
}

#[test]
fn what_may_cost_more_than_one_key_is_left_to_the_worker() {
    let mut broker = Broker::start(false);
    for _ in 0..100 {
        broker.ask(Operations::Many(vec![get("a"), get("b")]));
        broker.one(Operation::Scan(Scan { limit: Some(1), ..Scan::default() }));
        let large = broker.bench.call(Header::default(), Operations::One(put("large", "x")));
        assert_eq!(broker.seat.take(&mut VecDeque::from([Call { bytes: 17 << 10, ..large }])), Ok(()));
        broker.bench.until_answered(broker.bench.next_id);
        broker.one(Operation::Stats);
        let mut many: VecDeque<_> =
            (0..5).map(|_| broker.bench.call(Header::default(), Operations::One(put("a", "1")))).collect();
        assert_eq!(broker.seat.take(&mut many), Ok(()));
        broker.bench.until_answered(broker.bench.next_id);
        assert_eq!(broker.small_turns(), 0);
    }
    broker.stop();
}

#[test]
fn a_turn_takes_all_that_was_brought_in_its_order() {
    let mut broker = Broker::start(false);
    let mut asked = Vec::new();
    until(|| {
        let mut calls = VecDeque::new();
        for at in 0..4 {
            let operation = if at % 2 == 0 { put("k", &at.to_string()) } else { get("k") };
            calls.push_back(broker.bench.call(Header::default(), Operations::One(operation)));
            asked.push(Some(broker.bench.next_id));
        }
        assert_eq!(broker.seat.take(&mut calls), Ok(()));
        broker.bench.until_answered(broker.bench.next_id);
        broker.small_turns() >= 5
    });
    let bench = broker.stop();
    let seen = bench.shared.seen();
    assert_eq!(seen.replies.iter().map(|out| out.reply.id).collect::<Vec<_>>(), asked);
    for (at, out) in seen.replies.iter().enumerate().filter(|(at, _)| at % 2 == 1) {
        assert!(is_value(&out.reply.outcomes.as_slice()[0], &(at % 4 - 1).to_string()));
    }
}

#[test]
fn a_deadline_from_such_a_turn_is_kept_by_the_worker() {
    let mut broker = Broker::start(false);
    until(|| {
        let before = broker.small_turns();
        let put = Operation::Put {
            key: key("k"),
            value: kvbroker_protocol::Stored::text("v").unwrap(),
            condition: None,
            ttl_ms: Some(1),
        };
        broker.one(put);
        broker.bench.clock.advance(2_000);
        // Nobody asks for anything until it is gone.
        let expired = broker.bench.counters.expired.load(Ordering::Relaxed);
        until(|| broker.bench.counters.expired.load(Ordering::Relaxed) > expired);
        before >= 5
    });
    let id = broker.one(get("k"));
    assert_eq!(broker.bench.outcomes(id)[0].result.as_ref().unwrap_err().code, ErrorCode::NotFound);
    broker.stop();
}

#[test]
fn whoever_waits_for_a_change_is_told_of_one_from_such_a_turn() {
    let mut broker = Broker::start(false);
    let mut revision = 0;
    until(|| {
        let events = kvbroker_protocol::Events { after: Some(revision), wait_ms: 30_000, ..Default::default() };
        let call = broker.bench.call(Header::default(), Operations::One(Operation::Events(events)));
        let id = broker.bench.next_id;
        assert_eq!(broker.seat.take(&mut VecDeque::from([call])), Ok(()));
        broker.one(put("k", "v"));
        revision += 1;
        broker.bench.until_answered(id);
        assert!(matches!(&broker.bench.outcomes(id)[0].result, Ok(Answer::Events { events, .. }) if events.len() == 1));
        broker.small_turns() >= 5
    });
    broker.stop();
}

#[test]
fn a_log_that_fails_in_such_a_turn_ends_the_worker_and_nothing_is_said() {
    let mut broker = Broker::start(false);
    until(|| {
        broker.one(get("a"));
        broker.small_turns() >= 5
    });
    broker.bench.shared.seen().log.fail_after(0);
    let call = broker.bench.call(Header::default(), Operations::One(put("a", "1")));
    let id = broker.bench.next_id;
    assert_eq!(broker.seat.take(&mut VecDeque::from([call])), Ok(()));
    let Broker { mut bench, seat, thread } = broker;
    assert!(matches!(thread.join().unwrap(), Err(Stopped::Log(LogError::Full { .. }))));
    bench.collect();
    assert!(bench.shared.seen().replies.iter().all(|out| out.reply.id != Some(id)));
    bench.intake.close();
    let late = bench.call(Header::default(), Operations::One(get("a")));
    assert_eq!(seat.take(&mut VecDeque::from([late])), Err(Refusal::Closed));
}

#[test]
fn whoever_empties_the_outbox_never_waits_for_room_in_it() {
    // One reply fills it.
    let mut broker = Broker::over(Bench::with_room(1, limits::PUBLISH_BYTES_MAX), false);
    until(|| {
        // Nobody takes the replies out until all four were brought: this thread would wait for itself.
        let mut last = 0;
        for _ in 0..4 {
            let call = broker.bench.call(Header::default(), Operations::One(get("a")));
            last = broker.bench.next_id;
            assert_eq!(broker.seat.take(&mut VecDeque::from([call])), Ok(()));
        }
        broker.bench.until_answered(last);
        broker.small_turns() >= 5
    });
    broker.stop();
}

#[test]
fn a_consumer_alone_is_handed_an_item_and_says_that_it_is_done_in_the_workers_place() {
    let mut broker = Broker::start(true);
    let mut receipt = None;
    let mut cycles = 0;
    until(|| {
        // What is done, and the next pull, come together.
        let acked = receipt.take().map(|receipt| broker.bench.call(Header::default(), Operations::One(ack(receipt))));
        let done = acked.is_some().then_some(broker.bench.next_id);
        let waits = broker.bench.call(Header::default(), Operations::One(pull(1)));
        let asked = broker.bench.next_id;
        let before = broker.small_turns();
        assert_eq!(broker.seat.take(&mut acked.into_iter().chain([waits]).collect()), Ok(()));
        if let Some(done) = done {
            broker.bench.until_answered(done);
            assert!(broker.bench.outcomes(done)[0].result.is_ok());
        }
        let acked_here = broker.small_turns() > before;
        let pushed = broker.one(push("job"));
        assert!(broker.bench.outcomes(pushed)[0].result.is_ok());
        broker.bench.until_answered(asked);
        let (values, receipts) = pulled(&broker.bench.outcomes(asked)[0]);
        assert_eq!(values, ["job"]);
        receipt = receipts.into_iter().next();
        cycles += 1;
        acked_here && broker.small_turns() >= 20
    });
    let bench = broker.stop();
    // The push and its delivery in one, each acknowledgement in one.
    assert_eq!(bench.shared.seen().appends.len(), 2 * cycles - 1);
}

#[test]
fn where_batches_are_synced_what_two_clients_bring_is_the_workers() {
    let mut broker = Broker::start(true);
    for _ in 0..100 {
        let one = broker.bench.call(Header::default(), Operations::One(push("a")));
        let first = broker.bench.next_id;
        let other = broker.bench.call(Header::default(), Operations::One(pull(1)));
        let other = Call { client: one.client + 1, ..other };
        assert_eq!(broker.seat.take(&mut VecDeque::from([one, other])), Ok(()));
        broker.bench.until_answered(first);
        broker.bench.until_answered(broker.bench.next_id);
        assert_eq!(broker.small_turns(), 0);
    }
    broker.stop();
}
