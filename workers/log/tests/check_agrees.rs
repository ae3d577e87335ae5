//! `inspect::check` says of a damaged directory what a start of the log makes of it: compared at every byte of a small log with a checkpoint.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::Arc;

use kvbroker_log::inspect::{self, Examiner, Found, Gravity, Overview, SegmentEnd};
use kvbroker_log::{
    BatchBuilder, Cause, CheckpointPolicy, CheckpointRecord, Checkpointer, FileLog, GroupRef, Log, LogOptions, MergeState,
    Replay, SeededEntropy, SimStorage, Storage, SyncMode, VisitError,
};

fn options(seed: u64) -> LogOptions {
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 5200;
    options.allocate_bytes = 512;
    options.entropy = Box::new(SeededEntropy::new(seed));
    options
}

/// Counts what it is given.
#[derive(Default)]
struct Count {
    records: u64,
    groups: u64,
    past: u64,
}

impl Replay for Count {
    fn record(&mut self, _record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        self.records += 1;
        Ok(())
    }

    fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
        Ok(())
    }

    fn group(&mut self, _group: GroupRef<'_>) -> Result<(), VisitError> {
        self.groups += 1;
        Ok(())
    }
}

impl Examiner for Count {
    fn past_group(&mut self, _group: GroupRef<'_>) -> Result<(), VisitError> {
        self.past += 1;
        Ok(())
    }

    fn progress(&mut self, _file: &str, _bytes: u64) {}
}

