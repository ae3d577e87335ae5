//! A long random walk over all operations, compared step by step with a plain model.
//!
//! - The model is a `BTreeMap` that knows nothing of records, overlays or pages; where it and the core differ, one of them is wrong.
//! - A twin state gets only the logged changes, as recovery does, and must stay equal.
//! - The walk is decided by a seed, which a failure prints.

#![allow(clippy::unwrap_used)]

mod plain;
mod walk;

use std::collections::BTreeMap;

use kvbroker_core::{Stamp, State, Turn, decide};
use kvbroker_protocol::{Answer, ErrorCode, Key, Operation, Pattern, Scalar, Scan, Stored, field_equals, limits};
use serde_json::json;

use crate::plain::is_equal;
use crate::walk::Walk;

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
    let decision = decide(state, Operation::Put { key, value, condition: None, ttl_ms: None }, stamp, &mut Turn::one());
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
                let Answer::Rows { rows, cursor, .. } = answer else { panic!("{answer:?}") };
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
        let Answer::Rows { rows, cursor, .. } = answer else { panic!("{answer:?}") };
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
    let Ok(Answer::Rows { rows, cursor, .. }) = read(&state, all(), &mut turn) else { panic!("the first scan has a page") };
    assert_eq!((rows.len(), cursor.is_some()), (limits::EXAMINED_KEYS_MAX, true));
    assert_eq!(read(&state, all(), &mut turn), Err(ErrorCode::ReplyFull));
    // What examines no key still works: an empty range, and everything that is no scan.
    let nobody = Operation::Scan(Scan { prefix: b"nobody".to_vec(), ..Scan::default() });
    assert_eq!(read(&state, nobody, &mut turn), Ok(Answer::Rows { rows: vec![], cursor: None, snapshot: None }));
    assert!(read(&state, Operation::Get { key: b"00000000".to_vec() }, &mut turn).is_ok());
}

#[test]
fn a_page_is_bounded_in_bytes_and_one_row_always_fits() {
    let half = limits::PAGE_BYTES_MAX / 2;
    let state = filled(3, 8, half);
    let Ok(Answer::Rows { rows, cursor, .. }) = read(&state, Operation::Scan(Scan::default()), &mut Turn::one()) else {
        panic!()
    };
    assert_eq!((rows.len(), cursor), (1, Some(b"00000000".to_vec())));
    let state = filled(2, 8, limits::VALUE_BYTES_MAX - 8);
    let Ok(Answer::Rows { rows, cursor, .. }) = read(&state, Operation::Scan(Scan::default()), &mut Turn::one()) else {
        panic!()
    };
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
        let Ok(Answer::Rows { rows, cursor, .. }) = read(&state, Operation::Scan(wanted.clone()), &mut turn) else { panic!() };
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
    assert_eq!(
        read(&state, Operation::Scan(rest), &mut Turn::one()),
        Ok(Answer::Rows { rows: vec![], cursor: None, snapshot: None })
    );
}

#[test]
fn a_query_over_large_values_ends_its_page_by_what_it_looked_into() {
    let state = filled(5, 8, 4 << 20);
    let query =
        |cursor| Operation::Query { subkey: "weight".into(), subvalue: Scalar::Int(1), scan: Scan { cursor, ..Scan::default() } };
    let mut turn = Turn { work_left: 3 * (4 << 20) / limits::QUERY_BYTES_PER_UNIT, ..Turn::many() };
    let Ok(Answer::Rows { rows, cursor, .. }) = read(&state, query(None), &mut turn) else { panic!() };
    assert_eq!((rows.len(), cursor.as_deref()), (0, Some(&b"00000002"[..])));
    assert_eq!(read(&state, query(cursor.clone()), &mut turn), Err(ErrorCode::ReplyFull));
    assert_eq!(read(&state, query(cursor), &mut Turn::one()), Ok(Answer::Rows { rows: vec![], cursor: None, snapshot: None }));
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
