//! What the worker does next: the calls that it has taken from the intake, each client's in a queue of its own.
//!
//! - The calls of one client run in the order in which they came, always.
//! - Clients take turns. A client that has had its share ([`limits::CLIENT_WORK_AT_ONCE`]) goes behind the others; one that took
//!   more than its share waits until the others have had as much. Whether a client sends arrays of thousands or single calls, a
//!   hundred at a time or one after the other: it gets as much of the worker as the others, and no less.
//! - Dear calls, which may cost more than [`limits::DEAR_WORK_MIN`], are kept apart: a turn of the worker is either for cheap calls
//!   or for dear ones, alternately while there are both. So a cheap call waits for at most one dear turn, its own turn and one sync
//!   each, however many dear calls wait; and a dear one for at most one cheap turn between those of its kind.
//! - A dear turn ends with the read that brought it over [`limits::DEAR_WORK_MIN`]. Dear writes go on to share a sync until the
//!   turn has cost [`limits::BATCH_WORK_MAX`], which also ends a cheap turn.
//! - A client that has not read its replies, and is [without credit](crate::credit), is *held*: it takes no part in the rounds until
//!   credit comes back, and then goes on where it was. What is held is bounded, and leaves most of the intake to the others; what is
//!   over the bound is refused, the calls that came last first.
//! - What a call cost is only known once it ran: the worker tells it with [`Agenda::spend`].
//! - Everything is O(1) for each call, debts included, as each share that is waited for was used before.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvbroker_protocol::{Operation, limits};

use crate::call::{Call, ClientId};
use crate::work;

/// A client's share of one round.
const SHARE: i64 = limits::CLIENT_WORK_AT_ONCE as i64;

/// What waits altogether, in the intake and in the agenda; shared by both for the intake's bounds.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    calls: AtomicUsize,
    bytes: AtomicUsize,
    /// Clients that are held.
    held: AtomicUsize,
}

impl Waiting {
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// True if there is room for a call of so many bytes.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.calls() < limits::INTAKE_CALLS_MAX && self.bytes.load(Ordering::Relaxed) + bytes <= limits::INTAKE_BYTES_MAX
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One client's calls, without the first: that one stands in one of the two rounds, or is held.
#[derive(Debug)]
struct Lane {
    behind: VecDeque<Call>,
    /// Bytes of these.
    bytes: usize,
    /// What it may still spend before the others have their turn; below zero it waits for them.
    share: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cheap,
    Dear,
}

/// The calls that wait for the worker, and whose turn it is.
#[derive(Debug)]
pub struct Agenda {
    /// Taken from the intake and not sorted in.
    arrived: VecDeque<Call>,
    /// Were taken once, and are back: before what has arrived since.
    readmitted: VecDeque<Call>,
    /// All clients that have a call.
    lanes: HashMap<ClientId, Lane>,
    /// The first calls of clients, in the order of their turns.
    cheap: VecDeque<Call>,
    dear: VecDeque<Call>,
    /// The first calls of clients without credit, and how much waits with them.
    held: HashMap<ClientId, Call>,
    held_calls: usize,
    held_bytes: usize,
    /// Those for which there is no room.
    refused: Vec<Call>,
    /// Whose credit has come back.
    back: Back,
    waiting: Arc<Waiting>,
    turn: Turn,
}

/// Whose credit has come back.
#[derive(Debug, Default)]
pub(crate) struct Back {
    pub(crate) clients: Vec<ClientId>,
    pub(crate) everybody: bool,
}

impl Back {
    pub(crate) fn is_nobody(&self) -> bool {
        self.clients.is_empty() && !self.everybody
    }
}

/// The worker's turn: one batch.
#[derive(Debug)]
struct Turn {
    kind: Kind,
    /// Only one client has anything: nobody has to be kept from waiting, and its calls run as they came.
    alone: bool,
    calls: usize,
    bytes: usize,
    spent: usize,
    /// Whose call was given last, and of which kind.
    last: Option<(ClientId, Kind)>,
    /// The last dear call may change something.
    mutates: bool,
}

impl Turn {
    fn new(kind: Kind, alone: bool) -> Turn {
        Turn { kind, alone, calls: 0, bytes: 0, spent: 0, last: None, mutates: false }
    }

    fn has_room(&self, bytes: usize) -> bool {
        let dear = self.last.is_some_and(|(_, kind)| kind == Kind::Dear);
        let work_max = if dear && !self.mutates { limits::DEAR_WORK_MIN } else { limits::BATCH_WORK_MAX };
        // One call always fits.
        self.calls == 0
            || (self.spent < work_max && self.calls < limits::BATCH_CALLS_MAX && self.bytes + bytes <= limits::BATCH_BYTES_MAX)
    }
}

impl Agenda {
    pub(crate) fn new(waiting: Arc<Waiting>) -> Agenda {
        Agenda {
            arrived: VecDeque::new(),
            readmitted: VecDeque::new(),
            lanes: HashMap::new(),
            cheap: VecDeque::new(),
            dear: VecDeque::new(),
            held: HashMap::new(),
            held_calls: 0,
            held_bytes: 0,
            refused: Vec::new(),
            back: Back::default(),
            waiting,
            turn: Turn::new(Kind::Cheap, true),
        }
    }

