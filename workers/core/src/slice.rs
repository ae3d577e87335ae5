//! The state as records, a slice at a time: what a checkpoint made from memory is written from.
//!
//! - A slice is as of the revision at which it is taken; the table is not copied and nobody waits for more than one slice.
//! - Slices of one revision are the whole state: a [`Loader`](crate::Loader) comes to an equal one. Slices of several revisions are
//!   whole once the changes logged since the first of them are laid over, the last one of each record, or all in their order.

use crate::change::{Change, Space};
use crate::state::State;

/// One record of the state, as a checkpoint has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// Space byte and key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision of the group that wrote it. Records of sessions and floors don't keep theirs; they have that of the slice.
    pub revision: u64,
}

/// Some records in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The records.
    pub records: Vec<StateRecord>,
    /// True if there are none behind them. If not, the next slice may still be empty.
    pub is_end: bool,
}

/// Bytes that a record takes beside its key and value.
const RECORD_BYTES: usize = size_of::<StateRecord>();

impl StateRecord {
    fn of(change: Change, revision: u64) -> Option<StateRecord> {
        let mut key = Vec::with_capacity(1 + change.key.len());
        change.write_record_key(&mut key);
        Some(StateRecord { key, value: change.value?, revision })
    }
}

impl State {
    /// The records behind this record key (None: from the first one) in ascending order, through all spaces. The slice ends with the
    /// record that makes it `bytes_max` bytes in memory or more; so it always has one, unless it is the end.
    pub fn records_after(&self, after_record_key: Option<&[u8]>, bytes_max: usize) -> Slice {
        let mut slice = Slice::default();
        let mut bytes_left = bytes_max;
        for space in Space::ALL {
            let behind = match after_record_key.and_then(<[u8]>::split_first) {
                Some((byte, _)) if *byte > space as u8 => continue,
                Some((byte, key)) if *byte == space as u8 => Some(key),
                _ => None,
            };
            for record in self.records_of(space, behind) {
                bytes_left = bytes_left.saturating_sub(record.key.len() + record.value.len() + RECORD_BYTES);
                slice.records.push(record);
                if bytes_left == 0 {
                    return slice;
                }
            }
        }
        slice.is_end = true;
        slice
    }

    fn records_of<'s>(&'s self, space: Space, behind: Option<&'s [u8]>) -> Box<dyn Iterator<Item = StateRecord> + 's> {
        let now = self.revision();
        match space {
            Space::Binding => {
                Box::new(self.routing.bindings_behind(behind).filter_map(move |change| StateRecord::of(change, now)))
            }
            Space::Messages => {
                let counts = self.routing.counts_behind(behind);
                Box::new(counts.into_iter().filter_map(move |change| StateRecord::of(change, now)))
            }
            Space::Floor => Box::new(self.sessions.floors_behind(behind).filter_map(move |change| StateRecord::of(change, now))),
            Space::Rule => Box::new(self.rules.behind(behind).filter_map(move |change| StateRecord::of(change, now))),
            Space::Queue => Box::new(self.queues.queues_behind(behind).filter_map(move |change| StateRecord::of(change, now))),
            Space::Item => {
                Box::new(self.queues.items_records_behind(behind).filter_map(move |change| StateRecord::of(change, now)))
            }
            Space::ItemState => {
                Box::new(self.queues.states_behind(behind).filter_map(move |change| StateRecord::of(change, now)))
            }
            Space::Session => {
                Box::new(self.sessions.sessions_behind(behind).filter_map(move |change| StateRecord::of(change, now)))
            }
            Space::Table => {
                let entries = self.table.behind(behind);
                Box::new(entries.map(|(key, entry)| StateRecord {
                    key: [&[Space::Table as u8], key].concat(),
                    value: entry.record.to_vec(),
                    revision: entry.modified,
                }))
            }
            Space::Window => {
                let replies = self.sessions.replies_behind(behind, now);
                Box::new(replies.filter_map(|(change, revision)| StateRecord::of(change, revision)))
            }
        }
    }
}
