//! The loads that `kvperf` makes, and what it finds out: real brokers, real processes, real `kill -9`. No test here depends on how
//! fast anything is.

#![allow(clippy::unwrap_used)]

use kvbroker_tests::{Broker, BrokerOptions, PATIENCE, Perf, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Keys that a run of kvperf made, the first ones.
fn keys_of_runs(broker: &Broker) -> Vec<Value> {
    let page = broker.dealer().ask_json(&json!({"op": "scan", "prefix": "kp", "limit": 3}));
    page["rows"].as_array().unwrap_or_else(|| panic!("no rows in {page}")).clone()
}

fn wait_for_keys(broker: &Broker) -> Vec<Value> {
    wait_until(PATIENCE, "the clients have written", || Some(keys_of_runs(broker)).filter(|keys| keys.len() == 3))
}

fn runs(result: &Value) -> &[Value] {
    result["runs"].as_array().unwrap()
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("no number {name} in {value}"))
}

#[test]
fn many_outstanding_operations_are_all_answered_and_share_messages() {
    let broker = Broker::plain();
    let messages = broker.stat("messages");
    let result = Perf::result(&broker, &["--ops", "2000", "--pipeline", "128", "--clients", "2"]);
    assert_eq!(result["settings"]["pipeline"], 128);
    for run in runs(&result) {
        assert_eq!(run["sum"]["operations"], 4_000, "{run}");
        // Each scan, and each query, is a message.
        let told: u64 = run["timeline"].as_array().unwrap().iter().map(|moment| moment["operations"].as_u64().unwrap()).sum();
        assert_eq!(told, 4_000, "the timeline has them all");
    }
    // Scans and queries can't share messages, the other 12,000 can.
    let messages = broker.stat("messages") - messages;
    assert!(messages < 8_000 + 6_000, "{messages} messages");
    assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
}

#[test]
fn every_workload_does_its_kinds_of_operations_and_checks_them() {
    let broker = Broker::plain();
    let kinds = [
        ("a", &["read", "update"][..]),
        ("b", &["read", "update"]),
        ("c", &["read"]),
        ("d", &["read", "insert"]),
        ("e", &["insert", "scan"]),
        ("f", &["read", "read-modify-write"]),
    ];
    for (workload, kinds) in kinds {
        for pace in [&[][..], &["--pipeline", "32"], &["--rate", "4000"]] {
            let words = ["--workload", workload, "--ops", "400", "--keys", "300", "--clients", "2", "--verify"];
            let words = if workload == "c" { &words[..words.len() - 1] } else { &words };
            let result = Perf::result(&broker, &[words, pace].concat());
            let run = &runs(&result)[0];
            assert_eq!((run["stage"].as_str(), &run["sum"]["operations"]), (Some("mixed"), &json!(800)));
            let found = run["kinds"].as_array().unwrap();
            assert_eq!(found.iter().map(|kind| kind["kind"].as_str().unwrap()).collect::<Vec<_>>(), kinds, "{workload} {pace:?}");
            assert_eq!(found.iter().map(|kind| number(&kind["sum"], "operations")).sum::<f64>(), 800.0);
            assert_eq!(number(&run["sum"], "rows") > 0.0, workload == "e");
        }
    }
    let result = Perf::result(&broker, &["--workload", "a", "--ops", "1000", "--batch", "50", "--value-bytes", "30-3000"]);
    assert_eq!(runs(&result)[0]["sum"]["operations"], 1_000);
    assert_eq!(result["settings"]["distribution"], "zipfian:0.99");
    assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
}

/// A closed loop would have met the pause once, and said that 99.5 in a hundred operations were fast.
#[test]
fn a_pause_counts_for_every_operation_that_was_due_in_it() {
    let broker = Broker::plain();
    let words = ["--rate", "100", "--seconds", "6", "--stages", "lookup", "--keys", "50", "--clients", "2", "--json"];
    let run = Perf::start(&broker, &words);
    wait_until(PATIENCE, "keys are looked up", || (broker.stat("operations") > 200).then_some(()));
    broker.signal(Signal::STOP);
    // This is the pause, a quarter of the stage.
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    broker.signal(Signal::CONT);
    let result = run.success();
    let run = &runs(&result)[0];
    let (sum, schedule) = (&run["sum"], &run["schedule"]);
    assert_eq!(schedule["due"], 600, "{schedule}");
    assert_eq!(number(sum, "operations"), 600.0 - number(schedule, "unsent"));
    assert!(number(sum, "p90_us") > 400_000.0, "as many waited for more than 0.4 s: {sum}");
    assert!(number(sum, "max_us") > 1_000_000.0, "{sum}");
}

#[test]
fn a_rate_that_is_too_high_is_said_to_be() {
    let broker = Broker::plain();
    let words = ["--rate", "90000000", "--seconds", "0.3", "--stages", "insert"];
    let result = Perf::result(&broker, &words);
    let schedule = &runs(&result)[0]["schedule"];
    assert_eq!(schedule["due"], 27_000_000);
    assert!(number(schedule, "unsent") > 0.0 && number(schedule, "late") >= number(schedule, "unsent"), "{schedule}");
    let said = Perf::run(&broker, &words);
    assert!(said.text().contains("so much per second is more than is done here"), "{}", said.text());
    assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
}

