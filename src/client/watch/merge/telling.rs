//! What a watch tells: what is put in here comes out in order, whole and once.

use std::collections::VecDeque;
use std::sync::Arc;

use kvbroker_protocol::RevisionEvents;

use super::{AHEAD_BYTES_MAX, AHEAD_MESSAGES_MAX, Heard, Merge, Phase, Position};
use crate::client::watch::changes::{Together, Untold};
use crate::client::watch::event::WatchEvent;
use crate::client::watch::options::Watched;

/// An event for whoever watches, with what is true once it was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// None: only the position has moved.
    pub event: Option<WatchEvent>,
    /// None: in a snapshot.
    pub position: Option<Position>,
}

/// What waits to be taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Out {
    queue: VecDeque<Item>,
    /// The first one was taken in part.
    is_midway: bool,
    /// About how many bytes were put in.
    bytes: usize,
}

#[derive(Clone, Debug)]
enum Item {
    Told(Told),
    /// Revisions that came together, and what is true once the last one was taken.
    Untold(Untold, Position),
}

/// What an event takes that has no changes, about.
const EVENT_BYTES: usize = 128;

impl Out {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn event(&mut self, event: WatchEvent, position: Option<Position>) {
        let row = match &event {
            WatchEvent::SnapshotRow(row) => row.key.len() + row.value.as_bytes().len(),
            _ => 0,
        };
        self.bytes += EVENT_BYTES + row;
        self.queue.push_back(Item::Told(Told { event: Some(event), position }));
    }

    /// Revisions from this index on, and where everything is told once they are.
    fn revisions(&mut self, together: Together, index: usize, watched: &Watched, through: Position) {
        let bytes = together.memory_bytes();
        let untold = Untold::new(together, index, watched);
        if untold.is_empty() {
            return self.moved(through);
        }
        self.bytes += bytes;
        self.queue.push_back(Item::Untold(untold, through));
    }

    /// Whoever has taken the last event has everything up to here.
    fn moved(&mut self, through: Position) {
        match self.queue.back_mut() {
            Some(Item::Told(last)) => last.position = Some(through),
            Some(Item::Untold(_, last)) => *last = through,
            None => self.queue.push_back(Item::Told(Told { event: None, position: Some(through) })),
        }
    }

    fn take(&mut self, watched: &Watched) -> Option<Told> {
        let Some(Item::Untold(untold, through)) = self.queue.front_mut() else {
            self.is_midway = false;
            return match self.queue.pop_front() {
                Some(Item::Told(told)) => Some(told),
                Some(Item::Untold(..)) | None => None,
            };
        };
        let (changes, mut position) = (untold.next(watched), *through);
        match &changes {
            Some(changes) if !untold.is_empty() => {
                position.revision = changes.revision();
                self.is_midway = true;
            }
            _ => {
                self.queue.pop_front();
                self.is_midway = false;
            }
        }
        Some(Told { event: changes.map(WatchEvent::Changes), position: Some(position) })
    }
}

impl Merge {
    /// The next event.
    pub fn take(&mut self) -> Option<Told> {
        let told = self.out.take(&self.watched)?;
        if let Some(WatchEvent::Changes(_)) = told.event {
            self.stats.revisions += 1;
        }
        Some(told)
    }

    /// Whether there is nothing to be taken.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether the next event came together with the one that was taken last.
    #[must_use]
    pub fn is_midway(&self) -> bool {
        self.out.is_midway
    }

    /// About how many bytes were put where they can be taken from since this was asked last.
    pub fn put_bytes(&mut self) -> usize {
        std::mem::take(&mut self.out.bytes)
    }

    pub(super) fn position(&self) -> Option<Position> {
        (self.phase == Phase::Follow).then_some(Position { revision: self.verified, epoch: self.epoch })
    }

    pub(super) fn tell(&mut self, event: WatchEvent) {
        let position = self.position();
        self.out.event(event, position);
    }

    /// Everything up to `through`, from a revision that was verified already.
    pub(super) fn advance(&mut self, through: u64, together: Together) {
        let (together, told) = match together {
            Together::Stream(body) => {
                let told = body.count_through(self.verified);
                self.stats.duplicates += told as u64;
                (Together::Stream(body), told)
            }
            Together::Events(events) => (self.sifted(Arc::unwrap_or_clone(events)), 0),
        };
        // A message never tells of what lies behind its end.
        self.verified = self.verified.max(through);
        let through = Position { revision: self.verified, epoch: self.epoch };
        self.out.revisions(together, told, &self.watched, through);
    }

    /// What is new of it, and watched.
    fn sifted(&mut self, events: Vec<RevisionEvents>) -> Together {
        let mut sifted = Vec::with_capacity(events.len());
        for mut revision in events {
            if revision.revision <= self.verified {
                self.stats.duplicates += 1;
                continue;
            }
            self.verified = revision.revision;
            revision.changes.retain(|change| self.watched.has(&change.key));
            if !revision.changes.is_empty() {
                sifted.push(revision);
            }
        }
        Together::Events(Arc::new(sifted))
    }

    pub(super) fn keep_ahead(&mut self, message: Heard) {
        // A bookmark says where the stream is, and that is noted already.
        if message.revision <= self.verified && self.phase == Phase::Follow {
            return;
        }
        self.caught_up = false;
        self.ahead_bytes += message.bytes;
        self.ahead.push_back(message);
        // The answer that is waited for is more likely to have the oldest ones.
        while self.ahead_bytes > AHEAD_BYTES_MAX || self.ahead.len() > AHEAD_MESSAGES_MAX {
            let Some(Heard { bytes, .. }) = self.ahead.pop_front() else { break };
            self.ahead_bytes -= bytes;
            self.stats.dropped += 1;
        }
    }

    pub(super) fn drain_ahead(&mut self) {
        while let Some(message) = self.ahead.pop_front() {
            if message.prev > self.verified {
                self.ahead.push_front(message);
                return;
            }
            self.ahead_bytes -= message.bytes;
            if message.revision > self.verified {
                self.advance(message.revision, message.together);
            }
        }
    }

    /// Says so if nothing is missing any more.
    pub(super) fn settle(&mut self) {
        let is_doubtful = self.asked.is_some_and(|asked| asked.doubt);
        if self.phase == Phase::Follow && !self.is_behind() && !is_doubtful && !self.caught_up {
            self.caught_up = true;
            self.told_disconnected = false;
            self.tell(WatchEvent::CaughtUp { revision: self.verified });
        }
    }

    pub(super) fn disturbed(&mut self, why: &str) {
        self.caught_up = false;
        if !std::mem::replace(&mut self.told_disconnected, true) {
            self.tell(WatchEvent::Disconnected { why: why.to_owned() });
        }
    }
}
