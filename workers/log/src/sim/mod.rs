//! [`SimStorage`]: a disk in memory that can lose power, fail a sync or run full, at any operation.
//!
//! - A file has two contents: what processes read (the page cache) and what survives a crash (the disk). Names likewise.
//! - Every write, change of length and change of a name is *pending* until a sync of its file, or of the directory for names, has
//!   returned. A crash keeps any choice of the pending operations, whole or torn ([`CrashChoice`]).
//! - A failed sync forgets what was pending: the cache still shows it, later syncs succeed, the disk never gets it.
//! - Everything is a function of the calls made: no clock, no randomness of its own.
//!
//! Caveats: sectors are 512 bytes, and a torn write leaves the bytes around it alone (what `docs/storage.md` assumes of media).
//! Clones share one disk.

mod choice;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::storage::{Storage, StorageFile};

pub use choice::{CrashChoice, Tear, TearDetail};

/// An error to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next sync fails, and the disk never gets what it should have made durable.
    SyncFails,
    /// The next sync fails although the disk got everything.
    SyncFailsLate,
    /// The next write, extension or creation finds the disk full, halfway through.
    Full,
}

/// A simulated disk with one directory.
#[derive(Clone, Debug, Default)]
pub struct SimStorage {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Contents by inode number. Two names share one only where a power failure left both names of a rename.
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// In the order in which they were issued, over all files.
    pending: Vec<Pending>,
    operations: u64,
    stop_at: Option<u64>,
    stopped: bool,
    fault: Option<(u64, Fault)>,
    /// The next sync of the file of this name loses a write and doesn't say so.
    lie: Option<String>,
    /// Room for all files, bytes.
    capacity: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    cache: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
}

/// An operation that no sync has made durable.
#[derive(Clone, Debug)]
enum Pending {
    Write {
        inode: usize,
        offset: usize,
        bytes: Vec<u8>,
        extends: bool,
    },
    Length {
        inode: usize,
        from: usize,
        to: usize,
    },
    /// A write without the growth of its file: what a power failure makes of one, never issued.
    Inside {
        inode: usize,
        offset: usize,
        bytes: Vec<u8>,
    },
    Link {
        name: String,
        inode: usize,
    },
    Rename {
        from: String,
        to: String,
        inode: usize,
    },
    Unlink {
        name: String,
    },
}

impl Pending {
    fn inode(&self) -> Option<usize> {
        match self {
            Self::Write { inode, .. } | Self::Length { inode, .. } | Self::Inside { inode, .. } => Some(*inode),
            Self::Link { .. } | Self::Rename { .. } | Self::Unlink { .. } => None,
        }
    }

    /// True if it makes its file longer.
    fn grows(&self) -> bool {
        match self {
            Self::Write { extends, .. } => *extends,
            Self::Length { from, to, .. } => from < to,
            Self::Inside { .. } | Self::Link { .. } | Self::Rename { .. } | Self::Unlink { .. } => false,
        }
    }

    /// What it does to the length of its file, without any bytes.
    fn length(&self) -> Option<Self> {
        match self {
            Self::Write { inode, offset, bytes, extends: true } => {
                Some(Self::Length { inode: *inode, from: 0, to: offset + bytes.len() })
            }
            Self::Length { .. } => Some(self.clone()),
            _ => None,
        }
    }

    /// What it does to the bytes of its file, without making it longer.
    fn inside(&self) -> Option<Self> {
        match self {
            Self::Write { inode, offset, bytes, .. } => {
                Some(Self::Inside { inode: *inode, offset: *offset, bytes: bytes.clone() })
            }
            Self::Length { from, to, .. } if from > to => Some(self.clone()),
            _ => None,
        }
    }
}

