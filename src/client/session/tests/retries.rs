//! Refusals, holes and lost sessions: what is sent again, under which numbers.

use super::*;

/// Begins so many puts and sends them in one message; their tokens.
fn puts(bench: &mut Bench, count: usize) -> (Vec<u64>, Request) {
    let tokens = (0..count).map(|index| bench.begin(put(&index.to_string()), 60)).collect();
    (tokens, bench.sent())
}

fn keys(request: &Request) -> Vec<String> {
    let key = |operation: &Operation| match operation {
        Operation::Put { key, .. } => String::from_utf8(key.clone()).unwrap(),
        other => other.verb().to_owned(),
    };
    request.operations.as_slice().iter().map(key).collect()
}

#[test]
fn busy_is_waited_out_and_keeps_its_number() {
    let mut bench = Bench::connected();
    let write = bench.begin(put("k"), 10);
    let request = bench.sent();
    bench.answer(request.header.id, Err(Failure::busy("full", 250)));
    let again = bench.wait_for_message();
    assert_eq!(bench.seconds(), 0.25);
    assert_eq!((again.header.seq, again.header.ack, again.header.got), (Some(1), Some(0), request.header.id));
    // A second time the pause is longer.
    bench.answer(again.header.id, Err(Failure::busy("full", 250)));
    let again = bench.wait_for_message();
    assert_eq!(bench.seconds(), 0.75);
    // A deadline before the next attempt: the refusal is the answer, and it is definite.
    bench.answer(again.header.id, Err(Failure::busy("full", 60_000)));
    let Action::Finished { token, result } = bench.wait() else { panic!() };
    assert_eq!((token, result.unwrap().result.unwrap_err().code), (write, ErrorCode::Busy));
    assert_eq!(bench.seconds(), 10.0);
    // Nobody took number 1, so the next mutation gets it.
    bench.begin(put("l"), 100);
    assert_eq!(bench.wait_for_message().header.seq, Some(1));
}

#[test]
fn a_history_may_take_longer_than_anything_else() {
    for (operation, patience) in
        [(get(), PATIENCE), (Operation::History { key: b"k".to_vec(), limit: None, before: None }, LOG_PATIENCE)]
    {
        let mut bench = Bench::connected();
        bench.begin(operation, 1_000);
        bench.sent();
        assert!(matches!(bench.wait(), Action::Drop));
        assert_eq!(bench.seconds(), patience.as_secs_f64());
    }
}

#[test]
fn busy_in_the_middle_is_resumed_from_the_hole_on() {
    let mut bench = Bench::connected();
    let (first, one) = puts(&mut bench, 4);
    let (second, two) = puts(&mut bench, 2);
    assert_eq!((one.header.seq, two.header.seq), (Some(1), Some(5)));
    let busy = || Err(Failure::busy("full", 100));
    bench.answer_all(one.header.id, [Ok(Answer::Done), Ok(Answer::Done), busy(), fail(ErrorCode::OutOfOrder)]);
    bench.done(first[0]);
    bench.done(first[1]);
    // Nothing is sent into the hole.
    let third = bench.begin(put("z"), 60);
    bench.now += Duration::from_secs(1);
    bench.waits();
    bench.answer_all(two.header.id, [fail(ErrorCode::OutOfOrder), fail(ErrorCode::OutOfOrder)]);
    let again = bench.sent();
    assert_eq!(
        (keys(&again), again.header.seq, again.header.ack),
        (["2", "3", "0", "1", "z"].map(String::from).to_vec(), Some(3), Some(2))
    );
    bench.answer_all(again.header.id, std::iter::repeat_n(Ok(Answer::Done), 5));
    for token in [first[2], first[3], second[0], second[1], third] {
        bench.done(token);
    }
}

#[test]
fn a_message_that_was_refused_whole_is_sent_again_whole() {
    let mut bench = Bench::connected();
    let (tokens, request) = puts(&mut bench, 3);
    bench.answer(request.header.id, Err(Failure::busy("full", 100)));
    let again = bench.wait_for_message();
    assert_eq!((again.operations, again.header.seq), (request.operations, Some(1)));
    bench.answer_all(again.header.id, std::iter::repeat_n(Ok(Answer::Done), 3));
    tokens.into_iter().for_each(|token| bench.done(token));
}

