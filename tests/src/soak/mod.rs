//! What a soak of work queues leaves behind, and whether it is what queues promise. The program is `tests/src/bin/queue_soak`.
//!
//! - Items are numbers. The number says everything else about its item: the bytes of its value, its priority, and in which of two forms its
//!   effect is done: together with the acknowledgement, in a transaction, or before it.
//! - A consumer writes down what it was handed before it does anything with it ([`Journal`]). It is a line in a file, and the machine does
//!   not die: so a kill takes no evidence away but that of deliveries whose answer was still on its way.
//! - A transient queue stands beside those of both forms ([`Live`]): its items may be lost by a restart of the broker, and by nothing else.
//! - [`judge`] is pure: whoever plants an error in the evidence can see that it is noticed.

mod journal;
mod judge;
mod live;
mod order;

use kvbroker_protocol::Stored;

pub use journal::{Grant, Journal, JournalWriter, Return};
pub use judge::{Evidence, Figures, judge};
pub use live::{Live, LiveFigures, LiveGrant, judge_live};
pub use order::{Order, check_order};

/// How the effect of an item is done; each form has a queue of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Acknowledged in the transaction that stores the result.
    Exact,
    /// Acknowledged after the effect.
    Loose,
}

impl Form {
    /// Both.
    pub const ALL: [Form; 2] = [Form::Exact, Form::Loose];

    /// The form of an item: of four numbers one is loose.
    pub fn of(number: u64) -> Form {
        if number % 4 == 3 { Form::Loose } else { Form::Exact }
    }

    /// The queue of the items of this form.
    pub fn queue(self) -> &'static str {
        match self {
            Form::Exact => "exact",
            Form::Loose => "loose",
        }
    }

    /// What a queue's name means.
    pub fn of_queue(name: &str) -> Option<Form> {
        Form::ALL.into_iter().find(|form| form.queue() == name)
    }

    /// The key of an item's effect.
    pub fn effect_key(self, number: u64) -> String {
        match self {
            Form::Exact => format!("done/{number}"),
            Form::Loose => format!("seen/{number}"),
        }
    }
}

/// The priority of an item: some are to be before all others, some behind.
pub fn priority(number: u64) -> i8 {
    match number % 5 {
        0 => 5,
        1 => -5,
        _ => 0,
    }
}

/// The value of an item: its number, and bytes that follow from it.
///
/// # Panics
/// If a value may not have so many bytes.
pub fn value(number: u64, bytes: usize) -> Stored {
    let head = number.to_le_bytes();
    let filling = (head.len()..bytes).map(|at| (number as u8).wrapping_mul(31).wrapping_add(at as u8));
    Stored::bytes(&head.into_iter().chain(filling).collect::<Vec<u8>>()).expect("a soak's values are small")
}

/// The number of an item by its value; None if that is not what was pushed.
pub fn number(found: &Stored) -> Option<u64> {
    let bytes = found.as_byte_string()?;
    let number = u64::from_le_bytes(*bytes.first_chunk()?);
    (*found == value(number, bytes.len())).then_some(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_value_tells_its_number_or_nothing() {
        for (item, bytes) in [(0, 8), (7, 64), (u64::MAX, 200)] {
            assert_eq!(number(&value(item, bytes)), Some(item));
        }
        let mut bytes = value(9, 64).as_byte_string().unwrap();
        bytes[40] ^= 1;
        assert_eq!(number(&Stored::bytes(&bytes).unwrap()), None);
        assert_eq!(number(&Stored::bytes(b"short").unwrap()), None);
    }
}
