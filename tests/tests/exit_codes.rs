//! The broker's exit codes where nobody can read why.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::process::{Command, Stdio};

use kvbroker_tests::{Broker, Home, program};

const USAGE: i32 = 2;
const LOCKED: i32 = 10;
const DISK_FULL: i32 = 12;

fn kvbroker(home: &Home, args: &[&str]) -> Command {
    let mut command = Command::new(program("kvbroker"));
    command.env("KVBROKER_HOME", home.path()).args(["--catalog", "none"]).args(args).stdin(Stdio::null());
    command
}

fn full() -> Stdio {
    Stdio::from(File::options().write(true).open("/dev/full").unwrap())
}

/// The sentence got lost in `eprintln!`, which panics, and the exit code with it: 101.
#[test]
fn a_stderr_that_takes_nothing_does_not_change_the_exit_code() {
    let broker = Broker::plain();
    let second = kvbroker(broker.home(), &["test"]).stderr(full()).stdout(Stdio::null()).status().unwrap();
    assert_eq!(second.code(), Some(LOCKED));
    let wrong = kvbroker(broker.home(), &["list"]).stderr(full()).stdout(Stdio::null()).status().unwrap();
    assert_eq!(wrong.code(), Some(USAGE));
}

#[test]
fn an_answer_that_cannot_be_written_is_no_success() {
    let home = Home::new();
    for words in [&["test", "paths"][..], &["--version"], &["help"]] {
        let lost = kvbroker(&home, words).stdout(full()).output().unwrap();
        assert_eq!(lost.status.code(), Some(DISK_FULL), "{words:?}");
        assert!(String::from_utf8(lost.stderr).unwrap().contains("cannot write to stdout"));
    }
}

/// It was found out when clients had been answered, and then the broker ended without closing its log.
#[test]
fn a_ready_file_that_cannot_be_written_is_said_before_anything_starts() {
    let home = Home::new();
    let ended = kvbroker(&home, &["test", "--ready-file", "/proc/no/where"]).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(USAGE), "{said}");
    assert!(said.contains("/proc/no/where") && !said.contains(".tmp"), "{said}");
    assert!(ended.stdout.is_empty() && !home.path().join("data").exists(), "nothing was started");
}
