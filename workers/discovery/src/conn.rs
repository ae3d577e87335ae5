//! One connection to the catalog: a request or an update comes in, a reply goes out.
//!
//! - Non-blocking: [`Conn::advance`] does what is possible now and says what to
//!   wait for; the server's one thread serves all connections.
//! - Every phase has a deadline and every buffer a bound, so a slow or endless
//!   client costs a file descriptor and a few KiB for a few seconds.
//! - After a reply the rest of what the client sends is read and dropped for a
//!   moment: closing with unread bytes would reset the connection and could take
//!   the reply with it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;

use crate::http::HEAD_BYTES_MAX;
use crate::update::UPDATE_BYTES_MAX;

/// How long a client may take to send its request or update (CCTools: 5 s for updates).
const READ_MS_MAX: u64 = 5_000;
/// How long it may take to read its reply.
const WRITE_MS_MAX: u64 = 30_000;
/// How long its further bytes are read and dropped after the reply.
const DRAIN_MS_MAX: u64 = 1_000;
/// Most bytes read or written for one connection before the next one's turn.
const TURN_BYTES_MAX: usize = 256 * 1024;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A query: HTTP.
    Query,
    /// An update: everything until the end of the stream.
    Update,
}

/// What a connection wants.
#[derive(Debug)]
pub enum Wants {
    /// To be polled for reading.
    Read,
    /// To be polled for writing.
    Write,
    /// Its request has grown: look at [`Conn::received`]; then reply or go on reading.
    Answer,
    /// Its update is complete: take [`Conn::received`], then close it.
    Take,
    /// To be closed.
    Close,
}

/// A reply: its head, and a body that many connections may share.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status line and header.
    pub head: Vec<u8>,
    /// The body; empty for HEAD.
    pub body: Arc<Vec<u8>>,
}

#[derive(Debug)]
enum Phase {
    Reading,
    Writing { reply: Reply, sent: usize },
    Draining,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    peer: IpAddr,
    purpose: Purpose,
    phase: Phase,
    received: Vec<u8>,
    ended: bool,
    deadline_ms: u64,
}

impl Conn {
    /// Takes a connection that was just accepted.
    ///
    /// # Errors
    /// When it can't be made non-blocking.
    pub fn new(stream: TcpStream, peer: IpAddr, purpose: Purpose, now_ms: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Conn {
            stream,
            peer,
            purpose,
            phase: Phase::Reading,
            received: Vec::new(),
            ended: false,
            deadline_ms: now_ms + READ_MS_MAX,
        })
    }

    /// The socket, for poll.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Who is at the other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// What came so far.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// True when the client will send nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// When its time is over.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// True while the client still has the floor: such connections go first when
    /// there are too many.
    pub fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Reading)
    }

    /// What it is to be polled for.
    pub fn wants_to_write(&self) -> bool {
        matches!(self.phase, Phase::Writing { .. })
    }

    /// Starts the reply.
    pub fn reply(&mut self, reply: Reply, now_ms: u64) {
        self.phase = Phase::Writing { reply, sent: 0 };
        self.deadline_ms = now_ms + WRITE_MS_MAX;
    }

    /// Its time is over: an update that came without its end still counts, as in CCTools.
    pub fn expire(&self) -> Wants {
        match (&self.phase, self.purpose) {
            (Phase::Reading, Purpose::Update) if !self.received.is_empty() => Wants::Take,
            _ => Wants::Close,
        }
    }

    /// Does what can be done without waiting.
    pub fn advance(&mut self, now_ms: u64) -> Wants {
        let result = match &mut self.phase {
            Phase::Reading => self.read(),
            Phase::Writing { .. } => self.write(now_ms),
            Phase::Draining => self.drain(),
        };
        result.unwrap_or(Wants::Close)
    }

    fn read(&mut self) -> io::Result<Wants> {
        let bytes_max = match self.purpose {
            Purpose::Query => HEAD_BYTES_MAX,
            // One more than allowed, so that "too long" is seen and not "cut".
            Purpose::Update => UPDATE_BYTES_MAX + 1,
        };
        let mut chunk = [0; 4096];
        let mut has_line = false;
        for _ in 0..TURN_BYTES_MAX / chunk.len() {
            let room = chunk.len().min(bytes_max - self.received.len());
            let read = match chunk.get_mut(..room).map(|chunk| self.stream.read(chunk)) {
                Some(Ok(read)) => read,
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Some(Err(error)) => return Err(error),
                None => break,
            };
            let new = chunk.get(..read).unwrap_or_default();
            has_line |= new.contains(&b'\n');
            self.received.extend_from_slice(new);
            self.ended |= read == 0;
            let is_full = self.received.len() == bytes_max;
            match self.purpose {
                Purpose::Update if read == 0 || is_full => return Ok(Wants::Take),
                Purpose::Query if self.received.is_empty() => return Ok(Wants::Close),
                Purpose::Query if read == 0 || is_full => return Ok(Wants::Answer),
                Purpose::Query | Purpose::Update => {}
            }
        }
        // A head ends with a line: no need to look at it before one has come.
        Ok(if self.purpose == Purpose::Query && has_line { Wants::Answer } else { Wants::Read })
    }

    fn write(&mut self, now_ms: u64) -> io::Result<Wants> {
        let Phase::Writing { reply, sent } = &mut self.phase else {
            return Ok(Wants::Close);
        };
        let mut turn = 0;
        while turn < TURN_BYTES_MAX {
            let rest = match reply.head.get(*sent..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => reply.body.get(*sent - reply.head.len()..).unwrap_or_default(),
            };
            if rest.is_empty() {
                self.stream.shutdown(Shutdown::Write)?;
                self.phase = Phase::Draining;
                self.deadline_ms = now_ms + DRAIN_MS_MAX;
                return self.drain();
            }
            match self.stream.write(rest) {
                Ok(0) => return Ok(Wants::Close),
                Ok(written) => {
                    *sent += written;
                    turn += written;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Wants::Write)
    }

    fn drain(&mut self) -> io::Result<Wants> {
        let mut chunk = [0; 4096];
        for _ in 0..TURN_BYTES_MAX / chunk.len() {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Wants::Close),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Wants::Read)
    }
}
