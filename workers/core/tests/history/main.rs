//! The history in memory against a plain list of every change: at random lives, whatever has been dropped meanwhile, and over
//! restarts.

#![allow(clippy::unwrap_used)]

mod events;

use std::collections::BTreeMap;

use kvbroker_core::{Cause, Change, History, Loader, Origin, Reader, Snapshots, Space, Stamp, State, Turn, decide};
use kvbroker_protocol::{Key, Operation, Scan, Scope, SessionId, Stored, Txn, limits};

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// What a key was, and since which revision.
type Then = Option<(Vec<u8>, u64)>;

/// A group as it was, each of its changes with what was there before and after.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    revision: u64,
    origin: Origin,
    changes: Vec<(Key, Then, Option<Vec<u8>>)>,
}

struct World {
    bytes_max: usize,
    state: State,
    history: History,
    snapshots: Snapshots,
    table: BTreeMap<Key, (Vec<u8>, u64)>,
    told: Vec<Told>,
    time_ms: u64,
    dice: Dice,
}

impl World {
    fn new(seed: u64, bytes_max: usize) -> World {
        World {
            bytes_max,
            state: State::new(),
            history: History::with_bytes_max(bytes_max),
            snapshots: Snapshots::default(),
            table: BTreeMap::new(),
            told: Vec::new(),
            time_ms: 1_000,
            dice: Dice(seed),
        }
    }

    fn key(&mut self) -> Key {
        format!("k{}", self.dice.below(40)).into_bytes()
    }

    fn operation(&mut self) -> Operation {
        let key = self.key();
        match self.dice.below(10) {
            0..=3 => {
                let length = if self.dice.one_in(20) { 2_000 } else { self.dice.below(60) };
                let value = Stored::text(&"v".repeat(length)).unwrap();
                let ttl_ms = self.dice.one_in(4).then(|| self.dice.below(300) as u64 + 1);
                Operation::Put { key, value, condition: None, ttl_ms }
            }
            4 => Operation::Incr { key, by: 1 },
            5 | 6 => Operation::Del { key, return_old: false, condition: None },
            7 => Operation::DelPrefix { prefix: format!("k{}", self.dice.below(4)).into(), limit: Some(self.dice.below(5) + 1) },
            8 => Operation::Persist { key },
            _ => {
                // Some change one key several times.
                let then = (0..self.dice.below(6)).map(|_| Operation::Incr { key: self.key(), by: 2 }).collect();
                Operation::Txn(Box::new(Txn { compares: vec![], then, otherwise: vec![] }))
            }
        }
    }

    fn step(&mut self) {
        self.time_ms += self.dice.below(20) as u64;
        for key in self.state.due(self.time_ms, self.dice.0 as usize % 3) {
            self.take_in(vec![Change { space: Space::Table, key, value: None }], Cause::Expiry);
        }
        let stamp = Stamp { revision: self.state.revision() + 1, time_ms: self.time_ms };
        let operation = self.operation();
        let changes = decide(&self.state, &Scope::all(), operation, stamp, &mut Turn::one()).changes;
        if !changes.is_empty() {
            let cause = if self.dice.one_in(9) { Cause::Internal } else { Cause::Request };
            self.take_in(changes, cause);
        }
        // Snapshots come and go beside; what they need is copied for them.
        self.snapshots.tend(self.time_ms);
        if self.dice.one_in(100) {
            let scan = Operation::Scan(Scan { limit: Some(2), snapshot: Some(0), ..Scan::default() });
            let _ = self.snapshots.read(
                &self.state,
                Reader { user: "owner", is_owner: true, scope: &Scope::all() },
                &scan,
                stamp,
                &mut Turn::one(),
            );
        }
        if self.dice.one_in(10) {
            // Bookkeeping stands between groups and is none of them.
            let revision = self.state.revision();
            self.history.begin_group(&self.state, revision, None);
            let change = Change { space: Space::Floor, key: b"ann".to_vec(), value: Some(7_u64.to_le_bytes().to_vec()) };
            self.history.apply(&mut self.state, &mut self.snapshots, change, revision);
        }
    }

    fn take_in(&mut self, changes: Vec<Change>, cause: Cause) {
        let revision = self.state.revision() + 1;
        let name = self.dice.one_in(3).then(|| (SessionId::new(self.time_ms, 1), revision * 3));
        let origin = Origin { cause, stamp_ms: self.time_ms, name };
        let mut told = Told { revision, origin, changes: Vec::new() };
        self.history.begin_group(&self.state, revision, Some(origin));
        for change in changes {
            let old = match &change.value {
                Some(value) => self.table.insert(change.key.clone(), (value.clone(), revision)),
                None => self.table.remove(&change.key),
            };
            told.changes.push((change.key.clone(), old, change.value.clone()));
            self.history.apply(&mut self.state, &mut self.snapshots, change, revision);
        }
        self.told.push(told);
    }

