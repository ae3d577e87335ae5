//! What the worker does next: the calls that it has taken from the intake, each client's in a queue of its own.
//!
//! - The calls of one client run in the order in which they came, always.
//! - Users take turns, and the clients of a user inside its turn. A client that has had its share ([`limits::CLIENT_WORK_AT_ONCE`]) goes behind the others; one that took
//!   more than its share waits until the others have had as much. Whether a client sends arrays of thousands or single calls, a
//!   hundred at a time or one after the other: it gets as much of the worker as the others, and no less. The same holds for users:
//!   however many connections one has, it gets no more than another with one.
//! - Dear calls, which may cost more than [`limits::DEAR_WORK_MIN`], are kept apart: a turn of the worker is either for cheap calls
//!   or for dear ones, alternately while there are both. So a cheap call waits for at most one dear turn, its own turn and one sync
//!   each, however many dear calls wait; and a dear one for at most one cheap turn between those of its kind.
//! - A dear turn ends with the read that brought it over [`limits::DEAR_WORK_MIN`]. Dear writes go on to share a sync until the
//!   turn has cost [`limits::BATCH_WORK_MAX`], which also ends a cheap turn.
//!   Either ends when users other than the owner have had [`limits::OTHERS_WORK_MAX`] of it: whoever comes meanwhile waits for its end.
//! - A client that has not read its replies, and is [without credit](crate::credit), is *held*: it takes no part in the rounds until
//!   credit comes back, and then goes on where it was. What is held is bounded, and leaves most of the intake to the others; what is
//!   over the bound is refused, the calls that came last first. One user other than the owner has as much held as is left for the
//!   others, whatever the number of its clients.
//! - What a call cost is only known once it ran: the worker tells it with [`Agenda::spend`].
//! - Everything is O(1) for each call, debts included, as each share that is waited for was used before.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvbroker_protocol::{Operation, limits};

use crate::agenda_users::{Place, User, Users};
use crate::call::{Call, ClientId};
use crate::credit::{OWNER_NUMBER, UserNumber};
use crate::numbers::NumberMap;
use crate::work;

