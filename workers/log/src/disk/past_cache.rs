//! Reading a file from the disk instead of from the page cache.
//!
//! - With `O_DIRECT` where the file system has it: each read goes to the device. Buffer, offset and length are multiples of
//!   4,096 bytes, which every common device takes.
//! - Elsewhere the pages are given up first (`POSIX_FADV_DONTNEED`) and then read as usual.
//!
//! Caveats: the device may answer from a cache of its own. Giving up pages is a wish: one that is in use stays, and on a file
//! system in memory there is nothing behind the cache. A file whose last sync succeeded has no dirty page, so neither way
//! writes anything.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise};
use rustix::io::Errno;

use super::DiskFile;
use crate::storage::StorageFile;

/// What buffers, offsets and lengths of direct reads are multiples of, in bytes.
const ALIGNMENT: usize = 4096;
/// Most that is asked of the disk at once, in bytes: 1 MiB at any place, with what alignment adds at both ends.
const DIRECT_BYTES: usize = (1 << 20) + 2 * ALIGNMENT;

pub(super) fn open(path: &Path) -> io::Result<Box<dyn StorageFile>> {
    if let Some(file) = open_direct(path)? {
        return Ok(Box::new(file));
    }
    let file = OpenOptions::new().read(true).open(path)?;
    match fadvise(&file, 0, None, Advice::DontNeed) {
        // Nothing to give up where there is no such advice: a pipe, or a file system of somebody else's making.
        Ok(()) | Err(Errno::INVAL | Errno::SPIPE | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Box::new(CachedFile(DiskFile(file))))
}

/// `None` where direct reading is not to be had.
fn open_direct(path: &Path) -> io::Result<Option<DirectFile>> {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => DirectFile { file, buffer: RefCell::new(AlignedBuffer::new(DIRECT_BYTES)) },
        Err(error) if is_refusal(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Some file systems take the flag and refuse the read.
    match file.read_at(&mut [0], 0) {
        Ok(_) => Ok(Some(file)),
        Err(error) if is_refusal(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS))
}

/// Bytes that start at a multiple of [`ALIGNMENT`].
struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    /// `length` is a multiple of [`ALIGNMENT`].
    fn new(length: usize) -> Self {
        // Never grown afterwards, so the bytes stay where they are.
        let bytes = vec![0; length + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - ALIGNMENT + self.start;
        &mut self.bytes[self.start..end]
    }
}

struct DirectFile {
    file: File,
    buffer: RefCell<AlignedBuffer>,
}

impl DirectFile {
    /// Reads once at an aligned place; fewer bytes than asked for mean the end of the file.
    fn read_aligned(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    // Only the end of the file is not aligned; going on from there would be refused.
                    if !filled.is_multiple_of(ALIGNMENT) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl StorageFile for DirectFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut aligned = self.buffer.borrow_mut();
        let aligned = aligned.bytes();
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let skip = usize::try_from(at % ALIGNMENT as u64).expect("it is less than the alignment");
            let want = (skip + buffer.len() - filled).next_multiple_of(ALIGNMENT).min(aligned.len());
            let read = self.read_aligned(&mut aligned[..want], at - skip as u64)?;
            let found = &aligned[skip.min(read)..read];
            let count = found.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&found[..count]);
            filled += count;
            if read < want {
                break;
            }
        }
        Ok(filled)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_length(&self, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn extend(&self, _from: u64, _to: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A file whose pages were given up when it was opened.
struct CachedFile(DiskFile);

impl StorageFile for CachedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_length(&self, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn extend(&self, _from: u64, _to: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Every way of opening gives the same bytes at every place.
    fn check(file: &dyn StorageFile, expected: &[u8]) {
        assert_eq!(file.length().unwrap(), expected.len() as u64);
        for (offset, length) in [
            (0, 10),
            (0, 4096),
            (1, 4095),
            (1, 4096),
            (4090, 12),
            (0, expected.len() + 9000),
            (4097, expected.len()),
            (expected.len() - 1, 5),
            (expected.len(), 5),
            (expected.len() + 8192, 5),
        ] {
            let mut buffer = vec![0xEE; length];
            let read = file.read_at(&mut buffer, offset as u64).unwrap();
            let end = (offset + length).min(expected.len());
            let wanted = expected.get(offset..end).unwrap_or_default();
            assert_eq!(&buffer[..read], wanted, "{length} bytes at {offset}");
        }
        assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn bytes_read_past_the_cache_are_those_of_the_file_at_every_alignment() {
        let directory = tempfile::tempdir().unwrap();
        for length in [1usize, 4095, 4096, 4097, DIRECT_BYTES, DIRECT_BYTES + 1, 2 * DIRECT_BYTES + 5000] {
            let path = directory.path().join("file");
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            File::open(&path).unwrap().sync_all().unwrap();
            check(&*open(&path).unwrap(), &bytes);
            check(&CachedFile(DiskFile(File::open(&path).unwrap())), &bytes);
        }
        // An empty file too.
        let path = directory.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(open(&path).unwrap().read_at(&mut [0; 8], 0).unwrap(), 0);
        assert_eq!(open(&directory.path().join("none")).err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
