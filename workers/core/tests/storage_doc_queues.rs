//! docs/storage.md tells the truth about the records of queues: they are put together as its tables say and compared with real ones.

#![allow(clippy::unwrap_used)]

use kvbroker_core::{Change, Space, Stamp, State, Turn, decide};
use kvbroker_protocol::{
    Answer, Declaration, ItemId, Operation, Operations, Overflow, Publish, Pull, Push, QueueAnswer, QueueOperation, Receipt,
    RoutingOperation, Scope, Stored, decode_request,
};
use serde_json::json;

const DOCUMENT: &str = include_str!("../../../docs/storage.md");
/// The time of all stamps.
const NOW_MS: u64 = 1_000;

/// Puts a value together from the fields that a section names, in its order; a field that is not there is None. Lengths are compared with
/// what the section says of them.
fn made_of(section: &str, field: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<u8> {
    let section = DOCUMENT.split(&format!("### {section}\n")).nth(1).unwrap().split("\n#").next().unwrap();
    let mut made = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (names, bytes) = (cells[1].split(", "), cells[2]);
        let width = bytes.trim_end_matches(" each").parse::<usize>().ok();
        assert!(width.is_some() || bytes.starts_with("any") || cells[1] == "origin", "{row}");
        for name in names {
            let Some(part) = field(name) else { continue };
            assert!(width.is_none_or(|width| width == part.len()), "{row}");
            made.extend(part);
        }
    }
    made
}

fn long(number: u64) -> Option<Vec<u8>> {
    Some(number.to_le_bytes().to_vec())
}

fn short(number: u32) -> Option<Vec<u8>> {
    Some(number.to_le_bytes().to_vec())
}

/// An id, as the document says: the revision times 1,024, plus the place.
fn id(revision: u64) -> u64 {
    revision * 1_024
}

struct Table(State);

impl Table {
    /// Does an operation; gives its answer and its changes.
    fn does(&mut self, operation: QueueOperation) -> (Answer, Vec<Change>) {
        self.does_any(Operation::Queue(Box::new(operation)))
    }

    fn does_any(&mut self, operation: Operation) -> (Answer, Vec<Change>) {
        let stamp = Stamp { revision: self.0.revision() + 1, time_ms: NOW_MS };
        let decision = decide(&self.0, &Scope::all(), operation, stamp, &mut Turn::one());
        for change in &decision.changes {
            self.0.apply(change.clone(), stamp.revision);
        }
        (decision.outcome.result.unwrap(), decision.changes)
    }

    fn push(&mut self, push: Push) -> Vec<Change> {
        self.does(QueueOperation::Push(push)).1
    }

    /// Takes one item that must be there.
    fn pull(&mut self) -> (Receipt, Vec<Change>) {
        let pull = Pull { queue: b"jobs".to_vec(), limit: 1, lease_ms: Some(700), wait_ms: 0, no_ack: false };
        let (answer, changes) = self.does(QueueOperation::Pull(pull));
        let Answer::Queue(QueueAnswer::Pulled { items, .. }) = answer else { panic!("{answer:?}") };
        (items[0].receipt, changes)
    }
}

/// A key as it stands in the log: its space, and for items the ids of queue and item, big-endian.
fn item_key(space: u8, queue: u64, item: u64) -> Vec<u8> {
    [&[space][..], &queue.to_be_bytes(), &item.to_be_bytes()].concat()
}

#[track_caller]
fn assert_record(change: &Change, key: &[u8], value: Option<Vec<u8>>) {
    let mut made = Vec::new();
    change.write_record_key(&mut made);
    assert_eq!((made.as_slice(), change.value.as_ref()), (key, value.as_ref()));
}

fn queue_record(revision: u64, numbers: [u64; 5], max_deliveries: u32, flags: u8, dead: &[u8]) -> Vec<u8> {
    let [lease, retry, ttl, max_items, max_bytes] = numbers;
    made_of("Queue record", |field| match field {
        "id" => long(id(revision)),
        "lease" => long(lease),
        "retry" => long(retry),
        "ttl" => long(ttl),
        "max_deliveries" => short(max_deliveries),
        "max_items" => long(max_items),
        "max_bytes" => long(max_bytes),
        "flags" => Some(vec![flags]),
        "dead" => Some(dead.to_vec()),
        other => panic!("what is {other}?"),
    })
}

