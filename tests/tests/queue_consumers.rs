//! Consumers with credit: leases that are kept alive, handlers at a time, draining, and whoever waits for an item; by the library and by the
//! command line.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, Delivery, Drain, Queue, Verdict};
use kvbroker::paths::Dirs;
use kvbroker_protocol::{Declaration, ErrorCode, ItemId, ItemState, Progress, Until};
use kvbroker_tests::{Broker, Cli, PATIENCE, finish, wait_until};
use rustix::process::{Pid, Signal, kill_process};

fn connect(broker: &Broker) -> Client {
    let options = ConnectOptions::new()
        .dirs(Dirs::under(broker.home().path()).unwrap())
        .catalogs(CatalogList::none())
        .timeout(Duration::from_secs(120));
    Client::connect_with("test", options).unwrap()
}

fn items<N: AsRef<[u8]>>(queue: &Queue<'_, N>, state: ItemState) -> Vec<(ItemId, u32)> {
    match queue.peek(state, 1_000) {
        Ok(items) => items.iter().map(|item| (item.item, item.deliveries)).collect(),
        // Nobody has pushed anything yet.
        Err(error) if error.code() == Some(ErrorCode::NotFound) => vec![],
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn no_more_handlers_run_than_there_is_credit_and_each_item_comes_once() {
    const ITEMS: usize = 300;
    const CREDIT: usize = 4;
    let broker = Broker::plain();
    let (client, watcher) = (connect(&broker), connect(&broker));
    let queue = client.queue("jobs");
    for item in 0..ITEMS {
        queue.push(&item).unwrap();
    }
    let (at_once, most, seen) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let consumer = queue.consumer().credit(CREDIT).items(ITEMS as u64);
    let served = consumer
        .run(|job: &Delivery<'_, usize>| {
            most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            assert!(items(&watcher.queue("jobs"), ItemState::Leased).len() <= CREDIT, "more is held than there is credit for");
            seen.fetch_add(job.value, Ordering::SeqCst);
            at_once.fetch_sub(1, Ordering::SeqCst);
        })
        .unwrap();
    assert_eq!((served.done, served.failed, served.lost, served.unused), (ITEMS as u64, 0, 0, 0));
    assert_eq!(seen.into_inner(), ITEMS * (ITEMS - 1) / 2);
    let most = most.into_inner();
    assert!((2..=CREDIT).contains(&most), "{most} handlers at once");
}

#[test]
fn a_lease_is_extended_while_its_handler_runs_and_its_end_is_told() {
    let mut broker = Broker::plain();
    let (client, watcher) = (connect(&broker), connect(&broker));
    let queue = client.queue("jobs");
    queue.push("long").unwrap();
    let lease = Duration::from_millis(900);
    let (to_stop, stop) = channel::<()>();
    let (told, hears) = channel();
    let stop = std::sync::Mutex::new(stop);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            queue.consumer().lease(lease).items(1).run(|job: &Delivery<'_, String>| {
                let due = || watcher.queue("jobs").peek(ItemState::Leased, 1).unwrap()[0].due_ms.unwrap();
                let first = due();
                // Three periods later it is still this delivery's.
                wait_until(PATIENCE, "extensions", || (due() >= first + 3 * 900).then_some(()));
                assert!(!job.is_lost() && job.deliveries == 1);
                told.send(()).unwrap();
                stop.lock().unwrap().recv().unwrap();
                wait_until(PATIENCE, "the warning", || job.is_ending().then_some(()));
                wait_until(PATIENCE, "the end of the lease", || job.is_lost().then_some(()));
                told.send(()).unwrap();
                stop.lock().unwrap().recv().unwrap();
            })
        });
        hears.recv().unwrap();
        // Nobody can extend it now; the consumer's own clock tells.
        broker.kill9();
        to_stop.send(()).unwrap();
        hears.recv().unwrap();
        // A start lets every lease run for a whole period: what is said in time still counts.
        broker.restart();
        to_stop.send(()).unwrap();
        let served = run.join().unwrap().unwrap();
        assert_eq!(served.done + served.lost, 1, "{served:?}");
    });
}

