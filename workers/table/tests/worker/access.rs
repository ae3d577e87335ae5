//! What a user may do is asked when its call is decided, whatever it might when the call was sent.

use std::collections::HashMap;

use kvbroker_protocol::{Access, Answer, ErrorCode, Header, Operation, Operations, Role, Scan, SessionId};

use super::bench::{Bench, WALL_MS, get, key, put};
use super::code;

const ANN: &str = "kvpub1ann";

fn admit(bench: &Bench, role: Role, prefixes: &[&str]) {
    let prefixes = prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect();
    bench.access.replace(HashMap::from([(ANN.into(), Access::new(role, prefixes).unwrap())]));
}

#[test]
fn a_user_is_answered_about_its_own_keys() {
    let mut bench = Bench::new();
    bench.one(put("own/1", "1"));
    bench.one(put("x", "2"));
    admit(&bench, Role::Write, &["own/"]);
    bench.user = ANN;
    let history = |name| Operation::History { key: key(name), limit: None, before: None };
    let scan = || Operation::Scan(Scan { keys_only: true, ..Scan::default() });
    let hello = bench.one(Operation::Hello { project: None });
    let pages = bench.one(scan());
    let snapshot = bench.one(Operation::Scan(Scan { snapshot: Some(0), keys_only: true, ..Scan::default() }));
    let (versions, foreign) = (bench.one(history("own/1")), bench.one(history("x")));
    let many = bench.ask(Header::default(), Operations::Many(vec![put("own/2", "3"), get("x"), put("x", "4"), Operation::Size]));
    let stats = bench.one(Operation::Stats);
    bench.run_to_end().unwrap();

    let result = |id| bench.outcomes(id).remove(0).result;
    let Ok(Answer::Hello(hello)) = result(hello) else { panic!() };
    assert_eq!((&*hello.user, hello.role, hello.prefixes), (ANN, Some(Role::Write), vec![key("own/")]));
    assert_eq!(result(pages), Ok(Answer::Keys { keys: vec![key("own/1")], cursor: None, snapshot: None }));
    assert_eq!(result(snapshot), Ok(Answer::Keys { keys: vec![key("own/1")], cursor: None, snapshot: Some(2) }));
    assert!(matches!(result(versions), Ok(Answer::History { versions, .. }) if versions.len() == 1));
    assert_eq!(result(foreign).unwrap_err().code, ErrorCode::Refused);
    let codes: Vec<_> = bench.outcomes(many).iter().map(code).collect();
    assert_eq!(codes, [None, Some(ErrorCode::Refused), Some(ErrorCode::Refused), None]);
    assert_eq!(bench.outcomes(many)[3].result, Ok(Answer::Size(2)));
    assert_eq!(result(stats).unwrap_err().code, ErrorCode::Refused);
    assert_eq!(bench.recovered().keys(), 3);
}

#[test]
fn what_is_refused_takes_no_number() {
    let mut bench = Bench::new();
    admit(&bench, Role::Write, &["own/"]);
    bench.user = ANN;
    let header = |seq| Header { session: Some(SessionId::new(WALL_MS, 7)), seq: Some(seq), ..Header::default() };
    let first = bench.ask(header(1), Operations::Many(vec![put("x", "1"), put("own/1", "1")]));
    let again = bench.ask(header(1), Operations::Many(vec![put("own/1", "1"), put("own/2", "1")]));
    bench.run_to_end().unwrap();
    let codes = |id| bench.outcomes(id).iter().map(code).collect::<Vec<_>>();
    assert_eq!(codes(first), [Some(ErrorCode::Refused), Some(ErrorCode::OutOfOrder)]);
    assert_eq!(codes(again), [None, None]);
}

#[test]
fn whoever_was_taken_out_is_refused_what_waits() {
    let mut bench = Bench::new();
    admit(&bench, Role::Write, &[]);
    bench.shared.seen().hold = true;
    let worker = bench.start();
    bench.user = ANN;
    let before = bench.one(put("k", "1"));
    bench.shared.until("the worker is in an append", |seen| seen.is_held);
    let waiting = [bench.one(put("k", "2")), bench.one(get("k")), bench.one(Operation::Ping)];
    let history = bench.one(Operation::History { key: key("k"), limit: None, before: None });
    let many = bench.ask(Header::default(), Operations::Many(vec![get("k"), Operation::Ping]));
    bench.access.replace(HashMap::new());
    bench.shared.let_go();
    bench.intake.close();
    worker.join().unwrap().unwrap();
    bench.collect();
    assert_eq!(code(&bench.outcomes(before)[0]), None);
    for id in waiting.into_iter().chain([history, many]) {
        let outcomes = bench.outcomes(id);
        let refused = |outcome| code(outcome) == Some(ErrorCode::Refused) && outcome.revision.is_none();
        assert!(outcomes.iter().all(refused), "{outcomes:?}");
    }
    assert_eq!(bench.outcomes(many).len(), 2);
    assert_eq!(bench.recovered().revision(), 1);
}

#[test]
fn a_client_that_has_gone_is_not_worked_for() {
    let mut bench = Bench::new();
    bench.one(put("x", "1"));
    bench.is_gone = true;
    let read = bench.one(get("x"));
    let many = bench.ask(Header::default(), Operations::Many(vec![get("x"), Operation::Size]));
    bench.one(put("x", "2"));
    bench.is_gone = false;
    let after = bench.one(get("x"));
    bench.run_to_end().unwrap();
    let codes = |id| bench.outcomes(id).iter().map(code).collect::<Vec<_>>();
    assert_eq!(codes(read), [Some(ErrorCode::Refused)], "nobody sees it");
    assert_eq!(codes(many), [Some(ErrorCode::Refused); 2]);
    // What it asked to be changed is: it may ask later what became of that.
    assert_eq!(codes(after), [None]);
    assert_eq!(bench.recovered().revision(), 2);
}