/// Flags, and what they say is there: priority, end of the delay, deadline, type, origin, subject.
fn item_record(document: &[u8], flags: u8, origin: Option<(&str, u32, u64, &str)>) -> Vec<u8> {
    let if_there = |bit: u8, part: Option<Vec<u8>>| if flags & 1 << bit != 0 { part } else { None };
    made_of("Item record", |field| match field {
        "type" => Some(vec![2]),
        "document" => Some(document.to_vec()),
        "priority" => if_there(0, Some(vec![(-3_i8) as u8])),
        "ready" => if_there(1, long(NOW_MS + 20)),
        "expires" => if_there(2, long(NOW_MS + 30)),
        "content type" => if_there(3, Some([&b"text/x"[..], &[6]].concat())),
        "origin" => if_there(
            4,
            origin.map(|(reason, deliveries, item, queue)| {
                let (reason_length, queue_length) = ((reason.len() as u16).to_le_bytes(), [queue.len() as u8]);
                let (deliveries, item) = (deliveries.to_le_bytes(), item.to_le_bytes());
                [reason.as_bytes(), &reason_length, &deliveries, &item, queue.as_bytes(), &queue_length].concat()
            }),
        ),
        "subject" => if_there(5, Some([&b"a.b"[..], &[3]].concat())),
        "pushed" => long(NOW_MS),
        "flags" => Some(vec![flags]),
        other => panic!("what is {other}?"),
    })
}

/// The numbers are those of the stage.
fn state_record(stage: u8, deliveries: u32, numbers: &[u64], reason: &str) -> Vec<u8> {
    let number = |of: &[u8], at: usize| if of.contains(&stage) { long(numbers[at]) } else { None };
    made_of("Record of an item's state", |field| match field {
        "stage" => Some(vec![stage]),
        "deliveries" => short(deliveries),
        "ready" => number(&[1, 4], 0),
        "token" => number(&[2], 0),
        "granted" => number(&[2], 1),
        "lease" => number(&[2], 2),
        "since" => number(&[3], 0),
        "reason" => Some(reason.as_bytes().to_vec()),
        other => panic!("what is {other}?"),
    })
}

fn declare(queue: &str, options: Declaration) -> QueueOperation {
    QueueOperation::Declare { queue: queue.into(), options }
}

fn plain(document: &[u8]) -> Push {
    let value = Stored::from_json(document).unwrap();
    Push { queue: b"jobs".to_vec(), value, priority: 0, delay_ms: 0, ttl_ms: None, content_type: None }
}

#[test]
fn queues_and_items_are_made_of_the_documented_fields() {
    let mut table = Table(State::new());
    let all = Declaration {
        lease_ms: Some(500),
        max_deliveries: Some(2),
        retry_ms: Some(7),
        max_items: Some(9),
        max_bytes: Some(10_000),
        overflow: Some(Overflow::DropOldest),
        dead: Some(b"morgue".to_vec()),
        ..Declaration::default()
    };
    let (_, changes) = table.does(declare("jobs", all));
    assert_record(&changes[0], b"qjobs", Some(queue_record(1, [500, 7, 0, 9, 10_000], 2, 2, b"morgue")));
    let (_, changes) = table.does(declare("jobs", Declaration { paused: Some(true), ttl_ms: Some(8), ..Declaration::default() }));
    assert_record(&changes[0], b"qjobs", Some(queue_record(1, [500, 7, 8, 9, 10_000], 2, 3, b"morgue")));
    table.does(declare("jobs", Declaration { paused: Some(false), ttl_ms: Some(0), ..Declaration::default() }));

    // With every field, and with none.
    let all = Push { priority: -3, delay_ms: 20, ttl_ms: Some(30), content_type: Some("text/x".to_owned()), ..plain(b"[1]") };
    let changes = table.push(all);
    assert_eq!(changes.len(), 1);
    assert_record(&changes[0], &item_key(b'x', id(1), id(4)), Some(item_record(b"[1]", 15, None)));
    let changes = table.push(plain(b"[2]"));
    assert_record(&changes[0], &item_key(b'x', id(1), id(5)), Some(item_record(b"[2]", 0, None)));
    // A push to a queue that is not there makes both, at one revision.
    let changes = table.push(Push { queue: b"new".to_vec(), ..plain(b"[3]") });
    assert_record(&changes[0], b"qnew", Some(queue_record(6, [30_000, 0, 0, 0, 0], 10, 0, b"")));
    assert_eq!(changes.len(), 2);
    let mut key = Vec::new();
    changes[1].write_record_key(&mut key);
    assert_eq!((&key[..9], changes[1].space), (&item_key(b'x', id(6), 0)[..9], Space::Item));
}

