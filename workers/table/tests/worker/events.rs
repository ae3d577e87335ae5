//! `events`: what has changed is told at once, what has not is waited for; every wait has an end, and nobody hears what it may not.

use std::thread::JoinHandle;
use std::time::Instant;

use kvbroker_protocol::{Access, ChangeKind, EventBefore, EventCause, EventOrigin, Events, Predicate, RevisionEvents, Role, Txn};

use super::*;

fn events(prefix: &str, after: Option<u64>, wait_ms: u64) -> Operation {
    Operation::Events(Events { prefix: key(prefix), after, wait_ms, ..Events::default() })
}

/// The revisions and keys that were told, how far they go, and whether there are more.
fn told(outcome: &Outcome) -> (Vec<(u64, Vec<String>)>, u64, bool) {
    let Ok(Answer::Events { events, through, more, .. }) = &outcome.result else { panic!("{outcome:?}") };
    let keys = |revision: &RevisionEvents| {
        let keys = revision.changes.iter().map(|change| String::from_utf8(change.key.clone()).unwrap());
        (revision.revision, keys.collect())
    };
    (events.iter().map(keys).collect(), *through, *more)
}

fn revision(at: u64, keys: &[&str]) -> (u64, Vec<String>) {
    (at, keys.iter().map(|key| (*key).to_owned()).collect())
}

/// Waits until so many calls wait for changes.
fn until_waiting(bench: &mut Bench, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let user = std::mem::replace(&mut bench.user, "owner");
        let stats = bench.one(Operation::Stats);
        bench.user = user;
        bench.until_answered(stats);
        let Ok(Answer::Stats(stats)) = &bench.outcomes(stats)[0].result else { panic!() };
        if stats.contains(&("events_waiting".into(), StatValue::Number(count))) {
            return;
        }
        assert!(Instant::now() < deadline, "never {count} of them");
        std::thread::yield_now();
    }
}

fn end(bench: &Bench, worker: JoinHandle<Result<(), Stopped>>) {
    bench.intake.close();
    worker.join().unwrap().unwrap();
    bench.collect();
    assert_eq!(bench.intake.len(), 0, "what came back to the agenda was counted in and out");
}

#[test]
fn what_has_changed_is_told_at_once_and_by_whole_revisions() {
    let mut bench = Bench::new();
    bench.one(put("a/1", "1"));
    bench.ask(Header::default(), Operations::Many(vec![put("b", "1"), del("a/1")]));
    let txn = Txn { compares: vec![], then: vec![put("a/2", "1"), put("a/1", "1"), put("b", "2")], otherwise: vec![] };
    bench.one(Operation::Txn(Box::new(txn)));
    let all = bench.one(events("a/", Some(0), 60_000));
    let rest = bench.one(events("a/", Some(1), 0));
    let first = bench.one(Operation::Events(Events {
        prefix: key("a/"),
        after: Some(0),
        limit: Some(1),
        wait_ms: 60_000,
        ..Events::default()
    }));
    let nothing = bench.one(events("c", Some(2), 0));
    let from_now = bench.one(events("a/", None, 0));
    let ahead = bench.one(events("a/", Some(5), 60_000));
    bench.run_to_end().unwrap();
    let one = |id| told(&bench.outcomes(id)[0]);
    let last = revision(4, &["a/1", "a/2"]);
    assert_eq!(one(all), (vec![revision(1, &["a/1"]), revision(3, &["a/1"]), last.clone()], 4, false));
    assert_eq!(one(rest), (vec![revision(3, &["a/1"]), last], 4, false));
    assert_eq!(one(first), (vec![revision(1, &["a/1"])], 1, true));
    assert_eq!(one(nothing), (vec![], 4, false), "also where nothing is told it says how far");
    assert_eq!(one(from_now), (vec![], 4, false));
    assert_eq!(code(&bench.outcomes(ahead)[0]), Some(ErrorCode::Invalid));
    assert_eq!(bench.outcomes(all)[0].revision, Some(4));
}

#[test]
fn a_wait_ends_with_the_first_change_that_it_is_for_once_that_is_durable() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let waits = bench.one(events("a/", None, 60_000));
    until_waiting(&mut bench, 1);
    // Others' changes are none.
    let other = bench.one(put("b", "1"));
    bench.until_answered(other);
    until_waiting(&mut bench, 1);
    bench.shared.seen().hold = true;
    let change = bench.one(put("a/1", "1"));
    bench.shared.until("the worker appends", |seen| seen.is_held);
    bench.collect();
    assert!(bench.shared.seen().replies.iter().all(|out| out.reply.id != Some(waits)));
    bench.shared.let_go();
    bench.until_answered(waits);
    assert_eq!(told(&bench.outcomes(waits)[0]), (vec![revision(2, &["a/1"])], 2, false));
    bench.until_answered(change);
    until_waiting(&mut bench, 0);
    end(&bench, worker);
}

