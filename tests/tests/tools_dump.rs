//! `kvbroker PROJECT dump`: what brokers wrote, read back by the offline tool.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;

use kvbroker_tests::{Broker, Cli, Home, verb, verb_command};
use regex::Regex;
use serde_json::Value;

/// A data directory with a known life: made by a real broker that was stopped in order.
fn life() -> (Broker, Cli) {
    let broker = Broker::plain();
    let cli = Cli::new(broker.home());
    cli.ok(&["test", "put", "greeting", "hello"]);
    cli.ok(&["test", "put", "zebra", "{\"weight\":100}", "--json"]);
    cli.ok(&["test", "put", "greeting", "again", "--ttl", "1h"]);
    cli.ok(&["test", "del", "zebra"]);
    assert_eq!(cli.run(&["test", "put", "greeting", "never", "--if-absent"]).code, Some(3));
    cli.ok(&["test", "put", "a\tb", &"x".repeat(300)]);
    (broker, cli)
}

/// Ids, times and sizes that differ from run to run replaced by what they are.
fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, what) in [
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
        (r"\b[0-9a-f]{32}\b", "SESSION"),
        (r"\b[0-9a-f]{16}\b", "HASH"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME"),
        (r"@\d+", "@N"),
        (r"\d+ bytes, sync", "N bytes, sync"),
        (r"batch \d+", "batch N"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, what).into_owned();
    }
    text
}

