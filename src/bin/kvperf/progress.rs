//! One line on the terminal that says how far a stage is; nothing where stderr is none.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::report::grouped;
use crate::stages::Stage;
use crate::timeline::Timeline;

/// Clears the line and returns to its beginning.
const CLEAR: &str = "\r\x1b[K";

/// How often it changes, at most.
const PAUSE: Duration = Duration::from_millis(200);
/// What its rate and latency are of.
const WINDOW_NS: u64 = 1_000_000_000;

/// What is shown.
pub(crate) struct Progress {
    is_shown: bool,
    now: Option<(Stage, usize, Instant)>,
    shown: Option<Instant>,
}

impl Progress {
    /// For this process's stderr.
    pub(crate) fn new(quiet: bool) -> Progress {
        Progress { is_shown: !quiet && std::io::stderr().is_terminal(), now: None, shown: None }
    }

    /// Clients connect and insert what they need.
    pub(crate) fn preparing(&mut self, clients: usize) {
        self.now = None;
        self.show(&format!("{clients} {}: connecting", plural(clients)));
    }

    /// A stage begins.
    pub(crate) fn stage(&mut self, stage: Stage, clients: usize) {
        self.now = Some((stage, clients, Instant::now()));
        self.show(&format!("{clients} {}: {stage}", plural(clients)));
    }

    /// All clients together have told so much of it: shows the last second.
    pub(crate) fn slices(&mut self, timeline: &Timeline) {
        let Some((stage, clients, since)) = self.now.filter(|_| self.is_shown) else { return };
        if self.shown.is_some_and(|shown| shown.elapsed() < PAUSE) {
            return;
        }
        self.shown = Some(Instant::now());
        // Of the last slice that was told only some clients may have told theirs.
        let end = timeline.end().saturating_sub(1);
        let begin = end.saturating_sub((WINDOW_NS / timeline.slice_ns).max(1));
        let Some(moment) = timeline.moment(begin, end) else { return };
        let rate = moment.operations as f64 / ((end - begin) as f64 * timeline.slice_ns as f64 / 1e9);
        self.show(&format!(
            "{clients} {}: {stage}  {} ops/s, p50 {} µs, p99 {} µs, {:.0} s",
            plural(clients),
            grouped(rate),
            grouped(moment.p50_us),
            grouped(moment.p99_us),
            since.elapsed().as_secs_f64()
        ));
    }

    /// Everything that was acknowledged is looked at.
    pub(crate) fn verifying(&mut self, clients: usize) {
        self.now = None;
        self.show(&format!("{clients} {}: comparing every acknowledged write", plural(clients)));
    }

    /// Keys are removed.
    pub(crate) fn cleaning(&mut self) {
        self.now = None;
        self.show("removing the keys that are left");
    }

    /// Nothing is shown any more.
    pub(crate) fn clear(&mut self) {
        self.show("");
    }

    fn show(&self, text: &str) {
        if self.is_shown {
            // Not seen, not missed.
            let _ = write!(std::io::stderr(), "{CLEAR}{text}");
        }
    }
}

fn plural(clients: usize) -> &'static str {
    if clients == 1 { "client" } else { "clients" }
}
