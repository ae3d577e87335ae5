//! What was committed: the revisions of every epoch, as the log was given them, and the table at each of them.
//!
//! - It hears of a batch from the log's own records ([`super::witness`]), before anything leaves the worker; so it shares no code with
//!   what tells of changes.
//! - What was appended and not confirmed may have been lost or kept by a crash: the next start says which.
//! - An epoch's truth is kept after its end: what is still on its way then is judged by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvbroker_core::{Space, split_table_record};
use kvbroker_log::{Cause, GroupRef, RecordRef};
use kvbroker_protocol::{ChangeKind, Key, Stored};

/// What became of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It has this value.
    Put(Stored),
    /// It was removed.
    Remove,
    /// It was removed because its deadline had come.
    Expire,
    /// It has a value that a watch does not want: never committed, only told.
    Leave,
}

impl What {
    /// As it was told.
    pub fn of(kind: &ChangeKind) -> What {
        match kind {
            ChangeKind::Put(value) => What::Put(value.clone()),
            ChangeKind::Remove => What::Remove,
            ChangeKind::Expire => What::Expire,
            ChangeKind::Leave => What::Leave,
        }
    }
}

/// One committed revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Its number.
    pub revision: u64,
    /// Its stamp.
    pub time_ms: u64,
    /// What it changed, in the order of keys.
    pub changes: Vec<(Key, What)>,
}

impl Committed {
    /// A group of the log; None if it takes no revision.
    ///
    /// # Panics
    /// On a record that is none of a table: the worker writes no such record.
    pub fn of(group: &GroupRef<'_>) -> Option<Committed> {
        if !group.cause.takes_revision() {
            return None;
        }
        let mut changes: Vec<(Key, What)> = Vec::new();
        for record in group.records() {
            let (key, value) = match record {
                RecordRef::Put { key, value } => (key, Some(value)),
                RecordRef::Delete { key } => (key, None),
            };
            let Some(key) = key.strip_prefix(&[Space::Table as u8]) else { continue };
            let what = match value {
                Some(record) => What::Put(stored(record)),
                None if group.cause == Cause::Expiry => What::Expire,
                None => What::Remove,
            };
            changes.push((key.to_vec(), what));
        }
        changes.sort_by(|one, other| one.0.cmp(&other.0));
        Some(Committed { revision: group.revision, time_ms: group.stamp_ms, changes })
    }

    /// What it changed below a prefix.
    pub fn below<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a (Key, What)> {
        self.changes.iter().filter(move |(key, _)| key.starts_with(prefix))
    }
}

fn stored(record: &[u8]) -> Stored {
    let record = split_table_record(record).expect("the worker writes whole records");
    Stored::from_bytes(record.stored.to_vec()).expect("the worker writes values")
}

/// Keys with their values and the revisions that made them.
pub type Table = BTreeMap<Key, (Stored, u64)>;

/// A table is kept at every so-many-th revision.
const KEPT_EVERY: u64 = 64;

#[derive(Clone, Debug, Default)]
struct History {
    /// The first is revision 1.
    revisions: Vec<Arc<Committed>>,
    kept: BTreeMap<u64, Arc<Table>>,
}

impl History {
    fn last(&self) -> u64 {
        self.revisions.len() as u64
    }

    fn push(&mut self, committed: Committed) {
        assert_eq!(committed.revision, self.last() + 1, "revisions follow each other");
        self.revisions.push(Arc::new(committed));
        if self.last().is_multiple_of(KEPT_EVERY) {
            let table = self.table(self.last());
            self.kept.insert(self.last(), Arc::new(table));
        }
    }

    fn truncate(&mut self, revision: u64) {
        self.revisions.truncate(usize::try_from(revision).unwrap_or(usize::MAX));
        self.kept.split_off(&(revision + 1));
    }

    fn table(&self, revision: u64) -> Table {
        let kept = self.kept.range(..=revision).next_back();
        let (from, mut table) = kept.map_or((0, Table::new()), |(from, table)| (*from, Table::clone(table)));
        for committed in self.behind(from, revision) {
            for (key, what) in &committed.changes {
                match what {
                    What::Put(value) => drop(table.insert(key.clone(), (value.clone(), committed.revision))),
                    What::Remove | What::Expire | What::Leave => drop(table.remove(key)),
                }
            }
        }
        table
    }

