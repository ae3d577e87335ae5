//! Valkey, spoken to in RESP2 (valkey.io/topics/protocol).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kvbroker_tests::free_port;

use super::streams::{self, Link, Stream};
use super::{LOOK, Peer, Server, TableServer, version};
use crate::Failed;
use crate::load::{Lane, Resp};

/// When writes are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Never: no file at all.
    Memory,
    /// Once a second.
    EverySec,
    /// Before they are acknowledged.
    Always,
}

/// A running server; it is killed when this is dropped.
pub struct Valkey {
    peer: Peer,
    command: Command,
    version: String,
    durability: Durability,
    link: Link,
    socket: PathBuf,
    port: u16,
}

impl Valkey {
    /// Starts one in a place of its own.
    pub fn start(program: &Path, durability: Durability, link: Link) -> Result<Valkey, Failed> {
        let told = version(program, "--version")?;
        let version = told.split_whitespace().find_map(|word| word.strip_prefix("v="));
        let version = version.ok_or("this is no valkey-server: it does not say its version")?.to_owned();
        let place = Peer::place()?;
        let socket = place.path().join("valkey.sock");
        let port = if link == Link::Unix { 0 } else { free_port() };
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--save", ""]).args(durability.flags());
        command.args(["--port", &port.to_string()]);
        command.arg("--unixsocket").arg(&socket).arg("--dir").arg(place.path());
        let mut peer = Peer::start(&mut command, place)?;
        peer.wait_for("valkey-server was waited for", |_| connect(link, &socket, port).ok())?;
        Ok(Valkey { peer, command, version, durability, link, socket, port })
    }

    /// Has it write its RDB file.
    pub fn save(&self) -> Result<(), Failed> {
        let answer = self.ask(b"*1\r\n$4\r\nSAVE\r\n")?;
        if answer == b'+' { Ok(()) } else { Err("Valkey does not save".into()) }
    }

    /// Kills it and starts it with the file that it wrote; gives how long that took, until it answers a PING.
    pub fn start_again(&mut self, patience: Duration) -> Result<Duration, Failed> {
        self.peer.child.kill()?;
        self.peer.child.wait()?;
        let began = Instant::now();
        self.peer.child = self.command.spawn()?;
        while began.elapsed() < patience {
            // It refuses while it loads.
            if self.ask(b"*1\r\n$4\r\nPING\r\n").is_ok_and(|first| first == b'+') {
                return Ok(began.elapsed());
            }
            std::thread::sleep(LOOK);
        }
        Err("valkey-server does not start again".into())
    }

    /// The first byte of an answer.
    fn ask(&self, request: &[u8]) -> Result<u8, Failed> {
        let mut stream = connect(self.link, &self.socket, self.port)?;
        stream.write_all(request)?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0])
    }
}

/// The package of its server that has it as a program is built without TLS.
fn connect(link: Link, socket: &Path, port: u16) -> Result<Box<dyn Stream>, Failed> {
    match link {
        Link::Unix => streams::unix(socket),
        Link::Tcp => Ok(Box::new(streams::tcp(port)?)),
        Link::Tls => Err("no TLS in this build of Valkey".into()),
    }
}

impl Durability {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Durability::Memory => &["--appendonly", "no"],
            Durability::EverySec => &["--appendonly", "yes", "--appendfsync", "everysec"],
            Durability::Always => &["--appendonly", "yes", "--appendfsync", "always"],
        }
    }
}

impl Server for Valkey {
    fn name(&self) -> String {
        format!("Valkey {}", self.version)
    }

    fn settings(&self) -> String {
        format!("`--save \"\" {}`; {}", self.durability.flags().join(" "), self.link.name())
    }

    fn pid(&self) -> u32 {
        self.peer.child.id()
    }
}

impl TableServer for Valkey {
    fn lane(&self, _outstanding: usize) -> Result<Box<dyn Lane>, Failed> {
        Ok(Box::new(Resp::new(connect(self.link, &self.socket, self.port)?)))
    }
}
