//! The numbers of one session: which are taken, which answers were read, and up to where that is acknowledged.
//!
//! - A number is taken when its mutation is sent for the first time, so numbers have no holes.
//! - `ack` never passes a number whose answer was not read.
//! - A number whose caller was told "unknown" is held back even then, so that its fate can be asked about; but
//!   only while half of the window is free, and until the broker is short of room for what it remembers.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its answer was not read.
    Open,
    /// Nor was this one's, and its caller was told so.
    Doubted,
    /// Answered, but its caller was told "unknown" before.
    Held,
    Settled,
}

#[derive(Debug)]
pub(super) struct Numbers {
    ack: u64,
    /// Those above `ack`, in order.
    above: VecDeque<State>,
    window: usize,
}

impl Numbers {
    pub(super) fn new(window: usize) -> Self {
        Numbers { ack: 0, above: VecDeque::new(), window: window.max(1) }
    }

    /// The number that the next mutation gets.
    pub(super) fn next(&self) -> u64 {
        self.ack + self.above.len() as u64 + 1
    }

    pub(super) fn ack(&self) -> u64 {
        self.ack
    }

    /// The lowest number whose answer was not read.
    pub(super) fn lowest_open(&self) -> Option<u64> {
        let index = self.above.iter().position(|state| matches!(state, State::Open | State::Doubted))?;
        Some(self.ack + 1 + index as u64)
    }

    /// True if [`Numbers::take`] would give one.
    pub(super) fn has_room(&self) -> bool {
        self.above.len() < self.window
    }

    /// Takes the next number. None: the window is full of numbers that are not acknowledged.
    pub(super) fn take(&mut self) -> Option<u64> {
        self.has_room().then(|| {
            let seq = self.next();
            self.above.push_back(State::Open);
            self.advance();
            seq
        })
    }

    /// Takes a number back that no broker took and no later one was given after; false: it is not the last, or
    /// its caller was told "unknown" and knows the operation by it.
    pub(super) fn give_back(&mut self, seq: u64) -> bool {
        let is_free = seq > self.ack && seq + 1 == self.next() && self.above.back() == Some(&State::Open);
        if is_free {
            self.above.pop_back();
        }
        is_free
    }

    /// The answer to a number was read.
    pub(super) fn settle(&mut self, seq: u64) {
        if let Some(state) = self.state(seq) {
            *state = if *state == State::Doubted { State::Held } else { State::Settled };
        }
        self.advance();
    }

    /// The number's caller was told "unknown".
    pub(super) fn doubt(&mut self, seq: u64) {
        if let Some(state) = self.state(seq) {
            *state = State::Doubted;
        }
    }

    /// The number's caller was told "unknown", but it is certain now that it was never done: nobody needs to ask.
    pub(super) fn settle_for_good(&mut self, seq: u64) {
        if let Some(state) = self.state(seq) {
            *state = State::Settled;
        }
        self.advance();
    }

    /// Acknowledges the lowest number that is only held back, if it is in the way: behind it the broker remembers everything.
    pub(super) fn release_held(&mut self) {
        if let Some(state @ State::Held) = self.above.front_mut() {
            *state = State::Settled;
        }
        self.advance();
    }

    /// True if every answer was read and nobody was told "unknown".
    pub(super) fn all_read(&self) -> bool {
        self.above.is_empty()
    }

    fn state(&mut self, seq: u64) -> Option<&mut State> {
        let index = usize::try_from(seq.checked_sub(self.ack + 1)?).ok()?;
        self.above.get_mut(index)
    }

    fn advance(&mut self) {
        loop {
            match self.above.front() {
                Some(State::Settled) => {}
                Some(State::Held) if self.above.len() > self.window / 2 => {}
                _ => return,
            }
            self.above.pop_front();
            self.ack += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_is_what_was_read_without_a_gap() {
        let mut numbers = Numbers::new(4);
        assert_eq!((0..5).map(|_| numbers.take()).collect::<Vec<_>>(), [Some(1), Some(2), Some(3), Some(4), None]);
        numbers.settle(2);
        assert_eq!((numbers.ack(), numbers.has_room()), (0, false));
        numbers.settle(1);
        assert_eq!((numbers.ack(), numbers.take(), numbers.next()), (2, Some(5), 6));
        assert!(!numbers.give_back(4), "5 was given after it");
        assert!(numbers.give_back(5) && numbers.give_back(4) && numbers.give_back(3));
        assert_eq!((numbers.next(), numbers.all_read()), (3, true));
        assert!(!numbers.give_back(2), "it was answered");
        numbers.take();
        numbers.doubt(3);
        assert!(!numbers.give_back(3), "somebody may ask about it");
    }

    #[test]
    fn doubted_numbers_are_kept_for_questions_while_there_is_room() {
        let mut numbers = Numbers::new(4);
        assert_eq!(numbers.take(), Some(1));
        numbers.doubt(1);
        numbers.settle(1);
        assert_eq!((numbers.ack(), numbers.all_read()), (0, false));
        assert_eq!(numbers.take(), Some(2));
        numbers.settle(2);
        assert_eq!(numbers.ack(), 0);
        assert_eq!(numbers.take(), Some(3), "now it is in the way");
        assert_eq!(numbers.ack(), 2);
        numbers.doubt(3);
        numbers.settle_for_good(3);
        assert_eq!((numbers.ack(), numbers.all_read()), (3, true));
    }
}
