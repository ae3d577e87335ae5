//! Messages with real processes: the command line, and publishers beside a broker that is killed again and again.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use kvbroker::paths::Dirs;
use kvbroker_protocol::limits::PUBLISH_COPIES_TOLD_MAX;
use kvbroker_protocol::{ItemState, Operation, Predicate, Progress, Stored, Txn, Until};
use kvbroker_tests::{Broker, Cli, PATIENCE, finish, wait_until};
use serde_json::{Value, json};

fn connect(broker: &Broker) -> Client {
    let options = ConnectOptions::new()
        .dirs(Dirs::under(broker.home().path()).unwrap())
        .catalogs(CatalogList::none())
        .timeout(Duration::from_secs(120));
    Client::connect_with("test", options).unwrap()
}

#[test]
fn the_command_line_binds_publishes_and_tells() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());
    let run = |line: &str| {
        let words: Vec<String> = std::iter::once("test").chain(line.split_whitespace()).map(str::to_owned).collect();
        cli.run(&words)
    };
    let ok = |line: &str| {
        let said = run(line);
        assert_eq!(said.code, Some(0), "{line}: {said:?}");
        said.text()
    };
    let fails = |line: &str, code: i32| {
        let said = run(line);
        assert_eq!(said.code, Some(code), "{line}: {said:?}");
        said.stderr
    };
    assert_eq!(ok("bind mail orders.*"), "");
    ok("bind audit orders.# --where total>100");
    assert_eq!(ok("publish orders.new cat"), "1\n");
    let told = run("publish orders.new {\"total\":120} --json").json();
    assert_eq!((&told["routed"], told["copies"].as_array().unwrap().len()), (&json!(2), 2));
    assert_eq!(ok("publish weather.berlin 21"), "0\n");
    // Which copies are not kept over a restart is said.
    ok("queue declare live --transient");
    ok("bind live film.*");
    ok("bind kept film.*");
    assert_eq!(run("publish film.new 1 --json").json()["copies"].to_string(), r#"[["live","9",true],["kept","9.1"]]"#);
    let said = run("publish film.new cat");
    assert!(said.stderr.contains("copies in memory alone") && said.stderr.trim_end().ends_with(": live"), "{said:?}");
    ok("unbind live film.*");
    ok("unbind kept film.*");
    assert!(fails("publish weather.berlin 21 --must-route", 1).contains("no queue wants"));
    assert!(fails("publish orders.* 21", 2).contains("a subject has no"));
    assert!(fails("bind mail or*", 2).contains("tokens of their own"));
    assert!(fails("unbind mail other", 1).contains("not bound"));
    ok("publish weather.berlin 22 --retain");
    assert_eq!(ok("get retained/weather.berlin"), "22\n");
    assert_eq!(ok("bindings"), "audit\torders.#\ttotal>100\nmail\torders.*\n");
    let item = run("queue pull audit --json").json();
    assert_eq!((&item["subject"], &item["value"]), (&json!("orders.new"), &json!({"total": 120})));
    ok("queue declare mail --max-items 2");
    assert!(fails("publish orders.new dog", 7).contains("mail is full"));
    ok("unbind mail orders.*");
    assert_eq!(ok("publish orders.new dog"), "0\n");
    let stats = |broker: &Broker| ["bindings", "messages_published", "messages_unroutable"].map(|name| broker.stat(name));
    assert_eq!(stats(&broker), [1, 7, 3]);
    broker.kill9();
    broker.restart();
    assert_eq!(stats(&broker), [1, 7, 3]);
}

