//! `kvbroker PROJECT check` and `stats`, and what a broker says of the file system that its data is on.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvbroker_tests::{Broker, BrokerOptions, Cli, Home, PATIENCE, RawClient, left_out, verb, verb_command, wait_until};
use serde_json::{Value, json};

/// A broker with some keys, and its only segment.
fn some_keys() -> (Broker, PathBuf) {
    let broker = Broker::plain();
    let cli = Cli::new(broker.home());
    for key in ["ant", "bee", "cat"] {
        cli.ok(&["test", "put", key, "animal"]);
    }
    cli.ok(&["test", "del", "bee"]);
    let segment = broker.data_directory().join("table.txn.00000001");
    (broker, segment)
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn position(path: &Path, bytes: &[u8]) -> u64 {
    fs::read(path).unwrap().windows(bytes.len()).position(|found| found == bytes).unwrap() as u64
}

/// All files of a directory with their contents.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn summary(lines: &[Value]) -> &Value {
    lines.last().filter(|line| line["type"] == "summary").unwrap()
}

#[test]
fn a_whole_directory_is_said_to_be_whole_running_or_stopped() {
    let (mut broker, _) = some_keys();
    let running = verb(broker.home(), &["test", "check", "--json"]);
    assert_eq!(running.code, Some(0), "{}", running.stderr);
    assert!(running.stderr.contains(&format!("is in use by process {}", broker.pid())), "{}", running.stderr);
    let lines = running.json_lines();
    assert_eq!((&summary(&lines)["keys"], &summary(&lines)["clean_stop"]), (&json!(2), &json!(false)));
    broker.stop();
    let before = contents(&broker.data_directory());
    let stopped = verb(broker.home(), &["test", "check", "--json"]);
    assert_eq!((stopped.code, stopped.stderr.as_str()), (Some(0), ""));
    let lines = stopped.json_lines();
    let said = summary(&lines);
    assert_eq!((&said["verdict"], &said["revision"], &said["clean_stop"]), (&json!("whole"), &json!(4), &json!(true)));

    let text = verb(broker.home(), &["test", "check"]).text();
    assert!(
        text.contains("state: revision 4 of ")
            && text.contains(": 2 keys, ")
            && text.ends_with("verdict: all of it can be read\n"),
        "{text}"
    );
    assert_eq!(contents(&broker.data_directory()), before, "nothing was changed");
}

#[test]
fn damage_is_named_and_so_is_what_to_do() {
    let (mut broker, segment) = some_keys();
    broker.stop();
    let at = position(&segment, b"tcat");
    overwrite(&segment, at, b"T");
    let said = verb(broker.home(), &["test", "check", "--json", "--quiet"]);
    assert_eq!(said.code, Some(11));
    assert!(said.stderr.contains("a start is refused") && said.stderr.contains("kvbroker test repair"), "{}", said.stderr);
    let lines = said.json_lines();
    let finding = lines.iter().find(|line| line["type"] == "finding").unwrap();
    assert_eq!((&finding["gravity"], &finding["file"]), (&json!("damage"), &json!("table.txn.00000001")));
    let offset = finding["offset"].as_u64().unwrap();
    assert!(offset < at && offset > 4096, "{finding}");
    assert_eq!((&summary(&lines)["verdict"], &summary(&lines)["keys"]), (&json!("damage"), &Value::Null));
    assert!(verb(broker.home(), &["test", "check"]).text().contains(&format!("DAMAGE table.txn.00000001 at byte {offset}: ")));
    // What a start says of the same place.
    let ended = broker.try_restart().unwrap_err();
    assert_eq!(ended.status.code(), Some(11));
    assert!(ended.stderr.contains(&format!("table.txn.00000001 is damaged at byte {offset}")), "{}", ended.stderr);
    let stats = verb(broker.home(), &["test", "stats"]);
    assert!(stats.code == Some(11) && stats.stderr.contains("kvbroker test check"), "{}", stats.stderr);
}

