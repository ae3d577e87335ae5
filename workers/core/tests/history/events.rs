//! The answers to `events` against the list of every change: whole and in order, with what was before, and such that whoever keeps the
//! keys that fit keeps what a scan finds.

use kvbroker_core::{EventsFor, EventsPage, EventsWanted, split_table_record};
use kvbroker_protocol::{
    Answer, ChangeKind, ErrorCode, EventBefore, EventCause, EventOrigin, KeyEvent, Predicate, PredicateMatcher, RevisionEvents,
    Row, Subject,
};

use super::*;

fn stored_of(record: &[u8]) -> Stored {
    Stored::from_bytes(split_table_record(record).unwrap().stored.to_vec()).unwrap()
}

/// Whether a record that this revision made fits.
fn fits(matcher: &PredicateMatcher, key: &[u8], record: &[u8], modified: u64) -> bool {
    let record = split_table_record(record).unwrap();
    let created = record.created.unwrap_or(modified);
    matcher.judge(&Subject { key, stored: Some(record.stored), modified, created }).holds
}

/// What is told of a change, if anything is.
fn expected_change(
    (key, old, new): &(Key, Then, Option<Vec<u8>>),
    told: &Told,
    detail: bool,
    matcher: Option<&PredicateMatcher>,
) -> Option<KeyEvent> {
    let fits = |record: &Vec<u8>, modified| matcher.is_none_or(|matcher| fits(matcher, key, record, modified));
    let (new_fits, old_fits) = (
        new.as_ref().is_some_and(|record| fits(record, told.revision)),
        old.as_ref().is_some_and(|(record, modified)| fits(record, *modified)),
    );
    let kind = match new {
        Some(record) if new_fits => ChangeKind::Put(stored_of(record)),
        _ if !old_fits => return None,
        Some(_) => ChangeKind::Leave,
        None if told.origin.cause == Cause::Expiry => ChangeKind::Expire,
        None => ChangeKind::Remove,
    };
    let before = match old {
        Some((record, modified)) => EventBefore::Value { value: stored_of(record), modified: *modified },
        None => EventBefore::Absent,
    };
    Some(KeyEvent { key: key.clone(), kind, before: detail.then_some(before) })
}

fn expected_origin(told: &Told, is_everything: bool) -> EventOrigin {
    let cause = match told.origin.cause {
        Cause::Request => EventCause::Request,
        Cause::Expiry => EventCause::Expiry,
        Cause::Internal => EventCause::Internal,
    };
    EventOrigin { cause, name: told.origin.name.filter(|_| is_everything) }
}

/// The table at one revision after the other, from the list of changes.
struct Replay<'t> {
    left: &'t [Told],
    table: BTreeMap<Key, (Vec<u8>, u64)>,
}

impl Replay<'_> {
    fn to(&mut self, revision: u64) {
        while let Some((told, left)) = self.left.split_first()
            && told.revision <= revision
        {
            for (key, _, new) in &told.changes {
                match new {
                    Some(new) => drop(self.table.insert(key.clone(), (new.clone(), told.revision))),
                    None => drop(self.table.remove(key)),
                }
            }
            self.left = left;
        }
    }
}

impl World {
    fn predicate(&mut self, after: u64) -> Option<Predicate> {
        let revision = after + self.dice.below((self.state.revision() - after) as usize + 1) as u64;
        let text = match self.dice.below(8) {
            0 => "@value ~ '^v{0,20}$'".to_owned(),
            1 => "not (@value >= 4)".to_owned(),
            2 => format!("@modified > {revision}"),
            3 => format!("@created <= {revision} and @key ~ '[0-4]$'"),
            4 => "@value = 2 or @key ~ '^k1'".to_owned(),
            5 => "@value >= 4".to_owned(),
            _ => return None,
        };
        Some(Predicate::new(&text).unwrap())
    }