    /// True when nothing is here that could run.
    pub fn is_empty(&self) -> bool {
        let has_new = !self.arrived.is_empty() || !self.readmitted.is_empty();
        !has_new && self.cheap.is_empty() && self.dear.is_empty() && self.refused.is_empty()
    }

    /// The calls that are not taken after all, for want of room; to be answered `busy`.
    pub(crate) fn refused(&mut self) -> std::vec::Drain<'_, Call> {
        self.refused.drain(..)
    }

    /// The calls that are still held when the broker stops.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = Call> + '_ {
        self.held_calls = 0;
        self.held_bytes = 0;
        let (lanes, waiting) = (&mut self.lanes, &self.waiting);
        self.held.drain().flat_map(move |(client, first)| {
            waiting.held.fetch_sub(1, Ordering::Relaxed);
            let behind = lanes.remove(&client).map(|lane| lane.behind).unwrap_or_default();
            std::iter::once(first).chain(behind).inspect(|call| waiting.remove(call.bytes))
        })
    }

    /// Where the intake puts the news of credit.
    pub(crate) fn back(&mut self) -> &mut Back {
        &mut self.back
    }

    /// Where the intake puts what has arrived.
    pub(crate) fn arrived(&mut self) -> &mut VecDeque<Call> {
        &mut self.arrived
    }

    /// Takes a call back that was taken out and could not be answered then. There is room for it: what can be taken back is bounded
    /// where it waits.
    pub(crate) fn readmit(&mut self, call: Call) {
        self.waiting.add(call.bytes);
        self.readmitted.push_back(call);
    }

    /// Sorts in what has arrived and begins the next turn.
    pub(crate) fn begin(&mut self) {
        while let Some(call) = self.readmitted.pop_front().or_else(|| self.arrived.pop_front()) {
            match self.lanes.entry(call.client) {
                Entry::Occupied(lane) => {
                    let (client, bytes) = (call.client, call.bytes);
                    let lane = lane.into_mut();
                    lane.behind.push_back(call);
                    lane.bytes += bytes;
                    if self.held.contains_key(&client) {
                        self.held_calls += 1;
                        self.held_bytes += bytes;
                        self.trim(client);
                    }
                }
                Entry::Vacant(place) => {
                    place.insert(Lane { behind: VecDeque::new(), bytes: 0, share: SHARE });
                    self.line_up(call);
                }
            }
        }
        let Back { clients, everybody } = std::mem::take(&mut self.back);
        let back = if everybody { self.held.keys().copied().collect() } else { clients };
        back.into_iter().for_each(|client| self.let_go(client));
        let kind = match (self.cheap.is_empty(), self.dear.is_empty(), self.turn.kind) {
            (_, true, _) | (false, false, Kind::Dear) => Kind::Cheap,
            (true, false, _) | (false, false, Kind::Cheap) => Kind::Dear,
        };
        self.turn = Turn::new(kind, self.lanes.len() - self.held.len() == 1);
    }

    /// The next call of this turn; None when the turn is over. What it cost is to be told before the next one is asked for.
    pub fn take(&mut self) -> Option<Call> {
        let kind = match self.turn.kind {
            Kind::Cheap if self.cheap.is_empty() && self.turn.alone => Kind::Dear,
            Kind::Dear if self.dear.is_empty() && self.turn.alone => Kind::Cheap,
            kind => kind,
        };
        let call = match kind {
            Kind::Cheap => self.next_cheap()?,
            Kind::Dear => self.next_dear()?,
        };
        self.waiting.remove(call.bytes);
        self.turn.calls += 1;
        self.turn.bytes += call.bytes;
        self.turn.last = Some((call.client, kind));
        Some(call)
    }

    fn line_up(&mut self, call: Call) {
        match kind_of(&call) {
            Kind::Cheap => self.cheap.push_back(call),
            Kind::Dear => self.dear.push_back(call),
        }
    }

    /// Takes a client out of the rounds; its first call comes with it.
    fn hold(&mut self, first: Call) {
        let client = first.client;
        let (calls, bytes) = self.lanes.get(&client).map_or((0, 0), |lane| (lane.behind.len(), lane.bytes));
        self.held_calls += 1 + calls;
        self.held_bytes += first.bytes + bytes;
        self.held.insert(client, first);
        self.waiting.held.fetch_add(1, Ordering::Relaxed);
        self.trim(client);
    }

    /// Puts a client back into the rounds if it has credit now; it may have used it up again, or all clients together have.
    fn let_go(&mut self, client: ClientId) {
        if self.held.get(&client).is_none_or(|first| !first.account.may_be_answered()) {
            return;
        }
        if let Some(first) = self.unhold(client) {
            self.line_up(first);
        }
    }

    fn unhold(&mut self, client: ClientId) -> Option<Call> {
        let first = self.held.remove(&client)?;
        let (calls, bytes) = self.lanes.get(&client).map_or((0, 0), |lane| (lane.behind.len(), lane.bytes));
        self.held_calls -= 1 + calls;
        self.held_bytes -= first.bytes + bytes;
        self.waiting.held.fetch_sub(1, Ordering::Relaxed);
        Some(first)
    }

    /// Refuses what this client can't have held. It may have as much as is left for the others, as in the intake.
    fn trim(&mut self, client: ClientId) {
        let (Some(first_bytes), Some(lane)) = (self.held.get(&client).map(|first| first.bytes), self.lanes.get_mut(&client))
        else {
            return;
        };
        let is_over = |lane: &Lane, held_calls: usize, held_bytes: usize| {
            1 + lane.behind.len() > limits::HELD_CALLS_MAX.saturating_sub(held_calls)
                || first_bytes + lane.bytes > limits::HELD_BYTES_MAX.saturating_sub(held_bytes)
        };
        while is_over(lane, self.held_calls, self.held_bytes)
            && let Some(last) = lane.behind.pop_back()
        {
            lane.bytes -= last.bytes;
            self.held_calls -= 1;
            self.held_bytes -= last.bytes;
            self.waiting.remove(last.bytes);
            self.refused.push(last);
        }
        let is_alone_too_large = first_bytes > limits::HELD_SMALL_BYTES && is_over(lane, self.held_calls, self.held_bytes);
        if is_alone_too_large && let Some(first) = self.unhold(client) {
            self.lanes.remove(&client);
            self.waiting.remove(first.bytes);
            self.refused.push(first);
        }
    }

    fn next_cheap(&mut self) -> Option<Call> {
        loop {
            let call = self.first_cheap()?;
            if call.account.may_be_answered() {
                self.follow(call.client, Kind::Cheap);
                return Some(call);
            }
            self.hold(call);
        }
    }

    fn first_cheap(&mut self) -> Option<Call> {
        if !self.turn.has_room(self.cheap.front()?.bytes) {
            return None;
        }
        // Whoever is in debt lets the others go first; each time round, a share of it is forgiven.
        while let Some(lane) = self.cheap.front().and_then(|call| self.lanes.get_mut(&call.client)) {
            if lane.share > 0 {
                break;
            }
            lane.share += SHARE;
            self.cheap.rotate_left(1);
        }
        if !self.turn.has_room(self.cheap.front()?.bytes) {
            return None;
        }
        self.cheap.pop_front()
    }

    fn next_dear(&mut self) -> Option<Call> {
        let call = loop {
            if !self.turn.has_room(self.dear.front()?.bytes) {
                return None;
            }
            let call = self.dear.pop_front()?;
            if call.account.may_be_answered() {
                break call;
            }
            self.hold(call);
        };
        self.turn.mutates = call.request.operations.as_slice().iter().any(Operation::is_mutation);
        self.follow(call.client, Kind::Dear);
        Some(call)
    }

    /// Puts the client's next call where its kind belongs; a client without any is forgotten, with its debt.
    fn follow(&mut self, client: ClientId, before: Kind) {
        let Entry::Occupied(mut lane) = self.lanes.entry(client) else { return };
        let Some(call) = lane.get_mut().behind.pop_front() else {
            lane.remove();
            return;
        };
        let lane = lane.get_mut();
        lane.bytes -= call.bytes;
        match (before, kind_of(&call)) {
            // It goes on until its share is used up.
            (Kind::Cheap, Kind::Cheap) => self.cheap.push_front(call),
            (Kind::Dear, Kind::Cheap) => self.cheap.push_back(call),
            (_, Kind::Dear) => self.dear.push_back(call),
        }
    }

    /// Counts what the call that was given last has cost.
    pub fn spend(&mut self, units: usize) {
        self.turn.spent = self.turn.spent.saturating_add(units);
        // Dear calls take turns one by one, whatever they cost.
        if let Some((client, Kind::Cheap)) = self.turn.last
            && let Some(lane) = self.lanes.get_mut(&client)
        {
            lane.share = lane.share.saturating_sub(i64::try_from(units).unwrap_or(i64::MAX));
        }
    }
}

fn kind_of(call: &Call) -> Kind {
    if work::guess(&call.request, call.bytes) < limits::DEAR_WORK_MIN { Kind::Cheap } else { Kind::Dear }
}

#[cfg(test)]
#[path = "agenda_tests.rs"]
mod tests;
