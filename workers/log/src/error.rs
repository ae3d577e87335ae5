//! Everything that can go wrong with the log, as sentences that say what to do.
//!
//! - Each variant belongs to one exit code of the broker: [`LogError::exit_code`].
//! - The operating system's error is kept as the source.

use std::io;
use std::path::PathBuf;

use crate::report::VisitError;

/// Why the log can't be opened or went out of service. Every one is final for the process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Something that was once durable can't be read back as it was written.
    #[error(
        "{}. Nothing was changed. `kvbroker PROJECT check` names all damage, `kvbroker PROJECT repair` shows what could be kept, \
         `kvbroker PROJECT restore` takes a backup.",
        self.fact()
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Where in it, bytes from its start.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The data was written by a newer program.
    #[error("{} holds {found}, this program knows {supported}: start a newer program with this data.", file.display())]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// What it holds, such as "format version 3".
        found: String,
        /// What this program can read, such as "format versions 1 to 2".
        supported: String,
    },
    /// A file that doesn't belong here, or a set of files that can't be one log.
    #[error("{}: {what}", path.display())]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it and what to do.
        what: String,
    },
    /// The caller of [`FileLog::open`](crate::FileLog::open) refused a group: the data is intact, but not understood.
    #[error("{} holds a record at byte {offset} that the table refuses: {source}", file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// Start of the batch with the record.
        offset: u64,
        /// The visitor's reason.
        source: VisitError,
    },
    /// The disk or the quota is full. Nothing of the batch was acknowledged.
    #[error("{}: free some and start again. Every acknowledged write is kept.", self.fact())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The disk did not confirm a sync. The pages may be lost although they still read well, so nothing may be retried.
    #[error("syncing {} failed ({source}): the disk may have lost the last writes. Check it, then start again.", path.display())]
    SyncFailed {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Any other operation on a file failed.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as "read".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A batch that breaks the log's rules: an error in the calling program, found before anything was written.
    #[error("the batch can't be logged: {0}. This is an error in the program; please report it.")]
    BadBatch(String),
    /// A record that can't be put into a checkpoint: an error in the calling program.
    #[error("a record can't be put into the checkpoint: {0}. This is an error in the program; please report it.")]
    BadRecord(String),
    /// An earlier error took the log out of service, or it was closed.
    #[error("the log is out of service: {0}")]
    OutOfService(String),
}

impl LogError {
    /// The broker's exit code: 11 damaged, 12 disk full or I/O failed, 13 newer data.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Damaged { .. } | Self::Foreign { .. } | Self::Refused { .. } => 11,
            Self::NewerFormat { .. } => 13,
            Self::Full { .. }
            | Self::SyncFailed { .. }
            | Self::Io { .. }
            | Self::BadBatch(_)
            | Self::BadRecord(_)
            | Self::OutOfService(_) => 12,
        }
    }

    /// What happened, without the advice to whoever finds the process ended by it: for one that goes on.
    pub fn fact(&self) -> String {
        match self {
            Self::Damaged { file, offset, what } => format!("{} is damaged at byte {offset}: {what}", file.display()),
            Self::Full { path, .. } => format!("no space left for {}", path.display()),
            error => error.to_string(),
        }
    }

    /// Classifies an operating system error of `action` on `path`.
    pub(crate) fn io(action: &'static str, path: PathBuf, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::Full { path, source };
        }
        if action == "sync" { Self::SyncFailed { path, source } } else { Self::Io { action, path, source } }
    }
}