#[test]
fn expiries_end_waits_as_well() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let short = bench.one(Operation::Put { key: key("a"), value: Stored::integer(1), condition: None, ttl_ms: Some(50) });
    bench.until_answered(short);
    let waits = bench.one(events("", Some(1), 60_000));
    until_waiting(&mut bench, 1);
    bench.clock.advance(50_000);
    bench.until_answered(waits);
    let Ok(Answer::Events { events, .. }) = &bench.outcomes(waits)[0].result else { panic!() };
    assert_eq!((events[0].revision, &events[0].changes[0].kind), (2, &ChangeKind::Expire));
    end(&bench, worker);
}

#[test]
fn a_wait_without_a_change_ends_with_how_far_there_was_none() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let waits = bench.one(events("a/", None, 60_000));
    until_waiting(&mut bench, 1);
    let other = bench.one(put("b", "1"));
    bench.until_answered(other);
    bench.clock.advance(59_999_000);
    until_waiting(&mut bench, 1);
    bench.clock.advance(1_000);
    bench.until_answered(waits);
    assert_eq!(told(&bench.outcomes(waits)[0]), (vec![], 1, false));
    end(&bench, worker);
}

#[test]
fn who_waits_when_the_broker_stops_is_told() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let waits = bench.one(events("a/", None, 60_000));
    until_waiting(&mut bench, 1);
    end(&bench, worker);
    assert_eq!(code(&bench.outcomes(waits)[0]), Some(ErrorCode::ShuttingDown));
}

#[test]
fn a_user_hears_of_its_own_keys_and_of_nothing_when_it_is_nobody_any_more() {
    const ANN: &str = "kvpub1ann";
    let list = |access: Option<Access>| access.map(|access| (ANN.into(), access)).into_iter().collect();
    let reader = |prefixes: &[&str]| Access::new(Role::Read, prefixes.iter().map(|prefix| key(prefix)).collect()).unwrap();
    let mut bench = Bench::new();
    bench.access.replace(list(Some(reader(&["ann/"]))));
    let worker = bench.start();
    for name in ["ann/1", "bob/1"] {
        let put = bench.one(put(name, "1"));
        bench.until_answered(put);
    }
    bench.user = ANN;
    let all = bench.one(events("", Some(0), 0));
    let others = bench.one(events("bob/", Some(0), 0));
    let waits = bench.one(events("", Some(2), 60_000));
    until_waiting(&mut bench, 1);
    bench.user = "owner";
    let hidden = bench.one(put("bob/2", "1"));
    bench.until_answered(hidden);
    until_waiting(&mut bench, 1);
    assert_eq!(told(&bench.outcomes(all)[0]), (vec![revision(1, &["ann/1"])], 2, false));
    assert_eq!(told(&bench.outcomes(others)[0]), (vec![], 2, false));
    // More keys: also what was changed since it asked.
    bench.access.replace(list(Some(reader(&[]))));
    bench.intake.nudge();
    bench.until_answered(waits);
    assert_eq!(told(&bench.outcomes(waits)[0]), (vec![revision(3, &["bob/2"])], 3, false));
    bench.user = ANN;
    let waits = bench.one(events("", Some(3), 60_000));
    until_waiting(&mut bench, 1);
    bench.access.replace(list(None));
    bench.intake.nudge();
    bench.until_answered(waits);
    assert_eq!(code(&bench.outcomes(waits)[0]), Some(ErrorCode::Refused));
    end(&bench, worker);
}

#[test]
fn asking_again_under_the_same_id_is_one_wait_and_one_answer() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let waits = bench.one(events("a", None, 60_000));
    until_waiting(&mut bench, 1);
    let next_id = std::mem::replace(&mut bench.next_id, waits - 1);
    assert_eq!(bench.one(events("b", None, 60_000)), waits);
    bench.next_id = next_id;
    // One reply stands for the call that was sent first.
    bench.until_answered(waits);
    until_waiting(&mut bench, 1);
    let change = bench.one(put("b", "1"));
    bench.until_answered(change);
    until_waiting(&mut bench, 0);
    end(&bench, worker);
    let seen = bench.shared.seen();
    let replies: Vec<_> = seen.replies.iter().filter(|out| out.reply.id == Some(waits)).collect();
    // Each gives back what its request counted for, and only one is sent.
    assert_eq!(replies.iter().map(|out| (out.is_superseded, out.request_bytes)).collect::<Vec<_>>(), [(true, 100), (false, 100)]);
    assert_eq!(told(&replies[1].reply.outcomes.as_slice()[0]).0, [revision(1, &["b"])]);
}

