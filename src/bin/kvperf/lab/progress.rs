//! Lines on stderr that say what is measured and how long everything will still take.

use std::time::Instant;

use crate::say;

/// How far it is.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
    begun: Instant,
    expected_s: f64,
    done_s: f64,
    /// What the present step was expected to take.
    step_s: f64,
}

/// How much of the work must be behind us before it tells how fast this machine is.
const TELLING_PART: f64 = 0.05;

impl Progress {
    pub(super) fn new(quiet: bool) -> Progress {
        Progress { is_shown: !quiet, begun: Instant::now(), expected_s: 0.0, done_s: 0.0, step_s: 0.0 }
    }

    /// All steps together are expected to take so long.
    pub(super) fn expect(&mut self, seconds: f64) {
        self.begun = Instant::now();
        self.expected_s = seconds;
    }

    /// The step before is done, and this one begins.
    pub(super) fn step(&mut self, what: &str, expected_s: f64) {
        self.done_s += self.step_s;
        self.step_s = expected_s;
        if self.is_shown {
            let left = self.left_s(self.begun.elapsed().as_secs_f64());
            say(&format!("kvperf report: about {} left: {what}\n", time_text(left)));
        }
    }

    /// What is expected to be left, by how long it took so far.
    fn left_s(&self, elapsed_s: f64) -> f64 {
        let left = (self.expected_s - self.done_s).max(0.0);
        let slowness = if self.done_s > self.expected_s * TELLING_PART { elapsed_s / self.done_s } else { 1.0 };
        left * slowness
    }
}

fn time_text(seconds: f64) -> String {
    let seconds = seconds.ceil().max(0.0) as u64;
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_machine_takes_longer_for_the_rest_as_well() {
        let mut progress = Progress::new(true);
        progress.expect(100.0);
        progress.step("one", 40.0);
        assert_eq!(progress.left_s(1.0), 100.0);
        progress.step("two", 60.0);
        assert_eq!(progress.left_s(80.0), 120.0);
        progress.step("three", 0.0);
        assert_eq!(progress.left_s(200.0), 0.0);
        assert_eq!([time_text(61.2), time_text(5.0)], ["1:02 min", "0:05 min"]);
    }
}
