//! What one operation was: asked, told, and when.
//!
//! - A key is a number here; [`key_name`] is the key that the table knows.
//! - A file of records is their MessagePack one behind the other, 40 bytes or so each; in memory a record has about 100.

use std::fmt;
use std::io::{BufRead, Write};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Nanoseconds of the machine's monotonic clock: the same for all processes, never back.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |part: i64| u64::try_from(part).expect("the clock of a running machine is behind its start");
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// The key of a number.
pub fn key_name(key: u32) -> String {
    format!("key/{key}")
}

/// The number of a key's name.
pub fn key_number(name: &str) -> Option<u32> {
    name.strip_prefix("key/")?.parse().ok()
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Who asked.
    pub client: u32,
    /// Its how-manieth operation this is, in the order of asking.
    pub number: u32,
    /// When it was asked, [`now_ns`].
    pub begun_ns: u64,
    /// What was asked.
    pub ask: Ask,
    /// How it ended; None: nobody knows whether it was done.
    pub end: Option<End>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When it was there, [`now_ns`].
    pub at_ns: u64,
    /// The operation's own revision, or the one that it saw.
    pub revision: u64,
    /// What it said.
    pub told: Told,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Store a value.
    #[serde(rename = "p")]
    Put {
        /// The key.
        key: u32,
        /// The value.
        value: i64,
        /// What must hold.
        only: Option<Only>,
    },
    /// Read a value.
    #[serde(rename = "g")]
    Get {
        /// The key.
        key: u32,
    },
    /// Read several values at once.
    #[serde(rename = "m")]
    Mget {
        /// The keys.
        keys: Box<[u32]>,
    },
    /// Is it there?
    #[serde(rename = "e")]
    Exists {
        /// The key.
        key: u32,
    },
    /// Remove a key.
    #[serde(rename = "d")]
    Del {
        /// The key.
        key: u32,
        /// Tell the value.
        give_back: bool,
        /// What must hold.
        only: Option<Only>,
    },
    /// Add to a value.
    #[serde(rename = "i")]
    Incr {
        /// The key.
        key: u32,
        /// What to add.
        by: i64,
    },
    /// Several operations, all or nothing.
    #[serde(rename = "t")]
    Txn(Box<Transaction>),
    /// Count the keys.
    #[serde(rename = "s")]
    Size,
}

/// A condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Only {
    /// The key is not there.
    #[serde(rename = "a")]
    Absent,
    /// It is.
    #[serde(rename = "e")]
    Exists,
    /// It was last changed at this revision; 0: it is not there.
    #[serde(rename = "r")]
    Revision(u64),
    /// It has this value.
    #[serde(rename = "v")]
    Value(i64),
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// What decides.
    pub compares: Vec<(u32, Only)>,
    /// Done if all of it holds.
    pub then: Vec<Ask>,
    /// Done otherwise.
    pub otherwise: Vec<Ask>,
}

/// What a reply can say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Done.
    #[serde(rename = "d")]
    Done,
    /// Removed; this was there.
    #[serde(rename = "r")]
    Removed(i64),
    /// This is there.
    #[serde(rename = "f")]
    Found(Found),
    /// These are there, in the order asked.
    #[serde(rename = "m")]
    Many(Box<[Option<Found>]>),
    /// It is there, or not.
    #[serde(rename = "e")]
    Exists(bool),
    /// The sum.
    #[serde(rename = "i")]
    Sum(i64),
    /// The number of keys.
    #[serde(rename = "s")]
    Size(u64),
    /// A transaction was done.
    #[serde(rename = "t")]
    Txn {
        /// The first list, not the other.
        succeeded: bool,
        /// What its operations say.
        results: Box<[Told]>,
    },
    /// `not_found`
    #[serde(rename = "n")]
    NotFound,
    /// `conflict`
    #[serde(rename = "c")]
    Conflict,
    /// `out_of_range`
    #[serde(rename = "o")]
    OutOfRange,
}

/// A key's value and its history in two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The value.
    pub value: i64,
    /// The revision of its last change.
    pub modified: u64,
    /// The revision that made the key.
    pub created: u64,
}

impl Ask {
    /// True for what may change the table: what a session numbers.
    pub fn is_mutation(&self) -> bool {
        match self {
            Ask::Put { .. } | Ask::Del { .. } | Ask::Incr { .. } => true,
            Ask::Txn(txn) => txn.then.iter().chain(&txn.otherwise).any(Ask::is_mutation),
            Ask::Get { .. } | Ask::Mget { .. } | Ask::Exists { .. } | Ask::Size => false,
        }
    }

    /// True if the table has changed when this is the reply, so that the revision is the operation's own.
    pub fn has_changed(&self, told: &Told) -> bool {
        match (self, told) {
            (_, Told::NotFound | Told::Conflict | Told::OutOfRange) => false,
            (Ask::Txn(txn), Told::Txn { succeeded, .. }) => txn.list(*succeeded).iter().any(Ask::is_mutation),
            _ => self.is_mutation(),
        }
    }

