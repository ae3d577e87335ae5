//! `kvperf --as-guard PARENT PROGRAM …`: becomes the program, and the kernel ends it if the process PARENT ends, however that comes.
//!
//! - A broker that was started to be measured must not stay behind a report that was killed.
//! - The request to the kernel outlives exec(2), so no process is added.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use kvbroker::exit::Exit;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::say;

/// The word that asks for it; the first one of the command line.
pub(crate) const WORD: &str = "--as-guard";

/// Returns only if it can't become the program.
pub(crate) fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter();
    let parent = words.next().and_then(|word| word.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let (Some(parent), Some(program)) = (parent, words.next()) else {
        return end(&format!("{WORD} is for kvperf itself"));
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return end(&format!("the kernel can't tell a process of its parent's end: {error}"));
    }
    // It may have ended before it was asked for.
    if getppid() != Some(parent) {
        return end("the report has ended");
    }
    let error = Command::new(&program).args(words).exec();
    end(&format!("{}: {error}", program.to_string_lossy()))
}

fn end(sentence: &str) -> ExitCode {
    say(&format!("kvperf: {sentence}\n"));
    Exit::Usage.into()
}
