//! Removing what a run wrote, and nothing else.
//!
//! Only keys that start with a run's prefix are removed; it was drawn when no key started with it. It is done when a scan finds
//! no more of them, so that also a write counts that came late.

use std::time::Duration;

use kvbroker::client::{Client, ClientError};
use kvbroker_protocol::{ErrorCode, Operation, Operations, Scan};

use crate::keyspace::RunPrefix;
use crate::trouble::Trouble;

/// Keys removed with one request.
const KEYS_AT_ONCE: usize = 1_024;
/// How long a broker may take to show that it is still there.
const PROBE: Duration = Duration::from_secs(3);
/// How often removing may end with an unknown outcome before it is given up; doing it again does no harm.
const UNKNOWN_MAX: u32 = 3;
/// How often a prefix may be taken.
const DRAWS_MAX: u32 = 8;

/// A prefix with which no key starts.
///
/// # Errors
/// The broker does not answer.
pub(crate) fn draw_prefix(client: &Client) -> Result<RunPrefix, Trouble> {
    for _ in 0..DRAWS_MAX {
        let prefix = RunPrefix::random().map_err(|error| Trouble::system("the system gives no random numbers", error))?;
        if client.scan_page(page(prefix.as_bytes(), 1))?.rows.is_empty() {
            return Ok(prefix);
        }
    }
    Err(Trouble::system("no prefix is free", "chance has it that all prefixes drawn are in use; try again"))
}

/// Removes all keys that start with `prefix`. Gives how many there were.
///
/// # Errors
/// The broker does not answer or refuses; some keys may be left.
pub(crate) fn remove_keys(client: &Client, prefix: &[u8]) -> Result<u64, ClientError> {
    // A broker that is gone is not waited for as long as one that answers.
    client.call_within(Operations::One(Operation::Ping), Some(PROBE))?;
    let mut removed = 0;
    let mut unknown = 0;
    loop {
        let rows = client.scan_page(page(prefix, KEYS_AT_ONCE))?.rows;
        if rows.is_empty() {
            return Ok(removed);
        }
        let operations =
            rows.into_iter().map(|row| Operation::Del { key: row.key, return_old: false, condition: None }).collect();
        match client.batch(operations) {
            Ok(outcomes) => {
                for outcome in outcomes {
                    match outcome.result {
                        Ok(_) => removed += 1,
                        // Somebody else was faster.
                        Err(failure) if failure.code == ErrorCode::NotFound => {}
                        Err(failure) => return Err(ClientError::Failed(failure)),
                    }
                }
            }
            Err(ClientError::Unknown { .. }) if unknown < UNKNOWN_MAX => unknown += 1,
            Err(error) => return Err(error),
        }
    }
}

fn page(prefix: &[u8], limit: usize) -> Scan {
    Scan { prefix: prefix.to_vec(), limit: Some(limit), ..Scan::default() }
}
