//! Checkpoints of a broker at work: made beside the clients, killed in the middle, met by damage, outrun by a writer.
//!
//! - The clients are pipelines of the library: each mutation is done exactly once, so at the end every sum is exact and the table is
//!   what the clients' own models say, key by key.
//! - That a test was about checkpoints at all is asserted from `stats` and from the files: how many were made, that one was being
//!   made when the broker was killed, that segments were deleted, that writes were slowed.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, Pipeline, Ticket};
use kvbroker::paths::Dirs;
use kvbroker_protocol::{Answer, Operation, Scan, Stored, VersionKind};
use kvbroker_tests::{Broker, BrokerOptions, Dice, PATIENCE, wait_until};
use serde_json::json;

const CLIENTS: u64 = 4;
/// Keys of each client.
const KEYS: usize = 2_000;

fn connect(broker: &Broker) -> Client {
    let options = ConnectOptions::new()
        .dirs(Dirs::under(broker.home().path()).unwrap())
        .catalogs(CatalogList::none())
        .timeout(Duration::from_secs(120));
    Client::connect_with("test", options).unwrap()
}

fn options(args: &[&str]) -> BrokerOptions {
    BrokerOptions::default().args(["-v"]).args(args.iter().copied())
}

fn text_stat(broker: &Broker, name: &str) -> String {
    let reply = broker.dealer().ask_json(&json!({"op": "stats"}));
    reply["stats"][name].as_str().unwrap_or_else(|| panic!("no text {name} in {reply}")).to_owned()
}

