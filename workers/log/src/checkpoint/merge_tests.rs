//! Merges of random logs against a plain map; of damaged input; with errors of the disk; whatever the slices and the memory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::batch::BatchBuilder;
use crate::checkpoint::{CHECKPOINT_FILE, RUN_PREFIX, remove_checkpoint_temporaries};
use crate::entropy::SeededEntropy;
use crate::file_log::{FileLog, LogOptions};
use crate::format::segment_name;
use crate::log::{Log, SyncMode};
use crate::payload::{Cause, GroupRef};
use crate::sim::{Fault, SimStorage};

/// Key to value and revision.
type Records = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

fn apply(records: &mut Records, group: GroupRef<'_>) {
    for record in group.records() {
        match record {
            RecordRef::Put { key, value } => records.insert(key.to_vec(), (value.to_vec(), group.revision)),
            RecordRef::Delete { key } => records.remove(key),
        };
    }
}

fn log_options(seed: u64) -> LogOptions {
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 9000;
    options.allocate_bytes = 512;
    options.entropy = Box::new(SeededEntropy::new(seed));
    options
}

/// Opens the log; the records that it holds, as a recovery sees them.
fn open(disk: &SimStorage, seed: u64) -> (FileLog, Records) {
    let mut records = Records::new();
    let (log, _) = FileLog::open(Arc::new(disk.clone()), log_options(seed), &mut |group: GroupRef<'_>| {
        apply(&mut records, group);
        Ok(())
    })
    .unwrap();
    (log, records)
}

/// A log with its disk, and what it holds.
struct Life {
    disk: SimStorage,
    dice: SeededEntropy,
    log: Option<FileLog>,
    records: Records,
    revision: u64,
    /// How many keys there are to choose from, and the longest value.
    keys: u64,
    value_bytes: u64,
}

impl Life {
    fn new(seed: u64, keys: u64, value_bytes: u64) -> Self {
        let disk = SimStorage::new();
        let (log, records) = open(&disk, seed);
        Self { disk, dice: SeededEntropy::new(seed), log: Some(log), records, revision: 0, keys, value_bytes }
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.dice.next_u64() % below.max(1)
    }

    /// Appends a batch: some groups, bookkeeping among them, that put and delete.
    fn append(&mut self) {
        let mut batch = BatchBuilder::new();
        batch.begin(self.revision);
        for _ in 0..1 + self.roll(4) {
            let cause = if self.roll(3) == 0 { Cause::Bookkeeping } else { Cause::Request };
            self.revision += u64::from(cause.takes_revision());
            batch.group(self.revision, cause, None);
            for _ in 0..self.roll(6) {
                let key = format!("t{}", self.roll(self.keys)).into_bytes();
                if self.roll(4) == 0 {
                    batch.delete(&key);
                    self.records.remove(&key);
                } else {
                    // Mostly short, sometimes as long as it gets.
                    let shift = self.roll(12);
                    let value = vec![self.roll(256) as u8; (self.roll(self.value_bytes) >> shift) as usize];
                    batch.put(&key, &value);
                    self.records.insert(key, (value, self.revision));
                }
            }
        }
        self.log.as_mut().unwrap().append(&mut batch).unwrap();
    }

    /// The process is killed and the last batch torn: the next start cuts it off and leaves its bytes where they are.
    fn tear(&mut self, seed: u64) {
        drop(self.log.take());
        let name = self.disk.list().unwrap().into_iter().rfind(|name| name.starts_with("table.txn.")).unwrap();
        let mut bytes = self.disk.contents(&name).unwrap();
        if let Some(last) = bytes[4096..].iter().rposition(|&byte| byte != 0) {
            bytes[4096 + last] ^= 0x40;
        }
        self.disk.overwrite(&name, Some(bytes));
        // Nothing may vouch for it.
        self.disk.overwrite("table.mark", None);
        let (log, records) = open(&self.disk, seed);
        self.revision = log.persisted().revision();
        (self.log, self.records) = (Some(log), records);
    }

    /// Ends the segment; gives the number of the next one.
    fn seal(&mut self) -> u64 {
        self.log.as_mut().unwrap().seal().unwrap();
        self.log.as_ref().unwrap().segments().open_segment()
    }
}

fn options(memory_bytes: usize) -> MergeOptions {
    MergeOptions { memory_bytes, piece_bytes: 3000, salt: 99 }
}

