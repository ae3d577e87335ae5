//! Checkpoints beside the worker: a thread that makes them, and what it shares with the worker.
//!
//! - The worker neither waits for a checkpoint nor copies the table. It does three things for it: it refuses mutations while the log
//!   is too long ([`Behind`]), it hands out slices of the table where a checkpoint is made from memory, and it seals the log for that.
//! - The thread makes, verifies and publishes them and deletes what the history does not need any more; how is the log's business.
//! - A checkpoint that fails costs disk space and a longer start, never a write that was acknowledged.

mod checkpointer;
mod figures;
mod maker;
mod nice;
mod pace;
mod pauses;
mod shared;
mod slices;

pub use checkpointer::CheckpointThread;
pub use pace::Behind;
pub use shared::Checkpoints;
