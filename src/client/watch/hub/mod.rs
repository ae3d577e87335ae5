//! Many watches from one thread: the sockets and questions of many [`Merge`]s.
//!
//! - All decisions about one watch are its merge's; here are the socket, the clock, and whose turn it is to ask.
//! - Questions of many watches are outstanding together, without a thread for each: their ends ring the bell that this thread waits
//!   for beside the publisher's socket.
//! - So many questions are outstanding and no more; so many of them wait at the broker and no more.
//! - Where hundreds have missed something, one question is asked for all of them.
//! - What was put in is taken out before more is: one page or message of a watch is held at a time, beside what it keeps behind a hole.
//!
//! The rooms: `asking` the questions and answers, `joint` what many ask at once, `hearing` what the publisher sends, `word` what the broker
//! is told of them.

mod asking;
mod hearing;
mod joint;
mod word;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_protocol::limits::KEY_BYTES_MAX;
use kvbroker_protocol::{Failure, stream_topic};

use super::event::{WatchEnd, WatchEvent, WatchStats};
use super::link::Link;
use super::merge::{Merge, Position, Told};
use super::options::{WatchFrom, WatchOptions};
use crate::client::bell::Bell;
use crate::client::error::ClientError;
use crate::client::handle::Client;
use asking::Flight;
pub(in crate::client) use hearing::{subscribe, unsubscribe};
use word::Word;

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
    is_ready: bool,
}

/// A watch that has ended, and what was true of it then.
pub(super) struct Ended {
    pub(super) end: WatchEnd,
    pub(super) position: Option<Position>,
    pub(super) stats: WatchStats,
}

/// Many watches, heard by one thread. See [`Client::hub`].
pub struct Hub {
    client: Client,
    bell: Arc<Bell>,
    entries: BTreeMap<WatchId, Entry>,
    next_id: u64,
    /// Whose events wait to be taken, or who has ended; in turn, each once.
    ready: VecDeque<WatchId>,
    /// About how many bytes of events have come since none waited.
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
    word: Word,
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
            word: Word::new(Instant::now()),
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
        self.entries.insert(id, Entry { options, merge, topic, position: None, due: None, waits_to_ask: false, is_ready: false });
        self.pump(now, id);
        id
    }

    /// Ends a watch; nothing more is told of it. False: there is none of this name, or it has ended.
    pub fn unwatch(&mut self, id: WatchId) -> bool {
        self.remove(id).is_some()
    }

    fn remove(&mut self, id: WatchId) -> Option<Entry> {
        let mut entry = self.entries.remove(&id)?;
        if let Some(due) = entry.due {
            self.due.remove(&(due, id));
        }
        self.ahead_bytes -= entry.merge.ahead_bytes();
        if let Some(topic) = entry.topic.take()
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
        Some(entry)
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

    /// True while nothing is known to be missing of what a watch has told and has ready to be told: the broker is heard, and nothing odd
    /// is being cleared up. A look is taken while the next event is waited for.
    #[must_use]
    pub fn is_current(&self, id: WatchId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.merge.is_current())
    }

    /// A watch's figures.
    #[must_use]
    pub fn stats(&self, id: WatchId) -> Option<WatchStats> {
        self.entries.get(&id).map(|entry| entry.merge.stats())
    }

    /// The next event of any watch, if one comes until `until` (None: for ever). None also if there are no watches. A watch whose
    /// event is an error has ended.
    pub fn next(&mut self, until: Option<Instant>) -> Option<(WatchId, Result<WatchEvent, ClientError>)> {
        self.next_or_end(until).map(|(id, told)| (id, told.map_err(|ended| ended.end.into())))
    }

    pub(super) fn next_or_end(&mut self, until: Option<Instant>) -> Option<(WatchId, Result<WatchEvent, Box<Ended>>)> {
        loop {
            // Not at the clock for each event.
            self.taken = self.taken.wrapping_add(1);
            if self.taken.is_multiple_of(TAKEN_BEFORE_LOOK) && self.ready_bytes < READY_BYTES && self.looked_at.elapsed() >= LOOK
            {
                self.look();
            }
            if let Some(told) = self.take() {
                return Some(told);
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

    /// The next event that is there, or end.
    fn take(&mut self) -> Option<(WatchId, Result<WatchEvent, Box<Ended>>)> {
        while let Some(id) = self.ready.front().copied() {
            let Some(entry) = self.entries.get_mut(&id) else {
                self.ready.pop_front();
                continue;
            };
            let Some(Told { event, position }) = entry.merge.take() else {
                entry.is_ready = false;
                self.ready.pop_front();
                let Some(end) = entry.merge.end().cloned() else { continue };
                let (position, stats) = (entry.position, entry.merge.stats());
                self.remove(id);
                return Some((id, Err(Box::new(Ended { end, position, stats }))));
            };
            if !entry.merge.is_midway() {
                // The others' turn comes after each message.
                self.ready.rotate_left(1);
            }
            entry.position = position;
            if let Some(event) = event {
                return Some((id, Ok(event)));
            }
        }
        None
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
            return ids.into_iter().for_each(|id| self.update(now, id, Merge::closed));
        }
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
        self.ready_bytes += entry.merge.put_bytes();
        let has_ended = entry.merge.end().is_some();
        if !entry.is_ready && (has_ended || !entry.merge.is_taken()) {
            entry.is_ready = true;
            self.ready.push_back(id);
        }
        if has_ended {
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
        // With each message it moves on by a little. Looked at too early, it is put where it belongs.
        if entry.due.is_some_and(|before| due.is_some_and(|due| before <= due)) {
            return;
        }
        if let Some(before) = std::mem::replace(&mut entry.due, due) {
            self.due.remove(&(before, id));
        }
        self.due.extend(due.map(|due| (due, id)));
    }

    fn sleep(&mut self, now: Instant, until: Option<Instant>) {
        let due = self.due.first().map(|(due, _)| *due);
        let wake = [due, self.link.due(), until].into_iter().flatten().min();
        match self.link.wait(&self.bell, wake.map(|wake| wake.saturating_duration_since(now))) {
            Ok(true) => self.bell.hush(),
            Ok(false) => {}
            Err(error) => {
                // The context can't have ended while it is shared; don't spin on what is left.
                tracing::warn!(target: "kvbroker::watch", %error, "can't wait for messages");
                std::thread::sleep(CROWDED);
            }
        }
    }
}
