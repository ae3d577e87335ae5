//! Who drives: callers and the client's own thread take it from each other without losing or doubling anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvbroker_practice::{Broker, PROJECT};
use kvbroker_protocol::Answer;

use super::super::fake::{Act, FakeBroker, Place, ok};
use super::super::session::EAGER_MESSAGES;
use super::super::{Client, ClientError, ConnectOptions};
use crate::catalog::CatalogList;
use crate::paths::Dirs;

const THREADS: usize = 6;
const CALLS: usize = 1_500;

fn options(place: &Place) -> ConnectOptions {
    ConnectOptions::new().dirs(place.dirs.clone()).catalogs(CatalogList::none()).timeout(Duration::from_secs(20))
}

/// `Broker::client` gives one of the library that is compiled without tests.
fn client_of(broker: &Broker) -> Client {
    let options = ConnectOptions::new().dirs(Dirs::under(broker.home()).unwrap()).catalogs(CatalogList::none());
    Client::connect_with(PROJECT, options).unwrap()
}

/// Blocking calls lead and hand over; tickets that nobody waits for yet need the client's thread; all at once.
#[test]
fn callers_and_the_clients_thread_drive_in_turn() {
    let broker = Broker::start().unwrap();
    let client = client_of(&broker);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let client = client.clone();
            scope.spawn(move || {
                let mut pipeline = client.pipeline();
                for call in 0..CALLS {
                    if (call + thread) % 3 == 0 {
                        let ticket = pipeline.incr("sum", 1);
                        // Sometimes waited for at once, sometimes when others have come and gone.
                        if call % 2 == 0 {
                            ticket.wait().unwrap();
                        }
                    } else {
                        client.incr("sum", 1).unwrap();
                    }
                }
                pipeline.wait_all();
            });
        }
    });
    assert_eq!(client.incr("sum", 0).unwrap(), (THREADS * CALLS) as i128);
    assert_eq!(client.outstanding(), 0);
}

/// With nobody driving, a ticket alone is enough for its operation to be done.
#[test]
fn a_ticket_needs_nobody_who_waits() {
    let broker = Broker::start().unwrap();
    let client = client_of(&broker);
    for round in 1..200 {
        let ticket = client.pipeline().incr("sum", 1);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !ticket.is_ready() {
            assert!(std::time::Instant::now() < deadline, "round {round}: nobody drives");
            std::thread::yield_now();
        }
        assert_eq!(client.incr("sum", 1).unwrap(), 2 * round);
    }
}

/// Whoever calls while the client is closed gets an end, whoever drives.
#[test]
fn a_close_ends_every_call_whoever_drives() {
    for round in 0..40_u64 {
        let broker = Broker::start().unwrap();
        let client = client_of(&broker);
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (client, done) = (client.clone(), &done);
                scope.spawn(move || {
                    loop {
                        match client.incr("sum", 1) {
                            Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                            Err(ClientError::Closed | ClientError::Unknown { .. }) => return,
                            Err(error) => panic!("{error}"),
                        };
                    }
                });
            }
            while done.load(Ordering::Relaxed) < 5 + round as usize {
                std::thread::yield_now();
            }
            client.close();
        });
        assert!(matches!(client.incr("sum", 1), Err(ClientError::Closed)));
    }
}

/// What a fake broker has been sent: the number of operations of each message.
fn sent(broker: &FakeBroker) -> Vec<usize> {
    broker.requests.lock().unwrap().iter().map(|request| request.operations.as_slice().len()).collect()
}

fn until_sent(broker: &FakeBroker, messages: usize) -> Vec<usize> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let sent = sent(broker);
        if sent.len() >= messages {
            return sent;
        }
        assert!(Instant::now() < deadline, "{messages} messages: {sent:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Without anybody who waits, and without the client's thread, an operation is on its way when it was submitted.
#[test]
fn who_submits_and_does_not_wait_sends() {
    let place = Place::new();
    let broker = place.broker(1, |_| Act::Ignore);
    let client = Client::connect_with("lab", options(&place).alone()).unwrap();
    let mut pipeline = client.pipeline();
    let mut tickets = Vec::new();
    for messages in 1..=EAGER_MESSAGES {
        tickets.push(pipeline.incr("sum", 1));
        assert_eq!(until_sent(&broker, messages), vec![1; messages]);
    }
    drop(tickets);
}

/// Looking at a ticket is enough for it to become ready.
#[test]
fn who_polls_a_ticket_sees_progress() {
    let place = Place::new();
    let _broker = place.broker(1, |_| ok(Answer::Integer(1)));
    let client = Client::connect_with("lab", options(&place).alone()).unwrap();
    let mut pipeline = client.pipeline();
    let tickets: Vec<_> = (0..100).map(|_| pipeline.incr("sum", 1)).collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    for ticket in tickets {
        while !ticket.is_ready() {
            assert!(Instant::now() < deadline, "nobody drives");
            std::thread::yield_now();
        }
    }
    assert_eq!(client.outstanding(), 0);
}

/// Where tickets are waited for, what was submitted since the last wait is one array.
#[test]
fn who_waits_packs() {
    let place = Place::new();
    let broker = place.broker(1, |_| ok(Answer::Integer(1)));
    let client = Client::connect_with("lab", options(&place).alone()).unwrap();
    let mut pipeline = client.pipeline();
    let mut round = || {
        let before = sent(&broker).len();
        let tickets: Vec<_> = (0..64).map(|_| pipeline.incr("sum", 1)).collect();
        tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
        sent(&broker)[before..].to_vec()
    };
    // Nothing is known of waits yet.
    assert_eq!(round()[0], 1);
    // It is when one has found operations that were not sent, and there is nobody else to send all of them.
    let is_packed = (0..100).any(|_| round() == [64]);
    assert!(is_packed);
    (0..5).for_each(|_| assert_eq!(round(), [64]));
    let before = sent(&broker).len();
    // Who will not wait says so.
    let ticket = pipeline.incr("sum", 1);
    pipeline.flush();
    assert_eq!(until_sent(&broker, before + 1).last(), Some(&1));
    ticket.wait().unwrap();
}

/// A wait that has an end does not take the operation with it.
#[test]
fn who_waits_for_a_time_may_wait_again() {
    let place = Place::new();
    let may_answer = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&may_answer);
    let _broker = place.broker(1, move |_| {
        while !answers.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        ok(Answer::Integer(1))
    });
    let client = Client::connect_with("lab", options(&place).alone()).unwrap();
    let ticket = client.pipeline().incr("sum", 1);
    for _ in 0..3 {
        assert!(!ticket.is_ready_within(Duration::from_millis(1)));
    }
    may_answer.store(true, Ordering::Relaxed);
    assert!(ticket.is_ready_within(Duration::from_secs(30)));
    assert!(ticket.is_ready_within(Duration::ZERO) && ticket.is_ready());
    assert_eq!(ticket.wait().unwrap().0, Answer::Integer(1));
}
