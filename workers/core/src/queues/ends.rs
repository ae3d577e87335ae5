//! How the last items ended, for those who wait for one.
//!
//! - Nothing of this is logged: it is a help for who asks soon, and after a restart nobody knows.
//! - It takes the same memory whatever happens: the oldest end makes room for the newest.

use std::collections::VecDeque;

use kvbroker_protocol::{ErrorCode, Failure, ItemId, Progress, Tracked, limits};

use super::{QueueId, Queues, Stage};

/// An item that was removed, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub(super) queue: QueueId,
    pub(super) item: ItemId,
    pub(super) end: Progress,
}

/// The last ends, the newest at the back.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends(VecDeque<Ended>);

impl Ends {
    fn note(&mut self, ended: Ended) {
        if self.0.len() == limits::QUEUE_ENDS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(ended);
    }

    fn of(&self, queue: QueueId, item: ItemId) -> Option<Progress> {
        // Who asks was mostly woken by it.
        self.0.iter().rev().find(|ended| ended.item == item && ended.queue == queue).map(|ended| ended.end)
    }
}

impl Queues {
    /// Remembers how items ended.
    pub(crate) fn note_ends(&mut self, ended: impl IntoIterator<Item = Ended>) {
        for ended in ended {
            if let Some(queue) = self.known.get_mut(&ended.queue) {
                queue.totals.note_end(ended.end);
            }
            self.ends.note(ended);
        }
    }

    /// How far an item has come; `revision` is that of the state.
    ///
    /// # Errors
    /// `not_found` for an item that was never pushed.
    pub(crate) fn track(&self, name: &[u8], id: ItemId, revision: u64) -> Result<Tracked, Failure> {
        let Some((queue_id, queue)) = self.named(name) else { return gone(id, revision) };
        let Some(item) = queue.items.get(&id) else {
            return match self.ends.of(queue_id, id) {
                Some(progress) => Ok(Tracked { progress, deliveries: 0 }),
                None => gone(id, revision),
            };
        };
        let progress = match item.life.stage {
            Stage::Leased { .. } => Progress::Leased,
            Stage::Dead { .. } => Progress::Dead,
            Stage::Waiting { ready_ms, .. } if queue.delayed.contains(&(ready_ms, id)) => Progress::Delayed,
            Stage::Waiting { .. } => Progress::Ready,
        };
        Ok(Tracked { progress, deliveries: item.life.deliveries })
    }
}

fn gone(id: ItemId, revision: u64) -> Result<Tracked, Failure> {
    if id.revision() > revision {
        return Err(Failure::new(ErrorCode::NotFound, "no item with this id was pushed yet"));
    }
    Ok(Tracked { progress: Progress::Gone, deliveries: 0 })
}
