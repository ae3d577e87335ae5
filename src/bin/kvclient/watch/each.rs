//! `watch … -- CMD`: a command for each event, one at a time, in order.
//!
//! - Whether there is such a program is looked for before anything is watched.
//! - The value is a file in memory, not a pipe: a command that does not read it, or leaves it to something that goes on behind it,
//!   holds nobody up.
//! - A command leads a process group of its own, which gets the signal that ends the program; see `interrupt`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use kvbroker_protocol::{Stored, key_to_line_text};
use rustix::fs::{Access, MemfdFlags, access, memfd_create};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::lines::Told;
use crate::args::Global;
use crate::history::rfc3339;
use crate::interrupt::{self, Held, InHand};
use crate::output::{Print, value_as_printed};
use crate::watch_args::{OnFailure, Place};
use crate::{Trouble, complain, remark};

/// What the names of all variables begin with. `KVBROKER_KEY` alone would be the secret key of a `kvclient` that the command runs.
const VARIABLES: &str = "KVBROKER_EVENT_";

/// First and longest pause before a command that failed is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What to run.
#[derive(Debug)]
pub(crate) struct Each {
    /// As it was given.
    name: OsString,
    program: PathBuf,
    arguments: Vec<OsString>,
    on_failure: OnFailure,
    project: String,
    has_failed: bool,
}

/// A command failed, and the watch stops.
#[derive(Debug, thiserror::Error)]
#[error("{program:?} failed for {what}: {how}")]
pub(super) struct Stopped {
    program: OsString,
    what: String,
    how: String,
}

impl Each {
    /// None: no command is to be run.
    ///
    /// # Errors
    /// There is no such program.
    pub(crate) fn new(words: Vec<OsString>, on_failure: Option<OnFailure>, target: &str) -> Result<Option<Each>, Trouble> {
        let mut words = words.into_iter();
        let Some(name) = words.next() else { return Ok(None) };
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let program = find(&name, &path).map_err(Trouble::misuse)?;
        let (arguments, on_failure) = (words.collect(), on_failure.unwrap_or_default());
        Ok(Some(Each { name, program, arguments, on_failure, project: target.to_owned(), has_failed: false }))
    }

