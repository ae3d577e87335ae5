//! Side by side under puts and gets.

use std::time::Duration;

use super::{Contender, Counted, Field, Start};
use crate::Failed;
use crate::duel::{By, ready, sample, turn};
use crate::load::{Kind, Shape};
use crate::options::Options;
use crate::rows::{Sample, Side};
use crate::servers::{Durability, Etcd, Generator, Kvbroker, Link, NatsServer, Sync, SyncInterval, TableServer, Valkey, Way};

/// Keys of a field: few, because some products take long to load many.
const KEYS: u32 = 10_000;

const ONE: (usize, usize) = (1, 1);
const EIGHT: (usize, usize) = (8, 1);
const MANY: (usize, usize) = (8, 64);

/// What is asked for, by how many clients with how many operations outstanding.
type Load = (Kind, (usize, usize));

type Entry = (&'static str, Box<dyn Fn(&Options) -> Result<Box<dyn TableServer>, Failed>>);

struct Keeper {
    server: Box<dyn TableServer>,
    loads: &'static [Load],
}

impl Contender for Keeper {
    fn side(&self) -> Side {
        Side { name: self.server.name(), settings: self.server.settings() }
    }

    fn turn(&self, load: usize, window: Duration) -> Result<Sample, Failed> {
        let (kind, (clients, outstanding)) = self.loads[load];
        let shape = Shape { clients, outstanding, kind, keys: KEYS, window };
        Ok(sample(&turn(&*self.server, shape)?, By::PerSecond))
    }
}

fn field(name: &'static str, title: &'static str, loads: &'static [Load], entries: Vec<Entry>) -> Field {
    let start = |(name, start): Entry| {
        let start: Box<Start> = Box::new(move |options| {
            let server = start(options)?;
            ready(&*server, KEYS)?;
            Ok(Box::new(Keeper { server, loads }))
        });
        (name, start)
    };
    let starts = entries.into_iter().map(start).collect();
    Field {
        name,
        title,
        counted: Counted::Operations,
        target: None,
        loads: loads.iter().copied().map(load_name).collect(),
        starts,
    }
}

fn load_name((kind, (clients, outstanding)): (Kind, (usize, usize))) -> String {
    let what = if kind == Kind::Put { "put" } else { "get" };
    match (clients, outstanding) {
        (1, 1) => format!("{what}, one client, one at a time"),
        (clients, 1) => format!("{what}, {clients} clients, one at a time"),
        (clients, outstanding) => format!("{what}, {clients} clients × {outstanding} outstanding"),
    }
}

fn ours(sync: Sync, way: Way) -> Entry {
    let start = move |options: &Options| -> Result<Box<dyn TableServer>, Failed> {
        Ok(Box::new(Kvbroker::start(options, options.broker(), sync, way, Generator::Library)?))
    };
    ("kvbroker", Box::new(start))
}

fn valkey(durability: Durability, link: Link) -> Entry {
    let start = move |options: &Options| -> Result<Box<dyn TableServer>, Failed> {
        Ok(Box::new(Valkey::start(options.valkey()?, durability, link)?))
    };
    ("Valkey", Box::new(start))
}

fn etcd(link: Link) -> Entry {
    let start =
        move |options: &Options| -> Result<Box<dyn TableServer>, Failed> { Ok(Box::new(Etcd::start(options.etcd()?, link)?)) };
    ("etcd", Box::new(start))
}

fn nats(sync: SyncInterval, link: Link) -> Entry {
    let start = move |options: &Options| -> Result<Box<dyn TableServer>, Failed> {
        Ok(Box::new(NatsServer::start(options.nats()?, sync, link)?))
    };
    ("NATS", Box::new(start))
}

/// All of them.
pub(super) fn fields() -> Vec<Field> {
    use Kind::{Get, Put};
    vec![
        field(
            "beside-memory",
            "Nothing is on disk when it is acknowledged: kvbroker `--sync never`, Valkey without a file, NATS with its default",
            &[(Put, ONE), (Put, EIGHT), (Put, MANY)],
            vec![ours(Sync::Never, Way::Ipc), valkey(Durability::Memory, Link::Unix), nats(SyncInterval::Default, Link::Tcp)],
        ),
        field(
            "beside-interval",
            "On disk once a second",
            &[(Put, ONE), (Put, EIGHT), (Put, MANY)],
            vec![ours(Sync::EveryMs(1_000), Way::Ipc), valkey(Durability::EverySec, Link::Unix)],
        ),
        field(
            "beside-durable",
            "On disk before it is acknowledged",
            &[(Put, ONE), (Put, EIGHT), (Put, MANY), (Get, ONE), (Get, EIGHT), (Get, MANY)],
            vec![
                ours(Sync::Always, Way::Ipc),
                valkey(Durability::Always, Link::Unix),
                etcd(Link::Unix),
                nats(SyncInterval::Always, Link::Tcp),
            ],
        ),
        field(
            "beside-encrypted",
            "The same over TCP, encrypted with CURVE and TLS; Valkey plain, since the package of its server has no TLS",
            &[(Put, ONE), (Put, MANY), (Get, ONE), (Get, MANY)],
            vec![
                ours(Sync::Always, Way::Curve),
                valkey(Durability::Always, Link::Tcp),
                etcd(Link::Tls),
                nats(SyncInterval::Always, Link::Tls),
            ],
        ),
    ]
}
