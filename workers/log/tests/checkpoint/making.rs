//! Checkpoints made from the one before and sealed segments, or from memory; segments trimmed; each step interrupted.

use std::ops::ControlFlow;
use std::sync::Arc;

use kvbroker_log::{
    BaseRecords, BaseStep, CheckpointError, CheckpointPolicy, CheckpointRecord, Checkpointer, CrashChoice, DiskStorage, Fault,
    FileLog, Log, LogError, LogOptions, LogReader, MergeState, Merging, Progress, ReadEnd, SeededEntropy, SimStorage, Storage,
    SyncMode, TearDetail,
};

use crate::bench::{Model, Table, Taken, open, open_as, segment};

fn policy() -> CheckpointPolicy {
    CheckpointPolicy {
        floor_bytes: 2000,
        memory_bytes: 8 << 10,
        piece_bytes: 4000,
        history_ms: 0,
        history_bytes: 1 << 30,
        reserve_bytes: 0,
    }
}

fn checkpointer_with(disk: &SimStorage, log: &FileLog, policy: CheckpointPolicy) -> Checkpointer {
    let entropy = Box::new(SeededEntropy::new(disk.operations() ^ 0x55));
    Checkpointer::new(Arc::new(disk.clone()), log.segments(), policy, entropy)
}

fn checkpointer(disk: &SimStorage, log: &FileLog) -> Checkpointer {
    checkpointer_with(disk, log, policy())
}

fn finish(maker: &mut Checkpointer, mut merging: Merging) -> Result<(), CheckpointError> {
    let mut last = 0;
    loop {
        let Progress { percent, state, .. } = maker.advance(&mut merging, 700)?;
        assert!(percent >= last && (percent == 100) == (state == MergeState::Done));
        last = percent;
        match state {
            MergeState::Working => {}
            MergeState::Waiting => panic!("nothing is waited for"),
            MergeState::Done => return Ok(()),
        }
    }
}

fn make(maker: &mut Checkpointer) -> Result<(), CheckpointError> {
    let merging = maker.begin()?;
    finish(maker, merging)
}

fn temporaries(disk: &SimStorage) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.contains("tmp") || name.contains("run")).collect()
}

/// The revisions that a reader gives from the oldest place on.
fn history(storage: Arc<dyn Storage>, log: &FileLog) -> Vec<u64> {
    let first = LogReader::starts(&*storage).unwrap()[0];
    let mut seen = Vec::new();
    let end = LogReader::after(storage, first).unwrap().unwrap().read(&log.persisted(), &mut |group| {
        seen.push(group.revision);
        ControlFlow::Continue(())
    });
    assert_eq!(end.unwrap(), ReadEnd::Through);
    seen
}

/// The table in memory, in slices of three records, each of the time when it is asked for.
struct Slices {
    /// Which table a slice is taken from: the states that it passes through, one a slice, then the last.
    states: Vec<Table>,
    slice: Vec<(Vec<u8>, Vec<u8>, u64)>,
    at: usize,
}

impl Slices {
    fn over(mut states: Vec<Table>) -> Self {
        states.reverse();
        Self { states, slice: Vec::new(), at: 0 }
    }
}

impl BaseRecords for Slices {
    fn advance(&mut self) -> BaseStep {
        self.at += 1;
        if self.at >= self.slice.len() {
            let table = if self.states.len() > 1 { self.states.pop().unwrap() } else { self.states[0].clone() };
            let after = self.slice.last().map(|(key, ..)| key.clone()).unwrap_or_default();
            self.slice = table
                .into_iter()
                .filter(|(key, _)| *key > after)
                .take(3)
                .map(|(key, (value, revision))| (key, value, revision))
                .collect();
            self.at = 0;
        }
        if self.slice.is_empty() { BaseStep::End } else { BaseStep::Record }
    }

    fn current(&self) -> CheckpointRecord<'_> {
        let (key, value, revision) = &self.slice[self.at];
        CheckpointRecord { key, value, revision: *revision }
    }
}

