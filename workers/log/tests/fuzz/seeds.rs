//! Where fuzzing starts: real data directories, the kept ones of released formats and a small one with several segments.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvbroker_log::{
    BatchBuilder, CHECKPOINT_FILE, Cause, CheckpointRecord, CheckpointWriter, Covers, FileLog, FinishStep, Log, LogOptions,
    SeededEntropy, SessionRef, SimStorage, Storage, SyncMode,
};

use super::log::{make_checkpoint, pack_directory};

/// Directories of `tests/data`.
fn kept() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let list = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    };
    let mut kept: Vec<PathBuf> = list(&data).iter().flat_map(|format| list(format)).collect();
    kept.sort();
    assert!(!kept.is_empty(), "there are data directories of released formats");
    kept
}

/// Inputs of `log::log`.
pub fn directories() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = kept()
        .iter()
        .map(|directory| {
            let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
                .unwrap()
                .map(|entry| entry.unwrap())
                .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
                .filter(|(name, _)| name.starts_with("table."))
                .collect();
            files.sort();
            pack_directory(0, files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])))
        })
        .collect();
    for (close, checkpoint) in [(true, false), (false, false), (true, true), (false, true)] {
        let disk = small_log(close, checkpoint);
        let names = disk.list().unwrap();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), disk.contents(name).unwrap())).collect();
        seeds.push(pack_directory(0, files.iter().map(|(name, bytes)| (*name, &bytes[..]))));
    }
    seeds
}

/// Inputs of `checkpoint::checkpoint`: one with a block of its own for a large record, and one without a record.
pub fn checkpoints() -> Vec<Vec<u8>> {
    let made = |records: u32| {
        let disk = SimStorage::new();
        let mut writer = CheckpointWriter::create(Arc::new(disk.clone()), 77, 1 << 20).unwrap();
        for index in 0..records {
            let value = vec![index as u8; if index == 2 { 70_000 } else { 30 }];
            let key = format!("t{index:03}").into_bytes();
            writer.put(CheckpointRecord { key: &key, value: &value, revision: u64::from(index) + 1 }).unwrap();
        }
        let covers = Covers {
            uuid: uuid::Uuid::from_bytes([7; 16]),
            next_segment: 3,
            next_sequence: 40,
            revision: 90,
            stamp_ms: 1000,
            previous_crc: 5,
        };
        let mut finishing = writer.finish(covers);
        while finishing.step() != FinishStep::Done {
            finishing.advance(1 << 20).unwrap();
        }
        [vec![0], disk.contents(CHECKPOINT_FILE).unwrap()].concat()
    };
    let small = |disk: SimStorage| [vec![0], disk.contents(CHECKPOINT_FILE).unwrap()].concat();
    vec![small(small_log(true, true)), made(0), made(2), made(5)]
}

/// Three segments with batches of all kinds; with a checkpoint, that and the segments behind it, one of history before it.
fn small_log(close: bool, checkpoint: bool) -> SimStorage {
    let disk = SimStorage::new();
    let mut options = LogOptions::new(SyncMode::Always);
    options.segment_bytes = 5000;
    options.allocate_bytes = 256;
    options.entropy = Box::new(SeededEntropy::new(5));
    let (mut log, _) = FileLog::open(Arc::new(disk.clone()), options, &mut |_: kvbroker_log::GroupRef<'_>| Ok(())).unwrap();
    let mut batch = BatchBuilder::new();
    for revision in 1..=8u64 {
        batch.begin(revision * 10);
        batch.group(revision, Cause::Request, Some(SessionRef { id: [7; 16], sequence: revision }));
        batch.put(format!("tkey{}", revision % 3).as_bytes(), &[revision as u8; 60]);
        batch.delete(b"tgone");
        batch.group(revision, Cause::Bookkeeping, None);
        batch.put(b"wreply", b"value");
        log.append(&mut batch).unwrap();
        if checkpoint && revision == 6 {
            make_checkpoint(&disk, &mut log);
            disk.overwrite("table.txn.00000001", None);
        }
    }
    log.mark(100).unwrap();
    if close {
        log.close(100).unwrap();
    }
    disk
}
