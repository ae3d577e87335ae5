//! What becomes of a value on its way to a reader who asks for a certain type: MessagePack, JSON, text, CSV lines or bytes.
//!
//! - The original stays as it was written. What is made here is a copy, in the moment in which it is handed out.
//! - Every pair of a value and a type has either one result, or one error that says what can't be said and what to ask for instead.
//!   Nothing is lost silently. What comes back another way than it went is listed in docs/conversion.md, whose tables are made of
//!   this code by its tests.
//! - A conversion is pure and bounded: its result has at most [`limits::VALUE_BYTES_MAX`] bytes, and it does at most
//!   [`limits::CONVERSION_WORK_MAX`] of work with a rule's steps.
//!
//! Caveat: JSON and MessagePack are two ways of writing the same values; how each writes what the other has no form for is `convert.rs`.

mod answers;
mod csv;
mod operation;
mod rule;
mod steps;
mod verbs;

use std::fmt;

use crate::error::{ErrorCode, Failure};
use crate::limits;
use crate::msgpack::{self, Cursor, Token};
use crate::value::{Stored, ValueKind};

pub use answers::ConversionExpect;
pub(crate) use answers::{compact_length, field_count, read_compact, read_rules, write_compact, write_fields};
pub use operation::{ConversionAnswer, ConversionOperation, Converted, Wanted};
#[cfg(test)]
pub(crate) use rule::samples as rule_samples;
pub use rule::{Program, Rule, Source, rule_name};
pub use steps::Steps;
pub(crate) use verbs::{CONVERSION_VERBS, wanted, write_conversion_operation, write_converted};

/// A type that a reader can ask for, and that a value can be said to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentType {
    /// One MessagePack value, as bytes.
    MessagePack,
    /// One JSON text.
    Json,
    /// A text.
    Text,
    /// Lines of comma-separated values, the first with the names of the columns.
    Csv,
    /// Bytes.
    Bytes,
}

