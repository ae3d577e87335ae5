//! `events` from end to end: who asks again from where the last answer ended misses nothing, over kills of the broker as well; who
//! waits is told at once, is in nobody's way, and hears of nothing that it may not read.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use kvbroker::keys::KeyPair;
use kvbroker::paths::Dirs;
use kvbroker_protocol::{ChangeKind, ErrorCode, Operation, Operations, RevisionEvents, Stored, limits};
use kvbroker_tests::{Broker, BrokerOptions, Cli, PATIENCE, RawClient, finish, json, wait_until};
use serde_json::{Value, json};

/// Longer than any test: whatever ends such a wait, it is not the time.
const LONG: Duration = Duration::from_secs(60);
const LONG_MS: u64 = 60_000;

fn client(broker: &Broker) -> Client {
    let options = ConnectOptions::new().dirs(Dirs::under(broker.home().path()).unwrap()).catalogs(CatalogList::none());
    Client::connect_with("test", options.timeout(PATIENCE).wait_for_broker(true)).unwrap()
}

fn until_waiting(broker: &Broker, count: u64) {
    wait_until(PATIENCE, "calls wait for changes", || (broker.stat("events_waiting") == count).then_some(()));
}

fn send(client: &RawClient, request: &Value) {
    client.send(&[request.to_string().as_bytes()]);
}

/// The revisions that were told, and the keys that they changed.
fn told(reply: &Value) -> Vec<(u64, Vec<&str>)> {
    let mut told = Vec::new();
    for event in reply["events"].as_array().unwrap_or_else(|| panic!("{reply}")) {
        let keys: Vec<&str> = event[2].as_array().unwrap().iter().map(|change| change[0].as_str().unwrap()).collect();
        assert!(!keys.is_empty(), "no revision is told for nothing: {reply}");
        told.push((event[0].as_u64().unwrap(), keys));
    }
    told
}

#[test]
fn whoever_goes_on_where_it_was_misses_nothing_over_kills_of_the_broker() {
    const WRITERS: u64 = 4;
    const KILLS: u64 = 5;
    let mut broker = Broker::plain();
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (client, is_over) = (client(&broker), is_over.clone());
            std::thread::spawn(move || {
                let mut done = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let value = Stored::integer(done + 1);
                    client.put(format!("w/{writer}"), value).unwrap();
                    client.put(format!("other/{writer}"), Stored::integer(0)).unwrap();
                    done += 1;
                }
                done
            })
        })
        .collect();
    let follower = std::thread::spawn({
        let (client, is_over) = (client(&broker), is_over.clone());
        move || {
            let (mut after, mut last, mut pages) = (0, None, 0);
            let mut seen: BTreeMap<String, Vec<i128>> = BTreeMap::new();
            loop {
                let was_over = is_over.load(Ordering::Relaxed);
                let wait = if was_over { Duration::ZERO } else { Duration::from_secs(1) };
                let page = client.events("w/", Some(after), Some(50), wait).unwrap();
                for event in &page.events {
                    assert!(Some(event.revision) > last && event.revision > after && event.revision <= page.through);
                    last = Some(event.revision);
                    for change in &event.changes {
                        let ChangeKind::Put(value) = &change.kind else { panic!("{change:?}") };
                        let number = kvbroker_protocol::integer_of(value.as_bytes()).unwrap();
                        seen.entry(String::from_utf8(change.key.clone()).unwrap()).or_default().push(number);
                    }
                }
                pages += usize::from(!page.events.is_empty());
                after = page.through;
                if was_over && !page.more && page.events.is_empty() {
                    return (seen, pages);
                }
            }
        }
    });
    for _ in 0..KILLS {
        let from = broker.stat("revision");
        wait_until(PATIENCE, "writes are done", || (broker.stat("revision") > from + 200).then_some(()));
        broker.kill9();
        broker.restart();
    }
    let from = broker.stat("revision");
    wait_until(PATIENCE, "writes are done", || (broker.stat("revision") > from + 200).then_some(()));
    is_over.store(true, Ordering::Relaxed);
    let done: Vec<i128> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    let (seen, pages) = follower.join().unwrap();
    assert_eq!(seen.len(), done.len());
    for (writer, done) in done.into_iter().enumerate() {
        let expected: Vec<i128> = (1..=done).collect();
        assert_eq!(seen[&format!("w/{writer}")], expected, "each write of writer {writer} once, in order");
    }
    assert!(pages > 20, "it followed along, in {pages} pages");
    broker.stop();
}

