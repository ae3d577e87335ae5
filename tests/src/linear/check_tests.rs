#![allow(clippy::unwrap_used)]
use super::super::history::{Only, Told, Transaction};
use super::*;
use crate::Dice;

const CLIENTS: usize = 6;
const KEYS: usize = 12;
/// Between two operations' moments of being done, ns.
const STEP_NS: u64 = 100;

fn some_condition(dice: &mut Dice, model: &Model, key: u32) -> Only {
    let found = model.get(key);
    match dice.below(6) {
        0 => Only::Absent,
        1 => Only::Exists,
        2 => Only::Revision(found.map_or(0, |found| found.modified)),
        3 => Only::Value(found.map_or(7, |found| found.value)),
        4 => Only::Revision(dice.below(50) as u64),
        _ => Only::Value(dice.below(50) as i64),
    }
}

/// One of all that can be asked; mostly something that a right table does.
fn some_ask(dice: &mut Dice, model: &Model, inside: bool) -> Ask {
    let key = dice.below(KEYS) as u32;
    let only = |dice: &mut Dice| (dice.below(2) == 0).then(|| some_condition(dice, model, key));
    match dice.below(if inside { 6 } else { 8 }) {
        0 => Ask::Get { key },
        1 => Ask::Put { key, value: dice.number() as i64, only: only(dice) },
        2 => Ask::Incr { key, by: dice.below(100) as i64 - 50 },
        3 => Ask::Mget { keys: (0..dice.below(4) + 1).map(|_| dice.below(KEYS) as u32).collect() },
        4 => Ask::Exists { key },
        5 => Ask::Put { key, value: dice.below(1_000) as i64, only: None },
        6 if dice.below(2) == 0 => Ask::Size,
        6 => Ask::Del { key, give_back: dice.below(2) == 0, only: only(dice) },
        _ => Ask::Txn(Box::new(Transaction {
            compares: (0..dice.below(2)).map(|_| (key, some_condition(dice, model, key))).collect(),
            then: (0..dice.below(4)).map(|_| some_ask(dice, model, true)).collect(),
            otherwise: (0..dice.below(3)).map(|_| some_ask(dice, model, true)).collect(),
        })),
    }
}

/// A history that a right table makes, of clients with several operations in flight.
fn right_history(dice: &mut Dice, operations: usize) -> Vec<Recorded> {
    let mut model = Model::default();
    let (mut numbers, mut begun) = ([0; CLIENTS], [0; CLIENTS]);
    (1..=operations as u64)
        .map(|moment| {
            let client = dice.below(CLIENTS);
            let at_ns = moment * STEP_NS;
            begun[client] = at_ns.saturating_sub(dice.below(2_000) as u64).max(begun[client]);
            let ask = some_ask(dice, &model, false);
            let (told, _) = model.ask(&ask);
            let end = End { at_ns: at_ns + dice.below(2_000) as u64, revision: model.revision(), told };
            numbers[client] += 1;
            Recorded { client: client as u32, number: numbers[client], begun_ns: begun[client], ask, end: Some(end) }
        })
        .collect()
}

/// Shuffled, since files of several clients come one behind the other.
fn shuffled(dice: &mut Dice, mut history: Vec<Recorded>) -> Vec<Recorded> {
    for at in (1..history.len()).rev() {
        history.swap(at, dice.below(at + 1));
    }
    history
}

fn name(operation: &Recorded) -> String {
    format!("client {}'s operation {} (", operation.client, operation.number)
}

/// A short history: `(client, begun, ended, what was asked, what was told, revision)`.
fn written(lines: &[(u32, u64, u64, Ask, Told, u64)]) -> Vec<Recorded> {
    let record = |(number, (client, begun_ns, at_ns, ask, told, revision)): (usize, &(u32, u64, u64, Ask, Told, u64))| {
        let end = End { at_ns: *at_ns, revision: *revision, told: told.clone() };
        Recorded { client: *client, number: number as u32, begun_ns: *begun_ns, ask: ask.clone(), end: Some(end) }
    };
    lines.iter().enumerate().map(record).collect()
}

fn put(value: i64) -> Ask {
    Ask::Put { key: 1, value, only: None }
}

fn get() -> Ask {
    Ask::Get { key: 1 }
}

fn found(value: i64, modified: u64, created: u64) -> Told {
    Told::Found(Found { value, modified, created })
}

