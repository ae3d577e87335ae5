//! `dump`: the checkpoint and the log as people and programs can read them.
//!
//! - Each file is read by itself: what is wrong with one does not keep the others from being shown.
//! - Batches and groups are told when something of them is: a filter leaves nothing but what leads to a match.
//! - Memory is bounded by the longest batch or block.

mod wanted;

use std::ops::ControlFlow;

use kvbroker::exit::Exit;
use kvbroker_log::inspect::{self, BatchView, FileKind, Found, LockState, SegmentEnd, SegmentFacts, SegmentRead};
use kvbroker_log::{Block, Cause, CheckpointReader, DiskStorage, FORMAT_VERSION, GroupRef, LogError, RecordRef, Storage};

use crate::args::Config;
use crate::failure::Failure;
use crate::tools::json_line::JsonLine;
use crate::tools::out::{remark, rfc3339};
use crate::tools::show::{Record, request};
use crate::tools::{End, Out, Place};

pub(crate) use wanted::DumpArgs;

/// Prints the data directory's contents.
///
/// # Errors
/// Exit code 2 for a directory or file that is not there, 12 if something can't be read for other reasons than damage.
pub(crate) fn run(args: &DumpArgs, config: &Config) -> Result<Exit, End> {
    let place = Place::of(&args.common, config)?;
    let storage = place.read_only()?;
    let lock = place.lock_state()?;
    // Before the list: what is in service is then known to be.
    if let LockState::Held(holder) = &lock {
        remark(format_args!("{} is in use by {holder}; shown is what is in the files by now", place.directory.display()));
    }
    let files = inspect::list_files(&storage).map_err(|error| Failure::of_log(&error))?;
    if let Some(name) = &args.file
        && !files.iter().any(|file| file.name == *name && matches!(file.kind, FileKind::Checkpoint | FileKind::Segment(_)))
    {
        let sentence = format!("{} has no segment or checkpoint {name}; `stats` lists the files", place.directory.display());
        return Err(Failure::new(Exit::Usage, sentence).into());
    }
    let numbers: Vec<u64> = files.iter().filter_map(|file| file.number()).collect();
    let mut dump = Dump { args, storage: &storage, in_use: lock.may_be_in_use(), out: Out::stdout(), worst: Exit::Ok };
    for file in files.iter().filter(|file| args.wants_file(&file.name, file.kind)) {
        let result = match file.kind {
            FileKind::Checkpoint => dump.checkpoint(&file.name),
            FileKind::Segment(number) => dump.segment(&file.name, number, &numbers),
            _ => Ok(Ok(())),
        };
        if let Err(error) = result? {
            dump.unreadable(&file.name, &error)?;
        }
    }
    let worst = dump.worst;
    dump.out.finish()?;
    Ok(worst)
}

struct Dump<'a> {
    args: &'a DumpArgs,
    storage: &'a DiskStorage,
    /// A broker may be writing.
    in_use: bool,
    out: Out,
    worst: Exit,
}

/// What can't be read of a file inside, what can't be printed outside.
type Shown = Result<Result<(), LogError>, End>;

