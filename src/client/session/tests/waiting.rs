//! Requests that wait for changes at the broker, and everybody else beside them.

use kvbroker_protocol::Events;
use kvbroker_protocol::limits::PARKED_PER_CLIENT_MAX;

use super::*;

fn events(wait_ms: u64) -> Operation {
    Operation::Events(Events { prefix: b"p".to_vec(), after: Some(1), wait_ms, ..Events::default() })
}

fn nothing() -> Answered {
    Ok(Answer::Events { events: vec![], through: 1, more: false, epoch: 1 })
}

#[test]
fn patience_begins_when_the_wait_is_over() {
    for (wait_ms, patience) in [(0, 5.0), (30_000, 35.0)] {
        let mut bench = Bench::connected();
        bench.begin(events(wait_ms), 1_000);
        bench.sent();
        assert!(matches!(bench.wait(), Action::Drop));
        assert_eq!(bench.seconds(), patience);
        // It is asked again, as any read.
        assert!(matches!(bench.poll(), Action::Open { .. }));
        bench.session.link_up(welcome(BROKER, FIRST));
        assert_eq!(bench.sent().operations, Operations::One(events(wait_ms)));
    }
}

#[test]
fn who_waits_for_changes_is_in_nobodys_way() {
    let mut bench = Bench::connected();
    let waits: Vec<_> = (0..40).map(|_| (bench.begin(events(60_000), 100), bench.sent().header.id)).collect();
    assert!(bench.session.awaits_changes());
    // Other calls leave at once, as with nothing outstanding.
    for _ in 0..EAGER_MESSAGES {
        bench.begin(get(), 60);
        bench.sent();
    }
    assert!(!bench.session.awaits_changes());
    bench.begin(get(), 60);
    bench.waits();
    let late = bench.wait_for_message();
    assert_eq!(bench.now - bench.start, COLLECT_FOR);
    for id in waits[0].1.unwrap() + 40..=late.header.id.unwrap() {
        bench.answer(Some(id), value());
        assert!(bench.finished().1.is_ok());
    }
    assert!(bench.session.awaits_changes());
    for (token, id) in waits {
        bench.answer(id, nothing());
        bench.done(token);
    }
    assert!(bench.session.is_idle() && !bench.session.awaits_changes());
}

#[test]
fn what_was_refused_is_sent_again_although_somebody_waits() {
    let mut bench = Bench::connected();
    let (waits, waiting) = (bench.begin(events(60_000), 100), bench.sent());
    let (write, sent) = (bench.begin(put("k"), 60), bench.sent());
    bench.answer(sent.header.id, Err(Failure::busy("full", 250)));
    let again = bench.wait_for_message();
    assert_eq!((bench.seconds(), again.header.seq), (0.25, Some(1)));
    bench.answer(again.header.id, Ok(Answer::Done));
    bench.done(write);
    // A session that is gone is replaced, and the wait begins again in the next one.
    let (write, sent) = (bench.begin(put("l"), 60), bench.sent());
    bench.answer(sent.header.id, fail(ErrorCode::SessionExpired));
    assert!(matches!(bench.poll(), Action::Drop));
    assert!(matches!(bench.poll(), Action::Open { .. }));
    bench.session.link_up(welcome(BROKER, SECOND));
    let (first, second) = (bench.sent(), bench.sent());
    assert_eq!((&first.operations, first.header.session), (&waiting.operations, Some(SECOND)));
    assert_eq!((&second.operations, second.header.seq), (&Operations::One(put("l")), Some(1)));
    bench.answer(second.header.id, Ok(Answer::Done));
    bench.done(write);
    bench.answer(first.header.id, nothing());
    bench.done(waits);
}

#[test]
fn no_room_to_wait_is_an_answer_and_pauses_nobody() {
    let mut bench = Bench::connected();
    let (refused, sent) = (bench.begin(events(60_000), 100), bench.sent());
    bench.answer(sent.header.id, Err(Failure::busy("full", 60_000)));
    bench.failed(refused, ErrorCode::Busy);
    for _ in 0..PARKED_PER_CLIENT_MAX {
        bench.begin(events(60_000), 100);
        bench.sent();
    }
    let too_many = bench.begin(events(60_000), 100);
    bench.begin(get(), 60);
    bench.failed(too_many, ErrorCode::Busy);
    assert_eq!(bench.sent().operations, Operations::One(get()));
    // Who does not wait is welcome.
    bench.begin(events(0), 60);
    bench.sent();
}
