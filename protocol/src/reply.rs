//! What the broker answers.

use crate::error::Failure;
use crate::header::{BrokerId, Form, SessionId};
use crate::value::{Key, Stored};

/// The answer to one message.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The request's id.
    pub id: Option<u64>,
    /// The request's shape.
    pub form: Form,
    /// Present on answers to mutations: whether sending the same request again is safe.
    pub retry_safe: Option<bool>,
    /// One outcome, or one per operation of an array.
    pub outcomes: Outcomes,
}

/// One outcome, or one per operation of an array, in its order.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcomes {
    /// The answer to a single operation.
    One(Outcome),
    /// The answers to an array.
    Many(Vec<Outcome>),
}

impl Outcomes {
    /// The outcomes in order.
    pub fn as_slice(&self) -> &[Outcome] {
        match self {
            Outcomes::One(outcome) => std::slice::from_ref(outcome),
            Outcomes::Many(outcomes) => outcomes,
        }
    }
}

/// What became of one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The revision that a mutation made, or that was observed. None for refusals by the front end.
    pub revision: Option<u64>,
    /// The answer or the failure.
    pub result: Result<Answer, Failure>,
}

/// The answer of a successful operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done; nothing more to say (put, del, ping).
    Done,
    /// The value that a del removed.
    Removed(Stored),
    /// A key's value.
    Value {
        /// As it was written.
        value: Stored,
        /// The revision of the key's last change.
        modified: u64,
        /// The revision at which the key came into being.
        created: u64,
    },
    /// Several keys' values, in the order asked; None: there is no such key.
    Values(Vec<Option<Found>>),
    /// Whether the key is there.
    Exists(bool),
    /// The integer that is now there.
    Integer(i128),
    /// A number of keys.
    Size(u64),
    /// A page of keys alone.
    Keys {
        /// The keys, in the order asked for.
        keys: Vec<Key>,
        /// Where to go on; None at the end.
        cursor: Option<Key>,
    },
    /// A page of keys and values, in key order.
    Rows {
        /// The rows.
        rows: Vec<Row>,
        /// Where to go on; None at the end.
        cursor: Option<Key>,
    },
    /// A transaction was done.
    Txn {
        /// True: `then` was done; false: `else`.
        succeeded: bool,
        /// The outcomes of its operations, in order.
        results: Vec<Outcome>,
    },
    /// Who the broker is.
    Hello(Box<HelloAnswer>),
    /// Counters and settings by name.
    Stats(Vec<(String, StatValue)>),
}

/// A value with its key's revisions.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// As it was written.
    pub value: Stored,
    /// The revision of the key's last change.
    pub modified: u64,
    /// The revision at which the key came into being.
    pub created: u64,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The key.
    pub key: Key,
    /// Its value as written.
    pub value: Stored,
    /// The revision of the key's last change.
    pub modified: u64,
}

/// A counter or setting.
#[derive(Clone, Debug, PartialEq)]
pub enum StatValue {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// The answer to Hello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloAnswer {
    /// The newest protocol version that the broker speaks.
    pub protocol: u32,
    /// The broker program's version.
    pub version: String,
    /// The project.
    pub project: String,
    /// Who owns the broker.
    pub owner: String,
    /// The log's uuid.
    pub broker: BrokerId,
    /// The log's epoch; compared for equality only.
    pub epoch: u64,
    /// The running process, new at each start.
    pub instance: BrokerId,
    /// Number of this shard.
    pub shard: u32,
    /// The TCP port of the notifications; 0 if there is none.
    pub pub_port: u16,
    /// A session id to use.
    pub session: SessionId,
    /// What an acknowledgement means here.
    pub durability: String,
    /// Key prefixes that this client may use; empty: all.
    pub prefixes: Vec<String>,
    /// The bounds a client must know, by name.
    pub limits: Vec<(String, u64)>,
}

/// The limits that Hello reports.
pub fn reported_limits() -> Vec<(String, u64)> {
    use crate::limits::*;
    [
        ("key_bytes", KEY_BYTES_MAX),
        ("value_bytes", VALUE_BYTES_MAX),
        ("message_bytes", MESSAGE_BYTES_MAX),
        ("frames", FRAMES_MAX),
        ("depth", DEPTH_MAX),
        ("array_operations", ARRAY_OPERATIONS_MAX),
        ("txn_operations", TXN_OPERATIONS_MAX),
        ("regex_bytes", REGEX_BYTES_MAX),
        ("array_regexes", ARRAY_REGEXES_MAX),
        ("page_rows", PAGE_ROWS_MAX),
        ("page_bytes", PAGE_BYTES_MAX),
        ("examined_keys", EXAMINED_KEYS_MAX),
        ("in_flight", IN_FLIGHT_MAX),
        ("in_flight_bytes", IN_FLIGHT_BYTES_MAX),
        ("session_window", SESSION_WINDOW),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value as u64))
    .collect()
}
