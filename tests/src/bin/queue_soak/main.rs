//! Work queues for as long as it takes: producers push, consumers pull and acknowledge, and all of them and the broker are killed with -9
//! again and again. At the end everything is looked at; see `kvbroker_tests::soak` for what must hold.
//!
//! - Real processes, the shipped broker with `--sync always`, data in a real directory.
//! - Three of four items are acknowledged in the transaction that stores their result and adds to a sum: that must have happened once each. The
//!   others are acknowledged after their effect: at least once, and how many twice is told.
//! - Half of the producers push through a pipeline. The others push transactions that keep their place in a key, and are killed, too.
//! - Queues are bounded, so that there are producers at work until shortly before the end.
//! - A transient queue stands beside them. Its items may be lost by a kill of the broker, and must be then; by nothing else, and none comes back.
//! - Now and then a consumer is slower than its lease is long, and comes with acknowledgements that must be refused.
//! - Whoever is killed is replaced at once. When, is drawn: the kills are spread over the items that are done, so there are as many as were
//!   asked for, whatever the machine's speed.
//! - The exit code is 1 if anything is not as promised, or if kills hit nothing, or nobody came too late.
//!
//! `cargo run --release -p kvbroker-tests --bin queue_soak -- --help`

mod consume;
mod crew;
mod gather;
mod live;
mod produce;
mod run;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use kvbroker::catalog::CatalogList;
use kvbroker::client::{Client, ConnectOptions};
use serde::{Deserialize, Serialize};

pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Pushes items through queues while consumers, producers and the broker are killed with -9; prints Markdown.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// How many items
    #[arg(long, default_value_t = 1_000_000)]
    items: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(8..=100_000))]
    value_bytes: u64,
    /// Processes that push
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=64))]
    producers: u64,
    /// Processes that pull
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=64))]
    consumers: u64,
    /// How often a consumer is killed
    #[arg(long, default_value_t = 400)]
    consumer_kills: u64,
    /// How often a producer is killed
    #[arg(long, default_value_t = 40)]
    producer_kills: u64,
    /// How often the broker is killed and started again
    #[arg(long, default_value_t = 10)]
    broker_kills: u64,
    /// How long a consumer has an item, milliseconds
    #[arg(long, default_value_t = 2_000)]
    lease_ms: u64,
    /// Where the data goes, as a new directory inside of this one [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    under: Option<PathBuf>,
}

/// What one process of the crew does: its argument behind `work`, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Pushes.
    Produce(produce::Producing),
    /// Pulls until stdin ends.
    Consume(consume::Consuming),
}

/// Longer than all restarts together.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Nothing more is to be begun: stdin has ended.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let result = match (words.next().as_deref(), words.next()) {
        (Some("work"), Some(task)) => work(&task).map(|()| true),
        _ => run::run(&Args::parse()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("queue_soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(task: &str) -> Result<(), Failed> {
    let task = serde_json::from_str(task)?;
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        STOP.store(true, Ordering::Relaxed);
    });
    match task {
        Task::Produce(producing) => produce::run(&producing),
        Task::Consume(consuming) => consume::run(&consuming),
    }
}

pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// A client of the broker in `KVBROKER_HOME`.
fn connect() -> Result<Client, Failed> {
    let options = ConnectOptions::new().timeout(TIMEOUT).wait_for_broker(true).catalogs(CatalogList::none());
    Ok(Client::connect_with("test", options)?)
}
