//! Clients as a stranger writes them: plain ZeroMQ sockets and the words of docs/protocol.md.

use std::path::Path;
use std::time::{Duration, Instant};

use kvbroker::keys::{KeyPair, PublicKey};
use serde_json::Value;

use crate::PATIENCE;

/// A DEALER or REQ on a broker's unix socket.
pub struct RawClient {
    socket: zmq::Socket,
    context: zmq::Context,
    is_dealer: bool,
}

/// A SUB on a broker's unix socket.
pub struct RawSubscriber(zmq::Socket);

fn new_socket(context: &zmq::Context, kind: zmq::SocketType) -> zmq::Socket {
    let socket = context.socket(kind).expect("a test has free descriptors");
    socket.set_linger(0).expect("every socket has a linger");
    // A test that wants to send much must not be told to slow down.
    socket.set_sndhwm(0).expect("every socket has a high-water mark");
    socket.set_rcvhwm(0).expect("every socket has a high-water mark");
    socket
}

fn encrypt(socket: &zmq::Socket, own: &KeyPair, broker: &PublicKey) {
    socket.set_curve_secretkey(own.secret().expose_bytes()).expect("32 bytes are a key");
    socket.set_curve_publickey(own.public().as_bytes()).expect("32 bytes are a key");
    socket.set_curve_serverkey(broker.as_bytes()).expect("32 bytes are a key");
}

fn connect(context: &zmq::Context, kind: zmq::SocketType, path: &Path) -> zmq::Socket {
    let socket = new_socket(context, kind);
    socket.connect(&format!("ipc://{}", path.display())).expect("a path of a broker is a good address");
    socket
}

fn receive(socket: &zmq::Socket, patience: Duration) -> Option<Vec<Vec<u8>>> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match socket.poll(zmq::POLLIN, i64::try_from(left.as_millis()).unwrap_or(i64::MAX)) {
            Ok(0) if left.is_zero() => return None,
            Ok(0) | Err(zmq::Error::EINTR) => {}
            Ok(_) => return Some(socket.recv_multipart(zmq::DONTWAIT).expect("a message is there as a whole")),
            Err(error) => panic!("poll: {error}"),
        }
    }
}

impl RawClient {
    /// A DEALER that sends bodies without an envelope.
    pub fn dealer(router_socket: &Path) -> RawClient {
        RawClient::new(zmq::DEALER, router_socket)
    }

    /// A REQ.
    pub fn req(router_socket: &Path) -> RawClient {
        RawClient::new(zmq::REQ, router_socket)
    }

    fn new(kind: zmq::SocketType, router_socket: &Path) -> RawClient {
        let context = zmq::Context::new();
        RawClient { socket: connect(&context, kind, router_socket), context, is_dealer: kind == zmq::DEALER }
    }

    /// A DEALER with CURVE: who the client is, and who the broker must be.
    ///
    /// # Panics
    /// If this is no address.
    pub fn on_tcp(address: &str, own: &KeyPair, broker: &PublicKey) -> RawClient {
        RawClient::on_tcp_as(address, own, broker, b"")
    }

    /// The same under a routing id of its own.
    ///
    /// # Panics
    /// If this is no address, or no routing id.
    pub fn on_tcp_as(address: &str, own: &KeyPair, broker: &PublicKey, routing_id: &[u8]) -> RawClient {
        let context = zmq::Context::new();
        let socket = new_socket(&context, zmq::DEALER);
        if !routing_id.is_empty() {
            socket.set_identity(routing_id).expect("at most 255 bytes are a routing id");
        }
        encrypt(&socket, own, broker);
        socket.set_ipv6(true).expect("every socket can have addresses of both families");
        socket.connect(address).expect("a broker's address is a good one");
        RawClient { socket, context, is_dealer: true }
    }

    /// A DEALER without any security, which proves nothing and asks for nothing.
    ///
    /// # Panics
    /// If this is no address.
    pub fn plain_on_tcp(address: &str) -> RawClient {
        let context = zmq::Context::new();
        let socket = new_socket(&context, zmq::DEALER);
        socket.set_ipv6(true).expect("every socket can have addresses of both families");
        socket.connect(address).expect("a broker's address is a good one");
        RawClient { socket, context, is_dealer: true }
    }

    /// The socket, for options.
    pub fn socket(&self) -> &zmq::Socket {
        &self.socket
    }

