//! `stats`: what is in a data directory, without starting anything. Only headers and the newest segment are read.

use std::time::{SystemTime, UNIX_EPOCH};

use kvbroker::exit::Exit;
use kvbroker_log::FileSystem;
use kvbroker_log::inspect::{self, BatchPurpose, DataFile, FileKind, LockState, Overview};
use serde::Serialize;

use crate::args::Config;
use crate::failure::Failure;
use crate::tools::out::{remark, rfc3339};
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
    filesystem: String,
    lock: Lock,
    uuid: Option<String>,
    epoch: Option<String>,
    formats: Vec<u32>,
    revision: u64,
    stamp_ms: u64,
    /// None: nothing was ever written.
    clean_stop: Option<bool>,
    /// The last process's.
    sync: Option<&'static str>,
    marked_sequence: Option<u64>,
    checkpoint: Option<Checkpoint>,
    log: Segments,
    history: Segments,
    troubles: Vec<String>,
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
struct Checkpoint {
    revision: u64,
    stamp_ms: u64,
    /// How long ago, by this machine's clock.
    age_s: u64,
    bytes: u64,
    records: Option<u64>,
    record_bytes: Option<u64>,
    digest: Option<String>,
}

/// Segments behind the checkpoint, or those that it covers.
#[derive(Debug, Default, Serialize)]
struct Segments {
    segments: u64,
    bytes: u64,
    /// The first revision that may be in them.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_revision: Option<u64>,
    /// The highest stamp before them.
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
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
/// Exit code 2 where there is no such directory, 12 where it can't be read, 11 where a file's beginning or end can't be understood.
pub(crate) fn run(args: &StatsArgs, config: &Config) -> Result<Exit, End> {
    let place = Place::of(&args.common, config)?;
    let storage = place.read_only()?;
    let lock = place.lock_state()?;
    let files = inspect::list_files(&storage).map_err(|error| Failure::of_log(&error))?;
    let overview = Overview::of(&storage, &files);
    let told = Told::of(&place, &lock, &overview, files);
    let mut out = Out::stdout();
    if args.common.json {
        out.object(&told)?
    } else {
        told.print(&mut out)?
    }
    out.finish()?;
    for trouble in &overview.troubles {
        remark(trouble);
    }
    if overview.troubles.is_empty() && !overview.last_is_damaged {
        return Ok(Exit::Ok);
    }
    let sentence = format!("not all of it can be read: `kvbroker {} check` looks at everything", place.project);
    Err(Failure::new(Exit::LogDamaged, sentence).into())
}

impl Told {
    fn of(place: &Place, lock: &LockState, overview: &Overview, files: Vec<DataFile>) -> Told {
        let now_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let (revision, stamp_ms) = overview.reached();
        let first = overview.first_behind();
        let mut told = Told {
            directory: place.directory.display().to_string(),
            filesystem: FileSystem::of(&place.directory).map_or_else(|error| error.to_string(), |found| found.to_string()),
            lock: Lock::of(lock),
            uuid: None,
            epoch: overview.segments.last().map(|last| format!("{:016x}", last.epoch)),
            formats: overview.segments.iter().map(|segment| segment.version).collect(),
            revision,
            stamp_ms,
            clean_stop: None,
            sync: None,
            marked_sequence: overview.marked_sequence,
            checkpoint: overview.checkpoint.as_ref().map(|checkpoint| Checkpoint {
                revision: checkpoint.covers.revision,
                stamp_ms: checkpoint.covers.stamp_ms,
                age_s: now_ms.saturating_sub(checkpoint.covers.stamp_ms) / 1_000,
                bytes: checkpoint.bytes,
                records: checkpoint.totals.map(|(records, ..)| records),
                record_bytes: checkpoint.totals.map(|(_, bytes, _)| bytes),
                digest: checkpoint.totals.map(|(.., digest)| format!("{digest:016x}")),
            }),
            log: Segments::default(),
            history: Segments::default(),
            troubles: overview.troubles.clone(),
            files: files.into_iter().map(File::of).collect(),
        };
        let uuid = overview.segments.last().map(|last| last.uuid).or(overview.checkpoint.as_ref().map(|found| found.covers.uuid));
        told.uuid = uuid.map(|uuid| uuid.to_string());
        told.formats.sort_unstable();
        told.formats.dedup();
        if let Some((purpose, sync)) = overview.last.as_ref().and_then(|last| last.last_batch) {
            (told.clean_stop, told.sync) = (Some(purpose == BatchPurpose::CleanStop), Some(sync));
        }
        for segment in &overview.segments {
            let sum = if segment.number < first { &mut told.history } else { &mut told.log };
            sum.segments += 1;
            sum.bytes += segment.bytes;
            sum.first_revision.get_or_insert(segment.base_revision + 1);
            sum.since_ms.get_or_insert(segment.stamp_ms);
        }
        told
    }

    fn print(&self, out: &mut Out) -> Result<(), End> {
        let none = || "none".to_owned();
        let mut line = |name: &str, what: String| out.line(format_args!("{name:<12}{what}"));
        line("directory", self.directory.clone())?;
        line("on", self.filesystem.clone())?;
        line("in use", self.lock.sentence())?;
        line("log", self.uuid.clone().unwrap_or_else(none))?;
        line("epoch", self.epoch.clone().unwrap_or_else(none))?;
        let formats: Vec<String> = self.formats.iter().map(u32::to_string).collect();
        line("format", formats.join(" and "))?;
        line("revision", format!("{} of {}", self.revision, rfc3339(self.stamp_ms)))?;
        let stop = match (self.clean_stop, self.lock.state) {
            (_, "held") => "in service".to_owned(),
            (Some(true), _) => "clean".to_owned(),
            (Some(false), _) => "sudden: no clean stop at the end of the log".to_owned(),
            (None, _) => "unknown: the last segment holds no batch".to_owned(),
        };
        line("last stop", stop)?;
        line("sync", self.sync.unwrap_or("unknown").to_owned())?;
        match &self.checkpoint {
            None => line("checkpoint", none())?,
            Some(checkpoint) => {
                let records = checkpoint.records.map_or("records unknown".to_owned(), |records| format!("{records} records"));
                let digest = checkpoint.digest.as_ref().map_or(String::new(), |digest| format!(", digest {digest}"));
                let age = humantime::format_duration(std::time::Duration::from_secs(checkpoint.age_s));
                line(
                    "checkpoint",
                    format!("up to revision {}, {age} ago: {records}, {} bytes{digest}", checkpoint.revision, checkpoint.bytes),
                )?;
            }
        }
        line("behind it", self.log.sentence())?;
        line("history", self.history.sentence())?;
        for file in &self.files {
            let bytes = file.bytes.map_or(String::new(), |bytes| format!("{bytes} bytes"));
            line(file.kind, format!("{:<24}{bytes}", file.name).trim_end().to_owned())?;
        }
        Ok(())
    }
}

impl Segments {
    fn sentence(&self) -> String {
        let Some(first) = self.first_revision else { return "no segment".to_owned() };
        let plural = if self.segments == 1 { "" } else { "s" };
        format!("{} segment{plural}, {} bytes, from revision {first} on", self.segments, self.bytes)
    }
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
