//! Replies and events that may leave the broker.

use kvbroker_core::Message;
use kvbroker_log::Persisted;
use kvbroker_protocol::{Failure, Key, Outcome, Outcomes, Reply, VersionKind, limits};

use crate::call::{Call, ClientId, Envelope};
use crate::credit::{Account, Charge};
use crate::sizes::reply_bytes;

/// A reply and where it goes.
#[derive(Debug)]
pub struct ReplyOut {
    /// Whose it is, for accounting.
    pub client: ClientId,
    /// Where it goes.
    pub envelope: Envelope,
    /// What it says.
    pub reply: Reply,
    /// Bytes of the request that it answers: given back to the client's bounds.
    pub request_bytes: usize,
    /// What it is charged to.
    pub account: Account,
    /// For what it takes; None: it is a refusal, which has an allowance of its own.
    pub charge: Option<Charge>,
    /// It is not to be sent before everything that was released earlier: an admin is told that somebody may do less when what that one
    /// was answered before is on its way.
    pub is_behind_all: bool,
    /// It is not to be sent: the client has asked again under the same id, and is answered there. All that it does is give back what its
    /// request counted for.
    pub is_superseded: bool,
}

impl ReplyOut {
    /// Refuses a call without having looked at it.
    pub(crate) fn refusal(call: Call, failure: Failure) -> ReplyOut {
        let Call { client, account, envelope, request, bytes, .. } = call;
        let outcomes = Outcomes::One(Outcome { revision: None, result: Err(failure) });
        let reply = Reply { id: request.header.id, form: request.form, retry_safe: None, outcomes };
        ReplyOut {
            client,
            envelope,
            reply,
            request_bytes: bytes,
            account,
            charge: None,
            is_behind_all: false,
            is_superseded: false,
        }
    }

    /// What stands for the reply to a call that was sent again before it was answered.
    pub(crate) fn superseded(call: Call) -> ReplyOut {
        let failure =
            Failure::busy("the request was sent again under the same id, and is answered there", limits::RETRY_AFTER_MS);
        ReplyOut { is_superseded: true, ..ReplyOut::refusal(call, failure) }
    }

    /// Takes it back where it would be too large for what all clients may have unread together; only for one that tells of no
    /// change. Gives the bytes that it is charged for.
    pub(crate) fn charge(&mut self, is_change: bool) -> usize {
        let mut bytes = reply_bytes(self);
        if !is_change && bytes > limits::SMALL_REPLY_BYTES && self.account.is_tight() {
            self.reply.outcomes = Outcomes::One(Outcome { revision: None, result: Err(no_room_for_replies()) });
            bytes = reply_bytes(self);
        }
        self.charge = Some(self.account.charge(bytes));
        bytes
    }
}

/// What is answered instead of a large reply while all clients together have used up what they may leave unread.
pub(crate) fn no_room_for_replies() -> Failure {
    let message = "clients that do not read their replies have used up the memory for large ones; try again, or ask for less";
    Failure::busy(message, limits::RETRY_AFTER_MS)
}

/// One change of the table, to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The revision that made it.
    pub revision: u64,
    /// The key.
    pub key: Key,
    /// What happened.
    pub kind: VersionKind,
}

/// A message that somebody published, for those who listen.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The revision that it was published at.
    pub revision: u64,
    /// What it says.
    pub message: Message,
}

/// The changes and the messages of one batch, to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct EventBatch {
    /// The last revision before it.
    pub base: u64,
    /// Its last revision; the same if it changed nothing.
    pub revision: u64,
    /// The stamp of all of its revisions, milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// In the order of their revisions, and of their keys in each; None: not told, since nobody wanted them when the batch began, or
    /// there was no room for them.
    pub events: Option<Vec<Event>>,
    /// In the order in which they were published; none: nothing was. None: something was, and is not told, since nobody listened, or there
    /// was no room for it.
    pub messages: Option<Vec<Publication>>,
}

impl EventBatch {
    /// Whether it tells of no change and of no message, be it that there were none.
    pub(crate) fn tells_nothing(&self) -> bool {
        self.events.is_none() && self.messages.as_ref().is_none_or(Vec::is_empty)
    }
}

/// Replies and events of one batch with the proof that everything they tell is durable as promised.
///
/// There is no other way to make one: "persist before you speak" is checked by the compiler. Reads have the proof for the
/// revision that they saw.
#[derive(Debug)]
pub struct Released {
    replies: Vec<ReplyOut>,
    events: Option<EventBatch>,
}

impl Released {
    /// Releases what is answered at a revision, given the log's proof.
    ///
    /// # Panics
    /// If the proof covers less than `revision`: a fault in the worker that must not reach a client.
    pub fn new(proof: &Persisted, revision: u64, replies: Vec<ReplyOut>) -> Released {
        assert!(proof.revision() >= revision, "the log's proof ends at {}, the batch at {revision}", proof.revision());
        Released { replies, events: None }
    }

    /// Releases what a batch says.
    ///
    /// # Panics
    /// As [`Released::new`].
    pub fn of_batch(proof: &Persisted, replies: Vec<ReplyOut>, events: EventBatch) -> Released {
        let released = Released::new(proof, events.revision, replies);
        Released { events: Some(events), ..released }
    }

    /// The replies, and the events.
    pub fn into_parts(self) -> (Vec<ReplyOut>, Option<EventBatch>) {
        (self.replies, self.events)
    }
}
