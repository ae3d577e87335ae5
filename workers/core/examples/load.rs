//! How long it takes to say a table as records and to load it from them, and what memory it takes.
//!
//! `cargo run --release -p kvbroker-core --example load -- 10000000 100` (keys, and bytes of their values).

use std::time::Instant;

use kvbroker_core::{Loader, State};

/// Resident bytes of this process now, and the most it has had, in MiB.
fn memory_mib() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1_024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Seconds of processor time that this process has used: other work on the machine does not count.
fn busy_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name in parentheses; user and system time are the 12th and 13th from there, in hundredths.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("numbers: keys, bytes of a value"));
    let keys = numbers.next().unwrap_or(1_000_000);
    let bytes = numbers.next().unwrap_or(100);
    let value = [&[1, 0xda, (bytes >> 8) as u8, bytes as u8][..], &vec![b'v'; bytes], &[0]].concat();
    let tell = |what: &str, begin: f64| {
        let (now, most) = memory_mib();
        println!("{what}: {:.2} s of processor time; memory {now} MiB, at most {most} MiB", busy_seconds() - begin);
    };

    let begin = busy_seconds();
    let mut loader = Loader::new();
    for number in 0..keys {
        let key = format!("tuser/{number:010}");
        loader.record(key.as_bytes(), &value, number as u64 + 1).expect("it is a record, behind the last one");
    }
    tell("records taken", begin);
    let state = loader.finish(keys as u64).expect("no record is behind the end");
    tell("loaded", begin);

    let begin = busy_seconds();
    let (mut after, mut slices, mut records, mut longest) = (None, 0, 0, 0.0_f64);
    loop {
        let slice_begin = Instant::now();
        let slice = state.records_after(after.as_deref(), 1 << 20);
        longest = longest.max(slice_begin.elapsed().as_secs_f64());
        slices += 1;
        records += slice.records.len();
        if slice.is_end {
            break;
        }
        after = slice.records.into_iter().next_back().map(|record| record.key);
    }
    tell(&format!("{records} records in {slices} slices of 1 MiB, the longest {:.2} ms", longest * 1_000.0), begin);

    // What it would be with one insertion for each key.
    let begin = busy_seconds();
    let mut plain = State::new();
    let mut after = None;
    loop {
        let slice = state.records_after(after.as_deref(), 1 << 20);
        after = slice.records.last().map(|record| record.key.clone());
        for record in slice.records {
            let change = kvbroker_core::Change::from_record(&record.key, Some(&record.value)).expect("it was a record");
            plain.apply(change, record.revision);
        }
        if slice.is_end {
            break;
        }
    }
    tell("a second state by single changes", begin);
    assert!(plain == state, "both ways lead to one state");
}
