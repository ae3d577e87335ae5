//! Pins: which key somebody else's broker had when this user first accepted it.
//!
//! Whose broker has which key can be computed for one's own projects only. For everybody else's
//! the first accepted key of (owner, project) is kept in `known_brokers` in the configuration
//! directory, one line each:
//!
//! ```text
//! OWNER PROJECT kvpub1… # 2026-01-31T12:00:00Z
//! ```
//!
//! - Another key under a name that has one is never taken: neither when a broker is looked for nor when the file
//!   is written by two programs at once.
//! - Lines are only added here. Taking one back is the user's work, with an editor; comments and
//!   empty lines stay as they are.
//! - The file counts only if nobody else can write it: ours, a regular file, no mode bits for
//!   others' writing; the same holds for its directory.
//! - It appears whole or not at all: written beside its place, synced, linked or renamed.
//! - A file that can't be understood is an error with its line, never an empty list: that would
//!   ask for trust again, in whoever poses as the broker by then.
//!
//! Caveat: two programs that add lines at the same moment wait for each other by a lock of the directory. On file
//! systems without such locks one of the two lines can get lost; its owner is then asked about again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::catalog::{TEXT_BYTES_MAX, is_plain_text};
use crate::keys::{self, KeyFileError, PublicKey};
use crate::project::ProjectName;

/// Name of the file in the configuration directory.
pub const KNOWN_BROKERS_FILE: &str = "known_brokers";

/// Some ten thousand pins.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long another program may hold the directory's lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// One accepted key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Whose broker it is.
    pub owner: String,
    /// The project that it serves.
    pub project: ProjectName,
    /// The key that it had.
    pub key: PublicKey,
    /// Where it stands in the file, from 1.
    pub line: usize,
}

/// The accepted keys of one user, as the file had them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins(Vec<Pin>);

/// What can go wrong with the file of accepted keys.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory around it.
    #[error(transparent)]
    Directory(#[from] KeyFileError),
    /// Others may write it.
    #[error(
        "{} may be written by others than its owner (mode {mode:03o}), so its keys prove nothing; check its lines, then: chmod go-w '{}'",
        path.display(), path.display()
    )]
    LooseMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to another user.
    #[error("{} belongs to user {uid}, not to you (user {own}); move it away", path.display())]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Who we are.
        own: u32,
    },
    /// A symbolic link, a directory, a pipe…
    #[error("{} is not a regular file; move it away", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// It can't be understood.
    #[error("{}, line {line}: {reason}; correct or remove that line (OWNER PROJECT kvpub1… is expected)", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// It is no list of keys at all.
    #[error("{} is no list of brokers' keys ({reason}); move it away", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another program has just accepted another key for the same broker.
    #[error("{}, line {line}: another key was just accepted for {owner}'s {project}", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The broker's owner.
        owner: String,
        /// The broker's project.
        project: ProjectName,
    },
}

impl Pins {
    /// Reads the file in `config_dir`; without one there are no pins.
    ///
    /// # Errors
    /// Others could have written it, or it can't be understood.
    pub fn load(config_dir: &Path) -> Result<Self, PinError> {
        let path = config_dir.join(KNOWN_BROKERS_FILE);
        match read(&path)? {
            None => Ok(Pins::default()),
            Some(text) => {
                keys::check_directory(config_dir)?;
                Pins::parse(&text, &path)
            }
        }
    }

    /// Reads the content of such a file, which is called `path` in what is said about it.
    ///
    /// # Errors
    /// A line that can't be understood, or that gives another key to a broker that has one.
    pub fn parse(text: &str, path: &Path) -> Result<Self, PinError> {
        let mut pins = Pins::default();
        for (index, content) in text.lines().enumerate() {
            let line = index + 1;
            let bad = |reason: String| PinError::BadLine { path: path.to_owned(), line, reason };
            let Some((owner, project, key)) = parse_line(content.trim()).map_err(bad)? else { continue };
            match pins.of(&owner, &project) {
                Some(pin) if pin.key != key => {
                    return Err(bad(format!("{owner}'s {project} has another key in line {} already", pin.line)));
                }
                Some(_) => {}
                None => pins.0.push(Pin { owner, project, key, line }),
            }
        }
        Ok(pins)
    }

    /// The pin of this owner's broker of this project.
    #[must_use]
    pub fn of(&self, owner: &str, project: &ProjectName) -> Option<&Pin> {
        self.0.iter().find(|pin| pin.owner == owner && pin.project == *project)
    }

    /// All of them, in the file's order.
    #[must_use]
    pub fn all(&self) -> &[Pin] {
        &self.0
    }
}

#[cfg(test)]
impl FromIterator<(&'static str, &'static str, PublicKey)> for Pins {
    fn from_iter<I: IntoIterator<Item = (&'static str, &'static str, PublicKey)>>(pins: I) -> Self {
        let pin = |(index, (owner, project, key)): (usize, (&str, &str, PublicKey))| Pin {
            owner: owner.to_owned(),
            project: project.parse().expect("tests name possible projects"),
            key,
            line: index + 1,
        };
        Pins(pins.into_iter().enumerate().map(pin).collect())
    }
}

