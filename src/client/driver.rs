//! What drives a client: the session's wishes carried out over a connection.
//!
//! - All decisions are the session's ([`super::session`]); here are the socket, the clock and the lookup.
//! - One thread drives at a time: a caller while it waits for its own calls, or the client's own thread where nobody waits
//!   ([`super::inbox`] settles which).
//! - Whoever drives never blocks but in one wait, for the socket, its events and the inbox's bell. A lookup, which may take
//!   long, has a thread of its own while it lasts, so that deadlines hold meanwhile.
//! - A libzmq failure counts as a lost connection: a new socket is tried, up to each call's deadline.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{Connection, Incoming, Route};
use super::inbox::{Inbox, KEPT_CALLS, Lead, Left, Mail, Submission};
use super::progress::{Notices, Progress};
use super::session::{Action, RequestId, Session, Told};
use super::slot::{Slot, Token};
use crate::lookup::{Looked, Lookup};
use crate::transport::{Context, wait};

/// Longest time for one attempt to find the broker: a silent one must not hold up the next attempt for ever.
const FIND_MAX: Duration = Duration::from_secs(30);

/// How long the last message may take to leave.
const LINGER: Duration = Duration::from_millis(100);

/// What the handle and the driver share.
pub(super) struct Shared {
    pub(super) project: String,
    pub(super) context: Context,
    pub(super) notices: Option<Notices>,
    pub(super) inbox: Inbox,
    /// Locked while the broker is looked up, and by who needs its keys.
    pub(super) lookup: Mutex<Lookup>,
    route: Mutex<Option<Route>>,
    in_doubt: Mutex<Option<RequestId>>,
}

impl Shared {
    pub(super) fn new(context: Context, notices: Option<Notices>, inbox: Inbox, lookup: Lookup, route: Route) -> Shared {
        Shared {
            project: lookup.target().project.to_string(),
            context,
            notices,
            inbox,
            lookup: Mutex::new(lookup),
            route: Mutex::new(Some(route)),
            in_doubt: Mutex::new(None),
        }
    }

    pub(super) fn route(&self) -> Option<Route> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn in_doubt(&self) -> Option<RequestId> {
        *self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_route(&self, route: Option<Route>) {
        *self.route.lock().unwrap_or_else(PoisonError::into_inner) = route;
    }

    fn note_in_doubt(&self, request: Option<RequestId>) {
        *self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner) = request;
    }
}

/// What a lookup came to, or why to no connection.
type Found = Result<Connection, String>;

/// Tells the driver the end of a lookup, whatever end it is: the session waits for it.
struct Finding {
    shared: Arc<Shared>,
    tells: Sender<Found>,
    found: Found,
}

impl Finding {
    fn new(shared: Arc<Shared>, tells: Sender<Found>) -> Finding {
        Finding { shared, tells, found: Err("the lookup of the broker ended with a fault of this program".to_owned()) }
    }
}

impl Drop for Finding {
    fn drop(&mut self) {
        let found = std::mem::replace(&mut self.found, Err(String::new()));
        // The client may be closed meanwhile.
        if self.tells.send(found).is_ok() {
            self.shared.inbox.ring();
        }
    }
}

struct Driver {
    shared: Arc<Shared>,
    session: Session<Token>,
    connection: Option<Connection>,
    found: (Sender<Found>, Receiver<Found>),
    /// Empty between two looks; kept for their memory, as is the next one.
    mail: Mail,
    ended: VecDeque<(Token, Told)>,
}

impl Driver {
    fn new(shared: Arc<Shared>, connection: Connection) -> Driver {
        let mut session = Session::new();
        session.link_up(connection.hello().into());
        let (mail, ended) = (Mail::default(), VecDeque::new());
        Driver { shared, session, connection: Some(connection), found: channel(), mail, ended }
    }

