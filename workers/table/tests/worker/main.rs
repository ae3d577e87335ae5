//! The worker against a log that watches it: nothing leaves before it is durable, and all that is promised about order, numbers,
//! bounds and ends.
//!
//! Caveat: a panic while deciding can't be provoked from outside, because no operation is known that makes the core panic; that it
//! is caught, answered and counted is not tested here.

#![allow(clippy::unwrap_used)]

mod access;
mod bench;
mod events;
mod expiry;
mod path;
mod pulls;
mod seat;
mod snapshots;
mod speed;
mod throttle;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bench::{Bench, WALL_MS, del, get, is_value, key, put};
use kvbroker_core::{ChangeError, History, Stamp, State, Turn, decide};
use kvbroker_log::{BatchBuilder, Cause, Log, LogError, MemoryLog};
use kvbroker_protocol::{
    Answer, BrokerId, Condition, ErrorCode, Fate, Header, Operation, Operations, Outcome, Outcomes, Publish, Role,
    RoutingOperation, Scalar, Scan, Scope, SessionId, StatValue, Stored, Txn, VersionKind, limits,
};
use kvbroker_table::{EventBatch, Publication, Stopped, replay_into};

fn code(outcome: &Outcome) -> Option<ErrorCode> {
    outcome.result.as_ref().err().map(|failure| failure.code)
}

fn repeat(times: usize, mut ask: impl FnMut() -> u64) {
    for _ in 0..times {
        ask();
    }
}

#[test]
fn nothing_leaves_before_it_is_durable_and_replies_keep_their_order() {
    // The log checks at each append what has left so far.
    let mut bench = Bench::new();
    let mut ids = Vec::new();
    let mut state = State::new();
    for at in 0..3 * limits::BATCH_CALLS_MAX {
        let name = format!("k{}", at % 97);
        let operations = match at % 5 {
            0 | 1 => vec![put(&name, &at.to_string())],
            2 => vec![get(&name)],
            3 => vec![del(&name), put(&name, "again"), Operation::Size],
            _ => vec![Operation::Scan(Scan { limit: Some(3), ..Scan::default() })],
        };
        for operation in &operations {
            let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
            let decision = decide(&state, &Scope::all(), operation.clone(), stamp, &mut Turn::many());
            decision.changes.into_iter().for_each(|change| state.apply(change, stamp.revision));
        }
        ids.push(Some(bench.ask(Header::default(), Operations::Many(operations))));
    }
    bench.run_to_end().unwrap();
    let seen = bench.shared.seen();
    assert_eq!(seen.appends.len(), 3, "calls are appended a batch at a time");
    assert_eq!(seen.replies.iter().map(|out| out.reply.id).collect::<Vec<_>>(), ids);
    for out in &seen.replies {
        assert_eq!(*out.envelope.routing_id, out.reply.id.unwrap().to_be_bytes());
        assert_eq!((out.client, out.request_bytes), (1, 100));
    }
    assert_eq!(seen.events.iter().map(|batch| batch.revision).max(), Some(state.revision()));
    assert!(seen.log.is_closed());
    drop(seen);
    assert!(bench.recovered() == state, "a recovery from the log leads to another state");
}

#[test]
fn while_one_batch_syncs_the_next_collects_and_nothing_is_said() {
    let mut bench = Bench::new();
    bench.shared.seen().hold = true;
    let worker = bench.start();
    let first = bench.one(put("a", "1"));
    bench.shared.until("the worker appends", |seen| seen.is_held);
    let later: Vec<u64> = (0..100).map(|at| bench.one(put("b", &at.to_string()))).collect();
    let read = bench.one(get("a"));
    bench.collect();
    assert!(bench.shared.seen().replies.is_empty() && bench.shared.seen().events.is_empty());
    bench.shared.let_go();
    bench.until_answered(read);
    assert_eq!(
        bench.shared.seen().appends.iter().map(|append| append.1).collect::<Vec<_>>(),
        [1, 101],
        "one sync for all that came"
    );
    assert_eq!(bench.outcomes(first)[0].revision, Some(1));
    assert_eq!(bench.outcomes(later[99])[0].revision, Some(101));
    assert!(is_value(&bench.outcomes(read)[0], "1"));
    assert_eq!(bench.outcomes(read)[0].revision, Some(101));
    bench.intake.close();
    worker.join().unwrap().unwrap();
}

