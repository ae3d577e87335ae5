//! One life: a disk, a broker that comes and goes on it, programs that watch, and a network between them that loses, delays and cuts;
//! everything in one thread, from one seed.

mod broker;
mod network;
mod people;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_log::{SimStorage, SyncMode};
use kvbroker_protocol::Stored;
use kvbroker_table::SimClock;

use super::asks::{FITTING_VALUE, OTHER_VALUE};
use super::bugs::PlantedBug;
use super::client::{Around, Kept, Program};
use super::happened::Happened;
use super::judge::Known;
use super::process::{LinkId, Process, Settings, Token};
use super::truth::Truth;
use super::violation::Violation;
use crate::Dice;

/// Wall-clock time at the beginning, microseconds.
const WALL_US: u64 = 1_700_000_000_000_000;
/// Prefixes that are watched: within each other, beside each other, one that nothing ever has.
const PREFIXES: [&[u8]; 9] = [b"", b"a", b"a/", b"a/b", b"a/b/", b"a/b/1", b"b", b"b/", b"zz"];
/// Keys that are written.
const KEYS: [&[u8]; 14] =
    [b"a", b"a/", b"a/1", b"a/2", b"a/b", b"a/b/1", b"a/b/1/x", b"a/b/2", b"a/b/3", b"aa", b"b", b"b/1", b"b/2", b"c"];
/// The writer's name; programs have others.
const WRITER: u64 = 1;
/// A message waits for at most so many others on its way to a program.
const DOWN_MAX: usize = 24;
/// How long all may take to come to the end once nothing goes wrong any more.
const CALM_MAX: Duration = Duration::from_secs(240);
const CALM_STEP: Duration = Duration::from_millis(250);
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A life.
pub struct World {
    dice: Dice,
    bug: Option<PlantedBug>,
    settings: Settings,
    /// How likely it is that a mode is a weak one, of eight.
    weak: usize,
    disk: SimStorage,
    process: Option<Process>,
    truth: Truth,
    clock: Arc<SimClock>,
    base: Instant,
    now_us: u64,
    heartbeat_at: Instant,
    programs: Vec<Program>,
    kept: Vec<Kept>,
    /// A copy of the directory, its epoch and last revision.
    copy: Option<(SimStorage, u64, u64)>,
    complete_after: u64,
    next_link: LinkId,
    next_token: Token,
    next_program: u64,
    starts: u64,
    /// One in so many ends of the broker that could be are.
    peace: usize,
    /// How often the network does not do its work, of a hundred.
    trouble: usize,
    /// One that fits what watches with a predicate want, and one that does not.
    values: [Stored; 2],
    /// What happened.
    pub happened: Happened,
}

impl World {
    /// Before the first start.
    pub fn new(seed: u64, bug: Option<PlantedBug>) -> World {
        let mut dice = Dice::new(seed);
        let settings = Settings {
            mode: SyncMode::Always,
            history_bytes: [0, 600, 4_000, 100_000][dice.below(4)],
            log_history_bytes: [0, 0, 9_000, u64::MAX][dice.below(4)],
            segment_bytes: 4_096 + [1_000, 3_000, 40_000][dice.below(3)],
            queue_bytes: [1, 2_000, 60_000][dice.below(3)],
            bug,
            spoil: None,
        };
        let base = Instant::now();
        World {
            weak: [0, 0, 3, 8][dice.below(4)],
            trouble: [2, 10, 30][dice.below(3)],
            peace: [1, 3, 8][dice.below(3)],
            dice,
            bug,
            settings,
            disk: SimStorage::new(),
            process: None,
            truth: Truth::default(),
            clock: Arc::new(SimClock::new(WALL_US)),
            base,
            now_us: 0,
            heartbeat_at: base,
            programs: Vec::new(),
            kept: Vec::new(),
            copy: None,
            complete_after: 0,
            next_link: 0,
            next_token: 1 << 32,
            next_program: WRITER,
            starts: 0,
            values: [FITTING_VALUE, OTHER_VALUE].map(|value| Stored::from_msgpack(value).expect("it is a value")),
            happened: Happened::default(),
        }
    }

