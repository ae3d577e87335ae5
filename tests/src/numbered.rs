//! A stranger's client that numbers its mutations: sockets and sessions as docs/protocol.md describes them, without the client library.
//!
//! - Messages are arrays in compact MessagePack, several in flight. After a lost connection all that were not answered are sent again, in
//!   order and under the same numbers.
//! - `session_expired` leaves the mutations of its message with an unknown outcome; the next message begins a new session.
//! - Anything else that a user would call an error is one.
//!
//! - A broker that is stopping refuses messages: they are sent again when there is one that serves.
//!
//! Caveat: `busy` is an error here.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvbroker_protocol::{
    ErrorCode, Failure, Header, Operation, Operations, Outcome, Outcomes, Reply, ReplyError, SessionId, decode_reply,
    encode_request, reply_id,
};
use serde_json::json;

use crate::{PATIENCE, RawClient, wait_until};

/// Without a reply for this long the connection is taken for lost.
const SILENCE: Duration = Duration::from_secs(5);

/// What a user would see.
#[derive(Debug, thiserror::Error)]
pub enum NumberedError {
    /// A whole message was refused.
    #[error("a message was refused: {0}")]
    Refused(Failure),
    /// A reply that doesn't follow the protocol.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A reply to another message than the oldest.
    #[error("the reply to message {found:?} came, not to {wanted}")]
    Order {
        /// Whose.
        found: Option<u64>,
        /// The oldest in flight.
        wanted: u64,
    },
    /// A numbered mutation may not be sent again.
    #[error("a reply to numbered mutations says that they can't be sent again")]
    NotSafe,
}

/// A client with one session at a time.
pub struct NumberedClient {
    router: PathBuf,
    link: Option<Link>,
    session: SessionId,
    /// The session's next number.
    seq: u64,
    /// Replies up to this number were read.
    ack: u64,
    id: u64,
    in_flight: VecDeque<Message>,
    /// Mutations that were told `session_expired`.
    expired: usize,
}

struct Link {
    client: RawClient,
    /// Readable when the connection has ended.
    end: zmq::Socket,
}

struct Message {
    id: u64,
    session: SessionId,
    /// The first mutation's number, and how many there are.
    numbers: Option<(u64, u64)>,
    operations: Operations,
}

impl NumberedClient {
    /// A client of the broker that listens, or will, at this socket.
    pub fn new(router: &Path) -> NumberedClient {
        NumberedClient {
            router: router.to_owned(),
            link: None,
            session: new_session(router),
            seq: 1,
            ack: 0,
            id: 0,
            in_flight: VecDeque::new(),
            expired: 0,
        }
    }

    /// Messages that are not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Mutations that were told `session_expired` so far.
    pub fn expired(&self) -> usize {
        self.expired
    }

    /// Sends operations as one message.
    pub fn send(&mut self, operations: Vec<Operation>) {
        let mutations = operations.iter().filter(|operation| operation.is_mutation()).count() as u64;
        let numbers = (mutations > 0).then_some((self.seq, mutations));
        self.seq += mutations;
        self.id += 1;
        let message = Message { id: self.id, session: self.session, numbers, operations: Operations::Many(operations) };
        if let Some(link) = &self.link {
            link.client.send(&[self.body(&message)]);
        }
        self.in_flight.push_back(message);
    }

    /// The outcomes of the oldest message in flight, in the order of its operations; None for a mutation whose outcome is unknown. Waits,
    /// across restarts of the broker.
    ///
    /// # Errors
    /// See [`NumberedError`].
    ///
    /// # Panics
    /// If nothing is in flight, or the broker does not come back.
    pub fn receive(&mut self) -> Result<Vec<Option<Outcome>>, NumberedError> {
        loop {
            if self.link.is_none() {
                self.link = Some(Link::open(&self.router));
                self.in_flight.iter().for_each(|message| {
                    self.link.iter().for_each(|link| link.client.send(&[self.body(message)]));
                });
            }
            let Some(link) = &self.link else { continue };
            match link.wait() {
                Some(body) if !self.is_stopping(&body) => return self.take(&body),
                _ => self.link = None,
            }
        }
    }

