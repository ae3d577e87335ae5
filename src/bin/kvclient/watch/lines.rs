//! What a watch prints of an event: a line for people, or a line of JSON.

use kvbroker::client::WhySnapshot;
use kvbroker_protocol::{KeyEvent, RevisionEvents, Row, key_to_json_text, key_to_line_text};

use crate::events;
use crate::output::Print;

/// What a watch tells of the table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told<'a> {
    /// What is there follows.
    Begin { revision: u64, why: WhySnapshot },
    /// A key that is there.
    Row(&'a Row),
    /// That was all that is there.
    End { revision: u64 },
    /// One change of a revision.
    Change { revision: &'a RevisionEvents, change: &'a KeyEvent, index: usize },
}

impl Told<'_> {
    /// The event in one word.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Told::Begin { .. } => "snapshot_begin",
            Told::Row(_) => "row",
            Told::End { .. } => "snapshot_end",
            Told::Change { change, .. } => change.kind.name(),
        }
    }

    /// The revision that it is of; of a row that of its value.
    pub(super) fn revision(&self) -> u64 {
        match self {
            Told::Begin { revision, .. } | Told::End { revision } => *revision,
            Told::Row(row) => row.modified,
            Told::Change { revision, .. } => revision.revision,
        }
    }
}

impl Print for Told<'_> {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        let kind = self.kind();
        match self {
            Told::Change { revision, change, .. } => events::Line { revision, change }.print(json, line),
            Told::Row(row) if json => {
                line.extend_from_slice(format!("{{\"rev\":{},\"event\":\"{kind}\",\"key\":", row.modified).as_bytes());
                key_to_json_text(line, &row.key);
                line.extend_from_slice(b",\"value\":");
                row.value.write_json(line);
                line.push(b'}');
            }
            Told::Row(row) => {
                line.extend_from_slice(format!("{}\t-\t{kind}\t", row.modified).as_bytes());
                key_to_line_text(line, &row.key);
                line.push(b'\t');
                row.value.write_json(line);
            }
            Told::Begin { revision, why } => {
                let why = why.name();
                let text = match json {
                    true => format!("{{\"event\":\"{kind}\",\"rev\":{revision},\"why\":\"{why}\"}}"),
                    false => format!("{revision}\t-\t{kind}\t{why}"),
                };
                line.extend_from_slice(text.as_bytes());
            }
            Told::End { revision } => {
                let text = match json {
                    true => format!("{{\"event\":\"{kind}\",\"rev\":{revision}}}"),
                    false => format!("{revision}\t-\t{kind}"),
                };
                line.extend_from_slice(text.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::Stored;

    use super::*;

    #[test]
    fn a_snapshot_is_lines_too() {
        let row = Row { key: b"a\n".to_vec(), value: Stored::text("x").unwrap(), modified: 7 };
        let shown = |json, told: Told<'_>| {
            let mut line = Vec::new();
            told.print(json, &mut line);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(shown(false, Told::Row(&row)), "7\t-\trow\t\"a\\n\"\t\"x\"");
        assert_eq!(shown(true, Told::Row(&row)), r#"{"rev":7,"event":"row","key":"a\n","value":"x"}"#);
        let begin = Told::Begin { revision: 9, why: WhySnapshot::Compacted };
        assert_eq!(shown(false, begin), "9\t-\tsnapshot_begin\tcompacted");
        assert_eq!(shown(true, begin), r#"{"event":"snapshot_begin","rev":9,"why":"compacted"}"#);
        assert_eq!(shown(true, Told::End { revision: 9 }), r#"{"event":"snapshot_end","rev":9}"#);
    }
}
