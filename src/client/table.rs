//! The operations of a table, one method each. Those that give pages are in `pages`.

use std::time::Duration;

use kvbroker_protocol::{
    Answer, Condition, ErrorCode, Failure, Found, HelloAnswer, Operation, Operations, Outcome, Reply, StatValue, Stored,
};

use super::error::ClientError;
use super::handle::Client;

/// A key's value and its history in two numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value as it was written.
    pub value: Stored,
    /// The revision of its last change.
    pub modified: u64,
    /// The revision at which the key came into being.
    pub created: u64,
    /// The revision of the table at which it was read.
    pub revision: u64,
}

impl Client {
    /// Stores a value under a key, replacing what was there. Gives the revision.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Unknown`] if it may have been done.
    pub fn put(&self, key: impl AsRef<[u8]>, value: Stored) -> Result<u64, ClientError> {
        self.store(key.as_ref(), value, None)
    }

    /// Stores a value only if a condition holds of what is there. Gives the revision.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker_protocol::{Condition, ErrorCode, Stored};
    ///
    /// let me = || Stored::text("ann").expect("a short text");
    /// // Of several who try, one becomes the leader.
    /// match lab.put_if("leader", me(), Condition::Absent) {
    ///     Ok(revision) => println!("leader since revision {revision}"),
    ///     Err(error) if error.code() == Some(ErrorCode::Conflict) => println!("somebody else was first: {error}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// // Over the change that was read, so that nobody's update is lost.
    /// if let Some(entry) = lab.get("leader")? {
    ///     lab.put_if("leader", me(), Condition::Revision(entry.modified))?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Client::put`]; `conflict` if the condition does not hold: nothing was stored.
    pub fn put_if(&self, key: impl AsRef<[u8]>, value: Stored, condition: Condition) -> Result<u64, ClientError> {
        self.store(key.as_ref(), value, Some(condition))
    }

    /// Stores a text.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_text(&self, key: impl AsRef<[u8]>, text: &str) -> Result<u64, ClientError> {
        self.put(key, Stored::text(text).map_err(ClientError::Failed)?)
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_bytes(&self, key: impl AsRef<[u8]>, bytes: &[u8]) -> Result<u64, ClientError> {
        self.put(key, Stored::bytes(bytes).map_err(ClientError::Failed)?)
    }

    /// Stores a JSON document as it is written.
    ///
    /// # Errors
    /// As [`Client::put`]; `invalid` when it is no JSON.
    pub fn put_json(&self, key: impl AsRef<[u8]>, json: &str) -> Result<u64, ClientError> {
        self.put(key, Stored::from_json(json.as_bytes()).map_err(ClientError::Failed)?)
    }

