//! A snapshot of a million keys under constant writes is the table at one revision, as the log tells it.
//!
//! - Two clients read at the same time, one all rows forward, one the keys in reverse, each its own snapshot, while others put,
//!   replace and remove keys all over the table without a pause.
//! - Then the broker is killed, and the log is replayed by nothing but the log's own reader up to each snapshot's revision.
//! - The test fails if it was too easy: if no key was replaced, removed and added between a snapshot's revision and the page on
//!   which the key had to be, or missing.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvbroker_core::{Space, Stamp, State, Turn, decide, split_table_record};
use kvbroker_log::{BatchBuilder, Cause, DiskStorage, FileLog, GroupRef, Log, LogOptions, RecordRef, SyncMode};
use kvbroker_protocol::{
    Answer, Header, Key, Operation, Operations, Outcome, Row, Scan, Scope, Stored, decode_reply, encode_request, limits,
};
use kvbroker_tests::{Broker, BrokerOptions, Dice, RawClient, wait_until};

const KEYS: usize = 1_000_000;

/// A client in compact MessagePack.
struct Client {
    raw: RawClient,
    id: u64,
}

impl Client {
    fn new(router: &Path) -> Client {
        Client { raw: RawClient::dealer(router), id: 0 }
    }

    fn ask(&mut self, operations: &Operations) -> Vec<Outcome> {
        self.id += 1;
        let mut body = Vec::new();
        encode_request(&Header { id: Some(self.id), ..Header::default() }, operations, &mut body);
        let expects: Vec<_> = operations.as_slice().iter().map(Operation::expects).collect();
        decode_reply(&self.raw.ask(&body), &expects).unwrap().outcomes.as_slice().to_vec()
    }
}

/// Not in the order in which keys are put, so that they come to lie all over the table.
fn key(number: usize) -> Key {
    format!("{:07}", number.wrapping_mul(7_919) % (2 * KEYS)).into_bytes()
}

fn put(number: usize, text: &str) -> Operation {
    Operation::Put { key: key(number), value: Stored::text(text).unwrap(), condition: None, ttl_ms: None }
}

/// Puts all keys, one revision each, as a broker would have logged them: in seconds, where a broker that is asked takes a minute.
fn fill(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let storage = Arc::new(DiskStorage::open(directory).unwrap());
    let (mut log, _) = FileLog::open(storage, LogOptions::new(SyncMode::Always), &mut |_: GroupRef<'_>| Ok(())).unwrap();
    let (empty, mut batch, mut record_key) = (State::new(), BatchBuilder::new(), Vec::new());
    let stamp_ms = 1_700_000_000_000;
    batch.begin(stamp_ms);
    for number in 0..KEYS {
        let stamp = Stamp { revision: number as u64 + 1, time_ms: stamp_ms };
        batch.group(stamp.revision, Cause::Request, None);
        // No key comes twice, so each is decided as the first one.
        for change in decide(&empty, &Scope::all(), put(number, "first"), stamp, &mut Turn::one()).changes {
            record_key.clear();
            change.write_record_key(&mut record_key);
            batch.put(&record_key, &change.value.unwrap());
        }
        if batch.bytes() >= limits::BATCH_BYTES_MAX / 4 || number + 1 == KEYS {
            log.append(&mut batch).unwrap();
            batch.begin(stamp_ms);
        }
    }
    log.close(stamp_ms).unwrap();
}

/// Puts, replaces and removes keys all over the table until told to stop; gives the number of messages.
fn write_on(router: &Path, mut dice: Dice, stop: &AtomicBool) -> usize {
    let mut client = Client::new(router);
    let mut messages = 0;
    while !stop.load(Ordering::Relaxed) {
        let operation = |dice: &mut Dice| match dice.below(4) {
            0 => Operation::Del { key: key(dice.below(2 * KEYS)), return_old: false, condition: None },
            _ => put(dice.below(2 * KEYS), &format!("later {messages}")),
        };
        let operations = Operations::Many((0..50).map(|_| operation(&mut dice)).collect());
        // A key that is not there can't be removed, which is no fault here.
        client.ask(&operations);
        messages += 1;
    }
    messages
}

/// What was read of one snapshot.
struct ReadOut {
    revision: u64,
    rows: Vec<Row>,
    /// For each page the key at which it ends (none: at the end of the table), and the table's revision when it was made.
    pages: Vec<(Option<Key>, u64)>,
}

fn read_out(router: &Path, mut scan: Scan) -> ReadOut {
    let mut client = Client::new(router);
    let mut out = ReadOut { revision: 0, rows: Vec::new(), pages: Vec::new() };
    scan.snapshot = Some(0);
    loop {
        let outcome = client.ask(&Operations::One(Operation::Scan(scan.clone()))).remove(0);
        let (cursor, snapshot) = match outcome.result.unwrap() {
            Answer::Rows { rows, cursor, snapshot } => {
                out.rows.extend(rows);
                (cursor, snapshot)
            }
            Answer::Keys { keys, cursor, snapshot } => {
                out.rows.extend(keys.into_iter().map(|key| Row { key, value: Stored::integer(0), modified: 0 }));
                (cursor, snapshot)
            }
            other => panic!("{other:?}"),
        };
        assert!(out.pages.is_empty() || snapshot == Some(out.revision), "a page is of another snapshot");
        out.revision = snapshot.unwrap();
        out.pages.push((cursor.clone(), outcome.revision.unwrap()));
        if cursor.is_none() {
            return out;
        }
        scan.snapshot = snapshot;
        scan.cursor = cursor;
    }
}

type Table = BTreeMap<Key, (Stored, u64)>;

/// The table at each of these revisions, and what was changed afterwards: revision, key, and whether it is there then.
fn replay(directory: &Path, at: [u64; 2]) -> ([Table; 2], Vec<(u64, Key, bool)>) {
    let mut table = Table::new();
    let mut tables: [Option<Table>; 2] = [None, None];
    let mut later = Vec::new();
    let first = at[0].min(at[1]);
    let storage = Arc::new(DiskStorage::open(directory).unwrap());
    let opened = FileLog::open(storage, LogOptions::new(SyncMode::Always), &mut |group: GroupRef<'_>| {
        for (revision, copy) in at.iter().zip(&mut tables) {
            if group.revision > *revision && copy.is_none() {
                *copy = Some(table.clone());
            }
        }
        for record in group.records() {
            let (key, value) = match record {
                RecordRef::Put { key, value } => (key, Some(value)),
                RecordRef::Delete { key } => (key, None),
            };
            let Some(key) = key.strip_prefix(&[Space::Table as u8]) else { continue };
            if group.revision > first {
                later.push((group.revision, key.to_vec(), value.is_some()));
            }
            match value {
                Some(value) => {
                    let stored = Stored::from_bytes(split_table_record(value).unwrap().stored.to_vec()).unwrap();
                    table.insert(key.to_vec(), (stored, group.revision));
                }
                None => drop(table.remove(key)),
            }
        }
        Ok(())
    });
    drop(opened.unwrap());
    (tables.map(|copy| copy.expect("there were writes behind the snapshot")), later)
}

