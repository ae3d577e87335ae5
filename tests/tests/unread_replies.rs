//! What clients do not read takes a bounded part of the broker's memory, and no other client notices.
//!
//! - A [`Mute`] speaks ZMTP by itself and reads nothing behind the handshake: all that is between it and the broker's memory is the
//!   kernel's buffer.
//! - Values have 8 MB, so that two replies are more than a client's credit.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use kvbroker::keys::KeyPair;
use kvbroker::paths::Dirs;
use kvbroker_protocol::{Answer, Operation, Stored, UserKey, limits};
use kvbroker_tests::{Broker, PATIENCE, RawClient, wait_until};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const BIG_BYTES: usize = 8_000_000;
const GET_BIG: &str = r#"{"op":"get","key":"big"}"#;
/// What a broker with a big value, the lists of sessions and so on may take.
const BASE_MIB: u64 = 160;
/// Replies on their way to the front end are there twice for a moment: as values, and encoded.
const ON_THE_WAY_MIB: u64 = limits::RELEASE_BYTES_MAX as u64 / MIB;

fn broker_with_a_big_value() -> Broker {
    let broker = Broker::plain();
    let put = json!({"op": "put", "key": "big", "value": "x".repeat(BIG_BYTES)});
    assert_eq!(broker.dealer().ask_json(&put)["status"], "ok");
    broker
}

/// A DEALER that asks and never reads an answer.
struct Mute(UnixStream);

impl Mute {
    fn connect(router_socket: &Path) -> Mute {
        let mut stream = UnixStream::connect(router_socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 64];
        greeting[..16].copy_from_slice(b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0NULL");
        let ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER";
        stream.write_all(&[&greeting[..], &[4, ready.len() as u8], ready].concat()).unwrap();
        stream.read_exact(&mut [0; 64]).unwrap();
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[0], 4, "a command");
        stream.read_exact(&mut vec![0; usize::from(head[1])]).unwrap();
        Mute(stream)
    }

    fn ask(&mut self, body: &str, times: usize) {
        let message = [&[0, body.len() as u8], body.as_bytes()].concat();
        self.0.write_all(&message.repeat(times)).unwrap();
    }
}

fn until_stat(broker: &Broker, name: &str, holds: impl Fn(u64) -> bool) -> u64 {
    wait_until(PATIENCE, name, || Some(broker.stat(name)).filter(|value| holds(*value)))
}

fn has_at_most(broker: &Broker, mib: u64) {
    let memory = broker.memory();
    println!("memory {} MiB, at most {} MiB", memory.now / MIB, memory.peak / MIB);
    assert!(memory.peak <= mib * MIB, "the broker took {} MiB, more than {mib}", memory.peak / MIB);
}

/// Small requests of a client that does nothing wrong.
fn is_served(client: &RawClient) {
    for round in 0..5 {
        assert_eq!(client.ask_json(&json!({"op": "put", "key": "small", "value": round}))["status"], "ok");
        assert_eq!(client.ask_json(&json!({"op": "get", "key": "small"}))["value"], round);
    }
}

