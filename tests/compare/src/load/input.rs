//! What has arrived on a stream and was not taken yet.

use std::io::{ErrorKind, Read};

use crate::Failed;

const READ_BYTES: usize = 64 << 10;

/// A buffer that grows only if one answer is larger than it.
pub struct Input {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Input {
    /// An empty one.
    pub fn new() -> Input {
        Input { buffer: vec![0; READ_BYTES], from: 0, to: 0 }
    }

    /// What is here.
    pub fn here(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }

    /// So many bytes were taken.
    pub fn skip(&mut self, bytes: usize) {
        self.from = (self.from + bytes).min(self.to);
    }

    /// Waits until more has come.
    pub fn read(&mut self, stream: &mut impl Read) -> Result<(), Failed> {
        if self.read_within(stream)? { Ok(()) } else { Err("no answer came in time".into()) }
    }

    /// Waits until more has come, as long as the stream's timeout lets it; false: nothing came.
    pub fn read_within(&mut self, stream: &mut impl Read) -> Result<bool, Failed> {
        self.buffer.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        if self.to == self.buffer.len() {
            self.buffer.resize(self.to * 2, 0);
        }
        loop {
            match stream.read(&mut self.buffer[self.to..]) {
                Ok(0) => return Err("the server has closed the connection".into()),
                Ok(read) => {
                    self.to += read;
                    return Ok(true);
                }
                // A wait with a timeout is not taken up again after a signal, even one that nobody handles.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
                Err(error) => return Err(format!("no answer came: {error}").into()),
            }
        }
    }

    /// Waits until so many bytes are here; gives all that are.
    pub fn at_least(&mut self, stream: &mut impl Read, bytes: usize) -> Result<&[u8], Failed> {
        while self.to - self.from < bytes {
            self.read(stream)?;
        }
        Ok(self.here())
    }

    /// A line that is here already; without its end, and how many bytes to skip for it.
    pub fn line_here(&self) -> Option<(&[u8], usize)> {
        let end = self.here().windows(2).position(|pair| pair == b"\r\n")?;
        Some((&self.here()[..end], end + 2))
    }

    /// Waits for a line; gives it without its end, and how many bytes to skip for it.
    pub fn line(&mut self, stream: &mut impl Read) -> Result<(&[u8], usize), Failed> {
        loop {
            if let Some(end) = self.here().windows(2).position(|pair| pair == b"\r\n") {
                return Ok((&self.here()[..end], end + 2));
            }
            self.read(stream)?;
        }
    }
}
