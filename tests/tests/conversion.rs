//! Conversion with real processes: the command line, the library, rules over a broker that is killed, converters that are killed.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use kvbroker::paths::Dirs;
use kvbroker_protocol::{ContentType, Declaration, ErrorCode, ItemState, Pull, Rule, Scan, Source, Steps, Stored};
use kvbroker_tests::{Broker, Cli, PATIENCE, Said, wait_until};
use rustix::process::{Pid, Signal, kill_process};

fn connect(broker: &Broker) -> Client {
    let options = ConnectOptions::new()
        .dirs(Dirs::under(broker.home().path()).unwrap())
        .catalogs(CatalogList::none())
        .timeout(Duration::from_secs(120));
    Client::connect_with("test", options).unwrap()
}

fn ok(cli: &Cli, words: &[&str]) -> String {
    cli.ok(&[&["test"], words].concat()).text()
}

fn fails(cli: &Cli, words: &[&str], code: i32) -> Said {
    let said = cli.run(&[&["test"], words].concat());
    assert_eq!(said.code, Some(code), "{words:?}: {said:?}");
    said
}

#[test]
fn the_command_line_converts() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());
    ok(&cli, &["put", "cars/1", "--json", r#"{"name":"Ford","price":{"net":100,"tax":19}}"#]);
    ok(&cli, &["put", "cars/2", "--json", r#"{"name":"Opel"}"#]);
    assert!(fails(&cli, &["get", "cars/1", "--as", "csv"], 2).stderr.contains("no_cell"));
    assert_eq!(ok(&cli, &["get", "cars/2", "--as", "csv"]), "name\nOpel\n");
    assert_eq!(ok(&cli, &["get", "cars/2", "--as", "json"]), "{\"name\":\"Opel\"}\n");
    fails(&cli, &["get", "nobody", "--as", "json"], 1);
    fails(&cli, &["get", "cars/1", "--consumer", "billing"], 2);
    fails(&cli, &["scan", "--keys-only", "--as", "json"], 2);

    let declare = ["convert", "declare", "bill", "--prefix", "cars/", "--consumer", "billing", "--as", "csv"];
    let steps = ["--pick", "name,price.net", "--rename", "price.net=amount", "--default", "unit=\"EUR\""];
    ok(&cli, &[&declare[..], &steps].concat());
    fails(&cli, &["convert", "declare", "none", "--prefix", "a"], 2);
    let value = r#"{"name":"Ford","price":{"net":100,"tax":19}}"#;
    assert_eq!(ok(&cli, &["convert", "test", "bill", "--json", value]), "name,amount,unit\nFord,100,EUR\n");
    assert!(fails(&cli, &["convert", "test", "bill", "Ford"], 2).stderr.contains("no_fields"));
    assert!(ok(&cli, &["convert", "list"]).contains("bill  prefix cars/  consumer billing, csv  4"));
    // Rules are as durable as all else.
    broker.kill9();
    broker.restart();
    let shown = cli.ok(&["test", "convert", "show", "bill"]).json();
    assert_eq!((&shown["consumer"], &shown["steps"]["pick"][1]), (&"billing".into(), &"price.net".into()));
    let lines = ok(&cli, &["scan", "cars/", "--consumer", "billing", "--snapshot"]);
    assert_eq!(lines, "cars/1\t\"name,amount,unit\\nFord,100,EUR\\n\"\ncars/2\t\"name,unit\\nOpel,EUR\\n\"\n");
    assert_eq!(ok(&cli, &["mget", "cars/2", "--as", "msgpack"]), "cars/2\t{\"$bytes\":\"gaRuYW1lpE9wZWw=\"}\n");
    assert_eq!(ok(&cli, &["query", "name", "Opel", "--as", "csv"]), "cars/2\t\"name\\nOpel\\n\"\n");
    ok(&cli, &["convert", "drop", "bill"]);
    fails(&cli, &["convert", "drop", "bill"], 1);
    fails(&cli, &["convert", "show", "bill"], 1);
    broker.kill9();
    broker.restart();
    assert_eq!(ok(&cli, &["convert", "list"]).lines().count(), 1);

    // Items say what they are.
    ok(&cli, &["queue", "push", "jobs", "a,b\n1,x\n", "--type", "text/csv"]);
    assert!(ok(&cli, &["queue", "peek", "jobs", "--as", "json"]).contains(r#""[{\"a\":1,\"b\":\"x\"}]""#));
    assert!(ok(&cli, &["queue", "poll", "jobs", "--as", "json"]).contains(r#""[{\"a\":1,\"b\":\"x\"}]""#));
    ok(&cli, &["queue", "push", "jobs", "--json", "[1]"]);
    let out = ok(&cli, &["queue", "pull", "jobs", "-n", "1", "--as", "json", "--exec", "cat"]);
    assert_eq!(out, "[1]\n");
}

#[test]
fn rules_for_subjects_hold_for_copies_of_messages_wherever_they_are() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());
    ok(&cli, &["bind", "mail", "orders.*"]);
    ok(&cli, &["bind", "audit", "#"]);
    ok(&cli, &["queue", "declare", "audit", "--max-deliveries", "1", "--dead-queue", "dead"]);
    let totals = ["convert", "declare", "totals", "--subject", "orders.#", "--consumer", "billing", "--as", "csv"];
    ok(&cli, &[&totals[..], &["--pick", "total"]].concat());
    ok(&cli, &["convert", "declare", "eu", "--subject", "orders.eu", "--consumer", "billing", "--pick", "total"]);
    assert!(fails(&cli, &["convert", "declare", "no", "--subject", "orders*", "--as", "csv"], 2).stderr.contains("tokens"));
    let publish = |subject: &str| ok(&cli, &["publish", subject, r#"{"total":120,"note":"x"}"#, "--json"]);
    publish("orders.new");
    publish("orders.eu");
    publish("jobs");
    broker.kill9();
    broker.restart();
    let pull = |queue: &str, consumer: &str| ok(&cli, &["queue", "poll", queue, "-n", "9", "--no-ack", "--consumer", consumer]);
    let values = |text: String| -> Vec<String> { text.lines().map(|line| line.split('\t').nth(1).unwrap().to_owned()).collect() };
    assert_eq!(values(pull("mail", "billing")), [r#""total\n120\n""#, r#"{"total":120}"#]);
    // In another queue as well; what no rule is for fails there, and is dead with the reason.
    assert_eq!(values(pull("audit", "billing")), [r#""total\n120\n""#, r#"{"total":120}"#]);
    let dead = ok(&cli, &["queue", "peek", "dead"]);
    assert!(dead.lines().count() == 1 && dead.contains("no_rule"), "{dead}");
    // Whom no rule is for is told what there is to do.
    let nobody = fails(&cli, &["queue", "poll", "mail", "--consumer", "nobody"], 2).stderr;
    assert!(nobody.contains("no rule says") && nobody.contains("convert list"), "{nobody}");
    for words in [["drop", "gone"], ["show", "gone"]] {
        let said = fails(&cli, &["convert", words[0], words[1]], 1).stderr;
        assert!(said.contains("there is no such rule") && said.contains("convert list") && !said.contains("`rules`"), "{said}");
    }
    assert!(fails(&cli, &["convert", "test", "gone", "x"], 1).stderr.contains("convert list"));
}

#[test]
fn the_library_converts_and_an_item_that_can_not_be_is_not_lost() {
    let broker = Broker::plain();
    let client = connect(&broker);
    let rule = Rule {
        name: b"bill".to_vec(),
        source: Source::Queue(b"orders".to_vec()),
        from: Some(ContentType::Json),
        to: Some(ContentType::Csv),
        consumer: Some("billing".into()),
        steps: Steps::new().pick("name").unwrap().pick("n").unwrap(),
        program: None,
    };
    client.convert().declare(rule.clone()).unwrap();
    assert_eq!(client.convert().show("bill").unwrap().as_ref(), Some(&rule));
    assert_eq!(client.convert().list("b").unwrap(), std::slice::from_ref(&rule));
    assert_eq!(client.convert().show("none").unwrap(), None);
    let orders = client.queue("orders");
    orders.declare(Declaration { max_deliveries: Some(2), dead: Some(b"dead".to_vec()), ..Declaration::default() }).unwrap();
    orders.push(&[1]).unwrap();
    orders.push(&r#"{"n":5,"name":"Ford","secret":1}"#).unwrap();
    let pull = |wait_ms| Pull { queue: b"orders".to_vec(), limit: 9, lease_ms: None, wait_ms, no_ack: true };
    let (items, _) = client.reading_for("billing").pull(pull(0)).unwrap();
    let texts: Vec<_> = items.iter().map(|item| (item.value.as_text(), item.content_type.clone())).collect();
    assert_eq!(texts, [(Some("name,n\nFord,5\n".to_owned()), Some("text/csv".to_owned()))]);
    let resting = orders.peek(ItemState::Delayed, 9).unwrap();
    assert_eq!((resting.len(), resting[0].deliveries), (1, 1));
    assert!(resting[0].reason.contains("no_fields"), "{resting:?}");
    // It comes back by itself, fails again, and is dead with the reason.
    let dead = wait_until(PATIENCE, "the dead item", || {
        client.reading_for("billing").pull(pull(500)).unwrap();
        client.queue("dead").peek(ItemState::Ready, 9).ok().filter(|dead| !dead.is_empty())
    });
    assert!(dead[0].reason.contains("delivered 2 times") && dead[0].reason.contains("no_fields"), "{dead:?}");
    assert_eq!(
        client.reading_as(ContentType::Json).peek("dead", ItemState::Ready, 9).unwrap()[0].value.as_text().unwrap(),
        "[1]"
    );
    let nobody = client.reading_for("nobody").pull(pull(0)).unwrap_err();
    assert_eq!(nobody.code(), Some(ErrorCode::NotConvertible));

    // Pages go on where a conversion has cut them short.
    for at in 0..300 {
        client.put(format!("k/{at:03}"), Stored::text(&"\u{1}".repeat(10_000)).unwrap()).unwrap();
    }
    let scan = Scan { prefix: b"k/".to_vec(), ..Scan::default() };
    let mut pages = client.reading_as(ContentType::Json).scan(scan.clone());
    let (mut rows, mut count) = (Vec::new(), 0);
    while let Some(page) = pages.next_page() {
        rows.extend(page.unwrap().rows.into_iter().map(|row| row.key));
        count += 1;
    }
    let plain: Vec<_> = client.scan_keys(scan).map(Result::unwrap).collect();
    assert_eq!((rows, count > 2), (plain, true), "{count} pages");
}

fn converter(cli: &Cli, rule: &str, command: &str) -> Child {
    cli.spawn(&["test", "convert", "run", rule, "--", "sh", "-c", command])
}

#[test]
fn programs_that_fail_or_take_too_long_lead_to_the_dead_letter_queue_with_the_reason() {
    let broker = Broker::plain();
    let (cli, client) = (Cli::new(broker.home()), connect(&broker));
    ok(&cli, &["queue", "declare", "in", "--max-deliveries", "1", "--dead-queue", "in.dead"]);
    ok(&cli, &["convert", "declare", "up", "--queue", "in", "--into", "out", "--as", "json", "--time-limit", "2s"]);
    for item in ["good", "bad", "slow", "wrong"] {
        ok(&cli, &["queue", "push", "in", item]);
    }
    let command = r#"read x; case $x in
        good) echo "{\"was\":\"$x\",\"item\":$KVBROKER_ITEM}";;
        bad) echo "no such thing" >&2; exit 3;;
        slow) sleep 60;;
        wrong) echo "{";;
    esac"#;
    let said = cli.run(&["test", "convert", "run", "up", "--wait", "0s", "--", "sh", "-c", command]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let out = client.queue("out").peek(ItemState::Ready, 9).unwrap();
    assert_eq!(out.len(), 1);
    let mut json = Vec::new();
    out[0].value.write_json(&mut json);
    assert!(String::from_utf8(json).unwrap().starts_with(r#"{"was":"good","item":"#));
    let dead = client.queue("in.dead").peek(ItemState::Ready, 9).unwrap();
    let reasons: BTreeMap<String, &str> = dead.iter().map(|item| (item.value.as_text().unwrap(), item.reason.as_str())).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons["bad"].contains("exit status: 3: no such thing"), "{reasons:?}");
    assert!(reasons["slow"].contains("longer than 2000 ms"), "{reasons:?}");
    assert!(reasons["wrong"].contains("not_json"), "{reasons:?}");
    assert_eq!(client.queue("in").info().unwrap().unwrap().number("items"), 0);
}

const ITEMS: usize = 40;
const CONVERTERS: usize = 3;
const KILLS: usize = 2;

/// Converters are killed while their programs are at work; each item has one result all the same.
#[test]
fn a_converter_that_is_killed_loses_nothing() {
    let broker = Broker::plain();
    let (cli, client) = (Cli::new(broker.home()), connect(&broker));
    ok(&cli, &["convert", "declare", "up", "--queue", "in", "--into", "out", "--time-limit", "6s"]);
    let (input, output) = (client.queue("in"), client.queue("out"));
    for at in 0..ITEMS {
        input.push(&format!("item-{at}")).unwrap();
    }
    // The first delivery of some items says whose it is and takes so long that its converter is killed meanwhile.
    let marks = broker.home().path().join("marks");
    std::fs::create_dir(&marks).unwrap();
    let command = format!(
        r#"read x
        case $x:$KVBROKER_ITEM_DELIVERIES in item-[12]:1) echo $PPID > {0}/$x.new; mv {0}/$x.new {0}/$x; sleep 6;; esac
        echo "$x:$KVBROKER_ITEM_DELIVERIES""#,
        marks.display()
    );
    let mut running: Vec<Child> = (0..CONVERTERS).map(|_| converter(&cli, "up", &command)).collect();
    for item in 1..=KILLS {
        let mark = marks.join(format!("item-{item}"));
        let pid: u32 =
            wait_until(PATIENCE, "the converter's number", || std::fs::read_to_string(&mark).ok()?.trim().parse().ok());
        let at = running.iter().position(|child| child.id() == pid).expect("it is one of ours");
        let mut child = running.swap_remove(at);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        running.push(converter(&cli, "up", &command));
    }
    wait_until(Duration::from_secs(120), "all results", || {
        (output.info().unwrap().map_or(0, |info| info.number("items")) >= ITEMS as u64).then_some(())
    });
    for mut child in running {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut results = BTreeMap::new();
    for item in output.peek(ItemState::Ready, 2 * ITEMS).unwrap() {
        let text = item.value.as_text().unwrap();
        let (name, deliveries) = text.trim().split_once(':').unwrap();
        assert_eq!(results.insert(name.to_owned(), deliveries.parse::<u32>().unwrap()), None, "{name} has two results");
    }
    assert_eq!(results.len(), ITEMS);
    assert!(results["item-1"] > 1 && results["item-2"] > 1, "those whose converters were killed came again: {results:?}");
    assert_eq!(input.info().unwrap().unwrap().number("items"), 0);
}

#[test]
fn ctrl_c_lets_a_program_come_to_its_end_and_a_second_one_gives_its_item_back() {
    let broker = Broker::plain();
    let (cli, client) = (Cli::new(broker.home()), connect(&broker));
    ok(&cli, &["queue", "declare", "in", "--max-deliveries", "1", "--dead-queue", "dead"]);
    ok(&cli, &["convert", "declare", "up", "--queue", "in", "--into", "out", "--time-limit", "60s"]);
    let input = client.queue("in");
    input.push("first").unwrap();
    let [begun, told, go] = ["begun", "told", "go"].map(|name| broker.home().path().join(name));
    let [touch_begun, touch_told, is_go] = [&begun, &told, &go].map(|path| path.display());
    let command =
        format!("trap 'touch {touch_told}; exit 1' TERM; touch {touch_begun}; while [ ! -e {is_go} ]; do sleep 0.02; done; cat");
    let signal = |child: &Child, signal| kill_process(Pid::from_child(child), signal).unwrap();

    // A second signal that comes too soon counts as the first one: it is sent until the program hears of it.
    let mut cut_off = converter(&cli, "up", &command);
    wait_until(PATIENCE, "the program", || begun.exists().then_some(()));
    wait_until(PATIENCE, "the second signal", || {
        signal(&cut_off, Signal::INT);
        told.exists().then_some(())
    });
    assert_eq!(cut_off.wait().unwrap().code(), Some(130));
    // It was delivered at most once for ever, and is there all the same.
    assert_eq!(input.info().unwrap().unwrap().number("ready"), 1);
    assert_eq!(client.queue("dead").info().unwrap().map_or(0, |info| info.number("items")), 0);

    std::fs::remove_file(&begun).unwrap();
    let mut drained = converter(&cli, "up", &command);
    wait_until(PATIENCE, "the program again", || begun.exists().then_some(()));
    signal(&drained, Signal::INT);
    std::fs::write(&go, "").unwrap();
    assert_eq!(drained.wait().unwrap().code(), Some(130));
    assert_eq!(client.queue("out").info().unwrap().unwrap().number("items"), 1);
    assert_eq!(input.info().unwrap().unwrap().number("items"), 0);
}

#[test]
fn a_result_without_room_is_no_failed_delivery() {
    let broker = Broker::plain();
    let (cli, client) = (Cli::new(broker.home()), connect(&broker));
    ok(&cli, &["queue", "declare", "in", "--max-deliveries", "1"]);
    ok(&cli, &["queue", "declare", "out", "--max-items", "1"]);
    ok(&cli, &["convert", "declare", "up", "--queue", "in", "--into", "out"]);
    let (input, output) = (client.queue("in"), client.queue("out"));
    output.push("it is full").unwrap();
    input.push("x").unwrap();
    let said = fails(&cli, &["convert", "run", "up", "-n", "1", "--", "cat"], 1);
    assert!(said.stderr.contains("could not be pushed yet"), "{said:?}");
    let waiting = input.info().unwrap().unwrap();
    assert_eq!((waiting.number("delayed"), waiting.number("dead")), (1, 0));
    output.purge(None).unwrap();
    ok(&cli, &["convert", "run", "up", "-n", "1", "--", "cat"]);
    assert_eq!(output.info().unwrap().unwrap().number("items"), 1);
}
