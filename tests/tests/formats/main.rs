//! Data directories of released formats, kept under `tests/data/format-N`: every later build opens them, has the same table, answers
//! repeated requests of their sessions as before, goes on writing, and starts again.
//!
//! - Each was written by the programs of its time, see `tests/data/README.md`; `expected.json` beside the files is what the broker
//!   that wrote them said about itself just before its end.
//! - They are opened as copies; what is in the repository stays as it is.
//!
//! Caveat: `make_the_directories` makes new ones, and runs only when asked.

#![allow(clippy::unwrap_used)]

mod life;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use kvbroker_log::{
    CheckpointPolicy, CheckpointRecord, Checkpointer, DiskStorage, FileLog, GroupRef, Log, LogOptions, MergeState, OsEntropy,
    Replay, Storage, SyncMode, VisitError,
};
use kvbroker_tests::{Broker, BrokerOptions, Home, PATIENCE, RawClient, program, wait_until};
use life::{Exchange, new_session, ok};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Where `make_the_directories` puts what it makes.
const MAKE_VARIABLE: &str = "KVBROKER_FORMAT_DIRECTORY";
const PROJECT: &str = "kept";
/// A key whose deadline came after the directory was made.
const BRIEF: &str = "deadline/brief";
const EXPECTED: &str = "expected.json";
/// Files are kept without the room of zeros behind the log, but to whole pages.
const PAGE_BYTES: usize = 4096;

/// What a broker says about itself, without what changes by asking.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Expected {
    uuid: String,
    rev: u64,
    /// Key (as JSON text) to value, and the revision of its last change.
    rows: BTreeMap<String, (Value, u64)>,
    /// Key to deadline.
    deadlines: BTreeMap<String, Value>,
    /// Requests of sessions, and what they are answered when they are sent again.
    exchanges: Vec<Exchange>,
    /// Key to versions, newest first.
    histories: BTreeMap<String, Value>,
}

impl Expected {
    fn of(client: &RawClient, exchanges: Vec<Exchange>) -> Expected {
        let page = ok(client, &json!({"op": "scan", "limit": 10_000}));
        let hello = ok(client, &json!({"op": "hello"}));
        let mut expected = Expected {
            uuid: hello["broker"].as_str().unwrap().to_owned(),
            rev: page["rev"].as_u64().unwrap(),
            rows: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            exchanges: exchanges.into_iter().map(|(request, _)| (request.clone(), client.ask_json(&request))).collect(),
            histories: BTreeMap::new(),
        };
        for row in page["rows"].as_array().unwrap() {
            let key = row[0].to_string();
            if row[0] != BRIEF {
                let ttl = ok(client, &json!({"op": "ttl", "key": row[0]}));
                expected.deadlines.insert(key.clone(), ttl["expires"].clone());
                expected.rows.insert(key, (row[1].clone(), row[2].as_u64().unwrap()));
            }
        }
        for key in ["replaced", "removed", "removed-and-back", "counter", "deadline/came", "map", "spelled"] {
            let history = ok(client, &json!({"op": "history", "key": key}));
            expected.histories.insert(key.to_owned(), history["versions"].clone());
        }
        expected
    }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

fn start(home: &Home) -> BrokerOptions {
    BrokerOptions { project: PROJECT.to_owned(), home: home.clone(), ..BrokerOptions::default() }
}

/// All kept directories, such as `format-1/clean`.
fn kept() -> Vec<PathBuf> {
    let mut kept = Vec::new();
    for format in fs::read_dir(data()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        kept.extend(fs::read_dir(format).unwrap().map(|entry| entry.unwrap().path()));
    }
    kept.sort();
    kept
}

#[test]
fn every_released_format_is_opened_and_goes_on() {
    let kept = kept();
    let names: Vec<String> = kept.iter().map(|path| path.strip_prefix(data()).unwrap().to_string_lossy().into_owned()).collect();
    let needed = [
        "format-1/clean",
        "format-1/killed",
        "format-1/weaker-sync",
        "format-2/checkpoint",
        "format-2/clean",
        "format-2/killed",
        "format-2/weaker-sync",
    ];
    for needed in needed {
        assert!(names.iter().any(|name| name == needed), "there is no {needed} in {names:?}");
    }
    for (directory, name) in kept.iter().zip(&names) {
        println!("{name}");
        goes_on(directory);
    }
}

/// The offline check of this build finds nothing wrong with it, and changes nothing.
fn check(home: &Home, directory: &Path) {
    let files = || -> BTreeMap<PathBuf, Vec<u8>> {
        let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    };
    let before = files();
    let mut command = Command::new(program("kvbroker"));
    command.args([PROJECT, "check", "--data"]).arg(directory).env("KVBROKER_HOME", home.path()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("revision"), "{}: {said}{errors}", output.status);
    assert_eq!(files(), before);
}

fn goes_on(directory: &Path) {
    let expected: Expected = serde_json::from_slice(&fs::read(directory.join(EXPECTED)).unwrap()).unwrap();
    let home = Home::new();
    let copy = home.path().join("data").join(PROJECT);
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != EXPECTED) {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    check(&home, &copy);
    let mut broker = Broker::start(start(&home));
    let client = broker.dealer();
    let there = |client: &RawClient, key: &str| ok(client, &json!({"op": "exists", "key": key}))["exists"] == true;
    // Its deadline has come since, so it goes before anybody sees it; nothing else happens by itself.
    wait_until(PATIENCE, "the key with a short life is gone", || (!there(&client, BRIEF)).then_some(()));
    let removed = ok(&client, &json!({"op": "history", "key": BRIEF}))["versions"].clone();
    assert_eq!((&removed[0][2], &removed[1][2]), (&json!("expire"), &json!("put")), "{removed}");
    let found = Expected::of(&client, expected.exchanges.clone());
    assert_eq!(found, Expected { rev: expected.rev + 1, ..expected });

    // It goes on: new keys and sessions, and the old sessions with their next numbers.
    let more = life::second_part(&broker, "later");
    let (last, _) = found.exchanges.iter().rfind(|(request, _)| request["op"] == "incr").unwrap();
    let mut next = last.clone();
    next["seq"] = json!(last["seq"].as_u64().unwrap() + 1);
    ok(&client, &next);
    let exchanges: Vec<Exchange> = found.exchanges.into_iter().chain(more).collect();
    let before = Expected::of(&client, exchanges.clone());
    broker.kill9();
    broker.restart();
    assert_eq!(Expected::of(&broker.dealer(), exchanges.clone()), before);
    broker.stop();
    broker.restart();
    assert_eq!(Expected::of(&broker.dealer(), exchanges), before);
    let session = new_session(&broker.dealer());
    ok(&broker.dealer(), &json!({"op": "incr", "key": "visits", "session": session, "seq": 1}));
    broker.stop();
}

/// `KVBROKER_FORMAT_DIRECTORY=DIR KVBROKER_TEST_BIN=DIR cargo test -p kvbroker-tests --test formats -- --ignored`
#[test]
#[ignore = "makes the directories of a format anew, with the programs of a release; see tests/data/README.md"]
fn make_the_directories() {
    let target = std::env::var_os(MAKE_VARIABLE).expect("KVBROKER_FORMAT_DIRECTORY says where they go");
    let target = Path::new(&target);
    make(target, "clean", "always", |broker, exchanges| {
        broker.stop();
        broker.restart();
        exchanges.extend(life::second_part(broker, "second"));
    });
    make(target, "killed", "always", |broker, exchanges| {
        broker.kill9();
        broker.restart();
        exchanges.extend(life::second_part(broker, "second"));
    });
    // All of the first part is in the checkpoint, and the log begins behind it.
    make(target, "checkpoint", "always", |broker, exchanges| {
        broker.stop();
        make_checkpoint(&broker.data_directory());
        broker.restart();
        exchanges.extend(life::second_part(broker, "second"));
    });
    // Each start after an unclean end begins a new segment there.
    make(target, "weaker-sync", "20", |broker, exchanges| {
        for name in ["second", "third"] {
            broker.kill9();
            broker.restart();
            exchanges.extend(life::second_part(broker, name));
        }
    });
}

/// Takes whatever is there.
struct Anything;

impl Replay for Anything {
    fn record(&mut self, _record: CheckpointRecord<'_>) -> Result<(), VisitError> {
        Ok(())
    }

