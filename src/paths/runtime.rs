//! The runtime directory: opened step by step, checked, locked.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, flock, fstat, mkdirat, openat, statat};
use rustix::io::Errno;

use super::{ENDPOINT_FILE, LOCK_FILE, PUB_SOCKET, PathError, ROUTER_SOCKET, check_socket_path};
use crate::project::ProjectName;

const PRIVATE_DIRECTORY: Mode = Mode::RWXU;

/// Open a directory for use as an anchor; no symlink in the last step.
const STEP: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The lock file holds a process number and a line feed.
const MAX_LOCK_FILE_BYTES: u64 = 32;

/// A project's runtime directory, open and found to be ours alone.
#[derive(Debug)]
pub struct RuntimeDir {
    directory: OwnedFd,
    path: PathBuf,
    project: ProjectName,
}

/// Held by the one broker of a project in a runtime directory; dropped, or its
/// process gone, the lock is free.
#[derive(Debug)]
pub struct RuntimeLock {
    // flock(2) belongs to the open file: closing it is what unlocks.
    _file: File,
    _directory: OwnedFd,
}

impl RuntimeDir {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The project it belongs to.
    #[must_use]
    pub fn project(&self) -> &ProjectName {
        &self.project
    }

    /// The ROUTER's unix socket.
    #[must_use]
    pub fn router_socket(&self) -> PathBuf {
        self.path.join(ROUTER_SOCKET)
    }

    /// The publisher's unix socket.
    #[must_use]
    pub fn pub_socket(&self) -> PathBuf {
        self.path.join(PUB_SOCKET)
    }

    /// The endpoint file.
    #[must_use]
    pub fn endpoint_file(&self) -> PathBuf {
        self.path.join(ENDPOINT_FILE)
    }

    /// Takes the lock that the one broker here holds, before any bind.
    ///
    /// # Errors
    /// [`PathError::AlreadyRunning`] if another process holds it, or I/O.
    pub fn lock(&self) -> Result<RuntimeLock, PathError> {
        let path = self.path.join(LOCK_FILE);
        let failed = |action: &'static str| {
            let path = path.clone();
            move |source: io::Error| PathError::Io { action, path, source }
        };
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = openat(&self.directory, LOCK_FILE, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|errno| failed("open the lock")(errno.into()))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {
                    return Err(PathError::AlreadyRunning {
                        project: self.project.clone(),
                        pid: read_pid(File::from(file)),
                        path,
                    });
                }
                Err(errno) => return Err(failed("lock")(errno.into())),
            }
            // Somebody may have tidied the file away between open and lock: then the
            // lock is on a file that nobody else will ever find.
            if !self.is_still_there(file.as_fd()) {
                continue;
            }
            let mut file = File::from(file);
            file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed("write the lock"))?;
            return Ok(RuntimeLock { _file: file, _directory: self.hold_directory()? });
        }
    }

    /// Opens the endpoint file for reading; `None` if there is none.
    pub(crate) fn open_endpoint_file(&self) -> Result<Option<File>, PathError> {
        // Not followed, and non-blocking so that a FIFO can't hang the lookup.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.directory, ENDPOINT_FILE, flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(PathError::Io { action: "open", path: self.endpoint_file(), source: errno.into() }),
        }
    }

    fn is_still_there(&self, file: BorrowedFd<'_>) -> bool {
        let there = statat(&self.directory, LOCK_FILE, AtFlags::SYMLINK_NOFOLLOW);
        match (there, fstat(file)) {
            (Ok(there), Ok(ours)) => there.st_ino == ours.st_ino && there.st_dev == ours.st_dev,
            _ => false,
        }
    }

    /// Programs that tidy temporary directories (systemd-tmpfiles) leave directories
    /// alone that somebody has locked.
    fn hold_directory(&self) -> Result<OwnedFd, PathError> {
        let failed = |errno: Errno| PathError::Io { action: "hold", path: self.path.clone(), source: errno.into() };
        let directory = openat(&self.directory, ".", STEP, Mode::empty()).map_err(failed)?;
        // Only a courtesy: where it doesn't work, nothing depends on it.
        let _ = flock(&directory, FlockOperation::NonBlockingLockShared);
        Ok(directory)
    }
}

