//! The table of docs/messaging.md, run as it stands: each command does what its row and its column say.

#![allow(clippy::unwrap_used)]

use kvbroker_tests::{Broker, Cli, PATIENCE, finish, wait_until};

const DOCUMENT: &str = include_str!("../../docs/messaging.md");

/// The words of a command, without the program and the project.
fn words(command: &str) -> Vec<String> {
    let rest = command.strip_prefix("kvclient NETID-a5 ").unwrap_or_else(|| panic!("{command:?} is for the project of the page"));
    let plain = rest.split_whitespace().map(|word| word.trim_matches('\'').to_owned());
    std::iter::once("test".to_owned()).chain(plain).collect()
}

/// The command in each cell: rows persistent and transient, columns asynchronous and synchronous; of items, or of messages.
fn table(starts: [&str; 2]) -> [[Vec<String>; 2]; 2] {
    starts.map(|start| {
        let row = DOCUMENT.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no row {start}"));
        let mut cells = row.split(" | ").skip(1).map(|cell| words(cell.trim_matches([' ', '|', '`'])));
        [cells.next().unwrap(), cells.next().unwrap()]
    })
}

#[test]
fn every_cell_of_the_table_does_what_it_says() {
    let mut broker = Broker::plain();
    let cli = Cli::new(broker.home());
    for setting in ["queue declare live --transient", "bind jobs 'pictures.*'", "bind live 'frames.*'"] {
        let command = DOCUMENT.lines().find(|line| line.ends_with(setting)).unwrap();
        cli.ok(&words(command.trim_start_matches("$ ")));
    }
    for starts in [["| persistent", "| transient"], ["| a [message](#messages), persistent", "| a message, transient"]] {
        each_does_what_it_says(&mut broker, &cli, table(starts));
    }
}

fn each_does_what_it_says(broker: &mut Broker, cli: &Cli, [persistent, transient]: [[Vec<String>; 2]; 2]) {
    let items = |queue: &str| {
        let said = cli.ok(&["test", "queue", "stats", queue, "--json"]).json();
        (said["items"].as_u64().unwrap(), said["transient"].as_u64().unwrap())
    };

    // Nobody consumes, and the producer goes on. After a crash one item is there, and the other one is not.
    assert!(!cli.ok(&persistent[0]).stderr.contains("transient"));
    // Who pushes is told. Who publishes need not know what the queues are.
    let pushes = transient[0].iter().any(|word| word == "push");
    assert_eq!(cli.ok(&transient[0]).stderr.contains("transient"), pushes);
    assert_eq!((items("jobs"), items("live")), ((1, 0), (1, 1)));
    broker.kill9();
    broker.restart();
    assert_eq!((items("jobs"), items("live")), ((1, 0), (0, 1)));
    assert!(cli.ok(&["test", "queue", "list"]).text().contains("transient"));
    cli.ok(&["test", "queue", "purge", "jobs"]);

    // The producer waits, until there is a consumer.
    for ([_, command], queue) in [(&persistent, "jobs"), (&transient, "live")] {
        let producer = cli.spawn(command);
        wait_until(PATIENCE, "the producer waits", || (broker.stat("events_waiting") == 1).then_some(()));
        assert_eq!(cli.run(&["test", "queue", "pull", queue, "--wait", "0s", "--exec", "true"]).code, Some(0));
        let said = finish(producer);
        assert_eq!(said.code, Some(0), "{command:?}: {said:?}");
    }
    // A transaction spans both, and a crash leaves what is kept.
    cli.ok(&["test", "txn", r#"{"then":[{"op":"put","key":"k","value":1},{"op":"push","queue":"live","value":2}]}"#]);
    assert_eq!(items("live"), (1, 1));
    broker.kill9();
    broker.restart();
    assert_eq!(items("live"), (0, 1));
    assert_eq!(cli.ok(&["test", "get", "k"]).text(), "1\n");
    cli.ok(&["test", "del", "k"]);
}
