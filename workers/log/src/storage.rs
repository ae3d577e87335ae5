//! What the log asks of a disk: a handful of operations on one flat directory.
//!
//! - Writes are positional and whole: they return when the operating system has taken every byte.
//! - Nothing is durable before `sync` (a file's bytes and length) or `sync_directory` (names) has returned Ok.
//! - After an error of any operation the caller stops using the storage. A failed sync is never tried again: the pages count
//!   as clean afterwards although the disk never got them.
//!
//! Caveats: names are plain file names chosen by this crate. They are not checked for separators. How much room is left is old when it
//! is told, and no promise: quotas of users are not in it, and others write, too.

use std::io;
use std::path::PathBuf;

/// A directory that holds the data files.
pub trait Storage: Send + Sync {
    /// Names of all files, sorted.
    ///
    /// # Errors
    /// When the directory can't be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or what the file system says.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Opens an existing file for reading only, so that what is read comes from the disk and not from the page cache, as far as
    /// the file system lets one ask for that. It shows what a later start will find of a file that was synced; to read a file
    /// again that is not synced makes no sense.
    ///
    /// # Errors
    /// `NotFound`, or what the file system says. Writing through it fails with `Unsupported`.
    fn open_past_cache(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Makes an empty file; an existing one is emptied. The name is durable after [`Storage::sync_directory`].
    ///
    /// # Errors
    /// What the file system says.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Gives a file another name, atomically; a file that has that name is replaced.
    ///
    /// # Errors
    /// `NotFound`, or what the file system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// `NotFound`, or what the file system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all changes of names durable.
    ///
    /// # Errors
    /// A failure is final, see the module.
    fn sync_directory(&self) -> io::Result<()>;

    /// Room that is left for this process, bytes; `None` where that is not known.
    ///
    /// # Errors
    /// What the file system says; nothing depends on it.
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// How messages call a file (or, with an empty name, the directory).
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub trait StorageFile: Send {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the disk says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What the disk says; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the file system says.
    fn length(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// What the file system says.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Extends the file from `from`, its present length, to `to` with zeros whose room on the disk is allocated, so that later
    /// writes there change no length and find space.
    ///
    /// # Errors
    /// What the file system says, a full disk above all; part of the extension may have happened.
    fn extend(&self, from: u64, to: u64) -> io::Result<()>;

    /// As [`StorageFile::extend`], but only so that later writes find space: their next sync may have to note on the disk that the room is in use
    /// now. Where the file system can do that, nothing is written.
    ///
    /// # Errors
    /// As [`StorageFile::extend`].
    fn reserve(&self, from: u64, to: u64) -> io::Result<()> {
        self.extend(from, to)
    }

    /// Has the bytes written from `from` to `to` begin their way to the disk, and does not wait for them. Nothing is durable by that, and nothing
    /// is promised: it makes a later sync shorter, where the file system knows how.
    fn begin_writing(&self, from: u64, to: u64) {
        let _ = (from, to);
    }

    /// Makes the bytes written and the length durable.
    ///
    /// # Errors
    /// A failure is final, see the module.
    fn sync(&self) -> io::Result<()>;
}
