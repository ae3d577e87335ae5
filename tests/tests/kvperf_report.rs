//! `kvperf report` as its reader runs it: the real report measured anew, interrupted, killed, and refused. Nothing here depends on how
//! fast anything is.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kvbroker_tests::{PATIENCE, program, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A quick report takes seconds; on a busy machine some more.
const REPORT: Duration = Duration::from_secs(300);
const PARTS: [&str; 12] =
    ["machine", "growth", "sweep", "sharing", "pipelined", "threads", "rate", "mixed", "beside", "network", "verify", "put"];

/// A directory with a copy of the repository's report, and a report that is made of it.
struct Report {
    directory: TempDir,
    child: Option<Child>,
}

impl Report {
    fn new() -> Report {
        let directory = tempfile::Builder::new().prefix("kvreport-").tempdir().unwrap();
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../REPORT.md");
        fs::copy(original, directory.path().join("REPORT.md")).unwrap();
        Report { directory, child: None }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("REPORT.md")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn start(&mut self, words: &[&str]) {
        let mut command = Command::new(program("kvperf"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("KVBROKER_") || name.starts_with("CATALOG_")) {
                command.env_remove(name);
            }
        }
        // Whatever it would talk to beyond this machine, it would not find.
        command.env("CATALOG_HOST", "127.0.0.1").env("TMPDIR", self.directory.path()).arg("report").args(words);
        command.arg("--output").arg(self.path()).arg("--work").arg(self.directory.path().join("work"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.child = Some(command.spawn().unwrap());
    }

    /// Its exit code, and what it said.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap());
        let status = wait_until(REPORT, "the report has ended", || child.try_wait().unwrap());
        let said = reader.join().unwrap();
        (status.code().or(status.signal().map(|signal| -signal)), said)
    }

    fn run(&mut self, words: &[&str]) -> (Option<i32>, String) {
        self.start(words);
        self.end()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Processes that name this report's directory in their command line or environment, but the report itself.
    fn others(&self) -> Vec<String> {
        let marks = self.directory.path().to_str().unwrap().to_owned();
        let own = self.child.as_ref().map(|child| child.id().to_string());
        let is_ours = |process: &Path| {
            let read = |file: &str| fs::read(process.join(file)).unwrap_or_default();
            let text = [read("cmdline"), read("environ")].concat();
            String::from_utf8_lossy(&text).contains(&marks)
        };
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let names = processes.filter(|path| is_ours(path)).filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        names.filter(|name| name.parse::<u32>().is_ok() && Some(name) != own.as_ref()).collect()
    }

    fn broker_runs(&self) -> bool {
        let is_broker = |id: &String| fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "kvbroker");
        self.others().iter().any(is_broker)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What stands between a part's markers.
fn part<'a>(text: &'a str, name: &str) -> &'a str {
    let (_, behind) = text.split_once(&format!("<!-- {name}: begin -->\n")).unwrap_or_else(|| panic!("{name} begins"));
    behind.split_once(&format!("<!-- {name}: end -->")).unwrap_or_else(|| panic!("{name} ends")).0
}

/// The report without what is between markers.
fn prose(text: &str) -> String {
    PARTS.iter().fold(text.to_owned(), |text, name| text.replacen(part(&text.clone(), name), "", 1))
}

#[test]
fn every_part_is_measured_and_the_prose_stays() {
    let mut report = Report::new();
    let before = report.text();
    let (code, said) = report.run(&["--quick"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("min left: growth: --sync never, 256 operations per request"), "{said}");
    let text = report.text();
    assert_eq!(prose(&text), prose(&before));
    for name in PARTS {
        let part = part(&text, name);
        // Where namespaces can't be made, this is said instead; everything else can be measured everywhere.
        let is_left_out = name == "network" && part.contains("Left out here: network namespaces can't be made");
        assert!(part.starts_with("<sub>Measured 2") && part.contains("A quick look only"), "{name}: {part}");
        assert!(is_left_out || part.lines().count() > 2, "{name}: {part}");
        assert!(!part.contains("NaN") && !part.contains("inf"), "{name}: {part}");
    }
    assert!(part(&text, "verify").contains("no acknowledged write was lost"));
    assert!(part(&text, "growth").contains("| **sum of 2** |"));
    // Whatever the report shows is there.
    let images: Vec<&str> = text.split("](docs/images/report/").skip(1).map(|rest| rest.split_once(')').unwrap().0).collect();
    assert!(images.len() >= 8, "{images:?}");
    for image in images {
        let svg = fs::read_to_string(report.directory.path().join("docs/images/report").join(image)).unwrap();
        assert!(svg.starts_with("<svg") && svg.len() < 32 << 10, "{image}: {} bytes", svg.len());
    }
    assert_eq!(report.others(), Vec::<String>::new());

    // The same text from what was kept, and only where it is asked for.
    fs::write(report.path(), &before).unwrap();
    let (code, said) = report.run(&["--kept", "--only", "growth,rate", "--quiet"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let again = report.text();
    for name in PARTS {
        let wanted = if ["growth", "rate"].contains(&name) { &text } else { &before };
        assert_eq!(part(&again, name), part(wanted, name), "{name}");
    }
}

#[test]
fn a_file_that_is_not_there_is_begun() {
    let mut report = Report::new();
    fs::remove_file(report.path()).unwrap();
    let (code, said) = report.run(&["--quick", "--only", "machine"]);
    assert_eq!(code, Some(0), "{said}");
    let text = report.text();
    assert!(part(&text, "machine").contains("fdatasync") && part(&text, "growth").is_empty(), "{text}");
}

#[test]
fn what_is_wrong_is_said_before_anything_is_measured() {
    let mut report = Report::new();
    let before = report.text();
    let nowhere = report.directory.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    for (words, sentence) in [
        (&["--rounds", "2"][..], "odd"),
        (&["--seconds", "61"], "--seconds"),
        (&["--only", "weather"], "weather"),
        (&["--clients", "2"], "--clients"),
        (&["--bin", nowhere], "there is no program kvbroker in"),
        (&["--kept"], "machine.json"),
    ] {
        let (code, said) = report.run(words);
        assert_eq!(code, Some(2), "{words:?}: {said}");
        assert!(said.contains(sentence), "{words:?}: {said}");
        assert_eq!(report.text(), before);
    }
    let (_, said) = report.run(&["--bin", nowhere]);
    assert!(said.contains("cargo build --release"), "{said}");
    fs::write(report.path(), before.replace("<!-- rate: end -->", "")).unwrap();
    let (code, said) = report.run(&["--quick"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("<!-- rate: end -->") && said.contains("--only"), "{said}");
}

#[test]
fn an_interrupt_ends_everything_and_leaves_the_report() {
    let mut report = Report::new();
    let before = report.text();
    report.start(&["--quick", "--only", "machine,beside", "--seconds", "30"]);
    wait_until(PATIENCE, "a broker runs", || report.broker_runs().then_some(()));
    report.signal(Signal::INT);
    let (code, said) = report.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("interrupted; nothing was written"), "{said}");
    assert_eq!(report.text(), before);
    assert_eq!(report.others(), Vec::<String>::new());
    // What was through before is kept.
    assert!(report.directory.path().join("work/machine.json").exists());
}

#[test]
fn a_report_that_is_killed_leaves_no_process() {
    let mut report = Report::new();
    let before = report.text();
    report.start(&["--quick", "--only", "beside", "--seconds", "30"]);
    wait_until(PATIENCE, "a broker runs", || report.broker_runs().then_some(()));
    report.signal(Signal::KILL);
    assert_eq!(report.end().0, Some(-9));
    wait_until(PATIENCE, "nothing of it is left", || report.others().is_empty().then_some(()));
    assert_eq!(report.text(), before);
}