#[test]
fn who_is_at_fault_for_a_refused_message_shows_one_by_one() {
    let mut bench = Bench::connected();
    let (tokens, request) = puts(&mut bench, 3);
    bench.answer(request.header.id, fail(ErrorCode::Limit));
    let first = bench.sent();
    assert_eq!((keys(&first), first.header.seq), (vec!["0".into()], Some(1)));
    let second = bench.sent();
    assert_eq!((keys(&second), second.header.seq), (vec!["1".into()], Some(2)));
    let third = bench.wait_for_message();
    assert_eq!(third.header.seq, Some(3));
    bench.answer(first.header.id, Ok(Answer::Done));
    bench.done(tokens[0]);
    bench.answer(second.header.id, fail(ErrorCode::Limit));
    bench.failed(tokens[1], ErrorCode::Limit);
    bench.answer(third.header.id, fail(ErrorCode::OutOfOrder));
    // The culprit's number is filled, because a later one was sent.
    let filler = bench.sent();
    assert_eq!((keys(&filler), filler.header.seq), (vec!["noop".into()], Some(2)));
    let third = bench.sent();
    assert_eq!((keys(&third), third.header.seq), (vec!["2".into()], Some(3)));
    bench.answer(filler.header.id, Ok(Answer::Done));
    bench.answer(third.header.id, Ok(Answer::Done));
    bench.done(tokens[2]);
    bench.begin(put("k"), 60);
    assert_eq!(bench.sent().header.ack, Some(3));
}

#[test]
fn the_number_of_a_refused_mutation_is_used_again_if_it_was_the_last() {
    let mut bench = Bench::connected();
    for (code, next) in [(ErrorCode::NotFound, 2), (ErrorCode::Invalid, 2), (ErrorCode::Conflict, 3), (ErrorCode::IdReused, 4)] {
        let token = bench.begin(put("k"), 10);
        let request = bench.sent();
        bench.answer(request.header.id, fail(code));
        bench.failed(token, code);
        bench.waits();
        assert_eq!(bench.session.numbers.next(), next, "{code}");
        assert_eq!(bench.session.numbers.ack(), next - 1);
    }
}

#[test]
fn a_read_does_not_overtake_a_mutation_that_was_refused_before_it() {
    for code in [ErrorCode::Busy, ErrorCode::OutOfOrder, ErrorCode::SessionExpired, ErrorCode::UnknownOutcome] {
        let mut bench = Bench::connected();
        let (before, write, behind) = (bench.begin(get(), 60), bench.begin(put("k"), 60), bench.begin(get(), 60));
        let request = bench.sent();
        let later = bench.begin(get(), 60);
        let next = bench.sent();
        bench.answer_all(request.header.id, [value(), fail(code), fail(ErrorCode::NotFound)]);
        bench.done(before);
        // In another message, too.
        bench.answer(next.header.id, fail(ErrorCode::NotFound));
        if code == ErrorCode::SessionExpired {
            bench.open(SECOND);
        }
        let again = bench.wait_for_message();
        assert_eq!((verbs(&again), again.header.seq), (vec!["put", "get", "get"], Some(1)), "{code}");
        bench.answer_all(again.header.id, [Ok(Answer::Done), value(), value()]);
        [write, behind, later].into_iter().for_each(|token| bench.done(token));
    }
}

#[test]
fn a_fault_of_the_broker_takes_no_number() {
    let mut bench = Bench::connected();
    let (tokens, request) = puts(&mut bench, 2);
    bench.answer_all(request.header.id, [fail(ErrorCode::Internal), fail(ErrorCode::OutOfOrder)]);
    bench.failed(tokens[0], ErrorCode::Internal);
    let again = bench.sent();
    assert_eq!((keys(&again), again.header.seq, again.header.ack), (vec!["noop".into(), "1".into()], Some(1), Some(0)));
    bench.answer_all(again.header.id, [Ok(Answer::Done), Ok(Answer::Done)]);
    bench.done(tokens[1]);
    bench.begin(put("k"), 60);
    assert_eq!(bench.sent().header.ack, Some(2));
}

#[test]
fn a_hole_in_another_session_is_the_answer() {
    let mut bench = Bench::connected();
    let asks = bench.begin(Operation::Result { session: SECOND, seq: 7, settle: true }, 60);
    let request = bench.sent();
    bench.answer(request.header.id, fail(ErrorCode::OutOfOrder));
    bench.failed(asks, ErrorCode::OutOfOrder);
    bench.waits();
}

