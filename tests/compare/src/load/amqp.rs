//! AMQP 0-9-1 (amqp-0-9-1-reference), the few methods that a queue's load needs, over TCP: one channel, publisher confirms, acknowledgements.
//!
//! - A push is a method, a header and a body in three frames. The server confirms pushes one by one or all up to a number.
//! - Items come without being asked for, as many as the prefetch allows. What has come together is acknowledged together. The server does not
//!   confirm an acknowledgement (AMQP has no such answer): a cycle has ended when it is sent.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::net::TcpStream;

use super::input::Input;
use super::queue::{Consumer, Cycle, LOOK, Producer, Taker};
use crate::Failed;
use crate::payload::VALUE_BYTES;

const QUEUE: &str = "load";
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;
/// Type, channel and length stand before a frame's content, one byte behind it.
const FRAME_HEAD: usize = 7;
const CHANNEL: u16 = 1;
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// A class and a method of it.
type Method = (u16, u16);
const START: Method = (10, 10);
const START_OK: Method = (10, 11);
const TUNE: Method = (10, 30);
const TUNE_OK: Method = (10, 31);
const OPEN: Method = (10, 40);
const OPEN_OK: Method = (10, 41);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const DECLARE: Method = (50, 10);
const DECLARE_OK: Method = (50, 11);
const QOS: Method = (60, 10);
const QOS_OK: Method = (60, 11);
const CONSUME: Method = (60, 20);
const CONSUME_OK: Method = (60, 21);
const PUBLISH: Method = (60, 40);
const DELIVER: Method = (60, 60);
const ACK: Method = (60, 80);
const CONFIRM: Method = (85, 10);
const CONFIRM_OK: Method = (85, 11);

/// The arguments of a method, in the order of its fields.
#[derive(Default)]
pub struct Arguments(Vec<u8>);

impl Arguments {
    fn u8(mut self, number: u8) -> Self {
        self.0.push(number);
        self
    }

    fn u16(mut self, number: u16) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn short(mut self, text: &str) -> Self {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self
    }

    fn long(mut self, text: &[u8]) -> Self {
        self = self.u32(text.len() as u32);
        self.0.extend(text);
        self
    }

    /// A table of texts.
    fn table(self, fields: &[(&str, &str)]) -> Self {
        let inside =
            fields.iter().fold(Arguments::default(), |inside, (name, text)| inside.short(name).u8(b'S').long(text.as_bytes()));
        self.long(&inside.0)
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, content: &[u8]) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend((content.len() as u32).to_be_bytes());
    out.extend(content);
    out.push(FRAME_END);
}

fn method(out: &mut Vec<u8>, channel: u16, (class, method): Method, arguments: &Arguments) {
    let head = Arguments::default().u16(class).u16(method);
    frame(out, METHOD, channel, &[head.0, arguments.0.clone()].concat());
}

/// A frame that has come whole: its type, where its content is, and how many bytes it has.
fn parse(here: &[u8]) -> Result<Option<(u8, std::ops::Range<usize>, usize)>, Failed> {
    let Some(([kind, _, _, length @ ..], _)) = here.split_first_chunk::<FRAME_HEAD>() else { return Ok(None) };
    let end = FRAME_HEAD + u32::from_be_bytes(*length) as usize;
    match here.get(end) {
        None => Ok(None),
        Some(&FRAME_END) => Ok(Some((*kind, FRAME_HEAD..end, end + 1))),
        Some(_) => Err("a frame without an end".into()),
    }
}

/// Takes a method's numbers off its content.
fn named(content: &[u8]) -> Result<(Method, &[u8]), Failed> {
    let (head, rest) = content.split_first_chunk::<4>().ok_or("a method without its numbers")?;
    Ok(((u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]])), rest))
}

fn other(method: Method, arguments: &[u8]) -> Failed {
    format!("the server says {method:?}: {:?}", String::from_utf8_lossy(arguments)).into()
}

/// One connection with a channel; it pushes or takes.
pub struct Amqp {
    stream: TcpStream,
    input: Input,
    out: Vec<u8>,
    /// What the server says that it is.
    version: String,
    is_persistent: bool,
    /// Of the pushes: the last number, and those that are not confirmed.
    pushed: u64,
    unconfirmed: BTreeSet<u64>,
    /// A delivery whose body has not come yet.
    delivery: Option<u64>,
    taken: VecDeque<Cycle>,
}

