//! A leaf of the table: some dozens of entries next to each other in memory, in the order of their keys.
//!
//! - One piece of memory: slots from its front, four bytes for each entry; the entries from its back, without a gap, in whatever order they
//!   came. It is only as large as they need, rounded up to [`STEP_BYTES`].
//! - A slot is the *head* of the key and where the entry stands. The head is the two bytes behind the prefix that all keys of the leaf share. So a
//!   search looks at the slots, which lie together, and nearly always at one entry.
//! - An entry: a byte that says how wide the three numbers behind it are; length of the key, length of the record, revision; key and record.
//! - What is longer than [`PACKED_BYTES_MAX`] stands for itself in memory, and goes out of the table as it is; its slot says which one it is.
//!
//! Caveat: the prefix of the slots may be shorter than the one that the keys share by now; it is made anew when a leaf is split.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Entry, EntryRef, Replaced};

/// A leaf has about so many bytes at most; what does not fit makes two of it.
pub(super) const LEAF_BYTES_MAX: usize = 4 << 10;
/// Key and record of an entry that stands in the leaf have at most so many bytes together.
pub(super) const PACKED_BYTES_MAX: usize = 1 << 10;
/// Leaves are made in steps of so many bytes.
const STEP_BYTES: usize = 256;
/// Free bytes that are given back.
const SHRINK_BYTES: usize = 3 * STEP_BYTES;
/// Of the processor's cache; a guess does.
const CACHE_LINE_BYTES: usize = 64;
/// Of an entry so many are asked for together, from its front, and its last one.
const TOUCHED_LINES: usize = 4;
/// Of a slot: head, place.
const SLOT_BYTES: usize = 4;
/// Of the place in a slot: the number of a large entry follows.
const IS_LARGE: u16 = 1 << 15;
/// The largest header of an entry: widths, two lengths, revision.
const HEADER_BYTES_MAX: usize = 1 + 2 + 2 + 8;

/// In an entry's first byte: the length of the key, or of the record, has two bytes instead of one.
const WIDE_KEY: u8 = 1 << 4;
const WIDE_RECORD: u8 = 1 << 5;
/// The bytes of the revision.
const REVISION_WIDTH: u8 = 0x0f;

// After a split, either half takes one entry more, and all places are below the mark of large ones.
const _: () =
    assert!(LEAF_BYTES_MAX / 2 + 2 * (PACKED_BYTES_MAX + HEADER_BYTES_MAX + SLOT_BYTES) + STEP_BYTES < IS_LARGE as usize);

/// Entries in the order of their keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaf {
    /// Slots, free bytes, entries.
    bytes: Box<[u8]>,
    /// Where the entries begin.
    heap: u16,
    count: u16,
    /// How many bytes all keys share at least; heads begin behind them.
    prefix: u16,
    /// In no order.
    large: Vec<Large>,
}

/// An entry that stands for itself.
#[derive(Clone, Debug)]
struct Large {
    key: Box<[u8]>,
    entry: Entry,
}

/// An entry in the memory of the leaf.
struct Packed<'a> {
    key: &'a [u8],
    record: &'a [u8],
    modified: u64,
    /// All of it.
    bytes: usize,
}

/// What an entry takes in the memory of a leaf, without its slot.
fn packed_bytes(key: &[u8], record: &[u8], modified: u64) -> Option<usize> {
    let bytes = key.len() + record.len();
    (bytes <= PACKED_BYTES_MAX).then(|| 1 + width(key.len()) + width(record.len()) + revision_width(modified) + bytes)
}

fn width(length: usize) -> usize {
    if length > usize::from(u8::MAX) { 2 } else { 1 }
}

fn revision_width(modified: u64) -> usize {
    (size_of::<u64>() - modified.leading_zeros() as usize / 8).max(1)
}

/// How many bytes two keys share from their beginning.
pub(super) fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn head(key: &[u8], prefix: usize) -> u16 {
    match key.get(prefix..).unwrap_or_default() {
        [] => 0,
        [first] => u16::from_be_bytes([*first, 0]),
        [first, second, ..] => u16::from_be_bytes([*first, *second]),
    }
}

