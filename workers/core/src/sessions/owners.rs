//! Sessions by owner, in the order in which they may be forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use kvbroker_protocol::SessionId;

use super::record::EVERYBODY;

/// Times are kept to the minute, so that a session in use seldom changes its place.
const MINUTE_MS: u64 = 60_000;

type Queue = BTreeSet<(u64, SessionId)>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Owner {
    /// Unknown sessions born then or before are not new.
    floor_ms: Option<u64>,
    /// Ended sessions, the longest unused first.
    ended: Queue,
    /// Open sessions, the longest unused first.
    open: Queue,
    /// Of remembered replies.
    bytes: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owners(BTreeMap<Box<[u8]>, Owner>);

impl Owners {
    fn queue(&mut self, owner: &[u8], ended: bool) -> &mut Queue {
        // Looked up first: nearly always it is there, and a lookup needs no copy of the name.
        if !self.0.contains_key(owner) {
            self.0.insert(owner.into(), Owner::default());
        }
        let owner = self.0.get_mut(owner).expect("it was inserted above");
        if ended { &mut owner.ended } else { &mut owner.open }
    }

    pub(super) fn add(&mut self, owner: &[u8], ended: bool, used_ms: u64, id: SessionId) {
        self.queue(owner, ended).insert((used_ms / MINUTE_MS, id));
    }

    pub(super) fn remove(&mut self, owner: &[u8], ended: bool, used_ms: u64, id: SessionId) {
        self.queue(owner, ended).remove(&(used_ms / MINUTE_MS, id));
    }

    /// An open session was used.
    pub(super) fn used(&mut self, owner: &[u8], before_ms: u64, now_ms: u64, id: SessionId) {
        if before_ms / MINUTE_MS != now_ms / MINUTE_MS {
            self.remove(owner, false, before_ms, id);
            self.add(owner, false, now_ms, id);
        }
    }

    pub(super) fn raise_floor(&mut self, owner: &[u8], born_ms: u64) {
        self.queue(owner, true);
        let owner = self.0.get_mut(owner).expect("`queue` made it");
        owner.floor_ms = owner.floor_ms.max(Some(born_ms));
    }

    /// The owner's floor, or everybody's, whichever is higher.
    pub(super) fn floor_ms(&self, owner: &[u8]) -> Option<u64> {
        let floor_of = |name: &[u8]| self.0.get(name)?.floor_ms;
        floor_of(owner).max(floor_of(EVERYBODY))
    }

    /// Owners behind `behind` (None: all) that have a floor, in key order.
    pub(super) fn floors_behind<'s>(&'s self, behind: Option<&[u8]>) -> impl Iterator<Item = (&'s [u8], u64)> + use<'s> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let owners = self.0.range::<[u8], _>((from, Bound::Unbounded));
        owners.filter_map(|(name, owner)| Some((&**name, owner.floor_ms?)))
    }

    /// The remembered replies of one of the owner's sessions take so many bytes, and took so many before.
    pub(super) fn count_bytes(&mut self, owner: &[u8], before: usize, after: usize) {
        if let Some(owner) = self.0.get_mut(owner) {
            owner.bytes = owner.bytes + after - before;
        }
    }

    /// Bytes of the remembered replies of one owner.
    pub(super) fn bytes(&self, owner: &[u8]) -> usize {
        self.0.get(owner).map_or(0, |owner| owner.bytes)
    }

    /// Sessions of one owner.
    pub(super) fn count(&self, owner: &[u8]) -> usize {
        self.0.get(owner).map_or(0, |owner| owner.ended.len() + owner.open.len())
    }

    /// Open sessions of everybody, the longest unused first.
    pub(super) fn open_in_order(&self) -> impl Iterator<Item = SessionId> {
        let mut heads: Vec<_> = self.0.values().map(|owner| owner.open.iter().peekable()).collect();
        std::iter::from_fn(move || {
            let next = heads.iter_mut().filter_map(|head| head.peek().map(|first| **first)).min()?;
            heads.iter_mut().find_map(|head| head.next_if(|first| **first == next));
            Some(next.1)
        })
    }

    /// Sessions that may go, in the order in which they should: ended ones, then those unused for longest. Of `owner` alone, or of
    /// everybody.
    pub(super) fn in_order(&self, owner: Option<&[u8]>) -> impl Iterator<Item = SessionId> {
        let owners =
            || self.0.iter().filter(move |(name, _)| owner.is_none_or(|owner| owner == &***name)).map(|(_, owner)| owner);
        // With one owner these are two queues; with all of them the first of each queue compete.
        let first_of = |queue: fn(&Owner) -> &Queue| {
            let mut heads: Vec<_> = owners().map(|owner| queue(owner).iter().peekable()).collect();
            std::iter::from_fn(move || {
                let next = heads.iter_mut().filter_map(|head| head.peek().map(|first| **first)).min()?;
                heads.iter_mut().find_map(|head| head.next_if(|first| **first == next));
                Some(next.1)
            })
        };
        first_of(|owner| &owner.ended).chain(first_of(|owner| &owner.open))
    }
}
