//! One update as it arrives: a datagram or the content of a TCP connection.
//!
//! - Three forms exist: a JSON object; the same compressed with zlib behind a
//!   Control-Z byte (CCTools compresses updates from 1,200 bytes on); and lines of
//!   `name value`, which old CCTools programs send and which are not taken here.
//! - The sender's fields are kept as they were written and in their order, without
//!   white space, so that a stored record is one line. Nothing is believed: the
//!   fields that the catalog itself sets are removed.
//! - Bounds come before work: compressed data is expanded to [`UPDATE_BYTES_MAX`] at most.

use std::net::IpAddr;

use kvbroker::catalog::{Fields, compact_json, is_plain_text};
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// Longest update, expanded; a broker's has about 700 bytes, a large TaskVine
/// manager's some 10,000.
pub const UPDATE_BYTES_MAX: usize = 128 * 1024;
/// What stands in front of a compressed update.
const COMPRESSED: u8 = 0x1a;
/// Longest part of a `uuid` that counts in a record's key, as in CCTools.
const UUID_CHARS_MAX: usize = 128;
/// Longest host name that is believed.
const NAME_BYTES_MAX: usize = 255;
/// Fields that only the catalog may set.
const OWN_FIELDS: [&str; 3] = ["name", "lastheardfrom", "address"];

/// An update that can be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What it replaces: `ADDRESS:PORT:NAME[:UUID]`, as in CCTools.
    pub key: String,
    /// Where it came from.
    pub address: IpAddr,
    /// The sender's name for its host, or the address.
    pub name: String,
    /// The sender's fields: `"type":"x","port":1`, without braces.
    pub fields: String,
    /// How long the sender wants to be kept, in seconds.
    pub lifetime_s: Option<u64>,
}

/// Why an update is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// It has no bytes.
    #[error("it is empty")]
    Empty,
    /// It has more than [`UPDATE_BYTES_MAX`] bytes, expanded.
    #[error("it has more than {UPDATE_BYTES_MAX} bytes")]
    TooLong,
    /// Its compressed form is damaged.
    #[error("it is marked as compressed and can't be expanded")]
    BadCompression,
    /// It is text of another form; old CCTools sent lines, browsers send `GET`.
    #[error("it is not a JSON object: {0}")]
    NotAnObject(String),
}

impl Update {
    /// Reads an update that came from `address`.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub fn decode(bytes: &[u8], address: IpAddr) -> Result<Self, UpdateError> {
        let expanded;
        let bytes = match bytes {
            [] => return Err(UpdateError::Empty),
            [COMPRESSED, rest @ ..] => {
                expanded = expand(rest)?;
                expanded.as_slice()
            }
            bytes => bytes,
        };
        if bytes.len() > UPDATE_BYTES_MAX {
            return Err(UpdateError::TooLong);
        }
        // A C program may send its text with the zero at the end.
        let text = std::str::from_utf8(bytes).map_err(|_| UpdateError::NotAnObject("it is not UTF-8".to_owned()))?;
        let text = text.trim_end_matches('\0').trim();
        // `Fields` leaves values unread. What some JSON reader chokes on (1e999, a lone
        // surrogate, endless nesting) would spoil the whole listing for it: read all.
        serde_json::from_str::<serde_json::Value>(text).map_err(|error| UpdateError::NotAnObject(error.to_string()))?;
        let fields = Fields::parse(text).map_err(|error| UpdateError::NotAnObject(error.to_string()))?;
        Ok(Self::from_fields(&fields, address.to_canonical()))
    }

    fn from_fields(fields: &Fields<'_>, address: IpAddr) -> Self {
        // CCTools asks the DNS who the sender is; a name for people is not worth a
        // blocking look-up per sender, so the sender may say it.
        let name = fields
            .text("name")
            .filter(|name| is_plain_text(name, NAME_BYTES_MAX))
            .unwrap_or_else(|| if address.is_loopback() { "localhost".to_owned() } else { address.to_string() });
        let port = fields.number("port").ok().flatten().unwrap_or(0);
        let mut key = format!("{address}:{port}:{name}");
        if let Some(uuid) = fields.text("uuid") {
            key.push(':');
            key.extend(uuid.chars().take(UUID_CHARS_MAX));
        }
        let mut kept = String::new();
        for (field, value) in fields.iter().filter(|(field, _)| !OWN_FIELDS.contains(field)) {
            if !kept.is_empty() {
                kept.push(',');
            }
            kept.push_str(&quoted(field));
            kept.push(':');
            kept.push_str(&compact_json(value));
        }
        Update { key, address, name, fields: kept, lifetime_s: fields.number("lifetime").ok().flatten() }
    }
}

