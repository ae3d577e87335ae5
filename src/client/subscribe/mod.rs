//! Messages as they are published: live, to whoever listens.
//!
//! - The broker's publisher sends the messages of each pattern as a chain: one says behind which revision it is complete. Nobody keeps
//!   messages, so that what is missing in the chain can't be asked for; it is told as a gap, and never passed over in silence.
//! - A broker that is away is waited for. What was published meanwhile is in a gap.
//! - A subscription ends by an error only where waiting would not help.
//! - Who must have every message binds a queue instead: [`Queue::bind`](super::Queue::bind).
//!
//! The rooms: `chain` what is told, without sockets; here the connection and the clock.

mod chain;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_protocol::{ErrorCode, Failure, Key, PublishedMessages, Stored, message_stream_topic, subject_pattern};
use serde::de::DeserializeOwned;

use super::bell::Bell;
use super::error::ClientError;
use super::handle::{Client, timeout_text};
use super::typed::decoded_as;
use super::watch::{Came, Link, subscribe, unsubscribe};
use chain::Chain;

/// How long the stream may say nothing at first before it is subscribed to again, and the longest such pause.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// And later: a stream says something every 30 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Pause where it can't be waited for messages.
const STUCK: Duration = Duration::from_millis(10);

/// A message that was published.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The revision that it was published at. Those of one transaction have the same.
    pub revision: u64,
    /// When that was, by the broker's time, milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// What it is about.
    pub subject: Key,
    /// The value; one that was written as JSON comes as MessagePack.
    pub value: Stored,
}

impl Message {
    /// The value as a type.
    ///
    /// # Errors
    /// [`ClientError::Decode`] for a value of another type.
    pub fn value_as<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        decoded_as(&self.subject, &self.value)
    }
}

/// What a subscription tells, in the order of revisions.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A message.
    Message(Message),
    /// Messages that were published behind the one revision and up to the other may be missing, or there were none. They can't be had any
    /// more.
    Gap {
        /// Everything up to this revision was told.
        after: u64,
        /// What is behind this one is told from here on.
        up_to: u64,
    },
    /// The table has another history now, or its last changes were undone: revisions go on behind this one, and what was told before counts
    /// in another order.
    OtherHistory {
        /// What is behind this revision is told from here on.
        revision: u64,
    },
}

/// Messages about subjects of one pattern. It goes on for ever, so that only an error or dropping it ends it.
pub struct Subscription {
    client: Client,
    bell: Arc<Bell>,
    link: Link,
    topic: Vec<u8>,
    chain: Chain,
    /// Since then nothing came on the stream, and how long that may be so.
    quiet_since: Instant,
    patience: Duration,
    has_ended: bool,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("chain", &self.chain).field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

impl Client {
    /// Listens to what is published about subjects of a pattern: `*` is any one token, `#` any number of them. Everything is told that is
    /// published after this returns, or that it is missing.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker::client::Told;
    ///
    /// let subscription = lab.subscribe("orders.*")?;
    /// lab.publish("orders.new", &7)?;
    /// for told in subscription {
    ///     match told? {
    ///         Told::Message(message) => {
    ///             println!("revision {}: order {}", message.revision, message.value_as::<u32>()?);
    /// #           break;
    ///         }
    ///         Told::Gap { after, up_to } => println!("revisions {after} to {up_to} may be missing"),
    ///         Told::OtherHistory { revision } => println!("the table was set back to revision {revision}"),
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// The broker keeps no message for its listeners. What is published while nobody listens, while the broker is not reached, or faster than
    /// this program reads is gone, and told as [`Told::Gap`]. A queue that is [bound](super::Queue::bind) to the pattern keeps all of it.
    ///
    /// # Errors
    /// `invalid` or `limit` for what is no pattern; no more file descriptors; as [`Subscription::next`]; [`ClientError::TimedOut`] if the
    /// broker's publisher is not heard in time.
    pub fn subscribe(&self, pattern: impl AsRef<[u8]>) -> Result<Subscription, ClientError> {
        let pattern = subject_pattern(pattern.as_ref().to_vec()).map_err(ClientError::Failed)?;
        let bell = Arc::new(Bell::new().map_err(ClientError::System)?);
        let now = Instant::now();
        let mut link = Link::new(self.clone());
        link.turn_on(now);
        let mut subscription = Subscription {
            client: self.clone(),
            bell,
            link,
            topic: message_stream_topic(&pattern),
            chain: Chain::default(),
            quiet_since: now,
            patience: PATIENCE.0,
            has_ended: false,
        };
        let timeout = self.timeout();
        let until = timeout.and_then(|timeout| now.checked_add(timeout));
        while !subscription.chain.has_begun() {
            if until.is_some_and(|until| until <= Instant::now()) {
                let trouble = subscription
                    .link
                    .socket()
                    .map(|_| "its publisher does not tell of this pattern; has it room for one more?".to_owned());
                return Err(ClientError::TimedOut { project: self.project().to_owned(), waited: timeout_text(timeout), trouble });
            }
            subscription.turn(until)?;
        }
        Ok(subscription)
    }
}

impl Subscription {
    /// What is told next, if it comes until `until` (None: for ever).
    ///
    /// # Errors
    /// The subscription can't go on, and has ended: `refused` where the broker does not admit this client to what it publishes;
    /// [`ClientError::Closed`].
    pub fn next(&mut self, until: Option<Instant>) -> Result<Option<Told>, ClientError> {
        loop {
            if let Some(told) = self.chain.take() {
                return Ok(Some(told));
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                // What has come is there for whoever does not want to wait.
                while self.look(Instant::now())? {
                    if let Some(told) = self.chain.take() {
                        return Ok(Some(told));
                    }
                }
                return Ok(None);
            }
            self.turn(until)?;
        }
    }

