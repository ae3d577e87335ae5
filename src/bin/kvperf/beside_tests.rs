#![allow(clippy::unwrap_used)]
use kvbroker_protocol::Row;

use super::*;

fn others(count: u64) -> Others {
    Others::new(Keyspace::new(&"kp00000/".parse().unwrap(), 3, 15, 64..=64), count)
}

fn said(answer: Answer) -> [Outcome; 1] {
    [Outcome { revision: Some(1), result: Ok(answer) }]
}

fn page(others: &Others, numbers: std::ops::Range<u64>, cursor: bool) -> Answer {
    let row = |number| Row { key: others.keys.key(number), value: others.keys.value(number, 0).unwrap(), modified: 1 };
    let cursor = cursor.then(|| others.keys.key(numbers.end - 1));
    Answer::Rows { rows: numbers.map(row).collect(), cursor, snapshot: None }
}

fn asked(others: &mut Others) -> Scan {
    match others.ask().unwrap() {
        Operations::One(Operation::Scan(scan) | Operation::Query { scan, .. }) => scan,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_of_a_scan_follow_one_another_and_begin_again() {
    let mut others = others(50);
    assert_eq!(asked(&mut others).cursor, None);
    others.check(&said(page(&others, 0..30, true))).unwrap();
    assert_eq!(asked(&mut others).cursor, Some(others.keys.key(29)));
    assert!(others.check(&said(page(&others, 31..50, false))).is_err(), "a row is missing");
    others.check(&said(page(&others, 30..50, false))).unwrap();
    assert_eq!(asked(&mut others).cursor, None, "from the beginning");
    others.check(&said(page(&others, 0..30, true))).unwrap();
    assert!(others.check(&said(page(&others, 30..40, false))).is_err(), "the end came too early");
}

#[test]
fn what_is_not_there_must_not_be_found() {
    for dear in [Dear::Query, Dear::Regex] {
        let mut others = others(50);
        others.turn_to(dear);
        others.long = LONG_KEYS;
        let none = if dear == Dear::Query {
            Answer::Rows { rows: vec![], cursor: Some(b"c".to_vec()), snapshot: None }
        } else {
            Answer::Keys { keys: vec![], cursor: Some(b"c".to_vec()), snapshot: None }
        };
        others.check(&said(none)).unwrap();
        assert_eq!(asked(&mut others).cursor.as_deref(), Some(&b"c"[..]));
        let found = page(&others, 0..1, false);
        assert!(others.check(&said(found)).is_err());
    }
}

#[test]
fn long_keys_are_put_first_and_stand_aside() {
    let mut others = others(50);
    others.turn_to(Dear::Regex);
    while !others.is_ready() {
        let Operations::Many(puts) = others.ask().unwrap() else { panic!("an array of puts") };
        for put in puts {
            let Operation::Put { key, .. } = put else { panic!("a put") };
            assert!(key.starts_with(b"kp00000/~03") && key.len() == 11 + LONG_DIGITS);
            others.check(&said(Answer::Done)).unwrap();
        }
    }
    let scan = asked(&mut others);
    assert_eq!(scan.prefix, b"kp00000/~03");
    assert!(!scan.pattern.unwrap().matcher().unwrap().is_match(&others.long_key(7)), "the dearest answer is that there is none");
}

#[test]
fn everything_is_removed_and_put_again() {
    let mut others = others(1_500);
    others.turn_to(Dear::Delete);
    for _ in 0..2 {
        // Nothing to put yet: an empty round turns to removing.
        while !others.removes {
            let Operations::Many(puts) = others.ask().unwrap() else { panic!("puts") };
            let outcomes: Vec<Outcome> = puts.iter().flat_map(|_| said(Answer::Done)).collect();
            others.check(&outcomes).unwrap();
        }
        assert!(matches!(others.ask().unwrap(), Operations::One(Operation::DelPrefix { .. })));
        others.check(&said(Answer::Deleted { removed: 1_000, more: true })).unwrap();
        assert!(others.check(&said(Answer::Deleted { removed: 400, more: false })).is_err(), "a hundred are left");
        others.check(&said(Answer::Deleted { removed: 100, more: false })).unwrap();
        assert_eq!(others.present, 0);
    }
}
