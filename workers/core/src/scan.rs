//! One page of keys and values in key order.
//!
//! - A page ends at its row limit, its byte limit, or when the message's share of examined keys or of work is used up; its cursor
//!   is the last key examined, so the next page goes on behind it (before it in reverse), whatever has changed meanwhile.
//! - A message of its own always gets on by at least one key, however long the key and dear the pattern.

use kvbroker_protocol::{
    Answer, ErrorCode, Failure, Key, Matcher, Operation, PredicateMatcher, Row, Scan, Scope, Stored, Subject, field_equals,
    limits,
};

use crate::decide::Turn;
use crate::overlay::{Overlay, Seen};
use crate::table::KeyRange;

/// The rows found; only one of the two lists is filled.
#[derive(Default)]
struct Page {
    rows: Vec<Row>,
    keys: Vec<Key>,
    bytes: usize,
}

impl Page {
    fn len(&self) -> usize {
        self.rows.len() + self.keys.len()
    }

    /// True if there is room for so many bytes more; one row always fits.
    fn fits(&self, bytes: usize) -> bool {
        self.len() == 0 || self.bytes + bytes <= limits::PAGE_BYTES_MAX
    }
}

/// What a query demands of a stored value.
pub(crate) type Accepts<'a> = &'a dyn Fn(&[u8]) -> bool;

/// What a key must be like to be on the page.
struct Filter<'a> {
    matcher: Option<Matcher>,
    accepts: Option<Accepts<'a>>,
    predicate: Option<PredicateMatcher>,
}

/// What pages are made of.
pub(crate) trait Entries {
    /// Which keys there are for the reader.
    fn scope(&self) -> &Scope;

    /// How many maps they are read from.
    fn maps(&self) -> usize;

    /// Keys of a range and of the scope in key order or its reverse, with what is seen of each; None: it counts as examined and is not there.
    fn range<'s>(&'s self, range: &KeyRange, reverse: bool) -> Box<dyn Iterator<Item = (&'s [u8], Option<Seen<'s>>)> + 's>;
}

impl Entries for Overlay<'_> {
    fn scope(&self) -> &Scope {
        Overlay::scope(self)
    }

    fn maps(&self) -> usize {
        1
    }

    fn range<'s>(&'s self, range: &KeyRange, reverse: bool) -> Box<dyn Iterator<Item = (&'s [u8], Option<Seen<'s>>)> + 's> {
        Box::new(Overlay::range(self, range, reverse).map(|(key, seen)| (key, Some(seen))))
    }
}

/// Makes one page of a scan or query.
///
/// # Errors
/// `reply_full` if the array of this operation has used up its turn.
pub(crate) fn pages(entries: &impl Entries, operation: &Operation, turn: &mut Turn) -> Result<Answer, Failure> {
    let (wanted, accepts): (_, Option<Accepts<'_>>) = match operation {
        Operation::Scan(wanted) => (wanted, None),
        Operation::Query { subkey, subvalue, scan } => (scan, Some(&|value| field_equals(value, subkey, subvalue))),
        _ => return Err(Failure::new(ErrorCode::Internal, "this operation has no pages")),
    };
    turn.enter(entries.scope(), entries.maps())?;
    page(entries.range(&range(wanted), wanted.reverse), wanted, accepts, turn)
}

fn range(wanted: &Scan) -> KeyRange {
    let mut range = KeyRange::prefix(&wanted.prefix);
    if let Some(from) = &wanted.from {
        range.starting_at(from);
    }
    if let Some(to) = &wanted.to {
        range.ending_before(to);
    }
    match &wanted.cursor {
        Some(cursor) if wanted.reverse => range.ending_before(cursor),
        Some(cursor) => range.starting_behind(cursor),
        None => {}
    }
    range
}

fn page<'a>(
    entries: impl Iterator<Item = (&'a [u8], Option<Seen<'a>>)>,
    wanted: &Scan,
    accepts: Option<Accepts<'_>>,
    turn: &mut Turn,
) -> Result<Answer, Failure> {
    let full =
        || Failure::new(ErrorCode::ReplyFull, "this array has used up its turn; ask for this operation in a message of its own");
    let filter = Filter::new(wanted, accepts)?;
    let rows_max = wanted.limit.unwrap_or(usize::MAX).min(limits::PAGE_ROWS_MAX);
    let mut page = Page::default();
    let mut cursor = None;
    let mut last: Option<&[u8]> = None;
    for (key, seen) in entries {
        // Without a key examined here there is nowhere to go on from: the array's turn was used up before.
        if page.len() == rows_max || turn.is_used_up() {
            cursor = Some(last.ok_or_else(full)?.to_vec());
            break;
        }
        let (accepted, work) = match seen {
            None => (None, 0),
            Some(seen) => {
                let (stored, work) = filter.look(key, &seen);
                (stored.map(|stored| (seen, stored)), work)
            }
        };
        turn.examine(work);
        if let Some((seen, stored)) = accepted {
            let bytes = if wanted.keys_only { key.len() } else { key.len() + stored.len() };
            if !page.fits(bytes) || !turn.take_reply_bytes(bytes) {
                cursor = Some(last.ok_or_else(full)?.to_vec());
                break;
            }
            page.bytes += bytes;
            if wanted.keys_only {
                page.keys.push(key.to_vec());
            } else if let Some(value) = Stored::from_bytes(stored.to_vec()) {
                page.rows.push(Row { key: key.to_vec(), value, modified: seen.modified });
            }
        }
        last = Some(key);
    }
    Ok(if wanted.keys_only {
        Answer::Keys { keys: page.keys, cursor, snapshot: None }
    } else {
        Answer::Rows { rows: page.rows, cursor, snapshot: None }
    })
}

impl<'a> Filter<'a> {
    fn new(wanted: &Scan, accepts: Option<Accepts<'a>>) -> Result<Self, Failure> {
        let refused = || Failure::new(ErrorCode::Internal, "a regex compiled when the request was read, and now it does not");
        let matcher = wanted.pattern.as_ref().map(|pattern| pattern.matcher().ok_or_else(refused)).transpose()?;
        let predicate = wanted.filter.as_ref().map(|filter| filter.matcher().ok_or_else(refused)).transpose()?;
        Ok(Filter { matcher, accepts, predicate })
    }

    /// The stored value if this key belongs on the page, and what it cost at worst to find out.
    fn look<'e>(&self, key: &[u8], seen: &Seen<'e>) -> (Option<&'e [u8]>, usize) {
        let stored = seen.record.stored;
        let mut work: usize = 0;
        if let Some(matcher) = &self.matcher {
            work = matcher.work(key);
            if !matcher.is_match(key) {
                return (None, work);
            }
        }
        if let Some(accepts) = self.accepts {
            work = work.saturating_add(stored.len() / limits::QUERY_BYTES_PER_UNIT);
            if !accepts(stored) {
                return (None, work);
            }
        }
        if let Some(predicate) = &self.predicate {
            let subject = Subject { key, stored: Some(stored), modified: seen.modified, created: seen.created() };
            let verdict = predicate.judge(&subject);
            work = work.saturating_add(verdict.work);
            if !verdict.holds {
                return (None, work);
            }
        }
        (Some(stored), work)
    }
}
