//! What each client and each user has in flight and has not read, and the bounds on it.
//!
//! - A client is a connection of a user, known by its routing id. Clients with nothing in flight are forgotten once there are many, so
//!   the map is bounded by the connections that wait for something, or have something to read; and so are users without clients.
//! - What it has not read is its account's business; here is only what small replies have come to since the last that is counted.
//! - Beside its own bounds, a client may only have as much as is left for the others: one alone can take half of the intake queue,
//!   two a third each, and some room is always left for the next (Choudhury and Hahne, "Dynamic queue length thresholds for
//!   shared-memory packet switches", 1998). One request is taken from everybody.
//! - A user other than the owner may have no more than that with all its clients together, and of such a user one request is taken
//!   whatever is left: a thousand connections are no way to more.
//! - Whoever comes under the routing id of another user is another client: it takes over neither what that one has in flight nor the
//!   replies to it. (Libzmq, as it is built here, gives each connection an id of its own, so this is a second lock.)

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use kvbroker_protocol::{Failure, limits};
use kvbroker_table::{Account, Charge, ClientId, Credit, NumberMap, OWNER, OWNER_NUMBER, UserAccount, UserNumber};

/// What is in flight of all clients of a user.
struct User {
    name: Arc<str>,
    account: UserAccount,
    calls: Cell<usize>,
    bytes: Cell<usize>,
}

impl User {
    fn is_owner(&self) -> bool {
        self.account.number() == OWNER_NUMBER
    }

    fn add(&self, bytes: usize) {
        self.calls.set(self.calls.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
    }

    fn take_away(&self, calls: usize, bytes: usize) {
        self.calls.set(self.calls.get().saturating_sub(calls));
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
    }
}

struct Client {
    user: Rc<User>,
    account: Account,
    number: ClientId,
    calls: usize,
    bytes: usize,
    /// Replies handed to libzmq behind the last that is counted.
    uncounted_bytes: usize,
}

impl Client {
    fn is_idle(&self) -> bool {
        self.calls == 0 && self.account.is_clear()
    }
}

/// Whose a message is that was counted in.
pub(crate) struct Sender {
    pub(crate) client: ClientId,
    pub(crate) account: Account,
    pub(crate) user: Arc<str>,
}

/// All clients of the front end.
pub(crate) struct Clients {
    credit: Arc<Credit>,
    users: HashMap<Arc<str>, Rc<User>>,
    /// Libzmq gives the ids: peers do not choose them.
    by_routing_id: NumberMap<Vec<u8>, Client>,
    /// Who came by which connection, by its descriptor.
    by_connection: HashMap<u32, (Vec<u8>, Account)>,
    last_number: ClientId,
    last_user: UserNumber,
    /// In flight of all of them.
    calls: usize,
    bytes: usize,
}

impl Clients {
    /// No clients; what they have not read is charged to parts of this.
    pub(crate) fn new(credit: Arc<Credit>) -> Clients {
        Clients {
            credit,
            users: HashMap::new(),
            by_routing_id: NumberMap::default(),
            by_connection: HashMap::new(),
            last_number: 0,
            last_user: OWNER_NUMBER,
            calls: 0,
            bytes: 0,
        }
    }

    fn client(&mut self, routing_id: &[u8], user: &str) -> &mut Client {
        if self.by_routing_id.get(routing_id).is_none_or(|client| *client.user.name != *user) {
            self.replace(routing_id, user);
        }
        self.by_routing_id.get_mut(routing_id).expect("it was there or was put in")
    }

    /// Begins a new client, in place of the one that had its routing id.
    fn replace(&mut self, routing_id: &[u8], user: &str) {
        if let Some(before) = self.by_routing_id.remove(routing_id) {
            self.take_away(&before.user, before.calls, before.bytes);
        }
        self.forget_idle();
        self.last_number += 1;
        let user = self.user(user);
        let (account, number) = (user.account.open(self.last_number), self.last_number);
        let client = Client { user, account, number, calls: 0, bytes: 0, uncounted_bytes: 0 };
        self.by_routing_id.insert(routing_id.to_vec(), client);
    }

