#![allow(clippy::unwrap_used)]
use kvbroker_protocol::{ErrorCode, Stored};

use super::*;

const SHAPE: Shape = Shape { key_bytes: 15, value_bytes: 64, value_bytes_max: 64, batch: 1, page_rows: 100 };

fn workload(shape: Shape, present: u64) -> Workload {
    mixed(shape, present, Mix::A)
}

fn mixed(shape: Shape, present: u64, mix: Mix) -> Workload {
    let keys = Keyspace::new(&"kp00000/".parse().unwrap(), 0, 15, 64..=64);
    let mut workload = Workload::new(keys, shape, Distribution::Uniform, mix, 1);
    for ask in asked(&mut workload, Stage::Insert, present as usize) {
        workload.check(ask, &done()).unwrap();
    }
    assert_eq!(workload.present(), present);
    workload
}

fn asked(workload: &mut Workload, stage: Stage, most: usize) -> Vec<Ask> {
    let mut asks = Vec::new();
    workload.ask(stage, most, &mut asks);
    asks
}

fn insert(number: u64) -> Ask {
    Ask::Put { number, version: 0 }
}

fn get(number: u64) -> Ask {
    Ask::Get { number, version: 0 }
}

fn scan(number: u64) -> Ask {
    Ask::Scan { number, rows: 100, end: 150 }
}

fn query(number: u64) -> Ask {
    Ask::Query { number, end: 150 }
}

fn value(value: Stored) -> Outcome {
    outcome(Answer::Value { value, modified: 1, created: 1 })
}

fn missing() -> Outcome {
    Outcome { revision: Some(1), result: Err(Failure::new(ErrorCode::NotFound, "no such key")) }
}

fn outcome(answer: Answer) -> Outcome {
    Outcome { revision: Some(1), result: Ok(answer) }
}

fn done() -> Outcome {
    outcome(Answer::Done)
}

fn rows(workload: &Workload, numbers: impl IntoIterator<Item = u64>) -> Vec<Row> {
    let row = |number| Row { key: workload.keys.key(number), value: workload.keys.value(number, 0).unwrap(), modified: number };
    numbers.into_iter().map(row).collect()
}

fn answered(workload: &mut Workload, ask: Ask, rows: Vec<Row>) -> Result<u64, String> {
    workload.check(ask, &outcome(Answer::Rows { rows, cursor: None, snapshot: None })).map_err(|wrong| wrong.to_string())
}

#[test]
fn removing_ends_with_the_last_key_and_reading_needs_one() {
    let mut workload = workload(SHAPE, 3);
    assert_eq!(asked(&mut workload, Stage::Insert, 2), [insert(3), insert(4)]);
    let first = asked(&mut workload, Stage::Remove, 3);
    assert_eq!(first, [0, 1, 2].map(|number| Ask::Del { number }));
    assert!(asked(&mut workload, Stage::Lookup, 50).iter().all(|ask| (3..5).contains(&ask.number())));
    assert_eq!(asked(&mut workload, Stage::Remove, 3).len(), 2);
    for stage in [Stage::Lookup, Stage::Scan, Stage::Query, Stage::Remove] {
        assert_eq!(asked(&mut workload, stage, 3), []);
    }
}

#[test]
fn pages_begin_where_a_whole_one_follows() {
    let mut workload = workload(SHAPE, 150);
    for stage in [Stage::Scan, Stage::Query] {
        assert!(asked(&mut workload, stage, 1_000).iter().all(|ask| ask.number() <= 50));
    }
    let Operation::Scan(page) = workload.operation(scan(7)).unwrap() else { panic!("a scan") };
    assert_eq!((page.cursor, page.limit), (Some(workload.keys.key(6)), Some(100)));
    let Operation::Query { subvalue, scan, .. } = workload.operation(query(0)).unwrap() else { panic!("a query") };
    assert_eq!((subvalue, scan.cursor, scan.limit), (Scalar::Int(0), None, Some(10)));
}

#[test]
fn a_wrong_value_or_none_is_never_a_success() {
    let mut workload = workload(SHAPE, 5);
    let (right, other) = (workload.keys.value(3, 0).unwrap(), workload.keys.value(4, 0).unwrap());
    assert!(workload.check(get(3), &value(right)).is_ok());
    let wrong = workload.check(get(3), &value(other)).unwrap_err().to_string();
    assert!(wrong.contains("not the value that was stored") && wrong.contains("kp00000/0000003"), "{wrong}");
    assert!(matches!(workload.check(get(3), &missing()), Err(Wrong::Refused { .. })));
    let removed = asked(&mut workload, Stage::Remove, 1)[0];
    assert!(matches!(workload.check(removed, &missing()), Err(Wrong::Refused { .. })));
    assert!(workload.check(get(3), &done()).is_err());
    assert!(workload.check(insert(9), &outcome(Answer::Size(1))).is_err());
}

