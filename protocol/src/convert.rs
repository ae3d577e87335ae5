//! The conversion table between MessagePack and JSON. Nothing is lost silently in either direction.
//!
//! | MessagePack | JSON |
//! |---|---|
//! | nil, bool, str, array, map with str keys | null, true/false, string, array, object |
//! | integer | the same digits |
//! | finite float | shortest digits that read back, always with `.` or `e` |
//! | NaN, +Inf, −Inf | `{"$float":"nan"}`, `"inf"`, `"-inf"` |
//! | bin | `{"$bytes":"base64"}` |
//! | ext | `{"$ext":[type,"base64"]}` |
//! | map with any key that is not a str | `{"$map":[[key,value],…]}` |
//! | map whose only key starts with `$` | the same with one more `$` |
//! | ext of type 75 holding a number's text | a number outside 64-bit integers and doubles, digits as written |
//!
//! - Both directions take documents that were checked when they were written, so they cannot fail there; [`json_to_msgpack`]
//!   and [`msgpack_to_json`] check first.
//! - A `$name` object with another name than these is an ordinary object.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::error::Failure;
use crate::json::{self, Token as Json, Walker};
use crate::limits;
use crate::msgpack::{self, Cursor, Malformed, Token as Pack, write};

/// The MessagePack extension type that carries the text of a JSON number no MessagePack number can hold.
pub(crate) const EXT_JSON_NUMBER: i8 = 75;

/// Converts one JSON text to MessagePack. `invalid` if it is not one JSON value within the bounds.
pub fn json_to_msgpack(text: &[u8]) -> Result<Vec<u8>, Failure> {
    let text = json::check(text, limits::DEPTH_MAX)?;
    let mut out = Vec::with_capacity(text.len());
    from_json(&mut Walker::new(text), &mut out)?;
    Ok(out)
}

/// Converts one MessagePack value to JSON text. `invalid` if it is not one MessagePack value within the bounds.
pub fn msgpack_to_json(document: &[u8]) -> Result<Vec<u8>, Failure> {
    msgpack::check(document, limits::DEPTH_MAX).map_err(|error| Failure::invalid(error.to_string()))?;
    let mut out = Vec::with_capacity(document.len() * 2);
    to_json(&mut Cursor::new(document), &mut out).map_err(|error| Failure::invalid(error.to_string()))?;
    Ok(out)
}

/// For documents that were checked when they were stored. Should one not convert all the same (bytes changed in memory), it
/// becomes the text of the error and never a panic.
pub(crate) fn stored_json_to_msgpack(document: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let text = std::str::from_utf8(document).unwrap_or_default();
    if let Err(error) = from_json(&mut Walker::new(text), out) {
        out.truncate(start);
        write::text(out, &format!("stored value does not convert: {error}"));
    }
}

/// See [`stored_json_to_msgpack`].
pub(crate) fn stored_msgpack_to_json(document: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    if let Err(error) = to_json(&mut Cursor::new(document), out) {
        out.truncate(start);
        json::write_text(out, &format!("stored value does not convert: {error}"));
    }
}

pub(crate) fn write_bytes_escape(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(b"{\"$bytes\":\"");
    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
    out.extend_from_slice(b"\"}");
}

