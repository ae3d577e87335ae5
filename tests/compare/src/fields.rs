//! Side by side: a field of several products under the same loads, each with the durability that the field is about.
//!
//! - They take turns as in a duel, and the one that begins changes with each round.
//! - A product that fails is shown as failed; the others go on.

use serde::Serialize;

use crate::Failed;
use crate::duel::{By, ready, sample, turn};
use crate::load::{Kind, Shape};
use crate::options::Options;
use crate::progress::Progress;
use crate::rows::{Sample, Side};
use crate::servers::{Durability, Etcd, Generator, Kvbroker, Link, NatsServer, Server, Sync, SyncInterval, Valkey, Way};
use crate::stats::Spread;

/// Keys of a field: few, because some products take long to load many.
const KEYS: u32 = 10_000;
/// More rounds, or longer turns, are for the rows with targets.
const ROUNDS_MAX: usize = 3;
const SECONDS_MAX: f64 = 1.0;
/// What a turn takes beside its window, and a field at its beginning, seconds.
const TURN_S: f64 = 0.5;
const BEGIN_S: f64 = 8.0;

const ONE: (usize, usize) = (1, 1);
const EIGHT: (usize, usize) = (8, 1);
const MANY: (usize, usize) = (8, 64);

/// One table.
pub struct Field {
    /// For `--only`.
    pub name: &'static str,
    /// What the products of this field have in common.
    pub title: &'static str,
    loads: Vec<(Kind, (usize, usize))>,
    starts: Vec<(&'static str, Box<Start>)>,
}

type Start = dyn Fn(&Options) -> Result<Box<dyn Server>, Failed>;

/// What came of a field.
#[derive(Debug, Serialize)]
pub struct FieldResult {
    /// As in `--only`.
    pub name: &'static str,
    /// What the products have in common.
    pub title: &'static str,
    /// For the reader; one for each of a product's loads.
    pub loads: Vec<String>,
    /// Ours first.
    pub products: Vec<Product>,
}

/// What came of one product in a field.
#[derive(Debug, Serialize)]
pub struct Product {
    /// Name, version and settings; the name alone if it did not start.
    pub side: Side,
    /// For each load its rounds.
    pub loads: Vec<Vec<Sample>>,
    /// Why there are not all of them.
    pub failed: Option<String>,
}

impl FieldResult {
    /// A product's operations a second under a load.
    pub fn per_s(&self, product: usize, load: usize) -> Option<Spread> {
        Spread::of(self.rounds(product, load).iter().map(|sample| sample.figure))
    }

    /// Ours to a product's, round by round.
    pub fn ratio(&self, product: usize, load: usize) -> Option<Spread> {
        let (ours, theirs) = (self.rounds(0, load), self.rounds(product, load));
        Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours.figure / theirs.figure))
    }

    /// A detail of a product under a load.
    pub fn detail(&self, product: usize, load: usize, name: &str) -> Option<Spread> {
        Spread::of(self.rounds(product, load).iter().filter_map(|sample| sample.details.get(name).copied()))
    }

    fn rounds(&self, product: usize, load: usize) -> &[Sample] {
        self.products.get(product).and_then(|product| product.loads.get(load)).map_or(&[], Vec::as_slice)
    }
}

impl Field {
    /// About how long it takes.
    pub fn expected_s(&self, options: &Options) -> f64 {
        let turns = self.starts.len() * self.loads.len() * rounds(options);
        BEGIN_S + turns as f64 * (window_s(options) + TURN_S)
    }

    /// Measures it.
    pub fn measure(&self, options: &Options, progress: &Progress) -> FieldResult {
        let mut servers = Vec::new();
        let mut products = Vec::new();
        for (name, start) in &self.starts {
            let started = start(options).and_then(|server| ready(&*server, KEYS).map(|()| server));
            let side = match &started {
                Ok(server) => Side { name: server.name(), settings: server.settings() },
                Err(_) => Side { name: (*name).to_owned(), settings: "–".to_owned() },
            };
            let failed = started.as_ref().err().map(|error| {
                progress.says(&format!("{name} has failed: {error}"), 0.0);
                error.to_string()
            });
            products.push(Product { side, loads: vec![Vec::new(); self.loads.len()], failed });
            servers.push(started.ok());
        }
        let rounds = rounds(options);
        let steps = (self.loads.len() * rounds) as f64;
        for (at, (kind, (clients, outstanding))) in self.loads.iter().copied().enumerate() {
            let window = std::time::Duration::from_secs_f64(window_s(options));
            let shape = Shape { clients, outstanding, kind, keys: KEYS, window };
            for round in 0..rounds {
                let mut told = Vec::new();
                for step in 0..servers.len() {
                    let number = (step + round) % servers.len();
                    let Some(server) = &servers[number] else { continue };
                    match turn(&**server, shape) {
                        Ok(measured) => {
                            let sample = sample(&measured, By::PerSecond);
                            told.push((number, crate::stats::figure(sample.figure)));
                            products[number].loads[at].push(sample);
                        }
                        Err(error) => {
                            progress.says(&error.to_string(), 0.0);
                            products[number].failed = Some(error.to_string());
                            servers[number] = None;
                        }
                    }
                }
                told.sort();
                let told: Vec<String> = told.into_iter().map(|(_, figure)| figure).collect();
                let share = self.expected_s(options) * ((at * rounds + round + 1) as f64 / steps);
                progress.says(
                    &format!(
                        "{}, round {} of {rounds}: {} op/s",
                        load_name((kind, (clients, outstanding))),
                        round + 1,
                        told.join(", ")
                    ),
                    share,
                );
            }
        }
        FieldResult { name: self.name, title: self.title, loads: self.loads.iter().copied().map(load_name).collect(), products }
    }
}

