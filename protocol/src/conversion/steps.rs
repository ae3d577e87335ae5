//! What a rule does with the fields of a map, or of each map of an array.
//!
//! - The order is fixed: pick, drop, rename, default. Within each the order in which they are written holds.
//! - A place is a path: names with dots between them, a name that has a dot in quotes (`a."b.c"`), a quote doubled.
//! - pick: the map has these places and no others, in this order; one that is not there is left out. drop: a place that is there is
//!   taken away. rename: what is at a place is moved to another one, where nothing may be. A map on the way that has lost its last field so
//!   goes, too. default: a place that is not there gets a value.
//! - Maps on the way to a new place are made; something else than a map on the way is an error.
//! - Each byte that is passed over is counted, and so the work of a rule is bounded whatever the value is ([`limits::CONVERSION_WORK_MAX`]).

use super::{ConversionError, kind, msgpack_of};
use crate::error::Failure;
use crate::limits;
use crate::msgpack::{Cursor, Token, write};
use crate::value::{Stored, ValueKind};

/// A place in a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(Vec<String>);

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// `invalid` or `limit`.
    pub(crate) fn new(text: &str) -> Result<Path, Failure> {
        let wrong =
            || Failure::invalid(format!("{text:?} is no path; it is names with dots between them, such as a.b or a.\"b.c\""));
        if text.len() > limits::RULE_PATH_BYTES_MAX {
            let message = format!("a path has {} bytes; at most {} are taken", text.len(), limits::RULE_PATH_BYTES_MAX);
            return Err(Failure::limit(message));
        }
        let (mut names, mut rest) = (Vec::new(), text);
        loop {
            let mut name = String::new();
            match rest.strip_prefix('"') {
                Some(mut quoted) => loop {
                    let (part, behind) = quoted.split_once('"').ok_or_else(wrong)?;
                    name.push_str(part);
                    let Some(more) = behind.strip_prefix('"') else {
                        rest = behind;
                        break;
                    };
                    name.push('"');
                    quoted = more;
                },
                None => {
                    let end = rest.find('.').unwrap_or(rest.len());
                    let (plain, behind) = rest.split_at(end);
                    if plain.is_empty() || plain.contains('"') {
                        return Err(wrong());
                    }
                    name.push_str(plain);
                    rest = behind;
                }
            }
            names.push(name);
            if rest.is_empty() {
                return Ok(Path(names));
            }
            rest = rest.strip_prefix('.').ok_or_else(wrong)?;
        }
    }

    fn names(&self) -> &[String] {
        &self.0
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            if name.is_empty() || name.contains(['.', '"']) {
                write!(f, "\"{}\"", name.replace('"', "\"\""))?;
            } else {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// The steps of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    pub(crate) pick: Vec<Path>,
    pub(crate) drop: Vec<Path>,
    pub(crate) rename: Vec<(Path, Path)>,
    pub(crate) default: Vec<(Path, Stored)>,
}

fn path(text: &str) -> Result<Path, Failure> {
    Path::new(text)
}

impl Steps {
    /// None.
    pub fn new() -> Steps {
        Steps::default()
    }

    /// Only these places stay, in this order.
    ///
    /// # Errors
    /// `invalid` or `limit` for a text that is no path; so with all of these.
    pub fn pick(mut self, place: &str) -> Result<Steps, Failure> {
        self.pick.push(path(place)?);
        Ok(self)
    }

    /// This place goes.
    ///
    /// # Errors
    /// As [`Steps::pick`].
    pub fn drop(mut self, place: &str) -> Result<Steps, Failure> {
        self.drop.push(path(place)?);
        Ok(self)
    }

    /// What is at one place is moved to another.
    ///
    /// # Errors
    /// As [`Steps::pick`].
    pub fn rename(mut self, from: &str, to: &str) -> Result<Steps, Failure> {
        self.rename.push((path(from)?, path(to)?));
        Ok(self)
    }

    /// A place that is not there gets this value.
    ///
    /// # Errors
    /// As [`Steps::pick`].
    pub fn default_value(mut self, place: &str, value: Stored) -> Result<Steps, Failure> {
        self.default.push((path(place)?, Stored::checked(ValueKind::MessagePack, &msgpack_of(&value))?));
        Ok(self)
    }

    /// Takes steps that stay within their bounds.
    ///
    /// # Errors
    /// `limit`.
    pub(crate) fn check(self) -> Result<Steps, Failure> {
        if self.len() > limits::RULE_STEPS_MAX {
            let message = format!("the rule has {} steps; at most {} are taken", self.len(), limits::RULE_STEPS_MAX);
            return Err(Failure::limit(message));
        }
        let bytes: usize = self.default.iter().map(|(_, value)| value.document().len()).sum();
        if bytes > limits::RULE_DEFAULT_BYTES_MAX {
            let message = format!("the defaults have {bytes} bytes; at most {} are taken", limits::RULE_DEFAULT_BYTES_MAX);
            return Err(Failure::limit(message));
        }
        let mut pick: Vec<&Path> = self.pick.iter().collect();
        pick.sort_unstable();
        // In this order whatever lies inside a place stands right behind it.
        if let Some([outer, inner]) =
            pick.windows(2).find_map(|pair| Some([pair[0], pair[1]]).filter(|[a, b]| b.0.starts_with(&a.0)))
        {
            return Err(Failure::invalid(format!("`pick` has {outer} and, inside of it or twice, {inner}; leave one out")));
        }
        Ok(self)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pick.len() + self.drop.len() + self.rename.len() + self.default.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value with these steps done on it, or on each of its elements.
    ///
    /// # Errors
    /// [`ConversionError`] if it has no fields, a place can't be had, or it takes too much.
    pub(crate) fn apply(&self, value: &Stored) -> Result<Stored, ConversionError> {
        let document = msgpack_of(value);
        let mut cursor = Cursor::new(&document);
        let mut out = Vec::with_capacity(document.len());
        let mut work = Work { bytes_left: limits::CONVERSION_WORK_MAX * BYTES_PER_WORK };
        match cursor.token().unwrap_or(Token::Nil) {
            Token::Map(_) => self.apply_to(&document, &mut out, &mut work)?,
            Token::Array(length) => {
                write::array(&mut out, length);
                for _ in 0..length {
                    let at = cursor.offset();
                    let token = cursor.token().unwrap_or(Token::Nil);
                    if !matches!(token, Token::Map(_)) {
                        return Err(ConversionError::NoFields(kind(token)));
                    }
                    cursor.seek(at);
                    self.apply_to(cursor.raw().unwrap_or(NIL), &mut out, &mut work)?;
                    if out.len() > limits::VALUE_BYTES_MAX {
                        return Err(ConversionError::TooLarge);
                    }
                }
            }
            other => return Err(ConversionError::NoFields(kind(other))),
        }
        // What is moved down may stand deeper than it did.
        crate::msgpack::check(&out, limits::DEPTH_MAX).map_err(|_| ConversionError::TooDeep)?;
        Stored::checked(ValueKind::MessagePack, &out).map_err(|_| ConversionError::TooLarge)
    }

    fn apply_to<'a>(&'a self, map: &'a [u8], out: &mut Vec<u8>, work: &mut Work) -> Result<(), ConversionError> {
        let mut root = Node::Raw(map);
        if !self.pick.is_empty() {
            let mut picked = Node::Map(Vec::with_capacity(self.pick.len()));
            for place in &self.pick {
                if let Some(found) = find(map, place.names(), work)? {
                    picked.put(place, Node::Raw(found), work)?;
                }
            }
            root = picked;
        }
        for place in &self.drop {
            root.take(place.names(), work)?;
        }
        for (from, to) in &self.rename {
            let Some(moved) = root.take(from.names(), work)? else { continue };
            if !root.put(to, moved, work)? {
                return Err(ConversionError::Taken { from: from.to_string(), to: to.to_string() });
            }
        }
        for (place, value) in &self.default {
            root.put(place, Node::Raw(value.document()), work)?;
        }
        root.write(out);
        Ok(())
    }
}

const NIL: &[u8] = &[0xc0];

/// Bytes that are passed over for one unit of [`limits::CONVERSION_WORK_MAX`].
const BYTES_PER_WORK: usize = 8;
/// What a look at one entry counts, in bytes.
const ENTRY_BYTES: usize = 16;

struct Work {
    bytes_left: usize,
}

impl Work {
    fn spend(&mut self, bytes: usize) -> Result<(), ConversionError> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(ConversionError::TooMuchWork)?;
        Ok(())
    }
}

