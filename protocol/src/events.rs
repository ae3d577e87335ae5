//! What has changed, revision by revision: as `events` answers it and as streams tell it, in all encodings.
//!
//! - A revision is `[rev, time, [change, …]]`, a change `[key, "put", value]` or, where there is no value, `[key, "remove"]`,
//!   `[key, "expire"]` and `[key, "leave"]`.
//! - With details a revision has its origin behind its changes, and each change just four elements: nil stands where there is no value,
//!   and what was before stands last. So the fourth element tells that details were asked for.
//! - What a newer broker adds at the end of these arrays, and in these maps, is passed over.

use crate::error::Failure;
use crate::field::Raw;
use crate::header::SessionId;
use crate::msgpack::{Cursor, Token};
use crate::reply::VersionKind;
use crate::reply_decode::{ReplyError, needed_key, stored, text, uint};
use crate::sink::Sink;
use crate::value::{Key, Stored, StoredRef};

/// What one revision changed, as far as was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: u64,
    /// When it was made, by the broker's time, milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// The keys that it changed, in their order, each once; never empty.
    pub changes: Vec<KeyEvent>,
    /// Why it was made, and for whom. None: that was not asked for.
    pub origin: Option<EventOrigin>,
}

/// What a revision did to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEvent {
    /// The key.
    pub key: Key,
    /// What happened to it.
    pub kind: ChangeKind,
    /// What it was before. None: that was not asked for.
    pub before: Option<EventBefore>,
}

/// What happened to a key, as whoever asked must take it. Its value is one of its own, or lent
/// ([`StoredRef`](crate::StoredRef)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind<V = Stored> {
    /// It got this value.
    Put(V),
    /// It was removed.
    Remove,
    /// Its deadline had come.
    Expire,
    /// It got a value that does not fit what was asked for. Whoever keeps the keys that fit drops it, if it has it.
    Leave,
}

/// What a key was before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventBefore {
    /// The broker does not know it any more.
    Unknown,
    /// There was no such key.
    Absent,
    /// It had a value.
    Value {
        /// As it was written.
        value: Stored,
        /// The revision that made it.
        modified: u64,
    },
}

/// Where a revision comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventOrigin {
    /// Why it was made.
    pub cause: EventCause,
    /// The session of the mutation and its number there. None: it had none, or it is not this user's to know.
    pub name: Option<(SessionId, u64)>,
}

/// Why a revision was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventCause {
    /// A client asked for it.
    Request,
    /// Deadlines had come.
    Expiry,
    /// The broker did it by itself; also whatever a newer broker calls otherwise.
    Internal,
}

impl From<VersionKind> for ChangeKind {
    fn from(kind: VersionKind) -> ChangeKind {
        match kind {
            VersionKind::Put(value) => ChangeKind::Put(value),
            VersionKind::Remove => ChangeKind::Remove,
            VersionKind::Expire => ChangeKind::Expire,
        }
    }
}

impl ChangeKind {
    /// The same, with the value lent.
    pub fn lent(&self) -> ChangeKind<StoredRef<'_>> {
        match self {
            ChangeKind::Put(value) => ChangeKind::Put(value.lent()),
            ChangeKind::Remove => ChangeKind::Remove,
            ChangeKind::Expire => ChangeKind::Expire,
            ChangeKind::Leave => ChangeKind::Leave,
        }
    }
}

impl From<ChangeKind<StoredRef<'_>>> for ChangeKind {
    fn from(kind: ChangeKind<StoredRef<'_>>) -> ChangeKind {
        match kind {
            ChangeKind::Put(value) => ChangeKind::Put(value.to_stored()),
            ChangeKind::Remove => ChangeKind::Remove,
            ChangeKind::Expire => ChangeKind::Expire,
            ChangeKind::Leave => ChangeKind::Leave,
        }
    }
}

impl<V> ChangeKind<V> {
    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            ChangeKind::Put(_) => "put",
            ChangeKind::Remove => "remove",
            ChangeKind::Expire => "expire",
            ChangeKind::Leave => "leave",
        }
    }

    /// The key's new value, where it is told.
    pub fn value(&self) -> Option<&V> {
        match self {
            ChangeKind::Put(value) => Some(value),
            ChangeKind::Remove | ChangeKind::Expire | ChangeKind::Leave => None,
        }
    }
}

