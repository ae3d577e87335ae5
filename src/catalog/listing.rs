//! A catalog's answer: a JSON array of everybody's records, read record by record.
//!
//! - One bad record must not hide the others. CCTools' server prints a number such
//!   as `1e999` as `inf`, which makes the *whole* array invalid JSON; anybody can
//!   send it such a record. So the array is cut into its elements by brackets and
//!   quotes alone, and each element is parsed by itself.
//! - When even that fails (the listing ends inside an element), the rest is looked
//!   through line by line: both catalogs write one record per line.
//! - A listing that ends early is still a listing: what was read counts, and
//!   [`Listing::cut_short`] says that "not listed" means little.

use super::fields::Fields;
use super::record::{RecordError, SeenRecord, is_plain_text};
use crate::project::ProjectName;

/// Most bytes of a listing that are read; 10,000 records of our size have 7 MB.
pub const LISTING_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most refused records that are kept with their reasons; beyond it they are only counted.
pub const REFUSED_KEPT_MAX: usize = 100;

/// What a catalog listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Records that may be brokers, in the catalog's order.
    pub seen: Vec<SeenRecord>,
    /// The first [`REFUSED_KEPT_MAX`] records that claim our type and can't be used.
    pub refused: Vec<RefusedRecord>,
    /// How many records claim our type, or are no objects at all, and can't be used.
    pub refused_count: usize,
    /// How many records are of other types.
    pub others: usize,
    /// Why the listing is not whole, when it is not.
    pub cut_short: Option<String>,
}

/// A record that claims to be a broker's and can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    /// The project that it claims, when that is a possible name.
    pub project: Option<ProjectName>,
    /// Where the catalog received it from, when that can be read.
    pub address: Option<String>,
    /// What is wrong with it.
    pub reason: RecordError,
}

/// Why an answer is no listing at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// It does not start as a JSON array does.
    #[error("its answer is not a JSON array (it starts with {0:?})")]
    NotAnArray(String),
    /// It is empty.
    #[error("its answer is empty")]
    Empty,
}

impl Listing {
    /// Reads the body of a `/query.json` reply from the catalog named `catalog`.
    ///
    /// # Errors
    /// Only when the body is not a JSON array at all; bad records inside are
    /// counted in the listing instead.
    pub fn parse(body: &[u8], catalog: &str) -> Result<Self, ListingError> {
        // One record with bytes that are not UTF-8 must not hide the others either.
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Err(ListingError::Empty);
        }
        let Some(inside) = text.strip_prefix('[') else {
            return Err(ListingError::NotAnArray(text.chars().take(40).collect()));
        };
        let mut listing = Listing::default();
        let mut elements = Elements { rest: inside };
        for element in elements.by_ref() {
            listing.take(element, catalog);
        }
        if !elements.rest.starts_with(']') {
            listing.cut_short = Some("it ends in the middle of a record".to_owned());
            for line in elements.rest.lines().skip(1) {
                let line = line.trim().trim_end_matches(',');
                if line.starts_with('{') {
                    listing.take(line, catalog);
                }
            }
        }
        Ok(listing)
    }

    fn take(&mut self, element: &str, catalog: &str) {
        match SeenRecord::parse(element, catalog) {
            Ok(Some(seen)) => self.seen.push(seen),
            Ok(None) => self.others += 1,
            Err(reason) => self.refuse(element, reason),
        }
    }

    fn refuse(&mut self, element: &str, reason: RecordError) {
        self.refused_count += 1;
        if self.refused.len() == REFUSED_KEPT_MAX {
            return;
        }
        let fields = Fields::parse(element).ok();
        let text = |name| fields.as_ref().and_then(|fields| fields.text(name));
        self.refused.push(RefusedRecord {
            project: text("project").and_then(|project| ProjectName::new(&project).ok()),
            address: text("address").filter(|address| is_plain_text(address, 64)),
            reason,
        });
    }
}

/// Cuts the inside of a JSON array into its elements without parsing them.
///
/// Ends at the array's `]`, which stays in `rest`, or when an element has no end;
/// `rest` is then that element and all that follows.
struct Elements<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            self.rest = self.rest.trim_start();
            let end = element_end(self.rest)?;
            let (element, rest) = self.rest.split_at(end);
            self.rest = rest.strip_prefix(',').unwrap_or(rest);
            let element = element.trim_end();
            if !element.is_empty() {
                return Some(element);
            }
            if self.rest.starts_with(']') {
                return None;
            }
        }
    }
}

