//! beanstalkd's protocol (its doc/protocol.txt), over TCP: commands in lines, answered in their order.
//!
//! - Commands are sent without waiting for the answers before them. What must not happen is a `delete` behind a `reserve` that waits: the server
//!   does nothing else for a connection that waits. So a consumer asks in rounds: what it has is deleted, then one `reserve`, which may wait, and
//!   some that don't; the next round begins when all of them are answered.
//! - How many don't wait follows from how many were there the last time, so that few are answered in vain.

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;

use super::input::Input;
use super::queue::{Consumer, Cycle, LOOK, Producer, Taker};
use crate::Failed;
use crate::payload::VALUE_BYTES;

/// Seconds that a consumer has an item.
const LEASE_S: u32 = 120;

/// A connection that pushes.
pub struct BeanstalkProducer {
    stream: TcpStream,
    input: Input,
    out: Vec<u8>,
}

impl BeanstalkProducer {
    /// With a stream that is connected.
    pub fn new(stream: TcpStream) -> BeanstalkProducer {
        BeanstalkProducer { stream, input: Input::new(), out: Vec::new() }
    }
}

impl Producer for BeanstalkProducer {
    fn push(&mut self, body: &[u8; VALUE_BYTES]) -> Result<(), Failed> {
        write!(self.out, "put 0 0 {LEASE_S} {VALUE_BYTES}\r\n")?;
        self.out.extend(body);
        self.out.extend(b"\r\n");
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failed> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn confirmed(&mut self) -> Result<usize, Failed> {
        let mut count = 0;
        loop {
            let Some((line, whole)) = self.input.line_here() else {
                if count > 0 {
                    return Ok(count);
                }
                self.input.read(&mut self.stream)?;
                continue;
            };
            if !line.starts_with(b"INSERTED ") {
                return Err(said("a put", line));
            }
            self.input.skip(whole);
            count += 1;
        }
    }
}

fn said(what: &str, line: &[u8]) -> Failed {
    format!("{what} is answered {:?}", String::from_utf8_lossy(line)).into()
}

/// What was asked for and is not answered yet.
#[derive(Clone, Copy)]
enum Asked {
    /// An item, now or when there is one.
    Item,
    /// One if there is one.
    More,
    /// An item is done.
    Delete(Cycle),
}

/// A connection that takes items.
pub struct BeanstalkConsumer {
    stream: TcpStream,
    input: Input,
    out: Vec<u8>,
    credit: usize,
    asked: VecDeque<Asked>,
    /// Of the last round; they are not deleted yet, but that is written.
    taken: Vec<Cycle>,
}

impl BeanstalkConsumer {
    /// With a stream that is connected; `credit`: so many items at most that are asked for or not deleted.
    pub fn new(stream: TcpStream, credit: usize) -> Result<BeanstalkConsumer, Failed> {
        stream.set_read_timeout(Some(LOOK))?;
        let (asked, taken) = (VecDeque::new(), Vec::new());
        Ok(BeanstalkConsumer { stream, input: Input::new(), out: Vec::new(), credit, asked, taken })
    }

    fn ask(&mut self) -> Result<(), Failed> {
        let more = (2 * self.taken.len()).clamp(1, self.credit) - 1;
        self.asked.extend(self.taken.drain(..).map(Asked::Delete));
        self.asked.push_back(Asked::Item);
        self.asked.extend(std::iter::repeat_n(Asked::More, more));
        self.out.extend(b"reserve\r\n");
        (0..more).for_each(|_| self.out.extend(b"reserve-with-timeout 0\r\n"));
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Takes an answer that is here whole; false: there is none.
    fn answer(&mut self, taker: &mut Taker) -> Result<bool, Failed> {
        let Some((line, whole)) = self.input.line_here() else { return Ok(false) };
        let asked = *self.asked.front().ok_or("an answer without a question")?;
        let whole = match (asked, line) {
            (Asked::Delete(cycle), b"DELETED") => {
                taker.done(cycle);
                whole
            }
            (Asked::More, b"TIMED_OUT") => whole,
            (Asked::Item | Asked::More, line) => {
                // RESERVED id bytes
                let text = std::str::from_utf8(line).unwrap_or_default();
                let words: Vec<&str> = text.split_ascii_whitespace().collect();
                let ["RESERVED", id, bytes] = words[..] else { return Err(said("a reserve", line)) };
                let end = whole + bytes.parse::<usize>()?;
                let Some(body) = self.input.here().get(whole..end).filter(|_| self.input.here().len() >= end + 2) else {
                    return Ok(false);
                };
                self.taken.push(taker.item(body)?);
                write!(self.out, "delete {id}\r\n")?;
                end + 2
            }
            (Asked::Delete(_), line) => return Err(said("a delete", line)),
        };
        self.asked.pop_front();
        self.input.skip(whole);
        Ok(true)
    }
}

impl Consumer for BeanstalkConsumer {
    fn take(&mut self, taker: &mut Taker) -> Result<(), Failed> {
        if self.asked.is_empty() {
            self.ask()?;
        }
        if !self.input.read_within(&mut self.stream)? {
            return Ok(());
        }
        while self.answer(taker)? {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::payload::Item;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    fn heard(stream: &mut TcpStream, bytes: usize) -> String {
        let mut heard = vec![0; bytes];
        stream.read_exact(&mut heard).unwrap();
        String::from_utf8(heard).unwrap()
    }

    #[test]
    fn a_consumer_deletes_what_it_has_before_it_waits_again() {
        let (ours, mut theirs) = pair();
        let mut consumer = BeanstalkConsumer::new(ours, 4).unwrap();
        let mut taker = Taker::alone(4);
        let body = Item { producer: 0, number: 1, pushed_ns: 0 }.bytes();
        consumer.take(&mut taker).unwrap();
        assert_eq!(heard(&mut theirs, 9), "reserve\r\n");
        theirs.write_all(b"RESERVED 7 64\r\n").unwrap();
        theirs.write_all(&body).unwrap();
        consumer.take(&mut taker).unwrap();
        theirs.write_all(b"\r\n").unwrap();
        while consumer.taken.is_empty() {
            consumer.take(&mut taker).unwrap();
        }
        consumer.take(&mut taker).unwrap();
        let round = "delete 7\r\nreserve\r\nreserve-with-timeout 0\r\n";
        assert_eq!(heard(&mut theirs, round.len()), round);
        assert_eq!(taker.cycles(), 0);
        theirs.write_all(b"DELETED\r\n").unwrap();
        while taker.cycles() == 0 {
            consumer.take(&mut taker).unwrap();
        }
        theirs.write_all(b"DEADLINE_SOON\r\n").unwrap();
        let told = std::iter::repeat_with(|| consumer.take(&mut taker)).find_map(Result::err).unwrap().to_string();
        assert!(told.contains("a reserve is answered") && told.contains("DEADLINE_SOON"), "{told}");
    }

    #[test]
    fn a_producer_counts_confirmations_and_tells_failures() {
        let (ours, mut theirs) = pair();
        let mut producer = BeanstalkProducer::new(ours);
        producer.push(&[b'x'; VALUE_BYTES]).unwrap();
        producer.flush().unwrap();
        assert_eq!(heard(&mut theirs, 16 + VALUE_BYTES + 2), format!("put 0 0 120 64\r\n{}\r\n", "x".repeat(64)));
        theirs.write_all(b"INSERTED 1\r\n").unwrap();
        assert_eq!(producer.confirmed().unwrap(), 1);
        theirs.write_all(b"DRAINING\r\n").unwrap();
        assert!(producer.confirmed().unwrap_err().to_string().contains("DRAINING"));
    }
}
