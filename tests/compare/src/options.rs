//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::Failed;
use crate::servers::{EchoArgs, FloorArgs};

/// Measures kvbroker beside other products, and beside what libzmq and the disk allow, by turns on this machine; prints Markdown.
///
/// `tests/report/compare` installs the peers, builds and runs it.
#[derive(Debug, Parser)]
#[command(name = "compare", max_term_width = 120)]
pub struct Options {
    /// Another thing to do
    #[command(subcommand)]
    pub word: Option<Word>,
    /// Only rows whose names are among these, or begin with one of these and a hyphen
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Rounds of each row; odd, so that there is a median
    #[arg(long, default_value_t = 5, value_parser = odd)]
    pub rounds: usize,
    /// Length of one side's turn, seconds
    #[arg(long, default_value = "1.5", value_parser = seconds)]
    pub seconds: Duration,
    /// Keys of the table, loaded before
    #[arg(long, default_value_t = 100_000)]
    pub keys: u32,
    /// The largest table has 10 million keys instead of 2: a minute more
    #[arg(long)]
    pub large: bool,
    /// The directory of the program kvbroker [default: that of this program]
    #[arg(long, value_name = "DIR")]
    pub bin: Option<PathBuf>,
    /// The directory of another build of kvbroker, which takes the peer's place with the same generator
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,
    /// A flag for kvbroker; may be given again
    #[arg(long = "broker", value_name = "FLAG", allow_hyphen_values = true)]
    pub flags: Vec<String>,
    /// Valkey's server
    #[arg(long, value_name = "PROGRAM")]
    pub valkey: Option<PathBuf>,
    /// etcd's server
    #[arg(long, value_name = "PROGRAM")]
    pub etcd: Option<PathBuf>,
    /// NATS' server
    #[arg(long, value_name = "PROGRAM")]
    pub nats: Option<PathBuf>,
    /// beanstalkd
    #[arg(long, value_name = "PROGRAM")]
    pub beanstalkd: Option<PathBuf>,
    /// RabbitMQ's script rabbitmq-server, of its own directory (not that of the service)
    #[arg(long, value_name = "PROGRAM")]
    pub rabbitmq: Option<PathBuf>,
    /// The directory of Erlang's programs for it, if they are not in the path
    #[arg(long, value_name = "DIR")]
    pub erlang: Option<PathBuf>,
    /// Where everything that was measured is kept, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Names the rows and ends
    #[arg(long)]
    pub list: bool,
}

/// What else this program does.
#[derive(Debug, Subcommand)]
pub enum Word {
    /// Answers every message at once (one of the things that are measured)
    #[command(hide = true)]
    Echo(EchoArgs),
    /// Does the least that a broker has to do for a put (another one)
    #[command(hide = true)]
    Floor(FloorArgs),
}

fn odd(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "a number is wanted")?;
    if number.is_multiple_of(2) { Err("an odd number is wanted".to_owned()) } else { Ok(number) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|time| !time.is_zero()).ok_or_else(|| "seconds are wanted".to_owned())
}

impl Options {
    /// True if a row of this name is to be measured.
    pub fn wants(&self, row: &str) -> bool {
        let begins = |word: &String| row.strip_prefix(word.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        self.only.is_empty() || self.only.iter().any(begins)
    }

    /// Keys of the largest table.
    pub fn huge_keys(&self) -> u32 {
        if self.large { 10_000_000 } else { 2_000_000 }
    }

    /// The broker's program, if it is not the one beside this program.
    pub fn broker(&self) -> Option<PathBuf> {
        self.bin.as_ref().map(|directory| directory.join("kvbroker"))
    }

    /// Valkey's server.
    pub fn valkey(&self) -> Result<&Path, Failed> {
        peer(self.valkey.as_ref(), "valkey")
    }

    /// etcd's.
    pub fn etcd(&self) -> Result<&Path, Failed> {
        peer(self.etcd.as_ref(), "etcd")
    }

    /// NATS'.
    pub fn nats(&self) -> Result<&Path, Failed> {
        peer(self.nats.as_ref(), "nats")
    }

    /// beanstalkd.
    pub fn beanstalkd(&self) -> Result<&Path, Failed> {
        peer(self.beanstalkd.as_ref(), "beanstalkd")
    }

    /// RabbitMQ's.
    pub fn rabbitmq(&self) -> Result<&Path, Failed> {
        peer(self.rabbitmq.as_ref(), "rabbitmq")
    }
}

fn peer<'a>(program: Option<&'a PathBuf>, flag: &str) -> Result<&'a Path, Failed> {
    let missing = || format!("its server is not named: give it with --{flag} (tests/report/compare installs it)");
    Ok(program.ok_or_else(missing)?)
}
