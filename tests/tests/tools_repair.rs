//! `kvbroker PROJECT repair`: data directories of real brokers with flipped bytes; then a real broker starts on what is left.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kvbroker_tests::{Broker, BrokerOptions, PATIENCE, Said, verb, wait_until};
use serde_json::json;

const KEYS: u64 = 60;

/// A killed broker that had put one key with each revision.
fn killed() -> Broker {
    let mut broker = Broker::start(BrokerOptions::default().args(["--segment-size", "64KiB"]));
    let client = broker.dealer();
    for number in 1..=KEYS {
        let value = format!("value-{number}-{}", "x".repeat(4_000));
        let reply = client.ask_json(&json!({"op": "put", "key": format!("key-{number}"), "value": value}));
        assert_eq!(reply["rev"].as_u64(), Some(number), "{reply}");
    }
    broker.kill9();
    broker
}

/// Flips a byte inside of the value that was put at this revision; gives the file.
fn damage_value(broker: &Broker, revision: u64) -> String {
    let mark = format!("value-{revision}-xxx").into_bytes();
    for entry in fs::read_dir(broker.data_directory()).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
            bytes[at + mark.len()] ^= 1;
            fs::write(&path, bytes).unwrap();
            return path.file_name().unwrap().to_str().unwrap().to_owned();
        }
    }
    panic!("there is no value of revision {revision}");
}

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "lock")
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap()))
        .collect()
}

fn repair(broker: &Broker, words: &[&str]) -> Said {
    verb(broker.home(), &[&["test", "repair"], words].concat())
}

/// What is in the table must be what the revisions up to `kept` put.
fn check_table(broker: &Broker, kept: u64) {
    let client = broker.dealer();
    for number in 1..=KEYS {
        let reply = client.ask_json(&json!({"op": "get", "key": format!("key-{number}")}));
        assert_eq!(reply["value"].is_string(), number <= kept, "key-{number}: {reply}");
    }
    assert_eq!(broker.stat("revision"), kept);
}

#[test]
fn a_damaged_log_is_repaired_only_when_told_the_place_and_keeps_what_was_promised() {
    let mut broker = killed();
    let name = damage_value(&broker, 20);
    assert!(broker.try_restart().is_err());
    let before = contents(&broker.data_directory());
    let said = repair(&broker, &["--json"]);
    let told = said.json();
    assert_eq!((said.code, &told["file"], &told["repaired"]), (Some(11), &json!(name), &json!(false)), "{}", said.stderr);
    assert_eq!((&told["remedy"], &told["kept_revision"]), (&json!("end_log"), &json!(19)));
    // Each put is a batch; the one that is damaged can't be read, the others can.
    assert_eq!((&told["lost_revisions"], &told["readable_records"]), (&json!([20, KEYS]), &json!(KEYS - 20)));
    assert_eq!(told["readable_keys"], json!(KEYS - 20));
    let place = format!("{name}:{}", told["offset"]);
    let said = repair(&broker, &[]);
    assert_eq!(said.code, Some(11));
    for part in ["damaged   ", "kept      everything up to revision 19", "revisions 20 to 60", "40 keys (key-21, "] {
        assert!(said.text().contains(part) || said.stderr.contains(part), "{part}: {}{}", said.text(), said.stderr);
    }
    assert!(said.stderr.contains(&format!("kvbroker test repair --discard-from {place}")), "{}", said.stderr);
    let said = repair(&broker, &["--discard-from", "4097"]);
    assert!(said.code == Some(2) && said.stderr.contains(&place), "{:?} {}", said.code, said.stderr);
    assert_eq!(contents(&broker.data_directory()), before, "nothing was changed so far");

    let said = repair(&broker, &["--discard-from", &place]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.text().contains("repaired, at revision 19"), "{}", said.text());
    let parent = broker.data_directory().parent().unwrap().to_owned();
    let copies: Vec<_> = fs::read_dir(&parent)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("test.before-repair-"))
        .collect();
    assert_eq!(copies.len(), 1);
    assert_eq!(contents(&copies[0].path()), before, "the copy is what there was");

    // What is shown about a directory that was named is about that one, not about the project's own.
    let copy = copies[0].path().display().to_string();
    let said = verb(broker.home(), &["test", "check", "--data", &copy]);
    assert!(said.stderr.contains(&format!("`kvbroker test repair --data {copy}`")), "{}", said.stderr);
    let said = repair(&broker, &["--data", &copy, "--discard-from", &place]);
    assert!(said.text().contains(&format!("start it with: kvbroker test --data {copy}\n")), "{}{}", said.text(), said.stderr);

    let epoch = broker.endpoint()["epoch"].clone();
    broker.restart();
    assert_ne!(broker.endpoint()["epoch"], epoch);
    check_table(&broker, 19);
    let reply = broker.dealer().ask_json(&json!({"op": "put", "key": "new", "value": 1}));
    assert_eq!(reply["rev"], 20, "{reply}");
    let epoch = broker.endpoint()["epoch"].clone();
    broker.kill9();
    let said = repair(&broker, &[]);
    assert!(said.code == Some(0) && said.text().starts_with("there is nothing to repair"), "{}{}", said.text(), said.stderr);
    broker.restart();
    assert_eq!(broker.endpoint()["epoch"], epoch);
    assert_eq!(broker.dealer().ask_json(&json!({"op": "get", "key": "new"}))["value"], 1);
}