    fn body(&self, message: &Message) -> Vec<u8> {
        let mut header = Header { id: Some(message.id), ..Header::default() };
        if let Some((first, _)) = message.numbers {
            // Of a session that is over nothing more is acknowledged.
            let ack = if message.session == self.session { self.ack } else { 0 };
            header = Header { session: Some(message.session), seq: Some(first), ack: Some(ack), ..header };
        }
        let mut body = Vec::new();
        encode_request(&header, &message.operations, &mut body);
        body
    }

    /// True for the refusal of a broker that stops; it may overtake the replies to messages before.
    fn is_stopping(&self, body: &[u8]) -> bool {
        let id = reply_id(body).ok().flatten();
        let Some(message) = self.in_flight.iter().find(|message| Some(message.id) == id) else { return false };
        let refusal = |reply: Reply| match reply.outcomes {
            Outcomes::One(outcome) => outcome.result.err(),
            Outcomes::Many(_) => None,
        };
        let refusal = decode_reply(body, &message.operations.expects()).ok().and_then(refusal);
        refusal.is_some_and(|failure| failure.code == ErrorCode::ShuttingDown)
    }

    fn take(&mut self, body: &[u8]) -> Result<Vec<Option<Outcome>>, NumberedError> {
        let message = self.in_flight.pop_front().expect("a reply to something");
        let reply = decode_reply(body, &message.operations.expects())?;
        if reply.id != Some(message.id) {
            return Err(NumberedError::Order { found: reply.id, wanted: message.id });
        }
        let outcomes = match reply.outcomes {
            Outcomes::Many(outcomes) => outcomes,
            Outcomes::One(Outcome { result: Err(failure), .. }) => return Err(NumberedError::Refused(failure)),
            Outcomes::One(outcome) => vec![outcome],
        };
        if let Some((first, mutations)) = message.numbers {
            let expired = outcomes.iter().filter(|outcome| is_expired(outcome)).count();
            if expired == 0 && reply.retry_safe != Some(true) {
                return Err(NumberedError::NotSafe);
            }
            if message.session == self.session {
                self.ack = first + mutations - 1;
                if expired > 0 {
                    (self.session, self.seq, self.ack) = (new_session(&self.router), 1, 0);
                }
            }
            self.expired += expired;
        }
        Ok(outcomes.into_iter().map(|outcome| (!is_expired(&outcome)).then_some(outcome)).collect())
    }
}

fn is_expired(outcome: &Outcome) -> bool {
    outcome.result.as_ref().is_err_and(|failure| failure.code == ErrorCode::SessionExpired)
}

/// Any hello offers a fresh session.
fn new_session(router: &Path) -> SessionId {
    wait_until(PATIENCE, "a broker gives a session", || {
        // Another broker may be killed just then.
        let reply = Link::open(router).ask_once(&json!({"op": "hello"}))?;
        reply["session"].as_str()?.parse().ok()
    })
}

impl Link {
    /// A connection to a broker that listens.
    fn open(router: &Path) -> Link {
        wait_until(PATIENCE, "a broker listens", || UnixStream::connect(router).ok());
        let client = RawClient::dealer(router);
        let end = client.watch_for_the_end();
        Link { client, end }
    }

    fn ask_once(&self, request: &serde_json::Value) -> Option<serde_json::Value> {
        self.client.send(&[request.to_string()]);
        self.wait().map(|body| crate::json(&body))
    }

    /// The next message; None: the connection has ended, or nothing came in time.
    fn wait(&self) -> Option<Vec<u8>> {
        // What came before the end is read before it.
        if let Some(mut frames) = self.client.try_receive(Duration::ZERO) {
            return frames.pop();
        }
        let mut items = [self.client.socket().as_poll_item(zmq::POLLIN), self.end.as_poll_item(zmq::POLLIN)];
        let silence = i64::try_from(SILENCE.as_millis()).expect("a few seconds");
        let _ = zmq::poll(&mut items, silence);
        self.client.try_receive(Duration::ZERO).and_then(|mut frames| frames.pop())
    }
}