/// A user's share of one round, and that of each of its clients.
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

    /// True if there is room for so many calls, of so many bytes together.
    pub(crate) fn has_room_for(&self, calls: usize, bytes: usize) -> bool {
        self.calls() + calls <= limits::INTAKE_CALLS_MAX && self.bytes.load(Ordering::Relaxed) + bytes <= limits::INTAKE_BYTES_MAX
    }

    pub(crate) fn add(&self, calls: usize, bytes: usize) {
        self.calls.fetch_add(calls, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, calls: usize, bytes: usize) {
        self.calls.fetch_sub(calls, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One client's calls, without the first: that one stands in one of the two rounds, or is held.
#[derive(Debug)]
struct Lane {
    /// Its user's.
    user: Place,
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
    lanes: NumberMap<ClientId, Lane>,
    /// All users that have a call, with the first calls of their clients.
    users: Users,
    /// The users that have cheap calls, and dear ones, in the order of their turns.
    cheap: VecDeque<Place>,
    dear: VecDeque<Place>,
    /// How many clients are without credit, and how much waits with them.
    held_clients: usize,
    held_calls: usize,
    held_bytes: usize,
    /// Those for which there is no room.
    refused: Vec<Call>,
    /// Whose credit has come back.
    back: Back,
    waiting: Arc<Waiting>,
    turn: Turn,
    /// The call that was taken last is of a client that is not alone.
    has_company: bool,
    /// Whose calls were given since then.
    since_dear: Since,
}

/// Whose calls were given since the last dear one, that one included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Nobody,
    Only(ClientId),
    Several,
}

/// Whose credit has come back.
#[derive(Debug, Default)]
pub(crate) struct Back {
    pub(crate) clients: Vec<ClientId>,
    pub(crate) users: Vec<UserNumber>,
    pub(crate) everybody: bool,
}

impl Back {
    pub(crate) fn is_nobody(&self) -> bool {
        self.clients.is_empty() && self.users.is_empty() && !self.everybody
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
    /// By users other than the owner.
    spent_by_others: usize,
    /// Whose call was given last, and of which kind.
    last: Option<Given>,
    /// The last dear call may change something.
    mutates: bool,
}

/// A call that was given.
#[derive(Clone, Copy, Debug)]
struct Given {
    client: ClientId,
    user: UserNumber,
    /// Where the user was.
    place: Place,
    kind: Kind,
}

impl Turn {
    fn new(kind: Kind, alone: bool) -> Turn {
        Turn { kind, alone, calls: 0, bytes: 0, spent: 0, spent_by_others: 0, last: None, mutates: false }
    }

    fn has_room(&self, bytes: usize) -> bool {
        let dear = self.last.is_some_and(|given| given.kind == Kind::Dear);
        let work_max = if dear && !self.mutates { limits::DEAR_WORK_MIN } else { limits::BATCH_WORK_MAX };
        // One call always fits. Whoever comes now waits for the end of this turn: others than the owner can't make it as long as they like.
        self.calls == 0
            || (self.spent < work_max
                && self.spent_by_others < limits::OTHERS_WORK_MAX
                && self.calls < limits::BATCH_CALLS_MAX
                && self.bytes + bytes <= limits::BATCH_BYTES_MAX)
    }
}

impl Agenda {
    pub(crate) fn new(waiting: Arc<Waiting>) -> Agenda {
        Agenda {
            arrived: VecDeque::new(),
            readmitted: VecDeque::new(),
            lanes: NumberMap::default(),
            users: Users::default(),
            cheap: VecDeque::new(),
            dear: VecDeque::new(),
            held_clients: 0,
            held_calls: 0,
            held_bytes: 0,
            refused: Vec::new(),
            back: Back::default(),
            waiting,
            turn: Turn::new(Kind::Cheap, true),
            has_company: false,
            since_dear: Since::Nobody,
        }
    }

    /// True when nothing is here that could run.
    pub fn is_empty(&self) -> bool {
        let has_new = !self.arrived.is_empty() || !self.readmitted.is_empty();
        !has_new && self.cheap.is_empty() && self.dear.is_empty() && self.refused.is_empty()
    }

    /// True when no call is here at all, not even of a client that is held.
    pub(crate) fn has_nobody(&self) -> bool {
        self.is_empty() && self.lanes.is_empty()
    }

    /// The calls that are not taken after all, for want of room; to be answered `busy`.
    pub(crate) fn refused(&mut self) -> std::vec::Drain<'_, Call> {
        self.refused.drain(..)
    }

    /// The calls that are still held when the broker stops.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = Call> + '_ {
        let first: Vec<Call> = self.users.iter_mut().flat_map(|user| user.held.drain().map(|(_, call)| call)).collect();
        self.held_clients = 0;
        self.held_calls = 0;
        self.held_bytes = 0;
        first.into_iter().flat_map(|first| {
            self.waiting.held.fetch_sub(1, Ordering::Relaxed);
            let behind = self.leave(first.client).map(|lane| lane.behind).unwrap_or_default();
            let waiting = Arc::clone(&self.waiting);
            std::iter::once(first).chain(behind).inspect(move |call| waiting.remove(1, call.bytes))
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
        self.waiting.add(1, call.bytes);
        self.readmitted.push_back(call);
    }

    /// Sorts in what has arrived and begins the next turn.
    pub(crate) fn begin(&mut self) {
        self.sort_in();
        self.call_back();
        let kind = match (self.cheap.is_empty(), self.dear.is_empty(), self.turn.kind) {
            (_, true, _) | (false, false, Kind::Dear) => Kind::Cheap,
            (true, false, _) | (false, false, Kind::Cheap) => Kind::Dear,
        };
        self.turn = Turn::new(kind, self.lanes.len() - self.held_clients == 1);
    }

    /// Sorts in what has arrived: it may have its turn in the one that goes on.
    pub(crate) fn sort_in(&mut self) {
        while let Some(call) = self.readmitted.pop_front().or_else(|| self.arrived.pop_front()) {
            match self.lanes.entry(call.client) {
                Entry::Occupied(lane) => {
                    let (client, bytes) = (call.client, call.bytes);
                    let lane = lane.into_mut();
                    lane.behind.push_back(call);
                    lane.bytes += bytes;
                    let user = &mut self.users[lane.user];
                    if user.held.contains_key(&client) {
                        user.held_calls += 1;
                        user.held_bytes += bytes;
                        self.held_calls += 1;
                        self.held_bytes += bytes;
                        self.trim(client);
                    }
                }
                Entry::Vacant(place) => {
                    let user = self.users.enter(call.account.user(), SHARE);
                    place.insert(Lane { user, behind: VecDeque::new(), bytes: 0, share: SHARE });
                    self.line_up(call, user);
                }
            }
        }
    }

    /// The next call of this turn; None when the turn is over. What it cost is to be told before the next one is asked for.
    pub fn take(&mut self) -> Option<Call> {
        let kind = match self.turn.kind {
            Kind::Cheap if self.cheap.is_empty() && self.turn.alone => Kind::Dear,
            Kind::Dear if self.dear.is_empty() && self.turn.alone => Kind::Cheap,
            kind => kind,
        };
        let (call, place) = match kind {
            Kind::Cheap => self.next_cheap()?,
            Kind::Dear => self.next_dear()?,
        };
        self.waiting.remove(1, call.bytes);
        self.turn.calls += 1;
        self.turn.bytes += call.bytes;
        self.turn.last = Some(Given { client: call.client, user: call.account.user(), place, kind });
        let client = call.client;
        let came_between = match self.since_dear {
            Since::Nobody => false,
            Since::Only(only) => only != client,
            Since::Several => true,
        };
        self.has_company = !self.turn.alone || came_between;
        self.since_dear = match self.since_dear {
            _ if kind == Kind::Dear => Since::Only(client),
            Since::Nobody => Since::Only(client),
            Since::Only(only) if only != client => Since::Several,
            since => since,
        };
        Some(call)
    }

    /// True if the call that was taken last is of a client that is not alone: others have calls waiting, or have had some done since
    /// the last dear one. Who asks for page after page is told in this way whether anybody comes between them.
    pub(crate) fn has_company(&self) -> bool {
        self.has_company
    }

    /// Calls that come next in this turn, about in their order.
    pub(crate) fn next_ones(&self) -> impl Iterator<Item = &Call> {
        let first = self.cheap.iter().flat_map(|place| &self.users[*place].cheap);
        first.flat_map(|call| std::iter::once(call).chain(self.lanes.get(&call.client).into_iter().flat_map(|lane| &lane.behind)))
    }

    /// Puts a first call behind those of its user's other clients, and the user into the round if it was not there.
    fn line_up(&mut self, call: Call, place: Place) {
        let user = &mut self.users[place];
        match kind_of(&call) {
            Kind::Cheap => {
                user.cheap.push_back(call);
                if !std::mem::replace(&mut user.in_cheap, true) {
                    self.cheap.push_back(place);
                }
            }
            Kind::Dear => {
                user.dear.push_back(call);
                if !std::mem::replace(&mut user.in_dear, true) {
                    self.dear.push_back(place);
                }
            }
        }
    }

    /// Forgets a client, and its user with the last one.
    fn leave(&mut self, client: ClientId) -> Option<Lane> {
        let lane = self.lanes.remove(&client)?;
        self.users.leave(lane.user);
        Some(lane)
    }

    /// Takes a client out of the rounds; its first call comes with it.
    fn hold(&mut self, first: Call) {
        let client = first.client;
        let Some(lane) = self.lanes.get(&client) else { return };
        let (calls, bytes) = (1 + lane.behind.len(), first.bytes + lane.bytes);
        let user = &mut self.users[lane.user];
        user.held.insert(client, first);
        user.held_calls += calls;
        user.held_bytes += bytes;
        self.held_calls += calls;
        self.held_bytes += bytes;
        self.held_clients += 1;
        self.waiting.held.fetch_add(1, Ordering::Relaxed);
        self.trim(client);
    }

    /// Puts clients back into the rounds that are said to have credit again.
    fn call_back(&mut self) {
        let Back { mut clients, users, everybody } = std::mem::take(&mut self.back);
        if everybody {
            clients = self.users.iter().flat_map(|user| user.held.keys().copied()).collect();
        } else {
            for number in users {
                let place = self.users.find(number);
                clients.extend(place.into_iter().flat_map(|place| self.users[place].held.keys().copied()));
            }
        }
        clients.into_iter().for_each(|client| self.let_go(client));
    }

    /// Puts a client back into the rounds if it has credit now; it may have used it up again, or all clients together have.
    fn let_go(&mut self, client: ClientId) {
        let Some(place) = self.lanes.get(&client).map(|lane| lane.user) else { return };
        if self.users[place].held.get(&client).is_some_and(|first| first.account.may_be_answered())
            && let Some(first) = self.unhold(client)
        {
            self.line_up(first, place);
        }
    }

    fn unhold(&mut self, client: ClientId) -> Option<Call> {
        let lane = self.lanes.get(&client)?;
        let user = &mut self.users[lane.user];
        let first = user.held.remove(&client)?;
        let (calls, bytes) = (1 + lane.behind.len(), first.bytes + lane.bytes);
        user.held_calls -= calls;
        user.held_bytes -= bytes;
        self.held_calls -= calls;
        self.held_bytes -= bytes;
        self.held_clients -= 1;
        self.waiting.held.fetch_sub(1, Ordering::Relaxed);
        Some(first)
    }

    /// Refuses what this client can't have held. It may have as much as is left for the others, as in the intake, and so may all
    /// clients of a user together.
    fn trim(&mut self, client: ClientId) {
        let Some(lane) = self.lanes.get_mut(&client) else { return };
        let user = &mut self.users[lane.user];
        let Some(first_bytes) = user.held.get(&client).map(|first| first.bytes) else { return };
        let is_over = |lane: &Lane, user: &User, all_calls: usize, all_bytes: usize| {
            let calls_left = limits::HELD_CALLS_MAX.saturating_sub(all_calls);
            let bytes_left = limits::HELD_BYTES_MAX.saturating_sub(all_bytes);
            1 + lane.behind.len() > calls_left
                || first_bytes + lane.bytes > bytes_left
                || (!user.is_owner() && (user.held_calls > calls_left || user.held_bytes > bytes_left))
        };
        while is_over(lane, user, self.held_calls, self.held_bytes)
            && let Some(last) = lane.behind.pop_back()
        {
            lane.bytes -= last.bytes;
            user.held_calls -= 1;
            user.held_bytes -= last.bytes;
            self.held_calls -= 1;
            self.held_bytes -= last.bytes;
            self.waiting.remove(1, last.bytes);
            self.refused.push(last);
        }
        let is_alone_too_large = first_bytes > limits::HELD_SMALL_BYTES && is_over(lane, user, self.held_calls, self.held_bytes);
        if is_alone_too_large && let Some(first) = self.unhold(client) {
            self.leave(client);
            self.waiting.remove(1, first.bytes);
            self.refused.push(first);
        }
    }

    fn next_cheap(&mut self) -> Option<(Call, Place)> {
        loop {
            let (call, place) = self.first_cheap()?;
            if call.account.may_be_answered() {
                self.follow(call.client, Kind::Cheap);
                return Some((call, place));
            }
            self.hold(call);
        }
    }

    /// Whoever is in debt lets the others go first, users as well as clients of a user; each time round, a share of it is forgiven.
    fn first_cheap(&mut self) -> Option<(Call, Place)> {
        if !self.turn.has_room(0) {
            return None;
        }
        let place = loop {
            let place = *self.cheap.front()?;
            let user = &mut self.users[place];
            if user.share > 0 {
                break place;
            }
            user.share += SHARE;
            self.cheap.rotate_left(1);
        };
        let user = &mut self.users[place];
        while let Some(lane) = user.cheap.front().and_then(|call| self.lanes.get_mut(&call.client)) {
            if lane.share > 0 {
                break;
            }
            lane.share += SHARE;
            user.cheap.rotate_left(1);
        }
        if !self.turn.has_room(user.cheap.front()?.bytes) {
            return None;
        }
        let call = user.cheap.pop_front()?;
        if user.cheap.is_empty() {
            user.in_cheap = false;
            self.cheap.pop_front();
        }
        Some((call, place))
    }

    fn next_dear(&mut self) -> Option<(Call, Place)> {
        let (call, place) = loop {
            let place = *self.dear.front()?;
            let user = &mut self.users[place];
            if !self.turn.has_room(user.dear.front()?.bytes) {
                return None;
            }
            let call = user.dear.pop_front()?;
            self.dear.pop_front();
            user.in_dear = !user.dear.is_empty();
            if user.in_dear {
                self.dear.push_back(place);
            }
            if call.account.may_be_answered() {
                break (call, place);
            }
            self.hold(call);
        };
        self.turn.mutates = call.request.operations.as_slice().iter().any(Operation::is_mutation);
        self.follow(call.client, Kind::Dear);
        Some((call, place))
    }

    /// Puts the client's next call where its kind belongs; a client without any is forgotten, with its debt.
    fn follow(&mut self, client: ClientId, before: Kind) {
        let Some(lane) = self.lanes.get_mut(&client) else { return };
        let Some(call) = lane.behind.pop_front() else {
            self.leave(client);
            return;
        };
        lane.bytes -= call.bytes;
        let place = lane.user;
        match (before, kind_of(&call)) {
            // It goes on until its share is used up, and so does its user.
            (Kind::Cheap, Kind::Cheap) => {
                let user = &mut self.users[place];
                user.cheap.push_front(call);
                if !std::mem::replace(&mut user.in_cheap, true) {
                    self.cheap.push_front(place);
                }
            }
            _ => self.line_up(call, place),
        }
    }

    /// Counts what the call that was given last has cost.
    pub fn spend(&mut self, units: usize) {
        self.turn.spent = self.turn.spent.saturating_add(units);
        if self.turn.last.is_some_and(|given| given.user != OWNER_NUMBER) {
            self.turn.spent_by_others = self.turn.spent_by_others.saturating_add(units);
        }
        // Dear calls take turns one by one, whatever they cost.
        let Some(Given { client, user, place, kind: Kind::Cheap }) = self.turn.last else { return };
        let units = i64::try_from(units).unwrap_or(i64::MAX);
        if let Some(lane) = self.lanes.get_mut(&client) {
            lane.share = lane.share.saturating_sub(units);
        }
        // Also for the last call of a client: a user with many clients may have but one of each.
        let user_now = &mut self.users[place];
        if user_now.number == user && user_now.clients > 0 {
            user_now.share = user_now.share.saturating_sub(units);
        }
    }
}

fn kind_of(call: &Call) -> Kind {
    if work::guess(&call.request, call.bytes) < limits::DEAR_WORK_MIN { Kind::Cheap } else { Kind::Dear }
}

#[cfg(test)]
#[path = "agenda_tests.rs"]
mod tests;
