//! A client: the session's wishes carried out over a connection, one call at a time.
//!
//! All decisions are the session's ([`super::session`]); here are the socket, the clock and the lookup.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvbroker_protocol::{ErrorCode, Failure, HelloAnswer, Operation, Operations, Reply};
use tracing::Level;

use super::connection::{Connection, Incoming, Route};
use super::error::ClientError;
use super::options::ConnectOptions;
use super::progress::{Notices, Progress};
use super::session::{Action, RequestId, Session};
use super::watch::Publisher;
use crate::lookup::{Explanation, Looked, Lookup, LookupError};
use crate::transport::{Context, Security, TransportError};

/// First and longest pause between two lookups of [`ConnectOptions::wait_for_broker`].
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A connection to a project's broker that outlives the broker's restarts.
///
/// It may be shared by threads; their calls are taken one at a time.
pub struct Client {
    project: String,
    context: Context,
    timeout: Option<Duration>,
    notices: Option<Notices>,
    hello: HelloAnswer,
    explanation: Explanation,
    inner: Mutex<Inner>,
    in_doubt: Mutex<Option<RequestId>>,
}

struct Inner {
    lookup: Lookup,
    session: Session,
    connection: Option<Connection>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("project", &self.project).field("broker", &self.hello.broker).finish_non_exhaustive()
    }
}

impl Client {
    /// Finds the broker of `target` (a project's name or a `kv://` address) and connects to it.
    ///
    /// # Errors
    /// [`ClientError::Lookup`], which says which kind of "not found" it is.
    pub fn connect(target: &str, options: ConnectOptions) -> Result<Self, ClientError> {
        Self::connect_explained(target, options).0
    }

