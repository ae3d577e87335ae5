//! Errors of the disk while the log serves: nothing acknowledged, out of service for good, nothing lost at the next start.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use kvbroker_log::{
    BatchBuilder, Cause, CrashChoice, Fault, FileLog, GroupRef, Log, LogError, LogOptions, MemoryLog, SimStorage, SyncMode,
};

fn batch(revision: u64) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    batch.begin(revision);
    batch.group(revision, Cause::Request, None);
    batch.put(b"key", &revision.to_le_bytes());
    batch
}

fn open(disk: &SimStorage) -> (FileLog, u64) {
    let (log, report) =
        FileLog::open(Arc::new(disk.clone()), LogOptions::new(SyncMode::Always), &mut |_: GroupRef<'_>| Ok(())).unwrap();
    (log, report.last_revision)
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_is_never_tried_again() {
    let disk = SimStorage::new();
    let (mut log, _) = open(&disk);
    log.append(&mut batch(1)).unwrap();
    disk.inject(disk.operations(), Fault::SyncFails);
    let error = log.append(&mut batch(2)).unwrap_err();
    assert!(matches!(error, LogError::SyncFailed { .. }), "{error}");
    assert_eq!(error.exit_code(), 12);
    let operations = disk.operations();
    assert!(matches!(log.append(&mut batch(3)), Err(LogError::OutOfService(why)) if why.contains("sync")));
    assert!(log.mark(9).is_err() && log.tick(9).is_err() && log.close(9).is_err());
    assert_eq!(disk.operations(), operations, "not even a sync");
    // The power fails before the next start: the batch was never acknowledged and is gone.
    drop(log);
    assert_eq!(open(&disk.after_power_failure(&CrashChoice::KeepAll)).1, 1);
    // Or the next start comes first: it reads the batch, makes it durable, and then it stays.
    let disk = disk.after_kill();
    assert_eq!(open(&disk).1, 2);
    assert_eq!(open(&disk.after_power_failure(&CrashChoice::DropAll)).1, 2);
}

#[test]
fn a_full_disk_is_named_and_the_next_start_has_everything_acknowledged() {
    let disk = SimStorage::new();
    let (mut log, _) = open(&disk);
    log.append(&mut batch(1)).unwrap();
    disk.inject(disk.operations(), Fault::Full);
    let error = log.append(&mut batch(2)).unwrap_err();
    assert!(matches!(&error, LogError::Full { .. }) && error.exit_code() == 12, "{error}");
    assert!(error.to_string().contains("table.txn.00000001"), "{error}");
    drop(log);
    let (mut log, last_revision) = open(&disk.after_kill());
    assert_eq!(last_revision, 1);
    assert_eq!(log.append(&mut batch(2)).unwrap().revision(), 2);
}

#[test]
fn the_twin_in_memory_accepts_and_refuses_alike() {
    let disk = SimStorage::new();
    let mut logs: [Box<dyn Log>; 2] = [Box::new(open(&disk).0), Box::new(MemoryLog::new())];
    for log in &mut logs {
        assert!(!log.needs_marker());
        assert_eq!(log.append(&mut batch(1)).unwrap().revision(), 1);
        assert!(log.needs_marker());
        log.mark(5).unwrap();
        assert!(!log.needs_marker());
        let mut empty = BatchBuilder::new();
        empty.begin(0);
        assert_eq!(log.append(&mut empty).unwrap(), log.persisted());
        let mut early = batch(2);
        assert!(matches!(log.append(&mut early), Err(LogError::BadBatch(why)) if why.contains("stamp")));
        assert!(matches!(log.append(&mut batch(9)), Err(LogError::OutOfService(_))));
    }
    let mut memory = MemoryLog::new();
    memory.fail_after(1);
    memory.append(&mut batch(1)).unwrap();
    assert!(matches!(memory.append(&mut batch(2)), Err(LogError::Full { .. })));
    let mut revisions = Vec::new();
    memory.replay(&mut |group| revisions.push(group.revision));
    assert_eq!(revisions, [1]);
    let mut memory = MemoryLog::new();
    assert!(matches!(memory.append(&mut batch(2)), Err(LogError::BadBatch(why)) if why.contains("revision 1")));
}
