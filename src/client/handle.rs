//! The handle: what programs hold, clone and share.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvbroker_protocol::{Failure, Form, HelloAnswer, Operation, Operations, Outcome, Outcomes, Reply};
use tracing::Level;

use super::bell::Bell;
use super::connection::{Connection, Route};
use super::driver::{Desk, Shared};
use super::error::ClientError;
use super::inbox::{Submission, Urgency};
use super::options::ConnectOptions;
use super::progress::Progress;
use super::session::{Asked, GaveUp, RequestId};
use super::slot::{Ended, Slot, Token};
use crate::lookup::{Explanation, Looked, Lookup, LookupError};
use crate::transport::{ClientSocket, Context};

/// First and longest pause between two lookups of [`ConnectOptions::wait_for_broker`].
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A connection to a project's broker that outlives the broker's restarts.
///
/// Clones share it, and threads may share a clone: the calls of all of them are put into as few messages as makes sense, by the
/// one who waits or by a thread of the client's own. That ends with the last clone, or with [`Client::close`].
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    timeout: Option<Duration>,
    hello: HelloAnswer,
    explanation: Explanation,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Handle { shared, hello, .. } = &*self.handle;
        f.debug_struct("Client").field("project", &shared.project).field("broker", &hello.broker).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Handle {
    fn close(&self) {
        self.shared.inbox.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // From inside of a notice this is the very thread that drives, and would wait for itself.
        let is_own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = thread.filter(|thread| !is_own(thread) && !self.shared.inbox.is_led_here()) {
            // A panic there has ended all calls already.
            let _ = thread.join();
        }
    }
}

impl Client {
    /// Finds the broker of `target` (a project's name or a `kv://` address) and connects to it, as
    /// [`ConnectOptions::new`] says.
    ///
    /// # Errors
    /// As [`Client::connect_with`].
    pub fn connect(target: &str) -> Result<Self, ClientError> {
        Self::connect_with(target, ConnectOptions::new())
    }

    /// Finds the broker of `target` (a project's name or a `kv://` address) and connects to it.
    ///
    /// # Errors
    /// [`ClientError::Lookup`], which says which kind of "not found" it is.
    pub fn connect_with(target: &str, options: ConnectOptions) -> Result<Self, ClientError> {
        Self::connect_explained(target, options).0
    }

    /// As [`Client::connect_with`], with what the lookup saw, also where it failed. There is no
    /// explanation of a target that can't be one.
    pub fn connect_explained(target: &str, options: ConnectOptions) -> (Result<Self, ClientError>, Option<Explanation>) {
        let context = match Context::shared() {
            Ok(context) => context,
            Err(error) => return (Err(error.into()), None),
        };
        let mut lookup = match options.lookup(target) {
            Ok(lookup) => lookup,
            Err(error) => return (Err(error.into()), None),
        };
        let start = Instant::now();
        let until = options.timeout.and_then(|timeout| start.checked_add(timeout));
        let mut progress = Progress::new(options.notices.as_ref(), start);
        let Looked { explanation, outcome } = look_until_found(&mut lookup, &context, until, &options, &mut progress);
        let client = outcome
            .map_err(ClientError::from)
            .and_then(|connection| Self::start(connection, context, lookup, options, explanation.clone()));
        (client, Some(explanation))
    }

    fn start(
        connection: Connection,
        context: Context,
        mut lookup: Lookup,
        options: ConnectOptions,
        explanation: Explanation,
    ) -> Result<Self, ClientError> {
        let hello = connection.hello().clone();
        lookup.want_broker(hello.broker);
        // From now on lookups are made on threads that nobody watches.
        lookup.ask_nobody();
        let inbox = options.inbox().map_err(ClientError::System)?;
        let route = connection.route().clone();
        let (timeout, has_thread) = (options.timeout, options.has_thread());
        let shared = Arc::new(Shared::new(context, options.notices, inbox, lookup, route));
        let desk = Arc::new(Desk::new(Arc::clone(&shared), connection));
        let run = {
            let desk = Arc::clone(&desk);
            move || desk.run()
        };
        let thread = has_thread.then(|| std::thread::Builder::new().name("kv-client".into()).spawn(run));
        let thread = Mutex::new(thread.transpose().map_err(ClientError::System)?);
        let handle = Handle { shared, desk, timeout, hello, explanation, thread };
        Ok(Client { handle: Arc::new(handle) })
    }

    /// What the broker said about itself when it was met first.
    #[must_use]
    pub fn broker(&self) -> &HelloAnswer {
        &self.handle.hello
    }

    /// How the broker was found.
    #[must_use]
    pub fn explanation(&self) -> &Explanation {
        &self.handle.explanation
    }

    /// The project.
    #[must_use]
    pub fn project(&self) -> &str {
        &self.handle.shared.project
    }

    /// The way to the broker, while there is a connection.
    #[must_use]
    pub fn route(&self) -> Option<Route> {
        self.handle.shared.route()
    }