impl ContentType {
    /// All of them.
    pub const ALL: [ContentType; 5] =
        [ContentType::MessagePack, ContentType::Json, ContentType::Text, ContentType::Csv, ContentType::Bytes];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            ContentType::MessagePack => "msgpack",
            ContentType::Json => "json",
            ContentType::Text => "text",
            ContentType::Csv => "csv",
            ContentType::Bytes => "bytes",
        }
    }

    /// The media type (RFC 6838) that an item has which was made so.
    pub const fn media_type(self) -> &'static str {
        match self {
            ContentType::MessagePack => "application/msgpack",
            ContentType::Json => "application/json",
            ContentType::Text => "text/plain",
            ContentType::Csv => "text/csv",
            ContentType::Bytes => "application/octet-stream",
        }
    }

    /// What a name means; exact.
    pub fn from_name(name: &str) -> Option<ContentType> {
        ContentType::ALL.into_iter().find(|found| found.name() == name)
    }

    /// What a producer said that its item is: a media type, with parameters or not, or one of our names. None if it is none of these types.
    pub fn from_declared(declared: &str) -> Option<ContentType> {
        let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if let Some(found) = ContentType::from_name(&essence) {
            return Some(found);
        }
        Some(match essence.as_str() {
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => ContentType::MessagePack,
            "application/json" | "text/json" => ContentType::Json,
            other if other.ends_with("+json") => ContentType::Json,
            "text/csv" => ContentType::Csv,
            "text/plain" => ContentType::Text,
            "application/octet-stream" => ContentType::Bytes,
            _ => return None,
        })
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a value can't become what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// Only texts, numbers, booleans, null and bytes that are UTF-8 become text.
    #[error("{0} can't become text; ask for json")]
    NoText(&'static str),
    /// Only bytes and texts become bytes.
    #[error("{0} can't become bytes; ask for msgpack or json")]
    NoBytes(&'static str),
    /// Only maps and arrays of maps become CSV lines.
    #[error("{0} can't become csv, which has lines of named columns; a map can, or an array of maps")]
    NoTable(&'static str),
    /// A field that no cell can hold.
    #[error(
        "{what} can't be a cell of csv, as in row {row}, column {column:?}; a cell is a text, a number, a boolean or null: \
         pick other fields with a rule, or ask for json"
    )]
    NoCell {
        /// What it is.
        what: &'static str,
        /// Which row, counted from 1.
        row: usize,
        /// Which column.
        column: String,
    },
    /// A map without fields makes no line.
    #[error("row {0} has no field, and csv can't say that")]
    EmptyRow(usize),
    /// More columns than are taken.
    #[error("the rows have more than {} columns together", limits::CSV_COLUMNS_MAX)]
    TooWide,
    /// Bytes that are no text.
    #[error("the bytes are not UTF-8, and so no {0}; ask for bytes")]
    NotUtf8(ContentType),
    /// What was said to be JSON is none.
    #[error("it is said to be json, and is not: {0}")]
    NotJson(String),
    /// What was said to be MessagePack is none.
    #[error("it is said to be msgpack, and is not: {0}")]
    NotMessagePack(String),
    /// What was said to be CSV is none.
    #[error("it is said to be csv, and is not: line {line} {what}")]
    NotCsv {
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A rule's steps work on fields.
    #[error("{0} has no fields; a rule's steps take a map, or an array of maps")]
    NoFields(&'static str),
    /// A place in something that is no map.
    #[error("nothing can be put at {0}: what is on the way there is no map")]
    Blocked(String),
    /// A rename to a place where something is.
    #[error("{from} can't be renamed to {to}: there is something already; drop it first")]
    Taken {
        /// The field.
        from: String,
        /// Its new place.
        to: String,
    },
    /// The result is larger than a value can be.
    #[error("the result would have more than {} bytes, the most that a value has", limits::VALUE_BYTES_MAX)]
    TooLarge,
    /// The steps put something deeper than values are nested.
    #[error("the result would be nested deeper than {} levels", limits::DEPTH_MAX)]
    TooDeep,
    /// There are rules for this consumer, and none of them is for this item.
    #[error("no rule for the consumer {0:?} holds for its queue or its subject; declare one, or ask without a consumer")]
    NoRule(String),
    /// The steps have too much to do.
    #[error("the rule's steps have too much to do on a value of this size; use a program for it")]
    TooMuchWork,
}

impl ConversionError {
    /// The stable name, as docs/conversion.md lists it.
    pub const fn name(&self) -> &'static str {
        match self {
            ConversionError::NoText(_) => "no_text",
            ConversionError::NoBytes(_) => "no_bytes",
            ConversionError::NoTable(_) => "no_table",
            ConversionError::NoCell { .. } => "no_cell",
            ConversionError::EmptyRow(_) => "empty_row",
            ConversionError::TooWide => "too_wide",
            ConversionError::NotUtf8(_) => "not_utf8",
            ConversionError::NotJson(_) => "not_json",
            ConversionError::NotMessagePack(_) => "not_msgpack",
            ConversionError::NotCsv { .. } => "not_csv",
            ConversionError::NoFields(_) => "no_fields",
            ConversionError::Blocked(_) => "blocked",
            ConversionError::Taken { .. } => "taken",
            ConversionError::TooLarge => "too_large",
            ConversionError::TooDeep => "too_deep",
            ConversionError::NoRule(_) => "no_rule",
            ConversionError::TooMuchWork => "too_much_work",
        }
    }

    /// As a reply says it of the thing named `what`.
    pub fn of(&self, what: &str) -> Failure {
        Failure::new(ErrorCode::NotConvertible, format!("{what} was not converted ({}): {self}", self.name()))
    }
}

/// What is to be done with a value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversion<'a> {
    /// What a text or bytes value holds; None: a text, or bytes.
    pub from: Option<ContentType>,
    /// What is done with its fields.
    pub steps: Option<&'a Steps>,
    /// What it becomes; None: a value.
    pub to: Option<ContentType>,
}

impl Conversion<'_> {
    /// Makes a copy of the value that is as it was asked for: MessagePack and bytes as bytes, JSON, text and CSV as text.
    ///
    /// # Errors
    /// [`ConversionError`]: the value can't be said so.
    pub fn of(&self, value: &Stored) -> Result<Stored, ConversionError> {
        let steps = self.steps.filter(|steps| !steps.is_empty());
        // A document's text is its text, whatever it says.
        let is_plain = matches!(self.to, Some(ContentType::Text | ContentType::Bytes)) && steps.is_none();
        let read = if is_plain { None } else { self.from.map(|from| read(value, from)).transpose()?.flatten() };
        let value = read.as_ref().unwrap_or(value);
        match steps {
            None => view(value, self.to),
            Some(steps) => view(&steps.apply(value)?, self.to),
        }
    }
}

