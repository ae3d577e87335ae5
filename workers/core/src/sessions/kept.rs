//! The records that say what is known of sessions now: those that a slice of the state is made of.
//!
//! - They are fewer than the log holds and say the same: of each open session its own record and its remembered replies. Every
//!   reply names the acknowledged number of now, and the session's record the highest one; both only grow, so that whatever the log
//!   holds for later takes over from here.
//! - An open session whose replies were all acknowledged has no reply that could name that number. A reply to this very number is
//!   made up for it: what is read is that it was acknowledged, and nothing is remembered.

use std::ops::Bound;

use kvbroker_protocol::SessionId;

use super::record::{Reply, SessionRecord, WindowRecord, raise_floor, window_key};
use super::{Session, Sessions};
use crate::change::Change;

impl Sessions {
    /// Floors of owners behind `behind` (None: all), in key order.
    pub(crate) fn floors_behind<'s>(&'s self, behind: Option<&[u8]>) -> impl Iterator<Item = Change> + use<'s> {
        self.owners.floors_behind(behind).map(|(owner, born_ms)| raise_floor(owner, born_ms))
    }

    /// Records of sessions behind `behind` (None: all), in key order.
    pub(crate) fn sessions_behind<'s>(&'s self, behind: Option<&[u8]>) -> impl Iterator<Item = Change> + use<'s> {
        let from = match behind.map(|key| (key.len() < size_of::<SessionId>(), lowest(key))) {
            None => Bound::Unbounded,
            Some((true, id)) => Bound::Included(id),
            Some((false, id)) => Bound::Excluded(id),
        };
        self.known.range((from, Bound::Unbounded)).map(|(id, session)| {
            let Session { ended, used_ms, highest, .. } = *session;
            SessionRecord { ended, used_ms, highest, owner: &session.owner }.change(*id)
        })
    }

    /// Remembered replies behind `behind` (None: all), in key order, each with its revision; those that are made up have `revision`.
    pub(crate) fn replies_behind<'s>(
        &'s self,
        behind: Option<&[u8]>,
        revision: u64,
    ) -> impl Iterator<Item = (Change, u64)> + use<'s> {
        let behind = behind.map(<[u8]>::to_vec);
        let from = behind.as_deref().map_or(Bound::Unbounded, |key| Bound::Included(lowest(key)));
        self.known.range((from, Bound::Unbounded)).flat_map(move |(&id, session)| {
            let mut places: Vec<(Vec<u8>, u64)> = session.told().map(|seq| (window_key(id, seq), seq)).collect();
            places.retain(|(key, _)| behind.as_deref().is_none_or(|behind| &**key > behind));
            places.sort_unstable();
            places.into_iter().map(move |(_, seq)| session.reply_record(id, seq, revision))
        })
    }
}

impl Session {
    /// The numbers whose records tell what is known.
    fn told(&self) -> impl Iterator<Item = u64> + use<'_> {
        let made_up = !self.ended && self.replies.is_empty() && self.acked > 0;
        self.replies.numbers().chain(made_up.then_some(self.acked))
    }

    fn reply_record(&self, id: SessionId, seq: u64, revision: u64) -> (Change, u64) {
        let (hash, reply, revision) = match self.replies.get(seq) {
            Some(remembered) => (remembered.hash, remembered.reply.clone(), remembered.revision),
            None => (0, Reply::Done, revision),
        };
        (WindowRecord { seq, hash, acked: self.acked, used_ms: self.used_ms, reply }.change(id), revision)
    }
}

/// The lowest id whose bytes start so.
fn lowest(key: &[u8]) -> SessionId {
    let mut id = SessionId([0; 16]);
    id.0.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    id
}
