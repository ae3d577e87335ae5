//! A view of the state with the changes of one operation on top.
//!
//! - An operation reads its own earlier effects here, in reads, counts and scans alike; if it fails, the overlay is dropped and no
//!   trace is left.
//! - At the end there is at most one change of a key: its last.
//! - Of the table, ranges and counts have the keys of the user's scope and no others. A key that an operation names is in the scope.

use std::cmp::Ordering;
use std::iter::Peekable;

use kvbroker_protocol::{Answer, ConversionOperation, Failure, ItemId, Key, Pull, Push, QueueOperation, Scope, Stored};

use crate::change::{Change, Space};
use crate::conversions::{ItemConversion, Rules};
use crate::decide::{Stamp, Turn};
use crate::queues::{QueueId, QueueOverlay};
use crate::record::{TableRecord, split_table_record, table_record};
use crate::routing::{Message, RoutingOverlay};
use crate::state::State;
use crate::table::KeyRange;

pub(crate) struct Overlay<'a> {
    state: &'a State,
    /// Of the table this is all there is.
    scope: &'a Scope,
    /// Of the table, in key order, each key once.
    own: Vec<Change>,
    /// What has changed in queues.
    pub(crate) queues: QueueOverlay,
    /// What has changed in routing; nearly always nothing.
    routing: Option<Box<RoutingOverlay>>,
    /// Of rules; no transaction has any, so there is one at most.
    rules: Vec<Change>,
    /// The revision that the changes will have, and the time of deadlines that start now.
    stamp: Stamp,
}

/// A key's record as an operation sees it.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) record: TableRecord<'a>,
    pub(crate) modified: u64,
}

impl<'a> Seen<'a> {
    pub(crate) fn of(record: &'a [u8], modified: u64) -> Option<Seen<'a>> {
        // Only whole table records get into the table: `Change::from_record` and `table_record` see to it.
        Some(Seen { record: split_table_record(record)?, modified })
    }

    pub(crate) fn created(&self) -> u64 {
        self.record.created.unwrap_or(self.modified)
    }
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(state: &'a State, scope: &'a Scope, stamp: Stamp) -> Self {
        Overlay { state, scope, own: Vec::new(), queues: QueueOverlay::default(), routing: None, rules: Vec::new(), stamp }
    }

    /// Which keys there are for this operation.
    pub(crate) fn scope(&self) -> &'a Scope {
        self.scope
    }

    /// What time it is, milliseconds.
    pub(crate) fn time_ms(&self) -> u64 {
        self.stamp.time_ms
    }

    /// Does something of a queue.
    pub(crate) fn queue(&mut self, operation: QueueOperation, turn: &mut Turn) -> Result<Answer, Failure> {
        // Its bindings go with it.
        let dropped = match &operation {
            QueueOperation::Drop { queue } => self.queue_id(queue),
            _ => None,
        };
        let answer = crate::queues::operate(&self.state.queues, &mut self.queues, self.scope, operation, self.stamp, turn)?;
        if let Some(queue) = dropped {
            let base = &self.state.routing;
            self.routing_mut().unbind_all(base, queue);
        }
        Ok(answer)
    }