#[test]
fn a_log_that_fails_ends_the_worker_and_nothing_of_its_batch_is_said() {
    let mut bench = Bench::new();
    bench.shared.seen().log.fail_after(1);
    for at in 0..limits::BATCH_CALLS_MAX {
        bench.one(put("a", &at.to_string()));
    }
    // The second batch: a read before the write that fails, the write, and a read that would see it.
    bench.one(get("a"));
    bench.one(put("a", "lost"));
    bench.one(get("a"));
    let stopped = bench.run_to_end().unwrap_err();
    assert!(matches!(stopped, Stopped::Log(LogError::Full { .. })), "{stopped}");
    let seen = bench.shared.seen();
    assert_eq!(seen.replies.len(), limits::BATCH_CALLS_MAX);
    assert_eq!(seen.events.len(), 1);
    assert!(!seen.log.is_closed(), "a log that failed is not marked as closed");
}

#[test]
fn reads_need_no_append() {
    let mut bench = Bench::new();
    let absent = bench.one(get("a"));
    let size = bench.one(Operation::Size);
    let removed = bench.one(del("a"));
    bench.run_to_end().unwrap();
    assert_eq!(code(&bench.outcomes(absent)[0]), Some(ErrorCode::NotFound));
    assert_eq!(bench.outcomes(size), [Outcome { revision: Some(0), result: Ok(Answer::Size(0)) }]);
    assert_eq!(code(&bench.outcomes(removed)[0]), Some(ErrorCode::NotFound));
    let seen = bench.shared.seen();
    assert_eq!((seen.appends.len(), seen.log.stats().batches), (0, 0));
    assert_eq!(seen.events, [], "nobody is told of nothing");
}

#[test]
fn the_operations_of_an_array_see_each_other_and_share_one_turn() {
    let mut bench = Bench::new();
    let array = bench.ask(
        Header::default(),
        Operations::Many(vec![put("a", "1"), get("a"), del("none"), del("a"), get("a"), Operation::Ping]),
    );
    let all = || Operation::Scan(Scan::default());
    let many_puts = (0..limits::ARRAY_OPERATIONS_MAX).map(|at| put(&format!("k{at:05}"), "v"));
    for _ in 0..3 {
        bench.ask(Header::default(), Operations::Many(many_puts.clone().collect()));
    }
    let scans = bench.ask(Header::default(), Operations::Many(vec![all(), all(), all()]));
    let alone = bench.one(all());
    bench.run_to_end().unwrap();

    let outcomes = bench.outcomes(array);
    assert_eq!(outcomes.iter().map(|outcome| outcome.revision).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 2].map(Some));
    assert!(is_value(&outcomes[1], "1"));
    assert_eq!([2, 4].map(|at| code(&outcomes[at])), [Some(ErrorCode::NotFound); 2]);

    let rows = |outcome: &Outcome| match &outcome.result {
        Ok(Answer::Rows { rows, .. }) => rows.len(),
        Ok(other) => panic!("{other:?}"),
        Err(failure) => panic!("{failure}"),
    };
    let outcomes = bench.outcomes(scans);
    assert_eq!((rows(&outcomes[0]), rows(&outcomes[1])), (4_096, 4_096));
    assert_eq!(rows(&outcomes[2]), limits::EXAMINED_KEYS_MAX - 2 * 4_096, "cut short where the turn was used up");
    assert_eq!(rows(&bench.outcomes(alone)[0]), 4_096);
}

#[test]
fn replies_to_mutations_without_a_number_are_not_safe_to_retry_and_reads_do_not_say() {
    let mut bench = Bench::new();
    bench.one(put("a", "1"));
    bench.one(del("none"));
    bench.one(get("a"));
    bench.ask(Header::default(), Operations::Many(vec![get("a"), put("a", "2")]));
    bench.run_to_end().unwrap();
    let seen = bench.shared.seen();
    assert_eq!(
        seen.replies.iter().map(|out| out.reply.retry_safe).collect::<Vec<_>>(),
        [Some(false), Some(false), None, Some(false)]
    );
    assert!(matches!(seen.replies[0].reply.outcomes, Outcomes::One(_)));
    assert!(matches!(seen.replies[3].reply.outcomes, Outcomes::Many(_)));
}

