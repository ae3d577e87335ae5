//! The checkpointer: a thread that makes checkpoints when they are due, at the pace of [`Bucket`], and trims the history.
//!
//! - **A small table** beside a long log is written down as it is in memory, slice by slice, as fast as the worker answers: the log, which has
//!   every change of the same few keys, is not read for it, but for what is written meanwhile.
//! - **Little room**: history is given up for it, between checkpoints and while one is made; said once, counted. One that is made then is
//!   made as fast as can be.
//! - **No room**: said once, counted, and tried again after longer and longer pauses. Nothing else is affected.
//! - **Damage** in what a checkpoint is made from: said as an error, shown by `stats`. The next one is made from the table in memory, at
//!   once, since until there is one a start would be refused.
//! - **A failed sync** ends the process like one of the log does.
//! - **A stop** drops what is being made. There is no last checkpoint: the log has everything.

use std::sync::Arc;
use std::time::Duration;

use kvbroker_log::{CheckpointError, CheckpointPolicy, Checkpointer, LogError, MergeState, OsEntropy, Segments, Storage};

use super::maker::Maker;
use super::nice::step_back;
use super::pace::Bucket;
use super::pauses::Pauses;
use super::shared::{Checkpoints, Doing};
use super::slices::MemoryBase;
use crate::clock::Clock;
use crate::stamper::Stamper;

/// How often the age of the history is looked at; and the room on the disk, unless a segment is sealed earlier.
const TRIM_EVERY_US: u64 = 10_000_000;

/// How long to wait for the worker before looking at the pace again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The checkpointer, to be run on a thread of its own.
pub struct CheckpointThread(Checkpointing<Checkpointer>);

impl CheckpointThread {
    /// For the log in `storage` whose segments these are; `stamper` goes on from where the worker's was.
    pub fn new(
        storage: Arc<dyn Storage>,
        segments: Arc<Segments>,
        policy: CheckpointPolicy,
        shared: Arc<Checkpoints>,
        clock: Box<dyn Clock>,
        stamper: Stamper,
    ) -> CheckpointThread {
        let maker = Checkpointer::new(storage, Arc::clone(&segments), policy, Box::new(OsEntropy));
        CheckpointThread(Checkpointing::new(maker, shared, segments, clock, stamper))
    }

    /// Makes checkpoints until [`Checkpoints::stop`].
    ///
    /// # Errors
    /// What must end the process, as an error of the log does.
    pub fn run(self) -> Result<(), LogError> {
        self.0.run()
    }
}

/// The checkpointer's loop.
pub(crate) struct Checkpointing<M> {
    pub(crate) maker: M,
    pub(crate) shared: Arc<Checkpoints>,
    pub(crate) segments: Arc<Segments>,
    pub(crate) clock: Box<dyn Clock>,
    /// Ages are in the time of the stamps.
    pub(crate) stamper: Stamper,
    pauses: Pauses,
    trim_at_us: u64,
    /// The files can't be trusted: the next one is made from the table, however large that is.
    from_memory: bool,
    /// That history went before its time was said.
    said_given_up: bool,
}

impl<M: Maker> Checkpointing<M> {
    pub(crate) fn new(
        maker: M,
        shared: Arc<Checkpoints>,
        segments: Arc<Segments>,
        clock: Box<dyn Clock>,
        stamper: Stamper,
    ) -> Checkpointing<M> {
        Checkpointing {
            maker,
            shared,
            segments,
            clock,
            stamper,
            pauses: Pauses::default(),
            trim_at_us: 0,
            from_memory: false,
            said_given_up: false,
        }
    }

    /// Runs until it is stopped.
    ///
    /// # Errors
    /// What must end the process.
    pub(crate) fn run(mut self) -> Result<(), LogError> {
        step_back();
        while !self.shared.is_stopping() {
            // Before everything that it could miss.
            let seen = self.segments.changes();
            match self.turn() {
                Ok(wait_us) => {
                    self.segments.wait(seen, Duration::from_micros(wait_us));
                }
                Err(CheckpointError::Fatal(error)) => return Err(error),
                Err(error) => self.failed(error),
            }
        }
        Ok(())
    }

    /// Does what is due; gives how long there is nothing to do unless something happens.
    fn turn(&mut self) -> Result<u64, CheckpointError> {
        let is_due = self.from_memory || self.maker.is_due();
        if is_due && self.pauses.left_us(self.now_us()) == 0 {
            self.make()?;
            self.trim_at_us = 0;
        }
        if self.now_us() >= self.trim_at_us || self.maker.is_low() {
            self.trim()?;
        }
        let now_us = self.now_us();
        let next_us = self.trim_at_us.saturating_sub(now_us);
        let pause_us = self.pauses.left_us(now_us);
        Ok(if is_due && pause_us > 0 { next_us.min(pause_us) } else { next_us })
    }

