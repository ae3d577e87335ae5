//! The client library under `kill -9`: pipelines with full windows never notice that the broker restarts.
//!
//! - Eight clients, each a pipeline of increments, compare-and-set chains, puts that are removed on condition of their value, and
//!   transactions. The broker is killed and restarted again and again meanwhile.
//! - No call may fail, and at the end every sum and every chain is exact: nothing was lost, nothing done twice.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions, Pipeline, Ticket};
use kvbroker::paths::Dirs;
use kvbroker_protocol::{Answer, Compare, Condition, Operation, Stored, Txn};
use kvbroker_tests::{Broker, PATIENCE, wait_until};

const CLIENTS: u64 = 8;
const ROUNDS: u64 = 8;
/// Answers between two kills, all clients together.
const ANSWERS_PER_ROUND: u64 = 4_000;

fn connect(broker: &Broker) -> Client {
    let options = ConnectOptions::new()
        .dirs(Dirs::under(broker.home().path()).unwrap())
        .catalogs(CatalogList::none())
        .timeout(Duration::from_secs(120));
    Client::connect_with("test", options).unwrap()
}

/// What an operation must answer.
type Check = Box<dyn Fn(&Answer) -> bool>;

/// One client's work: what it submits, and what each answer must be.
struct Worker<'a> {
    number: u64,
    pipeline: Pipeline,
    tickets: VecDeque<(Ticket, &'static str, Check)>,
    answers: &'a AtomicU64,
    steps: u64,
}

impl Worker<'_> {
    fn submit(&mut self, what: &'static str, operation: Operation, check: impl Fn(&Answer) -> bool + 'static) {
        let ticket = self.pipeline.submit(operation);
        self.tickets.push_back((ticket, what, Box::new(check)));
        if self.tickets.len() > 4_000 {
            self.look_at_the_oldest();
        }
    }

    fn look_at_the_oldest(&mut self) {
        let Some((ticket, what, check)) = self.tickets.pop_front() else { return };
        let (answer, _) = ticket.wait().unwrap_or_else(|error| panic!("{what} of client {}: {error}", self.number));
        assert!(check(&answer), "{what} of client {}: {answer:?}", self.number);
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Every operation depends on those before it: one that is lost, doubled or out of order makes a later one fail.
    fn step(&mut self) {
        self.steps += 1;
        let (step, own) = (self.steps, self.number);
        let text = |step: u64| Stored::text(&step.to_string()).unwrap();
        let key = |name: &str| format!("{name}/{own}").into_bytes();
        self.submit("incr", Operation::Incr { key: key("count"), by: 1 }, move |answer| *answer == Answer::Integer(step.into()));
        let before = if step == 1 { Condition::Absent } else { Condition::Value(text(step - 1)) };
        let chain = Operation::Put { key: key("chain"), value: text(step), condition: Some(before), ttl_ms: None };
        self.submit("chain", chain, |answer| *answer == Answer::Done);
        let lock = Operation::Put { key: key("lock"), value: text(step), condition: Some(Condition::Absent), ttl_ms: None };
        self.submit("lock", lock, |answer| *answer == Answer::Done);
        let unlock = Operation::Del { key: key("lock"), return_old: false, condition: Some(Condition::Value(text(step))) };
        self.submit("unlock", unlock, |answer| *answer == Answer::Done);
        let txn = Txn {
            compares: vec![Compare { key: key("chain"), condition: Condition::Value(text(step)) }],
            then: vec![Operation::Incr { key: b"sum".to_vec(), by: 1 }, Operation::Incr { key: key("moved"), by: 2 }],
            otherwise: vec![],
        };
        self.submit("txn", Operation::Txn(Box::new(txn)), |answer| matches!(answer, Answer::Txn { succeeded: true, .. }));
    }
}

#[test]
fn pipelines_with_full_windows_do_not_notice_kills() {
    let mut broker = Broker::plain();
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let checker = connect(&broker);
    let steps: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let pipeline = connect(&broker).pipeline();
                let (stop, answers) = (&stop, &answers);
                scope.spawn(move || {
                    let mut worker = Worker { number, pipeline, tickets: VecDeque::new(), answers, steps: 0 };
                    while !stop.load(Ordering::Relaxed) {
                        worker.step();
                    }
                    while !worker.tickets.is_empty() {
                        worker.look_at_the_oldest();
                    }
                    worker.steps
                })
            })
            .collect();
        for round in 1..=ROUNDS {
            wait_until(PATIENCE, "answers", || {
                let failed = workers.iter().any(|worker| worker.is_finished());
                (failed || answers.load(Ordering::Relaxed) >= round * ANSWERS_PER_ROUND).then_some(())
            });
            broker.kill9();
            broker.restart();
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for (number, steps) in steps.iter().enumerate() {
        assert_eq!(checker.incr(format!("count/{number}"), 0).unwrap(), i128::from(*steps));
        assert_eq!(checker.incr(format!("moved/{number}"), 0).unwrap(), i128::from(2 * steps));
        assert_eq!(checker.get(format!("chain/{number}")).unwrap().unwrap().value.as_text(), Some(steps.to_string()));
    }
    assert_eq!(checker.incr("sum", 0).unwrap(), i128::from(steps.iter().sum::<u64>()));
    println!("{} steps of 5 operations, {ROUNDS} kills", steps.iter().sum::<u64>());
}
