//! Socket options: every one that must not stay at libzmq's default, with the reason.

use std::ffi::c_int;

use kvbroker_protocol::limits;

use crate::keys::{KeyPair, PublicKey};

use super::{Errno, TransportError};

/// `ZMQ_ZAP_ENFORCE_DOMAIN` (libzmq 4.3.2); the `zmq` crate has no setter for it.
pub(super) const ZAP_ENFORCE_DOMAIN: c_int = 93;

/// `ZMQ_XPUB_VERBOSER` (libzmq 4.2); the `zmq` crate has no setter for it.
const XPUB_VERBOSER: c_int = zmq_sys::ZMQ_XPUB_VERBOSER as c_int;

/// A host that drops packets is given up after this, instead of the kernel's minutes.
const CONNECT_MS: i32 = 5_000;

/// A dead peer on an idle connection is noticed after 30 + 3 × 10 s.
const KEEPALIVE_IDLE_S: i32 = 30;
const KEEPALIVE_INTERVAL_S: i32 = 10;
const KEEPALIVE_PROBES: i32 = 3;

/// Messages that a client's DEALER holds in each direction: as many as a client
/// may have in flight, twice.
const DEALER_HWM: i32 = 8_192;

/// Notifications that a subscriber holds unread. Beyond it the broker's side
/// fills, and then the broker drops, which the chain of revisions shows.
const SUBSCRIBER_HWM: i32 = 2_048;

/// Pause before a subscriber's socket would connect again by itself, milliseconds: a day, and whoever has it closes it long before. With none at all libzmq
/// takes the socket's end of a lost connection away at once, also between the frames of a message that is being read, and then aborts the
/// process at the next one (`!_more` in fq.cpp).
const SUBSCRIBER_RECONNECT_MS: i32 = 24 * 3_600 * 1_000;

/// One frame that a client accepts: the largest reply. What an array may read is counted as it is stored, and JSON grows to at most three
/// times its length when it is converted to MessagePack (`-0,` becomes nine bytes).
pub const CLIENT_FRAME_BYTES: usize = 64 << 20;
const _: () =
    assert!(CLIENT_FRAME_BYTES > limits::ARRAY_REPLY_BYTES_MAX * 3 && CLIENT_FRAME_BYTES > limits::EVENTS_DETAIL_BYTES_MAX * 3);

/// How a client's socket is protected.
#[derive(Clone, Copy, Debug)]
pub enum Security<'a> {
    /// NULL, for ipc only: the kernel says who we are.
    Local,
    /// CURVE, for tcp.
    Curve {
        /// Who we are.
        own: &'a KeyPair,
        /// Who the broker must prove to be.
        broker: &'a PublicKey,
    },
    /// NULL on tcp as well. Only where the user asked for it by `--insecure`.
    Insecure,
}

/// What a broker's socket is given. Every number is the caller's, so that all
/// limits stand in one file there.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The ZAP domain; must not be empty, or libzmq asks nobody.
    pub zap_domain: String,
    /// Largest frame accepted; a peer that sends a larger one is disconnected.
    pub max_frame_bytes: i64,
    /// Messages held for each peer that doesn't read.
    pub send_hwm: i32,
    /// Messages held from each peer that we haven't read.
    pub receive_hwm: i32,
    /// Connections that may wait to be accepted.
    pub backlog: i32,
    /// How long closing waits for unsent messages.
    pub linger_ms: i32,
}

impl Default for ServerOptions {
    /// Fits the ROUTER: 16 MiB frames, twice a client's requests in flight.
    fn default() -> Self {
        Self {
            zap_domain: "kvbroker".into(),
            max_frame_bytes: 16 << 20,
            send_hwm: 8_192,
            receive_hwm: 1_000,
            backlog: 1_024,
            linger_ms: 1_000,
        }
    }
}

/// Sets options one after the other and names the one that failed.
macro_rules! set {
    ($socket:expr, $($setter:ident($value:expr)),+ $(,)?) => {
        $(
            $socket.$setter($value).map_err(|error| {
                TransportError::zmq(
                    concat!("configure a socket (", stringify!($setter), ")"),
                    error,
                )
            })?;
        )+
    };
}

pub(super) fn client(socket: &zmq::Socket, security: Security<'_>) -> Result<(), TransportError> {
    set!(
        socket,
        // Unsent requests are given up with the socket; the session asks about them.
        set_linger(0),
        set_connect_timeout(CONNECT_MS),
        set_maxmsgsize(CLIENT_FRAME_BYTES as i64),
    );
    both(socket)?;
    if let Security::Curve { own, broker } = security {
        if !super::has_curve() {
            return Err(TransportError::NoCurve);
        }
        set!(
            socket,
            set_curve_serverkey(broker.as_bytes()),
            set_curve_publickey(own.public().as_bytes()),
            set_curve_secretkey(own.secret().expose_bytes()),
        );
    }
    Ok(())
}

