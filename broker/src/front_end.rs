//! The front end: the thread that owns the ROUTER.
//!
//! - It moves messages: decoded whole and checked on the way in, encoded on the way out. It never waits for one client: every
//!   send is non-blocking, and a reply that a client doesn't take is dropped and counted.
//! - What replies take in libzmq is charged to their clients until it lets go of them. Small ones are copied and counted by the next
//!   that is watched: libzmq sends in order.
//! - Replies leave by turns of users and clients ([`Outgoing`]), and between a few of them it looks for new messages: nobody waits behind
//!   thousands that somebody else has asked for.
//! - A message without an authenticated user is refused, whatever it says.
//! - When stopping it answers `shutting_down`, and goes on sending replies until the worker has ended.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker::logging::Repeated;
use kvbroker::transport::{
    Message, ReceiveLimits, Reception, SendOutcome, ServerSocket, TransportError, connection as connection_of, user_id, wait,
};
use kvbroker::zap::identity;
use kvbroker_protocol::{BrokerId, ErrorCode, Failure, Form, Header, Reply, encode_reply, limits};
use kvbroker_table::{Account, Call, Charge, Credit, Envelope, EventFd, Outbox, Refusal, ReplyOut, TakesCalls};

use crate::clients::{Clients, Sender};
use crate::connections::Connections;
use crate::inbound;
use crate::outgoing::Outgoing;

/// Counters of the front end, readable by other threads.
#[derive(Debug, Default)]
pub(crate) struct FrontEndCounters {
    pub(crate) messages: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) replies: AtomicU64,
    pub(crate) replies_dropped: AtomicU64,
    pub(crate) clients: AtomicU64,
    pub(crate) connections: AtomicU64,
}

/// What the front end has been told to do.
#[derive(Debug, Default)]
pub(crate) struct Phase(AtomicU8);

impl Phase {
    const STOPPING: u8 = 1;
    const FINISHED: u8 = 2;

    /// Refuse new requests with `shutting_down`.
    pub(crate) fn stop_taking(&self) {
        self.0.store(Phase::STOPPING, Ordering::Release);
    }

    /// Send what waits and end.
    pub(crate) fn finish(&self) {
        self.0.store(Phase::FINISHED, Ordering::Release);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Acquire) >= phase
    }
}

pub(crate) struct FrontEnd {
    pub(crate) router: ServerSocket,
    /// Keeps its connections within their bound.
    pub(crate) connections: Connections,
    pub(crate) broker: BrokerId,
    pub(crate) worker: Arc<dyn TakesCalls>,
    /// What clients have not read.
    pub(crate) credit: Arc<Credit>,
    pub(crate) replies: Arc<Outbox<Vec<ReplyOut>>>,
    pub(crate) doorbell: Arc<EventFd>,
    pub(crate) phase: Arc<Phase>,
    pub(crate) counters: Arc<FrontEndCounters>,
}

/// Most messages taken before they are handed over and the replies are looked at, and the longest time for it: a message may have
/// megabytes, or regular expressions that are dear to compile, and then a few of them are enough. (libzmq takes a message of each
/// connection in turn.)
const RECEIVING: Bout = Bout { most: 1_024, time: Duration::from_millis(2) };
/// The same while replies wait to be sent.
const RECEIVING_BESIDE: Bout = Bout { most: 256, time: Duration::from_micros(500) };
/// Most replies sent before messages are looked at.
const SENDING: Bout = Bout { most: 256, time: Duration::from_millis(1) };
/// Replies that are released together and are as few as these, or as small, need no turns.
const FEW_REPLIES: usize = 64;
const FEW_BYTES: usize = 256 << 10;
/// Nothing depends on this: every reason to wake has a descriptor.
const POLL: Duration = Duration::from_secs(5);
/// While it does not sleep, it looks this often for what has happened to connections.
const LOOK: Duration = Duration::from_millis(1);
const RECEIVE: ReceiveLimits = ReceiveLimits {
    // The routing id comes on top of what the client sent.
    max_frames: limits::FRAMES_MAX + 1,
    max_bytes: limits::MESSAGE_BYTES_MAX + 4_096,
};

