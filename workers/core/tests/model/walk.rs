//! One walk: operations at random, each compared with the model, and a twin that gets only the changes.

use kvbroker_core::{Change, Decision, Space, Stamp, State, Turn, decide};
use kvbroker_protocol::{
    Answer, Compare, Condition, Deadline, ErrorCode, Found, Key, List, Operation, Pattern, Predicate, Scalar, Scan, Scope,
    Stored, Txn, limits,
};
use serde_json::{Value, json};

use crate::plain::{Dice, Held, Model, check_page, is_equal, is_same};
use crate::slices::{Run, check_whole};

pub(crate) struct Walk {
    pub(crate) dice: Dice,
    pub(crate) state: State,
    /// Gets the recorded changes only.
    pub(crate) twin: State,
    pub(crate) model: Model,
    /// The time of the stamps.
    pub(crate) time_ms: u64,
    /// How many keys have expired.
    pub(crate) expired: usize,
    pub(crate) slices: Run,
}

impl Walk {
    pub(crate) fn new(seed: u64) -> Walk {
        Walk {
            dice: Dice(seed),
            state: State::new(),
            twin: State::new(),
            model: Model::default(),
            time_ms: 0,
            expired: 0,
            slices: Run::default(),
        }
    }

    pub(crate) fn key(&mut self) -> Key {
        // Few enough to be met again, with prefixes of each other, bytes that are no text, and the empty one.
        let dice = &mut self.dice;
        match dice.below(40) {
            0 => Vec::new(),
            1 => vec![0xff; dice.below(3) + 1],
            2 => vec![0xff, 0x00, u8::try_from(dice.below(3)).unwrap()],
            _ => {
                let place = *dice.pick(&["a", "a/", "a/b/", "b", "user/", "é"]);
                format!("{place}{}", dice.below(40)).into_bytes()
            }
        }
    }

    pub(crate) fn value(&mut self) -> (Value, Stored) {
        let dice = &mut self.dice;
        let value = match dice.below(7) {
            0 => json!(null),
            1 => json!(dice.below(5)),
            2 => json!("text"),
            3 => json!([1, {"weight": 1}]),
            4 => json!({"weight": dice.below(4), "name": "zebra"}),
            5 => json!({"weight": 1.0, "stripes": true}),
            _ => json!({"name": dice.below(3).to_string(), "weight": {"kg": 1}}),
        };
        let text = value.to_string();
        let stored = if dice.one_in(2) {
            Stored::from_json(text.as_bytes()).unwrap()
        } else {
            Stored::from_msgpack(&kvbroker_protocol::json_to_msgpack(text.as_bytes()).unwrap()).unwrap()
        };
        (value, stored)
    }

    pub(crate) fn scan(&mut self) -> Scan {
        let prefixes: [&[u8]; 7] = [b"", b"", b"a", b"a/", b"user/", b"\xff", b"nobody"];
        let prefix = self.dice.pick(&prefixes).to_vec();
        let patterns = ["1", "^a/.*[02468]$", "^user/", "(?-u)\\xff", "é"];
        let pattern = self.dice.one_in(3).then(|| Pattern::new(self.dice.pick::<&str>(&patterns)).unwrap());
        let cursor = self.dice.one_in(3).then(|| self.key());
        let limit = self.dice.one_in(2).then(|| self.dice.below(30) + 1);
        let from = self.dice.one_in(4).then(|| self.key());
        let to = self.dice.one_in(4).then(|| self.key());
        let (reverse, keys_only) = (self.dice.one_in(3), self.dice.one_in(4));
        Scan { prefix, pattern, cursor, limit, from, to, reverse, keys_only, ..Scan::default() }
    }

    pub(crate) fn list(&mut self) -> List {
        let prefixes: [&[u8]; 6] = [b"", b"a", b"a/", b"user/", b"\xff", b"nobody"];
        let delimiters: [&[u8]; 5] = [b"/", b"/", b"1", b"\xff", b"/b"];
        let (prefix, delimiter) = (self.dice.pick(&prefixes).to_vec(), self.dice.pick(&delimiters).to_vec());
        List { prefix, delimiter, cursor: None, limit: self.dice.one_in(2).then(|| self.dice.below(5) + 1) }
    }

