//! Work queues: items are pushed, pulled by whoever is free, and acknowledged when they are done.
//!
//! - A pulled item is its consumer's for a while. Only then, or when it is given back, somebody else gets it; and what the first one says
//!   about it afterwards is refused (`lease_lost`).
//! - A pull has no number in the session: if its reply is lost, the item comes back when its lease ends. Everything else is done once.
//! - Exactly once: do what an item asks for and acknowledge it in one transaction, with [`Delivery::ack_in_txn`] and [`Client::txn`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::{QUEUE_WAIT_MS_MAX, TXN_OPERATIONS_MAX};
use kvbroker_protocol::{
    Answer, Declaration, Delivery as Handed, ErrorCode, ItemId, ItemState, Operation, Operations, Outcome, Outcomes, Peeked,
    Pull, Push, QueueAnswer, QueueInfo, QueueOperation, Receipt, Stored, Tracked, Txn, Until, Wanted,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::convert::converted;
use super::delivery::{Delivery, Lease};
use super::error::ClientError;
use super::handle::Client;
use super::table::{first, unexpected};
use super::typed::{decoded_as, stored_as};

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One queue of a broker.
///
/// ```
/// # let broker = kvbroker_practice::Broker::start()?;
/// # let lab = broker.client()?;
/// use std::time::Duration;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Thumbnail { file: String, width: u32 }
///
/// let jobs = lab.queue("jobs");
/// jobs.push(&Thumbnail { file: "cat.jpg".into(), width: 120 })?;
/// while let Some(job) = jobs.pull::<Thumbnail>(Duration::ZERO)? {
///     println!("{}, {} wide, for the {}. time", job.value.file, job.value.width, job.deliveries);
///     job.ack()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Queue<'c, N> {
    client: &'c Client,
    name: N,
}

