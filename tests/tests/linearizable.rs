//! Every reply that several programs were given, while their broker was killed and stopped again and again, fits one history of the table.
//!
//! - Recorders (`tests/src/bin/recorder.rs`) are processes of their own that use the client library and write down what they asked and were
//!   told. Meanwhile the broker is ended by `kill -9`, or stopped, and started again on the same data.
//! - The histories of all of them together are checked by [`kvbroker_tests::linear`]. Then lies are planted into this very history, and
//!   each has to be found.
//! - A run shows nothing if the kills come when nothing is under way, or before or behind the traffic: that fails it.
//!
//! `KVBROKER_TEST_OPERATIONS` says how many operations are recorded.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kvbroker_tests::linear::plan::is_own_key;
use kvbroker_tests::linear::{Ask, Checked, Found, Recorded, Told, check, now_ns};
use kvbroker_tests::{Broker, Depth, Dice, Lane, Recorder, Task, all_have_ended, recorded_table, wait_until};

/// How many operations are recorded unless told otherwise.
const OPERATIONS_DEFAULT: u32 = 1_000_000;
const OPERATIONS_VARIABLE: &str = "KVBROKER_TEST_OPERATIONS";
/// A process each. Two kinds of clients share nothing but the protocol.
const LANES: [Lane; 4] = [Lane::Library, Lane::Shared, Lane::Numbered, Lane::Numbered];
const CLIENTS_EACH: u32 = 3;
/// Restarts of the broker: two of three by `kill -9`, one by a stop as its user would stop it.
const RESTARTS: usize = 9;
/// Most operations in flight of one client.
const DEPTH_MAX: usize = 1_024;
/// Operations that must be under way at a kill for it to count.
const UNDER_WAY_MIN: usize = 4;
/// Lies of each kind.
const LIES_EACH: usize = 1;
/// From one restart to the next.
const PATIENCE: Duration = Duration::from_secs(180);

/// Records, and gives the history with the moments of the kills and what is in the table at the end.
fn record(operations: u32, dice: &mut Dice) -> (Vec<Recorded>, Vec<u64>, BTreeMap<u32, Found>) {
    let mut broker = Broker::plain();
    let start = |number: u32| {
        let task = Task {
            project: "test".into(),
            router: PathBuf::new(),
            history: PathBuf::new(),
            first_client: number * CLIENTS_EACH,
            clients: CLIENTS_EACH,
            operations: operations.div_ceil(LANES.len() as u32 * CLIENTS_EACH),
            lane: LANES[number as usize],
            depth: Depth::UpTo(DEPTH_MAX),
            seed: dice.number(),
        };
        Recorder::start(&broker, &format!("recorder-{number}"), task)
    };
    let mut recorders: Vec<Recorder> = (0..LANES.len() as u32).map(start).collect();
    let mut kills = Vec::new();
    for restart in 0..RESTARTS as u64 {
        // Spread over the run, each at some moment of its share.
        let share = u64::from(operations) / (RESTARTS as u64 + 1);
        let moment = restart * share + share / 2 + dice.below(share as usize) as u64;
        wait_until(PATIENCE, "enough was done to restart the broker again", || {
            assert!(!all_have_ended(&mut recorders), "the traffic is over before restart {restart}");
            (recorders.iter().map(Recorder::operations).sum::<u64>() >= moment).then_some(())
        });
        if restart % 3 == 2 {
            broker.stop();
        } else {
            kills.push(now_ns());
            broker.kill9();
        }
        broker.restart();
    }
    wait_until(PATIENCE, "all is recorded", || all_have_ended(&mut recorders).then_some(()));
    // Once more, to see what is on disk.
    broker.kill9();
    broker.restart();
    let table = recorded_table(&broker);
    broker.stop();
    let mut history = Vec::new();
    recorders.iter().for_each(|recorder| recorder.read(&mut history));
    (history, kills, table)
}

