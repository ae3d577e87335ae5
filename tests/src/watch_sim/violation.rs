//! The rules that can be broken.

use kvbroker::client::WhySnapshot;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Violation {
    /// Something was passed over.
    #[error("everything up to {through} counts as told, and revision {revision} was not")]
    Skipped {
        /// What was told ends here.
        through: u64,
        /// What was not told.
        revision: u64,
    },
    /// Told, and not as it was committed.
    #[error("revision {revision} was told as {told}, and is {committed}")]
    Otherwise {
        /// The revision.
        revision: u64,
        /// What was told.
        told: String,
        /// What was committed.
        committed: String,
    },
    /// Told again, or behind a later one.
    #[error("revision {revision} was told behind {after}")]
    OutOfOrder {
        /// What was told before.
        after: u64,
        /// What was told then.
        revision: u64,
    },
    /// Nothing of the kind was committed.
    #[error("revision {revision} of epoch {epoch:016x} was told of, which ends with {last:?}")]
    Ahead {
        /// The epoch.
        epoch: u64,
        /// The revision.
        revision: u64,
        /// The last one.
        last: Option<u64>,
    },
    /// A snapshot that is not the table.
    #[error("the snapshot at revision {revision} of epoch {epoch:016x} {what}")]
    WrongSnapshot {
        /// The epoch.
        epoch: u64,
        /// The revision.
        revision: u64,
        /// What is wrong.
        what: String,
    },
    /// A mirror that is not the table.
    #[error("the mirror at revision {revision} of epoch {epoch:016x} {what}")]
    WrongMirror {
        /// The epoch.
        epoch: u64,
        /// The revision.
        revision: u64,
        /// What is wrong.
        what: String,
    },
    /// Another history, and not a word.
    #[error("the watch went on from epoch {before:?} to {now:?} without a snapshot")]
    OtherHistory {
        /// Before.
        before: Option<u64>,
        /// Then.
        now: Option<u64>,
    },
    /// The history was set back, and not a word.
    #[error("revision {told} was told and undone, and the watch went on without a snapshot")]
    RollbackUnnoticed {
        /// The revision.
        told: u64,
    },
    /// A reason that is none.
    #[error("a snapshot or an end because of {why:?}, behind revision {after:?} of epoch {epoch:?}, which is not so: {what}")]
    NoReason {
        /// What was said.
        why: WhySnapshot,
        /// What was told.
        after: Option<u64>,
        /// Its epoch.
        epoch: Option<u64>,
        /// How it is.
        what: String,
    },
    /// The order of events makes no sense.
    #[error("{0}")]
    Confused(String),
    /// All is well, and the watch does not come to the end.
    #[error("after {waited_s} s without any trouble {client} has told everything up to {told:?}, and the table is at {now}")]
    Stuck {
        /// Who.
        client: String,
        /// How long it was waited for.
        waited_s: u64,
        /// What was told.
        told: Option<u64>,
        /// The table.
        now: u64,
    },
    /// The broker itself failed.
    #[error("the broker failed: {0}")]
    Broker(String),
}
