//! What slices of a state must be good for, for walks that have states to try it with.

use std::collections::BTreeMap;

use kvbroker_core::{Change, Loader, Space, State, StateRecord};

/// Reads the records back.
pub fn loaded<'r>(records: impl IntoIterator<Item = &'r StateRecord>, revision: u64) -> State {
    let mut loader = Loader::new();
    for record in records {
        loader.record(&record.key, &record.value, record.revision).unwrap();
    }
    loader.finish(revision).unwrap()
}

/// Slices of one moment lead to an equal state.
pub fn check_whole(state: &State, mut bytes_max: impl FnMut() -> usize) {
    let mut records: Vec<StateRecord> = Vec::new();
    loop {
        let slice = state.records_after(records.last().map(|record| record.key.as_slice()), bytes_max());
        assert!(slice.is_end || !slice.records.is_empty());
        records.extend(slice.records);
        if slice.is_end {
            break;
        }
    }
    assert!(loaded(&records, state.revision()) == *state, "the records lead to another state");
}

/// A run of slices while the state goes on, and all that was changed since it began.
#[derive(Default)]
pub struct Run {
    records: Vec<StateRecord>,
    slices: usize,
    changes: Vec<(Change, u64)>,
    /// Runs that were checked, and how many of them had many slices.
    pub done: usize,
    pub long: usize,
}

impl Run {
    /// The state is about to be changed so.
    pub fn change(&mut self, change: &Change, revision: u64) {
        if self.slices > 0 {
            self.changes.push((change.clone(), revision));
        }
    }

    /// Takes the next slice; at the end the run is checked and another begins.
    pub fn slice(&mut self, state: &State, bytes_max: usize) {
        let slice = state.records_after(self.records.last().map(|record| record.key.as_slice()), bytes_max);
        self.records.extend(slice.records);
        self.slices += 1;
        if !slice.is_end {
            return;
        }
        let run = std::mem::take(self);
        run.check(state);
        *self = Run { done: run.done + 1, long: run.long + usize::from(run.slices > 9), ..Run::default() };
    }

    fn check(&self, state: &State) {
        // In their order, as a replay does.
        let mut replayed = loaded(&self.records, state.revision());
        self.changes.iter().for_each(|(change, revision)| replayed.apply(change.clone(), *revision));
        assert!(replayed == *state, "slices and the changes since lead to another state");
        // The last record of each key, as a merge does.
        let mut merged: BTreeMap<Vec<u8>, StateRecord> = BTreeMap::new();
        merged.extend(self.records.iter().map(|record| (record.key.clone(), record.clone())));
        for (change, revision) in &self.changes {
            let mut key = Vec::new();
            change.write_record_key(&mut key);
            assert!(Space::from_byte(key[0]).is_some());
            match &change.value {
                Some(value) => {
                    merged.insert(key.clone(), StateRecord { key, value: value.clone(), revision: *revision });
                }
                None => drop(merged.remove(&key)),
            }
        }
        assert!(
            loaded(merged.values(), state.revision()) == *state,
            "slices merged with the changes since lead to another state"
        );
    }
}
