//! Many calls at once, from one thread.
//!
//! - An operation is handed in when [`Pipeline::submit`] returns; its [`Ticket`] waits for the outcome. Tickets may be waited for in
//!   any order, or dropped: the operation is done all the same.
//! - A program that does not wait for tickets has each operation sent when it is submitted, by the submitting thread. In one that submits
//!   some and waits, and again, operations leave together: at the wait, when some hundreds are there, or else after some milliseconds.
//! - A pipeline's operations are done in their order, across restarts of the broker too.
//! - So many may be outstanding and no more: `submit` waits for the oldest one then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kvbroker_protocol::limits::SESSION_WINDOW;
use kvbroker_protocol::{Answer, Failure, Operation, Outcome, Stored};

use super::error::ClientError;
use super::handle::Client;
use super::session::Asked;
use super::slot::Slot;

/// How many operations of a pipeline may be outstanding, unless [`Pipeline::depth`] says otherwise: the session's window.
pub const PIPELINE_DEPTH: usize = SESSION_WINDOW;

/// Operations that are sent without waiting for the answers before them. See [`Client::pipeline`].
#[derive(Debug)]
pub struct Pipeline {
    client: Client,
    timeout: Option<Duration>,
    depth: usize,
    /// Those that may not have ended, and some that have.
    outstanding: VecDeque<Arc<Slot>>,
    /// Slots that nobody looks at any more, to be used again.
    spare: Vec<Arc<Slot>>,
    /// Where a short operation is encoded.
    lying: Vec<u8>,
}

/// So many slots are kept to be used again.
const SPARE_MAX: usize = 1_024;

/// The outcome of a submitted operation, to be waited for.
#[derive(Debug)]
#[must_use = "an operation whose outcome nobody looks at may have failed"]
pub struct Ticket {
    client: Client,
    slot: Arc<Slot>,
    timeout: Option<Duration>,
}

impl Client {
    /// A way to have many operations outstanding at once, with the client's timeout for each.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// let mut pipeline = lab.pipeline();
    /// let tickets: Vec<_> = (0..1_000).map(|_| pipeline.incr("visits", 1)).collect();
    /// for ticket in tickets {
    ///     ticket.wait()?;
    /// }
    /// assert_eq!(lab.incr("visits", 0)?, 1_000);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn pipeline(&self) -> Pipeline {
        Pipeline {
            client: self.clone(),
            timeout: self.timeout(),
            depth: PIPELINE_DEPTH,
            outstanding: VecDeque::new(),
            spare: Vec::new(),
            lying: Vec::new(),
        }
    }
}

impl Pipeline {
    /// At most so many operations outstanding (at least 1).
    #[must_use]
    pub fn depth(mut self, depth: usize) -> Self {
        self.depth = depth.max(1);
        self
    }

    /// So long for each operation, counted from its submission. None: for ever.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// Sends an operation. Waits only while too many are outstanding.
    pub fn submit(&mut self, operation: Operation) -> Ticket {
        self.submit_asked(Asked::new(&operation))
    }

    fn submit_asked(&mut self, asked: Result<Asked, Failure>) -> Ticket {
        // Two for each one that comes: so there are soon none too many, and those whose tickets were looked at meanwhile are used again.
        for _ in 0..2 {
            if self.outstanding.front().is_some_and(|oldest| oldest.is_complete()) {
                self.forget_oldest();
            }
        }
        while self.outstanding.len() >= self.depth {
            if let Some(oldest) = self.outstanding.pop_front() {
                self.client.attend(&oldest);
            }
        }
        let slot = self.spare.pop().unwrap_or_else(|| Slot::new(1));
        self.client.submit(&slot, asked, &self.lying, self.timeout);
        self.outstanding.push_back(Arc::clone(&slot));
        Ticket { client: self.client.clone(), slot, timeout: self.timeout }
    }

    fn forget_oldest(&mut self) {
        if let Some(mut slot) = self.outstanding.pop_front()
            && self.spare.len() < SPARE_MAX
            && let Some(unused) = Arc::get_mut(&mut slot)
        {
            unused.reset();
            self.spare.push(slot);
        }
    }

    /// Stores a value.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: Stored) -> Ticket {
        let asked = Asked::put(key.as_ref(), &value, &mut self.lying);
        self.submit_asked(asked)
    }

    /// Reads a value; the answer is [`Answer::Value`], and `not_found` is a failure here.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Ticket {
        let asked = Asked::get(key.as_ref(), &mut self.lying);
        self.submit_asked(asked)
    }

    /// Adds to an integer; the answer is [`Answer::Integer`].
    pub fn incr(&mut self, key: impl AsRef<[u8]>, by: i64) -> Ticket {
        self.submit(Operation::Incr { key: key.as_ref().to_vec(), by })
    }

    /// Removes a key; `not_found` is a failure here.
    pub fn del(&mut self, key: impl AsRef<[u8]>) -> Ticket {
        self.submit(Operation::Del { key: key.as_ref().to_vec(), return_old: false, condition: None })
    }

    /// Sends what was submitted and lies here still, as far as it may leave before others are answered; for who has waited for tickets until
    /// now, and will do something else next. Does not wait.
    pub fn flush(&mut self) {
        self.client.send_off();
    }

    /// Waits until every operation has its outcome. What the outcomes are, the tickets say.
    pub fn wait_all(&mut self) {
        while let Some(oldest) = self.outstanding.pop_front() {
            self.client.attend(&oldest);
        }
    }
}

impl Drop for Pipeline {
    /// What was submitted leaves now, if it has not left yet. Does not wait.
    fn drop(&mut self) {
        self.client.send_off();
    }
}

impl Ticket {
    /// True if [`Ticket::wait`] will not wait. Who asks again and again needs nobody else: from time to time such a look sends what was
    /// submitted, and takes what has come. It never waits.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.slot.is_complete() || {
            self.client.look();
            self.slot.is_complete()
        }
    }

    /// Waits for the outcome, so long at most; true if it is there, and [`Ticket::wait`] will not wait. For programs that have other things to do
    /// at certain times.
    #[must_use]
    pub fn is_ready_within(&self, time: Duration) -> bool {
        self.slot.is_complete() || {
            self.client.attend_for(&self.slot, time);
            self.slot.is_complete()
        }
    }

    /// Waits for the answer; gives it with the revision.
    ///
    /// # Errors
    /// As [`Client::call`]; a failure that the broker answered with is [`ClientError::Failed`].
    pub fn wait(self) -> Result<(Answer, u64), ClientError> {
        let outcome = self.outcome()?;
        let answer = outcome.result.map_err(ClientError::Failed)?;
        Ok((answer, outcome.revision.unwrap_or_default()))
    }

    /// Waits for the outcome, which may be a failure that the broker answered with.
    ///
    /// # Errors
    /// There is no outcome: as [`Client::call`].
    pub fn outcome(self) -> Result<Outcome, ClientError> {
        self.client.attend(&self.slot);
        self.client.outcome(self.slot.wait_for_one(), self.timeout)
    }
}
