//! What replies take that have not left the broker, and who may be answered more.
//!
//! - A reply is charged to its client's [`Account`] when it is made. Its [`Charge`] goes with it through the outbox and into
//!   libzmq, and is given back where it is dropped: when the last byte has left, or the connection has ended. What a client says of
//!   itself plays no part, so nobody can claim to have read what still takes memory here.
//! - A client whose charges come to its credit ([`limits::REPLY_CREDIT_BYTES`]) is answered when some of them are given back.
//!   Whoever owes nothing is always answered: one reply, however large, is never too much.
//! - All clients together: once [`limits::REPLIES_BYTES_MAX`] is used up, everybody's credit is [`limits::SMALL_REPLY_BYTES`], and
//!   replies are kept to that size. Small replies go on; what is larger is answered `busy`.
//! - Refusals have an allowance of their own ([`limits::REFUSAL_BYTES_MAX`]): a client that is without credit can still be told so.
//! - A client that was found without credit is called back exactly when it has some again. Nothing here waits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use kvbroker_protocol::limits;

use crate::call::ClientId;

/// Hears of credit that came back; on any thread, libzmq's included: it must neither wait nor panic.
pub(crate) trait Wake: Send + Sync {
    /// This client may be answered again.
    fn client(&self, client: ClientId);
    /// Anybody may be answered again.
    fn everybody(&self);
}

/// The credit of all clients together.
pub struct Credit {
    used: AtomicUsize,
    wake: Weak<dyn Wake>,
}

/// One client's part.
#[derive(Clone)]
pub struct Account(Arc<Inner>);

struct Inner {
    client: ClientId,
    credit: Arc<Credit>,
    replies: AtomicUsize,
    refusals: AtomicUsize,
    /// Somebody waits for this client's credit.
    waits: AtomicBool,
}

/// What a reply is charged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reply,
    Refusal,
}

/// Bytes that a client is charged for; given back where this is dropped.
#[must_use = "it is given back where it is dropped"]
pub struct Charge {
    account: Account,
    kind: Kind,
    bytes: usize,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("client", &self.0.client).field("owes", &self.owes()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Charge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Charge").field("account", &self.account).field("kind", &self.kind).field("bytes", &self.bytes).finish()
    }
}

impl Credit {
    pub(crate) fn new(wake: Weak<dyn Wake>) -> Arc<Credit> {
        Arc::new(Credit { used: AtomicUsize::new(0), wake })
    }

    /// Bytes charged to all clients now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// True while all that may be charged to clients together is: then only small replies are made.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() >= limits::REPLIES_BYTES_MAX
    }

    /// An account for a client that owes nothing.
    pub fn open(self: &Arc<Credit>, client: ClientId) -> Account {
        Account(Arc::new(Inner {
            client,
            credit: Arc::clone(self),
            replies: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
        }))
    }

    fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::SeqCst);
    }

    fn take_back(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        let is_over = before >= limits::REPLIES_BYTES_MAX && before - bytes < limits::REPLIES_BYTES_MAX;
        if is_over && let Some(wake) = self.wake.upgrade() {
            wake.everybody();
        }
    }
}

impl Account {
    /// An account of its own, for calls that nobody else sees.
    pub fn alone(client: ClientId) -> Account {
        struct Nobody;
        impl Wake for Nobody {
            fn client(&self, _: ClientId) {}
            fn everybody(&self) {}
        }
        Credit::new(Weak::<Nobody>::new()).open(client)
    }

    pub(crate) fn credit(&self) -> &Credit {
        &self.0.credit
    }

    /// Bytes of replies charged now, without refusals.
    pub fn owes(&self) -> usize {
        self.0.replies.load(Ordering::SeqCst)
    }

    /// True if nothing at all is charged.
    pub fn is_clear(&self) -> bool {
        self.owes() == 0 && self.0.refusals.load(Ordering::SeqCst) == 0
    }

    fn has_credit(&self) -> bool {
        let max = if self.0.credit.is_tight() { limits::SMALL_REPLY_BYTES } else { limits::REPLY_CREDIT_BYTES };
        self.owes() < max
    }

    /// True if the client may be answered now. If not, it is called back when it may.
    pub(crate) fn may_be_answered(&self) -> bool {
        if self.has_credit() {
            return true;
        }
        self.0.waits.store(true, Ordering::SeqCst);
        // Credit may have come back between the look and the note; if whoever gave it has seen the note, the call back is on its way.
        self.has_credit() && self.0.waits.swap(false, Ordering::SeqCst)
    }

    /// Charges a reply.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.new_charge(Kind::Reply, bytes)
    }

    /// Charges a refusal; None if the client has not read as many as it may leave unread, and this one is not to be sent.
    pub fn charge_refusal(&self, bytes: usize) -> Option<Charge> {
        let unread = self.0.refusals.load(Ordering::SeqCst);
        let max = if self.0.credit.is_tight() { limits::SMALL_REPLY_BYTES } else { limits::REFUSAL_BYTES_MAX };
        let fits = unread + bytes <= max || (unread == 0 && !self.0.credit.is_tight());
        fits.then(|| self.new_charge(Kind::Refusal, bytes))
    }

    fn new_charge(&self, kind: Kind, bytes: usize) -> Charge {
        self.counter(kind).fetch_add(bytes, Ordering::SeqCst);
        self.0.credit.add(bytes);
        Charge { account: self.clone(), kind, bytes }
    }

    fn counter(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Reply => &self.0.replies,
            Kind::Refusal => &self.0.refusals,
        }
    }

    fn take_back(&self, kind: Kind, bytes: usize) {
        self.counter(kind).fetch_sub(bytes, Ordering::SeqCst);
        self.0.credit.take_back(bytes);
        if self.0.waits.load(Ordering::SeqCst)
            && self.has_credit()
            && self.0.waits.swap(false, Ordering::SeqCst)
            && let Some(wake) = self.0.credit.wake.upgrade()
        {
            wake.client(self.0.client);
        }
    }
}

impl Charge {
    /// Bytes that are charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it has really come to.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.account.counter(self.kind).fetch_add(bytes - self.bytes, Ordering::SeqCst);
            self.account.0.credit.add(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.account.take_back(self.kind, self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.take_back(self.kind, self.bytes);
        }
    }
}

#[cfg(test)]
#[path = "credit_tests.rs"]
mod tests;
