//! Watchers over `kill -9` of the broker, again and again under load.
//!
//! - Where the broker keeps its history, each of eight watchers hears every committed revision of its prefix once, in order and whole.
//!   It begins anew with a snapshot only where a kill stopped a write in its middle: the start behind it cuts the log and begins a new epoch.
//! - Where it keeps none, watchers that were asleep meanwhile begin anew with a snapshot, which must be the table as it was, and go on from it.
//! - What was committed is told by the log's files; where these are removed, by the writers, whose client gets every mutation acknowledged.

#![allow(clippy::unwrap_used)]

use kvbroker_tests::watching::{
    Checked, From, Heard, Start, Told, Truth, WatchFigures, Watcher, WatcherTask, WriterOptions, Writers, check, connect,
    prefixes,
};
use kvbroker_tests::{Broker, BrokerOptions, Dice, PATIENCE, wait_until};

/// Where everything is kept.
const KILLS: usize = 20;
/// Where nothing is.
const KILLS_WITHOUT_HISTORY: usize = 20;

fn task(target: &str, watches: &[(&str, From)], is_hub: bool) -> WatcherTask {
    let watches = watches.iter().map(|(prefix, from)| ((*prefix).to_owned(), *from)).collect();
    WatcherTask { target: target.to_owned(), watches, is_hub, resync: true, heard: Default::default() }
}

fn address(broker: &Broker) -> String {
    let key = broker.endpoint()["public_key"].as_str().unwrap();
    format!("kv://127.0.0.1:{}/test?key={key}", broker.tcp_port())
}

fn start_of(from: From, before: u64, after: u64) -> Start {
    match from {
        From::Now => Start::Now(before, after),
        From::After(revision) => Start::After(revision),
        From::Snapshot => Start::Snapshot(before),
    }
}

/// Each watch against the truth.
fn judge(
    name: &str,
    watches: &[(&str, From)],
    heard: Vec<(Vec<Heard>, WatchFigures)>,
    truth: &Truth,
    (before, after): (u64, u64),
) -> Vec<Checked> {
    let one = |((prefix, from), (heard, figures)): (&(&str, From), (Vec<Heard>, WatchFigures))| {
        let under: Vec<Told> = truth.under(prefix);
        let done = check(&heard, &under, start_of(*from, before, after), truth.last_of(&Writers::end_key(prefix)));
        let done = done.unwrap_or_else(|wrong| panic!("{name}, {prefix}, {from:?}, {figures:?}: {wrong}"));
        println!(
            "{name}, {prefix}: {} revisions, {} times away, snapshots {:?}, {figures:?}",
            done.revisions, done.disconnected, done.snapshots
        );
        done
    };
    watches.iter().zip(heard).map(one).collect()
}

#[test]
fn eight_watchers_hear_every_revision_once_over_twenty_kills() {
    let mut dice = Dice::of_this_run("watch_restarts, kept");
    let mut broker = Broker::plain();
    let options = WriterOptions::default();
    let nodes = prefixes(&options.root, options.fanout, options.levels);
    let client = connect(&broker);
    Writers::end(&client, &["before/"]);
    let before = client.ping().unwrap();
    // By the unix socket and by TCP; many watches on a socket, and one each.
    let local: &[(&str, From)] = &[("w/", From::Now), ("w/0/", From::Snapshot), ("w/1/", From::After(before))];
    let hub: &[(&str, From)] = &[("w/", From::After(before)), ("w/2/0/", From::Now), ("w/2/0/1/", From::Snapshot)];
    let remote: &[(&str, From)] = &[("", From::Snapshot), ("w/0/1/2/", From::Now)];
    let all = [("local", local), ("hub", hub), ("remote", remote)];
    let mut watchers = vec![
        Watcher::start(broker.home(), "local", task("test", local, false)),
        Watcher::start(broker.home(), "hub", task("test", hub, true)),
        Watcher::start(broker.home(), "remote", task(&address(&broker), remote, false)),
    ];
    watchers.iter_mut().for_each(|watcher| watcher.wait_begun(PATIENCE));
    let after = client.ping().unwrap();
    let writers = Writers::start(&options, &mut dice, || connect(&broker));
    let mut cuts = 0;
    for _ in 0..KILLS {
        let from = writers.done();
        let enough = from + 50 + dice.below(400) as u64;
        wait_until(PATIENCE, "writes are done", || (writers.done() > enough).then_some(()));
        broker.kill9();
        broker.restart();
        cuts += usize::from(broker.has_cut_a_torn_tail());
    }
    let from = writers.done();
    wait_until(PATIENCE, "writes are done", || (writers.done() > from + 500).then_some(()));
    let _ = writers.stop();
    let mut ends: Vec<&str> = nodes.iter().map(String::as_str).collect();
    ends.push("");
    Writers::end(&client, &ends);
    let heard: Vec<_> = watchers.into_iter().map(|watcher| watcher.finish(2 * PATIENCE)).collect();
    broker.stop();
    let truth = Truth::of_log(broker.home(), "");
    println!("{} revisions", truth.len());
    let (mut away, mut asked) = (0, 0);
    for ((name, watches), heard) in all.into_iter().zip(heard) {
        asked += heard.iter().map(|(_, figures)| figures.refills).sum::<u64>();
        for done in judge(name, watches, heard, &truth, (before, after)) {
            let anew: Vec<_> = done.snapshots.iter().filter(|why| *why != "asked").collect();
            let for_a_cut = anew.iter().all(|why| *why == "other_history") && anew.len() <= cuts;
            assert!(for_a_cut, "everything is kept, and {cuts} times the log was cut: {:?}", done.snapshots);
            away += done.disconnected;
        }
    }
    println!("{cuts} of {KILLS} starts cut a torn tail off");
    println!("{away} times a watch was without a broker, {asked} times one was asked for what was missed");
    assert!((away + asked) as usize >= KILLS, "the watchers hardly noticed the kills");
}

