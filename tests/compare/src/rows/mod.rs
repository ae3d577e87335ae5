//! The rows of the tables: what is measured beside what, and what is to be reached.
//!
//! A row begins (servers are started and filled) and then has rounds; each gives a figure of either side and their ratio. To add rows: a file
//! here with a function that gives them, and its name in [`all`].

mod calm;
mod durable;
mod growth;
mod latency;
mod size;
mod throughput;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Failed;
use crate::options::Options;

/// What a row compares, and when that is good.
pub struct Row {
    /// For `--only`.
    pub name: String,
    /// For the reader.
    pub what: String,
    /// What the ratio is to be; None: it is only told.
    pub target: Option<Target>,
    /// Of the figures.
    pub unit: &'static str,
    /// About how long a round takes beside the two turns, and a beginning, seconds: for the time that is left.
    pub costs_s: Costs,
    /// More rounds than this are not made.
    pub rounds_max: usize,
    /// Starts what is to be measured.
    pub begin: Box<Begin>,
}

/// Starts and fills the servers of a row.
pub type Begin = dyn Fn(&Options) -> Result<Box<dyn Contest>, Failed>;

/// What a row costs beside its turns, seconds.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// At its beginning.
    pub begin: f64,
    /// In each round.
    pub round: f64,
}

/// What a ratio (ours to theirs) is to be.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Target {
    /// At least this; else at most.
    pub is_least: bool,
    /// The target.
    pub must: f64,
    /// What would be fine.
    pub stretch: Option<f64>,
}

impl Target {
    /// At least this.
    pub const fn at_least(must: f64) -> Target {
        Target { is_least: true, must, stretch: None }
    }

    /// At most this.
    pub const fn at_most(must: f64) -> Target {
        Target { is_least: false, must, stretch: None }
    }

    /// And this would be fine.
    pub const fn stretch(self, stretch: f64) -> Target {
        Target { stretch: Some(stretch), ..self }
    }

    /// True if a ratio reaches it.
    pub fn is_met(&self, ratio: f64) -> bool {
        if self.is_least { ratio >= self.must } else { ratio <= self.must }
    }
}

impl Row {
    /// How many rounds are made.
    pub fn rounds(&self, options: &Options) -> usize {
        options.rounds.min(self.rounds_max)
    }

    /// About how long it takes.
    pub fn expected_s(&self, options: &Options) -> f64 {
        self.costs_s.begin + self.rounds(options) as f64 * (2.0 * options.seconds.as_secs_f64() + self.costs_s.round)
    }
}

/// A row that is being measured.
pub trait Contest {
    /// Name and settings of both sides, ours first.
    fn sides(&self) -> [Side; 2];
    /// One round. Who comes first changes with its number.
    fn round(&mut self, number: usize) -> Result<Round, Failed>;
}

/// Who is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Name and version.
    pub name: String,
    /// How it is set up.
    pub settings: String,
}

/// A side's result in one round.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// What the row is about, in its unit.
    pub figure: f64,
    /// What else was measured, by names that have their unit. The table has `server_cpu_us` and `generator_cpu_us` (for one operation).
    pub details: BTreeMap<&'static str, f64>,
}

/// One round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Ours and theirs.
    pub sides: [Sample; 2],
    /// Ours to theirs.
    pub ratio: f64,
}

impl Round {
    /// With the ratio of the two figures.
    pub fn of(sides: [Sample; 2]) -> Round {
        let ratio = sides[0].figure / sides[1].figure;
        Round { sides, ratio }
    }
}

/// All rows in the order of the tables.
pub fn all() -> Vec<Row> {
    [throughput::rows(), latency::rows(), durable::rows(), size::rows(), calm::rows(), growth::rows()]
        .into_iter()
        .flatten()
        .collect()
}
