//! Making a damaged log usable again, at the price of what can't be read any more. Never by itself.
//!
//! - [`examine`] changes nothing. It finds damage exactly where a recovery would refuse the log, and says what its remedy would cost.
//! - [`RepairPlan::apply`] does what the plan says, in steps of which each leaves either a log that a start refuses, and that can be examined
//!   and repaired again, or the repaired log with its new epoch. Nothing in between is ever served.
//! - A batch that is given up is not erased: the new segment's `first_sequence` ends the one before it, as a cut of a recovery does.
//! - What was acknowledged is lost, so a new epoch begins; only a header that could be made anew from what it vouches for keeps all.
//!
//! The order of a cut, and why: the new segment first, by one rename, since it is both the end of the old log and the new epoch. The
//! segments behind it don't continue it: as long as one is left, a start is refused. They are removed from the last to the first. The mark
//! goes last: it may name batches that are given up, which is a reason to refuse, too. The other way round, a stop in the middle could leave
//! a shorter log under its old epoch that looks well.
//!
//! A damaged checkpoint is the same the other way round: the segment with the new epoch comes first, since nothing is served before the
//! checkpoint is whole again. One of which only the header is damaged loses nothing and needs no new epoch: it is written anew beside
//! itself, with the header's fields from its end block, and takes its own place by a rename.
//!
//! - What a damaged checkpoint lost is not known: what of the rest may be kept is said by [`SalvageRules`], which know what records mean.
//!   The other remedies need no rules: a log that is ended earlier is what it was then.
//!
//! Caveat: the directory must be locked, and copied aside, by the caller.

mod checkpoint;
mod examine;
mod loss;

use std::path::PathBuf;
use std::sync::Arc;

pub use checkpoint::{Additions, Gap, Remains, SalvageRules};
pub use examine::examine;
pub use loss::Loss;
use uuid::Uuid;

use crate::checkpoint::{CHECKPOINT_FILE, remove_checkpoint_temporaries};
use crate::entropy::{Entropy, random_u64};
use crate::error::LogError;
use crate::format::{MARK_FILE, SEGMENT_TEMPORARY, SegmentHeader, SegmentReason, segment_name};
use crate::log::SyncMode;
use crate::reader::Chain;
use crate::report::Cut;
use crate::segment::create_segment;
use crate::storage::Storage;

/// Why a log can't be repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// It can't be read, or what is wrong with it is no damage.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What would have to be kept is missing.
    #[error("{} at byte {offset}: {what}. There is nothing that a repair could keep: only a backup helps (restore).", file.display())]
    Hopeless {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
    },
}

/// What was found.
#[derive(Debug)]
pub enum Verdict {
    /// There is nothing to repair.
    Sound {
        /// Last revision in the log.
        revision: u64,
        /// A torn tail, which the next start cuts by itself.
        torn: Option<Cut>,
    },
    /// A start would be refused.
    Damaged(Box<RepairPlan>),
}

/// Where the log can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Name of the file in the directory.
    pub name: String,
    /// Where in it, bytes from its start.
    pub offset: u64,
    /// What was found.
    pub what: String,
}

/// What a repair would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The log is ended before the damage; what follows is given up.
    EndLog,
    /// A segment's header is made anew from the batches behind it, or that of the checkpoint from its end block; nothing is lost.
    NewHeader,
    /// The checkpoint is removed: the whole log is there, and says the same; nothing is lost.
    RemoveCheckpoint,
    /// The records of the checkpoint that can be read make a new one.
    SalvageCheckpoint,
}

