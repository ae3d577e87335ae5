//! The rules that can be broken.

use std::fmt;

use crate::error::LogError;

/// A broken rule.
#[derive(Debug)]
pub(super) enum Violation {
    SilentLoss { acknowledged: usize, found: usize },
    NotAPrefix { at: usize },
    Refused(LogError),
    Failed(LogError),
    RevisionReused { released: usize, found: usize },
    Hopeless(String),
    CheckpointLost { next_segment: u64, found: u64 },
    NotAFixedPoint(&'static str),
    WrongHistory { revision: u64 },
}

impl Violation {
    pub fn is_silent_loss(&self) -> bool {
        matches!(self, Self::SilentLoss { .. } | Self::NotAPrefix { .. } | Self::RevisionReused { .. })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SilentLoss { acknowledged, found } => write!(f, "{acknowledged} groups were acknowledged, {found} are there"),
            Self::NotAPrefix { at } => write!(f, "the state from group {at} on is none that the appended groups lead to"),
            Self::Refused(error) => write!(f, "refused without damage: {error}"),
            Self::Failed(error) => write!(f, "failed without a cause: {error}"),
            Self::Hopeless(what) => write!(f, "a repair gave up: {what}"),
            Self::RevisionReused { released, found } => {
                write!(f, "{released} groups were released in this epoch, which goes on with {found}")
            }
            Self::CheckpointLost { next_segment, found } => {
                write!(
                    f,
                    "a checkpoint of all before segment {next_segment} was in force, now one of all before segment {found} is"
                )
            }
            Self::WrongHistory { revision } => write!(f, "history says something else behind revision {revision}"),
            Self::NotAFixedPoint(what) => write!(f, "a second recovery differs: {what}"),
        }
    }
}

/// Why a step didn't do what it should.
pub(super) enum Trouble {
    /// The log or the maker of checkpoints gave up.
    Error(LogError),
    Broken(Violation),
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Error(error)
    }
}
