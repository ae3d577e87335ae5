//! Sessions against a plain model: every number of every session, decided, sent again, skipped, acknowledged, ended and forgotten,
//! in millions of steps from a seed.
//!
//! - The model remembers everything for ever; from that it says what the core may still know.
//! - Two twins are made of records alone: one from all changes in their order, as recovery does, one from the last change of each
//!   key in the order of the keys, as a checkpoint has them. Both must come to the same state.
//! - So must slices of the state: of one moment, and of many moments with the changes since the first laid over.
//! - `KVBROKER_SESSION_STEPS` makes the walk longer.

#![allow(clippy::unwrap_used)]

mod model;
mod salvage;
#[path = "../slices/mod.rs"]
mod slices;

use kvbroker_core::{Numbered, SessionBounds, Space, Stamp, State, Turn, decide_numbered};
use kvbroker_protocol::{Answer, ErrorCode, Operation, Scope, SessionId};

use crate::model::Walk;

fn steps() -> usize {
    std::env::var("KVBROKER_SESSION_STEPS").map_or(120_000, |text| text.parse().expect("KVBROKER_SESSION_STEPS is a number"))
}

fn walk(seed: u64, bounds: SessionBounds, sessions_at_once: usize, life: u64) -> Walk {
    let mut walk = Walk::new(seed, bounds, sessions_at_once, life);
    for step in 0..steps() {
        walk.step();
        if step % (steps() / 4) == 0 {
            walk.check_twins();
        }
    }
    walk.check_twins();
    assert!(walk.slices.done > 20 && walk.slices.long > 10, "{} runs of slices, {} long", walk.slices.done, walk.slices.long);
    walk
}

#[test]
fn few_sessions_live_long_and_their_windows_turn_over() {
    let bounds = SessionBounds { sessions_max: 100, per_owner_max: 100, keep_ms: 1_000_000, ..SessionBounds::default() };
    for seed in 1..=4 {
        let walk = walk(seed, bounds, 2, 20_000);
        let seen = walk.seen;
        assert!(
            seen.done > 10_000 && seen.again > 1_000 && seen.reused > 100 && seen.holes > 1_000 && seen.settled > 20,
            "{seen:?}"
        );
        assert!(seen.longest > 4_096, "no window turned over: {seen:?}");
    }
}

#[test]
fn many_sessions_make_room_for_each_other() {
    let bounds = SessionBounds { sessions_max: 12, per_owner_max: 8, keep_ms: 20_000, ..SessionBounds::default() };
    for seed in 11..=14 {
        let walk = walk(seed, bounds, 16, 200);
        let seen = walk.seen;
        assert!(seen.forgotten > 100 && seen.expired > 200 && seen.busy > 20 && seen.ended > 50, "{seen:?}");
        assert!(seen.done > 5_000 && seen.again > 200, "{seen:?}");
    }
}

#[test]
fn a_floor_is_never_written_lower_than_it_was() {
    let bounds = SessionBounds { sessions_max: 1, per_owner_max: 1, keep_ms: 0, ..SessionBounds::default() };
    let mut state = State::new();
    let mut floors = Vec::new();
    // The second one was born before the first, and came later.
    for (time_ms, born_ms) in [(100_000, 90_000), (200_000, 150_000), (300_000, 100_000), (400_000, 399_000)] {
        let numbered = Numbered { owner: b"ann", session: SessionId::new(born_ms, 1), seq: 1, ack: 0, hash: 0 };
        let stamp = Stamp { revision: state.revision() + 1, time_ms };
        let decision = decide_numbered(&state, &Scope::all(), Operation::Noop, &numbered, stamp, &mut Turn::one(), &bounds);
        assert_eq!(decision.outcome.result, Ok(Answer::Done));
        let revision = state.revision();
        for change in decision.changes {
            if change.space == Space::Floor {
                let value = change.value.clone().unwrap();
                floors.push(u64::from_le_bytes(value.try_into().unwrap()));
            }
            state.apply(change, revision);
        }
    }
    assert_eq!(floors, [90_000, 150_000, 150_000]);
}