impl EventCause {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            EventCause::Request => "request",
            EventCause::Expiry => "expiry",
            EventCause::Internal => "internal",
        }
    }

    fn from_name(name: &str) -> EventCause {
        [EventCause::Request, EventCause::Expiry].into_iter().find(|cause| cause.name() == name).unwrap_or(EventCause::Internal)
    }
}

impl KeyEvent {
    /// The values that it carries, to be changed.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Stored> {
        let new = match &mut self.kind {
            ChangeKind::Put(value) => Some(value),
            ChangeKind::Remove | ChangeKind::Expire | ChangeKind::Leave => None,
        };
        let old = match &mut self.before {
            Some(EventBefore::Value { value, .. }) => Some(value),
            Some(EventBefore::Unknown | EventBefore::Absent) | None => None,
        };
        new.into_iter().chain(old)
    }
}

/// An epoch as it is written everywhere: 16 hexadecimal digits.
pub(crate) fn epoch_text(epoch: u64) -> String {
    format!("{epoch:016x}")
}

/// Reads [`epoch_text`].
pub(crate) fn epoch_from_text(text: &str) -> Option<u64> {
    let is_whole = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| is_whole)
}

/// An epoch in a request.
pub(crate) fn epoch_of(raw: Raw<'_>) -> Result<u64, Failure> {
    let wrong = || Failure::invalid("`epoch` must be 16 hexadecimal digits, as hello and events tell it");
    epoch_from_text(&raw.text("epoch")?).ok_or_else(wrong)
}

pub(crate) fn write_events(events: &[RevisionEvents], sink: &mut Sink<'_>) {
    sink.array(events.len());
    for RevisionEvents { revision, time_ms, changes, origin } in events {
        sink.array(3 + usize::from(origin.is_some()));
        sink.uint(*revision);
        sink.uint(*time_ms);
        sink.array(changes.len());
        changes.iter().for_each(|change| write_change(change, sink));
        sink.end_array();
        if let Some(origin) = origin {
            write_origin(origin, sink);
        }
        sink.end_array();
    }
    sink.end_array();
}

fn write_change(change: &KeyEvent, sink: &mut Sink<'_>) {
    let KeyEvent { key, kind, before } = change;
    let value = kind.value();
    let is_detailed = before.is_some();
    sink.array(if is_detailed { 4 } else { 2 + usize::from(value.is_some()) });
    sink.key(key);
    sink.text(kind.name());
    match value {
        Some(value) => sink.stored(value),
        None if is_detailed => sink.nil(),
        None => {}
    }
    match before {
        None => {}
        Some(EventBefore::Unknown) => sink.nil(),
        Some(EventBefore::Absent) => {
            sink.map(0);
            sink.end_map();
        }
        Some(EventBefore::Value { value, modified }) => {
            sink.map(2);
            sink.name("value");
            sink.stored(value);
            sink.name("rev");
            sink.uint(*modified);
            sink.end_map();
        }
    }
    sink.end_array();
}

fn write_origin(origin: &EventOrigin, sink: &mut Sink<'_>) {
    let EventOrigin { cause, name } = origin;
    sink.map(if name.is_some() { 3 } else { 1 });
    sink.name("cause");
    sink.text(cause.name());
    if let Some((session, seq)) = name {
        sink.name("session");
        sink.text(&session.to_string());
        sink.name("seq");
        sink.uint(*seq);
    }
    sink.end_map();
}

/// Room that is made for elements before they were read: what a message says of their number need not be true.
const ROOM_MAX: usize = 256;

pub(crate) fn read_events(cursor: &mut Cursor<'_>) -> Result<Vec<RevisionEvents>, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no events".into())) };
    let mut events = Vec::with_capacity(count.min(ROOM_MAX));
    for _ in 0..count {
        let length = elements(cursor, 3, "a revision's events")?;
        let (revision, time_ms) = (uint(cursor)?, uint(cursor)?);
        let Token::Array(count) = cursor.token()? else { return Err(ReplyError("a revision has no changes".into())) };
        let mut changes = Vec::with_capacity(count.min(ROOM_MAX));
        for _ in 0..count {
            changes.push(read_change(cursor)?);
        }
        let origin = if length > 3 { Some(read_origin(cursor)?) } else { None };
        pass_over(cursor, length.saturating_sub(4))?;
        events.push(RevisionEvents { revision, time_ms, changes, origin });
    }
    Ok(events)
}

