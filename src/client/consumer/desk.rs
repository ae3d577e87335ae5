//! What a consumer has in hand: items that stand ready, items that are handled, and their leases.
//!
//! - One thread fetches, one keeps leases alive, the others handle. They meet in [`State`], and none asks the broker with it locked.
//! - Whatever ends the consumer, each item that it had has an end: its handler's verdict, or it is given back. Only where the broker can't be
//!   asked any more it comes back by its lease.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::QUEUE_REASON_BYTES_MAX;
use kvbroker_protocol::{
    Delivery as Handed, ErrorCode, Failure, Operation, Operations, Outcomes, Pull, QueueOperation, Receipt, Stored,
};

use super::super::delivery::{Delivery, Lease};
use super::super::error::ClientError;
use super::super::queue::millis;
use super::{Consumer, POLL, Served, Verdict};

/// A thread that has nothing to do looks whether it is drained so often.
const LOOK: Duration = Duration::from_millis(100);
/// How long after an extension that failed the next one is tried.
const EXTEND_AGAIN: Duration = Duration::from_millis(200);

#[derive(Default)]
struct State {
    /// Not begun, in order.
    ready: VecDeque<(Handed, Arc<Lease>)>,
    /// All that has a lease, and when to extend it.
    leases: Vec<(Arc<Lease>, Instant)>,
    /// How many items are this consumer's: those that are ready, and those that are handled.
    count: usize,
    served: Served,
    error: Option<ClientError>,
    panic: Option<Box<dyn Any + Send>>,
    /// Nothing is fetched any more.
    is_over: bool,
}

pub(super) struct Desk<'d> {
    consumer: &'d Consumer<'d>,
    state: Mutex<State>,
    bell: Condvar,
}

impl<'d> Desk<'d> {
    pub(super) fn new(consumer: &'d Consumer<'d>) -> Desk<'d> {
        Desk { consumer, state: Mutex::default(), bell: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest<'s>(&self, state: MutexGuard<'s, State>, longest: Duration) -> MutexGuard<'s, State> {
        self.bell.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Nothing new is begun.
    fn is_draining(&self, state: &State) -> bool {
        self.consumer.drain.has_begun() || state.error.is_some() || state.panic.is_some()
    }

    /// What became of all; when all threads have ended.
    pub(super) fn result(self) -> Result<Served, ClientError> {
        let State { served, error, panic, .. } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        error.map_or(Ok(served), Err)
    }

    /// Fetches items as there is credit, until there is an end.
    pub(super) fn fetch(&self) {
        let mut idle_from = Instant::now();
        let mut taken = 0;
        while let Some(limit) = self.room(taken) {
            let is_busy = self.lock().count > 0;
            let wait = match self.consumer.idle {
                // Whoever is busy is not idle, however short that is.
                Some(idle) if is_busy => idle.clamp(LOOK, POLL),
                Some(idle) => idle.saturating_sub(idle_from.elapsed()).min(POLL),
                None => POLL,
            };
            let pull = Pull {
                queue: self.consumer.queue.clone(),
                limit,
                lease_ms: self.consumer.lease.map(millis),
                wait_ms: millis(wait),
                no_ack: self.consumer.no_ack,
            };
            match self.consumer.client.queue(&self.consumer.queue).pull_wanted(pull, &self.consumer.wanted) {
                Ok((items, period)) => {
                    taken += items.len() as u64;
                    if !items.is_empty() || self.lock().count > 0 {
                        idle_from = Instant::now();
                    } else if self.consumer.idle.is_some_and(|idle| idle_from.elapsed() >= idle) {
                        break;
                    }
                    self.take_in(items, period);
                }
                Err(error) => self.fail(error),
            }
        }
        self.lock().is_over = true;
        self.bell.notify_all();
        self.give_back();
    }

