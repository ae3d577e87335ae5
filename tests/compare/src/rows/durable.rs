//! Durable puts: one at a time beside what the socket and the disk take for it, and many clients one at a time beside Valkey.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tempfile::TempDir;

use super::{Begin, Contest, Costs, Round, Row, Sample, Side, Target};
use crate::Failed;
use crate::duel::{By, Duel, ready, sample, settle, turn};
use crate::load::{self, Frames, Kind, Measured, Shape};
use crate::options::Options;
use crate::servers::{Durability, Echo, Generator, Kvbroker, Link, Server, Sync, Valkey, Way, pause, resume};

/// The room that the plain loop makes ahead of its writes, as the broker's log does.
const AHEAD_BYTES: u64 = 1 << 20;
/// The loop's file begins anew at this size, as a segment of the log does.
const FILE_BYTES_MAX: u64 = 64 << 20;

fn shape(options: &Options, clients: usize) -> Shape {
    Shape { clients, outstanding: 1, kind: Kind::Put, keys: options.keys, window: options.seconds }
}

/// One durable put at a time: the broker, the echo, and the disk, by turns.
struct Floor {
    broker: Kvbroker,
    echo: Echo,
    disk: Disk,
    shape: Shape,
}

impl Floor {
    fn begin(options: &Options) -> Result<Box<dyn Contest>, Failed> {
        let shape = shape(options, 1);
        let raw = Generator::Raw(Frames::Numbered);
        let broker = Kvbroker::start(options, options.broker(), Sync::Always, Way::Ipc, raw)?;
        ready(&broker, shape.keys)?;
        let echo = Echo::start(Frames::Numbered)?;
        ready(&echo, 1)?;
        Ok(Box::new(Floor { broker, echo, disk: Disk::new()?, shape }))
    }

    /// The broker's turn, and how many bytes of log a put was.
    fn broker_turn(&mut self) -> Result<(Measured, usize), Failed> {
        resume(&self.broker)?;
        let log = |broker: &mut Kvbroker| ["log_bytes", "revision"].map(|name| broker.broker().stat(name));
        let [bytes_before, revision_before] = log(&mut self.broker);
        let measured = turn(&self.broker, self.shape)?;
        resume(&self.broker)?;
        let [bytes, revision] = log(&mut self.broker);
        pause(&self.broker)?;
        let puts = revision.saturating_sub(revision_before).max(1);
        Ok((measured, usize::try_from(bytes.saturating_sub(bytes_before) / puts)?))
    }
}

impl Contest for Floor {
    fn sides(&self) -> [Side; 2] {
        let floor = Side {
            name: "echo + write and fdatasync".to_owned(),
            settings: format!(
                "{}; a loop that writes as many bytes as the log has for a put, into room made ahead, and syncs",
                self.echo.settings()
            ),
        };
        [Side { name: self.broker.name(), settings: self.broker.settings() }, floor]
    }

    fn round(&mut self, number: usize) -> Result<Round, Failed> {
        // The loop has to know how much a put is, so the broker comes first or second, and the loop behind it.
        let (ours, bytes, echo) = if number.is_multiple_of(2) {
            let (ours, bytes) = self.broker_turn()?;
            (ours, bytes, turn(&self.echo, self.shape)?)
        } else {
            let echo = turn(&self.echo, self.shape)?;
            let (ours, bytes) = self.broker_turn()?;
            (ours, bytes, echo)
        };
        let disk = self.disk.run(bytes, self.shape.window)?;
        let disk_us = |quantile| disk.value_at_quantile(quantile) as f64 / 1e3;
        let details = [
            ("echo_p50_us", echo.time_us(0.5)),
            ("disk_p50_us", disk_us(0.5)),
            ("disk_p99_us", disk_us(0.99)),
            ("written_bytes", bytes as f64),
        ];
        let floor = Sample { figure: echo.time_us(0.5) + disk_us(0.5), details: details.into_iter().collect() };
        Ok(Round::of([sample(&ours, By::Median), floor]))
    }
}

/// What the disk takes, without anything around it: a file that is written as the broker's log is.
struct Disk {
    file: File,
    at: u64,
    made: u64,
    _place: TempDir,
}

impl Disk {
    fn new() -> Result<Disk, Failed> {
        let place = tempfile::Builder::new().prefix("kvc-").tempdir()?;
        Ok(Disk { file: File::create_new(place.path().join("loop"))?, at: 0, made: 0, _place: place })
    }

    /// Writes and syncs so many bytes again and again; gives the times, nanoseconds.
    fn run(&mut self, bytes: usize, time: Duration) -> Result<Histogram<u64>, Failed> {
        let mut times = load::times()?;
        let record = vec![0x5a; bytes];
        let until = Instant::now() + time;
        while Instant::now() < until {
            if self.at + bytes as u64 > self.made {
                self.make_room()?;
            }
            let began = Instant::now();
            self.file.write_all_at(&record, self.at)?;
            self.file.sync_data()?;
            times.saturating_record(began.elapsed().as_nanos() as u64);
            self.at += bytes as u64;
        }
        settle()?;
        Ok(times)
    }

    fn make_room(&mut self) -> Result<(), Failed> {
        if self.made >= FILE_BYTES_MAX {
            self.file.set_len(0)?;
            (self.at, self.made) = (0, 0);
        }
        self.file.write_all_at(&vec![0; usize::try_from(AHEAD_BYTES)?], self.made)?;
        self.made += AHEAD_BYTES;
        Ok(self.file.sync_all()?)
    }
}

pub(super) fn rows() -> Vec<Row> {
    let many = |options: &Options| {
        let raw = Generator::Raw(Frames::Numbered);
        Duel::begin(
            options,
            |program| Ok(Box::new(Kvbroker::start(options, program, Sync::Always, Way::Ipc, raw)?)),
            || Ok(Box::new(Valkey::start(options.valkey()?, Durability::Always, Link::Unix)?)),
            shape(options, 64),
            By::PerSecond,
        )
    };
    let row = |name: &str, what: &str, target, unit, round_s, begin: Box<Begin>| Row {
        name: name.to_owned(),
        what: what.to_owned(),
        target: Some(target),
        unit,
        costs_s: Costs { begin: 3.0, round: round_s },
        rounds_max: 99,
        begin,
    };
    vec![
        row(
            "durable-put",
            "p50 of one durable put at a time, ipc, beside the echo's p50 plus that of the same write and fdatasync",
            Target::at_most(1.15),
            "µs",
            3.0,
            Box::new(Floor::begin),
        ),
        row(
            "durable-64",
            "durable puts of 64 clients one at a time, one per message, beside Valkey with `appendfsync always`",
            Target::at_least(1.0).stretch(1.3),
            "op/s",
            1.2,
            Box::new(many),
        ),
    ]
}
