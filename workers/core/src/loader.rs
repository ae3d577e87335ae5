//! A state from the records of a checkpoint.
//!
//! - The records come in the order of their keys, each once. So the table is made in one go from what is sorted already: each leaf of
//!   it is full, and no key is looked up.
//! - What is wrong with a record is told with its key; nothing is guessed.

use crate::change::{Change, ChangeError, Space};
use crate::conversions::Rules;
use crate::queues::Queues;
use crate::routing::Routing;
use crate::sessions::Sessions;
use crate::state::State;
use crate::table::TableBuilder;

/// Takes the records of a checkpoint and makes the state of them.
#[derive(Debug, Default)]
pub struct Loader {
    sessions: Sessions,
    queues: Queues,
    routing: Routing,
    rules: Rules,
    table: TableBuilder,
    last_key: Vec<u8>,
    highest_revision: u64,
}

/// What can't be a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A record that this version does not know, or that is none.
    #[error(transparent)]
    Record(#[from] ChangeError),
    /// A record key that is not behind the one before.
    #[error("the record {:?} does not come behind {:?}; records are in the order of their keys", key.escape_ascii().to_string(), before.escape_ascii().to_string())]
    OutOfOrder {
        /// The record key before it.
        before: Vec<u8>,
        /// The record key.
        key: Vec<u8>,
    },
    /// A record that was changed after the revision at which the state ends.
    #[error("a record was changed at revision {record}, and the state ends with revision {end}")]
    AfterTheEnd {
        /// The record's revision.
        record: u64,
        /// The state's revision.
        end: u64,
    },
}

impl Loader {
    /// Nothing yet.
    pub fn new() -> Loader {
        Loader::default()
    }

    /// Takes the next record: its key with the space byte, its value and the revision of the group that wrote it.
    ///
    /// # Errors
    /// [`LoadError`] if it is none, of a newer version, or not behind the one before. The loader is of no use then.
    pub fn record(&mut self, record_key: &[u8], value: &[u8], revision: u64) -> Result<(), LoadError> {
        // The first one too: no record key is empty.
        if record_key <= self.last_key.as_slice() && !record_key.is_empty() {
            return Err(LoadError::OutOfOrder { before: self.last_key.clone(), key: record_key.to_vec() });
        }
        self.highest_revision = self.highest_revision.max(revision);
        let (space, key) = Change::check_record(record_key, Some(value))?;
        match space {
            Space::Binding => self.routing.apply_binding(key, Some(value)),
            Space::Messages => self.routing.apply_counts(Some(value)),
            Space::Floor => self.sessions.apply_floor(key, Some(value)),
            Space::Session => self.sessions.apply_session(key, Some(value)),
            Space::Window => self.sessions.apply_window(key, Some(value), revision),
            Space::Table => self.table.push(key, value, revision),
            Space::Rule => self.rules.apply(key, Some(value)),
            Space::Queue => self.queues.apply_queue(key, Some(value)),
            Space::Item => self.queues.apply_item(key, Some(value)),
            Space::ItemState => self.queues.apply_state(key, Some(value)),
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(record_key);
        Ok(())
    }

    /// The state at this revision; all records were given.
    ///
    /// # Errors
    /// [`LoadError::AfterTheEnd`] if one of them was changed later.
    pub fn finish(self, revision: u64) -> Result<State, LoadError> {
        if self.highest_revision > revision {
            return Err(LoadError::AfterTheEnd { record: self.highest_revision, end: revision });
        }
        Ok(State::from_parts(self.table.finish(), self.sessions, self.queues, self.routing, self.rules, revision))
    }
}
