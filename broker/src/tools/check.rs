//! `check`: everything in a data directory read and judged, and the state made of it, without changing anything.
//!
//! Files are read from the disk, past the page cache, where the file system can do that. The state is made in memory: it takes as
//! much as a broker with this data.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kvbroker::exit::Exit;
use kvbroker_core::{Change, ChangeError, Loader, Space, State, split_table_record};
use kvbroker_log::inspect::{
    self, CheckReport, CheckedSegment, DataFile, Examiner, FileKind, Finding, Gravity, LockState, PastCache,
};
use kvbroker_log::{CheckpointRecord, DiskStorage, GroupRef, RecordRef, Replay, Storage, VisitError};

use crate::args::Config;
use crate::failure::Failure;
use crate::tools::json_line::JsonLine;
use crate::tools::out::{remark, rfc3339};
use crate::tools::show::document;
use crate::tools::{Common, End, Out, Place};

/// How often long work says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often a directory that changes while it is read is read again.
const ATTEMPTS: u32 = 10;

/// Flags of `check`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all of it can be read; 11 something is damaged; 13 a newer program wrote it. A torn tail, which a
start cuts off, is said and is no damage. Reads only, also while a broker runs.

Examples:
  kvbroker NETID-a5 check
  kvbroker NETID-a5 check --quiet && echo whole
  kvbroker NETID-a5 check --data /backup/a5 --json"
)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    common: Common,
    /// Say nothing on stderr but why it failed
    #[arg(short, long)]
    quiet: bool,
}

/// Reads and judges the data directory.
///
/// # Errors
/// Exit code 11 for damage, 13 for data of a newer program, 2 and 12 for a directory that can't be read.
pub(crate) fn run(args: &CheckArgs, config: &Config) -> Result<Exit, End> {
    let place = Place::of(&args.common, config)?;
    let storage = place.read_only()?;
    let lock = place.lock_state()?;
    if let (LockState::Held(holder), false) = (&lock, args.quiet) {
        remark(format_args!(
            "{} is in use by {holder}: the batch that it is writing may be unfinished",
            place.directory.display()
        ));
    }
    let (report, examine) = checked(&storage, lock.may_be_in_use(), args.quiet)?;
    let mut out = Out::stdout();
    if args.common.json {
        told_as_json(&mut out, &report, &examine.state)?;
    } else {
        told_as_text(&mut out, &report, &examine.state)?;
    }
    out.finish()?;
    let directory = storage.path("");
    let directory = directory.display();
    match report.gravity() {
        Some(Gravity::Damage) => Err(failure(
            Exit::LogDamaged,
            format!(
                "{directory} is damaged: a start is refused. Restore a backup of the whole directory; where there is none, \
                 `{}` shows what could be kept",
                place.verb("repair")
            ),
        )),
        Some(Gravity::Newer) => Err(failure(
            Exit::DataTooNew,
            format!("{directory} was written by a newer program: start that one with this data, or check with it"),
        )),
        Some(Gravity::History) => Err(failure(
            Exit::LogDamaged,
            format!(
                "the history in {directory} is damaged: a start is not affected and nothing of the table is lost, but what keys \
                 were before can't be read from there. Look at the disk"
            ),
        )),
        Some(Gravity::Note | Gravity::TornTail) | None => Ok(Exit::Ok),
    }
}

/// Checks, and checks again where the broker that runs has replaced the checkpoint or removed segments meanwhile: what is missing then
/// says nothing.
pub(super) fn checked(storage: &DiskStorage, in_use: bool, quiet: bool) -> Result<(CheckReport, Examine), Failure> {
    let listed = || inspect::list_files(storage).map_err(|error| Failure::of_log(&error));
    let mut files = listed()?;
    for _ in 0..ATTEMPTS {
        let total_bytes = files.iter().filter_map(|file| file.bytes).sum();
        let mut examine = Examine::new(total_bytes, quiet);
        let report = inspect::check(&PastCache(storage), in_use, &mut examine).map_err(|error| Failure::of_log(&error))?;
        let after = listed()?;
        // Files are added at the end all the time; only what is taken away at the beginning matters.
        let is_same = beginning(&files) == beginning(&after);
        if !in_use || report.is_whole || is_same {
            return Ok((report, examine));
        }
        files = after;
    }
    let sentence = "the broker that runs makes checkpoints faster than they can be checked: check a backup, or stop it first";
    Err(Failure::new(Exit::Busy, sentence))
}

