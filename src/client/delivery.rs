//! An item that this client has, and how long it has it.
//!
//! - A lease is reckoned by this machine's clock from when the answer came: it can end a moment earlier at the broker. What says that a delivery
//!   is over for certain is the broker, which refuses what is said about it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvbroker_protocol::{Delivery as Handed, ErrorCode, Operation, QueueOperation, Receipt};
use serde::de::DeserializeOwned;

use super::error::ClientError;
use super::handle::Client;
use super::queue::Next;

/// How long a delivery is this client's.
#[derive(Debug)]
pub(super) struct Lease {
    receipt: Receipt,
    period: Duration,
    ends: Mutex<Option<Instant>>,
    is_refused: AtomicBool,
}

impl Lease {
    pub(super) fn new(receipt: Receipt, period: Duration, from: Instant) -> Lease {
        let lease = Lease { receipt, period, ends: Mutex::new(None), is_refused: AtomicBool::new(false) };
        lease.runs_from(from);
        lease
    }

    pub(super) fn receipt(&self) -> Receipt {
        self.receipt
    }

    pub(super) fn period(&self) -> Duration {
        self.period
    }

    /// False of an item that was removed as it was handed out.
    pub(super) fn is_one(&self) -> bool {
        self.receipt.token > 0
    }

    /// It was extended.
    pub(super) fn runs_from(&self, from: Instant) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = from.checked_add(self.period);
    }

    /// The broker says that it has ended.
    pub(super) fn is_over(&self) {
        self.is_refused.store(true, Ordering::Release);
    }

    /// How long it runs still; None: for ever.
    fn left(&self) -> Option<Duration> {
        if !self.is_one() {
            return None;
        }
        if self.is_refused.load(Ordering::Acquire) {
            return Some(Duration::ZERO);
        }
        let ends = *self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.map(|ends| ends.saturating_duration_since(Instant::now()))
    }
}

/// An item that this client has, until its lease ends or something is said about it.
#[derive(Clone)]
pub struct Delivery<'c, T> {
    client: &'c Client,
    queue: Arc<[u8]>,
    lease: Arc<Lease>,
    /// Names the delivery.
    pub receipt: Receipt,
    /// What was pushed.
    pub value: T,
    /// How often the item was handed out, this time included.
    pub deliveries: u32,
    /// Its priority.
    pub priority: i8,
    /// What the value is, as its push said.
    pub content_type: Option<String>,
    /// The subject of the message that it is a copy of.
    pub subject: Option<Vec<u8>>,
    /// Why it came back, or why it is in a queue for what is dead; empty: neither.
    pub reason: String,
}

impl<T: fmt::Debug> fmt::Debug for Delivery<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.queue.escape_ascii().to_string();
        f.debug_struct("Delivery")
            .field("queue", &queue)
            .field("receipt", &self.receipt)
            .field("value", &self.value)
            .finish_non_exhaustive()
    }
}

impl<'c, T> Delivery<'c, T> {
    pub(super) fn new(client: &'c Client, queue: &[u8], handed: Handed, value: T, lease: Arc<Lease>) -> Delivery<'c, T> {
        let Handed { receipt, deliveries, priority, content_type, subject, reason, .. } = handed;
        Delivery { client, queue: queue.into(), lease, receipt, value, deliveries, priority, content_type, subject, reason }
    }

    /// It is done. Gives the revision.
    ///
    /// # Errors
    /// As [`Queue::ack`](super::Queue::ack).
    pub fn ack(self) -> Result<u64, ClientError> {
        self.client.queue(&self.queue).ack(self.receipt)
    }

    /// It is done, and the next one is wanted; see [`Queue::ack_and_pull`](super::Queue::ack_and_pull).
    ///
    /// # Errors
    /// As there.
    pub fn ack_and_pull(self, wait: Duration) -> Result<Next<'c, T>, ClientError>
    where
        T: DeserializeOwned,
    {
        self.client.queue(&self.queue).ack_and_pull(self.receipt, wait)
    }

    /// It comes back, after a while if one is given. Gives the revision.
    ///
    /// # Errors
    /// As [`Queue::ack`](super::Queue::ack).
    pub fn nack(self, delay: Option<Duration>, reason: &str) -> Result<u64, ClientError> {
        self.client.queue(&self.queue).nack(self.receipt, delay, reason)
    }

    /// It takes longer: it is this client's for another period from now on.
    ///
    /// # Errors
    /// As [`Queue::ack`](super::Queue::ack).
    pub fn extend(&self) -> Result<(), ClientError> {
        let now = Instant::now();
        match self.client.queue(&self.queue).extend(self.receipt, Some(self.lease.period())) {
            Ok(()) => self.lease.runs_from(now),
            Err(error) => {
                if error.code() == Some(ErrorCode::LeaseLost) {
                    self.lease.is_over();
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// For how long it is this client's, each time that the lease is extended.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease.period()
    }

    /// How long it is this client's still, by this machine's clock. None: for ever, since it needs no acknowledgement.
    #[must_use]
    pub fn lease_left(&self) -> Option<Duration> {
        self.lease.left()
    }

    /// The early warning: two thirds of the lease have passed, and nobody has extended it. A [`Consumer`](super::Consumer) does so long before,
    /// unless the broker can't be reached.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.lease.left().is_some_and(|left| left <= self.lease.period() / 3)
    }

    /// The lease has ended: somebody else may have the item now, and nothing that is said about it counts.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lease.left().is_some_and(|left| left.is_zero())
    }

    /// The acknowledgement as an operation, for a transaction.
    #[must_use]
    pub fn ack_in_txn(&self) -> Operation {
        Operation::Queue(Box::new(QueueOperation::Ack { queue: self.queue.to_vec(), receipt: self.receipt }))
    }
}
