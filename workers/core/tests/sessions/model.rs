//! The model, and one walk that compares the core with it.

use std::collections::{BTreeMap, BTreeSet};

use kvbroker_core::{
    Change, Decision, Numbered, SessionBounds, Space, Stamp, State, Turn, decide_numbered, end_session, result_of,
};
use kvbroker_protocol::{
    Answer, Condition, ErrorCode, Fate, Key, Operation, Outcome, Scope, SessionId, Stored, encode_outcome, limits, request_hash,
};

use crate::slices::{Run, check_whole};

/// What the walk has met; a test that met nothing shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) done: usize,
    pub(crate) again: usize,
    pub(crate) reused: usize,
    pub(crate) holes: usize,
    pub(crate) busy: usize,
    pub(crate) expired: usize,
    pub(crate) forgotten: usize,
    pub(crate) ended: usize,
    pub(crate) settled: usize,
    pub(crate) longest: u64,
}

/// Everything a session ever did.
#[derive(Clone)]
struct Past {
    owner: &'static str,
    /// Hash and encoded outcome of each number, from 1.
    decided: Vec<(u64, Vec<u8>)>,
    acked: u64,
    used_ms: u64,
    state: Knowledge,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Knowledge {
    Fresh,
    Open,
    Ended,
    Forgotten,
}

/// Numbers from a seed (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }
}

pub(crate) struct Walk {
    seed: u64,
    dice: Dice,
    bounds: SessionBounds,
    state: State,
    twin: State,
    /// The last change of each record, with its revision.
    records: BTreeMap<(u8, Vec<u8>), (Vec<u8>, u64)>,
    /// The table, as a plain map of integers.
    table: BTreeMap<Key, i64>,
    time_ms: u64,
    sessions: BTreeMap<SessionId, Past>,
    in_use: Vec<SessionId>,
    sessions_at_once: usize,
    /// Steps between two ends of sessions, and between two new ones that replace others.
    life: u64,
    floors: BTreeMap<&'static str, u64>,
    pub(crate) seen: Seen,
    pub(crate) slices: Run,
}

const OWNERS: [&str; 3] = ["owner", "key:aa", "key:bb"];

fn encoded(outcome: &Outcome) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_outcome(outcome, &mut bytes);
    bytes
}

