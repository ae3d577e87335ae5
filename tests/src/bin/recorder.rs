//! A program of the tests: uses a table from several threads and writes down what it asked and was told (see `Task`).
//!
//! - Its clients go through the client library, or speak the protocol themselves; both outlive restarts of the broker.
//! - Lines on stdout say how far it is, so that somebody who watches knows when to disturb.
//! - It stops when stdin ends.
//! - The history is whole when the program ends with 0. Any error that a user would see ends it with 1 and a word. Mutations of unknown
//!   outcome are recorded as such, for the test to judge.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ClientError, ConnectOptions, Pipeline, Ticket};
use kvbroker_protocol::{Operation, Outcome};
use kvbroker_tests::linear::plan::Plan;
use kvbroker_tests::linear::{Ask, End, Recorded, history, now_ns, words};
use kvbroker_tests::{Depth, Dice, Lane, Line, NumberedClient, Task};

/// The time of a call, which is longer than all restarts of a test together.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A line for so many operations.
const LINE_EACH: u32 = 500;
/// Longest spell of one depth.
const SPELL_MAX: usize = 4_000;
/// Most operations of a message, in lanes that make the messages themselves.
const ARRAY_MAX: usize = 256;

/// Nothing more is to be asked.
static STOP: AtomicBool = AtomicBool::new(false);

type Failed = Box<dyn std::error::Error + Send + Sync>;
type Out = Mutex<BufWriter<File>>;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1) {
        Some(task) => serde_json::from_str(&task).map_err(Failed::from).and_then(|task| run(&task)),
        None => Err("usage: recorder TASK".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("recorder: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<(), Failed> {
    let out = Mutex::new(BufWriter::new(File::create(&task.history)?));
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        STOP.store(true, Ordering::Relaxed);
    });
    let shared = if task.lane == Lane::Shared { Some(connect(&task.project)?) } else { None };
    let work = &|number: u32| Recorder::new(task, number, shared.as_ref())?.run(task, &out);
    std::thread::scope(|scope| {
        let clients = task.first_client..task.first_client + task.clients;
        let threads: Vec<_> = clients.map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a client panicked".into())))
    })?;
    out.into_inner()?.flush()?;
    Ok(())
}

fn say(line: &Line) -> Result<(), Failed> {
    let mut line = serde_json::to_string(line)?;
    line.push('\n');
    std::io::stdout().lock().write_all(line.as_bytes())?;
    Ok(())
}

/// One client.
struct Recorder {
    number: u32,
    plan: Plan,
    dice: Dice,
    talk: Box<dyn Talk>,
    under_way: VecDeque<UnderWay>,
}

/// An operation that was asked and is not recorded yet.
struct UnderWay {
    number: u32,
    begun_ns: u64,
    ask: Ask,
}

impl Recorder {
    fn new(task: &Task, number: u32, shared: Option<&Client>) -> Result<Recorder, Failed> {
        let mut dice = Dice::new(task.seed.wrapping_add(u64::from(number) << 32));
        let plan = Plan::new(number, Dice::new(dice.number()));
        let talk: Box<dyn Talk> = match task.lane {
            Lane::Library => Box::new(Library::new(&connect(&task.project)?)),
            Lane::Shared => Box::new(Library::new(shared.ok_or("nothing is shared")?)),
            Lane::Numbered => Box::new(Numbered::new(task)),
        };
        Ok(Recorder { number, plan, dice, talk, under_way: VecDeque::new() })
    }

    fn run(mut self, task: &Task, out: &Out) -> Result<(), Failed> {
        let (mut depth, mut spell) = (1, 0);
        for number in (0..task.operations).take_while(|_| !STOP.load(Ordering::Relaxed)) {
            if spell == 0 {
                (depth, spell) = match task.depth {
                    Depth::Always(depth) => (depth, usize::MAX),
                    // As often few as many.
                    Depth::UpTo(most) => (1 << self.dice.below(most.max(1).ilog2() as usize + 1), self.dice.below(SPELL_MAX)),
                };
                self.talk.together((depth / 8).clamp(1, ARRAY_MAX));
            }
            spell = spell.saturating_sub(1);
            while self.under_way.len() >= depth {
                self.record_next(out)?;
            }
            let ask = self.plan.next(number);
            let begun_ns = now_ns();
            self.talk.ask(words::operation(&ask))?;
            self.under_way.push_back(UnderWay { number, begun_ns, ask });
        }
        while !self.under_way.is_empty() {
            self.record_next(out)?;
        }
        say(&Line::Expired(self.talk.expired()))
    }