    /// All names, page by page.
    fn names(&mut self, turn: &mut Turn) {
        let mut wanted = self.list();
        let mut expected = self.model.names(&wanted);
        expected.reverse();
        loop {
            let result = self.decide(&Operation::List(wanted.clone()), turn).outcome.result;
            let Ok(Answer::Keys { keys, cursor, .. }) = result else { panic!("{wanted:?}: {result:?}") };
            assert!(keys.len() <= wanted.limit.unwrap_or(usize::MAX) && (!keys.is_empty() || cursor.is_none()), "{wanted:?}");
            keys.iter().for_each(|name| assert_eq!(expected.pop().as_ref(), Some(name), "{wanted:?}"));
            if cursor.is_none() {
                break assert!(expected.is_empty(), "{wanted:?} left out {expected:?}");
            }
            wanted.cursor = cursor;
        }
    }

    /// A condition on this key, and whether it holds.
    pub(crate) fn condition(&mut self, key: &[u8]) -> (Option<Condition>, bool) {
        let held = self.model.keys.get(key).cloned();
        match self.dice.below(8) {
            0 => (Some(Condition::Absent), held.is_none()),
            1 => {
                let modified = held.as_ref().map_or(0, |held| held.modified);
                (Some(Condition::Revision(modified)), true)
            }
            2 => {
                let wrong = held.as_ref().map_or(7, |held| held.modified - 1);
                (Some(Condition::Revision(wrong)), false)
            }
            3 => {
                let (value, stored) = self.value();
                (Some(Condition::Value(stored)), held.is_some_and(|held| is_same(&held.value, &value)))
            }
            _ => (None, true),
        }
    }

    /// Decides and applies, and checks what holds for every operation.
    pub(crate) fn decide(&mut self, operation: &Operation, turn: &mut Turn) -> Decision {
        let before = self.state.revision();
        assert_eq!(before, self.model.revision);
        let stamp = Stamp { revision: before + 1, time_ms: self.time_ms };
        let examined_before = turn.examined_left;
        let decision = decide(&self.state, &Scope::all(), operation.clone(), stamp, turn);
        let outcome = &decision.outcome;
        if decision.changes.is_empty() {
            assert_eq!(outcome.revision, Some(before), "without changes there is no revision: {operation:?}");
        } else {
            assert!(outcome.result.is_ok() && operation.is_mutation(), "{operation:?} failed and left a trace");
            assert_eq!(outcome.revision, Some(before + 1));
        }
        let may_change_nothing = matches!(operation, Operation::Txn(_) | Operation::Persist { .. } | Operation::DelPrefix { .. });
        assert!(
            may_change_nothing || !(operation.is_mutation() && outcome.result.is_ok() && decision.changes.is_empty()),
            "{operation:?}"
        );
        assert!(examined_before - turn.examined_left <= limits::EXAMINED_KEYS_MAX);
        for change in &decision.changes {
            self.apply(change, before + 1);
        }
        decision
    }

    fn apply(&mut self, change: &Change, revision: u64) {
        self.slices.change(change, revision);
        self.state.apply(change.clone(), revision);
        self.twin.apply(through_the_log(change), revision);
    }

    /// Time passes, and sometimes what is due is removed. As long as it is not, it is there: the steps between compare it as every key.
    pub(crate) fn wait(&mut self) {
        self.time_ms += self.dice.next() % 50;
        if self.dice.one_in(2) {
            return;
        }
        let max = self.dice.below(4) + 1;
        let due = self.state.due(self.time_ms, max);
        let expected: Vec<Key> = self.model.due(self.time_ms).into_iter().take(max).collect();
        assert_eq!(due, expected, "at {}", self.time_ms);
        for key in due {
            assert!(self.model.del(&key).is_some());
            let revision = self.model.revision;
            self.apply(&Change { space: Space::Table, key, value: None }, revision);
            self.expired += 1;
        }
    }

    /// A time to live, or none; mostly short enough to run out within the walk.
    fn ttl(&mut self) -> Option<u64> {
        match self.dice.below(4) {
            0 => Some(self.dice.next() % 3_000 + 1),
            1 => Some(*self.dice.pick(&[1, 5, limits::TTL_MS_MAX])),
            _ => None,
        }
    }