/// Writes into a file image; a gap before `offset` reads as zeros.
fn write_image(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

impl State {
    /// Counts an operation; true if the machine stops *during* it.
    fn count(&mut self) -> io::Result<bool> {
        if self.stopped {
            return Err(stopped());
        }
        let number = self.operations;
        self.operations += 1;
        self.stopped = self.stop_at == Some(number);
        Ok(self.stopped)
    }

    fn take_fault(&mut self, accept: impl Fn(Fault) -> bool) -> Option<Fault> {
        match self.fault {
            // The operation was counted already.
            Some((from, fault)) if self.operations > from && accept(fault) => {
                self.fault = None;
                Some(fault)
            }
            _ => None,
        }
    }

    /// Room that is left, if there is a bound.
    fn free_bytes(&self) -> Option<u64> {
        let capacity = self.capacity?;
        let inodes: BTreeSet<_> = self.names.values().collect();
        let used: usize = inodes.into_iter().map(|&inode| self.inodes[inode].cache.len()).sum();
        Some(capacity.saturating_sub(used as u64))
    }

    /// True if a file can't become so long.
    fn has_no_room(&self, inode: usize, length: usize) -> bool {
        let more = length.saturating_sub(self.inodes[inode].cache.len()) as u64;
        more > 0 && self.free_bytes().is_some_and(|free| more > free)
    }

    fn finish(&self, stops: bool) -> io::Result<()> {
        if stops { Err(stopped()) } else { Ok(()) }
    }

    fn write(&mut self, inode: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let stops = self.count()?;
        let full = self.take_fault(|fault| fault == Fault::Full).is_some();
        let bytes = if full { &bytes[..bytes.len() / 2] } else { bytes };
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        if self.has_no_room(inode, offset.saturating_add(bytes.len())) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let cache = Arc::make_mut(&mut self.inodes[inode].cache);
        let extends = offset + bytes.len() > cache.len();
        write_image(cache, offset, bytes);
        self.pending.push(Pending::Write { inode, offset, bytes: bytes.to_vec(), extends });
        if full { Err(io::ErrorKind::StorageFull.into()) } else { self.finish(stops) }
    }

    fn set_length(&mut self, inode: usize, length: u64, may_be_full: bool) -> io::Result<()> {
        let stops = self.count()?;
        let full = may_be_full && self.take_fault(|fault| fault == Fault::Full).is_some();
        let from = self.inodes[inode].cache.len();
        let mut to = usize::try_from(length).map_err(io::Error::other)?;
        if full {
            to = from + to.saturating_sub(from) / 2;
        }
        if self.has_no_room(inode, to) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Arc::make_mut(&mut self.inodes[inode].cache).resize(to, 0);
        self.pending.push(Pending::Length { inode, from, to });
        if full { Err(io::ErrorKind::StorageFull.into()) } else { self.finish(stops) }
    }

    /// Syncs a file, or the directory (`None`).
    fn sync(&mut self, inode: Option<usize>) -> io::Result<()> {
        if self.count()? {
            return Err(stopped());
        }
        let fault = self.take_fault(|fault| fault != Fault::Full);
        let lies = inode.is_some() && self.lie.as_ref().is_some_and(|name| self.names.get(name).copied() == inode);
        let is_lost = |operation: &Pending| lies && matches!(operation, Pending::Write { .. }) && operation.inode() == inode;
        let lost = self.pending.iter().position(is_lost);
        if lost.is_some() {
            self.lie = None;
        }
        let all = std::mem::take(&mut self.pending);
        for (index, operation) in all.into_iter().enumerate() {
            if Some(index) == lost {
                // The file is as long as if it had been written.
                operation.length().iter().for_each(|length| self.apply(length));
            } else if operation.inode() != inode {
                self.pending.push(operation);
            } else if fault != Some(Fault::SyncFails) {
                self.apply(&operation);
            }
        }
        match fault {
            None => Ok(()),
            Some(_) => Err(io::Error::other("the simulated disk failed to sync")),
        }
    }

    /// What is left after a power failure.
    fn crashed(mut self, choice: &CrashChoice) -> Self {
        let pending = std::mem::take(&mut self.pending);
        for index in 0..pending.len() {
            if let Some(kept) = choice.kept(index, &pending) {
                kept.iter().for_each(|operation| self.apply(operation));
            }
        }
        let mut disk = Self { capacity: self.capacity, ..Self::default() };
        let mut moved = BTreeMap::new();
        for (name, inode) in self.durable_names {
            let inode = *moved.entry(inode).or_insert_with(|| {
                let durable = std::mem::take(&mut self.inodes[inode].durable);
                disk.inodes.push(Inode { cache: durable.clone(), durable });
                disk.inodes.len() - 1
            });
            disk.names.insert(name, inode);
        }
        disk.durable_names = disk.names.clone();
        disk
    }

    /// Makes a pending operation durable.
    fn apply(&mut self, operation: &Pending) {
        match operation {
            Pending::Write { inode, offset, bytes, .. } => {
                write_image(Arc::make_mut(&mut self.inodes[*inode].durable), *offset, bytes);
            }
            Pending::Inside { inode, offset, bytes } => {
                let image = Arc::make_mut(&mut self.inodes[*inode].durable);
                let room = image.len().saturating_sub(*offset).min(bytes.len());
                write_image(image, *offset.min(&image.len()), &bytes[..room]);
            }
            Pending::Length { inode, from, to } => {
                let image = Arc::make_mut(&mut self.inodes[*inode].durable);
                // What made the file longer doesn't make it shorter if the shortening before it was lost.
                image.resize(if from < to { (*to).max(image.len()) } else { *to }, 0);
            }
            Pending::Link { name, inode } => {
                self.durable_names.insert(name.clone(), *inode);
            }
            Pending::Rename { from, to, inode } => {
                self.durable_names.remove(from);
                self.durable_names.insert(to.clone(), *inode);
            }
            Pending::Unlink { name } => {
                self.durable_names.remove(name);
            }
        }
    }
}

impl SimStorage {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic happens while the disk is locked")
    }

    /// How many operations that change or sync something were begun.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Stops the machine during operation `number` (the first is 0): a write is issued but not confirmed, a sync does nothing; every
    /// call from then on fails.
    pub fn stop_at(&self, number: u64) {
        self.state().stop_at = Some(number);
    }

    /// The disk has room for so many bytes of files in all, names not counted; without this, for everything.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = Some(bytes);
    }

    /// True once the machine has stopped.
    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// Injects `fault` into the first operation it fits, from operation `number` on.
    pub fn inject(&self, number: u64, fault: Fault) {
        self.state().fault = Some((number, fault));
    }

    /// True while an injected fault has not struck.
    pub fn fault_is_waiting(&self) -> bool {
        self.state().fault.is_some()
    }

    /// The disk as a new process finds it after the old one was killed: the page cache stays, pending operations stay pending.
    pub fn after_kill(&self) -> Self {
        let mut state = self.state().clone();
        state.stop_at = None;
        state.stopped = false;
        state.fault = None;
        state.lie = None;
        state.operations = 0;
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk as it is found after a power failure now: of what was pending, `choice` is there.
    pub fn after_power_failure(&self, choice: &CrashChoice) -> Self {
        let disk = self.state().clone().crashed(choice);
        Self { state: Arc::new(Mutex::new(disk)) }
    }

    /// A power failure of this very disk. Count of operations, stop and fault go on; files that were open must not be used.
    pub(crate) fn lose_power(&self, choice: &CrashChoice) {
        let mut state = self.state();
        let (operations, stop_at, fault) = (state.operations, state.stop_at, state.fault);
        *state = State { operations, stop_at, fault, ..std::mem::take(&mut *state).crashed(choice) };
    }

    /// A disk that lies: the next sync of the file `name` that has a write to make durable succeeds, but the first of these writes
    /// never reaches the disk.
    pub fn lose_a_write_of(&self, name: &str) {
        self.state().lie = Some(name.to_owned());
    }

    /// True while [`SimStorage::lose_a_write_of`] has not struck.
    pub fn lie_is_waiting(&self) -> bool {
        self.state().lie.is_some()
    }

    /// Flips bits of one byte of a file, in the cache and on the disk: damage done from outside, not an operation. False if the file
    /// has no such byte.
    pub fn damage(&self, name: &str, offset: usize, mask: u8) -> bool {
        let mut state = self.state();
        let Some(&inode) = state.names.get(name) else { return false };
        let inode = &mut state.inodes[inode];
        let mut is_there = false;
        for image in [&mut inode.cache, &mut inode.durable] {
            if let Some(byte) = Arc::make_mut(image).get_mut(offset) {
                *byte ^= mask;
                is_there = true;
            }
        }
        is_there
    }

    /// [`SimStorage::inject`] from now on, unless another fault is waiting.
    pub(crate) fn inject_if_free(&self, fault: Fault) {
        let mut state = self.state();
        let now = state.operations;
        state.fault.get_or_insert((now, fault));
    }

    /// The ways in which a power failure now can leave the disk.
    pub fn crash_choices(&self, detail: TearDetail) -> Vec<CrashChoice> {
        choice::enumerate(&self.state().pending, detail)
    }

    /// A file's bytes as processes read them; `None` if there is no such file.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|&inode| state.inodes[inode].cache.to_vec())
    }

    /// Replaces a file's bytes in the cache and on the disk, or removes the file: damage done from outside, not an operation.
    pub fn overwrite(&self, name: &str, contents: Option<Vec<u8>>) {
        let mut state = self.state();
        let Some(contents) = contents else {
            state.names.remove(name);
            state.durable_names.remove(name);
            return;
        };
        let contents = Arc::new(contents);
        let inode = state.inodes.len();
        state.inodes.push(Inode { cache: contents.clone(), durable: contents });
        state.names.insert(name.to_owned(), inode);
        state.durable_names.insert(name.to_owned(), inode);
    }
}

