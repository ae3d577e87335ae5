//! The XPUB and its place: how it is replaced while the broker runs.
//!
//! - Each socket has a context of its own, so that "closed" can be known: a context ends when libzmq has let go of every connection.
//! - The new socket takes over the unix socket's path at once, and the TCP port as soon as the old one has let go of it. After
//!   [`PATIENCE`] it takes another port, which has to be told to others.
//! - What can't be opened is tried again; until then nothing is published.
//! - Nor is anything once subscribers have left too much unread, until the socket has been replaced: a chain that lost a message must
//!   not go on as if it had not.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use kvbroker::critical;
use kvbroker::logging::Repeated;
use kvbroker::transport::{MonitorEvent, ServerSocket, TransportError};
use kvbroker::zap::{Policy, SecuredContext};

use super::control::PublisherControl;
use super::unread::Unread;
use crate::connections::Connections;
use crate::sockets::{Bound, Listener, publisher_socket};

/// How long the same TCP port is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most old sockets that libzmq may still be closing when another one is opened: each has threads and descriptors.
const CLOSING_MAX: usize = 4;
/// Between two attempts to open a socket.
const OPEN_RETRY: Duration = Duration::from_millis(100);
/// Between two attempts to bind: libzmq lets go of a port within milliseconds.
const BIND_RETRY: Duration = Duration::from_millis(10);

/// The publisher's socket, if it is open just now, and what is needed to open another one.
pub(crate) struct Outlet {
    socket: Option<ServerSocket>,
    /// Dropped after the socket.
    context: Option<SecuredContext>,
    listener: Listener,
    policy: Policy,
    connections: Connections,
    /// When to open a socket, or to bind the one that is open.
    due: Option<Instant>,
    /// When to give the TCP port up for another one.
    patience_until: Instant,
    failing: Repeated,
    /// What libzmq holds of what was sent by this socket.
    unread: Arc<Unread>,
    /// That was too much, and nothing is sent any more.
    is_blocked: bool,
}

impl Outlet {
    /// Takes over a bound socket. `policy` is the one that it was opened with; `unread_bytes` counts what subscribers have not read.
    pub(crate) fn new(bound: Bound, policy: Policy, connections: Connections, unread_bytes: Arc<AtomicU64>) -> Outlet {
        Outlet {
            socket: Some(bound.socket),
            context: Some(bound.context),
            listener: bound.listener,
            policy,
            connections,
            due: None,
            patience_until: Instant::now(),
            failing: Repeated::new(),
            unread: Unread::new(unread_bytes),
            is_blocked: false,
        }
    }

    /// Hands a message to libzmq, if there is a socket and it is not blocked.
    ///
    /// # Errors
    /// libzmq's.
    pub(super) fn send(&mut self, topic: &[u8], body: Vec<u8>) -> Result<(), TransportError> {
        self.is_blocked |= self.unread.is_too_much();
        let Some(xpub) = self.socket.as_mut().filter(|_| !self.is_blocked) else { return Ok(()) };
        let receipt = self.unread.lend(topic.len() + body.len());
        // An XPUB drops for those who are full and never refuses as a whole.
        let _ = xpub.try_send_with_receipt(&[topic], body.into_boxed_slice(), receipt)?;
        Ok(())
    }

    /// Whether something was not sent because subscribers have left too much unread: only another socket goes on.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// What libzmq holds of what was sent by this socket, to be looked at.
    pub(super) fn unread(&self) -> &Unread {
        &self.unread
    }

    /// Bytes that libzmq holds of what was sent by this socket.
    pub(super) fn unread_bytes(&self) -> usize {
        self.unread.bytes()
    }

    /// The socket; none while another one can't be opened.
    pub(super) fn socket(&self) -> Option<&ServerSocket> {
        self.socket.as_ref()
    }

