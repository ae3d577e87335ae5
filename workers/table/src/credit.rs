//! What replies take that have not left the broker, and who may be answered more.
//!
//! - A reply is charged to its client's [`Account`] when it is made. Its [`Charge`] goes with it through the outbox and into
//!   libzmq, and is given back where it is dropped: when the last byte has left, or the connection has ended. What a client says of
//!   itself plays no part, so nobody can claim to have read what still takes memory here.
//! - A client whose charges come to its credit ([`limits::REPLY_CREDIT_BYTES`]) is answered when some of them are given back.
//!   Whoever owes nothing is always answered: one reply, however large, is never too much.
//! - All clients together: once [`limits::REPLIES_BYTES_MAX`] is used up, everybody's credit is [`limits::SMALL_CREDIT_BYTES`], and
//!   replies are kept to [`limits::SMALL_REPLY_BYTES`]. Small replies go on; what is larger is answered `busy`. It stays so until an
//!   eighth has come back: what hovers at the bound would have everybody called back each time for nothing.
//! - The same holds for the clients of one user other than the owner, with [`limits::USER_REPLIES_BYTES_MAX`], and for those of all
//!   such users together, with what leaves the owner as much as one user may have: however many connections it has, no other user can
//!   take the large replies away from the owner's clients.
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
    /// Any client of this user may be answered again.
    fn user(&self, user: UserNumber);
    /// Anybody may be answered again.
    fn everybody(&self);
}

/// A user of the front end, numbered in the order of first requests; for accounting and shares, never for identity.
pub type UserNumber = u64;

/// The number of the broker's owner, on whichever way it came in.
pub const OWNER_NUMBER: UserNumber = 0;

/// Bytes that some clients have together.
struct Pool {
    max: usize,
    used: AtomicUsize,
    /// It was used up, and not enough has come back.
    is_tight: AtomicBool,
}

impl Pool {
    const fn new(max: usize) -> Pool {
        Pool { max, used: AtomicUsize::new(0), is_tight: AtomicBool::new(false) }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    fn is_tight(&self) -> bool {
        self.is_tight.load(Ordering::SeqCst)
    }

    /// True if it is not tight any more, and was: as much may have come back meanwhile.
    fn add(&self, bytes: usize) -> bool {
        let is_over = self.used.fetch_add(bytes, Ordering::SeqCst) + bytes >= self.max;
        if is_over {
            self.is_tight.store(true, Ordering::SeqCst);
        }
        is_over && self.is_loosened()
    }

    /// True if it is not tight any more, and was.
    fn take_back(&self, bytes: usize) -> bool {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        self.is_loosened()
    }

    fn is_loosened(&self) -> bool {
        self.used() < self.max - self.max / 8 && self.is_tight() && self.is_tight.swap(false, Ordering::SeqCst)
    }
}

/// The credit of all clients together.
pub struct Credit {
    all: Pool,
    /// Of all users but the owner.
    others: Pool,
    wake: Weak<dyn Wake>,
}

/// One user's part, however many clients it has.
#[derive(Clone)]
pub struct UserAccount(Arc<UserInner>);

struct UserInner {
    number: UserNumber,
    credit: Arc<Credit>,
    /// None: the owner.
    own: Option<Pool>,
}

/// One client's part.
#[derive(Clone)]
pub struct Account(Arc<Inner>);

struct Inner {
    client: ClientId,
    user: UserAccount,
    replies: AtomicUsize,
    refusals: AtomicUsize,
    /// Somebody waits for this client's credit.
    waits: AtomicBool,
    /// Nobody is there to read replies.
    is_gone: AtomicBool,
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
        let others = limits::REPLIES_BYTES_MAX - limits::USER_REPLIES_BYTES_MAX;
        Arc::new(Credit { all: Pool::new(limits::REPLIES_BYTES_MAX), others: Pool::new(others), wake })
    }

    /// Bytes charged to all clients now.
    pub fn used(&self) -> usize {
        self.all.used()
    }

    /// An account for a user who owes nothing; the number says whether it is the owner.
    pub fn user(self: &Arc<Credit>, number: UserNumber) -> UserAccount {
        let own = (number != OWNER_NUMBER).then(|| Pool::new(limits::USER_REPLIES_BYTES_MAX));
        UserAccount(Arc::new(UserInner { number, credit: Arc::clone(self), own }))
    }

