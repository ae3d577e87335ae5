//! The publisher: the thread that owns the XPUB.
//!
//! - It keeps the streams of changes (`s` + prefix) and of published messages (`m` + pattern) that somebody subscribes to: what they say
//!   and when is in [`Streams`], the rest is here. It sends the plain feed (`k` + key) while somebody subscribes to that, and the heartbeat
//!   every second.
//! - Each XPUB has a ZeroMQ context and a door of its own, so that a flood of subscriptions can't stall the front end, and so that it can
//!   be closed for good and replaced: when a key must not read any more ([`PublisherControl`]), or when a user subscribes to more than
//!   it may. That user stays shut out for a while.
//! - A subscriber that reads too slowly loses messages; nobody waits for it. What libzmq holds for all who do is counted. Where it is much,
//!   those are found who read nothing ([`Blame`]) and cut off alone; for at most [`HELD_MAX`] nothing is published until they are. Beyond
//!   [`limits::PUBLISHED_UNREAD_BYTES_MAX`] the socket is replaced: everybody comes back, and sees in the streams what is missing.
//! - All batches that wait are taken before anything is sent: while the publisher is behind, messages tell of more revisions each.

mod blame;
mod control;
mod outlet;
mod shut_out;
mod subscriptions;
mod unread;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker::logging::Repeated;
use kvbroker::transport::{
    Message, POLLIN, PollItem, ReceiveLimits, Reception, TransportError, connection as connection_of, cut, is_stuck, poll,
    user_id,
};
use kvbroker::zap::identity;
use kvbroker_protocol::{FEED_HEARTBEAT_MS, FeedMessage, StreamKind, limits};
use kvbroker_table::{Event, EventBatch, EventFd, EventQueue, OWNER, StreamSink, Streams};

use blame::{Blame, PATIENCE};
pub(crate) use control::PublisherControl;
pub(crate) use outlet::Outlet;
pub(crate) use shut_out::ShutOut;
use subscriptions::{Notice, StreamChange, Subscriptions};

/// Counters of the publisher, readable by other threads.
#[derive(Debug, Default)]
pub(crate) struct PublisherCounters {
    /// Messages of the plain feed, and of streams.
    pub(crate) published: AtomicU64,
    pub(crate) stream_messages: AtomicU64,
    /// Streams that are kept, and how often one was not for want of room.
    pub(crate) streams: AtomicU64,
    pub(crate) streams_refused: AtomicU64,
    /// Bytes of messages that libzmq holds for subscribers.
    pub(crate) unread_bytes: Arc<AtomicU64>,
    /// Subscribers that were cut off because they read nothing while much was unread.
    pub(crate) unread_blamed: AtomicU64,
    /// How often it was too much all the same, and everybody was cut off.
    pub(crate) unread_cut: AtomicU64,
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
    pub(crate) events: Arc<EventQueue>,
    pub(crate) doorbell: Arc<EventFd>,
    /// Told to the worker: somebody reads of changes. That somebody listens to messages the streams tell it themselves.
    pub(crate) wanted: Arc<AtomicBool>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) counters: Arc<PublisherCounters>,
}

