//! The shared vectors of `tests/vectors` that are sequences of messages, sent to a real broker.
//!
//! `tests/interop/vectors.py` does the same and all the others, in another language; `protocol/tests/vectors.rs` those without a broker.

#![allow(clippy::unwrap_used)]

use kvbroker_protocol::msgpack_to_json;
use kvbroker_tests::vectors::{self, Encoding, Kept, Vector};
use kvbroker_tests::{Broker, PATIENCE, RawClient, json};
use serde_json::{Value, json};

/// Removes every key. Revisions go on.
fn empty_the_table(client: &RawClient) {
    loop {
        let page = client.ask_json(&json!({"op": "scan", "keys_only": true, "limit": 1000}));
        let dels: Vec<Value> = page["keys"].as_array().unwrap().iter().map(|key| json!({"op": "del", "key": key})).collect();
        if dels.is_empty() {
            return;
        }
        client.ask_json(&Value::Array(dels));
    }
}

/// Sends a step's message and gives the reply's body, whose envelope must be the request's.
fn ask(client: &RawClient, step: &Vector, kept: &Kept) -> Value {
    let (encoding, body) = step.body(kept);
    let envelope: Vec<Vec<u8>> = match step.0.get("envelope") {
        None => Vec::new(),
        Some(frames) => {
            frames.as_array().unwrap().iter().map(|frame| vectors::octets(frame, Encoding::MessagePack, kept)).collect()
        }
    };
    client.send(&[&envelope[..], &[body]].concat());
    let mut frames = client.try_receive(PATIENCE).expect("no reply came");
    let reply = frames.pop().unwrap();
    assert_eq!(frames, envelope);
    assert_eq!(reply[0] >= 0x80, encoding == Encoding::MessagePack, "a reply has its request's encoding");
    if encoding == Encoding::Json { json(&reply) } else { json(&msgpack_to_json(&reply).unwrap()) }
}

/// Why a broker does not do what a vector says.
fn try_vector(client: &RawClient, vector: &Vector) -> Option<String> {
    empty_the_table(client);
    let base = client.ask_json(&json!({"op": "ping"}))["rev"].as_u64().unwrap();
    let mut kept = Kept::new();
    for (index, step) in vector.steps().iter().enumerate() {
        let reply = ask(client, step, &kept);
        let difference = vectors::difference(&step.0["reply"], &reply, base, &kept, "the reply");
        if let Some(difference) = difference {
            return Some(format!("{}, step {}: {difference}", vector.name(), index + 1));
        }
        for (name, field) in step.0["keep"].as_object().into_iter().flatten() {
            kept.insert(name.clone(), reply[field.as_str().unwrap()].clone());
        }
    }
    None
}

#[test]
fn a_broker_does_what_the_vectors_say() {
    let broker = Broker::plain();
    let client = broker.dealer();
    let files: Vec<String> =
        vectors::files().into_iter().filter(|file| !matches!(file.as_str(), "conversion" | "requests")).collect();
    assert!(files.iter().any(|file| file == "exchanges") && files.iter().any(|file| file == "keys"), "{files:?}");
    let all = files.iter().flat_map(|file| vectors::vectors(file));
    let wrong: Vec<String> = all.filter_map(|vector| try_vector(&client, &vector)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_vector_is_noticed() {
    let broker = Broker::plain();
    let client = broker.dealer();
    let vector = |reply: Value| {
        let steps = json!([{"json": "{\"op\":\"ping\"}", "reply": "…"}, {"msgpack": "82 'id' 05 'op' 'size'", "reply": reply}]);
        Vector(json!({"name": "planted", "steps": steps}))
    };
    assert_eq!(try_vector(&client, &vector(json!({"id": 5, "status": "ok", "rev": "R+0", "size": 0}))), None);
    for wrong in [
        json!({"id": 5, "status": "ok", "rev": "R+1", "size": 0}),
        json!({"id": 5, "status": "ok", "rev": "R+0", "size": 0.0}),
        json!({"id": 5, "status": "ok", "rev": "R+0"}),
        json!({"id": 5, "status": "ok", "rev": "R+0", "size": 0, "cursor": null}),
        json!({"id": 5, "cursor": "…", "…": "…"}),
        json!([1, 5, null, [0, "R+0", 0]]),
    ] {
        assert!(try_vector(&client, &vector(wrong.clone())).is_some_and(|why| why.starts_with("planted, step 2")), "{wrong}");
    }
}
