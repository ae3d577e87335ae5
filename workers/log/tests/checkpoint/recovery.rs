//! Starts from a checkpoint: what is read, what is refused, what is only history.

use std::ops::ControlFlow;
use std::sync::Arc;

use kvbroker_log::{
    CheckpointRecord, CrashChoice, EpochReason, FileLog, GroupRef, Log, LogError, LogReader, ReadEnd, Replay, SimStorage,
    Storage, SyncMode, VisitError,
};

use crate::bench::{Model, Table, covers, log_with_checkpoint, open, open_as, options, publish, segment};

fn refusal(disk: &SimStorage) -> LogError {
    open_as(disk, SyncMode::Always).unwrap_err()
}

/// The revisions that a reader gives from the oldest place on.
fn history(disk: &SimStorage, log: &FileLog) -> Result<Vec<u64>, LogError> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let first = LogReader::starts(&*storage)?[0];
    if first > 0 {
        assert!(LogReader::after(storage.clone(), first - 1)?.is_none(), "older than what is kept");
    }
    let mut reader = LogReader::after(storage, first)?.unwrap();
    let mut seen = Vec::new();
    let end = reader.read(&log.persisted(), &mut |group| {
        seen.push(group.revision);
        ControlFlow::Continue(())
    })?;
    assert_eq!(end, ReadEnd::Through);
    Ok(seen)
}

#[test]
fn a_start_reads_the_checkpoint_and_only_what_is_behind_it() {
    let (disk, log, mut model) = log_with_checkpoint();
    let epoch = log.epoch();
    drop(log);
    // With all of the history, with some, and with none.
    for removed in 0..=3 {
        if removed > 0 {
            disk.overwrite(&segment(removed), None);
        }
        let (mut log, report, taken) = open(&disk);
        assert_eq!(taken.table, model.table);
        assert_eq!((taken.checkpoint, taken.groups), (Some(30), (31..=model.revision).collect()));
        let checkpoint = report.checkpoint.unwrap();
        assert_eq!((checkpoint.next_segment, checkpoint.revision, checkpoint.stamp_ms), (4, 30, 30_000));
        assert_eq!(checkpoint.bytes, disk.contents("table.ckpt").unwrap().len() as u64);
        assert_eq!((report.segments, report.epoch, report.new_epoch, report.cut), (2, epoch, None, None));
        assert_eq!(report.history.first_segment, (removed < 3).then_some(removed + 1));
        assert_eq!(report.history.bytes > 0, removed < 3);
        let segments = log.segments();
        assert_eq!(segments.checkpoint(), Some(checkpoint));
        assert_eq!(
            segments.list().iter().map(|segment| segment.number).collect::<Vec<_>>(),
            (removed + 1..=5).collect::<Vec<_>>()
        );
        assert_eq!(segments.history_bytes(), report.history.bytes);
        assert_eq!(history(&disk, &log).unwrap(), (removed * 10 + 1..=model.revision).collect::<Vec<_>>());
        model.append(&mut log);
    }
}

