//! What both ends of the wire say: requests, replies, values, their two encodings and the limits.
//!
//! - Pure: no socket, file, clock or thread. `docs/protocol.md` is the same grammar in prose and moves with this crate.
//! - One grammar, two encodings: MessagePack (compact arrays or maps) and JSON are read into the same [`Request`].
//! - A message is decoded and checked whole before any of its operations may run.
//! - Nothing here allocates more than a constant factor of the bytes it was given.

mod access;
mod compare;
mod conversion;
mod convert;
mod decode;
mod encode;
mod error;
mod events;
mod fast;
mod feed;
mod field;
mod grammar;
mod header;
mod json;
pub mod limits;
mod message_stream;
mod msgpack;
mod operation;
mod predicate;
mod queue;
mod reply;
mod reply_decode;
mod reply_encode;
mod reply_kept;
mod reply_named;
mod request_hash;
mod routing;
mod sink;
mod stream;
mod stream_body;
mod txn;
mod value;

pub use access::{Access, GrantInfo, Role, Scope, UserKey, UserKeyError, grant_comment};
pub use compare::{integer_of, same_value};
pub use conversion::{
    ContentType, Conversion, ConversionAnswer, ConversionError, ConversionExpect, ConversionOperation, Converted, Program, Rule,
    Source, Steps, Wanted, rule_name,
};
pub use convert::{json_to_msgpack, msgpack_to_json};
pub use decode::{Rejected, decode_request};
pub use encode::{encode_get, encode_message, encode_message_head, encode_operation, encode_put, encode_request};
pub use error::{ErrorCode, Failure, Status};
pub use events::{ChangeKind, EventBefore, EventCause, EventOrigin, KeyEvent, RevisionEvents};
pub use feed::{FEED_CHANGE_TOPIC, FEED_HEARTBEAT_MS, FEED_HEARTBEAT_TOPIC, FEED_SILENCE_MS, FeedMessage, feed_topic};
pub use header::{BrokerId, Form, Header, IdTextError, SessionId};
pub use message_stream::{
    MESSAGE_STREAM_TOPIC, PublishedMessages, RevisionMessages, SubjectMessage, encode_subject_message, message_stream_topic,
    pattern_of_message_topic,
};
pub use operation::{Condition, Events, LIST_DELIMITER, List, Matcher, Operation, Operations, Pattern, Request, Scan};
pub use predicate::{Predicate, PredicateMatcher, Scalar, Subject, Verdict, field_equals};
pub use queue::{
    Declaration, Delivery, ItemId, ItemIdError, ItemState, Overflow, Peeked, Progress, Pull, Push, QueueAnswer, QueueExpect,
    QueueInfo, QueueOperation, Receipt, ReceiptError, Tracked, Until, queue_name,
};
pub use reply::{
    Answer, Deadline, Fate, Found, HelloAnswer, NamedLimits, Outcome, Outcomes, Reply, Row, StatValue, Version, VersionKind,
    reported_limits,
};
pub use reply_decode::{Expect, ReplyError, decode_reply, decode_reply_to, reply_id};
pub use reply_encode::{encode_outcome, encode_reply};
pub use reply_kept::{decode_kept_outcome, encode_kept_outcome};
pub use reply_named::decode_outcome;
pub use request_hash::request_hash;
pub use routing::{
    Binding, MessageCopy, Publish, RETAINED_PREFIX, RoutingAnswer, RoutingExpect, RoutingOperation, pattern_prefix, retained_key,
    subject_matches, subject_name, subject_pattern, subject_tokens,
};
pub use stream::{
    STREAM_TOPIC, StreamKind, StreamMessage, encode_stream_change, encode_stream_message, encode_stream_revision,
    prefix_of_stream_topic, stream_topic,
};
pub use stream_body::{ChangeRef, RevisionRef, StreamBody};
pub use txn::{Compare, Txn};
pub use value::{Key, Stored, StoredRef, ValueKind, key_from_json, key_to_json_text, key_to_line_text};

/// Version of the wire protocol: the first element of a compact message and what Hello reports.
pub const PROTOCOL_VERSION: u32 = 1;

/// Version of the data directory's format, as `--version` of every program tells it. The log's own constant is compared with it.
pub const DATA_FORMAT_VERSION: u32 = 2;