    /// The first mutation that was sent and whose answer is awaited, for whoever ends the program meanwhile.
    #[must_use]
    pub fn in_doubt(&self) -> Option<RequestId> {
        self.handle.shared.in_doubt()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.handle.shared.inbox.is_closed()
    }

    /// How many calls have not ended, of all clones.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.handle.shared.inbox.outstanding()
    }

    /// How long a call takes at most, unless it says otherwise. None: for ever.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.handle.timeout
    }

    /// Ends the client for all its clones, as dropping the last one does: the broker is told that the session is over, and
    /// need not remember it. Calls that are outstanding end as [`ClientError::Closed`].
    pub fn close(&self) {
        self.handle.close();
    }

    /// Asks for operations and waits for their outcomes, at most for the client's timeout.
    ///
    /// Failures of single operations are part of the reply. Several operations need not travel in one message, and other
    /// clients' may run between them.
    ///
    /// # Errors
    /// There is not an outcome for every operation: see [`ClientError`]. It is [`ClientError::Unknown`] if one of them may have been done; where
    /// the outcome of each matters, use a [`Pipeline`](super::Pipeline).
    pub fn call(&self, operations: Operations) -> Result<Reply, ClientError> {
        self.call_within(operations, self.timeout())
    }

    /// As [`Client::call`], with a timeout of its own (None: for ever).
    ///
    /// # Errors
    /// As there.
    pub fn call_within(&self, operations: Operations, timeout: Option<Duration>) -> Result<Reply, ClientError> {
        let start = Instant::now();
        let described = tracing::enabled!(target: "kvbroker::client", Level::TRACE).then(|| describe(&operations));
        let slot = Slot::new(operations.as_slice().len());
        self.submit_to(&slot, operations.as_slice(), start, timeout, Urgency::Waits);
        self.handle.desk.attend(&slot, None);
        let outcomes = self.outcomes(slot.wait(), timeout);
        let outcomes = match operations {
            Operations::One(_) => outcomes.and_then(|mut outcomes| outcomes.pop().ok_or(ClientError::Closed)).map(Outcomes::One),
            Operations::Many(_) => outcomes.map(Outcomes::Many),
        };
        if let Some((operation, key)) = described {
            let first = outcomes.as_ref().ok().and_then(|outcomes| outcomes.as_slice().first());
            let revision = first.and_then(|outcome| outcome.revision);
            let us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            tracing::trace!(target: "kvbroker::client", operation, key, revision, us, "called");
        }
        Ok(Reply { id: None, form: Form::Compact, retry_safe: None, outcomes: outcomes? })
    }

    /// Hands an operation in, as soon as there is room, for somebody who will wait for its end later. `lying`: its bytes, if it has none of
    /// its own.
    pub(super) fn submit(&self, slot: &Arc<Slot>, asked: Result<Asked, Failure>, lying: &[u8], timeout: Option<Duration>) {
        let now = Instant::now();
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        if self.submit_one(slot, 0, asked, lying, Times { now, deadline }, Urgency::Soon) {
            self.handle.desk.send_off();
        }
    }

    /// Waits until a slot is complete, and drives meanwhile if nobody else does.
    pub(super) fn attend(&self, slot: &Arc<Slot>) {
        self.handle.desk.attend(slot, None);
    }

    /// The same, for so long at most.
    pub(super) fn attend_for(&self, slot: &Arc<Slot>, time: Duration) {
        self.handle.desk.attend(slot, Instant::now().checked_add(time));
    }

    /// Hands one operation in whose end rings a bell, for who has other things to wait for as well. None: so much is outstanding that
    /// it might have to wait here.
    pub(super) fn submit_ringing(&self, operation: &Operation, timeout: Duration, bell: &Arc<Bell>) -> Option<Arc<Slot>> {
        if self.handle.shared.inbox.is_crowded() {
            return None;
        }
        let slot = Slot::ringing(1, Some(Arc::clone(bell)));
        self.submit_to(&slot, std::slice::from_ref(operation), Instant::now(), Some(timeout), Urgency::Rings);
        Some(slot)
    }

    /// Takes what has come and sends what can be sent, if nobody drives and it was not just done. Does not wait.
    pub(super) fn look(&self) {
        self.handle.desk.look();
    }

    /// Sends what was handed in, if nobody drives who does it. Does not wait.
    pub(super) fn send_off(&self) {
        self.handle.desk.send_off();
    }

    fn submit_to(&self, slot: &Arc<Slot>, operations: &[Operation], start: Instant, timeout: Option<Duration>, urgency: Urgency) {
        let deadline = timeout.and_then(|timeout| start.checked_add(timeout));
        for (index, operation) in operations.iter().enumerate() {
            self.submit_one(slot, index, Asked::new(operation), &[], Times { now: start, deadline }, urgency);
        }
    }

    /// True if what lies there is to be sent off.
    fn submit_one(
        &self,
        slot: &Arc<Slot>,
        index: usize,
        asked: Result<Asked, Failure>,
        lying: &[u8],
        Times { now, deadline }: Times,
        urgency: Urgency,
    ) -> bool {
        match asked {
            Ok(asked) => {
                let token = Token::new(slot, index, asked.bytes());
                self.handle.shared.inbox.submit(Submission { asked, deadline, token }, lying, urgency, now)
            }
            Err(failure) => {
                Token::new(slot, index, 0).complete(Err(GaveUp::OverLimit(failure)));
                false
            }
        }
    }

    /// One outcome for each end, or the error that matters most.
    fn outcomes(&self, ends: Vec<Ended>, timeout: Option<Duration>) -> Result<Vec<Outcome>, ClientError> {
        let mut worst = None;
        let mut outcomes = Vec::with_capacity(ends.len());
        for end in ends {
            match self.outcome(end, timeout) {
                Ok(outcome) => outcomes.push(Ok(outcome)),
                Err(error) => {
                    let failure = Failure::busy(format!("it was not done: {error}"), kvbroker_protocol::limits::RETRY_AFTER_MS);
                    outcomes.push(Err(failure));
                    let is_worse = worst.as_ref().is_none_or(|worst: &ClientError| worst.is_definite() && !error.is_definite());
                    worst = if is_worse { Some(error) } else { worst };
                }
            }
        }
        match worst {
            // Some were done and some were not: "nothing was done" would be a lie.
            Some(error) if error.is_definite() && outcomes.iter().any(Result::is_ok) => {}
            Some(error) => return Err(error),
            None => {}
        }
        let outcome = |outcome: Result<Outcome, Failure>| {
            outcome.unwrap_or_else(|failure| Outcome { revision: None, result: Err(failure) })
        };
        Ok(outcomes.into_iter().map(outcome).collect())
    }

    pub(super) fn outcome(&self, end: Ended, timeout: Option<Duration>) -> Result<Outcome, ClientError> {
        match end {
            Ended::Told(told) => {
                told.into_result().map_err(|gave_up| ClientError::gave_up(gave_up, self.project(), timeout_text(timeout)))
            }
            Ended::Closed => Err(ClientError::Closed),
        }
    }

    /// Whether the publisher of the broker that said this has streams for this client. They carry every key, so that who may
    /// use only some has none.
    pub(super) fn may_hear(&self, hello: &HelloAnswer) -> bool {
        let needs_port = matches!(self.route(), Some(Route::Network { .. } | Route::Unprotected { .. }));
        hello.prefixes.is_empty() && (!needs_port || hello.pub_port != 0)
    }

    /// A subscriber's socket, on its way to the publisher of the broker that has just said this. None: it can't be said where that is
    /// while the broker is looked up.
    ///
    /// # Errors
    /// No socket, or no key of our own.
    pub(super) fn subscriber(&self, hello: &HelloAnswer) -> Result<Option<ClientSocket>, ClientError> {
        let shared = &self.handle.shared;
        let Some(route) = shared.route() else { return Ok(None) };
        let lookup = match shared.lookup.try_lock() {
            Ok(lookup) => lookup,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        let mut socket = shared.context.subscriber(route.security(lookup.own_pair())?)?;
        socket.watch(&shared.context)?;
        match &route {
            Route::Local { publisher, .. } => socket.connect_ipc(publisher)?,
            Route::Network { address, .. } | Route::Unprotected { address } => {
                socket.connect_tcp(SocketAddr::new(address.ip(), hello.pub_port))?;
            }
        }
        Ok(Some(socket))
    }
}

