//! Exit codes: what scripts may rely on, the same in every program.
//!
//! - A code keeps its meaning for ever; new meanings get new numbers.
//! - 0–9 are for every program, from 10 on for the broker.
//! - A broken pipe on stdout is success: whoever reads `| head` has what they wanted.

use std::process::ExitCode;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The key is absent, or a condition was not met (a transaction took its else branch).
    NotFound = 1,
    /// The command line or the request is invalid.
    Usage = 2,
    /// A conditional write found something else than it named; nothing was changed.
    Conflict = 3,
    /// The request may or may not have been done; its id was printed and can be asked about.
    UnknownOutcome = 4,
    /// No broker was found, or none answered.
    Unreachable = 5,
    /// The key is not admitted, or its role doesn't allow this.
    Refused = 6,
    /// The broker is busy or a limit was reached; nothing was done.
    Busy = 7,
    /// Several brokers carry this project name; `--owner` or `--broker` chooses.
    Ambiguous = 8,
    /// Another broker holds the data directory or the runtime directory.
    DataLocked = 10,
    /// The log is damaged; nothing was changed.
    LogDamaged = 11,
    /// The disk is full or a sync failed; nothing unsynced was acknowledged.
    DiskFailed = 12,
    /// The data was written by a newer program.
    DataTooNew = 13,
}

impl Exit {
    /// Every code, in ascending order (for tables in the help and the manual).
    pub const ALL: [Exit; 13] = [
        Exit::Ok,
        Exit::NotFound,
        Exit::Usage,
        Exit::Conflict,
        Exit::UnknownOutcome,
        Exit::Unreachable,
        Exit::Refused,
        Exit::Busy,
        Exit::Ambiguous,
        Exit::DataLocked,
        Exit::LogDamaged,
        Exit::DiskFailed,
        Exit::DataTooNew,
    ];

    /// The number that the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// One line for `--help`.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "ok",
            Exit::NotFound => "not found, or the condition was not met",
            Exit::Usage => "wrong usage or an invalid request",
            Exit::Conflict => "conflict: a condition of the write does not hold",
            Exit::UnknownOutcome => "unknown outcome: may have been done (the id is printed)",
            Exit::Unreachable => "no such broker found, or it doesn't answer",
            Exit::Refused => "refused: this key may not do that",
            Exit::Busy => "busy or at a limit: nothing was done",
            Exit::Ambiguous => "several brokers carry this project name",
            Exit::DataLocked => "the data or runtime directory is in use by another broker",
            Exit::LogDamaged => "the log is damaged",
            Exit::DiskFailed => "the disk is full or a sync failed",
            Exit::DataTooNew => "the data was written by a newer program",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_numbers_stay() {
        let numbers = Exit::ALL.map(Exit::code);
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13]);
    }
}
