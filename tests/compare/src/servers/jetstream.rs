//! NATS with JetStream as a work queue: a stream in files, with one replica, that drops what is acknowledged.

use std::path::Path;

use super::streams::Link;
use super::{NatsServer, QueueServer, Server, SyncInterval};
use crate::Failed;
use crate::load::{Consumer, Producer, WorkQueue};

/// A running server; it is killed when this is dropped.
pub struct JetStream {
    server: NatsServer,
}

impl JetStream {
    /// Starts one in a place of its own, with its stream and consumer.
    pub fn start(program: &Path, sync: SyncInterval) -> Result<JetStream, Failed> {
        let server = NatsServer::launch(program, sync, Link::Tcp)?;
        WorkQueue::new(server.greeted()?, 0)?.make()?;
        Ok(JetStream { server })
    }
}

impl Server for JetStream {
    fn name(&self) -> String {
        self.server.name()
    }

    fn settings(&self) -> String {
        let sync = self.server.sync_name();
        format!("a stream in files with work-queue retention, a pull consumer, confirmed acknowledgements, {sync}; TCP")
    }

    fn pid(&self) -> u32 {
        self.server.pid()
    }
}

impl QueueServer for JetStream {
    fn producer(&self, outstanding: usize) -> Result<Box<dyn Producer>, Failed> {
        Ok(Box::new(WorkQueue::new(self.server.greeted()?, outstanding)?))
    }

    fn consumer(&self, credit: usize) -> Result<Box<dyn Consumer>, Failed> {
        Ok(Box::new(WorkQueue::taking(self.server.greeted()?, credit)?))
    }
}
