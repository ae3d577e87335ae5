//! Work queues with real processes: the command line, consumers that wait, and a broker that is killed again and again.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use kvbroker::paths::Dirs;
use kvbroker_protocol::{Condition, Declaration, ErrorCode, ItemState, Operation, Pull, Receipt, Stored, Txn};
use kvbroker_tests::{Broker, Cli, Dice, PATIENCE, RawClient, finish, wait_until};
use serde_json::{Value, json};

fn connect(broker: &Broker) -> Client {
    let options = ConnectOptions::new()
        .dirs(Dirs::under(broker.home().path()).unwrap())
        .catalogs(CatalogList::none())
        .timeout(Duration::from_secs(120));
    Client::connect_with("test", options).unwrap()
}

fn words(line: &str) -> Vec<String> {
    ["test", "queue"].into_iter().map(str::to_owned).chain(line.split_whitespace().map(str::to_owned)).collect()
}

#[test]
fn the_command_line_takes_an_item_through_its_life() {
    let broker = Broker::plain();
    let cli = Cli::new(broker.home());
    let ok = |line: &str| cli.ok(&words(line)).text();
    let fails = |line: &str, code: i32| {
        let said = cli.run(&words(line));
        assert_eq!(said.code, Some(code), "{line}: {said:?}");
        said.stderr
    };
    let receipt = |line: &str| ok(line).split_once('\t').unwrap().0.to_owned();

    assert!(fails("poll jobs", 1).contains("nothing is ready"));
    assert!(fails("stats jobs", 1).contains("no such queue"));
    let first = ok("push jobs cat.jpg");
    ok("push jobs dog.jpg --priority 5 --type text/plain");
    assert_eq!(ok("peek jobs").lines().count(), 2);
    // The higher priority first.
    let dog = receipt("poll jobs");
    let cat = ok("pull jobs --lease 1h");
    assert_eq!(cat.split_once(':').unwrap().0, first.trim());
    assert!(cat.ends_with("\t\"cat.jpg\"\n"), "{cat}");
    let cat = cat.split_once('\t').unwrap().0.to_owned();
    fails("poll jobs", 1);
    assert!(fails("drop jobs", 3).contains("2 items"));

    ok(&format!("ack jobs {dog}"));
    assert!(fails(&format!("ack jobs {dog}"), 3).contains("the delivery is over"));
    ok(&format!("extend jobs {cat} --lease 2h"));
    ok(&format!("nack jobs {cat} --reason disk"));
    assert!(ok("peek jobs").ends_with("\tready\t1\t\"cat.jpg\"\tdisk\n"));
    let again = receipt("poll jobs");
    assert_ne!(again, cat);
    fails(&format!("nack jobs {cat}"), 3);
    fails(&format!("bury jobs {}", again.split_once(':').unwrap().0), 3);
    ok(&format!("bury jobs {again} --reason broken"));
    assert!(ok("peek jobs --state dead").ends_with("\tdead\t2\t\"cat.jpg\"\tbroken\n"));
    assert_eq!(ok("kick jobs"), "1\n");

    ok("pause jobs");
    fails("poll jobs", 1);
    assert!(ok("list").contains("paused"));
    ok("resume jobs");
    ok("declare jobs --max-items 1");
    assert!(fails("push jobs third", 7).contains("1 items at most"));
    ok("declare jobs --overflow drop-oldest");
    ok("push jobs third");
    let info = cli.ok(&words("stats jobs --json")).json();
    let figures = ["items", "ready", "leased", "dead", "max_items"].map(|name| info[name].as_u64().unwrap());
    assert_eq!((figures, &info["overflow"]), ([1, 1, 0, 0, 1], &json!("drop-oldest")));
    assert_eq!(ok("purge jobs"), "1\n");
    ok("drop jobs");
    fails("drop jobs", 1);
    assert_eq!(ok("list").lines().count(), 1);

    // A slip of the pen makes no queue.
    for line in ["pause jobz", "resume jobz"] {
        assert!(fails(line, 1).contains("no such queue"));
    }
    assert!(fails("poll jobs -n 0", 2).contains("1 to 1000"));
    fails("pull jobs --retry-delay 1s", 2);
    fails("push jobs x --ttl 1s --delay 1s", 2);
    assert_eq!(ok("list").lines().count(), 1);
}

