//! One client process: does what its run tells it, measures it, and tells what came of it.
//!
//! - How it measures is in `loops`.
//! - Ctrl-C reaches all processes of a terminal's job: here it does nothing, the run decides.
//! - Where the run is gone without a word, this process removes its own keys before it ends.

use std::io::{self, BufRead, BufReader};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use kvbroker::client::Client;
use kvbroker::exit::Exit;

use crate::args::Amount;
use crate::audit::Audit;
use crate::beside::{Dear, Others};
use crate::clean::remove_keys;
use crate::keyspace::{Keyspace, RunPrefix};
use crate::loops::{self, Course, Pace, Schedule};
use crate::measure::Measured;
use crate::orders::{Note, Order, Task, cpu_ns, now_ns, tell};
use crate::recorder::Recorder;
use crate::stages::{Shape, Stage, Workload};
use crate::trouble::Trouble;

/// Keys and bytes of one request while loading.
const LOAD_KEYS: usize = 1_024;
const LOAD_BYTES: usize = 4 << 20;

/// Set: the loop of dear requests ends.
static CEASE: AtomicBool = AtomicBool::new(false);
/// Set: end before the next request.
static STOP: AtomicBool = AtomicBool::new(false);
/// Set with it where the run is gone.
static ABANDONED: AtomicBool = AtomicBool::new(false);

/// True once the process is to end before its next request.
pub(crate) fn is_stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

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
    let Shape { key_bytes, value_bytes, value_bytes_max, .. } = task.shape;
    let keys = Keyspace::new(&run, task.client, key_bytes, value_bytes..=value_bytes_max);
    let options = task.finding.options().map_err(|error| Trouble::new(Exit::Usage, error))?;
    let client = Client::connect_with(&task.target, options)?;
    let aside = keys.aside();
    let workload = Workload::new(keys, task.shape.clone(), task.distribution, task.mix, task.client as u64);
    let mut bench = Bench { client, workload, others: None, task };
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
                Ok(Order::Verify) => {
                    self.verify()?;
                    continue;
                }
                Ok(Order::Cease | Order::Stop) | Err(_) => break,
            };
            match measured {
                Some(measured) => note(&Note::Done(Box::new(measured))),
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
        let Shape { key_bytes, value_bytes_max, .. } = self.task.shape;
        let at_once = LOAD_KEYS.min(LOAD_BYTES / (key_bytes + value_bytes_max)).max(1);
        let mut asks = Vec::with_capacity(at_once);
        while self.workload.present() < self.task.load && !STOP.load(Ordering::SeqCst) {
            let missing = usize::try_from(self.task.load - self.workload.present()).unwrap_or(usize::MAX);
            asks.clear();
            self.workload.ask(Stage::Insert, at_once.min(missing), &mut asks);
            loops::request(&self.client, &mut self.workload, &asks, self.task.verify)?;
        }
        Ok(())
    }

    /// Runs a stage. None: it was stopped before its end.
    fn stage(&mut self, stage: Stage, at_ns: u64) -> Result<Option<Measured>, Trouble> {
        let Bench { client, workload, task, .. } = self;
        let (operations, until_ns) = match task.amount {
            Amount::Operations(operations) => (operations, u64::MAX),
            Amount::Time(time) => (u64::MAX, at_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))),
        };
        let batch = task.shape.batch_of(stage);
        let course = Course { stage, at_ns, until_ns, operations, batch, tolerant: task.verify };
        let pace = match (task.rate, task.pipeline) {
            (Some(ops_per_s), _) => Pace::Open(Schedule { ops_per_s, clients: task.clients, client: task.client }),
            (None, 0 | 1) => Pace::Requests,
            (None, depth) => Pace::Pipeline(depth),
        };
        std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns())));
        let cpu_before_ns = cpu_ns();
        let recorder = Recorder::new(at_ns, now_ns(), task.slice_ns, task.outliers, |slice| note(&Note::Slice(slice)));
        loops::run(client, workload, &course, pace, recorder, || cpu_ns() - cpu_before_ns)
    }

    /// Compares all keys with what is remembered, and tells that it was right.
    fn verify(&mut self) -> Result<(), Trouble> {
        let mut audit = Audit::new(&self.workload);
        while !is_stopped() {
            let page = self.client.scan_page(audit.page())?;
            if let Some(keys) = audit.check(&page.rows, page.cursor)? {
                let memory = self.workload.memory();
                note(&Note::Verified { acknowledged: memory.acknowledged(), unknown: memory.unknown(), keys });
                break;
            }
        }
        Ok(())
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
