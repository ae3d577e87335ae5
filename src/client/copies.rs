//! How far the copies of a message have come.
//!
//! - All copies are asked about at once, and each question waits at the broker: how an item ended is known there for the last ones alone, and a
//!   slow queue must not have those of the others forgotten meanwhile.

use std::time::{Duration, Instant};

use kvbroker_protocol::limits::QUEUE_WAIT_MS_MAX;
use kvbroker_protocol::{Answer, ItemId, Key, MessageCopy, Operation, QueueAnswer, QueueOperation, Tracked, Until};

use super::error::ClientError;
use super::handle::Client;
use super::pipeline::Ticket;
use super::queue::millis;
use super::routing::Published;
use super::table::unexpected;

/// A copy of a message, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedCopy {
    /// The queue that has it, or had it.
    pub queue: Key,
    /// Its id there.
    pub item: ItemId,
    /// How far it is.
    pub tracked: Tracked,
}

impl Published {
    /// So many copies nobody can follow by this answer: those beyond the first hundred, and those in queues that this client may not use.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.routed.saturating_sub(self.copies.len() as u64)
    }
}

impl Client {
    /// Tells how far the copies of a message have come, and waits until each of them is so far: for so long at most, all together.
    /// [`Until::is_reached`] says of each whether it is. Those that the answer to the publish does not name ([`Published::untold`]) are not among
    /// them; a message that no queue wants has none.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use std::time::Duration;
    ///
    /// use kvbroker_protocol::{Progress, Until};
    ///
    /// # lab.queue("mail").bind("orders.*")?;
    /// # let consumer = lab.queue("mail").notify(1, |order: &kvbroker::client::Delivery<'_, u32>| println!("{}", order.value));
    /// let published = lab.publish("orders.new", &7)?;
    /// let copies = lab.track_copies(&published, Until::Done, Duration::from_secs(60))?;
    /// let is_done = published.untold() == 0 && copies.iter().all(|copy| copy.tracked.progress == Progress::Done);
    /// # assert!(is_done && copies.len() == 1);
    /// # drop(consumer);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// See [`ClientError`]; `refused` where this client may not use a queue any more.
    pub fn track_copies(&self, published: &Published, until: Until, within: Duration) -> Result<Vec<TrackedCopy>, ClientError> {
        let begun = Instant::now();
        let mut found: Vec<Option<Tracked>> = vec![None; published.copies.len()];
        loop {
            let left_ms = millis(within.saturating_sub(begun.elapsed()));
            let wait_ms = left_ms.min(QUEUE_WAIT_MS_MAX);
            let timeout = self.timeout().map(|timeout| timeout.saturating_add(Duration::from_millis(wait_ms)));
            let mut pipeline = self.pipeline().timeout(timeout);
            let waiting: Vec<(usize, Ticket)> = published
                .copies
                .iter()
                .enumerate()
                .filter(|(at, _)| found[*at].is_none_or(|tracked| !until.is_reached(tracked)))
                .map(|(at, MessageCopy { queue, item, .. })| {
                    let track = QueueOperation::Track { queue: queue.clone(), item: *item, until, wait_ms };
                    (at, pipeline.submit(Operation::Queue(Box::new(track))))
                })
                .collect();
            let mut is_reached = true;
            for (at, ticket) in waiting {
                let (Answer::Queue(QueueAnswer::Tracked(tracked)), _) = ticket.wait()? else { return Err(unexpected()) };
                is_reached &= until.is_reached(tracked);
                found[at] = Some(tracked);
            }
            if is_reached || wait_ms == left_ms {
                break;
            }
        }
        let copies = published.copies.iter().zip(found);
        Ok(copies
            .filter_map(|(copy, tracked)| Some(TrackedCopy { queue: copy.queue.clone(), item: copy.item, tracked: tracked? }))
            .collect())
    }
}
