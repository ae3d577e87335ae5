//! The bounded queue of `history` calls between the worker and the log's reader.
//!
//! - The worker puts a call in with the proof for the revision that it saw: the reader goes so far and no further.
//! - Bounded in calls, those included that are being read for: a full queue refuses, and the worker answers `busy`. What one user has
//!   of it is bounded, too, but for the owner.
//! - Once closed it takes nothing more, and the reader answers what is in it with `shutting_down`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvbroker_log::Persisted;
use kvbroker_protocol::{Access, Answer, ErrorCode, Failure, Form, Key, Operation, Operations, Outcome, Outcomes, Reply, limits};

use crate::access_book::OWNER;
use crate::answer::not_admitted;
use crate::call::{Call, ClientId, Envelope};
use crate::credit::{Account, Charge};
use crate::released::{Released, ReplyOut};
use crate::trace::Trace;

/// A call for a key's history.
pub(crate) struct HistoryCall {
    client: ClientId,
    user: Arc<str>,
    account: Account,
    /// Room for its answer, taken while it waits for the log's reader.
    reserved: Option<Charge>,
    envelope: Envelope,
    id: Option<u64>,
    form: Form,
    request_bytes: usize,
    pub(crate) key: Key,
    /// Most versions.
    pub(crate) limit: usize,
    /// Only versions older than this revision were asked for.
    pub(crate) before: Option<u64>,
    /// The newest revision that is told of.
    pub(crate) through: u64,
    /// The revision of the table when the worker came to this call.
    revision: u64,
    trace: Option<Trace>,
}

impl HistoryCall {
    /// True if this is a call for a key's history.
    pub(crate) fn is_one(call: &Call) -> bool {
        matches!(call.request.operations, Operations::One(Operation::History { .. }))
    }

    /// The call for a key's history; None if it is another.
    pub(crate) fn of(call: Call, revision: u64) -> Option<HistoryCall> {
        let Call { client, user, account, envelope, request, bytes } = call;
        let Operations::One(operation) = request.operations else { return None };
        let trace = tracing::enabled!(tracing::Level::TRACE).then(|| Trace::start(client, None, &operation));
        let Operation::History { key, limit, before } = operation else { return None };
        Some(HistoryCall {
            client,
            user,
            account,
            reserved: None,
            envelope,
            id: request.header.id,
            form: request.form,
            request_bytes: bytes,
            key,
            limit: limit.unwrap_or(limits::HISTORY_VERSIONS_DEFAULT).min(limits::HISTORY_VERSIONS_MAX),
            before,
            through: before.map_or(revision, |before| revision.min(before.saturating_sub(1))),
            revision,
            trace,
        })
    }

    /// The authenticated user.
    pub(crate) fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// Whether a user with this access may have the answer.
    pub(crate) fn permitted(&self, access: Option<Access>) -> Result<(), Failure> {
        let Access { scope, .. } = access.as_ref().ok_or_else(not_admitted)?;
        if scope.contains(&self.key) {
            return Ok(());
        }
        let message = "this client may not use this key any more; an admin of the broker can grant it with `authorize`";
        Err(Failure::new(ErrorCode::Refused, message))
    }

    pub(crate) fn reply(self, result: Result<Answer, Failure>) -> ReplyOut {
        let outcome = Outcome { revision: Some(self.revision), result };
        if let Some(trace) = self.trace {
            trace.finish(&outcome);
        }
        let reply = Reply { id: self.id, form: self.form, retry_safe: None, outcomes: Outcomes::One(outcome) };
        let (client, envelope, request_bytes) = (self.client, self.envelope, self.request_bytes);
        let account = self.account;
        let mut out = ReplyOut { client, envelope, reply, request_bytes, account, charge: None, is_superseded: false };
        // Before the room is given back: nobody is to be answered for what is only between the two.
        out.charge(false);
        drop(self.reserved);
        out
    }

