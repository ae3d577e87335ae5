//! Prefixes of keys, each with those who are interested in it, and which of them a key has.
//!
//! - Finding costs as much as walking along the key once, and what is found; however many prefixes there are, whatever they have in common,
//!   and however they lie inside one another.
//! - It is a tree of the bytes in which prefixes differ: each node but the root has somebody interested in it, or at least two branches. So
//!   there are at most two nodes for each prefix, and the bytes of all nodes together are not more than those of the prefixes.
//! - Nothing here recurses: prefixes may lie inside one another thousands of times.

use std::collections::BTreeSet;

/// Where a node is in the arena.
type Place = usize;

const ROOT: Place = 0;

/// Who is interested in which prefix; `Id` names them.
#[derive(Debug)]
pub(crate) struct PrefixIndex<Id> {
    /// The root first; places of nodes that are gone are used again.
    nodes: Vec<Node<Id>>,
    free: Vec<Place>,
}

#[derive(Debug)]
struct Node<Id> {
    /// What its prefix has behind its parent's.
    label: Box<[u8]>,
    ids: BTreeSet<Id>,
    /// By the first byte of their labels, in order.
    branches: Vec<(u8, Place)>,
}

impl<Id> Node<Id> {
    fn new(label: &[u8]) -> Node<Id> {
        Node { label: label.into(), ids: BTreeSet::new(), branches: Vec::new() }
    }

    fn branch(&self, first: u8) -> Result<usize, usize> {
        self.branches.binary_search_by_key(&first, |(byte, _)| *byte)
    }
}

impl<Id> Default for PrefixIndex<Id> {
    fn default() -> Self {
        PrefixIndex { nodes: vec![Node::new(b"")], free: Vec::new() }
    }
}

impl<Id: Ord + Copy> PrefixIndex<Id> {
    /// Notes an interest in a prefix; once more is the same as once.
    pub(crate) fn insert(&mut self, prefix: &[u8], id: Id) {
        let (mut at, mut rest) = (ROOT, prefix);
        while let Some(first) = rest.first() {
            let branch = match self.nodes[at].branch(*first) {
                Err(position) => {
                    let leaf = self.add(Node::new(rest));
                    self.nodes[at].branches.insert(position, (*first, leaf));
                    at = leaf;
                    break;
                }
                Ok(position) => self.nodes[at].branches[position].1,
            };
            let common = common_bytes(&self.nodes[branch].label, rest);
            if common < self.nodes[branch].label.len() {
                self.split(branch, common);
            }
            (at, rest) = (branch, &rest[common..]);
        }
        self.nodes[at].ids.insert(id);
    }

    /// Ends an interest. What was not noted is not missed.
    pub(crate) fn remove(&mut self, prefix: &[u8], id: Id) {
        let Some(path) = self.path(prefix) else { return };
        let Some(&(at, _)) = path.last() else { return };
        self.nodes[at].ids.remove(&id);
        self.tidy(&path);
    }

