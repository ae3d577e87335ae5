#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::backup::tests::with_checkpoint;
use crate::batch::BatchBuilder;
use crate::checkpoint::CHECKPOINT_FILE;
use crate::entropy::SeededEntropy;
use crate::file_log::{FileLog, LogOptions};
use crate::log::{Log, SyncMode};
use crate::payload::RecordRef;
use crate::payload::{Cause, GroupRef};
use crate::replay::{CheckpointRecord, Replay};
use crate::report::{RecoveryReport, VisitError};
use crate::sim::{CrashChoice, SimStorage};

fn options(seed: u64) -> LogOptions {
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 5200;
    options.allocate_bytes = 512;
    options.entropy = Box::new(SeededEntropy::new(seed));
    options
}

type Groups = Vec<(u64, Vec<u8>)>;

fn open(disk: &SimStorage, seed: u64) -> Result<(FileLog, Groups, RecoveryReport), LogError> {
    let mut groups = Vec::new();
    let (log, report) = FileLog::open(Arc::new(disk.clone()), options(seed), &mut |group: GroupRef<'_>| {
        groups.push((group.revision, format!("{:?}", group.records().collect::<Vec<_>>()).into_bytes()));
        Ok(())
    })?;
    Ok((log, groups, report))
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

/// Three segments, thirteen groups, killed.
fn small_log() -> (SimStorage, u64) {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk, 1).unwrap();
    append(&mut log, 1..=13);
    (disk, log.epoch())
}

fn shared(disk: &SimStorage) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

struct KeepAll;

impl SalvageRules for KeepAll {
    fn keeps(&self, _record_key: &[u8]) -> bool {
        true
    }
    fn additions(&self, _last_stamp_ms: u64) -> Additions {
        Additions::default()
    }
}

fn find(disk: &SimStorage) -> Result<Verdict, RepairError> {
    examine(disk, &mut |_| {})
}

/// Repairs until nothing is left to repair; gives the plans.
fn repair(disk: &SimStorage) -> Result<Vec<RepairPlan>, RepairError> {
    let mut plans = Vec::new();
    while let Verdict::Damaged(plan) = find(disk)? {
        plan.apply(&shared(disk), &mut SeededEntropy::new(40 + plans.len() as u64), &KeepAll)?;
        plans.push(*plan);
        assert!(plans.len() < 10, "it goes on for ever: {plans:?}");
    }
    Ok(plans)
}

fn damages(good: &[u8], at: usize) -> Vec<Option<Vec<u8>>> {
    let mut flipped = good.to_vec();
    flipped[at] ^= 0x21;
    let mut zeroed = good.to_vec();
    zeroed[at..].fill(0);
    let mut removed = good.to_vec();
    removed.remove(at);
    let mut damages = vec![Some(flipped), Some(zeroed), Some(good[..at].to_vec()), Some(removed)];
    if at == 0 {
        damages.push(None);
    }
    damages
}

#[test]
fn damage_is_found_exactly_where_a_start_is_refused_and_then_a_start_works() {
    let (disk, epoch) = small_log();
    let (_, whole, _) = open(&disk.after_kill(), 2).unwrap();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for name in disk.list().unwrap() {
        let good = disk.contents(&name).unwrap();
        for at in 0..good.len() {
            for contents in damages(&good, at) {
                let damaged = disk.after_kill();
                damaged.overwrite(&name, contents);
                let place = format!("{name} at {at}");
                let refused = open(&damaged.after_kill(), 2).err();
                let operations = damaged.operations();
                let verdict = find(&damaged);
                assert_eq!(damaged.operations(), operations, "looking changes nothing");
                let verdict = match (refused, verdict) {
                    (None, Ok(Verdict::Sound { .. })) => "sound",
                    (Some(_), Err(RepairError::Hopeless { .. })) => "hopeless",
                    (Some(LogError::Damaged { file, .. }), Ok(Verdict::Damaged(plan))) => {
                        let found = plan.damage.name.clone();
                        assert!(file.ends_with(&found), "{place}: {} and {found}", file.display());
                        let plans = repair(&damaged).unwrap();
                        let (_, groups, report) = open(&damaged, 3).unwrap_or_else(|error| panic!("{place}: {error}"));
                        let last = plans.last().unwrap();
                        assert!(whole.starts_with(&groups), "{place}");
                        if plans.iter().all(|plan| plan.remedy == Remedy::NewHeader) {
                            assert_eq!((groups.len(), report.cut), (whole.len(), None), "{place}");
                            "nothing lost"
                        } else {
                            assert_ne!(report.epoch, epoch, "{place}");
                            assert_eq!(groups.len() as u64, last.kept_revision, "{place}");
                            // What could be read behind the damage was told.
                            let lost = whole.len() - groups.len();
                            assert!(plans.iter().map(|plan| plan.loss.groups).sum::<u64>() <= lost as u64, "{place}");
                            "given up"
                        }
                    }
                    (refused, verdict) => panic!("{place}: {refused:?}, {verdict:?}"),
                };
                *counts.entry(verdict).or_default() += 1;
            }
        }
    }
    assert!(counts.len() == 4 && counts.values().all(|&count| count > 10), "{counts:?}");
}

