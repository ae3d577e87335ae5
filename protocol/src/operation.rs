//! What a client asks for, decoded and checked.

use crate::access::{Role, UserKey};
use crate::conversion::{ConversionOperation, Converted};
use crate::error::Failure;
use crate::header::{Form, Header, SessionId};
use crate::limits;
use crate::predicate::{Predicate, Scalar};
use crate::queue::QueueOperation;
use crate::routing::RoutingOperation;
use crate::txn::Txn;
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
        /// What must hold; otherwise `conflict`.
        condition: Option<Condition>,
        /// The key is removed so many milliseconds later; without it the key stays, also where it had a deadline before.
        ttl_ms: Option<u64>,
    },
    /// Reads a key's value.
    Get {
        /// The key.
        key: Key,
    },
    /// Reads the values of several keys at one revision.
    Mget {
        /// The keys, in the order of the answer.
        keys: Vec<Key>,
    },
    /// Tells whether a key is there.
    Exists {
        /// The key.
        key: Key,
    },
    /// Removes a key.
    Del {
        /// The key.
        key: Key,
        /// Answer with the value that was removed.
        return_old: bool,
        /// What must hold; otherwise `conflict`.
        condition: Option<Condition>,
    },
    /// Adds to an integer; a key that is not there counts as 0.
    Incr {
        /// The key.
        key: Key,
        /// What to add; may be negative.
        by: i64,
    },
    /// Gives a key a deadline, or another one.
    Expire {
        /// The key.
        key: Key,
        /// Milliseconds from now until it is removed; at least 1.
        ttl_ms: u64,
    },
    /// Takes a key's deadline away.
    Persist {
        /// The key.
        key: Key,
    },
    /// Tells how long a key has.
    Ttl {
        /// The key.
        key: Key,
    },
    /// Removes keys with a prefix, as many as one turn allows; to be repeated while there are more.
    DelPrefix {
        /// The prefix; empty: every key.
        prefix: Vec<u8>,
        /// Most keys to remove this time.
        limit: Option<usize>,
    },
    /// Several operations at one revision, or none.
    Txn(Box<Txn>),
    /// Takes its number in the session and changes nothing.
    Noop,
    /// What became of a mutation, by its name in a session.
    Result {
        /// The session.
        session: SessionId,
        /// The mutation's number in it.
        seq: u64,
        /// If it has not arrived, it never shall: a noop takes its number.
        settle: bool,
    },
    /// Ends the session that the header names.
    End,
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
    /// Lists the names below a prefix, those with more behind a delimiter as one.
    List(List),
    /// Lists a key's earlier values, newest first.
    History {
        /// The key.
        key: Key,
        /// Most versions wanted.
        limit: Option<usize>,
        /// Only versions before this revision.
        before: Option<u64>,
    },
    /// Lists the changes of keys with a prefix, revision by revision, and waits for some where there are none.
    Events(Events),
    /// Something of a queue.
    Queue(Box<QueueOperation>),
    /// A message for whoever wants it, or something of who wants what.
    Routing(Box<RoutingOperation>),
    /// Something of the rules by which values are converted.
    Conversion(Box<ConversionOperation>),
    /// A read, or a pull, whose values are converted as they are handed out.
    Converted(Box<Converted>),
    /// Lets a user in, or gives one that is in another role, other keys or another comment.
    Authorize {
        /// The user's public key.
        key: UserKey,
        /// What it may do.
        role: Role,
        /// The prefixes of the keys it may use; empty: every key. Checked to make a valid [`crate::Access`].
        prefixes: Vec<Key>,
        /// Whose key it is, for people; one line. Empty: the user keeps the one that it had.
        comment: String,
    },
    /// Lets a user in no more. Once this is answered, nothing reaches it any more.
    Revoke {
        /// The user's public key.
        key: UserKey,
    },
    /// Lists the users that were let in.
    Who,
}

impl Operation {
    /// True for operations that change durable state.
    pub fn is_mutation(&self) -> bool {
        match self {
            Operation::Put { .. }
            | Operation::Del { .. }
            | Operation::Incr { .. }
            | Operation::Expire { .. }
            | Operation::Persist { .. }
            | Operation::DelPrefix { .. }
            | Operation::Noop => true,
            // What a pull in it hands out is remembered with the rest.
            Operation::Txn(txn) => txn.operations().any(|inner| match inner {
                Operation::Queue(queue) => queue.is_mutation() || queue.is_pull(),
                _ => inner.is_mutation(),
            }),
            Operation::Queue(queue) => queue.is_mutation(),
            Operation::Routing(routing) => routing.is_mutation(),
            Operation::Conversion(conversion) => conversion.is_mutation(),
            _ => false,
        }
    }

