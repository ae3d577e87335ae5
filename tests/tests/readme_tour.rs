//! README's tour, run as it stands: every `console` block in order, and what it prints compared with the page.
//!
//! - A line that starts with `$ ` is a command, run by bash in the repository's directory; the lines below are what it prints.
//! - `kvbroker PROJECT`, `kvcatalog` and `kvclient … watch` stand in terminals of their own: they go on while the next blocks run.
//! - What differs from run to run (ports, processes, keys, times, directories) is masked on both sides; nothing else is.
//!
//! Caveat: the catalog gets a free port instead of 9097.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kvbroker_tests::{PATIENCE, json, program, python, wait_until};
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const README: &str = include_str!("../../README.md");

/// A command and what the page says that it prints.
#[derive(Debug)]
struct Step {
    command: String,
    prints: String,
}

/// The steps of each `console` block.
fn blocks() -> Vec<Vec<Step>> {
    let mut blocks = Vec::new();
    let mut lines = README.lines();
    while lines.by_ref().any(|line| line == "```console") {
        let mut steps: Vec<Step> = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "```") {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), prints: String::new() }),
                (None, Some(step)) => step.prints.extend([line, "\n"]),
                (None, None) => panic!("a block starts with a command, not with {line:?}"),
            }
        }
        blocks.push(steps);
    }
    blocks
}

