//! Somebody who is not the owner: a key pair, and plain ZeroMQ sockets over encrypted TCP.

use std::path::PathBuf;

use kvbroker::keys::{KeyPair, PublicKey};
use serde_json::{Value, json};

use crate::{Broker, PATIENCE, RawClient, RawSubscriber, wait_until};

/// Somebody with a key pair of their own.
pub struct User {
    keys: KeyPair,
}

impl User {
    /// A new one.
    ///
    /// # Panics
    /// If there is no randomness, or libzmq has no CURVE.
    pub fn new() -> User {
        User { keys: KeyPair::generate().expect("a machine that runs tests has random bytes") }
    }

    /// The public key's text.
    pub fn key(&self) -> String {
        self.keys.public().to_string()
    }

    /// A DEALER to the broker. Whether it is let in shows when it asks.
    pub fn dealer(&self, broker: &Broker) -> RawClient {
        RawClient::on_tcp(&address(broker, "port"), &self.keys, &broker_key(broker))
    }

    /// The same under a routing id of its own.
    pub fn dealer_called(&self, broker: &Broker, routing_id: &[u8]) -> RawClient {
        RawClient::on_tcp_as(&address(broker, "port"), &self.keys, &broker_key(broker), routing_id)
    }

    /// A SUB to the broker. Whether it is let in shows by what it hears.
    pub fn subscriber(&self, broker: &Broker, topics: &[&[u8]]) -> RawSubscriber {
        RawSubscriber::on_tcp(&address(broker, "pub_port"), &self.keys, &broker_key(broker), topics)
    }

    /// Whether the door for requests lets this user in now.
    ///
    /// # Panics
    /// If it says neither.
    pub fn is_let_in(&self, broker: &Broker) -> bool {
        self.knocks(zmq::DEALER, &address(broker, "port"), &broker_key(broker))
    }

    /// Whether the door for notifications lets this user in now.
    ///
    /// # Panics
    /// If it says neither.
    pub fn may_subscribe(&self, broker: &Broker) -> bool {
        self.knocks(zmq::SUB, &address(broker, "pub_port"), &broker_key(broker))
    }

    /// What comes of one connection, as libzmq tells it: nothing is concluded from silence.
    fn knocks(&self, kind: zmq::SocketType, address: &str, broker: &PublicKey) -> bool {
        const LET_IN: u16 = zmq::SocketEvent::HANDSHAKE_SUCCEEDED as u16;
        const TURNED_AWAY: [u16; 3] = [
            zmq::SocketEvent::HANDSHAKE_FAILED_AUTH as u16,
            zmq::SocketEvent::HANDSHAKE_FAILED_NO_DETAIL as u16,
            zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL as u16,
        ];
        let context = zmq::Context::new();
        let socket = context.socket(kind).expect("a test has free descriptors");
        socket.set_linger(0).expect("every socket has a linger");
        socket.monitor("inproc://events", zmq::SocketEvent::ALL as i32).expect("a socket can be watched once");
        let events = context.socket(zmq::PAIR).expect("a test has free descriptors");
        events.connect("inproc://events").expect("the socket is being watched");
        socket.set_curve_secretkey(self.keys.secret().expose_bytes()).expect("32 bytes are a key");
        socket.set_curve_publickey(self.keys.public().as_bytes()).expect("32 bytes are a key");
        socket.set_curve_serverkey(broker.as_bytes()).expect("32 bytes are a key");
        socket.connect(address).expect("a broker's address is a good one");
        wait_until(PATIENCE, &format!("{kind:?} on {address} is let in or turned away"), || {
            let frames = events.recv_multipart(zmq::DONTWAIT).ok()?;
            match u16::from_ne_bytes([frames[0][0], frames[0][1]]) {
                LET_IN => Some(true),
                event if TURNED_AWAY.contains(&event) => Some(false),
                _ => None,
            }
        })
    }

    /// A request of the owner's that lets this user in.
    pub fn authorize(&self, role: &str, prefixes: &[&str]) -> Value {
        let mut request = json!({"op": "authorize", "key": self.key(), "role": role});
        if !prefixes.is_empty() {
            request["prefixes"] = json!(prefixes);
        }
        request
    }

    /// A request of the owner's that takes that back.
    pub fn revoke(&self) -> Value {
        json!({"op": "revoke", "key": self.key()})
    }
}

impl Default for User {
    fn default() -> Self {
        User::new()
    }
}

/// A broker's `authorized_clients`.
pub fn authorized_clients(broker: &Broker) -> PathBuf {
    broker.home().path().join("config/projects/test/authorized_clients")
}

/// As the endpoint file names it now: the publisher's port can change.
fn address(broker: &Broker, port: &str) -> String {
    let text = std::fs::read(broker.runtime_directory().join("endpoint.json")).expect("a running broker has an endpoint file");
    format!("tcp://127.0.0.1:{}", crate::json(&text)["tcp"][port])
}

fn broker_key(broker: &Broker) -> PublicKey {
    let key = broker.endpoint()["public_key"].as_str().and_then(|key| key.parse().ok());
    key.expect("the endpoint file has the broker's key")
}
