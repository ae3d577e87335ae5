//! The publisher: the thread that owns the XPUB.
//!
//! - It sends the plain feed (`k` + key) while somebody subscribes to it, and the heartbeat every second.
//! - Each XPUB has a ZeroMQ context and a door of its own, so that a flood of subscriptions can't stall the front end, and so that it can
//!   be closed for good and replaced: when a key must not read any more ([`PublisherControl`]), or when a user subscribes to more than
//!   it may. That user stays shut out for a while.
//! - Best effort: a subscriber that reads too slowly loses messages; nobody waits for it.

mod control;
mod outlet;
mod shut_out;
mod subscriptions;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker::logging::Repeated;
use kvbroker::transport::{
    Message, POLLIN, PollItem, ReceiveLimits, Reception, TransportError, connection as connection_of, poll, user_id,
};
use kvbroker::zap::identity;
use kvbroker_protocol::{FEED_HEARTBEAT_MS, FeedMessage, VersionKind, limits};
use kvbroker_table::{Event, EventFd, EventKind, Outbox};

pub(crate) use control::PublisherControl;
pub(crate) use outlet::Outlet;
pub(crate) use shut_out::ShutOut;
use subscriptions::{Notice, Subscriptions};

/// Counters of the publisher, readable by other threads.
#[derive(Debug, Default)]
pub(crate) struct PublisherCounters {
    pub(crate) published: AtomicU64,
    /// Subscriptions, and the bytes of their topics.
    pub(crate) topics: AtomicU64,
    pub(crate) topic_bytes: AtomicU64,
    /// Sockets opened in place of another one.
    pub(crate) reopened: AtomicU64,
    /// How often a user was shut out for having too many subscriptions.
    pub(crate) shut_out: AtomicU64,
}

pub(crate) struct Publisher {
    pub(crate) outlet: Outlet,
    pub(crate) control: Arc<PublisherControl>,
    pub(crate) shut_out: Arc<ShutOut>,
    /// Tells others that the TCP port is another one now.
    pub(crate) on_port: Box<dyn Fn(u16) + Send>,
    pub(crate) epoch: u64,
    /// The last revision before the first batch.
    pub(crate) revision: u64,
    pub(crate) events: Arc<Outbox<(Vec<Event>, u64)>>,
    pub(crate) doorbell: Arc<EventFd>,
    /// Told to the worker: somebody reads the feed.
    pub(crate) wanted: Arc<AtomicBool>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) counters: Arc<PublisherCounters>,
}

/// A subscription's topic: one byte of kind, then at most a key.
const RECEIVE: ReceiveLimits = ReceiveLimits { max_frames: 1, max_bytes: limits::KEY_BYTES_MAX + 2 };
/// Most subscription messages taken between two looks at the events, and the most of their bytes.
const SUBSCRIPTIONS_AT_ONCE: usize = 1_024;
const SUBSCRIPTION_BYTES_AT_ONCE: usize = limits::SUBSCRIPTION_BYTES_PER_USER_MAX;
/// Most batches of events sent between two looks at the subscriptions and the clock.
const BATCHES_AT_ONCE: usize = 64;
const HEARTBEAT: Duration = Duration::from_millis(FEED_HEARTBEAT_MS);
/// What a subscription begins with; anything else ends one.
const SUBSCRIBE: u8 = 1;

impl Publisher {
    /// Runs until told to stop.
    pub(crate) fn run(self) -> Result<(), TransportError> {
        let control = Arc::clone(&self.control);
        let result = self.work();
        // Its socket is closed and nobody will open another one.
        control.end();
        result
    }

