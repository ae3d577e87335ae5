//! The client against a fake broker: what it sends, and how it outlives trouble.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvbroker_protocol::{
    Access, Answer, BrokerId, ChangeKind, Condition, Deadline, ErrorCode, Failure, Fate, FeedMessage, Found, GrantInfo, KeyEvent,
    Operation, Operations, Outcome, Outcomes, RevisionEvents, Role, Row, Scalar, Scan, SessionId, Stored, StreamMessage, UserKey,
    Version, VersionKind, stream_topic,
};

use super::fake::{Act, FakeBroker, Place, ok};
use super::*;
use crate::catalog::CatalogList;
use crate::exit::Exit;

fn options(place: &Place) -> ConnectOptions {
    ConnectOptions::new().dirs(place.dirs.clone()).catalogs(CatalogList::none()).timeout(Duration::from_secs(20))
}

fn connect(place: &Place) -> Client {
    Client::connect_with("lab", options(place)).unwrap()
}

fn value(text: &str) -> Act {
    ok(Answer::Value { value: Stored::text(text).unwrap(), modified: 3, created: 2 })
}

fn fail(code: ErrorCode) -> Act {
    Act::Answer(Outcomes::One(Outcome { revision: Some(7), result: Err(Failure::new(code, "no")) }))
}

fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn operations_have_their_answers_and_headers() {
    let place = Place::new();
    let broker = place.broker(1, |operation| match operation {
        Operation::Get { key } if key == b"absent" => fail(ErrorCode::NotFound),
        Operation::Get { .. } => value("v"),
        Operation::Del { return_old: true, .. } => ok(Answer::Removed(Stored::text("old").unwrap())),
        Operation::Del { key, .. } if key == b"absent" => fail(ErrorCode::NotFound),
        Operation::Size => ok(Answer::Size(12)),
        _ => ok(Answer::Done),
    });
    let client = connect(&place);
    assert_eq!(client.broker().broker, BrokerId([1; 16]));
    assert_eq!(client.put_text("k", "v").unwrap(), 7);
    let entry = client.get("k").unwrap().unwrap();
    assert_eq!((entry.value.as_text().as_deref(), entry.modified, entry.created, entry.revision), (Some("v"), 3, 2, 7));
    assert_eq!(client.get("absent").unwrap(), None);
    assert!(client.del("k").unwrap());
    assert!(!client.del("absent").unwrap());
    assert_eq!(client.take("k").unwrap().and_then(|old| old.as_text()).as_deref(), Some("old"));
    assert_eq!((client.size().unwrap(), client.ping().unwrap()), (12, 7));
    let requests = broker.requests.lock().unwrap();
    let headers: Vec<_> = requests.iter().map(|request| &request.header).collect();
    assert!(headers.iter().all(|header| header.broker == Some(BrokerId([1; 16]))));
    assert!(headers.iter().all(|header| header.session == Some(SessionId::new(1, 1))));
    let numbers: Vec<_> = headers.iter().map(|header| (header.id.unwrap(), header.seq, header.ack, header.got)).collect();
    assert_eq!(numbers[0], (1, Some(1), Some(0), None));
    assert_eq!(numbers[3], (4, Some(2), Some(1), Some(3)));
    assert_eq!(numbers[7], (8, None, Some(4), Some(7)));
}

#[test]
fn conditions_are_sent_as_given_and_conflicts_are_errors() {
    let place = Place::new();
    let broker = place.broker(1, |operation| match operation {
        Operation::Put { key, .. } | Operation::Del { key, .. } if key == b"taken" => fail(ErrorCode::Conflict),
        Operation::Del { key, .. } if key == b"absent" => fail(ErrorCode::NotFound),
        _ => ok(Answer::Done),
    });
    let client = connect(&place);
    let text = |text: &str| Stored::text(text).unwrap();
    let conditions = [Condition::Absent, Condition::Exists, Condition::Revision(0), Condition::Value(text("old"))];
    for condition in conditions.clone() {
        assert_eq!(client.put_if("k", text("v"), condition).unwrap(), 7);
    }
    let error = client.put_if("taken", text("v"), Condition::Absent).unwrap_err();
    assert_eq!((error.code(), error.exit(), error.is_definite()), (Some(ErrorCode::Conflict), Exit::Conflict, true));
    assert!(client.del_if("k", Condition::Revision(7)).unwrap());
    assert!(!client.del_if("absent", Condition::Revision(7)).unwrap());
    assert_eq!(client.del_if("taken", Condition::Value(text("v"))).unwrap_err().code(), Some(ErrorCode::Conflict));
    let requests = broker.requests.lock().unwrap();
    let sent = requests.iter().map(|request| match &request.operations.as_slice()[0] {
        Operation::Put { condition, .. } | Operation::Del { condition, .. } => condition.clone().unwrap(),
        other => panic!("{other:?}"),
    });
    assert_eq!(sent.take(4).collect::<Vec<_>>(), conditions);
    // A conflict was decided, so it has a number as every other mutation.
    assert_eq!(requests.last().unwrap().header.seq, Some(8));
}

