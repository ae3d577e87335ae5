//! Checkpoints of which records are lost: no number that was ever decided is decided again, and new sessions work.

use std::collections::BTreeMap;

use kvbroker_core::{Change, Loader, Numbered, Salvage, SessionBounds, Stamp, State, Turn, decide_numbered};
use kvbroker_protocol::{Answer, ErrorCode, Operation, Scope, SessionId, limits};

use crate::model::Dice;

const OWNERS: [&[u8]; 3] = [b"owner", b"key:aa", b"key:bb"];
const SESSIONS: u64 = 24;
const STEPS: usize = 400;

/// What one session has done.
#[derive(Clone, Copy)]
struct Past {
    owner: &'static [u8],
    highest: u64,
    acked: u64,
}

struct World {
    dice: Dice,
    state: State,
    time_ms: u64,
    sessions: BTreeMap<SessionId, Past>,
    records: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    /// What stands in the log behind the checkpoint, which `records` is then.
    behind: Option<Vec<(Change, u64)>>,
}

fn key_of(session: SessionId) -> Vec<u8> {
    session.0.to_vec()
}

fn numbered(session: SessionId, owner: &'static [u8], seq: u64, ack: u64) -> Numbered<'static> {
    Numbered { owner, session, seq, ack, hash: seq }
}

/// Each session counts in a key of its own.
fn count(state: &State, asked: &Numbered<'_>, time_ms: u64) -> kvbroker_core::Decision {
    let operation = Operation::Incr { key: key_of(asked.session), by: 1 };
    let stamp = Stamp { revision: state.revision() + 1, time_ms };
    let bounds = SessionBounds { sessions_max: 14, per_owner_max: 8, keep_ms: 0, ..SessionBounds::default() };
    decide_numbered(state, &Scope::all(), operation, asked, stamp, &mut Turn::one(), &bounds)
}

impl World {
    fn step(&mut self) {
        self.time_ms += self.dice.below(2_000);
        // Ids may be ahead of the time, and behind it.
        let born_ms = self.time_ms + limits::SESSION_AHEAD_MS - self.dice.below(2 * limits::SESSION_AHEAD_MS);
        let (place, fresh) = (self.dice.below(SESSIONS), SessionId::new(born_ms, self.dice.next()));
        let owner = OWNERS[self.dice.below(3) as usize];
        let session = self.sessions.keys().nth(place as usize).copied().unwrap_or(fresh);
        let past = *self.sessions.get(&session).unwrap_or(&Past { owner, highest: 0, acked: 0 });
        let ack = past.acked + self.dice.below(past.highest - past.acked + 1);
        let decision = count(&self.state, &numbered(session, past.owner, past.highest + 1, ack), self.time_ms);
        match decision.outcome.result {
            Ok(Answer::Integer(_)) => {
                self.sessions.insert(session, Past { highest: past.highest + 1, acked: ack, ..past });
            }
            Err(failure) if failure.code == ErrorCode::SessionExpired => {
                self.sessions.remove(&session);
                return;
            }
            other => panic!("{other:?}"),
        }
        let revision = self.state.revision() + 1;
        for change in decision.changes {
            if let Some(behind) = &mut self.behind {
                behind.push((change.clone(), revision));
            } else {
                let mut key = Vec::new();
                change.write_record_key(&mut key);
                match &change.value {
                    Some(value) => drop(self.records.insert(key, (value.clone(), revision))),
                    None => drop(self.records.remove(&key)),
                }
            }
            self.state.apply(change, revision);
        }
    }

    /// What is left when a stretch of the checkpoint's records is lost.
    fn salvaged(&mut self, checkpoint_revision: u64) -> (State, Salvage) {
        let salvage = Salvage::new(self.time_ms);
        let (from, to) = (self.dice.below(self.records.len() as u64 + 1), self.dice.below(self.records.len() as u64 + 1));
        let is_lost = |index: usize| (from.min(to)..from.max(to)).contains(&(index as u64));
        let readable = self.records.iter().enumerate().filter(|(index, _)| !is_lost(*index)).map(|(_, record)| record);
        let mut kept: BTreeMap<_, _> = readable
            .filter(|(key, _)| Salvage::keeps(key))
            .map(|(key, (value, revision))| (key.clone(), (value.clone(), *revision)))
            .collect();
        kept.extend(salvage.records().into_iter().map(|(key, value)| (key, (value, checkpoint_revision))));
        // The next checkpoint merges what is behind: of each key the last record counts.
        let mut merged = kept.clone();
        let mut state = loaded(&kept, checkpoint_revision);
        for (change, revision) in self.behind.iter().flatten() {
            let mut key = Vec::new();
            change.write_record_key(&mut key);
            match &change.value {
                Some(value) => drop(merged.insert(key, (value.clone(), *revision))),
                None => drop(merged.remove(&key)),
            }
            state.apply(change.clone(), *revision);
        }
        assert!(loaded(&merged, self.state.revision()) == state, "the next start makes the same of it");
        (state, salvage)
    }
}

fn loaded(records: &BTreeMap<Vec<u8>, (Vec<u8>, u64)>, revision: u64) -> State {
    let mut loader = Loader::new();
    records.iter().for_each(|(key, (value, modified))| loader.record(key, value, *modified).unwrap());
    loader.finish(revision).unwrap()
}

#[test]
fn whatever_a_checkpoint_lost_no_number_is_decided_twice() {
    let (mut expired, mut known) = (0, 0);
    for seed in 1..=150 {
        let mut world = World {
            dice: Dice(seed),
            state: State::new(),
            time_ms: 1_700_000_000_000,
            sessions: BTreeMap::new(),
            records: BTreeMap::new(),
            behind: None,
        };
        let steps = world.dice.below(STEPS as u64);
        (0..steps).for_each(|_| world.step());
        let checkpoint_revision = world.state.revision();
        world.behind = Some(Vec::new());
        let steps = world.dice.below(STEPS as u64);
        (0..steps).for_each(|_| world.step());
        let (mut state, salvage) = world.salvaged(checkpoint_revision);
        let time_ms = salvage.stamp_ms();
        for (&session, past) in &world.sessions {
            let mut is_known = None;
            // What a client may send again: everything behind what it has read.
            for seq in past.acked + 1..=past.highest {
                let decision = count(&state, &numbered(session, past.owner, seq, past.acked), time_ms);
                assert!(decision.changes.is_empty(), "seed {seed}: number {seq} is decided again");
                let now_known = match decision.outcome.result {
                    Ok(Answer::Integer(number)) => number == i128::from(seq),
                    Err(failure) => failure.code != ErrorCode::SessionExpired,
                    other => panic!("{other:?}"),
                };
                assert_eq!(*is_known.get_or_insert(now_known), now_known, "seed {seed}: it has a hole");
            }
            match is_known {
                Some(true) => known += 1,
                Some(false) => {
                    expired += 1;
                    let next = count(&state, &numbered(session, past.owner, past.highest + 1, past.acked), time_ms);
                    assert_eq!(next.outcome.result.unwrap_err().code, ErrorCode::SessionExpired, "seed {seed}");
                }
                None => {}
            }
        }
        for owner in OWNERS.into_iter().chain([&b"somebody"[..]]) {
            let session = SessionId::new(time_ms, 1);
            let decision = count(&state, &numbered(session, owner, 1, 0), time_ms);
            assert!(decision.outcome.result.is_ok(), "seed {seed}: {:?}", decision.outcome);
            let revision = state.revision() + 1;
            let take_back = Change { space: kvbroker_core::Space::Session, key: key_of(session), value: None };
            decision.changes.into_iter().for_each(|change| state.apply(change, revision));
            state.apply(take_back, revision);
        }
    }
    assert!(expired > 300 && known > 100, "{expired} expired, {known} known");
}
