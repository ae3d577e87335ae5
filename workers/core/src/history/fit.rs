//! Which changes a predicate lets through: as many as whoever keeps the keys that fit needs to keep just those.
//!
//! - A change is told if its new value fits. If that does not, the key may have to be dropped by who keeps it: so the change is told as a
//!   removal or as a [`ChangeKind::Leave`](kvbroker_protocol::ChangeKind::Leave), unless the value before is known and did not fit either,
//!   or no value of that key fits.
//! - A key is judged as a scan would judge it at that revision, with the revisions that it had then.
//! - The work is counted as a scan's is. Nothing here bounds it.

use kvbroker_protocol::{PredicateMatcher, Subject};

use super::Before;
use crate::record::TableRecord;

/// What a key was before a change, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier<'a> {
    /// Nobody knows any more.
    Unknown,
    /// There was no such key.
    Absent,
    /// It had a value.
    Was(Before<'a>),
}

/// How a change is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// As it is.
    Told,
    /// It is a put whose value does not fit: as `leave`.
    Leaves,
    /// Not at all.
    Hidden,
}

/// A predicate that changes are judged by, and what that has cost. Without a predicate all of them are told.
#[derive(Debug)]
pub struct Fitting<'a> {
    matcher: Option<&'a PredicateMatcher>,
    /// What judging has cost so far, in units of [`TURN_WORK_MAX`](kvbroker_protocol::limits::TURN_WORK_MAX).
    pub work: usize,
}

impl<'a> Fitting<'a> {
    /// Nothing was judged yet.
    pub fn new(matcher: Option<&'a PredicateMatcher>) -> Fitting<'a> {
        Fitting { matcher, work: 0 }
    }

    /// How a change of this key is told, to what it is from this revision on (None: it was removed).
    pub fn judge(&mut self, key: &[u8], revision: u64, new: Option<&TableRecord<'_>>, earlier: Earlier<'_>) -> Fit {
        let Some(matcher) = self.matcher else { return Fit::Told };
        if let Some(new) = new
            && self.holds(matcher, key, new, revision)
        {
            return Fit::Told;
        }
        let is_to_be_dropped = match earlier {
            Earlier::Unknown => {
                let verdict = matcher.may_hold(key);
                self.work = self.work.saturating_add(verdict.work);
                verdict.holds
            }
            Earlier::Absent => false,
            Earlier::Was(Before { record, modified }) => self.holds(matcher, key, &record, modified),
        };
        match (is_to_be_dropped, new) {
            (false, _) => Fit::Hidden,
            (true, None) => Fit::Told,
            (true, Some(_)) => Fit::Leaves,
        }
    }

    fn holds(&mut self, matcher: &PredicateMatcher, key: &[u8], record: &TableRecord<'_>, modified: u64) -> bool {
        let created = record.created.unwrap_or(modified);
        let verdict = matcher.judge(&Subject { key, stored: Some(record.stored), modified, created });
        self.work = self.work.saturating_add(verdict.work);
        verdict.holds
    }
}
