//! Ranges of keys.

use std::collections::BTreeMap;
use std::ops::Bound;

use kvbroker_protocol::{Key, Scope};

/// A range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

impl KeyRange {
    /// All keys with a prefix.
    pub(crate) fn prefix(prefix: &[u8]) -> KeyRange {
        let end = end_of_prefix(prefix);
        KeyRange { from: Bound::Included(prefix.to_vec()), to: end.map_or(Bound::Unbounded, Bound::Excluded) }
    }

    /// Leaves out keys before `from`.
    pub(crate) fn starting_at(&mut self, from: &[u8]) {
        if self.lowest().is_none_or(|lowest| lowest < from) {
            self.from = Bound::Included(from.to_vec());
        }
    }

    /// Leaves out `key` and those before it.
    pub(crate) fn starting_behind(&mut self, key: &[u8]) {
        if self.lowest().is_none_or(|lowest| lowest <= key) {
            self.from = Bound::Excluded(key.to_vec());
        }
    }

    /// Leaves out all keys that start with `prefix` and those before them.
    pub(crate) fn starting_behind_all(&mut self, prefix: &[u8]) {
        match end_of_prefix(prefix) {
            Some(end) => self.starting_at(&end),
            // Nothing lies behind them, and nothing before the empty key.
            None => self.to = Bound::Excluded(Vec::new()),
        }
    }

    /// Leaves out `to` and keys behind it.
    pub(crate) fn ending_before(&mut self, to: &[u8]) {
        let ends_later = match &self.to {
            Bound::Unbounded => true,
            Bound::Included(end) | Bound::Excluded(end) => end.as_slice() > to,
        };
        if ends_later {
            self.to = Bound::Excluded(to.to_vec());
        }
    }

    /// What `part` gives of the pieces of the range that lie in the scope, in key order or its reverse. Nothing between them is looked
    /// at, and each piece only when it is its turn.
    pub(crate) fn within<'s, T: 's>(
        &self,
        scope: &'s Scope,
        reverse: bool,
        part: impl Fn(&KeyRange) -> Box<dyn Iterator<Item = T> + 's> + 's,
    ) -> Box<dyn Iterator<Item = T> + 's> {
        if scope.is_all() {
            return part(self);
        }
        let range = self.clone();
        let prefixes = range.touched(scope.list()).iter();
        let piece = move |prefix: &'s Key| {
            let mut piece = range.clone();
            piece.starting_at(prefix);
            if let Some(end) = end_of_prefix(prefix) {
                piece.ending_before(&end);
            }
            part(&piece)
        };
        if reverse { Box::new(prefixes.rev().flat_map(piece)) } else { Box::new(prefixes.flat_map(piece)) }
    }

    /// Of a scope's prefixes those with which a key of the range may start.
    fn touched<'p>(&self, prefixes: &'p [Key]) -> &'p [Key] {
        let start = prefixes.partition_point(|prefix| {
            self.lowest().is_some_and(|lowest| prefix.as_slice() < lowest && !lowest.starts_with(prefix))
        });
        let end = prefixes.partition_point(|prefix| match &self.to {
            Bound::Unbounded => true,
            Bound::Included(to) => prefix <= to,
            Bound::Excluded(to) => prefix < to,
        });
        prefixes.get(start..end).unwrap_or_default()
    }

    /// The part of a sorted list whose keys lie in the range.
    pub(crate) fn part_of<'l, T>(&self, list: &'l [T], key: impl Fn(&T) -> &Vec<u8>) -> &'l [T] {
        let start = list.partition_point(|one| match &self.from {
            Bound::Unbounded => false,
            Bound::Included(from) => key(one) < from,
            Bound::Excluded(from) => key(one) <= from,
        });
        let end = list.partition_point(|one| match &self.to {
            Bound::Unbounded => true,
            Bound::Included(to) => key(one) <= to,
            Bound::Excluded(to) => key(one) < to,
        });
        list.get(start..end).unwrap_or_default()
    }

    fn lowest(&self) -> Option<&[u8]> {
        match &self.from {
            Bound::Unbounded => None,
            Bound::Included(from) | Bound::Excluded(from) => Some(from),
        }
    }

    /// Entries of a map whose keys lie in the range, in key order; nothing if its bounds leave no room.
    pub(crate) fn of_map<'m, T>(
        &self,
        map: &'m BTreeMap<Box<[u8]>, T>,
    ) -> impl DoubleEndedIterator<Item = (&'m [u8], &'m T)> + use<'m, T> {
        // An empty range must not reach the map, which would take it for a fault.
        let entries = (!self.is_empty()).then(|| map.range::<[u8], _>(self.bounds()));
        entries.into_iter().flatten().map(|(key, entry)| (&**key, entry))
    }

    pub(super) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.from.as_ref().map(Vec::as_slice), self.to.as_ref().map(Vec::as_slice))
    }

    fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        }
    }
}

/// The first key behind all that start with the prefix: its last byte that can grow, grown. All 0xff: there is none.
fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let at = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=at].to_vec();
    end[at] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    fn keys(table: &Table, range: &KeyRange) -> Vec<Vec<u8>> {
        let forward: Vec<Vec<u8>> = table.range(range).map(|(key, _)| key.to_vec()).collect();
        let mut backward: Vec<Vec<u8>> = table.range(range).rev().map(|(key, _)| key.to_vec()).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        let list: Vec<(Vec<u8>, ())> = table.behind(None).map(|(key, _)| (key.to_vec(), ())).collect();
        assert!(range.part_of(&list, |(key, ())| key).iter().map(|(key, ())| key).eq(&forward));
        forward
    }

    #[test]
    fn ranges_are_the_keys_that_a_filter_would_find() {
        let mut table = Table::default();
        let names: &[&[u8]] = &[b"", b"a", b"a\xff", b"a\xff\xff", b"a\xff\xffb", b"b", b"\xff", b"\xff\xff", b"\xff\xff\xff"];
        for name in names {
            table.put(name, vec![1, 0], 1, |_| {});
        }
        for prefix in names {
            for from in names {
                for to in names {
                    let mut range = KeyRange::prefix(prefix);
                    range.starting_at(from);
                    range.ending_before(to);
                    let expected = |behind: bool| -> Vec<Vec<u8>> {
                        let inside = |key: &&&[u8]| {
                            key.starts_with(prefix) && *key < to && if behind { *key > from } else { *key >= from }
                        };
                        names.iter().filter(inside).map(|key| key.to_vec()).collect()
                    };
                    let mut sorted = expected(false);
                    sorted.sort();
                    assert_eq!(keys(&table, &range), sorted);
                    range.starting_behind(from);
                    let mut sorted = expected(true);
                    sorted.sort();
                    assert_eq!(keys(&table, &range), sorted);
                    sorted.retain(|key| !key.starts_with(from));
                    range.starting_behind_all(from);
                    assert_eq!(keys(&table, &range), sorted);
                }
            }
        }
    }
}
