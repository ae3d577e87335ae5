//! One broker per data directory, clean stops and stops at once.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use kvbroker_protocol::limits;
use kvbroker_tests::{Broker, BrokerOptions, Home, PATIENCE, RawClient, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

const LOCKED: i32 = 10;
const UNFINISHED: i32 = 4;
const INTERRUPTED: i32 = 130;

fn is_alive(broker: &Broker) -> bool {
    broker.dealer().ask_json(&json!({"op": "ping"}))["status"] == "ok"
}

#[test]
fn a_second_broker_of_the_same_data_is_refused_and_the_first_undisturbed() {
    let first = Broker::plain();
    // The same project in the same home: its runtime directory is taken.
    let ended = Broker::try_start(BrokerOptions::default().home(first.home())).unwrap_err();
    assert_eq!(ended.status.code(), Some(LOCKED), "{}", ended.stderr);
    assert!(ended.stderr.contains(&first.pid().to_string()), "it names the process that is there: {}", ended.stderr);
    assert!(is_alive(&first));
    // Another home, another project, the same data.
    let data = first.data_directory();
    let other = BrokerOptions::default().home(&Home::new()).project("other").args(["--data".as_ref(), data.as_os_str()]);
    let ended = Broker::try_start(other).unwrap_err();
    assert_eq!(ended.status.code(), Some(LOCKED), "{}", ended.stderr);
    assert!(is_alive(&first));
    let reply = first.dealer().ask_json(&json!({"op": "put", "key": "k", "value": 1}));
    assert_eq!(reply["status"], "ok");
}

#[test]
fn a_killed_brokers_locks_and_sockets_are_no_obstacle() {
    let mut broker = Broker::plain();
    broker.dealer().ask_json(&json!({"op": "put", "key": "k", "value": 1}));
    let (before, socket) = (broker.endpoint().clone(), broker.router_socket());
    broker.kill9();
    assert!(socket.exists(), "a killed process leaves its socket");
    broker.restart();
    let after = broker.endpoint();
    for same in ["uuid", "epoch", "public_key", "tcp"] {
        assert_eq!(before[same], after[same], "{same}: ports are remembered, acknowledged writes are not in doubt");
    }
    assert_ne!(before["instance"], after["instance"]);
    assert_eq!(broker.dealer().ask_json(&json!({"op": "get", "key": "k"}))["value"], 1);
}

#[test]
fn a_broker_whose_data_was_taken_over_ends_and_leaves_the_lock_to_the_other() {
    let mut broker = Broker::plain();
    broker.dealer().ask_json(&json!({"op": "put", "key": "k", "value": 1}));
    let lock = broker.data_directory().join("lock");
    // As a broker on another machine does that was started with --take-over.
    let theirs = "kvbroker lock 1\nhost elsewhere\nboot another\npid 1\nuuid 00000000-0000-0000-0000-000000000001\n";
    let made = lock.with_file_name("lock.1.x");
    std::fs::write(&made, theirs).unwrap();
    std::fs::rename(&made, &lock).unwrap();
    let status = broker.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(LOCKED), "{}", broker.stderr());
    assert!(broker.stderr().contains("was taken over by another process"), "{}", broker.stderr());
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), theirs);
    std::fs::remove_file(&lock).unwrap();
    broker.restart();
    assert_eq!(broker.dealer().ask_json(&json!({"op": "get", "key": "k"}))["value"], 1);
}

/// Keys for the worker to be busy with: as many as one scan may examine.
fn fill(client: &RawClient) {
    for page in 0..4 {
        let puts: Vec<Value> =
            (0..2_500).map(|key| json!({"op": "put", "key": format!("{page}-{key:0>40}"), "value": 0})).collect();
        let reply = client.ask_json(&Value::Array(puts));
        assert_eq!(reply["results"].as_array().unwrap().len(), 2_500);
    }
}