#[test]
fn counters_several_keys_and_existence() {
    let place = Place::new();
    let broker = place.broker(1, |operation| match operation {
        Operation::Incr { key, .. } if key == b"text" => fail(ErrorCode::WrongType),
        Operation::Incr { key, .. } if key == b"full" => fail(ErrorCode::OutOfRange),
        Operation::Incr { by, .. } => ok(Answer::Integer(i128::from(u64::MAX) + i128::from(*by))),
        Operation::Exists { key } => ok(Answer::Exists(key == b"k")),
        Operation::Mget { keys } if keys.len() == 3 => ok(Answer::Values(vec![None])),
        Operation::Mget { keys } => {
            let found =
                |key: &Vec<u8>| (key == b"k").then(|| Found { value: Stored::text("v").unwrap(), modified: 3, created: 2 });
            ok(Answer::Values(keys.iter().map(found).collect()))
        }
        _ => fail(ErrorCode::Invalid),
    });
    let client = connect(&place);
    assert_eq!(client.incr("n", -5).unwrap(), i128::from(u64::MAX) - 5);
    for (key, code) in [("text", ErrorCode::WrongType), ("full", ErrorCode::OutOfRange)] {
        let error = client.incr(key, 1).unwrap_err();
        assert_eq!((error.code(), error.exit()), (Some(code), Exit::Usage));
    }
    assert!(client.exists("k").unwrap() && !client.exists("absent").unwrap());
    let entries = client.mget(["absent", "k"]).unwrap();
    let entry = Entry { value: Stored::text("v").unwrap(), modified: 3, created: 2, revision: 7 };
    assert_eq!(entries, [None, Some(entry)]);
    let asked = broker.requests.lock().unwrap().len();
    assert_eq!(client.mget::<&str>([]).unwrap(), []);
    assert_eq!(broker.requests.lock().unwrap().len(), asked, "nothing is asked for nothing");
    // One value for three keys would belong to nobody knows which.
    let error = client.mget(["a", "b", "c"]).unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "{error:?}");
}

#[test]
fn keys_come_without_values_page_by_page() {
    let place = Place::new();
    let broker = place.broker(1, |operation| {
        let (Operation::Scan(scan) | Operation::Query { scan, .. }) = operation else { return fail(ErrorCode::Invalid) };
        if !scan.keys_only {
            return ok(Answer::Rows { rows: vec![], cursor: None, snapshot: None });
        }
        let (keys, cursor): (Vec<&str>, _) = match scan.cursor.as_deref() {
            None => (vec!["c", "b"], Some(b"b".to_vec())),
            _ => (vec!["a"], None),
        };
        ok(Answer::Keys { keys: keys.into_iter().map(|key| key.as_bytes().to_vec()).collect(), cursor, snapshot: None })
    });
    let client = connect(&place);
    let range = Scan { from: Some(b"a".to_vec()), to: Some(b"d".to_vec()), reverse: true, ..Scan::default() };
    let keys: Vec<Vec<u8>> = client.scan_keys(range.clone()).map(|key| key.unwrap()).collect();
    assert_eq!(keys, [b"c", b"b", b"a"]);
    assert_eq!(client.query_keys("w", Scalar::Int(1), range.clone()).count(), 3);
    assert_eq!(client.scan_keys_page(range.clone()).unwrap().rows.len(), 2);
    assert_eq!(client.query_keys_page("w", Scalar::Null, range.clone()).unwrap().cursor, Some(b"b".to_vec()));
    // Rows were asked for, so rows come.
    assert_eq!(client.scan(Scan { keys_only: true, ..range.clone() }).count(), 0);
    let requests = broker.requests.lock().unwrap();
    let Operation::Scan(sent) = &requests[0].operations.as_slice()[0] else { panic!("a scan comes first") };
    assert_eq!(*sent, Scan { keys_only: true, ..range });
}

