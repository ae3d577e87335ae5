//! Very many watches at once: prefixes on one socket, and watchers of one prefix who all come back after a restart.
//!
//! Everything is told to everybody. How long that takes is a matter of a benchmark; `KVBROKER_TEST_PREFIXES` and `KVBROKER_TEST_WATCHERS` make
//! them more.

#![allow(clippy::unwrap_used)]

use kvbroker_tests::watching::{
    From, Heard, Start, Truth, WatchFigures, Watcher, WatcherTask, WriterOptions, Writers, check, connect, prefixes,
};
use kvbroker_tests::{Broker, Dice, PATIENCE, wait_until};

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

fn task(prefixes: &[String], is_hub: bool) -> WatcherTask {
    let watches = prefixes.iter().map(|prefix| (prefix.clone(), From::Now)).collect();
    WatcherTask { target: "test".to_owned(), watches, is_hub, resync: false, heard: Default::default() }
}

fn judge(truth: &Truth, prefix: &str, start: Start, heard: &[Heard], figures: WatchFigures) -> u64 {
    let under = truth.under(prefix);
    let done = check(heard, &under, start, truth.last_of(&Writers::end_key(prefix)));
    done.unwrap_or_else(|wrong| panic!("{prefix}, {figures:?}: {wrong}")).revisions
}

#[test]
fn thousands_of_prefixes_on_one_socket_catch_up_after_a_restart() {
    let wanted = number("KVBROKER_TEST_PREFIXES", 4_000);
    let mut dice = Dice::of_this_run("watch_crowd, prefixes");
    let mut broker = Broker::plain();
    let options = WriterOptions { root: "c/".to_owned(), fanout: wanted - 1, levels: 1, ..WriterOptions::default() };
    let nodes = prefixes(&options.root, options.fanout, options.levels);
    let client = connect(&broker);
    let before = client.ping().unwrap();
    let mut watcher = Watcher::start(broker.home(), "hub", task(&nodes, true));
    watcher.wait_begun(2 * PATIENCE);
    let after = client.ping().unwrap();
    let writers = Writers::start(&options, &mut dice, || connect(&broker));
    wait_until(PATIENCE, "writes are done", || (writers.done() > 2_000).then_some(()));
    broker.kill9();
    broker.restart();
    let from = writers.done();
    wait_until(PATIENCE, "writes go on", || (writers.done() > from + 2_000).then_some(()));
    let _ = writers.stop();
    Writers::end(&client, &nodes);
    let heard = watcher.finish(4 * PATIENCE);
    broker.stop();
    let truth = Truth::of_log(broker.home(), "");
    let (mut told, mut refills) = (0, 0);
    for (prefix, (heard, figures)) in nodes.iter().zip(&heard) {
        told += judge(&truth, prefix, Start::Now(before, after), heard, *figures);
        refills += figures.refills;
    }
    println!("{} revisions, {told} told to {wanted} watches, {refills} times the broker was asked", truth.len());
    assert!(refills > 0, "nobody missed anything, although the broker was away");
}

#[test]
fn a_crowd_of_watchers_of_one_prefix_comes_back_after_a_restart() {
    /// Descriptors are bounded.
    const PER_PROCESS: usize = 100;
    let processes = number("KVBROKER_TEST_WATCHERS", 300).div_ceil(PER_PROCESS);
    let mut dice = Dice::of_this_run("watch_crowd, watchers");
    let mut broker = Broker::plain();
    let options = WriterOptions { fanout: 2, levels: 1, depth: 4, ..WriterOptions::default() };
    let client = connect(&broker);
    let before = client.ping().unwrap();
    let watches = vec![options.root.clone(); PER_PROCESS];
    let mut watchers: Vec<_> =
        (0..processes).map(|process| Watcher::start(broker.home(), &format!("crowd-{process}"), task(&watches, false))).collect();
    watchers.iter_mut().for_each(|watcher| watcher.wait_begun(2 * PATIENCE));
    let after = client.ping().unwrap();
    let writers = Writers::start(&options, &mut dice, || connect(&broker));
    wait_until(PATIENCE, "writes are done", || (writers.done() > 200).then_some(()));
    broker.kill9();
    broker.restart();
    let from = writers.done();
    wait_until(PATIENCE, "writes go on", || (writers.done() > from + 500).then_some(()));
    let _ = writers.stop();
    Writers::end(&client, std::slice::from_ref(&options.root));
    let heard: Vec<_> = watchers.into_iter().flat_map(|watcher| watcher.finish(4 * PATIENCE)).collect();
    broker.stop();
    let truth = Truth::of_log(broker.home(), "");
    let (mut told, mut refills) = (0, 0);
    for (heard, figures) in &heard {
        told += judge(&truth, &options.root, Start::Now(before, after), heard, *figures);
        refills += figures.refills;
    }
    println!("{} revisions, {told} told to {} watchers, {refills} times the broker was asked", truth.len(), heard.len());
    assert!(refills as usize >= heard.len() / 2, "hardly anybody missed anything, although the broker was away");
}