/// Numbers of the segments in the data directory, ascending.
fn segments(broker: &Broker) -> Vec<u64> {
    let names = fs::read_dir(broker.data_directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut numbers: Vec<u64> = names.filter_map(|name| name.strip_prefix("table.txn.")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

fn segment_path(broker: &Broker, number: u64) -> PathBuf {
    broker.data_directory().join(format!("table.txn.{number:08}"))
}

/// True while a checkpoint is being made, as the files tell.
fn is_being_made(broker: &Broker) -> bool {
    broker.data_directory().join("table.ckpt.tmp").exists()
}

/// One client and what it believes the table to be.
struct Writer {
    pipeline: Pipeline,
    tickets: VecDeque<Ticket>,
    dice: Dice,
    own: u64,
    model: BTreeMap<Vec<u8>, String>,
    sum: i64,
}

impl Writer {
    fn new(client: &Client, own: u64) -> Writer {
        let pipeline = client.pipeline();
        Writer { pipeline, tickets: VecDeque::new(), dice: Dice::new(own), own, model: BTreeMap::new(), sum: 0 }
    }

    fn submit(&mut self, operation: Operation) {
        self.tickets.push_back(self.pipeline.submit(operation));
    }

    fn put(&mut self, key: usize, bytes: usize) {
        let key = format!("data/{}/{key:06}", self.own).into_bytes();
        let text = format!("{:020}", self.dice.number()).repeat(bytes.div_ceil(20));
        let value = Stored::text(&text).unwrap();
        self.model.insert(key.clone(), text);
        self.submit(Operation::Put { key, value, condition: None, ttl_ms: None });
    }

    /// One operation of a mix.
    fn step(&mut self) {
        let key = self.dice.below(KEYS);
        match self.dice.below(10) {
            0..7 => {
                let bytes = 100 + self.dice.below(600);
                self.put(key, bytes);
            }
            7 => {
                let key = format!("data/{}/{key:06}", self.own).into_bytes();
                self.model.remove(&key);
                self.submit(Operation::Del { key, return_old: false, condition: None });
            }
            _ => {
                self.sum += 1;
                self.submit(Operation::Incr { key: b"sum".to_vec(), by: 1 });
            }
        }
    }

    /// Reads answers until at most so many are outstanding. None may have failed, except for a key that was not there.
    fn settle(&mut self, most: usize, answers: &AtomicU64) {
        while self.tickets.len() > most {
            let Some(ticket) = self.tickets.pop_front() else { return };
            match ticket.wait() {
                Ok(_) => {}
                Err(error) if error.to_string().contains("no such key") => {}
                Err(error) => panic!("client {}: {error}", self.own),
            }
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Everything in the table, as texts.
fn table(client: &Client) -> BTreeMap<Vec<u8>, String> {
    let scan = Scan { prefix: b"data/".to_vec(), ..Scan::default() };
    client.scan(scan).map(|row| row.map(|row| (row.key, row.value.as_text().unwrap())).unwrap()).collect()
}

/// Runs clients until `drive` returns; gives the model of all of them, and the sum.
fn with_writers(broker: &mut Broker, drive: impl FnOnce(&mut Broker, &AtomicU64)) -> (BTreeMap<Vec<u8>, String>, i64) {
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let clients: Vec<Client> = (0..CLIENTS).map(|_| connect(broker)).collect();
    let mut writers: Vec<Writer> = std::thread::scope(|scope| {
        let workers: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(own, client)| {
                let (stop, answers) = (&stop, &answers);
                scope.spawn(move || {
                    let mut writer = Writer::new(client, own as u64);
                    (0..KEYS).for_each(|key| writer.put(key, 400));
                    while !stop.load(Ordering::Relaxed) {
                        writer.step();
                        writer.settle(1_000, answers);
                    }
                    writer.settle(0, answers);
                    writer
                })
            })
            .collect();
        // However `drive` ends: clients that go on for ever would hide why.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let guard = Stop(&stop);
        drive(broker, &answers);
        drop(guard);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let sum = writers.iter().map(|writer| writer.sum).sum();
    let mut model = BTreeMap::new();
    writers.iter_mut().for_each(|writer| model.append(&mut writer.model));
    (model, sum)
}

fn assert_is(broker: &Broker, model: &BTreeMap<Vec<u8>, String>, sum: i64) {
    let client = connect(broker);
    assert_eq!(client.incr("sum", 0).unwrap(), i128::from(sum), "each increment is there once");
    let found = table(&client);
    let wrong = model.iter().find(|(key, value)| found.get(*key) != Some(value));
    assert!(wrong.is_none(), "{wrong:?} is {:?}", wrong.map(|(key, _)| found.get(key)));
    assert_eq!(found.len(), model.len(), "nothing else is there");
}

#[test]
fn clients_do_not_notice_kills_between_and_within_checkpoints() {
    const MADE_MIN: u64 = 5;
    const KILLED_WITHIN_MIN: usize = 3;
    let mut dice = Dice::of_this_run("checkpoint");
    let args = ["--segment-size", "128KiB", "--checkpoint-after", "256KiB", "--history-size", "1MiB"];
    let mut broker = Broker::start(options(&args));
    let (mut made, mut within, mut kills, mut covered) = (0, 0, 0_u32, 0);
    let (model, sum) = with_writers(&mut broker, |broker, answers| {
        let deadline = Instant::now() + Duration::from_secs(120);
        while made < MADE_MIN || within < KILLED_WITHIN_MIN {
            assert!(Instant::now() < deadline, "{made} checkpoints, {within} of {kills} kills within one");
            let enough = answers.load(Ordering::Relaxed) + dice.below(3_000) as u64;
            wait_until(PATIENCE, "clients go on", || (answers.load(Ordering::Relaxed) > enough).then_some(()));
            made += broker.stat("checkpoints");
            if !kills.is_multiple_of(4) {
                wait_until(PATIENCE, "a checkpoint is begun", || is_being_made(broker).then_some(()));
                let moment = Instant::now() + Duration::from_micros(dice.below(30_000) as u64);
                while Instant::now() < moment && is_being_made(broker) {
                    std::hint::spin_loop();
                }
            }
            broker.kill9();
            kills += 1;
            // Nothing of the process runs on: what it had begun is still there.
            within += usize::from(is_being_made(broker));
            broker.restart();
            let revision = broker.stat("checkpoint_revision");
            assert!(revision >= covered, "a checkpoint is never taken back");
            covered = revision;
        }
    });
    made += broker.stat("checkpoints");
    println!("{made} checkpoints, {kills} kills, {within} of them within a checkpoint, {} keys, sum {sum}", model.len());
    assert!(covered > 0);
    assert_is(&broker, &model, sum);
    broker.stop();
    assert!(!is_being_made(&broker), "a stop drops what is being made");
    broker.restart();
    let ready = broker.stdout();
    assert!(ready.contains("read from the checkpoint at revision"), "{ready}");
    assert_is(&broker, &model, sum);
    broker.stop();
}

/// A table much smaller than the log that makes a checkpoint due is written down from memory, while clients change it.
#[test]
fn clients_do_not_notice_kills_while_a_small_table_is_written_down() {
    const MADE_MIN: usize = 5;
    let mut dice = Dice::of_this_run("small checkpoint");
    let args = ["--segment-size", "4MiB", "--checkpoint-after", "24MiB", "--history-size", "1MiB"];
    let mut broker = Broker::start(options(&args));
    let (mut made, mut kills, mut covered) = (0, 0_u32, 0);
    let (model, sum) = with_writers(&mut broker, |broker, answers| {
        let deadline = Instant::now() + Duration::from_secs(120);
        while made < MADE_MIN || kills < 4 {
            assert!(Instant::now() < deadline, "{made} checkpoints, {kills} kills");
            let begun = || broker.stderr().matches("a checkpoint is begun from_memory=true").count();
            wait_until(PATIENCE, "a checkpoint from memory is begun", || (begun() > 0).then_some(()));
            let before = begun();
            if kills.is_multiple_of(2) {
                wait_until(PATIENCE, "another one is begun", || (begun() > before).then_some(()));
            }
            made += broker.stat("checkpoints") as usize;
            let enough = answers.load(Ordering::Relaxed) + dice.below(3_000) as u64;
            wait_until(PATIENCE, "clients go on", || (answers.load(Ordering::Relaxed) > enough).then_some(()));
            broker.kill9();
            kills += 1;
            broker.restart();
            let revision = broker.stat("checkpoint_revision");
            assert!(revision >= covered, "a checkpoint is never taken back");
            covered = revision;
        }
    });
    assert!(covered > 0);
    assert_is(&broker, &model, sum);
    assert_eq!(text_stat(&broker, "checkpoint_damage"), "none");
    broker.stop();
    broker.restart();
    let ready = broker.stdout();
    assert!(ready.contains("read from the checkpoint at revision"), "{ready}");
    assert_is(&broker, &model, sum);
    broker.stop();
}

#[test]
fn history_is_kept_as_far_as_asked_and_deleted_behind_it() {
    const HISTORY_BYTES: u64 = 1 << 20;
    let args = ["--segment-size", "64KiB", "--checkpoint-after", "256KiB", "--history-size", "1MiB"];
    let mut broker = Broker::start(options(&args));
    let client = connect(&broker);
    let mut versions: Vec<(u64, String)> = Vec::new();
    let filler = "x".repeat(4_000);
    let write = |client: &Client, versions: &mut Vec<(u64, String)>, count: usize| {
        for _ in 0..count {
            let text = format!("version {}", versions.len());
            versions.push((client.put_text("key", &text).unwrap(), text));
            client.put_text(format!("filler/{}", versions.len() % 20), &filler).unwrap();
        }
    };
    let check = |broker: &Broker, versions: &[(u64, String)]| {
        let history = connect(broker).history("key", Some(1_000), None).unwrap();
        let found: Vec<(u64, String)> = history
            .versions
            .iter()
            .map(|version| match &version.kind {
                VersionKind::Put(value) => (version.revision, value.as_text().unwrap()),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected: Vec<_> = versions.iter().rev().filter(|(revision, _)| *revision >= history.oldest).cloned().collect();
        assert!(!history.more && found == expected, "from revision {} on: {found:?}\n{expected:?}", history.oldest);
        assert!(found.len() > 50, "{} versions are kept", found.len());
        history.oldest
    };
    write(&client, &mut versions, 100);
    assert_eq!((segments(&broker)[0], check(&broker, &versions)), (1, 1), "everything is there at first");
    write(&client, &mut versions, 600);
    let trimmed = || (segments(&broker)[0] > 1 && broker.stat("history_log_bytes") <= HISTORY_BYTES).then_some(());
    wait_until(PATIENCE, "the history is trimmed", trimmed);
    // What is in memory goes back further than the log, until a restart.
    assert!(check(&broker, &versions) < broker.stat("history_log_oldest"));
    assert!(broker.stat("history_log_segments") > 0, "some of it is kept beyond the checkpoint");
    let (first, last) = (segments(&broker)[0], segments(&broker).last().copied().unwrap());
    assert_eq!(segments(&broker).len() as u64, last - first + 1, "without a gap");

    broker.kill9();
    broker.restart();
    let oldest = check(&broker, &versions);
    assert!(oldest > 1 && oldest == broker.stat("history_log_oldest"), "{oldest}");
    write(&connect(&broker), &mut versions, 300);
    wait_until(PATIENCE, "more was deleted", || (segments(&broker)[0] > first).then_some(()));
    check(&broker, &versions);
    let log = broker.stderr();
    assert!(log.contains("a checkpoint is begun") && log.contains("a checkpoint is finished"), "{log}");
    broker.stop();
}

#[test]
fn history_that_is_old_is_deleted() {
    let args = ["--segment-size", "64KiB", "--checkpoint-after", "64KiB", "--history-age", "0s"];
    let mut broker = Broker::start(options(&args));
    let client = connect(&broker);
    for at in 0..100 {
        client.put_text(format!("key {}", at % 10), &"x".repeat(4_000)).unwrap();
    }
    let is_trimmed = || (broker.stat("checkpoints") > 0 && broker.stat("history_log_segments") == 0).then_some(());
    wait_until(PATIENCE, "no history is left", is_trimmed);
    assert!(segments(&broker)[0] > 1);
    assert_eq!(client.size().unwrap(), 10);
    broker.stop();
}

/// Changes bytes of a file in the middle, behind the broker's back.
fn damage(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut bytes = [0; 64];
    file.read_exact_at(&mut bytes, middle).unwrap();
    file.write_all_at(&bytes.map(|byte| byte ^ 0x55), middle).unwrap();
    file.sync_all().unwrap();
}

/// Writes until the broker has made a checkpoint from memory; it must serve all the while. Then kills it, and looks.
fn recovers_from_damage(broker: &mut Broker, damaged: &str, model: &mut BTreeMap<Vec<u8>, String>, client: &Client) {
    let made = broker.stat("checkpoints");
    let mut at = 0;
    let deadline = Instant::now() + PATIENCE;
    while text_stat(broker, "checkpoint_damage") == "none" || broker.stat("checkpoints") == made {
        assert!(Instant::now() < deadline, "no checkpoint was made after the damage:\n{}", broker.stderr());
        at += 1;
        let (key, text) = (format!("data/{}", at % 50), format!("{damaged} {at} ").repeat(200));
        client.put_text(&key, &text).unwrap();
        model.insert(key.into_bytes(), text);
    }
    assert!(text_stat(broker, "checkpoint_damage").contains(damaged), "{}", text_stat(broker, "checkpoint_damage"));
    assert!(broker.stat("checkpoint_failures") > 0);
    let log = broker.stderr();
    assert!(log.contains("ERROR") && log.contains(damaged) && log.contains("made from memory"), "{log}");
    assert_eq!(table(client), *model, "it serves");
    broker.kill9();
    broker.restart();
    assert_eq!(table(&connect(broker)), *model, "nothing depends on the damaged file");
}

#[test]
fn damage_of_a_segment_and_of_the_checkpoint_is_survived_from_memory() {
    let args = ["--segment-size", "64KiB", "--checkpoint-after", "512KiB"];
    let mut broker = Broker::start(options(&args));
    let client = connect(&broker);
    let mut model = BTreeMap::new();
    for at in 0..100 {
        let (key, text) = (format!("data/{at}"), "first ".repeat(500));
        client.put_text(&key, &text).unwrap();
        model.insert(key.into_bytes(), text);
    }
    assert!(segments(&broker).len() > 3 && broker.stat("checkpoint_revision") == 0, "sealed, and in no checkpoint");
    damage(&segment_path(&broker, 2));
    recovers_from_damage(&mut broker, "table.txn.00000002", &mut model, &client);

    assert!(broker.stat("checkpoint_revision") > 0);
    damage(&broker.data_directory().join("table.ckpt"));
    recovers_from_damage(&mut broker, "table.ckpt", &mut model, &client);
    broker.stop();
}

#[test]
fn a_stop_drops_what_is_being_made() {
    let mut broker = Broker::start(options(&["--segment-size", "256KiB", "--checkpoint-after", "1MiB"]));
    let (model, sum) = with_writers(&mut broker, |broker, answers| {
        let is_big = |count: u64| move || (answers.load(Ordering::Relaxed) > count).then_some(());
        wait_until(PATIENCE, "there is something to stop in", is_big(10_000));
        let mut stops = 0;
        loop {
            wait_until(PATIENCE, "a checkpoint is begun", || is_being_made(broker).then_some(()));
            broker.stop();
            stops += 1;
            let names = fs::read_dir(broker.data_directory()).unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("ckpt.tmp")).collect();
            assert!(left.is_empty(), "{left:?}");
            let log = broker.stderr();
            let was_dropped = log.matches("a checkpoint is begun").count() > log.matches("a checkpoint is finished").count();
            broker.restart();
            if was_dropped {
                break;
            }
            assert!(stops < 20, "each was finished before the stop came");
        }
    });
    assert_is(&broker, &model, sum);
    broker.stop();
}

/// A limit on file sizes stands for a disk that has room for the log and not for a checkpoint.
#[test]
fn a_checkpoint_that_there_is_no_room_for_is_tried_again_and_nothing_else_suffers() {
    // 512-byte blocks: 600 KiB.
    let limited = ["sh", "-c", "ulimit -f 1200; exec \"$@\"", "sh"];
    let args = ["--segment-size", "64KiB", "--checkpoint-after", "256KiB", "--history-size", "0"];
    let mut broker = Broker::start(options(&args).wrapper(limited));
    let client = connect(&broker);
    let mut model = BTreeMap::new();
    let text = "large ".repeat(1_000);
    // 1.2 MB of table; the log may be a megabyte ahead of the last checkpoint that had room.
    for at in 0..200 {
        let key = format!("data/{at}");
        client.put_text(&key, &text).unwrap();
        model.insert(key.into_bytes(), text.clone());
    }
    wait_until(PATIENCE, "it is tried again", || (broker.stat("checkpoint_failures") >= 2).then_some(()));
    let state = text_stat(&broker, "checkpoint_state");
    assert!(state.contains("table.ckpt.tmp") && state.starts_with("failed"), "{state}");
    let log = broker.stderr();
    assert_eq!(
        log.matches("no checkpoint could be made: can't").count() - log.matches("in_a_row").count(),
        1,
        "said once: {log}"
    );
    assert_eq!(text_stat(&broker, "checkpoint_damage"), "none");
    assert_eq!(table(&client), model);
    broker.kill9();
    broker.options().wrapper.clear();
    broker.restart();
    wait_until(PATIENCE, "it is made", || (broker.stat("checkpoints") > 0).then_some(()));
    assert_eq!(table(&connect(&broker)), model);
    broker.stop();
}

#[test]
fn a_writer_that_outruns_the_checkpoints_is_slowed_and_loses_nothing() {
    let args = ["--segment-size", "64KiB", "--checkpoint-after", "64KiB", "--history-age", "0s"];
    let mut broker = Broker::start(options(&args));
    let answers = AtomicU64::new(0);
    let client = connect(&broker);
    let mut writer = Writer::new(&client, 0);
    let mut reads = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while broker.stat("throttled") < 10 || broker.stat("checkpoints") < 3 {
        assert!(Instant::now() < deadline, "it is never slowed");
        // Much more than the log may be ahead, at once; of few keys, since a large table lets it be further ahead.
        for _ in 0..20 {
            let key = writer.dice.below(3);
            writer.put(key, 100_000);
            writer.sum += 1;
            writer.submit(Operation::Incr { key: b"sum".to_vec(), by: 1 });
        }
        let ticket = writer.pipeline.submit(Operation::Ping);
        assert!(matches!(ticket.wait().unwrap().0, Answer::Done));
        reads += 1;
        writer.settle(0, &answers);
    }
    println!(
        "{} mutations refused for now, {} checkpoints, {reads} rounds",
        broker.stat("throttled"),
        broker.stat("checkpoints")
    );
    assert_is(&broker, &writer.model, writer.sum);
    broker.kill9();
    broker.restart();
    assert_is(&broker, &writer.model, writer.sum);
    broker.stop();
}
