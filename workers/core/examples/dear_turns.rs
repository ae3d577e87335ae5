//! How long the dearest turns of the table take.
//!
//!     cargo run --release -p kvbroker-core --example dear_turns
//!
//! Each line is one message, decided and applied with the changes that it makes, but not logged. The time is the shortest of some
//! tries: what the work takes, not what else the machine does. The last columns say how much of the turn's bounds was used, and how
//! long a unit of work took.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use kvbroker_core::{Stamp, State, Turn, decide};
use kvbroker_protocol::{Answer, Operation, Pattern, Scalar, Scan, Scope, Stored, limits};

const TRIES: usize = 5;

fn main() {
    println!("{:<58}{:>10}{:>10}{:>12}{:>10}", "message", "ms", "keys", "work", "ns/unit");
    scans();
    regexes();
    values();
    writes();
}

fn run(state: &mut State, operation: Operation, turn: &mut Turn) -> Answer {
    let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
    let decision = decide(state, &Scope::all(), operation, stamp, turn);
    decision.changes.into_iter().for_each(|change| state.apply(change, stamp.revision));
    decision.outcome.result.unwrap()
}

/// A table with these keys and one value for all.
fn filled(keys: impl Iterator<Item = Vec<u8>>, value: &Stored) -> State {
    let mut state = State::new();
    for key in keys {
        run(&mut state, put(key, value), &mut Turn::one());
    }
    state
}

fn put(key: Vec<u8>, value: &Stored) -> Operation {
    Operation::Put { key, value: value.clone(), condition: None, ttl_ms: None }
}

fn value(bytes: usize) -> Stored {
    Stored::text(&"v".repeat(bytes)).unwrap()
}

/// A dictionary of so many bytes without the field that is asked for.
fn dictionary(fields: usize) -> Stored {
    let fields: Vec<String> = (0..fields).map(|at| format!("\"field{at}\":{at}")).collect();
    Stored::from_json(&format!("{{{}}}", fields.join(",")).into_bytes()).unwrap()
}

/// Digits that look random and are the same every time.
fn digits(length: usize, alphabet: &[u8], seed: usize) -> Vec<u8> {
    let mut number = seed as u64;
    let mut next = || {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        alphabet[(number >> 33) as usize % alphabet.len()]
    };
    (0..length).map(|_| next()).collect()
}

fn show(what: &str, took: Duration, turn: &Turn) {
    let whole = Turn::one();
    let (examined, work) = (whole.examined_left - turn.examined_left, whole.work_left - turn.work_left);
    let unit_ns = if work > 0 { format!("{:.2}", took.as_nanos() as f64 / work as f64) } else { String::new() };
    println!("{what:<58}{:>10.2}{examined:>10}{work:>12}{unit_ns:>10}", took.as_secs_f64() * 1e3);
}

fn measure(what: &str, state: &mut State, operation: &Operation) {
    let mut best: Option<(Duration, Turn)> = None;
    for _ in 0..TRIES {
        let mut turn = Turn::one();
        let operation = operation.clone();
        let begun = Instant::now();
        let answer = run(state, operation, &mut turn);
        let took = begun.elapsed();
        drop(answer);
        if best.as_ref().is_none_or(|(least, _)| took < *least) {
            best = Some((took, turn));
        }
    }
    let (took, turn) = best.unwrap();
    show(what, took, &turn);
}

fn scan(pattern: Option<&str>) -> Scan {
    Scan { pattern: pattern.map(|pattern| Pattern::new(pattern).unwrap()), ..Scan::default() }
}

fn query(scan: Scan) -> Operation {
    Operation::Query { subkey: "none".into(), subvalue: Scalar::Int(1), scan }
}

fn scans() {
    let keys = || (0..20_000).map(|at| format!("user/{at:010}").into_bytes());
    let mut small = filled(keys(), &value(64));
    measure("scan: 10,000 rows of 64 bytes", &mut small, &Operation::Scan(scan(None)));
    measure("scan: 10,000 keys", &mut small, &Operation::Scan(Scan { keys_only: true, ..scan(None) }));
    let mut medium = filled(keys(), &value(400));
    measure("scan: 10,000 rows of 400 bytes (4 MiB)", &mut medium, &Operation::Scan(scan(None)));
    let mut few = filled(keys().take(20_000), &dictionary(6));
    measure("query: 10,000 dictionaries of 6 fields", &mut few, &query(scan(None)));
    let mut many = filled(keys().take(20_000), &dictionary(60));
    measure("query: dictionaries of 60 fields", &mut many, &query(scan(None)));
}