    /// What all of it is based on.
    pub(crate) fn state(&self) -> &'a State {
        self.state
    }

    /// The revision that the changes will have.
    pub(crate) fn revision(&self) -> u64 {
        self.stamp.revision
    }

    /// What has changed in routing.
    pub(crate) fn routing_mut(&mut self) -> &mut RoutingOverlay {
        self.routing.get_or_insert_default()
    }

    /// A queue's id, if it is there.
    pub(crate) fn queue_id(&mut self, name: &[u8]) -> Option<QueueId> {
        self.queues.id_of(&self.state.queues, name, self.stamp)
    }

    /// A queue's id; it is made if it is not there.
    pub(crate) fn make_queue(&mut self, name: &[u8]) -> Result<QueueId, Failure> {
        self.queues.make(&self.state.queues, name, self.stamp)
    }

    /// A queue's name.
    pub(crate) fn queue_name(&self, queue: QueueId) -> Option<Key> {
        self.queues.name_of(&self.state.queues, queue)
    }

    /// How many items can still be made.
    pub(crate) fn items_left(&self) -> usize {
        self.queues.items_left()
    }

    /// Appends a copy of a message to a queue.
    pub(crate) fn push_copy(&mut self, copy: Push, subject: &[u8], turn: &mut Turn) -> Result<ItemId, Failure> {
        self.queues.push_copy(&self.state.queues, copy, subject, self.stamp, turn)
    }

    /// True of a queue whose items live in memory alone.
    pub(crate) fn is_transient(&mut self, queue: &[u8]) -> bool {
        self.queues.is_transient(&self.state.queues, queue, self.stamp)
    }

    /// Takes items of a queue, converted.
    pub(crate) fn pull_converted(
        &mut self,
        pull: &Pull,
        conversion: ItemConversion<'_>,
        turn: &mut Turn,
    ) -> Result<Answer, Failure> {
        crate::queues::pull_converted(&mut self.queues.view(&self.state.queues, self.stamp), pull, conversion, turn)
    }

    /// The rules as they were before this operation.
    pub(crate) fn rules(&self) -> &'a Rules {
        &self.state.rules
    }

    /// Does something of the rules.
    pub(crate) fn conversion(&mut self, operation: ConversionOperation, turn: &mut Turn) -> Result<Answer, Failure> {
        crate::conversions::operate(&self.state.rules, self.scope, operation, &mut self.rules, turn)
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.own.binary_search_by(|own| own.key.as_slice().cmp(key))
    }

    /// The key's record, own changes included.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Seen<'_>> {
        match self.find(key) {
            Ok(at) => Seen::of(self.own[at].value.as_deref()?, self.stamp.revision),
            Err(_) => self.state.table.get(key).and_then(|entry| Seen::of(entry.record, entry.modified)),
        }
    }

    /// Stores a value and its deadline, or none; a key that is there keeps the revision at which it came into being.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Stored, expires_ms: Option<u64>) {
        let created = self.get(&key).map(|seen| seen.created()).filter(|created| *created != self.stamp.revision);
        let record = Some(table_record(value, created, expires_ms));
        match self.find(&key) {
            Ok(at) => self.own[at].value = record,
            Err(at) => self.insert(at, key, record),
        }
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        match (self.find(&key), self.state.table.get(&key).is_some()) {
            (Ok(at), true) => self.own[at].value = None,
            // It came into being here and is gone again: nothing has changed.
            (Ok(at), false) => {
                self.own.remove(at);
            }
            (Err(at), _) => self.insert(at, key, None),
        }
    }

    /// Number of keys of the whole table, own changes included.
    pub(crate) fn keys(&self) -> usize {
        let (mut keys, table) = (self.state.keys(), &self.state.table);
        for own in &self.own {
            match (table.get(&own.key).is_some(), own.value.is_some()) {
                (false, true) => keys += 1,
                (true, false) => keys -= 1,
                _ => {}
            }
        }
        keys
    }

    /// Keys of a range and of the scope with their records, own changes included, in key order or its reverse.
    pub(crate) fn range<'s>(&'s self, range: &KeyRange, reverse: bool) -> Box<dyn Iterator<Item = (&'s [u8], Seen<'s>)> + 's> {
        range.within(self.scope, reverse, move |range| self.part(range, reverse))
    }

    fn part<'s>(&'s self, range: &KeyRange, reverse: bool) -> Box<dyn Iterator<Item = (&'s [u8], Seen<'s>)> + 's> {
        let below = self.state.table.range(range);
        let below = below.filter_map(|(key, entry)| Some((key, Seen::of(entry.record, entry.modified)?)));
        let own = range.part_of(&self.own, |own| &own.key);
        let is_empty = own.is_empty();
        let own = own.iter().map(|own| (own.key.as_slice(), own.value.as_deref()));
        match (is_empty, reverse) {
            (true, false) => Box::new(below),
            (true, true) => Box::new(below.rev()),
            (false, false) => {
                Box::new(Merged { below: below.peekable(), own: own.peekable(), revision: self.stamp.revision, reverse })
            }
            (false, true) => Box::new(Merged {
                below: below.rev().peekable(),
                own: own.rev().peekable(),
                revision: self.stamp.revision,
                reverse,
            }),
        }
    }

    fn insert(&mut self, at: usize, key: Vec<u8>, value: Option<Vec<u8>>) {
        if self.own.is_empty() {
            // Nearly always it is the only one, and the reply that is remembered with it is put behind it.
            self.own.reserve_exact(2);
        }
        self.own.insert(at, Change { space: Space::Table, key, value });
    }

    /// What has changed, and the messages for those who listen.
    pub(crate) fn into_changes(self) -> (Vec<Change>, Vec<Message>) {
        let mut changes = self.own;
        self.queues.into_changes(&self.state.queues, &mut changes);
        let messages = match self.routing {
            Some(routing) => routing.into_changes(&self.state.routing, &mut changes),
            None => Vec::new(),
        };
        changes.extend(self.rules);
        (changes, messages)
    }
}

/// Two sorted sequences of keys as one; own changes hide what is below them.
struct Merged<B: Iterator, O: Iterator> {
    below: Peekable<B>,
    own: Peekable<O>,
    revision: u64,
    reverse: bool,
}

impl<'s, B, O> Iterator for Merged<B, O>
where
    B: Iterator<Item = (&'s [u8], Seen<'s>)>,
    O: Iterator<Item = (&'s [u8], Option<&'s [u8]>)>,
{
    type Item = (&'s [u8], Seen<'s>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let order = match (self.below.peek(), self.own.peek()) {
                (Some((below, _)), Some((own, _))) if self.reverse => own.cmp(below),
                (Some((below, _)), Some((own, _))) => below.cmp(own),
                (_, None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            if order == Ordering::Less {
                return self.below.next();
            }
            if order == Ordering::Equal {
                self.below.next();
            }
            let (key, record) = self.own.next()?;
            if let Some(seen) = record.and_then(|record| Seen::of(record, self.revision)) {
                return Some((key, seen));
            }
        }
    }
}