    /// Closes the socket at once, unsent messages included; [`Outlet::tend`] opens the next one.
    pub(super) fn close(&mut self, control: &Arc<PublisherControl>, number: u64) {
        if let Some(socket) = self.socket.take() {
            // It can only fail on a time that libzmq doesn't take.
            let _ = socket.set_linger(Duration::ZERO);
        }
        (self.unread, self.is_blocked) = (self.unread.next(), false);
        self.listener.forget_tcp();
        self.connections.forget();
        control.close(self.context.take(), number);
        let now = Instant::now();
        (self.due, self.patience_until) = (Some(now), now + PATIENCE);
    }

    /// The next event of the socket's connections; they are counted here.
    ///
    /// # Errors
    /// libzmq's.
    pub(super) fn next_event(&mut self) -> Result<Option<MonitorEvent>, TransportError> {
        let Some(socket) = &self.socket else { return Ok(None) };
        let event = socket.try_next_event()?;
        match &event {
            Some(event) => self.connections.note(event),
            None => self.connections.tend(),
        }
        Ok(event)
    }

    /// Does what is due: opens a socket, binds it. Returns a TCP port that is new.
    pub(super) fn tend(&mut self, now: Instant, control: &PublisherControl) -> Option<u16> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        if self.socket.is_none() {
            if control.closing() > CLOSING_MAX {
                self.due = Some(now + OPEN_RETRY);
                return None;
            }
            if let Err(reason) = self.open() {
                if let Some(times) = self.failing.hit() {
                    tracing::warn!(times, "the publisher's socket can't be opened, so nothing is published: {reason}");
                }
                self.due = Some(now + OPEN_RETRY);
                return None;
            }
            self.patience_until = now + PATIENCE;
        }
        self.bind_tcp(now)
    }

    fn open(&mut self) -> Result<(), String> {
        let context =
            SecuredContext::start(1, self.policy.clone(), critical::abort_process()).map_err(|error| error.to_string())?;
        let mut socket = publisher_socket(&context).map_err(|error| error.to_string())?;
        self.listener.bind_ipc(&mut socket).map_err(|error| error.to_string())?;
        (self.socket, self.context) = (Some(socket), Some(context));
        Ok(())
    }

    fn bind_tcp(&mut self, now: Instant) -> Option<u16> {
        let socket = self.socket.as_mut()?;
        let old = self.listener.port();
        let wanted = if now >= self.patience_until { 0 } else { old };
        match self.listener.bind_tcp(socket, wanted) {
            Ok(port) => {
                self.due = None;
                (port != old).then_some(port)
            }
            Err(error) => {
                // Above all our own former listener, whose end is on its way.
                let is_expected = error.is_address_in_use();
                if !is_expected && let Some(times) = self.failing.hit() {
                    tracing::warn!(times, "the publisher can't listen on TCP, which is tried on: {error}");
                }
                self.due = Some(now + if is_expected { BIND_RETRY } else { OPEN_RETRY });
                None
            }
        }
    }

    /// When [`Outlet::tend`] has something to do although nothing happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
    use std::path::Path;

    use kvbroker::keys::{KeyPair, SecretKey};
    use kvbroker::transport::{ClientSocket, Context, Message, ReceiveLimits, Reception, Security};
    use kvbroker_table::EventFd;

    use super::*;
    use crate::connections::ConnectionBounds;
    use crate::sockets::{PortWish, Protection, publisher};

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const WAIT: Duration = Duration::from_secs(20);
    const TURN: Duration = Duration::from_millis(1);
    const RECEIVE: ReceiveLimits = ReceiveLimits { max_frames: 2, max_bytes: 1_024 };

    struct Bench {
        outlet: Outlet,
        control: Arc<PublisherControl>,
        keys: KeyPair,
        port: u16,
    }

    impl Bench {
        fn new(ipc: &Path) -> Bench {
            let keys = KeyPair::from_secret(SecretKey::generate().unwrap()).unwrap();
            let policy = Policy::owner_only(*keys.public());
            let listener = Listener::new(ipc, &[LOOPBACK], Protection::Curve(keys.clone()));
            let wish = PortWish { asked: None, remembered: None, flag: "--pub-port" };
            let bound = publisher(policy.clone(), listener, &wish).unwrap();
            let port = bound.listener.port();
            let bounds = ConnectionBounds { most: 100, most_local: 110 };
            let outlet = Outlet::new(bound, policy, Connections::new(bounds, Arc::default()), Arc::default());
            let control = PublisherControl::new(Arc::new(EventFd::new().unwrap()));
            Bench { outlet, control, keys, port }
        }

        fn subscriber(&self, context: &Context, port: u16) -> ClientSocket {
            let security = Security::Curve { own: &self.keys, broker: self.keys.public() };
            let mut subscriber = context.subscriber(security).unwrap();
            subscriber.watch(context).unwrap();
            subscriber.subscribe(b"").unwrap();
            subscriber.connect_tcp(SocketAddr::new(LOOPBACK, port)).unwrap();
            subscriber
        }

        /// Turns the publisher's loop until `done`; returns a port that is new.
        fn turn_until(&mut self, mut done: impl FnMut(&mut Outlet) -> bool) -> Option<u16> {
            let (deadline, mut port) = (Instant::now() + WAIT, None);
            loop {
                port = self.outlet.tend(Instant::now(), &self.control).or(port);
                while self.outlet.next_event().unwrap().is_some() {}
                if done(&mut self.outlet) {
                    return port;
                }
                assert!(Instant::now() < deadline);
                std::thread::park_timeout(TURN);
            }
        }

        fn reopen(&mut self) {
            self.control.reopen("a test");
            let (number, _) = self.control.begin().unwrap();
            self.outlet.close(&self.control, number);
        }
    }

    fn hears(outlet: &Outlet, subscriber: &ClientSocket, frames: &mut Vec<Message>) -> bool {
        if let Some(xpub) = outlet.socket() {
            while xpub.try_receive(RECEIVE, frames).unwrap() != Reception::Nothing {}
            let _ = xpub.try_send(&["news"]).unwrap();
        }
        subscriber.try_receive(RECEIVE, frames).unwrap() == Reception::Whole
    }

    #[test]
    fn a_reopened_socket_cuts_everybody_off_and_serves_those_who_come_back_on_the_same_port() {
        let directory = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(&directory.path().join("p"));
        let clients = Context::new(1).unwrap();
        let (old, mut frames) = (bench.subscriber(&clients, bench.port), Vec::new());
        bench.turn_until(|outlet| hears(outlet, &old, &mut frames));
        for _ in 0..10 {
            bench.reopen();
            assert!(bench.control.wait_closed(WAIT));
        }
        // Whatever was on its way is read; afterwards it is silent for good, since its connection has ended.
        let deadline = Instant::now() + WAIT;
        while !std::iter::from_fn(|| old.try_next_event().unwrap()).any(|event| event.kind.ends_connection()) {
            assert!(Instant::now() < deadline);
            std::thread::park_timeout(TURN);
        }
        while old.try_receive(RECEIVE, &mut frames).unwrap() != Reception::Nothing {}
        let moved = bench.turn_until(|outlet| outlet.socket().is_some() && outlet.wake_at().is_none());
        assert_eq!(moved, None, "the old port was free in time");
        let new = bench.subscriber(&clients, bench.port);
        bench.turn_until(|outlet| hears(outlet, &new, &mut frames));
        assert_eq!(old.try_receive(RECEIVE, &mut frames).unwrap(), Reception::Nothing);
    }

    #[test]
    fn a_port_that_somebody_else_took_is_given_up_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(&directory.path().join("p"));
        bench.reopen();
        assert!(bench.control.wait_closed(WAIT));
        let _thief = TcpListener::bind((LOOPBACK, bench.port)).unwrap();
        let moved = bench.turn_until(|outlet| outlet.socket().is_some() && outlet.wake_at().is_none()).unwrap();
        assert_ne!(moved, bench.port);
        let clients = Context::new(1).unwrap();
        let (subscriber, mut frames) = (bench.subscriber(&clients, moved), Vec::new());
        bench.turn_until(|outlet| hears(outlet, &subscriber, &mut frames));
    }
}
