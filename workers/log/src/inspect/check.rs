//! Reads and judges everything in a data directory: what a start of the log judges, and what it passes over.
//!
//! - A start is refused for exactly what is found as [`Gravity::Damage`] or [`Gravity::Newer`]. Besides, the segments that the checkpoint
//!   covers are read whole, and every record is understood.
//! - Every finding is told, not only the first; what can still be read behind one is read.
//! - The contents go to an [`Examiner`], in the order of a start. Behind damage there is no state any more: from there on it only sees
//!   whether records can be understood.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;

use crate::checkpoint::{CHECKPOINT_FILE, CheckpointReader};
use crate::error::LogError;
use crate::format::{MARK_FILE, segment_name};
use crate::inspect::facts::SegmentFacts;
use crate::inspect::files::{DataFile, FileKind, list_files};
use crate::inspect::findings::{CheckReport, CheckedSegment, Finding, Gravity};
use crate::inspect::segment::{BatchPurpose, BatchView, Found, SegmentEnd, SegmentRead, read_segment};
use crate::mark::{Mark, read_mark};
use crate::payload::GroupRef;
use crate::replay::Replay;
use crate::report::VisitError;
use crate::storage::Storage;

/// Takes what is read.
pub trait Examiner: Replay {
    /// A group that does not belong to the state: it is in the checkpoint already, or what it builds on can't be read.
    ///
    /// # Errors
    /// Why it is not understood.
    fn past_group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError>;

    /// So many bytes more of a file were read.
    fn progress(&mut self, file: &str, bytes: u64);
}

/// Reads and judges all files of `storage`. `in_use`: a broker may be writing, so an unfinished last batch is nothing to worry about.
///
/// # Errors
/// When the directory can't be listed. What is wrong with files is found, not returned.
pub fn check(storage: &dyn Storage, in_use: bool, examiner: &mut dyn Examiner) -> Result<CheckReport, LogError> {
    let report = CheckReport { is_whole: true, ..CheckReport::default() };
    let mut check = Check { storage, in_use, examiner, report, epochs: BTreeSet::new() };
    // Before the list: what mark and checkpoint name is then in the files that are listed, also while the log grows.
    let mark = check.mark();
    let checkpoint = CheckpointReader::open_if_there(storage, CHECKPOINT_FILE);
    let files = list_files(storage)?;
    for file in &files {
        check.bystander(file, mark.as_ref());
    }
    let first = check.checkpoint(checkpoint);
    check.segments(&files, first, mark.as_ref());
    Ok(check.report)
}

struct Check<'a> {
    storage: &'a dyn Storage,
    in_use: bool,
    examiner: &'a mut dyn Examiner,
    report: CheckReport,
    epochs: BTreeSet<u64>,
}

/// Where the segments behind the checkpoint begin.
#[derive(Clone, Copy)]
enum First {
    /// With this one, which continues at this batch, revision and checksum.
    Behind { number: u64, sequence: u64, revision: u64, crc: u32 },
    /// With segment 1.
    One,
    /// The checkpoint can't say.
    Unknown,
}

impl First {
    fn covers(self, number: u64) -> bool {
        matches!(self, Self::Behind { number: first, .. } if number < first)
    }
}

