//! Machines of a test's own: network namespaces with names, addresses and a wire between them.
//!
//! - They are made with `unshare` and `ip` in a user namespace of their own, so an ordinary user can have them, too. Where the kernel
//!   offers no user namespaces, root makes them without.
//! - Nothing leads out of them: there is no route to anywhere else, and each has a loopback interface that the others can't reach.
//! - Each is kept by a process that ends when its stdin does: with the [`Wire`], and also when the test is killed.
//! - Only the network and the host's name are their own. Files and users are this machine's, so a test looks at files as always; a test
//!   that wants two homes gives each machine its own `KVBROKER_HOME`.
//!
//! Caveat: a process can't enter a user namespace once it has threads, so the test itself stays outside: what it wants to say on a
//! machine's network is said by a program that [`Machine::command`] starts there.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};

use crate::broker::end_with_us;
use crate::left_out;

/// What all machines hang on.
#[derive(Debug)]
pub struct Wire {
    // Before the keeper of the namespace that they were made in.
    machines: Vec<Machine>,
    _switch: Keeper,
}

/// A host on the wire.
#[derive(Debug)]
pub struct Machine {
    name: String,
    number: u8,
    keeper: Keeper,
}

/// A process that keeps namespaces alive and does nothing else; killed when dropped.
#[derive(Debug)]
struct Keeper {
    child: Child,
    is_in_user_namespace: bool,
}

/// Most machines on a wire: their numbers are the last byte of their addresses.
const MACHINES_MAX: u8 = 200;

impl Wire {
    /// Machines with these names, in this order. `None` (said) where namespaces can't be made and are not required.
    ///
    /// # Panics
    /// Where they can't be made and peers are required.
    pub fn between(names: &[&str]) -> Option<Wire> {
        Wire::new(names)
            .map_err(|why| {
                left_out(&format!(
                    "network namespaces can't be made here ({why}); run it where `unshare --user --net` works, or as root"
                ))
            })
            .ok()
    }

    fn new(names: &[&str]) -> Result<Wire, String> {
        let switch = Keeper::new(&[], true, "switch").or_else(|why| match Keeper::new(&[], false, "switch") {
            Ok(keeper) => Ok(keeper),
            // Of the two the first is what most users can do something about.
            Err(_) => Err(why),
        })?;
        switch.run("ip", &["link", "add", "name", "br0", "type", "bridge"])?;
        switch.run("ip", &["link", "set", "br0", "up"])?;
        let machines = names.iter().zip(1..MACHINES_MAX).map(|(name, number)| Machine::new(&switch, name, number));
        Ok(Wire { machines: machines.collect::<Result<_, _>>()?, _switch: switch })
    }

    /// The machines, in the order of their names.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn machines<const N: usize>(&self) -> [&Machine; N] {
        let machines: Vec<&Machine> = self.machines.iter().collect();
        machines.try_into().expect("a test knows how many machines it made")
    }
}

