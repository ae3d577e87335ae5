//! One JSON object read the way a catalog means it: fields in order, the first of
//! two equal names wins.
//!
//! - A catalog puts its own `address`, `lastheardfrom` and `name` *before* the
//!   sender's fields, and a sender may have sent fields of the same names. The
//!   usual maps keep the last one, which is the sender's lie.
//! - Values stay unparsed until somebody asks for one, so a field nobody needs can
//!   be as odd or as deeply nested as it likes.
//! - Numbers may arrive as text (`"port":"9123"`): course servers do that.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Most fields that one object may have; CCTools' own largest records have about 60.
pub const FIELDS_MAX: usize = 512;

/// Why a field could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The object has no such field.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// The field is there with a value of another kind.
    #[error("its `{field}` is not {wanted}")]
    WrongType {
        /// The field's name.
        field: &'static str,
        /// What it should have been, with its article: "a whole number".
        wanted: &'static str,
    },
}

/// The fields of one JSON object, in the order in which they were written.
#[derive(Debug)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// When `text` is not exactly one JSON object or has more than `FIELDS_MAX` fields.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// All fields in order, duplicates included, each with its value as it was written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.get()))
    }

    /// The value of the first field of this name as it was written.
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(have, _)| have == name).map(|(_, value)| value.get())
    }

    /// The first field of this name, when it is text.
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.raw(name)?).ok()
    }

    /// A text field.
    ///
    /// # Errors
    /// When it is absent or not text.
    pub fn need_text(&self, field: &'static str) -> Result<String, FieldError> {
        let raw = self.raw(field).ok_or(FieldError::Missing(field))?;
        serde_json::from_str(raw).map_err(|_| FieldError::WrongType { field, wanted: "text" })
    }

    /// A whole number of at least 0, written as a number or as text; `None` when absent.
    ///
    /// # Errors
    /// When it is there and is not a whole number of at least 0 that fits 64 bits.
    pub fn number(&self, field: &'static str) -> Result<Option<u64>, FieldError> {
        let Some(raw) = self.raw(field) else {
            return Ok(None);
        };
        let text = if raw.starts_with('"') { serde_json::from_str::<String>(raw).ok() } else { Some(raw.to_owned()) };
        text.as_deref().and_then(whole_number).map(Some).ok_or(FieldError::WrongType { field, wanted: "a whole number" })
    }

    /// A whole number of at least 0, written as a number or as text.
    ///
    /// # Errors
    /// When it is absent or not such a number.
    pub fn need_number(&self, field: &'static str) -> Result<u64, FieldError> {
        self.number(field)?.ok_or(FieldError::Missing(field))
    }
}

/// `9123`, `9123.0` and `9.123e3` are the same whole number; `-1`, `1.5` and `x` are none.
fn whole_number(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<u64>() {
        return Some(number);
    }
    // What is left may be a float; only those that are exactly an integer count.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let float: f64 = text.parse().ok()?;
    let is_whole = float.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&float);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    is_whole.then_some(float as u64)
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    if fields.len() == FIELDS_MAX {
                        return Err(A::Error::custom(format_args!("it has more than {FIELDS_MAX} fields")));
                    }
                    fields.push((entry.0.0, entry.1));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// A field's name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// JSON text without the white space between its tokens; `json` must be valid JSON.
///
/// A stored record written this way is one line, so that a reader of a damaged
/// listing can find the records again line by line.
pub fn compact_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut in_text = false;
    let mut escaped = false;
    for c in json.chars() {
        if in_text {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_text = false,
                _ => {}
            }
        } else if !matches!(c, ' ' | '\t' | '\r' | '\n') {
            in_text = c == '"';
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_of_two_equal_names_wins() {
        let fields = Fields::parse(r#"{"a":1,"b":"x","a":2}"#).unwrap();
        assert_eq!(fields.need_number("a").unwrap(), 1);
        assert_eq!(fields.iter().count(), 3);
    }

    #[test]
    fn escaped_names_are_the_same_names() {
        let fields = Fields::parse(r#"{"ty\u0070e":"hashtable"}"#).unwrap();
        assert_eq!(fields.text("type").as_deref(), Some("hashtable"));
    }

    #[test]
    fn numbers_may_come_as_text_or_as_whole_floats() {
        let fields = Fields::parse(r#"{"a":"12","b":12.0,"c":-1,"d":1.5,"e":"x","f":null,"g":1e300}"#).unwrap();
        assert_eq!(fields.number("a").unwrap(), Some(12));
        assert_eq!(fields.number("b").unwrap(), Some(12));
        assert_eq!(fields.number("absent").unwrap(), None);
        for odd in ["c", "d", "e", "f", "g"] {
            assert!(fields.number(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_deep_value_that_nobody_asks_for_does_no_harm() {
        let deep = format!(r#"{{"deep":{}{},"port":1}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let fields = Fields::parse(&deep).unwrap();
        assert_eq!(fields.need_number("port").unwrap(), 1);
        assert_eq!(fields.text("deep"), None);
    }

    #[test]
    fn too_many_fields_are_refused() {
        let many: Vec<String> = (0..=FIELDS_MAX).map(|i| format!("\"k{i}\":0")).collect();
        assert!(Fields::parse(&format!("{{{}}}", many.join(","))).is_err());
    }

    #[test]
    fn compacting_keeps_text_and_drops_space() {
        assert_eq!(compact_json("{ \"a b\" : [ 1 ,\n\t\"x \\\" y\" ] }"), r#"{"a b":[1,"x \" y"]}"#);
    }
}
