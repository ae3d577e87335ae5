//! What a watch told, in few words.

use kvbroker::client::WatchEvent;
use kvbroker_protocol::{ChangeKind, StoredRef};
use serde::{Deserialize, Serialize};

use super::truth::{Change, Kind, digest};

/// An event of a watch without its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Heard {
    /// Rows of the table at this revision follow, for this reason.
    SnapshotBegin(u64, String),
    /// A key, its value's digest, and the revision of its last change.
    Row(String, u64, u64),
    /// No more rows.
    SnapshotEnd(u64),
    /// One revision's changes, in the order in which they were told.
    Changes(u64, Vec<Change>),
    /// Everything up to this revision was told.
    CaughtUp(u64),
    /// The broker is away.
    Disconnected,
}

impl Heard {
    /// What an event says.
    ///
    /// # Panics
    /// If it is of a kind, or a value is of a type, that these tests don't use.
    pub fn new(event: &WatchEvent) -> Heard {
        match event {
            WatchEvent::SnapshotBegin { revision, why } => Heard::SnapshotBegin(*revision, why.name().to_owned()),
            WatchEvent::SnapshotRow(row) => Heard::Row(text_of(&row.key), digest_of(row.value.lent()), row.modified),
            WatchEvent::SnapshotEnd { revision } => Heard::SnapshotEnd(*revision),
            WatchEvent::Changes(told) => {
                let changes = told.iter().map(|change| Change { key: text_of(change.key), kind: kind_of(change.kind) });
                Heard::Changes(told.revision(), changes.collect())
            }
            WatchEvent::CaughtUp { revision } => Heard::CaughtUp(*revision),
            WatchEvent::Disconnected { .. } => Heard::Disconnected,
        }
    }

    /// Whether it tells that this key is there, or what became of it.
    pub fn names(&self, key: &str) -> bool {
        match self {
            Heard::Row(row, ..) => row == key,
            Heard::Changes(_, changes) => changes.iter().any(|change| change.key == key),
            _ => false,
        }
    }
}

fn text_of(key: &[u8]) -> String {
    String::from_utf8(key.to_vec()).expect("the tests' keys are texts")
}

fn digest_of(value: StoredRef<'_>) -> u64 {
    digest(&value.as_text().expect("the tests' values are texts"))
}

fn kind_of(kind: ChangeKind<StoredRef<'_>>) -> Kind {
    match kind {
        ChangeKind::Put(value) => Kind::Put(digest_of(value)),
        ChangeKind::Remove => Kind::Remove,
        ChangeKind::Expire => Kind::Expire,
        ChangeKind::Leave => panic!("these tests filter nothing"),
    }
}
