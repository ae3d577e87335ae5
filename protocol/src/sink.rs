//! Writing maps, arrays and values in either encoding by the same calls.

use crate::json;
use crate::msgpack::write;
use crate::value::{Stored, key_to_json_text};

/// Writes maps and arrays in either encoding. Lengths are MessagePack's need, commas and ends JSON's.
pub(crate) struct Sink<'a> {
    pub(crate) json: bool,
    /// In JSON: a comma stands before the next element or name.
    pub(crate) comma: bool,
    pub(crate) out: &'a mut Vec<u8>,
}

impl Sink<'_> {
    pub(crate) fn separate(&mut self) {
        if self.json && self.comma {
            self.out.push(b',');
        }
        self.comma = true;
    }

    pub(crate) fn map(&mut self, length: usize) {
        self.separate();
        if self.json {
            self.out.push(b'{');
            self.comma = false;
        } else {
            write::map(self.out, length);
        }
    }

    pub(crate) fn array(&mut self, length: usize) {
        self.separate();
        if self.json {
            self.out.push(b'[');
            self.comma = false;
        } else {
            write::array(self.out, length);
        }
    }

    pub(crate) fn end_map(&mut self) {
        self.end(b'}');
    }

    pub(crate) fn end_array(&mut self) {
        self.end(b']');
    }

    pub(crate) fn end(&mut self, close: u8) {
        if self.json {
            self.out.push(close);
        }
        self.comma = true;
    }

    /// A name of ours, as good as always without anything to escape.
    pub(crate) fn name(&mut self, name: &str) {
        if !self.json {
            return self.text(name);
        }
        self.separate();
        json::write_plain_text(self.out, name);
        self.out.push(b':');
        self.comma = false;
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.separate();
        if self.json { json::write_text(self.out, text) } else { write::text(self.out, text) }
    }

    pub(crate) fn uint(&mut self, value: u64) {
        self.separate();
        if self.json { json::write_number(self.out, value) } else { write::uint(self.out, value) }
    }

    pub(crate) fn integer(&mut self, value: i128) {
        self.separate();
        if self.json { json::write_number(self.out, value) } else { write::integer(self.out, value) }
    }

    pub(crate) fn optional_uint(&mut self, value: Option<u64>) {
        match value {
            Some(value) => self.uint(value),
            None => self.nil(),
        }
    }

    pub(crate) fn nil(&mut self) {
        self.separate();
        if self.json { self.out.extend_from_slice(b"null") } else { write::nil(self.out) }
    }

    pub(crate) fn boolean(&mut self, value: bool) {
        self.separate();
        match (self.json, value) {
            (false, value) => write::boolean(self.out, value),
            (true, true) => self.out.extend_from_slice(b"true"),
            (true, false) => self.out.extend_from_slice(b"false"),
        }
    }

    pub(crate) fn key(&mut self, key: &[u8]) {
        self.separate();
        if self.json { key_to_json_text(self.out, key) } else { write::key(self.out, key) }
    }

    pub(crate) fn stored(&mut self, value: &Stored) {
        self.separate();
        if self.json { value.write_json(self.out) } else { value.write_msgpack(self.out) }
    }
}
