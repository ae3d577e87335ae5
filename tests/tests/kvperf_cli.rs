//! `kvperf` as a user runs it: real brokers, real processes, and nothing left behind. No test here depends on how fast anything is.

#![allow(clippy::unwrap_used)]

use kvbroker_tests::{Broker, PATIENCE, Perf, Said, json, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

fn run(broker: &Broker, words: &[&str]) -> Said {
    Perf::run(broker, words)
}

/// What a run wrote that succeeded.
fn ok(said: Said) -> String {
    assert_eq!(said.code, Some(0), "stderr:\n{}", said.stderr);
    said.text()
}

/// Keys that a run of kvperf made.
fn keys_of_runs(broker: &Broker) -> Vec<Value> {
    let page = broker.dealer().ask_json(&json!({"op": "scan", "prefix": "kp", "limit": 3}));
    page["rows"].as_array().unwrap_or_else(|| panic!("no rows in {page}")).clone()
}

fn wait_for_keys(broker: &Broker) {
    wait_until(PATIENCE, "the clients have written", || (!keys_of_runs(broker).is_empty()).then_some(()));
}

/// Runs until it is ended.
const LONG: &[&str] = &["--seconds", "600", "--clients", "2"];

#[test]
fn every_stage_counts_what_it_did_and_nothing_is_left() {
    let broker = Broker::plain();
    broker.dealer().ask_json(&json!({"op": "put", "key": "kq", "value": 1}));
    let text = ok(run(&broker, &["--ops", "150", "--clients", "1,3", "--json"]));
    let result = json(text.as_bytes());
    assert_eq!(result["facts"]["transport"], "ipc");
    assert_eq!(result["facts"]["sync"], "always");
    let runs = result["runs"].as_array().unwrap();
    let of = |run: &Value| (run["clients"].as_u64().unwrap(), run["stage"].as_str().unwrap().to_owned());
    let stages = ["insert", "lookup", "scan", "query", "remove"];
    let wanted: Vec<_> = [1, 3].iter().flat_map(|clients| stages.map(|stage| (*clients, stage.to_owned()))).collect();
    assert_eq!(runs.iter().map(of).collect::<Vec<_>>(), wanted);
    for run in runs {
        let (clients, stage) = of(run);
        let each = run["each"].as_array().unwrap();
        assert_eq!((each.len() as u64, &run["sum"]["operations"]), (clients, &json!(150 * clients)));
        assert!(each.iter().all(|client| client["operations"] == 150 && client["max_us"].as_f64() >= client["p50_us"].as_f64()));
        let rows_each = match stage.as_str() {
            "scan" => 100,
            "query" => 10,
            _ => 0,
        };
        assert_eq!(run["sum"]["rows"], json!(150 * clients * rows_each), "{stage}");
    }
    assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
    assert_eq!(broker.stat("keys"), 1, "what is not a run's own stays");
}

#[test]
fn requests_of_many_operations_and_other_sizes_are_checked_as_well() {
    let broker = Broker::plain();
    let words =
        ["--ops", "1000", "--batch", "256", "--key-bytes", "40", "--value-bytes", "300", "--page-rows", "30", "--csv", "-q"];
    let text = ok(run(&broker, &words));
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 1 + 5 * 2, "a head, and a client and a sum for each stage:\n{text}");
    assert!(rows[1..].iter().all(|row| row[4] == "1000"), "{text}");
    assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
}

#[test]
fn stages_that_need_keys_get_them() {
    let broker = Broker::plain();
    let text = ok(run(&broker, &["--ops", "40", "--stages", "query,lookup", "--clients", "2"]));
    assert!(text.contains("lookup     sum") && text.contains("query      sum") && !text.contains("insert"), "{text}");
    assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
}

#[test]
fn two_runs_at_once_do_not_meet() {
    let broker = Broker::plain();
    let both = [(), ()].map(|()| Perf::start(&broker, &["--ops", "300", "--clients", "2", "--json"]));
    for one in both {
        let result = json(ok(one.end()).as_bytes());
        assert!(result["runs"].as_array().unwrap().iter().all(|run| run["sum"]["operations"] == 600));
    }
    assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
}

