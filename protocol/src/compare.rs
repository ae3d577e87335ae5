//! When two stored values are the same, in whichever encodings they were written.
//!
//! - Numbers are compared by value (100 equals 100.0), as queries do; NaN equals itself here, or a value could never be replaced
//!   under a condition.
//! - Maps are compared without order, everything else as it stands.

use std::cmp::Ordering;

use crate::msgpack::{Cursor, Malformed, Token};
use crate::predicate::compare_int_float;
use crate::value::{Stored, ValueKind};

/// True when both values say the same.
pub fn same_value(left: &[u8], right: &[u8]) -> bool {
    if left == right {
        return true;
    }
    // Told apart without a look at the rest: one of them may have megabytes.
    if let (Some(one), Some(other)) = (Shape::of(left), Shape::of(right))
        && one != other
    {
        return false;
    }
    let (Some(left), Some(right)) = (as_msgpack(left), as_msgpack(right)) else { return false };
    same(&mut Cursor::new(&left), &mut Cursor::new(&right)).unwrap_or(false)
}

/// What the first byte says of a value. An object in JSON may be an escape for anything and has none.
#[derive(PartialEq, Eq)]
enum Shape {
    Nil,
    Boolean,
    Number,
    Text,
    Bytes,
    Array,
    Map,
}

impl Shape {
    fn of(stored: &[u8]) -> Option<Shape> {
        let (&kind, document) = stored.split_first()?;
        let first = *document.first()?;
        if kind == ValueKind::Json as u8 {
            return match first {
                b'n' => Some(Shape::Nil),
                b't' | b'f' => Some(Shape::Boolean),
                b'-' | b'0'..=b'9' => Some(Shape::Number),
                b'"' => Some(Shape::Text),
                b'[' => Some(Shape::Array),
                _ => None,
            };
        }
        match first {
            0xc0 => Some(Shape::Nil),
            0xc2 | 0xc3 => Some(Shape::Boolean),
            0x00..=0x7f | 0xca..=0xd3 | 0xe0..=0xff => Some(Shape::Number),
            0xa0..=0xbf | 0xd9..=0xdb => Some(Shape::Text),
            0xc4..=0xc6 => Some(Shape::Bytes),
            0x90..=0x9f | 0xdc | 0xdd => Some(Shape::Array),
            0x80..=0x8f | 0xde | 0xdf => Some(Shape::Map),
            // An extension may be a large number.
            _ => None,
        }
    }
}

/// The integer that a stored value is, if it is one.
pub fn integer_of(stored: &[u8]) -> Option<i128> {
    /// No integer in JSON that MessagePack can say has more digits.
    const TEXT_MAX: usize = 32;
    let (&kind, document) = stored.split_first()?;
    let converted;
    let document = if kind == ValueKind::Json as u8 {
        if document.len() > TEXT_MAX {
            return None;
        }
        converted = as_msgpack(stored)?;
        &converted
    } else {
        document
    };
    match Cursor::new(document).token().ok()? {
        Token::UInt(value) => Some(i128::from(value)),
        Token::Int(value) => Some(i128::from(value)),
        _ => None,
    }
}

fn as_msgpack(stored: &[u8]) -> Option<Vec<u8>> {
    let mut document = Vec::with_capacity(stored.len());
    Stored::from_bytes(stored.to_vec())?.write_msgpack(&mut document);
    Some(document)
}

fn same(left: &mut Cursor<'_>, right: &mut Cursor<'_>) -> Result<bool, Malformed> {
    let (one, other) = (left.token()?, right.token()?);
    Ok(match (one, other) {
        (Token::Array(length), Token::Array(other)) => {
            let mut equal = length == other;
            for _ in 0..length {
                equal = equal && same(left, right)?;
            }
            equal
        }
        (Token::Map(length), Token::Map(other)) => length == other && same_entries(left, right, length)?,
        _ => same_scalar(one, other),
    })
}