fn read_pid(mut file: File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(MAX_LOCK_FILE_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether `directory` exists and belongs to us.
pub(super) fn is_our_own_directory(directory: &Path) -> bool {
    std::fs::metadata(directory).is_ok_and(|metadata| {
        use std::os::unix::fs::MetadataExt;
        metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw()
    })
}

/// Makes what is missing of `base/ours/project`, and opens it.
pub(super) fn create(base: &Path, ours: &str, project: &ProjectName) -> Result<RuntimeDir, PathError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY.bits()).create(base).map_err(|source| PathError::Io {
        action: "create the directory",
        path: base.to_owned(),
        source,
    })?;
    let runtime = walk(base, ours, project, true)?;
    runtime.ok_or_else(|| PathError::Io {
        action: "open",
        path: base.join(ours).join(project.as_str()),
        source: io::ErrorKind::NotFound.into(),
    })
}

/// Opens `base/ours/project` if it exists.
pub(super) fn open(base: &Path, ours: &str, project: &ProjectName) -> Result<Option<RuntimeDir>, PathError> {
    walk(base, ours, project, false)
}

fn walk(base: &Path, ours: &str, project: &ProjectName, create: bool) -> Result<Option<RuntimeDir>, PathError> {
    let mut path = base.to_owned();
    // The base is the system's or the user's choice and may be reached by a symlink.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = match openat(CWD, base, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(errno) => return missing_or_error(errno, "open", path, create),
    };
    check_base(&inspect(directory.as_fd(), &path)?, &path)?;
    for name in [ours, project.as_str()] {
        path.push(name);
        let mut made = false;
        if create {
            made = match mkdirat(&directory, name, PRIVATE_DIRECTORY) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return missing_or_error(errno, "create", path, create),
            };
        }
        directory = match openat(&directory, name, STEP, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(PathError::NotADirectory { path }),
            Err(errno) => return missing_or_error(errno, "open", path, create),
        };
        if made {
            // An odd umask may have taken away what we need ourselves.
            fchmod(&directory, PRIVATE_DIRECTORY).map_err(|errno| PathError::Io {
                action: "set the mode of",
                path: path.clone(),
                source: errno.into(),
            })?;
        }
        check_ours(&inspect(directory.as_fd(), &path)?, &path)?;
    }
    let runtime = RuntimeDir { directory, path, project: project.clone() };
    check_socket_path(&runtime.router_socket())?;
    check_socket_path(&runtime.pub_socket())?;
    Ok(Some(runtime))
}

fn missing_or_error(errno: Errno, action: &'static str, path: PathBuf, create: bool) -> Result<Option<RuntimeDir>, PathError> {
    if errno == Errno::NOENT && !create {
        return Ok(None);
    }
    Err(PathError::Io { action, path, source: errno.into() })
}

fn inspect(directory: BorrowedFd<'_>, path: &Path) -> Result<Stat, PathError> {
    let stat =
        fstat(directory).map_err(|errno| PathError::Io { action: "inspect", path: path.to_owned(), source: errno.into() })?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(PathError::NotADirectory { path: path.to_owned() });
    }
    Ok(stat)
}

/// The base must be ours or root's, and others must not be able to rename what is in it.
fn check_base(stat: &Stat, path: &Path) -> Result<(), PathError> {
    let own = rustix::process::geteuid().as_raw();
    if stat.st_uid != own && stat.st_uid != 0 {
        return Err(PathError::ForeignOwner { path: path.to_owned(), uid: stat.st_uid, own });
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    let writable = mode.intersects(Mode::WGRP | Mode::WOTH);
    if writable && !mode.contains(Mode::SVTX) {
        return Err(PathError::LooseMode { path: path.to_owned(), mode: mode.bits() & 0o7777, wanted: "go-w" });
    }
    Ok(())
}

fn check_ours(stat: &Stat, path: &Path) -> Result<(), PathError> {
    let own = rustix::process::geteuid().as_raw();
    if stat.st_uid != own {
        return Err(PathError::ForeignOwner { path: path.to_owned(), uid: stat.st_uid, own });
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        return Err(PathError::LooseMode { path: path.to_owned(), mode: mode.bits() & 0o7777, wanted: "700" });
    }
    Ok(())
}