    fn user(&mut self, name: &str) -> Rc<User> {
        if let Some(user) = self.users.get(name) {
            return Rc::clone(user);
        }
        let number = if name == OWNER {
            OWNER_NUMBER
        } else {
            self.last_user += 1;
            self.last_user
        };
        let (name, account): (Arc<str>, _) = (name.into(), self.credit.user(number));
        let user = Rc::new(User { name: Arc::clone(&name), account, calls: Cell::new(0), bytes: Cell::new(0) });
        self.users.insert(name, Rc::clone(&user));
        user
    }

    fn take_away(&mut self, user: &User, calls: usize, bytes: usize) {
        user.take_away(calls, bytes);
        self.calls = self.calls.saturating_sub(calls);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Counts a message in; `busy` if the client, or its user, has too much in flight.
    pub(crate) fn take(&mut self, routing_id: &[u8], user: &str, bytes: usize) -> Result<Sender, Failure> {
        let calls_left = limits::INTAKE_CALLS_MAX.saturating_sub(self.calls);
        let bytes_left = limits::INTAKE_BYTES_MAX.saturating_sub(self.bytes);
        let (calls_max, bytes_max) = (limits::IN_FLIGHT_MAX.min(calls_left), limits::IN_FLIGHT_BYTES_MAX.min(bytes_left));
        let client = self.client(routing_id, user);
        let busy = |who: &str, calls: usize, bytes: usize, calls_max: usize, bytes_max: usize| {
            let message = format!(
                "{who} {calls} requests in flight, which take {bytes} bytes in memory; at most {calls_max} with {bytes_max} are taken now"
            );
            Failure::busy(message, limits::RETRY_AFTER_MS)
        };
        let (user_calls, user_bytes) = (client.user.calls.get(), client.user.bytes.get());
        let is_bound = !client.user.is_owner() && user_calls > 0;
        if is_bound && (user_calls >= calls_left || user_bytes + bytes > bytes_left) {
            return Err(busy("all clients of this key together have", user_calls, user_bytes, calls_left, bytes_left));
        }
        if client.calls > 0 && (client.calls >= calls_max || client.bytes + bytes > bytes_max) {
            return Err(busy("this client has", client.calls, client.bytes, calls_max, bytes_max));
        }
        client.calls += 1;
        client.bytes += bytes;
        client.user.add(bytes);
        let user = Arc::clone(&client.user.name);
        let taken = Sender { client: client.number, account: client.account.clone(), user };
        self.calls += 1;
        self.bytes += bytes;
        Ok(taken)
    }

    /// What a refusal that the front end gives to a client is charged to.
    pub(crate) fn account(&mut self, routing_id: &[u8], user: &str) -> Account {
        self.client(routing_id, user).account.clone()
    }

    /// What a reply of so many bytes has to be watched for: itself and the small ones before it. None: it is small, and one of
    /// the next ones will be watched for it.
    pub(crate) fn count(&mut self, routing_id: &[u8], bytes: usize, mut charge: Charge) -> Option<Charge> {
        let Some(client) = self.by_routing_id.get_mut(routing_id) else {
            charge.set(bytes);
            return Some(charge);
        };
        client.uncounted_bytes += bytes;
        if client.uncounted_bytes < limits::REPLY_UNCOUNTED_BYTES {
            return None;
        }
        charge.set(std::mem::take(&mut client.uncounted_bytes));
        Some(charge)
    }

    /// Counts a message out. False if another client has come under the routing id since: the reply is not for that one.
    pub(crate) fn give_back(&mut self, routing_id: &[u8], number: ClientId, bytes: usize) -> bool {
        let Some(client) = self.by_routing_id.get_mut(routing_id) else { return true };
        if client.number != number {
            return false;
        }
        client.calls = client.calls.saturating_sub(1);
        client.bytes = client.bytes.saturating_sub(bytes);
        client.user.take_away(1, bytes);
        self.calls = self.calls.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }

    /// A client to which a reply cannot be routed is gone. What it has asked for and only reads is not worth any work.
    pub(crate) fn gone(&mut self, routing_id: &[u8]) {
        if let Some(client) = self.by_routing_id.get(routing_id) {
            client.account.give_up();
        }
        if self.by_routing_id.get(routing_id).is_some_and(Client::is_idle) {
            self.by_routing_id.remove(routing_id);
        }
    }

    /// A client that is new has come by this connection. What had its descriptor before must have been told to have ended.
    pub(crate) fn came_by(&mut self, routing_id: &[u8], connection: u32) {
        if let Some(client) = self.by_routing_id.get(routing_id) {
            self.by_connection.insert(connection, (routing_id.to_vec(), client.account.clone()));
        }
    }

    /// A connection has ended, and who came by it is gone.
    pub(crate) fn ended(&mut self, connection: u32) {
        if let Some((routing_id, account)) = self.by_connection.remove(&connection) {
            account.give_up();
            self.gone(&routing_id);
        }
    }

    /// Clients seen since the start.
    pub(crate) fn seen(&self) -> u64 {
        self.last_number
    }

    fn forget_idle(&mut self) {
        if self.by_routing_id.len() >= limits::CONNECTIONS_MAX {
            self.by_routing_id.retain(|_, client| !client.is_idle());
            self.users.retain(|_, user| Rc::strong_count(user) > 1 || !user.account.is_clear());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_table::Intake;

    use super::*;

    fn no_clients() -> Clients {
        Clients::new(Arc::clone(Intake::new().credit()))
    }

    impl Clients {
        fn of_owner(&mut self, routing_id: &[u8], bytes: usize) -> Result<ClientId, Failure> {
            self.take(routing_id, OWNER, bytes).map(|sender| sender.client)
        }
    }

    #[test]
    fn bounds_hold_for_each_client_alone_and_come_back() {
        let mut clients = no_clients();
        for _ in 0..limits::IN_FLIGHT_MAX {
            clients.of_owner(b"a", 1).unwrap();
        }
        assert!(clients.of_owner(b"a", 1).is_err());
        assert_eq!(clients.of_owner(b"b", limits::IN_FLIGHT_BYTES_MAX).unwrap(), 2);
        assert!(clients.of_owner(b"b", 1).is_err());
        clients.give_back(b"a", 1, 1);
        assert_eq!(clients.of_owner(b"a", 1).unwrap(), 1);
    }

    #[test]
    fn whoever_has_much_leaves_room_for_the_others() {
        let mut clients = no_clients();
        let mut taken = Vec::new();
        // Greedy ones, one after the other: each stops before the room is gone.
        for client in 0..100_u32 {
            let before = clients.calls;
            while clients.of_owner(&client.to_be_bytes(), 10_000).is_ok() {}
            taken.push(clients.calls - before);
        }
        assert_eq!(taken[0], limits::IN_FLIGHT_MAX);
        assert!(taken.iter().all(|calls| *calls > 0), "{taken:?}");
        // One request is taken from everybody; where there is no room for it the queue itself says so.
        assert!(clients.calls < limits::INTAKE_CALLS_MAX && clients.bytes <= limits::INTAKE_BYTES_MAX + taken.len() * 10_000);
        // What the bound on calls lets in, the one on bytes may not.
        let mut clients = no_clients();
        for client in 0..8_u32 {
            while clients.of_owner(&client.to_be_bytes(), 1 << 20).is_ok() {}
        }
        assert!(clients.bytes < limits::INTAKE_BYTES_MAX, "{} bytes", clients.bytes);
    }

    #[test]
    fn idle_clients_do_not_pile_up() {
        let mut clients = no_clients();
        for client in 0..3 * limits::CONNECTIONS_MAX {
            let id = client.to_string().into_bytes();
            let number = clients.of_owner(&id, 1).unwrap();
            clients.give_back(&id, number, 1);
        }
        assert!(clients.by_routing_id.len() <= limits::CONNECTIONS_MAX);
    }

    #[test]
    fn who_came_by_a_connection_is_gone_with_it() {
        let mut clients = no_clients();
        let account_of = |clients: &mut Clients, id: &[u8]| clients.take(id, OWNER, 1).unwrap().account;
        let (first, other) = (account_of(&mut clients, b"a"), account_of(&mut clients, b"b"));
        clients.came_by(b"a", 7);
        clients.came_by(b"b", 8);
        clients.came_by(b"nobody", 9);
        clients.ended(7);
        assert!(first.is_gone() && !other.is_gone());
        clients.give_back(b"a", 1, 1);
        // The next one under the same descriptor.
        let next = account_of(&mut clients, b"c");
        clients.came_by(b"c", 7);
        assert!(!next.is_gone());
        for connection in [9, 10, 7] {
            clients.ended(connection);
        }
        assert!(next.is_gone() && !other.is_gone());
        assert_eq!(clients.by_connection.len(), 1);
    }

    #[test]
    fn small_replies_are_watched_by_the_one_that_makes_them_many() {
        let mut clients = no_clients();
        let account = clients.take(b"a", OWNER, 1).unwrap().account;
        let charge = |bytes| account.charge_refusal(bytes).unwrap();
        let small = limits::REPLY_UNCOUNTED_BYTES / 2;
        assert!(clients.count(b"a", small, charge(1)).is_none());
        assert!(account.is_clear(), "what is not watched is not charged, or nobody would give it back");
        let watched = clients.count(b"a", small, charge(1)).unwrap();
        assert_eq!(watched.bytes(), 2 * small);
        assert_eq!(clients.count(b"a", 10 * small, charge(1)).unwrap().bytes(), 10 * small);
        // Who is not known any more is watched at once.
        assert_eq!(clients.count(b"b", 1, charge(7)).unwrap().bytes(), 1);
        // Who has something to read is not forgotten, or its account would be new each time.
        clients.give_back(b"a", 1, 1);
        clients.gone(b"a");
        assert!(clients.by_routing_id.contains_key(&b"a"[..]));
        assert!(account.is_gone());
        drop(watched);
        clients.gone(b"a");
        assert!(clients.by_routing_id.is_empty());
    }

    #[test]
    fn a_user_with_many_connections_leaves_half_to_the_others() {
        let mut clients = no_clients();
        let greedy = |clients: &mut Clients, user: &str, bytes| {
            let before = clients.calls;
            for client in 0..300_u32 {
                let id = format!("{user} {client}").into_bytes();
                while clients.take(&id, user, bytes).is_ok() {}
            }
            clients.calls - before
        };
        assert_eq!(greedy(&mut clients, "ann", 1), limits::INTAKE_CALLS_MAX / 2);
        assert_eq!(greedy(&mut clients, "bob", 1), limits::INTAKE_CALLS_MAX / 4);
        // Each of the owner's connections gets its part of the rest.
        assert_eq!(clients.of_owner(b"o1", 1).unwrap(), clients.seen());
        while clients.of_owner(b"o1", 1).is_ok() {}
        assert!(clients.of_owner(b"o2", 1).is_ok());
        // By bytes it is the same, and one request of everybody's is none of every connection's.
        let mut clients = no_clients();
        assert_eq!(greedy(&mut clients, "ann", limits::MESSAGE_BYTES_MAX), 8);
        assert!(clients.take(b"another", "ann", 1 << 20).is_err(), "it is a request of the same user");
        assert!(clients.bytes <= limits::INTAKE_BYTES_MAX / 2 + limits::MESSAGE_BYTES_MAX);
        assert!(clients.take(b"carl", "carl", limits::MESSAGE_BYTES_MAX).is_ok());
    }

    #[test]
    fn what_a_user_gives_back_it_may_take_again_and_then_it_is_forgotten() {
        let mut clients = no_clients();
        for round in 0..3 {
            let mut taken = Vec::new();
            for client in 0..20_u32 {
                while let Ok(sender) = clients.take(&client.to_be_bytes(), "ann", 1) {
                    taken.push((client, sender.client));
                }
            }
            assert_eq!(taken.len(), limits::INTAKE_CALLS_MAX / 2, "round {round}");
            taken.into_iter().for_each(|(client, number)| _ = clients.give_back(&client.to_be_bytes(), number, 1));
            assert_eq!((clients.calls, clients.bytes), (0, 0));
        }
        for user in 0..3 * limits::CONNECTIONS_MAX {
            let user = user.to_string();
            let number = clients.take(user.as_bytes(), &user, 1).unwrap().client;
            clients.give_back(user.as_bytes(), number, 1);
        }
        assert!(clients.users.len() <= limits::CONNECTIONS_MAX + 1, "{} users", clients.users.len());
    }

    #[test]
    fn whoever_comes_with_anothers_routing_id_takes_nothing_over() {
        let mut clients = no_clients();
        let ann = clients.take(b"id", "ann", 5).unwrap();
        let bob = clients.take(b"id", "bob", 7).unwrap();
        assert_ne!(ann.client, bob.client);
        assert_eq!((clients.calls, clients.bytes), (1, 7));
        assert!(!clients.give_back(b"id", ann.client, 5));
        assert_eq!((clients.calls, clients.bytes), (1, 7), "it was counted out when its place was taken");
        assert!(clients.give_back(b"id", bob.client, 7));
        assert_eq!((clients.calls, clients.bytes), (0, 0));
    }
}
