//! What the routing answers, in all shapes: written for the broker, read for clients and for what is remembered.
//!
//! - A copy is `[queue, item]`, a binding a map of its queue, its pattern and, if it has one, its predicate: the same in every shape.

use super::{Binding, MessageCopy, RoutingAnswer, RoutingOperation};
use crate::msgpack::{Cursor, Token};
use crate::queue;
use crate::reply_decode::{ReplyError, boolean, needed_key, text, uint};
use crate::sink::Sink;
use crate::value::Key;

/// What a successful answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingExpect {
    /// Nothing beyond the revision.
    Done,
    /// Who has a copy.
    Published,
    /// Bindings.
    Bindings,
}

impl RoutingOperation {
    /// What a successful answer to this operation looks like.
    pub(crate) fn expects(&self) -> RoutingExpect {
        match self {
            RoutingOperation::Bind { .. } | RoutingOperation::Unbind { .. } => RoutingExpect::Done,
            RoutingOperation::Publish(_) => RoutingExpect::Published,
            RoutingOperation::Bindings { .. } => RoutingExpect::Bindings,
        }
    }
}

/// Elements of the compact form behind status and revision.
pub(crate) fn compact_length(_: &RoutingAnswer) -> usize {
    2
}

pub(crate) fn write_compact(answer: &RoutingAnswer, out: &mut Vec<u8>) {
    let sink = &mut Sink { json: false, comma: false, out };
    match answer {
        RoutingAnswer::Published { routed, copies } => {
            sink.uint(*routed);
            self::copies(copies, sink);
        }
        RoutingAnswer::Bindings { bindings, cursor } => {
            self::bindings(bindings, sink);
            match cursor {
                Some(cursor) => self::cursor(cursor, sink),
                None => sink.nil(),
            }
        }
    }
}

/// Fields of the named forms.
pub(crate) fn field_count(answer: &RoutingAnswer) -> usize {
    match answer {
        RoutingAnswer::Published { .. } => 2,
        RoutingAnswer::Bindings { cursor, .. } => 1 + usize::from(cursor.is_some()),
    }
}

pub(crate) fn write_fields(answer: &RoutingAnswer, sink: &mut Sink<'_>) {
    match answer {
        RoutingAnswer::Published { routed, copies } => {
            sink.name("routed");
            sink.uint(*routed);
            sink.name("copies");
            self::copies(copies, sink);
        }
        RoutingAnswer::Bindings { bindings, cursor } => {
            sink.name("bindings");
            self::bindings(bindings, sink);
            if let Some(cursor) = cursor {
                sink.name("cursor");
                self::cursor(cursor, sink);
            }
        }
    }
}

/// `[queue, item]` each, and `true` behind that where the queue is transient.
fn copies(copies: &[MessageCopy], sink: &mut Sink<'_>) {
    sink.array(copies.len());
    for MessageCopy { queue, item, transient } in copies {
        sink.array(2 + usize::from(*transient));
        sink.key(queue);
        sink.text(&item.to_string());
        if *transient {
            sink.boolean(true);
        }
        sink.end_array();
    }
    sink.end_array();
}

fn cursor((queue, pattern): &(Key, Key), sink: &mut Sink<'_>) {
    sink.array(2);
    sink.key(queue);
    sink.key(pattern);
    sink.end_array();
}

fn bindings(bindings: &[Binding], sink: &mut Sink<'_>) {
    sink.array(bindings.len());
    for Binding { queue, pattern, where_ } in bindings {
        sink.map(2 + usize::from(where_.is_some()));
        sink.name("queue");
        sink.key(queue);
        sink.name("pattern");
        sink.key(pattern);
        if let Some(where_) = where_ {
            sink.name("where");
            sink.text(where_);
        }
        sink.end_map();
    }
    sink.end_array();
}