#[test]
fn the_life_of_a_key_can_be_read() {
    let (mut broker, _) = life();
    broker.stop();
    let said = verb(broker.home(), &["test", "dump", "--key", "greeting"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let expected = "\
table.txn.00000001: segment 1 of log UUID, epoch HASH, from batch N on, behind revision 0 (new directory)
  @N batch N: data, revision 1, TIME, N bytes, sync always, synced through batch N
    revision 1: request of SESSION:1
      put key greeting = \"hello\"
  @N batch N: data, revision 3, TIME, N bytes, sync always, synced through batch N
    revision 3: request of SESSION:1
      put key greeting = \"again\" (created 1, expires TIME)
  @N end of the log
";
    assert_eq!(normal(&said.text()), expected);
    let all = normal(&verb(broker.home(), &["test", "dump"]).text());
    for line in [
        "  @N batch N: opening, at revision 0, ",
        "      put session SESSION open, highest number 0, used TIME, owner owner\n",
        "      put reply SESSION:1 = {\"status\":\"ok\",\"rev\":1} (hash HASH, acknowledged 0, TIME)\n",
        "    at revision 4: bookkeeping of SESSION:1\n",
        "      delete key zebra\n",
        "      put session SESSION ended, highest number 1, ",
        &format!("      put key \"a\\tb\" = \"{}… (302 bytes)\n", "x".repeat(99)),
        "clean stop, at revision 5, ",
    ] {
        assert!(all.contains(line), "{line:?} in\n{all}");
    }
    let whole = verb(broker.home(), &["test", "dump", "--prefix", "a", "--values"]).text();
    assert!(whole.contains(&format!("\"{}\"\n", "x".repeat(300))) && !whole.contains("greeting"), "{whole}");
    let some = verb(broker.home(), &["test", "dump", "--from", "2", "--to", "3"]).text();
    assert!(
        some.contains("zebra") && some.contains("again") && !some.contains("hello") && !some.contains("delete key"),
        "{some}"
    );
}

#[test]
fn the_same_as_json_while_the_broker_runs() {
    let (broker, _) = life();
    let said = verb(broker.home(), &["test", "dump", "--json"]);
    assert_eq!(said.code, Some(0));
    assert!(said.stderr.contains(&format!("is in use by process {}", broker.pid())), "{}", said.stderr);
    let lines = said.json_lines();
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<&Value>>();
    assert_eq!(of("segment")[0]["version"], 2);
    assert_eq!(of("segment_end").last().unwrap()["last_revision"], 5);
    let zebra: Vec<(&Value, &Value)> =
        of("record").into_iter().filter(|line| line["key"] == "zebra").map(|line| (&line["op"], &line["value"])).collect();
    assert_eq!(zebra[0].1["weight"], 100);
    assert_eq!((zebra[1].0, zebra.len()), (&Value::from("delete"), 2));
    let requests = of("group").into_iter().filter(|line| line["cause"] == "request").count();
    assert_eq!(requests, 5);
    let long = of("record").into_iter().find(|line| line["key"] == "a\tb").unwrap();
    assert_eq!(long["value"].as_str().unwrap().len(), 300, "JSON has values whole");
    let failed = of("record").into_iter().find(|line| line["outcome"]["status"] == "failed").unwrap();
    assert_eq!(failed["space"], "reply");
}

#[test]
fn what_is_damaged_is_named_and_the_rest_is_shown() {
    let (mut broker, _) = life();
    broker.stop();
    let path = broker.data_directory().join("table.txn.00000001");
    let at = fs::read(&path).unwrap().windows(6).position(|bytes| bytes == b"weight").unwrap();
    File::options().write(true).open(&path).unwrap().write_all_at(b"W", at as u64).unwrap();
    let before = fs::read(&path).unwrap();
    let said = verb(broker.home(), &["test", "dump", "--json"]);
    assert_eq!(said.code, Some(11), "{}", said.stderr);
    let lines = said.json_lines();
    let damage = lines.iter().find(|line| line["type"] == "damage").unwrap();
    let offset = damage["offset"].as_u64().unwrap();
    assert!((4180..at as u64).contains(&offset) && damage["resumes"].as_u64() > Some(at as u64), "{damage}");
    assert!(damage["why"].as_str().unwrap().contains("checksum"), "{damage}");
    let keys: Vec<&Value> = lines.iter().filter(|line| line["space"] == "table").map(|line| &line["key"]).collect();
    assert_eq!(keys, ["greeting", "greeting", "zebra", "a\tb"], "all but what is damaged");
    assert!(said.stderr.contains(&format!("table.txn.00000001 is damaged at byte {offset}")), "{}", said.stderr);
    let text = verb(broker.home(), &["test", "dump"]);
    assert_eq!(text.code, Some(11));
    assert!(text.text().contains(&format!("  @{offset} DAMAGED: ")), "{}", text.text());

    // A file that is no segment at all does not keep the next one from being shown.
    let other = broker.data_directory().join("table.txn.00000002");
    fs::write(&other, b"nothing").unwrap();
    let said = verb(broker.home(), &["test", "dump"]);
    assert!(said.code == Some(11) && said.stderr.contains("table.txn.00000002 is damaged at byte 0"), "{}", said.stderr);
    assert!(said.text().contains("put key greeting"), "{}", said.text());
    assert_eq!(fs::read(&path).unwrap(), before, "nothing was changed");
}

#[test]
fn a_torn_tail_is_no_damage() {
    let (mut broker, _) = life();
    broker.kill9();
    let path = broker.data_directory().join("table.txn.00000001");
    let dump = || verb(broker.home(), &["test", "dump", "--json", "--log"]);
    let end = |lines: &[Value]| lines.iter().find(|line| line["type"] == "segment_end").unwrap().clone();
    let before = end(&dump().json_lines());
    let offset = before["offset"].as_u64().unwrap();
    File::options().write(true).open(&path).unwrap().write_all_at(b"torn", offset).unwrap();
    let said = dump();
    let after = end(&said.json_lines());
    assert_eq!((said.code, &after["end"], &after["torn_bytes"]), (Some(0), &Value::from("torn"), &Value::from(4)));
    assert_eq!(after["offset"], before["offset"]);
}

#[test]
fn a_reader_that_has_enough_is_no_failure_and_what_is_not_there_is_said() {
    let (broker, cli) = life();
    for number in 0..40 {
        cli.ok(&["test", "put", &format!("key{number}"), &"y".repeat(8_000)]);
    }
    let mut child = verb_command(broker.home(), &["test", "dump", "--values"]).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("table.txn.00000001: segment 1"));
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let none = verb(&Home::new(), &["test", "dump"]);
    assert!(none.code == Some(2) && none.stderr.contains("there is no data directory"), "{}", none.stderr);
    let file = verb(broker.home(), &["test", "dump", "--file", "table.txn.9"]);
    assert!(file.code == Some(2) && file.stderr.contains("no segment or checkpoint table.txn.9"), "{}", file.stderr);
    let help = verb(broker.home(), &["test", "dump", "--help"]);
    assert!(help.code == Some(0) && help.text().contains("Usage: kvbroker test dump"), "{}", help.text());
}