#[test]
fn what_neither_memory_nor_the_log_has_is_said_to_be_gone() {
    let mut bench = Bench { history_bytes_max: 10_000, ..Bench::new() };
    // Less than memory, which goes further back then; and more.
    for (trimmed_through, is_memory) in [(200, true), (20, false)] {
        bench.shared.seen().trimmed_through = trimmed_through;
        let oldest = asked_for_all(&mut bench);
        assert!(oldest > 1 && (oldest == trimmed_through + 1) != is_memory && oldest < 200, "{oldest}");
        bench = Bench { history_bytes_max: 10_000, ..Bench::new() };
    }
}

/// The oldest revision that is told where not all are known.
fn asked_for_all(bench: &mut Bench) -> u64 {
    for at in 0..200 {
        bench.one(put(&format!("k{at}"), &"v".repeat(at)));
    }
    bench.one(events("", Some(0), 60_000));
    let gone = bench.next_id;
    let answer = {
        bench.run_to_end().unwrap();
        bench.outcomes(gone)[0].clone()
    };
    let failure = answer.result.unwrap_err();
    assert_eq!(failure.code, ErrorCode::Compacted);
    failure.oldest.unwrap()
}

fn followers(bench: &mut Bench, user: &'static str) -> Vec<String> {
    let before = std::mem::replace(&mut bench.user, user);
    let stats = bench.one(Operation::Stats);
    bench.user = before;
    bench.until_answered(stats);
    let Ok(Answer::Stats(stats)) = &bench.outcomes(stats)[0].result else { panic!() };
    let Some((_, StatValue::Text(text))) = stats.iter().find(|(name, _)| name == "followers") else { panic!("{stats:?}") };
    text.lines().map(str::to_owned).collect()
}

#[test]
fn stats_tell_who_follows_and_how_far_behind_it_is() {
    let mut bench = Bench::new();
    bench.access.replace([("ann".into(), Access::new(Role::Read, vec![]).unwrap())].into());
    let worker = bench.start();
    assert_eq!(followers(&mut bench, "owner"), Vec::<String>::new());
    for key in ["a/1", "b", "a/2"] {
        let change = bench.one(put(key, "1"));
        bench.until_answered(change);
    }
    for after in [0, 1] {
        let asked = bench.one(events("a/", Some(after), 0));
        bench.until_answered(asked);
    }
    let asked = bench.one(Operation::Events(Events { prefix: key("a/"), after: Some(0), limit: Some(1), ..Events::default() }));
    bench.until_answered(asked);
    let own = r#"user=owner prefix="a/" through=1 behind=2 drops=0 from_memory=3 from_log=0 compacted=0 asked_s=0"#;
    assert_eq!(followers(&mut bench, "owner"), [own]);
    assert_eq!(followers(&mut bench, "ann"), Vec::<String>::new(), "of others only an admin is told");
    // Who waits is not behind.
    bench.user = "ann";
    bench.client += 1;
    let waits = bench.one(events(&"a/".repeat(20), None, 60_000));
    bench.user = "owner";
    until_waiting(&mut bench, 1);
    let change = bench.one(put("b", "2"));
    bench.until_answered(change);
    let anns = format!(
        r#"user=ann prefix="{}"… through=3 behind=0 drops=0 from_memory=0 from_log=0 compacted=0 waits"#,
        "a/".repeat(16)
    );
    assert_eq!(followers(&mut bench, "ann"), [anns.as_str()]);
    assert_eq!(followers(&mut bench, "owner").len(), 2);
    let change = bench.one(put(&"a/".repeat(20), "1"));
    bench.until_answered(change);
    bench.until_answered(waits);
    assert!(followers(&mut bench, "ann")[0].contains("from_memory=1 "));
    // So many and no more.
    for _ in 0..2 * limits::FOLLOWERS_MAX {
        bench.client += 1;
        let asked = bench.one(events("a/", Some(0), 0));
        bench.until_answered(asked);
    }
    let all = followers(&mut bench, "owner");
    let bytes: usize = all.iter().map(|line| line.len() + 1).sum();
    assert!(all.len() > 10 && all.len() < limits::FOLLOWERS_MAX && bytes <= limits::FOLLOWERS_TEXT_BYTES_MAX + 1, "{bytes}");
    assert_eq!(followers(&mut bench, "ann"), Vec::<String>::new(), "forgotten for those who asked since");
    end(&bench, worker);
}

