//! Every way in which a call can end, driven by hand and by a clock that is a number.

#![allow(clippy::unwrap_used)]

use kvbroker_protocol::{Answer, Form, Outcome, Request, Scan, Stored, decode_request, encode_reply};

use super::*;

const BROKER: BrokerId = BrokerId([1; 16]);
const OTHER: BrokerId = BrokerId([2; 16]);
const FIRST: SessionId = SessionId([3; 16]);
const SECOND: SessionId = SessionId([4; 16]);

fn get() -> Operations {
    Operations::One(Operation::Get { key: b"k".to_vec() })
}

fn put() -> Operation {
    Operation::Put { key: b"k".to_vec(), value: Stored::text("v").unwrap(), condition: None, ttl_ms: None }
}

/// A session with a clock and what its driver saw.
struct Bench {
    session: Session,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Bench { session: Session::new(), start: now, now }
    }

    fn connected() -> Self {
        let mut bench = Self::new();
        bench.session.link_up(BROKER, FIRST);
        bench
    }

    fn begin(&mut self, operations: Operations, seconds: u64) -> u64 {
        self.session.begin(operations, Some(self.now + Duration::from_secs(seconds))).unwrap()
    }

    fn poll(&mut self) -> Action {
        self.session.poll(self.now)
    }

    fn sent(&mut self) -> Request {
        match self.poll() {
            Action::Send { id, body } => {
                let request = decode_request(&body).unwrap();
                assert_eq!(request.header.id, Some(id));
                request
            }
            other => panic!("nothing was sent but {other:?}"),
        }
    }

    /// Follows the session's wishes to wait until it wants something else.
    fn wait(&mut self) -> Action {
        loop {
            match self.poll() {
                Action::Wait { until: Some(until) } => {
                    assert!(until > self.now, "it waits for the past");
                    self.now = until;
                }
                other => return other,
            }
        }
    }

    fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn answer(&mut self, id: u64, outcome: Result<Answer, Failure>) {
        let outcomes = Outcomes::One(Outcome { revision: Some(1), result: outcome });
        self.answer_all(id, outcomes);
    }

    fn answer_all(&mut self, id: u64, outcomes: Outcomes) {
        let mut body = Vec::new();
        encode_reply(&Reply { id: Some(id), form: Form::Compact, retry_safe: None, outcomes }, &mut body);
        self.session.handle_reply(self.now, &body);
    }

    fn finished(&mut self) -> (u64, Result<Reply, GaveUp>) {
        match self.poll() {
            Action::Finished { id, result } => (id, result),
            other => panic!("not finished but {other:?}"),
        }
    }
}

fn value() -> Result<Answer, Failure> {
    Ok(Answer::Value { value: Stored::text("v").unwrap(), modified: 1, created: 1 })
}

#[test]
fn the_header_is_complete_and_counts() {
    let mut bench = Bench::connected();
    let first = bench.begin(Operations::Many(vec![put(), put(), Operation::Size]), 10);
    let header = bench.sent().header;
    let expected = Header { id: Some(1), broker: Some(BROKER), session: Some(FIRST), seq: Some(1), ack: Some(0), got: None };
    assert_eq!(header, expected);
    let ok = |answer| Outcome { revision: Some(1), result: Ok(answer) };
    bench.answer_all(first, Outcomes::Many(vec![ok(Answer::Done), ok(Answer::Done), ok(Answer::Size(1))]));
    assert!(bench.finished().1.is_ok());

    bench.begin(get(), 10);
    let header = bench.sent().header;
    assert_eq!((header.seq, header.ack, header.got), (None, Some(2), Some(1)));
    bench.begin(Operations::One(put()), 10);
    let header = bench.sent().header;
    assert_eq!((header.id, header.seq, header.ack, header.got), (Some(3), Some(3), Some(2), Some(1)));
}

