//! Recovery: replays what the log holds, decides what its end means, and makes that end durable.
//!
//! - The checkpoint comes first, every byte of it checked, then the segments that it doesn't cover. They must go on exactly where it
//!   ends. Of the segments that it covers only the headers are looked at: they are history, and the state doesn't need them.
//! - A bad batch `k` is damage exactly if something written after its sync says so: a valid later header with
//!   `synced_through >= k`, a later segment, or the mark file. Otherwise it is a torn tail: the log is cut at `k`.
//! - Nothing is written before the whole log was read and judged; a refused log is left as it was.
//! - A cut changes no byte of the old segment. A new segment that starts at sequence `k` is made, durably, by one rename:
//!   from then on nothing behind the cut can be read again, and before it recovery starts over with the same result.
//! - Batches that nothing vouches for are written again, the same bytes at the same place, and synced: after a failed sync
//!   the page cache shows bytes that the disk never got, so syncing alone proves nothing.
//! - A last segment without a batch is made again for the same reason: its directory entry may be like such a byte. One with a
//!   batch needs no care: the directory was synced before its first batch was written.
//! - One that a repair or a restore began ends the segment before it for good, and brings the epoch.
//! - Whatever may have dropped released revisions starts a new epoch: any cut, and an unclean stop in a weaker sync mode.
//!
//! Caveat: that the checkpoint has its name durably is not known here. Nobody may remove a segment that only this checkpoint stands
//! for before another one was published.

use std::collections::VecDeque;

use uuid::Uuid;

use crate::checkpoint::{CHECKPOINT_FILE, CheckpointReader, remove_checkpoint_temporaries};
use crate::error::LogError;
use crate::format::{BatchKind, MARK_FILE, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentReason, segment_name};
use crate::load::{read_batches, read_records};
use crate::log::SyncMode;
use crate::mark::{Mark, read_mark};
use crate::past::{Past, read_past};
use crate::reader::{Batch, BatchReader, Chain, Stop, scan_tail};
use crate::replay::Replay;
use crate::report::{Cut, EpochReason, HistoryReport, RecoveryReport};
use crate::rewrite::rewrite;
use crate::segment::{foreign_segment, is_empty_segment, list_segments, open_segment, remove_temporary};
use crate::segments::{CheckpointInfo, Leftover, SegmentInfo};
use crate::storage::{Storage, StorageFile};
use crate::sweep::PlantedBug;

/// So many groups are told before they are given.
const GROUPS_AHEAD: usize = 64;

/// Where writing goes on.
pub(crate) enum Resume {
    /// Behind the last batch of this segment.
    Segment { file: Box<dyn StorageFile>, header: SegmentHeader, offset: u64 },
    /// In a new segment with this number.
    NewSegment { number: u64, reason: SegmentReason },
}

pub(crate) struct Recovered {
    pub report: RecoveryReport,
    pub chain: Chain,
    /// Epoch of the log as found; meaningless if the report asks for a new one.
    pub resume: Resume,
    /// Those that stay, history first.
    pub segments: Vec<SegmentInfo>,
    /// What is left of segments before those.
    pub leftovers: Vec<Leftover>,
}

/// Reads the log, gives all of it to `replay`, and makes what was read durable. A new epoch and a new segment are for the caller to
/// make, as the result says.
pub(crate) fn recover(storage: &dyn Storage, bug: Option<PlantedBug>, replay: &mut dyn Replay) -> Result<Recovered, LogError> {
    let mut found = Recovery::new(storage, bug);
    let resume = found.run(replay)?;
    remove_temporary(storage)?;
    remove_checkpoint_temporaries(storage)?;
    if let Some(last) = &found.last {
        found.report.rewritten_bytes = if bug == Some(PlantedBug::NoRewrite) {
            0
        } else {
            rewrite(storage, &*last.file, &last.header, &found.unvouched, found.end)?
        };
        if found.report.rewritten_bytes > 0 || bug == Some(PlantedBug::NoRewrite) {
            let path = || storage.path(&segment_name(last.header.number));
            last.file.sync().map_err(|source| LogError::io("sync", path(), source))?;
        }
    }
    let resume = match (resume, found.last.take()) {
        (None, Some(last)) => Resume::Segment { file: last.file, header: last.header, offset: found.end },
        (Some((number, reason)), _) => Resume::NewSegment { number, reason },
        (None, None) => Resume::NewSegment { number: 1, reason: SegmentReason::NewDirectory },
    };
    let Recovery { report, chain, segments, leftovers, .. } = found;
    Ok(Recovered { report, chain, resume, segments, leftovers })
}

