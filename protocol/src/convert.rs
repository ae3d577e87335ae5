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
        Json::Object => object_from_json(walker, out)?,
    }
    Ok(())
}

/// An object with one name that starts with `$` may be an escape, and only its end shows that there is one. So it is written as an
/// ordinary one while it is read and put right at the end: reading ahead would read what is inside others again at each level.
fn object_from_json(walker: &mut Walker<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
    let start = out.len();
    let mut length = 0;
    let mut first = None;
    while let Some(name) = walker.next_field()? {
        length += 1;
        write::text(out, &name);
        if length == 1 && name.starts_with('$') {
            let value_at = out.len();
            let meaning = dollar_value_from_json(&name, walker, out)?;
            first = Some((name, value_at, meaning));
        } else {
            from_json(walker, out)?;
        }
    }
    match first.filter(|_| length == 1) {
        None | Some((_, _, Meaning::Ordinary)) => {
            insert_head(out, start, length, write::map);
        }
        Some((_, _, Meaning::Atom(atom))) => {
            out.truncate(start);
            out.extend_from_slice(&atom);
        }
        Some((_, _, Meaning::Map(pairs))) => pairs_to_map(out, start, &pairs),
        Some((name, value_at, Meaning::Dollar)) => {
            let mut head = Vec::with_capacity(name.len() + 5);
            write::map(&mut head, 1);
            write::text(&mut head, &name[1..]);
            out.splice(start..value_at, head);
        }
        Some((name, _, Meaning::Wrong(takes))) => {
            return Err(Failure::invalid(format!(
                "{{\"{name}\":…}} is an escape and takes {takes}; a real object is written {{\"${name}\":…}}"
            )));
        }
    }
    Ok(())
}

/// MessagePack wants a container's length first; JSON tells it last. The head goes in front once the elements are written.
fn insert_head(out: &mut Vec<u8>, start: usize, length: usize, head: fn(&mut Vec<u8>, usize)) -> usize {
    let mut bytes = Vec::with_capacity(5);
    head(&mut bytes, length);
    let head_bytes = bytes.len();
    out.splice(start..start, bytes);
    head_bytes
}

