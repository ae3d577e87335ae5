//! The keys in order, each with its record and the revision of its last change: a tree of three levels.
//!
//! - A root, branches, leaves. The entries stand in the leaves, one behind the other ([`Leaf`]); above them is only what is needed to find
//!   the leaf ([`Branch`]), a few bytes for each key.
//! - The root may have any number of branches, and a branch up to [`BRANCH_LEAVES_MAX`] leaves. So the root is the longest list: a
//!   hundred million keys make one of some ten thousands.
//! - A leaf that becomes too large is made two, one that becomes too small is joined with a neighbour in the same branch; branches likewise. Whoever
//!   puts keys in ascending order gets full leaves.
//! - Where keys stood when they were last looked for in advance is noted ([`Hints`]). A note may be wrong by now: it is believed only where the
//!   key is found at its place.

use std::borrow::Cow;
use std::ops::Bound;

use super::branch::Branch;
use super::hints::{Hints, Place};
use super::leaf::{LEAF_BYTES_MAX, Leaf, shared};
use super::{EntryRef, Replaced};

/// Leaves of a branch.
const BRANCH_LEAVES_MAX: usize = 128;

/// So many keys are looked for side by side.
const SIDE_BY_SIDE: usize = 16;

/// Entries by key.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: Branch<Branch<Leaf>>,
    entries: usize,
    hints: Hints,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { root: Branch::new(Branch::new(Leaf::default())), entries: 0, hints: Hints::default() }
    }
}

