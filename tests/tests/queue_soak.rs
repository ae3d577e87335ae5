//! A slice of the soak of queues: producers, consumers and the broker are killed again and again, and everything is looked at.
//!
//! `cargo run --release -p kvbroker-tests --bin queue_soak` takes as many items and kills as one likes; that its judge notices errors is tested
//! beside it (`tests/src/soak/`).

#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use kvbroker_tests::{end_with_us, finish, program};

#[test]
fn items_are_done_in_order_and_once_whoever_is_killed() {
    let soak = program("queue_soak");
    let mut command = Command::new(&soak);
    // It starts others, which are there now.
    command.env("KVBROKER_TEST_BIN", soak.parent().unwrap());
    command.args("--items 20000 --broker-kills 2 --consumer-kills 20 --producer-kills 4 --lease-ms 700".split(' '));
    end_with_us(&mut command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let said = finish(child);
    println!("{}", said.text());
    assert_eq!(said.code, Some(0), "{}\n{}", said.text(), said.stderr);
    assert!(said.text().contains("As promised"), "{}", said.text());
}