impl Check<'_> {
    fn find(&mut self, gravity: Gravity, file: &str, offset: Option<u64>, what: impl Into<String>) {
        if gravity >= Gravity::Newer {
            self.report.is_whole = false;
        }
        self.report.findings.push(Finding { gravity, file: file.to_owned(), offset, what: what.into() });
    }

    /// An error of reading `file`, which means `gravity` where it is damage.
    fn find_error(&mut self, gravity: Gravity, file: &str, error: LogError) {
        match error {
            LogError::Damaged { offset, what, .. } => self.find(gravity, file, Some(offset), what),
            LogError::NewerFormat { found, supported, .. } => {
                let what = format!("it holds {found}, this program knows {supported}");
                self.find(Gravity::Newer, file, None, what);
            }
            LogError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound && self.in_use => {
                self.find(
                    Gravity::Note,
                    file,
                    None,
                    "it has gone away meanwhile: the broker that runs removes what a checkpoint covers",
                );
                // What was in it is missing in the state.
                self.report.is_whole = false;
            }
            LogError::Foreign { what, .. } => self.find(Gravity::Damage, file, None, what),
            error => self.find(gravity, file, None, error.to_string()),
        }
    }

    fn mark(&mut self) -> Option<Mark> {
        match read_mark(self.storage) {
            Ok(mark) => mark,
            Err(error) => {
                self.find_error(Gravity::Damage, MARK_FILE, error);
                None
            }
        }
    }

    fn bystander(&mut self, file: &DataFile, mark: Option<&Mark>) {
        match file.kind {
            FileKind::Leftover if self.in_use => {}
            FileKind::Leftover => {
                self.find(
                    Gravity::Note,
                    &file.name,
                    None,
                    "left behind by a process that ended while it made it; it may be deleted",
                );
            }
            FileKind::Foreign => {
                let what = "its name looks like a segment's, but no segment is called so: a start is refused; move it away";
                self.find(Gravity::Damage, &file.name, None, what);
            }
            FileKind::Mark if mark.is_none() => {
                let what = "it holds no mark that can be read: nothing vouches for the end of the log; a start makes a new one";
                self.find(Gravity::Note, &file.name, None, what);
            }
            _ => {}
        }
    }

    fn checkpoint(&mut self, opened: Result<Option<CheckpointReader>, LogError>) -> First {
        let read = match opened {
            Ok(None) => return First::One,
            Ok(Some(reader)) => self.read_checkpoint(reader),
            Err(error) => Err(error),
        };
        read.unwrap_or_else(|error| {
            self.find_error(Gravity::Damage, CHECKPOINT_FILE, error);
            self.report.is_whole = false;
            First::Unknown
        })
    }

    fn read_checkpoint(&mut self, mut reader: CheckpointReader) -> Result<First, LogError> {
        let covers = *reader.covers();
        let first = First::Behind {
            number: covers.next_segment,
            sequence: covers.next_sequence,
            revision: covers.revision,
            crc: covers.previous_crc,
        };
        self.report.uuid = Some(covers.uuid);
        (self.report.last_revision, self.report.last_stamp_ms) = (covers.revision, covers.stamp_ms);
        let mut read_to = 0;
        loop {
            match reader.next_block() {
                Ok(Some(block)) => {
                    let mut refused = None;
                    for record in block.records() {
                        if self.report.is_whole
                            && let Err(why) = self.examiner.record(record)
                        {
                            refused = Some((block.offset, why.to_string()));
                            break;
                        }
                    }
                    if let Some((offset, why)) = refused {
                        self.find(Gravity::Damage, CHECKPOINT_FILE, Some(offset), why);
                    }
                }
                Ok(None) => break,
                Err(LogError::Damaged { offset, what, .. }) => {
                    self.find(Gravity::Damage, CHECKPOINT_FILE, Some(offset), what);
                    if reader.skip_damage()?.is_none() {
                        break;
                    }
                }
                Err(error) => {
                    self.find_error(Gravity::Damage, CHECKPOINT_FILE, error);
                    break;
                }
            }
            self.read(CHECKPOINT_FILE, reader.offset() - read_to);
            read_to = reader.offset();
        }
        if self.report.is_whole {
            self.report.checkpoint = reader.summary();
            if let Err(why) = self.examiner.checkpoint_read(covers.revision) {
                self.find(Gravity::Damage, CHECKPOINT_FILE, Some(0), why.to_string());
            }
        }
        Ok(first)
    }

    fn read(&mut self, file: &str, bytes: u64) {
        self.report.bytes += bytes;
        self.examiner.progress(file, bytes);
    }

    fn segments(&mut self, files: &[DataFile], first: First, mark: Option<&Mark>) {
        let numbers: Vec<u64> = files.iter().filter_map(DataFile::number).collect();
        match first {
            First::Behind { number, .. } if !numbers.contains(&number) => {
                let what = format!("the segment is missing, and {CHECKPOINT_FILE} goes only up to it");
                self.find(Gravity::Damage, &segment_name(number), None, what);
            }
            First::One if numbers.first().is_some_and(|&number| number > 1) => {
                let what = format!(
                    "the segment is missing, but {} is there; the log may begin later only behind a checkpoint, and there is no {CHECKPOINT_FILE}",
                    segment_name(numbers[0])
                );
                self.find(Gravity::Damage, &segment_name(1), None, what);
            }
            First::One if numbers.is_empty() => self.find(Gravity::Note, "", None, "there is no log in this directory"),
            _ => {}
        }
        let mut before: Option<SegmentRead> = None;
        let mut last_batch = None;
        for (index, &number) in numbers.iter().enumerate() {
            let is_history = first.covers(number);
            let gravity = if is_history { Gravity::History } else { Gravity::Damage };
            if index > 0 && numbers[index - 1] + 1 != number {
                let missing = numbers[index - 1] + 1;
                let gravity = if first.covers(missing) { Gravity::History } else { Gravity::Damage };
                let what = format!("the segment is missing, but {} is there", segment_name(number));
                self.find(gravity, &segment_name(missing), None, what);
                before = None;
            }
            let next = numbers.get(index + 1).copied();
            match self.segment(number, next, first, before.take()) {
                Ok(checked) => {
                    last_batch = checked.read.last_batch.or(last_batch.filter(|_| next.is_none()));
                    before = (checked.read.damages == 0).then(|| checked.read.clone());
                    self.report.segments.push(checked);
                }
                Err(error) => {
                    self.find_error(gravity, &segment_name(number), error);
                    last_batch = None;
                }
            }
        }
        self.report.is_clean_stop = matches!(last_batch, Some((BatchPurpose::CleanStop, _)));
        if let (Some(mark), Some(last)) = (mark, before) {
            self.check_mark(mark, &last);
        }
    }

    fn segment(
        &mut self,
        number: u64,
        next: Option<u64>,
        first: First,
        before: Option<SegmentRead>,
    ) -> Result<CheckedSegment, LogError> {
        let name = segment_name(number);
        let facts = SegmentFacts::read(self.storage, number)?;
        let is_history = first.covers(number);
        let gravity = if is_history { Gravity::History } else { Gravity::Damage };
        let uuid = *self.report.uuid.get_or_insert(facts.uuid);
        if uuid != facts.uuid {
            let what = format!(
                "it belongs to log {}, the files before it are of log {uuid}; move what doesn't belong here away",
                facts.uuid
            );
            self.find(Gravity::Damage, &name, Some(0), what);
        }
        if self.epochs.insert(facts.epoch) {
            self.report.epochs.push(facts.epoch);
        }
        let continues = |sequence, revision, crc| {
            (facts.first_sequence, facts.base_revision, facts.previous_crc) == (sequence, revision, crc)
        };
        if let First::Behind { number: behind, sequence, revision, crc } = first
            && behind == number
            && !continues(sequence, revision, crc)
        {
            let what =
                format!("it starts at batch {}, but the checkpoint goes up to batch {}", facts.first_sequence, sequence - 1);
            self.find(Gravity::Damage, &name, Some(0), what);
        }
        if let Some(before) = before
            && !continues(before.next_sequence, before.last_revision, before.last_crc)
        {
            let what = "it doesn't go on where the segment before it ends";
            self.find(gravity, &name, Some(0), what);
        }
        // A next segment that can't be read is found in its turn.
        let next = next.filter(|next| *next == number + 1).and_then(|next| SegmentFacts::read(self.storage, next).ok());
        let limit = next.map(|next| next.first_sequence);
        let read = read_segment(self.storage, number, limit, &mut |found| {
            match found {
                Found::Batch(batch) => self.batch(&name, &batch, is_history),
                Found::Damage { offset, what, resumes } => {
                    let goes_on = resumes.map_or(String::new(), |at| format!("; what follows at byte {at} can be read"));
                    self.find(gravity, &name, Some(offset), format!("{what}{goes_on}"));
                }
            }
            ControlFlow::Continue(())
        })?;
        if let SegmentEnd::Torn { bytes, why } = &read.end {
            let (gravity, what) = if self.in_use {
                (Gravity::Note, format!("{bytes} bytes behind the last batch are being written, or were never finished"))
            } else {
                (Gravity::TornTail, format!("{bytes} bytes behind the last batch are no batch ({why}): a start cuts them off"))
            };
            self.find(gravity, &name, Some(read.offset), what);
        }
        if !is_history {
            self.report.last_revision = self.report.last_revision.max(read.last_revision);
            self.report.last_stamp_ms = self.report.last_stamp_ms.max(read.last_stamp_ms);
        }
        Ok(CheckedSegment { facts, read, is_history })
    }

    fn batch(&mut self, name: &str, batch: &BatchView<'_>, is_history: bool) {
        for group in batch.groups() {
            let understood =
                if self.report.is_whole && !is_history { self.examiner.group(group) } else { self.examiner.past_group(group) };
            if let Err(why) = understood {
                let gravity = if is_history { Gravity::History } else { Gravity::Damage };
                self.find(gravity, name, Some(batch.offset), format!("revision {}: {why}", group.revision));
                // One sentence a batch is enough.
                break;
            }
        }
        self.read(name, batch.bytes);
    }

    /// A log that ends before the batch that the mark names has lost something.
    fn check_mark(&mut self, mark: &Mark, last: &SegmentRead) {
        if self.report.uuid.is_some_and(|uuid| uuid != mark.uuid) {
            let what = format!("it belongs to log {}; move it away if that one is not meant", mark.uuid);
            self.find(Gravity::Damage, MARK_FILE, None, what);
        } else if mark.sequence >= last.next_sequence {
            let what = format!(
                "batch {} should stand here; {MARK_FILE} says that batches up to {} were synced, the last of them in {}",
                last.next_sequence,
                mark.sequence,
                segment_name(mark.segment)
            );
            let name = self.report.segments.last().map_or(MARK_FILE.to_owned(), |last| segment_name(last.facts.number));
            self.find(Gravity::Damage, &name, Some(last.offset), what);
        }
    }
}
