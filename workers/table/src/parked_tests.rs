#![allow(clippy::unwrap_used)]

use kvbroker_protocol::{ErrorCode, Form, Header, Request, Role};

use super::*;
use crate::call::Envelope;
use crate::credit::Account;

const OWN: &str = "kvpub1own";

fn call(client: ClientId, id: Option<u64>, user: &str, prefix: &[u8], wait_ms: u64) -> Call {
    let events = Events { prefix: prefix.to_vec(), after: Some(1), wait_ms, ..Events::default() };
    let request = Request {
        header: Header { id, ..Header::default() },
        form: Form::Json,
        operations: Operations::One(Operation::Events(events)),
    };
    let account = Account::alone(client);
    Call {
        client,
        account,
        user: user.into(),
        envelope: Envelope::default(),
        bytes: Call::weight(&request, 100 + prefix.len()),
        request,
    }
}

fn reader(prefixes: &[&str]) -> Access {
    Access::new(Role::Read, prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect()).unwrap()
}

/// Parks with the ids 1, 2, 3 … of one client.
struct Bench {
    parked: Parked,
    next_id: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench { parked: Parked::default(), next_id: 1 }
    }

    fn park(&mut self, user: &str, access: &Access, prefix: &[u8]) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let client = id / limits::PARKED_PER_CLIENT_MAX as u64;
        assert!(self.parked.park(call(client, Some(id), user, prefix, 5), access.clone(), 10, 0).unwrap().is_none());
        id
    }

    /// Those that were woken: their ids, and what they ask then.
    fn woken(&mut self, now_us: u64) -> Vec<(u64, Option<u64>, u64)> {
        let told = |call: Call| {
            let Events { after, wait_ms, .. } = asked(&call).unwrap();
            (call.request.header.id.unwrap(), *after, *wait_ms)
        };
        self.parked.woken(now_us).map(told).collect()
    }

    fn woken_by(&mut self, key: &[u8]) -> Vec<u64> {
        self.parked.changed(key, 20);
        let mut ids: Vec<u64> = self.woken(0).into_iter().map(|(id, _, _)| id).collect();
        ids.sort_unstable();
        ids
    }
}

#[test]
fn a_change_wakes_those_who_wait_for_it_and_no_others() {
    let long = vec![b'x'; 3 * INDEXED_BYTES];
    let longer = [&long[..], b"y"].concat();
    let prefixes: [&[u8]; 6] = [b"", b"a", b"a/b", b"b", &long, &longer];
    let accesses = [Access::owner(), reader(&["a/", "x"]), reader(&["a/b/c", "b"]), reader(&["q"])];
    let keys: [&[u8]; 9] = [b"", b"a", b"a/b", b"a/b/c", b"b", b"q/1", &long, &longer, &long[..INDEXED_BYTES]];
    for key in keys {
        let mut bench = Bench::new();
        let mut expected = Vec::new();
        for access in &accesses {
            for prefix in prefixes {
                let id = bench.park(OWN, access, prefix);
                if key.starts_with(prefix) && access.scope.contains(key) {
                    expected.push(id);
                }
            }
        }
        assert_eq!(bench.woken_by(key), expected, "{key:?}");
        assert!(bench.woken_by(key).is_empty(), "once");
        assert_eq!(bench.parked.len(), accesses.len() * prefixes.len() - expected.len());
        bench.parked.give_up().for_each(drop);
        assert_is_bare(&bench.parked);
    }
}

/// Nothing is left of those that were parked.
fn assert_is_bare(parked: &Parked) {
    assert!(parked.waiters.is_empty() && parked.by_prefix.len() == 0);
    assert!(parked.by_time.is_empty() && parked.by_id.is_empty() && parked.clients.is_empty() && parked.users.is_empty());
    assert_eq!(parked.bytes, 0);
}

#[test]
fn a_woken_call_begins_where_it_was_woken_with_what_is_left_of_its_time() {
    let mut bench = Bench::new();
    let owner = Access::owner();
    let (changed, late, left) =
        (bench.park(OWNER, &owner, b"a"), bench.park(OWNER, &owner, b"b"), bench.park(OWNER, &owner, b"c"));
    bench.parked.changed(b"a/1", 30);
    assert_eq!(bench.woken(1_900), [(changed, Some(29), 4)]);
    assert_eq!(bench.parked.next_us(), Some(5_000));
    bench.parked.time_is(4_999, 31);
    assert_eq!(bench.woken(4_999), []);
    bench.parked.time_is(5_000, 31);
    assert_eq!(bench.woken(5_000), [(late, Some(31), 0), (left, Some(31), 0)]);
    assert_eq!(bench.parked.next_us(), None);
    assert!(bench.parked.is_empty());
    assert_is_bare(&bench.parked);
}