fn regexes() {
    let mut short = filled((0..20_000).map(|at| format!("user/{at:010}").into_bytes()), &value(8));
    for pattern in ["^user/", "^[a-z]+/[0-9]{10}$", ".*foo.*bar.*", r"^user/\d+/\w+$", r"(?i)\w+\d\w+[^/]x"] {
        let keys = Operation::Scan(Scan { keys_only: true, ..scan(Some(pattern)) });
        measure(&format!("scan: {pattern} over keys of 15 bytes"), &mut short, &keys);
    }
    for (length, alphabet, patterns) in [
        (15, &b"01"[..], &[r"[01]*1[01]{9}x", r"[01]*1[01]{12}x"][..]),
        (100, &b"01"[..], &[r"[01]*1[01]{40}x"][..]),
        (505, &b"01"[..], &[r"[01]*1[01]{400}x", r"[01]*1[01]{50}x", r"[01]*1.{25}x"][..]),
        (5_000, &b"01"[..], &[r"[01]*1[01]{400}x"][..]),
        (100, "01é".as_bytes(), &[r"[01]*1\w{3}x", r"(?:\w|\d)*1\d{6}[^0]x"][..]),
        (500, "01éæ中".as_bytes(), &[r"[01]*1\w{3}x", r"\w*1\w\w\w\dx", r"(?i)[^a]*1.{25}x", r"(?s).*1.{100}x"][..]),
        (65_000, &b"01"[..], &[r"[01]*1[01]{400}x"][..]),
    ] {
        let count = 10_000.min(64_000_000 / length);
        let mut state = filled((0..count).map(|at| digits(length, alphabet, at)), &value(1));
        for pattern in patterns {
            match Pattern::new(pattern) {
                Ok(_) => {
                    let keys = Operation::Scan(Scan { keys_only: true, ..scan(Some(pattern)) });
                    measure(&format!("scan: {pattern} over keys of {length} bytes"), &mut state, &keys);
                }
                Err(failure) => println!("scan: {pattern}: {failure}"),
            }
        }
    }
    for pattern in [r"^user/\d+/\w+$", r"(?i)\w{20}x", r"[01]*1[01]{400}x", "(a|b|c){1,500}x", r"(?i)\w{25}\d{10}"] {
        let mut least = Duration::MAX;
        for _ in 0..TRIES {
            let begun = Instant::now();
            let _ = std::hint::black_box(Pattern::new(pattern));
            least = least.min(begun.elapsed());
        }
        println!("{:<58}{:>10.2}", format!("front end: checking {pattern}"), least.as_secs_f64() * 1e3);
    }
}

fn values() {
    for (count, bytes) in [(200, 1 << 20), (20, 6_500_000), (10_000, 1_000)] {
        let fields = dictionary(bytes / 18);
        let mut state = filled((0..count).map(|at| format!("{at:010}").into_bytes()), &fields);
        let size = fields.as_bytes().len();
        measure(&format!("query: dictionaries of {size} bytes"), &mut state, &query(scan(None)));
        measure(&format!("get: {size} bytes"), &mut state, &Operation::Get { key: b"0000000001".to_vec() });
    }
    let list = Stored::from_json(format!("[{}]", vec!["[[1]]"; 100_000].join(",")).as_bytes()).unwrap();
    let mut state = filled((0..500).map(|at| format!("{at:010}").into_bytes()), &list);
    measure("query: lists, which are no dictionaries", &mut state, &query(scan(None)));
}

fn writes() {
    let mut state = filled((0..1_000_000).map(|at| format!("user/{at:010}").into_bytes()), &value(64));
    measure("del_prefix: of a million keys", &mut state, &Operation::DelPrefix { prefix: b"user/".to_vec(), limit: None });
    let mut long = filled((0..20_000).map(|at| digits(1_000, b"abcdef", at)), &value(64));
    measure("del_prefix: keys of 1,000 bytes", &mut long, &Operation::DelPrefix { prefix: Vec::new(), limit: None });
    let small = value(100);
    let begun = Instant::now();
    for at in 0..limits::ARRAY_OPERATIONS_MAX {
        run(&mut state, put(format!("new/{at:010}").into_bytes(), &small), &mut Turn::one());
    }
    println!("{:<58}{:>10.2}", "array: 4,096 puts of 100 bytes", begun.elapsed().as_secs_f64() * 1e3);
}
