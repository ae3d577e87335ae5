//! Bytes of published messages that libzmq holds for subscribers.
//!
//! - Counted from the hand-over until libzmq lets go: when the last subscriber's copy has left, or its connection has ended. What nobody
//!   subscribes to is let go of at once.
//! - A message that goes to many counts once, since libzmq holds it once.
//!
//! Caveat: what libzmq needs for each place in a subscriber's queue, 128 bytes, and CURVE's copy of the one message that is just being
//! written to a connection, are not counted: their number is bounded by [`limits::PUBLISHED_UNREAD_MAX`] and the connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kvbroker_protocol::limits;

/// Rough bytes of a message beside its topic and body.
const MESSAGE_BYTES: usize = 256;

/// What one socket's messages take; of all sockets together in a counter that others read.
#[derive(Debug)]
pub(super) struct Unread {
    bytes: AtomicUsize,
    all: Arc<AtomicU64>,
}

/// Goes with a message, and is dropped where libzmq lets go of it.
#[derive(Debug)]
pub(super) struct Receipt {
    unread: Arc<Unread>,
    bytes: usize,
}

impl Unread {
    /// For a new socket.
    pub(super) fn new(all: Arc<AtomicU64>) -> Arc<Unread> {
        Arc::new(Unread { bytes: AtomicUsize::new(0), all })
    }

    /// For the socket that takes the place of this one, whose messages go on being counted in the sum.
    pub(super) fn next(&self) -> Arc<Unread> {
        Unread::new(self.all.clone())
    }

    /// Counts a message of so many bytes.
    pub(super) fn lend(self: &Arc<Self>, message_bytes: usize) -> Receipt {
        let bytes = message_bytes + MESSAGE_BYTES;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_add(bytes as u64, Ordering::Relaxed);
        Receipt { unread: self.clone(), bytes }
    }

    /// Whether subscribers have left more unread than they may.
    pub(super) fn is_too_much(&self) -> bool {
        self.bytes() > limits::PUBLISHED_UNREAD_BYTES_MAX
    }

    /// Whether it is so much that somebody may not be reading.
    pub(super) fn is_much(&self) -> bool {
        self.bytes() > limits::PUBLISHED_UNREAD_BYTES_MAX / 2
    }

    /// Whether it is so much that nothing should be added.
    pub(super) fn is_nearly_too_much(&self) -> bool {
        self.bytes() > limits::PUBLISHED_UNREAD_BYTES_MAX / 4 * 3
    }

    /// Bytes of this socket.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.unread.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.unread.all.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_counts_until_it_comes_back() {
        let unread = Unread::new(Arc::default());
        let half = limits::PUBLISHED_UNREAD_BYTES_MAX / 2;
        let first = unread.lend(half);
        assert!(!unread.is_too_much());
        assert!(unread.is_much() && !unread.is_nearly_too_much());
        let second = unread.lend(half);
        assert!(unread.is_too_much() && unread.is_nearly_too_much());
        let next = unread.next();
        let third = next.lend(1);
        assert!(!next.is_too_much(), "another socket begins with nothing");
        assert_eq!(unread.all.load(Ordering::Relaxed), (unread.bytes() + next.bytes()) as u64);
        drop((first, second, third));
        assert_eq!((unread.bytes(), next.bytes(), unread.all.load(Ordering::Relaxed)), (0, 0, 0));
    }
}
