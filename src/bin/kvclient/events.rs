//! `events`: what has changed behind a revision, all of it, or the next change.

use std::time::{Duration, Instant};

use kvbroker::client::{Client, EventsOptions};
use kvbroker::exit::Exit;
use kvbroker_protocol::{EventBefore, EventOrigin, KeyEvent, Predicate, RevisionEvents, key_to_json_text, key_to_line_text};

use crate::history::rfc3339;
use crate::output::{Output, Print};
use crate::{Global, Trouble, remark};

/// What was asked for.
pub(crate) struct Wanted {
    pub(crate) prefix: Vec<u8>,
    /// None: from now on.
    pub(crate) after: Option<u64>,
    /// Most revisions.
    pub(crate) limit: Option<u64>,
    /// For the first change; None: not at all.
    pub(crate) wait: Option<Duration>,
    /// Also what was before, and who made the change.
    pub(crate) with_old: bool,
    /// Only what concerns the keys and values that fit.
    pub(crate) filter: Option<Predicate>,
}

pub(crate) fn run(global: &Global, client: &Client, wanted: Wanted, out: &mut Output) -> Result<Exit, Trouble> {
    let Wanted { prefix, mut after, limit, wait, with_old, filter } = wanted;
    let start = Instant::now();
    let mut left = limit.map_or(usize::MAX, |revisions| usize::try_from(revisions).unwrap_or(usize::MAX));
    let mut any = false;
    let mut options = EventsOptions::new().detail(with_old);
    if let Some(filter) = filter {
        options = options.filter(filter);
    }
    let through = loop {
        let wait_left = wait.filter(|_| !any).unwrap_or_default().saturating_sub(start.elapsed());
        let mut asked = options.clone().wait(wait_left);
        if let Some(after) = after {
            asked = asked.after(after);
        }
        if limit.is_some() {
            asked = asked.limit(left);
        }
        let page = client.events_with(&prefix, asked)?;
        // A page behind this one is of the same history, or is none.
        options = options.epoch(page.epoch);
        for revision in &page.events {
            for change in &revision.changes {
                out.item(&Line { revision, change })?;
            }
        }
        // Whoever reads along sees each page when it is there.
        out.flush()?;
        any |= !page.events.is_empty();
        left = left.saturating_sub(page.events.len());
        after = Some(page.through);
        if left == 0 || (!page.more && (any || wait_left.is_zero())) {
            break page.through;
        }
    };
    if out.is_json() {
        out.line(&format!("{{\"through\":{through}}}"))?;
    } else {
        remark(global, &format!("these are all changes up to revision {through}; for those behind it: --after {through}"));
    }
    Ok(if any || wait.is_none() { Exit::Ok } else { Exit::NotFound })
}

/// One change of one key.
pub(crate) struct Line<'a> {
    pub(crate) revision: &'a RevisionEvents,
    pub(crate) change: &'a KeyEvent,
}

impl Print for Line<'_> {
    fn print(&self, json: bool, line: &mut Vec<u8>) {
        let Line { revision: RevisionEvents { revision, time_ms, origin, .. }, change: KeyEvent { key, kind, before } } = self;
        let name = kind.name();
        if json {
            line.extend_from_slice(format!("{{\"rev\":{revision},\"time\":{time_ms},\"event\":\"{name}\",\"key\":").as_bytes());
            key_to_json_text(line, key);
        } else {
            line.extend_from_slice(format!("{revision}\t{}\t{name}\t", rfc3339(*time_ms)).as_bytes());
            key_to_line_text(line, key);
        }
        if let Some(value) = kind.value() {
            line.extend_from_slice(if json { b",\"value\":" } else { b"\t" });
            value.write_json(line);
        }
        if let Some(before) = before {
            print_before(before, json, line);
        }
        if json {
            origin.iter().for_each(|origin| print_origin(origin, line));
            line.push(b'}');
        }
    }
}

