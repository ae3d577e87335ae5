//! SET and GET in RESP2, pipelined: what is asked for leaves in one write, what has come is read in one.

use std::collections::VecDeque;
use std::io::{Read, Write};

use super::input::Input;
use super::{Ask, Kind, Lane};
use crate::Failed;
use crate::payload::{self, KEY_BYTES, VALUE_BYTES};

const OK: &[u8] = b"+OK\r\n";

/// One connection.
pub struct Resp<S> {
    stream: S,
    out: Vec<u8>,
    input: Input,
    waiting: VecDeque<(Kind, u32)>,
}

impl<S: Read + Write + Send> Resp<S> {
    /// With a stream that is connected.
    pub fn new(stream: S) -> Resp<S> {
        Resp { stream, out: Vec::new(), input: Input::new(), waiting: VecDeque::new() }
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
            match answer(self.input.here(), kind, key)? {
                Some(length) => {
                    self.input.skip(length);
                    self.waiting.pop_front();
                    taken += 1;
                }
                None if taken > 0 => break,
                None => self.input.read(&mut self.stream)?,
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_good_answers_are_taken() {
        assert_eq!(answer(b"+OK\r\n+OK\r\n", Kind::Put, 1).unwrap(), Some(5));
        assert_eq!(answer(b"+OK\r", Kind::Put, 1).unwrap(), None);
        assert!(answer(b"-ERR no", Kind::Put, 1).is_err());
        let good = [&b"$64\r\n"[..], &payload::value(7, 1), b"\r\n"].concat();
        assert_eq!(answer(&good, Kind::Get, 7).unwrap(), Some(71));
        assert!(answer(&good, Kind::Get, 8).is_err(), "another key's value");
        assert!(answer(format!("$-1\r\n{}", "x".repeat(80)).as_bytes(), Kind::Get, 7).is_err(), "no value");
    }
}