impl Machine {
    fn new(switch: &Keeper, name: &str, number: u8) -> Result<Machine, String> {
        let mut keeper = Keeper::new(&switch.enter(), false, name)?;
        keeper.is_in_user_namespace = switch.is_in_user_namespace;
        let machine = Machine { name: name.to_owned(), number, keeper };
        let (port, pid) = (format!("port{number}"), machine.keeper.child.id().to_string());
        switch.run("ip", &["link", "add", "name", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        switch.run("ip", &["link", "set", &port, "master", "br0", "up"])?;
        machine.keeper.run("ip", &["address", "add", &format!("{}/24", machine.address()), "dev", "eth0"])?;
        machine.plug_in()?;
        Ok(machine)
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the wire.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    /// The same for IPv6.
    pub fn address_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, self.number.into())
    }

    /// The beginning of a command line that runs the rest of it here. It ends in exec(2), so the process id stays.
    pub fn enter(&self) -> Vec<OsString> {
        self.keeper.enter()
    }

    /// A command that runs here and ends with the thread that starts it. It gets no variable of this project's from the test's environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words = self.enter().into_iter();
        let mut command = Command::new(words.next().expect("there is a word to enter with"));
        command.args(words).arg(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("KVBROKER_") || name.starts_with("CATALOG_")) {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        end_with_us(&mut command);
        command
    }

    /// Pulls its cable: what is sent to it and by it is lost without a word.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn pull_the_cable(&self) {
        self.keeper.run("ip", &["link", "set", "eth0", "down"]).expect("a machine's interface can be switched off");
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn plug_in(&self) -> Result<(), String> {
        self.keeper.run("ip", &["link", "set", "eth0", "up"])?;
        // It goes when the interface does. Without the check for twins it can be used at once; a kernel without IPv6 has none.
        let address = format!("{}/64", self.address_v6());
        drop(self.keeper.run("ip", &["-6", "address", "replace", &address, "dev", "eth0", "nodad"]));
        Ok(())
    }
}

impl Keeper {
    /// In namespaces of its own, made from inside of those that `enter` enters.
    fn new(enter: &[OsString], with_user_namespace: bool, name: &str) -> Result<Keeper, String> {
        let words = ["unshare", "--net", "--uts"]
            .into_iter()
            .chain(with_user_namespace.then_some(["--user", "--map-root-user"]).into_iter().flatten());
        // Its stdin ends with us, whatever becomes of us.
        let script = "hostname \"$0\" && ip link set lo up && echo ready && exec cat";
        let words = words.chain(["sh", "-c", script, name]).map(OsString::from);
        let mut words = enter.iter().cloned().chain(words);
        let mut command = Command::new(words.next().expect("there is at least unshare"));
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        end_with_us(&mut command);
        let child = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let mut keeper = Keeper { child, is_in_user_namespace: with_user_namespace };
        let mut line = String::new();
        let stdout = keeper.child.stdout.take().expect("it is a pipe");
        let _ = BufReader::new(stdout).read_line(&mut line);
        if line == "ready\n" {
            return Ok(keeper);
        }
        let mut said = String::new();
        let _ = keeper.child.stderr.take().expect("it is a pipe").read_to_string(&mut said);
        Err(said.trim().to_owned())
    }

    fn enter(&self) -> Vec<OsString> {
        let target = format!("--target={}", self.child.id());
        let user: &[&str] = if self.is_in_user_namespace { &["--user", "--preserve-credentials"] } else { &[] };
        // Entering a user namespace makes the kernel forget with whom the process is to end: it is told again.
        let rest = ["--net", "--uts", "--", "setpriv", "--pdeathsig", "KILL"];
        ["nsenter", &target].iter().chain(user).chain(&rest).map(OsString::from).collect()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let mut words = self.enter().into_iter();
        let mut command = Command::new(words.next().expect("there is a word to enter with"));
        let output = command.args(words).arg(program).args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("nsenter: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Its namespaces go with the last process in them.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(machine: &Machine, program: &str, arguments: &[&str]) -> (bool, String) {
        let output = machine.command(program).args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Whether a connection to the port is accepted or at least answered.
    fn answers(from: &Machine, host: &str) -> bool {
        let script = format!("echo >/dev/tcp/{host}/1 || true");
        let output = from.command("timeout").args(["2", "bash", "-c", &script]).output().unwrap();
        // Nobody listens: a host that is there refuses at once, one that isn't says nothing.
        String::from_utf8_lossy(&output.stderr).contains("refused")
    }

    #[test]
    fn machines_reach_each_other_and_nothing_else() {
        let Some(wire) = Wire::between(&["alpha", "beta"]) else { return };
        let [alpha, beta] = wire.machines();
        assert_eq!(said(alpha, "hostname", &[]), (true, "alpha".to_owned()));
        assert_eq!(said(beta, "hostname", &[]), (true, "beta".to_owned()));
        assert!(answers(alpha, &beta.address().to_string()) && answers(beta, &alpha.address().to_string()));
        let (_, routes) = said(alpha, "ip", &["route", "show", "default"]);
        assert_eq!(routes, "", "nothing leads out");
        beta.pull_the_cable();
        assert!(!answers(alpha, &beta.address().to_string()));
        beta.plug_in().unwrap();
        assert!(answers(alpha, &beta.address().to_string()));
    }

    #[test]
    fn namespaces_end_with_the_wire() {
        let Some(wire) = Wire::between(&["alpha"]) else { return };
        let [alpha] = wire.machines();
        let keeper = format!("/proc/{}", alpha.keeper.child.id());
        assert!(std::path::Path::new(&keeper).exists());
        drop(wire);
        assert!(!std::path::Path::new(&keeper).exists());
    }
}
