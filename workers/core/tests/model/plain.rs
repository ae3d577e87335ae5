//! What the table should hold, written down as simply as possible, and the dice that decide what is done to it.

use std::collections::BTreeMap;

use kvbroker_protocol::{Answer, Key, List, Row, Scan, Stored};
use serde_json::Value;

/// splitmix64: small, and the same everywhere.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) value: Value,
    pub(crate) stored: Stored,
    pub(crate) modified: u64,
    pub(crate) created: u64,
    /// When it is due, if ever.
    pub(crate) expires_ms: Option<u64>,
}

/// What the table should hold, written down as simply as possible.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) keys: BTreeMap<Key, Held>,
    pub(crate) revision: u64,
}

impl Model {
    /// All names that `ls` has to list from the beginning.
    pub(crate) fn names(&self, wanted: &List) -> Vec<Key> {
        let (prefix, delimiter) = (&wanted.prefix, &wanted.delimiter);
        let name = |key: &Key| {
            let ends = |end: &usize| key[prefix.len()..*end].ends_with(delimiter);
            (prefix.len() + 1..=key.len()).find(ends).map_or(key.clone(), |end| key[..end].to_vec())
        };
        let mut names: Vec<Key> = self.keys.keys().filter(|key| key.starts_with(prefix)).map(name).collect();
        names.dedup();
        names
    }

    pub(crate) fn put(&mut self, key: &[u8], value: Value, stored: Stored, expires_ms: Option<u64>) {
        self.revision += 1;
        let created = self.keys.get(key).map_or(self.revision, |held| held.created);
        self.keys.insert(key.to_vec(), Held { value, stored, modified: self.revision, created, expires_ms });
    }

    /// Another deadline, or none, for a key that is there.
    pub(crate) fn set_deadline(&mut self, key: &[u8], expires_ms: Option<u64>) {
        self.revision += 1;
        if let Some(held) = self.keys.get_mut(key) {
            (held.modified, held.expires_ms) = (self.revision, expires_ms);
        }
    }

    /// The keys that are due, in the order in which they go.
    pub(crate) fn due(&self, time_ms: u64) -> Vec<Key> {
        let mut due: Vec<(u64, &Key)> = self
            .keys
            .iter()
            .filter_map(|(key, held)| Some((held.expires_ms?, key)))
            .filter(|(at_ms, _)| *at_ms <= time_ms)
            .collect();
        due.sort();
        due.into_iter().map(|(_, key)| key.clone()).collect()
    }

    /// All keys with a prefix, up to a number, at one revision.
    pub(crate) fn del_prefix(&mut self, prefix: &[u8], limit: usize) -> Vec<Key> {
        let gone: Vec<Key> = self.keys.keys().filter(|key| key.starts_with(prefix)).take(limit).cloned().collect();
        gone.iter().for_each(|key| drop(self.keys.remove(key)));
        self.revision += u64::from(!gone.is_empty());
        gone
    }

    pub(crate) fn del(&mut self, key: &[u8]) -> Option<Held> {
        let held = self.keys.remove(key)?;
        self.revision += 1;
        Some(held)
    }

    /// All rows that a scan or query would list if its page had no end.
    pub(crate) fn rows(&self, wanted: &Scan, accepts: impl Fn(&Value) -> bool) -> Vec<Row> {
        let matcher = wanted.pattern.as_ref().map(|pattern| pattern.matcher().unwrap());
        let selected = self.keys.iter().filter(|(key, held)| {
            key.starts_with(&wanted.prefix)
                && wanted.from.as_ref().is_none_or(|from| *key >= from)
                && wanted.to.as_ref().is_none_or(|to| *key < to)
                && wanted.cursor.as_ref().is_none_or(|cursor| if wanted.reverse { *key < cursor } else { *key > cursor })
                && matcher.as_ref().is_none_or(|matcher| matcher.is_match(key))
                && accepts(&held.value)
        });
        let mut rows: Vec<Row> =
            selected.map(|(key, held)| Row { key: key.clone(), value: held.stored.clone(), modified: held.modified }).collect();
        if wanted.reverse {
            rows.reverse();
        }
        rows
    }
}

/// JSON-typed: 1 is 1.0 and not "1"; a container equals nothing, and absent is not null.
pub(crate) fn is_equal(found: Option<&Value>, wanted: &Value) -> bool {
    match (found, wanted) {
        (Some(Value::Number(found)), Value::Number(wanted)) => found.as_f64() == wanted.as_f64(),
        (Some(Value::Array(_) | Value::Object(_)) | None, _) => false,
        (Some(found), wanted) => found == wanted,
    }
}

/// As [`is_equal`] all the way down.
pub(crate) fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| is_same(value, other)))
        }
        _ => one == other,
    }
}

/// A page is the beginning of all rows; it is short only at its limit, and then its cursor leads to the rest.
pub(crate) fn check_page(answer: Answer, wanted: &Scan, all: Vec<Row>) {
    let limit = wanted.limit.unwrap_or(usize::MAX);
    let (rows, cursor) = match answer {
        Answer::Rows { rows, cursor, .. } if !wanted.keys_only => (rows, cursor),
        Answer::Keys { keys, cursor, .. } if wanted.keys_only => {
            assert!(keys.iter().eq(all.iter().map(|row| &row.key).take(keys.len())), "{wanted:?}");
            (all[..keys.len()].to_vec(), cursor)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(rows.len(), all.len().min(limit), "{wanted:?}");
    assert_eq!(rows[..], all[..rows.len()]);
    match cursor {
        None => assert_eq!(rows.len(), all.len()),
        Some(cursor) => {
            assert_eq!(rows.len(), limit, "only the limit ends a page of so few keys");
            let (last, next) = (rows.last(), all.get(rows.len()));
            if wanted.reverse {
                assert!(last.is_some_and(|row| row.key >= cursor) && next.is_none_or(|next| next.key < cursor));
            } else {
                assert!(last.is_some_and(|row| row.key <= cursor) && next.is_none_or(|next| next.key > cursor));
            }
        }
    }
}
