//! What has happened in a queue since the broker started, for whoever looks at how it does.
//!
//! - Nothing of it is logged, and nothing depends on it.
//! - An item that is pushed and taken in one transaction never was there, and is not counted.

use kvbroker_protocol::{Progress, StatValue};

use super::Stage;

/// Numbers of items.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// They came, also from another queue.
    pub(super) pushed: u64,
    /// Leases that were granted; what is handed out without one is done at once.
    delivered: u64,
    done: u64,
    /// Set aside, or moved to the queue for what is dead.
    died: u64,
    /// Their deadline passed.
    expired: u64,
    /// Purged, or dropped to make room.
    removed: u64,
}

impl Totals {
    /// What has become of an item is another thing now.
    pub(super) fn note_stage(&mut self, before: &Stage, after: &Stage) {
        match after {
            Stage::Leased { .. } if before != after => self.delivered += 1,
            Stage::Dead { .. } if !matches!(before, Stage::Dead { .. }) => self.died += 1,
            Stage::Leased { .. } | Stage::Dead { .. } | Stage::Waiting { .. } => {}
        }
    }

    /// An item is not in the queue any more.
    pub(super) fn note_end(&mut self, end: Progress) {
        match end {
            Progress::Done => self.done += 1,
            Progress::Dead => self.died += 1,
            Progress::Expired => self.expired += 1,
            Progress::Removed => self.removed += 1,
            Progress::Ready | Progress::Delayed | Progress::Leased | Progress::Gone => {}
        }
    }

    /// As the statistics of a queue have them.
    pub(super) fn facts(&self) -> impl Iterator<Item = (String, StatValue)> {
        let Totals { pushed, delivered, done, died, expired, removed } = *self;
        let numbers = [
            ("total_pushed", pushed),
            ("total_delivered", delivered),
            ("total_done", done),
            ("total_died", died),
            ("total_expired", expired),
            ("total_removed", removed),
        ];
        numbers.into_iter().map(|(name, number)| (name.to_owned(), StatValue::Number(number)))
    }
}