/// What changes when a checkpoint is made or a segment removed: the checkpoint's size and the first segment.
fn beginning(files: &[DataFile]) -> (Option<u64>, Option<u64>) {
    let checkpoint = files.iter().find(|file| file.kind == FileKind::Checkpoint).and_then(|file| file.bytes);
    (checkpoint, files.iter().find_map(DataFile::number))
}

fn failure(exit: Exit, sentence: String) -> End {
    End::Failed(Failure::new(exit, sentence))
}

/// Makes the state, as a start does, and looks into every value besides.
pub(super) struct Examine {
    loader: Loader,
    state: State,
    quiet: bool,
    next: Instant,
    read_bytes: u64,
    total_bytes: u64,
}

impl Examine {
    fn new(total_bytes: u64, quiet: bool) -> Examine {
        Examine { loader: Loader::new(), state: State::new(), quiet, next: Instant::now() + PROGRESS, read_bytes: 0, total_bytes }
    }
}

/// A value of the table must be a document: a start does not look, readers would.
fn check_document(record_key: &[u8], value: &[u8]) -> Result<(), VisitError> {
    if record_key.first() == Some(&(Space::Table as u8))
        && let Some(record) = split_table_record(value)
        && document(record.stored).is_none()
    {
        return Err(format!("the value of key {:?} is no document", String::from_utf8_lossy(&record_key[1..])).into());
    }
    Ok(())
}

fn change(record: RecordRef<'_>) -> Result<Change, ChangeError> {
    match record {
        RecordRef::Put { key, value } => Change::from_record(key, Some(value)),
        RecordRef::Delete { key } => Change::from_record(key, None),
    }
}

fn check_documents(group: &GroupRef<'_>) -> Result<(), VisitError> {
    for record in group.records() {
        if let RecordRef::Put { key, value } = record {
            check_document(key, value)?;
        }
    }
    Ok(())
}

impl Replay for Examine {
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        self.loader.record(record.key, record.value, record.revision)?;
        check_document(record.key, record.value)
    }

    fn checkpoint_read(&mut self, revision: u64) -> Result<(), VisitError> {
        self.state = std::mem::take(&mut self.loader).finish(revision)?;
        Ok(())
    }

    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        for record in group.records() {
            self.state.apply(change(record)?, group.revision);
        }
        check_documents(&group)
    }
}

impl Examiner for Examine {
    fn past_group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        for record in group.records() {
            change(record)?;
        }
        check_documents(&group)
    }

    fn progress(&mut self, file: &str, bytes: u64) {
        self.read_bytes += bytes;
        if !self.quiet && Instant::now() >= self.next {
            self.next = Instant::now() + PROGRESS;
            remark(format_args!("{file}: {} of {} MiB read", self.read_bytes >> 20, self.total_bytes >> 20));
        }
    }
}

/// Where and what, in a line.
fn sentence(finding: &Finding) -> String {
    let offset = finding.offset.map_or(String::new(), |offset| format!(" at byte {offset}"));
    let file = if finding.file.is_empty() { String::new() } else { format!(" {}{offset}:", finding.file) };
    format!("{}{file} {}", finding.gravity.name().to_uppercase(), finding.what)
}

fn first_revision_of_history(report: &CheckReport) -> Option<u64> {
    report.segments.first().map(|segment| segment.facts.base_revision + 1)
}

