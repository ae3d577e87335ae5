//! The life that a data directory is made of: every kind of value and record that the protocol can bring about.

use kvbroker_tests::{Broker, PATIENCE, RawClient, pack, wait_until};
use serde_json::{Value, json};

/// A request of a session and what it was answered; asked again it is answered the same, in every later version.
pub type Exchange = (Value, Value);

/// Does an operation that must succeed.
pub fn ok(client: &RawClient, request: &Value) -> Value {
    let reply = client.ask_json(request);
    assert_eq!(reply["status"], "ok", "{request}: {reply}");
    reply
}

fn put(client: &RawClient, key: &str, value: &Value) {
    ok(client, &json!({"op": "put", "key": key, "value": value}));
}

/// A new session's id.
pub fn new_session(client: &RawClient) -> String {
    ok(client, &json!({"op": "hello"}))["session"].as_str().expect("hello offers a session").to_owned()
}

/// Values of all kinds in both encodings, and keys that came into being, changed, went and came back in all ways.
pub fn first_part(broker: &Broker) -> Vec<Exchange> {
    let client = broker.dealer();
    values(&client);
    keys(&client, "");
    expiries(&client);
    sessions(&client)
}

fn values(client: &RawClient) {
    let values = [
        ("text", json!("Grüße, 世界 🌍, \"quoted\"\n")),
        ("text/empty", json!("")),
        ("integer/zero", json!(0)),
        ("integer/smallest", json!(i64::MIN)),
        ("integer/largest", json!(u64::MAX)),
        ("float", json!(-1.5e-7)),
        ("null", Value::Null),
        ("true", json!(true)),
        ("array", json!([1, "two", [3.5, null], {}])),
        ("map", json!({"z": 1, "a": {"deep": {"deeper": [true, false]}}, "": "empty name", "ü": "umlaut"})),
        ("bytes", json!({"$bytes": "AAEC/w=="})),
        ("float/nan", json!({"$float": "nan"})),
        ("extension", json!({"$ext": [5, "AAEC"]})),
        ("map/of-odd-keys", json!({"$map": [[1, "one"], [{"$bytes": "/w=="}, null]]})),
        ("escape", json!({"$$bytes": 5})),
        ("large", json!("0123456789abcdef".repeat(600))),
        (&"long/".repeat(60), json!("a key of 300 bytes")),
        ("\u{1}\t unusual \u{7f}", json!("a key with a space and control characters")),
    ];
    for (key, value) in &values {
        put(client, key, value);
    }
    // As it is written: digits beyond a double's, in an order and with spaces that nobody would make.
    let spelled = br#"{"op": "put", "key": "spelled", "value": {"b" :3.14159265358979323846, "a":1.0e2}}"#;
    assert_eq!(kvbroker_tests::json(&client.ask(spelled))["status"], "ok");
    ok(client, &json!({"op": "put", "key": {"$bytes": "/wA="}, "value": "a key that is not UTF-8"}));
    ok(client, &json!({"op": "put", "key": "", "value": "the empty key"}));
    // And in MessagePack.
    for (key, value) in &values[..10] {
        client.ask_pack(&json!([1, 1, null, null, null, null, null, ["put", format!("packed/{key}"), value]]));
    }
    // ["put", "packed/bytes", bin 00 01 02] and ["put", "packed/float32", 1.5f]: what no JSON value has a form for.
    let head = pack(&json!([1, 1, null, null, null, null, null, null]));
    let head = &head[..head.len() - 1];
    for (key, value) in [("packed/bytes", &[0xc4, 3, 0, 1, 2][..]), ("packed/float32", &[0xca, 0x3f, 0xc0, 0, 0])] {
        client.ask(&[head, &[0x93], &pack(&json!("put")), &pack(&json!(key)), value].concat());
        ok(client, &json!({"op": "get", "key": key}));
    }
}

