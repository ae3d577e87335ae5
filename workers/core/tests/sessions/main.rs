//! Sessions against a plain model: every number of every session, decided, sent again, skipped, acknowledged, ended and forgotten,
//! in millions of steps from a seed.
//!
//! - The model remembers everything for ever; from that it says what the core may still know.
//! - Two twins are made of records alone: one from all changes in their order, as recovery does, one from the last change of each
//!   key in the order of the keys, as a checkpoint has them. Both must come to the same state.
//! - `KVBROKER_SESSION_STEPS` makes the walk longer.

#![allow(clippy::unwrap_used)]

mod model;

use kvbroker_core::{Numbered, SessionBounds, Space, Stamp, State, Turn, decide_numbered};
use kvbroker_protocol::{Answer, Operation, SessionId};

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
    walk
}

#[test]
fn few_sessions_live_long_and_their_windows_turn_over() {
    let bounds = SessionBounds { sessions_max: 100, per_owner_max: 100, keep_ms: 1_000_000 };
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
    let bounds = SessionBounds { sessions_max: 12, per_owner_max: 8, keep_ms: 20_000 };
    for seed in 11..=14 {
        let walk = walk(seed, bounds, 16, 200);
        let seen = walk.seen;
        assert!(seen.forgotten > 100 && seen.expired > 200 && seen.busy > 20 && seen.ended > 50, "{seen:?}");
        assert!(seen.done > 5_000 && seen.again > 200, "{seen:?}");
    }
}

#[test]
fn a_floor_is_never_written_lower_than_it_was() {
    let bounds = SessionBounds { sessions_max: 1, per_owner_max: 1, keep_ms: 0 };
    let mut state = State::new();
    let mut floors = Vec::new();
    // The second one was born before the first, and came later.
    for (time_ms, born_ms) in [(100_000, 90_000), (200_000, 150_000), (300_000, 100_000), (400_000, 399_000)] {
        let numbered = Numbered { owner: b"ann", session: SessionId::new(born_ms, 1), seq: 1, ack: 0, hash: 0 };
        let stamp = Stamp { revision: state.revision() + 1, time_ms };
        let decision = decide_numbered(&state, Operation::Noop, &numbered, stamp, &mut Turn::one(), &bounds);
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