#[test]
fn a_read_outlives_the_brokers_death() {
    let place = Place::new();
    let first = place.broker(1, |_| Act::Die);
    let client = connect(&place);
    let result = std::thread::scope(|scope| {
        let read = scope.spawn(|| client.get("k"));
        eventually("the request", || (!first.requests.lock().unwrap().is_empty()).then_some(()));
        drop(first);
        let _second = place.broker(1, |_| value("again"));
        read.join().unwrap()
    });
    assert_eq!(result.unwrap().unwrap().value.as_text().as_deref(), Some("again"));
}

#[test]
fn a_mutation_outlives_the_brokers_death_under_its_number() {
    let place = Place::new();
    let first = place.broker(1, |operation| if operation.is_mutation() { Act::Die } else { value("v") });
    let client = connect(&place);
    let result = std::thread::scope(|scope| {
        let write = scope.spawn(|| client.put_text("k", "v"));
        let sent = eventually("the request", || first.requests.lock().unwrap().pop());
        assert_eq!(client.in_doubt(), Some(RequestId { session: SessionId::new(1, 1), seq: 1 }));
        drop(first);
        let second = place.broker(1, |_| ok(Answer::Done));
        let result = write.join().unwrap();
        let again = second.requests.lock().unwrap().pop().unwrap();
        assert_eq!((again.operations, again.header.seq), (sent.operations, sent.header.seq));
        assert_eq!((again.header.session, sent.header.id), (sent.header.session, Some(1)));
        result
    });
    assert_eq!(result.unwrap(), 7);
    assert_eq!(client.in_doubt(), None);
}

#[test]
fn a_mutation_without_an_answer_is_unknown_and_named() {
    let place = Place::new();
    let broker = place.broker(1, |operation| match operation {
        Operation::Put { .. } => Act::Ignore,
        _ => ok(Answer::Done),
    });
    let client = connect(&place);
    let put = Operation::Put { key: b"k".to_vec(), value: Stored::text("v").unwrap(), condition: None, ttl_ms: None };
    let error = client.call_within(Operations::One(put), Some(Duration::from_millis(200))).unwrap_err();
    let request = RequestId { session: SessionId::new(1, 1), seq: 1 };
    assert!(matches!(&error, ClientError::Unknown { request: its, .. } if *its == request), "{error}");
    assert!(!error.is_definite());
    assert_eq!(error.exit(), Exit::UnknownOutcome);
    assert!(error.to_string().contains(&request.to_string()), "{error}");
    assert!(error.hint().unwrap().contains(&format!("result {request}")), "{error}");
    assert_eq!(client.in_doubt(), None);
    drop(broker);
    // The same client goes on with the restarted broker, after it has settled the number.
    let broker = place.broker(1, |_| ok(Answer::Done));
    assert!(client.del("k").unwrap());
    let requests = broker.requests.lock().unwrap();
    let verbs: Vec<_> = requests[0].operations.as_slice().iter().map(Operation::verb).collect();
    assert_eq!((verbs, requests[0].header.seq), (vec!["noop", "del"], Some(1)));
}

#[test]
fn a_lookup_that_panics_is_tried_again() {
    let place = Place::new();
    let first = place.broker(1, |_| Act::Die);
    let has_panicked = Arc::new(AtomicBool::new(false));
    let panics = Arc::clone(&has_panicked);
    let notice = move |_: &str| {
        let looks_up = std::thread::current().name() == Some("kv-find");
        assert!(!looks_up || panics.swap(true, Ordering::Relaxed), "a notice that panics, once");
    };
    let client = Client::connect_with("lab", options(&place).notices(notice)).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.put_text("k", "v"));
        eventually("the put", || first.requests.lock().unwrap().pop());
        drop(first);
        // Lookups are silent at first.
        let begun = Instant::now();
        eventually("the end of the silence", || (begun.elapsed() > Duration::from_secs(1)).then_some(()));
        let _second = place.broker(1, |_| ok(Answer::Done));
        assert_eq!(call.join().unwrap().unwrap(), 7);
    });
    assert!(has_panicked.load(Ordering::Relaxed));
}