#[test]
fn draining_gives_back_what_was_not_begun_as_if_it_had_not_been_delivered() {
    let broker = Broker::plain();
    let (client, watcher) = (connect(&broker), connect(&broker));
    let (queue, seen) = (client.queue("jobs"), watcher.queue("jobs"));
    let ids: Vec<ItemId> = (0..5).map(|item| queue.push(&item).unwrap()).collect();
    let drain = Drain::new();
    let (begun, has_begun) = channel();
    let (go, may_go) = channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    std::thread::scope(|scope| {
        let consumer = queue.consumer().credit(4).handlers(1).drained_by(drain.clone());
        let run = scope.spawn(move || {
            consumer.run(move |job: &Delivery<'_, u32>| {
                begun.send(job.receipt.item).unwrap();
                may_go.lock().unwrap().recv().unwrap();
            })
        });
        assert_eq!(has_begun.recv().unwrap(), ids[0]);
        wait_until(PATIENCE, "the credit is used", || (items(&seen, ItemState::Leased).len() == 4).then_some(()));
        drain.begin();
        // At once, while the handler still runs.
        wait_until(PATIENCE, "the rest came back", || (items(&seen, ItemState::Ready).len() == 4).then_some(()));
        go.send(()).unwrap();
        let served = run.join().unwrap().unwrap();
        assert_eq!((served.done, served.unused, served.failed, served.lost), (1, 3, 0, 0));
    });
    let rest: Vec<(ItemId, u32)> = ids[1..].iter().map(|id| (*id, 0)).collect();
    assert_eq!(items(&seen, ItemState::Ready), rest, "in the old order, and never delivered");
}

