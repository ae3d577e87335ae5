//! The client's side of a session, without sockets: what is outstanding, how it is
//! numbered, and what becomes of it when replies come, stay away or connections end.
//!
//! Input comes through [`Session::begin`], [`Session::link_up`], [`Session::link_lost`] and
//! [`Session::handle_reply`]; what to do next comes out of [`Session::poll`]. The time is an argument.
//!
//! - A call has an id, kept over all its attempts. A mutation also has a number in the
//!   session (one per mutating operation), given when the call begins.
//! - Reads are sent again after a lost connection, and after [`PATIENCE`] without a reply on
//!   a new connection, up to the call's deadline.
//! - A mutation that may have left is never sent again: its end without a reply is
//!   [`GaveUp::Unknown`]. One that was definitely not taken (`busy`, `shutting_down`,
//!   `wrong_broker`, or never sent at all) is sent again like a read.
//! - Every header names the broker and session of the Hello that opened the connection.
//! - `ack` never passes a mutation whose reply was not read. An unknown outcome would hold it
//!   back for ever, so the next connection takes its own new session, and the old one is left
//!   as it is, to be asked about.
//! - Pauses between attempts to connect: none after the first loss, then 1, 2, 4, 8, 8 … s,
//!   until a reply arrives.
//!
//! Caveat: whoever drives this sends at once what `poll` hands out; a message that was handed
//! out counts as sent unless [`Session::not_sent`] takes it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::{IN_FLIGHT_MAX, MESSAGE_BYTES_MAX, RETRY_AFTER_MS};
use kvbroker_protocol::{
    BrokerId, Condition, ErrorCode, Failure, Header, Operation, Operations, Outcomes, Reply, ReplyError, SessionId, decode_reply,
    encode_request, reply_id,
};

/// Without a reply for this long, a read is asked again on a new connection.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Longest pause between two attempts to connect.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// A mutation's name for as long as its session is known: `SESSION:SEQ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The session.
    pub session: SessionId,
    /// The number of its first mutation in the session.
    pub seq: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.session, self.seq)
    }
}

/// What the driver does next.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Open a connection (dropping any old one); tell the end of it by
    /// [`Session::link_up`] or [`Session::link_lost`], and give up at `until`.
    Open {
        /// When the first call ends that waits for it; None: never.
        until: Option<Instant>,
    },
    /// Send this message on the connection.
    Send {
        /// The call's id.
        id: u64,
        /// The message.
        body: Vec<u8>,
    },
    /// Drop the connection: a reply is overdue on it.
    Drop,
    /// Wait for a reply, or for the connection's end, or until this time.
    Wait {
        /// When to poll again; None: nothing is planned.
        until: Option<Instant>,
    },
    /// A call has ended.
    Finished {
        /// Its id.
        id: u64,
        /// Its reply, or why there is none.
        result: Result<Reply, GaveUp>,
    },
}

/// Why a call ended without a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GaveUp {
    /// The deadline passed; nothing was changed.
    #[error("no answer before the deadline{}", trouble.as_ref().map_or(String::new(), |t| format!(" ({t})")))]
    TimedOut {
        /// The last trouble with the connection, if there was any.
        trouble: Option<String>,
    },
    /// It may have been done.
    #[error("the outcome of {request} is unknown: {why}")]
    Unknown {
        /// Its name.
        request: RequestId,
        /// What happened to it.
        why: String,
    },
    /// A read was answered with something that can't be understood.
    #[error(transparent)]
    Unreadable(#[from] ReplyError),
    /// It was not sent: it is over a bound.
    #[error(transparent)]
    OverLimit(Failure),
}

