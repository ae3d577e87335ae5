//! Calls for `events`, pulls from queues, and questions how an item gets on, that have found nothing yet: parked until there is something
//! for them, or their time is up.
//!
//! - A parked call has seen all there was: whoever changes a key tells which one ([`Parked::changed`]), and that wakes those who wait for
//!   it. So nobody is looked after that need not be, and a woken call begins at the very revision that woke it.
//! - Woken calls go back to the agenda and are decided like others: shares of work, credit for replies and the access of the user hold
//!   for them as they are *then*. Nothing is answered from here.
//! - A call that a client sends again under the same id takes the place of the one that waits.
//! - Bounded in calls for each client, and in calls and bytes for each user other than the owner and for all together. Beyond a bound
//!   nothing waits: `busy`.
//! - Those who wait for a queue's items stand in line: as many are woken as there are items, whoever came first. Who has got an item and comes
//!   back stands at the end, so that all have their turn. Who was woken and finds nothing left stands at the end as well.
//! - Those who wait for a key are found by a [`PrefixIndex`]: what that costs does not depend on how many wait for others.
//! - What a client that is gone has left behind is put out as soon as somebody else needs the room: its account says so.
//!
//! Caveat: nobody tells of a connection that has ended. What it left behind is answered into the void when its time is up, a minute
//! later at most. A pull that it left is never given an item once its account says that the client is gone; before that, the item comes back
//! when its lease ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kvbroker_protocol::{Access, ErrorCode, Events, Failure, ItemId, Key, Operation, Operations, Pull, QueueOperation, limits};

use crate::access_book::{AccessBook, OWNER};
use crate::call::{Call, ClientId};
use crate::prefix_index::PrefixIndex;

/// Waiters are found by so many bytes of their prefixes at most; the rest is compared, so that long prefixes are not held twice.
const INDEXED_BYTES: usize = 256;
/// Rough bytes of a waiter beside its call, and of each place where it is found beside the prefix.
const WAITER_BYTES: usize = size_of::<Waiter>() + 256;
const PLACE_BYTES: usize = 192;

/// All are looked through for clients that are gone no more often than this, microseconds.
const SWEEP_US: u64 = 1_000_000;

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
    /// Pulls, in line.
    by_queue: BTreeMap<Key, BTreeSet<Ticket>>,
    /// Those who wait for an item to get on.
    by_item: BTreeMap<ItemId, BTreeSet<Ticket>>,
    /// Queues that somebody waits for, and that may have something now.
    touched: BTreeSet<Key>,
    by_time: BTreeSet<(u64, Ticket)>,
    by_id: HashMap<(ClientId, u64), Ticket>,
    clients: HashMap<ClientId, usize>,
    users: HashMap<Arc<str>, Share>,
    bytes: usize,
    last_ticket: Ticket,
    /// Taken out, to be decided again; with the end of its time.
    woken: Vec<(Call, u64)>,
    /// When those of clients that are gone were last put out, by the boot clock, microseconds.
    swept_us: u64,
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

/// What a call asks of a queue, if it is that alone.
pub(crate) fn asked_of_queue(call: &Call) -> Option<&QueueOperation> {
    match &call.request.operations {
        Operations::One(Operation::Queue(queue)) => Some(queue),
        Operations::One(Operation::Converted(converted)) => converted.queue(),
        _ => None,
    }
}

/// What a call wants from a queue, if it is a pull that may wait.
pub(crate) fn pulled(call: &Call) -> Option<&Pull> {
    match asked_of_queue(call) {
        Some(QueueOperation::Pull(pull)) => Some(pull),
        _ => None,
    }
}

/// The item for which a call may wait.
fn tracked(call: &Call) -> Option<ItemId> {
    match asked_of_queue(call) {
        Some(QueueOperation::Track { item, .. }) => Some(*item),
        _ => None,
    }
}

/// How long a call may wait.
fn wait_mut(call: &mut Call) -> Option<&mut u64> {
    let Operations::One(operation) = &mut call.request.operations else { return None };
    let operation = match operation {
        Operation::Converted(converted) => &mut converted.operation,
        plain => plain,
    };
    match operation {
        Operation::Events(events) => Some(&mut events.wait_ms),
        Operation::Queue(queue) => match queue.as_mut() {
            QueueOperation::Pull(pull) => Some(&mut pull.wait_ms),
            QueueOperation::Track { wait_ms, .. } => Some(wait_ms),
            _ => None,
        },
        _ => None,
    }
}

/// With what is left of its time.
fn with_rest(mut call: Call, until_us: u64, now_us: u64) -> Call {
    if let Some(wait_ms) = wait_mut(&mut call) {
        *wait_ms = until_us.saturating_sub(now_us).div_ceil(1_000);
    }
    call
}

impl Waiter {
    fn prefix(&self) -> &[u8] {
        asked(&self.call).map_or(&[], |events| &events.prefix)
    }