    /// A start: the state at an earlier revision from its records, then the groups behind it.
    fn restart(&mut self) {
        let from = self.state.revision() - self.dice.below(self.told.len().min(300) + 1) as u64;
        let at = self.told.partition_point(|told| told.revision <= from);
        let mut before: BTreeMap<Key, (Vec<u8>, u64)> = BTreeMap::new();
        for told in &self.told[..at] {
            for (key, _, new) in &told.changes {
                match new {
                    Some(new) => drop(before.insert(key.clone(), (new.clone(), told.revision))),
                    None => drop(before.remove(key)),
                }
            }
        }
        let mut loader = Loader::new();
        for (key, (value, revision)) in &before {
            loader.record(&[b"t", key.as_slice()].concat(), value, *revision).unwrap();
        }
        let mut state = loader.finish(from).unwrap();
        let mut history = History::with_bytes_max(self.bytes_max);
        for told in &self.told[at..] {
            history.begin_group(&state, told.revision, Some(told.origin));
            for (key, _, value) in &told.changes {
                let change = Change { space: Space::Table, key: key.clone(), value: value.clone() };
                history.replay(&mut state, change, told.revision);
            }
        }
        let oldest = history.oldest_revision(&state);
        assert!(oldest > from && (oldest == from + 1 || self.bytes_max != usize::MAX), "all that was replayed and fits is there");
        (self.state, self.history, self.snapshots) = (state, history, Snapshots::default());
    }

    fn check(&mut self) {
        let oldest = self.history.oldest_revision(&self.state);
        assert!(oldest < 2 || self.history.groups_after(&self.state, oldest - 2).is_none());
        let kept = self.state.revision() + 1 - oldest;
        let after = oldest - 1 + self.dice.below(kept as usize + 1) as u64;
        let seen: Vec<Told> = self
            .history
            .groups_after(&self.state, after)
            .unwrap()
            .map(|group| {
                let whole = |stored: &[u8], created: Option<u64>, expires: Option<u64>| {
                    let numbers = [created, expires].into_iter().flatten().flat_map(u64::to_le_bytes);
                    let flags = u8::from(created.is_some()) | u8::from(expires.is_some()) << 1;
                    stored.iter().copied().chain(numbers).chain([flags]).collect::<Vec<u8>>()
                };
                let changes = group.changes().map(|change| {
                    let old =
                        change.old.map(|old| (whole(old.record.stored, old.record.created, old.record.expires_ms), old.modified));
                    let new = change.new.map(|new| whole(new.stored, new.created, new.expires_ms));
                    (change.key.to_vec(), old, new)
                });
                Told { revision: group.revision, origin: group.origin, changes: changes.collect() }
            })
            .collect();
        let expected: Vec<&Told> = self.told.iter().filter(|told| told.revision > after).collect();
        assert!(seen.iter().eq(expected), "the groups behind {after}");

        self.check_events(after);
        let key = self.key();
        let versions: Vec<(u64, u64, Option<Vec<u8>>)> = self
            .told
            .iter()
            .rev()
            .filter_map(|told| {
                let (_, _, new) = told.changes.iter().find(|(changed, _, _)| *changed == key)?;
                let stored = new.as_ref().map(|record| kvbroker_core::split_table_record(record).unwrap().stored.to_vec());
                Some((told.revision, told.origin.stamp_ms, stored))
            })
            .collect();
        let here: Vec<_> = versions.iter().filter(|version| version.0 >= oldest).cloned().collect();
        let told = |before| -> Vec<(u64, u64, Option<Vec<u8>>)> {
            let versions = self.history.versions(&self.state, &key, before);
            versions
                .map(|version| {
                    let stored = version.record.map(|record| record.stored.to_vec());
                    (version.revision, version.origin.stamp_ms, stored)
                })
                .collect()
        };
        assert_eq!(told(None), here, "all that is here of {key:?}, back to {oldest}");
        if let Some((before, ..)) = here.get(self.dice.below(here.len().max(1))) {
            assert!(told(Some(*before)).iter().eq(here.iter().filter(|version| version.0 < *before)));
        }
    }
}

#[test]
fn what_is_in_memory_is_what_was_done() {
    let (mut dropped, mut whole) = (0, 0);
    for seed in 1..=12 {
        // Room for all, for some hundred changes, and for nearly none.
        let bytes_max = [usize::MAX, 40_000, 3_000][seed % 3];
        let mut world = World::new(seed as u64, bytes_max);
        for step in 0..4_000 {
            world.step();
            assert!(world.history.bytes() <= bytes_max);
            if step % 13 == 0 {
                world.check();
            }
            if (bytes_max != usize::MAX || seed % 2 == 0) && step % 500 == 499 {
                world.restart();
                world.check();
            }
        }
        let oldest = world.history.oldest_revision(&world.state);
        whole += usize::from(oldest == 1);
        dropped += usize::from(oldest > 2_000);
    }
    assert_eq!((whole, dropped), (2, 10));
}

