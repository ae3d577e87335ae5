//! The bounded queue of calls between the front end and the worker.
//!
//! - Bounded in calls and bytes, together with what waits in the worker's [`Agenda`]: a full queue refuses, and the front end answers
//!   `busy`. What one client may have of it is bounded by the front end, which knows what it has in flight.
//! - It only hands over. Whose call is next is the agenda's business, and no lock is held for it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::agenda::{Agenda, Back, Waiting};
use crate::call::{Call, ClientId};
use crate::credit::{Credit, UserNumber, Wake};

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
    /// Nothing until the time was up, or a nudge came.
    Idle,
    /// Nothing, and nothing will come.
    Closed,
}

/// What became of calls that were put into the queue.
pub(crate) struct Offered {
    /// Not all were taken.
    pub(crate) refusal: Result<(), Refusal>,
    /// The worker's thread sleeps, and has to be woken for them.
    pub(crate) wakes: bool,
    /// Nothing else was in the queue.
    pub(crate) are_all: bool,
}

#[derive(Default)]
struct Inner {
    calls: VecDeque<Call>,
    back: Back,
    closed: bool,
    worker_waits: bool,
    /// The worker has something else to do.
    nudged: bool,
}

impl Inner {
    fn is_quiet(&self) -> bool {
        self.calls.is_empty() && self.back.is_nobody()
    }
}

#[derive(Default)]
struct Queue {
    inner: Mutex<Inner>,
    ready: Condvar,
}

impl Queue {
    /// A panic of another thread ends the process; until then the queue's content is whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, note: impl FnOnce(&mut Back)) {
        let mut inner = self.lock();
        note(&mut inner.back);
        let wake = inner.worker_waits;
        drop(inner);
        if wake {
            self.ready.notify_one();
        }
    }
}

impl Wake for Queue {
    fn client(&self, client: ClientId) {
        self.tell(|back| back.clients.push(client));
    }

    fn user(&self, user: UserNumber) {
        self.tell(|back| back.users.push(user));
    }

    fn everybody(&self) {
        self.tell(|back| back.everybody = true);
    }
}

/// The queue; shared by the front end and the worker.
pub struct Intake {
    queue: Arc<Queue>,
    credit: Arc<Credit>,
    waiting: Arc<Waiting>,
}

impl Default for Intake {
    fn default() -> Intake {
        let queue = Arc::new(Queue::default());
        let wake: Weak<dyn Wake> = Arc::<Queue>::downgrade(&queue);
        Intake { queue, credit: Credit::new(wake), waiting: Arc::default() }
    }
}

impl Intake {
    /// An empty queue.
    pub fn new() -> Intake {
        Intake::default()
    }

    /// An empty agenda for the worker of this queue; there is one.
    pub fn agenda(&self) -> Agenda {
        Agenda::new(self.waiting.clone())
    }

    /// What the clients of this queue may leave unread.
    pub fn credit(&self) -> &Arc<Credit> {
        &self.credit
    }

    /// Clients whose calls wait for credit.
    pub fn held(&self) -> usize {
        self.waiting.held()
    }

    /// Puts calls into the queue in order; what is not taken stays in `calls`.
    ///
    /// # Errors
    /// [`Refusal`] if not all were taken.
    pub fn push(&self, calls: &mut VecDeque<Call>) -> Result<(), Refusal> {
        let Offered { refusal, wakes, .. } = self.offer(calls);
        if wakes {
            self.wake();
        }
        refusal
    }

    /// As [`Intake::push`], but leaves it to the caller to wake the worker.
    pub(crate) fn offer(&self, calls: &mut VecDeque<Call>) -> Offered {
        let bytes = calls.iter().map(|call| call.bytes).sum();
        let mut inner = self.queue.lock();
        let mut refusal = Ok(());
        let was_quiet = inner.is_quiet();
        if !inner.closed && self.waiting.has_room_for(calls.len(), bytes) {
            self.waiting.add(calls.len(), bytes);
            if inner.calls.is_empty() {
                std::mem::swap(&mut inner.calls, calls);
            } else {
                inner.calls.append(calls);
            }
        }
        while let Some(call) = calls.front() {
            if inner.closed {
                refusal = Err(Refusal::Closed);
                break;
            }
            if !self.waiting.has_room_for(1, call.bytes) {
                refusal = Err(Refusal::Full);
                break;
            }
            self.waiting.add(1, call.bytes);
            inner.calls.extend(calls.pop_front());
        }
        let wakes = inner.worker_waits && !inner.calls.is_empty();
        Offered { refusal, wakes, are_all: was_quiet }
    }

