//! A connection to the publisher: a hub's, or a subscription's.
//!
//! - Where the publisher is, the broker is asked each time, over the client's own connection: whatever that survives, this does.
//! - The publisher sends a heartbeat every second. Without any message for three seconds the connection is given up, after one more look:
//!   a program that was stopped has not heard what lies in its socket.
//! - Nothing here waits, not even for a lookup that is under way.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_protocol::{Answer, ErrorCode, FEED_HEARTBEAT_TOPIC, FEED_SILENCE_MS, Failure, FeedMessage, HelloAnswer, Operation};

use crate::client::bell::Bell;
use crate::client::error::ClientError;
use crate::client::handle::Client;
use crate::client::slot::{Ended, Slot};
use crate::transport::{CLIENT_FRAME_BYTES, ClientSocket, Message, ReceiveLimits, Reception, TransportError, wait};

/// Topic and body.
const RECEIVE: ReceiveLimits = ReceiveLimits { max_frames: 2, max_bytes: CLIENT_FRAME_BYTES };

/// Silence after which a connection is given up.
const SILENCE: Duration = Duration::from_millis(FEED_SILENCE_MS);

/// What became of a connection is looked at this often while nobody waits for it.
const LOOK: Duration = Duration::from_millis(50);

/// And how much longer it is waited after that.
const GRACE: Duration = Duration::from_millis(500);

/// How long the broker may take to say where the publisher is.
const ANSWER: Duration = Duration::from_secs(15);

/// Pause while somebody else needs what is needed to connect.
const BUSY: Duration = Duration::from_millis(20);

/// First and longest pause between attempts that came to nothing.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// Who hears nothing because he has only some keys may get others.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What has come.
pub(in crate::client) enum Came {
    /// A connection is being made; whatever is wanted has to be subscribed to.
    Up,
    /// The connection is gone.
    Lost(String),
    /// There are no streams for this client: it may use only some keys, or no way leads to the publisher.
    Nothing { is_restricted: bool },
    /// The broker does not want this client at all.
    Refused(Failure),
    /// A message that is no heartbeat.
    Message { topic: Message, body: Message },
    /// All that the publisher had to tell up to this revision was sent before.
    Heartbeat { epoch: u64, revision: u64 },
}

enum State {
    /// Nobody wants it.
    Off,
    Down {
        retry_at: Instant,
    },
    Asking(Arc<Slot>),
    /// It is known where the publisher is.
    Found {
        hello: Box<HelloAnswer>,
        retry_at: Instant,
    },
    Up {
        socket: ClientSocket,
        heard_at: Instant,
        has_spoken: bool,
        /// Nothing was heard for [`SILENCE`].
        is_doubted: bool,
        /// When it was last looked at what became of the connection; None: something has.
        watched_at: Option<Instant>,
    },
}

/// The connection, or what is done to get one.
pub(in crate::client) struct Link {
    client: Client,
    state: State,
    pause: Duration,
    frames: Vec<Message>,
}

impl Link {
    pub(in crate::client) fn new(client: Client) -> Link {
        Link { client, state: State::Off, pause: Duration::ZERO, frames: Vec::new() }
    }

    /// A stream is wanted.
    pub(in crate::client) fn turn_on(&mut self, now: Instant) {
        if matches!(self.state, State::Off) {
            self.state = State::Down { retry_at: now };
        }
    }

    /// None is.
    pub(in crate::client) fn turn_off(&mut self) {
        self.state = State::Off;
        self.pause = Duration::ZERO;
    }

    /// The socket, where there is one.
    pub(in crate::client) fn socket(&self) -> Option<&ClientSocket> {
        match &self.state {
            State::Up { socket, .. } => Some(socket),
            _ => None,
        }
    }

