//! What a fuzzer's input is made into, and what must hold for each.
//!
//! - An input is a whole data directory: a byte of [`Mend`] flags, then files, each as kind (1), length (4), bytes.
//! - Nothing panics, whatever the bytes are. A refusal changes nothing. What opens, opens again the same, takes a batch, keeps it, and
//!   is the same once more after a checkpoint was made of it.
//! - A mutated byte would never get behind a checksum, so the flags let the input ask for its checksums, and for the numbers that
//!   chain batches and blocks, to be made right after the mutation.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use kvbroker_log::{
    BatchBuilder, CHECKPOINT_FILE, Cause, CheckpointReader, CheckpointRecord, FileLog, GroupRef, Log, LogError, LogOptions,
    LogReader, Merge, MergeBase, MergeOptions, MergeState, RecordRef, RecoveryReport, Replay, SeededEntropy, SimStorage, Storage,
    SyncMode, VisitError,
};

use super::mend::{Mend, mend_checkpoint, mend_mark, mend_segment};

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Became {
    /// Not opened; nothing was changed.
    Refused,
    /// Opened, all of it read.
    Opened,
    /// Opened, and a cut was reported.
    Cut,
}

/// Kinds of files in an input; what is beyond counts from the first again.
const KINDS: u8 = 5;
/// Flag beside those of [`Mend`]: the marks are left out, so that more passes for a torn tail.
const WITHOUT_MARKS: u8 = 8;
const SEGMENT: u8 = 0;
const MARK: u8 = 1;
const SEGMENT_TEMPORARY: u8 = 2;
const NEXT_SEGMENT_BUT_ONE: u8 = 3;
const CHECKPOINT: u8 = 4;

/// Makes an input of files; the opposite of what the target does.
pub fn pack_directory<'a>(flags: u8, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut input = vec![flags];
    for (name, bytes) in files {
        input.push(match name {
            "table.mark" => MARK,
            "table.txn.tmp" => SEGMENT_TEMPORARY,
            CHECKPOINT_FILE => CHECKPOINT,
            _ => SEGMENT,
        });
        input.extend_from_slice(&u32::try_from(bytes.len()).expect("seeds are small").to_le_bytes());
        input.extend_from_slice(bytes);
    }
    input
}

fn unpack_directory(input: &[u8]) -> SimStorage {
    let disk = SimStorage::new();
    let Some((&flags, mut rest)) = input.split_first() else { return disk };
    let mend = Mend::from_byte(flags);
    let (mut number, mut chain) = (0u64, None);
    while let Some((&[kind, a, b, c, d], after)) = rest.split_first_chunk() {
        let length = (u32::from_le_bytes([a, b, c, d]) as usize).min(after.len());
        let (bytes, after) = after.split_at(length);
        let mut bytes = bytes.to_vec();
        let name = match kind % KINDS {
            MARK if flags & WITHOUT_MARKS != 0 => {
                rest = after;
                continue;
            }
            MARK => {
                mend_mark(&mut bytes, mend);
                "table.mark".to_owned()
            }
            SEGMENT_TEMPORARY => "table.txn.tmp".to_owned(),
            CHECKPOINT => {
                mend_checkpoint(&mut bytes, mend);
                CHECKPOINT_FILE.to_owned()
            }
            kind => {
                number += match (number, bytes.get(48)) {
                    // The log may begin later than with its first segment.
                    (0, Some(own @ 1..)) => u64::from(*own),
                    _ if kind == NEXT_SEGMENT_BUT_ONE => 2,
                    _ => 1,
                };
                chain = mend_segment(&mut bytes, mend, number, chain);
                format!("table.txn.{number:08}")
            }
        };
        disk.overwrite(&name, Some(bytes));
        rest = after;
    }
    disk
}

fn options(seed: u64) -> LogOptions {
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 32 << 10;
    options.allocate_bytes = 0;
    options.entropy = Box::new(SeededEntropy::new(seed));
    options
}

/// What a start gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Given {
    /// Record key to value and revision.
    table: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    /// Groups behind the checkpoint.
    groups: Vec<Group>,
}

/// Revision, cause, and the records as text.
type Group = (u64, Cause, String);

fn group_of(group: &GroupRef<'_>) -> Group {
    (group.revision, group.cause, format!("{:?}", group.records().collect::<Vec<_>>()))
}

