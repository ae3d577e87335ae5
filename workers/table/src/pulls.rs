//! Pulls that wait for an item, and what time does to the items of queues.
//!
//! - A pull that would get nothing is parked, if it may wait, and decided anew when there is something: access, credit and shares of work
//!   hold as they are then. One whose time is up is answered like one that does not wait.
//! - Whatever may give a queue more for its consumers touches it: a change of its records, a delay that is over, and a pull that was answered
//!   while others wait, as it may have left something.
//! - What a turn brings into a queue is handed out in the same turn, when the calls that came are done: the log is then written and synced once for
//!   both, and who waits is not kept for another sync.
//! - Leases and deadlines that are over are changes with revisions of their own, before the requests of a batch, together with the keys that are
//!   due at most so many, and at most so many bytes: what is dead may be moved with its value.

use std::sync::atomic::Ordering;

use kvbroker_core::{Stamp, expire_item};
use kvbroker_log::{BatchBuilder, Cause, Log};
use kvbroker_protocol::{QueueOperation, limits};

use crate::agenda::Agenda;
use crate::answer::not_admitted;
use crate::call::Call;
use crate::parked::asked_of_queue;
use crate::released::{Event, ReplyOut};
use crate::work;
use crate::worker::{Saying, Worker};

impl<L: Log> Worker<L> {
    /// True of a pull that would get nothing now, and of a question about an item that is not so far, if they may wait. One of a client that has
    /// gone is answered, into the void.
    pub(crate) fn must_wait(&self, call: &Call) -> bool {
        let waits = match asked_of_queue(call) {
            Some(QueueOperation::Pull(pull)) => pull.wait_ms > 0 && self.state.ready_items(&pull.queue) == 0,
            Some(QueueOperation::Track { queue, item, until, wait_ms }) => {
                *wait_ms > 0 && self.state.track_item(queue, *item).is_ok_and(|tracked| !until.is_reached(tracked))
            }
            _ => false,
        };
        waits && !call.account.is_gone() && self.permits(call)
    }

    /// Parks it.
    pub(crate) fn let_wait(&mut self, call: Call, agenda: &mut Agenda, saying: &mut Saying) {
        let Some(access) = self.access.of(&call.user) else {
            return saying.replies.push(ReplyOut::refusal(call, not_admitted()));
        };
        self.counters.operations.fetch_add(1, Ordering::Relaxed);
        agenda.spend(work::around(&[], 0));
        match self.park(call, access, 0) {
            Ok(superseded) => saying.replies.extend(superseded),
            Err((call, failure)) => saying.replies.push(ReplyOut::refusal(*call, failure)),
        }
    }

    /// The next call of this turn; when those that came are done, pulls that found something meanwhile.
    pub(crate) fn next_call(&mut self, agenda: &mut Agenda) -> Option<Call> {
        if let Some(call) = agenda.take() {
            return Some(call);
        }
        if !self.parked.has_touched() {
            return None;
        }
        let now_us = self.clock.now().boot_us;
        let state = &self.state;
        self.parked.serve(|queue| state.ready_items(queue));
        self.parked.woken_pulls(now_us).for_each(|call| agenda.readmit(call));
        agenda.sort_in();
        agenda.take()
    }

    /// Puts what time has brought about in queues into the batch, and into the state.
    pub(crate) fn expire_items(&mut self, time_ms: u64, max: usize, batch: &mut BatchBuilder, events: &mut Option<Vec<Event>>) {
        if self.state.next_queue_ms().is_none_or(|at_ms| at_ms > time_ms) {
            return;
        }
        let parked = &mut self.parked;
        self.state.advance_queues(time_ms, |queue| parked.touch(queue));
        for due in self.state.due_items(time_ms, max) {
            if batch.bytes() >= limits::BATCH_BYTES_MAX {
                break;
            }
            let stamp = Stamp { revision: self.state.revision() + 1, time_ms };
            let (changes, ended) = expire_item(&self.state, due, stamp);
            self.take_in(changes, Cause::Expiry, None, batch, events);
            self.state.note_ends(ended);
        }
    }
}