/// The shortest key that is behind one and not behind the other, which follows it.
fn separator<'k>(before: &[u8], behind: &'k [u8]) -> &'k [u8] {
    &behind[..shared(before, behind) + 1]
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<EntryRef<'_>> {
        if let Some((_, entry)) = self.hinted(key) {
            return Some(entry);
        }
        let branch = &self.root.items()[self.root.find(key)];
        let leaf = &branch.items()[branch.find(key)];
        leaf.find(key).ok().map(|at| leaf.get(at).1)
    }

    /// The entry of a key that stands where it is noted.
    pub(super) fn hinted(&self, key: &[u8]) -> Option<(Place, EntryRef<'_>)> {
        let place = self.hints.of(key)?;
        let leaf = self.root.items().get(place.branch)?.items().get(place.leaf)?;
        if place.slot >= leaf.len() {
            return None;
        }
        let (found, entry) = leaf.get(place.slot);
        (found == key).then_some((place, entry))
    }

    /// Where to look for a key: root and branch. And where it stands in the leaf, or would.
    fn find(&self, key: &[u8]) -> (usize, usize, Result<usize, usize>) {
        if let Some((place, _)) = self.hinted(key) {
            return (place.branch, place.leaf, Ok(place.slot));
        }
        let in_root = self.root.find(key);
        let branch = &self.root.items()[in_root];
        let in_branch = branch.find(key);
        (in_root, in_branch, branch.items()[in_branch].find(key))
    }

    /// Looks for these keys side by side, so that what is on the way to them is in the processor's cache when they are asked for one after the
    /// other: it waits for the memory of all of them at once. And notes where they stand, so that they need not be looked for again. Nothing
    /// is changed, and what is not there does no harm.
    pub(super) fn warm<'k>(&mut self, mut keys: impl Iterator<Item = &'k [u8]>) {
        let mut some = [&b""[..]; SIDE_BY_SIDE];
        loop {
            let mut count = 0;
            for (place, key) in some.iter_mut().zip(&mut keys) {
                *place = key;
                count += 1;
            }
            if count == 0 {
                return;
            }
            self.warm_some(&some[..count]);
        }
    }

    /// Each loop asks for memory that no other turn of it waits for.
    fn warm_some(&mut self, keys: &[&[u8]]) {
        let branches = self.root.items();
        let mut sum = 0;
        let mut places = [Place { branch: 0, leaf: 0, slot: 0 }; SIDE_BY_SIDE];
        for (place, key) in places.iter_mut().zip(keys) {
            place.branch = self.root.find(key);
        }
        for (place, _) in places.iter().zip(keys) {
            sum ^= branches[place.branch].touch();
        }
        for (place, key) in places.iter_mut().zip(keys) {
            place.leaf = branches[place.branch].find(key);
        }
        for (place, _) in places.iter().zip(keys) {
            sum ^= branches[place.branch].items()[place.leaf].touch();
        }
        for (place, key) in places.iter_mut().zip(keys) {
            let (slot, touched) = branches[place.branch].items()[place.leaf].touch_entry(key);
            place.slot = slot;
            sum ^= touched;
        }
        // Otherwise nothing of this would be done.
        std::hint::black_box(sum);
        for (place, key) in places.iter().zip(keys) {
            self.hints.note(key, *place);
        }
    }

    /// Puts an entry. What `keep` makes of the one that was there, if there was one.
    pub(super) fn put<R>(
        &mut self,
        key: &[u8],
        record: Cow<'_, [u8]>,
        modified: u64,
        keep: impl FnOnce(Replaced<'_>) -> R,
    ) -> Option<R> {
        let (in_root, in_branch, found) = self.find(key);
        let leaf = &mut self.root.items_mut()[in_root].items_mut()[in_branch];
        let (at, kept) = match found {
            Ok(at) if leaf.can_overwrite(at, &record, modified) => return Some(leaf.overwrite(at, record, modified, keep)),
            Ok(at) if leaf.can_exchange(at, &record, modified) => return Some(leaf.exchange(at, &record, modified, keep)),
            Ok(at) => (at, Some(leaf.remove(at, keep))),
            Err(at) => (at, None),
        };
        self.entries += usize::from(kept.is_none());
        if leaf.fits(key, &record, modified) || leaf.len() == 0 {
            leaf.insert(at, key, record, modified);
            return kept;
        }
        // Behind the last one of all in this leaf nothing is split: keys that ascend leave full leaves behind.
        let mut right = if at == leaf.len() { Leaf::default() } else { leaf.split() };
        let parted = match (leaf.last(), right.first()) {
            (Some(before), Some(behind)) => separator(before, behind),
            (Some(before), None) => separator(before, key),
            (None, _) => &[],
        };
        let parted = parted.to_vec();
        let home = if key < parted.as_slice() { &mut *leaf } else { &mut right };
        let at = home.find(key).unwrap_or_else(|at| at);
        home.insert(at, key, record, modified);
        leaf.shrink();
        self.insert_leaf(in_root, in_branch, &parted, right);
        kept
    }

    /// Puts an entry whose key is behind all others: as [`Tree::put`], but without a search. The last leaf keeps room for more until
    /// [`Tree::end_appending`].
    pub(super) fn append(&mut self, key: &[u8], record: &[u8], modified: u64) {
        self.entries += 1;
        let in_root = self.root.len() - 1;
        let branch = &mut self.root.items_mut()[in_root];
        let in_branch = branch.len() - 1;
        let leaf = &mut branch.items_mut()[in_branch];
        let Some(last) = leaf.last() else {
            *leaf = Leaf::with_room();
            return leaf.insert(0, key, record.into(), modified);
        };
        if leaf.fits_loosely(key, record, modified) {
            return leaf.insert(leaf.len(), key, record.into(), modified);
        }
        let parted = separator(last, key);
        leaf.shrink();
        let mut right = Leaf::with_room();
        right.insert(0, key, record.into(), modified);
        self.insert_leaf(in_root, in_branch, parted, right);
    }

    /// No more entries come by [`Tree::append`].
    pub(super) fn end_appending(&mut self) {
        if let Some(leaf) = self.root.items_mut().last_mut().and_then(|branch| branch.items_mut().last_mut()) {
            leaf.shrink();
        }
    }

    fn insert_leaf(&mut self, in_root: usize, in_branch: usize, separator: &[u8], leaf: Leaf) {
        let branch = &mut self.root.items_mut()[in_root];
        branch.insert_behind(in_branch, separator, leaf);
        if branch.len() > BRANCH_LEAVES_MAX {
            let is_at_the_end = in_branch + 2 == branch.len();
            let kept = if is_at_the_end { branch.len() - 1 } else { branch.len() / 2 };
            let (separator, others) = branch.split(kept);
            self.root.insert_behind(in_root, &separator, others);
        }
    }

    /// Removes an entry. What `keep` makes of it, if there is one.
    pub(super) fn remove<R>(&mut self, key: &[u8], keep: impl FnOnce(Replaced<'_>) -> R) -> Option<R> {
        let (in_root, in_branch, found) = self.find(key);
        let leaf = &mut self.root.items_mut()[in_root].items_mut()[in_branch];
        let kept = leaf.remove(found.ok()?, keep);
        self.entries -= 1;
        if leaf.weight() < LEAF_BYTES_MAX / 4 {
            self.join_leaf(in_root, in_branch);
        }
        Some(kept)
    }

    /// Joins a small leaf with a neighbour, if both make no large one, and drops an empty one.
    fn join_leaf(&mut self, in_root: usize, in_branch: usize) {
        let branch = &mut self.root.items_mut()[in_root];
        if branch.items()[in_branch].len() == 0 && branch.len() > 1 {
            branch.remove(in_branch);
        } else {
            let is_small = |left: usize| {
                let pair = branch.items().get(left..left + 2);
                pair.is_some_and(|pair| pair.iter().map(Leaf::weight).sum::<usize>() <= LEAF_BYTES_MAX * 3 / 4)
            };
            let left = [Some(in_branch), in_branch.checked_sub(1)].into_iter().flatten().find(|left| is_small(*left));
            let Some(left) = left else { return self.drop_empty_branch(in_root) };
            let right = branch.remove(left + 1);
            branch.items_mut()[left].absorb(right);
        }
        if branch.len() < BRANCH_LEAVES_MAX / 4 {
            self.join_branch(in_root);
        }
    }

    fn join_branch(&mut self, in_root: usize) {
        let is_small = |left: usize| {
            let pair = self.root.items().get(left..left + 2);
            pair.is_some_and(|pair| pair.iter().map(Branch::len).sum::<usize>() <= BRANCH_LEAVES_MAX * 3 / 4)
        };
        let left = [Some(in_root), in_root.checked_sub(1)].into_iter().flatten().find(|left| is_small(*left));
        let Some(left) = left else { return self.drop_empty_branch(in_root) };
        let separator = self.root.separator(left);
        let right = self.root.remove(left + 1);
        self.root.items_mut()[left].absorb(&separator, right);
    }

    /// Of a branch that can't be joined the last leaf may have become empty.
    fn drop_empty_branch(&mut self, in_root: usize) {
        let branch = &self.root.items()[in_root];
        if branch.len() == 1 && branch.items()[0].len() == 0 && self.root.len() > 1 {
            self.root.remove(in_root);
        }
    }

    /// Entries between two bounds, in key order; nothing if the bounds leave no room.
    pub(super) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range<'_> {
        let front = match from {
            Bound::Unbounded => Place { branch: 0, leaf: 0, slot: 0 },
            Bound::Included(key) => self.place(key, false),
            Bound::Excluded(key) => self.place(key, true),
        };
        let back = match to {
            Bound::Unbounded => Place { branch: self.root.len(), leaf: 0, slot: 0 },
            Bound::Included(key) => self.place(key, true),
            Bound::Excluded(key) => self.place(key, false),
        };
        Range { tree: self, front, back }
    }

    #[cfg(test)]
    pub(super) fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.root.items().iter().flat_map(|branch| branch.items())
    }

    /// Looks whether all is as it must be: every key is found where the separators say, and nothing is empty.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let is_alone = self.leaves().count() == 1;
        for (at, branch) in self.root.items().iter().enumerate() {
            assert!(branch.len() <= BRANCH_LEAVES_MAX);
            for (in_branch, leaf) in branch.items().iter().enumerate() {
                leaf.check();
                assert!(leaf.len() > 0 || is_alone, "an empty leaf");
                for slot in 0..leaf.len() {
                    let key = leaf.key(slot);
                    assert_eq!((self.root.find(key), branch.find(key), leaf.find(key)), (at, in_branch, Ok(slot)));
                }
            }
        }
        assert_eq!(self.leaves().map(Leaf::len).sum::<usize>(), self.entries);
    }

    /// Where this key stands or would stand, or the place behind it.
    fn place(&self, key: &[u8], is_behind: bool) -> Place {
        let branch = self.root.find(key);
        let leaf = self.root.items()[branch].find(key);
        let slot = match self.root.items()[branch].items()[leaf].find(key) {
            Ok(at) => at + usize::from(is_behind),
            Err(at) => at,
        };
        Place { branch, leaf, slot }
    }
}

