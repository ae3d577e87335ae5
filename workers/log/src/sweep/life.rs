//! The lives that the sweep stops: scripted ones for each situation, random ones for the rest.

use std::time::Duration;

use super::life_checkpoints::checkpoint_lives;
use crate::entropy::SeededEntropy;
use crate::log::SyncMode;
use crate::sim::CrashChoice;

/// One thing that happens to a log.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// A process starts.
    Open(SyncMode),
    /// A batch of so many groups with values of so many bytes; the flag adds a bookkeeping group.
    Append {
        groups: u32,
        bytes: usize,
        bookkeeping: bool,
    },
    Mark,
    /// The interval has passed.
    Tick,
    Close,
    /// The process ends, the page cache stays.
    Kill,
    PowerFailure(CrashChoice),
    /// The next sync will fail.
    FailSync,
    /// The segment ends here.
    Seal,
    /// A checkpoint is begun: of the one in force and what is sealed.
    Begin,
    /// A checkpoint is begun: of what is in memory.
    BeginFromMemory,
    /// So many small pieces of the work on a checkpoint.
    Advance(u32),
    /// All that is left of it.
    Finish,
    /// The checkpoint under way is dropped.
    GiveUp,
    /// Segments that nobody needs any more are removed.
    Trim,
    /// The next sync of an unfinished checkpoint will lose a write and not say so.
    LoseWrite,
    /// A byte of a sealed segment that a start needs goes bad.
    Damage,
    /// A byte of the checkpoint in force goes bad.
    DamageCheckpoint,
    /// The process is gone, and the log is repaired.
    Repair,
}

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    pub ms: u64,
    pub bytes: u64,
}

pub(super) const NO_HISTORY: History = History { ms: 0, bytes: 0 };
/// A segment or two.
pub(super) const SOME_HISTORY: History = History { ms: u64::MAX, bytes: 9000 };
/// By age: the stamps of a life go forward by 300 ms a group.
pub(super) const YOUNG_HISTORY: History = History { ms: 2000, bytes: u64::MAX };

/// Memory for sorting in which each batch is a run of its own.
pub(super) const LITTLE_MEMORY: usize = 200;
pub(super) const ENOUGH_MEMORY: usize = 1 << 20;

/// A script.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub name: String,
    pub seed: u64,
    pub history: History,
    pub memory_bytes: usize,
    pub steps: Vec<Step>,
}

impl Life {
    /// True if there is anything for a maker of checkpoints to do.
    pub fn makes_checkpoints(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Begin | Step::BeginFromMemory))
    }
}

pub(super) const ALWAYS: Step = Step::Open(SyncMode::Always);
pub(super) const EVERY: Step = Step::Open(SyncMode::Every(Duration::from_millis(50)));
pub(super) const NEVER: Step = Step::Open(SyncMode::Never);

pub(super) const fn small(groups: u32) -> Step {
    Step::Append { groups, bytes: 12, bookkeeping: false }
}
pub(super) const fn with_bookkeeping() -> Step {
    Step::Append { groups: 1, bytes: 30, bookkeeping: true }
}
/// Over several sectors.
pub(super) const fn large() -> Step {
    Step::Append { groups: 2, bytes: 700, bookkeeping: false }
}

/// All lives of a sweep.
pub(super) fn lives(seed: u64, random: u64) -> Vec<Life> {
    use CrashChoice::{DropAll, KeepAll, KeepOnly, Random};
    use Step::{Close, FailSync, Kill, Mark, PowerFailure, Tick};
    let scripted: [(&str, Vec<Step>); 8] = [
        (
            "always: batches, marker, clean stop, restart",
            vec![ALWAYS, small(1), with_bookkeeping(), Mark, large(), Close, ALWAYS, small(3), Kill, ALWAYS, small(1)],
        ),
        (
            "always: segments are sealed",
            vec![ALWAYS, large(), large(), small(1), large(), Mark, large(), Kill, ALWAYS, large(), Close],
        ),
        (
            "always: a failed sync, a restart, a power failure",
            vec![ALWAYS, small(1), FailSync, small(2), ALWAYS, small(1), PowerFailure(DropAll), ALWAYS, small(1)],
        ),
        (
            "always: power failures one after the other",
            vec![
                ALWAYS,
                small(1),
                PowerFailure(Random(seed)),
                ALWAYS,
                large(),
                PowerFailure(DropAll),
                ALWAYS,
                FailSync,
                large(),
                PowerFailure(KeepAll),
                ALWAYS,
                small(1),
            ],
        ),
        (
            "every: ticks, an unclean stop, then always",
            vec![
                EVERY,
                small(1),
                small(1),
                Tick,
                with_bookkeeping(),
                large(),
                PowerFailure(KeepOnly(1)),
                ALWAYS,
                small(1),
                Close,
            ],
        ),
        (
            "every: markers and a clean stop",
            vec![EVERY, small(1), Tick, Mark, small(2), Close, EVERY, small(1), Kill, EVERY, small(1), Tick],
        ),
        ("never: sealed by size, clean stop", vec![NEVER, large(), large(), small(1), large(), Close, NEVER, small(1), small(1)]),
        (
            "never: the middle is lost, twice",
            vec![
                NEVER,
                small(1),
                small(1),
                small(1),
                PowerFailure(KeepOnly(2)),
                NEVER,
                small(2),
                small(1),
                PowerFailure(Random(seed)),
                NEVER,
                small(1),
            ],
        ),
    ];
    let mut lives: Vec<Life> = scripted
        .into_iter()
        .map(|(name, steps)| Life { name: name.to_owned(), seed, history: NO_HISTORY, memory_bytes: ENOUGH_MEMORY, steps })
        .collect();
    lives.extend(checkpoint_lives(seed));
    let mut dice = SeededEntropy::new(seed);
    lives.extend((0..random).map(|_| random_life(dice.next_u64())));
    lives
}

fn random_life(seed: u64) -> Life {
    let mut dice = SeededEntropy::new(seed);
    let mut steps = Vec::new();
    for _ in 0..2 + dice.next_u64() % 3 {
        steps.push([ALWAYS, ALWAYS, EVERY, NEVER][(dice.next_u64() % 4) as usize].clone());
        for _ in 0..dice.next_u64() % 9 {
            steps.push(match dice.next_u64() % 12 {
                0 => Step::Mark,
                1 => Step::Tick,
                2 => large(),
                3 => with_bookkeeping(),
                4 => [Step::FailSync, Step::Tick, small(1), large()][(dice.next_u64() % 4) as usize].clone(),
                5 => Step::Seal,
                6 => [Step::Begin, Step::Begin, Step::BeginFromMemory][(dice.next_u64() % 3) as usize].clone(),
                7 => Step::Advance(1 + (dice.next_u64() % 4) as u32),
                8 => [Step::Finish, Step::Finish, Step::Trim, Step::GiveUp][(dice.next_u64() % 4) as usize].clone(),
                _ => small(1 + (dice.next_u64() % 3) as u32),
            });
        }
        steps.push(match dice.next_u64() % 4 {
            0 => Step::Close,
            1 => Step::Kill,
            2 => Step::PowerFailure(CrashChoice::Random(dice.next_u64())),
            _ => Step::PowerFailure(CrashChoice::DropAll),
        });
    }
    let history = [NO_HISTORY, SOME_HISTORY, YOUNG_HISTORY][(dice.next_u64() % 3) as usize];
    let memory_bytes = [LITTLE_MEMORY, ENOUGH_MEMORY][(dice.next_u64() % 2) as usize];
    Life { name: format!("random {seed:#018x}"), seed, history, memory_bytes, steps }
}
