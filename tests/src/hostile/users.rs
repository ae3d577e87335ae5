//! Attacks by users who are let in.

use std::time::Duration;

use serde_json::json;

use super::attack::Progress;
use super::{PUBLIC_PREFIX, Target};

/// Pace of those who would else only measure how fast they are themselves.
const PAUSE: Duration = Duration::from_millis(10);

fn is_sent(socket: &zmq::Socket, body: &[u8]) -> bool {
    socket.send(body, zmq::DONTWAIT).is_ok()
}

/// Reads what has come.
fn drain(socket: &zmq::Socket) {
    while socket.recv_bytes(zmq::DONTWAIT).is_ok() {}
}

pub(super) fn huge_multiparts(target: &Target, progress: &Progress) {
    const FRAMES: usize = 4_000;
    const FRAME_BYTES: usize = 8_000;
    let context = zmq::Context::new();
    let dealer = target.socket(&context, zmq::DEALER, &target.restricted, target.router);
    dealer.set_sndhwm(1).expect("every socket has a high-water mark");
    let frame = vec![b'm'; FRAME_BYTES];
    'attack: while !progress.is_over() {
        for index in 0..FRAMES {
            let flags = zmq::DONTWAIT | if index + 1 < FRAMES { zmq::SNDMORE } else { 0 };
            while dealer.send(&frame[..], flags).is_err() {
                if progress.is_over() {
                    break 'attack;
                }
                std::thread::sleep(PAUSE);
            }
        }
        progress.add(1);
        drain(&dealer);
        std::thread::sleep(PAUSE);
    }
}

pub(super) fn unread_scans(target: &Target, progress: &Progress) {
    const CONNECTIONS: usize = 64;
    let context = zmq::Context::new();
    let scan = json!({"op": "scan", "prefix": PUBLIC_PREFIX, "limit": 10_000}).to_string();
    let dealers: Vec<zmq::Socket> =
        (0..CONNECTIONS).map(|_| target.socket(&context, zmq::DEALER, &target.restricted, target.router)).collect();
    while !progress.is_over() {
        for dealer in &dealers {
            progress.add(u64::from(is_sent(dealer, scan.as_bytes())));
        }
        std::thread::sleep(PAUSE);
    }
}

pub(super) fn subscriptions(target: &Target, progress: &Progress) {
    // So many of each are more than enough; with more the attacker would only fill its own memory.
    subscribe_for_ever(target, progress, 8, 30_000, 64);
}

pub(super) fn large_subscriptions(target: &Target, progress: &Progress) {
    subscribe_for_ever(target, progress, 100, 2_000, 1_000);
}

fn subscribe_for_ever(target: &Target, progress: &Progress, connections: usize, each: u64, topic_bytes: usize) {
    const AT_ONCE: u64 = 1_000;
    let rest = vec![b't'; topic_bytes.saturating_sub(9)];
    let mut next = 0_u64;
    while !progress.is_over() {
        let context = zmq::Context::new();
        let sockets: Vec<zmq::Socket> = (0..connections)
            .map(|_| {
                let socket = target.socket(&context, zmq::SUB, &target.reader, target.publisher);
                socket.set_sndhwm(0).expect("every socket has a high-water mark");
                socket
            })
            .collect();
        for _ in 0..each / AT_ONCE {
            for socket in &sockets {
                for _ in 0..AT_ONCE {
                    next += 1;
                    let topic = [&b"k"[..], &next.to_be_bytes(), &rest].concat();
                    socket.set_subscribe(&topic).expect("a SUB takes every topic");
                }
                progress.add(AT_ONCE);
                // The socket must be looked at for what it has to send.
                drain(socket);
                if progress.is_over() {
                    return;
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

pub(super) fn refused_subscriptions(target: &Target, progress: &Progress) {
    while !progress.is_over() {
        let context = zmq::Context::new();
        let sockets: Vec<zmq::Socket> =
            (0..8).map(|_| target.socket(&context, zmq::SUB, &target.restricted, target.publisher)).collect();
        for socket in &sockets {
            for number in 0..1_000_u32 {
                socket.set_subscribe(&number.to_be_bytes()).expect("a SUB takes every topic");
            }
            assert!(socket.recv_bytes(zmq::DONTWAIT).is_err(), "a restricted key hears nothing");
            progress.add(1);
        }
        std::thread::sleep(PAUSE * 10);
        for socket in &sockets {
            assert!(socket.recv_bytes(zmq::DONTWAIT).is_err(), "a restricted key hears nothing");
        }
    }
}

pub(super) fn sessions(target: &Target, progress: &Progress) {
    let hello = json!({"op": "hello"}).to_string();
    flood(target, progress, |_| hello.clone());
}

pub(super) fn parked_events(target: &Target, progress: &Progress) {
    // Half of them with a predicate that is dear to compile, each time that one is decided.
    let filters = [json!(null), json!("@value ~ '[01]*1[01]{400}x' or @value ~ '[01]*1[01]{401}x'")];
    flood(target, progress, |id| {
        let filter = &filters[usize::from(id % 2 == 1)];
        json!({"id": id, "op": "events", "prefix": PUBLIC_PREFIX, "wait": 60_000, "where": filter}).to_string()
    });
}

/// Requests without a pause over some connections; replies are read and forgotten.
fn flood(target: &Target, progress: &Progress, request: impl Fn(u64) -> String) {
    let context = zmq::Context::new();
    let dealers: Vec<zmq::Socket> =
        (0..8).map(|_| target.socket(&context, zmq::DEALER, &target.restricted, target.router)).collect();
    let mut id = 0;
    while !progress.is_over() {
        for dealer in &dealers {
            for _ in 0..100 {
                id += 1;
                progress.add(u64::from(is_sent(dealer, request(id).as_bytes())));
            }
            drain(dealer);
        }
        std::thread::sleep(PAUSE);
    }
}
