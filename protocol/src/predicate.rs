//! The query predicate: a dictionary value whose field equals an atomic value.

use std::cmp::Ordering;

use crate::error::Failure;
use crate::json::{self, Token as Json, Walker};
use crate::msgpack::{Cursor, Token as Pack};
use crate::value::ValueKind;
use crate::{convert, limits, msgpack};

/// An atomic value to compare with: JSON-typed, so 100 equals 100.0 and not "100".
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// null.
    Null,
    /// true or false.
    Bool(bool),
    /// Any 64-bit integer, signed or not.
    Int(i128),
    /// A double.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Scalar {
    /// The atomic value of a MessagePack document; `invalid` for arrays, maps and extensions.
    pub fn from_msgpack(document: &[u8]) -> Result<Scalar, Failure> {
        msgpack::check(document, limits::DEPTH_MAX).map_err(|error| Failure::invalid(error.to_string()))?;
        let token = Cursor::new(document).token().map_err(|error| Failure::invalid(error.to_string()))?;
        Scalar::of_token(token)
            .ok_or_else(|| Failure::invalid("a field is compared with null, a boolean, a number, a text or bytes"))
    }

    /// The atomic value of a JSON text; `invalid` for arrays and objects other than `{"$bytes":…}` and `{"$float":…}`.
    pub fn from_json(text: &str) -> Result<Scalar, Failure> {
        json::check(text.as_bytes(), limits::DEPTH_MAX)?;
        let mut document = Vec::new();
        convert::stored_json_to_msgpack(text.as_bytes(), &mut document);
        Scalar::from_msgpack(&document)
    }

    fn of_token(token: Pack<'_>) -> Option<Scalar> {
        Some(match token {
            Pack::Nil => Scalar::Null,
            Pack::Bool(value) => Scalar::Bool(value),
            Pack::UInt(value) => Scalar::Int(i128::from(value)),
            Pack::Int(value) => Scalar::Int(i128::from(value)),
            Pack::Float(value) => Scalar::Float(value),
            Pack::Str(text) => Scalar::Text(text.to_owned()),
            Pack::Bin(bytes) => Scalar::Bytes(bytes.to_owned()),
            Pack::Ext(..) | Pack::Array(_) | Pack::Map(_) => return None,
        })
    }

    fn equals(&self, other: &Scalar) -> bool {
        match (self, other) {
            (Scalar::Int(int), Scalar::Float(float)) | (Scalar::Float(float), Scalar::Int(int)) => {
                compare_int_float(*int, *float) == Some(Ordering::Equal)
            }
            _ => self == other,
        }
    }

    /// The value as a MessagePack document.
    pub fn write_msgpack(&self, out: &mut Vec<u8>) {
        use msgpack::write;
        match self {
            Scalar::Null => write::nil(out),
            Scalar::Bool(value) => write::boolean(out, *value),
            Scalar::Int(value) => write::integer(out, *value),
            Scalar::Float(value) => write::float(out, *value),
            Scalar::Text(text) => write::text(out, text),
            Scalar::Bytes(bytes) => write::bytes(out, bytes),
        }
    }
}

/// Exact: a double of 2^53 and the integer 2^53 + 1 differ.
pub(crate) fn compare_int_float(int: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // Doubles from ±2^64 on are outside what `int` holds here; `as` saturates, so they compare as unequal.
    let whole = float.trunc();
    Some(int.cmp(&(whole as i128)).then(0.0.partial_cmp(&(float - whole)).unwrap_or(Ordering::Equal)))
}

/// True when a stored value (type byte, document) is a dictionary (map or object) whose field `name` is an atomic value equal to
/// `wanted`.
pub fn field_equals(stored: &[u8], name: &str, wanted: &Scalar) -> bool {
    const MESSAGE_PACK: u8 = ValueKind::MessagePack as u8;
    const JSON: u8 = ValueKind::Json as u8;
    let found = match stored.split_first() {
        Some((&MESSAGE_PACK, document)) => msgpack_field(document, name),
        Some((&JSON, document)) => json_field(document, name),
        _ => None,
    };
    found.is_some_and(|found| found.equals(wanted))
}