#[test]
fn a_sweep_goes_on_until_nothing_grows() {
    let broker = Broker::plain();
    let result = Perf::result(&broker, &["--sweep", "--stages", "lookup", "--ops", "300"]);
    let clients: Vec<u64> =
        result["settings"]["clients"].as_array().unwrap().iter().map(|clients| clients.as_u64().unwrap()).collect();
    assert!(clients.len() >= 3 && clients.starts_with(&[1, 2, 3]), "{clients:?}");
    assert_eq!(runs(&result).iter().map(|run| run["clients"].as_u64().unwrap()).collect::<Vec<_>>(), clients);
    assert_eq!(result["settings"]["sweep"], true);
}

#[test]
fn outliers_are_told_within_checkpoints_and_outside_of_them() {
    let broker = Broker::start(BrokerOptions::default().args(["--checkpoint-after", "64KiB"]));
    let words = ["--outliers", "--stages", "insert", "--seconds", "4", "--batch", "16", "--clients", "2"];
    let result = Perf::result(&broker, &words);
    let run = &runs(&result)[0];
    assert_ne!(run["checkpoints"], json!([]), "so small a log needs one");
    let outliers = &run["outliers"];
    let of = |list: &str| outliers[list].as_array().unwrap().iter().map(|it| number(it, "us")).collect::<Vec<_>>();
    let (fastest, slowest) = (of("fastest"), of("slowest"));
    assert_eq!((fastest.len(), slowest.len()), (10, 10));
    assert!(fastest.is_sorted() && slowest.is_sorted_by(|a, b| a >= b));
    assert_eq!((fastest[0], slowest[0]), (number(&run["sum"], "min_us"), number(&run["sum"], "max_us")));
    let counted = ["within", "outside"].map(|part| outliers[part]["operations"].as_f64().unwrap_or_default());
    assert_eq!(counted.iter().sum::<f64>(), number(&run["sum"], "operations"));
    assert!(counted[0] > 0.0, "{outliers}");
}

#[test]
fn restarts_lose_nothing_that_was_acknowledged() {
    let mut broker = Broker::plain();
    let words = ["--verify", "--stages", "insert,mixed,remove", "--seconds", "3", "--clients", "2", "--timeout", "60s", "--json"];
    for pace in [&[][..], &["--pipeline", "64"]] {
        let mut run = Perf::start(&broker, &[&words[..], pace].concat());
        wait_for_keys(&broker);
        broker.kill9();
        broker.restart();
        let acknowledged = broker.stat("revision");
        wait_until(PATIENCE, "it goes on", || (broker.stat("revision") > acknowledged + 100).then_some(()));
        assert!(run.try_wait().is_none(), "it was still under way");
        broker.kill9();
        broker.restart();
        let result = run.success();
        let verified = &result["verified"][0];
        assert!(number(verified, "restarts") >= 1.0, "{verified}");
        assert!(number(verified, "acknowledged") > 100.0 && number(verified, "keys") > 100.0, "{verified}");
        assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
    }
}

/// What somebody else does to a run's keys looks like a broker that lost what it had acknowledged.
#[test]
fn an_acknowledged_write_that_is_lost_is_found() {
    let broker = Broker::plain();
    let put = |key: &Value| json!({"op": "put", "key": key, "value": {"group": 0, "data": "not what was stored"}});
    let del = |key: &Value| json!({"op": "del", "key": key});
    type Change<'a> = &'a dyn Fn(&Value) -> Value;
    let changes: [(Change<'_>, &str); 2] = [(&put, "another value than the one"), (&del, "is not there")];
    for (change, sign) in changes {
        for pace in ["1", "64"] {
            let run = Perf::start(&broker, &["--verify", "--stages", "insert", "--seconds", "1", "--pipeline", pace]);
            let key = wait_for_keys(&broker)[0][0].clone();
            assert_eq!(broker.dealer().ask_json(&change(&key))["status"], "ok");
            let said = run.end();
            assert_eq!(said.code, Some(1), "{}", said.stderr);
            assert!(said.stderr.contains("an acknowledged write is lost") && said.stderr.contains(sign), "{}", said.stderr);
            assert!(said.stderr.contains(key.as_str().unwrap()), "{}", said.stderr);
            assert_eq!(keys_of_runs(&broker), Vec::<Value>::new(), "it is cleaned up all the same");
        }
    }
}

#[test]
fn plots_are_written_where_they_are_wanted() {
    let broker = Broker::plain();
    let directory = tempfile::tempdir().unwrap();
    let plots = directory.path().join("plots");
    let words = ["--svg", plots.to_str().unwrap(), "--stages", "insert,lookup", "--clients", "1,2", "--seconds", "0.5"];
    let said = Perf::run(&broker, &words);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let mut names: Vec<String> =
        std::fs::read_dir(&plots).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let timelines = ["insert-1", "insert-2", "lookup-1", "lookup-2"].map(|name| format!("timeline-{name}.svg"));
    assert_eq!(names, [&["growth.svg", "latency-1.svg", "latency-2.svg"].map(str::to_owned)[..], &timelines].concat());
    let nowhere = directory.path().join("plots/growth.svg/x");
    let said = Perf::run(&broker, &["--svg", nowhere.to_str().unwrap()]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert_eq!(keys_of_runs(&broker), Vec::<Value>::new());
}