#[test]
fn an_interrupted_run_removes_its_keys() {
    let broker = Broker::plain();
    for signal in [Signal::INT, Signal::TERM] {
        let run = Perf::start(&broker, LONG);
        wait_for_keys(&broker);
        run.signal(signal);
        let said = run.end();
        assert_eq!(said.code, Some(130), "{}", said.stderr);
        assert!(said.stderr.contains("keys removed"), "{}", said.stderr);
        // Nothing comes after its end: its clients ended before it removed the keys.
        assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
    }
}

#[test]
fn clients_of_a_killed_run_remove_their_keys() {
    let broker = Broker::plain();
    let run = Perf::start(&broker, LONG);
    wait_for_keys(&broker);
    run.signal(Signal::KILL);
    assert_eq!(run.end().code, None);
    wait_until(PATIENCE, "the clients have removed their keys", || keys_of_runs(&broker).is_empty().then_some(()));
}

#[test]
fn stages_are_measured_beside_others_who_are_checked_as_well() {
    let broker = Broker::plain();
    let words = ["--beside", "delete,regex,scan,query", "--beside-keys", "3000", "--beside-clients", "2", "--seconds", "0.2"];
    let result = json(ok(run(&broker, &[&words[..], &["--json"]].concat())).as_bytes());
    let runs = result["runs"].as_array().unwrap();
    let of = |run: &Value| (run["stage"].as_str().unwrap().to_owned(), run["beside"]["dear"].as_str().unwrap_or("-").to_owned());
    let wanted =
        ["-", "scan", "query", "regex", "delete"].map(|dear| ["insert", "lookup"].map(|stage| (stage.into(), dear.into())));
    assert_eq!(runs.iter().map(of).collect::<Vec<_>>(), wanted.concat());
    // Each of them has done something.
    assert!(runs.iter().all(|run| run["sum"]["operations"].as_u64() > Some(0)), "{runs:?}");
    assert!(runs[2..].iter().all(|run| run["beside"]["sum"]["operations"].as_u64() > Some(0)), "{runs:?}");
    assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
}

#[test]
fn a_broker_that_dies_is_no_success_and_what_is_left_has_a_name() {
    let mut broker = Broker::plain();
    let stages = [(&[][..], 4), (&["--stages", "lookup", "--timeout", "2s"][..], 5)];
    for (words, code) in stages {
        let words = [LONG, words].concat();
        let run = Perf::start(&broker, &words);
        if code == 4 {
            wait_for_keys(&broker);
        } else {
            // Looking up has begun where more is asked than what loading asks.
            let before = broker.stat("operations");
            wait_until(PATIENCE, "keys are looked up", || (broker.stat("operations") > before + 25_000).then_some(()));
        }
        broker.kill9();
        let said = run.end();
        assert_eq!(said.code, Some(code), "{}", said.stderr);
        let (_, hint) = said.stderr.split_once("--clean ").unwrap_or_else(|| panic!("no hint in {}", said.stderr));
        let prefix = hint.split_whitespace().next().unwrap();
        broker.restart();
        assert!(keys_of_runs(&broker).iter().all(|row| row[0].as_str().unwrap().starts_with(prefix)));
        assert!(run_clean(&broker, prefix).ends_with(" keys removed\n"));
        assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
    }
}

fn run_clean(broker: &Broker, prefix: &str) -> String {
    ok(run(broker, &["--clean", prefix]))
}

#[test]
fn no_broker_is_said_with_its_exit_code() {
    let mut broker = Broker::plain();
    assert!(ok(run(&broker, &["--info"])).contains("--sync always"));
    broker.stop();
    let said = run(&broker, &[]);
    assert_eq!((said.code, said.text().as_str()), (Some(5), ""), "{}", said.stderr);
    assert!(said.stderr.contains("no broker for test runs here"), "{}", said.stderr);
}

#[test]
fn a_value_that_somebody_else_changed_ends_the_run() {
    let broker = Broker::plain();
    let mut run = Perf::start(&broker, &["--stages", "lookup", "--seconds", "600"]);
    wait_for_keys(&broker);
    // Again and again: it draws at random.
    let client = broker.dealer();
    wait_until(PATIENCE, "the run has ended", || {
        for row in keys_of_runs(&broker) {
            client.ask_json(&json!({"op": "put", "key": row[0], "value": "not what was stored"}));
        }
        run.try_wait()
    });
    let said = run.end();
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("not the value that was stored"), "{}", said.stderr);
    // What this test put while the run removed its keys may still be there, so no look at them.
}
