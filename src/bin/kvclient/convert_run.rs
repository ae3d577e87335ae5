//! `convert run RULE -- CMD`: a converter. It takes items of the rule's queue, one at a time, runs the program for each, and pushes what it
//! has printed into the rule's other queue.
//!
//! - Result and acknowledgement are one transaction: each item has one result, however often it was tried, and wherever a converter dies.
//! - The lease outlives the time limit, so no other converter has the item while this one works at it.
//! - A program that fails, takes too long, or prints what is not of the rule's type or too much, has its item given back with the reason. It
//!   rests longer each time, from a second to a minute, and is dead after as many deliveries as its queue allows.
//! - The program and all that it has started is killed when its time is over, and when it has ended. The rule is read again for each item.
//! - Ctrl-C lets the program come to its end; a second one tells it to end, and its item comes back as if it had not been delivered. So does one
//!   whose result found no room: neither says anything about the item.
//!
//! Caveat: a converter that is killed with SIGKILL leaves its program to itself until that ends; what it prints is lost, and the item comes back.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kvbroker::client::{Client, ClientError};
use kvbroker::exit::Exit;
use kvbroker_protocol::limits::{
    NOT_CONVERTED_REST_MS_MAX, NOT_CONVERTED_REST_MS_MIN, QUEUE_REASON_BYTES_MAX, QUEUE_WAIT_MS_MAX, VALUE_BYTES_MAX,
};
use kvbroker_protocol::{
    ContentType, Conversion, Delivery, ErrorCode, Key, Operation, Program, Pull, QueueOperation, Source, Stored, Txn,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::interrupt;
use crate::output::printable;
use crate::queue_exec::{running, signal_all, stdin};
use crate::watch::find_program;
use crate::{Trouble, complain, convert};

/// How much longer than its program may take an item is leased.
const LEASE_MARGIN_MS: u64 = 5_000;
/// How long an item rests whose result found no room, ms.
const FULL_REST_MS: u64 = 5_000;
/// So much of what a program said last is told with the reason.
const SAID_BYTES: usize = 400;

/// Signals that came while the program ran.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// What to run, and for how many items.
pub(crate) struct Converter {
    rule: Key,
    name: OsString,
    program: PathBuf,
    arguments: Vec<OsString>,
    items: Option<usize>,
    wait: Option<Duration>,
}

/// A rule as it is for one item.
struct Task {
    queue: Key,
    into: Key,
    time_limit_ms: u64,
    to: Option<ContentType>,
}

impl Converter {
    /// # Errors
    /// There is no such program.
    pub(crate) fn new(
        rule: Key,
        items: Option<usize>,
        wait: Option<Duration>,
        words: Vec<OsString>,
    ) -> Result<Converter, Trouble> {
        let mut words = words.into_iter();
        let name = words.next().ok_or_else(|| Trouble::misuse("run needs a program, behind --"))?;
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let program = find_program(&name, &path).map_err(Trouble::misuse)?;
        Ok(Converter { rule, name, program, arguments: words.collect(), items, wait })
    }

    /// Converts items until there are none, or none come for so long. Exit code 1 if one has failed, or the rule is not there.
    pub(crate) fn run(&self, client: &Client) -> Result<Exit, Trouble> {
        let (mut tried, mut failed) = (0_usize, 0_usize);
        let mut idle_since = Instant::now();
        while self.items.is_none_or(|items| tried < items) {
            let Some(task) = self.task(client)? else { return Ok(Exit::NotFound) };
            let left = self.wait.map(|wait| wait.saturating_sub(idle_since.elapsed()));
            let step = Duration::from_millis(QUEUE_WAIT_MS_MAX);
            let wait = left.map_or(step, |left| left.min(step));
            let pull = Pull {
                queue: task.queue.clone(),
                limit: 1,
                lease_ms: Some(task.time_limit_ms + LEASE_MARGIN_MS),
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                no_ack: false,
            };
            let (items, _) = client.queue(task.queue.as_slice()).pull_as(pull)?;
            let Some(item) = items.into_iter().next() else {
                if left.is_some_and(|left| left <= wait) {
                    break;
                }
                continue;
            };
            tried += 1;
            interrupt::drains(|signals| {
                SIGNALS.store(signals, Ordering::Relaxed);
                match signals {
                    1 => {}
                    2 => signal_all(Signal::TERM),
                    _ => signal_all(Signal::KILL),
                }
            });
            failed += usize::from(!self.one(client, &task, &item)?);
            interrupt::drained();
            idle_since = Instant::now();
        }
        Ok(if failed > 0 { Exit::NotFound } else { Exit::Ok })
    }

    fn task(&self, client: &Client) -> Result<Option<Task>, Trouble> {
        let Some(rule) = client.convert().show(&self.rule)? else {
            convert::no_rule();
            return Ok(None);
        };
        match (rule.source, rule.program) {
            (Source::Queue(queue), Some(Program { into, time_limit_ms })) => {
                Ok(Some(Task { queue, into, time_limit_ms, to: rule.to }))
            }
            _ => {
                Err(Trouble::misuse("this rule has no program: it was declared without --into, and the broker does it by itself"))
            }
        }
    }

    /// Converts one item. False if that failed.
    fn one(&self, client: &Client, task: &Task, item: &Delivery) -> Result<bool, Trouble> {
        let made = self.output(item, task).and_then(|output| result(&output, task.to));
        let said = match &made {
            Ok(value) => push_and_ack(client, task, item, value),
            Err(_) if SIGNALS.load(Ordering::Relaxed) > 1 => unused(client, task, item, None),
            Err(reason) => {
                complain(&format!("item {} was not converted: {}", item.receipt.item, printable(reason)), None);
                client.queue(task.queue.as_slice()).nack(item.receipt, Some(rest(item.deliveries)), reason)
            }
        };
        match said {
            Ok(_) => Ok(made.is_ok()),
            Err(error) if error.code() == Some(ErrorCode::LeaseLost) => {
                complain(&format!("item {}: {error}", item.receipt.item), None);
                Ok(false)
            }
            // There may be room in the next queue later: it is no failure of the item.
            Err(error) if made.is_ok() && matches!(error.code(), Some(ErrorCode::QueueFull | ErrorCode::Busy)) => {
                complain(&format!("item {}: its result could not be pushed yet: {error}", item.receipt.item), None);
                unused(client, task, item, Some(FULL_REST_MS))?;
                Ok(false)
            }
            // The next queue may not be used, say.
            Err(error) if made.is_ok() && error.code().is_some_and(|code| code != ErrorCode::UnknownOutcome) => {
                complain(&format!("item {}: its result could not be pushed: {error}", item.receipt.item), None);
                let reason = cut(&format!("its result could not be pushed: {error}"));
                client.queue(task.queue.as_slice()).nack(item.receipt, Some(rest(item.deliveries)), &reason)?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the program prints for an item.
    ///
    /// # Errors
    /// Why there is nothing that holds.
    fn output(&self, item: &Delivery, task: &Task) -> Result<Vec<u8>, String> {
        let cant = |error: io::Error| format!("the program can't be run: {error}");
        let mut command = Command::new(&self.program);
        command.arg0(&self.name).args(&self.arguments).stdin(stdin(&item.value).map_err(cant)?).process_group(0);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("KVBROKER_ITEM", item.receipt.item.to_string()).env("KVBROKER_ITEM_TOKEN", item.receipt.token.to_string());
        command.env("KVBROKER_ITEM_DELIVERIES", item.deliveries.to_string());
        command.env("KVBROKER_ITEM_TYPE", item.content_type.as_deref().unwrap_or_default());
        if let Some(subject) = &item.subject {
            command.env("KVBROKER_ITEM_SUBJECT", OsStr::from_bytes(subject));
        }
        if !item.reason.is_empty() {
            command.env("KVBROKER_ITEM_REASON", printable(&item.reason));
        }
        let mut child = command.spawn().map_err(cant)?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("the program has no number")?;
        running().insert(group.as_raw_nonzero().get());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut heard = Heard { printed: Vec::new(), said: Vec::new() };
        let over = match (stdout, stderr, pidfd_open(group, PidfdFlags::empty())) {
            (Some(stdout), Some(stderr), Ok(ended)) => {
                heard.listen(stdout, stderr, ended.as_fd(), Duration::from_millis(task.time_limit_ms)).map_err(cant)
            }
            (_, _, Err(error)) => Err(cant(error.into())),
            _ => Err("the program has no output".to_owned()),
        };
        // What it has started ends with it. It is not reaped yet, so no other group has its number.
        let _ = kill_process_group(group, Signal::KILL);
        running().remove(&group.as_raw_nonzero().get());
        let status = child.wait().map_err(cant)?;
        match over? {
            Over::Late => Err(format!("the program took longer than {} ms", task.time_limit_ms)),
            Over::TooMuch => Err(format!("the program printed more than {VALUE_BYTES_MAX} bytes")),
            Over::Ended if status.success() => Ok(heard.printed),
            Over::Ended => {
                let said = String::from_utf8_lossy(&heard.said);
                let said = said.trim();
                Err(cut(&if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }))
            }
        }
    }
}

/// The result and the acknowledgement, both or neither.
fn push_and_ack(client: &Client, task: &Task, item: &Delivery, value: &Stored) -> Result<u64, ClientError> {
    let push = client.queue(task.into.as_slice()).item(value.clone());
    let ack = QueueOperation::Ack { queue: task.queue.clone(), receipt: item.receipt };
    let then = [QueueOperation::Push(push), ack].map(|operation| Operation::Queue(Box::new(operation))).into();
    Ok(client.txn(Txn { compares: Vec::new(), then, otherwise: Vec::new() })?.revision)
}

/// The item comes back as if it had not been delivered.
fn unused(client: &Client, task: &Task, item: &Delivery, delay_ms: Option<u64>) -> Result<u64, ClientError> {
    let (queue, reason) = (task.queue.clone(), String::new());
    let nack = QueueOperation::Nack { queue, receipt: item.receipt, delay_ms, reason, unused: true };
    Ok(client.txn(Txn { compares: Vec::new(), then: vec![Operation::Queue(Box::new(nack))], otherwise: Vec::new() })?.revision)
}

/// The value that was printed, as the rule says what it is: a text where it says nothing and it is one, otherwise bytes.
fn result(output: &[u8], to: Option<ContentType>) -> Result<Stored, String> {
    let is_text = std::str::from_utf8(output).is_ok();
    let from = to.unwrap_or(if is_text { ContentType::Text } else { ContentType::Bytes });
    let bytes = Stored::bytes(output).map_err(|failure| failure.message)?;
    let made = Conversion { from: Some(from), ..Conversion::default() }.of(&bytes);
    made.map_err(|error| cut(&format!("what the program printed is not right ({}): {error}", error.name())))
}

/// How long an item rests that has failed so often.
fn rest(deliveries: u32) -> Duration {
    let doubled = NOT_CONVERTED_REST_MS_MIN.saturating_mul(1 << deliveries.saturating_sub(1).min(16));
    Duration::from_millis(doubled.min(NOT_CONVERTED_REST_MS_MAX))
}

/// As much of a reason as an item can have.
fn cut(reason: &str) -> String {
    let end = (0..=QUEUE_REASON_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    reason[..end.unwrap_or_default()].to_owned()
}

/// What is heard of a program.
struct Heard {
    printed: Vec<u8>,
    /// The last of what it said on stderr, which is passed on.
    said: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Ended,
    Late,
    TooMuch,
}

impl Heard {
    /// Reads both until the program has ended or its time is over. What it leaves running does not keep this waiting.
    fn listen(
        &mut self,
        mut stdout: impl Read + AsFd,
        mut stderr: impl Read + AsFd,
        ended: BorrowedFd<'_>,
        time_limit: Duration,
    ) -> io::Result<Over> {
        let until = Instant::now() + time_limit;
        let (mut stdout_is_open, mut stderr_is_open, mut has_ended) = (true, true, false);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && !has_ended {
                return Ok(Over::Late);
            }
            // Once it has ended only what lies in the pipes is read.
            let left = if has_ended { Duration::ZERO } else { left };
            let nothing = PollFlags::empty();
            let (out, err) = (stdout.as_fd(), stderr.as_fd());
            let mut fds = [
                PollFd::from_borrowed_fd(out, if stdout_is_open { PollFlags::IN } else { nothing }),
                PollFd::from_borrowed_fd(err, if stderr_is_open { PollFlags::IN } else { nothing }),
                PollFd::from_borrowed_fd(ended, PollFlags::IN),
            ];
            match poll(&mut fds, Some(&Timespec::try_from(left).map_err(io::Error::other)?)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let is_ready = |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
            let [reads_out, reads_err, ends] = [0, 1, 2].map(|at| is_ready(&fds[at]));
            let (reads_out, reads_err) = (reads_out && stdout_is_open, reads_err && stderr_is_open);
            let mut buffer = [0; 16 << 10];
            if reads_out {
                let count = read(&mut stdout, &mut buffer)?;
                stdout_is_open = count > 0;
                self.printed.extend_from_slice(&buffer[..count]);
                if self.printed.len() > VALUE_BYTES_MAX {
                    return Ok(Over::TooMuch);
                }
            }
            if reads_err {
                let count = read(&mut stderr, &mut buffer)?;
                stderr_is_open = count > 0;
                // Nobody may listen there any more.
                let _ = io::stderr().write_all(&buffer[..count]);
                self.said.extend_from_slice(&buffer[..count]);
                let beyond = self.said.len().saturating_sub(SAID_BYTES);
                self.said.drain(..beyond);
            }
            if has_ended && !reads_out && !reads_err {
                return Ok(Over::Ended);
            }
            has_ended |= ends;
        }
    }
}

fn read(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_to_a_minute() {
        let rests = [1, 2, 3, 7, 40].map(|deliveries| rest(deliveries).as_secs());
        assert_eq!(rests, [1, 2, 4, 60, 60]);
    }

    #[test]
    fn reasons_are_cut_where_a_letter_ends() {
        let long = "ä".repeat(QUEUE_REASON_BYTES_MAX);
        assert_eq!(cut(&long).len(), QUEUE_REASON_BYTES_MAX);
        assert_eq!(cut(&format!("x{long}")).len(), QUEUE_REASON_BYTES_MAX - 1);
        assert_eq!(cut("short"), "short");
    }

    #[test]
    fn what_is_printed_is_read_as_the_rule_says() {
        let as_json = |bytes: &[u8], to| {
            let mut text = Vec::new();
            result(bytes, to).map(|value| {
                value.write_json(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        };
        assert_eq!(as_json(b"{\"a\":1}", Some(ContentType::Json)).as_deref(), Ok("{\"a\":1}"));
        assert_eq!(as_json(b"a\n1\n", Some(ContentType::Csv)).as_deref(), Ok("[{\"a\":1}]"));
        assert_eq!(as_json(b"hi", None).as_deref(), Ok("\"hi\""));
        assert_eq!(as_json(b"\xff", None).as_deref(), Ok("{\"$bytes\":\"/w==\"}"));
        assert!(as_json(b"{", Some(ContentType::Json)).is_err_and(|why| why.contains("not_json")));
    }
}