#[test]
fn a_client_never_moves_to_another_log() {
    let place = Place::new();
    let first = place.broker(1, |_| Act::Die);
    let client = Client::connect_with("lab", options(&place).timeout(Duration::from_millis(1_500))).unwrap();
    assert!(matches!(client.put_text("k", "v"), Err(ClientError::Unknown { .. })));
    drop(first);
    let second = place.broker(2, |_| ok(Answer::Done));
    let error = client.put_text("k", "v").unwrap_err();
    assert!(error.is_definite());
    assert!(error.to_string().contains("none with the wanted owner or uuid"), "{error}");
    assert!(second.requests.lock().unwrap().is_empty());
}

#[test]
fn busy_is_waited_out_and_refusals_are_failures() {
    let place = Place::new();
    let mut count = 0;
    let _broker = place.broker(1, move |_| {
        count += 1;
        match count {
            1 => Act::Answer(Outcomes::One(Outcome { revision: None, result: Err(Failure::busy("full", 20)) })),
            2 => ok(Answer::Done),
            _ => fail(ErrorCode::Refused),
        }
    });
    let client = connect(&place);
    assert_eq!(client.put_text("k", "v").unwrap(), 7);
    let error = client.put_text("k", "v").unwrap_err();
    assert_eq!((error.code(), error.exit(), error.is_definite()), (Some(ErrorCode::Refused), Exit::Refused, true));
}

#[test]
fn a_silent_broker_ends_at_the_deadline_and_is_said_before() {
    let place = Place::new();
    let _broker = place.broker(1, |_| Act::Ignore);
    let said = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&said);
    let options =
        options(&place).timeout(Duration::from_millis(900)).notices(move |text| into.lock().unwrap().push(text.to_owned()));
    let client = Client::connect_with("lab", options).unwrap();
    let error = client.get("k").unwrap_err();
    assert_eq!(error.to_string(), "no answer from the broker of lab within 0.9 s");
    assert_eq!(*said.lock().unwrap(), ["waiting for the broker of lab"]);
    assert!(matches!(client.put_text("k", "v"), Err(ClientError::Unknown { .. })));
}

#[test]
fn pages_follow_the_cursor_through_empty_pages() {
    let place = Place::new();
    let row = |key: &str| Row { key: key.into(), value: Stored::text("v").unwrap(), modified: 1 };
    let broker = place.broker(1, move |operation| {
        let Operation::Scan(scan) = operation else { return fail(ErrorCode::Invalid) };
        let (rows, cursor) = match scan.cursor.as_deref() {
            None => (vec![row("a"), row("b")], Some(b"b".to_vec())),
            Some(b"b") => (vec![], Some(b"c".to_vec())),
            _ => (vec![row("d")], None),
        };
        ok(Answer::Rows { rows, cursor, snapshot: None })
    });
    let client = connect(&place);
    let keys: Vec<Vec<u8>> = client.scan(Scan::default()).map(|row| row.unwrap().key).collect();
    assert_eq!(keys, [b"a", b"b", b"d"]);
    assert_eq!(broker.requests.lock().unwrap().len(), 3);
}

#[test]
fn each_operation_of_a_batch_has_its_own_outcome() {
    let place = Place::new();
    let broker = place.broker(1, |operation| match operation {
        Operation::Size => fail(ErrorCode::Limit),
        _ => ok(Answer::Done),
    });
    let client = connect(&place);
    let outcomes = client.batch(vec![Operation::Ping, Operation::Size, Operation::Ping]).unwrap();
    let codes: Vec<_> = outcomes.iter().map(|outcome| outcome.result.as_ref().err().map(|failure| failure.code)).collect();
    assert_eq!(codes, [None, Some(ErrorCode::Limit), None]);
    let asked = broker.requests.lock().unwrap().len();
    assert_eq!(client.batch(vec![]).unwrap(), []);
    assert_eq!(broker.requests.lock().unwrap().len(), asked, "nothing is asked for nothing");
    // What is too large for any message is told apart from the rest, too.
    let too_large = Operation::Mget { keys: vec![vec![b'k'; 60_000]; 300] };
    let error = client.batch(vec![too_large.clone()]).unwrap_err();
    assert_eq!((error.code(), error.is_definite()), (Some(ErrorCode::Limit), true));
    let outcomes = client.batch(vec![Operation::Ping, too_large]).unwrap();
    assert!(outcomes[0].result.is_ok() && outcomes[1].result.is_err());
}

