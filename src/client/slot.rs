//! Where a caller waits for the ends of its calls.
//!
//! - Every token ends exactly once: a token that is dropped before says [`Ended::Closed`], so nobody waits for ever.
//! - Whoever completes a slot wakes its waiter only if there is one: most tickets are ready before they are looked at, and that
//!   look takes no lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bell::Bell;
use super::session::Told;

/// How one call ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ended {
    /// With an outcome, or given up by the session.
    Told(Told),
    /// The client was closed meanwhile.
    Closed,
}

/// Nearly always there is one call, which needs no list.
#[derive(Debug)]
enum Ends {
    One(Option<Ended>),
    Many(Vec<Option<Ended>>),
}

#[derive(Debug)]
struct State {
    ends: Ends,
    missing: usize,
    is_awaited: bool,
    /// The waiter is to look whether it may drive.
    is_nudged: bool,
}

/// The place for the ends of one or several calls.
#[derive(Debug)]
pub(super) struct Slot {
    state: Mutex<State>,
    /// All ends are there. Set while the state is locked.
    is_complete: AtomicBool,
    complete: Condvar,
    /// For who waits for this and for other things at once.
    bell: Option<Arc<Bell>>,
}

impl Slot {
    /// A slot for so many calls, and a token for each in order.
    pub(super) fn new(calls: usize) -> Arc<Slot> {
        Self::ringing(calls, None)
    }

    /// The same, with a bell that rings when all calls have ended.
    pub(super) fn ringing(calls: usize, bell: Option<Arc<Bell>>) -> Arc<Slot> {
        let ends = if calls == 1 { Ends::One(None) } else { Ends::Many(vec![None; calls]) };
        let state = State { ends, missing: calls, is_awaited: false, is_nudged: false };
        Arc::new(Slot { state: Mutex::new(state), is_complete: AtomicBool::new(calls == 0), complete: Condvar::new(), bell })
    }

    /// Makes it as good as new, for one call.
    pub(super) fn reset(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        *state = State { ends: Ends::One(None), missing: 1, is_awaited: false, is_nudged: false };
        *self.is_complete.get_mut() = false;
        self.bell = None;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
    }

    /// Waits for all ends and takes them.
    pub(super) fn wait(&self) -> Vec<Ended> {
        match &mut self.complete_state().ends {
            Ends::One(end) => vec![end.take().unwrap_or(Ended::Closed)],
            Ends::Many(ends) => std::mem::take(ends).into_iter().map(|end| end.unwrap_or(Ended::Closed)).collect(),
        }
    }

    /// Waits for the end of the only call and takes it.
    pub(super) fn wait_for_one(&self) -> Ended {
        let end = match &mut self.complete_state().ends {
            Ends::One(end) => end.take(),
            Ends::Many(ends) => std::mem::take(ends).pop().flatten(),
        };
        end.unwrap_or(Ended::Closed)
    }

    /// Waits for all ends and leaves them to somebody else.
    pub(super) fn until_complete(&self) {
        drop(self.complete_state());
    }

    /// Waits for all ends, or until somebody nudges or it is `latest`; true: the ends are there.
    pub(super) fn until_complete_or_nudged(&self, latest: Option<Instant>) -> bool {
        let mut state = self.lock();
        while state.missing > 0 && !state.is_nudged {
            let left = latest.map(|latest| latest.saturating_duration_since(Instant::now()));
            state.is_awaited = true;
            state = match left {
                None => self.complete.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.complete.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        state.is_nudged = false;
        state.missing == 0
    }

    /// The driver has left: whoever waits here may drive.
    pub(super) fn nudge(&self) {
        self.lock().is_nudged = true;
        self.complete.notify_all();
    }

    fn complete_state(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while state.missing > 0 {
            state.is_awaited = true;
            state = self.complete.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    fn complete(&self, index: usize, end: Ended) {
        let mut state = self.lock();
        let place = match &mut state.ends {
            Ends::One(place) => (index == 0).then_some(place),
            Ends::Many(places) => places.get_mut(index),
        };
        if let Some(place @ None) = place {
            *place = Some(end);
            state.missing -= 1;
        }
        if state.missing > 0 {
            return;
        }
        self.is_complete.store(true, Ordering::Release);
        let is_awaited = state.is_awaited;
        drop(state);
        if is_awaited {
            self.complete.notify_all();
        }
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole, so the books stand also after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call's claim on a place in a slot.
#[derive(Debug)]
pub(super) struct Token {
    slot: Option<Arc<Slot>>,
    index: usize,
    /// What the call counts for in the bound on bytes.
    pub(super) bytes: usize,
}

impl Token {
    pub(super) fn new(slot: &Arc<Slot>, index: usize, bytes: usize) -> Token {
        Token { slot: Some(Arc::clone(slot)), index, bytes }
    }

    pub(super) fn complete(mut self, told: impl Into<Told>) {
        if let Some(slot) = self.slot.take() {
            slot.complete(self.index, Ended::Told(told.into()));
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.complete(self.index, Ended::Closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::GaveUp;
    use super::*;

    #[test]
    fn a_dropped_token_ends_the_wait() {
        let slot = Slot::new(2);
        let tokens = [Token::new(&slot, 0, 1), Token::new(&slot, 1, 1)];
        assert!(!slot.is_complete());
        let given_up = Told::from(Err(GaveUp::TimedOut { trouble: None }));
        let waited = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| slot.wait());
            let [first, second] = tokens;
            drop(second);
            first.complete(given_up.clone());
            waiter.join().expect("the waiter ends")
        });
        assert_eq!(waited, [Ended::Told(given_up), Ended::Closed]);
    }
}
