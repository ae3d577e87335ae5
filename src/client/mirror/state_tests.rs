//! Mirrors that are fed by hand.

#![allow(clippy::unwrap_used)]

use kvbroker_protocol::{KeyEvent, RevisionEvents};

use super::*;

fn text(text: &str) -> Stored {
    Stored::text(text).unwrap()
}

fn row(key: &str, value: &str, modified: u64) -> WatchEvent {
    WatchEvent::SnapshotRow(Row { key: key.into(), value: text(value), modified })
}

fn begin(revision: u64, why: WhySnapshot) -> WatchEvent {
    WatchEvent::SnapshotBegin { revision, why }
}

fn changes(revision: u64, changes: &[(&str, ChangeKind)]) -> WatchEvent {
    let change = |(key, kind): &(&str, ChangeKind)| KeyEvent { key: (*key).into(), kind: kind.clone(), before: None };
    let changes = changes.iter().map(change).collect();
    WatchEvent::Changes(RevisionEvents { revision, time_ms: 1, changes, origin: None }.into())
}

fn put(value: &str) -> ChangeKind {
    ChangeKind::Put(text(value))
}

/// a and b at revision 5.
fn started() -> MirrorState {
    let mut state = MirrorState::new();
    state.apply(begin(5, WhySnapshot::Asked));
    state.apply(row("a", "1", 2));
    state.apply(row("b", "1", 3));
    assert_eq!((state.len(), state.revision()), (0, None), "rows are seen when all are there");
    state.apply(WatchEvent::SnapshotEnd { revision: 5 });
    assert!(!state.is_current());
    state.apply(WatchEvent::CaughtUp { revision: 6 });
    assert_eq!((state.revision(), state.is_current()), (Some(6), true));
    state
}

fn shown(state: &MirrorState) -> Vec<(String, String, u64)> {
    let show =
        |(key, row): (&Key, &MirrorRow)| (String::from_utf8(key.clone()).unwrap(), row.value.as_text().unwrap(), row.modified);
    state.iter().map(show).collect()
}