fn told_as_text(out: &mut Out, report: &CheckReport, state: &State) -> Result<(), End> {
    if let Some(checkpoint) = &report.checkpoint {
        let covers = &checkpoint.header.covers;
        out.line(format_args!(
            "table.ckpt: {} records, {} bytes, up to revision {} of {}; the log goes on with segment {}",
            checkpoint.records,
            checkpoint.file_bytes,
            covers.revision,
            rfc3339(covers.stamp_ms),
            covers.next_segment
        ))?;
    }
    for CheckedSegment { facts, read, is_history } in &report.segments {
        let revisions = match read.last_revision {
            last if last == facts.base_revision => format!("no revision behind {last}"),
            last => format!("revisions {} to {last}", facts.base_revision + 1),
        };
        let history = if *is_history { ", history" } else { "" };
        out.line(format_args!(
            "table.txn.{:08}: {} batches, {} records, {revisions}{history}",
            facts.number, read.batches, read.records
        ))?;
    }
    for finding in &report.findings {
        out.line(sentence(finding))?;
    }
    let uuid = report.uuid.map_or("none".to_owned(), |uuid| uuid.to_string());
    let epoch =
        report.epochs.last().map_or(String::new(), |epoch| format!(", epoch {epoch:016x} ({} so far)", report.epochs.len()));
    out.line(format_args!("log: {uuid}{epoch}, {} bytes read", report.bytes))?;
    if let Some(first) = first_revision_of_history(report) {
        out.line(format_args!("history: from revision {first} on"))?;
    }
    let at = format!("revision {} of {}", report.last_revision, rfc3339(report.last_stamp_ms));
    if report.is_whole {
        out.line(format_args!(
            "state: {at}: {} keys, {} sessions, {}",
            state.keys(),
            state.sessions(),
            if report.is_clean_stop { "stopped cleanly" } else { "no clean stop" }
        ))?;
    } else {
        out.line(format_args!("state: can't be told; read up to {at}"))?;
    }
    let verdict = match report.gravity() {
        None | Some(Gravity::Note) => "all of it can be read",
        Some(Gravity::TornTail) => "all that was confirmed can be read; a start cuts the torn tail off",
        Some(Gravity::History) => "the state can be read, not all of the history",
        Some(Gravity::Newer) => "written by a newer program",
        Some(Gravity::Damage) => "DAMAGED",
    };
    out.line(format_args!("verdict: {verdict}"))
}

fn told_as_json(out: &mut Out, report: &CheckReport, state: &State) -> Result<(), End> {
    if let Some(checkpoint) = &report.checkpoint {
        let covers = &checkpoint.header.covers;
        let line = JsonLine::new("checkpoint")
            .text("file", "table.ckpt")
            .number("records", checkpoint.records)
            .number("bytes", checkpoint.file_bytes)
            .number("revision", covers.revision)
            .number("stamp_ms", covers.stamp_ms)
            .number("next_segment", covers.next_segment)
            .text("digest", &format!("{:016x}", checkpoint.digest));
        out.bytes(&line.finish())?;
    }
    for CheckedSegment { facts, read, is_history } in &report.segments {
        let line = JsonLine::new("segment")
            .text("file", &format!("table.txn.{:08}", facts.number))
            .number("version", u64::from(facts.version))
            .text("epoch", &format!("{:016x}", facts.epoch))
            .number("batches", read.batches)
            .number("groups", read.groups)
            .number("records", read.records)
            .number("base_revision", facts.base_revision)
            .number("last_revision", read.last_revision)
            .flag("history", *is_history)
            .number("damages", read.damages);
        out.bytes(&line.finish())?;
    }
    for finding in &report.findings {
        let line = JsonLine::new("finding").text("gravity", finding.gravity.name()).text("file", &finding.file);
        out.bytes(&line.optional_number("offset", finding.offset).text("why", &finding.what).finish())?;
    }
    let epochs: BTreeSet<u64> = report.epochs.iter().copied().collect();
    let line = JsonLine::new("summary")
        .text("verdict", report.gravity().map_or("whole", Gravity::name))
        .optional_text("uuid", report.uuid.map(|uuid| uuid.to_string()).as_deref())
        .optional_text("epoch", report.epochs.last().map(|epoch| format!("{epoch:016x}")).as_deref())
        .number("epochs", epochs.len() as u64)
        .number("revision", report.last_revision)
        .number("stamp_ms", report.last_stamp_ms)
        .optional_number("history_from", first_revision_of_history(report))
        .number("bytes", report.bytes)
        .flag("clean_stop", report.is_clean_stop)
        .optional_number("keys", report.is_whole.then(|| state.keys() as u64))
        .optional_number("sessions", report.is_whole.then(|| state.sessions() as u64));
    out.bytes(&line.finish())
}
