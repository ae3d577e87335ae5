//! The client's side of a session, without sockets: what is outstanding, how it is numbered and put into messages, and
//! what becomes of it when replies come, stay away or connections end.
//!
//! Input comes through [`Session::begin`], [`Session::link_up`], [`Session::link_lost`] and
//! [`Session::handle_reply`]; what to do next comes out of [`Session::poll`]. The time is an argument.
//!
//! - A call is one operation. Calls that are due are packed in their order into as few messages as the bounds allow; a
//!   message's id names one attempt, and a retry may group calls otherwise.
//! - Each mutation has a number in the session, given when it is sent first and kept over all attempts: the broker does it once,
//!   however often it arrives. Reads have none and are asked again freely, never before calls that were begun before them.
//! - With nothing outstanding a call is sent at once. With [`EAGER_MESSAGES`] messages outstanding, calls are collected until a
//!   reply comes, an array is full or [`COLLECT_FOR`] has passed.
//! - After a lost connection, or [`PATIENCE`] without a reply, everything outstanding is sent again on a new connection, under
//!   the same numbers, up to each call's deadline. Pauses between attempts to connect: none after the first
//!   loss, then 1, 2, 4, 8, 8 … s, until a reply arrives.
//! - A mutation that may have been done and gets no answer before its deadline ends as [`GaveUp::Unknown`]; a `noop` then takes
//!   its number, so that it can't be done any more if it was not. Every other end means: certainly not done.
//! - After a refusal (`busy`, `out_of_order`, …) nothing is sent until all messages in flight are answered; then
//!   what is left is sent again from the hole on.
//! - A session that the broker has forgotten (`session_expired`) is replaced by the next Hello's: calls that no attempt of may have
//!   been done get new numbers there, the others end as unknown.
//! - Requests that wait for changes at the broker are in nobody's way: they are in flight beside the others, which don't wait for them,
//!   and the patience with them begins when their wait is over. A refusal for want of room ends them, where others would be sent again.
//! - `ack` never passes a mutation whose answer was not read, and no number that a caller was told is used for another operation.
//!
//! Caveats: whoever drives this sends at once what `poll` hands out; a message that was handed out counts as sent unless
//! [`Session::not_sent`] takes it back. A read that is asked again may see mutations that were begun after it. A mutation whose
//! refusal was lost, and nothing else of the connection, may be overtaken by a read that was in flight with it. With a broker that
//! does not remember replies (`retry_safe` is false), a mutation in flight when the connection ends is unknown at once.
//!
//! The rooms: `call` one encoded operation, `bodies` where its bytes lie, `numbers` the window, `pack` what goes into the next message, `replies` what
//! answers mean, `told` how calls ended.

mod bodies;
mod call;
mod numbers;
mod pack;
mod replies;
mod request_id;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::{RETRY_AFTER_MS, SESSION_WINDOW};
use kvbroker_protocol::{BrokerId, Expect, Failure, Header, HelloAnswer, Operation, Outcome, QueueExpect, ReplyError, SessionId};

use bodies::Bodies;
pub use call::Asked;
use call::{Call, LYING_BYTES_MAX};
use numbers::Numbers;
pub use pack::{COLLECT_FOR, EAGER_MESSAGES};
pub use request_id::{RequestId, RequestIdError};
pub use told::Told;

/// Without a reply for this long, everything is asked again on a new connection.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The same for a key's history: the broker may have to read all of its log for it.
pub const LOG_PATIENCE: Duration = Duration::from_secs(60);

/// Longest pause between two attempts to connect.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// Longest pause after `busy`, unless the broker says a longer one.
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// What the session does next.
#[derive(Debug, PartialEq)]
pub enum Action<T> {
    /// Open a connection (dropping any old one); tell the end of it by
    /// [`Session::link_up`] or [`Session::link_lost`], and give up at `until`.
    Open {
        /// When the first call ends that waits for it; None: never.
        until: Option<Instant>,
    },
    /// Send this message on the connection.
    Send {
        /// The attempt's id.
        id: u64,
        /// The message.
        body: Vec<u8>,
    },
    /// Drop the connection: a reply is overdue on it, or another session is needed.
    Drop,
    /// Wait for a reply, or for the connection's end, or until this time.
    Wait {
        /// When to poll again; None: nothing is planned.
        until: Option<Instant>,
    },
    /// A call has ended.
    Finished {
        /// What it was begun with.
        token: T,
        /// Its outcome, or why there is none.
        result: Result<Outcome, GaveUp>,
    },
}

/// Why a call ended without an answer.
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

