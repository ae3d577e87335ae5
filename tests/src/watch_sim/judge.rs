//! Holds what one watch is told against the truth.
//!
//! - Within an epoch: every revision that changed something below the prefix, whole, once, in order; nothing that was not committed.
//! - A position that may be kept for the next run has nothing before it that was not told.
//! - Only a snapshot leads from one history to another; it is the table at its revision, and has a reason that is true.
//! - A watch with a predicate is told all that whoever keeps the fitting keys must hear, and one with details what was before, or that
//!   it is not known.
//! - The library's own mirror that is fed by it has, whenever it says that it is current, what the table had then.

use std::collections::{BTreeMap, BTreeSet};

use kvbroker::client::watch::merge::{Position, Told};
use kvbroker::client::{MirrorState, WatchBroken, WatchEvent, WhySnapshot};
use kvbroker_protocol::{EventBefore, Key, RevisionEvents, Row};

use super::bugs::PlantedBug;
use super::subject::Subject;
use super::truth::{Committed, Table, Truth, What};
use super::violation::Violation;

/// A snapshot that is being told.
#[derive(Clone, Debug)]
struct Coming {
    revision: u64,
    rows: Vec<Row>,
}

/// What is known of what the broker may have forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Everything behind this revision is in the log or in memory.
    pub complete_after: u64,
}

/// What one watch was told.
#[derive(Clone, Debug)]
pub struct Judge {
    /// What it is about.
    pub subject: Subject,
    epoch: Option<u64>,
    /// Everything up to here was told; None: it has not begun.
    told: Option<u64>,
    coming: Option<Coming>,
    /// A snapshot was begun since the last position: another history may follow.
    may_move: bool,
    /// This revision was told and undone since.
    undone: Option<u64>,
    /// Nothing may come before a snapshot.
    wants_snapshot: bool,
    /// From the first snapshot on.
    mirror: Option<MirrorState>,
    /// The keys of the last snapshot.
    shown: BTreeSet<Key>,
    /// Planted: what a snapshot does not have any more stays in the mirror.
    keeps_missing: bool,
    /// Snapshots that were finished, by their reasons.
    pub snapshots: BTreeMap<&'static str, u64>,
    /// The reason of the one that is coming.
    why: Option<WhySnapshot>,
    /// Revisions that were told.
    pub revisions: u64,
    /// Keys that a mirror had, and a snapshot had no more since their removal was forgotten.
    pub gone: u64,
}

impl Judge {
    /// For a watch that begins behind this position, or nowhere yet.
    pub fn new(subject: Subject, from: Option<Position>, wants_snapshot: bool, bug: Option<PlantedBug>) -> Judge {
        let keeps_missing = bug == Some(PlantedBug::SnapshotKeepsMissing);
        Judge {
            subject,
            epoch: from.and_then(|from| from.epoch),
            told: from.map(|from| from.revision),
            coming: None,
            may_move: false,
            undone: None,
            wants_snapshot,
            mirror: None,
            shown: BTreeSet::new(),
            keeps_missing,
            snapshots: BTreeMap::new(),
            why: None,
            revisions: 0,
            gone: 0,
        }
    }

    /// Everything up to here was told.
    pub fn told(&self) -> Option<u64> {
        self.told
    }

    /// In this epoch.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// True while the history that was told is not the present one any more.
    pub fn is_undone(&self) -> bool {
        self.undone.is_some()
    }

    /// The history of this epoch was set back.
    pub fn set_back(&mut self, epoch: u64, revision: u64) {
        if self.epoch == Some(epoch) && self.told.is_some_and(|told| told > revision) {
            self.undone = self.told;
        }
    }

