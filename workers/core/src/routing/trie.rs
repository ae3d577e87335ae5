//! Which patterns a subject has, without asking each of them: all of them as a tree of tokens. Bindings are found so, rules for subjects, and
//! streams of messages.
//!
//! - A subject is followed through the tree token by token, in all places at once where a pattern may still fit. No place is counted
//!   twice, so the work is at most the subject's tokens times the tree's nodes, whatever the patterns are; and it is bounded.
//! - It finds what [`subject_matches`](kvbroker_protocol::subject_matches) says of each pattern; a test holds the two side by side.

use std::collections::{BTreeMap, BTreeSet};

use kvbroker_protocol::subject_tokens;

/// What begins with the tokens that lead here.
#[derive(Clone, Debug)]
struct Node<K, V> {
    tokens: BTreeMap<Box<[u8]>, Node<K, V>>,
    /// Behind a `*`.
    one: Option<Box<Node<K, V>>>,
    /// Behind a `#`.
    any: Option<Box<Node<K, V>>>,
    /// A `#` led here: any further token leads here again.
    is_any: bool,
    /// Patterns that end here, each once for each key.
    ends: BTreeMap<K, V>,
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Node { tokens: BTreeMap::new(), one: None, any: None, is_any: false, ends: BTreeMap::new() }
    }
}

/// The tree: patterns, each with keys and a value for each of them.
#[derive(Clone, Debug)]
pub struct PatternTree<K, V> {
    root: Node<K, V>,
}

impl<K, V> Default for PatternTree<K, V> {
    fn default() -> Self {
        PatternTree { root: Node::default() }
    }
}

/// What a subject has.
#[derive(Debug)]
pub struct Found<'t, K, V> {
    /// The keys and values of its patterns.
    pub entries: Vec<(&'t K, &'t V)>,
    /// So many places of the tree were looked at.
    pub steps: usize,
}

/// Places of a subject, each once, in the order in which they were found.
struct Places<'t, K, V> {
    nodes: Vec<&'t Node<K, V>>,
    known: BTreeSet<*const Node<K, V>>,
}

impl<'t, K, V> Places<'t, K, V> {
    fn new() -> Self {
        Places { nodes: Vec::new(), known: BTreeSet::new() }
    }

    /// A `#` may stand for nothing: where it leads is a place as well.
    fn enter(&mut self, node: &'t Node<K, V>) {
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

impl<K: Ord, V> Node<K, V> {
    fn child(&mut self, token: &[u8]) -> &mut Node<K, V> {
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
        self.tokens.is_empty() && self.one.is_none() && self.any.is_none() && self.ends.is_empty()
    }

    fn remove<'p>(&mut self, mut tokens: impl Iterator<Item = &'p [u8]>, key: &K) {
        match tokens.next() {
            None => {
                self.ends.remove(key);
            }
            Some(b"*") => prune(&mut self.one, tokens, key),
            Some(b"#") => prune(&mut self.any, tokens, key),
            Some(token) => {
                let Some(node) = self.tokens.get_mut(token) else { return };
                // A tree of iterators of iterators would have a type for each depth.
                let tokens: &mut dyn Iterator<Item = &'p [u8]> = &mut tokens;
                node.remove(tokens, key);
                if node.is_empty() {
                    self.tokens.remove(token);
                }
            }
        }
    }
}

fn prune<'p, K: Ord, V>(node: &mut Option<Box<Node<K, V>>>, mut tokens: impl Iterator<Item = &'p [u8]>, key: &K) {
    let Some(found) = node else { return };
    let tokens: &mut dyn Iterator<Item = &'p [u8]> = &mut tokens;
    found.remove(tokens, key);
    if found.is_empty() {
        *node = None;
    }
}

impl<K: Ord, V> PatternTree<K, V> {
    /// Adds a pattern's key and value, in place of what it had for this key.
    pub fn insert(&mut self, pattern: &[u8], key: K, value: V) {
        let node = subject_tokens(pattern).fold(&mut self.root, |node, token| node.child(token));
        node.ends.insert(key, value);
    }

    /// Takes a pattern from a key.
    pub fn remove(&mut self, pattern: &[u8], key: &K) {
        self.root.remove(subject_tokens(pattern), key);
    }

    /// What the patterns that have this subject hold; None if that takes more than so many steps.
    pub fn find(&self, subject: &[u8], steps_max: usize) -> Option<Found<'_, K, V>> {
        let mut places = Places::new();
        places.enter(&self.root);
        let mut steps = 0;
        for token in subject_tokens(subject) {
            steps += places.nodes.len();
            if steps > steps_max {
                return None;
            }
            let mut next = Places::new();
            for node in places.nodes {
                if node.is_any {
                    next.enter(node);
                }
                node.tokens.get(token).into_iter().for_each(|node| next.enter(node));
                node.one.iter().for_each(|node| next.enter(node));
            }
            places = next;
        }
        Some(Found { entries: places.nodes.into_iter().flat_map(|node| &node.ends).collect(), steps })
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::subject_matches;

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
        let mut trie: PatternTree<u64, Vec<u8>> = PatternTree::default();
        let mut bindings: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut found_some = 0;
        for step in 0..20_000_u64 {
            let queue = dice.below(6) as u64;
            let pattern = dice.text(&["a", "b", "c", "*", "*", "#"]);
            if dice.below(3) > 0 && bindings.len() < 60 {
                trie.insert(&pattern, queue, pattern.clone());
                bindings.retain(|known| *known != (queue, pattern.clone()));
                bindings.push((queue, pattern));
            } else if !bindings.is_empty() {
                let (queue, pattern) = bindings.swap_remove(dice.below(bindings.len()));
                trie.remove(&pattern, &queue);
            }
            let subject = dice.text(&["a", "b", "c"]);
            let mut expected: Vec<(u64, Vec<u8>)> =
                bindings.iter().filter(|(_, pattern)| subject_matches(pattern, &subject)).cloned().collect();
            let found = trie.find(&subject, usize::MAX).unwrap();
            let mut found: Vec<(u64, Vec<u8>)> =
                found.entries.into_iter().map(|(queue, pattern)| (*queue, pattern.clone())).collect();
            found_some += usize::from(!found.is_empty());
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "step {step}, {:?}", subject.escape_ascii().to_string());
        }
        assert!(found_some > 10_000, "{found_some}");
        for (queue, pattern) in bindings {
            trie.remove(&pattern, &queue);
        }
        assert!(trie.is_empty(), "nothing is left of what was removed");
    }

    #[test]
    fn steps_are_bounded_whatever_the_patterns_are() {
        let mut trie = PatternTree::default();
        trie.insert(["#"; 32].join(".").as_bytes(), 1, ());
        let subject = ["a"; 32].join(".");
        // Each place once for each token, where trying one way after the other would never end; the root for the first token alone.
        assert_eq!(trie.find(subject.as_bytes(), 1 + 32 * 32).map(|found| found.entries.len()), Some(1));
        assert!(trie.find(subject.as_bytes(), 32 * 32).is_none());
    }
}