/// What the session has to know of a Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The broker's log.
    pub broker: BrokerId,
    /// The session that it offers.
    pub session: SessionId,
    /// How many mutations may be unacknowledged.
    pub window: usize,
    /// It remembers replies to numbered mutations, so that they may be sent again.
    pub remembers: bool,
}

impl From<&HelloAnswer> for Welcome {
    fn from(hello: &HelloAnswer) -> Self {
        let limit = |wanted: &str| hello.limits.iter().find(|(name, _)| name == wanted).map(|(_, limit)| *limit);
        let window = limit("session_window").map_or(SESSION_WINDOW, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Welcome {
            broker: hello.broker,
            session: hello.session,
            window: window.clamp(1, SESSION_WINDOW),
            // Brokers that remember nothing have no bound on what they remember.
            remembers: limit("session_reply_bytes").is_some(),
        }
    }
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

/// One attempt: a message that was handed out and not answered.
#[derive(Debug)]
struct Flight<T> {
    calls: VecDeque<Call<T>>,
    bodies: Bodies,
    sent_at: Instant,
    bytes: usize,
}

impl<T> Flight<T> {
    /// How long its reply may take before the connection is taken for lost.
    fn patience(&self) -> Duration {
        // What takes longer goes alone.
        match self.only_call().map_or(&Expect::Done, |call| &call.asked.expect) {
            Expect::History => LOG_PATIENCE,
            Expect::Events(wait_ms) | Expect::Queue(QueueExpect::Pulled(wait_ms) | QueueExpect::Tracked(wait_ms)) => {
                PATIENCE + Duration::from_millis(*wait_ms)
            }
            _ => PATIENCE,
        }
    }

    /// Its calls part, each with its bytes.
    fn part(&mut self) {
        bodies::part(self.calls.iter_mut(), &mut self.bodies);
    }

    fn into_calls(mut self) -> VecDeque<Call<T>> {
        self.part();
        self.calls
    }

    /// True if it waits for changes at the broker.
    fn waits(&self) -> bool {
        // It goes alone.
        self.only_call().is_some_and(|call| call.asked.waits())
    }

    fn only_call(&self) -> Option<&Call<T>> {
        self.calls.front().filter(|_| self.calls.len() == 1)
    }
}

/// The bookkeeping of one client. `T` says whom a call's end is told.
#[derive(Debug)]
pub struct Session<T> {
    identity: Option<(BrokerId, SessionId)>,
    numbers: Numbers,
    remembers: bool,
    link: Link,
    /// Losses and failures since the last reply.
    losses: u32,
    trouble: Option<String>,
    next_id: u64,
    next_order: u64,
    got: Option<u64>,
    /// Never sent, in order.
    queue: VecDeque<Call<T>>,
    queue_bodies: Bodies,
    queue_bytes: usize,
    queue_weight: usize,
    /// To be sent again, in order once nothing is in flight; all of it comes before `queue`.
    again: VecDeque<Call<T>>,
    flights: BTreeMap<u64, Flight<T>>,
    /// Lists of flights that have ended, to be used again.
    spare: Vec<VecDeque<Call<T>>>,
    flight_bytes: usize,
    /// How many of these wait for changes at the broker.
    waiting: usize,
    /// Calls whose end was not told.
    live: usize,
    /// No deadline is before this; None: there is none.
    earliest: Option<Instant>,
    /// A number was refused: nothing is sent until nothing is in flight.
    regroups: bool,
    /// The place of the first mutation that came back since then: reads behind it have not seen it.
    came_back: Option<u64>,
    /// The session is of no more use: another one is needed.
    is_over: bool,
    paused_until: Option<Instant>,
    /// Answers `busy` in a row.
    busy_row: u32,
    /// Times in a row that the lowest open number was `out_of_order`.
    holes_below: u32,
    finished: VecDeque<(T, Told)>,
}

impl<T> Default for Session<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Session<T> {
    /// A session without a connection.
    #[must_use]
    pub fn new() -> Self {
        Session {
            identity: None,
            numbers: Numbers::new(SESSION_WINDOW),
            remembers: true,
            link: Link::Down { not_before: None },
            losses: 0,
            trouble: None,
            next_id: 1,
            next_order: 1,
            got: None,
            queue: VecDeque::new(),
            queue_bodies: Bodies::default(),
            queue_bytes: 0,
            queue_weight: 0,
            again: VecDeque::new(),
            flights: BTreeMap::new(),
            spare: Vec::new(),
            flight_bytes: 0,
            waiting: 0,
            live: 0,
            earliest: None,
            regroups: false,
            came_back: None,
            is_over: false,
            paused_until: None,
            busy_row: 0,
            holes_below: 0,
            finished: VecDeque::new(),
        }
    }

    /// The broker and the session in which mutations are numbered, once a connection was made.
    #[must_use]
    pub fn identity(&self) -> Option<(BrokerId, SessionId)> {
        self.identity
    }

    /// How many calls have not ended.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.live
    }

    /// True when nothing is left to do: no call has to end, and no number to be filled over the connection that there is.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.live == 0 && (self.link != Link::Up || (self.flights.is_empty() && self.again.is_empty()))
    }

