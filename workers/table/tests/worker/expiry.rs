//! Deadlines: what is due goes first, in order, so many at a time, on time, and over restarts.

use std::sync::atomic::Ordering;

use kvbroker_core::{Change, Space};
use kvbroker_log::{Cause, Log, LogError};
use kvbroker_protocol::{
    Answer, Deadline, ErrorCode, Header, Operation, Operations, SessionId, StatValue, Stored, VersionKind, limits,
};
use kvbroker_table::Stopped;

use crate::bench::{Bench, WALL_MS, get, is_value, key, put};
use crate::code;

fn put_ttl(name: &str, ttl_ms: u64) -> Operation {
    Operation::Put { key: key(name), value: Stored::text(name).unwrap(), condition: None, ttl_ms: Some(ttl_ms) }
}

/// Keys k00000 and on; of each pair of neighbours the later one is due earlier.
fn put_many(bench: &mut Bench, count: usize) {
    let puts = (0..count).map(|at| put_ttl(&name(at), due_after_ms(at)));
    bench.ask(Header::default(), Operations::Many(puts.collect()));
}

fn name(at: usize) -> String {
    format!("k{at:05}")
}

fn due_after_ms(at: usize) -> u64 {
    (at as u64 ^ 1) + 1
}

/// The names in the order in which they are due.
fn in_order(count: usize) -> Vec<Vec<u8>> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|at| due_after_ms(*at));
    order.into_iter().map(|at| key(&name(at))).collect()
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [b"t", key].concat()
}

/// The broker starts again; what was seen of the life before is put away.
fn next_life(bench: &Bench) -> Bench {
    let next = bench.restarted();
    let mut seen = next.shared.seen();
    (seen.replies, seen.events, seen.appends) = Default::default();
    drop(seen);
    next
}

#[test]
fn what_is_due_goes_before_the_requests_in_order_and_so_many_at_a_time() {
    let most = limits::EXPIRIES_PER_BATCH_MAX;
    let count = most + 10;
    let mut bench = Bench::new();
    put_many(&mut bench, count);
    bench.run_to_end().unwrap();
    let put_through = count as u64;

    bench.clock.advance(3_600_000_000);
    let mut bench = next_life(&bench);
    let order = in_order(count);
    let read = |at: usize| Operation::Get { key: order[at].clone() };
    let reads = [read(0), read(most - 1), read(most), Operation::Size, Operation::Ttl { key: order[most].clone() }];
    let id = bench.ask(Header::default(), Operations::Many([reads.to_vec(), vec![put("new", "1")]].concat()));
    bench.run_to_end().unwrap();

    let outcomes = bench.outcomes(id);
    assert_eq!([0, 1].map(|at| code(&outcomes[at])), [Some(ErrorCode::NotFound); 2]);
    assert!(matches!(outcomes[2].result, Ok(Answer::Value { .. })), "due, not yet removed, and so still there");
    assert_eq!(outcomes[3].result, Ok(Answer::Size(10)));
    let Ok(Answer::Ttl(Some(Deadline { left_ms: 0, at_ms }))) = outcomes[4].result else { panic!("{:?}", outcomes[4]) };
    assert!((WALL_MS..WALL_MS + 3_600_000).contains(&at_ms));
    assert_eq!(outcomes[5].revision, Some(put_through + most as u64 + 1), "each expiry has a revision of its own");

    let logged = bench.logged_after(put_through);
    let expected = order[..most].iter().zip(put_through + 1..).map(|(key, at)| (at, Cause::Expiry, vec![record_key(key)]));
    let last = (put_through + most as u64 + 1, Cause::Request, vec![record_key(b"new")]);
    assert_eq!(logged, expected.chain([last]).collect::<Vec<_>>());
    let seen = bench.shared.seen();
    assert_eq!(seen.appends.len(), 1, "one sync for all of it");
    let told: Vec<_> = seen.events.iter().flat_map(|batch| batch.events.iter().flatten()).collect();
    assert!(told[..most].iter().zip(&order).all(|(event, key)| event.key == *key && event.kind == VersionKind::Expire));
    assert!(matches!(told[most].kind, VersionKind::Put(_)));
}