#[test]
fn right_histories_are_right() {
    let mut failed: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let history = right_history(&mut dice, 2_000);
        let changes = history.iter().filter(|operation| operation.has_changed()).count() as u64;
        let checked = check(&shuffled(&mut dice, history)).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert_eq!((checked.operations, checked.revisions), (2_000, changes));
        let verbs = ["del", "del-if", "exists", "get", "incr", "mget", "put", "put-if", "size", "txn"];
        assert_eq!(checked.verbs.keys().copied().collect::<Vec<_>>(), verbs);
        for (verb, count) in checked.verbs {
            *failed.entry(verb).or_default() += count.1;
        }
    }
    let failing: Vec<&str> = failed.into_iter().filter(|(_, count)| *count > 0).map(|(verb, _)| verb).collect();
    assert_eq!(failing, ["del", "del-if", "get", "put-if", "txn"]);
    assert_eq!(check(&[]), Ok(Checked::default()));
}

#[test]
fn every_reply_with_another_content_is_caught() {
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let mut history = right_history(&mut dice, 300);
        let at = dice.below(history.len());
        let before = history[at].to_string();
        let told = &mut history[at].end.as_mut().unwrap().told;
        lie(&mut dice, told);
        let (liar, after) = (name(&history[at]), history[at].to_string());
        let violation = check(&shuffled(&mut dice, history)).expect_err(&format!("seed {seed}: {before} became {after}"));
        // A failure taken for a success, or the other way round, can also show at its neighbours.
        assert!(matches!(
            violation,
            Violation::Wrong { .. }
                | Violation::Twice { .. }
                | Violation::Nobody { .. }
                | Violation::ClientOrder { .. }
                | Violation::RealTime { .. }
        ));
        if let Violation::Wrong { operation, .. } = &violation {
            assert!(operation.starts_with(&liar), "{violation} names {liar}");
        }
    }
}

/// Makes a reply say something else.
fn lie(dice: &mut Dice, told: &mut Told) {
    *told = match std::mem::replace(told, Told::Done) {
        Told::Done => Told::Conflict,
        Told::Removed(value) => Told::Removed(value ^ 1),
        Told::Found(mut found) => {
            match dice.below(4) {
                0 => found.value += 1,
                1 => found.modified -= 1,
                2 => found.created += 1,
                _ => return *told = Told::NotFound,
            }
            Told::Found(found)
        }
        Told::Many(mut many) => {
            let place = dice.below(many.len());
            many[place] = match many[place] {
                Some(found) if dice.below(2) == 0 => Some(Found { value: found.value.wrapping_sub(1), ..found }),
                Some(_) => None,
                None => Some(Found { value: 1, modified: 1, created: 1 }),
            };
            Told::Many(many)
        }
        Told::Exists(exists) => Told::Exists(!exists),
        Told::Sum(sum) => Told::Sum(sum.wrapping_add(1)),
        Told::Size(size) => Told::Size(size + 1),
        Told::Txn { succeeded, results } => Told::Txn { succeeded: !succeeded, results },
        Told::NotFound => Told::Done,
        Told::Conflict => Told::Done,
        Told::OutOfRange => Told::Sum(0),
    }
}

#[test]
fn a_value_of_another_revision() {
    // The reply names revision 2 and its change, but the value is that of revision 1.
    let history =
        written(&[(1, 1, 2, put(10), Told::Done, 1), (1, 3, 4, put(20), Told::Done, 2), (2, 5, 6, get(), found(10, 2, 1), 2)]);
    let violation = check(&history).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "client 2's operation 2 (get key/1; asked at 0.000000005 s, told at 0.000000006 s: 10 (modified 2, created 1), revision 2) \
         should have been told: 20 (modified 2, created 1); key/1 was last changed by client 1's operation 1 (put key/1 = 20; asked at \
         0.000000003 s, told at 0.000000004 s: done, revision 2)"
    );
}

#[test]
fn a_stale_read_that_says_so() {
    // In itself the reply is right, but revision 2 was acknowledged before it was asked for.
    let history =
        written(&[(1, 1, 2, put(10), Told::Done, 1), (1, 3, 4, put(20), Told::Done, 2), (2, 5, 6, get(), found(10, 1, 1), 1)]);
    let violation = check(&history).unwrap_err();
    assert!(
        matches!(&violation, Violation::RealTime { earlier, later }
        if earlier.starts_with(&name(&history[1])) && later.starts_with(&name(&history[2]))),
        "{violation}"
    );
    // While the second put was under way, it would have been right.
    let mut history = history;
    history[2].begun_ns = 4;
    assert_eq!(check(&history).unwrap().operations, 3);
}

