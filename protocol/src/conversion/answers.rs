//! What rules answer, in all shapes: written for the broker, read for clients.

use super::{ConversionAnswer, ConversionOperation, Rule};
use crate::msgpack::{Cursor, Token, write};
use crate::reply_decode::{ReplyError, key, stored};
use crate::sink::Sink;

/// What a successful answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConversionExpect {
    /// Nothing beyond the revision.
    Done,
    /// Rules.
    Rules,
    /// A value.
    Converted,
}

impl ConversionOperation {
    /// What a successful answer to this operation looks like.
    pub(crate) fn expects(&self) -> ConversionExpect {
        match self {
            ConversionOperation::Declare(_) | ConversionOperation::Drop { .. } => ConversionExpect::Done,
            ConversionOperation::Rules { .. } => ConversionExpect::Rules,
            ConversionOperation::Convert { .. } => ConversionExpect::Converted,
        }
    }
}

/// Elements of the compact form behind status and revision.
pub(crate) fn compact_length(answer: &ConversionAnswer) -> usize {
    match answer {
        ConversionAnswer::Rules { .. } => 2,
        ConversionAnswer::Converted(_) => 1,
    }
}

pub(crate) fn write_compact(answer: &ConversionAnswer, out: &mut Vec<u8>) {
    let sink = &mut Sink { json: false, comma: false, out };
    match answer {
        ConversionAnswer::Rules { rules, cursor } => {
            write_rules(rules, sink);
            write::optional(sink.out, cursor.as_deref(), write::key);
        }
        ConversionAnswer::Converted(value) => sink.stored(value),
    }
}

/// Fields of the named forms.
pub(crate) fn field_count(answer: &ConversionAnswer) -> usize {
    match answer {
        ConversionAnswer::Rules { cursor, .. } => 1 + usize::from(cursor.is_some()),
        ConversionAnswer::Converted(_) => 1,
    }
}

pub(crate) fn write_fields(answer: &ConversionAnswer, sink: &mut Sink<'_>) {
    match answer {
        ConversionAnswer::Rules { rules, cursor } => {
            sink.name("rules");
            write_rules(rules, sink);
            if let Some(cursor) = cursor {
                sink.name("cursor");
                sink.key(cursor);
            }
        }
        ConversionAnswer::Converted(value) => {
            sink.name("converted");
            sink.stored(value);
        }
    }
}

fn write_rules(rules: &[Rule], sink: &mut Sink<'_>) {
    sink.array(rules.len());
    rules.iter().for_each(|rule| rule.write(sink));
    sink.end_array();
}

pub(crate) fn read_rules(cursor: &mut Cursor<'_>) -> Result<Vec<Rule>, ReplyError> {
    let Token::Array(count) = cursor.token()? else { return Err(ReplyError("no rules".into())) };
    let mut rules = Vec::new();
    for _ in 0..count {
        let rule = Rule::from_record(cursor.raw()?);
        rules.push(rule.map_err(|failure| ReplyError(format!("a rule is none: {}", failure.message)))?);
    }
    Ok(rules)
}

/// Reads what [`write_compact`] wrote.
pub(crate) fn read_compact(cursor: &mut Cursor<'_>, expect: ConversionExpect) -> Result<ConversionAnswer, ReplyError> {
    Ok(match expect {
        ConversionExpect::Rules => ConversionAnswer::Rules { rules: read_rules(cursor)?, cursor: key(cursor)? },
        ConversionExpect::Converted => ConversionAnswer::Converted(stored(cursor)?),
        ConversionExpect::Done => return Err(ReplyError("this answer has nothing more to say".into())),
    })
}
