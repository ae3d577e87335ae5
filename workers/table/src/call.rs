//! A call: a request and where its reply goes.

use std::sync::Arc;

use kvbroker_protocol::{Operation, Predicate, Request};

use crate::credit::Account;

/// A connection of the front end, numbered in the order of first requests; for accounting and logs, never for identity.
pub type ClientId = u64;

/// The routing frames of a message, returned unchanged in front of its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The peer's routing id at the ROUTER.
    pub routing_id: Vec<u8>,
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

/// Rough bytes of operations in memory, without what their keys and values hold: the message has those as well.
fn memory_of(operations: &[Operation]) -> usize {
    size_of_val(operations) + operations.iter().map(behind).sum::<usize>()
}

/// What an operation keeps in lists of its own.
fn behind(operation: &Operation) -> usize {
    match operation {
        Operation::Mget { keys } => size_of_val(keys.as_slice()),
        Operation::Scan(scan) | Operation::Query { scan, .. } => scan.filter.as_ref().map_or(0, Predicate::memory_bytes),
        Operation::Events(events) => events.where_.as_ref().map_or(0, Predicate::memory_bytes),
        Operation::Txn(txn) => {
            size_of_val(txn.as_ref()) + size_of_val(txn.compares.as_slice()) + memory_of(&txn.then) + memory_of(&txn.otherwise)
        }
        _ => 0,
    }
}
