//! The catalog as a running server: one thread, one poll loop.
//!
//! - One port number serves three sockets: queries on TCP, updates on UDP of the
//!   same number, updates on TCP of the next one. With port 0 a free pair is found.
//! - Nothing blocks: a slow client only occupies its own connection, and there are
//!   at most [`CONNECTIONS_MAX`]; beyond that the one that has been silent longest
//!   makes room.
//! - Memory is bounded: the store by its own bounds, replies under way by
//!   [`REPLY_BYTES_MAX`], requests by [`crate::conn`].
//! - Records are held in memory only. A catalog that starts again is filled by its
//!   senders within a minute.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use kvbroker::logging::Repeated;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::conn::{Conn, Purpose, Reply, Wants};
use crate::http::{OVERLOADED, Page, Refusal, Request, parse, reply_head};
use crate::page::render;
use crate::store::{Now, Store};
use crate::update::Update;

/// Most connections at a time.
pub const CONNECTIONS_MAX: usize = 256;
/// Most bytes of different replies that are being read at a time.
pub const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long records are kept at most unless told otherwise: as CCTools' server does.
pub const LIFETIME_S_DEFAULT: u64 = 1_800;
/// How often a free pair of ports is looked for.
const PORT_TRIES: usize = 100;
/// Most datagrams taken before other sockets have their turn.
const DATAGRAMS_PER_TURN: usize = 64;
/// Pause in accepting after it failed, for example for lack of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 100;

/// What to serve, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogConfig {
    /// The address to listen on.
    pub listen: IpAddr,
    /// The port of queries and UDP updates; the next one takes TCP updates. 0: any
    /// free pair.
    pub port: u16,
    /// How long records are kept at most, in seconds.
    pub lifetime_s: u64,
}