/// Entries in the order of their keys' bytes are compared pair by pair. Keys of one value are unique, and a key has one shortest
/// form in what we convert; a key written in a longer form than needed is found by its value.
fn same_entries(left: &mut Cursor<'_>, right: &mut Cursor<'_>, length: usize) -> Result<bool, Malformed> {
    let (mut one, mut other) = (entries(left, length)?, entries(right, length)?);
    one.sort_unstable();
    other.sort_unstable();
    for ((key, value), (other_key, other_value)) in one.into_iter().zip(other) {
        if key != other_key || !same(&mut Cursor::new(value), &mut Cursor::new(other_value))? {
            return Ok(false);
        }
    }
    Ok(true)
}

type Entry<'a> = (Vec<u8>, &'a [u8]);

fn entries<'a>(cursor: &mut Cursor<'a>, length: usize) -> Result<Vec<Entry<'a>>, Malformed> {
    let mut entries = Vec::new();
    for _ in 0..length {
        let key = cursor.raw()?;
        entries.push((shortest(key)?, cursor.raw()?));
    }
    Ok(entries)
}

/// A scalar key in its shortest form; a container as it stands.
fn shortest(key: &[u8]) -> Result<Vec<u8>, Malformed> {
    use crate::msgpack::write;
    let mut out = Vec::with_capacity(key.len());
    match Cursor::new(key).token()? {
        Token::Nil => write::nil(&mut out),
        Token::Bool(value) => write::boolean(&mut out, value),
        Token::UInt(value) => write::uint(&mut out, value),
        Token::Int(value) => write::int(&mut out, value),
        Token::Float(value) => write::float(&mut out, value),
        Token::Str(text) => write::text(&mut out, text),
        Token::Bin(bytes) => write::bytes(&mut out, bytes),
        Token::Ext(kind, bytes) => write::ext(&mut out, kind, bytes),
        Token::Array(_) | Token::Map(_) => out.extend_from_slice(key),
    }
    Ok(out)
}

fn same_scalar(one: Token<'_>, other: Token<'_>) -> bool {
    let int = |token| match token {
        Token::UInt(value) => Some(i128::from(value)),
        Token::Int(value) => Some(i128::from(value)),
        _ => None,
    };
    match (one, other) {
        (Token::Float(one), Token::Float(other)) => one == other || (one.is_nan() && other.is_nan()),
        (Token::Float(float), token) | (token, Token::Float(float)) => {
            int(token).is_some_and(|int| compare_int_float(int, float) == Some(Ordering::Equal))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn json(text: &str) -> Stored {
        Stored::from_json(text.as_bytes()).unwrap()
    }

    fn pack(text: &str) -> Stored {
        Stored::from_msgpack(&crate::json_to_msgpack(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn the_same_is_the_same_in_either_encoding() {
        let cases = [
            (r#"{"a":1,"b":[2,"x"]}"#, r#"{ "b":[2.0,"x"], "a":1 }"#, true),
            ("100", "100.0", true),
            ("100", "\"100\"", false),
            ("9007199254740993", "9007199254740992.0", false),
            (r#"{"$float":"nan"}"#, r#"{"$float":"nan"}"#, true),
            (r#"{"$bytes":"AP8="}"#, r#"{"$bytes":"AP8="}"#, true),
            ("[1,2]", "[1]", false),
            ("[1,2]", "[2,1]", false),
            (r#"{"a":1}"#, r#"{"b":1}"#, false),
            ("null", "false", false),
        ];
        for (left, right, expected) in cases {
            for (left, right) in [(json(left), json(right)), (json(left), pack(right)), (pack(right), pack(left))] {
                assert_eq!(same_value(left.as_bytes(), right.as_bytes()), expected, "{left:?} {right:?}");
            }
        }
    }

    #[test]
    fn integers_are_known_in_either_encoding() {
        assert_eq!(integer_of(json("18446744073709551615").as_bytes()), Some(u64::MAX.into()));
        assert_eq!(integer_of(pack("-7").as_bytes()), Some(-7));
        for other in ["5.0", "\"5\"", "18446744073709551616", "[5]", "null"] {
            assert_eq!(integer_of(json(other).as_bytes()), None, "{other}");
        }
    }
}