/// Behind the new value, if there is one. A value as JSON never looks like the words for none.
fn print_before(before: &EventBefore, json: bool, line: &mut Vec<u8>) {
    let old_revision = |revision: &str| format!(",\"old_rev\":{revision}");
    match before {
        EventBefore::Value { value, modified } => {
            line.extend_from_slice(if json { b",\"old\":" } else { b"\twas\t" });
            value.write_json(line);
            if json {
                line.extend_from_slice(old_revision(&modified.to_string()).as_bytes());
            }
        }
        EventBefore::Absent if json => line.extend_from_slice(old_revision("0").as_bytes()),
        EventBefore::Absent => line.extend_from_slice(b"\twas\tabsent"),
        EventBefore::Unknown if json => line.extend_from_slice(old_revision("null").as_bytes()),
        EventBefore::Unknown => line.extend_from_slice(b"\twas\tunknown"),
    }
}

fn print_origin(origin: &EventOrigin, line: &mut Vec<u8>) {
    let EventOrigin { cause, name } = origin;
    line.extend_from_slice(format!(",\"cause\":\"{}\"", cause.name()).as_bytes());
    if let Some((session, seq)) = name {
        line.extend_from_slice(format!(",\"session\":\"{session}\",\"seq\":{seq}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::{ChangeKind, EventCause, SessionId, Stored};

    use super::*;

    #[test]
    fn a_change_is_a_line() {
        let shown = |json, kind| {
            let change = KeyEvent { key: b"a\tb".to_vec(), kind, before: None };
            let revision = RevisionEvents { revision: 7, time_ms: 1_700_000_000_123, changes: vec![], origin: None };
            let mut line = Vec::new();
            Line { revision: &revision, change: &change }.print(json, &mut line);
            String::from_utf8(line).unwrap()
        };
        let put = || ChangeKind::Put(Stored::text("x\n").unwrap());
        assert_eq!(shown(false, put()), "7\t2023-11-14T22:13:20.123Z\tput\t\"a\\tb\"\t\"x\\n\"");
        assert_eq!(shown(true, put()), r#"{"rev":7,"time":1700000000123,"event":"put","key":"a\tb","value":"x\n"}"#);
        assert_eq!(shown(false, ChangeKind::Expire), "7\t2023-11-14T22:13:20.123Z\texpire\t\"a\\tb\"");
        assert_eq!(shown(true, ChangeKind::Remove), r#"{"rev":7,"time":1700000000123,"event":"remove","key":"a\tb"}"#);
    }

    #[test]
    fn what_was_before_stands_behind_the_change() {
        let value = |text: &str| Stored::text(text).unwrap();
        let shown = |json, kind, before| {
            let change = KeyEvent { key: b"k".to_vec(), kind, before: Some(before) };
            let origin = Some(EventOrigin { cause: EventCause::Request, name: Some((SessionId([0xa5; 16]), 9)) });
            let revision = RevisionEvents { revision: 7, time_ms: 1_700_000_000_123, changes: vec![], origin };
            let mut line = Vec::new();
            Line { revision: &revision, change: &change }.print(json, &mut line);
            String::from_utf8(line).unwrap()
        };
        let head = "7\t2023-11-14T22:13:20.123Z";
        let before = || EventBefore::Value { value: value("a"), modified: 5 };
        assert_eq!(shown(false, ChangeKind::Put(value("b")), before()), format!("{head}\tput\tk\t\"b\"\twas\t\"a\""));
        assert_eq!(shown(false, ChangeKind::Leave, before()), format!("{head}\tleave\tk\twas\t\"a\""));
        assert_eq!(shown(false, ChangeKind::Remove, EventBefore::Unknown), format!("{head}\tremove\tk\twas\tunknown"));
        let session = "a5".repeat(16);
        let behind = format!(r#""cause":"request","session":"{session}","seq":9}}"#);
        let head = r#"{"rev":7,"time":1700000000123,"event":"#;
        let put = shown(true, ChangeKind::Put(value("b")), EventBefore::Absent);
        assert_eq!(put, format!(r#"{head}"put","key":"k","value":"b","old_rev":0,{behind}"#));
        assert_eq!(
            shown(true, ChangeKind::Expire, before()),
            format!(r#"{head}"expire","key":"k","old":"a","old_rev":5,{behind}"#)
        );
        assert_eq!(
            shown(true, ChangeKind::Leave, EventBefore::Unknown),
            format!(r#"{head}"leave","key":"k","old_rev":null,{behind}"#)
        );
    }
}