#[test]
fn who_waits_is_told_at_once_and_is_in_nobodys_way() {
    let mut broker = Broker::plain();
    let client = Arc::new(client(&broker));
    // More than are collected into one message, and all of one connection.
    let waiting: Vec<_> = (0..20)
        .map(|at| {
            let client = Arc::clone(&client);
            std::thread::spawn(move || client.events(format!("lamp/{at:02}"), None, None, LONG).unwrap())
        })
        .collect();
    until_waiting(&broker, 20);
    let begun = Instant::now();
    for round in 0..50 {
        client.put("small", Stored::integer(round)).unwrap();
        client.get("small").unwrap();
    }
    assert!(begun.elapsed() < LONG / 2, "other calls of the client waited for the changes");
    assert_eq!(broker.stat("events_waiting"), 20);
    for at in 0..20 {
        client.put_text(format!("lamp/{at:02}"), "on").unwrap();
    }
    for (at, waits) in waiting.into_iter().enumerate() {
        let page = waits.join().unwrap();
        assert_eq!(page.events.len(), 1);
        assert_eq!(page.events[0].changes[0].key, format!("lamp/{at:02}").into_bytes());
        assert_eq!((page.through, page.more), (page.revision, false));
    }
    until_waiting(&broker, 0);
    // What waits does not keep the broker from stopping, and is told.
    let raw = broker.dealer();
    send(&raw, &json!({"op": "events", "id": 7, "wait": LONG_MS}));
    until_waiting(&broker, 1);
    broker.term();
    let reply = json(&raw.receive());
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(7), &json!("shutting_down")));
    broker.wait_for_exit(PATIENCE);
}

#[test]
fn a_request_that_is_sent_again_is_answered_once() {
    let mut broker = Broker::plain();
    let raw = broker.dealer();
    for _ in 0..3 {
        send(&raw, &json!({"op": "events", "id": 7, "prefix": "a", "after": 0, "wait": LONG_MS}));
    }
    // Behind them on the same connection: the broker has come to all three.
    send(&raw, &json!({"op": "ping", "id": 8}));
    assert_eq!(json(&raw.receive())["id"], 8);
    assert_eq!(broker.stat("events_waiting"), 1);
    // In flight is one of them, too: else some rounds of this would use up what a client may have.
    for at in 0..2 * limits::IN_FLIGHT_MAX {
        send(&raw, &json!({"op": "events", "id": 7, "prefix": "a", "after": 0, "wait": LONG_MS}));
        if at % 256 == 0 {
            assert_eq!(raw.ask_json(&json!({"op": "ping", "id": 8}))["id"], 8);
        }
    }
    send(&raw, &json!({"op": "put", "id": 9, "key": "a", "value": 1}));
    let replies: Vec<Value> = (0..2).map(|_| json(&raw.receive())).collect();
    let of = |id: u64| replies.iter().find(|reply| reply["id"] == id).unwrap_or_else(|| panic!("{replies:?}"));
    assert_eq!(of(9)["status"], "ok");
    assert_eq!(told(of(7)), [(1, vec!["a"])]);
    assert!(raw.try_receive(Duration::from_millis(200)).is_none(), "one request, one reply");
    broker.stop();
}

