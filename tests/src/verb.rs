//! Running `kvbroker PROJECT VERB` as a user or a script does.

use std::process::{Command, Stdio};

use crate::{Home, Said, finish, program};

/// The command `kvbroker WORDS…` in an environment of its own, its output kept.
///
/// # Panics
/// If the programs cannot be built.
pub fn verb_command<S: AsRef<std::ffi::OsStr>>(home: &Home, words: &[S]) -> Command {
    let mut command = Command::new(program("kvbroker"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("KVBROKER_") || name.starts_with("CATALOG_")) {
            command.env_remove(name);
        }
    }
    command.env("KVBROKER_HOME", home.path()).env("KVBROKER_CATALOG", "none").args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `kvbroker WORDS…` to its end.
///
/// # Panics
/// If it can't be started.
pub fn verb<S: AsRef<std::ffi::OsStr>>(home: &Home, words: &[S]) -> Said {
    finish(verb_command(home, words).spawn().expect("the program can be started"))
}