#[test]
fn who_hears_a_stream_says_how_far_it_is_and_what_it_has_lost() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let say = |bench: &mut Bench, asked: Events| {
        let asked = bench.one(Operation::Events(asked));
        bench.until_answered(asked);
        bench.outcomes(asked)[0].result.clone()
    };
    let change = |bench: &mut Bench| {
        let change = bench.one(put("a/1", "1"));
        bench.until_answered(change);
    };
    let word = |after| Events { prefix: key("a/"), after: Some(after), limit: Some(0), wait_ms: 60_000, ..Events::default() };
    for _ in 0..3 {
        change(&mut bench);
    }
    // Nothing is told, and nothing waited for.
    let Ok(Answer::Events { events, through: 2, more: true, .. }) = say(&mut bench, word(2)) else { panic!() };
    assert!(events.is_empty());
    assert_eq!(say(&mut bench, word(4)).unwrap_err().code, ErrorCode::Invalid);
    let line = |behind, drops, rest: &str| {
        format!(r#"user=owner prefix="a/" through=2 behind={behind} drops={drops} {rest} compacted=0 hears_s="#)
    };
    change(&mut bench);
    // What has happened since it said so it may have heard of.
    let told = followers(&mut bench, "owner");
    assert!(told[0].starts_with(&line(1, 0, "from_memory=0 from_log=0")), "{told:?}");
    // Until it has been silent for too long.
    bench.clock.advance(1_000 * (2 * limits::FOLLOWER_WORD_MS + 1));
    let told = followers(&mut bench, "owner");
    assert!(told[0].starts_with(&line(2, 0, "from_memory=0 from_log=0")), "{told:?}");
    // What it has lost is counted once, also where its call is decided twice.
    let refill = Events { prefix: key("a/"), after: Some(2), lost: 2, ..Events::default() };
    say(&mut bench, refill).unwrap();
    let waits = bench.one(Operation::Events(Events { after: Some(4), wait_ms: 60_000, lost: 5, ..Events::default() }));
    until_waiting(&mut bench, 1);
    change(&mut bench);
    bench.until_answered(waits);
    let told = followers(&mut bench, "owner");
    assert!(told[0].contains(" drops=7 ") && told.len() == 1, "{told:?}");
    end(&bench, worker);
}

#[test]
fn of_who_is_gone_nobody_is_told() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let change = bench.one(put("a/1", "1"));
    bench.until_answered(change);
    for (client, is_gone) in [(7, false), (8, true)] {
        (bench.client, bench.is_gone) = (client, is_gone);
        let asked = bench.one(events("a/", Some(client - 7), 0));
        bench.until_answered(asked);
    }
    bench.is_gone = false;
    let told = followers(&mut bench, "owner");
    assert!(told.len() == 1 && told[0].contains("from_memory=1"), "{told:?}");
    end(&bench, worker);
}

#[test]
fn an_epoch_that_is_not_the_tables_is_another_history() {
    let mut bench = Bench::new();
    bench.one(put("a", "1"));
    let asked = |epoch| Operation::Events(Events { after: Some(0), epoch, ..Events::default() });
    let all = bench.one(asked(None));
    bench.run_to_end().unwrap();
    let Ok(Answer::Events { epoch, .. }) = bench.outcomes(all)[0].result else { panic!() };
    let mut bench = bench.restarted();
    let own = bench.one(asked(Some(epoch)));
    let other = bench.one(asked(Some(epoch ^ 1)));
    bench.run_to_end().unwrap();
    assert_eq!(told(&bench.outcomes(own)[0]), (vec![revision(1, &["a"])], 1, false));
    assert_eq!(code(&bench.outcomes(other)[0]), Some(ErrorCode::Compacted));
}

