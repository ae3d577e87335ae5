//! What each role may do, read off the wire: every operation, with keys inside and outside of a user's prefixes, by plain sockets that
//! hold that user's key; and that a user who is revoked or narrowed is told nothing more.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvbroker_tests::{Broker, PATIENCE, RawClient, RawSubscriber, User, json, wait_until};
use serde_json::{Value, json};

const READ: u8 = 0;
const WRITE: u8 = 1;
const ADMIN: u8 = 2;
const ROLES: [&str; 3] = ["read", "write", "admin"];

/// What stands in the values that a restricted user must never see.
const HIDDEN: &str = "not-for-you";

#[derive(Clone, Copy, PartialEq)]
enum Reach {
    /// No key by itself.
    Nothing,
    /// Keys that it names.
    Named,
    /// A range: never refused for it, and what lies outside is not there.
    Range,
    /// The table as a whole.
    Whole,
}
use Reach::{Named, Nothing, Range, Whole};

/// The least role, what it reaches, and the request for keys below `p`, made by the user of this session.
fn operations(p: &str, session: &str) -> Vec<(u8, Reach, Value)> {
    let (k, n, x, q) = (format!("{p}k"), format!("{p}n"), format!("{p}x"), format!("{p}q"));
    let user = User::new().key();
    vec![
        (READ, Nothing, json!({"op": "ping"})),
        (READ, Nothing, json!({"op": "hello"})),
        (READ, Nothing, json!({"op": "result", "of_session": session, "of_seq": 1})),
        (READ, Named, json!({"op": "get", "key": k})),
        (READ, Named, json!({"op": "lookup", "key": x})),
        (READ, Named, json!({"op": "mget", "keys": ["own/k", k]})),
        (READ, Named, json!({"op": "exists", "key": k})),
        (READ, Named, json!({"op": "ttl", "key": k})),
        (READ, Named, json!({"op": "history", "key": k})),
        (READ, Named, json!({"op": "txn", "if": [{"key": k, "if_exists": true}], "then": [{"op": "get", "key": "own/k"}]})),
        (READ, Named, json!({"op": "txn", "then": [{"op": "get", "key": "own/k"}], "else": [{"op": "get", "key": k}]})),
        (READ, Range, json!({"op": "txn", "then": [{"op": "size"}]})),
        (READ, Range, json!({"op": "size"})),
        (READ, Range, json!({"op": "scan"})),
        (READ, Range, json!({"op": "scan", "prefix": p, "snapshot": 0})),
        (READ, Range, json!({"op": "scan", "from": k, "reverse": true, "limit": 1})),
        (READ, Range, json!({"op": "scan", "regex": "k", "keys_only": true})),
        (READ, Range, json!({"op": "query", "where": "a != 1 or a = 1"})),
        (READ, Range, json!({"op": "query", "subkey": "a", "subvalue": HIDDEN})),
        (READ, Range, json!({"op": "ls", "prefix": "", "delimiter": "/"})),
        (READ, Range, json!({"op": "ls", "prefix": p, "delimiter": "/"})),
        (READ, Range, json!({"op": "events", "prefix": p, "after": 0})),
        (READ, Range, json!({"op": "events", "after": 0})),
        (READ, Named, json!({"op": "peek", "queue": q})),
        (READ, Named, json!({"op": "track", "queue": q, "item": "1"})),
        (READ, Named, json!({"op": "track", "queue": q, "item": "1", "until": "delivered", "wait": 1})),
        (READ, Named, json!({"op": "queues", "queue": q})),
        (READ, Range, json!({"op": "queues"})),
        (READ, Range, json!({"op": "queues", "prefix": p})),
        (READ, Named, json!({"op": "bindings", "queue": q})),
        (READ, Range, json!({"op": "bindings"})),
        (READ, Named, json!({"op": "rules", "rule": format!("{p}r")})),
        (READ, Range, json!({"op": "rules"})),
        (READ, Nothing, json!({"op": "convert", "value": 1, "as": "json"})),
        (READ, Named, json!({"op": "convert", "value": {"a": 1}, "rule": format!("{p}r")})),
        (READ, Whole, json!({"op": "stats"})),
        (WRITE, Nothing, json!({"op": "noop", "session": session, "seq": 1, "ack": 0})),
        (WRITE, Nothing, json!({"op": "result", "of_session": session, "of_seq": 2, "settle": true})),
        (WRITE, Nothing, json!({"op": "end", "session": session, "ack": 3})),
        (WRITE, Named, json!({"op": "put", "key": k, "value": {"a": "mine"}})),
        (WRITE, Named, json!({"op": "insert", "key": x, "value": 1, "if_absent": true})),
        (WRITE, Named, json!({"op": "incr", "key": n})),
        (WRITE, Named, json!({"op": "expire", "key": k, "ttl": 3_600_000})),
        (WRITE, Named, json!({"op": "persist", "key": k})),
        (WRITE, Named, json!({"op": "txn", "then": [{"op": "get", "key": "own/k"}], "else": [{"op": "del", "key": k}]})),
        (WRITE, Named, json!({"op": "txn", "if": [{"key": k, "if_exists": true}], "then": [{"op": "incr", "key": "own/n"}]})),
        (WRITE, Named, json!({"op": "del", "key": n, "return": true})),
        (WRITE, Named, json!({"op": "remove", "key": x})),
        (WRITE, Named, json!({"op": "declare", "queue": q, "lease": 60_000})),
        (WRITE, Named, json!({"op": "declare", "queue": "own/q", "dead_queue": q})),
        (WRITE, Named, json!({"op": "push", "queue": q, "value": "mine"})),
        (WRITE, Named, json!({"op": "bind", "queue": q, "pattern": "own/a.*"})),
        (WRITE, Named, json!({"op": "bind", "queue": "own/q", "pattern": format!("{p}a.#")})),
        (WRITE, Named, json!({"op": "publish", "subject": format!("{p}a.b"), "value": "mine"})),
        (WRITE, Named, json!({"op": "unbind", "queue": q, "pattern": "own/a.*"})),
        (WRITE, Named, json!({"op": "declare_rule", "rule": format!("{p}r"), "prefix": "own/", "as": "json"})),
        (WRITE, Named, json!({"op": "declare_rule", "rule": "own/r", "queue": q, "as": "json"})),
        (WRITE, Named, json!({"op": "drop_rule", "rule": format!("{p}r")})),
        (WRITE, Named, json!({"op": "pull", "queue": q})),
        (WRITE, Named, json!({"op": "pull", "queue": q, "wait": 1, "no_ack": true})),
        (WRITE, Named, json!({"op": "ack", "queue": q, "item": "1", "token": 1})),
        (WRITE, Named, json!({"op": "nack", "queue": q, "item": "1", "token": 1})),
        (WRITE, Named, json!({"op": "extend", "queue": q, "item": "1", "token": 1})),
        (WRITE, Named, json!({"op": "bury", "queue": q, "item": "1"})),
        (WRITE, Named, json!({"op": "kick", "queue": q})),
        (WRITE, Named, json!({"op": "purge", "queue": q})),
        (WRITE, Named, json!({"op": "drop_queue", "queue": q})),
        (WRITE, Named, json!({"op": "txn", "then": [{"op": "get", "key": "own/k"}, {"op": "push", "queue": q, "value": 1}]})),
        (WRITE, Named, json!({"op": "txn", "then": [{"op": "get", "key": "own/k"}], "else": [{"op": "pull", "queue": q}]})),
        (WRITE, Range, json!({"op": "del_prefix", "prefix": p})),
        (ADMIN, Nothing, json!({"op": "who"})),
        (ADMIN, Nothing, json!({"op": "authorize", "key": user, "role": "read"})),
        (ADMIN, Nothing, json!({"op": "revoke", "key": user})),
    ]
}

fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or("ok")
}

fn session(client: &RawClient) -> String {
    client.ask_json(&json!({"op": "hello"}))["session"].as_str().unwrap().to_owned()
}

/// The same table for everyone who tries.
fn fill(owner: &RawClient) {
    let ops: Vec<Value> = ["own/", "other/"]
        .into_iter()
        .flat_map(|p| {
            let text = if p == "own/" { "yours" } else { HIDDEN };
            [
                json!({"op": "put", "key": format!("{p}k"), "value": {"a": text}}),
                json!({"op": "put", "key": format!("{p}n"), "value": 5}),
                json!({"op": "put", "key": format!("{p}deep/{text}"), "value": {"a": text}}),
                json!({"op": "push", "queue": format!("{p}q"), "value": text}),
            ]
        })
        .collect();
    let reply = owner.ask_json(&json!({"ops": ops}));
    assert!(reply["results"].as_array().unwrap().iter().all(|result| result["status"] == "ok"), "{reply}");
}

fn rows(owner: &RawClient, prefix: &str) -> Value {
    owner.ask_json(&json!({"op": "scan", "prefix": prefix}))["rows"].clone()
}

/// What the owner sees below a prefix, revisions included: three keys, and a queue with one item.
fn seen(owner: &RawClient, prefix: &str) -> Value {
    let rows = rows(owner, prefix);
    let queues = owner.ask_json(&json!({"op": "queues", "prefix": prefix}))["queues"].clone();
    let items = owner.ask_json(&json!({"op": "peek", "queue": format!("{prefix}q")}))["peeked"].clone();
    json!([rows, queues, items])
}

