//! One page of keys and values in key order.
//!
//! A page ends at its row limit, its byte limit or when the message's share of examined keys is used up; its cursor is the last
//! key examined, so the next page goes on behind it, whatever has changed meanwhile.

use kvbroker_protocol::{ErrorCode, Failure, Key, Row, Scan, limits};

use crate::decide::{Turn, row_bytes};
use crate::record::split_table_record;
use crate::state::State;

pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    pub(crate) cursor: Option<Key>,
}

pub(crate) fn scan(state: &State, wanted: &Scan, turn: &mut Turn, accepts: impl Fn(&[u8]) -> bool) -> Result<Page, Failure> {
    let full =
        || Failure::new(ErrorCode::ReplyFull, "this array has used up its turn; ask for this operation in a message of its own");
    let rows_max = wanted.limit.unwrap_or(usize::MAX).min(limits::PAGE_ROWS_MAX);
    let (from, behind) = match &wanted.cursor {
        Some(cursor) if *cursor >= wanted.prefix => (cursor, true),
        _ => (&wanted.prefix, false),
    };
    let mut page = Page { rows: Vec::new(), cursor: None };
    let mut page_bytes = 0;
    let mut last: Option<&[u8]> = None;
    for (key, entry) in state.table.range_from(from, behind).take_while(|(key, _)| key.starts_with(&wanted.prefix)) {
        if page.rows.len() == rows_max || turn.examined_left == 0 {
            // Without a key examined here there is nowhere to go on from: the array's turn was used up before.
            page.cursor = Some(last.ok_or_else(full)?.to_vec());
            break;
        }
        turn.examined_left -= 1;
        if let Some(row) = matching_row(key, entry, wanted, &accepts) {
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

fn matching_row(key: &[u8], entry: &crate::table::Entry, wanted: &Scan, accepts: &impl Fn(&[u8]) -> bool) -> Option<Row> {
    if wanted.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(key)) {
        return None;
    }
    let record = split_table_record(&entry.record)?;
    accepts(record.stored).then(|| Row { key: key.to_vec(), value: record.value(), modified: entry.modified })
}