#[test]
fn a_header_that_the_batches_tell_is_made_anew_and_nothing_is_lost() {
    let mut broker = killed();
    let path = broker.data_directory().join("table.txn.00000002");
    let mut bytes = fs::read(&path).unwrap();
    bytes[..4096].fill(0xee);
    fs::write(&path, bytes).unwrap();
    assert!(broker.try_restart().is_err());
    let said = repair(&broker, &["--discard-from", "table.txn.00000002:0"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.text().contains("lost      nothing"), "{}", said.text());
    broker.restart();
    check_table(&broker, KEYS);
}

#[test]
fn of_a_damaged_checkpoint_all_other_records_are_kept() {
    let sizes = ["--segment-size", "64KiB", "--checkpoint-after", "64KiB", "--history-age", "0s", "--history-size", "64KiB"];
    let mut broker = Broker::start(BrokerOptions::default().args(sizes));
    let client = broker.dealer();
    let put = |round: u64, number: u64| {
        let value = format!("value-{round}-{number}-{}", "x".repeat(4_000));
        let key = format!("key-{number:02}");
        wait_until(PATIENCE, "a put is done", || {
            let reply = client.ask_json(&json!({"op": "put", "key": key, "value": value}));
            (reply["error"]["code"] != "busy").then(|| assert_eq!(reply["status"], "ok", "{reply}"))
        });
    };
    let first = broker.data_directory().join("table.txn.00000001");
    let mut rounds = 0;
    // Until the log no longer begins with its first segment.
    wait_until(PATIENCE, "the first segment is covered and removed", || {
        rounds += 1;
        (1..=KEYS).for_each(|number| put(rounds, number));
        (!first.exists()).then_some(())
    });
    broker.kill9();
    let path = broker.data_directory().join("table.ckpt");
    let mut bytes = fs::read(&path).unwrap();
    let at = 4096 + (bytes.len() - 4096) / 2;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let ended = broker.try_restart().err().unwrap();
    assert_eq!(ended.status.code(), Some(11), "{}", ended.stderr);
    let told = repair(&broker, &["--json"]).json();
    assert_eq!((&told["file"], &told["remedy"]), (&json!("table.ckpt"), &json!("salvage_checkpoint")), "{told}");
    assert_eq!(told["gaps"].as_array().unwrap().len(), 1, "{told}");
    let said = repair(&broker, &["--discard-from", &told["offset"].to_string()]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let epoch = broker.endpoint()["epoch"].clone();
    let revision = told["kept_revision"].as_u64().unwrap();
    broker.restart();
    assert_ne!(broker.endpoint()["epoch"], epoch);
    assert_eq!(broker.stat("revision"), revision);
    // A block holds some sixteen of these; what the log behind has put again is there all the same.
    let client = broker.dealer();
    let is_there = |number: &u64| client.ask_json(&json!({"op": "exists", "key": format!("key-{number:02}")}))["exists"] == true;
    let there = (1..=KEYS).filter(is_there).count() as u64;
    assert!((KEYS - 20..=KEYS).contains(&there), "{there}");
}

#[test]
fn a_log_without_its_beginning_needs_a_backup() {
    let broker = killed();
    fs::remove_file(broker.data_directory().join("table.txn.00000001")).unwrap();
    let said = repair(&broker, &[]);
    assert_eq!(said.code, Some(11));
    assert!(said.stderr.contains("only a backup helps"), "{}", said.stderr);
}

#[test]
fn a_directory_in_use_or_not_there_is_left_alone() {
    let broker = Broker::plain();
    let said = repair(&broker, &[]);
    assert!(said.code == Some(10) && said.stderr.contains("in use by process"), "{:?} {}", said.code, said.stderr);
    let said = verb(broker.home(), &["other", "repair"]);
    assert_eq!(said.code, Some(2));
    assert!(!broker.data_directory().with_file_name("other").exists());
}
