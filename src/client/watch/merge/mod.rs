//! One watch without sockets: how a stream's messages, which come by themselves and may be lost, and the broker's answers, which are
//! asked for and complete, become one gap-free sequence.
//!
//! Input comes through [`Merge::linked`], [`Merge::unlinked`], [`Merge::heard`] and [`Merge::answered`]; what to do comes out of
//! [`Merge::take`], [`Merge::ask`], [`Merge::resubscribes`] and [`Merge::end`]. The time is an argument.
//!
//! - A message of the stream and a page of `events` are the same thing: both are complete from one revision to another. What begins at
//!   or before the verified revision and ends behind it is told, as far as it is new, and the verified revision moves to its end.
//! - What begins behind the verified revision shows a hole. It is kept, within bounds, until the broker was asked for what is missing.
//!   What finds no room is forgotten: that it was there is known, and so it is asked for.
//! - The stream is a hint. Everything odd about it (another epoch, a step back, silence) leads to a question; only answers decide that
//!   the history is another one, that changes are gone, or that some were undone.
//! - One question is outstanding at most.
//! - Revisions are told in order, whole and once, from the position where the watch begins or from a snapshot on. Only a snapshot may
//!   set the position back, and only where that was allowed.
//! - A snapshot counts as finished only once the broker has said that the epoch is still the one in which it was begun.
//!
//! Caveat: what [`Merge::take`] gives has to be taken before more is put in, or it grows.

mod answers;
mod asking;
mod telling;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_protocol::{Failure, Key, ReplyError, RevisionEvents, Row, StreamBody, StreamMessage, prefix_of_stream_topic};

use super::changes::Together;
use super::event::{WatchEnd, WatchStats, WhySnapshot};
use super::options::{WatchFrom, WatchOptions, Watched};
use telling::Out;
pub use telling::Told;

/// How long a stream may be without any message before the broker is asked instead.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// A stream says something every 30 s. Silent for longer, it is asked for and subscribed to again.
pub const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Longest pause between two subscriptions to a stream that never says anything.
const RESUBSCRIBE_MAX: Duration = Duration::from_secs(60);

/// First and longest pause after a question that was not answered.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Pause after a broker has not waited where it was asked to.
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// Pause between two questions where none may wait at the broker.
const POLL_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Most bytes of messages that one watch keeps behind a hole.
pub const AHEAD_BYTES_MAX: usize = 2 << 20;

/// Most messages that one watch keeps behind a hole.
pub const AHEAD_MESSAGES_MAX: usize = 1_024;

/// A question to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// `events` from now on, without waiting: where the table is, and what its epoch is.
    Now,
    /// `events` behind a revision.
    Events {
        /// The revision.
        after: u64,
        /// The epoch in which it was counted.
        epoch: Option<u64>,
        /// The broker may wait for the first one.
        wait: bool,
    },
    /// A page of what is there at one revision.
    Rows {
        /// Where the page begins.
        cursor: Option<Key>,
        /// The snapshot; 0: a new one.
        snapshot: u64,
    },
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// Changes: everything behind the revision that was asked for, up to `through`.
    Events {
        /// The revisions that changed something, in order.
        events: Vec<RevisionEvents>,
        /// They are complete up to here.
        through: u64,
        /// There may be more already.
        more: bool,
        /// The log's epoch.
        epoch: u64,
    },
    /// Rows of a snapshot.
    Rows {
        /// In the order of keys.
        rows: Vec<Row>,
        /// Where the next page begins; None: that was the last one.
        cursor: Option<Key>,
        /// The revision that it shows.
        snapshot: u64,
    },
    /// A failure, and the table's revision if the broker told it.
    Failed(Failure, Option<u64>),
    /// There was no answer in time.
    Unanswered(String),
    /// The answer can't be understood.
    Unreadable(ReplyError),
    /// The client is closed.
    Closed,
}

/// Where a watch would go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Everything up to this revision was told.
    pub revision: u64,
    /// The epoch of that, once it is known.
    pub epoch: Option<u64>,
}

/// A message of the stream that was heard.
#[derive(Clone, Debug)]
pub struct Heard {
    epoch: u64,
    prev: u64,
    revision: u64,
    together: Together,
    /// About how much memory it takes.
    bytes: usize,
}