    /// True if a call that begins now is sent with the next poll.
    #[must_use]
    pub fn sends_at_once(&self, now: Instant) -> bool {
        let is_paused = self.paused_until.is_some_and(|at| at > now);
        let is_held = is_paused || self.regroups || self.is_over || !self.queue.is_empty() || !self.again.is_empty();
        self.link == Link::Up && !is_held && self.flights.len() - self.waiting < EAGER_MESSAGES
    }

    /// Starts a call that ends at the latest at `deadline` (None: never by itself).
    pub fn begin(&mut self, now: Instant, mut asked: Asked, deadline: Option<Instant>, token: T) {
        if asked.bytes() <= LYING_BYTES_MAX {
            let body = std::mem::take(&mut asked.body);
            self.begin_lying(now, asked, &body, deadline, token);
        } else {
            self.begin_call(now, asked, deadline, token);
        }
    }

    /// As [`Session::begin`] with an operation whose bytes are here.
    pub(super) fn begin_lying(&mut self, now: Instant, asked: Asked, body: &[u8], deadline: Option<Instant>, token: T) {
        debug_assert!(asked.lies() && asked.bytes() == body.len());
        self.queue_bodies.push(body);
        self.begin_call(now, asked, deadline, token);
    }

    fn begin_call(&mut self, now: Instant, asked: Asked, deadline: Option<Instant>, token: T) {
        self.queue_bytes += asked.bytes();
        self.queue_weight += asked.weight;
        if self.live == 0
            && let Link::Down { not_before } = &mut self.link
        {
            // Nobody waited for the next attempt; who comes now gets one of its own.
            *not_before = None;
            self.losses = self.losses.min(1);
        }
        self.live += 1;
        self.earliest = [self.earliest, deadline].into_iter().flatten().min();
        let order = self.next_order;
        self.next_order += 1;
        self.queue.push_back(Call {
            asked,
            order,
            token: Some(token),
            deadline,
            begun_at: now,
            seq: None,
            may_have_run: false,
            is_filler: false,
            alone: false,
            refusal: None,
        });
    }

    /// The first mutation that may have been done and whose caller waits for its answer.
    #[must_use]
    pub fn in_doubt(&self) -> Option<RequestId> {
        let (_, session) = self.identity?;
        let waited = |call: &&Call<T>| call.token.is_some() && call.asked.mutation;
        let again = self.again.iter().filter(waited).filter(|call| call.may_have_run);
        // Messages in flight are in the order of their numbers.
        let flying = self.flights.values().find_map(|flight| flight.calls.iter().find(waited));
        let seq = again.chain(flying).filter_map(|call| call.seq).min()?;
        Some(RequestId { session, seq })
    }

    /// A connection stands, and this was its Hello.
    pub fn link_up(&mut self, welcome: Welcome) {
        self.return_flights(); // None are left where the driver told the last connection's end.
        self.regroup();
        let same_broker = self.identity.is_some_and(|(known, _)| known == welcome.broker);
        if !same_broker || self.is_over {
            let why = if same_broker { "its session is not known any more" } else { "there is another broker now" };
            self.start_session(welcome, why);
        }
        self.remembers = welcome.remembers;
        self.link = Link::Up;
    }

    /// What no attempt of may have been done begins again in a new session; the rest is unknown.
    fn start_session(&mut self, welcome: Welcome, why: &str) {
        let left = std::mem::take(&mut self.again);
        for mut call in left.into_iter().rev() {
            if !call.asked.mutation {
                self.requeue(call);
            } else if let Some(token) = call.token.take() {
                if call.may_have_run {
                    self.end_unknown(token, call.seq, why);
                } else {
                    call.token = Some(token);
                    call.seq = None;
                    self.requeue(call);
                }
            }
        }
        self.identity = Some((welcome.broker, welcome.session));
        self.numbers = Numbers::new(welcome.window);
        self.is_over = false;
        self.holes_below = 0;
    }