    /// Whether a command has failed and the watch went on.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Runs it for one event, to its end.
    pub(super) fn run(&mut self, told: &Told<'_>, epoch: Option<u64>, global: &Global, held: &Held) -> Result<(), Stopped> {
        let (mut pause, longest) = AGAIN;
        loop {
            let how = match self.once(told, epoch, global.json, held) {
                Ok(status) if status.success() => return Ok(()),
                Ok(status) => status.to_string(),
                Err(error) => format!("it can't be run: {error}"),
            };
            if interrupt::is_raised() {
                // It was told to end, which is no failure to speak of.
                held.rests();
            }
            let stopped = Stopped { program: self.name.clone(), what: described(told), how };
            match self.on_failure {
                OnFailure::Stop => return Err(stopped),
                OnFailure::Continue => {
                    self.has_failed = true;
                    complain(&format!("{stopped}; going on"), None);
                    return Ok(());
                }
                OnFailure::Retry => {
                    remark(global, &format!("{stopped}; tried again in {} s", pause.as_secs()));
                    held.rests();
                    std::thread::sleep(pause);
                    held.becomes(InHand::File);
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }

    fn once(&self, told: &Told<'_>, epoch: Option<u64>, json: bool, held: &Held) -> io::Result<ExitStatus> {
        let mut command = Command::new(&self.program);
        command.arg0(&self.name).args(&self.arguments).stdin(stdin(told, json)?).process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.as_bytes().starts_with(VARIABLES.as_bytes()) {
                command.env_remove(name);
            }
        }
        for (name, value) in variables(told, epoch) {
            command.env(format!("{VARIABLES}{name}"), value);
        }
        command.env(format!("{VARIABLES}PROJECT"), &self.project);
        let mut child = command.spawn()?;
        if let Some(pid) = pid(&child) {
            held.becomes(InHand::Command(pid));
            // Not reaped yet, so that no other process has its number while it may be sent a signal.
            let has_ended = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while matches!(has_ended(), Err(rustix::io::Errno::INTR)) {}
            held.becomes(InHand::File);
        }
        child.wait()
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn described(told: &Told<'_>) -> String {
    let key = match told {
        Told::Row(row) => Some(&row.key),
        Told::Change { change, .. } => Some(&change.key),
        Told::Begin { .. } | Told::End { .. } => None,
    };
    let mut text = told.kind().to_owned().into_bytes();
    if let Some(key) = key {
        text.extend_from_slice(b" of ");
        key_to_line_text(&mut text, key);
    }
    format!("{} at revision {}", String::from_utf8_lossy(&text), told.revision())
}

/// What the command reads: a file in memory with the value, or with the event.
fn stdin(told: &Told<'_>, json: bool) -> io::Result<Stdio> {
    let mut bytes = Vec::new();
    if json {
        told.print(true, &mut bytes);
        bytes.push(b'\n');
    } else if let Some(value) = value(told) {
        value_as_printed(value, &mut bytes);
    }
    if bytes.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = File::from(memfd_create("kvclient-event", MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    file.rewind()?;
    Ok(file.into())
}

fn value<'a>(told: &Told<'a>) -> Option<&'a Stored> {
    match told {
        Told::Row(row) => Some(&row.value),
        Told::Change { change, .. } => change.kind.value(),
        Told::Begin { .. } | Told::End { .. } => None,
    }
}

/// What stands in its environment.
fn variables(told: &Told<'_>, epoch: Option<u64>) -> Vec<(&'static str, OsString)> {
    let mut variables = vec![("KIND", told.kind().into()), ("REVISION", told.revision().to_string().into())];
    variables.extend(epoch.map(|epoch| ("EPOCH", format!("{epoch:016x}").into())));
    // No variable can hold a NUL.
    let key = |key: &[u8]| (!key.contains(&0)).then(|| ("KEY", OsString::from_vec(key.to_vec())));
    // Where to go on, once this is dealt with; in the midst of a revision or a snapshot there is no such place.
    let place = ("PLACE", Place { revision: told.revision(), epoch }.to_string().into());
    match told {
        Told::Begin { why, .. } => variables.push(("WHY", why.name().into())),
        Told::End { .. } => variables.push(place),
        Told::Row(row) => variables.extend(key(&row.key)),
        Told::Change { revision, change, index } => {
            variables.extend(key(&change.key));
            variables.push(("TIME", rfc3339(revision.time_ms).into()));
            variables.push(("INDEX", (index + 1).to_string().into()));
            variables.push(("COUNT", revision.changes.len().to_string().into()));
            variables.extend((index + 1 == revision.changes.len()).then_some(place));
        }
    }
    variables
}

/// The program that a name means, as a shell finds it.
pub(crate) fn find(name: &OsStr, path: &OsStr) -> Result<PathBuf, String> {
    let is_program = |file: &Path| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    if name.is_empty() {
        return Err("the command behind -- is empty".to_owned());
    }
    if name.as_bytes().contains(&b'/') {
        let file = PathBuf::from(name);
        return match (file.exists(), is_program(&file)) {
            (_, true) => Ok(file),
            (true, false) => Err(format!("{} can't be run: it is no executable file", file.display())),
            (false, _) => Err(format!("there is no program {}", file.display())),
        };
    }
    let places = std::env::split_paths(path).map(|directory| directory.join(name));
    let found = places.into_iter().find(|file| is_program(file));
    found.ok_or_else(|| format!("there is no program {:?} in the directories of PATH", name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use kvbroker_protocol::{ChangeKind, KeyEvent, RevisionEvents};

    use super::*;

    #[test]
    fn programs_are_found_as_shells_do() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str, mode| {
            let file = place.path().join(name);
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        };
        let (program, text) = (file("run", 0o700), file("text", 0o600));
        fs::create_dir(place.path().join("directory")).unwrap();
        let path = std::env::join_paths(["/nowhere".as_ref(), place.path()]).unwrap();
        assert_eq!(find(OsStr::new("run"), &path), Ok(program.clone()));
        assert_eq!(find(program.as_os_str(), OsStr::new("")), Ok(program));
        assert!(find(text.as_os_str(), &path).unwrap_err().contains("no executable file"));
        for name in ["directory", "text", "other", "/no/where", ""] {
            assert!(find(OsStr::new(name), &path).is_err(), "{name}");
        }
    }

    #[test]
    fn an_event_stands_in_the_environment() {
        let change = |key: &[u8]| KeyEvent { key: key.to_vec(), kind: ChangeKind::Remove, before: None };
        let revision =
            RevisionEvents { revision: 7, time_ms: 1_700_000_000_123, changes: vec![change(b"a"), change(b"\0")], origin: None };
        let told = |index| Told::Change { revision: &revision, change: &revision.changes[index], index };
        let shown = |told: &Told<'_>| -> Vec<String> {
            variables(told, Some(0xc0ffee)).iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect()
        };
        let expected = [
            "KIND=remove",
            "REVISION=7",
            "EPOCH=0000000000c0ffee",
            "KEY=a",
            "TIME=2023-11-14T22:13:20.123Z",
            "INDEX=1",
            "COUNT=2",
        ];
        assert_eq!(shown(&told(0)), expected);
        assert!(!shown(&told(1)).iter().any(|variable| variable.starts_with("KEY=")));
        assert_eq!(shown(&told(1)).last().map(String::as_str), Some("PLACE=7@0000000000c0ffee"));
        assert!(shown(&Told::End { revision: 9 }).contains(&"PLACE=9@0000000000c0ffee".to_owned()));
        assert_eq!(described(&told(1)), "remove of \"\\u0000\" at revision 7");
    }
}
