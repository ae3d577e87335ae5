//! Snapshots in the worker: opened, kept and let go of by the stamp's time, and forgotten with the process.

use kvbroker_protocol::{Answer, ErrorCode, Operation, Outcome, Scan, StatValue, limits};

use super::bench::{Bench, del, key, put};
use super::code;

fn page(snapshot: u64, cursor: Option<&str>) -> Operation {
    Operation::Scan(Scan { snapshot: Some(snapshot), cursor: cursor.map(key), limit: Some(1), ..Scan::default() })
}

/// The answer to one operation of a worker that runs on.
fn ask(bench: &mut Bench, operation: Operation) -> Outcome {
    let id = bench.one(operation);
    bench.until_answered(id);
    bench.outcomes(id).remove(0)
}

fn rows(outcome: &Outcome) -> Vec<(String, u64)> {
    let Ok(Answer::Rows { rows, .. }) = &outcome.result else { panic!("{outcome:?}") };
    rows.iter().map(|row| (String::from_utf8(row.key.clone()).unwrap(), row.modified)).collect()
}

/// Open snapshots and the bytes that are kept for them.
fn held(bench: &mut Bench) -> (u64, u64) {
    let Ok(Answer::Stats(stats)) = ask(bench, Operation::Stats).result else { panic!("no stats") };
    let number = |name: &str| match stats.iter().find(|(found, _)| found == name) {
        Some((_, StatValue::Number(number))) => *number,
        other => panic!("{other:?}"),
    };
    (number("snapshots"), number("snapshot_bytes"))
}

#[test]
fn a_snapshot_is_kept_while_it_is_read_and_not_beyond_the_process() {
    let mut bench = Bench::new();
    let worker = bench.start();
    for name in ["a", "b", "c"] {
        ask(&mut bench, put(name, "old"));
    }
    assert_eq!(held(&mut bench), (0, 0));
    assert_eq!(rows(&ask(&mut bench, page(0, None))), [("a".to_owned(), 1)]);
    // An expiry is a change like any other.
    ask(&mut bench, Operation::Expire { key: key("c"), ttl_ms: 1 });
    ask(&mut bench, del("b"));
    bench.clock.advance(1_000 * limits::SNAPSHOT_IDLE_MS / 2);
    assert_eq!(ask(&mut bench, Operation::Size).result, Ok(Answer::Size(1)));
    let (open, bytes) = held(&mut bench);
    assert!(open == 1 && bytes > 0);
    assert_eq!(rows(&ask(&mut bench, page(3, Some("a")))), [("b".to_owned(), 2)]);
    let last = ask(&mut bench, page(3, Some("b")));
    assert_eq!((rows(&last), last.revision), (vec![("c".to_owned(), 3)], Some(6)));
    bench.clock.advance(1_000 * (limits::SNAPSHOT_LINGER_MS + 1));
    // The next batch gives it up, and the one after has dropped all of it.
    ask(&mut bench, Operation::Ping);
    assert_eq!(held(&mut bench), (0, 0));
    assert_eq!(code(&ask(&mut bench, page(3, Some("a")))), Some(ErrorCode::SnapshotGone));

    ask(&mut bench, put("b", "new"));
    assert_eq!(rows(&ask(&mut bench, page(0, None))).len(), 1);
    bench.intake.close();
    worker.join().unwrap().unwrap();
    let mut bench = bench.restarted();
    let worker = bench.start();
    assert_eq!(code(&ask(&mut bench, page(7, Some("a")))), Some(ErrorCode::SnapshotGone));
    bench.intake.close();
    worker.join().unwrap().unwrap();
}
