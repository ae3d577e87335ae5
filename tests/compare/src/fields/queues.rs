//! Side by side as work queues: the same items, and as many cycles on their way.

use std::time::Duration;

use super::{Contender, Counted, Field, Start};
use crate::Failed;
use crate::duel::{By, sample, settle};
use crate::load::{QueueShape, drive_queue};
use crate::options::Options;
use crate::rows::{Sample, Side};
use crate::servers::{
    Beanstalkd, Fsync, JetStream, KvbrokerQueue, QueueKind, QueueServer, RabbitMq, Sync, SyncInterval, pause, resume,
};

/// Connections that push (and as many that take), and cycles on their way for each of those that push.
const LOADS: [(usize, usize); 3] = [(1, 1), (8, 64), (8, 512)];

struct Queuer(Box<dyn QueueServer>);

impl Contender for Queuer {
    fn side(&self) -> Side {
        Side { name: self.0.name(), settings: self.0.settings() }
    }

    fn turn(&self, load: usize, window: Duration) -> Result<Sample, Failed> {
        let (pairs, outstanding) = LOADS[load];
        resume(&*self.0)?;
        let measured = drive_queue(&*self.0, QueueShape { pairs, outstanding, window });
        pause(&*self.0)?;
        settle()?;
        Ok(sample(&measured.map_err(|error| format!("{}: {error}", self.0.name()))?, By::PerSecond))
    }
}

fn load_name((pairs, outstanding): (usize, usize)) -> String {
    match pairs {
        1 => "one producer, one consumer, one item at a time".to_owned(),
        _ => format!("{pairs} producers × {outstanding} items on their way, {pairs} consumers"),
    }
}

fn entry<S: QueueServer + 'static>(
    name: &'static str,
    start: impl Fn(&Options) -> Result<S, Failed> + 'static,
) -> (&'static str, Box<Start>) {
    let start = move |options: &Options| -> Result<Box<dyn Contender>, Failed> {
        let server: Box<dyn QueueServer> = Box::new(start(options)?);
        pause(&*server)?;
        settle()?;
        Ok(Box::new(Queuer(server)))
    };
    (name, Box::new(start))
}

fn ours(sync: Sync) -> (&'static str, Box<Start>) {
    entry("kvbroker", move |options| KvbrokerQueue::start(options, options.broker(), sync))
}

fn beanstalkd(fsync: Fsync) -> (&'static str, Box<Start>) {
    entry("beanstalkd", move |options| Beanstalkd::start(options.beanstalkd()?, fsync))
}

fn nats(sync: SyncInterval) -> (&'static str, Box<Start>) {
    entry("NATS", move |options| JetStream::start(options.nats()?, sync))
}

fn rabbitmq(kind: QueueKind) -> (&'static str, Box<Start>) {
    entry("RabbitMQ", move |options| RabbitMq::start(options.rabbitmq()?, options.erlang.as_deref(), kind))
}

/// All of them.
pub(super) fn fields() -> Vec<Field> {
    let field = |name, title, target, starts| {
        let loads = LOADS.into_iter().map(load_name).collect();
        Field { name, title, counted: Counted::Cycles, target, loads, starts }
    };
    vec![
        field(
            "queue-durable",
            "Work queues, on disk before a push is confirmed",
            Some(2.0),
            vec![ours(Sync::Always), beanstalkd(Fsync::Always), nats(SyncInterval::Always), rabbitmq(QueueKind::Quorum)],
        ),
        field(
            "queue-interval",
            "Work queues, on disk every 50 ms; RabbitMQ's classic queue when it likes, unless an item is acknowledged before",
            None,
            vec![ours(Sync::EveryMs(50)), beanstalkd(Fsync::Default), rabbitmq(QueueKind::Classic)],
        ),
        field(
            "queue-memory",
            "Work queues, nothing on disk when a push is confirmed: kvbroker `--sync never`, beanstalkd and RabbitMQ without files, NATS with its \
             default",
            None,
            vec![ours(Sync::Never), beanstalkd(Fsync::NoLog), nats(SyncInterval::Default), rabbitmq(QueueKind::Transient)],
        ),
    ]
}
