//! A line for each round on stderr, with the time that is left.

use std::time::{Duration, Instant};

/// How far it is.
pub struct Progress {
    began: Instant,
    count: usize,
    number: usize,
    /// What is expected of the parts that have ended, and of all, seconds.
    behind_s: f64,
    all_s: f64,
}

impl Progress {
    /// Before the first of so many parts, which will take so long together.
    pub fn new(count: usize, all_s: f64) -> Progress {
        Progress { began: Instant::now(), count, number: 0, behind_s: 0.0, all_s }
    }

    /// The next part begins.
    pub fn begins(&mut self, name: &str, what: &str) {
        self.number += 1;
        eprintln!("[{}/{}, {}] {name}: {what}", self.number, self.count, self.left(0.0));
    }

    /// Something happened in a part of which so much, by what was expected, is done.
    pub fn says(&self, text: &str, done_s: f64) {
        eprintln!("  {text}; {}", self.left(done_s));
    }

    /// A part is over of which so much was expected.
    pub fn ends(&mut self, expected_s: f64) {
        self.behind_s += expected_s;
    }

    /// The rest of what is expected, corrected by how it went so far.
    fn left(&self, of_this_part_s: f64) -> String {
        let gone = self.began.elapsed().as_secs_f64();
        let done = self.behind_s + of_this_part_s;
        // At the begin there is nothing to correct by.
        let pace = if done > 10.0 { gone / done } else { 1.0 };
        let left = Duration::from_secs_f64(((self.all_s - done) * pace).max(0.0)).as_secs();
        format!("{}:{:02} gone, about {}:{:02} left", gone as u64 / 60, gone as u64 % 60, left / 60, left % 60)
    }
}