#[test]
fn calls_of_many_threads_share_messages() {
    let place = Place::new();
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    // Until the gate opens nothing is answered, so calls are collected.
    let broker = place.broker(1, move |_| {
        while !gate.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        ok(Answer::Integer(1))
    });
    let client = connect(&place);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..40)
            .map(|_| {
                let client = client.clone();
                scope.spawn(move || client.incr("k", 1).unwrap())
            })
            .collect();
        eventually("a message with company", || {
            // The first one is being answered; those behind it wait in the socket.
            (callers.len() == 40 && client.outstanding() == 40).then_some(())
        });
        open.store(true, Ordering::SeqCst);
        callers.into_iter().for_each(|caller| assert_eq!(caller.join().unwrap(), 1));
    });
    let requests = broker.requests.lock().unwrap();
    let operations: usize = requests.iter().map(|request| request.operations.as_slice().len()).sum();
    assert_eq!(operations, 40);
    assert!(requests.len() < 40, "{} messages", requests.len());
    let mut next = 1;
    for request in requests.iter() {
        assert_eq!(request.header.seq, Some(next), "numbers have no holes");
        next += request.operations.as_slice().len() as u64;
    }
}

#[test]
fn a_client_says_when_its_session_ends() {
    let place = Place::new();
    let broker = place.broker(1, |operation| if *operation == Operation::End { Act::Ignore } else { ok(Answer::Done) });
    let client = connect(&place);
    client.put_text("k", "v").unwrap();
    let clone = client.clone();
    drop(client);
    clone.put_text("k", "v").unwrap();
    drop(clone);
    let last = eventually("the end", || broker.requests.lock().unwrap().pop().filter(|last| last.header.seq.is_none()));
    assert_eq!(last.operations, Operations::One(Operation::End));
    assert_eq!((last.header.session, last.header.ack), (Some(SessionId::new(1, 1)), Some(2)));
    // A client that changed nothing has no session to end.
    let reader = connect(&place);
    reader.ping().unwrap();
    reader.close();
    assert!(matches!(reader.ping(), Err(ClientError::Closed)));
    assert!(broker.requests.lock().unwrap().iter().all(|request| request.operations != Operations::One(Operation::End)));
}

#[test]
fn waiting_for_a_broker_finds_one_that_starts_later() {
    let place = Place::new();
    assert_eq!(Client::connect_with("lab", options(&place)).unwrap_err().exit(), Exit::Unreachable);
    let broker = std::thread::scope(|scope| {
        let late = scope.spawn(|| Client::connect_with("lab", options(&place).wait_for_broker(true)));
        let broker = place.broker(1, |_| ok(Answer::Done));
        late.join().unwrap().unwrap();
        broker
    });
    drop(broker);
}

/// A script that tells of one change for each revision, of the key `a/REVISION`, as far as the table has come.
fn tells(revision: &Arc<AtomicU64>) -> impl FnMut(&Operation) -> Act + Send + 'static {
    let revision = Arc::clone(revision);
    move |operation| {
        let Operation::Events(asked) = operation else { return fail(ErrorCode::Invalid) };
        let through = revision.load(Ordering::Relaxed);
        let event = |revision: u64| {
            let changes = vec![KeyEvent { key: format!("a/{revision}").into_bytes(), kind: ChangeKind::Remove, before: None }];
            RevisionEvents { revision, time_ms: 1, changes, origin: None }
        };
        let events = (asked.after.unwrap_or(through) + 1..=through).map(event).collect();
        ok(Answer::Events { events, through, more: false, epoch: 1 })
    }
}

