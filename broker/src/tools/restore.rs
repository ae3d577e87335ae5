//! `restore`: the project's data from a backup. Never over data that is there.
//!
//! - The data lock is held meanwhile; everything is built in a directory beside the data directory, which takes its place in one step.
//! - The restored log is another one: new uuid, new epoch.

use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use kvbroker::exit::Exit;
use kvbroker_log::{
    CHECKPOINT_FILE, DirLock, DiskStorage, LockHolder, LogError, MANIFEST_FILE, OsEntropy, Restore, RestoreError, RestoreReport,
};
use serde_json::json;

use crate::args::Config;
use crate::failure::Failure;
use crate::open::cannot_lock;
use crate::ports::PORTS_FILE;
use crate::tools::backup::Destination;
use crate::tools::out::{remark, rfc3339};
use crate::tools::{Common, End, Out, Place};

/// More is not read behind the end of a stream, bytes: tar pads it to whole records.
const TRAILER_BYTES_MAX: u64 = 1 << 20;

/// Flags of `restore`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The directory or file that a backup was written to, or `-` for a stream on stdin
    src: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// Restores the data.
///
/// # Errors
/// Exit codes 2 (there is data, or no backup), 10 (a broker runs), 11 (the backup is damaged or not whole), 12 (disk), 13 (newer).
pub(crate) fn run(args: &RestoreArgs, config: &Config) -> Result<Exit, End> {
    let place = Place::of(&args.common, config)?;
    let source = Source::open(&args.src)?;
    let directory = &place.directory;
    // Made with its parents, each synced.
    DiskStorage::open(directory).map_err(|error| cannot_use(directory, &error))?;
    let lock = lock(directory)?;
    check_empty(directory, &place)?;
    let destination = Destination::of(directory)?;
    let temporary = destination.temporary(".restoring")?;
    let permissions = fs::metadata(directory).and_then(|meta| fs::set_permissions(temporary.path(), meta.permissions()));
    permissions.map_err(|error| destination.cannot(&error))?;
    let storage = DiskStorage::open(temporary.path()).map_err(|error| destination.cannot(&error))?;
    let restore = Restore::new(&storage, Box::new(OsEntropy)).map_err(failure)?;
    let report = source.restore(restore)?;
    let ports = directory.join(PORTS_FILE);
    if ports.exists() {
        fs::copy(&ports, temporary.path().join(PORTS_FILE)).map_err(|error| destination.cannot(&error))?;
        fs::remove_file(&ports).map_err(|error| destination.cannot(&error))?;
    }
    // A directory in use can't be replaced, and the lock is a file in it. Who takes it just now makes the next step fail.
    drop(lock);
    destination.take_place(temporary).map_err(|failure| match fs::read_dir(directory).map(|mut left| left.next().is_some()) {
        Ok(true) => {
            let sentence = format!("another process began to use {} just now: nothing was restored", directory.display());
            Failure::new(Exit::DataLocked, sentence)
        }
        _ => failure,
    })?;
    tell(args, &place, &report)
}

fn tell(args: &RestoreArgs, place: &Place, report: &RestoreReport) -> Result<Exit, End> {
    let RestoreReport { uuid, from, revision, stamp_ms, files, bytes } = report;
    let (directory, project, time) = (&place.directory, &place.project, rfc3339(*stamp_ms));
    let mut out = Out::stdout();
    if args.common.json {
        out.object(&json!({
            "data": directory, "revision": revision, "stamp_ms": stamp_ms, "files": files, "bytes": bytes,
            "broker": uuid, "backup_of": from,
        }))?;
    } else {
        out.line(format_args!(
            "restored {project} at revision {revision} ({time}): {files} files, {bytes} bytes, in {}",
            directory.display()
        ))?;
        out.line(format_args!("it is a broker of its own now, {uuid}; start it with: {}", place.start()))?;
    }
    out.finish()?;
    Ok(Exit::Ok)
}

fn cannot_use(directory: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Usage, format!("cannot keep data in {}: {error}", directory.display()))
}

/// Takes the lock of a data directory for a tool that changes it.
///
/// # Errors
/// Exit code 10: a broker runs on it.
pub(crate) fn lock(directory: &Path) -> Result<DirLock, Failure> {
    let holder = LockHolder::this_process(uuid::Uuid::new_v4()).map_err(Failure::with(Exit::DiskFailed))?;
    let (lock, _) = DirLock::acquire(directory, holder, false).map_err(|error| cannot_lock(&error))?;
    Ok(lock)
}