/// Why the catalog can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port can't be used.
    #[error("{what} {addr} can't be used: {source}; choose another with --port, or --port 0 for any free one")]
    Port {
        /// "UDP port" or "TCP port".
        what: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Port 65535 has no next one.
    #[error("port 65535 can't be used: TCP updates go to the next port; choose a lower one")]
    NoNextPort,
    /// No free pair was found.
    #[error("no two neighbouring free ports were found on {listen} in {PORT_TRIES} tries; choose one with --port")]
    NoFreePorts {
        /// The address that was asked for.
        listen: IpAddr,
    },
    /// The system refused something else.
    #[error("the catalog can't start: {0}")]
    System(#[from] io::Error),
}

/// A catalog with its sockets bound, not yet serving.
#[derive(Debug)]
pub struct CatalogServer {
    sockets: Sockets,
    name: String,
    wake: Arc<OwnedFd>,
    started: Instant,
    store: Store,
    rendered: Vec<Rendered>,
    replies: Vec<Weak<Vec<u8>>>,
    conns: Vec<Conn>,
    accept_from_ms: u64,
    warnings: Warnings,
}

/// Warnings that may come thousands of times; each server counts its own.
#[derive(Debug, Default)]
struct Warnings {
    store: Repeated,
    accept: Repeated,
    overloaded: Repeated,
}

#[derive(Debug)]
struct Sockets {
    addr: SocketAddr,
    queries: TcpListener,
    updates: TcpListener,
    datagrams: UdpSocket,
}

/// A page as it was rendered last.
#[derive(Debug)]
struct Rendered {
    page: Page,
    generation: u64,
    second: u64,
    body: Arc<Vec<u8>>,
}

/// Stops a [`CatalogServer`] from another thread or from a signal's.
#[derive(Debug, Clone)]
pub struct StopHandle(Arc<OwnedFd>);

impl StopHandle {
    /// Makes [`CatalogServer::run`] return soon.
    pub fn stop(&self) {
        // Can only fail when the counter is full, and then it is stopping already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Which socket is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    Wake,
    Datagrams,
    Queries,
    Updates,
    Conn(usize),
}

impl Sockets {
    fn bind(config: &CatalogConfig) -> Result<Self, StartError> {
        if config.port != 0 {
            return Self::bind_at(config.listen, config.port).map_err(|(error, _)| error);
        }
        for _ in 0..PORT_TRIES {
            match Self::bind_at(config.listen, 0) {
                Ok(sockets) => return Ok(sockets),
                // The pair was not free as a whole: the next try gets another one.
                Err((_, true)) => {}
                Err((error, false)) => return Err(error),
            }
        }
        Err(StartError::NoFreePorts { listen: config.listen })
    }

    /// Binds all three; the error says whether another port is worth a try.
    fn bind_at(listen: IpAddr, port: u16) -> Result<Self, (StartError, bool)> {
        let taken = |what, addr, again: bool| {
            move |source: io::Error| {
                let again = again && source.kind() == io::ErrorKind::AddrInUse;
                (StartError::Port { what, addr, source }, again)
            }
        };
        let queries_at = SocketAddr::new(listen, port);
        let queries = TcpListener::bind(queries_at).map_err(taken("TCP port", queries_at, false))?;
        let addr = queries.local_addr().map_err(|error| (StartError::System(error), false))?;
        let Some(next) = addr.port().checked_add(1) else {
            return Err((StartError::NoNextPort, true));
        };
        let datagrams = UdpSocket::bind(addr).map_err(taken("UDP port", addr, true))?;
        let updates_at = SocketAddr::new(listen, next);
        let updates = TcpListener::bind(updates_at).map_err(taken("TCP port", updates_at, true))?;
        let nonblocking = || -> io::Result<()> {
            queries.set_nonblocking(true)?;
            updates.set_nonblocking(true)?;
            datagrams.set_nonblocking(true)
        };
        nonblocking().map_err(|error| (StartError::System(error), false))?;
        Ok(Sockets { addr, queries, updates, datagrams })
    }
}

impl CatalogServer {
    /// Binds the sockets; from here on clients can connect and wait.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind(config: &CatalogConfig) -> Result<Self, StartError> {
        let sockets = Sockets::bind(config)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        Ok(CatalogServer {
            name: sockets.addr.to_string(),
            sockets,
            wake: Arc::new(wake),
            started: Instant::now(),
            store: Store::new(config.lifetime_s),
            rendered: Vec::new(),
            replies: Vec::new(),
            conns: Vec::new(),
            accept_from_ms: 0,
            warnings: Warnings::default(),
        })
    }

    /// Where queries (TCP) and updates (UDP) go; TCP updates go to the next port.
    pub fn addr(&self) -> SocketAddr {
        self.sockets.addr
    }

    /// The handle that ends [`CatalogServer::run`].
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.wake))
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// Only when the system refuses to poll at all.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            let now = self.now();
            // From the back: closing a connection moves the last one into its place.
            for ready in ready.into_iter().rev() {
                match ready {
                    Ready::Wake => return Ok(()),
                    Ready::Datagrams => self.take_datagrams(now),
                    Ready::Queries => self.accept(Purpose::Query, now.ms),
                    Ready::Updates => self.accept(Purpose::Update, now.ms),
                    Ready::Conn(i) => self.advance(i, now),
                }
            }
            self.expire_conns(now);
        }
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Now {
            ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            unix_s: unix.map_or(0, |since| since.as_secs()),
        }
    }

    fn wait(&self) -> io::Result<Vec<Ready>> {
        let now_ms = self.now().ms;
        let accepts = now_ms >= self.accept_from_ms;
        let mut what = vec![Ready::Wake, Ready::Datagrams];
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN), PollFd::new(&self.sockets.datagrams, PollFlags::IN)];
        if accepts {
            what.extend([Ready::Queries, Ready::Updates]);
            fds.push(PollFd::new(&self.sockets.queries, PollFlags::IN));
            fds.push(PollFd::new(&self.sockets.updates, PollFlags::IN));
        }
        for (i, conn) in self.conns.iter().enumerate() {
            what.push(Ready::Conn(i));
            let flags = if conn.wants_to_write() { PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::new(conn.stream(), flags));
        }
        let accept_due = (!accepts).then_some(self.accept_from_ms);
        let due_ms = self.conns.iter().map(Conn::deadline_ms).chain(accept_due).min();
        let timeout = due_ms.map(|due| {
            let pause = Duration::from_millis(due.saturating_sub(now_ms));
            Timespec::try_from(pause).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        Ok(fds.iter().zip(what).filter(|(fd, _)| !fd.revents().is_empty()).map(|(_, what)| what).collect())
    }

    fn take_datagrams(&mut self, now: Now) {
        let mut bytes = [0; 64 * 1024];
        for _ in 0..DATAGRAMS_PER_TURN {
            match self.sockets.datagrams.recv_from(&mut bytes) {
                Ok((length, from)) => {
                    let update = bytes.get(..length).unwrap_or_default();
                    self.take_update(update, from.ip(), "UDP", now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What ICMP says about something we never sent is of no interest.
                Err(_) => {}
            }
        }
    }

    fn take_update(&mut self, bytes: &[u8], from: IpAddr, by: &str, now: Now) {
        match Update::decode(bytes, from) {
            Err(error) => tracing::debug!(%from, by, "an update was not taken: {error}"),
            Ok(update) => {
                let key = update.key.clone();
                match self.store.take(update, now) {
                    Ok(true) => tracing::info!(key, by, "a new record"),
                    Ok(false) => tracing::debug!(key, by, "a record was refreshed"),
                    Err(error) => {
                        if let Some(silenced) = self.warnings.store.hit() {
                            tracing::warn!(%from, by, silenced, "an update was not taken: {error}");
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self, purpose: Purpose, now_ms: u64) {
        let listener = match purpose {
            Purpose::Query => &self.sockets.queries,
            Purpose::Update => &self.sockets.updates,
        };
        let accepted = listener.accept().and_then(|(stream, from)| Conn::new(stream, from.ip(), purpose, now_ms));
        match accepted {
            Ok(conn) => {
                if self.conns.len() >= CONNECTIONS_MAX && !self.make_room() {
                    if let Some(silenced) = self.warnings.accept.hit() {
                        tracing::warn!(silenced, "a connection was refused: {CONNECTIONS_MAX} readers are served already");
                    }
                    return;
                }
                self.conns.push(conn);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
            Err(error) => {
                // Without file descriptors accept fails at once, again and again.
                self.accept_from_ms = now_ms + ACCEPT_PAUSE_MS;
                if let Some(silenced) = self.warnings.accept.hit() {
                    tracing::warn!(silenced, "a connection can't be accepted: {error}");
                }
            }
        }
    }

    /// Closes the connection that has had the floor longest; false when all are
    /// being answered.
    fn make_room(&mut self) -> bool {
        let reading = self.conns.iter().enumerate().filter(|(_, conn)| conn.is_reading());
        match reading.min_by_key(|(_, conn)| conn.deadline_ms()).map(|(i, _)| i) {
            Some(i) => {
                self.conns.swap_remove(i);
                true
            }
            None => false,
        }
    }

    fn advance(&mut self, i: usize, now: Now) {
        let Some(conn) = self.conns.get_mut(i) else {
            return;
        };
        let mut wants = conn.advance(now.ms);
        if matches!(wants, Wants::Answer) {
            wants = match parse(conn.received()) {
                Request::More if conn.has_ended() => Wants::Close,
                Request::More => Wants::Read,
                Request::Get { page, head_only } => self.answer(i, page, head_only, now),
                Request::Refused(refusal) => self.refuse(i, refusal, now),
            };
        }
        self.settle(i, wants, now);
    }

    fn settle(&mut self, i: usize, wants: Wants, now: Now) {
        match wants {
            Wants::Read | Wants::Write | Wants::Answer => {}
            Wants::Close => {
                self.conns.swap_remove(i);
            }
            Wants::Take => {
                let conn = self.conns.swap_remove(i);
                self.take_update(conn.received(), conn.peer(), "TCP", now);
            }
        }
    }

    fn answer(&mut self, i: usize, page: Page, head_only: bool, now: Now) -> Wants {
        let Some(body) = self.page(page, now) else {
            if let Some(silenced) = self.warnings.overloaded.hit() {
                tracing::warn!(silenced, "a query was refused: too many slow readers");
            }
            return self.refuse(i, OVERLOADED, now);
        };
        let head = reply_head((200, "OK"), page.content_type(), body.len()).into_bytes();
        let body = if head_only { Arc::default() } else { body };
        self.start_reply(i, Reply { head, body }, now)
    }

    fn refuse(&mut self, i: usize, refusal: Refusal, now: Now) -> Wants {
        let body = format!("{}\n", refusal.sentence).into_bytes();
        let head = reply_head(refusal.status, "text/plain", body.len()).into_bytes();
        self.start_reply(i, Reply { head, body: Arc::new(body) }, now)
    }

    fn start_reply(&mut self, i: usize, reply: Reply, now: Now) -> Wants {
        let Some(conn) = self.conns.get_mut(i) else {
            return Wants::Read;
        };
        conn.reply(reply, now.ms);
        conn.advance(now.ms)
    }

    /// The page as bytes, rendered again only when something has changed. `None`
    /// when slow readers hold too many versions of it.
    fn page(&mut self, page: Page, now: Now) -> Option<Arc<Vec<u8>>> {
        self.store.expire(now);
        let generation = self.store.generation();
        // Only the page for people shows ages.
        let second = if page == Page::Html { now.ms / 1000 } else { 0 };
        let is_current = |r: &&Rendered| r.page == page && r.generation == generation && r.second == second;
        if let Some(rendered) = self.rendered.iter().find(is_current) {
            return Some(Arc::clone(&rendered.body));
        }
        self.rendered.retain(|rendered| rendered.page != page);
        self.replies.retain(|reply| reply.strong_count() > 0);
        let under_way: usize = self.replies.iter().filter_map(Weak::upgrade).map(|reply| reply.len()).sum();
        if under_way >= REPLY_BYTES_MAX {
            return None;
        }
        let body = Arc::new(render(page, &self.store, &self.name, now).into_bytes());
        self.replies.push(Arc::downgrade(&body));
        self.rendered.push(Rendered { page, generation, second, body: Arc::clone(&body) });
        Some(body)
    }

    fn expire_conns(&mut self, now: Now) {
        for i in (0..self.conns.len()).rev() {
            if let Some(conn) = self.conns.get(i)
                && conn.deadline_ms() <= now.ms
            {
                let wants = conn.expire();
                self.settle(i, wants, now);
            }
        }
    }
}

#[cfg(test)]
#[path = "catalog_server_tests.rs"]
mod tests;
