//! `kvbroker PROJECT repair`: data directories of real brokers with flipped bytes; then a real broker starts on what is left.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use kvbroker::paths::Dirs;
use kvbroker_log::{BatchBuilder, Cause, DiskStorage, FileLog, GroupRef, Log, LogOptions, SyncMode};
use kvbroker_protocol::{Answer, Operation};
use kvbroker_tests::{Broker, BrokerOptions, Home, PATIENCE, RawClient, Said, verb, wait_until};
use serde_json::{Value, json};

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
fn a_checkpoint_without_its_header_keeps_everything_and_its_epoch() {
    let mut broker = Broker::start(BrokerOptions::default().args(SIZES));
    cover_the_beginning(&broker);
    let revision = broker.stat("revision");
    let epoch = broker.endpoint()["epoch"].clone();
    let rows = |broker: &Broker| broker.dealer().ask_json(&json!({"op": "scan", "limit": 10_000}))["rows"].clone();
    let before = rows(&broker);
    assert!(before.as_array().is_some_and(|rows| rows.len() > 10), "{before}");
    broker.kill9();
    flip(&broker.data_directory().join("table.ckpt"), |_| 50);
    let ended = broker.try_restart().err().unwrap();
    assert_eq!(ended.status.code(), Some(11), "{}", ended.stderr);
    let said = repair(&broker, &["--discard-from", "table.ckpt:0"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for part in ["remedy    the checkpoint's header is made anew from its end block", "lost      nothing"] {
        assert!(said.text().contains(part), "{part}: {}", said.text());
    }
    broker.restart();
    assert_eq!((broker.stat("revision"), &broker.endpoint()["epoch"], rows(&broker)), (revision, &epoch, before));
}

const SIZES: [&str; 8] =
    ["--segment-size", "64KiB", "--checkpoint-after", "64KiB", "--history-age", "0s", "--history-size", "64KiB"];

/// Puts all keys once.
fn put_all(broker: &Broker, round: u64) {
    let client = broker.dealer();
    for number in 1..=KEYS {
        let value = format!("value-{round}-{number}-{}", "x".repeat(4_000));
        let key = format!("key-{number:02}");
        wait_until(PATIENCE, "a put is done", || {
            let reply = client.ask_json(&json!({"op": "put", "key": key, "value": value}));
            (reply["error"]["code"] != "busy").then(|| assert_eq!(reply["status"], "ok", "{reply}"))
        });
    }
}

/// Puts all keys again and again until a checkpoint stands for what was done so far, and the log no longer begins with its first segment.
fn cover_the_beginning(broker: &Broker) {
    let first = broker.data_directory().join("table.txn.00000001");
    let until = broker.stat("revision");
    let mut rounds = 0;
    wait_until(PATIENCE, "the first segment is covered and removed", || {
        rounds += 1;
        put_all(broker, rounds);
        (!first.exists() && broker.stat("checkpoint_revision") >= until).then_some(())
    });
}

fn flip(path: &Path, place: impl FnOnce(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = place(bytes.len());
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Repairs the checkpoint of a killed broker; gives what was told.
fn salvage(broker: &mut Broker) -> Value {
    let ended = broker.try_restart().err().unwrap();
    assert_eq!(ended.status.code(), Some(11), "{}", ended.stderr);
    assert!(ended.stderr.contains("kvbroker PROJECT check"), "{}", ended.stderr);
    let told = repair(broker, &["--json"]).json();
    assert_eq!((&told["file"], &told["remedy"]), (&json!("table.ckpt"), &json!("salvage_checkpoint")), "{told}");
    let said = repair(broker, &["--discard-from", &told["offset"].to_string()]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.text().contains("the checkpoint's sessions: their clients are told"), "{}", said.text());
    told
}

#[test]
fn of_a_damaged_checkpoint_all_other_records_are_kept() {
    let mut broker = Broker::start(BrokerOptions::default().args(SIZES));
    cover_the_beginning(&broker);
    broker.kill9();
    flip(&broker.data_directory().join("table.ckpt"), |bytes| 4096 + (bytes - 4096) / 2);
    let told = salvage(&mut broker);
    assert_eq!(told["gaps"].as_array().unwrap().len(), 1, "{told}");
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

fn connect(broker: &Broker) -> Client {
    let options = ConnectOptions::new()
        .dirs(Dirs::under(broker.home().path()).unwrap())
        .catalogs(CatalogList::none())
        .timeout(Duration::from_secs(120));
    Client::connect_with("test", options).unwrap()
}

/// Where in a file of so many bytes.
type Place = fn(usize) -> usize;

/// The effects are in blocks that can be read, and the block with the sessions, or the one with their replies, can't.
#[test]
fn whatever_memory_of_requests_a_checkpoint_lost_none_is_done_twice() {
    let places: [(&str, Place); 2] = [("sessions", |_| 4096 + 44 + 8), ("replies", |bytes| bytes - (44 + 76) - 8)];
    for (lost, place) in places {
        let mut broker = Broker::start(BrokerOptions::default().args(SIZES));
        // First, so that every checkpoint with what follows has all keys, and several blocks of them.
        put_all(&broker, 0);
        let client = broker.dealer();
        let hello = |client: &RawClient| client.ask_json(&json!({"op": "hello"}))["session"].clone();
        let incr = |session: &Value| json!({"op": "incr", "key": "key-30-raw", "session": session, "seq": 1, "ack": 0});
        // The client that never reads its reply.
        let session = hello(&client);
        assert_eq!(client.ask_json(&incr(&session))["value"], 1);
        let library = connect(&broker);
        for count in 1..=3 {
            assert_eq!(library.incr("key-30-library", 1).unwrap(), count);
        }
        let mut pipeline = connect(&broker).pipeline();
        pipeline.submit(Operation::Incr { key: b"key-31-first".to_vec(), by: 1 }).wait().unwrap();
        cover_the_beginning(&broker);
        // Some of these are under way when the broker is killed.
        let once = |number: u64| format!("key-32-once-{number}");
        let under_way: Vec<_> =
            (0..200).map(|number| pipeline.submit(Operation::Incr { key: once(number).into_bytes(), by: 1 })).collect();
        broker.kill9();
        flip(&broker.data_directory().join("table.ckpt"), place);
        salvage(&mut broker);
        broker.restart();

        for life in 0..2 {
            let reply = broker.dealer().ask_json(&incr(&session));
            let told = (&reply["status"], &reply["error"]["code"]);
            assert_eq!(told, (&json!("unknown"), &json!("session_expired")), "{lost}, life {life}: {reply}");
            assert_eq!(broker.dealer().ask_json(&json!({"op": "get", "key": "key-30-raw"}))["value"], 1, "{lost}, life {life}");
            broker.kill9();
            let said = verb(broker.home(), &["test", "check"]);
            assert_eq!(said.code, Some(0), "{}{}", said.text(), said.stderr);
            broker.restart();
        }
        let client = broker.dealer();
        let fresh = hello(&client);
        assert_eq!(client.ask_json(&incr(&fresh))["value"], 2, "{lost}: a new session works");

        // A program that waits goes on; what it had under way was done once, or it is told that nobody knows.
        assert_eq!(library.incr("key-30-library", 1).unwrap(), 4, "{lost}");
        for (number, ticket) in (0..).zip(under_way) {
            let told = ticket.wait();
            let count = library.incr(once(number), 0).unwrap();
            match told {
                Ok((answer, _)) => assert_eq!((answer, count), (Answer::Integer(1), 1), "{lost}: {number}"),
                Err(error) => {
                    assert!(!error.is_definite(), "{lost}: {error}");
                    assert!(count <= 1, "{lost}: {number} was done {count} times");
                }
            }
        }
    }
}

#[test]
fn damaged_history_is_told_and_needs_no_repair() {
    let sizes = ["--segment-size", "64KiB", "--checkpoint-after", "64KiB"];
    let mut broker = Broker::start(BrokerOptions::default().args(sizes));
    let client = broker.dealer();
    let checkpoint = broker.data_directory().join("table.ckpt");
    let mut numbers = 1..=KEYS;
    wait_until(PATIENCE, "there is a checkpoint", || {
        if let Some(number) = numbers.next() {
            let value = format!("value-{number}-{}", "x".repeat(4_000));
            let reply = client.ask_json(&json!({"op": "put", "key": format!("key-{number}"), "value": value}));
            assert_eq!(reply["status"], "ok", "{reply}");
        }
        checkpoint.exists().then_some(())
    });
    broker.kill9();
    let name = damage_value(&broker, 2);
    assert_eq!(name, "table.txn.00000001");
    let before = contents(&broker.data_directory());
    let said = repair(&broker, &[]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for part in ["history   table.txn.00000001 at byte ", "nothing has to be done: no start reads this"] {
        assert!(said.text().contains(part), "{part}: {}", said.text());
    }
    let told = repair(&broker, &["--json"]).json();
    assert_eq!((&told["damaged"], told["damaged_history"].as_array().unwrap().len()), (&json!(false), 1), "{told}");
    assert_eq!(contents(&broker.data_directory()), before);
    broker.restart();
    assert_eq!(broker.dealer().ask_json(&json!({"op": "get", "key": "key-2"}))["status"], "ok");
}

#[test]
fn records_that_a_start_refuses_are_no_damage_and_not_called_sound() {
    let home = Home::new();
    let data = home.path().join("of-another-version");
    fs::create_dir(&data).unwrap();
    let storage = Arc::new(DiskStorage::open(&data).unwrap());
    let (mut log, _) = FileLog::open(storage, LogOptions::new(SyncMode::Always), &mut |_: GroupRef<'_>| Ok(())).unwrap();
    let mut batch = BatchBuilder::new();
    batch.begin(1_800_000_000_000);
    batch.group(1, Cause::Request, None);
    batch.put(b"\x01of a space that is not known", b"value");
    log.append(&mut batch).unwrap();
    drop(log);
    let data = data.to_str().unwrap();
    let said = verb(&home, &["test", "repair", "--data", data]);
    assert_eq!(said.code, Some(11), "{}", said.text());
    assert!(said.text().contains("refused   table.txn.00000001 at byte ") && !said.text().contains("nothing to repair"));
    assert!(said.stderr.contains("a start refuses what stands there"), "{}", said.stderr);
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