/// Refuses a directory in which something would be lost.
fn check_empty(directory: &Path, place: &Place) -> Result<(), Failure> {
    let entries = fs::read_dir(directory).map_err(|error| cannot_use(directory, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| cannot_use(directory, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_lock = name == "lock" || name.starts_with("lock.");
        if is_lock && name != "lock" {
            // Left by a process that died while it took the lock; ours is held.
            let _ = fs::remove_file(entry.path());
            continue;
        }
        if is_lock || name == PORTS_FILE {
            continue;
        }
        let (shown, project) = (directory.display(), &place.project);
        let sentence = if name.starts_with("table.") {
            format!(
                "{shown} already holds data ({name}), and a restore replaces none. Move it away (mv {shown} {shown}.old), or restore \
                 beside it: kvbroker {project} restore … --data DIR"
            )
        } else {
            format!(
                "{shown} holds {name:?}, which is nothing of kvbroker's: move it away, or choose another directory with --data"
            )
        };
        return Err(Failure::new(Exit::Usage, sentence));
    }
    Ok(())
}

fn failure(error: RestoreError) -> Failure {
    let exit = match &error {
        RestoreError::NotABackup(_) => Exit::Usage,
        RestoreError::Incomplete(_) | RestoreError::Damaged { .. } => Exit::LogDamaged,
        RestoreError::Newer { .. } => Exit::DataTooNew,
        // What the log says of a full disk is for a broker: here no write was acknowledged, and a start helps nobody.
        RestoreError::Target(LogError::Full { path, .. }) => {
            let sentence = format!("no space left for {}: nothing was restored; free some and restore again", path.display());
            return Failure::new(Exit::DiskFailed, sentence);
        }
        RestoreError::Target(source) => return Failure::of_log(source),
        _ => Exit::DiskFailed,
    };
    Failure::new(exit, error)
}

/// A backup to read.
enum Source {
    Directory(PathBuf),
    Stream(Box<dyn Read>),
}

impl Source {
    fn open(path: &Path) -> Result<Source, Failure> {
        if path.as_os_str() == "-" {
            let stdin = io::stdin().lock();
            if stdin.is_terminal() {
                let sentence = "nothing comes from a terminal: send the backup to stdin, or name it";
                return Err(Failure::new(Exit::Usage, sentence));
            }
            return Ok(Source::Stream(Box::new(stdin)));
        }
        let cannot = |error: io::Error| Failure::new(Exit::Usage, format!("cannot read {}: {error}", path.display()));
        if !fs::metadata(path).map_err(cannot)?.is_dir() {
            return Ok(Source::Stream(Box::new(BufReader::with_capacity(256 << 10, File::open(path).map_err(cannot)?))));
        }
        if !path.join(MANIFEST_FILE).exists() {
            let sentence = format!(
                "{} is not a whole backup made by kvbroker: it has no file {MANIFEST_FILE}. (A plain copy of a data directory is \
                 used as it is, with --data.)",
                path.display()
            );
            return Err(Failure::new(Exit::Usage, sentence));
        }
        Ok(Source::Directory(path.to_owned()))
    }

    fn restore(self, restore: Restore<'_>) -> Result<RestoreReport, Failure> {
        match self {
            Source::Directory(directory) => from_directory(&directory, restore),
            Source::Stream(stream) => from_stream(stream, restore),
        }
    }
}

fn from_directory(directory: &Path, mut restore: Restore<'_>) -> Result<RestoreReport, Failure> {
    let cannot =
        |path: &Path, error: &io::Error| Failure::new(Exit::LogDamaged, format!("cannot read {}: {error}", path.display()));
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| cannot(directory, &error))? {
        let name = entry.map_err(|error| cannot(directory, &error))?.file_name().to_string_lossy().into_owned();
        // What others put beside it (a note, a checksum file) is not looked at.
        if name == MANIFEST_FILE || name == CHECKPOINT_FILE || name.starts_with("table.txn.") {
            names.push(name);
        }
    }
    // As they were written: checkpoint, segments (longer names have higher numbers), manifest.
    names.sort_by_key(|name| (name == MANIFEST_FILE, name != CHECKPOINT_FILE, name.len(), name.clone()));
    for name in names {
        let path = directory.join(&name);
        let mut file = File::open(&path).map_err(|error| cannot(&path, &error))?;
        let bytes = file.metadata().map_err(|error| cannot(&path, &error))?.len();
        restore.file(&name, bytes, &mut file).map_err(failure)?;
    }
    restore.finish().map_err(failure)
}

fn from_stream(stream: Box<dyn Read>, mut restore: Restore<'_>) -> Result<RestoreReport, Failure> {
    let broken = |error: io::Error| failure(RestoreError::Incomplete(format!("the stream can't be read: {error}")));
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        // As `tar -c .` calls them.
        let name = name.strip_prefix("./").unwrap_or(&name);
        if name.is_empty() || entry.header().entry_type() == tar::EntryType::Directory {
            continue;
        }
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(failure(RestoreError::NotABackup(format!("{name} is not a file"))));
        }
        let bytes = entry.size();
        restore.file(name, bytes, &mut entry).map_err(failure)?;
    }
    // Whoever writes the stream is not cut off in its padding.
    if let Err(error) = io::copy(&mut archive.into_inner().take(TRAILER_BYTES_MAX), &mut io::sink()) {
        remark(format_args!("behind the end of the backup: {error}"));
    }
    restore.finish().map_err(failure)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_full_disk_is_no_matter_of_acknowledged_writes() {
        let full = LogError::Full { path: "d/table.ckpt".into(), source: io::ErrorKind::StorageFull.into() };
        let said = failure(RestoreError::Target(full)).sentence;
        assert_eq!(said, "no space left for d/table.ckpt: nothing was restored; free some and restore again");
    }
}