    /// All pages of the events behind a revision, whatever their sizes, against the list of what was done.
    pub(super) fn check_events(&mut self, after: u64) {
        let prefix = ["", "k", "k1", "k3", "k39", "l"][self.dice.below(6)].as_bytes();
        let scope = match self.dice.below(3) {
            0 => Scope::all(),
            1 => Scope::prefixes(vec![b"k1".into(), b"k35".into(), b"k4".into(), b"x".into()]).unwrap(),
            _ => Scope::prefixes(vec![b"k2".into()]).unwrap(),
        };
        // Nobody's sessions are remembered here, so a user has none.
        let detail = [None, Some(EventsFor::Everything), Some(EventsFor::User(b"ann"))][self.dice.below(3)];
        let filter = self.predicate(after);
        let matcher = filter.as_ref().map(|filter| filter.matcher().unwrap());
        let matcher = matcher.as_ref();
        let is_own = |key: &Key| key.starts_with(prefix) && scope.contains(key);
        let expected: Vec<RevisionEvents> = self
            .told
            .iter()
            .filter(|told| told.revision > after)
            .map(|told| {
                let own = told.changes.iter().filter(|(key, _, _)| is_own(key));
                let changes = own.filter_map(|change| expected_change(change, told, detail.is_some(), matcher)).collect();
                let origin = detail.map(|told_to| expected_origin(told, told_to == EventsFor::Everything));
                RevisionEvents { revision: told.revision, time_ms: told.origin.stamp_ms, changes, origin }
            })
            .filter(|events| !events.changes.is_empty())
            .collect();

        let mut replay = Replay { left: &self.told, table: BTreeMap::new() };
        replay.to(after);
        let fitting = |table: &BTreeMap<Key, (Vec<u8>, u64)>| -> BTreeMap<Key, Stored> {
            let own = table.iter().filter(|(key, _)| is_own(key));
            let fitting =
                own.filter(|(key, (record, modified))| matcher.is_none_or(|matcher| fits(matcher, key, record, *modified)));
            fitting.map(|(key, (record, _))| (key.clone(), stored_of(record))).collect()
        };
        let mut kept = fitting(&replay.table);
        let (mut told, mut behind) = (Vec::new(), after);
        loop {
            let revisions_max = [1, 3, 1_000][self.dice.below(3)];
            let bytes_max = [1, 500, usize::MAX][self.dice.below(3)];
            let wanted = EventsWanted { prefix, scope: &scope, after: behind, revisions_max, bytes_max, detail, matcher };
            let page = self.history.events(&self.state, &wanted).unwrap();
            assert!(page.events.len() <= revisions_max && (bytes_max > 1 || page.events.len() <= 1));
            assert!(page.events.iter().all(|events| events.revision > behind && events.revision <= page.through));
            let more = page.has_more(&self.state);
            assert!(page.too_much.is_none() && (!more || page.through > behind), "a page gets on");
            behind = page.through;
            for KeyEvent { key, kind, .. } in page.events.iter().flat_map(|events| &events.changes) {
                match kind {
                    ChangeKind::Put(value) => drop(kept.insert(key.clone(), value.clone())),
                    ChangeKind::Remove | ChangeKind::Expire | ChangeKind::Leave => drop(kept.remove(key)),
                }
            }
            replay.to(behind);
            assert_eq!(kept, fitting(&replay.table), "{filter:?} at {behind}");
            told.extend(page.events);
            if !more {
                break;
            }
        }
        assert_eq!(told, expected, "{prefix:?} of {scope:?} behind {after} with {filter:?}");
        assert_eq!(kept, self.scanned(prefix, &scope, filter), "what a scan finds now");
        let ask = |after| {
            let wanted = EventsWanted { prefix, scope: &scope, after, revisions_max: 1, bytes_max: 1, detail, matcher };
            self.history.events(&self.state, &wanted).map_err(|failure| (failure.code, failure.oldest))
        };
        assert_eq!(ask(self.state.revision() + 1).unwrap_err().0, ErrorCode::Invalid);
        let oldest = self.history.oldest_revision(&self.state);
        if oldest > 1 {
            assert_eq!(ask(oldest - 2), Err((ErrorCode::Compacted, Some(oldest))));
        }
    }

    fn scanned(&self, prefix: &[u8], scope: &Scope, filter: Option<Predicate>) -> BTreeMap<Key, Stored> {
        let scan = Operation::Scan(Scan { prefix: prefix.to_vec(), filter, ..Scan::default() });
        let stamp = Stamp { revision: self.state.revision() + 1, time_ms: self.time_ms };
        let Ok(Answer::Rows { rows, cursor: None, .. }) =
            decide(&self.state, scope, scan, stamp, &mut Turn::one()).outcome.result
        else {
            panic!("a scan of forty keys is one page")
        };
        rows.into_iter().map(|Row { key, value, .. }| (key, value)).collect()
    }
}

fn wanted<'a>(prefix: &'a str, scope: &'a Scope, after: u64) -> EventsWanted<'a> {
    EventsWanted {
        prefix: prefix.as_bytes(),
        scope,
        after,
        revisions_max: usize::MAX,
        bytes_max: usize::MAX,
        detail: None,
        matcher: None,
    }
}

