//! Peers that call themselves something: a routing id, a user, a connection. None of it is believed.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};

use kvbroker_tests::{Broker, BrokerOptions, PATIENCE, User, json, wait_until};
use serde_json::json;

/// A client's connection ends while it waits for changes. Whoever comes then under the same routing id gets nothing of its answer.
#[test]
fn a_reply_is_for_the_connection_that_asked_and_not_for_a_later_one_of_that_name() {
    let broker = Broker::plain();
    let owner = broker.dealer();
    let stranger = User::new();
    let granted = owner.ask_json(&json!({"op": "authorize", "key": stranger.key(), "role": "read", "prefixes": ["own/"]}));
    assert_eq!(granted["status"], "ok", "{granted}");

    let context = zmq::Context::new();
    let waiting = context.socket(zmq::DEALER).unwrap();
    waiting.set_identity(b"watcher").unwrap();
    waiting.connect(&format!("ipc://{}", broker.router_socket().display())).unwrap();
    waiting.send(json!({"op": "events", "wait": 60_000, "id": 7}).to_string().as_bytes(), 0).unwrap();
    let has_one = |name: &str| wait_until(PATIENCE, name, || (broker.stat("events_waiting") == 1).then_some(()));
    has_one("the call is parked");
    waiting.set_linger(0).unwrap();
    drop((waiting, context));

    // While the first connection has not ended for the broker, this one is none of its name either.
    let attacker = stranger.dealer_called(&broker, b"watcher");
    let pong = attacker.ask_json(&json!({"op": "ping", "id": 1}));
    assert_eq!((&pong["status"], &pong["id"]), (&json!("ok"), &json!(1)), "the attacker is in");
    has_one("the call is still parked");
    let put = owner.ask_json(&json!({"op": "put", "key": "secret", "value": "42"}));
    assert_eq!(put["status"], "ok", "{put}");
    wait_until(PATIENCE, "the call is answered", || (broker.stat("events_waiting") == 0).then_some(()));
    // Replies leave in order: what the call was answered with left before the reply to this.
    attacker.send(&[json!({"op": "ping", "id": 2}).to_string()]);
    assert_eq!(json(&attacker.receive())["id"], json!(2), "nothing came in between");
}

/// Properties of the handshake that libzmq itself uses to say who a message is from.
#[test]
fn a_peer_cannot_say_in_its_handshake_who_it_is() {
    let broker = Broker::start(BrokerOptions::default().args(["--insecure"]));
    let mut forger = tcp_with_properties(
        broker.tcp_port(),
        &[("User-Id", "owner"), ("User-Id", "local"), ("user-id", "owner"), ("__fd", "0"), ("Peer-Address", "localhost:0:0:1")],
    );
    let hello = ask(&mut forger, br#"{"op":"hello"}"#);
    assert_eq!((&hello["user"], &hello["role"]), (&json!("anyone"), &json!("write")), "{hello}");
    let who = ask(&mut forger, br#"{"op":"who"}"#);
    assert_eq!(who["error"]["code"], "refused", "{who}");
}

fn property(name: &str, value: &str) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap().to_be_bytes();
    [&[u8::try_from(name.len()).unwrap()], name.as_bytes(), &length, value.as_bytes()].concat()
}

/// A ZMTP 3.1 connection without security whose READY has these properties beside that of a DEALER.
fn tcp_with_properties(port: u16, properties: &[(&str, &str)]) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10], greeting[11]) = (0xff, 0x7f, 3, 1);
    greeting[12..16].copy_from_slice(b"NULL");
    stream.write_all(&greeting).unwrap();
    stream.read_exact(&mut greeting).unwrap();
    let mut ready = [b"\x05READY", property("Socket-Type", "DEALER").as_slice()].concat();
    properties.iter().for_each(|(name, value)| ready.extend(property(name, value)));
    frame(&mut stream, 4, &ready);
    let (flags, _) = read_frame(&mut stream);
    assert_eq!(flags & 4, 4, "the broker's READY");
    stream
}

fn frame(stream: &mut impl Write, flags: u8, body: &[u8]) {
    stream.write_all(&[flags, u8::try_from(body.len()).unwrap()]).unwrap();
    stream.write_all(body).unwrap();
}

fn read_frame(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut flags = [0];
    stream.read_exact(&mut flags).unwrap();
    let mut length = [0; 8];
    let at = if flags[0] & 2 == 2 { 0 } else { 7 };
    stream.read_exact(&mut length[at..]).unwrap();
    let mut body = vec![0; usize::try_from(u64::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut body).unwrap();
    (flags[0], body)
}

fn ask(stream: &mut std::net::TcpStream, body: &[u8]) -> serde_json::Value {
    frame(stream, 0, body);
    json(&read_frame(stream).1)
}
