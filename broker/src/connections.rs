//! How many connections a socket has, and what happens when they become too many.
//!
//! libzmq accepts whatever comes. When the process has no descriptors left, its TCP listener spins and its ipc listener ends the
//! process ([decision 0027](../../docs/decisions/0027-abuse-at-the-sockets.md)), so it must not come to that:
//!
//! - Connections are counted by the socket's events, from accept(2) on, whoever they are from.
//! - Above the bound the newest that came by TCP are cut at once. Who is connected stays, and the listener, too: to unbind it would end
//!   everybody's connection.
//! - The unix socket has a margin above that bound, which no stranger can use up: only programs of our own user come that way.
//! - If accept(2) fails for want of descriptors all the same, the newest eighth of those that came by TCP is cut.
//!
//! Caveat: events arrive a moment late, and until then connections beyond the bound are open; the reserve of descriptors is for that.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvbroker::exit::Exit;
use kvbroker::logging::Repeated;
use kvbroker::transport::{MonitorEvent, MonitorEventKind, cut};
use kvbroker_protocol::limits;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::failure::Failure;

/// Counters of a socket's connections, readable by other threads.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounters {
    /// Open now, those included whose handshake is not over.
    pub(crate) open: AtomicU64,
    /// How many were cut because there were too many.
    pub(crate) cut: AtomicU64,
}

/// How many connections a socket may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionBounds {
    /// All together; those by TCP make room.
    pub(crate) most: usize,
    /// Those by the unix socket.
    pub(crate) most_local: usize,
}

impl ConnectionBounds {
    /// What this process's limit of open files allows for each of the two sockets. To be asked when everything else is open.
    ///
    /// # Errors
    /// [`Failure`] where there is room for hardly anybody.
    pub(crate) fn of_process() -> Result<ConnectionBounds, Failure> {
        let allowed = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        // One of those that are counted is the one that counts.
        let used = std::fs::read_dir("/proc/self/fd").map_or(OWN_DESCRIPTORS, Iterator::count);
        let bounds = ConnectionBounds::within(allowed, used);
        if let Some(ConnectionBounds { most, .. }) = bounds.filter(|bounds| bounds.most < FEW) {
            tracing::warn!(
                "only {allowed} files may be open, so no more than {most} clients and {most} subscribers can connect (raise it with ulimit -n)"
            );
        }
        bounds.ok_or_else(|| {
            let least = used + RESERVE_MIN + 2 * BOUND_MIN;
            let sentence = format!(
                "only {allowed} files may be open in this process, which leaves no room for clients: allow at least {least} (ulimit -n {least})"
            );
            Failure::new(Exit::Usage, sentence)
        })
    }

    /// Half of what is left for each of the two sockets.
    fn within(allowed: usize, used: usize) -> Option<ConnectionBounds> {
        let reserve = (allowed / 8).clamp(RESERVE_MIN, RESERVE_MAX);
        let most = (allowed.saturating_sub(used + reserve) / 2).min(limits::CONNECTIONS_MAX);
        (most >= BOUND_MIN).then_some(ConnectionBounds { most, most_local: most + reserve / 4 })
    }
}

const _: () = assert!(limits::CONNECTIONS_MAX == limits::PUB_CONNECTIONS_MAX, "both sockets have the same bound");

/// Descriptors kept free: for files, catalogs, sockets that are opened again, and for connections that are accepted before the bound shows.
const RESERVE_MIN: usize = 192;
const RESERVE_MAX: usize = 1_024;
/// A bound that is worth a warning.
const FEW: usize = 1_000;
/// With room for fewer connections than this a broker doesn't start.
const BOUND_MIN: usize = 16;
/// What the broker itself has open, where that can't be counted.
const OWN_DESCRIPTORS: usize = 64;

/// The open connections of a socket.
pub(crate) struct Connections {
    bounds: ConnectionBounds,
    /// All of them by descriptor, also those that are cut and not ended yet.
    open: HashMap<u32, Accepted>,
    /// Those that are not cut, in the order of their coming: by TCP, and by the unix socket.
    by_tcp: BTreeMap<u64, u32>,
    local: BTreeMap<u64, u32>,
    next: u64,
    /// An accept(2) has failed for want of descriptors.
    is_out_of_room: bool,
    counters: Arc<ConnectionCounters>,
    said: Repeated,
    said_out_of_room: Repeated,
}

#[derive(Clone, Copy, Debug)]
struct Accepted {
    number: u64,
    is_local: bool,
}

