//! docs/storage.md tells the truth about the table's records: records are put together as its table says and compared with real ones.

#![allow(clippy::unwrap_used)]

use kvbroker_core::{Numbered, SessionBounds, Space, Stamp, State, Turn, decide, decide_numbered};
use kvbroker_protocol::{Operation, Scope, SessionId, Stored, request_hash};

const DOCUMENT: &str = include_str!("../../../docs/storage.md");

/// Field, bytes, and the flag that says whether it is there; in the order of the document.
fn documented() -> Vec<(&'static str, &'static str, Option<u8>)> {
    let section = DOCUMENT.split("### Table record\n").nth(1).unwrap().split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let flag = cells[3].strip_prefix("flag bit ").map(|bit| 1 << bit.parse::<u8>().unwrap());
        assert!(flag.is_some() || cells[3] == "always", "{row}");
        (cells[1], cells[2], flag)
    })
    .collect()
}

#[test]
fn records_are_made_of_the_documented_fields() {
    let mut state = State::new();
    let (key, value) = (b"k".to_vec(), Stored::from_json(b"[1]").unwrap());
    let put = |ttl_ms| Operation::Put { key: key.clone(), value: value.clone(), condition: None, ttl_ms };
    // Each of the four records that there can be: with and without a deadline, at the key's first revision and at later ones.
    for (operation, created, expires) in [
        (put(None), None, None),
        (put(Some(50)), Some(1_u64), Some(1_050_u64)),
        (Operation::Persist { key: key.clone() }, Some(1), None),
        (Operation::Del { key: key.clone(), return_old: false, condition: None }, None, None),
        (put(Some(70)), None, Some(1_070)),
    ] {
        let stamp = Stamp { revision: state.revision() + 1, time_ms: 1_000 };
        let decision = decide(&state, &Scope::all(), operation, stamp, &mut Turn::one());
        let [change] = decision.changes.as_slice() else { panic!("{decision:?}") };
        let mut record_key = Vec::new();
        change.write_record_key(&mut record_key);
        assert_eq!(record_key, b"tk");
        if let Some(record) = &change.value {
            let flags = u8::from(created.is_some()) | u8::from(expires.is_some()) << 1;
            let mut made = Vec::new();
            for (field, bytes, flag) in documented() {
                let start = made.len();
                match field {
                    "type" => made.push(2),
                    "document" => made.extend_from_slice(b"[1]"),
                    "flags" => made.push(flags),
                    _ if flag.is_some_and(|flag| flags & flag == 0) => continue,
                    "created" => made.extend_from_slice(&created.unwrap().to_le_bytes()),
                    "expires" => made.extend_from_slice(&expires.unwrap().to_le_bytes()),
                    other => panic!("what is {other}?"),
                }
                assert!(bytes == "any" || bytes.parse() == Ok(made.len() - start), "{field}");
            }
            assert_eq!(*record, made);
        }
        state.apply(change.clone(), stamp.revision);
    }
}

/// Field and bytes of a section's table.
fn fields(section: &str) -> Vec<(&'static str, &'static str)> {
    let section = DOCUMENT.split(&format!("### {section}\n")).nth(1).unwrap().split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| (row.split('|').nth(1).unwrap().trim(), row.split('|').nth(2).unwrap().trim())).collect()
}

/// Puts a value together from the fields that the document names, in its order.
fn made_of(section: &str, field: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let mut made = Vec::new();
    for (name, bytes) in fields(section) {
        let part = field(name);
        assert!(bytes == "any" || bytes.parse() == Ok(part.len()), "{section}: {name}");
        made.extend(part);
    }
    made
}

#[test]
fn session_records_are_made_of_the_documented_fields() {
    let mut state = State::new();
    let session = SessionId::new(900, 7);
    let incr = || Operation::Incr { key: b"n".to_vec(), by: 2 };
    let del = || Operation::Del { key: b"none".to_vec(), return_old: false, condition: None };
    let outcome = |state: &State| {
        let mut bytes = Vec::new();
        kvbroker_protocol::encode_outcome(
            &decide(state, &Scope::all(), del(), Stamp { revision: 2, time_ms: 1_000 }, &mut Turn::one()).outcome,
            &mut bytes,
        );
        bytes
    };
    for (seq, ack, operation) in [(1, 0, incr()), (2, 0, del()), (3, 2, Operation::Noop)] {
        let hash = request_hash(&operation, &mut Vec::new());
        let numbered = Numbered { owner: b"ann", session, seq, ack, hash };
        let stamp = Stamp { revision: state.revision() + 1, time_ms: 1_000 + seq };
        let decision =
            decide_numbered(&state, &Scope::all(), operation, &numbered, stamp, &mut Turn::one(), &SessionBounds::default());
        let window = made_of("Remembered reply", |field| match field {
            "number" => seq.to_le_bytes().to_vec(),
            "hash" => hash.to_le_bytes().to_vec(),
            "behind" => u16::try_from(seq - ack).unwrap().to_le_bytes().to_vec(),
            "used" => (1_000 + seq).to_le_bytes().to_vec(),
            "kind" => vec![[1, 2, 0][seq as usize - 1]],
            "outcome" => [vec![2], outcome(&state), vec![]][seq as usize - 1].clone(),
            other => panic!("what is {other}?"),
        });
        let last = decision.changes.last().unwrap();
        assert_eq!((last.space, last.value.as_ref()), (Space::Window, Some(&window)));
        assert_eq!(last.key, [&session.0[..], &(seq as u16).to_be_bytes()].concat());
        if seq == 1 {
            let born = made_of("Session record", |field| match field {
                "state" => vec![1],
                "used" => 1_001_u64.to_le_bytes().to_vec(),
                "highest" => vec![0; 8],
                "owner" => b"ann".to_vec(),
                other => panic!("what is {other}?"),
            });
            assert_eq!((decision.changes[0].space, decision.changes[0].value.as_ref()), (Space::Session, Some(&born)));
        }
        let revision = if decision.takes_revision { stamp.revision } else { state.revision() };
        decision.changes.into_iter().for_each(|change| state.apply(change, revision));
    }
}
