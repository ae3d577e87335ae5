//! The client library: a table on a broker, found by name.
//!
//! ```
//! use kvbroker::client::Client;
//!
//! # // Compiled, and not called: there is no broker of that name.
//! # fn connect() -> Result<Client, kvbroker::client::ClientError> {
//! let lab = Client::connect("NETID-a5")?;
//! # Ok(lab)
//! # }
//! # let broker = kvbroker_practice::Broker::start()?;
//! # let lab = broker.client()?;
//! lab.put_text("greeting", "hello")?;
//! assert_eq!(lab.get("greeting")?.and_then(|entry| entry.value.as_text()).as_deref(), Some("hello"));
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! - Every call has a deadline ([`ConnectOptions::timeout`]; 60 s unless told otherwise).
//! - Calls outlive restarts of the broker: they are sent again on new connections, found by new lookups, up to the
//!   deadline. A mutation keeps its number in the session meanwhile, and the broker does each number once.
//! - One that was sent and has no answer at its deadline ends as [`ClientError::Unknown`], with a name by which [`Client::result`] tells
//!   what became of it. Every other error but [`ClientError::Closed`] means that it was certainly not done.
//! - A [`Client`] may be cloned and shared by threads. What they ask at the same time travels together: with nothing
//!   outstanding a call is sent at once, else calls are put into arrays. One thread can have many outstanding with a [`Pipeline`].
//! - A client belongs to one log (one uuid): what it learns from one table it never writes into
//!   another one of the same name.
//! - Nothing is printed; [`ConnectOptions::notices`] hears of what takes long.
//!
//! Caveats: a client has a thread of its own, and libzmq's. After a fork it must not be used in the child.
//!
//! The rooms: [`session`] is the pure part (numbers, retries, what travels together), `driver` carries out its wishes,
//! `inbox` and `slot` the way of calls there and back, `handle` what programs hold, [`Pipeline`] many calls from one thread,
//! `connection` one socket and its Hello, `table`, `deadlines`, `names`, `pages`, `history`, `txn`, `users`, `routing` and `fate` the operations, `typed` values through
//! serde, [`watch`] changes as they happen, without gaps, [`Mirror`] a copy of some keys that is kept current, `bell` what wakes a thread that polls, `queue` and `delivery`
//! work queues, [`Consumer`] a callback for each item, [`Subscription`] messages as they are published.

mod bell;
mod connection;
mod consumer;
mod convert;
mod copies;
mod deadlines;
mod delivery;
mod driver;
mod error;
mod events;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod fake;
mod fate;
mod handle;
mod history;
mod inbox;
mod mirror;
mod names;
mod options;
mod pages;
mod pipeline;
mod progress;
mod queue;
mod routing;
pub mod session;
mod slot;
mod subscribe;
mod table;
mod txn;
mod typed;
mod users;
pub mod watch;

pub use connection::{ConnectError, Connection, Expected, Patience, Route};
pub use consumer::{Consumer, Drain, Notifier, Served, Verdict};
pub use convert::{Conversions, Reading};
pub use copies::TrackedCopy;
pub use deadlines::TimeLeft;
pub use delivery::Delivery;
pub use error::{ClientError, exit_of};
pub use events::{EventsOptions, EventsPage};
pub use handle::Client;
pub use history::History;
pub use mirror::{Mirror, MirrorCause, MirrorChange, MirrorError, MirrorOptions, MirrorRow, MirrorState};
pub use names::Names;
pub use options::{ConnectOptions, TIMEOUT_DEFAULT};
// What a program says about brokers whose key it never saw.
pub use crate::lookup::{NewBroker, NewKeys};
pub use pages::{Item, Page, Pages};
pub use pipeline::{PIPELINE_DEPTH, Pipeline, Ticket};
pub use progress::Notices;
pub(crate) use progress::Progress;
pub use queue::{Next, Queue};
pub use routing::Published;
pub use session::{RequestId, RequestIdError};
pub use subscribe::{Message, Subscription, Told};
pub use table::Entry;
pub use txn::TxnDone;
pub use users::Identity;
pub use watch::{
    Changes, ChangesIter, Hub, Watch, WatchBroken, WatchEvent, WatchFrom, WatchId, WatchOptions, WatchStats, WhySnapshot,
};

#[cfg(test)]
mod tests;