impl Amqp {
    /// With a stream that is connected. `is_persistent`: whether what it pushes is to be on disk.
    pub fn new(stream: TcpStream, is_persistent: bool) -> Result<Amqp, Failed> {
        let mut amqp = Amqp {
            stream,
            input: Input::new(),
            out: b"AMQP\0\0\x09\x01".to_vec(),
            version: String::new(),
            is_persistent,
            pushed: 0,
            unconfirmed: BTreeSet::new(),
            delivery: None,
            taken: VecDeque::new(),
        };
        amqp.send()?;
        let start = amqp.expect(START)?;
        amqp.version = version(&start).ok_or("the server does not say its version")?;
        let login = Arguments::default().table(&[]).short("PLAIN").long(b"\0guest\0guest").short("en_US");
        method(&mut amqp.out, 0, START_OK, &login);
        amqp.send()?;
        let tune = amqp.expect(TUNE)?;
        let limits = tune.get(..6).ok_or("a server without limits")?;
        // As it likes, without heartbeats.
        method(&mut amqp.out, 0, TUNE_OK, &Arguments([limits, &[0, 0]].concat()));
        method(&mut amqp.out, 0, OPEN, &Arguments::default().short("/").short("").u8(0));
        amqp.send()?;
        amqp.expect(OPEN_OK)?;
        amqp.call(CHANNEL_OPEN, &Arguments::default().short(""), CHANNEL_OPEN_OK)?;
        Ok(amqp)
    }

    /// The server's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Makes the queue, of this type.
    pub fn make(&mut self, queue_type: &str, is_durable: bool) -> Result<(), Failed> {
        let flags = if is_durable { 2 } else { 0 };
        let arguments = Arguments::default().u16(0).short(QUEUE).u8(flags).table(&[("x-queue-type", queue_type)]);
        self.call(DECLARE, &arguments, DECLARE_OK).map(drop)
    }

    /// Pushes are confirmed from now on.
    pub fn confirming(mut self) -> Result<Amqp, Failed> {
        self.call(CONFIRM, &Arguments::default().u8(0), CONFIRM_OK)?;
        Ok(self)
    }

    /// Items come from now on, so many at most that are not acknowledged.
    pub fn taking(mut self, credit: usize) -> Result<Amqp, Failed> {
        self.call(QOS, &Arguments::default().u32(0).u16(u16::try_from(credit)?).u8(0), QOS_OK)?;
        self.call(CONSUME, &Arguments::default().u16(0).short(QUEUE).short("").u8(0).table(&[]), CONSUME_OK)?;
        self.stream.set_read_timeout(Some(LOOK))?;
        Ok(self)
    }

    fn send(&mut self) -> Result<(), Failed> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn call(&mut self, what: Method, arguments: &Arguments, answer: Method) -> Result<Vec<u8>, Failed> {
        method(&mut self.out, CHANNEL, what, arguments);
        self.send()?;
        self.expect(answer)
    }

    /// Waits for this method; gives its arguments.
    fn expect(&mut self, wanted: Method) -> Result<Vec<u8>, Failed> {
        loop {
            if let Some((_, content, whole)) = parse(self.input.here())? {
                let (found, arguments) = named(&self.input.here()[content])?;
                if found != wanted {
                    return Err(other(found, arguments));
                }
                let arguments = arguments.to_vec();
                self.input.skip(whole);
                return Ok(arguments);
            }
            self.input.read(&mut self.stream)?;
        }
    }
}

/// Finds it among the server's properties.
fn version(start: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\x07versionS";
    let at = start.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let (length, rest) = start.get(at..)?.split_first_chunk()?;
    Some(String::from_utf8_lossy(rest.get(..u32::from_be_bytes(*length) as usize)?).into_owned())
}

/// A number and whether all before it are meant, too.
fn acknowledged(arguments: &[u8]) -> Result<(u64, bool), Failed> {
    let (tag, rest) = arguments.split_first_chunk().ok_or("an acknowledgement without a number")?;
    Ok((u64::from_be_bytes(*tag), rest.first().is_some_and(|bits| bits & 1 == 1)))
}

