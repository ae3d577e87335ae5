//! What goes into one message, and when it is sent.

use kvbroker_protocol::limits::ARRAY_REGEXES_MAX;
use kvbroker_protocol::{Pattern, Scan, Txn};

use super::*;

fn take() -> Operation {
    Operation::Del { key: b"k".to_vec(), return_old: true, condition: None }
}

fn scan() -> Operation {
    Operation::Scan(Scan { pattern: Some(Pattern::new("a").unwrap()), ..Scan::default() })
}

/// All messages that go out while every one is answered at once.
fn messages(bench: &mut Bench) -> Vec<Vec<&'static str>> {
    let mut messages = Vec::new();
    loop {
        match bench.wait_or_stop() {
            Some(request) => {
                let answers = request.operations.as_slice().iter().map(|operation| match operation {
                    Operation::Get { .. } => value(),
                    Operation::Scan(_) => Ok(Answer::Rows { rows: vec![], cursor: None, snapshot: None }),
                    Operation::Txn(_) => fail(ErrorCode::Conflict),
                    _ => Ok(Answer::Done),
                });
                let answers: Vec<Answered> = answers.collect();
                match &request.operations {
                    Operations::One(_) => bench.answer(request.header.id, answers[0].clone()),
                    Operations::Many(_) => bench.answer_all(request.header.id, answers),
                }
                messages.push(verbs(&request));
            }
            None => return messages,
        }
    }
}

impl Bench {
    /// The next message; None when every call has ended.
    fn wait_or_stop(&mut self) -> Option<Request> {
        while self.session.outstanding() > 0 || !self.session.finished.is_empty() {
            match self.wait() {
                Action::Finished { .. } => {}
                Action::Send { body, .. } => return Some(decode_request(&body).unwrap()),
                other => panic!("{other:?}"),
            }
        }
        None
    }
}

#[test]
fn with_nothing_outstanding_a_call_leaves_at_once_and_then_they_are_collected() {
    let mut bench = Bench::connected();
    for _ in 0..EAGER_MESSAGES {
        bench.begin(put("k"), 10);
        bench.sent();
    }
    bench.begin(put("a"), 10);
    bench.begin(get(), 10);
    let before = bench.now;
    assert_eq!(bench.poll(), Action::Wait { until: Some(before + COLLECT_FOR) });
    bench.begin(put("b"), 10);
    // A reply ends the collecting.
    bench.answer(Some(1), Ok(Answer::Done));
    bench.done(1);
    assert_eq!(verbs(&bench.sent()), ["put", "get", "put"]);
    // So does the time, without a reply.
    bench.begin(put("c"), 10);
    let request = bench.wait_for_message();
    assert_eq!((verbs(&request), bench.now), (vec!["put"], before + COLLECT_FOR));
    // And a full array.
    (0..1_500).for_each(|_| {
        bench.begin(put("d"), 10);
    });
    assert_eq!(bench.sent().operations.as_slice().len(), 1_024);
    bench.waits();
}

#[test]
fn company_is_chosen_so_that_nobody_pays_for_another() {
    let mut bench = Bench::connected();
    let txn = |then| Operation::Txn(Box::new(Txn { compares: vec![], then, otherwise: vec![] }));
    let all = [put("a"), take(), get(), take(), put("b"), txn(vec![get(), put("c")]), scan(), scan(), get(), txn(vec![put("d")])];
    let (expire, persist) = (Operation::Expire { key: b"k".to_vec(), ttl_ms: 1 }, Operation::Persist { key: b"k".to_vec() });
    for operation in all.into_iter().chain([expire.clone(), expire, persist, put("e")]) {
        bench.begin(operation, 10);
    }
    let expected: [&[&str]; 9] = [
        &["put", "del", "get"],
        &["del", "put"],
        &["txn"],
        &["scan"],
        &["scan"],
        &["get", "txn"],
        &["expire"],
        &["expire"],
        &["persist", "put"],
    ];
    assert_eq!(messages(&mut bench), expected);
}