#[test]
fn a_read_of_what_was_not_asked_yet() {
    let history = written(&[(1, 5, 6, put(10), Told::Done, 1), (2, 1, 2, get(), found(10, 1, 1), 1)]);
    assert!(matches!(check(&history).unwrap_err(), Violation::RealTime { .. }));
}

#[test]
fn a_lost_update() {
    // Both were acknowledged, and the second did not see the first.
    let incr = || Ask::Incr { key: 1, by: 5 };
    let lines = [(1, 1, 4, incr(), Told::Sum(5), 1), (2, 2, 3, incr(), Told::Sum(5), 2)];
    let history = written(&lines);
    assert!(matches!(check(&history).unwrap_err(), Violation::Wrong { operation, expected, .. }
        if operation.starts_with(&name(&history[1])) && expected == "sum 10"));
    // Acknowledged, and then its revision was given to another one.
    let [first, second] = lines;
    let history = written(&[first, (second.0, second.1, second.2, second.3, second.4, 1)]);
    assert!(matches!(check(&history).unwrap_err(), Violation::Twice { revision: 1, first, second }
        if first.starts_with(&name(&history[0])) && second.starts_with(&name(&history[1]))));
}

#[test]
fn a_doubled_increment() {
    let incr = || Ask::Incr { key: 1, by: 5 };
    // Done twice, answered once: a revision that nobody made.
    let history = written(&[(1, 1, 2, incr(), Told::Sum(5), 1), (1, 3, 4, get(), found(10, 2, 1), 2)]);
    assert!(
        matches!(check(&history).unwrap_err(), Violation::Nobody { revision: 2, seen } if seen.starts_with(&name(&history[1])))
    );
    // Done twice at one revision.
    let history = written(&[(1, 1, 2, incr(), Told::Sum(5), 1), (1, 3, 4, get(), found(10, 1, 1), 1)]);
    assert!(matches!(check(&history).unwrap_err(), Violation::Wrong { expected, .. } if expected.starts_with("5 ")));
}

#[test]
fn swapped_revisions() {
    let mut caught = 0;
    for seed in 0..100 {
        let mut dice = Dice::new(seed);
        let mut history = right_history(&mut dice, 300);
        let changes: Vec<usize> = (0..history.len()).filter(|at| history[*at].has_changed()).collect();
        let touches_the_same = |pair: &[usize]| {
            let key = single_key(&history[pair[0]].ask);
            key.is_some() && key == single_key(&history[pair[1]].ask) && matches!(history[pair[1]].ask, Ask::Incr { .. })
        };
        let pair = changes.windows(2).skip(10).find(|pair| touches_the_same(pair));
        let Some(&[one, other]) = pair else { continue };
        let (at_one, at_other) = (revision(&history[one]), revision(&history[other]));
        history[one].end.as_mut().unwrap().revision = at_other;
        history[other].end.as_mut().unwrap().revision = at_one;
        check(&history).expect_err(&format!("seed {seed}: {} and {}", history[one], history[other]));
        caught += 1;
    }
    assert!(caught > 50, "{caught}");
    // And where only the clock tells.
    let lines = [(1, 1, 2, put(1), Told::Done, 2), (2, 3, 4, Ask::Put { key: 2, value: 1, only: None }, Told::Done, 1)];
    assert!(matches!(check(&written(&lines)).unwrap_err(), Violation::RealTime { .. }));
}

