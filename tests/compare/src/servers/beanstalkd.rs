//! beanstalkd: in memory alone, or with a log that it syncs.

use std::path::Path;
use std::process::Command;

use kvbroker_tests::free_port;

use super::streams;
use super::{Peer, QueueServer, Server, version};
use crate::Failed;
use crate::load::{BeanstalkConsumer, BeanstalkProducer, Consumer, Producer};

/// When its log is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// It has none: the default.
    NoLog,
    /// Every 50 ms at most: the default where there is one.
    Default,
    /// With every put and delete, before it is answered.
    Always,
}

/// A running server; it is killed when this is dropped.
pub struct Beanstalkd {
    peer: Peer,
    version: String,
    fsync: Fsync,
    port: u16,
}

impl Beanstalkd {
    /// Starts one in a place of its own.
    pub fn start(program: &Path, fsync: Fsync) -> Result<Beanstalkd, Failed> {
        let told = version(program, "-v")?;
        let version =
            told.trim().strip_prefix("beanstalkd ").ok_or("this is no beanstalkd: it does not say its version")?.to_owned();
        let place = Peer::place()?;
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-l", "127.0.0.1", "-p", &port.to_string()]);
        if fsync != Fsync::NoLog {
            let log = place.path().join("log");
            std::fs::create_dir(&log)?;
            command.arg("-b").arg(log);
        }
        if fsync == Fsync::Always {
            command.args(["-f", "0"]);
        }
        let mut peer = Peer::start(&mut command, place)?;
        peer.wait_for("beanstalkd was waited for", |_| streams::tcp(port).ok())?;
        Ok(Beanstalkd { peer, version, fsync, port })
    }
}

impl Server for Beanstalkd {
    fn name(&self) -> String {
        format!("beanstalkd {}", self.version)
    }

    fn settings(&self) -> String {
        let log = match self.fsync {
            Fsync::NoLog => "without a log, the default",
            Fsync::Default => "`-b`: a log that is synced every 50 ms, its default",
            Fsync::Always => "`-b -f 0`: a log that is synced with every put and delete",
        };
        format!("{log}; TCP (a unix socket it takes from systemd only)")
    }

    fn pid(&self) -> u32 {
        self.peer.child.id()
    }
}

impl QueueServer for Beanstalkd {
    fn producer(&self, _outstanding: usize) -> Result<Box<dyn Producer>, Failed> {
        Ok(Box::new(BeanstalkProducer::new(streams::tcp(self.port)?)))
    }

    fn consumer(&self, credit: usize) -> Result<Box<dyn Consumer>, Failed> {
        Ok(Box::new(BeanstalkConsumer::new(streams::tcp(self.port)?, credit)?))
    }
}