/// A value that is being changed: maps are opened only where a path leads into them.
enum Node<'a> {
    Raw(&'a [u8]),
    Map(Vec<(Name<'a>, Node<'a>)>),
}

/// The key of an entry: nearly always a text.
#[derive(Clone, Copy)]
enum Name<'a> {
    Text(&'a str),
    Other(&'a [u8]),
}

impl Name<'_> {
    fn is(self, name: &str) -> bool {
        matches!(self, Name::Text(text) if text == name)
    }
}

impl<'a> Node<'a> {
    /// The entries, if this is a map.
    fn open(&mut self, work: &mut Work) -> Result<Option<&mut Vec<(Name<'a>, Node<'a>)>>, ConversionError> {
        if let Node::Raw(raw) = *self {
            let mut cursor = Cursor::new(raw);
            let Ok(Token::Map(length)) = cursor.token() else { return Ok(None) };
            work.spend(raw.len() + length * ENTRY_BYTES)?;
            let mut entries = Vec::with_capacity(length);
            for _ in 0..length {
                let (name, value) = entry(&mut cursor);
                entries.push((name, Node::Raw(value)));
            }
            *self = Node::Map(entries);
        }
        match self {
            Node::Map(entries) => {
                work.spend(entries.len() * ENTRY_BYTES)?;
                Ok(Some(entries))
            }
            Node::Raw(_) => Ok(None),
        }
    }

