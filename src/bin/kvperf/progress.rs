//! One line on the terminal that says how far a stage is; nothing where stderr is none.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use crate::report::grouped;
use crate::stages::Stage;

/// Clears the line and returns to its beginning.
const CLEAR: &str = "\r\x1b[K";

/// What is shown.
pub(crate) struct Progress {
    is_shown: bool,
    now: Option<(Stage, usize, Instant)>,
}

impl Progress {
    /// For this process's stderr.
    pub(crate) fn new(quiet: bool) -> Progress {
        Progress { is_shown: !quiet && std::io::stderr().is_terminal(), now: None }
    }

    /// True if somebody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        self.is_shown
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

    /// All clients together have done so many operations of it.
    pub(crate) fn operations(&mut self, operations: u64) {
        let Some((stage, clients, since)) = self.now else { return };
        let seconds = since.elapsed().as_secs_f64();
        let rate = operations as f64 / seconds.max(0.001);
        let done = grouped(operations as f64);
        self.show(&format!("{clients} {}: {stage}  {done} operations, {}/s, {seconds:.1} s", plural(clients), grouped(rate)));
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
