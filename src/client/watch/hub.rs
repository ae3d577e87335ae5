//! Many watches from one thread: the sockets and questions of many [`Merge`]s.
//!
//! - All decisions about one watch are its merge's; here are the socket, the clock, and whose turn it is to ask.
//! - Questions of many watches are outstanding together, without a thread for each: their ends ring the bell that this thread waits
//!   for beside the publisher's socket.
//! - So many questions are outstanding and no more; so many of them wait at the broker and no more.
//! - What was put in is taken out before more is: one page or message of a watch is held at a time, beside what it keeps behind a hole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_protocol::{Answer, Events, Operation, Outcome, Scan};

use super::event::{WatchEnd, WatchEvent, WatchStats};
use super::merge::{Answered, Ask, Merge, Position, Told};
use super::options::{WatchFrom, WatchOptions, Watched};
use crate::client::bell::Bell;
use crate::client::error::ClientError;
use crate::client::handle::Client;
use crate::client::slot::{Ended, Slot};
use crate::client::table::unexpected;
use crate::transport::poll;

/// Most questions that are outstanding and answered at once. An answer has some MiB at most.
const ASKED_MAX: usize = 32;

/// Most questions that wait at the broker for a change. It takes twice as many of one client.
const PARKED_MAX: usize = 128;

/// How long a question waits at the broker for a change.
const WAIT: Duration = Duration::from_secs(30);

/// How long an answer may take, beyond that.
const ANSWER: Duration = Duration::from_secs(15);

/// Pause where the client has no room for a question.
const CROWDED: Duration = Duration::from_millis(10);

/// With events ready to be taken, the sockets are still looked at this often.
const LOOK: Duration = Duration::from_millis(50);

/// Unless so many are ready.
const READY_MAX: usize = 10_000;

/// Names a watch of a [`Hub`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(u64);

struct Entry {
    options: WatchOptions,
    merge: Merge,
    /// What is true of what was taken.
    position: Option<Position>,
    due: Option<Instant>,
    waits_to_ask: bool,
}

enum Ready {
    Told(Told),
    End(WatchEnd),
}

struct Flight {
    id: WatchId,
    slot: Arc<Slot>,
    timeout: Duration,
    parks: bool,
}

