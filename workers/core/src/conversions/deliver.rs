//! Handing out values as their reader wants them.
//!
//! - The rule is chosen for each key and each item, among those for the reader's consumer or type: first one of the place where it lies, a
//!   prefix of keys or a queue, then one of its subject. Without a rule a type is made by itself; a consumer without a rule is refused, as
//!   nobody has said what it gets.
//! - A page ends where its values, as they are handed out, are too many bytes, or the turn's work is used up. What comes next is had by its
//!   cursor; one value always fits.
//! - A read is refused at the first value that can't become what was asked for, with its key. Items of a pull are `queues/convert.rs`'s matter.

use kvbroker_protocol::{
    Answer, ContentType, Conversion, ConversionError, Converted, ErrorCode, Failure, Found, Key, Operation, QueueAnswer,
    QueueOperation, RETAINED_PREFIX, Row, Rule, Source, Stored, Wanted, key_to_line_text, limits,
};

use super::Rules;
use super::subjects::Patterns;
use crate::decide::{Turn, operate};
use crate::overlay::Overlay;

/// What there is to choose from for one reader.
pub(crate) struct Chooser<'a> {
    wanted: &'a Wanted,
    /// Those of keys and queues, in the order in which they hold.
    rules: Vec<&'a Rule>,
    /// Those of subjects.
    subjects: Option<&'a Patterns>,
}

/// What becomes of the items of one queue.
#[derive(Clone, Copy)]
pub(crate) struct ItemConversion<'a> {
    wanted: &'a Wanted,
    /// The queue's rule.
    rule: Option<&'a Rule>,
    /// Where it has none.
    subjects: Option<&'a Patterns>,
}

/// Rules that are looked at for one unit of the turn's work.
const RULES_PER_UNIT: usize = 8;

impl<'a> Chooser<'a> {
    pub(crate) fn new(rules: &'a Rules, wanted: &'a Wanted) -> Chooser<'a> {
        let subjects = rules.subjects.for_wanted(wanted);
        let of_places = rules.by_name.values().map(|rule| &**rule).filter(|rule| !matches!(rule.source, Source::Subject(_)));
        let mut rules: Vec<&Rule> = of_places.filter(|rule| rule.is_for(wanted.to, wanted.consumer.as_deref())).collect();
        rules.sort_by(|one, other| one.rank().cmp(&other.rank()));
        Chooser { wanted, rules, subjects }
    }

    fn refused(consumer: &str, what: &str) -> Failure {
        let message = format!("no rule says what the consumer {consumer:?} gets of {what}; declare one, or leave it out");
        Failure::new(ErrorCode::NotConvertible, message)
    }

    /// What becomes of the items of a queue.
    ///
    /// # Errors
    /// `not_convertible` if the consumer has a rule neither for the queue nor for any subject.
    pub(crate) fn for_queue(&self, queue: &[u8]) -> Result<ItemConversion<'a>, Failure> {
        let rule = self.rules.iter().copied().find(|rule| matches!(&rule.source, Source::Queue(own) if own == queue));
        match (rule, self.subjects, &self.wanted.consumer) {
            (None, None, Some(consumer)) => Err(Chooser::refused(consumer, &format!("the queue {}", shown(queue)))),
            _ => Ok(ItemConversion { wanted: self.wanted, rule, subjects: self.subjects }),
        }
    }

    /// The value as it is handed out.
    fn of_key(&self, key: &[u8], value: &Stored, turn: &mut Turn) -> Result<Stored, Failure> {
        turn.work_left = turn.work_left.saturating_sub(self.rules.len() / RULES_PER_UNIT);
        let of_prefix = |rule: &&Rule| matches!(&rule.source, Source::Prefix(prefix) if key.starts_with(prefix));
        let rule = self.rules.iter().copied().find(of_prefix).or_else(|| {
            // A value that is retained is about its subject.
            let subject = key.strip_prefix(RETAINED_PREFIX)?;
            self.subjects?.of(subject, turn)
        });
        if let (None, Some(consumer)) = (rule, &self.wanted.consumer) {
            return Err(Chooser::refused(consumer, &format!("the key {}", shown(key))));
        }
        let conversion = conversion_by(rule, self.wanted.to);
        convert(&conversion, value, turn).map_err(|error| error.of(&format!("the value of {}", shown(key))))
    }
}

