//! Atomic values: what a query and a predicate compare with, and the query's one comparison.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::path::{self, Found, Part, Paths};
use crate::convert::{self, Number};
use crate::error::Failure;
use crate::msgpack::{Cursor, Token as Pack};
use crate::{json, limits, msgpack};

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
        Atom::of_pack(token)
            .map(Atom::into_scalar)
            .ok_or_else(|| Failure::invalid("a field is compared with null, a boolean, a number, a text or bytes"))
    }

    /// The atomic value of a JSON text; `invalid` for arrays and objects other than `{"$bytes":…}` and `{"$float":…}`.
    pub fn from_json(text: &str) -> Result<Scalar, Failure> {
        json::check(text.as_bytes(), limits::DEPTH_MAX)?;
        let mut document = Vec::new();
        convert::stored_json_to_msgpack(text.as_bytes(), &mut document);
        Scalar::from_msgpack(&document)
    }

    /// The value of a JSON number's text; None if neither a 64-bit integer nor a double holds it.
    pub(crate) fn from_number(text: &str) -> Option<Scalar> {
        Atom::of_number(text).map(Atom::into_scalar)
    }

    /// The same, borrowed.
    pub(crate) fn atom(&self) -> Atom<'_> {
        match self {
            Scalar::Null => Atom::Null,
            Scalar::Bool(value) => Atom::Bool(*value),
            Scalar::Int(value) => Atom::Int(*value),
            Scalar::Float(value) => Atom::Float(*value),
            Scalar::Text(text) => Atom::Text(Cow::Borrowed(text)),
            Scalar::Bytes(bytes) => Atom::Bytes(Cow::Borrowed(bytes)),
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

/// An atomic value where it stands in a document; a copy only where the document says it in another way.
#[derive(Clone, Debug)]
pub(crate) enum Atom<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl<'a> Atom<'a> {
    /// None for arrays, maps and extensions, which are no atoms.
    pub(crate) fn of_pack(token: Pack<'a>) -> Option<Atom<'a>> {
        Some(match token {
            Pack::Nil => Atom::Null,
            Pack::Bool(value) => Atom::Bool(value),
            Pack::UInt(value) => Atom::Int(i128::from(value)),
            Pack::Int(value) => Atom::Int(i128::from(value)),
            Pack::Float(value) => Atom::Float(value),
            Pack::Str(text) => Atom::Text(Cow::Borrowed(text)),
            Pack::Bin(bytes) => Atom::Bytes(Cow::Borrowed(bytes)),
            Pack::Ext(..) | Pack::Array(_) | Pack::Map(_) => return None,
        })
    }

    /// None for what MessagePack holds as an extension: a number that is neither a 64-bit integer nor a double.
    pub(crate) fn of_number(text: &str) -> Option<Atom<'static>> {
        Some(match convert::read_number(text) {
            Number::UInt(value) => Atom::Int(i128::from(value)),
            Number::Int(value) => Atom::Int(i128::from(value)),
            Number::Float(value) => Atom::Float(value),
            Number::Text => return None,
        })
    }

    pub(crate) fn into_scalar(self) -> Scalar {
        match self {
            Atom::Null => Scalar::Null,
            Atom::Bool(value) => Scalar::Bool(value),
            Atom::Int(value) => Scalar::Int(value),
            Atom::Float(value) => Scalar::Float(value),
            Atom::Text(text) => Scalar::Text(text.into_owned()),
            Atom::Bytes(bytes) => Scalar::Bytes(bytes.into_owned()),
        }
    }

    /// The same, with what it borrows copied.
    pub(crate) fn into_static(self) -> Atom<'static> {
        match self {
            Atom::Null => Atom::Null,
            Atom::Bool(value) => Atom::Bool(value),
            Atom::Int(value) => Atom::Int(value),
            Atom::Float(value) => Atom::Float(value),
            Atom::Text(text) => Atom::Text(Cow::Owned(text.into_owned())),
            Atom::Bytes(bytes) => Atom::Bytes(Cow::Owned(bytes.into_owned())),
        }
    }

    /// How two values of one type stand to each other: numbers by value and exactly, texts and bytes by their bytes. None where they
    /// are of different types, and for NaN.
    pub(crate) fn compare(&self, other: &Atom<'_>) -> Option<Ordering> {
        match (self, other) {
            (Atom::Null, Atom::Null) => Some(Ordering::Equal),
            (Atom::Bool(one), Atom::Bool(other)) => Some(one.cmp(other)),
            (Atom::Int(one), Atom::Int(other)) => Some(one.cmp(other)),
            (Atom::Float(one), Atom::Float(other)) => one.partial_cmp(other),
            (Atom::Int(int), Atom::Float(float)) => compare_int_float(*int, *float),
            (Atom::Float(float), Atom::Int(int)) => compare_int_float(*int, *float).map(Ordering::reverse),
            (Atom::Text(one), Atom::Text(other)) => Some(one.as_bytes().cmp(other.as_bytes())),
            (Atom::Bytes(one), Atom::Bytes(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }
}

/// The path of one name.
struct OneField<'n>(&'n str);

impl Paths for OneField<'_> {
    fn count(&self) -> usize {
        1
    }

    fn part(&self, _: usize, depth: usize) -> Option<Part<'_>> {
        (depth == 0).then_some(Part::Name(self.0))
    }
}

/// True when a stored value (type byte, document) is a dictionary (map or object) whose field `name` is an atomic value equal to
/// `wanted`.
pub fn field_equals(stored: &[u8], name: &str, wanted: &Scalar) -> bool {
    match path::find(stored, &OneField(name)).found.pop() {
        Some(Some(Found::Atom(atom))) => atom.compare(&wanted.atom()) == Some(Ordering::Equal),
        _ => false,
    }
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
