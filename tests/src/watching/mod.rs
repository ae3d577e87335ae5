//! What the tests of notifications share: writers, watchers, what was really committed, and the comparison of the two.
//!
//! - [`Truth`] is what was committed, revision by revision, as the log's files tell it (`dump`) or as the writers were told: neither
//!   goes through the publisher, the verb `events` or the client's watch.
//! - [`Heard`] is what a watch told, in memory or as lines of a [`Watcher`], a process that can be stopped and continued.
//! - [`check`] holds one against the other: every revision of the prefix once, in order and whole, and every snapshot as the table was.
//!   It is pure, and tried with lies.
//! - [`Writers`] keep a tree of nested prefixes changing; [`Proxy`] is a wire that can be cut.

mod check;
mod heard;
mod proxy;
mod truth;
mod watcher;
mod writers;

pub use check::{Checked, Start, check};
pub use heard::Heard;
pub use proxy::Proxy;
pub use truth::{Change, Kind, Told, Truth, digest};
pub use watcher::{Ending, From, WatchFigures, Watcher, WatcherTask};
pub use writers::{WriterOptions, Writers, connect, prefixes};
