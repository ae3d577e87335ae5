//! Running `kvclient` as a user or a script does.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{Home, Machine, json, program};

/// A `kvclient` in an environment of its own: one home, no catalog unless told.
#[derive(Clone, Debug)]
pub struct Cli {
    home: PathBuf,
    catalog: String,
    /// What stands before the program on the command line.
    wrapper: Vec<OsString>,
}

/// What a finished run said.
#[derive(Debug)]
pub struct Said {
    /// The exit code; None: ended by a signal.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, without the notice that connecting takes long: a machine with much to do can show it in any run.
    pub stderr: String,
}

impl Said {
    /// Stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stdout as one JSON value.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        json(&self.stdout)
    }

    /// Stdout as one JSON value a line.
    ///
    /// # Panics
    /// If a line is none.
    pub fn json_lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| json(line.as_bytes())).collect()
    }
}

impl Cli {
    /// With this `KVBROKER_HOME`.
    pub fn new(home: &Home) -> Cli {
        Cli { home: home.path().to_owned(), catalog: "none".to_owned(), wrapper: Vec::new() }
    }

    /// The same that asks these catalogs.
    #[must_use]
    pub fn catalog(mut self, catalogs: &str) -> Cli {
        catalogs.clone_into(&mut self.catalog);
        self
    }

    /// The same on another machine.
    #[must_use]
    pub fn on(mut self, machine: &Machine) -> Cli {
        self.wrapper = machine.enter();
        self
    }

    /// The command, for what the other methods don't do.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Command {
        let mut line = self.wrapper.iter().cloned().chain([program("kvclient").into()]);
        let mut command = Command::new(line.next().expect("there is at least the program"));
        command.args(line);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("KVBROKER_") || name.starts_with("CATALOG_")) {
                command.env_remove(name);
            }
        }
        command.env("KVBROKER_HOME", &self.home).env("KVBROKER_CATALOG", &self.catalog).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it in the background.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn spawn<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Child {
        self.command(words).spawn().expect("the program can be started")
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Said {
        finish(self.spawn(words))
    }

    /// Runs it with something on stdin.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn run_with<S: AsRef<std::ffi::OsStr>>(&self, words: &[S], stdin: &[u8]) -> Said {
        let mut child = self.command(words).stdin(Stdio::piped()).spawn().expect("the program can be started");
        let mut pipe = child.stdin.take().expect("stdin is a pipe");
        std::thread::scope(|scope| {
            // It may end before it has read everything.
            scope.spawn(move || drop(pipe.write_all(stdin)));
            finish(child)
        })
    }

    /// Runs it and expects success.
    ///
    /// # Panics
    /// With what it said, if it fails.
    pub fn ok<S: AsRef<std::ffi::OsStr> + std::fmt::Debug>(&self, words: &[S]) -> Said {
        let said = self.run(words);
        assert_eq!(said.code, Some(0), "{words:?}: {}", said.stderr);
        said
    }
}

/// Waits for a started program.
///
/// # Panics
/// If it can't be waited for.
pub fn finish(child: Child) -> Said {
    let output = child.wait_with_output().expect("its own child can be waited for");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_notice = |line: &&str| line.starts_with("kvclient: connecting to ") && line.ends_with(" …\n");
    let stderr = stderr.split_inclusive('\n').filter(|line| !is_notice(line)).collect();
    Said { code: output.status.code(), stdout: output.stdout, stderr }
}
