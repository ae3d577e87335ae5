//! One connection to one broker: a socket that is connected once, and the Hello over it.
//!
//! - A [`Connection`] exists only after the broker has said who it is, and only if that is
//!   who was wanted.
//! - When it ends ([`Incoming::Lost`]) it is dropped; nothing reconnects behind the caller's
//!   back, so no request reaches another broker than the one of the Hello.
//! - Replies that arrived before the end are handed out before the end.
//! - Over ipc the directory of the socket vouches for the broker (it is ours alone), over tcp
//!   the key that the caller expects. A way without either is a kind of its own, [`Route::Unprotected`], so that
//!   nothing takes it by leaving something out.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::FRAMES_MAX;
use kvbroker_protocol::{
    Answer, BrokerId, ErrorCode, Failure, Header, HelloAnswer, Operation, Operations, ReplyError, decode_reply, encode_request,
};

use super::progress::Progress;
use crate::keys::{KeyPair, PublicKey};
use crate::project::ProjectName;
use crate::transport::{
    CLIENT_FRAME_BYTES, ClientSocket, Context, Message, MonitorEventKind, POLLIN, POLLOUT, ReceiveLimits, Reception, Security,
    SendOutcome, TransportError, poll, wait,
};

/// The id of a Hello; calls count from 1.
const HELLO_ID: u64 = 0;

/// A reply is one frame of at most the largest page or value, with room to spare.
const RECEIVE: ReceiveLimits = ReceiveLimits { max_frames: FRAMES_MAX, max_bytes: CLIENT_FRAME_BYTES };

/// A way to a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Unix sockets in a directory of our own.
    Local {
        /// The ROUTER's.
        router: PathBuf,
        /// The publisher's.
        publisher: PathBuf,
    },
    /// CURVE over tcp.
    Network {
        /// The ROUTER's address.
        address: SocketAddr,
        /// The key that the broker has to prove.
        key: PublicKey,
    },
    /// Plain tcp: nothing is encrypted, and nobody proves who he is. Only where the user asked for it.
    Unprotected {
        /// The ROUTER's address.
        address: SocketAddr,
    },
}

impl Route {
    /// The security of its sockets; `own` is needed for [`Route::Network`].
    ///
    /// # Errors
    /// [`TransportError::Unprotected`] without a key of our own where one is needed.
    pub(crate) fn security<'a>(&'a self, own: Option<&'a KeyPair>) -> Result<Security<'a>, TransportError> {
        match (self, own) {
            (Route::Local { .. }, _) => Ok(Security::Local),
            (Route::Network { key, .. }, Some(own)) => Ok(Security::Curve { own, broker: key }),
            (Route::Network { .. }, None) => Err(TransportError::Unprotected),
            (Route::Unprotected { .. }, _) => Ok(Security::Insecure),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Local { router, .. } => write!(f, "ipc://{}", router.display()),
            Route::Network { address, .. } | Route::Unprotected { address } => write!(f, "tcp://{address}"),
        }
    }
}

/// Who must be at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The project.
    pub project: ProjectName,
    /// The log's uuid, if it is known.
    pub broker: Option<BrokerId>,
    /// Whose it is, where that was what made its key acceptable.
    pub owner: Option<String>,
}

/// How long a connection may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience<'a> {
    /// Until when its handshake must be over, where something else can be tried instead.
    pub handshake: Option<Instant>,
    /// Until when the broker must have answered.
    pub until: Option<Instant>,
    /// Becomes true when nobody needs it any more.
    pub given_up: Option<&'a AtomicBool>,
}

impl Patience<'_> {
    fn is_over(&self) -> bool {
        self.given_up.is_some_and(|given_up| given_up.load(Ordering::Relaxed))
    }
}

