//! A log whose contents are known, on a simulated disk, and checkpoints of it made by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvbroker_log::{
    BatchBuilder, Cause, CheckpointRecord, CheckpointWriter, Covers, FileLog, GroupRef, Log, LogError, LogOptions, RecordRef,
    RecoveryReport, Replay, SeededEntropy, SimStorage, SyncMode, VisitError,
};

/// Records by key: value and revision.
pub type Table = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

/// Takes a log as the broker does.
#[derive(Debug, Default)]
pub struct Taken {
    pub table: Table,
    pub checkpoint: Option<u64>,
    pub groups: Vec<u64>,
}

pub fn apply(table: &mut Table, group: &GroupRef<'_>) {
    for record in group.records() {
        match record {
            RecordRef::Put { key, value } => drop(table.insert(key.to_vec(), (value.to_vec(), group.revision))),
            RecordRef::Delete { key } => drop(table.remove(key)),
        }
    }
}

impl Replay for Taken {
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        assert_eq!(self.checkpoint, None);
        assert!(self.table.last_key_value().is_none_or(|(key, _)| key.as_slice() < record.key), "ascending");
        self.table.insert(record.key.to_vec(), (record.value.to_vec(), record.revision));
        Ok(())
    }

    fn checkpoint_read(&mut self, revision: u64) -> Result<(), VisitError> {
        assert!(self.groups.is_empty());
        self.checkpoint = Some(revision);
        Ok(())
    }

    fn group(&mut self, group: GroupRef<'_>) -> Result<(), VisitError> {
        apply(&mut self.table, &group);
        self.groups.push(group.revision);
        Ok(())
    }
}

pub fn options(mode: SyncMode, seed: u64) -> LogOptions {
    let mut options = LogOptions::new(mode);
    options.segment_bytes = 16 << 10;
    options.allocate_bytes = 512;
    options.entropy = Box::new(SeededEntropy::new(seed));
    options
}

pub fn open_as(disk: &SimStorage, mode: SyncMode) -> Result<(FileLog, RecoveryReport, Taken), LogError> {
    let mut taken = Taken::default();
    let (log, report) = FileLog::open(Arc::new(disk.clone()), options(mode, disk.operations() + 7), &mut taken)?;
    Ok((log, report, taken))
}

pub fn open(disk: &SimStorage) -> (FileLog, RecoveryReport, Taken) {
    open_as(disk, SyncMode::Always).unwrap()
}

/// What a log should hold, kept beside it.
#[derive(Debug, Default)]
pub struct Model {
    pub table: Table,
    pub revision: u64,
}

impl Model {
    /// Appends a group that puts and deletes a few of forty keys.
    pub fn append(&mut self, log: &mut FileLog) {
        self.revision += 1;
        let revision = self.revision;
        let mut batch = BatchBuilder::new();
        batch.begin(revision * 1000);
        batch.group(revision, Cause::Request, None);
        for step in 0..3u64 {
            let key = format!("tkey{:02}", (revision * 7 + step * 11) % 40).into_bytes();
            if (revision + step).is_multiple_of(4) {
                batch.delete(&key);
                self.table.remove(&key);
            } else {
                let value = vec![revision as u8; (revision * 13 % 300) as usize];
                batch.put(&key, &value);
                self.table.insert(key, (value, revision));
            }
        }
        log.append(&mut batch).unwrap();
    }

    pub fn append_many(&mut self, log: &mut FileLog, groups: u64) {
        (0..groups).for_each(|_| self.append(log));
    }
}

pub fn segment(number: u64) -> String {
    format!("table.txn.{number:08}")
}

/// What a checkpoint covers that ends before segment `next_segment`, as that segment's header says.
pub fn covers(disk: &SimStorage, next_segment: u64) -> Covers {
    let bytes = disk.contents(&segment(next_segment)).unwrap();
    let at = |offset: usize| u64::from_le_bytes(*bytes[offset..].first_chunk().unwrap());
    Covers {
        uuid: uuid::Uuid::from_bytes(*bytes[16..].first_chunk().unwrap()),
        next_segment,
        next_sequence: at(56),
        revision: at(64),
        stamp_ms: at(72),
        previous_crc: u32::from_le_bytes(*bytes[80..].first_chunk().unwrap()),
    }
}

/// Makes a checkpoint of `table` by hand.
pub fn publish(disk: &SimStorage, table: &Table, covers: Covers) {
    let mut writer = CheckpointWriter::create(Arc::new(disk.clone()), 99, 1024).unwrap();
    for (key, (value, revision)) in table {
        writer.put(CheckpointRecord { key, value, revision: *revision }).unwrap();
    }
    writer.finish(covers).run().unwrap();
}

/// Four sealed segments, a checkpoint of the first three made by hand, and an open fifth one. The log is still in service.
pub fn log_with_checkpoint() -> (SimStorage, FileLog, Model) {
    let disk = SimStorage::new();
    let (mut log, ..) = open(&disk);
    let mut model = Model::default();
    for sealed in 1..=4 {
        model.append_many(&mut log, 10);
        log.seal().unwrap();
        if sealed == 3 {
            publish(&disk, &model.table, covers(&disk, 4));
        }
    }
    model.append_many(&mut log, 5);
    (disk, log, model)
}
