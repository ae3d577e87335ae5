//! A line for each round on stderr, with the time that is left.

use std::time::{Duration, Instant};

use crate::Failed;
use crate::options::Options;
use crate::rows::{Round, Row};
use crate::stats::figure;

/// How far it is.
pub struct Progress {
    began: Instant,
    turns_s: f64,
    rounds: usize,
    rows: usize,
    row: usize,
    /// What is expected of the rows that have ended, and of all.
    behind_s: f64,
    all_s: f64,
}

impl Progress {
    /// Before the first row.
    pub fn new(options: &Options, rows: &[Row]) -> Progress {
        let mut progress = Progress {
            began: Instant::now(),
            turns_s: 2.0 * options.seconds.as_secs_f64(),
            rounds: options.rounds,
            rows: rows.len(),
            row: 0,
            behind_s: 0.0,
            all_s: 0.0,
        };
        progress.all_s = rows.iter().map(|row| progress.expected_s(row)).sum();
        progress
    }

    fn expected_s(&self, row: &Row) -> f64 {
        row.costs_s.begin + self.rounds.min(row.rounds_max) as f64 * (self.turns_s + row.costs_s.round)
    }

    /// Starts its servers.
    pub fn begins(&mut self, row: &Row) {
        self.row += 1;
        eprintln!("[{}/{}, {}] {}: {}", self.row, self.rows, self.left(0.0), row.name, row.what);
    }

    /// Has done one more round.
    pub fn round(&self, row: &Row, number: usize, round: &Round) {
        let rounds = self.rounds.min(row.rounds_max);
        let share = self.expected_s(row) * (number + 1) as f64 / rounds as f64;
        let [ours, theirs] = [0, 1].map(|side| figure(round.sides[side].figure));
        let ratio = round.ratio;
        eprintln!(
            "  round {} of {rounds}: {ours} beside {theirs} {}, ratio {ratio:.2}; {}",
            number + 1,
            row.unit,
            self.left(share)
        );
    }

    /// Could not be measured.
    pub fn failed(&self, row: &Row, error: &Failed) {
        eprintln!("  {} has failed: {error}", row.name);
    }

    /// Is over.
    pub fn ends(&mut self, row: &Row) {
        self.behind_s += self.expected_s(row);
    }

    /// The rest of what is expected, corrected by how it went so far.
    fn left(&self, of_this_row_s: f64) -> String {
        let gone = self.began.elapsed().as_secs_f64();
        let done = self.behind_s + of_this_row_s;
        // At the begin there is nothing to correct by.
        let pace = if done > 10.0 { gone / done } else { 1.0 };
        let left = Duration::from_secs_f64(((self.all_s - done) * pace).max(0.0)).as_secs();
        format!("{}:{:02} gone, about {}:{:02} left", gone as u64 / 60, gone as u64 % 60, left / 60, left % 60)
    }
}