/// The value that a text or bytes value of this type stands for; None: itself.
fn read(value: &Stored, from: ContentType) -> Result<Option<Stored>, ConversionError> {
    let document = msgpack_of(value);
    let (bytes, is_text) = match head(&document) {
        Token::Str(text) => (text.as_bytes(), true),
        Token::Bin(bytes) => (bytes, false),
        _ => return Ok(None),
    };
    let text = || std::str::from_utf8(bytes).map_err(|_| ConversionError::NotUtf8(from));
    Ok(match from {
        ContentType::Bytes => None,
        ContentType::MessagePack if is_text => None,
        ContentType::MessagePack => {
            Some(Stored::from_msgpack(bytes).map_err(|failure| ConversionError::NotMessagePack(failure.message))?)
        }
        ContentType::Json => {
            Some(Stored::from_json(text()?.as_bytes()).map_err(|failure| ConversionError::NotJson(failure.message))?)
        }
        ContentType::Text if is_text => None,
        ContentType::Text => Some(made(Stored::text(text()?))?),
        ContentType::Csv => {
            let mut table = Vec::new();
            csv::read_table(text()?, &mut table)?;
            Some(made(Stored::checked(ValueKind::MessagePack, &table))?)
        }
    })
}

/// The value as a document of this type.
fn view(value: &Stored, to: Option<ContentType>) -> Result<Stored, ConversionError> {
    let Some(to) = to else { return Ok(value.clone()) };
    if to == ContentType::Json {
        let mut text = Vec::with_capacity(value.document().len() * 2);
        value.write_json(&mut text);
        return made(Stored::text(&String::from_utf8_lossy(&text)));
    }
    let document = msgpack_of(value);
    let token = head(&document);
    match to {
        ContentType::MessagePack | ContentType::Json => made(Stored::bytes(&document)),
        ContentType::Text => match token {
            Token::Str(text) => made(Stored::text(text)),
            Token::Bin(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| ConversionError::NotUtf8(ContentType::Text))?;
                made(Stored::text(text))
            }
            Token::Nil | Token::Bool(_) | Token::UInt(_) | Token::Int(_) => text_of_scalar(value),
            Token::Float(number) if number.is_finite() => text_of_scalar(value),
            Token::Ext(..) if csv::is_number(&document) => text_of_scalar(value),
            other => Err(ConversionError::NoText(kind(other))),
        },
        ContentType::Csv => {
            let mut lines = Vec::new();
            csv::write_table(&document, &mut lines)?;
            made(Stored::text(&String::from_utf8_lossy(&lines)))
        }
        ContentType::Bytes => match token {
            Token::Bin(bytes) => made(Stored::bytes(bytes)),
            Token::Str(text) => made(Stored::bytes(text.as_bytes())),
            other => Err(ConversionError::NoBytes(kind(other))),
        },
    }
}

fn text_of_scalar(value: &Stored) -> Result<Stored, ConversionError> {
    let mut text = Vec::new();
    value.write_json(&mut text);
    made(Stored::text(&String::from_utf8_lossy(&text)))
}

/// The only bound that a value made here can be over is its length.
fn made(value: Result<Stored, Failure>) -> Result<Stored, ConversionError> {
    value.map_err(|_| ConversionError::TooLarge)
}

fn msgpack_of(value: &Stored) -> std::borrow::Cow<'_, [u8]> {
    match value.kind() {
        ValueKind::MessagePack => value.document().into(),
        ValueKind::Json => {
            let mut document = Vec::with_capacity(value.document().len());
            value.write_msgpack(&mut document);
            document.into()
        }
    }
}

/// The first token of a document that was checked when it was stored.
fn head(document: &[u8]) -> Token<'_> {
    Cursor::new(document).token().unwrap_or(msgpack::Token::Nil)
}

/// What a value is, in a sentence.
fn kind(token: Token<'_>) -> &'static str {
    match token {
        Token::Nil => "null",
        Token::Bool(_) => "a boolean",
        Token::UInt(_) | Token::Int(_) => "a number",
        Token::Float(number) if number.is_finite() => "a number",
        Token::Float(_) => "a number that is none or infinite",
        Token::Str(_) => "a text",
        Token::Bin(_) => "bytes",
        Token::Ext(..) => "an extension value",
        Token::Array(_) => "an array",
        Token::Map(_) => "a map",
    }
}
