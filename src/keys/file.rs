//! Key files: read with suspicion, made exactly once.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{KeyPair, SECRET_KEY_PREFIX, SecretKey};
use crate::transport::TransportError;

/// Name of the owner's secret key file in the configuration directory.
pub const OWNER_KEY_FILE: &str = "id";

/// A key file is a few lines; more is not a key file.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// What can go wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
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
    /// Others may read or write it.
    #[error(
        "{} may be used by others than its owner (mode {mode:03o}); close it with: chmod {wanted} '{}'",
        path.display(), path.display()
    )]
    LooseMode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What to give to chmod.
        wanted: &'static str,
    },
    /// It belongs to another user.
    #[error(
        "{} belongs to user {uid}, not to you (user {own}); a secret key must be your own file",
        path.display()
    )]
    ForeignOwner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Who we are.
        own: u32,
    },
    /// A directory, a pipe, a device…
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Not a key file at all.
    #[error(
        "{} holds no secret key: one line of {SECRET_KEY_PREFIX} and 64 hex digits is expected \
         besides comments ({reason}); restore it from a backup. (`id` in the configuration directory can also be moved away: a broker \
         makes a new one)",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the content.
        reason: String,
    },
    /// No randomness to make a key from.
    #[error("the operating system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The public key could not be computed.
    #[error(transparent)]
    Curve(#[from] TransportError),
}

/// Reads the owner's key from `directory`, making directory and key at first use.
///
/// Safe against a simultaneous first use by another process, also on a
/// networked home directory: whoever links the file first has made the key.
///
/// # Errors
/// Loose modes, foreign owner, unreadable content, I/O.
pub fn load_or_create_owner_key(directory: &Path) -> Result<KeyPair, KeyFileError> {
    check_or_create_directory(directory)?;
    let path = directory.join(OWNER_KEY_FILE);
    match load_key_file(&path) {
        Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create_key_file(directory, &path)?;
            // Read back in every case: the file may be another process's.
            load_key_file(&path)
        }
        other => other,
    }
}

/// Reads the owner's key from `directory`; `None` where no key was made yet. Makes nothing:
/// who only looks around should not become somebody.
///
/// # Errors
/// Loose modes, foreign owner, unreadable content, I/O.
pub fn load_owner_key(directory: &Path) -> Result<Option<KeyPair>, KeyFileError> {
    match check_directory(directory).and_then(|()| load_key_file(&directory.join(OWNER_KEY_FILE))) {
        Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Reads a key file (`--key FILE`, or the owner's own) and checks who may read it.
///
/// # Errors
/// Loose modes, foreign owner, unreadable content, I/O.
pub fn load_key_file(path: &Path) -> Result<KeyPair, KeyFileError> {
    let io_error = |action| move |source| KeyFileError::Io { action, path: path.to_owned(), source };
    // Non-blocking, so that a FIFO in its place can't hang the start.
    let mut file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(io_error("open"))?;
    // Checks are made on the open file: what is read is what was checked.
    let metadata = file.metadata().map_err(io_error("inspect"))?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile { path: path.to_owned() });
    }
    check_private(path, &metadata, 0o077, "600")?;

    let unreadable = |reason: String| KeyFileError::Unreadable { path: path.to_owned(), reason };
    if metadata.len() > MAX_KEY_FILE_BYTES {
        return Err(unreadable(format!("it has {} bytes", metadata.len())));
    }
    let mut content = Zeroizing::new([0_u8; MAX_KEY_FILE_BYTES as usize]);
    let mut length = 0;
    while let Some(space) = content.get_mut(length..).filter(|s| !s.is_empty()) {
        match file.read(space) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("read")(error)),
        }
    }
    let text = std::str::from_utf8(content.get(..length).unwrap_or_default()).map_err(|_| unreadable("it is not text".into()))?;
    let secret = parse_key_file(text).map_err(unreadable)?;
    Ok(KeyPair::from_secret(secret)?)
}

fn parse_key_file(text: &str) -> Result<SecretKey, String> {
    let mut found = None;
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if found.is_some() {
            return Err("it has more than one line that is not a comment".into());
        }
        found = Some(SecretKey::from_text(line).map_err(|error| error.to_string())?);
    }
    found.ok_or_else(|| "it has no such line".into())
}

/// Makes the configuration directory where it is missing, and checks that nobody else can change files in it.
pub(crate) fn check_or_create_directory(directory: &Path) -> Result<(), KeyFileError> {
    let io_error = |action, source| KeyFileError::Io { action, path: directory.to_owned(), source };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| io_error("create the directory", source))?;
    check_directory(directory)
}

/// Checks that nobody else can change files in the configuration directory.
pub(crate) fn check_directory(directory: &Path) -> Result<(), KeyFileError> {
    let io_error = |action, source| KeyFileError::Io { action, path: directory.to_owned(), source };
    let metadata = fs::metadata(directory).map_err(|source| io_error("inspect", source))?;
    // Readable by others is harmless here, writable is not: they could swap files.
    check_private(directory, &metadata, 0o022, "go-w")
}

fn check_private(path: &Path, metadata: &fs::Metadata, forbidden: u32, wanted: &'static str) -> Result<(), KeyFileError> {
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(KeyFileError::ForeignOwner { path: path.to_owned(), uid: metadata.uid(), own });
    }
    let mode = metadata.mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(KeyFileError::LooseMode { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

fn create_key_file(directory: &Path, path: &Path) -> Result<(), KeyFileError> {
    let io_error = |action| move |source| KeyFileError::Io { action, path: path.to_owned(), source };
    let pair = KeyPair::generate()?;
    // The tempfile crate creates it with mode 0600 and removes it when dropped.
    let mut temporary =
        tempfile::Builder::new().prefix(".id-new-").tempfile_in(directory).map_err(io_error("create a file beside"))?;
    let heading = format!(
        "# kvbroker secret key. Who has this file is you to your brokers: keep it private.\n\
         # Your public key: {}\n",
        pair.public()
    );
    let secret = pair.secret().expose_text();
    [heading.as_bytes(), secret.as_bytes(), b"\n"]
        .into_iter()
        .try_for_each(|part| temporary.write_all(part))
        .and_then(|()| temporary.as_file().sync_all())
        .map_err(io_error("write the new"))?;
    match link_or_rename(temporary.path(), path) {
        Ok(()) => {}
        // Somebody else was first, or a retried NFS request reports our own success.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(io_error("put into place")(error)),
    }
    // Without this a power cut could take back the file after the key was used.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error("sync the directory of"))
}

/// link(2) where the file system has it, else a rename that replaces nothing.
pub(crate) fn link_or_rename(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match fs::hard_link(from, to) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
            .map_err(|rename_error| if rename_error == rustix::io::Errno::EXIST { rename_error.into() } else { error }),
        other => other,
    }
}
