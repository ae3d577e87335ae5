//! The queues with the changes of one operation, or of one transaction, on top.
//!
//! - What was pushed, taken or given back before is seen by what comes after it in the same transaction.
//! - While nothing is changed it holds nothing, and takes no memory.

use std::collections::BTreeSet;

use kvbroker_protocol::{ErrorCode, Failure, ItemId, Progress, limits};

use super::ends::Ended;
use super::few::FewMap;
use super::record::{ItemRecord, delete_item, delete_queue, put_item, put_life, put_queue};
use super::{Life, Options, Queue, QueueId, Queues, Stage, rank};
use crate::change::Change;
use crate::decide::Stamp;

/// The changes of one operation.
#[derive(Default)]
pub(crate) struct QueueOverlay {
    /// By name.
    queues: FewMap<Vec<u8>, Own>,
    /// Of this revision.
    pushed: u16,
    declared: u16,
    /// What has become of the items that are removed.
    pub(crate) ended: Vec<Ended>,
}

/// A queue that was changed.
struct Own {
    id: QueueId,
    options: Options,
    /// Its record is written.
    is_declared: bool,
    is_dropped: bool,
    items: FewMap<ItemId, OwnItem>,
    /// Those of them that the next pull may get.
    ready: BTreeSet<(u8, ItemId)>,
    /// How many items there are, and how many bytes they have.
    count: u64,
    bytes: u64,
}

enum OwnItem {
    Gone,
    Changed(Life),
    New { record: Vec<u8>, life: Life },
}

/// An item as an operation sees it.
pub(super) struct SeenItem<'a> {
    pub(super) record: ItemRecord<'a>,
    pub(super) life: &'a Life,
}

/// The queues as an operation sees and changes them.
pub(crate) struct View<'v> {
    pub(super) base: &'v Queues,
    own: &'v mut QueueOverlay,
    pub(super) stamp: Stamp,
}

impl QueueOverlay {
    pub(crate) fn view<'v>(&'v mut self, base: &'v Queues, stamp: Stamp) -> View<'v> {
        View { base, own: self, stamp }
    }

    /// The name of a queue that was made here.
    pub(super) fn made(&self, id: QueueId) -> Option<&[u8]> {
        self.queues.find(|own| own.id == id).map(Vec::as_slice)
    }

    /// Items that were pushed here.
    pub(super) fn pushed(&self) -> usize {
        usize::from(self.pushed)
    }

    /// Appends what has changed, each record once.
    pub(crate) fn into_changes(self, base: &Queues, changes: &mut Vec<Change>) {
        for (name, own) in self.queues.into_entries() {
            let known = base.known.get(&own.id);
            if own.is_dropped {
                changes.extend(known.map(|_| delete_queue(&name)));
                continue;
            }
            if own.is_declared {
                changes.push(put_queue(&name, own.id, &own.options));
            }
            for (id, item) in own.items.into_entries() {
                match item {
                    OwnItem::Gone if known.is_some_and(|queue| queue.items.contains_key(&id)) => {
                        changes.extend(delete_item(own.id, id));
                    }
                    OwnItem::Gone => {}
                    OwnItem::Changed(life) => changes.push(put_life(own.id, id, &life)),
                    OwnItem::New { record, life } => {
                        let is_as_pushed = ItemRecord::read(&record).is_some_and(|record| record.first_life() == life);
                        changes.push(put_item(own.id, id, record));
                        changes.extend((!is_as_pushed).then(|| put_life(own.id, id, &life)));
                    }
                }
            }
        }
    }
}

