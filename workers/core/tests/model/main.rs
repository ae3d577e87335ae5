//! A long random walk over all operations, compared step by step with a plain model.
//!
//! - The model is a `BTreeMap` that knows nothing of records, overlays or pages; where it and the core differ, one of them is wrong.
//! - A twin state gets only the logged changes, as recovery does, and must stay equal.
//! - The walk is decided by a seed, which a failure prints.
//! - `KVBROKER_MODEL_STEPS=5000000` walks so many steps (in all, over eight seeds) instead of the short default, and
//!   `KVBROKER_MODEL_SEED=N` begins with another seed.

#![allow(clippy::unwrap_used)]

mod plain;
#[path = "../slices/mod.rs"]
mod slices;
mod walk;

use std::collections::BTreeMap;

use kvbroker_core::{Numbered, SessionBounds, Stamp, State, Turn, decide, decide_numbered};
use kvbroker_protocol::{
    Answer, Condition, Deadline, ErrorCode, Key, Operation, Pattern, Scalar, Scan, Scope, SessionId, Stored, field_equals, limits,
};
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

/// A number from the environment.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

#[test]
fn single_operations_do_what_the_model_does() {
    const SEEDS: u64 = 8;
    let (first, steps) = (number("KVBROKER_MODEL_SEED", 1), number("KVBROKER_MODEL_STEPS", 320_000) / SEEDS);
    for seed in first..first + SEEDS {
        with_seed(seed, |seed| {
            let mut walk = Walk::new(seed);
            for step in 0..steps {
                walk.step(&mut Turn::one());
                if step % 10 == 0 {
                    walk.slices.slice(&walk.state, step as usize % 700);
                }
                if step % 2_000 == 0 {
                    walk.check_whole();
                }
            }
            walk.check_whole();
            let went = walk.model.revision > steps / 4 && walk.model.keys.len() > 50 && walk.expired as u64 > steps / 100;
            assert!(went, "the walk went nowhere: {} keys, {} expired", walk.model.keys.len(), walk.expired);
            assert!(walk.slices.long > 10, "{} long runs of slices", walk.slices.long);
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
    let decision =
        decide(state, &Scope::all(), Operation::Put { key, value, condition: None, ttl_ms: None }, stamp, &mut Turn::one());
    decision.changes.into_iter().for_each(|change| state.apply(change, stamp.revision));
}

fn read(state: &State, operation: Operation, turn: &mut Turn) -> Result<Answer, ErrorCode> {
    let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
    let decision = decide(state, &Scope::all(), operation, stamp, turn);
    assert_eq!(decision.changes, []);
    decision.outcome.result.map_err(|failure| failure.code)
}

#[test]
fn pages_under_concurrent_changes_show_every_lasting_key_once() {
    for seed in 201..=230 {
        with_seed(seed, |seed| {
            let mut walk = Walk::new(seed);
            (0..1_200).for_each(|_| walk.step(&mut Turn::one()));
            let mut lasting: BTreeMap<Key, ()> = walk.model.keys.keys().map(|key| (key.clone(), ())).collect();
            let mut seen: BTreeMap<Key, usize> = BTreeMap::new();
            let mut wanted = Scan { limit: Some(5), ..Scan::default() };
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
    let decision = decide(&state, &Scope::all(), del(false), stamp, &mut turn);
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
    assert!(pages >= 2_000 / limits::TURN_WORK_MAX.div_ceil(work), "{pages} pages");
    // The dearest key there can be is still passed, one to a page.
    let state = filled(2, limits::KEY_BYTES_MAX, 1);
    let dearest = Scan { pattern: Some(Pattern::new("[0-9]{400}x").unwrap()), ..Scan::default() };
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

#[test]
fn a_key_past_its_deadline_is_there_until_its_expiry_is_applied() {
    let mut state = State::new();
    let put = Operation::Put { key: b"k".to_vec(), value: Stored::text("v").unwrap(), condition: None, ttl_ms: Some(10) };
    let stamp = Stamp { revision: 1, time_ms: 1_000 };
    decide(&state, &Scope::all(), put, stamp, &mut Turn::one()).changes.into_iter().for_each(|change| state.apply(change, 1));
    assert_eq!((state.next_deadline_ms(), state.due(1_009, 9), state.due(1_010, 9)), (Some(1_010), vec![], vec![b"k".to_vec()]));
    let at = |time_ms, operation| {
        decide(&state, &Scope::all(), operation, Stamp { revision: 2, time_ms }, &mut Turn::one()).outcome.result
    };
    for time_ms in [1_009, 1_010, u64::MAX] {
        assert!(at(time_ms, Operation::Get { key: b"k".to_vec() }).is_ok());
        assert_eq!(at(time_ms, Operation::Size), Ok(Answer::Size(1)));
        let conflict =
            Operation::Put { key: b"k".to_vec(), value: Stored::integer(1), condition: Some(Condition::Absent), ttl_ms: None };
        assert_eq!(at(time_ms, conflict).unwrap_err().code, ErrorCode::Conflict);
        let left = Answer::Ttl(Some(Deadline { left_ms: 1_010_u64.saturating_sub(time_ms), at_ms: 1_010 }));
        assert_eq!(at(time_ms, Operation::Ttl { key: b"k".to_vec() }), Ok(left));
    }
    // A time past the end of time is its end, and never due before it.
    let expire = Operation::Expire { key: b"k".to_vec(), ttl_ms: limits::TTL_MS_MAX };
    let stamp = Stamp { revision: 2, time_ms: u64::MAX - 1 };
    decide(&state, &Scope::all(), expire, stamp, &mut Turn::one()).changes.into_iter().for_each(|change| state.apply(change, 2));
    assert_eq!((state.due(u64::MAX - 1, 9).len(), state.due(u64::MAX, 9).len()), (0, 1));
}

#[test]
fn no_more_is_due_at_once_than_a_batch_removes() {
    let mut state = State::new();
    for at in 0..limits::EXPIRIES_PER_BATCH_MAX as u64 + 1 {
        let key = format!("{at:05}").into_bytes();
        let stamp = Stamp { revision: at + 1, time_ms: 1_000_000 - at };
        let put = Operation::Put { key, value: Stored::integer(1), condition: None, ttl_ms: Some(1) };
        decide(&state, &Scope::all(), put, stamp, &mut Turn::one())
            .changes
            .into_iter()
            .for_each(|change| state.apply(change, stamp.revision));
    }
    let due = state.due(u64::MAX, usize::MAX);
    assert_eq!(due.len(), limits::EXPIRIES_PER_BATCH_MAX);
    assert!(due.is_sorted_by(|one, next| one > next), "what was put last is due first");
}

#[test]
fn del_prefix_is_bounded_in_keys_and_their_bytes_and_gets_on() {
    let longest = limits::KEY_BYTES_MAX;
    let mut state = filled(40, longest, 1);
    let mut calls = 0;
    loop {
        let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
        let wanted = Operation::DelPrefix { prefix: b"0".to_vec(), limit: None };
        let decision = decide(&state, &Scope::all(), wanted, stamp, &mut Turn::one());
        let bytes: usize = decision.changes.iter().map(|change| change.key.len()).sum();
        assert!(bytes <= limits::DEL_PREFIX_BYTES_MAX && bytes > limits::DEL_PREFIX_BYTES_MAX - 2 * longest || calls > 0);
        decision.changes.into_iter().for_each(|change| state.apply(change, stamp.revision));
        calls += 1;
        match decision.outcome.result {
            Ok(Answer::Deleted { more: true, .. }) => {}
            Ok(Answer::Deleted { more: false, .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((state.keys(), calls), (0, 40 * longest / limits::DEL_PREFIX_BYTES_MAX + 1));

    // An array may make the log write so much and no more, in however many parts it asks.
    let state = filled(400, longest, 1);
    let (mut twin, mut turn, mut removed) = (state.clone(), Turn::many(), 0);
    let full = loop {
        let stamp = Stamp { revision: twin.revision() + 1, time_ms: 0 };
        let decision = decide(&twin, &Scope::all(), Operation::DelPrefix { prefix: vec![], limit: Some(10) }, stamp, &mut turn);
        removed += decision.changes.iter().map(|change| change.key.len()).sum::<usize>();
        decision.changes.into_iter().for_each(|change| twin.apply(change, stamp.revision));
        if let Err(failure) = decision.outcome.result {
            break failure.code;
        }
    };
    assert_eq!(full, ErrorCode::ReplyFull);
    assert!((limits::TURN_LOG_BYTES_MAX - longest..=limits::TURN_LOG_BYTES_MAX).contains(&removed), "{removed}");
}

#[test]
fn small_requests_cannot_make_the_log_write_large_values_again_and_again() {
    let mut state = filled(3, 8, limits::VALUE_BYTES_MAX - 8);
    let mut turn = Turn::many();
    let mut written = 0;
    let mut refused = 0;
    for at in 0..30 {
        let key = format!("{:08}", at % 3).into_bytes();
        let operation = if at % 2 == 0 { Operation::Expire { key, ttl_ms: 5 } } else { Operation::Persist { key } };
        let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
        let decision = decide(&state, &Scope::all(), operation, stamp, &mut turn);
        written += decision.changes.iter().map(|change| change.value.as_ref().unwrap().len()).sum::<usize>();
        decision.changes.into_iter().for_each(|change| state.apply(change, stamp.revision));
        refused += usize::from(decision.outcome.result.is_err_and(|failure| failure.code == ErrorCode::ReplyFull));
    }
    assert!(written <= limits::TURN_LOG_BYTES_MAX + 1_000 && refused > 5, "{written} bytes written, {refused} refused");
    // By itself the largest value can get a deadline.
    let largest = Operation::Expire { key: b"00000002".to_vec(), ttl_ms: 5 };
    let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
    assert!(decide(&state, &Scope::all(), largest, stamp, &mut Turn::one()).outcome.result.is_ok());
}

#[test]
fn comparisons_of_large_values_use_up_the_turn_of_their_message() {
    let mut state = State::new();
    let large = Stored::text(&"v".repeat(4 << 20)).unwrap();
    put(&mut state, b"large".to_vec(), large.clone());
    put(&mut state, b"small".to_vec(), Stored::integer(1));
    let compare = |key: &[u8], value: &Stored| {
        let condition = Some(Condition::Value(value.clone()));
        Operation::Put { key: key.to_vec(), value: Stored::integer(2), condition, ttl_ms: None }
    };
    let other = Stored::text(&"w".repeat(4 << 20)).unwrap();
    let mut turn = Turn::many();
    let codes: Vec<ErrorCode> = (0..4).map(|_| read(&state, compare(b"large", &other), &mut turn).unwrap_err()).collect();
    assert_eq!(codes, [ErrorCode::Conflict, ErrorCode::ReplyFull, ErrorCode::ReplyFull, ErrorCode::ReplyFull]);
    // The rest of the array is done; a message of its own always gets on.
    assert!(read(&state, Operation::Get { key: b"small".to_vec() }, &mut turn).is_ok());
    assert_eq!(read(&state, compare(b"large", &other), &mut Turn::one()), Err(ErrorCode::Conflict));
    // A numbered one keeps its number free, and comes again.
    let numbered = Numbered { owner: b"ann", session: SessionId::new(1, 1), seq: 1, ack: 0, hash: 1 };
    let stamp = Stamp { revision: state.revision() + 1, time_ms: 1_000 };
    let decided = |turn: &mut Turn| {
        decide_numbered(&state, &Scope::all(), compare(b"large", &large), &numbered, stamp, turn, &SessionBounds::default())
    };
    let refused = decided(&mut turn);
    assert_eq!(refused.outcome.result.unwrap_err().code, ErrorCode::Busy);
    assert!(refused.changes.is_empty());
    assert!(decided(&mut Turn::one()).outcome.result.is_ok());
}
