#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::batch::BatchBuilder;
use crate::checkpoint::{CheckpointWriter, Covers};
use crate::entropy::SeededEntropy;
use crate::file_log::{FileLog, LogOptions};
use crate::log::{Log, SyncMode};
use crate::payload::{Cause, GroupRef};
use crate::replay::CheckpointRecord;
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
    let copied = |half: &[u8], whole: &[u8]| {
        let mut source = BackupSource::open(&disk).unwrap();
        let racing = Racing { half: half.to_vec(), whole: whole.to_vec(), reads: 0.into() };
        source.segments.last_mut().unwrap().0 = Box::new(racing);
        source.copy(&mut StorageSink::new(&SimStorage::new()), &mut |_| {})
    };
    assert_eq!(copied(&half, &after).unwrap().revision, 15);
    // If it stays so, it is damage.
    let error = copied(&half, &half).unwrap_err();
    let BackupError::Source(LogError::Damaged { offset, .. }) = error else { panic!("{error}") };
    assert!((offset..offset + 84).contains(&(at as u64)), "{offset}");
}

/// A log of which the first two segments are in a checkpoint, and the first was removed.
pub(crate) fn with_checkpoint() -> (SimStorage, FileLog) {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk, 1);
    append(&mut log, 1..=13);
    let header = open_segment(&disk, 3).unwrap().1;
    let mut writer = CheckpointWriter::create(Arc::new(disk.clone()), 77, 1 << 20).unwrap();
    let mut keys: Vec<_> = (1..=header.base_revision).map(|revision| (format!("key{revision}"), revision)).collect();
    keys.sort();
    for (key, revision) in &keys {
        writer.put(CheckpointRecord { key: key.as_bytes(), value: &[0xA5; 90], revision: *revision }).unwrap();
    }
    writer
        .finish(Covers {
            uuid: header.uuid,
            next_segment: 3,
            next_sequence: header.first_sequence,
            revision: header.base_revision,
            stamp_ms: header.stamp_ms,
            previous_crc: header.previous_crc,
        })
        .run()
        .unwrap();
    disk.remove(&segment_name(1)).unwrap();
    disk.sync_directory().unwrap();
    (disk, log)
}

#[test]
fn a_checkpoint_comes_along_and_what_it_covers_stays_behind() {
    let (disk, _log) = with_checkpoint();
    let (copy, report) = back_up(&disk).unwrap();
    assert_eq!((report.revision, report.files), (13, 2));
    assert_eq!(copy.contents(CHECKPOINT_FILE), disk.contents(CHECKPOINT_FILE));
    let (target, restored) = restore(&copy).unwrap();
    let reader = CheckpointReader::open(&target, CHECKPOINT_FILE).unwrap();
    assert_eq!((reader.covers().uuid, reader.covers().next_segment), (restored.uuid, 3));
    assert_eq!(back_up(&target).unwrap().1.revision, 13);
    let mut again = CheckpointReader::open_without_header(&target, CHECKPOINT_FILE).unwrap().unwrap();
    assert_eq!(again.header(), reader.header(), "both ends of it have the new name");
    while again.next_block().unwrap().is_some() {}
}

#[test]
fn no_changed_byte_of_a_checkpoint_is_copied_or_restored() {
    let (disk, _log) = with_checkpoint();
    let (copy, _) = back_up(&disk).unwrap();
    for at in 0..copy.contents(CHECKPOINT_FILE).unwrap().len() {
        let flip = |disk: &SimStorage| {
            let disk = disk.after_kill();
            let mut bytes = disk.contents(CHECKPOINT_FILE).unwrap();
            bytes[at] ^= 0x20;
            disk.overwrite(CHECKPOINT_FILE, Some(bytes));
            disk
        };
        let error = back_up(&flip(&disk)).unwrap_err();
        assert!(matches!(error, BackupError::Source(LogError::Damaged { .. })), "{at}: {error}");
        let error = restore(&flip(&copy)).unwrap_err();
        assert!(matches!(&error, RestoreError::Damaged { name, .. } if name == CHECKPOINT_FILE), "{at}: {error}");
    }
}

/// What another process does between two steps of the copy.
struct Meddling {
    disk: SimStorage,
    steps: std::sync::Mutex<u32>,
    meddle: fn(&SimStorage, u32),
}

impl Storage for Meddling {
    fn list(&self) -> io::Result<Vec<String>> {
        self.step();
        self.disk.list()
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.step();
        self.disk.open(name)
    }
    fn open_past_cache(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.disk.open_past_cache(name)
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        unreachable!("a backup doesn't make {name}")
    }
    fn rename(&self, from: &str, _: &str) -> io::Result<()> {
        unreachable!("a backup doesn't rename {from}")
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        unreachable!("a backup doesn't remove {name}")
    }
    fn sync_directory(&self) -> io::Result<()> {
        unreachable!("a backup doesn't sync its source")
    }
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.disk.path(name)
    }
}

impl Meddling {
    fn step(&self) {
        let mut steps = self.steps.lock().unwrap();
        *steps += 1;
        (self.meddle)(&self.disk, *steps);
    }
}

#[test]
fn a_checkpoint_that_is_published_meanwhile_makes_the_copy_begin_again() {
    for moment in 1..=8 {
        // The directory goes from a log without to one with a checkpoint at every moment in turn.
        static MOMENT: std::sync::Mutex<u32> = std::sync::Mutex::new(0);
        *MOMENT.lock().unwrap() = moment;
        let (disk, _log) = served();
        let meddle = |disk: &SimStorage, step: u32| {
            if step == *MOMENT.lock().unwrap() {
                let (later, _) = with_checkpoint();
                for name in ["table.ckpt", "table.txn.00000001"] {
                    disk.overwrite(name, later.contents(name));
                }
            }
        };
        let storage = Meddling { disk, steps: 0.into(), meddle };
        let copy = SimStorage::new();
        let report = BackupSource::open(&storage).unwrap().copy(&mut StorageSink::new(&copy), &mut |_| {}).unwrap();
        assert_eq!(report.revision, 13, "at {moment}");
        restore(&copy).unwrap();
    }
}
