//! Side by side: a field of several products under the same loads, each with the durability that the field is about.
//!
//! - They take turns as in a duel, and the one that begins changes with each round.
//! - A product that fails is shown as failed; the others go on.

mod keys;
mod queues;

use std::time::Duration;

use serde::Serialize;

use crate::Failed;
use crate::options::Options;
use crate::progress::Progress;
use crate::rows::{Sample, Side};
use crate::stats::Spread;

/// More rounds, or longer turns, are for the rows with targets.
const ROUNDS_MAX: usize = 3;
const SECONDS_MAX: f64 = 1.0;
/// What a turn takes beside its window, and a field at its beginning, seconds.
const TURN_S: f64 = 0.5;
const BEGIN_S: f64 = 8.0;

/// One table.
pub struct Field {
    /// For `--only`.
    pub name: &'static str,
    /// What the products of this field have in common.
    pub title: &'static str,
    counted: Counted,
    /// What ours are to be to the best of the others, at least.
    target: Option<f64>,
    /// Their names; a contender knows them by their numbers.
    loads: Vec<String>,
    starts: Vec<(&'static str, Box<Start>)>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Counted {
    /// Puts and gets.
    Operations,
    /// Items that were pushed, delivered and acknowledged.
    Cycles,
}

impl Counted {
    /// For the reader.
    pub fn name(self) -> &'static str {
        match self {
            Counted::Operations => "Operations",
            Counted::Cycles => "Cycles",
        }
    }
}

/// A product in a field, waiting for its turns.
trait Contender {
    /// Name and settings.
    fn side(&self) -> Side;
    /// One turn under the load of this number.
    fn turn(&self, load: usize, window: Duration) -> Result<Sample, Failed>;
}

type Start = dyn Fn(&Options) -> Result<Box<dyn Contender>, Failed>;

/// What came of a field.
#[derive(Debug, Serialize)]
pub struct FieldResult {
    /// As in `--only`.
    pub name: &'static str,
    /// What the products have in common.
    pub title: &'static str,
    /// What is counted.
    pub counted: Counted,
    /// What ours are to be to the best of the others, at least.
    pub target: Option<f64>,
    /// For the reader; one for each of a product's loads.
    pub loads: Vec<String>,
    /// Ours first.
    pub products: Vec<Product>,
}

/// What came of one product in a field.
#[derive(Debug, Serialize)]
pub struct Product {
    /// Name, version and settings; the name alone if it did not start.
    pub side: Side,
    /// For each load its rounds.
    pub loads: Vec<Vec<Sample>>,
    /// Why there are not all of them.
    pub failed: Option<String>,
}

impl FieldResult {
    /// A product's operations a second under a load.
    pub fn per_s(&self, product: usize, load: usize) -> Option<Spread> {
        Spread::of(self.rounds(product, load).iter().map(|sample| sample.figure))
    }

    /// Ours to a product's, round by round.
    pub fn ratio(&self, product: usize, load: usize) -> Option<Spread> {
        let (ours, theirs) = (self.rounds(0, load), self.rounds(product, load));
        Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours.figure / theirs.figure))
    }

    /// A detail of a product under a load.
    pub fn detail(&self, product: usize, load: usize, name: &str) -> Option<Spread> {
        Spread::of(self.rounds(product, load).iter().filter_map(|sample| sample.details.get(name).copied()))
    }

    /// Of the products beside ours the one that does most under a load, and what ours is to it.
    pub fn best_other(&self, load: usize) -> Option<(&str, f64)> {
        let others = (1..self.products.len()).filter_map(|product| Some((product, self.per_s(product, load)?.median)));
        let (best, _) = others.max_by(|one, other| one.1.total_cmp(&other.1))?;
        Some((&self.products.get(best)?.side.name, self.ratio(best, load)?.median))
    }

    fn rounds(&self, product: usize, load: usize) -> &[Sample] {
        self.products.get(product).and_then(|product| product.loads.get(load)).map_or(&[], Vec::as_slice)
    }
}

impl Field {
    /// About how long it takes.
    pub fn expected_s(&self, options: &Options) -> f64 {
        let turns = self.starts.len() * self.loads.len() * rounds(options);
        BEGIN_S + turns as f64 * (window_s(options) + TURN_S)
    }

    /// Measures it.
    pub fn measure(&self, options: &Options, progress: &Progress) -> FieldResult {
        let mut servers = Vec::new();
        let mut products = Vec::new();
        for (name, start) in &self.starts {
            let started = start(options);
            let side = match &started {
                Ok(contender) => contender.side(),
                Err(_) => Side { name: (*name).to_owned(), settings: "–".to_owned() },
            };
            let failed = started.as_ref().err().map(|error| {
                progress.says(&format!("{name} has failed: {error}"), 0.0);
                error.to_string()
            });
            products.push(Product { side, loads: vec![Vec::new(); self.loads.len()], failed });
            servers.push(started.ok());
        }
        let rounds = rounds(options);
        let steps = (self.loads.len() * rounds) as f64;
        for (at, load) in self.loads.iter().enumerate() {
            let window = Duration::from_secs_f64(window_s(options));
            for round in 0..rounds {
                let mut told = Vec::new();
                for step in 0..servers.len() {
                    let number = (step + round) % servers.len();
                    let Some(server) = &servers[number] else { continue };
                    match server.turn(at, window) {
                        Ok(sample) => {
                            told.push((number, crate::stats::figure(sample.figure)));
                            products[number].loads[at].push(sample);
                        }
                        Err(error) => {
                            progress.says(&error.to_string(), 0.0);
                            products[number].failed = Some(error.to_string());
                            servers[number] = None;
                        }
                    }
                }
                told.sort();
                let told: Vec<String> = told.into_iter().map(|(_, figure)| figure).collect();
                let share = self.expected_s(options) * ((at * rounds + round + 1) as f64 / steps);
                progress.says(&format!("{load}, round {} of {rounds}: {} a second", round + 1, told.join(", ")), share);
            }
        }
        let Field { name, title, counted, target, .. } = *self;
        FieldResult { name, title, counted, target, loads: self.loads.clone(), products }
    }
}

fn rounds(options: &Options) -> usize {
    options.rounds.min(ROUNDS_MAX)
}

fn window_s(options: &Options) -> f64 {
    options.seconds.as_secs_f64().min(SECONDS_MAX)
}

/// All of them.
pub fn all() -> Vec<Field> {
    keys::fields().into_iter().chain(queues::fields()).collect()
}
