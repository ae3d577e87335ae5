//! `queue pull … --exec CMD` and `queue notify … -- CMD`: a command for each item. It is acknowledged if the command succeeds, and given
//! back if not.
//!
//! - The item's value is what the command reads: a file in memory, as of `watch … -- CMD`.
//! - Leases and pauses are the library's: see [`kvbroker::client::Consumer`]. If an item is somebody else's, the command is told to end, and
//!   nothing is said about the item any more.
//! - Ctrl-C lets the commands that run come to their end, and nothing new is begun; a second one tells them to end, a third ends everything at
//!   once.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvbroker::client::{Client, Delivery, Drain, Verdict};
use kvbroker::exit::Exit;
use kvbroker_protocol::{Pull, Receipt, Stored, Wanted};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::convert::printed;
use crate::interrupt;
use crate::output::printable;
use crate::watch::find_program;
use crate::{Trouble, complain};

/// How often it is looked whether the item of a command is still this client's.
const LOOK: Duration = Duration::from_millis(500);
/// The longest pause of an item that failed, unless the first one is longer.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The groups of the commands that run, each led by its first process, which is not reaped while it stands here.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

pub(crate) fn running() -> MutexGuard<'static, BTreeSet<i32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// To all commands that run.
pub(crate) fn signal_all(signal: Signal) {
    for group in running().iter().copied().filter_map(Pid::from_raw) {
        // What is gone needs no signal.
        let _ = kill_process_group(group, signal);
    }
}

/// What to run for each item.
pub(crate) struct Exec {
    name: OsString,
    program: PathBuf,
    arguments: Vec<OsString>,
    wanted: Wanted,
    /// Most items; None: until none comes.
    items: Option<usize>,
    /// How many at a time.
    credit: usize,
    /// The first pause of an item that failed.
    retry: Duration,
    /// Ends when nothing came for so long; None: never.
    idle: Option<Duration>,
}

impl Exec {
    /// # Errors
    /// There is no such program.
    pub(crate) fn new(words: Vec<OsString>, items: Option<usize>, retry: Duration) -> Result<Option<Exec>, Trouble> {
        let mut words = words.into_iter();
        let Some(name) = words.next() else { return Ok(None) };
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let program = find_program(&name, &path).map_err(Trouble::misuse)?;
        Ok(Some(Exec {
            name,
            program,
            arguments: words.collect(),
            items,
            wanted: Wanted::default(),
            credit: 1,
            retry,
            idle: None,
        }))
    }

    /// With values as they are wanted.
    pub(crate) fn reading(self, wanted: Wanted) -> Exec {
        Exec { wanted, ..self }
    }

    /// So many at a time.
    pub(crate) fn with_credit(self, credit: usize) -> Exec {
        Exec { credit, ..self }
    }

    /// It ends when nothing came for so long.
    pub(crate) fn until_idle(self, idle: Duration) -> Exec {
        Exec { idle: Some(idle), ..self }
    }