#[test]
fn without_a_request_the_worker_wakes_up_for_the_next_deadline() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let puts = vec![put_ttl("later", 7_000), put_ttl("soon", 5_000), put("stays", "1")];
    let id = bench.ask(Header::default(), Operations::Many(puts));
    bench.until_answered(id);
    // Just before: nothing has gone.
    bench.clock.advance(4_999_000);
    let size = bench.one(Operation::Size);
    bench.until_answered(size);
    assert_eq!(bench.outcomes(size)[0].result, Ok(Answer::Size(3)));
    bench.clock.advance(1_000);
    bench.shared.until("the first expiry", |seen| seen.appends.len() == 2);
    bench.clock.advance(2_000_000);
    bench.shared.until("the second one", |seen| seen.appends.len() == 3);
    bench.intake.close();
    worker.join().unwrap().unwrap();
    let expired = |revision, name: &str| (revision, Cause::Expiry, vec![record_key(name.as_bytes())]);
    assert_eq!(bench.logged_after(3), [expired(4, "soon"), expired(5, "later")]);
    let stamps: Vec<u64> = bench.shared.seen().appends.iter().map(|append| append.0 - WALL_MS).collect();
    assert_eq!(stamps, [0, 5_000, 7_000], "not before their time by the stamp");
    assert_eq!(bench.counters.expired.load(Ordering::Relaxed), 2);
    assert_eq!(bench.recovered().keys(), 1);
}

#[test]
fn many_that_are_due_at_once_go_in_several_batches_and_none_is_forgotten() {
    let most = limits::EXPIRIES_PER_BATCH_MAX;
    let count = 2 * most + 500;
    let mut bench = Bench::new();
    let worker = bench.start();
    put_many(&mut bench, count);
    bench.shared.until("the puts", |seen| seen.appends.len() == 1);
    bench.clock.advance(3_600_000_000);
    bench.shared.until("all of them", |seen| seen.log.persisted().revision() == 2 * count as u64);
    bench.intake.close();
    worker.join().unwrap().unwrap();
    let ends: Vec<u64> = bench.shared.seen().appends.iter().map(|append| append.1 - count as u64).collect();
    assert_eq!(ends, [0, most, 2 * most, count].map(|end| end as u64));
    let gone: Vec<_> = bench.logged_after(count as u64).into_iter().flat_map(|group| group.2).collect();
    assert_eq!(gone, in_order(count).iter().map(|key| record_key(key)).collect::<Vec<_>>());
    assert_eq!((bench.recovered().keys(), bench.recovered().deadlines()), (0, 0));
}

#[test]
fn deadlines_go_on_over_a_restart_and_what_came_due_meanwhile_goes_at_once() {
    let mut bench = Bench::new();
    bench.ask(Header::default(), Operations::Many(vec![put_ttl("a", 10_000), put_ttl("b", 20_000), put("c", "1")]));
    let persist = Operation::Persist { key: key("b") };
    bench.ask(Header::default(), Operations::Many(vec![Operation::Expire { key: key("c"), ttl_ms: 15_000 }, persist]));
    bench.run_to_end().unwrap();

    // Down for 12 seconds.
    bench.clock.advance(12_000_000);
    let mut bench = next_life(&bench);
    assert_eq!((bench.recovered().keys(), bench.recovered().deadlines()), (3, 2), "time alone removes nothing");
    let worker = bench.start();
    bench.shared.until("what came due while nobody was there", |seen| seen.appends.len() == 1);
    let ttl = bench.one(Operation::Ttl { key: key("c") });
    bench.until_answered(ttl);
    let deadline = Deadline { left_ms: 3_000, at_ms: WALL_MS + 15_000 };
    assert_eq!(bench.outcomes(ttl)[0].result, Ok(Answer::Ttl(Some(deadline))));
    bench.intake.close();
    worker.join().unwrap().unwrap();

    // The wall clock is set back meanwhile: the stamp does not go back, and nothing is due early.
    bench.clock.set_wall((WALL_MS - 1_000_000) * 1_000);
    let mut bench = next_life(&bench);
    let ttl = bench.one(Operation::Ttl { key: key("c") });
    bench.run_to_end().unwrap();
    assert_eq!(bench.outcomes(ttl)[0].result, Ok(Answer::Ttl(Some(deadline))));
    // It is far ahead: what had a deadline is due, what was told to stay stays.
    bench.clock.set_wall((WALL_MS + 1_000_000) * 1_000);
    let mut bench = next_life(&bench);
    let read = bench.one(get("b"));
    bench.run_to_end().unwrap();
    assert!(is_value(&bench.outcomes(read)[0], "b"));
    let gone: Vec<_> = bench.logged_after(5).into_iter().map(|group| (group.1, group.2)).collect();
    assert_eq!(gone, [b"a", b"c"].map(|key| (Cause::Expiry, vec![record_key(key)])));
}