/// The damage nearest to the log's beginning, and what would become of it.
#[derive(Clone, Debug)]
pub struct RepairPlan {
    /// Where and why the log can't be read.
    pub damage: Damage,
    /// What would be done.
    pub remedy: Remedy,
    /// The last revision that would be kept.
    pub kept_revision: u64,
    /// The highest stamp that would be kept, wall-clock ms.
    pub kept_stamp_ms: u64,
    /// What would be lost of the log.
    pub loss: Loss,
    /// What is left of the checkpoint, if that is damaged.
    pub checkpoint: Option<Remains>,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
    /// Begins segment `number` behind `chain`; those in `later` are removed.
    EndLog {
        uuid: Uuid,
        number: u64,
        chain: Chain,
        later: Vec<u64>,
    },
    /// Writes the header over the damaged one.
    NewHeader {
        header: SegmentHeader,
        is_last: bool,
    },
    RemoveCheckpoint,
    /// All of the checkpoint under a new header.
    RebuildCheckpoint,
    /// Segment `number` behind `chain` only brings the new epoch.
    SalvageCheckpoint {
        uuid: Uuid,
        number: u64,
        chain: Chain,
    },
}

impl RepairPlan {
    /// Does it; `rules` say what of a checkpoint is kept. The directory may have more damage behind it: examine it again.
    ///
    /// # Errors
    /// I/O errors; the repair can then be begun again.
    pub fn apply(&self, storage: &Arc<dyn Storage>, entropy: &mut dyn Entropy, rules: &dyn SalvageRules) -> Result<(), LogError> {
        let shared = storage;
        let storage = &**storage;
        let mut random =
            || random_u64(entropy).map_err(|source| LogError::io("draw random numbers for", storage.path(""), source));
        // A power failure can leave one file under both names of a rename: it must not be written over.
        remove(storage, SEGMENT_TEMPORARY)?;
        remove_checkpoint_temporaries(storage)?;
        match &self.action {
            Action::EndLog { uuid, number, chain, later } => {
                create_segment(storage, &repaired(*uuid, random()?, random()?, *number, chain), None)?;
                for number in later.iter().rev() {
                    remove(storage, &segment_name(*number))?;
                }
                remove(storage, MARK_FILE)
            }
            Action::RemoveCheckpoint => remove(storage, CHECKPOINT_FILE),
            Action::RebuildCheckpoint => checkpoint::rebuild(shared, random()?),
            Action::SalvageCheckpoint { uuid, number, chain } => {
                // The epoch first: as long as the checkpoint is damaged, a start is refused.
                create_segment(storage, &repaired(*uuid, random()?, random()?, *number, chain), None)?;
                checkpoint::salvage(shared, random()?, self.kept_stamp_ms, rules)
            }
            Action::NewHeader { header, is_last } => {
                let mut header = header.clone();
                if *is_last {
                    // Whether this segment began an epoch is not known any more.
                    header.epoch = random()?;
                }
                let name = segment_name(header.number);
                let failed = |action| move |source| LogError::io(action, storage.path(&segment_name(header.number)), source);
                let file = storage.open(&name).map_err(failed("open"))?;
                // In place: the block that a stop tears here is one that no start could read before either.
                file.write_at(&header.encode(), 0).map_err(failed("write"))?;
                file.sync().map_err(failed("sync"))
            }
        }
    }
}

/// Header of a segment that goes on behind `chain` under a new epoch.
fn repaired(uuid: Uuid, epoch: u64, salt: u64, number: u64, chain: &Chain) -> SegmentHeader {
    SegmentHeader {
        uuid,
        epoch,
        salt,
        number,
        first_sequence: chain.next_sequence,
        base_revision: chain.last_revision,
        stamp_ms: chain.last_stamp_ms,
        previous_crc: chain.previous_crc,
        reason: SegmentReason::Repaired as u8,
        mode: SyncMode::ALWAYS_BYTE,
    }
}

/// Removes a name, if it is there, durably.
fn remove(storage: &dyn Storage, name: &str) -> Result<(), LogError> {
    match storage.remove(name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        result => result.map_err(|source| LogError::io("remove", storage.path(name), source))?,
    }
    storage.sync_directory().map_err(|source| LogError::io("sync", storage.path(""), source))
}

#[cfg(test)]
mod tests;
