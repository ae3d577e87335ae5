//! The steps of a life that a running process takes, and what is forgiven when they fail.

use std::sync::Arc;

use super::life::Step;
use super::making::Memory;
use super::violation::{Trouble, Violation};
use super::world::{Process, World};
use crate::checkpoint::format::{BLOCK_HEADER_BYTES, CHECKPOINT_HEADER_BYTES};
use crate::checkpoint::{CHECKPOINT_FILE, MergeState};
use crate::checkpointer::CheckpointError;
use crate::entropy::SeededEntropy;
use crate::error::LogError;
use crate::format::{BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES, segment_name};
use crate::log::Log;
use crate::repair::{Additions, Remedy, RepairError, SalvageRules, Verdict, examine};
use crate::sim::SimStorage;
use crate::storage::Storage;

/// Here no record means anything to another.
struct AllRecords;

impl SalvageRules for AllRecords {
    fn keeps(&self, _record_key: &[u8]) -> bool {
        true
    }
    fn additions(&self, _last_stamp_ms: u64) -> Additions {
        Additions::default()
    }
}

impl World {
    /// A step of a running process; false if an injected error ended it.
    pub(super) fn act(
        &mut self,
        disk: &SimStorage,
        process: &mut Process,
        memory: &Memory,
        step: &Step,
    ) -> Result<bool, Violation> {
        let faulty = disk.fault_is_waiting();
        let stamp_ms = self.stamp_ms();
        let log = &mut process.log;
        let result = match step {
            Step::Append { groups, bytes, bookkeeping } => {
                self.append(log, *groups, *bytes, *bookkeeping).map_err(Trouble::Error)
            }
            Step::Mark if log.needs_marker() => log.mark(stamp_ms).map_err(Trouble::Error),
            Step::Tick => log.tick(u64::MAX).map(|_| ()).map_err(Trouble::Error),
            Step::Close => log.close(stamp_ms).map_err(Trouble::Error),
            Step::Seal => log.seal().map_err(Trouble::Error),
            Step::Damage => {
                self.damage(disk, process);
                Ok(())
            }
            Step::DamageCheckpoint => {
                let inside = CHECKPOINT_HEADER_BYTES + BLOCK_HEADER_BYTES + 8;
                self.damaged |= disk.damage(CHECKPOINT_FILE, inside, 0x10);
                Ok(())
            }
            Step::Begin => self.begin(disk, process, faulty, None),
            Step::BeginFromMemory => {
                memory.set(&self.history);
                self.begin(disk, process, faulty, Some(memory))
            }
            Step::Advance(times) => (0..*times).try_for_each(|_| self.advance(disk, process, memory, faulty).map(|_| ())),
            Step::Finish => self.finish(disk, process, memory, faulty),
            Step::GiveUp => self.give_up(disk, process, faulty),
            Step::Trim => self.trim(disk, process, faulty),
            _ => Ok(()),
        };
        memory.set(&self.history);
        match result {
            Ok(()) => {
                self.note(process.log.persisted());
                Ok(true)
            }
            Err(Trouble::Broken(violation)) => Err(violation),
            // After a close, say: nothing new.
            Err(Trouble::Error(LogError::OutOfService(_))) => Ok(false),
            Err(Trouble::Error(error)) => self.excuse(disk, faulty, error).map(|()| false),
        }
    }

    /// Begins a checkpoint, from memory if there is one.
    fn begin(&mut self, disk: &SimStorage, process: &mut Process, faulty: bool, memory: Option<&Memory>) -> Result<(), Trouble> {
        if process.merging.is_some() {
            return Ok(());
        }
        let begun = match memory {
            None => process.maker.begin(),
            Some(memory) => {
                process.log.seal()?;
                process.maker.begin_from_memory(memory.base(), process.log.segments().open_segment())
            }
        };
        match begun {
            Ok(merging) => {
                process.merging = Some(merging);
                Ok(())
            }
            Err(error) => self.excuse_maker(disk, faulty, error),
        }
    }