    /// When to look again although nothing has come.
    pub(in crate::client) fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Off | State::Asking(_) => None,
            State::Down { retry_at } | State::Found { retry_at, .. } => Some(*retry_at),
            State::Up { heard_at, .. } => Some(*heard_at + SILENCE),
        }
    }

    /// Whether there is something to take from it.
    ///
    /// # Errors
    /// libzmq's.
    fn has_input(&self) -> Result<bool, TransportError> {
        self.socket().map_or(Ok(false), |socket| socket.has_input())
    }

    /// What to wait for, once it has no input: messages, and what becomes of the connection.
    ///
    /// # Errors
    /// libzmq's.
    fn signals(&self) -> Result<[Option<BorrowedFd<'_>>; 2], TransportError> {
        let Some(socket) = self.socket() else { return Ok([None; 2]) };
        Ok([Some(socket.signal()?), socket.event_signal()?])
    }

    /// Waits for messages, for the bell, and for what becomes of the connection. True if it was the bell.
    ///
    /// # Errors
    /// libzmq's.
    pub(in crate::client) fn wait(&mut self, bell: &Bell, timeout: Option<Duration>) -> Result<bool, TransportError> {
        // Since it was read to the end, something may have been subscribed to; and a signal is given once.
        if self.has_input()? {
            return Ok(false);
        }
        let [messages, events] = self.signals()?;
        let [rings, _, has_event] = wait([Some(bell.signal()), messages, events], timeout)?;
        if has_event {
            self.has_event();
        }
        Ok(rings)
    }

    /// Something became of the connection.
    fn has_event(&mut self) {
        if let State::Up { watched_at, .. } = &mut self.state {
            *watched_at = None;
        }
    }

    /// The next thing that has come, or that became of an attempt; None: nothing more at the moment.
    pub(in crate::client) fn next(&mut self, now: Instant, bell: &Arc<Bell>) -> Option<Came> {
        loop {
            match &mut self.state {
                State::Off => return None,
                State::Down { retry_at } | State::Found { retry_at, .. } if *retry_at > now => return None,
                State::Down { retry_at } => {
                    let hello = Operation::Hello { project: Some(self.client.project().to_owned()) };
                    match self.client.submit_ringing(&hello, ANSWER, bell) {
                        Some(slot) => self.state = State::Asking(slot),
                        None => *retry_at = now + BUSY,
                    }
                }
                State::Asking(slot) => {
                    if !slot.is_complete() {
                        return None;
                    }
                    let end = slot.wait().pop().unwrap_or(Ended::Closed);
                    if let Some(came) = self.told(now, self.client.outcome(end, Some(ANSWER)).map(|outcome| outcome.result)) {
                        return Some(came);
                    }
                }
                State::Found { hello, retry_at } => match self.client.subscriber(hello) {
                    Ok(Some(socket)) => {
                        if let Err(error) = socket.subscribe(FEED_HEARTBEAT_TOPIC) {
                            return Some(self.lose(now, error.to_string()));
                        }
                        self.state = State::Up { socket, heard_at: now, has_spoken: false, is_doubted: false, watched_at: None };
                        return Some(Came::Up);
                    }
                    Ok(None) => *retry_at = now + BUSY,
                    Err(error) => {
                        tracing::debug!(target: "kvbroker::watch", %error, "no connection to the publisher");
                        self.wait_longer(now);
                    }
                },
                State::Up { .. } => return self.receive(now),
            }
        }
    }

    /// What the broker has said, or why it has not.
    fn told(&mut self, now: Instant, told: Result<Result<Answer, Failure>, ClientError>) -> Option<Came> {
        match told {
            Ok(Ok(Answer::Hello(hello))) if self.client.may_hear(&hello) => {
                self.state = State::Found { hello, retry_at: now };
                None
            }
            Ok(Ok(answer)) => {
                self.state = State::Down { retry_at: now + ASK_AGAIN };
                let is_restricted = matches!(answer, Answer::Hello(hello) if !hello.prefixes.is_empty());
                Some(Came::Nothing { is_restricted })
            }
            Ok(Err(failure)) if matches!(failure.code, ErrorCode::Refused | ErrorCode::WrongProject) => {
                self.wait_longer(now);
                Some(Came::Refused(failure))
            }
            // The question itself has waited for a broker.
            Err(ClientError::TimedOut { .. }) => {
                self.state = State::Down { retry_at: now + BUSY };
                None
            }
            Ok(Err(_)) | Err(_) => {
                self.wait_longer(now);
                None
            }
        }
    }

    fn receive(&mut self, now: Instant) -> Option<Came> {
        let State::Up { socket, heard_at, has_spoken, is_doubted, watched_at } = &mut self.state else { return None };
        loop {
            let received = match socket.try_receive(RECEIVE, &mut self.frames) {
                Ok(received) => received,
                Err(error) => return Some(self.lose(now, error.to_string())),
            };
            match received {
                Reception::TooMuch { .. } => continue,
                Reception::Nothing => break,
                Reception::Whole => {}
            }
            let (Some(body), Some(topic)) = (self.frames.pop(), self.frames.pop()) else { continue };
            // Where there is more than can be carried, heartbeats get lost, too. What comes through shows just as well that somebody is there.
            *heard_at = now;
            (*has_spoken, *is_doubted) = (true, false);
            self.pause = Duration::ZERO;
            if *topic != *FEED_HEARTBEAT_TOPIC {
                return Some(Came::Message { topic, body });
            }
            if let Ok(Some(FeedMessage::Heartbeat { epoch, revision })) = FeedMessage::decode(&topic, &body) {
                return Some(Came::Heartbeat { epoch, revision });
            }
        }
        // Not each time: that costs as much as a message.
        let is_watched = watched_at.is_some_and(|watched_at| now < watched_at + LOOK);
        if !is_watched {
            loop {
                match socket.try_next_event() {
                    Ok(Some(event)) if event.kind.ends_connection() => {
                        return Some(self.lose(now, "the connection to the broker's publisher ended".into()));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => {
                        *watched_at = Some(now);
                        break;
                    }
                    Err(error) => return Some(self.lose(now, error.to_string())),
                }
            }
        }
        if *heard_at + SILENCE <= now {
            if !std::mem::replace(is_doubted, true) {
                // If it was this program that stood still, what was sent meanwhile is about to show.
                *heard_at = now + GRACE - SILENCE;
                return None;
            }
            return Some(self.lose(now, format!("nothing from the broker's publisher for {} s", SILENCE.as_secs())));
        }
        None
    }

    fn lose(&mut self, now: Instant, why: String) -> Came {
        if matches!(self.state, State::Up { has_spoken: true, .. }) {
            self.state = State::Down { retry_at: now };
        } else {
            // A publisher that turns us away would do so again at once.
            self.wait_longer(now);
        }
        Came::Lost(why)
    }

    fn wait_longer(&mut self, now: Instant) {
        let (first, longest) = PAUSE;
        self.pause = (self.pause * 2).clamp(first, longest);
        self.state = State::Down { retry_at: now + self.pause };
    }
}