#[test]
fn whoever_gets_what_was_dead_elsewhere_hears_why_and_it_does_not_go_round() {
    let broker = Broker::plain();
    let cli = Cli::new(broker.home());
    let ok = |line: &str| cli.ok(&words(line)).text();
    ok("declare jobs --dead-queue morgue --max-deliveries 2");
    let said = cli.run(&words("declare morgue --dead-queue jobs"));
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.stderr.contains("for ever"), "{said:?}");
    let item = ok("push jobs cat.jpg");
    let item = item.trim();
    let run = |queue: &str, script: &str| {
        let said = cli.run(&["test", "queue", "pull", queue, "--wait", "0s", "-n", "1", "--exec", "sh", "-c", script]);
        (said.code, said.text())
    };
    let tell = r#"echo "${KVBROKER_ITEM_REASON-none}"; exit 7"#;
    assert_eq!(run("jobs", tell).1, "none\n");
    wait_until(PATIENCE, "it has rested", || (cli.ok(&words("stats jobs --json")).json()["ready"] == 1).then_some(()));
    assert_eq!(run("jobs", tell).1, "exit status: 7\n");
    assert_eq!(
        run("morgue", r#"echo "$KVBROKER_ITEM_REASON""#).1,
        format!("from jobs, item {item}: delivered 2 times; the last time: exit status: 7\n")
    );
    let totals = |queue: &str| {
        let info = cli.ok(&words(&format!("stats {queue} --json"))).json();
        ["pushed", "delivered", "done", "died"].map(|name| info[format!("total_{name}")].as_u64().unwrap())
    };
    assert_eq!(totals("jobs"), [1, 2, 0, 1]);
    assert_eq!(totals("morgue"), [1, 1, 1, 0]);
}

/// What pulls have got.
fn values(reply: &Value) -> Vec<&Value> {
    reply["items"].as_array().unwrap_or_else(|| panic!("{reply}")).iter().map(|item| &item[2]).collect()
}

#[test]
fn who_waits_is_served_in_the_order_of_arrival() {
    let broker = Broker::plain();
    let asker = broker.dealer();
    let waiting = |count: u64| wait_until(PATIENCE, "waiting pulls", || (broker.stat("events_waiting") == count).then_some(()));
    let pull = |wait: u64| json!({"op": "pull", "queue": "jobs", "wait": wait, "id": 7}).to_string();
    let waits: Vec<RawClient> = (1..=3)
        .map(|count| {
            let client = broker.dealer();
            client.send(&[pull(50_000)]);
            waiting(count);
            client
        })
        .collect();
    let read = |client: &RawClient| -> Value { serde_json::from_slice(&client.receive()).unwrap() };
    for (at, client) in waits.iter().enumerate() {
        asker.ask_json(&json!({"op": "push", "queue": "jobs", "value": at}));
        assert_eq!(values(&read(client)), [&json!(at)]);
        waiting(2 - at as u64);
        let told = asker.ask_json(&json!({"op": "queues", "queue": "jobs"}));
        assert_eq!(told["queues"][0]["waiting"], json!(2 - at), "{told}");
    }
    // A pull that comes again under its id takes the place of the one that waits, and one item is handed out.
    let [first, second, third] = &waits[..] else { panic!() };
    first.send(&[pull(50_000)]);
    waiting(1);
    second.send(&[pull(50_000)]);
    waiting(2);
    first.send(&[pull(50_000)]);
    assert_eq!(first.ask_json(&json!({"op": "ping"}))["status"], "ok");
    waiting(2);
    asker.ask_json(
        &json!({"ops": [{"op": "push", "queue": "jobs", "value": "a"}, {"op": "push", "queue": "jobs", "value": "b"}]}),
    );
    assert_eq!(values(&read(second)), [&json!("a")]);
    assert_eq!(values(&read(first)), [&json!("b")]);
    // What comes back is told to who waits: by nack, by a delay that is over, by a lease that has ended.
    third.send(&[pull(50_000)]);
    waiting(1);
    asker.ask_json(&json!({"op": "push", "queue": "jobs", "value": "c", "delay": 50}));
    assert_eq!(values(&read(third)), [&json!("c")]);
    let taken = asker.ask_json(&json!({"op": "pull", "queue": "jobs", "lease": 100}));
    assert_eq!(values(&taken), Vec::<&Value>::new());
    asker.ask_json(&json!({"op": "push", "queue": "jobs", "value": "d"}));
    let taken = asker.ask_json(&json!({"op": "pull", "queue": "jobs", "lease": 100}));
    assert_eq!(values(&taken), [&json!("d")]);
    third.send(&[pull(50_000)]);
    let again = read(third);
    assert_eq!((values(&again), &again["items"][0][3]), (vec![&json!("d")], &json!(2)));
    let old = json!({"op": "ack", "queue": "jobs", "item": taken["items"][0][0], "token": taken["items"][0][1]});
    assert_eq!(asker.ask_json(&old)["error"]["code"], "lease_lost");
    // The time is up.
    let nothing = asker.ask_json(&json!({"op": "pull", "queue": "jobs", "wait": 20}));
    assert_eq!((values(&nothing), &nothing["status"]), (vec![], &json!("ok")));
}

