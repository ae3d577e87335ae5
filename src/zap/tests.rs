#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::keys::{KeyPair, SecretKey};

const PATIENCE: Duration = Duration::from_secs(20);

fn owner() -> PublicKey {
    *KeyPair::from_secret(SecretKey::generate().unwrap()).unwrap().public()
}

fn policy(owner: PublicKey) -> Policy {
    Policy { local_uid: 1_000, ..Policy::owner_only(owner) }
}

fn request(address: &str, mechanism: &str, credentials: &[&[u8]]) -> Vec<Message> {
    let fixed = ["1.0", "id-1", "kvbroker", address, "", mechanism];
    let mut frames: Vec<Message> = fixed.into_iter().map(Message::from).collect();
    frames.extend(credentials.iter().map(|credential| Message::from(*credential)));
    frames
}

#[test]
fn who_is_admitted_and_as_whom() {
    let (owner, stranger) = (owner(), owner());
    let (key, other): (&[u8], &[u8]) = (owner.as_bytes(), stranger.as_bytes());
    type Case<'a> = (&'a str, &'a str, &'a [&'a [u8]], Option<&'a str>);
    let cases: [Case<'_>; 20] = [
        ("localhost:1000:1000:4242", "NULL", &[], Some("local")),
        ("localhost:1000:0:1", "NULL", &[], Some("local")),
        ("localhost:1001:1000:4242", "NULL", &[], None),
        ("localhost:0:0:1", "NULL", &[], None),
        ("localhost", "NULL", &[], None),
        ("localhost:1000", "NULL", &[], None),
        ("localhost:1000:1000:", "NULL", &[], None),
        ("localhost:1000:1000:1:1", "NULL", &[], None),
        ("localhost:+1000:1000:1", "NULL", &[], None),
        ("localhost:99999999999999999999:0:1", "NULL", &[], None),
        ("127.0.0.1", "NULL", &[], None),
        ("::1", "NULL", &[], None),
        ("", "NULL", &[], None),
        ("127.0.0.1", "CURVE", &[key], Some("owner")),
        ("127.0.0.1", "CURVE", &[other], None),
        ("127.0.0.1", "CURVE", &[&key[..31]], None),
        ("127.0.0.1", "CURVE", &[], None),
        ("127.0.0.1", "CURVE", &[key, key], None),
        ("localhost:1000:1000:1", "NULL", &[b"more"], None),
        ("localhost:1000:1000:1", "PLAIN", &[b"admin", b"secret"], None),
    ];
    for (address, mechanism, credentials, expected) in cases {
        let answer = answer(&request(address, mechanism, credentials), &policy(owner));
        let got = (answer.status == "200").then_some(answer.user_id.as_str());
        assert_eq!(got, expected, "{address} {mechanism}: {answer:?}");
        assert!(got.is_some() || (answer.status == "400" && answer.user_id.is_empty()));
    }
}

#[test]
fn whoever_comes_by_tcp_is_anyone_where_that_is_wanted_and_never_the_owner() {
    let policy = Policy { plain_tcp: true, ..policy(owner()) };
    let cases = [
        ("127.0.0.1", Some("anyone")),
        ("2001:db8::7", Some("anyone")),
        ("fe80::1%eth0", Some("anyone")),
        ("localhost:1000:1000:1", Some("local")),
        ("localhost:1001:1001:1", None),
        ("localhost", None),
        ("", None),
        ("%", None),
    ];
    for (address, expected) in cases {
        let answer = answer(&request(address, "NULL", &[]), &policy);
        assert_eq!((answer.status == "200").then_some(answer.user_id.as_str()), expected, "{address}: {answer:?}");
    }
    let stranger = owner();
    assert_eq!(answer(&request("127.0.0.1", "CURVE", &[stranger.as_bytes()]), &policy).status, "400");
}

#[test]
fn a_user_who_is_kept_out_is_refused_however_it_comes() {
    let owner = owner();
    let policy = Policy { users: Arc::new(|user| user != "owner"), plain_tcp: true, ..policy(owner) };
    for (address, mechanism, credentials) in
        [("localhost:1000:1000:1", "NULL", &[][..]), ("127.0.0.1", "CURVE", &[&owner.as_bytes()[..]])]
    {
        assert_eq!(answer(&request(address, mechanism, credentials), &policy).status, "400");
    }
    assert_eq!(answer(&request("127.0.0.1", "NULL", &[]), &policy).user_id, "anyone");
}