fn read_change(cursor: &mut Cursor<'_>) -> Result<KeyEvent, ReplyError> {
    let length = elements(cursor, 2, "a change")?;
    let key = needed_key(cursor)?;
    let name = match cursor.token()? {
        Token::Str(name) => name,
        other => return Err(ReplyError(format!("{other:?} where a kind of change was expected"))),
    };
    let kind = match (name, length) {
        ("put", 3..) => ChangeKind::Put(stored(cursor)?),
        ("remove", _) => ChangeKind::Remove,
        ("expire", _) => ChangeKind::Expire,
        ("leave", _) => ChangeKind::Leave,
        _ => return Err(ReplyError(format!("a change is {name:?} of {length}"))),
    };
    if length > 2 && kind.value().is_none() {
        pass_over(cursor, 1)?;
    }
    let before = if length > 3 { Some(read_before(cursor)?) } else { None };
    pass_over(cursor, length.saturating_sub(4))?;
    Ok(KeyEvent { key, kind, before })
}

fn read_before(cursor: &mut Cursor<'_>) -> Result<EventBefore, ReplyError> {
    let count = match cursor.token()? {
        Token::Nil => return Ok(EventBefore::Unknown),
        Token::Map(count) => count,
        other => return Err(ReplyError(format!("{other:?} where a value before was expected"))),
    };
    let (mut value, mut modified) = (None, None);
    for _ in 0..count {
        match text(cursor)?.as_str() {
            "value" => value = Some(stored(cursor)?),
            "rev" => modified = Some(uint(cursor)?),
            _ => pass_over(cursor, 1)?,
        }
    }
    match (value, modified) {
        (Some(value), Some(modified)) => Ok(EventBefore::Value { value, modified }),
        (None, None) => Ok(EventBefore::Absent),
        _ => Err(ReplyError("a value before is not whole".into())),
    }
}

fn read_origin(cursor: &mut Cursor<'_>) -> Result<EventOrigin, ReplyError> {
    let Token::Map(count) = cursor.token()? else { return Err(ReplyError("no origin of a revision".into())) };
    let (mut cause, mut session, mut seq) = (None, None, None);
    for _ in 0..count {
        match text(cursor)?.as_str() {
            "cause" => cause = Some(EventCause::from_name(&text(cursor)?)),
            "session" => {
                let id = text(cursor)?.parse().map_err(|_| ReplyError("a revision's session is none".into()))?;
                session = Some(id);
            }
            "seq" => seq = Some(uint(cursor)?),
            _ => pass_over(cursor, 1)?,
        }
    }
    let cause = cause.ok_or_else(|| ReplyError("a revision's origin has no cause".into()))?;
    Ok(EventOrigin { cause, name: session.zip(seq) })
}

pub(crate) fn read_epoch(cursor: &mut Cursor<'_>) -> Result<u64, ReplyError> {
    epoch_from_text(&text(cursor)?).ok_or_else(|| ReplyError("an epoch is not 16 hexadecimal digits".into()))
}

pub(crate) fn elements(cursor: &mut Cursor<'_>, least: usize, what: &str) -> Result<usize, ReplyError> {
    match cursor.token()? {
        Token::Array(length) if length >= least => Ok(length),
        other => Err(ReplyError(format!("{other:?} where {what} was expected"))),
    }
}

pub(crate) fn pass_over(cursor: &mut Cursor<'_>, elements: usize) -> Result<(), ReplyError> {
    for _ in 0..elements {
        cursor.raw()?;
    }
    Ok(())
}