/// A message waits for its slowest copy, and says of each how it ended.
#[test]
fn a_publish_waits_for_every_copy() {
    let broker = Broker::plain();
    let (cli, client) = (Cli::new(broker.home()), connect(&broker));
    let words =
        |line: &str| -> Vec<String> { std::iter::once("test").chain(line.split_whitespace()).map(str::to_owned).collect() };
    let nobody = cli.run(&words("publish orders.new a --wait done --within 10m"));
    assert_eq!((nobody.code, nobody.text().as_str()), (Some(1), "0\n"), "{nobody:?}");
    assert!(nobody.stderr.contains("no queue wanted this message"), "{nobody:?}");
    assert_eq!(cli.run(&words("publish orders.new a --wait submitted")).code, Some(0));

    client.queue("mail").bind("orders.*").unwrap();
    client.queue("audit").bind("orders.#").unwrap();
    let done = |queue: &str| {
        let said = cli.run(&words(&format!("queue pull {queue} -n 1 --wait 10s --exec true")));
        assert_eq!(said.code, Some(0), "{said:?}");
    };
    let publisher = cli.spawn(&words("publish orders.new b --wait done --within 10m"));
    wait_until(PATIENCE, "both copies are waited for", || (broker.stat("events_waiting") == 2).then_some(()));
    done("mail");
    wait_until(PATIENCE, "the other one is waited for still", || (broker.stat("events_waiting") == 1).then_some(()));
    done("audit");
    let said = finish(publisher);
    assert_eq!(said.code, Some(0), "{said:?}");
    let text = said.text();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.remove(0), "2");
    lines.sort_unstable();
    assert!(lines[0].starts_with("audit\t") && lines[1].starts_with("mail\t"), "{lines:?}");
    assert!(lines.iter().all(|line| line.ends_with("\tdone")), "{lines:?}");

    // One is taken, and the other one is not: that is said of it alone.
    let late = cli.spawn(&words("publish orders.new \"c\" --wait delivered --within 2s --json"));
    let taken = client.queue("mail").pull::<String>(PATIENCE).unwrap().unwrap();
    let said = finish(late);
    assert_eq!(said.code, Some(1), "{said:?}");
    let text = said.text();
    let copies: Vec<Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: BTreeMap<&str, &str> =
        copies.iter().map(|copy| (copy["queue"].as_str().unwrap(), copy["progress"].as_str().unwrap())).collect();
    assert_eq!(seen, BTreeMap::from([("audit", "ready"), ("mail", "leased")]), "{text}");
    assert!(
        said.stderr.contains("of audit is ready after 2s, and not delivered") && !said.stderr.contains("of mail"),
        "{said:?}"
    );
    taken.ack().unwrap();
    client.queue("audit").purge(None).unwrap();

    // How it ended is said as well where it is not done.
    let published = client.publish("orders.new", "d").unwrap();
    client.queue("audit").purge(None).unwrap();
    done("mail");
    let copies = client.track_copies(&published, Until::Done, PATIENCE).unwrap();
    let ends: BTreeMap<&[u8], Progress> = copies.iter().map(|copy| (&copy.queue[..], copy.tracked.progress)).collect();
    assert_eq!(ends, BTreeMap::from([(&b"audit"[..], Progress::Removed), (b"mail", Progress::Done)]));
    assert_eq!(published.untold(), 0);
}

/// More copies than the answer tells of: the others are waited for by nobody, and that is said.
#[test]
fn copies_that_can_not_be_followed_are_not_taken_for_done() {
    let broker = Broker::plain();
    let (cli, client) = (Cli::new(broker.home()), connect(&broker));
    const MORE: usize = 3;
    for at in 0..PUBLISH_COPIES_TOLD_MAX + MORE {
        client.queue(format!("q{at:03}")).bind("all").unwrap();
    }
    let words = ["test", "publish", "all", "x", "--wait", "done", "--within", "10m"];
    let publisher = cli.spawn(&words);
    wait_until(PATIENCE, "a hundred copies are waited for", || {
        (broker.stat("events_waiting") == PUBLISH_COPIES_TOLD_MAX as u64).then_some(())
    });
    for at in 0..PUBLISH_COPIES_TOLD_MAX + MORE {
        client.queue(format!("q{at:03}")).pull::<String>(PATIENCE).unwrap().unwrap().ack().unwrap();
    }
    let said = finish(publisher);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert_eq!(said.text().lines().count(), 1 + PUBLISH_COPIES_TOLD_MAX);
    assert!(said.stderr.contains("3 more copies of this message"), "{said:?}");
}

const PUBLISHERS: u64 = 3;
const MESSAGES: u64 = 400;
const KILLS: u64 = 4;

/// Each message is in each queue that wants it exactly once, and counted with the change that it tells of, whatever is killed.
#[test]
fn messages_are_published_once_over_kills() {
    let mut broker = Broker::plain();
    let checker = connect(&broker);
    checker.queue("all").bind("n.#").unwrap();
    checker.queue("all").bind("*.*").unwrap();
    checker.queue("large").bind_where("n.*", Predicate::new("@value >= 600").unwrap()).unwrap();
    let total = PUBLISHERS * MESSAGES;
    std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let client = connect(&broker);
            scope.spawn(move || {
                for at in 0..MESSAGES {
                    let number = publisher * MESSAGES + at;
                    let value = Stored::integer(i128::from(number));
                    let message = Client::message_in_txn(Client::message(format!("n.{publisher}"), value));
                    let count = Operation::Incr { key: b"count".to_vec(), by: 1 };
                    client.txn(Txn { compares: vec![], then: vec![count, message], otherwise: vec![] }).unwrap();
                }
            });
        }
        for kill in 1..=KILLS {
            let enough = i128::from(kill * total / (KILLS + 1));
            wait_until(PATIENCE, "messages", || (checker.incr("count", 0).unwrap() >= enough).then_some(()));
            broker.kill9();
            broker.restart();
        }
    });
    assert_eq!(checker.incr("count", 0).unwrap(), i128::from(total));
    let numbers = |queue: &str| {
        let items = checker.queue(queue).peek(ItemState::Ready, usize::MAX).unwrap();
        let mut numbers: Vec<u64> = items
            .iter()
            .map(|item| {
                let mut text = Vec::new();
                item.value.write_json(&mut text);
                String::from_utf8(text).unwrap().parse().unwrap()
            })
            .collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers("all"), (0..total).collect::<Vec<u64>>());
    assert_eq!(numbers("large"), (600..total).collect::<Vec<u64>>());
    assert_eq!((broker.stat("messages_published"), broker.stat("messages_unroutable")), (total, 0));
}