impl Storage for SimStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.stopped {
            return Err(stopped());
        }
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let state = self.state();
        if state.stopped {
            return Err(stopped());
        }
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode, past_cache: false }))
    }

    fn open_past_cache(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let state = self.state();
        if state.stopped {
            return Err(stopped());
        }
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode, past_cache: true }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let existing = self.state().names.get(name).copied();
        if let Some(inode) = existing {
            self.state().set_length(inode, 0, false)?;
            return Ok(Box::new(SimFile { disk: self.clone(), inode, past_cache: false }));
        }
        let mut state = self.state();
        let stops = state.count()?;
        if state.take_fault(|fault| fault == Fault::Full).is_some() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.to_owned(), inode);
        state.pending.push(Pending::Link { name: name.to_owned(), inode });
        state.finish(stops)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode, past_cache: false }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let stops = state.count()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state.pending.push(Pending::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        state.finish(stops)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let stops = state.count()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pending.push(Pending::Unlink { name: name.to_owned() });
        state.finish(stops)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.state().sync(None)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(self.state().free_bytes())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }
}

struct SimFile {
    disk: SimStorage,
    inode: usize,
    /// Reads what is on the disk, and writes nothing.
    past_cache: bool,
}

impl SimFile {
    fn contents(&self) -> io::Result<Arc<Vec<u8>>> {
        let state = self.disk.state();
        if state.stopped {
            return Err(stopped());
        }
        let inode = &state.inodes[self.inode];
        Ok(if self.past_cache { inode.durable.clone() } else { inode.cache.clone() })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.past_cache { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }
}

impl StorageFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let contents = self.contents()?;
        let start = usize::try_from(offset).map_or(contents.len(), |offset| offset.min(contents.len()));
        let count = buffer.len().min(contents.len() - start);
        buffer[..count].copy_from_slice(&contents[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        self.disk.state().write(self.inode, offset, bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.contents()?.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.check_writable()?;
        self.disk.state().set_length(self.inode, length, false)
    }

    fn extend(&self, _from: u64, to: u64) -> io::Result<()> {
        self.check_writable()?;
        self.disk.state().set_length(self.inode, to, true)
    }

    fn sync(&self) -> io::Result<()> {
        self.check_writable()?;
        self.disk.state().sync(Some(self.inode))
    }
}

#[cfg(test)]
mod tests;
