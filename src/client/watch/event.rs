//! What a watch tells, and why it can end.

use kvbroker_protocol::{Failure, ReplyError, Row};

use super::changes::Changes;
use crate::client::ClientError;

/// Why a watch begins with what is there, instead of going on behind what it has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhySnapshot {
    /// It was asked for.
    Asked,
    /// The broker does not know all the changes any more that come next.
    Compacted,
    /// The log has another epoch: what was told before is of another history.
    OtherHistory,
    /// The table is behind what was told before: the last changes of that were undone.
    RolledBack,
}

impl WhySnapshot {
    /// The reason in one word, as programs that print it write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WhySnapshot::Asked => "asked",
            WhySnapshot::Compacted => "compacted",
            WhySnapshot::OtherHistory => "other_history",
            WhySnapshot::RolledBack => "rolled_back",
        }
    }
}

/// What a watch tells, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// What is there follows, row by row. Whoever keeps a copy throws away what it has: this is all of it. It also comes in the midst of
    /// a snapshot that can't be finished, and then begins it again.
    SnapshotBegin {
        /// The revision that the rows show.
        revision: u64,
        /// Why.
        why: WhySnapshot,
    },
    /// One key of the snapshot, in the order of keys.
    SnapshotRow(Row),
    /// That were all rows; the changes behind this revision follow.
    SnapshotEnd {
        /// The revision that they show.
        revision: u64,
    },
    /// All that one revision changed of the keys that are watched; never empty, and never told twice.
    Changes(Changes),
    /// Everything up to this revision was told. It comes once at the beginning, and again after everything that held the watch up.
    CaughtUp {
        /// The revision.
        revision: u64,
    },
    /// The broker is not reached at the moment. Nothing is missed: what happens meanwhile is told later.
    Disconnected {
        /// What happened.
        why: String,
    },
}

/// Why a watch that was not to begin anew ([`WatchOptions::resync`](super::WatchOptions::resync)) can't go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchBroken {
    /// Changes between what was told and what is known are gone.
    #[error(
        "the changes behind revision {after} are not all known any more{}: read the keys as they are, and watch from there on",
        oldest.map_or(String::new(), |oldest| format!(", only those behind {oldest}"))
    )]
    Compacted {
        /// What was told ends here.
        after: u64,
        /// What the broker knows begins here, if it says so.
        oldest: Option<u64>,
    },
    /// The log has another epoch than the one in which `after` was counted.
    #[error(
        "the table has another history now (epoch {now:016x}, not {before:016x}): what happened behind revision {after} of the old one \
         can't be told; read the keys as they are, and watch from there on"
    )]
    OtherHistory {
        /// What was told ends here.
        after: u64,
        /// Its epoch.
        before: u64,
        /// The log's.
        now: u64,
    },
    /// The table has not come as far, or not any more.
    #[error(
        "the table is at revision {revision}, behind {after}, which was told already: what is in between was undone; read the keys as \
         they are, and watch from there on"
    )]
    RolledBack {
        /// What was told ends here.
        after: u64,
        /// The table's revision.
        revision: u64,
    },
}

impl WatchBroken {
    /// Why a snapshot would be needed.
    #[must_use]
    pub fn why(&self) -> WhySnapshot {
        match self {
            WatchBroken::Compacted { .. } => WhySnapshot::Compacted,
            WatchBroken::OtherHistory { .. } => WhySnapshot::OtherHistory,
            WatchBroken::RolledBack { .. } => WhySnapshot::RolledBack,
        }
    }
}

/// Why a watch has ended.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEnd {
    /// It can't go on behind what it told.
    Broken(WatchBroken),
    /// The broker says that it never will.
    Failed(Failure),
    /// The broker's answers can't be understood.
    Unreadable(ReplyError),
    /// The client was closed.
    Closed,
}

impl From<WatchEnd> for ClientError {
    fn from(end: WatchEnd) -> ClientError {
        match end {
            WatchEnd::Broken(broken) => ClientError::Broken(broken),
            WatchEnd::Failed(failure) => ClientError::Failed(failure),
            WatchEnd::Unreadable(error) => ClientError::Protocol(error),
            WatchEnd::Closed => ClientError::Closed,
        }
    }
}

/// What a watch has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Messages of the stream that came, bookmarks included.
    pub messages: u64,
    /// Revisions that were told.
    pub revisions: u64,
    /// Times that the broker was asked because the stream had missed something, or said nothing.
    pub refills: u64,
    /// Times that the broker was asked because there was no stream.
    pub polls: u64,
    /// Revisions that came again and were not told again.
    pub duplicates: u64,
    /// Holes in the stream: the publisher has sent on, and what it sent before was not there.
    pub lost: u64,
    /// Messages of the stream that found no room while others were waited for, and were asked for again.
    pub dropped: u64,
    /// Snapshots that were begun.
    pub snapshots: u64,
    /// How many revisions of the table are known to be behind the last one that was verified.
    pub lag: u64,
}
