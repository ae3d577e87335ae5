//! [`PastCache`]: a storage whose files are read from the disk and not from the page cache, which may hide what became of them.

use std::io;
use std::path::PathBuf;

use crate::storage::{Storage, StorageFile};

/// A storage for reading, past the page cache. Nothing can be changed through it.
#[derive(Clone, Copy)]
pub struct PastCache<'s>(pub &'s dyn Storage);

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Storage for PastCache<'_> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.0.open_past_cache(name)
    }

    fn open_past_cache(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.0.open_past_cache(name)
    }

    fn create(&self, _name: &str) -> io::Result<Box<dyn StorageFile>> {
        read_only()
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        read_only()
    }

    fn sync_directory(&self) -> io::Result<()> {
        read_only()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }
}
