//! The two ends of a connection: what may bind and what may connect, and how protected.

use std::ffi::CString;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::keys::KeyPair;

use super::socket::Socket;
use super::{Errno, MAX_IPC_PATH_BYTES, Security, TransportError};

/// A client's end. It is connected once; when [`Socket::try_next_event`] says that
/// the connection ended, the socket is dropped and a new one made.
pub struct ClientSocket {
    socket: Socket,
    may_use_tcp: bool,
}

impl ClientSocket {
    pub(super) fn new(socket: zmq::Socket, security: Security<'_>) -> Self {
        Self { socket: Socket::new(socket), may_use_tcp: !matches!(security, Security::Local) }
    }

    /// Starts to connect to a unix socket.
    ///
    /// # Errors
    /// The path can't be a unix socket's; a dead one shows on the monitor only.
    pub fn connect_ipc(&mut self, path: &Path) -> Result<(), TransportError> {
        let endpoint = ipc_endpoint(path)?;
        self.socket.connect_raw(&endpoint)
    }

    /// Starts to connect to an address. Names are the caller's to resolve: libzmq
    /// would do it on its I/O thread, where a slow resolver stalls every socket.
    ///
    /// # Errors
    /// [`TransportError::Unprotected`] for a socket made with [`Security::Local`].
    pub fn connect_tcp(&mut self, address: SocketAddr) -> Result<(), TransportError> {
        if !self.may_use_tcp {
            return Err(TransportError::Unprotected);
        }
        self.socket.set_ipv6(address.ip())?;
        self.socket.connect_raw(&tcp_endpoint(address))
    }

    /// Adds a subscription (SUB only).
    ///
    /// # Errors
    /// Not a SUB.
    pub fn subscribe(&self, topic: &[u8]) -> Result<(), TransportError> {
        self.socket.inner.set_subscribe(topic).map_err(|error| TransportError::zmq("subscribe", error))
    }

    /// Takes back one subscription (SUB only).
    ///
    /// # Errors
    /// Not a SUB.
    pub fn unsubscribe(&self, topic: &[u8]) -> Result<(), TransportError> {
        self.socket.inner.set_unsubscribe(topic).map_err(|error| TransportError::zmq("unsubscribe", error))
    }
}

/// A broker's end: NULL on its ipc endpoints, CURVE on its tcp endpoints (unless
/// they are expressly plain), and each peer judged by the ZAP handler.
pub struct ServerSocket {
    socket: Socket,
}

impl ServerSocket {
    pub(super) fn new(socket: zmq::Socket) -> Self {
        Self { socket: Socket::new(socket) }
    }

    /// Binds a unix socket. The caller holds the runtime directory's lock: a bind
    /// takes the path over from whoever listens there, without any error.
    ///
    /// # Errors
    /// The path can't be a unix socket's, or the directory doesn't allow it.
    pub fn bind_ipc(&mut self, path: &Path) -> Result<(), TransportError> {
        let endpoint = ipc_endpoint(path)?;
        // A bind fixes the mechanism for the connections that it accepts.
        self.set_curve_server(false)?;
        self.socket.bind_raw(&endpoint)
    }

    /// Binds a tcp port (0: any free one) and returns the address bound. Peers
    /// must use CURVE with `keys`' public half.
    ///
    /// # Errors
    /// [`TransportError::is_address_in_use`], no CURVE, or the address isn't ours.
    pub fn bind_tcp(&mut self, keys: &KeyPair, address: IpAddr, port: u16) -> Result<SocketAddr, TransportError> {
        if !super::has_curve() {
            return Err(TransportError::NoCurve);
        }
        self.set_curve_server(true)?;
        self.socket
            .inner
            .set_curve_secretkey(keys.secret().expose_bytes())
            .map_err(|error| TransportError::zmq("set the broker's key", error))?;
        self.bind_any_tcp(address, port)
    }

    /// Binds a tcp port (0: any free one) on which nothing is encrypted and peers prove nothing: only where the user asked for it
    /// by `--insecure`. The door must admit such peers, too ([`crate::zap::Policy::plain_tcp`]). Returns the address bound.
    ///
    /// # Errors
    /// [`TransportError::is_address_in_use`], or the address isn't ours.
    pub fn bind_plain_tcp(&mut self, address: IpAddr, port: u16) -> Result<SocketAddr, TransportError> {
        self.set_curve_server(false)?;
        self.bind_any_tcp(address, port)
    }

    fn bind_any_tcp(&mut self, address: IpAddr, port: u16) -> Result<SocketAddr, TransportError> {
        self.socket.set_ipv6(address)?;
        self.socket.bind_raw(&tcp_endpoint(SocketAddr::new(address, port)))?;
        let endpoint = self.socket.inner.get_last_endpoint();
        let endpoint = endpoint.map_err(|error| TransportError::zmq("learn the port", error))?;
        let text = endpoint.as_deref().unwrap_or_default();
        let bound = text.strip_prefix("tcp://").unwrap_or(text).parse();
        bound.map_err(|_| {
            TransportError::zmq(format!("understand the bound address {text:?}"), Errno::from_raw(zmq_sys::errno::EINVAL))
        })
    }

    /// Stops listening on an address that [`ServerSocket::bind_tcp`] returned.
    /// libzmq ends the connections that were made through it as well, without an
    /// event for each. The port is free for another bind once
    /// [`MonitorEventKind::Closed`](super::MonitorEventKind::Closed) arrives: an I/O thread does the work.
    ///
    /// # Errors
    /// It isn't bound.
    pub fn unbind_tcp(&mut self, bound: SocketAddr) -> Result<(), TransportError> {
        self.socket.unbind_raw(&tcp_endpoint(bound))
    }

    fn set_curve_server(&self, on: bool) -> Result<(), TransportError> {
        if !on && !super::has_curve() {
            return Ok(());
        }
        self.socket.inner.set_curve_server(on).map_err(|error| TransportError::zmq("choose the security mechanism", error))
    }
}

macro_rules! is_a_socket {
    ($($name:ty),+) => {
        $(
            impl Deref for $name {
                type Target = Socket;

                fn deref(&self) -> &Socket {
                    &self.socket
                }
            }

            impl DerefMut for $name {
                fn deref_mut(&mut self) -> &mut Socket {
                    &mut self.socket
                }
            }
        )+
    };
}

is_a_socket!(ClientSocket, ServerSocket);

fn ipc_endpoint(path: &Path) -> Result<CString, TransportError> {
    let bytes = path.as_os_str().as_bytes();
    let text = || path.display().to_string();
    if bytes.len() > MAX_IPC_PATH_BYTES {
        return Err(TransportError::IpcPathTooLong { path: text(), bytes: bytes.len() });
    }
    if !path.is_absolute() {
        return Err(TransportError::BadIpcPath { path: text() });
    }
    CString::new([b"ipc://", bytes].concat()).map_err(|_| TransportError::BadIpcPath { path: text() })
}

fn tcp_endpoint(address: SocketAddr) -> CString {
    CString::new(format!("tcp://{address}")).expect("a socket address has no zero byte")
}