    /// The verb.
    pub fn verb(&self) -> &'static str {
        match self {
            Ask::Put { only: None, .. } => "put",
            Ask::Put { .. } => "put-if",
            Ask::Get { .. } => "get",
            Ask::Mget { .. } => "mget",
            Ask::Exists { .. } => "exists",
            Ask::Del { only: None, .. } => "del",
            Ask::Del { .. } => "del-if",
            Ask::Incr { .. } => "incr",
            Ask::Txn(_) => "txn",
            Ask::Size => "size",
        }
    }
}

impl Transaction {
    /// The list that is done.
    pub fn list(&self, succeeded: bool) -> &[Ask] {
        if succeeded { &self.then } else { &self.otherwise }
    }
}

impl Told {
    /// True unless it is a failure.
    pub fn is_success(&self) -> bool {
        !matches!(self, Told::NotFound | Told::Conflict | Told::OutOfRange)
    }
}

impl Recorded {
    /// True if it was asked before this moment and not answered until then.
    pub fn is_under_way(&self, moment_ns: u64) -> bool {
        self.begun_ns < moment_ns && self.end.as_ref().is_none_or(|end| end.at_ns > moment_ns)
    }

    /// True if it is known to have made its revision.
    pub fn has_changed(&self) -> bool {
        self.end.as_ref().is_some_and(|end| self.ask.has_changed(&end.told))
    }
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Only::Absent => write!(f, "absent"),
            Only::Exists => write!(f, "there"),
            Only::Revision(revision) => write!(f, "at revision {revision}"),
            Only::Value(value) => write!(f, "= {value}"),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let condition = |only: &Option<Only>| only.map_or(String::new(), |only| format!(" if {only}"));
        let key = |key: &u32| key_name(*key);
        match self {
            Ask::Put { key: at, value, only } => write!(f, "put {} = {value}{}", key(at), condition(only)),
            Ask::Get { key: at } => write!(f, "get {}", key(at)),
            Ask::Mget { keys } => write!(f, "mget {}", keys.iter().map(key).collect::<Vec<_>>().join(" ")),
            Ask::Exists { key: at } => write!(f, "exists {}", key(at)),
            Ask::Del { key: at, only, .. } => write!(f, "del {}{}", key(at), condition(only)),
            Ask::Incr { key: at, by } => write!(f, "incr {} by {by}", key(at)),
            Ask::Txn(txn) => {
                let list = |asks: &[Ask]| asks.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                let compares: Vec<String> = txn.compares.iter().map(|(at, only)| format!("{} {only}", key(at))).collect();
                write!(f, "txn if [{}] then [{}] else [{}]", compares.join(", "), list(&txn.then), list(&txn.otherwise))
            }
            Ask::Size => write!(f, "size"),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (modified {}, created {})", self.value, self.modified, self.created)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Told::Done => write!(f, "done"),
            Told::Removed(value) => write!(f, "removed {value}"),
            Told::Found(found) => write!(f, "{found}"),
            Told::Many(many) => {
                let one = |one: &Option<Found>| one.map_or("nothing".into(), |found| found.to_string());
                write!(f, "[{}]", many.iter().map(one).collect::<Vec<_>>().join("; "))
            }
            Told::Exists(exists) => write!(f, "{exists}"),
            Told::Sum(sum) => write!(f, "sum {sum}"),
            Told::Size(size) => write!(f, "{size} keys"),
            Told::Txn { succeeded, results } => {
                let results: Vec<String> = results.iter().map(ToString::to_string).collect();
                write!(f, "{} [{}]", if *succeeded { "then" } else { "else" }, results.join("; "))
            }
            Told::NotFound => write!(f, "not_found"),
            Told::Conflict => write!(f, "conflict"),
            Told::OutOfRange => write!(f, "out_of_range"),
        }
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ns: u64| format!("{}.{:09} s", ns / 1_000_000_000, ns % 1_000_000_000);
        write!(f, "client {}'s operation {} ({}; asked at {}", self.client, self.number, self.ask, seconds(self.begun_ns))?;
        match &self.end {
            Some(End { at_ns, revision, told }) => write!(f, ", told at {}: {told}, revision {revision})", seconds(*at_ns)),
            None => write!(f, ", outcome unknown)"),
        }
    }
}

/// Why a file of records can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system says why.
    #[error("the history can't be read: {0}")]
    Io(#[from] std::io::Error),
    /// What is there is no record, or ends in the middle of one.
    #[error("record {number} of the history is broken; was its recorder ended before it was done? {source}")]
    Broken {
        /// Which, from 0.
        number: usize,
        /// What is wrong.
        source: rmp_serde::decode::Error,
    },
}

/// Writes a record behind the others.
///
/// # Errors
/// What the writer says.
pub fn write(out: &mut impl Write, record: &Recorded) -> Result<(), rmp_serde::encode::Error> {
    rmp_serde::encode::write(out, record)
}

/// Reads all records of a file into `history`.
///
/// # Errors
/// See [`ReadError`].
pub fn read(mut file: impl BufRead, history: &mut Vec<Recorded>) -> Result<(), ReadError> {
    let mut number = 0;
    while !file.fill_buf()?.is_empty() {
        history.push(rmp_serde::from_read(&mut file).map_err(|source| ReadError::Broken { number, source })?);
        number += 1;
    }
    Ok(())
}
