//! NATS with JetStream: a key-value bucket in files, with one replica.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::streams::{self, Link, Stream};
use super::tls::Identity;
use super::{Peer, Server, TableServer, version};
use crate::Failed;
use crate::load::{Lane, Nats};

/// A server's first line is not longer than this.
const INFO_BYTES_MAX: u64 = 64 << 10;

/// When writes are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncInterval {
    /// Every two minutes: the default.
    Default,
    /// Before they are acknowledged.
    Always,
}

/// A running server; it is killed when this is dropped.
pub struct NatsServer {
    peer: Peer,
    version: String,
    sync: SyncInterval,
    port: u16,
    identity: Option<Identity>,
}

impl NatsServer {
    /// Starts one in a place of its own, with its bucket. It has no unix socket.
    pub fn start(program: &Path, sync: SyncInterval, link: Link) -> Result<NatsServer, Failed> {
        let nats = NatsServer::launch(program, sync, link)?;
        Nats::new(nats.stream()?)?.make_bucket()?;
        Ok(nats)
    }

    /// Starts one in a place of its own, with nothing in it.
    pub(super) fn launch(program: &Path, sync: SyncInterval, link: Link) -> Result<NatsServer, Failed> {
        let told = version(program, "--version")?;
        let version = told.trim().strip_prefix("nats-server: v");
        let version = version.ok_or("this is no nats-server: it does not say its version")?.to_owned();
        let place = Peer::place()?;
        let identity = (link == Link::Tls).then(|| Identity::new(place.path(), None)).transpose()?;
        let config = place.path().join("nats.conf");
        std::fs::write(&config, configuration(place.path(), sync, identity.as_ref()))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&config);
        let mut peer = Peer::start(&mut command, place)?;
        let port = peer.wait_for("NATS was waited for", |peer| {
            let ports = peer.place.path().join(format!("nats-server_{}.ports", peer.child.id()));
            let told: Value = serde_json::from_slice(&std::fs::read(ports).ok()?).ok()?;
            told["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
        })?;
        Ok(NatsServer { peer, version, sync, port, identity })
    }

    /// A connection on which the server has greeted.
    pub(super) fn greeted(&self) -> Result<TcpStream, Failed> {
        let stream = streams::tcp(self.port)?;
        info(&stream)?;
        Ok(stream)
    }

    /// When what it writes is on disk, for the reader.
    pub(super) fn sync_name(&self) -> &'static str {
        match self.sync {
            SyncInterval::Default => "`sync_interval` 2 min, the default",
            SyncInterval::Always => "`sync_interval: always`",
        }
    }

    fn stream(&self) -> Result<Box<dyn Stream>, Failed> {
        let stream = self.greeted()?;
        match &self.identity {
            Some(identity) => identity.encrypt(stream),
            None => Ok(Box::new(stream)),
        }
    }
}

/// Takes the line with which a server greets, before any encryption. Nothing follows it until the client has spoken.
fn info(stream: &TcpStream) -> Result<(), Failed> {
    let mut line = String::new();
    BufReader::new(stream.take(INFO_BYTES_MAX)).read_line(&mut line)?;
    if line.starts_with("INFO ") { Ok(()) } else { Err(format!("NATS greets with {line:?}").into()) }
}

fn configuration(place: &Path, sync: SyncInterval, identity: Option<&Identity>) -> String {
    let interval = match sync {
        SyncInterval::Default => "",
        SyncInterval::Always => ", sync_interval: always",
    };
    let tls = identity.map_or(String::new(), |Identity { certificate, key, .. }| {
        format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}\n")
    });
    format!(
        "host: 127.0.0.1\nport: -1\nports_file_dir: {place:?}\njetstream {{ store_dir: {:?}{interval} }}\n{tls}",
        place.join("jetstream")
    )
}

impl Server for NatsServer {
    fn name(&self) -> String {
        format!("NATS {} JetStream", self.version)
    }

    fn settings(&self) -> String {
        let sync = self.sync_name();
        let link = if self.identity.is_some() { Link::Tls } else { Link::Tcp };
        format!("a key-value bucket in files, {sync}; {} (it has no unix socket)", link.name())
    }

    fn pid(&self) -> u32 {
        self.peer.child.id()
    }
}

impl TableServer for NatsServer {
    fn lane(&self, _outstanding: usize) -> Result<Box<dyn Lane>, Failed> {
        Ok(Box::new(Nats::new(self.stream()?)?))
    }
}
