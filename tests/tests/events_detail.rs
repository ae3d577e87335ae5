//! `events` with details and predicates, from end to end: what was before is known, over kills of the broker as well; whoever keeps the
//! keys that fit keeps what a scan finds; and a key of some prefixes is told nothing of the others' requests.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, EventsOptions};
use kvbroker::keys::KeyPair;
use kvbroker::paths::Dirs;
use kvbroker_protocol::{ChangeKind, ErrorCode, EventBefore, EventCause, Key, Predicate, Scan, Stored};
use kvbroker_tests::{Broker, Cli, PATIENCE, RawClient, wait_until};
use serde_json::json;

fn client(broker: &Broker) -> Client {
    let options = ConnectOptions::new().dirs(Dirs::under(broker.home().path()).unwrap()).catalogs(CatalogList::none());
    Client::connect_with("test", options.timeout(PATIENCE).wait_for_broker(true)).unwrap()
}

#[test]
fn what_was_before_is_told_also_by_a_broker_that_was_killed_in_between() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());
    cli.ok(&["test", "put", "lamp", "on"]);
    cli.ok(&["test", "put", "lamp", "off"]);
    broker.kill9();
    broker.restart();
    cli.ok(&["test", "del", "lamp"]);
    cli.ok(&["test", "put", "brief", "x", "--ttl", "1ms"]);
    wait_until(PATIENCE, "the expiry", || (broker.stat("revision") == 5).then_some(()));

    let lines = cli.ok(&["test", "events", "--after", "0", "--with-old", "--json"]).json_lines();
    let told: Vec<_> = lines.iter().map(|line| json!([line["event"], line["old"], line["old_rev"], line["cause"]])).collect();
    let expected = [
        json!(["put", null, 0, "request"]),
        json!(["put", "on", 1, "request"]),
        json!(["remove", "off", 2, "request"]),
        json!(["put", null, 0, "request"]),
        json!(["expire", "x", 4, "expiry"]),
        json!([null, null, null, null]),
    ];
    assert_eq!(told, expected);
    assert!(lines[1]["session"].as_str().is_some_and(|session| session.len() == 32) && lines[1]["seq"].is_u64(), "{}", lines[1]);
    assert!(lines[4].get("session").is_none());
    let text = cli.ok(&["test", "events", "lamp", "--after", "1", "--with-old", "--where", "@value = on"]).text();
    let rows: Vec<String> = text.lines().map(|line| line.split('\t').skip(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows, ["leave lamp was \"on\""], "and the removal is of nobody who keeps the lamps that are on");
    let wrong = cli.run(&["test", "events", "--after", "0", "--where", "@value ="]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("column"), "{}", wrong.stderr);

    // By the library; the epoch that the answers tell is that of Hello, and no other will do.
    let client = client(&broker);
    let all = || EventsOptions::new().after(0).detail(true);
    let page = client.events_with("lamp", all()).unwrap();
    let last = page.events.last().unwrap();
    assert_eq!(last.origin.unwrap().cause, EventCause::Request);
    assert_eq!(last.changes[0].before, Some(EventBefore::Value { value: Stored::text("off").unwrap(), modified: 2 }));
    assert_eq!(client.events_with("lamp", all().epoch(page.epoch)).unwrap(), page);
    let other = client.events_with("lamp", all().epoch(!page.epoch)).unwrap_err();
    assert_eq!(other.code(), Some(ErrorCode::Compacted), "{other}");
    broker.stop();
}

