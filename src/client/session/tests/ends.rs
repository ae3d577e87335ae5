//! Headers, pauses, deadlines: how calls end.

use super::*;

#[test]
fn the_header_is_complete_and_counts() {
    let mut bench = Bench::connected();
    let first = bench.begin(put("a"), 10);
    let second = bench.begin(put("b"), 10);
    let third = bench.begin(Operation::Size, 10);
    let header = bench.sent().header;
    let expected = Header { id: Some(1), broker: Some(BROKER), session: Some(FIRST), seq: Some(1), ack: Some(0), got: None };
    assert_eq!(header, expected);
    bench.answer_all(Some(1), [Ok(Answer::Done), Ok(Answer::Done), Ok(Answer::Size(1))]);
    [first, second, third].into_iter().for_each(|token| bench.done(token));

    bench.begin(get(), 10);
    let header = bench.sent().header;
    assert_eq!((header.seq, header.ack, header.got), (None, Some(2), Some(1)));
    bench.begin(put("c"), 10);
    let header = bench.sent().header;
    assert_eq!((header.id, header.seq, header.ack, header.got), (Some(3), Some(3), Some(2), Some(1)));
}

#[test]
fn calls_outlive_lost_connections_with_growing_pauses() {
    let mut bench = Bench::new();
    let read = bench.begin(get(), 60);
    let write = bench.begin(put("k"), 60);
    let mut opened_at = Vec::new();
    for _ in 0..7 {
        assert!(matches!(bench.wait(), Action::Open { .. }));
        opened_at.push(bench.seconds());
        bench.session.link_lost(bench.now, "connection refused");
    }
    assert_eq!(opened_at, [0.0, 0.0, 1.0, 3.0, 7.0, 15.0, 23.0]);
    bench.open(FIRST);
    let request = bench.sent();
    assert_eq!((verbs(&request), request.header.seq), (vec!["get", "put"], Some(1)));
    bench.answer_all(request.header.id, [value(), Ok(Answer::Done)]);
    bench.done(read);
    bench.done(write);
    // A reply ends the growth.
    bench.session.link_lost(bench.now, "gone");
    bench.begin(get(), 60);
    let before = bench.now;
    assert!(matches!(bench.wait(), Action::Open { .. }));
    assert_eq!(bench.now, before);
}

#[test]
fn what_is_overdue_moves_to_a_new_connection_under_the_same_number() {
    let mut bench = Bench::connected();
    let write = bench.begin(put("k"), 60);
    let request = bench.sent();
    assert_eq!(bench.wait(), Action::Drop);
    assert_eq!(bench.seconds(), 5.0);
    bench.open(SECOND);
    let again = bench.sent();
    // The session stays the first one; the attempt has an id of its own.
    assert_eq!((again.header.seq, again.header.session), (Some(1), Some(FIRST)));
    assert!(again.header.id > request.header.id);
    assert_eq!(again.operations, request.operations);
    // The old attempt's reply can only come from the old connection: it counts for nothing.
    bench.answer(request.header.id, fail(ErrorCode::Conflict));
    bench.waits();
    bench.answer(again.header.id, Ok(Answer::Done));
    bench.done(write);
}

#[test]
fn a_mutation_without_an_answer_is_unknown_and_its_number_is_filled() {
    let mut bench = Bench::connected();
    let late = bench.begin(put("k"), 3);
    assert_eq!(bench.session.in_doubt(), None);
    let first = bench.sent();
    let name = RequestId { session: FIRST, seq: 1 };
    assert_eq!(bench.session.in_doubt(), Some(name));
    let next = bench.begin(put("l"), 60);
    assert_eq!(bench.sent().header.seq, Some(2));
    let Action::Finished { token, result } = bench.wait() else { panic!() };
    let why = "no reply came before the deadline".to_owned();
    assert_eq!((token, result, bench.seconds()), (late, Err(GaveUp::Unknown { request: name, why }), 3.0));
    assert_eq!(bench.session.in_doubt(), Some(RequestId { session: FIRST, seq: 2 }));
    bench.reconnect(SECOND);
    let request = bench.sent();
    assert_eq!((verbs(&request), request.header.seq, request.header.ack), (vec!["noop", "put"], Some(1), Some(0)));
    assert_ne!(request.header.id, first.header.id);
    // It had been done after all; nobody else has to know.
    bench.answer_all(request.header.id, [fail(ErrorCode::IdReused), Ok(Answer::Done)]);
    bench.done(next);
    // Its fate is kept for questions, so nothing is acknowledged and the session is not ended.
    bench.begin(put("m"), 60);
    assert_eq!(bench.sent().header.ack, Some(0));
    assert_eq!(bench.session.farewell(), None);
}