fn round_up(bytes: usize) -> usize {
    bytes.next_multiple_of(STEP_BYTES)
}

/// A number of one or two bytes.
fn length_at(bytes: &[u8], at: usize, is_wide: bool) -> (usize, usize) {
    if is_wide { (usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])), at + 2) } else { (usize::from(bytes[at]), at + 1) }
}

impl Leaf {
    /// An empty one with room for a whole leaf.
    pub(super) fn with_room() -> Leaf {
        Leaf::with_bytes(LEAF_BYTES_MAX)
    }

    fn with_bytes(bytes: usize) -> Leaf {
        let heap = u16::try_from(bytes).expect("a leaf is far smaller than 64 KiB");
        Leaf { bytes: vec![0; bytes].into_boxed_slice(), heap, ..Leaf::default() }
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// The entry in this place, which there must be.
    pub(super) fn get(&self, at: usize) -> (&[u8], EntryRef<'_>) {
        let place = self.place(at);
        if place & IS_LARGE == 0 {
            let Packed { key, record, modified, .. } = self.packed(place);
            (key, EntryRef { modified, record })
        } else {
            let Large { key, entry } = &self.large[usize::from(place & !IS_LARGE)];
            (key, entry.as_ref())
        }
    }

    /// The key in this place, which there must be.
    pub(super) fn key(&self, at: usize) -> &[u8] {
        self.get(at).0
    }

    /// The first key.
    pub(super) fn first(&self) -> Option<&[u8]> {
        (self.count > 0).then(|| self.key(0))
    }

    /// The last key.
    pub(super) fn last(&self) -> Option<&[u8]> {
        self.len().checked_sub(1).map(|at| self.key(at))
    }

    /// The place of a key, or the one where it would stand.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let wanted = head(key, usize::from(self.prefix));
        let slots = self.slots();
        let head_of = |slot: &[u8; SLOT_BYTES]| u16::from_be_bytes([slot[0], slot[1]]);
        let mut low = slots.partition_point(|slot| head_of(slot) < wanted);
        let mut high = low + slots[low..].iter().take_while(|slot| head_of(slot) == wanted).count();
        // Heads tell nothing of a key that does not begin as all others do; but such a one is not found here either.
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(match self.order_of_prefix(key) {
            Ordering::Less => 0,
            Ordering::Equal => low,
            Ordering::Greater => self.len(),
        })
    }

    /// Reads of each cache line of the slots something; the sum says nothing.
    pub(super) fn touch(&self) -> u64 {
        self.slots().iter().step_by(CACHE_LINE_BYTES / SLOT_BYTES).map(|slot| u64::from(slot[0])).sum()
    }

    /// Reads of the entry that a key probably has something, and says where it stands; the sum says nothing.
    pub(super) fn touch_entry(&self, key: &[u8]) -> (usize, u64) {
        let wanted = head(key, usize::from(self.prefix));
        let slots = self.slots();
        let head_of = |slot: &[u8; SLOT_BYTES]| u16::from_be_bytes([slot[0], slot[1]]);
        let mut at = slots.partition_point(|slot| head_of(slot) < wanted);
        if slots.get(at + 1).is_some_and(|slot| head_of(slot) == wanted) {
            // Its head alone does not tell it from others.
            at = self.find(key).unwrap_or_else(|at| at);
        }
        let Some(slot) = slots.get(at) else { return (at, 0) };
        let place = u16::from_le_bytes([slot[2], slot[3]]);
        if place & IS_LARGE != 0 {
            return (at, 0);
        }
        // To its last byte, which is read first: it says what the record consists of.
        let end = self.packed(place).bytes - 1;
        let entry = &self.bytes[usize::from(place)..];
        let lines = (1..TOUCHED_LINES).map(|line| (line * CACHE_LINE_BYTES).min(end));
        (at, lines.chain([end]).fold(0, |mixed, at| mixed ^ u64::from(entry[at])))
    }

