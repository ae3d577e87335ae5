//! Where a backup goes.

use std::io;

use crate::storage::{Storage, StorageFile};

/// Takes a backup, file after file.
pub trait BackupSink {
    /// Ends the file before, if there was one, and begins a file of exactly `bytes` bytes.
    ///
    /// # Errors
    /// What the destination says. Final, as for the other methods.
    fn file(&mut self, name: &str, bytes: u64) -> io::Result<()>;

    /// The next bytes of the file.
    ///
    /// # Errors
    /// What the destination says.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Ends the last file and makes everything as durable as the destination can.
    ///
    /// # Errors
    /// What the destination says.
    fn finish(&mut self) -> io::Result<()>;
}

/// A backup in an empty directory.
pub struct StorageSink<'s> {
    storage: &'s dyn Storage,
    /// The open file, and where its next byte goes.
    open: Option<(Box<dyn StorageFile>, u64)>,
}

impl<'s> StorageSink<'s> {
    /// Files are made in `storage`.
    pub fn new(storage: &'s dyn Storage) -> Self {
        Self { storage, open: None }
    }

    fn end_file(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some((file, _)) => file.sync(),
            None => Ok(()),
        }
    }
}

impl BackupSink for StorageSink<'_> {
    fn file(&mut self, name: &str, _bytes: u64) -> io::Result<()> {
        self.end_file()?;
        self.open = Some((self.storage.create(name)?, 0));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (file, at) = self.open.as_mut().expect("a file was begun");
        file.write_at(bytes, *at)?;
        *at += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.end_file()?;
        self.storage.sync_directory()
    }
}