impl Dump<'_> {
    fn print(&mut self, text: impl FnOnce() -> String, json: impl FnOnce() -> JsonLine) -> Result<(), End> {
        if self.args.common.json { self.out.bytes(&json().finish()) } else { self.out.line(text()) }
    }

    /// Something that can't be read, in its place.
    fn damage(&mut self, file: &str, offset: u64, what: &str, resumes: Option<u64>) -> Result<(), End> {
        self.worst = Exit::LogDamaged;
        remark(format_args!("{} is damaged at byte {offset}: {what}", self.storage.path(file).display()));
        self.print(
            || {
                let goes_on = resumes.map_or(String::new(), |resumes| format!("; what follows at byte {resumes} can be read"));
                format!("  @{offset} DAMAGED: {what}{goes_on}")
            },
            || {
                let line = JsonLine::new("damage").text("file", file).number("offset", offset).text("why", what);
                line.optional_number("resumes", resumes)
            },
        )
    }

    /// A file that can't be read at all, or not to its end.
    fn unreadable(&mut self, file: &str, error: &LogError) -> Result<(), End> {
        match error {
            LogError::Damaged { offset, what, .. } => self.damage(file, *offset, what, None),
            LogError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound && self.in_use => {
                remark(format_args!("{file} has gone away meanwhile: the broker that runs removes what a checkpoint covers"));
                Ok(())
            }
            _ => {
                if self.worst == Exit::Ok {
                    self.worst = Failure::of_log(error).exit;
                }
                remark(error);
                let why = error.to_string();
                self.print(
                    || format!("{file}: UNREADABLE: {why}"),
                    || JsonLine::new("unreadable").text("file", file).text("why", &why),
                )
            }
        }
    }

    fn checkpoint(&mut self, name: &str) -> Shown {
        let mut reader = match CheckpointReader::open(self.storage, name) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let covers = *reader.covers();
        let stamp = rfc3339(covers.stamp_ms);
        self.print(
            || {
                format!(
                    "{name}: checkpoint of log {} up to revision {} of {stamp}; the log goes on with segment {}, batch {}",
                    covers.uuid, covers.revision, covers.next_segment, covers.next_sequence
                )
            },
            || {
                JsonLine::new("checkpoint")
                    .text("file", name)
                    .text("uuid", &covers.uuid.to_string())
                    .number("revision", covers.revision)
                    .number("stamp_ms", covers.stamp_ms)
                    .number("next_segment", covers.next_segment)
                    .number("next_sequence", covers.next_sequence)
            },
        )?;
        loop {
            match reader.next_block() {
                Ok(Some(block)) => self.block(name, &block)?,
                Ok(None) => break,
                Err(LogError::Damaged { offset, what, .. }) => {
                    let skipped = match reader.skip_damage() {
                        Ok(skipped) => skipped,
                        Err(error) => return Ok(Err(error)),
                    };
                    self.damage(name, offset, &what, skipped.map(|bytes| offset + bytes))?;
                    if skipped.is_none() {
                        return Ok(Ok(()));
                    }
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        let Some(summary) = reader.summary() else { return Ok(Ok(())) };
        self.print(
            || {
                let (records, bytes, digest) = (summary.records, summary.record_bytes, summary.digest);
                format!(
                    "  @{} end of the checkpoint: {records} records of {bytes} bytes, digest {digest:016x}",
                    summary.file_bytes
                )
            },
            || {
                JsonLine::new("checkpoint_end")
                    .text("file", name)
                    .number("offset", summary.file_bytes)
                    .number("records", summary.records)
                    .number("bytes", summary.record_bytes)
                    .text("digest", &format!("{:016x}", summary.digest))
            },
        )?;
        Ok(Ok(()))
    }

    fn block(&mut self, name: &str, block: &Block<'_>) -> Result<(), End> {
        for record in block.records() {
            if self.args.wants_record(record.key) && self.args.wants_revision(record.revision) {
                let record = Record { key: record.key, value: Some(record.value), revision: record.revision };
                self.record(name, block.offset, &format!("  revision {}: ", record.revision), record)?;
            }
        }
        Ok(())
    }

    /// A record; `place` is where its batch or block starts.
    fn record(&mut self, file: &str, place: u64, indent: &str, record: Record<'_>) -> Result<(), End> {
        let error = if self.args.common.json {
            let (line, error) = record.json(JsonLine::new("record").text("file", file).number("offset", place));
            self.out.bytes(&line.finish())?;
            error
        } else {
            let (text, error) = record.text(self.args.values);
            self.out.line(format_args!("{indent}{text}"))?;
            error
        };
        if let Some(error) = error {
            remark(format_args!("{} at byte {place}: {error}", self.storage.path(file).display()));
            self.worst = if self.worst == Exit::Ok { Exit::LogDamaged } else { self.worst };
        }
        Ok(())
    }

    fn segment(&mut self, name: &str, number: u64, numbers: &[u64]) -> Shown {
        let facts = match SegmentFacts::read(self.storage, number) {
            Ok(facts) => facts,
            Err(error) => return Ok(Err(error)),
        };
        let next = numbers.iter().copied().find(|&other| other > number);
        // While a broker removes segments, a list of them may have gaps.
        if let Some(next) = next.filter(|&next| next > number + 1 && !self.in_use) {
            self.damage(name, facts.bytes, &format!("the next segment is missing, but segment {next} is there"), None)?;
        }
        // A next one that can't be read does not say where it begins; then this one ends where its batches end.
        let following = next.and_then(|next| SegmentFacts::read(self.storage, next).ok());
        // Where nothing of a segment can be wanted, it need not be read.
        if following.as_ref().is_some_and(|next| next.base_revision < self.args.from) || facts.base_revision > self.args.to {
            return Ok(Ok(()));
        }
        self.segment_header(name, &facts)?;
        let limit = following.filter(|next| next.number == number + 1).map(|next| next.first_sequence);
        let mut end = None;
        let storage = self.storage;
        let read = inspect::read_segment(storage, number, limit, &mut |found| {
            let told = match found {
                Found::Batch(batch) => self.batch(name, &batch),
                Found::Damage { offset, what, resumes } => self.damage(name, offset, &what, resumes),
            };
            match told {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    end = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(end) = end {
            return Err(end);
        }
        match read {
            Ok(read) => self.segment_end(name, &read).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    fn segment_header(&mut self, name: &str, facts: &SegmentFacts) -> Result<(), End> {
        self.print(
            || {
                let stamp = if facts.stamp_ms == 0 { String::new() } else { format!(" of {}", rfc3339(facts.stamp_ms)) };
                let version =
                    if facts.version == FORMAT_VERSION { String::new() } else { format!(" in format {}", facts.version) };
                format!(
                    "{name}: segment {}{version} of log {}, epoch {:016x}, from batch {} on, behind revision {}{stamp} ({})",
                    facts.number, facts.uuid, facts.epoch, facts.first_sequence, facts.base_revision, facts.reason
                )
            },
            || {
                JsonLine::new("segment")
                    .text("file", name)
                    .number("number", facts.number)
                    .number("version", u64::from(facts.version))
                    .text("uuid", &facts.uuid.to_string())
                    .text("epoch", &format!("{:016x}", facts.epoch))
                    .number("first_sequence", facts.first_sequence)
                    .number("base_revision", facts.base_revision)
                    .number("stamp_ms", facts.stamp_ms)
                    .text("reason", facts.reason)
                    .number("bytes", facts.bytes)
            },
        )
    }

    fn batch(&mut self, file: &str, batch: &BatchView<'_>) -> Result<(), End> {
        let mut is_told = !self.args.has_filter();
        if is_told {
            self.batch_header(file, batch)?;
        }
        for group in batch.groups().filter(|group| self.args.wants_revision(group.revision)) {
            let mut group_told = !self.args.has_key_filter();
            if group_told {
                self.lead_to(file, batch, &mut is_told, &group)?;
            }
            for record in group.records() {
                let (key, value) = match record {
                    RecordRef::Put { key, value } => (key, Some(value)),
                    RecordRef::Delete { key } => (key, None),
                };
                if !self.args.wants_record(key) {
                    continue;
                }
                if !group_told {
                    group_told = true;
                    self.lead_to(file, batch, &mut is_told, &group)?;
                }
                let indent = if value.is_some() { "      put " } else { "      delete " };
                self.record(file, batch.offset, indent, Record { key, value, revision: group.revision })?;
            }
        }
        Ok(())
    }

    /// The lines above a group's records.
    fn lead_to(&mut self, file: &str, batch: &BatchView<'_>, batch_told: &mut bool, group: &GroupRef<'_>) -> Result<(), End> {
        if !std::mem::replace(batch_told, true) {
            self.batch_header(file, batch)?;
        }
        let cause = match group.cause {
            Cause::Request => "request",
            Cause::Expiry => "expiry",
            Cause::Bookkeeping => "bookkeeping",
            Cause::Internal => "internal",
        };
        let session = group.session.map(|session| request(session.id, session.sequence));
        self.print(
            || {
                let at = if group.cause.takes_revision() { "revision" } else { "at revision" };
                let session = session.as_ref().map_or(String::new(), |session| format!(" of {session}"));
                format!("    {at} {}: {cause}{session}", group.revision)
            },
            || {
                let line = JsonLine::new("group").text("file", file).number("offset", batch.offset);
                let line = line.number("revision", group.revision).text("cause", cause);
                line.optional_text("request", session.as_deref()).number("records", group.records().len() as u64)
            },
        )
    }

    fn batch_header(&mut self, file: &str, batch: &BatchView<'_>) -> Result<(), End> {
        let (kind, stamp) = (batch.purpose.name(), rfc3339(batch.stamp_ms));
        self.print(
            || {
                let revisions = match batch.last_revision {
                    last if last < batch.first_revision => format!("at revision {last}"),
                    last if last == batch.first_revision => format!("revision {last}"),
                    last => format!("revisions {} to {last}", batch.first_revision),
                };
                format!(
                    "  @{} batch {}: {kind}, {revisions}, {stamp}, {} bytes, sync {}, synced through batch {}",
                    batch.offset, batch.sequence, batch.bytes, batch.mode, batch.synced_through
                )
            },
            || {
                JsonLine::new("batch")
                    .text("file", file)
                    .number("offset", batch.offset)
                    .number("bytes", batch.bytes)
                    .number("sequence", batch.sequence)
                    .text("kind", kind)
                    .number("first_revision", batch.first_revision)
                    .number("last_revision", batch.last_revision)
                    .number("stamp_ms", batch.stamp_ms)
                    .text("sync", batch.mode)
                    .number("synced_through", batch.synced_through)
                    .number("groups", u64::from(batch.groups))
                    .number("records", batch.records)
            },
        )
    }

    fn segment_end(&mut self, file: &str, read: &SegmentRead) -> Result<(), End> {
        let in_use = self.in_use;
        let (kind, said) = match &read.end {
            SegmentEnd::Next => ("next", "the next segment goes on".to_owned()),
            SegmentEnd::Log => ("end", "end of the log".to_owned()),
            SegmentEnd::Torn { bytes, .. } if in_use => {
                ("in_flight", format!("end of the log so far; {bytes} bytes behind it are being written or were never finished"))
            }
            SegmentEnd::Torn { bytes, why } => {
                ("torn", format!("end of the log; {bytes} bytes behind it are no batch ({why}): a start cuts them off"))
            }
            SegmentEnd::Damaged => ("damaged", "nothing behind the damage can be read".to_owned()),
            SegmentEnd::Stopped => return Ok(()),
        };
        let torn = match read.end {
            SegmentEnd::Torn { bytes, .. } => Some(bytes),
            _ => None,
        };
        self.print(
            || format!("  @{} {said}", read.offset),
            || {
                let line = JsonLine::new("segment_end").text("file", file).number("offset", read.offset).text("end", kind);
                line.number("batches", read.batches)
                    .number("last_revision", read.last_revision)
                    .optional_number("torn_bytes", torn)
            },
        )
    }
}
