//! The storage's life on a real disk, with figures: millions of keys loaded, a checkpoint made under load, `kill -9` in the middle
//! of one, restarts, and what all that costs in time, memory and latency.
//!
//! - The broker is the shipped program with its defaults; nothing of it is switched off.
//! - Latencies are of durable puts, one at a time per client, at a fixed rate: each is taken from the moment at which the put was due, so that a
//!   stall counts for every put that it held up and not for one.
//! - Both latencies, with and without a checkpoint running, are of one process under the same load. Whether one was running is asked of
//!   `stats` before and after each slice of the run; slices in which that changed count for neither.
//! - After each restart every key's value is read back and compared.
//!
//! `cargo run --release -p kvbroker-tests --bin storage_life -- --help`

mod load;
mod probe;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use kvbroker::paths::Dirs;
use kvbroker_protocol::StatValue;
use kvbroker_tests::{Broker, BrokerOptions, Home};

use load::Load;
use table::Table;

pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Loads keys, makes checkpoints under load, kills and restarts a broker; prints times, memory and latencies.
#[derive(Debug, Parser)]
struct Args {
    /// How many keys
    #[arg(long, default_value_t = 10_000_000)]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 64)]
    value_bytes: usize,
    /// Client threads that load
    #[arg(long, default_value_t = 2)]
    loaders: u64,
    /// Durable puts a second while latencies are taken
    #[arg(long, default_value_t = 2_000)]
    rate: u64,
    /// How long latencies are taken without a checkpoint, and at most with one, seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Where the data goes, as a new directory inside of this one [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    under: Option<PathBuf>,
    /// A flag for the broker, such as --checkpoint-after=64MiB; may be given again
    #[arg(long = "broker", value_name = "FLAG", allow_hyphen_values = true)]
    flags: Vec<String>,
}

/// How long the start of a broker may take.
const START: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("storage_life: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Table, Failed> {
    let place = match &args.under {
        Some(directory) => tempfile::Builder::new().prefix("storage-life-").tempdir_in(directory)?,
        None => tempfile::tempdir()?,
    };
    let data = place.path().join("data");
    let mut options = BrokerOptions::default().args(["--data".as_ref(), data.as_os_str()]).args(&args.flags);
    options.patience = START;
    let mut broker = Broker::start(options);
    let load = Load { keys: args.keys, value_bytes: args.value_bytes, threads: args.loaders };
    let mut table = Table::new(args, &broker);

    say("loading");
    let seconds = load.run(broker.home(), 0)?;
    table.loaded(&load, seconds, &broker);
    say("waiting for the checkpoints that this has begun");
    let client = connect(broker.home())?;
    let waited = settle(&client)?;
    table.settled(waited, &stats(&client)?, &broker);

    say("latencies without a checkpoint");
    broker.forget_peak();
    let calm = probe::run(broker.home(), args.rate, Duration::from_secs(args.seconds), false)?;
    table.memory("steady", &broker);

    say("writing until a checkpoint begins");
    broker.forget_peak();
    let before = number(&client, "checkpoints")?;
    let mut round = 1;
    while !is_running(&client)? && number(&client, "checkpoints")? == before {
        load.some(broker.home(), round)?;
        round += 1;
    }
    say("latencies while it runs");
    let busy = probe::run(broker.home(), args.rate, Duration::from_secs(args.seconds), true)?;
    table.memory("while a checkpoint runs", &broker);
    table.latencies(&calm, &busy);
    settle(&client)?;
    table.checkpoint(&stats(&client)?);

    say("kill -9 in the middle of a checkpoint");
    while !is_running(&client)? {
        load.some(broker.home(), round)?;
        round += 1;
    }
    drop(client);
    broker.kill9();
    restart(&mut broker, &mut table, "after kill -9 during a checkpoint", &load, round)?;
    broker.stop();
    restart(&mut broker, &mut table, "after a clean stop", &load, round)?;
    broker.stop();
    Ok(table)
}

fn restart(broker: &mut Broker, table: &mut Table, how: &str, load: &Load, rounds: u64) -> Result<(), Failed> {
    say(&format!("restart {how}"));
    let started = Instant::now();
    broker.restart();
    let took = started.elapsed();
    let stats = stats(&connect(broker.home())?)?;
    table.restarted(how, took, &stats, broker);
    say("reading all keys back");
    load.check(broker.home(), rounds)?;
    Ok(())
}

fn say(what: &str) {
    eprintln!("storage_life: {what}");
}

/// A client of the broker of this home.
pub(crate) fn connect(home: &Home) -> Result<Client, Failed> {
    let options = ConnectOptions::new().dirs(Dirs::under(home.path())?).catalogs(CatalogList::none()).timeout(START);
    Ok(Client::connect_with("test", options)?)
}

pub(crate) type Stats = Vec<(String, StatValue)>;

fn stats(client: &Client) -> Result<Stats, Failed> {
    Ok(client.stats()?)
}

/// A number among the stats; 0 if there is none of this name.
pub(crate) fn find(stats: &Stats, name: &str) -> u64 {
    stats.iter().find(|(found, _)| found == name).map_or(0, |(_, value)| match value {
        StatValue::Number(number) => *number,
        StatValue::Text(_) => 0,
    })
}

fn number(client: &Client, name: &str) -> Result<u64, Failed> {
    Ok(find(&stats(client)?, name))
}

/// True while a checkpoint is being made.
pub(crate) fn is_running(client: &Client) -> Result<bool, Failed> {
    let stats = stats(client)?;
    let state = stats.iter().find(|(name, _)| name == "checkpoint_state").map(|(_, value)| value);
    match state {
        Some(StatValue::Text(state)) => Ok(state == "merging" || state == "from memory"),
        _ => Err("the broker does not tell whether it makes a checkpoint".into()),
    }
}

/// Waits until no checkpoint has been running for a second.
fn settle(client: &Client) -> Result<Duration, Failed> {
    let started = Instant::now();
    let mut calm_since = Instant::now();
    while calm_since.elapsed() < Duration::from_secs(1) {
        if is_running(client)? {
            calm_since = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(started.elapsed().saturating_sub(Duration::from_secs(1)))
}
