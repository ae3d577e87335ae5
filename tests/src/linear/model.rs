//! The plain model: what a right table answers, in the fewest words.
//!
//! - It shares no code with the table and knows nothing of sessions, arrays or restarts.

use std::collections::{BTreeMap, HashMap};

use super::history::{Ask, Found, Only, Told};

/// The state after some revision.
#[derive(Clone, Debug, Default)]
pub struct Model {
    revision: u64,
    keys: HashMap<u32, Found>,
}

/// A failure; nothing was changed.
struct Failed(Told);

impl Model {
    /// The last revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The number of keys.
    pub fn size(&self) -> u64 {
        self.keys.len() as u64
    }

    /// What is under a key.
    pub fn get(&self, key: u32) -> Option<Found> {
        self.keys.get(&key).copied()
    }

    /// All that is there.
    pub fn table(&self) -> BTreeMap<u32, Found> {
        self.keys.iter().map(|(key, found)| (*key, *found)).collect()
    }

    /// What a right table would reply, and true if the operation made a revision. Only then anything is changed.
    pub fn ask(&mut self, ask: &Ask) -> (Told, bool) {
        let mut undo = Vec::new();
        let revision = self.revision + 1;
        let (told, changed) = match self.operate(ask, revision, &mut undo) {
            // A key that was made and removed again has not changed.
            Ok(told) => (told, undo.iter().any(|(key, before)| before.is_some() || self.keys.contains_key(key))),
            Err(Failed(told)) => {
                while let Some((key, before)) = undo.pop() {
                    self.set(key, before);
                }
                (told, false)
            }
        };
        if changed {
            self.revision = revision;
        }
        (told, changed)
    }

    fn operate(&mut self, ask: &Ask, revision: u64, undo: &mut Vec<(u32, Option<Found>)>) -> Result<Told, Failed> {
        Ok(match ask {
            Ask::Get { key } => self.get(*key).map_or(Told::NotFound, Told::Found),
            Ask::Mget { keys } => Told::Many(keys.iter().map(|key| self.get(*key)).collect()),
            Ask::Exists { key } => Told::Exists(self.keys.contains_key(key)),
            Ask::Size => Told::Size(self.size()),
            Ask::Put { key, value, only } => {
                if only.is_some_and(|only| !self.holds(*key, only)) {
                    return Err(Failed(Told::Conflict));
                }
                self.put(*key, *value, revision, undo);
                Told::Done
            }
            Ask::Incr { key, by } => {
                let before = self.get(*key).map_or(0, |found| found.value);
                let sum = before.checked_add(*by).ok_or(Failed(Told::OutOfRange))?;
                self.put(*key, sum, revision, undo);
                Told::Sum(sum)
            }
            Ask::Del { key, give_back, only } => {
                let before = self.get(*key).ok_or(Failed(Told::NotFound))?;
                if only.is_some_and(|only| !self.holds(*key, only)) {
                    return Err(Failed(Told::Conflict));
                }
                undo.push((*key, Some(before)));
                self.set(*key, None);
                if *give_back { Told::Removed(before.value) } else { Told::Done }
            }
            Ask::Txn(txn) => {
                let succeeded = txn.compares.iter().all(|(key, only)| self.holds(*key, *only));
                let results: Result<_, _> = txn.list(succeeded).iter().map(|ask| self.operate(ask, revision, undo)).collect();
                Told::Txn { succeeded, results: results? }
            }
        })
    }

    fn holds(&self, key: u32, only: Only) -> bool {
        let found = self.get(key);
        match only {
            Only::Absent => found.is_none(),
            Only::Exists => found.is_some(),
            Only::Revision(revision) => found.map_or(0, |found| found.modified) == revision,
            Only::Value(value) => found.is_some_and(|found| found.value == value),
        }
    }

    fn put(&mut self, key: u32, value: i64, revision: u64, undo: &mut Vec<(u32, Option<Found>)>) {
        let before = self.get(key);
        undo.push((key, before));
        let created = before.map_or(revision, |before| before.created);
        self.set(key, Some(Found { value, modified: revision, created }));
    }

    fn set(&mut self, key: u32, found: Option<Found>) {
        match found {
            Some(found) => drop(self.keys.insert(key, found)),
            None => drop(self.keys.remove(&key)),
        }
    }
}
