//! A long random walk over all operations, compared step by step with a plain model.
//!
//! - The model is a `BTreeMap` that knows nothing of records, overlays or pages; where it and the core differ, one of them is wrong.
//! - A twin state gets only the logged changes, as recovery does, and must stay equal.
//! - The walk is decided by a seed, which a failure prints.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use kvbroker_core::{Change, Decision, Stamp, State, Turn, decide};
use kvbroker_protocol::{
    Answer, Compare, Condition, ErrorCode, Found, Key, Operation, Pattern, Row, Scalar, Scan, Stored, Txn, field_equals, limits,
};
use serde_json::{Value, json};

/// splitmix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    value: Value,
    stored: Stored,
    modified: u64,
    created: u64,
}

/// What the table should hold, written down as simply as possible.
#[derive(Clone, Default)]
struct Model {
    keys: BTreeMap<Key, Held>,
    revision: u64,
}

impl Model {
    fn put(&mut self, key: &[u8], value: Value, stored: Stored) {
        self.revision += 1;
        let created = self.keys.get(key).map_or(self.revision, |held| held.created);
        self.keys.insert(key.to_vec(), Held { value, stored, modified: self.revision, created });
    }

    fn del(&mut self, key: &[u8]) -> Option<Held> {
        let held = self.keys.remove(key)?;
        self.revision += 1;
        Some(held)
    }

    /// All rows that a scan or query would list if its page had no end.
    fn rows(&self, wanted: &Scan, accepts: impl Fn(&Value) -> bool) -> Vec<Row> {
        let matcher = wanted.pattern.as_ref().map(|pattern| pattern.matcher().unwrap());
        let selected = self.keys.iter().filter(|(key, held)| {
            key.starts_with(&wanted.prefix)
                && wanted.from.as_ref().is_none_or(|from| *key >= from)
                && wanted.to.as_ref().is_none_or(|to| *key < to)
                && wanted.cursor.as_ref().is_none_or(|cursor| if wanted.reverse { *key < cursor } else { *key > cursor })
                && matcher.as_ref().is_none_or(|matcher| matcher.is_match(key))
                && accepts(&held.value)
        });
        let mut rows: Vec<Row> =
            selected.map(|(key, held)| Row { key: key.clone(), value: held.stored.clone(), modified: held.modified }).collect();
        if wanted.reverse {
            rows.reverse();
        }
        rows
    }
}