#[test]
fn rows_must_be_all_and_in_order() {
    let mut workload = workload(SHAPE, 150);
    let page = rows(&workload, 20..120);
    assert_eq!(answered(&mut workload, scan(20), page.clone()), Ok(100));
    let group = rows(&workload, (23..123).step_by(10));
    assert_eq!(answered(&mut workload, query(23), group.clone()), Ok(10));
    assert!(answered(&mut workload, scan(20), page[..99].to_vec()).unwrap_err().contains("too few"));
    assert!(answered(&mut workload, query(20), group).unwrap_err().contains("another one's place"));
    let mut holed = page.clone();
    holed.remove(50);
    assert!(answered(&mut workload, scan(20), holed).unwrap_err().contains("another one's place"));
    assert!(answered(&mut workload, scan(21), page.clone()).unwrap_err().contains("another one's place"));
    let too_many = rows(&workload, 20..121);
    assert!(answered(&mut workload, scan(20), too_many).unwrap_err().contains("too many"));
    let mut swapped = page;
    swapped[5].value = workload.keys.value(1, 0).unwrap();
    assert!(answered(&mut workload, scan(20), swapped).unwrap_err().contains("value"));
    let last = rows(&workload, 140..150);
    assert_eq!(answered(&mut workload, scan(140), last.clone()), Ok(10), "the end of the keys ends a page, too");
    assert!(answered(&mut workload, scan(140), last[..9].to_vec()).unwrap_err().contains("too few"));
    asked(&mut workload, Stage::Insert, 5);
    assert_eq!(answered(&mut workload, scan(140), last), Ok(10), "what was inserted later need not be there");
}

#[test]
fn a_mix_knows_its_updates() {
    let mut workload = mixed(SHAPE, 10, Mix::A);
    let asks = asked(&mut workload, Stage::Mixed, 400);
    let updates: Vec<(u64, u32)> = asks
        .iter()
        .filter_map(|ask| if let Ask::Put { number, version } = *ask { Some((number, version)) } else { None })
        .collect();
    assert!((150..250).contains(&updates.len()) && updates.iter().all(|(number, version)| *number < 10 && *version > 0));
    let (number, version) = updates[updates.len() - 1];
    assert_eq!(workload.memory.newest(number), version, "an update is one more than the one before");
    let (newest, older) = [version, version - 1].map(|version| workload.keys.value(number, version).unwrap()).into();
    assert!(workload.check(Ask::Get { number, version }, &value(newest.clone())).is_ok());
    assert!(workload.check(Ask::Get { number, version }, &value(older.clone())).is_err(), "it is too old");
    assert!(workload.check(Ask::Get { number, version: version - 1 }, &value(older.clone())).is_ok(), "it was asked for before");
    assert!(workload.check(Ask::Get { number, version: version - 1 }, &value(newest)).is_ok(), "it was asked for again later");
    workload.unanswered(Ask::Put { number, version });
    assert!(workload.check(Ask::Get { number, version }, &value(older)).is_ok(), "nobody knows whether it was updated");
}

#[test]
fn a_read_modify_write_puts_what_comes_after_the_read() {
    let mut workload = mixed(SHAPE, 10, Mix::F);
    let asks = asked(&mut workload, Stage::Mixed, 50);
    let modify = *asks.iter().find(|ask| ask.act() == Act::ReadModifyWrite).unwrap();
    assert_eq!(workload.follow_up(modify), Some(Ask::Put { number: modify.number(), version: 1 }));
    assert!(asks.iter().filter(|ask| ask.act() == Act::Read).all(|ask| workload.memory.newest(ask.number()) <= 1));
    assert_eq!(workload.follow_up(get(1)), None);
}

#[test]
fn scans_of_a_mix_have_all_lengths() {
    let mut workload = mixed(SHAPE, 500, Mix::E);
    let asks = asked(&mut workload, Stage::Mixed, 2_000);
    let lengths: std::collections::BTreeSet<usize> =
        asks.iter().filter_map(|ask| if let Ask::Scan { rows, .. } = ask { Some(*rows) } else { None }).collect();
    assert!(lengths.len() > 90 && lengths.first() == Some(&1) && lengths.last() == Some(&100), "{lengths:?}");
    assert!(asks.contains(&insert(500)));
}

#[test]
fn a_key_in_doubt_may_be_missing() {
    let mut workload = workload(SHAPE, 149);
    let new = asked(&mut workload, Stage::Insert, 1)[0];
    workload.unanswered(new);
    assert!(workload.check(get(149), &missing()).is_ok());
    for rows in [rows(&workload, 140..149), rows(&workload, 140..150)] {
        assert!(answered(&mut workload, scan(140), rows).is_ok());
    }
    assert_eq!((workload.memory.acknowledged(), workload.memory.unknown()), (149, 1));
}

#[test]
fn scans_of_one_request_stay_within_what_a_request_may_do() {
    let shape = |batch, value_bytes| Shape { batch, value_bytes, value_bytes_max: value_bytes, ..SHAPE };
    assert_eq!(shape(1, 64).batch_of(Stage::Scan), 1);
    assert_eq!(shape(256, 64).batch_of(Stage::Insert), 256);
    for (batch, value_bytes) in [(256, 64), (4_096, 24), (64, 100_000), (1, 8 << 20)] {
        let shape = shape(batch, value_bytes);
        for (stage, rows) in [(Stage::Scan, shape.page_rows()), (Stage::Query, shape.query_rows())] {
            let batch = shape.batch_of(stage);
            assert!(batch >= 1 && batch * shape.page_rows() <= EXAMINED_KEYS_MAX);
            assert!(batch * rows * (15 + value_bytes) <= PAGES_BYTES_MAX || (batch, rows) == (1, 1));
        }
    }
}