#[test]
fn whoever_may_do_something_else_now_is_looked_at_again() {
    let book = AccessBook::new();
    let list = |own: &Access| HashMap::from([(OWN.into(), own.clone()), ("kvpub1other".into(), reader(&[]))]);
    let narrow = reader(&["a"]);
    book.replace(list(&narrow));
    let mut bench = Bench::new();
    bench.parked.look_at(&book);
    let own = bench.park(OWN, &narrow, b"");
    bench.park("kvpub1other", &reader(&[]), b"");
    bench.park(OWNER, &Access::owner(), b"");
    bench.parked.look_at(&book);
    assert_eq!(bench.woken(0), [], "nothing has changed");
    book.replace(list(&narrow));
    bench.parked.look_at(&book);
    assert_eq!(bench.woken(0), [], "not for any of them");
    // More keys: what it has seen, it has seen with fewer.
    book.replace(list(&reader(&["a", "b"])));
    bench.parked.look_at(&book);
    assert_eq!(bench.woken(0), [(own, Some(10), 5)]);
    book.replace(HashMap::new());
    bench.parked.look_at(&book);
    assert_eq!(bench.woken(0).len(), 1, "the other one is nobody any more");
    assert_eq!(bench.parked.len(), 1, "the owner stays");
}

#[test]
fn a_call_that_is_sent_again_takes_its_own_place() {
    let mut parked = Parked::default();
    let mut park = |client, id, prefix: &[u8]| parked.park(call(client, id, OWNER, prefix, 5), Access::owner(), 10, 0).unwrap();
    assert!(park(1, Some(7), b"a").is_none());
    assert!(park(2, Some(7), b"a").is_none(), "of another client");
    assert!(park(1, None, b"a").is_none() && park(1, None, b"a").is_none(), "what has no id can't be told apart");
    let earlier = park(1, Some(7), b"b").unwrap();
    assert_eq!((earlier.client, asked(&earlier).unwrap().prefix.as_slice()), (1, &b"a"[..]));
    assert_eq!(parked.len(), 4);
    // Also where nothing more would fit.
    let mut parked = Parked::default();
    for id in 1..=limits::PARKED_PER_CLIENT_MAX as u64 {
        assert!(parked.park(call(1, Some(id), OWNER, b"a", 5), Access::owner(), 10, 0).unwrap().is_none());
    }
    assert!(parked.park(call(1, Some(3), OWNER, b"b", 5), Access::owner(), 10, 0).unwrap().is_some());
    assert_eq!(parked.park(call(1, Some(0), OWNER, b"b", 5), Access::owner(), 10, 0).unwrap_err().1.code, ErrorCode::Busy);
    assert_eq!(parked.len(), limits::PARKED_PER_CLIENT_MAX);
}

#[test]
fn one_that_grows_too_large_for_its_place_leaves_the_earlier_there() {
    let mut parked = Parked::default();
    let access = reader(&[]);
    let long = vec![0; limits::KEY_BYTES_MAX];
    let mut client = 1;
    while parked.park(call(client, Some(1), OWN, &long, 5), access.clone(), 10, 0).is_ok() {
        client += 1;
    }
    let room = limits::PARKED_USER_BYTES_MAX - parked.users[OWN].bytes;
    assert!(room < limits::KEY_BYTES_MAX + 2 * WAITER_BYTES && client > 200, "{room} bytes of {client} clients");
    assert!(parked.park(call(0, Some(1), OWN, b"s", 5), access.clone(), 10, 0).unwrap().is_none());
    let before = parked.len();
    let (refused, failure) = parked.park(call(0, Some(1), OWN, &long, 5), access, 10, 0).unwrap_err();
    assert_eq!((failure.code, asked(&refused).unwrap().prefix.len()), (ErrorCode::Busy, limits::KEY_BYTES_MAX));
    assert_eq!(parked.len(), before);
    parked.changed(b"s", 20);
    assert_eq!(parked.woken(0).count(), 1, "the earlier one still waits");
}

