#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::batch::BatchBuilder;
use crate::entropy::SeededEntropy;
use crate::file_log::{FileLog, LogOptions};
use crate::log::{Log, SyncMode};
use crate::payload::{Cause, GroupRef};
use crate::report::RecoveryReport;
use crate::restore::{Restore, RestoreError, RestoreReport};
use crate::sim::SimStorage;

fn options(seed: u64) -> LogOptions {
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 5200;
    options.allocate_bytes = 512;
    options.entropy = Box::new(SeededEntropy::new(seed));
    options
}

type Groups = Vec<(u64, Vec<u8>)>;

fn open(disk: &SimStorage, seed: u64) -> (FileLog, Groups, RecoveryReport) {
    let mut groups = Vec::new();
    let (log, report) = FileLog::open(Arc::new(disk.clone()), options(seed), &mut |group: GroupRef<'_>| {
        groups.push((group.revision, format!("{:?}", group.records().collect::<Vec<_>>()).into_bytes()));
        Ok(())
    })
    .unwrap();
    (log, groups, report)
}

fn append(log: &mut FileLog, revisions: std::ops::RangeInclusive<u64>) {
    let mut batch = BatchBuilder::new();
    for revision in revisions {
        batch.begin(500 + revision);
        batch.group(revision, Cause::Request, None);
        batch.put(format!("key{revision}").as_bytes(), &[0xA5; 90]);
        log.append(&mut batch).unwrap();
    }
}

/// Three segments that are in service.
fn served() -> (SimStorage, FileLog) {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk, 1);
    append(&mut log, 1..=13);
    (disk, log)
}

fn back_up(disk: &SimStorage) -> Result<(SimStorage, BackupReport), BackupError> {
    let copy = SimStorage::new();
    let report = BackupSource::open(disk)?.copy(&mut StorageSink::new(&copy), &mut |_| {})?;
    Ok((copy, report))
}

/// Restores what the manifest of `copy` names, or everything if it has none.
fn restore(copy: &SimStorage) -> Result<(SimStorage, RestoreReport), RestoreError> {
    let target = SimStorage::new();
    let mut restore = Restore::new(&target, Box::new(SeededEntropy::new(9)))?;
    let mut names = copy.list().unwrap();
    names.sort_by_key(|name| name == MANIFEST_FILE);
    for name in names {
        let bytes = copy.contents(&name).unwrap();
        restore.file(&name, bytes.len() as u64, &mut &bytes[..])?;
    }
    Ok((target.clone(), restore.finish()?))
}

#[test]
fn a_log_in_service_is_copied_and_restored_as_another_log() {
    let (disk, mut log) = served();
    let (copy, report) = back_up(&disk).unwrap();
    assert_eq!((report.revision, report.files, report.stamp_ms), (13, 3, 513));
    append(&mut log, 14..=15);
    let (target, restored) = restore(&copy).unwrap();
    assert_eq!((restored.revision, restored.from), (13, log.uuid()));
    assert_ne!(restored.uuid, log.uuid());
    let (mut second, groups, report) = open(&target, 2);
    assert_eq!(groups.len(), 13);
    assert_eq!((report.uuid, report.cut, report.new_epoch), (restored.uuid, None, None));
    let epoch = report.epoch;
    assert_ne!(epoch, log.epoch());
    // It goes on, and keeps its epoch.
    append(&mut second, 14..=20);
    second.close(600).unwrap();
    let (third, groups, report) = open(&target, 3);
    assert_eq!((groups.len(), third.epoch(), report.clean_stop), (20, epoch, true));
    // A backup of the restored log is one as well.
    assert_eq!(back_up(&target).unwrap().1.revision, 20);
}

