//! A JSON object on one line, its fields in the order in which they are given.

use kvbroker_protocol::key_to_json_text;

/// An object under construction.
pub(crate) struct JsonLine {
    bytes: Vec<u8>,
}

impl JsonLine {
    /// An object whose first field, `type`, says what it is.
    pub(crate) fn new(kind: &str) -> JsonLine {
        JsonLine { bytes: b"{".to_vec() }.text("type", kind)
    }

    /// A string.
    pub(crate) fn text(self, name: &str, value: &str) -> JsonLine {
        self.field(name, |bytes| key_to_json_text(bytes, value.as_bytes()))
    }

    /// A string, if there is one.
    pub(crate) fn optional_text(self, name: &str, value: Option<&str>) -> JsonLine {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// A number.
    pub(crate) fn number(self, name: &str, value: u64) -> JsonLine {
        self.field(name, |bytes| bytes.extend_from_slice(value.to_string().as_bytes()))
    }

    /// A number, if there is one.
    pub(crate) fn optional_number(self, name: &str, value: Option<u64>) -> JsonLine {
        match value {
            Some(value) => self.number(name, value),
            None => self,
        }
    }

    /// True or false.
    pub(crate) fn flag(self, name: &str, value: bool) -> JsonLine {
        self.field(name, |bytes| bytes.extend_from_slice(if value { b"true" } else { b"false" }))
    }

    /// A string, or `{"$bytes":"base64"}` where the bytes are not UTF-8.
    pub(crate) fn bytes(self, name: &str, value: &[u8]) -> JsonLine {
        self.field(name, |bytes| key_to_json_text(bytes, value))
    }

    /// JSON as it is. Line feeds can only be white space between its parts, and become spaces.
    pub(crate) fn json(self, name: &str, value: &[u8]) -> JsonLine {
        self.field(name, |bytes| bytes.extend(value.iter().map(|&byte| if byte < b' ' { b' ' } else { byte })))
    }

    fn field(mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) -> JsonLine {
        if self.bytes.len() > 1 {
            self.bytes.push(b',');
        }
        key_to_json_text(&mut self.bytes, name.as_bytes());
        self.bytes.push(b':');
        write(&mut self.bytes);
        self
    }

    /// The line without its line feed.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b'}');
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_the_line_is_one() {
        let line =
            JsonLine::new("x").bytes("key", b"\xff").json("value", b"[1,\n2]").optional_number("n", Some(3)).flag("f", true);
        let line = line.optional_text("none", None).text("t", "a\n").finish();
        let expected = r#"{"type":"x","key":{"$bytes":"/w=="},"value":[1, 2],"n":3,"f":true,"t":"a\n"}"#;
        assert_eq!(String::from_utf8_lossy(&line), expected);
    }
}
