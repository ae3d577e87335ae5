//! What an operation costs the worker on its whole way, from the message's bytes to the end of its reply: `cargo test --release -p
//! kvbroker-table --test worker -- --ignored --nocapture cost_of_the_way`.
//!
//! Messages are decoded, and replies and events dropped, by another thread than the worker's, as in the broker. The log is one in memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use kvbroker_protocol::{Header, Operation, Operations, SessionId, decode_request, encode_request};
use kvbroker_table::{Account, Call, Envelope};

use crate::bench::{Bench, WALL_MS, get, put};

const KEYS: u64 = 100_000;
const IN_MESSAGE: u64 = 128;
const SESSIONS: u64 = 8;
/// Messages that wait for the worker.
const WAITING: usize = 16;

/// Nanoseconds for which this thread has run.
fn busy_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn key(number: u64) -> String {
    format!("key:{:011}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS)
}

/// The bytes of messages: of each session so many, by turns.
fn bodies(first: u64, messages: u64, operation: impl Fn(u64) -> Operation, is_numbered: bool) -> Vec<Vec<u8>> {
    let body = |at: u64| {
        let begin = 1 + (first + at) / SESSIONS * IN_MESSAGE;
        let operations = (0..IN_MESSAGE).map(|number| operation((first + at) * IN_MESSAGE + number)).collect();
        let header = if is_numbered {
            let session = Some(SessionId::new(WALL_MS, at % SESSIONS));
            Header { session, seq: Some(begin), ack: Some(begin.saturating_sub(513)), id: Some(begin), ..Header::default() }
        } else {
            Header { id: Some(begin), ..Header::default() }
        };
        let mut body = Vec::new();
        encode_request(&header, &Operations::Many(operations), &mut body);
        body
    };
    (0..messages).map(body).collect()
}

/// Has the messages worked off. Nanoseconds of processor time of the worker, and of the other thread.
fn work_off(bench: &Bench, worker: &mut kvbroker_table::Worker<crate::bench::WatchedLog>, bodies: &[Vec<u8>]) -> (u64, u64) {
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let begin = busy_ns();
            let account = Account::alone(1);
            for body in bodies {
                while bench.intake.len() >= WAITING {
                    while bench.replies.pop().is_some() {}
                    while bench.events.pop().is_some() {}
                    std::thread::yield_now();
                }
                let request = decode_request(body).unwrap();
                let bytes = Call::weight(&request, body.len());
                let envelope = Envelope::default();
                let call = Call { client: 1, account: account.clone(), user: "owner".into(), envelope, request, bytes };
                bench.intake.push(&mut VecDeque::from([call])).unwrap();
            }
            while done.load(Ordering::Acquire) == 0 {
                while bench.replies.pop().is_some() {}
                while bench.events.pop().is_some() {}
                std::thread::yield_now();
            }
            busy_ns() - begin
        });
        let target = worker.counters.operations.load(Ordering::Relaxed) + bodies.len() as u64 * IN_MESSAGE;
        let mut course = worker.begin();
        let begin = busy_ns();
        while worker.counters.operations.load(Ordering::Relaxed) < target {
            worker.step(&mut course, std::time::Duration::from_millis(1)).unwrap();
        }
        let took = busy_ns() - begin;
        done.store(1, Ordering::Release);
        (took, other.join().unwrap())
    })
}

#[test]
#[ignore = "a measurement"]
fn cost_of_the_way() {
    let bench = Bench::new();
    bench.shared.seen().leaves_all = true;
    let mut worker = bench.worker();
    let value = "v".repeat(64);
    let puts = |number| put(&key(number), &value);
    let in_all = |messages: u64| messages * IN_MESSAGE;
    let insert = bodies(0, (KEYS / IN_MESSAGE + SESSIONS) / SESSIONS * SESSIONS, puts, true);
    work_off(&bench, &mut worker, &insert);
    let mut first = insert.len() as u64;
    let mut least = [[u64::MAX; 2]; 3];
    for _ in 0..12 {
        let messages = 400;
        let rounds = [
            bodies(first, messages, puts, true),
            bodies(first, messages, puts, false),
            bodies(first, messages, |number| get(&key(number)), false),
        ];
        first += messages;
        for (least, round) in least.iter_mut().zip(&rounds) {
            let (worker_ns, other_ns) = work_off(&bench, &mut worker, round);
            least[0] = least[0].min(worker_ns / in_all(messages));
            least[1] = least[1].min(other_ns / in_all(messages));
        }
    }
    let [numbered, plain, gets] = least;
    println!("ns of worker and other thread: numbered puts {numbered:?}, puts {plain:?}, gets {gets:?}");
}
