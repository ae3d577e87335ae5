//! What gets lost between the publisher and a watch is noticed and asked for: the set of what was told equals the log's exactly.
//!
//! Each of these tests fails if nothing was lost on the way: then it has shown nothing.
//!
//! - A watcher that stands still until libzmq's queues have overflowed, and goes on while writes go on.
//! - Connections that are cut in the midst of messages, and kept cut while writes go on.
//! - 2,000 prefixes on one socket, where a plain SUB loses its subscriptions.
//! - The publisher itself gets no time, and its queue overflows.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvbroker_protocol::{StreamMessage, prefix_of_stream_topic, stream_topic};
use kvbroker_tests::watching::{
    From, Heard, Proxy, Start, Truth, WatchFigures, Watcher, WatcherTask, WriterOptions, Writers, check, connect, prefixes,
};
use kvbroker_tests::{Broker, Dice, PATIENCE, RawSubscriber, wait_until};

/// Most messages that libzmq keeps for a subscriber, at both ends together.
const QUEUED_MAX: usize = 8_192 + 1_000;

/// Messages that a subscriber with no bound hears, with the chain's breaks.
struct Witness {
    subscriber: RawSubscriber,
    messages: usize,
}

impl Witness {
    fn new(broker: &Broker, prefixes: &[String]) -> Witness {
        let topics: Vec<Vec<u8>> = prefixes.iter().map(|prefix| stream_topic(prefix.as_bytes())).collect();
        let topics: Vec<&[u8]> = topics.iter().map(Vec::as_slice).collect();
        Witness { subscriber: broker.subscriber(&topics), messages: 0 }
    }

    /// Hears until so many more messages have come.
    fn hear(&mut self, more: usize) {
        let wanted = self.messages + more;
        while self.messages < wanted {
            self.subscriber.try_receive(PATIENCE).expect("the writers write, and are heard");
            self.messages += 1;
        }
    }
}

/// A SUB with libzmq's own bounds.
fn plain_subscriber(broker: &Broker, prefixes: &[String]) -> zmq::Socket {
    let plain = zmq::Context::new().socket(zmq::SUB).unwrap();
    plain.set_linger(0).unwrap();
    plain.connect(&format!("ipc://{}", broker.pub_socket().display())).unwrap();
    prefixes.iter().for_each(|prefix| plain.set_subscribe(&stream_topic(prefix.as_bytes())).unwrap());
    plain
}

/// How often a stream's chain is broken in what a SUB has heard, and has not read until now.
fn holes(subscriber: &zmq::Socket) -> usize {
    let (mut verified, mut holes) = (BTreeMap::new(), 0);
    while subscriber.poll(zmq::POLLIN, 300).unwrap() > 0 {
        let frames = subscriber.recv_multipart(0).unwrap();
        let (prefix, message) = StreamMessage::decode(&frames[0], &frames[1]).unwrap().unwrap();
        let before = verified.insert(prefix, message.revision);
        holes += usize::from(before.is_some_and(|before| message.prev > before));
    }
    holes
}

fn task(watches: Vec<(String, From)>, is_hub: bool) -> WatcherTask {
    WatcherTask { target: "test".to_owned(), watches, is_hub, resync: false, heard: Default::default() }
}

fn from_now(prefixes: &[String]) -> Vec<(String, From)> {
    prefixes.iter().map(|prefix| (prefix.clone(), From::Now)).collect()
}

fn starts(prefixes: &[String], start: Start) -> Vec<(String, Start)> {
    prefixes.iter().map(|prefix| (prefix.clone(), start)).collect()
}

/// A way to a broker that can be cut: the same ports at another address of this machine.
struct Way {
    router: Proxy,
    publisher: Proxy,
    /// For whoever shall go this way.
    target: String,
}

impl Way {
    fn to(broker: &Broker) -> Way {
        let between = |port: u16| {
            Proxy::start(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port)), SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        let tcp = &broker.endpoint()["tcp"];
        let [router, publisher] = ["port", "pub_port"].map(|port| between(tcp[port].as_u64().unwrap().try_into().unwrap()));
        let key = broker.endpoint()["public_key"].as_str().unwrap();
        let target = format!("kv://{}/test?key={key}", router.address());
        Way { router, publisher, target }
    }
}

