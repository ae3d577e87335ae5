//! One line of `authorized_clients`: read and written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kvbroker_protocol::limits::{GRANT_COMMENT_BYTES_MAX, GRANT_PREFIXES_MAX};
use kvbroker_protocol::{Access, GrantInfo, Key, Role, UserKeyError, grant_comment};
use serde::Deserialize;

/// Why a line is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// It isn't UTF-8.
    #[error("it is not UTF-8 text; write bytes in a prefix as prefix={{\"$bytes\":\"base64\"}}")]
    NotText,
    /// It doesn't begin with a public key.
    #[error("{0}")]
    Key(#[from] UserKeyError),
    /// A secret key stands somewhere in it.
    #[error(
        "there is a secret key (kvsec1...) in it, and now others may have seen it: its owner must get a new one; only public keys \
         (kvpub1...) belong here"
    )]
    Secret,
    /// There is nothing behind the key.
    #[error("the role is missing; write read, write or admin behind the key")]
    NoRole,
    /// The second word is no role.
    #[error("{0} is no role; write read, write or admin behind the key")]
    Role(String),
    /// A word that means nothing here.
    #[error("{0} means nothing here; behind the role stand prefix=P, as often as needed, and `# comment`")]
    Word(String),
    /// A prefix that can't be read.
    #[error("the prefix {0} cannot be read: {1}")]
    Prefix(String, &'static str),
    /// A prefix of no bytes.
    #[error("an empty prefix would be every key; leave it out if that is meant")]
    EmptyPrefix,
    /// More than a key may have.
    #[error("it has more than {GRANT_PREFIXES_MAX} prefixes; give a shorter prefix that they have in common")]
    TooManyPrefixes,
    /// What the words say together is not possible.
    #[error("{0}")]
    Access(String),
    /// A comment that is too long or not printable.
    #[error("{0}; the longest comment has {GRANT_COMMENT_BYTES_MAX} bytes")]
    Comment(String),
    /// The key has another line.
    #[error("the key stands in line {first} already; a key has one line, with all its prefixes")]
    Twice {
        /// The other line, counted from 1.
        first: usize,
    },
}

/// The word that begins a prefix.
const PREFIX: &str = "prefix=";
/// Characters of a word that an error repeats.
const SHOWN_CHARS: usize = 40;

/// The grant of a line; None for a comment or an empty line.
pub(super) fn parse(line: &[u8]) -> Result<Option<GrantInfo>, LineProblem> {
    let trimmed = line.trim_ascii();
    if trimmed.is_empty() || trimmed.starts_with(b"#") {
        return Ok(None);
    }
    let text = std::str::from_utf8(trimmed).map_err(|_| LineProblem::NotText)?;
    let (key, rest) = word(text);
    let key = key.parse()?;
    // From here on words are repeated in errors.
    if text.to_ascii_lowercase().contains("kvsec1") {
        return Err(LineProblem::Secret);
    }
    let (role, mut rest) = word(rest);
    if role.is_empty() || role.starts_with('#') {
        return Err(LineProblem::NoRole);
    }
    let role = Role::from_name(role).ok_or_else(|| LineProblem::Role(shown(role)))?;
    let (mut prefixes, mut comment) = (Vec::new(), String::new());
    while !rest.is_empty() {
        if let Some(text) = rest.strip_prefix('#') {
            comment = grant_comment(text).map_err(|failure| LineProblem::Comment(failure.message))?;
            break;
        }
        let Some(value) = rest.strip_prefix(PREFIX) else { return Err(LineProblem::Word(shown(word(rest).0))) };
        let (prefix, behind) = prefix(value)?;
        if prefix.is_empty() {
            return Err(LineProblem::EmptyPrefix);
        }
        if prefixes.len() == GRANT_PREFIXES_MAX {
            return Err(LineProblem::TooManyPrefixes);
        }
        prefixes.push(prefix);
        rest = behind;
    }
    let access = Access::new(role, prefixes).map_err(|failure| LineProblem::Access(failure.message))?;
    Ok(Some(GrantInfo { key, role, prefixes: access.scope.list().to_vec(), comment }))
}

/// A line that reads back as this grant, if any does.
pub(super) fn show(grant: &GrantInfo) -> String {
    let mut line = format!("{} {}", grant.key, grant.role);
    for prefix in &grant.prefixes {
        line.push(' ');
        line.push_str(PREFIX);
        match std::str::from_utf8(prefix) {
            Ok(text) if text.bytes().all(is_plain) => line.push_str(text),
            Ok(text) => line.push_str(&quoted(text)),
            Err(_) => line.push_str(&format!("{{\"$bytes\":\"{}\"}}", STANDARD.encode(prefix))),
        }
    }
    if !grant.comment.is_empty() {
        line.push_str(" # ");
        line.push_str(&grant.comment);
    }
    line
}

/// Written without quotes: what nobody can misread.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-:+=,@%~!*".contains(&byte)
}

/// JSON, with everything escaped that isn't printable ASCII: a file that is edited by hand shows what it says.
fn quoted(text: &str) -> String {
    let json = serde_json::to_string(text).expect("a text is JSON");
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() && character != '\x7f' || character.is_alphanumeric() {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// The first word, and what stands behind the white space that follows it.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start())
}

/// A prefix, and what stands behind it.
fn prefix(text: &str) -> Result<(Key, &str), LineProblem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bytes {
        #[serde(rename = "$bytes")]
        base64: String,
    }
    let wrong = |why| LineProblem::Prefix(shown(word(text).0), why);
    match text.bytes().next() {
        Some(b'"') => {
            let (prefix, rest) =
                json::<String>(text).ok_or_else(|| wrong("it is not a JSON string with white space behind it"))?;
            Ok((prefix.into_bytes(), rest))
        }
        Some(b'{') => {
            let why = "what begins with { is {\"$bytes\":\"base64\"}, with white space behind it; put other texts in quotes";
            let (bytes, rest) = json::<Bytes>(text).ok_or_else(|| wrong(why))?;
            Ok((STANDARD.decode(bytes.base64).map_err(|_| wrong("this is not base64 with its padding"))?, rest))
        }
        _ => {
            let (plain, rest) = word(text);
            if plain.chars().any(|character| matches!(character, '"' | '\'' | '#') || character.is_control()) {
                return Err(wrong("put it in quotes as a JSON string if it has quotes, # or control characters"));
            }
            Ok((plain.into(), rest))
        }
    }
}

/// A JSON value at the beginning, and what stands behind the white space that must follow it.
fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Option<(T, &'a str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let value = values.next()?.ok()?;
    let rest = text.get(values.byte_offset()..)?;
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then(|| (value, rest.trim_start()))
}

/// A word as an error shows it.
fn shown(word: &str) -> String {
    let start: String = word.chars().take(SHOWN_CHARS).collect();
    let more = if start.len() < word.len() { "..." } else { "" };
    format!("'{}{more}'", start.escape_debug())
}