#[test]
fn a_read_outlives_lost_connections_with_growing_pauses() {
    let mut bench = Bench::new();
    let id = bench.begin(get(), 60);
    let mut opened_at = Vec::new();
    for _ in 0..7 {
        assert!(matches!(bench.wait(), Action::Open { .. }));
        opened_at.push(bench.seconds());
        bench.session.link_lost(bench.now, "connection refused");
    }
    assert_eq!(opened_at, [0.0, 0.0, 1.0, 3.0, 7.0, 15.0, 23.0]);
    assert!(matches!(bench.wait(), Action::Open { .. }));
    bench.session.link_up(BROKER, FIRST);
    assert_eq!(bench.sent().header.id, Some(id));
    bench.answer(id, value());
    assert!(bench.finished().1.is_ok());
    // A reply ends the growth.
    bench.session.link_lost(bench.now, "gone");
    bench.begin(get(), 60);
    let before = bench.now;
    assert!(matches!(bench.wait(), Action::Open { .. }));
    assert_eq!(bench.now, before);
}

#[test]
fn an_overdue_read_moves_to_a_new_connection_with_the_same_id() {
    let mut bench = Bench::connected();
    let id = bench.begin(get(), 60);
    bench.sent();
    assert_eq!(bench.wait(), Action::Drop);
    assert_eq!(bench.seconds(), 5.0);
    assert!(matches!(bench.wait(), Action::Open { .. }));
    bench.session.link_up(BROKER, SECOND);
    let header = bench.sent().header;
    // Same broker, nothing in doubt: the session stays the first one.
    assert_eq!((header.id, header.session), (Some(id), Some(FIRST)));
}

#[test]
fn a_sent_mutation_is_never_sent_again() {
    let mut bench = Bench::connected();
    let id = bench.begin(Operations::One(put()), 60);
    assert_eq!(bench.session.in_doubt(id), None);
    bench.sent();
    let name = RequestId { session: FIRST, seq: 1 };
    assert_eq!(bench.session.in_doubt(id), Some(name));
    bench.session.link_lost(bench.now, "disconnected");
    let (_, result) = bench.finished();
    assert_eq!(result, Err(GaveUp::Unknown { request: name, why: "disconnected".into() }));
    assert_eq!(name.to_string(), format!("{}:1", "03".repeat(16)));
    // The old session is left alone: numbers start again in the one that Hello offers.
    bench.begin(Operations::One(put()), 60);
    assert!(matches!(bench.wait(), Action::Open { .. }));
    bench.session.link_up(BROKER, SECOND);
    let header = bench.sent().header;
    assert_eq!((header.session, header.seq, header.ack), (Some(SECOND), Some(1), Some(0)));
}

#[test]
fn a_mutation_waits_for_its_deadline_not_for_patience() {
    let mut bench = Bench::connected();
    bench.begin(Operations::One(put()), 30);
    bench.sent();
    let Action::Finished { result: Err(GaveUp::Unknown { request, .. }), .. } = bench.wait() else { panic!() };
    assert_eq!((bench.seconds(), request.seq), (30.0, 1));
}

#[test]
fn a_mutation_that_never_left_is_definite() {
    let mut bench = Bench::new();
    let id = bench.begin(Operations::One(put()), 2);
    while !matches!(bench.wait(), Action::Finished { .. }) {
        assert_eq!(bench.session.in_doubt(id), None);
        bench.session.link_lost(bench.now, "connection refused");
    }
    assert_eq!(bench.seconds(), 2.0);
    let mut bench = Bench::connected();
    let id = bench.begin(Operations::One(put()), 2);
    bench.sent();
    bench.session.not_sent(id);
    bench.session.link_lost(bench.now, "the pipe was full");
    assert!(matches!(bench.wait(), Action::Open { .. }));
    bench.session.link_up(BROKER, SECOND);
    assert_eq!(bench.sent().header.seq, Some(1));
}

#[test]
fn a_time_out_names_the_trouble() {
    let mut bench = Bench::new();
    let id = bench.begin(get(), 1);
    assert!(matches!(bench.wait(), Action::Open { .. }));
    bench.session.link_lost(bench.now, "connection refused");
    assert!(matches!(bench.wait(), Action::Open { .. }));
    bench.session.link_lost(bench.now, "connection refused");
    let Action::Finished { id: ended, result: Err(error) } = bench.wait() else { panic!() };
    assert_eq!(ended, id);
    assert_eq!(error.to_string(), "no answer before the deadline (connection refused)");
}