impl FrontEnd {
    /// Runs until [`Phase::finish`].
    pub(crate) fn run(mut self) -> Result<(), TransportError> {
        let clients = Clients::new(Arc::clone(&self.credit));
        let mut desk = Desk { clients, body: Vec::new(), slow: Repeated::new(), user: NOBODY.into() };
        let mut frames = Vec::new();
        let mut taken = VecDeque::new();
        let mut outgoing = Outgoing::new();
        // What has happened to connections is looked at when the socket says so, and while there is no time to ask it.
        let mut next_look = Instant::now();
        self.replies.attend();
        loop {
            self.collect(&mut desk, &mut outgoing)?;
            self.give_some(&mut desk, &mut outgoing)?;
            if self.phase.is(Phase::FINISHED) && outgoing.is_empty() && self.replies.is_empty() {
                return Ok(());
            }
            let bout = if outgoing.is_empty() { RECEIVING } else { RECEIVING_BESIDE };
            let more = self.receive(&mut desk, &mut frames, &mut taken, bout)?;
            let is_quiet = self.hand_over(&mut desk, &mut taken)?;
            let now = Instant::now();
            if now >= next_look {
                self.note_connections(&mut desk)?;
                next_look = now + LOOK;
            }
            // With the socket nothing was done since it had nothing: its signal tells of whatever comes.
            if is_quiet && !more && outgoing.is_empty() && self.replies.leave() && self.sleep()? {
                next_look = now;
            }
        }
    }

    /// Waits until there is something to do; true if something has happened to connections.
    fn sleep(&self) -> Result<bool, TransportError> {
        let signals = [Some(self.doorbell.as_fd()), Some(self.router.signal()?), self.router.event_signal()?];
        let [rang, _, has_event] = wait(signals, Some(POLL))?;
        self.replies.attend();
        if rang {
            self.doorbell.clear();
        }
        Ok(has_event)
    }

    /// Takes in what was released.
    fn collect(&mut self, desk: &mut Desk, outgoing: &mut Outgoing<ReplyOut>) -> Result<(), TransportError> {
        while outgoing.bytes() < limits::RELEASE_BYTES_MAX
            && let Some(mut batch) = self.replies.pop()
        {
            if outgoing.is_empty() && are_few(&batch) {
                batch.drain(..).try_for_each(|out| self.give(desk, out))?;
                self.empty(batch);
                continue;
            }
            for out in batch.drain(..) {
                let bytes = out.charge.as_ref().map_or(0, Charge::bytes);
                if out.is_behind_all {
                    outgoing.push_behind_all(bytes, out);
                } else {
                    outgoing.push(out.account.user(), out.client, bytes, out);
                }
            }
            self.empty(batch);
        }
        Ok(())
    }

    /// Sends some of what waits.
    fn give_some(&mut self, desk: &mut Desk, outgoing: &mut Outgoing<ReplyOut>) -> Result<(), TransportError> {
        if outgoing.is_empty() {
            return Ok(());
        }
        let mut bout = SENDING.begin();
        while bout.goes_on() {
            let Some(out) = outgoing.pop() else { break };
            bout.count(out.charge.as_ref().is_some_and(|charge| charge.bytes() < LITTLE_BYTES));
            self.give(desk, out)?;
        }
        Ok(())
    }

    /// The memory of a batch is used for another one.
    fn empty(&self, batch: Vec<ReplyOut>) {
        if batch.capacity() <= BATCH_KEPT {
            self.replies.give_back(batch);
        }
    }