    /// Takes items and runs the command for each. Exit code 1 if there was none, or if the command has failed for one.
    pub(crate) fn run(&self, client: &Client, pull: &Pull) -> Result<Exit, Trouble> {
        let drain = Drain::new();
        interrupt::drains({
            let drain = drain.clone();
            move |signals| match signals {
                1 => drain.begin(),
                2 => signal_all(Signal::TERM),
                _ => signal_all(Signal::KILL),
            }
        });
        let queue = client.queue(&pull.queue);
        let mut consumer =
            queue.consumer().credit(self.credit).retry(self.retry, RETRY_MAX).drained_by(drain).reading(self.wanted.clone());
        if let Some(idle) = self.idle {
            consumer = consumer.until_idle(idle);
        }
        if let Some(items) = self.items {
            consumer = consumer.items(items as u64);
        }
        if let Some(lease_ms) = pull.lease_ms {
            consumer = consumer.lease(Duration::from_millis(lease_ms));
        }
        if pull.no_ack {
            consumer = consumer.no_ack();
        }
        let has_run = AtomicBool::new(false);
        let served = consumer.run_stored(|item: &Delivery<'_, Stored>| {
            has_run.store(true, Ordering::Relaxed);
            self.one(item)
        });
        let served = match served {
            // That nothing was changed is so for the broker alone.
            Err(error) if has_run.load(Ordering::Relaxed) => {
                let hint = "an item whose command ended and could not be acknowledged any more comes back, and is run again";
                complain(&error.to_string(), Some(hint));
                return Ok(Trouble::from(error).exit());
            }
            served => served?,
        };
        interrupt::drained();
        let handled = served.done + served.failed + served.lost;
        if handled == 0 {
            complain("nothing is ready", None);
        }
        Ok(if handled == 0 || served.failed + served.lost > 0 { Exit::NotFound } else { Exit::Ok })
    }

    /// Runs the command for one item.
    fn one(&self, item: &Delivery<'_, Stored>) -> Verdict {
        let how = match self.command(item) {
            Ok(status) if status.success() => return Verdict::Done,
            Ok(status) => status.to_string(),
            Err(error) => format!("it can't be run: {error}"),
        };
        let id = item.receipt.item;
        complain(&format!("{:?} failed for item {id}: {how}", self.name), None);
        Verdict::Failed(how)
    }

    fn command(&self, item: &Delivery<'_, Stored>) -> io::Result<ExitStatus> {
        let mut command = Command::new(&self.program);
        command.arg0(&self.name).args(&self.arguments).stdin(stdin(&item.value)?).process_group(0);
        let Receipt { item: id, token } = item.receipt;
        command.env("KVBROKER_ITEM", id.to_string()).env("KVBROKER_ITEM_TOKEN", token.to_string());
        command.env("KVBROKER_ITEM_DELIVERIES", item.deliveries.to_string());
        if let Some(content_type) = &item.content_type {
            command.env("KVBROKER_ITEM_TYPE", content_type);
        }
        if let Some(subject) = &item.subject {
            command.env("KVBROKER_ITEM_SUBJECT", OsStr::from_bytes(subject));
        }
        if !item.reason.is_empty() {
            command.env("KVBROKER_ITEM_REASON", printable(&item.reason));
        }
        let mut child = command.spawn()?;
        let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return child.wait() };
        running().insert(pid.as_raw_nonzero().get());
        let (over, bell) = (Mutex::new(false), Condvar::new());
        std::thread::scope(|scope| {
            if token > 0 {
                scope.spawn(|| end_if_lost(item, pid, &over, &bell));
            }
            // Not reaped yet, so that no other process has its number while it may be sent a signal.
            let has_ended = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while matches!(has_ended(), Err(rustix::io::Errno::INTR)) {}
            running().remove(&pid.as_raw_nonzero().get());
            *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
            bell.notify_all();
        });
        child.wait()
    }
}

/// Tells the command to end once its item is somebody else's.
fn end_if_lost(item: &Delivery<'_, Stored>, group: Pid, over: &Mutex<bool>, bell: &Condvar) {
    let mut is_over = over.lock().unwrap_or_else(PoisonError::into_inner);
    while !*is_over {
        is_over = bell.wait_timeout_while(is_over, LOOK, |over| !*over).unwrap_or_else(PoisonError::into_inner).0;
        if !*is_over && item.is_lost() {
            complain(&format!("item {} took too long, and somebody else may have it now", item.receipt.item), None);
            let _ = kill_process_group(group, Signal::TERM);
            return;
        }
    }
}

/// A file in memory with the value.
pub(crate) fn stdin(value: &Stored) -> io::Result<Stdio> {
    let bytes = printed(value);
    if bytes.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = File::from(memfd_create("kvclient-item", MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    file.rewind()?;
    Ok(file.into())
}