/// How long it may take until [`Patience::given_up`] is noticed.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No connection came about.
    #[error("{route} can't be reached: {why}")]
    Unreachable {
        /// The way.
        route: Route,
        /// What happened.
        why: String,
    },
    /// Something is there, but says nothing.
    #[error("{route} was reached but does not answer: {why}")]
    Silent {
        /// The way.
        route: Route,
        /// What happened.
        why: String,
    },
    /// The broker doesn't admit us.
    #[error("{route} was reached but refused: {why}")]
    Refused {
        /// The way.
        route: Route,
        /// What happened.
        why: String,
    },
    /// Whoever is there did not prove the expected key.
    #[error("{route} was reached, and whoever is there did not prove the expected key: {why}")]
    Unproven {
        /// The way.
        route: Route,
        /// What happened.
        why: String,
    },
    /// Somebody else is there.
    #[error("{route} is not the broker that was looked for: {why}")]
    SomebodyElse {
        /// The way.
        route: Route,
        /// Who it is.
        why: String,
    },
    /// libzmq failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// What was received.
#[derive(Debug)]
pub enum Incoming {
    /// A reply's body.
    Reply(Message),
    /// The connection ended.
    Lost(String),
    /// Nothing has come.
    Nothing,
}

/// A connection over which a broker has said who it is.
pub struct Connection {
    socket: ClientSocket,
    route: Route,
    hello: HelloAnswer,
    frames: Vec<Message>,
    has_ended: bool,
    /// The socket's signal may have been taken for something else since it was last seen to be empty.
    is_unsure: bool,
    /// Events of the socket may wait.
    has_events: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("route", &self.route).field("broker", &self.hello.broker).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects and says Hello, for as long as `patience` says. `own` is needed for the network.
    pub(crate) fn open(
        context: &Context,
        route: &Route,
        own: Option<&KeyPair>,
        expected: &Expected,
        patience: Patience<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Self, ConnectError> {
        let mut socket = context.dealer(route.security(own)?)?;
        socket.watch(context)?;
        match route {
            Route::Local { router, .. } => socket.connect_ipc(router)?,
            Route::Network { address, .. } | Route::Unprotected { address } => socket.connect_tcp(*address)?,
        }
        let mut opening = Opening { socket, route, reached: false, asked: false, frames: Vec::new() };
        let hello = opening.hello(expected, patience, progress)?;
        check(&hello, expected, route)?;
        tracing::debug!(target: "kvbroker::client", %route, broker = %hello.broker, session = %hello.session, "connected");
        Ok(Self {
            socket: opening.socket,
            route: route.clone(),
            hello,
            frames: opening.frames,
            has_ended: false,
            is_unsure: true,
            has_events: true,
        })
    }

    /// Who the broker is.
    pub fn hello(&self) -> &HelloAnswer {
        &self.hello
    }

    /// How it was reached.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Sends a message. False: there is no connection to send it over, and nothing was sent.
    pub(crate) fn send(&mut self, body: &[u8]) -> Result<bool, TransportError> {
        self.is_unsure = true;
        Ok(self.socket.try_send(&[body])? == SendOutcome::Queued)
    }

    /// The next reply, or the connection's end once every reply before it was taken. Never waits.
    pub(crate) fn try_receive(&mut self) -> Result<Incoming, TransportError> {
        loop {
            match self.socket.try_receive(RECEIVE, &mut self.frames)? {
                Reception::Whole => match self.frames.pop() {
                    Some(body) => return Ok(Incoming::Reply(body)),
                    None => continue,
                },
                Reception::TooMuch { frames, bytes } => {
                    return Ok(Incoming::Lost(format!(
                        "a reply of {frames} frames and {bytes} bytes is no reply of this protocol"
                    )));
                }
                Reception::Nothing if self.has_ended => {
                    return Ok(Incoming::Lost("the connection to the broker ended".into()));
                }
                Reception::Nothing => self.is_unsure = false,
            }
            if !self.has_events {
                return Ok(Incoming::Nothing);
            }
            self.has_events = false;
            while let Some(event) = self.socket.try_next_event()? {
                self.has_ended |= event.kind.ends_connection();
            }
            // A reply may have come between the look at the socket and the look at its events.
            if !self.has_ended {
                return Ok(Incoming::Nothing);
            }
        }
    }

    /// Waits until [`Connection::try_receive`] may have something, or `bell` rings, or the time is up. True: the bell rings.
    pub(crate) fn wait(&mut self, bell: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool, TransportError> {
        if self.is_unsure && self.socket.has_input()? {
            return Ok(false);
        }
        self.is_unsure = false;
        let signals = [Some(bell), Some(self.socket.signal()?), self.socket.event_signal()?];
        let [rings, _, has_events] = wait(signals, timeout)?;
        self.has_events |= has_events;
        Ok(rings)
    }

    /// Drops the connection, but gives what was sent last this long to leave.
    pub(crate) fn close(self, linger: Duration) {
        // Without it the message stays behind, which is no harm.
        let _ = self.socket.set_linger(linger);
    }
}

/// A socket on its way to being a connection.
struct Opening<'a> {
    socket: ClientSocket,
    route: &'a Route,
    reached: bool,
    asked: bool,
    frames: Vec<Message>,
}

impl Opening<'_> {
    fn hello(
        &mut self,
        expected: &Expected,
        patience: Patience<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<HelloAnswer, ConnectError> {
        progress.doing(Instant::now(), format!("connecting to {}", self.route));
        loop {
            // The socket before the events: an answer may be followed by the end.
            if self.asked {
                if let Some(hello) = self.answer()? {
                    return Ok(hello);
                }
            } else {
                self.ask(expected)?;
            }
            while let Some(event) = self.socket.try_next_event()? {
                self.judge(event.kind, event.value)?;
            }
            let now = Instant::now();
            // Who has finished the handshake is a broker with the right key, and may be busy.
            let until = [patience.until, patience.handshake.filter(|_| !self.asked)].into_iter().flatten().min();
            if until.is_some_and(|until| until <= now) || patience.is_over() {
                return Err(self.out_of_time());
            }
            progress.tick(now);
            let wake = progress.wake_at(until).map(|wake| wake.saturating_duration_since(now));
            let wake = if patience.given_up.is_some() { Some(wake.map_or(LOOK_UP, |wake| wake.min(LOOK_UP))) } else { wake };
            let mut items = vec![self.socket.poll_item(if self.asked { POLLIN } else { POLLIN | POLLOUT })];
            items.extend(self.socket.event_poll_item());
            poll(&mut items, wake)?;
        }
    }

    fn ask(&mut self, expected: &Expected) -> Result<(), TransportError> {
        let hello = Operations::One(Operation::Hello { project: Some(expected.project.to_string()) });
        let header = Header { id: Some(HELLO_ID), ..Header::default() };
        let mut body = Vec::with_capacity(96);
        encode_request(&header, &hello, &mut body);
        // Nothing is queued before the handshake is over: until then the socket is full.
        self.asked = self.socket.try_send(&[body])? == SendOutcome::Queued;
        self.reached |= self.asked;
        Ok(())
    }

    fn answer(&mut self) -> Result<Option<HelloAnswer>, ConnectError> {
        match self.socket.try_receive(RECEIVE, &mut self.frames)? {
            Reception::Nothing => return Ok(None),
            Reception::Whole => {}
            Reception::TooMuch { .. } => return Err(self.somebody_else("its answer is too long")),
        }
        let body = self.frames.pop().unwrap_or_else(Message::new);
        let expects = [Operation::Hello { project: None }.expects()];
        let reply = decode_reply(&body, &expects).map_err(|error: ReplyError| self.somebody_else(error))?;
        match reply.outcomes.as_slice().first().map(|outcome| &outcome.result) {
            Some(Ok(Answer::Hello(hello))) => Ok(Some((**hello).clone())),
            Some(Err(failure)) => Err(self.refusal(failure)),
            _ => Err(self.somebody_else("its answer is none to Hello")),
        }
    }

    fn refusal(&self, failure: &Failure) -> ConnectError {
        let (route, why) = (self.route.clone(), failure.message.clone());
        match failure.code {
            ErrorCode::Refused => ConnectError::Refused { route, why },
            ErrorCode::Busy | ErrorCode::ShuttingDown => ConnectError::Silent { route, why },
            _ => ConnectError::SomebodyElse { route, why },
        }
    }

    fn somebody_else(&self, why: impl ToString) -> ConnectError {
        ConnectError::SomebodyElse { route: self.route.clone(), why: why.to_string() }
    }

    fn judge(&mut self, kind: MonitorEventKind, value: u32) -> Result<(), ConnectError> {
        self.reached |= matches!(kind, MonitorEventKind::Connected | MonitorEventKind::HandshakeSucceeded);
        if !kind.ends_connection() {
            return Ok(());
        }
        let route = self.route.clone();
        Err(match (kind, &route) {
            (MonitorEventKind::HandshakeFailedAuth, Route::Local { .. }) => {
                ConnectError::Refused { route, why: format!("it belongs to another user (status {value})") }
            }
            (MonitorEventKind::HandshakeFailedAuth, Route::Network { .. }) => {
                ConnectError::Refused { route, why: format!("it does not admit your key (status {value})") }
            }
            (MonitorEventKind::HandshakeFailedAuth, Route::Unprotected { .. }) => {
                ConnectError::Refused { route, why: format!("it admits nobody without a key (status {value})") }
            }
            // Who can't prove the expected key just hangs up.
            (_, Route::Network { .. }) if self.reached && !self.asked => ConnectError::Unproven {
                route,
                why: "it ended the handshake: it is not a kvbroker, it doesn't encrypt, or it has another key than the expected one"
                    .into(),
            },
            (_, Route::Unprotected { .. }) if self.reached && !self.asked => ConnectError::SomebodyElse {
                route,
                why: "it ended the handshake: it is not a kvbroker, or it wants encryption (then leave --insecure away)".into(),
            },
            (_, Route::Local { .. }) if !self.reached => {
                ConnectError::Unreachable { route, why: "nobody listens on the socket".into() }
            }
            (_, Route::Network { address, .. } | Route::Unprotected { address }) if !self.reached => {
                let why = format!("nobody listens on port {}, or a firewall rejects it", address.port());
                ConnectError::Unreachable { route, why }
            }
            _ => ConnectError::Silent { route, why: "the connection ended before it answered".into() },
        })
    }

    fn out_of_time(&self) -> ConnectError {
        let route = self.route.clone();
        match (&route, self.reached) {
            (_, true) if self.asked => ConnectError::Silent { route, why: "no answer to Hello in time".into() },
            (_, true) => ConnectError::Silent {
                route,
                why: "it accepts connections and then says nothing: another program's port, or a broker that hangs".into(),
            },
            (Route::Local { .. }, false) => ConnectError::Unreachable { route, why: "no connection in time".into() },
            (Route::Network { address, .. } | Route::Unprotected { address }, false) => {
                let why = format!("no connection in time; a firewall may drop port {}", address.port());
                ConnectError::Unreachable { route, why }
            }
        }
    }
}

fn check(hello: &HelloAnswer, expected: &Expected, route: &Route) -> Result<(), ConnectError> {
    let else_ = |why: String| Err(ConnectError::SomebodyElse { route: route.clone(), why });
    if hello.project != expected.project.as_str() {
        return else_(format!("it serves the project {:?}, not {}", printable(&hello.project), expected.project));
    }
    if let Some(owner) = expected.owner.as_ref().filter(|owner| **owner != hello.owner) {
        return else_(format!("it is {}'s, not {owner}'s as its record says", printable(&hello.owner)));
    }
    match expected.broker {
        Some(broker) if broker != hello.broker => else_(format!("it is the broker {}, not {broker}", hello.broker)),
        _ => Ok(()),
    }
}

/// What a stranger said, cut and without control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
