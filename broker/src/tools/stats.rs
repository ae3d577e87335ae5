//! `stats`: what is in a data directory, without starting anything.

use kvbroker::exit::Exit;
use kvbroker_log::inspect::{self, DataFile, FileKind, LockState};
use serde::Serialize;

use crate::args::Config;
use crate::failure::Failure;
use crate::tools::{Common, End, Out, Place};

/// Flags of `stats`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    common: Common,
}

/// What is told; the names are those of `--json`.
#[derive(Debug, Serialize)]
struct Told {
    directory: String,
    lock: Lock,
    files: Vec<File>,
}

#[derive(Debug, Serialize)]
struct Lock {
    /// `free`, `held`, `stale`, `other_host` or `unreadable`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

#[derive(Debug, Serialize)]
struct File {
    name: String,
    /// `checkpoint`, `segment`, `mark`, `lock`, `leftover`, `foreign` or `other`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// Prints what is in the data directory.
///
/// # Errors
/// Exit code 2 where there is no such directory, 12 where it can't be read.
pub(crate) fn run(args: &StatsArgs, config: &Config) -> Result<Exit, End> {
    let place = Place::of(&args.common, config)?;
    let storage = place.read_only()?;
    let files = inspect::list_files(&storage).map_err(|error| Failure::of_log(&error))?;
    let told = Told {
        directory: place.directory.display().to_string(),
        lock: Lock::of(&place.lock_state()?),
        files: files.into_iter().map(File::of).collect(),
    };
    let mut out = Out::stdout();
    if args.common.json {
        out.object(&told)?;
    } else {
        out.line(format_args!("{:<12}{}", "directory", told.directory))?;
        out.line(format_args!("{:<12}{}", "in use", told.lock.sentence()))?;
        for file in &told.files {
            let bytes = file.bytes.map_or(String::new(), |bytes| format!("{bytes} bytes"));
            out.line(format_args!("{:<12}{:<24}{bytes}", file.kind, file.name))?;
        }
    }
    out.finish()?;
    Ok(Exit::Ok)
}

impl Lock {
    fn of(state: &LockState) -> Lock {
        let (state, holder) = match state {
            LockState::Free => ("free", None),
            LockState::Held(holder) => ("held", Some(holder)),
            LockState::Stale(holder) => ("stale", Some(holder)),
            LockState::OtherHost(holder) => ("other_host", Some(holder)),
            LockState::Unreadable => ("unreadable", None),
        };
        Lock { state, host: holder.map(|holder| holder.host.clone()), pid: holder.map(|holder| holder.pid) }
    }

    fn sentence(&self) -> String {
        let holder = match (self.pid, &self.host) {
            (Some(pid), Some(host)) => format!("process {pid} on host {host}"),
            _ => String::new(),
        };
        match self.state {
            "free" => "no".to_owned(),
            "held" => format!("yes, by {holder}"),
            "stale" => format!("no ({holder} left its lock behind)"),
            "other_host" => format!("perhaps: {holder}, another machine, has locked it"),
            _ => "perhaps: the lock file can't be read".to_owned(),
        }
    }
}

impl File {
    fn of(file: DataFile) -> File {
        let kind = match file.kind {
            FileKind::Checkpoint => "checkpoint",
            FileKind::Segment(_) => "segment",
            FileKind::Mark => "mark",
            FileKind::Lock => "lock",
            FileKind::Leftover => "leftover",
            FileKind::Foreign => "foreign",
            FileKind::Other => "other",
        };
        File { name: file.name, kind, bytes: file.bytes }
    }
}
