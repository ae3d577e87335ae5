//! Finding a place in a stored document, in whichever encoding it was written.
//!
//! - One walk over the document up to the place; nothing is copied or converted but a JSON object that is one of the `$` forms, which
//!   is then read as what it stands for.
//! - Documents were checked when they were stored. Where one is broken all the same, the place is not there.

use crate::convert;
use crate::json::{Token as Json, Walker};
use crate::msgpack::{Cursor, Token as Pack};
use crate::value::ValueKind;

use super::scalar::Atom;

/// One step into a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'p> {
    /// A map's entry with this text as its key.
    Name(&'p str),
    /// An array's element, counted from 0, or a map's entry with this integer as its key.
    Index(u64),
    /// Either: an array's element, or a map's entry whose key is the number's digits as text.
    Digits(u64, &'p str),
}

impl Part<'_> {
    fn is_name(self, name: &str) -> bool {
        match self {
            Part::Name(wanted) | Part::Digits(_, wanted) => wanted == name,
            Part::Index(_) => false,
        }
    }

    /// The place of an array's element.
    fn element(self) -> Option<u64> {
        match self {
            Part::Name(_) => None,
            Part::Index(index) | Part::Digits(index, _) => Some(index),
        }
    }
}

/// A stored document.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Document<'a> {
    Pack(&'a [u8]),
    Json(&'a str),
    /// There is none, or one that cannot be read.
    Nothing,
}

/// A value inside a document: the rest of the document from its first byte on, or a copy of it.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Pack(&'a [u8]),
    Json(&'a str),
    Converted(Vec<u8>),
}

impl<'a> Document<'a> {
    /// Of type byte and document.
    pub(crate) fn of(stored: &'a [u8]) -> Document<'a> {
        const MESSAGE_PACK: u8 = ValueKind::MessagePack as u8;
        const JSON: u8 = ValueKind::Json as u8;
        match stored.split_first() {
            Some((&MESSAGE_PACK, document)) => Document::Pack(document),
            Some((&JSON, document)) => std::str::from_utf8(document).map_or(Document::Nothing, Document::Json),
            _ => Document::Nothing,
        }
    }

    /// The value at the end of a path; None if there is none.
    pub(crate) fn find<'p>(self, path: impl IntoIterator<Item = Part<'p>>) -> Option<Found<'a>> {
        match self {
            Document::Pack(document) => find_in_pack(document, path).map(Found::Pack),
            Document::Json(text) => find_in_json(text, path),
            Document::Nothing => None,
        }
    }
}

impl<'a> Found<'a> {
    /// The value if it is an atomic one.
    pub(crate) fn into_atom(self) -> Option<Atom<'a>> {
        match self {
            Found::Pack(document) => Atom::of_pack(Cursor::new(document).token().ok()?),
            Found::Json(text) => atom_of_json(text),
            Found::Converted(document) => Atom::of_pack(Cursor::new(&document).token().ok()?).map(Atom::into_static),
        }
    }
}

fn find_in_pack<'a, 'p>(document: &'a [u8], path: impl IntoIterator<Item = Part<'p>>) -> Option<&'a [u8]> {
    let mut cursor = Cursor::new(document);
    for part in path {
        match cursor.token().ok()? {
            Pack::Map(length) => go_to_entry(&mut cursor, length, part)?,
            Pack::Array(length) => {
                let index = usize::try_from(part.element()?).ok().filter(|index| *index < length)?;
                for _ in 0..index {
                    cursor.raw().ok()?;
                }
            }
            _ => return None,
        }
    }
    Some(cursor.rest())
}

/// Leaves the cursor in front of the entry's value.
fn go_to_entry(cursor: &mut Cursor<'_>, length: usize, part: Part<'_>) -> Option<()> {
    for _ in 0..length {
        let key_at = cursor.offset();
        let is_it = match (cursor.token().ok()?, part) {
            (Pack::Str(name), part) => part.is_name(name),
            (Pack::UInt(key), Part::Index(index)) => key == index,
            _ => false,
        };
        if is_it {
            return Some(());
        }
        cursor.seek(key_at);
        cursor.raw().ok()?;
        cursor.raw().ok()?;
    }
    None
}

/// What a step into a JSON container leads to.
enum Step<'a> {
    /// The rest of the text from the value on.
    To(&'a str),
    /// The container is perhaps one of the `$` forms: its meaning has other entries than it shows, or none.
    Escape,
}

fn find_in_json<'a, 'p>(text: &'a str, path: impl IntoIterator<Item = Part<'p>>) -> Option<Found<'a>> {
    let mut value = text;
    let mut path = path.into_iter();
    while let Some(part) = path.next() {
        match step_in_json(value, part)? {
            Step::To(next) => value = next,
            Step::Escape => {
                let document = converted(value)?;
                let found = find_in_pack(&document, std::iter::once(part).chain(path))?;
                return Some(Found::Converted(found.to_vec()));
            }
        }
    }
    Some(Found::Json(value))
}

fn step_in_json<'a>(value: &'a str, part: Part<'_>) -> Option<Step<'a>> {
    let mut walker = Walker::new(value);
    match walker.token().ok()? {
        Json::Object => {
            let mut is_first = true;
            while let Some(name) = walker.next_field().ok()? {
                let rest = walker.rest();
                let may_be_escape = is_first && name.starts_with('$');
                let is_it = part.is_name(&name);
                if is_it && !may_be_escape {
                    return Some(Step::To(rest));
                }
                walker.raw().ok()?;
                if may_be_escape && walker.at_object_end() {
                    return Some(Step::Escape);
                }
                if is_it {
                    return Some(Step::To(rest));
                }
                is_first = false;
            }
            None
        }
        Json::Array => {
            let mut left = part.element()?;
            while walker.more_elements() {
                if left == 0 {
                    return Some(Step::To(walker.rest()));
                }
                left -= 1;
                walker.raw().ok()?;
            }
            None
        }
        _ => None,
    }
}

fn atom_of_json(text: &str) -> Option<Atom<'_>> {
    let mut walker = Walker::new(text);
    match walker.token().ok()? {
        Json::Null => Some(Atom::Null),
        Json::Bool(value) => Some(Atom::Bool(value)),
        Json::Number(text) => Atom::of_number(text),
        Json::Str(text) => Some(Atom::Text(text)),
        Json::Array => None,
        // An escape such as {"$bytes":…} is atomic; other containers are not.
        Json::Object => {
            let name = walker.next_field().ok()??;
            walker.raw().ok()?;
            let is_escape = name.starts_with('$') && walker.at_object_end();
            is_escape.then(|| converted(text))?.and_then(|document| Found::Converted(document).into_atom())
        }
    }
}

/// The value that the text begins with, as MessagePack.
fn converted(text: &str) -> Option<Vec<u8>> {
    let value = Walker::new(text).raw().ok()?;
    let mut document = Vec::new();
    convert::stored_json_to_msgpack(value.as_bytes(), &mut document);
    Some(document)
}
