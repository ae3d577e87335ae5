//! Numbered mutations are done exactly once, whatever is killed: no client sees an error, and all sums are right.
//!
//! - Clients are [`Recorder`]s, processes with full windows of mutations in flight, while the broker is killed again and again.
//!   What they were told is checked as a whole ([`kvbroker_tests::linear`]), and so is what is in the table at the end: with the history's
//!   model, and by plain addition.
//! - A client that is stopped until the broker has forgotten its session is told so, and nothing that it sends again is done twice.
//!
//! Both through the client library and through a client that knows only the protocol ([`NumberedClient`]).

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kvbroker_tests::linear::plan::{is_own_key, sums};
use kvbroker_tests::linear::{Ask, End, Recorded, Told, check, now_ns, words};
use kvbroker_tests::{
    Broker, BrokerOptions, Depth, Dice, Lane, NumberedClient, PATIENCE, RawClient, Recorder, Task, all_have_ended,
    recorded_table, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const ROUNDS: usize = 20;
const CLIENTS: u32 = 8;
/// What a session can have unacknowledged.
const WINDOW: usize = kvbroker_protocol::limits::SESSION_WINDOW;
/// A round ends after a random number of operations below this, each client having done some.
const OPERATIONS_MAX: usize = 15_000;
/// In so many rounds each client must have had half a window under way when the broker was killed.
const ROUNDS_FULL_MIN: usize = 15;

fn task(first_client: u32, lane: Lane, depth: Depth, dice: &mut Dice) -> Task {
    let seed = dice.number();
    let nowhere = PathBuf::new();
    Task {
        project: "test".into(),
        router: nowhere.clone(),
        history: nowhere,
        first_client,
        clients: 1,
        operations: u32::MAX,
        lane,
        depth,
        seed,
    }
}

/// Lets recorders finish and gives what they recorded.
fn finish(recorders: &mut [Recorder]) -> Vec<Recorded> {
    recorders.iter_mut().for_each(Recorder::stop);
    wait_until(PATIENCE, "all replies are recorded", || all_have_ended(recorders).then_some(()));
    let mut history = Vec::new();
    recorders.iter().for_each(|recorder| recorder.read(&mut history));
    history
}

fn twenty_kills(lane: Lane) {
    let mut dice = Dice::of_this_run("exactly_once");
    let mut broker = Broker::plain();
    let start =
        |client| Recorder::start(&broker, &format!("client-{client}"), task(client, lane, Depth::Always(WINDOW), &mut dice));
    let mut recorders: Vec<Recorder> = (0..CLIENTS).map(start).collect();
    let mut kills = Vec::new();
    for _ in 0..ROUNDS {
        let done: Vec<u64> = recorders.iter().map(Recorder::operations).collect();
        let enough = done.iter().sum::<u64>() + dice.below(OPERATIONS_MAX) as u64;
        let spin = Duration::from_micros(dice.below(3_000) as u64);
        wait_until(PATIENCE, "each client goes on, and enough is done", || {
            assert!(!all_have_ended(&mut recorders), "they go on until they are told to stop");
            let now: Vec<u64> = recorders.iter().map(Recorder::operations).collect();
            let each = now.iter().zip(&done).all(|(now, before)| now > before);
            (each && now.iter().sum::<u64>() >= enough).then_some(())
        });
        let moment = Instant::now() + spin;
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        kills.push(now_ns());
        broker.kill9();
        broker.restart();
    }
    let history = finish(&mut recorders);
    // Once more, to see what is on disk.
    broker.kill9();
    broker.restart();

    let checked = check(&history).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(checked.unknown, 0, "a restart is never seen");
    assert_eq!(recorded_table(&broker), checked.table, "all that was acknowledged is there, and nothing else");
    let added = sums(&history);
    assert!(added.len() > 1 && added.iter().all(|(key, sum)| checked.table[key].value == *sum), "{added:?}: {:?}", checked.table);
    let broken =
        history.iter().find(|one| is_own_key(&one.ask) && one.end.as_ref().is_some_and(|end| end.told == Told::Conflict));
    assert!(broken.is_none(), "a chain is broken: {}", broken.unwrap());

    let mut rounds_full = 0;
    for kill in &kills {
        let mut under_way = [0; CLIENTS as usize];
        history.iter().filter(|one| one.is_under_way(*kill)).for_each(|one| under_way[one.client as usize] += 1);
        assert!(under_way.iter().any(|count| *count > 0), "nothing was under way at a kill");
        rounds_full += usize::from(under_way.iter().all(|count| *count >= WINDOW / 2));
    }
    println!("{ROUNDS} kills, in {rounds_full} of them with full windows; {checked}");
    assert!(rounds_full >= ROUNDS_FULL_MIN, "only in {rounds_full} rounds the windows were full");
    broker.stop();
}

#[test]
fn twenty_kills_under_full_windows_of_the_library() {
    twenty_kills(Lane::Library);
}

#[test]
fn twenty_kills_under_full_windows_of_a_stranger() {
    twenty_kills(Lane::Numbered);
}

/// Most sessions in the test of their eviction.
const SESSIONS_MAX: u32 = 6;

/// A client at work is stopped, with or without a broker that dies then, until its session is forgotten; then it goes on. Gives how many
/// of its mutations have an unknown outcome.
fn a_stopped_client(lane: Lane, broker_dies: bool) -> usize {
    let mut dice = Dice::of_this_run("exactly_once");
    let sessions_max = SESSIONS_MAX.to_string();
    let options = BrokerOptions::default().args(["--max-sessions", &sessions_max, "--session-keep", "0s"]);
    let mut broker = Broker::start(options);
    let mut recorders = [Recorder::start(&broker, "stopped", task(0, lane, Depth::Always(64), &mut dice))];
    wait_until(PATIENCE, "it is in the middle of its work", || (recorders[0].operations() > 1_000).then_some(()));
    if broker_dies {
        // It takes nothing more, so that what is under way now stays unanswered.
        broker.signal(Signal::STOP);
        let mut looks = 0;
        wait_until(PATIENCE, "the client waits for replies", || {
            looks = if recorders[0].is_waiting() { looks + 1 } else { 0 };
            (looks > 20).then_some(())
        });
    }
    recorders[0].signal(Signal::STOP);
    if broker_dies {
        broker.kill9();
        broker.restart();
    }

    // So many others that the stopped one's session has to go: it is the one unused for longest.
    let mut others = Vec::new();
    for other in 0..=SESSIONS_MAX {
        let ask = Ask::Put { key: 500_000 + other, value: other.into(), only: None };
        let begun_ns = now_ns();
        let mut client = NumberedClient::new(&broker.router_socket());
        client.send(vec![words::operation(&ask)]);
        let outcome = client.receive().unwrap().pop().unwrap().unwrap();
        let (told, revision) = words::told(outcome).unwrap();
        let end = Some(End { at_ns: now_ns(), revision, told });
        others.push(Recorded { client: 1_000 + other, number: 0, begun_ns, ask, end });
    }
    assert_eq!(broker.stat("sessions"), u64::from(SESSIONS_MAX), "as many as are kept");

    recorders[0].signal(Signal::CONT);
    let before = recorders[0].operations();
    wait_until(PATIENCE, "it goes on", || (recorders[0].operations() > before + 1_000).then_some(()));
    let mut history = finish(&mut recorders);
    let expired = recorders[0].expired();
    history.extend(others);

    let checked = check(&history).unwrap_or_else(|violation| panic!("{violation}"));
    println!("told of {expired} mutations that their session is forgotten; {checked}");
    assert_eq!(checked.unknown as u64, expired, "those, and no others, have an unknown outcome");
    assert_eq!(recorded_table(&broker), checked.table);
    // By plain addition: what was acknowledged is in the sums, and of the rest nothing more than once.
    let lost: Vec<Recorded> = history.iter().filter(|one| one.end.is_none()).cloned().collect();
    let most: i64 = lost.iter().map(largest_addition).sum();
    for (key, sum) in sums(&history) {
        let found = checked.table[&key].value;
        assert!((found - sum).abs() <= most, "key {key} holds {found} and not {sum}");
    }
    broker.stop();
    checked.unknown
}

fn largest_addition(one: &Recorded) -> i64 {
    match &one.ask {
        Ask::Incr { by, .. } => *by,
        Ask::Txn(txn) => txn.then.iter().map(|ask| if let Ask::Incr { by, .. } = ask { by.abs() } else { 0 }).sum(),
        _ => 0,
    }
}

/// The same in plain words: what a program reads that was away for too long.
#[test]
fn a_forgotten_session_is_never_taken_for_a_new_one() {
    let mut broker = Broker::start(BrokerOptions::default().args(["--max-sessions", "2", "--session-keep", "0s"]));
    let hello = |client: &RawClient| client.ask_json(&json!({"op": "hello"}))["session"].clone();
    let incr = |session: &Value, seq: u64| json!({"op": "incr", "key": "visits", "session": session, "seq": seq, "ack": 0});
    let client = broker.dealer();
    let session = hello(&client);
    assert_eq!(client.ask_json(&incr(&session, 1))["value"], 1);
    let first = client.ask_json(&incr(&session, 2));
    assert_eq!((&first["value"], &first["retry_safe"]), (&json!(2), &json!(true)));
    // The reply may have been lost: it is asked for again, and given, also by the broker's next life.
    assert_eq!(client.ask_json(&incr(&session, 2)), first);
    broker.kill9();
    broker.restart();
    let client = broker.dealer();
    assert_eq!(client.ask_json(&incr(&session, 2)), first);

    for _ in 0..2 {
        let other = broker.dealer();
        let put = json!({"op": "put", "key": "other", "value": 1, "session": hello(&other), "seq": 1, "ack": 0});
        assert_eq!(other.ask_json(&put)["status"], "ok");
    }
    for life in 0..2 {
        // Sent before or never, neither is done.
        for seq in [2, 3, 1] {
            let reply = broker.dealer().ask_json(&incr(&session, seq));
            let error = &reply["error"];
            assert_eq!(
                (&reply["status"], &error["code"]),
                (&json!("unknown"), &json!("session_expired")),
                "in life {life}: {reply}"
            );
            assert_eq!(error["definite"], false);
        }
        assert_eq!(broker.dealer().ask_json(&json!({"op": "get", "key": "visits"}))["value"], 2);
        broker.kill9();
        broker.restart();
    }
    let client = broker.dealer();
    let fresh = hello(&client);
    assert_eq!(client.ask_json(&incr(&fresh, 1))["value"], 3);
    broker.stop();
}

#[test]
fn a_stopped_client_of_the_library_is_told_that_its_session_is_gone() {
    assert!(a_stopped_client(Lane::Library, true) > 0, "what was sent before may have been done");
}

#[test]
fn a_stopped_client_of_the_library_that_lost_nothing_is_told_nothing() {
    // Each reply to what the old session did is still there to be read, and the rest is sent in a new session.
    assert_eq!(a_stopped_client(Lane::Library, false), 0);
}

#[test]
fn a_stopped_stranger_is_told_that_its_session_is_gone() {
    assert!(a_stopped_client(Lane::Numbered, true) > 0, "what was sent before may have been done");
}