/// What a rule does for whoever asks for this type; without a rule the type is all.
fn conversion_by(rule: Option<&Rule>, to: Option<ContentType>) -> Conversion<'_> {
    Conversion {
        from: rule.and_then(|rule| rule.from),
        steps: rule.map(|rule| &rule.steps),
        to: to.or(rule.and_then(|rule| rule.to)),
    }
}

impl ItemConversion<'_> {
    /// An item's value as it is handed out, and what it is then. A copy of a message has a subject.
    ///
    /// # Errors
    /// [`ConversionError`]: it can't become that.
    pub(crate) fn of(
        &self,
        value: &Stored,
        declared: Option<&str>,
        subject: Option<&[u8]>,
        turn: &mut Turn,
    ) -> Result<(Stored, Option<String>), ConversionError> {
        let rule = self.rule.or_else(|| self.subjects?.of(subject?, turn));
        if let (None, Some(consumer)) = (rule, &self.wanted.consumer) {
            return Err(ConversionError::NoRule(consumer.clone()));
        }
        let Conversion { from, steps, to } = conversion_by(rule, self.wanted.to);
        let from = declared.and_then(ContentType::from_declared).or(from);
        let made = convert(&Conversion { from, steps, to }, value, turn)?;
        Ok((made, to.map(|to| to.media_type().to_owned())))
    }
}

/// Bytes of a key that a sentence shows.
const SHOWN_BYTES: usize = 64;

fn shown(key: &[u8]) -> String {
    let mut text = Vec::new();
    key_to_line_text(&mut text, key.get(..SHOWN_BYTES).unwrap_or(key));
    format!("'{}{}'", String::from_utf8_lossy(&text), if key.len() > SHOWN_BYTES { "…" } else { "" })
}

pub(super) fn used_up() -> Failure {
    let message = "this array has used up its turn, or its reply is full; ask for this operation in a message of its own";
    Failure::new(ErrorCode::ReplyFull, message)
}

/// Converts, and counts it.
pub(super) fn convert(conversion: &Conversion<'_>, value: &Stored, turn: &mut Turn) -> Result<Stored, ConversionError> {
    let steps = conversion.steps.map_or(0, |steps| steps.len());
    let made = conversion.of(value);
    let bytes = value.document().len() + made.as_ref().map_or(0, |made| made.document().len());
    // Each step may pass over all of it; it does at most so much.
    let stepping = (steps * value.document().len() / limits::CONVERSION_BYTES_PER_UNIT).min(limits::CONVERSION_WORK_MAX);
    turn.work_left = turn.work_left.saturating_sub(1 + bytes / limits::CONVERSION_BYTES_PER_UNIT + stepping);
    made
}

/// A read, or a pull, whose values are converted.
pub(crate) fn converted(overlay: &mut Overlay<'_>, converted: Converted, turn: &mut Turn) -> Result<Answer, Failure> {
    // One message's conversions stop here; a message of its own always gets on.
    if turn.is_used_up() {
        return Err(used_up());
    }
    let Converted { operation, wanted } = converted;
    let rules = overlay.rules();
    let chooser = Chooser::new(rules, &wanted);
    match operation {
        Operation::Queue(queue) => match *queue {
            QueueOperation::Pull(pull) => {
                let conversion = chooser.for_queue(&pull.queue)?;
                overlay.pull_converted(&pull, conversion, turn)
            }
            other => {
                let conversion = other.queue().map(|queue| chooser.for_queue(queue)).transpose()?;
                let answer = overlay.queue(other, turn)?;
                conversion.map_or(Ok(answer.clone()), |conversion| convert_items(answer, conversion, turn))
            }
        },
        Operation::Get { key } => {
            let answer = operate(overlay, Operation::Get { key: key.clone() }, turn)?;
            let Answer::Value { value, modified, created } = answer else { return Ok(answer) };
            let made = chooser.of_key(&key, &value, turn)?;
            take_more(&value, &made, turn)?;
            Ok(Answer::Value { value: made, modified, created })
        }
        Operation::Mget { keys } => {
            let answer = operate(overlay, Operation::Mget { keys: keys.clone() }, turn)?;
            convert_found(&chooser, &keys, answer, turn)
        }
        page => {
            let answer = operate(overlay, page, turn)?;
            convert_page_by(&chooser, answer, turn)
        }
    }
}

