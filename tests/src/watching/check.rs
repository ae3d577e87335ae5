//! Whether a watch told the truth.

use std::collections::BTreeMap;

use super::heard::Heard;
use super::truth::{Kind, Told};

/// Where a watch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Somewhere between these revisions: the table's before the watch was asked for, and after it had begun.
    Now(u64, u64),
    /// Behind this revision.
    After(u64),
    /// With a snapshot, of this revision or a later one.
    Snapshot(u64),
}

/// What a watch did that told the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Revisions that it told as changes.
    pub revisions: u64,
    /// Why each snapshot came.
    pub snapshots: Vec<String>,
    /// Times that it had caught up.
    pub caught_up: u64,
    /// Times that the broker was away.
    pub disconnected: u64,
    /// Up to where everything was told in the end.
    pub verified: u64,
}

/// Holds what a watch told against what happened under its prefix (`truth`, in order, each revision's changes in the order of keys).
/// It must have told everything up to the revision `through`.
///
/// # Errors
/// The first thing that is wrong, in words.
pub fn check(heard: &[Heard], truth: &[Told], start: Start, through: u64) -> Result<Checked, String> {
    let mut checker = Checker { truth, position: None, snapshot: None, done: Checked::default(), start };
    if let Start::After(revision) = start {
        checker.position = Some(revision);
    }
    for (place, event) in heard.iter().enumerate() {
        checker.take(event).map_err(|wrong| {
            let from = place.saturating_sub(3);
            let around = &heard[from..heard.len().min(place + 2)];
            let around: String = around.iter().map(|event| format!("\n  {}", shortened(event))).collect();
            format!("event {place} of {}: {wrong}; around it:{around}", heard.len())
        })?;
    }
    if checker.snapshot.is_some() {
        return Err("it ended within a snapshot".to_owned());
    }
    let verified = checker.position.ok_or("it never said where it began")?;
    if verified < through {
        let missing = checker.between(verified, through);
        if let Some(missing) = missing {
            return Err(format!("it ended at revision {verified}, and revision {missing} was never told"));
        }
    }
    checker.done.verified = verified;
    Ok(checker.done)
}

/// Each key's value, and the revision of its last change.
type Rows = BTreeMap<String, (u64, u64)>;

struct Checker<'a> {
    truth: &'a [Told],
    /// Everything up to here was told; None: it has not begun, or is in a snapshot.
    position: Option<u64>,
    /// The one that is being told, and its revision.
    snapshot: Option<(u64, Rows)>,
    done: Checked,
    start: Start,
}