/// A text as JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text always has a JSON form")
}

fn expand(bytes: &[u8]) -> Result<Vec<u8>, UpdateError> {
    decompress_to_vec_zlib_with_limit(bytes, UPDATE_BYTES_MAX).map_err(|error| {
        if error.status == miniz_oxide::inflate::TINFLStatus::HasMoreOutput {
            UpdateError::TooLong
        } else {
            UpdateError::BadCompression
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Update, UpdateError> {
        Update::decode(bytes, "10.1.2.3".parse().unwrap())
    }

    /// zlib data without compression: a header, stored blocks, Adler-32.
    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0x78, 0x01];
        let mut chunks = data.chunks(0xffff).peekable();
        while let Some(chunk) = chunks.next() {
            out.push(u8::from(chunks.peek().is_none()));
            let len = u16::try_from(chunk.len()).unwrap();
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&(!len).to_le_bytes());
            out.extend_from_slice(chunk);
        }
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in data {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        out.extend_from_slice(&((b << 16) | a).to_be_bytes());
        out
    }

    #[test]
    fn fields_are_kept_and_the_catalogs_own_are_not_believed() {
        let update = decode(br#"{ "type":"x" , "address":"9.9.9.9","port":7,"lastheardfrom":1, "o": {"a" : [1, 2]} }"#).unwrap();
        assert_eq!(update.fields, r#""type":"x","port":7,"o":{"a":[1,2]}"#);
        assert_eq!(update.key, "10.1.2.3:7:10.1.2.3");
        assert_eq!(update.lifetime_s, None);
    }

    #[test]
    fn the_key_has_name_and_uuid() {
        let update = decode(br#"{"name":"h1","uuid":"u","port":"8","lifetime":"60"}"#).unwrap();
        assert_eq!(update.key, "10.1.2.3:8:h1:u");
        assert_eq!(update.lifetime_s, Some(60));
        let long = format!(r#"{{"uuid":"{}"}}"#, "u".repeat(999));
        assert!(decode(long.as_bytes()).unwrap().key.len() < 200);
    }

    #[test]
    fn compressed_updates_are_expanded_up_to_the_limit() {
        let mut bytes = vec![COMPRESSED];
        bytes.extend(zlib(br#"{"type":"x","port":1}"#));
        assert_eq!(decode(&bytes).unwrap().fields, r#""type":"x","port":1"#);

        let mut bomb = vec![COMPRESSED];
        bomb.extend(zlib(&vec![b' '; UPDATE_BYTES_MAX + 1]));
        assert_eq!(decode(&bomb), Err(UpdateError::TooLong));
        assert_eq!(decode(&[COMPRESSED, 1, 2, 3]), Err(UpdateError::BadCompression));
        assert_eq!(decode(&[COMPRESSED]), Err(UpdateError::BadCompression));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let long = vec![b' '; UPDATE_BYTES_MAX + 1];
        for bad in [&b""[..], b"[]", b"GET / HTTP/1.0", b"type x\nport 1\n", b"{\"a\":inf}", b"{\"a\":1}x", b"\xff", b"{", &long]
        {
            assert!(decode(bad).is_err(), "{:?}", &bad[..bad.len().min(20)]);
        }
        assert!(decode(b"{\"port\":1}\0").is_ok());
        let deep = format!(r#"{{"d":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        for spoiler in ["{\"n\":1e999}", "{\"s\":\"\\ud800\"}", &deep] {
            assert!(decode(spoiler.as_bytes()).is_err(), "{spoiler:.40}");
        }
    }
}