#[test]
fn a_watch_tells_every_change_once_over_a_restart() {
    let place = Place::new();
    let revision = Arc::new(AtomicU64::new(7));
    let broker = place.broker(1, tells(&revision));
    let client = connect(&place);
    let mut watch = client.watch("a/", WatchFrom::Now).unwrap();
    let changed = |event| match event {
        WatchEvent::Changes(changes) => Some(changes.revision()),
        _ => None,
    };
    let next = |watch: &mut Watch| watch.next(Some(Instant::now() + Duration::from_secs(20))).unwrap().unwrap();
    assert_eq!(next(&mut watch), WatchEvent::CaughtUp { revision: 7 });
    revision.store(9, Ordering::Relaxed);
    assert_eq!([next(&mut watch), next(&mut watch)].map(changed), [Some(8), Some(9)]);
    assert_eq!(watch.revision(), Some(9));
    drop(broker);
    assert_eq!(watch.next(Some(Instant::now() + Duration::from_millis(50))).unwrap(), None);
    revision.store(11, Ordering::Relaxed);
    let broker = place.broker(1, tells(&revision));
    let told: Vec<_> = std::iter::repeat_with(|| next(&mut watch)).filter_map(changed).take(2).collect();
    assert_eq!(told, [10, 11]);
    client.close();
    assert!(matches!(Watch::next(&mut watch, None), Err(ClientError::Closed)));
    assert!(Iterator::next(&mut watch).is_none());
    assert_eq!(watch.resume(), Some(WatchFrom::After { revision: 11, epoch: watch.epoch() }));
    drop(broker);
}

#[test]
fn a_hub_hears_streams_and_asks_for_what_is_missing() {
    let place = Place::new();
    let revision = Arc::new(AtomicU64::new(7));
    let broker = place.broker(1, tells(&revision));
    let beat = |broker: &FakeBroker| {
        let heartbeat = FeedMessage::Heartbeat { epoch: 1, revision: 7 };
        let mut body = Vec::new();
        heartbeat.encode(&mut body);
        broker.publish(heartbeat.topic(), body);
    };
    let send = |broker: &FakeBroker, prefix: &str, prev, revision, events| {
        let mut body = Vec::new();
        StreamMessage { epoch: 1, prev, revision, events }.encode(&mut body);
        broker.publish(stream_topic(prefix.as_bytes()), body);
    };
    let told = |revision: u64, key: &str| {
        let changes = vec![KeyEvent { key: key.into(), kind: ChangeKind::Expire, before: None }];
        RevisionEvents { revision, time_ms: 1, changes, origin: None }
    };
    let client = connect(&place);
    let mut hub = client.hub().unwrap();
    let [a, again, b] = ["a/", "a/", "b/"].map(|prefix| hub.watch(prefix, WatchFrom::After { revision: 7, epoch: Some(1) }));
    let soon = || Some(Instant::now() + Duration::from_millis(20));
    let mut events = Vec::new();
    let is_caught_up = |events: &[(WatchId, WatchEvent)], id: WatchId| {
        events.iter().any(|(of, event)| *of == id && matches!(event, WatchEvent::CaughtUp { .. }))
    };
    // What was sent before the subscription has arrived is heard by nobody.
    eventually("the streams are heard", || {
        beat(&broker);
        send(&broker, "a/", 7, 7, vec![]);
        send(&broker, "b/", 7, 7, vec![]);
        events.extend(hub.next(soon()).map(|(id, event)| (id, event.unwrap())));
        let messages = [a, again, b].map(|id| hub.stats(id).unwrap().messages);
        ([a, again, b].iter().all(|id| is_caught_up(&events, *id)) && messages.iter().all(|messages| *messages > 0)).then_some(())
    });
    // The stream of `b/` tells it, and that of `a/` has a hole.
    revision.store(10, Ordering::Relaxed);
    send(&broker, "b/", 7, 9, vec![told(8, "b/8"), told(9, "b/9")]);
    send(&broker, "a/", 9, 10, vec![told(10, "a/10")]);
    let mut revisions = std::collections::BTreeMap::<WatchId, Vec<u64>>::new();
    eventually("what was missing", || {
        beat(&broker);
        if let Some((id, event)) = hub.next(soon())
            && let WatchEvent::Changes(changes) = event.unwrap()
        {
            revisions.entry(id).or_default().push(changes.revision());
        }
        (revisions.values().map(Vec::len).sum::<usize>() == 8).then_some(())
    });
    assert_eq!(revisions, [(a, vec![8, 9, 10]), (again, vec![8, 9, 10]), (b, vec![8, 9])].into());
    assert!(hub.stats(a).unwrap().refills > 0);
    assert_eq!([a, again].map(|id| hub.revision(id)), [Some(10); 2]);
    // Without the publisher all are told of it, but who is gone is told nothing.
    assert!(hub.unwatch(again) && !hub.unwatch(again));
    drop(broker);
    let mut disconnected = std::collections::BTreeSet::new();
    eventually("the loss", || {
        if let Some((id, Ok(WatchEvent::Disconnected { .. }))) = hub.next(soon()) {
            disconnected.insert(id);
        }
        (disconnected.len() == 2).then_some(())
    });
    let broker = place.broker(1, tells(&revision));
    let mut back = std::collections::BTreeSet::new();
    eventually("the return", || {
        beat(&broker);
        send(&broker, "a/", 10, 10, vec![]);
        send(&broker, "b/", 9, 10, vec![]);
        if let Some((id, Ok(WatchEvent::CaughtUp { .. }))) = hub.next(soon()) {
            back.insert(id);
        }
        (back.len() == 2).then_some(())
    });
    assert_eq!(back, [a, b].into());
    client.close();
    assert!([(); 2].map(|()| hub.next(None)).iter().all(|event| matches!(event, Some((_, Err(ClientError::Closed))))));
    assert!(hub.is_empty() && hub.next(None).is_none());
}

