//! JetStream as a work queue: a stream whose messages go when they are acknowledged, and one durable consumer that all who take share.
//!
//! - A push is a message that the stream acknowledges. Items are asked for by pull requests of so many messages; the next one is sent when half of
//!   the credit is free, as the project's own clients do.
//! - An item is acknowledged with an inbox of its own, so that the server confirms that it has taken note (its clients' "double ack"). Whether that
//!   is on disk then, is the server's affair.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;

use serde_json::json;

use super::nats::{Said, Wire, inbox, number_of};
use super::queue::{Consumer, Cycle, LOOK, Producer, Taker};
use crate::Failed;
use crate::payload::VALUE_BYTES;

const STREAM: &str = "WORK";
const CONSUMER: &str = "all";
/// More than any load has on its way.
const UNACKNOWLEDGED_MAX: u32 = 100_000;
/// Where the answers of pull requests go: behind the inbox, and no number.
const ITEMS: &str = "items";

/// One connection; it pushes or takes.
pub struct WorkQueue {
    wire: Wire<TcpStream>,
    out: Vec<u8>,
    inbox: String,
    number: u64,
    credit: usize,
    /// Items that were asked for and have not come.
    asked: usize,
    acks: HashMap<u64, Cycle>,
}

impl WorkQueue {
    /// With a stream that is connected and has said its `INFO`.
    pub fn new(stream: TcpStream, credit: usize) -> Result<WorkQueue, Failed> {
        let inbox = inbox();
        let wire = Wire::connect(stream, &format!("{inbox}*"))?;
        Ok(WorkQueue { wire, out: Vec::new(), inbox, number: 0, credit, asked: 0, acks: HashMap::new() })
    }

    /// The same, to take items: it waits a moment at most.
    pub fn taking(stream: TcpStream, credit: usize) -> Result<WorkQueue, Failed> {
        let queue = WorkQueue::new(stream, credit)?;
        queue.wire.stream.set_read_timeout(Some(LOOK))?;
        Ok(queue)
    }

    /// Makes the stream and its consumer.
    pub fn make(&mut self) -> Result<(), Failed> {
        let inbox = format!("{}0", self.inbox);
        let stream = json!({
            "name": STREAM, "subjects": ["work"], "storage": "file", "num_replicas": 1, "retention": "workqueue", "discard": "old",
        });
        self.wire.ask(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &inbox, &stream)?;
        let consumer = json!({"stream_name": STREAM, "config": {
            "durable_name": CONSUMER, "deliver_policy": "all", "ack_policy": "explicit", "ack_wait": 120_000_000_000_u64,
            "max_ack_pending": UNACKNOWLEDGED_MAX, "max_waiting": 8_192, "replay_policy": "instant",
        }});
        self.wire.ask(&format!("$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{CONSUMER}"), &inbox, &consumer)
    }

    fn send(&mut self) -> Result<(), Failed> {
        self.wire.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn ask(&mut self) -> Result<(), Failed> {
        let free = self.credit - (self.asked + self.acks.len()).min(self.credit);
        if free > 0 && free >= self.credit / 2 {
            let what = format!("{{\"batch\":{free}}}");
            write!(
                self.out,
                "PUB $JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER} {}{ITEMS} {}\r\n{what}\r\n",
                self.inbox,
                what.len()
            )?;
            self.asked += free;
        }
        Ok(())
    }

    /// Takes note of what was said to somebody who takes items.
    fn heed(&mut self, said: &Said, taker: &mut Taker) -> Result<(), Failed> {
        let here = self.wire.here();
        let [subject, reply, headers, payload] =
            [&said.subject, &said.reply, &said.headers, &said.payload].map(|part| &here[part.clone()]);
        // It has the subject under which it was pushed.
        if headers.is_empty() && reply.starts_with(b"$JS.ACK.") {
            let cycle = taker.item(payload)?;
            self.number += 1;
            self.out.extend(b"PUB ");
            self.out.extend(reply);
            write!(self.out, " {}{} 4\r\n+ACK\r\n", self.inbox, self.number)?;
            self.acks.insert(self.number, cycle);
            self.asked = self.asked.saturating_sub(1);
            return Ok(());
        }
        let ack = number_of(subject, &self.inbox).filter(|_| headers.is_empty() && payload.is_empty());
        let told = || format!("NATS says {:?}", String::from_utf8_lossy(&here[..said.payload.end]));
        taker.done(ack.and_then(|number| self.acks.remove(&number)).ok_or_else(told)?);
        Ok(())
    }
}

impl Producer for WorkQueue {
    fn push(&mut self, body: &[u8; VALUE_BYTES]) -> Result<(), Failed> {
        self.number += 1;
        write!(self.out, "PUB work {}{} {VALUE_BYTES}\r\n", self.inbox, self.number)?;
        self.out.extend(body);
        self.out.extend(b"\r\n");
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failed> {
        self.send()
    }

    fn confirmed(&mut self) -> Result<usize, Failed> {
        let mut count = 0;
        loop {
            let said = match self.wire.said_already()? {
                Some(said) => said,
                None if count > 0 => return Ok(count),
                None => self.wire.said()?,
            };
            let payload = &self.wire.here()[said.payload.clone()];
            // {"stream":"WORK", "seq":42}
            if !said.headers.is_empty() || !payload.starts_with(b"{\"stream\":\"WORK\",") {
                let whole = &self.wire.here()[..said.payload.end];
                return Err(format!("a push is answered {:?}", String::from_utf8_lossy(whole)).into());
            }
            self.wire.skip(&said);
            count += 1;
        }
    }
}

impl Consumer for WorkQueue {
    fn take(&mut self, taker: &mut Taker) -> Result<(), Failed> {
        self.ask()?;
        self.send()?;
        if !self.wire.read_within()? {
            return Ok(());
        }
        while let Some(said) = self.wire.said_already()? {
            self.heed(&said, taker)?;
            self.wire.skip(&said);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;

    use super::*;
    use crate::payload::Item;

    #[test]
    fn an_item_is_done_when_the_server_confirms_its_acknowledgement() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut theirs = listener.accept().unwrap().0;
        theirs.write_all(b"PONG\r\n").unwrap();
        let mut queue = WorkQueue::taking(ours, 2).unwrap();
        let mut taker = Taker::alone(2);
        let body = Item { producer: 0, number: 1, pushed_ns: 0 }.bytes();
        write!(theirs, "PING\r\nMSG work 1 $JS.ACK.WORK.all.1.1.1.5.0 64\r\n").unwrap();
        theirs.write_all(&body).unwrap();
        theirs.write_all(b"\r\n").unwrap();
        while queue.acks.is_empty() {
            queue.take(&mut taker).unwrap();
        }
        assert_eq!((taker.cycles(), queue.asked), (0, 1));
        write!(theirs, "MSG {}1 1 0\r\n\r\n", queue.inbox).unwrap();
        while taker.cycles() == 0 {
            queue.take(&mut taker).unwrap();
        }
        write!(theirs, "HMSG {}items 1 28 28\r\nNATS/1.0 409 Consumer Gone\r\n\r\n", queue.inbox).unwrap();
        theirs.write_all(b"\r\n").unwrap();
        let told = std::iter::repeat_with(|| queue.take(&mut taker)).find_map(Result::err).unwrap().to_string();
        assert!(told.contains("409 Consumer Gone"), "{told}");
    }
}
