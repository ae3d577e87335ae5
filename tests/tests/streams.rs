//! The streams of the publisher as a stranger reads them: plain SUB sockets, and docs/protocol.md.
//!
//! - A [`Reader`] is the one rule of the protocol and nothing else. Where it meets a hole it asks `events`, and says that it did.
//! - A [`Mute`] speaks ZMTP by itself, subscribes, and reads nothing: what it does not read stays in the broker.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker_protocol::limits;
use kvbroker_tests::{Broker, PATIENCE, RawClient, RawSubscriber, unpack, wait_until};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Long enough for a message that must not come. Nothing depends on it when all is well.
const SILENCE: Duration = Duration::from_millis(300);

fn topic(prefix: &str) -> Vec<u8> {
    [b"s", &u16::try_from(prefix.len()).unwrap().to_be_bytes()[..], prefix.as_bytes()].concat()
}

fn prefix_of(topic: &[u8]) -> &str {
    assert_eq!(topic[0], b's');
    assert_eq!(usize::from(u16::from_be_bytes([topic[1], topic[2]])), topic.len() - 3);
    std::str::from_utf8(&topic[3..]).unwrap()
}

/// A message of a stream.
#[derive(Debug)]
struct Told {
    prefix: String,
    epoch: String,
    prev: u64,
    rev: u64,
    events: Vec<Value>,
}

impl Told {
    fn new(topic: &[u8], body: &[u8]) -> Told {
        let body = unpack(body);
        let told = Told {
            prefix: prefix_of(topic).to_owned(),
            epoch: body["epoch"].as_str().unwrap().to_owned(),
            prev: body["prev"].as_u64().unwrap(),
            rev: body["rev"].as_u64().unwrap(),
            events: body["events"].as_array().cloned().unwrap_or_default(),
        };
        assert!(told.epoch.len() == 16 && told.prev <= told.rev, "{told:?}");
        told
    }

    fn is_bookmark(&self) -> bool {
        self.events.is_empty()
    }

    /// Each revision with its changes as `key kind`.
    fn changes(&self) -> Vec<(u64, Vec<String>)> {
        let change = |change: &Value| format!("{} {}", change[0].as_str().unwrap(), change[1].as_str().unwrap());
        let revision = |events: &Value| {
            assert!(events[1].as_u64().unwrap() > 1_600_000_000_000, "a time");
            (events[0].as_u64().unwrap(), events[2].as_array().unwrap().iter().map(change).collect())
        };
        self.events.iter().map(revision).collect()
    }
}

fn next(subscriber: &RawSubscriber) -> Told {
    let (topic, body) = subscriber.try_receive(PATIENCE).expect("no message of a stream came");
    Told::new(&topic, &body)
}

/// The next message with events, past bookmarks, which must not tell of a hole.
fn next_events(subscriber: &RawSubscriber) -> Told {
    wait_until(PATIENCE, "a message with events", || Some(next(subscriber)).filter(|told| !told.is_bookmark()))
}

/// The next message that goes beyond `rev`: a broker that had to wait for its disk repeats where a stream is meanwhile.
fn next_beyond(subscriber: &RawSubscriber, rev: u64) -> Told {
    wait_until(PATIENCE, "a message beyond a revision", || {
        let told = next(subscriber);
        assert!(told.rev > rev || (told.prev == told.rev && told.is_bookmark()), "no repetition: {told:?}");
        Some(told).filter(|told| told.rev > rev)
    })
}