    /// Takes what the watch has told.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn take(&mut self, truth: &Truth, known: Known, told: &Told) -> Result<(), Violation> {
        self.look_at(truth, known, told)?;
        if let Some(event) = &told.event {
            self.mirror(event);
        }
        let is_whole = matches!(told.event, Some(WatchEvent::CaughtUp { .. } | WatchEvent::SnapshotEnd { .. }));
        if is_whole { self.compare_mirror(truth) } else { Ok(()) }
    }

    /// Keeps a copy as a program does.
    fn mirror(&mut self, event: &WatchEvent) {
        if matches!(event, WatchEvent::SnapshotBegin { .. }) {
            self.mirror.get_or_insert_with(MirrorState::new);
        }
        let Some(mirror) = &mut self.mirror else { return };
        if !matches!(event, WatchEvent::SnapshotEnd { .. }) {
            return mirror.apply(event.clone());
        }
        let before = rows_of(mirror);
        if self.keeps_missing {
            for (key, (value, modified)) in before.iter().filter(|(key, _)| !self.shown.contains(*key)) {
                let row = Row { key: key.clone(), value: value.clone(), modified: *modified };
                mirror.apply(WatchEvent::SnapshotRow(row));
            }
        }
        mirror.apply(event.clone());
        if mirror.last_snapshot() == Some(WhySnapshot::Compacted) {
            self.gone += before.keys().filter(|key| mirror.get(key).is_none()).count() as u64;
        }
    }

    fn look_at(&mut self, truth: &Truth, known: Known, told: &Told) -> Result<(), Violation> {
        match &told.event {
            None | Some(WatchEvent::Disconnected { .. }) => {}
            Some(WatchEvent::SnapshotBegin { revision, why }) => self.begin(truth, known, *revision, *why)?,
            Some(WatchEvent::SnapshotRow(row)) => {
                let Some(coming) = &mut self.coming else { return Err(confused("a row outside of a snapshot")) };
                coming.rows.push(row.clone());
            }
            Some(WatchEvent::SnapshotEnd { revision }) => return self.end(truth, *revision, told.position),
            Some(WatchEvent::Changes(changes)) => self.changes(truth, &changes.to_events(), told.position)?,
            Some(WatchEvent::CaughtUp { revision }) => {
                // It may be a little further by then.
                if told.position.is_none_or(|position| position.revision < *revision) {
                    return Err(confused("it has caught up with a revision that it has not come to"));
                }
            }
        }
        let Some(position) = told.position else {
            return if matches!(told.event, Some(WatchEvent::Changes(_))) {
                Err(confused("changes without a position"))
            } else {
                Ok(())
            };
        };
        self.moved_to(truth, position)
    }

    fn begin(&mut self, truth: &Truth, known: Known, revision: u64, why: WhySnapshot) -> Result<(), Violation> {
        let is_first = self.told.is_none();
        let again = self.may_move;
        let reason = |what: &str| Violation::NoReason { why, after: self.told, epoch: self.epoch, what: what.to_owned() };
        match why {
            _ if again => {}
            WhySnapshot::Asked if !is_first => return Err(reason("nobody asked for it")),
            WhySnapshot::Asked => {}
            _ if is_first => return Err(reason("nothing was told before")),
            WhySnapshot::OtherHistory if self.epoch == Some(truth.epoch()) => return Err(reason("it is the same epoch")),
            WhySnapshot::RolledBack if self.undone.is_none() && self.epoch == Some(truth.epoch()) => {
                return Err(reason("nothing was undone"));
            }
            WhySnapshot::Compacted
                if self.undone.is_none()
                    && self.epoch == Some(truth.epoch())
                    && self.told.is_some_and(|told| told >= known.complete_after) =>
            {
                return Err(reason(&format!("everything behind {} is known", known.complete_after)));
            }
            WhySnapshot::OtherHistory | WhySnapshot::RolledBack | WhySnapshot::Compacted => {}
        }
        self.why = Some(why);
        self.may_move = true;
        self.coming = Some(Coming { revision, rows: Vec::new() });
        self.wants_snapshot = false;
        Ok(())
    }

    fn end(&mut self, truth: &Truth, revision: u64, position: Option<Position>) -> Result<(), Violation> {
        let Some(coming) = self.coming.take() else { return Err(confused("the end of no snapshot")) };
        let Some(Position { revision: at, epoch: Some(epoch) }) = position else {
            return Err(confused("a snapshot without an epoch at its end"));
        };
        if coming.revision != revision || at < revision {
            return Err(confused("a snapshot that ends at another revision than it began"));
        }
        let last = truth.last(epoch);
        if last.is_none_or(|last| last < revision) {
            return Err(Violation::Ahead { epoch, revision, last });
        }
        let expected = self.subject.table(truth, epoch, revision);
        let wrong = |what: String| Violation::WrongSnapshot { epoch, revision, what };
        if !coming.rows.is_sorted_by(|one, other| one.key < other.key) {
            return Err(wrong("has keys out of order".to_owned()));
        }
        let rows: Table = coming.rows.into_iter().map(|row| (row.key, (row.value, row.modified))).collect();
        if let Some(what) = difference(&rows, &expected) {
            return Err(wrong(what));
        }
        self.shown = rows.into_keys().collect();
        if let Some(why) = self.why.take() {
            *self.snapshots.entry(why.name()).or_default() += 1;
        }
        (self.epoch, self.told, self.may_move, self.undone) = (Some(epoch), Some(revision), false, None);
        self.moved_to(truth, Position { revision: at, epoch: Some(epoch) })
    }

    fn changes(&mut self, truth: &Truth, events: &RevisionEvents, position: Option<Position>) -> Result<(), Violation> {
        let revision = events.revision;
        let Some(position) = position else { return Err(confused("changes without a position")) };
        self.same_history(position)?;
        let Some(epoch) = self.epoch else { return Err(confused("changes of no epoch")) };
        if let Some(after) = self.told.filter(|told| *told >= revision) {
            return Err(Violation::OutOfOrder { after, revision });
        }
        self.nothing_skipped(truth, epoch, revision - 1)?;
        let last = truth.last(epoch);
        if last.is_none_or(|last| last < revision) {
            return Err(Violation::Ahead { epoch, revision, last });
        }
        let committed = truth.below(epoch, (revision - 1, revision), &self.subject.prefix).next();
        if !committed.is_some_and(|committed| self.is_so(truth, epoch, committed, events)) {
            let (told, committed) = (format!("{events:?}"), format!("{committed:?}"));
            return Err(Violation::Otherwise { revision, told, committed });
        }
        self.told = Some(revision);
        self.revisions += 1;
        Ok(())
    }

    /// Whether a revision was told as it was committed.
    fn is_so(&self, truth: &Truth, epoch: u64, committed: &Committed, events: &RevisionEvents) -> bool {
        let expected = self.subject.expected(truth, epoch, committed);
        let mut told = events.changes.iter().peekable();
        for (key, what, must) in expected {
            let Some(change) = told.next_if(|change| change.key == key && What::of(&change.kind) == what) else {
                if must {
                    return false;
                }
                continue;
            };
            let before = truth.value(epoch, committed.revision - 1, &key);
            let is_before = match &change.before {
                None => !self.subject.detail,
                Some(EventBefore::Unknown) => self.subject.detail,
                Some(EventBefore::Absent) => self.subject.detail && before.is_none(),
                Some(EventBefore::Value { value, modified }) => {
                    self.subject.detail && before.is_some_and(|before| before == (value.clone(), *modified))
                }
            };
            if !is_before || !must && !matches!(change.before, None | Some(EventBefore::Unknown)) {
                return false;
            }
        }
        told.next().is_none() && committed.time_ms == events.time_ms && events.origin.is_some() == self.subject.detail
    }

    fn same_history(&mut self, position: Position) -> Result<(), Violation> {
        if let Some(told) = self.undone {
            return Err(Violation::RollbackUnnoticed { told });
        }
        if self.wants_snapshot {
            return Err(confused("something comes before the snapshot that was asked for"));
        }
        match (self.epoch, position.epoch) {
            (None, now) => self.epoch = now,
            (Some(before), Some(now)) if before == now => {}
            (before, now) => return Err(Violation::OtherHistory { before, now }),
        }
        Ok(())
    }

    fn nothing_skipped(&self, truth: &Truth, epoch: u64, through: u64) -> Result<(), Violation> {
        let Some(told) = self.told else { return Ok(()) };
        match self.subject.first_of(truth, epoch, (told, through)) {
            None => Ok(()),
            Some(revision) => Err(Violation::Skipped { through, revision }),
        }
    }

    /// Everything up to here counts as told.
    fn moved_to(&mut self, truth: &Truth, position: Position) -> Result<(), Violation> {
        if self.coming.is_some() {
            return Err(confused("a position in a snapshot"));
        }
        let Position { revision, epoch } = position;
        if self.told.is_some_and(|told| told == revision) && (epoch.is_none() || epoch == self.epoch) {
            return Ok(());
        }
        self.same_history(position)?;
        // Where it begins is told before anything is known of its history.
        let Some(epoch) = self.epoch else { return Ok(()) };
        let last = truth.last(epoch);
        if last.is_none_or(|last| last < revision) {
            return Err(Violation::Ahead { epoch, revision, last });
        }
        if let Some(after) = self.told.filter(|told| *told > revision) {
            return Err(Violation::OutOfOrder { after, revision });
        }
        self.nothing_skipped(truth, epoch, revision)?;
        self.told = Some(revision);
        Ok(())
    }

    /// The mirror has what the table had.
    ///
    /// # Errors
    /// It has not.
    pub fn compare_mirror(&self, truth: &Truth) -> Result<(), Violation> {
        let (Some(mirror), Some(epoch), Some(revision)) = (&self.mirror, self.epoch, self.told) else { return Ok(()) };
        let expected = self.subject.table(truth, epoch, revision);
        match difference(&rows_of(mirror), &expected) {
            None => Ok(()),
            Some(what) => Err(Violation::WrongMirror { epoch, revision, what }),
        }
    }

    /// The watch has ended since it can't go on.
    ///
    /// # Errors
    /// The reason is none.
    pub fn broken(&self, truth: &Truth, known: Known, broken: &WatchBroken) -> Result<(), Violation> {
        let mut again = self.clone();
        again.may_move = false;
        again.begin(truth, known, 0, broken.why())
    }
}

fn confused(what: &str) -> Violation {
    Violation::Confused(what.to_owned())
}

fn rows_of(mirror: &MirrorState) -> Table {
    mirror.iter().map(|(key, row)| (key.clone(), (row.value.clone(), row.modified))).collect()
}

fn difference(found: &Table, expected: &Table) -> Option<String> {
    let name = |key: &Key| key.escape_ascii().to_string();
    for (key, (value, modified)) in expected {
        match found.get(key) {
            None => return Some(format!("lacks {}", name(key))),
            Some(other) if *other != (value.clone(), *modified) => {
                return Some(format!("has {} of revision {} instead of {modified}", name(key), other.1));
            }
            Some(_) => {}
        }
    }
    found.keys().find(|key| !expected.contains_key(*key)).map(|key| format!("has {}, which is gone", name(key)))
}
