//! Takes what a start reads: the checkpoint's records, then the groups of the log behind it.
//!
//! - The last groups go into the history as well, as many as it may have room for; those before would be dropped again.
//! - A stop that is asked for ends the reading at once; it has changed nothing.
//! - Who waits for long is told how far it is, about once a second.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvbroker_core::{Backlog, History, Loader, State};
use kvbroker_log::{CheckpointRecord, GroupRef, Replay, VisitError};
use kvbroker_protocol::limits;
use kvbroker_table::{replay_into, replay_old, replay_soon};

/// How often a long start says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);
/// The clock is asked once in so many records and groups: there are millions of them in a second.
const LOOK_EVERY: u64 = 16_384;
/// So much of the end of the log goes into the history: who missed something while the broker was away asks for the last of it. In bytes.
const HISTORY_LOG_BYTES: u64 = 16 << 20;
const _: () = assert!(HISTORY_LOG_BYTES <= limits::HISTORY_MEMORY_BYTES_MAX as u64);
/// A record's lengths and revision in a checkpoint.
const RECORD_HEADER_BYTES: u64 = 16;

/// Makes the state of what it is given, and the history of the groups.
pub(crate) struct Loading<'a> {
    stop: &'a AtomicBool,
    loader: Option<Loader>,
    state: State,
    history: History,
    backlog: Backlog,
    directory: String,
    checkpoint_bytes: u64,
    started: Instant,
    next: Instant,
    records: u64,
    record_bytes: u64,
    groups: u64,
    /// At most so many bytes of log come now.
    log_left: u64,
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
            backlog: Backlog::new(),
            directory: directory.display().to_string(),
            checkpoint_bytes,
            started,
            next: started + PROGRESS,
            records: 0,
            record_bytes: 0,
            groups: 0,
            log_left: 0,
            checkpoint_took: None,
        }
    }

    /// The state and its history, once all was read.
    pub(crate) fn finish(mut self) -> (State, History, Took) {
        self.backlog.settle(&mut self.state);
        (self.state, self.history, Took { checkpoint: self.checkpoint_took, all: self.started.elapsed() })
    }

    fn check_stop(&self) -> Result<(), VisitError> {
        if self.stop.load(Ordering::Relaxed) { Err("a stop was asked for".into()) } else { Ok(()) }
    }

    /// True if the groups that come now are of no use to the history.
    fn is_old(&self) -> bool {
        self.log_left > HISTORY_LOG_BYTES
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

    fn log_left(&mut self, bytes: u64) {
        if self.is_old() && bytes <= HISTORY_LOG_BYTES {
            self.backlog.settle(&mut self.state);
        }
        self.log_left = bytes;
    }

    fn coming<'g>(&mut self, groups: &mut dyn Iterator<Item = GroupRef<'g>>) {
        // The others are sorted first.
        if !self.is_old() {
            replay_soon(&mut self.state, groups);
        }
    }

    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        self.check_stop()?;
        self.groups += 1;
        if self.is_time(self.groups) {
            tracing::info!(revision = group.revision, "reading the log in {}", self.directory);
        }
        if self.is_old() {
            return Ok(replay_old(&mut self.state, &mut self.backlog, &group)?);
        }
        Ok(replay_into(&mut self.state, &mut self.history, &group)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use kvbroker_core::{Change, Space};
    use kvbroker_log::{BatchBuilder, FileLog, Log, LogOptions, SimStorage, Storage, SyncMode};

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

    /// Says of the first batches that much more log comes behind them than does.
    struct Exaggerating<'l, 's> {
        loading: &'l mut Loading<'s>,
        batches: u32,
    }

    impl Replay for Exaggerating<'_, '_> {
        fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
            self.loading.record(record)
        }

        fn checkpoint_read(&mut self, revision: u64) -> Result<(), VisitError> {
            self.loading.checkpoint_read(revision)
        }

        fn log_left(&mut self, bytes: u64) {
            let more = if self.batches > 0 { HISTORY_LOG_BYTES } else { 0 };
            self.batches = self.batches.saturating_sub(1);
            self.loading.log_left(bytes + more);
        }

        fn coming<'g>(&mut self, groups: &mut dyn Iterator<Item = GroupRef<'g>>) {
            self.loading.coming(groups);
        }

        fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
            self.loading.group(group)
        }
    }

    #[test]
    fn what_is_too_old_for_the_history_comes_into_the_state_all_the_same() {
        const BATCHES: u32 = 40;
        let disk = SimStorage::new();
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let open =
            |replay: &mut dyn Replay| FileLog::open(Arc::clone(&storage), LogOptions::new(SyncMode::Always), replay).unwrap().0;
        let stop = AtomicBool::new(false);
        let mut log = open(&mut Loading::new(Path::new("data"), 0, &stop));
        let mut batch = BatchBuilder::new();
        for revision in 1..=u64::from(BATCHES) {
            batch.begin(revision);
            batch.group(revision, kvbroker_log::Cause::Request, None);
            let (key, value, _) = record(&format!("key {}", revision % 7), revision);
            if revision % 5 == 0 {
                batch.delete(&key)
            } else {
                batch.put(&key, &[value, vec![0; 9]].concat())
            }
            log.append(&mut batch).unwrap();
        }
        drop(log);
        let mut whole = Loading::new(Path::new("data"), 0, &stop);
        open(&mut whole);
        let (expected, history, _) = whole.finish();
        assert_eq!((expected.revision(), history.oldest_revision(&expected)), (u64::from(BATCHES), 1));
        // The first batch of each process is an opening one.
        for old in [1, BATCHES / 2, BATCHES, 2 * BATCHES] {
            let mut loading = Loading::new(Path::new("data"), 0, &stop);
            open(&mut Exaggerating { loading: &mut loading, batches: old });
            let (state, history, _) = loading.finish();
            assert!(state == expected, "{old} batches");
            let oldest = u64::from(old.min(BATCHES + 1));
            assert_eq!(history.oldest_revision(&state), oldest, "{old} batches");
        }
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
