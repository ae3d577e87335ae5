//! Asking a predicate about a key and its value.
//!
//! - The work is counted as it is done: bytes of keys and values looked into, and what the regular expressions may cost on the texts
//!   that they really see.
//! - Tests are made from left to right and no further than the answer needs.

use std::cmp::Ordering;

use super::path::{Document, Found};
use super::scalar::{Atom, Scalar};
use super::{Comparison, Node, OwnedPart, Place, Term, Test};
use crate::limits;
use crate::operation::Matcher;

/// What a predicate is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value as stored: type byte and document. None where there is none, as after a removal: then no field is there.
    pub stored: Option<&'a [u8]>,
    /// The revision of the last change.
    pub modified: u64,
    /// The revision at which the key came into being.
    pub created: u64,
}

/// What a predicate says of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// True if it holds.
    pub holds: bool,
    /// What finding it out has cost at worst, in units of [`limits::TURN_WORK_MAX`].
    pub work: usize,
}

/// A compiled [`Predicate`](super::Predicate).
#[derive(Debug)]
pub struct PredicateMatcher {
    root: Node,
    /// Those of `root`, by their numbers.
    regexes: Vec<Matcher>,
}

impl PredicateMatcher {
    pub(super) fn new(root: &Node) -> Option<Self> {
        let mut regexes = Vec::new();
        compile(root, &mut regexes)?;
        Some(PredicateMatcher { root: root.clone(), regexes })
    }

    /// Tells whether the predicate holds, and what it has cost to find out.
    pub fn judge(&self, subject: &Subject<'_>) -> Verdict {
        let mut look = Look { subject, regexes: &self.regexes, work: 0 };
        let holds = look.holds(&self.root);
        Verdict { holds, work: look.work }
    }
}

fn compile(node: &Node, regexes: &mut Vec<Matcher>) -> Option<()> {
    match node {
        Node::Any(members) | Node::All(members) => members.iter().try_for_each(|member| compile(member, regexes)),
        Node::Not(inner) => compile(inner, regexes),
        Node::Term(Term { test: Test::Regex(pattern, _), .. }) => {
            regexes.push(pattern.matcher()?);
            Some(())
        }
        Node::Term(_) => Some(()),
    }
}

/// One look at a subject.
struct Look<'l, 's> {
    subject: &'l Subject<'s>,
    regexes: &'l [Matcher],
    work: usize,
}

impl<'s> Look<'_, 's> {
    fn holds(&mut self, node: &Node) -> bool {
        match node {
            Node::Any(members) => members.iter().any(|member| self.holds(member)),
            Node::All(members) => members.iter().all(|member| self.holds(member)),
            Node::Not(inner) => !self.holds(inner),
            Node::Term(term) => self.passes(term),
        }
    }

    fn passes(&mut self, Term { place, test }: &Term) -> bool {
        match place {
            Place::Key => self.key_passes(test),
            Place::Modified => test.passes(Some(Atom::Int(i128::from(self.subject.modified)))),
            Place::Created => test.passes(Some(Atom::Int(i128::from(self.subject.created)))),
            Place::Value(path) => {
                let found = self.find(path);
                match test {
                    Test::Has => found.is_some(),
                    Test::Regex(_, at) => match found.and_then(Found::into_atom) {
                        Some(Atom::Text(text)) => self.is_match(*at, text.as_bytes()),
                        _ => false,
                    },
                    test => test.passes(found.and_then(Found::into_atom)),
                }
            }
        }
    }

    /// A key is bytes, and equals the text that these bytes are.
    fn key_passes(&mut self, test: &Test) -> bool {
        let key = self.subject.key;
        self.look_into(key);
        match test {
            Test::Has => true,
            Test::Compare(comparison, wanted) => comparison.holds(wanted.as_key_bytes().map(|wanted| key.cmp(wanted))),
            Test::Prefix(wanted) => wanted.as_key_bytes().is_some_and(|wanted| key.starts_with(wanted)),
            Test::Regex(_, at) => self.is_match(*at, key),
        }
    }

    fn find(&mut self, path: &[OwnedPart]) -> Option<Found<'s>> {
        let stored = self.subject.stored?;
        self.look_into(stored);
        Document::of(stored).find(path.iter().map(OwnedPart::borrowed))
    }

    fn look_into(&mut self, bytes: &[u8]) {
        self.work = self.work.saturating_add(bytes.len() / limits::QUERY_BYTES_PER_UNIT);
    }

    fn is_match(&mut self, at: usize, text: &[u8]) -> bool {
        let Some(regex) = self.regexes.get(at) else { return false };
        let work = regex.work(text);
        if work > limits::MATCH_WORK_MAX {
            return false;
        }
        self.work = self.work.saturating_add(work);
        regex.is_match(text)
    }
}

impl Test {
    /// Of an atomic value; None where there is none. A regex is the [`Look`]'s own.
    fn passes(&self, found: Option<Atom<'_>>) -> bool {
        match (self, found) {
            (Test::Compare(comparison, wanted), found) => comparison.holds(found.and_then(|found| found.compare(&wanted.atom()))),
            (Test::Prefix(Scalar::Text(prefix)), Some(Atom::Text(text))) => text.starts_with(prefix.as_str()),
            (Test::Prefix(Scalar::Bytes(prefix)), Some(Atom::Bytes(bytes))) => bytes.starts_with(prefix),
            (Test::Prefix(_) | Test::Has | Test::Regex(..), _) => false,
        }
    }
}

impl Comparison {
    /// Without an order (nothing there, or another type) only `!=` holds: it is the opposite of `=`.
    fn holds(self, order: Option<Ordering>) -> bool {
        match self {
            Comparison::Equal => order == Some(Ordering::Equal),
            Comparison::NotEqual => order != Some(Ordering::Equal),
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Greater => order == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

impl Scalar {
    /// The key that it names; None for what names none.
    fn as_key_bytes(&self) -> Option<&[u8]> {
        match self {
            Scalar::Text(text) => Some(text.as_bytes()),
            Scalar::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}
