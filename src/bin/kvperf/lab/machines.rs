//! Two machines with a wire between them: network namespaces with an address each, made with `unshare` and `ip`.
//!
//! - Nothing leads out of them: there is no route to anywhere else, and neither reaches the other's loopback interface.
//! - They are made in a user namespace where the kernel offers one, else by root; who may do neither is told why.
//! - Each is kept by a process that ends when its stdin does, so that none stays behind.
//! - Only network and host name are their own: files are this machine's.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Two machines.
#[derive(Debug)]
pub(super) struct Machines {
    server: Keeper,
    client: Keeper,
}

/// Where the broker and the catalog are.
pub(super) const SERVER: &str = "10.77.0.1";
const CLIENT: &str = "10.77.0.2";

#[derive(Debug)]
struct Keeper {
    child: Child,
    has_users: bool,
}

impl Machines {
    /// # Errors
    /// The system refuses, or has no `unshare`, `nsenter` or `ip`; a sentence for the report.
    pub(super) fn new() -> Result<Machines, String> {
        // Of the two reasons the first is what most users can do something about.
        let server = Keeper::new(&[], true).or_else(|why| Keeper::new(&[], false).map_err(|_| why))?;
        let mut client = Keeper::new(&server.enter(), false)?;
        client.has_users = server.has_users;
        let id = client.child.id().to_string();
        server.run(&["ip", "link", "add", "name", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &id])?;
        for (machine, address) in [(&server, SERVER), (&client, CLIENT)] {
            machine.run(&["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            machine.run(&["ip", "link", "set", "eth0", "up"])?;
        }
        Ok(Machines { server, client })
    }

    /// Words in front of a command line that is to run where the broker is.
    pub(super) fn server(&self) -> Vec<OsString> {
        self.server.enter()
    }

    /// Words in front of one that is to run where the clients are.
    pub(super) fn client(&self) -> Vec<OsString> {
        self.client.enter()
    }
}

impl Keeper {
    /// Network and host name of its own, made from inside of those that `enter` enters.
    fn new(enter: &[OsString], with_users: bool) -> Result<Keeper, String> {
        let users: &[&str] = if with_users { &["--user", "--map-root-user"] } else { &[] };
        let script = "ip link set lo up && echo ready && exec cat";
        let shell = ["sh", "-c", script];
        let words = ["unshare", "--net", "--uts"].iter().chain(users).chain(&shell).map(OsString::from);
        let mut words = enter.iter().cloned().chain(words);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let mut keeper = Keeper { child, has_users: with_users };
        let mut line = String::new();
        if let Some(stdout) = keeper.child.stdout.take() {
            // Where nothing can be read, it is not ready.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        if line == "ready\n" {
            return Ok(keeper);
        }
        let mut said = String::new();
        if let Some(mut stderr) = keeper.child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        Err(said.trim().to_owned())
    }

    fn enter(&self) -> Vec<OsString> {
        let target = format!("--target={}", self.child.id());
        let users: &[&str] = if self.has_users { &["--user", "--preserve-credentials"] } else { &[] };
        ["nsenter", &target].iter().chain(users).chain(&["--net", "--uts", "--"]).map(OsString::from).collect()
    }

    fn run(&self, words: &[&str]) -> Result<(), String> {
        let mut all = self.enter().into_iter().chain(words.iter().map(OsString::from));
        let mut command = Command::new(all.next().unwrap_or_default());
        let output = command.args(all).stdin(Stdio::null()).output().map_err(|error| format!("nsenter: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Its namespaces go with the last process in them. It can have ended just now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
