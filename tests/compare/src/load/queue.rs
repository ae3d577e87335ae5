//! A run on a queue: producers that push, consumers that take and acknowledge, and what is counted of their cycles in a window of time.
//!
//! - A cycle is a push that was confirmed, its delivery, and its acknowledgement. A producer has so many cycles on their way at most, and pushes
//!   the next item when one of its own has ended. So a queue's depth has the same bound for every product, however fast its pushes are.
//! - The time of a cycle's delivery runs from the call that pushes until a consumer has the item.
//! - The run ends when everything that was pushed was acknowledged, once: numbers that don't add up fail it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvbroker_tests::{PATIENCE, cpu_seconds};

use super::drive::{Measured, times};
use crate::Failed;
use crate::payload::{Item, VALUE_BYTES};
use crate::servers::QueueServer;

/// A run goes on so long before anything is counted.
const WARM: Duration = Duration::from_millis(300);
/// How often it is looked whether a run is over or has failed. Consumers wait for no longer.
pub const LOOK: Duration = Duration::from_millis(40);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct QueueShape {
    /// So many connections push, and as many take.
    pub pairs: usize,
    /// Cycles on their way for each producer.
    pub outstanding: usize,
    /// The window.
    pub window: Duration,
}

/// One connection that pushes.
pub trait Producer: Send {
    /// Pushes an item. It may stay here until [`Producer::flush`].
    fn push(&mut self, body: &[u8; VALUE_BYTES]) -> Result<(), Failed>;
    /// What was pushed leaves now.
    fn flush(&mut self) -> Result<(), Failed>;
    /// Waits until some pushes are confirmed, takes note of all that are; gives how many.
    fn confirmed(&mut self) -> Result<usize, Failed>;
}

/// One connection that takes items.
pub trait Consumer: Send {
    /// Waits for what comes next, [`LOOK`] at most: shows each item and acknowledges it, and tells whose acknowledgements are confirmed.
    fn take(&mut self, taker: &mut Taker) -> Result<(), Failed>;
    /// Nothing comes any more: what was asked for and has not come is taken back.
    fn finish(&mut self) -> Result<(), Failed> {
        Ok(())
    }
}

/// A cycle of which the item was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    producer: usize,
    check: u64,
}

/// Of one producer, alone in its cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Account {
    /// Cycles that it may begin.
    free: AtomicUsize,
    /// Those that have ended, and the sum of what tells them apart.
    ended: AtomicU64,
    sum: AtomicU64,
}

struct Shared {
    began: Instant,
    accounts: Vec<Account>,
    stop: AtomicBool,
    is_drained: AtomicBool,
    is_window: AtomicBool,
    has_failed: AtomicBool,
}

