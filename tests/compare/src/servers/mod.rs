//! What is measured: servers in processes of their own, and how connections to them are made.

mod echo;
mod kvbroker;
mod valkey;

use rustix::process::{Pid, Signal, kill_process};

use crate::Failed;
use crate::load::Lane;

pub use echo::{Echo, EchoArgs, serve as serve_echo};
pub use kvbroker::{Generator, Kvbroker, Sync, Way};
pub use valkey::{Durability, Link, Valkey};

/// One product, running.
pub trait Server {
    /// Name and version.
    fn name(&self) -> String;
    /// How it is set up and reached, for the reader of the table.
    fn settings(&self) -> String;
    /// Its process.
    fn pid(&self) -> u32;
    /// A new connection, on which at most so many operations will be outstanding.
    fn lane(&self, outstanding: usize) -> Result<Box<dyn Lane>, Failed>;
    /// Whoever listens to changes while the load runs, if the product is measured with one.
    fn watcher(&self) -> Result<Option<Box<dyn Watcher>>, Failed> {
        Ok(None)
    }
}

/// Somebody who hears of changes beside the load.
pub trait Watcher {
    /// Ends it; gives how many changes it heard of.
    fn finish(self: Box<Self>) -> Result<u64, Failed>;
}

/// Stops a server's process while another one is measured, so that what it does in the background costs nobody but itself.
pub fn pause(server: &dyn Server) -> Result<(), Failed> {
    signal(server, Signal::STOP)
}

/// Lets it go on.
pub fn resume(server: &dyn Server) -> Result<(), Failed> {
    signal(server, Signal::CONT)
}

fn signal(server: &dyn Server, signal: Signal) -> Result<(), Failed> {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw).ok_or("a server without a process")?;
    Ok(kill_process(pid, signal)?)
}