    /// A socket that receives a message when the connection has ended.
    ///
    /// # Panics
    /// If ZeroMQ refuses, or at the second call.
    pub fn watch_for_the_end(&self) -> zmq::Socket {
        const ENDPOINT: &str = "inproc://end-of-the-connection";
        self.socket.monitor(ENDPOINT, zmq::SocketEvent::DISCONNECTED as i32).expect("a socket can be watched once");
        let monitor = self.context.socket(zmq::PAIR).expect("a test has free descriptors");
        monitor.connect(ENDPOINT).expect("the socket is being watched");
        monitor
    }

    /// Sends these frames as one message.
    ///
    /// # Panics
    /// If ZeroMQ refuses.
    pub fn send<F: AsRef<[u8]>>(&self, frames: &[F]) {
        self.socket.send_multipart(frames.iter().map(AsRef::as_ref), 0).expect("a socket without a bound takes every message");
    }

    /// The next message's frames; `None` when none came in time.
    pub fn try_receive(&self, patience: Duration) -> Option<Vec<Vec<u8>>> {
        receive(&self.socket, patience)
    }

    /// The next message's last frame.
    ///
    /// # Panics
    /// If none comes, or it has an envelope (a DEALER sent it without).
    pub fn receive(&self) -> Vec<u8> {
        let mut frames = self.try_receive(PATIENCE).expect("no reply came");
        assert_eq!(frames.len(), 1, "a reply to a {} is one frame", if self.is_dealer { "bare DEALER" } else { "REQ" });
        frames.pop().unwrap_or_default()
    }

    /// Sends a body and receives its reply's body.
    ///
    /// # Panics
    /// If no reply comes.
    pub fn ask(&self, body: &[u8]) -> Vec<u8> {
        self.send(&[body]);
        self.receive()
    }

    /// Asks in JSON.
    ///
    /// # Panics
    /// If no reply comes or it is not JSON.
    pub fn ask_json(&self, request: &Value) -> Value {
        json(&self.ask(request.to_string().as_bytes()))
    }

    /// Asks in MessagePack.
    ///
    /// # Panics
    /// If no reply comes or it is not MessagePack.
    pub fn ask_pack(&self, request: &Value) -> Value {
        unpack(&self.ask(&pack(request)))
    }
}

impl RawSubscriber {
    /// A SUB without any security, on TCP.
    ///
    /// # Panics
    /// If this is no address.
    pub fn plain_on_tcp(address: &str, topics: &[&[u8]]) -> RawSubscriber {
        let socket = new_socket(&zmq::Context::new(), zmq::SUB);
        for topic in topics {
            socket.set_subscribe(topic).expect("a SUB can subscribe");
        }
        socket.connect(address).expect("a broker's address is a good one");
        RawSubscriber(socket)
    }

    /// A SUB with these topics.
    pub fn new(pub_socket: &Path, topics: &[&[u8]]) -> RawSubscriber {
        let socket = connect(&zmq::Context::new(), zmq::SUB, pub_socket);
        for topic in topics {
            socket.set_subscribe(topic).expect("a SUB takes every topic");
        }
        RawSubscriber(socket)
    }

    /// A SUB with CURVE: who the client is, and who the broker must be.
    ///
    /// # Panics
    /// If this is no address.
    pub fn on_tcp(address: &str, own: &KeyPair, broker: &PublicKey, topics: &[&[u8]]) -> RawSubscriber {
        let socket = new_socket(&zmq::Context::new(), zmq::SUB);
        encrypt(&socket, own, broker);
        for topic in topics {
            socket.set_subscribe(topic).expect("a SUB takes every topic");
        }
        socket.connect(address).expect("a broker's address is a good one");
        RawSubscriber(socket)
    }

    /// The socket, for options.
    pub fn socket(&self) -> &zmq::Socket {
        &self.0
    }

    /// The next message as topic and body; `None` when none came in time.
    ///
    /// # Panics
    /// If it has not two frames.
    pub fn try_receive(&self, patience: Duration) -> Option<(Vec<u8>, Vec<u8>)> {
        let frames: [Vec<u8>; 2] = receive(&self.0, patience)?.try_into().expect("a notification has two frames");
        let [topic, body] = frames;
        Some((topic, body))
    }
}

/// A reply's JSON.
///
/// # Panics
/// If it is none.
pub fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)))
}

/// MessagePack of a JSON value.
///
/// # Panics
/// Never: every JSON value has a MessagePack form.
pub fn pack(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("every JSON value has a MessagePack form")
}

/// A MessagePack reply as JSON; for replies without bytes and extensions.
///
/// # Panics
/// If it is none.
pub fn unpack(body: &[u8]) -> Value {
    rmp_serde::from_slice(body).unwrap_or_else(|error| panic!("{error}: {body:02x?}"))
}
