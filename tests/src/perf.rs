//! Running `kvperf` as a user does.

use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Broker, Said, json, program};

/// A `kvperf` for a broker; killed where a test fails.
#[derive(Debug)]
pub struct Perf(Option<Child>);

impl Perf {
    /// Starts one for this broker.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(broker: &Broker, words: &[&str]) -> Perf {
        let mut command = Command::new(program("kvperf"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("KVBROKER_") || name.starts_with("CATALOG_")) {
                command.env_remove(name);
            }
        }
        command.env("KVBROKER_HOME", broker.home().path()).args(["test", "--catalog", "none"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Perf(Some(command.spawn().expect("kvperf can be started")))
    }

    /// Runs one to its end.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn run(broker: &Broker, words: &[&str]) -> Said {
        Perf::start(broker, words).end()
    }

    /// Runs one that must succeed, and gives its result.
    ///
    /// # Panics
    /// If it fails.
    pub fn result(broker: &Broker, words: &[&str]) -> Value {
        Perf::start(broker, &[words, &["--json"]].concat()).success()
    }

    /// Waits until it has succeeded, and gives its result.
    ///
    /// # Panics
    /// If it fails.
    pub fn success(self) -> Value {
        let said = self.end();
        assert_eq!(said.code, Some(0), "stderr:\n{}", said.stderr);
        json(&said.stdout)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.0.as_ref().expect("it runs")), signal).expect("it is there");
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// Never: it is our child.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().and_then(|child| child.try_wait().expect("it is our child"))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not write text.
    pub fn end(mut self) -> Said {
        let output = self.0.take().expect("it ends only once").wait_with_output().expect("it is our child");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Said { code: output.status.code(), stdout: output.stdout, stderr }
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
