//! SIGINT, SIGTERM and SIGHUP: the first asks for a clean stop, a later one ends the process at once.
//!
//! - Signals that come together are one: `timeout` sends its own to the process and then to its group, and a wrapper passes on the
//!   Ctrl-C that the terminal has sent to both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::running::Notice;

/// What the shell shows for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// A signal within this time after the first is the same wish, not a second one.
const TOGETHER: Duration = Duration::from_millis(200);

/// Sends [`Notice::Stop`] at the first signal and sets `asked`, for whoever is busy before notices are read.
///
/// # Errors
/// No handler could be installed.
pub(crate) fn install(notices: Sender<Notice>, asked: Arc<AtomicBool>) -> Result<(), ctrlc::Error> {
    let mut first = None;
    ctrlc::set_handler(move || {
        asked.store(true, Ordering::SeqCst);
        let meant = meant(&mut first, Instant::now());
        if meant == Meant::AtOnce || (meant == Meant::Stop && notices.send(Notice::Stop).is_err()) {
            // Nothing more is acknowledged; what was is in the log.
            std::process::exit(INTERRUPTED);
        }
    })
}

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meant {
    Stop,
    Nothing,
    AtOnce,
}

/// What a signal now means, if the first one came at `first`.
fn meant(first: &mut Option<Instant>, now: Instant) -> Meant {
    match first {
        None => {
            *first = Some(now);
            Meant::Stop
        }
        Some(first) if now.saturating_duration_since(*first) < TOGETHER => Meant::Nothing,
        Some(_) => Meant::AtOnce,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_come_together_ask_for_one_stop_and_a_later_one_ends_it() {
        let (mut first, now) = (None, Instant::now());
        let after = [0, 0, 1, 199, 200, 5_000].map(|ms| meant(&mut first, now + Duration::from_millis(ms)));
        use Meant::{AtOnce, Nothing, Stop};
        assert_eq!(after, [Stop, Nothing, Nothing, Nothing, AtOnce, AtOnce]);
    }
}