    /// True for operations that stand alone in their message: they end their session, or are answered at another time than those
    /// around them.
    pub fn stands_alone(&self) -> bool {
        match self {
            Operation::End
            | Operation::History { .. }
            | Operation::Events(_)
            | Operation::Authorize { .. }
            | Operation::Revoke { .. }
            | Operation::Who => true,
            Operation::Queue(queue) => queue.stands_alone(),
            Operation::Converted(converted) => converted.operation.stands_alone(),
            _ => false,
        }
    }

    /// The snapshot that a scan or query reads: 0 opens one, another number is the revision of an open one.
    pub fn snapshot(&self) -> Option<u64> {
        match self {
            Operation::Scan(scan) | Operation::Query { scan, .. } => scan.snapshot,
            Operation::Converted(converted) => converted.operation.snapshot(),
            _ => None,
        }
    }

    /// Regular expressions in this operation: what [`limits::ARRAY_REGEXES_MAX`] counts.
    pub fn regexes(&self) -> usize {
        match self {
            Operation::Scan(scan) | Operation::Query { scan, .. } => scan.regexes(),
            Operation::Events(events) => events.where_.as_ref().map_or(0, Predicate::regexes),
            Operation::Txn(txn) => txn.operations().map(Operation::regexes).sum(),
            Operation::Converted(converted) => converted.operation.regexes(),
            _ => 0,
        }
    }

    /// What this operation counts for in [`limits::ARRAY_OPERATIONS_MAX`].
    pub fn weight(&self) -> usize {
        match self {
            Operation::Txn(txn) => txn.weight(),
            Operation::Mget { keys } => keys.len(),
            Operation::Converted(converted) => converted.operation.weight(),
            _ => 1,
        }
    }

    /// True if a whole value is compared with a stored one, which takes time for each of their bytes.
    pub fn compares_values(&self) -> bool {
        let by_value = |condition: &Condition| matches!(condition, Condition::Value(_));
        match self {
            Operation::Put { condition, .. } | Operation::Del { condition, .. } => condition.as_ref().is_some_and(by_value),
            Operation::Txn(txn) => {
                txn.compares.iter().any(|compare| by_value(&compare.condition))
                    || txn.operations().any(Operation::compares_values)
            }
            // Predicates of bindings look into it.
            Operation::Routing(routing) => matches!(**routing, RoutingOperation::Publish(_)),
            _ => false,
        }
    }

    /// The key that stands for the operation in a log line or a sentence: of several the first, of pages and lists their prefix.
    pub fn first_key(&self) -> Option<&Key> {
        match self {
            Operation::Get { key }
            | Operation::Exists { key }
            | Operation::Put { key, .. }
            | Operation::Del { key, .. }
            | Operation::Incr { key, .. }
            | Operation::Expire { key, .. }
            | Operation::Persist { key }
            | Operation::Ttl { key }
            | Operation::History { key, .. } => Some(key),
            Operation::DelPrefix { prefix, .. } => Some(prefix),
            Operation::List(list) => Some(&list.prefix),
            Operation::Events(events) => Some(&events.prefix),
            Operation::Mget { keys } => keys.first(),
            Operation::Txn(txn) => match txn.compares.first() {
                Some(compare) => Some(&compare.key),
                None => txn.operations().find_map(Operation::first_key),
            },
            Operation::Scan(scan) | Operation::Query { scan, .. } => Some(&scan.prefix),
            Operation::Queue(queue) => queue.queue(),
            Operation::Routing(routing) => routing.key(),
            Operation::Conversion(conversion) => conversion.rule(),
            Operation::Converted(converted) => converted.operation.first_key(),
            Operation::Hello { .. }
            | Operation::Ping
            | Operation::Stats
            | Operation::Size
            | Operation::Noop
            | Operation::Result { .. }
            | Operation::End
            | Operation::Authorize { .. }
            | Operation::Revoke { .. }
            | Operation::Who => None,
        }
    }