#[test]
fn nobody_has_more_than_a_part_of_the_room() {
    let mut parked = Parked::default();
    let mut fill = |user: &str, clients: std::ops::Range<u64>| {
        let before = parked.len();
        for client in clients {
            for _ in 0..=limits::PARKED_PER_CLIENT_MAX {
                let parked_before = parked.len();
                match parked.park(call(client, None, user, b"p", 5), reader(&[]), 10, 0) {
                    Ok(_) => assert_eq!(parked.len(), parked_before + 1),
                    Err((_, failure)) => assert_eq!((failure.code, failure.retry_after_ms), (ErrorCode::Busy, Some(100))),
                }
            }
        }
        parked.len() - before
    };
    assert_eq!(fill("kvpub1a", 0..1), limits::PARKED_PER_CLIENT_MAX, "however few others there are");
    assert_eq!(fill("kvpub1b", 100..200), limits::PARKED_PER_USER_MAX);
    assert_eq!(fill(OWNER, 200..210), 10 * limits::PARKED_PER_CLIENT_MAX, "the owner's machine is its own");
    for user in 0..20 {
        fill(&format!("kvpub1{user}"), 1_000 * (user + 1)..1_000 * (user + 1) + 5);
    }
    assert_eq!(parked.len(), limits::PARKED_MAX);
    assert!(parked.bytes <= limits::PARKED_BYTES_MAX, "{} bytes", parked.bytes);
    // All that is given up was there.
    assert_eq!(parked.give_up().count(), limits::PARKED_MAX);
    assert_is_bare(&parked);
}

#[test]
fn the_places_of_many_prefixes_count_and_are_left_again() {
    let mut parked = Parked::default();
    let prefixes: Vec<String> = (0..limits::GRANT_PREFIXES_MAX).map(|at| format!("{at:02}/")).collect();
    let access = reader(&prefixes.iter().map(String::as_str).collect::<Vec<_>>());
    parked.park(call(1, Some(1), OWN, b"", 5), access, 10, 0).unwrap();
    assert_eq!(parked.by_prefix.len(), limits::GRANT_PREFIXES_MAX);
    assert!(parked.bytes > limits::GRANT_PREFIXES_MAX * PLACE_BYTES);
    parked.changed(b"63/x", 20);
    assert_eq!(parked.woken(0).count(), 1);
    assert_is_bare(&parked);
}

#[test]
fn only_calls_for_changes_are_parked() {
    let mut ping = call(1, None, OWNER, b"", 5);
    ping.request.operations = Operations::One(Operation::Ping);
    assert_eq!(Parked::default().park(ping, Access::owner(), 1, 0).unwrap_err().1.code, ErrorCode::Internal);
}

#[test]
fn what_clients_that_are_gone_have_left_makes_room() {
    let mut parked = Parked::default();
    let mut accounts = Vec::new();
    let refused = loop {
        let client = accounts.len() as u64;
        let call = call(client, Some(1), OWN, b"p", 60_000);
        accounts.push(call.account.clone());
        if let Err((_, failure)) = parked.park(call, reader(&[]), 10, 0) {
            break failure;
        }
    };
    assert_eq!(refused.code, ErrorCode::Busy);
    let before = parked.len();
    let gone = accounts.iter().step_by(2).take(10).inspect(|account| account.give_up()).count();
    let park = |parked: &mut Parked, now_us| parked.park(call(9_999, Some(1), OWN, b"p", 60_000), reader(&[]), 10, now_us);
    assert!(park(&mut parked, SWEEP_US - 1).is_err(), "not looked for that often");
    assert!(park(&mut parked, SWEEP_US).unwrap().is_none());
    assert_eq!(parked.len(), before - gone + 1);
    assert!(parked.woken(SWEEP_US).all(|call| call.account.is_gone()));
}

#[test]
fn an_item_that_gets_on_wakes_those_who_wait_for_it() {
    let mut parked = Parked::default();
    let item = |revision| ItemId::new(revision, 0).unwrap();
    for (client, revision) in [(1, 7), (2, 8), (3, 7)] {
        let mut call = call(client, Some(1), OWNER, b"", 0);
        let track = QueueOperation::Track { queue: b"q".to_vec(), item: item(revision), until: Default::default(), wait_ms: 5 };
        call.request.operations = Operations::One(Operation::Queue(Box::new(track)));
        assert!(parked.park(call, Access::owner(), 0, 0).unwrap().is_none());
    }
    parked.item_changed(item(9));
    parked.changed(b"q", 20);
    parked.touch(b"q");
    assert_eq!(parked.woken(0).count(), 0, "nothing of theirs");
    parked.item_changed(item(7));
    let woken: Vec<ClientId> = parked.woken(0).map(|call| call.client).collect();
    assert_eq!((woken, parked.len()), (vec![1, 3], 1));
    parked.time_is(5_000, 20);
    assert_eq!(parked.woken(5_000).count(), 1);
    assert!(parked.by_item.is_empty());
}
