//! All client processes of a run: started together, stopped together, none left behind.
//!
//! - A client is this same program, told through its stdin what to do.
//! - A stage begins at one moment for all: each gets the time, which lies a little ahead, by a clock that all share.
//! - The first client that fails, or ends without a word, ends the stage for all.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker::exit::Exit;

use crate::beside::Dear;
use crate::interrupt;
use crate::measure::Measured;
use crate::orders::{Note, Order, Task, now_ns, tell};
use crate::progress::Progress;
use crate::stages::Stage;
use crate::timeline::Timeline;
use crate::trouble::Trouble;

/// This program, whatever became of its file since it was started.
const MYSELF: &str = "/proc/self/exe";
/// How far ahead a start lies, and how much farther for each client: orders have to arrive before.
const AHEAD: Duration = Duration::from_millis(10);
const AHEAD_EACH: Duration = Duration::from_micros(200);
/// How often it is looked whether the run shall end.
const LOOK: Duration = Duration::from_millis(50);
/// What a stop may take beyond the time of one answer.
const STOP_EXTRA: Duration = Duration::from_secs(1);
/// How long a client that waits for an answer is waited for where its answers have no time limit.
const STOP_UNLIMITED: Duration = Duration::from_secs(30);
/// Notes that may wait to be read, all clients together.
const NOTES_WAITING: usize = 1_024;

/// Running client processes; killed when dropped.
pub(crate) struct Fleet {
    members: Vec<Member>,
    notes: Receiver<(usize, Option<Note>)>,
    timeout: Option<Duration>,
    slice_ns: u64,
    /// A request that is under way may change the table.
    is_writing: bool,
}

/// What a fleet did in a stage.
pub(crate) struct Stint {
    /// When it began for all, by the monotonic clock.
    pub(crate) at_ns: u64,
    /// Each client.
    pub(crate) measured: Vec<Measured>,
    /// All of them.
    pub(crate) timeline: Timeline,
}

/// What a look at everything that a fleet wrote compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) keys: u64,
}

struct Member {
    child: Child,
    orders: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
    has_ended: bool,
}

impl Fleet {
    /// Starts `clients` processes and waits until each is connected and has its keys.
    ///
    /// # Errors
    /// One can't be started or can't connect. None of them runs on.
    pub(crate) fn start(clients: usize, task: &Task, progress: &mut Progress) -> Result<Fleet, Trouble> {
        let (to, notes) = sync_channel(NOTES_WAITING);
        let (timeout, slice_ns) = (task.finding.timeout(), task.slice_ns);
        let mut fleet = Fleet { members: Vec::new(), notes, timeout, slice_ns, is_writing: task.load > 0 };
        for client in 0..clients {
            let started = Member::start(client, to.clone(), &Task { client: task.client + client, ..task.clone() });
            fleet.members.push(started.map_err(|error| Trouble::system("a client process can't be started", error))?);
        }
        drop(to);
        let mut ready = vec![false; clients];
        fleet.listen(progress, |client, note| {
            ready[client] |= matches!(note, Note::Ready);
            ready.iter().all(|ready| *ready)
        })?;
        Ok(fleet)
    }

    /// Runs one stage.
    ///
    /// # Errors
    /// A client failed, or the run was interrupted.
    pub(crate) fn run(&mut self, stage: Stage, progress: &mut Progress) -> Result<Stint, Trouble> {
        let clients = self.members.len();
        self.is_writing = stage.is_mutation();
        let ahead = AHEAD + AHEAD_EACH * u32::try_from(clients).unwrap_or(u32::MAX);
        let at_ns = now_ns() + u64::try_from(ahead.as_nanos()).unwrap_or(u64::MAX);
        for member in &mut self.members {
            member.order(&Order::Start { stage, at_ns });
        }
        progress.stage(stage, clients);
        let mut measured: Vec<Option<Measured>> = vec![None; clients];
        let mut timeline = Timeline::new(self.slice_ns);
        let shown = &mut *progress;
        let result = listen(&self.notes, &mut self.members, |client, note| {
            match note {
                Note::Slice(slice) => {
                    timeline.add(slice);
                    shown.slices(&timeline);
                }
                Note::Done(done) => measured[client] = Some(*done),
                Note::Ready | Note::Verified { .. } | Note::Failed(_) => {}
            }
            measured.iter().all(Option::is_some)
        });
        progress.clear();
        result?;
        Ok(Stint { at_ns, measured: measured.into_iter().flatten().collect(), timeline })
    }

    /// Has all clients compare all of their keys with what they remember.
    ///
    /// # Errors
    /// An acknowledged write is lost, a client failed, or the run was interrupted.
    pub(crate) fn verify(&mut self, progress: &mut Progress) -> Result<Compared, Trouble> {
        self.is_writing = false;
        self.members.iter_mut().for_each(|member| member.order(&Order::Verify));
        progress.verifying(self.members.len());
        let mut compared: Vec<Option<Compared>> = vec![None; self.members.len()];
        let result = listen(&self.notes, &mut self.members, |client, note| {
            if let Note::Verified { acknowledged, unknown, keys } = note {
                compared[client] = Some(Compared { acknowledged, unknown, keys });
            }
            compared.iter().all(Option::is_some)
        });
        progress.clear();
        result?;
        Ok(compared.into_iter().flatten().fold(Compared::default(), |sum, one| Compared {
            acknowledged: sum.acknowledged + one.acknowledged,
            unknown: sum.unknown + one.unknown,
            keys: sum.keys + one.keys,
        }))
    }