/// A subscription: a byte that says which way, a topic's kind, a length, and at most a key.
const RECEIVE: ReceiveLimits = ReceiveLimits { max_frames: 1, max_bytes: limits::KEY_BYTES_MAX + 4 };
/// Most subscription messages taken between two looks at the events, and the most of their bytes.
const SUBSCRIPTIONS_AT_ONCE: usize = 1_024;
const SUBSCRIPTION_BYTES_AT_ONCE: usize = limits::SUBSCRIPTION_BYTES_PER_USER_MAX;
/// Most batches of events sent between two looks at the subscriptions and the clock.
const BATCHES_AT_ONCE: usize = 64;
const HEARTBEAT: Duration = Duration::from_millis(FEED_HEARTBEAT_MS);
/// Least time between two times that everybody is cut off because messages are not read.
const CUT_OFF_PAUSE: Duration = Duration::from_secs(1);
/// How long nothing is published because too much is unread, behind the time in which those to blame are found.
const HELD_MAX: Duration = Duration::from_millis(1_500);
const _: () = assert!(HELD_MAX.as_millis() > PATIENCE.as_millis());
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
        let streams = Streams::new(self.epoch, self.revision).noted_in(Arc::clone(self.events.interest()));
        let mut desk = Desk::new(streams);
        let mut next_heartbeat = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            self.doorbell.clear();
            self.tend(&mut desk)?;
            // Nobody was woken for these, or to tell their messages. Whoever joins now begins behind them.
            let mut most = if desk.has_readers() { BATCHES_AT_ONCE } else { usize::MAX };
            while !desk.streams.has_listeners() && most > 0 && !self.outlet.unread().is_nearly_too_much() {
                let Some(batch) = self.events.pop() else { break };
                self.publish(&mut desk, batch)?;
                most -= 1;
            }
            let mut more = self.take_subscriptions(&mut desk)?;
            let is_held = self.is_held(&mut desk);
            if !is_held {
                // Before the next batch: whoever has joined begins where the last one ended.
                self.with_streams(&mut desk, Streams::due)?;
                for batch in 0..=BATCHES_AT_ONCE {
                    // A worker that is faster must not keep heartbeats and subscriptions waiting.
                    more |= batch == BATCHES_AT_ONCE;
                    if self.is_held(&mut desk) {
                        break;
                    }
                    let Some(batch) = (batch < BATCHES_AT_ONCE).then(|| self.events.pop()).flatten() else { break };
                    self.publish(&mut desk, batch)?;
                }
                self.with_streams(&mut desk, Streams::flush)?;
            }
            let now = Instant::now();
            self.blame(&mut desk, now);
            if now >= next_heartbeat {
                self.send(&FeedMessage::Heartbeat { epoch: self.epoch, revision: desk.streams.revision() })?;
                next_heartbeat = now + HEARTBEAT;
            }
            let cut_at = self.cut_off_if_blocked(&mut desk, now);
            if !more {
                let next_due = desk.streams.next_due().filter(|_| !is_held);
                let wakes = [self.outlet.wake_at(), next_due, cut_at, desk.blame.next_look()];
                let until = wakes.into_iter().flatten().fold(next_heartbeat, Instant::min);
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
            desk.streams.end_all();
            desk.blame.forget();
            self.tell(desk);
        }
        if let Some(port) = self.outlet.tend(Instant::now(), &self.control) {
            tracing::warn!(port, "the publisher's TCP port can't be had again at once: another one is used and announced");
            (self.on_port)(port);
        }
        Ok(())
    }

    fn publish(&mut self, desk: &mut Desk, batch: EventBatch) -> Result<(), TransportError> {
        self.with_streams(desk, |streams, now, sink| streams.publish(&batch, now, sink))?;
        if !desk.subscriptions.feed_wanted() {
            return Ok(());
        }
        for Event { revision, key, kind } in batch.events.into_iter().flatten() {
            self.send(&FeedMessage::Change { epoch: self.epoch, revision, key, kind })?;
            self.counters.published.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Lets the streams send what they have to say.
    fn with_streams<F>(&mut self, desk: &mut Desk, act: F) -> Result<(), TransportError>
    where
        F: FnOnce(&mut Streams, Instant, &mut StreamSink<'_>),
    {
        let (outlet, counters, mut result) = (&mut self.outlet, &self.counters, Ok(()));
        let mut sink = |topic: &[u8], body: Vec<u8>| {
            counters.stream_messages.fetch_add(1, Ordering::Relaxed);
            if result.is_ok() {
                result = outlet.send(topic, body);
            }
        };
        act(&mut desk.streams, Instant::now(), &mut sink);
        result
    }

    fn send(&mut self, message: &FeedMessage) -> Result<(), TransportError> {
        let mut body = Vec::new();
        message.encode(&mut body);
        self.outlet.send(&message.topic(), body)
    }

    /// Whether nothing is to be published now, since too much is unread: until those who do not read are cut off, or nobody can be found who
    /// is to blame. What happens meanwhile waits in the queue of events, or makes holes.
    fn is_held(&self, desk: &mut Desk) -> bool {
        if !self.outlet.unread().is_nearly_too_much() {
            desk.held_until = None;
            return false;
        }
        let now = Instant::now();
        now < *desk.held_until.get_or_insert(now + HELD_MAX)
    }

    /// Cuts those off who read nothing while much is unread. A user other than the owner may not come back for a while: what it misses it can
    /// ask for.
    fn blame(&self, desk: &mut Desk, now: Instant) {
        if !self.outlet.unread().is_much() {
            return desk.blame.forget();
        }
        for connection in desk.blame.look(now, desk.subscriptions.subscribed(), is_stuck) {
            let user = desk.subscriptions.user_of(connection).cloned().unwrap_or_default();
            self.counters.unread_blamed.fetch_add(1, Ordering::Relaxed);
            if let Some(times) = desk.said_blamed.hit() {
                let bytes = self.outlet.unread_bytes();
                tracing::warn!(times, %user, bytes, "a subscriber does not read what is published, and is cut off");
            }
            if *user != *OWNER {
                self.shut_out.add(&user, now, Duration::from_millis(limits::SHUT_OUT_MS));
            }
            cut(connection);
            // libzmq needs a moment to let go of what it had.
            desk.held_until = Some(now + HELD_MAX);
        }
    }

    /// If subscribers have left too much unread, they are cut off, or will be at the time that is given: not more often than
    /// [`CUT_OFF_PAUSE`] allows, since it concerns everybody.
    fn cut_off_if_blocked(&self, desk: &mut Desk, now: Instant) -> Option<Instant> {
        if !self.outlet.is_blocked() {
            return None;
        }
        if let Some(next) = desk.next_cut_off.filter(|next| now < *next) {
            return Some(next);
        }
        desk.next_cut_off = Some(now + CUT_OFF_PAUSE);
        self.counters.unread_cut.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = desk.said_unread.hit() {
            let bytes = self.outlet.unread_bytes();
            tracing::warn!(times, bytes, "subscribers read too slowly and have used up the memory for messages: all are cut off");
        }
        self.control.reopen("subscribers have left too much unread");
        Some(now)
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
        self.tend_streams(desk);
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

    /// Keeps the streams that somebody subscribes to.
    fn tend_streams(&self, desk: &mut Desk) {
        let now = Instant::now();
        for change in desk.subscriptions.take_changes() {
            match change {
                StreamChange::Joined(topic) => {
                    let Some((kind, name)) = StreamKind::of_topic(&topic) else { continue };
                    if !desk.streams.begin(kind, name, now) {
                        self.counters.streams_refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
                StreamChange::Left(topic) => {
                    let Some((kind, name)) = StreamKind::of_topic(&topic) else { continue };
                    desk.streams.end(kind, name);
                }
            }
        }
    }

    /// Tells the worker and `stats` what is subscribed to.
    fn tell(&self, desk: &Desk) {
        let (topics, bytes) = desk.subscriptions.totals();
        self.events.interest().set_all(desk.subscriptions.feed_wanted());
        self.wanted.store(desk.subscriptions.feed_wanted() || desk.streams.has_watchers(), Ordering::Release);
        self.counters.streams.store(desk.streams.len() as u64, Ordering::Relaxed);
        self.counters.topics.store(topics, Ordering::Relaxed);
        self.counters.topic_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// What the loop keeps from turn to turn.
struct Desk {
    streams: Streams,
    subscriptions: Subscriptions,
    notices: Vec<Notice>,
    frames: Vec<Message>,
    /// The user of the message before: nearly always the next one's as well.
    user: Option<Arc<str>>,
    said: Repeated,
    said_unread: Repeated,
    said_blamed: Repeated,
    blame: Blame,
    /// Until then nothing is published because too much is unread.
    held_until: Option<Instant>,
    /// Until then nobody is cut off for what is not read.
    next_cut_off: Option<Instant>,
}

impl Desk {
    fn new(streams: Streams) -> Desk {
        Desk {
            streams,
            subscriptions: Subscriptions::default(),
            notices: Vec::new(),
            frames: Vec::new(),
            user: None,
            said: Repeated::new(),
            said_unread: Repeated::new(),
            said_blamed: Repeated::new(),
            blame: Blame::default(),
            held_until: None,
            next_cut_off: None,
        }
    }

    /// Whether anybody wants to hear of changes or messages.
    fn has_readers(&self) -> bool {
        self.subscriptions.feed_wanted() || !self.streams.is_empty()
    }

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
