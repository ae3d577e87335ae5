//! What one revision changed, as a watch tells it.
//!
//! - The revisions of one message of the publisher share its bytes: to hand one on costs no memory, nor to look at its keys and values.
//!   What the broker answered is shared in the same way.
//! - Caveat: so whoever keeps one revision keeps all that came together with it: some 64 KiB as a rule, and more only where a single
//!   revision is larger. [`Changes::to_events`] makes a copy without that.

use std::fmt;
use std::sync::Arc;

use kvbroker_protocol::{ChangeKind, ChangeRef, EventBefore, EventOrigin, KeyEvent, RevisionEvents, RevisionRef, StreamBody};

use super::options::Watched;

/// All that one revision changed of the keys that are watched; never nothing.
///
/// Its changes are read where they lie: `for change in &changes` gives each with its key and its value lent.
#[derive(Clone)]
pub struct Changes {
    revision: u64,
    time_ms: u64,
    of: Together,
    index: usize,
}

impl Changes {
    /// The revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// When it was made, by the broker's time, milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Why it was made, and for whom. None: that was not asked for ([`WatchOptions::detail`](super::WatchOptions::detail)).
    #[must_use]
    pub fn origin(&self) -> Option<EventOrigin> {
        match &self.of {
            Together::Stream(_) => None,
            Together::Events(events) => events.get(self.index)?.origin,
        }
    }

    /// The changes, in the order of their keys.
    #[must_use]
    #[inline]
    pub fn iter(&self) -> ChangesIter<'_> {
        let of = match &self.of {
            Together::Stream(body) => body.get(self.index).map_or(Lent::Events(&[]), Lent::Stream),
            Together::Events(events) => Lent::Events(events.get(self.index).map_or(&[], |events| &events.changes)),
        };
        ChangesIter { of, at: 0 }
    }

    /// How many keys it changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Never: a revision that changed nothing is not told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy that shares nothing.
    #[must_use]
    pub fn to_events(&self) -> RevisionEvents {
        let changes = self.iter().map(KeyEvent::from).collect();
        RevisionEvents { revision: self.revision, time_ms: self.time_ms, changes, origin: self.origin() }
    }
}

impl From<RevisionEvents> for Changes {
    fn from(events: RevisionEvents) -> Changes {
        let (revision, time_ms) = (events.revision, events.time_ms);
        Changes { revision, time_ms, of: Together::Events(Arc::new(vec![events])), index: 0 }
    }
}

impl<'a> IntoIterator for &'a Changes {
    type Item = ChangeRef<'a>;
    type IntoIter = ChangesIter<'a>;

    #[inline]
    fn into_iter(self) -> ChangesIter<'a> {
        self.iter()
    }
}

impl PartialEq for Changes {
    /// Whether they say the same, wherever they lie.
    fn eq(&self, other: &Changes) -> bool {
        let of = |one: &Changes| (one.revision, one.time_ms, one.origin());
        of(self) == of(other) && self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_events().fmt(f)
    }
}

/// The changes of a revision, one after the other.
#[derive(Clone, Debug)]
pub struct ChangesIter<'a> {
    of: Lent<'a>,
    at: usize,
}

#[derive(Clone, Debug)]
enum Lent<'a> {
    Stream(RevisionRef<'a>),
    Events(&'a [KeyEvent]),
}

impl<'a> Iterator for ChangesIter<'a> {
    type Item = ChangeRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<ChangeRef<'a>> {
        let change = match self.of {
            Lent::Stream(revision) => revision.get(self.at),
            Lent::Events(events) => events.get(self.at).map(ChangeRef::from),
        }?;
        self.at += 1;
        Some(change)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let all = match self.of {
            Lent::Stream(revision) => revision.len(),
            Lent::Events(events) => events.len(),
        };
        let left = all - self.at;
        (left, Some(left))
    }
}

impl ExactSizeIterator for ChangesIter<'_> {}

/// Revisions that came together.
#[derive(Clone, Debug)]
pub(super) enum Together {
    /// In a message of the stream; in order, and each with changes.
    Stream(Arc<StreamBody>),
    /// Otherwise.
    Events(Arc<Vec<RevisionEvents>>),
}

/// What an event takes beside its keys and values, about.
const EVENT_BYTES: usize = 128;

impl Together {
    /// About how much memory they take.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Together::Stream(body) => EVENT_BYTES + body.memory_bytes(),
            Together::Events(events) => events.iter().map(bytes_of).sum(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Together::Stream(body) => body.len(),
            Together::Events(events) => events.len(),
        }
    }

    /// The revision of this index, if there is one.
    #[inline]
    fn get(&self, index: usize) -> Option<Changes> {
        let (revision, time_ms) = match self {
            Together::Stream(body) => body.get(index).map(|revision| (revision.revision, revision.time_ms)),
            Together::Events(events) => events.get(index).map(|events| (events.revision, events.time_ms)),
        }?;
        Some(Changes { revision, time_ms, of: self.clone(), index })
    }

    /// Those that have to be sifted when they are told: a stream has all changes of its prefix, and what was answered was sifted.
    fn sifting<'a>(&self, watched: &'a Watched) -> Option<&'a Watched> {
        matches!((self, watched), (Together::Stream(_), Watched::Key(_))).then_some(watched)
    }
}

fn bytes_of(events: &RevisionEvents) -> usize {
    let of_change = |KeyEvent { key, kind, before }: &KeyEvent| {
        let value = match kind {
            ChangeKind::Put(value) => value.as_bytes().len(),
            _ => 0,
        };
        let before = match before {
            Some(EventBefore::Value { value, .. }) => value.as_bytes().len(),
            _ => 0,
        };
        EVENT_BYTES + key.len() + value + before
    };
    EVENT_BYTES + events.changes.iter().map(of_change).sum::<usize>()
}

/// Revisions of which some are to be told.
#[derive(Clone, Debug)]
pub(super) struct Untold {
    of: Together,
    /// The next one that is to be told; behind all of them: none.
    index: usize,
    length: usize,
}

impl Untold {
    /// Those from this index on.
    pub(super) fn new(of: Together, index: usize, watched: &Watched) -> Untold {
        let length = of.len();
        let mut untold = Untold { of, index, length };
        untold.seek(watched);
        untold
    }

    /// Whether none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.index >= self.length
    }

    /// The next one.
    #[inline]
    pub(super) fn next(&mut self, watched: &Watched) -> Option<Changes> {
        let next = self.of.get(self.index)?;
        self.index += 1;
        if self.of.sifting(watched).is_none() {
            return Some(next);
        }
        self.seek(watched);
        if next.iter().all(|change| watched.has(change.key)) {
            return Some(next);
        }
        let mut events = next.to_events();
        events.changes.retain(|change| watched.has(&change.key));
        Some(events.into())
    }

    /// Passes over those of which nothing is watched.
    fn seek(&mut self, watched: &Watched) {
        let Some(watched) = self.of.sifting(watched) else { return };
        let is_wanted = |changes: &Changes| changes.iter().any(|change| watched.has(change.key));
        while !self.is_empty() && !self.of.get(self.index).as_ref().is_some_and(is_wanted) {
            self.index += 1;
        }
    }
}
