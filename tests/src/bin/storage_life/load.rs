//! What is written and read back: keys by number, values that tell the key and the round in which they were written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvbroker::client::Client;
use kvbroker_protocol::{Answer, ErrorCode, Key, Operation, Stored};
use kvbroker_tests::Home;

use crate::{Failed, connect};

/// Operations of one request.
const ARRAY: u64 = 512;
/// Keys that a later round writes again.
const SOME: u64 = 200_000;
/// Before what was told `busy` is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// The keys of a run.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    pub(crate) threads: u64,
}

/// 15 bytes, spread over the table: not in the order in which they are written.
fn key(number: u64) -> Key {
    format!("k{:014x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8).into_bytes()
}

/// Bytes that depend on the key and the round alone.
fn value(number: u64, round: u64, bytes: usize) -> Stored {
    let head = [number.to_le_bytes(), round.to_le_bytes()].concat();
    let filling = (0..bytes.saturating_sub(head.len())).map(|at| (number as u8).wrapping_add(at as u8));
    Stored::bytes(&head.iter().copied().chain(filling).collect::<Vec<u8>>()).expect("a value of this size is allowed")
}

impl Load {
    /// Writes all keys; gives the seconds.
    pub(crate) fn run(&self, home: &Home, round: u64) -> Result<f64, Failed> {
        let started = Instant::now();
        self.in_threads(
            home,
            0..self.keys,
            |numbers| numbers.map(|number| self.put(number, round)).collect(),
            |answers, _| {
                answers
                    .iter()
                    .all(|answer| matches!(answer, Answer::Done))
                    .then_some(())
                    .ok_or_else(|| "a put was refused".into())
            },
        )?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Writes the first keys again.
    pub(crate) fn some(&self, home: &Home, round: u64) -> Result<(), Failed> {
        Load { keys: self.keys.min(SOME), ..self.clone() }.run(home, round).map(drop)
    }

    /// Reads all keys; the first ones were written again in rounds up to `rounds`, of which the last may be incomplete.
    pub(crate) fn check(&self, home: &Home, rounds: u64) -> Result<(), Failed> {
        let get = |numbers: std::ops::Range<u64>| numbers.map(|number| Operation::Get { key: key(number) }).collect();
        self.in_threads(home, 0..self.keys, get, |answers, first| {
            for (answer, number) in answers.iter().zip(first..) {
                let Answer::Value { value: found, .. } = answer else { return Err(format!("key {number} is gone").into()) };
                let written = if number < SOME { rounds.saturating_sub(1)..rounds } else { 0..1 };
                if !written.clone().any(|round| *found == value(number, round, self.value_bytes)) {
                    return Err(format!("key {number} has another value than was written").into());
                }
            }
            Ok(())
        })
    }

    fn put(&self, number: u64, round: u64) -> Operation {
        Operation::Put { key: key(number), value: value(number, round, self.value_bytes), condition: None, ttl_ms: None }
    }

    /// Sends arrays of operations by several clients, and looks at the answers of each, in the order of the numbers.
    fn in_threads(
        &self,
        home: &Home,
        numbers: std::ops::Range<u64>,
        make: impl Fn(std::ops::Range<u64>) -> Vec<Operation> + Sync,
        look: impl Fn(&[Answer], u64) -> Result<(), Failed> + Sync,
    ) -> Result<(), Failed> {
        let next = AtomicU64::new(numbers.start);
        let end = numbers.end;
        std::thread::scope(|scope| {
            let work = || -> Result<(), Failed> {
                let client = connect(home)?;
                loop {
                    let first = next.fetch_add(ARRAY, Ordering::Relaxed);
                    if first >= end {
                        return Ok(());
                    }
                    let answers = ask(&client, &make(first..end.min(first + ARRAY)))?;
                    look(&answers, first)?;
                }
            };
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            let progress = scope.spawn(|| {
                let (mut said, started) = (Instant::now(), Instant::now());
                while next.load(Ordering::Relaxed) < end {
                    std::thread::sleep(Duration::from_millis(50));
                    if said.elapsed() >= Duration::from_secs(5) {
                        said = Instant::now();
                        let done = next.load(Ordering::Relaxed) - numbers.start;
                        eprintln!(
                            "  {done} of {} ({:.0} a second)",
                            end - numbers.start,
                            done as f64 / started.elapsed().as_secs_f64()
                        );
                    }
                }
            });
            let result =
                threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a client panicked".into())));
            // Also after an error: whoever waits for the end must see it.
            next.store(end, Ordering::Relaxed);
            let _ = progress.join();
            result
        })
    }
}

/// The answers to an array; what is told `busy` is asked again, as that promises that nothing was done.
fn ask(client: &Client, operations: &[Operation]) -> Result<Vec<Answer>, Failed> {
    let mut answers = vec![None; operations.len()];
    loop {
        let left: Vec<usize> = (0..answers.len()).filter(|at| answers[*at].is_none()).collect();
        if left.is_empty() {
            return Ok(answers.into_iter().flatten().collect());
        }
        let mut pause = Duration::ZERO;
        for (at, outcome) in left.iter().zip(client.batch(left.iter().map(|at| operations[*at].clone()).collect())?) {
            match outcome.result {
                Ok(answer) => answers[*at] = Some(answer),
                Err(failure) if failure.code == ErrorCode::Busy || failure.code == ErrorCode::OutOfOrder => pause = PAUSE,
                Err(failure) => return Err(failure.to_string().into()),
            }
        }
        std::thread::sleep(pause);
    }
}