/// When a call is handed in, and when it ends at the latest.
#[derive(Clone, Copy)]
struct Times {
    now: Instant,
    deadline: Option<Instant>,
}

/// The first operation's verb and key, for the log; values never.
fn describe(operations: &Operations) -> (String, Option<String>) {
    let all = operations.as_slice();
    let verb = all.first().map_or("nothing", Operation::verb);
    let key = all.first().and_then(Operation::first_key);
    let key = key.map(|key| String::from_utf8_lossy(key).into_owned());
    let verb = if all.len() > 1 { format!("{verb} and {} more", all.len() - 1) } else { verb.to_owned() };
    (verb, key)
}

pub(super) fn timeout_text(timeout: Option<Duration>) -> String {
    timeout.map_or("any time".into(), |timeout| format!("{} s", timeout.as_secs_f64()))
}

fn look_until_found(
    lookup: &mut Lookup,
    context: &Context,
    until: Option<Instant>,
    options: &ConnectOptions,
    progress: &mut Progress<'_>,
) -> Looked {
    let (mut pause, pause_max) = LOOK_AGAIN;
    loop {
        let looked = lookup.find(context, until, progress);
        let may_pass = looked.outcome.as_ref().err().is_some_and(LookupError::may_pass);
        let now = Instant::now();
        if !options.wait_for_broker || !may_pass || until.is_some_and(|until| until <= now + pause) {
            return looked;
        }
        progress.doing(now, format!("waiting for a broker of {}", lookup.target().project));
        std::thread::sleep(pause);
        pause = (pause * 2).min(pause_max);
    }
}