    /// Lives for so many acts, and then until all have come to the end.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn live(&mut self, acts: u64) -> Result<(), Violation> {
        self.start()?;
        for _ in 0..acts {
            self.happened.steps += 1;
            self.act()?;
        }
        self.come_to_the_end()?;
        let programs = std::mem::take(&mut self.programs);
        for mut program in programs {
            program.end();
            self.happened.seen.add(&program.seen);
        }
        self.happened.revisions = self.truth.now();
        Ok(())
    }

    fn now(&self) -> Instant {
        self.base + Duration::from_micros(self.now_us)
    }

    fn stamp_ms(&self) -> u64 {
        (WALL_US + self.now_us) / 1_000
    }

    fn pass(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(0);
        self.now_us += us;
        self.clock.advance(us);
    }

    fn around(&self) -> Around<'_> {
        let known = Known { complete_after: self.complete_after };
        Around { truth: &self.truth, known, now: self.now(), bug: self.bug }
    }

    /// Does something with a program, which then is the last of the list.
    fn with_program<T>(
        &mut self,
        at: usize,
        work: impl FnOnce(&mut Program, Around<'_>, &mut Dice) -> Result<T, Violation>,
    ) -> Result<T, Violation> {
        let mut program = self.programs.remove(at);
        let mut dice = Dice::new(self.dice.number());
        let result = work(&mut program, self.around(), &mut dice);
        self.programs.push(program);
        result
    }

    fn act(&mut self) -> Result<(), Violation> {
        self.pass_a_while();
        match self.dice.below(100) {
            0..20 => self.write(),
            20..40 => self.turn()?,
            40..54 => self.publish(),
            54..84 => self.program_acts()?,
            84..88 => self.programs_come_and_go()?,
            88..95 => self.tend_log()?,
            95..97 => self.cut(),
            97 => self.sleep(),
            98 if self.dice.below(self.peace) == 0 => self.end_broker()?,
            98 => self.tend_log()?,
            _ => self.set_back()?,
        }
        if self.process.is_none() && self.dice.below(4) == 0 {
            self.start()?;
        }
        Ok(())
    }

    fn pass_a_while(&mut self) {
        let ms = match self.dice.below(2_000) {
            0 => 20_000 + self.dice.below(40_000),
            1..30 => 500 + self.dice.below(3_000),
            30..800 => self.dice.below(50),
            _ => 0,
        };
        self.pass(Duration::from_micros(ms as u64 * 1_000 + 1));
    }

    /// Nothing goes wrong any more, and nothing is written: everybody has to come to the end.
    fn come_to_the_end(&mut self) -> Result<(), Violation> {
        for program in &mut self.programs {
            program.asleep_until = None;
        }
        self.calm_down()
    }

    fn calm_down(&mut self) -> Result<(), Violation> {
        let trouble = std::mem::take(&mut self.trouble);
        self.disk.stop_at(u64::MAX);
        while self.process.is_none() {
            self.start()?;
        }
        self.disk.stop_at(u64::MAX);
        let began = self.now();
        loop {
            self.pass(CALM_STEP);
            for _ in 0..3 {
                self.turn()?;
            }
            self.publish_all();
            for at in 0..self.programs.len() {
                self.carry(at, [usize::MAX, usize::MAX])?;
                self.connect(at, 0);
            }
            for _ in 0..2 {
                self.turn()?;
            }
            for program in &mut self.programs {
                program.leave_blind(self.truth.now());
            }
            self.publish_all();
            let mut token = self.next_token;
            // Each goes to the end of the list.
            for _ in 0..self.programs.len() {
                self.with_program(0, |program, around, dice| {
                    while let Some((token, outcome)) = program.answers.pop_front() {
                        program.hear(around, token, outcome)?;
                    }
                    while let Some(down) = program.link.as_mut().and_then(|link| link.down.pop_front()) {
                        program.receive(around, down);
                    }
                    program.act(around, true, &mut token, dice)?;
                    program.take(around, usize::MAX)
                })?;
            }
            self.next_token = token;
            let behind = self.programs.iter().find_map(|program| program.behind(&self.truth));
            let Some(behind) = behind else { break };
            let waited = self.now() - began;
            if waited > CALM_MAX {
                let (told, now) = (behind.judge.told(), self.truth.now());
                return Err(Violation::Stuck { client: behind.name(), waited_s: waited.as_secs(), told, now });
            }
        }
        for program in &self.programs {
            for watcher in &program.watchers {
                watcher.judge.compare_mirror(&self.truth)?;
            }
        }
        self.trouble = trouble;
        Ok(())
    }
}
