//! A call: a request and where its reply goes.

use std::ops::Deref;
use std::sync::Arc;

use kvbroker_protocol::{Operation, Operations, Predicate, QueueOperation, Request};

use crate::credit::Account;

/// A connection of the front end, numbered in the order of first requests; for accounting and logs, never for identity.
pub type ClientId = u64;

/// The name of a connection at the ROUTER. Those that libzmq gives have five bytes; short ones take no memory of their own.
#[derive(Clone, PartialEq, Eq)]
pub struct RoutingId(Id);

const SHORT_BYTES: usize = 14;

#[derive(Clone, PartialEq, Eq)]
enum Id {
    /// The first so many of these bytes; the others are zero.
    Short(u8, [u8; SHORT_BYTES]),
    Long(Box<[u8]>),
}

impl From<&[u8]> for RoutingId {
    fn from(id: &[u8]) -> RoutingId {
        let mut bytes = [0; SHORT_BYTES];
        RoutingId(match (bytes.get_mut(..id.len()), u8::try_from(id.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(id);
                Id::Short(length, bytes)
            }
            _ => Id::Long(id.into()),
        })
    }
}

impl Default for RoutingId {
    fn default() -> RoutingId {
        RoutingId(Id::Short(0, [0; SHORT_BYTES]))
    }
}

impl Deref for RoutingId {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Id::Short(length, bytes) => &bytes[..usize::from(*length)],
            Id::Long(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for RoutingId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RoutingId").field(&&**self).finish()
    }
}

/// The routing frames of a message, returned unchanged in front of its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The peer's routing id at the ROUTER.
    pub routing_id: RoutingId,
    /// What the peer put in front of the body, up to and including the empty frame; empty for a bare DEALER.
    pub frames: Vec<Vec<u8>>,
}

impl Envelope {
    /// Bytes of the frames that come back.
    pub fn bytes(&self) -> usize {
        self.frames.iter().map(Vec::len).sum()
    }
}

/// A decoded request on its way to the worker.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whose it is, for accounting.
    pub client: ClientId,
    /// What its replies are charged to.
    pub account: Account,
    /// The authenticated user: whom its sessions belong to.
    pub user: Arc<str>,
    /// Where the reply goes.
    pub envelope: Envelope,
    /// What is asked.
    pub request: Request,
    /// Rough bytes it takes while it waits, for the bounds: see [`Call::weight`].
    pub bytes: usize,
}

impl Call {
    /// Rough bytes of a request in memory, whose message has so many: decoded, a short operation takes many times its bytes.
    pub fn weight(request: &Request, message_bytes: usize) -> usize {
        message_bytes.max(memory_of(request.operations.as_slice()))
    }
}

/// What a call does, if that is so little that it is done sooner than another thread is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Small {
    /// It reads the record of one key.
    Read,
    /// It changes the record of one key, or says what becomes of one item.
    Change,
    /// It asks for a few items, which others may wait for as well.
    Pull,
}

/// Larger messages are left to the worker's thread,
const SMALL_BYTES: usize = 16 << 10;
/// and so are pulls of more items.
const SMALL_ITEMS: usize = 16;

impl Call {
    /// What it does, if it is small; None if it is not, or if what it may cost depends on more than one key or a few items.
    pub fn small(&self) -> Option<Small> {
        let Operations::One(operation) = &self.request.operations else { return None };
        match operation {
            _ if self.bytes > SMALL_BYTES => None,
            Operation::Get { .. } | Operation::Exists { .. } | Operation::Ttl { .. } | Operation::Size | Operation::Ping => {
                Some(Small::Read)
            }
            Operation::Put { .. }
            | Operation::Del { .. }
            | Operation::Incr { .. }
            | Operation::Expire { .. }
            | Operation::Persist { .. } => Some(Small::Change),
            Operation::Queue(queue) => match queue.as_ref() {
                QueueOperation::Push(_) | QueueOperation::Ack { .. } => Some(Small::Change),
                QueueOperation::Pull(pull) if pull.limit <= SMALL_ITEMS => Some(Small::Pull),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Rough bytes of operations in memory, without what their keys and values hold: the message has those as well.
fn memory_of(operations: &[Operation]) -> usize {
    size_of_val(operations) + operations.iter().map(behind).sum::<usize>()
}

/// What an operation keeps in lists of its own.
fn behind(operation: &Operation) -> usize {
    match operation {
        Operation::Mget { keys } => size_of_val(keys.as_slice()),
        Operation::Scan(scan) | Operation::Query { scan, .. } => scan.filter.as_ref().map_or(0, Predicate::memory_bytes),
        Operation::Queue(queue) => size_of_val(queue.as_ref()),
        Operation::Routing(routing) => size_of_val(routing.as_ref()) + routing.memory_bytes(),
        Operation::Conversion(conversion) => size_of_val(conversion.as_ref()),
        Operation::Converted(converted) => size_of_val(converted.as_ref()) + behind(&converted.operation),
        Operation::Events(events) => events.where_.as_ref().map_or(0, Predicate::memory_bytes),
        Operation::Txn(txn) => {
            size_of_val(txn.as_ref()) + size_of_val(txn.compares.as_slice()) + memory_of(&txn.then) + memory_of(&txn.otherwise)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routing_id_is_what_it_was_made_of_whatever_its_length() {
        for length in 0..300 {
            let id = vec![7_u8; length];
            assert_eq!(*RoutingId::from(id.as_slice()), *id);
        }
        assert_ne!(RoutingId::from(&b"a"[..]), RoutingId::from(&b"a\0"[..]));
        assert_eq!(*RoutingId::default(), *b"");
    }
}