/// Reads what [`write_compact`] wrote.
pub(crate) fn read_compact(cursor: &mut Cursor<'_>, expect: RoutingExpect) -> Result<RoutingAnswer, ReplyError> {
    match expect {
        RoutingExpect::Published => Ok(RoutingAnswer::Published { routed: uint(cursor)?, copies: read_copies(cursor)? }),
        RoutingExpect::Bindings => Ok(RoutingAnswer::Bindings { bindings: read_bindings(cursor)?, cursor: read_cursor(cursor)? }),
        RoutingExpect::Done => Err(ReplyError("this answer is none of the routing".into())),
    }
}

fn array(cursor: &mut Cursor<'_>, length: Option<usize>) -> Result<usize, ReplyError> {
    match cursor.token()? {
        Token::Array(found) if length.is_none_or(|length| length == found) => Ok(found),
        other => Err(ReplyError(format!("{other:?} where an array was expected"))),
    }
}

pub(crate) fn read_copies(cursor: &mut Cursor<'_>) -> Result<Vec<MessageCopy>, ReplyError> {
    let mut copies = Vec::new();
    for _ in 0..array(cursor, None)? {
        let length = array(cursor, None)?;
        if !(2..=3).contains(&length) {
            return Err(ReplyError(format!("a copy has {length} elements")));
        }
        let (queue, item) = (needed_key(cursor)?, queue::item(cursor)?);
        copies.push(MessageCopy { queue, item, transient: length > 2 && boolean(cursor)? });
    }
    Ok(copies)
}

fn read_cursor(cursor: &mut Cursor<'_>) -> Result<Option<(Key, Key)>, ReplyError> {
    match cursor.token()? {
        Token::Nil => Ok(None),
        Token::Array(2) => Ok(Some((needed_key(cursor)?, needed_key(cursor)?))),
        other => Err(ReplyError(format!("a cursor is {other:?}"))),
    }
}

fn read_bindings(cursor: &mut Cursor<'_>) -> Result<Vec<Binding>, ReplyError> {
    let mut bindings = Vec::new();
    for _ in 0..array(cursor, None)? {
        let Token::Map(fields) = cursor.token()? else { return Err(ReplyError("a binding is no map".into())) };
        let (mut queue, mut pattern, mut where_) = (None, None, None);
        for _ in 0..fields {
            match text(cursor)?.as_str() {
                "queue" => queue = Some(needed_key(cursor)?),
                "pattern" => pattern = Some(needed_key(cursor)?),
                "where" => where_ = Some(text(cursor)?),
                // Of a later version.
                _ => {
                    cursor.raw()?;
                }
            }
        }
        let (queue, pattern) = queue.zip(pattern).ok_or_else(|| ReplyError("a binding without queue or pattern".into()))?;
        bindings.push(Binding { queue, pattern, where_ });
    }
    Ok(bindings)
}

#[cfg(test)]
pub(crate) fn samples() -> Vec<(RoutingExpect, RoutingAnswer)> {
    use crate::queue::ItemId;
    let item = |revision, place| ItemId::new(revision, place).expect("small numbers");
    let copies = vec![
        MessageCopy { queue: b"jobs".to_vec(), item: item(7, 0), transient: false },
        MessageCopy { queue: vec![0xff], item: item(7, 1), transient: true },
    ];
    let plain = Binding { queue: b"jobs".to_vec(), pattern: b"a.#".to_vec(), where_: None };
    let filtered = Binding { queue: vec![0xff], where_: Some("x > 1".into()), ..plain.clone() };
    let cursor = Some((b"jobs".to_vec(), b"a.#".to_vec()));
    vec![
        (RoutingExpect::Published, RoutingAnswer::Published { routed: 0, copies: vec![] }),
        (RoutingExpect::Published, RoutingAnswer::Published { routed: 3, copies }),
        (RoutingExpect::Bindings, RoutingAnswer::Bindings { bindings: vec![], cursor: None }),
        (RoutingExpect::Bindings, RoutingAnswer::Bindings { bindings: vec![filtered, plain], cursor }),
    ]
}
