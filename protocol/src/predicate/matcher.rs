//! Asking a predicate about a key and its value.
//!
//! - The work is counted as it is done: bytes of keys and values looked into, and what the regular expressions may cost on the texts
//!   that they really see.
//! - Tests are made from left to right and no further than the answer needs.

use std::cmp::Ordering;

use super::path::{self, Found, Part, Paths};
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
    root: Step,
    parts: Parts,
}

/// What the steps of a predicate need.
#[derive(Debug, Default)]
struct Parts {
    /// The places in the value that are asked for, each once.
    paths: Vec<Vec<OwnedPart>>,
    /// By their numbers in the text.
    regexes: Vec<Matcher>,
}

/// A [`Node`] made ready.
#[derive(Debug)]
enum Step {
    Any(Vec<Step>),
    All(Vec<Step>),
    Not(Box<Step>),
    Key(Test),
    Modified(Test),
    Created(Test),
    /// The place's number.
    Value(usize, Test),
}

impl Parts {
    fn compile(&mut self, node: &Node) -> Option<Step> {
        Some(match node {
            Node::Any(members) => Step::Any(members.iter().map(|member| self.compile(member)).collect::<Option<_>>()?),
            Node::All(members) => Step::All(members.iter().map(|member| self.compile(member)).collect::<Option<_>>()?),
            Node::Not(inner) => Step::Not(Box::new(self.compile(inner)?)),
            Node::Term(Term { place, test }) => {
                let test = test.clone();
                if let Test::Regex(pattern, _) = &test {
                    self.regexes.push(pattern.matcher()?);
                }
                match place {
                    Place::Key => Step::Key(test),
                    Place::Modified => Step::Modified(test),
                    Place::Created => Step::Created(test),
                    Place::Value(path) => Step::Value(self.number_of(path), test),
                }
            }
        })
    }

    fn number_of(&mut self, path: &Vec<OwnedPart>) -> usize {
        self.paths.iter().position(|known| known == path).unwrap_or_else(|| {
            self.paths.push(path.clone());
            self.paths.len() - 1
        })
    }
}

impl Paths for Parts {
    fn count(&self) -> usize {
        self.paths.len()
    }

    fn part(&self, path: usize, depth: usize) -> Option<Part<'_>> {
        self.paths.get(path)?.get(depth).map(OwnedPart::borrowed)
    }
}

impl PredicateMatcher {
    pub(super) fn new(root: &Node) -> Option<Self> {
        let mut parts = Parts::default();
        Some(PredicateMatcher { root: parts.compile(root)?, parts })
    }

    /// Tells whether the predicate holds, and what it has cost to find out.
    pub fn judge(&self, subject: &Subject<'_>) -> Verdict {
        let mut look = Look { subject, parts: &self.parts, finds: None, work: 0 };
        let holds = look.holds(&self.root);
        Verdict { holds, work: look.work }
    }

    /// Tells whether the predicate can hold for a key at all, whatever its value is and whenever it was changed; and what it has cost to
    /// find that out.
    pub fn may_hold(&self, key: &[u8]) -> Verdict {
        let subject = Subject { key, stored: None, modified: 0, created: 0 };
        let mut look = Look { subject: &subject, parts: &self.parts, finds: None, work: 0 };
        let holds = look.holds_by_key(&self.root) != Some(false);
        Verdict { holds, work: look.work }
    }
}

/// One look at a subject.
struct Look<'l, 's> {
    subject: &'l Subject<'s>,
    parts: &'l Parts,
    /// What is at the predicate's places; looked for when the first of them is needed.
    finds: Option<Vec<Option<Found<'s>>>>,
    work: usize,
}

impl Look<'_, '_> {
    fn holds(&mut self, step: &Step) -> bool {
        match step {
            Step::Any(members) => members.iter().any(|member| self.holds(member)),
            Step::All(members) => members.iter().all(|member| self.holds(member)),
            Step::Not(inner) => !self.holds(inner),
            Step::Key(test) => self.key_passes(test),
            Step::Modified(test) => test.passes(Some(&Atom::Int(i128::from(self.subject.modified)))),
            Step::Created(test) => test.passes(Some(&Atom::Int(i128::from(self.subject.created)))),
            Step::Value(place, test) => self.value_passes(*place, test),
        }
    }

    /// The same, if the key alone says so.
    fn holds_by_key(&mut self, step: &Step) -> Option<bool> {
        match step {
            Step::Any(members) => self.decided(members, true),
            Step::All(members) => self.decided(members, false),
            Step::Not(inner) => self.holds_by_key(inner).map(|holds| !holds),
            Step::Key(test) => Some(self.key_passes(test)),
            Step::Modified(_) | Step::Created(_) | Step::Value(..) => None,
        }
    }

    /// What several steps come to, of which one that comes to `by` decides.
    fn decided(&mut self, members: &[Step], by: bool) -> Option<bool> {
        let mut all = Some(!by);
        for member in members {
            match self.holds_by_key(member) {
                Some(holds) if holds == by => return Some(by),
                Some(_) => {}
                None => all = None,
            }
        }
        all
    }

    fn value_passes(&mut self, place: usize, test: &Test) -> bool {
        let finds = match self.finds.take() {
            Some(finds) => finds,
            None => self.find(),
        };
        let found = finds.get(place).and_then(Option::as_ref);
        let holds = match (test, found) {
            (Test::Has, found) => found.is_some(),
            (Test::Regex(_, at), Some(Found::Atom(Atom::Text(text)))) => self.is_match(*at, text.as_bytes()),
            (Test::Regex(..), _) => false,
            (test, Some(Found::Atom(atom))) => test.passes(Some(atom)),
            (test, _) => test.passes(None),
        };
        self.finds = Some(finds);
        holds
    }

    /// A key is bytes, and equals the text that these bytes are.
    fn key_passes(&mut self, test: &Test) -> bool {
        let key = self.subject.key;
        self.spend(key.len() / limits::QUERY_BYTES_PER_UNIT);
        match test {
            Test::Has => true,
            Test::Compare(comparison, wanted) => comparison.holds(wanted.as_key_bytes().map(|wanted| key.cmp(wanted))),
            Test::Prefix(wanted) => wanted.as_key_bytes().is_some_and(|wanted| key.starts_with(wanted)),
            Test::Regex(_, at) => self.is_match(*at, key),
        }
    }

    fn spend(&mut self, work: usize) {
        self.work = self.work.saturating_add(work);
    }

    fn is_match(&mut self, at: usize, text: &[u8]) -> bool {
        let Some(regex) = self.parts.regexes.get(at) else { return false };
        let work = regex.work(text);
        if work > limits::MATCH_WORK_MAX {
            return false;
        }
        self.spend(work);
        regex.is_match(text)
    }
}

impl<'s> Look<'_, 's> {
    fn find(&mut self) -> Vec<Option<Found<'s>>> {
        let Some(stored) = self.subject.stored else { return vec![None; self.parts.count()] };
        let finds = path::find(stored, self.parts);
        self.spend(limits::search_work(stored.len(), self.parts.count(), finds.is_converted));
        finds.found
    }
}

impl Test {
    /// Of an atomic value; None where there is none. A regex is the [`Look`]'s own.
    fn passes(&self, found: Option<&Atom<'_>>) -> bool {
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