impl Client {
    /// A queue by its name. Nothing is asked yet; a queue comes into being with its first item.
    pub fn queue<N: AsRef<[u8]>>(&self, name: N) -> Queue<'_, N> {
        Queue { client: self, name }
    }

    /// What there is to tell of the queues whose names start with a prefix and that this client may use.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn queues(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<QueueInfo>, ClientError> {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let page = QueueOperation::Queues { queue: None, prefix: prefix.as_ref().to_vec(), cursor, limit: None };
            let QueueAnswer::Queues { queues, cursor: next } = self.ask_queue(page)? else { return Err(unexpected()) };
            all.extend(queues);
            cursor = next;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    fn ask_queue(&self, operation: QueueOperation) -> Result<QueueAnswer, ClientError> {
        match self.one(Operation::Queue(Box::new(operation)))?.0 {
            Answer::Queue(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    fn tell_queue(&self, operation: QueueOperation) -> Result<u64, ClientError> {
        match self.one(Operation::Queue(Box::new(operation)))? {
            (Answer::Done, revision) => Ok(revision),
            _ => Err(unexpected()),
        }
    }
}

/// What [`Queue::ack_and_pull`] was answered.
#[derive(Debug)]
pub struct Next<'c, T> {
    /// As [`Queue::ack`]: the revision, or why it was refused; `lease_lost` if the delivery was over.
    pub acked: Result<u64, ClientError>,
    /// As [`Queue::pull`]: the next item, if there was one.
    pub pulled: Result<Option<Delivery<'c, T>>, ClientError>,
}

impl<'c, N: AsRef<[u8]>> Queue<'c, N> {
    pub(super) fn client(&self) -> &'c Client {
        self.client
    }

    pub(super) fn name(&self) -> Vec<u8> {
        self.name.as_ref().to_vec()
    }

    /// A push to this queue, to be filled in further and given to [`Queue::push_as`] or into a transaction.
    pub fn item(&self, value: Stored) -> Push {
        Push { queue: self.name(), value, priority: 0, delay_ms: 0, ttl_ms: None, content_type: None }
    }

    /// Appends a value of any serializable type. Gives the item's id.
    ///
    /// # Errors
    /// See [`ClientError`]; `queue_full` where a declared limit is reached.
    pub fn push<T: Serialize + ?Sized>(&self, value: &T) -> Result<ItemId, ClientError> {
        self.push_as(self.item(stored_as(value)?))
    }

    /// Appends an item as it is described.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn push_as(&self, push: Push) -> Result<ItemId, ClientError> {
        match self.client.ask_queue(QueueOperation::Push(push))? {
            QueueAnswer::Pushed { item, .. } => Ok(item),
            _ => Err(unexpected()),
        }
    }

    /// Takes an item, and waits for one if there is none: so long at most. None: there was none.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Decode`] for a value of another type: the item comes back when its lease ends.
    pub fn pull<T: DeserializeOwned>(&self, wait: Duration) -> Result<Option<Delivery<'c, T>>, ClientError> {
        let (items, lease) = self.pull_as(self.pull_of_one(millis(wait)))?;
        self.delivered(items, lease)
    }

    fn pull_of_one(&self, wait_ms: u64) -> Pull {
        Pull { queue: self.name(), limit: 1, lease_ms: None, wait_ms, no_ack: false }
    }

    fn delivered<T: DeserializeOwned>(
        &self,
        items: Vec<Handed>,
        lease: Duration,
    ) -> Result<Option<Delivery<'c, T>>, ClientError> {
        let Some(item) = items.into_iter().next() else { return Ok(None) };
        let value = decoded_as(self.name.as_ref(), &item.value)?;
        let lease = Arc::new(Lease::new(item.receipt, lease, Instant::now()));
        Ok(Some(Delivery::new(self.client, self.name.as_ref(), item, value, lease)))
    }

    /// Takes items as described, and tells for how long; waits that are longer than a broker takes are begun again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn pull_as(&self, pull: Pull) -> Result<(Vec<Handed>, Duration), ClientError> {
        self.pull_wanted(pull, &Wanted::default())
    }

    /// As [`Queue::pull_as`], with the values converted.
    pub(super) fn pull_wanted(&self, pull: Pull, wanted: &Wanted) -> Result<(Vec<Handed>, Duration), ClientError> {
        let mut left_ms = pull.wait_ms;
        loop {
            let wait_ms = left_ms.min(QUEUE_WAIT_MS_MAX);
            left_ms -= wait_ms;
            let operation = Operation::Queue(Box::new(QueueOperation::Pull(Pull { wait_ms, ..pull.clone() })));
            let timeout = self.client.timeout().map(|timeout| timeout.saturating_add(Duration::from_millis(wait_ms)));
            let reply = self.client.call_within(Operations::One(converted(operation, wanted)), timeout)?;
            let (Answer::Queue(QueueAnswer::Pulled { items, lease_ms }), _) = first(reply)? else { return Err(unexpected()) };
            if !items.is_empty() || left_ms == 0 {
                return Ok((items, Duration::from_millis(lease_ms)));
            }
        }
    }

    /// The item of a delivery is done. Gives the revision.
    ///
    /// # Errors
    /// See [`ClientError`]; `lease_lost` if the delivery is over: somebody else may have the item.
    pub fn ack(&self, receipt: Receipt) -> Result<u64, ClientError> {
        self.client.tell_queue(QueueOperation::Ack { queue: self.name(), receipt })
    }

    /// The item of a delivery is done, and the next one is wanted: [`Queue::ack`] and [`Queue::pull`], asked for together. A consumer that has the
    /// next item waiting for it gets it a round trip earlier, and the log is synced once for both if they come to the broker together, as they
    /// mostly do. They are two operations: an acknowledgement that is refused does not keep the next item away.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use std::time::Duration;
    ///
    /// let (jobs, wait) = (lab.queue("jobs"), Duration::from_millis(10));
    /// jobs.push("cat.jpg")?;
    /// jobs.push("dog.jpg")?;
    /// let mut job = jobs.pull::<String>(wait)?;
    /// while let Some(at_hand) = job {
    ///     println!("{}", at_hand.value);
    ///     let next = at_hand.ack_and_pull(wait)?;
    ///     next.acked?;
    ///     job = next.pulled?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError`] where there is no answer to both. What was answered to each is in [`Next`].
    pub fn ack_and_pull<T: DeserializeOwned>(&self, receipt: Receipt, wait: Duration) -> Result<Next<'c, T>, ClientError> {
        let wait_ms = millis(wait).min(QUEUE_WAIT_MS_MAX);
        let operations = [QueueOperation::Ack { queue: self.name(), receipt }, QueueOperation::Pull(self.pull_of_one(wait_ms))];
        let operations = operations.map(|operation| Operation::Queue(Box::new(operation))).into();
        let timeout = self.client.timeout().map(|timeout| timeout.saturating_add(Duration::from_millis(wait_ms)));
        let reply = self.client.call_within(Operations::Many(operations), timeout)?;
        let Outcomes::Many(outcomes) = reply.outcomes else { return Err(unexpected()) };
        let Ok([acked, pulled]) = <[Outcome; 2]>::try_from(outcomes) else { return Err(unexpected()) };
        let acked = match acked.result {
            Ok(Answer::Done) => Ok(acked.revision.unwrap_or_default()),
            Ok(_) => Err(unexpected()),
            Err(failure) => Err(ClientError::Failed(failure)),
        };
        let left = wait.saturating_sub(Duration::from_millis(wait_ms));
        let pulled = match pulled.result {
            Ok(Answer::Queue(QueueAnswer::Pulled { items, .. })) if items.is_empty() && left > Duration::ZERO => self.pull(left),
            Ok(Answer::Queue(QueueAnswer::Pulled { items, lease_ms })) => self.delivered(items, Duration::from_millis(lease_ms)),
            Ok(_) => Err(unexpected()),
            Err(failure) => Err(ClientError::Failed(failure)),
        };
        Ok(Next { acked, pulled })
    }

    /// The items of several deliveries are done: all in one message, and all or none in one transaction of up to a thousand. Where a delivery is
    /// over, the others of its transaction are acknowledged one by one. Gives those that were over: somebody else may have their items.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ack_all(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, ClientError> {
        let is_lost = |error: &ClientError| error.code() == Some(ErrorCode::LeaseLost);
        let mut lost = Vec::new();
        for part in receipts.chunks(TXN_OPERATIONS_MAX) {
            match self.client.one(self.ack_in_txn(part)) {
                Ok(_) => {}
                Err(error) if is_lost(&error) => {
                    for receipt in part {
                        match self.ack(*receipt) {
                            Ok(_) => {}
                            Err(error) if is_lost(&error) => lost.push(*receipt),
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(lost)
    }

    /// The acknowledgement of several deliveries (a thousand at most) as one operation, for a [pipeline](Client::pipeline): a transaction, which
    /// fails as a whole with `lease_lost` if one of them is over.
    #[must_use]
    pub fn ack_in_txn(&self, receipts: &[Receipt]) -> Operation {
        let ack = |receipt: &Receipt| {
            let ack = QueueOperation::Ack { queue: self.name(), receipt: *receipt };
            Operation::Queue(Box::new(ack))
        };
        Operation::Txn(Box::new(Txn { compares: Vec::new(), then: receipts.iter().map(ack).collect(), otherwise: Vec::new() }))
    }

    /// The item of a delivery comes back, after a while if one is given; the queue's own rest otherwise. Gives the revision.
    ///
    /// # Errors
    /// As [`Queue::ack`].
    pub fn nack(&self, receipt: Receipt, delay: Option<Duration>, reason: &str) -> Result<u64, ClientError> {
        let (delay_ms, reason) = (delay.map(millis), reason.to_owned());
        self.client.tell_queue(QueueOperation::Nack { queue: self.name(), receipt, delay_ms, reason, unused: false })
    }

    /// The item of a delivery comes back at once, as if it had not been delivered: nobody has begun it. Gives the revision.
    ///
    /// # Errors
    /// As [`Queue::ack`].
    pub fn give_back(&self, receipt: Receipt) -> Result<u64, ClientError> {
        let reason = String::new();
        self.client.tell_queue(QueueOperation::Nack { queue: self.name(), receipt, delay_ms: None, reason, unused: true })
    }

    /// Tells how far an item has come, and waits until it is so far: for so long at most. [`Until::is_reached`] says whether it is.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use std::time::Duration;
    ///
    /// use kvbroker_protocol::{Progress, Until};
    ///
    /// let jobs = lab.queue("jobs");
    /// let item = jobs.push("cat.jpg")?;
    /// let consumer = jobs.notify(1, |job: &kvbroker::client::Delivery<'_, String>| println!("{}", job.value));
    /// assert_eq!(jobs.track(item, Until::Done, Duration::from_secs(60))?.progress, Progress::Done);
    /// # drop(consumer);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// See [`ClientError`]; `not_found` for an item that was never pushed.
    pub fn track(&self, item: ItemId, until: Until, wait: Duration) -> Result<Tracked, ClientError> {
        let mut left_ms = millis(wait);
        loop {
            let wait_ms = left_ms.min(QUEUE_WAIT_MS_MAX);
            left_ms -= wait_ms;
            let operation = QueueOperation::Track { queue: self.name(), item, until, wait_ms };
            let timeout = self.client.timeout().map(|timeout| timeout.saturating_add(Duration::from_millis(wait_ms)));
            let reply = self.client.call_within(Operations::One(Operation::Queue(Box::new(operation))), timeout)?;
            let (Answer::Queue(QueueAnswer::Tracked(tracked)), _) = first(reply)? else { return Err(unexpected()) };
            if until.is_reached(tracked) || left_ms == 0 {
                return Ok(tracked);
            }
        }
    }

    /// The lease of a delivery runs so long from now on; its own period if none is given.
    ///
    /// # Errors
    /// As [`Queue::ack`].
    pub fn extend(&self, receipt: Receipt, lease: Option<Duration>) -> Result<(), ClientError> {
        let lease_ms = lease.map(millis);
        self.client.tell_queue(QueueOperation::Extend { queue: self.name(), receipt, lease_ms }).map(|_| ())
    }

    /// Sets an item aside, with the reason. One that a consumer has is named with the token of its delivery.
    ///
    /// # Errors
    /// As [`Queue::ack`]; `not_found`, `conflict` for an item that somebody has.
    pub fn bury(&self, item: ItemId, token: Option<u64>, reason: &str) -> Result<u64, ClientError> {
        let reason = reason.to_owned();
        self.client.tell_queue(QueueOperation::Bury { queue: self.name(), item, token, reason })
    }

    /// Makes the first dead items, at most so many, ready again, or a single one. Gives their number.
    ///
    /// # Errors
    /// See [`ClientError`]; `not_found` for a queue or an item that is not there.
    pub fn kick(&self, item: Option<ItemId>, limit: Option<usize>) -> Result<u64, ClientError> {
        let mut all = 0;
        loop {
            let left = limit.map(|limit| limit.saturating_sub(usize::try_from(all).unwrap_or(usize::MAX)));
            if left == Some(0) {
                return Ok(all);
            }
            match self.client.ask_queue(QueueOperation::Kick { queue: self.name(), item, limit: left })? {
                QueueAnswer::Kicked { kicked, more } => {
                    all += kicked;
                    if !more || kicked == 0 {
                        return Ok(all);
                    }
                }
                _ => return Err(unexpected()),
            }
        }
    }

    /// Removes all items that nobody has, or those of a state. Gives their number.
    ///
    /// # Errors
    /// See [`ClientError`]; `not_found` for a queue that is not there.
    pub fn purge(&self, state: Option<ItemState>) -> Result<u64, ClientError> {
        let mut all = 0;
        loop {
            let purge = QueueOperation::Purge { queue: self.name(), state, limit: None };
            match self.client.one(Operation::Queue(Box::new(purge)))?.0 {
                Answer::Deleted { removed, more } => {
                    all += removed;
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(unexpected()),
            }
        }
    }

    /// Shows the first items of a state, at most so many.
    ///
    /// # Errors
    /// See [`ClientError`]; `not_found` for a queue that is not there.
    pub fn peek(&self, state: ItemState, limit: usize) -> Result<Vec<Peeked>, ClientError> {
        let (mut all, mut cursor): (Vec<Peeked>, _) = (Vec::new(), None);
        while all.len() < limit {
            let limit = Some(limit - all.len());
            match self.client.ask_queue(QueueOperation::Peek { queue: self.name(), state, limit, cursor })? {
                QueueAnswer::Peeked { items, cursor: next } => {
                    all.extend(items);
                    cursor = next;
                }
                _ => return Err(unexpected()),
            }
            if cursor.is_none() {
                break;
            }
        }
        Ok(all)
    }

    /// What there is to tell of the queue; None: there is none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn info(&self) -> Result<Option<QueueInfo>, ClientError> {
        let ask = QueueOperation::Queues { queue: Some(self.name()), prefix: Vec::new(), cursor: None, limit: None };
        match self.client.ask_queue(ask) {
            Ok(QueueAnswer::Queues { queues, .. }) => Ok(queues.into_iter().next()),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the queue, or changes its settings; those that are not given stay. Gives the revision.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn declare(&self, options: Declaration) -> Result<u64, ClientError> {
        self.client.tell_queue(QueueOperation::Declare { queue: self.name(), options })
    }

    /// Removes the queue, which must be empty. Gives the revision.
    ///
    /// # Errors
    /// See [`ClientError`]; `conflict` while there are items, `not_found` for a queue that is not there.
    pub fn drop_queue(&self) -> Result<u64, ClientError> {
        self.client.tell_queue(QueueOperation::Drop { queue: self.name() })
    }
}