    /// Waits for the oldest operation's reply and writes both down.
    fn record_next(&mut self, out: &Out) -> Result<(), Failed> {
        let Some((outcome, at_ns)) = self.talk.next_reply()? else { return Err("a reply is missing".into()) };
        let Some(UnderWay { number, begun_ns, ask }) = self.under_way.pop_front() else {
            return Err("a reply to nothing".into());
        };
        let end = outcome.map(|outcome| {
            let (told, revision) = words::told(outcome).map_err(|error| format!("{ask}: {error}"))?;
            Ok::<_, Failed>(End { at_ns, revision, told })
        });
        let end = end.transpose()?;
        self.plan.learn(&ask, end.as_ref());
        let record = Recorded { client: self.number, number, begun_ns, ask, end };
        history::write(&mut *out.lock().map_err(|_| "another client panicked")?, &record)?;
        if number % LINE_EACH == LINE_EACH - 1 {
            say(&Line::Operations(LINE_EACH.into()))?;
        }
        Ok(())
    }
}

/// A way to ask and to be told, in order.
trait Talk {
    /// How many operations shall go together, where that is ours to say.
    fn together(&mut self, operations: usize);
    /// Asks; does not wait for the reply.
    fn ask(&mut self, operation: Operation) -> Result<(), Failed>;
    /// The reply to the oldest operation that has none, and when it was there; an outcome that is unknown is None.
    fn next_reply(&mut self) -> Result<Option<(Option<Outcome>, u64)>, Failed>;
    /// Mutations that were told that their session is not known any more.
    fn expired(&self) -> u64;
}

/// The client library.
struct Library {
    pipeline: Pipeline,
    tickets: VecDeque<Ticket>,
    expired: u64,
}

impl Library {
    fn new(client: &Client) -> Library {
        Library { pipeline: client.pipeline(), tickets: VecDeque::new(), expired: 0 }
    }
}

fn connect(project: &str) -> Result<Client, Failed> {
    let options = ConnectOptions::new().timeout(TIMEOUT).wait_for_broker(true).catalogs(CatalogList::from_env(Some("none"))?);
    Ok(Client::connect_with(project, options)?)
}

impl Talk for Library {
    fn together(&mut self, _operations: usize) {}

    fn ask(&mut self, operation: Operation) -> Result<(), Failed> {
        self.tickets.push_back(self.pipeline.submit(operation));
        Ok(())
    }

    fn next_reply(&mut self) -> Result<Option<(Option<Outcome>, u64)>, Failed> {
        let Some(ticket) = self.tickets.pop_front() else { return Ok(None) };
        let outcome = match ticket.outcome() {
            Ok(outcome) => Some(outcome),
            Err(ClientError::Unknown { why, .. }) => {
                self.expired += u64::from(why.contains("session"));
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Some((outcome, now_ns())))
    }

    fn expired(&self) -> u64 {
        self.expired
    }
}

/// A client of our own.
struct Numbered {
    client: NumberedClient,
    together: usize,
    /// Not sent yet.
    gathered: Vec<Operation>,
    replies: VecDeque<(Option<Outcome>, u64)>,
}

impl Numbered {
    fn new(task: &Task) -> Numbered {
        let client = NumberedClient::new(&task.router);
        Numbered { client, together: 1, gathered: Vec::new(), replies: VecDeque::new() }
    }

    fn send(&mut self) {
        if !self.gathered.is_empty() {
            self.client.send(std::mem::take(&mut self.gathered));
        }
    }
}

impl Talk for Numbered {
    fn together(&mut self, operations: usize) {
        self.together = operations;
    }

    fn ask(&mut self, operation: Operation) -> Result<(), Failed> {
        self.gathered.push(operation);
        if self.gathered.len() >= self.together {
            self.send();
        }
        Ok(())
    }

    fn next_reply(&mut self) -> Result<Option<(Option<Outcome>, u64)>, Failed> {
        if self.replies.is_empty() {
            if self.client.in_flight() == 0 {
                self.send();
            }
            let outcomes = self.client.receive()?;
            let at_ns = now_ns();
            self.replies.extend(outcomes.into_iter().map(|outcome| (outcome, at_ns)));
        }
        Ok(self.replies.pop_front())
    }

    fn expired(&self) -> u64 {
        self.client.expired() as u64
    }
}