#[test]
fn busy_is_waited_out_and_keeps_its_number() {
    let mut bench = Bench::connected();
    let id = bench.begin(Operations::One(put()), 10);
    bench.sent();
    bench.answer(id, Err(Failure::busy("full", 250)));
    let Action::Send { body, .. } = bench.wait() else { panic!() };
    assert_eq!(bench.seconds(), 0.25);
    let header = decode_request(&body).unwrap().header;
    assert_eq!((header.id, header.seq, header.ack, header.got), (Some(id), Some(1), Some(0), Some(id)));
    // A deadline before the next attempt: the refusal is the answer, and it is definite.
    bench.answer(id, Err(Failure::busy("full", 60_000)));
    let Action::Finished { result: Ok(reply), .. } = bench.wait() else { panic!() };
    assert_eq!(whole_refusal(&reply).unwrap().code, ErrorCode::Busy);
    assert_eq!(bench.seconds(), 10.0);
    // Nobody took number 1, so the next mutation gets it.
    bench.begin(Operations::One(put()), 10);
    assert_eq!(bench.sent().header.seq, Some(1));
}

#[test]
fn a_stopping_broker_and_a_wrong_one_are_left_at_once() {
    for code in [ErrorCode::ShuttingDown, ErrorCode::WrongBroker] {
        let mut bench = Bench::connected();
        let id = bench.begin(Operations::One(put()), 10);
        bench.sent();
        bench.answer(id, Err(Failure::new(code, "go away")));
        assert!(matches!(bench.wait(), Action::Open { .. }));
        assert_eq!(bench.seconds(), 1.0, "not at once again: it needs time to stop");
        bench.session.link_up(OTHER, SECOND);
        let header = bench.sent().header;
        assert_eq!((header.broker, header.session, header.seq), (Some(OTHER), Some(SECOND), Some(1)));
    }
}

#[test]
fn failures_that_were_decided_take_their_number() {
    let mut bench = Bench::connected();
    for (code, next) in [(ErrorCode::NotFound, 2), (ErrorCode::Invalid, 2), (ErrorCode::Conflict, 3)] {
        let id = bench.begin(Operations::One(put()), 10);
        bench.sent();
        bench.answer(id, Err(Failure::new(code, "no")));
        assert!(bench.finished().1.is_ok());
        assert_eq!(bench.session.next_seq, next);
        assert_eq!(bench.session.ack(), next - 1);
    }
}

#[test]
fn replies_that_cannot_be_read_are_told_apart_from_silence() {
    let mut bench = Bench::connected();
    let id = bench.begin(get(), 10);
    bench.sent();
    bench.session.handle_reply(bench.now, b"\x93\x01");
    bench.session.handle_reply(bench.now, b"no reply at all");
    assert!(matches!(bench.poll(), Action::Wait { .. }), "it may still come");
    bench.answer(id, Ok(Answer::Size(1)));
    assert!(matches!(bench.finished(), (_, Err(GaveUp::Unreadable(_)))));
    bench.answer(99, value());
    assert!(matches!(bench.poll(), Action::Wait { until: None }));

    let id = bench.begin(Operations::One(put()), 10);
    bench.sent();
    bench.answer(id, value());
    assert!(matches!(bench.finished(), (_, Err(GaveUp::Unknown { .. }))));
}

#[test]
fn bounds_are_kept() {
    let mut bench = Bench::connected();
    let large = Operation::Put {
        key: vec![b'k'; 60_000],
        value: Stored::bytes(&vec![0; 7 << 20]).unwrap(),
        condition: None,
        ttl_ms: None,
    };
    bench.begin(Operations::Many(vec![large; 3]), 10);
    assert!(matches!(bench.finished(), (_, Err(GaveUp::OverLimit(failure))) if failure.code == ErrorCode::Limit));
    assert_eq!(bench.session.next_seq, 1, "it was never sent");
    for _ in 0..IN_FLIGHT_MAX {
        bench.begin(Operations::One(Operation::Scan(Scan::default())), 10);
    }
    assert_eq!(bench.session.begin(get(), None).unwrap_err().code, ErrorCode::Busy);
}

#[test]
fn without_calls_nothing_is_planned() {
    let mut bench = Bench::new();
    assert_eq!(bench.poll(), Action::Wait { until: None });
    bench.session.link_up(BROKER, FIRST);
    assert_eq!(bench.poll(), Action::Wait { until: None });
    bench.session.link_lost(bench.now, "gone");
    assert_eq!(bench.poll(), Action::Wait { until: None });
}