#[test]
fn only_mutations_have_numbers_and_each_its_own() {
    let session = SessionId::new(WALL_MS, 1);
    let mut bench = Bench::new();
    let numbered = |seq| Header { session: Some(session), seq: Some(seq), ..Header::default() };
    // 1 is the put, 2 the del that finds nothing, 3 the last put; the reads have none.
    let array = || Operations::Many(vec![put("a", "1"), get("a"), del("none"), Operation::Size, put("b", "2")]);
    let first = bench.ask(numbered(1), array());
    bench.ask(numbered(4), Operations::One(del("a")));
    bench.ask(Header::default(), Operations::One(put("c", "3")));
    // A session without a number, a number without a session, and numbers past the last one do nothing.
    let bad = [
        bench.ask(Header { session: Some(session), ..Header::default() }, Operations::One(put("d", "4"))),
        bench.ask(Header { seq: Some(5), ..Header::default() }, Operations::One(put("e", "5"))),
        bench.ask(numbered(u64::MAX), Operations::One(put("f", "6"))),
    ];
    let again = bench.ask(numbered(1), array());
    bench.run_to_end().unwrap();
    let number = |at| Some((session, at));
    // The failed del is bookkeeping: it repeats the revision before.
    assert_eq!(bench.groups(), [(1, number(1)), (1, number(2)), (2, number(3)), (3, number(4)), (4, None)]);
    for id in bad {
        assert_eq!(code(&bench.outcomes(id)[0]), Some(ErrorCode::Invalid));
    }
    let (first, again) = (bench.outcomes(first), bench.outcomes(again));
    for mutation in [0, 2, 4] {
        assert_eq!(first[mutation], again[mutation], "the first answer, revision included");
    }
    assert_eq!(code(&again[1]), Some(ErrorCode::NotFound), "reads are done again");
    let seen = bench.shared.seen();
    assert_eq!(seen.replies.iter().filter(|out| out.reply.retry_safe == Some(true)).count(), 4);
}

#[test]
fn replies_are_remembered_over_a_recovery() {
    let session = SessionId::new(WALL_MS, 1);
    let mut bench = Bench::new();
    let numbered = |seq, ack| Header { session: Some(session), seq: Some(seq), ack: Some(ack), ..Header::default() };
    let incr = || Operation::Incr { key: key("n"), by: 5 };
    let first = bench.ask(numbered(1, 0), Operations::Many(vec![incr(), del("none"), incr()]));
    bench.run_to_end().unwrap();
    let first = bench.outcomes(first);
    let mut after = bench.restarted();
    let again = after.ask(numbered(1, 0), Operations::Many(vec![incr(), del("none"), incr()]));
    let other = after.ask(numbered(2, 0), Operations::One(put("a", "1")));
    let next = after.ask(numbered(4, 3), Operations::One(incr()));
    let asked = [1, 4, 5].map(|seq| after.one(Operation::Result { session, seq, settle: false }));
    let end = after.ask(Header { session: Some(session), ack: Some(4), ..Header::default() }, Operations::One(Operation::End));
    let late = after.ask(numbered(5, 4), Operations::One(incr()));
    after.run_to_end().unwrap();
    let wire = |outcomes: &[Outcome]| {
        let mut bytes = Vec::new();
        outcomes.iter().for_each(|outcome| kvbroker_protocol::encode_outcome(outcome, &mut bytes));
        bytes
    };
    assert_eq!(wire(&first), wire(&after.outcomes(again)));
    let Err(failure) = &after.outcomes(other)[0].result else { panic!("the number was used") };
    assert_eq!(failure.code, ErrorCode::IdReused);
    let original = failure.original.as_ref().unwrap().result.as_ref().unwrap_err();
    assert_eq!(original.code, ErrorCode::NotFound);
    assert_eq!(after.outcomes(next)[0].result, Ok(Answer::Integer(15)));
    let fates = asked.map(|id| after.outcomes(id)[0].result.clone().unwrap());
    assert_eq!(fates[0], Answer::Result(Fate::Acknowledged));
    assert!(matches!(&fates[1], Answer::Result(Fate::Decided(outcome)) if outcome.revision == Some(3)));
    assert_eq!(fates[2], Answer::Result(Fate::Undecided));
    assert_eq!(after.outcomes(end)[0].result, Ok(Answer::Done));
    assert_eq!(code(&after.outcomes(late)[0]), Some(ErrorCode::SessionExpired));
}

