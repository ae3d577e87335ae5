//! Where the time of reading a checkpoint goes: `checkpoint_load DIRECTORY [RECORDS]`.
//!
//! Makes a log with a checkpoint of records with a 15-byte key and a 64-byte value in the directory, unless there is one already. Then
//! reads it in several ways, from the disk and from the page cache. On a busy machine the time that this thread computed tells more
//! than the time on the wall.

use std::error::Error;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_log::{
    BaseRecords, BaseStep, BatchBuilder, CHECKPOINT_FILE, Cause, CheckpointReader, CheckpointRecord, DiskStorage, FileLog,
    GroupRef, Log, LogOptions, Merge, MergeBase, MergeOptions, MergeState, Replay, Storage, SyncMode, VisitError,
};

type Outcome = Result<(), Box<dyn Error>>;

/// Records in order, made as they are asked for.
struct Numbered {
    next: u64,
    end: u64,
    key: Vec<u8>,
}

impl BaseRecords for Numbered {
    fn advance(&mut self) -> BaseStep {
        if self.next == self.end {
            return BaseStep::End;
        }
        self.key = format!("tkey{:012}", self.next).into_bytes();
        self.next += 1;
        BaseStep::Record
    }

    fn current(&self) -> CheckpointRecord<'_> {
        CheckpointRecord { key: &self.key, value: &[7; 64], revision: 0 }
    }
}

/// Stands for the table: a box for each key and each value, in one array.
#[derive(Default)]
struct Table(Vec<Entry>);

type Entry = (Box<[u8]>, Box<[u8]>, u64);

impl Table {
    fn take(&mut self, record: CheckpointRecord<'_>) {
        self.0.push((record.key.into(), record.value.into(), record.revision));
    }
}

impl Replay for Table {
    fn record(&mut self, record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        self.take(record);
        Ok(())
    }

    fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
        Ok(())
    }

    fn group(&mut self, _group: GroupRef<'_>) -> Result<(), VisitError> {
        Ok(())
    }
}

fn make(storage: &Arc<dyn Storage>, records: u64) -> Outcome {
    let (mut log, _) = FileLog::open(storage.clone(), LogOptions::new(SyncMode::Never), &mut |_: GroupRef<'_>| Ok(()))?;
    let mut batch = BatchBuilder::new();
    batch.begin(1);
    batch.group(1, Cause::Request, None);
    log.append(&mut batch)?;
    log.seal()?;
    let numbered = Numbered { next: 0, end: records, key: Vec::new() };
    let base = MergeBase::Records { records: Box::new(numbered), first_segment: 1 };
    let mut merge = Merge::new(storage.clone(), base, MergeOptions { memory_bytes: 32 << 20, piece_bytes: 4 << 20, salt: 1 })?;
    merge.set_end(log.segments().open_segment());
    while merge.advance(1 << 20)?.state != MergeState::Done {}
    log.close(1)?;
    Ok(())
}

fn computed() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: checkpoint_load DIRECTORY [RECORDS]")?;
    let records: u64 = arguments.next().map_or(Ok(10_000_000), |text| text.parse())?;
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::open(directory)?);
    if CheckpointReader::open_if_there(&*storage, CHECKPOINT_FILE)?.is_none() {
        make(&storage, records)?;
    }
    let bytes = storage.open(CHECKPOINT_FILE)?.length()?;
    let timed = |what: &str, is_cold: bool, work: &dyn Fn() -> Result<u64, Box<dyn Error>>| -> Outcome {
        if is_cold {
            let file = File::open(storage.path(CHECKPOINT_FILE))?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        let (begun, computed_before) = (Instant::now(), computed());
        let read = work()?;
        let (seconds, computing) = (begun.elapsed().as_secs_f64(), (computed() - computed_before).as_secs_f64());
        println!(
            "{:10} {what:44} {seconds:7.3} s, computing {computing:6.3} s: {:6.0} MiB/s, {:6.2} M records/s",
            if is_cold { "disk" } else { "page cache" },
            bytes as f64 / seconds / f64::from(1 << 20),
            read as f64 / seconds / 1e6
        );
        Ok(())
    };
    for is_cold in [true, true, false, false] {
        timed("read and nothing else", is_cold, &|| {
            let file = storage.open(CHECKPOINT_FILE)?;
            let (mut buffer, mut at) = (vec![0; 1 << 20], 0);
            loop {
                let read = file.read_at(&mut buffer, at)?;
                at += read as u64;
                if read < buffer.len() {
                    return Ok(0);
                }
            }
        })?;
        timed("every block checked", is_cold, &|| {
            let mut reader = CheckpointReader::open(&*storage, CHECKPOINT_FILE)?;
            while reader.next_block()?.is_some() {}
            Ok(reader.summary().map_or(0, |summary| summary.records))
        })?;
        timed("every block checked, records taken", is_cold, &|| {
            let (mut table, mut reader) = (Table::default(), CheckpointReader::open(&*storage, CHECKPOINT_FILE)?);
            while let Some(block) = reader.next_block()? {
                block.records().for_each(|record| table.take(record));
            }
            Ok(table.0.len() as u64)
        })?;
        timed("a start: checked on a second thread", is_cold, &|| {
            let mut table = Table::default();
            FileLog::open(storage.clone(), LogOptions::new(SyncMode::Never), &mut table)?;
            Ok(table.0.len() as u64)
        })?;
    }
    Ok(())
}
