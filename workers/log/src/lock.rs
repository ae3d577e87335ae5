//! [`DirLock`]: one process per data directory, also on a shared file system.
//!
//! - The lock is the lock *file*: made under a name of its own, then given the name `lock` by link(2), which is atomic on NFS too.
//!   It names host, boot, process and instance.
//! - The holder also keeps an flock on it, taken before it is linked. On one kernel the flock decides: it ends with the process,
//!   so a lock left by `kill -9` or a reboot is stale and taken silently.
//! - A lock of another host is refused until the caller takes it over: nothing here can tell whether that host still runs.
//! - Of several processes that find a stale lock at once, exactly one gets it: the flock on the stale file is the referee.
//!
//! Caveats: two hosts are told apart by boot id and host name, so hosts that share a name and a disk need flock to work between
//! them. A take-over can't stop the old holder; [`DirLock::verify`] lets it notice.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use uuid::Uuid;

pub(crate) const LOCK_NAME: &str = "lock";
/// A lock file is five short lines.
pub(crate) const MAX_LOCK_BYTES: u64 = 4096;
/// How often a lock that changes under our eyes is looked at again, and the pause between.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Host name.
    pub host: String,
    /// The kernel's boot id: differs between hosts and between boots.
    pub boot_id: String,
    /// Process id; informative, as it may be of another namespace.
    pub pid: u32,
    /// The process's instance uuid.
    pub uuid: Uuid,
}

impl LockHolder {
    /// This process, calling itself `uuid`.
    ///
    /// # Errors
    /// When the boot id can't be read.
    pub fn this_process(uuid: Uuid) -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // One word per value: a host name never has a line break, but a lock file must not be forged by one.
        let host = host.replace(char::is_whitespace, "_");
        Ok(Self { host, boot_id, pid: std::process::id(), uuid })
    }

    fn encode(&self) -> String {
        format!("kvbroker lock 1\nhost {}\nboot {}\npid {}\nuuid {}\n", self.host, self.boot_id, self.pid, self.uuid)
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        if field("kvbroker lock")? != "1" {
            return None;
        }
        Some(Self {
            host: field("host")?,
            boot_id: field("boot")?,
            pid: field("pid")?.parse().ok()?,
            uuid: field("uuid")?.parse().ok()?,
        })
    }
}

impl LockHolder {
    /// True if the two are processes of one kernel, or of one host before and after a reboot.
    pub(crate) fn is_of_the_host_of(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id || self.host == other.host
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on host {}", self.pid, self.host)
    }
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// A live process of this machine holds it.
    #[error("{} is in use by {holder}: stop that process first.", directory.display())]
    Held {
        /// The directory.
        directory: PathBuf,
        /// Who holds it.
        holder: LockHolder,
    },
    /// A process of another host holds it, or held it when that host died.
    #[error(
        "{} is locked by {holder}, another machine: if that process surely no longer runs, start once with --take-over.",
        directory.display()
    )]
    OtherHost {
        /// The directory.
        directory: PathBuf,
        /// Who holds it.
        holder: LockHolder,
    },
    /// The lock file is not one of ours.
    #[error("{} is not a lock file of this program: move it away, or start once with --take-over.", path.display())]
    Unreadable {
        /// The lock file.
        path: PathBuf,
    },
    /// Somebody took the lock over: this process must end.
    #[error("the lock on {} was taken over by another process: this one ends, for two would destroy the log.", directory.display())]
    Lost {
        /// The directory.
        directory: PathBuf,
    },
    /// The lock file kept changing.
    #[error("{} is being locked and unlocked by other processes: try again.", directory.display())]
    Contended {
        /// The directory.
        directory: PathBuf,
    },
    /// The file system refused.
    #[error("can't lock {}: {source}", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

/// What was found when a lock was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockOutcome {
    /// The directory was not locked.
    Free,
    /// A process of this host left its lock behind.
    Stale(LockHolder),
    /// The lock of another host (or an unreadable one) was taken over, as asked.
    TakenOver(Option<LockHolder>),
}

/// A held lock; dropping it removes the lock file.
#[derive(Debug)]
pub struct DirLock {
    directory: PathBuf,
    file: File,
    holder: LockHolder,
}

