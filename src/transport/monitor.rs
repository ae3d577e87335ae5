//! Connection events of one socket, typed.
//!
//! - Events that this program doesn't know are passed on as
//!   [`MonitorEventKind::Other`], never a panic.
//! - With `ZMQ_RECONNECT_IVL` −1 a first connect that fails reports only
//!   [`MonitorEventKind::Closed`].
//!
//! - The reading end outlives the events: libzmq's I/O thread writes them with a
//!   *blocking* send, so closing the reading end first would hang every socket of
//!   the context. [`Socket`] owns both and ends the watching before either closes.
//!
//! Caveat: for the same reason libzmq waits when 100,000 events are unread, so
//! whoever watches a socket empties its events in every turn of the loop.

use std::sync::atomic::{AtomicU64, Ordering};

use zmq::Message;

use super::socket::{ReceiveLimits, Reception, receive_from};
use super::{Errno, TransportError};

/// Unread events after which libzmq's I/O thread waits for the reader.
const UNREAD_EVENTS: i32 = 100_000;

/// All events but the one about the end of watching, which would have to be read, too.
const EVENTS: i32 = (u16::MAX as u32 & !zmq_sys::ZMQ_EVENT_MONITOR_STOPPED) as i32;

/// An event is a frame of 6 bytes and a frame with an endpoint.
const LIMITS: ReceiveLimits = ReceiveLimits { max_frames: 2, max_bytes: 4_096 };

/// What happened to a connection. libzmq's manual page `zmq_socket_monitor` has the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonitorEventKind {
    /// The transport connected; the handshake follows.
    Connected,
    /// A connect is under way.
    ConnectDelayed,
    /// A failed connect will be tried again.
    ConnectRetried,
    /// A bind succeeded.
    Listening,
    /// A bind failed.
    BindFailed,
    /// A peer connected; the handshake follows.
    Accepted,
    /// accept(2) failed; the value is its errno (too many open files?).
    AcceptFailed,
    /// A listener or a connect attempt was closed.
    Closed,
    /// Closing failed.
    CloseFailed,
    /// A connection ended.
    Disconnected,
    /// The handshake failed without a reason; the value is an errno.
    HandshakeFailedNoDetail,
    /// The connection is ready for messages.
    HandshakeSucceeded,
    /// The peer broke the protocol; the value says how.
    HandshakeFailedProtocol,
    /// The peer's ZAP handler refused us; the value is its status code.
    HandshakeFailedAuth,
    /// Something that this program doesn't know.
    Other(u16),
}

impl MonitorEventKind {
    fn from_raw(raw: u16) -> Self {
        match u32::from(raw) {
            zmq_sys::ZMQ_EVENT_CONNECTED => Self::Connected,
            zmq_sys::ZMQ_EVENT_CONNECT_DELAYED => Self::ConnectDelayed,
            zmq_sys::ZMQ_EVENT_CONNECT_RETRIED => Self::ConnectRetried,
            zmq_sys::ZMQ_EVENT_LISTENING => Self::Listening,
            zmq_sys::ZMQ_EVENT_BIND_FAILED => Self::BindFailed,
            zmq_sys::ZMQ_EVENT_ACCEPTED => Self::Accepted,
            zmq_sys::ZMQ_EVENT_ACCEPT_FAILED => Self::AcceptFailed,
            zmq_sys::ZMQ_EVENT_CLOSED => Self::Closed,
            zmq_sys::ZMQ_EVENT_CLOSE_FAILED => Self::CloseFailed,
            zmq_sys::ZMQ_EVENT_DISCONNECTED => Self::Disconnected,
            zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL => Self::HandshakeFailedNoDetail,
            zmq_sys::ZMQ_EVENT_HANDSHAKE_SUCCEEDED => Self::HandshakeSucceeded,
            zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL => Self::HandshakeFailedProtocol,
            zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_AUTH => Self::HandshakeFailedAuth,
            _ => Self::Other(raw),
        }
    }

    /// For a client: this connection, or the attempt at it, is over; a new socket is needed.
    #[must_use]
    pub const fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::Closed
                | Self::Disconnected
                | Self::HandshakeFailedNoDetail
                | Self::HandshakeFailedProtocol
                | Self::HandshakeFailedAuth
        )
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorEvent {
    /// What happened.
    pub kind: MonitorEventKind,
    /// Depends on the kind: a file descriptor, an errno, a status code.
    pub value: u32,
    /// The endpoint concerned, as libzmq writes it.
    pub endpoint: String,
}

/// The reading end of a socket's events.
pub(super) struct Monitor {
    pub(super) socket: zmq::Socket,
}

impl Monitor {
    pub(super) fn attach(context: &zmq::Context, watched: &zmq::Socket) -> Result<Self, TransportError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let endpoint = format!("inproc://kvbroker.monitor.{number}");
        let failed = |error: zmq::Error| TransportError::zmq("watch a socket", error);
        let socket = context.socket(zmq::PAIR).map_err(failed)?;
        socket.set_linger(0).map_err(failed)?;
        socket.set_rcvhwm(UNREAD_EVENTS).map_err(failed)?;
        // The reader connects first: no event is ever written without a reader.
        socket.connect(&endpoint).map_err(failed)?;
        watched.monitor(&endpoint, EVENTS).map_err(failed)?;
        Ok(Self { socket })
    }

    pub(super) fn try_next(&self) -> Result<Option<MonitorEvent>, TransportError> {
        let mut frames = Vec::new();
        if receive_from(&self.socket, LIMITS, &mut frames)? == Reception::Nothing {
            return Ok(None);
        }
        match parse(&frames) {
            Some(event) => Ok(Some(event)),
            None => Err(TransportError::zmq("understand a monitor event", Errno::from_raw(zmq_sys::errno::EPROTO))),
        }
    }

    /// Ends the watching; afterwards the reading end may close.
    pub(super) fn detach(&self, watched: &mut zmq::Socket) {
        // An I/O thread may be waiting for room, holding the lock that the call
        // below needs.
        while matches!(self.try_next(), Ok(Some(_))) {}
        // SAFETY: the pointer is a live socket's, because the caller owns it; a null
        // address is libzmq's way to say "no longer".
        let outcome = unsafe { zmq_sys::zmq_socket_monitor(watched.as_mut_ptr(), std::ptr::null(), 0) };
        // It fails only when the context has ended, which ends the watching as well.
        let _ = outcome;
    }
}

fn parse(frames: &[Message]) -> Option<MonitorEvent> {
    // Version 1 events: u16 event, u32 value, both in the machine's byte order.
    let (kind, value) = frames.first()?.split_first_chunk::<2>()?;
    let value = value.first_chunk::<4>()?;
    let endpoint = frames.get(1).map(|frame| String::from_utf8_lossy(frame));
    Some(MonitorEvent {
        kind: MonitorEventKind::from_raw(u16::from_ne_bytes(*kind)),
        value: u32::from_ne_bytes(*value),
        endpoint: endpoint.unwrap_or_default().into_owned(),
    })
}
