//! What each client has in flight, and the bounds on it.
//!
//! - A client is a connection, known by its routing id. Clients with nothing in flight are forgotten once there are many, so the
//!   map is bounded by the connections that wait for something.
//! - Beside its own bounds, a client may only have as much as is left for the others: one alone can take half of the intake queue,
//!   two a third each, and some room is always left for the next (Choudhury and Hahne, "Dynamic queue length thresholds for
//!   shared-memory packet switches", 1998). One request is taken from everybody.

use std::collections::HashMap;

use kvbroker_protocol::{Failure, limits};
use kvbroker_table::ClientId;

#[derive(Debug)]
struct Client {
    number: ClientId,
    calls: usize,
    bytes: usize,
}

/// All clients of the front end.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    by_routing_id: HashMap<Vec<u8>, Client>,
    last_number: ClientId,
    /// In flight of all of them.
    calls: usize,
    bytes: usize,
}

impl Clients {
    /// Counts a message in; `busy` if the client has too much in flight.
    pub(crate) fn take(&mut self, routing_id: &[u8], bytes: usize) -> Result<ClientId, Failure> {
        let client = match self.by_routing_id.get_mut(routing_id) {
            Some(client) => client,
            None => {
                self.forget_idle();
                self.last_number += 1;
                let client = Client { number: self.last_number, calls: 0, bytes: 0 };
                self.by_routing_id.entry(routing_id.to_vec()).or_insert(client)
            }
        };
        let calls_max = limits::IN_FLIGHT_MAX.min(limits::INTAKE_CALLS_MAX.saturating_sub(self.calls));
        let bytes_max = limits::IN_FLIGHT_BYTES_MAX.min(limits::INTAKE_BYTES_MAX.saturating_sub(self.bytes));
        if client.calls > 0 && (client.calls >= calls_max || client.bytes + bytes > bytes_max) {
            let message = format!(
                "this client has {} requests in flight, which take {} bytes in memory; at most {calls_max} with {bytes_max} are taken now",
                client.calls, client.bytes,
            );
            return Err(Failure::busy(message, limits::RETRY_AFTER_MS));
        }
        self.calls += 1;
        self.bytes += bytes;
        client.calls += 1;
        client.bytes += bytes;
        Ok(client.number)
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
        if self.by_routing_id.get(routing_id).is_some_and(|client| client.calls == 0) {
            self.by_routing_id.remove(routing_id);
        }
    }

    /// Clients seen since the start.
    pub(crate) fn seen(&self) -> u64 {
        self.last_number
    }

    fn forget_idle(&mut self) {
        if self.by_routing_id.len() >= limits::CONNECTIONS_MAX {
            self.by_routing_id.retain(|_, client| client.calls > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bounds_hold_for_each_client_alone_and_come_back() {
        let mut clients = Clients::default();
        for _ in 0..limits::IN_FLIGHT_MAX {
            clients.take(b"a", 1).unwrap();
        }
        assert!(clients.take(b"a", 1).is_err());
        assert_eq!(clients.take(b"b", limits::IN_FLIGHT_BYTES_MAX).unwrap(), 2);
        assert!(clients.take(b"b", 1).is_err());
        clients.give_back(b"a", 1);
        assert_eq!(clients.take(b"a", 1).unwrap(), 1);
    }

    #[test]
    fn whoever_has_much_leaves_room_for_the_others() {
        let mut clients = Clients::default();
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
        let mut clients = Clients::default();
        for client in 0..8_u32 {
            while clients.take(&client.to_be_bytes(), 1 << 20).is_ok() {}
        }
        assert!(clients.bytes < limits::INTAKE_BYTES_MAX, "{} bytes", clients.bytes);
    }

    #[test]
    fn idle_clients_do_not_pile_up() {
        let mut clients = Clients::default();
        for client in 0..3 * limits::CONNECTIONS_MAX {
            let id = client.to_string().into_bytes();
            clients.take(&id, 1).unwrap();
            clients.give_back(&id, 1);
        }
        assert!(clients.by_routing_id.len() <= limits::CONNECTIONS_MAX);
    }
}