    /// All who are interested in a prefix that this key has, the shortest prefix first.
    pub(crate) fn find<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = Id> + 'a {
        let mut next = Some((&self.nodes[ROOT], key));
        let nodes = std::iter::from_fn(move || {
            let (node, rest) = next.take()?;
            next = rest.first().and_then(|first| {
                let branch = &self.nodes[node.branches[node.branch(*first).ok()?].1];
                Some((branch, rest.strip_prefix(&*branch.label)?))
            });
            Some(node)
        });
        nodes.flat_map(|node| node.ids.iter().copied())
    }

    /// The nodes from the root to a prefix's own, each with its place among its parent's branches; None if it has none.
    fn path(&self, prefix: &[u8]) -> Option<Vec<(Place, usize)>> {
        let (mut path, mut rest) = (vec![(ROOT, 0)], prefix);
        while let Some(first) = rest.first() {
            let parent = &self.nodes[path.last()?.0];
            let position = parent.branch(*first).ok()?;
            let branch = parent.branches[position].1;
            rest = rest.strip_prefix(&*self.nodes[branch].label)?;
            path.push((branch, position));
        }
        Some(path)
    }

    /// Lets go of a node that nobody needs any more, and of the branching above it if it was one of two.
    fn tidy(&mut self, path: &[(Place, usize)]) {
        for pair in path.windows(2).rev() {
            let [(parent, _), (at, position)] = *pair else { return };
            if !self.nodes[at].ids.is_empty() {
                return;
            }
            match *self.nodes[at].branches {
                [] => {
                    self.nodes[parent].branches.remove(position);
                    self.release(at);
                }
                [(_, only)] => {
                    // The branch below takes over, with both labels.
                    let label = [&*self.nodes[at].label, &*self.nodes[only].label].concat();
                    self.nodes[only].label = label.into();
                    self.nodes[parent].branches[position].1 = only;
                    self.release(at);
                    return;
                }
                _ => return,
            }
        }
    }

    /// Puts a node between this one and its parent: one with the first bytes of its label.
    fn split(&mut self, at: Place, bytes: usize) {
        let (front, back) = self.nodes[at].label.split_at(bytes);
        let (front, back): (Box<[u8]>, Box<[u8]>) = (front.into(), back.into());
        let first = back[0];
        // The place stays the upper one's, so that the parent needs no change.
        let lower = std::mem::replace(&mut self.nodes[at], Node { label: front, ids: BTreeSet::new(), branches: Vec::new() });
        let lower = self.add(Node { label: back, ..lower });
        self.nodes[at].branches.push((first, lower));
    }

    fn add(&mut self, node: Node<Id>) -> Place {
        match self.free.pop() {
            Some(place) => {
                self.nodes[place] = node;
                place
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// How many prefixes somebody is interested in.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.iter().filter(|node| !node.ids.is_empty()).count()
    }

    fn release(&mut self, place: Place) {
        self.nodes[place] = Node::new(b"");
        self.free.push(place);
        if self.free.len() == self.nodes.len() - 1 {
            // Nothing but the root is left: give back what a flood of prefixes took.
            self.nodes.truncate(1);
            self.nodes.shrink_to_fit();
            self.free = Vec::new();
        }
    }
}

fn common_bytes(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(index: &PrefixIndex<u32>, key: &[u8]) -> Vec<u32> {
        index.find(key).collect()
    }

    /// What the module says of its nodes.
    fn check(index: &PrefixIndex<u32>) {
        let (mut open, mut seen) = (vec![ROOT], 0);
        while let Some(place) = open.pop() {
            let node = &index.nodes[place];
            seen += 1;
            assert!(place == ROOT || !node.ids.is_empty() || node.branches.len() > 1, "a node for nothing");
            assert!(node.branches.is_sorted_by_key(|(first, _)| *first));
            for (first, branch) in &node.branches {
                assert_eq!(index.nodes[*branch].label.first(), Some(first));
                open.push(*branch);
            }
        }
        assert_eq!(seen + index.free.len(), index.nodes.len(), "a node that nobody reaches");
    }

    #[test]
    fn a_key_finds_its_prefixes_and_no_others() {
        let mut index = PrefixIndex::default();
        for (id, prefix) in [b"".as_slice(), b"a/", b"a/b", b"a/bcd", b"a/bce", b"b", b"a/b"].iter().enumerate() {
            index.insert(prefix, id as u32);
            check(&index);
        }
        assert_eq!(found(&index, b"a/bcd/x"), [0, 1, 2, 6, 3]);
        assert_eq!(found(&index, b"a/bc"), [0, 1, 2, 6]);
        assert_eq!(found(&index, b"a"), [0]);
        assert_eq!(found(&index, b""), [0]);
        assert_eq!(found(&index, b"b"), [0, 5]);
        index.remove(b"a/b", 2);
        index.remove(b"a/b", 2);
        index.remove(b"a/bc", 3);
        index.remove(b"none", 0);
        check(&index);
        assert_eq!(found(&index, b"a/bcd"), [0, 1, 6, 3]);
    }

    #[test]
    fn it_is_as_if_every_prefix_were_compared() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut roll = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 20) % below
        };
        let (mut index, mut plain) = (PrefixIndex::default(), BTreeSet::<(Vec<u8>, u32)>::new());
        for step in 0..20_000 {
            let bytes: Vec<u8> = (0..roll(7)).map(|_| b"ab/"[roll(3) as usize]).collect();
            let id = roll(3) as u32;
            // Grows at first, shrinks at last.
            if roll(20_000) > step {
                index.insert(&bytes, id);
                plain.insert((bytes, id));
            } else if let Some((prefix, id)) = plain.iter().nth(roll(plain.len() as u64 + 1) as usize).cloned() {
                index.remove(&prefix, id);
                plain.remove(&(prefix, id));
            }
            if step % 100 == 0 {
                check(&index);
            }
            let key: Vec<u8> = (0..roll(9)).map(|_| b"ab/"[roll(3) as usize]).collect();
            let mut expected: Vec<_> = plain.iter().filter(|(prefix, _)| key.starts_with(prefix)).collect();
            expected.sort_by_key(|(prefix, id)| (prefix.len(), *id));
            let expected: Vec<u32> = expected.into_iter().map(|(_, id)| *id).collect();
            assert_eq!(found(&index, &key), expected);
        }
        for (prefix, id) in plain {
            index.remove(&prefix, id);
        }
        assert_eq!(index.nodes.len(), 1, "all places are given back");
    }

    #[test]
    fn thousands_inside_one_another_are_no_trouble() {
        let long = vec![b'x'; 20_000];
        let mut index = PrefixIndex::default();
        for length in 0..long.len() {
            index.insert(&long[..length], length as u32);
        }
        assert_eq!(index.find(&long).count(), long.len());
        for length in 0..long.len() {
            index.remove(&long[..length], length as u32);
        }
        assert_eq!(index.find(&long).count(), 0);
        drop(index);
    }
}
