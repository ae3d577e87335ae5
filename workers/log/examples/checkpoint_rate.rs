//! Fills a log on a real directory, makes checkpoints of it, and times each part: `checkpoint_rate DIRECTORY [RECORDS [ROUNDS]]`.
//!
//! Records have keys of 16 bytes, in no order, and values of 64. The first round puts all of them, each further one as many as make the next
//! checkpoint due, anywhere among them. At the end the log is opened again, and what a start reads is timed without what a table does
//! with it.

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_log::{
    BatchBuilder, Cause, CheckpointPolicy, CheckpointRecord, Checkpointer, DiskStorage, FileLog, GroupRef, Log, LogOptions,
    MergeState, OsEntropy, RecoveryReport, Replay, SeededEntropy, SyncMode, VisitError,
};

/// Groups in a batch.
const GROUPS: u64 = 1000;

#[derive(Default)]
struct Count {
    records: u64,
    groups: u64,
}

impl Replay for Count {
    fn record(&mut self, _record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        self.records += 1;
        Ok(())
    }

    fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
        Ok(())
    }

    fn group(&mut self, _group: GroupRef<'_>) -> Result<(), VisitError> {
        self.groups += 1;
        Ok(())
    }
}

fn open(storage: &Arc<DiskStorage>) -> Result<(FileLog, RecoveryReport, Count), Box<dyn Error>> {
    let mut count = Count::default();
    let (log, report) = FileLog::open(storage.clone(), LogOptions::new(SyncMode::Never), &mut count)?;
    Ok((log, report, count))
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 20) / took.as_secs_f64()
}

/// Bytes that this process had written to disks, as Linux counts them.
fn written_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

fn peak_mib() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 10
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: checkpoint_rate DIRECTORY [RECORDS [ROUNDS]]")?;
    let records: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let rounds: u64 = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let storage = Arc::new(DiskStorage::open(directory)?);
    let (mut log, report, _) = open(&storage)?;
    let policy = CheckpointPolicy { history_ms: 0, ..CheckpointPolicy::default() };
    let segments = log.segments();
    let mut maker = Checkpointer::new(storage.clone(), segments.clone(), policy, Box::new(OsEntropy));
    let (mut revision, mut batch, mut dice) = (report.last_revision, BatchBuilder::new(), SeededEntropy::new(1));
    let (mut log_bytes, mut checkpoint_bytes) = (0, 0);
    for round in 0..rounds {
        let (begun, bytes_before) = (Instant::now(), log.stats().bytes);
        let mut left = records;
        while left > 0 && (round == 0 || !maker.is_due()) {
            batch.begin(report.last_stamp_ms.max(1));
            for _ in 0..GROUPS.min(left) {
                // Multiplying by an odd number visits every record once in the first round.
                let record = if round == 0 { left } else { dice.next_u64() % records + 1 };
                revision += 1;
                batch.group(revision, Cause::Request, None);
                batch.put(format!("{:016x}", record.wrapping_mul(0x9e37_79b9_7f4a_7c15)).as_bytes(), &[revision as u8; 64]);
                left -= 1;
            }
            log.append(&mut batch)?;
        }
        log.seal()?;
        let appended = log.stats().bytes - bytes_before;
        println!("round {round}: {} MiB of log in {:.2?}", appended >> 20, begun.elapsed());
        let (begun, written) = (Instant::now(), written_bytes());
        let mut merging = maker.begin()?;
        let mut slowest = Duration::ZERO;
        let mut moved = 0;
        loop {
            let step = Instant::now();
            let progress = maker.advance(&mut merging, 256 << 10)?;
            slowest = slowest.max(step.elapsed());
            moved += progress.bytes;
            if progress.state == MergeState::Done {
                break;
            }
        }
        let took = begun.elapsed();
        let checkpoint = segments.checkpoint().ok_or("no checkpoint is in force")?;
        println!(
            "  checkpoint of {} records, {} MiB in {took:.2?}: {} MiB read and written, {:.0} MiB/s; {} MiB reached the disk; slowest step of \
             256 KiB {slowest:.2?}; peak {} MiB",
            checkpoint.records,
            checkpoint.bytes >> 20,
            moved >> 20,
            rate(moved, took),
            (written_bytes() - written) >> 20,
            peak_mib()
        );
        let removed = maker.trim(u64::MAX)?;
        println!("  {removed} segments removed");
        if round > 0 {
            log_bytes += appended;
            checkpoint_bytes += written_bytes() - written;
        }
    }
    if log_bytes > 0 {
        println!("per byte of log, checkpoints wrote {:.2} bytes", checkpoint_bytes as f64 / log_bytes as f64);
    }
    log.close(report.last_stamp_ms.max(1))?;
    drop(log);
    let begun = Instant::now();
    let (_, report, count) = open(&storage)?;
    let took = begun.elapsed();
    let bytes = report.bytes + report.checkpoint.map_or(0, |checkpoint| checkpoint.bytes);
    println!("a start read {} records and {} groups in {took:.2?}: {:.0} MiB/s", count.records, count.groups, rate(bytes, took));
    Ok(())
}
