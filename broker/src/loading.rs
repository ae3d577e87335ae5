//! Takes what a start reads: the checkpoint's records, then the groups of the log behind it.
//!
//! - A stop that is asked for ends the reading at once; it has changed nothing.
//! - Who waits for long is told how far it is, about once a second.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvbroker_core::{History, Loader, State};
use kvbroker_log::{CheckpointRecord, GroupRef, Replay, VisitError};
use kvbroker_table::{replay_into, replay_soon};

/// How often a long start says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);
/// The clock is asked once in so many records and groups: there are millions of them in a second.
const LOOK_EVERY: u64 = 16_384;
/// A record's lengths and revision in a checkpoint.
const RECORD_HEADER_BYTES: u64 = 16;

/// Makes the state of what it is given, and the history of the groups.
pub(crate) struct Loading<'a> {
    stop: &'a AtomicBool,
    loader: Option<Loader>,
    state: State,
    history: History,
    directory: String,
    checkpoint_bytes: u64,
    started: Instant,
    next: Instant,
    records: u64,
    record_bytes: u64,
    groups: u64,
    /// How long the checkpoint took, if there was one.
    checkpoint_took: Option<Duration>,
}

/// What a start has read, and how long it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) checkpoint: Option<Duration>,
    pub(crate) all: Duration,
}

impl<'a> Loading<'a> {
    /// For this directory, whose checkpoint has so many bytes.
    pub(crate) fn new(directory: &Path, checkpoint_bytes: u64, stop: &'a AtomicBool) -> Loading<'a> {
        let started = Instant::now();
        Loading {
            stop,
            loader: None,
            state: State::new(),
            history: History::default(),
            directory: directory.display().to_string(),
            checkpoint_bytes,
            started,
            next: started + PROGRESS,
            records: 0,
            record_bytes: 0,
            groups: 0,
            checkpoint_took: None,
        }
    }

    /// The state and its history, once all was read.
    pub(crate) fn finish(self) -> (State, History, Took) {
        (self.state, self.history, Took { checkpoint: self.checkpoint_took, all: self.started.elapsed() })
    }

    fn check_stop(&self) -> Result<(), VisitError> {
        if self.stop.load(Ordering::Relaxed) { Err("a stop was asked for".into()) } else { Ok(()) }
    }

    fn is_time(&mut self, count: u64) -> bool {
        let is_time = count.is_multiple_of(LOOK_EVERY) && Instant::now() >= self.next;
        if is_time {
            self.next = Instant::now() + PROGRESS;
        }
        is_time
    }
}

impl Replay for Loading<'_> {
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        self.check_stop()?;
        self.records += 1;
        self.record_bytes += RECORD_HEADER_BYTES + (record.key.len() + record.value.len()) as u64;
        if self.is_time(self.records) {
            let percent = (self.record_bytes.saturating_mul(100) / self.checkpoint_bytes.max(1)).min(100);
            tracing::info!(records = self.records, "reading the checkpoint in {}: {percent} %, then the log", self.directory);
        }
        Ok(self.loader.get_or_insert_default().record(record.key, record.value, record.revision)?)
    }

    fn checkpoint_read(&mut self, revision: u64) -> Result<(), VisitError> {
        self.state = self.loader.take().unwrap_or_default().finish(revision)?;
        self.checkpoint_took = Some(self.started.elapsed());
        Ok(())
    }

    fn coming<'g>(&mut self, groups: &mut dyn Iterator<Item = GroupRef<'g>>) {
        replay_soon(&self.state, groups);
    }

    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        self.check_stop()?;
        self.groups += 1;
        if self.is_time(self.groups) {
            tracing::info!(revision = group.revision, "reading the log in {}", self.directory);
        }
        Ok(replay_into(&mut self.state, &mut self.history, &group)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use kvbroker_core::{Change, Space};

    fn record(key: &str, revision: u64) -> (Vec<u8>, Vec<u8>, u64) {
        (format!("t{key}").into_bytes(), vec![1, 7, 0], revision)
    }

    fn give(loading: &mut Loading<'_>, (key, value, revision): &(Vec<u8>, Vec<u8>, u64)) -> Result<(), VisitError> {
        loading.record(CheckpointRecord { key, value, revision: *revision })
    }

    #[test]
    fn a_checkpoint_becomes_the_state() {
        let stop = AtomicBool::new(false);
        let mut loading = Loading::new(Path::new("data"), 1_000, &stop);
        let mut expected = State::new();
        for (name, revision) in [("a", 3), ("b", 1), ("c", 2)] {
            let (key, value, revision) = record(name, revision);
            give(&mut loading, &(key.clone(), value.clone(), revision)).unwrap();
            expected.apply(Change::from_record(&key, Some(&value)).unwrap(), revision);
        }
        expected.apply(Change { space: Space::Table, key: b"none".to_vec(), value: None }, 9);
        loading.checkpoint_read(9).unwrap();
        let (state, history, took) = loading.finish();
        assert_eq!(history.oldest_revision(&state), state.revision() + 1, "nobody knows what was before a checkpoint");
        assert!(state == expected && took.checkpoint.is_some_and(|checkpoint| checkpoint <= took.all));
        // One without a record says only how far it goes.
        let mut loading = Loading::new(Path::new("data"), 1_000, &stop);
        loading.checkpoint_read(5).unwrap();
        assert_eq!(loading.finish().0.revision(), 5);
    }

    #[test]
    fn a_stop_ends_the_reading_and_what_is_no_record_is_refused() {
        let stop = AtomicBool::new(false);
        let mut loading = Loading::new(Path::new("data"), 0, &stop);
        give(&mut loading, &record("b", 1)).unwrap();
        assert!(give(&mut loading, &record("a", 1)).unwrap_err().to_string().contains("order"));
        stop.store(true, Ordering::Relaxed);
        assert!(give(&mut loading, &record("c", 1)).unwrap_err().to_string().contains("stop"));
    }
}
