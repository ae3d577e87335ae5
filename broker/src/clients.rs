//! What each client has in flight, and the bounds on it.
//!
//! A client is a connection, known by its routing id. Clients with nothing in flight are forgotten once there are many, so the
//! map is bounded by the connections that wait for something.

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
        if client.calls >= limits::IN_FLIGHT_MAX || (client.calls > 0 && client.bytes + bytes > limits::IN_FLIGHT_BYTES_MAX) {
            let message = format!(
                "this client has {} requests with {} bytes in flight; at most {} with {} are taken",
                client.calls,
                client.bytes,
                limits::IN_FLIGHT_MAX,
                limits::IN_FLIGHT_BYTES_MAX
            );
            return Err(Failure::busy(message, limits::RETRY_AFTER_MS));
        }
        client.calls += 1;
        client.bytes += bytes;
        Ok(client.number)
    }

    /// Counts a message out.
    pub(crate) fn give_back(&mut self, routing_id: &[u8], bytes: usize) {
        if let Some(client) = self.by_routing_id.get_mut(routing_id) {
            client.calls = client.calls.saturating_sub(1);
            client.bytes = client.bytes.saturating_sub(bytes);
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
