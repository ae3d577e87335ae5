//! Latencies of durable puts at a fixed rate.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvbroker::client::Client;
use kvbroker_tests::Home;

use crate::{Failed, connect, is_running};

/// Clients, each with one put outstanding.
const CLIENTS: u64 = 8;
/// How long a slice of the run is.
const SLICE: Duration = Duration::from_millis(250);
/// Longest latency that is told apart, µs.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) us: Histogram<u64>,
    pub(crate) seconds: f64,
}

/// Puts at `rate` until `longest` has passed, or until no checkpoint is running although one should be. Counts the slices in which a
/// checkpoint was running from the beginning to the end, or was not.
pub(crate) fn run(home: &Home, rate: u64, longest: Duration, wanted: bool) -> Result<Latencies, Failed> {
    let watcher = connect(home)?;
    let slice = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let (slice_ref, stop_ref) = (&slice, &stop);
    std::thread::scope(|scope| {
        let work = |number| move || client(home, number, rate, started, slice_ref, stop_ref);
        let threads: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(work(number))).collect();
        let counts = watch(&watcher, started, longest, wanted, slice_ref);
        // Also after an error: the threads must end.
        stop.store(true, Ordering::Relaxed);
        let counts = counts?;
        let mut all = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?;
        for thread in threads {
            let seen: Vec<(u64, u64)> = thread.join().unwrap_or_else(|_| Err("a client panicked".into()))?;
            for (slice, us) in seen {
                if counts.get(slice as usize).is_some_and(|counts| *counts) {
                    all.saturating_record(us.max(1));
                }
            }
        }
        if all.is_empty() {
            let state =
                if wanted { "ran long enough: more keys make it longer" } else { "was over in time: a longer run may help" };
            return Err(format!("no latency was taken: no checkpoint {state}").into());
        }
        let seconds = counts.iter().filter(|counts| **counts).count() as f64 * SLICE.as_secs_f64();
        Ok(Latencies { us: all, seconds })
    })
}

/// For each slice, whether it counts.
fn watch(client: &Client, started: Instant, longest: Duration, wanted: bool, slice: &AtomicU64) -> Result<Vec<bool>, Failed> {
    let mut counts = Vec::new();
    let mut was = is_running(client)?;
    while started.elapsed() < longest && (was || !wanted) {
        std::thread::sleep(SLICE);
        let is = is_running(client)?;
        counts.push(was == wanted && is == wanted);
        slice.fetch_add(1, Ordering::Relaxed);
        was = is;
    }
    Ok(counts)
}

/// One client: the slice and the latency in µs of each of its puts.
fn client(
    home: &Home,
    number: u64,
    rate: u64,
    started: Instant,
    slice: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Vec<(u64, u64)>, Failed> {
    let client = connect(home)?;
    let pause = Duration::from_secs_f64(CLIENTS as f64 / rate as f64);
    let mut due = started + pause.mul_f64(number as f64 / CLIENTS as f64);
    let mut seen = Vec::new();
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if let Some(early) = due.checked_duration_since(now) {
            std::thread::sleep(early);
        }
        let begun_in = slice.load(Ordering::Relaxed);
        client.put_text(format!("probe/{number}/{}", count % 1_000), "a value as small programs have it")?;
        seen.push((begun_in, u64::try_from(due.elapsed().as_micros())?));
        count += 1;
        due += pause;
    }
    Ok(seen)
}