impl Walk {
    pub(crate) fn new(seed: u64, bounds: SessionBounds, sessions_at_once: usize, life: u64) -> Walk {
        Walk {
            seed,
            dice: Dice(seed),
            bounds,
            state: State::new(),
            twin: State::new(),
            records: BTreeMap::new(),
            table: BTreeMap::new(),
            time_ms: 1_700_000_000_000,
            sessions: BTreeMap::new(),
            in_use: Vec::new(),
            sessions_at_once,
            life,
            floors: BTreeMap::new(),
            seen: Seen::default(),
            slices: Run::default(),
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp { revision: self.state.revision() + 1, time_ms: self.time_ms }
    }

    fn operation(&mut self) -> Operation {
        let key = format!("k{}", self.dice.below(30)).into_bytes();
        match self.dice.below(5) {
            0 | 1 => Operation::Incr { key, by: self.dice.below(7) as i64 - 3 },
            2 => Operation::Del { key, return_old: self.dice.one_in(2), condition: None },
            3 => Operation::Noop,
            _ => {
                let value = Stored::integer(i128::from(self.dice.below(100)));
                Operation::Put { key, value, condition: Some(Condition::Absent), ttl_ms: None }
            }
        }
    }

    /// What the operation must answer now, and does to the plain table.
    fn on_table(&mut self, operation: &Operation) -> Outcome {
        let (now, next) = (self.state.revision(), self.state.revision() + 1);
        let done = |answer| Outcome { revision: Some(next), result: Ok(answer) };
        let failed = |code| Outcome { revision: Some(now), result: Err(kvbroker_protocol::Failure::new(code, "")) };
        match operation {
            Operation::Incr { key, by } => {
                let sum = self.table.get(key).copied().unwrap_or_default() + by;
                self.table.insert(key.clone(), sum);
                done(Answer::Integer(i128::from(sum)))
            }
            Operation::Del { key, return_old, .. } => match self.table.remove(key) {
                None => failed(ErrorCode::NotFound),
                Some(value) if *return_old => done(Answer::Removed(Stored::integer(i128::from(value)))),
                Some(_) => done(Answer::Done),
            },
            Operation::Put { key, .. } if self.table.contains_key(key) => failed(ErrorCode::Conflict),
            Operation::Put { key, value, .. } => {
                self.table.insert(key.clone(), kvbroker_protocol::integer_of(value.as_bytes()).unwrap() as i64);
                done(Answer::Done)
            }
            _ => Outcome { revision: Some(now), result: Ok(Answer::Done) },
        }
    }

    fn session(&mut self) -> SessionId {
        if self.in_use.len() < self.sessions_at_once || self.dice.one_in(self.life) {
            // Some hellos are answered a while before the first mutation comes.
            let born_ms = self.time_ms - self.dice.below(3) * 5_000;
            let id = SessionId::new(born_ms, self.dice.next());
            let owner = OWNERS[self.dice.below(3) as usize];
            let past = Past { owner, decided: Vec::new(), acked: 0, used_ms: 0, state: Knowledge::Fresh };
            self.sessions.insert(id, past);
            self.in_use.push(id);
            if self.in_use.len() > 2 * self.sessions_at_once {
                self.in_use.remove(0);
            }
        }
        self.in_use[self.dice.below(self.in_use.len() as u64) as usize]
    }

    pub(crate) fn step(&mut self) {
        if self.dice.one_in(40) {
            let bytes_max = 1 << self.dice.below(14);
            self.slices.slice(&self.state, bytes_max as usize);
        }
        if self.dice.one_in(50) {
            self.time_ms += self.dice.below(4_000);
        }
        let id = self.session();
        if self.dice.one_in(self.life) {
            return self.end(id);
        }
        match self.dice.below(40) {
            0 => self.ask_fate(id),
            1 => self.as_somebody_else(id),
            _ => self.mutate(id),
        }
    }

    fn mutate(&mut self, id: SessionId) {
        // Taken out, not copied: it may be long.
        let mut past = self.sessions.remove(&id).unwrap();
        self.mutate_in(id, &mut past);
        self.sessions.insert(id, past);
    }

    fn mutate_in(&mut self, id: SessionId, past: &mut Past) {
        let highest = past.decided.len() as u64;
        let seq = match self.dice.below(12) {
            0 if highest > 0 => 1 + self.dice.below(highest),
            1 | 2 if highest > 0 => highest - self.dice.below(highest.min(6)),
            3 => highest + 2 + self.dice.below(3),
            4 if self.dice.one_in(20) => 0,
            _ => highest + 1,
        };
        // Acknowledged in leaps, so that the window gets full now and then.
        let ack = match self.dice.below(400) {
            0 => highest,
            1 => highest + 1 + self.dice.below(3),
            _ if highest - past.acked.min(highest) > 4_090 && self.dice.one_in(8) => highest.min(past.acked + 3_000),
            _ => past.acked.saturating_sub(self.dice.below(2)),
        };
        let same = self.dice.below(5) > 0;
        let operation = self.operation();
        let mut hash = request_hash(&operation, &mut Vec::new());
        if same && let Some((known, _)) = seq.checked_sub(1).and_then(|at| past.decided.get(at as usize)) {
            // Only the hash tells: the operation of the first time is not needed again.
            hash = *known;
        }
        let numbered = Numbered { owner: past.owner.as_bytes(), session: id, seq, ack, hash };
        let stamp = self.stamp();
        let decision =
            decide_numbered(&self.state, &Scope::all(), operation.clone(), &numbered, stamp, &mut Turn::one(), &self.bounds);
        let code = decision.outcome.result.as_ref().err().map(|failure| failure.code);
        let context = format!("seed {}: {id} seq {seq} ack {ack} {operation:?} of {:?} at {highest}", self.seed, past.state);

        match self.expected(id, past, seq, ack, hash) {
            Expected::Refused(expected) => {
                assert_eq!(code, Some(expected), "{context}");
                assert!(decision.changes.is_empty(), "{context}");
                self.count_refusal(expected);
            }
            Expected::Reused(original) => {
                let failure = decision.outcome.result.as_ref().unwrap_err();
                assert_eq!(failure.code, ErrorCode::IdReused, "{context}");
                assert_eq!(encoded(failure.original.as_ref().unwrap()), original, "{context}");
                assert!(decision.changes.is_empty(), "{context}");
                self.seen.reused += 1;
            }
            Expected::Again(original) => {
                assert_eq!(encoded(&decision.outcome), original, "{context}");
                assert!(decision.changes.is_empty(), "{context}");
                self.seen.again += 1;
            }
            Expected::New { forgets } => {
                let outcome = self.on_table(&operation);
                assert_eq!(code, outcome.result.as_ref().err().map(|failure| failure.code), "{context}");
                assert_eq!(decision.outcome.revision, outcome.revision, "{context}");
                if code.is_none() {
                    assert_eq!(decision.outcome, outcome, "{context}");
                }
                self.decided(past, hash, encoded(&decision.outcome), ack, forgets);
                self.take_in(decision);
            }
        }
    }

    fn decided(&mut self, past: &mut Past, hash: u64, outcome: Vec<u8>, ack: u64, forgets: Option<SessionId>) {
        past.decided.push((hash, outcome));
        past.acked = past.acked.max(ack);
        past.used_ms = self.time_ms;
        past.state = Knowledge::Open;
        self.seen.longest = self.seen.longest.max(past.decided.len() as u64);
        self.seen.done += 1;
        if let Some(victim) = forgets {
            let past = self.sessions.get_mut(&victim).unwrap();
            past.state = Knowledge::Forgotten;
            let floor = self.floors.entry(past.owner).or_default();
            *floor = (*floor).max(victim.born_ms());
            self.seen.forgotten += 1;
        }
    }

    fn count_refusal(&mut self, code: ErrorCode) {
        match code {
            ErrorCode::OutOfOrder => self.seen.holes += 1,
            ErrorCode::Busy => self.seen.busy += 1,
            ErrorCode::SessionExpired => self.seen.expired += 1,
            _ => {}
        }
    }

    /// What docs/protocol.md says, from all that ever happened.
    fn expected(&self, id: SessionId, past: &Past, seq: u64, ack: u64, hash: u64) -> Expected {
        let highest = past.decided.len() as u64;
        if seq == 0 || ack >= seq {
            return Expected::Refused(ErrorCode::Invalid);
        }
        match past.state {
            Knowledge::Ended => return Expected::Refused(ErrorCode::SessionExpired),
            Knowledge::Forgotten => return Expected::Refused(ErrorCode::SessionExpired),
            Knowledge::Fresh => {
                if self.floors.get(past.owner).is_some_and(|floor| id.born_ms() <= *floor) || ack > 0 {
                    return Expected::Refused(ErrorCode::SessionExpired);
                }
                if seq > 1 {
                    return Expected::Refused(ErrorCode::OutOfOrder);
                }
                return self.room(past.owner);
            }
            Knowledge::Open => {}
        }
        if seq <= past.acked {
            return Expected::Refused(ErrorCode::UnknownOutcome);
        }
        if let Some((known, outcome)) = past.decided.get(seq as usize - 1) {
            return if *known == hash { Expected::Again(outcome.clone()) } else { Expected::Reused(outcome.clone()) };
        }
        if ack > highest {
            return Expected::Refused(ErrorCode::SessionExpired);
        }
        if seq > highest + 1 {
            return Expected::Refused(ErrorCode::OutOfOrder);
        }
        if seq - past.acked.max(ack) > limits::SESSION_WINDOW as u64 {
            return Expected::Refused(ErrorCode::Busy);
        }
        Expected::New { forgets: None }
    }

    /// Whether there is room for one more session, and which one has to go.
    fn room(&self, owner: &str) -> Expected {
        let known = |past: &&Past| matches!(past.state, Knowledge::Open | Knowledge::Ended);
        let of_owner = self.sessions.values().filter(known).filter(|past| past.owner == owner).count();
        let of_all = self.sessions.values().filter(known).count();
        let whose = if of_owner >= self.bounds.per_owner_max {
            Some(owner)
        } else if of_all >= self.bounds.sessions_max {
            None
        } else {
            return Expected::New { forgets: None };
        };
        let candidates = self.sessions.iter().filter(|(_, past)| known(past) && whose.is_none_or(|owner| past.owner == owner));
        // Ended ones first, then the longest unused, to the minute.
        let order = |(id, past): &(&SessionId, &Past)| (past.state == Knowledge::Open, past.used_ms / 60_000, **id);
        let (id, past) = candidates.min_by_key(order).unwrap();
        if past.state == Knowledge::Open && past.used_ms + self.bounds.keep_ms > self.time_ms {
            return Expected::Refused(ErrorCode::Busy);
        }
        Expected::New { forgets: Some(*id) }
    }

    fn ask_fate(&mut self, id: SessionId) {
        let mut past = self.sessions.remove(&id).unwrap();
        self.ask_fate_in(id, &mut past);
        self.sessions.insert(id, past);
    }

    fn ask_fate_in(&mut self, id: SessionId, past: &mut Past) {
        let highest = past.decided.len() as u64;
        let seq = if self.dice.one_in(2) { highest + 1 } else { 1 + self.dice.below(highest + 2) };
        let settles = self.dice.one_in(3).then_some(self.bounds);
        let decision = result_of(&self.state, past.owner.as_bytes(), id, seq, self.stamp(), settles.as_ref());
        let noop = request_hash(&Operation::Noop, &mut Vec::new());
        if let (Some(_), Ok(Answer::Result(Fate::Filled))) = (settles, &decision.outcome.result)
            && seq > highest
            && past.state != Knowledge::Ended
        {
            let Expected::New { forgets } = self.expected(id, past, seq, 0, noop) else {
                panic!("seed {}: {id} {seq}", self.seed)
            };
            let done = Outcome { revision: Some(self.state.revision()), result: Ok(Answer::Done) };
            self.decided(past, noop, encoded(&done), 0, forgets);
            self.take_in(decision);
            self.seen.settled += 1;
            return;
        }
        assert!(decision.changes.is_empty());
        let outcome = decision.outcome;
        let refused = outcome.result.as_ref().err().map(|failure| failure.code);
        if settles.is_some() && matches!(refused, Some(ErrorCode::OutOfOrder | ErrorCode::Busy)) {
            let Expected::Refused(code) = self.expected(id, past, seq, 0, noop) else { panic!("seed {}: {id} {seq}", self.seed) };
            assert_eq!(refused, Some(code));
            return;
        }
        let context = format!("seed {}: {id} seq {seq}", self.seed);
        let is_below_floor = self.floors.get(past.owner).is_some_and(|floor| id.born_ms() <= *floor);
        match (past.state, past.decided.get(seq as usize - 1)) {
            (Knowledge::Forgotten, _) | (Knowledge::Fresh, _) if is_below_floor => {
                assert_eq!(outcome.result.unwrap_err().code, ErrorCode::SessionExpired, "{context}");
            }
            (Knowledge::Open, Some((hash, _))) if seq > past.acked && *hash == noop => {
                assert_eq!(outcome.result, Ok(Answer::Result(Fate::Filled)), "{context}");
            }
            (Knowledge::Open, Some((_, decided))) if seq > past.acked => {
                let Ok(Answer::Result(Fate::Decided(told))) = outcome.result else { panic!("{context}") };
                assert_eq!(encoded(&told), *decided, "{context}");
            }
            (_, Some(_)) => assert_eq!(outcome.result, Ok(Answer::Result(Fate::Acknowledged)), "{context}"),
            (Knowledge::Ended, None) => assert_eq!(outcome.result, Ok(Answer::Result(Fate::Filled)), "{context}"),
            (_, None) => assert_eq!(outcome.result, Ok(Answer::Result(Fate::Undecided)), "{context}"),
        }
    }

    fn end(&mut self, id: SessionId) {
        let (owner, state) = (self.sessions[&id].owner, self.sessions[&id].state);
        let highest = self.sessions[&id].decided.len() as u64;
        let ack = if self.dice.one_in(4) { highest.saturating_sub(1) } else { highest };
        let decision = end_session(&self.state, owner.as_bytes(), id, ack, self.stamp());
        if state == Knowledge::Open && ack < highest {
            assert_eq!(decision.outcome.result.as_ref().unwrap_err().code, ErrorCode::Conflict);
            assert!(decision.changes.is_empty());
            return;
        }
        assert_eq!(decision.outcome.result, Ok(Answer::Done));
        if state == Knowledge::Open {
            let past = self.sessions.get_mut(&id).unwrap();
            past.state = Knowledge::Ended;
            past.acked = highest;
            past.used_ms = self.time_ms;
            self.seen.ended += 1;
        }
        self.take_in(decision);
    }

    /// A session belongs to whoever was authenticated when it began.
    fn as_somebody_else(&mut self, id: SessionId) {
        let past = &self.sessions[&id];
        if past.state != Knowledge::Open {
            return;
        }
        let (seq, owner) = (past.decided.len() as u64 + 1, b"key:thief");
        let numbered = Numbered { owner, session: id, seq, ack: 0, hash: 1 };
        let stamp = self.stamp();
        let decision =
            decide_numbered(&self.state, &Scope::all(), Operation::Noop, &numbered, stamp, &mut Turn::one(), &self.bounds);
        assert_eq!(decision.outcome.result.unwrap_err().code, ErrorCode::Refused);
        assert!(decision.changes.is_empty());
        let ended = end_session(&self.state, owner, id, u64::MAX, stamp);
        assert_eq!(ended.outcome.result.unwrap_err().code, ErrorCode::Refused);
        let told = result_of(&self.state, owner, id, 1, stamp, None).outcome;
        assert!(!matches!(told.result, Ok(Answer::Result(Fate::Decided(_)))), "another's replies are told to nobody else");
    }

    /// Takes the changes in, here and in the twin, as they come out of the log.
    fn take_in(&mut self, decision: Decision) {
        let revision = self.state.revision() + u64::from(decision.takes_revision);
        let mut keys = BTreeSet::new();
        for change in decision.changes {
            assert!(keys.insert((change.space as u8, change.key.clone())), "a record changes once in a group");
            let mut record_key = Vec::new();
            change.write_record_key(&mut record_key);
            let read = Change::from_record(&record_key, change.value.as_deref()).unwrap();
            assert_eq!(read, change);
            let at = (change.space as u8, change.key.clone());
            match &change.value {
                Some(value) => self.records.insert(at, (value.clone(), revision)),
                None => self.records.remove(&at),
            };
            self.slices.change(&change, revision);
            self.twin.apply(read, revision);
            self.state.apply(change, revision);
        }
    }

    pub(crate) fn check_twins(&self) {
        assert!(self.state == self.twin, "seed {}: recovery comes to another state", self.seed);
        let mut loaded = State::new();
        let last = self.state.revision();
        for ((space, key), (value, revision)) in &self.records {
            let space = Space::from_byte(*space).unwrap();
            loaded.apply(Change { space, key: key.clone(), value: Some(value.clone()) }, *revision);
        }
        // A checkpoint knows its revision; here the last change of the table may have been a removal.
        loaded.apply(Change { space: Space::Table, key: b"no such key".to_vec(), value: None }, last);
        assert!(self.state == loaded, "seed {}: the last records come to another state", self.seed);
        let mut bytes_max = 1;
        check_whole(&self.state, || {
            bytes_max = bytes_max * 5 % 8_191;
            bytes_max
        });
        let expected: usize =
            self.sessions.values().filter(|past| matches!(past.state, Knowledge::Open | Knowledge::Ended)).count();
        assert_eq!(self.state.sessions(), expected);
    }
}

enum Expected {
    Refused(ErrorCode),
    Reused(Vec<u8>),
    Again(Vec<u8>),
    New { forgets: Option<SessionId> },
}
