//! Recorders: processes that use a broker and write down what they asked and were told. The program is `tests/src/bin/recorder.rs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::linear::history::{self, key_number};
use crate::linear::{Found, Recorded};
use crate::{Broker, end_with_us, program};

/// What a recorder shall do: its only argument, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The project.
    pub project: String,
    /// Where its broker's router listens, for lanes without the library.
    pub router: PathBuf,
    /// Where the history goes.
    pub history: PathBuf,
    /// Its clients are this one and the next ones.
    pub first_client: u32,
    /// How many they are; each is a thread with a session of its own.
    pub clients: u32,
    /// Operations of each of them, unless it is told to stop.
    pub operations: u32,
    /// How they talk to the broker.
    pub lane: Lane,
    /// How many operations are in flight.
    pub depth: Depth,
    /// For its dice.
    pub seed: u64,
}

/// How a recorder talks to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lane {
    /// Through the client library, each client with a connection of its own.
    Library,
    /// Through the client library, all clients of the process with clones of one handle.
    Shared,
    /// Through [`crate::NumberedClient`].
    Numbered,
}

/// How many operations a recorded client has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Depth {
    /// So many, all the time.
    Always(usize),
    /// In spells, from one up to so many.
    UpTo(usize),
}

/// One line of a recorder's stdout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Line {
    /// So many more operations have ended.
    Operations(u64),
    /// A client is done, and so many of its mutations were told that their session is not known any more.
    Expired(u64),
}

/// A running recorder, killed when dropped. Like a broker, it ends with the thread that started it.
#[derive(Debug)]
pub struct Recorder {
    child: Child,
    task: Task,
}

impl Recorder {
    /// Starts one in the home of a broker; its files there have this name.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(broker: &Broker, name: &str, task: Task) -> Recorder {
        let history = broker.home().path().join(format!("{name}.history"));
        let task = Task { history, router: broker.router_socket(), ..task };
        let mut command = Command::new(program("recorder"));
        command.arg(serde_json::to_string(&task).expect("a task is JSON"));
        command.env("KVBROKER_HOME", broker.home().path()).stdin(Stdio::piped());
        let file = |extension| File::create(task.history.with_extension(extension)).expect("a home has room for output");
        command.stdout(file("lines")).stderr(file("errors"));
        end_with_us(&mut command);
        Recorder { child: command.spawn().expect("the program can be started"), task }
    }

    fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.task.history.with_extension("lines")).expect("a started recorder has its file");
        // The last one may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Operations that have ended, more or less.
    pub fn operations(&self) -> u64 {
        let operations = |line: &Line| if let Line::Operations(operations) = line { *operations } else { 0 };
        self.lines().iter().map(operations).sum()
    }

    /// Mutations that were told that their session is not known any more, of clients that are done.
    pub fn expired(&self) -> u64 {
        let expired = |line: &Line| if let Line::Expired(expired) = line { *expired } else { 0 };
        self.lines().iter().map(expired).sum()
    }

    /// Lets it ask nothing more; it is done when it has all replies.
    pub fn stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// True when it is done.
    ///
    /// # Panics
    /// With what it said, if it ended otherwise.
    pub fn has_ended(&mut self) -> bool {
        let Some(status) = self.child.try_wait().expect("its own child can be waited for") else { return false };
        let errors = fs::read_to_string(self.task.history.with_extension("errors")).unwrap_or_default();
        assert!(status.success(), "a recorder ended with {status}: {errors}");
        true
    }

    /// True if each of its threads waits for something.
    ///
    /// # Panics
    /// If it has ended.
    pub fn is_waiting(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        // A thread can end meanwhile.
        let stat = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state stands behind the name, which is in parentheses.
        threads.flatten().map(stat).all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S')))
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("its own child can be signalled");
    }

    /// Adds what it recorded to a history.
    ///
    /// # Panics
    /// If it has not ended as it should, so that its file is not whole.
    pub fn read(&self, history: &mut Vec<Recorded>) {
        let file = File::open(&self.task.history).expect("a recorder that is done has a history");
        history::read(BufReader::new(file), history).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // It can have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True when all of them are done; looks at each, so that an error of any is seen at once.
pub fn all_have_ended(recorders: &mut [Recorder]) -> bool {
    let mut running = 0;
    for recorder in recorders {
        running += usize::from(!recorder.has_ended());
    }
    running == 0
}

/// What is in the table of a broker that only recorders have used, in their words.
///
/// # Panics
/// If there is anything else in it.
pub fn recorded_table(broker: &Broker) -> BTreeMap<u32, Found> {
    let client = broker.dealer();
    let mut table = BTreeMap::new();
    let mut cursor = Value::Null;
    loop {
        let page = client.ask_json(&json!({"op": "scan", "cursor": cursor, "keys_only": true}));
        for key in page["keys"].as_array().expect("a page of keys") {
            let got = client.ask_json(&json!({"op": "get", "key": key}));
            let number = |field: &str| got[field].as_u64().unwrap_or_else(|| panic!("no {field} in {got}"));
            let value = got["value"].as_i64().unwrap_or_else(|| panic!("no integer in {got}"));
            let key = key.as_str().and_then(key_number).unwrap_or_else(|| panic!("{key} is no recorder's"));
            table.insert(key, Found { value, modified: number("modified"), created: number("created") });
        }
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return table;
        }
    }
}