/// What an object stands for whose only name starts with `$`.
enum Meaning {
    /// Itself.
    Ordinary,
    /// One MessagePack value that is no container.
    Atom(Vec<u8>),
    /// A map; where its pairs stand in the output, each an array of two.
    Map(Vec<usize>),
    /// An object with one `$` less in its name.
    Dollar,
    /// Nothing: the escape takes something else.
    Wrong(&'static str),
}

const PAIRS: &str = "an array of [key, value] with each key once";

/// Writes the value behind a `$` name as an ordinary value, and tells what it means if no second name follows.
fn dollar_value_from_json(name: &str, walker: &mut Walker<'_>, out: &mut Vec<u8>) -> Result<Meaning, Failure> {
    let value_at = out.len();
    if name == "$map" && walker.at_array() {
        return pairs_from_json(walker, out);
    }
    from_json(walker, out)?;
    let mut value = Cursor::new(&out[value_at..]);
    let atom = match name {
        "$map" => return Ok(Meaning::Wrong(PAIRS)),
        "$bytes" => bytes_atom(&mut value).ok_or("base64 text"),
        "$float" => float_atom(&mut value).ok_or("\"nan\", \"inf\" or \"-inf\""),
        "$ext" => ext_atom(&mut value).ok_or("[type, \"base64\"]"),
        _ if name.starts_with("$$") => return Ok(Meaning::Dollar),
        _ => return Ok(Meaning::Ordinary),
    };
    Ok(atom.map_or_else(Meaning::Wrong, Meaning::Atom))
}

fn base64_text(value: &mut Cursor<'_>) -> Option<Vec<u8>> {
    match value.token() {
        Ok(Pack::Str(text)) => BASE64.decode(text.as_bytes()).ok(),
        _ => None,
    }
}

fn bytes_atom(value: &mut Cursor<'_>) -> Option<Vec<u8>> {
    let mut atom = Vec::new();
    write::bytes(&mut atom, &base64_text(value)?);
    Some(atom)
}

fn float_atom(value: &mut Cursor<'_>) -> Option<Vec<u8>> {
    let float = match value.token() {
        Ok(Pack::Str("nan")) => f64::NAN,
        Ok(Pack::Str("inf")) => f64::INFINITY,
        Ok(Pack::Str("-inf")) => f64::NEG_INFINITY,
        _ => return None,
    };
    let mut atom = Vec::new();
    write::float(&mut atom, float);
    Some(atom)
}

fn ext_atom(value: &mut Cursor<'_>) -> Option<Vec<u8>> {
    let Ok(Pack::Array(2)) = value.token() else { return None };
    let kind = match value.token() {
        Ok(Pack::UInt(kind)) => i8::try_from(kind).ok()?,
        Ok(Pack::Int(kind)) => i8::try_from(kind).ok()?,
        _ => return None,
    };
    let mut atom = Vec::new();
    write::ext(&mut atom, kind, &base64_text(value)?);
    Some(atom)
}

/// The MessagePack head of an array of two.
const PAIR_HEAD: u8 = 0x92;

fn pairs_from_json(walker: &mut Walker<'_>, out: &mut Vec<u8>) -> Result<Meaning, Failure> {
    let start = out.len();
    let mut pairs = Vec::new();
    let mut all_are_pairs = true;
    walker.token()?;
    while walker.more_elements() {
        let at = out.len();
        from_json(walker, out)?;
        all_are_pairs &= out.get(at) == Some(&PAIR_HEAD);
        pairs.push(at);
    }
    let head_bytes = insert_head(out, start, pairs.len(), write::array);
    pairs.iter_mut().for_each(|at| *at += head_bytes);
    Ok(if all_are_pairs { Meaning::Map(pairs) } else { Meaning::Wrong(PAIRS) })
}

/// Turns name and array of pairs, from `start` to the end of the output, into a map: its head, then the pairs without theirs.
fn pairs_to_map(out: &mut Vec<u8>, start: usize, pairs: &[usize]) {
    let mut head = Vec::with_capacity(5);
    write::map(&mut head, pairs.len());
    // The name's five bytes were there, and the array's head is as long as the map's: everything moves to the front.
    let mut end = start + head.len();
    out[start..end].copy_from_slice(&head);
    for (index, at) in pairs.iter().enumerate() {
        let next = pairs.get(index + 1).copied().unwrap_or(out.len());
        out.copy_within(at + 1..next, end);
        end += next - at - 1;
    }
    out.truncate(end);
}

/// Checks that every escape in a text that was checked otherwise holds what it stands for, and that no `$map` has a key twice.
pub(crate) fn check_escapes(text: &str, depth_max: usize) -> Result<(), Failure> {
    let mut document = Vec::with_capacity(text.len());
    from_json(&mut Walker::new(text), &mut document)?;
    // Keys of objects were compared before, so a twin is one of a `$map`.
    msgpack::check(&document, depth_max).map_err(|_| {
        Failure::invalid(format!("{{\"$map\":…}} is an escape and takes {PAIRS}; a real object is written {{\"$$map\":…}}"))
    })
}

/// How MessagePack holds a JSON number.
pub(crate) enum Number {
    UInt(u64),
    Int(i64),
    Float(f64),
    /// Outside what MessagePack numbers can say.
    Text,
}

pub(crate) fn read_number(text: &str) -> Number {
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

pub(crate) fn number_to_msgpack(text: &str, out: &mut Vec<u8>) {
    match read_number(text) {
        Number::UInt(value) => write::uint(out, value),
        Number::Int(value) => write::int(out, value),
        Number::Float(value) => write::float(out, value),
        Number::Text => write::ext(out, EXT_JSON_NUMBER, text.as_bytes()),
    }
}

/// True for the extension value that stands for a JSON number.
pub(crate) fn is_ext_number(kind: i8, bytes: &[u8]) -> bool {
    kind == EXT_JSON_NUMBER && std::str::from_utf8(bytes).is_ok_and(needs_ext)
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
    fn a_second_name_makes_an_escape_an_ordinary_object() {
        for text in [
            r#"{"$map":[[1,2],[3,4]],"b":1}"#,
            r#"{"$map":[[1,2],3],"b":1}"#,
            r#"{"$map":7,"b":1}"#,
            r#"{"$bytes":"AP8=","b":1}"#,
            r#"{"$bytes":{"$float":"inf","c":2},"b":1}"#,
            r#"{"$ext":[1,""],"b":1}"#,
            r#"{"$$x":[1],"b":{"$$y":{"$map":[[1,2]]}}}"#,
        ] {
            assert_eq!(round(text), text);
        }
        let many: Vec<String> = (0..100).map(|key| format!("[{key},{{\"$map\":[[null,{key}]]}}]")).collect();
        let text = format!("{{\"$map\":[{}]}}", many.join(","));
        assert_eq!(round(&text), text);
    }

    #[test]
    fn broken_escapes_are_refused_when_written() {
        for text in [
            r#"{"$bytes":5}"#,
            r#"[{"$float":"x"}]"#,
            r#"{"$ext":[300,""]}"#,
            r#"{"$map":[[1,2],[1,3]]}"#,
            r#"{"$map":[[1]]}"#,
            r#"{"$map":{"a":1}}"#,
            r#"{"$map":[[{"$map":[[1,2],[1,2]]},2]]}"#,
            r#"{"$ext":[1,"",2]}"#,
            r#"{"$bytes":{"$bytes":"AA=="}}"#,
        ] {
            assert!(json_to_msgpack(text.as_bytes()).is_err(), "{text}");
        }
    }
}
