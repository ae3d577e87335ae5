//! Where `authorized_clients` is kept, and how it is read and replaced.
//!
//! - Who may write the file may let anybody in, so it must be its reader's own, a regular file (no symbolic link), and writable by
//!   nobody else; so must the directories of ours that it is in. What was checked is what is read: an open file.
//! - It is replaced as a whole: written beside its place, synced, renamed, the directory synced. Who reads it sees the old one or the
//!   new one, and a power failure leaves one of them.
//! - An edit is refused if the file is not the one that was read for it: somebody else edits it, too.
//!
//! Caveats: between that look and the rename a foreign edit can still be lost. Files are opened at each look, since that is what makes
//! a networked file system ask its server.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kvbroker_protocol::limits::GRANTS_BYTES_MAX;
use rustix::fs::OFlags;

use super::{AccessFile, AccessFileError};
use crate::paths::Dirs;
use crate::project::ProjectName;

/// The file's name.
pub const AUTHORIZED_CLIENTS: &str = "authorized_clients";

/// A file that was changed so short ago can be changed again without another time of change.
const YOUNG: Duration = Duration::from_secs(3);

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Others may write it.
    #[error(
        "{} may be written by others than its owner (mode {mode:03o}), who could let anybody in; close it with: chmod go-w '{}'",
        path.display(), path.display()
    )]
    LooseMode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "{} belongs to user {uid}, not to the broker's user {own}, and could let anybody in; make it your own: chown {own} '{}'",
        path.display(), path.display()
    )]
    ForeignOwner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Who we are.
        own: u32,
    },
    /// A symbolic link, a pipe, a directory...
    #[error("{} is not a regular file (a symbolic link is not followed here); put the file itself in its place", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Its content is wrong.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: AccessFileError,
    },
    /// It is being changed while it is read.
    #[error("{} is being changed by somebody else; try again when that is done", path.display())]
    Changing {
        /// The file.
        path: PathBuf,
    },
}

/// Which file it was, and as of when: another stamp, another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    place: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            place: (metadata.dev(), metadata.ino()),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What a look at the file found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Which file it was.
    pub stamp: Stamp,
    /// All its bytes.
    pub content: Vec<u8>,
    /// It was changed so short ago that its stamp may stay the same with another content.
    pub is_young: bool,
}

/// The file's place.
#[derive(Clone, Debug)]
pub struct AccessStore {
    config: PathBuf,
    directory: PathBuf,
    path: PathBuf,
}

impl AccessStore {
    /// The place of a project's file.
    #[must_use]
    pub fn new(dirs: &Dirs, project: &ProjectName) -> AccessStore {
        let directory = dirs.project_config_dir(project);
        AccessStore { config: dirs.config_dir().to_owned(), path: directory.join(AUTHORIZED_CLIENTS), directory }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directories, so that the file can be written by hand.
    ///
    /// # Errors
    /// The operating system refused, or one that is there is not ours alone to write.
    pub fn make_place(&self) -> Result<(), StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(io_error("create the directory", &self.directory))?;
        self.check_directories()
    }

    fn check_directories(&self) -> Result<(), StoreError> {
        let ours = self.directory.ancestors().take_while(|directory| *directory != self.config).chain([self.config.as_path()]);
        for directory in ours {
            let metadata = fs::metadata(directory).map_err(io_error("inspect", directory))?;
            check_writers(directory, &metadata)?;
        }
        Ok(())
    }

    /// Reads the file, unless it is the one of `known`; None if there is none.
    ///
    /// # Errors
    /// It is not ours alone to write, or not to be read.
    pub fn read(&self, known: Option<Stamp>) -> Result<Option<Look>, StoreError> {
        // Non-blocking, so that a FIFO in its place hangs nobody.
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
        let mut file = match File::options().read(true).custom_flags(flags).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Err(StoreError::NotAFile { path: self.path.clone() });
            }
            Err(error) => return Err(io_error("open", &self.path)(error)),
        };
        let inspect = |file: &File| file.metadata().map_err(io_error("inspect", &self.path));
        let metadata = inspect(&file)?;
        if !metadata.is_file() {
            return Err(StoreError::NotAFile { path: self.path.clone() });
        }
        check_writers(&self.path, &metadata)?;
        self.check_directories()?;
        let stamp = Stamp::of(&metadata);
        if known == Some(stamp) {
            return Ok(Some(Look::Same));
        }
        let mut content = Vec::new();
        // One more than is taken: too large is said by whoever parses it.
        let most = GRANTS_BYTES_MAX as u64 + 1;
        (&mut file).take(most).read_to_end(&mut content).map_err(io_error("read", &self.path))?;
        let is_young = is_young(&metadata);
        if Stamp::of(&inspect(&file)?) != stamp {
            return Err(StoreError::Changing { path: self.path.clone() });
        }
        Ok(Some(Look::Read(Found { stamp, content, is_young })))
    }

    /// Puts the edited file in the place of the one that was read (None: there was none).
    ///
    /// # Errors
    /// The operating system refused; somebody else has changed it.
    pub fn replace(&self, file: &AccessFile, read: Option<Stamp>) -> Result<Found, StoreError> {
        self.make_place()?;
        let content = file.to_bytes();
        let mut new = tempfile::Builder::new()
            .prefix(".authorized-new-")
            .tempfile_in(&self.directory)
            .map_err(io_error("create a file in", &self.directory))?;
        new.write_all(&content).and_then(|()| new.as_file().sync_all()).map_err(io_error("write", new.path()))?;
        let there = match fs::symlink_metadata(&self.path) {
            Ok(metadata) => Some(Stamp::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("inspect", &self.path)(error)),
        };
        if there != read {
            return Err(StoreError::Changing { path: self.path.clone() });
        }
        let file = new.persist(&self.path).map_err(|error| io_error("replace", &self.path)(error.error))?;
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(io_error("sync", &self.directory))?;
        let metadata = file.metadata().map_err(io_error("inspect", &self.path))?;
        Ok(Found { stamp: Stamp::of(&metadata), content, is_young: true })
    }

    /// Reads content that [`AccessStore::read`] found.
    ///
    /// # Errors
    /// What is wrong with it, with the file's name.
    pub fn parse(&self, content: &[u8]) -> Result<AccessFile, StoreError> {
        AccessFile::parse(content).map_err(|source| StoreError::Content { path: self.path.clone(), source })
    }
}

/// A look at the file.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// It is the one that is known.
    Same,
    /// It is another one.
    Read(Found),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

fn check_writers(path: &Path, metadata: &Metadata) -> Result<(), StoreError> {
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(StoreError::ForeignOwner { path: path.to_owned(), uid: metadata.uid(), own });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(StoreError::LooseMode { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Also if it was changed in the future: clocks of file servers differ.
fn is_young(metadata: &Metadata) -> bool {
    let modified = metadata.modified().unwrap_or_else(|_| SystemTime::now());
    SystemTime::now().duration_since(modified).map_or(true, |age| age < YOUNG)
}