#[test]
fn a_pipeline_keeps_order_and_bounds_what_is_outstanding() {
    let place = Place::new();
    let mut sum = 0;
    let broker = place.broker(1, move |operation| match operation {
        Operation::Incr { key, .. } if key == b"text" => fail(ErrorCode::WrongType),
        Operation::Incr { by, .. } => {
            sum += i128::from(*by);
            ok(Answer::Integer(sum))
        }
        _ => fail(ErrorCode::NotFound),
    });
    let client = connect(&place);
    let mut pipeline = client.pipeline().depth(50);
    let mut tickets = Vec::new();
    for number in 1..=500_u32 {
        tickets.push((number, pipeline.incr("n", 1)));
        assert!(client.outstanding() <= 50, "{}", client.outstanding());
    }
    let failing = pipeline.incr("text", 1);
    let absent = pipeline.del("absent");
    pipeline.wait_all();
    assert!(failing.is_ready() && absent.is_ready());
    for (number, ticket) in tickets {
        assert_eq!(ticket.wait().unwrap(), (Answer::Integer(number.into()), 7));
    }
    assert_eq!(failing.wait().unwrap_err().code(), Some(ErrorCode::WrongType));
    assert_eq!(absent.outcome().unwrap().result.unwrap_err().code, ErrorCode::NotFound);
    // Dropped tickets are no reason not to do what was asked.
    drop(pipeline.incr("n", 1));
    pipeline.wait_all();
    assert_eq!(client.incr("n", 1).unwrap(), 502);
    assert!(broker.requests.lock().unwrap().len() < 400);
}

