//! Watchers that are processes: they can be stopped and continued. The program is `tests/src/bin/watcher.rs`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kvbroker::client::WatchStats;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::heard::Heard;
use crate::{Home, end_with_us, program, wait_until};

/// What a watcher shall do, as JSON in a file, whose name is its only argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatcherTask {
    /// A project, or a `kv://` address.
    pub target: String,
    /// What it watches, and from where on; each ends with [`super::Writers::end_key`] of its prefix.
    pub watches: Vec<(String, From)>,
    /// All on one socket, or each on one of its own.
    pub is_hub: bool,
    /// Where changes are not known any more, begin anew.
    pub resync: bool,
    /// Where to write down what was told.
    pub heard: PathBuf,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// Now.
    Now,
    /// Behind a revision.
    After(u64),
    /// With what is there.
    Snapshot,
}

/// What the client library says of a watch; see `kvbroker::client::WatchStats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchFigures {
    /// Messages of the stream.
    pub messages: u64,
    /// Times that the broker was asked for what the stream had missed.
    pub refills: u64,
    /// Times that the broker was asked because there was no stream.
    pub polls: u64,
    /// Revisions that came again.
    pub duplicates: u64,
    /// Messages for which there was no room.
    pub dropped: u64,
    /// Holes in the stream.
    pub lost: u64,
}

impl WatchFigures {
    /// What was added to earlier ones.
    #[must_use]
    pub fn since(self, earlier: WatchFigures) -> WatchFigures {
        WatchFigures {
            messages: self.messages - earlier.messages,
            refills: self.refills - earlier.refills,
            polls: self.polls - earlier.polls,
            duplicates: self.duplicates - earlier.duplicates,
            dropped: self.dropped - earlier.dropped,
            lost: self.lost - earlier.lost,
        }
    }
}

impl std::convert::From<WatchStats> for WatchFigures {
    fn from(stats: WatchStats) -> WatchFigures {
        let WatchStats { messages, refills, polls, duplicates, dropped, lost, .. } = stats;
        WatchFigures { messages, refills, polls, duplicates, dropped, lost }
    }
}

/// A line of a watcher's stdout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// One more watch has caught up for the first time.
    Begun(usize, WatchFigures),
    /// A watch has heard its end.
    Ended(usize, WatchFigures),
}

/// A running watcher, killed when dropped. Like a broker, it ends with the thread that started it.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    task: WatcherTask,
}

impl Watcher {
    /// Starts one in a home; its files there have this name.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(home: &Home, name: &str, task: WatcherTask) -> Watcher {
        let task = WatcherTask { heard: home.path().join(format!("{name}.heard")), ..task };
        let mut command = Command::new(program("watcher"));
        // Ten thousand prefixes are too long for a command line.
        let file = task.heard.with_extension("task");
        fs::write(&file, serde_json::to_vec(&task).expect("a task is JSON")).expect("a home has room for it");
        command.arg(file);
        for (variable, _) in std::env::vars_os() {
            if variable.to_str().is_some_and(|name| name.starts_with("KVBROKER_") || name.starts_with("CATALOG_")) {
                command.env_remove(variable);
            }
        }
        command.env("KVBROKER_HOME", home.path()).env("KVBROKER_CATALOG", "none").stdin(Stdio::null());
        let file = |extension| File::create(task.heard.with_extension(extension)).expect("a home has room for output");
        command.stdout(file("lines")).stderr(file("errors"));
        end_with_us(&mut command);
        Watcher { child: command.spawn().expect("the program can be started"), task }
    }

    fn lines(&self) -> Vec<Ending> {
        let text = fs::read_to_string(self.task.heard.with_extension("lines")).expect("a started watcher has its file");
        // The last one may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until all of its watches have begun.
    ///
    /// # Panics
    /// If they don't.
    pub fn wait_begun(&mut self, patience: Duration) {
        let watches = self.task.watches.len();
        wait_until(patience, "the watches have begun", || {
            self.look();
            (self.lines().iter().filter(|line| matches!(line, Ending::Begun(..))).count() >= watches).then_some(())
        });
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("its own child can be signalled");
    }

    /// Stops it, and waits until it stands still.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn stop(&mut self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.child.id());
        wait_until(Duration::from_secs(10), "the watcher stands still", || {
            assert!(!self.look(), "it has heard all ends already");
            let stat = fs::read_to_string(&stat).expect("it is there");
            // The state stands behind the name, which is in parentheses.
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')).then_some(())
        });
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// True when it has heard all ends.
    ///
    /// # Panics
    /// With what it said, if it ended otherwise.
    fn look(&mut self) -> bool {
        let Some(status) = self.child.try_wait().expect("its own child can be waited for") else { return false };
        let errors = fs::read_to_string(self.task.heard.with_extension("errors")).unwrap_or_default();
        assert!(status.success(), "a watcher ended with {status}: {errors}{:?}", self.task.watches.first());
        true
    }

    /// Waits until it has heard all ends. Gives what each of its watches heard, and its figures since its beginning.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn finish(mut self, patience: Duration) -> Vec<(Vec<Heard>, WatchFigures)> {
        wait_until(patience, "the watcher has heard all ends", || self.look().then_some(()));
        let mut all = vec![(Vec::new(), WatchFigures::default()); self.task.watches.len()];
        let text = fs::read_to_string(&self.task.heard).expect("a watcher that is done has written down what it heard");
        for line in text.lines() {
            let (watch, heard): (usize, Heard) = serde_json::from_str(line).expect("its own lines");
            all[watch].0.push(heard);
        }
        for line in self.lines() {
            match line {
                Ending::Begun(watch, figures) => all[watch].1 = figures,
                Ending::Ended(watch, figures) => all[watch].1 = figures.since(all[watch].1),
            }
        }
        all
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It can have ended; SIGKILL also ends one that was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