impl DirLock {
    /// Locks `directory`, which must exist. `take_over` also takes a lock of another host or an unreadable one, never one that a
    /// live process of this machine holds.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(directory: &Path, holder: LockHolder, take_over: bool) -> Result<(Self, LockOutcome), LockError> {
        let failed = |source| LockError::Io { directory: directory.to_owned(), source };
        let temporary = directory.join(format!("{LOCK_NAME}.{}.{}", holder.pid, Uuid::new_v4().simple()));
        let file = make_locked_file(&temporary, &holder).map_err(|error| {
            // On a full disk it is there and empty.
            let _ = fs::remove_file(&temporary);
            failed(error)
        })?;
        let outcome = take(directory, &temporary, &file, &holder, take_over);
        // Also after success: the lock lives on under its real name.
        let removed = match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
        let outcome = outcome?;
        let lock = Self { directory: directory.to_owned(), file, holder };
        removed?;
        Ok((lock, outcome))
    }

    /// Who holds the lock: this process.
    pub fn holder(&self) -> &LockHolder {
        &self.holder
    }

    /// The directory that is locked.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// True if another process has the lock now: this one must end, for two that write one log destroy it.
    ///
    /// A lock file that is missing, or can't be looked at just now, says nothing about that: whoever takes the lock makes a new one.
    pub fn was_taken_over(&self) -> bool {
        let path = self.directory.join(LOCK_NAME);
        fs::symlink_metadata(&path).is_ok() && matches!(is_same_file(&self.file, &path), Ok(false))
    }

    /// Checks that the lock file is still ours.
    ///
    /// # Errors
    /// `Lost` after a take-over.
    pub fn verify(&self) -> Result<(), LockError> {
        match is_same_file(&self.file, &self.directory.join(LOCK_NAME)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(LockError::Lost { directory: self.directory.clone() }),
            Err(source) => Err(LockError::Io { directory: self.directory.clone(), source }),
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        let path = self.directory.join(LOCK_NAME);
        if is_same_file(&self.file, &path).unwrap_or(false) {
            // If it fails the file stays without its flock: stale, and the next start takes it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes the lock file under its temporary name and locks it: whoever finds it under the real name finds it locked.
fn make_locked_file(temporary: &Path, holder: &LockHolder) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(holder.encode().as_bytes())?;
    file.sync_all()?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        // A file system without flock: the linked file alone is the lock.
        Err(TryLockError::Error(error)) if flock_unsupported(&error) => Ok(file),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn take(directory: &Path, temporary: &Path, file: &File, holder: &LockHolder, take_over: bool) -> Result<LockOutcome, LockError> {
    let failed = |source| LockError::Io { directory: directory.to_owned(), source };
    let path = directory.join(LOCK_NAME);
    let mut busy = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            thread::sleep(PAUSE);
        }
        match fs::hard_link(temporary, &path) {
            Ok(()) => return Ok(LockOutcome::Free),
            // NFS may lose the reply to a link that was made; the file itself knows.
            Err(_) if is_same_file(file, &path).unwrap_or(false) => return Ok(LockOutcome::Free),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let existing = match File::open(&path) {
            Ok(existing) => existing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        let found = match (&existing).take(MAX_LOCK_BYTES).read_to_string(&mut text) {
            Ok(_) => LockHolder::decode(&text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(failed(error)),
        };
        let this_host = found.as_ref().is_some_and(|found| found.is_of_the_host_of(holder));
        if !this_host && !take_over {
            return Err(match found {
                Some(holder) => LockError::OtherHost { directory: directory.to_owned(), holder },
                None => LockError::Unreadable { path },
            });
        }
        match existing.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // Held by a live process, or just being taken by another start: only the second passes within the attempts.
                if found.as_ref().is_some_and(|found| is_alive(found, holder)) {
                    return Err(LockError::Held {
                        directory: directory.to_owned(),
                        holder: found.expect("it was just looked at"),
                    });
                }
                busy = found;
                continue;
            }
            Err(TryLockError::Error(error)) if flock_unsupported(&error) => {
                if let Some(found) = found.as_ref().filter(|found| is_alive(found, holder)) {
                    return Err(LockError::Held { directory: directory.to_owned(), holder: found.clone() });
                }
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // We hold the flock of `existing`; nobody else replaces it now, unless it is no longer the lock.
        if !is_same_file(&existing, &path).map_err(failed)? {
            continue;
        }
        fs::rename(temporary, &path).map_err(failed)?;
        return Ok(match found {
            Some(found) if this_host => LockOutcome::Stale(found),
            found => LockOutcome::TakenOver(found),
        });
    }
    Err(match busy {
        Some(holder) => LockError::Held { directory: directory.to_owned(), holder },
        None => LockError::Contended { directory: directory.to_owned() },
    })
}

/// True if a process with the lock's number runs here. Only asked where the flock can't decide or for the message.
pub(crate) fn is_alive(found: &LockHolder, ours: &LockHolder) -> bool {
    found.boot_id == ours.boot_id && Path::new(&format!("/proc/{}", found.pid)).exists()
}

fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(theirs) => Ok(ours.dev() == theirs.dev() && ours.ino() == theirs.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn flock_unsupported(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::NOLCK | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP))
}
