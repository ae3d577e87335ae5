//! Mutations while the log is too far ahead of its checkpoint.

use std::sync::atomic::Ordering;

use kvbroker_protocol::{Answer, ErrorCode, Fate, Header, Operation, Operations, Outcome, SessionId};
use kvbroker_table::Behind;

use crate::bench::{Bench, WALL_MS, del, get, is_value, key, put};

const TOO_LONG: Behind = Behind { bytes: 300 << 20, sealed_bytes: 300 << 20, due_bytes: 64 << 20, bytes_max: 256 << 20 };

fn session() -> SessionId {
    SessionId::new(WALL_MS, 1)
}

fn numbered(seq: u64, ack: u64) -> Header {
    Header { session: Some(session()), seq: Some(seq), ack: Some(ack), ..Header::default() }
}

fn is_busy(outcome: &Outcome) -> bool {
    let failure = outcome.result.as_ref().err();
    failure.is_some_and(|failure| {
        let says_why = failure.message.contains("300 MiB ahead of its checkpoint") && failure.message.contains("is being made");
        failure.code == ErrorCode::Busy && failure.retry_after_ms.is_some() && says_why
    })
}

fn incr() -> Operation {
    Operation::Incr { key: key("n"), by: 5 }
}

#[test]
fn what_adds_to_a_log_that_is_too_long_is_refused_and_everything_else_goes_on() {
    let mut bench = Bench::new();
    let due =
        Operation::Put { key: key("due"), value: kvbroker_protocol::Stored::integer(1), condition: None, ttl_ms: Some(1_000) };
    bench.one(due);
    bench.one(put("a", "1"));
    let first = bench.ask(numbered(1, 0), Operations::One(incr()));
    bench.run_to_end().unwrap();

    let mut slowed = bench.restarted();
    *slowed.behind.lock().unwrap() = TOO_LONG;
    slowed.clock.advance(2_000_000);
    let refused = [
        slowed.one(put("a", "2")),
        slowed.one(del("a")),
        slowed.ask(numbered(2, 1), Operations::One(incr())),
        // It fails, and would be remembered.
        slowed.ask(numbered(2, 1), Operations::One(del("none"))),
        slowed.one(Operation::DelPrefix { prefix: vec![], limit: None }),
    ];
    let array = slowed.ask(numbered(2, 1), Operations::Many(vec![incr(), get("a"), incr()]));
    let again = slowed.ask(numbered(1, 0), Operations::One(incr()));
    let reads = [slowed.one(get("a")), slowed.one(get("due")), slowed.one(Operation::Size), slowed.one(del("none"))];
    let fate = slowed.one(Operation::Result { session: session(), seq: 2, settle: false });
    let end = slowed.ask(Header { session: Some(session()), ack: Some(1), ..Header::default() }, Operations::One(Operation::End));
    let logged_before = slowed.recovered().revision();
    slowed.run_to_end().unwrap();

    for (at, id) in refused.into_iter().enumerate() {
        let outcome = &slowed.outcomes(id)[0];
        assert!(is_busy(outcome), "{at}: {outcome:?}");
    }
    let outcomes = slowed.outcomes(array);
    assert!(is_busy(&outcomes[0]) && is_value(&outcomes[1], "1"), "{outcomes:?}");
    let order = outcomes[2].result.as_ref().unwrap_err().code;
    assert_eq!(order, ErrorCode::OutOfOrder, "no number was taken, so the next one is ahead");
    assert_eq!(slowed.outcomes(again)[0], bench.outcomes(first)[0], "what was done has its reply, and no `failed`");
    let code = |id: u64| slowed.outcomes(id)[0].result.as_ref().err().map(|failure| failure.code);
    assert!(is_value(&slowed.outcomes(reads[0])[0], "1"));
    assert_eq!(code(reads[1]), Some(ErrorCode::NotFound), "its deadline has come");
    assert_eq!(slowed.outcomes(reads[2])[0].result, Ok(Answer::Size(2)));
    assert_eq!(code(reads[3]), Some(ErrorCode::NotFound), "it adds nothing");
    assert_eq!(slowed.outcomes(fate)[0].result, Ok(Answer::Result(Fate::Undecided)));
    assert_eq!(slowed.outcomes(end)[0].result, Ok(Answer::Done));
    assert_eq!(slowed.counters.throttled.load(Ordering::Relaxed), 6);
    assert_eq!(slowed.counters.expired.load(Ordering::Relaxed), 1);
    assert_eq!(slowed.recovered().revision(), logged_before + 1, "the expiry alone takes a revision");
    assert_eq!(slowed.shared.seen().seals, 0, "there is enough sealed for a checkpoint");
}

#[test]
fn what_was_refused_is_done_when_it_comes_again_later() {
    let mut bench = Bench::new();
    *bench.behind.lock().unwrap() = TOO_LONG;
    let worker = bench.start();
    let refused = bench.ask(numbered(1, 0), Operations::Many(vec![incr(), incr()]));
    bench.until_answered(refused);
    assert!(is_busy(&bench.outcomes(refused)[0]));
    *bench.behind.lock().unwrap() = Behind { bytes: TOO_LONG.bytes_max, ..TOO_LONG };
    let later = bench.ask(numbered(1, 0), Operations::Many(vec![incr(), incr()]));
    bench.until_answered(later);
    bench.intake.close();
    worker.join().unwrap().unwrap();
    let results: Vec<_> = bench.outcomes(later).into_iter().map(|outcome| outcome.result).collect();
    assert_eq!(results, [Ok(Answer::Integer(5)), Ok(Answer::Integer(10))]);
    assert_eq!(bench.groups(), [(1, Some((session(), 1))), (2, Some((session(), 2)))]);
}

#[test]
fn a_log_too_long_whose_last_segment_holds_most_of_it_is_sealed() {
    // Nobody may write to it, so it would never be full, and no checkpoint due.
    let mut bench = Bench::new();
    *bench.behind.lock().unwrap() = Behind { sealed_bytes: TOO_LONG.due_bytes, ..TOO_LONG };
    let refused = bench.one(put("a", "1"));
    bench.run_to_end().unwrap();
    assert!(is_busy(&bench.outcomes(refused)[0]));
    assert_eq!(bench.shared.seen().seals, 1);
}
