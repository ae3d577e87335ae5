//! The one place where this program touches ZeroMQ.
//!
//! The `zmq` crate has had no release for years, and libzmq's defaults are
//! wrong for us in many places, so everything else speaks to this module: it
//! makes sockets with every option set that they need, receives with bounds,
//! sends without blocking, and tells outcomes apart that libzmq mixes up.
//!
//! - A server socket has a ZAP domain and refuses peers when no ZAP handler is
//!   bound (`ZMQ_ZAP_ENFORCE_DOMAIN`; without it CURVE lets everyone in). It can
//!   only be made through [`crate::zap::SecuredContext`], which starts the handler first.
//! - A server socket uses NULL on ipc and CURVE on tcp, whatever the order of binds.
//! - A client socket without keys never connects to tcp.
//! - No socket reconnects by itself: a silent reconnect could reach another
//!   broker with requests that were meant for the first one. (A subscriber's would, after a day: its messages have two frames, and the
//!   option that forbids it lets libzmq abort in between.)
//! - `ZMQ_HEARTBEAT_IVL` stays unset: with a full receive pipe it aborts the process.
//! - Nothing here panics on what a peer sends; an interrupted call is repeated.
//!
//! Caveats: the `zmq` crate's `Drop` for sockets panics when `zmq_close` fails,
//! which only a socket misused through raw pointers can bring about. High-water
//! marks count messages, and `ZMQ_MAXMSGSIZE` bounds one frame: a peer can make
//! libzmq hold (high-water mark × frames × frame size) before [`Socket::try_receive`]
//! sees the first byte. Don't fork after creating a [`Context`].

mod curve;
mod ends;
mod error;
mod lent;
mod monitor;
mod options;
mod socket;
#[cfg(test)]
mod tests;

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub use curve::curve_public;
pub use ends::{ClientSocket, ServerSocket};
pub use error::{Errno, TransportError};
pub use monitor::{MonitorEvent, MonitorEventKind};
pub use options::{CLIENT_FRAME_BYTES, Security, ServerOptions};
pub use socket::{AsFrame, ReceiveLimits, Reception, SendOutcome, Socket, connection, cut, is_stuck, poll, user_id, wait};
pub use zmq::{Message, POLLERR, POLLIN, POLLOUT, PollItem};

/// Longest ipc path in bytes: `sun_path` has 108, one of them a zero at the end.
pub const MAX_IPC_PATH_BYTES: usize = 107;

/// Most clients that share a context. It takes 1,023 sockets, and a client has up to a dozen: its own, its subscriber's, what watches
/// them, and those of the connection before.
pub const SHARED_BY_MAX: usize = 64;

/// libzmq's version, as linked.
#[must_use]
pub fn libzmq_version() -> String {
    let (major, minor, patch) = zmq::version();
    format!("{major}.{minor}.{patch}")
}

/// Whether the linked libzmq can encrypt and authenticate.
#[must_use]
pub fn has_curve() -> bool {
    zmq::has("curve").unwrap_or(false)
}

/// A libzmq context: a set of I/O threads and the `inproc` name space.
///
/// Clones share it. It ends when the last clone and socket are dropped; with
/// messages unsent that waits for the sockets' linger time.
#[derive(Clone)]
pub struct Context(Arc<zmq::Context>);

impl Context {
    /// A context that clients of this program share: the current one, or a new one if it has ended or has [`SHARED_BY_MAX`] already.
    ///
    /// An I/O thread that has several connections does in one wake-up what each of several threads would be woken up for.
    ///
    /// # Errors
    /// As [`Context::new`].
    pub fn shared() -> Result<Self, TransportError> {
        static CURRENT: Mutex<Weak<zmq::Context>> = Mutex::new(Weak::new());
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = current.upgrade()
            // This one included.
            && Arc::strong_count(&context) <= SHARED_BY_MAX
        {
            return Ok(Self(context));
        }
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let context = Self::new(if processors < 8 { 1 } else { 2 })?;
        *current = Arc::downgrade(&context.0);
        Ok(context)
    }

    /// Makes a context with `io_threads` I/O threads (0 counts as 1).
    ///
    /// # Errors
    /// libzmq refused the number.
    pub fn new(io_threads: u8) -> Result<Self, TransportError> {
        let context = zmq::Context::new();
        context
            .set_io_threads(i32::from(io_threads.max(1)))
            .map_err(|error| TransportError::zmq("set the number of I/O threads", error))?;
        Ok(Self(Arc::new(context)))
    }

    /// A client's DEALER for requests. It is not connected yet.
    ///
    /// # Errors
    /// No more sockets or file descriptors, or no CURVE.
    pub fn dealer(&self, security: Security<'_>) -> Result<ClientSocket, TransportError> {
        let socket = self.socket(zmq::DEALER)?;
        options::client(&socket, security)?;
        options::dealer(&socket)?;
        Ok(ClientSocket::new(socket, security))
    }

    /// A client's SUB for notifications. It is not connected yet.
    ///
    /// # Errors
    /// No more sockets or file descriptors, or no CURVE.
    pub fn subscriber(&self, security: Security<'_>) -> Result<ClientSocket, TransportError> {
        let socket = self.socket(zmq::SUB)?;
        options::client(&socket, security)?;
        options::subscriber(&socket)?;
        Ok(ClientSocket::new(socket, security))
    }

    /// A broker's ROUTER. Only [`crate::zap::SecuredContext`] may call this.
    pub(crate) fn router(&self, server: &ServerOptions) -> Result<ServerSocket, TransportError> {
        let mut socket = self.socket(zmq::ROUTER)?;
        options::server(&mut socket, server)?;
        options::router(&socket)?;
        Ok(ServerSocket::new(socket))
    }

    /// A broker's XPUB. Only [`crate::zap::SecuredContext`] may call this.
    pub(crate) fn xpub(&self, server: &ServerOptions) -> Result<ServerSocket, TransportError> {
        let mut socket = self.socket(zmq::XPUB)?;
        options::server(&mut socket, server)?;
        options::xpub(&mut socket)?;
        Ok(ServerSocket::new(socket))
    }

    /// The REP on which ZAP requests of this context arrive, bound.
    pub(crate) fn zap_handler(&self) -> Result<Socket, TransportError> {
        let socket = self.socket(zmq::REP)?;
        options::zap_handler(&socket)?;
        let mut socket = Socket::new(socket);
        socket.bind_raw(c"inproc://zeromq.zap.01")?;
        Ok(socket)
    }

    /// A REQ that asks this context's ZAP handler as libzmq would, for tests.
    #[cfg(test)]
    pub(crate) fn zap_asker(&self) -> Result<Socket, TransportError> {
        let socket = self.socket(zmq::REQ)?;
        options::zap_handler(&socket)?;
        let mut socket = Socket::new(socket);
        socket.connect_raw(c"inproc://zeromq.zap.01")?;
        Ok(socket)
    }

    fn socket(&self, kind: zmq::SocketType) -> Result<zmq::Socket, TransportError> {
        self.0.socket(kind).map_err(|error| TransportError::zmq(format!("create a {kind:?} socket"), error))
    }

    /// The context behind it, for monitors.
    pub(crate) fn raw(&self) -> &zmq::Context {
        &self.0
    }
}