    /// The verb's first name in the grammar.
    pub fn verb(&self) -> &'static str {
        match self {
            Operation::Hello { .. } => "hello",
            Operation::Ping => "ping",
            Operation::Stats => "stats",
            Operation::Put { .. } => "put",
            Operation::Get { .. } => "get",
            Operation::Mget { .. } => "mget",
            Operation::Exists { .. } => "exists",
            Operation::Incr { .. } => "incr",
            Operation::Del { .. } => "del",
            Operation::Txn(_) => "txn",
            Operation::Size => "size",
            Operation::Scan(_) => "scan",
            Operation::Query { .. } => "query",
            Operation::Expire { .. } => "expire",
            Operation::Persist { .. } => "persist",
            Operation::Ttl { .. } => "ttl",
            Operation::DelPrefix { .. } => "del_prefix",
            Operation::Noop => "noop",
            Operation::Result { .. } => "result",
            Operation::End => "end",
            Operation::List(_) => "ls",
            Operation::History { .. } => "history",
            Operation::Events(_) => "events",
            Operation::Queue(queue) => queue.verb(),
            Operation::Routing(routing) => routing.verb(),
            Operation::Conversion(conversion) => conversion.verb(),
            Operation::Converted(converted) => converted.operation.verb(),
            Operation::Authorize { .. } => "authorize",
            Operation::Revoke { .. } => "revoke",
            Operation::Who => "who",
        }
    }
}

/// What must hold of a key for an operation to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// It is not there.
    Absent,
    /// It is there.
    Exists,
    /// Its last change was made by this revision.
    Revision(u64),
    /// Its value equals this one, in whichever encoding either was written (see [`crate::same_value`]).
    Value(Stored),
}

/// Which keys a scan or query looks at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    /// Only keys that start with these bytes.
    pub prefix: Vec<u8>,
    /// Only this key and those behind it.
    pub from: Option<Key>,
    /// Only keys before this one.
    pub to: Option<Key>,
    /// From the last key to the first.
    pub reverse: bool,
    /// Answer with keys alone.
    pub keys_only: bool,
    /// Only keys in which this pattern is found (anywhere, unless it is anchored).
    pub pattern: Option<Pattern>,
    /// Only keys and values of which this holds.
    pub filter: Option<Predicate>,
    /// Go on behind this key: the `cursor` of the page before.
    pub cursor: Option<Key>,
    /// Most rows wanted on this page; the page limit where absent.
    pub limit: Option<usize>,
    /// As of one revision on all pages: 0 opens a snapshot at the present one, another number goes on with that of a page before.
    pub snapshot: Option<u64>,
}

/// Which names to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Only names of keys that start with these bytes.
    pub prefix: Vec<u8>,
    /// What ends the name of a group; not empty.
    pub delimiter: Vec<u8>,
    /// Go on behind this name: the `cursor` of the page before.
    pub cursor: Option<Key>,
    /// Most names wanted on this page; the page limit where absent.
    pub limit: Option<usize>,
}

/// Which changes to list, and how long to wait for the first one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    /// Only changes of keys that start with these bytes.
    pub prefix: Vec<u8>,
    /// Only revisions behind this one; None: those that come from now on.
    pub after: Option<u64>,
    /// Most revisions wanted. 0: none, and none are waited for; whoever asks has heard of those up to `after` otherwise, and says so.
    pub limit: Option<usize>,
    /// How long to wait for the first change where there is none yet, milliseconds; 0: not at all.
    pub wait_ms: u64,
    /// The epoch in which `after` was counted: in another one that number says nothing. None: taken for this one.
    pub epoch: Option<u64>,
    /// Told with what each key was before, and where each revision comes from.
    pub detail: bool,
    /// Only what whoever keeps the keys and values that fit must hear of.
    pub where_: Option<Predicate>,
    /// Holes that whoever asks has found in its streams since it asked last: for the broker's figures.
    pub lost: u64,
}

/// The delimiter of [`List`] where none is given.
pub const LIST_DELIMITER: &[u8] = b"/";

impl Scan {
    /// Regular expressions over keys and values.
    pub(crate) fn regexes(&self) -> usize {
        usize::from(self.pattern.is_some()) + self.filter.as_ref().map_or(0, Predicate::regexes)
    }
}

/// A regular expression over keys or texts, known to compile.
///
/// It is kept as text until it is used: a compiled one can be ten thousand times as large as the request that asked for it, and
/// thousands of requests may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// Bound of the compiled program, KiB.
    program_kib: u32,
    /// What a byte of a key costs at worst.
    price: u32,
}

/// How much dearer than in ASCII a byte can be: it may be in the middle of four characters, those that began with it and the three
/// bytes before.
const UNICODE_PRICE: u32 = 4;

