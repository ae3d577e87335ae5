//! The crash sweep: a log's life on the simulated disk, stopped at every operation, crashed in every way, recovered, and
//! recovered again after a crash inside the recovery.
//!
//! What must hold in every state:
//! - No acknowledged (synced) group is missing after an open that succeeded: a *silent loss*.
//! - What is replayed is a prefix of what was appended, with the right contents.
//! - An open is never refused: nothing but crashes, failed syncs and full disks happened.
//! - While the epoch stays, nothing that was released in it is gone, so no revision of an epoch is used twice.
//! - Recovery is a fixed point: the next one finds the same groups and the same epoch, and cuts nothing.
//! - The log works: what is appended after the recovery survives the next power failure, and so does a checkpoint made then.
//! - What is kept of the history is told as it was, without a gap.
//! - A checkpoint that was in force stays in force, or a later one is.
//!
//! Checkpoints are made in small pieces between the steps of the log. Damage is done in some lives: then a start may be refused, and
//! nothing else is forgiven.
//!
//! A life is stopped in five ways at each of its operations: by power failure (with every [`CrashChoice`]), by the end of the
//! process (page cache kept), by a failed sync, by one that failed only in saying so, by a full disk. The inner level does the
//! same to each recovery, as far as the budget allows: all of it, or a sample drawn from the seed.

mod acts;
mod life;
mod life_checkpoints;
mod making;
mod table;
mod violation;
mod world;

use crate::entropy::SeededEntropy;
use crate::sim::{CrashChoice, Fault, SimStorage, TearDetail};
use life::{Life, lives};
use world::World;

/// Errors that can be planted in the log to show that the sweep notices them. Only the sweep can plant one, and it owns its
/// simulated disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// `always` mode hands out proofs without syncing.
    ReplyBeforeSync,
    /// New names are never synced.
    NoDirectorySync,
    /// A segment gets its name before its header is synced.
    RenameBeforeSync,
    /// A batch whose payload was torn is taken for a whole one.
    TornTailTaken,
    /// Recovery trusts the page cache: it doesn't write the unvouched batches again.
    NoRewrite,
    /// An unclean stop in a weaker mode keeps the epoch.
    EpochKept,
    /// A valid batch behind a bad one counts as proof of damage, although it vouches for nothing: what every crash in a weaker mode
    /// may leave.
    LaterBatchIsDamage,
    /// A valid batch behind a bad one is taken, without what is missing between.
    LaterBatchTaken,
    /// A checkpoint gets its name before it is synced; what is read back is the page cache, or else that would show it.
    CheckpointRenamedUnsynced,
    /// The directory is not synced after a checkpoint got its name, before segments are removed.
    CheckpointNameNotSynced,
    /// Segments are removed before the checkpoint that covers them was read back.
    RemovedBeforeVerified,
    /// A checkpoint is read back from the page cache, which shows what the disk never got.
    VerifiedInCache,
    /// Segments are removed behind a checkpoint that was found at the start, whose name the disk may never have got.
    FoundCheckpointTrusted,
    /// A sorted run that an earlier merge left is taken for one's own.
    StaleRunTaken,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::ReplyBeforeSync,
        Self::NoDirectorySync,
        Self::RenameBeforeSync,
        Self::TornTailTaken,
        Self::NoRewrite,
        Self::EpochKept,
        Self::LaterBatchIsDamage,
        Self::LaterBatchTaken,
        Self::CheckpointRenamedUnsynced,
        Self::CheckpointNameNotSynced,
        Self::RemovedBeforeVerified,
        Self::VerifiedInCache,
        Self::FoundCheckpointTrusted,
        Self::StaleRunTaken,
    ];

    /// An error of who makes checkpoints, not of the log.
    fn is_of_the_maker(self) -> bool {
        matches!(
            self,
            Self::CheckpointRenamedUnsynced
                | Self::CheckpointNameNotSynced
                | Self::RemovedBeforeVerified
                | Self::VerifiedInCache
                | Self::FoundCheckpointTrusted
                | Self::StaleRunTaken
        )
    }
}