/// The log with a flipped byte in the payload of batch 3, which is in the first of its segments.
fn damaged_early() -> (SimStorage, u64) {
    let (disk, epoch) = small_log();
    let mut bytes = disk.contents("table.txn.00000001").unwrap();
    bytes[4096 + 84 + 200 + 84 + 30] ^= 1;
    disk.overwrite("table.txn.00000001", Some(bytes));
    (disk, epoch)
}

#[test]
fn what_would_be_lost_is_told_as_far_as_it_can_be_read() {
    let (disk, _) = damaged_early();
    let mut keys = Vec::new();
    let verdict = examine(&disk, &mut |group| keys.push(group.revision)).unwrap();
    let Verdict::Damaged(plan) = verdict else { panic!("it is damaged") };
    assert_eq!((plan.damage.name.as_str(), plan.remedy), ("table.txn.00000001", Remedy::EndLog));
    let kept = plan.kept_revision;
    assert!((1..4).contains(&kept), "{kept}");
    // One opening batch, then a batch for each group.
    assert_eq!(plan.loss.batches, Some((kept + 2, 14)));
    assert_eq!(plan.loss.readable_batches, 14 - (kept + 2));
    assert_eq!((plan.loss.revisions, plan.loss.groups, plan.loss.records), (Some((kept + 1, 13)), 12 - kept, 12 - kept));
    assert_eq!(plan.loss.stamps_ms, Some((500 + kept + 2, 513)));
    assert_eq!(keys, (kept + 2..=13).collect::<Vec<_>>());
}

