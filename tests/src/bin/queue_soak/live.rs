//! The transient queue beside the others: one thread pushes into it and pulls from it, and outlives the kills of the broker.
//!
//! It keeps some items waiting all the time, so that each kill takes some away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker::client::{Client, ClientError};
use kvbroker_protocol::{Declaration, ErrorCode, Pull, Stored};
use kvbroker_tests::Dice;
use kvbroker_tests::soak::{Live, LiveGrant};

use crate::Failed;

/// Its queue.
const QUEUE: &str = "live";
/// So many items wait when some are pulled.
const WAITING: u64 = 24;
/// Pushed at a time, and pulled at most.
const TOGETHER: usize = 8;
/// Between two turns: it is there to be looked at, and not to take the machine from the others.
const PAUSE: Duration = Duration::from_millis(5);
/// Of so many pulls one outlives its lease.
const SLOW_OF: usize = 100;
/// Of so many deliveries one is given back.
const RETURNED_OF: usize = 20;

/// The thread at work.
pub(crate) struct LiveWork {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Live, Failed>>,
}

impl LiveWork {
    /// Declares the queue and starts.
    pub(crate) fn start(client: Client, lease_ms: u64, dice: Dice) -> Result<LiveWork, Failed> {
        let options =
            Declaration { lease_ms: Some(lease_ms), max_deliveries: Some(0), transient: Some(true), ..Declaration::default() };
        client.queue(QUEUE).declare(options)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Worker { client, dice, begun: Instant::now(), live: Live { lease_ms, ..Live::default() } };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("live".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                worker.turn()?;
            }
            worker.finish()
        })?;
        Ok(LiveWork { stop, thread })
    }

    /// Does what is left, leaves a few items for the last kill, and gives what is known.
    pub(crate) fn finish(self) -> Result<Live, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the thread of the transient queue has panicked")?
    }
}

/// Items that are in the queue.
pub(crate) fn items_left(client: &Client) -> Result<u64, Failed> {
    let info = client.queue(QUEUE).info()?.ok_or("the transient queue itself is gone")?;
    if info.number("transient") != 1 {
        return Err("the transient queue is not transient any more".into());
    }
    Ok(info.number("items"))
}

struct Worker {
    client: Client,
    dice: Dice,
    begun: Instant,
    live: Live,
}

impl Worker {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn turn(&mut self) -> Result<(), Failed> {
        self.push()?;
        if items_left(&self.client)? > WAITING {
            self.pull(false)?;
        }
        std::thread::sleep(PAUSE);
        Ok(())
    }

    fn push(&mut self) -> Result<(), Failed> {
        let queue = self.client.queue(QUEUE);
        for _ in 0..TOGETHER {
            let item = queue.push_as(queue.item(Stored::integer(self.live.pushed.len() as i128)))?;
            if !self.live.pushed.insert(item) {
                return Err(format!("two items are called {item}").into());
            }
        }
        Ok(())
    }

    /// Takes some, and does them unless the dice say otherwise. True if there were any.
    fn pull(&mut self, is_end: bool) -> Result<bool, Failed> {
        let queue = self.client.queue(QUEUE);
        let asked_ms = self.now_ms();
        let pull = Pull { queue: QUEUE.into(), limit: TOGETHER, lease_ms: None, wait_ms: 0, no_ack: false };
        let (deliveries, _) = queue.pull_as(pull)?;
        let had_ms = self.now_ms();
        let receipts: Vec<_> = deliveries.iter().map(|delivery| delivery.receipt).collect();
        self.live.grants.extend(receipts.iter().map(|receipt| LiveGrant { receipt: *receipt, asked_ms, had_ms }));
        if !is_end && self.dice.below(SLOW_OF) == 0 {
            std::thread::sleep(Duration::from_millis(self.live.lease_ms * 5 / 4));
        }
        for receipt in &receipts {
            let is_returned = !is_end && self.dice.below(RETURNED_OF) == 0;
            let said = if is_returned { queue.nack(*receipt, None, "not now") } else { queue.ack(*receipt) };
            match said {
                Ok(_) if is_returned => drop(self.live.returned.insert(*receipt)),
                Ok(_) => self.live.acked.push(*receipt),
                // Its lease was over, or a start has taken it away.
                Err(error) if is_over(&error) => {}
                Err(error) => return Err(format!("{receipt} of the transient queue: {error}").into()),
            }
        }
        Ok(!receipts.is_empty())
    }

    fn finish(mut self) -> Result<Live, Failed> {
        let deadline = Instant::now() + Duration::from_millis(self.live.lease_ms * 4) + Duration::from_secs(30);
        while items_left(&self.client)? > 0 {
            if !self.pull(true)? {
                if Instant::now() > deadline {
                    return Err("items of the transient queue do not come back".into());
                }
                // Some are on lease still.
                std::thread::sleep(PAUSE);
            }
        }
        self.push()?;
        Ok(self.live)
    }
}

fn is_over(error: &ClientError) -> bool {
    error.code() == Some(ErrorCode::LeaseLost)
}
