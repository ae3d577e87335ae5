//! Messages of streams that are read where they lie: for a reader who hears millions of changes a second.
//!
//! - One pass over the bytes checks all that [`StreamMessage::decode`](crate::StreamMessage::decode) checks and notes where each key and value
//!   lies. After that a change costs no memory and no reading: its key and its value are slices of the message.
//! - Only what brokers write today is read here: the names in their order, nothing beside them. Of anything else, right or wrong, nothing is
//!   said; `StreamMessage::decode` has the last word on it.

use crate::events::{ChangeKind, EventBefore, KeyEvent, RevisionEvents, epoch_from_text};
use crate::limits::{DEPTH_MAX, KEY_BYTES_MAX};
use crate::msgpack;
use crate::value::{StoredRef, ValueKind};

/// A message of a stream with a copy of its bytes, in which its changes lie.
#[derive(Clone, Debug)]
pub struct StreamBody {
    bytes: Box<[u8]>,
    epoch: u64,
    prev: u64,
    revision: u64,
    revisions: Vec<RevisionPlace>,
    changes: Vec<ChangePlace>,
}

#[derive(Clone, Copy, Debug)]
struct RevisionPlace {
    revision: u64,
    time_ms: u64,
    /// Behind its last change.
    end: u32,
}

#[derive(Clone, Copy, Debug)]
struct ChangePlace {
    key: Span,
    kind: ChangeKind<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    from: u32,
    to: u32,
}

impl Span {
    #[inline]
    fn of(self, bytes: &[u8]) -> &[u8] {
        // They were noted when the same bytes were read, so that nothing is ever empty here that was not.
        bytes.get(self.from as usize..self.to as usize).unwrap_or_default()
    }
}

/// What one revision changed, lent.
#[derive(Clone, Copy, Debug)]
pub struct RevisionRef<'a> {
    /// The revision.
    pub revision: u64,
    /// When it was made, by the broker's time, milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    bytes: &'a [u8],
    changes: &'a [ChangePlace],
}

/// What a revision did to a key, lent: a [`KeyEvent`] without memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What happened to it.
    pub kind: ChangeKind<StoredRef<'a>>,
    /// What it was before. None: that was not asked for.
    pub before: Option<&'a EventBefore>,
}

impl StreamBody {
    /// Reads the second frame of a message of the stream of `prefix`. None: it is wrong, or not as brokers write it today, and
    /// [`StreamMessage::decode`](crate::StreamMessage::decode) tells which.
    pub fn read(prefix: &[u8], body: &[u8]) -> Option<StreamBody> {
        u32::try_from(body.len()).ok()?;
        let mut reader = Reader { all: body, rest: body };
        let has_events = match reader.byte()? {
            0x83 => false,
            0x84 => true,
            _ => return None,
        };
        reader.literal(b"\xa5epoch\xb0")?;
        let epoch = epoch_from_text(std::str::from_utf8(reader.take(16)?).ok()?)?;
        reader.literal(b"\xa4prev")?;
        let prev = reader.uint()?;
        reader.literal(b"\xa3rev")?;
        let revision = reader.uint()?;
        let mut read = StreamBody { bytes: Box::default(), epoch, prev, revision, revisions: Vec::new(), changes: Vec::new() };
        if has_events {
            reader.literal(b"\xa6events")?;
            read.events(prefix, &mut reader)?;
        }
        if prev > revision || !reader.rest.is_empty() {
            return None;
        }
        read.bytes = body.into();
        Some(read)
    }

