//! What changed behind a revision, of the keys with a prefix that a user has: the answer to `events`.
//!
//! - Whole revisions, in order. Where a page ends, none is cut: it has all that a revision changed of the keys asked for, or nothing.
//! - A page says how far it went, also where nothing of interest was on the way; the next one begins right there.
//! - Changes of other keys are passed over unread. Their number is bounded all the same, since finding out whose they are is the work;
//!   only one revision is always gone through whole. Where a predicate is tried, its work ends a page as well; a revision that alone is
//!   more than [`limits::EVENTS_WORK_MAX`] is told by no page, and the page says so.
//! - Old values are told as long as a revision stays within [`limits::EVENTS_DETAIL_BYTES_MAX`]; others are unknown, never absent.
//! - Whoever may not see every key hears of its own sessions alone.
//! - What is not in memory any more is said to be so; no change is ever left out in silence.

use kvbroker_protocol::{
    ChangeKind, ErrorCode, EventBefore, EventCause, EventOrigin, Failure, KeyEvent, PredicateMatcher, RevisionEvents, Scope,
    Stored, limits,
};

use super::fit::{Earlier, Fit, Fitting};
use super::{Before, Cause, History, Origin, PastChange, PastGroup};
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
    /// For whom the details are told. None: they are not.
    pub detail: Option<EventsFor<'a>>,
    /// Only what whoever keeps the keys and values that fit must hear of.
    pub matcher: Option<&'a PredicateMatcher>,
}

/// Who is told the names of mutations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsFor<'a> {
    /// Who may read every key: those of all users.
    Everything,
    /// The user with this name: its own, as far as their sessions are remembered.
    User(&'a [u8]),
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
    /// What trying the predicate on them has cost, in units of [`limits::TURN_WORK_MAX`].
    pub work: usize,
    /// The page has nothing, and did not get on: this revision is more work for the predicate than one request may make.
    pub too_much: Option<u64>,
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
        let EventsWanted { prefix, scope, after, revisions_max, bytes_max, detail, matcher } = *wanted;
        if after > state.revision() {
            let message = format!(
                "the table is at revision {}, and {after} is ahead of that: it is of another history. Read the keys as they are, and go on behind that",
                state.revision()
            );
            return Err(Failure::invalid(message));
        }
        let Some(groups) = self.groups_after(state, after) else { return Err(self.compacted(state, after)) };
        let own: Vec<&[u8]> = scope.below(prefix).collect();
        let mut page = EventsPage { events: Vec::new(), through: after, examined: 0, work: 0, too_much: None };
        let (mut bytes, mut changes) = (0, Vec::new());
        for group in groups {
            if page.events.len() >= revisions_max
                || page.examined >= limits::EVENTS_CHANGES_MAX
                || page.work >= limits::TURN_WORK_MAX
            {
                return Ok(page);
            }
            changes.clear();
            page.examined += collect(&group, &own, &mut changes);
            // What the pages before have spent must not be the end of this revision: it can have a page of its own.
            let is_first = page.through == after;
            let work_max = if is_first { limits::EVENTS_WORK_MAX } else { limits::TURN_WORK_MAX - page.work };
            let mut fitting = Fitting::new(matcher);
            let told = judge(&changes, group.revision, &mut fitting, work_max);
            page.work = page.work.saturating_add(fitting.work);
            let Some(told) = told else {
                page.too_much = is_first.then_some(group.revision);
                return Ok(page);
            };
            if !told.is_empty() {
                let (size, olds) = measure(&told, detail.is_some());
                if !page.events.is_empty() && bytes + size > bytes_max {
                    return Ok(page);
                }
                bytes += size;
                let has_old = |at| detail.map(|_| at < olds);
                let changes = told.iter().enumerate().map(|(at, told)| event(told, group.origin, has_old(at)));
                let changes: Option<Vec<KeyEvent>> = changes.collect();
                page.events.push(RevisionEvents {
                    revision: group.revision,
                    time_ms: group.origin.stamp_ms,
                    changes: changes.ok_or_else(unreadable)?,
                    origin: detail.map(|told_to| origin(state, group.origin, told_to)),
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

/// A change that is told.
struct Told<'c, 'h> {
    change: &'c PastChange<'h>,
    leaves: bool,
}

/// Those of a revision's changes that are told; None if finding that out is more work than this.
fn judge<'c, 'h>(
    changes: &'c [PastChange<'h>],
    revision: u64,
    fitting: &mut Fitting<'_>,
    work_max: usize,
) -> Option<Vec<Told<'c, 'h>>> {
    let mut told = Vec::with_capacity(changes.len());
    for change in changes {
        let earlier = change.old.map_or(Earlier::Absent, Earlier::Was);
        let fit = fitting.judge(change.key, revision, change.new.as_ref(), earlier);
        if fitting.work > work_max {
            return None;
        }
        if fit != Fit::Hidden {
            told.push(Told { change, leaves: fit == Fit::Leaves });
        }
    }
    Some(told)
}

/// Rough bytes of what is told of a revision, and of how many changes the old value is told, from the first one on.
fn measure(told: &[Told<'_, '_>], is_detailed: bool) -> (usize, usize) {
    let new = |told: &Told<'_, '_>| told.new_value().map_or(0, <[u8]>::len);
    let bytes: usize = told.iter().map(|told| size_of::<KeyEvent>() + told.change.key.len() + new(told)).sum();
    let mut bytes = size_of::<RevisionEvents>() + bytes;
    if !is_detailed {
        return (bytes, 0);
    }
    for (at, Told { change, .. }) in told.iter().enumerate() {
        let old = change.old.map_or(0, |old| old.record.stored.len());
        if bytes + old > limits::EVENTS_DETAIL_BYTES_MAX {
            return (bytes, at);
        }
        bytes += old;
    }
    (bytes, told.len())
}

impl<'h> Told<'_, 'h> {
    /// The new value, if it is told.
    fn new_value(&self) -> Option<&'h [u8]> {
        self.change.new.filter(|_| !self.leaves).map(|record| record.stored)
    }
}

/// With `has_old` what was before is told, or that it is not known. None only for what is no value; the table holds none.
fn event(told: &Told<'_, '_>, origin: Origin, has_old: Option<bool>) -> Option<KeyEvent> {
    let kind = match told.new_value() {
        Some(stored) => ChangeKind::Put(Stored::from_bytes(stored.to_vec())?),
        None if told.leaves => ChangeKind::Leave,
        None if origin.cause == Cause::Expiry => ChangeKind::Expire,
        None => ChangeKind::Remove,
    };
    let before = match (has_old, told.change.old) {
        (None, _) => None,
        (Some(_), None) => Some(EventBefore::Absent),
        (Some(false), Some(_)) => Some(EventBefore::Unknown),
        (Some(true), Some(Before { record, modified })) => {
            Some(EventBefore::Value { value: Stored::from_bytes(record.stored.to_vec())?, modified })
        }
    };
    Some(KeyEvent { key: told.change.key.to_vec(), kind, before })
}

fn origin(state: &State, origin: Origin, told_to: EventsFor<'_>) -> EventOrigin {
    let cause = match origin.cause {
        Cause::Request => EventCause::Request,
        Cause::Expiry => EventCause::Expiry,
        Cause::Internal => EventCause::Internal,
    };
    let is_told = |(session, _): &_| match told_to {
        EventsFor::Everything => true,
        EventsFor::User(user) => state.is_session_of(*session, user),
    };
    EventOrigin { cause, name: origin.name.filter(is_told) }
}

fn unreadable() -> Failure {
    Failure::new(ErrorCode::Internal, "the broker has a record in memory that it can't read; nothing was changed")
}
