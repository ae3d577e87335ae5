//! Making and binding the sockets: unix sockets for the same user, TCP for everybody who may come in.
//!
//! - A socket is made by [`router_socket`] or [`publisher_socket`], in a context whose door is manned. A [`Listener`] puts it into its
//!   place: the unix socket, and every address of `--listen` on *one* port.
//! - Either all addresses of a listener are bound or none is: a failed [`Listener::bind_tcp`] leaves nothing behind.
//! - The listener remembers what it is bound to, so that it can end and begin again while its socket lives:
//!   `listener.unbind_tcp(&mut socket)`, later `listener.bind_tcp(&mut socket, listener.port())`. libzmq ends the connections that came by TCP.
//! - A socket is replaced by another one in the same place so: drop the old one, make a new one in the same context, then
//!   `listener.forget_tcp()`, `listener.bind_ipc(&mut new)` and `listener.bind_tcp(&mut new, listener.port())`, which
//!   fails with [`TransportError::is_address_in_use`] until libzmq has really closed the old one. Port 0 takes any free one.
//!
//! Caveats: closing and unbinding are done by libzmq's own threads, a while after the call returns. A bind to a unix socket's path
//! takes the path over from whoever listens there, also from an old socket of ours, whose clients then never see it end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use kvbroker::exit::Exit;
use kvbroker::keys::KeyPair;
use kvbroker::transport::{ServerOptions, ServerSocket, TransportError};
use kvbroker::zap::{Policy, SecuredContext};
use kvbroker_protocol::limits;

use crate::failure::Failure;

/// A bound socket with the context that guards it. The socket must be dropped first.
pub(crate) struct Bound {
    pub(crate) socket: ServerSocket,
    pub(crate) context: SecuredContext,
    pub(crate) listener: Listener,
}

/// Which port a start takes.
pub(crate) struct PortWish {
    /// The port asked for; None: the remembered one, else a free one.
    pub(crate) asked: Option<u16>,
    pub(crate) remembered: Option<u16>,
    /// The flag that chooses the port, for messages.
    pub(crate) flag: &'static str,
}

/// How TCP is protected.
#[derive(Clone, Debug)]
pub(crate) enum Protection {
    /// CURVE: the broker proves this key, and peers prove theirs to the door.
    Curve(KeyPair),
    /// Not at all (`--insecure`).
    Plain,
}

/// Where a socket listens: kept for as long as the broker runs, see the module.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    ipc: PathBuf,
    /// All with one port; none: no TCP.
    addresses: Vec<IpAddr>,
    protection: Protection,
    bound: Vec<SocketAddr>,
    port: u16,
}

/// What stands around a message in a frame: CURVE's 33 bytes, the name of a SUBSCRIBE command. Also so much room over the limit of a
/// body that one which is a little too large gets an answer instead of a closed connection.
const FRAME_OVERHEAD_BYTES: usize = 4_096;

/// Subscriptions that libzmq holds from each peer. It moves all that have arrived into the XPUB before it gives us the first, and goes on
/// for as long as more arrive; with few of them at a time, a flood pauses there often enough to be counted. (With 64, a hundred connections
/// with topics of a kilobyte took 1.4 GiB before they were noticed, with 8 less than 100 MiB.)
const SUBSCRIPTIONS_UNREAD: i32 = 8;

/// How often a free port is looked for that is free on every address.
const FREE_PORT_TRIES: usize = 16;

/// A ROUTER whose connections are watched, not bound yet.
pub(crate) fn router_socket(context: &SecuredContext) -> Result<ServerSocket, TransportError> {
    let mut socket = context.router(&ServerOptions {
        max_frame_bytes: (limits::MESSAGE_BYTES_MAX + FRAME_OVERHEAD_BYTES) as i64,
        ..ServerOptions::default()
    })?;
    socket.watch(context.context())?;
    Ok(socket)
}

/// An XPUB whose connections are watched, not bound yet. libzmq keeps a subscription as a chain of nodes, some fifty bytes for each byte of the topic: a topic has no
/// reason to be longer than a key.
pub(crate) fn publisher_socket(context: &SecuredContext) -> Result<ServerSocket, TransportError> {
    let mut socket = context.xpub(&ServerOptions {
        max_frame_bytes: (limits::KEY_BYTES_MAX + FRAME_OVERHEAD_BYTES) as i64,
        receive_hwm: SUBSCRIPTIONS_UNREAD,
        send_hwm: limits::PUBLISHED_UNREAD_MAX as i32,
        ..ServerOptions::default()
    })?;
    socket.watch(context.context())?;
    Ok(socket)
}