struct Open {
    file: Box<dyn StorageFile>,
    header: SegmentHeader,
}

struct Recovery<'s> {
    storage: &'s dyn Storage,
    bug: Option<PlantedBug>,
    chain: Chain,
    report: RecoveryReport,
    /// Last batch that something valid vouches for.
    vouched: u64,
    /// Batches above `vouched` in the last segment: sequence and offset.
    unvouched: VecDeque<(u64, u64)>,
    /// Kind and mode of the last batch.
    last_batch: Option<(BatchKind, u8)>,
    last: Option<Open>,
    /// Bytes of the segments' files that were not read yet, headers and room included.
    log_left: u64,
    /// Where the log ends in the last segment.
    end: u64,
    /// Why no batch could be read there.
    end_reason: &'static str,
    segments: Vec<SegmentInfo>,
    leftovers: Vec<Leftover>,
}

impl<'s> Recovery<'s> {
    fn new(storage: &'s dyn Storage, bug: Option<PlantedBug>) -> Self {
        Self {
            storage,
            bug,
            chain: Chain::START,
            report: RecoveryReport::empty(),
            vouched: 0,
            unvouched: VecDeque::new(),
            last_batch: None,
            last: None,
            log_left: 0,
            end: SEGMENT_HEADER_BYTES as u64,
            end_reason: "the segment is missing",
            segments: Vec::new(),
            leftovers: Vec::new(),
        }
    }

