//! `tests/interop/watch_gapless.py`, a watcher that was written from docs/protocol.md alone, with real brokers and real losses.
//!
//! - What it delivered is held against the table's own account: all pages of `events` from revision 0, asked by a plain socket.
//! - A test of a loss fails if nothing was lost: the script prints each hole that it found.

#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use kvbroker_tests::{Broker, BrokerOptions, Home, PATIENCE, RawClient, end_with_us, python, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long the script may take for what it does: it asks for thousands of revisions on a machine that is busy besides.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(120);
/// The script ends when this key was put.
const END: &str = "a/b/end";

/// The running script, killed when dropped.
struct Script {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Script {
    fn start(python: &Path, endpoint: &Path, prefix: &str, from: &str) -> Script {
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/watch_gapless.py"));
        command.arg(endpoint).args([prefix, from, END]).stdin(Stdio::null()).stdout(Stdio::piped());
        end_with_us(&mut command);
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Ends with the script.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Script { child, lines, said: Vec::new() }
    }

    /// Reads on until a line is as wanted, and does something else meanwhile.
    fn wait_while(&mut self, what: &str, wanted: impl Fn(&str) -> bool, mut meanwhile: impl FnMut()) -> String {
        let deadline = Instant::now() + SCRIPT_PATIENCE;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => assert!(Instant::now() < deadline, "no {what}; {}", self.tail()),
                Err(RecvTimeoutError::Disconnected) => panic!("the script ended without {what}; {}", self.tail()),
            }
            meanwhile();
        }
    }

    fn wait(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_while(what, wanted, || {})
    }

    /// Waits until a revision was delivered.
    fn wait_for(&mut self, revision: u64) {
        let head = format!("{{\"rev\": {revision},");
        self.wait(&head, |line| line.starts_with(&head));
    }

    /// Waits for the script's end, and gives its counters.
    fn end(&mut self) -> Value {
        let line = self.wait("an end", |line| line.starts_with("end "));
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(line.strip_prefix("end ").unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the process; when this returns, it does nothing any more.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let path = format!("/proc/{}/stat", self.child.id());
        wait_until(PATIENCE, "the script is stopped", || {
            let stat = fs::read_to_string(&path).unwrap();
            stat.rsplit(')').next().unwrap().trim_start().starts_with('T').then_some(())
        });
    }

    fn count(&self, word: &str) -> usize {
        self.said.iter().filter(|line| line.starts_with(word)).count()
    }

    /// All revisions that it delivered.
    fn delivered(&self) -> Vec<Value> {
        self.said.iter().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What somebody has who does as the lines say, from snapshots to changes.
    fn copy(&self) -> BTreeMap<String, Value> {
        let mut copy = BTreeMap::new();
        for line in &self.said {
            if line.starts_with("snapshot begin") {
                copy.clear();
            } else if let Some(row) = line.strip_prefix("snapshot row ") {
                let row: Value = serde_json::from_str(row).unwrap();
                copy.insert(row[0].as_str().unwrap().to_owned(), row[1].clone());
            } else if line.starts_with('{') {
                let revision: Value = serde_json::from_str(line).unwrap();
                for change in revision["changes"].as_array().unwrap() {
                    let key = change[0].as_str().unwrap();
                    if change[1] == "put" {
                        copy.insert(key.to_owned(), change[2].clone());
                    } else {
                        assert!(copy.remove(key).is_some(), "{key} goes and never came");
                    }
                }
            }
        }
        copy
    }

    /// The last lines, cut short, for messages.
    fn tail(&self) -> String {
        let last = &self.said[self.said.len().saturating_sub(12)..];
        last.iter().map(|line| line.chars().take(120).collect::<String>()).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It has ended by itself if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn endpoint_file(broker: &Broker) -> PathBuf {
    broker.runtime_directory().join("endpoint.json")
}

fn done(client: &RawClient, request: &Value) -> u64 {
    let reply = client.ask_json(request);
    assert_eq!(reply["status"], "ok", "{reply}");
    reply["rev"].as_u64().unwrap()
}

fn put(client: &RawClient, key: &str, value: &Value) -> u64 {
    done(client, &json!({"op": "put", "key": key, "value": value}))
}

/// Everything that changed under a prefix, as the broker tells it to whoever asks from the beginning.
fn truth(client: &RawClient, prefix: &str) -> Vec<Value> {
    let (mut after, mut all) = (json!(0), Vec::new());
    loop {
        let page = client.ask_json(&json!({"op": "events", "prefix": prefix, "after": after}));
        assert_eq!(page["status"], "ok", "{page}");
        let events = page["events"].as_array().unwrap();
        all.extend(events.iter().map(|event| json!({"rev": event[0], "changes": event[2]})));
        after = page["through"].clone();
        if page["more"] == false {
            return all;
        }
    }
}

/// Some of each kind of change, in prefixes inside one another; the last revision.
fn write_some(client: &RawClient, round: u64) -> u64 {
    for number in 0..12 {
        put(client, &format!("a/b/{number}"), &json!({"round": round, "text": "ö", "raw": {"$bytes": "AP8="}}));
        put(client, &format!("a/{number}"), &json!([round, 1.5, null, -7]));
        put(client, &format!("b/{number}"), &json!("elsewhere"));
        put(client, "", &json!(number));
        done(
            client,
            &json!({"op": "txn", "then": [
            {"op": "put", "key": format!("a/b/c/{number}"), "value": true}, {"op": "del", "key": format!("a/{number}")},
            {"op": "put", "key": "a", "value": number}, {"op": "incr", "key": "a/b/count"}]}),
        );
        done(client, &json!({"op": "put", "key": format!("a/b/ttl/{number}"), "value": 1, "ttl": 20}));
        done(client, &json!({"op": "del", "key": format!("a/b/{number}")}));
    }
    done(client, &json!({"op": "del_prefix", "prefix": "a/b/c/"}));
    // More than a stream takes: the broker itself leaves a hole here.
    put(client, "a/b/large", &json!("x".repeat(1_100_000)))
}

#[test]
fn a_watcher_written_from_the_document_alone_misses_nothing() {
    let Some(python) = python() else { return };
    let mut broker = Broker::plain();
    let last = write_some(&broker.dealer(), 0);
    let mut all = Script::start(&python, &endpoint_file(&broker), "", "0");
    let mut nested = Script::start(&python, &endpoint_file(&broker), "a/b/", "0");
    all.wait_for(last);
    nested.wait_for(last);
    let last = write_some(&broker.dealer(), 1);
    all.wait_for(last);

    // Stopped until messages were lost: what libzmq keeps for one subscriber is used up.
    let (holes, connections) = (all.count("hole "), all.count("lost "));
    for round in 0..4_u32 {
        all.stop();
        let client = broker.dealer();
        let write = |_, number| put(&client, &format!("a/b/wide/{}", number % 50), &json!("w".repeat(2_000)));
        let last = (0..4_000_u64 << round).fold(0, write);
        all.signal(Signal::CONT);
        all.wait_for(last);
        if all.count("hole ") > holes {
            break;
        }
    }
    assert!(all.count("hole ") > holes, "nothing was lost: {}", all.tail());
    wait_until(PATIENCE, "the broker was told of it", || (broker.stat("events_lost") > 0).then_some(()));
    assert_eq!(all.count("lost "), connections, "and not because it threw its connections away: {}", all.tail());

    // The broker is killed while requests are under way, and comes back.
    for round in 2..4 {
        let client = broker.dealer();
        for number in 0..300 {
            client.send(&[json!({"op": "put", "key": format!("a/b/{number}"), "value": round}).to_string()]);
        }
        client.receive();
        broker.kill9();
        broker.restart();
        let last = write_some(&broker.dealer(), round);
        all.wait_for(last);
        nested.wait_for(last);
    }
    let client = broker.dealer();
    wait_until(PATIENCE, "all that had a deadline is gone", || {
        let page = client.ask_json(&json!({"op": "scan", "prefix": "a/b/ttl/", "keys_only": true}));
        (page["keys"] == json!([])).then_some(())
    });
    let last = put(&client, END, &Value::Null);
    let (counters, of_nested) = (all.end(), nested.end());
    println!("everything: {counters}; a/b/: {of_nested}");
    let expected = truth(&client, "");
    let revisions: Vec<u64> = expected.iter().map(|event| event["rev"].as_u64().unwrap()).collect();
    assert_eq!(revisions, (1..=last).collect::<Vec<_>>(), "each revision has changed something");
    for (script, prefix) in [(&all, ""), (&nested, "a/b/")] {
        let (delivered, expected) = (script.delivered(), truth(&client, prefix));
        let difference = delivered.iter().zip(&expected).position(|(one, other)| one != other);
        assert_eq!((delivered.len(), difference), (expected.len(), None), "{prefix}: just what happened, in order and once");
        assert!(script.count("caught_up ") > 0 && script.count("snapshot") == 0, "{prefix}");
    }
    assert!(counters["refills"].as_u64().unwrap() >= 2 && counters["connections"].as_u64().unwrap() >= 3, "{counters}");
    broker.stop();
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn it_begins_again_where_the_history_was_rolled_back_or_is_another_one() {
    let Some(python) = python() else { return };
    let home = Home::new();
    let data = home.path().join("data");
    let mut broker = Broker::start(BrokerOptions::default().home(&home).args([Path::new("--data"), &data]));
    let numbers = |broker: &Broker, numbers: std::ops::Range<u64>| {
        let client = broker.dealer();
        numbers.fold(0, |_, number| put(&client, &format!("a/b/{number}"), &json!(number)))
    };
    numbers(&broker, 0..5);
    let mut script = Script::start(&python, &endpoint_file(&broker), "a/", "snapshot");
    script.wait("where it is", |line| line == "caught_up 5");
    assert_eq!(script.count("snapshot row "), 5);
    broker.stop();
    let kept = home.path().join("kept");
    copy_directory(&data, &kept);
    broker.restart();
    let last = numbers(&broker, 5..9);
    script.wait_for(last);
    assert_eq!(script.count("snapshot begin"), 1, "a start again is no other history: {}", script.tail());

    // An old copy, put back by hand: the same epoch, and fewer revisions.
    broker.kill9();
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&kept, &data).unwrap();
    broker.restart();
    script.wait("a rollback", |line| line == "snapshot begin rolled back");
    script.wait("its end", |line| line == "snapshot end 5");
    let last = numbers(&broker, 7..8);
    script.wait_for(last);

    // Nothing of what was.
    broker.kill9();
    fs::remove_dir_all(&data).unwrap();
    broker.restart();
    script.wait("another history", |line| line == "snapshot begin other history");
    script.wait("its end", |line| line == "snapshot end 0");
    numbers(&broker, 20..23);
    put(&broker.dealer(), END, &json!("done"));
    let counters = script.end();
    assert_eq!(counters["snapshots"], 3);
    let rows = broker.dealer().ask_json(&json!({"op": "scan", "prefix": "a/"}));
    let rows = rows["rows"].as_array().unwrap().iter().map(|row| (row[0].as_str().unwrap().to_owned(), row[1].clone()));
    assert_eq!(script.copy(), rows.collect::<BTreeMap<_, _>>());
    broker.stop();
}

#[test]
fn it_gets_on_without_a_stream_and_leaves_a_publisher_without_a_heartbeat() {
    let Some(python) = python() else { return };
    let mut broker = Broker::plain();
    let place = tempfile::Builder::new().prefix("kvt-").tempdir().unwrap();
    // A publisher whose heart beats, and which says nothing on any stream.
    let publisher = zmq::Context::new().socket(zmq::XPUB).unwrap();
    publisher.set_linger(0).unwrap();
    publisher.set_xpub_verbose(true).unwrap();
    let path = place.path().join("pub.sock");
    publisher.bind(&format!("ipc://{}", path.display())).unwrap();
    let mut endpoint = broker.endpoint().clone();
    endpoint["pub"] = json!(path.to_str().unwrap());
    let file = place.path().join("endpoint.json");
    fs::write(&file, endpoint.to_string()).unwrap();

    let topic = b"\x01s\0\x04a/b/";
    let subscriptions = Cell::new(0);
    let beat = || {
        while let Ok(message) = publisher.recv_bytes(zmq::DONTWAIT) {
            subscriptions.set(subscriptions.get() + usize::from(message == topic));
        }
        // The body of a heartbeat is nothing that a watcher needs.
        publisher.send_multipart([&b"h"[..], b"\x80"], zmq::DONTWAIT).unwrap();
    };
    let client = broker.dealer();
    let first = put(&client, "a/b/1", &json!(1));
    let mut script = Script::start(&python, &file, "a/b/", "0");
    let head = format!("{{\"rev\": {first},");
    script.wait_while("the first change", |line| line.starts_with(&head), beat);
    assert_eq!(script.said.first().unwrap(), "silent", "{}", script.tail());
    put(&client, "other", &json!(1));
    let second = put(&client, "a/b/2", &json!(2));
    let head = format!("{{\"rev\": {second},");
    script.wait_while("the second change", |line| line.starts_with(&head), beat);
    assert_eq!((script.count("silent") >= 2, script.count("lost")), (true, 0), "{}", script.tail());
    assert!(subscriptions.get() >= 2, "it has subscribed {} times", subscriptions.get());

    // The heart beats no more, and the endpoint file names the broker's own publisher.
    fs::write(&file, broker.endpoint().to_string()).unwrap();
    script.wait("that it notices", |line| line == "lost no heartbeat");
    put(&client, END, &Value::Null);
    script.end();
    assert_eq!(script.delivered(), truth(&client, "a/b/"));
    broker.stop();
}