    /// Drives until `is_done`, or `latest`; false: the inbox was closed first.
    fn drive(&mut self, latest: Option<Instant>, is_done: impl Fn(&Driver) -> bool) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut patience = Patience::new(shared.notices.as_ref());
        loop {
            shared.inbox.take(&mut self.mail);
            if self.mail.is_closed {
                self.mail.clear();
                return false;
            }
            let now = Instant::now();
            if self.session.outstanding() == 0 {
                patience.begin(now);
            }
            self.begin(now);
            let until = self.work(&mut patience);
            if is_done(self) || latest.is_some_and(|latest| latest <= Instant::now()) {
                return true;
            }
            if shared.inbox.may_sleep() {
                let until = [until, latest].into_iter().flatten().min();
                self.sleep(patience.progress.wake_at(until));
                patience.progress.tick(Instant::now());
            }
        }
    }

    fn begin(&mut self, now: Instant) {
        let Mail { submissions, bodies, .. } = &mut self.mail;
        let mut bodies = bodies.as_slice();
        for Submission { asked, deadline, token } in submissions.drain(..) {
            if asked.lies() {
                let body = bodies.split_off(..asked.bytes()).expect("what lies in the inbox has its bytes there");
                self.session.begin_lying(now, asked, body, deadline, token);
            } else {
                self.session.begin(now, asked, deadline, token);
            }
        }
    }

    /// Takes what has come and does what the session wants, until it wants to wait.
    fn work(&mut self, patience: &mut Patience<'_>) -> Option<Instant> {
        self.receive(patience);
        let mut ended = std::mem::take(&mut self.ended);
        self.session.take_finished(&mut ended);
        let mut now = Instant::now();
        let until = loop {
            match self.session.poll(now) {
                Action::Finished { token, result } => {
                    ended.push_back((token, result.into()));
                    continue;
                }
                Action::Open { until } => {
                    self.drop_connection();
                    patience.progress.doing(now, format!("connecting to the broker of {} again", self.shared.project));
                    self.find(until, patience.since);
                }
                Action::Drop => self.drop_connection(),
                Action::Send { id, body } => {
                    if patience.notices.is_some() {
                        let what = if self.session.awaits_changes() { "changes in" } else { "the broker of" };
                        patience.progress.doing(now, format!("waiting for {what} {}", self.shared.project));
                    }
                    // Before it leaves: whoever ends the program next must know of it.
                    self.shared.note_in_doubt(self.session.in_doubt());
                    self.send(now, id, &body);
                }
                Action::Wait { until } => break until,
            }
            now = Instant::now();
        };
        if !ended.is_empty() {
            // Whoever is told that a call has ended must not find it in doubt, or counted.
            self.shared.note_in_doubt(self.session.in_doubt());
            self.shared.inbox.ended(ended.len(), ended.iter().map(|(token, _)| token.bytes).sum());
            ended.drain(..).for_each(|(token, told)| token.complete(told));
        }
        if ended.capacity() <= KEPT_CALLS {
            self.ended = ended;
        }
        until
    }

    fn receive(&mut self, patience: &mut Patience<'_>) {
        if let Ok(found) = self.found.1.try_recv() {
            self.take_connection(found);
        }
        loop {
            let Some(connection) = &mut self.connection else { return };
            let lost = match connection.try_receive() {
                Ok(Incoming::Nothing) => return,
                Ok(Incoming::Reply(body)) => {
                    let now = Instant::now();
                    patience.begin(now);
                    self.session.handle_reply(now, &body);
                    continue;
                }
                Ok(Incoming::Lost(why)) => why,
                Err(error) => error.to_string(),
            };
            self.drop_connection();
            self.session.link_lost(Instant::now(), lost);
        }
    }

    fn send(&mut self, now: Instant, id: u64, body: &[u8]) {
        let sent = self.connection.as_mut().map_or(Ok(false), |connection| connection.send(body));
        let why = match sent {
            Ok(true) => return,
            Ok(false) => "the connection to the broker ended".to_owned(),
            Err(error) => error.to_string(),
        };
        self.session.not_sent(id);
        self.drop_connection();
        self.session.link_lost(now, why);
    }

    /// Looks the broker up again, on a thread of its own: it may have moved.
    fn find(&mut self, until: Option<Instant>, since: Instant) {
        let mut finding = Finding::new(Arc::clone(&self.shared), self.found.0.clone());
        let latest = Instant::now() + FIND_MAX;
        let until = until.map_or(latest, |until| until.min(latest));
        let find = move || {
            let Looked { outcome, .. } = {
                let shared = &finding.shared;
                let mut lookup = shared.lookup.lock().unwrap_or_else(PoisonError::into_inner);
                let mut progress = Progress::new(shared.notices.as_ref(), since);
                lookup.find(&shared.context, Some(until), &mut progress)
            };
            finding.found = outcome.map_err(|error| error.to_string());
        };
        if let Err(error) = std::thread::Builder::new().name("kv-find".into()).spawn(find) {
            // `find` was dropped, and has told so already.
            tracing::warn!(target: "kvbroker::client", %error, "no thread to look the broker up with");
        }
    }

    fn take_connection(&mut self, found: Found) {
        match found {
            Ok(connection) => {
                self.session.link_up(connection.hello().into());
                self.shared.note_route(Some(connection.route().clone()));
                self.connection = Some(connection);
            }
            Err(why) => self.session.link_lost(Instant::now(), why),
        }
    }

    fn drop_connection(&mut self) {
        if self.connection.take().is_some() {
            self.shared.note_route(None);
        }
    }

    fn sleep(&mut self, until: Option<Instant>) {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let bell = self.shared.inbox.signal();
        let rings = match &mut self.connection {
            Some(connection) => connection.wait(bell, left),
            None => wait([Some(bell)], left).map(|[rings]| rings),
        };
        match rings {
            Ok(true) => self.shared.inbox.hush(),
            Ok(false) => {}
            Err(error) => {
                // The context can't have ended while it is shared; don't spin on what is left.
                tracing::warn!(target: "kvbroker::client", %error, "can't wait for messages");
                std::thread::sleep(LINGER);
            }
        }
    }

    fn left(&self) -> Left {
        let at = Instant::now();
        Left { at, is_idle: self.session.is_idle(), has_room: self.session.sends_at_once(at) }
    }

    fn close(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if let Some(body) = self.session.farewell()
            && matches!(connection.send(&body), Ok(true))
        {
            connection.close(LINGER);
        }
    }
}

