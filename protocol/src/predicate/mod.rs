//! The one predicate language: what scans, queries, watches and routes demand of a key and its value.
//!
//! - A text is checked once, into a [`Predicate`]: small, and known to compile. A [`PredicateMatcher`] is made of it for use.
//! - Every predicate has an answer for every value: what is missing or of another type makes a comparison false, never an error.
//!   `!=` is the exact opposite of `=`.
//! - Bounded: the text, its nesting, its comparisons and regular expressions, and what one of these may cost on one text.
//!
//! The language is described in `docs/protocol.md`, whose table of examples a test reads.

mod matcher;
mod parser;
mod path;
mod reader;
mod scalar;
mod show;

pub use matcher::{PredicateMatcher, Subject, Verdict};
pub(crate) use scalar::compare_int_float;
pub use scalar::{Scalar, field_equals};

use crate::error::Failure;
use crate::operation::Pattern;
use crate::predicate::path::Part;

/// A condition on a key and its value, in the predicate language, known to be right.
///
/// Its `Display` form says the same in one fixed way, whatever spaces, quotes and parentheses it was written with.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicate(
    /// Boxed to keep operations small: few of them have a predicate.
    Box<Checked>,
);

#[derive(Clone, Debug, PartialEq)]
struct Checked {
    text: String,
    root: Node,
    regexes: usize,
}

impl Predicate {
    /// Reads a predicate.
    ///
    /// # Errors
    /// `invalid` with the column and what was expected there, or `limit`.
    pub fn new(text: &str) -> Result<Predicate, Failure> {
        let (root, regexes) = parser::parse(text)?;
        Ok(Predicate(Box::new(Checked { text: text.to_owned(), root, regexes })))
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Rough bytes that it takes in memory: a short text unfolds to many times its length.
    pub fn memory_bytes(&self) -> usize {
        self.0.text.len() + size_of::<Checked>() + self.0.root.behind_bytes()
    }

    /// What [`Predicate::matcher`] costs at worst, in units of [`limits::TURN_WORK_MAX`](crate::limits::TURN_WORK_MAX).
    pub fn compile_work(&self) -> usize {
        self.0.root.compile_work()
    }

    /// Number of regular expressions in it.
    pub fn regexes(&self) -> usize {
        self.0.regexes
    }

    /// Compiles the predicate for use. None if the regex engine refuses today what it took in [`Predicate::new`], which it does not.
    pub fn matcher(&self) -> Option<PredicateMatcher> {
        PredicateMatcher::new(&self.0.root)
    }
}

/// A part of a predicate. A list has at least two members.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Term(Term),
}

impl Node {
    /// Rough bytes of what it points to, without the letters of names and literals.
    fn behind_bytes(&self) -> usize {
        match self {
            Node::Any(members) | Node::All(members) => {
                size_of_val(members.as_slice()) + members.iter().map(Node::behind_bytes).sum::<usize>()
            }
            Node::Not(inner) => size_of::<Node>() + inner.behind_bytes(),
            Node::Term(Term { place: Place::Value(path), .. }) => size_of_val(path.as_slice()),
            Node::Term(_) => 0,
        }
    }

    fn compile_work(&self) -> usize {
        /// Of a part that is no regular expression.
        const PART_WORK: usize = 4;
        match self {
            Node::Any(members) | Node::All(members) => members.iter().map(Node::compile_work).sum(),
            Node::Not(inner) => inner.compile_work(),
            Node::Term(Term { test: Test::Regex(pattern, _), .. }) => pattern.compile_work(),
            Node::Term(_) => PART_WORK,
        }
    }
}

/// One test of one thing.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    place: Place,
    test: Test,
}

/// What is tested.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// The key, as bytes.
    Key,
    /// The revision of the last change.
    Modified,
    /// The revision at which the key came into being.
    Created,
    /// The value, or what is inside it.
    Value(Vec<OwnedPart>),
}

/// A [`Part`] of its own.
#[derive(Clone, Debug, PartialEq)]
enum OwnedPart {
    Name(String),
    Index(u64),
    Digits(u64, String),
}

impl OwnedPart {
    fn borrowed(&self) -> Part<'_> {
        match self {
            OwnedPart::Name(name) => Part::Name(name),
            OwnedPart::Index(index) => Part::Index(*index),
            OwnedPart::Digits(index, name) => Part::Digits(*index, name),
        }
    }
}

/// The test.
#[derive(Clone, Debug, PartialEq)]
enum Test {
    /// It is there, whatever it is.
    Has,
    Compare(Comparison, Scalar),
    /// A text or bytes that it starts with.
    Prefix(Scalar),
    /// Found in it. The number says which of the predicate's it is, from 0 in the order of the text.
    Regex(Pattern, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Words that mean something where a path could begin, and so are written in quotes as a field's name there.
const RESERVED: [&str; 7] = ["and", "or", "not", "has", "true", "false", "null"];

/// True for characters that names and words are made of without quotes.
fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

/// True for a name that needs no quotes at the beginning of a path.
fn is_plain_word(name: &str) -> bool {
    name.starts_with(|c: char| c.is_alphabetic() || c == '_') && name.chars().all(is_word_char) && !RESERVED.contains(&name)
}

/// The number that a name of digits stands for; None for other names, and for digits that a number is not written with.
fn digits(name: &str) -> Option<u64> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if is_plain { name.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