/// A call that has not ended.
#[derive(Debug)]
struct Call {
    operations: Operations,
    deadline: Option<Instant>,
    /// The number of its first mutation and how many there are; None for reads.
    numbers: Option<(u64, u64)>,
    state: State,
    /// A definite refusal that made it wait: the answer if the deadline comes first.
    refusal: Option<Reply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be sent, not before a time.
    Due(Option<Instant>),
    /// Sent at a time, on the present connection.
    Sent(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down {
        not_before: Option<Instant>,
    },
    /// Handed out as [`Action::Open`]; its end is awaited.
    Opening,
    Up,
}

/// The bookkeeping of one client.
#[derive(Debug)]
pub struct Session {
    identity: Option<(BrokerId, SessionId)>,
    link: Link,
    /// Losses and failures since the last reply.
    losses: u32,
    trouble: Option<String>,
    next_id: u64,
    next_seq: u64,
    got: Option<u64>,
    calls: BTreeMap<u64, Call>,
    /// Numbers in the session whose replies were not read.
    unanswered: BTreeSet<u64>,
    /// True after an unknown outcome: the next connection starts a new session.
    spoilt: bool,
    finished: Vec<(u64, Result<Reply, GaveUp>)>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session without a connection.
    #[must_use]
    pub fn new() -> Self {
        Session {
            identity: None,
            link: Link::Down { not_before: None },
            losses: 0,
            trouble: None,
            next_id: 1,
            next_seq: 1,
            got: None,
            calls: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            spoilt: false,
            finished: Vec::new(),
        }
    }

    /// The broker and the session in which mutations are numbered, once a connection was made.
    #[must_use]
    pub fn identity(&self) -> Option<(BrokerId, SessionId)> {
        self.identity
    }

    /// Starts a call that ends at the latest at `deadline` (None: never by itself); gives its id.
    ///
    /// # Errors
    /// `busy` when too many calls are outstanding.
    pub fn begin(&mut self, operations: Operations, deadline: Option<Instant>) -> Result<u64, Failure> {
        if self.calls.len() >= IN_FLIGHT_MAX {
            return Err(Failure::busy(format!("{IN_FLIGHT_MAX} calls are outstanding already"), RETRY_AFTER_MS));
        }
        let count = operations.as_slice().iter().filter(|operation| operation.is_mutation()).count() as u64;
        let numbers = (count > 0).then_some((self.next_seq, count));
        if let Some((first, count)) = numbers {
            self.unanswered.extend(first..first + count);
            self.next_seq = first + count;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.calls.insert(id, Call { operations, deadline, numbers, state: State::Due(None), refusal: None });
        Ok(id)
    }

    /// The name of a call's mutations, if it has any and was sent (it may have been done).
    #[must_use]
    pub fn in_doubt(&self, id: u64) -> Option<RequestId> {
        let call = self.calls.get(&id)?;
        let (first, _) = call.numbers?;
        let (_, session) = self.identity?;
        matches!(call.state, State::Sent(_)).then_some(RequestId { session, seq: first })
    }

    /// A connection stands, and its Hello named this broker and offered this session.
    pub fn link_up(&mut self, broker: BrokerId, offered: SessionId) {
        let same_broker = self.identity.is_some_and(|(known, _)| known == broker);
        if !same_broker || self.spoilt {
            self.identity = Some((broker, offered));
            self.start_numbers_again();
        }
        self.link = Link::Up;
    }

    /// Numbers what is outstanding from 1: none of it was taken in the new session.
    fn start_numbers_again(&mut self) {
        self.spoilt = false;
        self.unanswered.clear();
        self.next_seq = 1;
        for call in self.calls.values_mut() {
            if let Some((first, count)) = &mut call.numbers {
                *first = self.next_seq;
                self.next_seq += *count;
                self.unanswered.extend(*first..*first + *count);
            }
        }
    }

    /// The connection ended, or could not be made, for this reason.
    pub fn link_lost(&mut self, now: Instant, why: impl Into<String>) {
        let why = why.into();
        let pause = match self.losses {
            0 => Duration::ZERO,
            losses => Duration::from_secs(1 << (losses - 1).min(8)).min(PAUSE_MAX),
        };
        self.losses = self.losses.saturating_add(1);
        self.link = Link::Down { not_before: Some(now + pause) };
        let sent: Vec<u64> =
            self.calls.iter().filter(|(_, call)| matches!(call.state, State::Sent(_))).map(|(id, _)| *id).collect();
        for id in sent {
            if self.calls.get(&id).is_some_and(|call| call.numbers.is_some()) {
                self.give_up_mutation(id, &why);
            } else if let Some(call) = self.calls.get_mut(&id) {
                call.state = State::Due(None);
            }
        }
        self.trouble = Some(why);
    }

    /// The message that was handed out last for this call could not be sent.
    pub fn not_sent(&mut self, id: u64) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.state = State::Due(None);
        }
    }

