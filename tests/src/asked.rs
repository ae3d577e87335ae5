//! Operations as their JSON says, for tests that shall not care what else an operation may say.

use kvbroker_protocol::{Operation, Operations, decode_request};
use serde_json::Value;

/// The operation of a request.
///
/// # Panics
/// If it is none.
pub fn operation(request: &Value) -> Operation {
    match decode_request(request.to_string().as_bytes()).map(|request| request.operations) {
        Ok(Operations::One(operation)) => operation,
        Ok(Operations::Many(_)) => panic!("{request} is more than one operation"),
        Err(rejected) => panic!("{request} is no operation: {rejected:?}"),
    }
}
