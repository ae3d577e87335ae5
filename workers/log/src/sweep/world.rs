//! What the sweep knows about the log that it tortures: everything appended, acknowledged and released, and the rules.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::PlantedBug;
use super::life::{History, Life, Step};
use super::making::{Memory, SameSalts, with_bug};
use super::table::{Entry, Given, last_revision};
use super::violation::{Trouble, Violation};
use crate::batch::BatchBuilder;
use crate::checkpoint::CHECKPOINT_TEMPORARY;
use crate::checkpointer::{CheckpointPolicy, Checkpointer, Merging};
use crate::entropy::{Entropy, SeededEntropy};
use crate::error::LogError;
use crate::file_log::{FileLog, LogOptions};
use crate::format::SEGMENT_HEADER_BYTES;
use crate::history::{LogReader, ReadEnd};
use crate::log::{Log, PersistLevel, Persisted, SyncMode};
use crate::report::RecoveryReport;
use crate::sim::{CrashChoice, Fault, SimStorage};
use crate::storage::Storage;

/// What a successful check tells.
#[derive(Debug)]
pub(super) struct Checked {
    pub operations: u64,
    pub cut: bool,
    /// Damage was found and refused.
    pub refused: bool,
    /// There was a checkpoint.
    pub checkpoint: bool,
}

/// A process: a log, and beside it who makes its checkpoints.
pub(super) struct Process {
    pub(super) log: FileLog,
    pub(super) maker: Checkpointer,
    pub(super) merging: Option<Merging>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) bug: Option<PlantedBug>,
    pub(super) seed: u64,
    pub(super) history_kept: History,
    pub(super) memory_bytes: usize,
    pub(super) opens: u64,
    pub(super) serial: u64,
    /// Everything that the log may hold.
    pub(super) history: Vec<Entry>,
    /// How much of it was acknowledged as synced.
    pub(super) acknowledged: usize,
    /// How much of it was released at all, in `epoch`.
    pub(super) released: usize,
    pub(super) epoch: Option<u64>,
    /// The first segment behind the checkpoint that is known to be in force.
    pub(super) next_segment: u64,
    /// Something that was durable is damaged: a start may be refused.
    pub(super) damaged: bool,
    /// Something was damaged once, and may be history now.
    pub(super) hurt: bool,
    /// A repair was begun that gives up what is behind this revision: a new epoch may go on there.
    pub(super) repaired: Option<u64>,
    /// A repair kept what could be read of a checkpoint: the state is none that the groups lead to.
    pub(super) salvaged: bool,
    /// A disk that lies was injected: a checkpoint may turn out to be bad before it is used.
    pub(super) lied: bool,
}

impl World {
    pub fn new(life: &Life, bug: Option<PlantedBug>) -> Self {
        Self {
            bug,
            seed: life.seed,
            history_kept: life.history,
            memory_bytes: life.memory_bytes,
            opens: 0,
            serial: 0,
            history: Vec::new(),
            acknowledged: 0,
            released: 0,
            epoch: None,
            next_segment: 0,
            damaged: false,
            hurt: false,
            repaired: None,
            salvaged: false,
            lied: false,
        }
    }