#[test]
fn a_page_of_events_looks_at_so_many_changes_and_at_one_revision_whole() {
    let (mut history, mut state) = (History::with_bytes_max(usize::MAX), State::new());
    let many = |count: usize| (0..count).map(|at| put(&format!("k{at:06}"), 1)).collect();
    group(&mut history, &mut state, many(3 * limits::EVENTS_CHANGES_MAX));
    for at in 0..3 * limits::EVENTS_CHANGES_MAX {
        group(&mut history, &mut state, vec![put(["mine", "k000007"][at % 2], 1)]);
    }
    let page = |prefix: &str, after| history.events(&state, &wanted(prefix, &Scope::all(), after)).unwrap();
    let first = page("k", 0);
    assert_eq!((first.events.len(), first.through), (1, 1), "the first revision alone is more than a page looks at");
    assert_eq!(first.events[0].changes.len(), 3 * limits::EVENTS_CHANGES_MAX);
    // Of other keys there may be as many as there like: a revision of them costs no more than finding out that they are others.
    let others = page("mine", 0);
    assert_eq!((others.through, others.examined), (limits::EVENTS_CHANGES_MAX as u64, limits::EVENTS_CHANGES_MAX));
    assert_eq!(others.events.len(), limits::EVENTS_CHANGES_MAX / 2);
    let nothing = page("none", 1);
    assert_eq!((nothing.through, nothing.events.len()), (1 + limits::EVENTS_CHANGES_MAX as u64, 0), "and says how far it came");
}

#[test]
fn a_predicate_ends_a_page_by_its_work_and_says_where_it_can_not_get_on() {
    let (mut history, mut state) = (History::with_bytes_max(usize::MAX), State::new());
    // Dear for each byte; never found.
    let filter = Predicate::new("@value ~ '[01]*1[01]{400}x' or @value ~ '[01]*1[01]{401}x'").unwrap();
    let matcher = filter.matcher().unwrap();
    let text = |key: &str, bytes: usize| {
        let value = [&[2, b'"'][..], &vec![b'1'; bytes], b"\"", &[0]].concat();
        Change { space: Space::Table, key: key.into(), value: Some(value) }
    };
    let page = |history: &History, state: &State, after| -> EventsPage {
        history.events(state, &EventsWanted { matcher: Some(&matcher), ..wanted("", &Scope::all(), after) }).unwrap()
    };
    // Three of these are what a turn may cost, but not two.
    let dear = limits::TURN_WORK_MAX / (2 * 64) / 5 * 2;
    for at in 0..9 {
        group(&mut history, &mut state, vec![text(&format!("k{at}"), dear)]);
    }
    let first = page(&history, &state, 0);
    assert!((2..5).contains(&first.through) && first.events.is_empty() && first.has_more(&state), "{first:?}");
    assert!(first.work > limits::TURN_WORK_MAX / 2 && first.work < 2 * limits::TURN_WORK_MAX, "{first:?}");
    // A revision that alone is more has a page of its own, and one that is far more is told by none.
    let far_more = limits::EVENTS_WORK_MAX / (dear * 2 * 64) + 2;
    group(&mut history, &mut state, (0..5).map(|at| text(&format!("m{at}"), dear)).collect());
    group(&mut history, &mut state, (0..far_more).map(|at| text(&format!("n{at:06}"), dear)).collect());
    group(&mut history, &mut state, vec![text("o", 1)]);
    let mut through = 0;
    let stuck = loop {
        let next = page(&history, &state, through);
        assert!(next.events.is_empty() && next.work <= limits::EVENTS_WORK_MAX + limits::TURN_WORK_MAX);
        match next.too_much {
            Some(revision) => break (through, revision, next.through),
            None => assert!(next.through > through),
        }
        through = next.through;
    };
    assert_eq!(stuck, (10, 11, 10));
    let behind = page(&history, &state, 11);
    assert_eq!((behind.through, behind.too_much), (12, None));
    // Without the predicate it is a revision like others.
    assert_eq!(history.events(&state, &wanted("", &Scope::all(), 10)).unwrap().events.len(), 2);
}

#[test]
fn of_a_large_revision_so_many_old_values_are_told_as_there_is_room_for() {
    let (mut history, mut state) = (History::with_bytes_max(usize::MAX), State::new());
    let value = 1 << 20;
    let most = limits::EVENTS_DETAIL_BYTES_MAX / value;
    group(&mut history, &mut state, (0..most + 9).map(|at| put(&format!("k{at:03}"), value)).collect());
    let gone = |at: usize| Change { space: Space::Table, key: format!("k{at:03}").into(), value: None };
    group(&mut history, &mut state, (0..most + 9).map(gone).collect());
    let detail = Some(EventsFor::Everything);
    let page = history.events(&state, &EventsWanted { detail, bytes_max: 1, ..wanted("", &Scope::all(), 1) }).unwrap();
    let changes = &page.events[0].changes;
    assert_eq!(changes.len(), most + 9, "all of them are told");
    let known = changes.iter().filter(|change| matches!(change.before, Some(EventBefore::Value { .. }))).count();
    let unknown = changes.iter().filter(|change| change.before == Some(EventBefore::Unknown)).count();
    assert!(known >= most - 1 && known + unknown == changes.len() && unknown >= 9, "{known} and {unknown}");
}
