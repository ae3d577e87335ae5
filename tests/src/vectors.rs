//! The shared vectors of `tests/vectors`: reading their files, their notation for bytes, and their patterns for replies.
//!
//! - `tests/vectors/README.md` defines all of it; this is one reading of it, `tests/interop/vectors.py` another.
//! - Only for tests: a vector that is not written as the README says is a panic that names it.
//!
//! Caveat: the protocol's own tests include this file by its path, so it uses nothing but serde_json.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What was kept of earlier replies, by name.
pub type Kept = BTreeMap<String, Value>;

/// The encoding of a body or value, which is the name of its field in a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `json`: a string is its text.
    Json,
    /// `msgpack`: a string is hex digits and quoted short texts.
    MessagePack,
}

/// One vector, or one step of one.
#[derive(Clone, Debug)]
pub struct Vector(pub Value);

impl Vector {
    /// Its name; empty for a step.
    pub fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or_default()
    }

    /// A field that is a text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.0[field].as_str()
    }

    /// True where a field says so.
    pub fn says(&self, field: &str) -> bool {
        self.0[field] == true
    }

    /// The bytes in one encoding, if the vector has them.
    pub fn form(&self, encoding: Encoding, kept: &Kept) -> Option<Vec<u8>> {
        let name = if encoding == Encoding::Json { "json" } else { "msgpack" };
        self.0.get(name).map(|notation| octets(notation, encoding, kept))
    }

    /// The body and its encoding, for a vector or step that has one.
    ///
    /// # Panics
    /// If it has none.
    pub fn body(&self, kept: &Kept) -> (Encoding, Vec<u8>) {
        let form = |encoding| self.form(encoding, kept).map(|bytes| (encoding, bytes));
        form(Encoding::Json).or_else(|| form(Encoding::MessagePack)).unwrap_or_else(|| panic!("no body in {}", self.0))
    }

    /// The steps of a sequence.
    ///
    /// # Panics
    /// If it is none.
    pub fn steps(&self) -> Vec<Vector> {
        let steps = self.0["steps"].as_array().unwrap_or_else(|| panic!("{} has no steps", self.name()));
        steps.iter().cloned().map(Vector).collect()
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

/// The names of the files, without `.json`.
///
/// # Panics
/// If the directory cannot be read.
pub fn files() -> Vec<String> {
    let entries = std::fs::read_dir(directory()).expect("the vectors are part of the repository");
    let names = entries.map(|entry| entry.expect("a directory of the repository can be read").file_name());
    let mut stems: Vec<String> =
        names.filter_map(|name| name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned)).collect();
    stems.sort();
    stems
}

/// The vectors of one file.
///
/// # Panics
/// If there are none.
pub fn vectors(file: &str) -> Vec<Vector> {
    let text = std::fs::read(directory().join(format!("{file}.json"))).unwrap_or_else(|error| panic!("{file}.json: {error}"));
    let content: Value = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{file}.json: {error}"));
    let vectors = content["vectors"].as_array().filter(|vectors| !vectors.is_empty());
    vectors.unwrap_or_else(|| panic!("{file}.json has no vectors")).iter().cloned().map(Vector).collect()
}

/// The bytes that a notation stands for.
///
/// # Panics
/// If the README does not define it, or names what was not kept.
pub fn octets(notation: &Value, encoding: Encoding, kept: &Kept) -> Vec<u8> {
    match notation {
        Value::Array(parts) => parts.iter().flat_map(|part| octets(part, encoding, kept)).collect(),
        Value::String(text) if encoding == Encoding::Json => text.as_bytes().to_vec(),
        Value::String(digits) => from_digits(digits),
        Value::Object(fields) => {
            if let Some(part) = fields.get("repeat") {
                let times = fields["times"].as_u64().unwrap_or_else(|| panic!("how often? {notation}"));
                return octets(part, encoding, kept).repeat(usize::try_from(times).expect("a vector fits into memory"));
            }
            match (fields.get("hex"), fields.get("text"), fields.get("kept")) {
                (Some(digits), None, None) => octets(digits, Encoding::MessagePack, kept),
                (None, Some(text), None) => octets(text, Encoding::Json, kept),
                (None, None, Some(name)) => match name.as_str().and_then(|name| kept.get(name)) {
                    Some(Value::String(text)) => text.as_bytes().to_vec(),
                    Some(number @ Value::Number(_)) => number.to_string().into_bytes(),
                    _ => panic!("nothing was kept for {notation}"),
                },
                _ => panic!("what is {notation}?"),
            }
        }
        _ => panic!("what is {notation}?"),
    }
}

/// Pairs of hex digits, and between single quotes texts of at most 31 bytes, which stand for a MessagePack str.
fn from_digits(digits: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in digits.split('\'').enumerate() {
        if index % 2 == 1 {
            let length = u8::try_from(part.len()).ok().filter(|length| *length < 32);
            bytes.push(0xa0 | length.unwrap_or_else(|| panic!("{part:?} is too long for this notation")));
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Option<Vec<u8>> =
            part.chars().filter(|c| *c != ' ').map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.unwrap_or_else(|| panic!("{part:?} has more than hex digits"));
        let (pairs, rest) = digits.as_chunks::<2>();
        assert!(rest.is_empty(), "{part:?} has half a byte");
        bytes.extend(pairs.iter().map(|[high, low]| high << 4 | low));
    }
    bytes
}

/// Why a reply is not what a pattern says, and where.
///
/// # Panics
/// If the pattern names what was not kept.
pub fn difference(pattern: &Value, actual: &Value, base: u64, kept: &Kept, place: &str) -> Option<String> {
    const ANYTHING: &str = "…";
    let differs = || Some(format!("at {place} the vector says {pattern}, the broker {actual}"));
    match (pattern, actual) {
        (Value::String(text), _) if text == ANYTHING => None,
        (Value::String(text), _) if text.starts_with("R+") => {
            let after: u64 = text[2..].parse().unwrap_or_else(|_| panic!("which revision is {text}?"));
            if actual.as_u64() == Some(base + after) { None } else { differs() }
        }
        (Value::String(text), _) if text.starts_with("K=") => {
            let expected = kept.get(&text[2..]).unwrap_or_else(|| panic!("nothing was kept for {text}"));
            if actual == expected { None } else { differs() }
        }
        (Value::Array(patterns), Value::Array(actuals)) if patterns.len() == actuals.len() => {
            let mut pairs = patterns.iter().zip(actuals).enumerate();
            pairs.find_map(|(at, (pattern, actual))| difference(pattern, actual, base, kept, &format!("{place}[{at}]")))
        }
        (Value::Object(patterns), Value::Object(actuals)) => {
            if !patterns.contains_key(ANYTHING) && patterns.len() != actuals.len() {
                return differs();
            }
            let mut named = patterns.iter().filter(|(name, _)| *name != ANYTHING);
            named.find_map(|(name, pattern)| match actuals.get(name) {
                None => differs(),
                Some(actual) => difference(pattern, actual, base, kept, &format!("{place}.{name}")),
            })
        }
        _ if pattern == actual => None,
        _ => differs(),
    }
}