    /// Lives `life` on `disk` until its end, or until the disk stops or a fault ends it.
    pub fn live(&mut self, disk: &SimStorage, life: &Life) -> Result<(), Violation> {
        // A power failure or a kill inside the life makes another disk; the operations and the stop go on with it.
        let mut process = None;
        let memory = Memory::default();
        for step in &life.steps {
            let injected = disk.fault_is_waiting();
            let alive = match step {
                Step::Open(mode) => {
                    process = self.open(disk, *mode)?.map(|(process, _)| process);
                    process.is_some()
                }
                Step::Kill => {
                    process = None;
                    true
                }
                Step::PowerFailure(choice) => {
                    process = None;
                    disk.lose_power(choice);
                    true
                }
                Step::FailSync => {
                    disk.inject_if_free(Fault::SyncFails);
                    true
                }
                Step::Repair => {
                    process = None;
                    match self.repair(disk) {
                        Ok(()) => true,
                        Err(Trouble::Error(error)) => self.excuse(disk, injected, error).map(|()| false)?,
                        Err(Trouble::Broken(violation)) => return Err(violation),
                    }
                }
                Step::LoseWrite => {
                    self.lied = true;
                    disk.lose_a_write_of(CHECKPOINT_TEMPORARY);
                    true
                }
                step => match &mut process {
                    Some(open) => self.act(disk, open, &memory, step)?,
                    None => true,
                },
            };
            if disk.is_stopped() {
                return Ok(());
            }
            if !alive {
                // An error ended the process. If it was the fault that the sweep injected, the life is over.
                process = None;
                if injected && !life_injects(life) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// An error is fine only if the disk gave a reason.
    pub(super) fn excuse(&self, disk: &SimStorage, faulty: bool, error: LogError) -> Result<(), Violation> {
        match error {
            LogError::Damaged { .. } if self.damaged => Ok(()),
            LogError::Damaged { .. } | LogError::Foreign { .. } | LogError::NewerFormat { .. } | LogError::Refused { .. } => {
                Err(Violation::Refused(error))
            }
            error if disk.is_stopped() || faulty && !disk.fault_is_waiting() => {
                drop(error);
                Ok(())
            }
            error => Err(Violation::Failed(error)),
        }
    }

    /// A mark is due every few batches.
    pub(super) fn stamp_ms(&self) -> u64 {
        1000 + self.serial * 300
    }

    pub(super) fn note(&mut self, proof: Persisted) {
        self.released = self.history.len();
        if proof.level() == PersistLevel::Synced {
            self.acknowledged = self.history.len();
        }
    }

    pub(super) fn append(&mut self, log: &mut FileLog, groups: u32, bytes: usize, bookkeeping: bool) -> Result<(), LogError> {
        let mut batch = BatchBuilder::new();
        batch.begin(self.stamp_ms());
        for index in 0..groups + u32::from(bookkeeping) {
            let bookkeeping = bookkeeping && index == 0;
            self.serial += 1;
            let revision = last_revision(&self.history) + u64::from(!bookkeeping);
            let entry = Entry { revision, bookkeeping, serial: self.serial, bytes: bytes.max(8) };
            entry.append(&mut batch);
            self.history.push(entry);
        }
        log.append(&mut batch).map(|_| ())
    }

    /// Starts a process; `None` if the disk had a reason to end it.
    fn open(&mut self, disk: &SimStorage, mode: SyncMode) -> Result<Option<(Process, RecoveryReport)>, Violation> {
        self.opens += 1;
        let faulty = disk.fault_is_waiting();
        let seed = self.seed ^ self.opens.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let mut options = LogOptions::new(mode);
        options.segment_bytes = SEGMENT_HEADER_BYTES as u64 + 2500;
        options.allocate_bytes = 1024;
        options.entropy = Box::new(SeededEntropy::new(seed));
        options.bug = self.bug;
        let mut given = Given::default();
        let (log, report) = match FileLog::open(Arc::new(disk.clone()), options, &mut given) {
            Ok(opened) => opened,
            Err(error) => return self.excuse(disk, faulty, error).map(|()| None),
        };
        if self.salvaged && self.epoch == Some(report.epoch) {
            return Err(Violation::RevisionReused { released: self.released, found: 0 });
        }
        let found = match given.prefix_of(&self.history) {
            Ok(found) => found,
            Err(_) if self.salvaged => self.history.len(),
            Err(at) => return Err(Violation::NotAPrefix { at }),
        };
        let given_up =
            self.repaired.is_some_and(|kept| self.epoch != Some(report.epoch) && last_revision(&self.history[..found]) >= kept);
        if found < self.acknowledged && !given_up {
            return Err(Violation::SilentLoss { acknowledged: self.acknowledged, found });
        }
        if self.epoch == Some(report.epoch) && found < self.released {
            return Err(Violation::RevisionReused { released: self.released, found });
        }
        let next_segment = report.checkpoint.map_or(0, |checkpoint| checkpoint.next_segment);
        if next_segment < self.next_segment {
            return Err(Violation::CheckpointLost { next_segment: self.next_segment, found: next_segment });
        }
        self.history.truncate(found);
        if self.repaired.take().is_some() {
            // What was bad is behind the end of the log now.
            self.damaged &= !given_up;
        }
        self.epoch = Some(report.epoch);
        // That it is there doesn't make it durable: a name may be in the directory's cache only.
        self.note(log.persisted());
        let policy = CheckpointPolicy {
            floor_bytes: 0,
            memory_bytes: self.memory_bytes,
            piece_bytes: 300,
            history_ms: self.history_kept.ms,
            history_bytes: self.history_kept.bytes,
            reserve_bytes: 0,
        };
        let entropy: Box<dyn Entropy> = match self.bug {
            Some(PlantedBug::StaleRunTaken) => Box::new(SameSalts),
            _ => Box::new(SeededEntropy::new(!seed)),
        };
        let mut maker = Checkpointer::new(with_bug(disk, self.bug), log.segments(), policy, entropy);
        if self.bug == Some(PlantedBug::FoundCheckpointTrusted) {
            maker.trust_found();
        }
        Ok(Some((Process { log, maker, merging: None }, report)))
    }

    /// Starts a process that may be stopped by the disk. If it isn't, it has served.
    pub fn try_open(&mut self, disk: &SimStorage) -> Result<(), Violation> {
        self.open(disk, SyncMode::Always).map(|_| ())
    }

    /// What was is told as it was, from the oldest revision that is kept on, without a gap.
    fn check_history(&self, disk: &SimStorage, process: &Process) -> Result<(), Violation> {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut after = 0;
        let mut expected: Vec<Entry> = Vec::new();
        let mut wrong = None;
        let result = LogReader::starts(disk).and_then(|starts| {
            after = starts.first().copied().unwrap_or(0);
            expected = self.history.iter().filter(|entry| !entry.bookkeeping && entry.revision > after).copied().collect();
            let Some(mut reader) = LogReader::after(storage, after)? else { return Ok(ReadEnd::Gone) };
            let mut next = expected.iter();
            reader.read(&process.log.persisted(), &mut |group| {
                if next.next() != Some(&Entry::of(&group)) {
                    wrong.get_or_insert(group.revision);
                }
                ControlFlow::Continue(())
            })
        });
        match result {
            Ok(ReadEnd::Through) => wrong.map_or(Ok(()), |revision| Err(Violation::WrongHistory { revision })),
            Ok(_) => Err(Violation::WrongHistory { revision: after }),
            Err(LogError::Damaged { .. }) if self.hurt => Ok(()),
            Err(error) => Err(Violation::Failed(error)),
        }
    }

    /// Recovers from `disk`, on which nothing will fail, and checks every rule; with `checkpoint` also that one can be made then.
    pub fn check(mut self, disk: &SimStorage, checkpoint: bool) -> Result<Checked, Violation> {
        let before = disk.operations();
        let (mut opened, mut refused) = (self.open(disk, SyncMode::Always)?, false);
        if opened.is_none() {
            // Damage, and nothing else, is a reason; a repair finds it, too.
            refused = true;
            self.repair(disk).map_err(|trouble| match trouble {
                Trouble::Error(error) => Violation::Failed(error),
                Trouble::Broken(violation) => violation,
            })?;
            opened = self.open(disk, SyncMode::Always)?;
        }
        let (process, first) = opened.ok_or(Violation::NotAFixedPoint("refused after a repair"))?;
        let operations = if refused { 0 } else { disk.operations() - before };
        // No rule tells what a salvaged table must hold.
        if self.salvaged {
            return Ok(Checked { operations: 0, cut: false, refused, checkpoint: true });
        }
        let checked = Checked { operations, cut: first.cut.is_some(), refused, checkpoint: first.checkpoint.is_some() };
        drop(process);
        let (mut process, second) = self.open(disk, SyncMode::Always)?.ok_or(Violation::NotAFixedPoint("refused"))?;
        if second.groups != first.groups || second.last_revision != first.last_revision || second.checkpoint != first.checkpoint {
            return Err(Violation::NotAFixedPoint("other groups"));
        }
        if second.epoch != first.epoch || second.uuid != first.uuid {
            return Err(Violation::NotAFixedPoint("another epoch or name"));
        }
        if second.cut.is_some() {
            return Err(Violation::NotAFixedPoint("another cut"));
        }
        // Nothing may go yet that only the checkpoint of the process before stands for.
        self.act(disk, &mut process, &Memory::default(), &Step::Trim)?;
        // The log goes on, and what it acknowledges now survives.
        for bytes in [40, 1300] {
            self.append(&mut process.log, 1, bytes, bytes == 40).map_err(Violation::Failed)?;
            self.note(process.log.persisted());
        }
        if checkpoint {
            self.check_history(disk, &process)?;
            for step in [Step::Seal, Step::Begin, Step::Finish, Step::Trim] {
                self.act(disk, &mut process, &Memory::default(), &step)?;
            }
        }
        drop(process);
        let disk = disk.after_power_failure(&CrashChoice::DropAll);
        match self.open(&disk, SyncMode::Always)? {
            Some(_) => Ok(checked),
            // Damage that only a checkpoint hid, whose name was not durable yet.
            None => Ok(Checked { refused: true, ..checked }),
        }
    }
}

fn life_injects(life: &Life) -> bool {
    life.steps.contains(&Step::FailSync)
}
