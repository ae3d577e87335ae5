//! `history` answered from memory, where all that is asked for is there.
//!
//! - It is answered from memory or from the log, never from both: if the versions in memory don't fill the page, and the log goes
//!   further back, the log's reader reads them all.
//! - Both give the same: as many versions, newest first, as the limit and the bytes of a page allow.
//! - The walk goes from version to version of the one key. It costs what the page has, and a bounded number of versions that are
//!   newer than what is asked for.

use kvbroker_core::{History, PastVersion, State};
use kvbroker_protocol::{Answer, Stored, Version, VersionKind, limits};

use crate::histories::HistoryCall;
use crate::sizes::version_bytes;

/// Most versions that are passed over because they are too new. Who goes on from a version that was told starts right there.
const PASSED_OVER_MAX: usize = 4_096;
/// Units of work for a version that is looked at.
const VERSION_WORK: usize = 4;

/// The answer, if it can be given; and the units of work that this took.
pub(crate) fn from_memory(state: &State, history: &History, call: &HistoryCall, log_oldest: u64) -> (Option<Answer>, usize) {
    let memory_oldest = history.oldest_revision(state);
    let mut found: Vec<PastVersion<'_>> = Vec::new();
    let (mut bytes, mut seen, mut more) = (0, 0, false);
    for version in history.versions(state, &call.key, call.before) {
        seen += 1;
        if version.revision > call.through {
            if seen > PASSED_OVER_MAX {
                return (None, seen * VERSION_WORK);
            }
            continue;
        }
        let size = size_of::<Version>() + version.record.map_or(0, |record| record.stored.len());
        if found.len() == call.limit || (!found.is_empty() && bytes + size > limits::PAGE_BYTES_MAX) {
            more = true;
            break;
        }
        bytes += size;
        found.push(version);
    }
    let work = seen * VERSION_WORK;
    if !more && memory_oldest > log_oldest {
        return (None, work);
    }
    let versions: Option<Vec<Version>> = found.iter().map(version_of).collect();
    debug_assert!(versions.iter().flatten().map(version_bytes).sum::<usize>() == bytes);
    (versions.map(|versions| Answer::History { versions, more, oldest: memory_oldest.min(log_oldest) }), work)
}

/// None only for what is no value; the table holds none.
fn version_of(version: &PastVersion<'_>) -> Option<Version> {
    let kind = match version.record {
        Some(record) => VersionKind::Put(Stored::from_bytes(record.stored.to_vec())?),
        None if version.is_expiry() => VersionKind::Expire,
        None => VersionKind::Remove,
    };
    Some(Version { revision: version.revision, time_ms: version.origin.stamp_ms, kind })
}