    /// The revision up to which everything was told once [`Subscription::next`] had nothing more to tell, gaps aside.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.chain.revision()
    }

    /// Takes one message of the stream, or waits for it until then at most.
    fn turn(&mut self, until: Option<Instant>) -> Result<(), ClientError> {
        let now = Instant::now();
        if self.look(now)? {
            return Ok(());
        }
        let quiet = self.link.socket().map(|_| self.quiet_since + self.patience);
        let wake = [self.link.due(), quiet, until].into_iter().flatten().min();
        match self.link.wait(&self.bell, wake.map(|wake| wake.saturating_duration_since(now))) {
            Ok(true) => self.bell.hush(),
            Ok(false) => {}
            Err(error) => {
                // The context can't have ended while it is shared; don't spin on what is left.
                tracing::warn!(target: "kvbroker::subscribe", %error, "can't wait for messages");
                std::thread::sleep(STUCK);
            }
        }
        Ok(())
    }

    /// Takes what has come, up to a message of the stream; true if there was one.
    fn look(&mut self, now: Instant) -> Result<bool, ClientError> {
        if self.client.is_closed() {
            self.has_ended = true;
            return Err(ClientError::Closed);
        }
        while let Some(came) = self.link.next(now, &self.bell) {
            match came {
                Came::Message { topic, body } if *topic == *self.topic => match PublishedMessages::decode(&topic, &body) {
                    Ok(Some((_, message))) => {
                        (self.quiet_since, self.patience) = (now, SILENCE_MAX);
                        self.chain.heard(message);
                        return Ok(true);
                    }
                    Ok(None) => {}
                    // What it told is missing in the chain, and the next message shows that.
                    Err(failure) => tracing::warn!(target: "kvbroker::subscribe", "{failure}"),
                },
                Came::Message { .. } | Came::Heartbeat { .. } => {}
                Came::Up => {
                    (self.quiet_since, self.patience) = (now, PATIENCE.0);
                    if let Some(socket) = self.link.socket() {
                        subscribe(socket, &self.topic);
                    }
                }
                Came::Lost(why) => tracing::info!(target: "kvbroker::subscribe", "{why}; what is published meanwhile is missed"),
                Came::Nothing { is_restricted } => return Err(self.end(not_admitted(is_restricted))),
                Came::Refused(failure) => return Err(self.end(failure)),
            }
        }
        if let Some(socket) = self.link.socket()
            && self.quiet_since + self.patience <= now
        {
            // The subscription was lost, or there was no room for the stream.
            unsubscribe(socket, &self.topic);
            subscribe(socket, &self.topic);
            (self.quiet_since, self.patience) = (now, (2 * self.patience).min(PATIENCE.1));
        }
        Ok(false)
    }

    fn end(&mut self, failure: Failure) -> ClientError {
        self.has_ended = true;
        ClientError::Failed(failure)
    }
}

fn not_admitted(is_restricted: bool) -> Failure {
    let why = if is_restricted {
        "this client's key may use only some prefixes, and what the publisher sends can't be restricted to them"
    } else {
        "the broker's publisher can't be reached on this network"
    };
    let instead = "bind a queue to the pattern and pull from it instead: kvclient PROJECT bind QUEUE PATTERN";
    Failure::new(ErrorCode::Refused, format!("{why}; {instead}"))
}

impl Iterator for Subscription {
    type Item = Result<Told, ClientError>;

    /// Waits for what is told next; None: it has ended with an error, which was given before.
    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        Subscription::next(self, None).transpose()
    }
}

const _: fn() = || {
    fn may_move_to_another_thread<T: Send>() {}
    may_move_to_another_thread::<Subscription>();
};