    /// How many items may be asked for, once that is any; None: no more.
    fn room(&self, taken: u64) -> Option<usize> {
        let items_left = self.consumer.items.map_or(u64::MAX, |items| items.saturating_sub(taken));
        let mut state = self.lock();
        loop {
            if items_left == 0 || self.is_draining(&state) {
                return None;
            }
            let credit = self.consumer.credit.saturating_sub(state.count);
            if credit > 0 {
                return Some(credit.min(usize::try_from(items_left).unwrap_or(usize::MAX)));
            }
            state = self.rest(state, LOOK);
        }
    }

    fn take_in(&self, items: Vec<Handed>, period: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        for item in items {
            let lease = Arc::new(Lease::new(item.receipt, period, now));
            if lease.is_one() {
                state.leases.push((Arc::clone(&lease), now + period / 3));
            }
            state.count += 1;
            state.ready.push_back((item, lease));
        }
        drop(state);
        self.bell.notify_all();
    }

    fn fail(&self, error: ClientError) {
        self.lock().error.get_or_insert(error);
        self.bell.notify_all();
    }

    /// Gives back what nobody has begun, if that is what is wanted, as soon as it is.
    fn give_back(&self) {
        let mut state = self.lock();
        while !self.is_draining(&state) {
            if state.ready.is_empty() {
                return;
            }
            state = self.rest(state, LOOK);
        }
        let unused: Vec<_> = state.ready.drain(..).map(|(_, lease)| lease).collect();
        drop(state);
        let queue = &self.consumer.queue;
        let back = |receipt| {
            let reason = String::new();
            QueueOperation::Nack { queue: queue.clone(), receipt, delay_ms: None, reason, unused: true }
        };
        // What was removed as it was handed out can't be given back.
        let receipts: Vec<Receipt> = unused.iter().filter(|lease| lease.is_one()).map(|lease| lease.receipt()).collect();
        let said = self.ask_all(receipts.iter().copied().map(back));
        let mut state = self.lock();
        state.served.lost += (unused.len() - receipts.len()) as u64;
        for result in said {
            match result {
                Ok(()) => state.served.unused += 1,
                Err(_) => state.served.lost += 1,
            }
        }
        state.count -= unused.len();
        state.leases.retain(|(lease, _)| !receipts.contains(&lease.receipt()));
        drop(state);
        self.bell.notify_all();
    }

    /// Asks all in one message. What could not be asked at all ends the consumer, and is no answer.
    fn ask_all(&self, operations: impl Iterator<Item = QueueOperation>) -> Vec<Result<(), Failure>> {
        let operations: Vec<Operation> = operations.map(|operation| Operation::Queue(Box::new(operation))).collect();
        if operations.is_empty() {
            return Vec::new();
        }
        match self.consumer.client.call_within(Operations::Many(operations), self.consumer.client.timeout()) {
            Ok(reply) => match reply.outcomes {
                Outcomes::Many(outcomes) => outcomes.into_iter().map(|outcome| outcome.result.map(|_| ())).collect(),
                Outcomes::One(outcome) => vec![outcome.result.map(|_| ())],
            },
            Err(error) => {
                self.fail(error);
                Vec::new()
            }
        }
    }