    /// Sends what the worker has made.
    fn give(&mut self, desk: &mut Desk, out: ReplyOut) -> Result<(), TransportError> {
        let routing_id = &out.envelope.routing_id;
        let is_still = desk.clients.give_back(routing_id, out.client, out.request_bytes);
        match out.charge {
            _ if out.is_superseded => Ok(()),
            _ if !is_still => {
                self.counters.replies_dropped.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Some(charge) => self.send(desk, &out.envelope, &out.reply, Paying::Charge(charge)),
            None => self.refuse(desk, &out.envelope, out.account, out.reply),
        }
    }

    /// Takes what has arrived; true if there may be more.
    fn receive(
        &mut self,
        desk: &mut Desk,
        frames: &mut Vec<Message>,
        taken: &mut VecDeque<Call>,
        bout: Bout,
    ) -> Result<bool, TransportError> {
        let mut bout = bout.begin();
        while bout.goes_on() {
            match self.router.try_receive(RECEIVE, frames)? {
                Reception::Nothing => return Ok(false),
                Reception::Whole => {
                    let before = taken.len();
                    self.message(desk, frames, taken)?;
                    bout.count(taken.len() > before && taken.back().is_some_and(|call| call.small().is_some()));
                }
                Reception::TooMuch { frames: count, bytes } => {
                    let failure = Failure::limit(format!(
                        "the message has {count} frames and {bytes} bytes with its routing id; at most {} frames and {} bytes are taken",
                        limits::FRAMES_MAX,
                        limits::MESSAGE_BYTES_MAX
                    ));
                    // Cut in the middle: what is left is enough to know where it came from.
                    let user = desk.user(user_id(frames).map_or(NOBODY, identity));
                    let envelope = match inbound::split(frames) {
                        Ok((envelope, _)) | Err((envelope, _)) => envelope,
                    };
                    let account = desk.clients.account(&envelope.routing_id, &user);
                    self.refuse(desk, &envelope, account, inbound::refusal(None, Form::Json, failure))?;
                    bout.count(false);
                }
            }
        }
        Ok(true)
    }

    fn message(&mut self, desk: &mut Desk, frames: &mut [Message], taken: &mut VecDeque<Call>) -> Result<(), TransportError> {
        self.counters.messages.fetch_add(1, Ordering::Relaxed);
        let user = desk.user(user_id(frames).map_or(NOBODY, identity));
        let clients = desk.clients.seen();
        match self.take(desk, frames, &user) {
            Ok(call) => {
                self.counters.clients.store(desk.clients.seen(), Ordering::Relaxed);
                taken.push_back(call);
            }
            Err(refused) => {
                let (envelope, refusal) = *refused;
                let account = desk.clients.account(&envelope.routing_id, &user);
                self.refuse(desk, &envelope, account, refusal)?;
            }
        }
        if desk.clients.seen() == clients { Ok(()) } else { self.newcomer(desk, frames) }
    }

    /// Notes by which connection a new client's message has come.
    fn newcomer(&mut self, desk: &mut Desk, frames: &mut [Message]) -> Result<(), TransportError> {
        // What had its descriptor before has ended before this one came, and libzmq has told so.
        self.note_connections(desk)?;
        if let Some(connection) = connection_of(frames)
            && let Some(routing_id) = frames.first()
        {
            desk.clients.came_by(routing_id, connection);
        }
        Ok(())
    }

    /// The call in a message; or where to say why there is none.
    fn take(&self, desk: &mut Desk, frames: &[Message], user: &str) -> Result<Call, Box<(Envelope, Reply)>> {
        let (envelope, body) = inbound::split(frames)
            .map_err(|(envelope, failure)| Box::new((envelope, inbound::refusal(None, Form::Json, failure))))?;
        let request = match inbound::request(body, self.broker) {
            Ok(request) => request,
            Err(reply) => return Err(Box::new((envelope, *reply))),
        };
        let (id, form) = (request.header.id, request.form);
        let refused = |envelope, failure| Err(Box::new((envelope, inbound::refusal(id, form, failure))));
        if user == NOBODY {
            let failure = Failure::new(ErrorCode::Refused, "this connection was not authenticated; nothing it asks is done");
            return refused(envelope, failure);
        }
        if self.phase.is(Phase::STOPPING) {
            return refused(envelope, shutting_down());
        }
        let bytes = Call::weight(&request, body.len()) + envelope.bytes();
        match desk.clients.take(&envelope.routing_id, user, bytes) {
            Ok(Sender { client, account, user }) => Ok(Call { client, account, user, envelope, request, bytes }),
            Err(failure) => refused(envelope, failure),
        }
    }

    /// Gives the calls to the worker; those it can't take are answered here. False if there were some.
    fn hand_over(&mut self, desk: &mut Desk, taken: &mut VecDeque<Call>) -> Result<bool, TransportError> {
        if taken.is_empty() {
            return Ok(true);
        }
        let Err(refusal) = self.worker.take(taken) else { return Ok(true) };
        for call in taken.drain(..) {
            let failure = match refusal {
                Refusal::Full => {
                    Failure::busy("the broker has more requests than it can hold; try again", limits::RETRY_AFTER_MS)
                }
                Refusal::Closed => shutting_down(),
            };
            desk.clients.give_back(&call.envelope.routing_id, call.client, call.bytes);
            let Header { id, .. } = call.request.header;
            self.refuse(desk, &call.envelope, call.account, inbound::refusal(id, call.request.form, failure))?;
        }
        Ok(false)
    }

    fn refuse(&mut self, desk: &mut Desk, envelope: &Envelope, account: Account, reply: Reply) -> Result<(), TransportError> {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        self.send(desk, envelope, &reply, Paying::Refusal(account))
    }

    fn send(&mut self, desk: &mut Desk, envelope: &Envelope, reply: &Reply, paying: Paying) -> Result<(), TransportError> {
        desk.body.clear();
        encode_reply(reply, &mut desk.body);
        let bytes = desk.body.len() + envelope.bytes() + MESSAGE_OVERHEAD_BYTES;
        self.counters.replies.fetch_add(1, Ordering::Relaxed);
        let charge = match paying {
            Paying::Charge(charge) => Some(charge),
            Paying::Refusal(account) => account.charge_refusal(bytes),
        };
        let Some(charge) = charge else {
            self.dropped(desk);
            return Ok(());
        };
        let outcome = match desk.clients.count(&envelope.routing_id, bytes, charge) {
            None => self.copy(envelope, &desk.body)?,
            Some(charge) => {
                let body = handed_over(&mut desk.body);
                let mut frames: Vec<&[u8]> = vec![&*envelope.routing_id];
                frames.extend(envelope.frames.iter().map(Vec::as_slice));
                self.router.try_send_with_receipt(&frames, body, charge)?
            }
        };
        match outcome {
            SendOutcome::Queued => {}
            SendOutcome::PeerGone => {
                self.counters.replies_dropped.fetch_add(1, Ordering::Relaxed);
                desk.clients.gone(&envelope.routing_id);
            }
            SendOutcome::Full => {
                self.dropped(desk);
            }
        }
        desk.body.shrink_to(BODY_KEPT_BYTES);
        Ok(())
    }

    fn copy(&self, envelope: &Envelope, body: &[u8]) -> Result<SendOutcome, TransportError> {
        if envelope.frames.is_empty() {
            return self.router.try_send(&[&envelope.routing_id[..], body]);
        }
        let mut frames: Vec<&[u8]> = vec![&*envelope.routing_id];
        frames.extend(envelope.frames.iter().map(Vec::as_slice));
        frames.push(body);
        self.router.try_send(&frames)
    }

    fn dropped(&self, desk: &mut Desk) {
        self.counters.replies_dropped.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = desk.slow.hit() {
            tracing::warn!(times, "a client does not read its replies; they are dropped");
        }
    }

    fn note_connections(&mut self, desk: &mut Desk) -> Result<(), TransportError> {
        use kvbroker::transport::MonitorEventKind as Kind;
        while let Some(event) = self.router.try_next_event()? {
            self.connections.note(&event);
            match event.kind {
                Kind::HandshakeSucceeded => {
                    self.counters.connections.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(endpoint = event.endpoint, "a client connected");
                }
                Kind::Disconnected => {
                    desk.clients.ended(event.value);
                    tracing::debug!(endpoint = event.endpoint, "a connection ended");
                }
                Kind::HandshakeFailedAuth | Kind::HandshakeFailedProtocol | Kind::HandshakeFailedNoDetail => {
                    tracing::debug!(endpoint = event.endpoint, kind = ?event.kind, "a connection was not let in");
                }
                _ => {}
            }
        }
        self.connections.tend();
        Ok(())
    }
}

/// How long one thing is done before another is looked at.
#[derive(Clone, Copy)]
struct Bout {
    most: usize,
    time: Duration,
}

/// A bout that has begun.
struct Begun {
    left: usize,
    until: Instant,
    /// Small things done since the clock was looked at.
    unclocked: usize,
}

impl Bout {
    fn begin(self) -> Begun {
        Begun { left: self.most, until: Instant::now() + self.time, unclocked: 0 }
    }
}

impl Begun {
    /// True if there is one more to be done.
    fn goes_on(&self) -> bool {
        self.left > 0
    }

