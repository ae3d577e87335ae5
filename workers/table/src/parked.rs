//! Calls for `events` that have found nothing yet: parked until something changes that they asked for, or their time is up.
//!
//! - A parked call has seen all there was: whoever changes a key tells which one ([`Parked::changed`]), and that wakes those who wait for
//!   it. So nobody is looked after that need not be, and a woken call begins at the very revision that woke it.
//! - Woken calls go back to the agenda and are decided like others: shares of work, credit for replies and the access of the user hold
//!   for them as they are *then*. Nothing is answered from here.
//! - A call that a client sends again under the same id takes the place of the one that waits.
//! - Bounded in calls for each client, and in calls and bytes for each user other than the owner and for all together. Beyond a bound
//!   nothing waits: `busy`.
//! - Those who wait for a key are found by a [`PrefixIndex`]: what that costs does not depend on how many wait for others.
//!
//! Caveat: nobody tells of a connection that has ended. What it left behind is answered into the void when its time is up, a minute
//! later at most, and takes its place in the bounds until then.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kvbroker_protocol::{Access, ErrorCode, Events, Failure, Operation, Operations, limits};

use crate::access_book::{AccessBook, OWNER};
use crate::call::{Call, ClientId};
use crate::prefix_index::PrefixIndex;

/// Waiters are found by so many bytes of their prefixes at most; the rest is compared, so that long prefixes are not held twice.
const INDEXED_BYTES: usize = 256;
/// Rough bytes of a waiter beside its call, and of each place where it is found beside the prefix.
const WAITER_BYTES: usize = size_of::<Waiter>() + 256;
const PLACE_BYTES: usize = 192;

/// The order in which they were parked.
type Ticket = u64;

#[derive(Debug)]
struct Waiter {
    call: Call,
    /// What its user could do when it was parked.
    access: Access,
    /// When its time is up, by the boot clock, microseconds.
    until_us: u64,
    bytes: usize,
}

/// What a client or user has parked.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    calls: usize,
    bytes: usize,
}

/// The parked calls of all clients; of one worker.
#[derive(Debug, Default)]
pub struct Parked {
    waiters: BTreeMap<Ticket, Waiter>,
    /// By the prefixes of which a key must have one to be theirs, cut to [`INDEXED_BYTES`].
    by_prefix: PrefixIndex<Ticket>,
    by_time: BTreeSet<(u64, Ticket)>,
    by_id: HashMap<(ClientId, u64), Ticket>,
    clients: HashMap<ClientId, usize>,
    users: HashMap<Arc<str>, Share>,
    bytes: usize,
    last_ticket: Ticket,
    /// Taken out, to be decided again; with the end of its time.
    woken: Vec<(Call, u64)>,
    /// Of the access book, when all waiters were last compared with it.
    generation: u64,
}

/// What a call asks for; None if it is another one.
pub(crate) fn asked(call: &Call) -> Option<&Events> {
    match &call.request.operations {
        Operations::One(Operation::Events(events)) => Some(events),
        _ => None,
    }
}

fn asked_mut(call: &mut Call) -> Option<&mut Events> {
    match &mut call.request.operations {
        Operations::One(Operation::Events(events)) => Some(events),
        _ => None,
    }
}

impl Waiter {
    fn prefix(&self) -> &[u8] {
        asked(&self.call).map_or(&[], |events| &events.prefix)
    }

    /// Where it is found; each once.
    fn places(&self) -> BTreeSet<&[u8]> {
        let own = self.access.scope.below(self.prefix());
        own.map(|prefix| prefix.get(..INDEXED_BYTES).unwrap_or(prefix)).collect()
    }

    fn waits_for(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix()) && self.access.scope.contains(key)
    }
}

impl Parked {
    /// True if nobody waits, and nobody was woken.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty() && self.woken.is_empty()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Parks a call that has seen all changes up to a revision. Gives the one whose place it takes, if the same client sent it under
    /// the same id before.
    ///
    /// # Errors
    /// The call, with `busy`, if there is no room.
    pub(crate) fn park(
        &mut self,
        mut call: Call,
        access: Access,
        through: u64,
        now_us: u64,
    ) -> Result<Option<Call>, (Box<Call>, Failure)> {
        let Some(events) = asked_mut(&mut call) else {
            return Err((Box::new(call), Failure::new(ErrorCode::Internal, "only `events` waits for changes")));
        };
        events.after = Some(through);
        // It was counted, and the call will be decided again.
        events.lost = 0;
        let wait_ms = events.wait_ms;
        let mut waiter = Waiter { call, access, until_us: now_us.saturating_add(wait_ms.saturating_mul(1_000)), bytes: 0 };
        let places: usize = waiter.places().iter().map(|place| place.len() + PLACE_BYTES).sum();
        waiter.bytes = waiter.call.bytes + WAITER_BYTES + places;
        let id = waiter.call.request.header.id.map(|id| (waiter.call.client, id));
        let earlier = id.and_then(|id| self.by_id.get(&id).copied()).and_then(|ticket| self.take_out(ticket));
        if let Some(failure) = self.too_much(&waiter) {
            earlier.into_iter().for_each(|earlier| self.put_in(earlier));
            return Err((Box::new(waiter.call), failure));
        }
        self.put_in(waiter);
        Ok(earlier.map(|earlier| earlier.call))
    }

