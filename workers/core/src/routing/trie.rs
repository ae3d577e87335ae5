//! Which bindings a subject has, without asking each of them: their patterns as a tree of tokens.
//!
//! - A subject is followed through the tree token by token, in all places at once where a pattern may still fit. No place is counted
//!   twice, so the work is at most the subject's tokens times the tree's nodes, whatever the patterns are; and it is bounded.
//! - It finds what [`subject_matches`](kvbroker_protocol::subject_matches) says of each pattern; a test holds the two side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kvbroker_protocol::subject_tokens;

use super::Bound;
use crate::queues::QueueId;

/// What begins with the tokens that lead here.
#[derive(Clone, Debug, Default)]
struct Node {
    tokens: BTreeMap<Box<[u8]>, Node>,
    /// Behind a `*`.
    one: Option<Box<Node>>,
    /// Behind a `#`.
    any: Option<Box<Node>>,
    /// A `#` led here: any further token leads here again.
    is_any: bool,
    /// Patterns that end here.
    bound: BTreeMap<QueueId, Arc<Bound>>,
}

/// The tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Trie {
    root: Node,
}

/// Places of a subject, each once, in the order in which they were found.
#[derive(Default)]
struct Places<'t> {
    nodes: Vec<&'t Node>,
    known: BTreeSet<*const Node>,
}

impl<'t> Places<'t> {
    /// A `#` may stand for nothing: where it leads is a place as well.
    fn enter(&mut self, node: &'t Node) {
        let mut next = Some(node);
        while let Some(node) = next {
            if !self.known.insert(std::ptr::from_ref(node)) {
                return;
            }
            self.nodes.push(node);
            next = node.any.as_deref();
        }
    }
}

impl Node {
    fn child(&mut self, token: &[u8]) -> &mut Node {
        match token {
            b"*" => self.one.get_or_insert_default(),
            b"#" => {
                let node = self.any.get_or_insert_default();
                node.is_any = true;
                node
            }
            token => self.tokens.entry(token.into()).or_default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.one.is_none() && self.any.is_none() && self.bound.is_empty()
    }

    fn remove<'p>(&mut self, mut tokens: impl Iterator<Item = &'p [u8]>, queue: QueueId) {
        match tokens.next() {
            None => {
                self.bound.remove(&queue);
            }
            Some(b"*") => prune(&mut self.one, tokens, queue),
            Some(b"#") => prune(&mut self.any, tokens, queue),
            Some(token) => {
                let Some(node) = self.tokens.get_mut(token) else { return };
                // A tree of iterators of iterators would have a type for each depth.
                let tokens: &mut dyn Iterator<Item = &'p [u8]> = &mut tokens;
                node.remove(tokens, queue);
                if node.is_empty() {
                    self.tokens.remove(token);
                }
            }
        }
    }
}

fn prune<'p>(node: &mut Option<Box<Node>>, mut tokens: impl Iterator<Item = &'p [u8]>, queue: QueueId) {
    let Some(found) = node else { return };
    let tokens: &mut dyn Iterator<Item = &'p [u8]> = &mut tokens;
    found.remove(tokens, queue);
    if found.is_empty() {
        *node = None;
    }
}

impl Trie {
    pub(super) fn insert(&mut self, queue: QueueId, bound: Arc<Bound>) {
        let node = subject_tokens(&bound.pattern).fold(&mut self.root, |node, token| node.child(token));
        node.bound.insert(queue, Arc::clone(&bound));
    }

    pub(super) fn remove(&mut self, queue: QueueId, pattern: &[u8]) {
        self.root.remove(subject_tokens(pattern), queue);
    }

    /// The bindings that have this subject; None if that takes more than so many steps.
    pub(super) fn find(&self, subject: &[u8], steps_max: usize) -> Option<Vec<(QueueId, &Arc<Bound>)>> {
        let mut places = Places::default();
        places.enter(&self.root);
        let mut steps = 0;
        for token in subject_tokens(subject) {
            steps += places.nodes.len();
            if steps > steps_max {
                return None;
            }
            let mut next = Places::default();
            for node in places.nodes {
                if node.is_any {
                    next.enter(node);
                }
                node.tokens.get(token).into_iter().for_each(|node| next.enter(node));
                node.one.iter().for_each(|node| next.enter(node));
            }
            places = next;
        }
        Some(places.nodes.into_iter().flat_map(|node| &node.bound).map(|(queue, bound)| (*queue, bound)).collect())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::{ItemId, subject_matches};

    use super::*;

    /// Numbers without a pattern, the same each time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }

        fn text(&mut self, of: &[&str]) -> Vec<u8> {
            let tokens: Vec<&str> = (0..=self.below(5)).map(|_| of[self.below(of.len())]).collect();
            tokens.join(".").into_bytes()
        }
    }

    #[test]
    fn it_finds_what_each_pattern_says_of_itself() {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let (mut trie, mut bindings): (Trie, Vec<(QueueId, Vec<u8>)>) = (Trie::default(), Vec::new());
        let mut found_some = 0;
        for step in 0..20_000_u64 {
            let queue = ItemId::new(dice.below(6) as u64, 0).unwrap();
            let pattern = dice.text(&["a", "b", "c", "*", "*", "#"]);
            if dice.below(3) > 0 && bindings.len() < 60 {
                trie.insert(queue, Arc::new(Bound::new(&pattern, "").unwrap()));
                bindings.retain(|known| *known != (queue, pattern.clone()));
                bindings.push((queue, pattern));
            } else if !bindings.is_empty() {
                let (queue, pattern) = bindings.swap_remove(dice.below(bindings.len()));
                trie.remove(queue, &pattern);
            }
            let subject = dice.text(&["a", "b", "c"]);
            let mut expected: Vec<(QueueId, Vec<u8>)> =
                bindings.iter().filter(|(_, pattern)| subject_matches(pattern, &subject)).cloned().collect();
            let found = trie.find(&subject, usize::MAX).unwrap();
            let mut found: Vec<(QueueId, Vec<u8>)> =
                found.into_iter().map(|(queue, bound)| (queue, bound.pattern.to_vec())).collect();
            found_some += usize::from(!found.is_empty());
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "step {step}, {:?}", subject.escape_ascii().to_string());
        }
        assert!(found_some > 10_000, "{found_some}");
        for (queue, pattern) in bindings {
            trie.remove(queue, &pattern);
        }
        assert!(trie.is_empty(), "nothing is left of what was removed");
    }

    #[test]
    fn steps_are_bounded_whatever_the_patterns_are() {
        let mut trie = Trie::default();
        let queue = ItemId::new(1, 0).unwrap();
        let pattern = ["#"; 32].join(".");
        trie.insert(queue, Arc::new(Bound::new(pattern.as_bytes(), "").unwrap()));
        let subject = ["a"; 32].join(".");
        // Each place once for each token, where trying one way after the other would never end; the root for the first token alone.
        assert_eq!(trie.find(subject.as_bytes(), 1 + 32 * 32).map(|found| found.len()), Some(1));
        assert!(trie.find(subject.as_bytes(), 32 * 32).is_none());
    }
}
