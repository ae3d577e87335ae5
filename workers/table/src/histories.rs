//! The bounded queue between the worker and the log's reader: calls of `history`, and of `events` behind a revision that is not in
//! memory any more.
//!
//! - The worker puts a call in with the proof for the revision that it saw: the reader goes so far and no further.
//! - Bounded in calls, both kinds together and those included that are being read for: a full queue refuses, and the worker answers
//!   `busy`. What one user has of it is bounded, too, but for the owner.
//! - Once closed it takes nothing more, and the reader answers what is in it with `shutting_down`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvbroker_log::Persisted;
use kvbroker_protocol::{Access, Answer, ErrorCode, Events, Failure, Key, Operation, Operations, limits};

use crate::access_book::OWNER;
use crate::answer::not_admitted;
use crate::asker::{Asker, Asks, Proved};
use crate::call::Call;
use crate::followers::Mark;
use crate::log_places::LogPlaces;
use crate::released::ReplyOut;

/// A call for a key's history.
pub(crate) struct HistoryCall {
    asker: Asker,
    pub(crate) key: Key,
    /// Most versions.
    pub(crate) limit: usize,
    /// Only versions older than this revision were asked for.
    pub(crate) before: Option<u64>,
    /// The newest revision that is told of.
    pub(crate) through: u64,
}

/// A call for changes that begin before those in memory.
pub(crate) struct EventsCall {
    asker: Asker,
    pub(crate) asked: Events,
    /// Behind which revision they begin.
    pub(crate) after: u64,
    /// The last revision that is told of.
    pub(crate) through: u64,
    /// The oldest revision in memory when the worker came to this call.
    pub(crate) memory_oldest: u64,
    /// The log's.
    pub(crate) epoch: u64,
    /// How far its client has come, for `stats`.
    pub(crate) mark: Mark,
}

impl HistoryCall {
    /// True if this is a call for a key's history.
    pub(crate) fn is_one(call: &Call) -> bool {
        matches!(call.request.operations, Operations::One(Operation::History { .. }))
    }

    /// The call for a key's history; None if it is another.
    pub(crate) fn of(call: Call, revision: u64) -> Option<HistoryCall> {
        let (asker, operation) = Asker::of(call, revision)?;
        let Operation::History { key, limit, before } = operation else { return None };
        Some(HistoryCall {
            asker,
            key,
            limit: limit.unwrap_or(limits::HISTORY_VERSIONS_DEFAULT).min(limits::HISTORY_VERSIONS_MAX),
            before,
            through: before.map_or(revision, |before| revision.min(before.saturating_sub(1))),
        })
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

    /// Takes room for the answer while it waits.
    pub(crate) fn reserve(&mut self) {
        self.asker.reserve(limits::PAGE_BYTES_MAX);
    }

    pub(crate) fn reply(self, result: Result<Answer, Failure>) -> ReplyOut {
        self.asker.reply(result)
    }
}

impl EventsCall {
    /// The call for changes behind `after`, at this revision of the table; None if it is another call.
    pub(crate) fn of(call: Call, revision: u64, after: u64, memory_oldest: u64, epoch: u64, mark: Mark) -> Option<EventsCall> {
        let (mut asker, operation) = Asker::of(call, revision)?;
        let Operation::Events(asked) = operation else { return None };
        // Memory knows what was before its changes, the log does not: who wants that goes on there as soon as it can.
        let through =
            if asked.detail || asked.where_.is_some() { memory_oldest.saturating_sub(1).min(revision) } else { revision };
        asker.reserve(limits::EVENTS_LOG_PAGE_BYTES_MAX);
        Some(EventsCall { asker, asked, after, through, memory_oldest, epoch, mark })
    }
}

impl From<HistoryCall> for Asker {
    fn from(call: HistoryCall) -> Asker {
        call.asker
    }
}

impl Asks for HistoryCall {
    fn asker(&self) -> &Asker {
        &self.asker
    }
}

impl From<EventsCall> for Asker {
    fn from(call: EventsCall) -> Asker {
        call.asker
    }
}

impl Asks for EventsCall {
    fn asker(&self) -> &Asker {
        &self.asker
    }
}

/// What the log's reader has taken out of the queue.
pub(crate) struct Taken {
    pub(crate) histories: Vec<Proved<HistoryCall>>,
    pub(crate) events: Vec<Proved<EventsCall>>,
    /// False once the queue is closed.
    pub(crate) is_open: bool,
}

#[derive(Default)]
struct Inner {
    histories: VecDeque<Proved<HistoryCall>>,
    events: VecDeque<Proved<EventsCall>>,
    /// Calls that the reader has taken out and not answered.
    taken: usize,
    /// Calls of each user but the owner, taken out or not.
    of_users: HashMap<Arc<str>, usize>,
}

impl Inner {
    fn len(&self) -> usize {
        self.histories.len() + self.events.len() + self.taken
    }

