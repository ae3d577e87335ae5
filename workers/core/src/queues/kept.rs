//! The records that say what is known of queues now: those that a slice of the state is made of.

use std::ops::Bound;

use kvbroker_protocol::ItemId;

use super::record::{put_item, put_life, put_queue};
use super::{Item, QueueId, Queues};
use crate::change::Change;

impl Queues {
    /// Records of queues behind `behind` (None: all), in key order.
    pub(crate) fn queues_behind<'s>(&'s self, behind: Option<&[u8]>) -> impl Iterator<Item = Change> + use<'s> {
        let from = behind.map_or(Bound::Unbounded, |name| Bound::Excluded(name.to_vec().into_boxed_slice()));
        let named = self.by_name.range::<Box<[u8]>, _>((from, Bound::Unbounded));
        named.filter_map(|(name, id)| Some(put_queue(name, *id, &self.known.get(id)?.options)))
    }

    /// Items behind a key, in key order: without those of transient queues.
    fn items_behind<'s>(&'s self, behind: Option<&[u8]>) -> impl Iterator<Item = (QueueId, ItemId, &'s Item)> + use<'s> {
        let behind = behind.map(<[u8]>::to_vec);
        let first = behind.as_deref().map_or(ItemId::MIN, |key| ItemId::from_bytes(lowest(key)));
        let durable = self.known.range(first..).filter(|(_, queue)| !queue.options.transient);
        durable.flat_map(move |(id, queue)| {
            let key = behind.as_deref().filter(|key| key.starts_with(&id.to_bytes()));
            let from = match key.and_then(|key| key.get(8..)) {
                None => Bound::Unbounded,
                Some(rest) if rest.len() < 8 => Bound::Included(ItemId::from_bytes(lowest(rest))),
                Some(rest) => Bound::Excluded(ItemId::from_bytes(lowest(rest))),
            };
            queue.items.range((from, Bound::Unbounded)).map(|(item, found)| (*id, *item, found))
        })
    }

    /// Records of items behind `behind` (None: all), in key order.
    pub(crate) fn items_records_behind<'s>(&'s self, behind: Option<&[u8]>) -> impl Iterator<Item = Change> + use<'s> {
        self.items_behind(behind).map(|(queue, id, item)| put_item(queue, id, item.record.to_vec()))
    }

    /// Records of the states of items behind `behind` (None: all), in key order: of those that are not as they were pushed.
    pub(crate) fn states_behind<'s>(&'s self, behind: Option<&[u8]>) -> impl Iterator<Item = Change> + use<'s> {
        let changed = self.items_behind(behind).filter(|(_, _, item)| item.record().first_life() != item.life);
        changed.map(|(queue, id, item)| put_life(queue, id, &item.life))
    }
}

/// The lowest id whose bytes start so.
fn lowest(key: &[u8]) -> [u8; 8] {
    let mut id = [0; 8];
    id.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    id
}