    fn behind(&self, after: u64, through: u64) -> &[Arc<Committed>] {
        let place = |revision: u64| usize::try_from(revision).unwrap_or(usize::MAX).min(self.revisions.len());
        let through = place(through);
        &self.revisions[place(after).min(through)..through]
    }
}

/// The truth of all epochs.
#[derive(Debug, Default)]
pub struct Truth {
    histories: BTreeMap<u64, History>,
    epoch: u64,
    /// Appended, and not confirmed by the log: the next start says what became of them.
    in_doubt: Vec<Committed>,
    /// How often the present epoch's history was set back, which nothing but a hand does.
    pub set_back: u64,
}

impl Truth {
    /// The present epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last committed revision of an epoch; None: there never was such an epoch.
    pub fn last(&self, epoch: u64) -> Option<u64> {
        self.histories.get(&epoch).map(History::last)
    }

    /// The last committed revision.
    pub fn now(&self) -> u64 {
        self.last(self.epoch).unwrap_or(0)
    }

    /// The log has confirmed these.
    pub fn commit(&mut self, confirmed: Vec<Committed>) {
        let history = self.histories.entry(self.epoch).or_default();
        confirmed.into_iter().for_each(|committed| history.push(committed));
    }

    /// The log has neither confirmed nor refused these.
    pub fn doubt(&mut self, appended: Vec<Committed>) {
        if !appended.is_empty() {
            self.in_doubt = appended;
        }
    }

    /// A start has found the log to end here, in this epoch.
    ///
    /// # Errors
    /// What is wrong about that.
    pub fn found(&mut self, epoch: u64, revision: u64) -> Result<(), String> {
        let mut history = self.histories.get(&self.epoch).cloned().unwrap_or_default();
        let in_doubt = std::mem::take(&mut self.in_doubt);
        let is_new = epoch != self.epoch;
        if is_new && self.histories.contains_key(&epoch) {
            return Err(format!("the start names an epoch {epoch:016x} that was before"));
        }
        if revision < history.last() {
            if !is_new {
                return Err(format!(
                    "{} revisions were released, {revision} were found, and the epoch is the same",
                    history.last()
                ));
            }
            history.truncate(revision);
        }
        for committed in in_doubt {
            if committed.revision > history.last() && committed.revision <= revision {
                history.push(committed);
            }
        }
        if history.last() != revision {
            return Err(format!("revision {revision} was found, and only {} were ever appended", history.last()));
        }
        self.epoch = epoch;
        self.histories.insert(epoch, history);
        Ok(())
    }

    /// A hand has put an older copy of the directory in the log's place.
    pub fn set_back_to(&mut self, revision: u64) {
        self.set_back += 1;
        self.in_doubt.clear();
        if let Some(history) = self.histories.get_mut(&self.epoch) {
            history.truncate(revision);
        }
    }

    /// The revisions behind `after` and up to `through` that changed something below a prefix.
    pub fn below<'a>(
        &'a self,
        epoch: u64,
        (after, through): (u64, u64),
        prefix: &'a [u8],
    ) -> impl Iterator<Item = &'a Committed> {
        let revisions = self.histories.get(&epoch).map_or(&[][..], |history| history.behind(after, through));
        revisions.iter().map(|committed| &**committed).filter(move |committed| committed.below(prefix).next().is_some())
    }

    /// What a key had at a revision.
    pub fn value(&self, epoch: u64, revision: u64, key: &[u8]) -> Option<(Stored, u64)> {
        let history = self.histories.get(&epoch)?;
        let behind = history.behind(0, revision);
        let change = |committed: &Arc<Committed>| {
            let (_, what) = committed.changes.iter().find(|(changed, _)| changed == key)?;
            Some((what.clone(), committed.revision))
        };
        match behind.iter().rev().find_map(change)? {
            (What::Put(value), revision) => Some((value, revision)),
            _ => None,
        }
    }

    /// What was there below a prefix at a revision.
    pub fn table(&self, epoch: u64, revision: u64, prefix: &[u8]) -> Table {
        let mut table = self.histories.get(&epoch).map_or_else(Table::new, |history| history.table(revision));
        table.retain(|key, _| key.starts_with(prefix));
        table
    }
}