/// Verbs as the grammar of docs/protocol.md has them.
fn verbs() -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md")).unwrap();
    let table = text.split_once("verb and its fields").unwrap().1.split_once("\ncondition ").unwrap().0;
    let lines = table.lines().skip(1).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let words = lines.flat_map(|line| {
        let (first, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let alias = rest.trim_start().strip_prefix("| ").and_then(|rest| rest.split_whitespace().next());
        [Some(first.to_owned()), alias.map(str::to_owned)]
    });
    words.flatten().collect()
}

#[test]
fn every_operation_for_every_role_inside_and_outside_its_prefixes() {
    let tried: BTreeSet<String> =
        operations("own/", "0").iter().map(|(_, _, request)| request["op"].as_str().unwrap().to_owned()).collect();
    assert_eq!(verbs(), tried, "the matrix has every verb of the grammar");

    let broker = Broker::plain();
    let owner = broker.dealer();
    let mut refused = 0;
    for (role, is_restricted) in [(READ, true), (WRITE, true), (READ, false), (WRITE, false), (ADMIN, false)] {
        let user = User::new();
        let name = ROLES[usize::from(role)];
        fill(&owner);
        let others = seen(&owner, "other/");
        let counts: Vec<_> = others.as_array().unwrap().iter().map(|part| part.as_array().map(Vec::len)).collect();
        assert_eq!((counts[0], counts[1]), (Some(3), Some(1)), "{others}");
        assert!(counts[2].unwrap() > 0, "{others}");
        let granted = owner.ask_json(&user.authorize(name, if is_restricted { &["own/"] } else { &[] }));
        assert_eq!(code(&granted), "ok", "{granted}");
        assert_eq!(user.may_subscribe(&broker), !is_restricted, "{name}: notifications are for who may read everything");
        let client = user.dealer(&broker);
        for (p, inside) in [("own/", true), ("other/", false)] {
            let session = session(&client);
            for (least, reach, request) in operations(p, &session) {
                let may = role >= least
                    && (!is_restricted
                        || match reach {
                            Nothing | Range => true,
                            Named => inside,
                            Whole => false,
                        });
                let reply = client.ask_json(&request);
                assert_eq!(code(&reply) != "refused", may, "{name}, restricted: {is_restricted}: {request}: {reply}");
                assert!(!matches!(code(&reply), "invalid" | "internal"), "the request is a good one: {request}: {reply}");
                refused += u32::from(!may);
                if is_restricted {
                    let text = reply.to_string();
                    assert!(!text.contains(HIDDEN), "{request}: {reply}");
                    // A refusal may repeat the key that it was asked for.
                    assert!(!may || !text.contains("other/"), "{request}: {reply}");
                }
            }
        }
        if is_restricted {
            assert_eq!(seen(&owner, "other/"), others, "{name}: nothing outside was touched");
        }
    }
    assert!(refused > 60, "{refused}");
}