/// Every kind of change, with and without details.
#[cfg(test)]
pub(crate) fn samples() -> Vec<RevisionEvents> {
    let value = Stored::from_msgpack(&[0xa1, b'v']).expect("it is a text");
    let nil = Stored::from_msgpack(&[0xc0]).expect("it is nil");
    let kinds = || {
        [ChangeKind::Put(value.clone()), ChangeKind::Put(nil.clone()), ChangeKind::Remove, ChangeKind::Expire, ChangeKind::Leave]
    };
    let told = [EventBefore::Unknown, EventBefore::Absent, EventBefore::Value { value: value.clone(), modified: u64::MAX }];
    let befores = std::iter::once(None).chain(told.into_iter().map(Some));
    let name = Some((SessionId([0xa5; 16]), 7));
    let origins = [
        None,
        Some(EventOrigin { cause: EventCause::Internal, name: None }),
        Some(EventOrigin { cause: EventCause::Request, name }),
        Some(EventOrigin { cause: EventCause::Expiry, name: None }),
    ];
    let revisions = (5..).zip(befores.zip(origins));
    let change = |kind, before: &Option<EventBefore>| KeyEvent { key: vec![0xff], kind, before: before.clone() };
    revisions
        .map(|(revision, (before, origin))| RevisionEvents {
            revision,
            time_ms: 6,
            changes: kinds().into_iter().map(|kind| change(kind, &before)).collect(),
            origin,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::msgpack::write;

    fn packed(events: &[RevisionEvents]) -> Vec<u8> {
        let mut out = Vec::new();
        write_events(events, &mut Sink { json: false, comma: false, out: &mut out });
        out
    }

    #[test]
    fn events_read_back_and_no_truncation_panics() {
        let bytes = packed(&samples());
        assert_eq!(read_events(&mut Cursor::new(&bytes)).unwrap(), samples());
        for length in 0..bytes.len() {
            assert!(read_events(&mut Cursor::new(&bytes[..length])).is_err());
        }
    }

    #[test]
    fn in_json_they_look_as_documented() {
        let json = |revision: &RevisionEvents| {
            let mut out = Vec::new();
            write_events(std::slice::from_ref(revision), &mut Sink { json: true, comma: false, out: &mut out });
            String::from_utf8(out).unwrap()
        };
        let mut events = samples();
        events.iter_mut().for_each(|revision| revision.changes.drain(1..3).for_each(drop));
        let key = r#"{"$bytes":"/w=="}"#;
        let expected = [
            format!(r#"[[5,6,[[{key},"put","v"],[{key},"expire"],[{key},"leave"]]]]"#),
            format!(
                r#"[[6,6,[[{key},"put","v",null],[{key},"expire",null,null],[{key},"leave",null,null]],{{"cause":"internal"}}]]"#
            ),
            format!(
                r#"[[7,6,[[{key},"put","v",{{}}],[{key},"expire",null,{{}}],[{key},"leave",null,{{}}]],{{"cause":"request","session":"{}","seq":7}}]]"#,
                "a5".repeat(16)
            ),
        ];
        for (revision, expected) in events.iter().zip(expected) {
            assert_eq!(json(revision), expected);
        }
        let before = r#"{"value":"v","rev":18446744073709551615}"#;
        assert!(json(&events[3]).contains(&format!(r#"[{key},"expire",null,{before}]"#)));
    }

    #[test]
    fn what_later_versions_say_is_passed_over() {
        let mut bytes = Vec::new();
        write::array(&mut bytes, 1);
        write::array(&mut bytes, 5);
        write::uint(&mut bytes, 1);
        write::uint(&mut bytes, 2);
        write::array(&mut bytes, 1);
        write::array(&mut bytes, 5);
        write::key(&mut bytes, b"k");
        write::text(&mut bytes, "remove");
        write::text(&mut bytes, "with something");
        write::map(&mut bytes, 1);
        write::text(&mut bytes, "more");
        write::nil(&mut bytes);
        write::uint(&mut bytes, 9);
        write::map(&mut bytes, 2);
        write::text(&mut bytes, "why");
        write::array(&mut bytes, 0);
        write::text(&mut bytes, "cause");
        write::text(&mut bytes, "a newer one");
        write::nil(&mut bytes);
        let event = KeyEvent { key: b"k".to_vec(), kind: ChangeKind::Remove, before: Some(EventBefore::Absent) };
        let origin = Some(EventOrigin { cause: EventCause::Internal, name: None });
        let expected = vec![RevisionEvents { revision: 1, time_ms: 2, changes: vec![event], origin }];
        assert_eq!(read_events(&mut Cursor::new(&bytes)).unwrap(), expected);
    }

    #[test]
    fn an_epoch_is_sixteen_digits() {
        for epoch in [0, 0x1f, u64::MAX] {
            assert_eq!(epoch_from_text(&epoch_text(epoch)), Some(epoch));
        }
        for wrong in ["", "1f", "000000000000001g", "+00000000000001f", "0000000000000001f"] {
            assert_eq!(epoch_from_text(wrong), None, "{wrong}");
        }
    }
}