/// Where the element at the start of `text` ends: before the `,` or `]` outside of
/// it. `None` at the array's end, or when there is no such place.
fn element_end(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    let mut in_text = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => depth += 1,
            b']' if depth == 0 => return (at > 0).then_some(at),
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = r#"{"name":"localhost","lastheardfrom":5,"address":"127.0.0.1","type":"hashtable","project":"p","owner":"o","port":9,"uuid":"00000000-0000-0000-0000-000000000001","instance":"00000000-0000-0000-0000-000000000002","epoch":"ff","starttime":1,"lifetime":180,"shard":0,"durability":"always","version":"0.1.0","public_key":"kvpub1x"}"#;

    fn parse(body: &str) -> Listing {
        Listing::parse(body.as_bytes(), "c:1").unwrap()
    }

    #[test]
    fn an_empty_listing_is_a_listing() {
        assert_eq!(parse("[\n\n]\n"), Listing::default());
        assert_eq!(parse("[]"), Listing::default());
    }

    #[test]
    fn other_answers_are_not() {
        for body in ["", "  \n", "<html>", "{\"a\":1}", "null", "\u{1}\u{2}"] {
            assert!(Listing::parse(body.as_bytes(), "c").is_err(), "{body:?}");
        }
    }

    #[test]
    fn a_bad_record_hides_no_good_one() {
        let bad = [
            r#"{"type":"hashtable","x":inf}"#.to_owned(),
            r#"{"type":"hashtable","port":77777}"#.to_owned(),
            format!(r#"{{"type":"x","d":{}{}}}"#, "[".repeat(9999), "]".repeat(9999)),
            r#"{"type":"hashtable","s":"\uffffffc3 ] } , \" ["}"#.to_owned(),
            format!(r#"{{"type":"hashtable","s":"{}"}}"#, "A".repeat(60_000)),
            "7".to_owned(),
            "null".to_owned(),
            "}".to_owned(),
            String::new(),
        ];
        for bad in &bad {
            for body in [format!("[\n{bad},\n{GOOD}\n]\n"), format!("[\n{GOOD},\n{bad}\n]\n"), format!("[{GOOD},{bad},{GOOD}]")] {
                let listing = parse(&body);
                assert!(!listing.seen.is_empty(), "{bad:.60}");
                assert_eq!(listing.cut_short, None, "{bad:.60}");
            }
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_hide_no_good_record() {
        let mut body = b"[\n{\"type\":\"hashtable\",\"s\":\"\xff\xfe\"},\n".to_vec();
        body.extend_from_slice(GOOD.as_bytes());
        body.extend_from_slice(b"\n]\n");
        let listing = Listing::parse(&body, "c").unwrap();
        assert_eq!((listing.seen.len(), listing.refused_count), (1, 1));
    }

    #[test]
    fn a_record_with_an_open_quote_costs_only_itself() {
        let listing = parse(&format!("[\n{{\"type\":\"x\n{GOOD}\n]\n"));
        assert_eq!(listing.seen.len(), 1);
        assert!(listing.cut_short.is_some());
    }

    #[test]
    fn a_listing_that_ends_early_keeps_what_came() {
        let whole = format!("[\n{GOOD},\n{GOOD}\n]\n");
        for end in 1..whole.len() {
            let listing = parse(&whole[..end]);
            let expected = usize::from(end >= 3 + GOOD.len()) + usize::from(end > whole.len() - 2);
            assert!(listing.seen.len() <= 2 && listing.seen.len() + 1 >= expected);
            assert_eq!(listing.cut_short.is_none(), end >= whole.len() - 1, "{end}");
        }
    }

    #[test]
    fn refusals_are_kept_up_to_a_bound_and_counted_beyond() {
        let bad = r#"{"type":"hashtable","project":"p","address":"1.2.3.4"}"#;
        let body = format!("[{}]", vec![bad; REFUSED_KEPT_MAX + 50].join(","));
        let listing = parse(&body);
        assert_eq!(listing.refused.len(), REFUSED_KEPT_MAX);
        assert_eq!(listing.refused_count, REFUSED_KEPT_MAX + 50);
        assert_eq!(listing.refused[0].project.as_ref().map(ProjectName::as_str), Some("p"));
    }

    #[test]
    fn a_damaged_listing_never_panics_and_keeps_what_stands_before_the_damage() {
        let whole = format!("[\n{GOOD},\n{{\"type\":\"hashtable\",\"s\":\"a\\\"b\"}},\n{GOOD}\n]\n");
        let mut seed = 11_u64;
        let mut dice = move |sides: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % sides
        };
        for _ in 0..5_000 {
            let mut body = whole.clone().into_bytes();
            let first_damage = 3 + GOOD.len() + dice(body.len() - GOOD.len() - 3);
            for _ in 0..=dice(20) {
                let at = first_damage + dice(body.len() - first_damage);
                body[at] = b"[]{},\"\\\n\xff\0a1"[dice(12)];
            }
            let listing = Listing::parse(&body, "c").unwrap();
            assert!(!listing.seen.is_empty(), "{}", String::from_utf8_lossy(&body));
        }
    }
}
