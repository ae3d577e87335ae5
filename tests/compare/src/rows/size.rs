//! Large tables beside Valkey: what a key takes in memory, and how long a start takes.

use std::time::{Duration, Instant};

use super::{Contest, Costs, Round, Row, Sample, Side, Target};
use crate::Failed;
use crate::load::{Ask, Kind, Lane, fill};
use crate::options::Options;
use crate::payload::Draw;
use crate::servers::{Durability, Generator, Kvbroker, Link, Server, Sync, TableServer, Valkey, Way};

/// Keys of the table: what is the same however many there are, the history above all, is to weigh little.
const KEYS: u32 = 5_000_000;
/// How long a large table may take to start.
const START: Duration = Duration::from_secs(600);
/// A segment of the log, and the least log behind a checkpoint that makes another one due.
const SEGMENT_BYTES: u64 = 64 << 20;
/// The log is written up to here before the segment would be full.
const SPARE_BYTES: u64 = 4 << 20;
/// Puts between two looks at the log.
const PUTS: usize = 5_000;
/// Puts outstanding.
const OUTSTANDING: usize = 1_024;

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            name: "key-memory".to_owned(),
            what: "resident memory per key of 5 million, with revisions, ordered scans and the history".to_owned(),
            target: Some(Target::at_most(1.25).stretch(1.0)),
            unit: "bytes",
            costs_s: Costs { begin: 45.0, round: 0.0 },
            rounds_max: 1,
            begin: Box::new(|options| Ok(Box::new(Memory::begin(options)?))),
        },
        Row {
            name: "restart".to_owned(),
            what: "a start of that table after kill -9, from a checkpoint and a log at its longest, beside Valkey's from its RDB file"
                .to_owned(),
            target: Some(Target::at_most(0.5).stretch(0.3)),
            unit: "s",
            costs_s: Costs { begin: 60.0, round: 10.0 },
            rounds_max: 3,
            begin: Box::new(|options| Ok(Box::new(Restart::begin(options)?))),
        },
    ]
}

/// What is resident of a process, bytes.
pub(super) fn resident(server: &dyn Server) -> Result<u64, Failed> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.ok_or("a process without resident memory")? << 10)
}

/// Waits until no checkpoint is being made, and none begins for a second.
pub(super) fn settle(server: &Kvbroker) -> Result<(), Failed> {
    let mut calm_since = Instant::now();
    while calm_since.elapsed() < Duration::from_secs(1) {
        if server.makes_checkpoint()? {
            calm_since = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Some puts of keys at random.
pub(super) fn some_puts(lane: &mut dyn Lane, draw: &mut Draw, count: usize) -> Result<(), Failed> {
    let (mut asked, mut missing) = (0, 0);
    while asked < count || missing > 0 {
        while asked < count && missing < OUTSTANDING {
            lane.ask(Ask { kind: Kind::Put, key: draw.next(), stamp: asked as u64 })?;
            (asked, missing) = (asked + 1, missing + 1);
        }
        lane.flush()?;
        missing -= lane.take()?;
    }
    Ok(())
}

struct Memory {
    servers: [Box<dyn TableServer>; 2],
    keys: u32,
    before: [u64; 2],
}

impl Memory {
    fn begin(options: &Options) -> Result<Memory, Failed> {
        let keys = KEYS;
        let ours = Kvbroker::start(options, options.broker(), Sync::Never, Way::Ipc, Generator::Library)?;
        let theirs = Valkey::start(options.valkey()?, Durability::Memory, Link::Unix)?;
        let before = [resident(&ours)?, resident(&theirs)?];
        fill(&ours, keys)?;
        settle(&ours)?;
        fill(&theirs, keys)?;
        Ok(Memory { servers: [Box::new(ours), Box::new(theirs)], keys, before })
    }
}

impl Contest for Memory {
    fn sides(&self) -> [Side; 2] {
        [0, 1].map(|at| Side {
            name: self.servers[at].name(),
            settings: format!("{} keys; {}", self.keys, self.servers[at].settings()),
        })
    }

    fn round(&mut self, _number: usize) -> Result<Round, Failed> {
        let sample = |at: usize| {
            let now = resident(&*self.servers[at])?;
            let figure = now.saturating_sub(self.before[at]) as f64 / f64::from(self.keys);
            let details = [("resident_bytes", now as f64), ("resident_bytes_before", self.before[at] as f64)];
            Ok::<_, Failed>(Sample { figure, details: details.into_iter().collect() })
        };
        Ok(Round::of([sample(0)?, sample(1)?]))
    }
}

struct Restart {
    ours: Kvbroker,
    theirs: Valkey,
    keys: u32,
    behind_bytes: u64,
}

impl Restart {
    fn begin(options: &Options) -> Result<Restart, Failed> {
        let keys = KEYS;
        let mut ours = Kvbroker::start(options, options.broker(), Sync::Always, Way::Ipc, Generator::Library)?;
        ours.broker().options().patience = START;
        fill(&ours, keys)?;
        let behind_bytes = lengthen(&ours, keys)?;
        let theirs = Valkey::start(options.valkey()?, Durability::Memory, Link::Unix)?;
        fill(&theirs, keys)?;
        theirs.save()?;
        Ok(Restart { ours, theirs, keys, behind_bytes })
    }
}

/// Writes until a little more would begin a checkpoint; gives how long the log is behind the last one.
fn lengthen(server: &Kvbroker, keys: u32) -> Result<u64, Failed> {
    let mut lane = server.lane(OUTSTANDING)?;
    let mut draw = Draw::new(keys, 77);
    settle(server)?;
    // A table that is so small that none was made gets its first one now: a start is to have one.
    while server.stat("checkpoint_bytes")? == 0 {
        some_puts(&mut *lane, &mut draw, PUTS)?;
    }
    settle(server)?;
    loop {
        let made = server.stat("checkpoints")?;
        let due = SEGMENT_BYTES.max(server.stat("checkpoint_bytes")? / 2);
        let longest = (due / SEGMENT_BYTES + 1) * SEGMENT_BYTES - SPARE_BYTES;
        while server.stat("behind_bytes")? < longest && server.stat("checkpoints")? == made && !server.makes_checkpoint()? {
            some_puts(&mut *lane, &mut draw, PUTS)?;
        }
        settle(server)?;
        if server.stat("checkpoints")? == made {
            return server.stat("behind_bytes");
        }
    }
}

impl Contest for Restart {
    fn sides(&self) -> [Side; 2] {
        let ours =
            format!("{} keys, {} MiB of log behind the checkpoint; {}", self.keys, self.behind_bytes >> 20, self.ours.settings());
        let theirs = format!("{} keys, written by SAVE; {}", self.keys, self.theirs.settings());
        [Side { name: self.ours.name(), settings: ours }, Side { name: self.theirs.name(), settings: theirs }]
    }

    fn round(&mut self, _number: usize) -> Result<Round, Failed> {
        let broker = self.ours.broker();
        broker.kill9();
        let began = Instant::now();
        broker.restart();
        let ours = began.elapsed().as_secs_f64();
        let theirs = self.theirs.start_again(START)?.as_secs_f64();
        let keys = self.ours.stat("keys")?;
        if keys != u64::from(self.keys) {
            return Err(format!("{keys} keys after the start, {} before", self.keys).into());
        }
        let sample = |seconds: f64| Sample {
            figure: seconds,
            details: [("keys_per_s", f64::from(self.keys) / seconds)].into_iter().collect(),
        };
        Ok(Round::of([sample(ours), sample(theirs)]))
    }
}
