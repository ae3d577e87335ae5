//! The bounded queue of calls between the front end and the worker.
//!
//! - Bounded in calls and bytes: a full queue refuses, and the front end answers `busy`.
//! - The worker takes what is there, up to a batch's bounds, in one go.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvbroker_protocol::limits;

use crate::call::Call;

/// Why a call was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full.
    Full,
    /// The broker is stopping.
    Closed,
}

/// What the worker found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collected {
    /// At least one call.
    Calls,
    /// Nothing until the time was up.
    Idle,
    /// Nothing, and nothing will come.
    Closed,
}

#[derive(Default)]
struct Inner {
    calls: VecDeque<Call>,
    bytes: usize,
    closed: bool,
    worker_waits: bool,
}

/// The queue; shared by the front end and the worker.
#[derive(Default)]
pub struct Intake {
    inner: Mutex<Inner>,
    ready: Condvar,
}

impl Intake {
    /// An empty queue.
    pub fn new() -> Intake {
        Intake::default()
    }

    /// A panic of another thread ends the process; until then the queue's content is whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts calls into the queue in order; what is not taken stays in `calls`.
    ///
    /// # Errors
    /// [`Refusal`] if not all were taken.
    pub fn push(&self, calls: &mut VecDeque<Call>) -> Result<(), Refusal> {
        let mut inner = self.lock();
        let mut refusal = Ok(());
        while let Some(call) = calls.front() {
            if inner.closed {
                refusal = Err(Refusal::Closed);
                break;
            }
            if inner.calls.len() >= limits::INTAKE_CALLS_MAX || inner.bytes + call.weight() > limits::INTAKE_BYTES_MAX {
                refusal = Err(Refusal::Full);
                break;
            }
            inner.bytes += call.weight();
            inner.calls.extend(calls.pop_front());
        }
        let wake = inner.worker_waits && !inner.calls.is_empty();
        drop(inner);
        if wake {
            self.ready.notify_one();
        }
        refusal
    }

    /// Moves up to a batch of calls into `out`, waiting up to `wait` for the first.
    pub fn collect(&self, out: &mut Vec<Call>, wait: Duration) -> Collected {
        let deadline = Instant::now() + wait;
        let mut inner = self.lock();
        while inner.calls.is_empty() {
            if inner.closed {
                return Collected::Closed;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return Collected::Idle;
            };
            inner.worker_waits = true;
            inner = self.ready.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
            inner.worker_waits = false;
        }
        let mut bytes = 0;
        while let Some(call) = inner.calls.front() {
            if !out.is_empty() && (out.len() == limits::BATCH_CALLS_MAX || bytes + call.weight() > limits::BATCH_BYTES_MAX) {
                break;
            }
            let weight = call.weight();
            bytes += weight;
            inner.bytes -= weight;
            out.extend(inner.calls.pop_front());
        }
        Collected::Calls
    }

    /// Takes no more calls; the worker still gets those that are in.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// Calls waiting now.
    pub fn len(&self) -> usize {
        self.lock().calls.len()
    }

    /// True when no call waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Envelope;
    use kvbroker_protocol::{Form, Header, Operation, Operations, Request};

