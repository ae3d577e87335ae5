//! What the end-to-end tests share: real brokers in directories of their own, and clients that know only docs/protocol.md.
//!
//! - Every broker has its own `KVBROKER_HOME` and data directory, free ports and no catalog unless the test names one, and is
//!   ended by its own process id when its [`Broker`] is dropped.
//! - Nothing sleeps to synchronise: [`wait_until`] waits for a condition with a deadline and says what it waited for.
//! - [`RawClient`] uses ZeroMQ sockets directly and not this project's client library: it stands for a stranger's program.
//! - [`NumberedClient`] is such a stranger that numbers its mutations and outlives restarts; a [`Recorder`] is a process that writes down
//!   what it asked and was told, one way or the other.
//! - A [`Wire`] has [`Machine`]s: network namespaces, for tests of several hosts on one.
//! - [`linear`] is pure: it tells whether a history of operations can have happened.
//! - [`watch_sim`] simulates watches over crashes and losses, without processes.
//! - [`hostile`] has peers that mean harm, for tests and figures.
//! - [`queue_sweep`] stops brokers with queues at every operation on a simulated disk.
//! - [`soak`] has what a soak of work queues leaves behind, and judges it.
//! - [`watching`] has writers, watchers that can be stopped, what was really committed, and the comparison of the two.
//! - Random tests draw from [`Dice`], which prints its seed; `KVBROKER_TEST_SEED` repeats a run.
//!
//! Caveat: `KVBROKER_TEST_BIN=DIR` takes the programs from a directory instead of building them.

mod asked;
mod binaries;
mod broker;
mod catalog;
mod cli;
mod cpu;
mod dice;
pub mod hostile;
pub mod linear;
mod machines;
mod numbered;
mod peers;
mod perf;
pub mod queue_sweep;
mod raw;
mod recorders;
pub mod soak;
mod user;
pub mod vectors;
mod verb;
mod wait;
pub mod watch_sim;
pub mod watching;

pub use asked::operation;
pub use binaries::program;
pub use broker::{Broker, BrokerOptions, Ended, Home, Memory, end_with_us};
pub use catalog::LoopbackCatalog;
pub use cli::{Cli, Said, finish};
pub use cpu::cpu_seconds;
pub use dice::Dice;
pub use machines::{Machine, Wire};
pub use numbered::{NumberedClient, NumberedError};
pub use peers::{left_out, peer, peers_are_required, python};
pub use perf::Perf;
pub use raw::{RawClient, RawSubscriber, json, pack, unpack};
pub use recorders::{Depth, Lane, Line, Recorder, Task, all_have_ended, recorded_table};
pub use user::{User, authorized_clients};
pub use verb::{verb, verb_command};
pub use wait::{PATIENCE, free_port, wait_until};