#[test]
fn watchers_that_slept_through_a_compaction_begin_anew_with_a_right_snapshot() {
    let mut dice = Dice::of_this_run("watch_restarts, compacted");
    let args = ["--history-age", "0s", "--history-size", "0", "--checkpoint-after", "64KiB", "--segment-size", "64KiB"];
    let mut broker = Broker::start(BrokerOptions::default().args(args));
    let options = WriterOptions { with_unknown: false, value_bytes: 400, ..WriterOptions::default() };
    let nodes = prefixes(&options.root, options.fanout, options.levels);
    let client = connect(&broker);
    let before = client.ping().unwrap();
    let awake: &[(&str, From)] =
        &[("w/", From::Now), ("w/1/", From::Snapshot), ("w/2/1/", From::Snapshot), ("w/0/1/2/", From::Now)];
    let asleep: &[(&str, From)] =
        &[("w/", From::Snapshot), ("w/1/", From::Now), ("w/2/1/", From::Snapshot), ("w/0/1/2/", From::Now)];
    let mut watchers = [
        Watcher::start(broker.home(), "awake", task("test", awake, true)),
        Watcher::start(broker.home(), "asleep", task("test", asleep, false)),
    ];
    watchers.iter_mut().for_each(|watcher| watcher.wait_begun(PATIENCE));
    let after = client.ping().unwrap();
    let writers = Writers::start(&options, &mut dice, || connect(&broker));
    for _ in 0..KILLS_WITHOUT_HISTORY {
        watchers[1].stop();
        // What was told is not in the log any more once it is behind a checkpoint.
        let from = (writers.done(), broker.stat("checkpoints"));
        wait_until(PATIENCE, "writes are done, and checkpoints are made", || {
            (writers.done() > from.0 + 300 && broker.stat("checkpoints") > from.1 + 1).then_some(())
        });
        broker.kill9();
        broker.restart();
        watchers[1].go_on();
        let from = writers.done();
        wait_until(PATIENCE, "writes are done", || (writers.done() > from + dice.below(300) as u64).then_some(()));
    }
    let mut truth = writers.stop();
    for (revision, changes) in Writers::end(&client, &nodes) {
        changes.into_iter().for_each(|change| truth.add(revision, change));
    }
    let [of_awake, of_asleep] = watchers.map(|watcher| watcher.finish(2 * PATIENCE));
    broker.stop();
    println!("{} revisions", truth.len());
    judge("awake", awake, of_awake, &truth, (before, after));
    let done = judge("asleep", asleep, of_asleep, &truth, (before, after));
    let compacted = done.iter().flat_map(|done| &done.snapshots).filter(|why| *why == "compacted").count();
    assert!(compacted >= done.len(), "hardly any watch had to begin anew: {compacted} did");
}