impl Connections {
    /// None yet.
    pub(crate) fn new(bounds: ConnectionBounds, counters: Arc<ConnectionCounters>) -> Connections {
        Connections {
            bounds,
            open: HashMap::new(),
            by_tcp: BTreeMap::new(),
            local: BTreeMap::new(),
            next: 0,
            is_out_of_room: false,
            counters,
            said: Repeated::new(),
            said_out_of_room: Repeated::new(),
        }
    }

    /// Notes what happened to a connection.
    pub(crate) fn note(&mut self, event: &MonitorEvent) {
        match event.kind {
            MonitorEventKind::Accepted => {
                self.remove(event.value);
                let is_local = event.endpoint.starts_with("ipc:");
                let number = self.next;
                self.next += 1;
                self.of(is_local).insert(number, event.value);
                self.open.insert(event.value, Accepted { number, is_local });
            }
            MonitorEventKind::Disconnected => self.remove(event.value),
            MonitorEventKind::AcceptFailed => self.accept_failed(event.value),
            _ => return,
        }
        self.counters.open.store(self.open.len() as u64, Ordering::Relaxed);
    }

    fn remove(&mut self, descriptor: u32) {
        if let Some(Accepted { number, is_local }) = self.open.remove(&descriptor) {
            self.of(is_local).remove(&number);
        }
    }

    fn of(&mut self, is_local: bool) -> &mut BTreeMap<u64, u32> {
        if is_local { &mut self.local } else { &mut self.by_tcp }
    }

    fn accept_failed(&mut self, errno: u32) {
        let out_of_room = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        self.is_out_of_room |= out_of_room.iter().any(|known| u32::try_from(known.raw_os_error()) == Ok(errno));
    }

    /// Which connections are to be cut now; to be asked when all events are read.
    fn surplus(&mut self) -> Vec<u32> {
        let mut surplus = Vec::new();
        if std::mem::take(&mut self.is_out_of_room) {
            let part = self.by_tcp.len().div_ceil(8);
            surplus.extend(std::iter::from_fn(|| self.by_tcp.pop_last()).take(part).map(|(_, descriptor)| descriptor));
        }
        while self.by_tcp.len() + self.local.len() > self.bounds.most {
            let Some((_, descriptor)) = self.by_tcp.pop_last() else { break };
            surplus.push(descriptor);
        }
        while self.local.len() > self.bounds.most_local {
            let Some((_, descriptor)) = self.local.pop_last() else { break };
            surplus.push(descriptor);
        }
        surplus
    }

    /// Cuts those that are too many; to be called when all events are read.
    pub(crate) fn tend(&mut self) {
        if self.is_out_of_room
            && let Some(times) = self.said_out_of_room.hit()
        {
            tracing::error!(
                times,
                connections = self.open.len(),
                "no connection can be accepted (too few open files are allowed?): some are cut"
            );
        }
        let surplus = self.surplus();
        if surplus.is_empty() {
            return;
        }
        for descriptor in &surplus {
            cut(*descriptor);
        }
        self.counters.cut.fetch_add(surplus.len() as u64, Ordering::Relaxed);
        if let Some(times) = self.said.hit() {
            tracing::warn!(
                times,
                most = self.bounds.most,
                "too many connections: those that come now are cut until others have ended"
            );
        }
    }