#[test]
fn the_bounds_of_a_message_are_kept() {
    let mut bench = Bench::connected();
    let large = |bytes| Operation::Put {
        key: b"k".to_vec(),
        value: Stored::bytes(&vec![0; bytes]).unwrap(),
        condition: None,
        ttl_ms: None,
    };
    for bytes in [700 << 10, 700 << 10, 5 << 20, 10, 10] {
        bench.begin(large(bytes), 10);
    }
    bench.begin(Operation::Mget { keys: vec![b"k".to_vec(); 1_023] }, 10);
    assert_eq!(messages(&mut bench).iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 2, 1]);
    let inner = vec![scan(); ARRAY_REGEXES_MAX];
    let txn = Operation::Txn(Box::new(Txn { compares: vec![], then: inner, otherwise: vec![] }));
    bench.begin(txn.clone(), 10);
    bench.begin(txn, 10);
    assert_eq!(messages(&mut bench).len(), 2);
    let too_large = Operation::Mget { keys: vec![vec![b'k'; 60_000]; 300] };
    assert_eq!(Asked::new(&too_large).unwrap_err().code, ErrorCode::Limit);
}

#[test]
fn the_window_bounds_what_is_not_acknowledged() {
    let mut bench = Bench::new();
    bench.session.link_up(Welcome { window: 3, ..welcome(BROKER, FIRST) });
    let tokens: Vec<u64> = (0..5).map(|_| bench.begin(put("k"), 60)).collect();
    let read = bench.begin(get(), 60);
    let first = bench.sent();
    assert_eq!(first.operations.as_slice().len(), 3);
    bench.now += Duration::from_millis(100);
    bench.waits();
    bench.answer_all(first.header.id, std::iter::repeat_n(Ok(Answer::Done), 3));
    tokens[..3].iter().for_each(|token| bench.done(*token));
    let second = bench.sent();
    // The read keeps its place behind the mutations that were begun before it.
    assert_eq!((verbs(&second), second.header.seq, second.header.ack), (vec!["put", "put", "get"], Some(4), Some(3)));
    bench.answer_all(second.header.id, [Ok(Answer::Done), Ok(Answer::Done), value()]);
    bench.done(tokens[3]);
    bench.done(tokens[4]);
    bench.done(read);
}

/// Short operations lie in common memory and long ones do not; whatever becomes of some, the others keep their bytes.
#[test]
fn short_and_long_operations_keep_their_bytes_through_retries_and_deadlines() {
    let mut bench = Bench::connected();
    let put = |key: String, bytes: usize| Operation::Put {
        value: Stored::text(&key.repeat(bytes / key.len())).unwrap(),
        key: key.into_bytes(),
        condition: None,
        ttl_ms: None,
    };
    let operations: Vec<_> = (0..40).map(|at| put(format!("key {at:02}"), [8, 3_000, 200][at % 3])).collect();
    // While the connection is down they are collected, and every fifth one runs out of time.
    bench.session.link_lost(bench.now, "disconnected");
    for (at, operation) in operations.iter().enumerate() {
        bench.begin(operation.clone(), if at % 5 == 4 { 1 } else { 100 });
    }
    bench.now += Duration::from_secs(2);
    let mut ended = 0;
    while let Action::Finished { result, .. } = bench.poll() {
        assert!(matches!(result, Err(GaveUp::TimedOut { .. })), "{result:?}");
        ended += 1;
    }
    assert_eq!(ended, 8);
    bench.session.link_up(welcome(BROKER, FIRST));
    let left: Vec<_> = operations.into_iter().enumerate().filter(|(at, _)| at % 5 != 4).map(|(_, operation)| operation).collect();
    let sent = bench.sent();
    assert_eq!(sent.operations.as_slice(), left);
    // Later ones are there when it has to be sent again.
    let later = put("later".into(), 10);
    bench.begin(later.clone(), 100);
    assert_eq!(bench.sent().operations.as_slice(), std::slice::from_ref(&later));
    bench.reconnect(FIRST);
    let again: Vec<_> = left.iter().cloned().chain([later]).collect();
    let sent = bench.sent();
    assert_eq!(sent.operations.as_slice(), again);
    // One is refused as too much for now, and those behind it as not in order: they come again, and the first does not.
    let refused = again.len() - 1;
    let answers = (0..again.len()).map(|at| match at {
        0 => Ok(Answer::Done),
        1 => fail(ErrorCode::Busy),
        _ => fail(ErrorCode::OutOfOrder),
    });
    bench.answer_all(sent.header.id, answers);
    let request = loop {
        match bench.wait() {
            Action::Finished { result, .. } => assert!(result.unwrap().result.is_ok()),
            Action::Send { body, .. } => break decode_request(&body).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(request.operations.as_slice(), &again[1..]);
    assert_eq!(request.operations.as_slice().len(), refused);
}