    fn requeue(&mut self, call: Call<T>) {
        self.queue_bytes += call.asked.bytes();
        self.queue_weight += call.asked.weight;
        self.queue.push_front(call);
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
        self.return_flights();
        if !self.remembers {
            self.doubt_all(&why);
        }
        self.trouble = Some(why);
    }

    /// Messages in flight are lost, and nobody knows how far they came.
    fn return_flights(&mut self) {
        self.flight_bytes = 0;
        self.waiting = 0;
        for (_, flight) in std::mem::take(&mut self.flights) {
            for mut call in flight.into_calls() {
                call.may_have_run |= call.asked.mutation;
                self.come_back(call);
            }
        }
    }

    /// A call is to be sent again, as far as somebody waits for it or its number must be filled.
    fn come_back(&mut self, mut call: Call<T>) {
        debug_assert!(!call.asked.lies(), "it has taken its bytes along");
        if call.token.is_none() {
            if !call.asked.mutation {
                return;
            }
            call.becomes_filler();
        }
        if call.asked.mutation {
            self.regroups = true;
            self.came_back = Some(self.came_back.map_or(call.order, |first| first.min(call.order)));
        }
        self.again.push_back(call);
    }

    /// Nothing is in flight: what is left is put in order.
    fn regroup(&mut self) {
        self.regroups = false;
        self.came_back = None;
        self.again.make_contiguous().sort_by_key(|call| call.order);
        // Numbers at the end that no broker has taken and nobody waits for need no filling.
        while let Some(last) = self.again.back() {
            let Some(seq) = last.seq.filter(|_| last.token.is_none() && !last.may_have_run) else { break };
            if !self.numbers.give_back(seq) {
                break;
            }
            self.again.pop_back();
        }
    }

    /// With a broker that remembers nothing: what may have been done ends here, and so does the session.
    fn doubt_all(&mut self, why: &str) {
        for mut call in std::mem::take(&mut self.again) {
            if call.may_have_run {
                self.is_over = true;
                if let Some(token) = call.token.take() {
                    self.end_unknown(token, call.seq, why);
                }
            } else {
                self.again.push_back(call);
            }
        }
    }

    /// The message that was handed out last could not be sent.
    pub fn not_sent(&mut self, id: u64) {
        if let Some(flight) = self.take_flight(id) {
            flight.into_calls().into_iter().for_each(|call| self.come_back(call));
        }
    }

    fn take_flight(&mut self, id: u64) -> Option<Flight<T>> {
        let flight = self.flights.remove(&id)?;
        self.flight_bytes -= flight.bytes;
        self.waiting -= usize::from(flight.waits());
        Some(flight)
    }

    /// True if all that is asked waits for changes at the broker.
    #[must_use]
    pub fn awaits_changes(&self) -> bool {
        self.waiting > 0 && self.waiting == self.flights.len()
    }

    /// The last message of a session in which every answer was read: it needs no reply. None: there is nothing to end,
    /// or somebody may want to ask about it.
    pub fn farewell(&mut self) -> Option<Vec<u8>> {
        let (broker, session) = self.identity?;
        let used = self.numbers.ack() > 0;
        if self.link != Link::Up || !used || !self.numbers.all_read() || self.is_over || !self.remembers {
            return None;
        }
        let header = Header {
            id: Some(self.next_id),
            broker: Some(broker),
            session: Some(session),
            ack: Some(self.numbers.ack()),
            got: self.got,
            ..Header::default()
        };
        let mut body = Vec::new();
        kvbroker_protocol::encode_request(&header, &kvbroker_protocol::Operations::One(Operation::End), &mut body);
        Some(body)
    }

    /// Puts the calls that have ended since the last look, as [`Session::poll`] would give them one by one, into an empty list.
    pub fn take_finished(&mut self, empty: &mut VecDeque<(T, Told)>) {
        debug_assert!(empty.is_empty());
        std::mem::swap(&mut self.finished, empty);
    }

    fn finish(&mut self, token: T, result: Result<Outcome, GaveUp>) {
        self.live -= 1;
        self.finished.push_back((token, result.into()));
    }

    fn end_unknown(&mut self, token: T, seq: Option<u64>, why: &str) {
        let Some(((_, session), seq)) = self.identity.zip(seq) else {
            // It has no name, so it was never sent.
            return self.finish(token, Err(GaveUp::TimedOut { trouble: Some(why.to_owned()) }));
        };
        self.numbers.doubt(seq);
        self.finish(token, Err(GaveUp::Unknown { request: RequestId { session, seq }, why: why.to_owned() }));
    }