    /// The socket was closed, and all of its connections.
    pub(crate) fn forget(&mut self) {
        (self.open, self.by_tcp, self.local) = Default::default();
        self.counters.open.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use kvbroker::keys::{KeyPair, SecretKey};
    use kvbroker::transport::ServerSocket;
    use kvbroker::zap::Policy;

    use super::*;
    use crate::sockets::{Bound, Listener, PortWish, Protection, router};

    const WAIT: Duration = Duration::from_secs(20);
    const TURN: Duration = Duration::from_millis(1);
    const BOUNDS: ConnectionBounds = ConnectionBounds { most: 20, most_local: 30 };

    fn bound(ipc: &Path) -> Bound {
        let keys = KeyPair::from_secret(SecretKey::generate().unwrap()).unwrap();
        let policy = Policy::owner_only(*keys.public());
        let listener = Listener::new(ipc, &[IpAddr::V4(Ipv4Addr::LOCALHOST)], Protection::Curve(keys));
        router(policy, listener, &PortWish { asked: None, remembered: None, flag: "--port" }).unwrap()
    }

    /// Turns the loop until `done`.
    fn turn_until(connections: &mut Connections, socket: &ServerSocket, mut done: impl FnMut(&Connections) -> bool) {
        let deadline = Instant::now() + WAIT;
        loop {
            while let Some(event) = socket.try_next_event().unwrap() {
                connections.note(&event);
            }
            connections.tend();
            if done(connections) {
                return;
            }
            assert!(Instant::now() < deadline, "{} open", connections.open.len());
            std::thread::park_timeout(TURN);
        }
    }

    fn is_cut(stream: &mut (impl Read + ?Sized)) -> bool {
        // libzmq greets with ten bytes at once; more comes only in answer to a greeting.
        let mut bytes = [0; 64];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(_) => return true,
            }
        }
    }

    #[test]
    fn beyond_the_bound_newcomers_are_cut_and_everybody_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r");
        let Bound { socket, context: _context, listener } = bound(&path);
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.port());
        let counters = Arc::new(ConnectionCounters::default());
        let mut connections = Connections::new(BOUNDS, counters.clone());
        let connect = || TcpStream::connect(address).unwrap();
        let mut open: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
        turn_until(&mut connections, &socket, |all| all.open.len() == 20);
        let mut late: Vec<TcpStream> = (0..30).map(|_| connect()).collect();
        turn_until(&mut connections, &socket, |_| counters.cut.load(Ordering::Relaxed) == 30);
        turn_until(&mut connections, &socket, |all| all.open.len() == 20);
        for stream in late.iter_mut().chain(&mut open) {
            stream.set_nonblocking(true).unwrap();
        }
        assert!(late.iter_mut().all(is_cut));
        assert!(!open.iter_mut().any(is_cut));

        // A stranger's connections make room for a program of our own user.
        let mut local = UnixStream::connect(&path).unwrap();
        turn_until(&mut connections, &socket, |all| all.open.len() == 20 && all.local.len() == 1);
        local.set_nonblocking(true).unwrap();
        assert!(!is_cut(&mut local));
        assert_eq!(open.iter_mut().map(is_cut).filter(|is_cut| *is_cut).count(), 1);

        drop(open);
        turn_until(&mut connections, &socket, |all| all.open.len() == 1);
        let mut again = connect();
        again.set_nonblocking(true).unwrap();
        turn_until(&mut connections, &socket, |all| all.open.len() == 2);
        assert!(!is_cut(&mut again));
    }

    #[test]
    fn the_unix_socket_has_a_bound_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r");
        let Bound { socket, context: _context, .. } = bound(&path);
        let mut connections = Connections::new(BOUNDS, Arc::default());
        let _open: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(&path).unwrap()).collect();
        turn_until(&mut connections, &socket, |all| all.next == 100);
        turn_until(&mut connections, &socket, |all| all.open.len() == 30);
    }

    #[test]
    fn the_bound_follows_what_the_process_may_open() {
        assert_eq!(ConnectionBounds::within(60, 30), None);
        let few = ConnectionBounds::within(1_024, 40).unwrap();
        assert_eq!(few, ConnectionBounds { most: 396, most_local: 444 });
        let many = ConnectionBounds::within(1 << 20, 40).unwrap();
        assert_eq!(many.most, limits::CONNECTIONS_MAX);
        for allowed in 200..30_000 {
            if let Some(bounds) = ConnectionBounds::within(allowed, 40) {
                let left = allowed - 40 - 2 * bounds.most_local;
                assert!(left >= RESERVE_MIN / 2, "{allowed}: {bounds:?}");
            }
        }
    }

    #[test]
    fn a_failed_accept_costs_the_newest_their_connection() {
        let mut connections = Connections::new(ConnectionBounds { most: 1_000, most_local: 1_100 }, Arc::default());
        let event = |kind, value, from: &str| MonitorEvent { kind, value, endpoint: from.to_owned() };
        for number in 0..96 {
            connections.note(&event(MonitorEventKind::Accepted, number, "tcp://127.0.0.1:1"));
        }
        connections.note(&event(MonitorEventKind::Accepted, 96, "ipc:///run/x"));
        let failed = |errno: Errno| event(MonitorEventKind::AcceptFailed, errno.raw_os_error() as u32, "tcp://127.0.0.1:1");
        connections.note(&failed(Errno::CONNABORTED));
        assert!(connections.surplus().is_empty());
        for _ in 0..10 {
            connections.note(&failed(Errno::NFILE));
        }
        assert_eq!(connections.surplus(), (84..96).rev().collect::<Vec<_>>(), "once for all of them");
        assert!(connections.surplus().is_empty());
        assert_eq!(connections.open.len(), 97, "until they have ended");
    }
}