    /// Where it is found; each once.
    fn places(&self) -> BTreeSet<&[u8]> {
        if asked(&self.call).is_none() {
            return BTreeSet::new();
        }
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

    /// How many pulls wait for a queue's items.
    pub(crate) fn pulls_of(&self, queue: &[u8]) -> usize {
        self.by_queue.get(queue).map_or(0, BTreeSet::len)
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
        if let Some(events) = asked_mut(&mut call) {
            events.after = Some(through);
            // It was counted, and the call will be decided again.
            events.lost = 0;
        }
        let Some(wait_ms) = wait_mut(&mut call).copied() else {
            return Err((Box::new(call), Failure::new(ErrorCode::Internal, "this operation never waits")));
        };
        let mut waiter = Waiter { call, access, until_us: now_us.saturating_add(wait_ms.saturating_mul(1_000)), bytes: 0 };
        let places: usize = waiter.places().iter().map(|place| place.len() + PLACE_BYTES).sum();
        waiter.bytes = waiter.call.bytes + WAITER_BYTES + places;
        let id = waiter.call.request.header.id.map(|id| (waiter.call.client, id));
        let earlier = id.and_then(|id| self.by_id.get(&id).copied()).and_then(|ticket| self.take_out(ticket));
        if self.too_much(&waiter).is_some() && now_us >= self.swept_us.saturating_add(SWEEP_US) {
            self.swept_us = now_us;
            self.sweep();
        }
        if let Some(failure) = self.too_much(&waiter) {
            earlier.into_iter().for_each(|earlier| self.put_in(earlier));
            return Err((Box::new(waiter.call), failure));
        }
        self.put_in(waiter);
        Ok(earlier.map(|earlier| earlier.call))
    }

    /// Wakes those whose clients are gone: they are answered into the void.
    fn sweep(&mut self) {
        let is_gone = |(ticket, waiter): (&Ticket, &Waiter)| waiter.call.account.is_gone().then_some(*ticket);
        let gone: Vec<Ticket> = self.waiters.iter().filter_map(is_gone).collect();
        gone.into_iter().for_each(|ticket| self.wake(ticket, None));
    }

    fn too_much(&self, waiter: &Waiter) -> Option<Failure> {
        let Call { client, user, .. } = &waiter.call;
        let of_client = self.clients.get(client).copied().unwrap_or_default();
        let of_user = self.users.get(user).copied().unwrap_or_default();
        let is_owner = **user == *OWNER;
        let what = if of_client >= limits::PARKED_PER_CLIENT_MAX {
            format!("this client has {of_client} requests that wait, which is the most")
        } else if !is_owner
            && (of_user.calls >= limits::PARKED_PER_USER_MAX || of_user.bytes + waiter.bytes > limits::PARKED_USER_BYTES_MAX)
        {
            format!("{} requests of this key wait, and more are not taken", of_user.calls)
        } else if self.waiters.len() >= limits::PARKED_MAX || self.bytes + waiter.bytes > limits::PARKED_BYTES_MAX {
            format!("{} requests of all clients wait, and more are not taken", self.waiters.len())
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
        if let Some(pull) = pulled(&waiter.call) {
            self.by_queue.entry(pull.queue.clone()).or_default().insert(ticket);
        }
        if let Some(item) = tracked(&waiter.call) {
            self.by_item.entry(item).or_default().insert(ticket);
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
        if let Some(pull) = pulled(&waiter.call)
            && let Some(line) = self.by_queue.get_mut(&pull.queue)
        {
            line.remove(&ticket);
            if line.is_empty() {
                self.by_queue.remove(&pull.queue);
            }
        }
        if let Some(item) = tracked(&waiter.call)
            && let Some(waiting) = self.by_item.get_mut(&item)
        {
            waiting.remove(&ticket);
            if waiting.is_empty() {
                self.by_item.remove(&item);
            }
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

    /// Wakes those who wait for an item, which has got on.
    pub(crate) fn item_changed(&mut self, item: ItemId) {
        if self.by_item.is_empty() {
            return;
        }
        let found: Vec<Ticket> = self.by_item.get(&item).into_iter().flatten().copied().collect();
        found.into_iter().for_each(|ticket| self.wake(ticket, None));
    }

    /// A queue may have something for those who wait for it.
    pub(crate) fn touch(&mut self, queue: &[u8]) {
        if !self.by_queue.is_empty() && self.by_queue.contains_key(queue) && !self.touched.contains(queue) {
            self.touched.insert(queue.to_vec());
        }
    }

    /// True if a queue that somebody waits for may have something.
    pub(crate) fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Wakes as many of those who wait for a queue that was touched as it has items.
    pub(crate) fn serve(&mut self, ready: impl Fn(&[u8]) -> usize) {
        for queue in std::mem::take(&mut self.touched) {
            let first: Vec<Ticket> = self.by_queue.get(&queue).into_iter().flatten().take(ready(&queue)).copied().collect();
            first.into_iter().for_each(|ticket| self.wake(ticket, None));
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
        self.woken.drain(..).map(move |(call, until_us)| with_rest(call, until_us, now_us))
    }

    /// The pulls among them.
    pub(crate) fn woken_pulls(&mut self, now_us: u64) -> impl Iterator<Item = Call> {
        let woken = self.woken.extract_if(.., |(call, _)| pulled(call).is_some());
        woken.map(move |(call, until_us)| with_rest(call, until_us, now_us))
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
