//! Between the words of histories and those of the client library.

use kvbroker_protocol::{Answer, Compare, Condition, ErrorCode, Found as Read, Operation, Outcome, Stored, Txn, integer_of};

use super::history::{Ask, Found, Only, Told, key_name};

/// A reply that has no place in a history; the run that it came from has failed.
#[derive(Debug, thiserror::Error)]
pub enum OutOfPlace {
    /// A failure that no right table gives for what was asked.
    #[error("{0}")]
    Failure(kvbroker_protocol::Failure),
    /// An answer of another kind than the question, or a value that nobody wrote.
    #[error("{0} is no answer to what was asked")]
    Answer(String),
    /// A reply without a revision.
    #[error("the reply has no revision")]
    NoRevision,
}

fn key(key: u32) -> Vec<u8> {
    key_name(key).into_bytes()
}

fn condition(only: Only) -> Condition {
    match only {
        Only::Absent => Condition::Absent,
        Only::Exists => Condition::Exists,
        Only::Revision(revision) => Condition::Revision(revision),
        Only::Value(value) => Condition::Value(Stored::integer(value.into())),
    }
}

/// What is sent for a question.
pub fn operation(ask: &Ask) -> Operation {
    match ask {
        Ask::Put { key: at, value, only } => {
            let value = Stored::integer((*value).into());
            Operation::Put { key: key(*at), value, condition: only.map(condition), ttl_ms: None }
        }
        Ask::Get { key: at } => Operation::Get { key: key(*at) },
        Ask::Mget { keys } => Operation::Mget { keys: keys.iter().copied().map(key).collect() },
        Ask::Exists { key: at } => Operation::Exists { key: key(*at) },
        Ask::Del { key: at, give_back, only } => {
            Operation::Del { key: key(*at), return_old: *give_back, condition: only.map(condition) }
        }
        Ask::Incr { key: at, by } => Operation::Incr { key: key(*at), by: *by },
        Ask::Size => Operation::Size,
        Ask::Txn(txn) => {
            let compare = |(at, only): &(u32, Only)| Compare { key: key(*at), condition: condition(*only) };
            let operations = |asks: &[Ask]| asks.iter().map(operation).collect();
            Operation::Txn(Box::new(Txn {
                compares: txn.compares.iter().map(compare).collect(),
                then: operations(&txn.then),
                otherwise: operations(&txn.otherwise),
            }))
        }
    }
}

/// What an outcome says, with its revision.
///
/// # Errors
/// See [`OutOfPlace`].
pub fn told(outcome: Outcome) -> Result<(Told, u64), OutOfPlace> {
    let revision = outcome.revision;
    let told = said(outcome)?;
    Ok((told, revision.ok_or(OutOfPlace::NoRevision)?))
}

fn said(outcome: Outcome) -> Result<Told, OutOfPlace> {
    Ok(match outcome.result {
        Ok(Answer::Done) => Told::Done,
        Ok(Answer::Removed(value)) => Told::Removed(integer(&value)?),
        Ok(Answer::Value { value, modified, created }) => Told::Found(Found { value: integer(&value)?, modified, created }),
        Ok(Answer::Values(values)) => {
            let found = |Read { value, modified, created }| Ok(Found { value: integer(&value)?, modified, created });
            Told::Many(values.into_iter().map(|value| value.map(found).transpose()).collect::<Result<_, OutOfPlace>>()?)
        }
        Ok(Answer::Exists(exists)) => Told::Exists(exists),
        Ok(Answer::Integer(sum)) => Told::Sum(i64::try_from(sum).map_err(|_| OutOfPlace::Answer(sum.to_string()))?),
        Ok(Answer::Size(size)) => Told::Size(size),
        Ok(Answer::Txn { succeeded, results }) => {
            Told::Txn { succeeded, results: results.into_iter().map(said).collect::<Result<_, _>>()? }
        }
        Ok(answer) => return Err(OutOfPlace::Answer(format!("{answer:?}"))),
        Err(failure) => match failure.code {
            ErrorCode::NotFound => Told::NotFound,
            ErrorCode::Conflict => Told::Conflict,
            ErrorCode::OutOfRange => Told::OutOfRange,
            _ => return Err(OutOfPlace::Failure(failure)),
        },
    })
}

fn integer(value: &Stored) -> Result<i64, OutOfPlace> {
    let integer = integer_of(value.as_bytes()).and_then(|integer| i64::try_from(integer).ok());
    integer.ok_or_else(|| OutOfPlace::Answer(format!("{value:?}")))
}
