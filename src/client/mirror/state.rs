//! What a mirror knows: the events of a watch in, the keys with their values out. No thread, no socket, no clock.
//!
//! - A snapshot replaces everything: while its rows come, what was there stays to be read, and at its end it is exchanged as a whole. So a
//!   key that was removed while nobody heard of it is gone then, even if its removal is remembered nowhere any more.
//! - A revision is applied whole or not at all.
//! - Nothing is applied twice: what lies at or before the revision that is reached is passed over.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

use kvbroker_protocol::{ChangeKind, Key, Row, Stored};

use crate::client::watch::{Changes, WatchEvent, WhySnapshot};

/// A key's value in a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorRow {
    /// As it was written.
    pub value: Stored,
    /// The revision that made it.
    pub modified: u64,
}

/// What made a mirror change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorCause {
    /// The key got this value.
    Put,
    /// The key was removed.
    Remove,
    /// The key's deadline had come.
    Expire,
    /// The key got a value that does not fit what is mirrored.
    Leave,
    /// A snapshot has it otherwise than the mirror had it: what happened in between is not known.
    Snapshot,
}

impl MirrorCause {
    /// The cause in one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MirrorCause::Put => "put",
            MirrorCause::Remove => "remove",
            MirrorCause::Expire => "expire",
            MirrorCause::Leave => "leave",
            MirrorCause::Snapshot => "snapshot",
        }
    }
}

/// What became otherwise in a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorChange {
    /// The revision that made it; of a snapshot the revision that it shows.
    pub revision: u64,
    /// The key.
    pub key: Key,
    /// What the mirror had; None: it did not have the key.
    pub before: Option<Stored>,
    /// What it has now; None: it has the key no more.
    pub now: Option<Stored>,
    /// Why.
    pub cause: MirrorCause,
}

type Rows = BTreeMap<Key, MirrorRow>;

/// A snapshot of which more is to come.
#[derive(Clone, Debug)]
struct Coming {
    why: WhySnapshot,
    rows: Rows,
}

/// The keys of a prefix as of one revision.
#[derive(Clone, Debug, Default)]
pub struct MirrorState {
    rows: Rows,
    revision: Option<u64>,
    coming: Option<Coming>,
    is_current: bool,
    why: Option<WhySnapshot>,
}