#[test]
fn what_recovery_reads_is_the_state_that_the_worker_had() {
    let mut bench = Bench::new();
    put_many(&mut bench, 300);
    let del_prefix = Operation::DelPrefix { prefix: key("k0001"), limit: None };
    bench.ask(Header::default(), Operations::Many(vec![put("x", "1"), del_prefix]));
    bench.run_to_end().unwrap();
    let mut expected = bench.recovered();
    bench.clock.advance(200_000);
    let mut bench = next_life(&bench);
    bench.one(get("x"));
    bench.run_to_end().unwrap();
    // The same expiries by hand.
    let due = expected.due(WALL_MS + 200, usize::MAX);
    assert_eq!(due.len(), 200 - 10, "ten of them were deleted before");
    for key in due {
        let revision = expected.revision() + 1;
        expected.apply(Change { space: Space::Table, key, value: None }, revision);
    }
    assert!(bench.recovered() == expected);
}

#[test]
fn a_log_that_fails_at_an_expiry_ends_the_worker_and_nothing_is_said() {
    let mut bench = Bench::new();
    bench.one(put_ttl("a", 1_000));
    bench.run_to_end().unwrap();
    bench.clock.advance(1_000_000);
    let mut bench = next_life(&bench);
    bench.shared.seen().log.fail_after(0);
    bench.one(get("a"));
    let stopped = bench.run_to_end().unwrap_err();
    assert!(matches!(stopped, Stopped::Log(LogError::Full { .. })), "{stopped}");
    let seen = bench.shared.seen();
    assert!(seen.replies.is_empty() && seen.events.is_empty());
}

#[test]
fn a_numbered_put_sent_again_does_not_bring_an_expired_key_back() {
    let mut bench = Bench::new();
    let session = SessionId::new(WALL_MS, 1);
    let header = || Header { session: Some(session), seq: Some(1), ..Header::default() };
    let first = bench.ask(header(), Operations::One(put_ttl("lock", 1_000)));
    bench.run_to_end().unwrap();
    let told = bench.outcomes(first);
    bench.clock.advance(1_000_000);
    let mut bench = next_life(&bench);
    let again = bench.ask(header(), Operations::One(put_ttl("lock", 1_000)));
    let read = bench.one(get("lock"));
    bench.run_to_end().unwrap();
    assert_eq!(bench.outcomes(again), told, "the first answer");
    assert_eq!(code(&bench.outcomes(read)[0]), Some(ErrorCode::NotFound));
}

#[test]
fn a_numbered_del_prefix_sent_again_tells_the_same_and_removes_nothing_more() {
    let mut bench = Bench::new();
    let session = SessionId::new(WALL_MS, 1);
    let header = || Header { session: Some(session), seq: Some(1), ..Header::default() };
    let del = || Operations::One(Operation::DelPrefix { prefix: key("tmp/"), limit: Some(2) });
    bench.ask(Header::default(), Operations::Many(["tmp/a", "tmp/b", "tmp/c"].map(|name| put(name, "1")).to_vec()));
    let first = bench.ask(header(), del());
    bench.run_to_end().unwrap();
    let told = bench.outcomes(first);
    assert_eq!(told[0].result, Ok(Answer::Deleted { removed: 2, more: true }));
    let mut bench = next_life(&bench);
    bench.one(put("tmp/a", "again"));
    let again = bench.ask(header(), del());
    let size = bench.one(Operation::Size);
    bench.run_to_end().unwrap();
    assert_eq!(bench.outcomes(again), told);
    assert_eq!(bench.outcomes(size)[0].result, Ok(Answer::Size(2)));
}

#[test]
fn stats_count_deadlines_and_expiries() {
    let mut bench = Bench::new();
    bench.ask(Header::default(), Operations::Many(vec![put_ttl("a", 1), put_ttl("b", 60_000), put("c", "1")]));
    bench.run_to_end().unwrap();
    bench.clock.advance(1_000);
    let mut bench = next_life(&bench);
    let id = bench.one(Operation::Stats);
    bench.run_to_end().unwrap();
    let Ok(Answer::Stats(stats)) = bench.outcomes(id)[0].result.clone() else { panic!("no stats") };
    for (name, number) in [("keys", 2), ("keys_with_deadline", 1), ("expired", 1)] {
        assert!(stats.contains(&(name.into(), StatValue::Number(number))), "{name}: {stats:?}");
    }
}
