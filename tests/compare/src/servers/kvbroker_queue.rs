//! The broker as a work queue, asked by its client library.

use std::path::PathBuf;

use super::{Generator, Kvbroker, QueueServer, Server, Sync, Way};
use crate::Failed;
use crate::load::{Consumer, LibraryConsumer, LibraryProducer, Producer};
use crate::options::Options;

/// A running broker; it is killed when this is dropped.
pub struct KvbrokerQueue {
    server: Kvbroker,
    sync: Sync,
}

impl KvbrokerQueue {
    /// Starts one in a place of its own. `program`: another one than the one beside this program.
    pub fn start(options: &Options, program: Option<PathBuf>, sync: Sync) -> Result<KvbrokerQueue, Failed> {
        Ok(KvbrokerQueue { server: Kvbroker::start(options, program, sync, Way::Ipc, Generator::Library)?, sync })
    }
}

impl Server for KvbrokerQueue {
    fn name(&self) -> String {
        self.server.name()
    }

    fn settings(&self) -> String {
        format!(
            "`--sync {}`; ipc; the client library: pushes one by one and pipelined, pulls as large as the credit, what came together acknowledged together",
            self.sync
        )
    }

    fn pid(&self) -> u32 {
        self.server.pid()
    }
}

impl QueueServer for KvbrokerQueue {
    fn producer(&self, outstanding: usize) -> Result<Box<dyn Producer>, Failed> {
        Ok(Box::new(LibraryProducer::new(&self.server.client()?, outstanding)))
    }

    fn consumer(&self, credit: usize) -> Result<Box<dyn Consumer>, Failed> {
        Ok(Box::new(LibraryConsumer::new(&self.server.client()?, credit)))
    }
}
