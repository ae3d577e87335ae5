//! The records of a catalog: who said what, and until when it counts.
//!
//! Pure: the time comes in as an argument. Ages and lifetimes are measured on a
//! clock that never goes back ([`Now::ms`]); the wall clock ([`Now::unix_s`]) is
//! only told to readers.
//!
//! - A record counts for its own `lifetime`, but never longer than the catalog's
//!   (CCTools' rule), and at least one second.
//! - An update replaces the record with the same key.
//! - The store is bounded in records and bytes, and one address may fill at most
//!   half of either: a single program gone wild can't keep the others out. When it
//!   is full, known records are still refreshed and new ones are refused.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::update::{Update, quoted};

/// Most records; CCTools' own bound.
pub const RECORDS_MAX: usize = 10_000;
/// Most bytes of all records together. Below what our own reader takes of a
/// listing, so that a full catalog can still be read whole.
pub const STORE_BYTES_MAX: usize = 12 * 1024 * 1024;
/// What a stored record takes in a listing beside its text: braces, comma, line end.
const LISTED_EXTRA_BYTES: usize = 4;

const _: () = assert!(
    (STORE_BYTES_MAX + RECORDS_MAX * LISTED_EXTRA_BYTES + 64) as u64 <= kvbroker::catalog::LISTING_BYTES_MAX,
    "a full store must fit what a reader takes"
);

/// The time as both clocks tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never goes back.
    pub ms: u64,
    /// Seconds since 1970.
    pub unix_s: u64,
}

/// Why a record is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store is full.
    #[error("the catalog is full ({RECORDS_MAX} records or {STORE_BYTES_MAX} bytes)")]
    Full,
    /// One address has used its half.
    #[error("{0} already holds half of what the catalog can keep")]
    AddressFull(IpAddr),
}

/// What readers get to see of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it came from.
    pub address: IpAddr,
    /// The host's name.
    pub name: String,
    /// When it came, in seconds since 1970.
    pub heard_unix_s: u64,
    /// The sender's fields as JSON without braces.
    pub fields: String,
    heard_ms: u64,
    until_ms: u64,
    bytes: usize,
}

/// The records.
#[derive(Debug)]
pub struct Store {
    lifetime_s: u64,
    entries: BTreeMap<String, Entry>,
    bytes: usize,
    by_address: HashMap<IpAddr, Share>,
    generation: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Share {
    records: usize,
    bytes: usize,
}

impl Entry {
    /// Seconds since it came.
    pub fn age_s(&self, now: Now) -> u64 {
        now.ms.saturating_sub(self.heard_ms) / 1000
    }

    /// The record as catalogs list it: the catalog's own fields first, on one line.
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(self.bytes);
        out.push_str("{\"name\":");
        out.push_str(&quoted(&self.name));
        write!(out, ",\"lastheardfrom\":{},\"address\":\"{}\"", self.heard_unix_s, self.address)
            .expect("writing to a String never fails");
        if !self.fields.is_empty() {
            out.push(',');
            out.push_str(&self.fields);
        }
        out.push('}');
        out
    }
}

impl Store {
    /// An empty store that keeps records for at most `lifetime_s` seconds.
    pub fn new(lifetime_s: u64) -> Self {
        Store { lifetime_s: lifetime_s.max(1), entries: BTreeMap::new(), bytes: 0, by_address: HashMap::new(), generation: 0 }
    }

    /// Takes an update; `Ok(true)` when the record is new.
    ///
    /// # Errors
    /// When there is no room; see [`StoreError`].
    pub fn take(&mut self, update: Update, now: Now) -> Result<bool, StoreError> {
        let wanted_s = update.lifetime_s.filter(|wanted| *wanted > 0).unwrap_or(self.lifetime_s);
        let mut entry = Entry {
            address: update.address,
            name: update.name,
            heard_unix_s: now.unix_s,
            fields: update.fields,
            heard_ms: now.ms,
            until_ms: now.ms.saturating_add(wanted_s.min(self.lifetime_s).saturating_mul(1000)),
            bytes: 0,
        };
        entry.bytes = entry.to_json().len() + update.key.len();
        let before = self.entries.get(&update.key).map_or(0, |old| old.bytes);
        let is_new = before == 0;
        if !self.has_room(entry.address, is_new, before, entry.bytes) {
            // Room may be held by records whose time is over.
            self.expire(now);
        }
        // The record to be replaced may itself have expired just now.
        let before = self.entries.get(&update.key).map_or(0, |old| old.bytes);
        let is_new = before == 0;
        if !self.has_room(entry.address, is_new, before, entry.bytes) {
            let share = self.share(entry.address);
            return Err(if share.records * 2 >= RECORDS_MAX || (share.bytes + entry.bytes) * 2 > STORE_BYTES_MAX {
                StoreError::AddressFull(entry.address)
            } else {
                StoreError::Full
            });
        }
        self.remove(&update.key);
        let share = self.by_address.entry(entry.address).or_default();
        share.records += 1;
        share.bytes += entry.bytes;
        self.bytes += entry.bytes;
        self.entries.insert(update.key, entry);
        self.generation += 1;
        Ok(is_new)
    }

    /// Removes the records whose time is over; true when there were any.
    pub fn expire(&mut self, now: Now) -> bool {
        let over: Vec<String> =
            self.entries.iter().filter(|(_, entry)| entry.until_ms <= now.ms).map(|(key, _)| key.clone()).collect();
        for key in &over {
            self.remove(key);
        }
        !over.is_empty()
    }

