//! Messages: published about a subject, and copied into each queue that is bound to a pattern with that subject.
//!
//! - A message reaches all queues that want it, or none, at one revision.
//! - Publishing is done once, as every mutation is, however often it has to be sent.

use kvbroker_protocol::{
    Answer, Binding, Key, MessageCopy, Operation, Predicate, Publish, RoutingAnswer, RoutingOperation, Stored,
};
use serde::Serialize;

use super::error::ClientError;
use super::handle::Client;
use super::queue::Queue;
use super::table::unexpected;
use super::typed::stored_as;

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its revision.
    pub revision: u64,
    /// So many queues have a copy.
    pub routed: u64,
    /// Queues with their items' ids: the first hundred of those that this client may use.
    pub copies: Vec<MessageCopy>,
}

impl Client {
    /// Publishes a value of any serializable type about a subject.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// lab.queue("mail").bind("orders.*")?;
    /// let published = lab.publish("orders.new", &7)?;
    /// assert_eq!(published.routed, 1);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// See [`ClientError`]; `queue_full` if a queue that wants the message is full: then no queue has got it.
    pub fn publish<T: Serialize + ?Sized>(&self, subject: impl AsRef<[u8]>, value: &T) -> Result<Published, ClientError> {
        self.publish_as(Client::message(subject, stored_as(value)?))
    }

    /// A message, to be filled in further and given to [`Client::publish_as`] or, by [`Client::message_in_txn`], into a transaction.
    #[must_use]
    pub fn message(subject: impl AsRef<[u8]>, value: Stored) -> Publish {
        let subject = subject.as_ref().to_vec();
        Publish { subject, value, priority: 0, ttl_ms: None, content_type: None, retain: false, must_route: false }
    }

    /// Publishes a message as it is described.
    ///
    /// # Errors
    /// As [`Client::publish`]; `unroutable` if it must be routed and no queue wants it.
    pub fn publish_as(&self, message: Publish) -> Result<Published, ClientError> {
        match self.one(Client::message_in_txn(message))? {
            (Answer::Routing(RoutingAnswer::Published { routed, copies }), revision) => {
                Ok(Published { revision, routed, copies })
            }
            _ => Err(unexpected()),
        }
    }

    /// A message as an operation, for a transaction: it goes out with what else is done there, or not at all.
    #[must_use]
    pub fn message_in_txn(message: Publish) -> Operation {
        Operation::Routing(Box::new(RoutingOperation::Publish(message)))
    }

    /// Which queues are bound to what, of those that this client may use.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn bindings(&self) -> Result<Vec<Binding>, ClientError> {
        self.bindings_of(None)
    }

    fn bindings_of(&self, queue: Option<Key>) -> Result<Vec<Binding>, ClientError> {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let page = RoutingOperation::Bindings { queue: queue.clone(), cursor, limit: None };
            let (answer, _) = self.one(Operation::Routing(Box::new(page)))?;
            let Answer::Routing(RoutingAnswer::Bindings { bindings, cursor: next }) = answer else {
                return Err(unexpected());
            };
            all.extend(bindings);
            cursor = next;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    fn tell_routing(&self, operation: RoutingOperation) -> Result<u64, ClientError> {
        match self.one(Operation::Routing(Box::new(operation)))? {
            (Answer::Done, revision) => Ok(revision),
            _ => Err(unexpected()),
        }
    }
}

impl<N: AsRef<[u8]>> Queue<'_, N> {
    /// From now on the queue gets a copy of each message about a subject of this pattern: `*` is any one token, `#` any number of them.
    /// The queue is made if it is not there. Gives the revision.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn bind(&self, pattern: impl AsRef<[u8]>) -> Result<u64, ClientError> {
        self.bind_to(pattern.as_ref(), None)
    }

    /// As [`Queue::bind`], for messages of which the predicate holds; the key that it can ask for is the subject. In place of what the
    /// queue was bound to this pattern with before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn bind_where(&self, pattern: impl AsRef<[u8]>, predicate: Predicate) -> Result<u64, ClientError> {
        self.bind_to(pattern.as_ref(), Some(predicate))
    }

    fn bind_to(&self, pattern: &[u8], where_: Option<Predicate>) -> Result<u64, ClientError> {
        let bind = RoutingOperation::Bind { queue: self.name(), pattern: pattern.to_vec(), where_ };
        self.client().tell_routing(bind)
    }

    /// From now on it does not, for this pattern. What it has it keeps. Gives the revision.
    ///
    /// # Errors
    /// See [`ClientError`]; `not_found` if it is not bound so.
    pub fn unbind(&self, pattern: impl AsRef<[u8]>) -> Result<u64, ClientError> {
        let unbind = RoutingOperation::Unbind { queue: self.name(), pattern: pattern.as_ref().to_vec() };
        self.client().tell_routing(unbind)
    }

    /// What the queue is bound to.
    ///
    /// # Errors
    /// See [`ClientError`]; `not_found` for a queue that is not there.
    pub fn bindings(&self) -> Result<Vec<Binding>, ClientError> {
        self.client().bindings_of(Some(self.name()))
    }
}
