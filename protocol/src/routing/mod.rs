//! Routing as it is asked for and answered: messages that are published to subjects, and queues that are bound to patterns of them.
//!
//! - Subjects and patterns are bytes, as keys are; which pattern has which subject is said in `subject.rs` alone.
//! - What stands here knows no queue's items and no subscriber.

mod answers;
mod request;
mod subject;
mod verbs;

use crate::predicate::Predicate;
use crate::queue::ItemId;
use crate::value::{Key, Stored};

pub use answers::RoutingExpect;
#[cfg(test)]
pub(crate) use answers::samples;
pub(crate) use answers::{compact_length, field_count, read_compact, read_copies, write_compact, write_fields};
pub(crate) use request::write_routing_operation;
pub use subject::{
    RETAINED_PREFIX, pattern_prefix, retained_key, subject_matches, subject_name, subject_pattern, subject_tokens,
};
pub(crate) use verbs::ROUTING_VERBS;

/// A message for whoever wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// What it is about.
    pub subject: Key,
    /// The value as written.
    pub value: Stored,
    /// The priority of its copies in queues.
    pub priority: i8,
    /// Copies that nobody has taken by then are gone, and so is the retained value; milliseconds.
    pub ttl_ms: Option<u64>,
    /// What the value is, for those who read it.
    pub content_type: Option<String>,
    /// The value is kept as the subject's last one: under the key [`retained_key`] of the table.
    pub retain: bool,
    /// Refused, and not done, if no queue wants it.
    pub must_route: bool,
}

/// What is asked of the routing.
#[derive(Clone, Debug, PartialEq)]
pub enum RoutingOperation {
    /// From now on the queue gets a copy of each message that fits.
    Bind {
        /// The queue; it is made if it is not there.
        queue: Key,
        /// The subjects.
        pattern: Key,
        /// Only messages with such values.
        where_: Option<Predicate>,
    },
    /// From now on it does not, for this pattern.
    Unbind {
        /// The queue.
        queue: Key,
        /// The pattern as it was bound.
        pattern: Key,
    },
    /// Tells which queues are bound to what.
    Bindings {
        /// This queue alone.
        queue: Option<Key>,
        /// Go on behind this queue and pattern.
        cursor: Option<(Key, Key)>,
        /// Most bindings on this page.
        limit: Option<usize>,
    },
    /// Gives each queue that wants it a copy of a message, and tells those who listen.
    Publish(Publish),
}

impl RoutingOperation {
    /// True for those that have a number in a session.
    pub fn is_mutation(&self) -> bool {
        !matches!(self, RoutingOperation::Bindings { .. })
    }

    /// True for those that a transaction can have.
    pub fn fits_into_txn(&self) -> bool {
        self.is_mutation()
    }

    /// The queue or the subject that is asked for, if it is one.
    pub fn key(&self) -> Option<&Key> {
        match self {
            RoutingOperation::Bind { queue, .. } | RoutingOperation::Unbind { queue, .. } => Some(queue),
            RoutingOperation::Bindings { queue, .. } => queue.as_ref(),
            RoutingOperation::Publish(publish) => Some(&publish.subject),
        }
    }

    /// The verb's name in the grammar.
    pub fn verb(&self) -> &'static str {
        match self {
            RoutingOperation::Bind { .. } => "bind",
            RoutingOperation::Unbind { .. } => "unbind",
            RoutingOperation::Bindings { .. } => "bindings",
            RoutingOperation::Publish(_) => "publish",
        }
    }

    /// Rough bytes that it points to, beside what came in its message.
    pub fn memory_bytes(&self) -> usize {
        match self {
            RoutingOperation::Bind { where_, .. } => where_.as_ref().map_or(0, Predicate::memory_bytes),
            _ => 0,
        }
    }
}

/// A queue and a pattern that it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The queue.
    pub queue: Key,
    /// The pattern.
    pub pattern: Key,
    /// The predicate as it was written; None: every value fits.
    pub where_: Option<String>,
}

/// A queue's copy of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageCopy {
    /// The queue that has it.
    pub queue: Key,
    /// Its id there.
    pub item: ItemId,
    /// The queue is transient: the copy is gone after a restart of the broker.
    pub transient: bool,
}

/// What the routing answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingAnswer {
    /// A message was published.
    Published {
        /// So many queues have a copy.
        routed: u64,
        /// Which, and the items' ids: of queues that the publisher may use, the first ones.
        copies: Vec<MessageCopy>,
    },
    /// Bindings as they are.
    Bindings {
        /// In the order of their queues' names, and of a queue in that of its patterns.
        bindings: Vec<Binding>,
        /// Where to go on: queue and pattern; None at the end.
        cursor: Option<(Key, Key)>,
    },
}