/// Runs a merge to its end in slices of `slice` bytes; also the most runs that there were at once.
fn run(merge: &mut Merge, slice: u64) -> Result<usize, MergeError> {
    let mut runs = 0;
    loop {
        match merge.advance(slice)?.state {
            MergeState::Done => return Ok(runs),
            MergeState::Working => runs = runs.max(merge.runs.len() + merge.merged.len()),
            MergeState::Waiting => panic!("it waits for nothing"),
        }
    }
}

fn merge_to(storage: &Arc<dyn Storage>, base: MergeBase, end: u64, memory: usize, slice: u64) -> Result<usize, MergeError> {
    let mut merge = Merge::new(storage.clone(), base, options(memory))?;
    merge.set_end(end);
    run(&mut merge, slice)
}

fn base_of(storage: &dyn Storage) -> MergeBase {
    MergeBase::Checkpoint(Box::new(CheckpointReader::open(storage, CHECKPOINT_FILE).unwrap()))
}

fn checkpoint(storage: &dyn Storage) -> Records {
    let mut reader = CheckpointReader::open(storage, CHECKPOINT_FILE).unwrap();
    let mut records = Records::new();
    while let Some(block) = reader.next_block().unwrap() {
        records.extend(block.records().map(|record| (record.key.to_vec(), (record.value.to_vec(), record.revision))));
    }
    records
}

fn names(disk: &SimStorage) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.starts_with(RUN_PREFIX) || name.ends_with(".tmp")).collect()
}

/// The files of `disk` without its history: what is done to them is not done to `disk`.
fn copy(disk: &SimStorage) -> (SimStorage, Arc<dyn Storage>) {
    let copy = disk.after_kill();
    (copy.clone(), Arc::new(copy))
}

#[test]
fn merges_of_random_logs_hold_what_a_replay_of_the_log_holds() {
    let (mut most_runs, mut cuts, mut deepest) = (0, 0, 0);
    for seed in 0..60 {
        let (keys, value_bytes) = [(8, 60), (300, 200), (40, 20_000), (5000, 30)][seed as usize % 4];
        let mut life = Life::new(seed, keys, value_bytes);
        let mut base = None;
        for round in 0..3 {
            for _ in 0..life.roll(60) {
                life.append();
                if life.roll(25) == 0 {
                    life.tear(seed ^ life.revision);
                    cuts += 1;
                }
            }
            let end = life.seal();
            let mut files = Vec::new();
            // Memory for all, for some, and for next to nothing, whatever the slices: always the same file.
            for (memory, slice) in [(1 << 20, u64::MAX), (6000, 5000), (500, 1)] {
                let (disk, storage) = copy(&life.disk);
                disk.overwrite(CHECKPOINT_FILE, base.clone());
                let start = if base.is_some() { base_of(&*storage) } else { MergeBase::Nothing };
                let runs = merge_to(&storage, start, end, memory, slice).unwrap();
                most_runs = most_runs.max(runs);
                deepest = deepest.max(if memory == 500 { runs } else { 0 });
                assert_eq!(checkpoint(&*storage), life.records, "seed {seed}, round {round}, memory {memory}");
                let reader = CheckpointReader::open(&*storage, CHECKPOINT_FILE).unwrap();
                assert_eq!((reader.covers().revision, reader.covers().next_segment), (life.revision, end));
                assert_eq!(names(&disk), Vec::<String>::new());
                files.push(disk.contents(CHECKPOINT_FILE));
            }
            assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
            base = files.pop().unwrap();
        }
    }
    println!("{most_runs} runs at most, {cuts} cuts");
    assert!(most_runs > 50 && cuts > 50);
}

#[test]
fn an_empty_log_and_one_whose_keys_are_all_deleted_give_an_empty_checkpoint() {
    let mut life = Life::new(1, 1, 1);
    for delete in [false, true] {
        if delete {
            let mut batch = BatchBuilder::new();
            batch.begin(1);
            batch.group(1, Cause::Request, None);
            batch.put(b"a", b"1");
            batch.delete(b"a");
            batch.group(2, Cause::Request, None);
            batch.delete(b"b");
            life.log.as_mut().unwrap().append(&mut batch).unwrap();
        }
        let end = life.seal();
        let (_, storage) = copy(&life.disk);
        merge_to(&storage, MergeBase::Nothing, end, 1000, 1).unwrap();
        assert_eq!(checkpoint(&*storage), Records::new());
        // Once more over itself, without a segment between.
        merge_to(&storage, base_of(&*storage), end, 1000, 1).unwrap();
        assert_eq!(checkpoint(&*storage), Records::new());
    }
}

/// Key, value, revision.
type Owned = (Vec<u8>, Vec<u8>, u64);

/// Records that are handed over while the merge is under way.
#[derive(Clone, Default)]
struct Slices(Arc<Mutex<(Vec<Owned>, bool)>>);