#[test]
fn a_million_operations_under_restarts_fit_one_history() {
    let mut dice = Dice::of_this_run("linearizable");
    let operations = match std::env::var(OPERATIONS_VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{OPERATIONS_VARIABLE}={text} is no number")),
        Err(_) => OPERATIONS_DEFAULT,
    };
    let (mut history, kills, table) = record(operations, &mut dice);
    let checked = check(&history).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{RESTARTS} restarts, {} of them kills; {checked}", kills.len());

    assert!(checked.operations >= operations as usize, "all that was promised");
    for kill in &kills {
        let under_way = history.iter().filter(|one| one.is_under_way(*kill)).count();
        assert!(under_way >= UNDER_WAY_MIN, "only {under_way} operations were under way at a kill");
    }
    assert_everything_happened(&checked);
    assert_eq!(table, checked.table, "all that was acknowledged is there, and nothing else");
    assert_eq!(checked.unknown, 0, "a restart is never seen");
    // On its own keys nobody is faster: what fails there was done twice, or not at all.
    let broken =
        history.iter().find(|one| is_own_key(&one.ask) && one.end.as_ref().is_some_and(|end| end.told == Told::Conflict));
    assert!(broken.is_none(), "a chain is broken: {}", broken.unwrap());

    for lie in [stale_read, doubled_increment, value_of_another_revision, success_for_failure] {
        for _ in 0..LIES_EACH {
            let (at, truth) = lie(&mut history, &mut dice);
            let violation = check(&history).expect_err("a lie is found");
            println!("found: {violation}");
            history[at] = truth;
        }
    }
}

/// The history is one of much that succeeded and much that failed, of every kind.
fn assert_everything_happened(checked: &Checked) {
    let least = checked.operations / 2_000;
    for verb in ["put", "put-if", "get", "mget", "exists", "del", "del-if", "incr", "txn", "size"] {
        assert!(checked.verbs[verb].0 > least, "{verb} succeeded only {} times", checked.verbs[verb].0);
    }
    for verb in ["put-if", "get", "del", "del-if"] {
        assert!(checked.verbs[verb].1 > least, "{verb} failed only {} times", checked.verbs[verb].1);
    }
}

/// A random operation of some kind, changed; gives its place and what it was.
fn change(history: &mut [Recorded], dice: &mut Dice, mut lie: impl FnMut(&mut Recorded) -> bool) -> (usize, Recorded) {
    loop {
        let at = dice.below(history.len());
        let truth = history[at].clone();
        if lie(&mut history[at]) {
            return (at, truth);
        }
    }
}

/// A read is given, whole, what another one was told of the same key long before: only the clock tells.
fn stale_read(history: &mut [Recorded], dice: &mut Dice) -> (usize, Recorded) {
    let read = |one: &Recorded| match (&one.ask, &one.end) {
        (Ask::Get { key }, Some(end)) if end.told.is_success() => Some((*key, end.revision, end.told.clone())),
        _ => None,
    };
    loop {
        let at = dice.below(history.len());
        let Some((key, revision, _)) = read(&history[at]) else { continue };
        let long_before = |old: &(u32, u64, Told)| old.0 == key && old.1 < revision / 2;
        let Some((_, old_revision, old)) = history.iter().filter_map(read).find(long_before) else { continue };
        let truth = history[at].clone();
        if let Some(end) = &mut history[at].end {
            (end.revision, end.told) = (old_revision, old);
        }
        return (at, truth);
    }
}

/// An increment is told a sum as if it were done twice.
fn doubled_increment(history: &mut [Recorded], dice: &mut Dice) -> (usize, Recorded) {
    change(history, dice, |one| {
        let (Ask::Incr { by, .. }, Some(Told::Sum(sum))) = (&one.ask, one.end.as_mut().map(|end| &mut end.told)) else {
            return false;
        };
        *sum += by;
        true
    })
}

/// A read is told a value that was never there at that revision.
fn value_of_another_revision(history: &mut [Recorded], dice: &mut Dice) -> (usize, Recorded) {
    change(history, dice, |one| {
        let Some(Told::Found(found)) = one.end.as_mut().map(|end| &mut end.told) else { return false };
        found.value -= 1;
        true
    })
}

/// A condition that did not hold is told to have held.
fn success_for_failure(history: &mut [Recorded], dice: &mut Dice) -> (usize, Recorded) {
    change(history, dice, |one| {
        let Some(told @ Told::Conflict) = one.end.as_mut().map(|end| &mut end.told) else { return false };
        *told = Told::Done;
        true
    })
}