struct Walk {
    dice: Dice,
    state: State,
    /// Gets the recorded changes only.
    twin: State,
    model: Model,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        Walk { dice: Dice(seed), state: State::new(), twin: State::new(), model: Model::default() }
    }

    fn key(&mut self) -> Key {
        // Few enough to be met again, with prefixes of each other, bytes that are no text, and the empty one.
        let dice = &mut self.dice;
        match dice.below(40) {
            0 => Vec::new(),
            1 => vec![0xff; dice.below(3) + 1],
            2 => vec![0xff, 0x00, u8::try_from(dice.below(3)).unwrap()],
            _ => {
                let place = *dice.pick(&["a", "a/", "a/b/", "b", "user/", "é"]);
                format!("{place}{}", dice.below(40)).into_bytes()
            }
        }
    }

    fn value(&mut self) -> (Value, Stored) {
        let dice = &mut self.dice;
        let value = match dice.below(7) {
            0 => json!(null),
            1 => json!(dice.below(5)),
            2 => json!("text"),
            3 => json!([1, {"weight": 1}]),
            4 => json!({"weight": dice.below(4), "name": "zebra"}),
            5 => json!({"weight": 1.0, "stripes": true}),
            _ => json!({"name": dice.below(3).to_string(), "weight": {"kg": 1}}),
        };
        let text = value.to_string();
        let stored = if dice.one_in(2) {
            Stored::from_json(text.as_bytes()).unwrap()
        } else {
            Stored::from_msgpack(&kvbroker_protocol::json_to_msgpack(text.as_bytes()).unwrap()).unwrap()
        };
        (value, stored)
    }

    fn scan(&mut self) -> Scan {
        let prefixes: [&[u8]; 7] = [b"", b"", b"a", b"a/", b"user/", b"\xff", b"nobody"];
        let prefix = self.dice.pick(&prefixes).to_vec();
        let patterns = ["1", "^a/.*[02468]$", "^user/", "(?-u)\\xff", "é"];
        let pattern = self.dice.one_in(3).then(|| Pattern::new(self.dice.pick::<&str>(&patterns)).unwrap());
        let cursor = self.dice.one_in(3).then(|| self.key());
        let limit = self.dice.one_in(2).then(|| self.dice.below(30) + 1);
        let from = self.dice.one_in(4).then(|| self.key());
        let to = self.dice.one_in(4).then(|| self.key());
        let (reverse, keys_only) = (self.dice.one_in(3), self.dice.one_in(4));
        Scan { prefix, pattern, cursor, limit, from, to, reverse, keys_only }
    }

    /// A condition on this key, and whether it holds.
    fn condition(&mut self, key: &[u8]) -> (Option<Condition>, bool) {
        let held = self.model.keys.get(key).cloned();
        match self.dice.below(8) {
            0 => (Some(Condition::Absent), held.is_none()),
            1 => {
                let modified = held.as_ref().map_or(0, |held| held.modified);
                (Some(Condition::Revision(modified)), true)
            }
            2 => {
                let wrong = held.as_ref().map_or(7, |held| held.modified - 1);
                (Some(Condition::Revision(wrong)), false)
            }
            3 => {
                let (value, stored) = self.value();
                (Some(Condition::Value(stored)), held.is_some_and(|held| is_same(&held.value, &value)))
            }
            _ => (None, true),
        }
    }

    /// Decides and applies, and checks what holds for every operation.
    fn decide(&mut self, operation: &Operation, turn: &mut Turn) -> Decision {
        let before = self.state.revision();
        assert_eq!(before, self.model.revision);
        let stamp = Stamp { revision: before + 1, time_ms: 0 };
        let examined_before = turn.examined_left;
        let decision = decide(&self.state, operation.clone(), stamp, turn);
        let outcome = &decision.outcome;
        if decision.changes.is_empty() {
            assert_eq!(outcome.revision, Some(before), "without changes there is no revision: {operation:?}");
        } else {
            assert!(outcome.result.is_ok() && operation.is_mutation(), "{operation:?} failed and left a trace");
            assert_eq!(outcome.revision, Some(before + 1));
        }
        let is_txn = matches!(operation, Operation::Txn(_));
        assert!(is_txn || !(operation.is_mutation() && outcome.result.is_ok() && decision.changes.is_empty()), "{operation:?}");
        assert!(examined_before - turn.examined_left <= limits::EXAMINED_KEYS_MAX);
        for change in &decision.changes {
            self.state.apply(change.clone(), before + 1);
            self.twin.apply(through_the_log(change), before + 1);
        }
        decision
    }

    /// One operation of any kind, compared with the model.
    fn step(&mut self, turn: &mut Turn) {
        match self.dice.below(15) {
            0..4 => {
                let (key, (value, stored)) = (self.key(), self.value());
                let (condition, holds) = self.condition(&key);
                let operation = Operation::Put { key: key.clone(), value: stored.clone(), condition };
                let result = self.decide(&operation, turn).outcome.result;
                if holds {
                    assert_eq!(result, Ok(Answer::Done), "{operation:?}");
                    self.model.put(&key, value, stored);
                } else {
                    assert_eq!(result.unwrap_err().code, ErrorCode::Conflict, "{operation:?}");
                }
            }
            4..6 => {
                let (key, return_old) = (self.key(), self.dice.one_in(2));
                let (condition, holds) = self.condition(&key);
                // Of a key that is not there nothing can be demanded that a removal would fulfil.
                let condition = condition.filter(|condition| *condition != Condition::Absent);
                let holds = holds || condition.is_none();
                let operation = Operation::Del { key: key.clone(), return_old, condition };
                let result = self.decide(&operation, turn).outcome.result;
                match self.model.keys.get(&key).cloned() {
                    None => assert_eq!(result.unwrap_err().code, ErrorCode::NotFound),
                    Some(_) if !holds => assert_eq!(result.unwrap_err().code, ErrorCode::Conflict, "{operation:?}"),
                    Some(held) => {
                        self.model.del(&key);
                        assert_eq!(result, Ok(if return_old { Answer::Removed(held.stored) } else { Answer::Done }));
                    }
                }
            }
            11 => {
                let (key, by) = (self.key(), *self.dice.pick(&[1, -1, 1_000_000, i64::MIN, i64::MAX]));
                let result = self.decide(&Operation::Incr { key: key.clone(), by }, turn).outcome.result;
                let before = match self.model.keys.get(&key).map(|held| &held.value) {
                    None => Some(0),
                    Some(Value::Number(number)) if !number.is_f64() => number.as_i128(),
                    Some(_) => None,
                };
                match before.map(|before| before + i128::from(by)) {
                    None => assert_eq!(result.unwrap_err().code, ErrorCode::WrongType),
                    Some(after) if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&after) => {
                        assert_eq!(result, Ok(Answer::Integer(after)));
                        self.model.put(&key, serde_json::from_str(&after.to_string()).unwrap(), Stored::integer(after));
                    }
                    Some(_) => assert_eq!(result.unwrap_err().code, ErrorCode::OutOfRange),
                }
            }
            13 => self.transaction(turn),
            12 => {
                let key = self.key();
                let result = self.decide(&Operation::Exists { key: key.clone() }, turn).outcome.result;
                assert_eq!(result, Ok(Answer::Exists(self.model.keys.contains_key(&key))));
                let keys: Vec<Key> = (0..=self.dice.below(5)).map(|_| self.key()).collect();
                let result = self.decide(&Operation::Mget { keys: keys.clone() }, turn).outcome.result;
                let held = |key: &Key| {
                    let held = self.model.keys.get(key)?;
                    Some(Found { value: held.stored.clone(), modified: held.modified, created: held.created })
                };
                assert_eq!(result, Ok(Answer::Values(keys.iter().map(held).collect())));
            }
            6..8 => {
                let key = self.key();
                let result = self.decide(&Operation::Get { key: key.clone() }, turn).outcome.result;
                match self.model.keys.get(&key) {
                    None => assert_eq!(result.unwrap_err().code, ErrorCode::NotFound),
                    Some(Held { stored, modified, created, .. }) => {
                        let value = stored.clone();
                        assert_eq!(result, Ok(Answer::Value { value, modified: *modified, created: *created }));
                    }
                }
            }
            8 => {
                let result = self.decide(&Operation::Size, turn).outcome.result;
                assert_eq!(result, Ok(Answer::Size(self.model.keys.len() as u64)));
            }
            9 => {
                let wanted = self.scan();
                let result = self.decide(&Operation::Scan(wanted.clone()), turn).outcome.result;
                check_page(result.unwrap(), &wanted, self.model.rows(&wanted, |_| true));
            }
            10 => {
                let wanted = self.scan();
                let (subkey, subvalue) = self
                    .dice
                    .pick(&[
                        ("weight", json!(1)),
                        ("weight", json!(1.0)),
                        ("weight", json!("1")),
                        ("name", json!("1")),
                        ("stripes", json!(true)),
                        ("absent", json!(null)),
                    ])
                    .clone();
                let scalar = Scalar::from_json(&subvalue.to_string()).unwrap();
                let operation = Operation::Query { subkey: subkey.into(), subvalue: scalar, scan: wanted.clone() };
                let result = self.decide(&operation, turn).outcome.result;
                check_page(result.unwrap(), &wanted, self.model.rows(&wanted, |value| is_equal(value.get(subkey), &subvalue)));
            }
            _ => {
                assert_eq!(self.decide(&Operation::Ping, turn).outcome.result, Ok(Answer::Done));
            }
        }
    }

    /// Several changes at once: each as the model does it alone, or none.
    fn transaction(&mut self, turn: &mut Turn) {
        let mut compares = Vec::new();
        let mut holds = true;
        for _ in 0..self.dice.below(3) {
            let key = self.key();
            if let (Some(condition), held) = self.condition(&key) {
                holds &= held;
                compares.push(Compare { key, condition });
            }
        }
        let revision = self.model.revision + 1;
        let mut after = self.model.clone();
        let (mut operations, mut expected, mut fails) = (Vec::new(), Vec::new(), false);
        for _ in 0..self.dice.below(5) + 1 {
            let key = self.key();
            let held = after.keys.get(&key).cloned();
            match self.dice.below(4) {
                0 => {
                    let (value, stored) = self.value();
                    operations.push(Operation::Put { key: key.clone(), value: stored.clone(), condition: None });
                    after.put(&key, value, stored);
                    expected.push(Ok(Answer::Done));
                }
                1 => {
                    operations.push(Operation::Del { key: key.clone(), return_old: true, condition: None });
                    fails |= held.is_none();
                    after.del(&key);
                    expected.push(held.map(|held| Answer::Removed(held.stored)).ok_or(()));
                }
                2 => {
                    operations.push(Operation::Get { key: key.clone() });
                    let value = |held: Held| Answer::Value { value: held.stored, modified: held.modified, created: held.created };
                    expected.push(held.map(value).ok_or(()));
                }
                _ => {
                    let wanted = Scan { prefix: b"a".to_vec(), reverse: self.dice.one_in(2), ..Scan::default() };
                    let rows = after.rows(&wanted, |_| true);
                    operations.extend([Operation::Size, Operation::Scan(wanted)]);
                    expected.push(Ok(Answer::Size(after.keys.len() as u64)));
                    expected.push(Ok(Answer::Rows { rows, cursor: None }));
                }
            }
            // All of a transaction has one revision.
            after.revision = self.model.revision;
        }
        let txn = Txn { compares, then: operations, otherwise: vec![Operation::Size] };
        let before = self.model.revision;
        let outcome = self.decide(&Operation::Txn(Box::new(txn)), turn).outcome;
        match outcome.result {
            Err(failure) => assert!(holds && fails && failure.message.contains("`then`["), "{failure:?}"),
            Ok(Answer::Txn { succeeded, results }) => {
                assert_eq!(succeeded, holds);
                if holds {
                    assert!(!fails);
                    let results: Vec<_> = results.into_iter().map(|result| result.result.map_err(|_| ())).collect();
                    assert_eq!(results, expected);
                    let changed = outcome.revision == Some(revision);
                    self.model = after;
                    self.model.revision = if changed { revision } else { before };
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn check_whole(&self) {
        assert!(self.state == self.twin, "the twin that got only the changes differs");
        assert_eq!(self.state.keys(), self.model.keys.len());
        let bytes: usize = self
            .model
            .keys
            .iter()
            // The flags, and the revision of creation where the record's own is another.
            .map(|(key, held)| key.len() + held.stored.as_bytes().len() + 1 + if held.created == held.modified { 0 } else { 8 })
            .sum();
        assert_eq!(self.state.bytes(), bytes as u64);
    }
}

/// JSON-typed: 1 is 1.0 and not "1"; a container equals nothing, and absent is not null.
fn is_equal(found: Option<&Value>, wanted: &Value) -> bool {
    match (found, wanted) {
        (Some(Value::Number(found)), Value::Number(wanted)) => found.as_f64() == wanted.as_f64(),
        (Some(Value::Array(_) | Value::Object(_)) | None, _) => false,
        (Some(found), wanted) => found == wanted,
    }
}

/// As [`is_equal`] all the way down.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| is_same(value, other)))
        }
        _ => one == other,
    }
}