struct SliceBase {
    slices: Slices,
    next: usize,
    current: Owned,
}

impl BaseRecords for SliceBase {
    fn advance(&mut self) -> BaseStep {
        let slices = self.slices.0.lock().unwrap();
        match slices.0.get(self.next) {
            Some(record) => {
                self.current = record.clone();
                self.next += 1;
                BaseStep::Record
            }
            None if slices.1 => BaseStep::End,
            None => BaseStep::Pending,
        }
    }

    fn current(&self) -> CheckpointRecord<'_> {
        let (key, value, revision) = &self.current;
        CheckpointRecord { key, value, revision: *revision }
    }
}

#[test]
fn slices_of_a_table_that_changes_meanwhile_and_the_log_give_the_table_at_the_end() {
    for seed in 0..40 {
        let mut life = Life::new(1000 + seed, 200, 100);
        (0..40).for_each(|_| life.append());
        let first_segment = life.seal();
        let slices = Slices::default();
        let records = Box::new(SliceBase { slices: slices.clone(), next: 0, current: Default::default() });
        let storage: Arc<dyn Storage> = Arc::new(life.disk.clone());
        let mut merge = Merge::new(storage.clone(), MergeBase::Records { records, first_segment }, options(2000)).unwrap();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let slice: Vec<_> = life
                .records
                .iter()
                .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
                .take(7)
                .map(|(key, (value, revision))| (key.clone(), value.clone(), *revision))
                .collect();
            let Some(last) = slice.last() else { break };
            after = Some(last.0.clone());
            slices.0.lock().unwrap().0.extend(slice);
            assert_eq!(merge.advance(u64::MAX).unwrap().state, MergeState::Waiting);
            life.append();
        }
        slices.0.lock().unwrap().1 = true;
        assert_eq!(merge.advance(u64::MAX).unwrap().state, MergeState::Waiting);
        assert!(merge.has_base());
        life.append();
        merge.set_end(life.seal());
        run(&mut merge, 700).unwrap();
        assert_eq!(checkpoint(&*storage), life.records, "seed {seed}");
        assert_eq!(merge.done().unwrap().records, life.records.len() as u64);
        assert_eq!(names(&life.disk), Vec::<String>::new());
    }
}

/// A small log whose first part is in a checkpoint already; the first segment that the next one shall not cover, and the result.
fn small_log() -> (SimStorage, u64, Vec<u8>) {
    let mut life = Life::new(5, 20, 60);
    (0..5).for_each(|_| life.append());
    let end = life.seal();
    let storage: Arc<dyn Storage> = Arc::new(life.disk.clone());
    merge_to(&storage, MergeBase::Nothing, end, 1 << 20, u64::MAX).unwrap();
    let base = life.disk.contents(CHECKPOINT_FILE).unwrap();
    // The next segment ends with a cut, whose leftovers stay in it; the last one holds something that is not covered.
    life.disk.overwrite(CHECKPOINT_FILE, None);
    (0..6).for_each(|_| life.append());
    life.tear(7);
    (0..6).for_each(|_| life.append());
    let (end, records) = (life.seal(), life.records.clone());
    life.append();
    drop(life.log.take());
    life.disk.overwrite(CHECKPOINT_FILE, Some(base));
    let (disk, storage) = copy(&life.disk);
    merge_to(&storage, base_of(&*storage), end, 1 << 20, u64::MAX).unwrap();
    assert_eq!(checkpoint(&*storage), records);
    (life.disk, end, disk.contents(CHECKPOINT_FILE).unwrap())
}

