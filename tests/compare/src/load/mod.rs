//! Generators: one thread and one connection each, a number of operations outstanding, every answer checked. Those of keys are lanes; queues have
//! those who push and those who take.

mod amqp;
mod beanstalk;
mod dealer;
mod drive;
mod grpc;
mod input;
mod jetstream;
mod library;
mod library_queue;
mod nats;
mod queue;
mod resp;

use crate::Failed;

pub use amqp::Amqp;
pub use beanstalk::{BeanstalkConsumer, BeanstalkProducer};
pub use dealer::{Dealer, Dialect, Frames};
pub use drive::{Measured, Shape, drive, fill, times};
pub use grpc::{Grpc, Scheme};
pub use jetstream::WorkQueue;
pub use library::Library;
pub use library_queue::{LibraryConsumer, LibraryProducer};
pub use nats::Nats;
pub use queue::{Consumer, Producer, QueueShape, drive_queue};
pub use resp::Resp;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value is stored.
    Put,
    /// A value is read.
    Get,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// What.
    pub kind: Kind,
    /// The number of its key.
    pub key: u32,
    /// Makes the value differ from the ones before it.
    pub stamp: u64,
}

/// One connection.
pub trait Lane: Send {
    /// Asks for one more operation. It may stay here until [`Lane::flush`].
    fn ask(&mut self, ask: Ask) -> Result<(), Failed>;
    /// What was asked for leaves now.
    fn flush(&mut self) -> Result<(), Failed> {
        Ok(())
    }
    /// Waits for an answer, takes all that have come and checks them; gives how many.
    fn take(&mut self) -> Result<usize, Failed>;
}
