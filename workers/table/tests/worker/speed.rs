//! What puts cost the worker, with a history in memory and without: `cargo test --release -p kvbroker-table --test worker -- --ignored --nocapture speed`.

use std::sync::atomic::Ordering;

use kvbroker_log::Log;
use kvbroker_protocol::{Header, Operations, limits};

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

/// Nanoseconds for an insert and for an update, once the history is full: that memory is used for the first time costs what the
/// system makes of it, once.
fn measure(history_bytes_max: usize) -> [u64; 2] {
    let again = |bench: &Bench| Bench { history_bytes_max, ..bench.restarted() };
    let mut bench = Bench { history_bytes_max, ..Bench::new() };
    puts(&mut bench, 0, (0..KEYS).map(|at| at * 7_919 % KEYS));
    bench = again(&bench);
    puts(&mut bench, 1, (0..2 * KEYS).map(|at| at * 104_729 % KEYS));
    bench = again(&bench);
    let updates = puts(&mut bench, 2, (0..2 * KEYS).map(|at| at * 104_729 % KEYS));
    bench = again(&bench);
    let inserts = puts(&mut bench, 3, (0..KEYS).map(|at| KEYS + at * 7_919 % KEYS));
    assert_eq!(bench.shared.seen().log.persisted().revision(), 6 * KEYS as u64);
    [inserts, updates]
}

#[test]
#[ignore = "a measurement"]
fn speed_of_puts() {
    let mut least = [[u64::MAX; 2]; 2];
    for _ in 0..5 {
        for (which, (what, bytes_max)) in [("without", 0), ("with", limits::HISTORY_MEMORY_BYTES_MAX)].into_iter().enumerate() {
            let measured = measure(bytes_max);
            println!("{what} a history in memory: inserts {} ns, updates {} ns each", measured[0], measured[1]);
            least[which] = [least[which][0].min(measured[0]), least[which][1].min(measured[1])];
        }
    }
    println!("least without {:?}, with {:?}", least[0], least[1]);
}
