//! Who is at the other end, and what is said when it is nobody, or somebody else.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::client::fake::{Act, Bind, FakeBroker, Place};
use crate::transport::ServerOptions;
use crate::zap::{Policy, SecuredContext};

fn expected(place: &Place, broker: Option<u8>) -> Expected {
    Expected { project: place.project.clone(), broker: broker.map(|byte| BrokerId([byte; 16])), owner: None }
}

fn open_for(route: &Route, own: Option<&KeyPair>, expected: &Expected, wait_ms: u64) -> Result<Connection, ConnectError> {
    let context = Context::new(1).unwrap();
    let now = Instant::now();
    let mut progress = Progress::new(None, now);
    let patience = Patience { handshake: None, given_up: None, until: Some(now + Duration::from_millis(wait_ms)) };
    Connection::open(&context, route, own, expected, patience, &mut progress)
}

fn local(place: &Place) -> Route {
    let runtime = place.runtime();
    Route::Local { router: runtime.router_socket(), publisher: runtime.pub_socket() }
}

#[test]
fn hello_makes_a_connection_and_checks_who_answers() {
    let place = Place::new();
    let _broker = place.broker(1, |_| Act::Ignore);
    let route = local(&place);
    let connection = open_for(&route, None, &expected(&place, Some(1)), 5_000).unwrap();
    assert_eq!(connection.hello().broker, BrokerId([1; 16]));
    let error = open_for(&route, None, &expected(&place, Some(2)), 5_000).unwrap_err();
    assert!(matches!(error, ConnectError::SomebodyElse { .. }), "{error}");
    let other = Expected { project: "other".parse().unwrap(), broker: None, owner: None };
    let error = open_for(&route, None, &other, 5_000).unwrap_err();
    assert!(error.to_string().contains("serves the project \"lab\", not other"), "{error}");
}

#[test]
fn nobody_there_is_said_at_once() {
    let place = Place::new();
    let start = Instant::now();
    let error = open_for(&local(&place), None, &expected(&place, None), 60_000).unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let own = KeyPair::generate().unwrap();
    let route = Route::Network { address: port, key: *own.public() };
    let error = open_for(&route, Some(&own), &expected(&place, None), 60_000).unwrap_err();
    assert!(error.to_string().contains("firewall"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(matches!(open_for(&route, None, &expected(&place, None), 1), Err(ConnectError::Transport(_))));
}

#[test]
fn a_port_that_says_nothing_runs_out_of_time() {
    let place = Place::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = KeyPair::generate().unwrap();
    let route = Route::Network { address: silent.local_addr().unwrap(), key: *own.public() };
    let error = open_for(&route, Some(&own), &expected(&place, None), 300).unwrap_err();
    assert!(matches!(error, ConnectError::Silent { .. }), "{error}");
}

#[test]
fn the_key_decides_on_the_network() {
    let place = Place::new();
    let (keys, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let broker = FakeBroker::start(&place.project, 1, Bind::Curve(&keys), |_| Act::Ignore);
    let address = broker.address.unwrap();
    let right = Route::Network { address, key: *keys.public() };
    assert!(open_for(&right, Some(&own), &expected(&place, Some(1)), 5_000).is_ok());
    let wrong = Route::Network { address, key: *own.public() };
    let error = open_for(&wrong, Some(&own), &expected(&place, Some(1)), 5_000).unwrap_err();
    assert!(matches!(error, ConnectError::Unproven { .. }), "{error}");
    // A broker that encrypts is not talked to without.
    let plain = Route::Unprotected { address };
    let error = open_for(&plain, None, &expected(&place, Some(1)), 5_000).unwrap_err();
    assert!(error.to_string().contains("wants encryption"), "{error}");
    // A Hello that names another owner than the one whose key was accepted.
    let anns = |owner: &str| Expected { owner: Some(owner.into()), ..expected(&place, Some(1)) };
    assert!(open_for(&right, Some(&own), &anns("ann"), 5_000).is_ok());
    let error = open_for(&right, Some(&own), &anns("bob"), 5_000).unwrap_err();
    assert!(error.to_string().contains("it is ann's, not bob's"), "{error}");
}

#[test]
fn a_broker_that_does_not_admit_us_is_said_to_refuse() {
    let place = Place::new();
    let (keys, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let policy = Policy::owner_only(*keys.public());
    let secured = SecuredContext::start(1, policy, Arc::new(|_: &str| {})).unwrap();
    let mut router = secured.router(&ServerOptions::default()).unwrap();
    let address = router.bind_tcp(&keys, "127.0.0.1".parse().unwrap(), 0).unwrap();
    let route = Route::Network { address, key: *keys.public() };
    let error = open_for(&route, Some(&own), &expected(&place, None), 5_000).unwrap_err();
    let ConnectError::Refused { why, .. } = &error else { panic!("{error}") };
    assert!(why.contains("does not admit your key"), "{why}");
}
