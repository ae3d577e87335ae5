//! Connections to the peers: unix sockets, TCP on this machine, and TLS over it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use kvbroker_tests::PATIENCE;

use crate::Failed;

/// How clients reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Over its unix socket.
    Unix,
    /// Over TCP on this machine.
    Tcp,
    /// The same, encrypted.
    Tls,
}

impl Link {
    /// For the reader.
    pub fn name(self) -> &'static str {
        match self {
            Link::Unix => "unix socket",
            Link::Tcp => "TCP",
            Link::Tls => "TCP with TLS",
        }
    }
}

/// A connection of whatever kind.
pub trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// To a unix socket.
pub fn unix(path: &Path) -> Result<Box<dyn Stream>, Failed> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Box::new(stream))
}

/// To a port of this machine.
pub fn tcp(port: u16) -> Result<TcpStream, Failed> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
