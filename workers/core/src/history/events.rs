//! What changed behind a revision, of the keys with a prefix that a user has: the answer to `events`.
//!
//! - Whole revisions, in order. Where a page ends, none is cut: it has all that a revision changed of the keys asked for, or nothing.
//! - A page says how far it went, also where nothing of interest was on the way; the next one begins right there.
//! - Changes of other keys are passed over unread. Their number is bounded all the same, since finding out whose they are is the work;
//!   only one revision is always gone through whole.
//! - What is not in memory any more is said to be so; no change is ever left out in silence.

use kvbroker_protocol::{ChangeKind, ErrorCode, Failure, KeyEvent, RevisionEvents, Scope, Stored, limits};

use super::{Cause, History, Origin, PastChange, PastGroup};
use crate::state::State;

/// Which changes are wanted.
#[derive(Clone, Copy, Debug)]
pub struct EventsWanted<'a> {
    /// Of keys that start with these bytes,
    pub prefix: &'a [u8],
    /// and which the user has.
    pub scope: &'a Scope,
    /// Only revisions behind this one.
    pub after: u64,
    /// Most revisions.
    pub revisions_max: usize,
    /// Most bytes of keys and values; one revision always fits.
    pub bytes_max: usize,
}

/// A page of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsPage {
    /// The revisions with changes that were wanted.
    pub events: Vec<RevisionEvents>,
    /// All of them up to here are in it.
    pub through: u64,
    /// Changes that were looked at.
    pub examined: usize,
}

impl EventsPage {
    /// True if there is more behind the page, as far as it did not go through it.
    pub fn has_more(&self, state: &State) -> bool {
        self.through < state.revision()
    }
}

impl History {
    /// The changes that are wanted, as many as fit in a page.
    ///
    /// # Errors
    /// `compacted` if they are not all in memory any more; `invalid` if the revision has not been reached yet.
    pub fn events(&self, state: &State, wanted: &EventsWanted<'_>) -> Result<EventsPage, Failure> {
        let EventsWanted { prefix, scope, after, revisions_max, bytes_max } = *wanted;
        if after > state.revision() {
            let message = format!(
                "the table is at revision {}, and {after} is ahead of that: it is of another history. Read the keys as they are, and go on behind that",
                state.revision()
            );
            return Err(Failure::invalid(message));
        }
        let Some(groups) = self.groups_after(state, after) else { return Err(self.compacted(state, after)) };
        let own: Vec<&[u8]> = scope.below(prefix).collect();
        let mut page = EventsPage { events: Vec::new(), through: after, examined: 0 };
        let (mut bytes, mut changes) = (0, Vec::new());
        for group in groups {
            if page.events.len() >= revisions_max || page.examined >= limits::EVENTS_CHANGES_MAX {
                return Ok(page);
            }
            changes.clear();
            page.examined += collect(&group, &own, &mut changes);
            if !changes.is_empty() {
                let size = size_of::<RevisionEvents>() + changes.iter().map(bytes_of).sum::<usize>();
                if !page.events.is_empty() && bytes + size > bytes_max {
                    return Ok(page);
                }
                bytes += size;
                let changes: Option<Vec<KeyEvent>> = changes.iter().map(|change| event(change, group.origin)).collect();
                let changes = changes.ok_or_else(unreadable)?;
                page.events.push(RevisionEvents {
                    revision: group.revision,
                    time_ms: group.origin.stamp_ms,
                    changes,
                    origin: None,
                });
            }
            page.through = group.revision;
        }
        // Also where the last groups are not there, because they were none: nothing is missing behind them.
        page.through = state.revision();
        Ok(page)
    }

    fn compacted(&self, state: &State, after: u64) -> Failure {
        let oldest = self.oldest_revision(state);
        let message = format!(
            "the changes behind revision {after} are not all in the broker's memory any more, which begins with revision {oldest}: \
             read the keys as they are, and go on behind the revision of that"
        );
        Failure::compacted(message, oldest)
    }
}

/// Collects the changes of keys that start with one of these, of which none covers another, in key order; and says how many it had
/// to look at.
fn collect<'h>(group: &PastGroup<'h>, own: &[&[u8]], changes: &mut Vec<PastChange<'h>>) -> usize {
    if group.len() > own.len() {
        for prefix in own {
            changes.extend(group.changes_below(prefix));
        }
        return changes.len().max(own.len()).max(1);
    }
    let is_own = |key: &[u8]| {
        let behind = own.partition_point(|prefix| *prefix <= key);
        own[..behind].last().is_some_and(|prefix| key.starts_with(prefix))
    };
    changes.extend(group.changes_of(is_own));
    group.len().max(1)
}

fn bytes_of(change: &PastChange<'_>) -> usize {
    size_of::<KeyEvent>() + change.key.len() + change.new.map_or(0, |record| record.stored.len())
}

/// None only for what is no value; the table holds none.
fn event(change: &PastChange<'_>, origin: Origin) -> Option<KeyEvent> {
    let kind = match change.new {
        Some(record) => ChangeKind::Put(Stored::from_bytes(record.stored.to_vec())?),
        None if origin.cause == Cause::Expiry => ChangeKind::Expire,
        None => ChangeKind::Remove,
    };
    Some(KeyEvent { key: change.key.to_vec(), kind, before: None })
}

fn unreadable() -> Failure {
    Failure::new(ErrorCode::Internal, "the broker has a record in memory that it can't read; nothing was changed")
}