impl Producer for Amqp {
    fn push(&mut self, body: &[u8; VALUE_BYTES]) -> Result<(), Failed> {
        self.pushed += 1;
        self.unconfirmed.insert(self.pushed);
        method(&mut self.out, CHANNEL, PUBLISH, &Arguments::default().u16(0).short("").short(QUEUE).u8(0));
        let mode = if self.is_persistent { PERSISTENT } else { TRANSIENT };
        // The class, a weight that is always 0, the body's length; of the properties only how it is delivered.
        let header = Arguments::default().u16(PUBLISH.0).u16(0).u64(VALUE_BYTES as u64).u16(1 << 12).u8(mode);
        frame(&mut self.out, HEADER, CHANNEL, &header.0);
        frame(&mut self.out, BODY, CHANNEL, body);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failed> {
        self.send()
    }

    fn confirmed(&mut self) -> Result<usize, Failed> {
        let before = self.unconfirmed.len();
        loop {
            while let Some((_, content, whole)) = parse(self.input.here())? {
                let (found, arguments) = named(&self.input.here()[content])?;
                if found != ACK {
                    return Err(other(found, arguments));
                }
                match acknowledged(arguments)? {
                    (tag, true) => self.unconfirmed = self.unconfirmed.split_off(&(tag + 1)),
                    (tag, false) => {
                        self.unconfirmed.remove(&tag);
                    }
                }
                self.input.skip(whole);
            }
            if self.unconfirmed.len() < before {
                return Ok(before - self.unconfirmed.len());
            }
            self.input.read(&mut self.stream)?;
        }
    }
}

impl Consumer for Amqp {
    fn take(&mut self, taker: &mut Taker) -> Result<(), Failed> {
        if !self.input.read_within(&mut self.stream)? {
            return Ok(());
        }
        let mut last = None;
        while let Some((kind, content, whole)) = parse(self.input.here())? {
            let content = &self.input.here()[content];
            match kind {
                METHOD => {
                    let (found, arguments) = named(content)?;
                    // Whose it is (a short text), and its number.
                    let tag = arguments.split_first().and_then(|(length, rest)| rest.get(usize::from(*length)..));
                    let tag = tag.and_then(|rest| rest.split_first_chunk()).map(|(tag, _)| u64::from_be_bytes(*tag));
                    self.delivery = Some(tag.filter(|_| found == DELIVER).ok_or_else(|| other(found, arguments))?);
                }
                BODY => {
                    self.taken.push_back(taker.item(content)?);
                    last = Some(self.delivery.take().ok_or("a body that belongs to nothing")?);
                }
                _ => {}
            }
            self.input.skip(whole);
        }
        if let Some(tag) = last {
            method(&mut self.out, CHANNEL, ACK, &Arguments::default().u64(tag).u8(1));
            self.send()?;
            self.taken.drain(..).for_each(|cycle| taker.done(cycle));
        }
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

    fn said(stream: &mut TcpStream, what: Method, arguments: &Arguments) {
        let mut out = Vec::new();
        method(&mut out, CHANNEL, what, arguments);
        stream.write_all(&out).unwrap();
    }

    fn connected() -> (Amqp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut theirs = listener.accept().unwrap().0;
        let properties = Arguments::default().u8(0).u8(9).table(&[("product", "test"), ("version", "3.2.1")]);
        said(&mut theirs, START, &properties.long(b"PLAIN").long(b"en_US"));
        said(&mut theirs, TUNE, &Arguments::default().u16(2_047).u32(131_072).u16(60));
        said(&mut theirs, OPEN_OK, &Arguments::default().short(""));
        said(&mut theirs, CHANNEL_OPEN_OK, &Arguments::default().u32(0));
        (Amqp::new(ours, true).unwrap(), theirs)
    }

    #[test]
    fn confirmations_come_alone_or_together() {
        let (mut amqp, mut theirs) = connected();
        assert_eq!(amqp.version(), "3.2.1");
        (0..4).for_each(|_| amqp.push(&[b'x'; VALUE_BYTES]).unwrap());
        amqp.flush().unwrap();
        said(&mut theirs, ACK, &Arguments::default().u64(2).u8(0));
        assert_eq!(amqp.confirmed().unwrap(), 1);
        said(&mut theirs, ACK, &Arguments::default().u64(3).u8(1));
        assert_eq!(amqp.confirmed().unwrap(), 2);
        said(&mut theirs, (20, 40), &Arguments::default().u16(404).short("NOT_FOUND"));
        assert!(amqp.confirmed().unwrap_err().to_string().contains("NOT_FOUND"));
    }

    #[test]
    fn what_came_together_is_acknowledged_together() {
        let (amqp, mut theirs) = connected();
        said(&mut theirs, QOS_OK, &Arguments::default());
        said(&mut theirs, CONSUME_OK, &Arguments::default().short("c"));
        let mut amqp = amqp.taking(8).unwrap();
        let mut taker = Taker::alone(8);
        let mut out = Vec::new();
        for number in 1..=3 {
            method(&mut out, CHANNEL, DELIVER, &Arguments::default().short("c").u64(number).u8(0).short("").short(QUEUE));
            frame(&mut out, HEADER, CHANNEL, &[0; 14]);
            frame(&mut out, BODY, CHANNEL, &Item { producer: 0, number, pushed_ns: 0 }.bytes());
        }
        theirs.write_all(&out).unwrap();
        while taker.cycles() < 3 {
            amqp.take(&mut taker).unwrap();
        }
        drop(amqp);
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).unwrap();
        let mut ack = Vec::new();
        method(&mut ack, CHANNEL, ACK, &Arguments::default().u64(3).u8(1));
        assert!(heard.ends_with(&ack));
    }
}
