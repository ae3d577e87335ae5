//! One page of keys and values in key order.
//!
//! - A page ends at its row limit, its byte limit, or when the message's share of examined keys or of work is used up; its cursor
//!   is the last key examined, so the next page goes on behind it, whatever has changed meanwhile.
//! - A message of its own always gets on by at least one key, however long the key and dear the pattern.

use kvbroker_protocol::{ErrorCode, Failure, Key, Matcher, Row, Scan, limits};

use crate::decide::{Turn, row_bytes};
use crate::record::split_table_record;
use crate::state::State;
use crate::table::Entry;

pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    pub(crate) cursor: Option<Key>,
}

/// What a query demands of a stored value.
pub(crate) type Accepts<'a> = &'a dyn Fn(&[u8]) -> bool;

/// What a key must be like to be on the page.
struct Filter<'a> {
    matcher: Option<Matcher>,
    accepts: Option<Accepts<'a>>,
}

pub(crate) fn scan(state: &State, wanted: &Scan, accepts: Option<Accepts<'_>>, turn: &mut Turn) -> Result<Page, Failure> {
    let full =
        || Failure::new(ErrorCode::ReplyFull, "this array has used up its turn; ask for this operation in a message of its own");
    let filter = Filter::new(wanted, accepts)?;
    let rows_max = wanted.limit.unwrap_or(usize::MAX).min(limits::PAGE_ROWS_MAX);
    let (from, behind) = match &wanted.cursor {
        Some(cursor) if *cursor >= wanted.prefix => (cursor, true),
        _ => (&wanted.prefix, false),
    };
    let mut page = Page { rows: Vec::new(), cursor: None };
    let mut page_bytes = 0;
    let mut last: Option<&[u8]> = None;
    for (key, entry) in state.table.range_from(from, behind).take_while(|(key, _)| key.starts_with(&wanted.prefix)) {
        if page.rows.len() == rows_max || turn.is_used_up() {
            // Without a key examined here there is nowhere to go on from: the array's turn was used up before.
            page.cursor = Some(last.ok_or_else(full)?.to_vec());
            break;
        }
        turn.examine(filter.work(key, entry));
        if let Some(row) = filter.row(key, entry) {
            let bytes = row_bytes(&row);
            let fits_page = page.rows.is_empty() || page_bytes + bytes <= limits::PAGE_BYTES_MAX;
            if !fits_page || !turn.take_reply_bytes(bytes) {
                page.cursor = Some(last.ok_or_else(full)?.to_vec());
                break;
            }
            page_bytes += bytes;
            page.rows.push(row);
        }
        last = Some(key);
    }
    Ok(page)
}

impl<'a> Filter<'a> {
    fn new(wanted: &Scan, accepts: Option<Accepts<'a>>) -> Result<Self, Failure> {
        let refused = || Failure::new(ErrorCode::Internal, "the regex compiled when the request was read, and now it does not");
        let matcher = wanted.pattern.as_ref().map(|pattern| pattern.matcher().ok_or_else(refused)).transpose()?;
        Ok(Filter { matcher, accepts })
    }

    /// What examining this key costs at worst.
    fn work(&self, key: &[u8], entry: &Entry) -> usize {
        let matching = self.matcher.as_ref().map_or(0, |matcher| matcher.work(key));
        let looking = self.accepts.map_or(0, |_| entry.record.len() / limits::QUERY_BYTES_PER_UNIT);
        matching.saturating_add(looking)
    }

    fn row(&self, key: &[u8], entry: &Entry) -> Option<Row> {
        if self.matcher.as_ref().is_some_and(|matcher| !matcher.is_match(key)) {
            return None;
        }
        let record = split_table_record(&entry.record)?;
        let accepted = self.accepts.is_none_or(|accepts| accepts(record.stored));
        accepted.then(|| Row { key: key.to_vec(), value: record.value(), modified: entry.modified })
    }
}
