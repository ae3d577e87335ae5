//! A user who may use only some keys is answered as if the table had no others: every answer and every change is that of an
//! unrestricted user on a table that holds the keys of the scope alone.
//!
//! - Two states: the whole table, and one that gets only the changes under the scope's prefixes (of the others it gets the revision).
//!   Each operation is decided on both, with the scope on the first; outcome, changes and keys examined must be the same.
//! - The keys are few and the prefixes are each other's neighbours, so that most of what is asked for reaches over a border.
//! - A failure prints its seed.

#![allow(clippy::unwrap_used)]

use kvbroker_core::{Change, History, Reader, Snapshots, Space, Stamp, State, Turn, decide};
use kvbroker_protocol::{
    Access, Answer, ErrorCode, Key, List, Operation, Outcome, Pattern, Predicate, Role, Scalar, Scan, Scope, Stored, Txn, limits,
};

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn key(&mut self) -> Key {
        match self.below(20) {
            0 => Vec::new(),
            1 => vec![0xff; self.below(3) + 1],
            2 => vec![0xff, 0, u8::try_from(self.below(3)).unwrap()],
            _ => format!("{}{}", ["a", "a/", "a/b/", "b", "user/", "é"][self.below(6)], self.below(30)).into_bytes(),
        }
    }

    fn prefix(&mut self) -> Vec<u8> {
        let prefixes: [&[u8]; 12] =
            [b"", b"", b"a", b"a/", b"a/1", b"a/b/", b"b", b"b1", b"user/", b"\xff", b"\xff\xff", "é2".as_bytes()];
        prefixes[self.below(12)].to_vec()
    }

    fn scope(&mut self) -> Scope {
        loop {
            let prefixes = (0..=self.below(4)).map(|_| self.prefix()).collect();
            let scope = Scope::prefixes(prefixes).unwrap();
            if !scope.is_all() {
                return scope;
            }
        }
    }

    fn limit(&mut self) -> Option<usize> {
        self.one_in(2).then(|| self.below(12) + 1)
    }

    fn scan(&mut self) -> Scan {
        Scan {
            prefix: self.prefix(),
            from: self.one_in(4).then(|| self.key()),
            to: self.one_in(4).then(|| self.key()),
            cursor: self.one_in(3).then(|| self.key()),
            reverse: self.one_in(2),
            keys_only: self.one_in(3),
            pattern: self.one_in(4).then(|| Pattern::new("[13579]$").unwrap()),
            filter: self.one_in(4).then(|| Predicate::new("w = 1").unwrap()),
            limit: self.limit(),
            snapshot: None,
        }
    }

    fn value(&mut self) -> Stored {
        Stored::from_json([r#"{"w":1}"#, r#"{"w":2}"#, "7"][self.below(3)].as_bytes()).unwrap()
    }

    fn put(&mut self) -> Operation {
        let ttl_ms = self.one_in(5).then_some(1_000);
        Operation::Put { key: self.key(), value: self.value(), condition: None, ttl_ms }
    }

    /// Anything that a user may ask the table for.
    fn operation(&mut self) -> Operation {
        match self.below(14) {
            0 | 1 => self.put(),
            2 => Operation::Get { key: self.key() },
            3 => Operation::Del { key: self.key(), return_old: true, condition: None },
            4 => Operation::Incr { key: self.key(), by: 1 },
            5 => Operation::Mget { keys: vec![self.key(), self.key()] },
            6 => Operation::Exists { key: self.key() },
            7 => Operation::Size,
            8 if self.one_in(3) => Operation::DelPrefix { prefix: self.prefix(), limit: self.limit() },
            8 | 9 => {
                let delimiter = [&b"/"[..], b"1", b"b/"][self.below(3)].to_vec();
                let cursor = self.one_in(2).then(|| self.key());
                Operation::List(List { prefix: self.prefix(), delimiter, cursor, limit: self.limit() })
            }
            10 => Operation::Query { subkey: "w".into(), subvalue: Scalar::Int(2), scan: self.scan() },
            11 => {
                let part = |dice: &mut Dice| match dice.below(4) {
                    0 => Operation::Size,
                    1 => Operation::Scan(Scan { cursor: None, ..dice.scan() }),
                    2 => Operation::DelPrefix { prefix: dice.prefix(), limit: Some(2) },
                    _ => dice.put(),
                };
                let then = (0..=self.below(4)).map(|_| part(self)).collect();
                Operation::Txn(Box::new(Txn { compares: vec![], then, otherwise: vec![] }))
            }
            _ => Operation::Scan(self.scan()),
        }
    }
}

#[derive(Default)]
struct Table {
    state: State,
    snapshots: Snapshots,
    history: History,
}

impl Table {
    fn decide(&mut self, scope: &Scope, operation: &Operation, turn: &mut Turn) -> (Outcome, Vec<Change>) {
        let stamp = Stamp { revision: self.state.revision() + 1, time_ms: 5 };
        let decision = if operation.snapshot().is_some() {
            let reader = Reader { user: "ann", is_owner: false, scope };
            self.snapshots.read(&self.state, reader, operation, stamp, turn)
        } else {
            decide(&self.state, scope, operation.clone(), stamp, turn)
        };
        (decision.outcome, decision.changes)
    }

    fn apply(&mut self, change: Change, revision: u64) {
        self.history.apply(&mut self.state, &mut self.snapshots, change, revision);
    }
}

/// The whole table, and the one with the scope's keys alone.
struct Pair {
    scope: Scope,
    whole: Table,
    own: Table,
}

impl Pair {
    fn new(scope: Scope) -> Pair {
        Pair { scope, whole: Table::default(), own: Table::default() }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        let revision = self.whole.state.revision() + u64::from(!changes.is_empty());
        for change in changes {
            assert_eq!(change.space, Space::Table);
            let is_own = self.scope.contains(&change.key);
            // Nothing is there to delete; only the revision goes on.
            let own = Change { value: change.value.clone().filter(|_| is_own), ..change.clone() };
            self.own.apply(own, revision);
            self.whole.apply(change, revision);
        }
        assert_eq!(self.own.state.revision(), self.whole.state.revision());
    }

    /// Somebody who may do everything writes anywhere.
    fn others_write(&mut self, operation: Operation) {
        let (_, changes) = self.whole.decide(&Scope::all(), &operation, &mut Turn::one());
        self.apply(changes);
    }

    /// The restricted user asks, and is answered as on its own table.
    fn ask(&mut self, operation: &Operation, turn: &Turn) -> Outcome {
        let (mut whole_turn, mut own_turn) = (turn.clone(), turn.clone());
        let (outcome, changes) = self.whole.decide(&self.scope, operation, &mut whole_turn);
        let (expected, expected_changes) = self.own.decide(&Scope::all(), operation, &mut own_turn);
        assert_eq!((&outcome, &changes), (&expected, &expected_changes), "{:?}: {operation:?}", self.scope);
        // A number that is known examines nothing.
        if !counts(operation) {
            assert_eq!(whole_turn.examined_left, own_turn.examined_left, "{:?}: {operation:?}", self.scope);
        }
        assert!(changes.iter().all(|change| self.scope.contains(&change.key)), "{operation:?} changed what is not in its scope");
        self.apply(changes);
        outcome
    }
}

fn counts(operation: &Operation) -> bool {
    match operation {
        Operation::Size => true,
        Operation::Txn(txn) => txn.operations().any(counts),
        _ => false,
    }
}

#[test]
fn every_answer_is_that_of_a_table_with_the_users_keys_alone() {
    let (mut asked, mut refused, mut paged) = (0, 0, 0);
    for seed in 1..=60 {
        let mut dice = Dice(seed);
        let mut pair = Pair::new(dice.scope());
        let access = Access { role: Role::Write, scope: pair.scope.clone() };
        println!("seed {seed}, {:?}", pair.scope);
        for _ in 0..700 {
            if dice.one_in(2) {
                let operation = if dice.one_in(4) {
                    Operation::Del { key: dice.key(), return_old: false, condition: None }
                } else {
                    dice.put()
                };
                pair.others_write(operation);
                continue;
            }
            let operation = dice.operation();
            if access.check(&operation).is_err() {
                refused += 1;
                continue;
            }
            let mut turn = if dice.one_in(2) { Turn::one() } else { Turn::many() };
            // A turn that ends in the middle of things ends where it would without the others' keys. (What it ends before is said a
            // part earlier to who has several pieces to be looked into.)
            if dice.one_in(3) && !matches!(operation, Operation::Size | Operation::Txn(_)) {
                turn.examined_left = dice.below(20) + 1;
            }
            asked += 1;
            let outcome = pair.ask(&operation, &turn);
            let cursor = match outcome.result {
                Ok(Answer::Rows { cursor, .. } | Answer::Keys { cursor, .. }) => cursor,
                _ => None,
            };
            assert!(cursor.as_ref().is_none_or(|cursor| matches!(operation, Operation::List(_)) || pair.scope.contains(cursor)));
            paged += usize::from(cursor.is_some());
        }
        let (whole, own) = (pair.whole.state.keys(), pair.own.state.keys());
        assert!(own < whole, "nothing was outside: {own} of {whole}");
    }
    assert!(asked > 10_000 && refused > 2_000 && paged > 500, "{asked} asked, {refused} refused, {paged} with a cursor");
}

#[test]
fn the_pages_of_a_snapshot_are_those_of_the_users_own_table() {
    let mut pages = 0;
    for seed in 1..=40 {
        let mut dice = Dice(seed);
        let mut pair = Pair::new(dice.scope());
        (0..400).for_each(|_| pair.others_write(dice.put()));
        for _ in 0..20 {
            let limit = Some(dice.below(8) + 1);
            let mut scan = Scan { snapshot: Some(0), cursor: None, limit, ..dice.scan() };
            loop {
                let outcome = pair.ask(&Operation::Scan(scan.clone()), &Turn::one());
                pages += 1;
                (scan.cursor, scan.snapshot) = match outcome.result.unwrap() {
                    Answer::Rows { cursor, snapshot, .. } | Answer::Keys { cursor, snapshot, .. } => (cursor, snapshot),
                    other => panic!("{other:?}"),
                };
                if scan.cursor.is_none() {
                    break;
                }
                (0..5).for_each(|_| pair.others_write(dice.put()));
            }
        }
        assert!(pair.whole.snapshots.bytes() >= pair.own.snapshots.bytes());
    }
    assert!(pages > 2_000, "{pages}");
}

fn filled(prefix: &str, count: usize, state: &mut State) {
    for at in 0..count {
        let key = format!("{prefix}{at:05}").into_bytes();
        let put = Operation::Put { key, value: Stored::integer(1), condition: None, ttl_ms: None };
        let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
        let decision = decide(state, &Scope::all(), put, stamp, &mut Turn::one());
        decision.changes.into_iter().for_each(|change| state.apply(change, stamp.revision));
    }
}

#[test]
fn keys_are_counted_up_to_a_turns_bound_and_the_others_cost_nothing() {
    let mut state = State::new();
    filled("mine/", limits::EXAMINED_KEYS_MAX, &mut state);
    filled("other/", 3, &mut state);
    let scope = Scope::prefixes(vec![b"mine/".to_vec()]).unwrap();
    let size = |state: &State, scope: &Scope, turn: &mut Turn| {
        let stamp = Stamp { revision: state.revision() + 1, time_ms: 0 };
        decide(state, scope, Operation::Size, stamp, turn).outcome.result.map_err(|failure| failure.code)
    };
    let mut turn = Turn::many();
    assert_eq!(size(&state, &scope, &mut turn), Ok(Answer::Size(limits::EXAMINED_KEYS_MAX as u64)));
    assert_eq!(size(&state, &scope, &mut turn), Err(ErrorCode::ReplyFull), "an array shares its turn");
    assert_eq!(size(&state, &Scope::all(), &mut turn), Ok(Answer::Size(limits::EXAMINED_KEYS_MAX as u64 + 3)));
    filled("mine/x", 1, &mut state);
    assert_eq!(size(&state, &scope, &mut Turn::one()), Err(ErrorCode::Limit));
    let others = Scope::prefixes(vec![b"other/".to_vec(), b"nobody/".to_vec()]).unwrap();
    let mut turn = Turn::one();
    assert_eq!(size(&state, &others, &mut turn), Ok(Answer::Size(3)));
    assert_eq!(turn.examined_left, limits::EXAMINED_KEYS_MAX - 3);
}

#[test]
fn looking_into_pieces_without_keys_uses_up_the_turn() {
    let mut state = State::new();
    filled("", 1, &mut state);
    let prefixes = (0..limits::GRANT_PREFIXES_MAX).map(|at| format!("p{at}/").into_bytes()).collect();
    let scope = Scope::prefixes(prefixes).unwrap();
    let mut turn = Turn::many();
    let scan = |turn: &mut Turn| {
        let stamp = Stamp { revision: 2, time_ms: 0 };
        decide(&state, &scope, Operation::Scan(Scan::default()), stamp, turn).outcome.result
    };
    let answered = (0..limits::ARRAY_OPERATIONS_MAX).take_while(|_| scan(&mut turn).is_ok()).count();
    assert!((100..limits::ARRAY_OPERATIONS_MAX).contains(&answered), "{answered}");
    assert!(scan(&mut Turn::one()).is_ok(), "a message of its own gets on");
}
