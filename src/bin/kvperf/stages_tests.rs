#![allow(clippy::unwrap_used)]
use kvbroker_protocol::{ErrorCode, Stored};

use super::*;

const SHAPE: Shape = Shape { key_bytes: 15, value_bytes: 64, batch: 1, page_rows: 100 };

fn workload(shape: Shape, present: u64) -> Workload {
    let mut workload = Workload::new(Keyspace::new(&"kp00000/".parse().unwrap(), 0, 15, 64), shape, 1);
    for ask in workload.ask(Stage::Insert, present as usize) {
        workload.check(ask, &done()).unwrap();
    }
    assert_eq!(workload.present(), present);
    workload
}

fn outcome(answer: Answer) -> Outcome {
    Outcome { revision: Some(1), result: Ok(answer) }
}

fn done() -> Outcome {
    outcome(Answer::Done)
}

fn rows(workload: &Workload, numbers: impl IntoIterator<Item = u64>) -> Vec<Row> {
    let row = |number| Row { key: workload.keys.key(number), value: workload.keys.value(number).unwrap(), modified: number };
    numbers.into_iter().map(row).collect()
}

fn answered(workload: &mut Workload, ask: Ask, rows: Vec<Row>) -> Result<u64, String> {
    workload.check(ask, &outcome(Answer::Rows { rows, cursor: None, snapshot: None })).map_err(|wrong| wrong.to_string())
}

#[test]
fn removing_ends_with_the_last_key_and_reading_needs_one() {
    let mut workload = workload(SHAPE, 5);
    assert_eq!(workload.ask(Stage::Insert, 2), [Ask::Put(5), Ask::Put(6)]);
    let first = workload.ask(Stage::Remove, 3);
    assert_eq!(first, [Ask::Del(0), Ask::Del(1), Ask::Del(2)]);
    for ask in first {
        workload.check(ask, &done()).unwrap();
    }
    assert!(workload.ask(Stage::Lookup, 50).iter().all(|ask| (3..5).contains(&ask.number())));
    for ask in workload.ask(Stage::Remove, 3) {
        workload.check(ask, &done()).unwrap();
    }
    for stage in [Stage::Lookup, Stage::Scan, Stage::Query, Stage::Remove] {
        assert_eq!(workload.ask(stage, 3), []);
    }
}

#[test]
fn pages_begin_where_a_whole_one_follows() {
    let mut workload = workload(SHAPE, 150);
    for stage in [Stage::Scan, Stage::Query] {
        assert!(workload.ask(stage, 1_000).iter().all(|ask| ask.number() <= 50));
    }
    let Operation::Scan(scan) = workload.operation(Ask::Scan(7)).unwrap() else { panic!("a scan") };
    assert_eq!((scan.cursor, scan.limit), (Some(workload.keys.key(6)), Some(100)));
    let Operation::Query { subvalue, scan, .. } = workload.operation(Ask::Query(0)).unwrap() else { panic!("a query") };
    assert_eq!((subvalue, scan.cursor, scan.limit), (Scalar::Int(0), None, Some(10)));
}

#[test]
fn a_wrong_value_or_none_is_never_a_success() {
    let mut workload = workload(SHAPE, 5);
    let value = |value: Stored| outcome(Answer::Value { value, modified: 1, created: 1 });
    let (right, other) = (workload.keys.value(3).unwrap(), workload.keys.value(4).unwrap());
    assert!(workload.check(Ask::Get(3), &value(right)).is_ok());
    let wrong = workload.check(Ask::Get(3), &value(other)).unwrap_err().to_string();
    assert!(wrong.contains("not the value that was stored") && wrong.contains("kp00000/0000003"), "{wrong}");
    let missing = Outcome { revision: Some(1), result: Err(Failure::new(ErrorCode::NotFound, "no such key")) };
    assert!(matches!(workload.check(Ask::Get(3), &missing), Err(Wrong::Refused { .. })));
    assert!(matches!(workload.check(Ask::Del(3), &missing), Err(Wrong::Refused { .. })));
    assert!(workload.check(Ask::Get(3), &done()).is_err());
    assert!(workload.check(Ask::Put(9), &outcome(Answer::Size(1))).is_err());
    assert_eq!(workload.present(), 5, "what failed changed nothing");
}

#[test]
fn rows_must_be_all_and_in_order() {
    let mut workload = workload(SHAPE, 150);
    let page = rows(&workload, 20..120);
    assert_eq!(answered(&mut workload, Ask::Scan(20), page.clone()), Ok(100));
    let group = rows(&workload, (23..123).step_by(10));
    assert_eq!(answered(&mut workload, Ask::Query(23), group.clone()), Ok(10));
    assert!(answered(&mut workload, Ask::Scan(20), page[..99].to_vec()).unwrap_err().contains("too few"));
    assert!(answered(&mut workload, Ask::Query(20), group).unwrap_err().contains("another one's place"));
    let too_many = rows(&workload, 20..121);
    assert!(answered(&mut workload, Ask::Scan(20), too_many).unwrap_err().contains("too many"));
    let mut swapped = page;
    swapped[5].value = workload.keys.value(1).unwrap();
    assert!(answered(&mut workload, Ask::Scan(20), swapped).unwrap_err().contains("value"));
    let last = rows(&workload, 140..150);
    assert_eq!(answered(&mut workload, Ask::Scan(140), last), Ok(10), "the end of the keys ends a page, too");
}

#[test]
fn scans_of_one_request_stay_within_what_a_request_may_do() {
    let shape = |batch, value_bytes| Shape { batch, value_bytes, ..SHAPE };
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