#[test]
fn so_many_may_wait_and_no_more() {
    let mut broker = Broker::plain();
    let raw = broker.dealer();
    for id in 0..limits::PARKED_PER_CLIENT_MAX {
        send(&raw, &json!({"op": "events", "id": id, "prefix": "a", "wait": LONG_MS}));
    }
    until_waiting(&broker, limits::PARKED_PER_CLIENT_MAX as u64);
    let refused = raw.ask_json(&json!({"op": "events", "prefix": "a", "wait": LONG_MS}));
    assert_eq!((&refused["error"]["code"], &refused["error"]["retry_after_ms"]), (&json!("busy"), &json!(100)));
    // Who does not wait is answered, and so is another client.
    assert_eq!(raw.ask_json(&json!({"op": "events", "prefix": "a"}))["through"], 0);
    let other = broker.dealer();
    send(&other, &json!({"op": "events", "id": 1, "prefix": "a", "wait": LONG_MS}));
    until_waiting(&broker, limits::PARKED_PER_CLIENT_MAX as u64 + 1);
    assert_eq!(broker.dealer().ask_json(&json!({"op": "put", "key": "a", "value": 1}))["status"], "ok");
    for _ in 0..limits::PARKED_PER_CLIENT_MAX {
        assert_eq!(told(&json(&raw.receive())), [(1, vec!["a"])]);
    }
    assert_eq!(told(&json(&other.receive())), [(1, vec!["a"])]);
    broker.stop();
}

#[test]
fn a_restricted_key_hears_of_its_own_keys_and_of_nothing_once_it_is_revoked() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());
    let own = KeyPair::generate().unwrap();
    let name = kvbroker_protocol::UserKey::from(*own.public()).to_string();
    cli.ok(&["test", "authorize", &name, "read", "--prefix", "ann/"]);
    let key = broker.endpoint()["public_key"].as_str().unwrap().parse().unwrap();
    let ann = RawClient::on_tcp(&format!("tcp://127.0.0.1:{}", broker.tcp_port()), &own, &key);
    for key in ["ann/1", "bob/1"] {
        cli.ok(&["test", "put", key, "1"]);
    }
    let all = ann.ask_json(&json!({"op": "events", "after": 0}));
    assert_eq!((told(&all), &all["through"]), (vec![(1, vec!["ann/1"])], &json!(2)));
    assert_eq!(told(&ann.ask_json(&json!({"op": "events", "prefix": "bob/", "after": 0}))), []);
    send(&ann, &json!({"op": "events", "id": 1, "wait": LONG_MS}));
    until_waiting(&broker, 1);
    cli.ok(&["test", "txn", r#"{"then": [{"op": "put", "key": "bob/2", "value": 1}]}"#]);
    assert_eq!(broker.stat("events_waiting"), 1, "it is not for her");
    cli.ok(&[
        "test",
        "txn",
        r#"{"then": [{"op": "put", "key": "bob/3", "value": 1}, {"op": "put", "key": "ann/3", "value": 1}]}"#,
    ]);
    let reply = json(&ann.receive());
    assert_eq!((told(&reply), &reply["id"]), (vec![(4, vec!["ann/3"])], &json!(1)));
    // Revoked while it waits: the wait is over when the command is, and nothing of what comes is in it.
    send(&ann, &json!({"op": "events", "id": 2, "wait": LONG_MS}));
    until_waiting(&broker, 1);
    cli.ok(&["test", "revoke", &name]);
    cli.ok(&["test", "put", "ann/4", "secret"]);
    wait_until(PATIENCE, "nothing waits", || (broker.stat("events_waiting") == 0).then_some(()));
    if let Some(frames) = ann.try_receive(PATIENCE) {
        let reply = json(frames.last().unwrap());
        assert_eq!((&reply["error"]["code"], reply.get("events")), (&json!("refused"), None), "{reply}");
    }
    broker.stop();
}

#[test]
fn kvclient_prints_what_has_changed_and_waits_for_the_next() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());
    cli.ok(&["test", "put", "lamp/desk", "on"]);
    cli.ok(&["test", "put", "other", "x"]);
    cli.ok(&["test", "del", "lamp/desk"]);
    let rows = |text: String| -> Vec<String> {
        let words =
            |line: &str| line.split('\t').filter(|word| !word.ends_with('Z')).map(str::to_owned).collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect()
    };
    let since = cli.ok(&["test", "events", "lamp/", "--after", "0"]);
    assert_eq!(rows(since.text()), ["1 put lamp/desk \"on\"", "3 remove lamp/desk"]);
    assert!(since.stderr.contains("--after 3"), "{}", since.stderr);
    assert_eq!(
        rows(cli.ok(&["test", "events", "--after", "0", "--limit", "2"]).text()),
        ["1 put lamp/desk \"on\"", "2 put other \"x\""]
    );
    let lines = cli.ok(&["test", "events", "--after", "2", "--json"]).json_lines();
    assert_eq!(
        (&lines[0]["event"], &lines[0]["key"], &lines[1]),
        (&json!("remove"), &json!("lamp/desk"), &json!({"through": 3}))
    );
    let nothing = cli.run(&["test", "events", "--wait", "50ms"]);
    assert_eq!((nothing.code, nothing.text()), (Some(1), String::new()));
    assert_eq!(cli.run(&["test", "events"]).code, Some(2), "since when?");
    let ahead = cli.run(&["test", "events", "--after", "99"]);
    assert_eq!(ahead.code, Some(2), "{}", ahead.stderr);
    // A wait that is longer than the timeout of other calls.
    let waits = cli.spawn(&["test", "events", "lamp/", "--wait", "90s", "--timeout", "3s"]);
    until_waiting(&broker, 1);
    // Not to wait for something, but to outlast the timeout.
    std::thread::sleep(Duration::from_millis(3_200));
    cli.ok(&["test", "put", "other", "y"]);
    cli.ok(&["test", "put", "lamp/desk", "off"]);
    let said = finish(waits);
    assert_eq!((said.code, rows(said.text())), (Some(0), vec!["5 put lamp/desk \"off\"".to_owned()]));
    broker.stop();
}

