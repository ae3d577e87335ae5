//! Who asked the log's reader for something, and how that is answered.
//!
//! - Room for the answer is taken while the call waits, and given back only when the answer is charged: nobody else is answered for what
//!   is between the two.

use std::sync::Arc;

use kvbroker_log::Persisted;
use kvbroker_protocol::{Answer, Failure, Form, Operation, Operations, Outcome, Outcomes, Reply, limits};

use crate::call::{Call, ClientId, Envelope};
use crate::credit::{Account, Charge};
use crate::released::{Released, ReplyOut};
use crate::trace::Trace;

/// Who asked, and what its reply needs.
pub(crate) struct Asker {
    client: ClientId,
    user: Arc<str>,
    account: Account,
    /// Room for its answer, taken while it waits for the log's reader.
    reserved: Option<Charge>,
    envelope: Envelope,
    id: Option<u64>,
    form: Form,
    request_bytes: usize,
    /// The revision of the table when the worker came to this call.
    revision: u64,
    trace: Option<Trace>,
}

/// A call for the log's reader.
pub(crate) trait Asks: Into<Asker> {
    fn asker(&self) -> &Asker;
}

impl Asker {
    /// Takes a call with one operation apart; None if it has more.
    pub(crate) fn of(call: Call, revision: u64) -> Option<(Asker, Operation)> {
        let Call { client, user, account, envelope, request, bytes } = call;
        let Operations::One(operation) = request.operations else { return None };
        let trace = tracing::enabled!(tracing::Level::TRACE).then(|| Trace::start(client, None, &operation));
        let (id, form) = (request.header.id, request.form);
        let asker = Asker { client, user, account, reserved: None, envelope, id, form, request_bytes: bytes, revision, trace };
        Some((asker, operation))
    }

    /// The authenticated user.
    pub(crate) fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// The revision of the table when the worker came to this call.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// True if its connection has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.account.is_gone()
    }

    /// True while only small replies are made for it.
    pub(crate) fn is_tight(&self) -> bool {
        self.account.is_tight()
    }

    /// Takes room for the answer: others of this client are to wait until it is there.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.reserved = Some(self.account.charge(bytes));
    }

    pub(crate) fn reply(self, result: Result<Answer, Failure>) -> ReplyOut {
        let outcome = Outcome { revision: Some(self.revision), result };
        if let Some(trace) = self.trace {
            trace.finish(&outcome);
        }
        let reply = Reply { id: self.id, form: self.form, retry_safe: None, outcomes: Outcomes::One(outcome) };
        let (client, envelope, request_bytes) = (self.client, self.envelope, self.request_bytes);
        let account = self.account;
        let mut out = ReplyOut {
            client,
            envelope,
            reply,
            request_bytes,
            account,
            charge: None,
            is_behind_all: false,
            is_superseded: false,
        };
        // Before the room is given back: nobody is to be answered for what is only between the two.
        out.charge(false);
        drop(self.reserved);
        out
    }

    pub(crate) fn busy(self, waiting: usize) -> ReplyOut {
        let message = format!("{waiting} requests wait for the log's reader; try again later");
        self.reply(Err(Failure::busy(message, limits::RETRY_AFTER_MS)))
    }
}

/// A call with the log's proof for the revision that it saw.
pub(crate) struct Proved<C> {
    pub(crate) call: C,
    pub(crate) proof: Persisted,
}

impl<C: Asks> Proved<C> {
    pub(crate) fn released(self, result: Result<Answer, Failure>) -> Released {
        let revision = self.call.asker().revision;
        Released::new(&self.proof, revision, vec![self.call.into().reply(result)])
    }
}