    fn events(&mut self, prefix: &[u8], reader: &mut Reader<'_>) -> Option<()> {
        /// The fewest bytes of a revision with its change: `[rev, time, [[key, kind]]]`.
        const REVISION_BYTES_MIN: usize = 12;
        let count = reader.array()?;
        // What a message says of their number need not be true, but there are no more than fit.
        let room = count.min(reader.rest.len() / REVISION_BYTES_MIN);
        self.revisions.reserve_exact(room);
        self.changes.reserve_exact(room);
        let mut before = self.prev;
        for _ in 0..count {
            reader.literal(b"\x93")?;
            let (revision, time_ms) = (reader.uint()?, reader.uint()?);
            if revision <= before || revision > self.revision {
                return None;
            }
            before = revision;
            let changes = reader.array().filter(|changes| *changes > 0)?;
            for _ in 0..changes {
                self.changes.push(reader.change(prefix)?);
            }
            self.revisions.push(RevisionPlace { revision, time_ms, end: u32::try_from(self.changes.len()).ok()? });
        }
        Some(())
    }

    /// The log's epoch; compared for equality only.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What is told begins behind this revision.
    pub fn prev(&self) -> u64 {
        self.prev
    }

    /// And ends with this one.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many revisions it tells of; none: a bookmark.
    #[inline]
    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    /// Whether it tells of no change.
    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.revisions) + size_of_val(&*self.changes)
    }

    /// How many of its revisions are not behind this one; they come first.
    pub fn count_through(&self, revision: u64) -> usize {
        self.revisions.partition_point(|place| place.revision <= revision)
    }

    /// The revision of this index, counted from zero.
    #[inline]
    pub fn get(&self, index: usize) -> Option<RevisionRef<'_>> {
        let RevisionPlace { revision, time_ms, end } = *self.revisions.get(index)?;
        let from = index.checked_sub(1).and_then(|before| self.revisions.get(before)).map_or(0, |before| before.end);
        let changes = self.changes.get(from as usize..end as usize)?;
        Some(RevisionRef { revision, time_ms, bytes: &self.bytes, changes })
    }

    /// All revisions in their order.
    pub fn iter(&self) -> impl Iterator<Item = RevisionRef<'_>> {
        (0..self.len()).map_while(|index| self.get(index))
    }
}

impl<'a> RevisionRef<'a> {
    /// How many keys it changed.
    #[inline]
    pub fn len(self) -> usize {
        self.changes.len()
    }

    /// Never: a revision that changed nothing is not told.
    pub fn is_empty(self) -> bool {
        self.changes.is_empty()
    }

    /// The change of this index, counted from zero.
    #[inline]
    pub fn get(self, index: usize) -> Option<ChangeRef<'a>> {
        let ChangePlace { key, kind } = *self.changes.get(index)?;
        let kind = match kind {
            ChangeKind::Put(value) => ChangeKind::Put(StoredRef::unchecked(ValueKind::MessagePack, value.of(self.bytes))),
            ChangeKind::Remove => ChangeKind::Remove,
            ChangeKind::Expire => ChangeKind::Expire,
            ChangeKind::Leave => ChangeKind::Leave,
        };
        Some(ChangeRef { key: key.of(self.bytes), kind, before: None })
    }

    /// All changes, in the order of their keys.
    pub fn iter(self) -> impl Iterator<Item = ChangeRef<'a>> {
        (0..self.len()).map_while(move |index| self.get(index))
    }
}

impl From<RevisionRef<'_>> for RevisionEvents {
    fn from(revision: RevisionRef<'_>) -> RevisionEvents {
        let changes = revision.iter().map(KeyEvent::from).collect();
        RevisionEvents { revision: revision.revision, time_ms: revision.time_ms, changes, origin: None }
    }
}

impl From<ChangeRef<'_>> for KeyEvent {
    fn from(change: ChangeRef<'_>) -> KeyEvent {
        KeyEvent { key: change.key.to_vec(), kind: change.kind.into(), before: change.before.cloned() }
    }
}

impl<'a> From<&'a KeyEvent> for ChangeRef<'a> {
    fn from(event: &'a KeyEvent) -> ChangeRef<'a> {
        ChangeRef { key: &event.key, kind: event.kind.lent(), before: event.before.as_ref() }
    }
}

