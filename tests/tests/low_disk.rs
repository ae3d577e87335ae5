//! A disk with little room: history gives way to the log, so that a broker with a small table goes on for ever.
//!
//! - The small disk is a file system in memory; mounting one needs root, so elsewhere these tests are left out with a word.
//! - It is so small that there is always too little room: every file of the log that a checkpoint covers goes at once.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use kvbroker_tests::{Broker, BrokerOptions, PATIENCE, wait_until};
use serde_json::json;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const KEYS: u64 = 16;
const VALUE_BYTES: u64 = 20_000;

/// A file system in memory; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// None where mounting is not allowed.
    fn mount(bytes: u64) -> Option<SmallDisk> {
        let directory = TempDir::new().unwrap();
        match run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"], directory.path()) {
            Ok(()) => Some(SmallDisk(directory)),
            Err(why) => {
                println!("left out: a small file system can't be mounted here ({why})");
                None
            }
        }
    }

    fn resize(&self, bytes: u64) {
        run("mount", &["-o", &format!("remount,size={bytes}")], self.0.path()).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
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

fn options(disk: &SmallDisk) -> BrokerOptions {
    let flags = ["--segment-size", "128KiB", "--checkpoint-after", "256KiB", "--accept-filesystem"];
    BrokerOptions::default().args(["--data".as_ref(), disk.data().as_os_str()]).args(flags)
}

/// Writes the same keys in turn, so many bytes in all; numbers the values from `first` on and gives the number after the last.
fn write(broker: &Broker, first: u64, bytes: u64) -> u64 {
    let client = broker.dealer();
    let last = first + bytes / VALUE_BYTES;
    for number in first..last {
        let value = format!("{number:0>width$}", width = VALUE_BYTES as usize);
        let put = json!({"op": "put", "key": format!("k{}", number % KEYS), "value": value});
        let reply =
            wait_until(PATIENCE, "a write", || Some(client.ask_json(&put)).filter(|reply| reply["error"]["code"] != "busy"));
        assert_eq!(reply["status"], "ok", "{reply}");
    }
    last
}

/// The last values of all keys are there.
fn check(broker: &Broker, last: u64) {
    let client = broker.dealer();
    for number in last - KEYS..last {
        let reply = client.ask_json(&json!({"op": "get", "key": format!("k{}", number % KEYS)}));
        assert_eq!(reply["value"].as_str().unwrap().parse::<u64>().unwrap(), number);
    }
}

#[test]
fn a_small_table_on_a_small_disk_is_written_for_ever() {
    let Some(disk) = SmallDisk::mount(8 * MIB) else { return };
    let mut broker = Broker::start(options(&disk));
    let last = write(&broker, 0, 40 * MIB);
    check(&broker, last);
    wait_until(PATIENCE, "history to go", || (broker.stat("history_log_bytes") == 0).then_some(()));
    assert!(broker.stat("history_log_given_up_bytes") > 30 * MIB);
    assert!(broker.stat("checkpoints") > 10);
    assert_eq!(broker.stat("log_bytes"), broker.stat("behind_bytes") + broker.stat("history_log_bytes"));
    let said = broker.stderr();
    assert_eq!(said.matches("the disk is nearly full").count(), 1, "{said}");
    broker.kill9();
    broker.restart();
    check(&broker, last);
    broker.stop();
}

#[test]
fn a_start_on_a_disk_that_became_small_makes_room() {
    // With so much room, history stays. Of a file system in memory only what is written takes any.
    let Some(disk) = SmallDisk::mount(2048 * MIB) else { return };
    let mut broker = Broker::start(options(&disk));
    let last = write(&broker, 0, 6 * MIB);
    wait_until(PATIENCE, "a checkpoint", || (broker.stat("history_log_bytes") > 3 * MIB).then_some(()));
    assert_eq!(broker.stat("history_log_given_up_bytes"), 0);
    broker.kill9();
    disk.resize(12 * MIB);
    broker.restart();
    wait_until(PATIENCE, "history to go without a write", || (broker.stat("history_log_bytes") == 0).then_some(()));
    assert_eq!(broker.stat("checkpoints"), 1);
    check(&broker, last);
    let last = write(&broker, last, 20 * MIB);
    check(&broker, last);
    broker.stop();
}
