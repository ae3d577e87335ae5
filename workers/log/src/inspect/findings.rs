//! What a check of a data directory finds.

use uuid::Uuid;

use crate::checkpoint::CheckpointSummary;
use crate::inspect::facts::SegmentFacts;
use crate::inspect::segment::SegmentRead;

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// Worth knowing; nothing is lost.
    Note,
    /// Bytes behind the end of the log that a start cuts off.
    TornTail,
    /// Something that only the history of keys needs; a start is not affected.
    History,
    /// Written by a newer program; a start is refused.
    Newer,
    /// A start is refused.
    Damage,
}

impl Gravity {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::TornTail => "torn",
            Self::History => "history",
            Self::Newer => "newer",
            Self::Damage => "damage",
        }
    }
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it means.
    pub gravity: Gravity,
    /// Name of the file in the directory.
    pub file: String,
    /// Where in it, bytes from its start.
    pub offset: Option<u64>,
    /// A sentence.
    pub what: String,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedSegment {
    /// Its header.
    pub facts: SegmentFacts,
    /// What reading it came to.
    pub read: SegmentRead,
    /// True if the checkpoint covers it.
    pub is_history: bool,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// The log's name.
    pub uuid: Option<Uuid>,
    /// The epochs of the segments, in order.
    pub epochs: Vec<u64>,
    /// The checkpoint in figures, if all of it can be read.
    pub checkpoint: Option<CheckpointSummary>,
    /// Segments that could be opened, ascending.
    pub segments: Vec<CheckedSegment>,
    /// Last revision that was read.
    pub last_revision: u64,
    /// Highest stamp that was read, wall-clock ms.
    pub last_stamp_ms: u64,
    /// True if the last batch is a clean stop.
    pub is_clean_stop: bool,
    /// True if the examiner was given a whole state.
    pub is_whole: bool,
    /// Bytes read.
    pub bytes: u64,
    /// In the order in which they were met.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// The worst that was found.
    pub fn gravity(&self) -> Option<Gravity> {
        self.findings.iter().map(|finding| finding.gravity).max()
    }
}
