//! [`Checkpointer`]: decides when a checkpoint is made, makes it in steps, and removes the segments that nobody needs any more.
//!
//! - A state machine: no thread, no clock, no randomness of its own. Whoever owns it calls it beside the log, at its own pace.
//! - A checkpoint is in force ([`Segments::checkpoint`]) after it was synced, read back past the page cache, compared, renamed, and the
//!   directory synced; never before.
//! - A segment is removed only if a checkpoint covers it that *this* checkpointer has published: that the one found at a start has its
//!   name durably is not known, for a failed sync leaves what looks the same. Oldest first, the directory synced after each.
//! - History gives way to the log: while the disk has less than [`CheckpointPolicy::reserve_bytes`], what may be removed at all is
//!   removed before its time. And a checkpoint gives way to the log: it ends before it takes the log's last room.
//! - Once something that a checkpoint is made from could not be read back, nothing is removed until one made from memory is in force.
//!
//! Caveats: after an error the files of the unfinished checkpoint are removed, and the [`Merging`] is of no use any more. A
//! [`CheckpointError::Fatal`] ends the process as an error of the log does. Where it is not known how much room a disk has, history
//! stays for its time.

use std::io;
use std::sync::Arc;

use crate::checkpoint::{
    BaseRecords, CHECKPOINT_FILE, CHECKPOINT_TEMPORARY, CheckpointReader, CheckpointSummary, Merge, MergeBase, MergeError,
    MergeOptions, MergeState, remove_checkpoint_temporaries,
};
use crate::entropy::{Entropy, random_u64};
use crate::error::LogError;
use crate::format::segment_name;
use crate::segments::{CheckpointInfo, Segments};
use crate::storage::Storage;

/// When checkpoints are made, and how much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPolicy {
    /// Sealed log up to so many bytes is never worth a checkpoint.
    pub floor_bytes: u64,
    /// Memory for sorting, bytes.
    pub memory_bytes: usize,
    /// Output begins its way to the disk each time after so many bytes.
    pub piece_bytes: u64,
    /// A segment that is covered is kept until everything in it is so old, ms.
    pub history_ms: u64,
    /// Covered segments are kept up to so many bytes in all.
    pub history_bytes: u64,
    /// While the disk has less room than this, covered segments are removed before their time. Bytes.
    pub reserve_bytes: u64,
}

impl Default for CheckpointPolicy {
    /// A floor of 64 MiB; 32 MiB of memory; output in pieces of 1 MiB; an hour or 4 GiB of history. A reserve of 512 MiB: as long as the log
    /// of a small table may get before its writers must wait (256 MiB), with the sorted runs of it.
    fn default() -> Self {
        Self {
            floor_bytes: 64 << 20,
            memory_bytes: 32 << 20,
            piece_bytes: 1 << 20,
            history_ms: 3_600_000,
            history_bytes: 4 << 30,
            reserve_bytes: 512 << 20,
        }
    }
}

/// Room that a checkpoint leaves to the log: a segment, but no more than this. In bytes.
const LOG_ROOM_MAX: u64 = 64 << 20;

impl CheckpointPolicy {
    /// How much of the log makes a checkpoint due: half of the one in force, but at least the floor, and at least a segment: what is not
    /// sealed can't be taken in, so writers must never wait for that. In bytes.
    pub fn due_bytes(&self, segments: &Segments) -> u64 {
        self.floor_bytes.max(segments.segment_bytes()).max(segments.checkpoint().map_or(0, |checkpoint| checkpoint.bytes / 2))
    }

    /// How long the log behind the checkpoint may get before its writers must wait: four times what makes one due. In bytes.
    pub fn log_bytes_max(&self, segments: &Segments) -> u64 {
        self.due_bytes(segments).saturating_mul(4)
    }
}

