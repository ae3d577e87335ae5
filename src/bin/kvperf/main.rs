//! `kvperf PROJECT`: how many operations per second, and how long each takes.
//!
//! One process coordinates (`run`, `fleet`), the others are clients (`client`), each this same program. What they measure is made
//! and checked in `stages` over the keys of `keyspace`; figures come from `measure`, and `report` prints them.
//! `lab` is `kvperf report`: it starts brokers and this program, and writes the lab report with the `plots`.

mod args;
mod audit;
mod beside;
mod clean;
mod client;
mod distribution;
mod drawings;
mod facts;
mod fleet;
mod interrupt;
mod keyspace;
mod lab;
mod loops;
mod measure;
mod memory;
mod mixes;
mod observer;
mod orders;
mod outliers;
mod plots;
mod progress;
mod recorder;
mod report;
mod result;
mod run;
mod stages;
mod sweep;
mod timeline;
mod trouble;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use kvbroker::exit::Exit;
use kvbroker::version;

use run::RunError;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == lab::guard::WORD) {
        return lab::guard::run(words);
    }
    let words = match args::Words::try_parse() {
        Ok(words) => words,
        Err(error) => {
            // Help goes to stdout and is success, everything else is a usage error; a closed pipe is nobody's failure.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    if words.as_client {
        return client::run();
    }
    if let Some(args::Apart::Report(words)) = &words.apart {
        return lab::run(words);
    }
    let alone = words.project.as_deref();
    if words.version || alone == Some("version") {
        let _ = writeln!(io::stdout(), "{}", version::text_for("kvperf"));
        return Exit::Ok.into();
    }
    if alone == Some("help") {
        let _ = args::Words::command().print_help();
        return Exit::Ok.into();
    }
    let config = match words.check() {
        Ok(config) => config,
        Err(sentence) => return end(Exit::Usage.code(), &sentence, Some("kvperf --help shows examples")),
    };
    // Where the kernel refuses, there is nothing that a client could do better.
    let _ = kvbroker::keys::keep_secrets_out_of_core_files();
    match run::run(&config) {
        Ok(()) => Exit::Ok.into(),
        Err(RunError::Trouble(trouble)) => end(trouble.code, &trouble.sentence, trouble.hint.as_deref()),
        // Whoever reads `| head` has what they wanted.
        Err(RunError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error @ (RunError::Output(_) | RunError::Drawing(_))) => end(Exit::Usage.code(), &error.to_string(), None),
    }
}

fn end(code: u8, sentence: &str, hint: Option<&str>) -> ExitCode {
    let hint = hint.map_or(String::new(), |hint| format!("  hint: {hint}\n"));
    say(&format!("kvperf: {sentence}\n{hint}"));
    code.into()
}

/// Writes to stderr. That nobody reads it, as after a terminal was closed, is no error.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