#[test]
fn what_a_crash_leaves_is_no_damage() {
    let (mut broker, segment) = some_keys();
    broker.kill9();
    let directory = broker.data_directory();
    let end = |home: &Home| {
        let lines = verb(home, &["test", "dump", "--json"]).json_lines();
        lines.iter().find(|line| line["type"] == "segment_end").unwrap()["offset"].as_u64().unwrap()
    };
    overwrite(&segment, end(broker.home()), b"torn");
    fs::write(directory.join("table.ckpt.tmp"), b"half").unwrap();
    let said = verb(broker.home(), &["test", "check"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let text = said.text();
    assert!(text.contains("TORN table.txn.00000001 at byte ") && text.contains("4 bytes behind the last batch"), "{text}");
    assert!(text.contains("NOTE table.ckpt.tmp: left behind"), "{text}");
    assert!(text.contains("2 keys") && text.contains("no clean stop"), "{text}");
}

#[test]
fn a_newer_format_and_a_directory_that_is_none_are_told_apart() {
    let (mut broker, segment) = some_keys();
    broker.stop();
    let mut header = fs::read(&segment).unwrap();
    header.truncate(4096);
    header[8..12].copy_from_slice(&99u32.to_le_bytes());
    let crc = crc32c(&header[..4092]);
    header[4092..].copy_from_slice(&crc.to_le_bytes());
    overwrite(&segment, 0, &header);
    for words in [&["test", "check"][..], &["test", "dump"]] {
        let said = verb(broker.home(), words);
        assert!(said.code == Some(13) && said.stderr.contains("newer program"), "{words:?}: {:?} {}", said.code, said.stderr);
    }
    let none = verb(&Home::new(), &["test", "check"]);
    assert!(none.code == Some(2) && none.stderr.contains("there is no data directory"), "{}", none.stderr);
    let empty = Home::new();
    let said = verb(&empty, &["test", "check", "--data", &empty.path().display().to_string()]);
    assert!(said.code == Some(0) && said.text().contains("there is no log in this directory"), "{}", said.text());
}

/// CRC32C, bit by bit: the table-driven one is the program's own.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn stats_tell_what_is_there_before_behind_and_on_either_side_of_the_verb() {
    let (mut broker, _) = some_keys();
    let data = broker.data_directory().display().to_string();
    let other = Home::new();
    for words in [&["--data", &data, "test", "stats", "--json"][..], &["test", "stats", "--data", &data, "--json"]] {
        let said = verb(&other, words);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let stats = said.json();
        assert_eq!((&stats["revision"], &stats["lock"]["state"]), (&json!(4), &json!("held")));
        assert_eq!(
            (&stats["lock"]["pid"], &stats["sync"], &stats["formats"]),
            (&json!(broker.pid()), &json!("always"), &json!([2]))
        );
        assert_eq!((&stats["log"]["segments"], &stats["checkpoint"]), (&json!(1), &Value::Null));
    }
    broker.kill9();
    let said = verb(broker.home(), &["test", "stats", "--json"]).json();
    assert_eq!((&said["lock"]["state"], &said["clean_stop"]), (&json!("stale"), &json!(false)));
    broker.restart();
    broker.stop();
    let text = verb(broker.home(), &["test", "stats"]).text();
    assert!(text.contains("\nin use      no\n") && text.contains("\nlast stop   clean\n"), "{text}");
}

#[test]
fn data_in_memory_is_refused_until_it_is_accepted() {
    let Ok(memory) = tempfile::Builder::new().prefix("kvt-").tempdir_in("/dev/shm") else {
        return left_out("there is no /dev/shm that can be written");
    };
    let data = memory.path().join("data");
    let home = Home::new();
    let refused = verb_command(&home, &["test", "--data"]).arg(&data).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("is in memory (tmpfs)") && said.contains("--accept-filesystem"), "{said}");
    assert!(!data.exists(), "nothing was made");

    let mut options = BrokerOptions::default().home(&home).args(["--accept-filesystem", "--data"]).args([&data]);
    options.env.push(("KVBROKER_ACCEPT_FILESYSTEM".into(), "".into()));
    let broker = Broker::start(options);
    assert!(broker.stdout().contains("in memory (tmpfs), as accepted"), "{}", broker.stdout());
    assert!(broker.stderr().contains("WARN") && broker.stderr().contains("in memory (tmpfs)"), "{}", broker.stderr());
    let reply = broker.dealer().ask_json(&json!({"op": "stats"}));
    assert_eq!(reply["stats"]["filesystem"], "tmpfs (memory)");
    let offline = verb(&home, &["test", "stats", "--json", "--data", &data.display().to_string()]).json();
    assert_eq!(offline["filesystem"], "tmpfs (memory)");
}

/// Segments are sealed, checkpoints replaced and segments removed under the eyes of the tools.
#[test]
fn a_broker_under_load_looks_whole_at_every_moment() {
    let mut options = BrokerOptions::default().args(["--checkpoint-after", "64KiB", "--history-size", "128KiB"]);
    options.project = "busy".to_owned();
    let broker = Broker::start(options);
    let (socket, is_over) = (broker.router_socket(), Arc::new(AtomicBool::new(false)));
    let stop = Arc::clone(&is_over);
    let writer = std::thread::spawn(move || {
        let client = RawClient::dealer(&socket);
        let mut written = 0u64;
        while !stop.load(Ordering::Relaxed) {
            let key = format!("key{}", written % 50);
            client.ask_json(&json!({"op": "put", "key": key, "value": "x".repeat(3_000)}));
            written += 1;
        }
        written
    });
    wait_until(PATIENCE, "segments were removed", || {
        (!broker.data_directory().join("table.txn.00000001").exists()).then_some(())
    });
    const BUSY: i32 = 7;
    let mut revision = 0;
    for _ in 0..8 {
        let check = verb(broker.home(), &["busy", "check", "--json"]);
        if check.code == Some(BUSY) {
            // It could not keep up, and claims nothing.
            assert!(check.text().is_empty() && check.stderr.contains("faster than they can be checked"), "{}", check.stderr);
            continue;
        }
        assert_eq!(check.code, Some(0), "{}\n{}", check.text(), check.stderr);
        let lines = check.json_lines();
        let said = summary(&lines);
        assert!(said["revision"].as_u64() >= Some(revision) && said["keys"] == json!(50), "{said}");
        revision = said["revision"].as_u64().unwrap();
        assert!(lines.iter().any(|line| line["type"] == "checkpoint"), "{lines:?}");
        for words in [&["busy", "dump", "--json"][..], &["busy", "stats", "--json"]] {
            let said = verb(broker.home(), words);
            assert_eq!(said.code, Some(0), "{words:?}: {}", said.stderr);
        }
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(revision > 0, "at least one check kept up");
    assert!(writer.join().unwrap() >= revision);
    let stats = verb(broker.home(), &["busy", "stats", "--json"]).json();
    assert!(stats["checkpoint"]["records"].as_u64() > Some(0) && stats["checkpoint"]["digest"].is_string(), "{stats}");
    assert!(stats["history"]["segments"].as_u64() > Some(0) && stats["history"]["bytes"].as_u64() <= Some(256 << 10), "{stats}");
    let dump = verb(broker.home(), &["busy", "dump", "--checkpoint", "--key", "key7", "--json"]).json_lines();
    let kinds: Vec<&str> = dump.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["checkpoint", "record", "checkpoint_end"]);
}
