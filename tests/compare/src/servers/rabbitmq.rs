//! RabbitMQ, one node, with the defaults of its package and a single queue.
//!
//! - Erlang's names are served by a process of its own (`epmd`), since the node would start one that stays behind.

use std::path::{Path, PathBuf};
use std::process::Command;

use kvbroker_tests::free_port;

use super::streams;
use super::{Peer, QueueServer, Server};
use crate::Failed;
use crate::load::{Amqp, Consumer, Producer};

/// Which kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// A Raft log, here with one member, whose every batch is synced before it is confirmed.
    Quorum,
    /// The older kind, durable: what is persistent is confirmed when it was synced, which happens from time to time or when nothing else does.
    Classic,
    /// The same, and nothing is to be on disk.
    Transient,
}

/// A running server; it is killed when this is dropped.
pub struct RabbitMq {
    peer: Peer,
    _names: Peer,
    version: String,
    kind: QueueKind,
    port: u16,
}

impl RabbitMq {
    /// Starts one in a place of its own, with its queue. `erlang`: the directory of the programs erl and epmd, if they are not in the path.
    pub fn start(program: &Path, erlang: Option<&Path>, kind: QueueKind) -> Result<RabbitMq, Failed> {
        let names_port = free_port().to_string();
        let address = [("ERL_EPMD_ADDRESS", "127.0.0.1"), ("ERL_EPMD_PORT", &*names_port)];
        let names = erlang.map_or_else(|| PathBuf::from("epmd"), |directory| directory.join("epmd"));
        let names = Peer::start(Command::new(names).envs(address), Peer::place()?)?;

        let place = Peer::place()?;
        let (port, node_port) = (free_port(), free_port());
        let inside = |name: &str| place.path().join(name);
        std::fs::write(inside("rabbitmq.conf"), format!("listeners.tcp.1 = 127.0.0.1:{port}\n"))?;
        let usual = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(erlang.map(Path::to_owned).into_iter().chain(std::env::split_paths(&usual)))?;
        let mut command = Command::new(program);
        command.env_clear().envs(address).env("PATH", path).env("HOME", place.path()).env("LANG", "C.UTF-8");
        command.env("RABBITMQ_NODENAME", "compare@localhost").env("RABBITMQ_CONF_ENV_FILE", inside("none"));
        command.env("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf")).env("RABBITMQ_ENABLED_PLUGINS_FILE", inside("plugins"));
        command.env("RABBITMQ_MNESIA_BASE", inside("mnesia")).env("RABBITMQ_LOG_BASE", inside("logs")).env("RABBITMQ_LOGS", "-");
        command.env("RABBITMQ_DIST_PORT", node_port.to_string());
        command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}");
        // So that the script becomes the server, and not its parent.
        command.env("RUNNING_UNDER_SYSTEMD", "true");
        let mut peer = Peer::start(&mut command, place)?;
        // It listens before the user that everybody starts with can log in.
        let mut amqp = peer.wait_for("RabbitMQ was waited for", |_| Amqp::new(streams::tcp(port).ok()?, true).ok())?;
        let queue_type = if kind == QueueKind::Quorum { "quorum" } else { "classic" };
        amqp.make(queue_type, kind != QueueKind::Transient)?;
        Ok(RabbitMq { peer, _names: names, version: amqp.version().to_owned(), kind, port })
    }

    fn amqp(&self) -> Result<Amqp, Failed> {
        Amqp::new(streams::tcp(self.port)?, self.kind != QueueKind::Transient)
    }
}

impl Server for RabbitMq {
    fn name(&self) -> String {
        let kind = match self.kind {
            QueueKind::Quorum => "quorum queue",
            QueueKind::Classic => "classic queue",
            QueueKind::Transient => "transient queue",
        };
        format!("RabbitMQ {}, {kind}", self.version)
    }

    fn settings(&self) -> String {
        let kind = match self.kind {
            QueueKind::Quorum => "a quorum queue with one member, persistent messages",
            QueueKind::Classic => "a durable classic queue, persistent messages",
            QueueKind::Transient => "a classic queue that is not durable, transient messages",
        };
        format!(
            "{kind}, publisher confirms, prefetch, acknowledgements by hand, which are not confirmed; TCP (it has no unix socket)"
        )
    }

    fn pid(&self) -> u32 {
        self.peer.child.id()
    }
}

impl QueueServer for RabbitMq {
    fn producer(&self, _outstanding: usize) -> Result<Box<dyn Producer>, Failed> {
        Ok(Box::new(self.amqp()?.confirming()?))
    }

    fn consumer(&self, credit: usize) -> Result<Box<dyn Consumer>, Failed> {
        Ok(Box::new(self.amqp()?.taking(credit)?))
    }
}
