//! Operations a second: one per message beside the echo, and the library's pipelines beside Valkey's, in memory and durable.

use super::{Costs, Row, Target};
use crate::duel::{By, Duel};
use crate::load::{Frames, Kind, Shape};
use crate::options::Options;
use crate::servers::{Durability, Echo, Floor, Generator, Kvbroker, Link, Sync, Valkey, Way, Work};

const CLIENTS: usize = 8;
/// Enough for every row: the same load may not be waited for longer.
const ROUNDS_MAX: usize = 99;

fn shape(options: &Options, kind: Kind, outstanding: usize) -> Shape {
    Shape { clients: CLIENTS, outstanding, kind, keys: options.keys, window: options.seconds }
}

/// One operation per message, beside the echo.
fn echo(name: &str, what: &str, kind: Kind, frames: Frames, target: Option<Target>) -> Row {
    Row {
        name: name.to_owned(),
        what: what.to_owned(),
        target,
        unit: "op/s",
        costs_s: Costs { begin: 2.0, round: 0.8 },
        rounds_max: ROUNDS_MAX,
        begin: Box::new(move |options| {
            Duel::begin(
                options,
                |program| Ok(Box::new(Kvbroker::start(options, program, Sync::Never, Way::Ipc, Generator::Raw(frames))?)),
                || Ok(Box::new(Echo::start(frames)?)),
                shape(options, kind, 64),
                By::PerSecond,
            )
        }),
    }
}

/// The least that a broker does for a put, beside the echo.
fn floor(name: &str, what: &str, work: Work) -> Row {
    Row {
        name: name.to_owned(),
        what: what.to_owned(),
        target: None,
        unit: "op/s",
        costs_s: Costs { begin: 1.0, round: 0.8 },
        rounds_max: ROUNDS_MAX,
        begin: Box::new(move |options| {
            Duel::begin(
                options,
                |_program| Ok(Box::new(Floor::start(work)?)),
                || Ok(Box::new(Echo::start(Frames::Numbered)?)),
                shape(options, Kind::Put, 64),
                By::PerSecond,
            )
        }),
    }
}

/// The library's pipelines, beside Valkey's.
fn pipelined(name: &str, what: &str, outstanding: usize, sync: Sync, durability: Durability, target: Target) -> Row {
    Row {
        name: name.to_owned(),
        what: what.to_owned(),
        target: Some(target),
        unit: "op/s",
        costs_s: Costs { begin: 2.0, round: 1.2 },
        rounds_max: ROUNDS_MAX,
        begin: Box::new(move |options| {
            Duel::begin(
                options,
                |program| Ok(Box::new(Kvbroker::start(options, program, sync, Way::Ipc, Generator::Library)?)),
                || Ok(Box::new(Valkey::start(options.valkey()?, durability, Link::Unix)?)),
                shape(options, Kind::Put, outstanding),
                By::PerSecond,
            )
        }),
    }
}

pub(super) fn rows() -> Vec<Row> {
    let least = Target::at_least;
    vec![
        echo(
            "single-put",
            "puts, one per message, in memory, 8 × 64 outstanding, beside a bare ROUTER echo",
            Kind::Put,
            Frames::Numbered,
            Some(least(0.8).stretch(0.95)),
        ),
        echo("single-plain", "the same without sessions", Kind::Put, Frames::Plain, None),
        echo("single-get", "gets, the same", Kind::Get, Frames::Plain, Some(least(0.8).stretch(0.95))),
        floor(
            "floor-decode",
            "the same puts, by one thread that does no more than decode requests and encode replies, beside the echo",
            Work::Decode,
        ),
        floor("floor-log", "and also hashes them and writes them to a log, and has no table", Work::Log),
        pipelined(
            "memory-512",
            "puts, library pipelined, in memory, 8 × 64 outstanding, beside Valkey",
            64,
            Sync::Never,
            Durability::Memory,
            least(1.5).stretch(2.0),
        ),
        pipelined("memory-4096", "the same, 8 × 512 outstanding", 512, Sync::Never, Durability::Memory, least(2.5).stretch(4.0)),
        pipelined(
            "durable-512",
            "puts, library pipelined, durable, 8 × 64 outstanding, beside Valkey with `appendfsync always`",
            64,
            Sync::Always,
            Durability::Always,
            least(1.8).stretch(2.5),
        ),
        pipelined(
            "durable-4096",
            "the same, 8 × 512 outstanding",
            512,
            Sync::Always,
            Durability::Always,
            least(3.5).stretch(5.0),
        ),
    ]
}
