//! The crash sweep of work queues: the real worker lives a short life with queues over the real log on the simulated disk, and is stopped
//! at every operation on that disk. Each disk that this can leave is given to a new process.
//!
//! - What it finds, read back through the core, must be the state at a moment that was committed, and not one before the last answer (with weaker sync
//!   modes any moment, and then under another epoch).
//! - It must be of use: each lease runs a whole period again, no token and no id is given out twice in an epoch, and every item can be taken and
//!   acknowledged.
//! - Checkpoints are made, segments sealed and removed between the turns; restarts and power failures are part of the lives, too.
//! - The transient queue is there again as it was declared, and none of its items is; what was done to others in the same transactions is whole.
//! - [`PlantedBug`] has errors in what is logged. Each must be noticed.
//!
//! Everything is drawn from seeds, and a life that is stopped is the same life up to there: that is how the states are known that it may leave.
//! The log's own sweep (`workers/log/src/sweep`) has all the ways in which bytes get lost; here it is about what records mean together.

mod check;
mod life;
mod spoil;

use kvbroker_core::State;
use kvbroker_log::{CrashChoice, Fault, SimStorage, SyncMode, TearDetail};

pub use life::Told;
pub use spoil::PlantedBug;

use crate::Dice;
use life::Life;

/// What to sweep.
#[derive(Clone, Debug)]
pub struct Config {
    /// Draws everything.
    pub seed: u64,
    /// How many lives.
    pub lives: u64,
    /// Turns of a life.
    pub turns: usize,
    /// Of the ways in which one power failure can leave the disk at most so many are tried.
    pub choices_max: usize,
    /// It ends after so many broken rules; 0: never.
    pub violations_max: u64,
    /// An error to plant.
    pub bug: Option<PlantedBug>,
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Disks that were looked at.
    pub states: u64,
    /// Of these, such that a process found something other on than the last answer said, namely the turn that was under way, too.
    pub ahead: u64,
    /// Of these, with items on lease.
    pub with_leases: u64,
    /// Of these, with dead items.
    pub with_dead: u64,
    /// Of these, such that items of the transient queue were lost.
    pub with_transient: u64,
    /// Of these, with a checkpoint.
    pub with_checkpoint: u64,
    /// Operations on disks of whole lives.
    pub operations: u64,
    /// Pushes, deliveries and transactions that whole lives were told of.
    pub told: (u64, u64, u64),
    /// Transactions of whole lives that pushed into the transient queue and another one.
    pub mixed: u64,
    /// Leases and deadlines that ended in whole lives.
    pub expired: u64,
    /// Broken rules.
    pub violations: u64,
    /// The first of these.
    pub examples: Vec<String>,
}

/// How a life is stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// In the middle of an operation.
    At,
    /// By an error of the disk.
    By(Fault),
}

const STOPS: [Stop; 2] = [Stop::At, Stop::By(Fault::SyncFails)];

/// Runs the sweep.
pub fn sweep(config: &Config) -> Report {
    let mut report = Report::default();
    let mut dice = Dice::new(config.seed);
    for number in 0..config.lives {
        // Of three lives one has a weaker sync mode: tokens that were told may be lost there.
        let mode = if number % 3 == 2 { SyncMode::Never } else { SyncMode::Always };
        let seed = dice.number();
        let whole = Life::live(seed, config, mode, None);
        report.operations += whole.operations();
        if let Some(trouble) = &whole.trouble {
            report.violation(format!("life {number}, not stopped: {trouble}"));
            continue;
        }
        let told = &whole.told;
        report.told.0 += told.pushed.len() as u64;
        report.told.1 += told.receipts.len() as u64;
        report.told.2 += told.transactions;
        report.expired += whole.expired;
        report.mixed += whole.mixed;
        for operation in 0..=whole.operations() {
            for stop in STOPS {
                if config.violations_max > 0 && report.violations >= config.violations_max {
                    return report;
                }
                stopped(&mut report, &whole, Life::live(seed, config, mode, Some((operation, stop))), &mut dice, config, || {
                    format!("life {number} ({mode:?}), {stop:?} operation {operation}")
                });
            }
        }
    }
    report
}

/// Looks at every disk that a stopped life can leave.
fn stopped(report: &mut Report, whole: &Life, life: Life, dice: &mut Dice, config: &Config, place: impl Fn() -> String) {
    if let Some(trouble) = &life.trouble {
        return report.violation(format!("{}: {trouble}", place()));
    }
    let mut disks: Vec<(Option<CrashChoice>, SimStorage)> = vec![(None, life.disk.after_kill())];
    let mut choices = life.disk.crash_choices(TearDetail::Sectors);
    choices.push(CrashChoice::Random(dice.number()));
    while choices.len() > config.choices_max {
        choices.swap_remove(dice.below(choices.len()));
    }
    disks.extend(choices.into_iter().map(|choice| (Some(choice.clone()), life.disk.after_power_failure(&choice))));
    // Those that were committed, and the one that the turn under way would have led to.
    let done = life.states.len();
    let first = if life.mode == SyncMode::Always { done.saturating_sub(1) } else { 0 };
    let empty = [State::new()];
    let allowed: Vec<&State> = whole.states[first..(done + 1).min(whole.states.len())]
        .iter()
        .chain(empty.iter().filter(|_| done == 0 || life.mode != SyncMode::Always))
        .collect();
    for (choice, disk) in disks {
        report.states += 1;
        match check::check(&disk, &life, &allowed) {
            Ok(found) => {
                report.ahead += u64::from(found.state > 0 && life.mode == SyncMode::Always);
                report.with_leases += u64::from(found.leased > 0);
                report.with_dead += u64::from(found.dead > 0);
                report.with_transient += u64::from(life.transient_items() > 0);
                report.with_checkpoint += u64::from(found.checkpoint);
            }
            Err(what) => report.violation(format!("{}, {choice:?}: {what}", place())),
        }
    }
}

impl Report {
    fn violation(&mut self, what: String) {
        self.violations += 1;
        if self.examples.len() < 10 {
            self.examples.push(what);
        }
    }
}
