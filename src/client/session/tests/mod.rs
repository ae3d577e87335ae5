//! Every way in which a call can end, driven by hand and by a clock that is a number.

#![allow(clippy::unwrap_used)]

mod broker;
mod ends;
mod packing;
mod random;
mod retries;
mod waiting;

use kvbroker_protocol::{Answer, ErrorCode, Form, Operations, Outcomes, Reply, Request, Stored, decode_request, encode_reply};

use super::*;

const BROKER: BrokerId = BrokerId([1; 16]);
const OTHER: BrokerId = BrokerId([2; 16]);
const FIRST: SessionId = SessionId([3; 16]);
const SECOND: SessionId = SessionId([4; 16]);

fn get() -> Operation {
    Operation::Get { key: b"k".to_vec() }
}

fn put(key: &str) -> Operation {
    Operation::Put { key: key.into(), value: Stored::text("v").unwrap(), condition: None, ttl_ms: None }
}

fn welcome(broker: BrokerId, session: SessionId) -> Welcome {
    Welcome { broker, session, window: SESSION_WINDOW, remembers: true }
}

type Answered = Result<Answer, Failure>;

fn fail(code: ErrorCode) -> Answered {
    Err(Failure::new(code, "no"))
}

fn value() -> Answered {
    Ok(Answer::Value { value: Stored::text("v").unwrap(), modified: 1, created: 1 })
}

/// A session with a clock and what its driver saw.
struct Bench {
    session: Session<u64>,
    start: Instant,
    now: Instant,
    next_token: u64,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Bench { session: Session::new(), start: now, now, next_token: 1 }
    }

    fn connected() -> Self {
        let mut bench = Self::new();
        bench.session.link_up(welcome(BROKER, FIRST));
        bench
    }

    fn begin(&mut self, operation: Operation, seconds: u64) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let asked = Asked::new(&operation).unwrap();
        self.session.begin(self.now, asked, Some(self.now + Duration::from_secs(seconds)), token);
        token
    }

    fn poll(&mut self) -> Action<u64> {
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
    fn wait(&mut self) -> Action<u64> {
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

    fn wait_for_message(&mut self) -> Request {
        match self.wait() {
            Action::Send { body, .. } => decode_request(&body).unwrap(),
            other => panic!("nothing was sent but {other:?}"),
        }
    }

    fn waits(&mut self) {
        let action = self.poll();
        assert!(matches!(action, Action::Wait { .. }), "{action:?}");
    }

    fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn answer(&mut self, id: Option<u64>, result: Answered) {
        self.reply(id, Outcomes::One(Outcome { revision: Some(1), result }), Some(true));
    }

    fn answer_all(&mut self, id: Option<u64>, results: impl IntoIterator<Item = Answered>) {
        let outcomes = results.into_iter().map(|result| Outcome { revision: Some(1), result });
        self.reply(id, Outcomes::Many(outcomes.collect()), Some(true));
    }

    fn reply(&mut self, id: Option<u64>, outcomes: Outcomes, retry_safe: Option<bool>) {
        let mut body = Vec::new();
        encode_reply(&Reply { id, form: Form::Compact, retry_safe, outcomes }, &mut body);
        self.session.handle_reply(self.now, &body);
    }

    fn finished(&mut self) -> (u64, Result<Outcome, GaveUp>) {
        match self.poll() {
            Action::Finished { token, result } => (token, result),
            other => panic!("not finished but {other:?}"),
        }
    }

    fn done(&mut self, token: u64) {
        let (finished, result) = self.finished();
        assert_eq!(finished, token);
        assert!(matches!(&result, Ok(Outcome { result: Ok(_), .. })), "{result:?}");
    }

    fn failed(&mut self, token: u64, code: ErrorCode) {
        let (finished, result) = self.finished();
        assert_eq!(finished, token);
        assert_eq!(result.unwrap().result.unwrap_err().code, code);
    }

    fn unknown(&mut self, token: u64, seq: u64) {
        let (finished, result) = self.finished();
        assert_eq!(finished, token);
        let Err(GaveUp::Unknown { request, .. }) = result else { panic!("{result:?}") };
        assert_eq!(request.seq, seq);
    }

    /// Loses the connection and stands on a new one that offers this session.
    fn reconnect(&mut self, session: SessionId) {
        self.session.link_lost(self.now, "disconnected");
        self.open(session);
    }

    fn open(&mut self, session: SessionId) {
        match self.wait() {
            Action::Drop => assert!(matches!(self.wait(), Action::Open { .. })),
            Action::Open { .. } => {}
            other => panic!("no wish to connect but {other:?}"),
        }
        self.session.link_up(welcome(BROKER, session));
    }
}

fn verbs(request: &Request) -> Vec<&'static str> {
    request.operations.as_slice().iter().map(Operation::verb).collect()
}

fn one(operation: Operation) -> Operations {
    Operations::One(operation)
}
