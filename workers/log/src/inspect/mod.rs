//! Looking at a data directory without opening the log: what the offline tools and `stats` are made of.
//!
//! - Nothing here writes, locks or makes anything; a read-only storage is enough.
//! - A broker may run meanwhile. What it is writing just now is told from damage by who holds the lock, see [`lock_state`].
//! - What can't be read is said with file, offset and reason, and does not keep the rest from being read.

mod check;
mod facts;
mod files;
mod findings;
mod holder;
mod overview;
mod past_cache;
mod segment;

pub use check::{Examiner, check};
pub use facts::SegmentFacts;
pub use files::{DataFile, FileKind, list_files};
pub use findings::{CheckReport, CheckedSegment, Finding, Gravity};
pub use holder::{LockState, lock_state};
pub use overview::{CheckpointFacts, Overview};
pub use past_cache::PastCache;
pub use segment::{BatchPurpose, BatchView, Found, SegmentEnd, SegmentRead, read_segment};
