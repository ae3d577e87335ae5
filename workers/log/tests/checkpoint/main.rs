//! Logs that begin with a checkpoint.
#![allow(clippy::unwrap_used)]

mod bench;
mod making;
mod recovery;
mod room;