impl Checker<'_> {
    fn take(&mut self, event: &Heard) -> Result<(), String> {
        match event {
            Heard::Changes(revision, changes) => {
                if self.snapshot.is_some() {
                    return Err("changes within a snapshot".to_owned());
                }
                let position = match (self.position, self.start) {
                    (Some(position), _) => position,
                    // What came first after it had begun can be told before it has caught up.
                    (None, Start::Now(before, after)) if *revision > before => after.min(revision - 1),
                    (None, start) => return Err(format!("changes of revision {revision}, and not {start:?}")),
                };
                if *revision <= position {
                    return Err(format!("revision {revision}, and everything up to {position} was told already"));
                }
                if let Some(missing) = self.between(position, revision - 1) {
                    return Err(format!("revision {missing} was left out"));
                }
                let mut told = changes.clone();
                told.sort();
                match self.truth.binary_search_by_key(revision, |(known, _)| *known) {
                    Ok(place) if self.truth[place].1 == told => {}
                    Ok(place) => return Err(format!("revision {revision} was {:?}", self.truth[place].1)),
                    Err(_) => return Err(format!("revision {revision} changed nothing here")),
                }
                self.position = Some(*revision);
                self.done.revisions += 1;
            }
            Heard::CaughtUp(revision) => {
                if self.snapshot.is_some() {
                    return Err("it can't have caught up within a snapshot".to_owned());
                }
                match (self.position, self.start) {
                    (None, Start::Now(before, after)) if (before..=after).contains(revision) => {}
                    (None, start) => return Err(format!("a beginning at revision {revision}, and not {start:?}")),
                    (Some(position), _) if *revision < position => {
                        return Err(format!("caught up at revision {revision}, and {position} was told already"));
                    }
                    (Some(position), _) => {
                        if let Some(missing) = self.between(position, *revision) {
                            return Err(format!("caught up, and revision {missing} was left out"));
                        }
                    }
                }
                self.position = Some(*revision);
                self.done.caught_up += 1;
            }
            Heard::SnapshotBegin(revision, why) => {
                let earliest = match (self.position, self.start) {
                    // One that is begun again stands for the one that it ends.
                    (None, _) if self.snapshot.is_some() => 0,
                    (None, Start::Snapshot(earliest)) => earliest,
                    (None, start) => return Err(format!("a snapshot, and not {start:?}")),
                    (Some(position), _) => position,
                };
                if *revision < earliest && why != "other_history" && why != "rolled_back" {
                    return Err(format!("a snapshot of revision {revision}, which is before {earliest}"));
                }
                self.position = None;
                self.snapshot = Some((*revision, Rows::new()));
                self.done.snapshots.push(why.clone());
            }
            Heard::Row(key, value, modified) => {
                let Some((_, rows)) = &mut self.snapshot else { return Err("a row without a snapshot".to_owned()) };
                if rows.insert(key.clone(), (*value, *modified)).is_some() {
                    return Err(format!("{key} stands twice in the snapshot"));
                }
            }
            Heard::SnapshotEnd(revision) => {
                let Some((begun, rows)) = self.snapshot.take() else { return Err("the end of no snapshot".to_owned()) };
                if begun != *revision {
                    return Err(format!("the snapshot began at revision {begun}"));
                }
                let table = self.table(*revision);
                for (key, row) in &table {
                    if rows.get(key) != Some(row) {
                        return Err(format!("the snapshot has {:?} for {key}, where the table had {row:?}", rows.get(key)));
                    }
                }
                if let Some(key) = rows.keys().find(|key| !table.contains_key(*key)) {
                    return Err(format!("the snapshot has {key}, which was not there"));
                }
                self.position = Some(*revision);
            }
            Heard::Disconnected => self.done.disconnected += 1,
        }
        Ok(())
    }

    /// The first revision of the truth behind `after`, up to `through`.
    fn between(&self, after: u64, through: u64) -> Option<u64> {
        let place = self.truth.partition_point(|(revision, _)| *revision <= after);
        self.truth.get(place).map(|(revision, _)| *revision).filter(|revision| *revision <= through)
    }

    /// What was there at a revision.
    fn table(&self, at: u64) -> Rows {
        let mut table = Rows::new();
        for (revision, changes) in self.truth.iter().take_while(|(revision, _)| *revision <= at) {
            for change in changes {
                match change.kind {
                    Kind::Put(value) => {
                        table.insert(change.key.clone(), (value, *revision));
                    }
                    Kind::Remove | Kind::Expire => {
                        table.remove(&change.key);
                    }
                }
            }
        }
        table
    }
}

