//! Deadlines and the removal of many keys by `kvclient`, against a real broker: on time, over `kill -9`, and ended in the middle.

#![allow(clippy::unwrap_used)]

use kvbroker_tests::{Broker, Cli, PATIENCE, finish, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

fn started() -> (Broker, Cli) {
    let broker = Broker::plain();
    let cli = Cli::new(broker.home());
    (broker, cli)
}

#[test]
fn a_key_goes_when_its_time_has_come_also_when_the_broker_was_killed_meanwhile() {
    let (mut broker, cli) = started();
    let is_there = |key: &str| match cli.run(&["test", "exists", key]) {
        said if said.code == Some(0) => true,
        said => {
            assert_eq!(said.code, Some(1), "{}", said.stderr);
            false
        }
    };
    let gone = |key: &str| wait_until(PATIENCE, "the key has expired", || (!is_there(key)).then_some(()));
    cli.ok(&["test", "put", "short", "v", "--ttl", "300ms"]);
    cli.ok(&["test", "put", "long", "v", "--ttl", "1h"]);
    cli.ok(&["test", "put", "stays", "v"]);
    gone("short");
    assert_eq!(broker.stat("expired"), 1);

    cli.ok(&["test", "put", "over", "v", "--ttl", "1500ms"]);
    cli.ok(&["test", "expire", "stays", "1500ms"]);
    let deadline = |cli: &Cli| cli.ok(&["test", "ttl", "long", "--json"]).json()["expires"].as_u64().unwrap();
    let before = deadline(&cli);
    broker.kill9();
    broker.restart();
    gone("over");
    gone("stays");
    assert_eq!(deadline(&cli), before, "a deadline is a moment, whoever keeps it");
    assert!(is_there("long"));
    assert_eq!((broker.stat("keys"), broker.stat("keys_with_deadline")), (1, 1));

    // That they are gone is in the log: another start does not need to remove them again.
    let revision = broker.stat("revision");
    broker.kill9();
    broker.restart();
    assert!(!is_there("over") && !is_there("stays") && is_there("long"));
    assert_eq!((broker.stat("revision"), broker.stat("expired")), (revision, 0));
}

#[test]
fn deadlines_are_set_shown_and_taken_away() {
    let (_broker, cli) = started();
    let ok = |words: &[&str]| cli.ok(words).text();
    assert_eq!(ok(&["test", "put", "lock", "ann", "--ttl", "2h", "--if-absent"]), "");
    assert_eq!(cli.run(&["test", "put", "lock", "bob", "--ttl", "2h", "--if-absent"]).code, Some(3));
    let left = ok(&["test", "ttl", "lock"]);
    assert!(left.starts_with("1h 59m ") && left.ends_with("s\n"), "{left}");
    assert_eq!(ok(&["test", "expire", "lock", "30days"]), "");
    assert!(ok(&["test", "ttl", "lock"]).starts_with("29days 23h "));
    let answer = cli.ok(&["test", "ttl", "lock", "--json"]).json();
    let (ttl, expires) = (answer["ttl"].as_u64().unwrap(), answer["expires"].as_u64().unwrap());
    assert!(ttl <= 30 * 24 * 3_600_000 && expires > ttl, "{answer}");
    assert_eq!(ok(&["test", "get", "lock"]), "ann\n");

    assert_eq!(cli.ok(&["test", "persist", "lock", "--json"]).json(), json!({"status": "ok", "rev": 3}));
    assert_eq!(ok(&["test", "ttl", "lock"]), "none\n");
    let stays = json!({"status": "ok", "rev": 3, "ttl": null, "expires": null});
    assert_eq!(cli.ok(&["test", "ttl", "lock", "--json"]).json(), stays);
    // A put without a time to live lets the key stay; an incr does not.
    ok(&["test", "put", "n", "5", "--json", "--ttl", "1h"]);
    ok(&["test", "incr", "n"]);
    assert!(ok(&["test", "ttl", "n"]).starts_with("59m "));
    ok(&["test", "put", "n", "7", "--json"]);
    assert_eq!(ok(&["test", "ttl", "n"]), "none\n");

    for words in [&["test", "expire", "nobody", "1s"][..], &["test", "persist", "nobody"], &["test", "ttl", "nobody"]] {
        let said = cli.run(words);
        assert_eq!((said.code, said.stderr.as_str()), (Some(1), "kvclient: there is no key \"nobody\"\n"), "{words:?}");
    }
    assert_eq!(cli.run(&["test", "expire", "n", "soon"]).code, Some(2));
}

#[test]
fn a_prefix_is_removed_whole_and_everything_only_when_it_is_said() {
    let (_broker, cli) = started();
    for key in ["tmp/a", "tmp/b", "tmp", "other"] {
        cli.ok(&["test", "put", key, "v"]);
    }
    let guarded = cli.run(&["test", "del", "--prefix", ""]);
    assert_eq!((guarded.code, guarded.stderr.contains("--all")), (Some(2), true), "{}", guarded.stderr);
    assert_eq!(cli.ok(&["test", "del", "--prefix", "tmp/"]).text(), "2\n");
    assert_eq!(cli.ok(&["test", "scan", "--keys-only"]).text(), "other\ntmp\n");
    let none = cli.ok(&["test", "del", "--prefix", "tmp/", "--json"]).json();
    assert_eq!(none, json!({"status": "ok", "rev": 5, "removed": 0}));
    assert_eq!(cli.ok(&["test", "remove", "--all", "--json"]).json(), json!({"status": "ok", "rev": 6, "removed": 2}));
    assert_eq!(cli.ok(&["test", "size"]).text(), "0\n");
}

#[test]
fn a_removal_ended_in_the_middle_says_how_far_it_is_and_can_go_on() {
    const ARRAYS: usize = 75;
    const EACH: usize = 4_000;
    let (broker, cli) = started();
    let client = broker.dealer();
    for array in 0..ARRAYS {
        let puts: Vec<_> = (0..EACH).map(|at| json!(["put", format!("k{array:03}/{at:04}"), 1])).collect();
        client.ask_pack(&json!([1, null, null, null, null, null, null, puts]));
    }
    let all = (ARRAYS * EACH) as u64;
    let size = || client.ask_json(&json!({"op": "size"}))["size"].as_u64().unwrap();
    assert_eq!(size(), all);

    let child = cli.spawn(&["test", "del", "--all", "--timeout", "0"]);
    // It asks for the second part after it has read the answer to the first.
    wait_until(PATIENCE, "two parts are gone", || (size() <= all - 20_000).then_some(()));
    broker.signal(Signal::STOP);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let said = finish(child);
    broker.signal(Signal::CONT);
    assert_eq!(said.code, Some(130), "it had ended before: {}{}", said.text(), said.stderr);
    let line = said.stderr.lines().find(|line| line.contains("keys were removed")).expect(&said.stderr);
    let told: u64 = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    let left = size();
    assert!(left > 0 && (10_000..=all - left).contains(&told), "{line}; {left} are left");

    let rest = cli.ok(&["test", "del", "--all", "--timeout", "60s"]);
    let rest: u64 = rest.text().trim().parse().unwrap();
    assert!(rest <= left && rest > 0, "{rest} of {left}");
    assert_eq!(size(), 0);
}
