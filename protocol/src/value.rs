//! Keys and stored values.
//!
//! - A key is bytes; a text key is its UTF-8 bytes, so every encoding names the same key.
//! - A value is kept as it was written: one type byte, then the document.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::error::Failure;
use crate::{convert, json, limits, msgpack};

/// A key of the table: any bytes, at most [`limits::KEY_BYTES_MAX`].
pub type Key = Vec<u8>;

fn check_length(document: &[u8]) -> Result<(), Failure> {
    let (bytes, max) = (document.len(), limits::VALUE_BYTES_MAX);
    if bytes > max {
        return Err(Failure::limit(format!("the value has {bytes} bytes as it is encoded; at most {max} are taken")));
    }
    Ok(())
}

/// The encoding of a stored document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ValueKind {
    /// One MessagePack value.
    MessagePack = 1,
    /// One JSON text.
    Json = 2,
}

/// A value as it was written: its type byte followed by the document.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored(Vec<u8>);

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stored({:?}, {} bytes)", self.kind(), self.document().len())
    }
}

impl Stored {
    /// Takes a MessagePack document after checking that it is one value within the bounds.
    pub fn from_msgpack(document: &[u8]) -> Result<Stored, Failure> {
        msgpack::check(document, limits::DEPTH_MAX).map_err(|error| Failure::invalid(error.to_string()))?;
        Stored::checked(ValueKind::MessagePack, document)
    }

    /// Takes a JSON document after checking that it is one value within the bounds.
    pub fn from_json(document: &[u8]) -> Result<Stored, Failure> {
        let text = json::check(document, limits::DEPTH_MAX)?;
        Stored::checked(ValueKind::Json, text.as_bytes())
    }

    /// A text value, held as a MessagePack str.
    pub fn text(text: &str) -> Result<Stored, Failure> {
        Stored::written(text.len() + 5, |document| msgpack::write::text(document, text)).bounded()
    }

    /// A bytes value, held as a MessagePack bin.
    pub fn bytes(bytes: &[u8]) -> Result<Stored, Failure> {
        Stored::written(bytes.len() + 5, |document| msgpack::write::bytes(document, bytes)).bounded()
    }

    /// An integer value from -2^63 to 2^64-1.
    pub fn integer(value: i128) -> Stored {
        Stored::written(9, |document| msgpack::write::integer(document, value))
    }

    /// The MessagePack document that `write` appends, which has at most so many bytes.
    fn written(bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> Stored {
        let mut stored = Vec::with_capacity(1 + bytes + TRAILER_ROOM);
        stored.push(ValueKind::MessagePack as u8);
        write(&mut stored);
        Stored(stored)
    }

    fn bounded(self) -> Result<Stored, Failure> {
        check_length(self.document()).map(|()| self)
    }

    /// Joins a kind and a document that was checked before; only the length is checked here.
    pub(crate) fn checked(kind: ValueKind, document: &[u8]) -> Result<Stored, Failure> {
        check_length(document)?;
        Ok(Stored::unbounded(kind, document))
    }

    /// Joins a kind and a document whose length somebody else bounds.
    pub(crate) fn unbounded(kind: ValueKind, document: &[u8]) -> Stored {
        // Room for the trailer that the table appends, so that its record needs no second allocation.
        let mut bytes = Vec::with_capacity(document.len() + 1 + TRAILER_ROOM);
        bytes.push(kind as u8);
        bytes.extend_from_slice(document);
        Stored(bytes)
    }

    /// Takes bytes that were stored before: a type byte and its document. None if the type byte is not known.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Stored> {
        matches!(bytes.first(), Some(1 | 2)).then_some(Stored(bytes))
    }

    /// The encoding of the document.
    pub fn kind(&self) -> ValueKind {
        if self.0[0] == ValueKind::Json as u8 { ValueKind::Json } else { ValueKind::MessagePack }
    }

    /// The document without its type byte.
    pub fn document(&self) -> &[u8] {
        &self.0[1..]
    }

    /// Type byte and document.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Type byte and document, with spare capacity where the value was just decoded.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The same value, lent.
    pub fn lent(&self) -> StoredRef<'_> {
        StoredRef { kind: self.kind(), document: self.document() }
    }

    /// Appends the value as MessagePack, converted if it was written as JSON.
    pub fn write_msgpack(&self, out: &mut Vec<u8>) {
        self.lent().write_msgpack(out);
    }

    /// Appends the value as JSON, converted if it was written as MessagePack.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        self.lent().write_json(out);
    }

    /// The text, if the value is one in either encoding.
    pub fn as_text(&self) -> Option<String> {
        self.lent().as_text().map(Cow::into_owned)
    }

    /// The bytes, if the value is a MessagePack bin or JSON's form of one.
    pub fn as_byte_string(&self) -> Option<Vec<u8>> {
        self.lent().as_byte_string().map(Cow::into_owned)
    }
}

