//! `kvbroker PROJECT`: a durable key-value broker over ZeroMQ, found by name.
//!
//! The data flow goes one way: `front_end` (ROUTER) → intake → worker (crate `kvbroker-table`) → `front_end` and `publisher`
//! (XPUB). `lifecycle` is a run from start to end, `running` knows the threads.

mod args;
mod clients;
mod failure;
mod front_end;
mod inbound;
mod inquiry;
mod lifecycle;
mod open;
mod ports;
mod process;
mod publisher;
mod ready;
mod running;
mod signals;
mod sockets;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use kvbroker::exit::Exit;
use kvbroker::{logging, version};

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help goes to stdout and is success, everything else is a usage error; a closed pipe is nobody's failure.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    let alone = args.project.as_deref();
    if args.version || alone == Some("version") {
        // A closed pipe is nobody's failure.
        let _ = writeln!(std::io::stdout(), "{}", version::text_for("kvbroker", Some(kvbroker_log::FORMAT_VERSION)));
        return Exit::Ok.into();
    }
    if alone == Some("help") {
        use clap::CommandFactory;
        let _ = args::Args::command().print_help();
        return Exit::Ok.into();
    }
    let config = match args.check() {
        Ok(config) => config,
        Err(sentence) => return end(&failure::Failure::new(Exit::Usage, sentence)),
    };
    let _logs = logging::start(config.log_format, logging::level(tracing::Level::INFO, config.quiet, config.verbose));
    let result = match config.verb {
        None => lifecycle::run(&config),
        Some(verb) => inquiry::answer(verb, &config),
    };
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => end(&failure),
    }
}

fn end(failure: &failure::Failure) -> ExitCode {
    logging::flush();
    eprintln!("kvbroker: {}", failure.sentence);
    failure.exit.into()
}