/// A value that is told from others.
fn large(number: u64) -> Stored {
    Stored::text(&format!("{number}{}", "v".repeat(1 << 20))).unwrap()
}

fn writes_more_than_memory_holds(client: &Client) -> u64 {
    let count = (limits::HISTORY_MEMORY_BYTES_MAX as u64 >> 20) * 3 / 2;
    for number in 1..=count {
        client.put("large", large(number)).unwrap();
        client.put(format!("small/{number}"), Stored::integer(i128::from(number))).unwrap();
    }
    2 * count
}

/// The revisions behind this one, of all pages, and how many these were.
fn all_behind(client: &Client, prefix: &str, mut after: u64) -> (Vec<RevisionEvents>, usize) {
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let page = client.events(prefix, Some(after), None, Duration::ZERO).unwrap();
        assert!(page.through > after || !page.more);
        all.extend(page.events);
        (after, pages) = (page.through, pages + 1);
        if !page.more {
            return (all, pages);
        }
    }
}

#[test]
fn what_memory_has_no_more_the_log_tells() {
    let mut broker = Broker::plain();
    let client = client(&broker);
    let last = writes_more_than_memory_holds(&client);
    assert!(broker.stat("history_oldest") > 10, "memory does not reach back to the beginning");
    let expected = |revision: u64| match revision.div_ceil(2) {
        number if revision % 2 == 1 => (b"large".to_vec(), large(number)),
        number => (format!("small/{number}").into_bytes(), Stored::integer(i128::from(number))),
    };
    let check = |all: &[RevisionEvents], from: u64, step: usize| {
        let revisions: Vec<u64> = all.iter().map(|event| event.revision).collect();
        assert_eq!(revisions, (from..=last).step_by(step).collect::<Vec<_>>());
        for event in all {
            let (key, value) = expected(event.revision);
            assert_eq!((event.changes.len(), &event.changes[0].key), (1, &key));
            assert!(event.changes[0].kind == ChangeKind::Put(value), "the value of revision {}", event.revision);
        }
    };
    let (all, pages) = all_behind(&client, "", 0);
    check(&all, 1, 1);
    assert!(pages > 40, "a page is bounded: {pages}");
    let from_log = broker.stat("events_from_log");
    assert!(from_log > 10 && broker.stat("events_from_memory") > 1, "{from_log}");
    check(&all_behind(&client, "small/", 0).0, 2, 2);
    // A wait that begins so far back is answered at once, and goes on in the worker.
    let page = client.events("small/", Some(1), Some(3), LONG).unwrap();
    assert_eq!((page.events.len(), page.through, page.more), (3, 6, true));
    let page = client.events("nothing/", Some(0), None, LONG).unwrap();
    assert!(page.events.is_empty() && page.more, "it has come to {}", page.through);
    // After a start memory is what the log behind the checkpoint fills it with; what is told is the same.
    broker.kill9();
    broker.restart();
    check(&all_behind(&client, "", 0).0, 1, 1);
    broker.stop();
}