/// Steps in which a pattern's compiled size is found out, KiB.
const PROGRAM_KIB_STEPS: [u32; 5] = [1, 4, 16, 64, (limits::REGEX_PROGRAM_BYTES_MAX >> 10) as u32];

impl Pattern {
    /// Checks a pattern in the syntax of the `regex` crate; `limit` or `invalid` with the reason.
    pub fn new(pattern: &str) -> Result<Pattern, Failure> {
        if pattern.len() > limits::REGEX_BYTES_MAX {
            return Err(Failure::limit(format!("a regex has at most {} bytes", limits::REGEX_BYTES_MAX)));
        }
        for program_kib in PROGRAM_KIB_STEPS {
            match builder(pattern, program_kib).build() {
                Ok(_) => return Ok(Pattern { text: pattern.into(), program_kib, price: price(pattern, program_kib) }),
                Err(regex::Error::CompiledTooBig(_)) => {}
                Err(error) => return Err(Failure::invalid(format!("the regex does not compile: {error}"))),
            }
        }
        Err(Failure::limit(
            "the regex is too large once compiled; use smaller repetitions, or ASCII classes such as (?-u:\\w) and [0-9]",
        ))
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Compiles the pattern for use. None if the engine refuses today what it took in [`Pattern::new`], which it does not.
    pub fn matcher(&self) -> Option<Matcher> {
        Some(Matcher { regex: builder(&self.text, self.program_kib).build().ok()?, price: self.price })
    }

    /// What [`Pattern::matcher`] costs at worst, in units of [`limits::TURN_WORK_MAX`]: a millisecond for the largest.
    pub(crate) fn compile_work(&self) -> usize {
        const LEAST: usize = 200;
        const PER_KIB: usize = 40;
        LEAST + PER_KIB * self.program_kib as usize
    }
}

fn builder(pattern: &str, program_kib: u32) -> regex::bytes::RegexBuilder {
    let mut builder = regex::bytes::RegexBuilder::new(pattern);
    builder.size_limit((program_kib as usize) << 10).dfa_size_limit(limits::REGEX_CACHE_BYTES_MAX);
    builder
}

/// The engine's slow path visits the states that it may be in at once for every byte. How many those are is bounded by the program,
/// but tables of characters make a program large without adding any: `\w` has 60 KiB of them, and is in one of its states for each
/// character. So the same pattern is measured without them.
fn price(pattern: &str, program_kib: u32) -> u32 {
    let ascii = PROGRAM_KIB_STEPS.into_iter().find(|kib| builder(pattern, *kib).unicode(false).build().is_ok());
    ascii.map_or(program_kib, |kib| program_kib.min(kib * UNICODE_PRICE))
}

/// A compiled [`Pattern`].
#[derive(Debug)]
pub struct Matcher {
    regex: regex::bytes::Regex,
    price: u32,
}

impl Matcher {
    /// True when the pattern is found in the text.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// What looking at a text costs at worst, in units of [`limits::TURN_WORK_MAX`].
    pub fn work(&self, text: &[u8]) -> usize {
        text.len().saturating_mul(self.price as usize)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn ordinary_patterns_are_taken_and_cost_what_they_may_cost() {
        let prices = [
            ("^user/", 1),
            ("^[a-z]+-[0-9]{4}$", 1),
            (".*foo.*bar.*", 4),
            (r"^user/\d+/\w+$", 4),
            (r"(?u)^\w+$", 64),
            (r"\p{Greek}+", 4),
            ("[01]*1[01]{50}x", 4),
            ("[01]*1[01]{400}x", 64),
        ];
        for (pattern, price) in prices {
            let matcher = Pattern::new(pattern).unwrap().matcher().unwrap();
            assert_eq!(matcher.work(b"0123456789"), 10 * price, "{pattern}");
        }
        assert!(Pattern::new("a+b").unwrap().matcher().unwrap().is_match(b"caab"));
    }

    #[test]
    fn what_does_not_compile_is_refused_with_a_reason() {
        let code = |pattern: &str| Pattern::new(pattern).unwrap_err().code;
        assert_eq!(code("("), ErrorCode::Invalid);
        assert_eq!(code(r"\w{1000}"), ErrorCode::Limit);
        assert_eq!(code("(((((a{100}){100}){100}){100}){100})"), ErrorCode::Limit);
        assert_eq!(code(&"a".repeat(limits::REGEX_BYTES_MAX + 1)), ErrorCode::Limit);
    }
}