#[test]
fn a_condition_that_fails_takes_a_number_and_makes_no_revision() {
    let session = SessionId::new(WALL_MS, 1);
    let mut bench = Bench::new();
    let header = Header { session: Some(session), seq: Some(1), ..Header::default() };
    let incr = |by| Operation::Incr { key: key("n"), by };
    let put_if_absent = || {
        let Operation::Put { key, value, .. } = put("a", "1") else { unreachable!("put makes a put") };
        Operation::Put { key, value, condition: Some(Condition::Absent), ttl_ms: None }
    };
    let del = Operation::Del { key: key("a"), return_old: false, condition: Some(Condition::Revision(9)) };
    let reads = [Operation::Mget { keys: vec![key("n"), key("none")] }, Operation::Exists { key: key("a") }];
    let mut operations = vec![incr(5), put_if_absent(), put_if_absent()];
    operations.extend(reads);
    operations.extend([del, incr(-7)]);
    let id = bench.ask(header, Operations::Many(operations));
    bench.run_to_end().unwrap();
    let outcomes = bench.outcomes(id);
    let codes: Vec<_> = outcomes.iter().map(code).collect();
    assert_eq!(codes, [None, None, Some(ErrorCode::Conflict), None, None, Some(ErrorCode::Conflict), None]);
    assert!(matches!(&outcomes[3].result, Ok(Answer::Values(values)) if values[0].is_some() && values[1].is_none()));
    assert_eq!(outcomes[4].result, Ok(Answer::Exists(true)));
    assert_eq!((outcomes[6].revision, &outcomes[6].result), (Some(3), &Ok(Answer::Integer(-2))));
    let number = |at| Some((session, at));
    assert_eq!(bench.groups(), [(1, number(1)), (2, number(2)), (2, number(3)), (2, number(4)), (3, number(5))]);
    let seen = bench.shared.seen();
    assert!(seen.replies.iter().all(|out| out.reply.retry_safe == Some(true)));
    let told: Vec<_> =
        seen.events.iter().flat_map(|batch| batch.events.iter().flatten()).map(|event| event.kind.clone()).collect();
    let values = [Stored::integer(5), Stored::text("1").unwrap(), Stored::integer(-2)];
    assert_eq!(told, values.map(VersionKind::Put), "watchers see the sum");
}

#[test]
fn stamps_follow_the_clock_and_never_go_back() {
    let mut bench = Bench::new();
    let worker = bench.start();
    for jump_ms in [0, 3_600_000, -7_200_000_i64, -i64::try_from(WALL_MS).unwrap(), 0] {
        bench.clock.advance(1_000_000);
        bench.clock.set_wall(WALL_MS.saturating_add_signed(jump_ms) * 1_000);
        let id = bench.one(put("a", "1"));
        bench.until_answered(id);
    }
    bench.intake.close();
    worker.join().unwrap().unwrap();
    let stamps: Vec<u64> = bench.shared.seen().appends.iter().map(|append| append.0 - WALL_MS).collect();
    // A second each, with at most 1 % towards wherever the wall clock has gone.
    assert_eq!(stamps, [990, 2_000, 2_990, 3_980, 4_970]);
}