#[test]
fn a_log_lives_with_checkpoints_and_restarts() {
    let disk = SimStorage::new();
    let mut model = Model::default();
    let mut made = 0;
    for life in 0..6u64 {
        let (mut log, report, taken) = open(&disk);
        assert_eq!((taken.table, report.last_revision), (model.table.clone(), model.revision));
        assert_eq!(report.checkpoint, log.segments().checkpoint());
        let mut maker = checkpointer(&disk, &log);
        for round in 0..8 {
            model.append_many(&mut log, 6 + life);
            log.seal().unwrap();
            if maker.is_due() {
                assert!(log.segments().sealed_bytes() > 16 << 10, "a segment");
                let before = model.revision;
                let mut merging = maker.begin().unwrap();
                // The log goes on meanwhile, and more is sealed.
                while maker.advance(&mut merging, 500).unwrap().state != MergeState::Done {
                    model.append(&mut log);
                    if model.revision.is_multiple_of(5) {
                        log.seal().unwrap();
                    }
                }
                made += 1;
                let checkpoint = log.segments().checkpoint().unwrap();
                assert_eq!((checkpoint.revision, checkpoint.stamp_ms), (before, before * 1000));
                assert_eq!(checkpoint.bytes, disk.contents("table.ckpt").unwrap().len() as u64);
                assert!(temporaries(&disk).is_empty());
                if round % 2 == 0 {
                    // Everything that is covered goes, for nothing is to be kept.
                    assert!(maker.trim(model.revision * 1000).unwrap() > 0);
                    assert_eq!(log.segments().list()[0].number, checkpoint.next_segment);
                    assert!(!disk.list().unwrap().contains(&segment(checkpoint.next_segment - 1)));
                    assert_eq!(
                        history(Arc::new(disk.clone()), &log),
                        (checkpoint.revision + 1..=model.revision).collect::<Vec<_>>()
                    );
                }
            }
        }
        if life % 2 == 0 {
            log.close(model.revision * 1000).unwrap();
        }
    }
    assert!(made > 10, "{made}");
}

#[test]
fn history_is_kept_by_age_and_by_size_and_only_behind_a_checkpoint_of_this_process() {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    let seal_five = |log: &mut FileLog, model: &mut Model| {
        for _ in 0..5 {
            model.append_many(log, 10);
            log.seal().unwrap();
        }
    };
    seal_five(&mut log, &mut model);
    let mut maker = checkpointer_with(&disk, &log, CheckpointPolicy { history_ms: 15_000, ..policy() });
    assert_eq!(maker.trim(u64::MAX).unwrap(), 0, "without a checkpoint nothing goes");
    make(&mut maker).unwrap();
    // Each segment holds ten seconds. The newest in the second was written at 20 s, in the third at 30 s.
    assert_eq!(maker.trim(24_999).unwrap(), 0);
    assert_eq!(maker.trim(35_000).unwrap(), 2);
    assert_eq!(log.segments().list()[0].number, 3);
    drop(log);
    // After a restart nothing proves that the checkpoint's name would survive a power failure.
    let (mut log, ..) = open(&disk);
    let mut maker = checkpointer_with(&disk, &log, CheckpointPolicy { history_ms: 15_000, ..policy() });
    assert_eq!(maker.trim(u64::MAX).unwrap(), 0);
    seal_five(&mut log, &mut model);
    make(&mut maker).unwrap();
    assert_eq!(maker.trim(35_000).unwrap(), 0);
    // Now by size.
    let history_bytes = log.segments().history_bytes() / 2;
    let mut maker = checkpointer_with(&disk, &log, CheckpointPolicy { history_ms: u64::MAX, history_bytes, ..policy() });
    model.append_many(&mut log, 10);
    log.seal().unwrap();
    make(&mut maker).unwrap();
    assert!(maker.trim(0).unwrap() >= 4);
    let kept = log.segments().history_bytes();
    assert!(kept <= history_bytes && kept > history_bytes / 2, "{kept} of {history_bytes}");
    assert_eq!(open(&disk.after_kill()).2.table, model.table);
}

/// A log with a checkpoint, history, and a good deal to take into the next one.
fn ready() -> (SimStorage, FileLog, Model, Checkpointer) {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    let mut maker = checkpointer(&disk, &log);
    for round in 0..4 {
        model.append_many(&mut log, 12);
        log.seal().unwrap();
        if round == 1 {
            make(&mut maker).unwrap();
        }
    }
    model.append_many(&mut log, 3);
    (disk, log, model, maker)
}

#[test]
fn a_crash_at_any_step_loses_nothing() {
    let (disk, mut log, mut model, mut maker) = ready();
    let mut merging = maker.begin().unwrap();
    let mut states = 0;
    let mut check = |disk: &SimStorage, model: &Model| {
        let mut found = vec![disk.after_kill()];
        found.extend(disk.crash_choices(TearDetail::Sectors).iter().map(|choice| disk.after_power_failure(choice)));
        for disk in found {
            states += 1;
            let (mut log, _, taken) = open(&disk);
            assert_eq!(taken.table, model.table);
            assert!(temporaries(&disk).is_empty());
            // It goes on from there.
            let mut model = Model { table: taken.table, revision: model.revision };
            let mut maker = checkpointer(&disk, &log);
            model.append(&mut log);
            log.seal().unwrap();
            make(&mut maker).unwrap();
            maker.trim(u64::MAX).unwrap();
            assert_eq!(open(&disk.after_power_failure(&CrashChoice::DropAll)).2.table, model.table);
        }
    };
    loop {
        let state = maker.advance(&mut merging, 1).unwrap().state;
        check(&disk, &model);
        if state == MergeState::Done {
            break;
        }
        if model.revision < 60 {
            model.append(&mut log);
        }
    }
    while maker.trim(u64::MAX).unwrap() > 0 {}
    check(&disk, &model);
    assert!(states > 100, "{states}");
}