/// Does one numbered mutation and takes it in; its failure, if it was refused or failed.
fn done(
    state: &mut State,
    numbered: &Numbered<'_>,
    operation: Operation,
    time_ms: u64,
    bounds: &SessionBounds,
) -> Option<ErrorCode> {
    let stamp = Stamp { revision: state.revision() + 1, time_ms };
    let decision = decide_numbered(state, &Scope::all(), operation, numbered, stamp, &mut Turn::one(), bounds);
    let revision = if decision.takes_revision { stamp.revision } else { state.revision() };
    let mut records = std::collections::BTreeSet::new();
    for change in decision.changes {
        assert!(records.insert((change.space as u8, change.key.clone())), "a record changes once in a group");
        state.apply(change, revision);
    }
    decision.outcome.result.err().map(|failure| failure.code)
}

#[test]
fn replies_of_clients_that_are_gone_do_not_keep_the_room_for_ever() {
    // One bound is reached by bytes, one by the owner's sessions, one by both.
    for (per_owner_max, reply_bytes_max) in [(100, 1_000), (3, 1 << 30), (3, 1_000)] {
        let bounds =
            SessionBounds { sessions_max: 100, per_owner_max, keep_ms: 10_000, reply_bytes_max, ..SessionBounds::default() };
        let mut state = State::new();
        let noop = |state: &mut State, owner: &'static [u8], number: u64, seq, time_ms| {
            let numbered = Numbered { owner, session: SessionId::new(1_000 + number, number), seq, ack: 0, hash: seq };
            done(state, &numbered, Operation::Noop, time_ms, &bounds)
        };
        // Clients that never acknowledge, until there is no room; then they are gone.
        let mut busy = 0;
        for number in 1..=4 {
            for seq in 1..=8 {
                busy += usize::from(noop(&mut state, b"ann", number, seq, 20_000) == Some(ErrorCode::Busy));
            }
        }
        assert!(busy > 0, "no bound was reached");
        assert_eq!(noop(&mut state, b"bob", 9, 1, 25_000), (reply_bytes_max == 1_000).then_some(ErrorCode::Busy));
        // Once they were unused for long enough, the others' work goes on, mutation after mutation.
        let before = state.sessions();
        for number in 10..20 {
            let owner: &[u8] = if number % 2 == 0 { b"ann" } else { b"bob" };
            let numbered = Numbered { owner, session: SessionId::new(30_000 + number, number), seq: 1, ack: 0, hash: 0 };
            assert_eq!(done(&mut state, &numbered, Operation::Noop, 40_000 + number * 20_000, &bounds), None, "session {number}");
        }
        assert!(state.remembered_bytes() <= reply_bytes_max + 100 && state.sessions() <= before + 10);
        // Who was forgotten is told so.
        assert_eq!(noop(&mut state, b"ann", 1, 2, 300_000), Some(ErrorCode::SessionExpired));
    }
}

#[test]
fn one_user_fills_its_own_part_of_the_room_for_replies_and_no_more() {
    let bounds = SessionBounds { keep_ms: 10_000, per_owner_reply_bytes_max: 1_000, ..SessionBounds::default() };
    let mut state = State::new();
    let noop = |state: &mut State, owner: &'static [u8], number: u64, seq, ack, time_ms| {
        let numbered = Numbered { owner, session: SessionId::new(1_000 + number, number), seq, ack, hash: seq };
        done(state, &numbered, Operation::Noop, time_ms, &bounds)
    };
    let mut last = 0;
    while noop(&mut state, b"ann", 1, last + 1, 0, 20_000).is_none() {
        last += 1;
    }
    assert!((5..100).contains(&last), "{last} replies");
    assert_eq!(noop(&mut state, b"ann", 2, 1, 0, 20_000), Some(ErrorCode::Busy), "in another session");
    for seq in 1..=last {
        assert_eq!(noop(&mut state, b"bob", 3, seq, 0, 20_000), None, "another user");
    }
    // What is acknowledged makes room again.
    assert_eq!(noop(&mut state, b"ann", 1, last + 1, last - 1, 20_000), None);
    assert_eq!(noop(&mut state, b"ann", 2, 1, 0, 20_000), None);
    // And so does what was not used for long, of that user alone.
    for seq in 2..=last + 1 {
        noop(&mut state, b"ann", 2, seq, 0, 60_000);
    }
    assert_eq!(noop(&mut state, b"ann", 1, last + 2, 0, 60_000), Some(ErrorCode::SessionExpired));
    assert_eq!(noop(&mut state, b"bob", 3, 1, 0, 60_000), None, "it is still remembered");
}
