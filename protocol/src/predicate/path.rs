//! Finding places in a stored document, in whichever encoding it was written.
//!
//! - All places are found in one walk, however many there are, so that what a document costs is bounded by its length.
//! - Nothing is copied or converted but a JSON document that may have one of the `$` forms in it: it is read as what it stands for.
//! - Documents were checked when they were stored. Where one is broken all the same, what comes behind is not there.

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

    fn is_key(self, key: Pack<'_>) -> bool {
        match (key, self) {
            (Pack::Str(name), part) => part.is_name(name),
            (Pack::UInt(key), Part::Index(index)) => key == index,
            _ => false,
        }
    }

    fn element(self) -> Option<u64> {
        match self {
            Part::Name(_) => None,
            Part::Index(index) | Part::Digits(index, _) => Some(index),
        }
    }
}

/// The places that are looked for, by their numbers from 0.
pub(crate) trait Paths {
    /// How many there are.
    fn count(&self) -> usize;
    /// A path's step at this depth; None where the path is not that long.
    fn part(&self, path: usize, depth: usize) -> Option<Part<'_>>;
}

/// What is at a place.
#[derive(Clone, Debug)]
pub(crate) enum Found<'a> {
    Atom(Atom<'a>),
    /// An array, a map, or something else that no atom equals.
    Other,
}

impl<'a> Found<'a> {
    fn of(atom: Option<Atom<'a>>) -> Self {
        atom.map_or(Found::Other, Found::Atom)
    }

    fn into_static(self) -> Found<'static> {
        match self {
            Found::Atom(atom) => Found::Atom(atom.into_static()),
            Found::Other => Found::Other,
        }
    }
}

/// What was found, and what it cost.
#[derive(Debug)]
pub(crate) struct Finds<'a> {
    /// By the paths' numbers; None: there is nothing.
    pub(crate) found: Vec<Option<Found<'a>>>,
    /// The document was converted on the way.
    pub(crate) is_converted: bool,
}

/// Looks for all places in a stored value: type byte and document.
pub(crate) fn find<'a>(stored: &'a [u8], paths: &impl Paths) -> Finds<'a> {
    const MESSAGE_PACK: u8 = ValueKind::MessagePack as u8;
    const JSON: u8 = ValueKind::Json as u8;
    let mut search = Search { paths, found: vec![None; paths.count()], missing: paths.count() };
    let all: Vec<usize> = (0..paths.count()).collect();
    match stored.split_first() {
        Some((&MESSAGE_PACK, document)) => {
            search.in_pack(&mut Cursor::new(document), 0, &all);
        }
        Some((&JSON, document)) => {
            let text = std::str::from_utf8(document).unwrap_or_default();
            if has_dollar_name(text) {
                let mut converted = Vec::new();
                convert::stored_json_to_msgpack(document, &mut converted);
                let found = find_converted(&converted, paths);
                return Finds { found, is_converted: true };
            }
            search.in_json(&mut Walker::new(text), 0, &all);
        }
        _ => {}
    }
    Finds { found: search.found, is_converted: false }
}

/// True if a field's name may begin with a dollar; also true of some texts.
fn has_dollar_name(text: &str) -> bool {
    text.contains("\"$") || text.contains("\"\\u0024")
}

fn find_converted(document: &[u8], paths: &impl Paths) -> Vec<Option<Found<'static>>> {
    let mut search = Search { paths, found: vec![None; paths.count()], missing: paths.count() };
    let all: Vec<usize> = (0..paths.count()).collect();
    search.in_pack(&mut Cursor::new(document), 0, &all);
    search.found.into_iter().map(|found| found.map(Found::into_static)).collect()
}

/// One walk. Its methods give None where nothing more can be found: everything is, or the document is broken.
struct Search<'p, 'a, P> {
    paths: &'p P,
    found: Vec<Option<Found<'a>>>,
    /// Places that are not found yet.
    missing: usize,
}

/// Elements of an array with the paths that lead there, the last first: taken off from the end as the walk comes to them, so that
/// an element which nobody asks for costs nothing.
struct Elements {
    wanted: Vec<(u64, usize)>,
}

impl Elements {
    fn at(&mut self, at: u64) -> Vec<usize> {
        let mut paths = Vec::new();
        while let Some((_, path)) = self.wanted.pop_if(|(index, _)| *index == at) {
            paths.push(path);
        }
        paths
    }
}