    /// Where a key stands that does not begin with the prefix, before all others or behind them; Equal if it does.
    fn order_of_prefix(&self, key: &[u8]) -> Ordering {
        let Some(first) = self.first() else { return Ordering::Equal };
        let prefix = &first[..usize::from(self.prefix)];
        if key.starts_with(prefix) { Ordering::Equal } else { key.cmp(prefix) }
    }

    /// True if this entry still fits.
    pub(super) fn fits(&self, key: &[u8], record: &[u8], modified: u64) -> bool {
        self.weight() + weight(key, record, modified) <= LEAF_BYTES_MAX
    }

    /// True if this entry fits, and so do all once each record was changed: the first change of one adds a number to it.
    pub(super) fn fits_loosely(&self, key: &[u8], record: &[u8], modified: u64) -> bool {
        let grown = (self.len() + 1) * size_of::<u64>();
        self.weight() + weight(key, record, modified) + grown <= LEAF_BYTES_MAX
    }

    /// Bytes of its slots and entries, of large ones only what says where they are.
    pub(super) fn weight(&self) -> usize {
        self.used() + self.large.len() * size_of::<Large>()
    }

    /// Bytes of memory, without large entries.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.bytes.len()
    }

    /// Looks whether it is as it must be.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let prefix = usize::from(self.prefix);
        let packed = |at| match self.place(at) {
            place if place & IS_LARGE == 0 => self.packed(place).bytes,
            _ => 0,
        };
        assert_eq!((0..self.len()).map(packed).sum::<usize>(), self.bytes.len() - usize::from(self.heap), "no gaps");
        assert!(SLOT_BYTES * self.len() <= usize::from(self.heap));
        for at in 0..self.len() {
            assert!(self.key(at).starts_with(&self.key(0)[..prefix]) && (at == 0 || self.key(at - 1) < self.key(at)));
            assert_eq!(self.slots()[at][..2], head(self.key(at), prefix).to_be_bytes());
        }
    }

    fn used(&self) -> usize {
        self.slots().as_flattened().len() + self.bytes.len() - usize::from(self.heap)
    }

    /// Puts a new entry where [`Leaf::find`] said that it would stand.
    pub(super) fn insert(&mut self, at: usize, key: &[u8], record: Cow<'_, [u8]>, modified: u64) {
        let bytes = packed_bytes(key, &record, modified);
        self.make_room(SLOT_BYTES + bytes.unwrap_or_default());
        self.share(key);
        let place = match bytes {
            Some(bytes) => {
                self.heap -= bytes as u16;
                self.write(self.heap, key, &record, modified);
                self.heap
            }
            None => {
                self.large
                    .push(Large { key: key.into(), entry: Entry { modified, record: record.into_owned().into_boxed_slice() } });
                IS_LARGE | (self.large.len() - 1) as u16
            }
        };
        self.bytes.copy_within(SLOT_BYTES * at..SLOT_BYTES * self.len(), SLOT_BYTES * (at + 1));
        self.count += 1;
        let head = head(key, usize::from(self.prefix));
        self.set_slot(at, head, place);
    }

    /// True if another record can take the place of an entry's.
    pub(super) fn can_overwrite(&self, at: usize, record: &[u8], modified: u64) -> bool {
        let place = self.place(at);
        if place & IS_LARGE == 0 {
            let old = self.packed(place);
            packed_bytes(old.key, record, modified) == Some(old.bytes)
        } else {
            packed_bytes(self.key(at), record, modified).is_none()
        }
    }

    /// Writes another record into the place of an entry's, which [`Leaf::can_overwrite`] allows.
    pub(super) fn overwrite<R>(
        &mut self,
        at: usize,
        record: Cow<'_, [u8]>,
        modified: u64,
        keep: impl FnOnce(Replaced<'_>) -> R,
    ) -> R {
        let place = self.place(at);
        if place & IS_LARGE != 0 {
            let new = Entry { modified, record: record.into_owned().into_boxed_slice() };
            return keep(Replaced::Whole(std::mem::replace(&mut self.large[usize::from(place & !IS_LARGE)].entry, new)));
        }
        let old = self.packed(place);
        let kept = keep(Replaced::Packed(EntryRef { modified: old.modified, record: old.record }));
        let end = usize::from(place) + old.bytes;
        let (key_bytes, key_end) = (old.key.len(), end - old.record.len());
        // One part of the header may be longer now, and the record as much shorter.
        let record_at = end - record.len();
        self.bytes.copy_within(key_end - key_bytes..key_end, record_at - key_bytes);
        self.bytes[record_at..end].copy_from_slice(&record);
        self.write_header(place, key_bytes, record.len(), modified);
        kept
    }

    /// True if a record of another length fits here in place of an entry's.
    pub(super) fn can_exchange(&self, at: usize, record: &[u8], modified: u64) -> bool {
        let place = self.place(at);
        if place & IS_LARGE != 0 {
            return false;
        }
        let old = self.packed(place);
        packed_bytes(old.key, record, modified).is_some_and(|bytes| self.weight() - old.bytes + bytes <= LEAF_BYTES_MAX)
    }

    /// Writes a record of another length in place of an entry's, which [`Leaf::can_exchange`] allows: what stands before it moves.
    pub(super) fn exchange<R>(&mut self, at: usize, record: &[u8], modified: u64, keep: impl FnOnce(Replaced<'_>) -> R) -> R {
        let old = self.packed(self.place(at));
        let (old_bytes, key_bytes, old_record_bytes) = (old.bytes, old.key.len(), old.record.len());
        let bytes = packed_bytes(old.key, record, modified).expect("it was asked whether it is a small one");
        let kept = keep(Replaced::Packed(EntryRef { modified: old.modified, record: old.record }));
        self.make_room(bytes.saturating_sub(old_bytes));
        let (place, heap) = (self.place(at), usize::from(self.heap));
        let moved = |place: usize| place + old_bytes - bytes;
        let new_place = moved(usize::from(place));
        let key_at = usize::from(place) + old_bytes - old_record_bytes - key_bytes;
        let end = new_place + bytes;
        // Each part goes where the other one is no more.
        if bytes >= old_bytes {
            self.bytes.copy_within(heap..usize::from(place), moved(heap));
            self.bytes.copy_within(key_at..key_at + key_bytes, end - record.len() - key_bytes);
        } else {
            self.bytes.copy_within(key_at..key_at + key_bytes, end - record.len() - key_bytes);
            self.bytes.copy_within(heap..usize::from(place), moved(heap));
        }
        self.heap = moved(heap) as u16;
        self.each_place(|other| {
            if *other <= place {
                *other = moved(usize::from(*other)) as u16
            }
        });
        self.bytes[end - record.len()..end].copy_from_slice(record);
        self.write_header(new_place as u16, key_bytes, record.len(), modified);
        if self.bytes.len() - self.used() >= SHRINK_BYTES {
            self.shrink();
        }
        kept
    }

    /// Takes the entry in this place out.
    pub(super) fn remove<R>(&mut self, at: usize, keep: impl FnOnce(Replaced<'_>) -> R) -> R {
        let place = self.place(at);
        self.bytes.copy_within(SLOT_BYTES * (at + 1)..SLOT_BYTES * self.len(), SLOT_BYTES * at);
        self.count -= 1;
        if place & IS_LARGE != 0 {
            let (number, moved) = (place & !IS_LARGE, self.large.len() - 1);
            let large = self.large.swap_remove(usize::from(number));
            self.each_place(|place| {
                if *place == IS_LARGE | moved as u16 {
                    *place = IS_LARGE | number
                }
            });
            return keep(Replaced::Whole(large.entry));
        }
        let Packed { record, modified, bytes, .. } = self.packed(place);
        let kept = keep(Replaced::Packed(EntryRef { modified, record }));
        self.bytes.copy_within(usize::from(self.heap)..usize::from(place), usize::from(self.heap) + bytes);
        self.heap += bytes as u16;
        self.each_place(|other| {
            if *other < place {
                *other += bytes as u16
            }
        });
        if self.bytes.len() - self.used() >= SHRINK_BYTES {
            self.shrink();
        }
        kept
    }

    /// Gives back what memory it does not need.
    pub(super) fn shrink(&mut self) {
        let bytes = round_up(self.used());
        if bytes < self.bytes.len() {
            self.resize(bytes);
        }
    }

    /// Keeps the first half of it, and gives the rest, which is not empty if there are two entries or more.
    pub(super) fn split(&mut self) -> Leaf {
        let half = self.weight() / 2;
        let mut sum = 0;
        let is_in_half = |at: &usize| {
            let (key, entry) = self.get(*at);
            sum += weight(key, entry.record, entry.modified);
            sum <= half
        };
        let kept = (0..self.len()).take_while(is_in_half).count().clamp(1, self.len().max(2) - 1);
        let mut old = std::mem::take(self);
        *self = old.part(0..kept);
        old.part(kept..old.len())
    }

    /// Takes over all entries of the leaf behind it.
    pub(super) fn absorb(&mut self, mut behind: Leaf) {
        let mut both = Leaf::with_bytes(round_up(self.used() + behind.used()));
        for leaf in [self.take(), behind.take()] {
            let mut leaf = leaf;
            for at in 0..leaf.len() {
                leaf.hand_over(at, &mut both);
            }
        }
        *self = both;
        self.sharpen();
    }

    fn take(&mut self) -> Leaf {
        std::mem::take(self)
    }

    /// A leaf of the entries in these places. Large ones are moved into it: this one is of no use any more but for other parts.
    fn part(&mut self, places: std::ops::Range<usize>) -> Leaf {
        let packed = |at| match self.place(at) {
            place if place & IS_LARGE == 0 => self.packed(place).bytes,
            _ => 0,
        };
        let bytes: usize = places.clone().map(|at| SLOT_BYTES + packed(at)).sum();
        let mut part = Leaf::with_bytes(round_up(bytes));
        for at in places {
            self.hand_over(at, &mut part);
        }
        part.sharpen();
        part
    }

    /// Puts the entry in this place behind those of `other`, which has room, and makes its heads later.
    fn hand_over(&mut self, at: usize, other: &mut Leaf) {
        let place = self.place(at);
        let new = if place & IS_LARGE == 0 {
            let (from, bytes) = (usize::from(place), self.packed(place).bytes);
            other.heap -= bytes as u16;
            let to = usize::from(other.heap);
            other.bytes[to..to + bytes].copy_from_slice(&self.bytes[from..from + bytes]);
            other.heap
        } else {
            let large = &mut self.large[usize::from(place & !IS_LARGE)];
            let key = std::mem::take(&mut large.key);
            let entry = std::mem::take(&mut large.entry);
            other.large.push(Large { key, entry });
            IS_LARGE | (other.large.len() - 1) as u16
        };
        other.count += 1;
        other.set_slot(other.len() - 1, 0, new);
    }

    /// Finds the longest prefix that all keys share, and makes all heads anew.
    fn sharpen(&mut self) {
        let prefix = match (self.first(), self.last()) {
            (Some(first), Some(last)) => shared(first, last),
            _ => 0,
        };
        self.set_prefix(prefix);
    }

    /// Sees to it that the prefix is one of this key too.
    fn share(&mut self, key: &[u8]) {
        let prefix = match self.first() {
            Some(first) => shared(&first[..usize::from(self.prefix)], key),
            None => key.len(),
        };
        if prefix != usize::from(self.prefix) {
            self.set_prefix(prefix);
        }
    }

    fn set_prefix(&mut self, prefix: usize) {
        self.prefix = u16::try_from(prefix).unwrap_or(u16::MAX);
        for at in 0..self.len() {
            let (place, head) = (self.place(at), head(self.key(at), usize::from(self.prefix)));
            self.set_slot(at, head, place);
        }
    }

    fn make_room(&mut self, bytes: usize) {
        let used = self.used();
        if self.bytes.len() - used < bytes {
            self.resize(round_up(used + bytes));
        }
    }

    fn resize(&mut self, bytes: usize) {
        let mut new = vec![0; bytes].into_boxed_slice();
        let slots = self.slots().as_flattened();
        new[..slots.len()].copy_from_slice(slots);
        let entries = &self.bytes[usize::from(self.heap)..];
        let heap = bytes - entries.len();
        new[heap..].copy_from_slice(entries);
        let (from, to) = (self.heap, u16::try_from(heap).expect("a leaf is far smaller than 64 KiB"));
        self.bytes = new;
        self.heap = to;
        self.each_place(|place| {
            if *place & IS_LARGE == 0 {
                *place = *place - from + to
            }
        });
    }

    fn each_place(&mut self, mut change: impl FnMut(&mut u16)) {
        let (slots, _) = self.bytes[..SLOT_BYTES * usize::from(self.count)].as_chunks_mut::<SLOT_BYTES>();
        for slot in slots {
            let mut place = u16::from_le_bytes([slot[2], slot[3]]);
            change(&mut place);
            [slot[2], slot[3]] = place.to_le_bytes();
        }
    }

    fn slots(&self) -> &[[u8; SLOT_BYTES]] {
        self.bytes[..SLOT_BYTES * self.len()].as_chunks().0
    }

    fn place(&self, at: usize) -> u16 {
        let slot = self.slots()[at];
        u16::from_le_bytes([slot[2], slot[3]])
    }

    fn set_slot(&mut self, at: usize, head: u16, place: u16) {
        let ([first, second], [low, high]) = (head.to_be_bytes(), place.to_le_bytes());
        self.bytes[SLOT_BYTES * at..SLOT_BYTES * (at + 1)].copy_from_slice(&[first, second, low, high]);
    }

    fn packed(&self, place: u16) -> Packed<'_> {
        let bytes = &self.bytes[usize::from(place)..];
        let widths = bytes[0];
        let (key_bytes, at) = length_at(bytes, 1, widths & WIDE_KEY != 0);
        let (record_bytes, at) = length_at(bytes, at, widths & WIDE_RECORD != 0);
        let key_at = at + usize::from(widths & REVISION_WIDTH);
        let modified = bytes[at..key_at].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let record_at = key_at + key_bytes;
        let end = record_at + record_bytes;
        Packed { key: &bytes[key_at..record_at], record: &bytes[record_at..end], modified, bytes: end }
    }

    fn write(&mut self, place: u16, key: &[u8], record: &[u8], modified: u64) {
        let key_at = self.write_header(place, key.len(), record.len(), modified);
        let record_at = key_at + key.len();
        self.bytes[key_at..record_at].copy_from_slice(key);
        self.bytes[record_at..record_at + record.len()].copy_from_slice(record);
    }

    /// Gives the place behind it.
    fn write_header(&mut self, place: u16, key_bytes: usize, record_bytes: usize, modified: u64) -> usize {
        let mut header = [0; HEADER_BYTES_MAX];
        let mut at = 1;
        header[0] = revision_width(modified) as u8;
        for (bytes, is_wide) in [(key_bytes, WIDE_KEY), (record_bytes, WIDE_RECORD)] {
            let [low, high] = (bytes as u16).to_le_bytes();
            header[at] = low;
            at += 1;
            if width(bytes) == 2 {
                header[0] |= is_wide;
                header[at] = high;
                at += 1;
            }
        }
        let revision = &modified.to_le_bytes()[..revision_width(modified)];
        header[at..at + revision.len()].copy_from_slice(revision);
        at += revision.len();
        let place = usize::from(place);
        self.bytes[place..place + at].copy_from_slice(&header[..at]);
        place + at
    }
}

/// Bytes that an entry takes of a leaf's.
fn weight(key: &[u8], record: &[u8], modified: u64) -> usize {
    SLOT_BYTES + packed_bytes(key, record, modified).unwrap_or(size_of::<Large>())
}
