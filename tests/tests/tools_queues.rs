//! The tools and work queues: `dump` shows their records, `check` and `verify` find nothing wrong with them, a restart, a checkpoint and a
//! restored backup have every item as it was, and leases run a whole period from the start on.

#![allow(clippy::unwrap_used)]

use std::time::{SystemTime, UNIX_EPOCH};

use kvbroker_tests::{Broker, BrokerOptions, Home, PATIENCE, RawClient, verb, wait_until};
use serde_json::{Value, json};

const LEASE_MS: u64 = 600_000;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn ok(client: &RawClient, request: Value) -> Value {
    let reply = client.ask_json(&request);
    assert_eq!(reply["status"], "ok", "{request}: {reply}");
    reply
}

/// What the life of a queue leaves: an item in each state, one in the queue for dead ones, and a paused queue.
fn life(client: &RawClient) -> Value {
    ok(client, json!({"op": "declare", "queue": "jobs", "lease": LEASE_MS, "max_deliveries": 1, "dead_queue": "morgue"}));
    ok(client, json!({"op": "push", "queue": "jobs", "value": "fails", "priority": 9}));
    let fails = ok(client, json!({"op": "pull", "queue": "jobs"}))["items"][0].clone();
    ok(client, json!({"op": "nack", "queue": "jobs", "item": fails[0], "token": fails[1], "reason": "no ink"}));
    ok(client, json!({"op": "push", "queue": "jobs", "value": {"file": "cat.jpg"}, "priority": 5, "type": "text/x"}));
    let taken = ok(client, json!({"op": "pull", "queue": "jobs"}))["items"][0].clone();
    ok(client, json!({"op": "push", "queue": "jobs", "value": "ready"}));
    ok(client, json!({"op": "push", "queue": "jobs", "value": "later", "delay": LEASE_MS}));
    ok(client, json!({"op": "declare", "queue": "rest", "paused": true}));
    let done = ok(client, json!({"op": "push", "queue": "rest", "value": "done"}));
    ok(client, json!({"op": "bury", "queue": "rest", "item": done["item"], "reason": "too late"}));
    taken
}

/// All items of all queues, in each state; without the end of leases, which a start puts off.
fn everything(client: &RawClient) -> Vec<Value> {
    let mut all = Vec::new();
    for queue in ["jobs", "morgue", "rest"] {
        for state in ["ready", "delayed", "leased", "dead"] {
            let mut items = ok(client, json!({"op": "peek", "queue": queue, "state": state}))["peeked"].take();
            for item in items.as_array_mut().unwrap() {
                if state == "leased" {
                    item[7] = Value::Null;
                }
                all.push(json!([queue, item]));
            }
        }
        let info = ok(client, json!({"op": "queues", "queue": queue}));
        let figures = ["items", "bytes", "lease", "max_deliveries", "dead_queue", "paused"];
        all.push(figures.iter().map(|name| info["queues"][0][*name].clone()).collect());
    }
    all
}

/// When the lease of the one item that is leased ends.
fn lease_end(client: &RawClient) -> u64 {
    let leased = ok(client, json!({"op": "peek", "queue": "jobs", "state": "leased"}));
    leased["peeked"][0][7].as_u64().unwrap_or_else(|| panic!("{leased}"))
}

fn ack(taken: &Value) -> Value {
    json!({"op": "ack", "queue": "jobs", "item": taken[0], "token": taken[1]})
}

#[test]
fn the_records_of_queues_can_be_read() {
    let mut broker = Broker::plain();
    let taken = life(&broker.dealer());
    ok(&broker.dealer(), ack(&taken));
    broker.stop();
    let said = verb(broker.home(), &["test", "dump"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let (item, token) = (taken[0].as_str().unwrap(), &taken[1]);
    for part in [
        "put queue jobs: id 1\n".to_owned(),
        ", paused\n".to_owned(),
        format!("put item {item} of queue 1 = {{\"file\":\"cat.jpg\"}} (priority 5, pushed "),
        format!("put state of item {item} of queue 1: leased, deliveries 1, token {token}\n"),
        format!("delete item {item} of queue 1\n"),
        format!("delete state of item {item} of queue 1\n"),
        "put queue morgue: id ".to_owned(),
        ": dead, deliveries 0".to_owned(),
    ] {
        assert!(said.text().contains(&part), "{part:?} in\n{}", said.text());
    }
    let lines = verb(broker.home(), &["test", "dump", "--json"]).json_lines();
    let of = |space: &str| lines.iter().filter(|line| line["space"] == space).collect::<Vec<&Value>>();
    assert!(of("queue").iter().any(|line| line["queue"] == "rest" && line["paused"] == true), "{lines:?}");
    let puts = of("item").into_iter().filter(|line| line["op"] == "put" && line["item"] == item).collect::<Vec<_>>();
    // The value is written once, whatever became of the item.
    assert_eq!((puts.len(), &puts[0]["value"]["file"]), (1, &json!("cat.jpg")));
    assert!(of("item_state").iter().any(|line| line["token"] == *token), "{lines:?}");
    assert!(lines.iter().all(|line| line["space"] != "unknown"));
    let check = verb(broker.home(), &["test", "check"]);
    assert_eq!(check.code, Some(0), "{}{}", check.text(), check.stderr);
}

#[test]
fn a_start_has_every_item_and_leases_run_a_whole_period() {
    let mut broker = Broker::start(BrokerOptions::default().args(["--segment-size", "64KiB", "--checkpoint-after", "64KiB"]));
    let client = broker.dealer();
    let taken = life(&client);
    let before = everything(&client);
    for with_checkpoint in [false, true] {
        if with_checkpoint {
            let filling = "x".repeat(20_000);
            wait_until(PATIENCE, "there is a checkpoint", || {
                // It may be told `busy` while the checkpoint is behind.
                broker.dealer().ask_json(&json!({"op": "put", "key": "filling", "value": filling}));
                broker.data_directory().join("table.ckpt").exists().then_some(())
            });
        }
        let (until, restarted) = (lease_end(&broker.dealer()), now_ms());
        assert!(until < restarted + LEASE_MS + 1, "the lease began before");
        broker.kill9();
        broker.restart();
        let client = broker.dealer();
        assert_eq!(everything(&client), before, "checkpoint: {with_checkpoint}");
        assert!(lease_end(&client) >= restarted + LEASE_MS, "the lease runs a whole period from the start on");
    }
    // The delivery goes on.
    ok(&broker.dealer(), ack(&taken));
    assert_eq!(broker.dealer().ask_json(&ack(&taken))["error"]["code"], "lease_lost");
}

#[test]
fn a_restored_backup_has_every_item_and_delivery() {
    let broker = Broker::plain();
    let client = broker.dealer();
    let taken = life(&client);
    let before = everything(&client);
    let home = Home::new();
    let to = home.path().join("copy").to_str().unwrap().to_owned();
    assert_eq!(verb(broker.home(), &["test", "backup", &to]).code, Some(0));
    // What is done here afterwards is not in it.
    ok(&client, ack(&taken));
    let restored_at = now_ms();
    let said = verb(&home, &["test", "restore", &to]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let restored = Broker::start(BrokerOptions::default().home(&home));
    let other = restored.dealer();
    assert_eq!(everything(&other), before);
    assert!(lease_end(&other) >= restored_at + LEASE_MS);
    ok(&other, ack(&taken));
}
