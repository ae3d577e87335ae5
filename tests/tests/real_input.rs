//! The main job on real data: hundreds of thousands of words and package descriptions are put, scanned, queried, read after a restart.
//!
//! - `tests/real_input/records.py` makes the records from what Debian packages ship. Every answer is compared with what the records say.
//! - In a normal run a slice of them, evenly spread; `tests/real-input` takes all, in the release profile, and its table is what to read.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kvbroker_tests::{Broker, Dice, RawClient, left_out, pack, peer, unpack};
use serde_json::{Value, json};

/// How many records: a number, or `all`.
const VARIABLE: &str = "KVBROKER_REAL_INPUT";
const SLICE: usize = 30_000;
const WORDS: &str = "/usr/share/dict/american-english-insane";

/// Operations of one message, and messages in flight.
const ARRAY: usize = 256;
const IN_FLIGHT: usize = 16;
/// Single reads, one at a time.
const GETS: usize = 2_000;

type Records = BTreeMap<String, Value>;

fn records() -> Option<Records> {
    let python = peer("python3")?;
    if !Path::new(WORDS).is_file() {
        left_out(&format!("there is no {WORDS}; install it with: apt-get install wamerican-insane"));
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("real_input/records.py");
    let output = Command::new(python).arg(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "records.py: {}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 300_000, "only {} records", lines.len());
    let wanted = match std::env::var(VARIABLE) {
        Ok(all) if all == "all" => lines.len(),
        Ok(number) => number.parse().unwrap_or_else(|_| panic!("{VARIABLE}={number} is neither a number nor `all`")),
        Err(_) => SLICE,
    };
    let step = lines.len().div_ceil(wanted.max(1));
    let record = |line: &&str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        (record["key"].as_str().unwrap().to_owned(), record["value"].take())
    };
    Some(lines.iter().step_by(step).map(record).collect())
}

/// The results of a compact message of many operations.
fn results(reply: &[u8]) -> Vec<Value> {
    let mut reply = unpack(reply);
    match reply[3].take() {
        Value::Array(results) if results.first().is_some_and(Value::is_array) => results,
        other => panic!("{other}"),
    }
}

fn put_all(client: &RawClient, records: &Records) -> usize {
    let pairs: Vec<(&String, &Value)> = records.iter().collect();
    let mut in_flight = std::collections::VecDeque::new();
    let (mut bytes, mut done) = (0, 0);
    let mut receive = |expected: usize| {
        let results = results(&client.receive());
        assert_eq!(results.len(), expected);
        assert!(results.iter().all(|result| result[0] == 0), "{results:?}");
        done += expected;
    };
    for puts in pairs.chunks(ARRAY) {
        if in_flight.len() == IN_FLIGHT {
            receive(in_flight.pop_front().unwrap());
        }
        let operations: Vec<Value> = puts.iter().map(|(key, value)| json!(["put", key, value])).collect();
        let body = pack(&json!([1, null, null, null, null, null, null, operations]));
        bytes += body.len();
        client.send(&[body]);
        in_flight.push_back(puts.len());
    }
    in_flight.into_iter().for_each(&mut receive);
    assert_eq!(done, records.len());
    bytes
}

/// All rows of a scan or query, and its pages. `operation` is compact, its last element the map of options.
fn pages(client: &RawClient, mut operation: Value) -> (Vec<(String, Value)>, usize) {
    let (mut rows, mut count) = (Vec::new(), 0);
    loop {
        let mut reply = client.ask_pack(&json!([1, null, null, null, null, null, null, operation]));
        let mut result = reply[3].take();
        assert_eq!(result[0], 0, "{result}");
        count += 1;
        let Value::Array(page) = result[2].take() else { panic!("a page has rows") };
        rows.extend(page.into_iter().map(|mut row| (row[0].as_str().unwrap().to_owned(), row[1].take())));
        let cursor = result[3].take();
        if cursor.is_null() {
            return (rows, count);
        }
        *operation.as_array_mut().unwrap().last_mut().unwrap().as_object_mut().unwrap().entry("cursor").or_insert(Value::Null) =
            cursor;
    }
}

/// Asks for pages and compares with the records that `belongs` picks.
fn compare(client: &RawClient, records: &Records, operation: Value, belongs: impl Fn(&str, &Value) -> bool) -> String {
    let begun = Instant::now();
    let shown = operation.to_string();
    let (rows, pages) = pages(client, operation);
    let took = begun.elapsed();
    let expected = records.iter().filter(|(key, value)| belongs(key, value));
    assert!(rows.iter().map(|(key, value)| (key, value)).eq(expected), "{shown} gave {} rows, not the right ones", rows.len());
    assert!(!rows.is_empty(), "{shown} shows nothing");
    format!("{:>7.2} s  {} rows on {pages} pages", took.as_secs_f64(), rows.len())
}

fn print(what: &str, result: &str) {
    println!("  {what:<44}{result}");
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[test]
fn real_records_are_put_scanned_queried_and_there_after_a_restart() {
    let Some(records) = records() else { return };
    let mut broker = Broker::plain();
    let client = broker.dealer();
    println!("{} records:", records.len());
    let begun = Instant::now();
    let bytes = put_all(&client, &records);
    let took = begun.elapsed().as_secs_f64();
    let rate = records.len() as f64 / took;
    print("put, arrays of 256, 16 in flight", &format!("{took:>7.2} s  {rate:.0} records/s, {:.0} MiB", mib(bytes as u64)));
    let size = client.ask_json(&json!({"op": "size"}));
    assert_eq!(size["size"], records.len());
    print(
        "memory of the broker",
        &format!(
            "{:>7.0} MiB, {:.0} bytes a record",
            mib(broker.memory().now),
            broker.memory().now as f64 / records.len() as f64
        ),
    );
    print("log", &format!("{:>7.0} MiB", mib(broker.stat("log_bytes"))));
    let found = compare(&client, &records, json!(["scan", {}]), |_, _| true);
    print("scan everything", &found);
    let found = compare(&client, &records, json!(["scan", {"prefix": "word/un"}]), |key, _| key.starts_with("word/un"));
    print("scan prefix word/un", &found);
    let found = compare(&client, &records, json!(["scan", {"regex": "^word/.*ness$"}]), |key, _| {
        key.starts_with("word/") && key.ends_with("ness")
    });
    print("scan regex ^word/.*ness$", &found);
    let found = compare(&client, &records, json!(["query", "length", 5.0, {}]), |_, value| value["length"] == 5);
    print("query length = 5", &found);
    let found = compare(&client, &records, json!(["query", "section", "python", {"prefix": "package/"}]), |_, value| {
        value["section"] == "python"
    });
    print("query section = python, prefix package/", &found);

    let mut dice = Dice::new(1);
    let pairs: Vec<(&String, &Value)> = records.iter().collect();
    let mut slowest = Duration::ZERO;
    let begun = Instant::now();
    for _ in 0..GETS {
        let (key, value) = pairs[dice.below(pairs.len())];
        let asked = Instant::now();
        let reply = client.ask_pack(&json!([1, null, null, null, null, null, null, ["get", key]]));
        slowest = slowest.max(asked.elapsed());
        assert_eq!((&reply[3][0], &reply[3][2]), (&json!(0), value), "{key}");
    }
    let mean = begun.elapsed() / u32::try_from(GETS).unwrap();
    print("get, one at a time", &format!("{:>7.0} µs on average, {:.0} µs at most", mean.as_micros(), slowest.as_micros()));

    broker.stop();
    let begun = Instant::now();
    broker.restart();
    let took = begun.elapsed().as_secs_f64();
    print("restart until ready", &format!("{took:>7.2} s  {:.0} records/s", records.len() as f64 / took));
    print("memory of the broker after the restart", &format!("{:>7.0} MiB", mib(broker.memory().now)));
    let client = broker.dealer();
    let found = compare(&client, &records, json!(["scan", {}]), |_, _| true);
    print("scan everything again", &found);
    broker.stop();
}
