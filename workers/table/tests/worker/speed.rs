//! What puts cost the worker: `cargo test --release -p kvbroker-table --test worker -- --ignored --nocapture speed`.

use std::sync::atomic::Ordering;

use kvbroker_log::Log;
use kvbroker_protocol::{Header, Operations};

use crate::bench::{Bench, put};

const KEYS: usize = 200_000;
const IN_MESSAGE: usize = 500;

/// Nanoseconds for which this thread has run.
fn busy_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Puts values under these numbers, and tells the nanoseconds of processor time for each.
fn puts(bench: &mut Bench, round: usize, numbers: impl Iterator<Item = usize>) -> u64 {
    bench.events_wanted.store(false, Ordering::Relaxed);
    let value = format!("{round:06}{}", "v".repeat(94));
    let operations: Vec<_> = numbers.map(|number| put(&format!("user/{number:08}"), &value)).collect();
    for message in operations.chunks(IN_MESSAGE) {
        bench.ask(Header::default(), Operations::Many(message.to_vec()));
    }
    bench.intake.close();
    let worker = bench.worker();
    let begin = busy_ns();
    worker.run().unwrap();
    let took = busy_ns() - begin;
    bench.collect();
    bench.shared.seen().replies.clear();
    took / operations.len() as u64
}

#[test]
#[ignore = "a measurement, to be compared with that of another build"]
fn speed_of_puts() {
    let mut first = Bench::new();
    let inserts = puts(&mut first, 0, (0..KEYS).map(|at| at * 7_919 % KEYS));
    let mut second = first.restarted();
    let updates = puts(&mut second, 1, (0..3 * KEYS).map(|at| at * 104_729 % KEYS));
    println!("inserts: {inserts} ns, updates: {updates} ns each");
    assert_eq!(second.shared.seen().log.persisted().revision(), 4 * KEYS as u64);
}
