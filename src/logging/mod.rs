//! Logs: one line per event on stderr, written by a thread of its own.
//!
//! Text:  `2026-11-21T09:53:24.123456Z WARN  publisher: a sentence field=value`
//! JSON:  `{"time":"…","level":"warn","component":"publisher","message":"a sentence","field":…}`
//!
//! The component is the last part of the event's target, which is the module
//! path unless the event names another one.
//!
//! - A thread that logs never waits: lines go through a bounded queue, and when
//!   stderr is blocked they are dropped and counted. The count is reported in
//!   their place as soon as stderr takes lines again.
//! - One event is one line: line feeds and control characters in a sentence or a
//!   field are escaped, so that nothing a client sends can forge a line.
//! - Lines are cut at 8 KiB.
//! - Panics are logged the same way, so that a blocked stderr can't keep a dying
//!   process alive.
//! - Other crates' events appear from WARN on, whatever the verbosity.
//!
//! Values, keys of the table as far as they are secret, and secret keys don't
//! belong in events: that is up to whoever writes them.

mod format;
mod repeat;
mod writer;

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use format::LineLayer;
pub use repeat::Repeated;
use writer::LineWriter;

/// How long the end of a program waits for lines that stderr doesn't take.
const FLUSH_MS: u64 = 1_000;

/// The targets of all our libraries and programs start so.
const OUR_TARGETS: &str = "kv";

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// `--log-format` with another word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log format is text or json")]
pub struct UnknownLogFormat;

/// The level for `-q`, nothing, `-v` (a line per connection and batch: DEBUG) and
/// `-vv` (a line per request: TRACE), where `usual` is the level without flags:
/// INFO for programs that stay, WARN for those that answer and end.
#[must_use]
pub fn level(usual: Level, quiet: bool, verbose: u8) -> LevelFilter {
    match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::from_level(usual),
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    }
}

static WRITER: OnceLock<LineWriter> = OnceLock::new();

/// Flushes when dropped: keep it until the end of `main`.
#[must_use = "dropping it at once would flush before anything is logged"]
#[derive(Debug)]
pub struct LogGuard(());

impl Drop for LogGuard {
    fn drop(&mut self) {
        flush();
    }
}

/// Sets up logging to stderr for the whole process, panics included. Later calls change nothing.
pub fn start(format: LogFormat, level: LevelFilter) -> LogGuard {
    let writer = WRITER.get_or_init(|| LineWriter::start(format, std::io::stderr()));
    let subscriber = Registry::default().with(layer(format, level, writer.clone()));
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            let text = crate::critical::panic_text(panic.payload());
            let place = panic.location().map(ToString::to_string);
            tracing::error!(
                target: "kvbroker::panic",
                thread = thread.name().unwrap_or("unnamed"),
                place = place.as_deref().unwrap_or("unknown"),
                "{text}",
            );
        }));
    }
    LogGuard(())
}

/// Waits until what was logged before is written, at most a second.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush(Duration::from_millis(FLUSH_MS));
    }
}

fn layer<S>(format: LogFormat, level: LevelFilter, writer: LineWriter) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(OUR_TARGETS, level);
    LineLayer::new(format, writer).with_filter(filter)
}

/// Where lines go: what `writer` needs of stderr, and a test's stand-in.
trait Sink: Write + Send + 'static {}

impl<W: Write + Send + 'static> Sink for W {}

#[cfg(test)]
mod tests;