/// Many watches, heard by one thread. See [`Client::hub`].
pub struct Hub {
    client: Client,
    bell: Arc<Bell>,
    entries: BTreeMap<WatchId, Entry>,
    next_id: u64,
    ready: VecDeque<(WatchId, Ready)>,
    /// Who wants to ask, in turn.
    askers: VecDeque<WatchId>,
    due: BTreeSet<(Instant, WatchId)>,
    /// Those of watches that are gone are awaited, too: they take room at the broker.
    flights: Vec<Flight>,
    looked_at: Instant,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("watches", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Client {
    /// A place for many watches that are heard by one thread over one connection.
    ///
    /// # Errors
    /// No more file descriptors.
    pub fn hub(&self) -> Result<Hub, ClientError> {
        let bell = Arc::new(Bell::new().map_err(ClientError::System)?);
        Ok(Hub {
            client: self.clone(),
            bell,
            entries: BTreeMap::new(),
            next_id: 0,
            ready: VecDeque::new(),
            askers: VecDeque::new(),
            due: BTreeSet::new(),
            flights: Vec::new(),
            looked_at: Instant::now(),
        })
    }
}

impl Hub {
    /// Begins to watch all keys with a prefix. A watch from now on begins when it has said [`WatchEvent::CaughtUp`].
    pub fn watch(&mut self, prefix: impl AsRef<[u8]>, from: WatchFrom) -> WatchId {
        self.watch_with(WatchOptions::prefix(prefix).from(from))
    }

    /// Begins to watch what the options say.
    pub fn watch_with(&mut self, options: WatchOptions) -> WatchId {
        self.begin(options, false)
    }

    pub(super) fn begin(&mut self, options: WatchOptions, eager: bool) -> WatchId {
        let id = WatchId(self.next_id);
        self.next_id += 1;
        let now = Instant::now();
        let mut merge = Merge::new(now, &options, eager);
        merge.never_linked();
        self.entries.insert(id, Entry { options, merge, position: None, due: None, waits_to_ask: false });
        self.pump(now, id);
        id
    }

    /// Ends a watch; nothing more is told of it. False: there is none of this name, or it has ended.
    pub fn unwatch(&mut self, id: WatchId) -> bool {
        let Some(entry) = self.entries.remove(&id) else { return false };
        if let Some(due) = entry.due {
            self.due.remove(&(due, id));
        }
        true
    }

    /// How many watches there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without any watch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The revision up to which everything was taken from a watch; None: it has not begun, or is in a snapshot, or has ended.
    #[must_use]
    pub fn revision(&self, id: WatchId) -> Option<u64> {
        self.position(id).map(|position| position.revision)
    }

    pub(super) fn position(&self, id: WatchId) -> Option<Position> {
        self.entries.get(&id)?.position
    }

    /// A watch's figures.
    #[must_use]
    pub fn stats(&self, id: WatchId) -> Option<WatchStats> {
        self.entries.get(&id).map(|entry| entry.merge.stats())
    }

    /// The next event of any watch, if one comes until `until` (None: for ever). None also if there are no watches. A watch whose
    /// event is an error has ended.
    pub fn next(&mut self, until: Option<Instant>) -> Option<(WatchId, Result<WatchEvent, ClientError>)> {
        self.next_or_end(until).map(|(id, told)| (id, told.map_err(ClientError::from)))
    }

    pub(super) fn next_or_end(&mut self, until: Option<Instant>) -> Option<(WatchId, Result<WatchEvent, WatchEnd>)> {
        loop {
            if self.ready.len() < READY_MAX && self.looked_at.elapsed() >= LOOK {
                self.look();
            }
            while let Some((id, ready)) = self.ready.pop_front() {
                match ready {
                    Ready::Told(told) => {
                        let Some(entry) = self.entries.get_mut(&id) else { continue };
                        entry.position = told.position;
                        if let Some(event) = told.event {
                            return Some((id, Ok(event)));
                        }
                    }
                    Ready::End(end) => {
                        if self.unwatch(id) {
                            return Some((id, Err(end)));
                        }
                    }
                }
            }
            if self.entries.is_empty() {
                return None;
            }
            self.look();
            if self.ready.is_empty() {
                let now = Instant::now();
                if until.is_some_and(|until| until <= now) {
                    return None;
                }
                self.sleep(now, until);
            }
        }
    }

    /// Waits until a watch knows where it begins, or that it can't; false: it did not until then.
    pub(super) fn begins(&mut self, id: WatchId, until: Option<Instant>) -> bool {
        loop {
            self.look();
            if !self.ready.is_empty() || self.entries.get(&id).is_none_or(|entry| entry.merge.verified().is_some()) {
                return true;
            }
            let now = Instant::now();
            if until.is_some_and(|until| until <= now) {
                return false;
            }
            self.sleep(now, until);
        }
    }

    /// Takes what has come and asks what there is to ask. Never waits.
    fn look(&mut self) {
        let now = Instant::now();
        self.looked_at = now;
        if self.client.is_closed() {
            let ids: Vec<_> = self.entries.keys().copied().collect();
            self.ready.extend(ids.into_iter().map(|id| (id, Ready::End(WatchEnd::Closed))));
            return;
        }
        self.bell.hush();
        self.collect(now);
        while let Some((due, id)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, id));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.due = None;
            }
            self.pump(now, id);
        }
        self.ask(now);
    }

    fn collect(&mut self, now: Instant) {
        let (ended, flights) =
            std::mem::take(&mut self.flights).into_iter().partition(|flight: &Flight| flight.slot.is_complete());
        self.flights = flights;
        for Flight { id, slot, timeout, .. } in ended {
            let end = slot.wait().pop().unwrap_or(Ended::Closed);
            let answered = answered(self.client.outcome(end, Some(timeout)));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.merge.answered(now, answered);
                self.pump(now, id);
            }
        }
    }

    fn ask(&mut self, now: Instant) {
        let parked = self.flights.iter().filter(|flight| flight.parks).count();
        let (mut may_park, mut may_ask) = (PARKED_MAX - parked, ASKED_MAX.saturating_sub(self.flights.len() - parked));
        while may_ask > 0 {
            let Some(id) = self.askers.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.waits_to_ask = false;
            let Some(ask) = entry.merge.ask(now, may_park > 0) else { continue };
            let parks = matches!(ask, Ask::Events { wait: true, .. });
            let timeout = if parks { WAIT + ANSWER } else { ANSWER };
            match self.client.submit_ringing(&operation(&entry.options, ask), timeout, &self.bell) {
                Some(slot) => self.flights.push(Flight { id, slot, timeout, parks }),
                None => entry.merge.not_asked(now + CROWDED),
            }
            if parks {
                may_park -= 1;
            } else {
                may_ask -= 1;
            }
            self.schedule(id);
        }
    }

    /// Takes what a merge wants to be done or told.
    fn pump(&mut self, now: Instant, id: WatchId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        while let Some(told) = entry.merge.take() {
            self.ready.push_back((id, Ready::Told(told)));
        }
        if let Some(end) = entry.merge.end() {
            self.ready.push_back((id, Ready::End(end.clone())));
            return;
        }
        if !entry.waits_to_ask && entry.merge.wants_to_ask(now) {
            entry.waits_to_ask = true;
            self.askers.push_back(id);
        }
        self.schedule(id);
    }

    fn schedule(&mut self, id: WatchId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        // Who waits to ask has nothing else to wait for.
        let due = entry.merge.due().filter(|_| !entry.waits_to_ask);
        if due != entry.due {
            if let Some(before) = std::mem::replace(&mut entry.due, due) {
                self.due.remove(&(before, id));
            }
            self.due.extend(due.map(|due| (due, id)));
        }
    }

    fn sleep(&mut self, now: Instant, until: Option<Instant>) {
        let due = self.due.first().map(|(due, _)| *due);
        let wake = [due, until].into_iter().flatten().min();
        let mut items = vec![self.bell.poll_item()];
        if let Err(error) = poll(&mut items, wake.map(|wake| wake.saturating_duration_since(now))) {
            // The context can't have ended while it is shared; don't spin on what is left.
            tracing::warn!(target: "kvbroker::watch", %error, "can't wait for messages");
            std::thread::sleep(CROWDED);
        }
    }
}

