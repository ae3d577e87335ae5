//! Many watches from one thread: the sockets and questions of many [`Merge`]s.
//!
//! - All decisions about one watch are its merge's; here are the socket, the clock, and whose turn it is to ask.
//! - Questions of many watches are outstanding together, without a thread for each: their ends ring the bell that this thread waits
//!   for beside the publisher's socket.
//! - So many questions are outstanding and no more; so many of them wait at the broker and no more.
//! - Where hundreds have missed something, one question is asked for all of them.
//! - What was put in is taken out before more is: one page or message of a watch is held at a time, beside what it keeps behind a hole.
//!
//! The rooms: `asking` the questions and answers, `joint` what many ask at once.

mod asking;
mod joint;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::KEY_BYTES_MAX;
use kvbroker_protocol::{ChangeKind, EventBefore, Failure, KeyEvent, StreamMessage, stream_topic};

use super::event::{WatchEnd, WatchEvent, WatchStats};
use super::link::{Came, Link};
use super::merge::{Merge, Position, Told};
use super::options::{WatchFrom, WatchOptions};
use crate::client::bell::Bell;
use crate::client::error::ClientError;
use crate::client::handle::Client;
use crate::transport::{ClientSocket, poll};
use asking::Flight;

/// Pause where the client has no room for a question.
const CROWDED: Duration = Duration::from_millis(10);

/// With events ready to be taken, the sockets are still looked at this often.
const LOOK: Duration = Duration::from_millis(50);

/// That is, when so many events were taken.
const TAKEN_BEFORE_LOOK: u32 = 32;

/// Unless so many bytes of events are ready.
const READY_BYTES: usize = 8 << 20;

/// Most bytes of messages that all watches together keep behind holes.
const AHEAD_BYTES: usize = 64 << 20;

/// What an event takes beside its keys and values, about.
const EVENT_BYTES: usize = 128;

/// Names a watch of a [`Hub`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(u64);

struct Entry {
    options: WatchOptions,
    merge: Merge,
    /// Its stream's, if it may have one.
    topic: Option<Vec<u8>>,
    /// What is true of what was taken.
    position: Option<Position>,
    due: Option<Instant>,
    waits_to_ask: bool,
}

enum Ready {
    Told(Told),
    End(WatchEnd),
}