#[test]
fn whoever_keeps_what_fits_has_what_a_scan_finds_over_kills_of_the_broker() {
    const WRITERS: i128 = 3;
    const KEYS: i128 = 7;
    let filter = || Predicate::new("@value >= 3 and @key ~ '[0-5]$'").unwrap();
    let mut broker = Broker::plain();
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (client, is_over) = (client(&broker), is_over.clone());
            std::thread::spawn(move || {
                for round in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("n/{}", (round * WRITERS + writer) % KEYS);
                    match round % 5 {
                        4 => drop(client.del(&key).unwrap()),
                        // Fits, and a little later does not.
                        at => drop(client.put(&key, Stored::integer((round / 5 + at + writer) % 6)).unwrap()),
                    }
                }
            })
        })
        .collect();
    let keeper = std::thread::spawn({
        let (client, is_over) = (client(&broker), is_over.clone());
        move || {
            let (mut kept, mut leaves, mut after, mut epoch) = (BTreeMap::<Key, Stored>::new(), 0, 0, None);
            loop {
                let was_over = is_over.load(Ordering::Relaxed);
                let wait = if was_over { Duration::ZERO } else { Duration::from_secs(1) };
                let mut options = EventsOptions::new().after(after).limit(40).wait(wait).filter(filter());
                if let Some(epoch) = epoch {
                    options = options.epoch(epoch);
                }
                let page = client.events_with("n/", options).unwrap();
                for change in page.events.into_iter().flat_map(|revision| revision.changes) {
                    leaves += usize::from(change.kind == ChangeKind::Leave);
                    match change.kind {
                        ChangeKind::Put(value) => drop(kept.insert(change.key, value)),
                        ChangeKind::Remove | ChangeKind::Expire | ChangeKind::Leave => {
                            assert!(kept.remove(&change.key).is_some(), "nothing is told that need not be");
                        }
                    }
                }
                (after, epoch) = (page.through, Some(page.epoch));
                if was_over && !page.more {
                    return (kept, leaves, after);
                }
            }
        }
    });
    for _ in 0..3 {
        let from = broker.stat("revision");
        wait_until(PATIENCE, "writes are done", || (broker.stat("revision") > from + 200).then_some(()));
        broker.kill9();
        broker.restart();
    }
    is_over.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let (mut kept, leaves, after) = keeper.join().unwrap();
    let client = client(&broker);
    // The keeper may have asked for the last time before the last writer was done.
    let page = client.events_with("n/", EventsOptions::new().after(after).filter(filter())).unwrap();
    for change in page.events.into_iter().flat_map(|revision| revision.changes) {
        match change.kind {
            ChangeKind::Put(value) => drop(kept.insert(change.key, value)),
            ChangeKind::Remove | ChangeKind::Expire | ChangeKind::Leave => drop(kept.remove(&change.key)),
        }
    }
    let scan = Scan { prefix: b"n/".to_vec(), filter: Some(filter()), ..Scan::default() };
    let found: BTreeMap<Key, Stored> = client.scan_page(scan).unwrap().rows.into_iter().map(|row| (row.key, row.value)).collect();
    assert_eq!(kept, found);
    assert!(leaves > 10, "only {leaves} keys ever left");
    broker.stop();
}

#[test]
fn a_key_of_some_prefixes_is_told_nothing_of_what_others_keep_and_ask() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());
    let own = KeyPair::generate().unwrap();
    let name = kvbroker_protocol::UserKey::from(*own.public()).to_string();
    cli.ok(&["test", "authorize", &name, "write", "--prefix", "ann/"]);
    let key = broker.endpoint()["public_key"].as_str().unwrap().parse().unwrap();
    let ann = RawClient::on_tcp(&format!("tcp://127.0.0.1:{}", broker.tcp_port()), &own, &key);
    cli.ok(&[
        "test",
        "txn",
        r#"{"then": [{"op": "put", "key": "bob/1", "value": "secret"}, {"op": "put", "key": "ann/1", "value": 1}]}"#,
    ]);
    let session = ann.ask_json(&json!({"op": "hello"}))["session"].as_str().unwrap().to_owned();
    ann.ask_json(&json!({"op": "put", "key": "ann/1", "value": 2, "session": session, "seq": 1}));
    cli.ok(&["test", "put", "bob/1", "secret"]);
    cli.ok(&["test", "del", "ann/1"]);
    let all = cli.ok(&["test", "events", "--after", "0", "--with-old", "--json"]).json_lines();
    assert_eq!(
        all.iter().filter(|line| line.get("session").is_some()).count(),
        5,
        "who may read everything is told whose it was"
    );
    let asked = json!({"op": "events", "after": 0, "detail": true});
    let reply = ann.ask_json(&asked);
    let expected = json!([
        [["ann/1", "put", 1, {}]],
        [["ann/1", "put", 2, {"value": 1, "rev": 1}]],
        [["ann/1", "remove", null, {"value": 2, "rev": 2}]],
    ]);
    let told: Vec<_> = reply["events"].as_array().unwrap().iter().map(|event| event[2].clone()).collect();
    assert_eq!(json!(told), expected, "{reply}");
    let origins: Vec<_> = reply["events"].as_array().unwrap().iter().map(|event| event[3].clone()).collect();
    let cause = json!({"cause": "request"});
    let owns = json!({"cause": "request", "session": session, "seq": 1});
    assert_eq!(json!(origins), json!([cause, owns, cause]));
    // A predicate can't feel for what is not there for her.
    for filter in ["@value = secret", "@key ^= 'bob/'", "not (@value = 5)"] {
        let reply = ann.ask_json(&json!({"op": "events", "after": 0, "detail": true, "where": filter})).to_string();
        assert!(!reply.contains("secret") && !reply.contains("bob"), "{reply}");
    }
    broker.stop();
}
