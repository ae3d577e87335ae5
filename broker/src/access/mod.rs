//! Who may come in, and who is in no more.
//!
//! - The doors of both sockets, the worker and the log's reader ask one [`AccessBook`](kvbroker_table::AccessBook). The [`Gatekeeper`]
//!   alone writes it: from `authorized_clients`, which it reads again and again, and at the word of an admin, which it puts into the file
//!   first.
//! - The router's door admits every key that may do anything, the publisher's only keys that may read the whole table: what is published
//!   there goes to all.
//! - The owner's key is admitted whatever the file says.

mod doors;
mod gatekeeper;
mod watch;

pub(crate) use doors::{publisher_policy, router_policy};
pub(crate) use gatekeeper::{AccessStatus, Gatekeeper, OwnKeys, Subscribers, Surroundings};