/// Many watches, heard by one thread. See [`Client::hub`].
pub struct Hub {
    client: Client,
    bell: Arc<Bell>,
    entries: BTreeMap<WatchId, Entry>,
    next_id: u64,
    ready: VecDeque<(WatchId, Ready)>,
    /// About how many bytes were put into `ready` since it was empty.
    ready_bytes: usize,
    link: Link,
    /// Who hears which stream.
    streams: HashMap<Vec<u8>, Vec<WatchId>>,
    /// There are no streams for this client, as far as is known.
    is_unheard: bool,
    ahead_bytes: usize,
    /// Who wants to ask, in turn.
    askers: VecDeque<WatchId>,
    due: BTreeSet<(Instant, WatchId)>,
    /// Those of watches that are gone are awaited, too: they take room at the broker.
    flights: Vec<Flight>,
    /// Not before then is one question asked for many.
    joint_at: Instant,
    looked_at: Instant,
    /// Events that were taken.
    taken: u32,
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
            ready_bytes: 0,
            link: Link::new(self.clone()),
            streams: HashMap::new(),
            is_unheard: false,
            ahead_bytes: 0,
            askers: VecDeque::new(),
            due: BTreeSet::new(),
            flights: Vec::new(),
            joint_at: Instant::now(),
            looked_at: Instant::now(),
            taken: 0,
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
        let bytes = options.watched.prefix().len();
        if bytes > KEY_BYTES_MAX {
            merge.refused(Failure::limit(format!("a prefix has at most {KEY_BYTES_MAX} bytes, not {bytes}")));
        }
        let topic = (options.may_stream() && bytes <= KEY_BYTES_MAX).then(|| stream_topic(options.watched.prefix()));
        if let Some(topic) = &topic {
            if self.is_unheard {
                merge.never_linked();
            }
            self.listen(now, id, topic.clone(), &mut merge);
        }
        self.entries.insert(id, Entry { options, merge, topic, position: None, due: None, waits_to_ask: false });
        self.pump(now, id);
        id
    }

    /// Lets a watch hear its stream as soon as that can be heard.
    fn listen(&mut self, now: Instant, id: WatchId, topic: Vec<u8>, merge: &mut Merge) {
        self.link.turn_on(now);
        let others = self.streams.entry(topic).or_insert_with_key(|topic| {
            if let Some(socket) = self.link.socket() {
                subscribe(socket, topic);
            }
            Vec::new()
        });
        if self.link.socket().is_some() {
            let hears = |other: &WatchId| self.entries.get(other).is_some_and(|entry| entry.merge.has_streamed());
            merge.joined(now, others.iter().any(hears));
        }
        others.push(id);
    }

    /// Ends a watch; nothing more is told of it. False: there is none of this name, or it has ended.
    pub fn unwatch(&mut self, id: WatchId) -> bool {
        let Some(entry) = self.entries.remove(&id) else { return false };
        if let Some(due) = entry.due {
            self.due.remove(&(due, id));
        }
        self.ahead_bytes -= entry.merge.ahead_bytes();
        if let Some(topic) = entry.topic
            && let Some(hearers) = self.streams.get_mut(&topic)
        {
            hearers.retain(|hearer| *hearer != id);
            if hearers.is_empty() {
                self.streams.remove(&topic);
                if let Some(socket) = self.link.socket() {
                    unsubscribe(socket, &topic);
                }
            }
        }
        if self.streams.is_empty() {
            self.link.turn_off();
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
            // Not at the clock for each event.
            self.taken = self.taken.wrapping_add(1);
            if self.taken.is_multiple_of(TAKEN_BEFORE_LOOK) && self.ready_bytes < READY_BYTES && self.looked_at.elapsed() >= LOOK
            {
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
            self.ready_bytes = 0;
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
        self.hear(now);
        while let Some((due, id)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, id));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.due = None;
            }
            self.pump(now, id);
        }
        self.ask(now);
    }

    /// Takes what the publisher has sent, and what became of the connection to it.
    fn hear(&mut self, now: Instant) {
        while self.ready_bytes < READY_BYTES
            && let Some(came) = self.link.next(now, &self.bell)
        {
            match came {
                Came::Message { topic, body } => self.message(now, &topic, &body),
                Came::Up => {
                    self.is_unheard = false;
                    if let Some(socket) = self.link.socket() {
                        self.streams.keys().for_each(|topic| subscribe(socket, topic));
                    }
                    self.update_hearers(now, |merge| {
                        merge.may_be_linked();
                        merge.linked(now);
                    });
                }
                Came::Lost(why) => self.update_hearers(now, |merge| merge.unlinked(now, &why)),
                Came::Nothing => {
                    self.is_unheard = true;
                    self.update_hearers(now, Merge::never_linked);
                }
                Came::Refused(failure) => self.update_hearers(now, |merge| merge.refused(failure.clone())),
            }
        }
    }

    fn message(&mut self, now: Instant, topic: &[u8], body: &[u8]) {
        // What is not wanted any more may still come.
        let Some(hearers) = self.streams.get(topic).cloned() else { return };
        let message = match StreamMessage::decode(topic, body) {
            Ok(Some((_, message))) => message,
            Ok(None) => return,
            Err(failure) => {
                tracing::warn!(target: "kvbroker::watch", "{failure}");
                return hearers.into_iter().for_each(|id| self.update(now, id, Merge::garbled));
            }
        };
        if let [only] = hearers.as_slice() {
            return self.update(now, *only, |merge| merge.heard(now, message, body.len()));
        }
        for id in hearers {
            self.update(now, id, |merge| merge.heard(now, message.clone(), body.len()));
        }
    }

    fn update_hearers(&mut self, now: Instant, update: impl Fn(&mut Merge)) {
        let hearers: Vec<WatchId> = self.streams.values().flatten().copied().collect();
        hearers.into_iter().for_each(|id| self.update(now, id, &update));
    }

    /// Puts something into a merge, and takes out what comes of it.
    fn update(&mut self, now: Instant, id: WatchId, update: impl FnOnce(&mut Merge)) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.ahead_bytes -= entry.merge.ahead_bytes();
        update(&mut entry.merge);
        if self.ahead_bytes + entry.merge.ahead_bytes() > AHEAD_BYTES {
            entry.merge.forget_ahead();
        }
        self.ahead_bytes += entry.merge.ahead_bytes();
        self.pump(now, id);
    }

    /// Takes what a merge wants to be done or told.
    fn pump(&mut self, now: Instant, id: WatchId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        while let Some(told) = entry.merge.take() {
            self.ready_bytes += told.event.as_ref().map_or(0, bytes_of);
            self.ready.push_back((id, Ready::Told(told)));
        }
        if let Some(end) = entry.merge.end() {
            self.ready.push_back((id, Ready::End(end.clone())));
            return;
        }
        if let Some(socket) = self.link.socket()
            && let Some(topic) = &entry.topic
            && entry.merge.resubscribes(now)
        {
            unsubscribe(socket, topic);
            subscribe(socket, topic);
        }
        if !entry.waits_to_ask && entry.merge.wants_to_ask(now) {
            entry.waits_to_ask = true;
            self.askers.push_back(id);
        }
        self.schedule(now, id);
    }

    fn schedule(&mut self, now: Instant, id: WatchId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        // Who waits to ask has nothing else to wait for.
        let due = entry.merge.due(now).filter(|_| !entry.waits_to_ask);
        if due != entry.due {
            if let Some(before) = std::mem::replace(&mut entry.due, due) {
                self.due.remove(&(before, id));
            }
            self.due.extend(due.map(|due| (due, id)));
        }
    }

    fn sleep(&mut self, now: Instant, until: Option<Instant>) {
        let due = self.due.first().map(|(due, _)| *due);
        let wake = [due, self.link.due(), until].into_iter().flatten().min();
        let mut items = vec![self.bell.poll_item()];
        items.extend(self.link.poll_items());
        if let Err(error) = poll(&mut items, wake.map(|wake| wake.saturating_duration_since(now))) {
            // The context can't have ended while it is shared; don't spin on what is left.
            tracing::warn!(target: "kvbroker::watch", %error, "can't wait for messages");
            std::thread::sleep(CROWDED);
        }
    }
}

