//! SET and GET in RESP2, pipelined: what is asked for leaves in one write, what has come is read in one.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};

use super::{Ask, Kind, Lane};
use crate::Failed;
use crate::payload::{self, KEY_BYTES, VALUE_BYTES};

const READ_BYTES: usize = 64 << 10;
const OK: &[u8] = b"+OK\r\n";

/// One connection.
pub struct Resp<S> {
    stream: S,
    out: Vec<u8>,
    /// What was read; of it `from..to` is not taken yet.
    input: Box<[u8]>,
    from: usize,
    to: usize,
    waiting: VecDeque<(Kind, u32)>,
}

impl<S: Read + Write + Send> Resp<S> {
    /// With a stream that is connected.
    pub fn new(stream: S) -> Resp<S> {
        let input = vec![0; READ_BYTES].into_boxed_slice();
        Resp { stream, out: Vec::new(), input, from: 0, to: 0, waiting: VecDeque::new() }
    }

    fn read(&mut self) -> Result<(), Failed> {
        self.input.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        loop {
            match self.stream.read(&mut self.input[self.to..]) {
                Ok(0) => return Err("the server has closed the connection".into()),
                Ok(read) => {
                    self.to += read;
                    return Ok(());
                }
                // A wait with a timeout is not taken up again after a signal, even one that nobody handles.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("no answer came: {error}").into()),
            }
        }
    }
}

/// Bytes of the first answer, if it is here as a whole. It must be the good one.
fn answer(input: &[u8], kind: Kind, key: u32) -> Result<Option<usize>, Failed> {
    const VALUE_HEAD: &[u8] = b"$64\r\n";
    const _: () = assert!(VALUE_BYTES == 64);
    let (length, is_right) = match kind {
        Kind::Put => (OK.len(), input.starts_with(OK)),
        Kind::Get => {
            let value = VALUE_HEAD.len()..VALUE_HEAD.len() + VALUE_BYTES;
            let is_right =
                input.starts_with(VALUE_HEAD) && input.get(value).is_some_and(|value| payload::is_value_of(key, value));
            (VALUE_HEAD.len() + VALUE_BYTES + 2, is_right)
        }
    };
    let wrong = || format!("a {kind:?} is answered {:?}", String::from_utf8_lossy(&input[..input.len().min(200)]));
    match input.first() {
        Some(b'-') => Err(wrong().into()),
        _ if input.len() < length => Ok(None),
        _ if is_right => Ok(Some(length)),
        _ => Err(wrong().into()),
    }
}

impl<S: Read + Write + Send> Lane for Resp<S> {
    fn ask(&mut self, ask: Ask) -> Result<(), Failed> {
        const _: () = assert!(KEY_BYTES == 15 && VALUE_BYTES == 64);
        match ask.kind {
            Kind::Put => {
                self.out.extend(b"*3\r\n$3\r\nSET\r\n$15\r\n");
                self.out.extend(payload::key(ask.key));
                self.out.extend(b"\r\n$64\r\n");
                self.out.extend(payload::value(ask.key, ask.stamp));
            }
            Kind::Get => {
                self.out.extend(b"*2\r\n$3\r\nGET\r\n$15\r\n");
                self.out.extend(payload::key(ask.key));
            }
        }
        self.out.extend(b"\r\n");
        self.waiting.push_back((ask.kind, ask.key));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failed> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out)?;
            self.stream.flush()?;
            self.out.clear();
        }
        Ok(())
    }

    fn take(&mut self) -> Result<usize, Failed> {
        let mut taken = 0;
        while let Some(&(kind, key)) = self.waiting.front() {
            match answer(&self.input[self.from..self.to], kind, key)? {
                Some(length) => {
                    self.from += length;
                    self.waiting.pop_front();
                    taken += 1;
                }
                None if taken > 0 => break,
                None => self.read()?,
            }
        }
        Ok(taken)
    }
}
