//! The endpoint file: how a program on the same machine finds a running broker.
//!
//! A broker writes `endpoint.json` into its runtime directory when it is ready
//! and removes it when it stops. Programs in any language may read it;
//! `docs/protocol.md` lists the fields.
//!
//! - It appears whole: written beside its place and renamed.
//! - What is read is checked: size, types, ranges, and that the file belongs to
//!   the project asked for. Unknown fields are ignored, so that newer brokers can add some.
//! - The sockets it names lie in its own directory, whose owner and mode
//!   [`crate::paths`] has checked; a file that points elsewhere is refused.
//!
//! Caveat: a broker that was killed leaves the file behind. [`probe`] tells a live
//! socket from a dead one at once, where ZeroMQ would wait.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::catalog::{ENDPOINTS_MAX, is_endpoint};
use crate::keys::PublicKey;
use crate::paths::{PathError, RuntimeDir};
use crate::project::ProjectName;

/// A real file has about 600 bytes.
const MAX_FILE_BYTES: u64 = 64 * 1_024;

/// Longest owner name accepted, in bytes.
const MAX_OWNER_BYTES: usize = 64;

/// Most addresses that a broker may advertise.
const MAX_HOSTS: usize = 64;

/// A broker that runs on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its project.
    pub project: ProjectName,
    /// Whose broker it is.
    pub owner: String,
    /// Names the log: an active broker and its standbys share it.
    pub uuid: Uuid,
    /// Names the process: new at each start.
    pub instance: Uuid,
    /// Compared for equality only; another one means another history.
    pub epoch: u64,
    /// Its process.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub starttime_s: u64,
    /// The ROUTER's unix socket.
    pub router_socket: PathBuf,
    /// The publisher's unix socket.
    pub pub_socket: PathBuf,
    /// Where it listens on the network, if it does.
    pub tcp: Option<TcpEndpoint>,
    /// The project's key, which it proves on tcp. None: it was told to serve tcp without encryption, and proves nothing there.
    pub public_key: Option<PublicKey>,
}

/// Where a broker listens on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpEndpoint {
    /// Addresses by which it can be reached, the best one first.
    pub hosts: Vec<IpAddr>,
    /// The ROUTER's port.
    pub port: u16,
    /// The publisher's port.
    pub pub_port: u16,
    /// Endpoints (`tcp://HOST:PORT`) of the ROUTER that the owner has named for other machines.
    pub advertised: Vec<String>,
}

/// What is wrong with an endpoint file.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The file could not be opened.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Reading, writing or removing failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is not what a broker writes.
    #[error(
        "{} is not an endpoint file of this project ({reason}); if a broker runs, stop it; then remove the file",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Whether somebody listens on a unix socket.
#[derive(Debug)]
pub enum Liveness {
    /// It does, or is only too busy to accept at this moment.
    Alive,
    /// Nobody does: the path is gone or its process is.
    Dead(io::Error),
}

/// The file's JSON. Names are stable: other languages read them.
#[derive(Serialize, Deserialize)]
struct File {
    project: ProjectName,
    owner: String,
    uuid: Uuid,
    instance: Uuid,
    /// 16 hex digits: JSON numbers are not exact beyond 2^53.
    epoch: String,
    pid: u32,
    starttime: u64,
    router: PathBuf,
    #[serde(rename = "pub")]
    publisher: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<FileTcp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct FileTcp {
    hosts: Vec<IpAddr>,
    port: u16,
    pub_port: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    advertised: Vec<String>,
}

impl Endpoint {
    /// Writes it into the runtime directory, replacing what was there. The caller
    /// holds the directory's lock.
    ///
    /// # Errors
    /// I/O, or content that [`Endpoint::read`] would refuse.
    pub fn write(&self, runtime: &RuntimeDir) -> Result<(), EndpointError> {
        let path = runtime.endpoint_file();
        let failed = |action| {
            let path = path.clone();
            move |source: io::Error| EndpointError::Io { action, path, source }
        };
        let file = File {
            project: self.project.clone(),
            owner: self.owner.clone(),
            uuid: self.uuid,
            instance: self.instance,
            epoch: format!("{:016x}", self.epoch),
            pid: self.pid,
            starttime: self.starttime_s,
            router: self.router_socket.clone(),
            publisher: self.pub_socket.clone(),
            tcp: self.tcp.as_ref().map(|tcp| FileTcp {
                hosts: tcp.hosts.clone(),
                port: tcp.port,
                pub_port: tcp.pub_port,
                advertised: tcp.advertised.clone(),
            }),
            public_key: self.public_key.map(|key| key.to_string()),
        };
        let mut text = serde_json::to_vec_pretty(&file).map_err(|error| failed("write")(error.into()))?;
        text.push(b'\n');
        // What we write, everyone must be able to read.
        parse(&text, runtime).map_err(|reason| EndpointError::Invalid { path: path.clone(), reason })?;
        let mut temporary =
            tempfile::Builder::new().prefix(".endpoint-").tempfile_in(runtime.path()).map_err(failed("create a file beside"))?;
        temporary.write_all(&text).map_err(failed("write"))?;
        temporary.persist(&path).map_err(|error| failed("put into place")(error.error))?;
        Ok(())
    }