#[test]
fn a_repair_that_is_stopped_anywhere_can_be_done_again_and_nothing_in_between_is_served() {
    let (disk, epoch) = damaged_early();
    let Verdict::Damaged(plan) = find(&disk).unwrap() else { panic!("it is damaged") };
    let done = disk.after_kill();
    plan.apply(&shared(&done), &mut SeededEntropy::new(7), &KeepAll).unwrap();
    let mut states = 0;
    for operation in 0..done.operations() {
        let stopped = disk.after_kill();
        stopped.stop_at(operation);
        assert!(plan.apply(&shared(&stopped), &mut SeededEntropy::new(7), &KeepAll).is_err());
        let mut disks = vec![stopped.after_kill()];
        let choices = stopped.crash_choices(crate::sim::TearDetail::Sectors);
        disks.extend(choices.iter().map(|choice| stopped.after_power_failure(choice)));
        for disk in disks {
            states += 1;
            match open(&disk.after_kill(), 8) {
                // A start that is let in has the new epoch, and what it acknowledges stays.
                Ok((mut log, groups, report)) => {
                    assert_eq!(groups.len() as u64, plan.kept_revision);
                    assert_ne!(report.epoch, epoch, "operation {operation}");
                    let revision = plan.kept_revision + 1;
                    append(&mut log, revision..=revision);
                }
                Err(LogError::Damaged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            repair(&disk).unwrap();
            let (mut log, groups, report) = open(&disk, 9).unwrap();
            assert_eq!(groups.len() as u64, plan.kept_revision);
            assert_ne!(report.epoch, epoch);
            let revision = plan.kept_revision + 1;
            append(&mut log, revision..=revision);
            drop(log);
            let disk = disk.after_power_failure(&CrashChoice::DropAll);
            let (_, groups, again) = open(&disk, 10).unwrap();
            assert_eq!((groups.len() as u64, again.epoch), (revision, report.epoch), "operation {operation}");
        }
    }
    assert!(states > 20, "{states}");
}

#[test]
fn a_sound_log_is_left_alone_also_with_a_torn_tail() {
    let (disk, _) = small_log();
    assert!(matches!(find(&disk), Ok(Verdict::Sound { revision: 13, torn: None })));
    let name = "table.txn.00000003";
    let mut bytes = disk.contents(name).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[end] ^= 1;
    disk.overwrite(name, Some(bytes));
    let Ok(Verdict::Sound { torn: Some(cut), .. }) = find(&disk) else { panic!("a start would cut it") };
    assert_eq!(cut.offset + cut.bytes, end as u64 + 1);
    assert!(matches!(find(&SimStorage::new()), Ok(Verdict::Sound { revision: 0, torn: None })));
}

/// The keys of a log with a checkpoint.
#[derive(Default)]
struct Keys(BTreeMap<Vec<u8>, u64>);

impl Replay for Keys {
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        self.0.insert(record.key.to_vec(), record.revision);
        Ok(())
    }
    fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
        Ok(())
    }
    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        for record in group.records() {
            if let RecordRef::Put { key, .. } = record {
                self.0.insert(key.to_vec(), group.revision);
            }
        }
        Ok(())
    }
}

fn open_keys(disk: &SimStorage, seed: u64) -> Result<(BTreeMap<Vec<u8>, u64>, RecoveryReport), LogError> {
    let mut keys = Keys::default();
    let (_, report) = FileLog::open(Arc::new(disk.clone()), options(seed), &mut keys)?;
    Ok((keys.0, report))
}

fn flipped(disk: &SimStorage, name: &str, at: usize) -> SimStorage {
    let disk = disk.after_kill();
    let mut bytes = disk.contents(name).unwrap();
    bytes[at] ^= 0x11;
    disk.overwrite(name, Some(bytes));
    disk
}

#[test]
fn of_a_damaged_checkpoint_the_readable_records_are_kept() {
    let (disk, log) = with_checkpoint();
    let (whole, _) = open_keys(&disk.after_kill(), 2).unwrap();
    assert_eq!(whole.len(), 13);
    for at in 4096..disk.contents(CHECKPOINT_FILE).unwrap().len() {
        let damaged = flipped(&disk, CHECKPOINT_FILE, at);
        assert!(matches!(open_keys(&damaged.after_kill(), 2), Err(LogError::Damaged { .. })), "{at}");
        let plans = repair(&damaged).unwrap();
        let [plan] = &plans[..] else { panic!("{at}: {plans:?}") };
        assert_eq!((plan.remedy, plan.damage.name.as_str()), (Remedy::SalvageCheckpoint, CHECKPOINT_FILE));
        let remains = plan.checkpoint.as_ref().unwrap();
        let gap = &remains.told[0];
        assert!(remains.gaps == 1 && (gap.offset..gap.offset + gap.bytes).contains(&(at as u64)), "{at}: {gap:?}");
        let (keys, report) = open_keys(&damaged, 3).unwrap();
        assert_ne!(report.epoch, log.epoch());
        assert_eq!(report.checkpoint.unwrap().records, remains.records);
        // Every key that is gone lies in the gap.
        for key in whole.keys().filter(|key| !keys.contains_key(*key)) {
            assert!(gap.after.as_ref().is_none_or(|after| after < key) && gap.before.as_ref().is_none_or(|before| key < before));
        }
        assert!(keys.iter().all(|(key, revision)| whole[key] == *revision));
    }
}

type Change<'a> = dyn Fn(&mut [u8]) + 'a;

