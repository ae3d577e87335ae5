//! Where a verb's results go: lines of text or of JSON on stdout.

use std::fmt::Display;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::{Duration, UNIX_EPOCH};

use kvbroker::exit::Exit;
use serde::Serialize;

use crate::failure::Failure;

/// Why a verb ends before its end.
#[derive(Debug)]
pub(crate) enum End {
    /// Whoever read stdout has closed it.
    ReaderGone,
    /// It failed.
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> End {
        End::Failed(failure)
    }
}

/// Results on stdout.
pub(crate) struct Out<W: Write = BufWriter<StdoutLock<'static>>> {
    out: W,
}

impl Out {
    /// Buffered: call [`Out::finish`] at the end.
    pub(crate) fn stdout() -> Out {
        Out { out: BufWriter::with_capacity(64 << 10, io::stdout().lock()) }
    }
}

impl<W: Write> Out<W> {
    /// A line of text.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), End> {
        writeln!(self.out, "{text}").map_err(lost)
    }

    /// A line of JSON.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub(crate) fn object(&mut self, object: &impl Serialize) -> Result<(), End> {
        serde_json::to_writer(&mut self.out, object).map_err(|error| lost(error.into()))?;
        self.out.write_all(b"\n").map_err(lost)
    }

    /// A line that is bytes already.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub(crate) fn bytes(&mut self, line: &[u8]) -> Result<(), End> {
        self.out.write_all(line).and_then(|()| self.out.write_all(b"\n")).map_err(lost)
    }

    /// Hands over what is buffered.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub(crate) fn finish(mut self) -> Result<(), End> {
        self.out.flush().map_err(lost)
    }
}

fn lost(error: io::Error) -> End {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return End::ReaderGone;
    }
    End::Failed(Failure::new(Exit::DiskFailed, format!("cannot write to stdout: {error}")))
}

/// A sentence on stderr that ends nothing.
pub(crate) fn remark(sentence: impl Display) {
    // Where stderr can't be written nobody reads it.
    let _ = writeln!(io::stderr(), "kvbroker: {sentence}");
}

/// A stamp as RFC 3339 in UTC; one beyond the year 9999, which only a broken clock makes, in milliseconds.
pub(crate) fn rfc3339(time_ms: u64) -> String {
    const YEAR_10000_MS: u64 = 253_402_300_800_000;
    if time_ms >= YEAR_10000_MS {
        return format!("{time_ms} ms");
    }
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(time_ms)).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_end_and_a_closed_pipe_is_told_from_a_full_disk() {
        let mut out = Out { out: Vec::new() };
        out.line("a").unwrap();
        out.object(&serde_json::json!({"b": 1})).unwrap();
        assert_eq!(out.out, b"a\n{\"b\":1}\n");
        assert!(matches!(lost(io::ErrorKind::BrokenPipe.into()), End::ReaderGone));
        assert!(matches!(lost(io::ErrorKind::StorageFull.into()), End::Failed(failure) if failure.exit == Exit::DiskFailed));
    }

    #[test]
    fn stamps_are_readable() {
        assert_eq!(rfc3339(1_800_000_000_123), "2027-01-15T08:00:00.123Z");
        assert_eq!(rfc3339(u64::MAX), format!("{} ms", u64::MAX));
    }
}