    fn call(bytes: usize) -> Call {
        let operations = Operations::One(Operation::Ping);
        Call {
            client: 1,
            user: "owner".into(),
            envelope: Envelope::default(),
            request: Request { header: Header::default(), form: Form::Json, operations },
            bytes,
        }
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_order() {
        let intake = Intake::new();
        let mut calls: VecDeque<Call> = (0..limits::INTAKE_CALLS_MAX + 2).map(call).collect();
        assert_eq!(intake.push(&mut calls), Err(Refusal::Full));
        let taken = intake.len();
        assert_eq!(calls.front().map(|call| call.bytes), Some(taken));
        let mut out = Vec::new();
        assert_eq!(intake.collect(&mut out, Duration::ZERO), Collected::Calls);
        assert!(out.len() <= limits::BATCH_CALLS_MAX);
        assert!(out.iter().enumerate().all(|(at, call)| call.bytes == at));
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let intake = Intake::new();
        let count = limits::INTAKE_BYTES_MAX / limits::MESSAGE_BYTES_MAX;
        let mut calls: VecDeque<Call> = (0..=count).map(|_| call(limits::MESSAGE_BYTES_MAX)).collect();
        assert_eq!(intake.push(&mut calls), Err(Refusal::Full));
        assert_eq!(calls.len(), 1);
        let mut out = Vec::new();
        assert_eq!(intake.collect(&mut out, Duration::ZERO), Collected::Calls);
        assert_eq!(out.len(), limits::BATCH_BYTES_MAX / limits::MESSAGE_BYTES_MAX);
        assert_eq!(intake.push(&mut calls), Ok(()));
    }

    #[test]
    fn short_operations_count_with_what_they_take_in_memory() {
        // Arrays of `["size"]` were counted with their 28 KB and took 650: the bound of 256 MiB let 6 GB in.
        let intake = Intake::new();
        let many = limits::ARRAY_OPERATIONS_MAX;
        let array = || {
            let mut call = call(7 * many);
            call.request.operations = Operations::Many(vec![Operation::Size; many]);
            call
        };
        let held = limits::INTAKE_BYTES_MAX / (many * size_of::<Operation>());
        let mut calls: VecDeque<Call> = (0..=held).map(|_| array()).collect();
        assert_eq!(intake.push(&mut calls), Err(Refusal::Full));
        assert_eq!(intake.len(), held);
        let mut out = Vec::new();
        while !intake.is_empty() {
            out.clear();
            assert_eq!(intake.collect(&mut out, Duration::ZERO), Collected::Calls);
            assert!(out.len() <= limits::BATCH_BYTES_MAX / (many * size_of::<Operation>()));
        }
        assert_eq!(intake.lock().bytes, 0);
    }

    #[test]
    fn lists_inside_an_operation_count_with_what_they_take_in_memory() {
        use kvbroker_protocol::{Compare, Condition, Txn};
        let weight = |operation| {
            let mut call = call(5_000);
            call.request.operations = Operations::One(operation);
            call.weight()
        };
        // A short key is two bytes of a message and a list's element in memory.
        let keys = || vec![vec![b'k']; limits::ARRAY_OPERATIONS_MAX];
        assert_eq!(weight(Operation::Mget { keys: vec![vec![b'k']] }), 5_000, "the message is what is large");
        assert!(weight(Operation::Mget { keys: keys() }) >= limits::ARRAY_OPERATIONS_MAX * size_of::<Vec<u8>>());
        let compare = Compare { key: vec![], condition: Condition::Absent };
        let txn = Txn {
            compares: vec![compare; 500],
            then: vec![Operation::Mget { keys: keys() }],
            otherwise: vec![Operation::Size; 500],
        };
        let inside = 500 * (size_of::<Compare>() + size_of::<Operation>()) + limits::ARRAY_OPERATIONS_MAX * size_of::<Vec<u8>>();
        assert!(weight(Operation::Txn(Box::new(txn))) >= inside);
    }

    #[test]
    fn closing_lets_the_worker_finish_what_is_in() {
        let intake = Intake::new();
        let mut out = Vec::new();
        assert_eq!(intake.collect(&mut out, Duration::ZERO), Collected::Idle);
        assert_eq!(intake.push(&mut VecDeque::from([call(1)])), Ok(()));
        intake.close();
        assert_eq!(intake.push(&mut VecDeque::from([call(1)])), Err(Refusal::Closed));
        assert_eq!(intake.collect(&mut out, Duration::ZERO), Collected::Calls);
        assert_eq!(intake.collect(&mut out, Duration::ZERO), Collected::Closed);
    }
}