#[test]
fn a_closure_that_takes_groups_refuses_a_checkpoint_and_changes_nothing() {
    let (disk, log, _) = log_with_checkpoint();
    drop(log);
    let operations = disk.operations();
    let error = FileLog::open(Arc::new(disk.clone()), options(SyncMode::Always, 1), &mut |_: GroupRef<'_>| Ok(())).unwrap_err();
    assert!(matches!(&error, LogError::Refused { file, .. } if file.ends_with("table.ckpt")), "{error}");
    assert_eq!(disk.operations(), operations);
}

#[test]
fn missing_or_foreign_pieces_are_named() {
    let (disk, log, mut model) = log_with_checkpoint();
    drop(log);
    let damaged = |disk: &SimStorage, name: &str, says: &str| {
        let operations = disk.operations();
        let error = refusal(disk);
        assert!(matches!(&error, LogError::Damaged { file, .. } if file.ends_with(name)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(disk.operations(), operations, "nothing was changed");
    };
    // The checkpoint is gone, and so is the segment that the log would begin with.
    let copy = disk.after_kill();
    copy.overwrite("table.ckpt", None);
    copy.overwrite(&segment(1), None);
    damaged(&copy, &segment(1), "there is no table.ckpt");
    // The checkpoint is gone, the log is whole.
    let copy = disk.after_kill();
    copy.overwrite("table.ckpt", None);
    assert_eq!(open(&copy).2.table, model.table);
    // The segment that goes on behind the checkpoint is gone; or all are.
    let copy = disk.after_kill();
    copy.overwrite(&segment(4), None);
    damaged(&copy, &segment(4), "the checkpoint goes only up to the missing one");
    (1..=5).for_each(|number| copy.overwrite(&segment(number), None));
    damaged(&copy, &segment(4), "table.ckpt goes only up to it");
    let copy = disk.after_kill();
    copy.overwrite(&segment(5), None);
    damaged(&copy, &segment(4), "table.mark says");
    // An older checkpoint came back: fine with its segments, refused without them.
    let older = disk.contents("table.ckpt");
    let (mut log, ..) = open(&disk);
    model.append_many(&mut log, 3);
    log.seal().unwrap();
    model.append(&mut log);
    drop(log);
    let table = open(&disk).2.table;
    publish(&disk, &table, covers(&disk, 6));
    let copy = disk.after_kill();
    copy.overwrite("table.ckpt", older);
    assert_eq!(open(&copy).2.table, model.table);
    let copy = copy.after_kill();
    (1..=4).for_each(|number| copy.overwrite(&segment(number), None));
    damaged(&copy, &segment(4), "the checkpoint goes only up to the missing one");
    // A newer checkpoint beside older segments.
    let (young, log, _) = log_with_checkpoint();
    drop(log);
    young.overwrite("table.ckpt", disk.contents("table.ckpt"));
    damaged(&young, &segment(6), "goes only up to it");
    // One that doesn't fit the segments although the numbers do.
    let copy = disk.after_kill();
    publish(&copy, &table, kvbroker_log::Covers { previous_crc: 1, ..covers(&disk, 6) });
    damaged(&copy, &segment(6), "doesn't go on where the checkpoint ends");
    // One of another log.
    let copy = disk.after_kill();
    publish(&copy, &table, kvbroker_log::Covers { uuid: uuid::Uuid::from_bytes([9; 16]), ..covers(&disk, 6) });
    assert!(matches!(refusal(&copy), LogError::Foreign { path, .. } if path.ends_with("table.ckpt")));
}

#[test]
fn history_that_is_of_no_use_is_reported_and_stops_nobody() {
    let (disk, log, model) = log_with_checkpoint();
    drop(log);
    // A removal that came back: 1 is there, 2 is not.
    let copy = disk.after_kill();
    copy.overwrite(&segment(2), None);
    let (log, report, taken) = open(&copy);
    assert_eq!((taken.table, report.history.first_segment), (model.table.clone(), Some(3)));
    assert_eq!(log.segments().leftovers().iter().map(|leftover| leftover.number).collect::<Vec<_>>(), [1]);
    assert_eq!(history(&copy, &log).unwrap(), (21..=45).collect::<Vec<_>>());
    drop(log);
    // A header that can't be read.
    let copy = disk.after_kill();
    let mut bytes = disk.contents(&segment(2)).unwrap();
    bytes[60] ^= 1;
    copy.overwrite(&segment(2), Some(bytes));
    let (log, report, _) = open(&copy);
    assert_eq!((report.history.first_segment, report.history.unreadable.len()), (Some(3), 1));
    assert!(report.history.unreadable[0].0.ends_with(segment(2)));
    assert_eq!(log.segments().leftovers().iter().map(|leftover| leftover.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(history(&copy, &log).unwrap(), (21..=45).collect::<Vec<_>>());
    // The same in a segment that is needed is damage.
    let copy = disk.after_kill();
    let mut bytes = disk.contents(&segment(4)).unwrap();
    bytes[60] ^= 1;
    copy.overwrite(&segment(4), Some(bytes));
    assert!(matches!(refusal(&copy), LogError::Damaged { .. }));
}

#[test]
fn an_empty_segment_behind_the_checkpoint_tells_whether_writes_may_be_gone() {
    for (mode, loses) in [(SyncMode::Always, false), (SyncMode::Never, true)] {
        let disk = SimStorage::new();
        let (mut log, first, _) = open_as(&disk, mode).unwrap();
        let mut model = Model::default();
        model.append_many(&mut log, 20);
        log.seal().unwrap();
        publish(&disk, &model.table, covers(&disk, 2));
        let table = model.table.clone();
        disk.overwrite(&segment(1), None);
        if loses {
            model.append_many(&mut log, 3);
        }
        drop(log);
        let disk = disk.after_power_failure(&CrashChoice::DropAll);
        let (mut log, report, taken) = open(&disk);
        assert_eq!((taken.table, report.last_revision, report.segments), (table.clone(), 20, 0));
        assert_eq!(report.new_epoch, loses.then_some(EpochReason::UncleanStop { never_synced: true }));
        assert_eq!((report.epoch != first.epoch, report.uuid), (loses, first.uuid));
        let mut model = Model { table, revision: 20 };
        model.append(&mut log);
        drop(log);
        let (_, again, taken) = open(&disk.after_power_failure(&CrashChoice::DropAll));
        assert_eq!((taken.table, again.epoch, again.new_epoch), (model.table, report.epoch, None));
    }
}

#[test]
fn what_an_unfinished_checkpoint_left_is_removed() {
    let (disk, log, model) = log_with_checkpoint();
    drop(log);
    for name in ["table.ckpt.tmp", "table.run.00000001", "table.run.00000017", "table.txn.tmp"] {
        disk.overwrite(name, Some(b"unfinished".to_vec()));
    }
    assert_eq!(open(&disk).2.table, model.table);
    let names = disk.list().unwrap();
    assert!(names.iter().all(|name| !name.contains("tmp") && !name.contains("run")), "{names:?}");
}

#[test]
fn a_reader_tells_removed_segments_from_missing_ones() {
    let (disk, log, _) = log_with_checkpoint();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let reader = || LogReader::after(storage.clone(), 0).unwrap().unwrap();
    let (mut removed, mut missing) = (reader(), reader());
    disk.overwrite(&segment(3), None);
    let read = |reader: &mut LogReader| {
        let mut seen = Vec::new();
        let end = reader.read(&log.persisted(), &mut |group| {
            seen.push(group.revision);
            ControlFlow::Continue(())
        });
        (end, seen)
    };
    let (end, seen) = read(&mut missing);
    assert!(matches!(end, Err(LogError::Damaged { .. })) && seen.len() == 20, "{end:?}");
    disk.overwrite(&segment(1), None);
    disk.overwrite(&segment(2), None);
    let (end, seen) = read(&mut removed);
    assert!(matches!(end, Ok(ReadEnd::Gone)) && seen.len() == 10, "{end:?}");
    assert_eq!(LogReader::starts(&*storage).unwrap(), [30, 40]);
    assert!(LogReader::after(storage, 0).unwrap().is_none());
}

#[test]
fn a_large_checkpoint_is_read_whole_and_damage_or_a_refusal_in_it_ends_the_start() {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    model.append_many(&mut log, 3);
    log.seal().unwrap();
    drop(log);
    // Long enough for a thread of its own.
    let table: Table = (0..3000u32).map(|number| (format!("t{number:06}").into_bytes(), (vec![number as u8; 1000], 1))).collect();
    publish(&disk, &table, covers(&disk, 2));
    assert!(open(&disk.after_kill()).2.table == table);
    let bytes = disk.contents("table.ckpt").unwrap();
    for at in [5000, bytes.len() / 2, bytes.len() - 2000, bytes.len() - 10] {
        let copy = disk.after_kill();
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        copy.overwrite("table.ckpt", Some(bytes));
        assert!(matches!(refusal(&copy), LogError::Damaged { file, .. } if file.ends_with("table.ckpt")));
    }
    struct Refuses(u32);
    impl Replay for Refuses {
        fn record(&mut self, _record: CheckpointRecord<'_>) -> Result<(), VisitError> {
            self.0 += 1;
            if self.0 == 700 { Err("enough".into()) } else { Ok(()) }
        }
        fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
            panic!("it was refused before")
        }
        fn group(&mut self, _group: GroupRef<'_>) -> Result<(), VisitError> {
            panic!("it was refused before")
        }
    }
    let error = FileLog::open(Arc::new(disk.clone()), options(SyncMode::Always, 1), &mut Refuses(0)).unwrap_err();
    assert!(matches!(&error, LogError::Refused { offset, .. } if *offset > 600_000), "{error}");
}
