//! A thousand watches that join in the midst of constant writes: none misses a revision, hears one twice, or hears a part of one.
//!
//! - The prefixes are nested, and transactions change several of them at once. Keys expire, and are removed by prefix.
//! - Watches begin now, behind an earlier revision, or with a snapshot. Some stay to the end, most leave after a few revisions.
//! - What must have been told is read from the log's files afterwards.
//!
//! `KVBROKER_TEST_JOINS` makes them more.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvbroker::client::{Client, WatchEvent, WatchFrom};
use kvbroker_tests::watching::{Heard, Start, Truth, WriterOptions, Writers, check, connect, prefixes};
use kvbroker_tests::{Broker, Dice, PATIENCE, wait_until};

const THREADS: usize = 4;
/// One in so many joins stays to the end.
const ONE_IN_STAYS: usize = 25;
/// Most revisions that the others want to hear.
const REVISIONS_MAX: usize = 12;
/// How long they wait for that: some prefixes change seldom.
const STAY_MAX: Duration = Duration::from_millis(60);

/// What one watch heard.
struct Joined {
    prefix: String,
    start: Start,
    heard: Vec<Heard>,
    /// Up to where it says that everything was told.
    verified: u64,
}

/// Joins, hears something and leaves; or stays until the end is told.
fn join(client: &Client, prefix: &str, stays: bool, dice: &mut Dice) -> Joined {
    let before = client.ping().unwrap();
    let from = match dice.below(3) {
        0 => WatchFrom::Now,
        1 => WatchFrom::after(before.saturating_sub(dice.below(400) as u64)),
        _ => WatchFrom::Snapshot,
    };
    let mut watch = client.watch(prefix, from).unwrap();
    let start = match from {
        WatchFrom::Now => Start::Now(before, client.ping().unwrap()),
        WatchFrom::After { revision, .. } => Start::After(revision),
        WatchFrom::Snapshot => Start::Snapshot(before),
    };
    let (wanted, leave_at, end) = (1 + dice.below(REVISIONS_MAX), Instant::now() + STAY_MAX, Writers::end_key(prefix));
    let (mut heard, mut told, mut has_begun, mut has_heard_end) = (Vec::new(), 0, false, false);
    loop {
        let is_over = if stays { has_heard_end } else { has_begun && (told >= wanted || Instant::now() >= leave_at) };
        // Within a snapshot there is no such revision.
        if let Some(verified) = watch.revision().filter(|_| is_over) {
            return Joined { prefix: prefix.to_owned(), start, heard, verified };
        }
        let until = if stays || is_over || !has_begun { Instant::now() + PATIENCE } else { leave_at };
        let Some(event) = watch.next(Some(until)).unwrap() else {
            assert!(has_begun && !stays && !is_over, "waited in vain for the next event behind {heard:?}");
            continue;
        };
        has_begun |= matches!(event, WatchEvent::CaughtUp { .. });
        told += usize::from(matches!(event, WatchEvent::Changes(_)));
        let event = Heard::new(&event);
        has_heard_end |= event.names(&end);
        heard.push(event);
    }
}

#[test]
fn a_thousand_joins_in_the_midst_of_writes_miss_nothing() {
    let joins: usize = std::env::var("KVBROKER_TEST_JOINS").map_or(1_000, |text| text.parse().unwrap());
    let mut dice = Dice::of_this_run("watch_joins");
    let mut broker = Broker::plain();
    let options = WriterOptions::default();
    let nodes = prefixes(&options.root, options.fanout, options.levels);
    let writers = Writers::start(&options, &mut dice, || connect(&broker));
    wait_until(PATIENCE, "the writers write", || (writers.done() > 500).then_some(()));
    let begun = writers.done();
    let (left, all) = (AtomicUsize::new(joins), Mutex::new(Vec::new()));
    let main = connect(&broker);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (mut dice, client) = (Dice::new(dice.number()), connect(&broker));
            let (nodes, left, all) = (&nodes, &left, &all);
            scope.spawn(move || {
                // Those that stay are heard by threads of their own.
                std::thread::scope(|stayers| {
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                        let prefix = &nodes[dice.below(nodes.len())];
                        let mut own = Dice::new(dice.number());
                        if dice.below(ONE_IN_STAYS) == 0 {
                            let client = client.clone();
                            stayers.spawn(move || {
                                let joined = join(&client, prefix, true, &mut own);
                                all.lock().unwrap().push(joined);
                            });
                        } else {
                            let joined = join(&client, prefix, false, &mut own);
                            all.lock().unwrap().push(joined);
                        }
                    }
                });
            });
        }
        wait_until(6 * PATIENCE, "all have joined", || (left.load(Ordering::Relaxed) == 0).then_some(()));
        // The last ones are at it, and some stay: writes go on for a little while, and then comes the end of each prefix.
        let written = writers.done() - begun;
        let _ = writers.stop();
        Writers::end(&main, &nodes);
        println!("{joins} joins while {written} operations were done");
    });
    broker.stop();
    let truth = Truth::of_log(broker.home(), "");
    let under: BTreeMap<&String, _> = nodes.iter().map(|prefix| (prefix, truth.under(prefix))).collect();
    let all = all.into_inner().unwrap();
    assert_eq!(all.len(), joins);
    let (mut told, mut snapshots, mut ended) = (0, 0, 0);
    for Joined { prefix, start, heard, verified } in &all {
        let done = check(heard, &under[prefix], *start, *verified).unwrap_or_else(|wrong| panic!("{prefix}, {start:?}: {wrong}"));
        told += done.revisions;
        snapshots += done.snapshots.len();
        ended += usize::from(heard.iter().any(|event| event.names(&Writers::end_key(prefix))));
    }
    println!("{} revisions; {told} told as changes, {snapshots} snapshots, {ended} watches stayed to the end", truth.len());
    assert!(told as usize > 3 * joins, "the joins were hardly in the midst of writes");
    assert!(snapshots > joins / 5 && ended > 0);
}
