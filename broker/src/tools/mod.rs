//! `kvbroker PROJECT VERB`: everything that is not running the broker.
//!
//! - The project is the first word, the verb the second; what follows the verb is the verb's own. `--data` may stand on either side.
//! - Results go to stdout, text or with `--json` one object a line; everything else goes to stderr.
//! - A verb that reads the data directory never makes, changes or locks it. Those that change it say so in their own module.
//! - A reader that closes the pipe has what it wanted: success.
//!
//! The work on files is `kvbroker_log::inspect`'s; here is what it looks like.

mod backup;
mod check;
mod dump;
mod inquiry;
mod json_line;
mod out;
mod place;
mod repair;
mod restore;
mod show;
mod stats;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use kvbroker::exit::Exit;
use kvbroker::project::ProjectName;

pub(crate) use out::{End, Out};
pub(crate) use place::Place;

use crate::args::Config;

/// Does something about a project's broker or its data instead of running it
#[derive(Debug, Parser)]
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs", max_term_width = 100)]
struct VerbLine {
    #[command(subcommand)]
    verb: Verb,
}

/// What to do instead of starting the broker.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print the address that finds the running broker without any lookup
    Link(inquiry::LinkArgs),
    /// Print where data, keys and sockets of the project are
    Paths(Common),
    /// Print the checkpoint and the log, readable, record by record
    Dump(dump::DumpArgs),
    /// Read and judge everything in the data directory: exit code 0, 11 or 13
    Check(check::CheckArgs),
    /// Print what is in the data directory; nothing is started
    Stats(stats::StatsArgs),
    /// Copy the data, consistently, while the broker runs or not
    Backup(backup::BackupArgs),
    /// Put the data of a backup where there is none yet; it becomes another broker's
    Restore(restore::RestoreArgs),
    /// Make damaged data usable again; says first what would be lost
    Repair(repair::RepairArgs),
}

/// Flags of every verb that is about a data directory.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Common {
    /// The data directory [default: that of the project, see `paths`]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

impl Verb {
    /// Words that are verbs: alone they are most likely a forgotten project.
    pub(crate) fn is_name(word: &str) -> bool {
        use clap::CommandFactory;
        VerbLine::command().get_subcommands().any(|verb| verb.get_name() == word)
    }

    /// Reads the words behind the project's name.
    ///
    /// # Errors
    /// Help that was asked for, or what is wrong with the words.
    pub(crate) fn parse(project: &ProjectName, words: Vec<OsString>) -> Result<Verb, clap::Error> {
        // The program's name in usage lines.
        let program = OsString::from(format!("kvbroker {project}"));
        VerbLine::try_parse_from(std::iter::once(program).chain(words)).map(|line| line.verb)
    }
}

/// Does what the verb says.
///
/// # Errors
/// [`End`]: nobody reads on, or a failure with its exit code.
pub(crate) fn run(verb: &Verb, config: &Config) -> Result<Exit, End> {
    match verb {
        Verb::Link(args) => inquiry::link(args, config),
        Verb::Paths(common) => inquiry::paths(common, config),
        Verb::Dump(args) => dump::run(args, config),
        Verb::Check(args) => check::run(args, config),
        Verb::Stats(args) => stats::run(args, config),
        Verb::Backup(args) => backup::run(args, config),
        Verb::Restore(args) => restore::run(args, config),
        Verb::Repair(args) => repair::run(args, config),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(words: &[&str]) -> Result<Verb, clap::Error> {
        Verb::parse(&"p".parse().unwrap(), words.iter().map(OsString::from).collect())
    }

    #[test]
    fn flags_stand_behind_their_verb() {
        assert!(matches!(parse(&["paths", "--data", "/x", "--json"]).unwrap(), Verb::Paths(common) if common.json));
        let error = parse(&["stats", "--bogus"]).unwrap_err().to_string();
        assert!(error.contains("Usage: kvbroker p stats"), "{error}");
        let error = parse(&["stat"]).unwrap_err().to_string();
        assert!(error.contains("'stats'"), "{error}");
        assert!(Verb::is_name("paths") && !Verb::is_name("path"));
    }

    #[test]
    fn clap_is_satisfied() {
        use clap::CommandFactory;
        VerbLine::command().debug_assert();
    }
}
