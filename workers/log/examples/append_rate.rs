//! Appends to a log on a real directory and prints latencies: `append_rate DIRECTORY [BATCHES [GROUPS_PER_BATCH [ALLOCATE_BYTES]]]`.
//!
//! Each group puts one record of a 16-byte key and a 64-byte value. Then the log is opened again and the replay timed.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use kvbroker_log::{BatchBuilder, Cause, DiskStorage, FileLog, GroupRef, Log, LogOptions, SyncMode};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: append_rate DIRECTORY [BATCHES [GROUPS_PER_BATCH [ALLOCATE_BYTES]]]")?;
    let batches: usize = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let groups: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let mut options = LogOptions::new(SyncMode::Always);
    if let Some(bytes) = arguments.next() {
        options.allocate_bytes = bytes.parse()?;
    }
    let storage = Arc::new(DiskStorage::open(directory)?);
    let (mut log, report) = FileLog::open(storage.clone(), options, &mut |_: GroupRef<'_>| Ok(()))?;
    let mut revision = report.last_revision;
    let mut batch = BatchBuilder::new();
    let mut took_us = Vec::with_capacity(batches);
    let (started, mut encoding_us) = (Instant::now(), 0);
    for _ in 0..batches {
        let begun = Instant::now();
        batch.begin(report.last_stamp_ms.max(1) + u64::try_from(started.elapsed().as_millis())?);
        for _ in 0..groups {
            revision += 1;
            batch.group(revision, Cause::Request, None);
            batch.put(format!("key{revision:013}").as_bytes(), &[7; 64]);
        }
        encoding_us += begun.elapsed().as_micros();
        log.append(&mut batch)?;
        took_us.push(begun.elapsed().as_micros());
    }
    let elapsed = started.elapsed();
    took_us.sort_unstable();
    let at = |share: usize| took_us.get((took_us.len() * share / 1000).min(took_us.len() - 1)).copied().unwrap_or(0);
    println!(
        "{batches} batches of {groups} in {elapsed:.2?}: {:.0} groups/s; per batch p50 {} p99 {} p99.9 {} max {} µs; encoding {} ms in all; {:?}",
        (batches as u64 * groups) as f64 / elapsed.as_secs_f64(),
        at(500),
        at(990),
        at(999),
        at(1000),
        encoding_us / 1000,
        log.stats()
    );
    log.close(batch.stamp_ms())?;
    drop(log);
    let started = Instant::now();
    let (_, report) = FileLog::open(storage, LogOptions::new(SyncMode::Always), &mut |_: GroupRef<'_>| Ok(()))?;
    let elapsed = started.elapsed();
    println!(
        "replayed {} records, {} bytes in {elapsed:.2?}: {:.1} M/s",
        report.records,
        report.bytes,
        report.records as f64 / elapsed.as_micros() as f64
    );
    Ok(())
}
