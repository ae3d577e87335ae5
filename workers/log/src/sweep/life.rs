//! The lives that the sweep stops: scripted ones for each situation, random ones for the rest.

use std::time::Duration;

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
    /// The process is gone, and the log is repaired.
    Repair,
}

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    pub ms: u64,
    pub bytes: u64,
}

const NO_HISTORY: History = History { ms: 0, bytes: 0 };
/// A segment or two.
const SOME_HISTORY: History = History { ms: u64::MAX, bytes: 9000 };
/// By age: the stamps of a life go forward by 300 ms a group.
const YOUNG_HISTORY: History = History { ms: 2000, bytes: u64::MAX };

/// Memory for sorting in which each batch is a run of its own.
const LITTLE_MEMORY: usize = 200;
const ENOUGH_MEMORY: usize = 1 << 20;

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

const ALWAYS: Step = Step::Open(SyncMode::Always);
const EVERY: Step = Step::Open(SyncMode::Every(Duration::from_millis(50)));
const NEVER: Step = Step::Open(SyncMode::Never);

const fn small(groups: u32) -> Step {
    Step::Append { groups, bytes: 12, bookkeeping: false }
}
const fn with_bookkeeping() -> Step {
    Step::Append { groups: 1, bytes: 30, bookkeeping: true }
}
/// Over several sectors.
const fn large() -> Step {
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

/// Lives with checkpoints, made in pieces beside appends.
fn checkpoint_lives(seed: u64) -> Vec<Life> {
    use CrashChoice::{DropAll, Random};
    use Step::{
        Advance, Begin, BeginFromMemory, Close, Damage, Finish, GiveUp, Kill, LoseWrite, PowerFailure, Repair, Seal, Tick, Trim,
    };
    let scripted: [(&str, History, usize, Vec<Step>); 11] = [
        (
            "checkpoint: made in pieces beside appends, everything before it goes",
            NO_HISTORY,
            LITTLE_MEMORY,
            vec![
                ALWAYS,
                small(3),
                large(),
                Seal,
                with_bookkeeping(),
                Seal,
                Begin,
                Advance(3),
                small(1),
                Advance(2),
                Seal,
                Finish,
                Trim,
                small(2),
                Kill,
                ALWAYS,
                small(1),
            ],
        ),
        (
            "checkpoint: one after the other, the second out of the first",
            NO_HISTORY,
            ENOUGH_MEMORY,
            vec![
                ALWAYS,
                large(),
                small(2),
                Seal,
                Begin,
                Finish,
                Trim,
                small(3),
                Seal,
                small(1),
                Begin,
                Finish,
                Trim,
                small(1),
                Close,
            ],
        ),
        (
            "checkpoint: runs of two merges in one process",
            NO_HISTORY,
            LITTLE_MEMORY,
            vec![ALWAYS, small(3), small(2), Seal, Begin, Finish, Trim, small(2), small(3), Seal, Begin, Finish, Trim, small(1)],
        ),
        (
            "checkpoint: some history stays, a restart in the middle, a new attempt",
            SOME_HISTORY,
            LITTLE_MEMORY,
            vec![
                ALWAYS,
                large(),
                large(),
                large(),
                Seal,
                Begin,
                Advance(4),
                Kill,
                ALWAYS,
                small(2),
                Seal,
                Begin,
                Finish,
                Trim,
                PowerFailure(Random(seed)),
                ALWAYS,
                Trim,
                small(1),
                Seal,
                Begin,
                Finish,
                Trim,
            ],
        ),
        (
            "checkpoint: history by age, given up once, power failure",
            YOUNG_HISTORY,
            ENOUGH_MEMORY,
            vec![
                ALWAYS,
                small(2),
                Seal,
                small(3),
                Seal,
                Begin,
                Advance(2),
                GiveUp,
                small(2),
                Seal,
                Begin,
                Finish,
                Trim,
                small(1),
                PowerFailure(DropAll),
                ALWAYS,
                small(3),
                Trim,
                Close,
            ],
        ),
        (
            "checkpoint: a disk that loses a write of it and says nothing",
            NO_HISTORY,
            ENOUGH_MEMORY,
            vec![
                ALWAYS,
                small(3),
                large(),
                Seal,
                LoseWrite,
                Begin,
                Finish,
                Trim,
                small(1),
                PowerFailure(DropAll),
                ALWAYS,
                small(1),
            ],
        ),
        (
            "checkpoint: a segment goes bad, the next comes from memory",
            NO_HISTORY,
            LITTLE_MEMORY,
            vec![
                ALWAYS,
                small(3),
                large(),
                Seal,
                small(2),
                Damage,
                Seal,
                Begin,
                Finish,
                Trim,
                small(1),
                BeginFromMemory,
                Advance(2),
                small(2),
                Advance(2),
                with_bookkeeping(),
                Finish,
                Trim,
                small(1),
                Kill,
                ALWAYS,
                small(1),
            ],
        ),
        (
            "repair: a segment goes bad, the log goes on before it",
            NO_HISTORY,
            ENOUGH_MEMORY,
            vec![
                ALWAYS,
                small(3),
                large(),
                Seal,
                small(2),
                Seal,
                large(),
                Damage,
                Kill,
                ALWAYS,
                Repair,
                ALWAYS,
                small(2),
                Kill,
                ALWAYS,
                small(1),
            ],
        ),
        (
            "repair: behind a checkpoint, and the next checkpoint after it",
            SOME_HISTORY,
            ENOUGH_MEMORY,
            vec![
                ALWAYS,
                small(3),
                Seal,
                Begin,
                Finish,
                Trim,
                large(),
                Seal,
                small(2),
                Damage,
                Close,
                Repair,
                ALWAYS,
                small(2),
                Seal,
                Begin,
                Finish,
                Trim,
                PowerFailure(DropAll),
                ALWAYS,
                small(1),
            ],
        ),
        (
            "checkpoint: every, sealed before it was synced",
            NO_HISTORY,
            ENOUGH_MEMORY,
            vec![
                EVERY,
                small(2),
                Tick,
                small(1),
                Seal,
                small(1),
                Begin,
                Finish,
                Trim,
                small(1),
                PowerFailure(Random(seed)),
                EVERY,
                small(2),
                Seal,
                Begin,
                Finish,
                Close,
            ],
        ),
        (
            "checkpoint: never, the log behind it is lost",
            SOME_HISTORY,
            LITTLE_MEMORY,
            vec![
                NEVER,
                small(2),
                large(),
                large(),
                Seal,
                small(1),
                Begin,
                Finish,
                small(1),
                Trim,
                PowerFailure(DropAll),
                NEVER,
                small(2),
                BeginFromMemory,
                Finish,
                Trim,
                small(1),
            ],
        ),
    ];
    scripted
        .into_iter()
        .map(|(name, history, memory_bytes, steps)| Life { name: name.to_owned(), seed, history, memory_bytes, steps })
        .collect()
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