/// How many keys were replaced, removed and added after the snapshot's revision and before the page on which they had to be.
fn changed_before_they_were_read(out: &ReadOut, table: &Table, later: &[(u64, Key, bool)], reverse: bool) -> [usize; 3] {
    let mut changed = [0; 3];
    for (revision, key, is_there) in later.iter().filter(|(revision, ..)| *revision > out.revision) {
        let holds = |(end, _): &(Option<Key>, u64)| end.as_ref().is_none_or(|end| if reverse { key >= end } else { key <= end });
        let page = out.pages.iter().position(holds).unwrap();
        if *revision <= out.pages[page].1 {
            match (table.contains_key(key), is_there) {
                (true, true) => changed[0] += 1,
                (true, false) => changed[1] += 1,
                (false, true) => changed[2] += 1,
                (false, false) => {}
            }
        }
    }
    changed
}

#[test]
fn a_snapshot_of_a_million_keys_under_constant_writes_is_the_table_at_one_revision() {
    let started = Instant::now();
    // No checkpoint: the log itself is read afterwards, from its beginning.
    let options = BrokerOptions::default().args(["--checkpoint-after", "1TiB"]);
    fill(&options.home.path().join("data").join(&options.project));
    let mut broker = Broker::start(options);
    let router = broker.router_socket();
    assert_eq!(broker.stat("keys"), KEYS as u64);
    println!("filled and started after {:?}", started.elapsed());

    let stop = AtomicBool::new(false);
    let mut dice = Dice::of_this_run("snapshot_scan");
    let (rows, keys, messages) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (router, stop, dice) = (&router, &stop, Dice::new(dice.number()));
                scope.spawn(move || write_on(router, dice, stop))
            })
            .collect();
        let revision = KEYS as u64;
        wait_until(Duration::from_secs(30), "the writers write", || (broker.stat("revision") > revision + 1_000).then_some(()));
        let keys = scope.spawn(|| read_out(&router, Scan { reverse: true, keys_only: true, ..Scan::default() }));
        let rows = read_out(&router, Scan::default());
        let keys = keys.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        (rows, keys, writers.into_iter().map(|writer| writer.join().unwrap()).sum::<usize>())
    });
    println!("read {} and {} pages in {:?}, beside {messages} messages", rows.pages.len(), keys.pages.len(), started.elapsed());
    // What was kept for them is let go of, with nobody asking for it.
    // First pages of one turn share a revision, and so a snapshot.
    let open = if rows.revision == keys.revision { 1 } else { 2 };
    assert_eq!((broker.stat("snapshots"), broker.stat("snapshot_bytes") > 0), (open, true));
    let patience = Duration::from_millis(limits::SNAPSHOT_LINGER_MS) + Duration::from_secs(30);
    wait_until(patience, "the snapshots are gone", || {
        (broker.stat("snapshots") == 0 && broker.stat("snapshot_bytes") == 0).then_some(()).or_else(|| {
            std::thread::sleep(Duration::from_millis(50));
            None
        })
    });
    broker.kill9();

    let ([at_rows, at_keys], later) = replay(&broker.data_directory(), [rows.revision, keys.revision]);
    assert!(at_rows.len() > KEYS / 2 && at_keys.len() > KEYS / 2);
    let expected = at_rows.iter().map(|(key, (value, modified))| (key, value, *modified));
    for (row, expected) in rows.rows.iter().zip(expected) {
        assert_eq!((&row.key, &row.value, row.modified), expected);
    }
    assert_eq!(rows.rows.len(), at_rows.len());
    for (row, expected) in keys.rows.iter().zip(at_keys.keys().rev()) {
        assert_eq!(&row.key, expected);
    }
    assert_eq!(keys.rows.len(), at_keys.len());

    for (out, table, reverse) in [(&rows, &at_rows, false), (&keys, &at_keys, true)] {
        let changed = changed_before_they_were_read(out, table, &later, reverse);
        println!("replaced, removed and added before they were read: {changed:?}");
        assert!(changed.iter().all(|count| *count > 100), "too little was written: {changed:?}");
    }
    println!("all in {:?}", started.elapsed());
}
