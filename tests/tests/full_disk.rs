//! A disk that is full: no acknowledgement for what is not on it, exit code 12, and nothing lost once there is room.
//!
//! - A limit on file sizes (`ulimit -f`) works for every user; the broker takes its signal, SIGXFSZ, so that the write fails instead.
//! - A small file system in memory gives the real ENOSPC; mounting one needs root, so elsewhere that test is left out with a word.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kvbroker_tests::{Broker, BrokerOptions, PATIENCE, RawClient, verb, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

const DISK_FULL: i32 = 12;
const VALUE_BYTES: usize = 20_000;
/// Requests that a client has in flight when the disk gets full.
const DEPTH: usize = 32;

/// Puts large values, many in flight, until the connection ends. Returns what was acknowledged: key and revision.
fn fill(client: &RawClient) -> BTreeMap<String, u64> {
    let end = client.watch_for_the_end();
    let value = "v".repeat(VALUE_BYTES);
    let mut acknowledged = BTreeMap::new();
    let (mut sent, mut received, mut ended) = (0, 0, false);
    loop {
        while !ended && sent - received < DEPTH {
            client.send(&[json!({"id": sent, "op": "put", "key": format!("k{sent}"), "value": value}).to_string()]);
            sent += 1;
        }
        match client.try_receive(std::time::Duration::from_millis(if ended { 0 } else { 20 })) {
            Some(frames) => {
                received += 1;
                let reply = kvbroker_tests::json(&frames[0]);
                if reply["status"] == "ok" {
                    acknowledged.insert(format!("k{}", reply["id"]), reply["rev"].as_u64().unwrap());
                } else {
                    // Saying nothing is right, and so is saying that it is not known.
                    assert_eq!(reply["status"], "unknown", "{reply}");
                }
            }
            None if ended => return acknowledged,
            None => ended = end.poll(zmq::POLLIN, 0).unwrap() == 1,
        }
        assert!(sent < 100_000, "the disk never got full");
    }
}

/// Everything acknowledged is there; and nothing that was never sent.
fn check(broker: &Broker, acknowledged: &BTreeMap<String, u64>) {
    let client = broker.dealer();
    for (key, revision) in acknowledged {
        let reply = client.ask_json(&json!({"op": "get", "key": key}));
        assert_eq!((&reply["status"], &reply["modified"]), (&json!("ok"), &json!(revision)), "{key}");
        assert_eq!(reply["value"].as_str().map(str::len), Some(VALUE_BYTES));
    }
    let size = client.ask_json(&json!({"op": "size"}))["size"].as_u64().unwrap();
    let most = (acknowledged.len() + DEPTH) as u64;
    assert!((acknowledged.len() as u64..=most).contains(&size), "{size} keys, {} acknowledged", acknowledged.len());
    let put = client.ask_json(&json!({"op": "put", "key": "afterwards", "value": 1}));
    assert_eq!(put["status"], "ok");
}

/// Fills it up, sees it end, makes room and sees it back.
fn get_full_and_recover(mut broker: Broker, make_room: impl FnOnce(&mut Broker)) {
    let small: Value = broker.dealer().ask_json(&json!({"op": "put", "key": "first", "value": 0}));
    let mut acknowledged = fill(&broker.dealer());
    let status = broker.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(DISK_FULL), "{status}; stderr:\n{}", broker.stderr());
    assert!(broker.stderr().lines().any(|line| line.starts_with("kvbroker: ")), "it says why:\n{}", broker.stderr());
    assert!(acknowledged.len() > 10, "only {} writes fitted", acknowledged.len());
    // Without room it may refuse to start, but must not harm anything.
    if let Err(ended) = broker.try_restart() {
        assert_eq!(ended.status.code(), Some(DISK_FULL), "{}", ended.stderr);
    } else {
        broker.kill9();
    }
    make_room(&mut broker);
    broker.restart();
    let first = broker.dealer().ask_json(&json!({"op": "get", "key": "first"}));
    assert_eq!((&first["value"], &first["modified"]), (&json!(0), &small["rev"]));
    broker.dealer().ask_json(&json!({"op": "del", "key": "first"}));
    check(&broker, &acknowledged);
    broker.stop();
    broker.restart();
    acknowledged.insert("afterwards".to_owned(), 0);
    assert!(broker.dealer().ask_json(&json!({"op": "size"}))["size"].as_u64().unwrap() >= acknowledged.len() as u64);
}

#[test]
fn a_file_that_may_not_grow() {
    // 512-byte blocks: 3 MiB.
    let limited = ["sh", "-c", "ulimit -f 6144; exec \"$@\"", "sh"];
    let broker = Broker::start(BrokerOptions::default().wrapper(limited));
    get_full_and_recover(broker, |broker| broker.options().wrapper.clear());
}

