//! [`MemoryLog`]: the log's twin in memory, for tests and simulations of the table worker.
//!
//! - It accepts and refuses exactly the batches that [`FileLog`](crate::FileLog) does, and its proofs are of level `Synced`.
//! - It can be told to fail.

use crate::batch::BatchBuilder;
use crate::error::LogError;
use crate::format::BATCH_HEADER_BYTES;
use crate::log::{Log, LogStats, PersistLevel, Persisted, check_batch};
use crate::payload::{GroupRef, Groups};
use crate::reader::Chain;

/// A log that lives and ends with the process.
#[derive(Debug)]
pub struct MemoryLog {
    /// Stamp and payload of each batch.
    batches: Vec<(u64, Vec<u8>)>,
    chain: Chain,
    fail_after: Option<u64>,
    unmarked: bool,
    closed: bool,
    out_of_service: Option<String>,
    stats: LogStats,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> Self {
        Self {
            batches: Vec::new(),
            chain: Chain::START,
            fail_after: None,
            unmarked: false,
            closed: false,
            out_of_service: None,
            stats: LogStats::default(),
        }
    }

    /// Lets `appends` more appends through, then fails as a full disk does.
    pub fn fail_after(&mut self, appends: u64) {
        self.fail_after = Some(appends);
    }

    /// Takes batches again after a clean stop, as a log does that is opened the next time.
    pub fn reopen(&mut self) {
        if std::mem::take(&mut self.closed) {
            self.out_of_service = None;
        }
    }

    /// Gives every group to `visitor`, in order.
    pub fn replay(&self, visitor: &mut dyn FnMut(GroupRef<'_>)) {
        for (stamp_ms, payload) in &self.batches {
            Groups::new(payload, *stamp_ms).for_each(&mut *visitor);
        }
    }

    /// True after a clean stop.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn check_in_service(&self) -> Result<(), LogError> {
        match &self.out_of_service {
            Some(why) => Err(LogError::OutOfService(why.clone())),
            None => Ok(()),
        }
    }

    fn try_append(&mut self, batch: &mut BatchBuilder) -> Result<(), LogError> {
        let batch = batch.finish().map_err(LogError::BadBatch)?;
        check_batch(&batch, &self.chain)?;
        if batch.groups == 0 {
            return Ok(());
        }
        if let Some(left) = &mut self.fail_after {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| LogError::Full { path: "(memory)".into(), source: std::io::ErrorKind::StorageFull.into() })?;
        }
        self.batches.push((batch.stamp_ms, batch.payload().to_vec()));
        self.chain.next_sequence += 1;
        self.chain.last_revision = batch.last_revision.unwrap_or(self.chain.last_revision);
        self.chain.last_stamp_ms = batch.stamp_ms;
        self.unmarked = true;
        self.stats.bytes += (BATCH_HEADER_BYTES + batch.payload().len()) as u64;
        self.stats.batches += 1;
        self.stats.records += u64::from(batch.records);
        self.stats.syncs += 1;
        Ok(())
    }
}

impl Log for MemoryLog {
    fn append(&mut self, batch: &mut BatchBuilder) -> Result<Persisted, LogError> {
        self.check_in_service()?;
        self.try_append(batch).inspect_err(|error| self.out_of_service = Some(error.to_string()))?;
        Ok(self.persisted())
    }

    fn persisted(&self) -> Persisted {
        Persisted::new(PersistLevel::Synced, self.chain.last_revision)
    }

    fn needs_marker(&self) -> bool {
        self.unmarked
    }

    fn mark(&mut self, stamp_ms: u64) -> Result<(), LogError> {
        self.check_in_service()?;
        self.chain.last_stamp_ms = self.chain.last_stamp_ms.max(stamp_ms);
        self.unmarked = false;
        Ok(())
    }

    fn tick(&mut self, _now_ms: u64) -> Result<Persisted, LogError> {
        self.check_in_service()?;
        Ok(self.persisted())
    }

    fn seal(&mut self) -> Result<(), LogError> {
        self.check_in_service()
    }

    fn close(&mut self, stamp_ms: u64) -> Result<(), LogError> {
        self.mark(stamp_ms)?;
        self.closed = true;
        self.out_of_service = Some("it was closed".to_owned());
        Ok(())
    }

    fn oldest_revision(&self) -> u64 {
        1
    }

    fn stats(&self) -> LogStats {
        self.stats
    }
}