/// The change as a recovery reads it from the log.
fn through_the_log(change: &Change) -> Change {
    let mut record_key = Vec::new();
    change.write_record_key(&mut record_key);
    let read = Change::from_record(&record_key, change.value.as_deref()).unwrap();
    assert_eq!(&read, change);
    read
}

/// A page is the beginning of all rows; it is short only at its limit, and then its cursor leads to the rest.
fn check_page(answer: Answer, wanted: &Scan, all: Vec<Row>) {
    let limit = wanted.limit.unwrap_or(usize::MAX);
    let (rows, cursor) = match answer {
        Answer::Rows { rows, cursor } if !wanted.keys_only => (rows, cursor),
        Answer::Keys { keys, cursor } if wanted.keys_only => {
            assert!(keys.iter().eq(all.iter().map(|row| &row.key).take(keys.len())), "{wanted:?}");
            (all[..keys.len()].to_vec(), cursor)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(rows.len(), all.len().min(limit), "{wanted:?}");
    assert_eq!(rows[..], all[..rows.len()]);
    match cursor {
        None => assert_eq!(rows.len(), all.len()),
        Some(cursor) => {
            assert_eq!(rows.len(), limit, "only the limit ends a page of so few keys");
            let (last, next) = (rows.last(), all.get(rows.len()));
            if wanted.reverse {
                assert!(last.is_some_and(|row| row.key >= cursor) && next.is_none_or(|next| next.key < cursor));
            } else {
                assert!(last.is_some_and(|row| row.key <= cursor) && next.is_none_or(|next| next.key > cursor));
            }
        }
    }
}

fn with_seed(seed: u64, walk: impl Fn(u64) + std::panic::RefUnwindSafe) {
    if let Err(panic) = std::panic::catch_unwind(|| walk(seed)) {
        // The harness shows the assertion; this tells how to see it again.
        let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        panic!("seed {seed}: {said}");
    }
}

#[test]
fn single_operations_do_what_the_model_does() {
    for seed in 1..=8 {
        with_seed(seed, |seed| {
            let mut walk = Walk::new(seed);
            for step in 0..40_000 {
                walk.step(&mut Turn::one());
                if step % 2_000 == 0 {
                    walk.check_whole();
                }
            }
            walk.check_whole();
            assert!(walk.model.revision > 10_000 && walk.model.keys.len() > 100, "the walk went nowhere");
        });
    }
}

#[test]
fn arrays_do_what_their_operations_do() {
    for seed in 101..=104 {
        with_seed(seed, |seed| {
            let mut walk = Walk::new(seed);
            for _ in 0..2_000 {
                // Few enough scans of few enough keys that the turn is not used up.
                let mut turn = Turn::many();
                for _ in 0..walk.dice.below(16) + 1 {
                    walk.step(&mut turn);
                }
            }
            walk.check_whole();
        });
    }
}

/// A state with keys of the given length and values of the given length, `count` of them.
fn filled(count: usize, key_bytes: usize, value_bytes: usize) -> State {
    let mut state = State::new();
    let value = Stored::text(&"v".repeat(value_bytes)).unwrap();
    for at in 0..count {
        let key = format!("{at:0key_bytes$}").into_bytes();
        put(&mut state, key, value.clone());
    }
    state
}

fn put(state: &mut State, key: Key, value: Stored) {
    let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
    let decision = decide(state, Operation::Put { key, value, condition: None }, stamp, &mut Turn::one());
    decision.changes.into_iter().for_each(|change| state.apply(change, stamp.revision));
}

fn read(state: &State, operation: Operation, turn: &mut Turn) -> Result<Answer, ErrorCode> {
    let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
    let decision = decide(state, operation, stamp, turn);
    assert_eq!(decision.changes, []);
    decision.outcome.result.map_err(|failure| failure.code)
}

#[test]
fn pages_under_concurrent_changes_show_every_lasting_key_once() {
    for seed in 201..=230 {
        with_seed(seed, |seed| {
            let mut walk = Walk::new(seed);
            (0..600).for_each(|_| walk.step(&mut Turn::one()));
            let mut lasting: BTreeMap<Key, ()> = walk.model.keys.keys().map(|key| (key.clone(), ())).collect();
            let mut seen: BTreeMap<Key, usize> = BTreeMap::new();
            let mut wanted = Scan { limit: Some(7), ..Scan::default() };
            let mut pages = 0;
            loop {
                let answer = walk.decide(&Operation::Scan(wanted.clone()), &mut Turn::one()).outcome.result.unwrap();
                let Answer::Rows { rows, cursor } = answer else { panic!("{answer:?}") };
                rows.into_iter().for_each(|row| *seen.entry(row.key).or_default() += 1);
                pages += 1;
                let Some(cursor) = cursor else { break };
                wanted.cursor = Some(cursor);
                for _ in 0..20 {
                    walk.step(&mut Turn::one());
                    lasting.retain(|key, ()| walk.model.keys.contains_key(key));
                }
            }
            assert!(pages > 10 && lasting.len() > 20, "too little happened: {pages} pages, {} lasting", lasting.len());
            assert!(seen.values().all(|times| *times == 1), "a key came twice");
            let missed: Vec<_> = lasting.keys().filter(|key| !seen.contains_key(*key)).collect();
            assert!(missed.is_empty(), "{missed:?}");
        });
    }
}

#[test]
fn a_scan_examines_no_more_than_its_turn_and_its_cursor_leads_on() {
    let state = filled(limits::EXAMINED_KEYS_MAX * 2 + 5, 8, 1);
    let never = Pattern::new("x").unwrap();
    let mut wanted = Scan { pattern: Some(never), ..Scan::default() };
    for page in 0..3 {
        let mut turn = Turn::one();
        let answer = read(&state, Operation::Scan(wanted.clone()), &mut turn).unwrap();
        let Answer::Rows { rows, cursor } = answer else { panic!("{answer:?}") };
        assert_eq!(rows, []);
        assert_eq!(cursor.is_some(), page < 2);
        if let Some(cursor) = cursor {
            assert_eq!(turn.examined_left, 0);
            assert_eq!(cursor, format!("{:08}", (page + 1) * limits::EXAMINED_KEYS_MAX - 1).into_bytes());
            wanted.cursor = Some(cursor);
        }
    }
}

#[test]
fn the_scans_of_an_array_share_their_turn() {
    let state = filled(limits::EXAMINED_KEYS_MAX + 1, 8, 1);
    let mut turn = Turn::many();
    let all = || Operation::Scan(Scan::default());
    let Ok(Answer::Rows { rows, cursor }) = read(&state, all(), &mut turn) else { panic!("the first scan has a page") };
    assert_eq!((rows.len(), cursor.is_some()), (limits::EXAMINED_KEYS_MAX, true));
    assert_eq!(read(&state, all(), &mut turn), Err(ErrorCode::ReplyFull));
    // What examines no key still works: an empty range, and everything that is no scan.
    let nobody = Operation::Scan(Scan { prefix: b"nobody".to_vec(), ..Scan::default() });
    assert_eq!(read(&state, nobody, &mut turn), Ok(Answer::Rows { rows: vec![], cursor: None }));
    assert!(read(&state, Operation::Get { key: b"00000000".to_vec() }, &mut turn).is_ok());
}

#[test]
fn a_page_is_bounded_in_bytes_and_one_row_always_fits() {
    let half = limits::PAGE_BYTES_MAX / 2;
    let state = filled(3, 8, half);
    let Ok(Answer::Rows { rows, cursor }) = read(&state, Operation::Scan(Scan::default()), &mut Turn::one()) else { panic!() };
    assert_eq!((rows.len(), cursor), (1, Some(b"00000000".to_vec())));
    let state = filled(2, 8, limits::VALUE_BYTES_MAX - 8);
    let Ok(Answer::Rows { rows, cursor }) = read(&state, Operation::Scan(Scan::default()), &mut Turn::one()) else { panic!() };
    assert_eq!((rows.len(), cursor), (1, Some(b"00000000".to_vec())));
}

#[test]
fn the_reply_to_an_array_is_bounded_and_a_full_one_changes_nothing() {
    let mut state = filled(3, 8, limits::VALUE_BYTES_MAX - 8);
    let mut turn = Turn::many();
    let get = |at: usize| Operation::Get { key: format!("{at:08}").into_bytes() };
    assert!(read(&state, get(0), &mut turn).is_ok());
    assert!(read(&state, get(1), &mut turn).is_ok());
    assert_eq!(read(&state, get(2), &mut turn), Err(ErrorCode::ReplyFull));
    // A removal that could not tell what it removed does not remove; one that need not tell does.
    let before = state.clone();
    let del = |return_old| Operation::Del { key: b"00000002".to_vec(), return_old, condition: None };
    assert_eq!(read(&state, del(true), &mut turn), Err(ErrorCode::ReplyFull));
    assert!(state == before);
    let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
    let decision = decide(&state, del(false), stamp, &mut turn);
    assert_eq!(decision.outcome.result, Ok(Answer::Done));
    decision.changes.into_iter().for_each(|change| state.apply(change, stamp.revision));
    assert_eq!(state.keys(), 2);
    // Small things fit into what is left.
    put(&mut state, b"small".to_vec(), Stored::text("s").unwrap());
    assert!(read(&state, Operation::Get { key: b"small".to_vec() }, &mut turn).is_ok());
}

#[test]
fn a_dear_regex_over_long_keys_does_not_hold_the_worker() {
    // Ten thousand keys of 505 bytes took 5 seconds: keys alone did not bound the work.
    let state = filled(2_000, 500, 1);
    let dear = Pattern::new("[0-9]*1[0-9]{400}x").unwrap();
    let work = dear.matcher().unwrap().work(&[0; 500]);
    let mut wanted = Scan { pattern: Some(dear), ..Scan::default() };
    let mut pages = 0;
    loop {
        let mut turn = Turn::one();
        let Ok(Answer::Rows { rows, cursor }) = read(&state, Operation::Scan(wanted.clone()), &mut turn) else { panic!() };
        assert_eq!(rows, []);
        assert!(limits::EXAMINED_KEYS_MAX - turn.examined_left <= limits::TURN_WORK_MAX / work + 1);
        pages += 1;
        wanted.cursor = cursor;
        if wanted.cursor.is_none() {
            break;
        }
    }
    assert!(pages >= 2_000 * work / limits::TURN_WORK_MAX, "{pages} pages");
    // The dearest key there can be is still passed, one to a page.
    let state = filled(2, limits::KEY_BYTES_MAX, 1);
    let dearest = Scan { pattern: Some(Pattern::new(r"\w{4}x").unwrap()), ..Scan::default() };
    let Ok(Answer::Rows { cursor, .. }) = read(&state, Operation::Scan(dearest.clone()), &mut Turn::one()) else { panic!() };
    let rest = Scan { cursor, ..dearest };
    assert_eq!(rest.cursor.as_ref().map(Vec::len), Some(limits::KEY_BYTES_MAX));
    assert_eq!(read(&state, Operation::Scan(rest), &mut Turn::one()), Ok(Answer::Rows { rows: vec![], cursor: None }));
}

#[test]
fn a_query_over_large_values_ends_its_page_by_what_it_looked_into() {
    let state = filled(5, 8, 4 << 20);
    let query =
        |cursor| Operation::Query { subkey: "weight".into(), subvalue: Scalar::Int(1), scan: Scan { cursor, ..Scan::default() } };
    let mut turn = Turn { work_left: 3 * (4 << 20) / limits::QUERY_BYTES_PER_UNIT, ..Turn::many() };
    let Ok(Answer::Rows { rows, cursor }) = read(&state, query(None), &mut turn) else { panic!() };
    assert_eq!((rows.len(), cursor.as_deref()), (0, Some(&b"00000002"[..])));
    assert_eq!(read(&state, query(cursor.clone()), &mut turn), Err(ErrorCode::ReplyFull));
    assert_eq!(read(&state, query(cursor), &mut Turn::one()), Ok(Answer::Rows { rows: vec![], cursor: None }));
}

#[test]
fn what_the_model_calls_equal_is_what_a_query_calls_equal() {
    for (value, wanted) in
        [(json!({"a": 1}), json!(1)), (json!({"a": 1}), json!(1.0)), (json!({"a": "1"}), json!(1)), (json!({}), json!(null))]
    {
        let stored = Stored::from_json(value.to_string().as_bytes()).unwrap();
        let scalar = Scalar::from_json(&wanted.to_string()).unwrap();
        assert_eq!(field_equals(stored.as_bytes(), "a", &scalar), is_equal(value.get("a"), &wanted));
    }
}
