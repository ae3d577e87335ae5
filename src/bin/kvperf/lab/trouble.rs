//! Why a report is not written.

use std::io;
use std::path::{Path, PathBuf};

use kvbroker::exit::Exit;

use crate::plots::PlotError;
use crate::result::DocumentError;
use crate::trouble::INTERRUPTED;

/// What went wrong; the report is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// A program that is needed is not there.
    #[error("there is no program {name} in {}", directory.display())]
    NoProgram {
        /// Its name.
        name: &'static str,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A program that was started failed.
    #[error("{program} failed ({how}){}", said_text(said))]
    Failed {
        /// Which, with its words.
        program: String,
        /// Its exit code or signal.
        how: String,
        /// For the shell.
        code: u8,
        /// What it wrote to stderr.
        said: String,
    },
    /// A program that was started does not do what it is waited for.
    #[error("{what} after {seconds} s{}", said_text(said))]
    TooLate {
        /// What did not come.
        what: String,
        /// How long it was waited for.
        seconds: u64,
        /// What the program wrote to stderr.
        said: String,
    },
    /// What a child printed, or what was kept, can't be read.
    #[error("{what}: {source}")]
    Document {
        /// Which.
        what: String,
        /// Why.
        source: DocumentError,
    },
    /// What was kept is not from this version.
    #[error("{} can't be used: {why}", path.display())]
    Kept {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The report has no place for a part.
    #[error("{} has no lines `{begin}` and, behind it, `{end}`", path.display())]
    Markers {
        /// The report.
        path: PathBuf,
        /// How a part begins.
        begin: String,
        /// How it ends.
        end: String,
    },
    /// A plot.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// What was to be measured did not happen.
    #[error("{0}")]
    Missed(String),
    /// Ctrl-C, SIGTERM or SIGHUP.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

impl LabError {
    /// A refusal of the system at a file.
    pub(crate) fn file(path: &Path, source: io::Error) -> LabError {
        LabError::System { what: path.display().to_string(), source }
    }

    /// For the shell.
    pub(crate) fn code(&self) -> u8 {
        match self {
            LabError::Usage(_)
            | LabError::NoProgram { .. }
            | LabError::System { .. }
            | LabError::Document { .. }
            | LabError::Kept { .. }
            | LabError::Markers { .. }
            | LabError::Plot(_) => Exit::Usage.code(),
            LabError::Failed { code, .. } => *code,
            LabError::TooLate { .. } => Exit::Unreachable.code(),
            LabError::Missed(_) => Exit::NotFound.code(),
            LabError::Interrupted => INTERRUPTED,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            LabError::NoProgram { .. } => {
                Some("build it with `cargo build --release`, or say where it is with --bin DIR".to_owned())
            }
            LabError::Kept { .. } => Some("measure that part again: kvperf report --only PART".to_owned()),
            LabError::Markers { .. } => {
                Some("add the two lines where the part is to stand, or leave it out with --only".to_owned())
            }
            _ => None,
        }
    }
}

fn said_text(said: &str) -> String {
    if said.trim().is_empty() { String::new() } else { format!(": {}", said.trim()) }
}
