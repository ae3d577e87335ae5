//! Finding the damage nearest to the log's beginning: the rules of a recovery, without giving up at the first bad header.

use uuid::Uuid;

use super::checkpoint::{self, Found, Left};
use super::{Action, Damage, Loss, Remedy, RepairError, RepairPlan, Verdict, repaired};
use crate::checkpoint::{CHECKPOINT_FILE, Covers};
use crate::error::LogError;
use crate::format::{
    BATCH_HEADER_BYTES, BATCH_SALT_AT, BatchHeader, MARK_FILE, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentReason, segment_name,
    u64_at,
};
use crate::mark::{Mark, read_mark};
use crate::payload::GroupRef;
use crate::reader::{Chain, Stop, scan_tail};
use crate::report::Cut;
use crate::segment::{list_segments, open_segment};
use crate::storage::{Storage, StorageFile};
use crate::walk::{Walked, misfit};

/// A segment as it was found.
struct Segment {
    number: u64,
    /// None: its header can't be read, for this reason.
    header: Result<SegmentHeader, String>,
}

/// Judges the log in `storage`. Every group behind a damage that can still be read is given to `lost`, in no order.
///
/// # Errors
/// `Log` when the files can't be read or are of a newer or another log, `Hopeless` when nothing could be kept.
pub fn examine(storage: &dyn Storage, lost: &mut dyn FnMut(&GroupRef<'_>)) -> Result<Verdict, RepairError> {
    match checkpoint::find(storage)? {
        Found::Absent => Examination::new(storage, None)?.run(lost),
        Found::Whole(covers) => Examination::new(storage, Some(covers))?.run(lost),
        Found::Damaged(damage, left) => examine_behind(storage, damage, left, lost),
    }
}

/// Judges the log of a damaged checkpoint.
fn examine_behind(
    storage: &dyn Storage,
    damage: Damage,
    left: Option<Left>,
    lost: &mut dyn FnMut(&GroupRef<'_>),
) -> Result<Verdict, RepairError> {
    let plan = |remedy, end: &Walked, checkpoint, action| {
        Verdict::Damaged(Box::new(RepairPlan {
            damage: damage.clone(),
            remedy,
            kept_revision: end.chain.last_revision,
            kept_stamp_ms: end.chain.last_stamp_ms,
            loss: Loss::default(),
            checkpoint,
            action,
        }))
    };
    // Is all of the log still there? Then it says what the checkpoint said, and what may be wrong behind that is a matter of its own.
    let (is_whole, end) = match Examination::new(storage, None)?.read(&mut |_| {}) {
        Ok((verdict, end)) => (matches!(verdict, Verdict::Sound { .. }) && end.chain != Chain::START, end),
        Err(RepairError::Hopeless { .. }) => (false, Walked::start(Chain::START)),
        Err(error) => return Err(error),
    };
    let reaches = left.as_ref().is_some_and(|left| end.chain.next_sequence >= left.covers.next_sequence);
    if is_whole || reaches {
        return Ok(plan(Remedy::RemoveCheckpoint, &end, None, Action::RemoveCheckpoint));
    }
    let Some(Left { covers, remains, is_only_header }) = left else {
        return Err(RepairError::Hopeless { file: storage.path(&damage.name), offset: damage.offset, what: damage.what });
    };
    let log = Examination::new(storage, Some(covers))?;
    let number = log.found.last().map_or(covers.next_segment, |found| found.number + 1);
    Ok(match log.read(lost)? {
        (Verdict::Sound { .. }, end) if is_only_header => plan(Remedy::NewHeader, &end, None, Action::RebuildCheckpoint),
        (Verdict::Sound { .. }, end) => {
            let action = Action::SalvageCheckpoint { uuid: covers.uuid, number, chain: end.chain };
            plan(Remedy::SalvageCheckpoint, &end, Some(remains), action)
        }
        // First the log, then the checkpoint.
        (damaged, _) => damaged,
    })
}

/// Headers of all segments that should be there, from `first` on.
fn find_segments(storage: &dyn Storage, first: u64) -> Result<Vec<Segment>, LogError> {
    let numbers = list_segments(storage)?;
    let mut found = Vec::new();
    for number in first..=numbers.last().copied().unwrap_or(0) {
        let header = if !numbers.contains(&number) {
            Err("the segment is missing".to_owned())
        } else {
            match open_segment(storage, number) {
                Ok((_, header)) => Ok(header),
                Err(LogError::Damaged { what, .. }) => Err(what),
                Err(error) => return Err(error),
            }
        };
        found.push(Segment { number, header });
    }
    Ok(found)
}

/// The name of the log, if anything tells it. Files of two logs are not damage.
fn one_uuid(
    storage: &dyn Storage,
    found: &[Segment],
    mark: Option<&Mark>,
    covers: Option<&Covers>,
) -> Result<Option<Uuid>, LogError> {
    let mut names = found.iter().filter_map(|found| Some((segment_name(found.number), found.header.as_ref().ok()?.uuid)));
    let first = names.next();
    let mark = mark.map(|mark| (MARK_FILE.to_owned(), mark.uuid));
    let checkpoint = covers.map(|covers| (CHECKPOINT_FILE.to_owned(), covers.uuid));
    for (name, uuid) in names.chain(mark.clone()).chain(checkpoint.clone()) {
        if let Some((_, first)) = first.as_ref().filter(|(_, first)| *first != uuid) {
            let what = format!("it belongs to log {uuid}, the segments are of log {first}. Move what doesn't belong here away.");
            return Err(LogError::Foreign { path: storage.path(&name), what });
        }
    }
    Ok(first.or(checkpoint).or(mark).map(|(_, uuid)| uuid))
}

struct Examination<'s> {
    storage: &'s dyn Storage,
    mark: Option<Mark>,
    start: Chain,
    has_checkpoint: bool,
    found: Vec<Segment>,
    uuid: Option<Uuid>,
}

/// Where the log can be ended.
struct End {
    damage: Damage,
    chain: Chain,
    /// The number that the new segment would get.
    number: u64,
}

impl<'s> Examination<'s> {
    /// Of the log behind a checkpoint, or of all of it.
    fn new(storage: &'s dyn Storage, covers: Option<Covers>) -> Result<Self, LogError> {
        let mark = read_mark(storage)?;
        let mut found = find_segments(storage, covers.map_or(1, |covers| covers.next_segment))?;
        if let (Some(covers), true) = (covers, found.is_empty()) {
            found.push(Segment { number: covers.next_segment, header: Err("the segment is missing".to_owned()) });
        }
        let uuid = one_uuid(storage, &found, mark.as_ref(), covers.as_ref())?;
        let start = covers.map_or(Chain::START, |covers| covers.chain());
        Ok(Self { storage, mark, start, has_checkpoint: covers.is_some(), found, uuid })
    }

    fn run(&self, lost: &mut dyn FnMut(&GroupRef<'_>)) -> Result<Verdict, RepairError> {
        self.read(lost).map(|(verdict, _)| verdict)
    }

    /// The verdict, and how far the log can be read.
    fn read(&self, lost: &mut dyn FnMut(&GroupRef<'_>)) -> Result<(Verdict, Walked), RepairError> {
        let mut walked = Walked::start(self.start);
        let verdict = self.walk(&mut walked, lost)?;
        Ok((verdict, walked))
    }

    fn walk(&self, walked: &mut Walked, lost: &mut dyn FnMut(&GroupRef<'_>)) -> Result<Verdict, RepairError> {
        let mut torn = None;
        for (index, found) in self.found.iter().enumerate() {
            let name = segment_name(found.number);
            let at_header = |what: String| Damage { name: name.clone(), offset: 0, what };
            let header = match &found.header {
                Ok(header) => header,
                Err(what) => return self.bad_header(index, at_header(what.clone()), walked.chain, lost),
            };
            if let Some(what) = misfit(header, &walked.chain) {
                return self.end_log(End { damage: at_header(what), chain: walked.chain, number: found.number }, lost);
            }
            let (file, _) = open_segment(self.storage, found.number)?;
            let limit = self.found.get(index + 1).and_then(|next| Some(next.header.as_ref().ok()?.first_sequence));
            let before = walked.chain;
            *walked = Walked::start(before);
            walked.walk(&*file, header, limit, &|| self.storage.path(&name), &mut |_| Ok(()))?;
            if let Some(damage) = self.fault(&*file, header, limit, walked, &mut torn)? {
                return self.end_log(End { damage, chain: walked.chain, number: found.number + 1 }, lost);
            }
            if let Some(damage) = self.fault_before_empty_end(index, walked)? {
                return self.end_log(End { damage, chain: walked.chain, number: found.number + 1 }, lost);
            }
        }
        if let Some(end) = self.fault_of_mark(walked, torn.is_none()) {
            return self.end_log(end, lost);
        }
        Ok(Verdict::Sound { revision: walked.chain.last_revision, torn })
    }

    /// What is wrong with a segment that was walked to its end.
    fn fault(
        &self,
        file: &dyn StorageFile,
        header: &SegmentHeader,
        limit: Option<u64>,
        walked: &Walked,
        torn: &mut Option<Cut>,
    ) -> Result<Option<Damage>, LogError> {
        let name = segment_name(header.number);
        let path = || self.storage.path(&name);
        match walked.fault(limit, &path) {
            Some(LogError::Damaged { offset, what, .. }) => return Ok(Some(Damage { name, offset, what })),
            Some(error) => return Err(error),
            None if limit.is_some() => return Ok(None),
            None => {}
        }
        let scan = scan_tail(file, header.salt, walked.end).map_err(|source| LogError::io("read", path(), source))?;
        *torn = scan.written_end.map(|end| Cut { file: path(), offset: walked.end, bytes: end - walked.end });
        let sequence = walked.chain.next_sequence;
        let reason = match &walked.stop {
            Some(Stop::Bad(what)) => what,
            _ => "it can't be read",
        };
        Ok(scan.vouched.filter(|(through, _)| *through >= sequence).map(|(through, at)| {
            let what = format!(
                "batch {sequence} should stand here, but {reason}; the batch at byte {at} says that batches up to {through} were synced"
            );
            Damage { name, offset: walked.end, what }
        }))
    }

    /// A recovery takes a last segment without a batch as if it was not there, unless somebody decided that the log ends before it.
    fn fault_before_empty_end(&self, index: usize, walked: &Walked) -> Result<Option<Damage>, LogError> {
        let [found, last] = &self.found[index..] else { return Ok(None) };
        let (Ok(header), Ok(last)) = (&found.header, &last.header) else { return Ok(None) };
        if SegmentReason::of_a_decision(last.reason).is_some() {
            return Ok(None);
        }
        let name = segment_name(last.number);
        let (file, _) = open_segment(self.storage, last.number)?;
        let scan = scan_tail(&*file, last.salt, SEGMENT_HEADER_BYTES as u64)
            .map_err(|source| LogError::io("read", self.storage.path(&name), source))?;
        if scan.written_end.is_some() {
            return Ok(None);
        }
        let (file, _) = open_segment(self.storage, header.number)?;
        self.fault(&*file, header, None, &Walked { stop: None, ..walked.clone() }, &mut None)
    }

    /// A log that ends before the batch that the mark names. A last segment in which nothing was written is made anew: a repair or a
    /// recovery that was stopped may have left its name in the directory's cache only, and what is behind it must not rest on that.
    fn fault_of_mark(&self, walked: &Walked, nothing_behind: bool) -> Option<End> {
        let mark = self.mark.filter(|mark| mark.sequence >= walked.chain.next_sequence)?;
        let sequence = walked.chain.next_sequence;
        let number = self.found.last().map_or(0, |found| found.number);
        let what = format!(
            "batch {sequence} should stand here, but the log ends; {MARK_FILE} says that batches up to {} were synced, the last of them in {}",
            mark.sequence,
            segment_name(mark.segment)
        );
        let name = segment_name(if number == 0 { mark.segment } else { number });
        let is_empty = nothing_behind && number > 0 && walked.end == SEGMENT_HEADER_BYTES as u64;
        let next = if is_empty { number } else { number + 1 };
        Some(End { damage: Damage { name, offset: walked.end, what }, chain: walked.chain, number: next })
    }

    /// A segment whose header can't be read is made whole from its first batch, if that is the one that belongs there.
    fn bad_header(
        &self,
        index: usize,
        damage: Damage,
        chain: Chain,
        lost: &mut dyn FnMut(&GroupRef<'_>),
    ) -> Result<Verdict, RepairError> {
        let number = self.found[index].number;
        let Some(salt) = self.salt_of_first_batch(number, &chain)? else {
            return self.end_log(End { damage, chain, number }, lost);
        };
        let neighbour = |found: Option<&Segment>| found.and_then(|found| found.header.as_ref().ok()).map(|header| header.epoch);
        let uuid = self.uuid.ok_or_else(|| self.hopeless(&damage))?;
        // Only the last segment's epoch counts, and that one gets a new one.
        let epoch = neighbour(self.found.get(index + 1)).or(neighbour(index.checked_sub(1).and_then(|at| self.found.get(at))));
        let header = repaired(uuid, epoch.unwrap_or(0), salt, number, &chain);
        let is_last = index + 1 == self.found.len();
        Ok(Verdict::Damaged(Box::new(RepairPlan {
            damage,
            remedy: Remedy::NewHeader,
            kept_revision: chain.last_revision,
            kept_stamp_ms: chain.last_stamp_ms,
            loss: Loss::default(),
            checkpoint: None,
            action: Action::NewHeader { header, is_last },
        })))
    }

    /// The salt, if the first batch of the segment is whole and continues `chain`: then its own checksum vouches for the salt it names.
    fn salt_of_first_batch(&self, number: u64, chain: &Chain) -> Result<Option<u64>, LogError> {
        let name = segment_name(number);
        let Ok(file) = self.storage.open(&name) else { return Ok(None) };
        let at = SEGMENT_HEADER_BYTES as u64;
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let read = file.read_at(&mut bytes, at).map_err(|source| LogError::io("read", self.storage.path(&name), source))?;
        if read < bytes.len() {
            return Ok(None);
        }
        let salt = u64_at(&bytes, BATCH_SALT_AT);
        let continues = BatchHeader::decode(&bytes, salt, at)
            .is_some_and(|header| header.sequence == chain.next_sequence && header.previous_crc == chain.previous_crc);
        Ok(continues.then_some(salt))
    }

    fn hopeless(&self, damage: &Damage) -> RepairError {
        RepairError::Hopeless { file: self.storage.path(&damage.name), offset: damage.offset, what: damage.what.clone() }
    }

    fn end_log(&self, end: End, lost: &mut dyn FnMut(&GroupRef<'_>)) -> Result<Verdict, RepairError> {
        let End { damage, chain, number } = end;
        // Without its first segment a log has no beginning that the rest could be read from.
        let uuid = self.uuid.filter(|_| number > 1 || self.has_checkpoint).ok_or_else(|| self.hopeless(&damage))?;
        let mut loss = Loss::behind(&chain);
        for found in self.found.iter().filter(|found| found.number + 1 >= number) {
            let Ok(header) = &found.header else { continue };
            let from = if segment_name(found.number) == damage.name { damage.offset } else { 0 };
            if found.number + 1 > number || from > 0 {
                loss.read(self.storage, header, from.max(SEGMENT_HEADER_BYTES as u64), lost)?;
            }
        }
        loss.vouched(self.mark.map(|mark| mark.sequence));
        let later = self.found.iter().map(|found| found.number).filter(|&later| later > number).collect();
        Ok(Verdict::Damaged(Box::new(RepairPlan {
            damage,
            remedy: Remedy::EndLog,
            kept_revision: chain.last_revision,
            kept_stamp_ms: chain.last_stamp_ms,
            loss,
            checkpoint: None,
            action: Action::EndLog { uuid, number, chain, later },
        })))
    }
}