    /// Has all of them make dear requests in a loop; they are at it when this returns.
    ///
    /// # Errors
    /// A client failed, or the run was interrupted.
    pub(crate) fn begin(&mut self, dear: Dear) -> Result<(), Trouble> {
        self.is_writing = true;
        self.members.iter_mut().for_each(|member| member.order(&Order::Beside { dear }));
        let mut ready = vec![false; self.members.len()];
        listen(&self.notes, &mut self.members, |client, note| {
            ready[client] |= matches!(note, Note::Ready);
            ready.iter().all(|ready| *ready)
        })
        .map_err(|trouble| trouble.of("beside"))
    }

    /// Ends the loop. Gives what each client did in it.
    ///
    /// # Errors
    /// A client failed since, or the run was interrupted.
    pub(crate) fn cease(&mut self) -> Result<Vec<Measured>, Trouble> {
        self.members.iter_mut().for_each(|member| member.order(&Order::Cease));
        let mut measured: Vec<Option<Measured>> = vec![None; self.members.len()];
        let result = listen(&self.notes, &mut self.members, |client, note| {
            if let Note::Done(done) = note {
                measured[client] = Some(*done);
            }
            measured.iter().all(Option::is_some)
        });
        result.map_err(|trouble| trouble.of("beside"))?;
        Ok(measured.into_iter().flatten().collect())
    }

    fn listen(&mut self, progress: &mut Progress, all: impl FnMut(usize, Note) -> bool) -> Result<(), Trouble> {
        progress.preparing(self.members.len());
        let result = listen(&self.notes, &mut self.members, all);
        progress.clear();
        result
    }

    /// Ends all clients and waits for them. A request under way is waited for, so that nothing is written afterwards.
    pub(crate) fn stop(&mut self) {
        for member in &mut self.members {
            member.order(&Order::Stop);
            member.orders = None;
        }
        let patience = if self.is_writing { self.timeout.unwrap_or(STOP_UNLIMITED) } else { Duration::ZERO };
        let deadline = Instant::now() + patience + STOP_EXTRA;
        while self.members.iter().any(|member| !member.has_ended) {
            match self.notes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((client, None)) => self.members[client].has_ended = true,
                Ok((_, Some(_))) => {}
                Err(_) => break,
            }
        }
        // A reader that waits for room among the notes gets to its end.
        self.notes = sync_channel(1).1;
        self.members.iter_mut().for_each(Member::end);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Listens until `all` have said what is waited for.
fn listen(
    notes: &Receiver<(usize, Option<Note>)>,
    members: &mut [Member],
    mut all: impl FnMut(usize, Note) -> bool,
) -> Result<(), Trouble> {
    loop {
        if interrupt::is_asked() {
            return Err(Trouble::interrupted());
        }
        match notes.recv_timeout(LOOK) {
            Ok((client, Some(Note::Failed(trouble)))) => return Err(trouble.of(&format!("client {}", client + 1))),
            Ok((client, Some(note))) => {
                if all(client, note) {
                    return Ok(());
                }
            }
            Ok((client, None)) => {
                members[client].has_ended = true;
                return Err(members[client].silent_end().of(&format!("client {}", client + 1)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Trouble::new(Exit::UnknownOutcome, "all clients have ended")),
        }
    }
}

impl Member {
    fn start(client: usize, to: SyncSender<(usize, Option<Note>)>, task: &Task) -> std::io::Result<Member> {
        let mut command = Command::new(MYSELF);
        command.arg0("kvperf").arg("--as-client").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut orders = child.stdin.take().expect("stdin was asked for as a pipe");
        let said = child.stdout.take().expect("stdout was asked for as a pipe");
        let reader = std::thread::Builder::new().name(format!("client-{client}")).spawn(move || read(client, said, &to));
        // Where it has ended already, its note or its silence says so.
        let _ = tell(&mut orders, task);
        let mut member = Member { child, orders: Some(orders), reader: None, has_ended: false };
        match reader {
            Ok(reader) => member.reader = Some(reader),
            Err(error) => {
                member.end();
                return Err(error);
            }
        }
        Ok(member)
    }

    fn order(&mut self, order: &Order) {
        if let Some(orders) = &mut self.orders {
            // A client that has ended is noticed by its silence.
            let _ = tell(orders, order);
        }
    }

    fn silent_end(&mut self) -> Trouble {
        self.orders = None;
        let how = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let mut trouble = Trouble::new(Exit::UnknownOutcome, format!("ended without a word ({how})"));
        trouble.hint = Some("was it killed, or is memory short?".to_owned());
        trouble
    }

    /// Whatever it does, it has ended afterwards.
    fn end(&mut self) {
        self.orders = None;
        if !self.has_ended {
            // It can have ended just now.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            // It only reads; its panic would have been printed.
            let _ = reader.join();
        }
    }
}

/// Hands on what a client says; `None` is its end.
fn read(client: usize, said: ChildStdout, to: &SyncSender<(usize, Option<Note>)>) {
    for line in BufReader::new(said).lines() {
        let note = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        let Some(note) = note else { break };
        if to.send((client, Some(note))).is_err() {
            return;
        }
    }
    // Nobody listens any more where the run has ended.
    let _ = to.send((client, None));
}
