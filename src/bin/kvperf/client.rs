//! One client process: does what its run tells it, measures it, and tells what came of it.
//!
//! - One request is outstanding at a time. What is timed is the library's call; making operations and checking answers lies
//!   outside of latencies and inside of rates.
//! - Ctrl-C reaches all processes of a terminal's job: here it does nothing, the run decides.
//! - Where the run is gone without a word, this process removes its own keys before it ends.

use std::io::{self, BufRead, BufReader};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use kvbroker::client::Client;
use kvbroker::exit::Exit;
use kvbroker_protocol::Operations;

use crate::args::Amount;
use crate::beside::{Dear, Others};
use crate::clean::remove_keys;
use crate::keyspace::{KEYS_MAX, Keyspace, RunPrefix};
use crate::measure::Measured;
use crate::orders::{Note, Order, Task, cpu_ns, now_ns, tell};
use crate::stages::{Ask, Shape, Stage, Workload};
use crate::trouble::Trouble;

/// Keys and bytes of one request while loading.
const LOAD_KEYS: usize = 1_024;
const LOAD_BYTES: usize = 4 << 20;
/// Pause between two notes about progress.
const PROGRESS_NS: u64 = 200_000_000;

/// Set: the loop of dear requests ends.
static CEASE: AtomicBool = AtomicBool::new(false);
/// Set: end before the next request.
static STOP: AtomicBool = AtomicBool::new(false);
/// Set with it where the run is gone.
static ABANDONED: AtomicBool = AtomicBool::new(false);

/// Serves a run until it says stop or is gone.
pub(crate) fn run() -> ExitCode {
    // Also for signals to this process alone: it ends with its run, so that no key stays behind.
    if let Err(error) = ctrlc::set_handler(|| {}) {
        return end(Trouble::system("signals can't be handled", error));
    }
    let mut lines = BufReader::new(io::stdin());
    let mut line = String::new();
    let task = lines.read_line(&mut line).map_err(serde_json::Error::io).and_then(|_| serde_json::from_str::<Task>(&line));
    let task = match task {
        Ok(task) => task,
        Err(error) => {
            return end(Trouble::new(Exit::Usage, format!("--as-client is for kvperf itself: no task on stdin ({error})")));
        }
    };
    let (to, orders) = sync_channel(1);
    let listener = std::thread::Builder::new().name("orders".into()).spawn(move || listen(lines, &to));
    if let Err(error) = listener {
        return end(Trouble::system("no thread for orders", error));
    }
    match serve(task, &orders) {
        Ok(()) => Exit::Ok.into(),
        Err(trouble) => end(trouble),
    }
}

fn end(trouble: Trouble) -> ExitCode {
    let code = trouble.code;
    // Where nobody reads it, nobody needs it.
    let _ = tell(&mut io::stdout(), &Note::Failed(trouble));
    code.into()
}

/// Hands orders on until there are no more.
fn listen(lines: impl BufRead, to: &SyncSender<Order>) {
    for line in lines.lines() {
        let order = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        match order {
            Some(Order::Stop) => return STOP.store(true, Ordering::SeqCst),
            Some(Order::Cease) => CEASE.store(true, Ordering::SeqCst),
            Some(order) if to.send(order).is_ok() => {}
            _ => break,
        }
    }
    ABANDONED.store(true, Ordering::SeqCst);
    STOP.store(true, Ordering::SeqCst);
}

fn serve(task: Task, orders: &Receiver<Order>) -> Result<(), Trouble> {
    let run: RunPrefix = task.run.parse().map_err(|error| Trouble::new(Exit::Usage, error))?;
    let keys = Keyspace::new(&run, task.client, task.shape.key_bytes, task.shape.value_bytes);
    let options = task.finding.options().map_err(|error| Trouble::new(Exit::Usage, error))?;
    let client = Client::connect_with(&task.target, options)?;
    let aside = keys.aside();
    let mut bench = Bench { client, workload: Workload::new(keys, task.shape.clone(), task.client as u64), others: None, task };
    let result = bench.follow(orders);
    if ABANDONED.load(Ordering::SeqCst) {
        remove_keys(&bench.client, bench.workload.keyspace().prefix())?;
        remove_keys(&bench.client, &aside)?;
    }
    result
}

struct Bench {
    client: Client,
    workload: Workload,
    /// Of a client that is not measured.
    others: Option<Others>,
    task: Task,
}

impl Bench {
    fn follow(&mut self, orders: &Receiver<Order>) -> Result<(), Trouble> {
        self.load()?;
        note(&Note::Ready);
        loop {
            let measured = match orders.recv() {
                Ok(Order::Start { stage, at_ns }) => self.stage(stage, at_ns)?,
                Ok(Order::Beside { dear }) => self.beside(dear)?,
                Ok(Order::Cease | Order::Stop) | Err(_) => break,
            };
            match measured {
                Some(measured) => note(&Note::Done(measured)),
                None => break,
            }
        }
        Ok(())
    }

