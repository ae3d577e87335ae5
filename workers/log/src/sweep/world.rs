//! What the sweep knows about the log that it tortures: everything appended, acknowledged and released, and the rules.

use std::fmt;
use std::sync::Arc;

use super::PlantedBug;
use super::life::{Life, Step};
use crate::batch::BatchBuilder;
use crate::entropy::SeededEntropy;
use crate::error::LogError;
use crate::file_log::{FileLog, LogOptions};
use crate::format::SEGMENT_HEADER_BYTES;
use crate::log::{Log, PersistLevel, Persisted, SyncMode};
use crate::payload::{Cause, GroupRef, RecordRef};
use crate::report::{RecoveryReport, VisitError};
use crate::sim::{CrashChoice, Fault, SimStorage};

/// One group, told apart from every other one ever appended by its serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    revision: u64,
    bookkeeping: bool,
    serial: u64,
    bytes: usize,
}

/// A broken rule.
#[derive(Debug)]
pub(super) enum Violation {
    SilentLoss { acknowledged: usize, found: usize },
    NotAPrefix { at: usize },
    Refused(LogError),
    Failed(LogError),
    RevisionReused { released: usize, found: usize },
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
            Self::NotAPrefix { at } => write!(f, "group {at} is not the one that was appended"),
            Self::Refused(error) => write!(f, "refused without damage: {error}"),
            Self::Failed(error) => write!(f, "failed without a cause: {error}"),
            Self::RevisionReused { released, found } => {
                write!(f, "{released} groups were released in this epoch, which goes on with {found}")
            }
            Self::NotAFixedPoint(what) => write!(f, "a second recovery differs: {what}"),
        }
    }
}

/// What a successful check tells.
pub(super) struct Checked {
    pub operations: u64,
    pub cut: bool,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    bug: Option<PlantedBug>,
    seed: u64,
    opens: u64,
    serial: u64,
    /// Everything that the log may hold.
    history: Vec<Entry>,
    /// How much of it was acknowledged as synced.
    acknowledged: usize,
    /// How much of it was released at all, in `epoch`.
    released: usize,
    epoch: Option<u64>,
}

/// The bytes of a value: they differ between any two groups, at every offset that matters.
fn value(serial: u64, bytes: usize) -> Vec<u8> {
    serial.to_le_bytes().into_iter().cycle().take(bytes.max(8)).enumerate().map(|(at, byte)| byte ^ (at >> 3) as u8).collect()
}

impl World {
    pub fn new(seed: u64, bug: Option<PlantedBug>) -> Self {
        Self { bug, seed, opens: 0, serial: 0, history: Vec::new(), acknowledged: 0, released: 0, epoch: None }
    }