/// Why no checkpoint could be made, or no segment removed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The checkpoint in force or a segment behind it can't be read as it was written. From now on nothing is removed; the next
    /// checkpoint must come from memory.
    #[error("a checkpoint can't be made from the files: {}", .0.fact())]
    Damaged(#[source] LogError),
    /// There is no room, or what was written didn't read back. Nothing is lost; it may be tried again.
    #[error("a checkpoint can't be written now: {}", .0.fact())]
    Later(#[source] LogError),
    /// A sync failed, or the disk did: the process must end as when the log fails.
    #[error("{0}")]
    Fatal(#[source] LogError),
}

impl CheckpointError {
    fn of_output(error: LogError) -> Self {
        match error {
            LogError::Full { .. } | LogError::Damaged { .. } | LogError::BadRecord(_) => Self::Later(error),
            // `ulimit -f`, or more than the file system allows in one file: the log's files are smaller, and go on.
            LogError::Io { ref source, .. } if source.kind() == io::ErrorKind::FileTooLarge => Self::Later(error),
            error => Self::Fatal(error),
        }
    }

    /// The log's error.
    pub fn into_source(self) -> LogError {
        match self {
            Self::Damaged(source) | Self::Later(source) | Self::Fatal(source) => source,
        }
    }
}

/// What [`Checkpointer::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that this call read and wrote.
    pub bytes: u64,
    /// How far it is, of hundred: an estimate, 100 only at the end.
    pub percent: u64,
    /// What comes next; after `Done` the checkpoint is in force.
    pub state: MergeState,
}

/// A checkpoint that is being made.
pub struct Merging {
    merge: Merge,
    from_memory: bool,
    has_end: bool,
    spent: u64,
    expected: u64,
}

/// Makes checkpoints of one log and removes its old segments.
pub struct Checkpointer {
    storage: Arc<dyn Storage>,
    segments: Arc<Segments>,
    policy: CheckpointPolicy,
    entropy: Box<dyn Entropy>,
    /// A checkpoint in force was published by this one.
    published: bool,
    damaged: bool,
}

impl Checkpointer {
    /// For the log in `storage` whose segments these are.
    pub fn new(storage: Arc<dyn Storage>, segments: Arc<Segments>, policy: CheckpointPolicy, entropy: Box<dyn Entropy>) -> Self {
        Self { storage, segments, policy, entropy, published: false, damaged: false }
    }

    /// Relies on the checkpoint that was found as if this one had published it: only the crash sweep does, to show that it notices.
    pub(crate) fn trust_found(&mut self) {
        self.published = true;
    }

    /// The policy.
    pub fn policy(&self) -> &CheckpointPolicy {
        &self.policy
    }

    /// True if enough of the log is sealed for the next checkpoint, or if only a new one lets history go whose room is needed.
    pub fn is_due(&self) -> bool {
        self.segments.sealed_bytes() > self.policy.due_bytes(&self.segments) || self.is_wanted_for_room()
    }

    /// True if history would give way, but the checkpoint that was found at the start doesn't let it go, and there is room for a new one.
    fn is_wanted_for_room(&self) -> bool {
        if self.published || self.damaged || self.segments.history_bytes() == 0 {
            return false;
        }
        let log_bytes = self.segments.sealed_bytes();
        let runs_bytes = if log_bytes > self.policy.memory_bytes as u64 { log_bytes } else { 0 };
        let checkpoint_bytes = self.segments.checkpoint().map_or(0, |checkpoint| checkpoint.bytes);
        let needed = checkpoint_bytes + log_bytes + runs_bytes + self.log_room();
        self.free_bytes().is_some_and(|free| (needed..self.policy.reserve_bytes).contains(&free))
    }

    /// True while the disk has less room than the reserve: [`Checkpointer::trim`] then takes history before its time.
    pub fn is_low(&self) -> bool {
        self.missing_bytes() > 0
    }

    /// What the disk lacks of the reserve.
    fn missing_bytes(&self) -> u64 {
        self.free_bytes().map_or(0, |free| self.policy.reserve_bytes.saturating_sub(free))
    }

    /// A disk that fails to tell fails elsewhere, if it does: asking changed nothing.
    fn free_bytes(&self) -> Option<u64> {
        self.storage.free_bytes().unwrap_or_default()
    }

    fn log_room(&self) -> u64 {
        self.segments.segment_bytes().min(LOG_ROOM_MAX)
    }

    /// True if what a checkpoint is made from could not be read back, and none was made from memory since.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// See [`CheckpointPolicy::log_bytes_max`].
    pub fn log_bytes_max(&self) -> u64 {
        self.policy.log_bytes_max(&self.segments)
    }

    /// Begins a checkpoint: the one in force and all that is sealed behind it.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn begin(&mut self) -> Result<Merging, CheckpointError> {
        let end = self.segments.open_segment();
        let (base, base_bytes) = match self.segments.checkpoint() {
            None => (MergeBase::Nothing, 0),
            Some(checkpoint) => {
                let reader = CheckpointReader::open(&*self.storage, CHECKPOINT_FILE);
                let reader = reader.map_err(|error| self.failed(CheckpointError::Damaged(error)))?;
                (MergeBase::Checkpoint(Box::new(reader)), checkpoint.bytes)
            }
        };
        let mut merging = self.prepare(base, base_bytes, self.segments.sealed_bytes(), false)?;
        merging.merge.set_end(end);
        merging.has_end = true;
        Ok(merging)
    }

    /// Begins a checkpoint that needs no file but segments from `first_segment` on: `base` holds everything before that segment, and of
    /// each record its state then or later. When `base` has ended, everything it has seen must be sealed.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn begin_from_memory(&mut self, base: Box<dyn BaseRecords>, first_segment: u64) -> Result<Merging, CheckpointError> {
        let base_bytes = base.bytes().unwrap_or_else(|| {
            3 * (self.segments.checkpoint().map_or(0, |checkpoint| checkpoint.bytes) + self.segments.log_bytes())
        });
        self.prepare(MergeBase::Records { records: base, first_segment }, base_bytes, 0, true)
    }

    fn prepare(
        &mut self,
        base: MergeBase,
        base_bytes: u64,
        log_bytes: u64,
        from_memory: bool,
    ) -> Result<Merging, CheckpointError> {
        let salt = random_u64(&mut *self.entropy).map_err(|source| {
            CheckpointError::Fatal(LogError::io("draw random numbers for", self.storage.path(CHECKPOINT_FILE), source))
        })?;
        let CheckpointPolicy { memory_bytes, piece_bytes, .. } = self.policy;
        let options = MergeOptions { memory_bytes, piece_bytes, salt };
        // Read once, written and read back; runs are written and read in between.
        let runs_bytes = if log_bytes > memory_bytes as u64 { 2 * log_bytes } else { 0 };
        let expected = 3 * (base_bytes + log_bytes) + runs_bytes;
        match Merge::new(Arc::clone(&self.storage), base, options) {
            Ok(merge) => Ok(Merging { merge, from_memory, has_end: false, spent: 0, expected }),
            Err(error) => Err(self.merge_failed(error)),
        }
    }

    /// Reads and writes about `bytes` bytes.
    ///
    /// # Errors
    /// See [`CheckpointError`]. The files of this checkpoint are gone then, and `merging` is of no use any more.
    pub fn advance(&mut self, merging: &mut Merging, bytes: u64) -> Result<Progress, CheckpointError> {
        if merging.merge.needs_room() && self.free_bytes().is_some_and(|free| free < self.log_room()) {
            let source = io::Error::new(io::ErrorKind::StorageFull, "what room is left is kept for the log");
            let full = LogError::Full { path: self.storage.path(CHECKPOINT_TEMPORARY), source };
            return Err(self.failed(CheckpointError::Later(full)));
        }
        let mut advance = merging.merge.advance(bytes).map_err(|error| self.merge_failed(error))?;
        if !merging.has_end && merging.merge.has_base() {
            merging.merge.set_end(self.segments.open_segment());
            merging.has_end = true;
            advance.state = MergeState::Working;
        }
        merging.spent += advance.bytes;
        let mut percent = (merging.spent.saturating_mul(100) / merging.expected.max(1)).min(99);
        if let Some(summary) = merging.merge.done() {
            self.publish(summary, merging.from_memory);
            percent = 100;
        }
        Ok(Progress { bytes: advance.bytes, percent, state: advance.state })
    }

    /// Drops a checkpoint that is not finished, and removes its files.
    ///
    /// # Errors
    /// When they can't be removed.
    pub fn give_up(&mut self, merging: Merging) -> Result<(), CheckpointError> {
        drop(merging);
        remove_checkpoint_temporaries(&*self.storage).map_err(CheckpointError::Fatal)
    }

    fn publish(&mut self, summary: &CheckpointSummary, from_memory: bool) {
        let covers = summary.header.covers;
        self.segments.published(CheckpointInfo {
            next_segment: covers.next_segment,
            revision: covers.revision,
            stamp_ms: covers.stamp_ms,
            records: summary.records,
            bytes: summary.file_bytes,
        });
        self.published = true;
        if from_memory {
            self.damaged = false;
        }
    }

    fn merge_failed(&mut self, error: MergeError) -> CheckpointError {
        let error = match error {
            MergeError::Input(error) => CheckpointError::Damaged(error),
            MergeError::Output(error) => CheckpointError::of_output(error),
        };
        self.failed(error)
    }

    /// Takes note of an error, and removes what the checkpoint has left.
    fn failed(&mut self, error: CheckpointError) -> CheckpointError {
        self.damaged |= matches!(error, CheckpointError::Damaged(_));
        match (error, remove_checkpoint_temporaries(&*self.storage)) {
            (CheckpointError::Damaged(_) | CheckpointError::Later(_), Err(error)) => CheckpointError::Fatal(error),
            (error, _) => error,
        }
    }

    /// Removes the segments that are neither needed nor history any more at `now_ms`, in the time of the stamps. Gives their number.
    /// May be called while a checkpoint is being made.
    ///
    /// # Errors
    /// `Fatal`: the removal of a file or a sync of the directory failed.
    pub fn trim(&mut self, now_ms: u64) -> Result<u64, CheckpointError> {
        let mut removed = 0;
        // Asked once: some file systems give the room of a removed file back late, and no history is to go for that.
        let mut missing = self.missing_bytes();
        while let Some(Oldest { number, bytes, is_early }) = self.oldest_to_go(now_ms, missing > 0) {
            let name = segment_name(number);
            match self.storage.remove(&name) {
                // Someone was faster; what counts is that it is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => {
                    result.map_err(|source| CheckpointError::Fatal(LogError::io("remove", self.storage.path(&name), source)))?
                }
            }
            // After each one: a hole between segments would be more than history.
            self.storage
                .sync_directory()
                .map_err(|source| CheckpointError::Fatal(LogError::io("sync", self.storage.path(""), source)))?;
            self.segments.removed(number, is_early.then_some(bytes));
            missing = missing.saturating_sub(bytes);
            removed += 1;
        }
        Ok(removed)
    }

    /// The oldest segment, if it may go.
    fn oldest_to_go(&self, now_ms: u64, is_low: bool) -> Option<Oldest> {
        if !self.published || self.damaged {
            return None;
        }
        let checkpoint = self.segments.checkpoint()?;
        let list = self.segments.list();
        // What is in a segment is as old as the header of the next one says, or older.
        let (number, bytes, next) = match (self.segments.leftovers().first(), list.as_slice()) {
            (Some(leftover), [next, ..]) => (leftover.number, leftover.bytes, next),
            (None, [first, next, ..]) => (first.number, first.bytes, next),
            _ => return None,
        };
        let is_old = now_ms.saturating_sub(next.stamp_ms) >= self.policy.history_ms;
        let is_too_much = self.segments.history_bytes() > self.policy.history_bytes;
        let is_early = !is_old && !is_too_much;
        (number < checkpoint.next_segment && (is_low || !is_early)).then_some(Oldest { number, bytes, is_early })
    }
}

/// The oldest segment, which may go.
struct Oldest {
    number: u64,
    bytes: u64,
    /// It goes for its room alone.
    is_early: bool,
}
