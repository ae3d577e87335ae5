//! The queue of changes and published messages from the worker to the publisher: bounded, and never silent about what it lost.
//!
//! - A batch whose events and messages do not fit is put in without them: what the publisher takes out always goes on where the batch
//!   before it ended, and says where it tells nothing. Where nothing was published, no message is lost.
//! - Batches that tell nothing and follow each other become one. So there is at most one more of them than of the others, and a
//!   queue that nobody empties does not grow.
//! - The worker never waits here. It wakes the publisher for messages, which are there only while somebody listens, and for events that
//!   somebody [watches](Interest): others can wait until somebody looks, which the publisher does every second, or until they have come to
//!   [`LOOK_BYTES`].
//! - Who is asked whether a key is watched, under the queue's lock, has heard of everybody for whom the publisher has found the queue empty
//!   since: so nobody who watches waits for the second.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::interest::Interest;
use crate::outbox::Doorbell;
use crate::released::EventBatch;
use crate::sizes::{event_bytes, publication_bytes};

/// Rough bytes of a batch beside what it tells, and of one that tells nothing and may follow it.
const BATCH_BYTES: usize = 2 * (size_of::<EventBatch>() + size_of::<usize>());

/// When so much waits the publisher is woken for it, whatever it is.
const LOOK_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Inner {
    batches: VecDeque<(EventBatch, usize)>,
    bytes: usize,
    /// The publisher was woken for what is in it.
    is_rung: bool,
}

/// The queue.
pub struct EventQueue {
    inner: Mutex<Inner>,
    bytes_max: usize,
    doorbell: Arc<dyn Doorbell>,
    interest: Arc<Interest>,
}

impl EventQueue {
    /// An empty queue of at most `bytes_max` bytes (one batch always fits). All changes are taken for such that somebody watches until
    /// [`EventQueue::interest`] is told otherwise.
    pub fn new(bytes_max: usize, doorbell: Arc<dyn Doorbell>) -> EventQueue {
        let interest = Arc::new(Interest::default());
        interest.set_all(true);
        EventQueue { inner: Mutex::default(), bytes_max, doorbell, interest }
    }

    /// Whom changes are for: kept by whoever empties the queue.
    pub fn interest(&self) -> &Arc<Interest> {
        &self.interest
    }

    /// A panic can't leave the queue half changed: poison means nothing here.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a batch in; false if what it tells was dropped for want of room. A batch that changed nothing is not put in at all.
    pub fn push(&self, mut batch: EventBatch) -> bool {
        if batch.base == batch.revision {
            return true;
        }
        let tells = !batch.tells_nothing();
        let (events, messages) = (batch.events.iter().flatten(), batch.messages.iter().flatten());
        let bytes = events.map(event_bytes).chain(messages.map(publication_bytes)).sum::<usize>();
        let bytes = if tells { BATCH_BYTES + bytes } else { 0 };
        let mut inner = self.lock();
        let was_empty = inner.batches.is_empty();
        let fits = was_empty || !tells || inner.bytes + bytes <= self.bytes_max;
        // Also for those that are dropped: somebody has to be told.
        let rings = !inner.is_rung
            && tells
            && (!fits
                || inner.bytes + bytes > LOOK_BYTES.min(self.bytes_max / 2)
                || batch.messages.as_ref().is_some_and(|messages| !messages.is_empty())
                || batch.events.iter().flatten().any(|event| self.interest.may_have(&event.key)));
        inner.is_rung |= rings;
        if !fits {
            batch.events = None;
            batch.messages = batch.messages.filter(Vec::is_empty);
        }
        match inner.batches.back_mut() {
            Some((last, _)) if last.tells_nothing() && batch.tells_nothing() && last.revision == batch.base => {
                (last.revision, last.time_ms) = (batch.revision, batch.time_ms);
                // What is unknown of one of them is unknown of both.
                last.messages = last.messages.take().and(batch.messages);
            }
            _ => {
                let bytes = if fits { bytes } else { 0 };
                inner.bytes += bytes;
                inner.batches.push_back((batch, bytes));
            }
        }
        drop(inner);
        if rings {
            self.doorbell.ring();
        }
        fits
    }

