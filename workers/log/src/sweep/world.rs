//! What the sweep knows about the log that it tortures: everything appended, acknowledged and released, and the rules.

use std::fmt;
use std::sync::Arc;

use super::PlantedBug;
use super::life::{History, Life, Step};
use super::making::{Memory, SameSalts, with_bug};
use super::table::{Entry, Given, last_revision};
use crate::batch::BatchBuilder;
use crate::checkpoint::{CHECKPOINT_TEMPORARY, MergeState};
use crate::checkpointer::{CheckpointError, CheckpointPolicy, Checkpointer, Merging};
use crate::entropy::{Entropy, SeededEntropy};
use crate::error::LogError;
use crate::file_log::{FileLog, LogOptions};
use crate::format::{BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES, segment_name};
use crate::log::{Log, PersistLevel, Persisted, SyncMode};
use crate::repair::{Remedy, RepairError, Verdict, examine};
use crate::report::RecoveryReport;
use crate::sim::{CrashChoice, Fault, SimStorage};
use crate::storage::Storage;

/// A broken rule.
#[derive(Debug)]
pub(super) enum Violation {
    SilentLoss { acknowledged: usize, found: usize },
    NotAPrefix { at: usize },
    Refused(LogError),
    Failed(LogError),
    RevisionReused { released: usize, found: usize },
    Hopeless(String),
    CheckpointLost { next_segment: u64, found: u64 },
    NotAFixedPoint(&'static str),
}

impl Violation {
    pub fn is_silent_loss(&self) -> bool {
        matches!(self, Self::SilentLoss { .. } | Self::NotAPrefix { .. } | Self::RevisionReused { .. })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SilentLoss { acknowledged, found } => write!(f, "{acknowledged} groups were acknowledged, {found} are there"),
            Self::NotAPrefix { at } => write!(f, "the state from group {at} on is none that the appended groups lead to"),
            Self::Refused(error) => write!(f, "refused without damage: {error}"),
            Self::Failed(error) => write!(f, "failed without a cause: {error}"),
            Self::Hopeless(what) => write!(f, "a repair gave up: {what}"),
            Self::RevisionReused { released, found } => {
                write!(f, "{released} groups were released in this epoch, which goes on with {found}")
            }
            Self::CheckpointLost { next_segment, found } => {
                write!(
                    f,
                    "a checkpoint of all before segment {next_segment} was in force, now one of all before segment {found} is"
                )
            }
            Self::NotAFixedPoint(what) => write!(f, "a second recovery differs: {what}"),
        }
    }
}

/// Why a step didn't do what it should.
enum Trouble {
    /// The log or the maker of checkpoints gave up.
    Error(LogError),
    Broken(Violation),
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Error(error)
    }
}

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
    log: FileLog,
    maker: Checkpointer,
    merging: Option<Merging>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    bug: Option<PlantedBug>,
    seed: u64,
    history_kept: History,
    memory_bytes: usize,
    opens: u64,
    serial: u64,
    /// Everything that the log may hold.
    history: Vec<Entry>,
    /// How much of it was acknowledged as synced.
    acknowledged: usize,
    /// How much of it was released at all, in `epoch`.
    released: usize,
    epoch: Option<u64>,
    /// The first segment behind the checkpoint that is known to be in force.
    next_segment: u64,
    /// Something that was durable is damaged: a start may be refused.
    damaged: bool,
    /// A repair was begun that gives up what is behind this revision: a new epoch may go on there.
    repaired: Option<u64>,
    /// A disk that lies was injected: a checkpoint may turn out to be bad before it is used.
    lied: bool,
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
            repaired: None,
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

    /// A step of a running process; false if an injected error ended it.
    fn act(&mut self, disk: &SimStorage, process: &mut Process, memory: &Memory, step: &Step) -> Result<bool, Violation> {
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

    /// An error is fine only if the disk gave a reason.
    fn excuse(&self, disk: &SimStorage, faulty: bool, error: LogError) -> Result<(), Violation> {
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
    fn stamp_ms(&self) -> u64 {
        1000 + self.serial * 300
    }

    fn note(&mut self, proof: Persisted) {
        self.released = self.history.len();
        if proof.level() == PersistLevel::Synced {
            self.acknowledged = self.history.len();
        }
    }

    fn append(&mut self, log: &mut FileLog, groups: u32, bytes: usize, bookkeeping: bool) -> Result<(), LogError> {
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
        }
    }

    /// Repairs until there is nothing to repair.
    fn repair(&mut self, disk: &SimStorage) -> Result<(), Trouble> {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        loop {
            self.opens += 1;
            match examine(disk, &mut |_| {}) {
                Ok(Verdict::Damaged(plan)) if self.damaged => {
                    if plan.remedy == Remedy::EndLog {
                        self.repaired = Some(plan.kept_revision);
                    }
                    plan.apply(&storage, &mut SeededEntropy::new(self.seed ^ self.opens.wrapping_mul(0x9e37_79b9_7f4a_7c15)))?;
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
        let found = given.prefix_of(&self.history).map_err(|at| Violation::NotAPrefix { at })?;
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
            sync_bytes: 300,
            history_ms: self.history_kept.ms,
            history_bytes: self.history_kept.bytes,
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
