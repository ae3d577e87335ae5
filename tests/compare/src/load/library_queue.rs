//! kvbroker's queues by its client library: pushes and acknowledgements are pipelined, a pull asks for as many items as the credit allows, and what
//! came with one is acknowledged together.

use std::collections::VecDeque;

use kvbroker::client::{Client, Pipeline, Ticket};
use kvbroker_protocol::{Answer, Operation, Pull, Push, QueueAnswer, QueueOperation, Stored};

use super::queue::{Consumer, Cycle, LOOK, Producer, Taker};
use crate::Failed;
use crate::payload::VALUE_BYTES;

/// The queue of the load.
const QUEUE: &[u8] = b"load";
/// A pull waits so long at most: what a consumer that ends has still asked for is waited for.
const WAIT_MS: u64 = 250;

fn operation(operation: QueueOperation) -> Operation {
    Operation::Queue(Box::new(operation))
}

fn answered(what: &str, answer: &Answer) -> Failed {
    format!("{what} is answered {answer:?}").into()
}

/// A client that pushes.
pub struct LibraryProducer {
    pipeline: Pipeline,
    waiting: VecDeque<Ticket>,
}

impl LibraryProducer {
    /// With so many pushes unconfirmed at most.
    pub fn new(client: &Client, outstanding: usize) -> LibraryProducer {
        LibraryProducer { pipeline: client.pipeline().depth(outstanding), waiting: VecDeque::new() }
    }
}

impl Producer for LibraryProducer {
    fn push(&mut self, body: &[u8; VALUE_BYTES]) -> Result<(), Failed> {
        let value = Stored::bytes(body).map_err(|failure| failure.to_string())?;
        let push = Push { queue: QUEUE.to_vec(), value, priority: 0, delay_ms: 0, ttl_ms: None, content_type: None };
        self.waiting.push_back(self.pipeline.submit(operation(QueueOperation::Push(push))));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failed> {
        self.pipeline.flush();
        Ok(())
    }

    fn confirmed(&mut self) -> Result<usize, Failed> {
        let mut count = 0;
        while self.waiting.front().is_some_and(|ticket| count == 0 || ticket.is_ready()) {
            let Some(ticket) = self.waiting.pop_front() else { break };
            match ticket.wait()? {
                (Answer::Queue(QueueAnswer::Pushed { .. }), _) => count += 1,
                (other, _) => return Err(answered("a push", &other)),
            }
        }
        Ok(count)
    }
}

/// A client that takes items.
pub struct LibraryConsumer {
    pipeline: Pipeline,
    client: Client,
    credit: usize,
    pull: Option<Ticket>,
    acks: VecDeque<(Ticket, Vec<Cycle>)>,
}

impl LibraryConsumer {
    /// With so many items at most that it has, or has asked for. A pull travels behind the acknowledgement of what came before, so at the broker
    /// nothing is held any more when it is looked at; beanstalkd's consumer sends its `reserve` behind a `delete` likewise.
    pub fn new(client: &Client, credit: usize) -> LibraryConsumer {
        let (pipeline, client) = (client.pipeline(), client.clone());
        LibraryConsumer { pipeline, client, credit, pull: None, acks: VecDeque::new() }
    }

    fn ask(&mut self) {
        if self.pull.is_none() {
            let pull = Pull { queue: QUEUE.to_vec(), limit: self.credit, lease_ms: None, wait_ms: WAIT_MS, no_ack: false };
            self.pull = Some(self.pipeline.submit(operation(QueueOperation::Pull(pull))));
        }
    }

    /// Takes the items of a pull that has its answer, and acknowledges them.
    fn answer(&mut self, pull: Ticket, taker: &mut Taker) -> Result<(), Failed> {
        let items = match pull.wait()?.0 {
            Answer::Queue(QueueAnswer::Pulled { items, .. }) => items,
            other => return Err(answered("a pull", &other)),
        };
        if items.is_empty() {
            return Ok(());
        }
        let mut cycles = Vec::with_capacity(items.len());
        for item in &items {
            // A value's document ends with its bytes; a head says their length.
            let document = item.value.document();
            let body = document.len().checked_sub(VALUE_BYTES).and_then(|head| document.get(head..)).unwrap_or_default();
            cycles.push(taker.item(body)?);
        }
        let queue = self.client.queue(QUEUE);
        let ack = match &items[..] {
            [item] => operation(QueueOperation::Ack { queue: QUEUE.to_vec(), receipt: item.receipt }),
            items => queue.ack_in_txn(&items.iter().map(|item| item.receipt).collect::<Vec<_>>()),
        };
        self.acks.push_back((self.pipeline.submit(ack), cycles));
        Ok(())
    }

    /// Takes note of acknowledgements that are confirmed; waits for the first one, if it is to.
    fn settle(&mut self, taker: &mut Taker, mut waits: bool) -> Result<(), Failed> {
        while self.acks.front().is_some_and(|(ack, _)| std::mem::take(&mut waits) || ack.is_ready()) {
            let Some((ack, cycles)) = self.acks.pop_front() else { break };
            match ack.wait()? {
                (Answer::Done | Answer::Txn { succeeded: true, .. }, _) => {
                    cycles.into_iter().for_each(|cycle| taker.done(cycle));
                }
                (other, _) => return Err(answered("an ack", &other)),
            }
        }
        Ok(())
    }
}

impl Consumer for LibraryConsumer {
    fn take(&mut self, taker: &mut Taker) -> Result<(), Failed> {
        self.ask();
        if let Some(pull) = self.pull.take_if(|pull| self.acks.is_empty() && pull.is_ready_within(LOOK) || pull.is_ready()) {
            self.answer(pull, taker)?;
            // The next one leaves with the acknowledgements.
            self.ask();
            self.pipeline.flush();
            return self.settle(taker, false);
        }
        // Whichever comes first would do; acknowledgements are never long in coming.
        self.settle(taker, true)
    }

    fn finish(&mut self) -> Result<(), Failed> {
        match self.pull.take().map(Ticket::wait).transpose()? {
            None => Ok(()),
            Some((Answer::Queue(QueueAnswer::Pulled { items, .. }), _)) if items.is_empty() => Ok(()),
            Some((other, _)) => Err(answered("the last pull", &other)),
        }
    }
}