    /// Takes room for the answer: others of this client are to wait until it is there.
    pub(crate) fn reserve(&mut self) {
        self.reserved = Some(self.account.charge(limits::PAGE_BYTES_MAX));
    }

    fn busy(self, waiting: usize) -> ReplyOut {
        let message = format!("{waiting} requests for a history wait for the log's reader; try again later");
        self.reply(Err(Failure::busy(message, limits::RETRY_AFTER_MS)))
    }
}

/// A call with the log's proof for the revision that it saw.
pub(crate) struct Proved {
    pub(crate) call: HistoryCall,
    pub(crate) proof: Persisted,
}

impl Proved {
    pub(crate) fn released(self, result: Result<Answer, Failure>) -> Released {
        let revision = self.call.revision;
        Released::new(&self.proof, revision, vec![self.call.reply(result)])
    }
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Proved>,
    /// Calls that the reader has taken out and not answered.
    taken: usize,
    /// Calls of each user but the owner, taken out or not.
    of_users: HashMap<Arc<str>, usize>,
}

impl Inner {
    /// Takes a call in; the reply that says how many wait if there is no room.
    fn take_in(&mut self, call: Proved) -> Option<ReplyOut> {
        let all = self.waiting.len() + self.taken;
        if all >= limits::HISTORY_CALLS_MAX {
            return Some(call.call.busy(all));
        }
        if **call.call.user() != *OWNER {
            let own = self.of_users.entry(Arc::clone(call.call.user())).or_default();
            if *own >= limits::HISTORY_CALLS_PER_USER_MAX {
                return Some(call.call.busy(*own));
            }
            *own += 1;
        }
        self.waiting.push_back(call);
        None
    }
}

/// The queue; shared by the worker and the log's reader.
#[derive(Default)]
pub struct Histories {
    inner: Mutex<Inner>,
    ready: Condvar,
    closed: AtomicBool,
}

impl Histories {
    /// An empty queue.
    pub fn new() -> Histories {
        Histories::default()
    }

    /// A panic of another thread ends the process; until then the queue's content is whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes calls in, in order; gives the replies to those for which there is no room.
    pub(crate) fn take_in(&self, calls: Vec<HistoryCall>, proof: Persisted) -> Vec<ReplyOut> {
        if calls.is_empty() {
            return Vec::new();
        }
        let mut refused = Vec::new();
        let mut inner = self.lock();
        for call in calls {
            refused.extend(inner.take_in(Proved { call, proof }));
        }
        drop(inner);
        self.ready.notify_one();
        refused
    }

    /// Waits for calls and takes all; what is left when the queue is closed, `false` beside it.
    pub(crate) fn collect(&self) -> (Vec<Proved>, bool) {
        let mut inner = self.lock();
        while inner.waiting.is_empty() && !self.is_closed() {
            inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let calls: Vec<Proved> = inner.waiting.drain(..).collect();
        inner.taken += calls.len();
        (calls, !self.is_closed())
    }

    /// Puts a call back that was taken out, in front of the others.
    pub(crate) fn put_back(&self, call: Proved) {
        let mut inner = self.lock();
        inner.taken -= 1;
        inner.waiting.push_front(call);
    }

    /// A call of this user that was taken out is answered.
    pub(crate) fn answered(&self, user: &str) {
        let mut inner = self.lock();
        inner.taken -= 1;
        if let Some(own) = inner.of_users.get_mut(user) {
            *own -= 1;
            if *own == 0 {
                inner.of_users.remove(user);
            }
        }
    }

    /// Takes nothing more; the reader answers what is in, and ends.
    pub fn close(&self) {
        let inner = self.lock();
        self.closed.store(true, Ordering::Release);
        drop(inner);
        self.ready.notify_all();
    }

    /// True once [`Histories::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Calls that wait or are being read for.
    pub fn len(&self) -> usize {
        let inner = self.lock();
        inner.waiting.len() + inner.taken
    }

    /// True when no call waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
