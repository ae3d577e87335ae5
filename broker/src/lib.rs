//! `kvbroker PROJECT`: a durable key-value broker over ZeroMQ, found by name.
//!
//! A library, so that programs that need a broker for a moment can have the real one inside their process ([`Embedded`]): the examples of
//! the client library do. The program is [`main`].
//!
//! The data flow goes one way: `front_end` (ROUTER) → intake → worker (crate `kvbroker-table`) → `front_end` and `publisher`
//! (XPUB). `lifecycle` is a run from start to end, `running` knows the threads.

// One number in every `--version`; here is where both ends meet.
const _: () = assert!(kvbroker_protocol::DATA_FORMAT_VERSION == kvbroker_log::FORMAT_VERSION);

mod access;
mod args;
mod clients;
mod connections;
mod embedded;
mod failure;
mod front_end;
mod inbound;
mod lifecycle;
mod listening;
mod loading;
mod medium;
mod moved;
mod open;
mod outgoing;
mod ports;
mod process;
mod publisher;
mod ready;
mod running;
mod signals;
mod size;
mod sockets;
mod tools;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use kvbroker::exit::Exit;
use kvbroker::{logging, version};

pub use crate::embedded::{Embedded, StartError};
use crate::tools::{End, Verb};

/// The program, from its command line to its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let mut args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return help_or_usage(&error),
    };
    args.is_surely_project = std::env::args_os().any(|word| word == "--");
    let alone = args.project.as_deref();
    if args.version || alone == Some("version") {
        return print(&format!("{}\n", version::text_for("kvbroker")));
    }
    if alone == Some("help") {
        use clap::CommandFactory;
        return print(&args::Args::command().render_help().to_string());
    }
    let config = match args.check() {
        Ok(config) => config,
        Err(sentence) => return end(&failure::Failure::new(Exit::Usage, sentence)),
    };
    let verb = match config.words.as_slice() {
        [] => None,
        words => match Verb::parse(&config.project, words.to_vec()) {
            Ok(verb) => Some(verb),
            Err(error) => return help_or_usage(&error),
        },
    };
    let _logs = logging::start(config.log_format, logging::level(tracing::Level::INFO, config.quiet, config.verbose));
    match verb {
        None => lifecycle::run(&config).map_or_else(|failure| end(&failure), |()| Exit::Ok.into()),
        Some(verb) => match tools::run(&verb, &config) {
            Ok(exit) => exit.into(),
            // Whoever read stdout has what they wanted.
            Err(End::ReaderGone) => Exit::Ok.into(),
            Err(End::Failed(failure)) => end(&failure),
        },
    }
}

/// Help goes to stdout and is success, everything else is a usage error; a closed pipe is nobody's failure.
fn help_or_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
}

/// Prints an answer. A closed pipe is nobody's failure; an answer that got lost otherwise is.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            end(&failure::Failure::new(Exit::DiskFailed, format!("cannot write to stdout: {error}")))
        }
        _ => Exit::Ok.into(),
    }
}

fn end(failure: &failure::Failure) -> ExitCode {
    logging::flush();
    // Where stderr can't be written either (a log file on the full disk), the exit code still tells.
    let _ = writeln!(std::io::stderr(), "kvbroker: {}", failure.sentence);
    failure.exit.into()
}
