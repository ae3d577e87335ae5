//! Which key is due when: the deadlines of the table's records in order of time.
//!
//! - It holds exactly the deadlines of the records, since only the table writes it, at the very change of a record. So live traffic,
//!   recovery and a standby come to the same index, and none of it is logged for itself.
//! - Keys that are due at the same time stand in key order: what expires first is the same everywhere.
//! - It has no clock: whoever asks says what time it is.

use std::collections::BTreeSet;

use kvbroker_protocol::Key;

/// Deadlines in order of time, then key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deadlines {
    by_time: BTreeSet<(u64, Box<[u8]>)>,
}

impl Deadlines {
    /// Of keys that have one, in whatever order; each once.
    pub(crate) fn from_unsorted(deadlines: Vec<(u64, Box<[u8]>)>) -> Deadlines {
        Deadlines { by_time: deadlines.into_iter().collect() }
    }

    /// A key's record has another deadline, or none where it had one, or one where it had none.
    pub(crate) fn change(&mut self, key: &[u8], old_ms: Option<u64>, new_ms: Option<u64>) {
        if old_ms == new_ms {
            return;
        }
        if let Some(old_ms) = old_ms {
            self.by_time.remove(&(old_ms, key.into()));
        }
        if let Some(new_ms) = new_ms {
            self.by_time.insert((new_ms, key.into()));
        }
    }

    /// Number of keys with a deadline.
    pub(crate) fn len(&self) -> usize {
        self.by_time.len()
    }

    /// The earliest deadline, milliseconds of the stamp.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(at_ms, _)| *at_ms)
    }

    /// Keys whose deadline is not after `time_ms`, in order, `max` at most.
    pub(crate) fn due(&self, time_ms: u64, max: usize) -> Vec<Key> {
        self.by_time.iter().take_while(|(at_ms, _)| *at_ms <= time_ms).take(max).map(|(_, key)| key.to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_order_of_time_and_then_of_key() {
        let mut deadlines = Deadlines::default();
        for (key, at_ms) in [(b"c", 20), (b"b", 10), (b"a", 20), (b"d", 5)] {
            deadlines.change(key, None, Some(at_ms));
        }
        let due =
            |deadlines: &Deadlines, time_ms, max| String::from_utf8_lossy(&deadlines.due(time_ms, max).concat()).into_owned();
        assert_eq!((deadlines.len(), deadlines.next_ms()), (4, Some(5)));
        assert_eq!([4, 5, 19, 20].map(|time_ms| due(&deadlines, time_ms, 9)), ["", "d", "db", "dbac"]);
        assert_eq!(due(&deadlines, u64::MAX, 3), "dba");
        deadlines.change(b"d", Some(5), None);
        deadlines.change(b"b", Some(10), Some(30));
        deadlines.change(b"c", Some(20), Some(20));
        assert_eq!((due(&deadlines, 30, 9), deadlines.next_ms()), ("acb".into(), Some(20)));
    }
}