    /// Makes dear requests until it is told to cease. None: it was stopped.
    fn beside(&mut self, dear: Dear) -> Result<Option<Measured>, Trouble> {
        let Bench { client, workload, others, .. } = self;
        let others = others.get_or_insert_with(|| Others::new(workload.keyspace().clone(), workload.present()));
        others.turn_to(dear);
        while !others.is_ready() && !STOP.load(Ordering::Relaxed) {
            round(client, others)?;
        }
        // All are at it before anything is measured.
        note(&Note::Ready);
        let started_ns = now_ns();
        let cpu_before_ns = cpu_ns();
        let mut measured = Measured::begun(started_ns);
        while !CEASE.swap(false, Ordering::Relaxed) {
            if STOP.load(Ordering::Relaxed) {
                return Ok(None);
            }
            measured.latencies.record(round(client, others)?, 1);
            measured.operations += 1;
            measured.ended_ns = now_ns();
        }
        measured.cpu_ns = cpu_ns() - cpu_before_ns;
        Ok(Some(measured))
    }

    fn load(&mut self) -> Result<(), Trouble> {
        let Shape { key_bytes, value_bytes, .. } = self.task.shape;
        let at_once = LOAD_KEYS.min(LOAD_BYTES / (key_bytes + value_bytes)).max(1);
        while self.workload.present() < self.task.load && !STOP.load(Ordering::SeqCst) {
            let missing = usize::try_from(self.task.load - self.workload.present()).unwrap_or(usize::MAX);
            let asks = self.workload.ask(Stage::Insert, at_once.min(missing));
            self.request(&asks)?;
        }
        Ok(())
    }

    /// Runs a stage. None: it was stopped before its end.
    fn stage(&mut self, stage: Stage, at_ns: u64) -> Result<Option<Measured>, Trouble> {
        let (mut left, until_ns) = match self.task.amount {
            Amount::Operations(operations) => (operations, u64::MAX),
            Amount::Time(time) => (u64::MAX, at_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))),
        };
        if stage == Stage::Insert {
            left = left.min(KEYS_MAX.saturating_sub(self.workload.present()));
        }
        let batch = self.task.shape.batch_of(stage);
        std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns())));
        let started_ns = now_ns();
        let cpu_before_ns = cpu_ns();
        let mut measured = Measured::begun(started_ns);
        let mut progress_ns = started_ns;
        while left > 0 && measured.ended_ns < until_ns {
            if STOP.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let asks = self.workload.ask(stage, batch.min(usize::try_from(left).unwrap_or(usize::MAX)));
            if asks.is_empty() {
                break;
            }
            let (latency_ns, rows) = self.request(&asks)?;
            let done = asks.len() as u64;
            measured.latencies.record(latency_ns, done);
            measured.operations += done;
            measured.rows += rows;
            measured.ended_ns = now_ns();
            left -= done;
            if self.task.progress && measured.ended_ns - progress_ns >= PROGRESS_NS {
                progress_ns = measured.ended_ns;
                note(&Note::Progress { operations: measured.operations });
            }
        }
        measured.cpu_ns = cpu_ns() - cpu_before_ns;
        Ok(Some(measured))
    }

    /// One request, and a look at every answer. Gives its latency in nanoseconds and the rows that it brought.
    fn request(&mut self, asks: &[Ask]) -> Result<(u64, u64), Trouble> {
        let mut operations = asks.iter().map(|ask| self.workload.operation(*ask)).collect::<Result<Vec<_>, _>>()?;
        let operations = match operations.pop() {
            Some(only) if operations.is_empty() => Operations::One(only),
            last => {
                operations.extend(last);
                Operations::Many(operations)
            }
        };
        let before_ns = now_ns();
        let reply = self.client.call(operations)?;
        let latency_ns = now_ns() - before_ns;
        let outcomes = reply.outcomes.as_slice();
        if outcomes.len() != asks.len() {
            let sentence = format!("wrong answer: {} outcomes to {} operations", outcomes.len(), asks.len());
            return Err(Trouble::new(Exit::NotFound, sentence));
        }
        let mut rows = 0;
        for (ask, outcome) in asks.iter().zip(outcomes) {
            rows += self.workload.check(*ask, outcome)?;
        }
        Ok((latency_ns, rows))
    }
}

/// One of the others' requests, and a look at its answer. Gives its latency in nanoseconds.
fn round(client: &Client, others: &mut Others) -> Result<u64, Trouble> {
    let operations = others.ask()?;
    let before_ns = now_ns();
    let reply = client.call(operations)?;
    let latency_ns = now_ns() - before_ns;
    others.check(reply.outcomes.as_slice()).map_err(|sentence| Trouble::new(Exit::NotFound, sentence))?;
    Ok(latency_ns)
}

/// Tells the run. That it is gone is seen at stdin.
fn note(what: &Note) {
    let _ = tell(&mut io::stdout().lock(), what);
}