    /// Counts one. What is small takes about a microsecond, so the clock is not looked at for each of them.
    fn count(&mut self, is_small: bool) {
        self.left -= 1;
        self.unclocked += 1;
        if !is_small || self.unclocked == SMALL_UNCLOCKED {
            self.unclocked = 0;
            if Instant::now() >= self.until {
                self.left = 0;
            }
        }
    }
}

/// So many small messages and replies take much less than a bout.
const SMALL_UNCLOCKED: usize = 16;
/// A reply of less than this is small.
const LITTLE_BYTES: usize = 4 << 10;
/// The memory of a batch of more replies is given back.
const BATCH_KEPT: usize = 2_048;

/// True if replies need no turns: to send all of them takes no longer than a bout, after which messages would be looked at.
fn are_few(batch: &[ReplyOut]) -> bool {
    let bytes = batch.iter().map(|out| out.charge.as_ref().map_or(0, Charge::bytes));
    batch.len() <= FEW_REPLIES || (batch.len() <= SENDING.most && bytes.sum::<usize>() <= FEW_BYTES)
}

/// What a reply takes in memory, and who is charged for it.
enum Paying {
    /// It was charged when it was made.
    Charge(Charge),
    /// A refusal is charged when it is sent, if this account has room for it; if not, it is dropped.
    Refusal(Account),
}

/// Whose messages come without a user: of a connection that was not authenticated.
const NOBODY: &str = "";

/// A buffer that one large reply blew up is given back.
const BODY_KEPT_BYTES: usize = 1 << 20;

/// What libzmq needs for a message beside its bytes, roughly.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// The bytes of a body for libzmq to keep: those of a large one are not copied.
fn handed_over(body: &mut Vec<u8>) -> Box<[u8]> {
    if body.len() > BODY_KEPT_BYTES { std::mem::take(body).into_boxed_slice() } else { body.as_slice().into() }
}

fn shutting_down() -> Failure {
    Failure::new(ErrorCode::ShuttingDown, "the broker is stopping and did not take this request; try again at the next one")
}

/// What the loop keeps from message to message.
struct Desk {
    clients: Clients,
    body: Vec<u8>,
    slow: Repeated,
    /// The user of the message before: nearly always the next one's as well.
    user: Arc<str>,
}

impl Desk {
    fn user(&mut self, name: &str) -> Arc<str> {
        if *self.user != *name {
            self.user = name.into();
        }
        self.user.clone()
    }
}