    /// Reads and judges everything; writes nothing. `Some` means that writing goes on in a new segment.
    fn run(&mut self, replay: &mut dyn Replay) -> Result<Option<(u64, SegmentReason)>, LogError> {
        let storage = self.storage;
        let mark = read_mark(storage)?;
        let checkpoint = CheckpointReader::open_if_there(storage, CHECKPOINT_FILE)?;
        let numbers = list_segments(storage)?;
        let first = checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.covers().next_segment);
        let (covered, numbers) = numbers.split_at(numbers.partition_point(|&number| number < first));
        let headers = read_headers(storage, first, numbers, checkpoint.is_some())?;
        let uuid = headers.first().map(|header| header.uuid);
        if let (Some(mark), Some(uuid)) = (&mark, uuid)
            && mark.uuid != uuid
        {
            return Err(LogError::Foreign {
                path: storage.path(MARK_FILE),
                what: format!(
                    "it belongs to log {}, the segments are of log {uuid}. Move what doesn't belong here away.",
                    mark.uuid
                ),
            });
        }
        if let (Some(checkpoint), Some(uuid)) = (&checkpoint, uuid) {
            checkpoint.expect_uuid(uuid)?;
            self.read_past(covered, uuid)?;
        }
        if let Some(checkpoint) = checkpoint {
            self.chain = checkpoint.covers().chain();
            if let Some(header) = headers.first() {
                self.check_continues(header)?;
            }
            self.read_checkpoint(checkpoint, replay)?;
        }
        for header in &headers {
            let name = segment_name(header.number);
            let length = storage.open(&name).and_then(|file| file.length());
            self.log_left += length.map_err(|source| LogError::io("read the length of", storage.path(&name), source))?;
        }
        let mut kept = headers.len();
        let mut replaced = None;
        if let Some(last) = headers.last()
            && is_empty_segment(storage, last)?
        {
            kept -= 1;
            replaced = Some(last);
        }
        for index in 0..kept {
            self.replay_segment(&headers[index], headers.get(index + 1).map(|next| next.first_sequence), replay)?;
            if index + 1 < kept {
                self.last = None;
            }
        }
        if let Some(replaced) = replaced
            && (kept > 0 || self.report.checkpoint.is_some())
        {
            self.check_continues(replaced)?;
            if kept == 0 {
                self.end_reason = "the segment holds no batch";
            }
        }
        if let Some(mark) = mark {
            self.check_mark(&mark)?;
        }
        // What a repair gave up still stands there.
        if replaced.is_none_or(|replaced| SegmentReason::of_a_decision(replaced.reason).is_none()) {
            self.judge_end()?;
        }
        self.report.last_revision = self.chain.last_revision;
        self.report.last_stamp_ms = self.chain.last_stamp_ms;
        self.report.uuid = uuid.unwrap_or(Uuid::nil());
        Ok(self.decide(headers.last(), replaced))
    }

    /// Notes the segments that the checkpoint covers.
    fn read_past(&mut self, covered: &[u64], uuid: Uuid) -> Result<(), LogError> {
        let Past { segments, leftovers, damaged } = read_past(self.storage, covered, uuid)?;
        self.report.history = HistoryReport {
            first_segment: segments.first().map(|segment| segment.number),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            unreadable: damaged,
        };
        (self.segments, self.leftovers) = (segments, leftovers);
        Ok(())
    }

    /// Gives the checkpoint's records to `replay`.
    fn read_checkpoint(&mut self, reader: CheckpointReader, replay: &mut dyn Replay) -> Result<(), LogError> {
        let storage = self.storage;
        let refused = |offset, source| LogError::Refused { file: storage.path(CHECKPOINT_FILE), offset, source };
        let length = storage.open(CHECKPOINT_FILE).and_then(|file| file.length());
        let length = length.map_err(|source| LogError::io("read the length of", storage.path(CHECKPOINT_FILE), source))?;
        let reader =
            read_records(reader, length, &mut |record, offset| replay.record(record).map_err(|source| refused(offset, source)))?;
        let covers = *reader.covers();
        replay.checkpoint_read(covers.revision).map_err(|source| refused(0, source))?;
        self.report.checkpoint = Some(CheckpointInfo {
            next_segment: covers.next_segment,
            revision: covers.revision,
            stamp_ms: covers.stamp_ms,
            records: reader.summary().map_or(0, |summary| summary.records),
            bytes: reader.offset(),
        });
        Ok(())
    }

    fn replay_segment(&mut self, header: &SegmentHeader, limit: Option<u64>, visitor: &mut dyn Replay) -> Result<(), LogError> {
        let storage = self.storage;
        let path = || storage.path(&segment_name(header.number));
        self.check_continues(header)?;
        let (file, _) = open_segment(storage, header.number)?;
        let length = file.length().map_err(|source| LogError::io("read the length of", path(), source))?;
        self.vouched = self.vouched.max(header.first_sequence - 1);
        self.unvouched.clear();
        let mut reader = BatchReader::new(file, header.salt, SEGMENT_HEADER_BYTES as u64, self.chain);
        reader.trust_payload = self.bug == Some(PlantedBug::TornTailTaken);
        loop {
            let (read, stopped) = read_batches(reader, limit, length, &mut |batch| self.replay_batch(&batch, visitor, &path))?;
            reader = read;
            match (stopped.map_err(|source| LogError::io("read", path(), source))?, limit) {
                (None, _) => break,
                // A torn tail, perhaps: judged when the whole log was read.
                (Some(Stop::Bad(what)), None) => {
                    self.end_reason = what;
                    if self.bug != Some(PlantedBug::LaterBatchTaken) || !reader.pass_hole() {
                        break;
                    }
                }
                (Some(Stop::Bad(what)), Some(limit)) => {
                    let sequence = reader.chain().next_sequence;
                    let what = format!("{what}; it should be batch {sequence}, and the next segment starts at batch {limit}");
                    return Err(LogError::Damaged { file: path(), offset: reader.offset(), what });
                }
                (Some(Stop::Malformed(what)), _) => {
                    let what = format!("{what}, although its checksum is right");
                    return Err(LogError::Damaged { file: path(), offset: reader.offset(), what });
                }
                (Some(Stop::Newer(found)), _) => {
                    return Err(LogError::NewerFormat { file: path(), found, supported: "none of that kind".to_owned() });
                }
            }
        }
        self.chain = reader.chain();
        self.end = reader.offset();
        self.report.segments += 1;
        self.segments.push(SegmentInfo::new(header, self.end));
        self.last = Some(Open { file: reader.into_file(), header: header.clone() });
        Ok(())
    }

    fn replay_batch(
        &mut self,
        batch: &Batch<'_>,
        visitor: &mut dyn Replay,
        path: &dyn Fn() -> std::path::PathBuf,
    ) -> Result<(), LogError> {
        visitor.log_left(self.log_left);
        self.log_left = self.log_left.saturating_sub(batch.bytes.len() as u64);
        self.report.batches += 1;
        self.report.records += batch.records;
        self.report.bytes += batch.bytes.len() as u64;
        let mut groups = batch.groups().peekable();
        while groups.peek().is_some() {
            visitor.coming(&mut groups.clone().take(GROUPS_AHEAD));
            for group in groups.by_ref().take(GROUPS_AHEAD) {
                self.report.groups += 1;
                visitor.group(group).map_err(|source| LogError::Refused { file: path(), offset: batch.header.offset, source })?;
            }
        }
        self.vouched = self.vouched.max(batch.header.synced_through);
        self.unvouched.push_back((batch.header.sequence, batch.header.offset));
        while self.unvouched.front().is_some_and(|(sequence, _)| *sequence <= self.vouched) {
            self.unvouched.pop_front();
        }
        self.last_batch = Some((batch.kind, batch.header.mode));
        Ok(())
    }

    /// The segment that `header` starts must go on where the log stands.
    fn check_continues(&self, header: &SegmentHeader) -> Result<(), LogError> {
        let chain = &self.chain;
        let before = match self.last_batch {
            None if *chain != Chain::START => "the checkpoint ends",
            _ => "the segments before it end",
        };
        let what = if header.first_sequence > chain.next_sequence {
            format!("it starts at batch {}, but {before} with batch {}", header.first_sequence, chain.next_sequence - 1)
        } else if header.first_sequence != chain.next_sequence
            || header.base_revision != chain.last_revision
            || header.previous_crc != chain.previous_crc
        {
            format!("it doesn't go on where {before}")
        } else {
            return Ok(());
        };
        Err(LogError::Damaged { file: self.storage.path(&segment_name(header.number)), offset: 0, what })
    }

    /// A log that ends before the batch that the mark names has lost something.
    fn check_mark(&self, mark: &Mark) -> Result<(), LogError> {
        let sequence = self.chain.next_sequence;
        if mark.sequence < sequence {
            return Ok(());
        }
        let segment = self.last.as_ref().map_or(mark.segment, |last| last.header.number);
        let what = format!(
            "batch {sequence} should stand here, but {}; {MARK_FILE} says that batches up to {} were synced, the last of them in {}",
            self.end_reason,
            mark.sequence,
            segment_name(mark.segment)
        );
        Err(LogError::Damaged { file: self.storage.path(&segment_name(segment)), offset: self.end, what })
    }

    /// What stands behind the last good batch: nothing, a torn tail, or damage.
    fn judge_end(&mut self) -> Result<(), LogError> {
        let Some(last) = &self.last else { return Ok(()) };
        let path = self.storage.path(&segment_name(last.header.number));
        let scan =
            scan_tail(&*last.file, last.header.salt, self.end).map_err(|source| LogError::io("read", path.clone(), source))?;
        let sequence = self.chain.next_sequence;
        if let Some((through, offset)) = scan.vouched
            && (through >= sequence || self.bug == Some(PlantedBug::LaterBatchIsDamage))
        {
            let what = format!(
                "batch {sequence} should stand here, but {}; the batch at byte {offset} says that batches up to {through} were synced",
                self.end_reason
            );
            return Err(LogError::Damaged { file: path, offset: self.end, what });
        }
        self.report.cut = scan.written_end.map(|end| Cut { file: path, offset: self.end, bytes: end - self.end });
        Ok(())
    }

    /// Epoch, and whether writing goes on in a new segment. `newest` is the last segment, `replaced` too if it holds nothing.
    fn decide(&mut self, newest: Option<&SegmentHeader>, replaced: Option<&SegmentHeader>) -> Option<(u64, SegmentReason)> {
        let report = &mut self.report;
        if let Some(replaced) = replaced
            && let Some(reason) = SegmentReason::of_a_decision(replaced.reason)
        {
            // The epoch began with it, and whoever made it has judged the stop before.
            (report.epoch, report.new_epoch, report.clean_stop) = (replaced.epoch, None, true);
            return Some((replaced.number, reason));
        }
        // Behind a checkpoint, an empty segment is all that tells of the last process. Without one there is no log yet.
        let behind = replaced.filter(|_| report.checkpoint.is_some());
        let (Some(newest), Some(epoch)) =
            (newest, self.last.as_ref().map(|last| last.header.epoch).or(behind.map(|header| header.epoch)))
        else {
            report.new_epoch = Some(EpochReason::NewLog);
            report.clean_stop = true;
            return Some((1, SegmentReason::NewDirectory));
        };
        report.epoch = epoch;
        // A segment in which nothing could be read says nothing about how the last process stopped; then the one before does.
        report.clean_stop = matches!(self.last_batch, Some((BatchKind::CleanStop, _)));
        // With the one before in the checkpoint, a clean stop would stand here: it is never the last batch before one.
        let mode = self.last_batch.map(|(_, mode)| mode).or(behind.map(|header| header.mode)).unwrap_or(SyncMode::ALWAYS_BYTE);
        if report.cut.is_some() {
            report.new_epoch = Some(EpochReason::Cut);
        } else if !report.clean_stop && mode != SyncMode::ALWAYS_BYTE && self.bug != Some(PlantedBug::EpochKept) {
            report.new_epoch = Some(EpochReason::UncleanStop { never_synced: mode == SyncMode::NEVER_BYTE });
        }
        let number = newest.number + u64::from(replaced.is_none());
        match report.new_epoch {
            Some(EpochReason::Cut) => Some((number, SegmentReason::Cut)),
            Some(_) => Some((number, SegmentReason::WeakerMode)),
            None => replaced.is_some().then_some((number, SegmentReason::Full)),
        }
    }
}