/// What can happen to a key.
pub fn keys(client: &RawClient, prefix: &str) {
    let key = |name: &str| format!("{prefix}{name}");
    for round in 0..3 {
        put(client, &key("replaced"), &json!({"round": round}));
    }
    put(client, &key("removed"), &json!("gone"));
    ok(client, &json!({"op": "del", "key": key("removed")}));
    put(client, &key("removed-and-back"), &json!("first life"));
    ok(client, &json!({"op": "del", "key": key("removed-and-back")}));
    put(client, &key("removed-and-back"), &json!("second life"));
    for by in [1, 41, -100] {
        ok(client, &json!({"op": "incr", "key": key("counter"), "by": by}));
    }
    for index in 0..5 {
        put(client, &key(&format!("bulk/{index}")), &json!(index));
    }
    ok(client, &json!({"op": "del_prefix", "prefix": key("bulk/")}));
    ok(
        client,
        &json!({"op": "txn", "if": [{"key": key("counter"), "if_value": -58}], "then": [
            {"op": "put", "key": key("txn/one"), "value": 1},
            {"op": "incr", "key": key("counter")},
            {"op": "del", "key": key("replaced")},
            {"op": "put", "key": key("replaced"), "value": "in a transaction"},
        ]}),
    );
}

fn expiries(client: &RawClient) {
    const YEARS: u64 = 365 * 24 * 3_600_000;
    ok(client, &json!({"op": "put", "key": "deadline/far", "value": "for 99 years", "ttl": 99 * YEARS}));
    put(client, "deadline/later", &json!("a deadline came later"));
    ok(client, &json!({"op": "expire", "key": "deadline/later", "ttl": 98 * YEARS}));
    ok(client, &json!({"op": "put", "key": "deadline/taken-away", "value": "stays", "ttl": YEARS}));
    ok(client, &json!({"op": "persist", "key": "deadline/taken-away"}));
    // One that has come: its removal is in the log.
    ok(client, &json!({"op": "put", "key": "deadline/came", "value": "short", "ttl": 1}));
    wait_until(PATIENCE, "a key has expired", || {
        (client.ask_json(&json!({"op": "exists", "key": "deadline/came"}))["exists"] == false).then_some(())
    });
}

fn sessions(client: &RawClient) -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    let mut session = new_session(client);
    let mut ask = |session: &str, seq: u64, ack: u64, mut request: Value| {
        request["session"] = json!(session);
        request["seq"] = json!(seq);
        request["ack"] = json!(ack);
        exchanges.push((request.clone(), client.ask_json(&request)));
    };
    ask(&session, 1, 0, json!({"op": "incr", "key": "clicks", "by": 7}));
    ask(&session, 2, 0, json!({"op": "put", "key": "clicks", "value": {"$ref": 1}, "if_rev": 1}));
    ask(&session, 3, 0, json!({"op": "put", "key": "kept", "value": {"b": {"$bytes": "AAEC"}, "a": 1}}));
    ask(&session, 4, 0, json!({"op": "del", "key": "kept", "return": true}));
    ask(&session, 5, 0, json!({"op": "del", "key": "never-there"}));
    ask(&session, 6, 0, json!({"op": "noop"}));
    ask(
        &session,
        7,
        0,
        json!({"op": "txn", "if": [{"key": "clicks", "if_absent": true}], "then": [],
        "else": [{"op": "get", "key": "clicks"}, {"op": "put", "key": "seat", "value": "ann"}]}),
    );
    ask(&session, 8, 0, json!({"op": "del_prefix", "prefix": "nothing/"}));
    // One whose first replies were read.
    session = new_session(client);
    for number in 1..=6 {
        ask(&session, number, number - 1, json!({"op": "incr", "key": "read-replies"}));
    }
    exchanges.drain(8..13);
    // One that has ended.
    session = new_session(client);
    ok(client, &json!({"op": "incr", "key": "ended", "session": session, "seq": 1}));
    ok(client, &json!({"op": "end", "session": session, "ack": 1}));
    exchanges
}

/// After a restart: changes to what was there, by new sessions and without.
pub fn second_part(broker: &Broker, name: &str) -> Vec<Exchange> {
    let client = broker.dealer();
    keys(&client, &format!("{name}/"));
    ok(&client, &json!({"op": "del", "key": "map"}));
    put(&client, "map", &json!({"after": name}));
    ok(&client, &json!({"op": "incr", "key": "clicks"}));
    let session = new_session(&client);
    let request = json!({"op": "put", "key": "text", "value": name, "session": session, "seq": 1});
    let reply = ok(&client, &request);
    vec![(request, reply)]
}