    /// One operation on deadlines, or a removal of many keys.
    fn deadline_step(&mut self, turn: &mut Turn) {
        let key = self.key();
        let held = self.model.keys.get(&key).cloned();
        match self.dice.below(8) {
            0..3 => {
                let ttl_ms = self.ttl().unwrap_or(100);
                let result = self.decide(&Operation::Expire { key: key.clone(), ttl_ms }, turn).outcome.result;
                if held.is_none() {
                    assert_eq!(result.unwrap_err().code, ErrorCode::NotFound);
                } else {
                    assert_eq!(result, Ok(Answer::Done));
                    self.model.set_deadline(&key, Some(self.time_ms + ttl_ms));
                }
            }
            3..5 => {
                let decision = self.decide(&Operation::Persist { key: key.clone() }, turn);
                match held.map(|held| held.expires_ms) {
                    None => assert_eq!(decision.outcome.result.unwrap_err().code, ErrorCode::NotFound),
                    Some(None) => assert_eq!((decision.outcome.result, decision.changes.len()), (Ok(Answer::Done), 0)),
                    Some(Some(_)) => {
                        assert_eq!((decision.outcome.result, decision.changes.len()), (Ok(Answer::Done), 1));
                        self.model.set_deadline(&key, None);
                    }
                }
            }
            5..7 => {
                let result = self.decide(&Operation::Ttl { key }, turn).outcome.result;
                match held {
                    None => assert_eq!(result.unwrap_err().code, ErrorCode::NotFound),
                    Some(held) => assert_eq!(result, Ok(Answer::Ttl(self.deadline(&held)))),
                }
            }
            _ => {
                // Mostly narrow, so that something is left.
                let prefixes: [&[u8]; 6] = [b"a/b/1", b"user/3", b"\xff", b"nobody", b"\xc3", b"b"];
                let prefix = self.dice.pick(&prefixes).to_vec();
                let limit = self.dice.one_in(2).then(|| self.dice.below(5) + 1);
                let operation = Operation::DelPrefix { prefix: prefix.clone(), limit };
                let decision = self.decide(&operation, turn);
                let gone = self.model.del_prefix(&prefix, limit.unwrap_or(usize::MAX));
                let more = self.model.keys.keys().any(|key| key.starts_with(&prefix));
                assert_eq!(decision.outcome.result, Ok(Answer::Deleted { removed: gone.len() as u64, more }), "{operation:?}");
                assert!(
                    decision.changes.iter().map(|change| (&change.key, &change.value)).eq(gone.iter().map(|key| (key, &None)))
                );
            }
        }
    }

    fn deadline(&self, held: &Held) -> Option<Deadline> {
        held.expires_ms.map(|at_ms| Deadline { left_ms: at_ms.saturating_sub(self.time_ms), at_ms })
    }