    fn take(&mut self, names: &[String], work: &mut Work) -> Result<Option<Node<'a>>, ConversionError> {
        let Some((name, rest)) = names.split_first() else { return Ok(None) };
        let Some(entries) = self.open(work)? else { return Ok(None) };
        let Some(at) = entries.iter().position(|(found, _)| found.is(name)) else { return Ok(None) };
        if rest.is_empty() {
            return Ok(Some(entries.remove(at).1));
        }
        let taken = entries[at].1.take(rest, work)?;
        if taken.is_some() && matches!(&entries[at].1, Node::Map(entries) if entries.is_empty()) {
            entries.remove(at);
        }
        Ok(taken)
    }

    /// False if something is there already; it stays.
    fn put(&mut self, place: &'a Path, value: Node<'a>, work: &mut Work) -> Result<bool, ConversionError> {
        let mut node = self;
        let (last, way) = place.names().split_last().expect("a path has a name");
        for name in way {
            let entries = node.open(work)?.ok_or_else(|| ConversionError::Blocked(place.to_string()))?;
            let at = entries.iter().position(|(found, _)| found.is(name)).unwrap_or_else(|| {
                entries.push((Name::Text(name), Node::Map(Vec::new())));
                entries.len() - 1
            });
            node = &mut entries[at].1;
        }
        let entries = node.open(work)?.ok_or_else(|| ConversionError::Blocked(place.to_string()))?;
        if entries.iter().any(|(found, _)| found.is(last)) {
            return Ok(false);
        }
        entries.push((Name::Text(last), value));
        Ok(true)
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Node::Raw(raw) => out.extend_from_slice(raw),
            Node::Map(entries) => {
                write::map(out, entries.len());
                for (name, value) in entries {
                    match name {
                        Name::Text(text) => write::text(out, text),
                        Name::Other(raw) => out.extend_from_slice(raw),
                    }
                    value.write(out);
                }
            }
        }
    }
}

/// The next entry of a map in a document that was checked when it was stored.
fn entry<'a>(cursor: &mut Cursor<'a>) -> (Name<'a>, &'a [u8]) {
    let key = cursor.raw().unwrap_or(NIL);
    let name = match Cursor::new(key).token() {
        Ok(Token::Str(text)) => Name::Text(text),
        _ => Name::Other(key),
    };
    (name, cursor.raw().unwrap_or(NIL))
}

