//! A branch of the table's tree: what lies side by side below it, and which keys are where.
//!
//! - Between two neighbours stands a separator: no key before it is in the right one, and no other in the left one. It is as short as can be,
//!   and stays where it is when keys come and go.
//! - Of a separator the eight bytes behind the prefix that all of them share are kept as a number, its *head*, one behind the other: a
//!   search looks at these. Of those that are longer, the rest is asked only where heads are equal.

use std::cmp::Ordering;

use super::leaf::shared;

/// Some things side by side, in the order of their keys.
#[derive(Clone, Debug)]
pub(super) struct Branch<T> {
    /// Never empty.
    items: Vec<T>,
    /// Of the separator behind each item but the last.
    heads: Vec<u64>,
    /// The separator behind the prefix, where the head does not say all of it: where it is longer, or ends with a zero.
    long: Vec<Option<Box<[u8]>>>,
    /// What all separators begin with.
    prefix: Vec<u8>,
}

/// The first eight bytes as a number, missing ones as zeros. Of two texts the smaller one never has the larger number.
fn head(text: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = text.len().min(first.len());
    first[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(first)
}

impl<T> Branch<T> {
    /// With one thing, which may have all keys.
    pub(super) fn new(item: T) -> Branch<T> {
        Branch { items: vec![item], heads: Vec::new(), long: Vec::new(), prefix: Vec::new() }
    }

    pub(super) fn items(&self) -> &[T] {
        &self.items
    }

    pub(super) fn items_mut(&mut self) -> &mut [T] {
        &mut self.items
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Which of them has this key, if any has it.
    pub(super) fn find(&self, key: &[u8]) -> usize {
        let Some(text) = key.strip_prefix(self.prefix.as_slice()) else {
            return if key < self.prefix.as_slice() { 0 } else { self.heads.len() };
        };
        let wanted = head(text);
        let low = self.heads.partition_point(|head| *head < wanted);
        if self.heads.get(low) != Some(&wanted) {
            return low;
        }
        let equal = self.heads[low..].partition_point(|head| *head == wanted);
        low + self.long[low..low + equal].partition_point(|long| long.as_ref().is_none_or(|long| **long <= *text))
    }

    /// Reads here and there what a search reads; what comes of it says nothing.
    pub(super) fn touch(&self) -> u64 {
        let quarter = self.heads.len() / 4;
        (0..4).fold(0, |mixed, at| mixed ^ self.heads.get(at * quarter).copied().unwrap_or_default())
    }

    /// Puts one behind another, separated by this.
    pub(super) fn insert_behind(&mut self, at: usize, separator: &[u8], item: T) {
        self.items.insert(at + 1, item);
        if !separator.starts_with(&self.prefix) {
            self.set_prefix(shared(&self.prefix, separator));
        }
        let (head, long) = split(&separator[self.prefix.len()..]);
        self.heads.insert(at, head);
        self.long.insert(at, long);
        // In the long run a longer prefix is found, and nobody pays much for looking.
        if self.heads.len().is_power_of_two() {
            self.sharpen();
        }
    }

    /// Takes one out, which must not be the only one. Its keys are its neighbour's from then on.
    pub(super) fn remove(&mut self, at: usize) -> T {
        let separator = at.saturating_sub(1);
        self.heads.remove(separator);
        self.long.remove(separator);
        self.items.remove(at)
    }

    /// Keeps so many, and gives what stood between these and the others, and the others.
    pub(super) fn split(&mut self, kept: usize) -> (Vec<u8>, Branch<T>) {
        let separator = self.separator(kept - 1);
        let mut others = Branch {
            items: self.items.split_off(kept),
            heads: self.heads.split_off(kept),
            long: self.long.split_off(kept),
            prefix: self.prefix.clone(),
        };
        self.heads.truncate(kept - 1);
        self.long.truncate(kept - 1);
        for branch in [&mut *self, &mut others] {
            branch.sharpen();
            branch.items.shrink_to_fit();
            branch.heads.shrink_to_fit();
            branch.long.shrink_to_fit();
        }
        (separator, others)
    }

    /// Takes over all of the branch behind it.
    pub(super) fn absorb(&mut self, separator: &[u8], behind: Branch<T>) {
        let separators: Vec<Vec<u8>> = (0..behind.heads.len()).map(|at| behind.separator(at)).collect();
        let separators = std::iter::once(separator).chain(separators.iter().map(Vec::as_slice));
        for (item, separator) in behind.items.into_iter().zip(separators) {
            self.insert_behind(self.items.len() - 1, separator, item);
        }
    }

    /// What stands behind this one.
    pub(super) fn separator(&self, at: usize) -> Vec<u8> {
        let mut separator = self.prefix.clone();
        match &self.long[at] {
            Some(long) => separator.extend_from_slice(long),
            None => {
                let bytes = self.heads[at].to_be_bytes();
                let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                separator.extend_from_slice(&bytes[..length]);
            }
        }
        separator
    }

    /// Finds the longest prefix that all separators share.
    fn sharpen(&mut self) {
        if let Some(last) = self.heads.len().checked_sub(1) {
            self.set_prefix(shared(&self.separator(0), &self.separator(last)));
        }
    }

    fn set_prefix(&mut self, bytes: usize) {
        if bytes.cmp(&self.prefix.len()) == Ordering::Equal {
            return;
        }
        let separators: Vec<Vec<u8>> = (0..self.heads.len()).map(|at| self.separator(at)).collect();
        match separators.first() {
            Some(first) => self.prefix = first[..bytes].to_vec(),
            None => self.prefix.truncate(bytes),
        }
        (self.heads, self.long) = separators.iter().map(|separator| split(&separator[bytes..])).unzip();
    }
}

/// A separator's head, and all of it where that does not say it.
fn split(text: &[u8]) -> (u64, Option<Box<[u8]>>) {
    let is_all = text.len() <= size_of::<u64>() && text.last() != Some(&0);
    (head(text), (!is_all).then(|| text.into()))
}