    /// Lives `life` on `disk` until its end, or until the disk stops or a fault ends it.
    pub fn live(&mut self, disk: &SimStorage, life: &Life) -> Result<(), Violation> {
        // A power failure or a kill inside the life makes another disk; the operations and the stop go on with it.
        let mut log = None;
        for step in &life.steps {
            let injected = disk.fault_is_waiting();
            let alive = match step {
                Step::Open(mode) => {
                    log = self.open(disk, *mode)?.map(|(log, _)| log);
                    log.is_some()
                }
                Step::Kill => {
                    log = None;
                    true
                }
                Step::PowerFailure(choice) => {
                    log = None;
                    disk.lose_power(choice);
                    true
                }
                Step::FailSync => {
                    disk.inject_if_free(Fault::SyncFails);
                    true
                }
                step => match &mut log {
                    Some(open) => self.act(disk, open, step)?,
                    None => true,
                },
            };
            if disk.is_stopped() {
                return Ok(());
            }
            if !alive {
                // An error ended the process. If it was the fault that the sweep injected, the life is over.
                log = None;
                if injected && !life_injects(life) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A step of a running process; false if an injected error ended it.
    fn act(&mut self, disk: &SimStorage, log: &mut FileLog, step: &Step) -> Result<bool, Violation> {
        let faulty = disk.fault_is_waiting();
        let stamp_ms = self.stamp_ms();
        let result = match step {
            Step::Append { groups, bytes, bookkeeping } => self.append(log, *groups, *bytes, *bookkeeping),
            Step::Mark if log.needs_marker() => log.mark(stamp_ms),
            Step::Tick => log.tick(u64::MAX).map(|_| ()),
            Step::Close => log.close(stamp_ms),
            _ => Ok(()),
        };
        match result {
            Ok(()) => {
                self.note(log.persisted());
                Ok(true)
            }
            // After a close, say: nothing new.
            Err(LogError::OutOfService(_)) => Ok(false),
            Err(error) => self.excuse(disk, faulty, error).map(|()| false),
        }
    }

    /// An error is fine only if the disk gave a reason.
    fn excuse(&self, disk: &SimStorage, faulty: bool, error: LogError) -> Result<(), Violation> {
        match error {
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
            let revision = self.history.last().map_or(0, |entry| entry.revision) + u64::from(!bookkeeping);
            self.serial += 1;
            let cause = if bookkeeping { Cause::Bookkeeping } else { Cause::Request };
            batch.group(revision, cause, None);
            batch.put(b"key", &value(self.serial, bytes));
            self.history.push(Entry { revision, bookkeeping, serial: self.serial, bytes: bytes.max(8) });
        }
        log.append(&mut batch).map(|_| ())
    }

    /// Starts a process; `None` if the disk had a reason to end it.
    fn open(&mut self, disk: &SimStorage, mode: SyncMode) -> Result<Option<(FileLog, RecoveryReport)>, Violation> {
        self.opens += 1;
        let faulty = disk.fault_is_waiting();
        let mut options = LogOptions::new(mode);
        options.segment_bytes = SEGMENT_HEADER_BYTES as u64 + 2500;
        options.allocate_bytes = 1024;
        options.entropy = Box::new(SeededEntropy::new(self.seed ^ self.opens.wrapping_mul(0x2545_f491_4f6c_dd1d)));
        options.bug = self.bug;
        let mut seen = Vec::new();
        let opened = FileLog::open(Arc::new(disk.clone()), options, &mut |group: GroupRef<'_>| {
            seen.push(entry(&group)?);
            Ok(())
        });
        let (log, report) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.excuse(disk, faulty, error).map(|()| None),
        };
        if let Some(at) = (0..seen.len()).find(|&at| self.history.get(at) != Some(&seen[at])) {
            return Err(Violation::NotAPrefix { at });
        }
        if seen.len() < self.acknowledged {
            return Err(Violation::SilentLoss { acknowledged: self.acknowledged, found: seen.len() });
        }
        if self.epoch == Some(report.epoch) && seen.len() < self.released {
            return Err(Violation::RevisionReused { released: self.released, found: seen.len() });
        }
        self.history.truncate(seen.len());
        self.epoch = Some(report.epoch);
        self.note(log.persisted());
        Ok(Some((log, report)))
    }

    /// Starts a process that may be stopped by the disk. If it isn't, it has served.
    pub fn try_open(&mut self, disk: &SimStorage) -> Result<(), Violation> {
        self.open(disk, SyncMode::Always).map(|_| ())
    }

    /// Recovers from `disk`, on which nothing will fail, and checks every rule.
    pub fn check(mut self, disk: &SimStorage) -> Result<Checked, Violation> {
        let before = disk.operations();
        let (log, first) = self.open(disk, SyncMode::Always)?.expect("the disk has no reason to fail");
        let checked = Checked { operations: disk.operations() - before, cut: first.cut.is_some() };
        drop(log);
        let (mut log, second) = self.open(disk, SyncMode::Always)?.expect("the disk has no reason to fail");
        if second.groups != first.groups || second.last_revision != first.last_revision {
            return Err(Violation::NotAFixedPoint("other groups"));
        }
        if second.epoch != first.epoch || second.uuid != first.uuid {
            return Err(Violation::NotAFixedPoint("another epoch or name"));
        }
        if second.cut.is_some() {
            return Err(Violation::NotAFixedPoint("another cut"));
        }
        // The log goes on, and what it acknowledges now survives.
        for bytes in [40, 1300] {
            self.append(&mut log, 1, bytes, bytes == 40).map_err(Violation::Failed)?;
            self.note(log.persisted());
        }
        drop(log);
        let disk = disk.after_power_failure(&CrashChoice::DropAll);
        self.open(&disk, SyncMode::Always)?.expect("the disk has no reason to fail");
        Ok(checked)
    }
}

fn life_injects(life: &Life) -> bool {
    life.steps.contains(&Step::FailSync)
}

/// Reads a group back; contents that no append made are an entry that matches nothing.
fn entry(group: &GroupRef<'_>) -> Result<Entry, VisitError> {
    let mut records = group.records();
    let (Some(RecordRef::Put { key: b"key", value: found }), None) = (records.next(), records.next()) else {
        return Err("the group doesn't hold the one record that was appended".into());
    };
    let serial = found.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let serial = if found == value(serial, found.len()) { serial } else { 0 };
    Ok(Entry { revision: group.revision, bookkeeping: group.cause == Cause::Bookkeeping, serial, bytes: found.len() })
}