/// Entries in key order.
#[derive(Clone, Debug)]
pub(crate) struct Range<'t> {
    tree: &'t Tree,
    front: Place,
    back: Place,
}

impl<'t> Iterator for Range<'t> {
    type Item = (&'t [u8], EntryRef<'t>);

    fn next(&mut self) -> Option<Self::Item> {
        while self.front < self.back {
            let branch = self.tree.root.items().get(self.front.branch)?;
            match branch.items().get(self.front.leaf) {
                Some(leaf) if self.front.slot < leaf.len() => {
                    self.front.slot += 1;
                    return Some(leaf.get(self.front.slot - 1));
                }
                Some(_) => (self.front.leaf, self.front.slot) = (self.front.leaf + 1, 0),
                None => self.front = Place { branch: self.front.branch + 1, leaf: 0, slot: 0 },
            }
        }
        None
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        while self.front < self.back {
            let Place { branch, leaf, slot } = self.back;
            if slot > 0 {
                self.back.slot -= 1;
                return Some(self.tree.root.items().get(branch)?.items().get(leaf)?.get(slot - 1));
            }
            // Behind the last entry of the leaf before, or behind the last leaf of the branch before.
            self.back = match (leaf, branch) {
                (0, 0) => return None,
                (0, _) => Place { branch: branch - 1, leaf: self.tree.root.items().get(branch - 1)?.len(), slot: 0 },
                (_, _) => {
                    Place { leaf: leaf - 1, slot: self.tree.root.items().get(branch)?.items().get(leaf - 1)?.len(), branch }
                }
            };
        }
        None
    }
}