#[test]
fn a_copy_of_a_message_has_its_subject() {
    let mut table = Table(State::new());
    let bind = RoutingOperation::Bind { queue: b"jobs".to_vec(), pattern: b"a.*".to_vec(), where_: None };
    table.does_any(Operation::Routing(Box::new(bind)));
    let publish = Publish {
        subject: b"a.b".to_vec(),
        value: Stored::from_json(b"[4]").unwrap(),
        priority: -3,
        ttl_ms: Some(30),
        content_type: Some("text/x".to_owned()),
        retain: false,
        must_route: true,
    };
    let (_, changes) = table.does_any(Operation::Routing(Box::new(RoutingOperation::Publish(publish))));
    let copy = changes.iter().find(|change| change.space == Space::Item).expect("the queue wants it");
    assert_record(copy, &item_key(b'x', id(1), id(2)), Some(item_record(b"[4]", 1 | 4 | 8 | 32, None)));
}

#[test]
fn states_and_moved_items_are_made_of_the_documented_fields() {
    let mut table = Table(State::new());
    table
        .does(declare("jobs", Declaration { max_deliveries: Some(2), dead: Some(b"morgue".to_vec()), ..Declaration::default() }));
    table.push(plain(b"[2]"));
    let key = |space| item_key(space, id(1), id(2));
    let (receipt, changes) = table.pull();
    assert_record(&changes[0], &key(b'y'), Some(state_record(2, 1, &[3, NOW_MS, 700], "")));
    assert_eq!((changes.len(), receipt.to_string()), (1, "2:3".to_owned()));
    let nack = |receipt: Receipt, reason: &str| {
        let (item, token) = (receipt.item.to_string(), receipt.token);
        let request = json!({"op": "nack", "queue": "jobs", "item": item, "token": token, "reason": reason}).to_string();
        let Operations::One(Operation::Queue(nack)) = decode_request(request.as_bytes()).unwrap().operations else { panic!() };
        *nack
    };
    let (_, changes) = table.does(nack(receipt, "wet paint"));
    assert_record(&changes[0], &key(b'y'), Some(state_record(1, 1, &[0], "wet paint")));
    // Once too often: it moves, and is deleted here with its state.
    let (receipt, _) = table.pull();
    let (_, changes) = table.does(nack(receipt, "dry"));
    let Some(value) = changes.iter().find(|change| change.space == Space::Item && change.value.is_some()) else {
        panic!("{changes:?}")
    };
    let reason = "delivered 2 times; the last time: dry";
    let morgue = value.key.clone();
    assert_eq!(value.value, Some(item_record(b"[2]", 16, Some((reason, 2, id(2), "jobs")))));
    assert!(changes.iter().any(|change| change.space == Space::Queue && change.key == b"morgue"));
    let deleted: Vec<Space> = changes.iter().filter(|change| change.value.is_none()).map(|change| change.space).collect();
    assert_eq!(deleted, [Space::Item, Space::ItemState]);
    // Set aside by hand, and kicked.
    let item = ItemId::from_bytes(morgue[8..].try_into().unwrap());
    let bury = QueueOperation::Bury { queue: b"morgue".to_vec(), item, token: None, reason: "no".to_owned() };
    let (_, changes) = table.does(bury);
    assert_record(&changes[0], &[b"y", &morgue[..]].concat(), Some(state_record(3, 0, &[NOW_MS], "no")));
    let (_, changes) = table.does(QueueOperation::Kick { queue: b"morgue".to_vec(), item: None, limit: None });
    assert_record(&changes[0], &[b"y", &morgue[..]].concat(), Some(state_record(4, 0, &[0], "")));
}
