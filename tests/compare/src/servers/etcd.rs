//! etcd, one member. Every put is in its synced log before it is acknowledged; there is no weaker setting worth a row.

use std::path::{Path, PathBuf};
use std::process::Command;

use kvbroker_tests::free_port;

use super::streams::{self, Link, Stream};
use super::tls::Identity;
use super::{Peer, Server, TableServer, version};
use crate::Failed;
use crate::load::{Grpc, Lane, Scheme};

/// What etcd makes a socket's file of: host and port of the URL, in its working directory.
const SOCKET: &str = "localhost:1";

/// A running server; it is killed when this is dropped.
pub struct Etcd {
    peer: Peer,
    version: String,
    link: Link,
    socket: PathBuf,
    port: u16,
    identity: Option<Identity>,
}

impl Etcd {
    /// Starts one in a place of its own.
    pub fn start(program: &Path, link: Link) -> Result<Etcd, Failed> {
        let told = version(program, "--version")?;
        let version = told.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        let version = version.ok_or("this is no etcd: it does not say its version")?.to_owned();
        let place = Peer::place()?;
        let identity = (link == Link::Tls).then(|| Identity::new(place.path(), Some("h2"))).transpose()?;
        let (port, peer_port) = (free_port(), free_port());
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let client = if link == Link::Tls { client.replacen("http", "https", 1) } else { client };
        let mut command = Command::new(program);
        command.args(["--data-dir", "data", "--name", "one", "--listen-client-urls"]);
        command.arg(if link == Link::Unix { format!("unix://{SOCKET},{client}") } else { client.clone() });
        command.args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}")]);
        if let Some(Identity { certificate, key, .. }) = &identity {
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
        }
        let socket = place.path().join(SOCKET);
        let mut peer = Peer::start(&mut command, place)?;
        // It listens before it serves; what is asked then waits.
        peer.wait_for("etcd was waited for", |_| match link {
            Link::Unix => streams::unix(&socket).ok().map(drop),
            Link::Tcp | Link::Tls => streams::tcp(port).ok().map(drop),
        })?;
        Ok(Etcd { peer, version, link, socket, port, identity })
    }

    fn stream(&self) -> Result<Box<dyn Stream>, Failed> {
        match (self.link, &self.identity) {
            (Link::Unix, _) => streams::unix(&self.socket),
            (_, None) => Ok(Box::new(streams::tcp(self.port)?)),
            (_, Some(identity)) => identity.encrypt(streams::tcp(self.port)?),
        }
    }
}

impl Server for Etcd {
    fn name(&self) -> String {
        format!("etcd {}", self.version)
    }

    fn settings(&self) -> String {
        format!("one member, defaults (every put synced, linearizable reads); gRPC over {}", self.link.name())
    }

    fn pid(&self) -> u32 {
        self.peer.child.id()
    }
}

impl TableServer for Etcd {
    fn lane(&self, _outstanding: usize) -> Result<Box<dyn Lane>, Failed> {
        let scheme = if self.link == Link::Tls { Scheme::Https } else { Scheme::Http };
        Ok(Box::new(Grpc::new(self.stream()?, "localhost", scheme)?))
    }
}
