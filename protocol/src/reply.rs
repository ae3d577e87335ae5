//! What the broker answers.

use std::borrow::Cow;

use crate::access::{GrantInfo, Role};
use crate::conversion::ConversionAnswer;
use crate::error::Failure;
use crate::events::RevisionEvents;
use crate::header::{BrokerId, Form, SessionId};
use crate::queue::QueueAnswer;
use crate::routing::RoutingAnswer;
use crate::value::{Key, Stored};

/// The answer to one message.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

    /// The outcomes in order, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [Outcome] {
        match self {
            Outcomes::One(outcome) => std::slice::from_mut(outcome),
            Outcomes::Many(outcomes) => outcomes,
        }
    }
}

/// What became of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The revision that a mutation made, or that was observed. None for refusals by the front end.
    pub revision: Option<u64>,
    /// The answer or the failure.
    pub result: Result<Answer, Failure>,
}

/// The answer of a successful operation.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        /// The revision of the snapshot that the page belongs to.
        snapshot: Option<u64>,
    },
    /// A page of keys and values, in key order.
    Rows {
        /// The rows.
        rows: Vec<Row>,
        /// Where to go on; None at the end.
        cursor: Option<Key>,
        /// The revision of the snapshot that the page belongs to.
        snapshot: Option<u64>,
    },
    /// A key's deadline; None: it has none.
    Ttl(Option<Deadline>),
    /// Keys were removed.
    Deleted {
        /// So many.
        removed: u64,
        /// There are more: ask again.
        more: bool,
    },
    /// What became of a mutation.
    Result(Fate),
    /// A key's versions, newest first.
    History {
        /// The versions.
        versions: Vec<Version>,
        /// There are older ones: ask again with `before`.
        more: bool,
        /// The oldest revision of which the broker still knows.
        oldest: u64,
    },
    /// Changes, revision by revision.
    Events {
        /// The revisions that changed something under the prefix, in order, each whole.
        events: Vec<RevisionEvents>,
        /// All changes up to this revision have been told: the `after` of the next request.
        through: u64,
        /// There may be more already: ask again.
        more: bool,
        /// The log's epoch; compared for equality only. Revisions of another one say nothing of these.
        epoch: u64,
    },
    /// What a queue answers.
    Queue(QueueAnswer),
    /// What the routing answers.
    Routing(RoutingAnswer),
    /// What rules and conversions answer.
    Conversion(ConversionAnswer),
    /// A transaction was done.
    Txn {
        /// True: `then` was done; false: `else`.
        succeeded: bool,
        /// The outcomes of its operations, in order.
        results: Vec<Outcome>,
    },
    /// A user was let in.
    Granted {
        /// True if it was in before: it has this role and these keys now, instead of those that it had.
        replaced: bool,
    },
    /// The users that were let in, in the order of the broker's list.
    Who(Vec<GrantInfo>),
    /// Who the broker is.
    Hello(Box<HelloAnswer>),
    /// Counters and settings by name.
    Stats(Vec<(String, StatValue)>),
}

/// When a key is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Milliseconds left at the moment of the answer; 0: it is due.
    pub left_ms: u64,
    /// The broker's time at which it is due, milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
}

/// What became of a mutation that a session and a number name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was decided: this was the answer.
    Decided(Box<Outcome>),
    /// It has not arrived. It may yet, unless a `noop` takes its number.
    Undecided,
    /// A `noop` has its number, or the session has ended: it was not done, and never will be.
    Filled,
    /// Its answer was acknowledged, and forgotten.
    Acknowledged,
}

impl Fate {
    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Fate::Decided(_) => "decided",
            Fate::Undecided => "undecided",
            Fate::Filled => "filled",
            Fate::Acknowledged => "acknowledged",
        }
    }
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The revision that made it.
    pub revision: u64,
    /// When, by the broker's time, milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// What happened to the key.
    pub kind: VersionKind,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionKind {
    /// It got this value.
    Put(Stored),
    /// It was removed.
    Remove,
    /// Its deadline had come.
    Expire,
}

impl VersionKind {
    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            VersionKind::Put(_) => "put",
            VersionKind::Remove => "remove",
            VersionKind::Expire => "expire",
        }
    }
}

/// A value with its key's revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As it was written.
    pub value: Stored,
    /// The revision of the key's last change.
    pub modified: u64,
    /// The revision at which the key came into being.
    pub created: u64,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Key,
    /// Its value as written.
    pub value: Stored,
    /// The revision of the key's last change.
    pub modified: u64,
}

/// A counter or setting.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Whom the broker takes this client for: `owner`, the text of a public key, or `anyone` where nobody has to prove anything.
    pub user: String,
    /// What this client may do. None: the broker is of a version that does not say it.
    pub role: Option<Role>,
    /// The prefixes of the keys that this client may use; empty: every key.
    pub prefixes: Vec<Key>,
    /// The bounds a client must know, by name.
    pub limits: NamedLimits,
}

/// Bounds by name; those of this version are not made anew for each answer.
pub type NamedLimits = Cow<'static, [(Cow<'static, str>, u64)]>;

/// The limits that Hello reports.
pub fn reported_limits() -> NamedLimits {
    Cow::Borrowed(REPORTED_LIMITS)
}

const REPORTED_LIMITS: &[(Cow<'static, str>, u64)] = {
    use crate::limits::*;
    const fn limit(name: &'static str, value: usize) -> (Cow<'static, str>, u64) {
        (Cow::Borrowed(name), value as u64)
    }
    &[
        limit("key_bytes", KEY_BYTES_MAX),
        limit("value_bytes", VALUE_BYTES_MAX),
        limit("message_bytes", MESSAGE_BYTES_MAX),
        limit("frames", FRAMES_MAX),
        limit("depth", DEPTH_MAX),
        limit("array_operations", ARRAY_OPERATIONS_MAX),
        limit("txn_operations", TXN_OPERATIONS_MAX),
        limit("regex_bytes", REGEX_BYTES_MAX),
        limit("array_regexes", ARRAY_REGEXES_MAX),
        limit("predicate_bytes", PREDICATE_BYTES_MAX),
        limit("page_rows", PAGE_ROWS_MAX),
        limit("page_bytes", PAGE_BYTES_MAX),
        limit("examined_keys", EXAMINED_KEYS_MAX),
        limit("in_flight", IN_FLIGHT_MAX),
        limit("in_flight_bytes", IN_FLIGHT_BYTES_MAX),
        limit("reply_credit_bytes", REPLY_CREDIT_BYTES),
        limit("session_window", SESSION_WINDOW),
        limit("session_reply_bytes", SESSION_REPLY_BYTES_MAX),
        limit("history_versions", HISTORY_VERSIONS_MAX),
        limit("events_changes", EVENTS_CHANGES_MAX),
        limit("events_wait_ms", EVENTS_WAIT_MS_MAX as usize),
        limit("events_waiting", PARKED_PER_CLIENT_MAX),
        limit("streams", STREAMS_MAX),
        limit("stream_revision_bytes", STREAM_REVISION_BYTES_MAX),
        limit("ttl_ms", TTL_MS_MAX as usize),
        limit("queue_name_bytes", QUEUE_NAME_BYTES_MAX),
        limit("queue_items", QUEUE_ITEMS_MAX),
        limit("queue_lease_ms", QUEUE_LEASE_MS_MAX as usize),
        limit("queue_wait_ms", QUEUE_WAIT_MS_MAX as usize),
        limit("subject_bytes", SUBJECT_BYTES_MAX),
        limit("publish_copies", PUBLISH_COPIES_MAX),
    ]
};