    /// The records with their keys, in the keys' order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without records.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Changes whenever the records do.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn share(&self, address: IpAddr) -> Share {
        self.by_address.get(&address).copied().unwrap_or_default()
    }

    fn has_room(&self, address: IpAddr, is_new: bool, before: usize, after: usize) -> bool {
        let added = usize::from(is_new);
        let share = self.share(address);
        self.entries.len() + added <= RECORDS_MAX
            && self.bytes - before + after <= STORE_BYTES_MAX
            && (share.records + added) * 2 <= RECORDS_MAX
            // An update of a known record that doesn't grow is always welcome.
            && (after <= before || (share.bytes + after).saturating_sub(before) * 2 <= STORE_BYTES_MAX)
    }

    fn remove(&mut self, key: &str) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        self.bytes -= entry.bytes;
        self.generation += 1;
        if let Some(share) = self.by_address.get_mut(&entry.address) {
            share.records -= 1;
            share.bytes -= entry.bytes;
            if share.records == 0 {
                self.by_address.remove(&entry.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(s: u64) -> Now {
        Now { ms: s * 1000, unix_s: 1_000_000 + s }
    }

    fn update(json: &str, address: &str) -> Update {
        Update::decode(json.as_bytes(), address.parse().unwrap()).unwrap()
    }

    fn listed(store: &Store) -> Vec<String> {
        store.iter().map(|(_, entry)| entry.to_json()).collect()
    }

    #[test]
    fn the_catalogs_own_fields_come_first() {
        let mut store = Store::new(1800);
        assert_eq!(store.take(update(r#"{"type":"x","port":1,"address":"9.9.9.9"}"#, "127.0.0.1"), at(5)), Ok(true));
        assert_eq!(listed(&store), [r#"{"name":"localhost","lastheardfrom":1000005,"address":"127.0.0.1","type":"x","port":1}"#]);
        assert_eq!(store.take(update("{}", "10.0.0.1"), at(6)), Ok(true));
        assert_eq!(listed(&store)[0], r#"{"name":"10.0.0.1","lastheardfrom":1000006,"address":"10.0.0.1"}"#);
    }

    #[test]
    fn the_same_key_replaces_and_a_new_port_is_a_twin() {
        let mut store = Store::new(1800);
        for port in [1, 1, 2] {
            store.take(update(&format!(r#"{{"port":{port},"uuid":"u"}}"#), "127.0.0.1"), at(port)).unwrap();
        }
        assert_eq!(store.len(), 2);
        store.take(update(r#"{"port":1,"uuid":"v"}"#, "127.0.0.1"), at(9)).unwrap();
        assert_eq!(store.len(), 3);
    }

    #[test]
    fn the_shorter_lifetime_counts() {
        let mut store = Store::new(100);
        for (port, lifetime) in [(1, "10"), (2, "1000"), (3, "0"), (4, r#""x""#), (5, "-1")] {
            store.take(update(&format!(r#"{{"port":{port},"lifetime":{lifetime}}}"#), "127.0.0.1"), at(0)).unwrap();
        }
        assert!(!store.expire(at(9)));
        assert!(store.expire(at(10)));
        assert_eq!(store.len(), 4);
        assert!(!store.expire(at(99)));
        assert!(store.expire(at(100)));
        assert!(store.is_empty());
        assert_eq!((store.bytes, store.by_address.len()), (0, 0));
    }

    #[test]
    fn one_address_gets_half_and_the_others_the_rest() {
        let mut store = Store::new(100);
        let fill = |store: &mut Store, address: &str| {
            let mut taken = 0;
            for port in 0..RECORDS_MAX {
                match store.take(update(&format!(r#"{{"port":{port}}}"#), address), at(0)) {
                    Ok(_) => taken += 1,
                    Err(error) => return (taken, error),
                }
            }
            panic!("{address} was never refused");
        };
        assert_eq!(fill(&mut store, "10.0.0.1"), (RECORDS_MAX / 2, StoreError::AddressFull("10.0.0.1".parse().unwrap())));
        assert_eq!(fill(&mut store, "10.0.0.2").0, RECORDS_MAX / 2);
        assert_eq!(fill(&mut store, "10.0.0.3"), (0, StoreError::Full));
        // Refreshing a known record still works, and time makes room.
        assert_eq!(store.take(update(r#"{"port":0}"#, "10.0.0.1"), at(50)), Ok(false));
        assert_eq!(store.take(update(r#"{"port":0}"#, "10.0.0.3"), at(101)), Ok(true));
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut store = Store::new(100);
        let text = "x".repeat(100_000);
        let mut refused = 0;
        for port in 0..200 {
            let address = format!("10.0.0.{}", port % 4);
            let json = format!(r#"{{"port":{port},"s":"{text}"}}"#);
            refused += usize::from(store.take(update(&json, &address), at(0)).is_err());
        }
        assert!(store.bytes <= STORE_BYTES_MAX && refused > 0);
        let listing: usize = listed(&store).iter().map(|json| json.len() + LISTED_EXTRA_BYTES).sum();
        assert!(listing as u64 <= kvbroker::catalog::LISTING_BYTES_MAX);
    }
}
