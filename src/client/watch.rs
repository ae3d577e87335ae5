//! Hearing of changes: the plain feed of the broker's publisher, best effort.
//!
//! - What is heard happened; what happened is not always heard: messages get lost when this end
//!   reads too slowly, and while there is no connection. [`WatchEvent::Lost`] says so for the
//!   latter; nothing says so for the former.
//! - The publisher sends a heartbeat every second. Without one for three seconds the connection
//!   is given up, the broker looked up again, and a new one made.
//! - [`WatchEvent::Listening`] comes with the first heartbeat of each connection: from then on
//!   changes are heard.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvbroker_protocol::{ErrorCode, FEED_HEARTBEAT_TOPIC, FEED_SILENCE_MS, FeedMessage, Key, VersionKind, feed_topic};

use super::connection::Route;
use super::error::ClientError;
use super::handle::Client;
use crate::lookup::LookupError;
use crate::transport::{CLIENT_FRAME_BYTES, ClientSocket, Message, POLLIN, ReceiveLimits, Reception, poll};

/// Topic and body; a body holds at most the largest value.
const RECEIVE: ReceiveLimits = ReceiveLimits { max_frames: 2, max_bytes: CLIENT_FRAME_BYTES };

/// Silence after which a connection is given up.
const SILENCE: Duration = Duration::from_millis(FEED_SILENCE_MS);

/// How long one attempt to find the publisher again may take.
const FIND: Duration = Duration::from_secs(5);

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// What a watch hears.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// Changes are heard from here on.
    Listening {
        /// The log's epoch; another one than before means another history.
        epoch: u64,
        /// The last revision that was published before.
        revision: u64,
    },
    /// A key was put or removed, or has expired.
    Change {
        /// The log's epoch.
        epoch: u64,
        /// The revision that made the change.
        revision: u64,
        /// The key.
        key: Key,
        /// What became of the key.
        kind: VersionKind,
    },
    /// The connection is gone; what changes now is not heard until the next `Listening`.
    Lost {
        /// What happened.
        why: String,
    },
}

/// What is known about one connection, without the socket.
#[derive(Debug)]
struct Feed {
    heard_at: Instant,
    listening: bool,
}

impl Feed {
    fn new(now: Instant) -> Self {
        Feed { heard_at: now, listening: false }
    }

    /// When the silence has lasted too long.
    fn ends_at(&self) -> Instant {
        self.heard_at + SILENCE
    }

    /// Takes one message; broken and unknown ones are passed over.
    fn handle(&mut self, now: Instant, topic: &[u8], body: &[u8]) -> Option<WatchEvent> {
        let message = match FeedMessage::decode(topic, body) {
            Ok(message) => message?,
            Err(failure) => {
                tracing::warn!(target: "kvbroker::watch", "{failure}");
                return None;
            }
        };
        match message {
            FeedMessage::Heartbeat { epoch, revision } => {
                // Changes alone don't count: a publisher whose clock has stopped is not well.
                self.heard_at = now;
                let first = !std::mem::replace(&mut self.listening, true);
                first.then_some(WatchEvent::Listening { epoch, revision })
            }
            FeedMessage::Change { epoch, revision, key, kind } => Some(WatchEvent::Change { epoch, revision, key, kind }),
        }
    }
}

/// A running subscription.
pub struct Watch<'a> {
    client: &'a Client,
    topic: Vec<u8>,
    link: Option<(ClientSocket, Feed)>,
    retry_at: Instant,
    pause: Duration,
    frames: Vec<Message>,
    events: VecDeque<WatchEvent>,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Client {
    /// Listens to the changes of all keys with a prefix, as far as the plain feed goes.
    ///
    /// # Errors
    /// The publisher can't be found. `refused`: this client may use only some keys, and so it has `events` instead.
    pub fn watch(&self, prefix: impl AsRef<[u8]>) -> Result<Watch<'_>, ClientError> {
        let mut watch = Watch {
            client: self,
            topic: feed_topic(prefix.as_ref()),
            link: None,
            retry_at: Instant::now(),
            pause: Duration::ZERO,
            frames: Vec::new(),
            events: VecDeque::new(),
        };
        watch.connect(self.timeout())?;
        Ok(watch)
    }
}