/// A checkpoint, segments that it covers and segments behind it; closed in order if asked for.
fn life(is_closed: bool) -> SimStorage {
    let disk = SimStorage::new();
    let (mut log, _) = FileLog::open(Arc::new(disk.clone()), options(1), &mut |_: GroupRef<'_>| Ok(())).unwrap();
    let mut batch = BatchBuilder::new();
    for revision in 1..=16u64 {
        batch.begin(500 + revision);
        batch.group(revision, Cause::Request, None);
        batch.put(format!("key{}", revision % 5).as_bytes(), &[revision as u8; 90]);
        log.append(&mut batch).unwrap();
        if revision == 11 {
            log.seal().unwrap();
            let policy = CheckpointPolicy { history_ms: 5, ..CheckpointPolicy::default() };
            let entropy = Box::new(SeededEntropy::new(3));
            let mut maker = Checkpointer::new(Arc::new(disk.clone()), log.segments(), policy, entropy);
            let mut merging = maker.begin().unwrap();
            while maker.advance(&mut merging, 1 << 20).unwrap().state != MergeState::Done {}
            maker.trim(511).unwrap();
        }
    }
    if is_closed {
        log.close(600).unwrap();
    }
    disk
}

/// What the check says must be what the start does.
fn compare(disk: &SimStorage, what: &str) -> Option<Gravity> {
    let found = inspect::check(disk, false, &mut Count::default()).unwrap();
    let gravity = found.gravity();
    let opened = FileLog::open(Arc::new(disk.after_kill()), options(2), &mut Count::default());
    let agrees = match &opened {
        Err(error) if error.exit_code() == 13 => gravity == Some(Gravity::Newer),
        Err(_) => gravity == Some(Gravity::Damage),
        Ok((_, report)) if report.cut.is_some() => matches!(gravity, Some(Gravity::TornTail | Gravity::History)),
        Ok((_, report)) if !report.history.unreadable.is_empty() => gravity == Some(Gravity::History),
        Ok(_) => matches!(gravity, None | Some(Gravity::Note | Gravity::History)),
    };
    let opened = opened.map(|(_, report)| report);
    assert!(agrees, "{what}: the check says {:?}, the start {opened:?}", found.findings);
    gravity
}

#[test]
fn a_whole_directory_is_read_whole() {
    let disk = life(true);
    let mut count = Count::default();
    let report = inspect::check(&disk, false, &mut count).unwrap();
    assert!(report.findings.is_empty() && report.is_whole && report.is_clean_stop, "{:?}", report.findings);
    assert_eq!((count.records, count.groups, report.last_revision), (5, 5, 16));
    assert!(count.past > 0 && report.checkpoint.is_some() && report.segments.iter().any(|segment| segment.is_history));
    let overview = Overview::of(&disk, &inspect::list_files(&disk).unwrap());
    assert!(overview.troubles.is_empty() && !overview.last_is_damaged);
    assert_eq!((overview.reached(), overview.first_behind()), ((16, report.last_stamp_ms), 4));
    let checkpoint = overview.checkpoint.unwrap();
    let whole = report.checkpoint.unwrap();
    assert_eq!(checkpoint.totals, Some((whole.records, whole.record_bytes, whole.digest)));
    assert_eq!(checkpoint.bytes, whole.file_bytes);
}

#[test]
fn flips_cuts_and_removals_mean_the_same_to_the_check_and_to_a_start() {
    let mut seen = std::collections::BTreeMap::<Option<Gravity>, u32>::new();
    for is_closed in [true, false] {
        let disk = life(is_closed);
        let names: Vec<String> = disk.list().unwrap().into_iter().filter(|name| name.starts_with("table.")).collect();
        for name in &names {
            let bytes = disk.open(name).unwrap().length().unwrap();
            for at in 0..bytes {
                // Of a header's reserved bytes one says it all.
                if name != "table.mark" && (140..4092).contains(&at) {
                    continue;
                }
                let copy = disk.after_kill();
                let file = copy.open(name).unwrap();
                let mut byte = [0];
                file.read_at(&mut byte, at).unwrap();
                file.write_at(&[byte[0] ^ 0x11], at).unwrap();
                *seen.entry(compare(&copy, &format!("{name} flipped at {at}"))).or_default() += 1;
                if at % 7 == 0 {
                    let copy = disk.after_kill();
                    copy.open(name).unwrap().set_length(at).unwrap();
                    *seen.entry(compare(&copy, &format!("{name} cut at {at}"))).or_default() += 1;
                }
            }
            let copy = disk.after_kill();
            copy.remove(name).unwrap();
            compare(&copy, &format!("{name} removed"));
        }
    }
    for gravity in [None, Some(Gravity::Note), Some(Gravity::TornTail), Some(Gravity::History), Some(Gravity::Damage)] {
        assert!(seen.contains_key(&gravity), "{gravity:?} in {seen:?}");
    }
}

#[test]
fn behind_a_batch_that_cannot_be_read_reading_goes_on() {
    let disk = life(true);
    let numbers: Vec<u64> = inspect::list_files(&disk).unwrap().iter().filter_map(inspect::DataFile::number).collect();
    let number = numbers[0];
    let next = inspect::SegmentFacts::read(&disk, numbers[1]).unwrap().first_sequence;
    let read = |disk: &SimStorage| {
        let (mut batches, mut damages) = (Vec::new(), Vec::new());
        let read = inspect::read_segment(disk, number, Some(next), &mut |found| {
            match found {
                Found::Batch(batch) => batches.push((batch.sequence, batch.offset, batch.bytes)),
                Found::Damage { offset, resumes, .. } => damages.push((offset, resumes)),
            }
            ControlFlow::Continue(())
        });
        (read.unwrap(), batches, damages)
    };
    let (whole, batches, damages) = read(&disk);
    assert!(batches.len() > 3 && damages.is_empty() && whole.end == SegmentEnd::Next, "{batches:?} {whole:?}");
    for (index, &(_, offset, bytes)) in batches[..batches.len() - 1].iter().enumerate() {
        for at in [offset, offset + bytes - 1] {
            let copy = disk.after_kill();
            let file = copy.open(&format!("table.txn.{number:08}")).unwrap();
            let mut byte = [0];
            file.read_at(&mut byte, at).unwrap();
            file.write_at(&[!byte[0]], at).unwrap();
            let (damaged, rest, found) = read(&copy);
            let mut expected = batches.clone();
            expected.remove(index);
            assert_eq!((rest, found), (expected, vec![(offset, Some(offset + bytes))]));
            assert_eq!((damaged.end, damaged.last_revision, damaged.damages), (SegmentEnd::Next, whole.last_revision, 1));
        }
    }
}
