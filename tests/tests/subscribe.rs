//! Live subscribers of published messages: what is published is told in order, or that it is missing.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvbroker::client::{Client, Subscription, Told};
use kvbroker_protocol::{Operation, PublishedMessages, Stored, Txn, message_stream_topic};
use kvbroker_tests::watching::connect;
use kvbroker_tests::{Broker, Cli, Home, PATIENCE, RawSubscriber, finish, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What is told next: a message as revision, subject and number; another thing as it is.
fn next(subscription: &mut Subscription) -> Result<(u64, String, u64), Told> {
    let until = Instant::now() + PATIENCE;
    match subscription.next(Some(until)).unwrap().expect("something is told in time") {
        Told::Message(message) => {
            Ok((message.revision, String::from_utf8(message.subject.clone()).unwrap(), message.value_as().unwrap()))
        }
        other => Err(other),
    }
}

fn says_nothing(subscription: &mut Subscription) -> bool {
    subscription.next(Some(Instant::now() + Duration::from_millis(200))).unwrap().is_none()
}

fn message(subject: &str, number: u64) -> Operation {
    Client::message_in_txn(Client::message(subject, Stored::integer(i128::from(number))))
}

#[test]
fn subscribers_hear_in_order_what_their_patterns_have() {
    let broker = Broker::plain();
    let (listener, publisher) = (connect(&broker), connect(&broker));
    let mut orders = listener.subscribe("orders.*").unwrap();
    let mut again = publisher.subscribe("orders.*").unwrap();
    let mut all = listener.subscribe("#").unwrap();
    let mut others = listener.subscribe("others.#").unwrap();
    assert_eq!(broker.stat("streams"), 3);
    let first = publisher.publish("orders.new", &1).unwrap();
    assert_eq!(first.routed, 0, "nobody counts those who listen");
    publisher.put_text("orders.new", "a key is no message").unwrap();
    publisher.queue("mail").bind("orders.*").unwrap();
    let then = vec![
        message("orders.new", 2),
        Operation::Incr { key: b"count".to_vec(), by: 1 },
        message("weather", 3),
        message("orders.old", 4),
    ];
    let together = publisher.txn(Txn { compares: vec![], then, otherwise: vec![] }).unwrap();
    let unheard = Txn { compares: vec![], then: vec![message("orders.new", 5), message("orders.*", 6)], otherwise: vec![] };
    assert!(publisher.txn(unheard).is_err(), "a transaction that fails publishes nothing");
    let kept = publisher
        .publish_as(kvbroker_protocol::Publish { retain: true, ..Client::message("orders.kept", Stored::integer(7)) })
        .unwrap();
    let last = publisher.publish("weather", &8).unwrap();
    let (one, two, three, four) = (first.revision, together.revision, kept.revision, last.revision);
    let of_orders = [(one, "orders.new", 1), (two, "orders.new", 2), (two, "orders.old", 4), (three, "orders.kept", 7)];
    for subscription in [&mut orders, &mut again] {
        for (revision, subject, number) in of_orders {
            assert_eq!(next(subscription), Ok((revision, subject.to_owned(), number)));
        }
        assert!(says_nothing(subscription));
    }
    let of_all = [
        (one, "orders.new", 1),
        (two, "orders.new", 2),
        (two, "weather", 3),
        (two, "orders.old", 4),
        (three, "orders.kept", 7),
        (four, "weather", 8),
    ];
    for (revision, subject, number) in of_all {
        assert_eq!(next(&mut all), Ok((revision, subject.to_owned(), number)));
    }
    assert!(says_nothing(&mut others) && says_nothing(&mut all));
    // What is retained is a key as ever, and the queue has its copies.
    assert_eq!(publisher.get_as::<u64>("retained/orders.kept").unwrap(), Some(7));
    assert_eq!(publisher.queue("mail").peek(kvbroker_protocol::ItemState::Ready, 10).unwrap().len(), 3);
    // Who has gone costs nothing.
    drop((orders, again, all, others));
    wait_until(PATIENCE, "the streams have ended", || (broker.stat("streams") == 0).then_some(()));
    listener.close();
    assert!(listener.subscribe("a..b").unwrap_err().to_string().contains("at least one byte"));
}

/// What was published while nobody could hear it is told as a gap, and it goes on behind.
#[test]
fn a_subscription_outlives_a_broker_that_is_killed_and_says_what_it_missed() {
    let mut broker = Broker::plain();
    let (listener, publisher) = (connect(&broker), connect(&broker));
    let mut subscription = listener.subscribe("n.*").unwrap();
    let before = publisher.publish("n.1", &1).unwrap().revision;
    assert_eq!(next(&mut subscription), Ok((before, "n.1".to_owned(), 1)));
    broker.kill9();
    broker.restart();
    // A subscription has no thread of its own: until somebody asks it, it is not back.
    publisher.publish("n.1", &2).unwrap();
    let missed = publisher.publish("n.2", &3).unwrap().revision;
    assert_eq!(next(&mut subscription), Err(Told::Gap { after: before, up_to: missed }));
    let after = publisher.publish("n.1", &4).unwrap().revision;
    assert_eq!(next(&mut subscription), Ok((after, "n.1".to_owned(), 4)));
    assert_eq!(subscription.revision(), Some(after));

    // Killed in the midst of messages, again and again: each is told once and in its order, or lies in a gap.
    let mut published = BTreeMap::new();
    let mut told = BTreeMap::new();
    let mut gaps = Vec::new();
    let mut last = after;
    let mut hear = |subscription: &mut Subscription, until: u64, published: &BTreeMap<u64, u64>| {
        while last < until {
            last = match next(subscription) {
                Ok((revision, _, number)) => {
                    assert!(revision > last && told.insert(revision, number).is_none());
                    revision
                }
                Err(Told::Gap { after, up_to }) => {
                    assert!(after >= last && up_to > after, "{after} {up_to} behind {last}");
                    gaps.push((after, up_to));
                    up_to
                }
                Err(other) => panic!("{other:?}"),
            };
        }
        for (revision, number) in published {
            let is_missing = gaps.iter().any(|(after, up_to)| after < revision && revision <= up_to);
            assert!(is_missing || told.get(revision) == Some(number), "revision {revision} of {told:?}, {gaps:?}");
        }
    };
    for round in 0..3_u64 {
        for number in 0..50 {
            let number = 100 * round + number;
            let revision = publisher.publish(format!("n.{}", number % 3), &number).unwrap().revision;
            published.insert(revision, number);
            if number % 100 == 25 {
                hear(&mut subscription, revision, &published);
            }
        }
        broker.kill9();
        broker.restart();
        let revision = publisher.publish("n.end", &round).unwrap().revision;
        published.insert(revision, round);
        hear(&mut subscription, revision, &published);
    }
    assert!(told.len() >= 75 && gaps.len() == 3, "{} told, {gaps:?}", told.len());
}

/// Overlapping patterns: each message is one for each of them.
fn patterns() -> Vec<String> {
    (0..24).map(|depth| "#.".repeat(depth) + "slow").collect()
}

/// A listener that does not read until libzmq's queues have overflowed loses the rest, and sees one gap that has all of it.
#[test]
fn a_slow_listener_sees_one_gap_that_covers_what_it_lost() {
    const MESSAGES: u64 = 250;
    const VALUE_BYTES: usize = 2_000;
    let broker = Broker::plain();
    let publisher = connect(&broker);
    let patterns = patterns();
    let topics: Vec<Vec<u8>> = patterns.iter().map(|pattern| message_stream_topic(pattern.as_bytes())).collect();
    let witness = broker.subscriber(&topics.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let context = zmq::Context::new();
    let slow = context.socket(zmq::SUB).unwrap();
    slow.set_linger(0).unwrap();
    slow.set_rcvhwm(1).unwrap();
    topics.iter().for_each(|topic| slow.set_subscribe(topic).unwrap());
    slow.connect(&format!("ipc://{}", broker.pub_socket().display())).unwrap();
    wait_until(PATIENCE, "both have subscribed", || (broker.stat("topics") == 2 * topics.len() as u64).then_some(()));
    let mut last = 0;
    for _ in 0..MESSAGES {
        last = publisher.publish("slow", &"v".repeat(VALUE_BYTES)).unwrap().revision;
        // One by one, so that each is a message of its own on each stream.
        hear(&witness, topics.len(), last);
    }
    let mut chains: BTreeMap<Vec<u8>, Chain> = BTreeMap::new();
    wait_until(PATIENCE, "every stream has been read to its end", || {
        if slow.poll(zmq::POLLIN, 100).unwrap() > 0 {
            let frames = slow.recv_multipart(0).unwrap();
            let (pattern, message) = PublishedMessages::decode(&frames[0], &frames[1]).unwrap().unwrap();
            chains.entry(pattern).or_default().hear(&message);
        }
        (chains.len() == topics.len() && chains.values().all(|chain| chain.last == last)).then_some(())
    });
    let mut lost = 0;
    for (pattern, chain) in &chains {
        let Chain { told, gaps, .. } = chain;
        assert_eq!(gaps.len(), 1, "{}: {gaps:?}, {told} told", String::from_utf8_lossy(pattern));
        assert_eq!(*told + (gaps[0].1 - gaps[0].0), MESSAGES, "each revision is a message, which was told or is in the gap");
        lost += gaps[0].1 - gaps[0].0;
    }
    assert!(lost > 1_000, "only {lost} messages of {} were lost", MESSAGES * topics.len() as u64);
}

/// Until the witness has heard so many messages that tell of this revision.
fn hear(witness: &RawSubscriber, count: usize, revision: u64) {
    let mut heard = 0;
    while heard < count {
        let (topic, body) = witness.try_receive(PATIENCE).expect("what is published is heard");
        let (_, message) = PublishedMessages::decode(&topic, &body).unwrap().unwrap();
        heard += usize::from(message.revisions.iter().any(|told| told.revision == revision));
    }
}

/// A stream as a listener follows it.
#[derive(Default)]
struct Chain {
    has_begun: bool,
    last: u64,
    told: u64,
    gaps: Vec<(u64, u64)>,
}

impl Chain {
    fn hear(&mut self, message: &PublishedMessages) {
        if self.has_begun && message.prev > self.last {
            self.gaps.push((self.last, message.prev));
        }
        (self.has_begun, self.last) = (true, message.revision);
        self.told += message.revisions.len() as u64;
    }
}

#[test]
fn the_command_line_prints_messages_and_refuses_what_it_can_not_hear() {
    let broker = Broker::plain();
    let cli = Cli::new(broker.home());
    let streams = |count: u64| wait_until(PATIENCE, "it listens", || (broker.stat("streams") == count).then_some(()));
    let listener = cli.spawn(&["test", "subscribe", "orders.#", "--count", "3"]);
    streams(1);
    let machine = cli.spawn(&["test", "subscribe", "*.new", "--limit", "1", "--json"]);
    streams(2);
    cli.ok(&["test", "publish", "orders", "cat"]);
    cli.ok(&["test", "publish", "weather", "cold"]);
    cli.ok(&["test", "publish", "orders.new", r#"{"total":120}"#, "--json"]);
    cli.ok(&["test", "publish", "orders.new.eu", "two\nlines", "--retain"]);
    let said = finish(listener);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("listening") && !said.stderr.contains("missing"), "{}", said.stderr);
    let text = said.text();
    let lines: Vec<(u64, &str, &str)> = text
        .lines()
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            assert!(cells.len() == 4 && cells[1].ends_with('Z'), "{line}");
            (cells[0].parse().unwrap(), cells[2], cells[3])
        })
        .collect();
    let expected = [(1, "orders", "\"cat\""), (3, "orders.new", "{\"total\":120}"), (4, "orders.new.eu", "\"two\\nlines\"")];
    assert_eq!(lines, expected);
    let said = finish(machine);
    assert_eq!(said.code, Some(0), "{said:?}");
    let lines = said.json_lines();
    assert_eq!((&lines[0]["event"], &lines[1]["rev"]), (&json!("listening"), &json!(3)));
    assert_eq!((&lines[1]["subject"], &lines[1]["value"], lines.len()), (&json!("orders.new"), &json!({"total": 120}), 2));

    streams(0);
    let forever = cli.spawn(&["test", "subscribe", "#"]);
    streams(1);
    kill_process(Pid::from_child(&forever), Signal::INT).unwrap();
    assert_eq!(finish(forever).code, Some(130));

    let wrong = cli.run(&["test", "subscribe", "or*"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("tokens of their own"), "{}", wrong.stderr);

    // Somebody with some prefixes is told what to do instead.
    let home = Home::new();
    let ann = Cli::new(&home);
    let key = ann.ok(&["id"]).text().trim_end().to_owned();
    cli.ok(&["test", "authorize", &key, "write", "--prefix", "orders."]);
    let broker_key = broker.endpoint()["public_key"].as_str().unwrap();
    let address = format!("kv://127.0.0.1:{}/test?key={broker_key}", broker.tcp_port());
    ann.ok(&[&address, "publish", "orders.new", "1", "--accept-new-key"]);
    let refused = ann.run(&[&address, "subscribe", "orders.*", "--json"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("only some prefixes") && refused.stderr.contains("bind QUEUE"), "{}", refused.stderr);
    assert_eq!(refused.json()["error"]["code"], Value::from("refused"));
}