impl Heard {
    /// Reads a message. None: it is no stream's.
    ///
    /// # Errors
    /// As [`StreamMessage::decode`].
    pub fn read(topic: &[u8], body: &[u8]) -> Result<Option<Heard>, Failure> {
        if let Some(read) = prefix_of_stream_topic(topic).and_then(|prefix| StreamBody::read(prefix, body)) {
            let (epoch, prev, revision, bytes) = (read.epoch(), read.prev(), read.revision(), read.memory_bytes());
            return Ok(Some(Heard { epoch, prev, revision, together: Together::Stream(Arc::new(read)), bytes }));
        }
        // A newer broker's, or none that can be understood.
        Ok(StreamMessage::decode(topic, body)?.map(|(_, message)| Heard::of(message, body.len())))
    }

    /// A message that was read by other means, which takes so many bytes.
    #[must_use]
    pub fn of(message: StreamMessage, bytes: usize) -> Heard {
        let StreamMessage { epoch, prev, revision, events } = message;
        Heard { epoch, prev, revision, together: Together::Events(Arc::new(events)), bytes }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// It begins now, whichever revision that is.
    Begin,
    /// Everything up to the verified revision was told.
    Follow,
    /// Something does not fit: where the table is and what its epoch is decides why, and whether a snapshot comes next.
    Assess {
        suspicion: WhySnapshot,
        /// What was told ends here; None: nothing was promised that would be broken.
        after: Option<u64>,
        oldest: Option<u64>,
    },
    /// Pages of a snapshot are fetched.
    Rows { why: WhySnapshot, cursor: Option<Key>, snapshot: u64 },
    /// All rows were told; whether the epoch is still the same is asked with the changes behind them.
    Confirm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// This watch has no stream.
    Never,
    Down,
    Up {
        /// The last message of this stream on this connection.
        heard_at: Option<Instant>,
        resubscribe_at: Instant,
        resubscribe_after: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    after: Option<u64>,
    /// Something odd was to be asked: until the answer is there nobody knows whether nothing is missing.
    doubt: bool,
    /// It is one of a watch without a stream, and the pause after it if nothing is there.
    poll: Option<Duration>,
    /// It was asked for others, too, who are further behind: a page of the answer may end before `after`.
    is_joint: bool,
}

/// The bookkeeping of one watch.
#[derive(Clone, Debug)]
pub struct Merge {
    watched: Watched,
    resync: bool,
    /// A watch from now on asks at once where that is, instead of waiting for the stream to say it.
    eager: bool,
    phase: Phase,
    link: Link,
    /// Since when no stream was heard.
    quiet_since: Instant,
    epoch: Option<u64>,
    verified: u64,
    /// The highest end of a message of the stream.
    heard: u64,
    /// Something odd was heard, or there is more: to be asked.
    doubt: bool,
    ahead: VecDeque<Heard>,
    ahead_bytes: usize,
    asked: Option<Asked>,
    not_before: Option<Instant>,
    failures: u32,
    /// The broker has no room for one more question that waits there.
    is_crowded: bool,
    caught_up: bool,
    told_disconnected: bool,
    out: Out,
    end: Option<WatchEnd>,
    stats: WatchStats,
    /// Holes in the chain that the broker was not told of.
    lost: u64,
}

impl Merge {
    /// A watch that begins. `eager`: where "now" is, is asked at once.
    #[must_use]
    pub fn new(now: Instant, options: &WatchOptions, eager: bool) -> Self {
        let (mut epoch, mut verified) = (None, 0);
        let phase = match options.from {
            WatchFrom::Now => Phase::Begin,
            WatchFrom::After { revision, epoch: counted_in } => {
                (epoch, verified) = (counted_in, revision);
                Phase::Follow
            }
            WatchFrom::Snapshot => Phase::Assess { suspicion: WhySnapshot::Asked, after: None, oldest: None },
        };
        Merge {
            watched: options.watched.clone(),
            resync: options.resyncs(),
            eager,
            phase,
            link: if options.may_stream() { Link::Down } else { Link::Never },
            quiet_since: now,
            epoch,
            verified,
            heard: 0,
            doubt: false,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            asked: None,
            not_before: None,
            failures: 0,
            is_crowded: false,
            caught_up: false,
            told_disconnected: false,
            out: Out::default(),
            end: None,
            stats: WatchStats::default(),
            lost: 0,
        }
    }

    /// Why nothing more will come, once everything was taken.
    #[must_use]
    pub fn end(&self) -> Option<&WatchEnd> {
        self.end.as_ref().filter(|_| self.out.is_empty())
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> WatchStats {
        WatchStats { lag: self.heard.saturating_sub(self.verified), ..self.stats }
    }

    /// How many holes the chain has had since this was asked last.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Up to where nothing is missing, if the publisher says that it has told everything up to `revision`; None: this watch does not
    /// follow its stream.
    #[must_use]
    pub fn complete_to(&self, epoch: u64, revision: u64) -> Option<u64> {
        let follows = self.phase == Phase::Follow && self.has_streamed() && self.epoch == Some(epoch);
        let misses = self.is_behind() || self.asked.is_some();
        follows.then(|| if misses { self.verified } else { self.verified.max(revision) })
    }

    /// The revision up to which everything is known here, told or about to be; None: in a snapshot, or before the beginning.
    #[must_use]
    pub fn verified(&self) -> Option<u64> {
        self.position().map(|position| position.revision)
    }

    /// Bytes of messages that are kept behind a hole.
    #[must_use]
    pub fn ahead_bytes(&self) -> usize {
        self.ahead_bytes
    }

    /// Forgets them; they will be asked for.
    pub fn forget_ahead(&mut self) {
        self.stats.dropped += self.ahead.len() as u64;
        self.ahead.clear();
        self.ahead_bytes = 0;
    }

    /// There is no stream for this watch, for example because its user may use only some keys.
    pub fn never_linked(&mut self) {
        self.link = Link::Never;
    }

    /// There may be one after all.
    pub fn may_be_linked(&mut self) {
        if self.link == Link::Never {
            self.link = Link::Down;
        }
    }

    /// The stream was subscribed to on a new connection.
    pub fn linked(&mut self, now: Instant) {
        let (resubscribe_at, resubscribe_after) = (now + PATIENCE, PATIENCE);
        self.link = Link::Up { heard_at: None, resubscribe_at, resubscribe_after };
    }

    /// The same stream was subscribed to before, for another watch. If that has heard it, the stream will not say where it is on account
    /// of this one; if not, its first word is still to come, or never will.
    pub fn joined(&mut self, now: Instant, is_heard: bool) {
        self.linked(now);
        if !is_heard {
            return;
        }
        if let Link::Up { heard_at, .. } = &mut self.link {
            *heard_at = Some(now);
        }
        self.eager = true;
        self.doubt = true;
    }

    /// A message of the stream came that can't be read.
    pub fn garbled(&mut self) {
        self.stats.messages += 1;
        self.doubt = true;
    }

    /// The broker does not want this client any more.
    pub fn refused(&mut self, failure: Failure) {
        self.ends(WatchEnd::Failed(failure));
    }

    /// The connection is gone.
    pub fn unlinked(&mut self, now: Instant, why: &str) {
        if let Link::Up { heard_at: Some(_), .. } = self.link {
            self.quiet_since = now;
            self.disturbed(why);
        }
        if self.link != Link::Never {
            self.link = Link::Down;
        }
    }

    /// A message of the stream came.
    pub fn heard(&mut self, now: Instant, message: Heard) {
        self.stats.messages += 1;
        let mut is_first = false;
        if let Link::Up { heard_at, .. } = &mut self.link {
            is_first = heard_at.replace(now).is_none();
        }
        if self.end.is_some() {
            return;
        }
        match self.phase {
            Phase::Begin if self.asked.is_none() && !self.eager => {
                self.epoch = Some(message.epoch);
                self.verified = message.prev;
                self.phase = Phase::Follow;
            }
            // Where it begins is just being asked; whether this belongs behind that shows then.
            Phase::Begin | Phase::Rows { .. } | Phase::Confirm | Phase::Follow => {}
            // What history this belongs to is just being asked. The answer is complete up to then, and knows of this.
            Phase::Assess { .. } => return,
        }
        if self.phase == Phase::Follow {
            self.epoch = self.epoch.or(Some(message.epoch));
        }
        if self.epoch.is_some_and(|epoch| epoch != message.epoch) {
            self.doubt = true;
            return;
        }
        // On one connection each message begins where the one before it ended.
        if !is_first && self.heard > 0 && message.prev > self.heard {
            self.stats.lost += 1;
            self.lost += 1;
        }
        // Another connection's first word is where the table was left, at least.
        self.doubt |= is_first && self.phase == Phase::Follow && message.revision < self.verified;
        self.heard = self.heard.max(message.revision);
        if self.phase == Phase::Follow && message.prev <= self.verified {
            self.advance(message.revision, message.together);
            self.drain_ahead();
            self.settle();
        } else {
            self.keep_ahead(message);
        }
    }

    /// The client was closed: what was told already is still taken.
    pub fn closed(&mut self) {
        if self.end.is_none() {
            self.ends(WatchEnd::Closed);
        }
    }

    fn ends(&mut self, end: WatchEnd) {
        self.end = Some(end);
        self.forget_ahead();
    }
}
