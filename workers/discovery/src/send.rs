//! How an update reaches a catalog and how a broker finds itself in one: the
//! blocking half of the announcer, for threads that may wait.
//!
//! - A UDP update is one datagram of at most [`UDP_BYTES_MAX`] bytes, so that it is
//!   never cut into fragments, which firewalls love to drop. A longer record goes by TCP.
//! - A TCP update goes to the catalog's port + 1: the record, then the end of the
//!   stream. CCTools' server reads to that end, for up to 5 s with everybody else
//!   waiting, so it is sent at once.
//! - Every wait has a bound; only the resolver has its own idea of one.
//! - [`Reach::LoopbackOnly`] is checked on the addresses that are then used.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use kvbroker::catalog::{CatalogAddr, CatalogRecord, query};

use crate::schedule::{Came, Step, Via};

/// Longest record that is sent as a datagram: fits an IPv6 packet of the smallest
/// allowed size (1,280 bytes) with its headers.
pub const UDP_BYTES_MAX: usize = 1_200;
/// How long connecting and writing a TCP update may take.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the catalog has to close the connection after an update; only a courtesy,
/// the check is what counts.
const TCP_CLOSE_WAIT: Duration = Duration::from_secs(1);
/// How long looking the record up may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(4);

/// Which catalogs may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The broker's TCP endpoints are on the loopback interface: only catalogs there
    /// have readers who could use the record.
    LoopbackOnly,
    /// The broker can be reached from elsewhere.
    Network,
}

/// Does one step of a [`crate::schedule::Schedule`]; may block for seconds.
pub fn perform(step: Step, catalog: &CatalogAddr, reach: Reach, record: &CatalogRecord) -> Came {
    match step {
        Step::Look => look(catalog, record),
        Step::Send(via) => match targets(catalog, reach) {
            Ok(targets) => send(via, catalog, &targets, record.to_json().as_bytes()),
            Err(came) => came,
        },
    }
}

/// Where updates go: the catalog's addresses, IPv4 first.
fn targets(catalog: &CatalogAddr, reach: Reach) -> Result<Vec<SocketAddr>, Came> {
    let all = catalog.resolve().map_err(|error| Came::NotSent(format!("its name can't be resolved: {error}")))?;
    let all_loopback = all.iter().all(|addr| addr.ip().to_canonical().is_loopback());
    if reach == Reach::LoopbackOnly && !all_loopback {
        return Err(Came::Forbidden(
            "this broker listens on the loopback interface only, and that catalog is elsewhere".to_owned(),
        ));
    }
    Ok(all)
}

fn send(via: Via, catalog: &CatalogAddr, targets: &[SocketAddr], json: &[u8]) -> Came {
    let result = match via {
        Via::Udp if json.len() > UDP_BYTES_MAX => return Came::TooBigForUdp,
        Via::Udp => send_udp(targets, json),
        Via::Tcp => send_tcp(targets, catalog.tcp_update_port(), json),
    };
    match result {
        Ok(()) => Came::Sent,
        Err(error) => {
            let (name, port) = match via {
                Via::Udp => ("UDP", catalog.port()),
                Via::Tcp => ("TCP", catalog.tcp_update_port()),
            };
            Came::NotSent(format!("{name} port {port}: {error}"))
        }
    }
}

fn send_udp(targets: &[SocketAddr], json: &[u8]) -> io::Result<()> {
    // One address only: a catalog with two would list the record twice.
    let target = targets.first().ok_or(io::ErrorKind::NotFound)?;
    let local: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    // A connected socket learns when the host answers that nobody listens there; on
    // one machine that answer is there as soon as `send` returns.
    socket.connect(target)?;
    socket.send(json)?;
    socket.take_error()?.map_or(Ok(()), Err)
}

fn send_tcp(targets: &[SocketAddr], port: u16, json: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + TCP_TIMEOUT;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for target in targets {
        let target = SocketAddr::new(target.ip(), port);
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&target, left) {
            Ok(stream) => return write_update(stream, json, deadline),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn write_update(mut stream: TcpStream, json: &[u8], deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
    stream.write_all(json)?;
    stream.shutdown(Shutdown::Write)?;
    // A catalog closes when it has taken the record. Whatever happens instead is
    // left to the check; this only makes its first look worth while.
    stream.set_read_timeout(Some(TCP_CLOSE_WAIT))?;
    let _ = stream.read(&mut [0; 64]);
    Ok(())
}

fn look(catalog: &CatalogAddr, record: &CatalogRecord) -> Came {
    let listing = match query(catalog, LOOK_TIMEOUT) {
        Ok(listing) => listing,
        Err(error) => return Came::NoAnswer(error.to_string()),
    };
    let ours = listing.seen.iter().filter(|seen| seen.record == *record);
    match (ours.map(|seen| seen.lastheardfrom).max(), listing.cut_short) {
        (Some(heard), _) => Came::Listed(heard),
        (None, None) => Came::NotListed,
        (None, Some(why)) => Came::NoAnswer(format!("its listing is not whole: {why}")),
    }
}
