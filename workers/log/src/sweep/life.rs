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
}

/// A script.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub name: String,
    pub seed: u64,
    pub steps: Vec<Step>,
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
    let mut lives: Vec<Life> = scripted.into_iter().map(|(name, steps)| Life { name: name.to_owned(), seed, steps }).collect();
    let mut dice = SeededEntropy::new(seed);
    lives.extend((0..random).map(|_| random_life(dice.next_u64())));
    lives
}

fn random_life(seed: u64) -> Life {
    let mut dice = SeededEntropy::new(seed);
    let mut steps = Vec::new();
    for _ in 0..2 + dice.next_u64() % 3 {
        steps.push([ALWAYS, ALWAYS, EVERY, NEVER][(dice.next_u64() % 4) as usize].clone());
        for _ in 0..dice.next_u64() % 7 {
            steps.push(match dice.next_u64() % 8 {
                0 => Step::Mark,
                1 => Step::Tick,
                2 => large(),
                3 => with_bookkeeping(),
                4 => FAIL[(dice.next_u64() % 4) as usize].clone(),
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
    Life { name: format!("random {seed:#018x}"), seed, steps }
}

const FAIL: [Step; 4] = [Step::FailSync, Step::Tick, small(1), large()];
