//! Who drives: callers and the client's own thread take it from each other without losing or doubling anything.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{ClientError, practice};

const THREADS: usize = 6;
const CALLS: usize = 1_500;

/// Blocking calls lead and hand over; tickets that nobody waits for yet need the client's thread; all at once.
#[test]
fn callers_and_the_clients_thread_drive_in_turn() {
    let broker = practice::Broker::start().unwrap();
    let client = broker.client().unwrap();
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
    let broker = practice::Broker::start().unwrap();
    let client = broker.client().unwrap();
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
        let broker = practice::Broker::start().unwrap();
        let client = broker.client().unwrap();
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
