//! A consumer: a callback for each item of a queue, several at a time, with leases that are kept alive.
//!
//! - *Credit* is the most items that are this consumer's at a time. So many are asked for as there is credit left, in one pull that waits: the
//!   broker answers it the moment there is an item. Nothing is ever pushed to a consumer beyond its credit.
//! - Of what it holds so many are handled at a time as there are handlers; the rest stands ready (*prefetch*).
//! - A lease is extended from a third of it on, for what is handled and for what stands ready. A handler is warned before it ends
//!   ([`Delivery::is_ending`]), and told when the item is not its own any more ([`Delivery::is_lost`]).
//! - What fails comes back after a pause that doubles with each delivery.
//! - *Draining*: nothing new is asked for, what is handled comes to its end, and what nobody has begun is given back as unused, which counts
//!   as no delivery.
//!
//! Caveat: a pull that waits at the broker can't be called back. Draining waits for it, [`POLL`] at most; what it brings is given back.

mod desk;

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kvbroker_protocol::limits::QUEUE_ITEMS_MAX;
use kvbroker_protocol::{Stored, Wanted};
use serde::de::DeserializeOwned;

use super::delivery::Delivery;
use super::error::ClientError;
use super::handle::Client;
use super::queue::Queue;
use super::typed::decoded_as;
use desk::Desk;

/// How long one pull waits at the broker.
const POLL: Duration = Duration::from_secs(1);
/// Pauses of items that failed: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What a handler says about its item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// It failed, for this reason, and comes back after a pause that grows.
    Failed(String),
    /// It failed, for this reason, and comes back after so long.
    Later(Duration, String),
    /// It can't be done at all, for this reason.
    Bury(String),
    /// The handler has said it itself: by a transaction, for example.
    Said,
}

impl From<()> for Verdict {
    fn from((): ()) -> Verdict {
        Verdict::Done
    }
}

impl<V: Into<Verdict>, E: fmt::Display> From<Result<V, E>> for Verdict {
    fn from(result: Result<V, E>) -> Verdict {
        match result {
            Ok(said) => said.into(),
            Err(error) => Verdict::Failed(error.to_string()),
        }
    }
}

/// What became of the items of a consumer that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Done.
    pub done: u64,
    /// Came back, or were buried.
    pub failed: u64,
    /// Were not this consumer's any more when it was to say something about them.
    pub lost: u64,
    /// Given back without having been begun.
    pub unused: u64,
}

/// Makes a consumer, and all its clones, come to an end.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<AtomicBool>);

impl Drain {
    /// Nothing is drained yet.
    #[must_use]
    pub fn new() -> Drain {
        Drain::default()
    }

    /// Nothing new is begun from now on.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True once that was said.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How the items of a queue are consumed; [`Consumer::run`] does it.
#[derive(Clone, Debug)]
pub struct Consumer<'c> {
    client: &'c Client,
    queue: Vec<u8>,
    credit: usize,
    handlers: Option<usize>,
    lease: Option<Duration>,
    retry: (Duration, Duration),
    idle: Option<Duration>,
    items: Option<u64>,
    no_ack: bool,
    wanted: Wanted,
    drain: Drain,
}

impl<'c, N: AsRef<[u8]>> Queue<'c, N> {
    /// A consumer of this queue: one item at a time, without end, unless it is told otherwise.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use std::time::Duration;
    ///
    /// let jobs = lab.queue("jobs");
    /// for file in ["cat.jpg", "dog.jpg", "notes.txt"] {
    ///     jobs.push(&file)?;
    /// }
    /// let served = jobs.consumer().credit(2).until_idle(Duration::from_millis(50)).retry(Duration::from_secs(9), Duration::from_secs(9)).run(
    ///     |job: &kvbroker::client::Delivery<'_, String>| match job.value.strip_suffix(".jpg") {
    ///         Some(name) => Ok(println!("a thumbnail of the {name}")),
    ///         None => Err("not a picture"),
    ///     },
    /// )?;
    /// assert_eq!((served.done, served.failed), (2, 1));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn consumer(&self) -> Consumer<'c> {
        Consumer {
            client: self.client(),
            queue: self.name(),
            credit: 1,
            handlers: None,
            lease: None,
            retry: RETRY,
            idle: None,
            items: None,
            no_ack: false,
            wanted: Wanted::default(),
            drain: Drain::new(),
        }
    }

    /// Calls `handler` for each item as it comes, for `credit` of them at a time, on threads of its own, until the [`Notifier`] is drained or
    /// dropped.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker::client::Delivery;
    ///
    /// let (tell, told) = std::sync::mpsc::channel();
    /// let notifier = lab.queue("jobs").notify(8, move |job: &Delivery<'_, String>| tell.send(job.value.clone()));
    /// lab.queue("jobs").push("cat.jpg")?;
    /// assert_eq!(told.recv()?, "cat.jpg");
    /// assert_eq!(notifier.drain()?.done, 1);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn notify<T, V, H>(&self, credit: usize, handler: H) -> Notifier
    where
        T: DeserializeOwned,
        V: Into<Verdict>,
        H: Fn(&Delivery<'_, T>) -> V + Send + Sync + 'static,
    {
        let (client, queue, drain) = (self.client().clone(), self.name(), Drain::new());
        let thread = {
            let drain = drain.clone();
            std::thread::spawn(move || client.queue(queue).consumer().credit(credit).drained_by(drain).run(handler))
        };
        Notifier { drain, thread: Some(thread) }
    }
}

