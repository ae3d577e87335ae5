//! A broker as a pure model: a map of counters, and sessions that remember replies. What a session must rely on is here.

use std::collections::{BTreeMap, HashMap};

use kvbroker_protocol::request_hash;

use super::*;

#[derive(Default)]
struct Remembered {
    highest: u64,
    ack: u64,
    replies: BTreeMap<u64, (u64, Outcome)>,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) counters: BTreeMap<Vec<u8>, i128>,
    sessions: HashMap<SessionId, Remembered>,
    /// Sessions that were forgotten.
    expired: Vec<SessionId>,
    ended: Vec<SessionId>,
    revision: u64,
    born: u64,
    /// What every number was decided for.
    pub(super) decided: HashMap<(SessionId, u64), Operation>,
    /// Mutations that were done, by what they say of themselves.
    pub(super) done: HashMap<Vec<u8>, u64>,
    window: u64,
    /// How many replies a session may have it remember.
    replies_max: usize,
}

impl Model {
    pub(super) fn new(window: u64, replies_max: usize) -> Self {
        Model { window, replies_max, ..Model::default() }
    }

    pub(super) fn hello(&mut self) -> Welcome {
        self.born += 1;
        let window = usize::try_from(self.window).unwrap();
        Welcome { broker: BROKER, session: SessionId::new(1, self.born), window, remembers: true }
    }

    /// Forgets a session.
    pub(super) fn evict(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        self.expired.push(session);
    }

    /// Runs a message. `trouble` may refuse an operation before it is looked at; with None for the whole message.
    pub(super) fn run(
        &mut self,
        body: &[u8],
        trouble: &mut impl FnMut(Option<&Operation>) -> Option<Failure>,
    ) -> Option<Vec<u8>> {
        let request = decode_request(body).unwrap();
        let header = &request.header;
        let session = header.session.unwrap();
        assert_eq!(header.broker, Some(BROKER));
        if matches!(request.operations, Operations::One(Operation::End)) {
            let known = self.sessions.get(&session).unwrap();
            assert_eq!(Some(known.highest), header.ack, "a session ends when all its replies were read");
            self.ended.push(session);
            return None;
        }
        let outcomes = match trouble(None) {
            Some(failure) => Outcomes::One(Outcome { revision: None, result: Err(failure) }),
            None => {
                let mut seq = header.seq;
                let mut outcomes = Vec::new();
                for operation in request.operations.as_slice() {
                    let number = seq.filter(|_| operation.is_mutation());
                    outcomes.push(match number {
                        Some(number) => {
                            seq = Some(number + 1);
                            self.mutate(session, number, header.ack.unwrap(), operation, trouble)
                        }
                        None => self.read(operation),
                    });
                }
                match &request.operations {
                    Operations::One(_) => Outcomes::One(outcomes.pop().unwrap()),
                    Operations::Many(_) => Outcomes::Many(outcomes),
                }
            }
        };
        let mut reply = Vec::new();
        encode_reply(&Reply { id: header.id, form: Form::Compact, retry_safe: Some(true), outcomes }, &mut reply);
        Some(reply)
    }

    fn mutate(
        &mut self,
        session: SessionId,
        seq: u64,
        ack: u64,
        operation: &Operation,
        trouble: &mut impl FnMut(Option<&Operation>) -> Option<Failure>,
    ) -> Outcome {
        let refuse = |failure| Outcome { revision: Some(0), result: Err(failure) };
        assert!(!self.ended.contains(&session), "nothing is sent in a session that was ended");
        if self.expired.contains(&session) {
            return refuse(Failure::new(ErrorCode::SessionExpired, "forgotten"));
        }
        let remembered = self.sessions.entry(session).or_default();
        assert!(ack <= remembered.highest, "nobody can have read the reply to {ack}: {} was the last", remembered.highest);
        remembered.ack = remembered.ack.max(ack);
        let acknowledged = remembered.ack;
        remembered.replies.retain(|seq, _| *seq > acknowledged);
        if seq <= acknowledged {
            // Late, from a connection that has ended: nobody reads the answer.
            return refuse(Failure::new(ErrorCode::IdReused, "acknowledged"));
        }
        let hash = request_hash(operation, &mut Vec::new());
        if let Some((first, outcome)) = remembered.replies.get(&seq) {
            let mut failure = Failure::new(ErrorCode::IdReused, "reused");
            failure.original = Some(Box::new(outcome.clone()));
            return if *first == hash { outcome.clone() } else { refuse(failure) };
        }
        if seq > remembered.highest + 1 {
            return refuse(Failure::new(ErrorCode::OutOfOrder, "a hole"));
        }
        if seq > acknowledged + self.window {
            return refuse(Failure::busy("the window", 10));
        }
        if remembered.replies.len() >= self.replies_max {
            return refuse(Failure::busy("too much to remember", 10));
        }
        if let Some(failure) = trouble(Some(operation)) {
            return refuse(failure);
        }
        remembered.highest = seq;
        self.decided.insert((session, seq), operation.clone());
        let outcome = self.apply(operation);
        let remembered = self.sessions.entry(session).or_default();
        remembered.replies.insert(seq, (hash, outcome.clone()));
        outcome
    }

    fn apply(&mut self, operation: &Operation) -> Outcome {
        let result = match operation {
            Operation::Noop => Ok(Answer::Done),
            Operation::Incr { key, by } if key == b"failing" => {
                Err(Failure::new(ErrorCode::OutOfRange, format!("{by} is too much")))
            }
            Operation::Incr { key, by } => {
                self.revision += 1;
                let counter = self.counters.entry(key.clone()).or_default();
                *counter += i128::from(*by);
                Ok(Answer::Integer(*counter))
            }
            // The key says which call it is.
            Operation::Put { key, .. } => {
                self.revision += 1;
                *self.done.entry(key.clone()).or_default() += 1;
                Ok(Answer::Done)
            }
            other => panic!("{other:?} is not in the model"),
        };
        Outcome { revision: Some(self.revision), result }
    }

    fn read(&self, operation: &Operation) -> Outcome {
        let result = match operation {
            Operation::Exists { key } => Ok(Answer::Exists(self.done.contains_key(key))),
            other => panic!("{other:?} is not in the model"),
        };
        Outcome { revision: Some(self.revision), result }
    }
}