pub(super) fn dealer(socket: &zmq::Socket) -> Result<(), TransportError> {
    set!(
        socket,
        // A lost connection stays lost: see the module's invariants. What it brought and nobody has read is lost with it, and a message must
        // have one frame (see SUBSCRIBER_RECONNECT_MS), as replies have.
        set_reconnect_ivl(-1),
        // Nothing is queued for a connection that doesn't exist yet. (Not for SUB: its
        // subscriptions would then wait until the program happens to use the socket.)
        set_immediate(true),
        set_sndhwm(DEALER_HWM),
        set_rcvhwm(DEALER_HWM),
    );
    Ok(())
}

pub(super) fn subscriber(socket: &zmq::Socket) -> Result<(), TransportError> {
    set!(
        socket,
        // Subscriptions travel through the *send* pipe and are dropped without a
        // word when it is full, so it must not have a bound.
        set_sndhwm(0),
        set_rcvhwm(SUBSCRIBER_HWM),
        set_reconnect_ivl(SUBSCRIBER_RECONNECT_MS),
    );
    Ok(())
}

pub(super) fn server(socket: &mut zmq::Socket, options: &ServerOptions) -> Result<(), TransportError> {
    assert!(!options.zap_domain.is_empty(), "without a ZAP domain libzmq asks no handler");
    set!(
        socket,
        set_linger(options.linger_ms),
        set_zap_domain(&options.zap_domain),
        set_maxmsgsize(options.max_frame_bytes),
        set_sndhwm(options.send_hwm),
        set_rcvhwm(options.receive_hwm),
        set_backlog(options.backlog),
    );
    both(socket)?;
    enforce_zap_domain(socket)
}

pub(super) fn router(socket: &zmq::Socket) -> Result<(), TransportError> {
    set!(
        socket,
        // Gone and slow peers are reported instead of silently skipped.
        set_router_mandatory(true),
        // A second client with the same routing id must not get the first one's replies.
        set_router_handover(false),
    );
    Ok(())
}

pub(super) fn xpub(socket: &mut zmq::Socket) -> Result<(), TransportError> {
    // Every subscription and every end of one is passed up, also of a topic that
    // another peer has: each is counted for its sender. Never ZMQ_XPUB_MANUAL.
    set_int(socket, XPUB_VERBOSER, 1, "configure a socket (ZMQ_XPUB_VERBOSER)")
}

pub(super) fn zap_handler(socket: &zmq::Socket) -> Result<(), TransportError> {
    set!(socket, set_linger(0));
    Ok(())
}

fn both(socket: &zmq::Socket) -> Result<(), TransportError> {
    set!(
        socket,
        set_handshake_ivl(limits::HANDSHAKE_MS),
        set_tcp_keepalive(1),
        set_tcp_keepalive_idle(KEEPALIVE_IDLE_S),
        set_tcp_keepalive_intvl(KEEPALIVE_INTERVAL_S),
        set_tcp_keepalive_cnt(KEEPALIVE_PROBES),
    );
    Ok(())
}

fn enforce_zap_domain(socket: &mut zmq::Socket) -> Result<(), TransportError> {
    set_int(socket, ZAP_ENFORCE_DOMAIN, 1, "make a socket refuse peers without a ZAP handler")
}

fn set_int(socket: &mut zmq::Socket, option: c_int, value: c_int, action: &str) -> Result<(), TransportError> {
    // SAFETY: the pointer is a live socket's, because `socket` owns it; the options
    // used here take an int, and libzmq copies it before it returns.
    let outcome = unsafe { zmq_sys::zmq_setsockopt(socket.as_mut_ptr(), option, (&raw const value).cast(), size_of::<c_int>()) };
    if outcome == 0 { Ok(()) } else { Err(TransportError::zmq(action, Errno::last())) }
}

/// Reads back what [`enforce_zap_domain`] has set.
#[cfg(test)]
pub(super) fn zap_domain_is_enforced(socket: &mut zmq::Socket) -> bool {
    let mut value: c_int = -1;
    let mut size = size_of::<c_int>();
    // SAFETY: the socket is alive, and libzmq writes at most `size` bytes to `value`.
    let outcome =
        unsafe { zmq_sys::zmq_getsockopt(socket.as_mut_ptr(), ZAP_ENFORCE_DOMAIN, (&raw mut value).cast(), &raw mut size) };
    assert_eq!((outcome, size), (0, size_of::<c_int>()));
    value == 1
}
