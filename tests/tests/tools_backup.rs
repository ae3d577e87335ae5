//! `kvbroker PROJECT backup` and `restore`: real brokers under load, directories, pipes, cut streams and killed processes.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ClientError, ConnectOptions};
use kvbroker::paths::Dirs;
use kvbroker_tests::{Broker, BrokerOptions, Cli, Dice, Home, PATIENCE, RawClient, finish, verb, verb_command, wait_until};
use serde_json::{Value, json};

/// A broker with small segments and some keys.
fn broker_with_keys() -> (Broker, Cli) {
    let broker = Broker::start(BrokerOptions::default().args(["--segment-size", "64KiB"]));
    let client = broker.dealer();
    for number in 0..300 {
        let value = format!("value-{number}-{}", "x".repeat(700));
        let reply = client.ask_json(&json!({"op": "put", "key": format!("key-{number}"), "value": value}));
        assert_eq!(reply["status"], "ok", "{reply}");
    }
    let cli = Cli::new(broker.home());
    (broker, cli)
}

/// Names of files in a directory that only a log has.
fn log_files(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("table.")).collect()
}

/// Everything in a directory, hidden names too.
fn all_names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A broker on what was restored into `home`.
fn restored(home: &Home) -> Broker {
    Broker::start(BrokerOptions::default().home(home))
}

fn value(client: &RawClient, key: &str) -> Value {
    client.ask_json(&json!({"op": "get", "key": key}))["value"].clone()
}

/// Counts, and moves pairs of keys on together, until told to stop. What it was told is in `acknowledged`.
fn write(router: &Path, writer: usize, acknowledged: &AtomicU64, stop: &AtomicBool) {
    let client = RawClient::dealer(router);
    let mut number = 1;
    while !stop.load(Ordering::Relaxed) {
        let pad = "x".repeat(number as usize % 900);
        let put = |side: &str| json!({"op": "put", "key": format!("pair-{writer}-{side}"), "value": number});
        let reply = client.ask_json(&json!([
            {"op": "incr", "key": format!("count-{writer}")},
            {"op": "put", "key": format!("pad-{writer}"), "value": pad},
            {"op": "txn", "then": [put("a"), put("b")]},
        ]));
        if reply["error"]["code"] == "busy" {
            // The checkpoint is behind; nothing was done.
            std::thread::sleep(Duration::from_millis(reply["error"]["retry_after_ms"].as_u64().unwrap_or(5)));
            continue;
        }
        let outcomes = reply.as_array().cloned().unwrap_or_else(|| reply["results"].as_array().cloned().unwrap_or_default());
        assert!(!outcomes.is_empty() && outcomes.iter().all(|outcome| outcome["status"] == "ok"), "{reply}");
        acknowledged.store(number, Ordering::SeqCst);
        number += 1;
    }
}

