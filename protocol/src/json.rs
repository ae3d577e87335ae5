//! A walker over JSON text (RFC 8259) whose syntax serde_json has accepted.
//!
//! serde_json checks the grammar; this walker adds what the protocol needs beyond it: raw slices of fields, exact number texts,
//! the depth bound, one key once, and the `$` escapes. It never panics, also not on text that was not checked.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::Failure;
use crate::msgpack::has_twins;

/// Checks that `bytes` are exactly one JSON value within the depth bound.
pub(crate) fn check(bytes: &[u8], depth_max: usize) -> Result<&str, Failure> {
    let raw: &RawValue =
        serde_json::from_slice(bytes).map_err(|error| Failure::invalid(format!("not one JSON value in UTF-8: {error}")))?;
    let mut walker = Walker::new(raw.get());
    let mut escapes = false;
    walker.check_value(depth_max, &mut escapes)?;
    if escapes {
        crate::convert::check_escapes(raw.get(), depth_max)?;
    }
    Ok(raw.get())
}

pub(crate) struct Walker<'a> {
    text: &'a str,
    at: usize,
}

/// One value's head; the elements of containers follow in the walker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Str(Cow<'a, str>),
    Array,
    Object,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Walker { text, at: 0 }
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::invalid(format!("{what} at byte {}", self.at))
    }

    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn scalar_end(&self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest.iter().position(|b| matches!(b, b',' | b']' | b'}' | b':' | b' ' | b'\t' | b'\n' | b'\r'));
        self.at + length.unwrap_or(rest.len())
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Failure> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    end += 2;
                }
                Some(_) => end += 1,
                None => return Err(self.wrong("a text without an end")),
            }
        }
        self.at = end + 1;
        if !escaped {
            return Ok(Cow::Borrowed(self.text.get(start + 1..end).unwrap_or_default()));
        }
        let literal = self.text.get(start..=end).unwrap_or_default();
        serde_json::from_str::<String>(literal)
            .map(Cow::Owned)
            .map_err(|_| Failure::invalid(format!("an escape in the text at byte {start} is not Unicode")))
    }

    /// Reads one value's head; for scalars the whole value.
    pub(crate) fn token(&mut self) -> Result<Token<'a>, Failure> {
        Ok(match self.peek() {
            Some(b'"') => Token::Str(self.string()?),
            Some(b'[') => {
                self.at += 1;
                Token::Array
            }
            Some(b'{') => {
                self.at += 1;
                Token::Object
            }
            Some(_) => {
                let end = self.scalar_end();
                let text = self.text.get(self.at..end).unwrap_or_default();
                self.at = end;
                match text {
                    "null" => Token::Null,
                    "true" => Token::Bool(true),
                    "false" => Token::Bool(false),
                    "" => return Err(self.wrong("no JSON value")),
                    number => Token::Number(number),
                }
            }
            None => return Err(self.wrong("no JSON value")),
        })
    }

    /// True when another element follows in the open array; passes over its comma or the closing bracket.
    pub(crate) fn more_elements(&mut self) -> bool {
        self.more(b']')
    }

    fn more(&mut self, close: u8) -> bool {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                true
            }
            Some(byte) if byte == close => {
                self.at += 1;
                false
            }
            other => other.is_some(),
        }
    }

    /// The next field's name in the open object, or None at its end; the walker then stands before the value.
    pub(crate) fn next_field(&mut self) -> Result<Option<Cow<'a, str>>, Failure> {
        if !self.more(b'}') {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return Err(self.wrong("no field name"));
        }
        let name = self.string()?;
        if self.peek() == Some(b':') {
            self.at += 1;
        }
        Ok(Some(name))
    }

    /// Where the walker stands, in bytes.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// Goes back to an offset that [`Walker::offset`] gave.
    pub(crate) fn seek(&mut self, offset: usize) {
        self.at = offset;
    }

    /// True before an array.
    pub(crate) fn at_array(&mut self) -> bool {
        self.peek() == Some(b'[')
    }

    /// True before the closing brace of the open object.
    pub(crate) fn at_object_end(&mut self) -> bool {
        self.peek() == Some(b'}')
    }

    /// Passes over one value and returns its text.
    pub(crate) fn raw(&mut self) -> Result<&'a str, Failure> {
        self.peek();
        let start = self.at;
        let mut open = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.skip_string()?;
                }
                Some(b'[' | b'{') => {
                    open += 1;
                    self.at += 1;
                }
                Some(b']' | b'}') => {
                    open = open.saturating_sub(1);
                    self.at += 1;
                }
                Some(b',' | b':') => self.at += 1,
                Some(_) => self.at = self.scalar_end().max(self.at + 1),
                None => return Err(self.wrong("no JSON value")),
            }
            if open == 0 {
                return Ok(self.text.get(start..self.at).unwrap_or_default());
            }
        }
    }

    fn skip_string(&mut self) -> Result<(), Failure> {
        let bytes = self.text.as_bytes();
        let mut end = self.at + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
                None => return Err(self.wrong("a text without an end")),
            }
        }
        self.at = end + 1;
        Ok(())
    }

    /// `escapes` becomes true at an object that may be one of the `$` forms; those are checked together afterwards, because a check of
    /// each by itself would read what is inside others again and again.
    fn check_value(&mut self, depth_left: usize, escapes: &mut bool) -> Result<(), Failure> {
        let start = self.at;
        let nest = |walker: &Self| depth_left.checked_sub(1).ok_or_else(|| walker.wrong("nested deeper than 100 levels"));
        match self.token()? {
            Token::Array => {
                let depth_left = nest(self)?;
                while self.more_elements() {
                    self.check_value(depth_left, escapes)?;
                }
            }
            Token::Object => {
                let depth_left = nest(self)?;
                let mut names = Vec::new();
                while let Some(name) = self.next_field()? {
                    names.push(name);
                    self.check_value(depth_left, escapes)?;
                    *escapes |= names.len() == 1 && names[0].starts_with('$') && self.at_object_end();
                }
                if has_twins(&mut names) {
                    return Err(Failure::invalid(format!("an object with the same key twice at byte {start}")));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Appends `text` as a JSON string; quickly where nothing in it has to be escaped, as in nearly all short texts.
pub(crate) fn write_plain_text(out: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        return write_text(out, text);
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Appends a number, without a text of its own in between.
pub(crate) fn write_number(out: &mut Vec<u8>, number: impl serde::Serialize) {
    serde_json::to_writer(out, &number).expect("an integer is always JSON and a Vec always takes it");
}

/// Appends `text` as a JSON string.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a str is always JSON and a Vec always takes it");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accepts_json_and_nothing_around_it() {
        for good in ["1", " {\"a\" : [ 1 , {\"b\":null} ] } ", "\"\\u0041\"", "[]", "{}", "-0.0e5"] {
            assert!(check(good.as_bytes(), 100).is_ok(), "{good}");
        }
        for bad in ["", "1 2", "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}", "\"\\ud800\"", "\u{feff}1", "[1,]", "{a:1}", "NaN"]
        {
            assert!(check(bad.as_bytes(), 100).is_err(), "{bad}");
        }
        assert!(check(b"\"\xff\"", 100).is_err());
    }

    #[test]
    fn texts_are_written_alike_quickly_and_slowly() {
        for text in ["", "name", "a b", "\"", "\\", "\n", "\u{1f}", "\u{7f}", "ä\u{2028}"] {
            let (mut quickly, mut slowly) = (Vec::new(), Vec::new());
            write_plain_text(&mut quickly, text);
            write_text(&mut slowly, text);
            assert_eq!(quickly, slowly, "{text:?}");
        }
        let mut numbers = Vec::new();
        write_number(&mut numbers, u64::MAX);
        write_number(&mut numbers, i128::MIN);
        assert_eq!(numbers, format!("{}{}", u64::MAX, i128::MIN).into_bytes());
    }

    #[test]
    fn depth_is_counted_in_containers() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check(nested(100).as_bytes(), 100).is_ok());
        assert!(check(nested(101).as_bytes(), 100).is_err());
        assert!(check(nested(100_000).as_bytes(), 100).is_err());
    }

    #[test]
    fn raw_slices_are_the_values_as_written() {
        let mut walker = Walker::new(r#"{"a" : {"x":"]\"}"} , "b":[1, 2] }"#);
        assert_eq!(walker.token().unwrap(), Token::Object);
        assert_eq!(walker.next_field().unwrap().unwrap(), "a");
        assert_eq!(walker.raw().unwrap(), r#"{"x":"]\"}"}"#);
        assert_eq!(walker.next_field().unwrap().unwrap(), "b");
        assert_eq!(walker.raw().unwrap(), "[1, 2]");
        assert_eq!(walker.next_field().unwrap(), None);
    }
}
