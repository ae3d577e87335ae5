//! Who holds a data directory, asked without taking the lock.
//!
//! Caveat: on this machine the flock is tried, shared and for an instant. A start that looks in the same instant waits a few
//! milliseconds and looks again, as it does when two start at once.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::Path;

use uuid::Uuid;

use crate::lock::{LOCK_NAME, LockHolder, MAX_LOCK_BYTES, flock_unsupported, is_alive};

/// What the lock file says and is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockState {
    /// There is no lock: nobody uses the directory.
    Free,
    /// A process of this machine uses it now.
    Held(LockHolder),
    /// A process of this machine left it behind; a start takes it silently.
    Stale(LockHolder),
    /// A process of another host holds it, or held it when that host died: nothing here can tell.
    OtherHost(LockHolder),
    /// It can't be understood; a start refuses it.
    Unreadable,
}

impl LockState {
    /// True unless the directory is surely not in use.
    pub fn may_be_in_use(&self) -> bool {
        matches!(self, Self::Held(_) | Self::OtherHost(_) | Self::Unreadable)
    }
}

/// Looks at the lock of `directory`.
///
/// # Errors
/// When the lock file can't be read.
pub fn lock_state(directory: &Path) -> io::Result<LockState> {
    let file = match File::open(directory.join(LOCK_NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LockState::Free),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    (&file).take(MAX_LOCK_BYTES).read_to_end(&mut text)?;
    let Some(holder) = std::str::from_utf8(&text).ok().and_then(LockHolder::decode) else {
        return Ok(LockState::Unreadable);
    };
    let ours = LockHolder::this_process(Uuid::nil())?;
    if !holder.is_of_the_host_of(&ours) {
        return Ok(LockState::OtherHost(holder));
    }
    let is_held = match file.try_lock_shared() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) if flock_unsupported(&error) => is_alive(&holder, &ours),
        Err(TryLockError::Error(error)) => return Err(error),
    };
    Ok(if is_held { LockState::Held(holder) } else { LockState::Stale(holder) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::DirLock;

    #[test]
    fn a_lock_is_seen_without_being_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(lock_state(path).unwrap(), LockState::Free);
        let holder = LockHolder::this_process(Uuid::new_v4()).unwrap();
        let (lock, _) = DirLock::acquire(path, holder.clone(), false).unwrap();
        assert_eq!(lock_state(path).unwrap(), LockState::Held(holder.clone()));
        lock.verify().unwrap();
        // What kill -9 leaves: the file without its flock.
        let text = std::fs::read(path.join(LOCK_NAME)).unwrap();
        drop(lock);
        std::fs::write(path.join(LOCK_NAME), &text).unwrap();
        assert_eq!(lock_state(path).unwrap(), LockState::Stale(holder));
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let elsewhere = format!("{}\nhost elsewhere\nboot other\n{}\n{}\n", lines[0], lines[3], lines[4]);
        std::fs::write(path.join(LOCK_NAME), elsewhere).unwrap();
        assert!(matches!(lock_state(path).unwrap(), LockState::OtherHost(holder) if holder.host == "elsewhere"));
        std::fs::write(path.join(LOCK_NAME), b"\xff").unwrap();
        assert!(lock_state(path).unwrap().may_be_in_use());
    }
}