#[test]
fn one_marker_vouches_for_the_last_write() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let id = bench.one(put("a", "1"));
    bench.until_answered(id);
    assert_eq!(bench.shared.seen().marks, 0);
    bench.shared.until("a marker after a second of idleness", |seen| seen.marks > 0);
    let asked = bench.shared.seen().marker_questions;
    bench.shared.until("idleness goes on", |seen| seen.marker_questions >= asked + 2);
    assert_eq!(bench.shared.seen().marks, 1, "nothing new to vouch for");
    bench.intake.close();
    worker.join().unwrap().unwrap();
}

#[test]
fn a_marker_also_comes_while_others_read() {
    // The time since the last *call* was counted: a client that looked twice a second kept the last write from being vouched for.
    let mut bench = Bench::new();
    let worker = bench.start();
    bench.one(put("a", "1"));
    for _ in 0..500 {
        let id = bench.one(Operation::Ping);
        bench.until_answered(id);
        if bench.shared.seen().marks > 0 {
            break;
        }
        // Never a second of idleness, whatever the machine does beside.
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(bench.shared.seen().marks, 1);
    bench.intake.close();
    worker.join().unwrap().unwrap();
}

#[test]
fn a_worker_in_interval_mode_ticks_the_log() {
    let mut bench = Bench::new();
    // Also an interval of nothing is one.
    bench.sync_interval = Some(Duration::ZERO);
    let worker = bench.start();
    bench.shared.until("ticks while idle", |seen| seen.ticks >= 3);
    bench.intake.close();
    worker.join().unwrap().unwrap();
}

#[test]
fn what_was_taken_is_answered_before_a_clean_end() {
    let mut bench = Bench::new();
    let ids: Vec<u64> = (0..10).map(|at| bench.one(put("a", &at.to_string()))).collect();
    bench.run_to_end().unwrap();
    assert!(ids.iter().all(|id| bench.outcomes(*id)[0].result == Ok(Answer::Done)));
    let seen = bench.shared.seen();
    assert!(seen.log.is_closed());
    assert_eq!(seen.log.persisted().revision(), 10);
}

#[test]
fn hello_tells_who_this_is_and_refuses_another_project() {
    let mut bench = Bench::new();
    let mine = bench.one(Operation::Hello { project: Some("NETID-a5".into()) });
    let any = bench.one(Operation::Hello { project: None });
    let other = bench.one(Operation::Hello { project: Some("NETID-a6".into()) });
    bench.run_to_end().unwrap();
    for id in [mine, any] {
        let Ok(Answer::Hello(hello)) = bench.outcomes(id)[0].result.clone() else { panic!("no hello") };
        assert_eq!((hello.project.as_str(), hello.owner.as_str(), hello.durability.as_str()), ("NETID-a5", "netid", "always"));
        assert_eq!((hello.broker, hello.instance, hello.epoch), (BrokerId([1; 16]), BrokerId([2; 16]), 0xe0));
        assert_eq!((hello.pub_port, hello.shard, hello.prefixes.len()), (4_711, 0, 0));
        assert_eq!((hello.role, hello.user.is_empty()), (Some(Role::Admin), false));
        assert_eq!(hello.session, SessionId::new(WALL_MS, 0xabcd), "born at the broker's stamp");
        assert!(hello.limits.contains(&("value_bytes".into(), limits::VALUE_BYTES_MAX as u64)));
    }
    let refused = &bench.outcomes(other)[0];
    assert_eq!(code(refused), Some(ErrorCode::WrongProject));
    let message = &refused.result.as_ref().unwrap_err().message;
    assert!(message.contains("NETID-a5") && message.contains("NETID-a6"), "{message}");
}

#[test]
fn stats_count_what_happened() {
    let mut bench = Bench::new();
    bench.one(put("a", "1"));
    bench.one(get("a"));
    let id = bench.one(Operation::Stats);
    bench.run_to_end().unwrap();
    let Ok(Answer::Stats(stats)) = bench.outcomes(id)[0].result.clone() else { panic!("no stats") };
    let stat = |name: &str| stats.iter().find(|stat| stat.0 == name).unwrap_or_else(|| panic!("no {name}")).1.clone();
    for (name, number) in
        [("revision", 1), ("keys", 1), ("operations", 3), ("internal_errors", 0), ("intake_calls", 0), ("of_others", 7)]
    {
        assert_eq!(stat(name), StatValue::Number(number), "{name}");
    }
    assert_eq!(stat("project"), StatValue::Text("NETID-a5".into()));
    assert_eq!(stat("epoch"), StatValue::Text("00000000000000e0".into()));
    let mut names: Vec<&String> = stats.iter().map(|stat| &stat.0).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name twice: {names:?}");
    assert_eq!(bench.counters.operations.load(Ordering::Relaxed), 3);
    assert_eq!(bench.counters.batches.load(Ordering::Relaxed), 1);
}

#[test]
fn messages_are_told_with_their_revisions_and_only_when_somebody_listens() {
    let publish = |subject: &str| {
        let value = Stored::integer(7);
        let subject = key(subject);
        let (priority, ttl_ms, content_type, retain, must_route) = (0, None, None, false, false);
        let publish = Publish { subject, value, priority, ttl_ms, content_type, retain, must_route };
        Operation::Routing(Box::new(RoutingOperation::Publish(publish)))
    };
    let run = |has_listeners: bool| {
        let mut bench = Bench::new();
        bench.events_wanted.store(false, Ordering::Relaxed);
        bench.events.interest().set_messages(has_listeners);
        bench.one(put("a", "1"));
        bench.one(Operation::Txn(Box::new(Txn { compares: vec![], then: vec![publish("x"), publish("y")], otherwise: vec![] })));
        bench.one(publish("z"));
        bench.run_to_end().unwrap();
        let batch = bench.shared.seen().events.pop().unwrap();
        assert_eq!(batch.events, None, "nobody watches keys");
        let told = |told: &Publication| (told.revision, String::from_utf8(told.message.subject.clone()).unwrap());
        batch.messages.map(|messages| messages.iter().map(told).collect::<Vec<_>>())
    };
    let told = [(2, "x"), (2, "y"), (3, "z")].map(|(revision, subject)| (revision, subject.to_owned()));
    assert_eq!(run(true), Some(told.to_vec()));
    assert_eq!(run(false), None, "that something was published is told all the same");
}

#[test]
fn events_tell_every_change_in_order_and_only_when_somebody_listens() {
    let mut bench = Bench::new();
    bench.one(put("a", "1"));
    bench.one(get("a"));
    bench.one(del("none"));
    bench.ask(Header::default(), Operations::Many(vec![put("b", "2"), del("a")]));
    bench.run_to_end().unwrap();
    let EventBatch { base, revision, time_ms, events, messages } = bench.shared.seen().events[0].clone();
    let told: Vec<_> = events.iter().flatten().map(|event| (event.revision, event.key.clone(), event.kind.clone())).collect();
    let value = |text| VersionKind::Put(Stored::text(text).unwrap());
    assert_eq!(told, [(1, key("a"), value("1")), (2, key("b"), value("2")), (3, key("a"), VersionKind::Remove)]);
    assert_eq!(messages, Some(vec![]), "nothing was published");
    assert_eq!((base, revision, time_ms), (0, 3, bench.shared.seen().appends[0].0));

    let mut alone = Bench::new();
    alone.events_wanted.store(false, Ordering::Relaxed);
    alone.one(put("a", "1"));
    alone.run_to_end().unwrap();
    let untold = alone.shared.seen().events.pop().unwrap();
    assert_eq!((untold.base, untold.revision, untold.events), (0, 1, None), "how far it went is told all the same");
    assert_eq!(alone.events_dropped.load(Ordering::Relaxed), 0);
}

#[test]
fn a_publisher_that_is_behind_loses_whole_batches_and_they_are_counted() {
    // Room for one batch with an event.
    let mut bench = Bench::with_room(limits::RELEASE_BYTES_MAX, 100);
    bench.shared.seen().leaves_all = true;
    for _ in 0..4 {
        bench.one(put("a", "1"));
        repeat(limits::BATCH_CALLS_MAX, || bench.one(Operation::Ping));
    }
    bench.run_to_end().unwrap();
    let seen = bench.shared.seen();
    let told: Vec<_> = seen.events.iter().map(|batch| (batch.base, batch.revision, batch.events.is_some())).collect();
    assert_eq!(told, [(0, 1, true), (1, 4, false)], "what was lost is said to be");
    assert_eq!(bench.events_dropped.load(Ordering::Relaxed), 3);
    assert_eq!(seen.replies.len(), 4 * limits::BATCH_CALLS_MAX + 4, "replies are never dropped");
}

#[test]
fn many_reads_of_large_values_do_not_gather_in_one_batch() {
    // A batch of 8,192 gets of 8 MiB was answered whole before anything of it left: 64 GiB.
    let mut bench = Bench::with_room(40 << 20, limits::PUBLISH_BYTES_MAX);
    let value = Stored::text(&"v".repeat(4 << 20)).unwrap();
    bench.one(Operation::Put { key: key("large"), value, condition: None, ttl_ms: None });
    repeat(40, || bench.one(get("large")));
    repeat(20, || bench.one(Operation::Mget { keys: vec![key("large"); 3] }));
    repeat(200, || bench.ask(Header::default(), Operations::Many(vec![Operation::Stats; 500])));
    bench.intake.close();
    let worker = bench.start();
    let (mut answered, mut largest_reads, mut largest_mgets, mut largest_stats) = (0, 0, 0, 0);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while answered < 261 {
        assert!(std::time::Instant::now() < deadline);
        let Some(batch) = bench.replies.pop() else {
            std::thread::yield_now();
            continue;
        };
        answered += batch.len();
        let outcomes = || batch.iter().flat_map(|out| out.reply.outcomes.as_slice());
        largest_reads = largest_reads.max(outcomes().filter(|one| matches!(one.result, Ok(Answer::Value { .. }))).count());
        largest_mgets = largest_mgets.max(outcomes().filter(|one| matches!(one.result, Ok(Answer::Values(_)))).count());
        largest_stats = largest_stats.max(outcomes().filter(|one| matches!(one.result, Ok(Answer::Stats(_)))).count());
    }
    worker.join().unwrap().unwrap();
    assert!(largest_reads <= limits::BATCH_BYTES_MAX / (4 << 20) + 1, "{largest_reads} values of 4 MiB at once");
    assert!(largest_mgets <= limits::BATCH_BYTES_MAX / (12 << 20) + 1, "{largest_mgets} times three of them at once");
    assert!(largest_stats <= 200 * 500 / 2, "{largest_stats} answers to stats at once");
}

#[test]
fn whoever_came_first_does_not_wait_for_all_the_scans_of_the_batch() {
    // Thousands of scans of ten thousand keys each fit into one batch, and its first reply left after the last of them.
    let mut bench = Bench::new();
    for part in 0..3 {
        let puts = (0..limits::ARRAY_OPERATIONS_MAX).map(|at| put(&format!("{part}/{at:05}"), "v"));
        bench.ask(Header::default(), Operations::Many(puts.collect()));
    }
    bench.one(put("first", "1"));
    let nobody = Scan { prefix: b"0".to_vec(), ..Scan::default() };
    let looks = || Operation::Query { subkey: "x".into(), subvalue: Scalar::Null, scan: nobody.clone() };
    repeat(9, || bench.one(looks()));
    bench.intake.close();
    let worker = bench.start();
    worker.join().unwrap().unwrap();
    let sizes: Vec<usize> = std::iter::from_fn(|| bench.replies.pop()).map(|batch| batch.len()).collect();
    // A query over 4,096 keys is a dear turn.
    assert_eq!(sizes, [[4 + 1].as_slice(), &[1; 8]].concat());
}

#[test]
fn a_record_of_a_newer_version_is_refused_at_recovery() {
    let mut log = MemoryLog::new();
    let mut batch = BatchBuilder::new();
    batch.group(1, Cause::Request, None);
    batch.put(b"?queue", b"x");
    log.append(&mut batch).unwrap();
    let mut results = Vec::new();
    log.replay(&mut |group| results.push(replay_into(&mut State::new(), &mut History::default(), &group)));
    assert_eq!(results, [Err(ChangeError::UnknownSpace(b'?'))]);
}
