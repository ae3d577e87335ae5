//! What normal clients notice of hostile peers, with figures: latencies of eight clients alone and under each attack, by turns, and
//! the broker's memory.
//!
//! - The broker is the shipped program with its defaults, one for each attack. Clients, attackers and broker share the machine's processors.
//! - Each normal client has a request every 50 ms. A latency is taken from the moment at which the request was due, so that a stall counts for
//!   every request that it held up.
//! - Slices without and with the attack take turns; the first of each counts for neither. The printed percentiles are medians over slices. An
//!   attack has [`UNDER_WAY`] before its slice begins; the longest that anybody waited is taken from its first moment on.
//!
//! `cargo run --release -p kvbroker-tests --bin hostile_peers -- --help`

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kvbroker_tests::hostile::{Attack, Normal, Target, raise_descriptors};
use kvbroker_tests::{Broker, BrokerOptions};

/// Prints latencies of normal clients alone and under attack, and memory.
#[derive(Debug, Parser)]
struct Args {
    /// Slices of each kind that count
    #[arg(long, default_value_t = 5)]
    slices: usize,
    /// Length of a slice, seconds
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Between two requests of a normal client, milliseconds
    #[arg(long, default_value_t = 50)]
    pause_ms: u64,
    /// Only attacks whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// A flag for the broker; may be given again
    #[arg(long = "broker", value_name = "FLAG", allow_hyphen_values = true)]
    flags: Vec<String>,
}

/// What an attack may need to be whole.
const UNDER_WAY: Duration = Duration::from_secs(2);
const ROWS: usize = 5_000;
const MIB: f64 = 1_048_576.0;

/// Percentiles of a slice, microseconds.
#[derive(Clone, Copy)]
struct Slice {
    p50: u64,
    p99: u64,
    longest: u64,
    requests: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    raise_descriptors();
    println!(
        "| attack | done per second | p50 alone, ms | under attack | p99 alone, ms | under attack | ratio of p99 | longest alone, ms | under attack | memory idle, MiB | above idle |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for attack in Attack::ALL {
        if args.only.as_ref().is_none_or(|only| attack.name().contains(only.as_str())) {
            measure(attack, &args);
        }
    }
    ExitCode::SUCCESS
}

fn measure(attack: Attack, args: &Args) {
    let mut broker = Broker::start(BrokerOptions::default().args(&args.flags));
    let target = Target::prepare(&broker, ROWS);
    let normal = Normal::start(&target, Duration::from_millis(args.pause_ms));
    let (mut alone, mut under, mut done) = (Vec::new(), Vec::new(), 0);
    let length = Duration::from_secs(args.seconds);
    slice(&normal, length);
    broker.forget_peak();
    let idle = broker.memory().now;
    for number in 0..=args.slices {
        let without = slice(&normal, length);
        let attacker = attack.start(&target);
        let beginning = slice(&normal, UNDER_WAY);
        let mut with = slice(&normal, length);
        with.longest = with.longest.max(beginning.longest);
        // The attack of the first slice has to get under way.
        if number > 0 {
            alone.push(without);
            under.push(with);
            done += attacker.done();
        }
        attacker.stop();
        // What is left of it, such as handshakes that are being given up, is not the next slice's.
        std::thread::sleep(UNDER_WAY);
        normal.take_latencies();
    }
    let peak = broker.memory().peak;
    assert!(!normal.is_hurt(), "a normal client got a wrong answer, or none");
    let ms = |slices: &[Slice], of: fn(&Slice) -> u64| {
        let mut values: Vec<u64> = slices.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2] as f64 / 1_000.0
    };
    let (p99_alone, p99_under) = (ms(&alone, |slice| slice.p99), ms(&under, |slice| slice.p99));
    let longest = |slices: &[Slice]| slices.iter().map(|slice| slice.longest).max().unwrap_or_default() as f64 / 1_000.0;
    let least = alone.iter().chain(&under).map(|slice| slice.requests).min().unwrap_or_default();
    println!(
        "| {} | {} {} | {:.2} | {:.2} | {p99_alone:.2} | {p99_under:.2} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} |",
        attack.name(),
        done / (args.slices as u64 * (length + UNDER_WAY).as_secs()).max(1),
        attack.unit(),
        ms(&alone, |slice| slice.p50),
        ms(&under, |slice| slice.p50),
        p99_under / p99_alone,
        longest(&alone),
        longest(&under),
        idle as f64 / MIB,
        peak.saturating_sub(idle) as f64 / MIB,
    );
    eprintln!("{}: {least} requests in the shortest slice", attack.name());
    drop(normal);
    broker.stop();
}

fn slice(normal: &Normal, length: Duration) -> Slice {
    normal.take_latencies();
    std::thread::sleep(length);
    let latencies = normal.take_latencies();
    Slice {
        longest: latencies.max(),
        p50: latencies.value_at_quantile(0.5),
        p99: latencies.value_at_quantile(0.99),
        requests: latencies.len(),
    }
}