const PRODUCERS: u64 = 4;
const CONSUMERS: u64 = 4;
const KILLS: u64 = 6;
const ITEMS_PER_PRODUCER: u64 = 1_500;

/// Pushes are done once, and each item's effect is there exactly once, whatever is killed: the broker, or a consumer with an item.
#[test]
fn items_are_done_exactly_once_over_kills() {
    let mut broker = Broker::plain();
    let checker = connect(&broker);
    let jobs = checker.queue("jobs");
    jobs.declare(Declaration { lease_ms: Some(400), max_deliveries: Some(0), ..Declaration::default() }).unwrap();
    let (done, lost, again) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let all_done = AtomicBool::new(false);
    let total = PRODUCERS * ITEMS_PER_PRODUCER;
    std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let client = connect(&broker);
            scope.spawn(move || {
                let mut pipeline = client.pipeline();
                let queue = client.queue("jobs");
                let tickets: Vec<_> = (0..ITEMS_PER_PRODUCER)
                    .map(|at| {
                        let push = queue.item(Stored::integer(i128::from(producer * ITEMS_PER_PRODUCER + at)));
                        pipeline.submit(Operation::Queue(Box::new(kvbroker_protocol::QueueOperation::Push(push))))
                    })
                    .collect();
                tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
            });
        }
        for consumer in 0..CONSUMERS {
            let client = connect(&broker);
            let (done, lost, again, all_done) = (&done, &lost, &again, &all_done);
            scope.spawn(move || {
                let (queue, mut dice) = (client.queue("jobs"), Dice::new(consumer + 1));
                while !all_done.load(Ordering::Relaxed) {
                    let Some(job) = queue.pull::<u64>(Duration::from_millis(200)).unwrap() else { continue };
                    again.fetch_add(u64::from(job.deliveries > 1), Ordering::Relaxed);
                    if dice.below(50) == 0 {
                        // A consumer that dies with an item in its hands.
                        continue;
                    }
                    let value = i64::try_from(job.value).unwrap();
                    let key = format!("done/{value}").into_bytes();
                    let once =
                        Operation::Put { key, value: Stored::integer(1), condition: Some(Condition::Absent), ttl_ms: None };
                    let sum = Operation::Incr { key: b"sum".to_vec(), by: value };
                    let txn = Txn { compares: vec![], then: vec![job.ack_in_txn(), once, sum], otherwise: vec![] };
                    match client.txn(txn) {
                        Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                        Err(error) if error.code() == Some(ErrorCode::LeaseLost) => lost.fetch_add(1, Ordering::Relaxed),
                        Err(error) => panic!("item {value}: {error}"),
                    };
                }
            });
        }
        for kill in 1..=KILLS {
            let enough = kill * total / (KILLS + 1);
            wait_until(PATIENCE, "work", || (done.load(Ordering::Relaxed) >= enough).then_some(()));
            broker.kill9();
            broker.restart();
        }
        wait_until(PATIENCE, "the end of the work", || (done.load(Ordering::Relaxed) >= total).then_some(()));
        all_done.store(true, Ordering::Relaxed);
    });
    assert_eq!(checker.incr("sum", 0).unwrap(), i128::from(total * (total - 1) / 2));
    assert_eq!(
        checker.scan_keys(kvbroker_protocol::Scan { prefix: b"done/".to_vec(), ..Default::default() }).count() as u64,
        total
    );
    let info = jobs.info().unwrap().unwrap();
    assert_eq!(info.number("items"), 0, "{info:?}");
    assert!(again.into_inner() > total / 200, "hardly anything was delivered again");
    assert_eq!(jobs.peek(ItemState::Dead, 10).unwrap(), []);
    println!("{total} items, {} deliveries were over before they were acknowledged", lost.into_inner());
}

