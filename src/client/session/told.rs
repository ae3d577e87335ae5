//! How a call ended, in little memory: there are many of them at a time, and nearly all have one of two answers.

use kvbroker_protocol::{Answer, Outcome, Stored};

use super::GaveUp;

/// The end of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// It was done, and there is nothing else to say.
    Done {
        /// The revision that it saw or made.
        revision: Option<u64>,
    },
    /// A value.
    Value {
        /// The revision of the table.
        revision: Option<u64>,
        /// As it was written.
        value: Stored,
        /// The revision of the key's last change.
        modified: u64,
        /// The revision at which the key came into being.
        created: u64,
    },
    /// Another outcome, or none.
    Other(Box<Result<Outcome, GaveUp>>),
}

impl From<Result<Outcome, GaveUp>> for Told {
    fn from(result: Result<Outcome, GaveUp>) -> Told {
        match result {
            Ok(Outcome { revision, result: Ok(Answer::Done) }) => Told::Done { revision },
            Ok(Outcome { revision, result: Ok(Answer::Value { value, modified, created }) }) => {
                Told::Value { revision, value, modified, created }
            }
            other => Told::Other(Box::new(other)),
        }
    }
}

impl Told {
    /// The outcome, or why there is none.
    ///
    /// # Errors
    /// As [`GaveUp`].
    pub fn into_result(self) -> Result<Outcome, GaveUp> {
        match self {
            Told::Done { revision } => Ok(Outcome { revision, result: Ok(Answer::Done) }),
            Told::Value { revision, value, modified, created } => {
                Ok(Outcome { revision, result: Ok(Answer::Value { value, modified, created }) })
            }
            Told::Other(result) => *result,
        }
    }
}