#[test]
fn what_was_acknowledged_before_a_backup_began_is_in_it_and_nothing_is_torn() {
    const WRITERS: usize = 4;
    // Checkpoints are published and segments removed all the time.
    let sizes = ["--segment-size", "64KiB", "--checkpoint-after", "64KiB", "--history-age", "0s"];
    let broker = Broker::start(BrokerOptions::default().args(sizes));
    let acknowledged: [AtomicU64; WRITERS] = Default::default();
    let stop = AtomicBool::new(false);
    let router = broker.router_socket();
    std::thread::scope(|scope| {
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            let (router, stop) = (&router, &stop);
            scope.spawn(move || write(router, writer, acknowledged, stop));
        }
        for round in 0..4u64 {
            let least = 150 * (round + 1);
            wait_until(PATIENCE, "all writers have written", || {
                acknowledged.iter().all(|count| count.load(Ordering::SeqCst) >= least).then_some(())
            });
            wait_until(PATIENCE, "there is a checkpoint", || broker.data_directory().join("table.ckpt").exists().then_some(()));
            let before: Vec<u64> = acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect();
            let home = Home::new();
            if round % 2 == 0 {
                let to = text(&home.path().join("copy"));
                let said = verb(broker.home(), &["test", "backup", &to]);
                assert_eq!(said.code, Some(0), "{}", said.stderr);
                assert!(said.text().starts_with("backup of test at revision "), "{}", said.text());
                assert!(home.path().join("copy/table.ckpt").exists());
                let said = verb(&home, &["test", "restore", &to]);
                assert_eq!(said.code, Some(0), "{}", said.stderr);
            } else {
                let mut backup = verb_command(broker.home(), &["test", "backup", "-"]).spawn().unwrap();
                let stream = backup.stdout.take().unwrap();
                let restore = verb_command(&home, &["test", "restore", "-"]).stdin(stream).spawn().unwrap();
                let (backup, restore) = (finish(backup), finish(restore));
                assert_eq!((backup.code, restore.code), (Some(0), Some(0)), "{}{}", backup.stderr, restore.stderr);
            }
            let copy = restored(&home);
            assert_ne!(copy.endpoint()["uuid"], broker.endpoint()["uuid"]);
            let client = copy.dealer();
            for (writer, before) in before.iter().enumerate() {
                let count = value(&client, &format!("count-{writer}")).as_u64().unwrap();
                assert!(count >= *before, "writer {writer}: {before} were acknowledged, {count} are there");
                let pair = ["a", "b"].map(|side| value(&client, &format!("pair-{writer}-{side}")));
                assert_eq!(pair[0], pair[1], "half a transaction");
                assert!(pair[0].as_u64().unwrap() >= *before);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_restored_broker_is_another_one_and_goes_on() {
    let (mut broker, _) = broker_with_keys();
    let revision = broker.dealer().ask_json(&json!({"op": "stats"}))["stats"]["revision"].clone();
    broker.stop();
    let home = Home::new();
    let to = text(&home.path().join("copy"));
    let said = verb(broker.home(), &["test", "backup", &to, "--json"]);
    assert_eq!((said.code, &said.json()["revision"]), (Some(0), &revision), "{}", said.stderr);
    let said = verb(&home, &["test", "restore", &to, "--json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(said.json()["backup_of"], broker.endpoint()["uuid"]);
    let mut copy = restored(&home);
    assert_eq!(said.json()["broker"], copy.endpoint()["uuid"]);
    assert_ne!(broker.endpoint()["epoch"], copy.endpoint()["epoch"]);
    let client = copy.dealer();
    assert!(value(&client, "key-299").as_str().unwrap().starts_with("value-299-"));
    // Who means the old broker is told so, and nothing is done.
    let reply = client.ask_json(&json!({"op": "put", "key": "k", "value": 1, "broker": broker.endpoint()["uuid"]}));
    assert_eq!(reply["error"]["code"], "wrong_broker", "{reply}");
    let reply = client.ask_json(&json!({"op": "put", "key": "k", "value": 1}));
    assert_eq!(reply["rev"].as_u64(), Some(revision.as_u64().unwrap() + 1), "{reply}");
    let epoch = copy.endpoint()["epoch"].clone();
    copy.kill9();
    copy.restart();
    assert_eq!((&copy.endpoint()["epoch"], value(&copy.dealer(), "k")), (&epoch, json!(1)));
}

#[test]
fn a_client_never_takes_the_restored_broker_for_the_one_it_knew() {
    let mut broker = Broker::plain();
    let connect = || {
        let options = ConnectOptions::new().dirs(Dirs::under(broker.home().path()).unwrap()).catalogs(CatalogList::none());
        Client::connect_with("test", options.timeout(Duration::from_secs(2))).unwrap()
    };
    let client = connect();
    assert_eq!(client.incr("count", 1).unwrap(), 1);
    let to = text(&broker.home().path().join("copy"));
    assert_eq!(verb(broker.home(), &["test", "backup", &to]).code, Some(0));
    // Not in the backup.
    assert_eq!(client.incr("count", 1).unwrap(), 2);
    broker.stop();
    let data = broker.data_directory();
    fs::rename(&data, data.with_extension("old")).unwrap();
    assert_eq!(verb(broker.home(), &["test", "restore", &to]).code, Some(0));
    broker.restart();
    let error = client.incr("count", 1).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. } | ClientError::Lookup(_)), "certainly not done: {error}");
    // Who asks anew finds it.
    let options = ConnectOptions::new().dirs(Dirs::under(broker.home().path()).unwrap()).catalogs(CatalogList::none());
    let client = Client::connect_with("test", options).unwrap();
    assert_eq!(client.incr("count", 1).unwrap(), 2, "nothing was done by the client that knew the other one");
}

#[test]
fn a_cut_or_changed_stream_restores_nothing() {
    let (broker, _) = broker_with_keys();
    let said = verb(broker.home(), &["test", "backup", "-"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("backup of test at revision 300"), "{}", said.stderr);
    let stream = said.stdout;
    let dice = &mut Dice::of_this_run("tools_backup");
    let end = stream.len();
    // At the seams of tar's blocks, in the middle of anything, and just before the end.
    let mut cuts = vec![0, 1, 511, 512, 4608, end - 1024, end - 1025, end - 1536, end - 1537];
    cuts.extend((0..12).map(|_| dice.below(end)));
    for (index, cut) in cuts.into_iter().enumerate() {
        let home = Home::new();
        let mut bytes = stream[..cut].to_vec();
        if index % 5 == 4 && cut < end - 1536 {
            bytes = stream.clone();
            bytes[cut] ^= 0x40;
        }
        if cut >= end - 1024 && bytes.len() < end {
            // All members are there; only tar's own end is missing.
            continue;
        }
        let file = home.path().join("stream.tar");
        fs::write(&file, &bytes).unwrap();
        let said = finish(verb_command(&home, &["test", "restore", "-"]).stdin(File::open(&file).unwrap()).spawn().unwrap());
        assert!(matches!(said.code, Some(11 | 2 | 13)), "cut at {cut}: {:?} {}", said.code, said.stderr);
        assert_eq!(log_files(&home.path().join("data/test")), [""; 0], "cut at {cut}");
        assert_eq!(all_names(&home.path().join("data")), ["test"], "nothing temporary is left");
    }
    // The stream as a file, and again into the same place.
    let home = Home::new();
    let file = home.path().join("stream.tar");
    fs::write(&file, &stream).unwrap();
    assert_eq!(verb(&home, &["test", "restore", &text(&file)]).code, Some(0));
    let said = verb(&home, &["test", "restore", &text(&file)]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("already holds data") && said.stderr.contains("mv "), "{}", said.stderr);
}

#[test]
fn a_killed_restore_leaves_nothing_that_a_start_would_take_for_data() {
    let (broker, _) = broker_with_keys();
    let stream = verb(broker.home(), &["test", "backup", "-"]).stdout;
    let home = Home::new();
    let mut restore = verb_command(&home, &["test", "restore", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = restore.stdin.take().unwrap();
    pipe.write_all(&stream[..stream.len() - 4096]).unwrap();
    pipe.flush().unwrap();
    // It has written some of it.
    wait_until(PATIENCE, "a segment is being restored", || {
        let names = fs::read_dir(home.path().join("data")).ok()?;
        let hidden = names.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with('.'))?;
        (!log_files(&hidden.path()).is_empty()).then_some(())
    });
    let said = verb(&home, &["test", "restore", "-"]);
    assert_eq!(said.code, Some(10), "one at a time: {}", said.stderr);
    restore.kill().unwrap();
    restore.wait().unwrap();
    drop(pipe);
    assert_eq!(log_files(&home.path().join("data/test")), [""; 0]);
    let file = home.path().join("stream.tar");
    fs::write(&file, &stream).unwrap();
    let said = verb(&home, &["test", "restore", &text(&file)]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(value(&restored(&home).dealer(), "key-7").is_string());
}

#[test]
fn a_killed_backup_is_none() {
    let (broker, _) = broker_with_keys();
    let dice = &mut Dice::of_this_run("tools_backup");
    for _ in 0..10 {
        let home = Home::new();
        let to = home.path().join("copy");
        let mut backup = verb_command(broker.home(), &["test", "backup", &text(&to)]).spawn().unwrap();
        let steps = dice.below(40);
        // A moment of its life, different in every round.
        for _ in 0..steps * 1_000 {
            if backup.try_wait().unwrap().is_some() {
                break;
            }
        }
        let _ = backup.kill();
        backup.wait().unwrap();
        if to.exists() {
            assert_eq!(verb(&home, &["test", "restore", &text(&to)]).code, Some(0), "what has the name is whole");
        }
    }
}

#[test]
fn damage_in_the_source_is_told_and_makes_no_backup() {
    let (mut broker, _) = broker_with_keys();
    broker.stop();
    let segment = broker.data_directory().join("table.txn.00000002");
    let file = File::options().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 20_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 20_000).unwrap();
    let home = Home::new();
    let said = verb(broker.home(), &["test", "backup", &text(&home.path().join("copy"))]);
    assert_eq!(said.code, Some(11));
    assert!(said.stderr.contains("table.txn.00000002 is damaged at byte "), "{}", said.stderr);
    assert_eq!(all_names(home.path()), [""; 0], "nothing is left");
    let said = verb(broker.home(), &["test", "backup", "-"]);
    assert_eq!(said.code, Some(11));
    let stream = home.path().join("stream.tar");
    fs::write(&stream, said.stdout).unwrap();
    let said = verb(&home, &["test", "restore", &text(&stream)]);
    assert_eq!(said.code, Some(11), "{}", said.stderr);
}

#[test]
fn a_backup_that_was_changed_is_refused_with_the_place() {
    let (broker, _) = broker_with_keys();
    let home = Home::new();
    let to = home.path().join("copy");
    assert_eq!(verb(broker.home(), &["test", "backup", &text(&to)]).code, Some(0));
    let refused = |what: &str| {
        let said = verb(&home, &["test", "restore", &text(&to)]);
        assert!(said.stderr.contains(what) && said.code != Some(0), "{what}: {}", said.stderr);
        assert_eq!(log_files(&home.path().join("data/test")), [""; 0]);
        said.code
    };
    let segment = to.join("table.txn.00000001");
    let good = fs::read(&segment).unwrap();
    let mut bytes = good.clone();
    bytes[9_000] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    assert_eq!(refused("table.txn.00000001 at byte "), Some(11));
    fs::remove_file(&segment).unwrap();
    assert_eq!(refused("table.txn.00000001 is missing"), Some(11));
    fs::write(&segment, &good).unwrap();
    let last = all_names(&to).into_iter().rfind(|name| name.starts_with("table.txn.")).unwrap();
    fs::rename(to.join(&last), home.path().join(&last)).unwrap();
    assert_eq!(refused(&format!("{last} is missing")), Some(11));
    fs::rename(home.path().join(&last), to.join(&last)).unwrap();
    fs::rename(to.join("kvbroker-backup"), home.path().join("list")).unwrap();
    assert_eq!(refused("kvbroker-backup"), Some(2));
    let newer = fs::read_to_string(home.path().join("list")).unwrap().replace("kvbroker backup 1", "kvbroker backup 7");
    fs::write(to.join("kvbroker-backup"), newer).unwrap();
    assert_eq!(refused("backup format version 7, this program knows backup format version 1"), Some(13));
    fs::rename(home.path().join("list"), to.join("kvbroker-backup")).unwrap();
    assert_eq!(verb(&home, &["test", "restore", &text(&to)]).code, Some(0));
}

#[test]
fn places_that_do_not_fit_are_refused_before_anything_is_done() {
    let (broker, _) = broker_with_keys();
    let home = Home::new();
    let to = home.path().join("copy");
    let refused = |home: &Home, words: &[&str], code: i32, part: &str| {
        let said = verb(home, words);
        assert_eq!(said.code, Some(code), "{words:?}: {}", said.stderr);
        assert!(said.stderr.contains(part), "{words:?}: {}", said.stderr);
    };
    let data = text(&broker.data_directory());
    refused(broker.home(), &["test", "backup"], 2, "<DEST>");
    refused(broker.home(), &["test", "backup", &data], 2, "not empty");
    refused(broker.home(), &["test", "backup", &format!("{data}/copy")], 2, "in the data directory");
    refused(broker.home(), &["other", "backup", &text(&to)], 2, "no data directory");
    assert_eq!(verb(broker.home(), &["test", "backup", &text(&to)]).code, Some(0));
    refused(broker.home(), &["test", "backup", &text(&to)], 2, "not empty");
    refused(broker.home(), &["test", "restore", &text(&to)], 10, "in use by process");
    refused(broker.home(), &["other", "restore", &data], 2, "no file kvbroker-backup");
    refused(broker.home(), &["other", "restore", &text(&home.path().join("none"))], 2, "none");
    let foreign = home.path().join("data/test");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("letter"), "dear").unwrap();
    refused(&home, &["test", "restore", &text(&to)], 2, "letter");
    fs::remove_file(foreign.join("letter")).unwrap();
    // Remembered ports stay.
    fs::write(foreign.join("ports.json"), "{}").unwrap();
    assert_eq!(verb(&home, &["test", "restore", &text(&to)]).code, Some(0));
    assert_eq!(fs::read_to_string(foreign.join("ports.json")).unwrap(), "{}");
    // A backup is not served as it is.
    let served = Broker::try_start(BrokerOptions::default().args(["--data", &text(&to)])).err().unwrap();
    assert_eq!(served.status.code(), Some(2));
    assert!(served.stderr.contains("is a backup"), "{}", served.stderr);
}
