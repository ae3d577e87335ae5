//! What each client has in flight and has not read, and the bounds on it.
//!
//! - A client is a connection, known by its routing id. Clients with nothing in flight are forgotten once there are many, so the
//!   map is bounded by the connections that wait for something, or have something to read.
//! - What it has not read is its account's business; here is only what small replies have come to since the last that is counted.
//! - Beside its own bounds, a client may only have as much as is left for the others: one alone can take half of the intake queue,
//!   two a third each, and some room is always left for the next (Choudhury and Hahne, "Dynamic queue length thresholds for
//!   shared-memory packet switches", 1998). One request is taken from everybody.

use std::collections::HashMap;
use std::sync::Arc;

use kvbroker_protocol::{Failure, limits};
use kvbroker_table::{Account, Charge, ClientId, Credit};

#[derive(Debug)]
struct Client {
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

/// All clients of the front end.
pub(crate) struct Clients {
    credit: Arc<Credit>,
    by_routing_id: HashMap<Vec<u8>, Client>,
    last_number: ClientId,
    /// In flight of all of them.
    calls: usize,
    bytes: usize,
}

impl Clients {
    /// No clients; what they have not read is charged to parts of this.
    pub(crate) fn new(credit: Arc<Credit>) -> Clients {
        Clients { credit, by_routing_id: HashMap::new(), last_number: 0, calls: 0, bytes: 0 }
    }

    fn client(&mut self, routing_id: &[u8]) -> &mut Client {
        if !self.by_routing_id.contains_key(routing_id) {
            self.forget_idle();
            self.last_number += 1;
        }
        let (number, credit) = (self.last_number, &self.credit);
        self.by_routing_id.entry(routing_id.to_vec()).or_insert_with(|| Client {
            account: credit.open(number),
            number,
            calls: 0,
            bytes: 0,
            uncounted_bytes: 0,
        })
    }

    /// Counts a message in; `busy` if the client has too much in flight.
    pub(crate) fn take(&mut self, routing_id: &[u8], bytes: usize) -> Result<(ClientId, Account), Failure> {
        let calls_max = limits::IN_FLIGHT_MAX.min(limits::INTAKE_CALLS_MAX.saturating_sub(self.calls));
        let bytes_max = limits::IN_FLIGHT_BYTES_MAX.min(limits::INTAKE_BYTES_MAX.saturating_sub(self.bytes));
        let client = self.client(routing_id);
        if client.calls > 0 && (client.calls >= calls_max || client.bytes + bytes > bytes_max) {
            let message = format!(
                "this client has {} requests in flight, which take {} bytes in memory; at most {calls_max} with {bytes_max} are taken now",
                client.calls, client.bytes,
            );
            return Err(Failure::busy(message, limits::RETRY_AFTER_MS));
        }
        client.calls += 1;
        client.bytes += bytes;
        let taken = (client.number, client.account.clone());
        self.calls += 1;
        self.bytes += bytes;
        Ok(taken)
    }

    /// Room for a refusal of so many bytes; None: it is to be dropped.
    pub(crate) fn refuse(&mut self, routing_id: &[u8], bytes: usize) -> Option<Charge> {
        self.client(routing_id).account.charge_refusal(bytes)
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

    /// Counts a message out.
    pub(crate) fn give_back(&mut self, routing_id: &[u8], bytes: usize) {
        if let Some(client) = self.by_routing_id.get_mut(routing_id) {
            client.calls = client.calls.saturating_sub(1);
            client.bytes = client.bytes.saturating_sub(bytes);
            self.calls = self.calls.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// A client to which a reply cannot be routed is gone.
    pub(crate) fn gone(&mut self, routing_id: &[u8]) {
        if self.by_routing_id.get(routing_id).is_some_and(Client::is_idle) {
            self.by_routing_id.remove(routing_id);
        }
    }

    /// Clients seen since the start.
    pub(crate) fn seen(&self) -> u64 {
        self.last_number
    }

    fn forget_idle(&mut self) {
        if self.by_routing_id.len() >= limits::CONNECTIONS_MAX {
            self.by_routing_id.retain(|_, client| !client.is_idle());
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

    #[test]
    fn bounds_hold_for_each_client_alone_and_come_back() {
        let mut clients = no_clients();
        for _ in 0..limits::IN_FLIGHT_MAX {
            clients.take(b"a", 1).unwrap();
        }
        assert!(clients.take(b"a", 1).is_err());
        assert_eq!(clients.take(b"b", limits::IN_FLIGHT_BYTES_MAX).unwrap().0, 2);
        assert!(clients.take(b"b", 1).is_err());
        clients.give_back(b"a", 1);
        assert_eq!(clients.take(b"a", 1).unwrap().0, 1);
    }

    #[test]
    fn whoever_has_much_leaves_room_for_the_others() {
        let mut clients = no_clients();
        let mut taken = Vec::new();
        // Greedy ones, one after the other: each stops before the room is gone.
        for client in 0..100_u32 {
            let before = clients.calls;
            while clients.take(&client.to_be_bytes(), 10_000).is_ok() {}
            taken.push(clients.calls - before);
        }
        assert_eq!(taken[0], limits::IN_FLIGHT_MAX);
        assert!(taken.iter().all(|calls| *calls > 0), "{taken:?}");
        // One request is taken from everybody; where there is no room for it the queue itself says so.
        assert!(clients.calls < limits::INTAKE_CALLS_MAX && clients.bytes <= limits::INTAKE_BYTES_MAX + taken.len() * 10_000);
        // What the bound on calls lets in, the one on bytes may not.
        let mut clients = no_clients();
        for client in 0..8_u32 {
            while clients.take(&client.to_be_bytes(), 1 << 20).is_ok() {}
        }
        assert!(clients.bytes < limits::INTAKE_BYTES_MAX, "{} bytes", clients.bytes);
    }

    #[test]
    fn idle_clients_do_not_pile_up() {
        let mut clients = no_clients();
        for client in 0..3 * limits::CONNECTIONS_MAX {
            let id = client.to_string().into_bytes();
            clients.take(&id, 1).unwrap();
            clients.give_back(&id, 1);
        }
        assert!(clients.by_routing_id.len() <= limits::CONNECTIONS_MAX);
    }

    #[test]
    fn small_replies_are_watched_by_the_one_that_makes_them_many() {
        let mut clients = no_clients();
        let (_, account) = clients.take(b"a", 1).unwrap();
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
        clients.give_back(b"a", 1);
        clients.gone(b"a");
        assert!(clients.by_routing_id.contains_key(&b"a"[..]));
        drop(watched);
        clients.gone(b"a");
        assert!(clients.by_routing_id.is_empty());
    }
}