#[test]
fn a_client_that_does_not_read_cannot_bloat_the_broker() {
    let mut broker = broker_with_a_big_value();
    let normal = broker.dealer();
    let mut mute = Mute::connect(&broker.router_socket());
    mute.ask(GET_BIG, 200);
    until_stat(&broker, "held_clients", |held| held == 1);
    let unread = broker.stat("unread_reply_bytes");
    assert!(unread > limits::REPLY_CREDIT_BYTES as u64 && unread < 3 * BIG_BYTES as u64, "{unread} bytes");
    // It goes on asking; it may say what it likes.
    mute.ask(r#"{"op":"get","key":"big","got":18446744073709551615}"#, 200);
    is_served(&normal);
    let waiting = until_stat(&broker, "intake_calls", |waiting| waiting >= 398);
    assert_eq!(waiting, 398, "all but the two that were answered wait");
    has_at_most(&broker, BASE_MIB);
    // What it asked for and did not get costs nothing once it is gone.
    drop(mute);
    until_stat(&broker, "intake_calls", |waiting| waiting == 0);
    until_stat(&broker, "unread_reply_bytes", |unread| unread == 0);
    assert_eq!(broker.stat("held_clients"), 0);
    has_at_most(&broker, BASE_MIB);
    broker.stop();
}

#[test]
fn refusals_that_nobody_reads_are_bounded_as_well() {
    let mut broker = Broker::plain();
    let normal = broker.dealer();
    let mut mute = Mute::connect(&broker.router_socket());
    // An envelope of 4 MB comes back with each answer.
    let envelope = vec![b'e'; 4_000_000];
    let frame = |flags: u8, bytes: &[u8]| [&[flags | 2], &(bytes.len() as u64).to_be_bytes()[..], bytes].concat();
    let message = [frame(1, &envelope), frame(1, b""), frame(0, br#"{"op":"fly"}"#)].concat();
    for _ in 0..100 {
        mute.0.write_all(&message).unwrap();
    }
    until_stat(&broker, "refused", |refused| refused >= 100);
    is_served(&normal);
    assert!(broker.stat("unread_reply_bytes") < 10_000_000);
    assert!(broker.stat("replies_dropped") > 90);
    has_at_most(&broker, BASE_MIB);
    broker.stop();
}

#[test]
fn a_client_that_reads_slowly_gets_every_answer() {
    const ASKED: u64 = 30;
    let mut broker = broker_with_a_big_value();
    let normal = broker.dealer();
    let slow = broker.dealer();
    slow.socket().set_rcvhwm(1).unwrap();
    slow.socket().disconnect(&format!("ipc://{}", broker.router_socket().display())).unwrap();
    slow.socket().connect(&format!("ipc://{}", broker.router_socket().display())).unwrap();
    for id in 0..ASKED {
        slow.send(&[json!({"id": id, "op": "get", "key": "big"}).to_string()]);
    }
    for id in 0..ASKED {
        is_served(&normal);
        if id < ASKED / 2 {
            until_stat(&broker, "held_clients", |held| held == 1);
        }
        let reply: Value = serde_json::from_slice(&slow.receive()).unwrap();
        assert_eq!((&reply["id"], &reply["status"]), (&json!(id), &json!("ok")), "in their order, and no refusal among them");
        assert_eq!(reply["value"].as_str().unwrap().len(), BIG_BYTES);
    }
    until_stat(&broker, "unread_reply_bytes", |unread| unread == 0);
    has_at_most(&broker, BASE_MIB);
    broker.stop();
}

#[test]
fn a_req_reads_one_large_reply_after_the_other() {
    let mut broker = broker_with_a_big_value();
    let req = broker.req();
    for _ in 0..10 {
        assert_eq!(req.ask_json(&json!({"op": "get", "key": "big"}))["value"].as_str().unwrap().len(), BIG_BYTES);
    }
    broker.stop();
}

#[test]
fn many_clients_that_do_not_read_leave_the_others_alone() {
    let mut broker = broker_with_a_big_value();
    let normal = broker.dealer();
    let mut mutes: Vec<Mute> = Vec::new();
    let more = |mutes: &mut Vec<Mute>, count: usize| {
        for _ in 0..count {
            let mut mute = Mute::connect(&broker.router_socket());
            mute.ask(GET_BIG, 20);
            mutes.push(mute);
        }
    };
    more(&mut mutes, 8);
    until_stat(&broker, "held_clients", |held| held == 8);
    is_served(&normal);
    let reply = normal.ask_json(&json!({"op": "get", "key": "big"}));
    assert_eq!(reply["value"].as_str().unwrap().len(), BIG_BYTES, "there is room for large replies to others");
    has_at_most(&broker, BASE_MIB + ON_THE_WAY_MIB + 8 * 16);
    // So many that together they use up what there is: small replies go on, large ones are refused for the time being.
    more(&mut mutes, 50);
    until_stat(&broker, "unread_reply_bytes", |unread| unread >= limits::REPLIES_BYTES_MAX as u64);
    is_served(&normal);
    let refused = normal.ask_json(&json!({"op": "get", "key": "big"}));
    assert_eq!(refused["error"]["code"], "busy", "{}", refused["error"]);
    let page = normal.ask_json(&json!({"op": "scan", "from": "c"}));
    assert_eq!(page["rows"][0][0], "small");
    has_at_most(&broker, BASE_MIB + ON_THE_WAY_MIB + limits::REPLIES_BYTES_MAX as u64 / MIB + 16);
    // When they are gone it is as before.
    drop(mutes);
    until_stat(&broker, "unread_reply_bytes", |unread| unread == 0);
    assert_eq!(normal.ask_json(&json!({"op": "get", "key": "big"}))["status"], "ok");
    broker.stop();
}

/// A connection of this user over TCP. If it is not to read, libzmq takes one message and the kernel's buffers what fits.
fn of_user(broker: &Broker, keys: &KeyPair, reads: bool) -> RawClient {
    let address = format!("tcp://127.0.0.1:{}", broker.tcp_port());
    let broker_key = broker.endpoint()["public_key"].as_str().unwrap().parse().unwrap();
    let client = RawClient::on_tcp(&address, keys, &broker_key);
    if !reads {
        client.socket().set_rcvhwm(1).unwrap();
        client.socket().disconnect(&address).unwrap();
        client.socket().connect(&address).unwrap();
    }
    client
}

#[test]
fn a_user_whose_clients_do_not_read_takes_its_own_part_and_no_more() {
    const MUTES: usize = 10;
    let mut broker = broker_with_a_big_value();
    let owner = broker.dealer();
    let keys = KeyPair::generate().unwrap();
    let grant = json!({"op": "authorize", "key": UserKey::from_bytes(*keys.public().as_bytes()).to_string(), "role": "write", "prefixes": ["big", "small"]});
    assert_eq!(owner.ask_json(&grant)["status"], "ok");
    let other = of_user(&broker, &keys, true);
    let big = json!({"op": "get", "key": "big"});
    assert_eq!(other.ask_json(&big)["status"], "ok");
    assert_eq!(other.ask_json(&json!({"op": "get", "key": "x"}))["error"]["code"], "refused");

    let mutes: Vec<RawClient> = (0..MUTES).map(|_| of_user(&broker, &keys, false)).collect();
    for mute in &mutes {
        (0..20).for_each(|_| mute.send(&[GET_BIG]));
    }
    let part = limits::USER_REPLIES_BYTES_MAX as u64;
    // Its other clients have to do with small replies as soon as the last of these takes no more.
    wait_until(PATIENCE, "large replies are refused", || (other.ask_json(&big)["error"]["code"] == "busy").then_some(()));
    is_served(&other);
    let unread = broker.stat("unread_reply_bytes");
    assert!(unread > part / 2 && unread < part + 2 * BIG_BYTES as u64, "{unread} bytes");
    // Nobody else notices.
    is_served(&owner);
    assert_eq!(owner.ask_json(&big)["value"].as_str().unwrap().len(), BIG_BYTES);
    has_at_most(&broker, BASE_MIB + part / MIB + 2 * 16);
    drop(mutes);
    until_stat(&broker, "unread_reply_bytes", |unread| unread == 0);
    assert_eq!(other.ask_json(&big)["status"], "ok");
    broker.stop();
}

#[test]
fn the_library_reads_many_big_values_at_once() {
    const VALUES: usize = 40;
    let mut broker = Broker::plain();
    let options = ConnectOptions::new()
        .dirs(Dirs::under(broker.home().path()).unwrap())
        .catalogs(CatalogList::none())
        .timeout(Duration::from_secs(120));
    let client = Client::connect_with("test", options).unwrap();
    let value = |number: usize| Stored::text(&number.to_string().repeat(BIG_BYTES / 8)).unwrap();
    let key = |number: usize| format!("big/{number}").into_bytes();
    for number in 0..4 {
        let put = Operation::Put { key: key(number), value: value(number), condition: None, ttl_ms: None };
        client.pipeline().submit(put).wait().unwrap();
    }
    let mut pipeline = client.pipeline();
    let tickets: Vec<_> = (0..VALUES).map(|at| pipeline.submit(Operation::Get { key: key(at % 4) })).collect();
    for (at, ticket) in tickets.into_iter().enumerate() {
        let (answer, _) = ticket.wait().unwrap_or_else(|error| panic!("get {at}: {error}"));
        assert!(matches!(&answer, Answer::Value { value: found, .. } if *found == value(at % 4)), "get {at}");
    }
    until_stat(&broker, "unread_reply_bytes", |unread| unread == 0);
    broker.stop();
}