fn subscribe(socket: &ClientSocket, topic: &[u8]) {
    if let Err(error) = socket.subscribe(topic) {
        // The watch goes on without its stream.
        tracing::warn!(target: "kvbroker::watch", %error, "a stream can't be subscribed to");
    }
}

fn unsubscribe(socket: &ClientSocket, topic: &[u8]) {
    if let Err(error) = socket.unsubscribe(topic) {
        tracing::warn!(target: "kvbroker::watch", %error, "a subscription can't be taken back");
    }
}

/// About how much memory an event takes.
fn bytes_of(event: &WatchEvent) -> usize {
    let of_change = |change: &KeyEvent| {
        let value = match &change.kind {
            ChangeKind::Put(value) => value.as_bytes().len(),
            _ => 0,
        };
        let before = match &change.before {
            Some(EventBefore::Value { value, .. }) => value.as_bytes().len(),
            _ => 0,
        };
        EVENT_BYTES + change.key.len() + value + before
    };
    match event {
        WatchEvent::Changes(revision) => EVENT_BYTES + revision.changes.iter().map(of_change).sum::<usize>(),
        WatchEvent::SnapshotRow(row) => EVENT_BYTES + row.key.len() + row.value.as_bytes().len(),
        _ => EVENT_BYTES,
    }
}