    /// Reads the endpoint file of a runtime directory; `None` if there is none.
    ///
    /// # Errors
    /// It can't be read, or is not what a broker writes.
    pub fn read(runtime: &RuntimeDir) -> Result<Option<Self>, EndpointError> {
        let path = runtime.endpoint_file();
        let Some(file) = runtime.open_endpoint_file()? else {
            return Ok(None);
        };
        let failed = |source| EndpointError::Io { action: "read", path: path.clone(), source };
        let invalid = |reason| EndpointError::Invalid { path: path.clone(), reason };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(invalid("it is not a regular file".into()));
        }
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(invalid(format!("it has more than {MAX_FILE_BYTES} bytes")));
        }
        parse(&text, runtime).map(Some).map_err(|reason| invalid(printable(&reason)))
    }

    /// Removes the endpoint file. The caller holds the directory's lock.
    ///
    /// # Errors
    /// I/O; that there is none is fine.
    pub fn remove(runtime: &RuntimeDir) -> Result<(), EndpointError> {
        let path = runtime.endpoint_file();
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(EndpointError::Io { action: "remove", path, source }),
            _ => Ok(()),
        }
    }
}

/// Words that may repeat a piece of a file, safe for a terminal.
fn printable(reason: &str) -> String {
    reason.chars().flat_map(|char| if char.is_control() { char.escape_default().collect() } else { vec![char] }).collect()
}

fn parse(text: &[u8], runtime: &RuntimeDir) -> Result<Endpoint, String> {
    let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if file.project != *runtime.project() {
        return Err(format!("it belongs to {}", file.project));
    }
    let is_name = (1..=MAX_OWNER_BYTES).contains(&file.owner.len()) && !file.owner.chars().any(char::is_control);
    if !is_name {
        return Err(format!("an owner's name has 1 to {MAX_OWNER_BYTES} bytes"));
    }
    let is_epoch = file.epoch.len() == 16 && file.epoch.bytes().all(|digit| digit.is_ascii_hexdigit());
    let epoch = u64::from_str_radix(&file.epoch, 16).ok().filter(|_| is_epoch);
    let epoch = epoch.ok_or("the epoch is not 16 hex digits")?;
    if file.pid == 0 || i32::try_from(file.pid).is_err() {
        return Err("the pid is out of range".into());
    }
    if file.uuid.is_nil() || file.instance.is_nil() {
        return Err("a uuid is nil".into());
    }
    for (name, socket) in [("router", &file.router), ("pub", &file.publisher)] {
        check_socket(name, socket, runtime.path())?;
    }
    let tcp = file.tcp.map(check_tcp).transpose()?;
    let public_key = file.public_key.map(|key| key.parse().map_err(|error| format!("public_key: {error}"))).transpose()?;
    Ok(Endpoint {
        project: file.project,
        owner: file.owner,
        uuid: file.uuid,
        instance: file.instance,
        epoch,
        pid: file.pid,
        starttime_s: file.starttime,
        router_socket: file.router,
        pub_socket: file.publisher,
        tcp,
        public_key,
    })
}

fn check_socket(name: &str, socket: &Path, directory: &Path) -> Result<(), String> {
    if socket.parent() != Some(directory) || socket.file_name().is_none() {
        return Err(format!("{name} is not in the file's own directory"));
    }
    if socket.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(format!("{name} has a zero byte"));
    }
    crate::paths::check_socket_path(socket).map_err(|error| error.to_string())
}

fn check_tcp(tcp: FileTcp) -> Result<TcpEndpoint, String> {
    let FileTcp { hosts, port, pub_port, advertised } = tcp;
    if port == 0 || pub_port == 0 {
        return Err("a port is 0".into());
    }
    if !(1..=MAX_HOSTS).contains(&hosts.len()) {
        return Err(format!("tcp has {} hosts; 1 to {MAX_HOSTS} are possible", hosts.len()));
    }
    if advertised.len() > ENDPOINTS_MAX || !advertised.iter().all(|endpoint| is_endpoint(endpoint)) {
        return Err(format!("tcp advertises something else than at most {ENDPOINTS_MAX} endpoints tcp://HOST:PORT"));
    }
    Ok(TcpEndpoint { hosts, port, pub_port, advertised })
}

/// Finds out whether somebody listens on a unix socket, without waiting and
/// without saying anything to them.
///
/// # Errors
/// The question could not be asked: no file descriptor, no permission, an impossible path.
pub fn probe(socket: &Path) -> io::Result<Liveness> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        return match connect(&probe, &address) {
            Ok(()) => Ok(Liveness::Alive),
            Err(Errno::INTR) => continue,
            // Its backlog is full: somebody has to be there to have one.
            Err(Errno::AGAIN | Errno::INPROGRESS) => Ok(Liveness::Alive),
            Err(errno @ (Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR)) => Ok(Liveness::Dead(errno.into())),
            Err(errno) => Err(errno.into()),
        };
    }
}

#[cfg(test)]
mod tests;