/// Each watch against the log. Gives the sum of the figures.
fn judge(truth: &Truth, watches: &[(String, Start)], heard: Vec<(Vec<Heard>, WatchFigures)>) -> WatchFigures {
    assert_eq!(watches.len(), heard.len());
    let mut sum = WatchFigures::default();
    for ((prefix, start), (heard, figures)) in watches.iter().zip(heard) {
        let under = truth.under(prefix);
        let through = truth.last_of(&Writers::end_key(prefix));
        if let Err(wrong) = check(&heard, &under, *start, through) {
            panic!("{prefix}, {start:?}, {figures:?}: {wrong}");
        }
        sum.messages += figures.messages;
        sum.refills += figures.refills;
        sum.polls += figures.polls;
        sum.duplicates += figures.duplicates;
        sum.dropped += figures.dropped;
    }
    sum
}

#[test]
fn a_watcher_that_stood_still_until_it_overflowed_is_told_everything() {
    const LEVELS: usize = 24;
    let mut dice = Dice::of_this_run("watch_overflow, stopped");
    let mut broker = Broker::plain();
    // Each change at the bottom is a message for every level above it.
    let options = WriterOptions { fanout: 1, levels: LEVELS, ..WriterOptions::default() };
    let nodes = prefixes(&options.root, options.fanout, options.levels);
    let client = connect(&broker);
    let before = client.ping().unwrap();
    let hub = Watcher::start(broker.home(), "hub", task(nodes.iter().map(|node| (node.clone(), From::Now)).collect(), true));
    // One prefix alone on its socket: the root, under which everything happens.
    let single = Watcher::start(broker.home(), "single", task(vec![(nodes[0].clone(), From::Snapshot)], false));
    let mut watchers = [hub, single];
    watchers.iter_mut().for_each(|watcher| watcher.wait_begun(PATIENCE));
    let after = client.ping().unwrap();
    let mut witness = Witness::new(&broker, &nodes);
    // Beside the watchers: one that stands still as well, with the queue that every SUB has.
    let still = plain_subscriber(&broker, &nodes);
    let writers = Writers::start(&options, &mut dice, || connect(&broker));
    witness.hear(1_000);
    watchers.iter_mut().for_each(Watcher::stop);
    // As much again lies in the kernel's buffers, at most.
    witness.hear(2 * QUEUED_MAX);
    watchers[0].go_on();
    let goes_on = writers.done();
    wait_until(PATIENCE, "writes go on", || (writers.done() > goes_on + 2_000).then_some(()));
    watchers[1].go_on();
    let _ = writers.stop();
    Writers::end(&client, &nodes);
    let holes = holes(&still);
    let [hub, single] = watchers.map(|watcher| watcher.finish(PATIENCE));
    broker.stop();
    let truth = Truth::of_log(broker.home(), "");
    let of_hub: Vec<_> = nodes.iter().map(|node| (node.clone(), Start::Now(before, after))).collect();
    let lost = judge(&truth, &of_hub, hub);
    let alone = judge(&truth, &[(nodes[0].clone(), Start::Snapshot(before))], single);
    println!(
        "{} revisions, {} messages to the witness, {holes} holes; hub {lost:?}, alone {alone:?}",
        truth.len(),
        witness.messages
    );
    assert!(holes > 0 && lost.refills > 0, "nothing was lost: {holes} holes, {lost:?}");
    assert!(lost.messages > 0, "it only polled: {lost:?}");
}