fn put(key: &str, bytes: usize) -> Change {
    let value = [&[1, 0xc0][..], &vec![0; bytes], &[0]].concat();
    Change { space: Space::Table, key: key.into(), value: Some(value) }
}

fn group(history: &mut History, state: &mut State, changes: Vec<Change>) {
    let revision = state.revision() + 1;
    history.begin_group(state, revision, Some(Origin { cause: Cause::Request, stamp_ms: 1, name: None }));
    changes.into_iter().for_each(|change| history.replay(state, change, revision));
}

#[test]
fn a_group_that_is_too_large_leaves_nothing_and_the_next_is_there_again() {
    let (mut history, mut state) = (History::with_bytes_max(10_000), State::new());
    group(&mut history, &mut state, vec![put("a", 4_000), put("b", 4_000), put("c", 4_000)]);
    assert_eq!(history.oldest_revision(&state), 1);
    group(&mut history, &mut state, vec![put("a", 1), put("b", 1), put("c", 1)]);
    assert_eq!((history.oldest_revision(&state), history.bytes()), (3, 0));
    assert!(history.groups_after(&state, 1).is_none());
    assert_eq!(history.groups_after(&state, 2).unwrap().count(), 0);
    assert_eq!(history.versions(&state, b"a", None).count(), 0);
    group(&mut history, &mut state, vec![put("a", 2)]);
    assert_eq!(history.oldest_revision(&state), 3);
    let versions: Vec<u64> = history.versions(&state, b"a", None).map(|version| version.revision).collect();
    assert_eq!(versions, [3]);
}

#[test]
fn nothing_is_told_where_something_is_missing() {
    let (mut history, mut state) = (History::default(), State::new());
    group(&mut history, &mut state, vec![put("a", 1)]);
    // A key twice in one group, a change of the table in bookkeeping, a change without a group, and revisions left out.
    group(&mut history, &mut state, vec![put("a", 2), put("a", 3)]);
    assert_eq!(history.oldest_revision(&state), 3);
    group(&mut history, &mut state, vec![put("b", 1), put("a", 1)]);
    assert_eq!(history.oldest_revision(&state), 4);
    group(&mut history, &mut state, vec![put("a", 1)]);
    assert_eq!(history.oldest_revision(&state), 4);
    history.begin_group(&state, 4, None);
    history.replay(&mut state, put("b", 1), 4);
    assert_eq!(history.oldest_revision(&state), 5);
    group(&mut history, &mut state, vec![put("a", 1)]);
    state.apply(put("b", 1), 6);
    assert_eq!(history.oldest_revision(&state), 7);
    assert!(history.groups_after(&state, 5).is_none());
    assert_eq!(history.versions(&state, b"a", None).count(), 0);
    group(&mut history, &mut state, vec![put("a", 1)]);
    assert_eq!((history.oldest_revision(&state), history.versions(&state, b"a", None).count()), (7, 1));
    let origin = Some(Origin { cause: Cause::Request, stamp_ms: 1, name: None });
    history.begin_group(&state, 7, origin);
    history.replay(&mut state, put("a", 1), 7);
    assert_eq!(history.oldest_revision(&state), 8, "a revision is told once");
    history.begin_group(&state, 10, origin);
    history.replay(&mut state, put("a", 1), 10);
    assert_eq!(history.oldest_revision(&state), 11);
}

#[test]
fn the_bound_counts_all_that_is_kept() {
    let (mut history, mut state) = (History::default(), State::new());
    let value = 1 << 20;
    for at in 0..limits::HISTORY_MEMORY_BYTES_MAX / value * 3 {
        group(&mut history, &mut state, vec![put(&format!("k{}", at % 3), value)]);
    }
    // Of each revision the value before it is kept, so about as many as fit.
    let kept = state.revision() + 1 - history.oldest_revision(&state);
    assert_eq!(kept as usize, limits::HISTORY_MEMORY_BYTES_MAX / value - 1);
    assert!(history.bytes() <= limits::HISTORY_MEMORY_BYTES_MAX);
    // Removals: the index of what is not there any more empties as well.
    let (mut history, mut state) = (History::with_bytes_max(4 << 20), State::new());
    for round in 0..3 {
        for at in 0..20_000 {
            let key = format!("{round}-{at}");
            group(&mut history, &mut state, vec![put(&key, 1)]);
            group(&mut history, &mut state, vec![Change { space: Space::Table, key: key.into(), value: None }]);
        }
    }
    assert!(history.bytes() <= 4 << 20 && history.oldest_revision(&state) > 60_000);
    assert_eq!(history.versions(&state, b"0-0", None).count(), 0);
    assert_eq!(history.versions(&state, b"2-19999", None).count(), 2);
}
