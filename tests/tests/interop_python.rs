//! Programs written from docs/protocol.md in another language, with its usual ZeroMQ and MessagePack packages.
//!
//! They run in the Python environment that `tests/peers` makes (or `KVBROKER_PYTHON` names).

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use kvbroker::keys::{KeyPair, SecretKey};
use kvbroker_tests::{Broker, BrokerOptions, Cli, python, vectors};
use serde_json::json;

const PROTOCOL: &str = include_str!("../../docs/protocol.md");
const README: &str = include_str!("../../README.md");

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name)
}

fn run(python: &Path, broker: &Broker, name: &str, arguments: &[&str]) -> Output {
    Command::new(python)
        .arg(script(name))
        .args(arguments)
        .env("KVBROKER_HOME", broker.home().path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a script prints; it must succeed.
fn lines(python: &Path, broker: &Broker, name: &str, arguments: &[&str]) -> Vec<String> {
    let output = run(python, broker, name, arguments);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().map(str::to_owned).collect()
}

/// A child that does not outlive its test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It has ended by itself if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn fifteen_lines_with_json_and_fifteen_with_messagepack() {
    let Some(python) = python() else { return };
    let broker = Broker::start(BrokerOptions::default().project("NETID-a5"));
    let said = lines(&python, &broker, "kv_json.py", &["NETID-a5"]);
    assert_eq!(said, ["{'retry_safe': False, 'status': 'ok', 'rev': 1}", "{'weight': 100}"]);
    let broker = Broker::start(BrokerOptions::default().project("NETID-a5"));
    let said = lines(&python, &broker, "kv_msgpack.py", &["NETID-a5"]);
    assert_eq!(said, ["[0, 1]", "[0, 1, {'weight': 100, 'raw': b'\\x00\\xff'}, 1, 1]"]);
    // What one encoding wrote, the other reads.
    let read = broker.req().ask_json(&json!({"op": "get", "key": "zebra"}));
    assert_eq!(read["value"], json!({"weight": 100, "raw": {"$bytes": "AP8="}}));
}

#[test]
fn the_documentation_shows_the_programs_that_run_here() {
    for name in ["kv_json.py", "kv_msgpack.py"] {
        let program = std::fs::read_to_string(script(name)).unwrap();
        assert!(program.lines().count() <= 16, "{name} is short");
        for (page, text) in [("docs/protocol.md", PROTOCOL), ("README.md", README)] {
            assert!(text.contains(&format!("```python\n{program}```\n")), "{page} shows {name} as it is");
        }
    }
}

#[test]
fn a_plain_subscriber_sees_changes_under_its_prefix() {
    let Some(python) = python() else { return };
    let broker = Broker::plain();
    let mut child = Command::new(python)
        .arg(script("watch_feed.py"))
        .arg(broker.pub_socket())
        .args(["user/", "3"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let _guard = Guard(child);
    assert_eq!(said.next().unwrap(), "ready");
    let client = broker.dealer();
    client.ask_json(&json!({"op": "put", "key": "user/ada", "value": {"age": 36}}));
    client.ask_json(&json!({"op": "put", "key": "other", "value": 1}));
    client.ask_json(&json!([{"op": "put", "key": "user/böb", "value": null}, {"op": "del", "key": "user/ada"}]));
    let expected = ["1 put user/ada {'age': 36}", "3 put user/böb None", "4 remove user/ada None"];
    assert_eq!(said.collect::<Vec<_>>(), expected);
}

#[test]
fn the_owners_key_opens_tcp_and_the_brokers_key_is_the_derived_one() {
    let Some(python) = python() else { return };
    let broker = Broker::plain();
    let endpoint = broker.runtime_directory().join("endpoint.json");
    let secret = broker.home().path().join("config/id");
    let said = lines(&python, &broker, "kv_tcp.py", &[endpoint.to_str().unwrap(), secret.to_str().unwrap()]);
    assert_eq!(said, ["ok", "tcp"]);
}

/// The address of a broker in one word, as its owner passes it on.
fn link(broker: &Broker) -> String {
    let key = broker.endpoint()["public_key"].as_str().unwrap();
    format!("kv://127.0.0.1:{}/test?key={key}", broker.endpoint()["tcp"]["port"])
}

#[test]
fn a_stranger_with_the_documents_alone_joins_over_curve_once_let_in() {
    let Some(python) = python() else { return };
    let program = std::fs::read_to_string(script("kv_curve.py")).unwrap();
    assert!(PROTOCOL.contains(&format!("```python\n{program}```\n")), "docs/protocol.md shows kv_curve.py as it is");
    let broker = Broker::plain();
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("its-key");
    let (link, key) = (link(&broker), key.to_str().unwrap());

    let refused = run(&python, &broker, "kv_curve.py", &[&link, key]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    let line = said.trim().strip_prefix("refused; the owner lets you in with: kvclient test ").unwrap();
    // The owner does as told, with a prefix.
    let words: Vec<&str> = line.split(' ').chain(["--prefix", "team/", "--comment", "the snake"]).collect();
    Cli::new(broker.home()).ok(&[&["test"][..], &words].concat());

    let said = lines(&python, &broker, "kv_curve.py", &[&link, key]);
    assert_eq!(said, ["True write ['team/']", "ok", "refused"]);
    assert_eq!(broker.req().ask_json(&json!({"op": "get", "key": "team/zebra"}))["value"], json!({"weight": 100}));
    assert_eq!(broker.req().ask_json(&json!({"op": "size"}))["size"], 1);

    // A broker with another key is not spoken to.
    let other = link.replace(broker.endpoint()["public_key"].as_str().unwrap(), &format!("kvpub1{}", "5a".repeat(32)));
    let refused = run(&python, &broker, "kv_curve.py", &[&other, key]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("nobody is there who has the broker's key"));
}

#[test]
fn the_key_of_a_project_is_derived_as_the_document_says() {
    let secret = SecretKey::from_bytes(std::array::from_fn(|at| u8::try_from(at).unwrap()));
    let project = "NETID-a5".parse().unwrap();
    let derived = secret.project_secret(&project);
    let digits: String = derived.expose_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(PROTOCOL.contains(&format!("gives `{digits}`")), "{digits}");
    let public = KeyPair::from_secret(derived).unwrap().public().to_string();
    assert!(PROTOCOL.contains(&format!("is `{public}`")), "{public}");
}

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");

#[test]
fn the_shared_vectors_pass_in_a_program_of_a_hundred_lines() {
    let Some(python) = python() else { return };
    let program = std::fs::read_to_string(script("vectors.py")).unwrap();
    assert!(program.lines().count() <= 100 && program.contains("\nimport base64, glob, json, os, re, struct, sys, zmq\n"));
    let broker = Broker::plain();
    let said = lines(&python, &broker, "vectors.py", &["test", VECTORS]);
    let count: usize = vectors::files().iter().map(|file| vectors::vectors(file).len()).sum();
    assert_eq!(said, [format!("{count} vectors, 0 failed")]);
}

#[test]
fn wrong_vectors_fail_in_that_program() {
    let Some(python) = python() else { return };
    let broker = Broker::plain();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let none = run(&python, &broker, "vectors.py", &["test", path]);
    assert!(!none.status.success(), "no vectors are no success");
    let planted = [
        (
            "conversion",
            json!([
                {"name": "right", "json": "1", "msgpack": "01"},
                {"name": "another_value", "json": "1", "msgpack": "02"},
                {"name": "another_width", "json": "1", "msgpack": "cc01"},
                {"name": "another_way", "way": "to_json", "json": "1e0", "msgpack": "cb3ff0000000000000"},
                {"name": "taken", "json": "1", "error": "invalid"},
                {"name": "refused", "json": "01", "msgpack": "01"},
            ]),
        ),
        (
            "other",
            json!([
                {"name": "right", "steps": [{"envelope": ["ff", ""], "json": "{\"op\":\"size\"}", "reply": {"size": 0, "…": "…"}}]},
                {"name": "a_float", "steps": [{"json": "{\"op\":\"size\"}", "reply": {"size": 0.0, "…": "…"}}]},
                {"name": "a_field_more", "steps": [{"json": "{\"op\":\"ping\"}", "reply": {"status": "ok"}}]},
                {"name": "a_field_less", "steps": [{"json": "{\"op\":\"ping\"}", "reply": {"size": 0, "…": "…"}}]},
                {"name": "another_revision", "steps": [{"json": "{\"op\":\"ping\"}", "reply": {"rev": "R+1", "…": "…"}}]},
            ]),
        ),
        (
            "requests",
            json!([
                {"name": "right", "json": "[]", "error": "invalid"},
                {"name": "another_code", "json": "[]", "error": "limit"},
                {"name": "another_id", "json": "{\"id\":5,\"op\":\"fly\"}", "error": "invalid", "id": 6},
                {"name": "another_shape", "msgpack": "81 'op' 'size'", "compact": true, "same_as": {"op": "size"}},
                {"name": "taken", "json": "{\"op\":\"size\"}", "error": "invalid"},
                {"name": "refused", "json": "[]", "same_as": {"op": "size"}},
            ]),
        ),
    ];
    let mut expected = Vec::new();
    let mut count = 0;
    for (file, vectors) in planted {
        for vector in vectors.as_array().unwrap() {
            count += 1;
            if vector["name"] != "right" {
                expected.push(format!("{file}: {}", vector["name"].as_str().unwrap()));
            }
        }
        let content = json!({"about": "planted", "vectors": vectors}).to_string();
        std::fs::write(directory.path().join(format!("{file}.json")), content).unwrap();
    }
    let output = run(&python, &broker, "vectors.py", &["test", path]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    // Each line has the file, the vector and what was seen instead.
    let head = |line: &str| line.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ");
    expected.push(format!("{count} vectors, {} failed", expected.len()));
    assert_eq!(said.lines().map(head).collect::<Vec<_>>(), expected);
}