#[test]
fn the_epoch_of_a_restored_log_outlives_a_crash_of_its_first_start() {
    let (disk, log) = served();
    let (target, _) = restore(&back_up(&disk).unwrap().0).unwrap();
    let mut epochs = BTreeMap::new();
    for operation in 0..20 {
        let disk = target.after_kill();
        disk.stop_at(operation);
        let _ = FileLog::open(Arc::new(disk.clone()), options(4), &mut |_: GroupRef<'_>| Ok(()));
        let (_, groups, report) = open(&disk.after_kill(), 5);
        assert_eq!(groups.len(), 13);
        *epochs.entry(report.epoch).or_insert(0) += 1;
    }
    assert_eq!(epochs.len(), 1, "{epochs:?}");
    assert!(!epochs.contains_key(&log.epoch()));
}

#[test]
fn damage_in_the_source_is_an_error_with_its_place_and_leaves_no_manifest() {
    let (disk, _log) = served();
    for (name, good) in disk.list().unwrap().into_iter().map(|name| (name.clone(), disk.contents(&name).unwrap())) {
        for at in 0..good.len() {
            let damaged = disk.after_kill();
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            damaged.overwrite(&name, Some(bytes));
            let copy = SimStorage::new();
            let result = BackupSource::open(&damaged).and_then(|source| source.copy(&mut StorageSink::new(&copy), &mut |_| {}));
            match result {
                // A changed mark proves nothing; room behind the end and a last batch that nothing vouches for are not copied.
                Ok(report) => {
                    assert!(report.revision >= 12, "{name} at {at}");
                    let (_, groups, _) = open(&restore(&copy).unwrap().0, 6);
                    assert_eq!(groups.last().unwrap().0, report.revision);
                }
                Err(error) => {
                    assert!(matches!(error, BackupError::Source(LogError::Damaged { .. } | LogError::Foreign { .. })), "{error}");
                    assert!(copy.contents(MANIFEST_FILE).is_none());
                }
            }
        }
    }
}

#[test]
fn no_changed_or_missing_byte_of_a_backup_is_restored() {
    let (disk, _log) = served();
    let (copy, _) = back_up(&disk).unwrap();
    for name in copy.list().unwrap() {
        let good = copy.contents(&name).unwrap();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 0x04;
            let mut cases = vec![Some(flipped)];
            if at % 16 == 0 {
                cases.push(Some(good[..at].to_vec()));
            }
            if at == 0 {
                cases.push(None);
            }
            for contents in cases {
                let damaged = copy.after_kill();
                damaged.overwrite(&name, contents);
                let error = restore(&damaged).unwrap_err();
                let is_clear = matches!(
                    error,
                    RestoreError::Damaged { .. }
                        | RestoreError::Incomplete(_)
                        | RestoreError::NotABackup(_)
                        | RestoreError::Newer { .. }
                );
                assert!(is_clear, "{name} at {at}: {error}");
            }
        }
    }
}

#[test]
fn a_segment_that_comes_and_goes_meanwhile_is_no_damage() {
    let (disk, _) = served();
    assert!(matches!(BackupSource::open(&SimStorage::new()), Err(BackupError::Nothing { .. })));
    // Files that were opened stay readable whatever becomes of their names.
    let source = BackupSource::open(&disk).unwrap();
    for name in disk.list().unwrap() {
        disk.overwrite(&name, None);
    }
    let copy = SimStorage::new();
    assert_eq!(source.copy(&mut StorageSink::new(&copy), &mut |_| {}).unwrap().revision, 13);
    restore(&copy).unwrap();
}

#[test]
fn a_batch_that_is_being_written_is_not_taken_for_damage() {
    // The reader meets a half written batch; before it looks further on, that batch and the one behind it are there.
    let disk = SimStorage::new();
    let mut roomy = options(1);
    roomy.segment_bytes = 1 << 20;
    let (mut log, _) = FileLog::open(Arc::new(disk.clone()), roomy, &mut |_: GroupRef<'_>| Ok(())).unwrap();
    append(&mut log, 1..=13);
    let name = disk.list().unwrap().into_iter().rfind(|name| name.starts_with("table.txn.")).unwrap();
    let before = disk.contents(&name).unwrap();
    append(&mut log, 14..=15);
    let after = disk.contents(&name).unwrap();
    let at = (0..after.len()).find(|&at| before.get(at) != Some(&after[at])).unwrap();
    let mut half = after.clone();
    half[at..at + 40].fill(0);
    struct Racing {
        half: Vec<u8>,
        whole: Vec<u8>,
        reads: std::cell::Cell<u32>,
    }
    impl StorageFile for Racing {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let reads = self.reads.get();
            self.reads.set(reads + 1);
            let bytes = if reads < 1 { &self.half } else { &self.whole };
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            unreachable!("a backup writes nothing")
        }
        fn length(&self) -> io::Result<u64> {
            Ok(self.whole.len() as u64)
        }
        fn set_length(&self, _: u64) -> io::Result<()> {
            unreachable!("a backup writes nothing")
        }
        fn extend(&self, _: u64, _: u64) -> io::Result<()> {
            unreachable!("a backup writes nothing")
        }
        fn sync(&self) -> io::Result<()> {
            unreachable!("a backup writes nothing")
        }
    }
    let mut source = BackupSource::open(&disk).unwrap();
    let (file, _) = source.segments.last_mut().unwrap();
    *file = Box::new(Racing { half: half.clone(), whole: after, reads: 0.into() });
    assert_eq!(source.copy(&mut StorageSink::new(&SimStorage::new()), &mut |_| {}).unwrap().revision, 15);
    // If it stays so, it is damage.
    let (file, _) = source.segments.last_mut().unwrap();
    *file = Box::new(Racing { whole: half.clone(), half, reads: 0.into() });
    let error = source.copy(&mut StorageSink::new(&SimStorage::new()), &mut |_| {}).unwrap_err();
    assert!(
        matches!(&error, BackupError::Source(LogError::Damaged { offset, .. }) if *offset == at as u64 || *offset + 84 > at as u64),
        "{error}"
    );
}