/// Makes and binds the ROUTER.
pub(crate) fn router(policy: Policy, listener: Listener, wish: &PortWish) -> Result<Bound, Failure> {
    let context = context(policy)?;
    let socket = router_socket(&context).map_err(unreachable())?;
    start(socket, context, listener, wish)
}

/// Makes and binds the XPUB.
pub(crate) fn publisher(policy: Policy, listener: Listener, wish: &PortWish) -> Result<Bound, Failure> {
    let context = context(policy)?;
    let socket = publisher_socket(&context).map_err(unreachable())?;
    start(socket, context, listener, wish)
}

fn unreachable<E: std::fmt::Display>() -> impl Fn(E) -> Failure {
    Failure::with(Exit::Unreachable)
}

fn context(policy: Policy) -> Result<SecuredContext, Failure> {
    SecuredContext::start(1, policy, kvbroker::critical::abort_process()).map_err(unreachable())
}

fn start(mut socket: ServerSocket, context: SecuredContext, mut listener: Listener, wish: &PortWish) -> Result<Bound, Failure> {
    listener.bind_ipc(&mut socket).map_err(unreachable())?;
    let remembered = wish.remembered.filter(|port| *port != 0 && wish.asked.is_none());
    match remembered.map(|port| (port, listener.bind_tcp(&mut socket, port))) {
        Some((_, Ok(_))) => {}
        Some((port, Err(error))) if error.is_address_in_use() => {
            tracing::warn!("port {port}, used last time, is taken by another program: a free one is taken instead");
            listener.bind_tcp(&mut socket, 0).map_err(unreachable())?;
        }
        Some((_, Err(error))) => return Err(unreachable()(error)),
        None => {
            listener.bind_tcp(&mut socket, wish.asked.unwrap_or(0)).map_err(|error| {
                let advice = if error.is_address_in_use() {
                    format!("; choose another {}, or 0 for any free one", wish.flag)
                } else if error.is_address_not_ours() {
                    "; --listen takes addresses of this machine".to_owned()
                } else {
                    String::new()
                };
                Failure::new(Exit::Unreachable, format!("{error}{advice}"))
            })?;
        }
    }
    Ok(Bound { socket, context, listener })
}

impl Listener {
    /// `addresses` may be empty: then there is no TCP.
    pub(crate) fn new(ipc: &Path, addresses: &[IpAddr], protection: Protection) -> Listener {
        Listener { ipc: ipc.to_owned(), addresses: addresses.to_vec(), protection, bound: Vec::new(), port: 0 }
    }

    /// Binds the unix socket.
    ///
    /// # Errors
    /// The path can't be bound.
    pub(crate) fn bind_ipc(&self, socket: &mut ServerSocket) -> Result<(), TransportError> {
        socket.bind_ipc(&self.ipc)
    }