    /// As [`Client::connect`], with what the lookup saw, also where it failed. There is no
    /// explanation of a target that can't be one.
    pub fn connect_explained(target: &str, options: ConnectOptions) -> (Result<Self, ClientError>, Option<Explanation>) {
        let context = match Context::new(1) {
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
        let connection = match outcome {
            Ok(connection) => connection,
            Err(error) => return (Err(error.into()), Some(explanation)),
        };
        let hello = connection.hello().clone();
        lookup.want_broker(hello.broker);
        let mut session = Session::new();
        session.link_up(hello.broker, hello.session);
        let client = Client {
            project: lookup.target().project.to_string(),
            context,
            timeout: options.timeout,
            notices: options.notices,
            hello,
            explanation: explanation.clone(),
            inner: Mutex::new(Inner { lookup, session, connection: Some(connection) }),
            in_doubt: Mutex::new(None),
        };
        (Ok(client), Some(explanation))
    }

    /// What the broker said about itself when it was met first.
    #[must_use]
    pub fn broker(&self) -> &HelloAnswer {
        &self.hello
    }

    /// How the broker was found.
    #[must_use]
    pub fn explanation(&self) -> &Explanation {
        &self.explanation
    }

    /// The project.
    #[must_use]
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The way to the broker, while there is a connection.
    #[must_use]
    pub fn route(&self) -> Option<Route> {
        self.lock().connection.as_ref().map(|connection| connection.route().clone())
    }

    /// The mutation whose reply is awaited right now, for whoever ends the program meanwhile.
    #[must_use]
    pub fn in_doubt(&self) -> Option<RequestId> {
        *self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for operations and waits for the reply, at most for the client's timeout.
    ///
    /// Failures of single operations are part of the reply.
    ///
    /// # Errors
    /// No reply: see [`ClientError`].
    pub fn call(&self, operations: Operations) -> Result<Reply, ClientError> {
        self.call_within(operations, self.timeout)
    }

    /// As [`Client::call`], with a timeout of its own (None: for ever).
    ///
    /// # Errors
    /// As there.
    pub fn call_within(&self, operations: Operations, timeout: Option<Duration>) -> Result<Reply, ClientError> {
        let start = Instant::now();
        let deadline = timeout.and_then(|timeout| start.checked_add(timeout));
        let mut inner = self.lock();
        let described = tracing::enabled!(target: "kvbroker::client", Level::TRACE).then(|| describe(&operations));
        let id = inner.session.begin(operations, deadline).map_err(ClientError::Failed)?;
        let mut progress = Progress::new(self.notices.as_ref(), start);
        let result = self.drive(&mut inner, id, timeout, &mut progress);
        let in_doubt = self.note_in_doubt(None);
        if let Some((operation, key)) = described {
            let outcome = result.as_ref().ok().and_then(|reply| reply.outcomes.as_slice().first());
            let request = in_doubt.map(|request| request.to_string());
            let (revision, us) =
                (outcome.and_then(|outcome| outcome.revision), u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
            tracing::trace!(target: "kvbroker::client", id, request, operation, key, revision, us, "called");
        }
        result
    }

    fn drive(
        &self,
        inner: &mut Inner,
        id: u64,
        timeout: Option<Duration>,
        progress: &mut Progress<'_>,
    ) -> Result<Reply, ClientError> {
        loop {
            let now = Instant::now();
            match inner.session.poll(now) {
                Action::Finished { id: ended, result } if ended == id => {
                    return result.map_err(|gave_up| ClientError::gave_up(gave_up, &self.project, timeout_text(timeout)));
                }
                // Calls are made one at a time: a leftover of one whose caller got a transport error.
                Action::Finished { .. } => {}
                Action::Open { until } => self.open(inner, until, progress),
                Action::Drop => inner.connection = None,
                Action::Send { id, body } => {
                    progress.doing(now, format!("waiting for the broker of {}", self.project));
                    self.note_in_doubt(inner.session.in_doubt(id));
                    let sent = inner.connection.as_ref().map_or(Ok(false), |connection| connection.send(&body));
                    if !sent? {
                        inner.session.not_sent(id);
                        inner.connection = None;
                        inner.session.link_lost(now, "the connection to the broker ended");
                    }
                }
                Action::Wait { until } => {
                    progress.tick(now);
                    self.wait(inner, progress.wake_at(until))?;
                }
            }
        }
    }

    /// Looks the broker up again: it may have moved.
    fn open(&self, inner: &mut Inner, until: Option<Instant>, progress: &mut Progress<'_>) {
        inner.connection = None;
        progress.doing(Instant::now(), format!("connecting to the broker of {} again", self.project));
        match inner.lookup.find(&self.context, until, progress).outcome {
            Ok(connection) => {
                inner.session.link_up(connection.hello().broker, connection.hello().session);
                inner.connection = Some(connection);
            }
            Err(error) => inner.session.link_lost(Instant::now(), error.to_string()),
        }
    }

    fn wait(&self, inner: &mut Inner, until: Option<Instant>) -> Result<(), ClientError> {
        let Some(connection) = &mut inner.connection else {
            // Waiting for the next attempt to connect.
            let pause = until.map_or(Duration::from_secs(1), |until| until.saturating_duration_since(Instant::now()));
            std::thread::sleep(pause);
            return Ok(());
        };
        match connection.receive(until)? {
            Incoming::Reply(body) => inner.session.handle_reply(Instant::now(), &body),
            Incoming::Nothing => {}
            Incoming::Lost(why) => {
                inner.connection = None;
                inner.session.link_lost(Instant::now(), why);
            }
        }
        Ok(())
    }

    /// A subscriber's socket for the publisher of the broker, asked anew where that is.
    pub(super) fn publisher(&self, timeout: Option<Duration>) -> Result<Publisher, ClientError> {
        let hello = self.hello_within(timeout)?;
        let inner = self.lock();
        let Some(route) = inner.connection.as_ref().map(|connection| connection.route().clone()) else {
            let trouble = Some("the connection to the broker ended".into());
            return Err(ClientError::TimedOut { project: self.project.clone(), waited: timeout_text(timeout), trouble });
        };
        let security = match (&route, inner.lookup.own_pair()) {
            (Route::Local { .. }, _) => Security::Local,
            (Route::Network { key, .. }, Some(own)) => Security::Curve { own, broker: key },
            (Route::Network { .. }, None) => return Err(TransportError::Unprotected.into()),
        };
        if matches!(route, Route::Network { .. }) && hello.pub_port == 0 {
            return Err(ClientError::Failed(Failure::new(ErrorCode::Refused, "this broker publishes nothing on the network")));
        }
        let mut socket = self.context.subscriber(security)?;
        socket.watch(&self.context)?;
        Ok(Publisher { socket, route, pub_port: hello.pub_port })
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Notes the mutation that is under way, if one is, and gives the one noted before.
    fn note_in_doubt(&self, request: Option<RequestId>) -> Option<RequestId> {
        std::mem::replace(&mut *self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner), request)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // After a panic in between the session's books still stand: each step is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first operation's verb and key, for the log; values never.
fn describe(operations: &Operations) -> (String, Option<String>) {
    let all = operations.as_slice();
    let verb = all.first().map_or("nothing", Operation::verb);
    let key = match all.first() {
        Some(
            Operation::Put { key, .. }
            | Operation::Get { key }
            | Operation::Exists { key }
            | Operation::Del { key, .. }
            | Operation::Incr { key, .. },
        ) => Some(key),
        Some(Operation::Mget { keys }) => keys.first(),
        _ => None,
    };
    let key = key.map(|key| String::from_utf8_lossy(key).into_owned());
    let verb = if all.len() > 1 { format!("{verb} and {} more", all.len() - 1) } else { verb.to_owned() };
    (verb, key)
}

fn timeout_text(timeout: Option<Duration>) -> String {
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