    /// A message came from the broker. A reply to a call that has ended is passed over.
    pub fn handle_reply(&mut self, now: Instant, body: &[u8]) {
        let Ok(Some(id)) = reply_id(body) else {
            // Whom it answers can't be said: what is outstanding runs into its own end.
            self.trouble = Some("the broker sent a reply without an id".into());
            return;
        };
        let Some(call) = self.calls.get(&id) else {
            return; // Given up before.
        };
        let decoded = decode_reply(body, &call.operations.expects());
        self.losses = 0;
        self.got = self.got.max(Some(id));
        let reply = match decoded {
            Ok(reply) => reply,
            Err(error) if call.numbers.is_some() => return self.give_up_mutation(id, &error.to_string()),
            Err(error) => return self.finish(id, Err(error.into())),
        };
        let refusal = whole_refusal(&reply).cloned();
        match refusal {
            Some(failure) if is_worth_waiting(failure.code) => self.put_off(now, id, reply, &failure),
            _ => self.finish(id, Ok(reply)),
        }
    }

    fn put_off(&mut self, now: Instant, id: u64, reply: Reply, failure: &Failure) {
        if failure.code == ErrorCode::Busy {
            let pause = Duration::from_millis(failure.retry_after_ms.unwrap_or(RETRY_AFTER_MS));
            if let Some(call) = self.calls.get_mut(&id) {
                call.refusal = Some(reply);
                call.state = State::Due(Some(now + pause));
            }
            return;
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.refusal = Some(reply);
            call.state = State::Due(None);
        }
        // It is stopping, or it is another one: whatever else was sent there ends here, too.
        self.losses = self.losses.max(1);
        self.link_lost(now, failure.message.clone());
    }

    fn give_up_mutation(&mut self, id: u64, why: &str) {
        let numbers = self.calls.get(&id).and_then(|call| call.numbers);
        if let (Some((seq, _)), Some((_, session))) = (numbers, self.identity) {
            self.spoilt = true;
            let request = RequestId { session, seq };
            self.calls.remove(&id);
            self.finished.push((id, Err(GaveUp::Unknown { request, why: why.to_owned() })));
        }
    }

    fn finish(&mut self, id: u64, result: Result<Reply, GaveUp>) {
        let Some(call) = self.calls.remove(&id) else { return };
        if let Some((first, count)) = call.numbers {
            (first..first + count).for_each(|number| {
                self.unanswered.remove(&number);
            });
            // A refusal takes no number: if it was the newest, the next call gets it.
            let refused = match &result {
                Ok(reply) => whole_refusal(reply).is_some_and(|failure| takes_no_number(failure.code)),
                Err(_) => true,
            };
            if refused && first + count == self.next_seq {
                self.next_seq = first;
            }
        }
        self.finished.push((id, result));
    }

    fn time_out(&mut self, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        match (call.state, call.numbers) {
            (State::Sent(_), Some(_)) => self.give_up_mutation(id, "no reply came before the deadline"),
            _ => {
                let refusal = call.refusal.take();
                let trouble = self.trouble.clone();
                self.finish(id, refusal.ok_or(GaveUp::TimedOut { trouble }));
            }
        }
    }

    /// What to do next. Call it again after each action.
    pub fn poll(&mut self, now: Instant) -> Action {
        let late: Vec<u64> =
            self.calls.iter().filter(|(_, call)| call.deadline.is_some_and(|at| at <= now)).map(|(id, _)| *id).collect();
        for id in late {
            self.time_out(id);
        }
        if let Some((id, result)) = self.finished.pop() {
            return Action::Finished { id, result };
        }
        match self.link {
            Link::Opening => Action::Wait { until: self.first_deadline() },
            Link::Down { .. } if self.calls.is_empty() => Action::Wait { until: None },
            Link::Down { not_before: Some(at) } if at > now => {
                Action::Wait { until: Some(self.first_deadline().map_or(at, |first| first.min(at))) }
            }
            Link::Down { .. } => {
                self.link = Link::Opening;
                Action::Open { until: self.first_deadline() }
            }
            Link::Up => self.poll_up(now),
        }
    }