/// Gives the worker as many queries as one client may have in flight, each looking at all keys with the prefix, and a put near
/// their end. Returns once the broker has taken them: it says so by refusing the next ones.
fn keep_busy(client: &RawClient, prefix: &str) {
    let query = json!({"op": "query", "subkey": "none", "subvalue": 1, "prefix": prefix}).to_string();
    for at in 0..2 * limits::IN_FLIGHT_MAX {
        if at == limits::IN_FLIGHT_MAX - 100 {
            client.send(&[json!({"id": TAKEN, "op": "put", "key": "taken", "value": 1}).to_string()]);
        }
        client.send(&[&query]);
    }
    let is_busy = |frames: Vec<Vec<u8>>| (kvbroker_tests::json(&frames[0])["error"]["code"] == "busy").then_some(());
    wait_until(PATIENCE, "the broker has taken all it takes", || is_busy(client.try_receive(PATIENCE)?));
}

/// The id of the put among the queries.
const TAKEN: u64 = 1;

/// Asks until the answer says that the broker is stopping.
fn wait_for_shutting_down(client: &RawClient) {
    // Pings behind the scans would wait for them: only the refusals come at once.
    wait_until(PATIENCE, "the broker says that it is shutting down", || {
        client.send(&[json!({"op": "put", "key": "late", "value": 1}).to_string()]);
        while let Some(frames) = client.try_receive(Duration::from_millis(20)) {
            let reply = kvbroker_tests::json(&frames[0]);
            if reply["error"]["code"] == "shutting_down" {
                assert_eq!((&reply["status"], &reply["error"]["definite"]), (&json!("failed"), &json!(true)));
                assert_eq!(reply["rev"], Value::Null, "the table was not asked");
                return Some(());
            }
        }
        None
    });
}

#[test]
fn sigterm_finishes_what_was_taken_and_refuses_the_rest() {
    let mut broker = Broker::start(BrokerOptions::default().args(["--grace", "60s"]));
    let (busy, late) = (broker.dealer(), broker.dealer());
    fill(&busy);
    keep_busy(&busy, "0-");
    broker.term();
    wait_for_shutting_down(&late);
    let taken = wait_until(PATIENCE, "the request that was taken is answered", || {
        let reply = kvbroker_tests::json(&busy.receive());
        (reply["id"] == TAKEN).then_some(reply)
    });
    assert_eq!(taken["status"], "ok", "a request that was taken is finished: {taken}");
    let status = broker.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", broker.stderr());
    assert!(!broker.router_socket().exists() && !broker.runtime_directory().join("endpoint.json").exists());
    broker.restart();
    assert!(!broker.stdout().contains("torn"), "{}", broker.stdout());
    let client = broker.dealer();
    assert_eq!(client.ask_json(&json!({"op": "get", "key": "taken"}))["modified"], taken["rev"]);
    let size = client.ask_json(&json!({"op": "size"}))["size"].as_u64().unwrap();
    let late = client.ask_json(&json!({"op": "get", "key": "late"}));
    // Written by a request before the signal was seen, perhaps; never by one that was told no.
    let written = u64::from(late["status"] == "ok");
    assert_eq!(size, 10_001 + written);
}

#[test]
fn a_second_signal_ends_it_at_once_and_loses_nothing_acknowledged() {
    let mut broker = Broker::start(BrokerOptions::default().args(["--grace", "1h"]));
    let (busy, late) = (broker.dealer(), broker.dealer());
    fill(&busy);
    keep_busy(&busy, "");
    broker.signal(Signal::INT);
    wait_for_shutting_down(&late);
    assert!(broker.try_wait().is_none(), "it is still busy with what it had taken");
    let begun = Instant::now();
    // One that comes together with the first is the same wish.
    let status = wait_until(PATIENCE, "a second signal ends it", || {
        broker.term();
        broker.try_wait()
    });
    assert_eq!(status.code(), Some(INTERRUPTED), "{}", broker.stderr());
    assert!(begun.elapsed() < Duration::from_secs(3), "at once, not after {:?}", begun.elapsed());
    broker.restart();
    assert!(broker.dealer().ask_json(&json!({"op": "size"}))["size"].as_u64().unwrap() >= 10_000);
}

#[test]
fn grace_ends_a_stop_that_takes_too_long() {
    let mut broker = Broker::start(BrokerOptions::default().args(["--grace", "500ms"]));
    let busy = broker.dealer();
    fill(&busy);
    keep_busy(&busy, "");
    broker.term();
    let status = broker.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(UNFINISHED), "{}", broker.stderr());
    broker.restart();
    assert!(broker.dealer().ask_json(&json!({"op": "size"}))["size"].as_u64().unwrap() >= 10_000);
}