#[test]
fn a_refusal_says_nothing_about_what_is_there() {
    let (broker, ada) = (Broker::plain(), User::new());
    let owner = broker.dealer();
    fill(&owner);
    owner.ask_json(&ada.authorize("write", &["own/"]));
    let client = ada.dealer(&broker);
    let refusals = |key: &str| {
        let session = session(&client);
        let all = operations("other/", &session).into_iter().filter(|(_, reach, _)| *reach == Named);
        let texts = all.map(|(_, _, request)| {
            // Both keys have as many letters: nothing else may differ.
            let request: Value = serde_json::from_str(&request.to_string().replace("other/k", key)).unwrap();
            let reply = client.ask_json(&request);
            assert_eq!(code(&reply), "refused", "{request}: {reply}");
            reply.to_string().replace(key, "KEY")
        });
        texts.collect::<Vec<_>>()
    };
    assert_eq!(refusals("other/k"), refusals("other/z"));
    // Several in one message: each by itself, and a transaction with one of them not at all.
    let reply = client.ask_json(&json!({"ops": [
        {"op": "put", "key": "own/new", "value": 1},
        {"op": "put", "key": "other/new", "value": 1},
        {"op": "txn", "then": [{"op": "put", "key": "own/newer", "value": 1}, {"op": "put", "key": "other/newer", "value": 1}]},
    ]}));
    let codes: Vec<&str> = reply["results"].as_array().unwrap().iter().map(code).collect();
    assert_eq!(codes, ["ok", "refused", "refused"]);
    assert_eq!(rows(&owner, "own/new").as_array().unwrap().len(), 1);
    assert_eq!(rows(&owner, "other/new"), json!([]));
}

/// A subscriber's messages that are there now.
fn heard(subscriber: &RawSubscriber) -> Vec<(Vec<u8>, Vec<u8>)> {
    std::iter::from_fn(|| subscriber.try_receive(Duration::ZERO)).collect()
}

fn is_about(message: &(Vec<u8>, Vec<u8>), key: &str) -> bool {
    message.0 == [b"k", key.as_bytes()].concat()
}

/// Writes a key until a subscriber that may hear of it has.
fn write_until_heard(owner: &RawClient, witness: &RawSubscriber, key: &str) {
    wait_until(PATIENCE, &format!("somebody hears of {key}"), || {
        assert_eq!(code(&owner.ask_json(&json!({"op": "put", "key": key, "value": HIDDEN}))), "ok");
        let message = witness.try_receive(Duration::from_millis(100))?;
        is_about(&message, key).then_some(())
    });
}

fn parked_events(client: &RawClient, id: u64) {
    client.send(&[json!({"op": "events", "wait": 60_000, "id": id}).to_string()]);
}

#[test]
fn a_revoked_key_is_told_nothing_more_on_any_connection() {
    let (broker, ada, bob) = (Broker::plain(), User::new(), User::new());
    let owner = broker.dealer();
    fill(&owner);
    for user in [&ada, &bob] {
        owner.ask_json(&user.authorize("write", &[]));
    }
    let (client, other_client) = (ada.dealer(&broker), ada.dealer(&broker));
    let session = session(&client);
    let own = broker.subscriber(&[b"k"]);
    let (everything, witness) = (ada.subscriber(&broker, &[b""]), bob.subscriber(&broker, &[b"k"]));
    write_until_heard(&owner, &everything, "before");
    write_until_heard(&owner, &witness, "before");
    parked_events(&other_client, 9);
    wait_until(PATIENCE, "the request waits", || (broker.stat("events_waiting") == 1).then_some(()));

    assert_eq!(code(&owner.ask_json(&ada.revoke())), "ok");

    // What was said before has arrived or is on its way; what is said now must not.
    write_until_heard(&owner, &witness, "after");
    write_until_heard(&owner, &own, "after");
    for (_, _, request) in operations("own/", &session) {
        assert_eq!(code(&client.ask_json(&request)), "refused", "{request}");
    }
    let parked = json(&other_client.receive());
    assert_eq!((&parked["id"], code(&parked)), (&json!(9), "refused"), "{parked}");
    assert!(!ada.is_let_in(&broker) && !ada.may_subscribe(&broker));
    write_until_heard(&owner, &witness, "after");
    let late = heard(&everything);
    assert!(!late.iter().any(|message| is_about(message, "after")), "{late:?}");
    assert!(other_client.try_receive(Duration::ZERO).is_none());
}