/// Counts what a value has become larger by, which its read has not counted.
fn take_more(before: &Stored, made: &Stored, turn: &mut Turn) -> Result<(), Failure> {
    let more = made.document().len().saturating_sub(before.document().len());
    if turn.take_reply_bytes(more) { Ok(()) } else { Err(used_up()) }
}

fn convert_found(chooser: &Chooser<'_>, keys: &[Key], mut answer: Answer, turn: &mut Turn) -> Result<Answer, Failure> {
    let Answer::Values(values) = &mut answer else { return Ok(answer) };
    let mut bytes_left = limits::ARRAY_REPLY_BYTES_MAX;
    for (key, found) in keys.iter().zip(values) {
        let Some(Found { value, .. }) = found else { continue };
        if turn.is_used_up() {
            let message = "to convert all these values takes more than a turn; ask for fewer keys at once";
            return Err(Failure::new(ErrorCode::ReplyFull, message));
        }
        let made = chooser.of_key(key, value, turn)?;
        take_more(value, &made, turn)?;
        bytes_left = bytes_left.checked_sub(made.document().len()).ok_or_else(used_up)?;
        *value = made;
    }
    Ok(answer)
}

/// A page of a snapshot, its values converted.
pub(crate) fn convert_page(rules: &Rules, wanted: &Wanted, answer: Answer, turn: &mut Turn) -> Result<Answer, Failure> {
    convert_page_by(&Chooser::new(rules, wanted), answer, turn)
}

fn convert_page_by(chooser: &Chooser<'_>, mut answer: Answer, turn: &mut Turn) -> Result<Answer, Failure> {
    let Answer::Rows { rows, cursor, .. } = &mut answer else { return Ok(answer) };
    let mut bytes_left = limits::PAGE_BYTES_MAX;
    let mut kept = 0;
    for Row { key, value, .. } in rows.iter_mut() {
        if kept > 0 && turn.is_used_up() {
            break;
        }
        let made = chooser.of_key(key, value, turn)?;
        let bytes = made.document().len();
        if kept > 0 && (bytes > bytes_left || take_more(value, &made, turn).is_err()) {
            break;
        }
        bytes_left = bytes_left.saturating_sub(bytes);
        *value = made;
        kept += 1;
    }
    if kept < rows.len() {
        rows.truncate(kept);
        *cursor = rows.last().map(|row| row.key.clone());
    }
    Ok(answer)
}

fn convert_items(mut answer: Answer, conversion: ItemConversion<'_>, turn: &mut Turn) -> Result<Answer, Failure> {
    let Answer::Queue(QueueAnswer::Peeked { items, cursor }) = &mut answer else { return Ok(answer) };
    let mut bytes_left = limits::PAGE_BYTES_MAX;
    let mut kept = 0;
    for item in items.iter_mut() {
        if kept > 0 && turn.is_used_up() {
            break;
        }
        let made = conversion.of(&item.value, item.content_type.as_deref(), item.subject.as_deref(), turn);
        let (made, content_type) = made.map_err(|error| error.of(&format!("the item {}", item.item)))?;
        let bytes = made.document().len();
        if kept > 0 && (bytes > bytes_left || take_more(&item.value, &made, turn).is_err()) {
            break;
        }
        bytes_left = bytes_left.saturating_sub(bytes);
        (item.value, item.content_type) = (made, content_type);
        kept += 1;
    }
    if kept < items.len() {
        items.truncate(kept);
        *cursor = items.last().map(|item| item.item);
    }
    Ok(answer)
}
