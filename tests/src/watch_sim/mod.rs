//! Watches in a world that goes wrong: the real worker, log, history, log reader and streams on a simulated disk, the client library's
//! own merge, and a network between them, in one thread and from a seed.
//!
//! - [`process`] is a broker without sockets and threads, [`client`] a program that watches, [`world`] what happens to them.
//! - [`asks`] and [`link`] are what is between them.
//! - [`truth`] knows what was committed, from the log's records; [`judge`] holds what each watch is told against it.
//! - [`bugs`] are errors that people make, planted where the parts meet: a simulation that notices none of them shows nothing.
//!
//! Not here: sockets, ZeroMQ's own queues, threads, the hub that drives the merges. The end-to-end tests have those.

pub mod asks;
pub mod bugs;
pub mod client;
pub mod happened;
pub mod judge;
pub mod link;
pub mod process;
pub mod subject;
pub mod truth;
pub mod violation;
pub mod witness;
pub mod world;

pub use bugs::PlantedBug;
pub use happened::Happened;
pub use violation::Violation;
pub use world::World;

use crate::Dice;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Everything follows from it.
    pub seed: u64,
    /// So many acts in all, at least.
    pub steps: u64,
    /// Most acts of one life.
    pub acts_max: usize,
    /// What goes wrong.
    pub bug: Option<PlantedBug>,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Lives that were lived.
    pub lives: u64,
    /// What happened in them.
    pub happened: Happened,
    /// The seed of a life, how many acts it had, and the rule that was broken in it.
    pub violation: Option<(u64, u64, Violation)>,
}

/// Lives one life after the other, up to the first broken rule.
pub fn simulate(config: &Config) -> Report {
    let mut dice = Dice::new(config.seed);
    let mut report = Report::default();
    while report.happened.steps < config.steps {
        let (seed, acts) = (dice.number(), 100 + dice.below(config.acts_max) as u64);
        let mut world = World::new(seed, config.bug);
        let result = world.live(acts);
        report.lives += 1;
        report.happened.add(&world.happened);
        if let Err(violation) = result {
            report.violation = Some((seed, acts, violation));
            break;
        }
    }
    report
}