#[test]
fn what_is_held_for_questions_does_not_fill_the_brokers_memory() {
    let mut bench = Bench::connected();
    for seq in 1..=2 {
        let late = bench.begin(put("k"), 3);
        let request = bench.sent();
        bench.now += Duration::from_secs(3);
        bench.unknown(late, seq);
        bench.answer(request.header.id, Ok(Answer::Done));
    }
    let write = bench.begin(put("l"), 60);
    let mut request = bench.sent();
    assert_eq!((request.header.seq, request.header.ack), (Some(3), Some(0)));
    // As few as need be.
    for ack in 1..=2 {
        bench.answer(request.header.id, Err(Failure::busy("too much is remembered", 100)));
        request = bench.wait_for_message();
        assert_eq!((request.header.seq, request.header.ack), (Some(3), Some(ack)));
    }
    bench.answer(request.header.id, Ok(Answer::Done));
    bench.done(write);
}

#[test]
fn a_number_that_was_told_to_be_unknown_names_nothing_else() {
    for code in [ErrorCode::Busy, ErrorCode::OutOfOrder, ErrorCode::Invalid, ErrorCode::Limit, ErrorCode::ShuttingDown] {
        let mut bench = Bench::connected();
        let late = bench.begin(put("k"), 3);
        let request = bench.sent();
        bench.now += Duration::from_secs(3);
        bench.unknown(late, 1);
        bench.answer(request.header.id, fail(code));
        bench.begin(put("l"), 60);
        if code == ErrorCode::ShuttingDown {
            bench.open(SECOND);
        }
        let request = bench.wait_for_message();
        assert_eq!((keys(&request), request.header.seq), (vec!["noop".into(), "l".into()], Some(1)), "{code}");
    }
}

#[test]
fn a_refusal_after_a_lost_attempt_proves_nothing() {
    let mut bench = Bench::connected();
    let token = bench.begin(put("k"), 60);
    bench.sent();
    bench.reconnect(SECOND);
    let again = bench.sent();
    bench.answer(again.header.id, fail(ErrorCode::Refused));
    bench.unknown(token, 1);
    assert_eq!(verbs(&bench.sent()), ["noop"]);
}

#[test]
fn a_stopping_broker_and_a_wrong_one_are_left_and_asked_again_later() {
    for code in [ErrorCode::ShuttingDown, ErrorCode::WrongBroker] {
        let mut bench = Bench::connected();
        let token = bench.begin(put("k"), 10);
        let request = bench.sent();
        bench.answer(request.header.id, fail(code));
        assert!(matches!(bench.wait(), Action::Open { .. }));
        assert_eq!(bench.seconds(), 1.0, "not at once again: it needs time to stop");
        bench.session.link_up(welcome(BROKER, SECOND));
        let again = bench.sent();
        assert_eq!((again.header.session, again.header.seq), (Some(FIRST), Some(1)));
        bench.answer(again.header.id, Ok(Answer::Done));
        bench.done(token);
    }
}

#[test]
fn another_log_gets_only_what_the_first_one_never_saw() {
    let mut bench = Bench::connected();
    let mut seen = puts(&mut bench, 2).0;
    (1..EAGER_MESSAGES).for_each(|_| seen.extend(puts(&mut bench, 1).0));
    let collected = bench.begin(put("new"), 60);
    let read = bench.begin(get(), 60);
    bench.waits();
    bench.session.link_lost(bench.now, "gone");
    assert!(matches!(bench.wait(), Action::Open { .. }));
    bench.session.link_up(welcome(OTHER, SECOND));
    // In the order of their numbers or not: all of them.
    let mut unknown: Vec<u64> = (0..seen.len())
        .map(|_| bench.finished())
        .map(|(token, result)| {
            assert!(matches!(result, Err(GaveUp::Unknown { .. })), "{result:?}");
            token
        })
        .collect();
    unknown.sort_unstable();
    assert_eq!(unknown, seen);
    let request = bench.sent();
    assert_eq!((keys(&request), request.header.seq), (vec!["new".into(), "get".into()], Some(1)));
    assert_eq!((request.header.broker, request.header.session), (Some(OTHER), Some(SECOND)));
    bench.answer_all(request.header.id, [Ok(Answer::Done), value()]);
    bench.done(collected);
    bench.done(read);
}

