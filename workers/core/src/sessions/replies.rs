//! The replies that one session remembers, by their numbers.
//!
//! - Numbers come one behind the other and go from the lowest on: a list that grows at one end and shrinks at the other finds each of
//!   them without a search. Only a start may bring them in another order, and then each finds its place.

use std::collections::VecDeque;

use super::Remembered;

/// Room for so many is kept when it is not needed: thousands of sessions may have a place each.
const KEPT_ROOM: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replies {
    /// In the order of their numbers, each number once.
    list: VecDeque<(u64, Remembered)>,
}

impl Replies {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The numbers, in order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + use<'_> {
        self.list.iter().map(|(seq, _)| *seq)
    }

    /// Where a number stands, or would.
    fn find(&self, seq: u64) -> Result<usize, usize> {
        let (Some((first, _)), Some((last, _))) = (self.list.front(), self.list.back()) else { return Err(0) };
        if seq > *last {
            return Err(self.list.len());
        }
        // Without holes it is there.
        let guess = seq.checked_sub(*first).and_then(|at| usize::try_from(at).ok());
        if let Some(at) = guess.filter(|at| self.list.get(*at).is_some_and(|(found, _)| *found == seq)) {
            return Ok(at);
        }
        self.list.binary_search_by_key(&seq, |(found, _)| *found)
    }

    pub(super) fn get(&self, seq: u64) -> Option<&Remembered> {
        self.find(seq).ok().map(|at| &self.list[at].1)
    }

    /// Gives the one that had the number before.
    pub(super) fn insert(&mut self, seq: u64, reply: Remembered) -> Option<Remembered> {
        match self.find(seq) {
            Ok(at) => Some(std::mem::replace(&mut self.list[at].1, reply)),
            Err(at) => {
                self.list.insert(at, (seq, reply));
                None
            }
        }
    }

    /// Takes the lowest one if its number is not above this.
    pub(super) fn take_through(&mut self, seq: u64) -> Option<Remembered> {
        self.list.front().is_some_and(|(first, _)| *first <= seq).then(|| self.list.pop_front())?.map(|(_, reply)| reply)
    }

    /// Gives room back that was needed for many more.
    pub(super) fn shrink(&mut self) {
        if self.list.capacity() > KEPT_ROOM && self.list.len() < self.list.capacity() / 8 {
            self.list.shrink_to(KEPT_ROOM);
        }
    }

    /// Those with numbers up to this.
    pub(super) fn through(&self, seq: u64) -> impl Iterator<Item = &Remembered> {
        self.list.iter().take_while(move |(found, _)| *found <= seq).map(|(_, reply)| reply)
    }

    /// Nothing is left, and no room taken.
    pub(super) fn clear(&mut self) {
        self.list = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::record::Reply;
    use super::*;

    #[test]
    fn they_are_those_of_a_map_in_whatever_order_they_come() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut dice = |bound: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % bound
        };
        for _ in 0..200 {
            let (mut replies, mut map) = (Replies::default(), BTreeMap::new());
            for turn in 0..100 {
                let seq = 1 + dice(60);
                match dice(4) {
                    0 => {
                        let through = dice(20);
                        while let Some(taken) = replies.take_through(through) {
                            assert_eq!(Some((taken.revision, true)), map.pop_first().map(|(seq, at)| (at, seq <= through)));
                        }
                        assert!(map.keys().all(|seq| *seq > through));
                    }
                    _ => {
                        let reply = Remembered { hash: 0, revision: turn, reply: Reply::Done };
                        assert_eq!(replies.insert(seq, reply).map(|old| old.revision), map.insert(seq, turn));
                    }
                }
                assert!(replies.numbers().eq(map.keys().copied()));
                assert_eq!(replies.get(seq).map(|reply| reply.revision), map.get(&seq).copied());
                let through: Vec<u64> = replies.through(seq).map(|reply| reply.revision).collect();
                assert_eq!(through, map.range(..=seq).map(|(_, at)| *at).collect::<Vec<_>>());
            }
        }
    }
}
