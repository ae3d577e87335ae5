//! What a client asks for, decoded and checked.

use crate::header::{Form, Header};
use crate::predicate::Scalar;
use crate::value::{Key, Stored};

/// One message, decoded whole: its header, its shape and its operations.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Who asks, and where in the session.
    pub header: Header,
    /// The shape that the reply takes.
    pub form: Form,
    /// What is asked.
    pub operations: Operations,
}

/// One operation, or an array of them that runs in order, each with its own result.
#[derive(Clone, Debug, PartialEq)]
pub enum Operations {
    /// A single operation.
    One(Operation),
    /// An array; never empty.
    Many(Vec<Operation>),
}

impl Operations {
    /// The operations in order.
    pub fn as_slice(&self) -> &[Operation] {
        match self {
            Operations::One(operation) => std::slice::from_ref(operation),
            Operations::Many(operations) => operations,
        }
    }
}

/// One operation of the table or of the broker itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Who are you? With the project that the client wants.
    Hello {
        /// The project expected here; another one answers `wrong_project`.
        project: Option<String>,
    },
    /// Are you there?
    Ping,
    /// Counters and settings.
    Stats,
    /// Stores a value under a key, replacing what was there.
    Put {
        /// The key.
        key: Key,
        /// The value as written.
        value: Stored,
    },
    /// Reads a key's value.
    Get {
        /// The key.
        key: Key,
    },
    /// Removes a key.
    Del {
        /// The key.
        key: Key,
        /// Answer with the value that was removed.
        return_old: bool,
    },
    /// Counts the keys.
    Size,
    /// Lists keys and values in key order, a page at a time.
    Scan(Scan),
    /// Lists the dictionaries in which a field equals an atomic value.
    Query {
        /// The field's name.
        subkey: String,
        /// What it must equal.
        subvalue: Scalar,
        /// Which keys, and where to go on.
        scan: Scan,
    },
}

impl Operation {
    /// True for operations that change durable state.
    pub fn is_mutation(&self) -> bool {
        matches!(self, Operation::Put { .. } | Operation::Del { .. })
    }

    /// The verb's first name in the grammar.
    pub fn verb(&self) -> &'static str {
        match self {
            Operation::Hello { .. } => "hello",
            Operation::Ping => "ping",
            Operation::Stats => "stats",
            Operation::Put { .. } => "put",
            Operation::Get { .. } => "get",
            Operation::Del { .. } => "del",
            Operation::Size => "size",
            Operation::Scan(_) => "scan",
            Operation::Query { .. } => "query",
        }
    }
}

/// Which keys a scan or query looks at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    /// Only keys that start with these bytes.
    pub prefix: Vec<u8>,
    /// Only keys in which this pattern is found (anywhere, unless it is anchored).
    pub pattern: Option<Pattern>,
    /// Go on behind this key: the `cursor` of the page before.
    pub cursor: Option<Key>,
    /// Most rows wanted on this page; the page limit where absent.
    pub limit: Option<usize>,
}

/// A compiled regular expression over keys.
#[derive(Clone, Debug)]
pub struct Pattern(regex::bytes::Regex);

impl Pattern {
    /// Compiles a pattern in the syntax of the `regex` crate; `limit` or `invalid` with the reason.
    pub fn new(pattern: &str) -> Result<Pattern, crate::Failure> {
        use crate::{Failure, limits};
        if pattern.len() > limits::REGEX_BYTES_MAX {
            return Err(Failure::limit(format!("a regex has at most {} bytes", limits::REGEX_BYTES_MAX)));
        }
        regex::bytes::RegexBuilder::new(pattern)
            .size_limit(limits::REGEX_PROGRAM_BYTES_MAX)
            .dfa_size_limit(limits::REGEX_PROGRAM_BYTES_MAX)
            .build()
            .map(Pattern)
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => {
                    Failure::limit("the regex is too large once compiled; use smaller repetitions")
                }
                error => Failure::invalid(format!("the regex does not compile: {error}")),
            })
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// True when the pattern is found in the key.
    pub fn is_match(&self, key: &[u8]) -> bool {
        self.0.is_match(key)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.as_str() == other.as_str()
    }
}