    /// Wakes the worker's thread for what was offered.
    pub(crate) fn wake(&self) {
        self.queue.ready.notify_one();
    }

    /// Waits until there is something for the worker, but no longer than `wait`.
    pub fn wait(&self, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let mut inner = self.queue.lock();
        if !inner.is_quiet() {
            return;
        }
        let deadline = Instant::now() + wait;
        while inner.is_quiet() && !inner.closed && !inner.nudged {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            inner.worker_waits = true;
            inner = self.queue.ready.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
            inner.worker_waits = false;
        }
    }

    /// Brings what has arrived to the agenda and begins its next turn.
    pub fn collect(&self, agenda: &mut Agenda) -> Collected {
        let mut inner = self.queue.lock();
        if inner.is_quiet() && agenda.is_empty() {
            inner.nudged = false;
            return if inner.closed { Collected::Closed } else { Collected::Idle };
        }
        // The agenda has sorted in what came the last time: two buffers take turns.
        std::mem::swap(&mut inner.calls, agenda.arrived());
        std::mem::swap(&mut inner.back, agenda.back());
        drop(inner);
        agenda.begin();
        Collected::Calls
    }

    /// Ends the worker's wait: something else than a call is there for it.
    pub fn nudge(&self) {
        let mut inner = self.queue.lock();
        inner.nudged = true;
        let wake = inner.worker_waits;
        drop(inner);
        if wake {
            self.queue.ready.notify_one();
        }
    }

