//! The maker of checkpoints in the sweep: a [`Checkpointer`] beside a log, a base from memory, and the errors that can be planted in
//! a maker by lying to it about the disk.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::PlantedBug;
use super::table::{Entry, key, state, value};
use crate::checkpoint::{BaseRecords, BaseStep, CHECKPOINT_FILE, CHECKPOINT_TEMPORARY, RUN_PREFIX};
use crate::entropy::Entropy;
use crate::replay::CheckpointRecord;
use crate::segment::list_segments;
use crate::sim::SimStorage;
use crate::storage::{Storage, StorageFile};

/// The table in memory, as a worker has it while slices of it become a checkpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<Slices>>);

#[derive(Debug, Default)]
struct Slices {
    /// In key order, as of the last change.
    records: Vec<(Vec<u8>, Vec<u8>, u64)>,
    wants_seal: bool,
    sealed: bool,
}

impl Memory {
    /// The table is now what these groups lead to.
    pub fn set(&self, history: &[Entry]) {
        let records = state(history).into_iter();
        let records = records.map(|(number, (serial, bytes, revision))| (key(number).to_vec(), value(serial, bytes), revision));
        self.with(|slices| slices.records = records.collect());
    }

    /// True if all slices were taken, and the log is to be sealed.
    pub fn wants_seal(&self) -> bool {
        self.with(|slices| slices.wants_seal && !slices.sealed)
    }

    /// The log was sealed after the last slice was taken.
    pub fn was_sealed(&self) {
        self.with(|slices| slices.sealed = true);
    }

    /// Slices from the first one on.
    pub fn base(&self) -> Box<dyn BaseRecords> {
        self.with(|slices| (slices.wants_seal, slices.sealed) = (false, false));
        Box::new(MemoryBase { memory: self.clone(), current: (Vec::new(), Vec::new(), 0) })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Slices) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes a record at a time, each as it is at that moment.
struct MemoryBase {
    memory: Memory,
    current: (Vec<u8>, Vec<u8>, u64),
}

impl BaseRecords for MemoryBase {
    fn advance(&mut self) -> BaseStep {
        let after = &self.current.0;
        let next = self.memory.with(|slices| {
            let next = slices.records.iter().find(|record| record.0 > *after).cloned();
            slices.wants_seal |= next.is_none();
            next.ok_or(slices.sealed)
        });
        match next {
            Ok(record) => {
                self.current = record;
                BaseStep::Record
            }
            Err(true) => BaseStep::End,
            Err(false) => BaseStep::Pending,
        }
    }

    fn current(&self) -> CheckpointRecord<'_> {
        let (key, value, revision) = &self.current;
        CheckpointRecord { key, value, revision: *revision }
    }
}

/// The disk as a maker of checkpoints with this error sees it.
pub(super) fn with_bug(disk: &SimStorage, bug: Option<PlantedBug>) -> Arc<dyn Storage> {
    match bug {
        Some(bug) if bug.is_of_the_maker() => Arc::new(LyingDisk { disk: disk.clone(), bug, renamed: Mutex::new(false) }),
        _ => Arc::new(disk.clone()),
    }
}

struct LyingDisk {
    disk: SimStorage,
    bug: PlantedBug,
    /// The last change of a name gave a checkpoint its own.
    renamed: Mutex<bool>,
}

impl LyingDisk {
    fn renamed(&self, renamed: bool) -> bool {
        std::mem::replace(&mut self.renamed.lock().unwrap_or_else(PoisonError::into_inner), renamed)
    }

    /// Removes all segments but the open one.
    fn remove_segments(&self) -> io::Result<()> {
        let numbers = list_segments(&self.disk).map_err(io::Error::other)?;
        for number in &numbers[..numbers.len().saturating_sub(1)] {
            self.disk.remove(&crate::format::segment_name(*number))?;
            self.disk.sync_directory()?;
        }
        Ok(())
    }
}

impl Storage for LyingDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.disk.open(name)
    }

    fn open_past_cache(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        match self.bug {
            PlantedBug::VerifiedInCache | PlantedBug::CheckpointRenamedUnsynced => self.disk.open(name),
            PlantedBug::RemovedBeforeVerified => {
                self.remove_segments()?;
                self.disk.open_past_cache(name)
            }
            _ => self.disk.open_past_cache(name),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.renamed(false);
        let is_there = self.disk.contents(name).is_some_and(|contents| !contents.is_empty());
        match self.bug {
            PlantedBug::CheckpointRenamedUnsynced if name == CHECKPOINT_TEMPORARY => {
                Ok(Box::new(LyingFile { file: self.disk.create(name)?, syncs: false, writes: true }))
            }
            PlantedBug::StaleRunTaken if name.starts_with(RUN_PREFIX) && is_there => {
                Ok(Box::new(LyingFile { file: self.disk.open(name)?, syncs: true, writes: false }))
            }
            _ => self.disk.create(name),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.renamed(to == CHECKPOINT_FILE);
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.renamed(false);
        if self.bug == PlantedBug::StaleRunTaken && name.starts_with(RUN_PREFIX) { Ok(()) } else { self.disk.remove(name) }
    }

    fn sync_directory(&self) -> io::Result<()> {
        let renamed = self.renamed(false);
        if renamed && self.bug == PlantedBug::CheckpointNameNotSynced { Ok(()) } else { self.disk.sync_directory() }
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.disk.free_bytes()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

struct LyingFile {
    file: Box<dyn StorageFile>,
    syncs: bool,
    writes: bool,
}

impl StorageFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.writes { self.file.write_at(bytes, offset) } else { Ok(()) }
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }

    fn extend(&self, from: u64, to: u64) -> io::Result<()> {
        self.file.extend(from, to)
    }

    fn sync(&self) -> io::Result<()> {
        if self.syncs { self.file.sync() } else { Ok(()) }
    }
}

/// Random numbers that are always the same: with them a run that an earlier merge left looks like one's own.
pub(super) struct SameSalts;

impl Entropy for SameSalts {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(7);
        Ok(())
    }
}
