//! What `stats` says of watchers: how far behind each is, what it has lost, and which have ended.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use kvbroker_protocol::stream_topic;
use kvbroker_tests::watching::{From, Watcher, WatcherTask, WriterOptions, Writers, connect, prefixes};
use kvbroker_tests::{Broker, Dice, PATIENCE, wait_until};
use serde_json::json;

/// More messages than libzmq and the kernel keep for a subscriber.
const OVERFLOWING: usize = 2 * (8_192 + 1_000);

/// The words of each line of `followers`, by name.
fn followers(broker: &Broker) -> Vec<BTreeMap<String, String>> {
    let reply = broker.dealer().ask_json(&json!({"op": "stats"}));
    let text = reply["stats"]["followers"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned();
    let words = |line: &str| {
        let words = line.split(' ').filter_map(|word| word.split_once('='));
        words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    text.lines().map(words).collect()
}

fn number(follower: &BTreeMap<String, String>, name: &str) -> u64 {
    follower[name].parse().unwrap_or_else(|_| panic!("{follower:?}"))
}

#[test]
fn a_watcher_that_stands_still_falls_behind_and_loses_and_comes_back() {
    const LEVELS: usize = 24;
    let mut dice = Dice::of_this_run("watch_stats");
    let mut broker = Broker::plain();
    // Each change at the bottom is a message for every level above it.
    let options = WriterOptions { fanout: 1, levels: LEVELS, ..WriterOptions::default() };
    let nodes = prefixes(&options.root, options.fanout, options.levels);
    let client = connect(&broker);
    assert_eq!(followers(&broker), []);
    let watches = nodes.iter().map(|node| (node.clone(), From::Now)).collect();
    let task = WatcherTask { target: "test".to_owned(), watches, is_hub: true, resync: false, heard: Default::default() };
    let mut watcher = Watcher::start(broker.home(), "watcher", task);
    watcher.wait_begun(PATIENCE);
    let topics: Vec<Vec<u8>> = nodes.iter().map(|prefix| stream_topic(prefix.as_bytes())).collect();
    let topics: Vec<&[u8]> = topics.iter().map(Vec::as_slice).collect();
    let witness = broker.subscriber(&topics);
    let writers = Writers::start(&options, &mut dice, || connect(&broker));
    let until = |what: &str, is_so: &dyn Fn(&BTreeMap<String, String>) -> bool| {
        wait_until(PATIENCE, what, || followers(&broker).into_iter().find(|follower| is_so(follower)))
    };
    let well = until("it says how far it is", &|follower| follower.contains_key("hears_s") && number(follower, "through") > 0);
    assert_eq!((well["user"].as_str(), well["prefix"].as_str()), ("owner", "\"w/\""), "{well:?}");
    watcher.stop();
    let stopped_at = writers.done();
    for _ in 0..OVERFLOWING {
        witness.try_receive(PATIENCE).expect("the writers write, and are heard");
    }
    let still = until("it has fallen silent", &|follower| number(follower, "behind") > 1_000);
    // What it loses now it can't know yet. (A machine that is busy has it lose some before.)
    let before = number(&still, "drops");
    assert!(writers.done() > stopped_at + 1_000);
    watcher.go_on();
    let back = until("it has found the hole", &|follower| number(follower, "drops") > before);
    assert!(number(&back, "from_memory") + number(&back, "from_log") > 0, "{back:?}");
    let _ = writers.stop();
    let revision = client.ping().unwrap();
    // Keys expire meanwhile.
    let level = until("it has caught up", &|follower| number(follower, "through") >= revision && number(follower, "behind") == 0);
    assert_eq!(broker.stat("events_lost"), number(&level, "drops"));
    // Who has ended is not told of.
    Writers::end(&client, &nodes);
    let lost: u64 = watcher.finish(PATIENCE).iter().map(|(_, figures)| figures.lost).sum();
    assert!(lost > 0, "the library has counted none");
    wait_until(PATIENCE, "its connection has ended", || followers(&broker).is_empty().then_some(()));
    broker.stop();
}