fn msgpack_field(document: &[u8], name: &str) -> Option<Scalar> {
    let mut cursor = Cursor::new(document);
    let Pack::Map(length) = cursor.token().ok()? else { return None };
    for _ in 0..length {
        let key_at = cursor.offset();
        if cursor.token().ok()? == Pack::Str(name) {
            return Scalar::of_token(cursor.token().ok()?);
        }
        cursor.seek(key_at);
        cursor.raw().ok()?;
        cursor.raw().ok()?;
    }
    None
}

fn json_field(document: &[u8], name: &str) -> Option<Scalar> {
    let text = std::str::from_utf8(document).ok()?;
    let mut walker = Walker::new(text);
    if walker.token().ok()? != Json::Object {
        return None;
    }
    let mut is_first = true;
    while let Some(found) = walker.next_field().ok()? {
        let value = walker.raw().ok()?;
        if is_first && found.starts_with('$') && walker.at_object_end() {
            // Perhaps an escape, which has other fields than it shows, or none.
            let mut converted = Vec::new();
            convert::stored_json_to_msgpack(document, &mut converted);
            return msgpack_field(&converted, name);
        }
        is_first = false;
        if found == name {
            // An escape such as {"$bytes":…} is atomic; other containers are not.
            let mut document = Vec::new();
            convert::stored_json_to_msgpack(value.as_bytes(), &mut document);
            return Scalar::of_token(Cursor::new(&document).token().ok()?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::value::Stored;

    fn matches(value: &str, name: &str, wanted: &str) -> bool {
        let wanted = Scalar::from_json(wanted).unwrap();
        let as_json = Stored::from_json(value.as_bytes()).unwrap();
        let as_pack = Stored::from_msgpack(&convert::json_to_msgpack(value.as_bytes()).unwrap()).unwrap();
        let found = field_equals(as_json.as_bytes(), name, &wanted);
        assert_eq!(found, field_equals(as_pack.as_bytes(), name, &wanted), "{value}");
        found
    }

    #[test]
    fn compares_json_typed() {
        let zebra = r#"{"weight":100,"stripes":true,"name":"z","part":{"x":1},"none":null,"raw":{"$bytes":"AP8="}}"#;
        assert!(matches(zebra, "weight", "100"));
        assert!(matches(zebra, "weight", "100.0"));
        assert!(matches(zebra, "weight", "1e2"));
        assert!(!matches(zebra, "weight", "\"100\""));
        assert!(!matches(zebra, "weight", "100.5"));
        assert!(!matches(zebra, "weight", "-100"));
        assert!(matches(zebra, "stripes", "true"));
        assert!(!matches(zebra, "stripes", "1"));
        assert!(matches(zebra, "name", "\"z\""));
        assert!(matches(zebra, "none", "null"));
        assert!(!matches(zebra, "absent", "null"));
        assert!(matches(zebra, "raw", r#"{"$bytes":"AP8="}"#));
        assert!(!matches(zebra, "part", "1"));
        assert!(!matches("[1]", "weight", "1"));
        assert!(!matches("7", "weight", "7"));
    }

    #[test]
    fn a_json_escape_is_queried_as_what_it_stands_for() {
        assert!(!matches(r#"{"$bytes":"AP8="}"#, "$bytes", "\"AP8=\""));
        assert!(matches(r#"{"$map":[["weight",100],[1,2]]}"#, "weight", "100"));
        assert!(!matches(r#"{"$map":[["weight",100],[1,2]]}"#, "$map", "100"));
        assert!(matches(r#"{"$$bytes":5}"#, "$bytes", "5"));
        assert!(matches(r#"{"$ref":5}"#, "$ref", "5"));
        assert!(matches(r#"{"$bytes":5,"b":1}"#, "$bytes", "5"));
    }

    #[test]
    fn integers_and_doubles_compare_exactly() {
        let big = r#"{"n":9007199254740993}"#;
        assert!(!matches(big, "n", "9007199254740992.0"));
        assert!(matches(big, "n", "9007199254740993"));
        assert!(!matches(r#"{"n":18446744073709551615}"#, "n", "18446744073709551616.0"));
        assert!(!matches(r#"{"n":{"$float":"nan"}}"#, "n", r#"{"$float":"nan"}"#));
    }

    #[test]
    fn only_atoms_are_compared_with() {
        assert!(Scalar::from_json("[1]").is_err());
        assert!(Scalar::from_json("{}").is_err());
    }
}