/// However much a user asks for meanwhile, and however much of it waits in the broker.
#[test]
fn nothing_of_a_user_is_done_once_its_revocation_is_answered() {
    const OUTSTANDING: u64 = 1_000;
    let (broker, ada) = (Broker::plain(), User::new());
    let owner = broker.dealer();
    owner.ask_json(&ada.authorize("write", &[]));
    let client = ada.dealer(&broker);
    let done = &AtomicU64::new(0);
    let (last_done, last, value) = std::thread::scope(|scope| {
        // Asks for more and more until it is refused; then its last requests are still answered.
        let asking = scope.spawn(move || {
            let (mut last_done, mut outstanding, mut is_refused) = (0, 0, false);
            while !is_refused || outstanding > 0 {
                while !is_refused && outstanding < OUTSTANDING {
                    client.send(&[json!({"op": "incr", "key": "k"}).to_string()]);
                    outstanding += 1;
                }
                let reply = json(&client.receive());
                outstanding -= 1;
                match code(&reply) {
                    "ok" => {
                        last_done = last_done.max(reply["rev"].as_u64().unwrap());
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    "refused" => is_refused = true,
                    other => assert_eq!(other, "busy", "{reply}"),
                }
            }
            last_done
        });
        wait_until(PATIENCE, "the user works", || (done.load(Ordering::Relaxed) > 2 * OUTSTANDING).then_some(()));
        assert_eq!(code(&owner.ask_json(&ada.revoke())), "ok");
        let value = owner.ask_json(&json!({"op": "get", "key": "k"}));
        (asking.join().unwrap(), value["rev"].as_u64().unwrap(), value)
    });
    assert!(last_done > 0 && last_done <= last, "{last_done} was done, the revocation was answered before {last}");
    assert_eq!(owner.ask_json(&json!({"op": "get", "key": "k"})), value);
}

#[test]
fn a_narrowed_key_hears_only_of_what_it_has_left() {
    let (broker, ada, bob) = (Broker::plain(), User::new(), User::new());
    let owner = broker.dealer();
    fill(&owner);
    for user in [&ada, &bob] {
        owner.ask_json(&user.authorize("read", &[]));
    }
    let (client, waiting) = (ada.dealer(&broker), ada.dealer(&broker));
    let (everything, witness) = (ada.subscriber(&broker, &[b""]), bob.subscriber(&broker, &[b"k"]));
    write_until_heard(&owner, &everything, "other/before");
    let snapshot = client.ask_json(&json!({"op": "scan", "snapshot": 0, "limit": 1}));
    assert_eq!(code(&snapshot), "ok", "{snapshot}");
    parked_events(&waiting, 1);
    wait_until(PATIENCE, "the request waits", || (broker.stat("events_waiting") == 1).then_some(()));

    let narrowed = owner.ask_json(&ada.authorize("read", &["own/"]));
    assert_eq!((code(&narrowed), &narrowed["replaced"]), ("ok", &json!(true)));

    write_until_heard(&owner, &witness, "other/after");
    owner.ask_json(&json!({"op": "put", "key": "own/after", "value": 1}));
    write_until_heard(&owner, &witness, "other/after");
    assert!(!heard(&everything).iter().any(|message| is_about(message, "other/after") || is_about(message, "own/after")));
    assert!(ada.is_let_in(&broker) && !ada.may_subscribe(&broker));
    // The request that waited was made by somebody who had everything.
    let reply = json(&waiting.receive());
    assert!(!reply.to_string().contains("other/"), "{reply}");
    // So was the snapshot.
    let next = json!({"op": "scan", "snapshot": snapshot["snapshot"], "cursor": snapshot["cursor"]});
    let next = client.ask_json(&next);
    assert!(!next.to_string().contains("other/"), "{next}");
    assert_eq!(code(&client.ask_json(&json!({"op": "get", "key": "other/k"}))), "refused");
    assert_eq!(code(&client.ask_json(&json!({"op": "get", "key": "own/k"}))), "ok");
}
