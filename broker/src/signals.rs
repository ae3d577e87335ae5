//! SIGINT, SIGTERM and SIGHUP: the first asks for a clean stop, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use crate::running::Notice;

/// What the shell shows for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Sends [`Notice::Stop`] at the first signal and sets `asked`, for whoever is busy before notices are read.
///
/// # Errors
/// No handler could be installed.
pub(crate) fn install(notices: Sender<Notice>, asked: Arc<AtomicBool>) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) || notices.send(Notice::Stop).is_err() {
            // Nothing more is acknowledged; what was is in the log.
            std::process::exit(INTERRUPTED);
        }
    })
}