fn shortened(event: &Heard) -> String {
    let mut text = format!("{event:?}");
    if text.len() > 400 {
        let end = (0..=400).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::truth::Change;
    use super::*;

    fn change(key: &str, kind: Kind) -> Change {
        Change { key: key.to_owned(), kind }
    }

    fn truth() -> Vec<Told> {
        vec![
            (2, vec![change("a/1", Kind::Put(11))]),
            (3, vec![change("a/1", Kind::Put(12)), change("a/2", Kind::Put(21))]),
            (7, vec![change("a/1", Kind::Remove)]),
            (9, vec![change("a/2", Kind::Expire), change("a/3", Kind::Put(31))]),
        ]
    }

    fn all() -> Vec<Heard> {
        truth().into_iter().map(|(revision, changes)| Heard::Changes(revision, changes)).collect()
    }

    #[track_caller]
    fn lie(heard: &[Heard], start: Start, word: &str) {
        let wrong = check(heard, &truth(), start, 9).unwrap_err();
        assert!(wrong.contains(word), "{wrong}");
    }

    #[test]
    fn the_truth_is_let_pass() {
        let mut heard = all();
        heard.insert(0, Heard::CaughtUp(1));
        heard.insert(3, Heard::Disconnected);
        heard.insert(4, Heard::CaughtUp(6));
        let done = check(&heard, &truth(), Start::Now(0, 1), 9).unwrap();
        assert_eq!((done.revisions, done.caught_up, done.disconnected, done.verified), (4, 2, 1, 9));
        assert!(check(&all()[1..], &truth(), Start::After(2), 9).is_ok());
        // The order of keys is the broker's affair.
        let mut heard = all();
        if let Heard::Changes(_, changes) = &mut heard[1] {
            changes.reverse();
        }
        assert!(check(&heard, &truth(), Start::After(0), 9).is_ok());
        let heard = [
            Heard::SnapshotBegin(4, "asked".to_owned()),
            Heard::Row("a/1".to_owned(), 12, 3),
            Heard::SnapshotBegin(8, "asked".to_owned()),
            Heard::Row("a/2".to_owned(), 21, 3),
            Heard::SnapshotEnd(8),
            all()[3].clone(),
        ];
        let done = check(&heard, &truth(), Start::Snapshot(0), 9).unwrap();
        assert_eq!((done.revisions, done.snapshots.len()), (1, 2));
    }

    #[test]
    fn lies_are_noticed() {
        let with = |make: &dyn Fn(&mut Vec<Heard>)| {
            let mut heard = all();
            make(&mut heard);
            heard
        };
        let start = Start::After(0);
        for place in 0..3 {
            lie(&with(&|heard| drop(heard.remove(place))), start, "was left out");
            lie(&with(&|heard| heard.insert(place + 1, heard[place].clone())), start, "was told already");
            lie(&with(&|heard| heard.swap(place, place + 1)), start, "was left out");
        }
        lie(&with(&|heard| drop(heard.pop())), start, "was never told");
        lie(&with(&|heard| heard.clear()), start, "was never told");
        lie(&with(&|heard| heard[2] = Heard::Changes(8, vec![change("a/1", Kind::Remove)])), start, "was left out");
        lie(&with(&|heard| heard.insert(3, Heard::Changes(8, vec![change("a/1", Kind::Remove)]))), start, "changed nothing");
        lie(&with(&|heard| heard.insert(1, Heard::CaughtUp(3))), start, "was left out");
        lie(&with(&|heard| heard.insert(4, Heard::CaughtUp(8))), start, "was told already");
        lie(&with(&|heard| heard.insert(0, Heard::CaughtUp(2))), Start::Now(0, 1), "a beginning at");
        lie(&all(), Start::Now(2, 2), "and not Now");
        lie(&all(), Start::Snapshot(0), "and not Snapshot");
        lie(&all()[1..], Start::Now(0, 1), "was left out");
        assert!(
            check(&all(), &truth(), Start::Now(0, 1), 9).is_ok() && check(&all()[1..], &truth(), Start::Now(0, 2), 9).is_ok()
        );
        // A revision that is split, one that is not whole, another value, another end.
        let split = |part: usize| Heard::Changes(3, vec![truth()[1].1[part].clone()]);
        lie(&with(&|heard| drop(heard.splice(1..2, [split(0), split(1)]))), start, "revision 3 was");
        lie(&with(&|heard| heard[1] = split(1)), start, "revision 3 was");
        lie(&with(&|heard| heard[0] = Heard::Changes(2, vec![change("a/1", Kind::Put(12))])), start, "revision 2 was");
        lie(&with(&|heard| heard[2] = Heard::Changes(7, vec![change("a/1", Kind::Expire)])), start, "revision 7 was");
    }

    #[test]
    fn wrong_snapshots_are_noticed() {
        let row = |key: &str, value, modified| Heard::Row(key.to_owned(), value, modified);
        let snapshot = |revision, rows: &[Heard]| {
            let mut heard = vec![Heard::SnapshotBegin(revision, "compacted".to_owned())];
            heard.extend_from_slice(rows);
            heard.push(Heard::SnapshotEnd(revision));
            heard.extend(all().into_iter().filter(|event| matches!(event, Heard::Changes(told, _) if *told > revision)));
            heard
        };
        let (first, second) = (row("a/1", 12, 3), row("a/2", 21, 3));
        let start = Start::Snapshot(0);
        assert!(check(&snapshot(3, &[first.clone(), second.clone()]), &truth(), start, 9).is_ok());
        lie(&snapshot(3, std::slice::from_ref(&first)), start, "where the table had");
        lie(&snapshot(7, &[first.clone(), second.clone()]), start, "which was not there");
        lie(&snapshot(3, &[row("a/1", 11, 3), second.clone()]), start, "where the table had");
        lie(&snapshot(3, &[row("a/1", 12, 2), second.clone()]), start, "where the table had");
        lie(&snapshot(3, &[first.clone(), first.clone(), second.clone()]), start, "twice");
        lie(&snapshot(3, &[first, second]), Start::Snapshot(4), "which is before");
        lie(&[Heard::SnapshotBegin(3, "asked".to_owned())], start, "within a snapshot");
    }
}