/// A small file system in memory; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// None where mounting is not allowed.
    fn mount(bytes: u64) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            println!("left out: only root can mount a small file system");
            return None;
        }
        let directory = TempDir::new().unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"], directory.path());
        if let Err(why) = mounted {
            println!("left out: this root may not mount ({why})");
            return None;
        }
        Some(SmallDisk(directory))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Fills it up until no more than so many bytes are free.
    fn leave_room_for(&self, bytes: u64) {
        let mut ballast = File::create(self.0.path().join("ballast")).unwrap();
        let free = || {
            let disk = rustix::fs::statvfs(self.0.path()).unwrap();
            disk.f_bavail * disk.f_frsize
        };
        while free() > bytes {
            ballast.write_all(&[1; 4096]).unwrap();
        }
    }

    fn grow(&self) {
        run("mount", &["-o", "remount,size=64m"], self.0.path()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(why) = run("umount", &[], self.0.path()) {
            eprintln!("{} stays mounted: {why}", self.0.path().display());
        }
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new(program).args(arguments).arg(path).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

#[test]
fn a_file_system_without_room() {
    let Some(disk) = SmallDisk::mount(3 << 20) else { return };
    let data = disk.path();
    let broker = Broker::start(BrokerOptions::default().args(["--data".as_ref(), data.as_os_str()]));
    get_full_and_recover(broker, |_| disk.grow());
}

/// Keys that are written again and again, so that the checkpoint stays small and the log grows.
const KEYS: usize = 24;

/// Writes the same keys in turn, one write at a time.
struct Writer {
    client: RawClient,
    end: zmq::Socket,
    written: usize,
    /// Of each key the last write that was acknowledged.
    acknowledged: BTreeMap<String, u64>,
}

impl Writer {
    fn new(broker: &Broker) -> Writer {
        let client = broker.dealer();
        let end = client.watch_for_the_end();
        Writer { client, end, written: 0, acknowledged: BTreeMap::new() }
    }

    /// Writes once. None: the broker has ended; else whether the write was acknowledged.
    fn write(&mut self) -> Option<bool> {
        let number = self.written;
        self.written += 1;
        let (key, value) = (format!("k{}", number % KEYS), format!("{number:0>width$}", width = VALUE_BYTES));
        self.client.send(&[json!({"id": number, "op": "put", "key": key, "value": value}).to_string()]);
        let reply = wait_until(PATIENCE, "an answer or the end", || match self.client.try_receive(TICK) {
            Some(frames) => Some(Some(kvbroker_tests::json(&frames[0]))),
            None => (self.end.poll(zmq::POLLIN, 0).unwrap() == 1).then_some(None),
        })?;
        let is_done = reply["status"] == "ok";
        if is_done {
            self.acknowledged.insert(key, number as u64);
        } else {
            assert_eq!(reply["status"], "unknown", "{reply}");
        }
        Some(is_done)
    }

    /// Writes until the log has so many segments.
    fn write_segments(&mut self, data: &Path, segments: usize) {
        let last = data.join(format!("table.txn.{segments:08}"));
        while !last.exists() {
            assert_eq!(self.write(), Some(true), "a write before there are {segments} segments");
            assert!(self.written < 10_000, "{} never came to be", last.display());
        }
    }
}

const TICK: Duration = Duration::from_millis(20);

/// Everything that was acknowledged is there; and what had no answer may be.
fn check_written(broker: &Broker, acknowledged: &BTreeMap<String, u64>) {
    let client = broker.dealer();
    for (key, number) in acknowledged {
        let reply = client.ask_json(&json!({"op": "get", "key": key}));
        let found: u64 = reply["value"].as_str().unwrap().parse().unwrap();
        assert!(found >= *number, "{key} is {found}, {number} was acknowledged");
    }
}

#[test]
fn a_file_system_gets_full_where_a_segment_ends_and_the_next_begins() {
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let data = disk.path();
    let options = BrokerOptions::default().args(["--data".as_ref(), data.as_os_str()]).args(["--segment-size", "256KiB"]);
    let mut broker = Broker::start(options);
    assert_eq!(broker.dealer().ask_json(&json!({"op": "put", "key": "first", "value": 0}))["status"], "ok");
    // The whole segment has its room now, and there is none beyond it.
    let segment = data.join("table.txn.00000001");
    assert!(std::fs::metadata(&segment).unwrap().len() >= 256 << 10);
    let mut ballast = File::create(data.join("ballast")).unwrap();
    while ballast.write(&[1; 4096]).is_ok() {}
    let mut writer = Writer::new(&broker);
    while writer.write().is_some() {
        assert!(writer.written < 1_000, "the disk never got full");
    }
    let status = broker.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(DISK_FULL), "{status}; stderr:\n{}", broker.stderr());
    let told = broker.stderr();
    let why = told.lines().find(|line| line.starts_with("kvbroker: ")).unwrap_or_default();
    assert!(why.contains("table.txn.tmp"), "it got full elsewhere than between two segments: {why}");
    assert!(writer.acknowledged.len() > 5, "only {} writes fitted", writer.acknowledged.len());
    std::fs::remove_file(data.join("ballast")).unwrap();
    broker.restart();
    check_written(&broker, &writer.acknowledged);
    broker.stop();
}

#[test]
fn a_file_system_gets_full_in_a_checkpoint_and_the_broker_serves_on() {
    const SEGMENT_BYTES: u64 = 256 << 10;
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let data = disk.path();
    // Two sealed segments are no reason for a checkpoint, three are, however well they are filled.
    let flags = ["--segment-size", "256KiB", "--checkpoint-after", "600KiB", "--history-size", "0"];
    let mut broker = Broker::start(BrokerOptions::default().args(["--data".as_ref(), data.as_os_str()]).args(flags));
    let mut writer = Writer::new(&broker);
    writer.write_segments(&data, 3);
    assert!(writer.acknowledged.len() == KEYS, "{} of {KEYS} keys are written", writer.acknowledged.len());
    // Room for one more segment, and by far not for a checkpoint, which has all keys.
    disk.leave_room_for(SEGMENT_BYTES + SEGMENT_BYTES / 2);
    assert!((KEYS * VALUE_BYTES) as u64 > SEGMENT_BYTES + SEGMENT_BYTES / 2);
    writer.write_segments(&data, 4);
    wait_until(PATIENCE, "a checkpoint to fail", || (broker.stat("checkpoint_failures") > 0).then_some(()));
    assert_eq!(broker.stat("checkpoints"), 0);
    // The log's writer is a thread of its own: what happened may be told a little later.
    let told = || broker.stderr().contains("no checkpoint could be made: no space left");
    wait_until(PATIENCE, "it says why", || told().then_some(()));
    for _ in 0..5 {
        assert_eq!(writer.write(), Some(true), "the segment has its room");
    }
    // With room again, the next one succeeds while the broker runs, and nobody has to write for it.
    disk.grow();
    wait_until(PATIENCE, "a checkpoint once there is room", || (broker.stat("checkpoints") > 0).then_some(()));
    check_written(&broker, &writer.acknowledged);
    assert_eq!(broker.dealer().ask_json(&json!({"op": "put", "key": "afterwards", "value": 1}))["status"], "ok");
    broker.kill9();
    broker.restart();
    check_written(&broker, &writer.acknowledged);
    assert!(broker.stdout().contains("checkpoint"), "it was started from one:\n{}", broker.stdout());
    broker.stop();
}

#[test]
fn a_repair_without_room_for_its_copy_changes_nothing() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    let data = disk.path();
    let mut options = BrokerOptions::default().args(["--segment-size", "64KiB", "--data"]);
    options = options.args([data.to_str().unwrap()]);
    let mut broker = Broker::start(options);
    let client = broker.dealer();
    for number in 0..100 {
        let put = json!({"op": "put", "key": format!("k{number}"), "value": "v".repeat(VALUE_BYTES)});
        assert_eq!(client.ask_json(&put)["status"], "ok");
    }
    broker.kill9();
    let damaged = data.join("table.txn.00000003");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let listed = || {
        let mut names: Vec<_> = std::fs::read_dir(disk.0.path())
            .unwrap()
            .chain(std::fs::read_dir(&data).unwrap())
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name() != "lock")
            .map(|entry| (entry.path(), entry.metadata().unwrap().is_file().then(|| std::fs::read(entry.path()).unwrap())))
            .collect();
        names.sort();
        names
    };
    let before = listed();
    let repair = |words: &[&str]| verb(broker.home(), &[&["test", "repair", "--data", data.to_str().unwrap()], words].concat());
    let told = repair(&["--json"]).json();
    let place = format!("table.txn.00000003:{}", told["offset"]);
    let said = repair(&["--discard-from", &place]);
    assert_eq!(said.code, Some(DISK_FULL), "{}{}", said.text(), said.stderr);
    assert!(said.stderr.contains("make room first. Nothing was changed."), "{}", said.stderr);
    assert!(listed() == before, "nothing was changed, and nothing is left");
    disk.grow();
    let said = repair(&["--discard-from", &place]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    broker.restart();
    assert_eq!(broker.stat("revision"), told["kept_revision"].as_u64().unwrap());
    broker.stop();
}
