//! The bounded queue of `authorize`, `revoke` and `who` between the worker and the gatekeeper, who waits for a disk and for sockets.
//!
//! - The worker has checked that the user may ask; the gatekeeper checks again when the call's turn has come.
//! - A call carries the proof for the revision that the worker saw: its reply leaves like every other, as [`Released`].
//! - Bounded in calls: a full queue refuses, and the worker answers `busy`.
//! - Once closed it takes nothing more; what is in it can still be taken out and answered.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvbroker_log::Persisted;
use kvbroker_protocol::{Answer, Failure, Operation, Operations, Outcome, Outcomes, Reply, limits};

use crate::call::Call;
use crate::outbox::Outbox;
use crate::released::{Released, ReplyOut};
use crate::sizes::reply_bytes;
use crate::trace::Trace;

/// A call for the gatekeeper that nothing vouches for yet.
pub(crate) struct AccessCall {
    call: Call,
    /// The revision of the table when the worker came to this call.
    revision: u64,
    trace: Option<Trace>,
}

impl AccessCall {
    /// True if this is a call for the gatekeeper.
    pub(crate) fn is_one(call: &Call) -> bool {
        use Operation::{Authorize, Revoke, Who};
        matches!(&call.request.operations, Operations::One(Authorize { .. } | Revoke { .. } | Who))
    }

    pub(crate) fn new(call: Call, revision: u64) -> AccessCall {
        let trace = call.request.operations.as_slice().first().filter(|_| tracing::enabled!(tracing::Level::TRACE));
        let trace = trace.map(|operation| Trace::start(call.client, None, operation));
        AccessCall { call, revision, trace }
    }

    pub(crate) fn reply(self, result: Result<Answer, Failure>) -> ReplyOut {
        let outcome = Outcome { revision: Some(self.revision), result };
        if let Some(trace) = self.trace {
            trace.finish(&outcome);
        }
        let Call { client, account, envelope, request, bytes, .. } = self.call;
        let reply = Reply { id: request.header.id, form: request.form, retry_safe: None, outcomes: Outcomes::One(outcome) };
        let mut out = ReplyOut {
            client,
            envelope,
            reply,
            request_bytes: bytes,
            account,
            charge: None,
            is_behind_all: true,
            is_superseded: false,
        };
        out.charge(false);
        out
    }

    fn busy(self) -> ReplyOut {
        let message = format!("{} requests about users wait for their turn; try again later", limits::ACCESS_CALLS_MAX);
        self.reply(Err(Failure::busy(message, limits::RETRY_AFTER_MS)))
    }
}

/// A call for the gatekeeper, with the log's proof for the revision that it saw.
pub struct ProvedAccessCall {
    call: AccessCall,
    proof: Persisted,
}

impl ProvedAccessCall {
    /// Who asks.
    pub fn user(&self) -> &str {
        &self.call.call.user
    }

    /// What is asked.
    pub fn operation(&self) -> &Operation {
        let operations = self.call.call.request.operations.as_slice();
        operations.first().expect("what `is_one` lets pass has an operation")
    }

    /// Hands the reply over to be sent.
    pub fn answer(self, result: Result<Answer, Failure>, replies: &Outbox<Vec<ReplyOut>>) {
        let revision = self.call.revision;
        let released = Released::new(&self.proof, revision, vec![self.call.reply(result)]);
        let (released, _) = released.into_parts();
        let bytes = released.iter().map(reply_bytes).sum();
        replies.push(released, bytes);
    }
}

/// What the gatekeeper found in the queue.
pub enum NextAccessCall {
    /// A call.
    Call(Box<ProvedAccessCall>),
    /// Nothing until the time was up.
    Idle,
    /// Nothing, and nothing will come.
    Closed,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<ProvedAccessCall>,
    closed: bool,
}

/// The queue; shared by the worker and the gatekeeper.
#[derive(Default)]
pub struct AccessCalls {
    inner: Mutex<Inner>,
    ready: Condvar,
}

impl AccessCalls {
    /// An empty queue.
    pub fn new() -> AccessCalls {
        AccessCalls::default()
    }

    /// A panic of another thread ends the process; until then the queue's content is whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes calls in, in order; gives the replies to those for which there is no room.
    pub(crate) fn take_in(&self, calls: Vec<AccessCall>, proof: Persisted) -> Vec<ReplyOut> {
        if calls.is_empty() {
            return Vec::new();
        }
        let mut refused = Vec::new();
        let mut inner = self.lock();
        for call in calls {
            if inner.waiting.len() < limits::ACCESS_CALLS_MAX {
                inner.waiting.push_back(ProvedAccessCall { call, proof });
            } else {
                refused.push(call.busy());
            }
        }
        drop(inner);
        self.ready.notify_one();
        refused
    }

    /// The next call; waits for one until `deadline`.
    pub fn next(&self, deadline: Instant) -> NextAccessCall {
        let mut inner = self.lock();
        loop {
            if let Some(call) = inner.waiting.pop_front() {
                return NextAccessCall::Call(Box::new(call));
            }
            if inner.closed {
                return NextAccessCall::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return NextAccessCall::Idle;
            }
            inner = self.ready.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes nothing more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// True once [`AccessCalls::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }
}
