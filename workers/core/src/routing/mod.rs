//! Routing: which queues want which messages.
//!
//! - A binding is a record of its own (see `record.rs`), kept by the queue's id: it goes when its queue is dropped, and a queue that is made
//!   again has none of the old one's.
//! - A message is no record. What is kept of it is a copy in each queue that wants it, one for a queue however many of its patterns fit,
//!   all of them in one group; and, if that is asked for, the value of a key of the table.
//! - Each publish is counted in a record. So it has a revision of its own also where no queue wants the message: those who listen are
//!   told it, and can see what they missed.
//! - Nothing here is derived from anything but records: live traffic and recovery come to the same routing.

mod operate;
mod overlay;
mod record;
mod trie;

use std::collections::BTreeMap;
use std::sync::Arc;

use kvbroker_protocol::{Key, Predicate, PredicateMatcher, Stored};

use crate::change::Change;
use crate::queues::QueueId;

pub(crate) use operate::operate;
pub(crate) use overlay::RoutingOverlay;
pub(crate) use record::{is_record, put_binding, put_counts, read_binding, read_counts, split_binding_key};
pub use trie::{Found, PatternTree};

/// A message for those who listen.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What it is about.
    pub subject: Key,
    /// The value as written.
    pub value: Stored,
}

/// Names a binding: the queue, and the pattern.
type BindingKey = (QueueId, Box<[u8]>);

/// What a queue is bound to.
#[derive(Debug)]
pub(crate) struct Bound {
    pattern: Box<[u8]>,
    filter: Option<(Predicate, PredicateMatcher)>,
}

impl Bound {
    /// With the text of a predicate, which may be empty. None if the text is no predicate.
    fn new(pattern: &[u8], filter: &str) -> Option<Bound> {
        let filter = if filter.is_empty() {
            None
        } else {
            let predicate = Predicate::new(filter).ok()?;
            let matcher = predicate.matcher()?;
            Some((predicate, matcher))
        };
        Some(Bound { pattern: pattern.into(), filter })
    }

    /// The predicate as it was written; empty: there is none.
    fn filter(&self) -> &str {
        self.filter.as_ref().map_or("", |(predicate, _)| predicate.as_str())
    }

    fn regexes(&self) -> usize {
        self.filter.as_ref().map_or(0, |(predicate, _)| predicate.regexes())
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Bound) -> bool {
        (&self.pattern, self.filter()) == (&other.pattern, other.filter())
    }
}

/// How many messages there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    /// Of them those that no queue wanted.
    pub(crate) unroutable: u64,
}

/// All bindings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routing {
    bindings: BTreeMap<BindingKey, Arc<Bound>>,
    trie: PatternTree<QueueId, Arc<Bound>>,
    /// In the predicates of all of them.
    regexes: usize,
    counts: Counts,
}

impl PartialEq for Routing {
    fn eq(&self, other: &Routing) -> bool {
        (&self.bindings, self.counts) == (&other.bindings, other.counts)
    }
}

impl Eq for Routing {}

impl Routing {
    /// Number of bindings.
    pub(crate) fn len(&self) -> usize {
        self.bindings.len()
    }

    /// How many messages there were.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// The bindings of a queue, from a pattern on.
    fn of(&self, queue: QueueId, from: &[u8]) -> impl Iterator<Item = &Arc<Bound>> {
        let all = self.bindings.range((queue, Box::from(from))..);
        all.take_while(move |((found, _), _)| *found == queue).map(|(_, bound)| bound)
    }

    fn get(&self, queue: QueueId, pattern: &[u8]) -> Option<&Arc<Bound>> {
        self.bindings.get(&(queue, Box::from(pattern)))
    }

    /// A binding's record was put or deleted.
    pub(crate) fn apply_binding(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some((queue, pattern)) = split_binding_key(key) else { return };
        if let Some(before) = self.bindings.remove(&(queue, Box::from(pattern))) {
            self.trie.remove(pattern, &queue);
            self.regexes -= before.regexes();
        }
        let Some(bound) = value.and_then(read_binding).and_then(|filter| Bound::new(pattern, filter)) else { return };
        let bound = Arc::new(bound);
        self.regexes += bound.regexes();
        self.trie.insert(pattern, queue, Arc::clone(&bound));
        self.bindings.insert((queue, bound.pattern.clone()), bound);
    }

    /// The record that counts messages was put.
    pub(crate) fn apply_counts(&mut self, value: Option<&[u8]>) {
        self.counts = value.and_then(read_counts).unwrap_or_default();
    }

    /// Records of bindings behind `behind` (None: all), in key order.
    pub(crate) fn bindings_behind<'s>(&'s self, behind: Option<&'s [u8]>) -> impl Iterator<Item = Change> + use<'s> {
        let from = behind.map_or(QueueId::MIN, |key| {
            let mut id = [0; 8];
            id.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
            QueueId::from_bytes(id)
        });
        let all = self.bindings.range((from, Box::default())..);
        let records = all.map(|((queue, _), bound)| put_binding(*queue, &bound.pattern, bound.filter()));
        records.filter(move |record| behind.is_none_or(|behind| record.key.as_slice() > behind))
    }

    /// The record that counts messages, if it is behind `behind`.
    pub(crate) fn counts_behind(&self, behind: Option<&[u8]>) -> Option<Change> {
        (behind.is_none() && self.counts != Counts::default()).then(|| put_counts(self.counts))
    }
}
