//! The characters of a predicate: words, texts, numbers and signs, with the place for errors.

use serde_json::value::RawValue;

use crate::error::Failure;
use crate::predicate::scalar::Scalar;
use crate::predicate::{digits, is_word_char};

pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Reader { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Where the reader stands, for [`Reader::wrong_at`].
    pub(super) fn place(&self) -> usize {
        self.at
    }

    /// The failure that something else was expected here.
    pub(super) fn expected(&self, what: &str) -> Failure {
        let shown: String = match self.peek() {
            None => return self.wrong_at(self.at, &format!("it ends where {what} is expected")),
            Some(c) if is_word_char(c) => self.rest().chars().take_while(|c| is_word_char(*c)).take(32).collect(),
            Some(c) => c.to_string(),
        };
        self.wrong_at(self.at, &format!("expected {what}, not {shown:?}"))
    }

    /// A failure at a place. Columns count characters, from 1.
    pub(super) fn wrong_at(&self, place: usize, what: &str) -> Failure {
        let column = self.text.get(..place).unwrap_or(self.text).chars().count() + 1;
        Failure::invalid(format!("the predicate is wrong at column {column}: {what}"))
    }

    pub(super) fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn at_end(&self) -> bool {
        self.rest().is_empty()
    }

    /// Passes over a sign if it stands here.
    pub(super) fn take(&mut self, sign: &str) -> bool {
        let is_here = self.rest().starts_with(sign);
        if is_here {
            self.at += sign.len();
        }
        is_here
    }

    /// The characters from here on that a word can have.
    pub(super) fn peek_word(&self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !is_word_char(c)).unwrap_or(rest.len());
        &rest[..end]
    }

    /// Passes over a word if it stands here whole.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let is_here = self.peek_word() == word;
        if is_here {
            self.at += word.len();
        }
        is_here
    }

    /// The word here; empty if there is none.
    pub(super) fn word(&mut self) -> &'a str {
        let word = self.peek_word();
        self.at += word.len();
        word
    }

    /// A text in quotes: double ones with JSON's escapes, single ones as it stands, a quote in it doubled. None if there is none here.
    pub(super) fn quoted(&mut self) -> Result<Option<String>, Failure> {
        match self.peek() {
            Some('"') => self.double_quoted().map(Some),
            Some('\'') => self.single_quoted().map(Some),
            _ => Ok(None),
        }
    }

    fn double_quoted(&mut self) -> Result<String, Failure> {
        let start = self.at;
        let mut is_escaped = false;
        let end = self.rest().char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !is_escaped;
            is_escaped = *c == '\\' && !is_escaped;
            ends
        });
        let (end, _) = end.ok_or_else(|| self.wrong_at(start, "this quote has no end"))?;
        let literal = &self.rest()[..=end];
        self.at += literal.len();
        serde_json::from_str(literal).map_err(|_| {
            self.wrong_at(
                start,
                "a text in double quotes is written as in JSON: \\\\ for a backslash, \\n for a line feed; or use single quotes",
            )
        })
    }

    fn single_quoted(&mut self) -> Result<String, Failure> {
        let start = self.at;
        let mut text = String::new();
        self.at += 1;
        loop {
            let rest = self.rest();
            let length = rest.find('\'').ok_or_else(|| self.wrong_at(start, "this quote has no end"))?;
            text.push_str(&rest[..length]);
            self.at += length + 1;
            if !self.take("'") {
                return Ok(text);
            }
            text.push('\'');
        }
    }

    /// A number as JSON writes it. What only begins like one is refused, and not taken for a text.
    pub(super) fn number(&mut self) -> Result<Scalar, Failure> {
        let (start, rest) = (self.at, self.rest());
        let end = rest.find(|c| !(is_word_char(c) || c == '.' || c == '+')).unwrap_or(rest.len());
        let text = &rest[..end];
        if serde_json::from_str::<&RawValue>(text).is_err() {
            return Err(self.wrong_at(start, &format!("{text:?} is no number; write it in quotes if it is meant as a text")));
        }
        self.at += end;
        let fits = || self.wrong_at(start, "this number is neither a 64-bit integer nor a double");
        Scalar::from_number(text).ok_or_else(fits)
    }

    /// Bytes as hexadecimal digits in quotes.
    pub(super) fn hex(&mut self) -> Result<Vec<u8>, Failure> {
        let start = self.at;
        let wrong = |reader: &Self| reader.wrong_at(start, "bytes are written as x'00ff': two hexadecimal digits each");
        let digits = self.quoted()?.unwrap_or_default();
        let pairs = digits.as_bytes().chunks(2).map(|pair| match pair {
            [one, other] if one.is_ascii_hexdigit() && other.is_ascii_hexdigit() => {
                u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
            }
            _ => None,
        });
        pairs.collect::<Option<Vec<u8>>>().ok_or_else(|| wrong(self))
    }

    /// The digits of an array's place, in brackets that are already open.
    pub(super) fn index(&mut self) -> Result<u64, Failure> {
        let start = self.at;
        let index = digits(self.word()).filter(|_| self.take("]"));
        index.ok_or_else(|| self.wrong_at(start, "brackets hold the place of an array's element, counted from 0, as in a[0]"))
    }
}
