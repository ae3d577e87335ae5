//! Peers that mean harm, and clients that want their work done meanwhile: for the test that nobody notices, and for the figures.
//!
//! - An [`Attack`] is done by sockets of its own, with ZeroMQ or plain TCP, never by this project's client.
//! - An [`Attacker`] counts what it has done, so that an attack which did not happen can't pass as one that did no harm.
//! - [`Normal`] clients work at a fixed rate; each latency is taken from the moment at which the request was due.

mod attack;
mod normal;
mod strangers;
mod users;

use std::net::SocketAddr;
use std::path::PathBuf;

use kvbroker::keys::{KeyPair, PublicKey, SecretKey};
use serde_json::{Value, json};

pub use attack::{Attack, Attacker};
pub use normal::Normal;

use crate::Broker;

/// What restricted users may read.
pub const PUBLIC_PREFIX: &str = "public/";

/// A broker as its peers see it, with keys that it lets in.
#[derive(Clone)]
pub struct Target {
    /// The ROUTER's unix socket.
    pub router_socket: PathBuf,
    /// The ROUTER's TCP address, and the publisher's.
    pub router: SocketAddr,
    /// See `router`.
    pub publisher: SocketAddr,
    /// The broker's key.
    pub broker: PublicKey,
    /// The owner's own.
    pub owner: KeyPair,
    /// May read everything.
    pub reader: KeyPair,
    /// May read below [`PUBLIC_PREFIX`].
    pub restricted: KeyPair,
}

impl Target {
    /// Lets two keys into a broker and puts something there to read: `rows` values of a kilobyte below [`PUBLIC_PREFIX`].
    ///
    /// # Panics
    /// If the broker doesn't do as it is told.
    pub fn prepare(broker: &Broker, rows: usize) -> Target {
        let owner = owner_key(broker);
        let [reader, restricted] = [(); 2].map(|()| {
            let secret = SecretKey::generate().expect("the system has random numbers");
            KeyPair::from_secret(secret).expect("libzmq has CURVE")
        });
        let dealer = broker.dealer();
        let authorize = |pair: &KeyPair, prefixes: &[&str]| {
            let key = kvbroker_protocol::UserKey::from_bytes(*pair.public().as_bytes());
            let mut request = json!({"op": "authorize", "key": key.to_string(), "role": "read"});
            if !prefixes.is_empty() {
                request["prefixes"] = json!(prefixes);
            }
            let reply = dealer.ask_json(&request);
            assert_eq!(reply["status"], "ok", "{reply}");
        };
        authorize(&reader, &[]);
        authorize(&restricted, &[PUBLIC_PREFIX]);
        for first in (0..rows).step_by(500) {
            let put = |row| json!({"op": "put", "key": format!("{PUBLIC_PREFIX}{row:06}"), "value": "x".repeat(1_000)});
            let puts: Vec<Value> = (first..rows.min(first + 500)).map(put).collect();
            let reply = dealer.ask_json(&Value::Array(puts));
            assert!(reply["results"].is_array(), "{reply}");
        }
        let endpoint = broker.endpoint();
        let address = |name: &str| {
            let port = endpoint["tcp"][name].as_u64().and_then(|port| u16::try_from(port).ok());
            SocketAddr::from(([127, 0, 0, 1], port.expect("the endpoint file names the ports")))
        };
        let key = endpoint["public_key"].as_str().and_then(|key| key.parse().ok());
        Target {
            router_socket: broker.router_socket(),
            router: address("port"),
            publisher: address("pub_port"),
            broker: key.expect("the endpoint file has the broker's key"),
            owner,
            reader,
            restricted,
        }
    }

    /// A socket that proves a key and knows the broker's.
    pub(crate) fn socket(&self, context: &zmq::Context, kind: zmq::SocketType, own: &KeyPair, to: SocketAddr) -> zmq::Socket {
        let socket = context.socket(kind).expect("an attacker has free descriptors");
        socket.set_linger(0).expect("every socket has a linger");
        socket.set_curve_secretkey(own.secret().expose_bytes()).expect("32 bytes are a key");
        socket.set_curve_publickey(own.public().as_bytes()).expect("32 bytes are a key");
        socket.set_curve_serverkey(self.broker.as_bytes()).expect("32 bytes are a key");
        socket.set_sndhwm(10_000).expect("every socket has a high-water mark");
        // It counts for connections made afterwards. With more, ZeroMQ would read replies that the attacker doesn't.
        socket.set_rcvhwm(1).expect("every socket has a high-water mark");
        socket.connect(&format!("tcp://{to}")).expect("a broker's address is a good one");
        socket
    }
}

fn owner_key(broker: &Broker) -> KeyPair {
    let text = std::fs::read_to_string(broker.home().path().join("config/id")).expect("a broker's owner has a key");
    let secret = text.lines().find_map(|line| SecretKey::from_text(line).ok()).expect("the key file has a secret key");
    KeyPair::from_secret(secret).expect("libzmq has CURVE")
}

/// Lets this process have as many descriptors as it may.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = getrlimit(Resource::Nofile);
    // What it has may be enough; an attack that finds no descriptor says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
}