/// The same disk with these bytes of the checkpoint changed.
fn with_bytes(disk: &SimStorage, change: impl FnOnce(&mut [u8])) -> SimStorage {
    let disk = disk.after_kill();
    let mut bytes = disk.contents(CHECKPOINT_FILE).unwrap();
    change(&mut bytes);
    disk.overwrite(CHECKPOINT_FILE, Some(bytes));
    disk
}

#[test]
fn a_bad_header_of_a_checkpoint_costs_nothing() {
    let (disk, log) = with_checkpoint();
    let (whole, before) = open_keys(&disk.after_kill(), 2).unwrap();
    let good = disk.contents(CHECKPOINT_FILE).unwrap();
    let mut repaired = 0;
    for at in 0..4096 {
        let damages: [&Change<'_>; 4] =
            [&|bytes| bytes[at] ^= 0x01, &|bytes| bytes[at] ^= 0xff, &|bytes| bytes[at] = 0, &|bytes| bytes[at..4096].fill(0)];
        for damage in damages {
            let damaged = with_bytes(&disk, damage);
            if damaged.contents(CHECKPOINT_FILE).unwrap() == good {
                continue;
            }
            assert!(matches!(open_keys(&damaged.after_kill(), 2), Err(LogError::Damaged { offset: 0, .. })), "{at}");
            let plans = repair(&damaged).unwrap();
            let [plan] = &plans[..] else { panic!("{at}: {plans:?}") };
            assert_eq!((plan.remedy, plan.damage.offset, plan.damage.name.as_str()), (Remedy::NewHeader, 0, CHECKPOINT_FILE));
            assert_eq!((plan.kept_revision, plan.checkpoint.as_ref(), plan.loss), (13, None, Loss::default()));
            let (keys, report) = open_keys(&damaged, 3).unwrap();
            assert_eq!((&keys, report.epoch, report.last_revision), (&whole, log.epoch(), 13), "{at}");
            assert_eq!((report.uuid, report.last_stamp_ms), (before.uuid, before.last_stamp_ms), "{at}");
            // All but the salt, and what covers that, is what was written.
            let remade = damaged.contents(CHECKPOINT_FILE).unwrap();
            assert_eq!((remade.len(), &remade[..32], &remade[40..4092]), (good.len(), &good[..32], &good[40..4092]), "{at}");
            repaired += 1;
        }
    }
    assert!(repaired > 8_192, "{repaired}");
    // The page is gone and whatever stood there belongs to nobody.
    let damaged = with_bytes(&disk, |bytes| bytes[..4096].fill(0xee));
    repair(&damaged).unwrap();
    assert_eq!(open_keys(&damaged, 3).unwrap().0, whole);
}

#[test]
fn without_its_header_a_checkpoint_is_salvaged_by_its_end_and_without_both_not_at_all() {
    let (disk, log) = with_checkpoint();
    let (whole, _) = open_keys(&disk.after_kill(), 2).unwrap();
    let length = disk.contents(CHECKPOINT_FILE).unwrap().len();
    let end = length - (44 + 76);
    for at in 4096..length {
        let damaged = with_bytes(&disk, |bytes| {
            bytes[50] ^= 1;
            bytes[at] ^= 0x11;
        });
        if at >= end {
            let operations = damaged.operations();
            assert!(matches!(find(&damaged), Err(RepairError::Hopeless { offset: 0, .. })), "{at}");
            assert_eq!(damaged.operations(), operations);
            continue;
        }
        let plans = repair(&damaged).unwrap();
        let [plan] = &plans[..] else { panic!("{at}: {plans:?}") };
        assert_eq!((plan.remedy, plan.damage.offset), (Remedy::SalvageCheckpoint, 0), "{at}");
        let remains = plan.checkpoint.as_ref().unwrap();
        assert!(remains.gaps == 1 && (remains.told[0].offset..end as u64).contains(&(at as u64)), "{at}: {remains:?}");
        let (keys, report) = open_keys(&damaged, 3).unwrap();
        assert!(report.epoch != log.epoch() && report.checkpoint.unwrap().records == remains.records, "{at}");
        assert!(keys.len() < whole.len() && keys.iter().all(|(key, revision)| whole[key] == *revision), "{at}");
    }
    // A log that is damaged behind it is ended first, and keeps no start from being refused until the header is there again.
    let damaged = with_bytes(&flipped(&disk, "table.txn.00000003", 4200), |bytes| bytes[50] ^= 1);
    let remedies: Vec<_> = repair(&damaged).unwrap().iter().map(|plan| plan.remedy).collect();
    assert_eq!(remedies, [Remedy::EndLog, Remedy::NewHeader]);
    open_keys(&damaged, 3).unwrap();
    // Bytes too many, or too few: the end is not where it says.
    for length in [length - 1, length + 1] {
        let damaged = with_bytes(&disk, |bytes| bytes[50] ^= 1);
        let mut bytes = damaged.contents(CHECKPOINT_FILE).unwrap();
        bytes.resize(length, 0);
        damaged.overwrite(CHECKPOINT_FILE, Some(bytes));
        assert!(matches!(find(&damaged), Err(RepairError::Hopeless { .. })));
    }
}

/// Drops key2, and adds records before, between, in the place of, and behind those that are kept.
struct Rules;

const ADDED: [&str; 4] = ["a", "key1", "key15", "z"];

impl SalvageRules for Rules {
    fn keeps(&self, record_key: &[u8]) -> bool {
        record_key != b"key2"
    }
    fn additions(&self, last_stamp_ms: u64) -> Additions {
        let record = |key: &str| (key.as_bytes().to_vec(), last_stamp_ms.to_le_bytes().to_vec());
        Additions { records: ADDED.map(record).to_vec(), stamp_ms: last_stamp_ms + 1_000 }
    }
}

#[test]
fn a_salvaged_checkpoint_is_what_the_rules_make_of_it() {
    let (disk, _log) = with_checkpoint();
    let (whole, before) = open_keys(&disk.after_kill(), 2).unwrap();
    assert!(whole.contains_key(&b"key2"[..]));
    // The end block: no record is lost.
    let at = disk.contents(CHECKPOINT_FILE).unwrap().len() - 1;
    let damaged = flipped(&disk, CHECKPOINT_FILE, at);
    let Ok(Verdict::Damaged(plan)) = find(&damaged) else { panic!("it is damaged") };
    plan.apply(&shared(&damaged), &mut SeededEntropy::new(7), &Rules).unwrap();
    let (keys, report) = open_keys(&damaged.after_kill(), 3).unwrap();
    let checkpoint = report.checkpoint.unwrap();
    let mut wanted = whole.clone();
    wanted.remove(&b"key2"[..]);
    wanted.extend(ADDED.map(|key| (key.as_bytes().to_vec(), checkpoint.revision)));
    assert_eq!(keys, wanted);
    // What is added knows of the log behind the checkpoint, and time goes on where it was told to.
    let mut reader = crate::checkpoint::CheckpointReader::open(&damaged, CHECKPOINT_FILE).unwrap();
    let block = reader.next_block().unwrap().unwrap();
    let added = block.records().next().unwrap();
    assert_eq!((added.key, added.value), (&b"a"[..], &plan.kept_stamp_ms.to_le_bytes()[..]));
    assert!(plan.kept_stamp_ms >= before.last_stamp_ms && report.last_stamp_ms >= plan.kept_stamp_ms + 1_000);
}

#[test]
fn a_log_that_is_all_there_needs_no_checkpoint() {
    let (disk, log) = with_checkpoint();
    let first = small_log().0.contents("table.txn.00000001").unwrap();
    disk.overwrite("table.txn.00000001", Some(first));
    for at in [0, 50, 4100, 4200] {
        let damaged = flipped(&disk, CHECKPOINT_FILE, at);
        let plans = repair(&damaged).unwrap();
        assert_eq!(plans.iter().map(|plan| plan.remedy).collect::<Vec<_>>(), [Remedy::RemoveCheckpoint]);
        let (keys, report) = open_keys(&damaged, 3).unwrap();
        assert_eq!((keys.len(), report.epoch, report.checkpoint), (13, log.epoch(), None));
    }
    // With a damaged log as well, one is repaired after the other.
    let damaged = flipped(&flipped(&disk, CHECKPOINT_FILE, 4200), "table.txn.00000003", 4200);
    let remedies: Vec<_> = repair(&damaged).unwrap().iter().map(|plan| plan.remedy).collect();
    assert_eq!(remedies, [Remedy::RemoveCheckpoint, Remedy::EndLog]);
    open_keys(&damaged, 3).unwrap();
}

#[test]
fn damage_behind_a_checkpoint_is_found_where_a_start_is_refused() {
    let (disk, _log) = with_checkpoint();
    for name in ["table.txn.00000002", "table.txn.00000003", "table.mark"] {
        let good = disk.contents(name).unwrap();
        for at in 0..good.len() {
            for contents in damages(&good, at) {
                let damaged = disk.after_kill();
                damaged.overwrite(name, contents);
                match (open_keys(&damaged.after_kill(), 2), find(&damaged)) {
                    (Ok(_), Ok(Verdict::Sound { .. })) => {}
                    (Err(LogError::Damaged { .. }), Ok(Verdict::Damaged(_))) => {
                        repair(&damaged).unwrap();
                        open_keys(&damaged, 3).unwrap();
                    }
                    (start, verdict) => panic!("{name} at {at}: {:?}, {verdict:?}", start.err()),
                }
            }
        }
    }
}

#[test]
fn a_new_header_for_a_checkpoint_that_is_stopped_anywhere_can_be_made_again() {
    let (whole_disk, log) = with_checkpoint();
    let (whole, _) = open_keys(&whole_disk.after_kill(), 2).unwrap();
    let disk = flipped(&whole_disk, CHECKPOINT_FILE, 50);
    let Verdict::Damaged(plan) = find(&disk).unwrap() else { panic!("it is damaged") };
    let done = disk.after_kill();
    plan.apply(&shared(&done), &mut SeededEntropy::new(7), &KeepAll).unwrap();
    let (mut refused, mut served) = (0, 0);
    for operation in 0..done.operations() {
        let stopped = disk.after_kill();
        stopped.stop_at(operation);
        assert!(plan.apply(&shared(&stopped), &mut SeededEntropy::new(7), &KeepAll).is_err());
        let mut disks = vec![stopped.after_kill()];
        let choices = stopped.crash_choices(crate::sim::TearDetail::Sectors);
        disks.extend(choices.iter().map(|choice| stopped.after_power_failure(choice)));
        for disk in disks {
            match open_keys(&disk.after_kill(), 8) {
                Ok((keys, report)) => {
                    assert!(keys == whole && report.epoch == log.epoch());
                    served += 1;
                }
                Err(LogError::Damaged { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            repair(&disk).unwrap();
            let (keys, report) = open_keys(&disk, 9).unwrap();
            assert!(keys == whole && report.epoch == log.epoch());
        }
    }
    assert!(refused > 10 && served > 0, "{refused} refused, {served} served");
}

#[test]
fn a_salvage_that_is_stopped_anywhere_can_be_done_again() {
    let (disk, log) = with_checkpoint();
    let disk = flipped(&disk, CHECKPOINT_FILE, 4500);
    let Verdict::Damaged(plan) = find(&disk).unwrap() else { panic!("it is damaged") };
    let done = disk.after_kill();
    plan.apply(&shared(&done), &mut SeededEntropy::new(7), &KeepAll).unwrap();
    let (kept, _) = open_keys(&done.after_kill(), 8).unwrap();
    for operation in 0..done.operations() {
        let stopped = disk.after_kill();
        stopped.stop_at(operation);
        assert!(plan.apply(&shared(&stopped), &mut SeededEntropy::new(7), &KeepAll).is_err());
        let mut disks = vec![stopped.after_kill()];
        let choices = stopped.crash_choices(crate::sim::TearDetail::Sectors);
        disks.extend(choices.iter().map(|choice| stopped.after_power_failure(choice)));
        for disk in disks {
            match open_keys(&disk.after_kill(), 8) {
                Ok((keys, report)) => assert!(keys == kept && report.epoch != log.epoch()),
                Err(LogError::Damaged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            repair(&disk).unwrap();
            let (keys, report) = open_keys(&disk, 9).unwrap();
            assert!(keys == kept && report.epoch != log.epoch());
        }
    }
}