#[test]
fn what_fails_rests_longer_each_time_and_a_handler_that_panics_has_failed() {
    let broker = Broker::plain();
    let client = connect(&broker);
    let queue = client.queue("jobs");
    let pauses = |value: &str| {
        let shown = queue.peek(ItemState::Delayed, 100).unwrap();
        let item = shown.into_iter().find(|item| item.value.as_text().as_deref() == Some(value)).unwrap();
        (item.due_ms.unwrap() - item.pushed_ms, item.deliveries, item.reason)
    };
    queue.push("bad").unwrap();
    let hour = Duration::from_secs(3_600);
    let one = |delivery: &Delivery<'_, String>| -> Result<(), String> { Err(format!("no {}", delivery.value)) };
    let served = queue.consumer().retry(hour, 8 * hour).items(1).run(one).unwrap();
    assert_eq!((served.done, served.failed), (0, 1));
    let (pause_ms, deliveries, reason) = pauses("bad");
    assert!((3_600_000..7_200_000).contains(&pause_ms), "{pause_ms}");
    assert_eq!((deliveries, reason.as_str()), (1, "no bad"));
    // The second delivery of another one: twice as long.
    queue.push("worse").unwrap();
    let said = queue.consumer().items(1).run(|_: &Delivery<'_, String>| Verdict::Later(Duration::ZERO, "soon".into())).unwrap();
    assert_eq!(said.failed, 1);
    queue.consumer().retry(hour, 8 * hour).items(1).run(one).unwrap();
    let (pause_ms, deliveries, _) = pauses("worse");
    assert!((7_200_000..10_800_000).contains(&pause_ms) && deliveries == 2, "{pause_ms} {deliveries}");

    // A value of another type fails, and does not end the consumer.
    queue.push(&7).unwrap();
    let served = queue.consumer().retry(hour, hour).items(1).run(|_: &Delivery<'_, String>| ()).unwrap();
    assert_eq!(served.failed, 1);
    queue.push("panic").unwrap();
    let run = || queue.consumer().retry(hour, hour).items(1).run(|_: &Delivery<'_, String>| -> () { panic!("of the test") });
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    let (_, deliveries, reason) = pauses("panic");
    assert_eq!((deliveries, reason.as_str()), (1, "its handler panicked"));
}

#[test]
fn whoever_waits_for_an_item_hears_of_every_end() {
    let broker = Broker::plain();
    let (client, other) = (connect(&broker), connect(&broker));
    let queue = client.queue("jobs");
    let waits = |until| {
        let item = queue.push("x").unwrap();
        let (other, before) = (other.clone(), broker.stat("events_waiting"));
        let waiter = std::thread::spawn(move || other.queue("jobs").track(item, until, PATIENCE).unwrap());
        wait_until(PATIENCE, "it waits", || (broker.stat("events_waiting") > before).then_some(()));
        (item, waiter)
    };
    let (_, waiter) = waits(Until::Delivered);
    let job = queue.pull::<String>(Duration::ZERO).unwrap().unwrap();
    let tracked = waiter.join().unwrap();
    assert_eq!((tracked.progress, tracked.deliveries), (Progress::Leased, 1));
    job.ack().unwrap();

    let (_, waiter) = waits(Until::Done);
    queue.pull::<String>(Duration::ZERO).unwrap().unwrap().ack().unwrap();
    assert_eq!(waiter.join().unwrap().progress, Progress::Done);
    let (item, waiter) = waits(Until::Done);
    queue.bury(item, None, "bad").unwrap();
    assert_eq!(waiter.join().unwrap().progress, Progress::Dead);
    let (_, waiter) = waits(Until::Delivered);
    queue.purge(Some(ItemState::Ready)).unwrap();
    assert_eq!(waiter.join().unwrap().progress, Progress::Removed);
    // Its deadline passes while somebody waits.
    let push = kvbroker_protocol::Push { ttl_ms: Some(50), ..queue.item(kvbroker_protocol::Stored::integer(1)) };
    let item = queue.push_as(push).unwrap();
    assert_eq!(queue.track(item, Until::Done, PATIENCE).unwrap().progress, Progress::Expired);
    // The time is up: that is no error.
    queue.declare(Declaration { paused: Some(true), ..Declaration::default() }).unwrap();
    let item = queue.push("y").unwrap();
    let tracked = queue.track(item, Until::Delivered, Duration::from_millis(20)).unwrap();
    assert!(tracked.progress == Progress::Ready && !Until::Delivered.is_reached(tracked));
}

fn words(line: &str) -> Vec<String> {
    ["test", "queue"].into_iter().map(str::to_owned).chain(line.split_whitespace().map(str::to_owned)).collect()
}

fn signal(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_job_runner_drains_when_it_is_told_to_end() {
    let broker = Broker::plain();
    let (cli, client) = (Cli::new(broker.home()), connect(&broker));
    let queue = client.queue("jobs");
    let place = tempfile::tempdir().unwrap();
    let script = place.path().join("job.sh");
    // Begins, and goes on when it may.
    let text = "cat > begun.$KVBROKER_ITEM; while ! [ -e go ]; do sleep 0.05; done; touch done.$KVBROKER_ITEM";
    std::fs::write(&script, format!("cd '{}' && {text}\n", place.path().display())).unwrap();
    let (first, second) = (queue.push("one").unwrap(), queue.push("two").unwrap());
    let run = |line: &str| cli.spawn(&words(&format!("{line} -- sh {}", script.display())));
    let is_there = |name: String| place.path().join(name).exists();

    let runner = run("notify jobs --credit 1 --lease 3s");
    wait_until(PATIENCE, "the first job has begun", || is_there(format!("begun.{first}")).then_some(()));
    signal(&runner, Signal::TERM);
    // It goes on: its lease, too.
    let due = || queue.peek(ItemState::Leased, 1).unwrap()[0].due_ms.unwrap();
    let told_at = due();
    wait_until(PATIENCE, "extensions", || (due() > told_at + 1_500).then_some(()));
    std::fs::write(place.path().join("go"), "").unwrap();
    let said = finish(runner);
    assert_eq!(said.code, Some(130), "{said:?}");
    assert!(is_there(format!("done.{first}")) && !is_there(format!("begun.{second}")));
    assert_eq!(items(&queue, ItemState::Ready), [(second, 0)]);
    assert_eq!(queue.info().unwrap().unwrap().number("items"), 1, "the first one was acknowledged");

    // A second signal ends the command; the item has failed then, and comes back.
    std::fs::remove_file(place.path().join("go")).unwrap();
    let runner = run("notify jobs --retry-delay 1h");
    wait_until(PATIENCE, "the second job has begun", || is_there(format!("begun.{second}")).then_some(()));
    signal(&runner, Signal::INT);
    // One that comes together with the first one is none, and a third one would leave no time to say anything.
    let mut sent = Instant::now();
    wait_until(PATIENCE, "the end after a second signal", || {
        if sent.elapsed() > Duration::from_secs(4) {
            sent = Instant::now();
            signal(&runner, Signal::INT);
        }
        (items(&queue, ItemState::Delayed) == [(second, 1)]).then_some(())
    });
    assert_eq!(finish(runner).code, Some(130));
    assert!(!is_there(format!("done.{second}")));
}

#[test]
fn a_job_runner_without_a_broker_does_not_say_that_nothing_happened() {
    let mut broker = Broker::plain();
    let (cli, client) = (Cli::new(broker.home()), connect(&broker));
    client.queue("jobs").push("one").unwrap();
    let place = tempfile::tempdir().unwrap();
    let script = place.path().join("job.sh");
    let text = "touch begun; while ! [ -e go ]; do sleep 0.05; done";
    std::fs::write(&script, format!("cd '{}' && {text}\n", place.path().display())).unwrap();
    let runner = cli.spawn(&words(&format!("pull jobs --timeout 1s --exec sh {}", script.display())));
    wait_until(PATIENCE, "the job has begun", || place.path().join("begun").exists().then_some(()));
    broker.kill9();
    std::fs::write(place.path().join("go"), "").unwrap();
    let said = finish(runner);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.stderr.contains("is run again") && !said.stderr.contains("nothing was"), "{said:?}");
}

#[test]
fn a_push_waits_as_far_as_it_is_told() {
    let broker = Broker::plain();
    let (cli, client) = (Cli::new(broker.home()), connect(&broker));
    let queue = client.queue("jobs");
    assert_eq!(cli.run(&words("push jobs a --wait submitted")).code, Some(0));
    let pushed = cli.spawn(&words("push jobs b --wait done --within 10m"));
    let other = cli.spawn(&words("push jobs c --wait delivered --within 10m"));
    wait_until(PATIENCE, "both wait", || (broker.stat("events_waiting") == 2).then_some(()));
    let said = cli.run(&words("pull jobs --wait 0s --exec true"));
    assert_eq!(said.code, Some(0), "{said:?}");
    for child in [pushed, other] {
        let said = finish(child);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.text().trim().parse::<ItemId>().is_ok(), "{said:?}");
    }
    assert_eq!(queue.info().unwrap().unwrap().number("items"), 0);
    // Nobody takes it.
    let late = cli.run(&words("push jobs d --wait delivered --within 20ms"));
    assert_eq!(late.code, Some(1), "{late:?}");
    assert!(late.stderr.contains("is ready after 20ms, and not delivered"), "{}", late.stderr);
    let id = late.text().trim().to_owned();
    assert_eq!(cli.run(&words(&format!("track jobs {id}"))).text(), "ready\n");
    queue.purge(None).unwrap();
    let gone = cli.run(&words(&format!("track jobs {id}")));
    assert_eq!((gone.code, gone.text().as_str()), (Some(1), "removed\n"), "{gone:?}");
    assert!(cli.run(&words("track jobs 99999")).code == Some(1));
}