    /// Listens on every address with this port (0: any that is free on all of them), and returns the port; 0 where there is no TCP.
    ///
    /// # Errors
    /// One of the addresses can't be bound; then none of them is.
    pub(crate) fn bind_tcp(&mut self, socket: &mut ServerSocket, port: u16) -> Result<u16, TransportError> {
        let mut tries = if port == 0 && self.addresses.len() > 1 { FREE_PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match self.bind_all(socket, port) {
                Ok(()) => return Ok(self.port),
                Err(error) => {
                    // The port stays known: it may be tried again.
                    let _ = self.unbind_tcp(socket);
                    if tries == 0 || !error.is_address_in_use() {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn bind_all(&mut self, socket: &mut ServerSocket, mut port: u16) -> Result<(), TransportError> {
        for address in &mut self.addresses {
            let bound = match bind_one(socket, &self.protection, *address, port) {
                Err(_) if *address == Ipv6Addr::UNSPECIFIED && !has_ipv6() => {
                    *address = Ipv4Addr::UNSPECIFIED.into();
                    bind_one(socket, &self.protection, *address, port)?
                }
                bound => bound?,
            };
            port = bound.port();
            self.bound.push(bound);
        }
        self.port = if self.addresses.is_empty() { 0 } else { port };
        Ok(())
    }

    /// Stops listening on TCP, which ends the connections that came that way.
    ///
    /// # Errors
    /// libzmq knows nothing of one of the binds.
    pub(crate) fn unbind_tcp(&mut self, socket: &mut ServerSocket) -> Result<(), TransportError> {
        let unbound: Vec<_> = self.bound.drain(..).map(|bound| socket.unbind_tcp(bound)).collect();
        unbound.into_iter().collect()
    }

    /// The socket is gone, and what it was bound to.
    pub(crate) fn forget_tcp(&mut self) {
        self.bound.clear();
    }

    /// The port that was bound last; 0 before the first bind.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What is bound now.
    pub(crate) fn tcp(&self) -> &[SocketAddr] {
        &self.bound
    }
}

/// Whether this machine knows IPv6 at all. Asked of the system: libzmq's errors don't tell.
fn has_ipv6() -> bool {
    std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

fn bind_one(
    socket: &mut ServerSocket,
    protection: &Protection,
    address: IpAddr,
    port: u16,
) -> Result<SocketAddr, TransportError> {
    match protection {
        Protection::Curve(keys) => socket.bind_tcp(keys, address, port),
        Protection::Plain => socket.bind_plain_tcp(address, port),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::TcpListener;

    use kvbroker::keys::SecretKey;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

    fn keys() -> KeyPair {
        KeyPair::from_secret(SecretKey::generate().unwrap()).unwrap()
    }

    fn secured(keys: &KeyPair) -> SecuredContext {
        SecuredContext::start(1, Policy::owner_only(*keys.public()), kvbroker::critical::abort_process()).unwrap()
    }

    #[test]
    fn every_address_gets_one_port_or_none_is_bound() {
        let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
        let context = secured(&keys);
        let mut socket = router_socket(&context).unwrap();
        let ipc = directory.path().join("r");
        let mut listener = Listener::new(&ipc, &[LOOPBACK, NEIGHBOUR], Protection::Curve(keys));
        let port = listener.bind_tcp(&mut socket, 0).unwrap();
        let both = [LOOPBACK, NEIGHBOUR].map(|address| SocketAddr::new(address, port));
        assert_eq!(listener.tcp(), both);

        // Another program has the port on the second address.
        let other = TcpListener::bind((NEIGHBOUR, 0)).unwrap();
        let taken = other.local_addr().unwrap().port();
        let mut second = router_socket(&context).unwrap();
        let mut neighbour = listener.clone();
        neighbour.forget_tcp();
        assert!(neighbour.bind_tcp(&mut second, taken).unwrap_err().is_address_in_use());
        assert_eq!(neighbour.tcp(), []);
        wait_until_free(SocketAddr::new(LOOPBACK, taken));
    }

    #[test]
    fn a_listener_ends_and_begins_again_and_another_socket_takes_its_place() {
        let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
        let context = secured(&keys);
        let mut socket = publisher_socket(&context).unwrap();
        let ipc = directory.path().join("p");
        let mut listener = Listener::new(&ipc, &[LOOPBACK], Protection::Curve(keys));
        listener.bind_ipc(&mut socket).unwrap();
        let port = listener.bind_tcp(&mut socket, 0).unwrap();
        listener.unbind_tcp(&mut socket).unwrap();
        assert_eq!((listener.tcp(), listener.port()), (&[][..], port));
        rebind(&mut listener, &mut socket);
        drop(socket);
        listener.forget_tcp();
        let mut socket = publisher_socket(&context).unwrap();
        listener.bind_ipc(&mut socket).unwrap();
        rebind(&mut listener, &mut socket);
        assert_eq!(listener.tcp(), [SocketAddr::new(LOOPBACK, port)]);
    }

    #[test]
    fn no_address_is_no_tcp_and_everywhere_is_both_families() {
        let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
        let context = secured(&keys);
        let mut socket = router_socket(&context).unwrap();
        let ipc = directory.path().join("r");
        let mut none = Listener::new(&ipc, &[], Protection::Curve(keys.clone()));
        assert_eq!(none.bind_tcp(&mut socket, 0).unwrap(), 0);
        let mut everywhere = Listener::new(&ipc, &[Ipv6Addr::UNSPECIFIED.into()], Protection::Curve(keys));
        let port = everywhere.bind_tcp(&mut socket, 0).unwrap();
        // Whatever this machine has: IPv4 can come in.
        std::net::TcpStream::connect((LOOPBACK, port)).unwrap();
        everywhere.unbind_tcp(&mut socket).unwrap();
        wait_until_free(SocketAddr::new(LOOPBACK, port));
        rebind(&mut everywhere, &mut socket);
        std::net::TcpStream::connect((LOOPBACK, port)).unwrap();
    }

    fn deadline() -> std::time::Instant {
        std::time::Instant::now() + std::time::Duration::from_secs(20)
    }

    fn rebind(listener: &mut Listener, socket: &mut ServerSocket) {
        let deadline = deadline();
        while let Err(error) = listener.bind_tcp(socket, listener.port()) {
            assert!(error.is_address_in_use() && std::time::Instant::now() < deadline, "{error}");
            std::thread::yield_now();
        }
    }

    fn wait_until_free(address: SocketAddr) {
        let deadline = deadline();
        while let Err(error) = TcpListener::bind(address) {
            assert!(std::time::Instant::now() < deadline, "{address}: {error}");
            std::thread::yield_now();
        }
    }
}