fn subscribe(broker: &Broker, prefixes: &[&str]) -> RawSubscriber {
    let topics: Vec<Vec<u8>> = prefixes.iter().map(|prefix| topic(prefix)).collect();
    broker.subscriber(&topics.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn done(reply: &Value) -> u64 {
    assert_eq!(reply["status"], "ok", "{reply}");
    reply["rev"].as_u64().unwrap()
}

fn put(client: &RawClient, key: &str, value: &str) -> u64 {
    done(&client.ask_json(&json!({"op": "put", "key": key, "value": value})))
}

fn puts(client: &RawClient, keys: &[&str]) {
    let puts: Vec<Value> = keys.iter().map(|key| json!({"op": "put", "key": key, "value": 1})).collect();
    client.ask_json(&json!(puts))["results"].as_array().unwrap().iter().for_each(|result| {
        done(result);
    });
}

#[test]
fn a_stream_begins_with_a_bookmark_and_every_message_goes_on_where_the_last_one_ended() {
    let mut broker = Broker::plain();
    let client = broker.dealer();
    let first = put(&client, "a/old", "x");
    let subscriber = subscribe(&broker, &["", "a/", "a/b", "never/"]);
    let mut at = BTreeMap::new();
    for _ in 0..4 {
        let told = next(&subscriber);
        assert_eq!((told.prev, told.rev, told.is_bookmark()), (first, first, true), "of what was not watched before");
        assert_eq!(told.epoch, client.ask_json(&json!({"op": "hello"}))["epoch"].as_str().unwrap());
        assert_eq!(at.insert(told.prefix, told.rev), None, "one for each prefix");
    }
    // One transaction, which concerns three of them in different ways.
    let txn = json!({"op": "txn", "then": [
        {"op": "put", "key": "a/x", "value": 1}, {"op": "put", "key": "a/b/y", "value": 2},
        {"op": "del", "key": "a/old"}, {"op": "put", "key": "c", "value": 3}]});
    let revision = done(&client.ask_json(&txn));
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    while told.len() < 3 {
        let message = next_events(&subscriber);
        assert_eq!((message.prev, message.rev), (first, revision), "{message:?}");
        told.insert(message.prefix.clone(), message);
    }
    let changes = |prefix: &str| told[prefix].changes();
    assert_eq!(changes(""), [(revision, ["a/b/y put", "a/old remove", "a/x put", "c put"].map(str::to_owned).to_vec())]);
    assert_eq!(changes("a/"), [(revision, ["a/b/y put", "a/old remove", "a/x put"].map(str::to_owned).to_vec())]);
    assert_eq!(changes("a/b"), [(revision, vec!["a/b/y put".to_owned()])]);
    at.extend(told.keys().map(|prefix| (prefix.clone(), revision)));
    // Many revisions at once are fewer messages, none of which has a gap before it.
    let keys: Vec<String> = (0..200).map(|number| format!("a/b{}", number % 7)).collect();
    puts(&client, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut seen, mut messages) = (BTreeMap::<String, Vec<u64>>::new(), 0);
    while at.iter().any(|(prefix, rev)| prefix != "never/" && *rev < revision + 200) {
        let message = next(&subscriber);
        assert_eq!(message.prev, at[&message.prefix], "{message:?}");
        at.insert(message.prefix.clone(), message.rev);
        let revisions: Vec<u64> = message.changes().iter().map(|(revision, _)| *revision).collect();
        assert!(revisions.iter().all(|revision| (message.prev + 1..=message.rev).contains(revision)));
        messages += usize::from(!message.is_bookmark());
        seen.entry(message.prefix).or_default().extend(revisions);
    }
    let all: Vec<u64> = (revision + 1..=revision + 200).collect();
    for prefix in ["", "a/", "a/b"] {
        assert_eq!(seen[prefix], all, "{prefix}: each once and in order");
    }
    assert!(messages < 3 * 200 / 4, "{messages} messages for 200 revisions on three streams");
    broker.stop();
}

#[test]
fn whoever_joins_later_hears_where_the_stream_is_and_the_others_miss_nothing_by_that() {
    let mut broker = Broker::plain();
    let client = broker.dealer();
    let early = subscribe(&broker, &["a"]);
    let begin = next(&early).rev;
    let revision = put(&client, "a1", "x");
    assert_eq!(next_events(&early).rev, revision);
    let other = put(&client, "b", "x");
    let late = subscribe(&broker, &["a"]);
    let bookmark = next(&late);
    // If that took long, the stream has told the other revision before.
    assert!([revision, other].contains(&bookmark.prev) && bookmark.is_bookmark(), "{bookmark:?}");
    assert_eq!(bookmark.rev, other);
    let last = put(&client, "a2", "x");
    let told = next_events(&late);
    assert_eq!((told.prev, told.rev), (other, last));
    let told: Vec<Told> = std::iter::from_fn(|| Some(next(&early))).take_while(|told| told.rev < last).collect();
    assert!(told.iter().all(|told| told.is_bookmark() && told.prev >= begin), "{told:?}");
    broker.stop();
}

#[test]
fn silence_is_told_again_and_again() {
    let mut broker = Broker::plain();
    let subscriber = subscribe(&broker, &["quiet/"]);
    let begin = next(&subscriber);
    for _ in 0..2 {
        let again = next(&subscriber);
        assert_eq!((again.prev, again.rev, again.is_bookmark()), (begin.rev, begin.rev, true));
    }
    let elsewhere = put(&broker.dealer(), "loud", "x");
    let after = next_beyond(&subscriber, begin.rev);
    assert_eq!((after.prev, after.rev, after.is_bookmark()), (begin.rev, elsewhere, true));
    broker.stop();
}

#[test]
fn a_revision_that_is_too_large_is_a_hole_which_can_be_filled() {
    let mut broker = Broker::plain();
    let client = broker.dealer();
    let subscriber = subscribe(&broker, &["a/"]);
    let verified = next(&subscriber).rev;
    let big = put(&client, "a/big", &"x".repeat(limits::STREAM_REVISION_BYTES_MAX));
    let hole = next_beyond(&subscriber, verified);
    assert_eq!((hole.prev, hole.rev, hole.is_bookmark()), (big, big, true));
    let refill = client.ask_json(&json!({"op": "events", "prefix": "a/", "after": verified}));
    assert_eq!(
        (&refill["events"][0][0], &refill["events"][0][2][0][0], &refill["through"]),
        (&json!(big), &json!("a/big"), &json!(big))
    );
    let small = put(&client, "a/small", "x");
    let told = next_events(&subscriber);
    assert_eq!((told.prev, told.rev), (big, small));
    broker.stop();
}

#[test]
fn a_chain_begins_anew_with_a_broker_that_was_started_again() {
    let mut broker = Broker::plain();
    let subscriber = subscribe(&broker, &["a/"]);
    let before = next(&subscriber);
    let verified = put(&broker.dealer(), "a/1", "x");
    assert_eq!(next_events(&subscriber).rev, verified);
    broker.kill9();
    broker.restart();
    // The socket comes back by itself; what was written meanwhile shows as a hole, or the message tells it.
    let missed = put(&broker.dealer(), "a/2", "x");
    let told = wait_until(PATIENCE, "the stream goes on", || Some(next(&subscriber)).filter(|told| told.rev >= missed));
    assert_eq!(told.epoch, before.epoch, "nothing was lost");
    assert!(told.prev == missed || (told.prev == verified && told.changes().len() == 1), "{told:?}");
    let next_one = put(&broker.dealer(), "a/3", "x");
    let after = next_events(&subscriber);
    assert_eq!((after.prev, after.rev), (told.rev, next_one));
    broker.stop();
}

#[test]
fn what_nobody_watches_any_more_is_not_sent() {
    let mut broker = Broker::plain();
    let client = broker.dealer();
    let until_streams = |number| wait_until(PATIENCE, "streams", || (broker.stat("streams") == number).then_some(()));
    let (one, two) = (subscribe(&broker, &["a", "b"]), subscribe(&broker, &["a"]));
    until_streams(2);
    for _ in 0..2 {
        next(&one);
    }
    next(&two);
    one.socket().set_unsubscribe(&topic("b")).unwrap();
    until_streams(1);
    one.socket().set_unsubscribe(&topic("a")).unwrap();
    put(&client, "a", "x");
    assert!(next_events(&two).changes().len() == 1, "the other one watches on");
    drop(two);
    until_streams(0);
    let sent = broker.stat("stream_messages");
    put(&client, "a", "x");
    put(&client, "b", "x");
    while let Some((topic, body)) = one.try_receive(SILENCE) {
        assert!(Told::new(&topic, &body).is_bookmark(), "left over from before");
    }
    assert_eq!(broker.stat("stream_messages"), sent);
    // A prefix of a topic is no stream, and nothing is sent for it.
    let wrong = broker.subscriber(&[b"s", b"s\0"]);
    wait_until(PATIENCE, "the subscriptions", || (broker.stat("topics") == 2).then_some(()));
    put(&client, "a", "x");
    assert!(wrong.try_receive(SILENCE).is_none());
    assert_eq!(broker.stat("stream_messages"), sent);
    broker.stop();
}

/// A SUB that subscribes and never reads.
struct Mute(#[expect(dead_code, reason = "it is open until it is dropped")] UnixStream);

impl Mute {
    fn connect(pub_socket: &Path, topic: &[u8]) -> Mute {
        let mut stream = UnixStream::connect(pub_socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 64];
        greeting[..16].copy_from_slice(b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0NULL");
        let ready = b"\x05READY\x0bSocket-Type\0\0\0\x03SUB";
        stream.write_all(&[&greeting[..], &[4, ready.len() as u8], ready].concat()).unwrap();
        stream.read_exact(&mut [0; 64]).unwrap();
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[0], 4, "a command");
        stream.read_exact(&mut vec![0; usize::from(head[1])]).unwrap();
        let subscription = [&[0, topic.len() as u8 + 1, 1], topic].concat();
        stream.write_all(&subscription).unwrap();
        Mute(stream)
    }
}

/// The one rule: what was told of each revision, and how far that goes.
struct Reader {
    verified: u64,
    epoch: String,
    /// How many changes of each revision.
    has: BTreeMap<u64, usize>,
    holes: usize,
}

impl Reader {
    fn new(first: &Told) -> Reader {
        Reader { verified: first.rev, epoch: first.epoch.clone(), has: BTreeMap::new(), holes: 0 }
    }

    fn deliver(&mut self, events: &[Value]) {
        for events in events {
            let revision = events[0].as_u64().unwrap();
            if revision > self.verified {
                assert_eq!(self.has.insert(revision, events[2].as_array().unwrap().len()), None, "told twice: {revision}");
            }
        }
    }

    fn read(&mut self, told: &Told, client: &RawClient) {
        assert_eq!(told.epoch, self.epoch);
        while told.prev > self.verified {
            self.holes += 1;
            let page = client.ask_json(&json!({"op": "events", "prefix": told.prefix, "after": self.verified}));
            assert_eq!(page["status"], "ok", "{page}");
            self.deliver(page["events"].as_array().unwrap());
            self.verified = page["through"].as_u64().unwrap();
        }
        if told.rev > self.verified {
            self.deliver(&told.events);
            self.verified = told.rev;
        }
    }
}

/// What the broker says was unread when it cut somebody off, bytes.
fn unread_when_blamed(log: &str) -> u64 {
    let line = log.lines().find(|line| line.contains("does not read what is published")).unwrap_or_default();
    let bytes = line.split("bytes=").nth(1).unwrap_or_default();
    bytes.split(|other: char| !other.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[test]
fn a_subscriber_that_does_not_read_is_cut_off_alone_and_bloats_nothing() {
    const VALUE_BYTES: usize = 1_000_000;
    let mut broker = Broker::plain();
    let good = subscribe(&broker, &["w/"]);
    let mut reader = Reader::new(&next(&good));
    let begin = reader.verified;
    let _mute = Mute::connect(&broker.pub_socket(), &topic("w/"));
    wait_until(PATIENCE, "both subscriptions", || (broker.stat("topics") == 2).then_some(()));
    let (router, big) = (broker.router_socket(), "x".repeat(VALUE_BYTES));
    let (is_cut, last) = (AtomicBool::new(false), AtomicU64::new(begin));
    let most_unread_seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = RawClient::dealer(&router);
            while !is_cut.load(Ordering::Relaxed) {
                last.store(put(&writer, "w/key", &big), Ordering::Relaxed);
            }
            put(&writer, "elsewhere", "1");
        });
        let watched = scope.spawn(|| {
            let (mut most, deadline) = (0, Instant::now() + 4 * PATIENCE);
            while broker.stat("pub_unread_blamed") == 0 {
                most = most.max(broker.stat("published_unread_bytes"));
                if Instant::now() > deadline {
                    break;
                }
            }
            is_cut.store(true, Ordering::Relaxed);
            most
        });
        let client = RawClient::dealer(&router);
        while !is_cut.load(Ordering::Relaxed) {
            if let Some((topic, body)) = good.try_receive(SILENCE) {
                reader.read(&Told::new(&topic, &body), &client);
            }
        }
        watched.join().unwrap()
    });
    // Two samples can be further apart than it was too much, so the broker's own word counts too.
    let most_unread = most_unread_seen.max(unread_when_blamed(&broker.stderr()));
    let memory = broker.memory();
    println!("{} MiB unread at most, {} MiB taken, {} holes", most_unread / MIB, memory.peak / MIB, reader.holes);
    assert_eq!(broker.stat("pub_unread_blamed"), 1, "nobody was to blame");
    // Nobody else has noticed, unless the writer was faster than the publisher, which waited for a moment.
    assert_eq!((broker.stat("pub_unread_cut"), broker.stat("pub_reopened")), (0, 0));
    wait_until(PATIENCE, "one subscription is left", || (broker.stat("topics") == 1).then_some(()));
    assert!(most_unread > limits::PUBLISHED_UNREAD_BYTES_MAX as u64 / 2, "{most_unread} bytes were unread at most");
    assert!(most_unread <= limits::PUBLISHED_UNREAD_BYTES_MAX as u64 + 2 * MIB, "{most_unread} bytes were unread");
    // What is unread, the history, the queue to the publisher, and a broker with a few values in its hands.
    let most =
        (limits::PUBLISHED_UNREAD_BYTES_MAX + limits::HISTORY_MEMORY_BYTES_MAX + limits::PUBLISH_BYTES_MAX) as u64 + 128 * MIB;
    assert!(memory.peak < most, "the broker took {} MiB", memory.peak / MIB);
    // It has come back, and gets everything: each revision once.
    let (client, last) = (broker.dealer(), last.load(Ordering::Relaxed));
    let deadline = Instant::now() + PATIENCE;
    while reader.verified < last {
        assert!(Instant::now() < deadline, "at {} of {last}", reader.verified);
        reader.read(&next(&good), &client);
    }
    assert!(reader.has.keys().copied().eq(begin + 1..=last), "each revision once");
    wait_until(PATIENCE, "the memory is given back", || (broker.stat("published_unread_bytes") < MIB).then_some(()));
    broker.stop();
}
