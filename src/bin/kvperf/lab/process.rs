//! A program that was started for the report.
//!
//! - It ends by its id when it is dropped: asked first, killed if it does not listen.
//! - While it is waited for, an interrupt is noticed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kvbroker::exit::Exit;
use rustix::process::{Pid, Signal, getpid, kill_process};

use super::guard;
use super::interrupt;
use super::trouble::LabError;

/// How often it is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(5);
/// How long a program that was asked to end may take: it may have a request under way, and keys to remove.
const END_MAX: Duration = Duration::from_secs(20);
/// What is shown of what a program said.
const SAID_MAX: usize = 2_000;

/// A running program.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    said: PathBuf,
}

/// A command line that runs below our guard, behind words that enter somewhere; with no variable of this project from outside.
pub(super) fn command(enter: &[OsString], program: &OsStr) -> Result<Command, LabError> {
    let this = std::env::current_exe()
        .map_err(|source| LabError::System { what: "the kernel does not know this program's file".to_owned(), source })?;
    let mut words = enter.iter().cloned().chain([this.into_os_string(), guard::WORD.into()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg(getpid().as_raw_pid().to_string()).arg(program);
    strip(&mut command);
    Ok(command)
}

/// Takes this project's variables out of a command's environment.
pub(super) fn strip(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("KVBROKER_") || text.starts_with("KVCATALOG_") || text.starts_with("CATALOG_") {
            command.env_remove(name);
        }
    }
}

impl Process {
    /// Starts it. Its stderr goes to a file, its stdout where `stdout` says.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn start(mut command: Command, name: &str, said: PathBuf, stdout: Stdio) -> Result<Process, LabError> {
        let stderr = File::create(&said).map_err(|source| LabError::file(&said, source))?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        let child = command.spawn().map_err(|source| LabError::System { what: format!("{name} can't be started"), source })?;
        Ok(Process { child, name: name.to_owned(), said })
    }

    /// Its id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stderr, the end of it.
    pub(super) fn said(&self) -> String {
        let text = fs::read(&self.said).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let skipped = text.char_indices().rev().nth(SAID_MAX).map_or(0, |(index, _)| index);
        text[skipped..].trim().to_owned()
    }

    /// Waits until `what` is there.
    ///
    /// # Errors
    /// It does not come in time, the program ended before, or an interrupt.
    pub(super) fn wait_for<T>(&mut self, what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> Result<T, LabError> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            interrupt::check()?;
            if let Some(found) = look() {
                return Ok(found);
            }
            if let Some(status) = self.status()? {
                return Err(self.failed(status));
            }
            if Instant::now() > deadline {
                return Err(LabError::TooLate { what: what.to_owned(), seconds, said: self.said() });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for its end, and calls `meanwhile` again and again.
    ///
    /// # Errors
    /// It fails, or an interrupt.
    pub(super) fn finish(mut self, mut meanwhile: impl FnMut(u32) -> Result<(), LabError>) -> Result<(), LabError> {
        loop {
            interrupt::check()?;
            if let Some(status) = self.status()? {
                return if status.success() { Ok(()) } else { Err(self.failed(status)) };
            }
            meanwhile(self.id())?;
            std::thread::sleep(LOOK);
        }
    }

    /// Ends it without a warning, as a crash does.
    pub(super) fn kill(&mut self) {
        // It can have ended just now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn status(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child.try_wait().map_err(|source| LabError::System { what: format!("{} can't be waited for", self.name), source })
    }

    fn failed(&self, status: ExitStatus) -> LabError {
        let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0);
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        };
        let code = code.unwrap_or(Exit::UnknownOutcome.code());
        LabError::Failed { program: self.name.clone(), how, code, said: self.said() }
    }

    /// Whatever it does, it has ended afterwards.
    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Its id is its own as long as it has not been waited for.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + END_MAX;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