/// What is not read yet. None everywhere: something else stands there.
struct Reader<'a> {
    all: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline]
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    #[inline]
    fn literal(&mut self, literal: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(literal)?;
        Some(())
    }

    /// A number in so many bytes, big-endian.
    #[inline]
    fn number<const N: usize>(&mut self) -> Option<u64> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    #[inline]
    fn uint(&mut self) -> Option<u64> {
        match self.byte()? {
            small @ 0..=0x7f => Some(u64::from(small)),
            0xcc => self.number::<1>(),
            0xcd => self.number::<2>(),
            0xce => self.number::<4>(),
            0xcf => self.number::<8>(),
            _ => None,
        }
    }

    #[inline]
    fn array(&mut self) -> Option<usize> {
        match self.byte()? {
            small @ 0x90..=0x9f => Some(usize::from(small & 0xf)),
            0xdc => self.length::<2>(),
            0xdd => self.length::<4>(),
            _ => None,
        }
    }

    #[inline]
    fn length<const N: usize>(&mut self) -> Option<usize> {
        usize::try_from(self.number::<N>()?).ok()
    }

    /// Where the next byte stands.
    #[inline]
    fn at(&self) -> u32 {
        // The whole was seen to be shorter than that.
        u32::try_from(self.all.len() - self.rest.len()).unwrap_or(u32::MAX)
    }

    #[inline]
    fn change(&mut self, prefix: &[u8]) -> Option<ChangePlace> {
        let length = self.byte()?;
        let key = self.key()?;
        let span = Span { from: self.at() - u32::try_from(key.len()).ok()?, to: self.at() };
        if !key.starts_with(prefix) || key.len() > KEY_BYTES_MAX {
            return None;
        }
        let kind = match (length, self.byte()?) {
            (0x93, 0xa3) => {
                self.literal(b"put")?;
                let from = self.at();
                self.value()?;
                ChangeKind::Put(Span { from, to: self.at() })
            }
            (0x92, 0xa6) => match self.take(6)? {
                b"remove" => ChangeKind::Remove,
                b"expire" => ChangeKind::Expire,
                _ => return None,
            },
            _ => return None,
        };
        Some(ChangePlace { key: span, kind })
    }

    #[inline]
    fn key(&mut self) -> Option<&'a [u8]> {
        match self.byte()? {
            short @ 0xa0..=0xbf => self.text(usize::from(short & 0x1f)),
            0xd9 => self.length::<1>().and_then(|length| self.text(length)),
            0xda => self.length::<2>().and_then(|length| self.text(length)),
            0xc4 => self.length::<1>().and_then(|length| self.take(length)),
            0xc5 => self.length::<2>().and_then(|length| self.take(length)),
            _ => None,
        }
    }

    #[inline]
    fn text(&mut self, length: usize) -> Option<&'a [u8]> {
        let text = self.take(length)?;
        // The first question is the quicker one, and nearly always enough.
        (text.is_ascii() || std::str::from_utf8(text).is_ok()).then_some(text)
    }

    /// Passes over a value that may stand in a table.
    #[inline]
    fn value(&mut self) -> Option<()> {
        let from = self.rest;
        match self.byte()? {
            0..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => Some(()),
            short @ 0xa0..=0xbf => self.text(usize::from(short & 0x1f)).map(drop),
            0xd9 => self.length::<1>().and_then(|length| self.text(length)).map(drop),
            0xda => self.length::<2>().and_then(|length| self.text(length)).map(drop),
            0xdb => self.length::<4>().and_then(|length| self.text(length)).map(drop),
            _ => {
                // Whatever else there is, and what it may hold.
                let length = msgpack::checked_length(from, DEPTH_MAX).ok()?;
                (_, self.rest) = from.split_at_checked(length)?;
                Some(())
            }
        }
    }
}

#[cfg(test)]
#[path = "stream_body_tests.rs"]
mod tests;