    /// Ends what is past its deadline.
    fn expire(&mut self, now: Instant) {
        let is_late = |call: &Call<T>| call.token.is_some() && call.deadline.is_some_and(|at| at <= now);
        let mut ended = Vec::new();
        if self.queue.iter().any(is_late) {
            bodies::part(self.queue.iter_mut(), &mut self.queue_bodies);
        }
        let (bytes, weight) = (&mut self.queue_bytes, &mut self.queue_weight);
        self.queue.retain_mut(|call| {
            let late = is_late(call);
            if late {
                *bytes -= call.asked.bytes();
                *weight -= call.asked.weight;
                ended.extend(call.token.take().map(|token| (token, None, call.refusal.take())));
            }
            !late
        });
        self.again.retain_mut(|call| {
            if is_late(call) {
                let doubted = call.seq.filter(|_| call.may_have_run);
                ended.extend(call.token.take().map(|token| (token, doubted, call.refusal.take())));
                if call.asked.mutation {
                    call.becomes_filler();
                }
            }
            call.token.is_some() || call.asked.mutation
        });
        for call in self.flights.values_mut().flat_map(|flight| &mut flight.calls).filter(|call| is_late(call)) {
            let doubted = call.seq;
            ended.extend(call.token.take().map(|token| (token, doubted, None)));
        }
        for (token, doubted, refusal) in ended {
            if doubted.is_some() {
                self.end_unknown(token, doubted, "no reply came before the deadline");
            } else {
                let trouble = self.trouble.clone();
                self.finish(token, refusal.map(|outcome| *outcome).ok_or(GaveUp::TimedOut { trouble }));
            }
        }
        self.earliest = self.first_deadline();
    }

    fn first_deadline(&self) -> Option<Instant> {
        let flying = self.flights.values().flat_map(|flight| &flight.calls);
        let calls = self.queue.iter().chain(&self.again).chain(flying);
        calls.filter(|call| call.token.is_some()).filter_map(|call| call.deadline).min()
    }

    /// What to do next. Call it again after each action.
    pub fn poll(&mut self, now: Instant) -> Action<T> {
        if self.earliest.is_some_and(|at| at <= now) {
            self.expire(now);
        }
        if let Some((token, told)) = self.finished.pop_front() {
            return Action::Finished { token, result: told.into_result() };
        }
        match self.link {
            Link::Opening => Action::Wait { until: self.earliest },
            // A number that is only to be filled is no reason to connect.
            Link::Down { .. } if self.live == 0 => Action::Wait { until: None },
            Link::Down { not_before: Some(at) } if at > now => {
                Action::Wait { until: Some(self.earliest.map_or(at, |first| first.min(at))) }
            }
            Link::Down { .. } => {
                self.link = Link::Opening;
                self.earliest = self.first_deadline();
                Action::Open { until: self.earliest }
            }
            Link::Up => self.poll_up(now),
        }
    }

    fn poll_up(&mut self, now: Instant) -> Action<T> {
        let overdue = self.flights.values().map(|flight| (flight.sent_at + flight.patience(), flight.patience())).min();
        let overdue_at = overdue.map(|(at, _)| at);
        if let Some((_, patience)) = overdue.filter(|(at, _)| *at <= now) {
            self.link_lost(now, format!("no reply within {} s", patience.as_secs()));
            return Action::Drop;
        }
        if self.flights.len() == self.waiting {
            if self.is_over {
                self.return_flights();
                self.link = Link::Down { not_before: None };
                return Action::Drop;
            }
            if !self.again.is_empty() || self.regroups {
                self.regroup();
            }
        }
        let paused = self.paused_until.filter(|at| *at > now);
        let mut wake = [self.earliest, overdue_at, paused];
        if paused.is_none() && !self.regroups && !self.is_over {
            match self.pack(now) {
                pack::Packed::Message { id, body } => return Action::Send { id, body },
                pack::Packed::NotBefore(at) => wake[2] = Some(at),
                pack::Packed::TooMany => {
                    self.end_one_too_many();
                    return self.poll(now);
                }
                pack::Packed::Nothing => {}
            }
        }
        Action::Wait { until: wake.into_iter().flatten().min() }
    }

    /// Pauses after a refusal that passes.
    fn pause(&mut self, now: Instant, retry_after_ms: Option<u64>) {
        let said = Duration::from_millis(retry_after_ms.unwrap_or(RETRY_AFTER_MS));
        let pause = (said * (1 << self.busy_row.min(8))).min(BUSY_PAUSE_MAX.max(said));
        self.busy_row += 1;
        self.paused_until = self.paused_until.max(Some(now + pause));
    }
}

#[cfg(test)]
mod tests;