#[test]
fn what_came_together_is_acknowledged_together_and_what_was_over_is_told() {
    let broker = Broker::plain();
    let client = connect(&broker);
    let jobs = client.queue("jobs");
    for number in 0..5 {
        jobs.push(&number).unwrap();
    }
    let pull = Pull { queue: b"jobs".to_vec(), limit: 5, lease_ms: None, wait_ms: 0, no_ack: false };
    let (items, _) = jobs.pull_as(pull).unwrap();
    let receipts: Vec<Receipt> = items.iter().map(|item| item.receipt).collect();
    assert_eq!(receipts.len(), 5);
    assert_eq!(jobs.ack_all(&receipts[..2]).unwrap(), []);
    jobs.nack(receipts[3], None, "").unwrap();
    // One of them is over: the others are done all the same.
    assert_eq!(jobs.ack_all(&receipts[2..]).unwrap(), [receipts[3]]);
    let info = jobs.info().unwrap().unwrap();
    assert_eq!(["ready", "leased"].map(|name| info.number(name)), [1, 0]);
}

#[test]
fn what_is_done_and_what_comes_next_are_asked_for_together() {
    let broker = Broker::plain();
    let client = connect(&broker);
    let jobs = client.queue("jobs");
    let total = 200_u64;
    for number in 0..total {
        jobs.push(&number).unwrap();
    }
    let syncs = || client.stats().unwrap().into_iter().find(|(name, _)| name == "log_syncs").unwrap().1;
    let before = syncs();
    let mut job = jobs.pull::<u64>(Duration::ZERO).unwrap();
    let mut came = Vec::new();
    while let Some(at_hand) = job {
        came.push(at_hand.value);
        if at_hand.value == 7 {
            // The delivery is over before it is acknowledged: that is told, and the next item comes all the same.
            jobs.nack(at_hand.receipt, None, "").unwrap();
            let next = at_hand.ack_and_pull(Duration::ZERO).unwrap();
            assert_eq!(next.acked.unwrap_err().code(), Some(ErrorCode::LeaseLost));
            job = next.pulled.unwrap();
            assert_eq!(job.as_ref().map(|job| (job.value, job.deliveries)), Some((7, 2)));
            let again = job.unwrap().ack_and_pull(Duration::ZERO).unwrap();
            assert!(again.acked.is_ok());
            job = again.pulled.unwrap();
            continue;
        }
        let next = at_hand.ack_and_pull(Duration::ZERO).unwrap();
        assert!(next.acked.is_ok());
        job = next.pulled.unwrap();
    }
    println!("{total} items were done one at a time: {before:?} syncs before, {:?} now", syncs());
    assert_eq!(came, (0..total).collect::<Vec<_>>());
    let last = jobs.info().unwrap().unwrap();
    assert_eq!(["items", "leased"].map(|name| last.number(name)), [0, 0]);

    // One that waits gets what comes meanwhile.
    jobs.push(&1_u64).unwrap();
    let first = jobs.pull::<u64>(Duration::ZERO).unwrap().unwrap();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| first.ack_and_pull(PATIENCE));
        wait_until(PATIENCE, "the first item is done", || (jobs.info().unwrap()?.number("items") == 0).then_some(()));
        jobs.push(&2_u64).unwrap();
        let next = next.join().unwrap().unwrap();
        assert!(next.acked.is_ok());
        assert_eq!(next.pulled.unwrap().map(|job| job.value), Some(2));
    });
}

#[test]
fn a_wait_that_is_cut_off_says_that_the_item_is_pushed() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());
    cli.ok(&["test", "bind", "jobs", "orders.#"]);
    for what in [["queue", "push", "jobs"].as_slice(), &["publish", "orders.new"]] {
        let command = [&["test"], what, &["x", "--wait", "done", "--within", "5s", "--timeout", "1s"]].concat();
        let producer = cli.spawn(&command);
        wait_until(PATIENCE, "the producer waits", || (broker.stat("events_waiting") == 1).then_some(()));
        broker.kill9();
        let said = finish(producer);
        // "Nothing was changed" would have it pushed once more.
        assert_eq!(said.code, Some(4), "{said:?}");
        assert!(said.stderr.contains("how far") && said.stderr.contains("queue track jobs "), "{said:?}");
        assert!(!said.stderr.contains("nothing was changed"), "{said:?}");
        broker.restart();
    }
    assert_eq!(cli.ok(&["test", "queue", "stats", "jobs", "--json"]).json()["ready"], 2);
}
