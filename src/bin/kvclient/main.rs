//! `kvclient PROJECT VERB …`: the table of a broker that is found by name.
//!
//! - Results go to stdout, everything else to stderr; the exit code says what happened.
//! - A reader of stdout that goes away has what it wanted: success.
//! - Ctrl-C ends with 130, at once or after what must not be left in the middle, and names a mutation whose outcome is not known then.

mod args;
mod ask;
mod batch;
mod convert;
mod convert_args;
mod convert_run;
mod del_prefix;
mod events;
mod fate;
mod history;
mod id;
mod interrupt;
mod list;
mod mirror;
mod output;
mod queue;
mod queue_args;
mod queue_exec;
mod queue_track;
mod routing;
mod routing_args;
mod subscribe;
mod subscribe_args;
mod users;
mod values;
mod verb_args;
mod verb_parts;
mod verbs;
mod wait;
mod watch;
mod watch_args;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use kvbroker::client::{Client, ClientError};
use kvbroker::exit::Exit;
use tracing::Level;

use args::{Global, Invocation, Misuse};

/// The client in use, for whoever ends the program meanwhile.
static CLIENT: OnceLock<Arc<Client>> = OnceLock::new();

/// Why the program ends without a result.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The broker, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The command line, or what came in.
    #[error("{}", .0.sentence)]
    Misuse(Misuse),
    /// Stdout.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
    /// A command that was run for an event, and where to go on.
    #[error("{0}")]
    Command(String),
    /// A file that is to be kept.
    #[error("{0}")]
    File(String),
    /// Stdout, after something was changed: asking again would change it once more.
    #[error("done at revision {revision}, but the result could not be written: {source}")]
    DoneUnwritten {
        /// The last revision that is known to be done.
        revision: u64,
        /// Why.
        source: io::Error,
    },
}

impl Trouble {
    fn misuse(sentence: impl Into<String>) -> Self {
        Trouble::Misuse(Misuse { sentence: sentence.into(), hint: None })
    }

    /// That stdout failed, after a change at `done_at` if there was one.
    fn output_after(done_at: Option<u64>, source: io::Error) -> Self {
        match done_at {
            Some(revision) => Trouble::DoneUnwritten { revision, source },
            None => Trouble::Output(source),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Trouble::Client(error) => error.exit(),
            Trouble::Misuse(_) | Trouble::File(_) => Exit::Usage,
            Trouble::Command(_) => Exit::NotFound,
            Trouble::Output(source) | Trouble::DoneUnwritten { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => {
                Exit::Ok
            }
            // No number is published for a full disk behind stdout; it is no outcome of the broker's.
            Trouble::Output(_) | Trouble::DoneUnwritten { .. } => Exit::Usage,
        }
    }
}

fn main() -> ExitCode {
    let invocation = match args::parse(std::env::args_os().collect()) {
        Ok(invocation) => invocation,
        Err(misuse) => {
            complain(&misuse.sentence, misuse.hint.as_deref());
            return Exit::Usage.into();
        }
    };
    match invocation {
        Invocation::Print(text) => match print(&text) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                complain(&Trouble::Output(error).to_string(), None);
                Exit::Usage.into()
            }
            _ => Exit::Ok.into(),
        },
        Invocation::Id(global) => {
            prepare(&global);
            ended(id::run(&global), &global)
        }
        Invocation::List(global) => {
            prepare(&global);
            ended(list::run(&global), &global)
        }
        Invocation::Use { target, verb, global } => {
            prepare(&global);
            ended(verbs::run(&target, *verb, &global), &global)
        }
    }
}

/// Before anything is contacted or any secret read.
fn prepare(global: &Global) {
    // Where the kernel refuses, there is nothing that a client could do better.
    let _ = kvbroker::keys::keep_secrets_out_of_core_files();
    if global.verbose > 0 {
        let level = kvbroker::logging::level(Level::WARN, global.quiet, global.verbose);
        // Flushed where the program ends.
        std::mem::forget(kvbroker::logging::start(global.log_format, level));
    }
    if let Err(error) = ctrlc::set_handler(interrupt::arrived) {
        tracing::warn!(target: "kvbroker::client", %error, "Ctrl-C can't be handled");
    }
}

/// Says what there is to say and gives the exit code.
fn ended(result: Result<Exit, Trouble>, global: &Global) -> ExitCode {
    let exit = result.unwrap_or_else(|trouble| {
        let exit = trouble.exit();
        if exit != Exit::Ok {
            tell(&trouble, global);
        }
        exit
    });
    if let Some(client) = CLIENT.get() {
        // The broker need not remember a session that is over.
        client.close();
    }
    kvbroker::logging::flush();
    exit.into()
}

fn tell(trouble: &Trouble, global: &Global) {
    // With --json stdout has its one value in any case; that nobody reads it is no error.
    let in_place = |text: String| {
        if global.json {
            let _ = print(&format!("{text}\n"));
        }
    };
    let hint = match trouble {
        Trouble::Client(error) => {
            in_place(output::error_json(error));
            match error {
                ClientError::Broken(_) => Some("`watch … --snapshot` begins with the keys as they are".into()),
                _ => error.hint(),
            }
        }
        Trouble::Misuse(misuse) => {
            in_place(output::invalid_json(&misuse.sentence));
            misuse.hint.clone()
        }
        Trouble::Output(_) | Trouble::DoneUnwritten { .. } | Trouble::Command(_) | Trouble::File(_) => None,
    };
    complain(&trouble.to_string(), hint.as_deref());
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// A sentence on stderr, and what to do about it. That nobody reads it is no error.
fn complain(sentence: &str, hint: Option<&str>) {
    let mut text = format!("kvclient: {sentence}\n");
    if let Some(hint) = hint {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A remark on stderr while things go on.
fn remark(global: &Global, sentence: &str) {
    if !global.quiet {
        complain(sentence, None);
    }
}