    /// A little of the checkpoint under way.
    fn advance(
        &mut self,
        disk: &SimStorage,
        process: &mut Process,
        memory: &Memory,
        faulty: bool,
    ) -> Result<MergeState, Trouble> {
        let Some(merging) = &mut process.merging else { return Ok(MergeState::Done) };
        match process.maker.advance(merging, 1) {
            Ok(progress) => {
                if memory.wants_seal() {
                    process.log.seal()?;
                    memory.was_sealed();
                }
                if progress.state == MergeState::Done {
                    process.merging = None;
                    self.next_segment = process.log.segments().checkpoint().map_or(0, |checkpoint| checkpoint.next_segment);
                    self.damaged &= process.maker.is_damaged();
                }
                Ok(progress.state)
            }
            Err(error) => {
                process.merging = None;
                self.excuse_maker(disk, faulty, error).map(|()| MergeState::Done)
            }
        }
    }

    fn finish(&mut self, disk: &SimStorage, process: &mut Process, memory: &Memory, faulty: bool) -> Result<(), Trouble> {
        while self.advance(disk, process, memory, faulty)? != MergeState::Done {}
        Ok(())
    }

    fn give_up(&mut self, disk: &SimStorage, process: &mut Process, faulty: bool) -> Result<(), Trouble> {
        let Some(merging) = process.merging.take() else { return Ok(()) };
        process.maker.give_up(merging).or_else(|error| self.excuse_maker(disk, faulty, error))
    }

    fn trim(&mut self, disk: &SimStorage, process: &mut Process, faulty: bool) -> Result<(), Trouble> {
        let trimmed = process.maker.trim(self.stamp_ms());
        trimmed.map(|_| ()).or_else(|error| self.excuse_maker(disk, faulty, error))
    }

    /// Serving goes on where no checkpoint could be made for a reason; a disk that failed ends the process.
    fn excuse_maker(&self, disk: &SimStorage, faulty: bool, error: CheckpointError) -> Result<(), Trouble> {
        let struck = faulty && !disk.fault_is_waiting();
        match error {
            CheckpointError::Fatal(error) => Err(Trouble::Error(error)),
            CheckpointError::Later(_) if struck || self.lied && !disk.lie_is_waiting() => Ok(()),
            CheckpointError::Damaged(_) if self.damaged || disk.is_stopped() => Ok(()),
            CheckpointError::Later(error) => Err(Trouble::Broken(Violation::Failed(error))),
            CheckpointError::Damaged(error) => Err(Trouble::Broken(Violation::Refused(error))),
        }
    }

    /// Something flips a bit in the oldest sealed segment that a start needs.
    fn damage(&mut self, disk: &SimStorage, process: &Process) {
        let list = process.log.segments().list();
        let open = process.log.segments().open_segment();
        let needed = list.iter().find(|segment| segment.number >= self.next_segment && segment.number < open);
        if let Some(segment) = needed {
            let inside = SEGMENT_HEADER_BYTES + BATCH_HEADER_BYTES + 8;
            self.damaged |= disk.damage(&segment_name(segment.number), inside, 0x10);
            self.hurt |= self.damaged;
        }
    }

    /// Repairs until there is nothing to repair.
    pub(super) fn repair(&mut self, disk: &SimStorage) -> Result<(), Trouble> {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        loop {
            self.opens += 1;
            match examine(disk, &mut |_| {}) {
                Ok(Verdict::Damaged(plan)) if self.damaged => {
                    match plan.remedy {
                        Remedy::EndLog => self.repaired = Some(plan.kept_revision),
                        Remedy::RemoveCheckpoint => self.next_segment = 0,
                        Remedy::SalvageCheckpoint => self.salvaged = true,
                        Remedy::NewHeader => {}
                    }
                    let mut entropy = SeededEntropy::new(self.seed ^ self.opens.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    plan.apply(&storage, &mut entropy, &AllRecords)?;
                }
                Ok(Verdict::Damaged(plan)) => return Err(Trouble::Broken(Violation::Hopeless(format!("{:?}", plan.damage)))),
                Ok(Verdict::Sound { .. }) => break,
                Err(RepairError::Log(error)) => return Err(Trouble::Error(error)),
                Err(error) => return Err(Trouble::Broken(Violation::Hopeless(error.to_string()))),
            }
        }
        self.damaged = false;
        Ok(())
    }
}