/// What to sweep.
#[derive(Clone, Debug)]
pub struct SweepConfig {
    /// Draws the sample, the random lives and the random crash choices.
    pub seed: u64,
    /// About how many states to check. The outer level is always done in full; the inner level gets what is left.
    pub states: u64,
    /// Random lives beside the scripted ones.
    pub random_lives: u64,
    /// On the outer level the last write is torn at every so-many-th byte; 1 for every byte.
    pub tear_step: usize,
    /// Of the ways in which one power failure may leave the disk, the outer level tries at most so many, drawn from the seed; 0 for all.
    pub choices_max: usize,
    /// The sweep ends after so many broken rules; 0 for none.
    pub violations_max: u64,
    /// An error to plant.
    pub bug: Option<PlantedBug>,
}

impl Default for SweepConfig {
    fn default() -> Self {
        Self { seed: 1, states: 20_000, random_lives: 4, tear_step: 1, choices_max: 0, violations_max: 0, bug: None }
    }
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Disk states that were recovered from and checked.
    pub states: u64,
    /// Of these, states of the outer level: a life stopped once.
    pub outer_states: u64,
    /// Lives.
    pub lives: u64,
    /// Storage operations in these lives.
    pub operations: u64,
    /// States in which a cut was reported.
    pub cuts: u64,
    /// States with a checkpoint.
    pub checkpoints: u64,
    /// States in which damage that was done was found, and the start refused.
    pub refusals: u64,
    /// States in which acknowledged groups were gone without an error.
    pub silent_losses: u64,
    /// All broken rules, silent losses included.
    pub violations: u64,
    /// Of the first broken rules: where and what.
    pub examples: Vec<String>,
}

/// Runs the sweep.
pub fn sweep(config: &SweepConfig) -> SweepReport {
    let mut all = lives(config.seed, config.random_lives);
    if config.bug.is_some_and(PlantedBug::is_of_the_maker) {
        all.retain(Life::makes_checkpoints);
    }
    // How many outer states there are says how much of the inner level the budget allows for each.
    let mut inner = 0;
    if config.states > 0 {
        let mut outer = Sweep::new(config, None);
        all.iter().for_each(|life| outer.life(life));
        let states = outer.report.outer_states;
        inner = config.states.saturating_sub(states).div_ceil(states.max(1));
    }
    let mut full = Sweep::new(config, Some(inner));
    all.iter().for_each(|life| full.life(life));
    full.report
}

/// How a life or a recovery is stopped at an operation.
#[derive(Clone, Copy, Debug)]
enum Stop {
    PowerFailure,
    Kill,
    Fault(Fault),
}

const STOPS: [Stop; 5] =
    [Stop::PowerFailure, Stop::Kill, Stop::Fault(Fault::SyncFails), Stop::Fault(Fault::SyncFailsLate), Stop::Fault(Fault::Full)];

impl Stop {
    fn arm(self, disk: &SimStorage, operation: u64) {
        match self {
            Self::PowerFailure | Self::Kill => disk.stop_at(operation),
            Self::Fault(fault) => disk.inject(operation, fault),
        }
    }

    /// What may be left of the disk for the next process: `None` is the disk with the page cache.
    fn choices(self, disk: &SimStorage, detail: TearDetail, seed: u64) -> Vec<Option<CrashChoice>> {
        match self {
            Self::PowerFailure => {
                let mut choices = disk.crash_choices(detail);
                if choices.len() > 2 {
                    choices.extend((0..4).map(|index| CrashChoice::Random(seed.wrapping_add(index))));
                }
                choices.into_iter().map(Some).collect()
            }
            Self::Kill | Self::Fault(_) => vec![None],
        }
    }
}

/// The disk that the next process finds.
fn left_of(disk: &SimStorage, choice: Option<&CrashChoice>) -> SimStorage {
    choice.map_or_else(|| disk.after_kill(), |choice| disk.after_power_failure(choice))
}

struct Sweep {
    bug: Option<PlantedBug>,
    tear_step: usize,
    choices_max: usize,
    violations_max: u64,
    /// Inner states per outer state; `None` only counts the outer ones.
    inner: Option<u64>,
    dice: SeededEntropy,
    report: SweepReport,
}

impl Sweep {
    fn new(config: &SweepConfig, inner: Option<u64>) -> Self {
        Self {
            bug: config.bug,
            tear_step: config.tear_step.max(1),
            choices_max: config.choices_max,
            violations_max: config.violations_max,
            inner,
            dice: SeededEntropy::new(config.seed),
            report: SweepReport::default(),
        }
    }

