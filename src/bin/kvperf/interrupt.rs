//! Ctrl-C, SIGTERM and SIGHUP: the first one asks the run to end and clean up, the second one ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::say;
use crate::trouble::{INTERRUPTED, Trouble};

static ASKED: AtomicBool = AtomicBool::new(false);
/// What to say where the run ends at once; None: there is nothing to clean up.
static LEFT: Mutex<Option<String>> = Mutex::new(None);

/// Takes the signals over.
///
/// # Errors
/// The system refuses.
pub(crate) fn install() -> Result<(), Trouble> {
    let handler = || {
        let left = LEFT.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match left {
            Some(_) if !ASKED.swap(true, Ordering::SeqCst) => {
                say("\nkvperf: interrupted; removing this run's keys (once more: ends at once)\n");
            }
            left => {
                if let Some(left) = left {
                    say(&format!("\nkvperf: {left}\n"));
                }
                std::process::exit(i32::from(INTERRUPTED));
            }
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Trouble::system("signals can't be handled", error))
}

/// True once the run was asked to end.
pub(crate) fn is_asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Notes what a sudden end would leave behind.
pub(crate) fn set_left(left: Option<String>) {
    *LEFT.lock().unwrap_or_else(PoisonError::into_inner) = left;
}