#[test]
fn an_expired_session_is_replaced_for_what_was_sent_once() {
    let mut bench = Bench::connected();
    let (tokens, request) = puts(&mut bench, 2);
    bench.answer(request.header.id, fail(ErrorCode::SessionExpired));
    bench.open(SECOND);
    let again = bench.sent();
    assert_eq!((again.operations, again.header.session, again.header.seq), (request.operations, Some(SECOND), Some(1)));
    bench.answer_all(again.header.id, [Ok(Answer::Done), Ok(Answer::Done)]);
    tokens.into_iter().for_each(|token| bench.done(token));
}

#[test]
fn an_expired_session_leaves_what_was_sent_twice_unknown() {
    let mut bench = Bench::connected();
    let (tokens, _) = puts(&mut bench, 2);
    bench.reconnect(SECOND);
    let again = bench.sent();
    let fresh = bench.begin(put("new"), 60);
    let new = bench.sent();
    bench.answer(again.header.id, fail(ErrorCode::SessionExpired));
    bench.waits(); // For the other message: it may be answered otherwise.
    bench.answer(new.header.id, fail(ErrorCode::SessionExpired));
    bench.open(SECOND);
    let (_, first) = bench.finished();
    let (_, second) = bench.finished();
    assert!([first, second].iter().all(|result| matches!(result, Err(GaveUp::Unknown { .. }))));
    let request = bench.sent();
    assert_eq!((keys(&request), request.header.session, request.header.seq), (vec!["new".into()], Some(SECOND), Some(1)));
    bench.answer(request.header.id, Ok(Answer::Done));
    bench.done(fresh);
    assert_eq!(tokens.len(), 2);
}

#[test]
fn a_broker_that_lost_a_part_of_its_log_gets_a_new_session() {
    let mut bench = Bench::connected();
    let first = bench.begin(put("k"), 60);
    let request = bench.sent();
    bench.answer(request.header.id, Ok(Answer::Done));
    bench.done(first);
    bench.session.link_lost(bench.now, "power failure");
    let second = bench.begin(put("l"), 60);
    bench.open(SECOND);
    for _ in 0..2 {
        let request = bench.sent();
        assert_eq!(request.header.seq, Some(2));
        bench.answer(request.header.id, fail(ErrorCode::OutOfOrder));
    }
    bench.open(SECOND);
    let request = bench.sent();
    assert_eq!((request.header.session, request.header.seq), (Some(SECOND), Some(1)));
    bench.answer(request.header.id, Ok(Answer::Done));
    bench.done(second);
}

#[test]
fn an_unknown_outcome_is_asked_about_until_it_is_known() {
    let mut bench = Bench::connected();
    let token = bench.begin(put("k"), 60);
    let request = bench.sent();
    bench.answer(request.header.id, fail(ErrorCode::UnknownOutcome));
    let again = bench.wait_for_message();
    assert_eq!((again.operations, again.header.seq), (request.operations, Some(1)));
    bench.answer(again.header.id, fail(ErrorCode::Conflict));
    bench.failed(token, ErrorCode::Conflict);
}

#[test]
fn a_read_that_did_not_fit_is_asked_again_by_itself() {
    let mut bench = Bench::connected();
    let (first, second, write) = (bench.begin(get(), 60), bench.begin(get(), 60), bench.begin(put("k"), 60));
    let request = bench.sent();
    assert_eq!(verbs(&request), ["get", "get", "put"]);
    bench.answer_all(request.header.id, [value(), fail(ErrorCode::ReplyFull), Ok(Answer::Done)]);
    bench.done(first);
    bench.done(write);
    let again = bench.sent();
    assert_eq!((verbs(&again), again.header.seq), (vec!["get"], None));
    bench.answer(again.header.id, fail(ErrorCode::ReplyFull));
    bench.failed(second, ErrorCode::ReplyFull);
}

#[test]
fn a_number_that_was_answered_out_of_turn_leaves_a_gap_between_messages() {
    let mut bench = Bench::connected();
    let (first, one) = puts(&mut bench, 1);
    let (second, two) = puts(&mut bench, 1);
    bench.answer(two.header.id, Ok(Answer::Done));
    bench.done(second[0]);
    bench.reconnect(SECOND);
    let third = bench.begin(put("z"), 60);
    let again = bench.sent();
    assert_eq!((again.operations, again.header.seq), (one.operations, Some(1)));
    let new = bench.sent();
    assert_eq!((keys(&new), new.header.seq, new.header.ack), (vec!["z".into()], Some(3), Some(0)));
    bench.answer(again.header.id, Ok(Answer::Done));
    bench.answer(new.header.id, Ok(Answer::Done));
    bench.done(first[0]);
    bench.done(third);
}
