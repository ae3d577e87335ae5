//! Where a caller waits for the ends of its calls.
//!
//! - Every token ends exactly once: a token that is dropped before says [`Ended::Closed`], so nobody waits for ever.
//! - Whoever completes a slot wakes its waiter only if there is one: most tickets are ready before they are looked at.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvbroker_protocol::Outcome;

use super::bell::Bell;
use super::session::GaveUp;

/// How one call ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ended {
    /// With an outcome, or given up by the session.
    Told(Result<Outcome, GaveUp>),
    /// The client was closed meanwhile.
    Closed,
}

#[derive(Debug, Default)]
struct State {
    ends: Vec<Option<Ended>>,
    missing: usize,
    is_awaited: bool,
}

/// The place for the ends of one or several calls.
#[derive(Debug, Default)]
pub(super) struct Slot {
    state: Mutex<State>,
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
        let state = State { ends: vec![None; calls], missing: calls, is_awaited: false };
        Arc::new(Slot { state: Mutex::new(state), complete: Condvar::new(), bell })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.lock().missing == 0
    }

    /// Waits for all ends and takes them.
    pub(super) fn wait(&self) -> Vec<Ended> {
        let ends = std::mem::take(&mut self.complete_state().ends);
        ends.into_iter().map(|end| end.unwrap_or(Ended::Closed)).collect()
    }

    /// Waits for all ends and leaves them to somebody else.
    pub(super) fn until_complete(&self) {
        drop(self.complete_state());
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
        if let Some(place @ None) = state.ends.get_mut(index) {
            *place = Some(end);
            state.missing -= 1;
        }
        if state.missing > 0 {
            return;
        }
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

    pub(super) fn complete(mut self, result: Result<Outcome, GaveUp>) {
        if let Some(slot) = self.slot.take() {
            slot.complete(self.index, Ended::Told(result));
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
    use super::*;

    #[test]
    fn a_dropped_token_ends_the_wait() {
        let slot = Slot::new(2);
        let tokens = [Token::new(&slot, 0, 1), Token::new(&slot, 1, 1)];
        assert!(!slot.is_complete());
        let given_up = GaveUp::TimedOut { trouble: None };
        let waited = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| slot.wait());
            let [first, second] = tokens;
            drop(second);
            first.complete(Err(given_up.clone()));
            waiter.join().expect("the waiter ends")
        });
        assert_eq!(waited, [Ended::Told(Err(given_up)), Ended::Closed]);
    }
}
