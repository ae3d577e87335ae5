//! What must hold for any bytes that a catalog answers with, and for any that are sent to one.
//!
//! - Nothing panics. What is said about a record that can't be used is short, and safe to print on a terminal.
//! - A record that is taken is what a broker could have announced, and is read the same again.
//! - Whatever else is listed, the records before it are read.
//! - What `kvcatalog` takes leaves its listing whole, for strict readers of JSON too, and hides nobody in it.

use std::net::{IpAddr, Ipv4Addr};

use kvbroker::catalog::{Listing, SeenRecord, is_plain_text};
use kvbroker_discovery::http::Page;
use kvbroker_discovery::page::render;
use kvbroker_discovery::store::{Now, Store};
use kvbroker_discovery::update::Update;

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Became {
    /// A listing with at least one broker.
    Listing,
    /// A listing without.
    NoBroker,
    /// What a catalog stores.
    Update,
    /// Nothing.
    Refused,
}

/// A broker that is listed beside the input.
const GOOD: &str = r#"{"name":"lab","lastheardfrom":1795255198,"address":"10.77.0.1","type":"hashtable","project":"good","owner":"ann","port":9123,"uuid":"00000000-0000-0000-0000-000000000001","instance":"00000000-0000-0000-0000-000000000002","epoch":"0123456789abcdef","starttime":1795255190,"lifetime":180,"shard":0,"durability":"always","version":"0.1.0"}"#;

/// The longest sentence about one record, in bytes: the longest reason, with a name that it claims.
const REASON_BYTES_MAX: usize = 400;

/// An answer of a catalog, a record in one, an update for one.
///
/// # Panics
/// If a rule is broken.
pub fn catalog(input: &[u8]) -> Became {
    let listing = Listing::parse(input, "lab:9097");
    if let Ok(listing) = &listing {
        check(listing);
    }
    let behind_good = [b"[\n", GOOD.as_bytes(), b",\n", input, b"\n]\n"].concat();
    let beside = Listing::parse(&behind_good, "lab:9097").expect("it begins as an array");
    check(&beside);
    assert!(is_good(&beside.seen[0]), "{beside:?}");
    let is_update = stored(input);
    match listing {
        Ok(listing) if !listing.seen.is_empty() => Became::Listing,
        Ok(_) => Became::NoBroker,
        Err(error) => {
            assert!(is_printable(&error.to_string()), "{error:?}");
            if is_update { Became::Update } else { Became::Refused }
        }
    }
}

fn is_good(seen: &SeenRecord) -> bool {
    seen.record.project.as_str() == "good" && seen.record.port == 9_123 && seen.address == IpAddr::from([10, 77, 0, 1])
}

fn is_printable(text: &str) -> bool {
    text.len() <= REASON_BYTES_MAX && !text.chars().any(char::is_control)
}

fn check(listing: &Listing) {
    assert!(listing.refused.len() <= listing.refused_count);
    for refused in &listing.refused {
        assert!(is_printable(&refused.reason.to_string()), "{refused:?}");
        assert!(refused.address.as_deref().is_none_or(is_printable), "{refused:?}");
    }
    for seen in &listing.seen {
        seen.record.check().expect("what was read could have been announced");
        assert!(is_plain_text(&seen.name, usize::MAX), "{seen:?}");
        assert!((1..=9).contains(&seen.tcp_endpoints().len()), "{seen:?}");
        let head = format!(
            r#"{{"name":"{}","lastheardfrom":{},"address":"{}","#,
            seen.name.replace('\\', r"\\").replace('"', "\\\""),
            seen.lastheardfrom,
            seen.address
        );
        let again = SeenRecord::parse(&(head + &seen.record.to_json()[1..]), &seen.catalog);
        assert_eq!(again.as_ref(), Ok(&Some(seen.clone())));
    }
}

/// Whether a catalog takes it; with what it lists then.
fn stored(input: &[u8]) -> bool {
    let sender = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 9));
    let update = match Update::decode(input, sender) {
        Ok(update) => update,
        Err(error) => {
            assert!(is_printable(&error.to_string()), "{error:?}");
            return false;
        }
    };
    let now = Now { ms: 100_000, unix_s: 1_795_255_198 };
    let mut store = Store::new(1_800);
    let good = Update::decode(GOOD.as_bytes(), IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1))).expect("it is one");
    for update in [good, update] {
        store.take(update, now).expect("an empty store has room for two records");
    }
    let page = render(Page::Json, &store, "lab", now);
    let strict: Vec<serde_json::Value> = serde_json::from_str(&page).expect("the listing is JSON");
    assert_eq!((strict.len(), store.len(), page.lines().count()), (2, 2, 4), "a record is a line: {page}");
    let listing = Listing::parse(page.as_bytes(), "lab:9097").expect("it is an array");
    check(&listing);
    assert!(listing.cut_short.is_none() && listing.seen.iter().any(is_good), "{page}");
    for page in [Page::Text, Page::Html] {
        render(page, &store, "lab", now);
    }
    true
}