    fn work(mut self) -> Result<(), TransportError> {
        let mut desk = Desk::default();
        let mut next_heartbeat = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            self.doorbell.clear();
            self.tend(&mut desk)?;
            let mut more = self.take_subscriptions(&mut desk)?;
            for batch in 0..=BATCHES_AT_ONCE {
                // A worker that is faster must not keep heartbeats and subscriptions waiting.
                more |= batch == BATCHES_AT_ONCE;
                let Some((events, revision)) = (batch < BATCHES_AT_ONCE).then(|| self.events.pop()).flatten() else { break };
                if desk.subscriptions.feed_wanted() {
                    self.publish(events)?;
                }
                self.revision = revision;
            }
            let now = Instant::now();
            if now >= next_heartbeat {
                self.send(&FeedMessage::Heartbeat { epoch: self.epoch, revision: self.revision })?;
                next_heartbeat = now + HEARTBEAT;
            }
            if !more {
                let until = self.outlet.wake_at().map_or(next_heartbeat, |tend_at| tend_at.min(next_heartbeat));
                let left = until.saturating_duration_since(Instant::now());
                let mut items = vec![PollItem::from_fd(self.doorbell.as_raw_fd(), POLLIN)];
                if let Some(xpub) = self.outlet.socket() {
                    items.push(xpub.poll_item(POLLIN));
                    items.extend(xpub.event_poll_item());
                }
                poll(&mut items, Some(left))?;
            }
        }
        Ok(())
    }

    /// Replaces the socket if that is asked for, and does for it what is due.
    fn tend(&mut self, desk: &mut Desk) -> Result<(), TransportError> {
        if let Some((number, why)) = self.control.begin() {
            tracing::info!("the publisher's socket is closed and opened again: {why}");
            self.outlet.close(&self.control, number);
            self.counters.reopened.fetch_add(1, Ordering::Relaxed);
            desk.subscriptions = Subscriptions::default();
            self.tell(desk);
        }
        if let Some(port) = self.outlet.tend(Instant::now(), &self.control) {
            tracing::warn!(port, "the publisher's TCP port can't be had again at once: another one is used and announced");
            (self.on_port)(port);
        }
        Ok(())
    }

    fn publish(&self, events: Vec<Event>) -> Result<(), TransportError> {
        for Event { revision, key, kind } in events {
            let kind = match kind {
                EventKind::Put(value) => VersionKind::Put(value),
                EventKind::Remove => VersionKind::Remove,
                EventKind::Expire => VersionKind::Expire,
            };
            self.send(&FeedMessage::Change { epoch: self.epoch, revision, key, kind })?;
            self.counters.published.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn send(&self, message: &FeedMessage) -> Result<(), TransportError> {
        let Some(xpub) = self.outlet.socket() else { return Ok(()) };
        let mut body = Vec::new();
        message.encode(&mut body);
        // An XPUB drops for those who are full and never refuses as a whole.
        let _ = xpub.try_send(&[&message.topic()[..], &body])?;
        Ok(())
    }

    /// Reads who subscribes to what; true if there may be more.
    fn take_subscriptions(&mut self, desk: &mut Desk) -> Result<bool, TransportError> {
        let more = desk.receive(&self.outlet)?;
        // After the messages: what came by a connection is counted only when it is known to be open.
        while let Some(event) = self.outlet.next_event()? {
            desk.subscriptions.connection(&event);
        }
        for notice in desk.notices.drain(..) {
            desk.subscriptions.note(notice);
        }
        self.tell(desk);
        let Some(user) = desk.subscriptions.excess() else { return Ok(more) };
        let (topics, bytes) = desk.subscriptions.totals();
        self.counters.shut_out.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = desk.said.hit() {
            tracing::warn!(
                times,
                %user,
                topics,
                bytes,
                "a user subscribes to more than it may and can't subscribe for {} s",
                limits::SHUT_OUT_MS / 1_000
            );
        }
        self.shut_out.add(&user, Instant::now(), Duration::from_millis(limits::SHUT_OUT_MS));
        self.control.reopen("a user subscribed to more than it may");
        Ok(true)
    }

    /// Tells the worker and `stats` what is subscribed to.
    fn tell(&self, desk: &Desk) {
        let (topics, bytes) = desk.subscriptions.totals();
        self.wanted.store(desk.subscriptions.feed_wanted(), Ordering::Relaxed);
        self.counters.topics.store(topics, Ordering::Relaxed);
        self.counters.topic_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// What the loop keeps from turn to turn.
#[derive(Default)]
struct Desk {
    subscriptions: Subscriptions,
    notices: Vec<Notice>,
    frames: Vec<Message>,
    /// The user of the message before: nearly always the next one's as well.
    user: Option<Arc<str>>,
    said: Repeated,
}

impl Desk {
    /// Takes messages from the XPUB, uncounted; true if there may be more.
    fn receive(&mut self, outlet: &Outlet) -> Result<bool, TransportError> {
        let Some(xpub) = outlet.socket() else { return Ok(false) };
        let mut bytes = 0;
        for _ in 0..SUBSCRIPTIONS_AT_ONCE {
            match xpub.try_receive(RECEIVE, &mut self.frames)? {
                Reception::Nothing => return Ok(false),
                Reception::Whole => {
                    bytes += self.frames.iter().map(|frame| frame.len()).sum::<usize>();
                    let notice = self.notice();
                    self.notices.extend(notice);
                }
                Reception::TooMuch { .. } => {}
            }
            if bytes > SUBSCRIPTION_BYTES_AT_ONCE {
                break;
            }
        }
        Ok(true)
    }

    /// The message just received. None: libzmq says that a topic has no subscriber any more, which the connections' ends say as well.
    fn notice(&mut self) -> Option<Notice> {
        let connection = connection_of(&mut self.frames)?;
        let name = identity(user_id(&mut self.frames)?);
        let user = match &self.user {
            Some(user) if **user == *name => user.clone(),
            _ => Arc::from(name),
        };
        self.user = Some(user.clone());
        let (kind, topic) = self.frames.first()?.split_first()?;
        Some(Notice { connection, user, is_begin: *kind == SUBSCRIBE, topic: topic.into() })
    }
}