    /// Counts a call in; if there is no room for it, how many wait.
    fn admit(&mut self, user: &Arc<str>) -> Result<(), usize> {
        let all = self.len();
        if all >= limits::HISTORY_CALLS_MAX {
            return Err(all);
        }
        if **user != *OWNER {
            let own = self.of_users.entry(Arc::clone(user)).or_default();
            if *own >= limits::HISTORY_CALLS_PER_USER_MAX {
                return Err(*own);
            }
            *own += 1;
        }
        Ok(())
    }

    /// The call, if there is room for it; otherwise the reply that says how many wait.
    fn let_in<C: Asks>(&mut self, call: C, proof: Persisted) -> Result<Proved<C>, Box<ReplyOut>> {
        match self.admit(call.asker().user()) {
            Ok(()) => Ok(Proved { call, proof }),
            Err(waiting) => Err(Box::new(call.into().busy(waiting))),
        }
    }
}

/// The queue; shared by the worker and the log's reader.
#[derive(Default)]
pub struct Histories {
    inner: Mutex<Inner>,
    ready: Condvar,
    closed: AtomicBool,
    /// What the reader remembers from one pass to the next; nobody else takes this lock.
    places: Mutex<LogPlaces>,
    /// Pages of `events` that were read from the log.
    pub(crate) events_pages: AtomicU64,
    /// Calls for what was trimmed before the reader came to it.
    pub(crate) events_compacted: AtomicU64,
    /// Bytes of the log that were read for them.
    pub(crate) events_read_bytes: AtomicU64,
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

    /// Where the reader has come by.
    pub(crate) fn places(&self) -> MutexGuard<'_, LogPlaces> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes calls in, in order; gives the replies to those for which there is no room.
    pub(crate) fn take_in(&self, histories: Vec<HistoryCall>, events: Vec<EventsCall>, proof: Persisted) -> Vec<ReplyOut> {
        if histories.is_empty() && events.is_empty() {
            return Vec::new();
        }
        let mut refused = Vec::new();
        let mut inner = self.lock();
        for call in histories {
            match inner.let_in(call, proof) {
                Ok(call) => inner.histories.push_back(call),
                Err(reply) => refused.push(*reply),
            }
        }
        for call in events {
            match inner.let_in(call, proof) {
                Ok(call) => inner.events.push_back(call),
                Err(reply) => refused.push(*reply),
            }
        }
        drop(inner);
        self.ready.notify_one();
        refused
    }

    /// Waits for calls and takes all; what is left when the queue is closed.
    pub(crate) fn collect(&self) -> Taken {
        let mut inner = self.lock();
        while inner.histories.is_empty() && inner.events.is_empty() && !self.is_closed() {
            inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let histories: Vec<_> = inner.histories.drain(..).collect();
        let events: Vec<_> = inner.events.drain(..).collect();
        inner.taken += histories.len() + events.len();
        Taken { histories, events, is_open: !self.is_closed() }
    }

    /// Takes the calls for changes that wait now.
    pub(crate) fn take_events(&self) -> Vec<Proved<EventsCall>> {
        let mut inner = self.lock();
        let events: Vec<_> = inner.events.drain(..).collect();
        inner.taken += events.len();
        events
    }

    /// Puts a call back that was taken out, in front of the others.
    pub(crate) fn put_back(&self, call: Proved<HistoryCall>) {
        let mut inner = self.lock();
        inner.taken -= 1;
        inner.histories.push_front(call);
    }

    /// As [`Histories::put_back`].
    pub(crate) fn put_back_events(&self, call: Proved<EventsCall>) {
        let mut inner = self.lock();
        inner.taken -= 1;
        inner.events.push_front(call);
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
        self.lock().len()
    }

    /// True when no call waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