    fn checkpoint_read(&mut self, _revision: u64) -> Result<(), VisitError> {
        Ok(())
    }

    fn group(&mut self, _group: GroupRef<'_>) -> Result<(), VisitError> {
        Ok(())
    }
}

/// Makes a checkpoint of all that is in a data directory, as a broker does when there is much more, and keeps no history.
fn make_checkpoint(directory: &Path) {
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::open(directory).unwrap());
    let (mut log, report) = FileLog::open(storage.clone(), LogOptions::new(SyncMode::Always), &mut Anything).unwrap();
    log.seal().unwrap();
    let policy = CheckpointPolicy { history_ms: 0, ..CheckpointPolicy::default() };
    let mut maker = Checkpointer::new(storage, log.segments(), policy, Box::new(OsEntropy));
    let mut merging = maker.begin().unwrap();
    while maker.advance(&mut merging, 1 << 20).unwrap().state != MergeState::Done {}
    assert!(maker.trim(report.last_stamp_ms + 1).unwrap() > 0);
    log.close(report.last_stamp_ms).unwrap();
}

fn make(target: &Path, name: &str, sync: &str, end: impl FnOnce(&mut Broker, &mut Vec<Exchange>)) {
    let home = Home::new();
    let mut broker = Broker::start(start(&home).args(["--sync", sync]));
    let mut exchanges = life::first_part(&broker);
    end(&mut broker, &mut exchanges);
    let expected = Expected::of(&broker.dealer(), exchanges);
    // Long enough to be in the log when the broker ends, short enough to be over when a test reads it.
    ok(&broker.dealer(), &json!({"op": "put", "key": BRIEF, "value": "soon gone", "ttl": 2000}));
    if name == "clean" {
        broker.stop()
    } else {
        broker.kill9()
    }

    let directory = target.join(name);
    fs::create_dir_all(&directory).unwrap();
    for file in fs::read_dir(broker.data_directory()).unwrap().map(Result::unwrap) {
        let name = file.file_name().into_string().unwrap();
        if name.starts_with("table.") {
            let mut bytes = fs::read(file.path()).unwrap();
            let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(written.next_multiple_of(PAGE_BYTES).min(bytes.len()));
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
    let expected = Expected { rev: expected.rev + 1, ..expected };
    fs::write(directory.join(EXPECTED), serde_json::to_string_pretty(&expected).unwrap() + "\n").unwrap();
}
