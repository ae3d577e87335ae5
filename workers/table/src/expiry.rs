//! Keys whose deadline has come: removed before the requests of a batch, and in time when no request comes. Items of queues: `pulls.rs`.
//!
//! - Each goes at a revision of its own, in order of the deadlines, at most [`limits::EXPIRIES_PER_BATCH_MAX`] before one batch: many
//!   that are due at once take turns with the requests.
//! - Deadlines are in the time of the stamps, and so is the question whether one has come. The wait for requests is measured by
//!   another clock, and so only decides how soon the worker asks again: never before the deadline by the stamp, and at most
//!   1 % of the wait after it, since the stamp runs at most so much faster.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kvbroker_core::{Change, Space};
use kvbroker_log::{BatchBuilder, Cause, Log};
use kvbroker_protocol::limits;

use crate::released::Event;
use crate::worker::Worker;

// A batch that begins with as many expiries as it may is written by itself once it is large; so they need no room beside requests.
const _: () = assert!(
    limits::EXPIRIES_PER_BATCH_MAX * (limits::KEY_BYTES_MAX + 128) <= kvbroker_log::MAX_BATCH_BYTES,
    "the log takes the expiries of one batch"
);

impl<L: Log> Worker<L> {
    /// Puts the removal of what is due into the batch, and into the state.
    pub(crate) fn expire_due(&mut self, time_ms: u64, batch: &mut BatchBuilder, events: &mut Option<Vec<Event>>) {
        let due = self.state.due(time_ms, limits::EXPIRIES_PER_BATCH_MAX);
        let items_max = limits::EXPIRIES_PER_BATCH_MAX - due.len();
        if due.is_empty() {
            return self.expire_items(time_ms, items_max, batch, events);
        }
        tracing::debug!(keys = due.len(), "deadlines have come");
        self.counters.expired.fetch_add(due.len() as u64, Ordering::Relaxed);
        for key in due {
            self.take_in(vec![Change { space: Space::Table, key, value: None }], Cause::Expiry, None, batch, events);
        }
        self.expire_items(time_ms, items_max, batch, events);
    }

    /// When time next does something to a key or an item.
    fn next_ms(&self) -> Option<u64> {
        self.state.next_deadline_ms().into_iter().chain(self.state.next_queue_ms()).min()
    }

    /// True if a key is due now.
    pub(crate) fn is_due(&mut self) -> bool {
        // Without deadlines no clock is read.
        self.next_ms().is_some_and(|at_ms| at_ms <= self.stamp_ms())
    }

    /// How long to wait for requests: `longest`, or less if a deadline comes before.
    pub(crate) fn wait(&mut self, longest: Duration) -> Duration {
        match self.next_ms() {
            None => longest,
            Some(at_ms) => until(at_ms, self.stamp_ms(), longest),
        }
    }
}

/// How long from now on until a deadline; `longest` at most.
fn until(at_ms: u64, time_ms: u64, longest: Duration) -> Duration {
    longest.min(Duration::from_millis(at_ms.saturating_sub(time_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_ends_at_the_next_deadline_and_not_a_moment_later() {
        // The worker wakes up each second anyway, so only this shows that it does not wait so long for a deadline.
        let second = Duration::from_secs(1);
        for (at_ms, left_ms) in [(0, 0), (10_000, 0), (10_001, 1), (10_999, 999), (11_000, 1_000), (u64::MAX, 1_000)] {
            assert_eq!(until(at_ms, 10_000, second), Duration::from_millis(left_ms), "{at_ms}");
        }
    }
}
