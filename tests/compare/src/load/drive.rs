//! A run: lanes that keep so many operations outstanding, and what is counted of them in a window of time.
//!
//! - The lanes run before the window begins and after it ends; what is counted are the answers that came within it.
//! - Times of single operations are only taken with one outstanding: with more of them, throughput is the question.
//! - A wrong answer, or none, fails the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvbroker_tests::cpu_seconds;

use super::{Ask, Kind, Lane};
use crate::Failed;
use crate::payload::Draw;
use crate::servers::TableServer;

/// The lanes run so long before anything is counted.
const WARM: Duration = Duration::from_millis(300);
/// How often it is looked whether a lane has failed.
const LOOK: Duration = Duration::from_millis(100);
/// The longest time that is told apart, nanoseconds.
const TIME_MAX_NS: u64 = 600_000_000_000;
/// Of so many puts a watcher of one key in a hundred hears of some.
const WATCHED_OPERATIONS_MIN: u64 = 10_000;
const STACK_BYTES: usize = 512 << 10;
/// How keys are loaded before a run: lanes, and operations outstanding in each.
const FILL: (usize, usize) = (4, 256);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections, each with a thread.
    pub clients: usize,
    /// Operations outstanding on each.
    pub outstanding: usize,
    /// What is asked for.
    pub kind: Kind,
    /// Keys, drawn evenly; they have been loaded.
    pub keys: u32,
    /// The window.
    pub window: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    /// Answers within the window.
    pub operations: u64,
    /// Its length.
    pub seconds: f64,
    /// Times of single operations, nanoseconds; empty with more than one outstanding.
    pub times: Histogram<u64>,
    /// Processor time of the server within the window, seconds.
    pub server_cpu_s: f64,
    /// Of this program, which has the generators and the watcher.
    pub generator_cpu_s: f64,
    /// Changes that the watcher heard of.
    pub watched: Option<u64>,
}

impl Measured {
    /// Operations a second.
    pub fn per_s(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    /// A quantile of the times of single operations, microseconds.
    pub fn time_us(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Processor time of the server for one operation, microseconds.
    pub fn server_us(&self) -> f64 {
        self.server_cpu_s * 1e6 / self.operations as f64
    }

    /// The same of the generators.
    pub fn generator_us(&self) -> f64 {
        self.generator_cpu_s * 1e6 / self.operations as f64
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    is_window: AtomicBool,
    has_failed: AtomicBool,
}

/// A lane's count, alone in its cache line.
#[repr(align(128))]
#[derive(Default)]
struct Count(AtomicU64);

/// Stores every key once.
pub fn fill(server: &dyn TableServer, keys: u32) -> Result<(), Failed> {
    let (lanes, outstanding) = FILL;
    let share = keys.div_ceil(lanes as u32);
    let lanes = (0..lanes).map(|_| server.lane(outstanding)).collect::<Result<Vec<_>, _>>()?;
    let threads: Vec<_> = lanes
        .into_iter()
        .zip(0..)
        .map(|(mut lane, at): (_, u32)| {
            std::thread::spawn(move || {
                let mut numbers = (at * share..((at + 1) * share).min(keys)).peekable();
                let mut missing = 0;
                while missing > 0 || numbers.peek().is_some() {
                    while let Some(key) = numbers.next_if(|_| missing < outstanding) {
                        lane.ask(Ask { kind: Kind::Put, key, stamp: 0 })?;
                        missing += 1;
                    }
                    lane.flush()?;
                    missing -= lane.take()?;
                }
                Ok::<(), Failed>(())
            })
        })
        .collect();
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a generator panicked")?)
}

/// Does a run.
pub fn drive(server: &dyn TableServer, shape: Shape) -> Result<Measured, Failed> {
    let shared = Arc::new(Shared::default());
    let counts: Arc<Vec<Count>> = Arc::new((0..shape.clients).map(|_| Count::default()).collect());
    let lanes = (0..shape.clients).map(|_| server.lane(shape.outstanding)).collect::<Result<Vec<_>, _>>()?;
    let watcher = server.watcher(shape.keys)?;
    let threads = lanes
        .into_iter()
        .enumerate()
        .map(|(at, mut lane)| {
            let (shared, counts) = (Arc::clone(&shared), Arc::clone(&counts));
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
                let done = work(&mut *lane, at, shape, &shared, &counts[at].0);
                shared.has_failed.fetch_or(done.is_err(), Ordering::Relaxed);
                done
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let sum = || counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum::<u64>();
    let sample = || Ok::<_, Failed>((Instant::now(), sum(), cpu_seconds(server.pid())?, cpu_seconds(std::process::id())?));

    wait(WARM, &shared);
    shared.is_window.store(true, Ordering::Relaxed);
    let from = sample();
    wait(shape.window, &shared);
    let to = sample();
    shared.is_window.store(false, Ordering::Relaxed);
    shared.stop.store(true, Ordering::Relaxed);

    let mut times = times()?;
    // What a lane has to say says more than what came after it.
    for thread in threads {
        times.add(thread.join().map_err(|_| "a generator panicked")??)?;
    }
    let watched = watcher.map(|watcher| watcher.finish()).transpose()?;
    let (from, to) = (from?, to?);
    let operations = to.1 - from.1;
    if operations == 0 {
        return Err("not one operation was answered in time".into());
    }
    if watched == Some(0) && shape.kind == Kind::Put && operations > WATCHED_OPERATIONS_MIN {
        return Err("the watcher heard of nothing".into());
    }
    Ok(Measured {
        operations,
        seconds: (to.0 - from.0).as_secs_f64(),
        times,
        server_cpu_s: to.2 - from.2,
        generator_cpu_s: to.3 - from.3,
        watched,
    })
}

/// Lets so much time pass, less if a lane fails.
fn wait(time: Duration, shared: &Shared) {
    let until = Instant::now() + time;
    while !shared.has_failed.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(LOOK));
    }
}

/// For times in nanoseconds.
///
/// With bounds: one that grows keeps what [`Histogram::saturating_record`] is given below what it has room for, which is 2 at first.
pub fn times() -> Result<Histogram<u64>, Failed> {
    Ok(Histogram::new_with_bounds(1, TIME_MAX_NS, 3)?)
}

fn work(lane: &mut dyn Lane, at: usize, shape: Shape, shared: &Shared, count: &AtomicU64) -> Result<Histogram<u64>, Failed> {
    let mut times = times()?;
    let mut draw = Draw::new(shape.keys, at);
    let (mut stamp, mut done, mut missing) = (at as u64, 0, 0);
    loop {
        let goes_on = !shared.stop.load(Ordering::Relaxed);
        let is_timed = shape.outstanding == 1 && shared.is_window.load(Ordering::Relaxed);
        let began = is_timed.then(Instant::now);
        while goes_on && missing < shape.outstanding {
            lane.ask(Ask { kind: shape.kind, key: draw.next(), stamp })?;
            stamp += shape.clients as u64;
            missing += 1;
        }
        lane.flush()?;
        if missing == 0 {
            return Ok(times);
        }
        let taken = lane.take()?;
        if let Some(began) = began {
            times.saturating_record(began.elapsed().as_nanos() as u64);
        }
        missing = missing.checked_sub(taken).ok_or("more answers than questions")?;
        done += taken as u64;
        count.store(done, Ordering::Relaxed);
    }
}