/// Where the driver is for whoever drives.
pub(super) struct Desk {
    shared: Arc<Shared>,
    driver: Mutex<Option<Driver>>,
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, connection: Connection) -> Desk {
        let driver = Driver::new(Arc::clone(&shared), connection);
        Desk { shared, driver: Mutex::new(Some(driver)) }
    }

    fn driver(&self) -> MutexGuard<'_, Option<Driver>> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's thread: drives when it is wanted and nobody waits who would, until the inbox is closed.
    pub(super) fn run(&self) {
        let _ends = EndsAll(self);
        let inbox = &self.shared.inbox;
        loop {
            inbox.until_wanted();
            let mut place = self.driver();
            let Some(driver) = place.as_mut() else { return };
            if !driver.drive(None, |driver| driver.session.is_idle() && inbox.may_rest() || inbox.has_heir()) {
                return place.take().map_or((), Driver::close);
            }
            let left = driver.left();
            drop(place);
            inbox.hand_over(left);
        }
    }

    /// Waits until a slot is complete, or it is `latest`, and drives meanwhile if nobody else does.
    pub(super) fn attend(&self, slot: &Arc<Slot>, latest: Option<Instant>) {
        let inbox = &self.shared.inbox;
        while !slot.is_complete() {
            match inbox.lead(slot) {
                Lead::Yours => self.lead(latest, |_| slot.is_complete()),
                Lead::Others => {
                    slot.until_complete_or_nudged(latest);
                    inbox.disclaim(slot);
                }
                // Every call has its end then, or is just told it.
                Lead::Closed => return slot.until_complete(),
            }
            if latest.is_some_and(|latest| latest <= Instant::now()) {
                return;
            }
        }
    }

    /// Sends what lies in the inbox, and takes what has come, if nobody else does. Does not wait.
    pub(super) fn send_off(&self) {
        if self.shared.inbox.lead_if_needed() {
            self.lead(None, |_| true);
        }
    }

    /// As [`Desk::send_off`], for who looks whether a call has ended: also where nothing lies in the inbox, and not every time.
    pub(super) fn look(&self) {
        if self.shared.inbox.lead_to_look(Instant::now()) {
            self.lead(None, |_| true);
        }
    }

    fn lead(&self, latest: Option<Instant>, is_done: impl Fn(&Driver) -> bool) {
        let panicking = EndsAll(self);
        let mut place = self.driver();
        let left = place.as_mut().map_or_else(nothing_left, |driver| {
            driver.drive(latest, is_done);
            driver.left()
        });
        drop(place);
        std::mem::forget(panicking);
        self.shared.inbox.hand_over(left);
    }
}

/// For an inbox that is closed.
fn nothing_left() -> Left {
    Left { at: Instant::now(), is_idle: true, has_room: false }
}

/// Whoever calls a client whose driver has ended, be it by a panic, is told so.
struct EndsAll<'a>(&'a Desk);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        let inbox = &self.0.shared.inbox;
        inbox.close();
        inbox.take(&mut Mail::default());
        drop(self.0.driver().take());
        // The thread has nothing left to drive, and ends.
        inbox.hand_over(nothing_left());
    }
}

/// Since when a reply is awaited, and what was said about it.
struct Patience<'a> {
    notices: Option<&'a Notices>,
    since: Instant,
    progress: Progress<'a>,
}

impl<'a> Patience<'a> {
    fn new(notices: Option<&'a Notices>) -> Self {
        let since = Instant::now();
        Patience { notices, since, progress: Progress::new(notices, since) }
    }

    fn begin(&mut self, now: Instant) {
        self.since = now;
        self.progress = Progress::new(self.notices, now);
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
