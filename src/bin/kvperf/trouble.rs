//! Why a run, or one of its clients, ends without a result.

use kvbroker::client::{ClientError, exit_of};
use kvbroker::exit::Exit;
use kvbroker_protocol::Failure;
use serde::{Deserialize, Serialize};

use crate::stages::Wrong;

/// What the shell shows for a program that Ctrl-C ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// A sentence, what to do about it, and the exit code. It goes from process to process, so causes are part of the sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{sentence}")]
pub(crate) struct Trouble {
    /// For the shell.
    pub(crate) code: u8,
    /// What happened.
    pub(crate) sentence: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl Trouble {
    pub(crate) fn new(exit: Exit, sentence: impl Into<String>) -> Trouble {
        Trouble { code: exit.code(), sentence: sentence.into(), hint: None }
    }

    /// The system refused something that every machine has.
    pub(crate) fn system(what: &str, error: impl std::fmt::Display) -> Trouble {
        Trouble::new(Exit::Unreachable, format!("{what}: {error}"))
    }

    pub(crate) fn interrupted() -> Trouble {
        Trouble { code: INTERRUPTED, sentence: "interrupted".into(), hint: None }
    }

    /// The same with something in front of the sentence.
    #[must_use]
    pub(crate) fn of(mut self, whom: &str) -> Trouble {
        self.sentence = format!("{whom}: {}", self.sentence);
        self
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Trouble {
        Trouble { code: error.exit().code(), sentence: error.to_string(), hint: error.hint() }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::new(exit_of(failure.code), failure.to_string())
    }
}

impl From<Wrong> for Trouble {
    fn from(wrong: Wrong) -> Trouble {
        let exit = match &wrong {
            Wrong::Refused { failure, .. } => exit_of(failure.code),
            Wrong::Answer { .. } | Wrong::Lost { .. } => Exit::NotFound,
        };
        Trouble::new(exit, wrong.to_string())
    }
}
