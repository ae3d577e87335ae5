//! How fast changes reach those who watch, beside Valkey's publish and subscribe: the same values from one writer to 1, 10 and 100
//! watchers, over unix sockets, by turns.
//!
//! - Ours are puts that are on disk before anybody hears of them (the shipped program, `--sync always`), and watchers of the library, which
//!   miss nothing. Valkey's are PUBLISH and SUBSCRIBE: nothing is kept, and who is not there misses it. So it is the easier task.
//! - Both have one thread and one connection a watcher, and as many events on their way to the slowest one. A run in which a watcher misses an
//!   event, or gets one twice, fails.
//! - Two kinds of runs: as fast as it goes (events a second), and at a rate that leaves both idle most of the time (delays). Servers are
//!   started anew for each.
//!
//! `tests/report/watch` installs Valkey and runs this.

mod flight;
mod ours;
mod report;
mod valkey;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use flight::{Measured, Shape, Side, fly};
use ours::Ours;
use valkey::Valkey;

pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Measures how fast changes reach watchers, beside Valkey's publish and subscribe; prints Markdown.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// The program to compare with; without it kvbroker is compared with itself, which shows how much of a ratio is chance
    #[arg(long, value_name = "VALKEY-SERVER")]
    valkey: Option<PathBuf>,
    /// Numbers of watchers
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    watchers: Vec<usize>,
    /// Rounds; odd, so that there is a median
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Events times watchers of a run at full speed
    #[arg(long, default_value_t = 2_000_000)]
    deliveries: u64,
    /// Most events of a run at full speed
    #[arg(long, default_value_t = 200_000)]
    events_max: u64,
    /// Events that may be on their way to the slowest watcher
    #[arg(long, default_value_t = 1_024)]
    window: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 64)]
    value_bytes: usize,
    /// Events a second of the runs that measure delays
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Length of the runs that measure delays, seconds
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// A flag for the broker; may be given again
    #[arg(long = "broker", value_name = "FLAG", allow_hyphen_values = true)]
    flags: Vec<String>,
}

/// The two kinds of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Full,
    Paced,
}

/// What came of one shape: for each round ours and Valkey's.
pub(crate) struct Row {
    pub(crate) watchers: usize,
    pub(crate) kind: Kind,
    pub(crate) rounds: Vec<[Measured; 2]>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("watch_bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<String, Failed> {
    if args.rounds.is_multiple_of(2) || args.value_bytes < flight::VALUE_BYTES_MIN {
        return Err(format!("--rounds is odd, and a value has at least {} bytes", flight::VALUE_BYTES_MIN).into());
    }
    let load_before = report::load();
    let mut names = [String::new(), String::new()];
    let mut rows: Vec<Row> = Vec::new();
    for &watchers in &args.watchers {
        for kind in [Kind::Full, Kind::Paced] {
            rows.push(Row { watchers, kind, rounds: Vec::new() });
        }
    }
    for round in 0..args.rounds {
        for row in &mut rows {
            let (events, rate) = match row.kind {
                Kind::Full => ((args.deliveries / row.watchers as u64).clamp(args.window, args.events_max), None),
                Kind::Paced => (args.rate * args.seconds, Some(args.rate)),
            };
            let shape = Shape { watchers: row.watchers, events, value_bytes: args.value_bytes, window: args.window, rate };
            eprintln!("round {} of {}: {} watchers, {:?}", round + 1, args.rounds, row.watchers, row.kind);
            // Who comes first changes with each round.
            let mut results = [None, None];
            for at in [round % 2, 1 - round % 2] {
                let side: Box<dyn Side> = match &args.valkey {
                    Some(valkey) if at == 1 => Box::new(Valkey::start(valkey)?),
                    _ => Box::new(Ours::start(&args.flags)?),
                };
                names[at] = side.name();
                results[at] = Some(fly(&*side, shape).map_err(|error| format!("{}: {error}", side.name()))?);
                drop(side);
            }
            let [Some(ours), Some(theirs)] = results else { return Err("a side was left out".into()) };
            row.rounds.push([ours, theirs]);
        }
    }
    Ok(report::text(args, &names, &rows, load_before))
}
