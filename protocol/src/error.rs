//! Error codes of the protocol: stable names, and what a client may conclude from each.

use std::fmt;

use crate::reply::Outcome;

/// What a reply says about its operation; a client can always tell these four apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The operation was done.
    Ok,
    /// A valid operation that was definitely not done.
    Failed,
    /// Not a valid request; definitely not done.
    Invalid,
    /// May have been done.
    Unknown,
}

impl Status {
    /// The name in map and JSON replies.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Failed => "failed",
            Status::Invalid => "invalid",
            Status::Unknown => "unknown",
        }
    }

    /// The number in compact replies.
    pub fn number(self) -> u8 {
        match self {
            Status::Ok => 0,
            Status::Failed => 1,
            Status::Invalid => 2,
            Status::Unknown => 3,
        }
    }

    /// The status of a compact reply's number.
    pub fn from_number(number: u64) -> Option<Status> {
        Some(match number {
            0 => Status::Ok,
            1 => Status::Failed,
            2 => Status::Invalid,
            3 => Status::Unknown,
            _ => return None,
        })
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:ident;)*) => {
        /// Why an operation was not answered with success. The names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// All codes, in the order of docs/protocol.md.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The stable name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// What a client may conclude.
            pub fn status(self) -> Status {
                match self { $(ErrorCode::$variant => Status::$status,)* }
            }

            /// The code of a wire name.
            pub fn from_name(name: &str) -> Option<ErrorCode> {
                match name { $($name => Some(ErrorCode::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// The request does not follow the grammar.
    Invalid = "invalid", Invalid;
    /// The compact message names a protocol version this broker does not speak.
    UnsupportedVersion = "unsupported_version", Invalid;
    /// A size or number is over a bound that no retry changes.
    Limit = "limit", Invalid;
    /// The key does not exist.
    NotFound = "not_found", Failed;
    /// A condition of the operation was not met.
    Conflict = "conflict", Failed;
    /// The value has another type than the operation needs.
    WrongType = "wrong_type", Failed;
    /// The result would lie outside the integers of MessagePack, -2^63 to 2^64-1.
    OutOfRange = "out_of_range", Failed;
    /// The value can't become what was asked for, or no rule says how.
    NotConvertible = "not_convertible", Failed;
    /// A limit that was declared for the queue is reached.
    QueueFull = "queue_full", Failed;
    /// No queue wants the message, and its publisher asked for one.
    Unroutable = "unroutable", Failed;
    /// The delivery is over: its lease has ended, or the item was given back, acknowledged, buried or removed.
    LeaseLost = "lease_lost", Failed;
    /// The array's reply or its share of a turn is used up; ask for this operation again by itself.
    ReplyFull = "reply_full", Failed;
    /// A bound on work in progress is reached; try again after the given time.
    Busy = "busy", Failed;
    /// A number before this one in the session has not been decided: send that one first, then this one again.
    OutOfOrder = "out_of_order", Failed;
    /// The number was used for another request, whose outcome is attached.
    IdReused = "id_reused", Failed;
    /// The snapshot is not kept any more; begin a new one.
    SnapshotGone = "snapshot_gone", Failed;
    /// Changes so old are not known any more: read the keys as they are, and go on from there.
    Compacted = "compacted", Failed;
    /// The header names another broker than this one.
    WrongBroker = "wrong_broker", Failed;
    /// Hello asked for another project than this one.
    WrongProject = "wrong_project", Failed;
    /// The key that the client authenticated with may not do this.
    Refused = "refused", Failed;
    /// The broker is stopping and did not take the request.
    ShuttingDown = "shutting_down", Failed;
    /// A fault in the broker while deciding; nothing was changed.
    Internal = "internal", Failed;
    /// The session is not known any more: a request that was sent before may have been done.
    SessionExpired = "session_expired", Unknown;
    /// The outcome is not known: the operation may have been done.
    UnknownOutcome = "unknown_outcome", Unknown;
}

impl ErrorCode {
    /// True when the operation was certainly not done.
    pub fn is_definite(self) -> bool {
        self.status() != Status::Unknown
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an operation failed: the code, a sentence that says what to do, and for `busy` when to try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The stable code.
    pub code: ErrorCode,
    /// A sentence for a person; its words are not stable.
    pub message: String,
    /// With `busy`: how long to wait before trying again, milliseconds.
    pub retry_after_ms: Option<u64>,
    /// With `id_reused`: what became of the request that used the number first.
    pub original: Option<Box<Outcome>>,
    /// With `compacted`: the oldest revision whose changes are still known.
    pub oldest: Option<u64>,
}

impl Failure {
    /// A failure with a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), retry_after_ms: None, original: None, oldest: None }
    }

    /// `invalid` with a sentence.
    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(ErrorCode::Invalid, message)
    }

    /// `limit` with a sentence.
    pub fn limit(message: impl Into<String>) -> Failure {
        Failure::new(ErrorCode::Limit, message)
    }

    /// `busy`, with the time after which a retry makes sense.
    pub fn busy(message: impl Into<String>, retry_after_ms: u64) -> Failure {
        Failure { retry_after_ms: Some(retry_after_ms), ..Failure::new(ErrorCode::Busy, message) }
    }

    /// `compacted`, with the oldest revision whose changes are still known.
    pub fn compacted(message: impl Into<String>, oldest: u64) -> Failure {
        Failure { oldest: Some(oldest), ..Failure::new(ErrorCode::Compacted, message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.name()), Some(*code));
            assert_ne!(code.status(), Status::Ok);
        }
    }

    #[test]
    fn only_an_unknown_outcome_or_session_is_indefinite() {
        let indefinite: Vec<_> = ErrorCode::ALL.iter().filter(|code| !code.is_definite()).collect();
        assert_eq!(indefinite, [&ErrorCode::SessionExpired, &ErrorCode::UnknownOutcome]);
    }
}