/// A consumer that runs on threads of its own; dropping it drains it.
#[derive(Debug)]
#[must_use = "dropping it ends the consumer"]
pub struct Notifier {
    drain: Drain,
    thread: Option<JoinHandle<Result<Served, ClientError>>>,
}

impl Notifier {
    /// Lets the handlers that run come to their end, gives back what was not begun, and tells what became of all.
    ///
    /// # Errors
    /// What has ended the consumer before, see [`Consumer::run`].
    ///
    /// # Panics
    /// If a handler did.
    pub fn drain(mut self) -> Result<Served, ClientError> {
        self.drain.begin();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(served)) => served,
            Some(Err(panic)) => resume_unwind(panic),
            None => Ok(Served::default()),
        }
    }

    /// True once it has ended by itself, as after an error.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.drain.begin();
        if let Some(thread) = self.thread.take() {
            // What has ended it is nobody's business any more.
            let _ = thread.join();
        }
    }
}

impl Consumer<'_> {
    /// At most so many items are this consumer's at a time; at least one, and 1,000 at most.
    #[must_use]
    pub fn credit(mut self, items: usize) -> Self {
        self.credit = items.clamp(1, QUEUE_ITEMS_MAX);
        self
    }

    /// So many of them are handled at a time, each on a thread of its own; all of them unless this says otherwise. The rest stands ready.
    #[must_use]
    pub fn handlers(mut self, handlers: usize) -> Self {
        self.handlers = Some(handlers);
        self
    }

    /// Leases run so long, instead of as the queue is declared; they are extended all the same.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// What fails comes back after `first`, and after twice as long each further time, up to `longest`. 1 s and 60 s unless told otherwise.
    #[must_use]
    pub fn retry(mut self, first: Duration, longest: Duration) -> Self {
        self.retry = (first, longest.max(first));
        self
    }

    /// Ends when no item has come for so long, and none is handled.
    #[must_use]
    pub fn until_idle(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Ends after so many items.
    #[must_use]
    pub fn items(mut self, items: u64) -> Self {
        self.items = Some(items);
        self
    }

    /// Items are removed as they are handed out: at most once.
    #[must_use]
    pub fn no_ack(mut self) -> Self {
        self.no_ack = true;
        self
    }

    /// Items are converted as they are handed out; see [`Reading`](super::Reading).
    #[must_use]
    pub fn reading(mut self, wanted: Wanted) -> Self {
        self.wanted = wanted;
        self
    }

    /// Ends when this is begun.
    #[must_use]
    pub fn drained_by(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// Calls `handler` for each item until there is an end: none, unless the consumer was told one. An item whose value is of another type
    /// fails like one whose handler has.
    ///
    /// # Errors
    /// [`ClientError`] of what the consumer could not ask or say; the handlers that run have ended then, and what was not begun comes back.
    ///
    /// # Panics
    /// If a handler did, once the others have ended. Its item has failed.
    pub fn run<T, V, H>(&self, handler: H) -> Result<Served, ClientError>
    where
        T: DeserializeOwned,
        V: Into<Verdict>,
        H: Fn(&Delivery<'_, T>) -> V + Sync,
    {
        self.run_with(|value: &Stored| decoded_as(&self.queue, value), handler)
    }

    /// As [`Consumer::run`], with values as they were written.
    ///
    /// # Errors
    /// As [`Consumer::run`].
    pub fn run_stored<V, H>(&self, handler: H) -> Result<Served, ClientError>
    where
        V: Into<Verdict>,
        H: Fn(&Delivery<'_, Stored>) -> V + Sync,
    {
        self.run_with(|value: &Stored| Ok(value.clone()), handler)
    }

    fn run_with<T, V: Into<Verdict>>(
        &self,
        decode: impl Fn(&Stored) -> Result<T, ClientError> + Sync,
        handler: impl Fn(&Delivery<'_, T>) -> V + Sync,
    ) -> Result<Served, ClientError> {
        let desk = Desk::new(self);
        let handlers = self.handlers.unwrap_or(self.credit).clamp(1, self.credit);
        std::thread::scope(|scope| {
            for _ in 0..handlers {
                scope.spawn(|| desk.handle(&decode, &handler));
            }
            scope.spawn(|| desk.keep());
            desk.fetch();
        });
        desk.result()
    }
}