#[test]
fn what_a_noop_prevented_needs_no_memory() {
    let mut bench = Bench::connected();
    let late = bench.begin(put("k"), 3);
    bench.sent();
    bench.session.link_lost(bench.now, "gone");
    while !matches!(bench.wait(), Action::Finished { token, .. } if token == late) {
        bench.session.link_lost(bench.now, "connection refused");
    }
    bench.waits();
    let read = bench.begin(get(), 60);
    bench.open(SECOND);
    let request = bench.sent();
    assert_eq!(verbs(&request), ["noop", "get"]);
    bench.answer_all(request.header.id, [Ok(Answer::Done), value()]);
    bench.done(read);
    let write = bench.begin(put("l"), 60);
    let request = bench.sent();
    assert_eq!((request.header.seq, request.header.ack), (Some(2), Some(1)));
    bench.answer(request.header.id, Ok(Answer::Done));
    bench.done(write);
    let farewell = decode_request(&bench.session.farewell().unwrap()).unwrap();
    assert_eq!((farewell.operations, farewell.header.ack), (one(Operation::End), Some(2)));
    assert_eq!((farewell.header.session, farewell.header.seq), (Some(FIRST), None));
}

#[test]
fn a_late_reply_settles_what_was_given_up() {
    let mut bench = Bench::connected();
    bench.begin(put("k"), 3);
    let request = bench.sent();
    assert!(matches!(bench.wait(), Action::Finished { result: Err(GaveUp::Unknown { .. }), .. }));
    bench.answer(request.header.id, Ok(Answer::Done));
    assert_eq!(bench.poll(), Action::Wait { until: None });
    bench.begin(put("l"), 3);
    let request = bench.sent();
    assert_eq!((verbs(&request), request.header.seq), (vec!["put"], Some(2)));
}

#[test]
fn a_mutation_that_never_left_is_definite() {
    let mut bench = Bench::new();
    bench.begin(put("k"), 2);
    let result = loop {
        match bench.wait() {
            Action::Finished { result, .. } => break result,
            _ => {
                assert_eq!(bench.session.in_doubt(), None);
                bench.session.link_lost(bench.now, "connection refused");
            }
        }
    };
    assert_eq!((bench.seconds(), result), (2.0, Err(GaveUp::TimedOut { trouble: Some("connection refused".into()) })));
    let mut bench = Bench::connected();
    bench.begin(put("k"), 2);
    let request = bench.sent();
    bench.session.not_sent(request.header.id.unwrap());
    bench.session.link_lost(bench.now, "the pipe was full");
    assert_eq!(bench.session.in_doubt(), None);
    bench.open(SECOND);
    assert_eq!(bench.sent().header.seq, Some(1));
}

#[test]
fn a_time_out_names_the_trouble() {
    let mut bench = Bench::new();
    let read = bench.begin(get(), 1);
    assert!(matches!(bench.wait(), Action::Open { .. }));
    bench.session.link_lost(bench.now, "connection refused");
    assert!(matches!(bench.wait(), Action::Open { .. }));
    bench.session.link_lost(bench.now, "connection refused");
    let Action::Finished { token, result: Err(error) } = bench.wait() else { panic!() };
    assert_eq!(token, read);
    assert_eq!(error.to_string(), "no answer before the deadline (connection refused)");
}

#[test]
fn replies_that_cannot_be_read_are_told_apart_from_silence() {
    let mut bench = Bench::connected();
    bench.begin(get(), 10);
    let request = bench.sent();
    bench.session.handle_reply(bench.now, b"\x93\x01");
    bench.session.handle_reply(bench.now, b"no reply at all");
    bench.waits();
    bench.answer(request.header.id, Ok(Answer::Size(1)));
    assert!(matches!(bench.finished(), (_, Err(GaveUp::Unreadable(_)))));
    bench.answer(Some(99), value());
    bench.waits();

    let write = bench.begin(put("k"), 10);
    let request = bench.sent();
    bench.answer(request.header.id, value());
    bench.unknown(write, 1);
    assert_eq!(verbs(&bench.sent()), ["noop"]);
}

#[test]
fn without_calls_nothing_is_planned() {
    let mut bench = Bench::new();
    assert_eq!(bench.poll(), Action::Wait { until: None });
    bench.session.link_up(welcome(BROKER, FIRST));
    assert_eq!(bench.poll(), Action::Wait { until: None });
    assert_eq!(bench.session.farewell(), None, "nothing was numbered");
    bench.session.link_lost(bench.now, "gone");
    assert_eq!(bench.poll(), Action::Wait { until: None });
}

#[test]
fn a_broker_that_remembers_nothing_is_asked_once() {
    let mut bench = Bench::new();
    bench.session.link_up(Welcome { remembers: false, ..welcome(BROKER, FIRST) });
    let write = bench.begin(put("k"), 60);
    let read = bench.begin(get(), 60);
    bench.sent();
    bench.session.link_lost(bench.now, "disconnected");
    bench.unknown(write, 1);
    bench.open(SECOND);
    let request = bench.sent();
    assert_eq!(verbs(&request), ["get"]);
    bench.answer(request.header.id, value());
    bench.done(read);
    bench.begin(put("k"), 60);
    let header = bench.sent().header;
    // The old session is left as it is, to be asked about.
    assert_eq!((header.session, header.seq, header.ack), (Some(SECOND), Some(1), Some(0)));

    // Where Hello does not say so, the first reply does.
    let mut bench = Bench::connected();
    let first = bench.begin(put("k"), 60);
    let request = bench.sent();
    bench.reply(request.header.id, Outcomes::One(Outcome { revision: Some(1), result: Ok(Answer::Done) }), Some(false));
    bench.done(first);
    let second = bench.begin(put("l"), 60);
    bench.sent();
    bench.session.link_lost(bench.now, "disconnected");
    bench.unknown(second, 2);
}
