//! The client library: a table on a broker, found by name.
//!
//! ```no_run
//! use kvbroker::client::Client;
//!
//! let lab = Client::connect("NETID-a5")?;
//! lab.put_text("greeting", "hello")?;
//! assert_eq!(lab.get("greeting")?.and_then(|entry| entry.value.as_text()).as_deref(), Some("hello"));
//! # Ok::<(), kvbroker::client::ClientError>(())
//! ```
//!
//! - Every call has a deadline ([`ConnectOptions::timeout`]; 60 s unless told otherwise).
//! - Reads outlive a restart of the broker: they are asked again on new connections, found by a
//!   new lookup, up to the deadline.
//! - Mutations are sent once. One whose reply got lost ends as [`ClientError::Unknown`]; every
//!   other error means that it was certainly not done.
//! - A client belongs to one log (one uuid): what it learns from one table it never writes into
//!   another one of the same name.
//! - Nothing is printed; [`ConnectOptions::notices`] hears of what takes long.
//!
//! Caveat: calls from several threads are taken one at a time.
//!
//! The rooms: [`session`] is the pure part (numbers, retries, ends), `connection` one socket and
//! its Hello, `table` the operations, `pages` those that give pages, `history` what a key was before, `typed` values through serde, [`watch`] notifications.

mod connection;
mod driver;
mod error;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod fake;
mod handle;
mod history;
mod inbox;
mod options;
mod pages;
mod pipeline;
mod progress;
pub mod session;
mod slot;
mod table;
mod txn;
mod typed;
pub mod watch;

pub use connection::{ConnectError, Connection, Expected, Route};
pub use error::{ClientError, exit_of};
pub use handle::Client;
pub use history::History;
pub use options::{ConnectOptions, TIMEOUT_DEFAULT};
pub use pages::{Item, Page, Pages};
pub use pipeline::{PIPELINE_DEPTH, Pipeline, Ticket};
pub use progress::Notices;
pub(crate) use progress::Progress;
pub use session::{RequestId, RequestIdError};
pub use table::Entry;
pub use txn::TxnDone;
pub use watch::{Watch, WatchEvent};

#[cfg(test)]
mod tests;