#[test]
fn an_order_that_the_clock_contradicts() {
    let mut caught = 0;
    for seed in 0..100 {
        let mut dice = Dice::new(seed);
        let mut history = right_history(&mut dice, 300);
        // Everything about one operation is right, but for it having begun long after.
        let at = dice.below(200);
        let late = &mut history[at];
        late.begun_ns += 100 * STEP_NS;
        late.end.as_mut().unwrap().at_ns += 100 * STEP_NS;
        let liar = name(&history[at]);
        match check(&history) {
            Err(Violation::RealTime { earlier, later }) => {
                caught += 1;
                assert!(earlier.starts_with(&liar) || later.starts_with(&liar));
            }
            // Nothing had changed in those hundred.
            Ok(_) => {}
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    assert!(caught > 95, "{caught} of 100");
}

#[test]
fn one_clients_order() {
    let other = |key| Ask::Put { key, value: 1, only: None };
    // Both were in flight together, so the clock allows it, but a session does not.
    let history = written(&[(1, 1, 8, put(10), Told::Done, 2), (1, 2, 8, other(2), Told::Done, 1)]);
    assert!(matches!(check(&history).unwrap_err(), Violation::ClientOrder { earlier, later }
        if earlier.starts_with(&name(&history[0])) && later.starts_with(&name(&history[1]))));
    // Of two clients it is right; and so are reads that are overtaken.
    assert!(check(&written(&[(1, 1, 8, put(10), Told::Done, 2), (2, 2, 8, other(2), Told::Done, 1)])).is_ok());
    assert!(check(&written(&[(1, 1, 8, get(), found(10, 1, 1), 1), (1, 2, 8, put(10), Told::Done, 1)])).is_ok());
}

#[test]
fn revisions_that_nobody_made_or_somebody_else() {
    let mut dice = Dice::new(1);
    let history = right_history(&mut dice, 300);
    for at in (0..200).filter(|at| history[*at].has_changed()) {
        let mut missing = history.clone();
        let gone = missing.remove(at);
        let wanted = revision(&gone);
        assert!(matches!(check(&missing), Err(Violation::Nobody { revision, .. }) if revision == wanted), "without {gone}");
        let mut twice = history.clone();
        twice.push(Recorded { client: 99, ..gone.clone() });
        assert!(matches!(check(&twice), Err(Violation::Twice { revision, .. }) if revision == wanted), "with a second {gone}");
        twice.pop();
        twice.push(gone);
        assert!(matches!(check(&twice), Err(Violation::Numbers { .. })));
    }
    let mut history = history;
    history[7].end.as_mut().unwrap().at_ns = 0;
    history[7].begun_ns = 1;
    assert!(matches!(check(&history), Err(Violation::Clock(_))));
}

#[test]
fn unknown_outcomes_may_have_been_done_or_not() {
    for seed in 0..50 {
        let mut dice = Dice::new(seed);
        let mut history = right_history(&mut dice, 400);
        let mut lost = 0;
        for _ in 0..12 {
            let at = dice.below(history.len());
            lost += usize::from(history[at].end.take().is_some());
        }
        for number in 0..5 {
            let mut never = history[dice.below(history.len())].clone();
            (never.client, never.number, never.end) = (100, number, None);
            history.push(never);
        }
        let checked = check(&shuffled(&mut dice, history)).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert_eq!(checked.operations, 400 - lost);
        assert!(checked.unknown_done <= checked.unknown && checked.unknown <= lost + 5);
    }
}

#[test]
fn unknown_outcomes_explain_only_what_they_can() {
    let unknown = |begun_ns, ask| Recorded { client: 9, number: 0, begun_ns, ask, end: None };
    let lines = [(1, 1, 2, put(10), Told::Done, 1), (1, 3, 4, get(), found(20, 2, 1), 2)];
    let with = |unknown: &[Recorded]| check(&[written(&lines), unknown.to_vec()].concat());
    assert_eq!(with(&[unknown(1, put(20))]).unwrap().unknown_done, 1);
    // Another value; begun too late; not even a mutation; two that together are too much.
    assert!(matches!(with(&[unknown(1, put(21))]), Err(Violation::Wrong { .. })));
    assert!(matches!(with(&[unknown(5, put(20))]), Err(Violation::Nobody { .. })));
    assert!(matches!(with(&[unknown(1, get())]), Err(Violation::Nobody { .. })));
    assert_eq!(with(&[]).unwrap_err(), with(&[unknown(1, get())]).unwrap_err());
}

#[test]
fn what_cannot_be_decided_is_not_taken_for_right() {
    // Nobody ever reads what thirty increments may have left, and at the end a sum is wrong that none of their orders explains.
    let mut history = written(&[(1, 1_000, 1_001, Ask::Get { key: 99 }, found(1, 1, 1), 25)]);
    for number in 0..30 {
        history.push(Recorded { client: 2, number, begun_ns: 1, ask: Ask::Incr { key: number, by: 1 }, end: None });
    }
    assert!(matches!(check(&history), Err(Violation::Undecided { unknown: 30, .. })));
}

#[test]
fn files_keep_histories_and_tell_broken_ones() {
    use super::super::history::{ReadError, read, write};
    let mut dice = Dice::new(5);
    let mut history = right_history(&mut dice, 2_000);
    history[3].end = None;
    let mut file = Vec::new();
    history.iter().for_each(|record| write(&mut file, record).unwrap());
    assert!(file.len() < 2_000 * 80, "{} bytes a record", file.len() / 2_000);
    let mut found = Vec::new();
    read(file.as_slice(), &mut found).unwrap();
    assert_eq!(found, history);
    let error = read(&file[..file.len() - 1], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ReadError::Broken { number: 1_999, .. }), "{error}");
}
