//! The publisher: the thread that owns the XPUB.
//!
//! - It sends the plain feed (`k` + key) while somebody subscribes to it, and the heartbeat every second.
//! - It has its own ZeroMQ context and authentication, so that a flood of subscriptions can't stall the front end.
//! - Best effort: a subscriber that reads too slowly loses messages; nobody waits for it.

use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker::transport::{Message, POLLIN, PollItem, ReceiveLimits, Reception, ServerSocket, TransportError, poll};
use kvbroker_protocol::{FEED_CHANGE_TOPIC, FEED_HEARTBEAT_MS, FeedMessage, VersionKind, limits};
use kvbroker_table::{Event, EventFd, EventKind, Outbox};

/// Counters of the publisher, readable by other threads.
#[derive(Debug, Default)]
pub(crate) struct PublisherCounters {
    pub(crate) published: AtomicU64,
    pub(crate) topics: AtomicU64,
}

pub(crate) struct Publisher {
    pub(crate) xpub: ServerSocket,
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
/// Most subscription messages taken between two looks at the events.
const SUBSCRIPTIONS_AT_ONCE: usize = 1_024;
/// Most batches of events sent between two looks at the subscriptions and the clock.
const BATCHES_AT_ONCE: usize = 64;
const HEARTBEAT: Duration = Duration::from_millis(FEED_HEARTBEAT_MS);

impl Publisher {
    /// Runs until told to stop.
    pub(crate) fn run(mut self) -> Result<(), TransportError> {
        let mut topics = Topics::default();
        let mut frames = Vec::new();
        let mut next_heartbeat = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            self.doorbell.clear();
            let mut more = self.take_subscriptions(&mut topics, &mut frames)?;
            for batch in 0..=BATCHES_AT_ONCE {
                // A worker that is faster must not keep heartbeats and subscriptions waiting.
                more |= batch == BATCHES_AT_ONCE;
                let Some((events, revision)) = (batch < BATCHES_AT_ONCE).then(|| self.events.pop()).flatten() else { break };
                if topics.feed_wanted() {
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
                let left = next_heartbeat.saturating_duration_since(Instant::now());
                poll(&mut [self.xpub.poll_item(POLLIN), PollItem::from_fd(self.doorbell.as_raw_fd(), POLLIN)], Some(left))?;
            }
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
        let mut body = Vec::new();
        message.encode(&mut body);
        // An XPUB drops for those who are full and never refuses as a whole.
        let _ = self.xpub.try_send(&[&message.topic()[..], &body])?;
        Ok(())
    }

    /// Reads who subscribes to what; true if there may be more.
    fn take_subscriptions(&self, topics: &mut Topics, frames: &mut Vec<Message>) -> Result<bool, TransportError> {
        let mut more = true;
        for _ in 0..SUBSCRIPTIONS_AT_ONCE {
            match self.xpub.try_receive(RECEIVE, frames)? {
                Reception::Nothing => {
                    more = false;
                    break;
                }
                Reception::Whole => {
                    if let Some((&kind, topic)) = frames.first().and_then(|frame| frame.split_first()) {
                        topics.note(kind, topic);
                    }
                }
                Reception::TooMuch { .. } => {}
            }
        }
        self.wanted.store(topics.feed_wanted(), Ordering::Relaxed);
        self.counters.topics.store(topics.known.len() as u64, Ordering::Relaxed);
        Ok(more)
    }
}

/// The distinct topics that somebody subscribes to, as far as they are counted.
#[derive(Debug, Default)]
struct Topics {
    known: HashSet<Vec<u8>>,
    /// Subscribed topics that lead to the feed.
    feeds: usize,
    /// More topics than are counted: from then on the feed counts as wanted.
    overflow: bool,
}

const TOPICS_MAX: usize = 16_384;
const SUBSCRIBE: u8 = 1;

impl Topics {
    /// Notes a message of the XPUB: 1 and a topic for each subscription, 0 and a topic when the last one of it has ended.
    fn note(&mut self, kind: u8, topic: &[u8]) {
        let feed = topic.is_empty() || topic[0] == FEED_CHANGE_TOPIC;
        if kind == SUBSCRIBE {
            if self.known.contains(topic) {
                return;
            }
            if self.known.len() >= TOPICS_MAX {
                self.overflow = true;
                return;
            }
            self.known.insert(topic.to_vec());
            self.feeds += usize::from(feed);
        } else if self.known.remove(topic) {
            self.feeds -= usize::from(feed);
        }
    }

    fn feed_wanted(&self) -> bool {
        self.overflow || self.feeds > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feed_is_wanted_while_somebody_subscribes_to_it() {
        let mut topics = Topics::default();
        topics.note(1, b"h");
        assert!(!topics.feed_wanted());
        topics.note(1, b"kuser/");
        topics.note(1, b"kuser/");
        assert!(topics.feed_wanted());
        topics.note(0, b"kuser/");
        assert!(!topics.feed_wanted());
        topics.note(0, b"kuser/");
        topics.note(1, b"");
        assert!(topics.feed_wanted());
    }

    #[test]
    fn topics_beyond_the_bound_are_not_kept_but_served() {
        let mut topics = Topics::default();
        for topic in 0..TOPICS_MAX + 10 {
            topics.note(1, format!("k{topic}").as_bytes());
        }
        assert_eq!(topics.known.len(), TOPICS_MAX);
        for topic in 0..TOPICS_MAX {
            topics.note(0, format!("k{topic}").as_bytes());
        }
        assert!(topics.feed_wanted());
    }
}
