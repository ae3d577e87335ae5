//! What a watch is about, and what of a revision it must be told.

use kvbroker_protocol::{Key, Stored};

use super::truth::{Committed, Table, Truth, What};

/// What is watched.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Keys that start with these bytes.
    pub prefix: Vec<u8>,
    /// Only this one of them.
    pub only: Option<Key>,
    /// Only those with this value.
    pub fitting: Option<Stored>,
    /// With what was before.
    pub detail: bool,
}

impl Subject {
    /// Whether a key is watched.
    pub fn has(&self, key: &[u8]) -> bool {
        key.starts_with(&self.prefix) && self.only.as_ref().is_none_or(|only| only == key)
    }

    pub(super) fn fits(&self, value: Option<&Stored>) -> bool {
        value.is_some_and(|value| self.fitting.as_ref().is_none_or(|fitting| fitting == value))
    }

    /// What was there at a revision.
    pub fn table(&self, truth: &Truth, epoch: u64, revision: u64) -> Table {
        let mut table = truth.table(epoch, revision, &self.prefix);
        table.retain(|key, (value, _)| self.has(key) && self.fits(Some(value)));
        table
    }

    /// What of a revision is to be told; and whether it must be, or only may: where the broker does not know what was before.
    pub(super) fn expected(&self, truth: &Truth, epoch: u64, committed: &Committed) -> Vec<(Key, What, bool)> {
        let mut expected = Vec::new();
        for (key, what) in committed.changes.iter().filter(|(key, _)| self.has(key)) {
            if self.fitting.is_none() {
                expected.push((key.clone(), what.clone(), true));
                continue;
            }
            let before = truth.value(epoch, committed.revision - 1, key);
            let fitted = self.fits(before.as_ref().map(|(value, _)| value));
            match what {
                What::Put(value) if self.fits(Some(value)) => expected.push((key.clone(), what.clone(), true)),
                What::Put(_) => expected.push((key.clone(), What::Leave, fitted)),
                _ => expected.push((key.clone(), what.clone(), fitted)),
            }
        }
        expected
    }

    /// The first revision in between that has to be told.
    pub fn first_of(&self, truth: &Truth, epoch: u64, between: (u64, u64)) -> Option<u64> {
        let must = |committed: &&Committed| self.expected(truth, epoch, committed).iter().any(|(_, _, must)| *must);
        truth.below(epoch, between, &self.prefix).find(must).map(|committed| committed.revision)
    }
}