    fn call_back(&self, call: impl FnOnce(&dyn Wake)) {
        if let Some(wake) = self.wake.upgrade() {
            call(&*wake);
        }
    }
}

impl UserAccount {
    /// Its number.
    pub fn number(&self) -> UserNumber {
        self.0.number
    }

    /// An account for a client of this user that owes nothing.
    pub fn open(&self, client: ClientId) -> Account {
        Account(Arc::new(Inner {
            client,
            user: self.clone(),
            replies: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
        }))
    }

    /// True if nothing is charged to any of its clients. Of the owner nobody knows.
    pub fn is_clear(&self) -> bool {
        self.0.own.as_ref().is_some_and(|own| own.used() == 0)
    }

    fn is_tight(&self) -> bool {
        let UserInner { credit, own, .. } = &*self.0;
        credit.all.is_tight() || own.as_ref().is_some_and(|own| own.is_tight() || credit.others.is_tight())
    }

    fn add(&self, bytes: usize) {
        let UserInner { number, credit, own } = &*self.0;
        let is_own_loosened = own.as_ref().is_some_and(|own| own.add(bytes));
        let is_loosened = own.is_some() && credit.others.add(bytes);
        if credit.all.add(bytes) || is_loosened {
            credit.call_back(|wake| wake.everybody());
        } else if is_own_loosened {
            credit.call_back(|wake| wake.user(*number));
        }
    }

    fn take_back(&self, bytes: usize) {
        let UserInner { number, credit, own } = &*self.0;
        let is_own_loosened = own.as_ref().is_some_and(|own| own.take_back(bytes));
        let is_loosened = own.is_some() && credit.others.take_back(bytes);
        if credit.all.take_back(bytes) || is_loosened {
            credit.call_back(|wake| wake.everybody());
        } else if is_own_loosened {
            credit.call_back(|wake| wake.user(*number));
        }
    }
}

impl Account {
    /// An account of the owner of its own, for calls that nobody else sees.
    pub fn alone(client: ClientId) -> Account {
        Account::alone_of(OWNER_NUMBER, client)
    }

    /// An account of a user of its own, for calls that nobody else sees.
    pub(crate) fn alone_of(user: UserNumber, client: ClientId) -> Account {
        struct Nobody;
        impl Wake for Nobody {
            fn client(&self, _: ClientId) {}
            fn user(&self, _: UserNumber) {}
            fn everybody(&self) {}
        }
        Credit::new(Weak::<Nobody>::new()).user(user).open(client)
    }

    /// Whose client it is.
    pub fn user(&self) -> UserNumber {
        self.0.user.number()
    }

    /// True while all that may be charged to clients together is, or to those of this user: then only small replies are made for it.
    pub(crate) fn is_tight(&self) -> bool {
        self.0.user.is_tight()
    }

    /// Bytes of replies charged now, without refusals.
    pub fn owes(&self) -> usize {
        self.0.replies.load(Ordering::SeqCst)
    }

    /// Its connection has ended: nobody reads what is made for it from now on.
    pub fn give_up(&self) {
        self.0.is_gone.store(true, Ordering::Relaxed);
    }

    /// True once [`Account::give_up`] was called.
    pub fn is_gone(&self) -> bool {
        self.0.is_gone.load(Ordering::Relaxed)
    }

    /// True if nothing at all is charged.
    pub fn is_clear(&self) -> bool {
        self.owes() == 0 && self.0.refusals.load(Ordering::SeqCst) == 0
    }

    fn has_credit(&self) -> bool {
        let max = if self.is_tight() { limits::SMALL_CREDIT_BYTES } else { limits::REPLY_CREDIT_BYTES };
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
        let is_tight = self.is_tight();
        let max = if is_tight { limits::SMALL_CREDIT_BYTES } else { limits::REFUSAL_BYTES_MAX };
        let fits = unread + bytes <= max || (unread == 0 && !is_tight);
        fits.then(|| self.new_charge(Kind::Refusal, bytes))
    }

    fn new_charge(&self, kind: Kind, bytes: usize) -> Charge {
        self.counter(kind).fetch_add(bytes, Ordering::SeqCst);
        self.0.user.add(bytes);
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
        self.0.user.take_back(bytes);
        if self.0.waits.load(Ordering::SeqCst) && self.has_credit() && self.0.waits.swap(false, Ordering::SeqCst) {
            self.0.user.0.credit.call_back(|wake| wake.client(self.0.client));
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
            self.account.0.user.add(bytes - self.bytes);
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
