//! Hostile peers: while each attack goes on, eight clients who do nothing wrong are all served, and the broker's memory stays bounded.
//!
//! - The attack must have happened: it counts what it has done, and what the broker noticed of it is looked at.
//! - No time is asserted. The figures are made by `cargo run --release -p kvbroker-tests --bin hostile_peers`.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kvbroker_tests::hostile::{Attack, Normal, Target, raise_descriptors};
use kvbroker_tests::{Broker, PATIENCE, wait_until};

const MIB: u64 = 1 << 20;
/// Above what the broker has with its table and nobody there.
const ABOVE_IDLE_MIB: u64 = 512;
const ROWS: usize = 5_000;
/// So often each normal client is answered while the attack goes on.
const ROUNDS: u64 = 30;
const PAUSE: Duration = Duration::from_millis(5);

/// The attack goes on, everybody is served, and memory stays bounded; then `noticed` looks at the broker, still under attack.
fn nobody_notices(attack: Attack, noticed: impl FnOnce(&Broker)) {
    raise_descriptors();
    let mut broker = Broker::plain();
    let target = Target::prepare(&broker, ROWS);
    let normal = Normal::start(&target, PAUSE);
    let served = |since: &[u64]| {
        wait_until(PATIENCE * 4, "every normal client is served", || {
            assert!(!normal.is_hurt(), "a normal client got a wrong answer, or none");
            normal.done().iter().zip(since).all(|(done, since)| *done >= since + ROUNDS).then_some(())
        });
    };
    served(&normal.done());
    broker.forget_peak();
    let idle = broker.memory().now;

    let attacker = attack.start(&target);
    served(&normal.done());
    wait_until(PATIENCE * 4, attack.name(), || (attacker.done() >= attack.least()).then_some(()));
    served(&normal.done());
    noticed(&broker);
    let memory = broker.memory();
    println!(
        "{}: {} {}, {} MiB idle, at most {} MiB",
        attack.name(),
        attacker.done(),
        attack.unit(),
        idle / MIB,
        memory.peak / MIB
    );
    attacker.stop();

    served(&normal.done());
    drop(normal);
    assert!(
        memory.peak <= idle + ABOVE_IDLE_MIB * MIB,
        "the broker took {} MiB, {} when nobody was there",
        memory.peak / MIB,
        idle / MIB
    );
    assert_eq!(broker.stat("internal_errors"), 0, "a panic was caught while deciding");
    broker.stop();
}

fn stat_becomes(broker: &Broker, name: &str, holds: impl Fn(u64) -> bool) {
    wait_until(PATIENCE, name, || holds(broker.stat(name)).then_some(()));
}

#[test]
fn a_thousand_silent_connections() {
    nobody_notices(Attack::Silent, |broker| stat_becomes(broker, "connections_open", |open| open > 500));
}

#[test]
fn slow_handshakes() {
    nobody_notices(Attack::SlowHandshakes, |broker| stat_becomes(broker, "connections_open", |open| open > 50));
}

#[test]
fn messages_byte_by_byte() {
    nobody_notices(Attack::Dribble, |broker| stat_becomes(broker, "connections_open", |open| open > 50));
}

#[test]
fn random_bytes() {
    nobody_notices(Attack::RandomBytes, |_| {});
}

#[test]
fn huge_multiparts() {
    nobody_notices(Attack::HugeMultiparts, |broker| stat_becomes(broker, "refused", |refused| refused >= 5));
}

#[test]
fn scans_of_a_restricted_user_that_nobody_reads() {
    nobody_notices(Attack::UnreadScans, |broker| stat_becomes(broker, "unread_reply_bytes", |unread| unread > 8 << 20));
}

#[test]
fn subscriptions_without_end() {
    nobody_notices(Attack::Subscriptions, |broker| {
        stat_becomes(broker, "pub_shut_out", |times| times > 0);
        stat_becomes(broker, "pub_reopened", |times| times > 0);
        // Who has done nothing wrong is let in again.
        let subscriber = broker.subscriber(&[b"h"]);
        assert!(subscriber.try_receive(PATIENCE).is_some(), "no heartbeat came");
    });
}

#[test]
fn subscriptions_to_long_topics_over_many_connections() {
    nobody_notices(Attack::LargeSubscriptions, |broker| stat_becomes(broker, "pub_shut_out", |times| times > 0));
}

#[test]
fn subscriptions_of_a_restricted_user() {
    nobody_notices(Attack::RefusedSubscriptions, |broker| {
        assert_eq!((broker.stat("topics"), broker.stat("pub_shut_out")), (0, 0));
    });
}

#[test]
fn sessions_without_end() {
    nobody_notices(Attack::Sessions, |broker| assert!(broker.stat("sessions") <= 8, "only who writes has a session"));
}

#[test]
fn long_polls_of_a_restricted_user() {
    nobody_notices(Attack::ParkedEvents, |broker| stat_becomes(broker, "events_waiting", |waiting| waiting > 200));
}