/// Headers of the segments `numbers`, which must go from `first` on without a gap: all of one log.
fn read_headers(
    storage: &dyn Storage,
    first: u64,
    numbers: &[u64],
    has_checkpoint: bool,
) -> Result<Vec<SegmentHeader>, LogError> {
    let missing = |number: u64, what: String| LogError::Damaged { file: storage.path(&segment_name(number)), offset: 0, what };
    if numbers.is_empty() && has_checkpoint {
        return Err(missing(first, format!("the segment is missing, and {CHECKPOINT_FILE} goes only up to it")));
    }
    let mut headers: Vec<SegmentHeader> = Vec::new();
    for (&number, expected) in numbers.iter().zip(first..) {
        if number != expected {
            let why = match (expected == first, has_checkpoint) {
                (false, _) => "",
                (true, true) => "; the checkpoint goes only up to the missing one",
                (true, false) => "; the log may begin later only behind a checkpoint, and there is no table.ckpt",
            };
            return Err(missing(expected, format!("the segment is missing, but {} is there{why}", segment_name(number))));
        }
        let (_, header) = open_segment(storage, number)?;
        if let Some(first) = headers.first()
            && first.uuid != header.uuid
        {
            return Err(foreign_segment(storage, &header, first.uuid));
        }
        headers.push(header);
    }
    Ok(headers)
}
