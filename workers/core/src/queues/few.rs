//! A map for what one operation changes: nearly always one thing, sometimes thousands.
//!
//! - Few entries lie side by side, sorted, in one small piece of memory; many are in a tree, so that none is dear to put in.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// So many lie side by side.
const FEW: usize = 16;

/// A sorted map.
#[derive(Debug)]
pub(super) enum FewMap<K, V> {
    Few(Vec<(K, V)>),
    Many(BTreeMap<K, V>),
}

impl<K, V> Default for FewMap<K, V> {
    fn default() -> Self {
        FewMap::Few(Vec::new())
    }
}

impl<K: Ord, V> FewMap<K, V> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self {
            FewMap::Few(few) => few.binary_search_by(|(found, _)| found.borrow().cmp(key)).ok().map(|at| &few[at].1),
            FewMap::Many(many) => many.get(key),
        }
    }

    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match self {
            FewMap::Few(few) => few.binary_search_by(|(found, _)| found.borrow().cmp(key)).ok().map(|at| &mut few[at].1),
            FewMap::Many(many) => many.get_mut(key),
        }
    }

    pub(super) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The first key whose value is one that is wanted.
    pub(super) fn find(&self, is_wanted: impl Fn(&V) -> bool) -> Option<&K> {
        match self {
            FewMap::Few(few) => few.iter().find(|(_, value)| is_wanted(value)).map(|(key, _)| key),
            FewMap::Many(many) => many.iter().find(|(_, value)| is_wanted(value)).map(|(key, _)| key),
        }
    }

    /// Puts an entry in, or in the place of the one with this key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        match self {
            FewMap::Few(few) => match few.binary_search_by(|(found, _)| found.cmp(&key)) {
                Ok(at) => few[at].1 = value,
                Err(_) if few.len() == FEW => {
                    let mut many: BTreeMap<K, V> = std::mem::take(few).into_iter().collect();
                    many.insert(key, value);
                    *self = FewMap::Many(many);
                }
                Err(at) => {
                    if few.is_empty() {
                        few.reserve_exact(1);
                    }
                    few.insert(at, (key, value));
                }
            },
            FewMap::Many(many) => {
                many.insert(key, value);
            }
        }
    }

    /// All entries, in order.
    pub(super) fn into_entries(self) -> impl Iterator<Item = (K, V)> {
        let (few, many) = match self {
            FewMap::Few(few) => (few, BTreeMap::new()),
            FewMap::Many(many) => (Vec::new(), many),
        };
        few.into_iter().chain(many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_the_same_map() {
        for count in [0, 1, FEW, FEW + 1, 100] {
            let (mut map, mut plain) = (FewMap::default(), BTreeMap::new());
            for step in 0..2 * count {
                let key = step * 7_919 % count.max(1);
                map.insert(key, step);
                plain.insert(key, step);
                if let Some(value) = map.get_mut(&(key / 2)) {
                    *value += 1;
                    plain.entry(key / 2).and_modify(|value| *value += 1);
                }
            }
            assert_eq!(map.contains_key(&0), count > 0);
            assert_eq!(
                (0..count).map(|key| map.get(&key).copied()).collect::<Vec<_>>(),
                plain.values().copied().map(Some).collect::<Vec<_>>()
            );
            assert_eq!(map.into_entries().collect::<Vec<_>>(), plain.into_iter().collect::<Vec<_>>());
        }
    }
}