fn rounds(options: &Options) -> usize {
    options.rounds.min(ROUNDS_MAX)
}

fn window_s(options: &Options) -> f64 {
    options.seconds.as_secs_f64().min(SECONDS_MAX)
}

fn load_name((kind, (clients, outstanding)): (Kind, (usize, usize))) -> String {
    let what = if kind == Kind::Put { "put" } else { "get" };
    match (clients, outstanding) {
        (1, 1) => format!("{what}, one client, one at a time"),
        (clients, 1) => format!("{what}, {clients} clients, one at a time"),
        (clients, outstanding) => format!("{what}, {clients} clients × {outstanding} outstanding"),
    }
}

fn ours(sync: Sync, way: Way) -> (&'static str, Box<Start>) {
    let start = move |options: &Options| -> Result<Box<dyn Server>, Failed> {
        Ok(Box::new(Kvbroker::start(options, options.broker(), sync, way, Generator::Library)?))
    };
    ("kvbroker", Box::new(start))
}

fn valkey(durability: Durability, link: Link) -> (&'static str, Box<Start>) {
    let start = move |options: &Options| -> Result<Box<dyn Server>, Failed> {
        Ok(Box::new(Valkey::start(options.valkey()?, durability, link)?))
    };
    ("Valkey", Box::new(start))
}

fn etcd(link: Link) -> (&'static str, Box<Start>) {
    let start = move |options: &Options| -> Result<Box<dyn Server>, Failed> { Ok(Box::new(Etcd::start(options.etcd()?, link)?)) };
    ("etcd", Box::new(start))
}

fn nats(sync: SyncInterval, link: Link) -> (&'static str, Box<Start>) {
    let start = move |options: &Options| -> Result<Box<dyn Server>, Failed> {
        Ok(Box::new(NatsServer::start(options.nats()?, sync, link)?))
    };
    ("NATS", Box::new(start))
}

/// All of them.
pub fn all() -> Vec<Field> {
    use Kind::{Get, Put};
    vec![
        Field {
            name: "beside-memory",
            title: "Nothing is on disk when it is acknowledged: kvbroker `--sync never`, Valkey without a file, NATS with its default",
            loads: vec![(Put, ONE), (Put, EIGHT), (Put, MANY)],
            starts: vec![
                ours(Sync::Never, Way::Ipc),
                valkey(Durability::Memory, Link::Unix),
                nats(SyncInterval::Default, Link::Tcp),
            ],
        },
        Field {
            name: "beside-interval",
            title: "On disk once a second",
            loads: vec![(Put, ONE), (Put, EIGHT), (Put, MANY)],
            starts: vec![ours(Sync::EveryMs(1_000), Way::Ipc), valkey(Durability::EverySec, Link::Unix)],
        },
        Field {
            name: "beside-durable",
            title: "On disk before it is acknowledged",
            loads: vec![(Put, ONE), (Put, EIGHT), (Put, MANY), (Get, ONE), (Get, EIGHT), (Get, MANY)],
            starts: vec![
                ours(Sync::Always, Way::Ipc),
                valkey(Durability::Always, Link::Unix),
                etcd(Link::Unix),
                nats(SyncInterval::Always, Link::Tcp),
            ],
        },
        Field {
            name: "beside-encrypted",
            title: "The same over TCP, encrypted with CURVE and TLS; Valkey plain, since the package of its server has no TLS",
            loads: vec![(Put, ONE), (Put, MANY), (Get, ONE), (Get, MANY)],
            starts: vec![
                ours(Sync::Always, Way::Curve),
                valkey(Durability::Always, Link::Tcp),
                etcd(Link::Tls),
                nats(SyncInterval::Always, Link::Tls),
            ],
        },
    ]
}
