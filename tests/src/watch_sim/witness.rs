//! A log that stands around the real one and writes down what passes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvbroker_log::{BatchBuilder, FileLog, Log, LogError, LogStats, Persisted};

use super::truth::Committed;

/// What has passed.
#[derive(Debug, Default)]
pub struct Passed {
    /// Confirmed by the log.
    pub confirmed: Vec<Committed>,
    /// Given to the log, which failed.
    pub in_doubt: Vec<Committed>,
}

/// Shared by the witness and the simulation.
pub type Notes = Arc<Mutex<Passed>>;

/// The notes.
pub fn notes(notes: &Notes) -> MutexGuard<'_, Passed> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hears of what is about to be committed.
pub type Hearer = Box<dyn Fn(&[Committed]) + Send>;

/// The log with its witness.
pub struct WitnessLog {
    /// The real one.
    pub log: FileLog,
    /// What passes.
    pub notes: Notes,
    /// Hears of a batch before it is in the log: what no broker may let happen.
    pub before: Option<Hearer>,
    /// Spoils what the log is given.
    pub spoil: Option<fn(&mut BatchBuilder)>,
}

impl Log for WitnessLog {
    fn append(&mut self, batch: &mut BatchBuilder) -> Result<Persisted, LogError> {
        if let Some(spoil) = self.spoil {
            spoil(batch);
        }
        let mut passing = Vec::new();
        batch.visit(&mut |group| passing.extend(Committed::of(&group))).map_err(LogError::BadBatch)?;
        if let Some(before) = &self.before {
            before(&passing);
        }
        let result = self.log.append(batch);
        let mut notes = notes(&self.notes);
        if result.is_ok() {
            notes.confirmed.extend(passing)
        } else {
            notes.in_doubt = passing
        }
        result
    }

    fn persisted(&self) -> Persisted {
        self.log.persisted()
    }

    /// The worker would look at a real clock for that. [`super::process::Process::mark`] does it instead.
    fn needs_marker(&self) -> bool {
        false
    }

    fn mark(&mut self, stamp_ms: u64) -> Result<(), LogError> {
        self.log.mark(stamp_ms)
    }

    fn tick(&mut self, now_ms: u64) -> Result<Persisted, LogError> {
        self.log.tick(now_ms)
    }

    fn seal(&mut self) -> Result<(), LogError> {
        self.log.seal()
    }

    fn close(&mut self, stamp_ms: u64) -> Result<(), LogError> {
        self.log.close(stamp_ms)
    }

    fn oldest_revision(&self) -> u64 {
        self.log.oldest_revision()
    }

    fn stats(&self) -> LogStats {
        self.log.stats()
    }
}
