//! What clients feel of the broker's own work, and of each other: checkpoints, and a thousand connections that say nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::size::{resident, settle, some_puts};
use super::{Contest, Costs, Round, Row, Sample, Side, Target};
use crate::Failed;
use crate::load::{self, Ask, Frames, Kind, Lane, Shape, drive, fill};
use crate::options::Options;
use crate::payload::Draw;
use crate::servers::{Generator, Kvbroker, Server, Sync, TableServer, Way};

/// Keys of the table that checkpoints are made of.
const KEYS: u32 = 1_000_000;
/// Connections of the load, one put outstanding on each.
const LANES: usize = 8;
/// Operations outstanding on each, where throughput is the question.
const OUTSTANDING: usize = 64;
/// Connections that say nothing.
const IDLE: usize = 992;
/// A checkpoint is looked at no longer than this.
const CHECKPOINT: Duration = Duration::from_secs(30);
/// How often it is looked whether one is being made.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn rows() -> Vec<Row> {
    let checkpoint = |name: &str, what: &str, unit, target, is_memory: bool| Row {
        name: name.to_owned(),
        what: what.to_owned(),
        target: Some(target),
        unit,
        costs_s: Costs { begin: 15.0, round: 15.0 },
        rounds_max: 3,
        begin: Box::new(move |options| Ok(Box::new(Checkpoint::begin(options, is_memory)?))),
    };
    vec![
        checkpoint(
            "checkpoint",
            "p99.9 of durable puts at half of what 8 clients reach, each from when it was due: while a checkpoint is made, beside without",
            "µs",
            Target::at_most(2.0),
            false,
        ),
        checkpoint(
            "checkpoint-memory",
            "highest resident memory while a checkpoint is made, beside before",
            "MiB",
            Target::at_most(1.15),
            true,
        ),
        Row {
            name: "connections".to_owned(),
            what: "puts of 8 clients with 64 outstanding each, with 992 more clients connected, beside without".to_owned(),
            target: Some(Target::at_least(0.9)),
            unit: "op/s",
            costs_s: Costs { begin: 3.0, round: 2.0 },
            rounds_max: 99,
            begin: Box::new(|options| Ok(Box::new(Connections::begin(options)?))),
        },
    ]
}

struct Checkpoint {
    server: Kvbroker,
    /// For what makes a checkpoint due.
    writer: Box<dyn Lane>,
    draw: Draw,
    keys: u32,
    /// Puts a second.
    rate: f64,
    is_memory: bool,
    window: Duration,
}

impl Checkpoint {
    fn begin(options: &Options, is_memory: bool) -> Result<Checkpoint, Failed> {
        let keys = KEYS;
        let filler = Generator::Library;
        let server = Kvbroker::start(options, options.broker(), Sync::Always, Way::Ipc, filler)?;
        fill(&server, keys)?;
        settle(&server)?;
        let shape = Shape { clients: LANES, outstanding: 1, kind: Kind::Put, keys, window: options.seconds };
        let rate = drive(&server, shape)?.per_s() / 2.0;
        let writer = server.lane(OUTSTANDING * LANES)?;
        let mut contest = Checkpoint {
            server,
            writer,
            draw: Draw::new(keys, 9),
            keys,
            rate,
            is_memory,
            window: options.seconds.max(Duration::from_secs(3)),
        };
        // The first one shows what memory the work takes, which it then has.
        contest.provoke()?;
        settle(&contest.server)?;
        Ok(contest)
    }

    /// Writes until a checkpoint begins.
    fn provoke(&mut self) -> Result<(), Failed> {
        while !self.server.makes_checkpoint()? {
            some_puts(&mut *self.writer, &mut self.draw, 2_000)?;
        }
        Ok(())
    }

