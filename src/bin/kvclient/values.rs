//! Values, atoms and transactions as they are given on the command line, in files and on stdin.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvbroker::client::ClientError;
use kvbroker_protocol::limits::VALUE_BYTES_MAX;
use kvbroker_protocol::{Operation, Operations, Scalar, Stored, decode_request};
use serde_json::value::RawValue;

use crate::Trouble;

pub(crate) fn bytes(text: &OsStr) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// What a value is taken as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text where it is UTF-8, otherwise bytes.
    Text,
    Bytes,
    Json,
}

impl Kind {
    pub(crate) fn of_text(json: bool) -> Self {
        if json { Kind::Json } else { Kind::Text }
    }

    pub(crate) fn of_file(json: bool) -> Self {
        if json { Kind::Json } else { Kind::Bytes }
    }
}

pub(crate) fn stored(bytes: Vec<u8>, kind: Kind) -> Result<Stored, Trouble> {
    let stored = match (kind, std::str::from_utf8(&bytes)) {
        (Kind::Json, _) => Stored::from_json(bytes.trim_ascii()),
        (Kind::Text, Ok(text)) => Stored::text(text),
        _ => Stored::bytes(&bytes),
    };
    stored.map_err(|failure| match kind {
        Kind::Json => Trouble::misuse(format!("the value is not JSON: {}", failure.message)),
        _ => Trouble::Client(ClientError::Failed(failure)),
    })
}

/// A transaction from the JSON object of its fields: that of a request, without `op`.
pub(crate) fn transaction(text: &[u8]) -> Result<Operation, Trouble> {
    let wrong = |reason: String| Trouble::misuse(format!("that is no transaction: {reason}"));
    // Raw, so that numbers and texts reach the broker's own reader as they were written.
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_slice(text).map_err(|error| wrong(format!("not a JSON object: {error}")))?;
    let mut body = String::from("{\"op\":\"txn\"");
    for (name, value) in fields {
        if !matches!(name.as_str(), "if" | "then" | "else") {
            return Err(wrong(format!("it has the fields if, then and else, not {name:?}")));
        }
        body.push_str(&format!(",\"{name}\":{value}"));
    }
    body.push('}');
    let request = decode_request(body.as_bytes()).map_err(|rejected| wrong(rejected.failure.message))?;
    match request.operations {
        Operations::One(operation) => Ok(operation),
        Operations::Many(_) => Err(wrong("it is an array".to_owned())),
    }
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, Trouble> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| Trouble::misuse(format!("cannot open {name}: {error}")))?;
    read_all(file, &name)
}

pub(crate) fn read_all(input: impl Read, name: &str) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    // One byte more than any value has tells a full value from too much.
    let read = input.take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Trouble::misuse(format!("cannot read {name}: {error}")))?;
    Ok(bytes)
}

/// JSON where it is a JSON atom, otherwise text.
pub(crate) fn scalar(text: String) -> Scalar {
    Scalar::from_json(&text).unwrap_or(Scalar::Text(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker::exit::Exit;
    use kvbroker_protocol::ValueKind;

    use super::*;

    #[test]
    fn values_are_text_bytes_or_json_by_how_they_are_given() {
        assert_eq!(stored(b"100".to_vec(), Kind::Text).unwrap().as_text().as_deref(), Some("100"));
        assert_eq!(stored(vec![0xff], Kind::Text).unwrap().as_byte_string().unwrap(), [0xff]);
        assert_eq!(stored(b"text".to_vec(), Kind::Bytes).unwrap().as_byte_string().unwrap(), b"text");
        let json = stored(b" {\"a\": 1}\n".to_vec(), Kind::Json).unwrap();
        assert_eq!((json.kind(), json.document()), (ValueKind::Json, &b"{\"a\": 1}"[..]));
        assert!(stored(b"nope".to_vec(), Kind::Json).unwrap_err().to_string().contains("not JSON"));
        let large = stored(vec![0; VALUE_BYTES_MAX + 1], Kind::Bytes).unwrap_err();
        assert_eq!(large.exit(), Exit::Busy);
    }

    #[test]
    fn subvalues_are_json_atoms_or_text() {
        assert_eq!(scalar("100".into()), Scalar::Int(100));
        assert_eq!(scalar("1.5".into()), Scalar::Float(1.5));
        assert_eq!(scalar("true".into()), Scalar::Bool(true));
        assert_eq!(scalar("null".into()), Scalar::Null);
        assert_eq!(scalar("\"100\"".into()), Scalar::Text("100".into()));
        assert_eq!(scalar("zebra".into()), Scalar::Text("zebra".into()));
        assert_eq!(scalar("[1]".into()), Scalar::Text("[1]".into()));
        assert_eq!(scalar(String::new()), Scalar::Text(String::new()));
    }
}
