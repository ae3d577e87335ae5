//! What came of the rows, kept whole.

use serde::Serialize;

use crate::facts::Facts;
use crate::fields::FieldResult;
use crate::rows::{Round, Sample, Side, Target};
use crate::stats::Spread;

/// Changes when a reader of the JSON would have to.
pub const FORMAT: u32 = 1;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Results<'a> {
    /// [`FORMAT`].
    pub format: u32,
    /// Seconds since 1970 at the begin.
    pub began_unix_s: u64,
    /// How long all took.
    pub took_s: f64,
    /// The command line.
    pub command: Vec<String>,
    /// The machine.
    pub facts: &'a Facts,
    /// What has targets.
    pub rows: &'a [RowResult],
    /// Side by side.
    pub fields: &'a [FieldResult],
}

/// What came of one row.
#[derive(Debug, Serialize)]
pub struct RowResult {
    /// As in `--only`.
    pub name: String,
    /// What is compared.
    pub what: String,
    /// What the ratio is to be.
    pub target: Option<Target>,
    /// Of the figures.
    pub unit: &'static str,
    /// Ours and theirs; None if it has not begun.
    pub sides: Option<[Side; 2]>,
    /// In their order.
    pub rounds: Vec<Round>,
    /// Why there are not all of them.
    pub failed: Option<String>,
}

impl RowResult {
    fn spread(&self, pick: impl Fn(&Round) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(pick))
    }

    /// Of all rounds.
    pub fn ratio(&self) -> Option<Spread> {
        self.spread(|round| Some(round.ratio))
    }

    /// A side's figure over all rounds.
    pub fn figure(&self, side: usize) -> Option<Spread> {
        self.spread(|round| round.sides.get(side).map(|sample| sample.figure))
    }

    /// A side's detail over the rounds that have it.
    pub fn detail(&self, side: usize, name: &str) -> Option<Spread> {
        let of = |sample: &Sample| sample.details.get(name).copied();
        self.spread(|round| round.sides.get(side).and_then(of))
    }
}