#[test]
fn what_is_no_request_gets_an_answer_too() {
    let policy = policy(owner());
    for length in 0..FIXED_FRAMES {
        let mut frames = request("localhost:1000:1000:1", "NULL", &[]);
        frames.truncate(length);
        assert_eq!(answer(&frames, &policy).status, "500");
    }
    for version in ["", "1.1", "2.0", "1.0\0"] {
        let mut frames = request("localhost:1000:1000:1", "NULL", &[]);
        frames[0] = Message::from(version);
        assert_eq!(answer(&frames, &policy).status, "500");
    }
    for garbage in [&b"\xff\xfe"[..], b"localhost:\xff:1:1", &[0; 300]] {
        let mut frames = request("", "NULL", &[]);
        frames[3] = Message::from(garbage);
        assert_eq!(answer(&frames, &policy).status, "400");
        frames[5] = Message::from(garbage);
        assert_eq!(answer(&frames, &policy).status, "400");
    }
}

/// Asks a running handler, as libzmq does, and returns the six frames of its reply.
fn ask(context: &SecuredContext, frames: &[Message]) -> Vec<Message> {
    let asker = context.context().zap_asker().unwrap();
    assert_eq!(asker.try_send(frames).unwrap(), SendOutcome::Queued);
    let mut reply = Vec::new();
    assert_eq!(asker.receive(LIMITS, &mut reply, Some(PATIENCE)).unwrap(), Reception::Whole);
    reply
}

fn texts(frames: &[Message]) -> Vec<&str> {
    frames.iter().map(|frame| frame.as_str().unwrap()).collect()
}

#[test]
fn a_running_handler_survives_every_kind_of_request() {
    let context = SecuredContext::start(1, policy(owner()), Arc::new(|why| panic!("{why}"))).unwrap();
    let good = request("localhost:1000:1000:1", "NULL", &[]);
    let admitted = ["1.0", "id-1", "200", "OK", "local", ""];
    assert_eq!(texts(&ask(&context, &good)), admitted);

    let many = (0..1_000).map(|_| Message::from("x")).collect();
    let large = vec![Message::from("1.0"), Message::from(vec![b'x'; 1 << 20])];
    for frames in [vec![Message::from("")], many, large, request("", "NULL", &[&[0; 20_000]])] {
        let reply = ask(&context, &frames);
        assert_eq!(reply.len(), 6);
        assert!(matches!(&reply[2][..], b"400" | b"500"), "{:?}", texts(&reply));
        assert!(reply[4].is_empty());
    }
    assert_eq!(texts(&ask(&context, &good)), admitted);
}

/// Takes note of a death instead of dying.
fn noted() -> (OnDeath, Receiver<String>) {
    let (note, deaths) = channel();
    let note = Mutex::new(note);
    let on_death: OnDeath = Arc::new(move |why| {
        let _ = note.lock().unwrap().send(why.to_owned());
    });
    (on_death, deaths)
}

#[test]
fn the_death_of_the_handler_is_the_end_of_the_process() {
    let (on_death, deaths) = noted();
    let policy = Policy { local_uid: 1_000, keys: Arc::new(|_| panic!("the policy broke")), ..policy(owner()) };
    let context = SecuredContext::start(1, policy, on_death).unwrap();
    let asker = context.context().zap_asker().unwrap();
    let frames = request("127.0.0.1", "CURVE", &[&[7; 32]]);
    assert_eq!(asker.try_send(&frames).unwrap(), SendOutcome::Queued);
    assert_eq!(deaths.recv_timeout(PATIENCE).unwrap(), "the zap thread ended: panic: the policy broke");
}

#[test]
fn stopping_it_is_no_death() {
    let (on_death, deaths) = noted();
    drop(SecuredContext::start(1, policy(owner()), on_death).unwrap());
    // The sender is gone together with the thread, and it has sent nothing.
    assert!(deaths.recv_timeout(PATIENCE).is_err());
}