    fn too_much(&self, waiter: &Waiter) -> Option<Failure> {
        let Call { client, user, .. } = &waiter.call;
        let of_client = self.clients.get(client).copied().unwrap_or_default();
        let of_user = self.users.get(user).copied().unwrap_or_default();
        let is_owner = **user == *OWNER;
        let what = if of_client >= limits::PARKED_PER_CLIENT_MAX {
            format!("this client has {of_client} requests that wait for changes, which is the most")
        } else if !is_owner
            && (of_user.calls >= limits::PARKED_PER_USER_MAX || of_user.bytes + waiter.bytes > limits::PARKED_USER_BYTES_MAX)
        {
            format!("{} requests of this key wait for changes, and more are not taken", of_user.calls)
        } else if self.waiters.len() >= limits::PARKED_MAX || self.bytes + waiter.bytes > limits::PARKED_BYTES_MAX {
            format!("{} requests of all clients wait for changes, and more are not taken", self.waiters.len())
        } else {
            return None;
        };
        Some(Failure::busy(format!("{what}; ask without `wait`, or try again later"), limits::RETRY_AFTER_MS))
    }

    fn put_in(&mut self, waiter: Waiter) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        for place in waiter.places() {
            self.by_prefix.insert(place, ticket);
        }
        self.by_time.insert((waiter.until_us, ticket));
        if let Some(id) = waiter.call.request.header.id {
            self.by_id.insert((waiter.call.client, id), ticket);
        }
        *self.clients.entry(waiter.call.client).or_default() += 1;
        let user = self.users.entry(waiter.call.user.clone()).or_default();
        user.calls += 1;
        user.bytes += waiter.bytes;
        self.bytes += waiter.bytes;
        self.waiters.insert(ticket, waiter);
    }

    fn take_out(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        for place in waiter.places() {
            self.by_prefix.remove(place, ticket);
        }
        let Call { client, user, request, .. } = &waiter.call;
        self.by_time.remove(&(waiter.until_us, ticket));
        if let Some(id) = request.header.id {
            self.by_id.remove(&(*client, id));
        }
        if let Some(calls) = self.clients.get_mut(client) {
            *calls -= 1;
            if *calls == 0 {
                self.clients.remove(client);
            }
        }
        if let Some(share) = self.users.get_mut(user) {
            share.calls -= 1;
            share.bytes -= waiter.bytes;
            if share.calls == 0 {
                self.users.remove(user);
            }
        }
        self.bytes -= waiter.bytes;
        Some(waiter)
    }

    /// Wakes those who wait for this key, which the revision has changed.
    pub(crate) fn changed(&mut self, key: &[u8], revision: u64) {
        let found = self.by_prefix.find(key);
        let found: Vec<Ticket> =
            found.filter(|ticket| self.waiters.get(ticket).is_some_and(|waiter| waiter.waits_for(key))).collect();
        for ticket in found {
            // All before it has been seen.
            self.wake(ticket, Some(revision.saturating_sub(1)));
        }
    }

    fn wake(&mut self, ticket: Ticket, after: Option<u64>) {
        let Some(mut waiter) = self.take_out(ticket) else { return };
        if let (Some(events), Some(after)) = (asked_mut(&mut waiter.call), after) {
            events.after = Some(after);
        }
        self.woken.push((waiter.call, waiter.until_us));
    }

    /// Wakes those whose user may do something else now than when they were parked.
    pub(crate) fn look_at(&mut self, book: &AccessBook) {
        // Before the book itself: what is read there is of this generation or a later one.
        let generation = book.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        let is_other = |waiter: &Waiter| book.of(&waiter.call.user).as_ref() != Some(&waiter.access);
        let found: Vec<Ticket> = self.waiters.iter().filter(|(_, waiter)| is_other(waiter)).map(|(ticket, _)| *ticket).collect();
        // What it has seen, it has seen by its access then: with more keys it may have to look again.
        found.into_iter().for_each(|ticket| self.wake(ticket, None));
    }

    /// Wakes those whose time is up; the table is at this revision, and nothing up to it was for them.
    pub(crate) fn time_is(&mut self, now_us: u64, revision: u64) {
        while let Some((_, ticket)) = self.by_time.first().copied().filter(|(until_us, _)| *until_us <= now_us) {
            self.wake(ticket, Some(revision));
        }
    }

    /// When somebody's time is up next, by the boot clock, microseconds.
    pub(crate) fn next_us(&self) -> Option<u64> {
        self.by_time.first().map(|(until_us, _)| *until_us)
    }

    /// Those that were woken, each with what is left of its time.
    pub(crate) fn woken(&mut self, now_us: u64) -> impl Iterator<Item = Call> {
        self.woken.drain(..).map(move |(mut call, until_us)| {
            if let Some(events) = asked_mut(&mut call) {
                events.wait_ms = until_us.saturating_sub(now_us).div_ceil(1_000);
            }
            call
        })
    }

    /// All of them, at the end.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = Call> + use<> {
        let Parked { waiters, woken, .. } = std::mem::take(self);
        woken.into_iter().map(|(call, _)| call).chain(waiters.into_values().map(|waiter| waiter.call))
    }
}

#[cfg(test)]
#[path = "parked_tests.rs"]
mod tests;