    fn life(&mut self, life: &Life) {
        let whole = SimStorage::new();
        let mut world = World::new(life, self.bug);
        if let Err(what) = world.live(&whole, life) {
            self.violation(what, || format!("life {:?}, not stopped", life.name));
            return;
        }
        let operations = whole.operations();
        self.report.lives += 1;
        self.report.operations += operations;
        for operation in 0..=operations {
            for stop in STOPS {
                if self.is_over() {
                    return;
                }
                self.stopped_life(life, operation, stop);
            }
        }
    }

    fn stopped_life(&mut self, life: &Life, operation: u64, stop: Stop) {
        let disk = SimStorage::new();
        let mut world = World::new(life, self.bug);
        stop.arm(&disk, operation);
        let place = || format!("life {:?}, {stop:?} at operation {operation}", life.name);
        if let Err(what) = world.live(&disk, life) {
            return self.violation(what, place);
        }
        // A fault that found nothing to strike makes an ordinary life.
        if matches!(stop, Stop::Fault(_)) && disk.fault_is_waiting() {
            return;
        }
        let choices = stop.choices(&disk, TearDetail::LastWriteEvery(self.tear_step), self.dice.next_u64());
        for choice in self.sample(choices, self.choices_max) {
            self.report.outer_states += 1;
            if self.inner.is_none() {
                continue;
            }
            let disk = left_of(&disk, choice.as_ref());
            let place = || format!("{}, {choice:?}", place());
            let operations = self.check(&world, &disk.after_kill(), place);
            if let Some(operations) = operations {
                self.inner(&world, &disk, operations, &place);
            }
        }
    }

    /// Stops the recovery of `disk`, which takes `operations`, and recovers again.
    fn inner(&mut self, world: &World, disk: &SimStorage, operations: u64, place: &dyn Fn() -> String) {
        let mut left = self.inner.unwrap_or(0);
        let all: Vec<(u64, Stop)> = (0..operations).flat_map(|operation| STOPS.map(|stop| (operation, stop))).collect();
        // Where the budget doesn't allow everything, the sample starts at a random place and takes a few of each.
        let skip = if left == 0 { 0 } else { self.dice.next_u64() as usize % all.len().max(1) };
        let per_stop = (left / (all.len() as u64).max(1)).max(1) as usize;
        for &(operation, stop) in all.iter().cycle().skip(skip).take(all.len()) {
            if left == 0 {
                return;
            }
            let disk = disk.after_kill();
            stop.arm(&disk, operation);
            let mut world = world.clone();
            let place = || format!("{}, then {stop:?} at operation {operation} of the recovery", place());
            if let Err(what) = world.try_open(&disk) {
                self.violation(what, place);
                continue;
            }
            let choices = stop.choices(&disk, TearDetail::Sectors, self.dice.next_u64());
            for choice in self.sample(choices, per_stop) {
                let disk = left_of(&disk, choice.as_ref());
                left = left.saturating_sub(1);
                self.check(&world, &disk, || format!("{}, {choice:?}", place()));
            }
        }
    }

    /// At most so many of them; 0 for all.
    fn sample<T>(&mut self, mut all: Vec<T>, count: usize) -> Vec<T> {
        while count > 0 && all.len() > count {
            let index = self.dice.next_u64() as usize % all.len();
            all.swap_remove(index);
        }
        all
    }

    fn is_over(&self) -> bool {
        self.violations_max > 0 && self.report.violations >= self.violations_max
    }

    /// Recovers from `disk` and checks all rules. Gives the number of operations that the recovery took.
    fn check(&mut self, world: &World, disk: &SimStorage, place: impl Fn() -> String) -> Option<u64> {
        self.report.states += 1;
        // Making a checkpoint is as much work as all else: not every time.
        match world.clone().check(disk, self.report.states.is_multiple_of(4)) {
            Ok(checked) => {
                self.report.cuts += u64::from(checked.cut);
                self.report.checkpoints += u64::from(checked.checkpoint);
                self.report.refusals += u64::from(checked.refused);
                Some(checked.operations)
            }
            Err(what) => {
                self.violation(what, place);
                None
            }
        }
    }

    fn violation(&mut self, what: violation::Violation, place: impl Fn() -> String) {
        self.report.violations += 1;
        self.report.silent_losses += u64::from(what.is_silent_loss());
        if self.report.examples.len() < 10 {
            self.report.examples.push(format!("{}: {what}", place()));
        }
    }
}
