//! Transactions through the client.

use kvbroker_protocol::{Answer, Operation, Outcome, Txn};

use super::error::ClientError;
use super::handle::Client;
use super::table::unexpected;

/// What a transaction did.
#[derive(Clone, Debug, PartialEq)]
pub struct TxnDone {
    /// True: every comparison held and `then` was done; false: `else` was.
    pub succeeded: bool,
    /// The outcomes of the operations that were done, in order.
    pub results: Vec<Outcome>,
    /// The revision that it made, or the one observed if it changed nothing.
    pub revision: u64,
}

impl Client {
    /// Does a transaction: all or nothing, at one revision.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker_protocol::{Compare, Condition, Operation, Txn};
    ///
    /// # lab.incr("basket", 0)?;
    /// # lab.incr("stock", 12)?;
    /// // Move one from the stock to the basket, if there is a basket.
    /// let done = lab.txn(Txn {
    ///     compares: vec![Compare { key: b"basket".to_vec(), condition: Condition::Exists }],
    ///     then: vec![
    ///         Operation::Incr { key: b"stock".to_vec(), by: -1 },
    ///         Operation::Incr { key: b"basket".to_vec(), by: 1 },
    ///     ],
    ///     otherwise: vec![],
    /// })?;
    /// println!("{}", if done.succeeded { "moved" } else { "there is no basket" });
    /// assert!(done.succeeded && lab.incr("basket", 0)? == 1);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// A change in it failed (then nothing was done), or as for every mutation.
    pub fn txn(&self, txn: Txn) -> Result<TxnDone, ClientError> {
        match self.one(Operation::Txn(Box::new(txn)))? {
            (Answer::Txn { succeeded, results }, revision) => Ok(TxnDone { succeeded, results, revision }),
            _ => Err(unexpected()),
        }
    }
}
