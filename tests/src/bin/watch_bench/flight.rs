//! One run: a writer, the watchers, and what they notice.
//!
//! - So many events may be on their way: the writer goes on when the *slowest* watcher has got what came before. Nobody is measured by how much it
//!   loses, and nobody by how much it can hoard.
//! - A value says which event it is and when it was due. Every watcher must get every event, in order, once; else the run fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvbroker_tests::cpu_seconds;

use crate::Failed;

/// What is measured in a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) watchers: usize,
    /// Events of the run.
    pub(crate) events: u64,
    pub(crate) value_bytes: usize,
    /// Events that may be on their way to the slowest watcher.
    pub(crate) window: u64,
    /// Events a second; None: as many as can be.
    pub(crate) rate: Option<u64>,
}

/// A run's result.
pub(crate) struct Measured {
    /// Events that reached all watchers, times watchers, per second.
    pub(crate) delivered_per_s: f64,
    /// From when an event was due until a watcher had it, microseconds.
    pub(crate) delays: Histogram<u64>,
    /// Processor time of the server, seconds.
    pub(crate) server_cpu_s: f64,
    pub(crate) events: u64,
}

/// One product.
pub(crate) trait Side {
    fn name(&self) -> String;
    /// The server's process.
    fn pid(&self) -> u32;
    /// Listens to all events from now on.
    fn watcher(&self) -> Result<Box<dyn Watcher>, Failed>;
    fn writer(&self, shape: Shape) -> Result<Box<dyn Writer>, Failed>;
}

/// One connection that hears of the events.
pub(crate) trait Watcher: Send {
    /// Waits for some events and gives the value of each.
    fn next(&mut self, until: Instant, each: &mut dyn FnMut(&[u8])) -> Result<(), Failed>;
}

/// The connection that makes the events.
pub(crate) trait Writer {
    /// Sends one; does not wait for its answer unless too many are missing.
    fn send(&mut self, key: &str, value: &[u8]) -> Result<(), Failed>;
    /// What was sent leaves now.
    fn flush(&mut self) -> Result<(), Failed>;
    /// Waits for all answers.
    fn finish(&mut self) -> Result<(), Failed>;
}

/// Events between two looks of the writer at the slowest watcher.
const CHUNK: u64 = 32;
/// A run that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(120);
const STACK_BYTES: usize = 512 << 10;
/// The longest delay that is told apart.
const DELAY_MAX_US: u64 = 600_000_000;
/// Digits of a number in a value.
const DIGITS: usize = 16;
/// The shortest value.
pub(crate) const VALUE_BYTES_MIN: usize = 2 * DIGITS;

/// How far the watchers are.
struct Progress {
    watchers: usize,
    /// Of each chunk how many watchers have it whole.
    chunks: Vec<AtomicUsize>,
    writer: Thread,
}

impl Progress {
    fn new(shape: Shape) -> Progress {
        let chunks = (0..shape.events.div_ceil(CHUNK)).map(|_| AtomicUsize::new(0)).collect();
        Progress { watchers: shape.watchers, chunks, writer: std::thread::current() }
    }

    fn done(&self, chunk: u64) {
        if self.chunks[chunk as usize].fetch_add(1, Ordering::AcqRel) + 1 == self.watchers {
            self.writer.unpark();
        }
    }

    /// For the writer: waits until everybody has this chunk.
    fn wait(&self, chunk: u64, until: Instant) -> Result<(), Failed> {
        while self.chunks[chunk as usize].load(Ordering::Acquire) < self.watchers {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("the watchers did not get what was sent".into());
            }
            std::thread::park_timeout(left);
        }
        Ok(())
    }
}

/// Does one run.
pub(crate) fn fly(side: &dyn Side, shape: Shape) -> Result<Measured, Failed> {
    let origin = Instant::now();
    let until = origin + DEADLINE;
    let progress = Arc::new(Progress::new(shape));
    let crew: Vec<Box<dyn Watcher>> = (0..shape.watchers).map(|_| side.watcher()).collect::<Result<_, _>>()?;
    let mut writer = side.writer(shape)?;
    let heard = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = crew
        .into_iter()
        .map(|mut watcher| {
            let (progress, heard) = (Arc::clone(&progress), Arc::clone(&heard));
            let listen = move || {
                let delays = listen(&mut *watcher, shape, origin, until, &progress);
                heard.fetch_add(1, Ordering::Relaxed);
                delays
            };
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn(listen)
        })
        .collect::<Result<_, _>>()?;
    let cpu_before = cpu_seconds(side.pid())?;
    let began = Instant::now();
    let written = write(&mut *writer, shape, origin, until, &progress);
    let took = began.elapsed();
    let server_cpu_s = cpu_seconds(side.pid())? - cpu_before;
    let mut delays = Histogram::new_with_bounds(1, DELAY_MAX_US, 3)?;
    // The watchers' own errors say more than the writer's.
    for thread in threads {
        delays.add(thread.join().map_err(|_| "a watcher panicked")??)?;
    }
    written?;
    let delivered = shape.events * shape.watchers as u64;
    Ok(Measured { delivered_per_s: delivered as f64 / took.as_secs_f64(), delays, server_cpu_s, events: shape.events })
}

fn write(writer: &mut dyn Writer, shape: Shape, origin: Instant, until: Instant, progress: &Progress) -> Result<(), Failed> {
    let began = Instant::now();
    let mut value = Vec::new();
    for number in 0..shape.events {
        if number.is_multiple_of(CHUNK) {
            writer.flush()?;
            if number >= shape.window {
                progress.wait((number - shape.window) / CHUNK, until)?;
            }
        }
        let due = match shape.rate {
            None => Instant::now(),
            Some(rate) => {
                let due = began + Duration::from_nanos(number * 1_000_000_000 / rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                due
            }
        };
        value.clear();
        value.extend_from_slice(format!("{number:016x}{:016x}", (due - origin).as_nanos()).as_bytes());
        value.resize(shape.value_bytes, b'.');
        writer.send(&format!("lamp/{:03}", number % 1_000), &value)?;
        if shape.rate.is_some() {
            writer.flush()?;
        }
    }
    writer.flush()?;
    for chunk in (shape.events.saturating_sub(shape.window) / CHUNK)..shape.events.div_ceil(CHUNK) {
        progress.wait(chunk, until)?;
    }
    writer.finish()
}

fn listen(
    watcher: &mut dyn Watcher,
    shape: Shape,
    origin: Instant,
    until: Instant,
    progress: &Progress,
) -> Result<Histogram<u64>, Failed> {
    let mut delays = Histogram::new_with_bounds(1, DELAY_MAX_US, 3)?;
    let mut expected = 0;
    let mut wrong = None;
    while expected < shape.events && wrong.is_none() {
        if Instant::now() >= until {
            return Err(format!("a watcher got {expected} of {} events", shape.events).into());
        }
        watcher.next(until, &mut |value| {
            let field = |at: usize| {
                value.get(at..at + DIGITS).and_then(|digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
            };
            match (field(0), field(DIGITS)) {
                (Some(number), Some(due_ns)) if number == expected => {
                    let delay_ns = (origin.elapsed().as_nanos() as u64).saturating_sub(due_ns);
                    delays.saturating_record(delay_ns / 1_000);
                    expected += 1;
                    if expected.is_multiple_of(CHUNK) || expected == shape.events {
                        progress.done((expected - 1) / CHUNK);
                    }
                }
                (number, _) => wrong = Some(format!("a watcher got event {number:?} instead of {expected}")),
            }
        })?;
    }
    wrong.map_or(Ok(delays), |wrong| Err(wrong.into()))
}