#[test]
fn deadlines_prefixes_names_fates_and_history() {
    let place = Place::new();
    let (mut parts, name) = (3, RequestId { session: SessionId::new(5, 6), seq: 9 });
    let broker = place.broker(1, move |operation| match operation {
        Operation::Put { ttl_ms: Some(1_500), .. } | Operation::Expire { ttl_ms: 1, .. } => ok(Answer::Done),
        Operation::Persist { key } if key == b"absent" => fail(ErrorCode::NotFound),
        Operation::Persist { .. } => ok(Answer::Done),
        Operation::Ttl { key } if key == b"absent" => fail(ErrorCode::NotFound),
        Operation::Ttl { key } => ok(Answer::Ttl((key == b"k").then_some(Deadline { left_ms: 5, at_ms: 6 }))),
        Operation::DelPrefix { prefix, limit: None } if prefix == b"a/" => {
            parts -= 1;
            ok(Answer::Deleted { removed: 10, more: parts > 0 })
        }
        Operation::Result { session, seq, settle } if (*session, *seq) == (name.session, name.seq) => {
            ok(Answer::Result(if *settle { Fate::Filled } else { Fate::Undecided }))
        }
        Operation::List(list) => {
            let (keys, cursor) = match list.cursor {
                None => (vec![b"u/a/".to_vec()], Some(b"u/a/".to_vec())),
                Some(_) => (vec![b"u/b".to_vec()], None),
            };
            ok(Answer::Keys { keys, cursor, snapshot: None })
        }
        Operation::History { before, .. } => {
            let revision = before.unwrap_or(5) - 1;
            let version = Version { revision, time_ms: 1, kind: VersionKind::Remove };
            ok(Answer::History { versions: vec![version], more: revision > 2, oldest: 1 })
        }
        _ => fail(ErrorCode::Invalid),
    });
    let client = connect(&place);
    client.put_for("k", Stored::text("v").unwrap(), Duration::from_millis(1_500)).unwrap();
    assert!(client.expire("k", Duration::from_nanos(1)).unwrap());
    assert!(client.persist("k").unwrap() && !client.persist("absent").unwrap());
    assert_eq!(client.ttl("k").unwrap(), Some(TimeLeft::Until(Deadline { left_ms: 5, at_ms: 6 })));
    assert_eq!((client.ttl("stays").unwrap(), client.ttl("absent").unwrap()), (Some(TimeLeft::Forever), None));
    let mut heard = Vec::new();
    assert_eq!(client.del_prefix_with("a/", |removed| heard.push(removed)).unwrap(), 30);
    assert_eq!(heard, [10, 20, 30]);
    assert_eq!(client.result(name).unwrap(), Fate::Undecided);
    assert_eq!(client.settle(name).unwrap(), Fate::Filled);
    assert_eq!(client.list("u/").map(|name| name.unwrap()).collect::<Vec<_>>(), [b"u/a/".to_vec(), b"u/b".to_vec()]);
    let history = client.history("k", None, Some(4)).unwrap();
    assert_eq!((history.versions[0].revision, history.more, history.oldest), (3, true, 1));
    // One number for each change, none for questions.
    assert_eq!(broker.requests.lock().unwrap().iter().filter_map(|request| request.header.seq).max(), Some(7));
}

#[test]
fn users_are_let_in_listed_and_turned_away() {
    let place = Place::new();
    let (ada, bob) = (UserKey::from_bytes([1; 32]), UserKey::from_bytes([2; 32]));
    let grant = GrantInfo { key: ada, role: Role::Write, prefixes: vec![b"a/".to_vec()], comment: "Ada".into() };
    let listed = grant.clone();
    let broker = place.broker(1, move |operation| match operation {
        Operation::Authorize { key, .. } => ok(Answer::Granted { replaced: *key == ada }),
        Operation::Revoke { key } if *key == ada => ok(Answer::Done),
        Operation::Revoke { .. } => fail(ErrorCode::NotFound),
        Operation::Who => ok(Answer::Who(vec![listed.clone()])),
        _ => fail(ErrorCode::Refused),
    });
    let client = connect(&place);
    let writer = Access::new(Role::Write, vec![b"b/".to_vec(), b"a/".to_vec(), b"a/x".to_vec()]).unwrap();
    assert!(client.authorize(ada, &writer, "Ada").unwrap());
    assert!(!client.authorize(bob, &Access::new(Role::Read, vec![]).unwrap(), "").unwrap());
    assert!(client.revoke(ada).unwrap() && !client.revoke(bob).unwrap());
    assert_eq!(client.who().unwrap(), [grant]);
    let error = client.size().unwrap_err();
    assert_eq!((error.code(), error.exit(), error.is_definite()), (Some(ErrorCode::Refused), Exit::Refused, true));
    let requests = broker.requests.lock().unwrap();
    let sent: Vec<_> = requests.iter().flat_map(|request| request.operations.as_slice()).cloned().collect();
    let prefixes = vec![b"a/".to_vec(), b"b/".to_vec()];
    assert_eq!(sent[0], Operation::Authorize { key: ada, role: Role::Write, prefixes, comment: "Ada".into() });
    assert!(requests.iter().all(|request| request.header.seq.is_none()), "no number is taken for them");
}