    fn poll_up(&mut self, now: Instant) -> Action {
        let overdue = |call: &Call| matches!(call.state, State::Sent(at) if call.numbers.is_none() && now >= at + PATIENCE);
        if self.calls.values().any(overdue) {
            self.link_lost(now, format!("no reply within {} s", PATIENCE.as_secs()));
            return Action::Drop;
        }
        let due = |call: &Call| matches!(call.state, State::Due(at) if at.is_none_or(|at| at <= now));
        if let Some(id) = self.calls.iter().find(|(_, call)| due(call)).map(|(id, _)| *id) {
            return self.send(now, id);
        }
        let wake = self.calls.values().flat_map(|call| {
            let planned = match call.state {
                State::Due(at) => at,
                State::Sent(at) => call.numbers.is_none().then_some(at + PATIENCE),
            };
            [planned, call.deadline]
        });
        Action::Wait { until: wake.flatten().min() }
    }

    fn send(&mut self, now: Instant, id: u64) -> Action {
        let (broker, session) = self.identity.unzip();
        let ack = self.ack();
        let Some(call) = self.calls.get_mut(&id) else { return Action::Wait { until: Some(now) } };
        let seq = call.numbers.map(|(first, _)| first);
        let header = Header { id: Some(id), broker, session, seq, ack: Some(ack), got: self.got };
        let mut body = Vec::with_capacity(encoded_size_hint(&call.operations));
        encode_request(&header, &call.operations, &mut body);
        if body.len() > MESSAGE_BYTES_MAX {
            let failure = Failure::limit(format!("the request has {} bytes; at most {MESSAGE_BYTES_MAX} are taken", body.len()));
            self.finish(id, Err(GaveUp::OverLimit(failure)));
            return self.poll(now);
        }
        call.state = State::Sent(now);
        Action::Send { id, body }
    }

    /// Replies to all mutations up to this number were read.
    fn ack(&self) -> u64 {
        self.unanswered.first().map_or(self.next_seq, |first| *first) - 1
    }

    fn first_deadline(&self) -> Option<Instant> {
        self.calls.values().filter_map(|call| call.deadline).min()
    }
}

fn encoded_size_hint(operations: &Operations) -> usize {
    64 + operations.as_slice().iter().map(operation_size_hint).sum::<usize>()
}

fn operation_size_hint(operation: &Operation) -> usize {
    let compared = |condition: Option<&Condition>| match condition {
        Some(Condition::Value(value)) => value.as_bytes().len() + 16,
        Some(_) => 24,
        None => 0,
    };
    match operation {
        Operation::Put { key, value, condition, .. } => key.len() + value.as_bytes().len() + 16 + compared(condition.as_ref()),
        Operation::Del { key, condition, .. } => key.len() + 24 + compared(condition.as_ref()),
        Operation::Get { key } | Operation::Exists { key } | Operation::Incr { key, .. } => key.len() + 24,
        Operation::Mget { keys } => keys.iter().map(|key| key.len() + 5).sum::<usize>() + 16,
        Operation::Txn(txn) => {
            let compares = txn.compares.iter().map(|compare| compare.key.len() + 24 + compared(Some(&compare.condition)));
            compares.sum::<usize>() + txn.operations().map(operation_size_hint).sum::<usize>() + 32
        }
        _ => 64,
    }
}

/// The failure of a message that was refused as a whole, or of its only operation.
fn whole_refusal(reply: &Reply) -> Option<&Failure> {
    match &reply.outcomes {
        Outcomes::One(outcome) => outcome.result.as_ref().err(),
        Outcomes::Many(_) => None,
    }
}

/// Definitely not done, and likely to work later or elsewhere.
fn is_worth_waiting(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Busy | ErrorCode::ShuttingDown | ErrorCode::WrongBroker)
}

/// Refused before it was decided.
fn takes_no_number(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Invalid
            | ErrorCode::UnsupportedVersion
            | ErrorCode::Limit
            | ErrorCode::Busy
            | ErrorCode::WrongBroker
            | ErrorCode::WrongProject
            | ErrorCode::Refused
            | ErrorCode::ShuttingDown
    )
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