    /// Takes the next batch.
    pub fn pop(&self) -> Option<EventBatch> {
        let mut inner = self.lock();
        let (batch, bytes) = inner.batches.pop_front()?;
        inner.bytes -= bytes;
        inner.is_rung &= !inner.batches.is_empty();
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kvbroker_core::Message;
    use kvbroker_protocol::{Stored, VersionKind};

    use super::*;
    use crate::released::{Event, Publication};

    #[derive(Default)]
    struct Rings(AtomicUsize);
    impl Doorbell for Rings {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn batch(base: u64, revision: u64, key_bytes: Option<usize>) -> EventBatch {
        let event = |bytes| Event { revision, key: vec![b'k'; bytes], kind: VersionKind::Remove };
        EventBatch { base, revision, time_ms: 7, events: key_bytes.map(|bytes| vec![event(bytes)]), messages: Some(vec![]) }
    }

    fn publication(revision: u64, bytes: usize) -> Publication {
        let message = Message { subject: b"s".to_vec(), value: Stored::text(&"v".repeat(bytes)).unwrap() };
        Publication { revision, message }
    }

    fn told(queue: &EventQueue) -> Vec<(u64, u64, bool)> {
        std::iter::from_fn(|| queue.pop()).map(|batch| (batch.base, batch.revision, batch.events.is_some())).collect()
    }

    #[test]
    fn what_does_not_fit_leaves_a_mark_and_marks_become_one() {
        let rings = Arc::new(Rings::default());
        let queue = EventQueue::new(1_000, rings.clone());
        assert!(queue.push(batch(0, 1, Some(5_000))), "one always fits");
        assert!(!queue.push(batch(1, 3, Some(1))));
        assert!(!queue.push(batch(3, 4, Some(1))));
        assert!(queue.push(batch(4, 5, None)), "nothing of it was lost here");
        assert_eq!(told(&queue), [(0, 1, true), (1, 5, false)]);
        assert!(queue.push(batch(5, 6, None)) && queue.push(batch(6, 7, Some(1))) && queue.push(batch(7, 8, None)));
        assert_eq!(told(&queue), [(5, 6, false), (6, 7, true), (7, 8, false)]);
        assert_eq!(rings.0.load(Ordering::Relaxed), 2, "once until it is emptied");
        assert_eq!(queue.lock().bytes, 0);
    }

    #[test]
    fn what_nobody_watches_wakes_nobody_until_it_is_much() {
        let rings = Arc::new(Rings::default());
        let queue = EventQueue::new(1 << 20, rings.clone());
        let rung = || rings.0.load(Ordering::Relaxed);
        queue.interest().set_all(false);
        queue.interest().add(b"kk");
        for revision in 0..50 {
            assert!(queue.push(batch(revision, revision + 1, Some(1))));
        }
        assert_eq!(rung(), 0);
        queue.push(batch(50, 51, Some(2)));
        queue.push(batch(51, 52, Some(2)));
        assert_eq!(rung(), 1, "the key begins with what is watched");
        assert_eq!(told(&queue).len(), 52, "and all that waited is told in its order");
        queue.interest().remove(b"kk");
        let mut revision = 52;
        while rung() == 1 {
            assert!(revision < 100_000, "nobody was woken for so much");
            queue.push(batch(revision, revision + 1, Some(100)));
            revision += 1;
        }
        assert!(told(&queue).windows(2).all(|pair| pair[0].1 == pair[1].0));
    }

    #[test]
    fn messages_wake_the_publisher_and_are_lost_only_where_some_were_published() {
        let rings = Arc::new(Rings::default());
        let queue = EventQueue::new(1_000, rings.clone());
        queue.interest().set_all(false);
        let mut revision = 0;
        let mut push = |messages: Option<usize>| {
            revision += 1;
            let messages = messages.map(|bytes| (bytes > 0).then(|| publication(revision, bytes)).into_iter().collect());
            queue.push(EventBatch { messages, ..batch(revision - 1, revision, None) })
        };
        // Two that tell nothing, and of both it is known that nothing was published; one of which it is not known.
        assert!(push(Some(0)) && push(Some(0)) && push(Some(5)));
        assert_eq!(rings.0.load(Ordering::Relaxed), 1);
        assert!(!push(Some(5_000)), "there is no room");
        assert!(push(Some(0)) && push(Some(5)) && push(Some(0)) && push(None) && push(Some(0)));
        let told: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|batch| (batch.base, batch.revision, batch.messages.map(|messages| messages.len())))
            .collect();
        assert_eq!(told, [(0, 2, Some(0)), (2, 3, Some(1)), (3, 5, None), (5, 6, Some(1)), (6, 9, None)]);
        assert_eq!(queue.lock().bytes, 0);
    }

    #[test]
    fn a_queue_that_nobody_empties_stays_small() {
        let queue = EventQueue::new(10_000, Arc::new(Rings::default()));
        for revision in 0..100_000 {
            queue.push(batch(revision, revision + 1, (revision % 2 == 0).then_some(1)));
            queue.push(batch(revision + 1, revision + 1, Some(1)));
        }
        let told = told(&queue);
        assert!(told.len() < 200, "{} wait", told.len());
        assert!(told.windows(2).all(|pair| pair[0].1 == pair[1].0), "each goes on where the one before it ended");
        assert_eq!(told.last().map(|last| last.1), Some(100_000));
    }
}