    /// Reads a key's value; None: there is no such key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, ClientError> {
        match self.one(Operation::Get { key: key.as_ref().to_vec() }) {
            Ok((Answer::Value { value, modified, created }, revision)) => Ok(Some(Entry { value, modified, created, revision })),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the values of several keys at one revision, in their order; None: there is no such key.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let zoo = broker.client()?;
    /// let keys = ["lion", "zebra"];
    /// for (key, entry) in keys.iter().zip(zoo.mget(keys)?) {
    ///     println!("{key}: {}", entry.map_or("not here".into(), |entry| format!("since revision {}", entry.modified)));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// See [`ClientError`]; `limit` for more than 4,096 keys, `reply_full` if their values have more than 16 MiB together.
    pub fn mget<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Entry>>, ClientError> {
        let keys: Vec<_> = keys.into_iter().map(|key| key.as_ref().to_vec()).collect();
        let asked = keys.len();
        if asked == 0 {
            return Ok(Vec::new());
        }
        match self.one(Operation::Mget { keys })? {
            (Answer::Values(values), revision) if values.len() == asked => {
                let entry = |Found { value, modified, created }| Entry { value, modified, created, revision };
                Ok(values.into_iter().map(|found| found.map(entry)).collect())
            }
            _ => Err(unexpected()),
        }
    }

    /// Tells whether a key is there, without reading its value.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// println!("{}", if lab.exists("leader")? { "there is a leader" } else { "nobody leads" });
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool, ClientError> {
        match self.one(Operation::Exists { key: key.as_ref().to_vec() })?.0 {
            Answer::Exists(exists) => Ok(exists),
            _ => Err(unexpected()),
        }
    }

    /// Adds to an integer and gives what is there then. A key that is not there counts as 0; `by` may be negative.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// println!("visitor number {}", lab.incr("visits", 1)?);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Client::put`]; `wrong_type` if the value is not an integer (the text `"5"` is none), `out_of_range` if
    /// the sum is below -2^63 or above 2^64-1. Nothing was changed then.
    pub fn incr(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i128, ClientError> {
        match self.one(Operation::Incr { key: key.as_ref().to_vec(), by })?.0 {
            Answer::Integer(integer) => Ok(integer),
            _ => Err(unexpected()),
        }
    }

    /// Removes a key. False: there was none.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Unknown`] if it may have been done.
    pub fn del(&self, key: impl AsRef<[u8]>) -> Result<bool, ClientError> {
        self.remove(key.as_ref(), None)
    }

    /// Removes a key only if a condition holds of it. False: there was none, whatever the condition.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker_protocol::{Condition, Stored};
    ///
    /// // Only my own lock, not one that somebody took meanwhile.
    /// let mine = Stored::text("ann").expect("a short text");
    /// lab.del_if("lock", Condition::Value(mine))?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Client::del`]; `conflict` if the condition does not hold: the key is still there.
    pub fn del_if(&self, key: impl AsRef<[u8]>, condition: Condition) -> Result<bool, ClientError> {
        self.remove(key.as_ref(), Some(condition))
    }

    /// Removes a key and gives the value that it had; None: there was none.
    ///
    /// # Errors
    /// As [`Client::del`].
    pub fn take(&self, key: impl AsRef<[u8]>) -> Result<Option<Stored>, ClientError> {
        match self.one(Operation::Del { key: key.as_ref().to_vec(), return_old: true, condition: None }) {
            Ok((Answer::Removed(value), _)) => Ok(Some(value)),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Counts the keys.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn size(&self) -> Result<u64, ClientError> {
        match self.one(Operation::Size)?.0 {
            Answer::Size(size) => Ok(size),
            _ => Err(unexpected()),
        }
    }

    /// Asks for a sign of life; gives the table's revision.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ping(&self) -> Result<u64, ClientError> {
        Ok(self.one(Operation::Ping)?.1)
    }

    /// The broker's counters and settings, in its order.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stats(&self) -> Result<Vec<(String, StatValue)>, ClientError> {
        match self.one(Operation::Stats)?.0 {
            Answer::Stats(stats) => Ok(stats),
            _ => Err(unexpected()),
        }
    }

    /// What the broker says about itself now.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn hello(&self) -> Result<HelloAnswer, ClientError> {
        self.hello_within(self.timeout())
    }

    pub(super) fn hello_within(&self, timeout: Option<Duration>) -> Result<HelloAnswer, ClientError> {
        let hello = Operation::Hello { project: Some(self.project().to_owned()) };
        match first(self.call_within(Operations::One(hello), timeout)?)?.0 {
            Answer::Hello(hello) => Ok(*hello),
            _ => Err(unexpected()),
        }
    }

    /// Several operations: each has its own outcome, in order. They need not travel in one message.
    ///
    /// # Errors
    /// As [`Client::call`]. Operations that time out while others are done have an outcome of their own, `busy`.
    pub fn batch(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>, ClientError> {
        use kvbroker_protocol::Outcomes;
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        match self.call(Operations::Many(operations))?.outcomes {
            Outcomes::Many(outcomes) => Ok(outcomes),
            Outcomes::One(_) => Err(unexpected()),
        }
    }

    fn store(&self, key: &[u8], value: Stored, condition: Option<Condition>) -> Result<u64, ClientError> {
        Ok(self.one(Operation::Put { key: key.to_vec(), value, condition, ttl_ms: None })?.1)
    }

    fn remove(&self, key: &[u8], condition: Option<Condition>) -> Result<bool, ClientError> {
        self.done_if_there(Operation::Del { key: key.to_vec(), return_old: false, condition })
    }

    pub(super) fn one(&self, operation: Operation) -> Result<(Answer, u64), ClientError> {
        first(self.call(Operations::One(operation))?)
    }
}

pub(super) fn first(reply: Reply) -> Result<(Answer, u64), ClientError> {
    use kvbroker_protocol::Outcomes;
    let Outcomes::One(outcome) = reply.outcomes else { return Err(unexpected()) };
    let answer = outcome.result.map_err(ClientError::Failed)?;
    Ok((answer, outcome.revision.unwrap_or_default()))
}

/// An answer of another kind than its operation's. The decoder refuses those already.
pub(super) fn unexpected() -> ClientError {
    ClientError::Failed(Failure::new(ErrorCode::Internal, "the broker answered with another kind of answer"))
}