    /// Takes no more calls; the worker still gets those that are in.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.queue.ready.notify_all();
    }

    /// Calls that wait now, in the queue and in the agenda.
    pub fn len(&self) -> usize {
        self.waiting.calls()
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
    use crate::credit::Account;
    use kvbroker_protocol::{Form, Header, Operation, Operations, Request, limits};

    fn call_of(operations: Operations, message_bytes: usize) -> Call {
        let request = Request { header: Header::default(), form: Form::Json, operations };
        let bytes = Call::weight(&request, message_bytes);
        Call { client: 1, account: Account::alone(1), user: "owner".into(), envelope: Envelope::default(), request, bytes }
    }

    fn call(bytes: usize) -> Call {
        Call { bytes, ..call_of(Operations::One(Operation::Ping), 0) }
    }

    /// The calls of one turn.
    fn turn(intake: &Intake, agenda: &mut Agenda) -> Vec<Call> {
        assert_eq!(intake.collect(agenda), Collected::Calls);
        std::iter::from_fn(|| agenda.take()).collect()
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_order() {
        let intake = Intake::new();
        let mut calls: VecDeque<Call> = (0..limits::INTAKE_CALLS_MAX + 2).map(call).collect();
        assert_eq!(intake.push(&mut calls), Err(Refusal::Full));
        let taken = intake.len();
        assert_eq!(calls.front().map(|call| call.bytes), Some(taken));
        let mut agenda = intake.agenda();
        let out = turn(&intake, &mut agenda);
        assert!(out.len() <= limits::BATCH_CALLS_MAX);
        assert!(out.iter().enumerate().all(|(at, call)| call.bytes == at));
        assert_eq!(intake.len(), taken - out.len(), "what waits in the agenda counts");
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let intake = Intake::new();
        let count = limits::INTAKE_BYTES_MAX / limits::MESSAGE_BYTES_MAX;
        let mut calls: VecDeque<Call> = (0..=count).map(|_| call(limits::MESSAGE_BYTES_MAX)).collect();
        assert_eq!(intake.push(&mut calls), Err(Refusal::Full));
        assert_eq!(calls.len(), 1);
        let mut agenda = intake.agenda();
        assert_eq!(intake.collect(&mut agenda), Collected::Calls);
        assert_eq!(intake.push(&mut calls), Err(Refusal::Full), "they only changed their place");
        assert!(agenda.take().is_some());
        assert_eq!(intake.push(&mut calls), Ok(()));
    }

    #[test]
    fn short_operations_count_with_what_they_take_in_memory() {
        // Arrays of `["size"]` were counted with their 28 KB and took 650: the bound of 256 MiB let 6 GB in.
        let intake = Intake::new();
        let many = limits::ARRAY_OPERATIONS_MAX;
        let array = || call_of(Operations::Many(vec![Operation::Size; many]), 7 * many);
        let held = limits::INTAKE_BYTES_MAX / (many * size_of::<Operation>());
        let mut calls: VecDeque<Call> = (0..=held).map(|_| array()).collect();
        assert_eq!(intake.push(&mut calls), Err(Refusal::Full));
        assert_eq!(intake.len(), held);
        let mut agenda = intake.agenda();
        while !intake.is_empty() {
            assert!(turn(&intake, &mut agenda).len() <= limits::BATCH_BYTES_MAX / (many * size_of::<Operation>()));
        }
        calls = (0..=held).map(|_| array()).collect();
        assert_eq!(intake.push(&mut calls), Err(Refusal::Full));
        assert_eq!(intake.len(), held, "all bytes were given back");
    }

    #[test]
    fn lists_inside_an_operation_count_with_what_they_take_in_memory() {
        use kvbroker_protocol::{Compare, Condition, Predicate, Scan, Txn};
        let weight = |operation| call_of(Operations::One(operation), 5_000).bytes;
        // A short key is two bytes of a message and a list's element in memory.
        let keys = || vec![vec![b'k']; limits::ARRAY_OPERATIONS_MAX];
        assert_eq!(weight(Operation::Mget { keys: vec![vec![b'k']] }), 5_000, "the message is what is large");
        assert!(weight(Operation::Mget { keys: keys() }) >= limits::ARRAY_OPERATIONS_MAX * size_of::<Vec<u8>>());
        let text = vec!["a=1"; limits::PREDICATE_TERMS_MAX].join(" or ");
        let filter = Some(Predicate::new(&text).expect("it is a predicate"));
        let unfolded = filter.as_ref().map_or(0, Predicate::memory_bytes);
        let scans = vec![Operation::Scan(Scan { filter, ..Scan::default() }); 16];
        assert!(call_of(Operations::Many(scans), 16 * text.len()).bytes >= 16 * unfolded);
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
    fn a_nudge_ends_one_wait() {
        let intake = Arc::new(Intake::new());
        let mut agenda = intake.agenda();
        intake.nudge();
        const DAY: Duration = Duration::from_secs(86_400);
        intake.wait(DAY);
        assert_eq!(intake.collect(&mut agenda), Collected::Idle);
        let nudger = std::thread::spawn({
            let intake = intake.clone();
            move || intake.nudge()
        });
        intake.wait(DAY);
        assert_eq!(intake.collect(&mut agenda), Collected::Idle);
        nudger.join().expect("it ends");
    }

    #[test]
    fn closing_lets_the_worker_finish_what_is_in() {
        let intake = Intake::new();
        let mut agenda = intake.agenda();
        assert_eq!(intake.collect(&mut agenda), Collected::Idle);
        assert_eq!(intake.push(&mut VecDeque::from([call(1), call(2)])), Ok(()));
        intake.close();
        assert_eq!(intake.push(&mut VecDeque::from([call(1)])), Err(Refusal::Closed));
        assert_eq!(intake.collect(&mut agenda), Collected::Calls);
        assert!(agenda.take().is_some());
        assert_eq!(intake.collect(&mut agenda), Collected::Calls, "one is left in the agenda");
        assert!(agenda.take().is_some());
        assert_eq!(intake.collect(&mut agenda), Collected::Closed);
    }
}
