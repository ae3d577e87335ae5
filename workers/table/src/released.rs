//! Replies and events that may leave the broker.

use kvbroker_log::Persisted;
use kvbroker_protocol::{Key, Reply, Stored};

use crate::call::{ClientId, Envelope};

/// A reply and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyOut {
    /// Whose it is, for accounting.
    pub client: ClientId,
    /// Where it goes.
    pub envelope: Envelope,
    /// What it says.
    pub reply: Reply,
    /// Bytes of the request that it answers: given back to the client's bounds.
    pub request_bytes: usize,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// It has a new value.
    Put(Stored),
    /// It was removed.
    Remove,
    /// It was removed because its deadline had come.
    Expire,
}

/// One change of the table, to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The revision that made it.
    pub revision: u64,
    /// The key.
    pub key: Key,
    /// What happened.
    pub kind: EventKind,
}

/// Replies and events of one batch with the proof that everything they tell is durable as promised.
///
/// There is no other way to make one: "persist before you speak" is checked by the compiler. Reads have the proof for the
/// revision that they saw.
#[derive(Debug)]
pub struct Released {
    revision: u64,
    replies: Vec<ReplyOut>,
    events: Vec<Event>,
}

impl Released {
    /// Releases what a batch says, given the log's proof.
    ///
    /// # Panics
    /// If the proof covers less than `revision`: a fault in the worker that must not reach a client.
    pub fn new(proof: &Persisted, revision: u64, replies: Vec<ReplyOut>, events: Vec<Event>) -> Released {
        assert!(proof.revision() >= revision, "the log's proof ends at {}, the batch at {revision}", proof.revision());
        Released { revision, replies, events }
    }

    /// The replies, and the events with the last revision.
    pub fn into_parts(self) -> (Vec<ReplyOut>, Vec<Event>, u64) {
        (self.replies, self.events, self.revision)
    }
}
