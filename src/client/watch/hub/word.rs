//! How a hub says how far it has come, for the broker's figures: while its streams miss nothing it asks nothing, and nobody would know.
//!
//! - It says so when a heartbeat shows that the publisher has told something new, and once in [`PAUSE`] at most: where nothing changes,
//!   nothing is said.
//! - It is one word for all of its watches: they share a connection. It says how far the one has come that is furthest behind.
//! - Nothing depends on it. A broker that does not know such a word is not told again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::FOLLOWER_WORD_MS;
use kvbroker_protocol::{ErrorCode, Events, Operation, Outcome};

use super::joint::common_prefix;
use super::{Entry, Hub};
use crate::client::session::Told;
use crate::client::slot::{Ended, Slot};

/// Least time between two words.
const PAUSE: Duration = Duration::from_millis(FOLLOWER_WORD_MS);

/// How long the broker may take to hear one.
const ANSWER: Duration = Duration::from_secs(15);

/// What was said last.
#[derive(Debug)]
pub(super) struct Word {
    said: u64,
    not_before: Instant,
    slot: Option<Arc<Slot>>,
    is_unwanted: bool,
}

impl Word {
    pub(super) fn new(now: Instant) -> Word {
        Word { said: 0, not_before: now, slot: None, is_unwanted: false }
    }

    /// What the broker knows of this hub is not true any more.
    pub(super) fn is_due(&mut self, now: Instant) {
        self.not_before = self.not_before.min(now);
    }

    /// Whether another word may be said now.
    fn is_free(&mut self, now: Instant) -> bool {
        if self.is_unwanted || now < self.not_before || self.slot.as_ref().is_some_and(|slot| !slot.is_complete()) {
            return false;
        }
        if let Some(slot) = self.slot.take() {
            self.is_unwanted = slot.wait().pop().is_some_and(|end| self.is_refused(&end));
        }
        !self.is_unwanted
    }

    /// Whether the broker does not know what this is, which is not the same as that its table was set back meanwhile.
    fn is_refused(&self, end: &Ended) -> bool {
        let Ended::Told(Told::Other(told)) = end else { return false };
        let Ok(Outcome { revision, result: Err(failure) }) = &**told else { return false };
        failure.code == ErrorCode::Invalid && revision.is_none_or(|revision| revision >= self.said)
    }
}

impl Hub {
    /// The publisher has told all that there was up to a revision.
    pub(super) fn told_up_to(&mut self, now: Instant, epoch: u64, revision: u64) {
        if revision == self.word.said || !self.word.is_free(now) {
            return;
        }
        let hears = |entry: &&Entry| entry.topic.is_some() && entry.merge.complete_to(epoch, revision).is_some();
        let hearers = || self.entries.values().filter(hears);
        let Some(after) = hearers().filter_map(|entry| entry.merge.complete_to(epoch, revision)).min() else { return };
        let prefix = common_prefix(hearers().map(|entry| entry.options.watched.prefix()));
        let says = Events { prefix, after: Some(after), limit: Some(0), epoch: Some(epoch), ..Events::default() };
        self.word.slot = self.client.submit_ringing(&Operation::Events(says), ANSWER, &self.bell);
        if self.word.slot.is_some() {
            (self.word.said, self.word.not_before) = (after, now + PAUSE);
        }
    }
}
