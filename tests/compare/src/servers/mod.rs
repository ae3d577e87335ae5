//! What is measured: servers in processes of their own, and how connections to them are made.

mod beanstalkd;
mod echo;
mod etcd;
mod floor;
mod jetstream;
mod kvbroker;
mod kvbroker_queue;
mod nats;
mod rabbitmq;
mod streams;
mod tls;
mod valkey;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kvbroker_tests::{PATIENCE, end_with_us};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Failed;
use crate::load::{Consumer, Lane, Producer};

pub use self::kvbroker::{Generator, Kvbroker, Sync, Way};
pub use beanstalkd::{Beanstalkd, Fsync};
pub use echo::{Echo, EchoArgs, serve as serve_echo};
pub use etcd::Etcd;
pub use floor::{Floor, FloorArgs, Work, serve as serve_floor};
pub use jetstream::JetStream;
pub use kvbroker_queue::KvbrokerQueue;
pub use nats::{NatsServer, SyncInterval};
pub use rabbitmq::{QueueKind, RabbitMq};
pub use streams::Link;
pub use valkey::{Durability, Valkey};

/// How often it is looked whether a peer has started.
const LOOK: Duration = Duration::from_millis(5);

/// One product, running.
pub trait Server {
    /// Name and version.
    fn name(&self) -> String;
    /// How it is set up and reached, for the reader of the table.
    fn settings(&self) -> String;
    /// Its process.
    fn pid(&self) -> u32;
}

/// One that keeps values under keys.
pub trait TableServer: Server {
    /// A new connection, on which at most so many operations will be outstanding.
    fn lane(&self, outstanding: usize) -> Result<Box<dyn Lane>, Failed>;
    /// Whoever listens to changes of one in a hundred of so many keys while the load runs, if the product is measured with one.
    fn watcher(&self, _keys: u32) -> Result<Option<Box<dyn Watcher>>, Failed> {
        Ok(None)
    }
}

/// One that has a queue, empty between the runs.
pub trait QueueServer: Server {
    /// A new connection that pushes, with so many pushes unconfirmed at most.
    fn producer(&self, outstanding: usize) -> Result<Box<dyn Producer>, Failed>;
    /// A new connection that takes items and acknowledges them, with so many at most that it has asked for or has not acknowledged.
    fn consumer(&self, credit: usize) -> Result<Box<dyn Consumer>, Failed>;
}

/// A peer's process, in a directory of its own; it is killed, and the directory removed, when this is dropped.
struct Peer {
    child: Child,
    place: TempDir,
}

const LOG: &str = "peer.log";
/// So much of a log's end is told when a peer does not start.
const LOG_END_BYTES: usize = 400;

impl Peer {
    /// A directory for a peer, with a short path: unix sockets lie in it.
    fn place() -> Result<TempDir, Failed> {
        Ok(tempfile::Builder::new().prefix("kvc-").tempdir()?)
    }

    /// Starts a peer in its directory, with what it writes in a file there.
    fn start(command: &mut Command, place: TempDir) -> Result<Peer, Failed> {
        let log = File::create(place.path().join(LOG))?;
        command.current_dir(place.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        end_with_us(command);
        Ok(Peer { child: command.spawn()?, place })
    }

    /// Asks again and again until there is something, as long as the peer runs.
    fn wait_for<T>(&mut self, what: &str, condition: impl Fn(&Peer) -> Option<T>) -> Result<T, Failed> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = condition(self) {
                return Ok(found);
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > until {
                let log = std::fs::read(self.place.path().join(LOG)).unwrap_or_default();
                let log = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_END_BYTES)..]).into_owned();
                let ended = ended.map_or("too late".to_owned(), |status| format!("ended with {status}"));
                return Err(format!("{what} in vain: {ended}; its log ends with {log:?}").into());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program says about itself.
fn version(program: &Path, flag: &str) -> Result<String, Failed> {
    let told = Command::new(program)
        .arg(flag)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(String::from_utf8_lossy(&told.stdout).into_owned())
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