#[test]
fn a_watcher_whose_connections_are_cut_is_told_everything() {
    const CUTS: usize = 12;
    let mut dice = Dice::of_this_run("watch_overflow, cut");
    let mut broker = Broker::plain();
    let options = WriterOptions { depth: 8, value_bytes: 200, ..WriterOptions::default() };
    let nodes = prefixes(&options.root, options.fanout, options.levels);
    let (client, way) = (connect(&broker), Way::to(&broker));
    let before = client.ping().unwrap();
    let by_way = |watches, is_hub| WatcherTask { target: way.target.clone(), ..task(watches, is_hub) };
    let mut watchers = [
        Watcher::start(broker.home(), "hub", by_way(from_now(&nodes), true)),
        Watcher::start(broker.home(), "each", by_way(from_now(&nodes[..4]), false)),
    ];
    watchers.iter_mut().for_each(|watcher| watcher.wait_begun(PATIENCE));
    let after = client.ping().unwrap();
    let writers = Writers::start(&options, &mut dice, || connect(&broker));
    let written = |more: u64| {
        let from = writers.done();
        wait_until(PATIENCE, "writes go on", || (writers.done() > from + more).then_some(()));
    };
    let mut severed = 0;
    for cut in 0..CUTS {
        match cut % 4 {
            // In the midst of whatever it is.
            0 | 1 => {
                let cuts = way.publisher.cuts();
                way.publisher.cut_after(1 + dice.below(60_000) as u64);
                wait_until(PATIENCE, "the wire is cut", || (way.publisher.cuts() > cuts).then_some(()));
            }
            2 => {
                severed += way.publisher.sever();
                written(300);
                way.publisher.mend();
            }
            _ => {
                way.router.cut();
                severed += way.publisher.sever();
                written(300);
                way.publisher.mend();
            }
        }
        // Until they are back, and hear something.
        let passed = way.publisher.passed();
        wait_until(PATIENCE, "the watchers are back", || (way.publisher.passed() > passed + 30_000).then_some(()));
        written(100);
    }
    let _ = writers.stop();
    Writers::end(&client, &nodes);
    let [hub, each] = watchers.map(|watcher| watcher.finish(2 * PATIENCE));
    broker.stop();
    let truth = Truth::of_log(broker.home(), "");
    let lost = judge(&truth, &starts(&nodes, Start::Now(before, after)), hub);
    let of_each = judge(&truth, &starts(&nodes[..4], Start::Now(before, after)), each);
    let cuts = way.publisher.cuts();
    println!("{} revisions, {cuts} cuts, {severed} connections severed; hub {lost:?}, each {of_each:?}", truth.len());
    assert!(severed > 0 && cuts >= CUTS as u64, "hardly anything was cut");
    for figures in [lost, of_each] {
        assert!(figures.refills > 0 && figures.messages > 0, "nothing was lost: {figures:?}");
    }
}

#[test]
fn two_thousand_prefixes_on_one_socket_are_all_told() {
    const PREFIXES: usize = 2_000;
    let mut dice = Dice::of_this_run("watch_overflow, two thousand");
    let mut broker = Broker::plain();
    let options = WriterOptions { root: "m/".to_owned(), fanout: PREFIXES - 1, levels: 1, ..WriterOptions::default() };
    let nodes = prefixes(&options.root, options.fanout, options.levels);
    assert_eq!(nodes.len(), PREFIXES);
    let (client, way) = (connect(&broker), Way::to(&broker));
    let before = client.ping().unwrap();
    let target = way.target.clone();
    let mut watcher = Watcher::start(broker.home(), "hub", WatcherTask { target, ..task(from_now(&nodes), true) });
    watcher.wait_begun(PATIENCE);
    let after = client.ping().unwrap();
    let writers = Writers::start(&options, &mut dice, || connect(&broker));
    // The trap: a plain SUB with libzmq's own bound drops most of what it subscribes to, and says nothing.
    let plain = plain_subscriber(&broker, &nodes);
    let (is_over, mut heard_of) = (Arc::new(AtomicBool::new(false)), BTreeSet::new());
    let listener = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            while !is_over.load(Ordering::Relaxed) || plain.poll(zmq::POLLIN, 0).unwrap() > 0 {
                if plain.poll(zmq::POLLIN, 10).unwrap() > 0 {
                    let topic = plain.recv_multipart(0).unwrap().swap_remove(0);
                    heard_of.insert(prefix_of_stream_topic(&topic).unwrap().to_vec());
                }
            }
            heard_of.len()
        }
    });
    let written = |more: u64| {
        let from = writers.done();
        wait_until(PATIENCE, "writes go on", || (writers.done() > from + more).then_some(()));
    };
    written(2_000);
    assert!(way.publisher.sever() > 0);
    written(2_000);
    way.publisher.mend();
    written(2_000);
    watcher.stop();
    written(4_000);
    watcher.go_on();
    written(1_000);
    let _ = writers.stop();
    Writers::end(&client, &nodes);
    let heard = watcher.finish(2 * PATIENCE);
    is_over.store(true, Ordering::Relaxed);
    let heard_of = listener.join().unwrap();
    broker.stop();
    let truth = Truth::of_log(broker.home(), "");
    let lost = judge(&truth, &starts(&nodes, Start::Now(before, after)), heard);
    println!("{} revisions; the plain SUB heard of {heard_of} prefixes; the hub: {lost:?}", truth.len());
    assert!(heard_of < PREFIXES, "a plain SUB loses nothing any more: this test shows nothing");
    assert!(lost.refills > 0 && lost.messages > 0, "nothing was lost: {lost:?}");
}