#[test]
fn damaged_input_is_refused_with_file_and_offset_or_makes_no_difference() {
    let (disk, end, result) = small_log();
    let mut counts: BTreeMap<(String, &str, &str), u64> = BTreeMap::new();
    let files = [segment_name(2), segment_name(3), segment_name(4), CHECKPOINT_FILE.to_owned()];
    assert_eq!(end, 4);
    for name in files {
        let good = disk.contents(&name).unwrap();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 0x20;
            let mut zeroed = good.clone();
            zeroed[at..].fill(0);
            for (damage, bytes) in [("flipped", flipped), ("truncated", good[..at].to_vec()), ("zeroed from", zeroed)] {
                if bytes == good || damage != "flipped" && at % 5 != 0 {
                    continue;
                }
                let (damaged, storage) = copy(&disk);
                damaged.overwrite(&name, Some(bytes.clone()));
                let merged = CheckpointReader::open(&*storage, CHECKPOINT_FILE)
                    .map_err(MergeError::Input)
                    .and_then(|base| merge_to(&storage, MergeBase::Checkpoint(Box::new(base)), end, 600, u64::MAX));
                let verdict = match merged {
                    Ok(_) if damaged.contents(CHECKPOINT_FILE).unwrap() == result => "harmless",
                    Ok(_) => "silent",
                    Err(MergeError::Input(LogError::Damaged { file, offset, .. })) => {
                        // A segment that doesn't begin as it should may be found by the one before.
                        assert!(file == storage.path(&name), "{name} {damage} at {at}: {}", file.display());
                        assert!(offset <= at as u64, "{name} {damage} at {at}: blamed on {offset}");
                        "refused"
                    }
                    Err(error) => panic!("{name} {damage} at {at}: {error:?}"),
                };
                if verdict == "refused" {
                    let left = damaged.contents(CHECKPOINT_FILE);
                    let expected = if name == CHECKPOINT_FILE { Some(bytes) } else { disk.contents(CHECKPOINT_FILE) };
                    assert_eq!(left, expected, "a refused merge replaces nothing");
                }
                *counts.entry((name.clone(), damage, verdict)).or_default() += 1;
            }
        }
    }
    counts.iter().for_each(|(case, count)| println!("{case:?}: {count}"));
    assert!(counts.keys().all(|(_, _, verdict)| *verdict != "silent"));
    // Only what a cut left behind, and the batches that are not covered, may be anything.
    let harmless = |name: &str| counts.iter().any(|((file, _, verdict), _)| file == name && *verdict == "harmless");
    assert!(!harmless(CHECKPOINT_FILE) && harmless(&segment_name(2)) && !harmless(&segment_name(3)));
    assert!(harmless(&segment_name(4)) && counts[&(segment_name(4), "flipped", "refused")] == 4096);
}

#[test]
fn errors_of_the_disk_are_told_apart_from_bad_input_and_leave_the_old_checkpoint() {
    let (disk, end, result) = small_log();
    let old = disk.contents(CHECKPOINT_FILE).unwrap();
    for fault in [Fault::Full, Fault::SyncFails] {
        let mut struck = 0;
        for operation in 0.. {
            let (copy, storage) = copy(&disk);
            copy.inject(operation, fault);
            let merged = merge_to(&storage, base_of(&*storage), end, 600, u64::MAX);
            if copy.fault_is_waiting() {
                merged.unwrap();
                break;
            }
            struck += 1;
            match (fault, merged.unwrap_err()) {
                (Fault::Full, MergeError::Output(LogError::Full { .. })) => {}
                (Fault::SyncFails, MergeError::Output(LogError::SyncFailed { .. })) => {}
                (_, error) => panic!("{fault:?} at {operation}: {error:?}"),
            }
            let found = copy.contents(CHECKPOINT_FILE).unwrap();
            assert!(found == old || fault == Fault::SyncFails && found == result, "{fault:?} at {operation}");
            if fault == Fault::Full {
                remove_checkpoint_temporaries(&*storage).unwrap();
                assert_eq!(names(&copy), Vec::<String>::new());
                merge_to(&storage, base_of(&*storage), end, 600, 100).unwrap();
                assert_eq!(copy.contents(CHECKPOINT_FILE).unwrap(), result);
            }
        }
        println!("{fault:?} struck {struck} times");
        assert!(struck > 5);
    }
}

#[test]
fn a_checkpoint_of_another_log_and_a_log_that_does_not_continue_it_are_refused() {
    let (disk, end, _) = small_log();
    let other = Life::new(6, 20, 60).disk;
    // The segments of another log under these names.
    let (mixed, storage) = copy(&disk);
    let base = base_of(&*storage);
    for name in other.list().unwrap() {
        mixed.overwrite(&name.replace("00000001", "00000002"), other.contents(&name));
    }
    let error = merge_to(&storage, base, end, 600, u64::MAX).unwrap_err();
    assert!(matches!(error, MergeError::Input(LogError::Foreign { .. })), "{error:?}");
    // A segment is missing.
    let (holed, storage) = copy(&disk);
    holed.overwrite(&segment_name(2), None);
    let error = merge_to(&storage, base_of(&*storage), end, 600, u64::MAX).unwrap_err();
    assert!(matches!(error, MergeError::Input(LogError::Io { action: "open", .. })), "{error:?}");
    // A failed merge stays failed.
    let (_, storage) = copy(&holed);
    let mut merge = Merge::new(storage.clone(), base_of(&*storage), options(600)).unwrap();
    merge.set_end(end);
    assert!(merge.advance(1).is_err() && merge.advance(1).is_err() && merge.done().is_none());
}