#[test]
fn who_waits_for_what_fits_is_woken_by_nothing_else_and_by_what_does_not_fit_any_more() {
    let mut bench = Bench::new();
    let worker = bench.start();
    let filter = Predicate::new("@value > 10").unwrap();
    let asked = |after| Operation::Events(Events { after, wait_ms: 60_000, where_: Some(filter.clone()), ..Events::default() });
    let wait = |change: Operation, is_told: bool, bench: &mut Bench| {
        let waits = bench.one(asked(None));
        until_waiting(bench, 1);
        let change = bench.one(change);
        bench.until_answered(change);
        if !is_told {
            until_waiting(bench, 1);
            bench.clock.advance(60_000_000);
        }
        bench.until_answered(waits);
        let Ok(Answer::Events { events, through, .. }) = bench.outcomes(waits)[0].result.clone() else { panic!() };
        (events.into_iter().flat_map(|revision| revision.changes).map(|change| change.kind).next(), through)
    };
    let set = |number| Operation::Put { key: key("a"), value: Stored::integer(number), condition: None, ttl_ms: None };
    assert_eq!(wait(set(1), false, &mut bench), (None, 1), "it says up to where there was nothing");
    assert_eq!(wait(set(11), true, &mut bench), (Some(ChangeKind::Put(Stored::integer(11))), 2));
    assert_eq!(wait(set(12), true, &mut bench), (Some(ChangeKind::Put(Stored::integer(12))), 3));
    assert_eq!(wait(set(2), true, &mut bench), (Some(ChangeKind::Leave), 4));
    assert_eq!(wait(del("a"), false, &mut bench), (None, 5), "it was not among those that fit");
    assert_eq!(wait(set(13), true, &mut bench), (Some(ChangeKind::Put(Stored::integer(13))), 6));
    assert_eq!(wait(del("a"), true, &mut bench), (Some(ChangeKind::Remove), 7));
    end(&bench, worker);
}

#[test]
fn details_say_what_was_before_and_name_nobody_elses_requests() {
    const ANN: &str = "kvpub1ann";
    let mut bench = Bench::new();
    let access = Access::new(Role::Write, vec![key("ann/"), key("all/")]).unwrap();
    bench.access.replace([(ANN.into(), access)].into());
    let worker = bench.start();
    let session = |number| SessionId::new(WALL_MS, number);
    let change = |bench: &mut Bench, user, number, operation| {
        bench.user = user;
        let header = Header { session: Some(session(number)), seq: Some(1), ..Header::default() };
        let id = bench.ask(header, Operations::One(operation));
        bench.until_answered(id);
        assert!(bench.outcomes(id)[0].result.is_ok());
    };
    change(&mut bench, "owner", 1, put("all/1", "secret"));
    change(&mut bench, ANN, 2, put("all/1", "mine"));
    change(&mut bench, "owner", 3, del("all/1"));
    change(&mut bench, "owner", 4, put("bob/1", "other"));
    let short = Operation::Put { key: key("all/2"), value: Stored::integer(1), condition: None, ttl_ms: Some(50) };
    let short = bench.one(short);
    bench.until_answered(short);
    bench.clock.advance(50_000);
    let mut ask = |user, after| {
        bench.user = user;
        let asked = Events { after: Some(after), detail: true, wait_ms: 60_000, limit: Some(100), ..Events::default() };
        let id = bench.one(Operation::Events(asked));
        bench.until_answered(id);
        let Ok(Answer::Events { events, .. }) = bench.outcomes(id)[0].result.clone() else { panic!() };
        events
    };
    // The expiry is a revision of its own.
    assert_eq!(ask("owner", 5)[0].revision, 6);
    let (all, own) = (ask("owner", 0), ask(ANN, 0));
    let name = |number| Some((session(number), 1));
    let origins = |events: &[RevisionEvents]| -> Vec<(u64, EventOrigin)> {
        events.iter().map(|revision| (revision.revision, revision.origin.unwrap())).collect()
    };
    let origin = |cause, name| EventOrigin { cause, name };
    let (asked, expiry) = (EventCause::Request, EventCause::Expiry);
    let expected =
        [(1, name(1)), (2, name(2)), (3, name(3)), (4, name(4)), (5, None)].map(|(at, name)| (at, origin(asked, name)));
    assert_eq!(origins(&all), [expected.to_vec(), vec![(6, origin(expiry, None))]].concat());
    let expected = [(1, None), (2, name(2)), (3, None), (5, None)].map(|(at, name)| (at, origin(asked, name)));
    assert_eq!(
        origins(&own),
        [expected.to_vec(), vec![(6, origin(expiry, None))]].concat(),
        "ann is told of her own session only"
    );
    let before = |events: &[RevisionEvents]| -> Vec<EventBefore> {
        events.iter().flat_map(|revision| &revision.changes).map(|change| change.before.clone().unwrap()).collect()
    };
    let was = |value: Stored, modified| EventBefore::Value { value, modified };
    let text = |text| Stored::text(text).unwrap();
    let expected =
        [EventBefore::Absent, was(text("secret"), 1), was(text("mine"), 2), EventBefore::Absent, was(Stored::integer(1), 5)];
    assert_eq!(before(&own), expected);
    end(&bench, worker);
}