#[test]
fn an_error_of_the_disk_at_any_operation_is_told_apart_and_loses_nothing() {
    let (disk, ..) = ready();
    let begin = disk.operations();
    let (disk, _log, _, mut maker) = ready();
    make(&mut maker).unwrap();
    maker.trim(u64::MAX).unwrap();
    let end = disk.operations();
    assert!(end - begin > 20);
    let (mut later, mut fatal) = (0, 0);
    for operation in begin..end {
        for fault in [Fault::Full, Fault::SyncFails, Fault::SyncFailsLate] {
            let (disk, mut log, mut model, mut maker) = ready();
            disk.inject(operation, fault);
            let result = make(&mut maker).and_then(|()| maker.trim(u64::MAX).map(drop));
            if disk.fault_is_waiting() {
                result.unwrap();
                continue;
            }
            match result.unwrap_err() {
                CheckpointError::Later(LogError::Full { .. }) => {
                    later += 1;
                    assert!(fault == Fault::Full && temporaries(&disk).is_empty());
                    // The log goes on, and the next one succeeds.
                    model.append(&mut log);
                    make(&mut maker).unwrap();
                }
                CheckpointError::Fatal(LogError::SyncFailed { .. }) => {
                    fatal += 1;
                    assert_ne!(fault, Fault::Full);
                }
                error => panic!("{fault:?} at {operation}: {error}"),
            }
            drop(log);
            for choice in [None, Some(CrashChoice::DropAll), Some(CrashChoice::KeepAll)] {
                let disk = choice.map_or_else(|| disk.after_kill(), |choice| disk.after_power_failure(&choice));
                let (mut log, _, taken) = open(&disk);
                assert_eq!(taken.table, model.table, "{fault:?} at {operation}");
                // What the failed sync left in the page cache proves nothing: a later life makes and trims, then the power fails.
                let mut model = Model { table: taken.table, revision: model.revision };
                let mut maker = checkpointer(&disk, &log);
                maker.trim(u64::MAX).unwrap();
                model.append_many(&mut log, 3);
                let again = open(&disk.after_power_failure(&CrashChoice::DropAll));
                assert_eq!(again.2.table, model.table, "{fault:?} at {operation}, then a power failure");
                log.seal().unwrap();
                make(&mut maker).unwrap();
                maker.trim(u64::MAX).unwrap();
                let again = open(&disk.after_power_failure(&CrashChoice::DropAll));
                assert_eq!(again.2.table, model.table, "{fault:?} at {operation}, then a checkpoint and a power failure");
            }
        }
    }
    assert!(later > 5 && fatal > 5, "{later} {fatal}");
}

#[test]
fn damaged_files_are_kept_and_the_next_checkpoint_comes_from_memory() {
    for damaged in ["table.txn.00000004".to_owned(), "table.ckpt".to_owned()] {
        let (disk, mut log, mut model, mut maker) = ready();
        let mut bytes = disk.contents(&damaged).unwrap();
        bytes[4096 + 150] ^= 1;
        disk.overwrite(&damaged, Some(bytes));
        let names = disk.list().unwrap();
        let error = make(&mut maker).unwrap_err();
        assert!(
            matches!(&error, CheckpointError::Damaged(LogError::Damaged { file, .. }) if file.ends_with(&damaged)),
            "{error}"
        );
        assert!(maker.is_damaged());
        assert_eq!(maker.trim(u64::MAX).unwrap(), 0);
        assert_eq!(disk.list().unwrap(), names, "nothing more, nothing less");
        assert!(matches!(open_as(&disk.after_kill(), SyncMode::Always), Err(LogError::Damaged { .. })));
        // The worker seals, hands out slices while it goes on, and seals again.
        log.seal().unwrap();
        let first_segment = log.segments().open_segment();
        let mut states = vec![model.table.clone()];
        for _ in 0..9 {
            model.append(&mut log);
            states.push(model.table.clone());
        }
        log.seal().unwrap();
        model.append(&mut log);
        let merging = maker.begin_from_memory(Box::new(Slices::over(states)), first_segment).unwrap();
        finish(&mut maker, merging).unwrap();
        assert!(!maker.is_damaged());
        let checkpoint = log.segments().checkpoint().unwrap();
        assert_eq!((checkpoint.revision, checkpoint.next_segment), (model.revision - 1, first_segment + 1));
        // The damaged segment is history now: kept like any other, for as long as any other.
        let copy = disk.after_power_failure(&CrashChoice::DropAll);
        let (_, report, taken) = open(&copy);
        assert_eq!((taken.table, taken.groups), (model.table.clone(), vec![model.revision]));
        assert_eq!(report.history.first_segment, Some(1));
        assert_eq!(maker.trim(u64::MAX).unwrap(), first_segment);
        assert_eq!(open(&disk.after_kill()).2.table, model.table);
    }
}

