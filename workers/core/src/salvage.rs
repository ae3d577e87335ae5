//! What may be kept of a checkpoint of which some records are lost.
//!
//! - The keys of the table stand each for themselves: those that are left are right.
//! - Sessions don't: where the remembered reply is lost and the key that it changed is not, a retry would be done twice. Which replies
//!   are lost can't be known, so no session of the checkpoint is kept, and none may be taken for new: everybody's floor is raised behind
//!   the last one that can have been born. Its client is told `session_expired`: what it sent may have been done.
//! - Sessions that were born in the log behind the checkpoint are whole there, and go on: a session's record is written at its birth and
//!   at its end, and replies to a session that is not known are dropped.
//!
//! Caveat: an id may be ahead of the broker's time by [`limits::SESSION_AHEAD_MS`], and so must the floor. The time must go on behind it,
//! or new sessions would not be new: at most that much later than the clock.

use kvbroker_protocol::limits;

use crate::change::Space;
use crate::sessions::raise_floor_of_all;

/// What is made of the readable records of a damaged checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salvage {
    floor_ms: u64,
}

impl Salvage {
    /// Of a checkpoint whose log ends with this stamp, milliseconds.
    pub fn new(last_stamp_ms: u64) -> Salvage {
        Salvage { floor_ms: last_stamp_ms.saturating_add(limits::SESSION_AHEAD_MS) }
    }

    /// True for the key of a record, with its space byte, that is kept. One of a space that this version does not know is: a start will say
    /// so.
    pub fn keeps(record_key: &[u8]) -> bool {
        let space = record_key.first().and_then(|byte| Space::from_byte(*byte));
        !matches!(space, Some(Space::Session | Space::Window))
    }

    /// The records that take the place of those of the same key, or are added: key with space byte, and value; in the order of the keys.
    pub fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let floor = raise_floor_of_all(self.floor_ms);
        let mut key = Vec::new();
        floor.write_record_key(&mut key);
        floor.value.map(|value| (key, value)).into_iter().collect()
    }

    /// The earliest time that the log may go on with, milliseconds of the stamp.
    pub fn stamp_ms(&self) -> u64 {
        self.floor_ms.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{RecordName, RecordView, view_record};

    #[test]
    fn keys_and_floors_are_kept_sessions_and_replies_are_not() {
        let kept: Vec<u8> = (0..=u8::MAX).filter(|byte| Salvage::keeps(&[*byte, 1, 2])).collect();
        assert_eq!(kept.len(), 254);
        assert!(kept.contains(&b't') && kept.contains(&b'f') && !kept.contains(&b's') && !kept.contains(&b'w'));
        assert!(Salvage::keeps(b""), "a start refuses it");
    }

    #[test]
    fn the_floor_of_all_is_ahead_of_every_id_and_behind_the_time() {
        let salvage = Salvage::new(1_000);
        let records = salvage.records();
        let [(key, value)] = &records[..] else { panic!("{records:?}") };
        let floor_ms = 1_000 + limits::SESSION_AHEAD_MS;
        assert_eq!(view_record(key, Some(value), 1).unwrap(), (RecordName::Floor(b""), Some(RecordView::Floor(floor_ms))));
        assert_eq!(salvage.stamp_ms(), floor_ms + 1);
        assert_eq!(Salvage::new(u64::MAX).stamp_ms(), u64::MAX);
    }
}
