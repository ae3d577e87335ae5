//! Transactions: compare some keys, then do one list of operations or the other, all or nothing, at one revision.

use crate::decode::operation;
use crate::error::Failure;
use crate::field::Raw;
use crate::grammar::condition_of;
use crate::limits::{ARRAY_REGEXES_MAX, TXN_OPERATIONS_MAX};
use crate::operation::{Condition, Operation};
use crate::queue::QueueOperation;
use crate::value::Key;

/// A transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Txn {
    /// What decides between the two lists; nothing: the first.
    pub compares: Vec<Compare>,
    /// Done if every comparison holds.
    pub then: Vec<Operation>,
    /// Done otherwise.
    pub otherwise: Vec<Operation>,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare {
    /// The key.
    pub key: Key,
    /// What must hold of it.
    pub condition: Condition,
}

impl Txn {
    /// Every operation of either list.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.then.iter().chain(&self.otherwise)
    }

    /// Comparisons and operations together, an mget counting for each of its keys: what its bound counts.
    pub fn weight(&self) -> usize {
        self.compares.len() + self.operations().map(Operation::weight).sum::<usize>()
    }

    /// Checks the bound and that every operation belongs into a transaction.
    pub(crate) fn check(self) -> Result<Txn, Failure> {
        if self.then.is_empty() && self.otherwise.is_empty() {
            return Err(Failure::invalid("a transaction has at least one operation in `then` or `else`"));
        }
        if self.weight() > TXN_OPERATIONS_MAX {
            let message = format!(
                "a transaction has at most {TXN_OPERATIONS_MAX} comparisons and operations; this one has {}",
                self.weight()
            );
            return Err(Failure::limit(message));
        }
        if self.operations().map(Operation::regexes).sum::<usize>() > ARRAY_REGEXES_MAX {
            return Err(Failure::limit(format!("at most {ARRAY_REGEXES_MAX} operations of a transaction may have a `regex`")));
        }
        let outsider = self.operations().find(|operation| {
            operation.stands_alone()
                || matches!(
                    operation,
                    Operation::Txn(_)
                        | Operation::Hello { .. }
                        | Operation::Stats
                        | Operation::Ping
                        | Operation::Noop
                        | Operation::Result { .. }
                        | Operation::DelPrefix { .. }
                        | Operation::Conversion(_)
                        | Operation::Converted(_)
                )
                || matches!(operation, Operation::Queue(queue) if !queue.fits_into_txn())
                || matches!(operation, Operation::Routing(routing) if !routing.fits_into_txn())
        });
        if let Some(Operation::Queue(queue)) = outsider
            && matches!(queue.as_ref(), QueueOperation::Pull(pull) if pull.wait_ms > 0)
        {
            return Err(Failure::invalid("`pull` cannot `wait` in a transaction: there it takes what is ready, or nothing"));
        }
        if let Some(operation) = outsider {
            return Err(Failure::invalid(format!("`{}` cannot be part of a transaction", operation.verb())));
        }
        if self.operations().any(|operation| operation.snapshot().is_some()) {
            return Err(Failure::invalid("a transaction reads the table as it is; read a `snapshot` outside of it"));
        }
        Ok(self)
    }
}

/// The `then` or `else` of a request.
pub(crate) fn operations_of(raw: Option<Raw<'_>>, name: &str) -> Result<Vec<Operation>, Failure> {
    let mut operations = Vec::new();
    each(raw, name, |raw| {
        operations.push(operation(raw).map_err(|failure| placed(failure, name, operations.len()))?);
        Ok(())
    })?;
    Ok(operations)
}

/// The `if` of a request: maps of `key` and one condition.
pub(crate) fn compares_of(raw: Option<Raw<'_>>) -> Result<Vec<Compare>, Failure> {
    let mut compares = Vec::new();
    each(raw, "if", |raw| {
        let (key, condition) = condition_of(raw).map_err(|failure| placed(failure, "if", compares.len()))?;
        compares.push(Compare { key, condition });
        Ok(())
    })?;
    Ok(compares)
}

/// Calls `take` for each element; too many are refused before they are all read.
fn each(raw: Option<Raw<'_>>, name: &str, mut take: impl FnMut(Raw<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let Some(raw) = raw else { return Ok(()) };
    let mut count = 0;
    let is_array = raw.each_element(|raw| {
        count += 1;
        if count > TXN_OPERATIONS_MAX {
            return Err(Failure::limit(format!("a transaction has at most {TXN_OPERATIONS_MAX} comparisons and operations")));
        }
        take(raw)
    })?;
    if is_array { Ok(()) } else { Err(Failure::invalid(format!("`{name}` must be an array"))) }
}

fn placed(failure: Failure, name: &str, at: usize) -> Failure {
    Failure { message: format!("`{name}`[{at}]: {}", failure.message), ..failure }
}
