//! docs/storage.md tells the truth about the table's records: records are put together as its table says and compared with real ones.

#![allow(clippy::unwrap_used)]

use kvbroker_core::{Stamp, State, Turn, decide};
use kvbroker_protocol::{Operation, Stored};

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
        let decision = decide(&state, operation, stamp, &mut Turn::one());
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
