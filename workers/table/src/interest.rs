//! Which keys somebody watches, said so shortly that the worker can ask for each change; and whether anybody listens to messages.
//!
//! - It never says no to a key that is watched. It may say yes to one that is not: two prefixes can share a place, and of a long prefix
//!   only the first [`LENGTH_MAX`] bytes count. A wrong yes wakes the publisher for nothing, which is all that is decided by it.
//! - One thread notes what is watched, others only ask. Who asks while something is noted may hear either answer; the
//!   [queue of events](crate::EventQueue) says why nothing is late for that.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Of a longer prefix only so many bytes count.
const LENGTH_MAX: usize = 255;
/// Places for prefixes.
const PLACES: usize = 1 << 14;

/// The prefixes that are watched, counted by length and by place.
pub struct Interest {
    /// Somebody wants to hear of every change.
    all: AtomicBool,
    lengths: Box<[AtomicU32]>,
    places: Box<[AtomicU32]>,
    /// No prefix is longer.
    longest: AtomicUsize,
    /// Somebody listens to published messages.
    messages: AtomicBool,
}

impl Default for Interest {
    fn default() -> Interest {
        let counters = |count: usize| (0..count).map(|_| AtomicU32::new(0)).collect();
        Interest {
            all: AtomicBool::new(false),
            lengths: counters(LENGTH_MAX + 1),
            places: counters(PLACES),
            longest: AtomicUsize::new(0),
            messages: AtomicBool::new(false),
        }
    }
}

impl std::fmt::Debug for Interest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interest").field("all", &self.all).field("longest", &self.longest).finish_non_exhaustive()
    }
}

/// The hash of a prefix, byte by byte (FNV-1a). Nothing but wake-ups depends on it, so it need not be hard to guess.
#[derive(Clone, Copy)]
struct Place(u32);

impl Place {
    const EMPTY: Place = Place(0x811c_9dc5);

    fn with(self, byte: u8) -> Place {
        Place((self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }

    fn index(self) -> usize {
        (self.0 ^ (self.0 >> 14)) as usize % PLACES
    }
}

impl Interest {
    /// Whether every change is wanted, whatever its key.
    pub fn set_all(&self, all: bool) {
        self.all.store(all, Ordering::SeqCst);
    }

    /// Whether somebody listens to published messages, whatever they are about.
    pub fn set_messages(&self, messages: bool) {
        self.messages.store(messages, Ordering::SeqCst);
    }

    /// Whether messages that are published from now on are to be told.
    pub fn has_listeners(&self) -> bool {
        self.messages.load(Ordering::SeqCst)
    }

    /// A prefix is watched from now on, by one more.
    pub fn add(&self, prefix: &[u8]) {
        let (length, place) = counted(prefix);
        self.places[place].fetch_add(1, Ordering::SeqCst);
        self.lengths[length].fetch_add(1, Ordering::SeqCst);
        self.longest.fetch_max(length, Ordering::SeqCst);
    }

    /// A prefix that was [added](Interest::add) is watched by one less.
    pub fn remove(&self, prefix: &[u8]) {
        let (length, place) = counted(prefix);
        self.places[place].fetch_sub(1, Ordering::SeqCst);
        self.lengths[length].fetch_sub(1, Ordering::SeqCst);
        let longest = self.lengths.iter().rposition(|count| count.load(Ordering::SeqCst) > 0);
        self.longest.store(longest.unwrap_or_default(), Ordering::SeqCst);
    }

    /// Nothing is watched any more, and nobody listens.
    pub fn clear(&self) {
        self.set_all(false);
        self.set_messages(false);
        self.longest.store(0, Ordering::SeqCst);
        self.lengths.iter().chain(&self.places).for_each(|count| count.store(0, Ordering::SeqCst));
    }

    /// False only if nobody watches a prefix of this key.
    pub fn may_have(&self, key: &[u8]) -> bool {
        if self.all.load(Ordering::Relaxed) {
            return true;
        }
        let longest = self.longest.load(Ordering::Relaxed);
        let mut place = Place::EMPTY;
        let mut bytes = key.iter();
        for length in self.lengths.iter().take(longest + 1) {
            if length.load(Ordering::Relaxed) > 0
                && self.places.get(place.index()).is_some_and(|count| count.load(Ordering::Relaxed) > 0)
            {
                return true;
            }
            let Some(byte) = bytes.next() else { return false };
            place = place.with(*byte);
        }
        false
    }
}

/// Where a prefix is counted.
fn counted(prefix: &[u8]) -> (usize, usize) {
    let prefix = &prefix[..prefix.len().min(LENGTH_MAX)];
    (prefix.len(), prefix.iter().fold(Place::EMPTY, |place, byte| place.with(*byte)).index())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_watched_key_is_missed_and_hardly_another_one_is_taken_for_one() {
        let interest = Interest::default();
        assert!(!interest.may_have(b"") && !interest.may_have(b"a"));
        let prefixes: Vec<Vec<u8>> = (0..100_u32).map(|number| format!("{number:03}/").into_bytes()).collect();
        prefixes.iter().for_each(|prefix| interest.add(prefix));
        for prefix in &prefixes {
            assert!(interest.may_have(prefix) && interest.may_have(&[prefix, &b"key"[..]].concat()));
            assert!(!interest.may_have(&prefix[..3]), "shorter than what is watched");
        }
        let wrong = (0..10_000_u32).filter(|number| interest.may_have(format!("x{number}").as_bytes())).count();
        assert!(wrong < 1_000, "{wrong} of 10,000");
        prefixes.iter().for_each(|prefix| interest.remove(prefix));
        assert!(prefixes.iter().all(|prefix| !interest.may_have(prefix)));
    }

    #[test]
    fn the_empty_prefix_long_ones_and_those_that_are_watched_twice() {
        let interest = Interest::default();
        interest.add(b"");
        assert!(interest.may_have(b"") && interest.may_have(b"anything"));
        interest.remove(b"");
        let long = vec![b'l'; 60_000];
        interest.add(&long);
        interest.add(b"twice");
        interest.add(b"twice");
        assert!(interest.may_have(&long) && !interest.may_have(b"anything"));
        interest.remove(b"twice");
        assert!(interest.may_have(b"twice"));
        interest.remove(&long);
        assert!(!interest.may_have(&long) && interest.may_have(b"twice"));
        interest.set_all(true);
        assert!(interest.may_have(b"anything"));
        interest.clear();
        assert!(!interest.may_have(b"twice") && !interest.may_have(b"anything"));
    }
}
