//! [`DiskStorage`]: the real directory behind the [`Storage`] trait.
//!
//! - Files are made with mode 0600, the directory with 0700.
//! - `sync` is fdatasync: it covers the bytes and the length, not the times.
//! - A large file whose name goes is ended a little at a time, on the thread that removes or replaces it.
//! - `extend` writes zeros instead of calling fallocate: on ext4 and XFS a write into fallocated space converts an extent, which
//!   puts a journal commit into the very fdatasync that preallocation should make cheap (docs/decisions/0003 has the numbers). `reserve`
//!   calls it.

mod letting_go;
mod past_cache;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use self::letting_go::let_go;
use crate::storage::{Storage, StorageFile};

/// One directory of a real file system.
#[derive(Debug)]
pub struct DiskStorage {
    directory: PathBuf,
    is_read_only: bool,
}

impl DiskStorage {
    /// Uses `directory`, which is made (with its parents, each entry synced) if it is missing.
    ///
    /// # Errors
    /// When it can't be made, or is no directory.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        make_directories(&directory)?;
        if !fs::metadata(&directory)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "the data directory is a file"));
        }
        Ok(Self { directory, is_read_only: false })
    }

    /// Uses `directory`, which must exist, for reading only: files are opened so that the system refuses to change them, and
    /// nothing is made, renamed or removed. Works on a copy that belongs to nobody who may write it.
    ///
    /// # Errors
    /// When it is missing, no directory, or can't be read.
    pub fn read_only(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::read_dir(&directory)?;
        Ok(Self { directory, is_read_only: true })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.is_read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Makes `directory` and what is missing above it, and syncs each parent: an acknowledged write must not lose its directory.
fn make_directories(directory: &Path) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directories(parent)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    File::open(parent)?.sync_all()
}

impl Storage for DiskStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            // A name that is not UTF-8 can't be one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(!self.is_read_only).open(self.path(name))?;
        Ok(Box::new(DiskFile(file)))
    }

    fn open_past_cache(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        past_cache::open(&self.path(name))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.check_writable()?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(self.path(name))?;
        Ok(Box::new(DiskFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        let replaced = OpenOptions::new().write(true).open(self.path(to));
        fs::rename(self.path(from), self.path(to))?;
        if let Ok(replaced) = replaced {
            let_go(replaced);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        let removed = OpenOptions::new().write(true).open(self.path(name));
        fs::remove_file(self.path(name))?;
        if let Ok(removed) = removed {
            let_go(removed);
        }
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        match rustix::fs::statvfs(&self.directory) {
            // File systems that don't count, some made of processes and some of networks, say that they have nothing at all.
            Ok(found) => Ok((found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))),
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.directory.clone() } else { self.directory.join(name) }
    }
}

struct DiskFile(File);

/// Most bytes of one write: for a longer one the page cache looks for pieces of memory so large that finding them takes longer than the rest.
const WRITE_BYTES: usize = 128 << 10;

/// Zeros for [`StorageFile::extend`], written a piece at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl StorageFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for piece in bytes.chunks(WRITE_BYTES) {
            self.0.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn extend(&self, from: u64, to: u64) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let piece = ZEROS.len().min(usize::try_from(to - at).unwrap_or(usize::MAX));
            self.0.write_all_at(&ZEROS[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn reserve(&self, from: u64, to: u64) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), from, to.saturating_sub(from)) {
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return self.extend(from, to),
                result => return Ok(result?),
            }
        }
    }

    fn begin_writing(&self, from: u64, to: u64) {
        // On Linux this starts the writing of what is dirty there, and doesn't wait for it. What it fails to do the sync does.
        let _ = rustix::fs::fadvise(&self.0, from, NonZeroU64::new(to.saturating_sub(from)), Advice::DontNeed);
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
