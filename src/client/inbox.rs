//! Calls on their way from the callers' threads to the driver's.
//!
//! - The inbox and everything behind it hold a bounded number of calls and bytes; a caller waits for room, up to its deadline.
//! - One thread drives at a time, and it is settled here which: a caller who waits for its own calls and finds nobody driving does
//!   it itself, which saves two changes of threads; the client's own thread does it for everybody else, and takes over what is left.
//! - Whoever drives sleeps in one poll over the socket and an eventfd; a caller writes to that only if the driver sleeps.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use kvbroker_protocol::limits::{IN_FLIGHT_BYTES_MAX, MESSAGE_BYTES_MAX};

use super::bell::Bell;
use super::session::{Asked, GaveUp};
use super::slot::Token;
use crate::transport::PollItem;

/// Most calls of one client that have not ended.
pub(super) const CALLS_MAX: usize = 16_384;

/// Most bytes of the same.
const BYTES_MAX: usize = IN_FLIGHT_BYTES_MAX;

const _: () = assert!(BYTES_MAX >= MESSAGE_BYTES_MAX, "the largest call has room");

/// A call that was handed in.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) asked: Asked,
    pub(super) deadline: Option<Instant>,
    pub(super) token: Token,
}

/// What the driver finds when it looks.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) submissions: Vec<Submission>,
    pub(super) is_closed: bool,
}

#[derive(Debug, Default)]
struct State {
    submissions: Vec<Submission>,
    calls: usize,
    bytes: usize,
    /// Callers that wait for room.
    crowd: usize,
    /// Somebody drives, or the client's thread was told to.
    is_driven: bool,
    /// The caller who drives.
    leader: Option<ThreadId>,
    thread_is_wanted: bool,
    driver_sleeps: bool,
    is_closed: bool,
}

impl State {
    fn want_thread(&mut self, thread: &Condvar) {
        self.is_driven = true;
        self.thread_is_wanted = true;
        thread.notify_one();
    }
}

#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    room: Condvar,
    /// The client's thread waits here while it is not wanted.
    thread: Condvar,
    bell: Bell,
}

impl Inbox {
    /// # Errors
    /// No more file descriptors.
    pub(super) fn new() -> std::io::Result<Inbox> {
        Ok(Inbox { state: Mutex::default(), room: Condvar::new(), thread: Condvar::new(), bell: Bell::new()? })
    }

    /// Hands a call in, once there is room. After a close the call's token says so. A caller who will drive itself, if nobody does,
    /// does not wake the client's thread.
    pub(super) fn submit(&self, submission: Submission, will_drive: bool) {
        let bytes = submission.token.bytes;
        let mut state = self.lock();
        while !state.is_closed && state.calls > 0 && (state.calls >= CALLS_MAX || state.bytes + bytes > BYTES_MAX) {
            let left = submission.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                drop(state);
                let trouble = Some(format!("{CALLS_MAX} calls or {BYTES_MAX} bytes were outstanding all the time"));
                return submission.token.complete(Err(GaveUp::TimedOut { trouble }));
            }
            if !state.is_driven {
                state.want_thread(&self.thread);
            }
            state.crowd += 1;
            state = match left {
                Some(left) => self.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.room.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.crowd -= 1;
        }
        if state.is_closed {
            drop(state);
            return drop(submission);
        }
        state.calls += 1;
        state.bytes += bytes;
        state.submissions.push(submission);
        if !state.is_driven && !will_drive {
            state.want_thread(&self.thread);
        }
        self.wake(state);
    }

    /// Makes the caller the driver; false: somebody else is, or the client is closed.
    pub(super) fn lead(&self) -> bool {
        let mut state = self.lock();
        let leads = !state.is_driven && !state.is_closed;
        if leads {
            state.is_driven = true;
            state.leader = Some(std::thread::current().id());
        }
        leads
    }

    /// True on the thread of a caller who drives.
    pub(super) fn is_led_here(&self) -> bool {
        self.lock().leader == Some(std::thread::current().id())
    }

    /// The caller drives no longer; what is left is the client's thread's.
    pub(super) fn hand_over(&self, is_idle: bool) {
        let mut state = self.lock();
        state.leader = None;
        state.driver_sleeps = false;
        if is_idle && state.submissions.is_empty() && !state.is_closed {
            state.is_driven = false;
        } else {
            state.want_thread(&self.thread);
        }
    }

    /// For the client's thread, with nothing left to do: true if it may stop driving.
    pub(super) fn may_rest(&self) -> bool {
        let mut state = self.lock();
        let rests = state.submissions.is_empty() && !state.is_closed;
        state.is_driven &= !rests;
        rests
    }

    /// The client's thread waits here until it is to drive, or to end.
    pub(super) fn until_wanted(&self) {
        let mut state = self.lock();
        while !state.thread_is_wanted && (state.is_driven || !state.is_closed) {
            state = self.thread.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.thread_is_wanted = false;
        state.is_driven = true;
    }

    /// Half of what it takes is taken: who can wait leaves the rest to others.
    pub(super) fn is_crowded(&self) -> bool {
        let state = self.lock();
        state.calls >= CALLS_MAX / 2 || state.bytes >= BYTES_MAX / 2
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// How many calls have not ended.
    pub(super) fn outstanding(&self) -> usize {
        self.lock().calls
    }

    /// So many calls have ended.
    pub(super) fn ended(&self, calls: usize, bytes: usize) {
        let mut state = self.lock();
        state.calls -= calls;
        state.bytes -= bytes;
        if state.crowd > 0 {
            self.room.notify_all();
        }
    }

    /// Nothing more is taken, and the driver ends.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        self.room.notify_all();
        self.thread.notify_all();
        self.wake(state);
    }

    /// Wakes the driver, or keeps it from falling asleep: for news that are not in the inbox.
    pub(super) fn ring(&self) {
        self.bell.ring();
    }

    /// Everything that was handed in since the last look.
    pub(super) fn take(&self) -> Mail {
        let mut state = self.lock();
        state.driver_sleeps = false;
        Mail { submissions: std::mem::take(&mut state.submissions), is_closed: state.is_closed }
    }

    /// Announces that the driver will sleep; false: there is mail.
    pub(super) fn may_sleep(&self) -> bool {
        let mut state = self.lock();
        state.driver_sleeps = state.submissions.is_empty() && !state.is_closed;
        state.driver_sleeps
    }

    /// For the driver's poll: ready when somebody wants it awake.
    pub(super) fn poll_item(&self) -> PollItem<'_> {
        self.bell.poll_item()
    }

    /// Makes the bell silent again.
    pub(super) fn hush(&self) {
        self.bell.hush();
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let sleeps = std::mem::replace(&mut state.driver_sleeps, false);
        drop(state);
        if sleeps {
            self.ring();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
