//! A broker that may open few files stays alive and serves, whoever connects how often.
//!
//! - Without the bound on connections libzmq's unix socket listener ends the process as soon as no descriptor is left, and its TCP listener
//!   spins: both are tried at once here.

#![allow(clippy::unwrap_used)]

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kvbroker_tests::hostile::raise_descriptors;
use kvbroker_tests::{Broker, BrokerOptions, PATIENCE, wait_until};
use serde_json::json;

/// A broker that may open so many files.
fn within(descriptors: usize) -> BrokerOptions {
    let limit = format!("ulimit -n {descriptors}; exec \"$@\"");
    BrokerOptions::default().wrapper(["sh", "-c", &limit, "sh"])
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn more_connections_than_descriptors() {
    raise_descriptors();
    let mut broker = Broker::start(within(400));
    let address = |name: &str| format!("127.0.0.1:{}", broker.endpoint()["tcp"][name]);
    let (router, publisher) = (address("port"), address("pub_port"));
    let sockets = [broker.router_socket(), broker.pub_socket()];
    let local = broker.dealer();
    let (stop, made) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // Also if this thread panics: the others would be waited for.
        let _stop = StopAtEnd(stop);
        for address in [&router, &publisher, &router, &publisher] {
            scope.spawn(move || {
                let mut streams = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let Ok(stream) = TcpStream::connect(address) else { continue };
                    streams.push(stream);
                    made.fetch_add(1, Ordering::Release);
                    if streams.len() == 1_000 {
                        streams.drain(..500);
                    }
                }
            });
        }
        for path in &sockets {
            scope.spawn(move || {
                let mut streams = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    streams.extend(UnixStream::connect(path).ok());
                    if streams.len() == 30 {
                        streams.clear();
                    }
                }
            });
        }
        let mut round = 0;
        wait_until(PATIENCE * 2, "many have connected", || {
            assert_eq!(local.ask_json(&json!({"op": "put", "key": "k", "value": round}))["status"], "ok");
            // A newcomer of the owner's, too.
            assert_eq!(broker.dealer().ask_json(&json!({"op": "get", "key": "k"}))["value"], round);
            round += 1;
            (made.load(Ordering::Acquire) > 10_000 && round > 50).then_some(())
        });
        assert!(broker.stat("connections_cut") > 1_000);
        assert!(broker.stat("pub_connections_cut") > 1_000);
    });
    assert!(broker.try_wait().is_none(), "the broker has ended");
    assert_eq!(broker.dealer_on_tcp().ask_json(&json!({"op": "size"}))["status"], "ok");
    broker.stop();
}

#[test]
fn a_broker_without_room_for_clients_says_so_and_does_not_start() {
    let ended = Broker::try_start(within(100)).unwrap_err();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("only 100 files may be open") && ended.stderr.contains("ulimit -n"), "{}", ended.stderr);
}