impl MirrorState {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The revision that it shows; None until the first snapshot is complete.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// True while nothing is known to be missing: the broker is heard, and everything that it had to tell was applied.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.is_current
    }

    /// Why the last snapshot that is applied was made; None before the first.
    #[must_use]
    pub fn last_snapshot(&self) -> Option<WhySnapshot> {
        self.why
    }

    /// What it has under a key.
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&MirrorRow> {
        self.rows.get(key.as_ref())
    }

    /// How many keys it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True without any key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All keys in their order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Key, &MirrorRow)> {
        self.rows.iter()
    }

    /// The keys from `from` on, up to before `to` (None: to the end), in their order.
    pub fn range(&self, from: impl AsRef<[u8]>, to: Option<&[u8]>) -> impl DoubleEndedIterator<Item = (&Key, &MirrorRow)> {
        let from = from.as_ref();
        // A range that ends before it begins has nothing; the map would panic.
        let found: Option<Range<'_, Key, MirrorRow>> = match to {
            Some(to) if to <= from => None,
            Some(to) => Some(self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))),
            None => Some(self.rows.range::<[u8], _>((Bound::Included(from), Bound::Unbounded))),
        };
        found.into_iter().flatten()
    }

    /// The keys that start with `prefix`, in their order.
    pub fn prefix<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Key, &'a MirrorRow)> {
        self.range(prefix, None).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Takes what a watch has told.
    pub fn apply(&mut self, event: WatchEvent) {
        self.apply_to(event, None);
    }

    /// Takes what a watch has told, and gives what became otherwise by it. A revision's changes stand together.
    pub fn apply_telling(&mut self, event: WatchEvent) -> Vec<MirrorChange> {
        let mut changes = Vec::new();
        self.apply_to(event, Some(&mut changes));
        changes
    }

    /// Nothing has changed up to this revision, in the history that is mirrored.
    pub fn advance(&mut self, revision: u64) {
        if self.coming.is_none() {
            self.revision = self.revision.map(|reached| reached.max(revision));
        }
    }

    fn apply_to(&mut self, event: WatchEvent, told: Option<&mut Vec<MirrorChange>>) {
        match event {
            WatchEvent::SnapshotBegin { why, .. } => {
                self.is_current = false;
                self.coming = Some(Coming { why, rows: Rows::new() });
            }
            WatchEvent::SnapshotRow(Row { key, value, modified }) => {
                if let Some(coming) = &mut self.coming {
                    coming.rows.insert(key, MirrorRow { value, modified });
                }
            }
            WatchEvent::SnapshotEnd { revision } => self.exchange(revision, told),
            WatchEvent::Changes(changes) => self.change(&changes, told),
            WatchEvent::CaughtUp { revision } => {
                self.advance(revision);
                self.is_current = self.revision.is_some();
            }
            WatchEvent::Disconnected { .. } => self.is_current = false,
        }
    }

    fn exchange(&mut self, revision: u64, told: Option<&mut Vec<MirrorChange>>) {
        let Some(Coming { why, rows }) = self.coming.take() else { return };
        let before = std::mem::replace(&mut self.rows, rows);
        self.revision = Some(revision);
        self.why = Some(why);
        if let Some(told) = told {
            told.extend(differences(before, &self.rows, revision));
        }
    }

    fn change(&mut self, changes: &Changes, mut told: Option<&mut Vec<MirrorChange>>) {
        let revision = changes.revision();
        // In the midst of a snapshot nothing can be said about what lies behind it.
        if self.coming.is_some() || self.revision.is_some_and(|reached| revision <= reached) {
            return;
        }
        self.revision = Some(revision);
        for change in changes {
            let (now, cause) = match change.kind {
                ChangeKind::Put(value) => (Some(value.to_stored()), MirrorCause::Put),
                ChangeKind::Remove => (None, MirrorCause::Remove),
                ChangeKind::Expire => (None, MirrorCause::Expire),
                ChangeKind::Leave => (None, MirrorCause::Leave),
            };
            let kept = told.is_some().then(|| now.clone());
            let before = match now {
                Some(value) => self.rows.insert(change.key.to_vec(), MirrorRow { value, modified: revision }),
                None => self.rows.remove(change.key),
            };
            let before = before.map(|row| row.value);
            if let (Some(told), Some(now)) = (told.as_deref_mut(), kept)
                // What leaves without having been there is nothing to whoever looks at the mirror.
                && (before.is_some() || now.is_some())
            {
                told.push(MirrorChange { revision, key: change.key.to_vec(), before, now, cause });
            }
        }
    }
}

/// What a snapshot has otherwise, in the order of keys.
fn differences(before: Rows, now: &Rows, revision: u64) -> Vec<MirrorChange> {
    let changed = |key: Key, before: Option<Stored>, now: Option<Stored>| MirrorChange {
        revision,
        key,
        before,
        now,
        cause: MirrorCause::Snapshot,
    };
    let mut differences = Vec::new();
    let mut coming = now.iter().peekable();
    for (key, row) in before {
        while let Some((new, row)) = coming.next_if(|(new, _)| **new < key) {
            differences.push(changed(new.clone(), None, Some(row.value.clone())));
        }
        match coming.next_if(|(new, _)| **new == key) {
            Some((_, new)) if new.value == row.value => {}
            Some((_, new)) => differences.push(changed(key, Some(row.value), Some(new.value.clone()))),
            None => differences.push(changed(key, Some(row.value), None)),
        }
    }
    differences.extend(coming.map(|(key, row)| changed(key.clone(), None, Some(row.value.clone()))));
    differences
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