/// What is at a place.
fn find<'a>(map: &'a [u8], names: &[String], work: &mut Work) -> Result<Option<&'a [u8]>, ConversionError> {
    let mut found = map;
    for name in names {
        let mut cursor = Cursor::new(found);
        let Ok(Token::Map(length)) = cursor.token() else { return Ok(None) };
        let mut value = None;
        for _ in 0..length {
            let at = cursor.offset();
            let (key, entry) = entry(&mut cursor);
            work.spend(cursor.offset() - at + ENTRY_BYTES)?;
            if key.is(name) {
                value = Some(entry);
                break;
            }
        }
        match value {
            Some(value) => found = value,
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::msgpack_to_json;

    fn json(text: &str) -> Stored {
        Stored::from_json(text.as_bytes()).unwrap()
    }

    fn done(steps: &Steps, value: &str) -> Result<String, &'static str> {
        let result = steps.apply(&json(value)).map_err(|error| error.name())?;
        Ok(String::from_utf8(msgpack_to_json(result.document()).unwrap()).unwrap())
    }

    #[test]
    fn paths_read_back() {
        for text in ["a", "a.b", "a.\"b.c\"", "\"\"", "\"a\"\"b\".c", "ä.b c"] {
            assert_eq!(Path::new(text).unwrap().to_string(), text);
        }
        for wrong in ["", ".", "a.", ".a", "a..b", "\"a", "\"a\"b", "a\"b"] {
            assert!(Path::new(wrong).is_err(), "{wrong}");
        }
        assert!(Path::new(&"a".repeat(limits::RULE_PATH_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn steps_are_done_in_their_order() {
        let steps = Steps::new().pick("b").unwrap().pick("a.x").unwrap().pick("gone").unwrap();
        let steps = steps.drop("b.secret").unwrap().rename("a.x", "size.width").unwrap();
        let steps = steps.default_value("size.unit", json("\"px\"")).unwrap().default_value("b", json("0")).unwrap();
        let value = r#"{"a":{"x":1,"y":2},"b":{"secret":1,"k":[1]},"c":3}"#;
        let wanted = r#"{"b":{"k":[1]},"size":{"width":1,"unit":"px"}}"#;
        assert_eq!(done(&steps, value).as_deref(), Ok(wanted));
        assert_eq!(done(&steps, &format!("[{value},{{}}]")), Ok(format!(r#"[{wanted},{{"size":{{"unit":"px"}},"b":0}}]"#)));
    }

    #[test]
    fn what_can_not_be_done_is_an_error() {
        let rename = Steps::new().rename("a", "b").unwrap();
        assert_eq!(done(&rename, r#"{"a":1,"b":2}"#), Err("taken"));
        assert_eq!(done(&rename, r#"{"b":2}"#).as_deref(), Ok(r#"{"b":2}"#));
        assert_eq!(done(&Steps::new().rename("a", "b.c").unwrap(), r#"{"a":1,"b":2}"#), Err("blocked"));
        assert_eq!(done(&Steps::new().default_value("a.b", json("1")).unwrap(), r#"{"a":[]}"#), Err("blocked"));
        assert_eq!(done(&rename, "1"), Err("no_fields"));
        assert_eq!(done(&rename, "[1]"), Err("no_fields"));
        // Keys that are no texts stay what they are.
        assert_eq!(done(&rename, r#"{"$map":[[1,2],["a",3]]}"#).as_deref(), Ok(r#"{"$map":[[1,2],["b",3]]}"#));
        assert_eq!(done(&Steps::new().drop("a.b.c").unwrap(), r#"{"a":{"b":1}}"#).as_deref(), Ok(r#"{"a":{"b":1}}"#));
    }

    #[test]
    fn work_is_bounded() {
        let fields: Vec<String> = (0..200_000).map(|field| format!("\"{field}\":0")).collect();
        let steps = (0..40).fold(Steps::new(), |steps, at| steps.pick(&format!("x{at}")).unwrap());
        assert_eq!(done(&steps, &format!("{{{}}}", fields.join(","))), Err("too_much_work"));
    }

    #[test]
    fn steps_have_bounds() {
        let many = (0..=limits::RULE_STEPS_MAX).fold(Steps::new(), |steps, at| steps.drop(&format!("x{at}")).unwrap());
        assert!(many.check().is_err());
        let large = Stored::bytes(&vec![0; limits::RULE_DEFAULT_BYTES_MAX]).unwrap();
        assert!(Steps::new().default_value("a", large).unwrap().check().is_err());
        assert!(Steps::new().pick("a.b").unwrap().pick("a").unwrap().check().is_err());
        assert!(Steps::new().pick("a.b").unwrap().pick("ab").unwrap().check().is_ok());
        let deep = Steps::new().rename("a", "b.c.d").unwrap();
        assert_eq!(done(&deep, &format!("{{\"a\":{}1{}}}", "[".repeat(99), "]".repeat(99))), Err("too_deep"));
    }
}
