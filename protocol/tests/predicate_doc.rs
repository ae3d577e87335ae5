//! The table of predicates in `docs/protocol.md`, row by row.

#![allow(clippy::unwrap_used)]

use kvbroker_protocol::{Predicate, Stored, Subject, json_to_msgpack};

/// The code spans of a table's cell.
fn spans(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_table_of_predicates_says_what_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table = page.split("| predicate | holds of | not of |\n").nth(1).unwrap();
    let rows: Vec<&str> = table.lines().skip(1).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 10, "the table is gone");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [predicate, yes, no] = cells[..] else { panic!("{row}") };
        let matcher = Predicate::new(spans(predicate)[0]).unwrap_or_else(|failure| panic!("{row}: {failure}")).matcher().unwrap();
        for (values, expected) in [(spans(yes), true), (spans(no), false)] {
            assert!(!values.is_empty(), "{row}");
            for value in values {
                let as_json = Stored::from_json(value.as_bytes()).unwrap();
                let as_pack = Stored::from_msgpack(&json_to_msgpack(value.as_bytes()).unwrap()).unwrap();
                for stored in [as_json, as_pack] {
                    let subject = Subject { key: b"k", stored: Some(stored.as_bytes()), modified: 1, created: 1 };
                    assert_eq!(matcher.judge(&subject).holds, expected, "{row}: {value} as {:?}", stored.kind());
                }
            }
        }
    }
}

#[test]
fn the_longest_texts_for_a_regex_are_as_documented() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md")).unwrap();
    assert!(page.contains("a text longer than 4 MiB divided by the KiB"));
    assert_eq!(kvbroker_protocol::limits::MATCH_WORK_MAX, 4 << 20);
}
