//! Valkey, spoken to in RESP2 (valkey.io/topics/protocol).

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kvbroker_tests::{PATIENCE, end_with_us, free_port, wait_until};
use tempfile::TempDir;

use super::Server;
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

/// How clients reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Over its unix socket.
    Unix,
    /// Over TCP on this machine.
    Tcp,
}

/// A running server; it is killed when this is dropped.
pub struct Valkey {
    child: Child,
    version: String,
    durability: Durability,
    link: Link,
    socket: PathBuf,
    port: u16,
    place: TempDir,
}

impl Valkey {
    /// Starts one in a place of its own.
    pub fn start(program: &Path, durability: Durability, link: Link) -> Result<Valkey, Failed> {
        let told = Command::new(program).arg("--version").output()?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let version = told.split_whitespace().find_map(|word| word.strip_prefix("v="));
        let version = version.ok_or("this is no valkey-server: it does not say its version")?.to_owned();
        let place = tempfile::Builder::new().prefix("kvc-").tempdir()?;
        let socket = place.path().join("valkey.sock");
        let port = if link == Link::Tcp { free_port() } else { 0 };
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]).args(durability.flags());
        command.arg("--unixsocket").arg(&socket).arg("--dir").arg(place.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        end_with_us(&mut command);
        let child = command.spawn()?;
        let valkey = Valkey { child, version, durability, link, socket, port, place };
        wait_until(PATIENCE, "valkey-server listens", || UnixStream::connect(&valkey.socket).ok());
        Ok(valkey)
    }

    /// Where it keeps its files.
    pub fn place(&self) -> &Path {
        self.place.path()
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

impl Drop for Valkey {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server for Valkey {
    fn name(&self) -> String {
        format!("Valkey {}", self.version)
    }

    fn settings(&self) -> String {
        let link = match self.link {
            Link::Unix => "unix socket",
            Link::Tcp => "TCP",
        };
        format!("`--save \"\" {}`; {link}", self.durability.flags().join(" "))
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn lane(&self, _outstanding: usize) -> Result<Box<dyn Lane>, Failed> {
        Ok(match self.link {
            Link::Unix => {
                let stream = UnixStream::connect(&self.socket)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(Resp::new(stream))
            }
            Link::Tcp => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                Box::new(Resp::new(stream))
            }
        })
    }
}