impl Shared {
    fn new(producers: usize, outstanding: usize) -> Shared {
        let account = || Account { free: AtomicUsize::new(outstanding), ..Account::default() };
        Shared {
            began: Instant::now(),
            accounts: (0..producers).map(|_| account()).collect(),
            stop: AtomicBool::new(false),
            is_drained: AtomicBool::new(false),
            is_window: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        }
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn ended(&self) -> u64 {
        self.accounts.iter().map(|account| account.ended.load(Ordering::Relaxed)).sum()
    }

    fn sum(&self) -> u64 {
        self.accounts.iter().fold(0, |sum, account| sum.wrapping_add(account.sum.load(Ordering::Relaxed)))
    }
}

/// Tells items apart in a sum: one that is missing and one that comes twice don't make up for each other.
fn check(item: Item) -> u64 {
    (item.producer << 40 ^ item.number)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// What a consumer tells of its items.
pub struct Taker {
    shared: Arc<Shared>,
    producers: Vec<Thread>,
    times: Histogram<u64>,
    /// Cycles that have ended and were not told yet, by producer.
    ended: Vec<(usize, u64)>,
}

impl Taker {
    fn new(shared: Arc<Shared>, producers: Vec<Thread>) -> Result<Taker, Failed> {
        let ended = vec![(0, 0); shared.accounts.len()];
        Ok(Taker { shared, producers, times: times()?, ended })
    }

    /// For tests of drivers: of one producer, with so many cycles on their way.
    #[cfg(test)]
    pub fn alone(outstanding: usize) -> Taker {
        Taker::new(Arc::new(Shared::new(1, outstanding)), vec![std::thread::current()]).expect("a histogram with fixed bounds")
    }

    /// For tests of drivers: how many cycles have ended, those that were not told yet included.
    #[cfg(test)]
    pub fn cycles(&self) -> u64 {
        self.shared.ended() + self.ended.iter().map(|(count, _)| *count as u64).sum::<u64>()
    }

    /// An item is here. What is given back is to be shown when its acknowledgement is confirmed.
    pub fn item(&mut self, body: &[u8]) -> Result<Cycle, Failed> {
        let item = Item::read(body).ok_or_else(|| format!("no producer pushed {:?}", String::from_utf8_lossy(body)))?;
        let producer = usize::try_from(item.producer).ok().filter(|producer| *producer < self.ended.len());
        let producer = producer.ok_or("an item of a producer that is not there")?;
        if self.shared.is_window.load(Ordering::Relaxed) {
            self.times.saturating_record(self.shared.now_ns().saturating_sub(item.pushed_ns));
        }
        Ok(Cycle { producer, check: check(item) })
    }

    /// Its acknowledgement is confirmed.
    pub fn done(&mut self, cycle: Cycle) {
        let ended = &mut self.ended[cycle.producer];
        *ended = (ended.0 + 1, ended.1.wrapping_add(cycle.check));
    }

    /// Lets the producers know.
    fn tell(&mut self) {
        let Taker { shared, producers, ended, .. } = self;
        for ((account, producer), ended) in shared.accounts.iter().zip(producers).zip(ended) {
            let (count, sum) = std::mem::take(ended);
            if count > 0 {
                account.sum.fetch_add(sum, Ordering::Relaxed);
                account.ended.fetch_add(count as u64, Ordering::Release);
                if account.free.fetch_add(count, Ordering::Release) == 0 {
                    producer.unpark();
                }
            }
        }
    }
}

/// Pushes until the run is stopped; gives how many items, and their sum.
fn produce(producer: &mut dyn Producer, number: usize, shared: &Shared) -> Result<(u64, u64), Failed> {
    let free = &shared.accounts[number].free;
    let (mut pushed, mut sum, mut unconfirmed) = (0, 0_u64, 0);
    while !shared.has_failed.load(Ordering::Relaxed) {
        let stops = shared.stop.load(Ordering::Relaxed);
        let begins = if stops { 0 } else { free.swap(0, Ordering::Acquire) };
        for _ in 0..begins {
            let item = Item { producer: number as u64, number: pushed, pushed_ns: shared.now_ns() };
            producer.push(&item.bytes())?;
            pushed += 1;
            sum = sum.wrapping_add(check(item));
        }
        if begins > 0 {
            producer.flush()?;
        }
        unconfirmed += begins;
        if unconfirmed > 0 {
            unconfirmed = unconfirmed.checked_sub(producer.confirmed()?).ok_or("more confirmations than pushes")?;
        } else if stops {
            break;
        } else if free.load(Ordering::Relaxed) == 0 {
            std::thread::park_timeout(LOOK);
        }
    }
    Ok((pushed, sum))
}

fn consume(consumer: &mut dyn Consumer, mut taker: Taker) -> Result<Histogram<u64>, Failed> {
    let shared = Arc::clone(&taker.shared);
    while !shared.is_drained.load(Ordering::Relaxed) && !shared.has_failed.load(Ordering::Relaxed) {
        consumer.take(&mut taker)?;
        taker.tell();
    }
    consumer.finish()?;
    Ok(taker.times)
}

/// Does a run.
pub fn drive_queue(server: &dyn QueueServer, shape: QueueShape) -> Result<Measured, Failed> {
    let QueueShape { pairs, outstanding, window } = shape;
    let shared = Arc::new(Shared::new(pairs, outstanding));
    let mut consumers = (0..pairs).map(|_| server.consumer(outstanding)).collect::<Result<Vec<_>, _>>()?;
    let producers = (0..pairs).map(|_| server.producer(outstanding)).collect::<Result<Vec<_>, _>>()?;
    let producers: Vec<JoinHandle<_>> = producers
        .into_iter()
        .enumerate()
        .map(|(number, mut producer)| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let done = produce(&mut *producer, number, &shared);
                shared.has_failed.fetch_or(done.is_err(), Ordering::Relaxed);
                done
            })
        })
        .collect();
    let handles: Vec<Thread> = producers.iter().map(|thread| thread.thread().clone()).collect();
    let consumers: Vec<JoinHandle<_>> = consumers
        .drain(..)
        .map(|mut consumer| {
            let taker = Taker::new(Arc::clone(&shared), handles.clone())?;
            let shared = Arc::clone(&shared);
            Ok(std::thread::spawn(move || {
                let done = consume(&mut *consumer, taker);
                shared.has_failed.fetch_or(done.is_err(), Ordering::Relaxed);
                done
            }))
        })
        .collect::<Result<_, Failed>>()?;
    let sample =
        || Ok::<_, Failed>((Instant::now(), shared.ended(), cpu_seconds(server.pid())?, cpu_seconds(std::process::id())?));

    wait(WARM, &shared, || false);
    shared.is_window.store(true, Ordering::Relaxed);
    let from = sample();
    wait(window, &shared, || false);
    let to = sample();
    shared.is_window.store(false, Ordering::Relaxed);
    shared.stop.store(true, Ordering::Relaxed);

    let (mut pushed, mut sum) = (0, 0_u64);
    let mut failed: Option<Failed> = None;
    for thread in producers {
        match thread.join().map_err(|_| "a producer panicked")? {
            Ok((count, part)) => (pushed, sum) = (pushed + count, sum.wrapping_add(part)),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    wait(PATIENCE, &shared, || {
        shared.accounts.iter().map(|account| account.ended.load(Ordering::Acquire)).sum::<u64>() >= pushed
    });
    shared.is_drained.store(true, Ordering::Relaxed);
    let mut times = times()?;
    for thread in consumers {
        match thread.join().map_err(|_| "a consumer panicked")? {
            Ok(part) => times.add(part)?,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if (shared.ended(), shared.sum()) != (pushed, sum) {
        return Err(format!("{pushed} items were pushed, {} were taken and acknowledged, or others", shared.ended()).into());
    }
    let (from, to) = (from?, to?);
    let operations = to.1 - from.1;
    if operations == 0 {
        return Err("not one cycle ended in time".into());
    }
    Ok(Measured {
        operations,
        seconds: (to.0 - from.0).as_secs_f64(),
        times,
        server_cpu_s: to.2 - from.2,
        generator_cpu_s: to.3 - from.3,
        watched: None,
    })
}

/// Lets so much time pass; less if somebody fails, or there is nothing more to wait for.
fn wait(time: Duration, shared: &Shared, is_over: impl Fn() -> bool) {
    let until = Instant::now() + time;
    while !shared.has_failed.load(Ordering::Relaxed) && !is_over() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(LOOK));
    }
}
