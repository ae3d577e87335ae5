//! What can go wrong with a call, and what may be concluded from it.

use kvbroker_protocol::{ErrorCode, Failure, ReplyError};

use super::session::{GaveUp, RequestId};
use super::watch::WatchBroken;
use crate::exit::Exit;
use crate::lookup::LookupError;
use crate::transport::TransportError;

/// Why a call has no answer, or not the one that was hoped for.
///
/// [`ClientError::is_definite`] is the question to ask before doing it again: everything but
/// [`ClientError::Unknown`] and [`ClientError::Closed`] was certainly not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The broker was not found, or doesn't want us.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The broker answered, and the answer is a failure.
    #[error("{0}")]
    Failed(Failure),
    /// No answer came in time. A read, or a mutation that was never sent.
    #[error("no answer from the broker of {project} within {waited}{}", trouble.as_ref().map_or(String::new(), |t| format!(": {t}")))]
    TimedOut {
        /// The project.
        project: String,
        /// How long it was waited, for people.
        waited: String,
        /// The last trouble with the connection.
        trouble: Option<String>,
    },
    /// A mutation that may have been done: it was sent, and no answer came before the deadline, or its session was
    /// forgotten.
    #[error("the outcome is unknown, it may have been done: {why} (request {request})")]
    Unknown {
        /// Its name.
        request: RequestId,
        /// What happened to it.
        why: String,
    },
    /// The broker answered a read with something else than a reply to it.
    #[error(transparent)]
    Protocol(#[from] ReplyError),
    /// The stored value is not of the type that was asked for.
    #[error("the value of the key {key:?} is not of the wanted type: {source}")]
    Decode {
        /// The key, as text.
        key: String,
        /// What doesn't fit.
        source: rmp_serde::decode::Error,
    },
    /// A value of this type can't be stored.
    #[error("the value can't be stored: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    /// A watch can't go on behind what it told. See [`WatchOptions::resync`](super::WatchOptions::resync).
    #[error(transparent)]
    Broken(#[from] WatchBroken),
    /// The client was closed before the answer came.
    #[error("the client was closed before the answer came; it may have been done")]
    Closed,
    /// The system gives no thread or file descriptor.
    #[error("the client can't be started: {0}")]
    System(#[source] std::io::Error),
    /// libzmq failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl ClientError {
    /// True when it was certainly not done.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        match self {
            ClientError::Unknown { .. } | ClientError::Closed => false,
            ClientError::Failed(failure) => failure.code.is_definite(),
            _ => true,
        }
    }

    /// The code of a failure that the broker answered with.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Failed(failure) => Some(failure.code),
            _ => None,
        }
    }

    /// The exit code of a program that ends because of this.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            ClientError::Lookup(error) => error.exit(),
            ClientError::Failed(failure) => exit_of(failure.code),
            ClientError::Broken(_) => Exit::NotFound,
            ClientError::Unknown { .. } | ClientError::Closed => Exit::UnknownOutcome,
            ClientError::Decode { .. } | ClientError::Encode(_) => Exit::Usage,
            ClientError::TimedOut { .. } | ClientError::Protocol(_) | ClientError::System(_) | ClientError::Transport(_) => {
                Exit::Unreachable
            }
        }
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ClientError::Lookup(error) => error.hint(),
            ClientError::Failed(failure) => match failure.code {
                ErrorCode::Busy => Some("nothing was done; try again in a moment, or with a longer --timeout".into()),
                ErrorCode::NotConvertible => Some(
                    "which rules there are: kvclient PROJECT convert list; a new one: kvclient PROJECT convert declare".into(),
                ),
                ErrorCode::ShuttingDown => Some("nothing was done; try again when it runs again".into()),
                _ => None,
            },
            ClientError::TimedOut { .. } => {
                Some("nothing was changed; is the broker still running? --timeout 0 waits for ever".into())
            }
            ClientError::Unknown { request, .. } => {
                Some(format!("ask for its outcome: kvclient PROJECT result {request}, or read the key"))
            }
            _ => None,
        }
    }
}

/// The exit code for a failure that a broker answered with.
#[must_use]
pub fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::NotFound | ErrorCode::Compacted | ErrorCode::Unroutable => Exit::NotFound,
        ErrorCode::Conflict | ErrorCode::IdReused | ErrorCode::LeaseLost => Exit::Conflict,
        ErrorCode::Invalid
        | ErrorCode::UnsupportedVersion
        | ErrorCode::WrongType
        | ErrorCode::OutOfRange
        | ErrorCode::NotConvertible => Exit::Usage,
        ErrorCode::QueueFull
        | ErrorCode::Limit
        | ErrorCode::Busy
        | ErrorCode::ReplyFull
        | ErrorCode::OutOfOrder
        | ErrorCode::SnapshotGone => Exit::Busy,
        ErrorCode::Refused => Exit::Refused,
        ErrorCode::WrongBroker | ErrorCode::WrongProject | ErrorCode::ShuttingDown | ErrorCode::Internal => Exit::Unreachable,
        ErrorCode::SessionExpired | ErrorCode::UnknownOutcome => Exit::UnknownOutcome,
    }
}

impl ClientError {
    pub(super) fn gave_up(gave_up: GaveUp, project: &str, waited: impl Into<String>) -> Self {
        match gave_up {
            GaveUp::TimedOut { trouble } => ClientError::TimedOut { project: project.to_owned(), waited: waited.into(), trouble },
            GaveUp::Unknown { request, why } => ClientError::Unknown { request, why },
            GaveUp::Unreadable(error) => ClientError::Protocol(error),
            GaveUp::OverLimit(failure) => ClientError::Failed(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unknown_outcomes_are_indefinite() {
        for code in ErrorCode::ALL {
            let error = ClientError::Failed(Failure::new(*code, "x"));
            assert_eq!(error.is_definite(), code.is_definite());
            assert_ne!(error.exit(), Exit::Ok);
            assert_eq!(error.exit() == Exit::UnknownOutcome, !error.is_definite());
        }
        let trouble = Some("connection refused".into());
        let late = ClientError::gave_up(GaveUp::TimedOut { trouble }, "lab", "10 s");
        assert_eq!(late.to_string(), "no answer from the broker of lab within 10 s: connection refused");
        assert!(late.is_definite());
    }
}
