//! One at a time: how long a single operation takes, beside the echo and beside Valkey's unix socket.

use super::{Costs, Row, Target};
use crate::duel::{By, Duel};
use crate::load::{Frames, Kind, Shape};
use crate::options::Options;
use crate::servers::{Durability, Echo, Generator, Kvbroker, Link, Sync, Valkey, Way};

fn shape(options: &Options, kind: Kind) -> Shape {
    Shape { clients: 1, outstanding: 1, kind, keys: options.keys, window: options.seconds }
}

#[derive(Clone, Copy)]
enum Peer {
    Echo,
    Valkey,
}

fn row(name: &str, what: &str, kind: Kind, generator: Generator, peer: Peer, target: Option<Target>) -> Row {
    Row {
        name: name.to_owned(),
        what: what.to_owned(),
        target,
        unit: "µs",
        costs_s: Costs { begin: 2.0, round: 0.8 },
        rounds_max: 99,
        begin: Box::new(move |options| {
            Duel::begin(
                options,
                |program| Ok(Box::new(Kvbroker::start(options, program, Sync::Never, Way::Ipc, generator)?)),
                || match peer {
                    Peer::Echo => Ok(Box::new(Echo::start(Frames::Numbered)?)),
                    Peer::Valkey => Ok(Box::new(Valkey::start(options.valkey()?, Durability::Memory, Link::Unix)?)),
                },
                shape(options, kind),
                By::Median,
            )
        }),
    }
}

pub(super) fn rows() -> Vec<Row> {
    let raw = Generator::Raw(Frames::Numbered);
    let beside_echo = Some(Target::at_most(1.3).stretch(1.1));
    vec![
        row("one-put", "p50 of one put at a time, in memory, ipc, beside the echo's", Kind::Put, raw, Peer::Echo, beside_echo),
        row("one-get", "the same of gets", Kind::Get, raw, Peer::Echo, beside_echo),
        row(
            "one-library",
            "p50 of one put at a time by the library, beside the echo's",
            Kind::Put,
            Generator::Library,
            Peer::Echo,
            None,
        ),
        row(
            "one-valkey-put",
            "p50 of one put at a time, in memory, ipc, beside Valkey's over its unix socket",
            Kind::Put,
            raw,
            Peer::Valkey,
            None,
        ),
        row("one-valkey-get", "the same of gets", Kind::Get, raw, Peer::Valkey, None),
    ]
}