/// A value that lies in somebody else's bytes, such as a message: a [`Stored`] without memory of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoredRef<'a> {
    kind: ValueKind,
    document: &'a [u8],
}

impl std::fmt::Debug for StoredRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredRef({:?}, {} bytes)", self.kind, self.document.len())
    }
}

impl<'a> StoredRef<'a> {
    /// Joins a kind and a document that was checked before.
    #[inline]
    pub(crate) fn unchecked(kind: ValueKind, document: &'a [u8]) -> StoredRef<'a> {
        StoredRef { kind, document }
    }

    /// The encoding of the document.
    #[inline]
    pub fn kind(self) -> ValueKind {
        self.kind
    }

    /// The document without its type byte.
    #[inline]
    pub fn document(self) -> &'a [u8] {
        self.document
    }

    /// A copy that lasts.
    pub fn to_stored(self) -> Stored {
        Stored::unbounded(self.kind, self.document)
    }

    /// Appends the value as MessagePack, converted if it was written as JSON.
    pub fn write_msgpack(self, out: &mut Vec<u8>) {
        match self.kind {
            ValueKind::MessagePack => out.extend_from_slice(self.document),
            ValueKind::Json => convert::stored_json_to_msgpack(self.document, out),
        }
    }

    /// Appends the value as JSON, converted if it was written as MessagePack.
    pub fn write_json(self, out: &mut Vec<u8>) {
        match self.kind {
            ValueKind::MessagePack => convert::stored_msgpack_to_json(self.document, out),
            ValueKind::Json => out.extend_from_slice(self.document),
        }
    }

    /// The text, if the value is one in either encoding. It costs no memory where it was written as MessagePack.
    #[inline]
    pub fn as_text(self) -> Option<Cow<'a, str>> {
        match self.kind {
            ValueKind::MessagePack => match msgpack::Cursor::new(self.document).token() {
                Ok(msgpack::Token::Str(text)) => Some(Cow::Borrowed(text)),
                _ => None,
            },
            ValueKind::Json => serde_json::from_slice::<String>(self.document).ok().map(Cow::Owned),
        }
    }

    /// The bytes, if the value is a MessagePack bin or JSON's form of one.
    pub fn as_byte_string(self) -> Option<Cow<'a, [u8]>> {
        if self.kind == ValueKind::MessagePack {
            return bin(self.document).map(Cow::Borrowed);
        }
        let mut document = Vec::new();
        self.write_msgpack(&mut document);
        bin(&document).map(|bytes| Cow::Owned(bytes.to_owned()))
    }
}

fn bin(document: &[u8]) -> Option<&[u8]> {
    match msgpack::Cursor::new(document).token() {
        Ok(msgpack::Token::Bin(bytes)) => Some(bytes),
        _ => None,
    }
}

/// What the table may append to a stored value: two 64-bit numbers and a byte of flags.
const TRAILER_ROOM: usize = 17;

/// A key as JSON text: a string, or `{"$bytes":"base64"}` where it is not UTF-8.
pub fn key_to_json_text(out: &mut Vec<u8>, key: &[u8]) {
    match std::str::from_utf8(key) {
        Ok(text) => json::write_text(out, text),
        Err(_) => convert::write_bytes_escape(out, key),
    }
}

/// A key for a line of text: as it is where that is plain, otherwise as JSON.
pub fn key_to_line_text(out: &mut Vec<u8>, key: &[u8]) {
    let plain = std::str::from_utf8(key)
        .is_ok_and(|text| !text.is_empty() && !text.chars().any(char::is_control) && !text.starts_with(['"', '{']));
    if plain { out.extend_from_slice(key) } else { key_to_json_text(out, key) }
}

/// A key from its JSON text: a string, or `{"$bytes":"base64"}`.
pub fn key_from_json(text: &str) -> Result<Key, Failure> {
    let wrong = || Failure::invalid("a key is a string or {\"$bytes\":\"base64\"}");
    let mut walker = json::Walker::new(text);
    match walker.token()? {
        json::Token::Str(text) => Ok(text.into_owned().into_bytes()),
        json::Token::Object => {
            if walker.next_field()?.as_deref() != Some("$bytes") {
                return Err(wrong());
            }
            let json::Token::Str(encoded) = walker.token()? else { return Err(wrong()) };
            let key = BASE64.decode(encoded.as_bytes()).map_err(|_| wrong())?;
            walker.next_field()?.map_or(Ok(key), |_| Err(wrong()))
        }
        _ => Err(wrong()),
    }
}
