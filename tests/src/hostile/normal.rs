//! Clients that do nothing wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Target;
use crate::RawClient;

/// Eight of them: four on the unix socket, four by TCP with the owner's key. Each puts and gets by turns.
pub struct Normal {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    done: Vec<AtomicU64>,
    latencies: Mutex<Histogram<u64>>,
}

/// How many there are.
pub const CLIENTS: usize = 8;

impl Normal {
    /// Starts them, each with a request every `pause`.
    pub fn start(target: &Target, pause: Duration) -> Normal {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            done: (0..CLIENTS).map(|_| AtomicU64::new(0)).collect(),
            latencies: Mutex::new(new_histogram()),
        });
        let threads = (0..CLIENTS)
            .map(|number| {
                let (target, shared) = (target.clone(), Arc::clone(&shared));
                std::thread::spawn(move || work(number, &target, &shared, pause))
            })
            .collect();
        Normal { shared, threads }
    }

    /// How many requests each has had answered.
    pub fn done(&self) -> Vec<u64> {
        self.shared.done.iter().map(|done| done.load(Ordering::Acquire)).collect()
    }

    /// Whether one of them got a wrong answer, or none.
    pub fn is_hurt(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// The latencies since the last call, microseconds.
    pub fn take_latencies(&self) -> Histogram<u64> {
        std::mem::replace(&mut self.shared.lock(), new_histogram())
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Normal {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // Its panic has been printed, and seen by `is_hurt`.
            let _ = thread.join();
        }
    }
}

fn new_histogram() -> Histogram<u64> {
    // Up to ten minutes: beyond its bound a histogram counts what it could count last.
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("three digits are allowed")
}

fn work(number: usize, target: &Target, shared: &Shared, pause: Duration) {
    let client = if number.is_multiple_of(2) {
        RawClient::dealer(&target.router_socket)
    } else {
        RawClient::on_tcp(&format!("tcp://{}", target.router), &target.owner, &target.broker)
    };
    let key = format!("normal/{number}");
    let mut due = Instant::now();
    let mut last = Value::Null;
    for round in 0_u64.. {
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        if round.is_multiple_of(2) {
            let reply = client.ask_json(&json!({"id": round, "op": "put", "key": key, "value": round}));
            assert_eq!((&reply["status"], &reply["id"]), (&json!("ok"), &json!(round)), "{reply}");
            last = reply["rev"].clone();
        } else {
            let reply = client.ask_json(&json!({"id": round, "op": "get", "key": key}));
            assert_eq!((&reply["value"], &reply["modified"]), (&json!(round - 1), &last), "{reply}");
        }
        let took = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        shared.lock().saturating_record(took);
        shared.done[number].fetch_add(1, Ordering::Release);
        due += pause;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
