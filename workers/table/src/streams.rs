//! The streams of the publisher: for each prefix that somebody watches, the chain of messages that tell all of its changes; and for each
//! pattern that somebody listens to, the chain of those that tell what was published about its subjects.
//!
//! - Each message says from which revision (exclusive) to which it is complete. It begins where the one before it on the stream ended;
//!   what was not told makes it begin later, and that is how whoever reads it sees what is missing.
//! - Nothing is told that [`Streams::publish`] has not been given, and all of it is told, or a later message begins behind it.
//! - What is to be told is gathered until [`Streams::flush`]: one message may tell of many revisions, but never of a part of one.
//! - Where changes were lost ([`EventBatch::events`] is `None`), or messages, every stream of that kind is told so within [`SWEEP_PAUSE`],
//!   also those on which nothing else happens: nobody could know otherwise that something is missing.
//! - A stream on which nothing happens repeats where it is: after [`BOOKMARK_FIRST`], then with pauses twice as long each time, up to
//!   [`BOOKMARK_LAST`].
//! - No socket, no clock, no thread: messages leave through the function that is given, times are given.
//! - Bounded: [`limits::STREAMS_MAX`] streams, and [`limits::STREAMS_GATHERED_BYTES_MAX`] bytes gathered beside those of one batch.
//!
//! A change costs one look into the index of prefixes, a published message one into the tree of patterns; it is encoded once if any stream
//! has it, and is copied for each of those. What no stream has costs nothing more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvbroker_core::PatternTree;
use kvbroker_protocol::{
    StreamKind, encode_stream_change, encode_stream_message, encode_stream_revision, encode_subject_message, limits,
};

use crate::interest::Interest;
use crate::prefix_index::PrefixIndex;
use crate::released::{Event, EventBatch, Publication};
use crate::stream_parts::{Part, Sides};

/// When a stream says for the first time that nothing has happened since its last message,
pub const BOOKMARK_FIRST: Duration = Duration::from_secs(1);
/// and the longest pause until it says so again.
pub const BOOKMARK_LAST: Duration = Duration::from_secs(30);
/// Between two bookmarks for those who join a stream that others watch: each of them goes to all.
const JOIN_PAUSE: Duration = Duration::from_millis(20);
/// Between two tours of all streams to say that changes were lost.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// Most bookmarks that one call sends, and the pause until the next ones: a subscriber with thousands of streams must be able to read
/// them as fast as they come.
const BOOKMARKS_AT_ONCE: usize = 512;
const ROUND_PAUSE: Duration = Duration::from_millis(5);
/// The pauses of different streams differ by up to a quarter, in so many steps, so that thousands that began together do not speak together.
const SPREAD_STEPS: u32 = 64;
/// Bytes of a message beside its revisions: its names, two numbers, the epoch.
const MESSAGE_BYTES: usize = 80;
/// Buffers that are larger than this are not kept for the next time.
const KEPT_BYTES: usize = 64 << 10;

type StreamId = u64;

/// All streams of one publisher.
#[derive(Debug)]
pub struct Streams {
    epoch: u64,
    /// Everything up to here was given.
    revision: u64,
    /// What is known of either kind of stream.
    sides: Sides,
    index: PrefixIndex<StreamId>,
    patterns: PatternTree<StreamId, ()>,
    /// The prefixes of all streams, and whether there are streams of messages.
    interest: Arc<Interest>,
    /// By topic.
    ids: HashMap<Box<[u8]>, StreamId>,
    streams: HashMap<StreamId, Stream>,
    last_id: StreamId,
    by_time: BTreeSet<(Instant, StreamId)>,
    /// Streams that have gathered something, and how much all have.
    gathering: Vec<StreamId>,
    gathered_bytes: usize,
    sweep: Sweep,
    /// Nothing that is due is sent before.
    next_round: Option<Instant>,
    /// The changes and messages of one revision that some stream has, encoded; and those streams.
    changes: Vec<u8>,
    touched: Vec<StreamId>,
}

#[derive(Debug)]
struct Stream {
    kind: StreamKind,
    topic: Box<[u8]>,
    /// The last revision of its last message.
    last: u64,
    /// Revisions that were not sent yet, encoded, and how many.
    revisions: Vec<u8>,
    count: usize,
    /// Its part of [`Streams::changes`].
    part: Part,
    /// When its last message was sent.
    sent_at: Instant,
    /// From then on, until the next bookmark.
    pause: Duration,
    /// When it is looked at.
    due: Instant,
    /// Somebody has joined since the last message.
    is_awaited: bool,
}

