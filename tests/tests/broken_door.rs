//! Brokers whose authentication is broken, in builds for tests (`KVBROKER_TEST_DOOR`): nobody gets in, the owner neither.
//!
//! - The same peers are let in by a broker whose door is whole: each case is tried there first.
//! - What must not happen is not waited for: that a peer was turned away is an event of its own.

#![allow(clippy::unwrap_used)]

use kvbroker::keys::{KeyPair, PublicKey, SecretKey};
use kvbroker_tests::{Broker, BrokerOptions, Cli, PATIENCE, unpack, wait_until};
use serde_json::json;
use zmq::{SocketEvent, SocketType};

fn broker(door: Option<&str>) -> Broker {
    let mut options = BrokerOptions::default();
    options.env.extend(door.map(|door| ("KVBROKER_TEST_DOOR".into(), door.into())));
    let broker = Broker::start(options);
    let is_broken = broker.stderr().contains("door is broken");
    assert_eq!(is_broken, door.is_some(), "only a build with debug assertions can be broken for a test:\n{}", broker.stderr());
    broker
}

/// A peer that tries to get in.
struct Peer {
    socket: zmq::Socket,
    events: zmq::Socket,
    way: String,
}

impl Peer {
    fn new(kind: SocketType, address: &str, keys: Option<(&KeyPair, &PublicKey)>) -> Peer {
        let context = zmq::Context::new();
        let socket = context.socket(kind).unwrap();
        socket.set_linger(0).unwrap();
        socket.monitor("inproc://events", SocketEvent::ALL as i32).unwrap();
        let events = context.socket(zmq::PAIR).unwrap();
        events.connect("inproc://events").unwrap();
        if let Some((own, broker)) = keys {
            socket.set_curve_publickey(own.public().as_bytes()).unwrap();
            socket.set_curve_secretkey(own.secret().expose_bytes()).unwrap();
            socket.set_curve_serverkey(broker.as_bytes()).unwrap();
        }
        if kind == zmq::SUB {
            socket.set_subscribe(b"").unwrap();
        }
        socket.connect(address).unwrap();
        Peer { socket, events, way: format!("{kind:?} on {address}") }
    }

    /// Whether it was let in; the first word about it counts.
    fn is_let_in(&self) -> bool {
        const LET_IN: u16 = SocketEvent::HANDSHAKE_SUCCEEDED as u16;
        const TURNED_AWAY: [u16; 4] = [
            SocketEvent::HANDSHAKE_FAILED_AUTH as u16,
            SocketEvent::HANDSHAKE_FAILED_NO_DETAIL as u16,
            SocketEvent::HANDSHAKE_FAILED_PROTOCOL as u16,
            SocketEvent::DISCONNECTED as u16,
        ];
        wait_until(PATIENCE, &format!("{} is let in or turned away", self.way), || {
            let frames = self.events.recv_multipart(zmq::DONTWAIT).ok()?;
            match u16::from_ne_bytes([frames[0][0], frames[0][1]]) {
                LET_IN => Some(true),
                event if TURNED_AWAY.contains(&event) => Some(false),
                _ => None,
            }
        })
    }
}

/// The owner by every way that there is: requests and notifications, unix sockets and TCP.
fn peers(broker: &Broker) -> [Peer; 4] {
    let text = std::fs::read_to_string(broker.home().path().join("config/id")).unwrap();
    let secret = text.lines().find_map(|line| SecretKey::from_text(line).ok()).unwrap();
    let owner = KeyPair::from_secret(secret).unwrap();
    let endpoint = broker.endpoint();
    let public: PublicKey = endpoint["public_key"].as_str().unwrap().parse().unwrap();
    let tcp = |port: &str| format!("tcp://127.0.0.1:{}", endpoint["tcp"][port]);
    let ipc = |path: std::path::PathBuf| format!("ipc://{}", path.display());
    [
        Peer::new(zmq::DEALER, &ipc(broker.router_socket()), None),
        Peer::new(zmq::SUB, &ipc(broker.pub_socket()), None),
        Peer::new(zmq::DEALER, &tcp("port"), Some((&owner, &public))),
        Peer::new(zmq::SUB, &tcp("pub_port"), Some((&owner, &public))),
    ]
}

#[test]
fn without_a_handler_nobody_gets_in() {
    let whole = broker(None);
    for peer in peers(&whole) {
        assert!(peer.is_let_in(), "{}", peer.way);
    }
    Cli::new(whole.home()).ok(&["test", "put", "k", "v"]);

    let broken = broker(Some("no-handler"));
    for peer in peers(&broken) {
        assert!(!peer.is_let_in(), "{}", peer.way);
    }
    let said = Cli::new(broken.home()).run(&["--timeout", "2s", "test", "put", "k", "v"]);
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
}

#[test]
fn a_request_without_a_user_is_refused() {
    let broken = broker(Some("no-user-id"));
    let [local, _, remote, _] = peers(&broken);
    for peer in [local, remote] {
        // It passes the door, but as nobody.
        assert!(peer.is_let_in(), "{}", peer.way);
        for request in
            [json!({"op": "put", "key": "k", "value": 1}), json!({"op": "size"}), json!({"op": "hello"}), json!({"op": "ping"})]
        {
            peer.socket.send(rmp_serde::to_vec(&request).unwrap(), 0).unwrap();
            let reply = wait_until(PATIENCE, "a reply", || peer.socket.recv_bytes(zmq::DONTWAIT).ok());
            let reply = unpack(&reply);
            assert_eq!((&reply["error"]["code"], &reply["rev"]), (&json!("refused"), &json!(null)), "{reply}");
        }
    }
}