#[test]
fn what_the_log_has_no_more_either_is_said_to_be_gone() {
    let args = ["--segment-size", "4MiB", "--checkpoint-after", "4MiB", "--history-size", "0", "--history-age", "0s"];
    let mut broker = Broker::start(BrokerOptions::default().args(args));
    let client = client(&broker);
    let last = writes_more_than_memory_holds(&client);
    wait_until(PATIENCE, "the log is trimmed", || (broker.stat("history_log_oldest") > 10).then_some(()));
    let error = client.events("", Some(1), None, LONG).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Compacted));
    let kvbroker::client::ClientError::Failed(failure) = error else { panic!("{error}") };
    let oldest = failure.oldest.unwrap();
    assert!(oldest > 1 && oldest <= broker.stat("history_oldest").min(broker.stat("history_log_oldest")), "{oldest}");
    assert!(broker.stat("events_compacted") >= 1);
    // Whatever is told as the oldest was known then; what is known now may begin later.
    let now = broker.stat("history_oldest").min(broker.stat("history_log_oldest"));
    let (all, _) = all_behind(&client, "", now - 1);
    assert_eq!(all.iter().map(|event| event.revision).collect::<Vec<_>>(), (now..=last).collect::<Vec<_>>());
    broker.stop();
}

/// `cargo test -p kvbroker-tests --test events_poll -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed_of_catching_up() {
    const REVISIONS: u64 = 1_000_000;
    const IN_MESSAGE: u64 = 1_000;
    let mut broker = Broker::start(BrokerOptions::default().args(["--sync", "never"]));
    let client = client(&broker);
    for first in (0..REVISIONS).step_by(IN_MESSAGE as usize) {
        let put = |number: u64| Operation::Put {
            key: format!("small/{:06}", number * 7_919 % REVISIONS).into(),
            value: Stored::integer(i128::from(number)),
            condition: None,
            ttl_ms: None,
        };
        client.call(Operations::Many((first..first + IN_MESSAGE).map(put).collect())).unwrap();
    }
    let memory_oldest = broker.stat("history_oldest");
    let log_bytes = broker.stat("log_bytes");
    for round in ["for the first time", "again"] {
        let (mut after, mut told, mut pages) = (0, 0, 0);
        let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
        let read_before = broker.stat("events_log_read_bytes");
        while after < REVISIONS {
            let asked = Instant::now();
            let page = client.events("small/", Some(after), None, Duration::ZERO).unwrap();
            slowest = slowest.max(asked.elapsed());
            (after, told, pages) = (page.through, told + page.events.len() as u64, pages + 1);
        }
        let took = begun.elapsed();
        assert_eq!(told, REVISIONS);
        let read = broker.stat("events_log_read_bytes") - read_before;
        println!(
            "{round}: {told} revisions in {pages} pages and {} ms, {} a second; the slowest page took {} ms; {} MiB were read of a log of \
             {} MiB; memory begins at {memory_oldest}",
            took.as_millis(),
            (told as f64 / took.as_secs_f64()) as u64,
            slowest.as_millis(),
            read >> 20,
            log_bytes >> 20,
        );
    }
    broker.stop();
}