impl<'a, P: Paths> Search<'_, 'a, P> {
    /// Notes what is here for the paths that end here, and gives those that go on.
    fn settle(&mut self, depth: usize, active: &[usize], here: impl Fn() -> Option<Atom<'a>>) -> Vec<usize> {
        let (longer, ended): (Vec<usize>, Vec<usize>) = active.iter().partition(|path| self.paths.part(**path, depth).is_some());
        for path in ended {
            self.found[path] = Some(Found::of(here()));
            self.missing -= 1;
        }
        longer
    }

    /// The paths whose step at this depth is the one that `is_it` asks for.
    fn stepping(&self, depth: usize, longer: &[usize], is_it: impl Fn(Part<'_>) -> bool) -> Vec<usize> {
        // Allocates only where there is one.
        longer.iter().copied().filter(|path| self.paths.part(*path, depth).is_some_and(&is_it)).collect()
    }

    /// The elements of an array that the paths' steps at this depth ask for.
    fn elements(&self, depth: usize, longer: &[usize]) -> Elements {
        let element = |path: &usize| Some((self.paths.part(*path, depth)?.element()?, *path));
        let mut wanted: Vec<(u64, usize)> = longer.iter().filter_map(element).collect();
        wanted.sort_unstable_by(|one, other| other.cmp(one));
        Elements { wanted }
    }

    /// Walks over one value, which the active paths have led to.
    fn in_pack(&mut self, cursor: &mut Cursor<'a>, depth: usize, active: &[usize]) -> Option<()> {
        let start = cursor.offset();
        let token = cursor.token().ok()?;
        let longer = self.settle(depth, active, || Atom::of_pack(token));
        if self.missing == 0 {
            return None;
        }
        match token {
            Pack::Array(_) | Pack::Map(_) if longer.is_empty() => {
                cursor.seek(start);
                cursor.raw().ok()?;
            }
            Pack::Array(length) => {
                let mut elements = self.elements(depth, &longer);
                for at in 0..length {
                    self.pack_inside(cursor, depth, &elements.at(at as u64))?;
                }
            }
            Pack::Map(length) => {
                for _ in 0..length {
                    let key_at = cursor.offset();
                    let key = cursor.token().ok()?;
                    if matches!(key, Pack::Array(_) | Pack::Map(_)) {
                        cursor.seek(key_at);
                        cursor.raw().ok()?;
                    }
                    let inside = self.stepping(depth, &longer, |part| part.is_key(key));
                    self.pack_inside(cursor, depth, &inside)?;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn pack_inside(&mut self, cursor: &mut Cursor<'a>, depth: usize, inside: &[usize]) -> Option<()> {
        if inside.is_empty() { cursor.raw().ok().map(drop) } else { self.in_pack(cursor, depth + 1, inside) }
    }

    /// The same in JSON without `$` forms.
    fn in_json(&mut self, walker: &mut Walker<'a>, depth: usize, active: &[usize]) -> Option<()> {
        let start = walker.offset();
        let token = walker.token().ok()?;
        let longer = self.settle(depth, active, || match &token {
            Json::Null => Some(Atom::Null),
            Json::Bool(value) => Some(Atom::Bool(*value)),
            Json::Number(text) => Atom::of_number(text),
            Json::Str(text) => Some(Atom::Text(text.clone())),
            Json::Array | Json::Object => None,
        });
        if self.missing == 0 {
            return None;
        }
        match token {
            Json::Array | Json::Object if longer.is_empty() => {
                walker.seek(start);
                walker.raw().ok()?;
            }
            Json::Array => {
                let (mut elements, mut at) = (self.elements(depth, &longer), 0);
                while walker.more_elements() {
                    self.json_inside(walker, depth, &elements.at(at))?;
                    at += 1;
                }
            }
            Json::Object => {
                while let Some(name) = walker.next_field().ok()? {
                    let inside = self.stepping(depth, &longer, |part| part.is_name(&name));
                    self.json_inside(walker, depth, &inside)?;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn json_inside(&mut self, walker: &mut Walker<'a>, depth: usize, inside: &[usize]) -> Option<()> {
        if inside.is_empty() { walker.raw().ok().map(drop) } else { self.in_json(walker, depth + 1, inside) }
    }
}
