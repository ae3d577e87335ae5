//! How other threads have the publisher's socket replaced: whoever was connected is cut off, and whoever may comes back.
//!
//! - [`PublisherControl::reopen`] only asks. The publisher closes the old socket, opens another one in the same place, and hands the old
//!   context to a thread that waits for libzmq to let go of every connection; that is when a reopening counts as closed.
//! - From the closing on nothing is published to the old connections, whether libzmq has let go of them or not.
//! - Nobody is left waiting: when the publisher has ended, everything counts as closed.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvbroker::zap::SecuredContext;
use kvbroker_table::{Doorbell, EventFd};

/// Shared by the publisher and by those who have its socket replaced.
pub(crate) struct PublisherControl {
    state: Mutex<State>,
    changed: Condvar,
    bell: Arc<EventFd>,
}

#[derive(Debug, Default)]
struct State {
    /// Reopenings asked for so far, and why the latest one was.
    asked: u64,
    why: String,
    /// How many of them the publisher has begun.
    begun: u64,
    /// The old sockets that libzmq has not let go of, by the number of their reopening.
    closing: BTreeSet<u64>,
    ended: bool,
}

impl State {
    fn is_closed(&self, number: u64) -> bool {
        self.ended || (self.begun >= number && self.closing.range(..=number).next().is_none())
    }
}

impl PublisherControl {
    /// `bell` wakes the publisher.
    pub(crate) fn new(bell: Arc<EventFd>) -> Arc<PublisherControl> {
        Arc::new(PublisherControl { state: Mutex::default(), changed: Condvar::new(), bell })
    }

    /// Has the publisher close its socket and open another one, soon; `why` is for the log. Returns at once.
    pub(crate) fn reopen(&self, why: &str) {
        let mut state = self.lock();
        state.asked += 1;
        why.clone_into(&mut state.why);
        drop(state);
        self.bell.ring();
    }

    /// Waits until every socket that was to be closed by now is closed, with all of its connections; false if that takes longer.
    pub(crate) fn wait_closed(&self, timeout: Duration) -> bool {
        let state = self.lock();
        let number = state.asked;
        let open = |state: &mut State| !state.is_closed(number);
        let (state, _) = self.changed.wait_timeout_while(state, timeout, open).unwrap_or_else(PoisonError::into_inner);
        state.is_closed(number)
    }

    /// For the publisher: whether a reopening is asked for, why, and its number. It counts as begun.
    pub(super) fn begin(&self) -> Option<(u64, String)> {
        let mut state = self.lock();
        (state.begun < state.asked).then(|| {
            state.begun = state.asked;
            let number = state.asked;
            // Closed once it is let go of: see `close`.
            state.closing.insert(number);
            (number, std::mem::take(&mut state.why))
        })
    }

    /// For the publisher: how many old sockets libzmq still holds.
    pub(super) fn closing(&self) -> usize {
        self.lock().closing.len()
    }

    /// For the publisher: lets go of the context of an old socket, which must be dropped already, on a thread of its own.
    pub(super) fn close(self: &Arc<Self>, context: Option<SecuredContext>, number: u64) {
        let closing = Closing { context, control: Arc::clone(self), number };
        // Without a thread it is done here, when the closure is dropped.
        let _ = std::thread::Builder::new().name("pub closer".to_owned()).spawn(move || drop(closing));
    }

    /// For the publisher: nothing is open any more, and nothing will be.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// A panic can't leave the numbers half changed: poison means nothing here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An old context on its way out.
struct Closing {
    context: Option<SecuredContext>,
    control: Arc<PublisherControl>,
    number: u64,
}

impl Drop for Closing {
    fn drop(&mut self) {
        // Waits until libzmq has ended every connection of its sockets.
        self.context = None;
        self.control.lock().closing.remove(&self.number);
        self.control.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn control() -> Arc<PublisherControl> {
        PublisherControl::new(Arc::new(EventFd::new().unwrap()))
    }

    #[test]
    fn closed_is_what_was_asked_for_begun_and_let_go_of() {
        let control = control();
        assert!(control.wait_closed(SOON), "nothing was asked for");
        assert!(control.begin().is_none());
        control.reopen("first");
        control.reopen("second");
        assert!(!control.wait_closed(SOON));
        let (number, why) = control.begin().unwrap();
        assert_eq!(why, "second", "both are one");
        assert!(control.begin().is_none());
        assert!(!control.wait_closed(SOON), "begun is not closed");
        control.reopen("third");
        control.close(None, number);
        assert!(!control.wait_closed(SOON));
        let (number, _) = control.begin().unwrap();
        control.close(None, number);
        assert!(control.wait_closed(PATIENCE));
        assert_eq!(control.closing(), 0);
    }

    #[test]
    fn an_older_one_that_is_still_closing_keeps_a_newer_one_open() {
        let control = control();
        control.reopen("old");
        let (old, _) = control.begin().unwrap();
        control.reopen("new");
        let (new, _) = control.begin().unwrap();
        control.close(None, new);
        assert!(!control.wait_closed(SOON));
        control.close(None, old);
        assert!(control.wait_closed(PATIENCE));
    }

    #[test]
    fn nobody_waits_for_a_publisher_that_has_ended() {
        let control = control();
        control.reopen("late");
        control.end();
        assert!(control.wait_closed(SOON));
    }
}