impl Replay for Given {
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        let last = self.table.last_key_value().map(|(key, _)| &key[..]);
        assert!(last.is_none_or(|last| last < record.key), "the records of a checkpoint ascend");
        self.table.insert(record.key.to_vec(), (record.value.to_vec(), record.revision));
        Ok(())
    }

    fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
        Ok(())
    }

    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        self.groups.push(group_of(&group));
        for record in group.records() {
            match record {
                RecordRef::Put { key, value } => drop(self.table.insert(key.to_vec(), (value.to_vec(), group.revision))),
                RecordRef::Delete { key } => drop(self.table.remove(key)),
            }
        }
        Ok(())
    }
}

fn open(disk: &SimStorage, seed: u64) -> Result<(FileLog, Given, RecoveryReport), LogError> {
    let mut given = Given::default();
    let (log, report) = FileLog::open(Arc::new(disk.clone()), options(seed), &mut given)?;
    Ok((log, given, report))
}

/// Makes a checkpoint of everything.
pub fn make_checkpoint(disk: &SimStorage, log: &mut FileLog) {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    log.seal().expect("an opened log can be sealed");
    let base = match CheckpointReader::open_if_there(disk, CHECKPOINT_FILE).expect("it was just read") {
        Some(reader) => MergeBase::Checkpoint(Box::new(reader)),
        None => MergeBase::Nothing,
    };
    // So little memory that there are sorted runs.
    let options = MergeOptions { memory_bytes: 4096, piece_bytes: 1 << 20, salt: 7 };
    let mut merge = Merge::new(storage, base, options).expect("what was replayed can be merged");
    merge.set_end(log.segments().open_segment());
    while merge.advance(1 << 16).expect("what was replayed can be merged").state != MergeState::Done {}
}

/// The data directory that a process finds, whoever wrote it.
///
/// # Panics
/// If a rule is broken.
pub fn log(input: &[u8]) -> Became {
    let disk = unpack_directory(input);
    let contents = |disk: &SimStorage| -> Vec<_> {
        disk.list().expect("it runs").into_iter().map(|name| (disk.contents(&name), name)).collect()
    };
    let before = contents(&disk);
    let (log, given, first) = match open(&disk, 1) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(matches!(error.exit_code(), 11 | 13), "the disk gave no reason for this: {error}");
            assert_eq!(contents(&disk), before, "a refusal changed something: {error}");
            return Became::Refused;
        }
    };
    let proof = log.persisted();
    drop(log);
    // What recovery gave, a reader of the log gives as well.
    let covered = first.last_revision - given.groups.iter().filter(|(_, cause, _)| cause.takes_revision()).count() as u64;
    let mut again = Vec::new();
    let reader = LogReader::after(Arc::new(disk.clone()), covered).expect("the segments were just read");
    if let Some(mut reader) = reader {
        reader
            .read(&proof, &mut |group| {
                again.push(group_of(&group));
                ControlFlow::Continue(())
            })
            .expect("what was replayed can be read back");
        let with_revision: Vec<Group> = given.groups.iter().filter(|(_, cause, _)| cause.takes_revision()).cloned().collect();
        assert_eq!(again, with_revision);
    }
    // Opening it is a fixed point, and it goes on.
    let (mut log, same, second) = open(&disk, 2).expect("what was opened can be opened again");
    assert_eq!(same, given);
    assert_eq!((second.uuid, second.epoch, &second.cut), (first.uuid, first.epoch, &None));
    if first.last_revision < u64::MAX - 1 {
        let mut batch = BatchBuilder::new();
        batch.begin(first.last_stamp_ms);
        batch.group(first.last_revision + 1, Cause::Request, None);
        batch.put(b"key", b"value");
        log.append(&mut batch).expect("an opened log takes a batch");
        drop(log);
        let (mut log, longer, _) = open(&disk, 3).expect("what was opened can be opened again");
        assert_eq!((&longer.groups[..given.groups.len()], longer.groups.len()), (&given.groups[..], given.groups.len() + 1));
        make_checkpoint(&disk, &mut log);
        drop(log);
        let (_, covered, _) = open(&disk, 4).expect("what was opened can be opened again");
        assert_eq!((covered.table, covered.groups), (longer.table, Vec::new()));
    }
    if first.cut.is_some() { Became::Cut } else { Became::Opened }
}
