//! Valkey's publish and subscribe over its unix socket, spoken by hand (RESP2, valkey.io/topics/protocol).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use kvbroker_tests::{PATIENCE, wait_until};
use tempfile::TempDir;

use crate::Failed;
use crate::flight::{Shape, Side, Watcher, Writer};

const CHANNEL: &str = "lamp";
const READ_BYTES: usize = 64 << 10;

/// A server of our own; it is killed when this is dropped.
pub(crate) struct Valkey {
    child: Child,
    version: String,
    socket: PathBuf,
    _place: TempDir,
}

impl Valkey {
    pub(crate) fn start(program: &Path) -> Result<Valkey, Failed> {
        let told = Command::new(program).arg("--version").output()?;
        let version =
            String::from_utf8_lossy(&told.stdout).split_whitespace().find_map(|word| word.strip_prefix("v=").map(str::to_owned));
        let version = version.ok_or("this is no valkey-server: it does not say its version")?;
        let place = tempfile::tempdir()?;
        let socket = place.path().join("valkey.sock");
        // Its defaults, but nothing on TCP and nothing on disk.
        let child = Command::new(program)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let valkey = Valkey { child, version, socket, _place: place };
        wait_until(PATIENCE, "valkey-server listens", || UnixStream::connect(&valkey.socket).ok());
        Ok(valkey)
    }

    fn connect(&self) -> Result<UnixStream, Failed> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

impl Drop for Valkey {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Side for Valkey {
    fn name(&self) -> String {
        format!("Valkey {}", self.version)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn watcher(&self) -> Result<Box<dyn Watcher>, Failed> {
        let mut stream = self.connect()?;
        write!(stream, "SUBSCRIBE {CHANNEL}\r\n")?;
        let mut subscriber = Subscriber { input: Input::new(stream) };
        // *3 subscribe lamp :1
        if subscriber.input.number(b'*')? != 3 || subscriber.input.bulk()? != b"subscribe" {
            return Err("valkey-server answers SUBSCRIBE with something else".into());
        }
        subscriber.input.bulk()?;
        subscriber.input.number(b':')?;
        Ok(Box::new(subscriber))
    }

    fn writer(&self, shape: Shape) -> Result<Box<dyn Writer>, Failed> {
        let stream = self.connect()?;
        let out = stream.try_clone()?;
        Ok(Box::new(Publisher {
            out,
            input: Input::new(stream),
            buffer: Vec::new(),
            missing: 0,
            window: shape.window,
            watchers: shape.watchers,
        }))
    }
}

/// What has arrived and is not read.
struct Input {
    stream: UnixStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Input {
    fn new(stream: UnixStream) -> Input {
        Input { stream, buffer: Vec::new(), at: 0 }
    }

    /// Reads more.
    fn fill(&mut self) -> Result<(), Failed> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + READ_BYTES, 0);
        let read = self.stream.read(&mut self.buffer[length..]);
        self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err("valkey-server has closed the connection".into()),
            _ => Ok(()),
        }
    }

    /// The number of a line that begins with this.
    fn number(&mut self, kind: u8) -> Result<usize, Failed> {
        loop {
            let rest = &self.buffer[self.at..];
            if let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
                let line = &rest[..end];
                let number = line.strip_prefix(&[kind]).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                let number = number.ok_or_else(|| format!("valkey-server says {:?}", String::from_utf8_lossy(line)))?;
                self.at += end + 2;
                return Ok(number);
            }
            self.fill()?;
        }
    }

    fn bulk(&mut self) -> Result<&[u8], Failed> {
        let length = self.number(b'$')?;
        while self.buffer.len() < self.at + length + 2 {
            self.fill()?;
        }
        let from = self.at;
        self.at += length + 2;
        Ok(&self.buffer[from..from + length])
    }

    fn is_empty(&self) -> bool {
        self.at == self.buffer.len()
    }
}

struct Subscriber {
    input: Input,
}

impl Watcher for Subscriber {
    fn next(&mut self, _until: Instant, each: &mut dyn FnMut(&[u8])) -> Result<(), Failed> {
        loop {
            if self.input.number(b'*')? != 3 || self.input.bulk()? != b"message" {
                return Err("valkey-server sends something else than a message".into());
            }
            self.input.bulk()?;
            each(self.input.bulk()?);
            if self.input.is_empty() {
                return Ok(());
            }
        }
    }
}

struct Publisher {
    out: UnixStream,
    input: Input,
    buffer: Vec<u8>,
    /// Answers that have not come.
    missing: u64,
    window: u64,
    watchers: usize,
}

impl Publisher {
    fn take_answer(&mut self) -> Result<(), Failed> {
        let receivers = self.input.number(b':')?;
        self.missing -= 1;
        if receivers == self.watchers {
            Ok(())
        } else {
            Err(format!("only {receivers} of {} watchers were there", self.watchers).into())
        }
    }
}

impl Writer for Publisher {
    fn send(&mut self, _key: &str, value: &[u8]) -> Result<(), Failed> {
        while self.missing >= self.window {
            self.flush()?;
            self.take_answer()?;
        }
        write!(self.buffer, "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{CHANNEL}\r\n${}\r\n", CHANNEL.len(), value.len())?;
        self.buffer.extend_from_slice(value);
        self.buffer.extend_from_slice(b"\r\n");
        self.missing += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failed> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failed> {
        while self.missing > 0 {
            self.take_answer()?;
        }
        Ok(())
    }
}
