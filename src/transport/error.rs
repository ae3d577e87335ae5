//! Transport errors: errno values of libzmq, carried without loss.
//!
//! The `zmq` crate's own error type panics on error numbers that it doesn't
//! know (`ENOTDIR` from a bind, for example), so calls that can meet such
//! numbers go to libzmq directly and report through [`Errno`].

use std::fmt;
use std::io;

use zmq_sys::errno as native;

/// An error number as libzmq reports it: one of the operating system's or one
/// of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Wraps a raw number.
    #[must_use]
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The raw number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The number left behind by the libzmq call that just failed on this thread.
    pub(crate) fn last() -> Self {
        // SAFETY: zmq_errno takes no argument and reads a thread-local.
        Self(unsafe { zmq_sys::zmq_errno() })
    }
}

impl From<zmq::Error> for Errno {
    fn from(error: zmq::Error) -> Self {
        Self(error.to_raw())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            native::EFSM => f.write_str("the socket is not in a state that allows this"),
            native::ENOCOMPATPROTO => f.write_str("this socket type can't use that transport"),
            native::ETERM => f.write_str("the ZeroMQ context was terminated"),
            native::EMTHREAD => f.write_str("no I/O thread is available"),
            number => io::Error::from_raw_os_error(number).fmt(f),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

/// What can go wrong between us and libzmq.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A libzmq call failed.
    #[error("cannot {action}: {source}")]
    Zmq {
        /// What was tried, as a verb phrase with its object.
        action: String,
        /// libzmq's reason.
        source: Errno,
    },
    /// libzmq has no CURVE: nothing can be encrypted or authenticated.
    #[error(
        "libzmq {version} was built without CURVE, so no network connection can be protected; \
         build with the zmq-sys that comes with this program",
        version = super::libzmq_version()
    )]
    NoCurve,
    /// A unix socket path that no sockaddr_un can hold.
    #[error(
        "the socket path {path} has {bytes} bytes, {limit} are the most; set KVBROKER_HOME or \
         XDG_RUNTIME_DIR to a shorter directory, or choose a shorter project name",
        limit = super::MAX_IPC_PATH_BYTES
    )]
    IpcPathTooLong {
        /// The path.
        path: String,
        /// Its length.
        bytes: usize,
    },
    /// An ipc path that is not absolute, or has a zero byte.
    #[error("the socket path {path:?} is not a usable absolute path")]
    BadIpcPath {
        /// The path.
        path: String,
    },
    /// A socket made for ipc was to be used on the network.
    #[error("this socket has no keys, so it must not use the network (internal error)")]
    Unprotected,
    /// A multipart message broke off, which libzmq promises not to happen.
    #[error("libzmq delivered only the first {frames} frames of a message (internal error)")]
    BrokenMessage {
        /// Frames received.
        frames: u64,
    },
}

impl TransportError {
    pub(crate) fn zmq(action: impl Into<String>, source: impl Into<Errno>) -> Self {
        Self::Zmq { action: action.into(), source: source.into() }
    }

    /// libzmq's error number, if this came from libzmq.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Zmq { source, .. } => Some(*source),
            _ => None,
        }
    }

    /// Whether another socket holds the address: try another port.
    #[must_use]
    pub fn is_address_in_use(&self) -> bool {
        self.errno() == Some(Errno(native::EADDRINUSE))
    }

    /// Whether this machine has no such address, or no addresses of that family.
    #[must_use]
    pub fn is_address_not_ours(&self) -> bool {
        let numbers = [native::EADDRNOTAVAIL, native::ENODEV, rustix::io::Errno::AFNOSUPPORT.raw_os_error()];
        self.errno().is_some_and(|errno| numbers.contains(&errno.0))
    }

    /// Whether the context was terminated: stop working on it.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.errno() == Some(Errno(native::ETERM))
    }
}