/// Text without what differs from run to run.
fn masked(text: &str, is_measured: bool) -> String {
    let masks = [
        (r"kvpub1[0-9a-f]{64}", "KEY"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
        (r"(git [^)]*)", "git COMMIT"),
        (r"\n *kvperf is a debug build: [^\n]*", ""),
        (r"tcp://(\[[0-9a-f:]+\]|[0-9.]+):[0-9]+", "tcp://ADDRESS"),
        (r"of this machine \([0-9a-f.:, ]+\)", "of this machine (ADDRESSES)"),
        (r"127\.0\.0\.1:[0-9]+", "127.0.0.1:PORT"),
        (r"TCP port [0-9]+", "TCP port PORT"),
        (r"(kill|process) [0-9]+", "$1 PROCESS"),
        (r"[0-9.]+ ms", "TIME"),
        (r"\b20[0-9-]{8}T[0-9:.]+Z", "TIME"),
        (r"@[0-9a-f]{16}", "@EPOCH"),
        (r"[0-9]+ s ago", "TIME ago"),
        (r"(?m)^(log_bytes|log_batches|log_syncs|log_last_sync_us) +[0-9]+$", "$1 NUMBER"),
        (r"(/[\w.-]+)+/(\.local/share/kvbroker|\.config/kvbroker|kvbroker/NETID-a5|bob/config/id)", "DIRECTORY/$2"),
        (r"(?m)^machine .*$", "machine"),
        (r" +", " "),
        (r"(?m) $", ""),
    ];
    let mut text = text.to_owned();
    for (pattern, instead) in masks {
        text = Regex::new(pattern).unwrap().replace_all(&text, instead).into_owned();
    }
    if is_measured {
        text = Regex::new("[0-9][0-9.,]*").unwrap().replace_all(&text, "N").into_owned();
    }
    text
}

/// A program in a terminal of its own.
struct Service {
    child: Child,
    output: PathBuf,
    command: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended by itself if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whoever follows the tour: a home directory and some terminals.
struct Visitor {
    home: TempDir,
    catalog: String,
    broker: Option<Service>,
    others: Vec<Service>,
    terminals: usize,
}

impl Visitor {
    fn new() -> Visitor {
        // A short prefix: a unix socket's path has 107 bytes at most.
        let home = tempfile::Builder::new().prefix("kvt-").tempdir().unwrap();
        let runtime = home.path().join("run");
        fs::create_dir(&runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
        Visitor { home, catalog: "127.0.0.1".to_owned(), broker: None, others: Vec::new(), terminals: 0 }
    }

    /// A command whose output, both kinds, goes to a file.
    fn spawn(&mut self, command: &str) -> Service {
        self.terminals += 1;
        let output = self.home.path().join(format!("terminal-{}", self.terminals));
        let file = File::create(&output).unwrap();
        let programs = program("kvclient").parent().unwrap().to_owned();
        let path = std::env::join_paths(
            std::iter::once(programs).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let mut bash = Command::new("bash");
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["KVBROKER_", "KVCATALOG_", "CATALOG_", "XDG_"].iter().any(|prefix| name.starts_with(prefix)) {
                bash.env_remove(&*name);
            }
        }
        let child = bash
            .args(["-c", command])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .env("PATH", path.unwrap())
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path().join("run"))
            .env("CATALOG_HOST", &self.catalog)
            .env("KVBROKER_OWNER", "netid")
            .env("KVBROKER_ACCEPT_FILESYSTEM", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Service { child, output, command: command.to_owned() }
    }

    /// A program that stays, once it has printed all of it.
    fn start(&mut self, command: &str, prints: &str) -> Service {
        let service = self.spawn(&format!("exec {command}"));
        let lines = prints.lines().count();
        wait_until(PATIENCE, "a program in a terminal of its own prints what the page shows", || {
            let text = fs::read_to_string(&service.output).unwrap();
            (logless(&text).lines().count() >= lines).then_some(())
        });
        service
    }

    fn step(&mut self, step: &Step) {
        let Step { command, prints } = step;
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["kvbroker", _] | ["kvbroker", _, "--catalog", _] => {
                let broker = self.start(command, prints);
                compare(command, prints, &fs::read_to_string(&broker.output).unwrap());
                self.broker = Some(broker);
            }
            ["kvcatalog"] => {
                let ready = self.home.path().join("catalog.json");
                let catalog = self.start(&format!("kvcatalog --port 0 --ready-file {}", ready.display()), prints);
                let text = fs::read_to_string(&catalog.output).unwrap();
                compare(command, prints, &text);
                self.catalog = json(&fs::read(ready).unwrap())["catalog"].as_str().unwrap().to_owned();
                self.others.push(catalog);
            }
            ["kvclient", _, "watch", ..] if is_watch(command) => {
                let watch = self.spawn(&format!("exec {command}"));
                wait_until(PATIENCE, "the watch listens", || {
                    fs::read_to_string(&watch.output).unwrap().contains("now what changes").then_some(())
                });
                self.others.push(watch);
            }
            ["kill", "-9", _] => drop(self.broker.take()),
            _ => {
                let mut service = self.spawn(command);
                service.child.wait().unwrap();
                compare(command, prints, &fs::read_to_string(&service.output).unwrap());
            }
        }
    }

    /// A watch with a limit ends by itself; what it printed.
    fn end_of_watch(&mut self) -> Option<String> {
        let at = self.others.iter().position(|service| is_watch(&service.command))?;
        let mut watch = self.others.remove(at);
        wait_until(PATIENCE, "the watch ends", || watch.child.try_wait().unwrap());
        Some(fs::read_to_string(&watch.output).unwrap())
    }
}

/// It goes on while the next block runs.
fn is_watch(command: &str) -> bool {
    command.contains(" watch ") && !command.contains("--once")
}

/// Log lines are for the logs' own documentation, and what the temporary files are kept on is this machine's; so is what takes so long that
/// a program says what it waits for.
fn logless(text: &str) -> String {
    let log = Regex::new(r"(?m)^(20[0-9-]{8}T[^\n]*|  kept  [^\n]*|kv[a-z]+: ([^\n]* …|waiting for [^\n]*))\n").unwrap();
    log.replace_all(text, "").into_owned()
}

#[track_caller]
fn compare(command: &str, shown: &str, printed: &str) {
    let is_measured = command.starts_with("kvperf");
    let (shown, printed) = (masked(shown, is_measured), masked(&logless(printed), is_measured));
    assert_eq!(printed, shown, "README shows something else below `$ {command}` (right) than is printed (left)");
}

#[test]
fn the_tour_is_what_happens() {
    if python().is_none() {
        return;
    }
    let blocks = blocks();
    assert!(blocks.iter().flatten().count() > 25, "the tour is found");
    let mut visitor = Visitor::new();
    let mut watching: Option<&Step> = None;
    for block in &blocks {
        block.iter().for_each(|step| visitor.step(step));
        if let Some(step) = watching.take() {
            compare(&step.command, &step.prints, &visitor.end_of_watch().unwrap());
        }
        watching = block.iter().find(|step| is_watch(&step.command));
    }
    // And a clean end, as the ready block says.
    let mut broker = visitor.broker.take().unwrap();
    kill_process(Pid::from_child(&broker.child), Signal::TERM).unwrap();
    let status = wait_until(PATIENCE, "the broker stops", || broker.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}