impl View<'_> {
    fn base_queue(&self, name: &[u8]) -> Option<(QueueId, &Queue)> {
        self.base.named(name)
    }

    /// The queue's id; None: there is no such queue.
    pub(super) fn id(&self, name: &[u8]) -> Option<QueueId> {
        match self.own.queues.get(name) {
            Some(own) => Some(own.id).filter(|_| !own.is_dropped),
            None => self.base_queue(name).map(|(id, _)| id),
        }
    }

    /// The queue's id; it is made where there is none.
    pub(super) fn make(&mut self, name: &[u8]) -> Result<QueueId, Failure> {
        Ok(self.own(name)?.id)
    }

    /// The queue's settings; None: there is no such queue.
    pub(super) fn options(&self, name: &[u8]) -> Option<&Options> {
        match self.own.queues.get(name) {
            Some(own) => Some(&own.options).filter(|_| !own.is_dropped),
            None => self.base_queue(name).map(|(_, queue)| &queue.options),
        }
    }

    /// How many items there are, and how many bytes they have.
    pub(super) fn size(&self, name: &[u8]) -> (u64, u64) {
        match self.own.queues.get(name) {
            Some(own) => (own.count, own.bytes),
            None => self.base_queue(name).map_or((0, 0), |(_, queue)| (queue.items.len() as u64, queue.bytes)),
        }
    }

    /// An item.
    pub(super) fn item(&self, name: &[u8], id: ItemId) -> Option<SeenItem<'_>> {
        let base = || self.base_queue(name)?.1.items.get(&id);
        let Some(own) = self.own.queues.get(name).and_then(|own| own.items.get(&id)) else {
            let item = base()?;
            return Some(SeenItem { record: item.record(), life: &item.life });
        };
        match own {
            OwnItem::Gone => None,
            OwnItem::Changed(life) => Some(SeenItem { record: base()?.record(), life }),
            OwnItem::New { record, life } => Some(SeenItem { record: ItemRecord::read(record)?, life }),
        }
    }

    /// The items that may be handed out, in their order.
    pub(super) fn ready<'s>(&'s self, name: &[u8]) -> impl Iterator<Item = (u8, ItemId)> + use<'s> {
        let own = self.own.queues.get(name);
        let base = self.base_queue(name).map(|(_, queue)| &queue.ready);
        let is_own = move |id: &ItemId| own.is_some_and(|own| own.items.contains_key(id));
        let mut below = base.into_iter().flatten().copied().filter(move |(_, id)| !is_own(id)).peekable();
        let mut above = own.into_iter().flat_map(|own| &own.ready).copied().peekable();
        std::iter::from_fn(move || match (below.peek(), above.peek()) {
            (Some(one), Some(other)) if other < one => above.next(),
            (None, _) => above.next(),
            _ => below.next(),
        })
    }

    /// The item that goes first where room is needed: the oldest of the lowest priority that may be handed out.
    pub(super) fn least(&self, name: &[u8]) -> Option<ItemId> {
        let own = self.own.queues.get(name);
        let is_own = |id: &ItemId| own.is_some_and(|own| own.items.contains_key(id));
        let below = self.base_queue(name).map(|(_, queue)| &queue.ready);
        let below_last = below.and_then(|ready| ready.iter().rev().find(|(_, id)| !is_own(id)));
        let rank = below_last.into_iter().chain(own.and_then(|own| own.ready.last())).map(|(rank, _)| *rank).max()?;
        let from = (rank, ItemId::MIN);
        let below_first = below.and_then(|ready| ready.range(from..).find(|(_, id)| !is_own(id)));
        let own_first = own.and_then(|own| own.ready.range(from..).next());
        below_first.into_iter().chain(own_first).map(|(_, id)| *id).min()
    }

    /// The queue, to be changed; it is made where there is none.
    fn own(&mut self, name: &[u8]) -> Result<&mut Own, Failure> {
        let is_there = self.own.queues.get(name).is_some_and(|own| !own.is_dropped);
        if !is_there {
            let own = match self.base_queue(name) {
                Some((id, queue)) if !self.own.queues.contains_key(name) => Own {
                    id,
                    options: queue.options.clone(),
                    is_declared: false,
                    is_dropped: false,
                    items: FewMap::default(),
                    ready: BTreeSet::new(),
                    count: queue.items.len() as u64,
                    bytes: queue.bytes,
                },
                _ => self.new_queue()?,
            };
            self.own.queues.insert(name.to_vec(), own);
        }
        Ok(self.own.queues.get_mut(name).expect("it was put there, if it was not there"))
    }

    fn new_queue(&mut self) -> Result<Own, Failure> {
        if self.base.len() + usize::from(self.own.declared) >= limits::QUEUES_MAX {
            let message = format!("there are {} queues, and no more can be made; drop some", limits::QUEUES_MAX);
            return Err(Failure::limit(message));
        }
        let id = ItemId::new(self.stamp.revision, self.own.declared).ok_or_else(too_many)?;
        self.own.declared += 1;
        Ok(Own {
            id,
            options: Options::default(),
            is_declared: true,
            is_dropped: false,
            items: FewMap::default(),
            ready: BTreeSet::new(),
            count: 0,
            bytes: 0,
        })
    }

    /// Makes the queue, or gives it these settings. Nothing changes if it has them.
    pub(super) fn declare(&mut self, name: &[u8], options: Options) -> Result<(), Failure> {
        if self.options(name) == Some(&options) {
            return Ok(());
        }
        let own = self.own(name)?;
        own.options = options;
        own.is_declared = true;
        Ok(())
    }

    pub(super) fn drop_queue(&mut self, name: &[u8]) -> Result<(), Failure> {
        self.own(name)?.is_dropped = true;
        Ok(())
    }

    /// Appends an item to a queue, which is made where there is none.
    pub(super) fn push(&mut self, name: &[u8], record: Vec<u8>) -> Result<ItemId, Failure> {
        let id = ItemId::new(self.stamp.revision, self.own.pushed).ok_or_else(too_many)?;
        self.own.pushed += 1;
        let read = ItemRecord::read(&record).ok_or_else(too_many)?;
        let (bytes, priority, life) = (read.stored.len() as u64, read.priority, read.first_life());
        let own = self.own(name)?;
        own.count += 1;
        own.bytes += bytes;
        if matches!(life.stage, Stage::Waiting { ready_ms: 0, .. }) {
            own.ready.insert((rank(priority), id));
        }
        own.items.insert(id, OwnItem::New { record, life });
        Ok(id)
    }

    /// Changes what has become of an item that is there.
    pub(super) fn set(&mut self, name: &[u8], id: ItemId, life: Life) -> Result<(), Failure> {
        match self.item(name, id).map(|seen| seen.record.priority) {
            Some(priority) => self.set_known(name, id, priority, life),
            None => Ok(()),
        }
    }

    /// As [`View::set`], of an item with this priority.
    pub(super) fn set_known(&mut self, name: &[u8], id: ItemId, priority: i8, life: Life) -> Result<(), Failure> {
        let own = self.own(name)?;
        let place = (rank(priority), id);
        match life.stage {
            Stage::Waiting { ready_ms: 0, .. } => own.ready.insert(place),
            _ => own.ready.remove(&place),
        };
        match own.items.get_mut(&id) {
            Some(OwnItem::New { life: before, .. }) => *before = life,
            _ => {
                own.items.insert(id, OwnItem::Changed(life));
            }
        }
        Ok(())
    }

    /// Removes an item that is there, since it has come to this end.
    pub(super) fn remove(&mut self, name: &[u8], id: ItemId, end: Progress) -> Result<(), Failure> {
        let seen = self.item(name, id).map(|seen| (seen.record.priority, seen.record.stored.len() as u64));
        match seen {
            Some((priority, bytes)) => self.remove_known(name, id, priority, bytes, end),
            None => Ok(()),
        }
    }

    /// As [`View::remove`], of an item with this priority and a value of so many bytes.
    pub(super) fn remove_known(
        &mut self,
        name: &[u8],
        id: ItemId,
        priority: i8,
        bytes: u64,
        end: Progress,
    ) -> Result<(), Failure> {
        let own = self.own(name)?;
        own.ready.remove(&(rank(priority), id));
        own.items.insert(id, OwnItem::Gone);
        own.count = own.count.saturating_sub(1);
        own.bytes = own.bytes.saturating_sub(bytes);
        let queue = own.id;
        self.own.ended.push(Ended { queue, item: id, end });
        Ok(())
    }
}

fn too_many() -> Failure {
    Failure::new(ErrorCode::Internal, "an item of this revision would have no id; nothing was changed")
}