    /// Puts at the rate until it is enough; the times from when each was due, and the most memory that was seen.
    fn run(&self, mut is_enough: impl FnMut(Duration) -> Result<bool, Failed>) -> Result<(Histogram<u64>, u64), Failed> {
        let stop = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let every = Duration::from_secs_f64(LANES as f64 / self.rate);
        let threads = (0..LANES)
            .map(|at| {
                let (mut lane, stop) = (self.server.lane(1)?, Arc::clone(&stop));
                let mut draw = Draw::new(self.keys, at);
                let mut due = began + every.mul_f64(at as f64 / LANES as f64);
                Ok(std::thread::spawn(move || {
                    let mut times = load::times()?;
                    while !stop.load(Ordering::Relaxed) {
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        lane.ask(Ask { kind: Kind::Put, key: draw.next(), stamp: at as u64 })?;
                        lane.flush()?;
                        lane.take()?;
                        times.saturating_record(due.elapsed().as_nanos() as u64);
                        due += every;
                    }
                    Ok::<_, Failed>(times)
                }))
            })
            .collect::<Result<Vec<_>, Failed>>()?;
        let mut most = 0;
        let outcome = loop {
            std::thread::sleep(LOOK);
            match resident(&self.server).map(|now| most = most.max(now)).and_then(|()| is_enough(began.elapsed())) {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        stop.store(true, Ordering::Relaxed);
        let mut times = load::times()?;
        for thread in threads {
            times.add(thread.join().map_err(|_| "a generator panicked")??)?;
        }
        outcome.map(|()| (times, most))
    }

    fn sample(&self, (times, most): &(Histogram<u64>, u64)) -> Sample {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        let mib = *most as f64 / f64::from(1 << 20);
        let figure = if self.is_memory { mib } else { at(0.999) };
        let details = [
            ("p50_us", at(0.5)),
            ("p99_us", at(0.99)),
            ("p999_us", at(0.999)),
            ("max_us", times.max() as f64 / 1e3),
            ("resident_mib", mib),
            ("puts", times.len() as f64),
            ("rate_per_s", self.rate),
        ];
        Sample { figure, details: details.into_iter().collect() }
    }
}

impl Contest for Checkpoint {
    fn sides(&self) -> [Side; 2] {
        let side = |when: &str| Side {
            name: self.server.name(),
            settings: format!("{when}; {} keys, {:.0} puts a second; {}", self.keys, self.rate, self.server.settings()),
        };
        [side("while a checkpoint is made"), side("while none is made")]
    }

    fn round(&mut self, _number: usize) -> Result<Round, Failed> {
        settle(&self.server)?;
        let made = self.server.stat("checkpoints")?;
        let window = self.window;
        let calm = self.run(|elapsed| Ok(elapsed >= window))?;
        if self.server.makes_checkpoint()? || self.server.stat("checkpoints")? != made {
            return Err("a checkpoint was made when none was wanted".into());
        }
        self.provoke()?;
        let server = &self.server;
        let busy = self.run(|elapsed| Ok(elapsed >= CHECKPOINT || !server.makes_checkpoint()?))?;
        Ok(Round::of([self.sample(&busy), self.sample(&calm)]))
    }
}

struct Connections {
    server: Kvbroker,
    shape: Shape,
}

impl Connections {
    fn begin(options: &Options) -> Result<Connections, Failed> {
        kvbroker_tests::hostile::raise_descriptors();
        let generator = Generator::Raw(Frames::Numbered);
        let server = Kvbroker::start(options, options.broker(), Sync::Never, Way::Ipc, generator)?;
        fill(&server, options.keys)?;
        let shape =
            Shape { clients: LANES, outstanding: OUTSTANDING, kind: Kind::Put, keys: options.keys, window: options.seconds };
        Ok(Connections { server, shape })
    }

    fn turn(&self, idle: usize) -> Result<Sample, Failed> {
        let idle = (0..idle).map(|_| self.server.lane(1)).collect::<Result<Vec<_>, _>>()?;
        let measured = drive(&self.server, self.shape)?;
        let connected = self.server.stat("connections_open")?;
        if (connected as usize) < idle.len() {
            return Err(format!("{connected} connections, and {} were made", idle.len()).into());
        }
        let details = [("server_cpu_us", measured.server_us()), ("generator_cpu_us", measured.generator_us())];
        Ok(Sample { figure: measured.per_s(), details: details.into_iter().collect() })
    }
}

impl Contest for Connections {
    fn sides(&self) -> [Side; 2] {
        let side = |connected: usize| Side {
            name: self.server.name(),
            settings: format!("{connected} clients connected, {LANES} of them busy; {}", self.server.settings()),
        };
        [side(LANES + IDLE), side(LANES)]
    }

    fn round(&mut self, number: usize) -> Result<Round, Failed> {
        if number.is_multiple_of(2) {
            let crowded = self.turn(IDLE)?;
            Ok(Round::of([crowded, self.turn(0)?]))
        } else {
            let alone = self.turn(0)?;
            Ok(Round::of([self.turn(IDLE)?, alone]))
        }
    }
}