fn to_json(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    match cursor.token()? {
        Pack::Nil => out.extend_from_slice(b"null"),
        Pack::Bool(true) => out.extend_from_slice(b"true"),
        Pack::Bool(false) => out.extend_from_slice(b"false"),
        Pack::UInt(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Pack::Int(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Pack::Float(value) if value.is_nan() => out.extend_from_slice(b"{\"$float\":\"nan\"}"),
        Pack::Float(f64::INFINITY) => out.extend_from_slice(b"{\"$float\":\"inf\"}"),
        Pack::Float(f64::NEG_INFINITY) => out.extend_from_slice(b"{\"$float\":\"-inf\"}"),
        Pack::Float(value) => serde_json::to_writer(out, &value).expect("a finite float is always JSON"),
        Pack::Str(text) => json::write_text(out, text),
        Pack::Bin(bytes) => write_bytes_escape(out, bytes),
        Pack::Ext(kind, bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if kind == EXT_JSON_NUMBER && needs_ext(text) => out.extend_from_slice(bytes),
            _ => {
                out.extend_from_slice(format!("{{\"$ext\":[{kind},\"").as_bytes());
                out.extend_from_slice(BASE64.encode(bytes).as_bytes());
                out.extend_from_slice(b"\"]}");
            }
        },
        Pack::Array(length) => {
            out.push(b'[');
            for index in 0..length {
                if index > 0 {
                    out.push(b',');
                }
                to_json(cursor, out)?;
            }
            out.push(b']');
        }
        Pack::Map(length) => map_to_json(cursor, length, out)?,
    }
    Ok(())
}

fn map_to_json(cursor: &mut Cursor<'_>, length: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = out.len();
    let entries_at = cursor.offset();
    out.push(b'{');
    for index in 0..length {
        let Pack::Str(name) = cursor.token()? else {
            // A key that is no text: the whole map takes the form of pairs.
            out.truncate(start);
            cursor.seek(entries_at);
            return pairs_to_json(cursor, length, out);
        };
        if index > 0 {
            out.push(b',');
        }
        if length == 1 && name.starts_with('$') {
            json::write_text(out, &format!("${name}"));
        } else {
            json::write_text(out, name);
        }
        out.push(b':');
        to_json(cursor, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn pairs_to_json(cursor: &mut Cursor<'_>, length: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.extend_from_slice(b"{\"$map\":[");
    for index in 0..length {
        out.extend_from_slice(if index > 0 { b",[" } else { b"[" });
        to_json(cursor, out)?;
        out.push(b',');
        to_json(cursor, out)?;
        out.push(b']');
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

fn from_json(walker: &mut Walker<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
    match walker.token()? {
        Json::Null => write::nil(out),
        Json::Bool(value) => write::boolean(out, value),
        Json::Number(text) => number_to_msgpack(text, out),
        Json::Str(text) => write::text(out, &text),
        Json::Array => {
            let start = out.len();
            let mut length = 0;
            while walker.more_elements() {
                from_json(walker, out)?;
                length += 1;
            }
            insert_head(out, start, length, write::array);
        }
        Json::Object => {
            let start = out.len();
            let mut length = 0;
            while let Some(name) = walker.next_field()? {
                length += 1;
                write::text(out, &name);
                if length > 1 || !name.starts_with('$') {
                    from_json(walker, out)?;
                    continue;
                }
                // Perhaps an escape: known once it is seen that no second field follows.
                let value = walker.raw()?;
                if !walker.at_object_end() {
                    from_json(&mut Walker::new(value), out)?;
                    continue;
                }
                match Escape::read(&name, value)? {
                    Some(escape) => {
                        walker.next_field()?;
                        out.truncate(start);
                        return escape.write(out);
                    }
                    None => from_json(&mut Walker::new(value), out)?,
                }
            }
            insert_head(out, start, length, write::map);
        }
    }
    Ok(())
}

/// MessagePack wants a container's length first; JSON tells it last. The head goes in front once the elements are written.
fn insert_head(out: &mut Vec<u8>, start: usize, length: usize, head: fn(&mut Vec<u8>, usize)) {
    let mut bytes = Vec::with_capacity(5);
    head(&mut bytes, length);
    out.splice(start..start, bytes);
}

/// A JSON object with one `$` name, read.
enum Escape<'a> {
    Bytes(Vec<u8>),
    Float(f64),
    Ext(i8, Vec<u8>),
    /// The text of the array of pairs.
    Map(&'a str),
    /// One `$` less in front of the name; the value stays.
    Dollar(String, &'a str),
}

impl<'a> Escape<'a> {
    /// None: not an escape, an ordinary object.
    fn read(name: &str, value: &'a str) -> Result<Option<Escape<'a>>, Failure> {
        let wrong = |takes: &str| {
            Failure::invalid(format!(
                "{{\"{name}\":…}} is an escape and takes {takes}; a real object is written {{\"${name}\":…}}"
            ))
        };
        let mut walker = Walker::new(value);
        Ok(Some(match name {
            "$bytes" => {
                let Json::Str(text) = walker.token()? else { return Err(wrong("base64 text")) };
                Escape::Bytes(BASE64.decode(text.as_bytes()).map_err(|_| wrong("base64 text"))?)
            }
            "$float" => match walker.token()? {
                Json::Str(text) if text == "nan" => Escape::Float(f64::NAN),
                Json::Str(text) if text == "inf" => Escape::Float(f64::INFINITY),
                Json::Str(text) if text == "-inf" => Escape::Float(f64::NEG_INFINITY),
                _ => return Err(wrong("\"nan\", \"inf\" or \"-inf\"")),
            },
            "$ext" => {
                let read: Result<(i8, String), _> = serde_json::from_str(value);
                let (kind, text) = read.map_err(|_| wrong("[type, \"base64\"]"))?;
                Escape::Ext(kind, BASE64.decode(text.as_bytes()).map_err(|_| wrong("[type, \"base64\"]"))?)
            }
            "$map" => Escape::Map(value),
            _ if name.starts_with("$$") => Escape::Dollar(name[1..].to_owned(), value),
            _ => return Ok(None),
        }))
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), Failure> {
        match self {
            Escape::Bytes(bytes) => write::bytes(out, &bytes),
            Escape::Float(value) => write::float(out, value),
            Escape::Ext(kind, bytes) => write::ext(out, kind, &bytes),
            Escape::Dollar(name, value) => {
                write::map(out, 1);
                write::text(out, &name);
                from_json(&mut Walker::new(value), out)?;
            }
            Escape::Map(pairs) => {
                let start = out.len();
                let mut length = 0;
                let mut walker = Walker::new(pairs);
                walker.token()?;
                while walker.more_elements() {
                    walker.token()?;
                    while walker.more_elements() {
                        from_json(&mut walker, out)?;
                    }
                    length += 1;
                }
                insert_head(out, start, length, write::map);
            }
        }
        Ok(())
    }
}

fn check_pairs(value: &str) -> Result<(), ()> {
    let mut keys = Vec::new();
    let mut walker = Walker::new(value);
    if walker.token().map_err(|_| ())? != Json::Array {
        return Err(());
    }
    while walker.more_elements() {
        if walker.token().map_err(|_| ())? != Json::Array {
            return Err(());
        }
        let mut parts = 0;
        while walker.more_elements() {
            let part = walker.raw().map_err(|_| ())?;
            if parts == 0 {
                let mut key = Vec::new();
                from_json(&mut Walker::new(part), &mut key).map_err(|_| ())?;
                keys.push(key);
            }
            parts += 1;
        }
        if parts != 2 {
            return Err(());
        }
    }
    if msgpack::has_twins(&mut keys) { Err(()) } else { Ok(()) }
}

/// Checks an object with the single name `name` and a value that was checked: an escape must hold what it stands for.
///
/// The pairs of `$map` are compared here and not in [`Escape::read`]: checking again at every conversion of a key inside a key
/// would double the work with each level.
pub(crate) fn check_escape(name: &str, value: &str) -> Result<(), Failure> {
    match Escape::read(name, value)? {
        Some(Escape::Map(pairs)) => check_pairs(pairs).map_err(|()| {
            Failure::invalid("{\"$map\":…} is an escape and takes an array of [key, value] with each key once; a real object is written {\"$$map\":…}")
        }),
        _ => Ok(()),
    }
}

/// How MessagePack holds a JSON number.
enum Number {
    UInt(u64),
    Int(i64),
    Float(f64),
    /// Outside what MessagePack numbers can say.
    Text,
}

fn read_number(text: &str) -> Number {
    let integer = !text.contains(['.', 'e', 'E']);
    if integer && text != "-0" {
        if let Ok(value) = text.parse::<u64>() {
            return Number::UInt(value);
        }
        return text.parse::<i64>().map_or(Number::Text, Number::Int);
    }
    let mantissa_is_zero = text.split(['e', 'E']).next().is_some_and(|m| m.bytes().all(|b| !b.is_ascii_digit() || b == b'0'));
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && (value != 0.0 || mantissa_is_zero) => Number::Float(value),
        _ => Number::Text,
    }
}

fn number_to_msgpack(text: &str, out: &mut Vec<u8>) {
    match read_number(text) {
        Number::UInt(value) => write::uint(out, value),
        Number::Int(value) => write::int(out, value),
        Number::Float(value) => write::float(out, value),
        Number::Text => write::ext(out, EXT_JSON_NUMBER, text.as_bytes()),
    }
}

/// True for the text of a JSON number that only the extension type can carry.
fn needs_ext(text: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok_and(|raw| raw.get() == text)
        && text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && matches!(read_number(text), Number::Text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn to_pack(text: &str) -> Vec<u8> {
        json_to_msgpack(text.as_bytes()).unwrap()
    }

    fn round(text: &str) -> String {
        String::from_utf8(msgpack_to_json(&to_pack(text)).unwrap()).unwrap()
    }

    #[test]
    fn json_returns_from_msgpack_as_it_was() {
        for text in [
            "null",
            "[true,false]",
            "0",
            "-1",
            "9007199254740993",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "1e400",
            "-1e400",
            "1e-400",
            "1.0",
            "0.1",
            "-0.0",
            "\"\u{e9}\"",
            r#"{"a":[1,{"b":null}],"c":2.5}"#,
            r#"{"$bytes":"AP8="}"#,
            r#"{"$float":"nan"}"#,
            r#"{"$float":"-inf"}"#,
            r#"{"$ext":[-1,"AAAAAA=="]}"#,
            r#"{"$ext":[75,"MQ=="]}"#,
            r#"{"$map":[[1,"x"],[null,{"$map":[[[1],2]]}]]}"#,
            r#"{"$$bytes":5}"#,
            r#"{"$$$ref":"x"}"#,
            r#"{"$a":1,"$b":2}"#,
        ] {
            assert_eq!(round(text), text);
        }
    }

    #[test]
    fn what_reads_differently_is_known() {
        assert_eq!(round("-0"), "-0.0");
        assert_eq!(round("1E2"), "100.0");
        assert_eq!(round(r#"{"$ref":"x"}"#), r#"{"$$ref":"x"}"#);
        assert_eq!(to_pack(r#"{"$ref":1}"#), [0x81, 0xa4, b'$', b'r', b'e', b'f', 1]);
    }

    #[test]
    fn large_containers_get_the_right_head() {
        for length in [0, 1, 15, 16, 70_000] {
            let text = format!("[{}]", vec!["7"; length].join(","));
            assert_eq!(round(&text), text);
        }
    }

    #[test]
    fn keys_inside_keys_are_checked_in_linear_time() {
        let depth = 32;
        let text = format!("{}1{}", "{\"$map\":[[".repeat(depth), ",2]]}".repeat(depth));
        assert_eq!(round(&text), text);
    }

    #[test]
    fn broken_escapes_are_refused_when_written() {
        for text in
            [r#"{"$bytes":5}"#, r#"[{"$float":"x"}]"#, r#"{"$ext":[300,""]}"#, r#"{"$map":[[1,2],[1,3]]}"#, r#"{"$map":[[1]]}"#]
        {
            assert!(json_to_msgpack(text.as_bytes()).is_err(), "{text}");
        }
    }
}