    fn trim(&mut self) -> Result<(), CheckpointError> {
        self.trim_at_us = self.now_us().saturating_add(TRIM_EVERY_US);
        let stamp_ms = self.stamper.stamp_ms(self.clock.now());
        let removed = self.maker.trim(stamp_ms)?;
        if removed > 0 {
            tracing::debug!(segments = removed, "the history was trimmed");
        }
        let given_up = self.segments.given_up();
        if given_up.bytes > 0 && !self.said_given_up {
            self.said_given_up = true;
            tracing::warn!(
                "the disk is nearly full: history is deleted before its time, so that writes find room ({} MiB so far; stats go on \
                 counting)",
                given_up.bytes >> 20
            );
        }
        Ok(())
    }

    fn now_us(&self) -> u64 {
        self.clock.now().boot_us
    }

    /// Makes a checkpoint, unless a stop comes before its end.
    fn make(&mut self) -> Result<(), CheckpointError> {
        let started_us = self.now_us();
        let from_memory = self.from_memory || self.shared.is_table_small();
        self.shared.begins(if from_memory { Doing::FromMemory } else { Doing::Merging });
        tracing::debug!(from_memory, log_bytes = self.shared.behind().bytes, "a checkpoint is begun");
        let Some(mut merging) = self.begin(from_memory)? else { return Ok(()) };
        let mut bucket = Bucket::new(started_us);
        let mut seen = self.segments.changes();
        loop {
            if self.shared.is_stopping() {
                return self.maker.give_up(merging);
            }
            let is_low = self.maker.is_low();
            if is_low {
                self.trim()?;
            }
            // When it is finished there is more room.
            let is_hasty = is_low || !self.from_memory && self.shared.slices.are_under_way();
            let rate = if is_hasty { None } else { self.shared.behind().rate() };
            // A segment that is sealed meanwhile ends the wait, and may change the rate.
            match bucket.allow(self.now_us(), rate) {
                Err(wait) => seen = self.segments.wait(seen, wait),
                Ok(bytes) => {
                    let progress = self.maker.advance(&mut merging, bytes)?;
                    bucket.spend(progress.bytes);
                    self.shared.standing().percent = progress.percent;
                    match progress.state {
                        MergeState::Working => {}
                        MergeState::Waiting => {
                            self.shared.slices.wait(PATIENCE);
                        }
                        MergeState::Done => break,
                    }
                }
            }
        }
        self.made(started_us);
        Ok(())
    }

    /// None if a stop came.
    fn begin(&mut self, from_memory: bool) -> Result<Option<M::Merging>, CheckpointError> {
        if !from_memory {
            return self.maker.begin().map(Some);
        }
        // After damage as little as can be comes from the files.
        let seals = self.from_memory || self.shared.is_seal_worth();
        match MemoryBase::begin(Arc::clone(&self.shared), seals) {
            Some(base) => self.maker.begin_from_memory(base).map(Some),
            None => Ok(None),
        }
    }

    fn made(&mut self, started_us: u64) {
        let ms = self.now_us().saturating_sub(started_us) / 1_000;
        if self.from_memory {
            tracing::warn!("a checkpoint was made from memory: the table does not depend on the damaged file any more");
        } else if self.pauses.is_failing() {
            tracing::info!("a checkpoint could be made again");
        }
        self.from_memory = false;
        self.pauses.succeeded();
        self.shared.made(ms);
        if let Some(checkpoint) = self.segments.checkpoint() {
            tracing::debug!(
                revision = checkpoint.revision,
                records = checkpoint.records,
                bytes = checkpoint.bytes,
                ms,
                log_bytes = self.segments.log_bytes(),
                "a checkpoint is finished"
            );
        }
    }

    /// Takes note of an error that does not end the process.
    fn failed(&mut self, error: CheckpointError) {
        if self.shared.is_stopping() {
            return;
        }
        let is_damage = matches!(error, CheckpointError::Damaged(_));
        // From memory it may work at once; what fails there fails for another reason.
        let in_a_row = if is_damage && !self.from_memory { 0 } else { self.pauses.failed(self.now_us()) };
        self.from_memory |= is_damage;
        let why = error.into_source().fact();
        self.shared.failed(&why, is_damage);
        if is_damage {
            tracing::error!(
                "no checkpoint can be made from the files, because {why} (The broker goes on: everything is in memory. It deletes no \
                 file of the log now, and makes the next checkpoint from memory; before that is finished, this data can't be \
                 started again. Check the disk.)"
            );
        } else if in_a_row == 1 {
            tracing::warn!(
                "no checkpoint could be made: {why} (It is tried again. Meanwhile the log grows, and writes are refused once it is \
                 too long.)"
            );
        } else {
            tracing::debug!(in_a_row, "no checkpoint could be made: {why}");
        }
    }
}

#[cfg(test)]
#[path = "checkpointer_tests.rs"]
mod tests;
