//! Why the broker ended, as a sentence and an exit code.

use kvbroker::exit::Exit;

/// An end that is not a clean stop.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) sentence: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl std::fmt::Display) -> Failure {
        Failure { exit, sentence: error.to_string() }
    }

    /// For `map_err`.
    pub(crate) fn with<E: std::fmt::Display>(exit: Exit) -> impl Fn(E) -> Failure {
        move |error| Failure::new(exit, error)
    }

    /// The log's own codes: damaged, disk, newer.
    pub(crate) fn of_log(error: &kvbroker_log::LogError) -> Failure {
        let exit = Exit::ALL.into_iter().find(|exit| exit.code() == error.exit_code()).unwrap_or(Exit::DiskFailed);
        Failure::new(exit, error)
    }
}