    /// Handles one item after the other.
    pub(super) fn handle<T, V: Into<Verdict>>(
        &self,
        decode: &impl Fn(&Stored) -> Result<T, ClientError>,
        handler: &impl Fn(&Delivery<'_, T>) -> V,
    ) {
        while let Some((item, lease)) = self.next() {
            let (receipt, deliveries) = (item.receipt, item.deliveries);
            let verdict = match decode(&item.value) {
                Err(error) => Verdict::Failed(error.to_string()),
                Ok(value) => {
                    let delivery = Delivery::new(self.consumer.client, &self.consumer.queue, item, value, lease);
                    catch_unwind(AssertUnwindSafe(|| handler(&delivery).into())).unwrap_or_else(|panic| {
                        self.lock().panic.get_or_insert(panic);
                        Verdict::Failed("its handler panicked".to_owned())
                    })
                }
            };
            self.say(receipt, deliveries, verdict);
            let mut state = self.lock();
            state.count -= 1;
            state.leases.retain(|(lease, _)| lease.receipt() != receipt);
            drop(state);
            self.bell.notify_all();
        }
    }

    fn next(&self) -> Option<(Handed, Arc<Lease>)> {
        let mut state = self.lock();
        loop {
            if self.is_draining(&state) {
                return None;
            }
            if let Some(next) = state.ready.pop_front() {
                return Some(next);
            }
            if state.is_over {
                return None;
            }
            state = self.rest(state, LOOK);
        }
    }

    /// Tells the broker what became of an item.
    fn say(&self, receipt: Receipt, deliveries: u32, verdict: Verdict) {
        let queue = self.consumer.client.queue(&self.consumer.queue);
        let is_done = matches!(verdict, Verdict::Done | Verdict::Said);
        let said = match verdict {
            // It was removed as it was handed out.
            _ if receipt.token == 0 => Ok(0),
            Verdict::Done => queue.ack(receipt),
            Verdict::Failed(reason) => queue.nack(receipt, Some(self.pause(deliveries)), cut(&reason)),
            Verdict::Later(pause, reason) => queue.nack(receipt, Some(pause), cut(&reason)),
            Verdict::Bury(reason) => queue.bury(receipt.item, Some(receipt.token), cut(&reason)),
            Verdict::Said => Ok(0),
        };
        match said {
            Ok(_) if is_done => self.lock().served.done += 1,
            Ok(_) => self.lock().served.failed += 1,
            Err(error) if error.code() == Some(ErrorCode::LeaseLost) => self.lock().served.lost += 1,
            Err(error) => self.fail(error),
        }
    }

    /// How long an item rests that was delivered so often.
    fn pause(&self, deliveries: u32) -> Duration {
        let (first, longest) = self.consumer.retry;
        let doubled = 1_u32.checked_shl(deliveries.saturating_sub(1)).unwrap_or(u32::MAX);
        first.saturating_mul(doubled).min(longest)
    }

    /// Extends leases until nothing is held any more, and nothing will be.
    pub(super) fn keep(&self) {
        let mut state = self.lock();
        while !state.is_over || state.count > 0 {
            let now = Instant::now();
            let due: Vec<Arc<Lease>> =
                state.leases.iter().filter(|(_, at)| *at <= now).map(|(lease, _)| Arc::clone(lease)).collect();
            if due.is_empty() {
                let next = state.leases.iter().map(|(_, at)| at.saturating_duration_since(now)).min();
                state = self.rest(state, next.map_or(Duration::from_secs(1), |next| next.max(Duration::from_millis(1))));
                continue;
            }
            drop(state);
            let queue = &self.consumer.queue;
            let longer = |lease: &Arc<Lease>| {
                let (receipt, lease_ms) = (lease.receipt(), Some(millis(lease.period())));
                QueueOperation::Extend { queue: queue.clone(), receipt, lease_ms }
            };
            let said = self.ask_all(due.iter().map(longer));
            state = self.lock();
            let answers = said.into_iter().map(Some).chain(std::iter::repeat(None));
            for (lease, answer) in due.iter().zip(answers) {
                let again = match answer {
                    Some(Ok(())) => {
                        lease.runs_from(now);
                        Some(now + lease.period() / 3)
                    }
                    Some(Err(failure)) if failure.code == ErrorCode::LeaseLost => {
                        lease.is_over();
                        None
                    }
                    Some(Err(_)) | None => Some(Instant::now() + EXTEND_AGAIN),
                };
                if let Some((_, at)) = state.leases.iter_mut().find(|(found, _)| found.receipt() == lease.receipt()) {
                    *at = again.unwrap_or(now + Duration::from_secs(3_600));
                }
            }
        }
    }
}

/// A reason is for people; the first lines of a long one will do.
fn cut(reason: &str) -> &str {
    let end = (0..=QUEUE_REASON_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    end.and_then(|end| reason.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_letters() {
        assert_eq!(cut("no disk"), "no disk");
        let long = format!("{}é", "x".repeat(QUEUE_REASON_BYTES_MAX - 1));
        assert_eq!(cut(&long).len(), QUEUE_REASON_BYTES_MAX - 1);
    }
}
