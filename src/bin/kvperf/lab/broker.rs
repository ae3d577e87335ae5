//! A broker of the report's own, with an empty data directory.
//!
//! - It listens on loopback and is told of no catalog, unless it is in a network namespace.
//! - Process first, directories afterwards: nothing writes into a directory that is being removed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;

use super::bench::Bench;
use super::process::{Process, command};
use super::trouble::LabError;

/// The project's name, in all commands that readers may repeat.
pub(super) const PROJECT: &str = "lab";
/// How long a start may take.
const READY_S: u64 = 60;

/// How a broker is started.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    /// Flags behind the project's name.
    pub(super) flags: Vec<String>,
    /// Words that enter a network namespace; there it listens everywhere and announces itself to `catalog`.
    pub(super) enter: Vec<OsString>,
    pub(super) catalog: Option<String>,
}

impl Start {
    /// A broker with these flags.
    pub(super) fn with(flags: &[&str]) -> Start {
        Start { flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..Start::default() }
    }
}

/// A running broker.
#[derive(Debug)]
pub(super) struct Broker {
    process: Process,
    home: TempDir,
    data: TempDir,
    start: Start,
    starts: u32,
}

impl Broker {
    /// Starts one, and waits until it serves.
    ///
    /// # Errors
    /// It ends, does not get ready, or an interrupt.
    pub(super) fn start(bench: &Bench, start: &Start) -> Result<Broker, LabError> {
        let refused = |source| LabError::System { what: "no directory for a broker".to_owned(), source };
        // A short path: those of unix sockets have 107 bytes at most.
        let home = tempfile::Builder::new().prefix("kvr-").tempdir().map_err(refused)?;
        let data = tempfile::Builder::new().prefix("data-").tempdir_in(bench.work()).map_err(refused)?;
        let process = spawn(bench, start, home.path(), data.path(), 1)?;
        Ok(Broker { process, home, data, start: start.clone(), starts: 1 })
    }

    /// `KVBROKER_HOME` of its owner.
    pub(super) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as a crash does, and starts it again with the same data.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub(super) fn crash_and_restart(&mut self, bench: &Bench) -> Result<(), LabError> {
        self.process.kill();
        self.starts += 1;
        self.process = spawn(bench, &self.start, self.home.path(), self.data.path(), self.starts)?;
        Ok(())
    }
}

fn spawn(bench: &Bench, start: &Start, home: &Path, data: &Path, starts: u32) -> Result<Process, LabError> {
    let mut command = command(&start.enter, bench.program("kvbroker")?.as_os_str())?;
    let ready: PathBuf = home.join(format!("ready-{starts}"));
    command.arg(PROJECT).arg("--data").arg(data.join("log")).arg("--ready-file").arg(&ready).arg("--quiet");
    match &start.catalog {
        Some(catalog) => command.args(["--catalog", catalog]),
        None => command.args(["--catalog", "none", "--listen", "127.0.0.1"]),
    };
    command.args(&start.flags).env("KVBROKER_HOME", home);
    // What a disk is not worth measuring is said in the report, not refused.
    command.env("KVBROKER_ACCEPT_FILESYSTEM", "1");
    let said = home.join(format!("said-{starts}"));
    let mut process = Process::start(command, &format!("kvbroker {PROJECT}"), said, Stdio::null())?;
    let is_ready = || fs::metadata(&ready).is_ok_and(|file| file.len() > 0).then_some(());
    process.wait_for("the broker is not ready", READY_S, is_ready)?;
    Ok(process)
}
