//! A key whose time is over is told with the value that it had, soon: all times here are the broker's own.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvbroker::client::{Watch, WatchEvent, WatchFrom, WatchOptions};
use kvbroker_protocol::{ChangeKind, EventBefore, EventCause, RevisionEvents, Stored};
use kvbroker_tests::watching::connect;
use kvbroker_tests::{Broker, PATIENCE};

/// An expiry is due so long after it was asked for, and told at most so long after that, when the table is idle.
const LATE_MAX_MS: u64 = 1_000;

/// The next revision that is told.
fn next(watch: &mut Watch) -> RevisionEvents {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match watch.next(Some(deadline)).unwrap() {
            Some(WatchEvent::Changes(told)) => return told.to_events(),
            Some(_) => {}
            None => panic!("nothing is told"),
        }
    }
}

#[test]
fn an_expiry_is_told_with_the_old_value_within_a_second() {
    const KEYS: u64 = 12;
    let mut broker = Broker::plain();
    let client = connect(&broker);
    let mut detailed = client.watch_with(WatchOptions::prefix("t/").from(WatchFrom::Now).detail(true)).unwrap();
    let mut plain = client.watch("t/", WatchFrom::Now).unwrap();
    // Not in the order in which they will be due, and far enough apart that nothing else wakes the broker.
    let ttl_ms = |key: u64| 150 + 230 * ((key * 5) % KEYS);
    let mut put_at = BTreeMap::new();
    for key in 0..KEYS {
        let revision =
            client.put_for(format!("t/{key}"), Stored::integer(key.into()), Duration::from_millis(ttl_ms(key))).unwrap();
        put_at.insert(format!("t/{key}").into_bytes(), revision);
    }
    let (mut due, mut expired, mut late_max) = (BTreeMap::new(), 0, 0);
    while expired < KEYS {
        let told = next(&mut detailed);
        let same = next(&mut plain);
        assert_eq!((told.revision, told.time_ms), (same.revision, same.time_ms));
        let cause = told.origin.unwrap().cause;
        for (change, plain) in told.changes.iter().zip(&same.changes) {
            assert_eq!((&change.key, &change.kind, &plain.before), (&plain.key, &plain.kind, &None));
            let number: u64 = std::str::from_utf8(&change.key[2..]).unwrap().parse().unwrap();
            match &change.kind {
                ChangeKind::Put(_) => {
                    assert_eq!((&change.before, cause), (&Some(EventBefore::Absent), EventCause::Request));
                    due.insert(change.key.clone(), told.time_ms + ttl_ms(number));
                }
                ChangeKind::Expire => {
                    let before = EventBefore::Value { value: Stored::integer(number.into()), modified: put_at[&change.key] };
                    assert_eq!((&change.before, cause), (&Some(before), EventCause::Expiry));
                    let due = due[&change.key];
                    assert!(told.time_ms >= due, "{number} expired before it was due: at {}, due at {due}", told.time_ms);
                    let late = told.time_ms - due;
                    assert!(late <= LATE_MAX_MS, "{number} expired {late} ms after it was due");
                    late_max = late_max.max(late);
                    expired += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    println!("{KEYS} keys expired, at most {late_max} ms after they were due");
    assert_eq!(client.size().unwrap(), 0);
    broker.stop();
}

#[test]
fn a_key_that_was_due_while_the_broker_was_away_is_told_with_its_old_value() {
    let mut broker = Broker::plain();
    let client = connect(&broker);
    let mut watch = client.watch_with(WatchOptions::prefix("t/").from(WatchFrom::Now).detail(true)).unwrap();
    let revision = client.put_for("t/1", Stored::integer(7), Duration::from_millis(1)).unwrap();
    // It may expire before the kill or after it; what is told is the same.
    broker.kill9();
    broker.restart();
    let put = next(&mut watch);
    assert_eq!((put.revision, &put.changes[0].before), (revision, &Some(EventBefore::Absent)));
    let expired = next(&mut watch);
    assert_eq!(expired.changes[0].kind, ChangeKind::Expire);
    let before = EventBefore::Value { value: Stored::integer(7), modified: revision };
    assert_eq!((&expired.changes[0].before, expired.origin.unwrap().cause), (&Some(before), EventCause::Expiry));
    broker.stop();
}