/// A tour of the streams to tell all of them how far the floor is.
#[derive(Debug, Default)]
struct Sweep {
    /// When the next one begins, if one is needed.
    due: Option<Instant>,
    last: Option<Instant>,
    /// Whom it has not come to.
    left: Vec<StreamId>,
}

/// Where messages go: topic and body.
pub type StreamSink<'a> = dyn FnMut(&[u8], Vec<u8>) + 'a;

impl Streams {
    /// None yet, at a revision that nobody needs to be told of.
    pub fn new(epoch: u64, revision: u64) -> Streams {
        Streams {
            epoch,
            revision,
            sides: Sides::default(),
            index: PrefixIndex::default(),
            patterns: PatternTree::default(),
            interest: Arc::default(),
            ids: HashMap::new(),
            streams: HashMap::new(),
            last_id: 0,
            by_time: BTreeSet::new(),
            gathering: Vec::new(),
            gathered_bytes: 0,
            sweep: Sweep::default(),
            next_round: None,
            changes: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// Has its prefixes noted there, and that there are patterns, and nowhere else; to be told before the first stream begins.
    #[must_use]
    pub fn noted_in(self, interest: Arc<Interest>) -> Streams {
        interest.clear();
        Streams { interest, ..self }
    }

    /// The last revision that was given; [`Streams::flush`] makes it one that was told.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether any of them tells of changes.
    pub fn has_watchers(&self) -> bool {
        self.sides.changes.streams > 0
    }

    /// Whether any of them tells of messages.
    pub fn has_listeners(&self) -> bool {
        self.sides.messages.streams > 0
    }

    /// Somebody has joined: a bookmark is due for it, at once if the stream is new. False if there are too many streams already.
    pub fn begin(&mut self, kind: StreamKind, name: &[u8], now: Instant) -> bool {
        if name.len() > limits::KEY_BYTES_MAX {
            return false;
        }
        let topic: Box<[u8]> = kind.topic(name).into();
        if let Some(id) = self.ids.get(&topic).copied() {
            let Some(stream) = self.streams.get_mut(&id) else { return false };
            if std::mem::replace(&mut stream.is_awaited, true) {
                return true;
            }
            let due = now.max(stream.sent_at + JOIN_PAUSE);
            reschedule(&mut self.by_time, id, stream, due);
            return true;
        }
        if self.streams.len() >= limits::STREAMS_MAX {
            return false;
        }
        self.last_id += 1;
        let id = self.last_id;
        let stream = Stream {
            kind,
            topic: topic.clone(),
            last: self.revision,
            revisions: Vec::new(),
            count: 0,
            part: Part::default(),
            sent_at: now,
            pause: BOOKMARK_FIRST,
            due: now,
            is_awaited: true,
        };
        match kind {
            StreamKind::Changes => {
                self.index.insert(name, id);
                self.interest.add(name);
            }
            StreamKind::Messages => {
                self.patterns.insert(name, id, ());
                self.interest.set_messages(true);
            }
        }
        self.sides.of_mut(kind).streams += 1;
        self.ids.insert(topic, id);
        self.by_time.insert((now, id));
        self.streams.insert(id, stream);
        true
    }

    /// Nobody watches this prefix any more, or listens to this pattern.
    pub fn end(&mut self, kind: StreamKind, name: &[u8]) {
        let Some(id) = self.ids.remove(kind.topic(name).as_slice()) else { return };
        self.sides.of_mut(kind).streams -= 1;
        match kind {
            StreamKind::Changes => {
                self.index.remove(name, id);
                self.interest.remove(name);
            }
            StreamKind::Messages => {
                self.patterns.remove(name, &id);
                self.interest.set_messages(self.sides.messages.streams > 0);
            }
        }
        if let Some(stream) = self.streams.remove(&id) {
            self.by_time.remove(&(stream.due, id));
            self.gathered_bytes -= stream.revisions.len();
        }
    }

    /// Nobody watches anything any more: everybody was cut off.
    pub fn end_all(&mut self) {
        let interest = Arc::clone(&self.interest);
        let mut sides = self.sides;
        (sides.changes.streams, sides.messages.streams) = (0, 0);
        *self = Streams { sides, last_id: self.last_id, ..Streams::new(self.epoch, self.revision) }.noted_in(interest);
    }

    /// Takes in what one batch changed and published. Messages that are full leave at once, the others with [`Streams::flush`].
    pub fn publish(&mut self, batch: &EventBatch, now: Instant, sink: &mut StreamSink<'_>) {
        if batch.revision <= self.revision {
            return;
        }
        let is_next = batch.base == self.revision;
        let events = batch.events.as_deref().filter(|_| is_next);
        let messages = batch.messages.as_deref().filter(|_| is_next);
        for (kind, is_lost) in [(StreamKind::Changes, events.is_none()), (StreamKind::Messages, messages.is_none())] {
            if is_lost {
                self.lose(kind, batch.revision, now, sink);
            }
        }
        if !self.streams.is_empty() {
            let mut events = events.unwrap_or_default().chunk_by(|one, other| one.revision == other.revision).peekable();
            let mut messages = messages.unwrap_or_default().chunk_by(|one, other| one.revision == other.revision).peekable();
            // Revision by revision: what was gathered may leave in between, and is complete up to there on every stream.
            loop {
                let changed = events.peek().and_then(|events| events.first()).map(|event| event.revision);
                let published = messages.peek().and_then(|messages| messages.first()).map(|message| message.revision);
                let Some(revision) = changed.into_iter().chain(published).min() else { break };
                let events = events.next_if(|_| changed == Some(revision)).unwrap_or_default();
                let messages = messages.next_if(|_| published == Some(revision)).unwrap_or_default();
                self.gather(events, messages, (revision, batch.time_ms), now, sink);
            }
        }
        self.revision = batch.revision;
    }

    /// What happened up to this revision is not known here.
    fn lose(&mut self, kind: StreamKind, revision: u64, now: Instant, sink: &mut StreamSink<'_>) {
        if self.sides.of(kind).streams > 0 {
            // What was gathered is from before.
            self.flush(now, sink);
            if self.sweep.due.is_none() {
                self.sweep.due = Some(self.sweep.last.map_or(now, |last| now.max(last + SWEEP_PAUSE)));
            }
        }
        self.sides.of_mut(kind).floor = revision;
    }

    /// Gathers what one revision changed, in the order of keys, and what it published.
    fn gather(
        &mut self,
        events: &[Event],
        messages: &[Publication],
        (revision, time_ms): (u64, u64),
        now: Instant,
        sink: &mut StreamSink<'_>,
    ) {
        for event in events {
            let from = self.changes.len();
            for id in self.index.find(&event.key) {
                let Some(stream) = self.streams.get_mut(&id) else { continue };
                if self.changes.len() == from {
                    encode_stream_change(&event.key, &event.kind, &mut self.changes);
                }
                if stream.part.count == 0 {
                    self.touched.push(id);
                }
                stream.part.add(from..self.changes.len());
            }
        }
        if self.sides.messages.streams > 0 {
            self.gather_messages(messages, revision, now, sink);
        }
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            self.take_part(id, revision, time_ms, now, sink);
        }
        // Both are used again for the next revision.
        self.touched = touched;
        self.changes.clear();
        self.changes.shrink_to(KEPT_BYTES);
        if self.gathered_bytes > limits::STREAMS_GATHERED_BYTES_MAX {
            self.revision = revision;
            self.flush(now, sink);
        }
    }

    fn gather_messages(&mut self, messages: &[Publication], revision: u64, now: Instant, sink: &mut StreamSink<'_>) {
        let find = |publication: &Publication| self.patterns.find(&publication.message.subject, limits::ROUTE_STEPS_MAX);
        let Some(found) = messages.iter().map(find).collect::<Option<Vec<_>>>() else {
            // Whose patterns have it can't be found out within bounds: nobody is told, and everybody hears of that.
            self.revision = revision - 1;
            return self.lose(StreamKind::Messages, revision, now, sink);
        };
        for (Publication { message, .. }, ids) in messages.iter().zip(found) {
            let from = self.changes.len();
            for (id, ()) in ids.entries {
                let Some(stream) = self.streams.get_mut(id) else { continue };
                if self.changes.len() == from {
                    encode_subject_message(&message.subject, message.value.lent(), &mut self.changes);
                }
                if stream.part.count == 0 {
                    self.touched.push(*id);
                }
                stream.part.add(from..self.changes.len());
            }
        }
    }

    /// Gives a stream its part of a revision.
    fn take_part(&mut self, id: StreamId, revision: u64, time_ms: u64, now: Instant, sink: &mut StreamSink<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let bytes = stream.part.bytes();
        if stream.count > 0 && stream.revisions.len() + bytes > limits::STREAM_MESSAGE_BYTES {
            self.send(id, revision - 1, now, sink);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if bytes > limits::STREAM_REVISION_BYTES_MAX {
            // Behind it: changes have to be asked for, messages are gone.
            stream.part.clear();
            stream.last = revision;
            self.send(id, revision, now, sink);
            return;
        }
        if stream.count == 0 {
            self.gathering.push(id);
        }
        let before = stream.revisions.len();
        let Part { pieces, count } = &stream.part;
        let pieces = pieces.iter().filter_map(|piece| self.changes.get(piece.clone()));
        encode_stream_revision(revision, time_ms, *count, pieces, &mut stream.revisions);
        stream.part.clear();
        stream.count += 1;
        self.gathered_bytes += stream.revisions.len() - before;
        // A key can have prefixes by the thousand, and each of their streams its own copy of this revision.
        if self.gathered_bytes > limits::STREAMS_GATHERED_BYTES_MAX {
            self.send(id, revision, now, sink);
        }
    }

    /// Sends what was gathered.
    pub fn flush(&mut self, now: Instant, sink: &mut StreamSink<'_>) {
        for id in std::mem::take(&mut self.gathering) {
            if self.streams.get(&id).is_some_and(|stream| stream.count > 0) {
                self.send(id, self.revision, now, sink);
            }
        }
    }

    /// Sends what a stream has gathered, or a bookmark; complete up to `revision`.
    fn send(&mut self, id: StreamId, revision: u64, now: Instant, sink: &mut StreamSink<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut body = Vec::with_capacity(stream.revisions.len() + MESSAGE_BYTES);
        let prev = stream.last.max(self.sides.of(stream.kind).floor);
        encode_stream_message(stream.kind, self.epoch, (prev, revision), stream.count, &stream.revisions, &mut body);
        self.gathered_bytes -= stream.revisions.len();
        // Not kept: thousands of streams have nothing to say most of the time.
        (stream.revisions, stream.count) = (Vec::new(), 0);
        (stream.last, stream.sent_at, stream.pause, stream.is_awaited) = (revision, now, BOOKMARK_FIRST, false);
        if stream.due > now + BOOKMARK_FIRST {
            reschedule(&mut self.by_time, id, stream, now + BOOKMARK_FIRST);
        }
        sink(&stream.topic, body);
    }

    /// Sends the bookmarks that are due. To be called when nothing is gathered.
    pub fn due(&mut self, now: Instant, sink: &mut StreamSink<'_>) {
        self.flush(now, sink);
        if self.next_round.is_some_and(|next| now < next) {
            return;
        }
        let mut left = BOOKMARKS_AT_ONCE;
        while let Some((_, id)) = self.by_time.first().copied().filter(|(due, _)| *due <= now && left > 0) {
            left -= 1;
            let Some(stream) = self.streams.get_mut(&id) else { return };
            let silent_until = stream.sent_at + spread(stream.pause, id);
            if !stream.is_awaited && silent_until > now {
                // Something was sent since this was planned.
                reschedule(&mut self.by_time, id, stream, silent_until);
                continue;
            }
            let pause = if stream.is_awaited { BOOKMARK_FIRST } else { (2 * stream.pause).min(BOOKMARK_LAST) };
            self.send(id, self.revision, now, sink);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.pause = pause;
                reschedule(&mut self.by_time, id, stream, now + spread(pause, id));
            }
        }
        left = self.sweep(now, left, sink);
        self.next_round = (left == 0).then(|| now + ROUND_PAUSE);
    }

    /// Goes on with the tour that tells all streams of a hole: so many of them. Says how many it had no need of.
    fn sweep(&mut self, now: Instant, most: usize, sink: &mut StreamSink<'_>) -> usize {
        if self.sweep.left.is_empty() && self.sweep.due.is_some_and(|due| due <= now) {
            let left = self.streams.keys().copied().collect();
            self.sweep = Sweep { due: None, last: Some(now), left };
        }
        for sent in 0..most {
            let Some(id) = self.sweep.left.pop() else { return most - sent };
            if self.streams.get(&id).is_some_and(|stream| stream.last < self.sides.of(stream.kind).floor) {
                self.send(id, self.revision, now, sink);
            }
        }
        0
    }

    /// When [`Streams::due`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        let bookmark = self.by_time.first().map(|(due, _)| *due);
        let sweep = if self.sweep.left.is_empty() { self.sweep.due } else { self.sweep.last };
        let due = bookmark.into_iter().chain(sweep).min()?;
        Some(self.next_round.map_or(due, |next| due.max(next)))
    }
}

/// A stream's own form of a pause; the first one is the same for all.
fn spread(pause: Duration, id: StreamId) -> Duration {
    let step = u32::try_from(id % u64::from(SPREAD_STEPS)).unwrap_or_default();
    if pause <= BOOKMARK_FIRST { pause } else { pause - pause / 4 * step / SPREAD_STEPS }
}

fn reschedule(by_time: &mut BTreeSet<(Instant, StreamId)>, id: StreamId, stream: &mut Stream, due: Instant) {
    if stream.due != due {
        by_time.remove(&(stream.due, id));
        by_time.insert((due, id));
        stream.due = due;
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "message_streams_tests.rs"]
mod message_tests;
