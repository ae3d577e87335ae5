//! `kvperf report`: measures brokers of its own and writes what it found into the report.

use std::path::PathBuf;
use std::process::ExitCode;

use kvbroker::exit::Exit;

use crate::say;

/// Its command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Words {
    /// The report whose measured parts are written anew
    #[arg(long, value_name = "FILE", default_value = "REPORT.md")]
    output: PathBuf,
}

/// Does it.
pub(crate) fn run(words: &Words) -> ExitCode {
    say(&format!("kvperf: {} is not written yet by this version\n", words.output.display()));
    Exit::Usage.into()
}
