//! Opening the data directory: lock, recovery, clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvbroker::exit::Exit;
use kvbroker_core::{History, State};
use kvbroker_log::{
    CHECKPOINT_FILE, DirLock, DiskStorage, FileLog, LockError, LockHolder, LockOutcome, LogError, LogOptions, MANIFEST_FILE,
    RecoveryReport, Storage,
};
use kvbroker_table::{Clock, ClockVerdict, Stamper, SystemClock};

use crate::args::Config;
use crate::failure::Failure;
use crate::loading::{Loading, Took};
use crate::medium::{Ground, ground};

/// An open data directory.
pub(crate) struct Opened {
    pub(crate) directory: PathBuf,
    /// Held until the end of the process.
    pub(crate) lock: DirLock,
    pub(crate) log: FileLog,
    /// For whoever reads the log beside the worker.
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) state: State,
    pub(crate) history: History,
    pub(crate) report: RecoveryReport,
    /// How long reading it took.
    pub(crate) took: Took,
    pub(crate) stamper: Stamper,
    /// What is worth saying about the clock.
    pub(crate) clock_remark: Option<String>,
    /// What the directory is on.
    pub(crate) ground: Ground,
}

/// Locks and recovers the data directory; None if a stop was asked for meanwhile.
///
/// # Errors
/// Exit codes 10 (locked), 11 (damaged), 12 (disk), 13 (newer), 2 (a clock that is not believed, a directory in memory).
pub(crate) fn open(
    config: &Config,
    directory: PathBuf,
    instance: uuid::Uuid,
    stop: &AtomicBool,
) -> Result<Option<Opened>, Failure> {
    if directory.join(MANIFEST_FILE).exists() {
        // Serving it would change it, and give the old log's name and epoch to a second broker.
        let sentence = format!("{} is a backup: kvbroker {} restore makes data of it", directory.display(), config.project);
        return Err(Failure::new(Exit::Usage, sentence));
    }
    // Before the directory is made.
    let ground = ground(&directory, config.accept_filesystem)?;
    let storage = DiskStorage::open(&directory).map_err(|error| cannot_use(&directory, &error))?;
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let lock = lock(&directory, config, instance)?;
    let checkpoint_bytes = std::fs::metadata(storage.path(CHECKPOINT_FILE)).map_or(0, |file| file.len());
    let mut loading = Loading::new(&directory, checkpoint_bytes, stop);
    let mut options = LogOptions::new(config.sync);
    options.segment_bytes = config.segment_bytes;
    options.allocate_bytes = options.allocate_bytes.min(config.segment_bytes);
    let opened = FileLog::open(Arc::clone(&storage), options, &mut loading);
    let (log, report) = match opened {
        // Reading has changed nothing: the next start begins again.
        Err(LogError::Refused { .. }) if stop.load(Ordering::Relaxed) => return Ok(None),
        opened => opened.map_err(|error| Failure::of_log(&error))?,
    };
    if let Some(cut) = &report.cut {
        tracing::warn!(
            "{}: a torn tail of {} bytes at offset {} was cut off: the last stop was sudden, and the end of the log is not whole",
            cut.file.display(),
            cut.bytes,
            cut.offset
        );
    }
    for (file, what) in &report.history.unreadable {
        tracing::warn!("{} can't be read ({what}): no history before it; the table does not depend on it", file.display());
    }
    let (state, history, took) = loading.finish();
    let (stamper, verdict) = Stamper::start(report.last_stamp_ms, SystemClock.now());
    let clock_remark = clock_remark(verdict, config.accept_clock)?;
    Ok(Some(Opened { directory, lock, log, storage, state, history, report, took, stamper, clock_remark, ground }))
}

/// A full or failing disk is the disk's fault; a directory that can't be made or entered is what was asked for.
fn cannot_use(directory: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        exit_of(error),
        format!("cannot keep data in {}: {error}; choose another place with --data DIR", directory.display()),
    )
}

fn exit_of(error: &std::io::Error) -> Exit {
    use std::io::ErrorKind;
    let asked = matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::NotFound
            | ErrorKind::InvalidFilename
            | ErrorKind::ReadOnlyFilesystem
    );
    if asked { Exit::Usage } else { Exit::DiskFailed }
}

/// Why there is no lock: somebody else has it, or no lock file could be made.
pub(crate) fn cannot_lock(error: &LockError) -> Failure {
    let exit = match error {
        LockError::Io { source, .. } => exit_of(source),
        _ => Exit::DataLocked,
    };
    Failure::new(exit, error)
}

fn lock(directory: &Path, config: &Config, instance: uuid::Uuid) -> Result<DirLock, Failure> {
    let holder = LockHolder::this_process(instance).map_err(Failure::with(Exit::DiskFailed))?;
    let (lock, outcome) = DirLock::acquire(directory, holder, config.take_over).map_err(|error| cannot_lock(&error))?;
    match outcome {
        LockOutcome::Free => {}
        LockOutcome::Stale(before) => tracing::debug!("the lock of {before} was left behind and taken"),
        LockOutcome::TakenOver(Some(before)) => tracing::warn!("the lock of {before} was taken over, as asked"),
        LockOutcome::TakenOver(None) => tracing::warn!("an unreadable lock was taken over, as asked"),
    }
    Ok(lock)
}

fn clock_remark(verdict: ClockVerdict, accepted: bool) -> Result<Option<String>, Failure> {
    let span = |ms: u64| humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string();
    Ok(match verdict {
        ClockVerdict::Normal => None,
        ClockVerdict::Behind(ms) => {
            Some(format!("the machine's clock is {} behind the last write; time goes on from there", span(ms)))
        }
        ClockVerdict::FarAhead(ms) => Some(format!("the machine's clock is {} ahead of the last write", span(ms))),
        ClockVerdict::Absurd(ms) if accepted => {
            Some(format!("the machine's clock is {} ahead of the last write (accepted)", span(ms)))
        }
        ClockVerdict::Absurd(ms) => {
            let sentence = format!(
                "the machine's clock is {} ahead of the last write: set it right, or start once with --accept-clock",
                span(ms)
            );
            return Err(Failure::new(Exit::Usage, sentence));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_for_a_lock_is_no_other_broker() {
        let exit = |kind: std::io::ErrorKind| cannot_lock(&LockError::Io { directory: "d".into(), source: kind.into() }).exit;
        assert_eq!(exit(std::io::ErrorKind::StorageFull).code(), Exit::DiskFailed.code());
        assert_eq!(exit(std::io::ErrorKind::PermissionDenied).code(), Exit::Usage.code());
        assert_eq!(cannot_lock(&LockError::Contended { directory: "d".into() }).exit.code(), Exit::DataLocked.code());
    }
}