fn told(state: &mut MirrorState, event: WatchEvent) -> Vec<(String, Option<String>, Option<String>, MirrorCause)> {
    let changes = state.apply_telling(event);
    let text = |value: Option<Stored>| value.map(|value| value.as_text().unwrap());
    changes.into_iter().map(|c| (String::from_utf8(c.key).unwrap(), text(c.before), text(c.now), c.cause)).collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn changes_are_applied_whole_in_order_and_once() {
    let mut state = started();
    let heard = told(&mut state, changes(8, &[("a", put("2")), ("b", ChangeKind::Remove), ("c", put("1"))]));
    let expected = [
        ("a".to_owned(), some("1"), some("2"), MirrorCause::Put),
        ("b".to_owned(), some("1"), None, MirrorCause::Remove),
        ("c".to_owned(), None, some("1"), MirrorCause::Put),
    ];
    assert_eq!(heard, expected);
    assert_eq!(shown(&state), [("a".into(), "2".into(), 8), ("c".into(), "1".into(), 8)]);
    assert_eq!(told(&mut state, changes(8, &[("a", put("again"))])), []);
    assert_eq!(told(&mut state, changes(7, &[("b", put("old"))])), []);
    assert_eq!((state.len(), state.revision()), (2, Some(8)));
    assert_eq!(told(&mut state, changes(9, &[("c", ChangeKind::Expire)])), [("c".into(), some("1"), None, MirrorCause::Expire)]);
    assert_eq!(told(&mut state, changes(10, &[("a", ChangeKind::Leave), ("never", ChangeKind::Leave)])).len(), 1);
    assert!(state.is_empty());
}

#[test]
fn a_snapshot_replaces_everything_and_tells_the_differences() {
    let mut state = started();
    state.apply(changes(7, &[("d", put("1"))]));
    state.apply(WatchEvent::Disconnected { why: "x".into() });
    assert!(!state.is_current());
    // Asleep meanwhile: b is removed, and nobody remembers; c comes, d changes, and a stays.
    state.apply(begin(20, WhySnapshot::Compacted));
    state.apply(row("a", "1", 2));
    state.apply(row("c", "1", 12));
    assert_eq!((state.len(), state.revision()), (3, Some(7)), "what was there is read until all is there");
    assert_eq!(told(&mut state, row("d", "2", 15)), []);
    let heard = told(&mut state, WatchEvent::SnapshotEnd { revision: 20 });
    let expected = [
        ("b".to_owned(), some("1"), None, MirrorCause::Snapshot),
        ("c".to_owned(), None, some("1"), MirrorCause::Snapshot),
        ("d".to_owned(), some("1"), some("2"), MirrorCause::Snapshot),
    ];
    assert_eq!(heard, expected);
    assert_eq!((state.revision(), state.last_snapshot()), (Some(20), Some(WhySnapshot::Compacted)));
    assert!(state.get("b").is_none() && state.get("a").is_some());
    // Before the first key and behind the last one.
    state.apply(begin(21, WhySnapshot::Asked));
    for key in ["0", "a", "z"] {
        state.apply(row(key, "1", 2));
    }
    let keys: Vec<_> = told(&mut state, WatchEvent::SnapshotEnd { revision: 21 }).into_iter().map(|change| change.0).collect();
    assert_eq!(keys, ["0", "c", "d", "z"]);
}

#[test]
fn a_snapshot_that_is_begun_again_leaves_nothing_of_the_first() {
    let mut state = started();
    state.apply(begin(9, WhySnapshot::Compacted));
    state.apply(row("gone before the second", "1", 8));
    state.apply(begin(12, WhySnapshot::Compacted));
    state.apply(row("a", "1", 2));
    state.apply(WatchEvent::SnapshotEnd { revision: 12 });
    assert_eq!(shown(&state), [("a".into(), "1".into(), 2)]);
}

#[test]
fn another_history_may_go_back() {
    let mut state = started();
    state.apply(begin(2, WhySnapshot::RolledBack));
    state.apply(row("a", "0", 1));
    state.apply(WatchEvent::SnapshotEnd { revision: 2 });
    assert_eq!((state.revision(), state.len()), (Some(2), 1));
    state.apply(changes(3, &[("b", put("new"))]));
    assert_eq!(state.get("b").map(|row| row.modified), Some(3));
}

#[test]
fn an_empty_prefix_is_current_too() {
    let mut state = MirrorState::new();
    state.apply(begin(0, WhySnapshot::Asked));
    state.apply(WatchEvent::SnapshotEnd { revision: 0 });
    state.apply(WatchEvent::CaughtUp { revision: 0 });
    assert_eq!((state.revision(), state.is_current(), state.len()), (Some(0), true, 0));
    state.advance(4);
    state.advance(3);
    assert_eq!(state.revision(), Some(4));
    state.apply(begin(5, WhySnapshot::Asked));
    state.advance(9);
    assert_eq!(state.revision(), Some(4), "what a snapshot will show is not known before");
}

#[test]
fn ranges_and_prefixes() {
    let mut state = started();
    state.apply(changes(7, &[("a/1", put("x")), ("a/2", put("y"))]));
    let keys = |found: Vec<(&Key, &MirrorRow)>| -> Vec<String> {
        found.into_iter().map(|(key, _)| String::from_utf8(key.clone()).unwrap()).collect()
    };
    assert_eq!(keys(state.prefix(b"a/").collect()), ["a/1", "a/2"]);
    assert_eq!(keys(state.range("a/1", Some(b"b")).collect()), ["a/1", "a/2"]);
    assert_eq!(keys(state.range("a/2", None).rev().collect()), ["b", "a/2"]);
    assert_eq!(keys(state.range("b", Some(b"a")).collect()), Vec::<String>::new());
}