#[test]
fn a_base_that_has_nothing_yet_is_waited_for_and_one_that_is_given_up_leaves_nothing() {
    /// So many records, and then nothing ever.
    struct Never(u32, Vec<u8>);
    impl BaseRecords for Never {
        fn advance(&mut self) -> BaseStep {
            if self.1 == self.0.to_be_bytes() {
                return BaseStep::Pending;
            }
            let last = self.1.as_slice().try_into().map_or(0, u32::from_be_bytes);
            self.1 = (last + 1).to_be_bytes().to_vec();
            BaseStep::Record
        }
        fn current(&self) -> CheckpointRecord<'_> {
            CheckpointRecord { key: &self.1, value: &[7; 1000], revision: 1 }
        }
    }
    let (disk, log, model, mut maker) = ready();
    let wait = |maker: &mut Checkpointer, merging: &mut Merging| {
        while maker.advance(merging, 1000).unwrap().state != MergeState::Waiting {}
    };
    // A few records wait in memory, many in a file.
    for (records, files) in [(1, 0), (u32::try_from(maker.policy().memory_bytes / 1000 + 1).unwrap(), 1)] {
        let base = Box::new(Never(records, Vec::new()));
        let mut merging = maker.begin_from_memory(base, log.segments().open_segment()).unwrap();
        wait(&mut maker, &mut merging);
        assert_eq!(temporaries(&disk).len(), files);
        maker.give_up(merging).unwrap();
        assert!(temporaries(&disk).is_empty());
    }
    let mut merging = maker.begin().unwrap();
    maker.advance(&mut merging, 1000).unwrap();
    maker.give_up(merging).unwrap();
    assert!(temporaries(&disk).is_empty());
    assert_eq!(open(&disk.after_kill()).2.table, model.table);
}

#[test]
fn the_log_may_grow_to_four_times_what_makes_a_checkpoint_due() {
    let (disk, log, _, maker) = ready();
    let segments = log.segments();
    // The floor, a segment, or half of the checkpoint, whichever is most.
    assert_eq!(CheckpointPolicy::default().due_bytes(&segments), 64 << 20);
    assert_eq!(maker.policy().due_bytes(&segments), 16 << 10);
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 4097;
    let (small, _) = FileLog::open(Arc::new(disk.after_kill()), options, &mut Taken::default()).unwrap();
    let checkpoint = segments.checkpoint().unwrap();
    assert!(checkpoint.bytes > 10_000);
    assert_eq!(maker.policy().due_bytes(&small.segments()), checkpoint.bytes / 2);
    assert_eq!(maker.policy().log_bytes_max(&small.segments()), checkpoint.bytes / 2 * 4);
    assert_eq!(maker.log_bytes_max(), maker.policy().log_bytes_max(&segments));
    assert_eq!(segments.log_bytes(), segments.list().iter().skip(2).map(|segment| segment.bytes).sum::<u64>());
    assert_eq!(segments.sealed_bytes() + segments.list().last().unwrap().bytes, segments.log_bytes());
}

#[test]
fn on_a_real_directory() {
    let directory = tempfile::tempdir().unwrap();
    let storage = || -> Arc<dyn Storage> { Arc::new(DiskStorage::open(directory.path()).unwrap()) };
    let mut model = Model::default();
    for life in 0..3 {
        let mut taken = Taken::default();
        let mut options = LogOptions::new(SyncMode::Always);
        options.segment_bytes = 6000;
        let (mut log, report) = FileLog::open(storage(), options, &mut taken).unwrap();
        assert_eq!((taken.table, report.last_revision), (model.table.clone(), model.revision));
        let mut maker = Checkpointer::new(storage(), log.segments(), policy(), Box::new(SeededEntropy::new(life)));
        for _ in 0..3 {
            model.append_many(&mut log, 20);
            log.seal().unwrap();
            assert!(maker.is_due());
            make(&mut maker).unwrap();
        }
        assert!(maker.trim(u64::MAX).unwrap() > 0);
        model.append_many(&mut log, 2);
        assert_eq!(history(storage(), &log), [model.revision - 1, model.revision]);
        let mut names = storage().list().unwrap();
        names.retain(|name| name != "table.mark");
        assert_eq!(names, ["table.ckpt".to_owned(), segment(log.segments().open_segment())]);
    }
}
