//! Ctrl-C, SIGTERM and SIGHUP: the first one ends what runs and then this process, the second one this process at once.
//!
//! - Children are in process groups of their own, so that a terminal's Ctrl-C reaches this process alone; it ends them by their ids.

use std::sync::atomic::{AtomicBool, Ordering};

use super::trouble::LabError;
use crate::say;
use crate::trouble::INTERRUPTED;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Takes the signals over.
///
/// # Errors
/// The system refuses.
pub(super) fn install() -> Result<(), LabError> {
    let handler = || {
        if ASKED.swap(true, Ordering::SeqCst) {
            // The children's guards end them with this process.
            std::process::exit(i32::from(INTERRUPTED));
        }
        say("\nkvperf report: interrupted; ending what runs (once more: ends at once)\n");
    };
    let refused = |error| LabError::System { what: "signals can't be handled".to_owned(), source: std::io::Error::other(error) };
    ctrlc::set_handler(handler).map_err(refused)
}

/// # Errors
/// It was asked to end.
pub(super) fn check() -> Result<(), LabError> {
    if ASKED.load(Ordering::SeqCst) { Err(LabError::Interrupted) } else { Ok(()) }
}