impl Watch<'_> {
    /// The next event, if one comes until `until` (None: for ever).
    ///
    /// # Errors
    /// This client may not hear of changes, or not any more; or libzmq failed. A lost connection is an event, and a new one is tried for ever.
    pub fn next(&mut self, until: Option<Instant>) -> Result<Option<WatchEvent>, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let now = Instant::now();
            if until.is_some_and(|until| until <= now) {
                return Ok(None);
            }
            if self.link.is_some() {
                self.listen(until)?;
            } else if self.retry_at > now {
                std::thread::sleep(until.map_or(self.retry_at, |until| until.min(self.retry_at)) - now);
            } else {
                let left = until.map_or(FIND, |until| (until - now).min(FIND));
                if let Err(error) = self.connect(Some(left)) {
                    let is_refused = error.code() == Some(ErrorCode::Refused);
                    if is_refused || matches!(error, ClientError::Lookup(LookupError::Refused { .. })) {
                        return Err(error);
                    }
                    tracing::debug!(target: "kvbroker::watch", %error, "not found again yet");
                    self.wait_longer();
                }
            }
        }
    }

    fn connect(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        let mut socket = self.client.publisher(timeout)?;
        socket.subscribe(&self.topic)?;
        socket.subscribe(FEED_HEARTBEAT_TOPIC)?;
        socket.connect()?;
        self.link = Some((socket.into_inner(), Feed::new(Instant::now())));
        Ok(())
    }

    fn lose(&mut self, why: impl Into<String>) {
        let was_listening = self.link.take().is_some_and(|(_, feed)| feed.listening);
        if was_listening {
            self.pause = Duration::ZERO;
            self.retry_at = Instant::now();
        } else {
            // A publisher that turns us away would do so again at once.
            self.wait_longer();
        }
        self.events.push_back(WatchEvent::Lost { why: why.into() });
    }

    fn wait_longer(&mut self) {
        self.pause = (self.pause * 2).clamp(Duration::from_secs(1), PAUSE_MAX);
        self.retry_at = Instant::now() + self.pause;
    }

    fn listen(&mut self, until: Option<Instant>) -> Result<(), ClientError> {
        let Some((socket, feed)) = &mut self.link else { return Ok(()) };
        let now = Instant::now();
        match socket.try_receive(RECEIVE, &mut self.frames)? {
            Reception::Whole => {
                if let [topic, body] = self.frames.as_slice() {
                    self.events.extend(feed.handle(now, topic, body));
                }
                return Ok(());
            }
            Reception::TooMuch { .. } => return Ok(()),
            Reception::Nothing => {}
        }
        while let Some(event) = socket.try_next_event()? {
            if event.kind.ends_connection() {
                self.lose("the connection to the publisher ended");
                return Ok(());
            }
        }
        let ends_at = feed.ends_at();
        if ends_at <= now {
            self.lose(format!("no heartbeat of the publisher for {} s", SILENCE.as_secs()));
            return Ok(());
        }
        let wake = until.map_or(ends_at, |until| until.min(ends_at));
        let mut items = vec![socket.poll_item(POLLIN)];
        items.extend(socket.event_poll_item());
        poll(&mut items, Some(wake.saturating_duration_since(now)))?;
        Ok(())
    }
}

/// A subscriber's socket, ready to be connected to the publisher that belongs to a route.
pub(super) struct Publisher {
    pub(super) socket: ClientSocket,
    pub(super) route: Route,
    pub(super) pub_port: u16,
}

impl Publisher {
    fn subscribe(&self, topic: &[u8]) -> Result<(), ClientError> {
        Ok(self.socket.subscribe(topic)?)
    }

    fn connect(&mut self) -> Result<(), ClientError> {
        match &self.route {
            Route::Local { publisher, .. } => self.socket.connect_ipc(publisher)?,
            Route::Network { address, .. } | Route::Unprotected { address } => {
                self.socket.connect_tcp(SocketAddr::new(address.ip(), self.pub_port))?;
            }
        }
        Ok(())
    }

    fn into_inner(self) -> ClientSocket {
        self.socket
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn body(message: &FeedMessage) -> Vec<u8> {
        let mut body = Vec::new();
        message.encode(&mut body);
        body
    }

    #[test]
    fn the_first_heartbeat_says_listening_and_changes_alone_are_no_life() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut feed = Feed::new(start);
        let change = FeedMessage::Change { epoch: 1, revision: 6, key: b"k".to_vec(), kind: VersionKind::Expire };
        let beat = FeedMessage::Heartbeat { epoch: 1, revision: 6 };
        let heard = feed.handle(at(100), b"kk", &body(&change));
        assert_eq!(heard, Some(WatchEvent::Change { epoch: 1, revision: 6, key: b"k".to_vec(), kind: VersionKind::Expire }));
        assert_eq!(feed.ends_at(), at(3_000));
        assert_eq!(feed.handle(at(900), b"h", &body(&beat)), Some(WatchEvent::Listening { epoch: 1, revision: 6 }));
        assert_eq!(feed.ends_at(), at(3_900));
        assert_eq!(feed.handle(at(1_900), b"h", &body(&beat)), None);
        assert_eq!(feed.handle(at(1_950), b"kx", b"\xc1"), None);
        assert_eq!(feed.ends_at(), at(4_900));
    }
}
