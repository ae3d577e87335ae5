//! Pages of `events` that are read from the log: for whoever is further behind than memory goes back.
//!
//! - A page is whole revisions in their order, all that there are behind `after` up to its `through`. It ends where it has enough: at a
//!   bound of revisions, of bytes that it tells, of bytes of the log that it took, or of work. So it may tell nothing, and say how far it came.
//! - What was before a change is not in the log, and never guessed: it is told as unknown, and where a predicate is asked for a change is
//!   told whatever was before.
//! - One reading forward serves all pages that it comes by. It goes on where somebody is served, and is begun anew where the next
//!   one's page begins.
//!
//! Caveat: the revisions of a page are those of the log. Whether its user may still have them is asked when it is answered.

use kvbroker_core::{Earlier, Fit, Fitting, Space, TableRecord, split_table_record};
use kvbroker_log::{Cause, GroupRef, RecordRef};
use kvbroker_protocol::{
    Access, ChangeKind, EventBefore, Events, Failure, KeyEvent, Predicate, PredicateMatcher, RevisionEvents, Scope, Stored,
    limits,
};

use crate::asker::{Asks, Proved};
use crate::events::{SMALL_PAGE_BYTES, no_matcher};
use crate::histories::EventsCall;
use crate::replay::event_origin;
use crate::sizes::revision_bytes;

/// A group of the log, as pages need it.
pub(crate) struct LogGroup<'a> {
    group: GroupRef<'a>,
    /// What it made of the table's keys; None: it removed the key. Ascending, each once.
    changes: Vec<(&'a [u8], Option<TableRecord<'a>>)>,
}

/// A page that is being filled, and the call that it answers.
pub(crate) struct Follow {
    pub(crate) call: Proved<EventsCall>,
    /// What the user could do when it was begun.
    pub(crate) access: Access,
    /// The prefixes of which a key must have one; none covers another, in their order.
    own: Vec<Vec<u8>>,
    matcher: Option<PredicateMatcher>,
    bytes_max: usize,
    pub(crate) events: Vec<RevisionEvents>,
    /// All that there is up to here is in it.
    pub(crate) through: u64,
    bytes: usize,
    work: usize,
    /// Bytes of the log that were read since it was begun.
    read_bytes: u64,
    /// It did not get on: this revision is more work for the predicate than one request may make.
    pub(crate) too_much: Option<u64>,
}

impl<'a> LogGroup<'a> {
    /// None only for what is no record of a table, which recovery refuses and the worker does not write.
    pub(crate) fn of(group: GroupRef<'a>) -> Option<LogGroup<'a>> {
        let mut changes = Vec::with_capacity(1);
        let mut is_ascending = true;
        for record in group.records() {
            let (key, value) = match record {
                RecordRef::Put { key, value } => (key, Some(value)),
                RecordRef::Delete { key } => (key, None),
            };
            let Some(key) = key.strip_prefix(&[Space::Table as u8]) else { continue };
            let record = value.map(|value| split_table_record(value).ok_or(())).transpose().ok()?;
            is_ascending &= changes.last().is_none_or(|(last, _)| *last < key);
            changes.push((key, record));
        }
        // The worker makes none that is not. The last change of a key is what the group made of it.
        if !is_ascending {
            changes.reverse();
            changes.sort_by_key(|(key, _)| *key);
            changes.dedup_by_key(|(key, _)| *key);
        }
        Some(LogGroup { group, changes })
    }

    /// Its revision.
    pub(crate) fn revision(&self) -> u64 {
        self.group.revision
    }
}

impl Follow {
    /// Begins a page.
    ///
    /// # Errors
    /// The call back, with what it is refused for.
    pub(crate) fn begin(call: Proved<EventsCall>, access: Access) -> Result<Follow, (Box<Proved<EventsCall>>, Failure)> {
        let EventsCall { asked: Events { prefix, where_, .. }, after: through, .. } = &call.call;
        let through = *through;
        let matcher = match where_.as_ref().map(Predicate::matcher) {
            None => None,
            Some(Some(matcher)) => Some(matcher),
            Some(None) => return Err((Box::new(call), no_matcher())),
        };
        let own = own_prefixes(&access.scope, prefix);
        let bytes_max = if call.call.asker().is_tight() { SMALL_PAGE_BYTES } else { limits::EVENTS_LOG_PAGE_BYTES_MAX };
        Ok(Follow {
            call,
            access,
            own,
            matcher,
            bytes_max,
            events: Vec::new(),
            through,
            bytes: 0,
            work: 0,
            read_bytes: 0,
            too_much: None,
        })
    }