fn operation(options: &WatchOptions, ask: Ask) -> Operation {
    let prefix = options.watched.prefix().to_vec();
    match ask {
        Ask::Now => Operation::Events(Events { prefix, limit: Some(1), ..Events::default() }),
        Ask::Events { after, epoch, wait } => {
            let wait_ms = if wait { u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX) } else { 0 };
            let where_ = options.filter.clone();
            Operation::Events(Events { prefix, after: Some(after), limit: None, wait_ms, epoch, detail: options.detail, where_ })
        }
        Ask::Rows { cursor, snapshot } => {
            // No key comes between a key and the same with a zero behind it.
            let key = |key: &[u8]| (Some(key.to_vec()), Some([key, &[0]].concat()));
            let (from, to) = match &options.watched {
                Watched::Prefix(_) => (None, None),
                Watched::Key(only) => key(only),
            };
            let filter = options.filter.clone();
            Operation::Scan(Scan { prefix, from, to, filter, cursor, snapshot: Some(snapshot), ..Scan::default() })
        }
    }
}

fn answered(outcome: Result<Outcome, ClientError>) -> Answered {
    match outcome {
        Ok(Outcome { revision, result }) => match result {
            Ok(Answer::Events { events, through, more, epoch }) => Answered::Events { events, through, more, epoch },
            Ok(Answer::Rows { rows, cursor, snapshot }) => {
                Answered::Rows { rows, cursor, snapshot: snapshot.or(revision).unwrap_or_default() }
            }
            Ok(_) => answered(Err(unexpected())),
            Err(failure) => Answered::Failed(failure, revision),
        },
        Err(ClientError::Failed(failure)) => Answered::Failed(failure, None),
        Err(ClientError::Protocol(error)) => Answered::Unreadable(error),
        Err(ClientError::Closed) => Answered::Closed,
        Err(error) => Answered::Unanswered(error.to_string()),
    }
}