    /// One operation of any kind, compared with the model.
    pub(crate) fn step(&mut self, turn: &mut Turn) {
        match self.dice.below(19) {
            14 => self.wait(),
            15..18 => self.deadline_step(turn),
            0..4 => {
                let (key, (value, stored), ttl_ms) = (self.key(), self.value(), self.ttl());
                let (condition, holds) = self.condition(&key);
                let operation = Operation::Put { key: key.clone(), value: stored.clone(), condition, ttl_ms };
                let result = self.decide(&operation, turn).outcome.result;
                if holds {
                    assert_eq!(result, Ok(Answer::Done), "{operation:?}");
                    self.model.put(&key, value, stored, ttl_ms.map(|ttl_ms| self.time_ms + ttl_ms));
                } else {
                    assert_eq!(result.unwrap_err().code, ErrorCode::Conflict, "{operation:?}");
                }
            }
            4..6 => {
                let (key, return_old) = (self.key(), self.dice.one_in(2));
                let (condition, holds) = self.condition(&key);
                // Of a key that is not there nothing can be demanded that a removal would fulfil.
                let condition = condition.filter(|condition| *condition != Condition::Absent);
                let holds = holds || condition.is_none();
                let operation = Operation::Del { key: key.clone(), return_old, condition };
                let result = self.decide(&operation, turn).outcome.result;
                match self.model.keys.get(&key).cloned() {
                    None => assert_eq!(result.unwrap_err().code, ErrorCode::NotFound),
                    Some(_) if !holds => assert_eq!(result.unwrap_err().code, ErrorCode::Conflict, "{operation:?}"),
                    Some(held) => {
                        self.model.del(&key);
                        assert_eq!(result, Ok(if return_old { Answer::Removed(held.stored) } else { Answer::Done }));
                    }
                }
            }
            11 => {
                let (key, by) = (self.key(), *self.dice.pick(&[1, -1, 1_000_000, i64::MIN, i64::MAX]));
                let result = self.decide(&Operation::Incr { key: key.clone(), by }, turn).outcome.result;
                let before = match self.model.keys.get(&key).map(|held| &held.value) {
                    None => Some(0),
                    Some(Value::Number(number)) if !number.is_f64() => number.as_i128(),
                    Some(_) => None,
                };
                match before.map(|before| before + i128::from(by)) {
                    None => assert_eq!(result.unwrap_err().code, ErrorCode::WrongType),
                    Some(after) if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&after) => {
                        assert_eq!(result, Ok(Answer::Integer(after)));
                        let expires_ms = self.model.keys.get(&key).and_then(|held| held.expires_ms);
                        let value = serde_json::from_str(&after.to_string()).unwrap();
                        self.model.put(&key, value, Stored::integer(after), expires_ms);
                    }
                    Some(_) => assert_eq!(result.unwrap_err().code, ErrorCode::OutOfRange),
                }
            }
            13 => self.transaction(turn),
            12 => {
                let key = self.key();
                let result = self.decide(&Operation::Exists { key: key.clone() }, turn).outcome.result;
                assert_eq!(result, Ok(Answer::Exists(self.model.keys.contains_key(&key))));
                let keys: Vec<Key> = (0..=self.dice.below(5)).map(|_| self.key()).collect();
                let result = self.decide(&Operation::Mget { keys: keys.clone() }, turn).outcome.result;
                let held = |key: &Key| {
                    let held = self.model.keys.get(key)?;
                    Some(Found { value: held.stored.clone(), modified: held.modified, created: held.created })
                };
                assert_eq!(result, Ok(Answer::Values(keys.iter().map(held).collect())));
            }
            6..8 => {
                let key = self.key();
                let result = self.decide(&Operation::Get { key: key.clone() }, turn).outcome.result;
                match self.model.keys.get(&key) {
                    None => assert_eq!(result.unwrap_err().code, ErrorCode::NotFound),
                    Some(Held { stored, modified, created, .. }) => {
                        let value = stored.clone();
                        assert_eq!(result, Ok(Answer::Value { value, modified: *modified, created: *created }));
                    }
                }
            }
            8 => {
                let result = self.decide(&Operation::Size, turn).outcome.result;
                assert_eq!(result, Ok(Answer::Size(self.model.keys.len() as u64)));
            }
            9 => {
                let wanted = self.scan();
                let result = self.decide(&Operation::Scan(wanted.clone()), turn).outcome.result;
                check_page(result.unwrap(), &wanted, self.model.rows(&wanted, |_| true));
            }
            10 => {
                let wanted = self.scan();
                let (subkey, subvalue) = self
                    .dice
                    .pick(&[
                        ("weight", json!(1)),
                        ("weight", json!(1.0)),
                        ("weight", json!("1")),
                        ("name", json!("1")),
                        ("stripes", json!(true)),
                        ("absent", json!(null)),
                    ])
                    .clone();
                let scalar = Scalar::from_json(&subvalue.to_string()).unwrap();
                // The two ways to ask for the same.
                let operation = if self.dice.one_in(2) {
                    Operation::Query { subkey: subkey.into(), subvalue: scalar, scan: wanted.clone() }
                } else {
                    let filter = Some(Predicate::new(&format!("{subkey} = {subvalue}")).unwrap());
                    Operation::Scan(Scan { filter, ..wanted.clone() })
                };
                let result = self.decide(&operation, turn).outcome.result;
                check_page(result.unwrap(), &wanted, self.model.rows(&wanted, |value| is_equal(value.get(subkey), &subvalue)));
            }
            _ if self.dice.one_in(4) => self.names(turn),
            _ => {
                assert_eq!(self.decide(&Operation::Ping, turn).outcome.result, Ok(Answer::Done));
            }
        }
    }

    /// Several changes at once: each as the model does it alone, or none.
    pub(crate) fn transaction(&mut self, turn: &mut Turn) {
        let mut compares = Vec::new();
        let mut holds = true;
        for _ in 0..self.dice.below(3) {
            let key = self.key();
            if let (Some(condition), held) = self.condition(&key) {
                holds &= held;
                compares.push(Compare { key, condition });
            }
        }
        let revision = self.model.revision + 1;
        let mut after = self.model.clone();
        let (mut operations, mut expected, mut fails) = (Vec::new(), Vec::new(), false);
        for _ in 0..self.dice.below(5) + 1 {
            let key = self.key();
            let held = after.keys.get(&key).cloned();
            match self.dice.below(6) {
                0 => {
                    let ((value, stored), ttl_ms) = (self.value(), self.ttl());
                    operations.push(Operation::Put { key: key.clone(), value: stored.clone(), condition: None, ttl_ms });
                    after.put(&key, value, stored, ttl_ms.map(|ttl_ms| self.time_ms + ttl_ms));
                    expected.push(Ok(Answer::Done));
                }
                1 => {
                    operations.push(Operation::Del { key: key.clone(), return_old: true, condition: None });
                    fails |= held.is_none();
                    after.del(&key);
                    expected.push(held.map(|held| Answer::Removed(held.stored)).ok_or(()));
                }
                2 => {
                    operations.push(Operation::Get { key: key.clone() });
                    let value = |held: Held| Answer::Value { value: held.stored, modified: held.modified, created: held.created };
                    expected.push(held.map(value).ok_or(()));
                }
                3 => {
                    // A deadline for the key, what it is then, and gone again or not.
                    let (ttl_ms, at_ms) = (70, self.time_ms + 70);
                    operations.extend([Operation::Expire { key: key.clone(), ttl_ms }, Operation::Ttl { key: key.clone() }]);
                    fails |= held.is_none();
                    after.set_deadline(&key, Some(at_ms));
                    expected.extend([Ok(Answer::Done), Ok(Answer::Ttl(Some(Deadline { left_ms: ttl_ms, at_ms })))]);
                    if self.dice.one_in(2) {
                        operations.push(Operation::Persist { key: key.clone() });
                        after.revision = self.model.revision;
                        after.set_deadline(&key, None);
                        expected.push(Ok(Answer::Done));
                    }
                }
                4 => {
                    operations.push(Operation::Ttl { key: key.clone() });
                    expected.push(held.map(|held| Answer::Ttl(self.deadline(&held))).ok_or(()));
                }
                _ => {
                    let wanted = Scan { prefix: b"a".to_vec(), reverse: self.dice.one_in(2), ..Scan::default() };
                    let rows = after.rows(&wanted, |_| true);
                    let list = List { limit: None, ..self.list() };
                    let names = after.names(&list);
                    operations.extend([Operation::Size, Operation::Scan(wanted), Operation::List(list)]);
                    expected.push(Ok(Answer::Size(after.keys.len() as u64)));
                    expected.push(Ok(Answer::Rows { rows, cursor: None, snapshot: None }));
                    expected.push(Ok(Answer::Keys { keys: names, cursor: None, snapshot: None }));
                }
            }
            // All of a transaction has one revision.
            after.revision = self.model.revision;
        }
        let txn = Txn { compares, then: operations, otherwise: vec![Operation::Size] };
        let before = self.model.revision;
        let outcome = self.decide(&Operation::Txn(Box::new(txn)), turn).outcome;
        match outcome.result {
            Err(failure) => assert!(holds && fails && failure.message.contains("`then`["), "{failure:?}"),
            Ok(Answer::Txn { succeeded, results }) => {
                assert_eq!(succeeded, holds);
                if holds {
                    assert!(!fails);
                    let results: Vec<_> = results.into_iter().map(|result| result.result.map_err(|_| ())).collect();
                    assert_eq!(results, expected);
                    let changed = outcome.revision == Some(revision);
                    self.model = after;
                    self.model.revision = if changed { revision } else { before };
                }
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn check_whole(&self) {
        assert!(self.state == self.twin, "the twin that got only the changes differs");
        let mut bytes_max = 0;
        check_whole(&self.state, || {
            bytes_max += 99;
            bytes_max
        });
        assert_eq!(self.state.keys(), self.model.keys.len());
        let bytes: usize = self
            .model
            .keys
            .iter()
            // The flags, the revision of creation where the record's own is another, and the deadline if there is one.
            .map(|(key, held)| {
                let numbers = usize::from(held.created != held.modified) + usize::from(held.expires_ms.is_some());
                key.len() + held.stored.as_bytes().len() + 1 + 8 * numbers
            })
            .sum();
        assert_eq!(self.state.bytes(), bytes as u64);
        let deadlines = || self.model.keys.values().filter_map(|held| held.expires_ms);
        assert_eq!((self.state.deadlines(), self.state.next_deadline_ms()), (deadlines().count(), deadlines().min()));
        assert_eq!(self.state.due(u64::MAX, usize::MAX), self.model.due(u64::MAX));
    }
}

/// The change as a recovery reads it from the log.
pub(crate) fn through_the_log(change: &Change) -> Change {
    let mut record_key = Vec::new();
    change.write_record_key(&mut record_key);
    let read = Change::from_record(&record_key, change.value.as_deref()).unwrap();
    assert_eq!(&read, change);
    read
}