    /// True once it has come further than it began.
    pub(crate) fn has_come_on(&self) -> bool {
        self.through > self.call.call.after
    }

    /// Takes the next group of the log in; true if the page is ready, with or without it.
    pub(crate) fn take(&mut self, group: &LogGroup<'_>) -> bool {
        let revision = group.revision();
        if revision <= self.through {
            return false;
        }
        if self.is_ready() {
            return true;
        }
        // What the revisions before have spent must not be the end of this one: it can be the first of a page.
        let is_first = !self.has_come_on();
        let work_max = if is_first { limits::EVENTS_WORK_MAX } else { limits::TURN_WORK_MAX - self.work };
        let mut fitting = Fitting::new(self.matcher.as_ref());
        let changes = self.changes(group, &mut fitting, work_max);
        self.work = self.work.saturating_add(fitting.work);
        let Some(changes) = changes else {
            self.too_much = is_first.then_some(revision);
            return true;
        };
        if !changes.is_empty() {
            let origin = self.call.call.asked.detail.then(|| event_origin(&group.group, self.access.scope.is_all()));
            let told = RevisionEvents { revision, time_ms: group.group.stamp_ms, changes, origin };
            let bytes = revision_bytes(&told);
            if !self.events.is_empty() && self.bytes + bytes > self.bytes_max {
                return true;
            }
            self.bytes += bytes;
            self.events.push(told);
        }
        self.through = revision;
        self.is_ready()
    }

    /// Counts what was read of the log; true if that is enough.
    pub(crate) fn has_read(&mut self, bytes: u64) -> bool {
        self.read_bytes += bytes;
        self.read_bytes >= limits::EVENTS_LOG_READ_BYTES_MAX && self.has_come_on()
    }

    /// What of a group is told; None if finding that out is more work than this.
    fn changes(&self, group: &LogGroup<'_>, fitting: &mut Fitting<'_>, work_max: usize) -> Option<Vec<KeyEvent>> {
        let mut told = Vec::new();
        for (key, record) in group.changes.iter().filter(|(key, _)| is_below(&self.own, key)) {
            let fit = fitting.judge(key, group.revision(), record.as_ref(), Earlier::Unknown);
            if fitting.work > work_max {
                return None;
            }
            let kind = match (fit, record) {
                (Fit::Hidden, _) => continue,
                (Fit::Leaves, _) => ChangeKind::Leave,
                (Fit::Told, Some(record)) => ChangeKind::Put(stored(record)),
                (Fit::Told, None) if group.group.cause == Cause::Expiry => ChangeKind::Expire,
                (Fit::Told, None) => ChangeKind::Remove,
            };
            let before = self.call.call.asked.detail.then_some(EventBefore::Unknown);
            told.push(KeyEvent { key: key.to_vec(), kind, before });
        }
        Some(told)
    }

    fn is_ready(&self) -> bool {
        let EventsCall { asked, through, .. } = &self.call.call;
        self.through >= *through
            || self.events.len() >= asked.limit.unwrap_or(usize::MAX)
            || self.bytes >= self.bytes_max
            || self.work >= limits::TURN_WORK_MAX
    }
}

fn stored(record: &TableRecord<'_>) -> Stored {
    Stored::from_bytes(record.stored.to_vec()).expect("a record was split only if its type byte is known")
}

/// What a key must begin with to be told; none of these covers another, and they are in their order.
fn own_prefixes(scope: &Scope, prefix: &[u8]) -> Vec<Vec<u8>> {
    scope.below(prefix).map(<[u8]>::to_vec).collect()
}

fn is_below(own: &[Vec<u8>], key: &[u8]) -> bool {
    let behind = own.partition_point(|prefix| prefix.as_slice() <= key);
    own[..behind].last().is_some_and(|prefix| key.starts_with(prefix))
}
