//! Keys with a deadline: stored, given, taken away, asked for.
//!
//! - A deadline is the broker's to keep: a key is there until the broker has removed it, a change like any other.
//! - Times to live are in milliseconds on the wire; shorter ones are rounded up, so that a key never ends early.

use std::time::Duration;

use kvbroker_protocol::{Answer, Deadline, ErrorCode, Operation, Stored};

use super::error::ClientError;
use super::handle::Client;
use super::table::unexpected;

/// How long a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLeft {
    /// It has no deadline.
    Forever,
    /// It is removed then.
    Until(Deadline),
}

impl Client {
    /// Stores a value that is removed so much later. Gives the revision.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use std::time::Duration;
    /// use kvbroker_protocol::Stored;
    ///
    /// lab.put_for("lock/printer", Stored::text("ann")?, Duration::from_secs(30))?;
    /// assert!(lab.exists("lock/printer")?);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_for(&self, key: impl AsRef<[u8]>, value: Stored, ttl: Duration) -> Result<u64, ClientError> {
        let key = key.as_ref().to_vec();
        Ok(self.one(Operation::Put { key, value, condition: None, ttl_ms: Some(ms(ttl)) })?.1)
    }

    /// Gives a key a deadline, or another one. False: there is no such key.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn expire(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool, ClientError> {
        self.done_if_there(Operation::Expire { key: key.as_ref().to_vec(), ttl_ms: ms(ttl) })
    }

    /// Takes a key's deadline away. False: there is no such key.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool, ClientError> {
        self.done_if_there(Operation::Persist { key: key.as_ref().to_vec() })
    }

    /// How long a key has; None: there is no such key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<TimeLeft>, ClientError> {
        match self.one(Operation::Ttl { key: key.as_ref().to_vec() }) {
            Ok((Answer::Ttl(deadline), _)) => Ok(Some(deadline.map_or(TimeLeft::Forever, TimeLeft::Until))),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Does something to a key; false: there is none.
    pub(super) fn done_if_there(&self, operation: Operation) -> Result<bool, ClientError> {
        match self.one(operation) {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_ends_early() {
        let times = [(0, 1), (1, 1), (1_000_000, 1), (1_000_001, 2)];
        for (ns, expected) in times {
            assert_eq!(ms(Duration::from_nanos(ns)), expected);
        }
        assert_eq!(ms(Duration::MAX), u64::MAX, "which the broker refuses");
    }
}