/// Keeps that `owner`'s broker of `project` has `key`, making file and directory where they are
/// missing. That it is there already is success.
///
/// # Errors
/// The file has another key for this broker, others could write it, or I/O.
pub fn remember(config_dir: &Path, owner: &str, project: &ProjectName, key: &PublicKey) -> Result<(), PinError> {
    keys::check_or_create_directory(config_dir)?;
    let path = config_dir.join(KNOWN_BROKERS_FILE);
    let _lock = lock(config_dir);
    loop {
        let text = read(&path)?;
        let pins = text.as_deref().map_or(Ok(Pins::default()), |text| Pins::parse(text, &path))?;
        match pins.of(owner, project) {
            Some(pin) if pin.key == *key => return Ok(()),
            Some(pin) => {
                return Err(PinError::Taken { line: pin.line, path, owner: owner.to_owned(), project: project.clone() });
            }
            None => {}
        }
        let mut content = text.clone().unwrap_or_else(|| HEADING.to_owned());
        if !content.is_empty() && !content.ends_with('\n') {
            content.push('\n');
        }
        content.push_str(&line(owner, project, key));
        // What is written must be readable; an owner's name that isn't has been refused where it was read.
        Pins::parse(&content, &path)?;
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(PinError::Unreadable { path, reason: "it is full; remove lines that are no longer needed".into() });
        }
        if put(config_dir, &path, &content, text.is_none())? {
            return Ok(());
        }
    }
}

const HEADING: &str = "# Brokers of other people whose keys you have accepted: OWNER PROJECT KEY\n\
                       # A line may be removed when its owner confirms that the key has changed.\n";

fn line(owner: &str, project: &ProjectName, key: &PublicKey) -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    format!("{} {project} {key} # {now}\n", owner_text(owner))
}

/// Bare where that can't be misread, else as a JSON string.
fn owner_text(owner: &str) -> String {
    let is_bare = owner.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@' | b'+'));
    if is_bare { owner.to_owned() } else { serde_json::Value::from(owner).to_string() }
}

fn parse_line(content: &str) -> Result<Option<(String, ProjectName, PublicKey)>, String> {
    if content.is_empty() || content.starts_with('#') {
        return Ok(None);
    }
    let (owner, rest) = if content.starts_with('"') {
        let mut texts = serde_json::Deserializer::from_str(content).into_iter::<String>();
        let owner = texts.next().and_then(Result::ok).ok_or("its owner is no JSON string")?;
        (owner, content.get(texts.byte_offset()..).unwrap_or_default())
    } else {
        let (owner, rest) = content.split_once(char::is_whitespace).ok_or("it has one word only")?;
        (owner.to_owned(), rest)
    };
    if !is_plain_text(&owner, TEXT_BYTES_MAX) {
        return Err("its owner is not printable ASCII of 1 to 128 characters".into());
    }
    let mut words = rest.split_whitespace();
    let project = words.next().ok_or("it names no project")?.parse().map_err(|error| format!("{error}"))?;
    let key = words.next().ok_or("it has no key")?.parse().map_err(|error| format!("{error}"))?;
    match words.next() {
        Some(word) if !word.starts_with('#') => Err("it goes on after the key without a #".into()),
        _ => Ok(Some((owner, project, key))),
    }
}

/// The content of the file, checked for who could have written it; None: there is none.
fn read(path: &Path) -> Result<Option<String>, PinError> {
    let io_error = |action| move |source| PinError::Io { action, path: path.to_owned(), source };
    // Non-blocking, so that a FIFO in its place can't hang the lookup.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = match File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(PinError::NotAFile { path: path.to_owned() });
        }
        Err(error) => return Err(io_error("open")(error)),
    };
    // Checks are made on the open file: what is read is what was checked.
    let metadata = file.metadata().map_err(io_error("inspect"))?;
    if !metadata.is_file() {
        return Err(PinError::NotAFile { path: path.to_owned() });
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(PinError::ForeignOwner { path: path.to_owned(), uid: metadata.uid(), own });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(PinError::LooseMode { path: path.to_owned(), mode });
    }
    let unreadable = |reason: String| PinError::Unreadable { path: path.to_owned(), reason };
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(io_error("read"))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(content).map(Some).map_err(|_| unreadable("it is not text".into()))
}

/// Puts `content` into place. False: meanwhile another program has made the file, which was not there.
fn put(config_dir: &Path, path: &Path, content: &str, is_new: bool) -> Result<bool, PinError> {
    let io_error = |action| move |source| PinError::Io { action, path: path.to_owned(), source };
    // The tempfile crate creates it with mode 0600 and removes it when dropped.
    let mut temporary =
        tempfile::Builder::new().prefix(".known-new-").tempfile_in(config_dir).map_err(io_error("create a file beside"))?;
    temporary.write_all(content.as_bytes()).and_then(|()| temporary.as_file().sync_all()).map_err(io_error("write the new"))?;
    if is_new {
        match keys::link_or_rename(temporary.path(), path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(io_error("put into place")(error)),
        }
    } else {
        fs::rename(temporary.path(), path).map_err(io_error("put into place"))?;
    }
    File::open(config_dir).and_then(|directory| directory.sync_all()).map_err(io_error("sync the directory of"))?;
    Ok(true)
}

/// The lock of who adds lines; freed when dropped. A courtesy where it can't be had: see the module's caveat.
fn lock(config_dir: &Path) -> Option<File> {
    let directory = File::open(config_dir).ok()?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests;
